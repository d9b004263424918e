//! Servers: as they are wanted, as operators want them, and as they are seen.

use super::super::rates::{Rates, of_backend};
use super::super::table::{Cell, Column, Row, Tone};
use super::super::words::{NOTHING, number, percent, rate, time};
use crate::cli::listing;
use crate::control::socket::api::{Backend, Override, Slots};

pub(super) const COLUMNS: &[Column] = &[
    Column::text("BACKEND", 0, 24),
    Column::text("STATE", 0, 8),
    Column::number("FLOWS", 0),
    Column::number("CONN/S", 1),
    Column::number("RESUMED", 1),
    Column::number("SLOTS", 3),
    Column::number("BYTES IN/S", 4),
    Column::number("BYTES OUT/S", 4),
    Column::text("ADDRESS", 5, 40),
    Column::text("WHY", 1, 200),
];

fn tone(state: &str) -> Tone {
    match state {
        "up" => Tone::Good,
        "down" => Tone::Bad,
        _ => Tone::Warning,
    }
}

/// Who said what, when, for how long and why.
pub(super) fn said(o: &Override) -> String {
    format!("{} ({})", o.what, listing::terms(o))
}

/// Why it is not simply up: whose word that is, since when, until when. What the agent says that has no part in it comes last.
fn why(b: &Backend) -> String {
    let (h, o) = (&b.holds, &b.observed);
    let seen = matches!(h.by.as_deref(), Some("check" | "passive"));
    let said = match (&h.by, &h.why) {
        (Some(by), Some(why)) if why.starts_with(by.as_str()) => Some(why.clone()),
        (Some(by), Some(why)) => Some(format!("{by}: {why}")),
        (by, why) => by.as_ref().or(why.as_ref()).cloned(),
    };
    let since = o.since.filter(|_| seen).map(|since| format!("for {}", time(since)));
    let until = h.until.map(|until| format!("for {} more", time(until)));
    let agent = o.agent.as_ref().filter(|a| h.by.as_deref() != Some("agent") && (a.failed.is_some() || a.says != "up"));
    let agent = agent.map(|a| format!("agent: {}", a.failed.as_ref().unwrap_or(&a.says)));
    [said, since, until, agent].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn slots(slots: &Option<Slots>) -> Cell {
    let Some(s) = slots else { return Cell::number(NOTHING, None) };
    let part = |used: u32, most: Option<u32>| most.map(|most| (used, most));
    let all = [part(s.connections, s.max_connections), part(s.handshakes, s.max_handshakes)];
    // The one that is nearer to its end is what there is room by.
    let fullness = |(used, most): &(u32, u32)| f64::from(*used) / f64::from((*most).max(1));
    match all.into_iter().flatten().max_by(|a, b| fullness(a).total_cmp(&fullness(b))) {
        None => Cell::number(NOTHING, None),
        Some(one) => {
            let tone = if one.0 >= one.1 { Tone::Warning } else { Tone::Plain };
            Cell::number(format!("{}/{}", one.0, one.1), fullness(&one)).tone(tone)
        }
    }
}

pub(super) fn row(b: &Backend, rates: &Rates) -> Row {
    let (o, state) = (&b.observed, b.holds.state.as_str());
    let (resumed, known) = (o.resumed as f64, (o.resumed + o.new_sessions) as f64);
    let [ended, to_server, to_client] = [
        rates.backend(b, |b| b.observed.connections),
        rates.backend(b, |b| b.observed.bytes_to_server),
        rates.backend(b, |b| b.observed.bytes_to_client),
    ];
    Row {
        key: of_backend(b),
        cells: vec![
            Cell::text(&b.name),
            Cell::text(state).tone(tone(state)),
            Cell::number(number(o.flows.into()), f64::from(o.flows)),
            Cell::number(rate(ended), ended),
            Cell::number(percent(resumed, known), (known > 0.0).then(|| resumed / known)),
            slots(&o.slots),
            Cell::number(rate(to_server), to_server),
            Cell::number(rate(to_client), to_client),
            Cell::text(b.address.to_string()),
            Cell::text(why(b)),
        ],
        details: details(b),
    }
}

fn details(b: &Backend) -> Vec<(&'static str, String)> {
    let o = &b.observed;
    let mut all = vec![
        ("address", b.address.to_string()),
        ("holds", format!("{} {}", b.holds.state, why(b)).trim_end().to_string()),
        ("in force", listing::in_force(b)),
        ("wanted", listing::wanted(&b.wanted, "not in the file")),
        ("observed", listing::health(o)),
    ];
    all.extend(b.overrides.iter().map(|o| ("override", said(o))));
    if let Some(c) = &o.check {
        let took = c.took.map_or(String::new(), |took| format!(", the last one took {}", time(took)));
        let why = c.why.as_ref().map_or(String::new(), |why| format!("; {why}"));
        let said = format!("{} for {}; {} passed, {} failed{took}{why}", c.state, time(c.since), c.passed, c.failed);
        all.push(("check", format!("{}: {said}", c.kind)));
    }
    if let Some(a) = &o.agent {
        let failed = a.failed.as_ref().map_or(String::new(), |why| format!("; not heard of: {why}"));
        all.push(("agent", format!("{}, for {}{failed}", a.says, time(a.since))));
    }
    if let Some(k) = &o.keys {
        let names = if k.names.is_empty() { String::new() } else { format!(": {}", k.names.join(" ")) };
        let why = k.failed.as_ref().map_or(String::new(), |why| format!("; {why}"));
        all.push(("ticket keys", format!("{}{names}{why}", k.state)));
    }
    if o.slots.is_some() {
        all.push(("slots", listing::slots(o)));
    }
    let weights = b.in_force.iter().flat_map(|wanted| &wanted.weights);
    let pools: Vec<String> = weights.map(|w| format!("{} (weight {})", w.pool, w.weight)).collect();
    if !pools.is_empty() {
        all.push(("pools", pools.join(", ")));
    }
    all.push(("connections", format!("{} flows, {} ended", o.flows, o.connections)));
    all.push(("sessions", format!("{} resumed, {} new", o.resumed, o.new_sessions)));
    all.push(("bytes", format!("{} to the server, {} to clients", o.bytes_to_server, o.bytes_to_client)));
    if o.up.iter().any(|up| *up != o.up[0]) {
        let workers = o.up.iter().enumerate().map(|(n, up)| format!("{n} {}", if *up { "up" } else { "down" }));
        all.push(("by worker", workers.collect::<Vec<_>>().join(", ")));
    }
    all
}
