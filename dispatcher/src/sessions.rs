//! Does affinity work, and if not, why: what the affinity tables counted, for people. Used at the end of `run`, by
//! `replay` and at the control socket.

use comfy_table::{CellAlignment, Table, presets};
use core::fmt;
use lb::affinity::{Census, KindCounters, Metrics};
use lb::{BackendId, IdentityKind};
use serde::{Deserialize, Serialize};

/// What the tables counted, and what they hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sessions {
    /// Counted so far.
    pub metrics: Metrics,
    /// Rows now.
    pub census: Census,
}

/// Kinds of identities, in the order in which they are told.
pub const KINDS: [IdentityKind; 4] = IdentityKind::ALL;

/// What the columns of the table by backend and kind are.
pub const HEADS: [&str; 8] =
    ["SESSIONS BY", "BACKEND", "OFFERED", "PROMISED", "ACCEPTED", "REFUSED", "BROKEN", "UNKNOWN"];

/// Rows of the affinity tables, as they are told: by this name in JSON, and as a line in text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rows {
    /// Session IDs.
    pub session_ids: usize,
    /// Tickets without a key name.
    pub tickets: usize,
    /// Cookies.
    pub cookies: usize,
    /// Names of ticket keys.
    pub key_names: usize,
    /// Of those: opened by several backends.
    pub shared_key_names: usize,
    /// Prefixes that may be names of keys.
    pub candidates: usize,
    /// Names of keys that were refused.
    pub refusals: usize,
}

impl From<Census> for Rows {
    fn from(census: Census) -> Rows {
        let Census { session_ids, tickets, cookies, key_names, shared_key_names, candidates, refusals } = census;
        Rows { session_ids, tickets, cookies, key_names, shared_key_names, candidates, refusals }
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "affinity table: {} session ids, {} tickets, {} cookies, {} key names ({} shared), {} prefixes seen once, {} refused keys",
            self.session_ids,
            self.tickets,
            self.cookies,
            self.key_names,
            self.shared_key_names,
            self.candidates,
            self.refusals
        )
    }
}

impl Sessions {
    /// A table by backend and kind of identity, the rows held, and a line for each thing an operator should know. `names`
    /// are the backends'. Empty when nothing was ever offered or learned.
    pub fn report(&self, names: &[(BackendId, &str)]) -> String {
        let Sessions { metrics, census } = self;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(HEADS);
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for kind in KINDS {
            for (id, name) in names {
                let c = metrics.of(*id, kind);
                if c != KindCounters::default() {
                    let numbers = [c.offered, c.promised, c.accepted, c.refused, c.broken, c.unknown];
                    let words = [kind.as_str().to_string(), name.to_string()];
                    table.add_row(words.into_iter().chain(numbers.map(|n| n.to_string())));
                }
            }
        }
        let mut out = String::new();
        if table.row_iter().next().is_some() {
            out += &format!("{table}\n");
        }
        if census.rows() > 0 || !out.is_empty() {
            out += &format!("{}\n", Rows::from(*census));
        }
        for note in self.notes() {
            out += &format!("note: {note}\n");
        }
        out
    }

    /// What an operator should know, in words.
    pub fn notes(&self) -> Vec<String> {
        let Sessions { metrics, census } = self;
        let mut notes = Vec::new();
        let psk = metrics.kind(IdentityKind::Psk);
        if census.shared_key_names > 0 {
            notes.push(format!(
                "{} ticket keys are shared by several backends; any of those can resume, and they are balanced",
                census.shared_key_names
            ));
        }
        let lost = metrics.exact.evicted + metrics.exact.crowded;
        if lost > 0 {
            notes.push(format!("{lost} live sessions gave way to others: the table is too small (--session-capacity)"));
        }
        let broken: u64 = KINDS.iter().map(|k| metrics.kind(*k).broken).sum();
        if broken > 0 {
            notes.push(format!(
                "{broken} resumptions were refused by the very backend that could: its cache is too small, its keys rotated, or it restarted"
            ));
        }
        if metrics.names.retired > 0 {
            notes.push(format!(
                "{} ticket keys were retired: their backends no longer open them",
                metrics.names.retired
            ));
        }
        // Unknown to the table, and still so after it has seen the servers accept: nothing in the identity names its key.
        if psk.unknown > psk.promised && psk.unknown >= 10 {
            notes.push(format!(
                "{} of {} TLS 1.3 identities carried no known key name (servers with stateful tickets, newer Go): those clients go by --resume-fallback",
                psk.unknown, psk.offered
            ));
        }
        if metrics.updates_lost > 0 {
            notes.push(format!("{} things learned were lost between workers", metrics.updates_lost));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb::{Affinity, Config, Identity, Millis, Offered, Sighting};

    #[test]
    fn a_report_names_backends_kinds_and_reasons() {
        let mut affinity = Affinity::single(Config::new(2));
        let seen = Sighting { backend: BackendId(1), client: 1, now: Millis(0) };
        let id = Identity::new(&Offered { kind: IdentityKind::SessionId, bytes: &[7; 32] }).unwrap();
        affinity.issued(&id, seen);
        let found = affinity.lookup(&[id], Millis(0), |_| true);
        affinity.chosen(&found, BackendId(1));
        affinity.refused(&id, seen);
        let sessions = Sessions { metrics: affinity.metrics(), census: affinity.census(Millis(0)) };
        let text = sessions.report(&[(BackendId(0), "a"), (BackendId(1), "b")]);
        let row: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["session-id", "b", "1", "1", "0", "1", "1", "0"], "{text}");
        assert!(text.contains("refused by the very backend"), "{text}");
    }

    #[test]
    fn nothing_offered_says_nothing() {
        let affinity = Affinity::single(Config::new(2));
        let sessions = Sessions { metrics: affinity.metrics(), census: affinity.census(Millis(0)) };
        assert_eq!(sessions.report(&[(BackendId(0), "a")]), "");
    }
}
