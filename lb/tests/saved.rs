//! Rows in memory that outlives the process: always those of the tables, and known again in others.

use lb::affinity::{About, Forgetting, Memory, Restored, RowClass, SAVED_WORDS, Saved, called, kept_rows};
use lb::{
    Affinity, BackendId, BackendSet, Config, Identity, IdentityKind, Key, Lookup, Millis, Offered, Reason, Sighting,
};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const SERVERS: u16 = 4;
/// The clock of what is kept is so far ahead.
const AHEAD: u64 = 1_700_000_000_000;
const START: u64 = 1 << 34;

fn config(capacity: usize, ttl: u64) -> Config {
    Config { session_capacity: capacity, ..Config::new(usize::from(SERVERS)) }.lives(Duration::from_millis(ttl))
}

struct House {
    workers: Vec<Affinity>,
    memory: Option<Arc<[AtomicU64]>>,
}

fn name_of(server: u16) -> String {
    format!("web{server}")
}

impl House {
    fn new(config: Config, workers: usize) -> House {
        let mut workers = Affinity::for_workers(config, workers);
        let rows = kept_rows(workers.iter());
        let memory: Arc<[AtomicU64]> = (0..rows * SAVED_WORDS).map(|_| AtomicU64::new(0)).collect();
        let shared: Memory = Arc::new(Words(memory.clone()));
        let named: Vec<_> = (0..SERVERS).map(|b| (BackendId(b), called(&name_of(b)))).collect();
        Affinity::keep(&mut workers.iter_mut().collect::<Vec<_>>(), &shared, &named, AHEAD);
        House { workers, memory: Some(memory) }
    }

    fn saved(&self) -> Vec<Saved> {
        let memory = self.memory.as_ref().unwrap();
        let rows = memory.chunks_exact(SAVED_WORDS);
        rows.filter_map(|row| Saved::from_words(&core::array::from_fn(|i| row[i].load(Relaxed))).unwrap()).collect()
    }

    /// All that others learned travels.
    fn deliver(&mut self) {
        for from in 0..self.workers.len() {
            while let Some(update) = self.workers[from].next_update() {
                self.workers[update.owner()].apply(update);
            }
        }
    }

    fn at(&mut self, worker: usize) -> &mut Affinity {
        let count = self.workers.len();
        &mut self.workers[worker % count]
    }

    /// By what a process to come has numbered backends: names backwards, say.
    fn restored(
        &self,
        config: Config,
        workers: usize,
        now: u64,
        number: impl Fn(u16) -> Option<u16>,
    ) -> (House, Vec<Restored>) {
        let mut next = House::new(config, workers);
        let numbers: HashMap<u64, BackendId> =
            (0..SERVERS).filter_map(|b| Some((called(&name_of(b)), BackendId(number(b)?)))).collect();
        let mut said = Vec::new();
        for saved in self.saved() {
            let Some(backend) = numbers.get(&saved.backend) else { continue };
            let age = (now + AHEAD).saturating_sub(saved.used);
            let mut all: Vec<_> = next.workers.iter_mut().collect();
            said.push(Affinity::restore(&mut all, &saved, *backend, Millis(now), age));
        }
        (next, said)
    }
}

struct Words(Arc<[AtomicU64]>);

impl AsRef<[AtomicU64]> for Words {
    fn as_ref(&self) -> &[AtomicU64] {
        &self.0
    }
}

fn identity(kind: IdentityKind, bytes: &[u8]) -> Identity {
    Identity::new(&Offered { kind, bytes }).unwrap()
}

fn cookie(n: u8) -> Identity {
    Identity::cookie(b"SID", &[n; 20])
}

/// A ticket: one of a few key names, then its number.
fn sealed(name: u8, number: u8) -> Vec<u8> {
    let mut bytes = vec![name; 16];
    bytes.extend([number; 40]);
    bytes
}

fn named(found: &Lookup) -> Option<(u16, Reason)> {
    found.decision.as_ref().map(|d| (d.backends.single().unwrap().0, d.reason))
}

#[derive(Clone, Debug)]
enum Op {
    Id(u8, u16, u8),
    Ticket(u8, u8, u16),
    /// A cookie, of which server, for which client, for so long (0: as long as others).
    Cookie(u8, u16, u8, u64),
    CookieUsed(u8, u16, u8),
    CookieOver(u8, u16, u8),
    Psk(u8, u8, u16),
    RefusedId(u8, u16, u8),
    RefusedPsk(u8, u8, u16, u8),
    Shown(u8, u16),
    Wait(u16),
    Tick,
    Forget(u16),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let (server, client) = (0..SERVERS, 0u8..12);
    let op = prop_oneof![
        8 => (any::<u8>(), server.clone(), client.clone()).prop_map(|(i, b, c)| Op::Id(i, b, c)),
        4 => (0u8..40, 0u8..4, server.clone()).prop_map(|(n, t, b)| Op::Ticket(n, t, b)),
        6 => (any::<u8>(), server.clone(), client.clone(), prop_oneof![Just(0), 1u64..40_000])
            .prop_map(|(i, b, c, life)| Op::Cookie(i, b, c, life)),
        2 => (any::<u8>(), server.clone(), client.clone()).prop_map(|(i, b, c)| Op::CookieUsed(i, b, c)),
        2 => (any::<u8>(), server.clone(), client.clone()).prop_map(|(i, b, c)| Op::CookieOver(i, b, c)),
        4 => (0u8..40, 0u8..4, server.clone()).prop_map(|(n, t, b)| Op::Psk(n, t, b)),
        3 => (any::<u8>(), server.clone(), client.clone()).prop_map(|(i, b, c)| Op::RefusedId(i, b, c)),
        5 => (0u8..40, 0u8..4, server.clone(), client).prop_map(|(n, t, b, c)| Op::RefusedPsk(n, t, b, c)),
        1 => (0u8..40, server.clone()).prop_map(|(n, b)| Op::Shown(n, b)),
        2 => (0u16..4000).prop_map(Op::Wait),
        1 => Just(Op::Tick),
        1 => server.prop_map(Op::Forget),
    ];
    proptest::collection::vec(op, 1..250)
}

fn apply(house: &mut House, op: &Op, now: &mut u64, turn: usize) {
    let seen = |b: u16, c: u8, now: u64| Sighting {
        backend: BackendId(b),
        client: lb::affinity::client(u32::from(c), u32::from(c) * 7),
        now: Millis(now),
    };
    let me = house.at(turn);
    match *op {
        Op::Id(i, b, c) => me.issued(&identity(IdentityKind::SessionId, &[i; 32]), seen(b, c, *now)),
        Op::Ticket(n, t, b) => me.issued(&identity(IdentityKind::Ticket, &sealed(n, t)), seen(b, n, *now)),
        Op::Cookie(i, b, c, 0) => me.issued(&cookie(i), seen(b, c, *now)),
        Op::Cookie(i, b, c, life) => me.issued_for(&cookie(i), life, seen(b, c, *now)),
        Op::CookieUsed(i, b, c) => me.accepted(&cookie(i), seen(b, c, *now)),
        Op::CookieOver(i, b, c) => me.deleted(&cookie(i), seen(b, c, *now)),
        Op::Psk(n, t, b) => me.accepted(&identity(IdentityKind::Psk, &sealed(n, t)), seen(b, n, *now)),
        Op::RefusedId(i, b, c) => me.refused(&identity(IdentityKind::SessionId, &[i; 32]), seen(b, c, *now)),
        Op::RefusedPsk(n, t, b, c) => me.refused(&identity(IdentityKind::Psk, &sealed(n, t)), seen(b, c, *now)),
        Op::Shown(n, b) => me.shown(BackendId(b), &[n; 16], Millis(*now)),
        Op::Wait(ms) => *now += u64::from(ms),
        Op::Tick => house.workers.iter_mut().for_each(|w| w.tick(Millis(*now))),
        Op::Forget(b) => house.workers.iter_mut().for_each(|w| {
            let mut forgetting = Forgetting::of(BackendSet::one(BackendId(b)));
            while !w.forget_some(&mut forgetting, 7) {}
        }),
    }
    house.deliver();
}

/// What tables say: class, key, backend.
type Said = BTreeSet<(u8, Key, u16)>;

fn in_tables(house: &House, now: u64) -> Said {
    let mut all = Said::new();
    house.workers[0].for_each_row(Millis(now), |row| {
        let class = match row.class {
            RowClass::Exact => 1,
            RowClass::Name => 2,
            RowClass::Candidate => 3,
            RowClass::Told | RowClass::Refused => return,
        };
        all.extend(row.backends.iter().map(|b| (class, row.key, b.0)));
    });
    all
}

/// With `old`, names that no backend has used for long, too: in tables a name's row has the time of who used it last, though that one be gone.
fn in_memory(house: &House, now: u64, ttl: u64, old: bool) -> Said {
    let names: HashMap<u64, u16> = (0..SERVERS).map(|b| (called(&name_of(b)), b)).collect();
    let live = |saved: &Saved| (now + AHEAD).saturating_sub(saved.used) <= ttl;
    let rows = house.saved();
    let said = |saved: &Saved| match saved.about {
        About::Cookie { key, end, .. } if end > 0 => (now + AHEAD <= end).then_some((1, key)),
        About::Exact { key, .. } | About::Cookie { key, .. } => live(saved).then_some((1, key)),
        About::Name { name, .. } => (old || live(saved)).then_some((2, Key::name(&name))),
        About::Candidate { name, .. } => live(saved).then_some((3, Key::name(&name))),
    };
    rows.iter().filter_map(|saved| said(saved).map(|(class, key)| (class, key, names[&saved.backend]))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 96 } else { 256 }))]

    /// Tables so small that rows are evicted, moved and refused, several workers, backends that are forgotten: whatever happens, and whenever one
    /// looks, what is kept is what the tables say.
    #[test]
    fn what_is_kept_is_what_the_tables_say_at_every_instant(ops in ops(), workers in 1usize..4, capacity in 8usize..80) {
        let ttl = 9_000;
        let mut house = House::new(config(capacity, ttl), workers);
        let mut now = START;
        for (turn, op) in ops.iter().enumerate() {
            apply(&mut house, op, &mut now, turn);
            let tables = in_tables(&house, now);
            let (live, all) = (in_memory(&house, now, ttl, false), in_memory(&house, now, ttl, true));
            prop_assert!(live.is_subset(&tables) && tables.is_subset(&all), "after {op:?}: {live:?} {tables:?} {all:?}");
        }
    }

    /// Other numbers of workers, other sizes, backends numbered anew: with room for all, all is known again.
    #[test]
    fn tables_of_another_process_say_the_same_of_backends_by_their_names(
        ops in ops(), before in 1usize..4, after in 1usize..4, larger in 0usize..3000, downtime in 0u64..3000,
    ) {
        let ttl = 9_000;
        let mut house = House::new(config(1000, ttl), before);
        let mut now = START;
        for (turn, op) in ops.iter().enumerate() {
            apply(&mut house, op, &mut now, turn);
        }
        now += downtime;
        house.workers.iter_mut().for_each(|w| (0..20).for_each(|_| w.tick(Millis(now))));
        let mirrored = |b: u16| SERVERS - 1 - b;
        // Prefixes have a place in one bucket alone: with so many, for all.
        let roomy = Config { backends: 400, ..config(1000 + larger, ttl) };
        let (next, _) = house.restored(roomy, after, now, |b| Some(mirrored(b)));
        let told: Said = in_tables(&house, now).into_iter().map(|(class, key, b)| (class, key, mirrored(b))).collect();
        let known = in_tables(&next, now);
        prop_assert_eq!(&known, &told);
        // And it is kept again, with the ages that it had.
        let ages = |h: &House| h.saved().iter().map(|s| (s.used, s.maker, format!("{:?}", s.about))).collect::<BTreeSet<_>>();
        prop_assert_eq!(ages(&next), ages(&house));
    }

    /// Any flipped bit, any torn row: it is no row. What is left is never another row.
    #[test]
    fn a_damaged_row_is_none(id in any::<[u8; 32]>(), backend in any::<u64>(), used in any::<u64>(), since in any::<u64>(), kind in 0..4,
        flag in any::<bool>(), maker in any::<u16>(), other in any::<[u8; 32]>(), torn in 1usize..SAVED_WORDS) {
        let row = |id: [u8; 32], used| {
            let name = id[..16].try_into().unwrap();
            let about = match kind {
                0 => About::Exact { key: Key::session_id(&id).unwrap(), refused: flag },
                1 => About::Name { name, since, doubted: flag },
                2 => About::Cookie { key: Key::cookie(&[&id]), end: since, refused: flag },
                _ => About::Candidate { name, identity: since },
            };
            Saved { about, backend, maker, used }
        };
        let whole = row(id, used);
        let words = whole.to_words();
        prop_assert_eq!(Saved::from_words(&words), Ok(Some(whole)));
        for bit in 0..SAVED_WORDS * 64 {
            let mut flipped = words;
            flipped[bit / 64] ^= 1 << (bit % 64);
            prop_assert!(Saved::from_words(&flipped).is_err(), "bit {}", bit);
        }
        let later = row(other, used.wrapping_add(1)).to_words();
        let mut mixed = words;
        mixed[..torn].copy_from_slice(&later[..torn]);
        let read = Saved::from_words(&mixed);
        prop_assert!(read.is_err() || mixed == words || mixed == later, "{:?}", read);
    }

    /// Bytes of anybody's make.
    #[test]
    fn eight_words_of_noise_are_no_row(words in any::<[u64; SAVED_WORDS]>()) {
        prop_assert!(words == [0; SAVED_WORDS] || Saved::from_words(&words).is_err());
    }
}

fn seen(backend: u16, client: u64, now: u64) -> Sighting {
    Sighting { backend: BackendId(backend), client, now: Millis(now) }
}

#[test]
fn each_kind_leads_to_its_server_after_a_restart_and_to_nobody_once_that_is_gone() {
    let mut house = House::new(config(1000, 60_000), 2);
    let (id, ticket) = (identity(IdentityKind::SessionId, &[1; 32]), identity(IdentityKind::Ticket, b"short ticket"));
    let psk = |n| identity(IdentityKind::Psk, &sealed(9, n));
    house.at(0).issued(&id, seen(0, 1, START));
    house.at(1).issued(&ticket, seen(1, 1, START));
    house.at(0).accepted(&psk(1), seen(2, 1, START));
    house.deliver();
    house.at(0).accepted(&psk(2), seen(2, 1, START));
    house.deliver();
    let now = START + 59_000;
    let (next, said) = house.restored(config(50, 60_000), 3, now, Some);
    assert_eq!(said, [Restored::Known; 3]);
    let find = |house: &House, one: &Identity, at| named(&house.workers[0].lookup(&[*one], Millis(at), |_| true));
    assert_eq!(find(&next, &id, now), Some((0, Reason::SessionId)));
    assert_eq!(find(&next, &ticket, now), Some((1, Reason::Ticket)));
    assert_eq!(find(&next, &psk(3), now), Some((2, Reason::PskKey)));
    // They are as old as they were.
    assert_eq!(find(&next, &id, START + 60_001), None);
    let (next, said) = house.restored(config(50, 60_000), 1, now, |b| (b == 2).then_some(0));
    assert_eq!(said, [Restored::Known]);
    assert_eq!(find(&next, &psk(3), now), Some((0, Reason::PskKey)));
    assert_eq!(find(&next, &id, now), None);
    let (_, said) = house.restored(config(50, 60_000), 1, START + 60_001, Some);
    assert_eq!(said, [Restored::Expired; 3]);
}

#[test]
fn a_cookie_leads_to_its_server_after_a_restart_until_the_end_that_it_has_itself() {
    const DAY: u64 = 86_400_000;
    let mut house = House::new(config(1000, 60_000), 2);
    let (session, short, long) = (cookie(1), cookie(2), cookie(3));
    house.at(0).issued(&session, seen(0, 1, START));
    house.at(1).issued_for(&short, 5_000, seen(1, 1, START));
    house.at(0).issued_for(&long, 7 * DAY, seen(2, 1, START));
    house.deliver();
    let find = |house: &House, one: &Identity, at| named(&house.workers[0].lookup(&[*one], Millis(at), |_| true));
    let now = START + 4_000;
    let (next, said) = house.restored(config(50, 60_000), 3, now, Some);
    assert_eq!(said, [Restored::Known; 3]);
    for (one, server, end) in [(session, 0, 60_000), (short, 1, 5_000), (long, 2, 7 * DAY)] {
        assert_eq!(find(&next, &one, now), Some((server, Reason::Cookie)));
        assert_eq!(find(&next, &one, START + end), Some((server, Reason::Cookie)));
        assert_eq!(find(&next, &one, START + end + 1), None);
    }
    // What was used long ago lives on, where it has an end of its own, and nothing else; and so over one more restart.
    let (next, said) = house.restored(config(50, 60_000), 1, START + 6 * DAY, Some);
    assert_eq!(said.iter().filter(|r| **r == Restored::Known).count(), 1);
    let (next, _) = next.restored(config(50, 60_000), 2, START + 6 * DAY + 9, Some);
    assert_eq!(find(&next, &long, START + 7 * DAY), Some((2, Reason::Cookie)));
    assert_eq!(find(&next, &long, START + 7 * DAY + 1), None);
    let (_, said) = house.restored(config(50, 60_000), 1, START + 7 * DAY + 1, Some);
    assert_eq!(said, [Restored::Expired; 3]);
}

/// A prefix is proved by a *different* ticket: the same one, before and after, is none.
#[test]
fn a_ticket_that_was_seen_before_a_restart_proves_no_key_name_when_it_is_seen_again() {
    let mut house = House::new(config(100, 60_000), 1);
    let psk = |n| identity(IdentityKind::Psk, &sealed(9, n));
    house.at(0).accepted(&psk(1), seen(2, 1, START));
    let (mut next, _) = house.restored(config(100, 60_000), 1, START + 5, Some);
    next.at(0).accepted(&psk(1), seen(2, 1, START + 6));
    assert_eq!(next.workers[0].census(Millis(START + 6)).key_names, 0);
    next.at(0).accepted(&psk(2), seen(2, 1, START + 7));
    assert_eq!(next.workers[0].census(Millis(START + 7)).key_names, 1);
}

/// What is retired depends on when a server began to use a key and when it used another one last.
#[test]
fn a_key_that_a_server_has_given_up_is_retired_after_a_restart_as_before() {
    let mut house = House::new(config(100, 600_000), 1);
    house.at(0).shown(BackendId(1), &[5; 16], Millis(START));
    house.at(0).shown(BackendId(2), &[5; 16], Millis(START));
    house.at(0).shown(BackendId(1), &[6; 16], Millis(START + 10));
    // The other one, and it, use theirs on.
    house.at(0).shown(BackendId(2), &[5; 16], Millis(START + 20));
    house.at(0).shown(BackendId(1), &[6; 16], Millis(START + 20));
    let (mut next, _) = house.restored(config(100, 600_000), 1, START + 30, Some);
    let old = identity(IdentityKind::Psk, &sealed(5, 1));
    for network in 0..20u64 {
        next.at(0).refused(&old, seen(1, network << 32, START + 40));
        next.at(0).refused(&old, seen(2, network << 32, START + 40));
    }
    let found = next.workers[0].lookup(&[old], Millis(START + 50), |_| true);
    assert_eq!(found.decision.unwrap().backends, BackendSet::one(BackendId(2)), "the one that has no other key");
}

#[test]
fn with_less_room_what_fits_is_known_and_the_rest_is_counted() {
    let mut house = House::new(config(4000, 60_000), 1);
    let id = |n: u16| identity(IdentityKind::SessionId, &[&n.to_le_bytes()[..], &[7; 30]].concat());
    (0..3000).for_each(|n| house.at(0).issued(&id(n), seen(n % SERVERS, u64::from(n), START + u64::from(n))));
    let now = START + 4000;
    let (next, _) = house.restored(config(512, 60_000), 2, now, Some);
    let known = next.workers[0].census(Millis(now)).session_ids;
    assert!((450..=520).contains(&known), "{known}");
    for n in 0..3000 {
        let found = next.workers[0].lookup(&[id(n)], Millis(now), |_| true);
        assert!(named(&found).is_none_or(|(b, _)| b == n % SERVERS));
    }
}

#[test]
fn a_ticket_that_names_no_key_leads_to_the_server_whose_tickets_name_none_from_the_first_one_after_a_restart() {
    let config = config(64, 1 << 40);
    let mut house = House::new(config.clone(), 2);
    let (nameless, client) = (SERVERS - 1, 7);
    for server in (0..SERVERS).filter(|server| *server != nameless) {
        // As checks are told it, and tell each worker.
        house.at(0).shown(BackendId(server), &[server as u8 + 1; 16], Millis(START));
        house.workers.iter_mut().for_each(|worker| worker.explain(BackendId(server), true));
    }
    house.deliver();
    let (next, _) = house.restored(config, 2, START, Some);
    for worker in &next.workers {
        let strange = identity(IdentityKind::Psk, &[0x5a; 48]);
        let found = worker.lookup_of(Some(client), &[strange], Millis(START + 1), |_| true);
        assert!(found.decision.is_none());
        assert_eq!(found.avoid.iter().map(|b| b.0).collect::<Vec<_>>(), (0..nameless).collect::<Vec<_>>());
    }
}
