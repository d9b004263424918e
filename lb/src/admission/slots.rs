//! Slots of backends: how many connections and handshakes each has, and may have, counted by all workers.
//!
//! **The word.** What a backend has is one atomic word: connections (24 bits), units of handshakes (20 bits), and a version that every change
//! raises (20 bits). A slot is taken by compare-and-swap, and only if it fits: no worker ever sees more than the limit, not for an instant,
//! as there is where one adds first and looks afterwards (haproxy#2744).
//!
//! **Everybody is counted**, also those whose backend has no limit ([`Slots::opened`]): the same word is what balancing goes by ([`Live`](crate::Live)). So
//! a limit that is set while connections run counts them all from its first instant.
//!
//! **Limits** lie beside it in one word of their own, and may be lowered below what is in use: then nothing is taken until enough has been given
//! back. Who sets them stores them first and raises the version then. So a take that was decided under the old ones fails if it comes after, and one
//! that reads the new version reads the new limits, too: what is in use never grows beyond limits that have been set. (A take would have to
//! sleep through exactly a million changes to miss one.)
//!
//! **Cost.** A handshake costs [`RESUMED`] or [`FULL`] units while it lasts, a connection one of the connections until it ends; a dial counts from its
//! SYN on (envoy#44989). Which a handshake will be, the affinity tables know before the dial.
//!
//! `max-connections` is HAProxy's `maxconn` of a server; nothing there is like `max-handshakes`, which is what protects the server's CPU.

use crate::backend::BackendId;
use crate::limits::{BackendLimits, MaxHandshakes};
use crate::sync::{AtomicU64, Ordering};
use core::num::NonZeroU16;

/// Units of a resumed handshake.
pub const RESUMED: u8 = 1;

/// Units of a full handshake: about ten times the CPU of a resumed one (HAProxy's manual: 1,300 a second against 13,100).
pub const FULL: u8 = 10;

/// The highest limit of either kind, and most units that a word counts. When there are so many, no handshake begins, whatever the limits.
pub const MOST: u32 = (1 << UNITS) - 1;

/// Most connections that a word counts: more than ports and memory allow. When there are so many, the backend is full.
pub const MOST_CONNECTIONS: u32 = (1 << CONNECTIONS) - 1;

const CONNECTIONS: u32 = 24;
const UNITS: u32 = 20;
const VERSION: u64 = 1 << (CONNECTIONS + UNITS);
const NONE: u32 = u32::MAX;

/// Limits of a backend; `None` for no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// `max-connections`, dials included; at least 1.
    pub connections: Option<u32>,
    /// `max-handshakes`, in units; at least [`FULL`], for with less no full handshake would ever begin.
    pub units: Option<u32>,
}

impl From<BackendLimits> for Limits {
    /// As they are wanted; `auto` is found out, and begins with four full handshakes at a time.
    fn from(wanted: BackendLimits) -> Limits {
        Limits {
            connections: wanted.max_connections,
            units: wanted.max_handshakes.map(|most| match most {
                MaxHandshakes::Units(units) => units,
                MaxHandshakes::Auto => 4 * u32::from(FULL),
            }),
        }
    }
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
        used.connections <= self.connections.unwrap_or(MOST_CONNECTIONS) && used.units <= self.units.unwrap_or(MOST)
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
        Used { connections: word as u32 & MOST_CONNECTIONS, units: (word >> CONNECTIONS) as u32 & MOST }
    }

    const fn to_word(self) -> u64 {
        (self.units as u64) << CONNECTIONS | self.connections as u64
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
pub struct Slots {
    entries: Box<[Entry]>,
    /// Ledgers that were opened, see `reserve`.
    ledgers: AtomicU64,
}

impl Slots {
    /// For so many backends, without limits, and nothing in use.
    pub fn new(backends: usize) -> Slots {
        let none = Limits::NONE.to_word();
        let entry = |_| Entry { used: AtomicU64::new(0), limits: AtomicU64::new(none) };
        Slots { entries: (0..backends).map(entry).collect(), ledgers: AtomicU64::new(0) }
    }

    /// A number that no other ledger has.
    pub(crate) fn next_ledger(&self) -> NonZeroU16 {
        let number = self.ledgers.fetch_add(1, Ordering::Relaxed) % u64::from(u16::MAX);
        NonZeroU16::MIN.saturating_add(number as u16)
    }

    /// What is in use.
    pub fn used(&self, id: BackendId) -> Used {
        self.entries
            .get(id.index())
            .map_or_else(Used::default, |entry| Used::of_word(entry.used.load(Ordering::Acquire)))
    }

    /// The limits as they are.
    pub fn limits(&self, id: BackendId) -> Limits {
        let word = self.entries.get(id.index()).map(|entry| entry.limits.load(Ordering::Acquire));
        word.map_or(Limits::NONE, Limits::of_word)
    }

    /// Other limits from now on; they may be below what is in use. Whoever raises them tells those who wait
    /// ([`Admission::room_at`](super::Admission::room_at)). One caller at a time for one backend.
    pub fn set_limits(&self, id: BackendId, limits: Limits) {
        if let Some(entry) = self.entries.get(id.index()) {
            entry.limits.store(limits.to_word(), Ordering::Release);
            entry.used.fetch_add(VERSION, Ordering::AcqRel);
        }
    }

    /// Takes a slot, if the limits hold with it and `spares` says, of what is in use before it and of the limits, that it leaves others their own.
    pub(crate) fn take(&self, id: BackendId, cost: Used, spares: impl Fn(Used, Limits) -> bool) -> Take {
        let Some(entry) = self.entries.get(id.index()) else { return Take::Full };
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
        let Some(entry) = self.entries.get(id.index()) else { return Take::Full };
        Self::fits(entry, entry.used.load(Ordering::Acquire), cost, &spares)
    }

    fn fits(entry: &Entry, word: u64, cost: Used, spares: &impl Fn(Used, Limits) -> bool) -> Take {
        // Behind the word, which was acquired: never limits older than its version.
        let limits = Limits::of_word(entry.limits.load(Ordering::Relaxed));
        let used = Used::of_word(word);
        let with = used.plus(cost);
        // One that costs no units is not in the way of handshakes, however many there are.
        let full = with.connections > limits.connections.unwrap_or(MOST_CONNECTIONS)
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
            connections: limits.connections.unwrap_or(MOST_CONNECTIONS).saturating_sub(used.connections),
            units: limits.units.unwrap_or(MOST).saturating_sub(used.units),
        }
    }

    /// A connection to a backend that nobody is asked about: it is counted.
    #[inline]
    pub fn opened(&self, id: BackendId) {
        if let Some(entry) = self.entries.get(id.index()) {
            entry.used.fetch_add(VERSION + 1, Ordering::AcqRel);
        }
    }

    /// Takes what is taken already, whatever the limits say.
    pub(crate) fn take_over(&self, id: BackendId, cost: Used) {
        if let Some(entry) = self.entries.get(id.index()) {
            entry.used.fetch_add(VERSION.wrapping_add(cost.to_word()), Ordering::AcqRel);
        }
    }

    /// Gives back what was taken, or counted. True when somebody may wait for it: the backend has a limit.
    pub fn give_back(&self, id: BackendId, cost: Used) -> bool {
        let Some(entry) = self.entries.get(id.index()) else { return false };
        Self::subtract(entry, cost);
        // Behind the word: if limits were set before this, they are seen here; if after, whoever waits for their sake saw this.
        entry.limits.load(Ordering::Relaxed) != u64::MAX
    }

    /// A connection that was counted by [`Slots::opened`] has ended: how many are left.
    #[inline]
    pub(crate) fn closed(&self, id: BackendId) -> u32 {
        let one = Used { connections: 1, units: 0 };
        self.entries.get(id.index()).map_or(0, |entry| Self::subtract(entry, one).connections.wrapping_sub(1))
    }

    /// What there was before.
    #[inline]
    fn subtract(entry: &Entry, cost: Used) -> Used {
        let before = Used::of_word(entry.used.fetch_add(VERSION.wrapping_sub(cost.to_word()), Ordering::AcqRel));
        debug_assert!(
            before.connections >= cost.connections && before.units >= cost.units,
            "given back more than taken"
        );
        before
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
        let all = Used { connections: MOST_CONNECTIONS, units: MOST };
        assert_eq!(slots.take(B, all, ANY), Take::Taken);
        assert_eq!(slots.take(B, cost(0), ANY), Take::Full);
        assert!(!slots.give_back(B, all), "no limit, so nobody waits");
        assert_eq!(slots.used(B), Used::default());
    }

    #[test]
    fn connections_from_before_a_limit_count_when_it_is_set() {
        let slots = Slots::new(1);
        (0..3).for_each(|_| slots.opened(B));
        slots.set_limits(B, Limits { connections: Some(3), units: None });
        assert_eq!(slots.take(B, cost(0), ANY), Take::Full);
        assert_eq!(slots.closed(B), 2);
        assert_eq!(slots.take(B, cost(0), ANY), Take::Taken);
        assert!(slots.give_back(B, cost(0)));
    }
}
