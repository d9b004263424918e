//! Beside what users would pick instead, on virtual pairs in network namespaces of their own: what scripts find.

use crate::figure::{Report, Target};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// A line of the script's.
#[derive(Deserialize)]
struct Line {
    case: String,
    measure: String,
    value: f64,
    unit: String,
    at_most: Option<f64>,
    at_least: Option<f64>,
}

/// Runs `bench/PART.py`, which needs root, and says on the standard error how far it has come.
pub fn run(part: &'static str, only: Option<&str>, report: &mut Report) -> Result<()> {
    let script = format!("{}/{part}.py", env!("CARGO_MANIFEST_DIR"));
    let work = std::env::temp_dir().join(format!("dispatcher-bench-{}", std::process::id()));
    std::fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
    let mut command = Command::new("python3");
    command.args(["-B", &script]).args(report.quick.then_some("--quick")).stdin(Stdio::null()).stdout(Stdio::piped());
    command.env("WORK", &work).env("LAB_PREFIX", format!("bench{}", std::process::id()));
    if let Some(only) = only {
        command.args(["--only", only]);
    }
    let mut child = command.spawn().context("running python3")?;
    let said = child.stdout.take().context("its output")?;
    for line in BufReader::new(said).lines() {
        let line = line.context("reading what it says")?;
        let line: Line = serde_json::from_str(&line).with_context(|| format!("in {line:?}"))?;
        match line.at_most.map(Target::AtMost).or(line.at_least.map(Target::AtLeast)) {
            Some(target) if !report.quick => {
                report.aim((part, &line.case, &line.measure), line.value, line.unit, target);
            }
            _ => report.add(part, &line.case, &line.measure, line.value, line.unit),
        }
    }
    let status = child.wait().context("waiting for it")?;
    std::fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    ensure!(status.success(), "bench/{part}.py failed");
    Ok(())
}
