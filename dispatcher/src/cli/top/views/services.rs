//! Where clients connect to, and how their server is chosen.

use super::super::table::{Cell, Column, Row, Tone};
use super::super::words::number;
use super::backends::said;
use crate::control::socket::api::Service;

pub(super) const COLUMNS: &[Column] = &[
    Column::text("SERVICE", 0, 24),
    Column::number("UP", 0),
    Column::number("FLOWS", 0),
    Column::text("BALANCE", 3, 12),
    Column::text("AFFINITY", 3, 8),
    Column::text("POOLS", 4, 30),
    Column::text("OVERRIDES", 2, 9),
    Column::text("LISTEN", 1, 200),
];

pub(super) fn row(s: &Service) -> Row {
    let (up, all) = (s.observed.up, s.backends.len());
    let tone = match up {
        0 if all > 0 => Tone::Bad,
        _ if up < all => Tone::Warning,
        _ => Tone::Good,
    };
    let listen = s.listen.iter().map(|at| at.to_string()).collect::<Vec<_>>().join(" ");
    let yes = |truth: bool| if truth { "on" } else { "off" };
    let overridden = if s.overrides.is_empty() { "-".to_string() } else { s.overrides.len().to_string() };
    let mut details = vec![
        ("listens at", listen.clone()),
        ("backends", format!("{up} of {all} up, {} down: {}", s.observed.down, s.backends.join(" "))),
        ("flows", s.observed.flows.to_string()),
        ("pools", s.pools.join(" ")),
        ("balance", s.balance.clone()),
        ("affinity", s.cookie.as_ref().map_or_else(|| yes(s.affinity).into(), |name| format!("on, cookie {name}"))),
        ("PROXY protocol", (if s.proxy_protocol { "v2" } else { "off" }).into()),
    ];
    details.extend(s.overrides.iter().map(|o| ("override", said(o))));
    Row {
        key: s.name.clone(),
        cells: vec![
            Cell::text(&s.name),
            Cell::number(format!("{up} of {all}"), up as f64).tone(tone),
            Cell::number(number(s.observed.flows as f64), s.observed.flows as f64),
            Cell::text(&s.balance),
            Cell::text(yes(s.affinity)),
            Cell::text(s.pools.join(" ")),
            Cell::number(overridden, s.overrides.len() as f64),
            Cell::text(listen),
        ],
        details,
    }
}
