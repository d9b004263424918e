//! A suspicion that clients' connections have raised against a backend, and what becomes of it.
//!
//! A backend that took connections and answered no hello is asked to answer one of ours, once a second, where no check of its own asks that. Two in a row that
//! it does not answer take it away, two that it answers clear it. What answers us and leaves clients without an answer again is soon away again; it
//! would come and go for ever, each time at some clients' cost. So the time before it is asked again grows with each time in a row, as Envoy's outlier detection has
//! it (`base_ejection_time` times the number of ejections, at most `max_ejection_time`, with jitter), and begins anew after a time of good service.

use super::run::Outcome;
use super::verdict::Verdict;
use crate::backends::Checked;
use crate::time::Time;
use core::time::Duration;

/// How often it is asked.
pub const EVERY: Duration = Duration::from_secs(1);
/// So many in a row clear it, or take it away.
const STREAKS: (u16, u16) = (2, 2);
/// The second time in a row it is left alone for so long, the third time for twice that, ...
pub const BASE: Duration = Duration::from_secs(10);
/// ... and no longer than this. After so long in service without being taken away it is the first time again.
pub const MOST: Duration = Duration::from_secs(300);
/// Up to this part of the time is added, so that servers that went together do not come back together.
const JITTER: f64 = 0.1;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// There is a suspicion.
    open: bool,
    verdict: Verdict,
    due: Time,
    asking: bool,
    /// How often in a row it was taken away.
    times: u32,
    /// When it was last let back.
    back: Time,
}

/// What has come of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum News {
    /// Nothing that was not known.
    None,
    /// It was taken away, and is asked again after this time.
    Away(Duration),
    /// It is back.
    Back,
}

impl Doubt {
    /// Clients had no answer.
    pub fn raise(&mut self, now: Time) {
        if !self.open {
            (self.open, self.verdict, self.due) = (true, Verdict::unknown(now), now);
        } else if !self.is_down() {
            self.due = self.due.min(now);
        }
    }

    /// It is held against the backend.
    pub fn is_down(&self) -> bool {
        self.open && self.verdict.state == Checked::Down
    }

    /// A question is under way.
    pub fn is_asking(&self) -> bool {
        self.asking
    }

    /// When the next question is due.
    pub fn due(&self) -> Time {
        if self.open && !self.asking { self.due } else { Time::MAX }
    }

    /// It is being asked.
    pub fn begin(&mut self, now: Time) {
        (self.asking, self.due) = (true, now + EVERY);
    }

    /// It could not be asked.
    pub fn put_off(&mut self, until: Time) {
        (self.asking, self.due) = (false, until);
    }

    /// It has answered, or not. `spread`, from 0 to 1, makes the jitter.
    pub fn answered(&mut self, outcome: &Outcome, spread: f64, now: Time) -> News {
        self.asking = false;
        // Whatever it says will do: it may have its reasons against us.
        let result = if outcome.spoke { &Ok(()) } else { &outcome.result };
        self.note(result, spread, now)
    }

    fn note(&mut self, result: &Result<(), String>, spread: f64, now: Time) -> News {
        let before = self.verdict.state;
        if !self.open || !self.verdict.note(result, STREAKS, now) {
            return News::None;
        }
        if self.verdict.state == Checked::Up {
            self.open = false;
            if before != Checked::Down {
                return News::None;
            }
            self.back = now;
            return News::Back;
        }
        self.times = if now.since(self.back) >= MOST { 1 } else { self.times.saturating_add(1) };
        let wait = BASE.saturating_mul(self.times - 1).min(MOST).mul_f64(1.0 + JITTER * spread);
        self.due = now + wait.max(EVERY);
        News::Away(wait.max(EVERY))
    }

    /// What is told of it; none: there is no suspicion.
    pub fn report(&self) -> Option<Suspicion> {
        let down = self.is_down();
        self.open.then(|| Suspicion {
            down,
            since: self.verdict.since,
            why: self.verdict.why.clone(),
            times: self.times,
            until: down.then_some(self.due),
            spared: false,
        })
    }
}

/// A suspicion against a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Suspicion {
    /// It did not answer our hellos either: it is taken away, unless it is spared. Else it is being asked.
    pub down: bool,
    /// Since when.
    pub since: Time,
    /// What came of the last hello that it did not answer.
    pub why: Option<String>,
    /// How often in a row it was taken away, this time included.
    pub times: u32,
    /// When it is asked again.
    pub until: Option<Time>,
    /// It is the last of a pool, and serves on.
    pub spared: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: f64) -> Time {
        Time::ZERO + Duration::from_secs_f64(n)
    }

    /// Suspected at `now`, and asked until it is away: for how long it is left alone.
    fn away(doubt: &mut Doubt, spread: f64, now: Time) -> f64 {
        doubt.raise(now);
        let bad = Err("closed".to_string());
        assert_eq!(doubt.note(&bad, spread, now), News::None);
        let News::Away(wait) = doubt.note(&bad, spread, now) else { panic!("it is not away") };
        assert!(doubt.is_down() && doubt.due() == now + wait);
        wait.as_secs_f64()
    }

    fn back(doubt: &mut Doubt, now: Time) {
        assert_eq!(doubt.note(&Ok(()), 0.0, now), News::None);
        assert_eq!(doubt.note(&Ok(()), 0.0, now), News::Back);
        assert!(!doubt.is_down() && doubt.due() == Time::MAX && doubt.report().is_none());
    }

    #[test]
    fn each_time_in_a_row_it_is_left_alone_for_longer_up_to_a_bound_and_after_good_service_it_is_the_first_time() {
        let mut doubt = Doubt::default();
        let (mut now, mut waits) = (1000.0, vec![]);
        for _ in 0..40 {
            let wait = away(&mut doubt, 0.0, seconds(now));
            waits.push(wait);
            now += wait;
            back(&mut doubt, seconds(now));
            // Short of what would be good service.
            now += 299.0;
        }
        assert_eq!(waits[..5], [1.0, 10.0, 20.0, 30.0, 40.0]);
        assert!(waits.is_sorted() && waits[31..].iter().all(|wait| *wait == 300.0), "{waits:?}");
        assert_eq!(away(&mut doubt, 0.0, seconds(now + 1.0)), 1.0);
        assert_eq!(doubt.report().unwrap().times, 1);
    }

    #[test]
    fn jitter_is_of_what_is_given_and_never_shortens() {
        let of = |spread: f64| {
            let mut doubt = Doubt::default();
            away(&mut doubt, spread, seconds(1000.0));
            back(&mut doubt, seconds(1001.0));
            away(&mut doubt, spread, seconds(1002.0))
        };
        assert_eq!((of(0.0), of(0.5), of(1.0)), (10.0, 10.5, 11.0));
    }

    #[test]
    fn a_further_suspicion_does_not_have_it_asked_sooner_than_its_time_and_one_that_is_cleared_counts_as_none() {
        let mut doubt = Doubt::default();
        away(&mut doubt, 0.0, seconds(1000.0));
        back(&mut doubt, seconds(1001.0));
        away(&mut doubt, 0.0, seconds(1002.0));
        doubt.raise(seconds(1003.0));
        assert_eq!(doubt.due(), seconds(1012.0));
        back(&mut doubt, seconds(1012.0));
        // It answers at once: it was never away, and what was before still counts.
        doubt.raise(seconds(1020.0));
        assert_eq!(doubt.note(&Ok(()), 0.0, seconds(1020.0)), News::None);
        assert_eq!(doubt.note(&Ok(()), 0.0, seconds(1021.0)), News::None);
        assert_eq!(doubt.report(), None);
        assert_eq!(away(&mut doubt, 0.0, seconds(1030.0)), 20.0);
    }
}
