//! DPDK: cards without the kernel between, and DPDK's virtual devices. Behind the cargo feature `dpdk`.
//!
//! `capsule` brings up EAL and the mempools, and has one thread on each worker's core. From there on it stands
//! aside: its own batches cost several times what a raw burst does, so the queues are driven by [`queue`]'s halves, as
//! those of any other driver; and ports come and go ([`ports`]), which its own cannot. DPDK is started once, before any worker: [`Dpdk::start`] comes
//! back when the ports run and every core waits for work. A [`Seat`] is one core; what is run on it ([`Seat::run`]) opens its queue of every port by
//! [`Core::open`], and may keep the core for as long as it likes: it is one turn of a task of capsule's.
//!
//! **Another process** that takes over gets the ports when this one has let go of them ([`Cards`]); it has everything else by then ([`Dpdk::start_beside`]). Its
//! queues are opened without a port, and find it when they are told that it is theirs.
//!
//! **Threads.** The first core is EAL's main one, and its thread capsule's main loop, which waits for signals when it has
//! nothing else to do; the others are threads that capsule starts. `capsule-ffi` registers them with DPDK when they are bound,
//! without which they would bypass the mempools' caches.
//!
//! **Queues.** Each core has one queue of every port, numbered in order of the cores' numbers ([`queue_of`]). A
//! port that serves several cores divides what it receives by RSS, if it can.
//!
//! **Signals.** capsule ends when one of its signals comes and we say so. We never do for SIGINT and SIGTERM: those
//! stop the workers; the end of the first core's work is told to capsule by a SIGHUP to that very thread, and capsule
//! then waits for the other cores. SIGHUP from outside is ignored.
//!
//! **Large units.** A port that is asked to (`offload=on`) merges what it receives and cuts what it sends, if it can: `large`.
//!
//! **Memory.** As many buffers as all queues together can hold, and then some ([`setup::buffers`]). In huge pages or ordinary
//! ones ([`setup::Pages`]). Nothing is left on the file system.

mod device;
mod explain;
mod large;
mod ports;
mod queue;
mod setup;

pub use device::DpdkDevice;
pub use setup::{MAX_MTU, Pages, PortSetup, port_memory};

use super::cards::{Card, Cards, Spread, Told};
use super::link_watch::LinkWatch;
use super::{MAX_LINK_HEADER, OpenError, Port, RegionId, Traffic, device_info};
use crate::flow::Rss;
use crate::wire::Mac;
use arrayvec::ArrayVec;
use capsule::Runtime;
use capsule_ffi as ffi;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicBool, Ordering};
use large::Units;
use queue::{Link, Pool, QueueReceiver, QueueTransmitter};
use setup::Found;
use signal_hook::consts::SIGHUP;
use std::ffi::{CStr, CString};
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a core looks for its work before it has it.
const LOOK: Duration = Duration::from_millis(5);

/// What `dispatcher_large` says of a port.
const MERGES: i32 = 1;
const CUTS: i32 = 2;
const ONLY_V4: i32 = 4;

/// Held by whatever needs DPDK.
type Alive = Arc<()>;

/// What is run on a core.
type Job = Box<dyn FnOnce(&Core) + Send>;

/// DPDK, started. Ended, and waited for, when this is dropped; by then whatever ran on its cores must have been told to stop.
pub struct Dpdk {
    /// What the ports are, in order: as they turned out to be, or as the process has told that has them still.
    cards: Vec<Card>,
    shared: Arc<Shared>,
    /// Of each core that has not been taken, in order of the cores given.
    seats: Vec<Option<Seat>>,
    host: Option<JoinHandle<()>>,
}

/// A core that waits for work.
pub struct Seat {
    jobs: Sender<Job>,
}

/// What a core has: handed to what runs on it.
pub struct Core {
    shared: Arc<Shared>,
    core: usize,
    queue: u16,
    alive: Alive,
}

/// The same for all cores.
struct Shared {
    ports: Vec<PortSetup>,
    cores: Vec<usize>,
    pages: Pages,
}

/// What the thread that hosts capsule says.
enum Said {
    Failed(OpenError),
    Built(Vec<Card>),
    /// A core waits for work.
    Ready,
}

/// The queue, of every port, that the worker on `core` has among workers on `cores`.
pub fn queue_of(core: usize, cores: &[usize]) -> u16 {
    cores.iter().filter(|other| **other < core).count() as u16
}

impl Dpdk {
    /// Brings up DPDK with these ports, each with a queue for each of `cores`, which are different ones.
    ///
    /// Once in the life of a process: DPDK cannot be started again.
    pub fn start(ports: Vec<PortSetup>, cores: &[usize]) -> Result<Dpdk, OpenError> {
        Dpdk::start_with(ports, cores, None)
    }

    /// The same without the ports, which another process has: it has told of them, in the same order. [`Cards::take_up`] opens them.
    pub fn start_beside(ports: Vec<PortSetup>, cores: &[usize], told: Told) -> Result<Dpdk, OpenError> {
        Dpdk::start_with(ports, cores, Some(told))
    }

    fn start_with(ports: Vec<PortSetup>, cores: &[usize], told: Option<Told>) -> Result<Dpdk, OpenError> {
        static STARTED: AtomicBool = AtomicBool::new(false);
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(OpenError("dpdk: can be started once in a process only".into()));
        }
        let pages = setup::pages(&ports, cores.len())?;
        setup::check_nodes(&ports, cores)?;
        let shared = Arc::new(Shared { ports, cores: cores.to_vec(), pages });
        let for_host = shared.clone();
        let (senders, receivers): (Vec<_>, Vec<_>) = cores.iter().map(|_| mpsc::channel()).unzip();
        let (tell, said) = mpsc::channel();
        let host = std::thread::Builder::new()
            .name("dpdk".into())
            .spawn(move || {
                if let Err(why) = host(for_host, receivers, tell.clone(), told) {
                    let _ = tell.send(Said::Failed(why));
                }
            })
            .map_err(|e| OpenError(format!("dpdk: cannot start a thread: {e}")))?;
        let seats = senders.into_iter().map(|jobs| Some(Seat { jobs })).collect();
        let mut dpdk = Dpdk { cards: Vec::new(), shared, seats, host: Some(host) };
        let mut waited_for = cores.len();
        while waited_for > 0 {
            match said.recv() {
                Ok(Said::Built(cards)) => dpdk.cards = cards,
                Ok(Said::Ready) => waited_for -= 1,
                Ok(Said::Failed(why)) => return Err(why),
                Err(_) => return Err(OpenError("dpdk: ended while it was starting".into())),
            }
        }
        Ok(dpdk)
    }

    /// The ports' Ethernet addresses, in order.
    pub fn macs(&self) -> impl Iterator<Item = Mac> {
        self.cards.iter().map(|card| card.mac)
    }

    /// To which worker each port brings what, by the order of the cores; none where it has one only, or does not tell.
    pub fn rss(&self) -> impl Iterator<Item = Option<Arc<Rss>>> {
        let of_spread = |spread: &Spread| rss_of(spread, &self.shared.cores).map(Arc::new);
        self.cards.iter().map(move |card| card.spread.as_ref().and_then(of_spread))
    }

    /// What the ports are, for people, in order.
    pub fn descriptions(&self) -> impl Iterator<Item = String> {
        self.shared.ports.iter().map(|setup| self.shared.describe(setup))
    }

    /// The core of worker `number`, by the order of the cores given; none when it has been taken.
    pub fn seat(&mut self, number: usize) -> Option<Seat> {
        self.seats.get_mut(number)?.take()
    }
}

impl Cards for Dpdk {
    fn tell(&self) -> Told {
        // SAFETY: no arguments.
        let virtual_addresses = unsafe { ffi::dispatcher_iova_is_va() } != 0;
        Told { cards: self.cards.clone(), virtual_addresses }
    }

    fn let_go(&self) -> Result<(), String> {
        ports::close(&self.shared.ports)
    }

    fn take_up(&self) -> Result<(), String> {
        let Shared { ports, cores, .. } = &*self.shared;
        ports::attach_and_open(ports, cores).map_err(|e| e.0)?;
        let other = self.cards.iter().find(|card| !ports::go_on_as(&card.name, card.mac, card.spread.as_ref()));
        other.map_or(Ok(()), |card| {
            _ = ports::close(ports);
            Err(format!("dpdk:{}: its address is another one now", card.name))
        })
    }
}

impl Drop for Dpdk {
    fn drop(&mut self) {
        // Those that wait for work wait no longer.
        self.seats.clear();
        if let Some(host) = self.host.take() {
            // What it died of has been told by the hook.
            let _ = host.join();
        }
    }
}

impl Seat {
    /// Runs `work` on the core, and comes back when it is over; panics when it did. False when the core was not there any more.
    pub fn run<F: FnOnce(&Core) + Send + 'static>(self, work: F) -> bool {
        let (tell, told) = mpsc::channel();
        let job: Job = Box::new(move |core| {
            // A core that unwound would take capsule with it, and the other cores' ends.
            let _ = tell.send(panic::catch_unwind(AssertUnwindSafe(|| work(core))));
        });
        if self.jobs.send(job).is_err() {
            return false;
        }
        match told.recv() {
            Ok(Ok(())) => true,
            Ok(Err(panic)) => panic::resume_unwind(panic),
            Err(_) => false,
        }
    }
}

impl Core {
    /// This core's queue of every port, in order. To be called, and used, on this core's thread; once.
    pub fn open(&self) -> Result<Vec<Port>, OpenError> {
        // What a port that is not there can do is not known.
        let merges = |setup: &PortSetup| match ports::port_of(&setup.device.name) {
            // SAFETY: only the port's number is given.
            Some((port, _)) => unsafe { ffi::dispatcher_large(port) & MERGES != 0 },
            None => setup.offload,
        };
        let units = Units::new(self.shared.ports.iter().any(merges));
        // SAFETY: a core's node is asked for by its number.
        let node = unsafe { ffi::numa_node_of_cpu(self.core as i32) };
        let raw = ports::mempool(node, self.shared.cores.len())?;
        let pool = Rc::new(Pool { region: RegionId::unique(), raw, units, _alive: self.alive.clone() });
        self.shared.ports.iter().map(|setup| self.open_port(setup, &pool)).collect()
    }

    fn open_port(&self, setup: &PortSetup, pool: &Rc<Pool>) -> Result<Port, OpenError> {
        let name = &setup.device.name;
        let wrong = |what: &str| OpenError(format!("dpdk:{name}: {what}"));
        let max_frame = usize::from(setup.mtu) + MAX_LINK_HEADER;
        // What DPDK says of the link of a device that stands on a kernel interface is that it is up.
        let watch = match setup.device.interface() {
            Some(interface) => Some(
                device_info(interface)
                    .and_then(|info| LinkWatch::new(interface, info.index).map_err(|e| OpenError(e.to_string())))
                    .map_err(|e| wrong(&e.0))?,
            ),
            None => None,
        };
        let link = Rc::new(Link::new(name, setup.mtu));
        let (queue, counts_port) = (self.queue, self.queue == 0);
        let rx = QueueReceiver {
            pool: pool.clone(),
            link: link.clone(),
            queue,
            max_frame,
            left: None,
            watch,
            counts_port,
            traffic: Traffic::default(),
            missed: 0,
        };
        let tx = QueueTransmitter {
            pool: pool.clone(),
            link,
            queue,
            max_frame,
            left: false,
            queued: ArrayVec::new(),
            lens: ArrayVec::new(),
            counts_port,
            traffic: Traffic::default(),
            failed: 0,
        };
        Ok(Port { description: self.shared.describe(setup), rx: Box::new(rx), tx: Box::new(tx) })
    }
}

impl Shared {
    /// A port, for people.
    fn describe(&self, setup: &PortSetup) -> String {
        let (name, pages) = (&setup.device.name, self.pages.as_str());
        let Some((port, info)) = ports::port_of(name) else { return format!("dpdk, {name}, {pages}") };
        let driver = if info.driver_name.is_null() {
            "unknown driver".into()
        } else {
            // SAFETY: a string of the driver's, that lives as long as it.
            unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy()
        };
        // SAFETY: only the port's number is given.
        let (checks, large) = unsafe { (ffi::dispatcher_checks_tcp(port) != 0, ffi::dispatcher_large(port)) };
        let sums = if checks { ", it checks checksums" } else { "" };
        let large = match (large & MERGES != 0, large & CUTS != 0) {
            (true, true) => ", LRO, TSO",
            (true, false) => ", LRO",
            (false, true) => ", TSO",
            (false, false) => "",
        };
        match self.cores.as_slice() {
            [core] => format!("dpdk, {driver} {name} on core {core}, {pages}{sums}{large}"),
            cores => {
                let queues = cores.len();
                let spread = ports::spread_of(name, queues).and_then(|spread| rss_of(&spread, cores));
                let ports = if spread.is_some() { "by its RSS" } else { "by range" };
                format!(
                    "dpdk, {driver} {name}, one of {queues} queues on each core, local ports {ports}, {pages}{sums}{large}"
                )
            }
        }
    }
}

/// To which of the workers on these cores a card brings what.
fn rss_of(spread: &Spread, cores: &[usize]) -> Option<Rss> {
    let worker_of =
        |queue: &u16| cores.iter().position(|core| queue_of(*core, cores) == *queue).map(|worker| worker as u16);
    let table: Vec<_> = spread.table.iter().map(worker_of).collect();
    Rss::new(&spread.key, &table, spread.v4, spread.v6)
}

/// The whole life of capsule, on the calling thread. `Err` when the cores were never asked for work. `told`: of ports that another process has.
fn host(shared: Arc<Shared>, jobs: Vec<Receiver<Job>>, say: Sender<Said>, told: Option<Told>) -> Result<(), OpenError> {
    // SAFETY: no arguments. Before EAL starts, so that it says nothing on standard error.
    if unsafe { ffi::dispatcher_log_keep() } != 0 {
        return Err(OpenError("dpdk: no memory for its log".into()));
    }
    for setup in shared.ports.iter().filter(|setup| setup.offload) {
        let name = CString::new(setup.device.name.as_str()).unwrap_or_default();
        // SAFETY: a string that ends with a zero, and is copied. No port exists yet.
        unsafe { ffi::dispatcher_want_large(name.as_ptr()) };
    }
    let found = match &told {
        None => Found::AtStart,
        Some(told) => Found::Later { virtual_addresses: told.virtual_addresses },
    };
    let config = setup::config(&shared.ports, &shared.cores, shared.pages, found)?;
    let built = {
        // EAL prints its usage and its last words beside its log.
        let _hushed = Hushed::new();
        Runtime::build(config)
    };
    setup::remove_runtime_directory();
    let failed =
        |what: &str, e: &dyn core::fmt::Display| explain::failed(what, &e.to_string(), &shared.ports, &shared.cores);
    let runtime = built.map_err(|e| failed("cannot start", &e))?;
    let alive: Alive = Arc::new(());
    let mut runtime = Guarded { runtime: ManuallyDrop::new(runtime), shared: shared.clone(), alive: alive.clone() };
    let cards = match told {
        None => {
            ports::open(&shared.ports, &shared.cores)?;
            let cards = shared.ports.iter().map(|setup| card_of(setup, &shared.cores));
            cards.collect::<Option<_>>().ok_or_else(|| OpenError("dpdk: a port does not tell its address".into()))?
        }
        Some(told) => told.cards.into_iter().map(|card| for_queues(card, shared.cores.len())).collect(),
    };
    let _ = say.send(Said::Built(cards));

    let ended = Arc::new(AtomicBool::new(false));
    let over = ended.clone();
    runtime.runtime.set_on_signal(move |_| over.load(Ordering::SeqCst));
    for (number, (core, jobs)) in shared.cores.iter().zip(jobs).enumerate() {
        let core = *core;
        let station = Station {
            jobs,
            core: Core { shared: shared.clone(), core, queue: queue_of(core, &shared.cores), alive: alive.clone() },
            ready: say.clone(),
            // The first has capsule's main loop's thread.
            ended: (number == 0).then(|| ended.clone()),
        };
        // capsule has pipelines for cores that have ports of its own, and tasks for any: once is enough.
        let station = Mutex::new(Some(station));
        let task = move || {
            let once = station.lock().unwrap_or_else(PoisonError::into_inner).take();
            once.into_iter().for_each(Station::work);
        };
        runtime.runtime.add_periodic_task_to_core(core, task, LOOK).map_err(|e| failed("cannot run a worker", &e))?;
    }
    drop((alive, say));
    runtime.runtime.execute().map_err(|e| failed("cannot run", &e))
}

/// A port that is open.
fn card_of(setup: &PortSetup, cores: &[usize]) -> Option<Card> {
    let name = &setup.device.name;
    Some(Card { name: name.clone(), mac: ports::mac_of(name)?, spread: ports::spread_of(name, cores.len()) })
}

/// One that is to have so many queues.
fn for_queues(card: Card, queues: usize) -> Card {
    let spread = card.spread.filter(|_| queues > 1).map(|spread| spread.over(queues));
    Card { spread, ..card }
}

/// Standard output and error lead nowhere while this lives.
struct Hushed([(i32, i32); 2]);

impl Hushed {
    fn new() -> Hushed {
        // SAFETY: descriptors only, and a string that ends with a zero. What fails leaves an output as it is.
        unsafe {
            let nowhere = libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            let hushed = [1, 2].map(|fd| {
                let kept = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3);
                if kept >= 0 && nowhere >= 0 {
                    libc::dup2(nowhere, fd);
                }
                (fd, kept)
            });
            if nowhere >= 0 {
                libc::close(nowhere);
            }
            Hushed(hushed)
        }
    }
}

impl Drop for Hushed {
    fn drop(&mut self) {
        for (fd, kept) in self.0.into_iter().filter(|(_, kept)| *kept >= 0) {
            // SAFETY: `kept` was made by `new` and is used only here. C's own buffer first: its text is not wanted.
            unsafe {
                libc::fflush(core::ptr::null_mut());
                libc::dup2(kept, fd);
                libc::close(kept);
            }
        }
    }
}

/// Shuts DPDK down, unless something still needs it: then it stays for the life of the process.
struct Guarded {
    runtime: ManuallyDrop<Runtime>,
    shared: Arc<Shared>,
    alive: Alive,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if Arc::strong_count(&self.alive) == 1 {
            // Before their buffers are gone.
            _ = ports::close(&self.shared.ports);
            // SAFETY: dropped here only, and not used again.
            unsafe { ManuallyDrop::drop(&mut self.runtime) };
        }
    }
}

/// What a core does: says that it is there, waits for work, does it.
struct Station {
    jobs: Receiver<Job>,
    core: Core,
    ready: Sender<Said>,
    /// Of the first core: to be set when its work is over.
    ended: Option<Arc<AtomicBool>>,
}

impl Station {
    fn work(self) {
        let Station { jobs, core, ready, ended } = self;
        // Also when the work dies.
        let _tell = ended.map(TellsEnd);
        let _ = ready.send(Said::Ready);
        drop(ready);
        if let Ok(job) = jobs.recv() {
            job(&core);
        }
    }
}

/// Wakes capsule's main loop, which waits for signals, when dropped.
struct TellsEnd(Arc<AtomicBool>);

impl Drop for TellsEnd {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        // capsule caught the signal before it let us work, so this does not end the process.
        let _ = signal_hook::low_level::raise(SIGHUP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_numbered_in_order_of_the_cores_numbers() {
        let cores = [5, 0, 7];
        assert_eq!(cores.map(|core| queue_of(core, &cores)), [1, 0, 2]);
        assert_eq!(queue_of(3, &[3]), 0);
    }
}
