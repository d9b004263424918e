//! What a frame and a connection cost the engine.
//!
//! Time is told by ratio to a loop that only swaps Ethernet addresses, in the same run: a shared machine's speed drifts, and both drift together.
//! Instructions are exact.

mod connect;
mod forward;
mod instructions;
mod peers;
mod region;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use comfy_table::Table;
use connect::Kind;
use instructions::Counted;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a frame and a connection cost the dispatcher's engine, apart from any driver.
#[derive(Parser)]
#[command(name = "bench", version)]
struct Args {
    /// One JSON object instead of a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// A frame of a known flow, in nanoseconds and by ratio to a swap of Ethernet addresses.
    Forward {
        /// Flows, one after the other.
        #[arg(long, value_delimiter = ',', default_values_t = [1000, 100_000])]
        flows: Vec<usize>,
        /// Pairs of batches of 512 frames.
        #[arg(long, default_value_t = 1000)]
        rounds: usize,
    },
    /// A whole connection of twelve frames.
    Connect {
        /// Rounds of 64 connections.
        #[arg(long, default_value_t = 200)]
        rounds: usize,
    },
    /// Instructions of each, counted by callgrind (Debian's package valgrind).
    Instructions {
        /// Compare with the counts kept in this file; status 1 when one has grown by more than 3 %.
        #[arg(long)]
        check: Option<PathBuf>,
        /// Write the counts into this file.
        #[arg(long, conflicts_with = "check")]
        keep: Option<PathBuf>,
    },
    /// What `instructions` runs under callgrind.
    #[command(hide = true)]
    Counted { name: String, times: usize },
}

/// How much a count may grow, in parts of a hundred.
const GROWTH: u64 = 3;

fn main() -> Result<()> {
    let args = Args::parse();
    match args.what {
        What::Forward { flows, rounds } => {
            let rows = flows.iter().map(|n| forward::run(*n, rounds)).collect::<Result<Vec<_>>>()?;
            report(args.json, &rows, &["flows", "engine ns", "MAC swap ns", "ratio"], |f| {
                vec![f.flows.to_string(), ns(f.engine_ns), ns(f.mac_swap_ns), ns(f.ratio)]
            })
        }
        What::Connect { rounds } => {
            let rows = Kind::ALL.into_iter().map(|k| connect::run(k, rounds)).collect::<Result<Vec<_>>>()?;
            report(args.json, &rows, &["begins with", "ns", "per second", "MAC swaps of 12 frames"], |c| {
                vec![c.kind.as_str().into(), ns(c.ns), format!("{:.0}", 1e9 / c.ns), ns(c.ratio)]
            })
        }
        What::Instructions { check, keep } => {
            let counts: BTreeMap<String, u64> =
                Counted::all().map(|c| Ok((c.name(), c.count()?))).collect::<Result<_>>()?;
            report(args.json, &counts.iter().collect::<Vec<_>>(), &["work", "instructions"], |(name, n)| {
                vec![name.to_string(), n.to_string()]
            })?;
            if let Some(file) = keep {
                let text = serde_json::to_string_pretty(&counts)? + "\n";
                std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
            }
            check.map_or(Ok(()), |file| compare(&counts, &file))
        }
        What::Counted { name, times } => match Counted::all().find(|c| c.name() == name) {
            Some(counted) => counted.work(times),
            None => bail!("no work is named {name}"),
        },
    }
}

fn ns(x: f64) -> String {
    format!("{x:.1}")
}

fn report<T: serde::Serialize>(json: bool, rows: &[T], head: &[&str], row: impl Fn(&T) -> Vec<String>) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(rows)?);
    } else {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header(head.to_vec());
        rows.iter().for_each(|r| _ = table.add_row(row(r)));
        println!("{table}");
    }
    Ok(())
}

fn compare(counts: &BTreeMap<String, u64>, file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let kept: BTreeMap<String, u64> = serde_json::from_str(&text).with_context(|| format!("in {}", file.display()))?;
    let grown: Vec<String> = counts
        .iter()
        .filter_map(|(name, n)| match kept.get(name) {
            Some(old) if *n * 100 > old * (100 + GROWTH) => Some(format!("{name}: {old} -> {n}")),
            Some(_) => None,
            None => Some(format!("{name}: not in {}", file.display())),
        })
        .collect();
    if !grown.is_empty() {
        bail!("more instructions than are kept, by more than {GROWTH} %:\n{}", grown.join("\n"));
    }
    Ok(())
}
