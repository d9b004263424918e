//! Workers: one thread on one core each, that polls its queues and owns everything it writes on the hot path.
//!
//! * [`poll`]: the loop.
//! * [`idle`]: what a worker does when nothing has arrived.
//! * [`totals`]: what its ended connections add up to.
//!
//! There is one worker for now. What a second one needs is prepared: a worker opens its own ports in its own thread,
//! builds its own engine, and tells the outside only through [`Shared`]; frames that belong to another worker's flow
//! would travel through a bounded mailbox polled like one more receiver.

#[cfg(feature = "dpdk")]
mod dpdk;
pub mod idle;
pub mod poll;
pub mod totals;

pub use idle::Idle;
pub use totals::Totals;

use crate::engine::{Config, Counters, Effects, Engine, PortId, Verdict};
use crate::io::{self, DeviceInfo, OpenError, Port, Traffic};
use crate::journal::Journal;
use crate::sessions::Sessions;
use crate::time::Time;
use crate::wire::{Frame, Mac};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

/// What a worker feeds its frames to: the [`Engine`]; something simpler in tests of the loop.
pub trait FrameHandler {
    /// See [`Engine::handle`].
    fn handle(&mut self, port: PortId, frame: &mut Frame<'_>, now: Time, fx: &mut dyn Effects) -> Verdict;
    /// See [`Engine::poll`].
    fn poll(&mut self, now: Time, fx: &mut dyn Effects);
    /// See [`Engine::next_deadline`].
    fn next_deadline(&self) -> Option<Time>;
    /// See [`Engine::shutdown`].
    fn shutdown(&mut self, budget: usize, now: Time, fx: &mut dyn Effects) -> bool;
    /// See [`Engine::counters`].
    fn counters(&self) -> &Counters;
    /// See [`Engine::flows`].
    fn flows(&self) -> usize;
    /// See [`Engine::sessions`]. Asked for once, at the end.
    fn sessions(&self, _now: Time) -> Option<Sessions> {
        None
    }
}

impl FrameHandler for Engine {
    #[inline]
    fn handle(&mut self, port: PortId, frame: &mut Frame<'_>, now: Time, fx: &mut dyn Effects) -> Verdict {
        Engine::handle(self, port, frame, now, fx)
    }
    fn poll(&mut self, now: Time, fx: &mut dyn Effects) {
        Engine::poll(self, now, fx);
    }
    fn next_deadline(&self) -> Option<Time> {
        Engine::next_deadline(self)
    }
    fn shutdown(&mut self, budget: usize, now: Time, fx: &mut dyn Effects) -> bool {
        Engine::shutdown(self, budget, now, fx)
    }
    fn counters(&self) -> &Counters {
        Engine::counters(self)
    }
    fn flows(&self) -> usize {
        Engine::flows(self)
    }
    fn sessions(&self, now: Time) -> Option<Sessions> {
        Some(Engine::sessions(self, now))
    }
}

/// What a worker tells the outside, every now and then.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When, on the worker's clock.
    pub at: Time,
    /// The engine's.
    pub counters: Counters,
    /// Flows open.
    pub flows: usize,
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
}

/// What a worker shares with the outside.
#[derive(Debug, Default)]
pub struct Shared {
    /// Set by the outside: come to an end.
    pub stop: AtomicBool,
    /// Written by the worker when it can have the lock at once, and at its end in any case.
    snapshot: Mutex<Snapshot>,
}

impl Shared {
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
}

/// What is behind a port.
#[derive(Clone, Debug)]
pub enum Device {
    /// An interface of the kernel's.
    AfPacket(String, DeviceInfo),
    /// A capture to read, and one to write.
    Pcap(PathBuf, Option<PathBuf>),
    /// A card or virtual device of DPDK's.
    #[cfg(feature = "dpdk")]
    Dpdk(io::dpdk::DpdkDevice),
}

/// Opens one queue of every port, in their order. What shares memory is opened together. Ports of drivers that open
/// theirs beforehand (DPDK's) are taken from `opened`, in their order.
pub fn open_ports(plans: &[PortPlan], opened: impl IntoIterator<Item = Port>) -> Result<Vec<Port>, OpenError> {
    #[cfg(feature = "dpdk")]
    let mut opened = opened.into_iter();
    #[cfg(not(feature = "dpdk"))]
    drop(opened);
    let interfaces: Vec<_> = plans
        .iter()
        .filter_map(|plan| match &plan.device {
            Device::AfPacket(name, info) => Some((name.clone(), DeviceInfo { mtu: plan.mtu, ..info.clone() })),
            _ => None,
        })
        .collect();
    let mut interfaces = io::af_packet::open(&interfaces)?.into_iter();
    let mut ports = Vec::with_capacity(plans.len());
    for plan in plans {
        let port = match &plan.device {
            Device::AfPacket(..) => interfaces.next().ok_or_else(|| OpenError("port lost while opening".into()))?,
            Device::Pcap(input, output) => io::pcap::open(input, output.as_ref(), plan.mtu)?,
            #[cfg(feature = "dpdk")]
            Device::Dpdk(_) => opened.next().ok_or_else(|| OpenError("port lost while opening".into()))?,
        };
        ports.push(match &plan.tee {
            Some(path) => io::tee::tee(port, &plan.name, path)?,
            None => port,
        });
    }
    Ok(ports)
}

/// Everything a worker needs to start.
pub struct Plan {
    /// For its engine; `config.ports` in the order of `ports`.
    pub config: Config,
    /// Keys the engine's hashes and cookies.
    pub secret: [u8; 32],
    /// What to open.
    pub ports: Vec<PortPlan>,
    /// When nothing arrives.
    pub idle: Idle,
    /// The core to run on.
    pub core: Option<usize>,
    /// Where ended connections are told.
    pub journal: Option<Journal>,
}

/// A worker that runs.
pub struct Worker {
    thread: JoinHandle<()>,
    /// What it tells.
    pub shared: Arc<Shared>,
    /// What its ports turned out to be, in order.
    pub ports: Vec<String>,
    /// And their Ethernet addresses.
    pub macs: Vec<Mac>,
}

/// What a worker tells when its ports are open.
struct Started {
    ports: Vec<String>,
    macs: Vec<Mac>,
}

/// A port that was opened before the others, and the address that it turned out to have.
#[cfg(feature = "dpdk")]
use io::dpdk::Opened;
/// No driver of this build opens ports before the others.
#[cfg(not(feature = "dpdk"))]
struct Opened {
    port: Port,
    mac: Mac,
}

/// Starts a worker, and comes back when its ports are open and its tables built, or when they cannot be.
pub fn start(number: usize, plan: Plan) -> Result<Worker, String> {
    let shared = Arc::new(Shared::default());
    let for_thread = shared.clone();
    let (tell, told) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            #[cfg(feature = "dpdk")]
            if let Some(wanted) = dpdk::wanted(&plan) {
                return dpdk::run(plan, wanted, for_thread, tell);
            }
            let mut run = match prepare(plan, Vec::new()) {
                Ok((run, started)) => {
                    let _ = tell.send(Ok(started));
                    run
                }
                Err(why) => {
                    let _ = tell.send(Err(why));
                    return;
                }
            };
            run.run(&for_thread);
        })
        .map_err(|e| format!("cannot start a thread: {e}"))?;
    match told.recv() {
        Ok(Ok(Started { ports, macs })) => Ok(Worker { thread, shared, ports, macs }),
        Ok(Err(why)) => Err(why),
        // The panic itself has been told by the hook.
        Err(_) => Err(format!("worker {number} died while it was starting")),
    }
}

fn prepare(mut plan: Plan, opened: Vec<Opened>) -> Result<(poll::Loop<Engine>, Started), String> {
    if let Some(core) = plan.core {
        io::pin_to_core(core).map_err(|e| format!("core {core}: cannot run there: {e}"))?;
    }
    let backends: Vec<_> = plan.config.backends.iter().map(|b| b.name.clone()).collect();
    // The configuration first: it costs nothing outside.
    let clock = poll::Clock::start();
    let unknown = plan.config.ports.iter_mut().filter(|port| port.mac == Mac::default());
    unknown.zip(&opened).for_each(|(spec, opened)| spec.mac = opened.mac);
    let macs = plan.config.ports.iter().map(|port| port.mac).collect();
    let engine = Engine::new(plan.config, plan.secret, clock.now()).map_err(|e| e.to_string())?;
    let ports = open_ports(&plan.ports, opened.into_iter().map(|opened| opened.port)).map_err(|e| e.to_string())?;
    let started = Started { ports: ports.iter().map(|p| p.description.clone()).collect(), macs };
    Ok((poll::Loop::new(engine, ports, clock, plan.idle, plan.journal, Totals::new(backends)), started))
}

impl Worker {
    /// Asks it to come to an end.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// It has come to an end, of itself or otherwise.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end: what it told last, and whether it died.
    pub fn join(self) -> (Snapshot, bool) {
        let died = self.thread.join().is_err();
        (self.shared.snapshot(), died)
    }
}
