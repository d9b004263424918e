//! Events as bytes, to be compared: an event borrows from its follower, so two cannot be held side by side.

use ssl_parse::{ClientHello, Event, ServerHello};

/// Puts what an event says behind `out`. Bytes of long tickets are the exception: they may be cut anywhere, so they are put there
/// without a mark of where they begin and end.
pub fn event(out: &mut Vec<u8>, event: &Event<'_>) {
    match event {
        Event::ClientHello(h) => client_hello(out, h),
        Event::ServerHello(h) => server_hello(out, h),
        Event::LongTicketBytes(bytes) => out.extend_from_slice(bytes),
        Event::NewSessionTicket(t) => {
            out.push(3);
            out.extend(t.lifetime.to_le_bytes());
            bytes(out, t.ticket);
        }
        Event::HelloVerifyRequest { version, cookie } => {
            out.push(4);
            out.extend(version.0.to_le_bytes());
            bytes(out, cookie);
        }
        Event::LongTicketStart { lifetime, len } => {
            out.push(5);
            out.extend(lifetime.to_le_bytes());
            out.extend(len.to_le_bytes());
        }
        Event::LongTicketEnd => out.push(6),
        Event::Handshake { kind, len } | Event::Skipped { kind, len } => {
            out.push(if matches!(event, Event::Skipped { .. }) { 7 } else { 8 });
            out.push(kind.0);
            out.extend(len.to_le_bytes());
        }
        Event::ChangeCipherSpec => out.push(9),
        Event::Alert { level, description } => out.extend([10, level.0, description.0]),
        Event::Encrypted => out.push(11),
        Event::Malformed(why) => out.extend([12, *why as u8]),
        Event::NotTls => out.push(13),
    }
}

fn bytes(out: &mut Vec<u8>, b: &[u8]) {
    out.extend((b.len() as u32).to_le_bytes());
    out.extend_from_slice(b);
}

fn option(out: &mut Vec<u8>, b: Option<&[u8]>) {
    out.push(u8::from(b.is_some()));
    bytes(out, b.unwrap_or_default());
}

/// All of a ClientHello but how many bytes it took.
pub fn client_hello(out: &mut Vec<u8>, h: &ClientHello<'_>) {
    out.extend([1, h.framing as u8, u8::from(h.early_data), u8::from(h.ech)]);
    out.extend(h.record_version.0.to_le_bytes());
    out.extend(h.legacy_version.0.to_le_bytes());
    for field in [h.random, h.session_id, h.compression_methods, h.cipher_suites.as_bytes()] {
        bytes(out, field);
    }
    for field in [h.dtls_cookie, h.sni, h.ticket, h.cookie, h.psk.map(|p| p.binders())] {
        option(out, field);
    }
    for suite in h.cipher_suites {
        out.extend(suite.0.to_le_bytes());
    }
    for name in h.alpn.into_iter().flatten() {
        bytes(out, name);
    }
    for version in h.supported_versions.into_iter().flatten() {
        out.extend(version.0.to_le_bytes());
    }
    for (group, key) in h.key_shares.into_iter().flatten() {
        out.extend(group.0.to_le_bytes());
        bytes(out, key);
    }
    for psk in h.psk_identities() {
        bytes(out, psk.identity);
    }
    for extension in h.extensions {
        out.extend(extension.kind.0.to_le_bytes());
        bytes(out, extension.data);
    }
}

/// All of a ServerHello.
pub fn server_hello(out: &mut Vec<u8>, h: &ServerHello<'_>) {
    out.extend([2, h.compression_method, u8::from(h.hello_retry), u8::from(h.ticket_ext)]);
    for number in [h.record_version.0, h.legacy_version.0, h.version.0, h.cipher_suite.0] {
        out.extend(number.to_le_bytes());
    }
    out.extend(h.psk_selected.map_or(u32::MAX, u32::from).to_le_bytes());
    out.extend(h.key_share_group.map_or(u32::MAX, |g| u32::from(g.0)).to_le_bytes());
    bytes(out, h.random);
    bytes(out, h.session_id);
    option(out, h.alpn);
    for extension in h.extensions {
        out.extend(extension.kind.0.to_le_bytes());
        bytes(out, extension.data);
    }
}
