//! Reads TLS, SSL and DTLS handshakes from borrowed bytes: what a client offers to resume, what a server makes of it, and which tickets it
//! issues, as far as that is in the clear. It decrypts nothing, allocates nothing, and knows no socket, clock or log.
//!
//! - [`client_hello`] and [`server_hello`]: one-shot, from the front of a TCP stream.
//! - [`Follower`]: follows one direction of a TCP stream in bounded memory, fed in any slicing.
//! - [`dtls`]: the same for datagrams.
//!
//! Everything answers with an [`Outcome`] or [`Event`]s; code points are numbers in newtypes ([`codepoint`]), so values nobody has assigned pass.
#![no_std]
#![forbid(unsafe_code)]

pub mod codepoint;
pub mod dtls;
mod event;
mod follower;
mod hello;
mod outcome;
mod reader;
pub mod record;
pub mod sslv2;
mod stream;
mod ticket;

pub use codepoint::{
    AlertDescription, AlertLevel, CipherSuite, ContentType, ExtensionType, HandshakeType, NamedGroup, ProtocolVersion,
};
pub use event::{Event, Side};
pub use follower::Follower;
pub use hello::{
    CipherSuites, ClientHello, Extension, Extensions, Framing, HELLO_RETRY_RANDOM, KeyShares, OfferedPsks,
    ProtocolNames, PskIdentities, PskIdentity, ServerHello, Versions,
};
pub use outcome::{Malformed, Outcome};
pub use reader::Reader;
pub use stream::{MAX_HELLO, client_hello, server_hello};
pub use ticket::NewSessionTicket;
