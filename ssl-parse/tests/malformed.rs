//! What is refused, with its reason, and what is tolerated as servers do.

mod common;

use common::{extension, hello_body, message, records, server_hello_body, vec8, vec16};
use ssl_parse::{ClientHello, Framing, Malformed, Outcome, ProtocolVersion, ServerHello, client_hello};

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

#[test]
fn refused_bodies_name_the_reason() {
    use Malformed as M;
    let good = with(&[]);
    let patched = |at: usize, value: &[u8]| {
        let mut body = good.clone();
        body[at..at + value.len()].copy_from_slice(value);
        body
    };
    // Offsets: version 0, random 2, session id 34 (length) and 35, cipher suites 67 and 69, compression 73 and 74.
    let cases: [(&str, Vec<u8>, Malformed); 28] = [
        ("nothing", vec![], M::Truncated),
        ("no random", good[..20].to_vec(), M::Truncated),
        ("SSL 2.0 in TLS framing", patched(0, &[0, 2]), M::Version),
        ("DTLS in TLS framing", patched(0, &[0xfe, 0xfd]), M::Version),
        ("session id of 33", patched(34, &[33]), M::SessionIdLength),
        ("odd cipher suites", [&good[..67], &[0, 3, 1, 2, 3, 1, 0]].concat(), M::VectorLength),
        ("no cipher suites", [&good[..67], &[0, 0, 1, 0]].concat(), M::VectorLength),
        ("cipher suites beyond the end", patched(67, &[0xff, 0xfe]), M::Truncated),
        ("no compression method", [&good[..73], &[0]].concat(), M::VectorLength),
        ("one byte behind", [&good[..], &[0]].concat(), M::Truncated),
        ("extensions beyond the end", [&good[..], &[0, 1]].concat(), M::Truncated),
        ("bytes behind the extensions", [&good[..], &[0, 0, 0]].concat(), M::TrailingBytes),
        ("an extension cut off", [&good[..], &vec16(&[0, 35, 0, 2, 1])].concat(), M::Truncated),
        ("ticket twice", with(&[extension(35, b""), extension(35, b"")]), M::DuplicateExtension),
        ("name twice", with(&[sni(b"a"), sni(b"a")]), M::DuplicateExtension),
        ("early data twice", with(&[extension(42, b""), extension(42, b"")]), M::DuplicateExtension),
        ("psk not last", with(&[psk(&[20], 1), extension(35, b"")]), M::PskNotLast),
        ("psk twice", with(&[psk(&[20], 1), psk(&[20], 1)]), M::PskNotLast),
        ("psk without identities", with(&[psk(&[], 0)]), M::VectorLength),
        ("psk of an empty identity", with(&[psk(&[20, 0], 2)]), M::VectorLength),
        ("a binder missing", with(&[psk(&[20, 30], 1)]), M::PskBinders),
        ("a binder too many", with(&[psk(&[20], 2)]), M::PskBinders),
        ("early data with content", with(&[extension(42, &[0])]), M::TrailingBytes),
        ("half a version", with(&[extension(43, &vec8(&[3, 4, 3]))]), M::VectorLength),
        ("no versions", with(&[extension(43, &vec8(&[]))]), M::VectorLength),
        ("an empty protocol name", with(&[extension(16, &vec16(&vec8(b"")))]), M::VectorLength),
        ("an empty list of names", with(&[extension(0, &vec16(b""))]), M::VectorLength),
        ("an empty key share", with(&[extension(51, &vec16(&[0, 29, 0, 0]))]), M::VectorLength),
    ];
    for (what, body, why) in cases {
        assert_eq!(read(&body), Err(why), "{what}");
        // The same through the record layer.
        let stream = records(22, &message(1, &body), &[]);
        let mut scratch = [0; 512];
        assert_eq!(client_hello(&stream, &mut scratch), Outcome::Malformed(why), "{what}");
    }
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

    // A name of length 0, an empty extension, and a first name of an unknown type name nobody.
    for data in [vec16(&[0, 0, 0]), vec![], vec16(&[1, 0, 1, b'x'])] {
        assert_eq!(read(&with(&[extension(0, &data)])).unwrap().sni, None);
    }
    // Names are not checked: they are not used as names here.
    assert_eq!(read(&with(&[sni(b"\xff\0 ")])).unwrap().sni, Some(&b"\xff\0 "[..]));

    // An empty ticket and none are different wishes.
    assert_eq!(read(&with(&[extension(35, b"")])).unwrap().ticket, Some(&b""[..]));
    assert_eq!(read(&with(&[sni(b"a")])).unwrap().ticket, None);

    // No key share at all: please retry.
    assert_eq!(read(&with(&[extension(51, &vec16(b""))])).unwrap().key_shares.unwrap().count(), 0);

    // GREASE among the versions is not an offer of TLS 1.3; a version to come is.
    let versions = |v: &[u8]| read(&with(&[extension(43, &vec8(v))])).unwrap().offers_1_3();
    assert!(!versions(&[0xfa, 0xfa, 3, 3]) && versions(&[0x0a, 0x0a, 3, 4]) && versions(&[3, 5]));
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
    let long = server_hello_body(&[1; 32], &[7; 33], &[]);
    assert_eq!(ServerHello::parse(&long, v12), Err(M::SessionIdLength));
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
    for (next, why) in [
        (&[23, 3, 1][..], Malformed::Unexpected),
        (&[22, 2], Malformed::Version),
        (&[22, 3, 1, 0, 0], Malformed::RecordLength),
        (&[22, 3, 1, 0x40, 1], Malformed::RecordLength),
    ] {
        let stream = [&first[..], next].concat();
        let mut scratch = [0; 256];
        assert_eq!(client_hello(&stream, &mut scratch), Outcome::Malformed(why), "{next:?}");
    }
}
