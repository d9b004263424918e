//! What has happened.

use super::super::table::{Cell, Column, Row, Tone};
use super::super::words::clock;
use crate::control::socket::api::Event;

pub(super) const COLUMNS: &[Column] = &[
    Column::number("TIME UTC", 0),
    Column::text("LEVEL", 1, 8),
    Column::text("KIND", 1, 14),
    Column::text("WHAT", 0, 500),
];

pub(super) fn row(e: &Event) -> Row {
    let tone = if e.level == "warning" { Tone::Warning } else { Tone::Plain };
    let when = std::time::UNIX_EPOCH + std::time::Duration::try_from_secs_f64(e.time).unwrap_or_default();
    let mut details = vec![
        ("number", e.number.to_string()),
        ("time", humantime::format_rfc3339_millis(when).to_string()),
        ("level", e.level.clone()),
        ("kind", e.kind.clone()),
        ("what", e.text.clone()),
    ];
    details.extend(e.fields.iter().map(|(name, value)| ("particular", format!("{name} = {value}"))));
    Row {
        key: e.number.to_string(),
        cells: vec![
            Cell::number(clock(e.time), e.number as f64),
            Cell::text(&e.level).tone(tone),
            Cell::text(&e.kind),
            Cell::text(&e.text),
        ],
        details,
    }
}
