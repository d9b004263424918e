//! What clients offered to resume, and what came of it, by backend and kind.

use super::super::rates::Rates;
use super::super::table::{Cell, Column, Row, Tone};
use super::super::words::{number, percent, rate};
use crate::control::socket::api::Offered;

pub(super) const COLUMNS: &[Column] = &[
    Column::text("BACKEND", 0, 24),
    Column::text("KIND", 0, 10),
    Column::number("OFFERED", 0),
    Column::number("OFFERED/S", 2),
    Column::number("PROMISED", 1),
    Column::number("ACCEPTED", 0),
    Column::number("REFUSED", 0),
    Column::number("BROKEN", 0),
    Column::number("UNKNOWN", 1),
    Column::number("RESUMED", 0),
];

pub(super) fn row(o: &Offered, rates: &Rates) -> Row {
    let per_second = rates.offered(o);
    let answered = (o.accepted + o.refused) as f64;
    let count = |n: u64| Cell::number(number(n as f64), n as f64);
    let bad = if o.broken > 0 { Tone::Warning } else { Tone::Plain };
    Row {
        key: format!("{} {}", o.backend, o.kind),
        cells: vec![
            Cell::text(&o.backend),
            Cell::text(&o.kind),
            count(o.offered),
            Cell::number(rate(per_second), per_second),
            count(o.promised),
            count(o.accepted),
            count(o.refused),
            count(o.broken).tone(bad),
            count(o.unknown),
            Cell::number(percent(o.accepted as f64, answered), (answered > 0.0).then(|| o.accepted as f64 / answered)),
        ],
        details: vec![
            ("backend", o.backend.clone()),
            ("kind", o.kind.clone()),
            ("offered", format!("{} connections", o.offered)),
            ("promised", format!("{}: the tables had named this backend", o.promised)),
            ("accepted", format!("{}: the backend resumed", o.accepted)),
            ("refused", format!("{}: it did not", o.refused)),
            ("broken", format!("{} of the refused: the tables had said that it could", o.broken)),
            ("unknown", format!("{}: no row knew what was offered", o.unknown)),
        ],
    }
}
