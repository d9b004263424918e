//! What followers of a stream or of datagrams report.

use crate::codepoint::{AlertDescription, AlertLevel, HandshakeType, ProtocolVersion};
use crate::hello::{ClientHello, ServerHello};
use crate::outcome::Malformed;
use crate::ticket::NewSessionTicket;

/// Which end speaks in the direction followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// From the client to the server.
    Client,
    /// From the server to the client.
    Server,
}

/// One thing seen in the clear, in order. Slices borrow from the follower or from the bytes just fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The client's hello; a second one after a HelloRetryRequest (or, in DTLS, after a HelloVerifyRequest, or sent again).
    ClientHello(ClientHello<'a>),
    /// The server's hello, or its HelloRetryRequest.
    ServerHello(ServerHello<'a>),
    /// DTLS: the server asks for its cookie back (RFC 6347, 4.2.1).
    HelloVerifyRequest {
        /// `server_version`, which binds nobody.
        version: ProtocolVersion,
        /// The cookie the next hello shall carry.
        cookie: &'a [u8],
    },
    /// A ticket, up to TLS 1.2.
    NewSessionTicket(NewSessionTicket<'a>),
    /// A ticket too long for the follower's memory begins; its bytes follow in [`Event::LongTicketBytes`].
    LongTicketStart {
        /// `ticket_lifetime_hint` in seconds.
        lifetime: u32,
        /// Bytes of the ticket.
        len: u16,
    },
    /// The next bytes of a long ticket, for instance to be hashed. The first of these events has at least 16, the key name.
    LongTicketBytes(&'a [u8]),
    /// The long ticket is complete.
    LongTicketEnd,
    /// The header of any other message; its body is passed over.
    Handshake {
        /// Its type.
        kind: HandshakeType,
        /// Bytes of its body.
        len: u32,
    },
    /// A hello too long for the follower's memory, passed over.
    Skipped {
        /// Its type.
        kind: HandshakeType,
        /// Bytes of its body.
        len: u32,
    },
    /// A ChangeCipherSpec. Up to TLS 1.2 [`Event::Encrypted`] follows; in TLS 1.3 it means nothing.
    ChangeCipherSpec,
    /// An alert in the clear.
    Alert {
        /// How bad.
        level: AlertLevel,
        /// What.
        description: AlertDescription,
    },
    /// From here on all is encrypted. On a stream the last event; in DTLS datagrams in the clear may still come late or again.
    Encrypted,
    /// It was TLS up to here, and now is wrong. On a stream the last event; in DTLS the rest of the datagram is passed over.
    Malformed(Malformed),
    /// The first bytes are no TLS, SSL or DTLS. On a stream the last event; in DTLS the rest of the datagram is passed over.
    NotTls,
}
