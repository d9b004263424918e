//! Instructions a frame and a connection, counted by callgrind: the same for the same binary, whatever else the machine does.
//!
//! The program runs itself under callgrind, once for each work twice as long as the other time, and takes the difference: so what happens
//! once, to begin with, does not count.

use crate::connect::Kind;
use crate::forward::Work;
use crate::region;
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// One work to be counted.
#[derive(Clone, Copy, Debug)]
pub enum Counted {
    /// Frames of a thousand known flows.
    Forward(Work),
    /// Whole connections.
    Connect(Kind),
}

impl Counted {
    /// All, in the order of the report.
    pub fn all() -> impl Iterator<Item = Counted> {
        [Work::MacSwap, Work::Engine]
            .into_iter()
            .map(Counted::Forward)
            .chain(Kind::ALL.into_iter().map(Counted::Connect))
    }

    /// Its name in reports and in the file of kept counts.
    pub fn name(self) -> String {
        match self {
            Counted::Forward(Work::Engine) => "forward".into(),
            Counted::Forward(Work::MacSwap) => "mac-swap".into(),
            Counted::Connect(kind) => format!("connect-{}", kind.as_str()),
        }
    }

    /// Does `times` as much as the least.
    pub fn work(self, times: usize) -> Result<()> {
        match self {
            Counted::Forward(work) => {
                let mut known = crate::forward::Known::new(1000)?;
                (0..times * crate::forward::COUNTED).try_for_each(|_| known.batch(work).map(|_| ()))
            }
            Counted::Connect(kind) => {
                let mut steps = crate::connect::Steps::new(kind)?;
                (0..times * crate::connect::COUNTED).try_for_each(|_| steps.round().map(|_| ()))
            }
        }
    }

    const fn units(self) -> usize {
        match self {
            Counted::Forward(_) => crate::forward::counted_frames(),
            Counted::Connect(_) => crate::connect::COUNTED * crate::peers::BURST,
        }
    }

    /// Instructions for one frame or connection.
    pub fn count(self) -> Result<u64> {
        let (once, twice) = (self.under_callgrind(1)?, self.under_callgrind(2)?);
        Ok((twice - once) / self.units() as u64)
    }

    fn under_callgrind(self, times: usize) -> Result<u64> {
        let me = std::env::current_exe().context("finding this program")?;
        let out = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(format!("--toggle-collect={}", region::PATTERN))
            .arg(me)
            .args(["counted", &self.name(), &times.to_string()])
            .stdin(Stdio::null())
            .output()
            .context("running valgrind (Debian's package valgrind)")?;
        let said = String::from_utf8_lossy(&out.stderr);
        let collected = said.lines().find_map(|line| line.split("Collected :").nth(1)).map(str::trim);
        match collected.and_then(|n| n.split_whitespace().next()).and_then(|n| n.parse().ok()) {
            Some(n) if out.status.success() && n > 0 => Ok(n),
            _ => bail!("callgrind counted nothing for {}:\n{said}", self.name()),
        }
    }
}
