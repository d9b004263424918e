//! The straight way of a plain frame of a known flow: what the ladder would do with it, without reading more than it takes.
//!
//! Plain is: untagged Ethernet on both sides, IPv4 without options, TCP with no options or with timestamps as everybody writes them, a segment that is
//! [ordinary](forward::ordinary) in a flow that is spliced. Such a frame is rewritten where it stands. All else is left, untouched, to the ladder; whatever goes
//! straight would have come out of the ladder byte for byte the same, and with the same counts (`tests/engine_straight.rs`).

use super::ladder::server_speaks;
use super::{Engine, Flows, Verdict};
use crate::config::PortId;
use crate::flow::{Clock, KeyV4, Look, Side};
use crate::tcp::ClientLink;
use crate::tcp::forward::{self, Noted, Numbers};
use crate::time::Time;
use crate::wire::checksum::Change;
use crate::wire::packet::{Flags, protocol};
use crate::wire::{Frame, Mac, Seq};
use core::hint::select_unpredictable;

/// Ethernet, IPv4 and TCP without options.
const HEADERS: usize = 14 + 20 + 20;
/// Their places: of IPv4 and of TCP.
const IP: usize = 14;
const TCP: usize = IP + 20;

/// The headers of a frame, as far as they are there.
type Head = [u8; HEADERS];

// Numbers are read as they stand, in little-endian order, and turned round where they are to be reckoned with: sums of either order are the same (RFC
// 1071 section 2 B).

#[inline(always)]
fn word(h: &Head, at: usize) -> u16 {
    u16::from_le_bytes([h[at], h[at + 1]])
}

#[inline(always)]
fn long(h: &Head, at: usize) -> u32 {
    u32::from_le_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]])
}

#[inline(always)]
fn put<const N: usize>(h: &mut Head, at: usize, bytes: [u8; N]) {
    h[at..at + N].copy_from_slice(&bytes);
}

/// Puts a number in the place of another, which changes the sum.
#[inline(always)]
fn change(field: &mut [u8; 4], sum: &mut Change, change: impl FnOnce(u32) -> u32) -> u32 {
    let old = u32::from_be_bytes(*field);
    let new = change(old);
    sum.long(old.swap_bytes(), new.swap_bytes());
    *field = new.to_be_bytes();
    new
}

#[inline(always)]
fn mac(h: &Head, at: usize) -> Mac {
    Mac([h[at], h[at + 1], h[at + 2], h[at + 3], h[at + 4], h[at + 5]])
}

/// Untagged Ethernet, IPv4 with a header of 20 bytes, TCP; acknowledges, and neither begins nor ends anything.
#[inline(always)]
fn is_plain(h: &Head) -> bool {
    const TOLD: Flags = Flags::ACK.with(Flags::SYN).with(Flags::RST).with(Flags::FIN).with(Flags::URG);
    long(h, IP - 2) & 0x00ff_ffff == 0x0045_0008 && h[IP + 9] == protocol::TCP && h[TCP + 13] & TOLD.0 == Flags::ACK.0
}

#[inline(always)]
fn key(h: &Head) -> KeyV4 {
    KeyV4 { addresses: u64::from(long(h, IP + 12)) | u64::from(long(h, IP + 16)) << 32, ports: long(h, TCP) }
}

/// The frame, as it goes to the client, has its server's first bytes. Once in a connection: its flow is looked for anew, so that the others have nothing to keep for it.
#[cold]
#[inline(never)]
fn first_bytes(flows: &mut Flows, h: &Head, now: Time) {
    let (src, dst, ports) = (long(h, IP + 12), long(h, IP + 16), long(h, TCP));
    let of_client = KeyV4 { addresses: u64::from(dst) | u64::from(src) << 32, ports: ports.rotate_left(16) };
    if let Some(id) = flows.find_v4(&of_client) {
        server_speaks(flows, id, now);
    }
}

impl Engine {
    /// A first look at a frame of a burst: what [`Engine::straight`] will need of the index is asked for.
    #[inline(always)]
    pub fn look(&self, frame: &[u8]) -> Look {
        match frame.first_chunk::<HEADERS>() {
            Some(h) if is_plain(h) => self.flows.look(&key(h)),
            _ => Look::NONE,
        }
    }

    /// A second look, after the first one at all frames of the burst: what it will need of the flow is asked for.
    #[inline(always)]
    pub fn look_again(&self, look: &mut Look) {
        self.flows.look_again(look);
    }

    /// Takes a plain frame of a known flow straight to its verdict, as [`Engine::handle`] would. None, and nothing has changed, when it is no such frame.
    /// `look` is of the same frame; what has happened since does not matter.
    #[inline(always)]
    pub fn straight(&mut self, port: PortId, look: Look, frame: &mut Frame<'_>, now: Time) -> Option<Verdict> {
        if look.is_none() {
            return None;
        }
        let Engine { flows, routes, neighbours, counters, .. } = self;
        let len = frame.len();
        let (h, rest) = frame.bytes_mut().split_first_chunk_mut::<HEADERS>()?;
        let from = mac(h, 6);
        let total = usize::from(word(h, IP + 2).swap_bytes());
        let data = usize::from(h[TCP + 12] >> 4) * 4;
        if !is_plain(h)
            || mac(h, 0) != routes.ports[usize::from(port.0)].mac
            || from.is_group()
            // A piece: more follow, or it has an offset.
            || word(h, IP + 6) & 0xff3f != 0
            || total < 20 + data
            || IP + total > len
        {
            return None;
        }
        let stamps = match data {
            20 => None,
            32 => match rest.first_chunk_mut::<12>() {
                Some(options) if options[..4] == [1, 1, 8, 10] => Some(options),
                _ => return None,
            },
            _ => return None,
        };
        let (side, hot, to) = flows.known_v4(look, &key(h))?;
        let through = hot.through.as_ref()?;
        let (splice, limit) = (through.splice, through.path[side as usize]);
        let (out, dst) = select_unpredictable(
            side == Side::Client,
            neighbours.untagged(through.hop)?,
            (hot.client.port(), hot.client.mac()),
        );
        if total > usize::from(limit)
            || !hot.client.is_untagged()
            || (stamps.is_some() && matches!(splice.clock, Clock::Erase))
        {
            return None;
        }
        let numbers = Numbers {
            seq: Seq(long(h, TCP + 4).swap_bytes()),
            ack: Seq(long(h, TCP + 8).swap_bytes()),
            window: word(h, TCP + 14).swap_bytes(),
            len: (total - 20 - data) as u32,
            flags: Flags(h[TCP + 13]),
        };
        let noted = forward::ordinary(hot, side, ClientLink::untagged(port, from), &numbers, now);
        if noted == Noted::No {
            return None;
        }

        // From here on it is ours; the rest is the splice's translation (`flow/splice.rs`), for these headers.
        let src = routes.ports[usize::from(out.0)].mac;
        let mut sum = Change::default();
        sum.long(long(h, IP + 12), to.src);
        sum.long(long(h, IP + 16), to.dst);
        let ip_sum = sum.apply(word(h, IP + 10));
        sum.long(long(h, TCP), to.ports);
        let (seq, ack) = splice.other_view(side, numbers.seq, numbers.ack);
        let window = splice.rescale(side).apply(numbers.window).swap_bytes();
        let (seq, ack) = (seq.0.swap_bytes(), ack.0.swap_bytes());
        sum.long(long(h, TCP + 4), seq);
        sum.long(long(h, TCP + 8), ack);
        sum.word(word(h, TCP + 14), window);
        if let Some([_, _, _, _, v0, v1, v2, v3, e0, e1, e2, e3]) = stamps {
            let shift = if let Clock::Shift(shift) = splice.clock { shift } else { 0 };
            let (to_client, to_server) = if side == Side::Server { (shift, 0) } else { (0, shift) };
            let mut val = [*v0, *v1, *v2, *v3];
            let mut ecr = [*e0, *e1, *e2, *e3];
            let clock = change(&mut val, &mut sum, |val| val.wrapping_add(to_client));
            change(&mut ecr, &mut sum, |ecr| ecr.wrapping_sub(to_server));
            [*v0, *v1, *v2, *v3] = val;
            [*e0, *e1, *e2, *e3] = ecr;
            hot.shows_clock(side, clock);
        }
        put(h, 0, dst.0);
        put(h, 6, src.0);
        put(h, IP + 10, ip_sum.to_le_bytes());
        put(h, IP + 12, to.src.to_le_bytes());
        put(h, IP + 16, to.dst.to_le_bytes());
        put(h, TCP, to.ports.to_le_bytes());
        put(h, TCP + 4, seq.to_le_bytes());
        put(h, TCP + 8, ack.to_le_bytes());
        put(h, TCP + 14, window.to_le_bytes());
        let tcp_sum = sum.apply(word(h, TCP + 16));
        put(h, TCP + 16, tcp_sum.to_le_bytes());
        if noted == Noted::First {
            first_bytes(flows, h, now);
        }
        // What follows the IP packet is padding.
        let cut = frame.set_len(IP + total);
        debug_assert!(cut, "shorter is always possible");
        counters.frames_in += 1;
        counters.forwarded += 1;
        counters.frames_out += 1;
        Some(Verdict::Forward(out))
    }
}
