//! Walking all tables, for tools and reports.

use super::{Affinity, Census, Key, KeyKind, Shared, names};
use crate::backend::BackendSet;
use crate::sync::Arc;
use crate::time::Millis;

/// A row as tools print it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Session ID, SHA-256 of a ticket, that of a cookie, or key name.
    pub key: Key,
    /// Who it leads to, or for `Refused` away from.
    pub backends: BackendSet,
    /// What it is.
    pub class: RowClass,
    /// Last used.
    pub used: Millis,
}

/// Which table a [`Row`] is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowClass {
    /// A session, ticket or cookie.
    Exact,
    /// A proved key name.
    Name,
    /// A key name told in advance.
    Told,
    /// A prefix seen once.
    Candidate,
    /// An unknown key name that was refused; the backends are those that everybody avoids by now.
    Refused,
}

/// The tables of all workers, to look at from any thread. Readers hold nobody up: not writers, nor each other.
#[derive(Clone)]
pub struct Reader(Arc<Shared>);

impl Affinity {
    /// For those who only look.
    pub fn reader(&self) -> Reader {
        Reader(self.shared.clone())
    }

    /// See [`Reader::census`].
    pub fn census(&self, now: Millis) -> Census {
        self.reader().census(now)
    }

    /// See [`Reader::for_each_row`].
    pub fn for_each_row(&self, now: Millis, each: impl FnMut(Row)) {
        self.reader().for_each_row(now, each);
    }
}

impl Reader {
    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    /// Live rows of all shards. Walks the tables.
    pub fn census(&self, now: Millis) -> Census {
        let mut census = Census::default();
        self.for_each_row(now, |row| match (row.class, row.key.kind()) {
            (RowClass::Exact, KeyKind::SessionId) => census.session_ids += 1,
            (RowClass::Exact, KeyKind::Cookie) => census.cookies += 1,
            (RowClass::Exact, _) => census.tickets += 1,
            (RowClass::Name | RowClass::Told, _) => {
                census.key_names += 1;
                census.shared_key_names += usize::from(row.backends.len() > 1);
            }
            (RowClass::Candidate, _) => census.candidates += 1,
            (RowClass::Refused, _) => census.refusals += 1,
        });
        census
    }

    /// Every live row of all shards, in no particular order: for tools.
    pub fn for_each_row(&self, now: Millis, mut each: impl FnMut(Row)) {
        let live = |used: u64, ttl: u64| now.0.saturating_sub(used) <= ttl;
        let ttl = self.0.ttl;
        for shard in &self.0.shards {
            for row in shard.exact.rows(now.0) {
                let backends = BackendSet::one(row.backend);
                each(Row { key: row.key, backends, class: RowClass::Exact, used: Millis(row.used) });
            }
            for row in shard.names.names.snapshots().map(|words| names::decode(&words)) {
                let class = if row.told { RowClass::Told } else { RowClass::Name };
                if row.told || live(row.used, ttl.key) {
                    let key = Key::name(&row.name);
                    each(Row { key, backends: row.backends, class, used: Millis(row.used) });
                }
            }
            for row in shard.names.candidates.snapshots().map(|words| names::candidate(&words)) {
                if live(row.used, ttl.candidate) {
                    let (key, backends) = (Key::name(&row.name), BackendSet::one(row.backend));
                    each(Row { key, backends, class: RowClass::Candidate, used: Millis(row.used) });
                }
            }
            for row in shard.names.refusals.snapshots().filter(names::is_for_all).map(|words| names::decode(&words)) {
                if live(row.used, ttl.refusal) {
                    let key = Key::name(&row.name);
                    each(Row { key, backends: row.backends, class: RowClass::Refused, used: Millis(row.used) });
                }
            }
        }
    }
}
