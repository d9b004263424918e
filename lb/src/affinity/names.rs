//! Key names: which backends open tickets and PSK identities that begin with the same 16 bytes.
//!
//! Three small tables, kept apart so that what fills one cannot evict from another:
//!
//! | table | a row is | made by | when full, of what the heaviest maker in the bucket holds (see [`fair`](super::fair)) |
//! |---|---|---|---|
//! | names | a proved key name and the set of backends that open it | servers | the longest unused goes, never one told in advance |
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
//! **Shown names.** What a backend gives ourselves, when it is checked, is proof as it stands ([`Affinity::shown`](super::Affinity::shown)): no client has a part in it.
//!
//! **Candidates are hints.** An identity with the prefix of a candidate goes to its backend, marked as not proven: it
//! is the only backend known to have opened anything like it. So a new key costs refusals only until its first
//! acceptance. It is also what remains of *exact PSK rows*: most TLS 1.3 identities are used once, so a row for each
//! would be a table that only holds the past; the candidates keep the last few for clients that come back with the same
//! one.
//!
//! **Refusals.** Anybody can be refused who has seen a ticket with a live key's name: he puts garbage behind it. So a refusal counts
//! for the client that was refused: its unknown key name is not sent again to a backend that refused it while others remain, and costs it at
//! most N-1 refusals with N backends. For all clients a refusal counts once [`VOTES`] networks were refused; or at once, where a
//! client's address says nothing about its server ([`Config::one_refusal_counts`]): then a new key costs N-1 refusals in all, and a forger
//! can make it cost others as much. When the key's backend is found the row goes.
//!
//! **Retirement.** A backend leaves a key name's set by refusals only if (1) it has begun to use another key name since it last used this one, which
//! no client can make it do and which the current key of a server never sees, and (2) since then it has refused clients of at least
//! [`VOTES`] networks, and accepted none. That is slow, and may be: a key that is gone would be refused anywhere else too, so a dead
//! row costs only an uneven spread, while a row retired by mistake costs refusals. A backend that was retired is not among the refusals,
//! so if it was a mistake the key is learned anew like any other.
//!
//! **Doubt.** Servers whose tickets all begin alike (a magic number, a version, zeros) seem to share a key. Real sharers open each other's
//! tickets; of these each refuses what the others issued. A backend of a shared name that lately refused clients of at least
//! [`VOTES`] networks, and more than a quarter of what it was offered, makes the name doubtful for as long as its row lives: its tickets get
//! exact rows again, and what has none goes by the client's address to one of the name's backends. Of one network's refusals one counts
//! among so many acceptances, so that no host brings doubt with forged ones. Eight networks that conspire get that much and no more: where
//! the key is really shared, all of these open its tickets.

use super::config::Config;
use super::fair::{FairWriter, Held, MOST_WORTH};
use super::folded::Folded;
use super::host_tag;
use super::key::KeyName;
use super::metrics::Metrics;
use super::saved::{About, Mirror};
use super::table::{Inserted, META, STAMP, Table, WAYS};
use crate::backend::{BackendId, BackendSet, SET_WORDS};
use crate::sync::{Arc, AtomicU64, Ordering::Relaxed};
use crate::time::millis;
use core::ops::Range;
use siphasher::sip::SipHasher13;
use std::collections::HashMap;

/// Hash of an identity that was not digested: the key name was known when it was read. No other has it.
pub(crate) const UNKNOWN: u64 = 0;

/// Clients of so many networks must have been refused before that counts for others.
pub const VOTES: u32 = 8;

/// Rows of names: hash, stamp, meta, name in two words, set of backends. Of the set so much is held as there are backends to be.
pub(crate) const SET_ROW: usize = SET + SET_WORDS;
/// Rows of candidates: hash, stamp, meta, name in two words, hash of the identity, votes against it.
pub(crate) const CANDIDATE_ROW: usize = 7;
/// Rows of refusals: as of names, with votes against backends that are not in the set yet, or the client, in front of the set.
pub(crate) const REFUSAL_ROW: usize = SET_ROW + PENDING;
/// Where the set begins, in rows of names.
const SET: usize = 5;
/// Words of rows of names where there are few backends, as in most installations: 128 of them.
const FEW: usize = SET + 2;
/// The same in rows of refusals, and where the votes do.
const REFUSAL_SET: usize = SET + PENDING;
const VOTES_AT: usize = SET;
/// Backends of one unknown key name about which votes are counted at the same time.
const PENDING: usize = 8;

/// Meta word of a name: told in advance, at least for one backend.
const TOLD: u64 = 1 << 8;
/// Meta word of a name: its backends refuse each other's tickets.
const DOUBTED: u64 = 1 << 9;
/// Meta word of refusals: those of one client.
const OWN: u64 = 1 << 9;
/// Meta word of a candidate: its backend.
const BACKEND: u32 = 32;
/// Meta word of refusals: how many there were, at most 255.
const TIMES: u32 = 16;
/// A backend's hits and misses are halved at so many.
const MEMORY: u8 = 64;

/// Votes: one of 48 bits for each network. Two networks may have the same one, so there are never more votes than networks.
const VOTE_BITS: u64 = 48;

/// The vote of a client's network.
fn vote(client: u64) -> u64 {
    1 << ((client >> 32) % VOTE_BITS)
}

fn enough(votes: u64) -> bool {
    votes.count_ones() >= VOTES
}

/// The bucket of what one client was refused: in the name's own shard.
fn own_hash(hash: u64, client: u64) -> u64 {
    let mixed = (hash ^ client.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 29) & !0xffff_ffff | hash & 0xffff_ffff
}

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

/// The set of a row of names, or of refusals.
fn set_of<const W: usize>(words: &[u64; W]) -> BackendSet {
    BackendSet::from_words(&words[set_at::<W>()..])
}

const fn set_at<const W: usize>() -> usize {
    const { assert!(W == SET_ROW || W == REFUSAL_ROW) };
    W - SET_WORDS
}

fn put_set<const W: usize>(words: &mut [u64; W], set: &BackendSet) {
    set.to_words(&mut words[set_at::<W>()..]);
}

/// A row of names, or of refusals.
fn set_row<const W: usize>(hash: u64, now: u64, meta: u64, name: &KeyName, set: &BackendSet) -> [u64; W] {
    let [low, high] = name_words(name);
    let mut words = [0; W];
    words[..5].copy_from_slice(&[hash, now, meta, low, high]);
    put_set(&mut words, set);
    words
}

/// The row in which one client's refusals of a name are.
fn is_own(name: &KeyName, client: u64, words: &[u64]) -> bool {
    words[META] & OWN != 0 && words[VOTES_AT] == client && is(name, words)
}

/// The row in which everybody's are.
fn is_common(name: &KeyName, words: &[u64]) -> bool {
    words[META] & OWN == 0 && is(name, words)
}

/// What readers see of one shard.
#[derive(Clone)]
pub(crate) struct NameTables {
    pub names: Arc<Table<SET_ROW>>,
    pub candidates: Arc<Table<CANDIDATE_ROW>>,
    pub refusals: Arc<Table<REFUSAL_ROW>>,
    /// By backend: when it last began to use a key name of this shard. Stored by the shard's writer alone; each is a fact of its own.
    began: Arc<Box<[AtomicU64]>>,
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
    /// When the backend last began to use a key name of this shard; zero for never.
    pub fn began(&self, backend: BackendId) -> u64 {
        self.began.get(backend.index()).map_or(0, |at| at.load(Relaxed))
    }

    /// If it is a proved key name: `tell` hears once which backends open it, and whether that is in doubt.
    #[inline]
    pub fn openers<T>(
        &self,
        name: &KeyName,
        hash: u64,
        now: u64,
        ttl: Lifetimes,
        busy: &mut u64,
        mut tell: impl FnMut(&BackendSet, bool) -> T,
    ) -> Option<T> {
        // A set can be large, and is made where it is wanted.
        let mut told = |words: &[u64]| {
            let live = words[META] & TOLD != 0 || now.saturating_sub(words[STAMP]) <= ttl.key;
            (is(name, words) && live).then(|| tell(&BackendSet::from_words(&words[SET..]), words[META] & DOUBTED != 0))
        };
        match self.names.words() {
            ..=FEW => self.names.find_by_first(hash, busy, |words: &[u64; FEW]| told(words)),
            _ => self.names.find(hash, busy, |words| told(words)),
        }
    }

    /// It is a proved key name, and not in doubt.
    pub fn decides(&self, name: &KeyName, hash: u64, now: u64, ttl: Lifetimes) -> bool {
        let found = self.names.find_by_first(hash, &mut 0, |words: &[u64; SET]| {
            let live = words[META] & TOLD != 0 || now.saturating_sub(words[STAMP]) <= ttl.key;
            (is(name, words) && live).then_some(words[META] & DOUBTED == 0)
        });
        found == Some(true)
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
                if candidate.identity == identity && identity != UNKNOWN {
                    exact = Some(candidate.backend);
                }
            }
            None::<()>
        });
        (exact, all)
    }

    /// The backends that refused this unknown key name, as far as it counts for this client.
    pub fn refused_by(
        &self,
        name: &KeyName,
        hash: u64,
        client: Option<u64>,
        now: u64,
        ttl: Lifetimes,
        busy: &mut u64,
    ) -> BackendSet {
        let mut find = |hash, is: &dyn Fn(&[u64; REFUSAL_ROW]) -> bool| {
            let live = |words: &[u64; REFUSAL_ROW]| now.saturating_sub(words[STAMP]) <= ttl.refusal;
            let found = self.refusals.find(hash, busy, |words| (is(words) && live(words)).then(|| set_of(words)));
            found.unwrap_or_default()
        };
        let common = find(hash, &|words| is_common(name, words));
        match client {
            Some(client) => common.union(&find(own_hash(hash, client), &|words| is_own(name, client, words))),
            None => common,
        }
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

pub(crate) fn decode<const W: usize>(words: &[u64; W]) -> NameRow {
    NameRow { name: name_of(words), backends: set_of(words), used: words[STAMP], told: words[META] & TOLD != 0 }
}

/// One backend that opens one key name: known to the shard's writer alone.
#[derive(Clone, Copy, Debug)]
struct Opener {
    /// Last sealed or opened.
    used: u64,
    /// First seen to be.
    since: u64,
    /// Told in advance: stays.
    told: bool,
    /// Whose connection showed it.
    maker: u16,
    /// Networks that it has refused since it began to use another name.
    votes: u64,
    /// What it opened lately, and what it refused: one for each network until the counts are halved.
    hits: u8,
    misses: u8,
    /// Networks among the misses since then.
    missed: u64,
    /// Where it is kept besides, if it is.
    place: u32,
}

/// [`Opener::place`]: nowhere.
const NOWHERE: u32 = u32::MAX;

/// Where openers are kept besides.
struct KeptOpeners {
    mirror: Mirror,
    /// Places that none has.
    free: Vec<u32>,
}

impl Opener {
    fn hit(&mut self) {
        self.hits += 1;
        self.fade();
    }

    fn miss(&mut self, client: u64) {
        let vote = vote(client);
        if self.missed & vote == 0 {
            self.missed |= vote;
            self.misses += 1;
            self.fade();
        }
    }

    fn fade(&mut self) {
        if self.hits.max(self.misses) >= MEMORY {
            (self.hits, self.misses, self.missed) = (self.hits / 2, self.misses / 2, 0);
        }
    }

    /// It refuses more than a quarter, and not a few networks only.
    fn is_doubtful(&self) -> bool {
        enough(self.missed) && u32::from(self.misses) * 3 > u32::from(self.hits)
    }
}

/// How a name was seen to be used.
#[derive(Clone, Copy)]
struct Seen {
    now: u64,
    /// For how long, if that is known.
    since: u64,
    told: bool,
    maker: u16,
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

impl NameEvent {
    fn seen(&self, now: u64) -> Seen {
        Seen { now, since: now, told: false, maker: host_tag(self.client) }
    }
}

/// One shard's writer.
pub(crate) struct NameShard {
    names: FairWriter<SET_ROW>,
    candidates: FairWriter<CANDIDATE_ROW>,
    refusals: FairWriter<REFUSAL_ROW>,
    began: Arc<Box<[AtomicU64]>>,
    /// Exactly one entry for each member of each set in `names`. Allocated once, never above `opener_bound`.
    openers: HashMap<(KeyName, BackendId), Opener, Folded>,
    opener_bound: usize,
    /// Of key names.
    hasher: SipHasher13,
    /// By whom they were shown.
    shown: Held,
    one_refusal_counts: bool,
    ttl: Lifetimes,
    cursor: usize,
    kept: Option<KeptOpeners>,
}

impl NameShard {
    pub fn new(config: &Config, shards: usize) -> NameShard {
        let opener_bound = NameShard::opener_bound(config, shards);
        NameShard {
            names: FairWriter::new(config.name_rows(shards), SET + config.set_words()),
            candidates: FairWriter::new(config.candidate_rows(shards), CANDIDATE_ROW),
            refusals: FairWriter::new(config.refusal_rows(shards), REFUSAL_SET + config.set_words()),
            began: Arc::new((0..config.backends).map(|_| AtomicU64::new(0)).collect()),
            // Twice the bound: a map that is at most half full makes room in place and never allocates again.
            openers: HashMap::with_capacity_and_hasher(2 * opener_bound, Folded::new(&config.secret)),
            opener_bound,
            hasher: SipHasher13::new_with_key(&config.secret),
            shown: Held::new(),
            one_refusal_counts: config.one_refusal_counts,
            ttl: Lifetimes::of(config),
            cursor: 0,
            kept: None,
        }
    }

    /// Rows that are kept besides.
    pub fn kept_rows(&self) -> usize {
        self.opener_bound + self.candidates.capacity()
    }

    /// From now on key names and candidates are kept in memory that begins where `mirror` says, too, each backend of a name as a row of its own.
    /// Those told in advance are not: who told them tells them again.
    pub fn keep(&mut self, mirror: impl Fn(usize) -> Mirror) {
        let free = (0..self.opener_bound as u32).rev().collect();
        self.kept = Some(KeptOpeners { mirror: mirror(0), free });
        self.candidates.keep(mirror(self.opener_bound), |mirror, at, words| {
            let Candidate { name, backend, identity, used } = candidate(words);
            mirror.put(at, backend, super::fair::maker(words[META]), used, About::Candidate { name, identity });
        });
    }

    /// Keeps what is known of a backend and a name, and what is known of the name.
    fn keep_opener(&mut self, name: &KeyName, backend: BackendId, doubted: bool) {
        let Some(kept) = &mut self.kept else { return };
        let Some(opener) = self.openers.get_mut(&(*name, backend)).filter(|opener| !opener.told) else { return };
        if opener.place == NOWHERE {
            // There are as many places as there may be openers.
            let Some(place) = kept.free.pop() else { return };
            opener.place = place;
        }
        let about = About::Name { name: *name, since: opener.since, doubted };
        kept.mirror.put(opener.place as usize, backend, opener.maker, opener.used, about);
    }

    /// All that would be kept: about what, backend, maker, last use.
    pub fn save(&self, each: &mut impl FnMut(About, BackendId, u16, u64)) {
        for (&(name, backend), opener) in self.openers.iter().filter(|(_, opener)| !opener.told) {
            let at = self.name_at(&name, super::hash_name(&self.hasher, &name));
            let doubted = at.is_some_and(|at| self.names.get(at)[META] & DOUBTED != 0);
            each(About::Name { name, since: opener.since, doubted }, backend, opener.maker, opener.used);
        }
        for words in self.candidates.table().snapshots() {
            let Candidate { name, backend, identity, used } = candidate(&words);
            each(About::Candidate { name, identity }, backend, super::fair::maker(words[META]), used);
        }
    }

    /// A backend opened tickets with this name when it was last known.
    pub fn restore_opener(&mut self, event: &NameEvent, since: u64, doubted: bool, metrics: &mut Metrics) {
        let NameEvent { name, hash, backend, .. } = event;
        self.add(name, *hash, *backend, Seen { since, ..event.seen(event.now) }, metrics);
        let Some(at) = self.name_at(name, *hash).filter(|_| doubted) else { return };
        let mut words = self.names.get(at);
        if words[META] & (DOUBTED | TOLD) == 0 {
            words[META] |= DOUBTED;
            self.names.replace(at, &words);
            self.keep_openers_at(at);
        }
    }

    /// A prefix was seen once when this was last known.
    pub fn restore_candidate(&mut self, event: &NameEvent, metrics: &mut Metrics) {
        if self.name_at(&event.name, event.hash).is_none() {
            self.nominate(event, metrics);
        }
    }

    /// Keeps all of a name.
    fn keep_openers_at(&mut self, at: usize) {
        let words = self.names.get(at);
        let (name, doubted) = (name_of(&words), words[META] & DOUBTED != 0);
        set_of(&words).iter().for_each(|backend| self.keep_opener(&name, backend, doubted));
    }

    /// See [`Affinity::let_one_refusal_count`](super::Affinity::let_one_refusal_count).
    pub fn let_one_refusal_count(&mut self, counts: bool) {
        self.one_refusal_counts = counts;
    }

    fn opener_bound(config: &Config, shards: usize) -> usize {
        // All backends may share a name, and all of its names may fall to one shard.
        config.name_rows(shards).max(8 * config.backends)
    }

    pub fn bytes_for(config: &Config, shards: usize) -> usize {
        // The standard map keeps one entry in eight free, rounds up to a power of two, and needs a byte for each.
        let slots = (2 * NameShard::opener_bound(config, shards) * 8 / 7 + 1).next_power_of_two();
        FairWriter::<SET_ROW>::bytes_for(config.name_rows(shards), SET + config.set_words())
            + FairWriter::<CANDIDATE_ROW>::bytes_for(config.candidate_rows(shards), CANDIDATE_ROW)
            + FairWriter::<REFUSAL_ROW>::bytes_for(config.refusal_rows(shards), REFUSAL_SET + config.set_words())
            + config.backends * size_of::<AtomicU64>()
            + Held::BYTES
            + slots * (size_of::<((KeyName, BackendId), Opener)>() + 1)
    }

    pub fn tables(&self) -> NameTables {
        NameTables {
            names: self.names.table(),
            candidates: self.candidates.table(),
            refusals: self.refusals.table(),
            began: self.began.clone(),
        }
    }

    /// A key name told in advance.
    pub fn tell(&mut self, name: &KeyName, hash: u64, backend: BackendId, metrics: &mut Metrics) {
        self.add(name, hash, backend, Seen { now: 0, since: 0, told: true, maker: 0 }, metrics);
    }

    /// The backend sealed or opened a ticket or identity with this prefix.
    pub fn opens(&mut self, event: &NameEvent, metrics: &mut Metrics) {
        let NameEvent { name, hash, identity, backend, now, .. } = event;
        self.expire(name, *hash, *now, metrics);
        if self.name_at(name, *hash).is_some() {
            return self.add(name, *hash, *backend, event.seen(*now), metrics);
        }
        if *identity == UNKNOWN {
            // The name has gone since: nothing tells this ticket from others.
            return;
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

    /// The backend uses this name now: that is known from different tickets that it gave ourselves.
    pub fn shown(&mut self, event: &NameEvent, metrics: &mut Metrics) {
        self.expire(&event.name, event.hash, event.now, metrics);
        self.prove(event, metrics);
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
                self.add(name, *hash, row.backend, event.seen(row.used), metrics);
            }
        }
        self.add(name, *hash, *backend, event.seen(*now), metrics);
        if let Some(at) = self.refusals.position(*hash, |words| is_common(name, words)) {
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
            (WAYS as u64 - rows) << 40 | words[STAMP] & (MOST_WORTH >> 4)
        };
        let oldest = event.now.saturating_sub(self.ttl.candidate);
        let (done, _) = self.candidates.insert(candidate_row(event), host_tag(event.client), oldest, worth);
        metrics.candidates.count(done);
    }

    /// Puts a backend into a key name's set, or notes that it used the name again.
    fn add(&mut self, name: &KeyName, hash: u64, backend: BackendId, seen: Seen, metrics: &mut Metrics) {
        let Seen { now, since, told, maker } = seen;
        let flag = if told { TOLD } else { 0 };
        let key = (*name, backend);
        if let Some(opener) = self.openers.get_mut(&key) {
            opener.used = opener.used.max(now);
            opener.votes = 0;
            opener.told |= told;
            opener.hit();
        } else {
            if self.openers.len() >= self.opener_bound && !self.drop_oldest_opener(maker, metrics) {
                metrics.names.crowded += 1;
                return;
            }
            metrics.names.inserted += 1;
            self.shown.more(maker);
            let opener =
                Opener { used: now, since, told, maker, votes: 0, hits: 1, misses: 0, missed: 0, place: NOWHERE };
            self.openers.insert(key, opener);
            if let Some(began) = self.began.get(backend.index()).filter(|_| !told) {
                began.store(since.max(began.load(Relaxed)), Relaxed);
            }
        }
        // Only now: making room may have removed this very name.
        let Some(at) = self.name_at(name, hash) else {
            let row = set_row(hash, now, 1 | flag, name, &BackendSet::one(backend));
            let (done, gone) = self.names.insert(row, maker, now.saturating_sub(self.ttl.key), name_worth);
            if done == Inserted::Refused {
                self.remove_opener(name, backend);
                metrics.names.inserted -= 1;
                metrics.names.crowded += 1;
            }
            // The row that had to go for this one takes its openers with it.
            if let Some(row) = gone {
                let gone = name_of(&row);
                set_of(&row).iter().for_each(|b| self.remove_opener(&gone, b));
            }
            metrics.names.expired += u64::from(done == Inserted::Expired);
            metrics.names.evicted += u64::from(done == Inserted::Evicted);
            return self.keep_opener(name, backend, false);
        };
        let [_, stamp, meta] = self.names.first(at);
        let there = self.names.any_word(at, SET + backend.index() / 64) >> (backend.0 % 64) & 1 == 1;
        if !there || meta & flag != flag {
            let mut words = self.names.get(at);
            let mut set = set_of(&words);
            set.insert(backend);
            words[META] |= flag;
            put_set(&mut words, &set);
            words[STAMP] = words[STAMP].max(now);
            self.names.replace(at, &words);
        } else if stamp < now {
            self.names.touch(at, now);
        }
        self.keep_opener(name, backend, meta & DOUBTED != 0);
    }

    /// Makes room for one that `maker` shows, as in a full bucket: the longest unused of the heaviest maker goes. False when that is
    /// `maker` himself, or nobody.
    fn drop_oldest_opener(&mut self, maker: u16, metrics: &mut Metrics) -> bool {
        let rank = |o: &Opener| (core::cmp::Reverse(self.shown.of(o.maker)), o.used);
        let oldest = self.openers.iter().filter(|(_, o)| !o.told).min_by_key(|(_, o)| rank(o));
        let Some((&(name, backend), opener)) = oldest else { return false };
        if self.shown.of(maker) > self.shown.of(opener.maker) {
            return false;
        }
        metrics.names.evicted += 1;
        self.drop_opener(&name, backend);
        true
    }

    fn remove_opener(&mut self, name: &KeyName, backend: BackendId) {
        if let Some(opener) = self.openers.remove(&(*name, backend)) {
            self.shown.less(opener.maker);
            if let Some(kept) = self.kept.as_mut().filter(|_| opener.place != NOWHERE) {
                kept.mirror.clear(opener.place as usize);
                kept.free.push(opener.place);
            }
        }
    }

    /// Takes a backend out of a name's set, and the row away when it was the last.
    fn drop_opener(&mut self, name: &KeyName, backend: BackendId) {
        self.remove_opener(name, backend);
        let hash = self.hash(name);
        let Some(at) = self.name_at(name, hash) else { return };
        let mut words = self.names.get(at);
        let mut set = set_of(&words);
        set.remove(backend);
        if set.is_empty() {
            self.names.remove(at);
        } else {
            put_set(&mut words, &set);
            self.names.replace(at, &words);
        }
    }

    /// Where a name's row is.
    fn name_at(&self, name: &KeyName, hash: u64) -> Option<usize> {
        self.names.position_by_first(hash, |words: &[u64; SET]| is(name, words))
    }

    /// The backends of a name's row.
    fn openers_at(&self, at: usize) -> BackendSet {
        match self.names.words() {
            ..=FEW => BackendSet::from_words(&self.names.first::<FEW>(at)[SET..]),
            _ => set_of(&self.names.get(at)),
        }
    }

    fn hash(&self, name: &KeyName) -> u64 {
        super::hash_name(&self.hasher, name)
    }

    /// The backend was offered an identity with this prefix and did not resume. `began` says when it last began to use a key name.
    pub fn refused(&mut self, event: &NameEvent, began: impl Fn() -> u64, metrics: &mut Metrics) {
        let NameEvent { name, hash, backend, client, now, .. } = event;
        self.expire(name, *hash, *now, metrics);
        if let Some(at) = self.name_at(name, *hash) {
            // A known key: either this backend promised to open it, or nothing is learned.
            let Some(opener) = self.openers.get_mut(&(*name, *backend)).filter(|o| !o.told) else { return };
            opener.miss(*client);
            let doubtful = opener.is_doubtful();
            if began() > opener.used {
                opener.votes |= vote(*client);
                if enough(opener.votes) {
                    metrics.names.retired += 1;
                    return self.drop_opener(name, *backend);
                }
            }
            let mut words = self.names.get(at);
            if doubtful && words[META] & (DOUBTED | TOLD) == 0 && set_of(&words).single().is_none() {
                words[META] |= DOUBTED;
                self.names.replace(at, &words);
                self.keep_openers_at(at);
            }
            return;
        }
        let mine = |words: &[u64; CANDIDATE_ROW]| {
            let candidate = candidate(words);
            candidate.name == *name && candidate.backend == *backend
        };
        if let Some(at) = self.candidates.position(*hash, mine) {
            let mut words = self.candidates.get(at);
            if began() <= words[STAMP] {
                return;
            }
            words[6] |= vote(*client);
            if enough(words[6]) {
                self.candidates.remove(at);
                metrics.candidates.retired += 1;
            } else {
                self.candidates.replace(at, &words);
            }
            return;
        }
        if !self.one_refusal_counts {
            let own = own_hash(*hash, *client);
            self.refuse(event, own, OWN, |words| is_own(name, *client, words), metrics);
        }
        self.refuse(event, *hash, 0, |words| is_common(name, words), metrics);
    }

    /// Notes it in the row of one client, or in everybody's.
    fn refuse(
        &mut self,
        event: &NameEvent,
        hash: u64,
        own: u64,
        mine: impl Fn(&[u64; REFUSAL_ROW]) -> bool,
        metrics: &mut Metrics,
    ) {
        let NameEvent { name, backend, client, now, .. } = event;
        let oldest = now.saturating_sub(self.ttl.refusal);
        let at = self.refusals.position(hash, mine);
        let before = at.map(|at| self.refusals.get(at)).filter(|words| words[STAMP] >= oldest);
        let times = before.map_or(0, |words| words[META] >> TIMES & 0xff) + 1;
        let mut words = before.unwrap_or_else(|| set_row(hash, *now, 0, name, &BackendSet::EMPTY));
        words[STAMP] = *now;
        words[META] = 1 | own | times.min(255) << TIMES;
        let mut set = set_of(&words);
        if own != 0 {
            words[VOTES_AT] = *client;
        }
        if own != 0 || self.one_refusal_counts || (!set.contains(*backend) && accuse(&mut words, *backend, *client)) {
            set.insert(*backend);
            put_set(&mut words, &set);
        }
        match at {
            Some(at) => self.refusals.replace(at, &words),
            None => {
                // Names refused once go before those refused again: a flood of inventions evicts itself.
                let worth =
                    |words: &[u64; REFUSAL_ROW]| (words[META] >> TIMES & 0xff) << 36 | words[STAMP] & (MOST_WORTH >> 8);
                let (done, _) = self.refusals.insert(words, host_tag(*client), oldest, worth);
                metrics.refusals.count(done);
            }
        }
    }

    /// Drops the openers of a name that have not used it for its time-to-live.
    fn expire(&mut self, name: &KeyName, hash: u64, now: u64, metrics: &mut Metrics) {
        let Some(at) = self.name_at(name, hash) else { return };
        for backend in self.openers_at(at).iter() {
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
        let capacity = self.names.capacity();
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
        if self.cursor >= self.longest() {
            self.cursor = 0;
        }
    }

    /// Places of the longest table.
    pub fn longest(&self) -> usize {
        self.names.capacity().max(self.candidates.capacity()).max(self.refusals.capacity())
    }

    /// Takes backends out of the names in `places`, those told in advance included.
    pub fn forget_names(&mut self, backends: &BackendSet, places: Range<usize>) {
        for at in places.start..places.end.min(self.names.capacity()) {
            let words = self.names.get(at);
            if words[META] != 0 {
                let name = name_of(&words);
                set_of(&words).filter(|b| backends.contains(b)).iter().for_each(|b| self.drop_opener(&name, b));
            }
        }
    }

    /// Clears what candidates and refusals in `places` say of backends.
    pub fn forget_hints(&mut self, backends: &BackendSet, places: Range<usize>) {
        self.candidates.sweep(places.clone(), |words| backends.contains(candidate(words).backend));
        for at in places.start..places.end.min(self.refusals.capacity()) {
            let mut words = self.refusals.get(at);
            if words[META] == 0 {
                continue;
            }
            let mut set = set_of(&words);
            let mut changed = false;
            for backend in backends.iter() {
                changed |= acquit(&mut words, backend) | set.remove(backend);
            }
            if changed {
                put_set(&mut words, &set);
                if set.is_empty() { self.refusals.remove(at) } else { self.refusals.replace(at, &words) }
            }
        }
    }

    /// Forgets when a backend began to use its latest name.
    pub fn forget_beginning(&mut self, backend: BackendId) {
        if let Some(began) = self.began.get(backend.index()) {
            began.store(0, Relaxed);
        }
    }
}

fn name_worth(words: &[u64; SET_ROW]) -> u64 {
    if words[META] & TOLD != 0 { u64::MAX } else { words[STAMP].min(MOST_WORTH) }
}

fn candidate_row(event: &NameEvent) -> [u64; CANDIDATE_ROW] {
    let [low, high] = name_words(&event.name);
    [event.hash, event.now, 1 | u64::from(event.backend.0) << BACKEND, low, high, event.identity, 0]
}

/// Forgets the votes against a backend in everybody's row; true when there were some.
fn acquit(words: &mut [u64; REFUSAL_ROW], backend: BackendId) -> bool {
    let own = words[META] & OWN != 0;
    let mine = |word: &&mut u64| !own && **word >> VOTE_BITS == u64::from(backend.0) + 1;
    words[VOTES_AT..REFUSAL_SET].iter_mut().find(mine).is_some_and(|word| core::mem::take(word) != 0)
}

/// One more vote of the client's network against a backend; true when that is enough. Of more backends than are kept apart, the one with
/// the fewest votes gives way.
fn accuse(words: &mut [u64; REFUSAL_ROW], backend: BackendId, client: u64) -> bool {
    // Backend + 1 in the upper 16 bits, votes below.
    let of = |backend: BackendId| (u64::from(backend.0) + 1) << VOTE_BITS;
    let votes = |word: u64| word & ((1 << VOTE_BITS) - 1);
    let pending = &mut words[VOTES_AT..REFUSAL_SET];
    let mine = pending.iter().position(|word| *word >> VOTE_BITS == u64::from(backend.0) + 1);
    let fewest = || (0..PENDING).min_by_key(|&i| votes(pending[i]).count_ones()).unwrap_or(0);
    let slot = mine.unwrap_or_else(fewest);
    let word = if mine.is_some() { pending[slot] } else { of(backend) } | vote(client);
    let done = enough(votes(word));
    pending[slot] = if done { 0 } else { word };
    done
}

/// A row of refusals that is not about one client alone.
pub(crate) fn is_for_all(words: &[u64; REFUSAL_ROW]) -> bool {
    words[META] & OWN == 0
}
