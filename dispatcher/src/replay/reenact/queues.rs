//! Who would have waited, and how long: connections by the class in which they asked for room at a backend.

use super::wire::Ended;
use crate::tcp::End;
use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;

/// Longest wait that is told apart, milliseconds.
const LONGEST: u64 = 3_600_000;

/// Connections of one class.
#[derive(Clone, Debug)]
struct Class {
    connections: u64,
    spilled: u64,
    abandoned: u64,
    timed_out: u64,
    refused: u64,
    /// Milliseconds, of all of them: most are zero where there is room.
    waits: Histogram<u64>,
}

/// The same for programs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Told {
    /// That asked for room.
    pub connections: u64,
    /// Of these: had to wait, for a millisecond at least.
    pub waited: u64,
    /// Went to another backend than the one that had their session.
    pub spilled: u64,
    /// Closed or reset while they waited.
    pub abandoned: u64,
    /// Waited in vain.
    pub timed_out: u64,
    /// Found no place to wait.
    pub refused: u64,
    /// Half of all waited no longer, milliseconds.
    pub p50_ms: u64,
    /// 99 of 100.
    pub p99_ms: u64,
    /// Nobody.
    pub longest_ms: u64,
}

/// All classes, by name.
#[derive(Clone, Debug, Default)]
pub struct Queues(BTreeMap<String, Class>);

impl Queues {
    /// A connection is over.
    pub fn connection(&mut self, ended: &Ended) {
        let Some(name) = &ended.queue_class else { return };
        if !self.0.contains_key(&**name) {
            // Its bounds are right.
            let Ok(waits) = Histogram::new_with_bounds(1, LONGEST, 2) else { return };
            let class = Class { connections: 0, spilled: 0, abandoned: 0, timed_out: 0, refused: 0, waits };
            self.0.insert(name.to_string(), class);
        }
        let Some(class) = self.0.get_mut(&**name) else { return };
        class.connections += 1;
        class.spilled += u64::from(ended.spilled);
        class.abandoned += u64::from(ended.end == End::QueueAbandoned);
        class.timed_out += u64::from(ended.end == End::QueueTimeout);
        class.refused += u64::from(ended.end == End::QueueFull);
        class.waits.saturating_record(u64::from(ended.waited_ms));
    }

    /// For programs, by name of class. Empty where no backend has a limit.
    pub fn told(&self) -> BTreeMap<&str, Told> {
        let told = |class: &Class| Told {
            connections: class.connections,
            waited: class.connections - class.waits.count_at(0),
            spilled: class.spilled,
            abandoned: class.abandoned,
            timed_out: class.timed_out,
            refused: class.refused,
            p50_ms: class.waits.value_at_quantile(0.5),
            p99_ms: class.waits.value_at_quantile(0.99),
            longest_ms: class.waits.max(),
        };
        self.0.iter().map(|(name, class)| (name.as_str(), told(class))).collect()
    }

    /// For people; none where no backend has a limit.
    pub fn table(&self) -> Option<Table> {
        if self.0.is_empty() {
            return None;
        }
        let heads =
            ["CLASS", "CONNECTIONS", "WAITED", "P50", "P99", "LONGEST", "SPILLED", "ABANDONED", "TIMED OUT", "REFUSED"];
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(heads);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for (name, t) in self.told() {
            let times = [t.p50_ms, t.p99_ms, t.longest_ms].map(|ms| format!("{ms} ms"));
            let counts = [t.spilled, t.abandoned, t.timed_out, t.refused].map(|n| n.to_string());
            let first = [name.to_string(), t.connections.to_string(), t.waited.to_string()];
            table.add_row(first.into_iter().chain(times).chain(counts));
        }
        Some(table)
    }
}
