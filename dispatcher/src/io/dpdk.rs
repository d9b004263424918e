//! DPDK: cards without the kernel between, and DPDK's virtual devices. Behind the cargo feature `dpdk`.
//!
//! `capsule` brings up EAL, the mempools and the ports, and has one thread on each worker's core. From there on it stands
//! aside: its own batches cost several times what a raw burst does, so the queues are driven by [`queue`]'s halves, as
//! those of any other driver. DPDK is started once, before any worker: [`Dpdk::start`] comes back when the ports run and every
//! core waits for work. A [`Seat`] is one core; what is run on it ([`Seat::run`]) opens its queue of every port by
//! [`Core::open`], and may keep the core for as long as it likes: it is one poll of a capsule pipeline.
//!
//! **Threads.** The first core is EAL's main one, and its thread capsule's main loop, which waits for signals when it has
//! nothing else to do; the others are threads that capsule starts. `capsule-ffi` registers them with DPDK when they are bound,
//! without which they would bypass the mempools' caches.
//!
//! **Queues.** Each core has one queue of every port. capsule numbers them in order of the cores' numbers ([`queue_of`]). A
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
mod queue;
mod setup;

pub use device::DpdkDevice;
pub use setup::{MAX_MTU, Pages, PortSetup, port_memory};

use super::link_watch::LinkWatch;
use super::{MAX_LINK_HEADER, OpenError, Port, RegionId, Traffic, device_info};
use crate::flow::Rss;
use crate::wire::Mac;
use arrayvec::ArrayVec;
use capsule::batch::Pipeline;
use capsule::{PortQueue, Runtime};
use capsule_ffi as ffi;
use core::cell::Cell;
use core::mem::ManuallyDrop;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll};
use large::{Cuts, Units};
use queue::{Pool, QueueReceiver, QueueTransmitter};
use signal_hook::consts::SIGHUP;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

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
    /// The ports' Ethernet addresses, in order.
    pub macs: Vec<Mac>,
    /// And to which worker each brings what, by the order of the cores; none where it has one only, or does not tell.
    pub rss: Vec<Option<Arc<Rss>>>,
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

/// What the thread that hosts capsule tells.
enum Told {
    Failed(OpenError),
    Built(Vec<Mac>),
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
        static STARTED: AtomicBool = AtomicBool::new(false);
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(OpenError("dpdk: can be started once in a process only".into()));
        }
        let pages = setup::pages(&ports, cores.len())?;
        setup::check_nodes(&ports, cores)?;
        let shared = Arc::new(Shared { ports, cores: cores.to_vec(), pages });
        let for_host = shared.clone();
        let (senders, receivers): (Vec<_>, Vec<_>) = cores.iter().map(|_| mpsc::channel()).unzip();
        let (tell, told) = mpsc::channel();
        let host = std::thread::Builder::new()
            .name("dpdk".into())
            .spawn(move || {
                if let Err(why) = host(for_host, receivers, tell.clone()) {
                    let _ = tell.send(Told::Failed(why));
                }
            })
            .map_err(|e| OpenError(format!("dpdk: cannot start a thread: {e}")))?;
        let seats = senders.into_iter().map(|jobs| Some(Seat { jobs })).collect();
        let mut dpdk = Dpdk { macs: Vec::new(), rss: Vec::new(), seats, host: Some(host) };
        let mut waited_for = cores.len();
        while waited_for > 0 {
            match told.recv() {
                Ok(Told::Built(macs)) => dpdk.macs = macs,
                Ok(Told::Ready) => waited_for -= 1,
                Ok(Told::Failed(why)) => return Err(why),
                Err(_) => return Err(OpenError("dpdk: ended while it was starting".into())),
            }
        }
        // Some ports know only once they run.
        dpdk.rss = shared.ports.iter().map(|setup| rss_of(&setup.device.name, cores)).collect();
        Ok(dpdk)
    }

    /// The core of worker `number`, by the order of the cores given; none when it has been taken.
    pub fn seat(&mut self, number: usize) -> Option<Seat> {
        self.seats.get_mut(number)?.take()
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
        // SAFETY: only ports' numbers are given.
        let merges = |setup: &PortSetup| unsafe {
            port_of(&setup.device.name).is_some_and(|(port, _)| ffi::dispatcher_large(port) & MERGES != 0)
        };
        let units = Units::new(self.shared.ports.iter().any(merges));
        let pool = Pool { region: RegionId::unique(), raw: self.mempool()?, units, _alive: self.alive.clone() };
        let pool = Rc::new(pool);
        self.shared.ports.iter().map(|setup| self.open_port(setup, &pool)).collect()
    }

    /// capsule makes one for each NUMA node that has cores: ours, or the first.
    fn mempool(&self) -> Result<*mut ffi::rte_mempool, OpenError> {
        let mut found: *mut ffi::rte_mempool = core::ptr::null_mut();
        for number in 0..self.shared.cores.len() {
            let name = CString::new(format!("mempool{number}")).unwrap_or_default();
            // SAFETY: a string that ends with a zero; what is found lives as long as DPDK, which `alive` sees to.
            unsafe {
                let raw = ffi::rte_mempool_lookup(name.as_ptr());
                if raw.is_null() {
                    break;
                }
                let near = (*raw).socket_id == ffi::numa_node_of_cpu(self.core as i32);
                if found.is_null() || near {
                    found = raw;
                }
            }
        }
        if found.is_null() { Err(OpenError("dpdk: the mempool is not there".into())) } else { Ok(found) }
    }

    fn open_port(&self, setup: &PortSetup, pool: &Rc<Pool>) -> Result<Port, OpenError> {
        let name = &setup.device.name;
        let wrong = |what: &str| OpenError(format!("dpdk:{name}: {what}"));
        let (port, info) = port_of(name).ok_or_else(|| wrong("the port does not tell what it is"))?;
        let mut mtu = 0;
        // SAFETY: a place for the answer.
        if unsafe { ffi::rte_eth_dev_get_mtu(port, &mut mtu) } == 0 && setup.mtu > mtu {
            return Err(wrong(&format!("has an MTU of {mtu} only")));
        }
        let driver = if info.driver_name.is_null() {
            "unknown driver".into()
        } else {
            // SAFETY: a string of the driver's, that lives as long as it.
            unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy()
        };
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
        // SAFETY: only the port's number is given.
        let link_up = Rc::new(Cell::new(unsafe { ffi::dispatcher_link_up(port) } != 0));
        let (queue, counts_port) = (self.queue, self.queue == 0);
        // SAFETY: only the port's number is given.
        let (large, most) = unsafe { (ffi::dispatcher_large(port), ffi::dispatcher_most_segments(port)) };
        let rx = QueueReceiver {
            pool: pool.clone(),
            port,
            queue,
            max_frame,
            merges: (large & MERGES != 0).then_some(setup.mtu),
            link_up: link_up.clone(),
            watch,
            counts_port,
            traffic: Traffic::default(),
            missed: 0,
        };
        let tx = QueueTransmitter {
            pool: pool.clone(),
            port,
            queue,
            max_frame,
            cuts: (large & CUTS != 0).then_some(Cuts { mtu: setup.mtu, most, v6: large & ONLY_V4 == 0 }),
            left: false,
            queued: ArrayVec::new(),
            lens: ArrayVec::new(),
            link_up,
            counts_port,
            traffic: Traffic::default(),
            failed: 0,
        };
        let pages = self.shared.pages.as_str();
        // SAFETY: only the port's number is given.
        let sums = if unsafe { ffi::dispatcher_checks_tcp(port) } != 0 { ", it checks checksums" } else { "" };
        let large = match (large & MERGES != 0, large & CUTS != 0) {
            (true, true) => ", LRO, TSO",
            (true, false) => ", LRO",
            (false, true) => ", TSO",
            (false, false) => "",
        };
        let description = match self.shared.cores.as_slice() {
            [core] => format!("dpdk, {driver} {name} on core {core}, {pages}{sums}{large}"),
            cores => {
                let ports = if rss_of(name, cores).is_some() { "by its RSS" } else { "by range" };
                let queues = cores.len();
                format!(
                    "dpdk, {driver} {name}, one of {queues} queues on each core, local ports {ports}, {pages}{sums}{large}"
                )
            }
        };
        Ok(Port { description, rx: Box::new(rx), tx: Box::new(tx) })
    }
}

/// A port's number and what it says of itself.
fn port_of(name: &str) -> Option<(u16, ffi::rte_eth_dev_info)> {
    let (mut port, mut info) = (0, ffi::rte_eth_dev_info::default());
    let name = CString::new(name).ok()?;
    // SAFETY: a string that ends with a zero, and places of the right types for the answers.
    let asked = unsafe {
        ffi::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut port) == 0
            && ffi::rte_eth_dev_info_get(port, &mut info) == 0
    };
    asked.then_some((port, info))
}

fn mac_of(name: &str) -> Option<Mac> {
    let (port, _) = port_of(name)?;
    let mut mac = ffi::rte_ether_addr::default();
    // SAFETY: a place for the answer.
    (unsafe { ffi::rte_eth_macaddr_get(port, &mut mac) } == 0).then_some(Mac(mac.addr_bytes))
}

/// What a port's card does to divide frames among the cores' queues; none when it does not tell.
fn rss_of(name: &str, cores: &[usize]) -> Option<Arc<Rss>> {
    if cores.len() < 2 {
        return None;
    }
    let (port, _) = port_of(name)?;
    let (mut key, mut table) = ([0u8; 64], [0u16; 4096]);
    let (key_size, table_size) = (key.len() as u32, table.len() as u32);
    // SAFETY: room for as much as said.
    let entries = unsafe { ffi::dispatcher_rss(port, key.as_mut_ptr(), key_size, table.as_mut_ptr(), table_size) };
    // SAFETY: only the port's number is given.
    let tcp = unsafe { ffi::dispatcher_rss_tcp(port) };
    let worker_of =
        |queue: u16| cores.iter().position(|core| queue_of(*core, cores) == queue).map(|worker| worker as u16);
    let table: Vec<_> = table.get(..entries as usize)?.iter().map(|queue| worker_of(*queue)).collect();
    Rss::new(&key, &table, tcp & 1 != 0, tcp & 2 != 0).map(Arc::new)
}

/// The whole life of capsule, on the calling thread. `Err` when the cores were never asked for work.
fn host(shared: Arc<Shared>, jobs: Vec<Receiver<Job>>, tell: Sender<Told>) -> Result<(), OpenError> {
    // SAFETY: no arguments. Before EAL starts, so that it says nothing on standard error.
    if unsafe { ffi::dispatcher_log_keep() } != 0 {
        return Err(OpenError("dpdk: no memory for its log".into()));
    }
    for setup in shared.ports.iter().filter(|setup| setup.offload) {
        let name = CString::new(setup.device.name.as_str()).unwrap_or_default();
        // SAFETY: a string that ends with a zero, and is copied. No port exists yet.
        unsafe { ffi::dispatcher_want_large(name.as_ptr()) };
    }
    let config = setup::config(&shared.ports, &shared.cores, shared.pages)?;
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
    let mut runtime = Guarded { runtime: ManuallyDrop::new(runtime), alive: alive.clone() };
    let macs: Option<Vec<Mac>> = shared.ports.iter().map(|setup| mac_of(&setup.device.name)).collect();
    let macs = macs.ok_or_else(|| OpenError("dpdk: a port does not tell its address".into()))?;
    let _ = tell.send(Told::Built(macs));

    let ended = Arc::new(AtomicBool::new(false));
    let over = ended.clone();
    runtime.runtime.set_on_signal(move |_| over.load(Ordering::SeqCst));
    for (number, (core, jobs)) in shared.cores.iter().zip(jobs).enumerate() {
        let core = *core;
        let station = Station {
            jobs,
            core: Core { shared: shared.clone(), core, queue: queue_of(core, &shared.cores), alive: alive.clone() },
            ready: tell.clone(),
            // The first has capsule's main loop's thread.
            ended: (number == 0).then(|| ended.clone()),
        };
        // capsule asks for more (Sync) than a station needs to be.
        let parcel = Mutex::new(station);
        runtime
            .runtime
            .add_pipeline_to_core(core, move |queues| {
                let station = parcel.into_inner().unwrap_or_else(|e| e.into_inner());
                Work { station: Some(station), _queues: queues }
            })
            .map_err(|e| failed("cannot run a worker", &e))?;
    }
    drop(alive);
    runtime.runtime.execute().map_err(|e| failed("cannot start the ports", &e))
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
    alive: Alive,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if Arc::strong_count(&self.alive) == 1 {
            // SAFETY: dropped here only, and not used again.
            unsafe { ManuallyDrop::drop(&mut self.runtime) };
        }
    }
}

/// What a core does: says that it is there, waits for work, does it.
struct Station {
    jobs: Receiver<Job>,
    core: Core,
    ready: Sender<Told>,
    /// Of the first core: to be set when its work is over.
    ended: Option<Arc<AtomicBool>>,
}

/// A pipeline of capsule's that is polled once, for as long as the worker works.
struct Work {
    station: Option<Station>,
    /// capsule's own handles of the same queues; never used.
    _queues: HashMap<String, PortQueue>,
}

impl Future for Work {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if let Some(Station { jobs, core, ready, ended }) = self.station.take() {
            // Also when the work dies.
            let _tell = ended.map(TellsEnd);
            let _ = ready.send(Told::Ready);
            drop(ready);
            if let Ok(job) = jobs.recv() {
                job(&core);
            }
        }
        Poll::Ready(())
    }
}

impl Pipeline for Work {
    fn name(&self) -> &str {
        "worker"
    }

    fn run_once(&mut self) {}
}

/// Wakes capsule's main loop, which waits for signals, when dropped.
struct TellsEnd(Arc<AtomicBool>);

impl Drop for TellsEnd {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        // capsule caught the signal before it polled us, so this does not end the process.
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
