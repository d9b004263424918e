//! Key names: proof, refusals, sharing, rotation, and what junk cannot do.

mod common;

use common::ByBytes;
use lb::{Affinity, BackendId, BackendSet, Config, IdentityKind, Lookup, Millis, Offered, Reason, Sighting};
use std::time::Duration;

const A: u16 = 0;
const B: u16 = 1;
const C: u16 = 2;

fn by(backend: u16, client: u64, now: u64) -> Sighting {
    Sighting { backend: BackendId(backend), client, now: Millis(now) }
}

fn at(backend: u16) -> Sighting {
    by(backend, 1, 0)
}

/// A ticket of 176 bytes: key name, then whatever.
fn sealed(key: u8, serial: u32) -> Vec<u8> {
    let mut ticket = vec![key; 16];
    ticket.extend((0..40u32).flat_map(|i| (serial.wrapping_mul(2_654_435_761) ^ i).to_be_bytes()));
    ticket
}

fn psk(bytes: &[u8]) -> Offered<'_> {
    Offered { kind: IdentityKind::Psk, bytes }
}

fn ticket(bytes: &[u8]) -> Offered<'_> {
    Offered { kind: IdentityKind::Ticket, bytes }
}

fn ask(affinity: &Affinity, offered: &[Offered<'_>]) -> Lookup {
    affinity.find(offered, Millis(0), |_| true)
}

fn set(ids: &[u16]) -> BackendSet {
    ids.iter().map(|&i| BackendId(i)).collect()
}

#[track_caller]
fn decided(found: &Lookup, backends: &[u16], reason: Reason, proven: bool) {
    let d = found.decision.as_ref().expect("a decision");
    assert_eq!((d.backends, d.reason, d.proven), (set(backends), reason, proven));
}

fn three() -> Affinity {
    Affinity::single(Config::new(3))
}

#[test]
fn two_different_tickets_of_one_backend_prove_a_key_name() {
    let mut affinity = three();
    affinity.ticket_issued(&sealed(7, 1), at(A));
    // The very ticket is followed exactly; an unseen one of the same prefix is a guess.
    decided(&ask(&affinity, &[ticket(&sealed(7, 1))]), &[A], Reason::Ticket, true);
    decided(&ask(&affinity, &[ticket(&sealed(7, 99))]), &[A], Reason::TicketKey, false);
    affinity.ticket_accepted(&sealed(7, 1), at(A));
    assert_eq!(affinity.census(Millis(0)).key_names, 0, "the same ticket again proves nothing");
    affinity.ticket_issued(&sealed(7, 2), at(A));
    assert_eq!(affinity.census(Millis(0)).key_names, 1);
    decided(&ask(&affinity, &[ticket(&sealed(7, 99))]), &[A], Reason::TicketKey, true);
    decided(&ask(&affinity, &[psk(&sealed(7, 98))]), &[A], Reason::PskKey, true);
    assert_eq!(ask(&affinity, &[psk(&sealed(7, 98))]).decision.unwrap().key.to_string(), "07".repeat(16));
}

#[test]
fn tickets_of_two_backends_prove_nothing_about_either() {
    let mut affinity = three();
    affinity.psk_accepted(&sealed(7, 1), at(A));
    affinity.psk_accepted(&sealed(7, 2), at(B));
    let census = affinity.census(Millis(0));
    assert_eq!((census.key_names, census.candidates), (0, 2));
    // Once one of them has proved it, the other's single sighting counts too: they share the key.
    affinity.psk_accepted(&sealed(7, 3), at(A));
    decided(&ask(&affinity, &[psk(&sealed(7, 4))]), &[A, B], Reason::PskKey, true);
    let census = affinity.census(Millis(0));
    assert_eq!((census.key_names, census.shared_key_names, census.candidates), (1, 1, 0));
    // And a third server needs one sighting only.
    affinity.ticket_issued(&sealed(7, 5), at(C));
    decided(&ask(&affinity, &[psk(&sealed(7, 4))]), &[A, B, C], Reason::PskKey, true);
}

#[test]
fn after_the_proof_tickets_need_no_rows_of_their_own() {
    let mut affinity = three();
    for serial in 0..1000 {
        affinity.ticket_issued(&sealed(7, serial), at(A));
        affinity.psk_accepted(&sealed(8, serial), at(B));
    }
    let census = affinity.census(Millis(0));
    assert_eq!((census.tickets, census.key_names, census.candidates), (1, 2, 0));
}

#[test]
fn the_same_identity_again_is_an_exact_match() {
    let mut affinity = three();
    let stateful = [0x5a; 32];
    affinity.psk_accepted(&stateful, at(C));
    let found = ask(&affinity, &[psk(&stateful)]);
    decided(&found, &[C], Reason::Psk, true);
    use sha2::Digest;
    assert_eq!(found.decision.unwrap().key.as_bytes(), &sha2::Sha256::digest(stateful)[..]);
}

#[test]
fn psk_before_ticket_before_session_id_and_identities_in_order() {
    let mut affinity = three();
    affinity.psk_accepted(&sealed(1, 1), at(A));
    affinity.psk_accepted(&sealed(2, 1), at(B));
    affinity.ticket_issued(&sealed(3, 1), at(C));
    affinity.session_issued(b"id", at(A));
    let id = Offered { kind: IdentityKind::SessionId, bytes: b"id" };
    let (one, two, three_) = (sealed(1, 1), sealed(2, 1), sealed(3, 1));
    decided(&ask(&affinity, &[id, ticket(&three_), psk(&two), psk(&one)]), &[B], Reason::Psk, true);
    decided(&ask(&affinity, &[id, ticket(&three_), psk(&one), psk(&two)]), &[A], Reason::Psk, true);
    decided(&ask(&affinity, &[id, ticket(&three_), psk(&sealed(9, 9))]), &[C], Reason::Ticket, true);
    decided(&ask(&affinity, &[id, psk(&sealed(9, 9))]), &[A], Reason::SessionId, true);
    // The backend of the first is not eligible: the second identity's.
    let found = affinity.find(&[psk(&two), psk(&one)], Millis(0), |b| b.0 != B);
    decided(&found, &[A], Reason::Psk, true);
}

#[test]
fn an_unknown_key_is_not_sent_again_to_who_refused_it_while_others_remain() {
    let mut affinity = three();
    let found = ask(&affinity, &[psk(&sealed(7, 1))]);
    assert!(found.is_unknown() && found.avoid.is_empty());
    affinity.psk_refused(&sealed(7, 1), at(B));
    assert_eq!(ask(&affinity, &[psk(&sealed(7, 2))]).avoid, set(&[B]));
    affinity.ticket_refused(&sealed(7, 3), at(A));
    assert_eq!(ask(&affinity, &[ticket(&sealed(7, 2))]).avoid, set(&[A, B]));
    // Backends that are down do not remain: with C gone nobody is left, so nobody is avoided.
    assert_eq!(affinity.find(&[psk(&sealed(7, 2))], Millis(0), |b| b.0 != C).avoid, BackendSet::EMPTY);
    // All have refused it: nobody can open it, anybody will do.
    affinity.psk_refused(&sealed(7, 4), at(C));
    assert_eq!(ask(&affinity, &[psk(&sealed(7, 2))]).avoid, BackendSet::EMPTY);
    // Somebody opens it after all.
    affinity.psk_accepted(&sealed(7, 5), at(C));
    decided(&ask(&affinity, &[psk(&sealed(7, 6))]), &[C], Reason::PskKey, false);
    affinity.psk_accepted(&sealed(7, 6), at(C));
    assert_eq!(affinity.census(Millis(0)).refusals, 0, "what refused a known key is of no interest");
}

#[test]
fn the_refusals_of_a_later_identity_never_exclude_the_last_backend_of_an_earlier_one() {
    let mut affinity = three();
    affinity.psk_refused(&sealed(1, 1), at(A));
    affinity.psk_refused(&sealed(1, 1), at(B));
    affinity.psk_refused(&sealed(2, 1), at(C));
    let found = ask(&affinity, &[psk(&sealed(1, 9)), psk(&sealed(2, 9))]);
    assert_eq!(found.avoid, set(&[A, B]), "only C is left for the first");
    let found = ask(&affinity, &[psk(&sealed(2, 9)), psk(&sealed(1, 9))]);
    assert_eq!(found.avoid, set(&[C]));
}

fn known(affinity: &mut Affinity, key: u8, backend: u16, now: u64) {
    affinity.psk_accepted(&sealed(key, 1), by(backend, 1, now));
    affinity.psk_accepted(&sealed(key, 2), by(backend, 1, now));
}

#[test]
fn one_client_that_forges_tickets_of_a_live_key_cannot_retire_it() {
    let mut affinity = three();
    known(&mut affinity, 7, A, 0);
    for serial in 0..10_000 {
        affinity.psk_refused(&sealed(7, serial), by(A, 666, 0));
    }
    decided(&ask(&affinity, &[psk(&sealed(7, 9))]), &[A], Reason::PskKey, true);
}

#[test]
fn a_dead_key_does_not_survive_its_time_to_live() {
    let config = Config { key_ttl: Duration::from_secs(60), ..Config::new(3) };
    let mut affinity = Affinity::single(config);
    known(&mut affinity, 7, A, 0);
    affinity.psk_accepted(&sealed(7, 3), by(B, 1, 50_000));
    let ask = |a: &Affinity, now| a.find(&[psk(&sealed(7, 9))], Millis(now), |_| true);
    decided(&ask(&affinity, 60_000), &[A, B], Reason::PskKey, true);
    // A has not used it for 60 s, B has: only A leaves, at the next sweep.
    affinity.tick(Millis(60_001));
    decided(&ask(&affinity, 60_001), &[B], Reason::PskKey, true);
    assert!(ask(&affinity, 110_001).is_unknown(), "even before anybody sweeps");
    affinity.tick(Millis(110_001));
    assert_eq!(affinity.census(Millis(0)).key_names, 0);
    assert_eq!(affinity.metrics().names.expired, 2);
}

#[test]
fn keys_told_in_advance_are_there_from_the_start_and_stay() {
    let config = Config {
        ticket_keys: vec![(BackendId(B), [7; 16]), (BackendId(C), [7; 16])],
        key_ttl: Duration::from_secs(1),
        ..Config::new(3)
    };
    for workers in [1, 3] {
        let mut all = Affinity::for_workers(config.clone(), workers);
        for affinity in &mut all {
            for client in 0..10 {
                affinity.psk_refused(&sealed(7, 1), by(B, client, 5));
            }
            affinity.tick(Millis(1 << 40));
            let found = affinity.find(&[psk(&sealed(7, 9))], Millis(1 << 40), |_| true);
            decided(&found, &[B, C], Reason::PskKey, true);
        }
    }
}

#[test]
fn a_backend_said_to_have_no_key_names_teaches_none() {
    let config = Config { no_key_names: set(&[A]), ..Config::new(3) };
    let mut affinity = Affinity::single(config);
    for serial in 0..10 {
        affinity.ticket_issued(&sealed(7, serial), at(A));
    }
    let census = affinity.census(Millis(0));
    assert_eq!((census.key_names, census.candidates, census.tickets), (0, 0, 10));
    decided(&ask(&affinity, &[ticket(&sealed(7, 3))]), &[A], Reason::Ticket, true);
}

/// Tickets whose first 16 bytes differ each time, as of Java, newer Go and stateful servers.
fn nameless(serial: u64) -> Vec<u8> {
    let mut bytes = vec![0; 105];
    let mut x = serial;
    for chunk in bytes.chunks_mut(8) {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&(x ^ x >> 29).to_le_bytes()[..chunk.len()]);
    }
    bytes
}

#[test]
fn servers_without_key_names_fill_nothing_but_their_candidates() {
    let mut affinity = three();
    known(&mut affinity, 7, A, 0);
    for serial in 0..100_000 {
        affinity.psk_accepted(&nameless(serial), by(B, serial, serial));
    }
    let census = affinity.census(Millis(100_000));
    assert_eq!((census.key_names, census.tickets, census.session_ids), (1, 0, 0));
    assert!(census.candidates <= 64, "{}", census.candidates);
    // And they do not keep another server's key from proving itself, however rare it is.
    affinity.psk_accepted(&sealed(8, 1), by(C, 1, 100_000));
    for serial in 100_000..110_000 {
        affinity.psk_accepted(&nameless(serial), by(B, serial, serial));
    }
    affinity.psk_accepted(&sealed(8, 2), by(C, 1, 110_000));
    let found = affinity.find(&[psk(&sealed(8, 3))], Millis(110_000), |_| true);
    decided(&found, &[C], Reason::PskKey, true);
}

#[test]
fn a_million_invented_identities_neither_grow_a_table_nor_evict_a_row() {
    let config = Config { session_capacity: 4096, ..Config::new(3) };
    let mut affinity = Affinity::single(config);
    for key in 0..20 {
        known(&mut affinity, key, u16::from(key % 3), 0);
    }
    affinity.psk_accepted(&sealed(100, 1), at(A)); // a candidate
    for i in 0..1000u32 {
        affinity.session_issued(&i.to_be_bytes(), at((i % 3) as u16));
    }
    // An unknown key that real clients were refused with more than once.
    affinity.psk_refused(&sealed(101, 1), at(A));
    affinity.psk_refused(&sealed(101, 2), at(B));
    let before = affinity.census(Millis(0));
    for serial in 0..1_000_000u64 {
        let invented = nameless(serial);
        let now = Millis(serial / 1000);
        // Looking up a tenth of them is enough to see that it changes nothing.
        if serial % 10 == 0 {
            assert!(affinity.find(&[psk(&invented)], now, |_| true).is_unknown());
        }
        // Of any number of networks and sixty thousand hosts, not those of the clients above.
        let client = lb::affinity::client(serial as u32, 2 + (serial % 60_000) as u32);
        let seen = Sighting { backend: BackendId((serial % 3) as u16), client, now };
        match serial % 3 {
            0 => affinity.psk_refused(&invented, seen),
            1 => affinity.ticket_refused(&invented[..64], seen),
            _ => affinity.session_refused(&invented[..32], seen),
        }
    }
    let now = Millis(1000);
    let after = affinity.census(now);
    assert_eq!(after.rows(), before.rows());
    assert!(after.refusals <= 256, "{}", after.refusals);
    assert_eq!(affinity.find(&[psk(&sealed(101, 3))], now, |_| true).avoid, set(&[A, B]));
    for key in 0..20 {
        let found = affinity.find(&[psk(&sealed(key, 9))], now, |_| true);
        decided(&found, &[u16::from(key % 3)], Reason::PskKey, true);
    }
    let metrics = affinity.metrics();
    assert_eq!((metrics.exact.evicted, metrics.names.evicted, metrics.candidates.evicted), (0, 0, 0));
}

#[test]
fn a_hello_of_thousands_of_identities_costs_sixteen_lookups() {
    let mut affinity = three();
    known(&mut affinity, 7, A, 0);
    let many: Vec<Vec<u8>> = (0..5000).map(nameless).collect();
    let last = sealed(7, 9);
    let mut offered: Vec<Offered<'_>> = many.iter().map(|m| psk(m)).collect();
    offered.push(psk(&last));
    assert!(ask(&affinity, &offered).is_unknown());
    offered.swap(15, 5000);
    decided(&ask(&affinity, &offered), &[A], Reason::PskKey, true);
}

#[test]
fn a_thousand_backends_may_share_a_key() {
    let mut affinity = Affinity::single(Config::new(1000));
    known(&mut affinity, 7, 0, 0);
    for backend in 1..1000 {
        affinity.psk_accepted(&sealed(7, 3), at(backend));
    }
    assert_eq!(ask(&affinity, &[psk(&sealed(7, 9))]).decision.unwrap().backends.len(), 1000);
    affinity.forget(BackendId(500));
    let left = ask(&affinity, &[psk(&sealed(7, 9))]).decision.unwrap().backends;
    assert_eq!((left.len(), left.contains(BackendId(500))), (999, false));
}

#[test]
fn more_keys_than_rows_evict_the_longest_unused_and_count() {
    let mut affinity = three();
    let name = |i: u32| {
        let mut t = nameless(u64::from(i));
        t.truncate(16);
        t
    };
    for i in 0..5000u32 {
        for serial in 0..2u8 {
            let mut t = name(i);
            t.extend([serial; 40]);
            affinity.psk_accepted(&t, by(A, 1, u64::from(i)));
        }
    }
    let census = affinity.census(Millis(5000));
    let metrics = affinity.metrics();
    assert!(census.key_names <= 256);
    assert_eq!(metrics.names.inserted, metrics.names.evicted + census.key_names as u64);
    let mut newest = name(4999);
    newest.extend([9; 40]);
    decided(&ask(&affinity, &[psk(&newest)]), &[A], Reason::PskKey, true);
}

#[test]
fn what_was_chosen_is_counted_by_kind_and_backend() {
    let mut affinity = three();
    known(&mut affinity, 7, A, 0);
    let found = ask(&affinity, &[psk(&sealed(7, 9))]);
    affinity.chosen(&found, BackendId(A));
    affinity.chosen(&ask(&affinity, &[psk(&sealed(8, 9))]), BackendId(B));
    affinity.chosen(&ask(&affinity, &[]), BackendId(C));
    let metrics = affinity.metrics();
    let a = metrics.of(BackendId(A), IdentityKind::Psk);
    let b = metrics.of(BackendId(B), IdentityKind::Psk);
    assert_eq!((a.offered, a.promised, a.unknown), (1, 1, 0));
    assert_eq!((b.offered, b.promised, b.unknown), (1, 0, 1));
    let all = metrics.kind(IdentityKind::Psk);
    assert_eq!((all.offered, all.promised, all.unknown, all.accepted), (2, 1, 1, 2));
}

#[test]
fn a_ticket_digested_in_pieces_is_the_same_identity_as_the_whole() {
    for len in [0usize, 1, 15, 16, 17, 31, 192, 1087, 5000] {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        let whole = lb::Identity::new(&ticket(&bytes));
        for piece in [1, 3, 15, 16, 17, 100, 6000] {
            let mut digest = lb::TicketDigest::default();
            bytes.chunks(piece).for_each(|c| {
                digest.update(c);
                digest.update(&[]);
            });
            assert_eq!(digest.finish(), whole, "{len} bytes in pieces of {piece}");
        }
    }
}

/// What is known of an identity that was not digested is enough for as long as its key name decides; and it is digested when it does not.
#[test]
fn an_identity_is_digested_only_when_its_key_name_does_not_decide() {
    for kind in [IdentityKind::Ticket, IdentityKind::Psk] {
        let mut affinity = Affinity::single(Config::new(8));
        let bytes = |last: u8| [&[7; 16][..], &[last; 176]].concat();
        let whole = |last| lb::Identity::new(&Offered { kind, bytes: &bytes(last) }).unwrap();
        let identify = |affinity: &Affinity, last, now| {
            affinity.identify(&Offered { kind, bytes: &bytes(last) }, Millis(now)).unwrap()
        };
        let seen = |now| Sighting { backend: BackendId(3), client: 1, now: Millis(now) };
        affinity.accepted(&whole(1), seen(0));
        assert_eq!(identify(&affinity, 2, 0), whole(2), "a prefix that was seen once is only a guess");
        affinity.accepted(&whole(2), seen(0));
        let known = identify(&affinity, 3, 0);
        assert!(!known.is_whole() && known.kind() == kind);
        let lookup = |affinity: &Affinity, identity, now| affinity.lookup(&[identity], Millis(now), |_| true);
        let found = lookup(&affinity, known, 0);
        assert_eq!(found, lookup(&affinity, whole(3), 0));
        assert_eq!(found.decision.unwrap().backends.single(), Some(BackendId(3)));
        // Its acceptance is as good as any: the name lives on by it.
        let (ttl, rows) = (86_400_000, affinity.census(Millis(0)));
        affinity.accepted(&known, seen(ttl));
        assert!(!identify(&affinity, 4, 2 * ttl).is_whole());
        // And when the name has gone meanwhile, nothing is invented.
        let gone = 3 * ttl;
        affinity.tick(Millis(gone));
        affinity.accepted(&known, seen(gone));
        affinity.refused(&known, seen(gone));
        let census = affinity.census(Millis(gone));
        assert_eq!((census.tickets, census.candidates, census.key_names), (0, 0, 0), "{rows:?}");
        assert_eq!(identify(&affinity, 5, gone), whole(5));
        // A short one has no key name, and a session ID is never digested.
        let short = Offered { kind, bytes: b"short" };
        assert_eq!(affinity.identify(&short, Millis(0)), lb::Identity::new(&short));
        let id = Offered { kind: IdentityKind::SessionId, bytes: &bytes(1)[..32] };
        assert_eq!(affinity.identify(&id, Millis(0)), lb::Identity::new(&id));
    }
}

#[test]
fn a_name_that_a_backend_has_shown_us_is_proved_at_once_and_lives_by_being_shown_again() {
    let lives = Config::new(3).key_ttl.as_millis() as u64;
    let mut affinity = three();
    affinity.shown(BackendId(B), &[7; 16], Millis(0));
    decided(&ask(&affinity, &[psk(&sealed(7, 1))]), &[B], Reason::PskKey, true);
    // Refusals of many networks do not take it away while it is shown, though the backend has begun to use another name since.
    for round in 1..20u64 {
        let now = round * 60_000;
        affinity.shown(BackendId(B), &[8; 16], Millis(now));
        affinity.shown(BackendId(B), &[7; 16], Millis(now));
        for network in 0..6 {
            affinity.psk_refused(&sealed(7, network), by(B, lb::affinity::client(network, 1), now));
        }
        decided(&affinity.find(&[psk(&sealed(7, 2))], Millis(now), |_| true), &[B], Reason::PskKey, true);
    }
    let over = 20 * 60_000 + lives;
    assert!(affinity.find(&[psk(&sealed(7, 2))], Millis(over), |_| true).decision.is_none());
}

#[test]
fn a_ticket_that_no_known_key_explains_avoids_backends_whose_keys_are_all_known() {
    let mut affinity = three();
    affinity.shown(BackendId(A), &[7; 16], Millis(0));
    affinity.shown(BackendId(B), &[8; 16], Millis(0));
    assert!(ask(&affinity, &[psk(&sealed(9, 1))]).avoid.is_empty());
    affinity.explain(BackendId(A), true);
    affinity.explain(BackendId(B), true);
    assert_eq!(ask(&affinity, &[psk(&sealed(9, 1))]).avoid, set(&[A, B]));
    assert_eq!(ask(&affinity, &[ticket(&sealed(9, 1))]).avoid, set(&[A, B]));
    // A known key leads as ever, and a session ID is none of this.
    decided(&ask(&affinity, &[psk(&sealed(8, 1))]), &[B], Reason::PskKey, true);
    let id = Offered { kind: IdentityKind::SessionId, bytes: &[1; 32] };
    assert!(ask(&affinity, &[id]).avoid.is_empty());
    // What remains has refused it: then only that counts, and somebody is left to choose.
    affinity.psk_refused(&sealed(9, 1), at(C));
    assert_eq!(ask(&affinity, &[psk(&sealed(9, 1))]).avoid, set(&[C]));
    // Where all keys are known nobody is avoided.
    affinity.explain(BackendId(C), true);
    assert_eq!(ask(&affinity, &[psk(&sealed(10, 1))]).avoid, set(&[]));
    affinity.explain(BackendId(A), false);
    assert_eq!(ask(&affinity, &[psk(&sealed(10, 1))]).avoid, set(&[B, C]));
}
