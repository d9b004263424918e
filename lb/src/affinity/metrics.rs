//! What the operator sees: does affinity work, and why not.

use super::key::IdentityKind;
use super::table::Inserted;
use crate::backend::BackendId;
use core::ops::AddAssign;

/// Connections that offered one kind of identity, at one backend or at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KindCounters {
    /// They were sent here with such an identity, and it was what decided or would have decided.
    pub offered: u64,
    /// The table had named this backend.
    pub promised: u64,
    /// The server resumed.
    pub accepted: u64,
    /// The server did not resume.
    pub refused: u64,
    /// Of the refused: the table said that this backend could.
    pub broken: u64,
    /// No row knew the identity.
    pub unknown: u64,
}

impl AddAssign for KindCounters {
    fn add_assign(&mut self, other: KindCounters) {
        self.offered += other.offered;
        self.promised += other.promised;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.broken += other.broken;
        self.unknown += other.unknown;
    }
}

/// What happened in one table of one shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableCounters {
    /// New rows.
    pub inserted: u64,
    /// Live rows that gave way to new ones: the table is too small.
    pub evicted: u64,
    /// New rows that got no place, because the client that made them holds more than any whose row could go for them.
    pub crowded: u64,
    /// Rows that outlived their time-to-live.
    pub expired: u64,
    /// Rows whose backend no longer does what they promised.
    pub retired: u64,
}

impl TableCounters {
    /// A new row, and what went for it.
    pub(crate) fn count(&mut self, done: Inserted) {
        self.inserted += u64::from(done != Inserted::Refused);
        self.crowded += u64::from(done == Inserted::Refused);
        self.expired += u64::from(done == Inserted::Expired);
        self.evicted += u64::from(done == Inserted::Evicted);
    }
}

impl AddAssign for TableCounters {
    fn add_assign(&mut self, other: TableCounters) {
        self.inserted += other.inserted;
        self.evicted += other.evicted;
        self.crowded += other.crowded;
        self.expired += other.expired;
        self.retired += other.retired;
    }
}

/// One worker's counters. Sum them over workers with [`Metrics::merge`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metrics {
    by_backend: Vec<[KindCounters; IdentityKind::ALL.len()]>,
    /// Session IDs, exact tickets and cookies of this worker's shard.
    pub exact: TableCounters,
    /// Key names (each with each backend that opens it) of this worker's shard.
    pub names: TableCounters,
    /// Prefixes that have not proved to be key names. Many of these and no key names: the servers' tickets have none.
    pub candidates: TableCounters,
    /// Unknown key names that were refused.
    pub refusals: TableCounters,
    /// Updates for other shards that found the outbox full; add the caller's own queue losses to it.
    pub updates_lost: u64,
    /// Rows that a lookup gave up because their writer kept changing them.
    pub busy: u64,
}

impl Metrics {
    pub(crate) fn new(backends: usize) -> Metrics {
        Metrics {
            by_backend: vec![Default::default(); backends],
            exact: TableCounters::default(),
            names: TableCounters::default(),
            candidates: TableCounters::default(),
            refusals: TableCounters::default(),
            updates_lost: 0,
            busy: 0,
        }
    }

    pub(crate) fn at(&mut self, backend: BackendId, kind: IdentityKind) -> Option<&mut KindCounters> {
        self.by_backend.get_mut(backend.index()).map(|kinds| &mut kinds[kind as usize])
    }

    /// Another backend has the slot: it begins at zero.
    pub(crate) fn clear(&mut self, backend: BackendId) {
        if let Some(kinds) = self.by_backend.get_mut(backend.index()) {
            *kinds = Default::default();
        }
    }

    /// One kind of identity at one backend.
    pub fn of(&self, backend: BackendId, kind: IdentityKind) -> KindCounters {
        self.by_backend.get(backend.index()).map_or_else(KindCounters::default, |kinds| kinds[kind as usize])
    }

    /// One kind of identity at all backends.
    pub fn kind(&self, kind: IdentityKind) -> KindCounters {
        let mut sum = KindCounters::default();
        for kinds in &self.by_backend {
            sum += kinds[kind as usize];
        }
        sum
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: &Metrics) {
        for (mine, theirs) in self.by_backend.iter_mut().zip(&other.by_backend) {
            for (a, &b) in mine.iter_mut().zip(theirs) {
                *a += b;
            }
        }
        self.exact += other.exact;
        self.names += other.names;
        self.candidates += other.candidates;
        self.refusals += other.refusals;
        self.updates_lost += other.updates_lost;
        self.busy += other.busy;
    }
}

/// Live rows in all tables at a moment, counted by walking them: for reports, not for every packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// Session IDs.
    pub session_ids: usize,
    /// Exact tickets.
    pub tickets: usize,
    /// Cookies.
    pub cookies: usize,
    /// Key names.
    pub key_names: usize,
    /// Key names that several backends open: these share their ticket keys.
    pub shared_key_names: usize,
    /// Prefixes seen at one backend with one ticket or identity.
    pub candidates: usize,
    /// Unknown key names that were refused.
    pub refusals: usize,
}

impl Census {
    /// Rows that promise something: everything but the refusals.
    pub fn rows(&self) -> usize {
        self.session_ids + self.tickets + self.cookies + self.key_names + self.candidates
    }
}
