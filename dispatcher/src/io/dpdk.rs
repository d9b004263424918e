//! DPDK: cards without the kernel between, and DPDK's virtual devices. Behind the cargo feature `dpdk`.
//!
//! `capsule` brings up EAL, the mempool and the ports, and runs the worker on its core. From there on it stands aside:
//! its own batches cost several times what a raw burst does, so the queues are driven by [`queue`]'s halves, as those of
//! any other driver. [`run`] therefore does not return ports but calls back on the worker's core, with the ports open:
//! the caller's loop runs unchanged inside one poll of a capsule pipeline, and DPDK is shut down when it is over.
//!
//! **One thread.** The worker runs on capsule's master core, whose thread is EAL's main thread and so known to DPDK:
//! the mempool's cache serves it. (`capsule-ffi` registers any further thread that capsule binds to a core.)
//!
//! **Signals.** capsule ends when one of its signals comes and we say so. We never do for SIGINT and SIGTERM: those
//! stop the worker, whose end is told to capsule by a SIGHUP to this very thread. SIGHUP from outside is ignored.
//!
//! **Memory.** One mempool of [`MBUFS`] buffers for all ports. Huge pages when enough are free, else ordinary pages
//! (`--no-huge`), which cost a third to a half of the rate. Nothing is left on the file system.

mod device;
mod queue;

pub use device::DpdkDevice;

use super::{MAX_LINK_HEADER, OpenError, Port, RegionId, Traffic};
use crate::wire::Mac;
use arrayvec::ArrayVec;
use capsule::batch::Pipeline;
use capsule::config::RuntimeConfig;
use capsule::{PortQueue, Runtime};
use capsule_ffi as ffi;
use core::mem::ManuallyDrop;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll};
use queue::{Pool, QueueReceiver, QueueTransmitter};
use signal_hook::consts::SIGHUP;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// Buffers in the mempool; one less than a power of two is what fits best.
pub const MBUFS: usize = 32_767;

/// Bytes of a buffer with everything around it.
pub const MBUF_BYTES: usize = 2176 + 128 + 64;

/// Largest IP packet of a port: a frame lies in one buffer.
pub const MAX_MTU: u16 = 1500;

/// Buffers that the worker's core keeps at hand.
const MBUF_CACHE: usize = 256;

/// Descriptors of a receive or transmit queue; a port that cannot have so many has what it can.
const DESCRIPTORS: usize = 1024;

/// Memory that DPDK is given, or must find in free huge pages: the mempool, the queues, and room.
const MEMORY_MIB: usize = 256;

/// Held by whatever needs DPDK.
type Alive = Arc<()>;

/// A port to open.
#[derive(Clone, Debug)]
pub struct PortSetup {
    /// What to open.
    pub device: DpdkDevice,
    /// Largest IP packet, bytes; at most [`MAX_MTU`].
    pub mtu: u16,
}

/// A port that is open.
pub struct Opened {
    /// Its queue pair.
    pub port: Port,
    /// Its Ethernet address.
    pub mac: Mac,
}

/// Brings up DPDK with these ports, binds the calling thread to `core`, and calls `work` there with the ports in their
/// order, once. Comes back when `work` has. `Err` when it was not called.
///
/// Once in the life of a process: DPDK cannot be started again. To be called on a thread that is free to stay bound.
pub fn run<F>(ports: Vec<PortSetup>, core: usize, work: F) -> Result<(), OpenError>
where
    F: FnOnce(Result<Vec<Opened>, OpenError>) + Send + 'static,
{
    static STARTED: AtomicBool = AtomicBool::new(false);
    if STARTED.swap(true, Ordering::SeqCst) {
        return Err(OpenError("dpdk: can be started once in a process only".into()));
    }
    let huge = free_huge_pages(Path::new("/sys")) >= MEMORY_MIB << 20;
    // SAFETY: no arguments. Before EAL starts, so that it says nothing on standard error.
    if unsafe { ffi::dispatcher_log_keep() } != 0 {
        return Err(OpenError("dpdk: no memory for its log".into()));
    }
    let config = config(&ports, core, huge)?;
    let built = {
        // EAL prints its usage and its last words beside its log.
        let _hushed = Hushed::new();
        Runtime::build(config)
    };
    remove_runtime_directory();
    let runtime = built.map_err(|e| failed("cannot start", &e))?;
    let alive: Alive = Arc::new(());
    let mut runtime = Guarded { runtime: ManuallyDrop::new(runtime), alive: alive.clone() };

    let ended = Arc::new(AtomicBool::new(false));
    let called = Arc::new(AtomicBool::new(false));
    let over = ended.clone();
    runtime.runtime.set_on_signal(move |_| over.load(Ordering::SeqCst));
    // capsule asks for more (Sync) than the work needs to be.
    let parcel = Mutex::new((work, ports, alive));
    let (for_work, was_called) = (ended, called.clone());
    runtime
        .runtime
        .add_pipeline_to_core(core, move |queues| {
            let (work, ports, alive) = parcel.into_inner().unwrap_or_else(|e| e.into_inner());
            let run = move || {
                was_called.store(true, Ordering::SeqCst);
                work(open(&ports, core, huge, alive));
            };
            Work { run: Some(run), ended: for_work, _queues: queues }
        })
        .map_err(|e| failed("cannot run the worker", &e))?;
    match runtime.runtime.execute() {
        Err(e) if !called.load(Ordering::SeqCst) => Err(failed("cannot start the ports", &e)),
        _ => Ok(()),
    }
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

/// EAL makes a directory even when it puts nothing there that is needed after its start.
fn remove_runtime_directory() {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map(std::path::PathBuf::from);
    for base in [Some("/var/run".into()), base].into_iter().flatten() {
        let _ = std::fs::remove_dir_all(base.join("dpdk").join(format!("dispatcher{}", std::process::id())));
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

/// A pipeline of capsule's that is polled once, for as long as the worker works.
struct Work<F> {
    run: Option<F>,
    ended: Arc<AtomicBool>,
    /// capsule's own handles of the same queues; never used.
    _queues: HashMap<String, PortQueue>,
}

// Nothing in it is pinned: it is not self-referential, and never was polled halfway.
impl<F> Unpin for Work<F> {}

impl<F: FnOnce()> Future for Work<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        // Also when the worker dies.
        let _tell = TellsEnd(self.ended.clone());
        if let Some(run) = self.run.take() {
            run();
        }
        Poll::Ready(())
    }
}

impl<F: FnOnce()> Pipeline for Work<F> {
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

/// What capsule is told. Its types cannot be made but from data.
fn config(ports: &[PortSetup], core: usize, huge: bool) -> Result<RuntimeConfig, OpenError> {
    let pci = ports.iter().any(|p| p.device.is_pci());
    let memif = ports.iter().any(|p| p.device.name.starts_with("net_memif"));
    let mut arguments = vec!["--no-telemetry".to_string()];
    if !huge {
        // `--in-memory` is about huge pages and refused here; of what it does this is what is left.
        arguments.extend(["--no-huge".into(), "-m".into(), MEMORY_MIB.to_string(), "--no-shconf".into()]);
    }
    // Otherwise every card of the host would be looked at.
    if !pci {
        arguments.push("--no-pci".into());
    }
    // Memory shared with another process must have a file.
    if huge && !memif {
        arguments.push("--in-memory".into());
    }
    let ports: Vec<_> = ports
        .iter()
        .enumerate()
        .map(|(i, port)| {
            serde_json::json!({
                "name": format!("port{i}"), "device": port.device.name, "args": port.device.arguments, "cores": [core],
                "rxd": DESCRIPTORS, "txd": DESCRIPTORS, "promiscuous": true, "multicast": true,
            })
        })
        .collect();
    let config = serde_json::json!({
        "app_name": format!("dispatcher{}", std::process::id()), "master_core": core, "ports": ports,
        "mempool": { "capacity": MBUFS, "cache_size": MBUF_CACHE }, "dpdk_args": arguments.join(" "),
    });
    serde_json::from_value(config).map_err(|e| OpenError(format!("dpdk: {e}")))
}

/// The queue pairs of ports that capsule has started.
fn open(setups: &[PortSetup], core: usize, huge: bool, alive: Alive) -> Result<Vec<Opened>, OpenError> {
    // capsule's name for the first, and with one core only, mempool.
    // SAFETY: a string that ends with a zero.
    let raw = unsafe { ffi::rte_mempool_lookup(c"mempool0".as_ptr()) };
    if raw.is_null() {
        return Err(OpenError("dpdk: the mempool is not there".into()));
    }
    let pool = Rc::new(Pool { region: RegionId::unique(), raw, _alive: alive });
    setups.iter().map(|setup| open_one(setup, core, huge, &pool)).collect()
}

fn open_one(setup: &PortSetup, core: usize, huge: bool, pool: &Rc<Pool>) -> Result<Opened, OpenError> {
    let name = &setup.device.name;
    let wrong = |what: &str| OpenError(format!("dpdk:{name}: {what}"));
    let mut port = 0;
    let (mut info, mut mac, mut mtu) = (ffi::rte_eth_dev_info::default(), ffi::rte_ether_addr::default(), 0);
    let as_c = CString::new(name.as_str()).map_err(|_| wrong("not a name"))?;
    // SAFETY: a string that ends with a zero, and places of the right types for the answers.
    let asked = unsafe {
        ffi::rte_eth_dev_get_port_by_name(as_c.as_ptr(), &mut port) == 0
            && ffi::rte_eth_dev_info_get(port, &mut info) == 0
            && ffi::rte_eth_macaddr_get(port, &mut mac) == 0
            && ffi::rte_eth_dev_get_mtu(port, &mut mtu) == 0
    };
    if !asked {
        return Err(wrong("the port does not tell what it is"));
    }
    if setup.mtu > mtu {
        return Err(wrong(&format!("has an MTU of {mtu} only")));
    }
    let driver = if info.driver_name.is_null() {
        "unknown driver".into()
    } else {
        // SAFETY: a string of the driver's, that lives as long as it.
        unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy()
    };
    let pages = if huge { "huge pages" } else { "no huge pages" };
    let max_frame = usize::from(setup.mtu) + MAX_LINK_HEADER;
    // SAFETY: only the port's number is given.
    let link_up = unsafe { ffi::dispatcher_link_up(port) } != 0;
    let rx = QueueReceiver {
        pool: pool.clone(),
        port,
        queue: 0,
        max_frame,
        link_up,
        traffic: Traffic::default(),
        missed: 0,
    };
    let tx = QueueTransmitter {
        pool: pool.clone(),
        port,
        queue: 0,
        max_frame,
        queued: ArrayVec::new(),
        lens: ArrayVec::new(),
        traffic: Traffic::default(),
        failed: 0,
    };
    let description = format!("dpdk, {driver} {name} on core {core}, {pages}");
    Ok(Opened { port: Port { description, rx: Box::new(rx), tx: Box::new(tx) }, mac: Mac(mac.addr_bytes) })
}

/// Bytes in huge pages that nobody uses.
fn free_huge_pages(sysfs: &Path) -> usize {
    let Ok(sizes) = sysfs.join("kernel/mm/hugepages").read_dir() else { return 0 };
    let free = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        let kib: usize = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages: usize = std::fs::read_to_string(entry.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
        Some(kib * 1024 * pages)
    };
    sizes.flatten().filter_map(free).sum()
}

/// One line out of an error of capsule's, and what DPDK said before it.
fn failed(what: &str, error: &dyn core::fmt::Display) -> OpenError {
    let mut text = [0u8; 4096];
    // SAFETY: room for as many bytes as said.
    let n = unsafe { ffi::dispatcher_log_read(text.as_mut_ptr().cast(), text.len()) };
    let log = String::from_utf8_lossy(&text[..n]).into_owned();
    // SAFETY: no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    OpenError(explain(what, &error.to_string(), &log, root))
}

/// The last lines of DPDK's log say why; the first of these what came of it.
fn explain(what: &str, error: &str, log: &str, root: bool) -> String {
    // What EAL says at every start.
    const USUAL: [&str; 5] = ["Detected", "Selected IOVA", "Multi-process", "No free", "VFIO support"];
    let lines: Vec<_> =
        log.lines().map(str::trim).filter(|l| !l.is_empty() && !USUAL.iter().any(|usual| l.contains(usual))).collect();
    let said = lines[lines.len().saturating_sub(3)..].join("; ");
    let hint = if root { "" } else { " (DPDK wants root)" };
    if said.is_empty() {
        format!("dpdk: {what}: {error}{hint}")
    } else {
        format!("dpdk: {what}: {error}: {said}{hint}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_summed_over_their_sizes() {
        let root = std::env::temp_dir().join(format!("dispatcher-huge-{}", std::process::id()));
        assert_eq!(free_huge_pages(&root), 0);
        for (size, free) in [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "1\n"), ("other", "7\n")] {
            let dir = root.join("kernel/mm/hugepages").join(size);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("free_hugepages"), free).unwrap();
        }
        assert_eq!(free_huge_pages(&root), (3 * 2 + 1024) << 20);
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_failure_is_one_line_that_says_what_dpdk_said() {
        let log =
            "EAL: Detected CPU lcores: 2\nEAL: failed to parse device \"net_foo0\"\nEAL: Bus (vdev) probe failed.\n";
        let line = explain("cannot start", "No such device", log, true);
        assert_eq!(
            line,
            "dpdk: cannot start: No such device: EAL: failed to parse device \"net_foo0\"; EAL: Bus (vdev) probe failed."
        );
    }

    #[test]
    fn what_dpdk_is_told_depends_on_the_devices() {
        let setup = |name: &str| PortSetup { device: DpdkDevice::parse(name).unwrap(), mtu: 1500 };
        let args = |names: &[&str], huge| {
            config(&names.iter().map(|n| setup(n)).collect::<Vec<_>>(), 1, huge).unwrap().dpdk_args.unwrap()
        };
        assert_eq!(args(&["net_null0", "net_null1"], false), "--no-telemetry --no-huge -m 256 --no-shconf --no-pci");
        assert_eq!(args(&["03:00.0", "net_null1"], true), "--no-telemetry --in-memory");
        assert_eq!(args(&["net_memif0;id=0"], true), "--no-telemetry --no-pci");
    }
}
