//! One TCP connection through the dispatcher.
//!
//! A connection is what every frame needs of it ([`Hot`]) and the rest ([`Connection`]), whose [`State`](connection::State) says where it stands.
//! The functions here take a segment or a time, change the connection, and say by an [`Action`] what is to be done beyond it; their signatures
//! name all else that they may touch. None of them sends, looks up a flow, or knows the engine.
//!
//! From its beginning to its end: `admit` (SYN and cookie), `hello` (what a client sends before the splice), `wait` (for room at a backend), `farewell` (when there was none in time), `dial`, `handshake` (how long it counts), `forward` (spliced), `unacked`
//! (what we must deliver ourselves), `keepalive`, `close` (closed or reset), `cut` (reset by us). Beside these: `reuse` (addresses and ports that are
//! used anew), `settled` (what most of them are, in little memory), `times` (when what is told of it was), `moving` (as bytes, for another process), `timer` (what is due without a frame), `flight` (the server's answer read in passing), `http` (requests and responses, read likewise), `icmp` (errors about it), `evict` (whose buffer is
//! taken back), `limiter` and `reset_grace` (when a reset of an unknown connection is sent).

pub mod action;
pub mod admit;
pub mod close;
pub mod connection;
pub mod control;
pub mod cut;
pub mod dial;
mod evict;
pub mod farewell;
pub mod flight;
pub mod forward;
pub mod handshake;
pub mod hello;
mod hot;
pub mod http;
pub mod icmp;
pub mod keepalive;
mod limiter;
pub mod moving;
mod record;
mod reset_grace;
pub mod reuse;
mod settled;
pub mod timer;
mod times;
pub mod unacked;
pub mod wait;

pub use action::Action;
pub use connection::{Connection, SPLICED, STATES};
pub use control::ControlSegment;
pub use evict::Eviction;
pub use hot::{ClientLink, Hot, Marks, NO_LIMIT, Through};
pub use limiter::Limiter;
pub use record::{BALANCED, Class, ConnectionRecord, End, Kinds, Record, Told};
pub use reset_grace::ResetGrace;
pub use settled::Settled;
pub use times::Times;

use crate::config::PortId;
use crate::flow::Key;
use crate::time::Time;
use crate::wire::packet::{Ethernet, Ip, Tcp};

/// Room in front of a hello for a PROXY v2 header: 16 bytes and 36 of addresses.
pub const HEADER_ROOM: usize = 64;

/// Bytes of a hello that the small buffer of one that waits holds: post-quantum shares and a ticket, as a rule.
pub const SMALL_HELLO: usize = 2048;

/// A TCP segment in a frame, its headers read.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    /// Where it came in.
    pub port: PortId,
    /// Its headers.
    pub eth: Ethernet,
    /// Its headers.
    pub ip: Ip,
    /// Its headers.
    pub tcp: Tcp,
    /// When.
    pub now: Time,
    /// It came out of a tunnel.
    pub wrapped: bool,
}

impl Arrived {
    /// Protocol, addresses and ports.
    #[inline]
    pub fn key(&self) -> Key {
        Key::of(&self.ip, &self.tcp)
    }
}
