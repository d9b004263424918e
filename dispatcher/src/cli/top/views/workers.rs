//! Threads that move frames.

use super::super::rates::Rates;
use super::super::table::{Cell, Column, Row, Tone};
use super::super::words::{number, percent, rate, time};
use crate::control::socket::api::Worker;

pub(super) const COLUMNS: &[Column] = &[
    Column::number("WORKER", 0),
    Column::text("STATE", 0, 8),
    Column::number("FLOWS", 0),
    Column::number("CONN/S", 0),
    Column::number("FRAMES IN/S", 0),
    Column::number("OUT/S", 0),
    Column::number("BUSY", 0),
    Column::number("HANDED/S", 2),
    Column::number("LONGEST TURN", 1),
    Column::number("CHANGES P99", 3),
];

pub(super) fn row(w: &Worker, rates: &Rates) -> Row {
    let per_second = |count: fn(&Worker) -> u64| {
        let n = rates.worker(w, count);
        Cell::number(rate(n), n)
    };
    let (busy, turns) = rates.turns(w);
    let (state, tone) = if w.running { ("running", Tone::Good) } else { ("ended", Tone::Bad) };
    let p = &w.pauses;
    Row {
        key: w.worker.to_string(),
        cells: vec![
            Cell::number(w.worker.to_string(), w.worker as f64),
            Cell::text(state).tone(tone),
            Cell::number(number(w.flows as f64), w.flows as f64),
            per_second(|w| w.connections),
            per_second(|w| w.frames_in),
            per_second(|w| w.frames_out),
            Cell::number(percent(busy, turns), (turns > 0.0).then(|| busy / turns)),
            per_second(|w| w.handed_over),
            Cell::number(time(p.turn_longest), p.turn_longest),
            Cell::number(time(p.change_p99), p.change_p99),
        ],
        details: vec![
            ("worker", format!("{}, {state}", w.worker)),
            ("flows", format!("{}; {} connections ended", w.flows, w.connections)),
            ("frames", format!("{} in, {} out", w.frames_in, w.frames_out)),
            ("handed over", format!("{} to others, {} by others", w.handed_over, w.received)),
            ("turns", format!("{} that found frames, {} that found none", w.busy_turns, w.idle_turns)),
            ("longest turn", time(p.turn_longest)),
            (
                "changes",
                format!(
                    "{}; half took {} at most, 99 of 100 {}, the longest {}",
                    p.changes,
                    time(p.change_median),
                    time(p.change_p99),
                    time(p.change_longest)
                ),
            ),
        ],
    }
}
