//! Who waits for room at servers with limits, by class, and what became of others.

use super::super::rates::Rates;
use super::super::table::{Cell, Column, Row, Tone};
use super::super::words::{number, rate};
use crate::cli::listing::below;
use crate::control::socket::api::Queue;

pub(super) const COLUMNS: &[Column] = &[
    Column::text("CLASS", 0, 16),
    Column::text("SERVICE", 2, 16),
    Column::text("POOL", 1, 16),
    Column::text("FAMILY", 4, 6),
    Column::number("WAITING", 0),
    Column::number("ADMITTED/S", 1),
    Column::number("P50", 3),
    Column::number("P99", 1),
    Column::number("REFUSED/S", 1),
    Column::number("ADMITTED", 3),
    Column::number("SPILLED", 3),
    Column::number("ABANDONED", 3),
    Column::number("TIMED OUT", 0),
    Column::number("REFUSED", 0),
];

/// The middle of the bucket, for the order.
fn bucket(waits: &[u64], percent: u64) -> Option<f64> {
    let all: u64 = waits.iter().sum();
    let mut sum = 0;
    let reached = |n: &u64| {
        sum += n;
        sum * 100 >= all * percent
    };
    waits.iter().position(reached).filter(|_| all > 0).map(|at| at as f64)
}

pub(super) fn row(q: &Queue, rates: &Rates) -> Row {
    let (admitted, refused) = (rates.queue(q, |q| q.admitted), rates.queue(q, |q| q.refused + q.timed_out));
    let count = |n: u64| Cell::number(number(n as f64), n as f64);
    let bad = |n: u64| count(n).tone(if n > 0 { Tone::Warning } else { Tone::Plain });
    let waited = |percent| Cell::number(below(&q.waits, percent), bucket(&q.waits, percent));
    let growing = if refused.is_some_and(|n| n > 0.0) { Tone::Bad } else { Tone::Plain };
    Row {
        key: [&q.class, &q.service, &q.pool, &q.family].map(String::as_str).join(" "),
        cells: vec![
            Cell::text(&q.class),
            Cell::text(&q.service),
            Cell::text(&q.pool),
            Cell::text(&q.family),
            count(q.waiting as u64).tone(if q.waiting > 0 { Tone::Warning } else { Tone::Plain }),
            Cell::number(rate(admitted), admitted),
            waited(50),
            waited(99),
            Cell::number(rate(refused), refused).tone(growing),
            count(q.admitted),
            count(q.spilled),
            count(q.abandoned),
            bad(q.timed_out),
            bad(q.refused),
        ],
        details: vec![
            ("class", q.class.clone()),
            ("of service", format!("{}, at pool {}, {}", q.service, q.pool, q.family)),
            ("waiting", q.waiting.to_string()),
            ("asked", q.asked.to_string()),
            ("admitted", format!("{}, of whom {} had waited", q.admitted, q.waited)),
            ("waited", format!("half of them {}, 99 of 100 {}", below(&q.waits, 50), below(&q.waits, 99))),
            ("spilled", format!("{}: not at the backend that has their session", q.spilled)),
            ("demoted", format!("{}: in the last class's line, their own being full", q.demoted)),
            ("abandoned", format!("{}: closed or reset while they waited", q.abandoned)),
            ("timed out", format!("{}: waited for as long as their class waits", q.timed_out)),
            ("refused", format!("{}: found no place to wait", q.refused)),
        ],
    }
}
