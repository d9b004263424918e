//! What came of a re-enactment: a summary line for programs, tables for people.

use super::super::unread::{self, Unread};
use super::super::warnings::{self, NotFollowed, Rule};
use super::conversation::Conversation;
use super::faults::Faults;
use super::queues::{self, Queues};
use super::recording::{Recording, Skip};
use super::wire::Ended;
use super::world::World;
use crate::engine::{Class, Config, Counters, DropReason};
use comfy_table::{CellAlignment, Table, presets};
use core::time::Duration;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;

/// Connections at one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BackendTotals {
    /// All.
    pub connections: u64,
    /// Of these, TLS.
    pub secure: u64,
    /// Of these, resumed.
    pub resumed: u64,
    /// Of these, with a full handshake.
    pub full: u64,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Connections re-enacted.
    pub connections: u64,
    /// Of these, beginning with a ClientHello.
    pub secure: u64,
    /// Offering an identity.
    pub offered: u64,
    /// Of these, the table named a backend.
    pub decided: u64,
    /// Resumed, as recorded.
    pub resumed: u64,
    /// Both streams arrived as recorded.
    pub intact: u64,
    /// By reason of the choice.
    pub reasons: BTreeMap<&'static str, u64>,
    /// By name, in the order given.
    pub backends: Vec<(String, BackendTotals)>,
    /// Who asked for room at a backend, where backends have limits.
    pub queues: Queues,
    /// Connections that were not re-enacted, by [`Skip`].
    pub skipped: [u64; Skip::ALL.len()],
    /// The engine's.
    pub counters: Counters,
    /// TCP segments in the captures.
    pub recorded_segments: u64,
    /// Segments sent before what they waited for.
    pub forced: u64,
    /// What no correct peer would have sent.
    pub faults: Faults,
    /// Segments that ends sent again.
    pub repeats: u64,
    /// Connections that the engine refused, by rule.
    pub refused: BTreeMap<Rule, u64>,
    /// Connections that it did not follow, by [`NotFollowed`].
    pub not_followed: [u64; NotFollowed::ALL.len()],
    /// The first that were refused, and the first that were not followed.
    examples: [Vec<(SocketAddr, SocketAddr, &'static str)>; 2],
    /// What was read of the captures, and what was not.
    pub unread: Unread,
    hello_patience: Duration,
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
    resumed: u64,
    intact: u64,
    frames_in: u64,
    frames_out: u64,
    drops: BTreeMap<&'static str, u64>,
    hellos_unread: u64,
    refused: BTreeMap<&'static str, u64>,
    decided: u64,
    reasons: &'a BTreeMap<&'static str, u64>,
    backends: BTreeMap<&'a str, BackendTotals>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    queues: BTreeMap<&'a str, queues::Told>,
    redispatches: u64,
    retransmits: u64,
    skipped: BTreeMap<&'static str, u64>,
    forced: u64,
    faults: u64,
    connections_refused: BTreeMap<&'static str, u64>,
    not_followed: BTreeMap<&'static str, u64>,
    unread: &'a BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

fn named<'n>(counts: impl Iterator<Item = (&'n str, u64)>) -> BTreeMap<&'n str, u64> {
    counts.filter(|(_, n)| *n > 0).collect()
}

impl Totals {
    /// Nothing yet.
    pub fn new(config: &Config) -> Totals {
        let backends = config.backends().iter().map(|b| (b.name.clone(), BackendTotals::default())).collect();
        Totals { backends, hello_patience: config.hello_patience(), ..Totals::default() }
    }

    /// Whether the engine refused a connection that is over, or did not follow it, and why.
    pub fn warn(&mut self, ended: &Ended, conversation: &Conversation<'_>) -> (Option<Rule>, Option<NotFollowed>) {
        let refused = warnings::refusal(ended, conversation, conversation.intact());
        let not_followed = match refused {
            Some(_) => None,
            None => warnings::not_followed(ended, conversation, self.hello_patience),
        };
        if let Some(rule) = refused {
            *self.refused.entry(rule).or_default() += 1;
        }
        if let Some(why) = not_followed {
            self.not_followed[why as usize] += 1;
        }
        let names = [refused.map(|(name, _)| name), not_followed.map(NotFollowed::as_str)];
        for (examples, name) in self.examples.iter_mut().zip(names) {
            if let Some(name) = name
                && examples.len() < warnings::EXAMPLES
            {
                examples.push((ended.client, ended.vip, name));
            }
        }
        (refused, not_followed)
    }

    /// A connection is over.
    pub fn connection(&mut self, ended: &Ended, intact: bool) {
        let secure = ended.class == Class::Secure;
        self.connections += 1;
        self.secure += u64::from(secure);
        self.offered += u64::from(!ended.offered.is_empty());
        self.decided += u64::from(ended.decided.is_some());
        self.resumed += u64::from(ended.resumed == Some(true));
        self.intact += u64::from(intact);
        self.queues.connection(ended);
        *self.reasons.entry(ended.reason_word()).or_default() += 1;
        if let Some((_, counts)) = self.backends.iter_mut().find(|(name, _)| Some(name) == ended.backend.as_ref()) {
            counts.connections += 1;
            counts.secure += u64::from(secure);
            counts.resumed += u64::from(ended.resumed == Some(true));
            counts.full += u64::from(ended.resumed == Some(false));
        }
    }

    /// Everything is over.
    pub fn finish(&mut self, world: &World<'_>, recording: &Recording<'_>) {
        self.skipped = recording.skipped;
        self.counters = world.counters().clone();
        self.recorded_segments = recording.segments;
        self.unread = recording.unread.clone();
        (self.forced, self.faults, self.repeats) = (world.forced, world.faults, world.repeats);
    }

    /// Frames dropped, by reason.
    pub(in crate::replay) fn drops(&self) -> BTreeMap<&'static str, u64> {
        named(DropReason::ALL.iter().map(|r| r.as_str()).zip(self.counters.drops))
    }

    /// Segments or connections refused, by reason.
    pub(in crate::replay) fn segments_refused(&self) -> BTreeMap<&'static str, u64> {
        named(DropReason::ALL.iter().map(|r| r.as_str()).zip(self.counters.refused))
    }

    /// The first that were refused, and the first that were not followed.
    pub(in crate::replay) fn examples(&self) -> [&[(SocketAddr, SocketAddr, &'static str)]; 2] {
        self.examples.each_ref().map(Vec::as_slice)
    }

    fn skips(&self) -> BTreeMap<&'static str, u64> {
        named(Skip::ALL.iter().map(|s| s.as_str()).zip(self.skipped))
    }

    /// Writes the last line of JSON. The five verdicts are not given in this form of replay: their counts are zero.
    pub fn write_summary(&self, out: &mut dyn Write, error: Option<&str>) -> io::Result<()> {
        let summary = Summary {
            connections: self.connections,
            secure: self.secure,
            non_secure: self.connections - self.secure,
            offered: self.offered,
            right: 0,
            wrong: 0,
            rescued: 0,
            stale: 0,
            unknown: 0,
            resumed: self.resumed,
            intact: self.intact,
            frames_in: self.counters.frames_in,
            frames_out: self.counters.frames_out,
            drops: self.drops(),
            hellos_unread: self.counters.hellos_unread,
            refused: self.segments_refused(),
            decided: self.decided,
            reasons: &self.reasons,
            backends: self.backends.iter().map(|(name, counts)| (name.as_str(), *counts)).collect(),
            queues: self.queues.told(),
            redispatches: self.counters.redispatches,
            retransmits: self.counters.retransmits,
            skipped: self.skips(),
            forced: self.forced,
            faults: self.faults.count,
            connections_refused: self.refused.iter().map(|((name, _), n)| (*name, *n)).collect(),
            not_followed: warnings::counted(&self.not_followed),
            unread: self.unread.counts(),
            error,
        };
        serde_json::to_writer(&mut *out, &SummaryLine { summary }).map_err(io::Error::from)?;
        out.write_all(b"\n")
    }

    /// Writes the report for people.
    pub fn write_report(&self, out: &mut dyn Write) -> io::Result<()> {
        let skipped: u64 = self.skipped.iter().sum();
        writeln!(
            out,
            "{} connections re-enacted, {} intact: {} secure, {} non-secure, {} resumed",
            self.connections,
            self.intact,
            self.secure,
            self.connections - self.secure,
            self.resumed
        )?;
        if skipped > 0 {
            writeln!(out, "{skipped} recorded connections left out: {}", listed(&self.skips()))?;
            for (why, _) in Skip::ALL.iter().zip(self.skipped).filter(|(_, n)| *n > 0) {
                writeln!(out, "  {}: {}", why.as_str(), why.meaning())?;
            }
        }
        if !self.unread.counts().is_empty() {
            writeln!(out, "Frames without TCP or UDP: {}", unread::listed(self.unread.counts()))?;
        }
        if self.connections == 0 {
            return writeln!(out, "There is nothing to re-enact.");
        }
        writeln!(
            out,
            "{} connections offered a session, the table named a backend for {}; chosen by: {}",
            self.offered,
            self.decided,
            listed(&self.reasons)
        )?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["BACKEND", "CONNECTIONS", "SHARE", "SECURE", "RESUMED", "FULL"]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for (name, c) in &self.backends {
            table.add_row([
                name.clone(),
                c.connections.to_string(),
                format!("{:.1}%", 100.0 * c.connections as f64 / self.connections.max(1) as f64),
                c.secure.to_string(),
                c.resumed.to_string(),
                c.full.to_string(),
            ]);
        }
        writeln!(out, "\n{table}\n")?;
        if let Some(table) = self.queues.table() {
            writeln!(out, "Room at backends with limits:\n{table}\n")?;
        }
        let refused = self.refused.iter().map(|(rule, n)| (*rule, *n));
        warnings::write_warning(out, "that the dispatcher would have refused", refused, &self.examples[0])?;
        let rules = NotFollowed::ALL.iter().map(|why| (why.as_str(), why.meaning())).zip(self.not_followed);
        warnings::write_warning(out, warnings::UNFOLLOWED, rules, &self.examples[1])?;
        let c = &self.counters;
        writeln!(
            out,
            "{} segments were recorded; the engine took in {} frames and sent {}: {} forwarded, {} of its own making",
            self.recorded_segments, c.frames_in, c.frames_out, c.forwarded, c.made
        )?;
        writeln!(
            out,
            "{} dials, {} redispatches, {} retransmissions of the dispatcher's, {} of the ends'",
            c.dials, c.redispatches, c.retransmits, self.repeats
        )?;
        if c.hellos_unread > 0 {
            writeln!(out, "{} hellos could not be read, or not to their end", c.hellos_unread)?;
        }
        let drops = self.drops();
        if drops.is_empty() {
            writeln!(out, "No frame was dropped.")?;
        } else {
            writeln!(out, "Frames dropped: {}", listed(&drops))?;
        }
        let refused = self.segments_refused();
        if !refused.is_empty() {
            writeln!(out, "Segments or connections refused: {}", listed(&refused))?;
        }
        if self.forced > 0 {
            writeln!(
                out,
                "{} segments waited in vain for what their senders had acknowledged when recorded",
                self.forced
            )?;
        }
        if let Some(first) = self.faults.first {
            let n = self.faults.count;
            writeln!(out, "{n} segments arrived that no correct peer would have sent, the first: {first}")?;
        }
        Ok(())
    }
}

fn listed(counts: &BTreeMap<&str, u64>) -> String {
    counts.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
}
