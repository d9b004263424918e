//! Bounds and lifetimes of the affinity tables.

use super::key::KeyName;
use crate::backend::{BackendId, BackendSet, SET_WORDS};
use core::time::Duration;

/// How large the tables are, how long rows live, and what is known in advance. Sizes and lifetimes are fixed at construction.
#[derive(Clone, Debug)]
pub struct Config {
    /// Backends in the pool; their numbers are below it.
    pub backends: usize,
    /// Rows for session IDs and exact tickets, all shards together (`--session-capacity`). 42 bytes each. Filled to 90 % the table has
    /// lost hardly any, so plan for a tenth more than the live sessions.
    pub session_capacity: usize,
    /// A session or exact ticket is forgotten so long after its last use (`--session-ttl`).
    pub session_ttl: Duration,
    /// A key name is forgotten so long after a server last sealed or opened with it.
    pub key_ttl: Duration,
    /// A prefix seen once is forgotten so long after it was last seen.
    pub candidate_ttl: Duration,
    /// Who refused an unknown key name is forgotten so long after the last refusal.
    pub refusal_ttl: Duration,
    /// Key of the tables' hash: 16 random bytes, so that clients cannot aim at a bucket.
    pub secret: [u8; 16],
    /// Key names told in advance (`--ticket-key NAME=HEX16`). They neither expire nor are retired.
    pub ticket_keys: Vec<(BackendId, KeyName)>,
    /// A backend that refused an unknown key name once is not asked again by anybody. Right where a client's address says nothing about its
    /// server; a client can then lead those who share its key's name around their server, once for each other server. Else a refusal
    /// counts for the client that was refused, and for others after refusals in [`VOTES`](super::VOTES) networks. To begin with: see
    /// [`Affinity::let_one_refusal_count`](super::Affinity::let_one_refusal_count).
    pub one_refusal_counts: bool,
    /// Backends of which no key name is learned beyond those told in advance (`--ticket-key NAME=unknown`): their
    /// tickets are followed exactly, their unknown PSK identities balanced.
    pub no_key_names: BackendSet,
}

impl Config {
    /// 65536 sessions for two hours, key names for a day, prefixes and refusals for an hour, an all-zero secret.
    pub fn new(backends: usize) -> Config {
        Config {
            backends,
            session_capacity: 65_536,
            session_ttl: Duration::from_secs(7200),
            key_ttl: Duration::from_secs(86_400),
            candidate_ttl: Duration::from_secs(3600),
            refusal_ttl: Duration::from_secs(3600),
            secret: [0; 16],
            ticket_keys: Vec::new(),
            one_refusal_counts: true,
            no_key_names: BackendSet::EMPTY,
        }
    }

    /// One time-to-live for all that is learned (`--session-ttl`): a key that nothing was sealed or opened with for so long
    /// protects no session that is still worth anything. What is only a hint (prefixes, refusals) lives for an hour at
    /// most.
    pub fn lives(mut self, ttl: Duration) -> Config {
        let hint = ttl.min(Duration::from_secs(3600));
        (self.session_ttl, self.key_ttl, self.candidate_ttl, self.refusal_ttl) = (ttl, ttl, hint, hint);
        self
    }

    /// Rows of the exact table of one shard.
    pub(crate) fn exact_rows(&self, shards: usize) -> usize {
        self.session_capacity.div_ceil(shards)
    }

    /// Words of a set of backends.
    pub(crate) fn set_words(&self) -> usize {
        self.backends.div_ceil(64).clamp(1, SET_WORDS)
    }

    /// Rows of the key-name table of one shard: backends times live keys, with room for several generations of keys and
    /// for uneven buckets.
    pub(crate) fn name_rows(&self, shards: usize) -> usize {
        ((16 * self.backends).max(256) / shards).max(128) + 16 * self.ticket_keys.len()
    }

    /// Rows of the candidate table of one shard. Servers without key names fill it, so it is tens of rows, not
    /// hundreds, for a handful of backends.
    pub(crate) fn candidate_rows(&self, shards: usize) -> usize {
        (16 * self.backends / shards).max(64)
    }

    /// Rows of the refusal table of one shard. Clients can fill it; it holds nothing that must not be lost.
    pub(crate) fn refusal_rows(&self, shards: usize) -> usize {
        (16 * self.backends / shards).max(256)
    }
}
