//! Affinity: identity -> backend, learned only from what the servers say in clear.
//!
//! **Lookup**, at the ClientHello; first match wins, and its backend must be eligible:
//! 1. TLS 1.3 PSK identities, in order: this exact identity, then its key name.
//! 2. The ticket of TLS <= 1.2: this exact ticket, then its key name; but at once its key name when the ticket was not digested for that
//!    ([`Affinity::identify`]).
//! 3. The session ID.
//!
//! Cookies of plain HTTP come alone: the first of those offered that has a row decides.
//!
//! **Learning**, at the server's answer: the `session_*`, `ticket_*` and `psk_*` calls. A client can never make a row
//! by what it claims: every row is made by a server that issued or resumed something, except those of the small table
//! of refused unknown key names, which holds nothing that must not be lost. A cookie's row is made by the server that sets it, and by nothing else.
//!
//! | table | a row is | bound |
//! |---|---|---|
//! | [exact](Census::session_ids) | a session ID, ticket or cookie -> backend | `session_capacity` |
//! | [key names](Census::key_names) | 16-byte key name -> backends that open it | about 16 for each backend |
//! | [candidates](Census::candidates) | a prefix that was seen once | about 16 for each backend |
//! | [refusals](Census::refusals) | an unknown key name -> backends that refused it | about 16 for each backend |
//!
//! # Several workers
//!
//! All four tables are cut into one shard for each worker, by a keyed hash of session, ticket or key name. Each worker
//! owns an [`Affinity`]: the only writer of its shard, a lock-free reader of all ([`table`] and, for the exact rows, [`cuckoo`] have the protocols). What a
//! worker learns about a key of another shard waits in its outbox as an [`Update`]: the caller takes it with
//! [`Affinity::next_update`], carries it to the worker [`Update::owner`] names through a bounded queue, and gives it
//! to [`Affinity::apply`] there. With one worker the same code runs and the outbox stays empty. An update that finds a
//! queue full is lost and counted; a lost row costs one full handshake.
//!
//! **On the way.** A client of plain HTTP comes back at once, and perhaps to a third worker, before the row of the cookie that it was just set is in its table. So cookies that
//! are on their way to their owner stand for a second in a small table of the worker that learned them, too ([`RECENT`] rows), where every worker looks that does
//! not find them with their owner.
//!
//! # What outlives the process
//!
//! A worker that is told to ([`Affinity::keep`]) writes each row that changes to memory that outlives the process, too, of which the caller knows what it is: for every row
//! of the exact table and of the candidates there is a place in it, and one for each backend of each key name. A process to come reads these places in any order and
//! gives what it wants to keep to [`Affinity::restore`]. Refusals are not kept: they are made by clients, and hold nothing that must not be lost.
//!
//! # Backends that come and go
//!
//! Rows name backends by slot, and a slot may be given to another backend. So each worker is told who has it: [`Affinity::admit`],
//! [`Affinity::dismiss`]. Nothing is learned of a slot that nobody has, and an update says which holder it means, so that one that was under
//! way meanwhile is nobody's. Rows of those that were dismissed are cleared in portions: [`Affinity::forget_some`].

mod config;
pub mod cuckoo;
mod exact;
mod fair;
mod folded;
mod forget;
mod holders;
mod key;
mod metrics;
mod names;
mod restore;
mod rows;
mod saved;
pub mod table;

pub use config::Config;
pub use forget::Forgetting;
pub use key::{Identity, IdentityKind, Key, KeyKind, KeyName, Offered, Reason, TicketDigest, key_name};
pub use metrics::{Census, KindCounters, Metrics, TableCounters};
pub use names::VOTES;
pub use restore::{Restored, kept_rows};
pub use rows::{Reader, Row, RowClass};
pub use saved::{About, Damaged, Memory, SAVED_WORDS, Saved, called};

use crate::backend::{BackendId, BackendSet};
use crate::sync::Arc;
use crate::time::{Millis, millis};
use core::cell::Cell;
use exact::{ExactShard, ExactTable, LONGEST_COOKIE, Learned};
use folded::Folded;
use holders::Holders;
use names::{Lifetimes, NameEvent, NameShard, NameTables};
use siphasher::sip::SipHasher13;
use std::collections::VecDeque;

/// Updates that wait for [`Affinity::next_update`]. A burst is 64 frames and a server's first flight makes at most a
/// few updates, so a caller that drains the outbox after each burst never fills it. When full, updates are lost and
/// counted.
pub const OUTBOX: usize = 1024;

/// Cookies that each of several workers keeps while they are on their way to their owners. When full, one gives way as in any table, and leads once it has
/// arrived.
pub const RECENT: usize = 512;

/// How long, milliseconds: far more than an update is under way.
const RECENT_TTL: u64 = 1000;

/// Rows of each table that [`Affinity::tick`] looks at.
pub const SWEEP: usize = 256;

/// Identities of one kind that a lookup considers. Clients offer one or two; a hello of thousands must not cost
/// thousands of lookups.
pub const MAX_OFFERED: usize = 16;

/// Who said something, to whom, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// The server.
    pub backend: BackendId,
    /// Who the client is, made by [`client`]: a hash of its network, and one of its host. Not of its port: who opens a thousand
    /// connections is one client.
    pub client: u64,
    /// Now.
    pub now: Millis,
}

/// A client for [`Sighting::client`], of two keyed hashes: of its *host* (an IPv4 address, or the /64 of an IPv6 address, all of whose
/// addresses one machine may have) and of the *network* around it (a /24, or a /48). Rows are charged to the host; votes are counted
/// by network.
pub const fn client(network: u32, host: u32) -> u64 {
    (network as u64) << 32 | host as u64
}

/// Who stands for the checks among clients: there are few names that they show, so they never hold most.
const CHECKS: u64 = u64::MAX;

/// What a client's rows are charged to: 16 bits of the hash of its host.
pub const fn host_tag(client: u64) -> u16 {
    client as u16
}

/// Backends that can resume what was offered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Never empty, all eligible. Several share ticket keys: balance among them.
    pub backends: BackendSet,
    /// What matched.
    pub reason: Reason,
    /// The row's key: session ID, SHA-256 of ticket or identity, or key name.
    pub key: Key,
    /// False for a key name that was seen with a single ticket so far, a good guess; and for one whose backends refuse each
    /// other's tickets, so that one of them can resume, and nobody knows which.
    pub proven: bool,
}

/// What the tables know about a hello.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lookup {
    /// Who can resume it; `None` when no row knows, or none of those that could is eligible.
    pub decision: Option<Decision>,
    /// Without a decision: eligible backends that refused the same unknown key name before, and those whose key names are all known
    /// ([`Affinity::explain`]). At least one eligible backend is not among them.
    pub avoid: BackendSet,
    /// The kind of identity that decided, or that should have: PSK before ticket before session ID. `None` when
    /// nothing was offered.
    pub kind: Option<IdentityKind>,
}

impl Lookup {
    /// Forgets what it says.
    #[inline]
    pub fn clear(&mut self) {
        (self.decision, self.kind) = (None, None);
        self.avoid.clear();
    }

    /// Something was offered and no row knows it.
    pub fn is_unknown(&self) -> bool {
        self.kind.is_some() && self.decision.is_none()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    ExactHas { key: Key, hash: u64, backend: BackendId, client: u16, end: u64, now: u64 },
    ExactUsed { key: Key, hash: u64, backend: BackendId, now: u64 },
    ExactEnded { key: Key, hash: u64, backend: BackendId, client: u16 },
    ExactRefused { key: Key, hash: u64, backend: BackendId, client: u16 },
    NameOpens(NameEvent),
    NameShown(NameEvent),
    NameRefused(NameEvent),
}

impl Change {
    /// Whom it is about.
    fn backend(&self) -> BackendId {
        match self {
            Change::ExactHas { backend, .. }
            | Change::ExactUsed { backend, .. }
            | Change::ExactEnded { backend, .. }
            | Change::ExactRefused { backend, .. } => *backend,
            Change::NameOpens(event) | Change::NameShown(event) | Change::NameRefused(event) => event.backend,
        }
    }
}

/// Something learned about a key of another worker's shard. `Copy`, owns no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Update {
    owner: u16,
    /// Of the backend that it is about.
    generation: u32,
    change: Change,
}

impl Update {
    /// The worker to bring it to: an index into what [`Affinity::for_workers`] returned.
    pub fn owner(&self) -> usize {
        usize::from(self.owner)
    }
}

struct ShardTables {
    exact: ExactTable,
    /// Cookies that this worker has learned for others, of the last second; none where there are no others.
    recent: Option<ExactTable>,
    names: NameTables,
}

/// What all workers read.
struct Shared {
    shards: Box<[ShardTables]>,
    backends: u16,
    ttl: Lifetimes,
    /// Of key names, and of what stands for one identity with such a name.
    hasher: SipHasher13,
    /// Of the keys of exact rows.
    folded: Folded,
}

impl Shared {
    fn shard(&self, hash: u64) -> usize {
        // The lower half chooses the shard, the upper the bucket.
        ((hash & 0xffff_ffff) as usize * self.shards.len()) >> 32
    }

    /// As candidates know it, a part of its digest; [`names::UNKNOWN`] when it was not digested.
    fn hash_identity(&self, identity: &Identity) -> u64 {
        if identity.is_whole() { identity.key().to_words().1[0].max(1) } else { names::UNKNOWN }
    }

    /// Of a proved key name: whether this backend opens it, and whether it is in doubt.
    fn opens(&self, name: &KeyName, hash: u64, backend: BackendId, now: u64) -> Option<(bool, bool)> {
        let names = &self.shards[self.shard(hash)].names;
        names.openers(name, hash, now, self.ttl, &mut 0, |openers, doubted| (openers.contains(backend), doubted))
    }

    #[inline]
    fn exact(&self, key: &Key, now: u64, busy: &mut u64) -> Option<BackendId> {
        let words = key.to_words();
        let hash = self.folded.of_words(&words);
        self.shards[self.shard(hash)].exact.find(&words, hash, now, busy)
    }

    fn cookie(&self, key: &Key, now: u64, busy: &mut u64) -> Option<BackendId> {
        let words = key.to_words();
        let hash = self.folded.of_words(&words);
        self.shards[self.shard(hash)].exact.find_cookie(&words, hash, now, busy).or_else(|| {
            let mut recent = self.shards.iter().filter_map(|shard| shard.recent.as_ref());
            recent.find_map(|recent| recent.find_cookie(&words, hash, now, busy))
        })
    }
}

fn hash_name(hasher: &SipHasher13, name: &KeyName) -> u64 {
    let mut bytes = [KeyKind::KeyName as u8; 17];
    bytes[1..].copy_from_slice(name);
    hasher.hash(&bytes)
}

/// One worker's part of the affinity tables: writes its shard, reads all.
pub struct Affinity {
    shared: Arc<Shared>,
    me: u16,
    exact: ExactShard,
    recent: Option<ExactShard>,
    names: NameShard,
    outbox: VecDeque<Update>,
    metrics: Metrics,
    /// Who has the slots, as far as this worker has been told.
    holders: Holders,
    /// Backends of which no key name is learned.
    no_key_names: BackendSet,
    /// Backends whose key names are all known: see [`Affinity::explain`].
    explained: BackendSet,
    /// Raised by lookups, which take `&self`.
    busy: Cell<u64>,
    /// What backends are called in rows that are kept, if any are.
    called: Option<std::sync::Arc<[std::sync::atomic::AtomicU64]>>,
}

impl Affinity {
    /// For a single worker.
    pub fn single(config: Config) -> Affinity {
        Affinity::for_workers(config, 1).pop().expect("one worker")
    }

    /// One for each of `workers` (at least 1, at most 65535), in the order of their numbers. All memory is taken here.
    pub fn for_workers(config: Config, workers: usize) -> Vec<Affinity> {
        let workers = workers.clamp(1, usize::from(u16::MAX));
        let session_ttl = millis(config.session_ttl);
        let recent = || (workers > 1).then(|| ExactShard::new(RECENT, RECENT_TTL));
        let exact = || ExactShard::new(config.exact_rows(workers), session_ttl);
        let writers: Vec<(ExactShard, Option<ExactShard>, NameShard)> =
            (0..workers).map(|_| (exact(), recent(), NameShard::new(&config, workers))).collect();
        let shared = Arc::new(Shared {
            shards: writers
                .iter()
                .map(|(exact, recent, names)| ShardTables {
                    exact: exact.table(),
                    recent: recent.as_ref().map(ExactShard::table),
                    names: names.tables(),
                })
                .collect(),
            backends: config.backends.min(crate::MAX_BACKENDS) as u16,
            ttl: Lifetimes::of(&config),
            hasher: SipHasher13::new_with_key(&config.secret),
            folded: Folded::new(&config.secret),
        });
        let mut all: Vec<Affinity> = writers
            .into_iter()
            .enumerate()
            .map(|(me, (exact, recent, names))| Affinity {
                shared: shared.clone(),
                me: me as u16,
                exact,
                recent,
                names,
                outbox: VecDeque::with_capacity(if workers > 1 { OUTBOX } else { 0 }),
                metrics: Metrics::new(config.backends),
                holders: Holders::new(config.backends),
                no_key_names: config.no_key_names,
                explained: BackendSet::EMPTY,
                busy: Cell::new(0),
                called: None,
            })
            .collect();
        for (backend, name) in &config.ticket_keys {
            all.iter_mut().for_each(|worker| worker.tell_name(*backend, name));
        }
        all
    }

    /// The rows of this worker's shard, which hellos lead to at random: what is worth large pages. All of it has been written.
    pub fn memory(&self) -> [core::ops::Range<*const u8>; 2] {
        self.shared.shards[usize::from(self.me)].exact.memory()
    }

    /// What the tables know about the identities of a ClientHello. `eligible` says which backends may be given a flow
    /// that resumes: see [`Pool::may_resume`](crate::Pool::may_resume).
    ///
    /// PSK identities count in the order given, up to [`MAX_OFFERED`]. Writes nothing: a client's claim refreshes no
    /// row.
    #[inline(always)]
    pub fn lookup(&self, offered: &[Identity], now: Millis, eligible: impl Fn(BackendId) -> bool) -> Lookup {
        self.lookup_of(None, offered, now, eligible)
    }

    /// The same for a client that is known (see [`Sighting::client`]): what it was refused itself counts, too.
    // Inlined, so that the answer is made where the caller wants it: sets can be large.
    #[inline(always)]
    pub fn lookup_of(
        &self,
        client: Option<u64>,
        offered: &[Identity],
        now: Millis,
        eligible: impl Fn(BackendId) -> bool,
    ) -> Lookup {
        let mut found = Lookup { decision: None, avoid: BackendSet::default(), kind: None };
        self.lookup_into(client, offered, now, eligible, &mut found);
        found
    }

    /// The same, where the answer is wanted: sets can be large, and so is what has room for them. What was there is forgotten.
    #[inline]
    pub fn lookup_into(
        &self,
        client: Option<u64>,
        offered: &[Identity],
        now: Millis,
        eligible: impl Fn(BackendId) -> bool,
        found: &mut Lookup,
    ) {
        let mut busy = 0;
        found.clear();
        self.look_up(client, offered, now.0, &eligible, found, &mut busy);
        self.busy.set(self.busy.get() + busy);
    }

    #[inline(never)]
    fn look_up(
        &self,
        client: Option<u64>,
        offered: &[Identity],
        now: u64,
        eligible: &impl Fn(BackendId) -> bool,
        found: &mut Lookup,
        busy: &mut u64,
    ) {
        let present = offered.iter().fold(0, |all, identity| all | 1u8 << identity.kind() as u8);
        for &kind in &[IdentityKind::Psk, IdentityKind::Ticket, IdentityKind::SessionId, IdentityKind::Cookie] {
            if present >> kind as u8 & 1 == 0 {
                continue;
            }
            let mut left = MAX_OFFERED;
            for identity in offered {
                if identity.kind() != kind {
                    continue;
                }
                let Some(less) = left.checked_sub(1) else { break };
                left = less;
                let decided = match kind {
                    IdentityKind::SessionId => {
                        self.exact(identity.key(), Reason::SessionId, now, eligible, found, busy)
                    }
                    IdentityKind::Cookie => self.cookie(identity.key(), now, eligible, found, busy),
                    _ => self.sealed(client, identity, now, eligible, found, busy),
                };
                if decided {
                    found.avoid.clear();
                    found.kind = Some(kind);
                    return;
                }
                found.kind.get_or_insert(kind);
            }
        }
    }

    /// The exact row of a session ID or ticket decides, or does not.
    #[inline]
    fn exact(
        &self,
        key: &Key,
        reason: Reason,
        now: u64,
        eligible: &impl Fn(BackendId) -> bool,
        found: &mut Lookup,
        busy: &mut u64,
    ) -> bool {
        let Some(backend) = self.shared.exact(key, now, busy).filter(|&b| eligible(b)) else { return false };
        // Written where it stays: sets can be large, and are not copied for nothing.
        found.decision = Some(Decision { backends: BackendSet::one(backend), reason, key: *key, proven: true });
        true
    }

    /// The row of a cookie decides, or does not.
    fn cookie(
        &self,
        key: &Key,
        now: u64,
        eligible: &impl Fn(BackendId) -> bool,
        found: &mut Lookup,
        busy: &mut u64,
    ) -> bool {
        let Some(backend) = self.shared.cookie(key, now, busy).filter(|&b| eligible(b)) else { return false };
        let backends = BackendSet::one(backend);
        found.decision = Some(Decision { backends, reason: Reason::Cookie, key: *key, proven: true });
        true
    }

    /// A ticket or PSK identity decides, or does not.
    fn sealed(
        &self,
        client: Option<u64>,
        identity: &Identity,
        now: u64,
        eligible: &impl Fn(BackendId) -> bool,
        found: &mut Lookup,
        busy: &mut u64,
    ) -> bool {
        let psk = identity.kind() == IdentityKind::Psk;
        let decide = |found: &mut Lookup, backends: &BackendSet, reason, key, proven| {
            let backends = backends.filter(eligible);
            let some = !backends.is_empty();
            if some {
                found.decision = Some(Decision { backends, reason, key, proven });
            }
            some
        };
        if !psk && identity.is_whole() && self.exact(identity.key(), Reason::Ticket, now, eligible, found, busy) {
            return true;
        }
        let Some(name) = identity.name() else { return false };
        let shared = &*self.shared;
        let hash = hash_name(&shared.hasher, name);
        let tables = &shared.shards[shared.shard(hash)].names;
        let by_name = if psk { Reason::PskKey } else { Reason::TicketKey };
        let decided = tables.openers(name, hash, now, shared.ttl, busy, |openers, doubted| {
            decide(found, openers, by_name, Key::name(name), !doubted)
        });
        if let Some(decided) = decided {
            // A known key is never among the refused ones.
            return decided;
        }
        let this = shared.hash_identity(identity);
        let (exact, candidates) = tables.candidates(name, hash, this, now, shared.ttl, busy);
        if let Some(backend) = exact
            && psk
            && eligible(backend)
        {
            return decide(found, &BackendSet::one(backend), Reason::Psk, *identity.key(), true);
        }
        if decide(found, &candidates, by_name, Key::name(name), false) {
            return true;
        }
        // The first identities weigh most: what the later ones add must leave a backend to choose.
        let refused = tables.refused_by(name, hash, client, now, shared.ttl, busy).filter(eligible);
        let leaves_some =
            |more: &BackendSet| (0..shared.backends).map(BackendId).any(|b| eligible(b) && !more.contains(b));
        let more = found.avoid.union(&refused);
        // Nor can it be of one all of whose keys are known.
        let most = more.union(&self.explained.filter(eligible));
        if leaves_some(&most) {
            found.avoid = most;
        } else if leaves_some(&more) {
            found.avoid = more;
        }
        false
    }

    /// An identity of a hello, digested only if its digest may matter: not when it begins with a proved key name that is not in doubt. That name
    /// decides then, in lookups and for what is learned. (Such a ticket may have an exact row, from before its key name was proved;
    /// it is among the tickets that the name's backends open, all the same.)
    ///
    /// `None` as of [`Identity::new`].
    pub fn identify(&self, offered: &Offered<'_>, now: Millis) -> Option<Identity> {
        let shared = &*self.shared;
        let by_name = Identity::by_name(offered).filter(|identity| {
            identity.name().is_some_and(|name| {
                let hash = hash_name(&shared.hasher, name);
                let names = &shared.shards[shared.shard(hash)].names;
                names.decides(name, hash, now.0, shared.ttl)
            })
        });
        by_name.or_else(|| Identity::new(offered))
    }

    /// A backend has given us, not a client, different tickets that begin with this name: it is one of its key names, and it uses it now. That is
    /// believed as it stands, and kept as long as it is said again.
    pub fn shown(&mut self, backend: BackendId, name: &KeyName, now: Millis) {
        if self.no_key_names.contains(backend) {
            return;
        }
        let hash = hash_name(&self.shared.hasher, name);
        let event = NameEvent { name: *name, hash, identity: names::UNKNOWN, backend, client: CHECKS, now: now.0 };
        self.learn(hash, Change::NameShown(event));
    }

    /// Whether all key names of a backend are known: then a ticket that no row explains can be of another one only, and clients that
    /// bring one are led to others first, while there are some.
    pub fn explain(&mut self, backend: BackendId, known: bool) {
        if known {
            self.explained.insert(backend);
        } else {
            self.explained.remove(backend);
        }
    }

    /// The flow of this hello goes to `backend`: counts it. Once for each connection, when it is bound.
    pub fn chosen(&mut self, found: &Lookup, backend: BackendId) {
        let Some(kind) = found.kind else { return };
        let Some(counters) = self.metrics.at(backend, kind) else { return };
        counters.offered += 1;
        match &found.decision {
            Some(decision) => counters.promised += u64::from(decision.backends.contains(backend)),
            None => counters.unknown += 1,
        }
    }

    /// The server has made a session: a ServerHello of TLS <= 1.2 with a session ID that is not the client's, or a
    /// NewSessionTicket of TLS <= 1.2, in clear. Of PSK identities nothing is seen when they are issued. Or a `Set-Cookie` that says no end: see
    /// [`Affinity::issued_for`].
    pub fn issued(&mut self, identity: &Identity, seen: Sighting) {
        match identity.kind() {
            IdentityKind::SessionId | IdentityKind::Cookie => self.exact_has(*identity.key(), 0, seen),
            IdentityKind::Ticket => self.ticket_seen(identity, seen),
            IdentityKind::Psk => {}
        }
    }

    /// The server has set this cookie for so long from now on, milliseconds: its row ends then, used or not, and in thirty days at the latest.
    pub fn issued_for(&mut self, cookie: &Identity, life: u64, seen: Sighting) {
        if cookie.kind() == IdentityKind::Cookie {
            self.exact_has(*cookie.key(), seen.now.0.saturating_add(life.min(LONGEST_COOKIE)).max(1), seen);
        }
    }

    /// The server has told its client to forget this cookie: its row goes, if it is this server's and was made by this client.
    pub fn deleted(&mut self, cookie: &Identity, seen: Sighting) {
        let key = *cookie.key();
        if cookie.kind() == IdentityKind::Cookie {
            let hash = self.shared.folded.of(&key);
            let client = host_tag(seen.client);
            self.learn(hash, Change::ExactEnded { key, hash, backend: seen.backend, client });
        }
    }

    /// The server's answer shows that it resumed by this identity of the hello:
    /// * session ID: a ServerHello of TLS <= 1.2 repeats it, and the client offered no ticket beside it. Makes the row if there
    ///   is none: the server has the session, whoever noticed its beginning.
    /// * ticket: it was offered without an ID and the flight is abbreviated; or the ID beside it, which the server repeats, cannot
    ///   be a session of its own. Else see [`Affinity::resumed_unclear`].
    /// * PSK: the ServerHello selected it, in answer to a hello that was read: after a HelloRetryRequest, the second.
    /// * cookie: the response sets no other. That is what servers say that know nothing of cookies, too: it keeps a row, and makes none.
    pub fn accepted(&mut self, identity: &Identity, seen: Sighting) {
        self.count_accepted(identity.kind(), seen.backend);
        match identity.kind() {
            IdentityKind::SessionId => self.exact_has(*identity.key(), 0, seen),
            IdentityKind::Ticket => self.ticket_seen(identity, seen),
            IdentityKind::Psk => _ = self.name_opens(identity, seen),
            IdentityKind::Cookie => {
                let (key, hash) = (*identity.key(), self.shared.folded.of(identity.key()));
                self.learn(hash, Change::ExactUsed { key, hash, backend: seen.backend, now: seen.now.0 });
            }
        }
    }

    /// The server resumed by an identity of this kind or by something else beside it, and nobody can say which: counted, and
    /// nothing is learned.
    pub fn resumed_unclear(&mut self, kind: IdentityKind, seen: Sighting) {
        self.count_accepted(kind, seen.backend);
    }

    /// The server's answer shows that it did not resume by this identity, though it was asked to:
    /// * session ID: another ID or none in a ServerHello of TLS <= 1.2, and no ticket beside it.
    /// * ticket: the same, when there was one.
    /// * PSK: a ServerHello of TLS 1.3 without `pre_shared_key`. A server that chose less was not asked, and a
    ///   HelloRetryRequest says nothing yet.
    /// * cookie: the response sets another.
    pub fn refused(&mut self, identity: &Identity, seen: Sighting) {
        let kind = identity.kind();
        let exact = match kind {
            IdentityKind::Psk => false,
            IdentityKind::Cookie => self.shared.cookie(identity.key(), seen.now.0, &mut 0) == Some(seen.backend),
            _ => self.shared.exact(identity.key(), seen.now.0, &mut 0) == Some(seen.backend),
        };
        let promised = exact || self.name_promises(identity, seen);
        self.count_refused(kind, seen.backend, promised);
        if kind != IdentityKind::Psk && identity.is_whole() {
            self.exact_refused(*identity.key(), seen);
        }
        self.name_refused(identity, seen);
    }

    fn ticket_seen(&mut self, ticket: &Identity, seen: Sighting) {
        let named = self.name_opens(ticket, seen);
        // Without its digest its key name was known a moment ago: a row less.
        if !named && ticket.is_whole() {
            self.exact_has(*ticket.key(), 0, seen);
        }
    }

    fn count_accepted(&mut self, kind: IdentityKind, backend: BackendId) {
        if let Some(counters) = self.metrics.at(backend, kind) {
            counters.accepted += 1;
        }
    }

    fn count_refused(&mut self, kind: IdentityKind, backend: BackendId, promised: bool) {
        if let Some(counters) = self.metrics.at(backend, kind) {
            counters.refused += 1;
            counters.broken += u64::from(promised);
        }
    }

    fn exact_has(&mut self, key: Key, end: u64, seen: Sighting) {
        let hash = self.shared.folded.of(&key);
        let client = host_tag(seen.client);
        self.learn(hash, Change::ExactHas { key, hash, backend: seen.backend, client, end, now: seen.now.0 });
    }

    fn exact_refused(&mut self, key: Key, seen: Sighting) {
        let hash = self.shared.folded.of(&key);
        self.learn(hash, Change::ExactRefused { key, hash, backend: seen.backend, client: host_tag(seen.client) });
    }

    fn name_event(&self, identity: &Identity, seen: Sighting) -> Option<NameEvent> {
        let name = *identity.name()?;
        Some(NameEvent {
            name,
            hash: hash_name(&self.shared.hasher, &name),
            identity: self.shared.hash_identity(identity),
            backend: seen.backend,
            client: seen.client,
            now: seen.now.0,
        })
    }

    /// True when the prefix is a proved key name and not in doubt, so that no exact row is needed.
    fn name_opens(&mut self, identity: &Identity, seen: Sighting) -> bool {
        let Some(event) = self.name_event(identity, seen) else { return false };
        let known = |me: &Affinity| me.shared.opens(&event.name, event.hash, seen.backend, event.now);
        let opens = known(self);
        if self.no_key_names.contains(seen.backend) && !opens.is_some_and(|(opens, _)| opens) {
            return false;
        }
        self.learn(event.hash, Change::NameOpens(event));
        opens.or_else(|| known(self)).is_some_and(|(_, doubted)| !doubted)
    }

    fn name_refused(&mut self, identity: &Identity, seen: Sighting) {
        if let Some(event) = self.name_event(identity, seen) {
            self.learn(event.hash, Change::NameRefused(event));
        }
    }

    /// Does a row say that this backend opens it?
    fn name_promises(&self, identity: &Identity, seen: Sighting) -> bool {
        let Some(event) = self.name_event(identity, seen) else { return false };
        match self.shared.opens(&event.name, event.hash, seen.backend, event.now) {
            Some((opens, _)) => opens,
            None => {
                let tables = &self.shared.shards[self.shared.shard(event.hash)].names;
                let NameEvent { name, hash, identity, now, .. } = event;
                let (_, all) = tables.candidates(&name, hash, identity, now, self.shared.ttl, &mut 0);
                all.contains(seen.backend)
            }
        }
    }

    fn learn(&mut self, hash: u64, change: Change) {
        let owner = self.shared.shard(hash) as u16;
        // Of one that has left: its rows are being cleared.
        let Some(generation) = self.holders.generation(change.backend()) else { return };
        let update = Update { owner, generation, change };
        if owner == self.me {
            return self.apply(update);
        }
        self.keep_recent(&change);
        if self.outbox.len() < OUTBOX {
            self.outbox.push_back(update);
        } else {
            self.metrics.updates_lost += 1;
        }
    }

    /// A cookie that is on its way to its owner can be seen by all at once.
    fn keep_recent(&mut self, change: &Change) {
        let Affinity { recent: Some(recent), holders, .. } = self else { return };
        // What is counted is counted by the owner.
        let mut uncounted = TableCounters::default();
        match *change {
            Change::ExactHas { key, hash, backend, client, now, .. } if key.kind() == KeyKind::Cookie => {
                let dead = |backend| holders.generation(backend).is_none();
                recent.has(&Learned { key: &key, hash, backend, client, end: 0 }, now, dead, &mut uncounted);
            }
            Change::ExactEnded { key, hash, backend, client } => {
                recent.ended(&Learned { key: &key, hash, backend, client, end: 0 }, &mut uncounted);
            }
            _ => {}
        }
    }

    /// The oldest update for another worker.
    pub fn next_update(&mut self) -> Option<Update> {
        self.outbox.pop_front()
    }

    /// Takes in what another worker learned. One for another shard is ignored, and one about a backend that has left.
    pub fn apply(&mut self, update: Update) {
        if update.owner != self.me {
            debug_assert!(false, "an update for worker {} came to {}", update.owner, self.me);
            return;
        }
        if self.holders.generation(update.change.backend()) != Some(update.generation) {
            return;
        }
        match update.change {
            Change::ExactHas { key, hash, backend, client, end, now } => {
                let Affinity { exact, holders, metrics, .. } = self;
                let dead = |backend| holders.generation(backend).is_none();
                exact.has(&Learned { key: &key, hash, backend, client, end }, now, dead, &mut metrics.exact);
            }
            Change::ExactUsed { key, hash, backend, now } => {
                let learned = Learned { key: &key, hash, backend, client: 0, end: 0 };
                self.exact.used(&learned, now, &mut self.metrics.exact);
            }
            Change::ExactEnded { key, hash, backend, client } => {
                self.exact.ended(&Learned { key: &key, hash, backend, client, end: 0 }, &mut self.metrics.exact);
            }
            Change::ExactRefused { key, hash, backend, client } => {
                self.exact.refused(&Learned { key: &key, hash, backend, client, end: 0 }, &mut self.metrics.exact);
            }
            Change::NameOpens(event) => self.names.opens(&event, &mut self.metrics),
            Change::NameShown(event) => self.names.shown(&event, &mut self.metrics),
            Change::NameRefused(event) => {
                let Affinity { shared, names, metrics, .. } = self;
                // Its names are in all shards.
                let began = || shared.shards.iter().map(|s| s.names.began(event.backend)).max().unwrap_or(0);
                names.refused(&event, began, metrics);
            }
        }
    }

    /// Clears expired rows of this worker's shard, [`SWEEP`] of each table at a time. Call it every 100 ms or so, or
    /// when idle: lookups never return expired rows, this only makes room and counts early.
    pub fn tick(&mut self, now: Millis) {
        self.exact.sweep(now.0, SWEEP, &mut self.metrics.exact);
        self.names.sweep(now.0, SWEEP, &mut self.metrics);
    }

    /// Counts on from what another process had counted.
    pub fn count_on(&mut self, backend: BackendId, kind: IdentityKind, counted: KindCounters) {
        if let Some(counters) = self.metrics.at(backend, kind) {
            *counters += counted;
        }
    }

    /// This worker's counters.
    pub fn metrics(&self) -> Metrics {
        let mut metrics = self.metrics.clone();
        metrics.busy = self.busy.get();
        metrics
    }

    /// Bytes all workers' tables take together. None of them ever grows.
    pub fn bytes(config: &Config, workers: usize) -> usize {
        let workers = workers.max(1);
        let recent = if workers > 1 { ExactShard::bytes_for(RECENT) } else { 0 };
        workers * (ExactShard::bytes_for(config.exact_rows(workers)) + recent + NameShard::bytes_for(config, workers))
    }
}

impl core::fmt::Debug for Affinity {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Affinity").field("worker", &self.me).field("metrics", &self.metrics).finish_non_exhaustive()
    }
}
