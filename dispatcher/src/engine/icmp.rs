//! ICMP errors about a flow of ours: translated and passed on to the side whose packet they are about, so that path-MTU
//! discovery works through us; and heard, when they are about a backend that is being dialled.
//!
//! One is not passed on: that a client's path is narrow, when servers know all clients by one address of ours (`snat`). It is
//! remembered with the flow, whose segments are cut to fit (`split`).
//!
//! An error is believed only when the packet it quotes lies within what was really sent and not yet acknowledged (RFC 5927
//! section 4.1): who is not on the path does not know that.

use super::connection::State;
use super::forward::relink;
use super::health::mss_for;
use super::{AddressMode, DropReason, Effects, Engine, Step, Verdict};
use crate::flow::{Endpoints, FlowId, Side, Tuple};
use crate::time::Time;
use crate::wire::checksum::{Change, Sum, transport};
use crate::wire::packet::{Ethernet, Ip, protocol};
use crate::wire::{Addr, Family, Frame, Seq, SeqDelta};

/// The quoted packet: where it lies, and what is needed of it. A quote may be cut after eight bytes of TCP.
struct Quote {
    header: usize,
    tcp: usize,
    tuple: Tuple,
    seq: Seq,
}

impl Engine {
    pub(super) fn on_icmp_error(
        &mut self,
        eth: &Ethernet,
        ip: &Ip,
        frame: &mut Frame<'_>,
        now: Time,
        fx: &mut dyn Effects,
    ) -> Step {
        let [kind, code] = [frame.bytes()[ip.payload], frame.bytes()[ip.payload + 1]];
        if !is_error(ip.family, kind) || eth.dst.is_group() {
            return Err(DropReason::NotForUs);
        }
        let quote = read_quote(frame.bytes(), ip).ok_or(DropReason::Truncated)?;
        // The quoted packet went out from us; turned round it is what arrives from the side that complains.
        let (id, side) = self.flows.lookup(&quote.tuple.reversed()).ok_or(DropReason::IcmpNoFlow)?;
        let c = self.flows.get(id);
        match (&c.state, side) {
            (State::Dialing(dialing), Side::Server) => {
                let unreachable =
                    (ip.family == Family::V4 && kind == 3 && code != 4) || (ip.family == Family::V6 && kind == 1);
                if quote.seq != c.isn - u32::from(dialing.header) || !unreachable {
                    return Err(DropReason::OutOfWindow);
                }
                if let Some(&backend) = dialing.tried.last() {
                    self.health.doubt(backend, now);
                }
                self.redispatch(id, now, fx);
                Ok(Verdict::Hold)
            }
            (State::Spliced(_), _) => self.pass_error_on(id, side, eth, ip, &quote, frame),
            _ => Err(DropReason::IcmpNoFlow),
        }
    }

    /// `side` complains about a packet that came from the other side; that one must hear it, about its own packet.
    fn pass_error_on(
        &mut self,
        id: FlowId,
        side: Side,
        eth: &Ethernet,
        ip: &Ip,
        quote: &Quote,
        frame: &mut Frame<'_>,
    ) -> Step {
        let (c, client, server) = self.flows.get_with_tuples(id);
        let Some(server) = server else { return Err(DropReason::NoFlow) };
        let sender = side.other();
        // What the sender's own packet looked like: addresses as it arrived here, and its own numbers.
        let (arrived, seq, acks, (port, link)) = match sender {
            Side::Client => (*client, quote.seq, c.splice.seq, (c.client_port, Some(c.client_link))),
            Side::Server => (*server, quote.seq + -c.splice.seq, SeqDelta::default(), self.neighbours.link(c.hop)),
        };
        let in_flight = &c.directions[sender as usize];
        // What is ours begins before the client's stream when there is a PROXY header.
        let first = match (&c.state, sender) {
            (State::Spliced(Some(ours)), Side::Client) if ours.una.is_before(in_flight.acked) => ours.una,
            _ => in_flight.in_flight_from(),
        };
        if quote.seq.is_before(first) || quote.seq.is_after(in_flight.next) {
            return Err(DropReason::OutOfWindow);
        }
        // To its sender an error is about something that it still has in flight, or it is ignored.
        let seq = if quote.seq.is_before(in_flight.in_flight_from()) { in_flight.acked } else { seq };
        if let Some(mtu) = path_mtu(frame.bytes(), ip) {
            if let (Side::Client, State::Spliced(Some(ours))) = (sender, &mut c.state) {
                // What is ours nobody else can cut smaller.
                ours.segment = ours.segment.min(mss_for(mtu, ip.family));
            }
            let for_all = sender == Side::Server && self.config.address_mode == AddressMode::Snat;
            let told = mtu.max(least_told(ip.family));
            if for_all || told > mtu {
                let limit = &mut c.path[sender as usize];
                *limit = mtu.min(*limit);
            }
            if for_all {
                return Ok(Verdict::Hold);
            }
            tell(frame.bytes_mut(), ip, told);
        }
        let link = link.ok_or(DropReason::NoNeighbour)?;
        let cut = frame.set_len(ip.end);
        debug_assert!(cut, "shorter is always possible");
        let b = frame.bytes_mut();
        rewrite_quote(b, ip, quote, &arrived, seq, acks);
        // The error itself goes to the sender, from whoever complained.
        let to = Endpoints { src: (ip.src, 0), dst: (Addr(arrived.src), 0) };
        crate::flow::splice::rewrite_addresses(b, ip, &to, &mut Change::default());
        let message = ip.payload..ip.end;
        b[ip.payload + 2..ip.payload + 4].fill(0);
        let sum = match ip.family {
            Family::V4 => Sum::default().add_bytes(&b[message]).checksum(),
            Family::V6 => transport(ip.src.octets(), &arrived.src, protocol::ICMPV6, &b[message]),
        };
        b[ip.payload + 2..ip.payload + 4].copy_from_slice(&sum.to_be_bytes());
        relink(frame, eth.payload, ip.family, &link)?;
        self.counters.forwarded += 1;
        Ok(Verdict::Forward(port))
    }
}

/// The MTU that an error of the kind "packet too big" tells of (RFC 1191 section 4, RFC 4443 section 3.2); no less than segments
/// are cut to here. Routers older than RFC 1191 say zero.
fn path_mtu(b: &[u8], ip: &Ip) -> Option<u16> {
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

/// Writes an MTU into an error "packet too big". Its checksum is made anew later.
fn tell(b: &mut [u8], ip: &Ip, mtu: u16) {
    let at = ip.payload + 4;
    if ip.family == Family::V6 {
        b[at..at + 2].fill(0);
    }
    b[at + 2..at + 4].copy_from_slice(&mtu.to_be_bytes());
}

/// The quoted IP and TCP headers, as far as they are there.
fn read_quote(b: &[u8], ip: &Ip) -> Option<Quote> {
    let header = ip.payload + 8;
    let q = b.get(header..ip.end)?;
    let (len, src, dst, proto) = match ip.family {
        Family::V4 => {
            let h = q.first_chunk::<20>()?;
            let v4 = |i: usize| Addr::v4([h[i], h[i + 1], h[i + 2], h[i + 3]]);
            (usize::from(h[0] & 15) * 4, v4(12), v4(16), h[9])
        }
        Family::V6 => {
            let h = q.first_chunk::<40>()?;
            let v6 = |i: usize| Addr(core::array::from_fn(|n| h[i + n]));
            (40, v6(8), v6(24), h[6])
        }
    };
    // A quote of the other family, or of IPv4 addresses in an IPv6 header, would lead to a flow that this packet cannot be about.
    let family = q[0] >> 4 == if ip.family == Family::V4 { 4 } else { 6 };
    if len < 20 || proto != protocol::TCP || !family || src.family() != ip.family || dst.family() != ip.family {
        return None;
    }
    let t = q.get(len..)?.first_chunk::<8>()?;
    let port = |i: usize| u16::from_be_bytes([t[i], t[i + 1]]);
    Some(Quote {
        header,
        tcp: header + len,
        tuple: Tuple { src: src.0, dst: dst.0, sport: port(0), dport: port(2) },
        seq: Seq(u32::from_be_bytes([t[4], t[5], t[6], t[7]])),
    })
}

/// The addresses and ports of the packet that an ICMP error quotes, as it went out; none when it is no error, or quotes no TCP.
pub(crate) fn quoted_tuple(b: &[u8], ip: &Ip) -> Option<Tuple> {
    let kind = *b.get(ip.payload..ip.end)?.first()?;
    let icmp = if ip.family == Family::V4 { protocol::ICMP } else { protocol::ICMPV6 };
    (ip.protocol == icmp && is_error(ip.family, kind)).then(|| read_quote(b, ip)).flatten().map(|quote| quote.tuple)
}

/// Whether messages of this type are errors, which quote a packet (RFC 792, RFC 4443 section 2.1).
fn is_error(family: Family, kind: u8) -> bool {
    match family {
        Family::V4 => matches!(kind, 3 | 11 | 12),
        Family::V6 => matches!(kind, 1..=4),
    }
}

/// Makes the quote what its sender sent: its addresses, ports and numbers, and the checksums over them, as far as they are
/// quoted. Windows and options stay: who reads an error looks at none of them.
fn rewrite_quote(b: &mut [u8], ip: &Ip, quote: &Quote, sent: &Tuple, seq: Seq, acks: SeqDelta) {
    let (old_src, old_dst) = (Addr(quote.tuple.src), Addr(quote.tuple.dst));
    let (src, dst) = (Addr(sent.src), Addr(sent.dst));
    let mut sum = Change::default();
    sum.bytes(old_src.octets(), src.octets());
    sum.bytes(old_dst.octets(), dst.octets());
    let h = quote.header;
    match ip.family {
        Family::V4 => {
            let new = sum.apply(u16::from_be_bytes([b[h + 10], b[h + 11]]));
            b[h + 10..h + 12].copy_from_slice(&new.to_be_bytes());
            b[h + 12..h + 16].copy_from_slice(src.octets());
            b[h + 16..h + 20].copy_from_slice(dst.octets());
        }
        Family::V6 => {
            b[h + 8..h + 24].copy_from_slice(src.octets());
            b[h + 24..h + 40].copy_from_slice(dst.octets());
        }
    }
    let t = quote.tcp;
    sum.word(quote.tuple.sport, sent.sport);
    sum.word(quote.tuple.dport, sent.dport);
    sum.long(quote.seq.0, seq.0);
    b[t..t + 2].copy_from_slice(&sent.sport.to_be_bytes());
    b[t + 2..t + 4].copy_from_slice(&sent.dport.to_be_bytes());
    b[t + 4..t + 8].copy_from_slice(&seq.0.to_be_bytes());
    if t + 12 <= ip.end {
        let old = Seq(u32::from_be_bytes([b[t + 8], b[t + 9], b[t + 10], b[t + 11]]));
        let new = old + acks;
        sum.long(old.0, new.0);
        b[t + 8..t + 12].copy_from_slice(&new.0.to_be_bytes());
    }
    if t + 18 <= ip.end {
        let new = sum.apply(u16::from_be_bytes([b[t + 16], b[t + 17]]));
        b[t + 16..t + 18].copy_from_slice(&new.to_be_bytes());
    }
}
