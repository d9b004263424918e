//! `tools rush`: rushes of [`sim::rush`], seed after seed, until so many connections have come.

use crate::seeds;
use clap::Args;
use indicatif::ProgressBar;
use sim::rush::{Seen, run};
use std::process::ExitCode;
use std::sync::Mutex;

/// Flags of `tools rush`.
#[derive(Args)]
pub struct RushArgs {
    /// Connections in all
    #[arg(long, value_name = "N", default_value = "1000000")]
    arrivals: u64,
    /// Of one rush
    #[arg(long, value_name = "N", default_value = "10000")]
    each: u64,
    /// Workers of the dispatcher
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=16))]
    workers: u64,
    /// Begin with this seed
    #[arg(long, value_name = "S", default_value = "1")]
    first_seed: u64,
    /// Threads (default: one for each core)
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

/// The whole command.
pub fn main(args: &RushArgs) -> ExitCode {
    let total = Mutex::new((Seen::default(), 0.0, 0));
    let bar =
        ProgressBar::new(args.arrivals).with_style(seeds::style("{bar:30} {pos}/{len} connections, {elapsed_precise}"));
    seeds::run(args.first_seed, seeds::threads(args.jobs), |seed| {
        let run = std::panic::catch_unwind(|| run(seed, args.workers as usize, args.each));
        let mut all = total.lock().expect("no panic holds it");
        let Ok(seen) = run else {
            // What did not hold has been printed by the panic.
            eprintln!(
                "FAILED: tools rush --workers {} --each {} --first-seed {seed} --arrivals 1 --jobs 1",
                args.workers, args.each
            );
            all.2 += 1;
            return false;
        };
        all.0 += seen;
        all.1 = f64::max(all.1, seen.unfairness());
        bar.set_position(all.0.arrivals);
        all.0.arrivals < args.arrivals
    });
    bar.finish_and_clear();
    let (sum, unfairest, failed) = *total.lock().expect("no panic holds it");
    let a = sum.asked;
    println!(
        "{} connections to servers that take a third of them, {} workers, {} changes, failures and recoveries",
        sum.arrivals, args.workers, sum.changes
    );
    println!(
        "asked for room: {} = {} admitted ({} had waited) + {} abandoned + {} timed out + {} refused; {} demoted; at most {} waited at once",
        a.asked, a.admitted, a.waited, a.abandoned, a.timed_out, a.refused, a.demoted, sum.most_waiting
    );
    let all: u64 = sum.shares.iter().sum();
    println!(
        "classes of weight 6, 3, 1 in saturated seconds: {} : {} : {}, in one second at most {unfairest:.1} % from their part; with a reserve of 25 %: {:.1} %",
        sum.shares[0],
        sum.shares[1],
        sum.shares[2],
        100.0 * sum.shares[3] as f64 / all.max(1) as f64
    );
    if failed > 0 || unfairest > 2.0 {
        println!("FAILED");
        return ExitCode::FAILURE;
    }
    println!("never above a limit, no line beyond its bound, and everybody was told");
    ExitCode::SUCCESS
}
