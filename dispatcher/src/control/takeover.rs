//! One process takes over from another (`dispatcher run --takeover`): what they say to each other.
//!
//! The new one comes by the control socket of the old one, as `ctl` does, and keeps the connection ([`crate::control::socket::router::TAKEOVER`]). Then, in this order:
//!
//! | who | says | and does |
//! |---|---|---|
//! | new | `HELLO` | its version, and of this protocol |
//! | old | `WELCOME` | what is fixed, the secret, the clock, what its connections need, its listening sockets; or `REFUSED` |
//! | new | `PREPARED` | all is built, all ports are open in standby |
//! | old | `SESSIONS` | the rows of sessions that there are by now: most of what there is; and what has happened |
//! | new | `KNOWN` | they are in its tables |
//! | old | `BEGIN` | |
//! | new | `BEGUN` | frames arrive at both |
//! | old | `ESTATE` | its workers stand still, and have written all down |
//! | new | `TAKEN` | all of it is in its tables |
//! | old | `GO` | the last step: it ends, whatever happens, and has never been |
//! | new | | runs |
//!
//! Devices that cannot be in two hands change hands in front of the last step ([`cards`]).
//!
//! Until `GO` has been sent the old one goes on when anything goes wrong, or takes too long, and says why (`REFUSED`). The new one ends then, and says so. If the old one dies after its
//! estate is complete, the new one runs: nobody else would.

mod cards;

use crate::control::events::Events;
use crate::control::service::Watched;
use crate::engine::moving::pack_sessions;
use crate::engine::{AddressMode, Config};
use crate::io::Urgency;
use crate::io::af_xdp::passing::Passed;
use crate::io::cards::{Cards, Told};
use crate::io::pass::{self, Message, Passage};
use crate::pack::{Ids, Pack, Packer, Unpacker, Unreadable};
use crate::worker::poll::Clock;
use crate::worker::succession::{Answer, Estate, Gates, Halt, Order, Verdict, Written, wall_nanos};
use crate::worker::{Conductor, SharedDevices, Worker};
use core::time::Duration;
use lb::affinity::Reader;
use lb::{Directory, Left, LeftBackend, Tunnel, TunnelKind};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Of this protocol. Formats of what is written down have versions of their own.
const PROTOCOL: u32 = 1;

const HELLO: u32 = 1;
const WELCOME: u32 = 2;
const REFUSED: u32 = 3;
const PREPARED: u32 = 4;
const BEGIN: u32 = 5;
const BEGUN: u32 = 6;
const ESTATE: u32 = 7;
const TAKEN: u32 = 8;
const GO: u32 = 9;
const SESSIONS: u32 = 10;
const KNOWN: u32 = 11;

/// How long a message may take that needs no work.
const SOON: Duration = Duration::from_secs(5);

/// How long the new one may take to prepare itself: tables, rings, programs.
const PREPARE: Duration = Duration::from_secs(20);

/// How long workers may stand still, if there is next to nothing to move; and how much longer for each connection.
const STILL: Duration = Duration::from_secs(1);
const STILL_EACH: Duration = Duration::from_micros(20);

fn still(connections: usize) -> Duration {
    STILL + STILL_EACH * u32::try_from(connections).unwrap_or(u32::MAX)
}

/// Longer than all of that for as many connections as there may be: nobody waits for ever.
const LONGEST: Duration = Duration::from_secs(3600);

/// Most that is taken of what a worker wrote.
const LARGEST: u64 = 64 << 30;

/// Most that is taken of events: many times what all that are kept can be.
const LARGEST_EVENTS: u64 = 64 << 20;

/// What cannot be another in the process that takes over: connections depend on it. Each line in words.
fn fixed(config: &Config) -> Vec<String> {
    let mode = if config.address_mode == AddressMode::Dnat { "dnat" } else { "snat" };
    let mut lines = vec![format!("address mode {mode}")];
    for port in &config.ports {
        let addresses: Vec<String> = port.addresses.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect();
        let vlans: Vec<String> = port.vlans.iter().map(|id| id.to_string()).collect();
        let [a, b, c, d, e, f] = port.mac.0;
        lines.push(format!(
            "port '{}' {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, addresses {}, tags {}, MTU {}",
            port.name,
            addresses.join(" "),
            vlans.join(" "),
            port.mtu
        ));
    }
    lines
}

/// What the old one tells first.
struct Welcome {
    secret: [u8; 32],
    origin: Duration,
    fixed: Vec<String>,
    left: Left,
    metrics: Option<SocketAddr>,
    watched: Watched,
    version: String,
    /// What is passed of af-xdp.
    xdp: Vec<u8>,
    /// Of devices that cannot be in two hands.
    cards: Option<Told>,
}

/// What a process leaves to another: all that its directory still has.
pub fn left(directory: &Directory) -> Left {
    let backend = |b: &lb::Backend| LeftBackend { name: b.name.clone(), addr: b.addr, tunnel: b.tunnel };
    Left {
        backends: directory.backends().map(backend).collect(),
        listeners: directory.listeners().iter().map(|l| l.addr()).collect(),
    }
}

fn pack_all<T>(all: &[T], to: &mut Packer, one: impl Fn(&T, &mut Packer)) {
    (all.len() as u32).pack(to);
    all.iter().for_each(|each| one(each, to));
}

fn unpack_all<T>(
    from: &mut Unpacker<'_>,
    one: impl Fn(&mut Unpacker<'_>) -> Result<T, Unreadable>,
) -> Result<Vec<T>, Unreadable> {
    (0..u32::unpack(from)?).map(|_| one(from)).collect()
}

fn pack_tunnel(tunnel: &Option<Tunnel>, to: &mut Packer) {
    let Some(tunnel) = tunnel else { return 0u8.pack(to) };
    match tunnel.kind {
        TunnelKind::Ipip => 1u8.pack(to),
        TunnelKind::Gue => 2u8.pack(to),
        TunnelKind::Vxlan { vni, mac } => {
            3u8.pack(to);
            (vni, mac).pack(to);
        }
        TunnelKind::Wireguard { public_key } => {
            4u8.pack(to);
            public_key.pack(to);
        }
    }
    tunnel.endpoint.pack(to);
}

fn unpack_tunnel(from: &mut Unpacker<'_>) -> Result<Option<Tunnel>, Unreadable> {
    let kind = match u8::unpack(from)? {
        0 => return Ok(None),
        1 => TunnelKind::Ipip,
        2 => TunnelKind::Gue,
        3 => {
            let (vni, mac) = Pack::unpack(from)?;
            TunnelKind::Vxlan { vni, mac }
        }
        4 => TunnelKind::Wireguard { public_key: Pack::unpack(from)? },
        _ => return Err(Unreadable::Impossible("kind of tunnel")),
    };
    Ok(Some(Tunnel { kind, endpoint: SocketAddr::unpack(from)? }))
}

impl Welcome {
    fn to_bytes(&self) -> Vec<u8> {
        let mut to = Packer::new();
        to.section(WELCOME, PROTOCOL, |to| {
            (self.secret, self.origin).pack(to);
            self.version.pack(to);
            pack_all(&self.fixed, to, |line, to| line.pack(to));
            pack_all(&self.left.backends, to, |b, to| {
                (b.name.clone(), b.addr).pack(to);
                pack_tunnel(&b.tunnel, to);
            });
            pack_all(&self.left.listeners, to, |addr, to| addr.pack(to));
            self.metrics.pack(to);
            (self.watched.socket.clone(), self.watched.every).pack(to);
            to.block(&self.xdp);
        });
        self.cards.iter().for_each(|told| cards::pack(told, &mut to));
        to.into_bytes()
    }

    fn read(bytes: &[u8]) -> Result<Welcome, Unreadable> {
        let nobody = Ids::default();
        let mut sections = Unpacker::new(bytes, &nobody);
        let section = sections.section()?.ok_or(Unreadable::CutOff)?;
        if (section.kind, section.version) != (WELCOME, PROTOCOL) {
            return Err(Unreadable::Unknown { kind: section.kind, version: section.version });
        }
        let from = &mut Unpacker::new(section.bytes, &nobody);
        let (secret, origin) = Pack::unpack(from)?;
        let version = String::unpack(from)?;
        let fixed = unpack_all(from, String::unpack)?;
        let backends = unpack_all(from, |from| {
            let (name, addr) = Pack::unpack(from)?;
            Ok(LeftBackend { name, addr, tunnel: unpack_tunnel(from)? })
        })?;
        let listeners = unpack_all(from, SocketAddr::unpack)?;
        let metrics = Pack::unpack(from)?;
        let (socket, every) = Pack::unpack(from)?;
        let watched = Watched { socket, every };
        let xdp = from.block()?.to_vec();
        let cards = cards::read(&mut sections)?;
        Ok(Welcome { secret, origin, fixed, left: Left { backends, listeners }, metrics, watched, version, xdp, cards })
    }
}

/// Says why not, and means that nothing more will come.
fn refuse(to: &mut Passage, why: &str) {
    // Who has gone need not hear it.
    _ = to.send(REFUSED, why.as_bytes(), &[], SOON);
}

fn in_words(e: &io::Error) -> String {
    match e.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => "it has ended".into(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "it takes too long".into(),
        _ => e.to_string(),
    }
}

/// The next message, which is to be of this kind.
fn expect(from: &mut Passage, kind: u32, until: Instant) -> Result<Message, String> {
    let message = from.receive(until).map_err(|e| in_words(&e))?;
    match message.kind {
        found if found == kind => Ok(message),
        REFUSED => Err(String::from_utf8_lossy(&message.bytes).into_owned()),
        other => Err(format!("it says {other} where {kind} is due")),
    }
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
    let Giver { workers, conductor, rows, devices, secret, clock, control, metrics, events, watched, cards, heir } =
        giver;
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
    let sessions = pack_sessions(rows, conductor.directory(), rows_since);
    let sessions = pass::memory(&sessions).map_err(|e| e.to_string())?;
    let events = pass::memory(&events.to_json()).map_err(|e| e.to_string())?;
    let connections = |workers: &[Worker]| workers.iter().map(|w| w.status.snapshot().flows).sum::<usize>();
    let there = (connections(workers) as u64).to_le_bytes();
    passage.send(SESSIONS, &there, &[sessions.as_fd(), events.as_fd()], SOON).map_err(sent)?;
    wait_for(passage, KNOWN, Instant::now() + PREPARE, meanwhile)?;
    passage.send(BEGIN, &[], &[], SOON).map_err(sent)?;
    expect(passage, BEGUN, Instant::now() + SOON)?;
    // From here on nobody serves until it is decided.
    let _urgency = Urgency::begin();
    let began = Instant::now();
    let until = began + still(connections(workers));
    let halt = Arc::new(Halt::new(workers.len(), wall_nanos(), rows_since, until));
    workers.iter().enumerate().for_each(|(n, worker)| worker.halt(n, halt.clone()));
    conductor.rouse();
    let decided = settle(passage, &halt, (began, until)).and_then(|taken| match cards {
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
    decided.map(|taken| format!("version {version} has taken over ({taken}), {} us", began.elapsed().as_micros()))
}

/// The workers stand still, until the other one has taken all that they have written; in words.
fn settle(passage: &mut Passage, halt: &Halt, (began, until): (Instant, Instant)) -> Result<String, Failed> {
    let packed = halt.packed(until).ok_or("a worker does not come to rest")?;
    let written = began.elapsed();
    let rest = packed.iter().map(|written| written.rest).max().unwrap_or_default();
    let memory = packed.iter().flat_map(|Written { engine, ports, .. }| {
        let mut to = Packer::new();
        pack_all(ports, &mut to, |halves, to| halves.iter().for_each(|half| to.block(half)));
        [pass::memory(engine), pass::memory(&to.into_bytes())]
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
        Ok(Taken { words, control: self.control.try_clone().map_err(|e| e.to_string())?, metrics: None, events })
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
    /// What has happened there, for [`Events::go_on`].
    pub events: Vec<u8>,
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
