//! The two halves of a DPDK queue pair: raw bursts of mbufs.
//!
//! A slot is an mbuf; its token is the mbuf's address. All ports of a worker draw from one mempool: a frame goes from port to
//! port as the mbuf it came in. Workers share mempools, but a region is one worker's: a slot never leaves its worker.

use super::Alive;
use crate::io::link_watch::LinkWatch;
use crate::io::{BURST, Burst, Loss, Receiver, RegionId, Slot, Traffic, Transmitter, offload, prefetch};
use crate::wire::Frame;
use arrayvec::ArrayVec;
use capsule_ffi::{self as ffi, rte_mbuf};
use core::cell::Cell;
use core::ptr;
use std::rc::Rc;

/// What one worker's ports draw from.
pub(super) struct Pool {
    pub(super) region: RegionId,
    pub(super) raw: *mut ffi::rte_mempool,
    /// DPDK is not shut down while this lives.
    pub(super) _alive: Alive,
}

impl Pool {
    fn mbuf(&self, slot: &Slot) -> *mut rte_mbuf {
        assert_eq!(slot.region, self.region, "slot of another region");
        slot.token as *mut rte_mbuf
    }

    fn frame<'a>(&'a self, slot: &'a mut Slot) -> Frame<'a> {
        let mbuf = self.mbuf(slot);
        // SAFETY: the mbuf and its buffer of `capacity` bytes are ours while the slot exists, of which there is only
        // one, mutably borrowed; the mempool lives as long as `self`.
        let bytes = unsafe { core::slice::from_raw_parts_mut((*mbuf).buf_addr.cast::<u8>(), slot.capacity as usize) };
        Frame::new(bytes, slot.head as usize, slot.len as usize)
    }

    fn bytes<'a>(&'a self, slot: &'a Slot) -> &'a [u8] {
        let mbuf = self.mbuf(slot);
        let (head, len) = (slot.head as usize, slot.len as usize);
        assert!(head + len <= slot.capacity as usize, "frame outside its buffer");
        // SAFETY: as in `frame`; the slot is borrowed, so that no `Frame` of it exists.
        unsafe { core::slice::from_raw_parts((*mbuf).buf_addr.cast::<u8>().add(head), len) }
    }

    fn release(&self, slot: Slot) {
        // SAFETY: the mbuf was ours, and with the slot our only way to it ends.
        unsafe { ffi::_rte_pktmbuf_free(self.mbuf(&slot)) };
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

/// Takes bursts from a receive queue.
pub(super) struct QueueReceiver {
    pub(super) pool: Rc<Pool>,
    pub(super) port: u16,
    pub(super) queue: u16,
    /// Longest frame that can be sent on, bytes.
    pub(super) max_frame: usize,
    /// Told to the transmitter.
    pub(super) link_up: Rc<Cell<bool>>,
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
        if segments != 1 || len > self.max_frame {
            self.traffic.lost(Loss::RxOversized, 1);
            // SAFETY: ours, and not used any more; its further segments go with it.
            unsafe { ffi::_rte_pktmbuf_free(mbuf) };
            return None;
        }
        // SAFETY: ours alone, and of one segment.
        let mut slot = unsafe { self.pool.slot(mbuf) };
        if flags & ffi::CAPSULE_RX_VLAN_STRIPPED != 0 {
            let mut frame = self.pool.frame(&mut slot);
            // A port that strips two tags is not asked to; one it does by itself on Linux interfaces.
            if !offload::push_vlan(&mut frame, 0x8100, tci) {
                self.traffic.lost(Loss::RxTruncated, 1);
                self.pool.release(slot);
                return None;
            }
            let (head, len) = (frame.head(), frame.len());
            slot.reframe(head, len);
        }
        if flags & (ffi::CAPSULE_RX_L4_CKSUM_BAD | ffi::CAPSULE_RX_IP_CKSUM_BAD) != 0 {
            return self.settle_checksum(flags, slot);
        }
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
        let room = burst.remaining_capacity();
        // SAFETY: room for as many pointers as asked for; port and queue are started, and this thread is the only one
        // that takes from the queue.
        let n = unsafe { ffi::_rte_eth_rx_burst(self.port, self.queue, mbufs.as_mut_ptr(), room as u16) };
        for mbuf in &mbufs[..usize::from(n).min(room)] {
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
                self.link_up.set(watch.is_up());
            }
            None => {
                // SAFETY: only the port's number is given.
                let up = unsafe { ffi::dispatcher_link_up(self.port) } != 0;
                self.traffic.link_downs += u64::from(self.link_up.replace(up) && !up);
            }
        }
        if !self.counts_port {
            return self.traffic;
        }
        let mut stats = ffi::rte_eth_stats::default();
        // SAFETY: `stats` is what the function fills.
        if unsafe { ffi::rte_eth_stats_get(self.port, &mut stats) } == 0 {
            // Frames came faster than they were taken, or no mbuf was free for them.
            let missed = stats.imissed + stats.rx_nombuf;
            self.traffic.lost(Loss::RxRingFull, missed.saturating_sub(self.missed));
            self.missed = missed;
        }
        self.traffic
    }
}

/// Gives bursts to a transmit queue.
pub(super) struct QueueTransmitter {
    pub(super) pool: Rc<Pool>,
    pub(super) port: u16,
    pub(super) queue: u16,
    pub(super) max_frame: usize,
    /// Ours until they are given; with the bytes of each.
    pub(super) queued: ArrayVec<*mut rte_mbuf, BURST>,
    pub(super) lens: ArrayVec<u32, BURST>,
    /// As the receiver saw it last.
    pub(super) link_up: Rc<Cell<bool>>,
    /// As the receiver's.
    pub(super) counts_port: bool,
    pub(super) traffic: Traffic,
    /// The port's own count of what it failed to send, when we looked last.
    pub(super) failed: u64,
}

impl QueueTransmitter {
    /// Puts an mbuf of ours with its frame at `head` into the queue.
    fn queue(&mut self, mbuf: *mut rte_mbuf, head: u32, len: u32) {
        if self.queued.is_full() {
            self.flush();
        }
        // SAFETY: the mbuf is ours. What receiving said of it (flags) means other things when sending: none of it is
        // wanted. It has one segment, so its length is the frame's.
        unsafe {
            let m = &mut *mbuf;
            (m.data_off, m.data_len, m.pkt_len, m.ol_flags) = (head as u16, len as u16, len, 0);
        }
        self.queued.push(mbuf);
        self.lens.push(len);
    }
}

impl Transmitter for QueueTransmitter {
    fn takes(&self, slot: &Slot) -> bool {
        slot.region == self.pool.region
    }

    fn transmit(&mut self, slot: Slot) -> Result<(), Slot> {
        if slot.region != self.pool.region {
            return Err(slot);
        }
        if slot.len() > self.max_frame {
            self.traffic.lost(Loss::TxRefused, 1);
            return Err(slot);
        }
        self.queue(self.pool.mbuf(&slot), slot.head, slot.len);
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
        self.queue(mbuf, slot.head, slot.len);
        true
    }

    fn flush(&mut self) {
        let (mut done, count) = (0, self.queued.len());
        while done < count {
            let rest = &mut self.queued[done..];
            // SAFETY: `rest` are mbufs of ours, each with one frame; those that are taken are not touched again. The
            // queue is started, and this thread is the only one that gives to it.
            let n = unsafe { ffi::_rte_eth_tx_burst(self.port, self.queue, rest.as_mut_ptr(), rest.len() as u16) };
            if n == 0 {
                break;
            }
            let next = (done + usize::from(n)).min(count);
            self.lens[done..next].iter().for_each(|len| self.traffic.passed(*len as usize));
            done = next;
        }
        if done < count {
            self.traffic.lost(Loss::TxQueueFull, (count - done) as u64);
            // SAFETY: these were not taken, and are ours still.
            self.queued[done..].iter().for_each(|mbuf| unsafe { ffi::_rte_pktmbuf_free(*mbuf) });
        }
        self.queued.clear();
        self.lens.clear();
    }

    fn traffic(&mut self) -> Traffic {
        if !self.counts_port {
            return self.traffic;
        }
        let mut stats = ffi::rte_eth_stats::default();
        // SAFETY: `stats` is what the function fills.
        if unsafe { ffi::rte_eth_stats_get(self.port, &mut stats) } == 0 {
            let why = if !self.link_up.get() { Loss::TxLinkDown } else { Loss::TxRefused };
            self.traffic.lost(why, stats.oerrors.saturating_sub(self.failed));
            self.failed = stats.oerrors;
        }
        self.traffic
    }
}

impl Drop for QueueTransmitter {
    fn drop(&mut self) {
        self.flush();
    }
}
