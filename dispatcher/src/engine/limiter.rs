//! A token bucket: how often we say what nobody asked us to say.

use crate::time::Time;

/// At most so many a second, and as many at once.
#[derive(Debug)]
pub struct Limiter {
    per_second: u64,
    tokens: u64,
    filled: Time,
}

impl Limiter {
    /// `per_second` a second.
    pub fn new(per_second: u64, now: Time) -> Limiter {
        Limiter { per_second, tokens: per_second, filled: now }
    }

    /// May this one be sent?
    pub fn allow(&mut self, now: Time) -> bool {
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
        assert_eq!((0..20).filter(|_| l.allow(Time::ZERO)).count(), 10);
        assert_eq!((0..20).filter(|_| l.allow(Time::from_millis(500))).count(), 5);
        assert_eq!((0..200).filter(|i| l.allow(Time::from_millis(500 + i * 50))).count(), 99);
    }
}
