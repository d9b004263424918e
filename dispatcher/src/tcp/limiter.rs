//! A token bucket: how often we say what nobody asked us to say.

use crate::time::Time;
use core::time::Duration;

/// At most so many a second, and as many at once.
///
/// The same thing is said once in a while only, however often it is asked for: a sender whose connection we do not know sends a whole window
/// before it hears of that, and the first reset answers all of it. Otherwise a few transfers would take what many need.
#[derive(Debug)]
pub struct Limiter {
    per_second: u64,
    tokens: u64,
    filled: Time,
    /// What was said last, by hash: a newcomer takes the place over.
    said: Box<[(u64, Time)]>,
}

/// Places for what was said.
const PLACES: usize = 1024;
/// When the same may be said again: before any sender's retransmission timer runs out (200 ms in Linux, which is the least in use), since
/// what was said may have been lost.
const SAY_AGAIN: Duration = Duration::from_millis(100);

impl Limiter {
    /// `per_second` a second.
    pub fn new(per_second: u64, now: Time) -> Limiter {
        Limiter { per_second, tokens: per_second, filled: now, said: vec![(0, Time::ZERO); PLACES].into() }
    }

    /// May this be said, of which `what` is a keyed hash?
    pub fn allow(&mut self, what: u64, now: Time) -> bool {
        let place = what as usize % PLACES;
        let (before, at) = self.said[place];
        if before == what && at != Time::ZERO && now.since(at) < SAY_AGAIN {
            return false;
        }
        let allowed = self.take(now);
        if allowed {
            self.said[place] = (what, now);
        }
        allowed
    }

    fn take(&mut self, now: Time) -> bool {
        let gained = (now.since(self.filled).as_nanos() * u128::from(self.per_second) / 1_000_000_000) as u64;
        if gained > 0 {
            self.tokens = self.tokens.saturating_add(gained).min(self.per_second);
            self.filled = now;
        }
        self.tokens > 0 && {
            self.tokens -= 1;
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_drains_it_and_time_fills_it() {
        let mut l = Limiter::new(10, Time::ZERO);
        assert_eq!((0..20).filter(|n| l.allow(*n, Time::ZERO)).count(), 10);
        assert_eq!((20..40).filter(|n| l.allow(*n, Time::from_millis(500))).count(), 5);
        assert_eq!((0..200).filter(|i| l.allow(40 + *i, Time::from_millis(500 + i * 50))).count(), 99);
    }

    #[test]
    fn what_was_just_said_is_not_said_again_and_costs_nothing() {
        let mut l = Limiter::new(10, Time::from_millis(1));
        let at = |ms: u64| Time::from_millis(1 + ms);
        assert!(l.allow(7, at(0)) && (0..99).all(|ms| !l.allow(7, at(ms))));
        assert!((100..108).all(|other| l.allow(other, at(99))), "nine were left, and nothing was gained");
        assert!(l.allow(7, at(101)), "what was said may have been lost");
    }
}
