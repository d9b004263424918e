//! When a line turns to newest first.
//!
//! At a peak, first come first served makes everybody wait as long as the oldest, and at the end all time out together (haproxy#177). So when the oldest of a class has waited
//! longer than [`TARGET`] for a whole [`INTERVAL`], the newest goes first, until the oldest has waited less again: those who come are served soon, and only those
//! pay who would have paid anyway. The rule is CoDel's (RFC 8289 section 3) with other numbers, a handshake being dearer than a packet, and another deed: nothing is dropped
//! before its time-out (Maurer: Fail at Scale, ACM Queue 13:8, 2015, has both).

use crate::time::Millis;

/// The oldest may wait so long, in milliseconds.
pub const TARGET: u64 = 50;

/// It may be above that so long, in milliseconds.
pub const INTERVAL: u64 = 500;

/// One class of one worker.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Overdue {
    /// Since when the oldest has been above the target.
    above: Option<Millis>,
    newest_first: bool,
}

impl Overdue {
    /// To be told in every turn. `oldest` is since when the oldest waits. True when the order has changed.
    pub fn look(&mut self, now: Millis, oldest: Option<Millis>) -> bool {
        let before = self.newest_first;
        // When it began is known however late one looks; it was not above before it last was below.
        let crossed = oldest.map(|since| Millis(since.0.saturating_add(TARGET))).filter(|&crossed| crossed <= now);
        self.above = crossed.map(|crossed| self.above.unwrap_or(crossed));
        self.newest_first = self.above.is_some_and(|above| now.since(above) >= INTERVAL);
        before != self.newest_first
    }

    pub fn newest_first(&self) -> bool {
        self.newest_first
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_newest_goes_first_when_the_oldest_was_above_the_target_for_an_interval() {
        let mut overdue = Overdue::default();
        // Whoever is oldest: each waits 60 ms, and the first crossed the target at 90.
        for now in 100..590 {
            overdue.look(Millis(now), Some(Millis(now - 60)));
            assert!(!overdue.newest_first(), "{now}");
        }
        for now in 590..700 {
            overdue.look(Millis(now), Some(Millis(now - 60)));
        }
        assert!(overdue.newest_first());
        assert!(overdue.look(Millis(700), Some(Millis(651))), "below the target");
        assert!(!overdue.newest_first());
        overdue.look(Millis(702), Some(Millis(651)));
        assert!(!overdue.newest_first(), "the interval begins anew");
    }

    #[test]
    fn one_long_wait_is_noticed_however_seldom_one_looks() {
        let mut overdue = Overdue::default();
        assert!(overdue.look(Millis(1550), Some(Millis(1000))));
        assert!(overdue.look(Millis(1551), None));
        assert!(!overdue.newest_first());
    }
}
