//! Frames as they pass, with what became of each as its comment: a pcapng file that is sent while it is made.
//!
//! Workers put what is meant into their [taps](Tap); from there it is written into the answer's body as fast as whoever asked reads. When he
//! reads no more, or has gone, or the time or number that he asked for is reached, the taps are ended.

use super::api::Problem;
use super::connections::{at_backend, from_clients};
use super::serve::Lease;
use crate::capture::LinkType;
use crate::capture::pcapng::PcapngWriter;
use crate::control::values;
use crate::counters::DropReason;
use crate::io::MAX_UNIT;
use crate::worker::tap::{Lost, Seen, Tap, Wants};
use crate::worker::{Worker, poll::Clock};
use bytes::Bytes;
use core::convert::Infallible;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use hyper::body::{Body, Frame};
use lb::Directory;
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

/// Frames in a capture, if nothing is said.
pub const USUAL: u64 = 10_000;
/// Most frames in a capture.
pub const MOST: u64 = 10_000_000;
/// Bytes of each frame, if nothing is said.
pub const SNAP: usize = 2048;
/// Least bytes of each frame.
pub const LEAST_SNAP: usize = 64;
/// Longest time, and how long if nothing is said.
pub const LONGEST: Duration = Duration::from_secs(3600);

/// Bytes of buffers, of all workers together.
const BUFFERS: usize = 32 << 20;
/// Most frames on their way from a worker, and least.
const FRAMES: (usize, usize) = (2048, 64);
/// How often the taps are looked into.
const LOOK: Duration = Duration::from_millis(10);
/// How long nothing is written, at most.
const SILENCE: Duration = Duration::from_secs(5);
/// How long workers may take to begin.
const PATIENCE: Duration = Duration::from_secs(1);

/// What may stand behind the path.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Asked {
    client: Option<String>,
    backend: Option<String>,
    drops: Option<String>,
    count: Option<u64>,
    #[serde(rename = "for")]
    time: Option<String>,
    snap: Option<usize>,
}

fn within<T: PartialOrd + std::fmt::Display>(what: &str, value: T, least: T, most: T) -> Result<T, Problem> {
    if value >= least && value <= most {
        return Ok(value);
    }
    Err(Problem::new(400, format!("{what}: {least} to {most}")))
}

impl Asked {
    fn wants(&self, directory: &Directory) -> Result<Wants, Problem> {
        let lost = self.drops.as_deref().map(|name| match DropReason::ALL.iter().find(|why| why.as_str() == name) {
            _ if name == "all" => Ok(Lost::Any),
            Some(why) => Ok(Lost::To(*why)),
            None => Err(Problem::new(
                400,
                format!("drops: there is no reason {name:?}: all, or a name as show drops has them"),
            )),
        });
        let backend = self.backend.as_deref().map(|name| {
            let addresses = directory.backends().filter(|b| b.name == name).map(|b| b.addr.ip());
            at_backend(name, directory).map(|set| (set, addresses.collect()))
        });
        Ok(Wants {
            client: self.client.as_deref().map(from_clients).transpose()?,
            backend: backend.transpose()?,
            lost: lost.transpose()?,
        })
    }

    /// Has all workers begin. `ports` are their ports' names.
    pub fn begin(
        &self,
        directory: &Directory,
        workers: &[Worker],
        ports: Vec<String>,
        clock: Clock,
    ) -> Result<Taps, Problem> {
        let wants = self.wants(directory)?;
        let count = within("count", self.count.unwrap_or(USUAL), 1, MOST)?;
        let snap = within("snap", self.snap.unwrap_or(SNAP), LEAST_SNAP, MAX_UNIT)?;
        let time = match &self.time {
            None => LONGEST,
            Some(text) => match values::duration(text) {
                Ok(time) if time <= LONGEST => time,
                Ok(_) => return Err(Problem::new(400, format!("for: {} s at most", LONGEST.as_secs()))),
                Err(why) => return Err(Problem::new(400, format!("for: {why}"))),
            },
        };
        let (most, least) = FRAMES;
        let frames = (BUFFERS / workers.len().max(1) / snap).clamp(least, most);
        let begin = |worker: &Worker| {
            let tap = Arc::new(Tap::new(wants.clone(), snap, frames));
            worker.show(tap.clone());
            tap
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        let zero = now.saturating_sub(clock.now().as_nanos());
        Ok(Taps { taps: workers.iter().map(begin).collect(), ports, zero, count, time })
    }
}

/// Workers that show frames, until this is dropped.
pub struct Taps {
    /// One a worker.
    pub taps: Vec<Arc<Tap>>,
    /// The names of their ports.
    pub ports: Vec<String>,
    /// Nanoseconds since 1970 when the workers' clock began.
    pub zero: u64,
    /// Frames, at most.
    pub count: u64,
    /// For so long, at most.
    pub time: Duration,
}

impl Taps {
    fn end(&self) {
        self.taps.iter().for_each(|tap| tap.end());
    }

    fn lost(&self) -> u64 {
        self.taps.iter().map(|tap| tap.lost()).sum()
    }
}

impl Drop for Taps {
    fn drop(&mut self) {
        self.end();
    }
}

/// The file as it is made: the body of an answer.
pub struct Recorded {
    taps: Taps,
    file: PcapngWriter<Vec<u8>>,
    frames: u64,
    /// Lost frames that have been told of.
    told: u64,
    /// Its header is on its way.
    began: Option<Instant>,
    over: bool,
    sleep: Pin<Box<Sleep>>,
    started: Instant,
    /// When something was written last.
    wrote: Instant,
    lease: Lease,
    /// There is one capture at a time.
    _alone: OwnedSemaphorePermit,
}

impl Recorded {
    /// With the interfaces `PORT-received` and `PORT-sent` of each port.
    pub fn new(taps: Taps, lease: Lease, alone: OwnedSemaphorePermit) -> std::io::Result<Recorded> {
        let mut file = PcapngWriter::new(Vec::new(), "dispatcher")?;
        for port in &taps.ports {
            file.interface(&format!("{port}-received"), LinkType::ETHERNET)?;
            file.interface(&format!("{port}-sent"), LinkType::ETHERNET)?;
        }
        let (sleep, started) = (Box::pin(tokio::time::sleep(Duration::ZERO)), Instant::now());
        Ok(Recorded {
            taps,
            file,
            frames: 0,
            told: 0,
            began: None,
            over: false,
            sleep,
            started,
            wrote: started,
            lease,
            _alone: alone,
        })
    }

    /// What has come since; empty when there is nothing.
    fn more(&mut self) -> std::io::Result<Vec<u8>> {
        let Recorded { taps, file, frames, told, began, over, started, wrote, .. } = self;
        let Some(began) = *began else {
            // Who reads the header knows that from now on all is shown.
            if taps.taps.iter().all(|tap| tap.is_taken()) || started.elapsed() > PATIENCE {
                *began = Some(Instant::now());
                return Ok(std::mem::take(file.get_mut()));
            }
            return Ok(Vec::new());
        };
        *over = began.elapsed() >= taps.time;
        for tap in &taps.taps {
            let mut written = Ok(());
            // No more than a queue holds: other workers have their turn, and whoever reads.
            for _ in 0..FRAMES.0 {
                let is_one = *frames < taps.count && tap.next(|seen| written = write(file, seen, taps.zero));
                if !is_one {
                    break;
                }
                *frames += 1;
            }
            written?;
        }
        *over |= *frames >= taps.count || taps.taps.is_empty();
        let lost = taps.lost();
        // Said again now and then, too: by what is written it is noticed that whoever asked has gone, whatever he had sent before.
        let silent = file.get_mut().is_empty() && wrote.elapsed() >= SILENCE;
        if (lost > *told || silent) && !taps.ports.is_empty() {
            *told = lost;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
            file.dropped(0, now, lost)?;
        }
        if !file.get_mut().is_empty() {
            *wrote = Instant::now();
        }
        Ok(std::mem::take(file.get_mut()))
    }
}

fn write(file: &mut PcapngWriter<Vec<u8>>, seen: &Seen, zero: u64) -> std::io::Result<()> {
    let interface = 2 * u32::from(seen.port.0) + u32::from(seen.sent);
    let nanos = zero.saturating_add(seen.at.as_nanos());
    file.cut_frame(interface, nanos, (seen.bytes(), seen.original), Some(&seen.comment))
}

impl Body for Recorded {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // Whoever reads is asked for more; whoever does not is cut off when his time is over.
        self.lease.renew();
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            ready!(self.sleep.as_mut().poll(cx));
            self.sleep.as_mut().reset(tokio::time::Instant::now() + LOOK);
            let Ok(more) = self.more() else { return Poll::Ready(None) };
            if !more.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(more.into()))));
            }
        }
    }
}
