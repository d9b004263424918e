//! Any Linux interface, through packet sockets: receive rings in memory shared with the kernel (TPACKET_V2), frames
//! sent by `sendmmsg(2)` straight from there.
//!
//! **Receiving.** A ring is places for one frame each, which the kernel fills in turn. A frame is ours as soon as it is there, is rewritten
//! where it lies, and its place goes back to the kernel when its slot has been released or sent. When all places are ours, the kernel
//! drops, and tells us how many (`rx-ring-full`). TPACKET_V3, whose blocks hold more of the smallest frames, shows a block when it is full
//! or a millisecond after its first frame (a tick of the kernel's before Linux 6.18): with five such waits in a connection's life, one connection at
//! a time took 5 ms.
//!
//! **Sending.** `sendmmsg` copies out of the receive ring into the kernel's own buffers; the slots are released when
//! it returns, so a frame is copied once on its way. A transmit ring would ask for a copy from ring to ring here, and
//! save none there: over virtual links the kernel copies a ring's pages when a frame is handed to another stack. Errors
//! of a ring concern all of it; here each belongs to a frame. From ring to the far socket over virtual pairs a frame
//! costs the forwarding core 1.2 to 1.3 us (`the_cost_of_a_frame` in the tests).
//!
//! **What the kernel's other side leaves undone** is done on receipt: a stripped VLAN tag is put back, a checksum that
//! was left to the card is completed. Super-frames (GRO, LRO, a neighbour's TSO) cannot be sent on, and are dropped as
//! `rx-oversized`.
//!
//! **A link that goes down** is counted, and what is sent meanwhile is lost as `tx-link-down`. The socket stays bound
//! and works again when the link does. A device that is removed takes its socket with it; when one of the same name is there
//! again, it is opened anew (`reopened`).

use super::arena::Arena;
use super::link_watch::LinkWatch;
use super::{
    BURST, Burst, DeviceInfo, HEADROOM, Loss, MAX_LINK_HEADER, OpenError, Port, Receiver, RegionId, Slot, Traffic,
    Transmitter, offload, sys,
};
use crate::wire::Frame;
use core::cell::{Cell, RefCell};
use core::mem::{align_of, size_of, zeroed};
use core::sync::atomic::{AtomicU32, Ordering};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a receive ring.
pub const RING_BYTES: usize = 16 << 20;

/// Bytes of a piece of a ring that is contiguous in the kernel's memory too.
const BLOCK: usize = 256 * 1024;

/// Most frames queued for transmission before they are handed to the kernel.
const QUEUE: usize = BURST;

/// Where a frame may begin in its place in the ring: behind the header, and the address that follows it.
const FRAME_HEADER: usize = libc::TPACKET2_HDRLEN;

/// Most bytes that the kernel leaves between there and an IP packet, [`HEADROOM`] aside: a link header, and what aligns it.
const FRAME_LEAD: usize = 48;

/// Bytes of the place for a frame of so many: whole cache lines, and an odd number of them, so that the beginnings of frames do not all
/// fall into the same few sets of the caches.
const fn place_for(frame: usize) -> usize {
    let lines = (FRAME_HEADER + FRAME_LEAD + HEADROOM + frame).div_ceil(64);
    (lines | 1) * 64
}

/// How the frames of one device are divided among the sockets of several workers: a fanout group of the kernel's, by its hash of
/// the flow. Each direction of a connection stays with one socket; the two directions need not meet.
#[derive(Debug, Default)]
pub struct Fanout {
    /// The device's number and the group's, once there is one. The first socket makes the group, with a number that nobody has; and
    /// another one when the device was made anew. Locked at these times only.
    group: Mutex<Option<(u32, i32)>>,
}

impl Fanout {
    /// Puts a socket that is bound to the device of this number into the group.
    fn join(&self, fd: &OwnedFd, device: u32) -> io::Result<()> {
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, number)) = group.filter(|(of, _)| *of == device) {
            let argument = number | (libc::PACKET_FANOUT_HASH << 16) as i32;
            return sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_FANOUT, argument);
        }
        let argument = (libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_UNIQUEID) << 16;
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_FANOUT, argument as i32)?;
        let made = sys::get_option::<i32>(fd, libc::SOL_PACKET, libc::PACKET_FANOUT)?;
        *group = Some((device, made & 0xffff));
        Ok(())
    }
}

/// Opens one queue on each of `devices`, for a single worker. They share one region.
pub fn open(devices: &[(String, DeviceInfo)]) -> Result<Vec<Port>, OpenError> {
    open_shared(devices, &[])
}

/// Opens one queue on each of `devices`, for one of several workers, which share each device's frames by `fanouts`, in the order
/// of the devices. Without any the queue gets all frames. One worker after the other.
pub fn open_shared(devices: &[(String, DeviceInfo)], fanouts: &[Arc<Fanout>]) -> Result<Vec<Port>, OpenError> {
    let mut rings = Vec::with_capacity(devices.len());
    for (index, (name, info)) in devices.iter().enumerate() {
        if rings.len() == MAX_RINGS {
            return Err(OpenError(format!("at most {MAX_RINGS} af-packet ports a worker")));
        }
        let place = place_for(usize::from(info.mtu) + MAX_LINK_HEADER);
        let ring = Ring::open(info, place, BLOCK, RING_BYTES / BLOCK).map_err(|e| match e.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => OpenError(format!(
                "af-packet:{name}: not permitted: needs CAP_NET_RAW and CAP_NET_ADMIN (run as root, or: setcap \
                 cap_net_raw,cap_net_admin+ep on the program)"
            )),
            Some(libc::ENOMEM) => OpenError(format!("af-packet:{name}: no memory for a ring of {} MiB", RING_MIB)),
            _ => OpenError(format!("af-packet:{name}: {e}")),
        })?;
        if let Some(fanout) = fanouts.get(index) {
            fanout.join(&ring.fd, info.index).map_err(|e| {
                OpenError(format!("af-packet:{name}: frames cannot be divided among workers (PACKET_FANOUT): {e}"))
            })?;
        }
        rings.push(ring);
    }
    let region = Rc::new(Region { id: RegionId::unique(), rings: rings.into() });
    devices
        .iter()
        .enumerate()
        .map(|(index, (name, info))| {
            let failed = |e: io::Error| OpenError(format!("af-packet:{name}: {e}"));
            let max_frame = usize::from(info.mtu) + MAX_LINK_HEADER;
            let rx = PacketReceiver {
                region: region.clone(),
                ring: index,
                next: 0,
                max_frame,
                name: name.clone(),
                mtu: info.mtu,
                fanout: fanouts.get(index).cloned(),
                link: LinkWatch::new(name, info.index).map_err(failed)?,
                traffic: Traffic::default(),
            };
            let tx = PacketTransmitter::new(region.clone(), index, max_frame, name).map_err(failed)?;
            Ok(Port {
                description: format!(
                    "af-packet, TPACKET_V2 ring of {RING_MIB} MiB{}",
                    if fanouts.is_empty() { "" } else { ", one of each worker, by flow hash" }
                ),
                rx: Box::new(rx),
                tx: Box::new(tx),
            })
        })
        .collect()
}

const RING_MIB: usize = RING_BYTES >> 20;
const MAX_RINGS: usize = 16;

/// The receive rings of all ports of one worker: where its slots lie.
///
/// A slot's token is ring (upper 32 bits) and place (lower 32 bits).
struct Region {
    id: RegionId,
    rings: Box<[Ring]>,
}

/// One packet socket and its receive ring.
struct Ring {
    // Dropped in this order: the mapping needs the socket no more than the socket the mapping.
    map: RefCell<sys::Mapping>,
    /// Where it begins, and its bytes: of `map`, at hand.
    base: Cell<*mut u8>,
    len: usize,
    fd: OwnedFd,
    layout: Layout,
    /// By place: there is a slot for it. The mark that the kernel reads says the same, and that is the kernel's memory.
    out: Box<[Cell<bool>]>,
    /// How many are.
    outstanding: Cell<u32>,
}

/// Where the places of a ring are: as many as go into a block, for none crosses the end of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Layout {
    place: usize,
    block: usize,
    blocks: usize,
}

impl Layout {
    fn places(&self) -> usize {
        self.block / self.place * self.blocks
    }

    /// Where a place begins.
    fn offset(&self, place: usize) -> usize {
        let in_block = self.block / self.place;
        place / in_block * self.block + place % in_block * self.place
    }
}

impl Ring {
    fn open(info: &DeviceInfo, place: usize, block: usize, blocks: usize) -> io::Result<Ring> {
        let layout = Layout { place, block, blocks };
        // Protocol 0: nothing arrives before the socket is bound.
        let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)?;
        let option = |name, value: i32| sys::set_option(&fd, libc::SOL_PACKET, name, value);
        option(libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as i32)?;
        option(libc::PACKET_RESERVE, HEADROOM as i32)?;
        let request = libc::tpacket_req {
            tp_block_size: block as u32,
            tp_block_nr: blocks as u32,
            tp_frame_size: place as u32,
            tp_frame_nr: layout.places() as u32,
        };
        sys::set_option(&fd, libc::SOL_PACKET, libc::PACKET_RX_RING, request)?;
        let map = sys::Mapping::new(&fd, block * blocks)?;
        // Kernels before 4.20 do not know it; `PACKET_OUTGOING` is looked at as well.
        let _ = option(libc::PACKET_IGNORE_OUTGOING, 1);
        // No queueing discipline between us and the device: less work, and a full device says so.
        let _ = option(libc::PACKET_QDISC_BYPASS, 1);
        // As large as allowed: what it bounds are frames in flight in the device's queue.
        let send_buffer = 8 << 20;
        if sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, send_buffer).is_err() {
            let _ = sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF, send_buffer);
        }
        // VIPs answer on our MAC address, but a port may stand in for several: let the engine decide what is ours.
        let membership = libc::packet_mreq {
            mr_ifindex: info.index as i32,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        sys::set_option(&fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, membership)?;
        sys::bind_packet(&fd, info.index)?;
        let (base, len) = (Cell::new(map.as_ptr()), map.len());
        let out = (0..layout.places()).map(|_| Cell::new(false)).collect();
        Ok(Ring { map: RefCell::new(map), base, len, fd, layout, out, outstanding: Cell::new(0) })
    }

    /// Goes on as another ring of the same size, whose device is there. The descriptor keeps its number.
    ///
    /// # Panics
    /// When a slot of this ring is out: its memory is unmapped here.
    fn become_like(&self, other: Ring) -> io::Result<()> {
        assert!(self.is_idle() && self.layout == other.layout);
        sys::replace(&self.fd, &other.fd)?;
        self.base.set(other.base.get());
        self.map.swap(&other.map);
        Ok(())
    }

    /// No slot of it is out.
    fn is_idle(&self) -> bool {
        self.outstanding.get() == 0
    }

    /// Reads, and so clears, the error that waits on the socket: the link went down. False when there is none.
    fn take_error(&self) -> bool {
        matches!(sys::get_option::<i32>(&self.fd, libc::SOL_SOCKET, libc::SO_ERROR), Ok(e) if e != 0)
    }

    /// Where a place begins: valid for `layout.place` bytes while `self` lives and does not [become another](Ring::become_like).
    fn place_ptr(&self, place: usize) -> *mut u8 {
        let offset = self.layout.offset(place);
        assert!(offset + self.layout.place <= self.len);
        // SAFETY: within the mapping, as just checked.
        unsafe { self.base.get().add(offset) }
    }

    /// The word by which a place changes hands.
    fn status(&self, place: usize) -> &AtomicU32 {
        const { assert!(align_of::<libc::tpacket2_hdr>() >= align_of::<AtomicU32>()) };
        let header = self.place_ptr(place).cast::<libc::tpacket2_hdr>();
        // SAFETY: blocks are page-aligned, places whole cache lines, and they begin with a header. Kernel and program both access this word
        // as one aligned 32-bit word, so an atomic is what it is; the reference lives no longer than the mapping.
        unsafe { AtomicU32::from_ptr(&raw mut (*header).tp_status) }
    }

    /// What the kernel says of the frame at a place, if one is there that we have not taken yet.
    fn arrived(&self, place: usize) -> Option<(libc::tpacket2_hdr, libc::sockaddr_ll)> {
        // One that we have taken and not given back still bears the mark that makes it ours. Acquire: the kernel's writes to the place come
        // before this.
        if self.out[place].get() || self.status(place).load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        let header = self.place_ptr(place);
        // SAFETY: header and address lie within the place, which is ours: the kernel does not write. Read unaligned, so that nothing is asked of
        // where the address lies.
        unsafe {
            let address = header.add(size_of::<libc::tpacket2_hdr>()).cast::<libc::sockaddr_ll>();
            Some((header.cast::<libc::tpacket2_hdr>().read_unaligned(), address.read_unaligned()))
        }
    }

    /// A slot for the frame at a place that is ours: its bytes from `head` on, behind [`FRAME_HEADER`]. None when that cannot be.
    fn take(&self, region: RegionId, ring: usize, place: usize, head: usize, len: usize) -> Option<Slot> {
        let capacity = self.layout.place - FRAME_HEADER;
        if head + len > capacity || self.out[place].replace(true) {
            return None;
        }
        self.outstanding.set(self.outstanding.get() + 1);
        let token = (ring as u64) << 32 | place as u64;
        // SAFETY: `out` says that there was no slot for this place; the kernel has given it to us, and writes there again when we have given it
        // back, which `release` of this slot does. Places do not overlap.
        Some(unsafe { Slot::new(region, token, capacity, head, len) })
    }

    /// Gives a place back to the kernel.
    fn give_back(&self, place: usize) {
        if self.out[place].replace(false) {
            self.outstanding.set(self.outstanding.get() - 1);
        }
        // Release: everything done to the frame comes before the kernel's next writes.
        self.status(place).store(libc::TP_STATUS_KERNEL, Ordering::Release);
    }
}

impl Region {
    fn place(&self, slot: &Slot) -> (&Ring, usize) {
        assert_eq!(slot.region, self.id, "slot of another region");
        (&self.rings[(slot.token >> 32) as usize], slot.token as u32 as usize)
    }

    fn frame<'a>(&'a self, slot: &'a mut Slot) -> Frame<'a> {
        let (ring, place) = self.place(slot);
        // SAFETY: from there to the end of the place are the bytes of the slot's buffer (`Ring::take`). The mapping lives as long as `self` is
        // borrowed, and is not exchanged while a slot is out. The place is ours while its slot is out, so the kernel does not write; the slot is
        // unique and mutably borrowed, so nobody else reads or writes.
        let bytes =
            unsafe { core::slice::from_raw_parts_mut(ring.place_ptr(place).add(FRAME_HEADER), slot.capacity as usize) };
        Frame::new(bytes, slot.head as usize, slot.len as usize)
    }

    fn release(&self, slot: Slot) {
        let (ring, place) = self.place(&slot);
        ring.give_back(place);
    }
}

struct PacketReceiver {
    region: Rc<Region>,
    ring: usize,
    /// The place where the next frame will be.
    next: usize,
    /// Longest frame that can be sent on, bytes.
    max_frame: usize,
    name: String,
    mtu: u16,
    /// With several workers.
    fanout: Option<Arc<Fanout>>,
    link: LinkWatch,
    traffic: Traffic,
}

impl PacketReceiver {
    /// Takes up a device that was removed, and is there again under its name: the socket that has lost its device is of no use any
    /// more. False while that cannot be.
    fn take_up_again(&mut self) -> bool {
        let ring = &self.region.rings[self.ring];
        let Ok(info) = super::device_info(&self.name) else { return false };
        if info.mtu < self.mtu || !info.up || !ring.is_idle() {
            return false;
        }
        let anew = || {
            let Layout { place, block, blocks } = ring.layout;
            let other = Ring::open(&info, place, block, blocks)?;
            if let Some(fanout) = &self.fanout {
                fanout.join(&other.fd, info.index)?;
            }
            let link = LinkWatch::new(&self.name, info.index)?;
            ring.become_like(other)?;
            Ok::<_, io::Error>(link)
        };
        let Ok(link) = anew() else { return false };
        (self.link, self.next) = (link, 0);
        true
    }

    /// The frame that has arrived at a place, made ready. None when it is dropped: the place is to be given back then.
    fn ready(&mut self, place: usize, header: &libc::tpacket2_hdr, address: &libc::sockaddr_ll) -> Option<Slot> {
        let region = &self.region;
        let len = header.tp_snaplen as usize;
        if address.sll_pkttype == libc::PACKET_OUTGOING {
            return None;
        }
        if header.tp_len as usize > self.max_frame {
            self.traffic.lost(Loss::RxOversized, 1);
            return None;
        }
        let head = usize::from(header.tp_mac).checked_sub(FRAME_HEADER);
        let whole = head.filter(|_| header.tp_snaplen == header.tp_len);
        let slot = whole.and_then(|head| region.rings[self.ring].take(region.id, self.ring, place, head, len));
        let Some(mut slot) = slot else {
            self.traffic.lost(Loss::RxTruncated, 1);
            return None;
        };
        let mut frame = region.frame(&mut slot);
        if header.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0 {
            // What is neither TCP nor UDP is left as it is: nobody here forwards it.
            offload::complete_checksum(frame.bytes_mut());
        }
        if header.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
            let known = header.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
            let tpid = if known { header.tp_vlan_tpid } else { libc::ETH_P_8021Q as u16 };
            if !offload::push_vlan(&mut frame, tpid, header.tp_vlan_tci) {
                self.traffic.lost(Loss::RxTruncated, 1);
                return None;
            }
        }
        let (head, len) = (frame.head(), frame.len());
        slot.reframe(head, len);
        self.traffic.passed(len);
        Some(slot)
    }
}

impl Receiver for PacketReceiver {
    fn receive(&mut self, burst: &mut Burst) {
        while !burst.is_full() {
            let place = self.next;
            let ring = &self.region.rings[self.ring];
            let Some((header, address)) = ring.arrived(place) else { return };
            self.next = if place + 1 == ring.out.len() { 0 } else { place + 1 };
            match self.ready(place, &header, &address) {
                Some(slot) => burst.push(slot),
                None => self.region.rings[self.ring].give_back(place),
            }
        }
    }

    fn frame<'a>(&'a mut self, slot: &'a mut Slot) -> Frame<'a> {
        self.region.frame(slot)
    }

    fn release(&mut self, slot: Slot) {
        self.region.release(slot);
    }

    fn wait_fd(&self) -> Option<RawFd> {
        Some(self.region.rings[self.ring].fd.as_raw_fd())
    }

    fn device_event(&mut self) {
        // Netlink says it better; but what is not read keeps being told.
        self.region.rings[self.ring].take_error();
        self.traffic.link_downs += self.link.downs();
        if self.link.is_gone() && self.take_up_again() {
            self.traffic.reopened += 1;
        }
    }

    fn traffic(&mut self) -> Traffic {
        let fd = &self.region.rings[self.ring].fd;
        // The kernel starts again from zero each time it is asked.
        if let Ok(stats) = sys::get_option::<libc::tpacket_stats>(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS) {
            self.traffic.lost(Loss::RxRingFull, u64::from(stats.tp_drops));
        }
        self.device_event();
        self.traffic
    }
}

/// Frames on their way to `sendmmsg`.
struct PacketTransmitter {
    region: Rc<Region>,
    ring: usize,
    /// For frames of our own making, and of ports of other drivers.
    copies: Arena,
    queued: Vec<Slot>,
    iovecs: Box<[libc::iovec; QUEUE]>,
    messages: Box<[libc::mmsghdr; QUEUE]>,
    max_frame: usize,
    name: String,
    /// To ask for the link's state.
    questions: OwnedFd,
    traffic: Traffic,
}

impl PacketTransmitter {
    fn new(region: Rc<Region>, ring: usize, max_frame: usize, name: &str) -> io::Result<PacketTransmitter> {
        Ok(PacketTransmitter {
            region,
            ring,
            copies: Arena::new(QUEUE, max_frame),
            queued: Vec::with_capacity(QUEUE),
            // SAFETY: all zeros is an iovec without bytes, and a message without address, buffers or control data.
            iovecs: Box::new(unsafe { zeroed() }),
            // SAFETY: as above.
            messages: Box::new(unsafe { zeroed() }),
            max_frame,
            name: name.to_string(),
            questions: sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?,
            traffic: Traffic::default(),
        })
    }

    fn queue(&mut self, slot: Slot) {
        if self.queued.len() == QUEUE {
            self.flush();
        }
        self.queued.push(slot);
    }

    /// Hands the queued frames from `first` on to the kernel: how many it took.
    fn send_from(&mut self, first: usize) -> io::Result<usize> {
        let count = self.queued.len() - first;
        for (i, slot) in self.queued[first..].iter_mut().enumerate() {
            let mut frame =
                if slot.region == self.region.id { self.region.frame(slot) } else { self.copies.frame(slot) };
            let bytes = frame.bytes_mut();
            self.iovecs[i] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            self.messages[i].msg_hdr.msg_iov = &raw mut self.iovecs[i];
            self.messages[i].msg_hdr.msg_iovlen = 1;
        }
        let fd = self.region.rings[self.ring].fd.as_raw_fd();
        // SAFETY: `count` messages, each with one iovec that describes the frame of a slot that is ours until after
        // the call; the kernel only reads them.
        match unsafe { libc::sendmmsg(fd, self.messages.as_mut_ptr(), count as u32, libc::MSG_DONTWAIT) } {
            -1 => Err(io::Error::last_os_error()),
            taken => Ok(taken as usize),
        }
    }
}

impl Transmitter for PacketTransmitter {
    fn takes(&self, slot: &Slot) -> bool {
        slot.region == self.region.id
    }

    fn transmit(&mut self, slot: Slot) -> Result<(), Slot> {
        if slot.region != self.region.id {
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
        if self.copies.available() == 0 {
            self.flush();
        }
        let Some(slot) = self.copies.copy_in(0, frame) else { return false };
        self.queue(slot);
        true
    }

    fn flush(&mut self) {
        let mut done = 0;
        while done < self.queued.len() {
            match self.send_from(done) {
                Ok(0) => break,
                Ok(taken) => {
                    self.queued[done..done + taken].iter().for_each(|slot| self.traffic.passed(slot.len()));
                    done += taken;
                }
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // A link that went down leaves its error on the socket, to be told once: perhaps it is long back.
                    Some(libc::ENETDOWN) if self.region.rings[self.ring].take_error() => {}
                    // The whole queue would fare alike. TCP's own retransmission repairs it when the link is back.
                    Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                        self.traffic.lost(Loss::TxLinkDown, (self.queued.len() - done) as u64);
                        break;
                    }
                    Some(libc::EAGAIN) => {
                        self.traffic.lost(Loss::TxQueueFull, (self.queued.len() - done) as u64);
                        break;
                    }
                    // So is told, too, that the cable is pulled.
                    Some(libc::ENOBUFS) if !sys::link_is_up(&self.questions, &self.name) => {
                        self.traffic.lost(Loss::TxLinkDown, (self.queued.len() - done) as u64);
                        break;
                    }
                    // The first of them only: its device queue is full.
                    Some(libc::ENOBUFS) => {
                        self.traffic.lost(Loss::TxQueueFull, 1);
                        done += 1;
                    }
                    _ => {
                        self.traffic.lost(Loss::TxRefused, 1);
                        done += 1;
                    }
                },
            }
        }
        for slot in self.queued.drain(..) {
            if slot.region == self.region.id { self.region.release(slot) } else { self.copies.release(slot) }
        }
    }

    fn traffic(&mut self) -> Traffic {
        self.traffic
    }
}
