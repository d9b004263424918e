//! What the dispatcher costs: one command for everything that is measured of it.
//!
//! Time is told within one run, beside what it is compared with, and works take turns: a shared machine's speed drifts, and all of them drift with
//! it. Instructions are exact. How to read the figures, and what they are today, tells docs/performance.md.

mod balance;
mod ceilings;
mod connect;
mod figure;
mod forward;
mod instructions;
mod latency;
mod live;
mod looped;
mod maglev;
mod memory;
#[cfg(feature = "dpdk")]
mod over_dpdk;
mod parse;
mod peers;
mod region;
mod seal;
mod svg;
mod syn;
mod table;
mod testpmd;
mod workers;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use comfy_table::Table;
use figure::Report;
use instructions::Counted;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the dispatcher costs, part by part.
#[derive(Parser)]
#[command(name = "bench", version)]
struct Args {
    /// One JSON object a figure and line, instead of tables: part, case, measure, value, unit, and where there is something to be reached
    /// target and met.
    #[arg(long, global = true)]
    json: bool,
    /// A short look: a tenth of the rounds, small tables.
    #[arg(long, global = true)]
    quick: bool,
    /// Draw charts of it, too, into this directory.
    #[arg(long, global = true, value_name = "DIR")]
    svg: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Everything that needs no root, and says what it leaves out.
    All,
    /// A frame of a known flow: the engine alone, and through the worker's loop over ports in memory, against swaps of Ethernet addresses.
    Forward {
        /// Flows, one after the other.
        #[arg(long, value_delimiter = ',', default_values_t = [1000, 100_000, 1_000_000, 4_000_000])]
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
    /// The answer to a SYN.
    Syn {
        /// Batches of 512 SYNs.
        #[arg(long, default_value_t = 500)]
        rounds: usize,
    },
    /// A packet through a tunnel whose packets are sealed, beside sealing alone.
    Seal {
        /// Batches of 256 packets each way.
        #[arg(long, default_value_t = 300)]
        rounds: usize,
    },
    /// From a hello to what it offers, beside tls-parser and rustls.
    Parse {
        /// Batches of 200 hellos.
        #[arg(long, default_value_t = 500)]
        rounds: usize,
    },
    /// The affinity table, beside dashmap and a HashMap under an RwLock.
    Table {
        /// Rows, one table after the other.
        #[arg(long, value_delimiter = ',', default_values_t = [10_000, 1_000_000])]
        rows: Vec<usize>,
        /// Stints of 24 batches of 256 lookups.
        #[arg(long, default_value_t = 50)]
        rounds: usize,
    },
    /// The choice of a backend, by algorithm.
    Balance {
        /// Batches of 512 choices.
        #[arg(long, default_value_t = 300)]
        rounds: usize,
    },
    /// Maglev tables: build, lookup, and whom they move.
    Maglev,
    /// Bytes a flow, and the start with room for many.
    Memory,
    /// In virtual time: how many connections a second can end before ports or rows run out.
    Ceilings,
    /// Quantiles of a frame's time through the loop at half load.
    Latency,
    /// Two workers against one, and frames that are handed over.
    Workers,
    /// Over DPDK's virtual ports, beside dpdk-testpmd (Debian's package dpdk-dev); built with --features dpdk.
    Testpmd {
        /// Stints of each, 0.2 s long.
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
    /// As root: beside HAProxy and nginx, over virtual pairs in network namespaces of its own.
    Live {
        /// Only what has this in its name.
        #[arg(long)]
        only: Option<String>,
    },
    /// As root: a server that is offered three times what it can take, with limits, without, and behind HAProxy; over virtual pairs in network namespaces
    /// of its own. Needs `cargo build --release -p dispatcher -p tools`.
    Admission {
        /// Only what has this in its name.
        #[arg(long)]
        only: Option<String>,
    },
    /// Nothing anew: tables and charts of what --json has written.
    Tell {
        /// Files, one object a line.
        files: Vec<PathBuf>,
    },
    /// Instructions of each, counted by callgrind (Debian's package valgrind).
    Instructions {
        /// Compare with the counts kept in this file; status 1 when one has grown by more than 3 %.
        #[arg(long)]
        check: Option<PathBuf>,
        /// Write the counts into this file.
        #[arg(long, conflicts_with = "check")]
        keep: Option<PathBuf>,
        /// Only what has this in its name.
        #[arg(long, conflicts_with_all = ["check", "keep"])]
        only: Option<String>,
    },
    /// What `instructions` runs under callgrind.
    #[command(hide = true)]
    Counted { name: String, times: usize },
    /// What `memory` runs in a process of its own.
    #[command(hide = true)]
    Resident { capacity: usize, open: usize },
    /// What `testpmd` runs in processes of their own.
    #[cfg(feature = "dpdk")]
    #[command(hide = true)]
    OverDpdk {
        #[arg(long)]
        core: usize,
        #[arg(long)]
        flows: Option<usize>,
        devices: Vec<String>,
    },
}

/// How much a count may grow, in parts of a hundred.
const GROWTH: u64 = 3;

fn main() -> Result<()> {
    let args = Args::parse();
    let mut report = Report::new(args.json, args.quick);
    match args.what {
        What::All => all(&mut report)?,
        What::Forward { flows, rounds } => forward::run(&small(&flows, &report), report.rounds(rounds), &mut report)?,
        What::Connect { rounds } => connect::run(report.rounds(rounds), &mut report)?,
        What::Syn { rounds } => syn::run(report.rounds(rounds), &mut report)?,
        What::Seal { rounds } => seal::run(report.rounds(rounds), &mut report)?,
        What::Parse { rounds } => parse::run(report.rounds(rounds), &mut report)?,
        What::Table { rows, rounds } => table::run(&small(&rows, &report), report.rounds(rounds), &mut report)?,
        What::Balance { rounds } => balance::run(report.rounds(rounds), &mut report)?,
        What::Maglev => maglev::run(report.rounds(20), &mut report)?,
        What::Memory => memory::run(&mut report)?,
        What::Ceilings => ceilings::run(&mut report)?,
        What::Latency => latency::run(&mut report)?,
        What::Workers => workers::run(report.rounds(30), &mut report)?,
        What::Testpmd { rounds } => testpmd::run(report.rounds(rounds), &mut report)?,
        What::Tell { files } => {
            for file in files {
                let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
                report.take_in(&text).with_context(|| format!("{}", file.display()))?;
            }
        }
        What::Live { only } => live::run("live", only.as_deref(), &mut report)?,
        What::Admission { only } => live::run("admission", only.as_deref(), &mut report)?,
        What::Instructions { check, keep, only } => return count(args.json, check, keep, only),
        What::Counted { name, times } => {
            return match Counted::all().find(|c| c.name() == name) {
                Some(counted) => counted.work(times),
                None => bail!("no work is named {name}"),
            };
        }
        What::Resident { capacity, open } => {
            println!("{}", serde_json::to_string(&memory::in_this_process(capacity, open)?)?);
            return Ok(());
        }
        #[cfg(feature = "dpdk")]
        What::OverDpdk { core, flows, devices } => return over_dpdk::forward(core, flows, &devices),
    }
    report.tell();
    report.tell_left_out();
    args.svg.map_or(Ok(()), |directory| svg::write(report.figures(), &directory))
}

/// Everything that needs no root.
fn all(report: &mut Report) -> Result<()> {
    let (flows, rows) = (small(&[1000, 100_000, 1_000_000, 4_000_000], report), small(&[10_000, 1_000_000], report));
    let quick = report.quick;
    let rounds = |n| if quick { n / 10 } else { n };
    let (hundreds, thousand) = (rounds(300), rounds(1000));
    type Part<'a> = &'a dyn Fn(&mut Report) -> Result<()>;
    let parts: [Part<'_>; 13] = [
        &|r| forward::run(&flows, thousand, r),
        &|r| connect::run(hundreds, r),
        &|r| syn::run(hundreds, r),
        &|r| seal::run(hundreds, r),
        &|r| parse::run(hundreds, r),
        &|r| table::run(&rows, rounds(50), r),
        &|r| balance::run(hundreds, r),
        &|r| maglev::run(hundreds, r),
        &|r| memory::run(r),
        &ceilings::run,
        &latency::run,
        &|r| workers::run(rounds(30), r),
        &|r| testpmd::run(rounds(20), r),
    ];
    for part in parts {
        part(report)?;
        report.tell();
    }
    report.leave_out("live", "it needs root, and some minutes: bench live");
    report.leave_out("admission", "it needs root, and some minutes: bench admission");
    report.leave_out("instructions", "they need valgrind: bench instructions");
    Ok(())
}

/// In a short look: none of the large ones.
fn small(sizes: &[usize], report: &Report) -> Vec<usize> {
    let mut sizes: Vec<usize> = sizes.iter().map(|n| if report.quick { (*n).min(100_000) } else { *n }).collect();
    sizes.dedup();
    sizes
}

fn count(json: bool, check: Option<PathBuf>, keep: Option<PathBuf>, only: Option<String>) -> Result<()> {
    let wanted = |c: &Counted| only.as_ref().is_none_or(|only| c.name().contains(only.as_str()));
    let counts: BTreeMap<String, u64> =
        Counted::all().filter(wanted).map(|c| Ok((c.name(), c.count()?))).collect::<Result<_>>()?;
    if json {
        println!("{}", serde_json::to_string(&counts)?);
    } else {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header(["work", "instructions"]);
        counts.iter().for_each(|(name, n)| _ = table.add_row([name.clone(), n.to_string()]));
        println!("{table}");
    }
    if let Some(file) = keep {
        let text = serde_json::to_string_pretty(&counts)? + "\n";
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    check.map_or(Ok(()), |file| compare(&counts, &file))
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
    for (name, n) in counts {
        if let Some(old) = kept.get(name).filter(|old| *n * 100 < **old * (100 - GROWTH)) {
            eprintln!("{name}: {old} -> {n}: keep it, or it may grow again unseen (instructions --keep)");
        }
    }
    if !grown.is_empty() {
        bail!("more instructions than are kept, by more than {GROWTH} %:\n{}", grown.join("\n"));
    }
    Ok(())
}
