//! What a replay tells: JSON lines for programs, tables for people.

use super::recorded::{Prediction, RecordedConnection, Totals};
use super::warnings::{self, NotFollowed};
use crate::engine::{DropReason, End};
use crate::journal::{ConnectionLine, Milliseconds, Stamp, VersionName};
use crate::sessions::Rows;
use arrayvec::ArrayVec;
use comfy_table::{CellAlignment, Table, presets};
use lb::IdentityKind;
use lb::affinity::Census;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

/// Writes a connection's line.
pub fn write_connection(mut out: &mut dyn Write, record: &RecordedConnection) -> io::Result<()> {
    let connection = &record.connection;
    let server = connection.server.to_string();
    let decided = record.decided.map(|d| d.to_string());
    let offered: ArrayVec<&'static str, 3> = record.offered.iter().map(|k| k.as_str()).take(3).collect();
    let line = ConnectionLine {
        conn: record.conn,
        time: Stamp::at(UNIX_EPOCH, Duration::from_nanos(connection.first.unix_nanos)),
        duration_ms: Milliseconds(connection.last.time.since(connection.first.time)),
        first_byte_ms: None,
        handshake_ms: None,
        client: connection.client,
        via: None,
        vip: connection.server,
        backend: Some(&server),
        local: None,
        class: record.class.as_str(),
        decided: decided.as_deref(),
        verdict: Some(record.prediction.filter(|p| *p != Prediction::Unanswered).map(Prediction::as_str)),
        reason: record.reason.map_or("recorded", |r| r.as_str()),
        identity: record.key.as_ref().map_or(&[], |k| k.as_bytes()),
        offered: &offered,
        tls_version: record.version.map(VersionName),
        sni: record.sni.as_deref(),
        resumed: record.resumed,
        bytes_to_server: connection.bytes[0],
        bytes_to_client: connection.bytes[1],
        dial_attempts: 1,
        intact: Some(Some(record.intact())),
        // The capture ended first: as if the dispatcher had stopped.
        end: connection.end.unwrap_or(End::Shutdown).as_str(),
        service: None,
        pool: None,
        queue_class: None,
        waited_ms: None,
        spilled: None,
    };
    warnings::Line { line, refused: None, not_followed: record.not_followed.map(NotFollowed::as_str) }.write(&mut out)
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    summary: Summary<'a>,
}

#[derive(Serialize)]
struct Summary<'a> {
    connections: u64,
    secure: u64,
    non_secure: u64,
    offered: u64,
    right: u64,
    wrong: u64,
    rescued: u64,
    stale: u64,
    unknown: u64,
    unanswered: u64,
    resumed: u64,
    intact: u64,
    frames_in: u64,
    frames_out: u64,
    drops: BTreeMap<&'static str, u64>,
    by_identity: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    backends: BTreeMap<String, BackendLine>,
    table: Rows,
    unread: &'a BTreeMap<String, u64>,
    not_followed: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct BackendLine {
    connections: u64,
    secure: u64,
    resumed: u64,
    full: u64,
}

pub(super) fn drops(totals: &Totals) -> BTreeMap<&'static str, u64> {
    let all = DropReason::ALL.iter().zip(totals.drops);
    all.filter(|(_, n)| *n > 0).map(|(reason, n)| (reason.as_str(), n)).collect()
}

/// Writes the last line.
pub fn write_summary(out: &mut dyn Write, totals: &Totals, census: &Census, error: Option<&str>) -> io::Result<()> {
    let of = |p: Prediction| totals.predictions[p as usize];
    let summary = Summary {
        connections: totals.connections,
        secure: totals.secure,
        non_secure: totals.connections - totals.secure,
        offered: totals.offered,
        right: of(Prediction::Right),
        wrong: of(Prediction::Wrong),
        rescued: of(Prediction::Rescued),
        stale: of(Prediction::Stale),
        unknown: of(Prediction::Unknown),
        unanswered: of(Prediction::Unanswered),
        resumed: totals.resumed,
        intact: totals.intact,
        frames_in: totals.frames_in,
        frames_out: totals.frames_out,
        drops: drops(totals),
        by_identity: IdentityKind::ALL
            .iter()
            .map(|&kind| {
                let counts = Prediction::ALL.iter().map(|&p| (p.as_str(), totals.by_kind[kind as usize][p as usize]));
                (kind.as_str(), counts.collect())
            })
            .collect(),
        backends: totals
            .servers
            .iter()
            .map(|(server, c)| {
                let line =
                    BackendLine { connections: c.connections, secure: c.secure, resumed: c.resumed, full: c.full };
                (server.to_string(), line)
            })
            .collect(),
        table: (*census).into(),
        unread: totals.unread.counts(),
        not_followed: warnings::counted(&totals.not_followed),
        error,
    };
    serde_json::to_writer(&mut *out, &SummaryLine { summary }).map_err(io::Error::from)?;
    out.write_all(b"\n")
}

fn table(header: &[&str], names: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    for column in table.column_iter_mut().skip(names) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Servers listed by name; the others are summed up.
const LISTED: usize = 32;

/// Writes the report for people.
pub fn write_report(out: &mut dyn Write, totals: &Totals, census: &Census) -> io::Result<()> {
    writeln!(
        out,
        "{} connections in {} frames: {} secure, {} non-secure, {} resumed, {} recorded without a hole",
        totals.connections,
        totals.frames_in,
        totals.secure,
        totals.connections - totals.secure,
        totals.resumed,
        totals.intact
    )?;
    if totals.offered > 0 {
        let mut sessions =
            table(&["IDENTITY", "OFFERED", "RIGHT", "WRONG", "RESCUED", "STALE", "UNKNOWN", "UNANSWERED"], 1);
        let mut row = |name: &str, counts: &[u64; 6]| {
            let mut cells = vec![name.to_owned(), counts.iter().sum::<u64>().to_string()];
            cells.extend(counts.iter().map(u64::to_string));
            sessions.add_row(cells);
        };
        for kind in IdentityKind::ALL {
            let counts = &totals.by_kind[kind as usize];
            if counts.iter().any(|n| *n > 0) {
                row(kind.as_str(), counts);
            }
        }
        row("all", &totals.predictions);
        writeln!(out, "\nSessions offered for resumption, and what the affinity table knew of them:\n{sessions}")?;
    } else {
        writeln!(out, "\nNo connection offered a session for resumption.")?;
    }
    let mut servers = table(&["BACKEND", "CONNECTIONS", "SHARE", "SECURE", "RESUMED", "FULL"], 1);
    for (server, c) in totals.servers.iter().take(LISTED) {
        servers.add_row([
            server.to_string(),
            c.connections.to_string(),
            format!("{:.1}%", 100.0 * c.connections as f64 / totals.connections.max(1) as f64),
            c.secure.to_string(),
            c.resumed.to_string(),
            c.full.to_string(),
        ]);
    }
    if !totals.servers.is_empty() {
        writeln!(out, "\n{servers}")?;
    }
    if totals.servers.len() > LISTED {
        writeln!(out, " and {} more backends", totals.servers.len() - LISTED)?;
    }
    if totals.beyond > 0 {
        let most = lb::MAX_BACKENDS;
        writeln!(out, "{} connections went to servers beyond the first {most}: not followed", totals.beyond)?;
    }
    writeln!(
        out,
        "\nThe table holds {} session ids, {} tickets, {} cookies, {} key names ({} shared), {} prefixes seen once, {} refused keys.",
        census.session_ids,
        census.tickets,
        census.cookies,
        census.key_names,
        census.shared_key_names,
        census.candidates,
        census.refusals
    )?;
    warnings::write_not_followed(out, &totals.not_followed, &totals.examples)?;
    if !totals.unread.counts().is_empty() {
        writeln!(out, "Frames without TCP or UDP: {}", super::unread::listed(totals.unread.counts()))?;
    }
    let drops = drops(totals);
    if drops.is_empty() {
        writeln!(out, "Every frame belongs to a connection.")
    } else {
        let drops: Vec<String> = drops.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        writeln!(out, "Frames of no connection: {}", drops.join(", "))
    }
}
