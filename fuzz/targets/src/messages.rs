//! Single messages and headers, each reader by itself.

use crate::digest;
use ssl_parse::record::RecordHeader;
use ssl_parse::{ClientHello, Framing, NewSessionTicket, Outcome, ProtocolVersion, ServerHello, sslv2};

/// One byte for the reader, then what it reads.
pub fn messages(bytes: &[u8]) {
    let Some((&which, rest)) = bytes.split_first() else { return };
    let version = ProtocolVersion(0x0303);
    match which % 6 {
        0 => client(ClientHello::parse(rest, Framing::Tls, version).ok()),
        1 => client(ClientHello::parse(rest, Framing::Dtls, version).ok()),
        2 => client(ClientHello::parse(rest, Framing::Bare, version).ok()),
        3 => {
            if let Ok(hello) = ServerHello::parse(rest, version) {
                assert!(hello.random.len() == 32);
                digest::server_hello(&mut vec![], &hello);
            }
        }
        4 => {
            let outcome = sslv2::client_hello(rest);
            client(outcome.complete());
            let whole = outcome.map(|h| h.consumed);
            if let Outcome::Complete(n) = whole {
                assert_eq!(sslv2::client_hello(&rest[..n - 1]), Outcome::NeedMore);
                assert!(sslv2::client_hello(&rest[..n]).complete().is_some());
            }
            let half = sslv2::client_hello(&rest[..rest.len() / 2]);
            assert!(half.needs_more() || half.map(|h| h.consumed) == whole, "an answer taken back");
        }
        _ => {
            if let Ok(ticket) = NewSessionTicket::parse(rest) {
                assert_eq!(ticket.ticket.len() + 6, rest.len());
            }
            match RecordHeader::read(rest) {
                Outcome::Complete(header) => assert_eq!(header.version.0 >> 8, 3),
                Outcome::NeedMore => assert!(rest.len() < RecordHeader::LEN),
                Outcome::NotTls => {}
                Outcome::Malformed(why) => panic!("a record header is never malformed: {why}"),
            }
        }
    }
}

fn client(hello: Option<ClientHello<'_>>) {
    let Some(hello) = hello else { return };
    assert!(hello.session_id.len() <= 255);
    assert!(hello.framing == Framing::Sslv2 || hello.random.len() == 32);
    assert_eq!(hello.psk.is_some(), hello.psk_identities().count() > 0);
    digest::client_hello(&mut vec![], &hello);
}
