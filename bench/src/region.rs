//! The part of a run that is measured, and what is made of many runs.

use anyhow::Result;
use std::time::{Duration, Instant};

/// Does `work` and says how long it took.
///
/// Not inlined, and the only function of this name: under callgrind the instructions between its entry and its return are counted, and no
/// others (`--toggle-collect`).
#[inline(never)]
pub fn measured_region(work: &mut dyn FnMut()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

/// What callgrind is told to count.
pub const PATTERN: &str = "*measured_region*";

/// The middle one; of an even number, the upper of the two in the middle. Zero of none.
pub fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or_default()
}

/// What several works took, each so often, one after the other in turns: a shared machine's speed drifts, and all of them drift with it.
pub struct Turns<const N: usize> {
    samples: [Vec<f64>; N],
}

impl<const N: usize> Turns<N> {
    /// Has each do its work once a round, and says nothing of the first tenth of the rounds, which warm up.
    pub fn take(rounds: usize, mut round: impl FnMut() -> Result<[f64; N]>) -> Result<Turns<N>> {
        let mut samples = [const { vec![] }; N];
        let warm = rounds / 10;
        for n in 0..rounds + warm {
            let took = round()?;
            if n >= warm {
                samples.iter_mut().zip(took).for_each(|(all, one)| all.push(one));
            }
        }
        Ok(Turns { samples })
    }

    /// What one of them takes: the median.
    pub fn median(&self, which: usize) -> f64 {
        median(self.samples[which].clone())
    }

    /// One over another: the median of the rounds' ratios.
    pub fn ratio(&self, of: usize, to: usize) -> f64 {
        median(self.samples[of].iter().zip(&self.samples[to]).map(|(a, b)| a / b).collect())
    }

    /// One above another: the median of the rounds' differences.
    pub fn above(&self, of: usize, base: usize) -> f64 {
        median(self.samples[of].iter().zip(&self.samples[base]).map(|(a, b)| a - b).collect())
    }
}

/// Numbers in an order that no cache can guess (xorshift64): the same in every run.
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// From a beginning that is not 0.
    pub const fn new(seed: u64) -> Draw {
        Draw(seed)
    }

    /// The next.
    #[inline]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The lowest bits of neighbours are alike.
        self.0 >> 8
    }

    /// The next, below `n`.
    #[inline]
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_compared_round_by_round() {
        // The machine slows down by half; the works' ratio stays.
        let mut n = 0.0;
        let turns = Turns::<2>::take(11, || {
            n += 1.0;
            Ok([2.0 * n, n])
        })
        .unwrap();
        assert_eq!((turns.ratio(0, 1), turns.median(1), turns.above(0, 1)), (2.0, 7.0, 7.0));
    }
}
