//! Any Linux interface, past the kernel's stack: AF_XDP sockets, with the kernel's interface alone.
//!
//! A small program of ours (`xdp_program`) runs where the driver receives, hands over what
//! [`Filter`] names, and lets everything else go on to the kernel. It is attached by a link that ends with the
//! process, however that ends.
//!
//! **Memory.** All ports of a worker share one UMEM (`umem`, which has the protocol of ownership): a
//! frame received by one is sent by another where it lies. Every queue of a device has a socket with rings of its own; by the
//! worker's first of the device it sends. A queue never has more than `Sizes::receive`
//! chunks for receiving, and a port no more than `transmit` for sending; the UMEM has room for all of that and for
//! what is in our hands. So no ring overflows, and a queue that falls behind is a fill ring run dry: the kernel drops and
//! tells us how many (`rx-ring-full`).
//!
//! **Long frames** (an MTU above 3,818 bytes: jumbo frames) come in several chunks, a descriptor each (multi-buffer, Linux 6.6), and are
//! copied into one piece, since the engine works on such. They leave from where they lie, a descriptor for each chunk (`umem`). The
//! program is told to take such frames then, and is loaded as one that knows of fragments (`BPF_F_XDP_HAS_FRAGS`); it looks at headers
//! only, which are in the first. Ports without long frames are opened as ever.
//!
//! **Modes.** In the driver (native) where that can, in the stack (generic) where not; without a copy where every
//! device of the worker can, with one where not: the UMEM is shared, and its mode with it. [`Mode`] asks for one of them.
//! What was obtained is in the port's description.
//!
//! **Sending with a copy** happens within our own system call: the kernel copies up to a batch of frames out of the tx
//! ring into buffers of its own, sends them, and gives the chunks back. Only there does it look at the ring, so what was
//! put into the ring of a link that is down is taken out again and counted (`tx-link-down`), instead of leaving when the
//! link is back, long after the peers have given up on it. Without a copy, the device has it all and keeps it.
//!
//! **Several workers** have one program at each device in common ([`Common`]), and each a UMEM and queues of its own: an AF_XDP socket
//! gets frames of the queue only that it is bound to, so every queue of the device is some worker's. Where another process goes on with them, they may be another
//! number of workers' (`regions`). What the program takes can be
//! [changed](Common::set_filter) from outside while they run.
//!
//! **A link that goes down** is told by netlink and counted; the sockets stay bound and work again when the link does. A device that
//! is removed takes its sockets with it; when one of the same name is there again, it is opened anew (`reopened`).
//!
//! **What the kernel's other side leaves undone** is not known here, unlike with packet sockets: checksums that a virtual
//! peer left to its card (`ethtool -K PEER tx off`), VLAN tags that the card has taken off (`ethtool -K DEV rxvlan off`).

mod announcements;
mod attached;
mod layout;
mod line;
pub mod passing;
mod receiver;
mod regions;
mod sockets;
mod transmitter;

use super::bpf::Hook;
use super::umem::{self, Census};
use super::{DeviceInfo, Filter, OpenError, Port, sys};
use attached::Attached;
pub use attached::{Common, fits};
use core::cell::Cell;
use core::time::Duration;
use layout::{Layout, has_long};
pub use layout::{Part, memory};
use receiver::XdpReceiver;
use regions::Regions;
use sockets::{Seat, divide, inherited_sockets, sockets, work_without_copy};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use transmitter::XdpTransmitter;

/// Most ports of one worker.
const MOST_DEVICES: usize = 64;

/// Sockets and links end a little after the process that had them: how long a start waits for a predecessor's.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Which way of working is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// The best that is there.
    #[default]
    Auto,
    /// In the driver and without a copy, or not at all.
    ZeroCopy,
    /// In the driver, with a copy.
    Copy,
    /// In the stack, with a copy.
    Generic,
}

impl Mode {
    /// All of them with their words.
    pub const ALL: [(&'static str, Mode); 4] =
        [("auto", Mode::Auto), ("zero-copy", Mode::ZeroCopy), ("copy", Mode::Copy), ("generic", Mode::Generic)];
}

/// A device to open.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// What the kernel says of it; `mtu` may be less than the device's.
    pub info: DeviceInfo,
    /// How it is to work.
    pub mode: Mode,
}

/// Asks where the chunks of the UMEM are: the frames' account, for tests.
pub struct Account(Rc<Regions>);

impl Account {
    /// Now.
    pub fn census(&self) -> Census {
        self.0.census()
    }
}

/// Opens all queues of each of `devices`, for the only worker. They share one region.
pub fn open(devices: &[Device], filter: &Filter) -> Result<Vec<Port>, OpenError> {
    open_accounted(devices, filter).map(|(ports, _)| ports)
}

/// As [`open`], with the account of the frames.
pub fn open_accounted(devices: &[Device], filter: &Filter) -> Result<(Vec<Port>, Account), OpenError> {
    let common: Vec<_> = devices.iter().map(|_| Arc::default()).collect();
    open_part(devices, filter, Part::ALL, &common)
}

/// Opens one worker's queues of each of `devices`. They share one region. `common`: for each device in order, the same for all
/// workers.
pub fn open_part(
    devices: &[Device],
    filter: &Filter,
    part: Part,
    common: &[Arc<Common>],
) -> Result<(Vec<Port>, Account), OpenError> {
    let chains = devices.iter().any(has_long) && kernel_chains();
    let Some(layout) = Layout::of(devices, chains) else { return Err(too_long(devices, chains)) };
    if devices.len() > MOST_DEVICES {
        return Err(OpenError(format!("at most {MOST_DEVICES} af-xdp ports a worker")));
    }
    if devices.iter().map(|d| usize::from(d.info.queues)).sum::<usize>() > umem::MOST_SOCKETS {
        return Err(OpenError(format!("at most {} queues of all af-xdp ports together", umem::MOST_SOCKETS)));
    }
    if let Some(few) = devices.iter().find(|d| usize::from(d.info.queues) < part.workers) {
        return Err(OpenError(too_few_queues(&few.name, few.info.queues, part.workers)));
    }
    sys::lift_memlock_limit();
    let Some(first) = common.first() else { return Err(OpenError("af-xdp: no devices".into())) };
    let inherited = first.legacy().is_some();
    let assigned = regions::assigned(devices, part.workers, common)?;
    let regions = Rc::new(Regions::open(devices, &assigned, part, layout, first)?);
    let mib = regions.bytes() >> 20;
    let mut seats = Vec::with_capacity(devices.len());
    for (((device, common), of_device), port) in devices.iter().zip(common).zip(&assigned).zip(0..) {
        let attached = Attached::shared(device, filter, common)?;
        let queues = of_device.iter().filter(|at| at.worker == part.worker).copied().collect();
        let (device, regions) = (device.clone(), regions.clone());
        // How it works is known once its sockets are open.
        seats.push(Seat { device, attached, part, port, zero_copy: false, queues, regions });
    }

    let wanted = |mode| devices.iter().find(|d| d.mode == mode);
    let any_generic = seats.iter().any(|seat| seat.attached.hook() == Hook::Generic);
    let attempts: &[u16] = match (wanted(Mode::ZeroCopy), any_generic || wanted(Mode::Copy).is_some()) {
        (Some(device), true) => {
            return Err(OpenError(format!(
                "af-xdp:{}: mode=zero-copy, but another port of this worker copies, and they share memory",
                device.name
            )));
        }
        (Some(_), false) => &[libc::XDP_ZEROCOPY],
        (None, true) => &[libc::XDP_COPY],
        // One device may offer what another lacks: then all of them copy.
        (None, false) => &[0, libc::XDP_COPY],
    };
    let mut opened = Err(OpenError("af-xdp: no devices".into()));
    if inherited {
        let failed = |(name, e): (String, io::Error)| refused(&name, "socket that was passed", &e);
        opened = inherited_sockets(&seats, common).map_err(failed);
    }
    let attempts = if inherited { &[] } else { attempts };
    for (number, flags) in attempts.iter().enumerate() {
        opened = match sockets(&seats, *flags) {
            Ok(sockets) => Ok(sockets),
            Err((name, e)) => {
                let another = number + 1 < attempts.len();
                if another && matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) {
                    continue;
                }
                return Err(match e.raw_os_error() {
                    Some(libc::EOPNOTSUPP | libc::EINVAL) if *flags == libc::XDP_ZEROCOPY => OpenError(format!(
                        "af-xdp:{name}: its driver has no zero-copy mode{}: mode=copy, or leave mode= away",
                        if regions.have_long() { " for this MTU" } else { "" }
                    )),
                    _ => refused(&name, "socket", &e),
                });
            }
        };
        break;
    }
    let total = devices.len();
    let mut ports = Vec::with_capacity(total);
    for (mut seat, sockets) in seats.into_iter().zip(opened?) {
        let name = seat.device.name.clone();
        let failed = |e: io::Error| refused(&name, "socket", &e);
        seat.zero_copy = work_without_copy(&sockets).map_err(failed)?;
        let description = format!(
            "af-xdp, {}, {}{}, {} queue{}{}, UMEM of {mib} MiB for {total} port{}",
            if seat.attached.hook() == Hook::Native { "native" } else { "generic" },
            if seat.zero_copy { "zero-copy" } else { "copy" },
            if has_long(&seat.device) { ", multi-buffer" } else { "" },
            sockets.len(),
            if sockets.len() == 1 { "" } else { "s" },
            if part.workers == 1 { "" } else { " of each worker" },
            if total == 1 { "" } else { "s" },
        );
        let (queues, sending) = divide(&seat, sockets).map_err(failed)?;
        let renewal = Rc::new(Cell::new(None));
        let tx = XdpTransmitter::new(&seat.device, sending, renewal.clone());
        let tx = tx.map_err(failed)?;
        let mut rx = XdpReceiver::new(seat, queues, renewal).map_err(failed)?;
        if !inherited {
            rx.begin_anew().map_err(failed)?;
        }
        ports.push(Port { description, rx: Box::new(rx), tx: Box::new(tx) });
    }
    Ok((ports, Account(regions)))
}

/// Says that no memory holds a device's frames, and what to do.
fn too_long(devices: &[Device], chains: bool) -> OpenError {
    let mtu = Layout::largest_mtu(chains);
    let worst = devices.iter().max_by_key(|d| d.info.mtu).map_or("", |d| &d.name);
    let before = if chains { "" } else { " before Linux 6.6" };
    OpenError(format!(
        "af-xdp:{worst}: frames of AF_XDP hold an MTU of {mtu} at most{before}: ip link set dev {worst} mtu {mtu}, or mtu={mtu} in --port"
    ))
}

/// Whether this kernel has frames in several chunks (Linux 6.6). It looks at the flags before it looks for the device.
fn kernel_chains() -> bool {
    let asked = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0)
        .and_then(|fd| sys::bind_xdp(&fd, 0, 0, libc::XDP_USE_SG, None))
        .map_err(|e| e.raw_os_error());
    // Without AF_XDP, or the right to it, it is said better when the device is opened.
    asked != Err(Some(libc::EINVAL))
}

/// Says that a device cannot give each worker a queue, and what to do.
pub fn too_few_queues(device: &str, queues: u16, workers: usize) -> String {
    let plural = if queues == 1 { "" } else { "s" };
    format!(
        "af-xdp:{device}: it has {queues} receive queue{plural}, and each of {workers} workers needs one: ethtool -L \
         {device} combined {workers} (virtual pairs: rx {workers} tx {workers}), or --workers {queues}"
    )
}

/// What the kernel's refusals mean, and what to do.
fn refused(device: &str, what: &str, e: &io::Error) -> OpenError {
    let because = match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "not permitted: needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF (run as root, or: setcap \
             cap_net_admin,cap_net_raw,cap_bpf+ep on the program)"
                .into()
        }
        Some(libc::EBUSY | libc::EEXIST) if what == "program" => format!(
            "in use: another XDP program is attached to it (ip -d link show dev {device}); stop whoever attached it, \
             or: ip link set dev {device} xdp off"
        ),
        Some(libc::EBUSY) => "in use: another AF_XDP socket has one of its queues; stop that program".into(),
        Some(libc::EAFNOSUPPORT) => {
            "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS, Linux 5.10 or newer): use af-packet".into()
        }
        Some(libc::ENOSYS) => "this kernel has no bpf(2) (CONFIG_BPF_SYSCALL): use af-packet".into(),
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            "no memory to pin for frames: raise the limit of locked memory (ulimit -l unlimited; in a systemd unit \
             LimitMEMLOCK=infinity)"
                .into()
        }
        Some(libc::ENODEV | libc::ENXIO) => "the device is gone".into(),
        Some(libc::ENETDOWN) => format!("the device is down: ip link set {device} up"),
        Some(libc::EOPNOTSUPP | libc::EINVAL) => {
            format!("neither the driver nor this kernel offers this mode ({e}): use af-packet")
        }
        _ => format!("{e}"),
    };
    OpenError(format!("af-xdp:{device}: {what}: {because}"))
}

/// Tries again while somebody else is still letting go.
fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}
