//! Any Linux interface, through packet sockets: receive rings in memory shared with the kernel (TPACKET_V3), frames
//! sent by `sendmmsg(2)` straight from there.
//!
//! **Receiving.** The kernel fills blocks of [`BLOCK`] bytes with frames, one behind the other, and gives a block to us
//! when it is full or `RETIRE_MS` after its first frame. Frames are rewritten where they lie. A block goes back to
//! the kernel when the last slot in it has been released or sent. When all blocks are ours, the kernel drops, and
//! tells us how many (`rx-ring-full`).
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

/// Bytes of a block of the receive ring. Larger than any super-frame, so that these arrive whole and are counted as
/// what they are.
pub const BLOCK: usize = 256 * 1024;

/// Blocks of a receive ring: 16 MiB, some 80,000 of the smallest frames or 10,000 full ones.
pub const BLOCKS: usize = 64;

/// How long the kernel may keep a block that is not full, milliseconds. The least it can do.
const RETIRE_MS: u32 = 1;

/// Most frames queued for transmission before they are handed to the kernel.
const QUEUE: usize = BURST;

/// Where frames may begin behind their header in the ring: the header and the address that follows it.
const FRAME_HEADER: usize = libc::TPACKET3_HDRLEN;

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
        let ring = Ring::open(info, BLOCK, BLOCKS).map_err(|e| match e.raw_os_error() {
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
                block: 0,
                reading: None,
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
                    "af-packet, TPACKET_V3 ring of {RING_MIB} MiB{}",
                    if fanouts.is_empty() { "" } else { ", one of each worker, by flow hash" }
                ),
                rx: Box::new(rx),
                tx: Box::new(tx),
            })
        })
        .collect()
}

/// Bytes of memory that the ring of one port takes.
pub const RING_BYTES: usize = BLOCK * BLOCKS;
const RING_MIB: usize = RING_BYTES >> 20;
const MAX_RINGS: usize = 16;

/// The receive rings of all ports of one worker: where its slots lie.
///
/// A slot's token is ring (8 bits), block (24 bits), offset of the buffer in the block (32 bits).
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
    block_size: usize,
    blocks: Box<[Block]>,
}

/// What we know of a block that the kernel has given us.
#[derive(Default)]
struct Block {
    /// Slots in it that are still out.
    outstanding: Cell<u32>,
    /// Every frame in it has been seen, and the block was not given back yet.
    walked: Cell<bool>,
}

impl Ring {
    fn open(info: &DeviceInfo, block_size: usize, blocks: usize) -> io::Result<Ring> {
        // Protocol 0: nothing arrives before the socket is bound.
        let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)?;
        let option = |name, value: i32| sys::set_option(&fd, libc::SOL_PACKET, name, value);
        option(libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V3 as i32)?;
        option(libc::PACKET_RESERVE, HEADROOM as i32)?;
        let request = libc::tpacket_req3 {
            tp_block_size: block_size as u32,
            tp_block_nr: blocks as u32,
            // Only its product with the count is looked at for this version.
            tp_frame_size: 2048,
            tp_frame_nr: (block_size / 2048 * blocks) as u32,
            tp_retire_blk_tov: RETIRE_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        sys::set_option(&fd, libc::SOL_PACKET, libc::PACKET_RX_RING, request)?;
        let map = sys::Mapping::new(&fd, block_size * blocks)?;
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
        let blocks = (0..blocks).map(|_| Block::default()).collect();
        Ok(Ring { map: RefCell::new(map), base, len, fd, block_size, blocks })
    }

    /// Goes on as another ring of the same size, whose device is there. The descriptor keeps its number.
    ///
    /// # Panics
    /// When a slot of this ring is out: its memory is unmapped here.
    fn become_like(&self, other: Ring) -> io::Result<()> {
        assert!(self.is_idle() && (self.block_size, self.blocks.len()) == (other.block_size, other.blocks.len()));
        sys::replace(&self.fd, &other.fd)?;
        self.base.set(other.base.get());
        self.map.swap(&other.map);
        self.blocks.iter().for_each(|block| block.walked.set(false));
        Ok(())
    }

    /// No slot of it is out.
    fn is_idle(&self) -> bool {
        self.blocks.iter().all(|block| block.outstanding.get() == 0)
    }

    /// Reads, and so clears, the error that waits on the socket: the link went down. False when there is none.
    fn take_error(&self) -> bool {
        matches!(sys::get_option::<i32>(&self.fd, libc::SOL_SOCKET, libc::SO_ERROR), Ok(e) if e != 0)
    }

    /// Where a block begins: valid for `block_size` bytes while `self` lives and does not [become another](Ring::become_like).
    fn block_ptr(&self, block: usize) -> *mut u8 {
        assert!((block + 1) * self.block_size <= self.len);
        // SAFETY: within the mapping, as just checked.
        unsafe { self.base.get().add(block * self.block_size) }
    }

    /// The word by which a block changes hands.
    fn status(&self, block: usize) -> &AtomicU32 {
        const { assert!(align_of::<libc::tpacket_block_desc>() >= align_of::<AtomicU32>()) };
        let descriptor = self.block_ptr(block).cast::<libc::tpacket_block_desc>();
        // SAFETY: blocks are page-aligned and begin with a descriptor. Kernel and program both access this word as
        // one aligned 32-bit word, so an atomic is what it is; the reference lives no longer than the mapping.
        unsafe { AtomicU32::from_ptr(&raw mut (*descriptor).hdr.bh1.block_status) }
    }

    /// Frames in a block that is ours, and the offset of the first.
    fn contents(&self, block: usize) -> (u32, u32) {
        let descriptor = self.block_ptr(block).cast::<libc::tpacket_block_desc>();
        // SAFETY: as in `status`; the kernel does not write to a block that is ours. Its only variant is `bh1`.
        let header = unsafe { (&raw const (*descriptor).hdr.bh1).read() };
        (header.num_pkts, header.offset_to_first_pkt)
    }

    /// Gives the block back if nothing in it is wanted any more.
    fn return_if_done(&self, block: usize) {
        let state = &self.blocks[block];
        if state.walked.get() && state.outstanding.get() == 0 {
            state.walked.set(false);
            // Release: everything done to the block's frames comes before the kernel's next writes.
            self.status(block).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
    }
}

impl Region {
    fn token(ring: usize, block: usize, offset: usize) -> u64 {
        (ring as u64) << 56 | (block as u64) << 32 | offset as u64
    }

    fn place(&self, slot: &Slot) -> (&Ring, usize, usize) {
        assert_eq!(slot.region, self.id, "slot of another region");
        let ring = &self.rings[(slot.token >> 56) as usize];
        (ring, (slot.token >> 32 & 0xff_ffff) as usize, slot.token as u32 as usize)
    }

    /// Where the buffer of a slot begins.
    fn buffer(&self, slot: &Slot) -> *mut u8 {
        let (ring, block, offset) = self.place(slot);
        debug_assert!(offset + slot.capacity as usize <= ring.block_size);
        // SAFETY: `next_frame` has checked that offset and capacity lie within the block.
        unsafe { ring.block_ptr(block).add(offset) }
    }

    fn frame<'a>(&'a self, slot: &'a mut Slot) -> Frame<'a> {
        // SAFETY: the buffer lies within the mapping, which lives as long as `self` is borrowed, and is not exchanged while
        // a slot is out. The block is ours
        // while a slot in it is out, so the kernel does not write; the slot is unique and mutably borrowed, so nobody
        // else reads or writes; frames of a block do not overlap.
        let bytes = unsafe { core::slice::from_raw_parts_mut(self.buffer(slot), slot.capacity as usize) };
        Frame::new(bytes, slot.head as usize, slot.len as usize)
    }

    fn release(&self, slot: Slot) {
        let (ring, block, _) = self.place(&slot);
        let state = &ring.blocks[block];
        state.outstanding.set(state.outstanding.get() - 1);
        ring.return_if_done(block);
    }
}

/// Where we are in a block.
#[derive(Clone, Copy)]
struct Cursor {
    /// Frames not seen yet.
    left: u32,
    /// Offset of the next one's header.
    offset: usize,
}

struct PacketReceiver {
    region: Rc<Region>,
    ring: usize,
    /// The block being read, or the next one to come.
    block: usize,
    reading: Option<Cursor>,
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
            let other = Ring::open(&info, ring.block_size, ring.blocks.len())?;
            if let Some(fanout) = &self.fanout {
                fanout.join(&other.fd, info.index)?;
            }
            let link = LinkWatch::new(&self.name, info.index)?;
            ring.become_like(other)?;
            Ok::<_, io::Error>(link)
        };
        let Ok(link) = anew() else { return false };
        (self.link, self.block, self.reading) = (link, 0, None);
        true
    }

    /// The next frame of the block being read, made ready; none when it was dropped.
    fn next_frame(&mut self, cursor: &mut Cursor) -> Option<Slot> {
        let region = self.region.clone();
        let ring = &region.rings[self.ring];
        let at = cursor.offset;
        if at + FRAME_HEADER > ring.block_size {
            // The kernel does not do this; if it did, nothing in the rest of the block could be believed.
            cursor.left = 0;
            return None;
        }
        // SAFETY: header and address lie within the block (just checked), which is ours. Read unaligned, so that
        // nothing is asked of the offset.
        let (header, address) = unsafe {
            let p = ring.block_ptr(self.block).add(at);
            let address = p.add(size_of::<libc::tpacket3_hdr>()).cast::<libc::sockaddr_ll>();
            (p.cast::<libc::tpacket3_hdr>().read_unaligned(), address.read_unaligned())
        };
        cursor.left -= 1;
        cursor.offset += header.tp_next_offset as usize;
        if cursor.left > 0 && header.tp_next_offset == 0 {
            cursor.left = 0;
        }
        let (frame_at, len) = (at + usize::from(header.tp_mac), header.tp_snaplen as usize);
        let buffer_at = at + FRAME_HEADER;
        if address.sll_pkttype == libc::PACKET_OUTGOING {
            return None;
        }
        if header.tp_snaplen < header.tp_len || frame_at < buffer_at || frame_at + len > ring.block_size {
            self.traffic.lost(Loss::RxTruncated, 1);
            return None;
        }
        if len > self.max_frame {
            self.traffic.lost(Loss::RxOversized, 1);
            return None;
        }
        let (capacity, head) = (frame_at + len - buffer_at, frame_at - buffer_at);
        let token = Region::token(self.ring, self.block, buffer_at);
        // SAFETY: this frame of this block is met once between the kernel giving the block and our giving it back,
        // which waits for the slot (`outstanding`). The kernel lays frames one behind the other.
        let mut slot = unsafe { Slot::new(region.id, token, capacity, head, len) };
        let state = &ring.blocks[self.block];
        state.outstanding.set(state.outstanding.get() + 1);

        let mut frame = region.frame(&mut slot);
        if header.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0 {
            // What is neither TCP nor UDP is left as it is: nobody here forwards it.
            offload::complete_checksum(frame.bytes_mut());
        }
        if header.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
            let known = header.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
            let tpid = if known { header.hv1.tp_vlan_tpid } else { libc::ETH_P_8021Q as u16 };
            if !offload::push_vlan(&mut frame, tpid, header.hv1.tp_vlan_tci as u16) {
                self.traffic.lost(Loss::RxTruncated, 1);
                region.release(slot);
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
            let ring = &self.region.rings[self.ring];
            let mut cursor = match self.reading {
                Some(cursor) => cursor,
                None => {
                    // A block that we have walked and not given back still bears the mark that makes it ours.
                    let ours = ring.blocks[self.block].walked.get();
                    // Acquire: the kernel's writes to the block come before this.
                    if ours || ring.status(self.block).load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                        return;
                    }
                    let (left, first) = ring.contents(self.block);
                    Cursor { left, offset: first as usize }
                }
            };
            while cursor.left > 0 && !burst.is_full() {
                if let Some(slot) = self.next_frame(&mut cursor) {
                    burst.push(slot);
                }
            }
            if cursor.left > 0 {
                self.reading = Some(cursor);
                return;
            }
            self.reading = None;
            let ring = &self.region.rings[self.ring];
            ring.blocks[self.block].walked.set(true);
            ring.return_if_done(self.block);
            self.block = (self.block + 1) % ring.blocks.len();
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
        if let Ok(stats) = sys::get_option::<libc::tpacket_stats_v3>(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS) {
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
