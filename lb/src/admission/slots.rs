//! Slots of backends: how many connections and handshakes each has, and may have, counted by all workers.
//!
//! **The word.** What a backend has is one atomic word: connections (20 bits), units of handshakes (20 bits), and a version that every change
//! raises (24 bits). A slot is taken by compare-and-swap, and only if it fits: no worker ever sees more than the limit, not for an instant,
//! as there is where one adds first and looks afterwards (haproxy#2744).
//!
//! **Limits** lie beside it in one word of their own, and may be lowered below what is in use: then nothing is taken until enough has been given
//! back. Who sets them stores them first and raises the version then. So a take that was decided under the old ones fails if it comes after, and one
//! that reads the new version reads the new limits, too: what is in use never grows beyond limits that have been set. (A take would have to
//! sleep through exactly 16.8 million changes to miss one.)
//!
//! **Cost.** A handshake costs [`RESUMED`] or [`FULL`] units while it lasts, a connection one of the connections until it ends; a dial counts from its
//! SYN on (envoy#44989). Which a handshake will be, the affinity tables know before the dial.
//!
//! `max-connections` is HAProxy's `maxconn` of a server; nothing there is like `max-handshakes`, which is what protects the server's CPU.

use crate::backend::BackendId;
use crate::sync::{AtomicU64, Ordering};

/// Units of a resumed handshake.
pub const RESUMED: u8 = 1;

/// Units of a full handshake: about ten times the CPU of a resumed one (HAProxy's manual: 1,300 a second against 13,100).
pub const FULL: u8 = 10;

/// Most connections, and most units, that a word counts. When there are so many, the backend is full, whatever its limits.
pub const MOST: u32 = (1 << BITS) - 1;

const BITS: u32 = 20;
const VERSION: u64 = 1 << (2 * BITS);
const NONE: u32 = u32::MAX;

/// Limits of a backend; `None` for no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// `max-connections`, dials included; at least 1.
    pub connections: Option<u32>,
    /// `max-handshakes`, in units; at least [`FULL`], for with less no full handshake would ever begin.
    pub units: Option<u32>,
}

impl Limits {
    /// No limit.
    pub const NONE: Limits = Limits { connections: None, units: None };

    fn to_word(self) -> u64 {
        let connections = self.connections.map_or(NONE, |n| n.clamp(1, MOST));
        let units = self.units.map_or(NONE, |n| n.clamp(u32::from(FULL), MOST));
        u64::from(units) << 32 | u64::from(connections)
    }

    fn of_word(word: u64) -> Limits {
        let limit = |n: u32| (n != NONE).then_some(n);
        Limits { connections: limit(word as u32), units: limit((word >> 32) as u32) }
    }

    /// Whether so much is within them.
    pub fn hold(&self, used: Used) -> bool {
        used.connections <= self.connections.unwrap_or(MOST) && used.units <= self.units.unwrap_or(MOST)
    }
}

/// What a backend has, or what something takes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Used {
    /// Connections, dials included.
    pub connections: u32,
    /// Units of handshakes that are not over.
    pub units: u32,
}

impl Used {
    const fn of_word(word: u64) -> Used {
        Used { connections: word as u32 & MOST, units: (word >> BITS) as u32 & MOST }
    }

    const fn to_word(self) -> u64 {
        (self.units as u64) << BITS | self.connections as u64
    }

    const fn plus(self, other: Used) -> Used {
        Used { connections: self.connections + other.connections, units: self.units + other.units }
    }
}

/// Why a slot was not taken, or that it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Take {
    /// It is taken.
    Taken,
    /// Beyond a limit.
    Full,
    /// Within the limits, but what is left is kept for others.
    Reserved,
}

/// A cache line of its own (128: adjacent lines are fetched in pairs).
#[repr(align(128))]
struct Entry {
    used: AtomicU64,
    limits: AtomicU64,
}

/// The slots of all backends. Share it as `Arc`; every method takes `&self`. One beyond the number of backends is always full.
pub struct Slots(Box<[Entry]>);

impl Slots {
    /// For so many backends, without limits, and nothing in use.
    pub fn new(backends: usize) -> Slots {
        let none = Limits::NONE.to_word();
        Slots((0..backends).map(|_| Entry { used: AtomicU64::new(0), limits: AtomicU64::new(none) }).collect())
    }

    /// What is in use.
    pub fn used(&self, id: BackendId) -> Used {
        self.0.get(id.index()).map_or_else(Used::default, |entry| Used::of_word(entry.used.load(Ordering::Acquire)))
    }

    /// The limits as they are.
    pub fn limits(&self, id: BackendId) -> Limits {
        let word = self.0.get(id.index()).map(|entry| entry.limits.load(Ordering::Acquire));
        word.map_or(Limits::NONE, Limits::of_word)
    }

    /// Other limits from now on; they may be below what is in use. Whoever raises them tells those who wait
    /// ([`Admission::room_at`](super::Admission::room_at)). One caller at a time for one backend.
    pub fn set_limits(&self, id: BackendId, limits: Limits) {
        if let Some(entry) = self.0.get(id.index()) {
            entry.limits.store(limits.to_word(), Ordering::Release);
            entry.used.fetch_add(VERSION, Ordering::AcqRel);
        }
    }

    /// Takes a slot, if the limits hold with it and `spares` says, of what is in use before it and of the limits, that it leaves others their own.
    pub(crate) fn take(&self, id: BackendId, cost: Used, spares: impl Fn(Used, Limits) -> bool) -> Take {
        let Some(entry) = self.0.get(id.index()) else { return Take::Full };
        let mut word = entry.used.load(Ordering::Acquire);
        loop {
            match Self::fits(entry, word, cost, &spares) {
                Take::Taken => {}
                no => return no,
            }
            let taken = word.wrapping_add(VERSION).wrapping_add(cost.to_word());
            match entry.used.compare_exchange_weak(word, taken, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Take::Taken,
                Err(now) => word = now,
            }
        }
    }

    /// What [`Slots::take`] would say now.
    pub(crate) fn could_take(&self, id: BackendId, cost: Used, spares: impl Fn(Used, Limits) -> bool) -> Take {
        let Some(entry) = self.0.get(id.index()) else { return Take::Full };
        Self::fits(entry, entry.used.load(Ordering::Acquire), cost, &spares)
    }

    fn fits(entry: &Entry, word: u64, cost: Used, spares: &impl Fn(Used, Limits) -> bool) -> Take {
        // Behind the word, which was acquired: never limits older than its version.
        let limits = Limits::of_word(entry.limits.load(Ordering::Relaxed));
        let used = Used::of_word(word);
        let with = used.plus(cost);
        // One that costs no units is not in the way of handshakes, however many there are.
        let full = with.connections > limits.connections.unwrap_or(MOST)
            || cost.units > 0 && with.units > limits.units.unwrap_or(MOST);
        match full {
            true => Take::Full,
            false if spares(used, limits) => Take::Taken,
            false => Take::Reserved,
        }
    }

    /// What could be taken now.
    pub(crate) fn room(&self, id: BackendId) -> Used {
        let (used, limits) = (self.used(id), self.limits(id));
        Used {
            connections: limits.connections.unwrap_or(MOST).saturating_sub(used.connections),
            units: limits.units.unwrap_or(MOST).saturating_sub(used.units),
        }
    }

    /// Gives back what was taken. True when somebody may wait for it: the backend has a limit.
    pub(crate) fn give_back(&self, id: BackendId, cost: Used) -> bool {
        let Some(entry) = self.0.get(id.index()) else { return false };
        let before = entry.used.fetch_add(VERSION.wrapping_sub(cost.to_word()), Ordering::AcqRel);
        let used = Used::of_word(before);
        debug_assert!(used.connections >= cost.connections && used.units >= cost.units, "given back more than taken");
        // Behind the word: if limits were set before this, they are seen here; if after, whoever waits for their sake saw this.
        entry.limits.load(Ordering::Relaxed) != u64::MAX
    }
}

impl core::fmt::Debug for Slots {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let used =
            (0..self.0.len()).map(|i| (i, self.used(BackendId(i as u16)))).filter(|(_, u)| *u != Used::default());
        f.debug_map().entries(used).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const B: BackendId = BackendId(0);
    const ANY: fn(Used, Limits) -> bool = |_, _| true;

    fn cost(units: u8) -> Used {
        Used { connections: 1, units: u32::from(units) }
    }

    #[test]
    fn a_slot_is_taken_up_to_both_limits_and_not_beyond() {
        let slots = Slots::new(1);
        slots.set_limits(B, Limits { connections: Some(3), units: Some(12) });
        assert_eq!(slots.take(B, cost(FULL), ANY), Take::Taken);
        assert_eq!(slots.take(B, cost(FULL), ANY), Take::Full, "units");
        assert_eq!(slots.take(B, cost(RESUMED), ANY), Take::Taken);
        assert_eq!(slots.take(B, cost(0), ANY), Take::Taken);
        assert_eq!(slots.take(B, cost(0), ANY), Take::Full, "connections");
        assert_eq!(slots.used(B), Used { connections: 3, units: 11 });
        assert_eq!(slots.take(BackendId(1), cost(0), ANY), Take::Full, "no such backend");
    }

    #[test]
    fn limits_below_what_is_in_use_wait_until_it_is_given_back() {
        let slots = Slots::new(1);
        (0..5).for_each(|_| assert_eq!(slots.take(B, cost(RESUMED), ANY), Take::Taken));
        slots.set_limits(B, Limits { connections: Some(2), units: None });
        for left in (2..5).rev() {
            assert_eq!(slots.take(B, cost(0), ANY), Take::Full);
            assert!(slots.give_back(B, cost(RESUMED)));
            assert_eq!(slots.used(B).connections, left);
        }
        assert_eq!(slots.take(B, cost(0), ANY), Take::Full);
        slots.give_back(B, cost(RESUMED));
        assert_eq!(slots.take(B, cost(0), ANY), Take::Taken);
    }

    #[test]
    fn a_limit_always_lets_one_of_each_kind_through() {
        let slots = Slots::new(1);
        slots.set_limits(B, Limits { connections: Some(0), units: Some(0) });
        assert_eq!(slots.limits(B), Limits { connections: Some(1), units: Some(10) });
        assert_eq!(slots.take(B, cost(FULL), ANY), Take::Taken);
    }

    #[test]
    fn a_word_counts_to_its_end_and_no_further() {
        let slots = Slots::new(1);
        let all = Used { connections: MOST, units: MOST };
        assert_eq!(slots.take(B, all, ANY), Take::Taken);
        assert_eq!(slots.take(B, cost(0), ANY), Take::Full);
        assert!(!slots.give_back(B, all), "no limit, so nobody waits");
        assert_eq!(slots.used(B), Used::default());
    }
}
