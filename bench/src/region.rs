//! The part of a run that is measured.

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
