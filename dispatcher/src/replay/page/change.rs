//! What a change of services and backends would do.

use super::super::against::{Comparison, Move, Session};
use super::super::over_time::OverTime;
use super::super::reenact::recording::Skip;
use super::super::unread::Unread;
use super::{WORDS, about, names};
use crate::html::document::{Cell, Document};
use crate::html::{number, percent};
use std::path::PathBuf;

/// Connections that meet another server, listed.
const LISTED: usize = 50;

/// The whole document. `failed`: why no more could be read.
pub fn html(files: &[PathBuf], found: &Comparison, unread: &Unread, failed: Option<&str>) -> String {
    let about =
        about("what recorded clients would meet if they came again after the change", &OverTime::<1>::default());
    let mut d = Document::new(&format!("A change, over {}", names(files)), &about, WORDS);
    let t = &found.total;
    let of = |n: u64, whole: u64, what: &str| format!("{} of {what}", percent(n, whole));
    d.cards(&[
        ("Connections", number(t.connections), format!("{} to other addresses left out", number(found.elsewhere))),
        ("Same server", number(t.same()), of(t.same(), t.connections, "all")),
        ("Another server", number(t.another), of(t.another, t.connections, "all")),
        ("No server", number(t.none), format!("{} newly served", number(t.served))),
        ("Known sessions", number(t.known), format!("{} resume elsewhere", number(t.kept))),
        ("Lost", number(t.lost), of(t.lost, t.known, "known sessions")),
    ]);
    let mut notes: Vec<String> = failed.iter().map(|why| format!("No more could be read: {why}")).collect();
    notes.extend(unread.complaint().map(|left_out| left_out.to_string()));
    for (why, n) in Skip::ALL.iter().zip(found.skipped).filter(|(_, n)| *n > 0) {
        notes.push(format!("{} connections were left out: {}", number(n), why.meaning()));
    }
    notes.extend(found.notes.iter().cloned());
    d.notes("What you should know", &notes);
    let row = |((service, pool), t): (&(String, String), &super::super::against::Tally)| {
        let numbers = [t.connections, t.same(), t.another, t.none, t.known, t.lost].map(Cell::Number);
        let rest = [Cell::Share(t.another + t.none, t.connections)];
        [Cell::text(service), Cell::text(pool)].into_iter().chain(numbers).chain(rest).collect::<Vec<_>>()
    };
    let heads = [
        "Service",
        "Pool",
        "Connections",
        "Same server",
        "Another server",
        "No server",
        "Known sessions",
        "Lost",
        "Elsewhere",
    ];
    d.table("By service and pool", &heads, &found.pools.iter().map(row).collect::<Vec<_>>(), "");
    // Those that lose something first.
    let loses = |m: &&Move| m.session == Some(Session::Lost) || m.after.is_none();
    let (worse, others): (Vec<&Move>, Vec<&Move>) = found.moves.iter().partition(loses);
    let name = |backend: &Option<String>| Cell::text(backend.as_deref().unwrap_or("none"));
    let row = |m: &&Move| {
        vec![
            Cell::text(m.client),
            Cell::text(m.vip),
            Cell::text(m.sni.as_deref().unwrap_or("–")),
            name(&m.before),
            name(&m.after),
            Cell::text(m.session.map_or("–", Session::as_str)),
        ]
    };
    let rows: Vec<Vec<Cell>> = worse.iter().chain(&others).take(LISTED).map(row).collect();
    let more = match found.moves.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!("and {more} more; --json names all"),
    };
    d.table(
        "Connections that meet another server",
        &["Client", "To", "SNI", "Before", "After", "Session"],
        &rows,
        &more,
    );
    d.finish()
}
