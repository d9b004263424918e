//! How long a worker was away from its queues.

use core::time::Duration;
use hdrhistogram::Histogram;

/// Shortest and longest that are told apart, microseconds.
const BOUNDS: (u64, u64) = (1, 60_000_000);

/// A turn that is told of. A burst of frames takes microseconds.
pub const OVERRUN: Duration = Duration::from_millis(50);

/// What taking over changes cost a worker, and its longest turn.
#[derive(Clone, PartialEq, Debug)]
pub struct Pauses {
    /// Microseconds in which a change was taken over, and nothing else done. Rounded up; two digits.
    changes: Histogram<u32>,
    /// The longest that frames of a busy turn kept the next from beginning. The kernel's scheduler can have its part in that.
    longest_turn: Duration,
    /// Turns that were longer than [`OVERRUN`].
    overruns: u64,
}

impl Default for Pauses {
    fn default() -> Pauses {
        let changes = Histogram::new_with_bounds(BOUNDS.0, BOUNDS.1, 2).expect("bounds that are in order");
        Pauses { changes, longest_turn: Duration::ZERO, overruns: 0 }
    }
}

impl Pauses {
    /// A change took so long.
    pub fn change(&mut self, took: Duration) {
        let us = u64::try_from(took.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        self.changes.saturating_record(us.clamp(BOUNDS.0, BOUNDS.1));
    }

    /// A turn took so long.
    #[inline]
    pub fn turn(&mut self, took: Duration) {
        self.longest_turn = self.longest_turn.max(took);
        self.overruns += u64::from(took > OVERRUN);
    }

    /// Turns that were longer than [`OVERRUN`].
    pub fn overruns(&self) -> u64 {
        self.overruns
    }

    /// Changes taken over.
    pub fn changes(&self) -> u64 {
        self.changes.len()
    }

    /// What this share of the changes took at most.
    pub fn change_quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.changes.value_at_quantile(share))
    }

    /// The longest change.
    pub fn longest_change(&self) -> Duration {
        Duration::from_micros(self.changes.max())
    }

    /// The longest turn that had frames.
    pub fn longest_turn(&self) -> Duration {
        self.longest_turn
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: &Pauses) {
        // Of the same bounds: it cannot fail.
        let _ = self.changes.add(&other.changes);
        self.longest_turn = self.longest_turn.max(other.longest_turn);
        self.overruns += other.overruns;
    }

    /// Becomes like another, without taking memory anew.
    pub(super) fn follow(&mut self, other: &Pauses) {
        if self.changes.len() != other.changes.len() {
            self.changes.reset();
            let _ = self.changes.add(&other.changes);
        }
        self.longest_turn = other.longest_turn;
        self.overruns = other.overruns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_never_less_than_what_was_and_the_sum_has_both() {
        let (mut a, mut b) = (Pauses::default(), Pauses::default());
        for ns in [1, 900, 1_000, 1_001, 250_000] {
            a.change(Duration::from_nanos(ns));
        }
        b.change(Duration::from_micros(4_999));
        b.turn(Duration::from_millis(7));
        a.turn(Duration::from_millis(3));
        assert_eq!(a.overruns(), 0);
        a.turn(Duration::from_millis(51));
        assert_eq!(a.overruns(), 1);
        assert_eq!(a.longest_change(), Duration::from_micros(250));
        assert!(a.change_quantile(0.5) >= Duration::from_micros(1));
        let mut told = Pauses::default();
        told.follow(&a);
        assert_eq!(told, a);
        told.merge(&b);
        assert_eq!(told.changes(), 6);
        assert!(told.longest_change() >= Duration::from_micros(4_999));
        assert!(told.longest_change() <= Duration::from_micros(5_100));
        assert_eq!(told.longest_turn(), Duration::from_millis(51));
        told.follow(&a);
        assert_eq!(told, a);
        a.change(Duration::from_secs(10_000));
        assert!(a.longest_change() >= Duration::from_secs(60));
    }
}
