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
//! 1. **Known flow** (`ladder`, [`tcp::forward`](crate::tcp::forward)): look the key up, translate, send.
//! 2. **Bare SYN to a VIP** ([`tcp::admit`](crate::tcp::admit)): answer with a cookie. No state is kept.
//! 3. **ACK to a VIP whose cookie verifies** (the same): open a flow, read its payload if it has any.
//! 4. **More payload for a flow without a complete hello** ([`tcp::hello`](crate::tcp::hello)): assemble; when the hello is complete, or known not to
//!    be TLS, choose a backend (`choose`) and dial it ([`tcp::dial`](crate::tcp::dial)).
//! 5. **SYN-ACK or RST of a backend being dialled** (the same): finish the splice and release what was held, or choose another.
//! 6. **ARP, NDP, ICMP echo to our addresses** (`local`); **ICMP errors about a flow** (`icmp`).
//! 7. Else: drop, counted.
//!
//! # Floors
//!
//! What a connection does with a segment or a time is said by [`tcp`](crate::tcp), as an [`Action`](crate::tcp::Action); here it is done. Each floor
//! calls those below it only, and no floor is called from below: `ladder` and `timers` (what is asked of whom), `apply` and `icmp`; `execute` (the
//! executor); `late` (hellos that come too late); `choose` (which backend); `forget` (how a connection is told of and forgotten); `local` (frames to
//! ourselves); `send` (frames that leave).

pub mod about;
mod admission;
mod apply;
mod arrive;
mod ask;
mod books;
mod checks;
mod choose;
pub mod conflicts;
pub mod connections;
mod execute;
mod forget;
mod icmp;
mod ladder;
mod late;
mod local;
mod messages;
pub mod moving;
mod pace;
mod request;
mod sealed;
mod send;
mod share;
mod sizes;
mod stop;
mod straight;
mod timers;
pub mod trail;
mod unfinished;
mod waiting;
mod wrapped;

pub use crate::config::{AddressMode, Config, ConfigError, Limits, PortId, PortSpec, TicketKey, hello_patience};
pub use crate::counters::{Counters, DropReason};
pub use crate::flow::Look;
pub use crate::path::{GateId, Revision};
pub use crate::path::{MAX_WORKERS, Returning, Strays, worker_of_port};
pub use crate::tcp::{BALANCED, Class, ConnectionRecord, End, STATES, Told};
pub use admission::QueueState;
pub use conflicts::{Conflict, Conflicts};
pub use moving::{Owner, TakenOver};
pub use sealed::{Sealed, Unsealed};
pub(crate) use share::derived;
pub use share::{Share, session_time};
pub use sizes::TableSize;

use crate::backends::{Health, Noticed, Passive};
use crate::flow::{BufferPool, CookieJar, FlowId, FlowTable, Key, LocalPorts, Side, Wheel};
use crate::http::Readings;
use crate::path::tunnel;
use crate::path::{FIRST_PORT, Neighbours, Routes};
use crate::sessions::Sessions;
use crate::tcp::{Connection, Eviction, HEADER_ROOM, Hot, Limiter, ResetGrace, SMALL_HELLO, Settled};
use crate::time::Time;
use crate::tls::{Lates, ServerFlights};
use crate::wire::packet::{Headers, Parsed};
use crate::wire::{Addr, Frame};
use admission::Gates;
use core::time::Duration;
use lb::admission::ClassCounters;
use lb::affinity::Update;
use lb::{Affinity, Balancers, Directory, Live, StableHash, Wanted};
use pace::{Observed, Pace};
use siphasher::sip::SipHasher13;
use std::sync::Arc;
use trail::Trails;
use unfinished::Unfinished;

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

    /// An IP packet has come to one of the ports that checks come from. None: nobody makes any; false: whoever does has no room for it.
    fn check_arrived(&mut self, _packet: &[u8]) -> Option<bool> {
        None
    }

    /// Seals an IP packet for the other end of a tunnel; the message begins `out`, which has room for it.
    fn seal(&mut self, _end: tunnel::End, _packet: &[u8], _out: &mut [u8]) -> Sealed {
        Sealed::Lost(DropReason::TunnelNotUp)
    }

    /// Opens a message from the other end of a tunnel; what comes of it begins `out`, which has as much room as the message at least.
    fn unseal(&mut self, _end: tunnel::End, _message: &[u8], _out: &mut [u8]) -> Unsealed {
        Unsealed::Lost(DropReason::TunnelUnopened)
    }

    /// A connection has ended.
    fn connection_ended(&mut self, record: &ConnectionRecord<'_>);
}

/// What a step of the ladder comes to: a verdict, or the reason for a drop.
type Step = Result<Verdict, DropReason>;

/// Hot, the rest, and the rest of what is settled.
type Flows = FlowTable<Hot, Connection, Settled>;

/// One worker's engine.
pub struct Engine {
    config: Config,
    routes: Routes,
    neighbours: Neighbours,
    health: Health,
    /// What whoever asks backends should know.
    noticed: Noticed,
    flows: Flows,
    wheel: Wheel,
    cookies: CookieJar,
    buffers: BufferPool,
    flights: ServerFlights,
    /// Requests and responses that are read in passing; places for none while no service follows a cookie.
    readings: Readings,
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
    /// Where room at backends is asked for.
    gates: Gates,
    /// What backends are given of their limits and weights.
    pace: Pace,
    observed: Arc<Observed>,
    affinity: Affinity,
    /// Resets for segments of connections that we do not know.
    resets: Limiter,
    /// Connections whose first segment may still come.
    reset_grace: ResetGrace,
    counters: Counters,
    /// Other hosts that claim addresses of ours.
    conflicts: Conflicts,
    /// Frames of our own are written here before they are handed out.
    scratch: Box<[u8]>,
    /// What is sealed is sealed into this, behind its outer headers, and what is opened is opened into it.
    sealed: Box<[u8]>,
    /// Hellos that are spread over several records are joined here.
    joined: Box<[u8]>,
    keyed: SipHasher13,
    /// Where our clock for timestamps starts: a secret.
    clock_start: u32,
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
    /// Whose hello buffer is taken back when all are in use.
    eviction: Eviction,
    /// Why connections went where they went.
    trails: Trails,
}

/// Room for a message of a tunnel's own making, where an MTU is small.
const LEAST_MESSAGE: usize = 256;
/// Exactness of timers.
const TICK: Duration = Duration::from_millis(10);
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
        let Share { worker, workers, revision, released, affinity, returning, observed } = share;
        let directory = revision.directory().clone();
        let slots = config.limits.slots(directory.slots());
        // What is wanted is the directory's to say, from now on.
        let config = Config { limits: config.limits.divided(workers), wanted: Wanted::default(), ..config };
        let mut neighbours = Neighbours::default();
        let routes = Routes::new(&config, worker, revision.clone(), &mut neighbours)?;
        let derive = |purpose: u8| derived(&secret, purpose);
        let half = |purpose: u8| u64::from_le_bytes(derive(purpose)[..8].try_into().expect("8 of 16 bytes"));
        let limits = config.limits;
        if !(1..=Flows::MAX_CAPACITY).contains(&limits.flows) {
            return Err(ConfigError(format!("a flow table of {} flows cannot be", limits.flows)));
        }
        let keyed = SipHasher13::new_with_key(&derive(7));
        // Where cards decide whose a port is, each worker's are scattered over all.
        let (first_port, last_port) =
            if returning.knows_cards() { (FIRST_PORT, u16::MAX) } else { crate::path::dial_ports(worker, workers) };
        let largest = routes.ports.iter().map(|p| usize::from(p.mtu)).max().unwrap_or(1500) + 32;
        let mss = routes.mss();
        let mut engine = Engine {
            health: Health::new(
                directory.backends().map(|b| (b.id, Addr::from(b.addr.ip()))),
                mss,
                config.probe,
                half(2) as u32,
                now,
            )
            .probing_from(crate::path::probe_ports(worker, workers))
            .with_foreign_dials(config.address_mode == AddressMode::Dnat),
            noticed: Noticed::default(),
            neighbours,
            flows: FlowTable::new(limits.flows, (half(3), half(4))),
            wheel: Wheel::new(limits.flows, TICK, sizes::WHEEL_SLOTS, now),
            cookies: CookieJar::new(derive(5)),
            buffers: BufferPool::new(limits.hellos, HEADER_ROOM + limits.hello_bytes)
                .with_small(limits.waiting, HEADER_ROOM + SMALL_HELLO),
            flights: ServerFlights::new(limits.watches),
            readings: Readings::new(0),
            lates: Lates::new(),
            local_ports: LocalPorts::new(first_port, last_port, slots, derive(6)),
            returning,
            worker,
            workers,
            balancers: Balancers::new(&directory),
            // One says it for all.
            unfinished: Unfinished::new(released, if worker == 0 { revision.addresses() } else { vec![] }),
            gates: Gates::new(&revision, worker, workers, limits.hellos / 4),
            pace: Pace::default(),
            observed,
            affinity,
            live: directory.live().clone(),
            directory,
            resets: Limiter::new(1000u64.div_ceil(workers as u64), now),
            reset_grace: ResetGrace::new(now),
            counters: Counters::default(),
            conflicts: Conflicts::new(),
            scratch: vec![0; largest].into_boxed_slice(),
            sealed: vec![0; largest + LEAST_MESSAGE].into_boxed_slice(),
            joined: vec![0; limits.hello_bytes].into_boxed_slice(),
            clock_start: keyed.hash(b"clock") as u32,
            keyed,
            balance: StableHash::new(config.hash_seed),
            serial: worker as u64,
            step: workers as u64,
            swept: now,
            closing: FlowId(0),
            stopping: false,
            eviction: Eviction::new(limits.hellos),
            trails: Trails::new(worker, workers),
            routes,
            config,
        };
        let leaving: Vec<_> = engine.directory.backends().filter(|b| b.leaving).map(|b| b.id).collect();
        leaving.into_iter().for_each(|id| engine.backend_leaves(id));
        engine.follow_limits(now);
        engine.provide_readings();
        engine.gates.follow_health(&engine.directory, &engine.health);
        Ok(engine)
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

    /// One frame that came in at `port`: straight on, or up the ladder.
    pub fn handle(&mut self, port: PortId, frame: &mut Frame<'_>, now: Time, fx: &mut dyn Effects) -> Verdict {
        if let Some(verdict) = self.straight(port, self.look(frame.bytes()), frame, now) {
            return verdict;
        }
        let headers = Parsed::read(frame.bytes());
        self.handle_parsed(port, &headers, frame, now, fx)
    }

    /// As [`Engine::handle`], where the frame's headers have been read: up the ladder, whatever it is. The outcome is the same.
    pub fn handle_parsed(
        &mut self,
        port: PortId,
        headers: &Headers,
        frame: &mut Frame<'_>,
        now: Time,
        fx: &mut dyn Effects,
    ) -> Verdict {
        self.counters.frames_in += 1;
        let step = match headers {
            Ok(headers) => self.climb(port, headers, frame, now, fx),
            Err(e) => Err((*e).into()),
        };
        let verdict = step.unwrap_or_else(Verdict::Drop);
        match verdict {
            Verdict::Forward(_) | Verdict::Reply(_) => self.counters.frames_out += 1,
            Verdict::Hold => self.counters.held += 1,
            Verdict::Drop(reason) => self.counters.drops[reason as usize] += 1,
        }
        verdict
    }

    /// The memory that frames lead to at random: what is worth large pages, which are to be asked for before the first frame.
    pub fn memory(&self) -> [core::ops::Range<*const u8>; 2] {
        self.flows.memory()
    }

    /// The memory that so many connections take, of another process which has them until now.
    pub fn memory_for(&self, connections: usize) -> [core::ops::Range<*const u8>; 4] {
        self.flows.memory_for(connections)
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

    /// Connections that wait for room at a backend.
    pub fn waiting(&self) -> usize {
        self.gates.waiting()
    }

    /// By line: how many wait, and what became of others. For whoever looks now and then, not for every frame.
    pub fn queues(&self) -> impl Iterator<Item = QueueState> {
        self.gates.states()
    }

    /// What became of all who asked for room at a backend, together.
    pub fn admission(&self) -> ClassCounters {
        self.gates.sum()
    }

    /// A worker that was offered room at a backend since this was asked last: if it sleeps, it is to be woken.
    pub fn next_wake(&mut self) -> Option<usize> {
        if self.gates.is_empty() { None } else { self.gates.next_wake() }
    }

    /// It was offered room, which [`Engine::poll`] deals with. To be asked again by whoever is about to sleep, after it has said so.
    pub fn has_offers(&self) -> bool {
        !self.stopping && self.gates.has_offers()
    }

    /// Server answers now being read.
    pub fn watched(&self) -> usize {
        self.flights.in_use() + self.readings.in_use()
    }

    /// What the affinity tables counted and hold. Walks them: not for every frame.
    pub fn sessions(&self, now: Time) -> Sessions {
        Sessions { metrics: self.affinity.metrics(), census: self.affinity.census(session_time(now)) }
    }

    /// The backends that answer, as far as is known here.
    pub fn backends_up(&self) -> lb::BackendSet {
        let mut up = lb::BackendSet::EMPTY;
        let ids = self.directory.backends().map(|b| b.id);
        ids.filter(|id| self.health.is_up(*id)).for_each(|id| _ = up.insert(id));
        up
    }

    /// The backends that are down as far as probes say, how, and since when.
    pub fn unreachable(&self) -> impl Iterator<Item = (lb::BackendId, Passive, Time)> + '_ {
        let passive = |b: &lb::Backend| self.health.passive(b.id).map(|(passive, since)| (b.id, passive, since));
        self.directory.backends().filter_map(passive).filter(|(_, passive, _)| passive.is_down())
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

    /// The client, and what it connected to, for a flow whose frames arrive at `own`, an address and port of ours (or with
    /// the client's address kept: of the client's), from `backend`.
    pub fn connection_of(
        &self,
        backend: std::net::SocketAddr,
        own: std::net::SocketAddr,
    ) -> Option<(std::net::SocketAddr, std::net::SocketAddr)> {
        let (id, Side::Server) = self.flows.lookup(&Key::tcp(backend, own))? else { return None };
        let key = self.flows.key(id, Side::Client)?;
        Some((key.source(), key.destination()))
    }
}
