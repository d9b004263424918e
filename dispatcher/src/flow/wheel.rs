//! A hashed timing wheel: one timer for each flow, armed, moved and disarmed in constant time.
//!
//! Scheme 6 of Varghese and Lauck, "Hashed and hierarchical timing wheels" (SOSP 1987), without its hash buckets'
//! rounds: a deadline beyond the wheel's horizon waits in the furthest slot and is looked at again when that comes round. With
//! idle timeouts of minutes and a horizon of tens of seconds that is a handful of looks in a flow's life.
//!
//! Beside the wheel stands a line: timers that all run equally long, in the order in which they were set, so that the one set first is known
//! without looking at others.
//!
//! Lists are intrusive, by index: the wheel allocates nothing after construction, and an index is in at most one list. A timer's memory is not touched before
//! it is first set.

use crate::time::Time;
use core::time::Duration;

const NIL: u32 = u32::MAX;

/// Where the one before would stand: this is the first, in the list of the slot whose number is added.
const FIRST: u32 = 1 << 31;

/// Stands for the line where the number of a slot would stand.
const LINE: u32 = FIRST - 2;

/// Timers that may be looked at and put back in one call of [`Wheel::expired`].
const LOOKS_PER_CALL: usize = 256;

#[derive(Clone, Copy)]
struct Timer {
    /// First tick that does not begin before the deadline.
    due: u64,
    /// The one before; of the first [`FIRST`] and where; `NIL` when not armed.
    prev: u32,
    next: u32,
}

const IDLE: Timer = Timer { due: 0, prev: NIL, next: NIL };

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
    /// Up to the highest that was ever set; there is room for all.
    timers: Vec<Timer>,
    armed: usize,
    /// First and last of the line.
    line: [u32; 2],
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
            timers: Vec::with_capacity(capacity),
            armed: 0,
            line: [NIL; 2],
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
        self.timers.get(index as usize).is_some_and(|timer| timer.prev != NIL)
    }

    /// The timer of `index`, to be set.
    fn timer(&mut self, index: u32) -> &mut Timer {
        if index as usize >= self.timers.len() {
            debug_assert!((index as usize) < self.timers.capacity(), "{index} is beyond the wheel's capacity");
            self.timers.resize(index as usize + 1, IDLE);
        }
        &mut self.timers[index as usize]
    }

    /// Sets the timer of `index` to `at`, wherever it stood before. It touches two other timers' memory, so an idle
    /// timeout is best not moved by every frame: note the time in the flow, and arm anew when the timer expires too soon. A deadline in the past is due at once;
    /// [`Time::MAX`] is never, the same as [`Wheel::disarm`].
    pub fn arm(&mut self, index: u32, at: Time) {
        self.disarm(index);
        if at != Time::MAX {
            let due = at.as_nanos().div_ceil(self.tick);
            self.timer(index).due = due;
            self.link(index);
        }
    }

    /// Sets the timer of `index` to `at`, wherever it stood before, at the end of the line: no sooner than the one before it there.
    pub fn line_up(&mut self, index: u32, at: Time) {
        self.disarm(index);
        let last = self.line[1];
        let before = self.timers.get(last as usize).map_or(0, |timer| timer.due);
        let due = at.as_nanos().div_ceil(self.tick).max(before);
        let prev = if last == NIL { FIRST | LINE } else { last };
        *self.timer(index) = Timer { due, prev, next: NIL };
        match self.timers.get_mut(last as usize) {
            Some(last) => last.next = index,
            None => self.line[0] = index,
        }
        self.line[1] = index;
        self.armed += 1;
    }

    /// The one that has been in the line for longest.
    pub fn first_in_line(&self) -> Option<u32> {
        Some(self.line[0]).filter(|index| *index != NIL)
    }

    /// Stops the timer of `index`, if it runs.
    pub fn disarm(&mut self, index: u32) {
        if !self.is_armed(index) {
            return;
        }
        let Timer { prev, next, .. } = self.timers[index as usize];
        if let Some(next) = self.timers.get_mut(next as usize) {
            next.prev = prev;
        } else if self.line[1] == index {
            self.line[1] = if prev & FIRST == 0 { prev } else { NIL };
        }
        match prev & !FIRST {
            _ if prev & FIRST == 0 => self.timers[prev as usize].next = next,
            LINE => self.line[0] = next,
            slot => {
                self.heads[slot as usize] = next;
                if next == NIL {
                    self.occupied[slot as usize / 64] &= !(1 << (slot % 64));
                }
            }
        }
        self.timers[index as usize].prev = NIL;
        self.armed -= 1;
    }

    /// An index whose deadline has come, disarmed; call until `None`. Never before the deadline; at most one tick after
    /// it, provided that it is called that often. Among due timers there is no order. What is armed for `now` or before
    /// within the loop comes up in the same loop.
    ///
    /// One call costs at most a scan of the occupancy bits and a bounded number of looks at timers that wait for a later
    /// round. Should that bound stop it, `None` is said early, [`Wheel::next_deadline`] stays at or before `now`, and
    /// the next call continues.
    pub fn expired(&mut self, now: Time) -> Option<u32> {
        let slots = self.heads.len() as u64;
        // A clock that ran backwards is taken for one that stood still.
        let now_tick = (now.as_nanos() / self.tick).max(self.cursor);
        if let Some(first) = self.first_in_line()
            && self.timers[first as usize].due <= now_tick
        {
            self.disarm(first);
            return Some(first);
        }
        // After a jump of more than a round every list holds something to be looked at, once: so go on one round before
        // the end. Times the slots then stand for are later than those they stood for, but still not after `now`.
        self.cursor = self.cursor.max(now_tick.saturating_sub(slots - 1));
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
        let line = self.first_in_line().map(|index| self.timers[index as usize].due);
        let tick = self.next_occupied().into_iter().chain(line).min()?;
        Some(Time::from_nanos(tick.saturating_mul(self.tick)))
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
        (timer.prev, timer.next) = (FIRST | slot as u32, head);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const TICK: Duration = Duration::from_millis(10);
    const NANOS: u64 = TICK.as_nanos() as u64;

    fn drain(wheel: &mut Wheel, now: Time) -> BTreeSet<u32> {
        let mut out = BTreeSet::new();
        loop {
            while let Some(index) = wheel.expired(now) {
                assert!(out.insert(index), "{index} expired twice");
            }
            // A caller that comes back as told.
            match wheel.next_deadline() {
                Some(at) if at <= now => {}
                _ => return out,
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Arm(u32, u64),
        LineUp(u32),
        Disarm(u32),
        Wait(u64),
        UntilNext,
    }

    /// Nanoseconds: within a tick, a round of 64 or 256 ticks, several rounds, days.
    fn span() -> impl Strategy<Value = u64> {
        prop_oneof![
            2 => 0..2 * NANOS,
            3 => 0..64 * NANOS,
            2 => (0..70u64).prop_map(|ticks| ticks * NANOS),
            2 => 0..1000 * NANOS,
            1 => 0..1_000_000_000_000_000u64,
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..20u32, span()).prop_map(|(i, d)| Op::Arm(i, d)),
            2 => (0..20u32).prop_map(Op::LineUp),
            1 => (0..20u32).prop_map(Op::Disarm),
            2 => span().prop_map(Op::Wait),
            2 => Just(Op::UntilNext),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn it_agrees_with_a_map_of_deadlines(
            slots in prop_oneof![Just(64), Just(256)],
            begin in span(),
            ops in prop::collection::vec(op(), 1..120),
        ) {
            let mut now = Time::from_nanos(begin);
            let mut wheel = Wheel::new(20, TICK, slots, now);
            let mut model: BTreeMap<u32, Time> = BTreeMap::new();
            let mut line: Vec<u32> = vec![];
            for op in ops {
                match op {
                    Op::Arm(index, delay) => {
                        let at = now + Duration::from_nanos(delay);
                        wheel.arm(index, at);
                        model.insert(index, at);
                        line.retain(|of| *of != index);
                    }
                    Op::LineUp(index) => {
                        let at = now + 150 * TICK;
                        wheel.line_up(index, at);
                        model.insert(index, at);
                        line.retain(|of| *of != index);
                        line.push(index);
                    }
                    Op::Disarm(index) => {
                        wheel.disarm(index);
                        model.remove(&index);
                        line.retain(|of| *of != index);
                    }
                    Op::Wait(span) => now += Duration::from_nanos(span),
                    Op::UntilNext => now = now.max(wheel.next_deadline().unwrap_or(now)),
                }
                for index in drain(&mut wheel, now) {
                    let at = model.remove(&index).expect("only armed timers expire");
                    prop_assert!(at <= now, "{index} at {at:?} expired at {now:?}");
                    line.retain(|of| *of != index);
                }
                prop_assert_eq!(wheel.first_in_line(), line.first().copied());
                for (index, at) in &model {
                    prop_assert!(*at + TICK > now, "{index} at {at:?} is late at {now:?}");
                    prop_assert!(wheel.is_armed(*index));
                }
                prop_assert_eq!(wheel.armed(), model.len());
                match (wheel.next_deadline(), model.values().min()) {
                    (None, None) => {}
                    (Some(next), Some(earliest)) => prop_assert!(next > now && next < *earliest + TICK),
                    (next, earliest) => prop_assert!(false, "{next:?} {earliest:?}"),
                }
            }
        }
    }

    #[test]
    fn a_clock_that_jumps_to_its_end_costs_one_round() {
        let mut wheel = Wheel::new(4, Duration::from_nanos(1), 64, Time::ZERO);
        wheel.arm(0, Time::from_nanos(5));
        wheel.arm(1, Time::from_nanos(u64::MAX - 2));
        wheel.arm(2, Time::from_nanos(u64::MAX / 2));
        assert_eq!(drain(&mut wheel, Time::from_nanos(u64::MAX - 10)), BTreeSet::from([0, 2]));
        assert_eq!(wheel.next_deadline(), Some(Time::from_nanos(u64::MAX - 2)));
        assert_eq!(drain(&mut wheel, Time::MAX), BTreeSet::from([1]));
    }

    #[test]
    fn never_is_not_armed_and_the_past_is_due_at_once() {
        let mut wheel = Wheel::new(2, TICK, 64, Time::from_millis(500));
        wheel.arm(0, Time::from_millis(700));
        wheel.arm(0, Time::MAX);
        assert_eq!((wheel.next_deadline(), wheel.armed()), (None, 0));
        wheel.arm(1, Time::from_millis(3));
        assert_eq!(wheel.expired(Time::from_millis(500)), Some(1));
    }

    #[test]
    fn a_clock_that_runs_backwards_fires_nothing_early() {
        let mut wheel = Wheel::new(2, TICK, 64, Time::from_millis(500));
        wheel.arm(0, Time::from_millis(600));
        assert_eq!(wheel.expired(Time::from_millis(590)), None);
        wheel.arm(1, Time::from_millis(100));
        assert_eq!(wheel.expired(Time::from_millis(10)), Some(1), "overdue when it was armed");
        assert_eq!(wheel.expired(Time::from_millis(10)), None);
        assert_eq!(wheel.expired(Time::from_millis(600)), Some(0));
    }

    /// A thousand timers parked in one slot, all of later rounds.
    #[test]
    fn a_crowded_slot_is_looked_at_in_portions_and_loses_nobody() {
        let crowd = LOOKS_PER_CALL as u32 * 4;
        let mut wheel = Wheel::new(crowd as usize + 1, TICK, 64, Time::ZERO);
        wheel.arm(crowd, Time::from_millis(630));
        for index in 0..crowd {
            wheel.arm(index, Time::from_millis(5_000 + u64::from(index)));
        }
        let now = Time::from_millis(630);
        let mut calls = 0;
        while wheel.next_deadline().unwrap() <= now {
            calls += 1;
            if let Some(index) = wheel.expired(now) {
                assert_eq!(index, crowd);
            }
        }
        assert!((4..8).contains(&calls), "{calls} calls");
        assert!(drain(&mut wheel, Time::from_millis(4_999)).is_empty());
        assert_eq!(drain(&mut wheel, Time::from_millis(5_500)), (0..=500).collect());
        assert_eq!(drain(&mut wheel, Time::from_millis(9_999)), (501..crowd).collect());
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn memory_is_what_bytes_for_says() {
        let wheel = Wheel::new(1000, TICK, 1000, Time::ZERO);
        let timers = wheel.timers.capacity() * size_of::<Timer>();
        let real = timers + size_of_val(&*wheel.heads) + size_of_val(&*wheel.occupied);
        assert_eq!(real, Wheel::bytes_for(1000, 1000));
    }
}
