//! `tools storm`: worlds of [`sim::storm`], seed after seed, until time or number is up, or one fails.

use crate::seeds;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use sim::links::Faults;
use sim::storm::{Kind, Kinds, Scenario, Sum, Wish, attempt, shrink};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Flags of `tools storm`.
#[derive(Args)]
pub struct StormArgs {
    /// Go on for so many seconds
    #[arg(long, value_name = "N", default_value = "60")]
    seconds: u64,
    /// Stop when so many connections have been made in all
    #[arg(long, value_name = "N")]
    total: Option<u64>,
    /// Run one world of this seed, instead of many
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Begin with this seed (default: the time of day)
    #[arg(long, value_name = "S", conflicts_with = "seed")]
    first_seed: Option<u64>,
    /// Connections in one world (default: 30; with `--only liar` 20000)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    connections: Option<u64>,
    /// A set of kinds of trouble
    #[arg(long, value_enum, default_value = "all")]
    preset: Preset,
    /// Exactly these kinds of trouble in every world, separated by commas: loss, duplication, reordering, corruption, delay, full, crash,
    /// stall, leap, mtu, ports, tables, forgery, past, reuse, evil-clients, evil-server, workers, reconfigure, liar, limits, upgrade; or none
    #[arg(long, value_name = "KIND,...", value_parser = kinds)]
    only: Option<Kinds>,
    /// Never these kinds of trouble
    #[arg(long, value_name = "KIND,...", value_parser = kinds, default_value = "none")]
    without: Kinds,
    /// Frames that vanish, where loss is among the kinds
    #[arg(long, value_name = "PERCENT", value_parser = per_mille, default_value = "5%")]
    loss: u32,
    /// Frames that come twice
    #[arg(long, value_name = "PERCENT", value_parser = per_mille, default_value = "2%")]
    duplication: u32,
    /// Frames that are overtaken
    #[arg(long, value_name = "PERCENT", value_parser = per_mille, default_value = "5%")]
    reordering: u32,
    /// Frames of which a bit is flipped
    #[arg(long, value_name = "PERCENT", value_parser = per_mille, default_value = "2%")]
    corruption: u32,
    /// Threads (default: one for each core)
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Where a failure leaves its capture
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    capture_dir: PathBuf,
}

/// What may go wrong.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// In each world some of all kinds, as its seed has it
    All,
    /// In each world 5 % loss, 5 % reordering and 2 % duplication (or as the flags say), and nothing else
    Rough,
}

fn kinds(text: &str) -> Result<Kinds, String> {
    if text == "none" {
        return Ok(Kinds::NONE);
    }
    text.split(',')
        .map(|word| Kind::parse(word.trim()).ok_or_else(|| format!("no such kind of trouble: {word}")))
        .collect()
}

fn per_mille(text: &str) -> Result<u32, String> {
    let number: f64 = text.trim_end_matches('%').parse().map_err(|_| format!("not a percentage: {text}"))?;
    if (0.0..=90.0).contains(&number) { Ok((number * 10.0).round() as u32) } else { Err("0% to 90%".into()) }
}

/// The whole command.
pub fn main(args: &StormArgs) -> ExitCode {
    let rough = [Kind::Loss, Kind::Duplication, Kind::Reordering].into_iter().collect();
    let kinds = args.only.or((args.preset == Preset::Rough).then_some(rough));
    let only_liar = kinds == Some(Kinds::NONE.with(Kind::Liar));
    let wish = Wish {
        connections: args.connections.unwrap_or(if only_liar { 20_000 } else { 30 }) as usize,
        kinds,
        among: args.without.iter().fold(Kinds::ALL, Kinds::without),
        faults: Faults {
            loss: args.loss,
            duplication: args.duplication,
            reordering: args.reordering,
            corruption: args.corruption,
        },
    };
    if let Some(seed) = args.seed {
        return one(&Scenario::new(seed, &wish), args);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_secs());
    many(args.first_seed.unwrap_or(now << 20), &wish, args)
}

/// One world, its capture kept should it fail.
fn one(scenario: &Scenario, args: &StormArgs) -> ExitCode {
    println!("{scenario:?}");
    match attempt(scenario, Some(&args.capture_dir)) {
        Ok(sum) => {
            print_sum(&sum);
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("FAILED: {why}");
            println!("capture: {}", args.capture_dir.join(format!("storm-{}.pcapng", scenario.seed)).display());
            ExitCode::FAILURE
        }
    }
}

fn many(first: u64, wish: &Wish, args: &StormArgs) -> ExitCode {
    let jobs = seeds::threads(args.jobs);
    let (begun, most) = (Instant::now(), Duration::from_secs(args.seconds));
    let total = Mutex::new(Sum::default());
    let failed = Mutex::new(None);
    let bar = match args.total {
        Some(n) => {
            ProgressBar::new(n).with_style(seeds::style("{bar:30} {pos}/{len} connections, {elapsed_precise} {msg}"))
        }
        None => ProgressBar::new(args.seconds).with_style(seeds::style("{bar:30} {pos}/{len} s {msg}")),
    };
    seeds::run(first, jobs, |seed| {
        if args.total.is_none() && begun.elapsed() >= most {
            return false;
        }
        let scenario = Scenario::new(seed, wish);
        match attempt(&scenario, None) {
            Ok(sum) => {
                let mut all = total.lock().expect("no panic holds it");
                *all += sum;
                bar.set_position(args.total.map_or(begun.elapsed().as_secs(), |_| all.connections));
                bar.set_message(format!("{} worlds, {} frames", all.worlds, all.frames));
                args.total.is_none_or(|n| all.connections < n)
            }
            Err(why) => {
                failed.lock().expect("no panic holds it").get_or_insert((scenario, why));
                false
            }
        }
    });
    bar.finish_and_clear();
    let sum = *total.lock().expect("no panic holds it");
    println!("{} s on {jobs} threads, seeds from {first}", begun.elapsed().as_secs());
    print_sum(&sum);
    let Some((scenario, why)) = failed.into_inner().expect("no panic holds it") else {
        println!("0 corrupt, 0 stuck, 0 misrouted");
        return ExitCode::SUCCESS;
    };
    println!("FAILED: seed {}: {why}", scenario.seed);
    println!("  {}", scenario.command());
    println!("looking for less that fails too ...");
    let failure = shrink(&scenario, why, &args.capture_dir);
    println!("least: {}", failure.least_why);
    println!("  {}", failure.least.command());
    println!("  capture: {}", failure.capture.display());
    ExitCode::FAILURE
}

fn print_sum(sum: &Sum) {
    println!(
        "{} worlds, {} connections ({} had an excuse, {} were taken for strangers, {} were promised a server), {} frames in, {} dropped by name",
        sum.worlds, sum.connections, sum.excused, sum.strangers, sum.promised, sum.frames, sum.dropped
    );
    if sum.changes > 0 {
        println!(
            "{} changes of the configuration, {} slots given to other backends, {} sessions taken up where they had to be",
            sum.changes, sum.successors, sum.kept
        );
    }
    if sum.upgrades > 0 {
        println!("{} times another process took over", sum.upgrades);
    }
    if sum.waited > 0 {
        println!("{} waited for room at a server and got it, {} waited in vain or left", sum.waited, sum.turned_away);
    }
    if sum.lies > 0 {
        println!(
            "{} honest returns among {} connections of liars: 0 misled, {} resumed thanks to them",
            sum.returns, sum.lies, sum.helped
        );
        println!("rows with liars: {}", sum.rows);
        println!("rows without:    {}", sum.rows_without);
    }
}
