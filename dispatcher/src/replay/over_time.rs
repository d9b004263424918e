//! Counts over the time of a capture, in so many pieces at most, however long it is: when it becomes longer than they reach, two become one.

use std::collections::VecDeque;
use std::time::{Duration, UNIX_EPOCH};

/// Pieces at most.
pub const PIECES: usize = 120;

/// The shortest piece, in nanoseconds: a 512th of a second, so that whole seconds are among its doubles.
const SHORTEST: u64 = 1_953_125;

/// How many of each of `N` kinds there were, piece by piece.
#[derive(Clone, Debug)]
pub struct OverTime<const N: usize> {
    /// Nanoseconds of a piece.
    piece: u64,
    /// The number of the first piece, counted from 1970.
    first: u64,
    counts: VecDeque<[u64; N]>,
}

impl<const N: usize> Default for OverTime<N> {
    fn default() -> OverTime<N> {
        OverTime { piece: SHORTEST, first: 0, counts: VecDeque::with_capacity(PIECES) }
    }
}

impl<const N: usize> OverTime<N> {
    /// One more of a kind, at that many nanoseconds since 1970. Times may come in any order; a kind that there is not is the last one.
    pub fn count(&mut self, nanos: u64, kind: usize) {
        if self.counts.is_empty() {
            self.first = nanos / self.piece;
            self.counts.push_back([0; N]);
        }
        loop {
            let at = nanos / self.piece;
            let last = self.first + self.counts.len() as u64 - 1;
            if at.max(last) - at.min(self.first) < PIECES as u64 {
                break;
            }
            self.double();
        }
        let at = nanos / self.piece;
        while at < self.first {
            self.counts.push_front([0; N]);
            self.first -= 1;
        }
        while at >= self.first + self.counts.len() as u64 {
            self.counts.push_back([0; N]);
        }
        if let Some(count) = self.counts.get_mut((at - self.first) as usize) {
            count[kind.min(N - 1)] += 1;
        }
    }

    /// Two pieces become one.
    fn double(&mut self) {
        let mut next = VecDeque::with_capacity(PIECES);
        for (n, counts) in self.counts.iter().enumerate() {
            // The first may be the second half of one.
            if n == 0 || (self.first + n as u64).is_multiple_of(2) {
                next.push_back(*counts);
            } else if let Some(both) = next.back_mut() {
                both.iter_mut().zip(counts).for_each(|(sum, n): (&mut u64, _)| *sum += n);
            }
        }
        self.counts = next;
        (self.first, self.piece) = (self.first / 2, self.piece.saturating_mul(2));
    }

    /// The pieces, each with its beginning.
    pub fn pieces(&self) -> Vec<(String, [u64; N])> {
        let begin = |n: usize| stamp((self.first + n as u64).saturating_mul(self.piece), self.piece);
        self.counts.iter().enumerate().map(|(n, counts)| (begin(n), *counts)).collect()
    }

    /// The end of the last one.
    pub fn end(&self) -> String {
        stamp((self.first + self.counts.len() as u64).saturating_mul(self.piece), self.piece)
    }

    /// How long each is, in words.
    pub fn each(&self) -> String {
        if self.piece < 1_000_000_000 {
            return format!("{:.0}\u{a0}ms", self.piece as f64 / 1e6);
        }
        humantime::format_duration(Duration::from_nanos(self.piece)).to_string()
    }
}

/// In UTC, as exact as it must be.
fn stamp(nanos: u64, piece: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_nanos(nanos);
    match piece < 1_000_000_000 {
        true => humantime::format_rfc3339_millis(time).to_string(),
        false => humantime::format_rfc3339_seconds(time).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_year_takes_no_more_room_than_a_second_and_pieces_of_a_second_are_whole_seconds() {
        let mut short = OverTime::<2>::default();
        (0..10).for_each(|n| short.count(1_500_000_000 * SECOND + n * SECOND, 0));
        assert_eq!((short.each().as_str(), short.counts.len()), ("125\u{a0}ms", 73));
        short.count(1_500_000_100 * SECOND, 1);
        assert_eq!((short.each().as_str(), short.counts.len()), ("1s", 101));
        assert_eq!(short.pieces()[0].0, "2017-07-14T02:40:00Z");
        short.count(1_531_536_000 * SECOND, 1);
        assert!(short.counts.len() <= PIECES);
        assert_eq!(short.counts.iter().fold([0, 0], |a, b| [a[0] + b[0], a[1] + b[1]]), [10, 2]);
    }

    proptest! {
        /// Whatever the times and their order: nothing is lost, and everything stands in the piece of its time.
        #[test]
        fn nothing_is_lost_and_all_stands_where_it_belongs(
            times in prop::collection::vec(prop_oneof![any::<u64>(), 0u64..1 << 32, (1u64 << 60)..(1 << 60) + (1 << 36)], 1..200)
        ) {
            let mut all = OverTime::<3>::default();
            times.iter().enumerate().for_each(|(n, time)| all.count(*time, n % 4));
            prop_assert!(all.counts.len() <= PIECES);
            for kind in 0..3 {
                let wanted = |n: usize| (n % 4).min(2) == kind;
                for (place, counts) in all.counts.iter().enumerate() {
                    let here = times.iter().enumerate().filter(|(n, t)| wanted(*n) && **t / all.piece == all.first + place as u64);
                    prop_assert_eq!(here.count() as u64, counts[kind]);
                }
            }
            prop_assert!(all.pieces().len() == all.counts.len() && !all.end().is_empty());
        }
    }
}
