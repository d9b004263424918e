//! What is told of tunnels: never a key that is not public.

use crate::pack::packed_counts;
use crate::time::Time;
use core::ops::AddAssign;
use std::net::SocketAddr;

/// Where a tunnel stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Standing {
    /// It has not been up yet, and is still expected to be.
    #[default]
    Begins,
    /// It has a session, and the other end was heard.
    Up,
    /// The other end answers no handshake.
    Down,
}

impl Standing {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Standing::Begins => "begins",
            Standing::Up => "up",
            Standing::Down => "down",
        }
    }
}

/// What was counted of a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Messages that came and were opened, those without a packet included.
    pub messages_in: u64,
    /// Bytes of UDP payload in them.
    pub bytes_in: u64,
    /// Messages that went out.
    pub messages_out: u64,
    /// Bytes of UDP payload in them.
    pub bytes_out: u64,
    /// Handshakes that led to a session.
    pub handshakes: u64,
    /// Handshakes of ours that were sent, each repetition included.
    pub initiations: u64,
    /// Messages that none of its keys opens.
    pub unopened: u64,
    /// Messages that came before.
    pub replayed: u64,
    /// Handshakes whose time stamp is not behind that of the last: replayed, or the other end's clock was set back.
    pub old_handshakes: u64,
    /// Handshakes beyond the rate.
    pub flooded: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        let Counts {
            messages_in,
            bytes_in,
            messages_out,
            bytes_out,
            handshakes,
            initiations,
            unopened,
            replayed,
            old_handshakes,
            flooded,
        } = other;
        self.messages_in += messages_in;
        self.bytes_in += bytes_in;
        self.messages_out += messages_out;
        self.bytes_out += bytes_out;
        self.handshakes += handshakes;
        self.initiations += initiations;
        self.unopened += unopened;
        self.replayed += replayed;
        self.old_handshakes += old_handshakes;
        self.flooded += flooded;
    }
}

packed_counts!(Counts {
    messages_in,
    bytes_in,
    messages_out,
    bytes_out,
    handshakes,
    initiations,
    unopened,
    replayed,
    old_handshakes,
    flooded,
});

/// One worker's tunnel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// Where it ends.
    pub endpoint: SocketAddr,
    /// Public key of the other end.
    pub public_key: [u8; 32],
    /// Our public key there.
    pub own_key: [u8; 32],
    /// Where it stands.
    pub standing: Standing,
    /// Since when.
    pub since: Time,
    /// When its latest handshake led to a session.
    pub handshake: Option<Time>,
    /// When the other end was last heard: a message that its keys open.
    pub heard: Option<Time>,
    /// Packets that wait until it is up.
    pub waiting: usize,
    /// What was counted.
    pub counts: Counts,
}
