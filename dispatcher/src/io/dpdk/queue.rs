//! The two halves of a DPDK queue pair: raw bursts of mbufs.
//!
//! A slot is an mbuf; its token is the mbuf's address. All ports of a worker draw from one mempool: a frame goes from port to
//! port as the mbuf it came in. Workers share mempools, but a region is one worker's: a slot never leaves its worker. Of large units, which take
//! several mbufs, see `large`.

use super::Alive;
use super::device::RING_FRAMES;
use super::large::{Cuts, Left, Units, merged};
use super::setup::DESCRIPTORS;
use super::{CUTS, MERGES, ONLY_V4, ports};
use crate::io::link_watch::LinkWatch;
use crate::io::{
    BURST, Burst, Divide, Loss, MAX_UNIT, Receiver, RegionId, Slot, Traffic, Transmitter, offload, prefetch,
};
use crate::wire::{Frame, Offload};
use arrayvec::ArrayVec;
use capsule_ffi::{self as ffi, rte_mbuf};
use core::cell::Cell;
use core::ptr;
use std::rc::Rc;

/// Bytes of a frame in an mbuf.
const MBUF_ROOM: usize = 2048;

/// What one worker's ports draw from.
pub(super) struct Pool {
    pub(super) region: RegionId,
    pub(super) raw: *mut ffi::rte_mempool,
    pub(super) units: Units,
    /// DPDK is not shut down while this lives.
    pub(super) _alive: Alive,
}

impl Pool {
    /// Where the slot's buffer begins.
    fn buffer(&self, slot: &Slot) -> *mut u8 {
        assert_eq!(slot.region, self.region, "slot of another region");
        match Units::number(slot) {
            Some(number) => self.units.at(number),
            // SAFETY: the mbuf is ours while the slot exists; the mempool lives as long as `self`.
            None => unsafe { (*(slot.token as *mut rte_mbuf)).buf_addr.cast() },
        }
    }

    fn frame<'a>(&'a self, slot: &'a mut Slot) -> Frame<'a> {
        let buffer = self.buffer(slot);
        // SAFETY: the buffer of `capacity` bytes is ours while the slot exists, of which there is only one, mutably borrowed.
        let bytes = unsafe { core::slice::from_raw_parts_mut(buffer, slot.capacity as usize) };
        Frame::new(bytes, slot.head as usize, slot.len as usize).with(slot.offload)
    }

    fn bytes<'a>(&'a self, slot: &'a Slot) -> &'a [u8] {
        let buffer = self.buffer(slot);
        let (head, len) = (slot.head as usize, slot.len as usize);
        assert!(head + len <= slot.capacity as usize, "frame outside its buffer");
        // SAFETY: as in `frame`; the slot is borrowed, so that no `Frame` of it exists.
        unsafe { core::slice::from_raw_parts(buffer.add(head), len) }
    }

    /// The slot's mbufs, with its frame in them; none when that cannot be, and it is released.
    fn mbufs_of(&self, slot: Slot) -> Option<*mut rte_mbuf> {
        assert_eq!(slot.region, self.region, "slot of another region");
        match Units::number(&slot) {
            Some(number) => self.units.take_back(number, &slot),
            None => {
                let mbuf = slot.token as *mut rte_mbuf;
                // SAFETY: ours, of one segment, so its length is the frame's. What receiving said of it (flags) means other things
                // when sending: none of it is wanted.
                unsafe {
                    let m = &mut *mbuf;
                    (m.data_off, m.data_len, m.pkt_len) = (slot.head as u16, slot.len as u16, slot.len);
                }
                Some(mbuf)
            }
        }
    }

    fn release(&self, slot: Slot) {
        assert_eq!(slot.region, self.region, "slot of another region");
        let mbuf = match Units::number(&slot) {
            Some(number) => self.units.give_up(number),
            None => slot.token as *mut rte_mbuf,
        };
        // SAFETY: the mbufs were ours, and with the slot our only way to them ends.
        unsafe { ffi::_rte_pktmbuf_free(mbuf) };
    }

    /// A slot for an mbuf that a burst has given us.
    ///
    /// # Safety
    /// The mbuf is ours alone, of one segment, and its fields are as DPDK says they are.
    unsafe fn slot(&self, mbuf: *mut rte_mbuf) -> Slot {
        // SAFETY: the caller's promise.
        unsafe {
            let m = &*mbuf;
            prefetch::headers(m.buf_addr.cast::<u8>().wrapping_add(m.data_off.into()));
            Slot::new(self.region, mbuf as u64, m.buf_len.into(), m.data_off.into(), m.data_len.into())
        }
    }
}

/// Most frames that wait at a queue.
const MOST_WAITING: usize = if DESCRIPTORS > RING_FRAMES { DESCRIPTORS } else { RING_FRAMES };

/// What both halves of a queue know of their port: told by the receiving one, whenever the port is there anew.
pub(super) struct Link {
    device: String,
    mtu: u16,
    /// None while it is not there.
    port: Cell<Option<u16>>,
    /// As seen last.
    up: Cell<bool>,
    /// It merges segments.
    merges: Cell<bool>,
    /// It completes checksums and cuts large units.
    cuts: Cell<Option<Cuts>>,
}

impl Link {
    /// Of a port that need not be there yet.
    pub(super) fn new(device: &str, mtu: u16) -> Link {
        let link = Link {
            device: device.to_owned(),
            mtu,
            port: Cell::new(None),
            up: Cell::new(false),
            merges: Cell::new(false),
            cuts: Cell::new(None),
        };
        link.look();
        link
    }

    /// What is there now.
    fn look(&self) {
        let port = ports::port_of(&self.device).map(|(port, _)| port);
        self.port.set(port);
        let Some(port) = port else { return };
        // SAFETY: only the port's number is given.
        let (large, most) = unsafe { (ffi::dispatcher_large(port), ffi::dispatcher_most_segments(port)) };
        self.merges.set(large & MERGES != 0);
        let cuts = Cuts { mtu: self.mtu, most, v6: large & ONLY_V4 == 0 };
        self.cuts.set((large & CUTS != 0).then_some(cuts));
        self.is_up();
    }

    /// Asks the port. False when there is none.
    fn is_up(&self) -> bool {
        // SAFETY: only the port's number is given.
        self.up.set(self.port.get().is_some_and(|port| unsafe { ffi::dispatcher_link_up(port) } != 0));
        self.up.get()
    }

    /// The port's own counts; none when it does not tell.
    fn counts(&self) -> Option<ffi::rte_eth_stats> {
        let mut stats = ffi::rte_eth_stats::default();
        // SAFETY: `stats` is what the function fills.
        (unsafe { ffi::rte_eth_stats_get(self.port.get()?, &mut stats) } == 0).then_some(stats)
    }
}

/// How far a port's own count has come since it was looked at last; one that is less began anew.
fn grown(count: u64, last: &mut u64) -> u64 {
    let more = count.checked_sub(*last).unwrap_or(count);
    *last = count;
    more
}

/// Takes bursts from a receive queue.
pub(super) struct QueueReceiver {
    pub(super) pool: Rc<Pool>,
    pub(super) link: Rc<Link>,
    pub(super) queue: u16,
    /// Longest frame that can be sent on, bytes.
    pub(super) max_frame: usize,
    /// How many frames are still taken; none: all. Whoever comes to rest takes no more than may have waited when it was told to.
    pub(super) left: Option<usize>,
    /// Where the kernel knows better than DPDK whether the link is up.
    pub(super) watch: Option<LinkWatch>,
    /// Of the workers on a port, the one that tells the port's own counts.
    pub(super) counts_port: bool,
    pub(super) traffic: Traffic,
    /// The port's own count of what it had to drop, when we looked last.
    pub(super) missed: u64,
}

impl QueueReceiver {
    /// What is right about an mbuf; none when it was dropped.
    fn accept(&mut self, mbuf: *mut rte_mbuf) -> Option<Slot> {
        // SAFETY: the burst gave it to us: it is valid, and nobody else touches it.
        let (segments, flags, len, tci) =
            unsafe { ((*mbuf).nb_segs, (*mbuf).ol_flags, (*mbuf).pkt_len as usize, (*mbuf).vlan_tci) };
        if self.link.merges.get() && (segments != 1 || len > self.max_frame || flags & ffi::CAPSULE_RX_LRO != 0) {
            return self.accept_merged(mbuf, self.link.mtu);
        }
        if segments != 1 || len > self.max_frame {
            self.traffic.lost(Loss::RxOversized, 1);
            // SAFETY: ours, and not used any more; its further segments go with it.
            unsafe { ffi::_rte_pktmbuf_free(mbuf) };
            return None;
        }
        // SAFETY: ours alone, and of one segment.
        let mut slot = unsafe { self.pool.slot(mbuf) };
        if flags & ffi::CAPSULE_RX_VLAN_STRIPPED != 0 {
            slot = self.put_tag_back(slot, tci)?;
        }
        if flags & (ffi::CAPSULE_RX_L4_CKSUM_BAD | ffi::CAPSULE_RX_IP_CKSUM_BAD) != 0 {
            return self.settle_checksum(flags, slot);
        }
        self.traffic.passed(slot.len());
        Some(slot)
    }

    /// With the tag that the port has taken off. None when it was dropped.
    fn put_tag_back(&mut self, mut slot: Slot, tci: u16) -> Option<Slot> {
        let mut frame = self.pool.frame(&mut slot);
        // A port that strips two tags is not asked to; one it does by itself on Linux interfaces.
        if !offload::push_vlan(&mut frame, 0x8100, tci) {
            self.traffic.lost(Loss::RxTruncated, 1);
            self.pool.release(slot);
            return None;
        }
        let (head, len) = (frame.head(), frame.len());
        slot.reframe(head, len);
        Some(slot)
    }

    /// The same of a frame that may be several segments in one. What was checked of it was each segment, by the card, or nothing was in a
    /// virtual machine, where no wire was between: what stands in the checksum's place is of no meaning.
    fn accept_merged(&mut self, mbuf: *mut rte_mbuf, mtu: u16) -> Option<Slot> {
        // SAFETY: the burst gave it to us: it is valid, and nobody else touches it.
        let (segments, flags, len, tci, told) = unsafe {
            let m = &*mbuf;
            (m.nb_segs, m.ol_flags, m.pkt_len as usize, m.vlan_tci, ffi::dispatcher_merged(mbuf))
        };
        let wrong = flags & ffi::CAPSULE_RX_L4_CKSUM_MASK == ffi::CAPSULE_RX_L4_CKSUM_BAD
            || flags & ffi::CAPSULE_RX_IP_CKSUM_MASK == ffi::CAPSULE_RX_IP_CKSUM_BAD;
        let why = if len > MAX_UNIT {
            Some(Loss::RxOversized)
        } else if wrong {
            Some(Loss::RxBadChecksum)
        } else {
            None
        };
        let slot = match why {
            // SAFETY: ours alone, and of one segment.
            None if segments == 1 => Ok(unsafe { self.pool.slot(mbuf) }),
            // SAFETY: ours alone.
            None => match unsafe { self.pool.units.take(mbuf, len) } {
                // SAFETY: the buffer was free, and is this slot's until it is given up.
                Some((token, capacity, head)) => Ok(unsafe { Slot::new(self.pool.region, token, capacity, head, len) }),
                None => Err(Loss::RxRingFull),
            },
            Some(why) => Err(why),
        };
        let mut slot = match slot {
            Ok(slot) => slot,
            Err(why) => {
                self.traffic.lost(why, 1);
                // SAFETY: ours, and not used any more; its further segments go with it.
                unsafe { ffi::_rte_pktmbuf_free(mbuf) };
                return None;
            }
        };
        if flags & ffi::CAPSULE_RX_VLAN_STRIPPED != 0 {
            slot = self.put_tag_back(slot, tci)?;
        }
        let segment = merged(told, self.pool.bytes(&slot), mtu);
        slot.set_offload(Offload::large(segment));
        self.traffic.passed(slot.len());
        Some(slot)
    }

    /// What the port says of a checksum, done or believed. Both of its bits together say that the sender has left it to a card, and
    /// there was no wire between (virtual machines).
    #[cold]
    fn settle_checksum(&mut self, flags: u64, mut slot: Slot) -> Option<Slot> {
        let mut frame = self.pool.frame(&mut slot);
        let right = if flags & ffi::CAPSULE_RX_L4_CKSUM_MASK == ffi::CAPSULE_RX_L4_CKSUM_NONE {
            offload::complete_checksum(frame.bytes_mut())
        } else {
            // Cards err: over padding, and over what they do not know. What they complain of is looked at.
            offload::checksums_right(frame.bytes())
        };
        if !right {
            self.traffic.lost(Loss::RxBadChecksum, 1);
            self.pool.release(slot);
            return None;
        }
        self.traffic.passed(slot.len());
        Some(slot)
    }
}

impl Receiver for QueueReceiver {
    fn receive(&mut self, burst: &mut Burst) {
        let mut mbufs = [ptr::null_mut(); BURST];
        let room = burst.remaining_capacity().min(self.left.unwrap_or(BURST));
        let Some(port) = self.link.port.get().filter(|_| room > 0) else { return };
        // SAFETY: room for as many pointers as asked for; port and queue are started, and this thread is the only one
        // that takes from the queue.
        let n = unsafe { ffi::_rte_eth_rx_burst(port, self.queue, mbufs.as_mut_ptr(), room as u16) };
        let n = usize::from(n).min(room);
        if let Some(left) = &mut self.left {
            *left -= n;
        }
        for mbuf in &mbufs[..n] {
            if let Some(slot) = self.accept(*mbuf) {
                burst.push(slot);
            }
        }
    }

    fn frame<'a>(&'a mut self, slot: &'a mut Slot) -> Frame<'a> {
        self.pool.frame(slot)
    }

    fn bytes<'a>(&'a mut self, slot: &'a mut Slot) -> &'a [u8] {
        self.pool.bytes(slot)
    }

    fn release(&mut self, slot: Slot) {
        self.pool.release(slot);
    }

    fn traffic(&mut self) -> Traffic {
        match &mut self.watch {
            Some(watch) => {
                self.traffic.link_downs += watch.downs();
                self.link.up.set(watch.is_up());
            }
            None => {
                let was = self.link.up.get();
                self.traffic.link_downs += u64::from(was && !self.link.is_up());
            }
        }
        if self.counts_port
            && let Some(stats) = self.link.counts()
        {
            // Frames came faster than they were taken, or no mbuf was free for them.
            let missed = grown(stats.imissed + stats.rx_nombuf, &mut self.missed);
            self.traffic.lost(Loss::RxRingFull, missed);
        }
        self.traffic
    }

    fn divide(&mut self, by: Divide) {
        match by {
            // Cards do not tell when a frame came.
            Divide::Before(_) => self.left = Some(MOST_WAITING),
            Divide::From(_) => {}
            Divide::No => {
                self.left = None;
                // It may have been let go of meanwhile.
                self.link.look();
            }
        }
    }

    fn pack(&mut self) -> Vec<u8> {
        // Its own counts go with it.
        self.traffic();
        Vec::new()
    }

    fn take_charge(&mut self) {
        self.link.look();
    }
}

/// Gives bursts to a transmit queue.
pub(super) struct QueueTransmitter {
    pub(super) pool: Rc<Pool>,
    pub(super) link: Rc<Link>,
    pub(super) queue: u16,
    pub(super) max_frame: usize,
    /// Something is left to the port of what is queued.
    pub(super) left: bool,
    /// Ours until they are given; with the bytes of each.
    pub(super) queued: ArrayVec<*mut rte_mbuf, BURST>,
    pub(super) lens: ArrayVec<u32, BURST>,
    /// As the receiver's.
    pub(super) counts_port: bool,
    pub(super) traffic: Traffic,
    /// The port's own count of what it failed to send, when we looked last.
    pub(super) failed: u64,
}

impl QueueTransmitter {
    /// Puts mbufs of ours, which hold a frame of so many bytes, into the queue.
    fn queue(&mut self, mbuf: *mut rte_mbuf, len: u32, left: Option<Left>) {
        if self.queued.is_full() {
            self.flush();
        }
        match left.zip(self.link.port.get()) {
            // SAFETY: the mbuf is ours.
            None => unsafe { (*mbuf).ol_flags = 0 },
            Some((left, port)) => {
                // SAFETY: as above.
                unsafe { left.tell(mbuf, port) };
                self.left = true;
            }
        }
        self.queued.push(mbuf);
        self.lens.push(len);
    }

    /// What the port is told of an unfinished frame; none when it cannot send it as it is.
    fn left(&self, frame: &Frame<'_>) -> Option<Left> {
        let chain = frame.len().div_ceil(MBUF_ROOM) as u32;
        self.link.cuts.get().filter(|cuts| chain <= cuts.most).and_then(|cuts| Left::of(frame, cuts))
    }

    /// Cut here, with checksums.
    fn finish(&mut self, frame: &mut Frame<'_>) -> bool {
        offload::finish(frame, &mut |bytes| self.transmit_copy(bytes))
    }

    /// Takes those out of the queue that the port would not send as they are told to it.
    fn prepare(&mut self, port: u16) {
        self.left = false;
        let mut done = 0;
        while done < self.queued.len() {
            let rest = &mut self.queued[done..];
            // SAFETY: `rest` are mbufs of ours, each the first of a frame.
            let n = unsafe { ffi::_rte_eth_tx_prepare(port, self.queue, rest.as_mut_ptr(), rest.len() as u16) };
            done += usize::from(n);
            if done < self.queued.len() {
                // SAFETY: ours still.
                unsafe { ffi::_rte_pktmbuf_free(self.queued.remove(done)) };
                self.lens.remove(done);
                self.traffic.lost(Loss::TxRefused, 1);
            }
        }
    }
}

impl Transmitter for QueueTransmitter {
    fn takes(&self, slot: &Slot) -> bool {
        let plain = slot.offload.is_finished() && Units::number(slot).is_none();
        slot.region == self.pool.region && (plain || self.link.cuts.get().is_some())
    }

    fn transmit(&mut self, mut slot: Slot) -> Result<(), Slot> {
        if !self.takes(&slot) {
            return Err(slot);
        }
        let mut left = None;
        if !slot.offload.is_finished() {
            let pool = self.pool.clone();
            let mut frame = pool.frame(&mut slot);
            left = self.left(&frame);
            if left.is_none() {
                // What is lost of it is counted, and the rest was sent: nobody gets it back.
                let _all = self.finish(&mut frame);
                pool.release(slot);
                return Ok(());
            }
        } else if slot.len() > self.max_frame {
            self.traffic.lost(Loss::TxRefused, 1);
            return Err(slot);
        }
        let len = slot.len;
        match self.pool.mbufs_of(slot) {
            Some(mbuf) => self.queue(mbuf, len, left),
            None => self.traffic.lost(Loss::TxRefused, 1),
        }
        Ok(())
    }

    fn transmit_copy(&mut self, frame: &[u8]) -> bool {
        if frame.len() > self.max_frame {
            self.traffic.lost(Loss::TxRefused, 1);
            return false;
        }
        // SAFETY: the mempool lives as long as `pool`.
        let mbuf = unsafe { ffi::_rte_pktmbuf_alloc(self.pool.raw) };
        if mbuf.is_null() {
            self.traffic.lost(Loss::TxQueueFull, 1);
            return false;
        }
        // SAFETY: freshly allocated: ours alone, of one segment.
        let mut slot = unsafe { self.pool.slot(mbuf) };
        let room = slot.capacity as usize - slot.head as usize;
        if frame.len() > room {
            self.traffic.lost(Loss::TxRefused, 1);
            self.pool.release(slot);
            return false;
        }
        slot.len = frame.len() as u32;
        self.pool.frame(&mut slot).bytes_mut().copy_from_slice(frame);
        let len = slot.len;
        match self.pool.mbufs_of(slot) {
            Some(mbuf) => self.queue(mbuf, len, None),
            None => return false,
        }
        true
    }

    fn transmit_unfinished(&mut self, frame: &mut Frame<'_>) -> bool {
        let Some(left) = self.left(frame) else { return self.finish(frame) };
        let chain = frame.len().div_ceil(MBUF_ROOM);
        let mut spare = [ptr::null_mut(); MAX_UNIT.div_ceil(MBUF_ROOM)];
        let Some(spare) = spare.get_mut(..chain) else { return self.finish(frame) };
        // SAFETY: room for as many as asked for; the mempool lives as long as `pool`. Freshly allocated they are ours alone.
        let mbuf = unsafe {
            match ffi::_rte_pktmbuf_alloc_bulk(self.pool.raw, spare.as_mut_ptr(), chain as u32) {
                0 => ffi::dispatcher_chain_of(spare.as_mut_ptr(), chain as u32, frame.bytes().as_ptr(), frame.len()),
                _ => ptr::null_mut(),
            }
        };
        if mbuf.is_null() {
            self.traffic.lost(Loss::TxQueueFull, 1);
            return false;
        }
        self.queue(mbuf, frame.len() as u32, Some(left));
        true
    }

    fn flush(&mut self) {
        let port = self.link.port.get();
        if let Some(port) = port.filter(|_| self.left) {
            self.prepare(port);
        }
        let (mut done, count) = (0, self.queued.len());
        while done < count
            && let Some(port) = port
        {
            let rest = &mut self.queued[done..];
            // SAFETY: `rest` are mbufs of ours, each with one frame; those that are taken are not touched again. The
            // queue is started, and this thread is the only one that gives to it.
            let n = unsafe { ffi::_rte_eth_tx_burst(port, self.queue, rest.as_mut_ptr(), rest.len() as u16) };
            if n == 0 {
                break;
            }
            let next = (done + usize::from(n)).min(count);
            self.lens[done..next].iter().for_each(|len| self.traffic.passed(*len as usize));
            done = next;
        }
        if done < count {
            let why = if port.is_some() { Loss::TxQueueFull } else { Loss::TxLinkDown };
            self.traffic.lost(why, (count - done) as u64);
            // SAFETY: these were not taken, and are ours still.
            self.queued[done..].iter().for_each(|mbuf| unsafe { ffi::_rte_pktmbuf_free(*mbuf) });
        }
        self.queued.clear();
        self.lens.clear();
    }

    fn traffic(&mut self) -> Traffic {
        if self.counts_port
            && let Some(stats) = self.link.counts()
        {
            let why = if !self.link.up.get() { Loss::TxLinkDown } else { Loss::TxRefused };
            self.traffic.lost(why, grown(stats.oerrors, &mut self.failed));
        }
        self.traffic
    }
}

impl Drop for QueueTransmitter {
    fn drop(&mut self) {
        self.flush();
    }
}
