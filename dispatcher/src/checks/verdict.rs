//! When answers count: so many in a row.

use crate::backends::Checked;
use crate::time::Time;
use core::time::Duration;

/// What the checks of one backend have come to.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What holds.
    pub state: Checked,
    /// Since when.
    pub since: Time,
    /// Why; what the first of those that failed in a row was answered, or the last.
    pub why: Option<String>,
    /// How long the last one took.
    pub took: Option<Duration>,
    /// That have passed.
    pub passed: u64,
    /// That have failed.
    pub failed: u64,
    /// The last ones, in a row: whether they passed, and how many.
    streak: (bool, u16),
}

impl Verdict {
    /// Nothing is known, from now on.
    pub fn unknown(now: Time) -> Verdict {
        Verdict { since: now, ..Verdict::default() }
    }

    /// One more answer. True when what holds has changed by it.
    pub fn note(&mut self, result: &Result<(), String>, (rise, fall): (u16, u16), now: Time) -> bool {
        let passed = result.is_ok();
        self.streak = (passed, if self.streak.0 == passed { self.streak.1.saturating_add(1) } else { 1 });
        if passed {
            self.passed += 1
        } else {
            self.failed += 1
        }
        let next = match (self.state, passed) {
            (Checked::Unknown | Checked::Down, true) if self.streak.1 >= rise => Checked::Up,
            (Checked::Unknown | Checked::Up, false) if self.streak.1 >= fall => Checked::Down,
            (state, _) => state,
        };
        match result {
            Err(why) => self.why = Some(why.clone()),
            Ok(()) if next == Checked::Up => self.why = None,
            Ok(()) => {}
        }
        let changed = next != self.state;
        if changed {
            (self.state, self.since) = (next, now);
        }
        changed
    }

    /// So many of the last ones came to the same.
    pub fn in_a_row(&self) -> u16 {
        self.streak.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_changes_after_so_many_in_a_row_and_one_of_the_other_kind_begins_anew() {
        let mut verdict = Verdict::unknown(Time::ZERO);
        let bad = Err("status 503".to_string());
        let changes = |results: &str, verdict: &mut Verdict| -> String {
            let note = |c| {
                let result = if c == '+' { Ok(()) } else { bad.clone() };
                if verdict.note(&result, (2, 3), Time::from_millis(1)) { '!' } else { '.' }
            };
            results.chars().map(note).collect()
        };
        assert_eq!(changes("--+--+--", &mut verdict), "........");
        assert_eq!(verdict.state, Checked::Unknown);
        assert_eq!(changes("-", &mut verdict), "!");
        assert_eq!((verdict.state, verdict.why.as_deref()), (Checked::Down, Some("status 503")));
        assert_eq!(changes("+-+-++", &mut verdict), ".....!");
        assert_eq!((verdict.state, &verdict.why), (Checked::Up, &None));
        assert_eq!(changes("--+---", &mut verdict), ".....!");
        assert_eq!((verdict.passed, verdict.failed), (7, 14));
    }
}
