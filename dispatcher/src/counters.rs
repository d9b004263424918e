//! Every way to lose a frame has a name, and the name is a counter.

use crate::pack::{Pack, Packer, Unpacker, Unreadable, count};
use crate::wire::packet::WireError;

/// Declares [`DropReason`] with its operators' names, so that the list stands in one place.
macro_rules! drop_reasons {
    ($($(#[doc = $text:literal])* $variant:ident = $name:literal,)*) => {
        /// Why a frame was dropped. The names are the same in counters, JSON, reports and documents.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $text])* $variant,)* }

        impl DropReason {
            /// All reasons, in order of their counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// The operators' name.
            pub const fn as_str(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }

            /// What it means, in a sentence or two.
            pub fn meaning(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($text),*).trim(),)* }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its headers say, or than headers are.
    Truncated = "truncated",
    /// A header field that cannot be (version, length, data offset).
    Malformed = "malformed",
    /// Not addressed to our MAC, a VIP or an address of ours; or a protocol nobody here speaks.
    NotForUs = "not-for-us",
    /// A piece of a fragmented IP packet.
    IpFragment = "ip-fragment",
    /// Wrapped as tunnels wrap, from an address or of a network that no backend's tunnel has.
    TunnelUnknown = "tunnel-unknown",
    /// From where a tunnel ends, and no whole packet is in it.
    TunnelMalformed = "tunnel-malformed",
    /// Out of a tunnel, and not from a backend behind it.
    TunnelForeign = "tunnel-foreign",
    /// From where a tunnel ends, and not sealed by its keys: not by those that hold now, or by nobody who has any.
    TunnelUnopened = "tunnel-unopened",
    /// Sealed by a tunnel's keys, and come before: repeated on its way, or by an attacker; or a handshake older than the last.
    TunnelReplayed = "tunnel-replayed",
    /// A handshake of a tunnel beyond the rate at which they are answered: its sender is asked to show that it is where it says.
    TunnelFlooded = "tunnel-flooded",
    /// For a backend behind a tunnel that is not up, with as many packets waiting for that as may.
    TunnelNotUp = "tunnel-not-up",
    /// It met congestion on its way through a tunnel, and its sender does not take that for an answer (RFC 6040).
    TunnelCongested = "tunnel-congested",
    /// A checksum that does not fit, where we looked.
    BadChecksum = "bad-checksum",
    /// To a VIP's port that is not served, or no flow has these addresses.
    NoFlow = "no-flow",
    /// An acknowledgement whose cookie is not ours or too old.
    BadCookie = "bad-cookie",
    /// Outside the window of the flow where that matters (RST, FIN, SYN).
    OutOfWindow = "out-of-window",
    /// The flow table is full.
    FlowTableFull = "flow-table-full",
    /// No buffer left to assemble the hello in.
    HelloNoBuffer = "hello-no-buffer",
    /// Beyond what one flow may have held.
    HelloOverflow = "hello-overflow",
    /// From where a PROXY header is expected, and begun with none that can be read.
    ProxyHeader = "proxy-header",
    /// No backend could be chosen or reached.
    NoBackend = "no-backend",
    /// An answer to a check, when those who make them had no room for it.
    CheckQueueFull = "check-queue-full",
    /// No backend has room, and all places to wait for it are taken.
    QueueFull = "queue-full",
    /// No backend had room in the time that the client's class may wait.
    QueueTimeout = "queue-timeout",
    /// No free local port towards the backend.
    NoLocalPort = "no-local-port",
    /// The next hop's Ethernet address is not known yet.
    NoNeighbour = "no-neighbour",
    /// The transmit queue was full.
    TxFull = "tx-full",
    /// More resets of unknown connections than the rate allows.
    RateLimited = "rate-limited",
    /// ARP or NDP that answers no question of ours.
    NeighbourUnasked = "neighbour-unasked",
    /// An ICMP error about no flow of ours.
    IcmpNoFlow = "icmp-no-flow",
    /// A client's MSS too small to be encoded.
    MssTooSmall = "mss-too-small",
    /// The driver's buffer has no room in front for the link layer of the other side.
    NoHeadroom = "no-headroom",
    /// The flow is over; a late segment of it.
    FlowClosed = "flow-closed",
    /// A new connection while the dispatcher comes to its end.
    Stopping = "stopping",
}

impl From<WireError> for DropReason {
    fn from(e: WireError) -> DropReason {
        match e {
            WireError::Truncated => DropReason::Truncated,
            WireError::Malformed => DropReason::Malformed,
            WireError::Fragment => DropReason::IpFragment,
        }
    }
}

/// A number for each [`DropReason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByReason([u64; DropReason::ALL.len()]);

impl Default for ByReason {
    fn default() -> ByReason {
        ByReason([0; DropReason::ALL.len()])
    }
}

impl IntoIterator for ByReason {
    type Item = u64;
    type IntoIter = core::array::IntoIter<u64, { DropReason::ALL.len() }>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl core::ops::Deref for ByReason {
    type Target = [u64; DropReason::ALL.len()];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl core::ops::DerefMut for ByReason {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// Counters of one worker. Plain numbers: one writer, folded by whoever reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames handed in.
    pub frames_in: u64,
    /// Frames handed out: forwarded, answered, and of our own making.
    pub frames_out: u64,
    /// Frames whose content was copied and that went no further themselves: held hellos, answers to our own questions.
    pub held: u64,
    /// Frames of our own making, not in answer to one that came in: SYNs, held segments, resets, questions.
    pub made: u64,
    /// Frames forwarded for known flows.
    pub forwarded: u64,
    /// SYNs answered with a cookie.
    pub cookies_sent: u64,
    /// Flows opened by a cookie that came back.
    pub flows_opened: u64,
    /// Flows ended.
    pub flows_closed: u64,
    /// SYNs sent to backends, retransmissions included.
    pub dials: u64,
    /// Backends that refused or stayed silent, and were replaced by another.
    pub redispatches: u64,
    /// Segments of ours retransmitted to backends.
    pub retransmits: u64,
    /// Flows whose stream began with a ClientHello.
    pub secure: u64,
    /// Flows whose stream did not.
    pub non_secure: u64,
    /// Secure flows whose hello could not be read, or not all of it: balanced, or led by what could be read.
    pub hellos_unread: u64,
    /// Flows whose client said nothing in its time, so that a backend was chosen without it.
    pub silent: u64,
    /// Of these, flows whose stream began with a ClientHello after all: read for learning and statistics.
    pub late_hellos: u64,
    /// Server answers not followed because no watch was free or too much was out of order.
    pub unwatched: u64,
    /// Segments answered by a reset, by what was wrong with them.
    pub refused: ByReason,
    /// Frames dropped, by [`DropReason`].
    pub drops: ByReason,
}

impl Counters {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Counters) {
        let Counters {
            frames_in,
            frames_out,
            held,
            made,
            forwarded,
            cookies_sent,
            flows_opened,
            flows_closed,
            dials,
            redispatches,
            retransmits,
            secure,
            non_secure,
            hellos_unread,
            silent,
            late_hellos,
            unwatched,
            refused,
            drops,
        } = self;
        for (mine, theirs) in [
            (frames_in, other.frames_in),
            (frames_out, other.frames_out),
            (held, other.held),
            (made, other.made),
            (forwarded, other.forwarded),
            (cookies_sent, other.cookies_sent),
            (flows_opened, other.flows_opened),
            (flows_closed, other.flows_closed),
            (dials, other.dials),
            (redispatches, other.redispatches),
            (retransmits, other.retransmits),
            (secure, other.secure),
            (non_secure, other.non_secure),
            (hellos_unread, other.hellos_unread),
            (silent, other.silent),
            (late_hellos, other.late_hellos),
            (unwatched, other.unwatched),
        ] {
            *mine += theirs;
        }
        for (mine, theirs) in refused.iter_mut().zip(other.refused).chain(drops.iter_mut().zip(other.drops)) {
            *mine += theirs;
        }
    }

    /// Those that are one number each, by name.
    fn plain(&mut self) -> [(&'static str, &mut u64); 17] {
        [
            ("frames-in", &mut self.frames_in),
            ("frames-out", &mut self.frames_out),
            ("held", &mut self.held),
            ("made", &mut self.made),
            ("forwarded", &mut self.forwarded),
            ("cookies-sent", &mut self.cookies_sent),
            ("flows-opened", &mut self.flows_opened),
            ("flows-closed", &mut self.flows_closed),
            ("dials", &mut self.dials),
            ("redispatches", &mut self.redispatches),
            ("retransmits", &mut self.retransmits),
            ("secure", &mut self.secure),
            ("non-secure", &mut self.non_secure),
            ("hellos-unread", &mut self.hellos_unread),
            ("silent", &mut self.silent),
            ("late-hellos", &mut self.late_hellos),
            ("unwatched", &mut self.unwatched),
        ]
    }

    /// Writes them, each with its name: a later version may have others.
    pub fn pack(&self, to: &mut Packer) {
        let mut copy = self.clone();
        let plain = copy.plain().map(|(name, number)| (name.to_string(), *number));
        let by_reason = |kind: &str, all: &[u64]| -> Vec<(String, u64)> {
            let one = |(reason, number): (&DropReason, &u64)| (format!("{kind}{}", reason.as_str()), *number);
            DropReason::ALL.iter().zip(all).map(one).collect()
        };
        let all: Vec<_> = plain
            .into_iter()
            .chain(by_reason("refused:", &*self.refused))
            .chain(by_reason("drops:", &*self.drops))
            .collect();
        (all.len() as u32).pack(to);
        all.iter().for_each(|(name, number)| (name.clone(), *number).pack(to));
    }

    /// Adds those of another process.
    pub fn take_over(&mut self, from: &mut Unpacker<'_>) -> Result<(), Unreadable> {
        for _ in 0..u32::unpack(from)? {
            let (name, number) = (String::unpack(from)?, count(from)?);
            let find = |name: &str| DropReason::ALL.iter().position(|reason| reason.as_str() == name);
            let mine = if let Some(reason) = name.strip_prefix("refused:") {
                find(reason).map(|n| &mut self.refused[n])
            } else if let Some(reason) = name.strip_prefix("drops:") {
                find(reason).map(|n| &mut self.drops[n])
            } else {
                self.plain().into_iter().find(|(known, _)| *known == name).map(|(_, number)| number)
            };
            if let Some(mine) = mine {
                *mine += number;
            }
        }
        Ok(())
    }

    /// Drops for one reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }
}
