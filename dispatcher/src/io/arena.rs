//! Buffers of one size in one piece of memory, with a list of the free ones.
//!
//! Ports of one worker share an arena through an `Rc`: a frame received by one is sent by another without a copy.
//! Bounded: when no buffer is free, the arena says so, and its caller counts a lost frame.

use super::{RegionId, Slot};
use crate::wire::Frame;
use core::cell::{RefCell, UnsafeCell};

/// See the module's description.
pub struct Arena {
    id: RegionId,
    memory: Box<[UnsafeCell<u8>]>,
    buffer: usize,
    free: RefCell<Vec<u32>>,
}

impl Arena {
    /// `count` buffers of `buffer` bytes each.
    pub fn new(count: usize, buffer: usize) -> Arena {
        assert!(count <= u32::MAX as usize && buffer > 0);
        let memory = (0..count * buffer).map(|_| UnsafeCell::new(0)).collect();
        Arena { id: RegionId::unique(), memory, buffer, free: RefCell::new((0..count as u32).rev().collect()) }
    }

    /// The region its slots lie in.
    pub fn region(&self) -> RegionId {
        self.id
    }

    /// Buffers nobody holds.
    pub fn available(&self) -> usize {
        self.free.borrow().len()
    }

    /// A free buffer with `frame` copied into it behind `headroom` bytes. None when none is free or it does not fit.
    pub fn copy_in(&self, headroom: usize, frame: &[u8]) -> Option<Slot> {
        if headroom + frame.len() > self.buffer {
            return None;
        }
        let index = self.free.borrow_mut().pop()?;
        // SAFETY: the index was on the free list, so no slot exists for it, and it comes back onto the list only when
        // `release` consumes this slot. Buffers of different indices do not overlap.
        let mut slot = unsafe { Slot::new(self.id, u64::from(index), self.buffer, headroom, frame.len()) };
        self.frame(&mut slot).bytes_mut().copy_from_slice(frame);
        Some(slot)
    }

    /// The frame in one of this arena's slots.
    ///
    /// # Panics
    /// When the slot is of another region.
    pub fn frame<'a>(&'a self, slot: &'a mut Slot) -> Frame<'a> {
        let (at, head, len) = (self.offset(slot), slot.head as usize, slot.len as usize);
        let cells = &self.memory[at..at + self.buffer];
        // SAFETY: `cells` is valid memory for as long as `self` is borrowed. While the slot is borrowed mutably nobody
        // else reaches these bytes: a slot is unique (`Slot::new`), and it is reached only through itself.
        let bytes = unsafe { core::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), self.buffer) };
        Frame::new(bytes, head, len).with(slot.offload)
    }

    /// The bytes of the frame in one of this arena's slots.
    ///
    /// # Panics
    /// When the slot is of another region.
    pub fn bytes<'a>(&'a self, slot: &'a Slot) -> &'a [u8] {
        let at = self.offset(slot);
        let cells = &self.memory[at + slot.head as usize..][..slot.len as usize];
        // SAFETY: as in `frame`; the slot is borrowed, so that no `Frame` of it exists.
        unsafe { core::slice::from_raw_parts(UnsafeCell::raw_get(cells.as_ptr()), cells.len()) }
    }

    /// Puts a buffer back onto the free list.
    ///
    /// # Panics
    /// When the slot is of another region.
    pub fn release(&self, slot: Slot) {
        assert_eq!(slot.region, self.id, "slot of another region");
        self.free.borrow_mut().push(slot.token as u32);
    }

    fn offset(&self, slot: &Slot) -> usize {
        assert_eq!(slot.region, self.id, "slot of another region");
        slot.token as usize * self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_separate_and_come_back() {
        let arena = Arena::new(2, 8);
        let mut a = arena.copy_in(2, &[1, 2, 3]).unwrap();
        let mut b = arena.copy_in(0, &[9; 8]).unwrap();
        assert!(arena.copy_in(0, &[0]).is_none(), "two buffers, both taken");
        let (mut fa, fb) = (arena.frame(&mut a), arena.frame(&mut b));
        assert!(fa.push_front(2));
        fa.bytes_mut().fill(7);
        assert_eq!(fb.bytes(), [9; 8]);
        let (head, len) = (fa.head(), fa.len());
        a.reframe(head, len);
        assert_eq!(arena.bytes(&a), [7; 5]);
        arena.release(a);
        arena.release(b);
        assert_eq!(arena.available(), 2);
        assert!(arena.copy_in(6, &[0; 3]).is_none(), "does not fit");
        assert_eq!(arena.available(), 2);
    }

    #[test]
    #[should_panic(expected = "another region")]
    fn a_slot_of_another_arena_is_refused() {
        let (a, b) = (Arena::new(1, 8), Arena::new(1, 8));
        let slot = a.copy_in(0, &[1]).unwrap();
        b.release(slot);
    }
}
