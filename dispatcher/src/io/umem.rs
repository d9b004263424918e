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
//!
//! **Long frames** are those that no chunk holds. The kernel gives and takes them in several chunks, one descriptor each; whoever works
//! on a frame wants it in one piece. So behind the chunks lie [`Long`] buffers, each of several chunks that follow each other: a long frame that came is copied
//! into one, and sent from there without another copy, a descriptor for each chunk that it touches. They are never lent for
//! receiving. All chunks of one are `Held` together, and go back together: one that was sent, or was not touched, is `Done` until
//! the others of its buffer are.

use super::{HEADROOM, RegionId, Slot, prefetch, sys};
use crate::pack::{Packer, Unpacker, Unreadable};
use crate::wire::Frame;
use core::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;

/// What the kernel leaves free in front of a received frame (`XDP_PACKET_HEADROOM`), bytes.
pub const KERNEL_HEADROOM: usize = 256;
const _: () = assert!(KERNEL_HEADROOM >= HEADROOM, "pushing tags needs no room of its own");

/// Where a chunk is; with the kernel, also by which port: a port whose device is removed takes its chunks with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place(u8);

impl Place {
    const FREE: Place = Place(0);
    const HELD: Place = Place(1);
    /// In a long buffer that is being sent: back from the kernel, or never given to it.
    const DONE: Place = Place(1 << 2);
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
    /// With the kernel, to be sent, or sent and not yet taken back; and the rest of their long buffers.
    pub sending: usize,
}

/// Buffers for frames that no chunk holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Long {
    /// How many.
    pub(super) buffers: usize,
    /// Chunks of each, 1 when there are none.
    pub(super) chunks: usize,
}

impl Long {
    /// Every frame fits into a chunk.
    pub(super) const NONE: Long = Long { buffers: 0, chunks: 1 };
}

/// What a transmit descriptor says: a frame, or the part of one that lies in one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) address: u64,
    pub(super) len: u32,
    /// The next one belongs to the same frame.
    pub(super) goes_on: bool,
}

/// The parts of a frame, in order. At least one.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    at: u64,
    end: u64,
    chunk: u64,
    over: bool,
}

impl Iterator for Parts {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        if self.over {
            return None;
        }
        let border = (self.at & !(self.chunk - 1)) + self.chunk;
        let (address, until) = (self.at, self.end.min(border));
        self.at = until;
        self.over = until == self.end;
        Some(Part { address, len: (until - address) as u32, goes_on: !self.over })
    }
}

/// See the module's description.
pub(super) struct Umem {
    id: RegionId,
    map: sys::Mapping,
    /// What is mapped: memory that another process can go on with.
    file: OwnedFd,
    chunk: usize,
    free: RefCell<Vec<u32>>,
    /// The first chunks of long buffers that are free.
    free_long: RefCell<Vec<u32>>,
    long: Long,
    /// Behind these chunks the long buffers begin.
    singles: usize,
    places: Box<[Cell<Place>]>,
}

impl Umem {
    /// `chunks` of `chunk` bytes each (a power of two), and long buffers, all free.
    pub(super) fn new(chunks: usize, chunk: usize, long: Long) -> io::Result<Umem> {
        let all = chunks + long.buffers * long.chunks;
        assert!(chunk.is_power_of_two() && all <= u32::MAX as usize && long.chunks > 0);
        let file = sys::memory_file()?;
        sys::set_length(&file, (all * chunk) as u64)?;
        Umem::over(file, chunks, chunk, long)
    }

    /// What another process has passed, of this size; nothing is free before it has been [taken over](Umem::take_over).
    pub(super) fn of_another(file: OwnedFd, chunks: usize, chunk: usize, long: Long) -> io::Result<Umem> {
        let umem = Umem::over(file, chunks, chunk, long)?;
        umem.free.borrow_mut().clear();
        umem.free_long.borrow_mut().clear();
        Ok(umem)
    }

    fn over(file: OwnedFd, chunks: usize, chunk: usize, long: Long) -> io::Result<Umem> {
        let all = chunks + long.buffers * long.chunks;
        Ok(Umem {
            id: RegionId::unique(),
            map: sys::Mapping::new(&file, all * chunk)?,
            file,
            chunk,
            free: RefCell::new((0..chunks as u32).rev().collect()),
            free_long: RefCell::new((chunks as u32..all as u32).step_by(long.chunks).rev().collect()),
            long,
            singles: chunks,
            places: vec![Cell::new(Place::FREE); all].into(),
        })
    }

    /// For another process: the memory, bytes of a chunk, chunks, long buffers.
    pub(super) fn lend(&self) -> io::Result<(OwnedFd, usize, usize, Long)> {
        Ok((self.file.try_clone()?, self.chunk, self.singles, self.long))
    }

    /// Writes down where every chunk is.
    pub(super) fn pack(&self, to: &mut Packer) {
        let places: Vec<u8> = self.places.iter().map(|place| place.get().0).collect();
        to.block(&places);
    }

    /// Every chunk is where another process says. What it had in its hands is free: it has it no more.
    pub(super) fn take_over(&self, from: &mut Unpacker<'_>) -> Result<(), Unreadable> {
        let places = from.block()?;
        if places.len() != self.places.len() {
            return Err(Unreadable::Impossible("chunks of another memory"));
        }
        for (place, said) in self.places.iter().zip(places) {
            let said = Place(*said);
            let with_kernel = said.0 & Place::KIND >= 2 || said == Place::DONE;
            place.set(if with_kernel { said } else { Place::FREE });
        }
        let is_free = |index: &usize| self.places[*index].get() == Place::FREE;
        *self.free.borrow_mut() = (0..self.singles).filter(is_free).rev().map(|index| index as u32).collect();
        let mut free_long = Vec::new();
        for first in (self.singles..self.places.len()).step_by(self.long.chunks).rev() {
            let mut all = first..first + self.long.chunks;
            if all.all(|index| is_free(&index)) {
                free_long.push(first as u32);
            } else {
                // A buffer is done with as a whole.
                let chunks = (first..first + self.long.chunks).filter(is_free).collect::<Vec<_>>();
                chunks.into_iter().for_each(|index| self.places[index].set(Place::DONE));
            }
        }
        *self.free_long.borrow_mut() = free_long;
        Ok(())
    }

    /// There are buffers for frames that no chunk holds.
    pub(super) fn has_long(&self) -> bool {
        self.long.buffers > 0
    }

    /// Most descriptors of a frame that is sent.
    pub(super) fn most_parts(&self) -> u32 {
        self.long.chunks as u32
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

    /// The long buffer that this chunk is of: its first one. None for all others.
    fn long_of(&self, index: usize) -> Option<usize> {
        let behind = index.checked_sub(self.singles)?;
        Some(index - behind % self.long.chunks)
    }

    /// Takes a free chunk.
    fn take(&self) -> Option<usize> {
        let index = self.free.borrow_mut().pop()? as usize;
        let stepped = self.step(index, Place::FREE, Place::HELD);
        debug_assert!(stepped, "the free list holds free chunks");
        Some(index)
    }

    /// A long buffer is free again when all of it is done with.
    fn settle(&self, first: usize) {
        let chunks = first..first + self.long.chunks;
        if chunks.clone().all(|index| self.places[index].get() == Place::DONE) {
            chunks.for_each(|index| self.places[index].set(Place::FREE));
            self.free_long.borrow_mut().push(first as u32);
        }
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

    /// A free chunk with `frame` in it, or a long buffer. None when there is none, or not enough room in one.
    pub(super) fn copy_in(&self, frame: &[u8]) -> Option<Slot> {
        let mut slot = if HEADROOM + frame.len() <= self.chunk {
            let index = self.take()?;
            // SAFETY: the chunk was `Free`: no slot exists for it, and the kernel does not have it.
            unsafe { Slot::new(self.id, index as u64, self.chunk, HEADROOM, frame.len()) }
        } else if HEADROOM + frame.len() <= self.chunk * self.long.chunks {
            let mut slot = self.long_buffer()?;
            slot.reframe(HEADROOM, frame.len());
            slot
        } else {
            return None;
        };
        self.frame(&mut slot).bytes_mut().copy_from_slice(frame);
        Some(slot)
    }

    /// A free long buffer with an empty frame.
    pub(super) fn long_buffer(&self) -> Option<Slot> {
        let first = self.free_long.borrow_mut().pop()? as usize;
        for index in first..first + self.long.chunks {
            let stepped = self.step(index, Place::FREE, Place::HELD);
            debug_assert!(stepped, "the list holds free buffers");
        }
        // SAFETY: all its chunks were `Free`: no slot exists for them, and the kernel does not have them. They follow each other.
        Some(unsafe { Slot::new(self.id, first as u64, self.chunk * self.long.chunks, HEADROOM, 0) })
    }

    /// Copies the frame of `more` behind that of `slot`. False when there is no room.
    ///
    /// # Panics
    /// When one of the slots is of another region.
    pub(super) fn append(&self, slot: &mut Slot, more: &mut Slot) -> bool {
        let (head, len) = (slot.head as usize, slot.len());
        if head + len + more.len() > slot.capacity as usize {
            return false;
        }
        slot.reframe(head, len + more.len());
        let more = self.frame(more);
        self.frame(slot).bytes_mut()[len..].copy_from_slice(more.bytes());
        true
    }

    /// The frame in a slot of this memory.
    ///
    /// # Panics
    /// When the slot is of another region.
    pub(super) fn frame<'a>(&'a self, slot: &'a mut Slot) -> Frame<'a> {
        let (at, len) = (self.index_of(slot) * self.chunk, slot.capacity as usize);
        assert!(at + len <= self.map.len());
        // SAFETY: within the mapping, as just checked, which lives as long as `self` is borrowed. The chunk is `Held` (of a long
        // buffer all are), so the kernel leaves it alone; the slot is unique and mutably borrowed, so nobody else reaches these bytes.
        let bytes = unsafe { core::slice::from_raw_parts_mut(self.map.as_ptr().add(at), len) };
        Frame::new(bytes, slot.head as usize, slot.len as usize)
    }

    /// Takes a slot back.
    ///
    /// # Panics
    /// When the slot is of another region.
    pub(super) fn release(&self, slot: Slot) {
        let index = self.index_of(&slot);
        if self.long_of(index).is_some() {
            for chunk in index..index + self.long.chunks {
                self.step(chunk, Place::HELD, Place::DONE);
            }
            self.settle(index);
        } else if self.step(index, Place::HELD, Place::FREE) {
            self.free.borrow_mut().push(index as u32);
        }
    }

    /// Descriptors that a frame of so many bytes may take, when it is copied in.
    pub(super) fn parts_of_copy(&self, len: usize) -> u32 {
        (HEADROOM + len).div_ceil(self.chunk) as u32
    }

    /// The descriptors that a slot's frame takes.
    pub(super) fn parts_of(&self, slot: &Slot) -> u32 {
        let head = slot.head as usize & (self.chunk - 1);
        ((head + slot.len()).div_ceil(self.chunk)).max(1) as u32
    }

    /// Turns a slot into what transmit descriptors of this port's say.
    ///
    /// # Panics
    /// When the slot is of another region.
    pub(super) fn to_send(&self, port: u8, slot: Slot) -> Parts {
        let index = self.index_of(&slot);
        let at = index as u64 * self.chunk as u64 + u64::from(slot.head);
        let end = at + u64::from(slot.len);
        if self.long_of(index).is_none() {
            let stepped = self.step(index, Place::HELD, Place::sending(port));
            debug_assert!(stepped, "a slot's chunk is held");
        } else {
            // What the frame does not touch has nothing to wait for.
            let touched = self.index(at)..=self.index(end.saturating_sub(1).max(at));
            for chunk in index..index + self.long.chunks {
                let place = if touched.contains(&chunk) { Place::sending(port) } else { Place::DONE };
                let stepped = self.step(chunk, Place::HELD, place);
                debug_assert!(stepped, "all chunks of a slot are held");
            }
        }
        Parts { at, end, chunk: self.chunk as u64, over: false }
    }

    /// The kernel has done with a chunk that this port was to send. False when it did not have it.
    pub(super) fn sent(&self, port: u8, address: u64) -> bool {
        let index = self.index(address);
        if let Some(first) = self.long_of(index) {
            let back = self.step(index, Place::sending(port), Place::DONE);
            if back {
                self.settle(first);
            }
            return back;
        }
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

    /// The socket by which this port sent is closed: the chunks that it had are free. How many frames they were.
    pub(super) fn reclaim_sending(&self, port: u8) -> usize {
        self.reclaim(Place::sending(port)) + self.reclaim_long(Place::sending(port))
    }

    fn reclaim(&self, from: Place) -> usize {
        let mut free = self.free.borrow_mut();
        let before = free.len();
        let singles = self.places.iter().take(self.singles);
        for (index, place) in singles.enumerate().filter(|(_, place)| place.get() == from) {
            place.set(Place::FREE);
            free.push(index as u32);
        }
        free.len() - before
    }

    fn reclaim_long(&self, from: Place) -> usize {
        let mut frames = 0;
        for first in (self.singles..self.places.len()).step_by(self.long.chunks) {
            let mut any = false;
            for index in first..first + self.long.chunks {
                any |= self.step(index, from, Place::DONE);
            }
            if any {
                frames += 1;
                self.settle(first);
            }
        }
        frames
    }

    /// How many chunks are where. Counts them: not for the hot path.
    pub(super) fn census(&self) -> Census {
        let count = |place: Place| self.places.iter().filter(|p| p.get().0 & Place::KIND == place.0).count();
        Census {
            chunks: self.places.len(),
            free: self.free.borrow().len() + self.free_long.borrow().len() * self.long.chunks,
            receiving: count(Place::receiving(0)),
            held: count(Place::HELD),
            sending: count(Place::sending(0)) + self.places.iter().filter(|p| p.get() == Place::DONE).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_kernel_cannot_have_is_not_believed() {
        let umem = Umem::new(2, 2048, Long::NONE).unwrap();
        assert!(umem.received(1, 0, 60).is_none(), "it was not lent");
        let address = umem.lend_to_kernel(1).unwrap();
        assert!(umem.received(1, address + 2000, 60).is_none(), "beyond its chunk");
        assert!(umem.received(1, 1 << 40, 60).is_none(), "beyond the memory");
        let slot = umem.received(1, address + 256, 60).unwrap();
        assert!(umem.received(1, address + 256, 60).is_none(), "a second time");
        assert!(!umem.sent(1, address + 256), "it is ours");
        let sending: Vec<_> = umem.to_send(1, slot).collect();
        assert_eq!(sending, [Part { address: address + 256, len: 60, goes_on: false }]);
        let sending = sending[0].address;
        assert!(umem.sent(1, sending) && !umem.sent(1, sending), "it comes back once");
        assert_eq!(umem.census().free, 2);
    }

    #[test]
    fn what_one_port_has_is_not_another_ports_and_comes_back_when_its_device_is_gone() {
        let umem = Umem::new(4, 2048, Long::NONE).unwrap();
        let [a, b] = [1, 2].map(|port| umem.lend_to_kernel(port).unwrap());
        assert!(umem.received(2, a, 60).is_none() && umem.received(1, b, 60).is_none());
        let sending = umem.to_send(2, umem.copy_in(&[1; 60]).unwrap()).next().unwrap().address;
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
        let umem = Umem::new(2, 2048, Long::NONE).unwrap();
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

    #[test]
    fn a_long_frame_is_put_together_and_taken_apart_at_the_chunks_borders() {
        let umem = Umem::new(3, 2048, Long { buffers: 1, chunks: 3 }).unwrap();
        let frame: Vec<u8> = (0..5000).map(|i| (i * 7 + i / 251) as u8).collect();
        // As the kernel gives it: behind its headroom in each chunk.
        let mut whole = umem.long_buffer().unwrap();
        assert!(umem.long_buffer().is_none(), "there is one");
        for part in frame.chunks(2048 - KERNEL_HEADROOM) {
            let mut piece = umem.copy_in(part).unwrap();
            assert!(umem.append(&mut whole, &mut piece));
            umem.release(piece);
        }
        assert!(umem.frame(&mut whole).bytes() == frame);
        let mut rest = umem.copy_in(&[0; 1500]).unwrap();
        assert!(!umem.append(&mut whole, &mut rest), "headroom, and 5000: less than 1500 are left");
        umem.release(rest);
        assert_eq!(umem.parts_of(&whole), 3);
        let parts: Vec<_> = umem.to_send(1, whole).collect();
        let first = 3 * 2048;
        let expected = [
            (first + HEADROOM as u64, 2048 - HEADROOM as u32, true),
            (first + 2048, 2048, true),
            (first + 4096, 5000 - 4096 + HEADROOM as u32, false),
        ];
        assert_eq!(parts, expected.map(|(address, len, goes_on)| Part { address, len, goes_on }));
        assert!(umem.copy_in(&frame).is_none(), "it is under way");
        // In whatever order they come back.
        assert!(umem.sent(1, parts[2].address) && umem.sent(1, parts[0].address));
        assert!(!umem.sent(1, parts[0].address), "a second time");
        assert!(umem.copy_in(&frame).is_none(), "a part of it is under way");
        assert_eq!(umem.census(), Census { chunks: 6, free: 3, receiving: 0, held: 0, sending: 3 });
        assert!(umem.sent(1, parts[1].address));
        assert_eq!(umem.census().free, 6);
        // One that touches two chunks, and the device is gone with it: one frame.
        let mut slot = umem.copy_in(&frame).unwrap();
        slot.reframe(100, 2000);
        assert_eq!((umem.parts_of(&slot), umem.to_send(2, slot).count()), (2, 2));
        assert_eq!((umem.reclaim_sending(1), umem.reclaim_sending(2)), (0, 1));
        assert_eq!(umem.census().free, 6);
        assert!(umem.copy_in(&[0; 3 * 2048 - HEADROOM + 1]).is_none(), "longer than a long buffer");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Against a naive model: sets of indices. Whatever is done in whatever order, each chunk is in one place.
        #[test]
        fn no_order_of_events_loses_or_doubles_a_chunk(events in prop::collection::vec((0u8..7, 0usize..16), 0..400)) {
            let umem = Umem::new(16, 2048, Long { buffers: 3, chunks: 3 }).unwrap();
            let (mut kernel, mut held, mut sending) = (Vec::new(), Vec::new(), Vec::new());
            // Of long frames: those in our hands, and how many parts of each are under way.
            let (mut long, mut parts): (Vec<Slot>, Vec<Vec<Part>>) = Default::default();
            for (event, n) in events {
                match event {
                    0 => if let Some(address) = umem.lend_to_kernel(1) { kernel.push(address) },
                    1 if !kernel.is_empty() => {
                        let address = kernel.remove(n % kernel.len());
                        held.push(umem.received(1, address + 256, 64).unwrap());
                    }
                    2 => if let Some(slot) = umem.copy_in(&[n as u8; 60]) { held.push(slot) },
                    3 if n % 2 == 0 && !long.is_empty() => umem.release(long.remove(n % long.len())),
                    3 if !held.is_empty() => umem.release(held.remove(n % held.len())),
                    4 if n % 2 == 0 && !long.is_empty() => {
                        let slot = long.remove(n % long.len());
                        let expected = umem.parts_of(&slot) as usize;
                        parts.push(umem.to_send(1, slot).collect());
                        prop_assert_eq!(parts.last().map(Vec::len), Some(expected));
                    }
                    4 if !held.is_empty() => sending.push(umem.to_send(1, held.remove(n % held.len())).next().unwrap().address),
                    5 if n % 2 == 0 && !parts.is_empty() => {
                        let which = n % parts.len();
                        let left = parts[which].len();
                        let part = parts[which].remove(n % left);
                        prop_assert!(umem.sent(1, part.address) && !umem.sent(1, part.address));
                        parts.retain(|left| !left.is_empty());
                    }
                    5 if !sending.is_empty() => prop_assert!(umem.sent(1, sending.remove(n % sending.len()))),
                    6 => if let Some(slot) = umem.copy_in(&vec![n as u8; 2000 + 250 * n]) { long.push(slot) },
                    _ => {}
                }
                let free = 16 - kernel.len() - held.len() - sending.len() + 3 * (3 - long.len() - parts.len());
                let expected = Census {
                    chunks: 25,
                    free,
                    receiving: kernel.len(),
                    held: held.len() + 3 * long.len(),
                    sending: sending.len() + 3 * parts.len(),
                };
                prop_assert_eq!(umem.census(), expected);
            }
        }
    }
}
