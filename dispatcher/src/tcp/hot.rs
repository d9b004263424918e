//! What a frame of a known flow needs of its connection: 100 bytes, which the flow table keeps beside the flow's addresses, in two cache lines.
//! The rest is the [`Connection`](super::Connection).

use super::Arrived;
use crate::config::PortId;
use crate::flow::{Direction, FlowTable, Oddities, Side, Splice, Window};
use crate::pack::packed;
use crate::path::NextHop;
use crate::time::Time;
use crate::wire::Mac;
use crate::wire::build::Link;
use crate::wire::packet::Vlans;
use core::hint::select_unpredictable;

/// No router has said that a path is narrow.
pub const NO_LIMIT: u16 = u16::MAX;

/// What is to be looked at beside the numbers of a segment, as bits. Made anew from the connection when that has changed, see
/// [`Connection::marks`](super::Connection::marks).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks(pub u16);

impl Marks {
    /// Both directions are forwarded. If this is all, an ordinary segment needs no more than is here.
    pub const OPEN: Marks = Marks(1);
    /// Bytes are ours to deliver.
    pub const UNACKED: Marks = Marks(2);
    /// The server's first flight is being read, or its responses are.
    pub const FLIGHT: Marks = Marks(4);
    /// A hello may still come.
    pub const LATE: Marks = Marks(8);
    /// A SYN came that may begin another connection on the same addresses and ports.
    pub const RENEWED: Marks = Marks(16);
    /// Keepalive probes were sent.
    pub const ASKED: Marks = Marks(32);
    /// A direction has oddities.
    pub const ODD: Marks = Marks(64);
    /// Its handshake holds units of its backend's limit.
    pub const HANDSHAKE: Marks = Marks(128);
    /// The server has said nothing yet.
    pub const MUTE: Marks = Marks(256);
    /// Open, but for that.
    pub const OPEN_MUTE: Marks = Marks(Marks::OPEN.0 | Marks::MUTE.0);

    /// All of `other`'s are set.
    #[inline]
    pub const fn contains(self, other: Marks) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Where the client's frames come from, and where it is answered to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientLink {
    /// The first four bytes of the Ethernet address, and above its other two our port, and what tags there are: in words, because every frame's are
    /// compared.
    words: [u32; 2],
    tags: [u16; 2],
}

/// Their places in the second word.
const PORT: u32 = 16;
const KINDS: u32 = 24;

impl ClientLink {
    /// Where this frame came from.
    #[inline]
    pub fn of(seg: &Arrived) -> ClientLink {
        let (kinds, tags) = seg.eth.vlans.packed();
        let untagged = ClientLink::untagged(seg.port, seg.eth.src);
        let [low, high] = untagged.words;
        ClientLink { words: [low, high | u32::from(kinds) << KINDS], tags }
    }

    /// A frame without tags, from `mac`, came in by `port`.
    #[inline(always)]
    pub fn untagged(port: PortId, mac: Mac) -> ClientLink {
        let [a, b, c, d, e, f] = mac.0;
        let high = u32::from(u16::from_le_bytes([e, f])) | u32::from(port.0) << PORT;
        ClientLink { words: [u32::from_le_bytes([a, b, c, d]), high], tags: [0; 2] }
    }

    /// A client whose frames came from here sends from another place, if it is the client who does: nobody can predict that, so no branch
    /// asks.
    #[inline(always)]
    pub fn has_moved(&self, to: &ClientLink, side: Side) -> bool {
        let tags = (self.tags[0] ^ to.tags[0]) | (self.tags[1] ^ to.tags[1]);
        let words = (self.words[0] ^ to.words[0]) | (self.words[1] ^ to.words[1]);
        let differ = words | u32::from(tags);
        select_unpredictable(side == Side::Client, differ, 0) != 0
    }

    /// It has no tags.
    #[inline(always)]
    pub fn is_untagged(&self) -> bool {
        self.words[1] >> KINDS == 0
    }

    /// The Ethernet address it is answered to.
    #[inline(always)]
    pub fn mac(&self) -> Mac {
        let ([a, b, c, d], [e, f, ..]) = (self.words[0].to_le_bytes(), self.words[1].to_le_bytes());
        Mac([a, b, c, d, e, f])
    }

    /// Out of which port.
    #[inline]
    pub fn port(&self) -> PortId {
        PortId((self.words[1] >> PORT) as u8)
    }

    /// With what link layer, from a port whose Ethernet address is `mac`.
    #[inline]
    pub fn link(&self, mac: Mac) -> Link {
        Link { dst: self.mac(), src: mac, vlans: Vlans::unpacked((self.words[1] >> KINDS) as u8, self.tags) }
    }
}

/// What is known since the splice.
#[derive(Clone, Copy, Debug)]
pub struct Through {
    /// What each side has sent, in the client's view; by [`Side`].
    pub windows: [Window; 2],
    /// The translation.
    pub splice: Splice,
    /// By the [`Side`] that sends: the longest IP packet that its segments may be in on the way to the other side. Nothing but
    /// an error from the path makes it less than [`NO_LIMIT`].
    pub path: [u16; 2],
    /// The backend's next hop.
    pub hop: NextHop,
    /// What else is to be looked at.
    pub marks: Marks,
}

impl Through {
    /// One direction with all that is known of it.
    pub fn direction<'a>(&'a mut self, odd: &'a mut [Oddities; 2], side: Side) -> Direction<'a> {
        Direction { window: &mut self.windows[side as usize], odd: &mut odd[side as usize] }
    }

    /// The window of what this side sends.
    #[inline]
    pub fn window(&self, side: Side) -> &Window {
        &self.windows[side as usize]
    }
}

/// The whole of it.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed(4))]
pub struct Hot {
    /// When a frame that could be meant seriously was last seen.
    pub last_seen: Time,
    /// By [`Side`]: the latest clock value (RFC 7323) that it showed, in the client's view. Before the splice the server's is the value of ours
    /// that the client echoed.
    pub clocks: [u32; 2],
    /// None before the splice.
    pub through: Option<Through>,
    /// The client's way.
    pub client: ClientLink,
}

const _: () = assert!(size_of::<Hot>() == 100);
const _: () = assert!(FlowTable::<Hot, ()>::HOT_BYTES == 128);

impl Default for Hot {
    fn default() -> Hot {
        Hot { last_seen: Time::ZERO, clocks: [0; 2], through: None, client: ClientLink::default() }
    }
}

impl Hot {
    /// A side's clock, in the client's view. Segments of ours show the latest: a receiver does not hear what is older than what it has seen
    /// (RFC 7323 section 5.3), a keepalive least of all.
    #[inline]
    pub fn shows_clock(&mut self, side: Side, clock: u32) {
        let latest = &mut self.clocks[side as usize];
        if (clock.wrapping_sub(*latest) as i32) > 0 {
            *latest = clock;
        }
    }
}

packed!(ClientLink { words, tags });
