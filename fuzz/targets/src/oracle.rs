//! The same messages read by `tls-parser`, where it claims to read the same. What both read, and can be read one way only, must read the same.

use ssl_parse::{ClientHello, ExtensionType, ProtocolVersion, ServerHello};
use tls_parser::{
    SNIType, TlsExtension, TlsExtensionType, TlsMessage, TlsMessageHandshake, parse_tls_client_hello_extensions,
    parse_tls_message_handshake, parse_tls_server_hello_extensions,
};

/// It gives some extensions no type of their own (GREASE and ECH for instance); those compare as what they are on the wire.
fn same_kinds(ours: impl Iterator<Item = u16>, theirs: &[TlsExtension<'_>]) {
    let mut theirs = theirs.iter();
    for kind in ours {
        let there = TlsExtensionType::from(theirs.next().expect("as many extensions")).0;
        assert!(kind == there || ExtensionType(kind).name().is_none() || kind == 0xfe0d, "{kind} is {there} there");
    }
    assert!(theirs.next().is_none(), "as many extensions");
}

/// Compares a ClientHello whose message (type and length in front) is given.
pub fn client_hello(h: &ClientHello<'_>, message: &[u8]) {
    let Ok((rest, TlsMessage::Handshake(TlsMessageHandshake::ClientHello(t)))) = parse_tls_message_handshake(message)
    else {
        return;
    };
    // There is more than one way to read it.
    if h.is_ambiguous() {
        return;
    }
    let Ok((left, extensions)) = parse_tls_client_hello_extensions(t.ext.unwrap_or_default()) else { return };
    if !rest.is_empty() || !left.is_empty() {
        return;
    }
    assert_eq!(h.legacy_version.0, t.version.0);
    assert_eq!(h.random, t.random);
    assert_eq!(h.session_id, t.session_id.unwrap_or_default());
    assert!(h.cipher_suites.map(|c| c.0).eq(t.ciphers.iter().map(|c| c.0)));
    assert!(h.compression_methods.iter().copied().eq(t.comp.iter().map(|c| c.0)));
    same_kinds(h.extensions.map(|x| x.kind.0), &extensions);
    let mut early_data = false;
    let alone = |kind| h.extensions.filter(|x| x.kind == kind).count() == 1;
    for extension in &extensions {
        match extension {
            TlsExtension::SNI(names) => {
                let name =
                    names.iter().find(|(kind, _)| *kind == SNIType::HostName).filter(|(_, name)| !name.is_empty());
                assert_eq!(h.sni, name.map(|(_, name)| *name));
            }
            // One that is cut off it reads as far as it goes; of a repeated one the last counts here.
            TlsExtension::ALPN(names) if h.alpn.is_some() && alone(ExtensionType::ALPN) => {
                assert!(h.alpn.into_iter().flatten().eq(names.iter().copied()));
            }
            TlsExtension::SessionTicket(ticket) => assert_eq!(h.ticket, Some(*ticket)),
            TlsExtension::SupportedVersions(versions) => {
                assert!(h.supported_versions.into_iter().flatten().map(|v| v.0).eq(versions.iter().map(|v| v.0)));
            }
            TlsExtension::EarlyData(_) => early_data = true,
            _ => {}
        }
    }
    assert_eq!(h.early_data, early_data);
}

/// Compares a ServerHello whose message (type and length in front) is given.
pub fn server_hello(h: &ServerHello<'_>, message: &[u8]) {
    let Ok((rest, TlsMessage::Handshake(TlsMessageHandshake::ServerHello(t)))) = parse_tls_message_handshake(message)
    else {
        return;
    };
    if !rest.is_empty() {
        return;
    }
    assert_eq!(h.legacy_version.0, t.version.0);
    assert_eq!(h.random, t.random);
    assert_eq!(h.session_id, t.session_id.unwrap_or_default());
    assert_eq!((h.cipher_suite.0, h.compression_method), (t.cipher.0, t.compression.0));
    if h.legacy_version == ProtocolVersion::SSL3 {
        // It does not look for extensions there, though servers answer renegotiation_info even in SSL 3.0.
        return;
    }
    let Ok((left, extensions)) = parse_tls_server_hello_extensions(t.ext.unwrap_or_default()) else { return };
    if left.is_empty() {
        same_kinds(h.extensions.map(|x| x.kind.0), &extensions);
        assert_eq!(h.ticket_ext, extensions.iter().any(|x| matches!(x, TlsExtension::SessionTicket(_))));
    }
}
