//! Frames of several mbufs: the large units that a card has merged (LRO), and those that it is to cut (TSO).
//!
//! An mbuf holds 2 kB, and whoever works on a frame wants it in one piece. So a unit that came is copied into a buffer of [`MAX_UNIT`] bytes,
//! and its mbufs wait beside. Nobody changes more of a large unit than its headers (and where it begins and ends), so only these are
//! written back when it is sent, by the mbufs in which it came. How many buffers there are bounds nothing but a burst: a buffer is
//! free again as soon as its frame is queued.

use crate::io::{BURST, HEADROOM, MAX_UNIT, Slot};
use crate::wire::packet::{Body, Parsed};
use crate::wire::{Family, Frame};
use capsule_ffi::{self as ffi, rte_mbuf};
use core::cell::{Cell, RefCell, UnsafeCell};
use core::ptr;

/// Bytes of a buffer.
const BUFFER: usize = HEADROOM + MAX_UNIT;

/// Buffers of a worker: a burst, and one for each that is copied meanwhile.
const BUFFERS: usize = BURST + 4;

/// Bytes of memory that they take.
pub(super) const MEMORY: usize = BUFFERS * BUFFER;

/// Bytes at a frame's beginning that may have been changed: link, IP and TCP headers with all their options, and more.
const HEADERS: usize = 256;

/// Smallest segments that are believed, as of packet sockets: Linux cuts no smaller ones.
const LEAST_SEGMENT: u16 = 48;

/// In a slot's token: a unit's number, and this. Mbufs lie at multiples of 64.
const MARK: u64 = 1;

/// A worker's buffers for large units.
pub(super) struct Units {
    memory: Box<[UnsafeCell<u8>]>,
    free: RefCell<Vec<u32>>,
    /// The mbufs of each that is in a slot, and where the frame began in its buffer.
    came: Box<[Cell<*mut rte_mbuf>]>,
}

impl Units {
    /// None of them, for ports that merge nothing.
    pub(super) fn new(wanted: bool) -> Units {
        let buffers = if wanted { BUFFERS } else { 0 };
        Units {
            memory: (0..buffers * BUFFER).map(|_| UnsafeCell::new(0)).collect(),
            free: RefCell::new((0..buffers as u32).rev().collect()),
            came: vec![Cell::new(ptr::null_mut()); buffers].into(),
        }
    }

    /// The unit's number, if the slot is one's.
    pub(super) fn number(slot: &Slot) -> Option<usize> {
        (slot.token & MARK != 0).then_some((slot.token >> 1) as usize)
    }

    /// Copies a frame into a buffer: the token of a slot, its capacity, and where in it the frame begins. None when no buffer is free.
    ///
    /// # Safety
    /// The mbufs are ours alone; from now on the unit has them.
    pub(super) unsafe fn take(&self, mbuf: *mut rte_mbuf, len: usize) -> Option<(u64, usize, usize)> {
        assert!(len <= MAX_UNIT, "looked at before");
        let number = self.free.borrow_mut().pop()? as usize;
        self.came[number].set(mbuf);
        // SAFETY: a free buffer is nobody's, and has room for `len` bytes behind its headroom; the mbufs are as the caller says.
        unsafe { ffi::dispatcher_chain_read(mbuf, self.at(number).add(HEADROOM), len) };
        Some(((number as u64) << 1 | MARK, BUFFER, HEADROOM))
    }

    /// The buffer's beginning.
    pub(super) fn at(&self, number: usize) -> *mut u8 {
        UnsafeCell::raw_get(self.memory[number * BUFFER..(number + 1) * BUFFER].as_ptr())
    }

    /// The unit is over: its mbufs, as they came.
    pub(super) fn give_up(&self, number: usize) -> *mut rte_mbuf {
        self.free.borrow_mut().push(number as u32);
        self.came[number].replace(ptr::null_mut())
    }

    /// The same, with what was changed written back: none when that cannot be, and the mbufs are freed.
    pub(super) fn take_back(&self, number: usize, slot: &Slot) -> Option<*mut rte_mbuf> {
        let (head, len) = (slot.head as usize, slot.len());
        let bytes = self.at(number).wrapping_add(head);
        let mbuf = self.give_up(number);
        let shift = head as i32 - HEADROOM as i32;
        // SAFETY: the mbufs are ours, and the slot's frame lies within its buffer, which nobody else has until the next `take`.
        unsafe {
            if ffi::dispatcher_chain_rewrite(mbuf, shift, len, bytes, len.min(HEADERS)) != 0 {
                ffi::_rte_pktmbuf_free(mbuf);
                return None;
            }
            debug_assert!(same(mbuf, core::slice::from_raw_parts(bytes, len)), "more than headers was changed");
        }
        Some(mbuf)
    }
}

/// Whether a chain has these bytes.
///
/// # Safety
/// The mbufs are ours alone.
unsafe fn same(mbuf: *mut rte_mbuf, bytes: &[u8]) -> bool {
    let mut copy = vec![0; bytes.len()];
    // SAFETY: as the caller says; room for as much as said.
    unsafe { ffi::dispatcher_chain_read(mbuf, copy.as_mut_ptr(), copy.len()) };
    copy == bytes
}

/// The segments' payload in a merged frame: as the card says, else as the MTU has it.
pub(super) fn merged(told: u32, frame: &[u8], mtu: u16) -> u16 {
    match u16::try_from(told) {
        Ok(told) if told >= LEAST_SEGMENT => told,
        _ => most_payload(frame, mtu).unwrap_or(LEAST_SEGMENT),
    }
}

fn most_payload(frame: &[u8], mtu: u16) -> Option<u16> {
    let Ok(Parsed { body: Ok(Body::Tcp(ip, tcp)), .. }) = Parsed::read(frame) else { return None };
    Some(mtu.saturating_sub((tcp.payload - ip.header) as u16).max(LEAST_SEGMENT))
}

/// What a port cuts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cuts {
    /// Largest IP packet of its link.
    pub(super) mtu: u16,
    /// Most mbufs of a frame.
    pub(super) most: u32,
    /// IPv6, too.
    pub(super) v6: bool,
}

/// What a card is told of a frame that is left to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Left {
    l2: u32,
    l3: u32,
    l4: u32,
    /// Payload of each segment; 0 when it is one.
    segment: u32,
    v6: bool,
}

impl Left {
    /// Of an unfinished frame, for such a port. None when it is no TCP segment, or cannot be cut to fit.
    pub(super) fn of(frame: &Frame<'_>, Cuts { mtu, v6, .. }: Cuts) -> Option<Left> {
        let Ok(Parsed { body: Ok(Body::Tcp(ip, tcp)), .. }) = Parsed::read(frame.bytes()) else { return None };
        let headers = tcp.payload - ip.header;
        let room = usize::from(mtu).checked_sub(headers).filter(|room| *room > 0)?;
        let payload = tcp.payload_len();
        let segment = match usize::from(frame.offload().segment()).min(room) {
            0 if payload > room => return None,
            segment if segment == 0 || payload <= segment => 0,
            _ if ip.family == Family::V6 && !v6 => return None,
            segment => segment,
        };
        Some(Left {
            l2: ip.header as u32,
            l3: (ip.payload - ip.header) as u32,
            l4: (tcp.payload - tcp.header) as u32,
            segment: segment as u32,
            v6: ip.family == Family::V6,
        })
    }

    /// Says it.
    ///
    /// # Safety
    /// The mbuf is ours, the first of the frame's.
    pub(super) unsafe fn tell(self, mbuf: *mut rte_mbuf, port: u16) {
        let Left { l2, l3, l4, segment, v6 } = self;
        // SAFETY: as the caller says.
        unsafe { ffi::dispatcher_leave(mbuf, port, l2, l3, l4, segment, v6.into()) };
    }
}
