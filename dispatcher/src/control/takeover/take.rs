//! The new process takes all over.

use super::before::{self, CheckCounts};
use super::welcome::{Welcome, fixed};
use super::{
    BEGIN, BEGUN, ESTATE, GO, HELLO, KNOWN, LONGEST, PREPARE, PREPARED, PROTOCOL, SESSIONS, SOON, TAKEN, WELCOME,
    cards, expect, in_words, refuse, unpack_all,
};
use crate::control::service::Watched;
use crate::engine::Config;
use crate::io::Urgency;
use crate::io::af_xdp::passing::Passed;
use crate::io::cards::{Cards, Told};
use crate::io::pass::{self, Passage};
use crate::pack::{Ids, Pack, Packer, Unpacker};
use crate::worker::poll::Clock;
use crate::worker::succession::{Answer, Estate, Gates, Order};
use lb::{Directory, Left};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Most that is taken of what a worker wrote.
const LARGEST: u64 = 64 << 30;

/// Most that is taken of events, and of counts of checks: many times what all that are kept can be.
const LARGEST_EVENTS: u64 = 64 << 20;

/// What the new process has been told, and its connection to the old one.
pub struct Heir {
    passage: Passage,
    /// For its engines.
    pub secret: [u8; 32],
    /// For its workers.
    pub clock: Clock,
    /// What connections there need.
    pub left: Left,
    /// The old one's control socket.
    pub control: OwnedFd,
    /// The socket where it answers for metrics, and where that is.
    pub metrics: Option<(SocketAddr, OwnedFd)>,
    /// By whom the other one is watched.
    pub watched: Watched,
    /// What the other one has of af-xdp, until it is taken.
    pub xdp: Option<Passed>,
    /// What it has that cannot be in two hands.
    pub cards: Option<Told>,
    fixed: Vec<String>,
}

impl Heir {
    /// Asks the dispatcher that answers at this control socket.
    pub fn ask(control: &Path) -> Result<Heir, String> {
        let shown = control.display();
        let nobody = |e: io::Error| format!("takeover: {shown}: nobody answers there: {e}");
        let stream = upgraded(UnixStream::connect(control).map_err(nobody)?)
            .map_err(|why| format!("takeover: {shown}: {why}"))?;
        Heir::greet(stream).map_err(|why| format!("takeover: {why}"))
    }

    fn greet(stream: UnixStream) -> Result<Heir, String> {
        let mut passage = Passage::new(stream).map_err(|e| e.to_string())?;
        let mut hello = Packer::new();
        (PROTOCOL, env!("CARGO_PKG_VERSION").to_string()).pack(&mut hello);
        passage.send(HELLO, &hello.into_bytes(), &[], SOON).map_err(|e| in_words(&e))?;
        // It may be busy with a change.
        let message = expect(&mut passage, WELCOME, Instant::now() + PREPARE)?;
        let Welcome { secret, origin, fixed, left, metrics, watched, version: _, xdp, cards } =
            Welcome::read(&message.bytes).map_err(|e| format!("what the running one says: {e}"))?;
        let mut files = message.files.into_iter();
        let control = files.next().ok_or("the running one has passed no control socket")?;
        let metrics = match metrics {
            Some(at) => Some((at, files.next().ok_or("the running one has passed no socket for metrics")?)),
            None => None,
        };
        let xdp = Passed::of_parts(&xdp, files).map_err(|e| format!("what the running one passes: {e}"))?;
        let clock = Clock::with_origin(origin).ok_or("the running one's clock begins in the future")?;
        Ok(Heir { passage, secret, clock, left, control, metrics, watched, xdp: Some(xdp), cards, fixed })
    }

    /// Whether this configuration can go on with the other's connections.
    pub fn fits(&self, config: &Config) -> Result<(), String> {
        let here = fixed(config);
        let mut differences = self.fixed.iter().filter(|line| !here.contains(line));
        match differences.next() {
            Some(line) => {
                let other = here.iter().find(|line| !self.fixed.contains(line)).map_or("nothing", |line| line);
                Err(format!("takeover: the running one has {line}; here is {other}: connections depend on it"))
            }
            None if here.len() != self.fixed.len() => Err("takeover: the running one has fewer ports".into()),
            None => Ok(()),
        }
    }

    /// What of the other's is not wanted here, and stays until its last connection has ended. In words.
    pub fn leaving(&self, directory: &Directory) -> Vec<String> {
        let backends = directory.backends().filter(|b| b.leaving).map(|b| format!("backend {}", b.name));
        let listeners = directory.listeners().iter().filter(|l| l.is_leaving()).map(|l| l.addr().to_string());
        backends.chain(listeners).map(|what| format!("{what} is not wanted here: its connections go on")).collect()
    }

    /// To the last step: when this comes back without an error all workers run. `Err`: the other one goes on; the workers at the gates are to be given up.
    /// `except` is told of connections whose local ports are not their workers'.
    /// `cards`: those that the other one has told of.
    pub fn take(
        mut self,
        gates: &Gates,
        cards: Option<&dyn Cards>,
        except: impl FnOnce(Vec<(crate::flow::Key, usize)>),
    ) -> Result<Taken, String> {
        let result = self.try_to_take(gates, cards, except);
        if let Err(why) = &result {
            refuse(&mut self.passage, why);
        }
        result
            .map(|taken| Taken { control: self.control, metrics: self.metrics, ..taken })
            .map_err(|why| format!("takeover: {why}"))
    }

    fn try_to_take(
        &mut self,
        gates: &Gates,
        cards: Option<&dyn Cards>,
        except: impl FnOnce(Vec<(crate::flow::Key, usize)>),
    ) -> Result<Taken, String> {
        const DIED: &str = "a worker has died, or does nothing";
        let sent = |e: io::Error| in_words(&e);
        self.passage.send(PREPARED, &[], &[], SOON).map_err(sent)?;
        // It walks over all of its tables.
        let message = expect(&mut self.passage, SESSIONS, Instant::now() + PREPARE)?;
        let mut files = message.files.into_iter();
        let sessions = files.next().ok_or("no rows of sessions")?;
        // Of each worker, if they are divided evenly; and some more, since they come and go.
        let there = message.bytes.as_slice().try_into().map_or(0, u64::from_le_bytes) as usize;
        let connections = (there / gates.len().max(1) + there / 8).saturating_add(256);
        let unread = |e: &dyn core::fmt::Display| format!("what was written cannot be read: {e}");
        let sessions = Arc::new(pass::contents(sessions, LARGEST).map_err(|e| unread(&e))?);
        let events = files.next().ok_or("no events")?;
        let events = pass::contents(events, LARGEST_EVENTS).map_err(|e| unread(&e))?;
        let checks = match files.next() {
            Some(checks) => {
                let bytes = pass::contents(checks, LARGEST_EVENTS).map_err(|e| unread(&e))?;
                before::read_checks(&bytes).map_err(|e| unread(&e))?
            }
            // It is of a version that does not tell them.
            None => Vec::new(),
        };
        let mut rows = 0;
        for answer in gates.ask(&Order::Sessions(sessions, connections), Instant::now() + PREPARE).ok_or(DIED)? {
            let Answer::Sessions(taken) = answer else { return Err(DIED.into()) };
            rows += taken.map_err(|e| unread(&e))?;
        }
        self.passage.send(KNOWN, &[], &[], SOON).map_err(sent)?;
        expect(&mut self.passage, BEGIN, Instant::now() + SOON)?;
        let _urgency = Urgency::begin();
        gates.ask(&Order::Begin, Instant::now() + SOON).ok_or(DIED)?;
        self.passage.send(BEGUN, &[], &[], SOON).map_err(sent)?;
        // How long that may take is for the other one to say, who knows how much it is.
        let message = expect(&mut self.passage, ESTATE, Instant::now() + LONGEST)?;
        let began = Instant::now();
        let at = message.bytes.as_slice().try_into().map(u64::from_le_bytes).map_err(|_| "no time of division")?;
        let (mut engines, mut ports) = (Vec::new(), Vec::new());
        let mut files = message.files.into_iter();
        while let (Some(engine), Some(of_ports)) = (files.next(), files.next()) {
            engines.push(pass::contents(engine, LARGEST).map_err(|e| unread(&e))?);
            let bytes = pass::contents(of_ports, LARGEST).map_err(|e| unread(&e))?;
            let nobody = Ids::default();
            let halves = |from: &mut Unpacker<'_>| Ok([from.block()?.to_vec(), from.block()?.to_vec()]);
            ports.push(unpack_all(&mut Unpacker::new(&bytes, &nobody), halves).map_err(|e| unread(&e))?);
        }
        let bytes: usize = engines.iter().map(Vec::len).sum();
        let estate = Arc::new(Estate { at, engines, ports });
        let read_after = began.elapsed();
        let answers = gates.ask(&Order::TakeOver(estate), Instant::now() + LONGEST).ok_or(DIED)?;
        let taken_after = began.elapsed();
        let (mut flows, mut more, mut strays) = (0, 0, Vec::new());
        for (worker, answer) in answers.into_iter().enumerate() {
            let Answer::TakenOver(taken) = answer else { return Err(DIED.into()) };
            let taken = taken.map_err(|e| format!("what was written: {e}"))?;
            if taken.lost > 0 {
                let why = taken.why.map_or(String::new(), |why| format!(": {why}"));
                return Err(format!("{} connections cannot be taken over{why}", taken.lost));
            }
            (flows, more) = (flows + taken.flows, more + taken.rows);
            strays.extend(taken.strays.into_iter().map(|key| (key, worker)));
        }
        let words = format!(
            "{flows} connections, {rows} rows of sessions before and {more} at the end, {bytes} bytes; read in {} us, in its tables after {}",
            read_after.as_micros(),
            taken_after.as_micros()
        );
        except(strays);
        self.passage.send(TAKEN, words.as_bytes(), &[], SOON).map_err(sent)?;
        match cards {
            Some(cards) => cards::receive(&mut self.passage, cards)?,
            // If it has died, all that it was is here.
            None => _ = cards::hear(&mut self.passage, GO)?,
        }
        gates.tell(&Order::Run).ok_or(DIED)?;
        Ok(Taken {
            words,
            control: self.control.try_clone().map_err(|e| e.to_string())?,
            metrics: None,
            events,
            checks,
        })
    }
}

/// What comes with all that was taken over.
pub struct Taken {
    /// How much it was.
    pub words: String,
    /// The control socket.
    pub control: OwnedFd,
    /// The socket where metrics are asked for, and where that is.
    pub metrics: Option<(SocketAddr, OwnedFd)>,
    /// What has happened there, for [`Events::go_on`](crate::control::events::Events::go_on).
    pub events: Vec<u8>,
    /// What its checks had counted.
    pub checks: Vec<CheckCounts>,
}

/// Asks for the connection itself, by HTTP.
fn upgraded(mut stream: UnixStream) -> Result<UnixStream, String> {
    use crate::control::socket::router::TAKEOVER;
    let failed = |e: io::Error| in_words(&e);
    stream.set_read_timeout(Some(SOON)).map_err(failed)?;
    let request = format!(
        "POST /v1/takeover HTTP/1.1\r\nHost: dispatcher\r\nConnection: upgrade\r\nUpgrade: {TAKEOVER}\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        // What is behind the head is not ours to read here, and descriptors come with it.
        match stream.read(&mut byte) {
            Ok(1) if head.len() < 4096 => head.push(byte[0]),
            Ok(_) => break,
            Err(e) => return Err(in_words(&e)),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.split(' ').nth(1).unwrap_or_default();
    match status {
        "101" => Ok(stream),
        "404" | "405" => Err("the dispatcher there knows of no takeover: it is too old".into()),
        _ => Err(format!("no dispatcher that can hand over ({})", head.lines().next().unwrap_or_default())),
    }
}
