//! The memory of AF_XDP: a piece of it for all ports of a worker, cut into chunks of one size.
//!
//! **Ownership.** Every chunk is in exactly one of four places, and its `Place` says which, and with the kernel by which socket:
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
//!
//! **Several workers** can have a part of one region each, after a takeover with another number of workers ([`division`]): each has an account of all of its chunks, and
//! those that are another's are `ELSEWHERE`, a place that no step leads from. So they have no chunk in common, and need no word with each other.

pub(super) mod division;
mod place;

use super::{HEADROOM, RegionId, Slot, prefetch, sys};
use crate::pack::{Packer, Unreadable};
use crate::wire::Frame;
use core::cell::{Cell, RefCell};
use division::{Holders, Shape};
pub(super) use place::MOST_SOCKETS;
use place::Place;
use std::io;
use std::os::fd::OwnedFd;

/// What the kernel leaves free in front of a received frame (`XDP_PACKET_HEADROOM`), bytes.
pub const KERNEL_HEADROOM: usize = 256;
const _: () = assert!(KERNEL_HEADROOM >= HEADROOM, "pushing tags needs no room of its own");

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

    /// What another process has passed, of this size; nothing of it is ours before it has been [taken over](Umem::take_over).
    pub(super) fn of_another(file: OwnedFd, chunks: usize, chunk: usize, long: Long) -> io::Result<Umem> {
        let umem = Umem::over(file, chunks, chunk, long)?;
        umem.places.iter().for_each(|place| place.set(Place::ELSEWHERE));
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

    /// For another process: the memory, and bytes of a chunk.
    pub(super) fn lend(&self) -> io::Result<(OwnedFd, usize)> {
        Ok((self.file.try_clone()?, self.chunk))
    }

    /// Bytes of so many of its chunks, and as large a part of the long buffers.
    pub(super) fn part_of_bytes(&self, chunks: usize) -> usize {
        (self.map.len() as u64 * chunks as u64 / self.singles.max(1) as u64) as usize
    }

    /// How it is cut.
    pub(super) fn shape(&self) -> Shape {
        Shape { singles: self.singles, long: self.long }
    }

    /// Writes down where every chunk is.
    pub(super) fn pack(&self, to: &mut Packer) {
        let places: Vec<u8> = self.places.iter().flat_map(|place| place.get().to_bytes()).collect();
        to.block(&places);
    }

    /// Has those chunks which are this worker's by what all wrote down ([`Umem::pack`]) who had a part of the region. What those had in their hands is free: they have it no more.
    pub(super) fn take_over(&self, accounts: &[&[u8]], holders: &Holders, worker: usize) -> Result<(), Unreadable> {
        let places = division::together(accounts, self.places.len())?;
        let owners = division::divide(&places, self.shape(), holders)?;
        for ((place, said), owner) in self.places.iter().zip(places).zip(owners) {
            place.set(if owner != worker { Place::ELSEWHERE } else { said.of_kernel().unwrap_or(Place::FREE) });
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

    /// A free chunk's address for the fill ring of this socket.
    pub(super) fn lend_to_kernel(&self, socket: u16) -> Option<u64> {
        let index = self.free.borrow_mut().pop()?;
        let stepped = self.step(index as usize, Place::FREE, Place::receiving(socket));
        debug_assert!(stepped, "the free list holds free chunks");
        Some(u64::from(index) * self.chunk as u64)
    }

    /// What the kernel says that this socket has received. None when it cannot be true.
    pub(super) fn received(&self, socket: u16, address: u64, len: u32) -> Option<Slot> {
        let index = self.index(address);
        let head = (address % self.chunk as u64) as usize;
        if head + len as usize > self.chunk || !self.step(index, Place::receiving(socket), Place::HELD) {
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

    /// Turns a slot into what transmit descriptors of this socket say.
    ///
    /// # Panics
    /// When the slot is of another region.
    pub(super) fn to_send(&self, socket: u16, slot: Slot) -> Parts {
        let index = self.index_of(&slot);
        let at = index as u64 * self.chunk as u64 + u64::from(slot.head);
        let end = at + u64::from(slot.len);
        if self.long_of(index).is_none() {
            let stepped = self.step(index, Place::HELD, Place::sending(socket));
            debug_assert!(stepped, "a slot's chunk is held");
        } else {
            // What the frame does not touch has nothing to wait for.
            let touched = self.index(at)..=self.index(end.saturating_sub(1).max(at));
            for chunk in index..index + self.long.chunks {
                let place = if touched.contains(&chunk) { Place::sending(socket) } else { Place::DONE };
                let stepped = self.step(chunk, Place::HELD, place);
                debug_assert!(stepped, "all chunks of a slot are held");
            }
        }
        Parts { at, end, chunk: self.chunk as u64, over: false }
    }

    /// The kernel has done with a chunk that this socket was to send. False when it did not have it.
    pub(super) fn sent(&self, socket: u16, address: u64) -> bool {
        let index = self.index(address);
        if let Some(first) = self.long_of(index) {
            let back = self.step(index, Place::sending(socket), Place::DONE);
            if back {
                self.settle(first);
            }
            return back;
        }
        let back = self.step(index, Place::sending(socket), Place::FREE);
        if back {
            self.free.borrow_mut().push(index as u32);
        }
        back
    }

    /// The socket is closed: the chunks that it had for receiving are free.
    pub(super) fn reclaim_receiving(&self, socket: u16) {
        self.reclaim(Place::receiving(socket));
    }

    /// The socket is closed: the chunks that it had for sending are free. How many frames they were.
    pub(super) fn reclaim_sending(&self, socket: u16) -> usize {
        self.reclaim(Place::sending(socket)) + self.reclaim_long(Place::sending(socket))
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
        let count = |kind| self.places.iter().filter(|place| place.get().kind() == kind).count();
        let with = |place| self.places.iter().filter(|p| p.get() == place).count();
        Census {
            chunks: self.places.len() - with(Place::ELSEWHERE),
            free: self.free.borrow().len() + self.free_long.borrow().len() * self.long.chunks,
            receiving: count(Place::receiving(0).kind()),
            held: with(Place::HELD),
            sending: count(Place::sending(0).kind()) + with(Place::DONE),
        }
    }
}

#[cfg(test)]
mod tests;
