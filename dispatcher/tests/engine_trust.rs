//! Nobody decides for others: what a client says, repeats or leaves unsaid makes, keeps and ends no row that others use.

use core::time::Duration;
use dispatcher::engine::{Config, Limits};
use dispatcher::tls::{OfferedSessions, ServerFlight};
use dispatcher::wire::options::SynOptions;
use dispatcher::wire::packet::Flags;
use lb::affinity::Census;
use lb::{Affinity, BackendId, Identity, IdentityKind, Millis, Offered, Reason, Sighting};
use sha2::{Digest, Sha256};
use sim::config::two_armed;
use sim::script::*;
use sim::tls::{Flight, Hello};

fn seen() -> Sighting {
    Sighting { backend: BackendId(1), client: 1, now: Millis(5) }
}

fn offer(hello: &Hello) -> OfferedSessions {
    let bytes = hello.bytes();
    let mut scratch = vec![0; 20_000];
    OfferedSessions::new(&ssl_parse::client_hello(&bytes, &mut scratch).complete().unwrap())
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
            let mut watch = ServerFlight::new(offer(&hello), false);
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
        let mut watch = ServerFlight::new(offer(&hello), false);
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
        let mut watch = ServerFlight::new(offer(&Hello { session_id: vec![8; 32], ticket, ..Hello::default() }), false);
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

fn hello_13(key: u8) -> Vec<u8> {
    Hello { tls13: true, psk: vec![sealed(key, 1)], session_id: vec![1; 32], ..Hello::default() }.bytes()
}

/// A client whose hello was passed on, and a server that has not acknowledged it yet.
fn spliced(hello: &[u8]) -> Bench {
    let mut b = Bench::new(two_armed(2, false), false);
    let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.dial(hello);
    b.server_sends(Seg { options: &mss, window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
    b
}

/// The server asks for another hello, the client sends what it likes behind the first, and the server takes a PSK. What was learned.
fn after_retry(first: &[u8], client: impl Fn(&mut Bench, u32)) -> Option<(BackendId, Reason)> {
    let mut b = spliced(first);
    let n = 1 + first.len() as u32;
    let asked = retry();
    b.server_sends(Seg { window: 60000, ..seg(ACK, 1, n, &asked) });
    client(&mut b, n);
    // It acknowledges all that it got with its answer: far enough for each case.
    let answer = &flight_13(true)[..300];
    b.server_sends(Seg { window: 60000, ..seg(ACK, 1 + asked.len() as u32, n, answer) });
    assert_eq!(leads(b.engine.affinity(), IdentityKind::Psk, &sealed(7, 1)), None, "of the first hello");
    leads(b.engine.affinity(), IdentityKind::Psk, &sealed(8, 1))
}

const CHANGE_CIPHER_SPEC: [u8; 6] = [20, 3, 3, 0, 1, 1];

fn say(b: &mut Bench, at: u32, bytes: &[u8]) {
    b.client_sends(Seg { window: 60000, ..seg(ACK, at, 1, bytes) });
}

#[test]
fn after_a_retry_the_second_hello_is_learned_from() {
    let second = hello_13(8);
    assert!(after_retry(&hello_13(7), |b, n| say(b, n, &second)).is_some());
    // Behind a ChangeCipherSpec, and in pieces.
    let whole = [&CHANGE_CIPHER_SPEC[..], &second].concat();
    for piece in [1, 7, 100] {
        let learned = after_retry(&hello_13(7), |b, n| {
            whole.chunks(piece).enumerate().for_each(|(i, part)| say(b, n + (i * piece) as u32, part));
        });
        assert!(learned.is_some(), "in pieces of {piece}");
    }
    // The ChangeCipherSpec came with the first hello, and was held with it.
    let mut first = hello_13(7);
    first.extend(CHANGE_CIPHER_SPEC);
    assert!(after_retry(&first, |b, n| say(b, n, &second)).is_some());
}

#[test]
fn a_second_hello_of_which_the_server_may_have_got_another_one_explains_nothing() {
    let (true_one, other) = (hello_13(9), hello_13(8));
    let (half, len) = (other.len() / 2, other.len() as u32);
    type Lie<'a> = &'a dyn Fn(&mut Bench, u32);
    let cases: [(&str, Lie<'_>); 8] = [
        ("said twice", &|b, n| [&other, &true_one].map(|h| say(b, n, h)).into_iter().collect()),
        ("its end said twice", &|b, n| {
            say(b, n, &other);
            say(b, n + half as u32, &true_one[half..]);
        }),
        ("its last byte said twice", &|b, n| {
            say(b, n, &other);
            say(b, n + len - 1, &[0, 1, 2]);
        }),
        ("in disorder", &|b, n| {
            say(b, n + half as u32, &other[half..]);
            say(b, n, &other[..half]);
        }),
        ("damaged", &|b, n| {
            let mut frame = b.client_frame(&Seg { window: 60000, ..seg(ACK, n, 1, &other) });
            *frame.last_mut().unwrap() ^= 1;
            b.hand_in(0, &frame);
            say(b, n, &other);
        }),
        ("with urgent data", &|b, n| {
            // The pointer may come before what it points to.
            b.client_sends(Seg { window: 60000, ..seg(Flags(ACK.0 | Flags::URG.0), n, 1, &[]) });
            say(b, n, &other);
        }),
        ("after the first hello again", &|b, n| {
            say(b, n - 1, &true_one[..1]);
            say(b, n, &other);
        }),
        ("never", &|_, _| {}),
    ];
    for (what, client) in cases {
        let learned = after_retry(&hello_13(7), client);
        // The server has acknowledged the first hello: its bytes said again change nothing.
        assert_eq!(learned.is_some(), what == "after the first hello again", "{what}");
    }
}

#[test]
fn a_second_hello_that_nobody_asked_for_explains_nothing() {
    let first = hello_13(7);
    let mut b = spliced(&first);
    let n = 1 + first.len() as u32;
    say(&mut b, n, &hello_13(8));
    let asked = retry();
    b.server_sends(Seg { window: 60000, ..seg(ACK, 1, n, &asked) });
    b.server_sends(Seg { window: 60000, ..seg(ACK, 1 + asked.len() as u32, n, &flight_13(true)[..300]) });
    assert_eq!(b.engine.sessions(b.now).census.rows(), 0);
}

#[test]
fn a_hello_that_its_client_says_again_before_the_server_has_it_explains_nothing() {
    // Another hello; the same, as a client does that probes for the tail of what it sent (RFC 8985).
    let (first, other) = (hello_13(8), hello_13(7));
    for (repeats, acknowledged, learned) in
        [(None, false, true), (Some(&other), false, false), (Some(&other), true, true), (Some(&first), false, true)]
    {
        let mut b = spliced(&first);
        let n = 1 + first.len() as u32;
        if acknowledged {
            b.server_sends(Seg { window: 60000, ..seg(ACK, 1, n, &[]) });
        }
        if let Some(again) = repeats {
            say(&mut b, 1, again);
        }
        b.server_sends(Seg { window: 60000, ..seg(ACK, 1, n, &flight_13(true)[..300]) });
        assert_eq!(b.engine.sessions(b.now).census.rows() > 0, learned, "{} {acknowledged}", repeats == Some(&first));
    }
}

#[test]
fn a_key_is_not_retired_by_the_addresses_of_one_ipv6_host() {
    let mut b = Bench::new(two_armed(1, true), true);
    let mut port = 50_000;
    let mut go = |b: &mut Bench, from: &str, serial: u8, accepted: bool| {
        port += 1;
        b.client = std::net::SocketAddr::new(from.parse().unwrap(), port);
        let hello = Hello { tls13: true, psk: vec![sealed(7, serial)], session_id: vec![1; 32], ..Hello::default() };
        let hello = hello.bytes();
        let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        b.dial(&hello);
        b.server_sends(Seg { options: &mss, window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
        let answer = &flight_13(accepted)[..300];
        b.server_sends(Seg { window: 60000, ..seg(ACK, 1, 1 + hello.len() as u32, answer) });
    };
    go(&mut b, "fd01::10", 1, true);
    go(&mut b, "fd01::11", 2, true);
    (0..100).for_each(|n| go(&mut b, &format!("fd01:0:0:1::{n:x}"), 3 + n, false));
    assert_eq!(b.engine.sessions(b.now).census.key_names, 1);
}

/// The same hello with an `encrypted_client_hello` in front of its other extensions (RFC 9849 section 5).
fn with_ech(hello: &[u8]) -> Vec<u8> {
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    at += 1 + usize::from(hello[at]);
    let ech = [&[0xfe, 0x0d, 0, 40, 0][..], &[7; 39]].concat();
    let longer = |b: &[u8]| (u16::from_be_bytes([b[0], b[1]]) + ech.len() as u16).to_be_bytes();
    let mut out = [&hello[..at + 2], &ech, &hello[at + 2..]].concat();
    for length in [3, 7, at] {
        let new = longer(&out[length..]);
        out[length..length + 2].copy_from_slice(&new);
    }
    out
}

#[test]
fn nothing_is_learned_from_the_outer_hello_where_servers_have_ech() {
    for (have, learned) in [(false, 1), (true, 0)] {
        let mut affinity = Affinity::single(lb::Config::new(2));
        for serial in 0..2 {
            let plain = Hello { tls13: true, psk: vec![sealed(7, serial)], ..Hello::default() }.bytes();
            let bytes = with_ech(&plain);
            let mut scratch = vec![0; 20_000];
            let hello = ssl_parse::client_hello(&bytes, &mut scratch).complete().unwrap();
            assert!(hello.ech && !hello.is_ambiguous());
            let mut watch = ServerFlight::new(OfferedSessions::new(&hello), false);
            if have {
                watch.servers_have_ech();
            }
            watch.feed(&flight_13(true), &mut affinity, seen());
            assert_eq!(watch.resumed(), Some(true));
        }
        assert_eq!(rows(&affinity).key_names, learned);
    }
}

#[test]
fn a_refusal_counts_although_the_client_said_its_hello_again() {
    for repeats in [false, true] {
        let first = hello_13(8);
        let mut b = spliced(&first);
        if repeats {
            say(&mut b, 1, &hello_13(7));
        }
        b.server_sends(Seg { window: 60000, ..seg(ACK, 1, 1 + first.len() as u32, &flight_13(false)[..300]) });
        assert_eq!(b.engine.sessions(b.now).census.refusals, 1, "{repeats}");
    }
}
