//! What is not TLS, how soon that shows, and the SSL 2.0 form, which is hardest to tell.

mod common;

use common::{connection, events, vec16};
use proptest::prelude::*;
use ssl_parse::{CipherSuite, Framing, HelloWalk, Outcome, ProtocolVersion, Side, client_hello, server_hello};

/// How many bytes of it prove that it is not TLS.
fn proof(stream: &[u8]) -> Option<usize> {
    (0..=stream.len()).find(|&n| {
        let mut scratch = [0; 512];
        client_hello(&stream[..n], &mut scratch) == Outcome::NotTls
    })
}

#[test]
fn other_protocols_are_known_by_their_first_bytes() {
    for (what, stream, bytes) in [
        ("HTTP", &b"GET / HTTP/1.1\r\n"[..], 1),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n", 1),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", 1),
        ("SMTP", b"EHLO client.example\r\n", 1),
        ("PostgreSQL asking for TLS", b"\0\0\0\x08\x04\xd2\x16\x2f", 1),
        ("RDP", b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0", 1),
        ("SOCKS 5", b"\x05\x01\0", 1),
        ("MQTT", b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\0", 1),
        ("DNS over TCP", b"\0\x1d\xaa\xbb\x01\0\0\x01\0\0\0\0\0\0", 1),
        ("a fatal alert", b"\x15\x03\x01\0\x02\x02\x28", 6),
        ("an encrypted alert", b"\x15\x03\x03\0\x1a\x51\x11", 5),
        ("a ChangeCipherSpec, then ciphertext", b"\x14\x03\x03\0\x01\x01\x17", 7),
        ("application data", b"\x17\x03\x03\0\x20", 1),
        ("DTLS", b"\x16\xfe\xfd\0\0\0\0\0\0\0\0\0\x10\x01", 2),
        ("a record of a version that is none", b"\x16\x10\x00\0\x20\x01", 2),
        ("an empty record, then something else", b"\x16\x03\x01\0\0\x47", 6),
        ("a server's hello", b"\x16\x03\x03\0\x7a\x02\0\0\x76", 6),
        ("TDS (SQL Server), high bit never", b"\x12\x01\0\x2f\0\0\x01\0", 1),
        ("UTF-8", "äöü".as_bytes(), 1),
        ("zeros behind a high bit", &[0x80, 0, 0, 0], 2),
        ("UTF-16 byte order mark", &[0xff, 0xfe, b'h', 0], 1),
        ("PGP", &[0x99, 0x01, 0x0d, 0x04], 3),
        ("gzip-like", &[0x9f, 0x8b, 0x01, 0x00, 0x00], 5),
    ] {
        assert_eq!(proof(stream), Some(bytes), "{what}");
        let seen = events::<256>(Side::Client, [stream]);
        assert_eq!(seen[seen.len() - 2..], ["NotTls", "resumed None, done true"], "{what}");
        assert!(seen[..seen.len() - 2].iter().all(|passed| passed == "ChangeCipherSpec"), "{what}: {seen:?}");
    }
}

#[test]
fn a_server_that_answers_no_tls_is_told_at_once() {
    for answer in
        [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"220 mail.example ESMTP\r\n", b"SSH-2.0-", b"\x16\x03\x03\0\x10\x01"]
    {
        assert_eq!(events::<256>(Side::Server, answer.chunks(1))[0], "NotTls");
        assert_eq!(server_hello(answer, &mut []), Outcome::NotTls);
    }
}

fn sslv2_hello(version: [u8; 2], ciphers: &[u8], session_id: &[u8], challenge: &[u8]) -> Vec<u8> {
    let len = |bytes: &[u8]| vec16(bytes)[..2].to_vec();
    let body =
        [&[1], &version[..], &len(ciphers), &len(session_id), &len(challenge), ciphers, session_id, challenge].concat();
    let mut whole = vec16(&body);
    whole[0] |= 0x80;
    whole
}

#[test]
fn the_ssl_2_form_is_read_with_its_tls_ciphers_alone() {
    let stream = sslv2_hello([3, 1], &[0, 0, 0x2f, 1, 0, 0x80, 0, 0, 0x0a], &[6; 16], &[5; 16]);
    let hello = client_hello(&stream, &mut []).complete().unwrap();
    assert_eq!((hello.framing, hello.record_version), (Framing::Sslv2, ProtocolVersion::SSL2));
    assert_eq!(
        (hello.legacy_version, hello.session_id, hello.random),
        (ProtocolVersion::TLS1_0, &[6; 16][..], &[5; 16][..])
    );
    assert!(hello.cipher_suites.eq([CipherSuite(0x2f), CipherSuite(0x0a)]));
    assert_eq!(hello.consumed, stream.len());
    // SSL 2.0 alone counts too: it is a hello, whatever servers still make of it.
    assert!(client_hello(&sslv2_hello([0, 2], &[1, 0, 0x80], &[], &[5; 16]), &mut []).complete().is_some());
}

#[test]
fn any_field_of_the_ssl_2_form_out_of_bounds_is_no_ssl() {
    let ciphers = [0, 0, 0x2f];
    for (what, stream) in [
        ("version 1", sslv2_hello([0, 1], &ciphers, &[], &[5; 16])),
        ("version 2.0 in the other order", sslv2_hello([2, 0], &ciphers, &[], &[5; 16])),
        ("no ciphers", sslv2_hello([3, 1], &[], &[], &[5; 32])),
        ("a cipher and a half", sslv2_hello([3, 1], &[0, 0, 0x2f, 0], &[], &[5; 16])),
        ("session id of 33", sslv2_hello([3, 1], &ciphers, &[6; 33], &[5; 16])),
    ] {
        assert!(proof(&stream).is_some_and(|n| n <= 11), "{what}");
    }
    let mut shorter = sslv2_hello([3, 1], &ciphers, &[], &[5; 16]);
    shorter[1] -= 1;
    assert_eq!(proof(&shorter), Some(11), "lengths that do not add up");
}

#[test]
fn the_ssl_2_form_is_read_in_all_lengths_that_openssl_or_gnutls_takes() {
    let ciphers = [0, 0, 0x2f];
    for version in [[3, 0], [3, 4], [3, 5], [4, 0]] {
        for (id, challenge) in [(0, 8), (0, 16), (16, 32), (32, 32), (0, 48), (1, 0)] {
            let stream = sslv2_hello(version, &ciphers, &vec![6; id], &vec![5; challenge]);
            let hello = client_hello(&stream, &mut []).complete().unwrap();
            assert_eq!((hello.session_id.len(), hello.random.len()), (id, challenge));
            assert!(!hello.is_ambiguous() && hello.consumed == stream.len());
            assert!(events::<256>(Side::Client, stream.chunks(1))[0].starts_with("ch "));
        }
    }
    let mut longer = sslv2_hello([3, 1], &ciphers, &[], &[5; 16]);
    longer[1] += 1;
    assert_eq!(client_hello(&longer, &mut []), Outcome::NeedMore);
    longer.push(0);
    assert!(client_hello(&longer, &mut []).complete().unwrap().is_ambiguous(), "GnuTLS takes it, OpenSSL does not");
}

/// A first segment may be of one byte: no rule about lengths can hold for who has sent less.
#[test]
fn a_first_byte_with_the_high_bit_set_promises_no_length() {
    for first in 0x80..=0xff {
        for stream in [&[first][..], &[first, 0xff], &[first, 0xff, 1, 3]] {
            let mut walk = HelloWalk::default();
            let outcome = walk.advance(stream);
            assert!(outcome == Outcome::NotTls || outcome == Outcome::NeedMore && walk.missing() == 1, "{stream:x?}");
        }
        let mut walk = HelloWalk::default();
        assert!(walk.advance(&[first, b'x', b'y']) == Outcome::NotTls, "{first:x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Binary protocols may begin with any bytes; eleven of them settle it.
    #[test]
    fn random_bytes_are_not_tls(bytes in prop::collection::vec(any::<u8>(), 11..64)) {
        prop_assume!(!(20..=22).contains(&bytes[0]));
        prop_assert_eq!(client_hello(&bytes, &mut []), Outcome::NotTls);
    }

    /// Even where the first five bytes look like one.
    #[test]
    fn random_bytes_behind_a_plausible_ssl_2_head_are_not_ssl(low in 28_u8.., rest in prop::collection::vec(any::<u8>(), 6..64)) {
        let bytes = [&[0x80, low, 1, 3, 1], &rest[..]].concat();
        prop_assert_eq!(client_hello(&bytes, &mut []), Outcome::NotTls);
    }
}

#[test]
fn a_server_answers_an_ssl_2_form_in_tls_records_and_the_client_goes_on_in_them() {
    let client = connection("sslv2_form_tls12");
    let all = events::<4096>(Side::Client, client.stream(Side::Client).chunks(5));
    assert_eq!(
        all[1..].join(" "),
        "Handshake { kind: HandshakeType(0x10), len: 258 } ChangeCipherSpec Encrypted resumed None, done true"
    );
    // Too long for the memory: passed over, and the rest as before.
    let skipped = events::<64>(Side::Client, client.stream(Side::Client).chunks(5));
    assert!(skipped[0].starts_with("Skipped") && skipped[1..] == all[1..], "{skipped:#?}");
}
