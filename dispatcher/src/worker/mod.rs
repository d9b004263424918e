//! Workers: one thread on one core each, that polls its queues and owns everything it writes on the hot path.
//!
//! * [`poll`]: the loop.
//! * [`idle`]: what a worker does when nothing has arrived.
//! * [`steer`]: whose a frame is, where there are several workers.
//! * [`exchange`]: the inboxes by which it gets there.
//! * [`doze`]: how their owners sleep without missing anything.
//! * [`changes`]: how services, pools and backends come and go while they run; [`conductor`]: in which order all of that follows a change.
//! * [`prober`]: the thread that makes the checks of backends; [`post`]: how it and workers hear of each other.
//! * [`listing`]: how somebody outside is told of live connections.
//! * [`pauses`]: how long they were away from their queues.
//! * [`succession`]: how they stop at a point, for another process to go on.
//! * [`tap`]: how somebody outside is shown frames, with what became of them.
//! * [`totals`]: what its ended connections add up to; [`timings`]: how long they and their handshakes took.
//!
//! With several workers each opens its queues of every port in its own thread, and builds its own engine from its
//! [`Share`]. A flow belongs to one worker; what comes in by another's queue is handed over. With one worker
//! the same loop runs, and nothing is looked at twice. To the outside a worker tells what it counts through [`Status`].

pub mod changes;
pub mod conductor;
pub mod doze;
mod earlier;
pub mod exchange;
pub mod idle;
pub mod listing;
pub mod pauses;
pub mod poll;
pub mod post;
pub mod prober;
pub mod steer;
pub mod succession;
pub mod tap;
pub mod timings;
pub mod totals;

pub use changes::{Change, Late, Publisher, Subscriber};
pub use conductor::{Conductor, InForce, Refused};
pub use exchange::{Exchange, Handover};
pub use idle::Idle;
pub use listing::Listing;
pub use pauses::{OVERRUN, Pauses};
pub use steer::Steering;
pub use tap::Tap;
pub use totals::Totals;

use crate::backends::{Hints, Passive};
use crate::checks::{KeyNews, Seen};
use crate::engine::about::About;
use crate::engine::connections::{Meant, Shown};
use crate::engine::trail::{Sought, Trail};
use crate::engine::{
    AddressMode, Config, Conflicts, Counters, Effects, Engine, Look, Owner, PortId, QueueState, Revision, Share,
    TakenOver, Verdict, conflicts,
};
use crate::flow::{FlowId, Key};
use crate::io::af_packet::Fanout;
use crate::io::af_xdp::passing::Passed;
use crate::io::{self, DeviceInfo, Filter, OpenError, Port, Traffic, af_packet, af_xdp};
use crate::journal::Journal;
use crate::pack::{Packer, Unreadable};
use crate::path::tunnel::{End, sealed_port};
use crate::sessions::Sessions;
use crate::time::Time;
use crate::tunnel::{self, Edge, News, Secret};
use crate::wire::Frame;
use crate::wire::packet::Headers;
use core::ops::Range;
use lb::admission::ClassCounters;
use lb::affinity::{Metrics, Update};
use lb::{BackendId, BackendSet, Directory, Tunnel};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The atomics of [`doze`].
mod sync {
    pub(super) use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
}

/// What a worker feeds its frames to: the [`Engine`]; something simpler in tests of the loop.
pub trait FrameHandler {
    /// See [`Engine::look`].
    #[inline(always)]
    fn look(&self, _frame: &[u8]) -> Look {
        Look::NONE
    }
    /// See [`Engine::look_again`].
    #[inline(always)]
    fn look_again(&self, _look: &mut Look) {}
    /// See [`Engine::straight`]. A frame that goes straight is this worker's, whose flow it is of.
    #[inline(always)]
    fn straight(&mut self, _port: PortId, _look: Look, _frame: &mut Frame<'_>, _now: Time) -> Option<Verdict> {
        None
    }
    /// See [`Engine::handle_parsed`].
    fn handle(
        &mut self,
        port: PortId,
        headers: &Headers,
        frame: &mut Frame<'_>,
        now: Time,
        fx: &mut dyn Effects,
    ) -> Verdict;
    /// See [`Engine::poll`].
    fn poll(&mut self, now: Time, fx: &mut dyn Effects);
    /// See [`Engine::next_deadline`].
    fn next_deadline(&self) -> Option<Time>;
    /// See [`Engine::apply`].
    fn apply(&mut self, revision: &Arc<Revision>, now: Time);
    /// See [`Engine::shutdown`].
    fn shutdown(&mut self, budget: usize, now: Time, fx: &mut dyn Effects) -> bool;
    /// See [`Engine::counters`].
    fn counters(&self) -> &Counters;
    /// See [`Engine::conflicts`].
    fn conflicts(&self) -> Conflicts {
        Conflicts::new()
    }
    /// See [`Engine::flows`].
    fn flows(&self) -> usize;
    /// See [`Engine::next_update`].
    fn next_update(&mut self) -> Option<Update> {
        None
    }
    /// See [`Engine::learn`].
    fn learn(&mut self, _update: Update) {}
    /// See [`Engine::unreachable`].
    fn unreachable(&self, _all: &mut Vec<Unreachable>) {}
    /// See [`Engine::carry_message`].
    fn carry_message(&mut self, _end: End, _message: &[u8], _now: Time, _fx: &mut dyn Effects) -> bool {
        false
    }
    /// See [`Engine::tunnel_changed`].
    fn tunnel_changed(&mut self, _news: News, _now: Time) {}
    /// See [`Engine::carry`].
    fn carry(&mut self, _parcel: &post::Parcel, _now: Time, _fx: &mut dyn Effects) {}
    /// See [`Engine::observe`].
    fn observe(&mut self, _seen: &Seen) {}
    /// See [`Engine::key_shown`].
    fn key_shown(&mut self, _news: &KeyNews, _now: Time) {}
    /// See [`Engine::take_hints`].
    #[inline(always)]
    fn take_hints(&mut self) -> Option<Hints> {
        None
    }
    /// See [`Engine::next_wake`].
    fn next_wake(&mut self) -> Option<usize> {
        None
    }
    /// See [`Engine::has_offers`].
    fn has_offers(&self) -> bool {
        false
    }
    /// See [`Engine::queues`].
    fn queues(&self, _all: &mut Vec<QueueState>) {}
    /// See [`Engine::admission`].
    fn admission(&self) -> ClassCounters {
        ClassCounters::default()
    }
    /// See [`Engine::backends_up`].
    fn backends_up(&self) -> BackendSet {
        BackendSet::EMPTY
    }
    /// See [`Affinity::metrics`](lb::Affinity::metrics). Asked for when somebody wants to know.
    fn session_metrics(&self) -> Option<Metrics> {
        None
    }
    /// See [`Engine::sessions`]. Asked for once, at the end.
    fn sessions(&self, _now: Time) -> Option<Sessions> {
        None
    }
    /// See [`Engine::connections`]. Asked for when somebody wants to know.
    fn connections(
        &self,
        _from: FlowId,
        _places: usize,
        _meant: &Meant,
        _now: Time,
        _each: &mut dyn FnMut(Shown) -> bool,
    ) -> Option<FlowId> {
        None
    }
    /// See [`Engine::trails`]. Asked for when somebody wants to know.
    fn trails(
        &self,
        _from: u32,
        _places: usize,
        _sought: &Sought,
        _now: Time,
        _each: &mut dyn FnMut(Trail, Option<Shown>) -> bool,
    ) -> Option<u32> {
        None
    }
    /// See [`Engine::connection_at`]. Asked for while frames are shown.
    fn connection_at(&self, _key: &Key) -> Option<About> {
        None
    }
    /// See [`Engine::pack_to`]. Asked for when another process takes over.
    fn pack_to(&mut self, _rows_since: Time, _now: Time, _to: &mut Packer) {}
    /// See [`Engine::take_sessions`].
    fn take_sessions(&mut self, _bytes: &[u8], _owner: Owner<'_>, _now: Time) -> Result<usize, Unreadable> {
        Ok(0)
    }
    /// See [`Engine::memory_for`].
    fn memory_for(&self, _connections: usize) -> Vec<Range<*const u8>> {
        Vec::new()
    }
    /// See [`Engine::take_over`].
    fn take_over(&mut self, _all: &[Vec<u8>], _owner: Owner<'_>, _now: Time) -> Result<TakenOver, Unreadable> {
        Ok(TakenOver::default())
    }
    /// See [`Engine::port_name`].
    fn port_name(&self, _port: PortId) -> Option<&str> {
        None
    }
    /// See [`Engine::backend_name`].
    fn backend_name(&self, _backend: BackendId) -> Option<&str> {
        None
    }
}

impl FrameHandler for Engine {
    #[inline(always)]
    fn look(&self, frame: &[u8]) -> Look {
        Engine::look(self, frame)
    }
    #[inline(always)]
    fn look_again(&self, look: &mut Look) {
        Engine::look_again(self, look);
    }
    #[inline(always)]
    fn straight(&mut self, port: PortId, look: Look, frame: &mut Frame<'_>, now: Time) -> Option<Verdict> {
        Engine::straight(self, port, look, frame, now)
    }
    #[inline]
    fn handle(
        &mut self,
        port: PortId,
        headers: &Headers,
        frame: &mut Frame<'_>,
        now: Time,
        fx: &mut dyn Effects,
    ) -> Verdict {
        Engine::handle_parsed(self, port, headers, frame, now, fx)
    }
    fn poll(&mut self, now: Time, fx: &mut dyn Effects) {
        Engine::poll(self, now, fx);
    }
    fn next_deadline(&self) -> Option<Time> {
        Engine::next_deadline(self)
    }
    fn apply(&mut self, revision: &Arc<Revision>, now: Time) {
        Engine::apply(self, revision, now);
    }
    fn shutdown(&mut self, budget: usize, now: Time, fx: &mut dyn Effects) -> bool {
        Engine::shutdown(self, budget, now, fx)
    }
    fn counters(&self) -> &Counters {
        Engine::counters(self)
    }
    fn conflicts(&self) -> Conflicts {
        Engine::conflicts(self).clone()
    }
    fn flows(&self) -> usize {
        Engine::flows(self)
    }
    fn next_update(&mut self) -> Option<Update> {
        Engine::next_update(self)
    }
    fn learn(&mut self, update: Update) {
        Engine::learn(self, update);
    }
    fn unreachable(&self, all: &mut Vec<Unreachable>) {
        all.extend(Engine::unreachable(self).map(|(backend, how, since)| Unreachable { backend, how, since }));
    }
    fn carry_message(&mut self, end: End, message: &[u8], now: Time, fx: &mut dyn Effects) -> bool {
        Engine::carry_message(self, end, message, now, fx)
    }
    fn tunnel_changed(&mut self, news: News, now: Time) {
        Engine::tunnel_changed(self, news.end, news.up, news.lost, now);
    }
    fn carry(&mut self, parcel: &post::Parcel, now: Time, fx: &mut dyn Effects) {
        Engine::carry(self, parcel.backend(), parcel.generation(), parcel.packet(), now, fx);
    }
    fn observe(&mut self, seen: &Seen) {
        Engine::observe(self, seen.backend, seen.generation, seen.checked, seen.named);
    }
    fn key_shown(&mut self, news: &KeyNews, now: Time) {
        Engine::key_shown(self, news.backend, news.generation, &news.name, now);
    }
    #[inline(always)]
    fn take_hints(&mut self) -> Option<Hints> {
        Engine::take_hints(self)
    }
    fn next_wake(&mut self) -> Option<usize> {
        Engine::next_wake(self)
    }
    fn has_offers(&self) -> bool {
        Engine::has_offers(self)
    }
    fn queues(&self, all: &mut Vec<QueueState>) {
        all.extend(Engine::queues(self));
    }
    fn admission(&self) -> ClassCounters {
        Engine::admission(self)
    }
    fn backends_up(&self) -> BackendSet {
        Engine::backends_up(self)
    }
    fn session_metrics(&self) -> Option<Metrics> {
        Some(Engine::affinity(self).metrics())
    }
    fn sessions(&self, now: Time) -> Option<Sessions> {
        Some(Engine::sessions(self, now))
    }
    fn connections(
        &self,
        from: FlowId,
        places: usize,
        meant: &Meant,
        now: Time,
        each: &mut dyn FnMut(Shown) -> bool,
    ) -> Option<FlowId> {
        Engine::connections(self, from, places, meant, now, each)
    }
    fn trails(
        &self,
        from: u32,
        places: usize,
        sought: &Sought,
        now: Time,
        each: &mut dyn FnMut(Trail, Option<Shown>) -> bool,
    ) -> Option<u32> {
        Engine::trails(self, from, places, sought, now, each)
    }
    fn connection_at(&self, key: &Key) -> Option<About> {
        Engine::connection_at(self, key)
    }
    fn pack_to(&mut self, rows_since: Time, now: Time, to: &mut Packer) {
        Engine::pack_to(self, rows_since, now, to);
    }
    fn take_sessions(&mut self, bytes: &[u8], owner: Owner<'_>, now: Time) -> Result<usize, Unreadable> {
        Engine::take_sessions(self, bytes, owner, now)
    }
    fn memory_for(&self, connections: usize) -> Vec<Range<*const u8>> {
        Engine::memory_for(self, connections).into()
    }
    fn take_over(&mut self, all: &[Vec<u8>], owner: Owner<'_>, now: Time) -> Result<TakenOver, Unreadable> {
        Engine::take_over(self, all, owner, now)
    }
    fn port_name(&self, port: PortId) -> Option<&str> {
        Engine::port_name(self, port)
    }
    fn backend_name(&self, backend: BackendId) -> Option<&str> {
        Engine::backend_name(self, backend)
    }
}

/// A backend that is down as far as a worker's probes say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreachable {
    /// Which.
    pub backend: BackendId,
    /// How it does not answer.
    pub how: Passive,
    /// Since when, on the workers' clock.
    pub since: Time,
}

/// What a worker tells the outside, every now and then.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When, on the worker's clock.
    pub at: Time,
    /// The engine's.
    pub counters: Counters,
    /// Other hosts that claim addresses of ours.
    pub conflicts: Conflicts,
    /// Flows open.
    pub flows: usize,
    /// Backends that answer, as far as this worker knows; folded: as far as any does.
    pub backends_up: BackendSet,
    /// What became of those who asked for room at a backend.
    pub admission: ClassCounters,
    /// The same by line, with who waits there now.
    pub queues: Vec<QueueState>,
    /// Backends that do not answer it; folded: the first worker's.
    pub unreachable: Vec<Unreachable>,
    /// Its tunnels whose packets are sealed; folded: all workers', in their order.
    pub tunnels: Vec<tunnel::Shown>,
    /// By port: what came in.
    pub received: Vec<Traffic>,
    /// By port: what went out.
    pub sent: Vec<Traffic>,
    /// Ended connections.
    pub totals: Totals,
    /// What the affinity tables counted; only in the last snapshot.
    pub sessions: Option<Sessions>,
    /// Turns of the loop that found frames.
    pub busy_turns: u64,
    /// Turns that found none.
    pub idle_turns: u64,
    /// What was handed over to other workers, and came from them.
    pub handover: Handover,
    /// How long it was away from its queues.
    pub pauses: Pauses,
}

impl Snapshot {
    /// All workers' together: sums; and the latest time.
    pub fn fold(all: &[Snapshot]) -> Snapshot {
        let mut sum = all.first().cloned().unwrap_or_default();
        for one in all.iter().skip(1) {
            sum.at = sum.at.max(one.at);
            sum.counters.add(&one.counters);
            one.conflicts.iter().for_each(|claim| conflicts::note(&mut sum.conflicts, *claim));
            sum.flows += one.flows;
            sum.backends_up = sum.backends_up.union(&one.backends_up);
            sum.admission += one.admission;
            fold_queues(&mut sum.queues, &one.queues);
            sum.tunnels.extend(one.tunnels.iter().cloned());
            fold_ports(&mut sum.received, &one.received);
            fold_ports(&mut sum.sent, &one.sent);
            sum.totals.merge(&one.totals);
            if let (Some(sum), Some(one)) = (&mut sum.sessions, &one.sessions) {
                sum.metrics.merge(&one.metrics);
                // Each counts the rows of all shards; the latest knows best.
                sum.census = one.census;
            }
            sum.busy_turns += one.busy_turns;
            sum.idle_turns += one.idle_turns;
            sum.handover += one.handover;
            sum.pauses.merge(&one.pauses);
        }
        if let Some(sessions) = &mut sum.sessions {
            sessions.metrics.updates_lost += sum.handover.updates_lost;
        }
        sum
    }
}

fn fold_queues(sum: &mut Vec<QueueState>, one: &[QueueState]) {
    for one in one {
        match sum.iter_mut().find(|line| (line.gate, line.class) == (one.gate, one.class)) {
            Some(line) => {
                line.waiting += one.waiting;
                line.counters += one.counters;
            }
            None => sum.push(*one),
        }
    }
}

fn fold_ports(sum: &mut [Traffic], one: &[Traffic]) {
    for (sum, one) in sum.iter_mut().zip(one) {
        // Every worker sees a link go down that they share.
        let link_downs = sum.link_downs.max(one.link_downs);
        let reopened = sum.reopened.max(one.reopened);
        *sum = Traffic { link_downs, reopened, ..sum.plus(one) };
    }
}

/// What a worker shares with the outside.
#[derive(Debug, Default)]
pub struct Status {
    /// Set by the outside: come to an end.
    pub stop: AtomicBool,
    /// Set by the outside: with the next snapshot tell what the affinity tables have counted, too. Taken back by the worker.
    session_metrics_wanted: AtomicBool,
    /// That, once it was told.
    session_metrics: Mutex<Option<Metrics>>,
    /// Put down by the outside: which connections to tell of.
    listings: listing::Desk,
    /// Put down by the outside: where to stop.
    halts: succession::Stop,
    /// Put down by the outside: which frames to show.
    taps: tap::Bench,
    /// Written by the worker when it can have the lock at once, and at its end in any case.
    snapshot: Mutex<Snapshot>,
}

impl Status {
    /// Puts down which frames the worker is to show, until the tap is ended.
    pub fn show(&self, tap: Arc<Tap>) {
        self.taps.put(tap);
    }

    /// The latest snapshot.
    pub fn snapshot(&self) -> Snapshot {
        // A worker that died while it wrote leaves numbers that are still numbers.
        self.snapshot.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

/// A port that a worker is to open.
#[derive(Clone, Debug)]
pub struct PortPlan {
    /// Its name in reports.
    pub name: String,
    /// What is behind it.
    pub device: Device,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Record everything that passes in this file.
    pub tee: Option<PathBuf>,
    /// Another process has the device still: it is opened, and nothing arrives before [`Receiver::begin`](io::Receiver::begin).
    pub standby: bool,
}

/// What is behind a port.
#[derive(Clone, Debug)]
pub enum Device {
    /// An interface of the kernel's, with large units or without.
    AfPacket(String, DeviceInfo, bool),
    /// An interface of the kernel's, past its stack.
    AfXdp(String, DeviceInfo, af_xdp::Mode),
    /// A capture to read, and one to write.
    Pcap(PathBuf, Option<PathBuf>),
    /// A card or virtual device of DPDK's.
    #[cfg(feature = "dpdk")]
    Dpdk(io::dpdk::PortSetup),
}

/// Which frames are ours: for a version of the directory, what is leaving included.
pub fn filter(config: &Config, directory: &Directory) -> Filter {
    Filter {
        addresses: config.ports.iter().flat_map(|p| p.addresses.iter().map(|(ip, _)| *ip)).collect(),
        services: directory.listeners().iter().map(|l| l.addr()).collect(),
        backends: directory.backends().map(|b| b.addr).collect(),
        tunnels: directory.backends().filter_map(|b| b.tunnel).flat_map(|tunnel| arriving(config, &tunnel)).collect(),
        dnat: config.address_mode == AddressMode::Dnat,
    }
}

/// From where, and to which UDP port of ours, what comes through a tunnel arrives.
fn arriving(config: &Config, tunnel: &Tunnel) -> Vec<SocketAddr> {
    let at = |worker| SocketAddr::new(tunnel.endpoint.ip(), sealed_port(worker));
    if tunnel.seals().is_some() { (0..config.sealers).map(at).collect() } else { vec![tunnel.endpoint] }
}

/// The ports of the drivers whose ports are opened together.
fn by_driver(plans: &[PortPlan]) -> (Vec<af_packet::Device>, Vec<af_xdp::Device>) {
    let (mut packet, mut xdp) = (Vec::new(), Vec::new());
    for plan in plans {
        match &plan.device {
            Device::AfPacket(name, info, offload) => {
                let info = DeviceInfo { mtu: plan.mtu, ..info.clone() };
                packet.push(af_packet::Device { name: name.clone(), info, offload: *offload, standby: plan.standby });
            }
            Device::AfXdp(name, info, mode) => {
                let info = DeviceInfo { mtu: plan.mtu, ..info.clone() };
                xdp.push(af_xdp::Device { name: name.clone(), info, mode: *mode });
            }
            _ => {}
        }
    }
    (packet, xdp)
}

/// Bytes of memory for frames that these ports take once they are open, of all workers together.
pub fn port_memory(plans: &[PortPlan], workers: usize) -> usize {
    let (packet, xdp) = by_driver(plans);
    workers * af_packet::memory(&packet) + af_xdp::memory(&xdp, workers)
}

/// Whether any of these ports takes large units.
pub fn take_large_units(plans: &[PortPlan]) -> bool {
    plans.iter().any(|plan| match &plan.device {
        Device::AfPacket(_, _, large) => *large,
        #[cfg(feature = "dpdk")]
        Device::Dpdk(setup) => setup.offload,
        _ => false,
    })
}

/// The ports that DPDK is to open, in order.
#[cfg(feature = "dpdk")]
pub fn dpdk_ports(plans: &[PortPlan]) -> Vec<io::dpdk::PortSetup> {
    let device = |plan: &PortPlan| match &plan.device {
        Device::Dpdk(setup) => Some(setup.clone()),
        _ => None,
    };
    plans.iter().filter_map(device).collect()
}

/// What the workers have in common at the kernel's interfaces, by driver and in their order: the same for all workers.
#[derive(Clone, Debug)]
pub struct SharedDevices {
    workers: usize,
    fanouts: Vec<Arc<Fanout>>,
    xdp: Vec<Arc<af_xdp::Common>>,
}

impl SharedDevices {
    /// For so many workers.
    pub fn new(plans: &[PortPlan], workers: usize) -> SharedDevices {
        let (packet, xdp) = by_driver(plans);
        let interfaces = if workers > 1 { packet.len() } else { 0 };
        SharedDevices {
            workers,
            fanouts: (0..interfaces).map(|_| Arc::default()).collect(),
            xdp: xdp.iter().map(|_| Arc::default()).collect(),
        }
    }

    /// The same, where another process has passed what it has of af-xdp. `Err`: it cannot be gone on with, and why.
    pub fn inheriting(plans: &[PortPlan], workers: usize, passed: Passed) -> Result<SharedDevices, String> {
        let (_, xdp) = by_driver(plans);
        if xdp.len() != passed.places.len()
            || xdp.iter().zip(&passed.places).any(|(here, there)| here.name != there.name)
        {
            let names: Vec<_> = passed.places.iter().map(|place| place.name.as_str()).collect();
            return Err(format!("the running one has these devices by af-xdp: {}", names.join(", ")));
        }
        for (here, there) in xdp.iter().zip(&passed.places) {
            if usize::from(here.info.queues) != there.queues() {
                let (name, here, there) = (&here.name, here.info.queues, there.queues());
                return Err(format!(
                    "af-xdp:{name} has {here} receive queues, and had {there} when the running one started: a restart, or as many as before (ethtool -L)"
                ));
            }
        }
        let mut memories = Some(passed.memories);
        let common = |place| Arc::new(af_xdp::Common::inherited(place, memories.take().unwrap_or_default()));
        let xdp = passed.places.into_iter().map(common).collect();
        Ok(SharedDevices { xdp, ..SharedDevices::new(plans, workers) })
    }

    /// What another process needs to go on with af-xdp.
    pub fn lend(&self) -> std::io::Result<Passed> {
        let places = self.xdp.iter().filter_map(|common| common.lend().transpose()).collect::<std::io::Result<_>>()?;
        let memories = self.xdp.first().map(|common| common.lend_memories()).transpose()?.unwrap_or_default();
        Ok(Passed { places, memories })
    }

    /// The devices are this process's, for good. Not for workers, which run already: exchanging a program may have to wait for whatever else is being
    /// changed at the machine's devices, and that of the process before does the same.
    pub fn take_charge(&self) {
        self.xdp.iter().for_each(|common| common.take_charge());
    }

    /// Whether the drivers have room for it.
    pub fn fits(&self, filter: &Filter) -> Result<(), OpenError> {
        if self.xdp.is_empty() { Ok(()) } else { af_xdp::fits(filter) }
    }

    /// Has the drivers take exactly this from now on, while the workers run; what stays is taken without a gap. Other drivers than af-xdp
    /// take all frames, and leave it to the engine to tell. For any thread but the workers': it asks the kernel for a lot.
    ///
    /// What is to be served must be taken first, and what is no longer served may be left to the kernel afterwards only. When it fails,
    /// more may be taken than was before, and nothing less.
    pub fn set_filter(&self, filter: &Filter) -> Result<(), OpenError> {
        self.fits(filter)?;
        self.xdp.iter().try_for_each(|common| common.set_filter(filter))
    }
}

/// Opens one worker's queues of every port, in their order. What shares memory is opened together. `opened` are the ports of drivers
/// that open theirs beforehand (DPDK's), in their order.
pub fn open_ports(
    plans: &[PortPlan],
    filter: &Filter,
    worker: usize,
    devices: &SharedDevices,
    opened: Vec<Port>,
) -> Result<Vec<Port>, OpenError> {
    let (packet, xdp) = by_driver(plans);
    let mut packet = af_packet::open_shared(&packet, &devices.fanouts)?.into_iter();
    let part = af_xdp::Part { worker, workers: devices.workers };
    let xdp = if xdp.is_empty() { Vec::new() } else { af_xdp::open_part(&xdp, filter, part, &devices.xdp)?.0 };
    let mut xdp = xdp.into_iter();
    #[cfg(feature = "dpdk")]
    let mut opened = opened.into_iter();
    #[cfg(not(feature = "dpdk"))]
    drop(opened);
    let lost = || OpenError("port lost while opening".into());
    let mut ports = Vec::with_capacity(plans.len());
    for plan in plans {
        let port = match &plan.device {
            Device::AfPacket(..) => packet.next().ok_or_else(lost)?,
            Device::AfXdp(..) => xdp.next().ok_or_else(lost)?,
            Device::Pcap(input, output) => io::pcap::open(input, output.as_ref(), plan.mtu)?,
            #[cfg(feature = "dpdk")]
            Device::Dpdk(_) => opened.next().ok_or_else(lost)?,
        };
        ports.push(match &plan.tee {
            Some(path) => io::tee::tee(port, &plan.name, &tee_path(path, worker))?,
            None => port,
        });
    }
    Ok(ports)
}

/// Each worker writes a file of its own: those behind the first put their number behind the name.
fn tee_path(path: &Path, worker: usize) -> PathBuf {
    if worker == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{worker}"));
    name.into()
}

/// Everything a worker needs to start.
pub struct Plan {
    /// For its engine; `config.ports` in the order of `ports`. The same for all workers.
    pub config: Config,
    /// Its engine's part.
    pub share: Share,
    /// Its way to the others, where there are several workers.
    pub exchange: Option<Exchange>,
    /// How it hears of changes.
    pub changes: Subscriber,
    /// How it and whoever makes the checks hear of each other.
    pub window: post::Window,
    /// The same for all workers.
    pub devices: SharedDevices,
    /// The same for all workers, or they would take each other's cookies for old.
    pub clock: poll::Clock,
    /// Keys the engine's hashes and cookies.
    pub secret: [u8; 32],
    /// What to open.
    pub ports: Vec<PortPlan>,
    /// When nothing arrives.
    pub idle: Idle,
    /// The core to run on.
    pub core: Option<usize>,
    /// That core as DPDK has it: with ports of DPDK's.
    #[cfg(feature = "dpdk")]
    pub seat: Option<io::dpdk::Seat>,
    /// Where ended connections are told.
    pub journal: Option<Journal>,
    /// What the keys of tunnels are made of; the same for all workers.
    pub tunnel_key: Option<Arc<Secret>>,
    /// Where it waits, if it is to go on from what another process was.
    pub gate: Option<succession::Gate>,
}

/// A worker that runs.
pub struct Worker {
    thread: JoinHandle<()>,
    /// What it tells.
    pub status: Arc<Status>,
    /// What its ports turned out to be, in order.
    pub ports: Vec<String>,
}

/// Starts worker `number`, and comes back when its ports are open and its tables built, or when they cannot be.
pub fn start(number: usize, plan: Plan) -> Result<Worker, String> {
    let status = Arc::new(Status::default());
    let for_thread = status.clone();
    let (tell, told) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            #[cfg(feature = "dpdk")]
            let plan = {
                let mut plan = plan;
                if let Some(seat) = plan.seat.take() {
                    // DPDK has a thread on the core already; this one waits for its end. If there is none, `told` hears of it.
                    let _ = seat.run(move |core| work(plan, core.open(), &for_thread, tell));
                    return;
                }
                plan
            };
            work(plan, Ok(Vec::new()), &for_thread, tell);
        })
        .map_err(|e| format!("cannot start a thread: {e}"))?;
    match told.recv() {
        Ok(Ok(ports)) => Ok(Worker { thread, status, ports }),
        Ok(Err(why)) => Err(why),
        // The panic itself has been told by the hook.
        Err(_) => Err(format!("worker {number} died while it was starting")),
    }
}

/// A worker's whole life. What it holds is gone when this is over.
fn work(
    plan: Plan,
    opened: Result<Vec<Port>, OpenError>,
    status: &Status,
    tell: mpsc::SyncSender<Result<Vec<String>, String>>,
) {
    let mut plan = plan;
    let gate = plan.gate.take();
    // Whoever takes over waits for those.
    let has_cards = opened.as_ref().is_ok_and(|opened| !opened.is_empty());
    match opened.map_err(|e| e.to_string()).and_then(|opened| prepare(plan, opened)) {
        Ok((mut run, descriptions)) => {
            let _ = tell.send(Ok(descriptions));
            // Nobody waits for it any more.
            drop(tell);
            if gate.is_none_or(|gate| run.wait_at(&gate)) && run.run(status) == poll::Ending::TakenOver && !has_cards {
                io::go_behind_others();
            }
        }
        Err(why) => _ = tell.send(Err(why)),
    }
}

fn prepare(plan: Plan, opened: Vec<Port>) -> Result<(poll::Loop<Engine>, Vec<String>), String> {
    if let Some(core) = plan.core {
        io::pin_to_core(core).map_err(|e| format!("core {core}: cannot run there: {e}"))?;
    }
    let backends: Vec<_> = plan.config.backends().iter().map(|b| b.name.clone()).collect();
    // The configuration first: it costs nothing outside.
    let clock = plan.clock;
    let filter = filter(&plan.config, plan.share.directory());
    let number = plan.share.worker();
    let longest = plan.ports.iter().map(|p| usize::from(p.mtu)).max().unwrap_or(1500);
    let edge = plan.tunnel_key.map(|secret| {
        let mut edge = Edge::new(&secret, number, longest, clock.now());
        edge.follow(plan.share.directory(), clock.now());
        edge
    });
    let engine = Engine::for_worker(plan.config, plan.secret, plan.share, clock.now()).map_err(|e| e.to_string())?;
    engine.memory().iter().for_each(io::ask_for_large_pages);
    engine.affinity().memory().iter().for_each(io::move_into_large_pages);
    let ports = open_ports(&plan.ports, &filter, number, &plan.devices, opened).map_err(|e| e.to_string())?;
    let descriptions = ports.iter().map(|p| p.description.clone()).collect();
    let run = poll::Loop::new(engine, ports, clock, plan.idle, plan.journal, Totals::new(backends));
    let run = run.following(plan.changes).checking(plan.window);
    let run = match edge {
        Some(edge) => run.sealing(edge),
        None => run,
    };
    let run = match plan.exchange {
        Some(exchange) => run.among(exchange),
        None => run,
    };
    Ok((run, descriptions))
}

/// How often an answer of a worker is looked for.
const LOOK_FOR_ANSWER: Duration = Duration::from_micros(100);

impl Worker {
    /// Asks what this worker's affinity tables have counted. It answers in its next turn.
    pub fn ask_for_session_metrics(&self) {
        // What nobody fetched is old.
        drop(self.told_session_metrics());
        // Relaxed: what is told goes by the lock.
        self.status.session_metrics_wanted.store(true, Ordering::Relaxed);
    }

    fn told_session_metrics(&self) -> Option<Metrics> {
        self.status.session_metrics.lock().unwrap_or_else(|e| e.into_inner()).take()
    }

    /// The answer; none when it does not come in time.
    pub fn session_metrics(&self, until: Instant) -> Option<Metrics> {
        loop {
            let told = self.told_session_metrics();
            if told.is_some() || self.is_finished() || Instant::now() >= until {
                return told;
            }
            std::thread::sleep(LOOK_FOR_ANSWER);
        }
    }

    /// Puts down which connections it is to tell of; `listing` says when it has.
    pub fn list(&self, listing: Arc<Listing>) {
        self.status.listings.put(listing);
    }

    /// Puts down which frames it is to show, until the tap is ended.
    pub fn show(&self, tap: Arc<Tap>) {
        self.status.show(tap);
    }

    /// It is to stop there. It is the worker of this number.
    pub fn halt(&self, number: usize, halt: Arc<succession::Halt>) {
        io::Urgency::begin_for(&self.thread);
        self.status.halts.put(number, halt);
    }

    /// Asks it to come to an end.
    pub fn stop(&self) {
        self.status.stop.store(true, Ordering::Relaxed);
    }

    /// It has come to an end, of itself or otherwise.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end: what it told last, and whether it died.
    pub fn join(self) -> (Snapshot, bool) {
        let died = self.thread.join().is_err();
        (self.status.snapshot(), died)
    }
}
