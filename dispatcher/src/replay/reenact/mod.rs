//! Recorded conversations, re-enacted against other backends through the whole engine: cookie, delayed binding, dial,
//! splice, with all timers.
//!
//! * [`recording`]: the connections of a capture as scripts.
//! * [`endpoint`]: the TCP of either end of one.
//! * [`faults`]: what an end minds.
//! * [`conversation`]: both ends, and what has to happen before what.
//! * [`world`]: the engine, the networks, the hosts and the virtual clock.
//!
//! # What is and what is not as recorded
//!
//! The same: addresses and ports of clients, VLAN tags, SYN and SYN-ACK options and initial sequence numbers, the bytes of
//! both streams, their cut into segments with repetitions and in the recorded order, FIN and RST, and the times, as far as
//! the other side and the engine keep pace. By default the recorded servers' addresses are the VIPs; with `--vip` each recorded
//! server becomes the VIP that [`world::vip_for`] names.
//!
//! Not the same: acknowledgements, windows and clocks, which the ends say for themselves; and which server it is. The chosen
//! backend says what the recorded server said, also whether it resumes. So the affinity table learns that sessions
//! were issued by the backend that was chosen, and whether it was right to resume there cannot be asked: there are no verdicts in
//! this form of replay, but `decided`, `reason` and `backend` show what the engine did.
//!
//! Connections whose SYN was not recorded, that no server accepted or that carried nothing are left out and counted.

pub mod conversation;
pub mod endpoint;
pub mod faults;
mod queues;
pub mod recording;
mod report;
pub mod wire;
pub mod world;

pub use queues::Told as QueueTotals;
pub use report::{BackendTotals, Totals};

use super::page;
use super::page::reenacted::Course;
use super::warnings::{Line, NotFollowed};
use super::{ReplayOptions, progress_bar};
use crate::capture::pcapng::PcapngWriter;
use crate::capture::{Capture, CaptureError, LinkType};
use crate::engine::trail::Trail;
use crate::engine::{Config, DropReason, Engine, PortId};
use crate::explain::{Candidate, Explanation};
use crate::time::Time;
use conversation::Conversation;
use indicatif::{ProgressBar, ProgressStyle};
use lb::{Member, State};
use recording::{Reader, Recording};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wire::Ended;
use world::{BACKENDS, CLIENTS, Witness, World, vip_for};

/// Captures that are open, with their names.
pub(super) type Captures<'o> = Vec<(&'o Path, Capture)>;

/// Opens all of them, or says which one cannot be opened.
pub(super) fn open(files: &[PathBuf]) -> anyhow::Result<Captures<'_>> {
    let open = |path: &'_ PathBuf| Capture::open(path).map_err(|e| anyhow::anyhow!("{} {e}", path.display()));
    files.iter().map(|path| Ok((path.as_path(), open(path)?))).collect()
}

/// What is to be re-enacted; and why no more than that could be read, of a damaged capture.
pub(super) fn read<'c>(captures: &'c Captures<'_>) -> (Recording<'c>, Option<String>) {
    let mut reader = Reader::default();
    let mut failed = None;
    let bar = progress_bar(captures.iter().map(|(_, c)| c.as_bytes().len() as u64).sum());
    let mut before = 0;
    for (path, capture) in captures {
        let read: Result<(), CaptureError> = reader.read(capture, |at| bar.set_position((before + at) as u64));
        if let Err(error) = read {
            failed = Some(format!("{} {error}", path.display()));
            break;
        }
        before += capture.as_bytes().len();
    }
    bar.finish_and_clear();
    (reader.finish(), failed)
}

/// Re-enacts captures and writes what came of it to `out`.
///
/// What could be read of a damaged capture is re-enacted and reported, and then the error is returned.
pub fn replay(options: &ReplayOptions, out: &mut dyn Write) -> anyhow::Result<()> {
    let captures = open(&options.files)?;
    let (recording, failed) = read(&captures);
    let config = served(options.config.clone(), &recording)?;
    let page = options.report.as_deref().map(page::create).transpose()?;
    let copy = options.out.as_ref().map(|path| {
        let file = File::create(path).map_err(|e| anyhow::anyhow!("{} cannot be written: {e}", path.display()))?;
        Copy::new(file, recording.unix_nanos)
    });
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} connections, {eta} left");
    let bar = progress_bar(recording.connections.len() as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    // The world begins a little before the recording.
    let origin = UNIX_EPOCH + Duration::from_nanos(recording.unix_nanos);
    let origin = origin.checked_sub(world::LEAD).unwrap_or(UNIX_EPOCH);
    let mut teller = Teller {
        origin,
        explain: options.explain,
        explanations: Vec::new(),
        json: options.json.then_some(&mut *out),
        copy: copy.transpose()?,
        bar,
        course: page.is_some().then(Course::default),
        totals: Totals::new(&config),
    };
    let mut world = World::new(config, &recording)?;
    world.run(&mut teller)?;
    teller.bar.finish_and_clear();
    if let Some(copy) = teller.copy {
        copy.writer.finish()?;
    }
    let (mut totals, explanations) = (teller.totals, teller.explanations);
    let course = teller.course.unwrap_or_default();
    explain(out, options, &explanations)?;
    totals.finish(&world, &recording);
    page::write(page, || page::reenacted::html(&options.files, &totals, &course, failed.as_deref()))?;
    if options.json {
        totals.write_summary(out, failed.as_deref())?
    } else {
        totals.write_report(out)?
    }
    out.flush()?;
    match (failed, recording.unread.complaint()) {
        (Some(error), _) => Err(anyhow::anyhow!(error)),
        (None, Some(left_out)) => Err(left_out.into()),
        (None, None) => Ok(()),
    }
}

/// The configuration with VIPs for all that was recorded, or in one line what is missing.
pub fn served(mut config: Config, recording: &Recording<'_>) -> anyhow::Result<Config> {
    let mut servers: Vec<SocketAddr> = recording.connections.iter().map(|c| c.server).collect();
    servers.sort_unstable();
    servers.dedup();
    let vips = config.vips();
    let given = !vips.is_empty();
    for server in &servers {
        let family = if server.is_ipv4() { "IPv4" } else { "IPv6" };
        anyhow::ensure!(
            config.backends().iter().any(|b| b.addr.is_ipv4() == server.is_ipv4()),
            "connections to {server} were recorded, but there is no {family} backend"
        );
        anyhow::ensure!(
            !given || vip_for(*server, &vips).is_some(),
            "connections to {server} were recorded, but there is no {family} VIP"
        );
    }
    if !given {
        if let Some(backend) = config.backends().iter().find(|b| servers.iter().any(|s| s.ip() == b.addr.ip())) {
            anyhow::bail!(
                "backend '{}' has the address of a recorded server, which is a VIP here (--vip names another)",
                backend.name
            );
        }
        match config.wanted.services.first_mut() {
            Some(service) if !servers.is_empty() => service.listen = servers,
            // Nothing was recorded, so nobody is to be served.
            _ => config.wanted.services.clear(),
        }
    }
    // A backend of a family that was not recorded has nothing to do, and may stay.
    Ok(config)
}

struct Teller<'a> {
    json: Option<&'a mut dyn Write>,
    copy: Option<Copy>,
    bar: ProgressBar,
    totals: Totals,
    /// For the page, if one is wanted.
    course: Option<Course>,
    /// When the world began.
    origin: SystemTime,
    /// Whose connections are explained.
    explain: Option<(IpAddr, Option<u16>)>,
    explanations: Vec<Explanation>,
}

/// Explanations that are kept, at most: they stand before the report.
const EXPLANATIONS: usize = 1000;

/// The frames at the engine's two ports, written to a capture.
struct Copy {
    writer: PcapngWriter<BufWriter<File>>,
    interfaces: [u32; 2],
    unix_nanos: u64,
}

impl Copy {
    fn new(file: File, unix_nanos: u64) -> anyhow::Result<Copy> {
        let mut writer = PcapngWriter::new(BufWriter::new(file), "dispatcher replay")?;
        let interfaces =
            [writer.interface("clients", LinkType::ETHERNET)?, writer.interface("backends", LinkType::ETHERNET)?];
        Ok(Copy { writer, interfaces, unix_nanos })
    }
}

/// What there is to explain, before the report.
fn explain(out: &mut dyn Write, options: &ReplayOptions, all: &[Explanation]) -> anyhow::Result<()> {
    for explanation in all {
        if options.json {
            serde_json::to_writer(&mut *out, &serde_json::json!({ "explanation": explanation }))?;
        } else {
            out.write_all(explanation.text().as_bytes())?;
        }
        writeln!(out)?;
    }
    if let (Some((ip, _)), true, false) = (options.explain, all.is_empty(), options.json) {
        writeln!(out, "no connection of {ip} was re-enacted\n")?;
    }
    Ok(())
}

/// Members of its pool that might have had it.
fn candidates(told: &Explanation, engine: &Engine) -> Vec<Candidate> {
    let (directory, up) = (engine.directory(), engine.backends_up());
    let pool = directory.pools().find(|pool| Some(pool.name()) == told.pool.as_deref());
    let members = pool.map(|pool| pool.members()).unwrap_or_default();
    let of = |member: &Member| {
        let backend = directory.backend(member.id)?;
        let state = match backend.state {
            State::Down => "down",
            _ if !up.contains(member.id) => "down",
            State::Draining => "draining",
            State::Up => "up",
        };
        Some(Candidate { name: backend.name.clone(), state: state.to_string(), why: None, weight: member.weight })
    };
    members.iter().filter_map(of).collect()
}

impl Witness for Teller<'_> {
    fn wants_explained(&self, client: SocketAddr) -> bool {
        let meant = |(ip, port): (IpAddr, Option<u16>)| ip == client.ip() && port.is_none_or(|p| p == client.port());
        self.explain.is_some_and(meant) && self.explanations.len() < EXPLANATIONS
    }

    fn explained(&mut self, trail: &Trail, engine: &Engine) -> anyhow::Result<()> {
        let mut told = Explanation::new(0, trail, None, engine.directory(), self.origin);
        told.candidates = candidates(&told, engine);
        self.explanations.push(told);
        Ok(())
    }

    fn connection(&mut self, ended: &Ended, conversation: &Conversation<'_>) -> anyhow::Result<()> {
        let intact = conversation.intact();
        self.totals.connection(ended, intact);
        if let Some(course) = &mut self.course {
            course.connection(ended, self.origin);
        }
        let (refused, not_followed) = self.totals.warn(ended, conversation);
        if let Some(out) = &mut self.json {
            let refused = refused.map(|(name, _)| name);
            Line {
                line: ended.line(intact, self.origin),
                refused,
                not_followed: not_followed.map(NotFollowed::as_str),
            }
            .write(out)?;
        }
        Ok(())
    }

    fn frame(
        &mut self,
        port: PortId,
        _: bool,
        at: Time,
        bytes: &[u8],
        dropped: Option<DropReason>,
    ) -> anyhow::Result<()> {
        let Some(copy) = &mut self.copy else { return Ok(()) };
        debug_assert!(port == CLIENTS || port == BACKENDS);
        // The world begins a little before the recording.
        let unix_nanos = (copy.unix_nanos + at.as_nanos()).saturating_sub(world::LEAD.as_nanos() as u64);
        let note = dropped.map(|why| format!("dropped: {}", why.as_str()));
        copy.writer.frame(copy.interfaces[usize::from(port.0)], unix_nanos, bytes, note.as_deref())?;
        Ok(())
    }

    fn wants_frames(&self) -> bool {
        self.copy.is_some()
    }

    fn progress(&mut self, over: usize) {
        self.bar.set_position(over as u64);
    }
}
