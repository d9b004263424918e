//! What a replay tells, as a document for a browser: the tables of the report, and how it went over time. What stands in it is counted in
//! pieces of bounded number, however long a capture is.

pub mod change;
pub mod recorded;
pub mod reenacted;

use super::over_time::OverTime;
use super::warnings::Rule;
use crate::html::document::{Cell, Document, Word};
use lb::IdentityKind;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// How connections are told apart by what they offered to resume. In the order of [`IdentityKind::ALL`], and then what offered nothing.
pub const KINDS: [(&str, u8); 6] =
    [("session ID", 0), ("ticket", 1), ("PSK", 2), ("cookie", 4), ("TLS, no session offered", 5), ("not TLS", 3)];

/// The place of a connection among [`KINDS`].
pub fn kind(secure: bool, offered: Option<&str>) -> usize {
    match IdentityKind::ALL.iter().position(|kind| Some(kind.as_str()) == offered) {
        Some(place) => place,
        None if secure => 4,
        None => 5,
    }
}

const WORDS: &[Word] = &[
    ("Connections", "TCP connections in the capture."),
    ("TLS", "Connections that begin with a TLS hello."),
    ("Offered", "Connections whose hello offers to continue an earlier session."),
    (
        "Resumed",
        "Connections in which the server continued an earlier session, which saves both sides a full handshake.",
    ),
    ("Full", "Connections in which the server began a new session by a full handshake."),
    ("Whole", "Connections of which every byte of both directions is in the capture, or arrived as recorded."),
    ("Share", "Of all connections."),
    ("Backend", "A server that connections are led to."),
    (
        "Identity",
        "How a client names the session it wants to continue: session ID and ticket (up to TLS 1.2), PSK (TLS 1.3), or a cookie (plain HTTP).",
    ),
    ("Right", "The table named the server that was recorded, and it resumed the session."),
    ("Wrong", "The table named another server, and the recorded one resumed the session."),
    (
        "Rescued",
        "The table named another server, and the recorded one did not resume: going where the table leads would have prevented this.",
    ),
    ("Stale", "The table named the server that was recorded, and it did not resume the session."),
    ("Unknown", "The table did not know the session that was offered."),
    ("Unanswered", "The table knew the session, but the server's answer is not in the capture."),
    ("Decided", "Connections whose backend the table of sessions named."),
    ("Chosen by", "What named the backend: a session's row in the table, or the balance, when there was none."),
    ("Class", "Requests of one kind, which wait in a line of their own for room at a backend."),
    ("Waited", "Connections that had to wait for room, for a millisecond at least."),
    ("Half", "Half of all connections of the class waited no longer."),
    ("99 of 100", "99 of 100 connections of the class waited no longer."),
    ("Spilled", "Went to another backend than the one that has their session, for want of room."),
    ("Abandoned", "Clients that gave up while they waited."),
    ("Timed out", "Waited for as long as their class may."),
    ("Refused", "Found no place to wait."),
    ("Same server", "Connections that meet the same server with the change and without it."),
    ("Another server", "Connections that meet another server after the change."),
    ("No server", "Connections that meet no server after the change, and do without it."),
    ("Known sessions", "Connections with a session that leads to its server without the change."),
    ("Lost", "Of the known sessions: those whose client meets a server that cannot resume them."),
];

/// Creates the file: a wrong name is told before anything is read.
pub fn create(path: &Path) -> anyhow::Result<File> {
    File::create(path).map_err(|e| anyhow::anyhow!("{} cannot be written: {e}", path.display()))
}

/// Writes it.
pub fn write(file: Option<File>, html: impl FnOnce() -> String) -> anyhow::Result<()> {
    match file {
        Some(mut file) => Ok(file.write_all(html().as_bytes())?),
        None => Ok(()),
    }
}

/// The captures, without their folders.
fn names(files: &[PathBuf]) -> String {
    let names: Vec<_> = files.iter().map(|f| f.file_name().unwrap_or(f.as_os_str()).to_string_lossy()).collect();
    match names.as_slice() {
        [] => "nothing".into(),
        [one] => one.to_string(),
        [first, others @ ..] if others.len() > 3 => format!("{first} and {} more captures", others.len()),
        several => several.join(", "),
    }
}

/// What this is, when the connections began, and by which program it was made.
fn about<const N: usize>(what: &str, time: &OverTime<N>) -> String {
    let pieces = time.pieces();
    let begun = pieces.first().map_or(String::new(), |(begin, _)| format!(", begun from {begin} to {}", time.end()));
    format!("{what}{begun} · dispatcher {}", env!("CARGO_PKG_VERSION"))
}

fn plot<const N: usize>(document: &mut Document, title: &str, kinds: &[(&str, u8); N], time: &OverTime<N>) {
    let pieces = time.pieces();
    if !pieces.is_empty() {
        document.plot(title, kinds, &pieces, &time.each(), &time.end());
    }
}

/// Connections by rules, in a table; the first of them in another.
fn ruled(document: &mut Document, title: &str, rules: &[(Rule, u64)], first: &[(SocketAddr, SocketAddr, &str)]) {
    let rows: Vec<Vec<Cell>> = rules
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|((name, meaning), n)| vec![Cell::text(name), Cell::Number(*n), Cell::Long(meaning.to_string())])
        .collect();
    document.table(title, &["Rule", "Connections", "Meaning"], &rows, "");
    let rows: Vec<Vec<Cell>> = first
        .iter()
        .map(|(client, server, rule)| vec![Cell::text(client), Cell::text(server), Cell::text(rule)])
        .collect();
    let all: u64 = rules.iter().map(|(_, n)| n).sum();
    let more = match all.saturating_sub(first.len() as u64) {
        0 => String::new(),
        more => format!("and {more} more; --json names all"),
    };
    document.table(&format!("{title}: which"), &["Client", "Server", "Rule"], &rows, &more);
}

/// Frames by reason.
fn frames(document: &mut Document, title: &str, counts: &BTreeMap<&'static str, u64>) {
    let meaning = |reason: &str| {
        let known = crate::counters::DropReason::ALL.iter().find(|why| why.as_str() == reason);
        known.map_or(String::new(), |why| why.meaning().replace('`', ""))
    };
    let row = |(reason, n): (&&str, &u64)| vec![Cell::text(reason), Cell::Number(*n), Cell::Long(meaning(reason))];
    document.table(title, &["Reason", "Frames", "Meaning"], &counts.iter().map(row).collect::<Vec<_>>(), "");
}

/// Backends listed by name.
const LISTED: usize = 200;

/// Connections, secure, resumed and full of each backend, and their shares of all.
fn backends(document: &mut Document, all: u64, backends: &[(String, [u64; 4])]) {
    let rows: Vec<Vec<Cell>> = backends
        .iter()
        .take(LISTED)
        .map(|(name, [connections, secure, resumed, full])| {
            let numbers = [secure, resumed, full].map(|n| Cell::Number(*n));
            let first = [Cell::text(name), Cell::Number(*connections), Cell::Share(*connections, all)];
            first.into_iter().chain(numbers).collect()
        })
        .collect();
    let more = match backends.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!("and {more} more backends"),
    };
    document.table(
        "Distribution over backends",
        &["Backend", "Connections", "Share", "TLS", "Resumed", "Full"],
        &rows,
        &more,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_in_the_order_of_identities() {
        let places: Vec<usize> = IdentityKind::ALL.iter().map(|k| kind(true, Some(k.as_str()))).collect();
        assert_eq!(places, [0, 1, 2, 3]);
        let plain = |name: &str| name.to_lowercase().replace([' ', '-'], "");
        for (known, (name, _)) in IdentityKind::ALL.iter().zip(KINDS) {
            assert_eq!(plain(known.as_str()), plain(name));
        }
        assert_eq!([kind(true, None), kind(false, None)], [4, 5]);
    }
}
