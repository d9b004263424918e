//! Connections that went where they were recorded going.

use super::super::over_time::OverTime;
use super::super::recorded::{RecordedConnection, Totals};
use super::super::report::drops;
use super::super::warnings::NotFollowed;
use super::{KINDS, WORDS, about, backends, frames, kind, names, plot, ruled};
use crate::engine::Class;
use crate::html::document::{Cell, Document};
use crate::html::{number, percent};
use lb::affinity::Census;
use lb::{IdentityKind, Reason};
use std::path::PathBuf;

/// How it went over time.
#[derive(Clone, Debug, Default)]
pub struct Course {
    kinds: OverTime<6>,
    verdicts: OverTime<6>,
}

impl Course {
    /// A connection has ended. It counts at its beginning.
    pub fn connection(&mut self, record: &RecordedConnection) {
        let at = record.connection.first.unix_nanos;
        // As it is counted in the table of identities.
        let offered = record.reason.map(Reason::kind).or(record.offered.first().copied());
        let offered = offered.filter(|_| record.prediction.is_some()).map(IdentityKind::as_str);
        self.kinds.count(at, kind(record.class == Class::Secure, offered));
        if let Some(verdict) = record.prediction {
            self.verdicts.count(at, verdict as usize);
        }
    }
}

const VERDICTS: [(&str, u8); 6] =
    [("Right", 2), ("Wrong", 4), ("Rescued", 0), ("Stale", 1), ("Unknown", 5), ("Unanswered", 3)];

/// The whole document. `failed`: why no more could be read.
pub fn html(files: &[PathBuf], totals: &Totals, census: &Census, course: &Course, failed: Option<&str>) -> String {
    let what = format!("{} frames, as they were recorded", number(totals.frames_in));
    let mut d = Document::new(&format!("Replay of {}", names(files)), &about(&what, &course.kinds), WORDS);
    let [right, wrong, rescued, stale, unknown, _] = totals.predictions;
    let of = |n: u64, whole: u64, what: &str| format!("{} of {what}", percent(n, whole));
    let all = totals.connections;
    d.cards(&[
        ("Connections", number(all), format!("{} TLS, {} not", number(totals.secure), number(all - totals.secure))),
        ("Offered", number(totals.offered), of(totals.offered, totals.secure, "TLS")),
        ("Resumed", number(totals.resumed), of(totals.resumed, totals.offered, "offered")),
        (
            "Right",
            number(right),
            format!("{} wrong, {} stale, {} unknown", number(wrong), number(stale), number(unknown)),
        ),
        ("Rescued", number(rescued), "would have been led right".into()),
        ("Whole", number(totals.intact), of(totals.intact, all, "all")),
    ]);
    let mut notes: Vec<String> = failed.iter().map(|why| format!("No more could be read: {why}")).collect();
    if !totals.unread.counts().is_empty() {
        notes.push(format!("Frames without TCP or UDP: {}", crate::replay::unread::listed(totals.unread.counts())));
    }
    notes.extend(totals.unread.complaint().map(|left_out| left_out.to_string()));
    if totals.beyond > 0 {
        let most = lb::MAX_BACKENDS;
        notes.push(format!("{} connections went to servers beyond the first {most}: not followed", totals.beyond));
    }
    d.notes("What you should know", &notes);
    plot(&mut d, "Sessions by kind over time", &KINDS, &course.kinds);
    plot(&mut d, "Verdicts over time", &VERDICTS, &course.verdicts);
    let row = |name: &str, counts: &[u64; 6]| {
        let first = [Cell::text(name), Cell::Number(counts.iter().sum())];
        first.into_iter().chain(counts.map(Cell::Number)).collect::<Vec<_>>()
    };
    let mut rows: Vec<Vec<Cell>> = IdentityKind::ALL
        .iter()
        .map(|kind| (kind, &totals.by_kind[*kind as usize]))
        .filter(|(_, counts)| counts.iter().any(|n| *n > 0))
        .map(|(kind, counts)| row(kind.as_str(), counts))
        .collect();
    if !rows.is_empty() {
        rows.push(row("all", &totals.predictions));
    }
    let heads: Vec<&str> = ["Identity", "Offered"].into_iter().chain(VERDICTS.map(|(name, _)| name)).collect();
    d.table("Sessions offered, and what the table knew of them", &heads, &rows, "");
    let servers = totals.servers.iter().map(|(s, c)| (s.to_string(), [c.connections, c.secure, c.resumed, c.full]));
    backends(&mut d, all, &servers.collect::<Vec<_>>());
    let held = [
        ("session IDs", census.session_ids),
        ("tickets", census.tickets),
        ("cookies", census.cookies),
        ("names of ticket keys", census.key_names),
        ("of these, shared by several backends", census.shared_key_names),
        ("prefixes seen once, which may be names of keys", census.candidates),
        ("names of keys that were refused", census.refusals),
    ];
    let rows: Vec<Vec<Cell>> = held.iter().map(|(what, n)| vec![Cell::text(what), Cell::Number(*n as u64)]).collect();
    d.table("What the table holds at the end", &["What", "Rows"], &rows, "");
    let rules = NotFollowed::ALL.iter().map(|why| (why.as_str(), why.meaning())).zip(totals.not_followed);
    let first: Vec<_> = totals.examples.iter().map(|(client, server, why)| (*client, *server, why.as_str())).collect();
    ruled(&mut d, "Connections that were not followed, or not to their end", &rules.collect::<Vec<_>>(), &first);
    frames(&mut d, "Frames of no connection", &drops(totals));
    d.finish()
}

#[cfg(test)]
mod tests {
    use super::super::super::recorded::Prediction;
    use super::*;

    #[test]
    fn verdicts_are_those_of_the_json() {
        assert_eq!(VERDICTS.map(|(name, _)| name.to_lowercase()), Prediction::ALL.map(|p| p.as_str().to_string()));
    }
}
