//! The same messages read by an independent crate.

mod common;

use common::{connections, hex};
use proptest::prelude::*;
use ssl_parse::{ClientHello, ExtensionType, Framing, Outcome, ProtocolVersion, ServerHello, Side, client_hello};
use tls_parser::{
    SNIType, TlsExtension, TlsMessage, TlsMessageHandshake, parse_tls_client_hello_extensions,
    parse_tls_message_handshake, parse_tls_server_hello_extensions,
};

/// What both can tell of a ClientHello.
#[derive(Debug, PartialEq, Default)]
struct Seen {
    version: u16,
    random: String,
    session_id: String,
    ciphers: Vec<u16>,
    compressions: Vec<u8>,
    extensions: Vec<u16>,
    sni: Option<String>,
    alpn: Vec<String>,
    ticket: Option<String>,
    versions: Vec<u16>,
    early_data: bool,
}

fn ours(body: &[u8]) -> Option<Seen> {
    // What is ambiguous two readers may read two ways.
    let h = ClientHello::parse(body, Framing::Tls, ProtocolVersion(0)).ok().filter(|h| !h.is_ambiguous())?;
    Some(Seen {
        version: h.legacy_version.0,
        random: hex(h.random),
        session_id: hex(h.session_id),
        ciphers: h.cipher_suites.map(|c| c.0).collect(),
        compressions: h.compression_methods.to_vec(),
        extensions: h.extensions.map(|x| x.kind.0).collect(),
        sni: h.sni.map(hex),
        alpn: h.alpn.into_iter().flatten().map(hex).collect(),
        ticket: h.ticket.map(hex),
        versions: h.supported_versions.into_iter().flatten().map(|v| v.0).collect(),
        early_data: h.early_data,
    })
}

fn theirs(message: &[u8]) -> Option<Seen> {
    let (rest, TlsMessage::Handshake(TlsMessageHandshake::ClientHello(h))) =
        parse_tls_message_handshake(message).ok()?
    else {
        return None;
    };
    let block = h.ext.unwrap_or_default();
    let (left, extensions) = parse_tls_client_hello_extensions(block).ok()?;
    if !rest.is_empty() || !left.is_empty() {
        return None;
    }
    let mut seen = Seen {
        version: h.version.0,
        random: hex(h.random),
        session_id: h.session_id.map(hex).unwrap_or_default(),
        ciphers: h.ciphers.iter().map(|c| c.0).collect(),
        compressions: h.comp.iter().map(|c| c.0).collect(),
        ..Seen::default()
    };
    for extension in &extensions {
        seen.extensions.push(tls_parser::TlsExtensionType::from(extension).0);
        match extension {
            TlsExtension::SNI(names) => {
                seen.sni = names
                    .first()
                    .filter(|(kind, name)| *kind == SNIType::HostName && !name.is_empty())
                    .map(|(_, name)| hex(name));
            }
            TlsExtension::ALPN(names) => seen.alpn = names.iter().map(|name| hex(name)).collect(),
            TlsExtension::SessionTicket(ticket) => seen.ticket = Some(hex(ticket)),
            TlsExtension::SupportedVersions(versions) => seen.versions = versions.iter().map(|v| v.0).collect(),
            TlsExtension::EarlyData(_) => seen.early_data = true,
            _ => {}
        }
    }
    Some(seen)
}

/// The first hello's message of each TLS client in the test data.
fn hellos() -> Vec<Vec<u8>> {
    connections()
        .iter()
        .filter(|c| !c.datagrams)
        .filter_map(|c| {
            let stream = c.stream(Side::Client);
            let Outcome::Complete(hello) = client_hello(stream, &mut []) else { return None };
            (hello.framing == Framing::Tls).then(|| stream[5..hello.consumed].to_vec())
        })
        .collect()
}

/// It gives some extensions no type of their own (GREASE and ECH for instance); those compare as what they are on the wire.
fn same_but_for_unnamed_extensions(mut a: Seen, mut b: Seen) -> bool {
    let same = a.extensions.len() == b.extensions.len()
        && a.extensions
            .iter()
            .zip(&b.extensions)
            .all(|(a, b)| a == b || ExtensionType(*a).name().is_none() || *a == 0xfe0d);
    a.extensions.clear();
    b.extensions.clear();
    same && a == b
}

#[test]
fn real_client_hellos_read_the_same() {
    let hellos = hellos();
    assert!(hellos.len() >= 12);
    for message in hellos {
        let (a, b) = (ours(&message[4..]).unwrap(), theirs(&message).expect("the other crate reads it"));
        assert!(same_but_for_unnamed_extensions(a, b));
    }
}

#[test]
fn real_server_hellos_read_the_same() {
    let mut read = 0;
    for connection in connections().iter().filter(|c| !c.datagrams) {
        let stream = connection.stream(Side::Server);
        let Ok((_, TlsMessage::Handshake(TlsMessageHandshake::ServerHello(b)))) =
            parse_tls_message_handshake(&stream[5..])
        else {
            continue;
        };
        let len = 4 + usize::from(u16::from_be_bytes([stream[7], stream[8]]));
        let a = ServerHello::parse(&stream[9..5 + len], ProtocolVersion(0)).unwrap();
        assert_eq!((a.legacy_version.0, hex(a.random)), (b.version.0, hex(b.random)), "{}", connection.name);
        assert_eq!(a.session_id, b.session_id.unwrap_or_default());
        assert_eq!((a.cipher_suite.0, a.compression_method), (b.cipher.0, b.compression.0));
        read += 1;
        if a.legacy_version == ProtocolVersion::SSL3 {
            // It does not look for extensions there, though servers answer renegotiation_info even in SSL 3.0.
            continue;
        }
        let (_, extensions) = parse_tls_server_hello_extensions(b.ext.unwrap_or_default()).unwrap();
        let ticket = extensions.iter().any(|x| matches!(x, TlsExtension::SessionTicket(_)));
        assert_eq!(a.ticket_ext, ticket, "{}", connection.name);
        assert_eq!(a.extensions.count(), extensions.len());
    }
    assert!(read >= 12);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What we read without a doubt reads the same there whenever it reads it at all.
    #[test]
    fn damaged_client_hellos_that_both_accept_read_the_same(
        which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), value in any::<u8>(),
    ) {
        let hellos = hellos();
        let mut message = which.get(&hellos).clone();
        let at = 4 + at.index(message.len() - 4);
        message[at] = value;
        if let (Some(a), Some(b)) = (ours(&message[4..]), theirs(&message)) {
            let shown = format!("{a:?}\n{b:?}");
            prop_assert!(same_but_for_unnamed_extensions(a, b), "{}", shown);
        }
    }
}
