//! What is read as some server reads it, what makes a hello ambiguous, and the little that cannot be read.

mod common;

use common::{events, extension, hello_body, line, message, records, server_hello_body, vec8, vec16};
use ssl_parse::{
    ClientHello, Event, Framing, HelloWalk, Malformed, Outcome, ProtocolVersion, ServerHello, Side, client_hello,
    client_hello_so_far,
};

fn read(body: &[u8]) -> Result<ClientHello<'_>, Malformed> {
    ClientHello::parse(body, Framing::Tls, ProtocolVersion::TLS1_0)
}

fn with(extensions: &[Vec<u8>]) -> Vec<u8> {
    hello_body(&[7; 32], extensions)
}

/// `pre_shared_key` with identities of these lengths, and that many binders.
fn psk(identities: &[usize], binders: usize) -> Vec<u8> {
    let identities: Vec<u8> =
        identities.iter().flat_map(|&n| [vec16(&vec![9; n]), vec![0, 0, 0, 1]].concat()).collect();
    let binders: Vec<u8> = (0..binders).flat_map(|_| vec8(&[5; 32])).collect();
    extension(41, &[vec16(&identities), vec16(&binders)].concat())
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(0, &vec16(&[vec![0], vec16(name)].concat()))
}

/// Offsets in a hello without extensions: version 0, random 2, session id 34 (length) and 35, cipher suites 67 and 69, compression 73 and 74.
fn patched(at: usize, value: &[u8]) -> Vec<u8> {
    let mut body = with(&[]);
    body[at..at + value.len()].copy_from_slice(value);
    body
}

#[test]
fn only_a_hello_that_ends_before_its_extensions_cannot_be_read() {
    let good = with(&[]);
    let cases = [
        ("nothing", vec![]),
        ("no random", good[..20].to_vec()),
        ("session id beyond the end", patched(34, &[200])),
        ("cipher suites beyond the end", patched(67, &[0xff, 0xfe])),
        ("compression methods beyond the end", patched(73, &[9])),
    ];
    for (what, body) in cases {
        assert_eq!(read(&body), Err(Malformed::Truncated), "{what}");
        // The same through the record layer.
        let stream = records(22, &message(1, &body), &[]);
        let mut scratch = [0; 512];
        assert_eq!(client_hello(&stream, &mut scratch), Outcome::Malformed(Malformed::Truncated), "{what}");
    }
    // Of DTLS the version decides, since nothing else makes a datagram one.
    assert_eq!(ClientHello::parse(&good, Framing::Dtls, ProtocolVersion::DTLS1_2), Err(Malformed::Version));
}

#[test]
fn what_some_server_takes_is_read_and_keeps_its_session_id() {
    let good = with(&[]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("version 2.0", patched(0, &[2, 0])),
        ("version 3.4", patched(0, &[3, 4])),
        ("version 4.152", patched(0, &[4, 0x98])),
        ("version of DTLS", patched(0, &[0xfe, 0xfd])),
        ("version of a draft", patched(0, &[0x7f, 0x1c])),
        ("odd cipher suites", [&good[..67], &[0, 3, 1, 2, 3, 1, 0]].concat()),
        ("no cipher suites", [&good[..67], &[0, 0, 1, 0]].concat()),
        ("no compression method", [&good[..73], &[0]].concat()),
        ("early data with content", with(&[extension(42, &[0])])),
        ("early data twice", with(&[extension(42, b""), extension(42, b"")])),
        ("an empty protocol name", with(&[extension(16, &vec16(&vec8(b"")))])),
        ("no protocol names", with(&[extension(16, &vec16(b""))])),
        ("protocol names cut off", with(&[extension(16, &vec16(&[5, b'h']))])),
        ("an empty key share", with(&[extension(51, &vec16(&[0, 29, 0, 0]))])),
        ("key shares cut off", with(&[extension(51, &vec16(&[0, 29, 0, 9]))])),
        ("an empty cookie", with(&[extension(44, &vec16(b""))])),
        ("a cookie of no length", with(&[extension(44, b"")])),
        ("cookie twice", with(&[extension(44, &vec16(b"c")), extension(44, &vec16(b"d"))])),
    ];
    for (what, body) in cases {
        let hello = read(&body).unwrap_or_else(|why| panic!("{what}: {why}"));
        assert_eq!(hello.session_id, [7; 32], "{what}");
        assert!(!hello.is_ambiguous(), "{what}: all servers read the same identities");
        assert_eq!(hello.extensions.count(), read(&body).unwrap().extensions.count(), "{what}");
    }
}

#[test]
fn one_extension_that_cannot_be_read_hides_no_other() {
    for broken in [16, 42, 43, 44, 51, 0, 41] {
        let body = with(&[extension(broken, &[0xff]), extension(35, b"the ticket"), extension(0xfe0d, b"?")]);
        let hello = read(&body).unwrap();
        assert_eq!(
            (hello.ticket, hello.ech, hello.session_id),
            (Some(&b"the ticket"[..]), true, &[7; 32][..]),
            "{broken}"
        );
        assert!(hello.alpn.is_none() && hello.cookie.is_none() && hello.key_shares.is_none() && hello.psk.is_none());
    }
}

#[test]
fn binders_decide_nothing_about_identities() {
    let identities = |body: &[u8]| {
        let hello = read(body).unwrap();
        let lengths: Vec<_> = hello.psk_identities().map(|psk| psk.identity.len()).collect();
        (lengths, hello.is_ambiguous())
    };
    let of = |identities: &[u8], binders: &[u8]| with(&[extension(41, &[&vec16(identities)[..], binders].concat())]);
    let two = [vec16(&[9; 20]), vec![0, 0, 0, 1], vec16(&[8; 30]), vec![0, 0, 0, 2]].concat();
    assert_eq!(identities(&with(&[psk(&[20, 30], 2)])), (vec![20, 30], false));
    for (what, body) in [
        ("OpenSSL 4.0 with ECH: one binder of length 0", of(&two, &vec16(&vec8(b"")))),
        ("a binder missing", with(&[psk(&[20, 30], 1)])),
        ("a binder too many", with(&[psk(&[20, 30], 3)])),
        ("binders of 31 bytes", of(&two, &vec16(&[vec8(&[5; 31]), vec8(&[5; 31])].concat()))),
        ("an empty list", of(&two, &vec16(b""))),
        ("no list", of(&two, b"")),
        ("a list cut off", of(&two, &[0, 99, 32])),
        ("bytes behind", of(&two, &[vec16(&[vec8(&[5; 32]), vec8(&[5; 32])].concat()), vec![0]].concat())),
    ] {
        assert_eq!(identities(&body), (vec![20, 30], true), "{what}");
    }
    // The place of an identity is what a server selects, so an empty one counts.
    assert_eq!(identities(&with(&[psk(&[20, 0, 30], 3)])), (vec![20, 0, 30], true));
    for none in [psk(&[], 0), extension(41, b""), extension(41, &[0, 0]), extension(41, &vec16(&[0, 9, 1]))] {
        assert_eq!(identities(&with(std::slice::from_ref(&none))), (vec![], true));
        assert!(read(&with(&[none])).unwrap().psk.is_none());
    }
}

#[test]
fn where_two_servers_may_read_different_identities_the_hello_says_so() {
    let versions = |v: &[u8]| extension(43, &vec8(v));
    let named = |list: &[u8]| extension(0, &vec16(list));
    let plain = [
        with(&[sni(b"a"), extension(35, b"t"), versions(&[3, 4]), psk(&[20], 1)]),
        with(&[extension(0, b"")]),
        with(&[named(&[1, 0, 1, b'x', 0, 0, 1, b'y'])]),
        with(&[extension(0xff00, b""), extension(0xff00, b"")]),
        with(&[extension(0xfe0d, b""), extension(0xfe0d, b"")]),
        [with(&[]), vec![0, 0]].concat(),
    ];
    for body in plain {
        assert!(!read(&body).unwrap().is_ambiguous(), "{body:02x?}");
    }
    let twice = |x: Vec<u8>| with(&[x.clone(), x]);
    let odd = [
        ("ticket twice", twice(extension(35, b"t"))),
        ("name twice", twice(sni(b"a"))),
        ("two names", with(&[named(&[0, 0, 1, b'x', 0, 0, 1, b'y'])])),
        ("psk twice", twice(psk(&[20], 1))),
        ("psk not last", with(&[psk(&[20], 1), extension(35, b"")])),
        ("versions twice", twice(versions(&[3, 4]))),
        ("no versions", with(&[versions(&[])])),
        ("half a version", with(&[versions(&[3, 4, 3])])),
        ("one byte behind", [with(&[]), vec![0]].concat()),
        ("bytes behind the extensions", [with(&[sni(b"a")]), vec![0]].concat()),
        ("extensions beyond the end", [with(&[]), vec![0, 1]].concat()),
        ("an extension cut off", [with(&[]), vec16(&[0, 35, 0, 2, 1])].concat()),
        ("session id of 33", hello_body(&[7; 33], &[])),
    ];
    for (what, body) in odd {
        assert!(read(&body).unwrap().is_ambiguous(), "{what}");
    }
    // Those who take a repeated extension take the last.
    let body = with(&[extension(35, b"first"), extension(35, b"last")]);
    assert_eq!(read(&body).unwrap().ticket, Some(&b"last"[..]));
    // JSSE reads an extension that begins in the block to its end, and looks at nothing behind.
    let mut body = with(&[sni(b"a"), extension(35, b"ticket")]);
    let at = 75;
    body[at + 1] -= 1;
    body.extend(extension(35, b"behind"));
    assert_eq!(read(&body).unwrap().ticket, Some(&b"ticket"[..]));
}

#[test]
fn tolerated_as_servers_do() {
    let no_extensions = with(&[]);
    assert!(read(&no_extensions).is_ok());
    let empty_block = [with(&[]), vec![0, 0]].concat();
    assert_eq!(read(&empty_block).unwrap().extensions.count(), 0);

    // Unknown extensions, GREASE among them, whatever they hold and however often they come.
    let body = with(&[extension(0x1a1a, &[1]), extension(0xff00, b"xyz"), extension(0xff00, b"")]);
    assert_eq!(read(&body).unwrap().extensions.count(), 3);

    // A name of length 0, an empty extension, an empty list and an unknown type of name name nobody.
    for data in [vec16(&[0, 0, 0]), vec![], vec16(b""), vec16(&[1, 0, 1, b'x'])] {
        assert_eq!(read(&with(&[extension(0, &data)])).unwrap().sni, None);
    }
    // An entry of an unknown type hides none behind it.
    let body = with(&[extension(0, &vec16(&[1, 0, 1, b'x', 0, 0, 1, b'y']))]);
    assert_eq!(read(&body).unwrap().sni, Some(&b"y"[..]));
    // Names are not checked: they are not used as names here.
    assert_eq!(read(&with(&[sni(b"\xff\0 ")])).unwrap().sni, Some(&b"\xff\0 "[..]));

    // An empty ticket and none are different wishes.
    assert_eq!(read(&with(&[extension(35, b"")])).unwrap().ticket, Some(&b""[..]));
    assert_eq!(read(&with(&[sni(b"a")])).unwrap().ticket, None);

    // No key share at all: please retry.
    assert_eq!(read(&with(&[extension(51, &vec16(b""))])).unwrap().key_shares.unwrap().count(), 0);

    // GREASE among the versions is not an offer of TLS 1.3; a version to come is. What can be read of a broken list counts.
    let versions = |v: &[u8]| read(&with(&[extension(43, &vec8(v))])).unwrap().offers_1_3();
    assert!(!versions(&[0xfa, 0xfa, 3, 3]) && versions(&[0x0a, 0x0a, 3, 4]) && versions(&[3, 5]));
    assert!(versions(&[3, 4, 3]) && !versions(&[]));
}

#[test]
fn server_hellos_refused_and_tolerated() {
    use Malformed as M;
    let read = |extensions: &[Vec<u8>]| {
        let body = server_hello_body(&[1; 32], &[7; 32], extensions);
        ServerHello::parse(&body, ProtocolVersion::TLS1_2).map(|h| (h.version, h.psk_selected, h.ticket_ext))
    };
    let (v12, v13) = (ProtocolVersion::TLS1_2, ProtocolVersion::TLS1_3);
    assert_eq!(read(&[]), Ok((v12, None, false)));
    assert_eq!(read(&[extension(35, b"")]), Ok((v12, None, true)));
    assert_eq!(read(&[extension(43, &[3, 4]), extension(41, &[0, 2])]), Ok((v13, Some(2), false)));
    assert_eq!(read(&[extension(43, &[3])]), Err(M::Truncated));
    assert_eq!(read(&[extension(43, &[3, 4, 0])]), Err(M::TrailingBytes));
    assert_eq!(read(&[extension(43, &[3, 4]), extension(43, &[3, 4])]), Err(M::DuplicateExtension));
    assert_eq!(read(&[extension(41, &[0])]), Err(M::Truncated));
    assert_eq!(read(&[extension(35, &[1])]), Err(M::TrailingBytes));
    assert_eq!(read(&[extension(16, &vec16(&[1, b'a', 1, b'b']))]), Err(M::VectorLength));
    // Go echoes what it should not have taken.
    let long = server_hello_body(&[1; 32], &[7; 33], &[]);
    assert_eq!(ServerHello::parse(&long, v12).unwrap().session_id, [7; 33]);
    // A server's block is read as it says.
    for odd in [vec![0], vec![0, 1], vec![0, 0, 0], vec16(&[0, 35, 0])] {
        assert!(ServerHello::parse(&[server_hello_body(&[1; 32], &[], &[]), odd].concat(), v12).is_err());
    }
}

#[test]
fn memory_too_small_and_hellos_too_long_are_said_at_once() {
    let hello = message(1, &with(&[extension(35, &[3; 2000])]));
    let stream = records(22, &hello, &[1000]);
    let mut enough = vec![0; hello.len()];
    assert!(matches!(client_hello(&stream, &mut enough), Outcome::Complete(h) if h.ticket == Some(&[3; 2000][..])));
    let mut little = vec![0; hello.len() - 1];
    for len in 9..stream.len() {
        assert_eq!(client_hello(&stream[..len], &mut little), Outcome::Malformed(Malformed::TooLong));
    }
    // 200 000 bytes announced.
    let mut much = vec![0; 300_000];
    assert_eq!(client_hello(&[22, 3, 1, 0x40, 0, 1, 3, 0x0d, 0x40], &mut much), Outcome::Malformed(Malformed::TooLong));
}

#[test]
fn what_breaks_behind_the_first_record_is_malformed_and_not_another_protocol() {
    let hello = message(1, &with(&[]));
    let first = records(22, &hello[..40], &[]);
    // The last byte of each shows it, and none before.
    for next in
        [&[23][..], &[0x47], &[22, 16], &[20, 4], &[20, 3, 1, 0, 2], &[21, 3, 1, 0, 3], &[21, 3, 1, 0, 2, 2], &[24]]
    {
        let stream = [&first[..], next].concat();
        let mut scratch = [0; 256];
        let now = client_hello(&stream, &mut scratch);
        assert_eq!(now, Outcome::Malformed(Malformed::Unexpected), "{next:?}");
        assert_eq!(client_hello(&stream[..stream.len() - 1], &mut scratch), Outcome::NeedMore, "{next:?}");
    }
}

#[test]
fn empty_records_warnings_and_change_cipher_specs_around_a_hello_are_passed_over() {
    let hello = message(1, &with(&[extension(35, b"ticket")]));
    let others: [&[u8]; 4] = [&[22, 3, 1, 0, 0], &[21, 3, 1, 0, 2, 1, 90], &[20, 3, 1, 0, 1, 1], &[22, 4, 0, 0, 0]];
    for other in others {
        for cut in [0, 1, 3, 4, 5, 60, hello.len() - 1] {
            let (front, back) = hello.split_at(cut);
            let mut stream = [records(22, front, &[2, 50]), other.repeat(3), records(22, back, &[])].concat();
            let len = stream.len();
            stream.extend(other);
            let mut scratch = [0; 512];
            for n in 0..len {
                assert_eq!(
                    client_hello(&stream[..n], &mut scratch),
                    Outcome::NeedMore,
                    "{other:?} at {cut}, {n} bytes"
                );
            }
            let found = client_hello(&stream, &mut scratch).complete().unwrap();
            assert_eq!((found.ticket, found.consumed), (Some(&b"ticket"[..]), len), "{other:?} at {cut}");
            assert!(!found.is_ambiguous());
            // Followed, byte by byte, it is the same hello behind what was passed over.
            let seen = events::<512>(Side::Client, stream[..len].chunks(1));
            let hello = seen.iter().position(|e| e.starts_with("ch ")).expect("a hello");
            assert!(seen[..hello].iter().all(|e| e.starts_with("Alert") || e == "ChangeCipherSpec"), "{seen:?}");
            let mut scratch = [0; 512];
            let found = client_hello(&stream, &mut scratch).complete().unwrap();
            assert_eq!(Some(&seen[hello]), line(&Event::ClientHello(found)).as_ref());
        }
    }
}

#[test]
fn a_record_of_any_length_and_version_carries_a_hello() {
    let hello = message(1, &with(&[extension(35, b"ticket"), extension(21, &vec![0; 40_000])]));
    for version in [[3, 0], [3, 255], [4, 0], [2, 0], [0, 0], [15, 1]] {
        let stream = [&[22], &version[..], &(hello.len() as u16).to_be_bytes(), &hello].concat();
        let found = client_hello(&stream, &mut []).complete().unwrap();
        assert_eq!((found.ticket, found.consumed), (Some(&b"ticket"[..]), stream.len()));
        assert_eq!(found.record_version.0, u16::from_be_bytes(version));
        assert!(events::<65_000>(Side::Client, stream.chunks(1000))[0].starts_with("ch "));
    }
}

#[test]
fn of_a_hello_too_long_for_the_memory_what_has_come_is_read() {
    let hello = message(1, &with(&[extension(35, b"ticket"), extension(21, &vec![0; 30_000]), psk(&[20], 1)]));
    for lengths in [&[][..], &[100], &[3, 1, 16_000]] {
        let stream = records(22, &hello, lengths);
        let mut scratch = vec![0; 20_000];
        let outcome = client_hello(&stream[..20_000], &mut scratch);
        assert!(matches!(outcome, Outcome::Malformed(Malformed::TooLong)), "{outcome:?}");
        let so_far = client_hello_so_far(&stream[..19_000], &mut scratch).unwrap();
        assert_eq!((so_far.session_id, so_far.ticket), (&[7; 32][..], Some(&b"ticket"[..])));
        assert!(so_far.psk.is_none() && so_far.is_ambiguous());
        // Never more than is there, and nothing of what is not TLS.
        for n in 0..120 {
            let so_far = client_hello_so_far(&stream[..n], &mut scratch);
            assert!(so_far.is_none_or(|h| h.ticket.is_none_or(|t| t == b"ticket")), "{n}");
        }
        assert!(client_hello_so_far(b"GET / HTTP/1.1", &mut scratch).is_none());
    }
}

#[test]
fn a_walk_says_of_each_length_of_a_stream_what_reading_it_would() {
    let hello = message(1, &with(&[extension(35, b"ticket")]));
    let other: &[u8] = &[21, 3, 1, 0, 2, 1, 90];
    let v2 = [&[0x80, 44, 1, 3, 1, 0, 3, 0, 0, 0, 32, 0, 0, 0x2f][..], &[5; 32]].concat();
    let streams = [
        records(22, &hello, &[]),
        records(22, &hello, &[1]),
        [records(22, &hello[..3], &[]), other.to_vec(), records(22, &hello[3..], &[7])].concat(),
        [records(22, &hello[..50], &[]), b"GET / HTTP/1.1".to_vec()].concat(),
        v2,
        b"GET / HTTP/1.1".to_vec(),
        vec![0x9f, 1, 1, 3, 1, 0, 2],
        vec![22, 3, 1, 0x40, 0, 1, 3, 0x0d, 0x40],
    ];
    for stream in &streams {
        for step in [1, 2, 7, 1000] {
            let mut walk = HelloWalk::default();
            let mut due = 1;
            for n in (0..=stream.len()).step_by(step).chain([stream.len()]) {
                let mut scratch = [0; 512];
                let reading = client_hello(&stream[..n], &mut scratch).map(|hello| hello.consumed);
                let walked = walk.advance(&stream[..n]);
                assert_eq!(walked, reading, "{n} of {stream:?}");
                if reading.needs_more() {
                    assert!(walk.missing() >= 1);
                    due = n + walk.missing();
                } else {
                    // It never promises more bytes than it takes to be complete.
                    assert!(walked.complete().is_none_or(|consumed| due <= consumed), "{due} for {stream:?}");
                    break;
                }
            }
        }
    }
}

/// However a hello is dripped: what was walked over may even be something else meanwhile.
#[test]
fn a_walk_looks_at_no_record_again() {
    let hello = message(1, &with(&[extension(35, &[3; 2000])]));
    let stream = records(22, &hello, &[1]);
    let mut seen = stream.clone();
    let mut walk = HelloWalk::default();
    for n in 0..stream.len() {
        assert_eq!(walk.advance(&seen[..n]), Outcome::NeedMore);
        // All records but the last, which is not complete.
        seen[..n.saturating_sub(5) / 6 * 6].fill(0x47);
    }
    assert_eq!(walk.advance(&seen), Outcome::Complete(stream.len()));
}
