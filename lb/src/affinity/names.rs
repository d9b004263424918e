//! Key names: which backends open tickets and PSK identities that begin with the same 16 bytes.
//!
//! Three small tables, kept apart so that what fills one cannot evict from another:
//!
//! | table | a row is | made by | when full |
//! |---|---|---|---|
//! | names | a proved key name and the set of backends that open it | servers | the longest unused of the bucket goes, never one told in advance |
//! | candidates | a prefix, a backend, and the one identity seen with it | servers | of the backend that holds most of the bucket, the longest unused |
//! | refusals | an unknown prefix and the backends that refused it | clients | the least often refused, of these the longest unused |
//!
//! **Proof.** RFC 5077 recommends, but does not require, that tickets begin with a key name; those of Java begin with 4
//! bytes of it, newer Go's with none, stateful identities are random. So a prefix is first a *candidate*. When the same
//! backend issues or opens a *different* ticket with the same 16 bytes, it is a key name: 128 bits do not meet by
//! chance. Once it is one, a single sighting at another backend adds that backend to the set.
//! A stream of tickets without names passes through the candidates and touches nothing else, and since the fullest
//! backend gives way first, it does not keep another backend's names from proving themselves either.
//!
//! **Candidates are hints.** An identity with the prefix of a candidate goes to its backend, marked as not proven: it
//! is the only backend known to have opened anything like it. So a new key costs refusals only until its first
//! acceptance. It is also what remains of *exact PSK rows*: most TLS 1.3 identities are used once, so a row for each
//! would be a table that only holds the past; the candidates keep the last few for clients that come back with the same
//! one.
//!
//! **Refusals.** An unknown key name is not sent again to a backend that refused it while others remain, so with N
//! backends it costs at most N-1 refusals. When the key's backend is found the row goes.
//!
//! **Retirement.** A backend leaves a key name's set when it refused [`RETIRE_AFTER`] times in a row, and not all of
//! these refusals came to one client. A key that is gone would be refused anywhere else too, so a dead row costs only
//! an uneven spread, while a row retired by mistake costs refusals: hence neither a single expired ticket nor one
//! client's forgeries (its own valid ticket gives it a live key name to put in front of garbage) may retire a row. A
//! backend that was retired is not among the refusals, so if it was a mistake the key is learned anew like any other.

use super::config::Config;
use super::key::KeyName;
use super::metrics::{Metrics, TableCounters};
use super::table::{Inserted, META, STAMP, Table, WAYS, Writer};
use crate::backend::{BackendId, BackendSet, SET_WORDS};
use crate::sync::Arc;
use crate::time::millis;
use siphasher::sip::SipHasher13;
use std::collections::HashMap;
use std::hash::BuildHasher;

/// Refusals in a row, to at least two clients, after which a backend is held not to have the key any more.
pub const RETIRE_AFTER: u8 = 3;

/// Rows of names and refusals: hash, stamp, meta, name in two words, set of backends.
pub(crate) const SET_ROW: usize = 5 + SET_WORDS;
/// Rows of candidates: hash, stamp, meta, name in two words, hash of the identity, first client that was refused.
pub(crate) const CANDIDATE_ROW: usize = 7;

/// Meta word of a name: told in advance, at least for one backend.
const TOLD: u64 = 1 << 8;
/// Meta word of a candidate: refusals in a row, whether to several clients, backend.
const RUN: u32 = 8;
const SEVERAL: u64 = 1 << 16;
const BACKEND: u32 = 32;
/// Meta word of refusals: how many there were, at most 255.
const TIMES: u32 = 8;

fn name_words(name: &KeyName) -> [u64; 2] {
    let whole = u128::from_le_bytes(*name);
    [whole as u64, (whole >> 64) as u64]
}

fn name_of(words: &[u64]) -> KeyName {
    (u128::from(words[3]) | u128::from(words[4]) << 64).to_le_bytes()
}

fn is(name: &KeyName, words: &[u64]) -> bool {
    words[3..5] == name_words(name)
}

fn set_of(words: &[u64; SET_ROW]) -> BackendSet {
    BackendSet(core::array::from_fn(|i| words[5 + i]))
}

fn set_row(hash: u64, now: u64, meta: u64, name: &KeyName, set: &BackendSet) -> [u64; SET_ROW] {
    let [low, high] = name_words(name);
    let mut words = [0; SET_ROW];
    words[..5].copy_from_slice(&[hash, now, meta, low, high]);
    words[5..].copy_from_slice(&set.0);
    words
}

/// What readers see of one shard.
#[derive(Clone)]
pub(crate) struct NameTables {
    pub names: Arc<Table<SET_ROW>>,
    pub candidates: Arc<Table<CANDIDATE_ROW>>,
    pub refusals: Arc<Table<SET_ROW>>,
}

/// Lifetimes, milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Lifetimes {
    pub key: u64,
    pub candidate: u64,
    pub refusal: u64,
}

impl Lifetimes {
    pub fn of(config: &Config) -> Lifetimes {
        Lifetimes {
            key: millis(config.key_ttl),
            candidate: millis(config.candidate_ttl),
            refusal: millis(config.refusal_ttl),
        }
    }
}

/// A decoded candidate.
pub(crate) struct Candidate {
    pub name: KeyName,
    pub backend: BackendId,
    pub identity: u64,
    pub used: u64,
}

impl NameTables {
    /// The backends that open a proved key name, if it is one.
    pub fn openers(&self, name: &KeyName, hash: u64, now: u64, ttl: Lifetimes, busy: &mut u64) -> Option<BackendSet> {
        self.names.find(hash, busy, |words| {
            let live = words[META] & TOLD != 0 || now.saturating_sub(words[STAMP]) <= ttl.key;
            (is(name, words) && live).then(|| set_of(words))
        })
    }

    /// Candidates with this prefix: the backend that was seen with this very identity, and all backends.
    pub fn candidates(
        &self,
        name: &KeyName,
        hash: u64,
        identity: u64,
        now: u64,
        ttl: Lifetimes,
        busy: &mut u64,
    ) -> (Option<BackendId>, BackendSet) {
        let mut exact = None;
        let mut all = BackendSet::EMPTY;
        self.candidates.find(hash, busy, |words| {
            let candidate = candidate(words);
            if candidate.name == *name && now.saturating_sub(candidate.used) <= ttl.candidate {
                all.insert(candidate.backend);
                if candidate.identity == identity {
                    exact = Some(candidate.backend);
                }
            }
            None::<()>
        });
        (exact, all)
    }

    /// The backends that refused this unknown key name.
    pub fn refused_by(&self, name: &KeyName, hash: u64, now: u64, ttl: Lifetimes, busy: &mut u64) -> BackendSet {
        self.refusals
            .find(hash, busy, |words| {
                let live = now.saturating_sub(words[STAMP]) <= ttl.refusal;
                (is(name, words) && live).then(|| set_of(words))
            })
            .unwrap_or_default()
    }
}

pub(crate) fn candidate(words: &[u64; CANDIDATE_ROW]) -> Candidate {
    Candidate {
        name: name_of(words),
        backend: BackendId((words[META] >> BACKEND) as u16),
        identity: words[5],
        used: words[STAMP],
    }
}

/// A decoded key name: for tools.
pub(crate) struct NameRow {
    pub name: KeyName,
    pub backends: BackendSet,
    pub used: u64,
    pub told: bool,
}

pub(crate) fn decode(words: &[u64; SET_ROW]) -> NameRow {
    NameRow { name: name_of(words), backends: set_of(words), used: words[STAMP], told: words[META] & TOLD != 0 }
}

/// One backend that opens one key name: known to the shard's writer alone.
#[derive(Clone, Copy, Debug)]
struct Opener {
    /// Last sealed or opened.
    used: u64,
    /// Told in advance: stays.
    told: bool,
    run: Run,
}

/// Refusals in a row.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    length: u8,
    first_client: u64,
    several: bool,
}

impl Run {
    /// One more; true when that is enough to give up.
    fn refused(&mut self, client: u64) -> bool {
        if self.length == 0 {
            self.first_client = client;
        }
        self.several |= client != self.first_client;
        self.length = self.length.saturating_add(1);
        self.length >= RETIRE_AFTER && self.several
    }
}

/// The tables' own keyed hash, for the writer's private map.
#[derive(Clone)]
struct Keyed(SipHasher13);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        self.0
    }
}

/// A sighting of a prefix at a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameEvent {
    pub name: KeyName,
    /// Keyed hash of the name.
    pub hash: u64,
    /// Keyed hash of the whole ticket or identity.
    pub identity: u64,
    pub backend: BackendId,
    pub client: u64,
    pub now: u64,
}

/// One shard's writer.
pub(crate) struct NameShard {
    names: Writer<SET_ROW>,
    candidates: Writer<CANDIDATE_ROW>,
    refusals: Writer<SET_ROW>,
    /// Exactly one entry for each member of each set in `names`. Allocated once, never above `opener_bound`.
    openers: HashMap<(KeyName, BackendId), Opener, Keyed>,
    opener_bound: usize,
    ttl: Lifetimes,
    cursor: usize,
}

impl NameShard {
    pub fn new(config: &Config, shards: usize) -> NameShard {
        let opener_bound = NameShard::opener_bound(config, shards);
        NameShard {
            names: Table::new(config.name_rows(shards), WAYS),
            candidates: Table::new(config.candidate_rows(shards), WAYS),
            refusals: Table::new(config.refusal_rows(shards), WAYS),
            // Twice the bound: a map that is at most half full makes room in place and never allocates again.
            openers: HashMap::with_capacity_and_hasher(
                2 * opener_bound,
                Keyed(SipHasher13::new_with_key(&config.secret)),
            ),
            opener_bound,
            ttl: Lifetimes::of(config),
            cursor: 0,
        }
    }

    fn opener_bound(config: &Config, shards: usize) -> usize {
        // All backends may share a name, and all of its names may fall to one shard.
        config.name_rows(shards).max(8 * config.backends)
    }

    pub fn bytes_for(config: &Config, shards: usize) -> usize {
        // The standard map keeps one entry in eight free, rounds up to a power of two, and needs a byte for each.
        let slots = (2 * NameShard::opener_bound(config, shards) * 8 / 7 + 1).next_power_of_two();
        Table::<SET_ROW>::bytes_for(config.name_rows(shards), WAYS)
            + Table::<CANDIDATE_ROW>::bytes_for(config.candidate_rows(shards), WAYS)
            + Table::<SET_ROW>::bytes_for(config.refusal_rows(shards), WAYS)
            + slots * (size_of::<((KeyName, BackendId), Opener)>() + 1)
    }

    pub fn tables(&self) -> NameTables {
        NameTables { names: self.names.table(), candidates: self.candidates.table(), refusals: self.refusals.table() }
    }

    /// A key name told in advance.
    pub fn tell(&mut self, name: &KeyName, hash: u64, backend: BackendId, metrics: &mut Metrics) {
        self.add(name, hash, backend, 0, true, metrics);
    }

    /// The backend sealed or opened a ticket or identity with this prefix.
    pub fn opens(&mut self, event: &NameEvent, metrics: &mut Metrics) {
        let NameEvent { name, hash, identity, backend, now, .. } = event;
        self.expire(name, *hash, *now, metrics);
        if self.names.position(*hash, |words| is(name, words)).is_some() {
            return self.add(name, *hash, *backend, *now, false, metrics);
        }
        let mine = |words: &[u64; CANDIDATE_ROW]| {
            let candidate = candidate(words);
            candidate.name == *name && candidate.backend == *backend
        };
        match self.candidates.position(*hash, mine) {
            None => self.nominate(event, metrics),
            Some(at) => {
                let row = candidate(&self.candidates.get(at));
                let live = now.saturating_sub(row.used) <= self.ttl.candidate;
                if live && row.identity != *identity {
                    self.prove(event, metrics);
                } else {
                    self.candidates.replace(at, &candidate_row(event));
                }
            }
        }
    }

    /// A different ticket with a candidate's prefix, from the same backend: a key name. Other backends that were seen
    /// with it share the key.
    fn prove(&mut self, event: &NameEvent, metrics: &mut Metrics) {
        let NameEvent { name, hash, backend, now, .. } = event;
        let oldest = now.saturating_sub(self.ttl.candidate);
        while let Some(at) = self.candidates.position(*hash, |words| is(name, words)) {
            let row = candidate(&self.candidates.get(at));
            self.candidates.remove(at);
            if row.used >= oldest {
                self.add(name, *hash, row.backend, row.used, false, metrics);
            }
        }
        self.add(name, *hash, *backend, *now, false, metrics);
        if let Some(at) = self.refusals.position(*hash, |words| is(name, words)) {
            self.refusals.remove(at);
        }
    }

    fn nominate(&mut self, event: &NameEvent, metrics: &mut Metrics) {
        let mut held = [(0u16, 0u64); WAYS];
        for (slot, (_, words)) in held.iter_mut().zip(self.candidates.bucket(event.hash)) {
            *slot = (candidate(&words).backend.0, 1);
        }
        let worth = |words: &[u64; CANDIDATE_ROW]| {
            let backend = candidate(words).backend.0;
            let rows: u64 = held.iter().filter(|(b, _)| *b == backend).map(|(_, n)| n).sum();
            (WAYS as u64 - rows) << 56 | words[STAMP] & (u64::MAX >> 8)
        };
        let oldest = event.now.saturating_sub(self.ttl.candidate);
        let done = self.candidates.insert(&candidate_row(event), oldest, worth);
        count(&mut metrics.candidates, done);
    }

    /// Puts a backend into a key name's set, or notes that it used the name again.
    fn add(&mut self, name: &KeyName, hash: u64, backend: BackendId, now: u64, told: bool, metrics: &mut Metrics) {
        let flag = if told { TOLD } else { 0 };
        let key = (*name, backend);
        if let Some(opener) = self.openers.get_mut(&key) {
            opener.used = opener.used.max(now);
            opener.run = Run::default();
            opener.told |= told;
        } else {
            if self.openers.len() >= self.opener_bound && !self.drop_oldest_opener(metrics) {
                return;
            }
            metrics.names.inserted += 1;
            self.openers.insert(key, Opener { used: now, told, run: Run::default() });
        }
        // Only now: making room may have removed this very name.
        let Some(at) = self.names.position(hash, |words| is(name, words)) else {
            let row = set_row(hash, now, 1 | flag, name, &BackendSet::one(backend));
            // The row that has to go for this one takes its openers with it.
            let doomed = self.doomed(hash, now);
            let done = self.names.insert(&row, now.saturating_sub(self.ttl.key), name_worth);
            match (done, doomed) {
                (Inserted::Refused, _) => drop(self.openers.remove(&key)),
                (Inserted::Expired | Inserted::Evicted, Some(gone)) => self.openers.retain(|(of, _), _| *of != gone),
                _ => {}
            }
            metrics.names.expired += u64::from(done == Inserted::Expired);
            metrics.names.evicted += u64::from(done == Inserted::Evicted);
            return;
        };
        let mut words = self.names.get(at);
        let mut set = set_of(&words);
        if set.insert(backend) || words[META] & flag != flag {
            words[META] |= flag;
            words[5..].copy_from_slice(&set.0);
            words[STAMP] = words[STAMP].max(now);
            self.names.replace(at, &words);
        } else if words[STAMP] < now {
            self.names.touch(at, now);
        }
    }

    /// Whose row an insertion into this full bucket would replace: the same choice as [`Writer::insert`]'s.
    fn doomed(&self, hash: u64, now: u64) -> Option<KeyName> {
        let rows = || self.names.bucket(hash).map(|(_, words)| words);
        let oldest = now.saturating_sub(self.ttl.key);
        if rows().count() < WAYS {
            return None;
        }
        rows()
            .filter(|words| name_worth(words) != u64::MAX)
            .min_by_key(|words| (u8::from(words[STAMP] >= oldest), words[STAMP]))
            .map(|words| name_of(&words))
    }

    fn drop_oldest_opener(&mut self, metrics: &mut Metrics) -> bool {
        let oldest = self.openers.iter().filter(|(_, opener)| !opener.told).min_by_key(|(_, opener)| opener.used);
        let Some((&(name, backend), _)) = oldest else { return false };
        metrics.names.evicted += 1;
        self.drop_opener(&name, backend);
        true
    }

    /// Takes a backend out of a name's set, and the row away when it was the last.
    fn drop_opener(&mut self, name: &KeyName, backend: BackendId) {
        self.openers.remove(&(*name, backend));
        let hash = self.hash(name);
        let Some(at) = self.names.position(hash, |words| is(name, words)) else { return };
        let mut words = self.names.get(at);
        let mut set = set_of(&words);
        set.remove(backend);
        if set.is_empty() {
            self.names.remove(at);
        } else {
            words[5..].copy_from_slice(&set.0);
            self.names.replace(at, &words);
        }
    }

    fn hash(&self, name: &KeyName) -> u64 {
        super::hash_name(&self.openers.hasher().0, name)
    }

    /// The backend was offered an identity with this prefix and did not resume.
    pub fn refused(&mut self, event: &NameEvent, metrics: &mut Metrics) {
        let NameEvent { name, hash, backend, client, now, .. } = event;
        self.expire(name, *hash, *now, metrics);
        if self.names.position(*hash, |words| is(name, words)).is_some() {
            // A known key: either this backend promised to open it, or nothing is learned.
            let Some(opener) = self.openers.get_mut(&(*name, *backend)) else { return };
            if opener.run.refused(*client) && !opener.told {
                metrics.names.retired += 1;
                self.drop_opener(name, *backend);
            }
            return;
        }
        let mine = |words: &[u64; CANDIDATE_ROW]| {
            let candidate = candidate(words);
            candidate.name == *name && candidate.backend == *backend
        };
        if let Some(at) = self.candidates.position(*hash, mine) {
            let mut words = self.candidates.get(at);
            let mut run =
                Run { length: (words[META] >> RUN) as u8, first_client: words[6], several: words[META] & SEVERAL != 0 };
            if run.refused(*client) {
                self.candidates.remove(at);
                metrics.candidates.retired += 1;
            } else {
                let several = if run.several { SEVERAL } else { 0 };
                words[META] = words[META] & !(0xff << RUN) | u64::from(run.length) << RUN | several;
                words[6] = run.first_client;
                self.candidates.replace(at, &words);
            }
            return;
        }
        let oldest = now.saturating_sub(self.ttl.refusal);
        if let Some(at) = self.refusals.position(*hash, |words| is(name, words)) {
            let words = self.refusals.get(at);
            let fresh = words[STAMP] >= oldest;
            let mut set = if fresh { set_of(&words) } else { BackendSet::EMPTY };
            let times = if fresh { ((words[META] >> TIMES & 0xff) + 1).min(255) } else { 1 };
            set.insert(*backend);
            self.refusals.replace(at, &set_row(*hash, *now, 1 | times << TIMES, name, &set));
        } else {
            let row = set_row(*hash, *now, 1 | 1 << TIMES, name, &BackendSet::one(*backend));
            // Names refused once go before those refused again: a flood of inventions evicts itself.
            let worth = |words: &[u64; SET_ROW]| (words[META] >> TIMES & 0xff) << 48 | words[STAMP] & (u64::MAX >> 16);
            let done = self.refusals.insert(&row, oldest, worth);
            count(&mut metrics.refusals, done);
        }
    }

    /// Drops the openers of a name that have not used it for its time-to-live.
    fn expire(&mut self, name: &KeyName, hash: u64, now: u64, metrics: &mut Metrics) {
        let Some(at) = self.names.position(hash, |words| is(name, words)) else { return };
        for backend in set_of(&self.names.get(at)).iter() {
            let opener = self.openers.get(&(*name, backend));
            if opener.is_none_or(|o| !o.told && now.saturating_sub(o.used) > self.ttl.key) {
                metrics.names.expired += 1;
                self.drop_opener(name, backend);
            }
        }
    }

    /// Clears expired rows among the next `rows` of each table.
    pub fn sweep(&mut self, now: u64, rows: usize, metrics: &mut Metrics) {
        let places = self.cursor..self.cursor + rows;
        let ttl = self.ttl;
        let capacity = self.names.table().capacity();
        for at in places.start..places.end.min(capacity) {
            let words = self.names.get(at);
            if words[META] != 0 {
                self.expire(&name_of(&words), words[0], now, metrics);
            }
        }
        let old = |span: u64| now.saturating_sub(span);
        metrics.candidates.expired +=
            self.candidates.sweep(places.clone(), |words| words[STAMP] < old(ttl.candidate)) as u64;
        metrics.refusals.expired += self.refusals.sweep(places, |words| words[STAMP] < old(ttl.refusal)) as u64;
        self.cursor += rows;
        let longest = capacity.max(self.candidates.table().capacity()).max(self.refusals.table().capacity());
        if self.cursor >= longest {
            self.cursor = 0;
        }
    }

    /// Clears everything about a backend, what was told in advance included.
    pub fn forget(&mut self, backend: BackendId) {
        for at in 0..self.names.table().capacity() {
            let words = self.names.get(at);
            if words[META] != 0 && set_of(&words).contains(backend) {
                self.drop_opener(&name_of(&words), backend);
            }
        }
        self.candidates.sweep(0..usize::MAX, |words| candidate(words).backend == backend);
        for at in 0..self.refusals.table().capacity() {
            let mut words = self.refusals.get(at);
            let mut set = set_of(&words);
            if words[META] != 0 && set.remove(backend) {
                words[5..].copy_from_slice(&set.0);
                if set.is_empty() { self.refusals.remove(at) } else { self.refusals.replace(at, &words) }
            }
        }
    }
}

fn name_worth(words: &[u64; SET_ROW]) -> u64 {
    if words[META] & TOLD != 0 { u64::MAX } else { words[STAMP] }
}

fn candidate_row(event: &NameEvent) -> [u64; CANDIDATE_ROW] {
    let [low, high] = name_words(&event.name);
    [event.hash, event.now, 1 | u64::from(event.backend.0) << BACKEND, low, high, event.identity, 0]
}

fn count(counters: &mut TableCounters, done: Inserted) {
    counters.inserted += u64::from(done != Inserted::Refused);
    counters.expired += u64::from(done == Inserted::Expired);
    counters.evicted += u64::from(done == Inserted::Evicted);
}
