//! The old process hands all over.

use super::welcome::{Welcome, fixed, left};
use super::{
    BEGIN, BEGUN, ESTATE, GO, HELLO, KNOWN, PREPARE, PREPARED, PROTOCOL, SESSIONS, SOON, TAKEN, WELCOME, before, cards,
    expect, in_words, pack_all, refuse,
};
use crate::control::events::Events;
use crate::control::service::Watched;
use crate::engine::moving::pack_sessions;
use crate::io::Urgency;
use crate::io::cards::Cards;
use crate::io::pass::{self, Blank, Message, Passage};
use crate::pack::{Ids, Pack, Packer, Unpacker};
use crate::worker::poll::Clock;
use crate::worker::prober::Prober;
use crate::worker::succession::{Halt, Verdict, Written, wall_nanos};
use crate::worker::{Conductor, SharedDevices, Worker};
use core::time::Duration;
use lb::affinity::Reader;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

/// How long workers may stand still, if there is next to nothing to move; and how much longer for each connection.
const STILL: Duration = Duration::from_secs(1);
const STILL_EACH: Duration = Duration::from_micros(20);

fn still(connections: usize) -> Duration {
    STILL + STILL_EACH * u32::try_from(connections).unwrap_or(u32::MAX)
}

/// About as many bytes as a connection takes that is written down, and as all else of a worker's does: memory for them is there before anybody waits for it.
const EACH: usize = 512;
const ELSE: usize = 64 << 10;

fn room(connections: usize) -> usize {
    EACH.saturating_mul(connections + connections / 8).saturating_add(ELSE)
}

/// What the old process has, and lends to be handed over.
pub struct Giver<'a> {
    /// Its workers.
    pub workers: &'a [Worker],
    /// What is in force.
    pub conductor: &'a Conductor,
    /// The affinity tables.
    pub rows: &'a Reader,
    /// What its workers have in common.
    pub devices: &'a SharedDevices,
    /// Of its engines.
    pub secret: [u8; 32],
    /// Of its workers.
    pub clock: Clock,
    /// Its control socket.
    pub control: BorrowedFd<'a>,
    /// Where it answers for metrics.
    pub metrics: Option<(SocketAddr, BorrowedFd<'a>)>,
    /// What has happened.
    pub events: &'a Events,
    /// What asks its backends.
    pub prober: &'a Prober,
    /// By whom it is watched.
    pub watched: Watched,
    /// Its devices that cannot be in two hands.
    pub cards: Option<&'a dyn Cards>,
    /// The number of the process that takes over, if it is known.
    pub heir: Option<i32>,
}

/// Why nothing has come of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed {
    /// In words.
    pub why: String,
    /// Its devices are gone: it cannot go on.
    pub over: bool,
}

impl From<String> for Failed {
    fn from(why: String) -> Failed {
        Failed { why, over: false }
    }
}

impl From<&str> for Failed {
    fn from(why: &str) -> Failed {
        why.to_string().into()
    }
}

/// Hands all over. When this comes back without an error another process does all of it, and this one is to end without a word to anybody. `Err`: it goes on, and this is why.
/// `meanwhile` is called now and then while the other prepares itself (true), and while workers stand still (false).
pub fn give(heir: UnixStream, giver: &Giver<'_>, meanwhile: &mut dyn FnMut(bool)) -> Result<String, Failed> {
    let mut passage = Passage::new(heir).map_err(|e| e.to_string())?;
    let given = try_to_give(&mut passage, giver, meanwhile);
    if let Err(Failed { why, .. }) = &given {
        refuse(&mut passage, why);
    }
    given
}

fn try_to_give(passage: &mut Passage, giver: &Giver<'_>, meanwhile: &mut dyn FnMut(bool)) -> Result<String, Failed> {
    let hello = expect(passage, HELLO, Instant::now() + SOON)?;
    let nobody = Ids::default();
    let (protocol, version) =
        <(u32, String)>::unpack(&mut Unpacker::new(&hello.bytes, &nobody)).map_err(|e| e.to_string())?;
    if protocol != PROTOCOL {
        return Err(format!("version {version} hands over by protocol {protocol}, and this one by {PROTOCOL}").into());
    }
    let Giver {
        workers,
        conductor,
        rows,
        devices,
        secret,
        clock,
        control,
        metrics,
        events,
        prober,
        watched,
        cards,
        heir,
    } = giver;
    let (xdp, passed) = devices.lend().map_err(|e| format!("af-xdp: {e}"))?.into_parts();
    let welcome = Welcome {
        secret: *secret,
        origin: clock.monotonic_origin(),
        fixed: fixed(conductor.config()),
        left: left(conductor.directory()),
        metrics: metrics.map(|(at, _)| at),
        watched: watched.clone(),
        version: env!("CARGO_PKG_VERSION").to_string(),
        xdp,
        cards: cards.map(Cards::tell),
    };
    let sockets = [*control].into_iter().chain(metrics.map(|(_, fd)| fd));
    let files: Vec<BorrowedFd<'_>> = sockets.chain(passed.iter().map(AsFd::as_fd)).collect();
    let sent = |e: io::Error| in_words(&e);
    passage.send(WELCOME, &welcome.to_bytes(), &files, SOON).map_err(sent)?;
    wait_for(passage, PREPARED, Instant::now() + PREPARE, meanwhile)?;
    let rows_since = clock.now();
    let mut sessions = pack_sessions(rows, conductor.directory(), rows_since);
    sessions.extend(before::trails(workers, conductor));
    let sessions = pass::memory(&sessions).map_err(|e| e.to_string())?;
    let events = pass::memory(&events.to_json()).map_err(|e| e.to_string())?;
    let checks =
        pass::memory(&before::pack_checks(&prober.reports(), conductor.directory())).map_err(|e| e.to_string())?;
    let connections = |workers: &[Worker]| workers.iter().map(|w| w.status.snapshot().flows).sum::<usize>();
    let there = (connections(workers) as u64).to_le_bytes();
    passage.send(SESSIONS, &there, &[sessions.as_fd(), events.as_fd(), checks.as_fd()], SOON).map_err(sent)?;
    let rooms = workers.iter().map(|worker| room(worker.status.snapshot().flows));
    let blanks = rooms.clone().map(Blank::new).collect::<io::Result<Vec<Blank>>>().map_err(|e| e.to_string())?;
    let rooms: Vec<Vec<u8>> = rooms.map(pass::room).collect();
    wait_for(passage, KNOWN, Instant::now() + PREPARE, meanwhile)?;
    passage.send(BEGIN, &[], &[], SOON).map_err(sent)?;
    expect(passage, BEGUN, Instant::now() + SOON)?;
    // From here on nobody serves until it is decided.
    let _urgency = Urgency::begin();
    let began = Instant::now();
    let until = began + still(connections(workers));
    let halt = Arc::new(Halt::new(rooms, wall_nanos(), rows_since, until));
    // What is not answered meanwhile is no server's fault.
    prober.hold();
    workers.iter().enumerate().for_each(|(n, worker)| worker.halt(n, halt.clone()));
    conductor.rouse();
    let decided = settle(passage, &halt, blanks, (began, until)).and_then(|taken| match cards {
        Some(cards) => {
            let words = cards::hand_over(passage, *cards, *heir, &cards::PATIENCE, meanwhile)?;
            Ok(format!("{taken}; {words}"))
        }
        None => {
            passage.send(GO, &[], &[], SOON).map_err(sent)?;
            Ok(taken)
        }
    });
    let goes_on = decided.as_ref().is_err_and(|failed| !failed.over);
    halt.decide(if goes_on { Verdict::GoOn } else { Verdict::End });
    if goes_on {
        prober.go_on();
    }
    decided.map(|taken| format!("version {version} has taken over ({taken}), {} us", began.elapsed().as_micros()))
}

/// The workers stand still, until the other one has taken all that they have written; in words.
fn settle(
    passage: &mut Passage,
    halt: &Halt,
    blanks: Vec<Blank>,
    (began, until): (Instant, Instant),
) -> Result<String, Failed> {
    let packed = halt.packed(until).ok_or("a worker does not come to rest")?;
    let written = began.elapsed();
    let rest = packed.iter().map(|written| written.rest).max().unwrap_or_default();
    let memory = packed.iter().zip(blanks).flat_map(|(Written { engine, ports, .. }, blank)| {
        let mut to = Packer::new();
        pack_all(ports, &mut to, |halves, to| halves.iter().for_each(|half| to.block(half)));
        [blank.fill(engine), pass::memory(&to.into_bytes())]
    });
    let memory: Vec<OwnedFd> = memory.collect::<io::Result<_>>().map_err(|e| e.to_string())?;
    let files: Vec<BorrowedFd<'_>> = memory.iter().map(AsFd::as_fd).collect();
    let sent = |e: io::Error| in_words(&e);
    passage.send(ESTATE, &halt.at().to_le_bytes(), &files, SOON).map_err(sent)?;
    let passed = began.elapsed();
    let taken = expect(passage, TAKEN, until)?;
    let [rest, written, passed, all] = [rest, written, passed, began.elapsed()].map(|took| took.as_micros());
    tracing::info!("takeover: at rest in {rest} us, written after {written}, passed after {passed}, taken after {all}");
    Ok(String::from_utf8_lossy(&taken.bytes).into_owned())
}

/// As [`expect`], doing something else now and then.
fn wait_for(
    passage: &mut Passage,
    kind: u32,
    until: Instant,
    meanwhile: &mut dyn FnMut(bool),
) -> Result<Message, String> {
    const LOOK: Duration = Duration::from_millis(100);
    loop {
        meanwhile(true);
        match passage.poll(LOOK) {
            Ok(true) => return expect(passage, kind, until),
            Ok(false) if Instant::now() < until => {}
            Ok(false) => return Err("it takes too long to prepare itself".into()),
            Err(e) => return Err(in_words(&e)),
        }
    }
}
