//! ICMP errors about a connection: which of them are believed, and who hears of it.
//!
//! An error is believed only when the packet it quotes lies within what was really sent and not yet acknowledged (RFC 5927
//! section 4.1): who is not on the path does not know that.

use super::connection::{Connection, Opening, Stage, State};
use super::hot::Hot;
use crate::counters::DropReason;
use crate::flow::Side;
use crate::path::mss_for;
use crate::wire::packet::Ip;
use crate::wire::{Family, Seq, SeqDelta};
use lb::BackendId;

/// What its sender is told of a packet that did not arrive.
#[derive(Clone, Copy, Debug)]
pub struct Complaint {
    /// The packet's number, as the sender counts.
    pub seq: Seq,
    /// Added to what it acknowledges.
    pub acks: SeqDelta,
    /// The MTU, if the packet was too big.
    pub mtu: Option<u16>,
}

/// The backend that cannot be reached, by an error about our SYN, whose number it quotes.
pub fn unreachable(
    c: &Connection,
    ip: &Ip,
    [kind, code]: [u8; 2],
    quoted: Seq,
) -> Result<Option<BackendId>, DropReason> {
    let State::Opening(Opening { tried, stage: Stage::Dialing(dialing), .. }) = &c.state else {
        return Err(DropReason::IcmpNoFlow);
    };
    let unreachable = match ip.family {
        Family::V4 => kind == 3 && code != 4,
        Family::V6 => kind == 1,
    };
    if quoted != c.isn - u32::from(dialing.header) || !unreachable {
        return Err(DropReason::OutOfWindow);
    }
    Ok(tried.last().copied())
}

/// A packet of `sender`'s with this number, as it was passed on, did not arrive; because it was too big for `mtu`, perhaps. None when that stays
/// with the flow: `for_all`, where its sender would take it for the path to all clients.
pub fn complain(
    hot: &mut Hot,
    c: &mut Connection,
    sender: Side,
    quoted: Seq,
    mtu: Option<u16>,
    family: Family,
    for_all: bool,
) -> Result<Option<Complaint>, DropReason> {
    let Some(through) = &mut hot.through else { return Err(DropReason::IcmpNoFlow) };
    // What the sender's own packet looked like: its own numbers.
    let (seq, acks) = match sender {
        Side::Client => (quoted, through.splice.seq),
        Side::Server => (quoted + -through.splice.seq, SeqDelta::default()),
    };
    let direction = through.direction(&mut c.odd, sender);
    let (from, acked, next) = (direction.in_flight_from(), direction.window.acked, direction.window.next);
    // What is ours begins before the client's stream when there is a PROXY header.
    let first = match (&c.state, sender) {
        (State::Spliced(Some(unacked)), Side::Client) if unacked.una.is_before(acked) => unacked.una,
        _ => from,
    };
    if quoted.is_before(first) || quoted.is_after(next) {
        return Err(DropReason::OutOfWindow);
    }
    // To its sender an error is about something that it still has in flight, or it is ignored.
    let seq = if quoted.is_before(from) { acked } else { seq };
    let Some(mtu) = mtu else { return Ok(Some(Complaint { seq, acks, mtu: None })) };
    if let (Side::Client, State::Spliced(Some(unacked))) = (sender, &mut c.state) {
        // What is ours nobody else can cut smaller.
        unacked.segment = unacked.segment.min(mss_for(mtu, family));
    }
    let told = mtu.max(least_told(family));
    if for_all || told > mtu {
        let limit = &mut through.path[sender as usize];
        *limit = mtu.min(*limit);
    }
    Ok((!for_all).then_some(Complaint { seq, acks, mtu: Some(told) }))
}

/// The MTU that an error of the kind "packet too big" tells of (RFC 1191 section 4, RFC 4443 section 3.2); no less than segments
/// are cut to here. Routers older than RFC 1191 say zero.
pub fn path_mtu(b: &[u8], ip: &Ip) -> Option<u16> {
    let m = b[ip.payload..ip.end].first_chunk::<8>()?;
    match (ip.family, m[0], m[1]) {
        (Family::V4, 3, 4) => match u16::from_be_bytes([m[6], m[7]]) {
            0 => Some(least_told(Family::V4)),
            mtu => Some(mtu.max(LEAST_PATH_V4)),
        },
        (Family::V6, 2, _) => {
            let mtu = u32::from_be_bytes([m[4], m[5], m[6], m[7]]);
            Some(u16::try_from(mtu).unwrap_or(u16::MAX).max(least_told(Family::V6)))
        }
        _ => None,
    }
}

/// IPv4 packets are cut no smaller than that, whatever an error says: each segment of a server is seven of ours at most, as when
/// the client asks for the smallest segments in its SYN. No link of today is narrower.
const LEAST_PATH_V4: u16 = 256;

/// What a host is told at least, for what it remembers is of more than one connection: the least that Linux believes of IPv4
/// (`min_pmtu`), and what every IPv6 link takes (RFC 8200 section 5). What does not fit still is cut here.
const fn least_told(family: Family) -> u16 {
    match family {
        Family::V4 => 552,
        Family::V6 => 1280,
    }
}
