//! Session IDs and exact tickets, against naive models.

mod common;

use common::ByBytes;
use lb::affinity::table::{Inserted, Table, WAYS};
use lb::{Affinity, BackendId, Config, IdentityKind, Lookup, Millis, Offered, Reason, Sighting};
use proptest::prelude::*;
use std::collections::HashMap;
use std::time::Duration;

fn at(backend: u16, now: u64) -> Sighting {
    Sighting { backend: BackendId(backend), client: 1, now: Millis(now) }
}

fn session(id: &[u8]) -> Offered<'_> {
    Offered { kind: IdentityKind::SessionId, bytes: id }
}

fn ticket(bytes: &[u8]) -> Offered<'_> {
    Offered { kind: IdentityKind::Ticket, bytes }
}

fn named(found: &Lookup) -> Option<(u16, Reason)> {
    found.decision.as_ref().map(|d| (d.backends.single().unwrap().0, d.reason))
}

fn config(capacity: usize, ttl: u64) -> Config {
    Config { session_capacity: capacity, session_ttl: Duration::from_millis(ttl), ..Config::new(8) }
}

#[derive(Clone, Debug)]
enum Op {
    Issued(u8, u16),
    Resumed(u8, u16),
    Refused(u8, u16),
    Wait(u16),
    Tick,
    Forget(u16),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let id = 0u8..12;
    let backend = 0u16..3;
    let op = prop_oneof![
        4 => (id.clone(), backend.clone()).prop_map(|(i, b)| Op::Issued(i, b)),
        3 => (id.clone(), backend.clone()).prop_map(|(i, b)| Op::Resumed(i, b)),
        3 => (id, backend.clone()).prop_map(|(i, b)| Op::Refused(i, b)),
        3 => (0u16..600).prop_map(Op::Wait),
        1 => Just(Op::Tick),
        1 => backend.prop_map(Op::Forget),
    ];
    proptest::collection::vec(op, 1..120)
}

/// IDs of different lengths, of which some begin alike.
fn id_of(i: u8) -> Vec<u8> {
    vec![i / 3 + 1; 1 + usize::from(i % 3) * 15]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    /// With room for all, the table is a map with a time-to-live and two strikes.
    #[test]
    fn equals_a_map_with_a_time_to_live(ops in ops(), workers in 1usize..4) {
        const TTL: u64 = 1000;
        let mut workers = Affinity::for_workers(config(4096, TTL), workers);
        // id -> (backend, last use, refusals in a row)
        let mut model: HashMap<Vec<u8>, (u16, u64, u32)> = HashMap::new();
        let mut now = 10_000;
        for (step, op) in ops.into_iter().enumerate() {
            let n = workers.len();
            let me = &mut workers[step % n];
            match op {
                Op::Issued(i, b) => {
                    me.session_issued(&id_of(i), at(b, now));
                    model.insert(id_of(i), (b, now, 0));
                }
                Op::Resumed(i, b) => {
                    me.session_resumed(&id_of(i), at(b, now));
                    model.insert(id_of(i), (b, now, 0));
                }
                Op::Refused(i, b) => {
                    me.session_refused(&id_of(i), at(b, now));
                    if let Some(row) = model.get_mut(&id_of(i)) && row.0 == b {
                        row.2 += 1;
                        if row.2 == 2 {
                            model.remove(&id_of(i));
                        }
                    }
                }
                Op::Wait(ms) => now += u64::from(ms),
                Op::Tick => workers.iter_mut().for_each(|w| w.tick(Millis(now))),
                Op::Forget(b) => {
                    workers.iter_mut().for_each(|w| w.forget(BackendId(b)));
                    model.retain(|_, row| row.0 != b);
                }
            }
            carry(&mut workers);
            model.retain(|_, row| now - row.1 <= TTL);
            for i in 0..12 {
                let id = id_of(i);
                let want = model.get(&id).map(|row| (row.0, Reason::SessionId));
                for reader in &workers {
                    prop_assert_eq!(named(&reader.find(&[session(&id)], Millis(now), |_| true)), want);
                }
            }
            prop_assert_eq!(workers[0].census(Millis(now)).session_ids, model.len());
        }
    }

    /// One bucket is exactly a list in order of last use, of eight rows.
    #[test]
    fn a_bucket_is_an_lru_list(keys in proptest::collection::vec(1u64..14, 1..150)) {
        let mut writer = Table::<4>::new(WAYS, WAYS);
        let table = writer.table();
        let mut lru: Vec<u64> = Vec::new();
        for (now, key) in keys.into_iter().enumerate() {
            let now = now as u64 + 1;
            if let Some(row) = writer.position(key, |words| words[3] == key) {
                writer.touch(row, now);
                lru.retain(|&k| k != key);
            } else {
                let done = writer.insert(&[key, now, 1, key], 0, |words| words[1]);
                if lru.len() == WAYS {
                    prop_assert_eq!(done, Inserted::Evicted);
                    lru.remove(0);
                } else {
                    prop_assert_eq!(done, Inserted::Free);
                }
            }
            lru.push(key);
            prop_assert_eq!(writer.used(), lru.len());
            for key in 1..14 {
                let found = table.find(key, &mut 0, |words| (words[3] == key).then_some(()));
                prop_assert_eq!(found.is_some(), lru.contains(&key));
            }
        }
    }
}

/// Brings all updates to their owners.
fn carry(workers: &mut [Affinity]) {
    for from in 0..workers.len() {
        while let Some(update) = workers[from].next_update() {
            workers[update.owner()].apply(update);
        }
    }
}

#[test]
fn never_more_rows_than_capacity_and_every_loss_is_counted() {
    let mut affinity = Affinity::single(config(1000, 1_000_000));
    for i in 0u32..20_000 {
        affinity.session_issued(&i.to_be_bytes(), at(1, u64::from(i)));
    }
    let rows = affinity.census(Millis(20_000)).session_ids;
    assert_eq!(rows, 1000, "every bucket is full");
    let metrics = affinity.metrics();
    assert_eq!(metrics.exact.inserted - metrics.exact.evicted, rows as u64);
    assert_eq!(metrics.exact.expired, 0);
    // The youngest are still there, the old ones are not.
    let there = |i: u32| named(&affinity.find(&[session(&i.to_be_bytes())], Millis(20_000), |_| true)).is_some();
    assert!((19_990..20_000).all(there));
    assert!(!(0..10_000).any(there));
}

/// With several workers too: the bits that choose the shard are not those that choose the bucket.
#[test]
fn at_half_its_capacity_it_hardly_evicts() {
    for workers in [1, 4] {
        let mut workers = Affinity::for_workers(config(65_536, 1_000_000), workers);
        for i in 0u32..32_768 {
            workers[0].session_issued(&i.to_be_bytes(), at(1, u64::from(i)));
            carry(&mut workers);
        }
        let evicted: u64 = workers.iter().map(|w| w.metrics().exact.evicted).sum();
        assert!(evicted < 32_768 / 50, "{evicted} of 32768 with {} workers", workers.len());
        let shares: Vec<u64> = workers.iter().map(|w| w.metrics().exact.inserted * workers.len() as u64).collect();
        assert!(shares.iter().all(|share| (30_000..36_000).contains(share)), "{shares:?}");
    }
}

#[test]
fn a_session_that_is_used_outlives_its_first_time_to_live() {
    let mut affinity = Affinity::single(config(64, 1000));
    affinity.session_issued(b"abc", at(2, 0));
    affinity.session_resumed(b"abc", at(2, 900));
    let find = |a: &Affinity, now| named(&a.find(&[session(b"abc")], Millis(now), |_| true));
    assert_eq!(find(&affinity, 1900), Some((2, Reason::SessionId)));
    assert_eq!(find(&affinity, 1901), None);
    // A lookup is a client's claim and refreshes nothing, so by now the row is only waiting to be cleared.
    affinity.tick(Millis(1901));
    assert_eq!(affinity.metrics().exact.expired, 1);
}

#[test]
fn junk_ids_make_no_rows() {
    let mut affinity = Affinity::single(config(64, 1000));
    affinity.session_issued(b"", at(1, 0));
    affinity.session_issued(&[1; 33], at(1, 0));
    affinity.ticket_issued(b"", at(1, 0));
    affinity.session_refused(b"never issued", at(1, 0));
    affinity.psk_accepted(b"a name", at(1, 0));
    affinity.psk_refused(b"a name", at(1, 0));
    let census = affinity.census(Millis(0));
    assert_eq!((census.rows(), census.refusals), (0, 0));
    let found = affinity.find(&[session(b""), ticket(b"")], Millis(0), |_| true);
    assert_eq!(found, Lookup::default(), "an empty field offers nothing");
}

#[test]
fn a_ticket_is_not_the_session_id_of_the_same_bytes() {
    let mut affinity = Affinity::single(config(64, 1000));
    affinity.session_issued(&[9; 32], at(1, 0));
    affinity.ticket_issued(&[9; 32], at(2, 0));
    assert_eq!(named(&affinity.find(&[session(&[9; 32])], Millis(0), |_| true)), Some((1, Reason::SessionId)));
    assert_eq!(named(&affinity.find(&[ticket(&[9; 32])], Millis(0), |_| true)), Some((2, Reason::Ticket)));
    // The ticket decides when both are offered, whatever the order.
    let both = [session(&[9; 32]), ticket(&[9; 32])];
    assert_eq!(named(&affinity.find(&both, Millis(0), |_| true)), Some((2, Reason::Ticket)));
    // Its server is down: the session ID's is asked.
    let found = affinity.find(&both, Millis(0), |b| b != BackendId(2));
    assert_eq!(named(&found), Some((1, Reason::SessionId)));
    assert_eq!(found.kind, Some(IdentityKind::SessionId));
}

#[test]
fn the_bytes_are_known_before_construction() {
    use lb::affinity::cuckoo::Cuckoo;
    // 40 for a session, a tag, and an eighth of its bucket's sequence number.
    assert_eq!(Cuckoo::<5>::bytes_for(1000), 1000 * 42);
    let small = Config { session_capacity: 8, ..Config::new(3) };
    let large = Config { session_capacity: 1_000_008, ..Config::new(3) };
    assert_eq!(Affinity::bytes(&large, 1) - Affinity::bytes(&small, 1), 42_000_000);
    // Of which 5 x 256 kB count what each client holds.
    assert!(Affinity::bytes(&small, 1) < 1_650_000, "{}", Affinity::bytes(&small, 1));
    assert!(Affinity::bytes(&Config::new(1000), 8) < 80_000_000, "{}", Affinity::bytes(&Config::new(1000), 8));
}

#[test]
fn an_affinity_moves_to_its_worker() {
    fn send<T: Send>() {}
    send::<Affinity>();
    send::<lb::Update>();
}

/// The client has the cookie before the worker that owns its row has been told, and comes back by any of them.
#[test]
fn a_cookie_that_is_on_its_way_to_its_owner_leads_at_every_worker_already() {
    let cookies: Vec<lb::Identity> = (0..100u8).map(|n| lb::Identity::cookie(b"SID", &[n; 16])).collect();
    let mut workers = Affinity::for_workers(Config::new(3), 3);
    let leads = |workers: &[Affinity], one: &lb::Identity, now| {
        let all = workers.iter().map(|w| named(&w.lookup(&[*one], Millis(now), |_| true))).collect::<Vec<_>>();
        assert!(all.iter().all(|found| *found == all[0]), "{all:?}");
        all[0]
    };
    for (n, one) in cookies.iter().enumerate() {
        workers[n % 3].issued(one, Sighting { backend: BackendId(n as u16 % 3), client: n as u64, now: Millis(5000) });
        assert_eq!(leads(&workers, one, 5000), Some((n as u16 % 3, Reason::Cookie)));
    }
    let mut updates: Vec<_> = workers.iter_mut().flat_map(|w| std::iter::from_fn(move || w.next_update())).collect();
    assert!(updates.len() > 40 && updates.len() < 90, "{}", updates.len());
    // One that never arrives is forgotten in a second, and so is one that its server deletes at once.
    let lost = updates.split_off(updates.len() / 2);
    updates.into_iter().for_each(|update| workers[update.owner()].apply(update));
    let known = |workers: &[Affinity], now| cookies.iter().filter(|one| leads(workers, one, now).is_some()).count();
    assert_eq!((known(&workers, 6000), known(&workers, 6001)), (100, 100 - lost.len()));
    let one = lb::Identity::cookie(b"SID", b"short");
    let seen = Sighting { backend: BackendId(1), client: 1, now: Millis(7000) };
    for worker in 0..3 {
        workers[worker].issued(&one, seen);
        workers[worker].deleted(&one, seen);
        assert_eq!(leads(&workers, &one, 7000), None, "{worker}");
        // And with those that were on their way.
        while let Some(update) = workers[worker].next_update() {
            workers[update.owner()].apply(update);
        }
        assert_eq!(leads(&workers, &one, 7000), None, "{worker}");
    }
}
