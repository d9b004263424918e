//! What no client can do to the rows of others, whatever it offers, gets refused, or has issued to it.

mod common;

use common::ByBytes;
use lb::affinity::{VOTES, client};
use lb::{Affinity, BackendId, BackendSet, Config, IdentityKind, Lookup, Millis, Offered, Reason, Sighting};

const A: u16 = 0;
const B: u16 = 1;
const C: u16 = 2;

/// Host `host` of a network, at a backend.
fn by(backend: u16, network: u32, host: u32, now: u64) -> Sighting {
    Sighting { backend: BackendId(backend), client: client(network, host), now: Millis(now) }
}

fn sealed(key: u8, serial: u32) -> Vec<u8> {
    let mut ticket = vec![key; 16];
    ticket.extend((0..40u32).flat_map(|i| (serial.wrapping_mul(2_654_435_761) ^ i).to_be_bytes()));
    ticket
}

fn psk(bytes: &[u8]) -> Offered<'_> {
    Offered { kind: IdentityKind::Psk, bytes }
}

fn set(ids: &[u16]) -> BackendSet {
    ids.iter().map(|&i| BackendId(i)).collect()
}

fn leads(affinity: &Affinity, offered: Offered<'_>, now: u64) -> BackendSet {
    affinity.find(&[offered], Millis(now), |_| true).decision.map_or(BackendSet::EMPTY, |d| d.backends)
}

/// What one client is told about a PSK identity.
fn ask_as(affinity: &Affinity, who: u64, bytes: &[u8]) -> Lookup {
    let identity = lb::Identity::new(&psk(bytes)).unwrap();
    affinity.lookup_of(Some(who), &[identity], Millis(0), |_| true)
}

fn proved(affinity: &mut Affinity, key: u8, backend: u16, now: u64) {
    affinity.psk_accepted(&sealed(key, 1), by(backend, 1, 1, now));
    affinity.psk_accepted(&sealed(key, 2), by(backend, 1, 1, now));
}

/// Refusals of a key's tickets in so many networks, by many hosts in each.
fn refused_in(affinity: &mut Affinity, key: u8, backend: u16, networks: u32, now: u64) {
    for network in 0..networks {
        for host in 0..20 {
            affinity.psk_refused(&sealed(key, 1000 + host), by(backend, network, host, now));
        }
    }
}

#[test]
fn the_key_that_a_server_uses_is_not_retired_by_any_number_of_refusals() {
    for workers in [1, 3] {
        let mut all = Affinity::for_workers(Config::new(3), workers);
        let affinity = &mut all[0];
        proved(affinity, 7, A, 10);
        refused_in(affinity, 7, A, 1000, 20);
        while let Some(update) = all[0].next_update() {
            all[update.owner()].apply(update);
        }
        // An older key of the same server that is used again, and a new one of another server, are no reason either.
        let mut affinity = Affinity::single(Config::new(3));
        proved(&mut affinity, 6, A, 5);
        proved(&mut affinity, 7, A, 10);
        affinity.psk_accepted(&sealed(6, 3), by(A, 1, 1, 15));
        proved(&mut affinity, 8, B, 16);
        refused_in(&mut affinity, 7, A, 1000, 20);
        assert_eq!(leads(&affinity, psk(&sealed(7, 9)), 20), set(&[A]));
        assert_eq!(affinity.metrics().names.retired, 0);
    }
}

#[test]
fn a_key_is_retired_once_its_server_has_a_newer_one_and_eight_networks_were_refused() {
    for workers in [1, 2, 5] {
        let mut all = Affinity::for_workers(Config::new(3), workers);
        let carry = |all: &mut Vec<Affinity>| {
            for from in 0..all.len() {
                while let Some(update) = all[from].next_update() {
                    all[update.owner()].apply(update);
                }
            }
        };
        proved(&mut all[0], 7, A, 10);
        all[0].psk_accepted(&sealed(7, 3), by(B, 1, 1, 10));
        carry(&mut all);
        // Refusals before the new key was seen do not count.
        refused_in(&mut all[0], 7, A, 1000, 20);
        carry(&mut all);
        proved(&mut all[0], 8, A, 30);
        carry(&mut all);
        refused_in(&mut all[0], 7, A, VOTES - 1, 40);
        carry(&mut all);
        assert_eq!(leads(&all[0], psk(&sealed(7, 9)), 40), set(&[A, B]), "{workers} workers");
        all[0].psk_refused(&sealed(7, 4), by(A, VOTES - 1, 1, 41));
        carry(&mut all);
        // Only A leaves it. That it refused is no reason to avoid it.
        assert_eq!(leads(&all[0], psk(&sealed(7, 9)), 41), set(&[B]), "{workers} workers");
        assert_eq!(leads(&all[0], psk(&sealed(8, 9)), 41), set(&[A]));
        assert_eq!(all.iter().map(|w| w.metrics().names.retired).sum::<u64>(), 1);
    }
}

#[test]
fn an_acceptance_in_between_clears_the_account_and_asks_for_a_newer_key_again() {
    let mut affinity = Affinity::single(Config::new(3));
    proved(&mut affinity, 7, A, 10);
    proved(&mut affinity, 8, A, 30);
    for round in 0..10 {
        refused_in(&mut affinity, 7, A, VOTES - 1, 40 + round);
        affinity.psk_accepted(&sealed(7, 3), by(A, 1, 1, 40 + round));
    }
    refused_in(&mut affinity, 7, A, 1000, 60);
    assert_eq!(leads(&affinity, psk(&sealed(7, 9)), 60), set(&[A]));
    // With a newer key still, networks are counted anew from the last acceptance on.
    proved(&mut affinity, 9, A, 70);
    for network in VOTES..2 * VOTES - 1 {
        affinity.psk_refused(&sealed(7, 4), by(A, network, 1, 80));
    }
    assert_eq!(leads(&affinity, psk(&sealed(7, 9)), 80), set(&[A]));
}

#[test]
fn a_candidate_is_given_up_by_the_same_measure() {
    let mut affinity = Affinity::single(Config::new(3));
    affinity.psk_accepted(&sealed(7, 1), by(A, 1, 1, 10));
    refused_in(&mut affinity, 7, A, 1000, 20);
    assert_eq!(leads(&affinity, psk(&sealed(7, 9)), 20), set(&[A]));
    proved(&mut affinity, 8, A, 30);
    refused_in(&mut affinity, 7, A, VOTES - 1, 40);
    assert_eq!(leads(&affinity, psk(&sealed(7, 9)), 40), set(&[A]));
    refused_in(&mut affinity, 7, A, VOTES, 41);
    assert_eq!(leads(&affinity, psk(&sealed(7, 9)), 41), BackendSet::EMPTY);
}

#[test]
fn a_session_is_forgotten_only_by_refusals_to_the_client_that_made_it() {
    let mut affinity = Affinity::single(Config::new(3));
    affinity.session_issued(&[9; 32], by(A, 1, 1, 0));
    let id = || Offered { kind: IdentityKind::SessionId, bytes: &[9; 32] };
    for n in 0..100 {
        affinity.session_refused(&[9; 32], by(A, n, 2 + n, 0));
    }
    assert_eq!(leads(&affinity, id(), 0), set(&[A]));
    affinity.session_refused(&[9; 32], by(A, 1, 1, 0));
    assert_eq!(leads(&affinity, id(), 0), set(&[A]), "one may be about the hello");
    affinity.session_refused(&[9; 32], by(A, 1, 1, 0));
    assert_eq!(leads(&affinity, id(), 0), BackendSet::EMPTY);
}

fn by_address() -> Affinity {
    Affinity::single(Config { one_refusal_counts: false, ..Config::new(3) })
}

#[test]
fn where_addresses_choose_a_refusal_counts_for_the_client_that_was_refused() {
    let mut affinity = by_address();
    let (me, neighbour) = (by(A, 1, 1, 0), by(A, 1, 2, 0));
    affinity.psk_refused(&sealed(7, 1), me);
    assert_eq!(ask_as(&affinity, me.client, &sealed(7, 2)).avoid, set(&[A]));
    assert_eq!(ask_as(&affinity, me.client, &sealed(8, 2)).avoid, BackendSet::EMPTY);
    assert_eq!(ask_as(&affinity, neighbour.client, &sealed(7, 2)).avoid, BackendSet::EMPTY);
    affinity.psk_refused(&sealed(7, 1), by(B, 1, 1, 0));
    assert_eq!(ask_as(&affinity, me.client, &sealed(7, 2)).avoid, set(&[A, B]));
}

#[test]
fn whether_one_refusal_counts_for_everybody_can_change_and_what_was_refused_before_stays() {
    let mut affinity = by_address();
    let (me, other) = (by(A, 1, 1, 0), client(99, 99));
    affinity.psk_refused(&sealed(7, 1), me);
    affinity.let_one_refusal_count(true);
    assert_eq!(ask_as(&affinity, other, &sealed(7, 2)).avoid, BackendSet::EMPTY);
    affinity.psk_refused(&sealed(7, 1), by(B, 1, 1, 0));
    assert_eq!(ask_as(&affinity, other, &sealed(7, 2)).avoid, set(&[B]));
    affinity.let_one_refusal_count(false);
    affinity.psk_refused(&sealed(8, 1), by(B, 1, 1, 0));
    assert_eq!(ask_as(&affinity, other, &sealed(8, 2)).avoid, BackendSet::EMPTY);
}

#[test]
fn where_addresses_choose_a_refusal_counts_for_others_after_eight_networks() {
    let mut affinity = by_address();
    let other = client(99, 99);
    // One network's hosts, however many and however often.
    for host in 0..1000 {
        affinity.psk_refused(&sealed(7, host), by(A, 1, host, 0));
    }
    assert_eq!(ask_as(&affinity, other, &sealed(7, 9)).avoid, BackendSet::EMPTY);
    for network in 2..=VOTES {
        assert_eq!(ask_as(&affinity, other, &sealed(7, 9)).avoid, BackendSet::EMPTY);
        affinity.psk_refused(&sealed(7, 1), by(A, network, 1, 0));
    }
    assert_eq!(ask_as(&affinity, other, &sealed(7, 9)).avoid, set(&[A]));
    // Votes are counted by backend.
    (0..VOTES - 1).for_each(|network| affinity.psk_refused(&sealed(7, 1), by(B, network, 1, 0)));
    assert_eq!(ask_as(&affinity, other, &sealed(7, 9)).avoid, set(&[A]));
    affinity.forget(BackendId(B));
    affinity.psk_refused(&sealed(7, 1), by(B, VOTES, 1, 0));
    assert_eq!(ask_as(&affinity, other, &sealed(7, 9)).avoid, set(&[A]), "a new server has no votes against it");
}

#[test]
fn one_client_with_a_hundred_thousand_real_sessions_evicts_none_of_others() {
    let id = |n: u32| n.to_be_bytes();
    // Which of 2000 clients' sessions are still known at the end, and all rows. Buckets fill unevenly, so a few are not.
    let known = |workers: usize, greedy: u32| {
        let config = Config { session_capacity: 4096, ..Config::new(3) };
        let mut all = Affinity::for_workers(config, workers);
        let mut put = |n: u32, seen: Sighting| {
            all[0].session_issued(&id(n), seen);
            while let Some(update) = all[0].next_update() {
                all[update.owner()].apply(update);
            }
        };
        (0..1000).for_each(|n| put(n, by(A, n, n, 0)));
        // Of one /64 and two more addresses.
        (0..greedy).for_each(|n| put(1 << 20 | n, by(B, 5000, 5000 + n % 3, 1000 + u64::from(n))));
        let now = 200_000;
        (1000..2000).for_each(|n| put(n, by(A, n, n, now)));
        let there = |n: &u32| {
            let bytes = id(*n);
            leads(&all[0], Offered { kind: IdentityKind::SessionId, bytes: &bytes }, now) == set(&[A])
        };
        ((0..2000).filter(there).collect::<Vec<u32>>(), all[0].census(Millis(now)).session_ids)
    };
    for workers in [1, 4] {
        let (without, _) = known(workers, 0);
        assert!(without.len() > 1970, "{}", without.len());
        let (with, rows) = known(workers, 100_000);
        assert_eq!(with, without, "{workers} workers");
        assert_eq!(rows, 4096, "the rest is his as long as nobody needs it");
    }
}

#[test]
fn one_client_that_proves_names_by_the_thousand_evicts_none_of_others() {
    let mut affinity = Affinity::single(Config::new(3));
    (0..20).for_each(|key| {
        affinity.psk_accepted(&sealed(key, 1), by(A, key.into(), key.into(), 0));
        affinity.psk_accepted(&sealed(key, 2), by(A, key.into(), key.into(), 0));
    });
    // A candidate, and a name that was refused.
    affinity.psk_accepted(&sealed(100, 1), by(C, 100, 100, 0));
    affinity.psk_refused(&sealed(101, 1), by(C, 101, 101, 0));
    for n in 0..20_000u32 {
        let mut own = vec![0xee; 12];
        own.extend(n.to_be_bytes());
        let seen = by(B, 5000, 5000, 1000 + u64::from(n));
        for serial in [1, 2] {
            affinity.psk_accepted(&[&own[..], &[serial; 60]].concat(), seen);
        }
        own[0] = 0xdd;
        affinity.psk_accepted(&own, seen);
        own[0] = 0xcc;
        affinity.psk_refused(&own, seen);
    }
    let now = 30_000;
    for key in 0..20 {
        assert_eq!(leads(&affinity, psk(&sealed(key, 9)), now), set(&[A]), "key {key}");
    }
    assert_eq!(leads(&affinity, psk(&sealed(100, 9)), now), set(&[C]));
    assert_eq!(affinity.find(&[psk(&sealed(101, 9))], Millis(now), |_| true).avoid, set(&[C]));
    assert!(affinity.metrics().names.evicted > 10_000, "his own");
}

/// Three servers whose tickets all begin alike, and who open none but their own.
#[test]
fn a_prefix_common_to_servers_that_refuse_each_others_tickets_hides_no_ticket() {
    let mut affinity = Affinity::single(Config::new(3));
    let ticket = |server: u16, serial: u32| sealed(7, serial << 2 | u32::from(server));
    let mut resumed = Vec::new();
    for round in 0..10u32 {
        let mut good = 0;
        for client in 0..30u32 {
            let now = u64::from(round * 100 + client);
            let server = (client % 3) as u16;
            // Each from another network: what a few networks are refused raises no doubt.
            let who = round * 30 + client;
            let held = ticket(server, who);
            affinity.ticket_issued(&held, by(server, who, who, now));
            // It comes back, and where several could resume a server is picked blindly.
            let offered = Offered { kind: IdentityKind::Ticket, bytes: &held };
            let backends = leads(&affinity, offered, now);
            let picks: Vec<BackendId> = backends.iter().collect();
            let at = picks[(client as usize / 3) % picks.len()].0;
            if at == server {
                good += 1;
                affinity.ticket_accepted(&held, by(at, who, who, now));
            } else {
                affinity.ticket_refused(&held, by(at, who, who, now));
            }
        }
        resumed.push(good);
    }
    println!("resumed of 30, round by round: {resumed:?}");
    assert_eq!(resumed[2..], [30; 8]);
    // Where nothing tells the tickets apart the client's address does, which an unproven decision means.
    let found = affinity.find(&[psk(&ticket(0, 9999))], Millis(1000), |_| true).decision.unwrap();
    assert_eq!((found.backends, found.reason, found.proven), (set(&[A, B, C]), Reason::PskKey, false));
}

#[test]
fn servers_that_do_share_a_key_are_not_doubted_for_a_few_expired_tickets() {
    let mut affinity = Affinity::single(Config::new(3));
    proved(&mut affinity, 7, A, 0);
    for n in 0..1000u32 {
        let (at, seen) = ((n % 3) as u16, sealed(7, 10 + n));
        match n % 7 {
            0 => affinity.ticket_refused(&seen, by(at, n, n, n.into())),
            _ => affinity.ticket_accepted(&seen, by(at, n, n, n.into())),
        }
    }
    let found = affinity.find(&[psk(&sealed(7, 9999))], Millis(1000), |_| true).decision.unwrap();
    assert_eq!((found.backends, found.proven), (set(&[A, B, C]), true));
    assert_eq!(affinity.census(Millis(1000)).tickets, 0, "no rows of their own");
}

/// Whoever has a ticket of a shared key puts garbage behind its name, and is refused by all servers.
#[test]
fn a_shared_key_name_is_not_doubted_for_what_fewer_than_eight_networks_forge() {
    for (networks, doubted) in [(1, false), (VOTES - 1, false), (VOTES, true)] {
        let mut affinity = Affinity::single(Config::new(2));
        proved(&mut affinity, 7, A, 0);
        affinity.psk_accepted(&sealed(7, 3), by(B, 1, 1, 0));
        for _ in 0..50 {
            refused_in(&mut affinity, 7, A, networks, 0);
            refused_in(&mut affinity, 7, B, networks, 0);
        }
        let found = affinity.find(&[psk(&sealed(7, 9999))], Millis(0), |_| true).decision.unwrap();
        assert_eq!((found.backends, found.proven), (set(&[A, B]), !doubted), "{networks} networks");
        // And honest tickets get rows of their own only in doubt.
        for n in 0..100 {
            affinity.ticket_accepted(&sealed(7, 10_000 + n), by(A, n, n, 0));
        }
        assert_eq!(affinity.census(Millis(0)).tickets, if doubted { 100 } else { 0 }, "{networks} networks");
    }
    // Not in the long run either, with honest clients between.
    let mut affinity = Affinity::single(Config::new(2));
    proved(&mut affinity, 7, A, 0);
    affinity.psk_accepted(&sealed(7, 3), by(B, 1, 1, 0));
    for n in 0..2000 {
        affinity.psk_accepted(&sealed(7, 10_000 + n), by(A, n, n, 0));
        (0..VOTES - 1).for_each(|network| affinity.psk_refused(&sealed(7, 1), by(A, network, 1, 0)));
    }
    assert!(affinity.find(&[psk(&sealed(7, 9999))], Millis(0), |_| true).decision.unwrap().proven);
}

#[test]
fn a_session_that_two_backends_have_stays_where_its_owner_was_whoever_else_shows_it() {
    for kind in [IdentityKind::SessionId, IdentityKind::Ticket] {
        let mut affinity = Affinity::single(Config::new(2));
        let session = Offered { kind, bytes: &[9; 32] };
        let identity = lb::Identity::new(&session).unwrap();
        affinity.issued(&identity, by(A, 1, 1, 0));
        affinity.accepted(&identity, by(B, 2, 2, 1));
        assert_eq!(leads(&affinity, session, 1), set(&[A]), "{kind:?}: moved by somebody else");
        // His server is down for a while, and the other one has the session, too.
        affinity.accepted(&identity, by(B, 1, 1, 2));
        assert_eq!(leads(&affinity, session, 2), set(&[B]), "{kind:?}: not moved by its owner");
    }
}
