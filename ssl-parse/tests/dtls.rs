//! DTLS: datagrams, fragments, and their reassembly.

mod common;

use common::{connection, datagram_events, extension, hello_body, message, server_hello_body};
use proptest::prelude::*;
use ssl_parse::dtls::{self, Datagram, Follower, Fragment, Record};
use ssl_parse::{ContentType, Event, HandshakeType, Malformed, Outcome, ProtocolVersion, Side};

/// A record of DTLS 1.2.
fn record(content_type: u8, epoch: u8, fragment: &[u8]) -> Vec<u8> {
    let mut out = vec![content_type, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, 9];
    out.extend((fragment.len() as u16).to_be_bytes());
    out.extend(fragment);
    out
}

/// The piece `range` of a message.
fn piece(kind: u8, seq: u8, body: &[u8], range: std::ops::Range<usize>) -> Vec<u8> {
    let u24 = |n: usize| (n as u32).to_be_bytes()[1..].to_vec();
    [&message(kind, body)[..4], &[0, seq], &u24(range.start), &u24(range.len()), &body[range]].concat()
}

/// A ClientHello of DTLS 1.2 with a cookie and a ticket of 300 bytes.
fn client_hello() -> Vec<u8> {
    let mut body = hello_body(&[], &[extension(35, &[8; 300])]);
    body[..2].copy_from_slice(&[0xfe, 0xfd]);
    body.splice(35..35, [3, b'c', b'o', b'o']);
    body
}

fn found<'a>(datagrams: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<String> {
    datagram_events::<1024>(Side::Client, datagrams.into_iter().map(Vec::as_slice))
}

const HELLO: &str = "ch record=fefd legacy=fefd sid= ticket=300:08080808080808080808080808080808 psk= sni=- alpn= versions= early=false ech=false";

#[test]
fn records_and_fragments_show_their_fields() {
    let bytes = record(22, 0, &piece(1, 7, &client_hello(), 10..50));
    let mut rest = &bytes[..];
    let r = Record::read(&mut rest).unwrap();
    assert_eq!(
        (r.content_type, r.version, r.epoch, r.sequence),
        (ContentType::HANDSHAKE, ProtocolVersion::DTLS1_2, 0, 9)
    );
    assert!(rest.is_empty());
    let mut rest = r.fragment;
    let f = Fragment::read(&mut rest).unwrap();
    assert_eq!((f.kind, f.message_seq, f.offset, f.body.len()), (HandshakeType::CLIENT_HELLO, 7, 10, 40));
    assert!(!f.is_whole() && rest.is_empty());
}

#[test]
fn the_cookie_of_a_real_second_hello_is_the_server_s() {
    let connection = connection("dtls12_cookie_full");
    let mut asked = vec![];
    let mut given = vec![];
    let (mut client, mut server) = (Follower::<1024>::new(Side::Client), Follower::<1024>::new(Side::Server));
    for (side, datagram) in &connection.pieces {
        let follower = if *side == Side::Client { &mut client } else { &mut server };
        follower.feed(datagram, |event| match event {
            Event::HelloVerifyRequest { version, cookie } => {
                assert!(version.is_dtls());
                asked = cookie.to_vec();
            }
            Event::ClientHello(hello) => given.push(hello.dtls_cookie.unwrap().to_vec()),
            _ => {}
        });
    }
    assert!(!asked.is_empty());
    assert_eq!(given, [vec![], asked]);
}

#[test]
fn a_hello_in_pieces_needs_more_and_is_joined() {
    let body = client_hello();
    let pieces: Vec<_> = [0..100, 100..101, 101..body.len()].map(|r| record(22, 0, &piece(1, 0, &body, r))).into();
    assert_eq!(dtls::client_hello(&pieces[0]), Outcome::NeedMore);
    assert!(dtls::client_hello(&record(22, 0, &piece(1, 0, &body, 0..body.len()))).complete().is_some());
    let [a, b, c] = &pieces[..] else { unreachable!() };
    for order in [[a, b, c], [c, b, a], [b, c, a], [a, c, b]] {
        assert_eq!(found(order), [HELLO]);
    }
    assert_eq!(found([a, a, b, a, c]), [HELLO], "doubled");
    assert_eq!(found([a, c]), [""; 0], "one lost");
    assert_eq!(found([a, c, a, b, c]), [HELLO], "and sent again");
    assert_eq!(found([a, b, c, a, b, c]), [HELLO, HELLO], "all sent again");
    let one_datagram = [a.clone(), b.clone(), c.clone()].concat();
    assert_eq!(found([&one_datagram]), [HELLO]);
    let one_record = record(22, 0, &[&a[13..], &b[13..], &c[13..]].concat());
    assert_eq!(found([&one_record]), [HELLO]);
}

#[test]
fn pieces_of_another_message_replace_those_of_an_unfinished_one() {
    let body = client_hello();
    let half = |seq, range| record(22, 0, &piece(1, seq, &body, range));
    let end = body.len();
    assert_eq!(found([&half(0, 0..200), &half(1, 200..end), &half(0, 200..end), &half(0, 0..200)]), [HELLO]);
}

#[test]
fn more_stretches_than_are_remembered_cost_pieces_and_nothing_else() {
    let body = client_hello();
    let pieces: Vec<_> = (0..body.len()).map(|i| record(22, 0, &piece(1, 0, &body, i..i + 1))).collect();
    let (even, odd): (Vec<_>, Vec<_>) = pieces.iter().enumerate().partition(|(i, _)| i % 2 == 0);
    let strip = |v: Vec<(usize, &Vec<u8>)>| v.into_iter().map(|(_, p)| p.clone()).collect::<Vec<_>>();
    let (even, odd) = (strip(even), strip(odd));
    assert_eq!(found(even.iter().chain(&odd)), [""; 0]);
    assert_eq!(found(even.iter().chain(&odd).chain(&pieces)), [HELLO], "sent again, in order");
}

#[test]
fn a_message_in_pieces_longer_than_the_memory_is_skipped_once() {
    let mut body = client_hello();
    body.resize(2000, 0);
    let pieces: Vec<_> = [0..900, 900..2000].map(|r| record(22, 0, &piece(1, 0, &body, r))).into();
    assert_eq!(found(&pieces), ["Skipped { kind: HandshakeType(0x01), len: 2000 }"]);
}

#[test]
fn later_epochs_and_the_short_header_of_1_3_are_encrypted() {
    let body = client_hello();
    let hello = record(22, 0, &piece(1, 0, &body, 0..body.len()));
    let ccs = record(20, 0, &[1]);
    let (encrypted, short) = (record(22, 1, &[0xaa; 40]), vec![0x2f, 1, 2, 3, 4]);
    assert_eq!(found([&hello, &ccs, &encrypted, &encrypted, &hello]), [HELLO, "ChangeCipherSpec", "Encrypted", HELLO]);
    assert_eq!(found([&hello, &short, &short]), [HELLO, "Encrypted"]);
    assert_eq!(found([&short]), ["NotTls"], "five bits alone prove nothing");
    let all_in_one = [hello, ccs, encrypted].concat();
    assert_eq!(found([&all_in_one]), [HELLO, "ChangeCipherSpec", "Encrypted"]);
}

#[test]
fn broken_datagrams_say_why_and_leave_the_flow_unharmed() {
    let body = client_hello();
    let hello = record(22, 0, &piece(1, 0, &body, 0..body.len()));
    let mut beyond = record(22, 0, &piece(1, 0, &body, 0..body.len()));
    beyond[13 + 8] = 1;
    let cut = hello[..hello.len() - 1].to_vec();
    let tls = vec![22, 3, 3, 0, 10, 1];
    for (broken, why) in [(beyond, Malformed::Fragments), (cut, Malformed::Truncated), (tls, Malformed::Version)] {
        assert_eq!(
            found([&hello, &broken, &hello]),
            [HELLO.to_owned(), format!("Malformed({why:?})"), HELLO.to_owned()]
        );
    }
    assert_eq!(found([&b"\0\x01\0\0\x21\x12\xa4\x42".to_vec(), &hello]), ["NotTls", HELLO], "STUN before it");
}

#[test]
fn a_server_s_abbreviated_handshake_shows() {
    let body = server_hello_body(&[1; 32], &[7; 32], &[]);
    let hello = record(22, 0, &piece(2, 0, &body, 0..body.len()));
    let mut follower = Follower::<256>::new(Side::Server);
    let mut datagram = Datagram::new(&hello);
    assert!(matches!(follower.next_event(&mut datagram), Some(Event::ServerHello(_))));
    assert!(follower.next_event(&mut datagram).is_none());
    assert_eq!(follower.resumed(), None);
    let mut full = follower.clone();
    follower.feed(&record(20, 0, &[1]), |_| {});
    assert_eq!(follower.resumed(), Some(true));
    full.feed(&record(22, 0, &piece(11, 1, &[0; 3000], 0..1000)), |_| {});
    full.feed(&record(20, 0, &[1]), |_| {});
    assert_eq!(full.resumed(), Some(false));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Overlapping, doubled and shuffled as they may be: once every byte has come, the hello is there, and right.
    #[test]
    fn any_pieces_that_cover_a_hello_make_it(cuts in prop::collection::vec((0..400_usize, 1..200_usize), 0..12), last in 1..80_usize) {
        let body = client_hello();
        let mut pieces: Vec<_> = cuts
            .iter()
            .map(|&(start, len)| (start.min(body.len() - 1), len))
            .map(|(start, len)| record(22, 0, &piece(1, 0, &body, start..(start + len).min(body.len()))))
            .collect();
        // The rest in order, so that none is lost for want of room.
        for start in (0..body.len()).step_by(last) {
            pieces.push(record(22, 0, &piece(1, 0, &body, start..(start + last).min(body.len()))));
        }
        for start in (0..body.len()).step_by(last) {
            pieces.push(record(22, 0, &piece(1, 0, &body, start..(start + last).min(body.len()))));
        }
        let found = found(&pieces);
        prop_assert!(!found.is_empty() && found.iter().all(|e| e == HELLO), "{:?}", found);
    }
}
