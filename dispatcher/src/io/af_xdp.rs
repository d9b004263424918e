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
pub mod passing;
mod receiver;
mod transmitter;

use super::bpf::Hook;
use super::umem::{self, Census, Long, Umem};
use super::xsk::{Sizes, Transmitting, Xsk};
use super::{BURST, DeviceInfo, Filter, HEADROOM, MAX_LINK_HEADER, OpenError, Port, device_info, sys};
use attached::Attached;
pub use attached::{Common, fits};
use core::cell::Cell;
use core::time::Duration;
use passing::Memory;
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

/// Most chunks of a long frame. Cards chain eight buffers and more (`xdp-zc-max-segs`), the kernel 17; four hold what any card's MTU allows.
const MOST_CHUNKS: usize = 4;

/// Largest chunk: the kernel takes none beyond a page's size.
const LARGEST_CHUNK: usize = 4096;

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

/// Whether a device has frames that no chunk holds.
fn has_long(device: &Device) -> bool {
    umem::KERNEL_HEADROOM + max_frame(device) > LARGEST_CHUNK
}

/// What the memory of a worker is cut into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Layout {
    /// Bytes of a chunk.
    chunk: usize,
    /// Chunks of the longest frame as it is sent.
    most: usize,
}

impl Layout {
    /// For every frame of these devices. `chains`: the kernel has frames in several chunks. None when they cannot be had.
    fn of(devices: &[Device], chains: bool) -> Option<Layout> {
        let longest = devices.iter().map(max_frame).max().unwrap_or(0);
        let one = |chunk: &usize| umem::KERNEL_HEADROOM + longest <= *chunk;
        if let Some(chunk) = [2048, LARGEST_CHUNK].into_iter().find(one) {
            return Some(Layout { chunk, most: 1 });
        }
        // One that fits a chunk behind our headroom does not behind the kernel's: it comes in two.
        let most = (HEADROOM + longest).div_ceil(LARGEST_CHUNK).max(2);
        (chains && most <= MOST_CHUNKS).then_some(Layout { chunk: LARGEST_CHUNK, most })
    }

    /// Largest MTU that there is a layout for.
    fn largest_mtu(chains: bool) -> usize {
        let one = LARGEST_CHUNK - umem::KERNEL_HEADROOM;
        let room = if chains { MOST_CHUNKS * LARGEST_CHUNK - HEADROOM } else { one };
        room - MAX_LINK_HEADER
    }

    /// Buffers for long frames: as many as can be on their way out (each has two descriptors at least), a burst in our hands, and one that is
    /// being put together for each queue.
    fn long(self, devices: &[Device], part: Part) -> Long {
        if self.most == 1 {
            return Long::NONE;
        }
        let queues = devices.iter().map(|d| part.queues(d).count()).sum::<usize>();
        Long { buffers: devices.len() * (TRANSMIT as usize / 2 + BURST) + BURST + queues, chunks: self.most }
    }
}

fn chunk_count(devices: &[Device], part: Part) -> usize {
    let receive = |d: &Device| part.queues(d).count() * sizes(d, false).receive as usize;
    // In our hands: the burst being worked on, and copies.
    devices.iter().map(receive).sum::<usize>() + devices.len() * (TRANSMIT as usize + BURST) + BURST
}

/// Bytes of the memory that these devices, opened together by so many workers, take. 0 when they cannot be opened.
pub fn memory(devices: &[Device], workers: usize) -> usize {
    let Some(layout) = Layout::of(devices, true).filter(|_| !devices.is_empty()) else { return 0 };
    let bytes = |worker| {
        let part = Part { worker, workers };
        let long = layout.long(devices, part);
        (chunk_count(devices, part) + long.buffers * long.chunks) * layout.chunk
    };
    (0..workers).map(bytes).sum()
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
    let chains = devices.iter().any(has_long) && kernel_chains();
    let Some(layout) = Layout::of(devices, chains) else { return Err(too_long(devices, chains)) };
    if devices.len() > umem::MAX_PORTS {
        return Err(OpenError(format!("at most {} af-xdp ports a worker", umem::MAX_PORTS)));
    }
    if let Some(few) = devices.iter().find(|d| usize::from(d.info.queues) < part.workers) {
        return Err(OpenError(too_few_queues(&few.name, few.info.queues, part.workers)));
    }
    sys::lift_memlock_limit();
    let (count, long) = (chunk_count(devices, part), layout.long(devices, part));
    let mib = ((count + long.buffers * long.chunks) * layout.chunk) >> 20;
    let no_memory = |e: io::Error| OpenError(format!("af-xdp: {mib} MiB of memory for frames: {e}"));
    let first = common.first();
    let umem = match first.and_then(|common| common.legacy()) {
        None => Umem::new(count, layout.chunk, long).map_err(no_memory)?,
        Some(legacy) => {
            let other = |why: &str| OpenError(format!("af-xdp: the memory that was passed {why}"));
            let memory = legacy.take_memory(part.worker).ok_or_else(|| other("is not there"))?;
            if (memory.chunk as usize, memory.chunks as usize, memory.long) != (layout.chunk, count, long) {
                return Err(other("is cut in another way than here"));
            }
            Umem::of_another(memory.file, count, layout.chunk, long).map_err(no_memory)?
        }
    };
    let umem = Rc::new(umem);
    if let Some(common) = first {
        common.has_memory(part.worker, Memory::of(&umem).map_err(no_memory)?);
    }
    let inherited = first.is_some_and(|common| common.legacy().is_some());
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
    if inherited {
        let failed = |(name, e): (String, io::Error)| refused(&name, "socket that was passed", &e);
        opened = inherited_sockets(&seats, common).map_err(failed);
    }
    let attempts = if inherited { &[] } else { attempts };
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
                        "af-xdp:{name}: its driver has no zero-copy mode{}: mode=copy, or leave mode= away",
                        if umem.has_long() { " for this MTU" } else { "" }
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
        seat.zero_copy = works_without_copy(&sockets).map_err(failed)?;
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
        let tx = XdpTransmitter::new(&seat.device, seat.port, umem.clone(), sending, renewal.clone());
        let tx = tx.map_err(failed)?;
        let mut rx = XdpReceiver::new(seat, umem.clone(), queues, renewal).map_err(failed)?;
        if !inherited {
            rx.refill();
        }
        ports.push(Port { description, rx: Box::new(rx), tx: Box::new(tx) });
    }
    Ok((ports, Account(umem)))
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

/// The same of those that another process has passed.
fn inherited_sockets(seats: &[Seat], common: &[Arc<Common>]) -> Result<Vec<Vec<Xsk>>, (String, io::Error)> {
    let of_seat = |(seat, common): (&Seat, &Arc<Common>)| {
        let failed = |e| (seat.device.name.clone(), e);
        let mut sockets = Vec::new();
        for queue in seat.part.queues(&seat.device) {
            let fd = common.legacy().and_then(|legacy| legacy.take_socket(queue));
            let fd = fd.ok_or_else(|| failed(io::Error::other("it is not there")))?;
            let xsk = Xsk::over(fd, sizes(&seat.device, sockets.is_empty())).map_err(failed)?;
            seat.attached.give_socket(queue, &xsk.fd).map_err(failed)?;
            sockets.push(xsk);
        }
        Ok(sockets)
    };
    seats.iter().zip(common).map(of_seat).collect()
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
        let chains = if umem.has_long() { libc::XDP_USE_SG } else { 0 };
        let flags = if shared.is_none() { flags | libc::XDP_USE_NEED_WAKEUP | chains } else { 0 };
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
    fn chunks_hold_the_longest_frame_behind_the_kernels_headroom_and_several_hold_a_long_one() {
        let of = |mtus: &[u16], chains| {
            let devices: Vec<_> = mtus.iter().map(|mtu| device(*mtu, 1)).collect();
            Layout::of(&devices, chains).map(|layout| (layout.chunk, layout.most))
        };
        for chains in [false, true] {
            assert_eq!(of(&[1500], chains), Some((2048, 1)));
            assert_eq!(of(&[1770], chains), Some((2048, 1)));
            assert_eq!(of(&[1500, 1771], chains), Some((4096, 1)));
            assert_eq!(of(&[3818], chains), Some((4096, 1)));
            let largest = Layout::largest_mtu(chains) as u16;
            assert!(of(&[largest], chains).is_some() && of(&[largest + 1], chains).is_none());
        }
        assert_eq!(of(&[3819], false), None);
        assert_eq!(of(&[3819], true), Some((4096, 2)));
        assert_eq!(of(&[1500, 9000], true), Some((4096, 3)));
        assert!(!has_long(&device(3818, 1)) && has_long(&device(3819, 1)));
        let old = too_long(&[device(1500, 1), device(9000, 1)], false).0;
        assert!(old.contains("an MTU of 3818 at most before Linux 6.6: ip link set dev x mtu 3818"), "{old}");
        let Err(e) = open(&[device(20_000, 1)], &Filter::default()) else { panic!("opened") };
        assert!(e.0.contains("mtu 16266") || e.0.contains("mtu 3818"), "{e}");
    }
}
