//! Any Linux interface, past the kernel's stack: AF_XDP sockets, with the kernel's interface alone.
//!
//! A small program of ours (`xdp_program`) runs where the driver receives, hands over what
//! [`Filter`] names, and lets everything else go on to the kernel. It is attached by a link that ends with the
//! process, however that ends.
//!
//! **Memory.** All ports of a worker share one UMEM (`umem`, which has the protocol of ownership): a
//! frame received by one is sent by another where it lies. Every queue of a device has a socket with its own fill and
//! rx rings; the device's first queue also sends. A queue never has more than `Sizes::receive`
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
//! **A link that goes down** is told by netlink and counted; the sockets stay bound and work again when the link does.
//!
//! **What the kernel's other side leaves undone** is not known here, unlike with packet sockets: checksums that a virtual
//! peer left to its card (`ethtool -K PEER tx off`), VLAN tags that the card has taken off (`ethtool -K DEV rxvlan off`).

use super::bpf::{Hook, Map};
use super::link_watch::LinkWatch;
use super::umem::{self, Census, Umem};
use super::xdp_program::{self, Maps};
use super::xsk::{Descriptor, Receiving, Sizes, Transmitting, Xsk};
use super::{
    BURST, Burst, DeviceInfo, Filter, Loss, MAX_LINK_HEADER, OpenError, Port, Receiver, Slot, Traffic, Transmitter, sys,
};
use crate::wire::Frame;
use core::time::Duration;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Instant;

/// Chunks for receiving into, for all queues of a device together. Also what a burst may bring while the worker is
/// elsewhere.
const RECEIVE: u32 = 4096;

/// Least of them for one queue.
const RECEIVE_LEAST: u32 = 512;

/// Frames on their way out of one port.
const TRANSMIT: u32 = 2048;

/// Frames queued or being sent at once: the ring also has room for a batch that was withdrawn.
const IN_FLIGHT: u32 = TRANSMIT - BURST as u32;

/// Frames that the kernel sends in one system call, unless it can be told otherwise.
const KERNEL_BATCH: u32 = 32;

/// Sockets and links end a little after the process that had them: how long a start waits for a predecessor's.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Fewest chunks given back to the kernel at once.
const REFILL: u32 = 32;

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

/// How large the rings of one queue of a device are.
fn sizes(device: &Device, queue: u16) -> Sizes {
    let share = (RECEIVE / u32::from(device.info.queues)).next_power_of_two().clamp(RECEIVE_LEAST, RECEIVE);
    // Only the first sends.
    Sizes { receive: share, transmit: if queue == 0 { TRANSMIT } else { 64 } }
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

fn chunk_count(devices: &[Device]) -> usize {
    let receive: u32 = devices.iter().flat_map(|d| (0..d.info.queues).map(|q| sizes(d, q).receive)).sum();
    // In our hands: the burst being worked on, and copies.
    receive as usize + devices.len() * (TRANSMIT as usize + BURST) + BURST
}

/// Bytes of the memory that these devices, opened together, take. 0 when they cannot be opened.
pub fn memory(devices: &[Device]) -> usize {
    if devices.is_empty() { 0 } else { chunk_size(devices).unwrap_or(0) * chunk_count(devices) }
}

/// Asks where the chunks of the UMEM are: the frames' account, for tests.
pub struct Account(Rc<Umem>);

impl Account {
    /// Now.
    pub fn census(&self) -> Census {
        self.0.census()
    }
}

/// Opens all queues of each of `devices`, for one worker. They share one region.
pub fn open(devices: &[Device], filter: &Filter) -> Result<Vec<Port>, OpenError> {
    open_accounted(devices, filter).map(|(ports, _)| ports)
}

/// As [`open`], with the account of the frames.
pub fn open_accounted(devices: &[Device], filter: &Filter) -> Result<(Vec<Port>, Account), OpenError> {
    let Some(chunk) = chunk_size(devices) else {
        let mtu = 4096 - umem::KERNEL_HEADROOM - MAX_LINK_HEADER;
        let worst = devices.iter().max_by_key(|d| d.info.mtu).map_or("", |d| &d.name);
        return Err(OpenError(format!(
            "af-xdp:{worst}: frames of AF_XDP hold an MTU of {mtu} at most: ip link set dev {worst} mtu {mtu}, or \
             mtu={mtu} in --port"
        )));
    };
    sys::lift_memlock_limit();
    let count = chunk_count(devices);
    let no_memory =
        |e: io::Error| OpenError(format!("af-xdp: {} MiB of memory for frames: {e}", (count * chunk) >> 20));
    let umem = Rc::new(Umem::new(count, chunk).map_err(no_memory)?);
    let first = devices.first().map_or("", |d| &d.name);
    let maps = Maps::new(filter).map_err(|e| refused(first, "filter map", &e))?;
    let attached = devices.iter().map(|d| Attached::new(d, &maps)).collect::<Result<Vec<_>, _>>()?;

    let wanted = |mode| devices.iter().find(|d| d.mode == mode);
    let any_generic = attached.iter().any(|a| a.hook == Hook::Generic);
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
        opened = match sockets(devices, &attached, &umem, *flags) {
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
    let total = devices.len();
    let mib = (count * chunk) >> 20;
    let mut ports = Vec::with_capacity(total);
    for ((device, attached), queues) in devices.iter().zip(attached).zip(opened?) {
        let failed = |e: io::Error| refused(&device.name, "socket", &e);
        let options: libc::xdp_options =
            sys::get_option(&queues[0].fd, libc::SOL_XDP, libc::XDP_OPTIONS).map_err(failed)?;
        let zero_copy = options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
        let description = format!(
            "af-xdp, {}, {}, {} queue{}, UMEM of {mib} MiB for {total} port{}",
            if attached.hook == Hook::Native { "native" } else { "generic" },
            if zero_copy { "zero-copy" } else { "copy" },
            queues.len(),
            if queues.len() == 1 { "" } else { "s" },
            if total == 1 { "" } else { "s" },
        );
        let groups = join_groups(device, filter).map_err(failed)?;
        let (rx, tx) = halves(device, attached, queues, &umem, zero_copy, groups).map_err(failed)?;
        ports.push(Port { description, rx: Box::new(rx), tx: Box::new(tx) });
    }
    Ok((ports, Account(umem)))
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

/// Our program, attached to a device until this is dropped.
struct Attached {
    _link: OwnedFd,
    sockets: Map,
    hook: Hook,
}

impl Attached {
    fn new(device: &Device, maps: &Maps) -> Result<Attached, OpenError> {
        let told = |e: io::Error| refused(&device.name, "program", &e);
        let sockets = xdp_program::sockets(device.info.queues.into()).map_err(told)?;
        let program = xdp_program::load(maps, &sockets).map_err(told)?;
        let native_only = matches!(device.mode, Mode::ZeroCopy | Mode::Copy);
        if device.mode != Mode::Generic {
            match patiently(|| program.attach(device.info.index, Hook::Native)) {
                Ok(link) => return Ok(Attached { _link: link, sockets, hook: Hook::Native }),
                // Nothing that another hook would change.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EBUSY | libc::EEXIST)) => {
                    return Err(told(e));
                }
                Err(e) if native_only => {
                    return Err(OpenError(format!(
                        "af-xdp:{}: its driver cannot run an XDP program (MTU {}: {e}): mode=generic, or leave mode= \
                         away",
                        device.name, device.info.mtu
                    )));
                }
                Err(_) => {}
            }
        }
        let link = patiently(|| program.attach(device.info.index, Hook::Generic)).map_err(told)?;
        Ok(Attached { _link: link, sockets, hook: Hook::Generic })
    }
}

/// A socket for every queue of every device, bound. On failure: which device, and why.
fn sockets(
    devices: &[Device],
    attached: &[Attached],
    umem: &Umem,
    flags: u16,
) -> Result<Vec<Vec<Xsk>>, (String, io::Error)> {
    let mut all: Vec<Vec<Xsk>> = Vec::with_capacity(devices.len());
    for (device, attached) in devices.iter().zip(attached) {
        let told = |e| (device.name.clone(), e);
        all.push(Vec::with_capacity(device.info.queues.into()));
        for queue in 0..device.info.queues {
            let shared = all.first().and_then(|queues| queues.first());
            let registration = if shared.is_none() { Some(umem.registration()) } else { None };
            let xsk = Xsk::new(registration, sizes(device, queue)).map_err(told)?;
            // Those that share take the first one's flags.
            let flags = if shared.is_none() { flags | libc::XDP_USE_NEED_WAKEUP } else { 0 };
            let shared = shared.map(|first| &first.fd);
            patiently(|| sys::bind_xdp(&xsk.fd, device.info.index, queue.into(), flags, shared)).map_err(told)?;
            if let Some(queues) = all.last_mut() {
                queues.push(xsk);
            }
        }
        for (queue, xsk) in all.last().into_iter().flatten().enumerate() {
            attached.sockets.set(&(queue as u32).to_ne_bytes(), xsk.fd.as_raw_fd() as u32).map_err(told)?;
        }
    }
    Ok(all)
}

/// Has the card let the multicast groups through in which neighbours ask for our IPv6 addresses (RFC 4291 section
/// 2.7.1), for as long as the descriptor is open. The kernel, which does not have these addresses, has not joined them.
fn join_groups(device: &Device, filter: &Filter) -> io::Result<OwnedFd> {
    // Of no protocol: it receives nothing.
    let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    let addresses = filter.addresses.iter().copied().chain(filter.services.iter().map(|s| s.ip()));
    let groups: BTreeSet<_> = addresses
        .filter_map(|ip| match ip {
            IpAddr::V6(ip) => Some([ip.octets()[13], ip.octets()[14], ip.octets()[15]]),
            IpAddr::V4(_) => None,
        })
        .collect();
    for [a, b, c] in groups {
        let membership = libc::packet_mreq {
            mr_ifindex: device.info.index as i32,
            mr_type: libc::PACKET_MR_MULTICAST as u16,
            mr_alen: 6,
            mr_address: [0x33, 0x33, 0xff, a, b, c, 0, 0],
        };
        sys::set_option(&fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, membership)?;
    }
    Ok(fd)
}

fn halves(
    device: &Device,
    attached: Attached,
    queues: Vec<Xsk>,
    umem: &Rc<Umem>,
    zero_copy: bool,
    groups: OwnedFd,
) -> io::Result<(XdpReceiver, XdpTransmitter)> {
    let wait = match &queues[..] {
        [_one] => None,
        several => Some(sys::readable_together(&several.iter().map(|q| &q.fd).collect::<Vec<_>>())?),
    };
    let mut receiving = Vec::with_capacity(queues.len());
    let mut transmitting = None;
    for (number, xsk) in queues.into_iter().enumerate() {
        let fd = Rc::new(xsk.fd);
        let size = sizes(device, number as u16).receive;
        receiving.push(Queue { fd: fd.clone(), rings: xsk.receiving, size, lent: 0, lost: 0 });
        transmitting.get_or_insert((fd, xsk.transmitting));
        // The rings of queues that do not send are unmapped here; the socket keeps them.
    }
    let (fd, rings) = transmitting.ok_or(io::ErrorKind::InvalidInput)?;
    // What it bounds are frames in the device's own queue; as large as allowed.
    let send_buffer = 8 << 20;
    if sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, send_buffer).is_err() {
        let _ = sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF, send_buffer);
    }
    // Since Linux 6.17.
    const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
    let batch = match sys::set_option(&fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, BURST as i32) {
        Ok(()) => BURST as u32,
        Err(_) => KERNEL_BATCH,
    };
    let mut rx = XdpReceiver {
        _attached: attached,
        _groups: groups,
        umem: umem.clone(),
        queues: receiving,
        next: 0,
        wait,
        link: LinkWatch::new(&device.name, device.info.index)?,
        max_frame: max_frame(device),
        traffic: Traffic::default(),
    };
    rx.queues.iter_mut().for_each(|q| q.refill(umem));
    let tx = XdpTransmitter {
        umem: umem.clone(),
        fd,
        rings,
        device: device.name.clone(),
        questions: sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?,
        zero_copy,
        batch,
        staged: 0,
        waiting: false,
        exact: true,
        in_flight: 0,
        withdrawn: 0,
        down: false,
        max_frame: max_frame(device),
        traffic: Traffic::default(),
    };
    Ok((rx, tx))
}

/// What one queue receives.
struct Queue {
    fd: Rc<OwnedFd>,
    rings: Receiving,
    /// Most chunks lent to the kernel.
    size: u32,
    /// Chunks in the fill and rx rings.
    lent: u32,
    /// Frames lost, as the kernel last told.
    lost: u64,
}

impl Queue {
    /// Lends the kernel as many chunks as it may have, if it is worth it.
    fn refill(&mut self, umem: &Umem) {
        if self.size - self.lent < REFILL {
            return;
        }
        while self.lent < self.size
            && let Some(address) = umem.lend_to_kernel()
        {
            let put = self.rings.fill.put(address);
            debug_assert!(put, "the ring is as large as what is lent");
            self.lent += 1;
        }
        self.rings.fill.publish();
    }
}

struct XdpReceiver {
    _attached: Attached,
    _groups: OwnedFd,
    umem: Rc<Umem>,
    queues: Vec<Queue>,
    /// The queue that is looked at first.
    next: usize,
    /// For several queues.
    wait: Option<OwnedFd>,
    link: LinkWatch,
    max_frame: usize,
    traffic: Traffic,
}

impl XdpReceiver {
    fn receive_from(&mut self, number: usize, burst: &mut Burst) {
        let Some(queue) = self.queues.get_mut(number) else { return };
        let before = queue.lent;
        while !burst.is_full() {
            let Some(descriptor) = queue.rings.rx.take() else { break };
            queue.lent -= 1;
            match self.umem.received(descriptor.address, descriptor.len) {
                Some(slot) if slot.len() > self.max_frame => {
                    self.traffic.lost(Loss::RxOversized, 1);
                    self.umem.release(slot);
                }
                Some(slot) => {
                    self.traffic.passed(slot.len());
                    burst.push(slot);
                }
                None => self.traffic.lost(Loss::RxTruncated, 1),
            }
        }
        if queue.lent != before {
            queue.rings.rx.done();
        }
        queue.refill(&self.umem);
        if queue.rings.fill.needs_wakeup() {
            sys::kick_receive(&queue.fd);
        }
    }
}

impl Receiver for XdpReceiver {
    fn receive(&mut self, burst: &mut Burst) {
        // In turn, so that a busy queue does not starve the others.
        for i in 0..self.queues.len() {
            self.receive_from((self.next + i) % self.queues.len(), burst);
        }
        self.next = (self.next + 1) % self.queues.len();
    }

    fn frame<'a>(&'a mut self, slot: &'a mut Slot) -> Frame<'a> {
        self.umem.frame(slot)
    }

    fn release(&mut self, slot: Slot) {
        self.umem.release(slot);
    }

    fn wait_fd(&self) -> Option<RawFd> {
        self.wait.as_ref().map(AsRawFd::as_raw_fd).or_else(|| Some(self.queues.first()?.fd.as_raw_fd()))
    }

    fn device_event(&mut self) {
        self.traffic.link_downs += self.link.downs();
    }

    fn traffic(&mut self) -> Traffic {
        self.device_event();
        for queue in &mut self.queues {
            if let Ok(stats) = sys::get_option::<libc::xdp_statistics>(&queue.fd, libc::SOL_XDP, libc::XDP_STATISTICS) {
                let lost = stats.rx_dropped + stats.rx_ring_full;
                self.traffic.lost(Loss::RxRingFull, lost - queue.lost);
                queue.lost = lost;
            }
        }
        self.traffic
    }
}

struct XdpTransmitter {
    umem: Rc<Umem>,
    fd: Rc<OwnedFd>,
    rings: Transmitting,
    device: String,
    /// To ask for the link's state.
    questions: OwnedFd,
    zero_copy: bool,
    /// Frames that the kernel sends in one system call.
    batch: u32,
    /// Frames in the ring that the kernel was not shown.
    staged: u32,
    /// The kernel did not take all that it was shown.
    waiting: bool,
    /// The ring's consumer index is what the kernel has consumed. Some kernels tell it late when a call ends early.
    exact: bool,
    /// Chunks in the tx ring, the device or the completion ring; at most `IN_FLIGHT`.
    in_flight: u32,
    /// Descriptors in the ring that were withdrawn, at most a batch: the kernel skips one of them in each call.
    withdrawn: u32,
    /// The link was found down when last used.
    down: bool,
    max_frame: usize,
    traffic: Traffic,
}

impl XdpTransmitter {
    /// Takes back what was sent.
    fn reap(&mut self) {
        let before = self.in_flight;
        while let Some(address) = self.rings.completion.take() {
            if self.umem.sent(address) {
                self.in_flight -= 1;
            }
        }
        if self.in_flight != before {
            self.rings.completion.done();
        }
    }

    /// Whether one more frame can be queued. Counts it as lost if not.
    fn has_room(&mut self) -> bool {
        if self.in_flight == IN_FLIGHT {
            self.reap();
            if self.in_flight == IN_FLIGHT {
                self.kick();
            }
            if self.in_flight == IN_FLIGHT {
                self.traffic.lost(if self.down { Loss::TxLinkDown } else { Loss::TxQueueFull }, 1);
                return false;
            }
        }
        true
    }

    /// Queues a slot of our region, for which there is room.
    fn queue(&mut self, slot: Slot) {
        self.traffic.passed(slot.len());
        let (address, len) = self.umem.to_send(slot);
        let put = self.rings.tx.put(Descriptor { address, len, options: 0 });
        debug_assert!(put, "the ring has room for all that may be in flight");
        self.in_flight += 1;
        self.staged += 1;
        if self.staged == self.batch {
            self.kick();
        }
    }

    /// Shows the kernel what is staged, and has it sent.
    fn kick(&mut self) {
        if self.down && !self.is_up_again() {
            self.unstage(Loss::TxLinkDown);
            return;
        }
        self.rings.tx.publish();
        self.staged = 0;
        let (mut idle, mut drops) = (0, 0);
        while self.rings.tx.needs_wakeup() {
            match sys::kick_transmit(&self.fd) {
                // It came to a withdrawn one, perhaps, and stopped there.
                Ok(()) if self.withdrawn > 0 => self.withdrawn -= 1,
                Ok(()) => {
                    // Copying, it has looked until nothing was left.
                    self.exact = true;
                    self.down &= drops > 0;
                    break;
                }
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The device dropped one frame, and the rest was not looked at.
                    Some(libc::EBUSY) if !self.zero_copy && drops < TRANSMIT => {
                        (self.exact, drops) = (false, drops + 1);
                        let link_down = !sys::link_is_up(&self.questions, &self.device);
                        self.found_down(link_down);
                        self.traffic.lost(if link_down { Loss::TxLinkDown } else { Loss::TxQueueFull }, 1);
                        // Which one it was is not known; its bytes stay counted.
                        self.traffic.frames -= 1;
                    }
                    Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                        self.found_down(true);
                        self.withdraw(Loss::TxLinkDown);
                        break;
                    }
                    // The completion ring or the device's queue is full, memory is short, or the batch is over.
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM) => {
                        self.exact = false;
                        self.reap();
                        idle += 1;
                        if idle == 4 {
                            break;
                        }
                    }
                    _ => {
                        self.withdraw(Loss::TxRefused);
                        break;
                    }
                },
            }
        }
        self.waiting = self.rings.tx.unread() > self.withdrawn;
        self.reap();
    }

    /// Asks, before anything more is put into the ring of a link that was down.
    fn is_up_again(&mut self) -> bool {
        match sys::kick_transmit(&self.fd).map_err(|e| e.raw_os_error()) {
            Err(Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV)) => false,
            Ok(()) => {
                self.withdrawn = self.withdrawn.saturating_sub(1);
                true
            }
            Err(_) => true,
        }
    }

    /// One that was counted as sent was not.
    fn take_back(&mut self, descriptor: Descriptor, why: Loss) {
        if self.umem.sent(descriptor.address) {
            self.in_flight -= 1;
            self.traffic.frames -= 1;
            self.traffic.bytes -= u64::from(descriptor.len);
            self.traffic.lost(why, 1);
        }
    }

    /// Takes what the kernel was not shown out of the ring, lost for this reason.
    fn unstage(&mut self, why: Loss) {
        for back in 1..=self.staged {
            self.take_back(self.rings.tx.recent(back), why);
        }
        self.rings.tx.forget(self.staged);
        self.staged = 0;
    }

    fn found_down(&mut self, down: bool) {
        self.traffic.link_downs += u64::from(down && !self.down);
        self.down = down;
    }

    /// Takes everything that the kernel has not consumed out of the ring, lost for this reason. Where that cannot be
    /// known it stays there.
    fn withdraw(&mut self, why: Loss) {
        if self.zero_copy || !self.exact {
            return;
        }
        self.withdrawn = self.rings.tx.unread();
        for back in 1..=self.withdrawn {
            // What was withdrawn before is of no chunk, and not counted again.
            self.take_back(self.rings.tx.recent(back), why);
            // SAFETY: with copies the kernel reads the ring within system calls on this socket only, and this thread,
            // which alone has it, is in none.
            unsafe {
                self.rings.tx.replace_recent(back, Descriptor { address: self.umem.nowhere(), len: 0, options: 0 });
            }
        }
    }
}

impl Transmitter for XdpTransmitter {
    fn takes(&self, slot: &Slot) -> bool {
        slot.region() == self.umem.region()
    }

    fn transmit(&mut self, slot: Slot) -> Result<(), Slot> {
        if !self.takes(&slot) {
            return Err(slot);
        }
        if slot.len() > self.max_frame {
            self.traffic.lost(Loss::TxRefused, 1);
            return Err(slot);
        }
        if !self.has_room() {
            return Err(slot);
        }
        self.queue(slot);
        Ok(())
    }

    fn transmit_copy(&mut self, frame: &[u8]) -> bool {
        if frame.len() > self.max_frame {
            self.traffic.lost(Loss::TxRefused, 1);
            return false;
        }
        if !self.has_room() {
            return false;
        }
        match self.umem.copy_in(frame) {
            Some(slot) => {
                self.queue(slot);
                true
            }
            None => {
                self.traffic.lost(Loss::TxQueueFull, 1);
                false
            }
        }
    }

    fn flush(&mut self) {
        if self.staged > 0 || self.waiting {
            self.kick();
        } else if self.in_flight > 0 {
            self.reap();
        }
    }

    fn traffic(&mut self) -> Traffic {
        self.traffic
    }
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
    fn there_are_chunks_for_every_ring_and_for_what_is_in_our_hands() {
        for queues in [1, 2, 3, 8, 63, 64] {
            let device = device(1500, queues);
            let lent: u32 = (0..queues).map(|q| sizes(&device, q).receive).sum();
            assert!((0..queues).all(|q| sizes(&device, q).receive.is_power_of_two()));
            assert!(lent >= RECEIVE);
            assert!(chunk_count(&[device]) > lent as usize + TRANSMIT as usize + BURST);
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
