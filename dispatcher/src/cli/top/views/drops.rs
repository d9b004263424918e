//! Frames that came to nothing, by reason.

use super::super::rates::Rates;
use super::super::table::{Cell, Column, Row, Tone};
use super::super::words::{number, rate};
use crate::control::socket::api::Drop;
use crate::counters::DropReason;

pub(super) const COLUMNS: &[Column] = &[
    Column::text("REASON", 0, 26),
    Column::number("FRAMES/S", 0),
    Column::number("FRAMES", 0),
    Column::number("ANSWERED", 2),
    Column::text("MEANING", 1, 200),
];

pub(super) fn row(d: &Drop, rates: &Rates) -> Row {
    let per_second = rates.drop(d);
    let growing = if per_second.is_some_and(|n| n > 0.0) { Tone::Warning } else { Tone::Plain };
    let meaning = DropReason::ALL.iter().find(|why| why.as_str() == d.reason).map_or("", |why| why.meaning());
    // Code quotes are for documents.
    let meaning = meaning.replace('`', "");
    Row {
        key: d.reason.clone(),
        cells: vec![
            Cell::text(&d.reason),
            Cell::number(rate(per_second), per_second).tone(growing),
            Cell::number(number(d.frames as f64), d.frames as f64),
            Cell::number(number(d.answered as f64), d.answered as f64),
            Cell::text(&meaning),
        ],
        details: vec![
            ("reason", d.reason.clone()),
            ("meaning", meaning),
            ("frames", format!("{} dropped, {} answered by a reset instead", d.frames, d.answered)),
        ],
    }
}
