//! What flows take in memory, all included, and how long it takes to have room for many.
//!
//! Each figure is of a process of its own: the program runs itself, so that nothing is counted that something else has left behind.

use crate::figure::{Report, Target, number};
use crate::peers::{Conversation, World};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What a process of its own has found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Found {
    /// Seconds until the engine was there.
    seconds: f64,
    /// Bytes that it took then.
    at_start: u64,
    /// Bytes after the flows were open.
    with_flows: u64,
}

/// Bytes of this process that are in memory.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kb: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")?;
    Ok(kb * 1024)
}

/// In a process of its own: room for `capacity` flows, of which `open` are opened.
pub fn in_this_process(capacity: usize, open: usize) -> Result<Found> {
    let before = resident()?;
    let begun = Instant::now();
    let mut world = World::new(32.max(open / 40_000 + 1), capacity)?;
    let seconds = begun.elapsed().as_secs_f64();
    let at_start = resident()?;
    let mut who = Vec::with_capacity(1024);
    for begin in (0..open).step_by(1024) {
        who.clear();
        who.extend((begin..open.min(begin + 1024)).map(Conversation::new));
        world.open(&mut who);
    }
    ensure!(world.engine.flows() == open, "{} of {open} flows are open", world.engine.flows());
    Ok(Found { seconds, at_start: at_start - before, with_flows: resident()? - before })
}

fn in_another(capacity: usize, open: usize) -> Result<Found> {
    let me = std::env::current_exe().context("finding this program")?;
    let out = Command::new(me)
        .args(["resident", &capacity.to_string(), &open.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("running this program again")?;
    ensure!(out.status.success(), "the process that was to measure {capacity} flows failed");
    serde_json::from_slice(&out.stdout).context("what it said")
}

/// Bytes that this machine can give.
fn available() -> u64 {
    let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = told.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(u64::MAX, |kb| kb * 1024)
}

/// Measures with a million flows, and a start with room for sixteen.
pub fn run(report: &mut Report) -> Result<()> {
    let million = if report.quick { 100_000 } else { 1_000_000 };
    report.begin("memory", 3);
    let case = format!("{} flows", number(million as f64));
    report.step(&case);
    let found = in_another(million, million)?;
    let each = found.with_flows as f64 / million as f64;
    if report.quick {
        report.add("memory", &case, "a flow, all included", each, "bytes");
    } else {
        report.aim(("memory", &case, "a flow, all included"), each, "bytes", Target::AtMost(160.0));
    }
    report.add("memory", &case, "start-up", found.seconds, "s");
    report.add("memory", &case, "resident at the start", found.at_start as f64 / 1e6, "MB");
    report.add("memory", &case, "resident with all flows", found.with_flows as f64 / 1e6, "MB");
    let many = 16 * million;
    let case = format!("room for {} flows", number(many as f64));
    report.step(&case);
    if available() < many as u64 * 700 {
        report.leave_out("memory", format!("{case}: less than {} GB are free", number(many as f64 * 7e-7)));
        return Ok(());
    }
    let mut seconds = vec![];
    let mut at_start = 0;
    for _ in 0..3 {
        let found = in_another(many, 0)?;
        seconds.push(found.seconds);
        at_start = found.at_start;
    }
    let seconds = crate::region::median(seconds);
    if report.quick {
        report.add("memory", &case, "start-up", seconds, "s");
    } else {
        report.aim(("memory", &case, "start-up"), seconds, "s", Target::AtMost(1.0));
    }
    report.add("memory", &case, "resident at the start", at_start as f64 / 1e6, "MB");
    Ok(())
}
