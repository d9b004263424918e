//! Any Linux interface, past the kernel's stack: AF_XDP sockets, with the kernel's interface alone.
//!
//! A small program of ours (`xdp_program`) runs where the driver receives, hands over what
//! [`Filter`] names, and lets everything else go on to the kernel. It is attached by a link that ends with the
//! process, however that ends.
//!
//! **Memory.** All ports of a worker share one UMEM (`umem`, which has the protocol of ownership): a
//! frame received by one is sent by another where it lies. Every queue of a device has a socket with its own fill and
//! rx rings; the worker's first queue of the device also sends. A queue never has more than `Sizes::receive`
//! chunks for receiving, and a port no more than `transmit` for sending; the UMEM has room for all of that and for
//! what is in our hands. So no ring overflows, and a queue that falls behind is a fill ring run dry: the kernel drops and
//! tells us how many (`rx-ring-full`).
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
//! gets frames of the queue only that it is bound to, so every queue of the device is some worker's. What the program takes can be
//! [changed](Common::set_filter) from outside while they run.
//!
//! **A link that goes down** is told by netlink and counted; the sockets stay bound and work again when the link does. A device that
//! is removed takes its sockets with it; when one of the same name is there again, it is opened anew (`reopened`).
//!
//! **What the kernel's other side leaves undone** is not known here, unlike with packet sockets: checksums that a virtual
//! peer left to its card (`ethtool -K PEER tx off`), VLAN tags that the card has taken off (`ethtool -K DEV rxvlan off`).

mod announcements;
mod attached;
mod receiver;
mod transmitter;

use super::bpf::Hook;
use super::umem::{self, Census, Umem};
use super::xsk::{Sizes, Transmitting, Xsk};
use super::{BURST, DeviceInfo, Filter, MAX_LINK_HEADER, OpenError, Port, device_info, sys};
use attached::Attached;
pub use attached::{Common, fits};
use core::cell::Cell;
use core::time::Duration;
use receiver::{Queue, XdpReceiver};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use transmitter::XdpTransmitter;

/// Chunks for receiving into, for all queues of a device together. Also what a burst may bring while the worker is
/// elsewhere.
const RECEIVE: u32 = 4096;

/// Least of them for one queue.
const RECEIVE_LEAST: u32 = 512;

/// Frames on their way out of one port.
const TRANSMIT: u32 = 2048;

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

/// Which of several workers it is that opens its queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Its number.
    pub worker: usize,
    /// Of so many, at least 1. Every device must have as many queues.
    pub workers: usize,
}

impl Part {
    /// The only worker: it has all queues.
    pub const ALL: Part = Part { worker: 0, workers: 1 };

    /// The queues of a device that are this worker's: each is one worker's, and all have as many, or one more.
    fn queues(self, device: &Device) -> impl Iterator<Item = u16> {
        (0..device.info.queues).skip(self.worker).step_by(self.workers)
    }
}

/// How large the rings of one queue of a device are. Only the worker's first queue sends.
fn sizes(device: &Device, first: bool) -> Sizes {
    let share = (RECEIVE / u32::from(device.info.queues)).next_power_of_two().clamp(RECEIVE_LEAST, RECEIVE);
    Sizes { receive: share, transmit: first.then_some(TRANSMIT) }
}

/// Longest frame of a device, bytes.
fn max_frame(device: &Device) -> usize {
    usize::from(device.info.mtu) + MAX_LINK_HEADER
}

/// Bytes of a chunk that holds every frame of these devices; none when no chunk can.
fn chunk_size(devices: &[Device]) -> Option<usize> {
    let needed = umem::KERNEL_HEADROOM + devices.iter().map(max_frame).max().unwrap_or(0);
    // The kernel takes chunks up to its page's size.
    [2048, 4096].into_iter().find(|size| needed <= *size)
}

fn chunk_count(devices: &[Device], part: Part) -> usize {
    let receive = |d: &Device| part.queues(d).count() * sizes(d, false).receive as usize;
    // In our hands: the burst being worked on, and copies.
    devices.iter().map(receive).sum::<usize>() + devices.len() * (TRANSMIT as usize + BURST) + BURST
}

/// Bytes of the memory that these devices, opened together by so many workers, take. 0 when they cannot be opened.
pub fn memory(devices: &[Device], workers: usize) -> usize {
    if devices.is_empty() {
        return 0;
    }
    let chunks: usize = (0..workers).map(|worker| chunk_count(devices, Part { worker, workers })).sum();
    chunk_size(devices).unwrap_or(0) * chunks
}

/// Asks where the chunks of the UMEM are: the frames' account, for tests.
pub struct Account(Rc<Umem>);

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
    let Some(chunk) = chunk_size(devices) else {
        let mtu = 4096 - umem::KERNEL_HEADROOM - MAX_LINK_HEADER;
        let worst = devices.iter().max_by_key(|d| d.info.mtu).map_or("", |d| &d.name);
        return Err(OpenError(format!(
            "af-xdp:{worst}: frames of AF_XDP hold an MTU of {mtu} at most: ip link set dev {worst} mtu {mtu}, or \
             mtu={mtu} in --port"
        )));
    };
    if devices.len() > umem::MAX_PORTS {
        return Err(OpenError(format!("at most {} af-xdp ports a worker", umem::MAX_PORTS)));
    }
    if let Some(few) = devices.iter().find(|d| usize::from(d.info.queues) < part.workers) {
        return Err(OpenError(too_few_queues(&few.name, few.info.queues, part.workers)));
    }
    sys::lift_memlock_limit();
    let count = chunk_count(devices, part);
    let no_memory =
        |e: io::Error| OpenError(format!("af-xdp: {} MiB of memory for frames: {e}", (count * chunk) >> 20));
    let umem = Rc::new(Umem::new(count, chunk).map_err(no_memory)?);
    let mut seats = Vec::with_capacity(devices.len());
    for ((device, common), port) in devices.iter().zip(common).zip(0..) {
        let attached = Attached::shared(device, filter, common)?;
        // How it works is known once its sockets are open.
        seats.push(Seat { device: device.clone(), attached, part, port, zero_copy: false });
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
    for (number, flags) in attempts.iter().enumerate() {
        opened = match sockets(&seats, &umem, *flags) {
            Ok(sockets) => Ok(sockets),
            Err((name, e)) => {
                let another = number + 1 < attempts.len();
                if another && matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) {
                    continue;
                }
                return Err(match e.raw_os_error() {
                    Some(libc::EOPNOTSUPP | libc::EINVAL) if *flags == libc::XDP_ZEROCOPY => OpenError(format!(
                        "af-xdp:{name}: its driver has no zero-copy mode: mode=copy, or leave mode= away"
                    )),
                    _ => refused(&name, "socket", &e),
                });
            }
        };
        break;
    }
    let (total, mib) = (devices.len(), (count * chunk) >> 20);
    let mut ports = Vec::with_capacity(total);
    for (mut seat, sockets) in seats.into_iter().zip(opened?) {
        let name = seat.device.name.clone();
        let failed = |e: io::Error| refused(&name, "socket", &e);
        seat.zero_copy = works_without_copy(&sockets).map_err(failed)?;
        let description = format!(
            "af-xdp, {}, {}, {} queue{}{}, UMEM of {mib} MiB for {total} port{}",
            if seat.attached.hook() == Hook::Native { "native" } else { "generic" },
            if seat.zero_copy { "zero-copy" } else { "copy" },
            sockets.len(),
            if sockets.len() == 1 { "" } else { "s" },
            if part.workers == 1 { "" } else { " of each worker" },
            if total == 1 { "" } else { "s" },
        );
        let (queues, sending) = divide(&seat, sockets).map_err(failed)?;
        let renewal = Rc::new(Cell::new(None));
        let tx = XdpTransmitter::new(&seat.device, seat.port, umem.clone(), sending, renewal.clone());
        let tx = tx.map_err(failed)?;
        let rx = XdpReceiver::new(seat, umem.clone(), queues, renewal).map_err(failed)?;
        ports.push(Port { description, rx: Box::new(rx), tx: Box::new(tx) });
    }
    Ok((ports, Account(umem)))
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

/// A worker's place at a device.
struct Seat {
    device: Device,
    attached: Arc<Attached>,
    part: Part,
    /// Among the worker's ports of this driver.
    port: u8,
    zero_copy: bool,
}

/// A socket for every queue of this worker's of every device, bound. On failure: which device, and why.
fn sockets(seats: &[Seat], umem: &Umem, flags: u16) -> Result<Vec<Vec<Xsk>>, (String, io::Error)> {
    let mut all: Vec<Vec<Xsk>> = Vec::with_capacity(seats.len());
    for seat in seats {
        let first = all.first().and_then(|sockets| sockets.first());
        all.push(sockets_at(seat, umem, flags, first, true).map_err(|e| (seat.device.name.clone(), e))?);
    }
    Ok(all)
}

/// The same at one device. `first`: whose registration of the UMEM is shared; if none, the UMEM is registered anew.
fn sockets_at(seat: &Seat, umem: &Umem, flags: u16, first: Option<&Xsk>, patient: bool) -> io::Result<Vec<Xsk>> {
    let device = &seat.device;
    let mut sockets: Vec<Xsk> = Vec::with_capacity(device.info.queues.into());
    for queue in seat.part.queues(device) {
        let shared = first.or(sockets.first());
        let registration = if shared.is_none() { Some(umem.registration()) } else { None };
        let xsk = Xsk::new(registration, sizes(device, sockets.is_empty()))?;
        // Those that share take the first one's flags.
        let flags = if shared.is_none() { flags | libc::XDP_USE_NEED_WAKEUP } else { 0 };
        let shared = shared.map(|first| &first.fd);
        let bind = || sys::bind_xdp(&xsk.fd, device.info.index, queue.into(), flags, shared);
        if patient { patiently(bind) } else { bind() }?;
        sockets.push(xsk);
    }
    for (queue, xsk) in seat.part.queues(device).zip(&sockets) {
        seat.attached.give_socket(queue, &xsk.fd)?;
    }
    Ok(sockets)
}

fn works_without_copy(sockets: &[Xsk]) -> io::Result<bool> {
    let first = sockets.first().ok_or(io::ErrorKind::InvalidInput)?;
    let options: libc::xdp_options = sys::get_option(&first.fd, libc::SOL_XDP, libc::XDP_OPTIONS)?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// What a transmitter sends by.
struct Sending {
    fd: Rc<OwnedFd>,
    rings: Transmitting,
    zero_copy: bool,
}

/// Into what is received by, and what is sent by.
fn divide(seat: &Seat, sockets: Vec<Xsk>) -> io::Result<(Vec<Queue>, Sending)> {
    let (mut queues, mut sending) = (Vec::with_capacity(sockets.len()), None);
    for xsk in sockets {
        let fd = Rc::new(xsk.fd);
        queues.push(Queue::new(fd.clone(), xsk.receiving, sizes(&seat.device, false).receive));
        if let Some(rings) = xsk.transmitting {
            sending = Some(Sending { fd, rings, zero_copy: seat.zero_copy });
        }
    }
    Ok((queues, sending.ok_or(io::ErrorKind::InvalidInput)?))
}

/// What is readable when a frame has come by one of these queues; none if that is the only queue's own descriptor.
fn wait_on(queues: &[Queue]) -> io::Result<Option<OwnedFd>> {
    match queues {
        [_one] => Ok(None),
        several => sys::readable_together(&several.iter().map(|q| &*q.fd).collect::<Vec<_>>()).map(Some),
    }
}

/// What a device that was made anew is used by.
struct Opened {
    index: u32,
    queues: Vec<Queue>,
    sending: Sending,
}

/// Opens a device that was removed, and is there again: in the mode that it had, with as many queues and no longer frames. The UMEM
/// is registered a second time: whose registration it shared is not known any more.
fn opened(seat: &Seat, umem: &Umem) -> io::Result<Opened> {
    let info = device_info(&seat.device.name).map_err(io::Error::other)?;
    if info.queues != seat.device.info.queues || info.mtu < seat.device.info.mtu || !info.up {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let index = info.index;
    seat.attached.follow(index)?;
    let device = Device { info: DeviceInfo { mtu: seat.device.info.mtu, ..info }, ..seat.device.clone() };
    let anew = Seat { device, attached: seat.attached.clone(), ..*seat };
    let flags = if seat.zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
    let sockets = sockets_at(&anew, umem, flags, None, false)?;
    let (queues, sending) = divide(&anew, sockets)?;
    Ok(Opened { index, queues, sending })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Mac;

    fn device(mtu: u16, queues: u16) -> Device {
        let info = DeviceInfo { index: 1, mac: Mac([2; 6]), mtu, up: true, merges: false, strips_vlan: false, queues };
        Device { name: "x".into(), info, mode: Mode::Auto }
    }

    #[test]
    fn every_queue_is_one_workers_and_there_are_chunks_for_every_ring_and_for_what_is_in_our_hands() {
        for queues in [1, 2, 3, 8, 63, 64] {
            let device = device(1500, queues);
            for workers in 1..=usize::from(queues).min(9) {
                let mut all = Vec::new();
                for worker in 0..workers {
                    let part = Part { worker, workers };
                    let mine: Vec<_> = part.queues(&device).collect();
                    let lent = mine.len() * sizes(&device, false).receive as usize;
                    assert!(!mine.is_empty() && mine.len() <= usize::from(queues).div_ceil(workers));
                    assert!(chunk_count(std::slice::from_ref(&device), part) > lent + TRANSMIT as usize + BURST);
                    all.extend(mine);
                }
                all.sort_unstable();
                assert_eq!(all, (0..queues).collect::<Vec<_>>());
            }
            let each = sizes(&device, false).receive;
            assert!(each.is_power_of_two() && u32::from(queues) * each >= RECEIVE);
        }
    }

    #[test]
    fn chunks_hold_the_longest_frame_behind_the_kernels_headroom() {
        assert_eq!(chunk_size(&[device(1500, 1)]), Some(2048));
        assert_eq!(chunk_size(&[device(1770, 1)]), Some(2048));
        assert_eq!(chunk_size(&[device(1500, 1), device(1771, 1)]), Some(4096));
        assert_eq!(chunk_size(&[device(3818, 1)]), Some(4096));
        assert_eq!(chunk_size(&[device(3819, 1)]), None);
        let Err(e) = open(&[device(9000, 1)], &Filter::default()) else { panic!("opened") };
        assert!(e.0.contains("mtu 3818"), "{e}");
    }
}
