//! The hellos: what a client offers and what a server chooses.

mod client;
mod extension;
mod server;

pub use client::{
    CipherSuites, ClientHello, Framing, KeyShares, OfferedPsks, ProtocolNames, PskIdentities, PskIdentity, Versions,
};
pub use extension::{Extension, Extensions};
pub use server::{HELLO_RETRY_RANDOM, ServerHello};
