//! Instructions a frame and a connection, counted by callgrind: the same for the same binary, whatever else the machine does.
//!
//! The program runs itself under callgrind, once for each work twice as long as the other time, and takes the difference: so what happens
//! once, to begin with, does not count.

use crate::connect::Kind;
use crate::forward::{self, Work};
use crate::region::{self, Draw};
use crate::{looped, parse, syn, table};
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// Rows of the tables that lookups are counted in.
const ROWS: usize = 20_000;

/// One work to be counted.
#[derive(Clone, Copy, Debug)]
pub enum Counted {
    /// Frames of a thousand known flows.
    Forward(Work),
    /// The same through the worker's loop.
    Loop,
    /// Whole connections.
    Connect(Kind),
    /// Answers to SYNs with the options of Linux.
    Syn,
    /// From a hello to its identities.
    Parse(parse::Kind),
    /// Lookups of known sessions, or of unknown ones, in a table that is nine tenths full.
    Table { known: bool },
}

impl Counted {
    /// All, in the order of the report.
    pub fn all() -> impl Iterator<Item = Counted> {
        [Work::MacSwap, Work::Engine]
            .into_iter()
            .map(Counted::Forward)
            .chain([Counted::Loop, Counted::Syn, Counted::Table { known: true }, Counted::Table { known: false }])
            .chain(parse::Kind::ALL.into_iter().map(Counted::Parse))
            .chain(Kind::ALL.into_iter().map(Counted::Connect))
    }

    /// Its name in reports and in the file of kept counts.
    pub fn name(self) -> String {
        match self {
            Counted::Forward(Work::Engine) => "forward".into(),
            Counted::Forward(Work::MacSwap) => "mac-swap".into(),
            Counted::Loop => "forward-loop".into(),
            Counted::Connect(kind) => format!("connect-{}", kind.as_str()),
            Counted::Syn => "syn".into(),
            Counted::Parse(kind) => format!("parse-{}", kind.as_str()),
            Counted::Table { known } => format!("table-{}", if known { "hit" } else { "miss" }),
        }
    }

    /// Does `times` as much as the least.
    pub fn work(self, times: usize) -> Result<()> {
        match self {
            Counted::Forward(work) => {
                let mut known = forward::Known::new(1000, forward::SMALL)?;
                (0..times * forward::COUNTED).try_for_each(|_| known.batch(work).map(|_| ()))
            }
            Counted::Loop => {
                let (mut looped, mut crowd) = forward::Known::new(1000, forward::SMALL)?.looped();
                (0..times * looped::COUNTED).try_for_each(|_| looped.turn(&mut crowd).map(|_| ()))
            }
            Counted::Syn => {
                let mut flood = syn::Flood::new()?;
                (0..times * syn::COUNTED).try_for_each(|_| flood.batch(true).map(|_| ()))
            }
            Counted::Parse(kind) => {
                let mut reading = parse::Reading::new(kind);
                (0..times * parse::COUNTED).try_for_each(|_| reading.identities().map(|_| ()))
            }
            Counted::Table { known } => {
                let tables = table::Tables::new(ROWS * 10 / 9, ROWS as u64);
                let mut random = Draw::new(11);
                (0..times * table::COUNTED).try_for_each(|_| {
                    let (identities, _) = table::draw(&mut random, ROWS, known);
                    tables.look(&identities, usize::from(known)).map(|_| ())
                })
            }
            Counted::Connect(kind) => {
                let mut steps = crate::connect::Steps::new(kind)?;
                (0..times * crate::connect::COUNTED).try_for_each(|_| steps.round().map(|_| ()))
            }
        }
    }

    const fn units(self) -> usize {
        match self {
            Counted::Forward(_) => forward::counted_frames(),
            Counted::Loop => looped::counted_frames(),
            Counted::Syn => syn::counted(),
            Counted::Parse(_) => parse::counted(),
            Counted::Table { .. } => table::counted(),
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
