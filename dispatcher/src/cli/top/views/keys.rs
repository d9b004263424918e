//! Ticket keys that servers are known by, and whether several share one.

use super::super::table::{Cell, Column, Row};
use super::super::words::time;
use crate::control::socket::api::Backend;
use std::collections::BTreeMap;

pub(super) const COLUMNS: &[Column] = &[
    Column::text("KEY NAME", 0, 32),
    Column::text("SHARED", 1, 6),
    Column::number("KNOWN FOR", 1),
    Column::text("BACKENDS", 0, 200),
];

pub(super) fn rows(backends: &[Backend]) -> Vec<Row> {
    let mut keys: BTreeMap<&str, (f64, Vec<&str>)> = BTreeMap::new();
    for b in backends {
        let Some(told) = &b.observed.keys else { continue };
        for (name, age) in told.names.iter().zip(&told.ages) {
            let (oldest, owners) = keys.entry(name).or_default();
            *oldest = oldest.max(*age);
            owners.push(&b.name);
        }
    }
    keys.into_iter().map(|(name, (age, owners))| row(name, age, &owners)).collect()
}

fn row(name: &str, age: f64, owners: &[&str]) -> Row {
    let shared = if owners.len() > 1 { "yes" } else { "no" };
    let owners = owners.join(" ");
    Row {
        key: name.to_string(),
        cells: vec![Cell::text(name), Cell::text(shared), Cell::number(time(age), age), Cell::text(&owners)],
        details: vec![
            ("key name", name.to_string()),
            ("known for", time(age)),
            ("backends", owners),
            ("shared", format!("{shared}: each backend that has a key resumes the sessions of the others that do")),
        ],
    }
}
