//! The memory of AF_XDP: one piece of it for all ports of a worker, cut into chunks of one size.
//!
//! **Ownership.** Every chunk is in exactly one of four places, and its `Place` says which:
//!
//! ```text
//!            lend_to_kernel              received
//!   Free ------------------> Receiving ----------> Held ----+
//!    ^ ^                  (fill ring, rx ring)      |  ^    | to_send
//!    | +---------------------- release -------------+  |    v
//!    |                         copy_in (Free -> Held) -+  Sending (tx ring, device, completion ring)
//!    +----------------------------- sent ---------------------+
//! ```
//!
//! A [`Slot`] exists exactly for a chunk that is `Held`. Each step checks the place it comes from, so a chunk can be
//! neither in two rings at once nor forgotten: `free + receiving + held + sending` is the number of chunks at all
//! times ([`Census`]; the tests ask). What the kernel hands over is believed only as far as the places agree: a
//! descriptor that names a chunk which it does not have is ignored.
//!
//! The kernel reads and writes chunks that are `Receiving` or `Sending`, and no others.

use super::{HEADROOM, RegionId, Slot, prefetch, sys};
use crate::wire::Frame;
use core::cell::{Cell, RefCell};
use std::io;

/// What the kernel leaves free in front of a received frame (`XDP_PACKET_HEADROOM`), bytes.
pub const KERNEL_HEADROOM: usize = 256;
const _: () = assert!(KERNEL_HEADROOM >= HEADROOM, "pushing tags needs no room of its own");

/// Where a chunk is; with the kernel, also by which port: a port whose device is removed takes its chunks with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place(u8);

impl Place {
    const FREE: Place = Place(0);
    const HELD: Place = Place(1);
    const KIND: u8 = 3;

    const fn receiving(port: u8) -> Place {
        Place(port << 2 | 2)
    }

    const fn sending(port: u8) -> Place {
        Place(port << 2 | 3)
    }
}

/// Most ports of one UMEM.
pub(super) const MAX_PORTS: usize = 64;

/// How many chunks are where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Census {
    /// All there are.
    pub chunks: usize,
    /// With nobody.
    pub free: usize,
    /// With the kernel, to receive into, or received and not yet taken.
    pub receiving: usize,
    /// In slots.
    pub held: usize,
    /// With the kernel, to be sent, or sent and not yet taken back.
    pub sending: usize,
}

/// See the module's description.
pub(super) struct Umem {
    id: RegionId,
    map: sys::Mapping,
    chunk: usize,
    free: RefCell<Vec<u32>>,
    places: Box<[Cell<Place>]>,
}

impl Umem {
    /// `chunks` of `chunk` bytes each (a power of two), all free.
    pub(super) fn new(chunks: usize, chunk: usize) -> io::Result<Umem> {
        assert!(chunk.is_power_of_two() && chunks <= u32::MAX as usize);
        Ok(Umem {
            id: RegionId::unique(),
            map: sys::Mapping::anonymous(chunks * chunk)?,
            chunk,
            free: RefCell::new((0..chunks as u32).rev().collect()),
            places: vec![Cell::new(Place::FREE); chunks].into(),
        })
    }

    pub(super) fn region(&self) -> RegionId {
        self.id
    }

    /// How the kernel is told of it.
    pub(super) fn registration(&self) -> libc::xdp_umem_reg {
        libc::xdp_umem_reg {
            addr: self.map.as_ptr() as u64,
            len: self.map.len() as u64,
            chunk_size: self.chunk as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        }
    }

    /// A descriptor's address that is in no chunk: the kernel skips what it describes.
    pub(super) fn nowhere(&self) -> u64 {
        self.map.len() as u64
    }

    fn step(&self, index: usize, from: Place, to: Place) -> bool {
        match self.places.get(index) {
            Some(place) if place.get() == from => {
                place.set(to);
                true
            }
            _ => false,
        }
    }

    fn index(&self, address: u64) -> usize {
        (address / self.chunk as u64) as usize
    }

    fn index_of(&self, slot: &Slot) -> usize {
        assert_eq!(slot.region, self.id, "slot of another region");
        slot.token as usize
    }

    /// A free chunk's address for a fill ring of this port's.
    pub(super) fn lend_to_kernel(&self, port: u8) -> Option<u64> {
        let index = self.free.borrow_mut().pop()?;
        let stepped = self.step(index as usize, Place::FREE, Place::receiving(port));
        debug_assert!(stepped, "the free list holds free chunks");
        Some(u64::from(index) * self.chunk as u64)
    }

    /// What the kernel says that this port has received. None when it cannot be true.
    pub(super) fn received(&self, port: u8, address: u64, len: u32) -> Option<Slot> {
        let index = self.index(address);
        let head = (address % self.chunk as u64) as usize;
        if head + len as usize > self.chunk || !self.step(index, Place::receiving(port), Place::HELD) {
            return None;
        }
        prefetch::headers(self.map.as_ptr().wrapping_add(address as usize));
        // SAFETY: the chunk was `Receiving`, so no slot exists for it; `Held` it leaves only by consuming this one.
        // The kernel has put it into the rx ring, and so writes to it no more.
        Some(unsafe { Slot::new(self.id, index as u64, self.chunk, head, len as usize) })
    }

    /// A free chunk with `frame` in it. None when there is no chunk, or not enough room in one.
    pub(super) fn copy_in(&self, frame: &[u8]) -> Option<Slot> {
        if HEADROOM + frame.len() > self.chunk {
            return None;
        }
        let index = self.free.borrow_mut().pop()? as usize;
        let stepped = self.step(index, Place::FREE, Place::HELD);
        debug_assert!(stepped, "the free list holds free chunks");
        // SAFETY: the chunk was `Free`: no slot exists for it, and the kernel does not have it.
        let mut slot = unsafe { Slot::new(self.id, index as u64, self.chunk, HEADROOM, frame.len()) };
        self.frame(&mut slot).bytes_mut().copy_from_slice(frame);
        Some(slot)
    }

    /// The frame in a slot of this memory.
    ///
    /// # Panics
    /// When the slot is of another region.
    pub(super) fn frame<'a>(&'a self, slot: &'a mut Slot) -> Frame<'a> {
        let at = self.index_of(slot) * self.chunk;
        assert!(at + self.chunk <= self.map.len());
        // SAFETY: within the mapping, as just checked, which lives as long as `self` is borrowed. The chunk is `Held`,
        // so the kernel leaves it alone; the slot is unique and mutably borrowed, so nobody else reaches these bytes.
        let bytes = unsafe { core::slice::from_raw_parts_mut(self.map.as_ptr().add(at), self.chunk) };
        Frame::new(bytes, slot.head as usize, slot.len as usize)
    }

    /// Takes a slot back.
    ///
    /// # Panics
    /// When the slot is of another region.
    pub(super) fn release(&self, slot: Slot) {
        let index = self.index_of(&slot);
        if self.step(index, Place::HELD, Place::FREE) {
            self.free.borrow_mut().push(index as u32);
        }
    }

    /// Turns a slot into what a transmit descriptor of this port's says: address and length.
    ///
    /// # Panics
    /// When the slot is of another region.
    pub(super) fn to_send(&self, port: u8, slot: Slot) -> (u64, u32) {
        let index = self.index_of(&slot);
        let stepped = self.step(index, Place::HELD, Place::sending(port));
        debug_assert!(stepped, "a slot's chunk is held");
        (index as u64 * self.chunk as u64 + u64::from(slot.head), slot.len)
    }

    /// The kernel has done with a chunk that this port was to send. False when it did not have it.
    pub(super) fn sent(&self, port: u8, address: u64) -> bool {
        let index = self.index(address);
        let back = self.step(index, Place::sending(port), Place::FREE);
        if back {
            self.free.borrow_mut().push(index as u32);
        }
        back
    }

    /// The sockets by which this port received are closed: the chunks that they had are free.
    pub(super) fn reclaim_receiving(&self, port: u8) {
        self.reclaim(Place::receiving(port));
    }

    /// The socket by which this port sent is closed: the chunks that it had are free. How many they were.
    pub(super) fn reclaim_sending(&self, port: u8) -> usize {
        self.reclaim(Place::sending(port))
    }

    fn reclaim(&self, from: Place) -> usize {
        let mut free = self.free.borrow_mut();
        let before = free.len();
        for (index, place) in self.places.iter().enumerate().filter(|(_, place)| place.get() == from) {
            place.set(Place::FREE);
            free.push(index as u32);
        }
        free.len() - before
    }

    /// How many chunks are where. Counts them: not for the hot path.
    pub(super) fn census(&self) -> Census {
        let count = |place: Place| self.places.iter().filter(|p| p.get().0 & Place::KIND == place.0).count();
        Census {
            chunks: self.places.len(),
            free: self.free.borrow().len(),
            receiving: count(Place::receiving(0)),
            held: count(Place::HELD),
            sending: count(Place::sending(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_kernel_cannot_have_is_not_believed() {
        let umem = Umem::new(2, 2048).unwrap();
        assert!(umem.received(1, 0, 60).is_none(), "it was not lent");
        let address = umem.lend_to_kernel(1).unwrap();
        assert!(umem.received(1, address + 2000, 60).is_none(), "beyond its chunk");
        assert!(umem.received(1, 1 << 40, 60).is_none(), "beyond the memory");
        let slot = umem.received(1, address + 256, 60).unwrap();
        assert!(umem.received(1, address + 256, 60).is_none(), "a second time");
        assert!(!umem.sent(1, address + 256), "it is ours");
        let (sending, len) = umem.to_send(1, slot);
        assert_eq!((sending, len), (address + 256, 60));
        assert!(umem.sent(1, sending) && !umem.sent(1, sending), "it comes back once");
        assert_eq!(umem.census().free, 2);
    }

    #[test]
    fn what_one_port_has_is_not_another_ports_and_comes_back_when_its_device_is_gone() {
        let umem = Umem::new(4, 2048).unwrap();
        let [a, b] = [1, 2].map(|port| umem.lend_to_kernel(port).unwrap());
        assert!(umem.received(2, a, 60).is_none() && umem.received(1, b, 60).is_none());
        let sending = umem.to_send(2, umem.copy_in(&[1; 60]).unwrap()).0;
        let held = umem.copy_in(&[2; 60]).unwrap();
        assert!(!umem.sent(1, sending));
        umem.reclaim_receiving(1);
        assert_eq!(umem.reclaim_sending(1), 0);
        assert_eq!(umem.census(), Census { chunks: 4, free: 1, receiving: 1, held: 1, sending: 1 });
        assert_eq!(umem.reclaim_sending(2), 1);
        umem.reclaim_receiving(2);
        umem.release(held);
        assert_eq!(umem.census().free, 4);
        assert!(!umem.sent(2, sending), "told late");
    }

    #[test]
    fn frames_keep_their_bytes_and_their_headroom() {
        let umem = Umem::new(2, 2048).unwrap();
        let mut a = umem.copy_in(&[1, 2, 3]).unwrap();
        let b = umem.copy_in(&[9; 1900]).unwrap();
        assert!(umem.copy_in(&[0]).is_none(), "two chunks, both taken");
        let mut frame = umem.frame(&mut a);
        assert_eq!(frame.bytes(), [1, 2, 3]);
        assert!(frame.push_front(HEADROOM) && !frame.push_front(1));
        umem.release(a);
        umem.release(b);
        assert!(umem.copy_in(&[0; 2000]).is_none(), "does not fit");
        assert_eq!(umem.census().free, 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Against a naive model: sets of indices. Whatever is done in whatever order, each chunk is in one place.
        #[test]
        fn no_order_of_events_loses_or_doubles_a_chunk(events in prop::collection::vec((0u8..6, 0usize..16), 0..400)) {
            let umem = Umem::new(16, 2048).unwrap();
            let (mut kernel, mut held, mut sending) = (Vec::new(), Vec::new(), Vec::new());
            for (event, n) in events {
                match event {
                    0 => if let Some(address) = umem.lend_to_kernel(1) { kernel.push(address) },
                    1 if !kernel.is_empty() => {
                        let address = kernel.remove(n % kernel.len());
                        held.push(umem.received(1, address + 256, 64).unwrap());
                    }
                    2 => if let Some(slot) = umem.copy_in(&[n as u8; 60]) { held.push(slot) },
                    3 if !held.is_empty() => umem.release(held.remove(n % held.len())),
                    4 if !held.is_empty() => sending.push(umem.to_send(1, held.remove(n % held.len())).0),
                    5 if !sending.is_empty() => prop_assert!(umem.sent(1, sending.remove(n % sending.len()))),
                    _ => {}
                }
                let free = 16 - kernel.len() - held.len() - sending.len();
                let expected = Census { chunks: 16, free, receiving: kernel.len(), held: held.len(), sending: sending.len() };
                prop_assert_eq!(umem.census(), expected);
            }
        }
    }
}
