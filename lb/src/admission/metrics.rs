//! What became of those who asked, by class.

use super::class::{ClassId, MAX_CLASSES};
use core::ops::AddAssign;

/// Buckets of [`ClassCounters::waits`]: below 1 ms, 2, 4... and all that is longer.
pub const WAITS: usize = 16;

/// Of one class. A request is counted for the class that it is of, whatever line it stood in; one whose dial failed, for each time it asks. So
/// `asked = admitted + abandoned + timed_out + refused`, and those who still wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClassCounters {
    /// Calls of `admit` and `again`.
    pub asked: u64,
    /// Slots given.
    pub admitted: u64,
    /// Of those: after having waited.
    pub waited: u64,
    /// Of those: not to their own server, though it was a member.
    pub spilled: u64,
    /// Stood in the last class's line, their own being full.
    pub demoted: u64,
    /// Left by themselves.
    pub abandoned: u64,
    /// Waited as long as their class waits.
    pub timed_out: u64,
    /// Found no place in any line.
    pub refused: u64,
    /// Waits of those who were admitted after having waited: bucket `n` is of those below 2^n ms.
    pub waits: [u64; WAITS],
    /// These waits together, milliseconds.
    pub waited_ms: u64,
}

impl ClassCounters {
    /// All who asked and were not admitted, but for those who still wait.
    pub fn turned_away(&self) -> u64 {
        self.abandoned + self.timed_out + self.refused
    }

    pub(crate) fn waited(&mut self, millis: u64) {
        self.waited += 1;
        self.waited_ms = self.waited_ms.saturating_add(millis);
        self.waits[(64 - millis.leading_zeros() as usize).min(WAITS - 1)] += 1;
    }
}

impl AddAssign for ClassCounters {
    fn add_assign(&mut self, other: ClassCounters) {
        self.asked += other.asked;
        self.admitted += other.admitted;
        self.waited += other.waited;
        self.spilled += other.spilled;
        self.demoted += other.demoted;
        self.abandoned += other.abandoned;
        self.timed_out += other.timed_out;
        self.refused += other.refused;
        self.waited_ms = self.waited_ms.saturating_add(other.waited_ms);
        self.waits.iter_mut().zip(other.waits).for_each(|(mine, theirs)| *mine += theirs);
    }
}

/// One worker's counters; merge them for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Metrics {
    classes: [ClassCounters; MAX_CLASSES],
}

impl Metrics {
    /// One class's.
    pub fn of(&self, class: ClassId) -> &ClassCounters {
        &self.classes[class.index()]
    }

    pub(crate) fn at(&mut self, class: ClassId) -> &mut ClassCounters {
        &mut self.classes[class.index()]
    }

    /// All classes'.
    pub fn sum(&self) -> ClassCounters {
        let mut sum = ClassCounters::default();
        self.classes.iter().for_each(|class| sum += *class);
        sum
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: &Metrics) {
        self.classes.iter_mut().zip(other.classes).for_each(|(mine, theirs)| *mine += theirs);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn waits_fall_into_buckets_of_powers_of_two() {
        let mut counters = ClassCounters::default();
        [0, 1, 2, 3, 4, 1 << 13, 1 << 14, u64::MAX].into_iter().for_each(|millis| counters.waited(millis));
        assert_eq!(counters.waits, [1, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(counters.waited, 8);
    }
}
