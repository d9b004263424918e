//! How long a frame of a known flow takes from its arrival to the end of the turn that sends it, at half of what the loop can do.
//!
//! Over ports in memory, at a fixed rate that does not wait for anybody: a frame's time begins when it is due, also when the loop was away then
//! (Tene's "coordinated omission"). Beside it, at the same rate, the loop that only swaps addresses: what both have in common is the machine.

use crate::figure::Report;
use crate::forward::{Known, SMALL};
use crate::looped::{Looped, SwapLoop};
use crate::peers::{BURST, Crowd, From};
use anyhow::{Context, Result, ensure};
use core::time::Duration;
use hdrhistogram::Histogram;
use std::time::Instant;

/// A loop that frames are given to.
trait Lap {
    /// Takes a frame in from a side.
    fn give(&mut self, crowd: &mut Crowd, from: From) -> Result<()>;
    /// One turn; how many frames passed.
    fn lap(&mut self) -> Result<usize>;
}

impl Lap for Looped {
    fn give(&mut self, crowd: &mut Crowd, from: From) -> Result<()> {
        self.give_one(crowd, from)
    }
    fn lap(&mut self) -> Result<usize> {
        Ok(self.just_turn())
    }
}

impl Lap for SwapLoop {
    fn give(&mut self, crowd: &mut Crowd, from: From) -> Result<()> {
        self.give_one(crowd, from)
    }
    fn lap(&mut self) -> Result<usize> {
        Ok(self.just_turn())
    }
}

/// Frames a second, when there is always a burst.
fn most(lap: &mut dyn Lap, crowd: &mut Crowd, time: Duration) -> Result<f64> {
    let (begun, mut frames) = (Instant::now(), 0);
    while begun.elapsed() < time {
        for n in 0..2 * BURST {
            lap.give(crowd, if n % 2 == 0 { From::Client } else { From::Server })?;
        }
        frames += lap.lap()?;
    }
    Ok(frames as f64 / begun.elapsed().as_secs_f64())
}

/// Frames as they are due, one each `every`; their times in nanoseconds.
fn pace(lap: &mut dyn Lap, crowd: &mut Crowd, every: Duration, time: Duration) -> Result<Histogram<u64>> {
    let mut times = Histogram::<u64>::new_with_bounds(1, 1_000_000_000, 3).context("a histogram")?;
    let begun = Instant::now();
    let every = every.as_nanos() as u64;
    let (mut given, mut passed) = (0u64, 0u64);
    loop {
        let now = begun.elapsed();
        if now >= time {
            break;
        }
        let due = now.as_nanos() as u64 / every;
        // No more than a turn takes in: the rest waits, and its time runs.
        for _ in 0..(due - given).min(BURST as u64) {
            lap.give(crowd, if given.is_multiple_of(2) { From::Client } else { From::Server })?;
            given += 1;
        }
        let some = lap.lap()? as u64;
        let now = begun.elapsed().as_nanos() as u64;
        for n in passed..passed + some {
            times.saturating_record(now.saturating_sub(n * every).max(1));
        }
        passed += some;
        ensure!(passed == given, "{passed} of {given} frames passed");
    }
    Ok(times)
}

/// Measures both loops, in turns.
pub fn run(report: &mut Report) -> Result<()> {
    let turns = if report.quick { 4 } else { 20 };
    let stint = Duration::from_millis(250);
    report.begin("latency", turns + 1);
    let (mut looped, mut crowd) = Known::new(1000, SMALL)?.looped();
    let mut swap = SwapLoop::new();
    report.step("the most that can be done");
    let rate = most(&mut looped, &mut crowd, 4 * stint)?;
    let every = Duration::from_nanos((2e9 / rate) as u64);
    let mut both = [(); 2].map(|()| Histogram::<u64>::new_with_bounds(1, 1_000_000_000, 3));
    for turn in 0..turns {
        report.step("at half of it");
        let laps: [&mut dyn Lap; 2] = [&mut looped, &mut swap];
        for (lap, all) in laps.into_iter().zip(&mut both) {
            let times = pace(lap, &mut crowd, every, stint)?;
            // The first warms up.
            if let (true, Ok(all)) = (turn > 0, all) {
                all.add(&times).context("the same bounds")?;
            }
        }
    }
    let case = "1,000 flows, 64 B, half load";
    report.add("latency", case, "rate", rate / 2e6, "million/s");
    for (name, times) in ["worker's loop", "MAC swap loop"].into_iter().zip(both) {
        let times = times.context("a histogram")?;
        for (word, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
            let us = times.value_at_quantile(quantile) as f64 / 1e3;
            report.add("latency", case, &format!("{name}, {word}"), us, "us");
        }
    }
    Ok(())
}
