//! Slow start: a backend that has recovered is given its share little by little.
//!
//! HAProxy's `slowstart`: weight and limits rise linearly from next to nothing to what is wanted. Only after a recovery: at our own start all servers are
//! taken for warm, since we cannot know better, and a fleet of dispatchers that restarts must not throttle a fleet of servers that did not.

use super::slots::{FULL, Limits};
use crate::time::{Millis, millis};
use core::time::Duration;

/// One backend's. Two words; holds nothing that could be full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlowStart {
    span: Duration,
    recovered: Option<Millis>,
}

impl SlowStart {
    /// One that takes so long; zero for none. The backend is taken for warm.
    pub const fn new(span: Duration) -> SlowStart {
        SlowStart { span, recovered: None }
    }

    /// It was down, and is up again. Called again, it begins again.
    pub fn recovered(&mut self, now: Millis) {
        self.recovered = Some(now);
    }

    /// How far it is, in thousandths: 1000 when it is over, or never began.
    pub fn thousandths(&self, now: Millis) -> u32 {
        let span = millis(self.span);
        match self.recovered {
            Some(begun) if now.since(begun) < span => (now.since(begun) as u128 * 1000 / u128::from(span)) as u32,
            _ => 1000,
        }
    }

    /// Whether it is not over, so that what it says is to be asked again.
    pub fn is_on(&self, now: Millis) -> bool {
        self.thousandths(now) < 1000
    }

    /// What there is of a weight now; at least 1, if it is not zero.
    pub fn weight(&self, now: Millis, weight: u16) -> u16 {
        let part = u32::from(weight) * self.thousandths(now) / 1000;
        (part as u16).max(weight.min(1))
    }

    /// What there is of limits now; at least one connection, and one full handshake. No limit stays none, as there.
    pub fn limits(&self, now: Millis, limits: Limits) -> Limits {
        let part = |limit: u32, least: u32| {
            let part = u64::from(limit) * u64::from(self.thousandths(now)) / 1000;
            (part as u32).max(least)
        };
        Limits {
            connections: limits.connections.map(|limit| part(limit, 1)),
            units: limits.units.map(|limit| part(limit, u32::from(FULL))),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn it_rises_with_time_after_a_recovery_and_not_at_our_own_start() {
        let wanted = Limits { connections: Some(400), units: Some(80) };
        let mut slow = SlowStart::new(Duration::from_secs(20));
        assert_eq!((slow.weight(Millis(0), 100), slow.limits(Millis(0), wanted)), (100, wanted));
        slow.recovered(Millis(5000));
        assert_eq!((slow.weight(Millis(5000), 100), slow.weight(Millis(5000), 0)), (1, 0));
        assert_eq!(slow.limits(Millis(5000), wanted), Limits { connections: Some(1), units: Some(10) });
        assert_eq!(slow.limits(Millis(15_000), wanted), Limits { connections: Some(200), units: Some(40) });
        assert_eq!(slow.limits(Millis(15_000), Limits::NONE), Limits::NONE);
        let parts: Vec<_> = (5000..=25_000).map(|now| slow.thousandths(Millis(now))).collect();
        assert!(parts.is_sorted() && slow.is_on(Millis(24_999)) && !slow.is_on(Millis(25_000)));
        assert_eq!(slow.limits(Millis(25_000), wanted), wanted);
        slow.recovered(Millis(30_000));
        assert_eq!(slow.thousandths(Millis(31_000)), 50);
    }

    #[test]
    fn without_a_span_there_is_none() {
        let mut slow = SlowStart::new(Duration::ZERO);
        slow.recovered(Millis(7));
        assert_eq!(slow.thousandths(Millis(7)), 1000);
    }
}
