//! Reads TLS, SSL and DTLS handshakes from borrowed bytes: what a client offers to resume, what a server makes of it, and which tickets it
//! issues, as far as that is in the clear. It decrypts nothing, allocates nothing, and knows no socket, clock or log.
//!
//! - [`client_hello`] and [`server_hello`]: one-shot, from the front of a TCP stream. [`HelloWalk`]: when it is worth while to ask.
//! - [`Follower`]: follows one direction of a TCP stream in bounded memory, fed in any slicing.
//! - [`dtls`]: the same for datagrams.
//!
//! Everything answers with an [`Outcome`] or [`Event`]s; code points are numbers in newtypes ([`codepoint`]), so values nobody has assigned pass.
//!
//! What a dispatcher does with the bytes a client has sent so far:
//! ```
//! use ssl_parse::{Outcome, client_hello};
//! # let stream: &[u8] = b"GET / HTTP/1.1\r\n";
//! let mut scratch = [0; 16 * 1024]; // only used by hellos that are spread over several records
//! match client_hello(stream, &mut scratch) {
//!     Outcome::Complete(hello) => {
//!         for psk in hello.psk_identities() {
//!             println!("offers an identity of {} bytes", psk.identity.len());
//!         }
//!         match hello.ticket {
//!             None | Some([]) => {}
//!             Some(ticket) => println!("offers a ticket of {} bytes", ticket.len()),
//!         }
//!     }
//!     Outcome::NeedMore => println!("hold"),
//!     Outcome::Malformed(why) => println!("TLS, but no hello to be read: balance without affinity ({why})"),
//!     Outcome::NotTls => println!("balance without affinity"),
//! }
//! ```
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
pub use follower::{AfterHello, Follower};
pub use hello::{
    CipherSuites, ClientHello, Extension, Extensions, Framing, HELLO_RETRY_RANDOM, KeyShares, OfferedPsks,
    ProtocolNames, PskIdentities, PskIdentity, ServerHello, Versions,
};
pub use outcome::{Malformed, Outcome};
pub use reader::Reader;
pub use stream::{HelloWalk, MAX_HELLO, client_hello, client_hello_so_far, server_hello};
pub use ticket::NewSessionTicket;
