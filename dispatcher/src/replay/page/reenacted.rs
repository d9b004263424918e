//! Connections that were re-enacted against other backends.

use super::super::over_time::OverTime;
use super::super::reenact::Totals;
use super::super::reenact::recording::Skip;
use super::super::reenact::wire::Ended;
use super::super::warnings::NotFollowed;
use super::{KINDS, WORDS, about, backends, frames, kind, names, plot, ruled};
use crate::engine::{Class, End};
use crate::html::document::{Cell, Document};
use crate::html::{number, percent};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// What named the backend: by the names of the JSON, the last one for whatever else.
const CHOSEN: [(&str, u8); 7] =
    [("session-id", 0), ("ticket", 1), ("ticket-key", 4), ("psk", 2), ("psk-key", 3), ("cookie", 6), ("balanced", 5)];

/// What became of those that asked for room at backends with limits.
const ROOM: [(&str, u8); 5] =
    [("at once", 0), ("after waiting", 1), ("abandoned", 5), ("timed out", 3), ("refused", 4)];

/// How it went over time.
#[derive(Clone, Debug, Default)]
pub struct Course {
    kinds: OverTime<6>,
    chosen: OverTime<7>,
    room: OverTime<5>,
}

impl Course {
    /// A connection is over. It counts at its beginning; `origin` is when the world began.
    pub fn connection(&mut self, ended: &Ended, origin: SystemTime) {
        let began = origin.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let at = began.saturating_add(ended.began.as_nanos());
        self.kinds.count(at, kind(ended.class == Class::Secure, ended.offered.first().copied()));
        let chosen = CHOSEN.iter().position(|(word, _)| *word == ended.reason_word());
        self.chosen.count(at, chosen.unwrap_or(CHOSEN.len() - 1));
        if ended.queue_class.is_some() {
            let place = match ended.end {
                End::QueueAbandoned => 2,
                End::QueueTimeout => 3,
                End::QueueFull => 4,
                _ => usize::from(ended.waited_ms > 0),
            };
            self.room.count(at, place);
        }
    }
}

/// The whole document. `failed`: why no more could be read.
pub fn html(files: &[PathBuf], totals: &Totals, course: &Course, failed: Option<&str>) -> String {
    let c = &totals.counters;
    let what =
        format!("re-enacted through the whole engine, {} frames in, {} out", number(c.frames_in), number(c.frames_out));
    let mut d = Document::new(&format!("Replay of {}", names(files)), &about(&what, &course.kinds), WORDS);
    let all = totals.connections;
    let of = |n: u64, whole: u64, what: &str| format!("{} of {what}", percent(n, whole));
    let refused: u64 = totals.refused.values().sum();
    d.cards(&[
        ("Connections", number(all), format!("{} TLS, {} not", number(totals.secure), number(all - totals.secure))),
        ("Offered", number(totals.offered), of(totals.offered, totals.secure, "TLS")),
        ("Decided", number(totals.decided), of(totals.decided, totals.offered, "offered")),
        ("Resumed", number(totals.resumed), "as recorded".into()),
        ("Whole", number(totals.intact), format!("{}; {} refused", of(totals.intact, all, "all"), number(refused))),
    ]);
    let mut notes: Vec<String> = failed.iter().map(|why| format!("No more could be read: {why}")).collect();
    if !totals.unread.counts().is_empty() {
        notes.push(format!("Frames without TCP or UDP: {}", crate::replay::unread::listed(totals.unread.counts())));
    }
    notes.extend(totals.unread.complaint().map(|left_out| left_out.to_string()));
    for (why, n) in Skip::ALL.iter().zip(totals.skipped).filter(|(_, n)| *n > 0) {
        notes.push(format!("{} recorded connections were left out: {}", number(n), why.meaning()));
    }
    if totals.forced > 0 {
        notes.push(format!(
            "{} segments waited in vain for what their senders had acknowledged when recorded",
            number(totals.forced)
        ));
    }
    if let Some(first) = &totals.faults.first {
        let n = number(totals.faults.count);
        notes.push(format!("{n} segments arrived that no correct peer would have sent, the first: {first}"));
    }
    d.notes("What you should know", &notes);
    plot(&mut d, "Sessions by kind over time", &KINDS, &course.kinds);
    plot(&mut d, "How backends were chosen over time", &CHOSEN, &course.chosen);
    let servers = totals.backends.iter().map(|(name, c)| (name.clone(), [c.connections, c.secure, c.resumed, c.full]));
    backends(&mut d, all, &servers.collect::<Vec<_>>());
    let chosen: Vec<Vec<Cell>> = totals
        .reasons
        .iter()
        .map(|(reason, n)| vec![Cell::text(reason), Cell::Number(*n), Cell::Share(*n, all)])
        .collect();
    d.table("How backends were chosen", &["Chosen by", "Connections", "Share"], &chosen, "");
    plot(&mut d, "Room at backends with limits over time", &ROOM, &course.room);
    let heads = [
        "Class",
        "Connections",
        "Waited",
        "Half",
        "99 of 100",
        "Longest",
        "Spilled",
        "Abandoned",
        "Timed out",
        "Refused",
    ];
    let queues = totals.queues.told();
    let row = |(name, t): (&&str, &super::super::reenact::QueueTotals)| {
        let times = [t.p50_ms, t.p99_ms, t.longest_ms].map(|ms| Cell::Measure(format!("{} ms", number(ms))));
        let counts = [t.spilled, t.abandoned, t.timed_out, t.refused].map(Cell::Number);
        let first = [Cell::text(name), Cell::Number(t.connections), Cell::Number(t.waited)];
        first.into_iter().chain(times).chain(counts).collect()
    };
    d.table("Room at backends with limits", &heads, &queues.iter().map(row).collect::<Vec<_>>(), "");
    let rules: Vec<_> = totals.refused.iter().map(|(rule, n)| (*rule, *n)).collect();
    let [first_refused, first_not_followed] = totals.examples();
    ruled(&mut d, "Connections that the dispatcher would have refused", &rules, first_refused);
    let rules = NotFollowed::ALL.iter().map(|why| (why.as_str(), why.meaning())).zip(totals.not_followed);
    let rules: Vec<_> = rules.collect();
    ruled(&mut d, "Connections that were not followed, or not to their end", &rules, first_not_followed);
    frames(&mut d, "Frames that were dropped", &totals.drops());
    frames(&mut d, "Segments or connections that were refused", &totals.segments_refused());
    d.finish()
}
