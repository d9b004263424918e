//! Nobody decides for others: what a client says, repeats or leaves unsaid makes, keeps and ends no row that others use.

use core::time::Duration;
use dispatcher::engine::session::{Offer, Watch};
use dispatcher::engine::{Config, Limits};
use dispatcher::wire::options::SynOptions;
use lb::affinity::Census;
use lb::{Affinity, BackendId, Identity, IdentityKind, Millis, Offered, Reason, Sighting};
use sha2::{Digest, Sha256};
use sim::config::two_armed;
use sim::script::*;
use sim::tls::{Flight, Hello};

fn seen() -> Sighting {
    Sighting { backend: BackendId(1), client: 1, now: Millis(5) }
}

fn offer(hello: &Hello) -> Offer {
    let bytes = hello.bytes();
    let mut scratch = vec![0; 20_000];
    Offer::new(&ssl_parse::client_hello(&bytes, &mut scratch).complete().unwrap())
}

fn flight_13(psk_selected: bool) -> Vec<u8> {
    let session_id = vec![1; 32];
    Flight { tls13: true, session_id, psk_selected, ticket: None, resumed: psk_selected, random: [0; 32] }.bytes()
}

fn flight_12(session_id: Vec<u8>, resumed: bool) -> Vec<u8> {
    Flight { tls13: false, session_id, psk_selected: false, ticket: None, resumed, random: [0; 32] }.bytes()
}

/// A HelloRetryRequest.
fn retry() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend(ssl_parse::HELLO_RETRY_RANDOM);
    body.push(32);
    body.extend([1; 32]);
    body.extend([0x13, 1, 0]);
    // supported_versions, and key_share with a group.
    body.extend([0, 12, 0, 43, 0, 2, 3, 4, 0, 51, 0, 2, 0, 23]);
    let m = [&[2][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
    [&[22, 3, 3][..], &(m.len() as u16).to_be_bytes(), &m].concat()
}

fn rows(affinity: &Affinity) -> Census {
    affinity.census(Millis(5))
}

fn sealed(key: u8, serial: u8) -> Vec<u8> {
    [&[key; 16][..], &[serial; 60]].concat()
}

/// What an identity of this kind leads to, and by what.
fn leads(affinity: &Affinity, kind: IdentityKind, bytes: &[u8]) -> Option<(BackendId, Reason)> {
    let identity = Identity::new(&Offered { kind, bytes }).unwrap();
    let decision = affinity.lookup(&[identity], Millis(5), |_| true).decision?;
    Some((decision.backends.single()?, decision.reason))
}

#[test]
fn after_a_retry_the_first_hello_explains_nothing() {
    for psk_selected in [true, false] {
        let mut affinity = Affinity::single(lb::Config::new(2));
        for serial in 0..10 {
            let hello =
                Hello { tls13: true, psk: vec![sealed(7, serial)], session_id: vec![1; 32], ..Hello::default() };
            let mut watch = Watch::new(offer(&hello), false);
            watch.feed(&retry(), &mut affinity, seen());
            watch.feed(&flight_13(psk_selected), &mut affinity, seen());
            assert_eq!(watch.resumed(), Some(psk_selected), "told, not learned");
        }
        assert_eq!(rows(&affinity), Census::default());
    }
}

#[test]
fn a_ticket_beside_an_id_that_is_resumed_is_credited_only_when_the_id_is_its_digest() {
    let ticket = sealed(7, 1);
    let digest = Sha256::digest(&ticket).to_vec();
    for (id, known) in [(vec![8; 32], false), (digest, true)] {
        let mut affinity = Affinity::single(lb::Config::new(2));
        let hello = Hello { session_id: id.clone(), ticket: Some(ticket.clone()), ..Hello::default() };
        let mut watch = Watch::new(offer(&hello), false);
        watch.feed(&flight_12(id.clone(), true), &mut affinity, seen());
        assert_eq!(watch.resumed(), Some(true));
        assert_eq!(leads(&affinity, IdentityKind::Ticket, &ticket).is_some(), known);
        assert_eq!((rows(&affinity).rows() > 0, rows(&affinity).session_ids), (known, 0));
        assert_eq!(affinity.metrics().kind(IdentityKind::Ticket).accepted, 1, "counted in any case");
    }
}

#[test]
fn inventions_beside_a_real_id_evict_nothing() {
    let mut affinity = Affinity::single(lb::Config { session_capacity: 64, ..lb::Config::new(2) });
    let good = Identity::new(&Offered { kind: IdentityKind::SessionId, bytes: &[9; 32] }).unwrap();
    affinity.issued(&good, Sighting { backend: BackendId(0), client: 7, now: Millis(0) });
    for n in 0..2000u32 {
        let ticket = Some([&n.to_be_bytes()[..], &[0x55; 60]].concat());
        let mut watch = Watch::new(offer(&Hello { session_id: vec![8; 32], ticket, ..Hello::default() }), false);
        // The server knows no tickets, and resumes by the ID.
        watch.feed(&flight_12(vec![8; 32], true), &mut affinity, seen());
    }
    assert_eq!(leads(&affinity, IdentityKind::SessionId, &[9; 32]), Some((BackendId(0), Reason::SessionId)));
    assert_eq!((rows(&affinity).tickets, affinity.metrics().exact.evicted), (0, 0));
}

/// A client's connection up to a part of its server's answer, or to the end of it.
fn handshake(b: &mut Bench, client: &str, id: u8, upto: Option<usize>) {
    let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client = client.parse().unwrap();
    let hello = Hello { random: [id; 32], ..Hello::default() }.bytes();
    b.dial(&hello);
    b.server_sends(Seg { options: &mss, window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
    let flight = flight_12(vec![id; 32], false);
    let n = 1 + hello.len() as u32;
    let mut at = 1;
    for part in flight[..upto.unwrap_or(flight.len())].chunks(1000) {
        b.server_sends(Seg { window: 60000, ..seg(ACK, at, n, part) });
        b.client_sends(Seg { window: 60000, ..seg(ACK, n, at + part.len() as u32, &[]) });
        at += part.len() as u32;
    }
}

fn four_watches() -> Bench {
    let limits = Limits { watches: 4, ..Limits::default() };
    Bench::new(Config { limits, ..two_armed(1, false) }, false)
}

fn ids(b: &Bench) -> usize {
    b.engine.sessions(b.now).census.session_ids
}

#[test]
fn stalled_handshakes_lose_their_watches_to_others() {
    let mut b = four_watches();
    for n in 0..20u8 {
        handshake(&mut b, &format!("10.1.0.66:{}", 50_000 + u16::from(n)), 100 + n, Some(1000));
    }
    assert_eq!(b.engine.watched(), 4);
    handshake(&mut b, "10.1.0.7:50000", 1, None);
    assert_eq!((ids(&b), b.engine.counters().unwatched), (1, 17));
}

#[test]
fn a_stalled_handshake_loses_its_watch_after_ten_seconds_without_anybody_asking() {
    let mut b = four_watches();
    for n in 0..4u8 {
        handshake(&mut b, &format!("10.1.0.66:{}", 50_000 + u16::from(n)), 100 + n, Some(1000));
    }
    b.wait(Duration::from_secs(9));
    assert_eq!(b.engine.watched(), 4);
    b.wait(Duration::from_secs(2));
    assert_eq!((b.engine.watched(), b.engine.counters().unwatched), (0, 4));
}
