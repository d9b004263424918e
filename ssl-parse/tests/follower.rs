//! What a follower reports, and where it stops.

mod common;

use common::{connection, events, extension, hello_body, hex, message, records, server_hello_body, vec8, vec16};
use ssl_parse::{Event, Follower, HELLO_RETRY_RANDOM, Side};

const CCS: [u8; 6] = [20, 3, 3, 0, 1, 1];

fn versions_1_3() -> Vec<u8> {
    extension(43, &vec8(&[3, 4, 3, 3]))
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    records(22, &message(kind, body), &[])
}

fn client_hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    handshake(1, &hello_body(&[7; 32], extensions))
}

fn server_hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    handshake(2, &server_hello_body(&[1; 32], &[7; 32], extensions))
}

fn retry() -> Vec<u8> {
    handshake(2, &server_hello_body(&HELLO_RETRY_RANDOM, &[7; 32], &[extension(43, &[3, 4])]))
}

fn ticket(len: usize) -> Vec<u8> {
    let ticket: Vec<u8> = (0..len).map(|i| i as u8).collect();
    [vec![0, 0, 1, 44], vec16(&ticket)].concat()
}

/// The first word of each event, in any slicing the same.
fn kinds(side: Side, stream: &[u8]) -> String {
    let all = events::<512>(side, [stream]);
    for slice in [1, 2, 5, 6, 64] {
        assert_eq!(events::<512>(side, stream.chunks(slice)), all, "in slices of {slice}");
    }
    let words: Vec<_> = all.iter().map(|e| e.split([' ', '(']).next().unwrap()).collect();
    words[..words.len() - 1].join(" ")
}

fn client(parts: &[&[u8]]) -> String {
    kinds(Side::Client, &parts.concat())
}

fn server(parts: &[&[u8]]) -> String {
    kinds(Side::Server, &parts.concat())
}

/// Cipher text in records of the type given.
fn encrypted(content_type: u8) -> Vec<u8> {
    records(content_type, &[0xc5; 40], &[])
}

#[test]
fn a_client_s_change_cipher_spec_ends_its_tls_1_2() {
    let full = client(&[&client_hello(&[]), &handshake(16, &[1; 66]), &CCS, &encrypted(22), &encrypted(23)]);
    assert_eq!(full, "ch Handshake ChangeCipherSpec Encrypted");
    assert_eq!(client(&[&client_hello(&[]), &CCS, &encrypted(22)]), "ch ChangeCipherSpec Encrypted");
}

#[test]
fn an_abbreviated_tls_1_2_of_a_client_that_offered_1_3_ends_at_its_encrypted_finished() {
    let hello = client_hello(&[versions_1_3()]);
    assert_eq!(client(&[&hello, &CCS]), "ch ChangeCipherSpec");
    assert_eq!(client(&[&hello, &CCS, &encrypted(22)]), "ch ChangeCipherSpec Encrypted");
    // Cipher text that begins as a hello would, but then not as this client's, or that no handshake record can be.
    for text in [&[1, 0, 0, 60, 3, 3, 0x40, 0x41, 0xff][..], &[1, 0, 0, 60, 3, 1], &[1, 1], &[4, 0, 0, 9]] {
        let finished = [text, &[0x77; 40]].concat();
        assert_eq!(
            client(&[&hello, &CCS, &records(22, &finished, &[])]),
            "ch ChangeCipherSpec Encrypted",
            "{text:02x?}"
        );
    }
    assert_eq!(client(&[&hello, &CCS, &encrypted(21)]), "ch ChangeCipherSpec Encrypted");
}

#[test]
fn a_second_hello_is_seen_behind_decoy_and_early_data_alike() {
    let first = client_hello(&[versions_1_3(), extension(42, b"")]);
    let second = client_hello(&[versions_1_3(), extension(44, &vec16(b"cookie"))]);
    let rest = [CCS.to_vec(), encrypted(23)].concat();
    let decoy = client(&[&first, &CCS, &encrypted(23), &encrypted(23), &second, &encrypted(23)]);
    assert_eq!(decoy, "ch ChangeCipherSpec ch Encrypted");
    assert_eq!(client(&[&first, &encrypted(23), &second, &rest]), "ch ch ChangeCipherSpec Encrypted");
    // Accepted early data: no second hello, and no end in sight.
    assert_eq!(client(&[&first, &CCS, &encrypted(23), &encrypted(23)]), "ch ChangeCipherSpec");
    // Without early data the first application data are the end.
    let plain = client_hello(&[versions_1_3()]);
    assert_eq!(client(&[&plain, &CCS, &second, &rest]), "ch ChangeCipherSpec ch ChangeCipherSpec Encrypted");
    assert_eq!(client(&[&plain, &rest]), "ch ChangeCipherSpec Encrypted");
    assert_eq!(client(&[&plain, &encrypted(23), &second]), "ch Encrypted");
    // Never a third.
    assert_eq!(client(&[&plain, &second, &second]), "ch ch Malformed");
}

#[test]
fn a_server_s_hello_of_1_3_ends_its_part_and_a_retry_does_not() {
    let chosen = server_hello(&[extension(43, &[3, 4]), extension(41, &[0, 0])]);
    assert_eq!(server(&[&chosen, &CCS, &encrypted(23)]), "sh Encrypted");
    assert_eq!(server(&[&retry(), &CCS, &chosen, &encrypted(23)]), "sh ChangeCipherSpec sh Encrypted");
    assert_eq!(server(&[&retry(), &chosen, &CCS]), "sh sh Encrypted");
    assert_eq!(server(&[&retry(), &handshake(11, &[0; 9])]), "sh Malformed");
}

#[test]
fn resumption_shows_in_what_the_server_leaves_out() {
    let resumed = |parts: &[&[u8]]| {
        let mut follower = Follower::<512>::new(Side::Server);
        follower.feed(&parts.concat(), |_| {});
        follower.resumed()
    };
    let hello = server_hello(&[]);
    let issue = handshake(4, &ticket(100));
    assert_eq!(resumed(&[&hello]), None);
    assert_eq!(resumed(&[&hello, &CCS]), Some(true));
    assert_eq!(resumed(&[&hello, &issue, &CCS]), Some(true), "a ticket renewed");
    assert_eq!(
        resumed(&[&hello, &handshake(11, &[0; 900])[..9]]),
        Some(false),
        "as soon as the certificate's head is there"
    );
    assert_eq!(resumed(&[&hello, &handshake(14, &[]), &issue, &CCS]), Some(false), "PSK ciphers have no certificate");
    assert_eq!(resumed(&[&server_hello(&[extension(43, &[3, 4])])]), Some(false));
    assert_eq!(resumed(&[&server_hello(&[extension(43, &[3, 4]), extension(41, &[0, 0])])]), Some(true));
    assert_eq!(resumed(&[&retry(), &CCS]), None);
    // A hello too long to be read could have been of TLS 1.3.
    let long = server_hello(&[extension(0xff00, &[0; 600])]);
    assert_eq!(resumed(&[&long, &CCS]), None);
    assert_eq!(server(&[&long, &encrypted(23)]), "Skipped Encrypted");
}

#[test]
fn certificates_of_any_size_pass_through_little_memory() {
    // 100 000 bytes over records that also hold what stands before and behind.
    let flight = [
        message(2, &server_hello_body(&[1; 32], &[], &[])),
        message(11, &[0xcc; 100_000]),
        message(14, &[]),
        message(4, &ticket(180)),
    ]
    .concat();
    let stream = [&records(22, &flight, &[16384, 1, 5000]), &CCS[..]].concat();
    for slice in [1, 1000, usize::MAX] {
        let all = events::<256>(Side::Server, stream.chunks(slice));
        assert_eq!(all[1], "Handshake { kind: HandshakeType(0x0b), len: 100000 }");
        assert_eq!(all[2], "Handshake { kind: HandshakeType(0x0e), len: 0 }");
        assert_eq!(all[3], "nst lifetime=300 ticket=180:000102030405060708090a0b0c0d0e0f");
        assert_eq!(all[4..], ["ChangeCipherSpec", "Encrypted", "resumed Some(false), done true"]);
    }
}

#[test]
fn a_ticket_longer_than_the_memory_comes_as_a_stream() {
    for (len, record) in [(59, 16384), (3000, 16384), (3000, 700), (3000, 1), (65535, 16384)] {
        let hello = server_hello(&[]);
        let stream = [&hello[..], &records(22, &message(4, &ticket(len)), &[record]), &CCS].concat();
        for slice in [1, 30, 777, usize::MAX] {
            let mut all = events::<64>(Side::Server, stream.chunks(slice));
            all.remove(0);
            assert_eq!(all[0], format!("LongTicketStart {{ lifetime: 300, len: {len} }}"));
            assert_eq!(all[1], format!("long ticket {}", hex(&ticket(len)[6..])));
            assert_eq!(all[2], "ChangeCipherSpec");
        }
    }
    // Lengths that contradict each other.
    let mut wrong = ticket(3000);
    wrong[5] += 1;
    assert_eq!(server(&[&server_hello(&[]), &handshake(4, &wrong)]), "sh Malformed");
}

#[test]
fn a_hello_longer_than_the_memory_is_skipped_and_its_handshake_goes_on() {
    let long = client_hello(&[extension(21, &[0; 600])]);
    assert_eq!(
        client(&[&long, &handshake(16, &[1; 66]), &CCS, &encrypted(22)]),
        "Skipped Handshake ChangeCipherSpec Encrypted"
    );
    assert_eq!(client(&[&long, &CCS, &encrypted(23)]), "Skipped ChangeCipherSpec Encrypted");
}

#[test]
fn alerts_in_the_clear_are_seen_even_in_the_middle_of_a_message() {
    let alert = [21, 3, 1, 0, 2, 2, 40];
    assert_eq!(server(&[&alert]), "Alert");
    let hello = client_hello(&[]);
    assert_eq!(client(&[&hello, &alert]), "ch Alert");
    let halves = records(22, &message(1, &hello_body(&[], &[])), &[30]);
    assert_eq!(client(&[&halves[..35], &alert, &halves[35..]]), "Alert ch");
    assert_eq!(client(&[&halves[..35], &CCS, &halves[35..]]), "ChangeCipherSpec ch", "GnuTLS and wolfSSL pass over it");
    assert_eq!(server(&[&[21, 3, 1, 0, 2, 7, 40]]), "NotTls");
    assert_eq!(client(&[&hello, &[21, 3, 1, 0, 2, 7, 40]]), "ch Malformed");
}

#[test]
fn what_has_no_place_is_malformed() {
    let (ch, sh) = (client_hello(&[]), server_hello(&[]));
    assert_eq!(client(&[&ch, &ch]), "ch Malformed");
    assert_eq!(client(&[&ch, &encrypted(23)]), "ch Malformed");
    assert_eq!(client(&[&ch, &sh]), "ch Malformed");
    assert_eq!(client(&[&ch, &[99]]), "ch Malformed");
    assert_eq!(client(&[&ch, &[22, 4]]), "ch Malformed");
    assert_eq!(client(&[&ch, &[22, 3, 3, 0x40, 1]]), "ch Malformed");
    assert_eq!(server(&[&CCS, &sh]), "NotTls");
    assert_eq!(server(&[&sh, &sh]), "sh Malformed");
    assert_eq!(server(&[&sh, &encrypted(23)]), "sh Malformed");
    assert_eq!(server(&[&handshake(0, &[]), &sh]), "Handshake sh", "a HelloRequest may come at any time");
}

#[test]
fn warnings_and_empty_records_before_and_amid_a_servers_hello_hide_nothing() {
    let warning = [21, 3, 3, 0, 2, 1, 112];
    let empty = [22, 3, 3, 0, 0];
    let sh = server_hello(&[]);
    assert_eq!(server(&[&warning, &empty, &sh, &empty, &handshake(14, &[])]), "Alert sh Handshake");
    let halves = records(22, &message(2, &server_hello_body(&[1; 32], &[], &[])), &[30]);
    assert_eq!(server(&[&halves[..35], &warning, &empty, &halves[35..]]), "Alert sh");
}

#[test]
fn an_encrypted_renegotiation_is_never_listed() {
    let client_side = connection("tls12_ticket_issued");
    let again = [client_side.stream(Side::Client), client_side.stream(Side::Client)].concat();
    let once = events::<4096>(Side::Client, [client_side.stream(Side::Client)]);
    assert_eq!(events::<4096>(Side::Client, [&again[..]]), once);
}

#[test]
fn events_can_be_pulled_one_by_one_and_the_input_tells_how_far_it_got() {
    let stream = [server_hello(&[]), handshake(14, &[]), CCS.to_vec(), encrypted(22)].concat();
    let mut follower = Follower::<512>::new(Side::Server);
    let mut input = &stream[..];
    assert!(matches!(follower.next_event(&mut input), Some(Event::ServerHello(_))));
    assert_eq!(stream.len() - input.len(), server_hello(&[]).len());
    assert!(matches!(follower.next_event(&mut input), Some(Event::Handshake { len: 0, .. })));
    assert!(matches!(follower.next_event(&mut input), Some(Event::ChangeCipherSpec)));
    assert!(!follower.is_done());
    assert!(matches!(follower.next_event(&mut input), Some(Event::Encrypted)));
    assert!(follower.is_done() && follower.next_event(&mut input).is_none() && input.is_empty());
}

#[test]
fn a_follower_is_its_memory_and_little_more() {
    assert!(size_of::<Follower<2048>>() <= 2048 + 128, "{}", size_of::<Follower<2048>>());
}
