//! Maglev tables: how long one takes to make, what a lookup costs, and whom it moves when a backend leaves.

use crate::figure::{Report, Target, number};
use crate::region::{Draw, measured_region, median};
use anyhow::Result;
use core::hint::black_box;
use lb::BackendId;
use lb::balance::Maglev;

const CLIENTS: usize = 100_000;

fn build(names: &[String], without: Option<usize>) -> Maglev {
    let members: Vec<_> = names
        .iter()
        .enumerate()
        .filter(|(n, _)| Some(*n) != without)
        .map(|(n, name)| (BackendId(n as u16), name.as_str(), 1))
        .collect();
    Maglev::build(&members)
}

/// Measures tables of 10, 100, 1000 and as many backends as can be.
pub fn run(rounds: usize, report: &mut Report) -> Result<()> {
    let sizes = [10, 100, 1000, lb::MAX_BACKENDS];
    report.begin("maglev", sizes.len());
    for backends in sizes {
        let case = format!("{} backends", number(backends as f64));
        report.step(&case);
        let names: Vec<String> = (0..backends).map(|n| format!("web{n}")).collect();
        let times = (0..rounds.min(20)).map(|_| {
            let took = measured_region(&mut || _ = black_box(build(&names, None)));
            took.as_secs_f64() * 1e3
        });
        report.add("maglev", &case, "build", median(times.collect()), "ms");
        let (full, less) = (build(&names, None), build(&names, Some(backends / 2)));
        let mut draw = Draw::new(3);
        let hashes: Vec<u64> = (0..CLIENTS).map(|_| draw.next() << 20 ^ draw.next()).collect();
        let times = hashes.chunks(1000).map(|some| {
            let took = measured_region(&mut || some.iter().for_each(|h| _ = black_box(full.pick(*h, |_| true))));
            took.as_nanos() as f64 / some.len() as f64
        });
        report.add("maglev", &case, "lookup", median(times.collect()), "ns");
        let left = BackendId((backends / 2) as u16);
        let of_others: Vec<_> = hashes.iter().filter(|h| full.pick(**h, |_| true) != Some(left)).collect();
        let moved = of_others.iter().filter(|h| full.pick(***h, |_| true) != less.pick(***h, |_| true)).count();
        let moved = 100.0 * moved as f64 / of_others.len().max(1) as f64;
        // What an unchanged table's size is worth: with another one nearly everybody moves.
        report.aim(("maglev", &case, "others' clients moved when one leaves"), moved, "%", Target::AtMost(1.0));
    }
    report.aim(("maglev", "any", "most backends"), lb::MAX_BACKENDS as f64, "backends", Target::AtLeast(4096.0));
    Ok(())
}
