//! What happens to one frame.
//!
//! The [`Engine`] is one worker's share of the dispatcher: frames and a time go in, [`Verdict`]s, frames and
//! [`ConnectionRecord`]s come out. It knows no socket, clock, thread, random source or log; the same engine runs
//! live, on captures, in simulation and under fuzzing.
//!
//! # The packet's story
//!
//! From the most to the least frequent, and in this order in the code; each step returns a verdict:
//!
//! 1. **Known flow** (`forward`): look the tuple up, translate, send.
//! 2. **Bare SYN to a VIP** (`admit`): answer with a cookie. No state is kept.
//! 3. **ACK to a VIP whose cookie verifies** (`admit`): open a flow, read its payload if it has any.
//! 4. **More payload for a flow without a complete hello** (`admit`): assemble; when the hello is complete, or known not to be
//!    TLS, choose a backend (`choose`) and dial it (`dial`).
//! 5. **SYN-ACK or RST of a backend being dialled** (`dial`): finish the splice and release what was held, or choose another.
//! 6. **ARP, NDP, ICMP echo to our addresses** (`local`); **ICMP errors about a flow** (`icmp`).
//! 7. Else: drop, counted.
//!
//! Everything that happens by itself, without a frame, is in `timers`; what is ours to retransmit, in `ours`; how a silent flow's ends
//! are asked whether they are still there, in `keepalive`; how we end a flow, in `cut`.

mod admit;
mod apply;
mod choose;
mod config;
pub mod conflicts;
mod connection;
mod counters;
mod cut;
mod dial;
mod dial_from;
mod doubts;
mod forward;
mod health;
pub(crate) mod icmp;
mod keepalive;
mod late;
mod limiter;
mod local;
mod neighbours;
mod ours;
mod record;
mod revision;
mod routes;
mod send;
pub mod session;
mod share;
mod split;
mod timers;
mod watches;

pub use config::{AddressMode, Config, ConfigError, Limits, PortSpec, TicketKey, hello_patience};
pub use conflicts::{Conflict, Conflicts};
pub use counters::{Counters, DropReason};
pub use record::{Class, ConnectionRecord, End};
pub use revision::Revision;
pub use share::{MAX_WORKERS, Returning, Share, worker_of_port};

use crate::flow::{BufferPool, CookieJar, FlowId, FlowTable, LocalPorts, Side, Tuple, Wheel};
use crate::sessions::Sessions;
use crate::time::Time;
use crate::wire::packet::{Ethernet, Ip, Tcp, WireError, ethertype, protocol};
use crate::wire::{Addr, Family, Frame};
use apply::Unfinished;
use connection::Connection;
use core::time::Duration;
use doubts::Doubts;
use health::Health;
use late::Lates;
use lb::affinity::Update;
use lb::{Affinity, Balancers, Directory, Live, StableHash, Wanted};
use limiter::Limiter;
use neighbours::Neighbours;
use routes::Routes;
use siphasher::sip::{SipHasher13, SipHasher24};
use std::sync::Arc;
use watches::Watches;

/// A port of the engine: its index in [`Config::ports`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct PortId(pub u8);

/// What becomes of a frame that was handed to [`Engine::handle`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The frame was rewritten in place; send it out of this port.
    Forward(PortId),
    /// The frame was turned, in place, into an answer of ours; send it out of this port (the one it came from).
    Reply(PortId),
    /// Everything worth keeping was copied; the driver may have its buffer back.
    Hold,
    /// Nothing to be done with it; the reason has been counted.
    Drop(DropReason),
}

/// What the engine does to the world outside a frame's own buffer. Implemented by the worker, a replay, a simulation.
pub trait Effects {
    /// Send a frame of the engine's making. The bytes are copied out before this returns. False when the port had no
    /// room: the engine counts it, and its own retransmission (or the sender's) repairs it.
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> bool;

    /// A connection has ended.
    fn connection_ended(&mut self, record: &ConnectionRecord<'_>);
}

/// What a step of the ladder comes to: a verdict, or the reason for a drop.
type Step = Result<Verdict, DropReason>;

/// A TCP segment in a frame, its headers read.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    port: PortId,
    eth: Ethernet,
    ip: Ip,
    tcp: Tcp,
    now: Time,
}

impl Arrived {
    fn tuple(&self) -> Tuple {
        Tuple { src: self.ip.src.0, dst: self.ip.dst.0, sport: self.tcp.src_port, dport: self.tcp.dst_port }
    }
}

/// One worker's engine.
pub struct Engine {
    config: Config,
    routes: Routes,
    neighbours: Neighbours,
    health: Health,
    flows: FlowTable<Connection>,
    wheel: Wheel,
    cookies: CookieJar,
    buffers: BufferPool,
    watches: Watches,
    /// Hellos that came too late to be asked for.
    lates: Lates,
    local_ports: LocalPorts,
    /// Whose what returns to them is.
    returning: Arc<Returning>,
    worker: usize,
    workers: usize,
    /// Services, pools and backends as they are wanted now.
    directory: Arc<Directory>,
    /// Connections by backend, of all workers.
    live: Arc<Live>,
    balancers: Balancers,
    /// What changes have left to do.
    unfinished: Unfinished,
    affinity: Affinity,
    /// Resets for segments of connections that we do not know.
    resets: Limiter,
    /// Connections whose first segment may still come.
    doubts: Doubts,
    counters: Counters,
    /// Other hosts that claim addresses of ours.
    conflicts: Conflicts,
    /// Frames of our own are written here before they are handed out.
    scratch: Box<[u8]>,
    /// Hellos that are spread over several records are joined here.
    joined: Box<[u8]>,
    keyed: SipHasher13,
    /// Leads clients to backends; keyed by the configuration alone.
    balance: StableHash,
    /// The number of the last connection less one; also what entropy is drawn from. Engines of several workers count in steps of
    /// their number, each from its own, so that no number comes twice.
    serial: u64,
    step: u64,
    /// When the affinity table was last swept.
    swept: Time,
    /// Where [`Engine::shutdown`] has got to.
    closing: FlowId,
    /// It was begun: no flow is opened any more.
    stopping: bool,
    /// By buffer: the flow that took it for a hello, if it still has it.
    holders: Box<[FlowId]>,
    /// The buffer to be looked at next for one that is kept for too long.
    hand: usize,
}

/// Room in front of a hello for a PROXY v2 header: 16 bytes and 36 of addresses.
const HEADER_ROOM: usize = 64;
/// Local ports for flows; those below are left to the system and to probes.
const FIRST_PORT: u16 = health::PROBE_PORT + health::PROBE_PORTS;
/// Exactness of timers.
const TICK: Duration = Duration::from_millis(10);
/// Horizon of the timing wheel in ticks: longer spans are looked at again when they come into it.
const WHEEL_SLOTS: usize = 4096;

/// What one table takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableSize {
    /// What it holds.
    pub name: &'static str,
    /// So many of them.
    pub entries: usize,
    /// In so many bytes, all told.
    pub bytes: usize,
}

impl Limits {
    /// What the engines of `workers` workers take in memory together, table by table, for `backends` backends.
    pub fn tables(&self, backends: usize, workers: usize) -> Vec<TableSize> {
        let backends = self.slots(backends);
        let part = self.divided(workers);
        let all = part.tables_of_one(backends).into_iter().map(|t| TableSize {
            entries: t.entries * workers,
            bytes: t.bytes * workers,
            ..t
        });
        let affinity = Affinity::bytes(&self.affinity(backends), workers);
        all.chain([TableSize { name: "affinity rows", entries: self.sessions, bytes: affinity }]).collect()
    }

    fn tables_of_one(&self, backends: usize) -> Vec<TableSize> {
        let size = |name, entries, bytes| TableSize { name, entries, bytes };
        vec![
            size("flows", self.flows, FlowTable::<Connection>::bytes_for(self.flows)),
            size("timers", self.flows, Wheel::bytes_for(self.flows, WHEEL_SLOTS)),
            size(
                "held hellos",
                self.hellos,
                BufferPool::bytes_for(self.hellos, HEADER_ROOM + self.hello_bytes) + self.hellos * size_of::<FlowId>(),
            ),
            size("watched answers", self.watches, Watches::bytes_for(self.watches)),
            size("local port cursors", backends, LocalPorts::bytes_for(backends)),
        ]
    }

    /// Slots for backends, of which there are so many at start.
    pub(super) fn slots(&self, backends: usize) -> usize {
        backends.max(self.backends).min(lb::MAX_BACKENDS)
    }

    fn affinity(&self, backends: usize) -> lb::Config {
        lb::Config { session_capacity: self.sessions, ..lb::Config::new(backends) }
    }
}

impl Engine {
    /// Builds all tables at their full size; nothing grows afterwards.
    ///
    /// `secret` keys every hash and cookie: 32 bytes from the operating system live, a seed in simulation. `now` is the
    /// first time it will hear of.
    pub fn new(config: Config, secret: [u8; 32], now: Time) -> Result<Engine, ConfigError> {
        let share = Share::divide(&config, &secret, 1)?.pop().expect("as many as asked for");
        Engine::for_worker(config, secret, share, now)
    }

    /// As [`Engine::new`], for one of several workers, each of which is given the same configuration (of the whole), the same
    /// secret, its own `share`, and times of one clock.
    pub fn for_worker(config: Config, secret: [u8; 32], share: Share, now: Time) -> Result<Engine, ConfigError> {
        let Share { worker, workers, revision, released, affinity, returning } = share;
        let directory = revision.directory().clone();
        let slots = config.limits.slots(directory.slots());
        // What is wanted is the directory's to say, from now on.
        let config = Config { limits: config.limits.divided(workers), wanted: Wanted::default(), ..config };
        let mut neighbours = Neighbours::default();
        let routes = Routes::new(&config, revision.clone(), &mut neighbours)?;
        let derive = |purpose: u8| derived(&secret, purpose);
        let half = |purpose: u8| u64::from_le_bytes(derive(purpose)[..8].try_into().expect("8 of 16 bytes"));
        let limits = config.limits;
        if !(1..=FlowTable::<Connection>::MAX_CAPACITY).contains(&limits.flows) {
            return Err(ConfigError(format!("a flow table of {} flows cannot be", limits.flows)));
        }
        // Where cards decide whose a port is, each worker's are scattered over all.
        let (first_port, last_port) =
            if returning.knows_cards() { (FIRST_PORT, u16::MAX) } else { share::dial_ports(worker, workers) };
        let largest = routes.ports.iter().map(|p| usize::from(p.mtu)).max().unwrap_or(1500) + 32;
        let mss = routes.mss();
        Ok(Engine {
            health: Health::new(
                directory.backends().map(|b| (b.id, Addr::from(b.addr.ip()))),
                mss,
                config.probe,
                half(2) as u32,
                now,
            )
            .probing_from(share::probe_ports(worker, workers))
            .with_foreign_dials(config.address_mode == AddressMode::Dnat),
            neighbours,
            flows: FlowTable::new(limits.flows, (half(3), half(4))),
            wheel: Wheel::new(limits.flows, TICK, WHEEL_SLOTS, now),
            cookies: CookieJar::new(derive(5)),
            buffers: BufferPool::new(limits.hellos, HEADER_ROOM + limits.hello_bytes),
            watches: Watches::new(limits.watches),
            lates: Lates::new(),
            local_ports: LocalPorts::new(first_port, last_port, slots, derive(6)),
            returning,
            worker,
            workers,
            balancers: Balancers::new(&directory),
            // One says it for all.
            unfinished: Unfinished::new(released, if worker == 0 { revision.addresses() } else { vec![] }),
            affinity,
            live: directory.live().clone(),
            directory,
            resets: Limiter::new(1000u64.div_ceil(workers as u64), now),
            doubts: Doubts::new(now),
            counters: Counters::default(),
            conflicts: Conflicts::new(),
            scratch: vec![0; largest].into_boxed_slice(),
            joined: vec![0; limits.hello_bytes].into_boxed_slice(),
            keyed: SipHasher13::new_with_key(&derive(7)),
            balance: StableHash::new(config.hash_seed),
            serial: worker as u64,
            step: workers as u64,
            swept: now,
            closing: FlowId(0),
            stopping: false,
            holders: vec![FlowId(0); limits.hellos].into_boxed_slice(),
            hand: 0,
            routes,
            config,
        })
    }

    /// Dials from only so many local ports (at least 1) for each backend from now on, so that a simulation can run out of them. Before the
    /// first flow.
    pub fn use_local_ports(&mut self, count: u16) {
        let (first, last) = self.local_ports.range();
        let last = first.saturating_add(count.max(1) - 1).min(last);
        let entropy = self.keyed.hash(b"local ports").to_le_bytes();
        let entropy = [entropy, entropy].concat().try_into().expect("16 bytes");
        let slots = self.config.limits.slots(self.directory.slots());
        self.local_ports = LocalPorts::new(first, last, slots, entropy);
    }

    /// One frame that came in at `port`.
    pub fn handle(&mut self, port: PortId, frame: &mut Frame<'_>, now: Time, fx: &mut dyn Effects) -> Verdict {
        self.counters.frames_in += 1;
        let verdict = self.climb(port, frame, now, fx).unwrap_or_else(Verdict::Drop);
        match verdict {
            Verdict::Forward(_) | Verdict::Reply(_) => self.counters.frames_out += 1,
            Verdict::Hold => self.counters.held += 1,
            Verdict::Drop(reason) => self.counters.drops[reason as usize] += 1,
        }
        verdict
    }

    /// The ladder.
    fn climb(&mut self, port: PortId, frame: &mut Frame<'_>, now: Time, fx: &mut dyn Effects) -> Step {
        let bytes = frame.bytes();
        let eth = Ethernet::parse(bytes)?;
        let ours = self.routes.ports[usize::from(port.0)].mac;
        if eth.dst != ours && !eth.dst.is_group() {
            return Err(DropReason::NotForUs);
        }
        // Nobody sends from a group's address (IEEE 802.3 section 3.2.3), and it would be where we answer to.
        if eth.src.is_group() {
            return Err(DropReason::Malformed);
        }
        let ip = match eth.ethertype {
            ethertype::IPV4 | ethertype::IPV6 => Ip::parse(bytes, eth.payload, eth.ethertype)?,
            ethertype::ARP => return self.on_arp(port, &eth, frame, now),
            _ => return Err(DropReason::NotForUs),
        };
        match ip.protocol {
            // TCP is between two (RFC 9293 section 3.9.2.3): what all hear is a mistake or an attack.
            protocol::TCP if eth.dst.is_group() => Err(DropReason::Malformed),
            protocol::TCP => {
                let tcp = Tcp::parse(bytes, &ip)?;
                let seg = Arrived { port, eth, ip, tcp, now };
                match self.flows.lookup(&seg.tuple()) {
                    Some((id, side)) => self.on_known(id, side, &seg, frame, fx),
                    None => self.on_stranger(&seg, frame, fx),
                }
            }
            protocol::ICMP | protocol::ICMPV6 => self.on_icmp(port, &eth, &ip, frame, now, fx),
            _ => Err(DropReason::NotForUs),
        }
    }

    /// A segment of no flow.
    fn on_stranger(&mut self, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        if martian(seg.ip.src) && !(self.config.loopback_sources && seg.ip.src.ip().is_loopback()) {
            return Err(DropReason::Malformed);
        }
        if let Some(service) = self.routes.service_at(seg.ip.dst, seg.tcp.dst_port) {
            if seg.tcp.is_bare_syn() {
                self.on_syn(service, seg, frame, fx)
            } else {
                self.on_cookie(service, seg, frame, fx)
            }
        } else {
            self.on_unserved(seg, frame, fx)
        }
    }

    /// A segment of no flow to no service.
    fn on_unserved(&mut self, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        if self.routes.is_ours(seg.ip.dst) {
            self.on_own_address(seg, frame, fx)
        } else if self.config.address_mode == AddressMode::Dnat && self.routes.is_backend(seg.ip.src, seg.tcp.src_port)
        {
            // To a client of ours whose flow is over: it is told in the client's name.
            self.refuse(seg, DropReason::NoFlow, frame, fx)
        } else {
            Err(DropReason::NotForUs)
        }
    }

    /// A segment of a known flow: by far the most frequent case is that both sides are connected.
    fn on_known(&mut self, id: FlowId, side: Side, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        use connection::State;
        match (&self.flows.get(id).state, side) {
            (State::Spliced(_), _) => self.forward(id, side, seg, frame, fx),
            (State::AwaitHello(_), Side::Client) => self.on_waiting(id, seg, frame, fx),
            (State::Dialing(_), Side::Client) => self.on_client_while_dialing(id, seg, frame, fx),
            (State::Dialing(_), Side::Server) => self.on_dialed(id, seg, frame, fx),
            (State::TimeWait { .. } | State::Reset { .. }, _) => self.on_closed(id, side, seg, frame, fx),
            (State::Cut(_), _) => self.on_cut(id, side, seg, frame, fx),
            (State::AwaitHello(_), Side::Server) => Err(DropReason::NoFlow),
        }
    }

    /// All counters so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Other hosts that claim addresses of ours.
    pub fn conflicts(&self) -> &Conflicts {
        &self.conflicts
    }

    /// Flows now in the table, those included that are closed and kept for a moment.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Buffers for hellos now in use.
    pub fn held_hellos(&self) -> usize {
        self.buffers.in_use()
    }

    /// Server answers now being read.
    pub fn watched(&self) -> usize {
        self.watches.in_use()
    }

    /// What the affinity tables counted and hold. Walks them: not for every frame.
    pub fn sessions(&self, now: Time) -> Sessions {
        Sessions { metrics: self.affinity.metrics(), census: self.affinity.census(choose::millis(now)) }
    }

    /// The backends that answer, as far as is known here.
    pub fn backends_up(&self) -> lb::BackendSet {
        let mut up = lb::BackendSet::EMPTY;
        let ids = self.directory.backends().map(|b| b.id);
        ids.filter(|id| self.health.is_up(*id)).for_each(|id| _ = up.insert(id));
        up
    }

    /// The affinity tables.
    pub fn affinity(&self) -> &Affinity {
        &self.affinity
    }

    /// The oldest thing learned that belongs into the affinity tables of another worker, see [`Engine::learn`].
    pub fn next_update(&mut self) -> Option<Update> {
        self.affinity.next_update()
    }

    /// Takes in what another worker's engine has learned: what its [`Engine::next_update`] gave, brought to the worker that
    /// [`Update::owner`] names.
    pub fn learn(&mut self, update: Update) {
        self.affinity.apply(update);
    }

    /// Services, pools and backends as this engine has them.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The client's address and port, for a flow whose frames arrive from a backend with this tuple (backend, then our
    /// own address).
    pub fn client_of(&self, server_side: &Tuple) -> Option<std::net::SocketAddr> {
        let (id, Side::Server) = self.flows.lookup(server_side)? else { return None };
        Some(self.flows.tuple(id, Side::Client)?.source())
    }

    /// The client, and what it connected to, for a flow whose frames arrive at `own`, an address and port of ours (or with
    /// the client's address kept: of the client's), from `backend`.
    pub fn connection_of(
        &self,
        backend: std::net::SocketAddr,
        own: std::net::SocketAddr,
    ) -> Option<(std::net::SocketAddr, std::net::SocketAddr)> {
        let (id, Side::Server) = self.flows.lookup(&Tuple::between(backend, own))? else { return None };
        let tuple = self.flows.tuple(id, Side::Client)?;
        Some((tuple.source(), tuple.destination()))
    }

    fn count(&mut self, reason: DropReason) {
        self.counters.drops[reason as usize] += 1;
    }
}

impl From<WireError> for DropReason {
    fn from(e: WireError) -> DropReason {
        match e {
            WireError::Truncated => DropReason::Truncated,
            WireError::Malformed => DropReason::Malformed,
            WireError::Fragment => DropReason::IpFragment,
        }
    }
}

/// An address that no packet can come from: multicast, unspecified, broadcast, loopback.
fn martian(a: Addr) -> bool {
    match a.ip() {
        std::net::IpAddr::V4(a) => a.is_multicast() || a.is_unspecified() || a.is_broadcast() || a.is_loopback(),
        std::net::IpAddr::V6(a) => a.is_multicast() || a.is_unspecified() || a.is_loopback(),
    }
}

/// The Ethernet type of a family.
fn ethertype_of(family: Family) -> u16 {
    match family {
        Family::V4 => ethertype::IPV4,
        Family::V6 => ethertype::IPV6,
    }
}

/// 16 bytes for one purpose out of the secret, telling nothing about those for others.
pub(crate) fn derived(secret: &[u8; 32], purpose: u8) -> [u8; 16] {
    let mut out = [0; 16];
    for (i, half) in out.chunks_exact_mut(8).enumerate() {
        let key: &[u8; 16] = secret[..16].try_into().expect("16 of 32 bytes");
        let mut message = [purpose; 17];
        message[..16].copy_from_slice(&secret[16..]);
        let word = SipHasher24::new_with_key(key).hash(&[&message[..], &[i as u8]].concat());
        half.copy_from_slice(&word.to_le_bytes());
    }
    out
}
