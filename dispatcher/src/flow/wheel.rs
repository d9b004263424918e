//! A hashed timing wheel: one timer for each flow, armed, moved and disarmed in constant time.
//!
//! Scheme 6 of Varghese and Lauck, "Hashed and hierarchical timing wheels" (SOSP 1987), without its hash buckets'
//! rounds: a deadline beyond the wheel's horizon waits in the furthest slot and is looked at again when that comes round. With
//! idle timeouts of minutes and a horizon of tens of seconds that is a handful of looks in a flow's life.
//!
//! Lists are intrusive, by index: the wheel allocates nothing after construction, and an index is in at most one list.

use crate::time::Time;
use core::time::Duration;

const NIL: u32 = u32::MAX;

/// Timers that may be looked at and put back in one call of [`Wheel::expired`].
const LOOKS_PER_CALL: usize = 256;

#[derive(Clone, Copy)]
struct Timer {
    /// First tick that does not begin before the deadline.
    due: u64,
    prev: u32,
    next: u32,
    /// The list it is in, or `NIL` when not armed.
    slot: u32,
}

/// Timers for the indices below a capacity, one each.
///
/// Invariant: every armed timer is in the slot of some tick in `cursor..cursor + slots`, and that tick is not after its
/// `due`, or is `cursor`.
pub struct Wheel {
    tick: u64,
    /// The tick whose slot is looked at next. All before it have been emptied.
    cursor: u64,
    heads: Box<[u32]>,
    /// One bit a slot: its list is not empty.
    occupied: Box<[u64]>,
    timers: Box<[Timer]>,
    armed: usize,
}

impl Wheel {
    /// Timers for indices below `capacity`, as exact as `tick`, with a horizon of `slots` ticks. `slots` is rounded up
    /// to a power of two of at least 64.
    ///
    /// # Panics
    /// When `tick` is zero or `capacity` does not fit in 31 bits.
    pub fn new(capacity: usize, tick: Duration, slots: usize, now: Time) -> Wheel {
        let tick = u64::try_from(tick.as_nanos()).expect("a tick of less than 584 years");
        assert!(tick > 0, "a tick of no length");
        assert!(capacity < NIL as usize / 2, "a wheel for {capacity} timers");
        let slots = slots_for(slots);
        Wheel {
            tick,
            cursor: now.as_nanos() / tick,
            heads: vec![NIL; slots].into_boxed_slice(),
            occupied: vec![0; slots / 64].into_boxed_slice(),
            timers: vec![Timer { due: 0, prev: NIL, next: NIL, slot: NIL }; capacity].into_boxed_slice(),
            armed: 0,
        }
    }

    /// Memory of a wheel, bytes.
    pub const fn bytes_for(capacity: usize, slots: usize) -> usize {
        let slots = slots_for(slots);
        capacity * size_of::<Timer>() + slots * size_of::<u32>() + slots / 8
    }

    /// Timers now armed.
    pub fn armed(&self) -> usize {
        self.armed
    }

    /// `index` has a timer running.
    pub fn is_armed(&self, index: u32) -> bool {
        self.timers[index as usize].slot != NIL
    }

    /// Sets the timer of `index` to `at`, wherever it stood before. A deadline in the past is due at once;
    /// [`Time::MAX`] is never, the same as [`Wheel::disarm`].
    pub fn arm(&mut self, index: u32, at: Time) {
        self.disarm(index);
        if at != Time::MAX {
            self.timers[index as usize].due = at.as_nanos().div_ceil(self.tick);
            self.link(index);
        }
    }

    /// Stops the timer of `index`, if it runs.
    pub fn disarm(&mut self, index: u32) {
        let Timer { prev, next, slot, .. } = self.timers[index as usize];
        if slot == NIL {
            return;
        }
        if next != NIL {
            self.timers[next as usize].prev = prev;
        }
        if prev != NIL {
            self.timers[prev as usize].next = next;
        } else {
            self.heads[slot as usize] = next;
            if next == NIL {
                self.occupied[slot as usize / 64] &= !(1 << (slot % 64));
            }
        }
        self.timers[index as usize].slot = NIL;
        self.armed -= 1;
    }

    /// An index whose deadline has come, disarmed; call until `None`. Never before the deadline; at most one tick after
    /// it, provided that it is called that often. Among due timers there is no order.
    ///
    /// One call costs at most a scan of the occupancy bits and a bounded number of looks at timers that wait for a later
    /// round. Should that bound stop it, `None` is said early, [`Wheel::next_deadline`] stays at or before `now`, and
    /// the next call continues.
    pub fn expired(&mut self, now: Time) -> Option<u32> {
        let slots = self.heads.len() as u64;
        // A clock that ran backwards is taken for one that stood still.
        let now_tick = (now.as_nanos() / self.tick).max(self.cursor);
        // After a jump of more than a round every list holds something to be looked at, once: so go on one round before
        // the end. Times the slots then stand for are later than those they stood for, but still not after `now`.
        self.cursor = self.cursor.max((now_tick + 1).saturating_sub(slots));
        for _ in 0..LOOKS_PER_CALL {
            match self.next_occupied() {
                Some(tick) if tick <= now_tick => self.cursor = tick,
                _ => {
                    self.cursor = now_tick;
                    return None;
                }
            }
            let index = self.heads[(self.cursor % slots) as usize];
            self.disarm(index);
            if self.timers[index as usize].due <= now_tick {
                return Some(index);
            }
            // Of a later round. Its next slot is another one, since its tick lies after `now_tick`, or is the last before
            // this slot comes round again.
            self.link(index);
        }
        None
    }

    /// When [`Wheel::expired`] next has something to do: the end of the tick of the earliest deadline, or earlier when that
    /// lies beyond the horizon. A caller that sleeps until then misses nothing. `None` when no timer is armed.
    pub fn next_deadline(&self) -> Option<Time> {
        self.next_occupied().map(|tick| Time::from_nanos(tick.saturating_mul(self.tick)))
    }

    /// Puts a timer that is in no list into that of its tick, or of the nearest tick that the wheel has.
    fn link(&mut self, index: u32) {
        let slots = self.heads.len() as u64;
        let tick = self.timers[index as usize].due.clamp(self.cursor, self.cursor + (slots - 1));
        let slot = (tick % slots) as usize;
        let head = self.heads[slot];
        if head != NIL {
            self.timers[head as usize].prev = index;
        }
        let timer = &mut self.timers[index as usize];
        (timer.prev, timer.next, timer.slot) = (NIL, head, slot as u32);
        self.heads[slot] = index;
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.armed += 1;
    }

    /// The first tick at or after the cursor whose list is not empty.
    fn next_occupied(&self) -> Option<u64> {
        if self.armed == 0 {
            return None;
        }
        let slots = self.heads.len();
        let start = (self.cursor % slots as u64) as usize;
        let words = self.occupied.len();
        // The first word is looked at twice: from the start on, and in the end below it.
        for i in 0..=words {
            let at = (start / 64 + i) % words;
            let mut word = self.occupied[at];
            if i == 0 {
                word &= !0 << (start % 64);
            }
            if word != 0 {
                let slot = at * 64 + word.trailing_zeros() as usize;
                return Some(self.cursor + (slot.wrapping_sub(start) & (slots - 1)) as u64);
            }
        }
        None
    }
}

/// The number of slots that is made of the one asked for.
const fn slots_for(slots: usize) -> usize {
    if slots < 64 { 64 } else { slots.next_power_of_two() }
}
