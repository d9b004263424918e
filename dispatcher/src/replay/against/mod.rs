//! What a change of services, pools and backends would do to recorded traffic.
//!
//! The question is: if the recorded clients came back right after the change, who would meet another server than without it? It is answered by
//! the engine itself, in the world in which captures are re-enacted ([`super::reenact`]):
//!
//! 1. The capture is played with the present configuration, so that the affinity tables learn whose each session is.
//! 2. The change is applied ([`Engine::apply`](crate::engine::Engine::apply)).
//! 3. Every client comes again, from its address and port, with its recorded hello. As soon as a server has the hello, both ends close: nothing
//!    more is learned, so all are asked about the sessions that were known at the moment of the change.
//!
//! The same is done once more without the second step, and the two are compared connection by connection. Both worlds are the same to the
//! last bit until then, so a change that changes nothing moves nobody, whatever the balance.
//!
//! # What it does not know
//!
//! * Every server that is wanted answers, with what was recorded. One that is down at this moment is not down here.
//! * Connections come one after the other, and none stays: least connections and random-two see empty servers. With these and round robin it is
//!   chance where a client without a session goes, and another chance after a change ([`Comparison::notes`]).
//! * A session is known if a connection of the capture shows its server; TLS 1.3 by the names of ticket keys, see [`lb::affinity`].
//! * Which server answered in the capture is not known: in the re-enactment the one does that is chosen. In front of a dispatcher with the same
//!   configuration that is mostly the same one. Of another capture the tables learn that several servers open the same tickets, which is told.
//!
//! A pure function of capture and configurations. It takes as long as playing the capture twice: nothing for a worker's thread.

mod report;

use super::reenact::conversation::Conversation;
use super::reenact::recording::{Recorded, Recording, Skip};
use super::reenact::wire::Ended;
use super::reenact::world::{Witness, World};
use super::{page, progress_bar, reenact};
use crate::engine::{Config, DropReason, PortId};
use crate::time::Time;
use core::time::Duration;
use indicatif::ProgressStyle;
use lb::{Algorithm, Wanted};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Between two of those that come again. Short: rows that were known at the change shall be so to the end.
const GAP: Duration = Duration::from_millis(1);
/// Between the capture's end and the change: closed connections are forgotten by then, and their clients may use their ports again.
const REST: Duration = Duration::from_secs(20);
/// Addresses named where a capture has nothing to do with the services.
const NAMED: usize = 8;

/// A service, and a pool of it.
pub type PoolName = (String, String);

/// What became of a session that the tables knew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Session {
    /// Its client meets a server that cannot resume it.
    Lost,
    /// Its client meets another server that can resume it.
    Kept,
}

/// A connection that the change leads elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// Who opens it.
    pub client: SocketAddr,
    /// Where to.
    pub vip: SocketAddr,
    /// Service and pool: without the change, or with it where there is none without it.
    pub pool: Option<PoolName>,
    /// The server name in its hello.
    pub sni: Option<String>,
    /// The server without the change.
    pub before: Option<String>,
    /// The server with it.
    pub after: Option<String>,
    /// Of the session that it comes with; none when the tables know none.
    pub session: Option<Session>,
}

/// Connections that come again after the change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// All.
    pub connections: u64,
    /// With a session that leads to its server without the change.
    pub known: u64,
    /// That meet another server.
    pub another: u64,
    /// That meet no server, and do without the change.
    pub none: u64,
    /// That meet a server, and do not without the change.
    pub served: u64,
    /// Of the known: see [`Session::Lost`].
    pub lost: u64,
    /// Of the known: see [`Session::Kept`].
    pub kept: u64,
}

impl Tally {
    /// That meet the same server, or none either way.
    pub fn same(&self) -> u64 {
        self.connections - self.another - self.none - self.served
    }

    fn add(&mut self, before: &Met, after: &Met) -> Option<Option<Session>> {
        self.connections += 1;
        self.known += u64::from(before.known);
        let (from, to) = (before.address(), after.address());
        if from == to {
            return None;
        }
        match (from, to) {
            (Some(_), None) => self.none += 1,
            (None, _) => self.served += 1,
            _ => self.another += 1,
        }
        let session = before.known.then_some(if after.known { Session::Kept } else { Session::Lost });
        self.lost += u64::from(session == Some(Session::Lost));
        self.kept += u64::from(session == Some(Session::Kept));
        Some(session)
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// All connections to the services, before the change or after.
    pub total: Tally,
    /// By service and pool, where they are without the change.
    pub pools: BTreeMap<PoolName, Tally>,
    /// All that the change leads elsewhere, in the order of the capture.
    pub moves: Vec<Move>,
    /// Connections of the capture to addresses at which no service listens.
    pub elsewhere: u64,
    /// The first of these addresses.
    pub addresses: Vec<SocketAddr>,
    /// Connections that cannot be played, by [`Skip`].
    pub skipped: [u64; Skip::ALL.len()],
    /// What should be known to read the numbers rightly.
    pub notes: Vec<String>,
}

impl Comparison {
    /// In words, when nothing of the capture has to do with the services.
    pub fn nothing(&self) -> Option<String> {
        if self.total.connections > 0 {
            return None;
        }
        let skipped: u64 = self.skipped.iter().sum();
        Some(match (self.elsewhere, skipped) {
            (0, 0) => "there is no TCP connection in the capture".into(),
            (0, n) => format!("none of the {n} connections in the capture was recorded from its SYN to the first data"),
            (n, _) => format!(
                "none of the {n} connections in the capture is to an address at which a service listens; they are to {}{}",
                self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                if self.addresses.len() < NAMED { "" } else { ", ..." }
            ),
        })
    }
}

/// Where a connection went.
#[derive(Clone, Debug, Default)]
struct Met {
    /// Name and address: a server may have another name after a change.
    backend: Option<(String, SocketAddr)>,
    pool: Option<PoolName>,
    /// The tables led it there.
    known: bool,
    sni: Option<String>,
}

impl Met {
    fn address(&self) -> Option<SocketAddr> {
        self.backend.as_ref().map(|(_, address)| *address)
    }
}

/// Compares what recorded clients meet with `config` and what they meet after a change to `next`; `progress` hears of connections done, and of
/// how many there are. The error is one line: the change cannot be made.
///
/// Of `config` the services, pools and backends of the moment count, and what the engine is tuned by; not its ports.
pub fn compare<'c>(
    mut recording: Recording<'c>,
    config: &Config,
    next: &Wanted,
    mut progress: impl FnMut(usize, usize),
) -> anyhow::Result<Comparison> {
    let listeners = |wanted: &Wanted| wanted.listeners().into_iter().map(plain).collect::<HashSet<_>>();
    let (now, then) = (listeners(&config.wanted), listeners(next));
    let mut found = Comparison { skipped: recording.skipped, ..Comparison::default() };
    recording.connections.retain(|c| {
        let ours = now.contains(&c.server) || then.contains(&c.server);
        if !ours {
            found.elsewhere += 1;
            if found.addresses.len() < NAMED && !found.addresses.contains(&c.server) {
                found.addresses.push(c.server);
            }
        }
        ours
    });
    let again = |(i, c): (usize, &Recorded<'c>)| c.greeting(Time::ZERO + GAP * i as u32);
    let again = Recording {
        connections: recording.connections.iter().enumerate().map(again).collect(),
        mss: recording.mss,
        ..Recording::default()
    };
    recording.connections.retain(|c| now.contains(&c.server));
    recording.connections.iter_mut().for_each(Recorded::close);
    let passes = Passes { config, next, learned: &recording, again: &again, vips: now.union(&then).copied().collect() };
    let total = 2 * (recording.connections.len() + again.connections.len());
    let (before, shared) = passes.run(false, &mut |done| progress(done, total))?;
    let (after, _) = passes.run(true, &mut |done| progress(total / 2 + done, total))?;
    for ((c, before), after) in again.connections.iter().zip(&before).zip(&after) {
        let pool = before.pool.clone().or_else(|| after.pool.clone());
        let moved = found.total.add(before, after);
        if let Some(pool) = &pool {
            found.pools.entry(pool.clone()).or_default().add(before, after);
        }
        if let Some(session) = moved {
            let name = |met: &Met| met.backend.as_ref().map(|(name, _)| name.clone());
            found.moves.push(Move {
                client: c.client,
                vip: c.server,
                pool,
                sni: before.sni.clone().or_else(|| after.sni.clone()),
                before: name(before),
                after: name(after),
                session,
            });
        }
    }
    found.notes = notes(&config.wanted, next, &found);
    if shared > 0 {
        found.notes.push(format!(
            "{shared} ticket keys come from more than one server here: the servers share them, or the capture was not taken in front of this \
             configuration. Their sessions count as lost only where none of these servers is met"
        ));
    }
    Ok(found)
}

/// What an address means on the wire.
fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn notes(now: &Wanted, next: &Wanted, found: &Comparison) -> Vec<String> {
    let by_chance = |name: &str| {
        let specs = [now, next].into_iter().flat_map(|wanted| &wanted.pools);
        specs.filter(|p| p.name == name).any(|p| p.balance != Algorithm::Maglev)
    };
    let pools: HashSet<&str> = found.pools.keys().map(|(_, pool)| pool.as_str()).collect();
    let mut pools: Vec<&str> = pools.into_iter().filter(|pool| by_chance(pool)).collect();
    pools.sort_unstable();
    if pools.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "in {} it is not the client's address that leads a client without a session: which server it meets is chance, with the change or without",
        pools.join(", ")
    )]
}

/// What both passes have in common.
struct Passes<'p, 'c> {
    config: &'p Config,
    next: &'p Wanted,
    learned: &'c Recording<'c>,
    again: &'c Recording<'c>,
    vips: Vec<SocketAddr>,
}

impl<'c> Passes<'_, 'c> {
    /// What those that come again meet, in their order; and how many ticket keys were learned to be several servers'.
    fn run(&self, change: bool, progress: &mut dyn FnMut(usize)) -> anyhow::Result<(Vec<Met>, usize)> {
        // Names are what pools are routed by, and shown.
        let config = Config { keep_names: true, ..self.config.clone() };
        let mut world = World::with_room_for(self.next, config, self.learned)?;
        let mut learner = Pass { met: Vec::new(), addresses: HashMap::new(), done: 0, progress };
        world.play(REST, &mut learner)?;
        let Pass { progress, .. } = learner;
        let shared = world.sessions().census.shared_key_names;
        if change {
            world.change(self.next)?;
        }
        let wanted = if change { self.next } else { &self.config.wanted };
        let addresses = wanted.backends().into_iter().map(|b| (b.name.clone(), plain(b.addr))).collect();
        world.next_recording(self.again, self.vips.clone());
        let met = vec![Met::default(); self.again.connections.len()];
        let mut asker = Pass { met, addresses, done: self.learned.connections.len(), progress };
        world.run(&mut asker)?;
        Ok((asker.met, shared))
    }
}

/// Hears what those that come again meet.
struct Pass<'p> {
    /// Nothing is noted where there is no place for it.
    met: Vec<Met>,
    addresses: HashMap<String, SocketAddr>,
    done: usize,
    progress: &'p mut dyn FnMut(usize),
}

impl Witness for Pass<'_> {
    fn connection(&mut self, ended: &Ended, conversation: &Conversation<'_>) -> anyhow::Result<()> {
        let place = conversation.recorded.begun.as_nanos() / GAP.as_nanos() as u64;
        let Some(met) = self.met.get_mut(place as usize) else { return Ok(()) };
        let address = |name: &String| Some((name.clone(), *self.addresses.get(name)?));
        *met = Met {
            backend: ended.backend.as_ref().and_then(address),
            pool: ended.service.clone().zip(ended.pool.clone()),
            known: ended.decided.is_some() && ended.decided == ended.backend,
            sni: ended.sni.clone(),
        };
        Ok(())
    }

    fn frame(&mut self, _: PortId, _: bool, _: Time, _: &[u8], _: Option<DropReason>) -> anyhow::Result<()> {
        Ok(())
    }

    fn wants_frames(&self) -> bool {
        false
    }

    fn progress(&mut self, over: usize) {
        (self.progress)(self.done + over);
    }
}

/// What is to be compared.
#[derive(Clone, Debug)]
pub struct Options {
    /// Captures, one after the other.
    pub files: Vec<PathBuf>,
    /// JSON lines instead of a report.
    pub json: bool,
    /// Write what came of it to this file, as HTML.
    pub report: Option<PathBuf>,
    /// What is wanted now, and the tuning.
    pub config: Config,
    /// What would be wanted.
    pub next: Wanted,
}

/// Reads captures, compares, and reports to `out`.
///
/// Nothing that can be told of the services is an error, and so is a damaged capture, after what could be read of it was told.
pub fn run(options: &Options, out: &mut dyn Write) -> anyhow::Result<()> {
    let page = options.report.as_deref().map(page::create).transpose()?;
    let captures = reenact::open(&options.files)?;
    let (recording, failed) = reenact::read(&captures);
    let unread = recording.unread.clone();
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} connections, {eta} left");
    let bar = progress_bar(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let found = compare(recording, &options.config, &options.next, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let found = found?;
    if let Some(nothing) = found.nothing() {
        anyhow::bail!(failed.map_or(nothing.clone(), |failed| format!("{nothing} ({failed})")));
    }
    page::write(page, || page::change::html(&options.files, &found, &unread, failed.as_deref()))?;
    if options.json {
        found.write_lines(out, unread.counts(), failed.as_deref())?;
    } else {
        found.write_report(out)?;
    }
    out.flush()?;
    match (failed, unread.complaint()) {
        (Some(error), _) => Err(anyhow::anyhow!(error)),
        (None, Some(left_out)) => Err(left_out.into()),
        (None, None) => Ok(()),
    }
}
