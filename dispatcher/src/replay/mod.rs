//! Captures read, and the engine driven by them.
//!
//! * [`decode`]: a recorded frame's addresses, ports and payload.
//! * [`fragments`]: fragmented IP packets, put together again.
//! * [`reassembly`]: connections and their byte streams, whatever the network or the capture did to them.
//! * [`dialogue`]: how a connection's streams begin.
//! * [`inspect`]: what the TLS and DTLS streams of a capture say in the clear.
//! * [`reenact`]: recorded conversations against other backends, through the whole engine.
//! * [`against`]: what a change of services and backends would do to recorded traffic.
//! * [`unread`]: what of a capture is not read, by name; [`warnings`]: connections that were refused or not followed, and why.
//! * [`page`]: all of it as a document for a browser, with [`over_time`], its course.
//! * [`recorded`]: connections go where they were recorded going, and the affinity table is asked and taught.

pub mod against;
pub mod decode;
pub mod dialogue;
pub mod fragments;
pub mod inspect;

pub mod over_time;
pub mod page;
pub mod reassembly;
pub mod recorded;
pub mod reenact;
mod report;
pub mod unread;
pub mod warnings;

use crate::capture::pcapng::PcapngWriter;
use crate::capture::{Capture, LinkType, RecordedFrame};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use page::recorded::Course;
use recorded::{Listener, RecordedConnection, Replay, Tuning};
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::net::IpAddr;
use std::path::PathBuf;

/// What `dispatcher replay` is told.
#[derive(Clone, Debug, Default)]
pub struct ReplayOptions {
    /// Captures, replayed one after the other with one affinity table.
    pub files: Vec<PathBuf>,
    /// JSON lines instead of the report.
    pub json: bool,
    /// Write the frames of connections to this pcapng file, with what was decided about them as comments.
    pub out: Option<PathBuf>,
    /// Explain why connections of this client, and perhaps of this port of its, went where they went; only where they are re-enacted.
    pub explain: Option<(IpAddr, Option<u16>)>,
    /// Write what came of it to this file, as HTML.
    pub report: Option<PathBuf>,
    /// VIPs, backends and sizes. Without backends, those of the capture.
    pub config: crate::engine::Config,
}

/// Replays captures and reports on standard output.
///
/// What could be read of a damaged capture is reported, and then the error is returned; one of the kind [`unread::NotRead`] when
/// there may be connections in frames that are not read. A reader of our output that has seen enough
/// (a broken pipe) is no error.
pub fn run(options: &ReplayOptions) -> anyhow::Result<()> {
    whole(replay(options, &mut BufWriter::new(io::stdout().lock())))
}

/// A reader of our output that has seen enough is no error.
pub(crate) fn whole(done: anyhow::Result<()>) -> anyhow::Result<()> {
    match done {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        done => done,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// As [`run`], writing to `out`.
pub fn replay(options: &ReplayOptions, out: &mut dyn Write) -> anyhow::Result<()> {
    if !options.config.backends().is_empty() {
        return reenact::replay(options, out);
    }
    // All files are opened before anything is written: a wrong name is told at once.
    let mut captures = Vec::new();
    for path in &options.files {
        let capture = Capture::open(path).map_err(|e| anyhow::anyhow!("{} {e}", path.display()))?;
        captures.push((path, capture));
    }
    let total: usize = captures.iter().map(|(_, c)| c.as_bytes().len()).sum();
    let page = options.report.as_deref().map(page::create).transpose()?;
    let mut teller = Teller {
        json: options.json.then_some(&mut *out),
        copy: options.out.as_ref().map(Copy::create).transpose()?,
        course: page.is_some().then(Course::default),
        bar: progress_bar(total as u64),
        before: 0,
    };
    let limits = options.config.limits;
    let tuning = Tuning {
        session_capacity: limits.sessions,
        session_ttl: options.config.session_ttl,
        affinity: options.config.wanted.services.iter().all(|s| s.policy.affinity),
    };
    let mut failed = None;
    let (totals, census) = {
        let mut replay = Replay::new(tuning, &mut teller);
        for (path, capture) in &captures {
            if let Err(error) = replay.capture(capture)? {
                failed = Some(format!("{} {error}", path.display()));
                break;
            }
            replay.next_file(capture.as_bytes().len());
        }
        replay.finish()?
    };
    teller.bar.finish_and_clear();
    if let Some(copy) = teller.copy {
        copy.writer.finish()?;
    }
    let course = teller.course.unwrap_or_default();
    page::write(page, || page::recorded::html(&options.files, &totals, &census, &course, failed.as_deref()))?;
    if options.json {
        report::write_summary(out, &totals, &census, failed.as_deref())?;
    } else {
        report::write_report(out, &totals, &census)?;
    }
    out.flush()?;
    match (failed, totals.unread.complaint()) {
        (Some(error), _) => Err(anyhow::anyhow!(error)),
        (None, Some(left_out)) => Err(left_out.into()),
        (None, None) => Ok(()),
    }
}

fn progress_bar(total: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("{wide_bar} {bytes} of {total_bytes}, {eta} left");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Tells the outside what a replay finds.
struct Teller<'a> {
    json: Option<&'a mut dyn Write>,
    copy: Option<Copy>,
    /// For the page, if one is wanted.
    course: Option<Course>,
    bar: ProgressBar,
    /// Bytes of the files before this one.
    before: usize,
}

struct Copy {
    writer: PcapngWriter<BufWriter<File>>,
    interfaces: Vec<(LinkType, u32)>,
}

impl Copy {
    fn create(path: &PathBuf) -> anyhow::Result<Copy> {
        let file = File::create(path).map_err(|e| anyhow::anyhow!("{} cannot be written: {e}", path.display()))?;
        let writer = PcapngWriter::new(BufWriter::new(file), "dispatcher replay")?;
        Ok(Copy { writer, interfaces: Vec::new() })
    }
}

impl Listener for Teller<'_> {
    fn connection(&mut self, record: &RecordedConnection) -> anyhow::Result<()> {
        if let Some(out) = &mut self.json {
            report::write_connection(out, record)?;
        }
        if let Some(course) = &mut self.course {
            course.connection(record);
        }
        Ok(())
    }

    fn frame(&mut self, frame: &RecordedFrame<'_>, note: Option<&str>, progress: usize) -> anyhow::Result<()> {
        if frame.number.is_multiple_of(1024) {
            self.bar.set_position((self.before + progress) as u64);
        }
        if let Some(copy) = &mut self.copy {
            let known = copy.interfaces.iter().find(|(link, _)| *link == frame.link);
            let interface = match known {
                Some((_, interface)) => *interface,
                None => {
                    let name = format!("recorded{}", copy.interfaces.len());
                    let interface = copy.writer.interface(&name, frame.link)?;
                    copy.interfaces.push((frame.link, interface));
                    interface
                }
            };
            copy.writer.frame(interface, frame.unix_nanos, frame.bytes, note)?;
        }
        Ok(())
    }

    fn next_file(&mut self, bytes: usize) {
        self.before += bytes;
    }
}
