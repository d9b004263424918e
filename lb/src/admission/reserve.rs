//! What a class has at a backend, and what is kept for it there.
//!
//! A class with `reserve=P` finds P percent of a backend's connections and units either in its own use or free, whatever the others want: one that would take of what is
//! kept for another, and is not used by it, does not go. Three rules beside that one:
//!
//! * What is kept of the units is never less than one full handshake, since with less no new client of the class could begin.
//! * A class may always take what is kept for itself. It decides only where reserves and what is in use are together more than a limit, which happens
//!   when limits are lowered.
//! * A backend without use is open to everybody: reserves that leave nothing for others would starve them although nobody is there.
//!
//! Workers that take at the same instant count before they see each other's: for that instant another's reserve may be short by one slot for each of them. Limits
//! are never passed, they are in [`Slots`](super::slots::Slots).

use super::class::{ClassId, MAX_CLASSES};
use super::slots::{FULL, Limits, Slots, Used};
use crate::backend::{BackendId, MAX_BACKENDS};
use crate::sync::{Arc, AtomicU64, Ordering};
use core::num::NonZeroU16;

/// Backends that are counted for.
const PLACES: usize = if cfg!(loom) { 4 } else { MAX_BACKENDS };

/// By backend and by class: what is in use. Shared by all workers, and by the versions of one pool's terms as long as the reserves are the same, so that who was given
/// a slot before a change is counted after it.
pub(crate) struct Ledger {
    /// Which one it is of all that there ever were, since what was taken of one is not given back to another.
    number: NonZeroU16,
    percent: [u8; MAX_CLASSES],
    /// Units (upper half) and connections. Empty when no class has a reserve: nobody pays then.
    used: Box<[AtomicU64]>,
}

impl Ledger {
    /// The one that follows `before`: itself, if the reserves are the same.
    pub fn following(before: Option<&Arc<Ledger>>, percent: [u8; MAX_CLASSES], slots: &Slots) -> Arc<Ledger> {
        match before {
            Some(ledger) if ledger.percent == percent => ledger.clone(),
            _ => {
                let counted = if percent.iter().any(|&p| p > 0) { PLACES * MAX_CLASSES } else { 0 };
                Arc::new(Ledger {
                    number: slots.next_ledger(),
                    percent,
                    used: (0..counted).map(|_| AtomicU64::new(0)).collect(),
                })
            }
        }
    }

    /// See the field.
    pub fn number(&self) -> NonZeroU16 {
        self.number
    }

    /// What a class has at a backend; nothing when nobody counts.
    pub fn used(&self, id: BackendId, class: ClassId) -> Used {
        let word =
            self.used.get(id.index() * MAX_CLASSES + class.index()).map_or(0, |word| word.load(Ordering::Acquire));
        Used { connections: word as u32, units: (word >> 32) as u32 }
    }

    /// After it was taken of the slots, so that it is never counted here and not there.
    pub fn taken(&self, id: BackendId, class: ClassId, cost: Used) {
        if let Some(word) = self.used.get(id.index() * MAX_CLASSES + class.index()) {
            word.fetch_add(to_word(cost), Ordering::AcqRel);
        }
    }

    /// Before it is given back to the slots, for the same reason.
    pub fn given_back(&self, id: BackendId, class: ClassId, cost: Used) {
        if let Some(word) = self.used.get(id.index() * MAX_CLASSES + class.index()) {
            word.fetch_sub(to_word(cost), Ordering::AcqRel);
        }
    }

    /// How much is kept for a class by these limits.
    pub fn reserve(&self, class: ClassId, limits: Limits) -> Used {
        let percent = u64::from(self.percent[class.index()]);
        if percent == 0 {
            return Used::default();
        }
        let share = |limit: u32| (u64::from(limit) * percent).div_ceil(100) as u32;
        Used {
            connections: limits.connections.map_or(0, share),
            units: limits.units.map_or(0, |limit| share(limit).max(u32::from(FULL)).min(limit)),
        }
    }

    /// Whether a slot of this cost leaves the other classes at this backend what is kept for them.
    pub fn spares(&self, id: BackendId, class: ClassId, cost: Used, used: Used, limits: Limits) -> bool {
        if self.used.is_empty() {
            return true;
        }
        let mut kept = Used::default();
        for other in (0..MAX_CLASSES as u8).map(ClassId).filter(|&other| other != class) {
            let (reserve, has) = (self.reserve(other, limits), self.used(id, other));
            kept.connections += reserve.connections.saturating_sub(has.connections);
            kept.units += reserve.units.saturating_sub(has.units);
        }
        let fits = |used: u32, cost: u32, kept: u32, limit: Option<u32>| {
            limit.is_none_or(|limit| cost == 0 || used == 0 || used + cost + kept <= limit)
        };
        fits(used.connections, cost.connections, kept.connections, limits.connections)
            && fits(used.units, cost.units, kept.units, limits.units)
            || self.is_its_own(id, class, cost, limits)
    }

    /// Whether a slot of this cost is within what is kept for the class itself.
    pub fn is_its_own(&self, id: BackendId, class: ClassId, cost: Used, limits: Limits) -> bool {
        let (reserve, has) = (self.reserve(class, limits), self.used(id, class));
        let within = |has: u32, cost: u32, reserve: u32, limit: Option<u32>| {
            limit.is_none() || cost == 0 || has + cost <= reserve
        };
        self.percent[class.index()] > 0
            && within(has.connections, cost.connections, reserve.connections, limits.connections)
            && within(has.units, cost.units, reserve.units, limits.units)
    }
}

fn to_word(used: Used) -> u64 {
    u64::from(used.units) << 32 | u64::from(used.connections)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const B: BackendId = BackendId(0);
    const LIMITS: Limits = Limits { connections: Some(100), units: Some(40) };

    fn used(connections: u32, units: u32) -> Used {
        Used { connections, units }
    }

    /// Class 0 has nothing, class 1 a quarter, class 2 one percent.
    fn ledger() -> Arc<Ledger> {
        let mut percent = [0; MAX_CLASSES];
        (percent[1], percent[2]) = (25, 1);
        Ledger::following(None, percent, &Slots::new(1))
    }

    #[test]
    fn what_is_kept_is_a_share_and_never_less_than_a_full_handshake() {
        let ledger = ledger();
        assert_eq!(ledger.reserve(ClassId(0), LIMITS), used(0, 0));
        assert_eq!(ledger.reserve(ClassId(1), LIMITS), used(25, 10));
        assert_eq!(ledger.reserve(ClassId(2), LIMITS), used(1, 10));
        assert_eq!(ledger.reserve(ClassId(1), Limits::NONE), used(0, 0));
    }

    #[test]
    fn nobody_takes_what_is_kept_for_another_until_that_one_has_it() {
        let ledger = ledger();
        let spares = |class: u8, units: u32, total: u32| {
            ledger.spares(B, ClassId(class), used(1, units), used(total.min(50), total), LIMITS)
        };
        assert!(spares(0, 10, 10) && !spares(0, 1, 20), "20 of 40 are kept");
        assert!(spares(1, 10, 20), "its own");
        ledger.taken(B, ClassId(1), used(1, 10));
        assert!(!spares(1, 1, 30), "the rest is class 2's");
        assert!(spares(2, 10, 30), "its own");
        assert!(!spares(0, 1, 30));
        ledger.taken(B, ClassId(2), used(1, 10));
        assert!(spares(0, 1, 39) && spares(1, 1, 39), "all reserves are in use: what is free is anybody's");
        ledger.given_back(B, ClassId(2), used(1, 10));
        assert!(!spares(0, 1, 39));
    }

    #[test]
    fn an_idle_backend_is_open_to_everybody() {
        let mut percent = [0; MAX_CLASSES];
        percent[1] = 100;
        let ledger = Ledger::following(None, percent, &Slots::new(1));
        assert!(ledger.spares(B, ClassId(0), used(1, 10), used(0, 0), LIMITS));
        assert!(!ledger.spares(B, ClassId(0), used(1, 10), used(1, 1), LIMITS));
    }

    #[test]
    fn what_was_taken_counts_on_as_long_as_the_reserves_are_the_same() {
        let slots = Slots::new(1);
        let first = Ledger::following(None, [20; MAX_CLASSES], &slots);
        first.taken(B, ClassId(1), used(1, 10));
        let same = Ledger::following(Some(&first), first.percent, &slots);
        assert_eq!((same.number(), same.used(B, ClassId(1))), (first.number(), used(1, 10)));
        let other = Ledger::following(Some(&first), [10; MAX_CLASSES], &slots);
        assert_ne!(other.number(), first.number());
        assert_eq!(other.used(B, ClassId(1)), used(0, 0));
    }
}
