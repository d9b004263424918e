//! A comparison as it is told: lines for programs, a table for people.

use super::{Comparison, Move, Session, Tally};
use crate::replay::reenact::recording::Skip;
use crate::replay::warnings::EXAMPLES;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;

#[derive(Serialize)]
struct MoveLine<'a> {
    client: SocketAddr,
    vip: SocketAddr,
    service: Option<&'a str>,
    pool: Option<&'a str>,
    sni: Option<&'a str>,
    before: Option<&'a str>,
    after: Option<&'a str>,
    session: Option<&'static str>,
}

/// As numbers, by these names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
struct Numbers {
    connections: u64,
    known_sessions: u64,
    same_server: u64,
    another_server: u64,
    no_server: u64,
    newly_served: u64,
    sessions_lost: u64,
    sessions_kept: u64,
}

#[derive(Serialize)]
struct PoolLine<'a> {
    service: &'a str,
    pool: &'a str,
    #[serde(flatten)]
    numbers: Numbers,
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    summary: Summary<'a>,
}

#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    total: Numbers,
    pools: Vec<PoolLine<'a>>,
    other_addresses: u64,
    skipped: BTreeMap<&'static str, u64>,
    unread: &'a BTreeMap<String, u64>,
    notes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl From<&Tally> for Numbers {
    fn from(tally: &Tally) -> Numbers {
        let Tally { connections, known, another, none, served, lost, kept } = *tally;
        Numbers {
            connections,
            known_sessions: known,
            same_server: tally.same(),
            another_server: another,
            no_server: none,
            newly_served: served,
            sessions_lost: lost,
            sessions_kept: kept,
        }
    }
}

impl Session {
    /// The word of the JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Session::Lost => "lost",
            Session::Kept => "kept",
        }
    }
}

impl Comparison {
    /// Writes a line for each connection that the change leads elsewhere, and the summary.
    pub fn write_lines(
        &self,
        out: &mut dyn Write,
        unread: &BTreeMap<String, u64>,
        error: Option<&str>,
    ) -> io::Result<()> {
        for Move { client, vip, pool, sni, before, after, session } in &self.moves {
            let line = MoveLine {
                client: *client,
                vip: *vip,
                service: pool.as_ref().map(|(service, _)| service.as_str()),
                pool: pool.as_ref().map(|(_, pool)| pool.as_str()),
                sni: sni.as_deref(),
                before: before.as_deref(),
                after: after.as_deref(),
                session: session.map(Session::as_str),
            };
            serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        }
        let pool = |((service, pool), tally)| PoolLine { service, pool, numbers: Numbers::from(tally) };
        let summary = Summary {
            total: Numbers::from(&self.total),
            pools: self.pools.iter().map(|((s, p), t)| pool(((s.as_str(), p.as_str()), t))).collect(),
            other_addresses: self.elsewhere,
            skipped: self.skips(),
            unread,
            notes: &self.notes,
            error,
        };
        serde_json::to_writer(&mut *out, &SummaryLine { summary }).map_err(io::Error::from)?;
        out.write_all(b"\n")
    }

    fn skips(&self) -> BTreeMap<&'static str, u64> {
        Skip::ALL.iter().map(|s| s.as_str()).zip(self.skipped).filter(|(_, n)| *n > 0).collect()
    }

    /// Writes the report for people.
    pub fn write_report(&self, out: &mut dyn Write) -> io::Result<()> {
        let t = &self.total;
        writeln!(
            out,
            "Of {} recorded connections, coming again after the change, {} would meet the same server, {} another, {} none.",
            t.connections,
            t.same(),
            t.another,
            t.none
        )?;
        if t.served > 0 {
            writeln!(out, "{} would meet a server that meet none without the change.", t.served)?;
        }
        writeln!(out, "{} would come with a session that is known: {} of these sessions are lost.", t.known, t.lost)?;
        if t.kept > 0 {
            writeln!(out, "{} would resume at another server, which opens their tickets, too.", t.kept)?;
        }
        let mut table = Table::new();
        let heads = ["SERVICE", "POOL", "CONNECTIONS", "ANOTHER SERVER", "NO SERVER", "KNOWN SESSIONS", "LOST"];
        table.load_style(presets::NOTHING).set_header(heads);
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for ((service, pool), t) in &self.pools {
            let numbers = [t.connections, t.another, t.none, t.known, t.lost].map(|n| n.to_string());
            table.add_row([service.clone(), pool.clone()].into_iter().chain(numbers));
        }
        writeln!(out, "\n{table}\n")?;
        self.write_examples(out)?;
        if self.elsewhere > 0 {
            writeln!(out, "{} connections to other addresses were left out.", self.elsewhere)?;
        }
        for (why, n) in Skip::ALL.iter().zip(self.skipped).filter(|(_, n)| *n > 0) {
            writeln!(out, "{n} connections were left out, {}: {}", why.as_str(), why.meaning())?;
        }
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        Ok(())
    }

    fn write_examples(&self, out: &mut dyn Write) -> io::Result<()> {
        let told: Vec<&Move> =
            self.moves.iter().filter(|m| m.session == Some(Session::Lost) || m.after.is_none()).collect();
        if told.is_empty() {
            return Ok(());
        }
        writeln!(out, "Sessions lost, and connections that would meet no server:")?;
        for m in told.iter().take(EXAMPLES) {
            let sni = m.sni.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
            let name = |backend: &Option<String>| backend.clone().unwrap_or_else(|| "none".into());
            writeln!(out, "  {} to {}{sni}: {}, then {}", m.client, m.vip, name(&m.before), name(&m.after))?;
        }
        if told.len() > EXAMPLES {
            writeln!(out, "  and {} more", told.len() - EXAMPLES)?;
        }
        writeln!(out)
    }
}
