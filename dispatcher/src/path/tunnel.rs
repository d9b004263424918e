//! Packets within packets: what is written in front of one that goes to a backend behind a tunnel, and how one that comes from there is found in what
//! arrives. Pure; bytes and offsets only.
//!
//! What goes out is never a fragment: segments are made to leave room for what stands in front of them ([`Wrap::overhead`]), and the outer header
//! says so (don't fragment). Explicit congestion notification passes both ways (RFC 6040).
//!
//! Where packets are sealed ([`TunnelKind::Wireguard`]), what stands here is around that: outer headers, whose a message is, how much room it leaves. Keys,
//! and so sealing itself, are of whoever drives the engine ([`Effects::seal`](crate::engine::Effects::seal)).

use super::MAX_WORKERS;
use super::by_address::ByAddress;
use crate::counters::DropReason;
use crate::wire::checksum::{Change, Sum, transport};
use crate::wire::packet::{Ethernet, Ip, Parsed, ethertype, protocol};
use crate::wire::{Addr, Family, Mac};
use lb::tunnel::{GUE_PORT, VXLAN_PORT, WIREGUARD_PORT};
use lb::{Directory, Tunnel, TunnelKind};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// IP in IP, of either version (RFC 2003, RFC 4213).
const IPV4: u8 = 4;
const IPV6: u8 = 41;
const UDP: usize = 8;
const GUE: usize = 4;
const VXLAN: usize = 8;
const ETHERNET: usize = 14;
/// Type, receiver and counter in front of a sealed packet, and the tag behind it.
const SEAL: usize = 16 + 16;
/// Sealed packets are padded to multiples of so many bytes, so that their length says less.
pub const PADDING: usize = 16;

/// The UDP port of ours at which a worker's sealed packets arrive, and from which they come: so each worker's are told by a glance, and no two workers share
/// a counter.
pub const fn sealed_port(worker: usize) -> u16 {
    WIREGUARD_PORT + worker as u16
}

/// Where a tunnel ends whose packets are sealed: address and UDP port of the other side.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct End {
    /// Address.
    pub addr: Addr,
    /// UDP port.
    pub port: u16,
}

impl core::convert::From<SocketAddr> for End {
    fn from(at: SocketAddr) -> End {
        End { addr: Addr::from(at.ip()), port: at.port() }
    }
}

impl core::convert::From<End> for SocketAddr {
    fn from(end: End) -> SocketAddr {
        SocketAddr::new(end.addr.ip(), end.port)
    }
}

/// Most bytes in front of a packet that is wrapped in its own buffer: those of VXLAN over IPv6.
pub const MAX_OVERHEAD: usize = 40 + UDP + VXLAN + ETHERNET;

/// What is written in front of packets that go one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wrap {
    kind: TunnelKind,
    src: Addr,
    dst: Addr,
    port: u16,
    mac: Mac,
}

impl Wrap {
    /// Of a tunnel that begins at `src`, by a port of ours with this Ethernet address.
    pub fn new(tunnel: &Tunnel, src: Addr, mac: Mac) -> Wrap {
        Wrap { kind: tunnel.kind, src, dst: Addr::from(tunnel.endpoint.ip()), port: tunnel.endpoint.port(), mac }
    }

    /// Where it begins.
    pub fn source(&self) -> Addr {
        self.src
    }

    /// Of the outer header.
    pub fn family(&self) -> Family {
        self.dst.family()
    }

    /// Where it ends, if what goes there is sealed.
    #[inline]
    pub fn seals(&self) -> Option<End> {
        matches!(self.kind, TunnelKind::Wireguard { .. }).then_some(End { addr: self.dst, port: self.port })
    }

    /// Bytes in front of the inner packet; of one that is sealed, those behind it, too.
    pub fn overhead(&self) -> usize {
        self.ip_len()
            + match self.kind {
                TunnelKind::Ipip => 0,
                TunnelKind::Gue => UDP + GUE,
                TunnelKind::Vxlan { .. } => UDP + VXLAN + ETHERNET,
                TunnelKind::Wireguard { .. } => UDP + SEAL,
            }
    }

    /// The largest inner packet where an outer one may have `mtu` bytes: so that padding, of whoever pads, makes it no longer than that.
    pub fn room(&self, mtu: usize) -> usize {
        let left = mtu.saturating_sub(self.overhead());
        if self.seals().is_some() { left / PADDING * PADDING } else { left }
    }

    fn ip_len(&self) -> usize {
        if self.family() == Family::V4 { 20 } else { 40 }
    }

    /// Writes what stands in front of the inner packet, which begins at [`Wrap::overhead`] of `b` and ends with it.
    ///
    /// # Panics
    /// When there is no inner IP header.
    pub fn write(&self, b: &mut [u8]) {
        let (overhead, total) = (self.overhead(), b.len());
        let (front, inner) = b.split_at_mut(overhead);
        let v6 = inner[0] >> 4 == 6;
        let class = if v6 { inner[0] << 4 | inner[1] >> 4 } else { inner[1] };
        let entropy = entropy(inner, v6);
        let ip = self.ip_len();
        let inner_protocol = if v6 { IPV6 } else { IPV4 };
        let next = if self.kind == TunnelKind::Ipip { inner_protocol } else { protocol::UDP };
        self.write_ip(front, (class, entropy), next, total);
        if self.kind == TunnelKind::Ipip {
            return;
        }
        let (_, behind) = front.split_at_mut(ip);
        behind[..2].copy_from_slice(&(0xc000 | entropy).to_be_bytes());
        behind[2..4].copy_from_slice(&self.port.to_be_bytes());
        behind[4..6].copy_from_slice(&((total - ip) as u16).to_be_bytes());
        behind[6..8].fill(0);
        match self.kind {
            TunnelKind::Ipip | TunnelKind::Wireguard { .. } => {}
            TunnelKind::Gue => behind[8..12].copy_from_slice(&[0, inner_protocol, 0, 0]),
            TunnelKind::Vxlan { vni, mac } => {
                behind[8..12].copy_from_slice(&[8, 0, 0, 0]);
                behind[12..16].copy_from_slice(&(vni << 8).to_be_bytes());
                behind[16..22].copy_from_slice(&mac);
                behind[22..28].copy_from_slice(&self.mac.0);
                let kind = if v6 { ethertype::IPV6 } else { ethertype::IPV4 };
                behind[28..30].copy_from_slice(&kind.to_be_bytes());
            }
        }
        self.sum_udp(b);
    }

    /// Where a message begins behind the outer headers of [`Wrap::write_around`].
    pub fn message_at(&self) -> usize {
        self.ip_len() + UDP
    }

    /// Writes the outer headers of a message that begins at [`Wrap::message_at`] of `b` and ends with it, from this UDP port of ours. Of the packet that was sealed
    /// nothing shows but `ecn`, its congestion bits.
    ///
    /// # Panics
    /// When `b` is shorter than the headers.
    pub fn write_around(&self, b: &mut [u8], from: u16, ecn: u8) {
        let (ip, total) = (self.ip_len(), b.len());
        self.write_ip(b, (ecn & CONGESTED, 0), protocol::UDP, total);
        b[ip..ip + 2].copy_from_slice(&from.to_be_bytes());
        b[ip + 2..ip + 4].copy_from_slice(&self.port.to_be_bytes());
        b[ip + 4..ip + 6].copy_from_slice(&((total - ip) as u16).to_be_bytes());
        b[ip + 6..ip + 8].fill(0);
        self.sum_udp(b);
    }

    /// The outer IP header of a packet of `total` bytes.
    fn write_ip(&self, front: &mut [u8], (class, entropy): (u8, u16), next: u8, total: usize) {
        match self.family() {
            Family::V4 => {
                let h = &mut front[..20];
                h.fill(0);
                (h[0], h[1]) = (0x45, class);
                h[2..4].copy_from_slice(&(total as u16).to_be_bytes());
                // Don't fragment; the identification may stay zero then (RFC 6864 section 4.1).
                (h[6], h[8], h[9]) = (0x40, 64, next);
                h[12..16].copy_from_slice(&self.src.0[12..]);
                h[16..20].copy_from_slice(&self.dst.0[12..]);
                let sum = Sum::default().add_bytes(h).checksum();
                h[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            Family::V6 => {
                let h = &mut front[..40];
                // The flow label is the tunnel's entropy, too (RFC 6438).
                h[..4].copy_from_slice(&(0x6000_0000 | u32::from(class) << 20 | u32::from(entropy)).to_be_bytes());
                h[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
                (h[6], h[7]) = (next, 64);
                h[8..24].copy_from_slice(&self.src.0);
                h[24..40].copy_from_slice(&self.dst.0);
            }
        }
    }

    fn sum_udp(&self, b: &mut [u8]) {
        if self.family() == Family::V6 {
            let ip = self.ip_len();
            // Without one, receivers drop it unless they were told otherwise (RFC 6935; Linux: udp6zerocsumrx).
            let sum = transport(self.src.octets(), self.dst.octets(), protocol::UDP, &b[ip..]);
            let sum = if sum == 0 { 0xffff } else { sum };
            b[ip + 6..ip + 8].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// Fourteen bits that are the same for all packets of a connection, in one direction: they become the outer source port, by which networks and cards
/// divide tunnels.
fn entropy(inner: &[u8], v6: bool) -> u16 {
    let (from, to, ports) = if v6 { (8, 24, 40) } else { (12, 16, usize::from(inner[0] & 15) * 4) };
    let word = |at: usize| inner.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let (from, to) = if v6 { (word(from) ^ word(from + 12), word(to) ^ word(to + 12)) } else { (word(from), word(to)) };
    let mixed = (u64::from(from) << 32 | u64::from(to)) ^ u64::from(word(ports)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 50) as u16
}

/// All tunnels of a version of the directory, by where they end.
#[derive(Debug)]
pub struct Tunnels {
    /// By endpoint and UDP port, 0 where there is none: the kind, and the address of a backend behind it. Few stand in one place.
    ends: ByAddress<Vec<(TunnelKind, Addr)>>,
    /// The same of those whose packets are sealed, by the UDP port that they come from.
    peers: ByAddress<Vec<Addr>>,
    none: bool,
    seals: bool,
    /// By family of the inner packet: the wraps that take most of it, of plain ones and of those that seal.
    overhead: [[Option<Wrap>; 2]; 2],
}

/// What was found in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// A packet.
    Packet(Opened),
    /// A message in which a packet may be sealed.
    Sealed(Message),
}

/// A message from where a tunnel ends whose packets are sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Where it comes from.
    pub from: End,
    /// The worker to whose port it goes.
    pub worker: usize,
    /// Where it begins in the frame.
    pub at: usize,
    /// Where it ends.
    pub end: usize,
    /// The outer packet met congestion.
    congested: bool,
}

impl Message {
    /// As if the packet that was sealed in it had been found plainly, at `at` of a frame.
    ///
    /// # Errors
    /// It is no packet.
    pub fn opened(&self, packet: &[u8], at: usize) -> Result<Opened, DropReason> {
        let family = family_of(packet.first())?;
        Ok(Opened { at, family, congested: self.congested, from: From::Sealed(self.from) })
    }
}

/// A packet that was found within another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Where it begins in the frame.
    pub at: usize,
    /// Of which family it is.
    pub family: Family,
    /// The outer one met congestion.
    congested: bool,
    from: From,
}

/// Out of which tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum From {
    Plain { addr: Addr, port: u16 },
    Sealed(End),
}

impl Tunnels {
    /// Also those of backends that are leaving.
    pub fn of(directory: &Directory) -> Tunnels {
        Tunnels::new(directory.backends().map(|b| (b.addr, b.tunnel.as_ref())))
    }

    /// Of backends' addresses and tunnels.
    pub fn new<'a>(backends: impl Iterator<Item = (SocketAddr, Option<&'a Tunnel>)>) -> Tunnels {
        let mut ends: BTreeMap<(Addr, u16), Vec<(TunnelKind, Addr)>> = BTreeMap::new();
        let mut peers: BTreeMap<(Addr, u16), Vec<Addr>> = BTreeMap::new();
        let mut overhead = [[None; 2]; 2];
        for (addr, tunnel) in backends {
            let Some(tunnel) = tunnel else { continue };
            let (end, inner) = (End::from(tunnel.endpoint), Addr::from(addr.ip()));
            if tunnel.seals().is_some() {
                let all = peers.entry((end.addr, end.port)).or_default();
                if !all.contains(&inner) {
                    all.push(inner);
                }
            } else {
                let all = ends.entry((end.addr, end.port)).or_default();
                if !all.contains(&(tunnel.kind, inner)) {
                    all.push((tunnel.kind, inner));
                }
            }
            let wrap = Wrap::new(tunnel, Addr::default(), Mac::default());
            let most: &mut Option<Wrap> = &mut overhead[inner.family() as usize][usize::from(tunnel.seals().is_some())];
            if most.is_none_or(|most| most.overhead() < wrap.overhead()) {
                *most = Some(wrap);
            }
        }
        let (none, seals) = (ends.is_empty() && peers.is_empty(), !peers.is_empty());
        Tunnels { none, seals, ends: ends.into(), peers: peers.into(), overhead }
    }

    /// There is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.none
    }

    /// How much less than `mtu` bytes a packet to a backend of a family may have, so that it fits through any tunnel.
    pub fn overhead(&self, family: Family, mtu: usize) -> usize {
        let wraps = self.overhead[family as usize].iter().flatten();
        wraps.map(|wrap| mtu.saturating_sub(wrap.room(mtu))).max().unwrap_or(0)
    }

    /// Finds the packet within the IP packet that begins behind a frame's Ethernet header. None: it is of no kind that anybody uses here.
    ///
    /// # Errors
    /// It is of such a kind, and comes from nobody that has a tunnel, or is not whole.
    pub fn open(&self, frame: &[u8], eth: &Ethernet) -> Result<Option<Found>, DropReason> {
        if self.none {
            return Ok(None);
        }
        let outer = Ip::parse(frame, eth.payload, eth.ethertype)?;
        let bytes = &frame[..outer.end];
        let (at, port, kind) = match outer.protocol {
            IPV4 | IPV6 => (outer.payload, 0, Some(TunnelKind::Ipip)),
            protocol::UDP => {
                let header = bytes.get(outer.payload..outer.payload + UDP).ok_or(DropReason::Truncated)?;
                if self.seals && (WIREGUARD_PORT..sealed_port(MAX_WORKERS)).contains(&be(header, 2)) {
                    return self.message(&outer, header, ecn(bytes, outer.header) == CONGESTED).map(Some);
                }
                (outer.payload + UDP, u16::from_be_bytes([header[2], header[3]]), None)
            }
            _ => return Ok(None),
        };
        let Some(behind) = self.ends.get(outer.src, port) else {
            let used = kind.is_some() || port == GUE_PORT || port == VXLAN_PORT;
            return if used { Err(DropReason::TunnelUnknown) } else { Ok(None) };
        };
        let (at, kind) = match kind {
            Some(kind) => (at, kind),
            None => {
                let (first, ..) = behind.first().ok_or(DropReason::TunnelUnknown)?;
                match first {
                    TunnelKind::Vxlan { .. } => vxlan(bytes, at)?,
                    _ => (gue(bytes, at)?, TunnelKind::Gue),
                }
            }
        };
        let known = |(one, _): &(TunnelKind, Addr)| match (one, kind) {
            // Of the backend's own address there nothing is known of what it sends.
            (TunnelKind::Vxlan { vni: one, .. }, TunnelKind::Vxlan { vni, .. }) => *one == vni,
            _ => *one == kind,
        };
        if !behind.iter().any(known) {
            return Err(DropReason::TunnelUnknown);
        }
        let family = family_of(bytes.get(at))?;
        let congested = ecn(bytes, outer.header) == CONGESTED;
        Ok(Some(Found::Packet(Opened { at, family, congested, from: From::Plain { addr: outer.src, port } })))
    }

    /// One that came to the UDP port of a worker of ours.
    fn message(&self, outer: &Ip, udp: &[u8], congested: bool) -> Result<Found, DropReason> {
        let from = End { addr: outer.src, port: be(udp, 0) };
        let worker = usize::from(be(udp, 2) - WIREGUARD_PORT);
        let (at, len) = (outer.payload + UDP, usize::from(be(udp, 4)));
        if self.peers.get(from.addr, from.port).is_none() {
            return Err(DropReason::TunnelUnknown);
        }
        let end = outer.payload + len;
        if len < UDP || end > outer.end {
            return Err(DropReason::TunnelMalformed);
        }
        Ok(Found::Sealed(Message { from, worker, at, end, congested }))
    }

    /// A packet that came out of a tunnel is of a backend behind it.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self, opened: &Opened, src: Addr) -> Result<(), DropReason> {
        let is_his = match opened.from {
            From::Plain { addr, port } => {
                self.ends.get(addr, port).is_some_and(|all| all.iter().any(|(_, inner)| *inner == src))
            }
            From::Sealed(end) => self.peers.get(end.addr, end.port).is_some_and(|all| all.contains(&src)),
        };
        if is_his { Ok(()) } else { Err(DropReason::TunnelForeign) }
    }

    /// What can be told, without keys, of whose a frame is.
    pub fn peek(&self, frame: &[u8], eth: &Ethernet) -> Option<Peeked> {
        let opened = match self.open(frame, eth).ok()?? {
            Found::Packet(opened) => opened,
            Found::Sealed(message) => return Some(Peeked::Worker(message.worker)),
        };
        let kind = if opened.family == Family::V4 { ethertype::IPV4 } else { ethertype::IPV6 };
        let inner = Ethernet { ethertype: kind, payload: opened.at, ..*eth };
        Some(Peeked::Packet(Parsed::behind(frame, inner)))
    }
}

/// What is told by [`Tunnels::peek`].
#[derive(Clone, Debug)]
pub enum Peeked {
    /// The headers of the packet within, as of a frame that begins with the outer one's Ethernet header and goes on with it. The offsets are those of the whole frame.
    Packet(Parsed),
    /// It is sealed, for this worker.
    Worker(usize),
}

fn be(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

/// Of a packet, by its first byte.
fn family_of(first: Option<&u8>) -> Result<Family, DropReason> {
    match first.map(|first| first >> 4) {
        Some(4) => Ok(Family::V4),
        Some(6) => Ok(Family::V6),
        _ => Err(DropReason::TunnelMalformed),
    }
}

/// Where the packet begins, behind a GUE header at `at`.
fn gue(b: &[u8], at: usize) -> Result<usize, DropReason> {
    let first = *b.get(at).ok_or(DropReason::TunnelMalformed)?;
    match first >> 6 {
        // No control message, and behind the optional fields, of which nothing is needed.
        0 if first & 0x20 == 0 => Ok(at + GUE + usize::from(first & 0x1f) * 4),
        // Variant 1: the packet itself.
        1 => Ok(at),
        _ => Err(DropReason::TunnelMalformed),
    }
}

/// Where the packet begins, behind a VXLAN header at `at`, and of which network it is.
fn vxlan(b: &[u8], at: usize) -> Result<(usize, TunnelKind), DropReason> {
    let header = b.get(at..at + VXLAN + ETHERNET).ok_or(DropReason::TunnelMalformed)?;
    let vni = u32::from_be_bytes([0, header[4], header[5], header[6]]);
    let inner = Ethernet::parse(&header[VXLAN..]).map_err(|_| DropReason::TunnelMalformed)?;
    // ARP and what else an Ethernet network has: there is nobody here but us.
    if header[0] & 8 == 0 || !matches!(inner.ethertype, ethertype::IPV4 | ethertype::IPV6) {
        return Err(DropReason::TunnelMalformed);
    }
    Ok((at + VXLAN + ETHERNET, TunnelKind::Vxlan { vni, mac: inner.src.0 }))
}

const CONGESTED: u8 = 3;

/// The congestion bits of an IP header.
fn ecn(b: &[u8], at: usize) -> u8 {
    if b[at] >> 4 == 6 { b[at + 1] >> 4 & 3 } else { b[at + 1] & 3 }
}

impl Opened {
    /// Tells the packet within, whose header begins at `at` of the frame now, of congestion that the outer one met (RFC 6040 section 4.2).
    ///
    /// # Errors
    /// Who sent it cannot be told so: then it is lost, as it would have been without ECN.
    pub fn pass_congestion(&self, b: &mut [u8], at: usize) -> Result<(), DropReason> {
        if !self.congested {
            return Ok(());
        }
        match (ecn(b, at), self.family) {
            (0, _) => Err(DropReason::TunnelCongested),
            (CONGESTED, _) => Ok(()),
            (_, Family::V4) => {
                let word = |b: &[u8], i: usize| u16::from_be_bytes([b[at + i], b[at + i + 1]]);
                let before = word(b, 0);
                b[at + 1] |= CONGESTED;
                let mut sum = Change::default();
                sum.word(before, word(b, 0));
                let new = sum.apply(word(b, 10));
                b[at + 10..at + 12].copy_from_slice(&new.to_be_bytes());
                Ok(())
            }
            (_, Family::V6) => {
                b[at + 1] |= CONGESTED << 4;
                Ok(())
            }
        }
    }
}
