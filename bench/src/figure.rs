//! What was measured, in one form for all parts: one figure a line, as a table for people and as JSON for programs.

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What a figure is to reach, or not to exceed.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Target {
    /// Whether this value does.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Target::AtMost(most) => value <= most,
            Target::AtLeast(least) => value >= least,
        }
    }
}

/// One figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// Which part of the benchmarks it is of: `forward`, `connect`...
    pub part: Cow<'static, str>,
    /// Under which circumstances.
    pub case: String,
    /// What was measured, or what it is measured against.
    pub measure: String,
    /// How much: a median, where it was measured more than once.
    pub value: f64,
    /// Of what.
    pub unit: Cow<'static, str>,
    /// What it is to reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Whether it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
}

/// Where figures go: to the standard output, as soon as a part has them, and beside it they are kept.
pub struct Report {
    json: bool,
    /// For a short look: a tenth of the rounds, small tables.
    pub quick: bool,
    told: usize,
    figures: Vec<Figure>,
    /// What could not be measured, and why.
    left_out: Vec<(&'static str, String)>,
    bar: ProgressBar,
}

impl Report {
    /// Without any figures.
    pub fn new(json: bool, quick: bool) -> Report {
        Report { json, quick, told: 0, figures: vec![], left_out: vec![], bar: ProgressBar::hidden() }
    }

    /// So many rounds, or a tenth of them.
    pub fn rounds(&self, n: usize) -> usize {
        if self.quick { n.div_ceil(10) } else { n }
    }

    /// A figure that nothing is asked of.
    pub fn add(
        &mut self,
        part: &'static str,
        case: &str,
        measure: &str,
        value: f64,
        unit: impl Into<Cow<'static, str>>,
    ) {
        self.push(part, case, measure, value, unit.into(), None);
    }

    /// A figure that has something to reach. In a short look tables are too small for that to mean anything.
    pub fn aim(
        &mut self,
        (part, case, measure): (&'static str, &str, &str),
        value: f64,
        unit: impl Into<Cow<'static, str>>,
        target: Target,
    ) {
        self.push(part, case, measure, value, unit.into(), Some(target));
    }

    fn push(
        &mut self,
        part: &'static str,
        case: &str,
        measure: &str,
        value: f64,
        unit: Cow<'static, str>,
        target: Option<Target>,
    ) {
        let met = target.map(|t| t.is_met(value));
        self.figures.push(Figure {
            part: part.into(),
            case: case.into(),
            measure: measure.into(),
            value,
            unit,
            target,
            met,
        });
    }

    /// A part, or something of it, that cannot be measured here.
    pub fn leave_out(&mut self, part: &'static str, why: impl Into<String>) {
        let why = why.into();
        self.left_out.push((part, why));
    }

    /// A part begins, that takes a while: so many steps.
    pub fn begin(&mut self, part: &'static str, steps: usize) {
        self.bar.finish_and_clear();
        // Hidden of itself where the standard error is no terminal.
        self.bar = ProgressBar::new(steps as u64);
        let style = ProgressStyle::with_template("{prefix:10} {wide_bar} {pos}/{len} {msg}");
        self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.bar.set_prefix(part);
    }

    /// One step is done, and this one begins.
    pub fn step(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.inc(1);
    }

    /// A part is over: says what is new.
    pub fn tell(&mut self) {
        self.bar.finish_and_clear();
        let new = &self.figures[self.told..];
        if self.json {
            for figure in new {
                // Strings and numbers: always JSON.
                println!("{}", serde_json::to_string(figure).unwrap_or_default());
            }
        } else if !new.is_empty() {
            println!("{}\n", table(new));
        }
        self.told = self.figures.len();
    }

    /// Takes in what another run has written as JSON.
    pub fn take_in(&mut self, lines: &str) -> Result<()> {
        for line in lines.lines() {
            self.figures.push(serde_json::from_str(line).with_context(|| format!("in {line:?}"))?);
        }
        Ok(())
    }

    /// All of them.
    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }

    /// Says once more, at the end, what could not be measured.
    pub fn tell_left_out(&self) {
        self.left_out.iter().for_each(|(part, why)| eprintln!("left out: {part}: {why}"));
    }
}

fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["part", "case", "measured", "value", "unit", "target", ""]);
    let mut above = ("", "");
    for f in figures {
        let here = (&*f.part, f.case.as_str());
        let (part, case) = (if above.0 == here.0 { "" } else { here.0 }, if above == here { "" } else { here.1 });
        above = here;
        let target = match f.target {
            Some(Target::AtMost(most)) => format!("<= {}", number(most)),
            Some(Target::AtLeast(least)) => format!(">= {}", number(least)),
            None => String::new(),
        };
        let met = f.met.map_or("", |met| if met { "met" } else { "MISSED" });
        table.add_row([part, case, &f.measure, &number(f.value), &f.unit, &target, met]);
    }
    for column in [3, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// As many digits as mean something; thousands apart.
pub fn number(x: f64) -> String {
    let n = x.abs();
    if n < 100.0 && n.fract() != 0.0 {
        return match n {
            n if n >= 10.0 => format!("{x:.1}"),
            n if n >= 0.1 => format!("{x:.2}"),
            _ => format!("{x:.4}"),
        };
    }
    let digits = format!("{n:.0}");
    let mut out = String::from(if x < 0.0 { "-" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        for (x, said) in [
            (0.0, "0"),
            (10.0, "10"),
            (1_234_567.8, "1,234,568"),
            (-4232.0, "-4,232"),
            (100.4, "100"),
            (12.34, "12.3"),
            (0.5, "0.50"),
        ] {
            assert_eq!(number(x), said);
        }
    }

    #[test]
    fn a_target_is_met_at_its_edge_and_not_beyond() {
        assert!(Target::AtMost(2.0).is_met(2.0) && !Target::AtMost(2.0).is_met(2.1));
        assert!(Target::AtLeast(2.0).is_met(2.0) && !Target::AtLeast(2.0).is_met(1.9));
    }
}
