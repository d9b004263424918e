//! A recorded frame's addresses, ports and payload.
//!
//! Captures hold what a live port never meets: frames cut by the recorder, link layers other than Ethernet, tunnels (`layers`), IP lengths
//! of zero (a segment that the NIC was yet to cut), stacks of tags. So this reader forgives where `wire`, which must
//! refuse, does not; nothing here is on the packet's path.

pub(super) mod layers;

use crate::capture::{LinkType, RecordedFrame};
use crate::wire::Seq;
use crate::wire::packet::protocol;
use arrayvec::ArrayVec;
use layers::{Located, locate};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Most VLAN tags kept; deeper ones are read over.
pub const MAX_VLANS: usize = 8;

/// Why there is nothing to be read in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Undecoded {
    /// ARP, LLDP, IEEE 802.3 and what else is no IP; with its EtherType, where there is one.
    NotIp(Option<u16>),
    /// IP, but neither TCP nor UDP: which protocol.
    OtherProtocol(u8),
    /// A piece of a fragmented IP packet.
    Fragment,
    /// It ends before its headers do.
    Truncated,
    /// A header field that cannot be.
    Malformed,
    /// A link layer that is not read here.
    LinkType(LinkType),
}

impl Undecoded {
    /// For reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Undecoded::NotIp(_) => "not-ip",
            Undecoded::OtherProtocol(_) => "other-protocol",
            Undecoded::Fragment => "ip-fragment",
            Undecoded::Truncated => "truncated",
            Undecoded::Malformed => "malformed",
            Undecoded::LinkType(_) => "link-type",
        }
    }
}

/// A TCP segment or UDP datagram.
#[derive(Clone, Debug)]
pub struct Decoded<'a> {
    /// VLAN ids, outermost first.
    pub vlans: ArrayVec<u16, MAX_VLANS>,
    /// Sender.
    pub src: SocketAddr,
    /// Receiver.
    pub dst: SocketAddr,
    /// What it carries.
    pub transport: Transport<'a>,
}

/// The transport header and payload.
#[derive(Clone, Copy, Debug)]
pub enum Transport<'a> {
    /// A segment.
    Tcp(Segment<'a>),
    /// A datagram's payload.
    Udp {
        /// As far as recorded.
        payload: &'a [u8],
        /// Bytes of it that the recorder cut off.
        missing: usize,
    },
}

/// A TCP segment (RFC 9293, 3.1). Its checksum is not looked at: recorders see frames before the NIC has filled it in.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Of the first byte of the payload, or of the SYN.
    pub seq: Seq,
    /// When the ACK flag is set.
    pub ack: Option<Seq>,
    /// SYN, FIN and the like, as in the header.
    pub flags: u8,
    /// As in the header, not scaled.
    pub window: u16,
    /// Behind the fixed header.
    pub options: &'a [u8],
    /// As far as recorded, without what the link layer padded.
    pub payload: &'a [u8],
    /// Bytes of the payload that the recorder cut off.
    pub missing: usize,
}

impl Segment<'_> {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;

    /// A flag.
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Reads one frame.
pub fn decode<'a>(frame: &RecordedFrame<'a>) -> Result<Decoded<'a>, Undecoded> {
    let Located { vlans, ip, .. } = locate(frame.link, frame.bytes, frame.original_len)?;
    let IpParts { src, dst, protocol, body, missing, .. } = ip?;
    let (ports, transport) = match protocol {
        protocol::TCP => tcp(body, missing)?,
        protocol::UDP => udp(body, missing)?,
        _ => return Err(Undecoded::OtherProtocol(protocol)),
    };
    Ok(Decoded { vlans, src: SocketAddr::new(src, ports.0), dst: SocketAddr::new(dst, ports.1), transport })
}

fn be16(b: &[u8], at: usize) -> Result<u16, Undecoded> {
    match b.get(at..at + 2) {
        Some(v) => Ok(u16::from_be_bytes([v[0], v[1]])),
        None => Err(Undecoded::Truncated),
    }
}

/// An IP packet's header, and what is behind it.
#[derive(Clone, Copy)]
pub struct IpParts<'a> {
    src: IpAddr,
    dst: IpAddr,
    /// Of the body.
    protocol: u8,
    /// Bytes before the body.
    header: usize,
    body: &'a [u8],
    /// Bytes of the body that the recorder cut off.
    missing: usize,
}

fn ipv4(b: &[u8], wire_len: usize) -> Result<IpParts<'_>, Undecoded> {
    let Some(h) = b.first_chunk::<20>() else { return Err(Undecoded::Truncated) };
    let header = usize::from(h[0] & 15) * 4;
    if h[0] >> 4 != 4 || header < 20 {
        return Err(Undecoded::Malformed);
    }
    let total = match usize::from(u16::from_be_bytes([h[2], h[3]])) {
        // Recorded before segmentation by the NIC: the frame's own length is all there is.
        0 => wire_len,
        total if total < header => return Err(Undecoded::Malformed),
        total => total,
    };
    // More-fragments, or an offset.
    if u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0 {
        return Err(Undecoded::Fragment);
    }
    let src = Ipv4Addr::new(h[12], h[13], h[14], h[15]);
    let dst = Ipv4Addr::new(h[16], h[17], h[18], h[19]);
    let Some(body) = b.get(header..total.min(b.len())) else { return Err(Undecoded::Truncated) };
    let missing = total - header - body.len();
    Ok(IpParts { src: src.into(), dst: dst.into(), protocol: h[9], header, body, missing })
}

fn ipv6(b: &[u8], wire_len: usize) -> Result<IpParts<'_>, Undecoded> {
    let Some(h) = b.first_chunk::<40>() else { return Err(Undecoded::Truncated) };
    if h[0] >> 4 != 6 {
        return Err(Undecoded::Malformed);
    }
    let total = match usize::from(u16::from_be_bytes([h[4], h[5]])) {
        // A jumbogram (RFC 2675) or one recorded before segmentation.
        0 => wire_len,
        payload => 40 + payload,
    };
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&h[at..at + 16]);
        Ipv6Addr::from(octets)
    };
    let (src, dst) = (address(8), address(24));
    let packet = &b[..total.min(b.len())];
    let (mut next, mut at) = (h[6], 40);
    // Each extension header is at least eight bytes long, so the packet's own length ends this.
    loop {
        let extension = |i: usize| packet.get(at + i).copied().ok_or(Undecoded::Truncated);
        let len = match next {
            // Hop-by-hop options, routing, destination options, mobility, host identity, Shim6 (RFC 8200, 4; RFC 7045).
            0 | 43 | 60 | 135 | 139 | 140 => (usize::from(extension(1)?) + 1) * 8,
            // Authentication counts in units of four (RFC 4302).
            51 => (usize::from(extension(1)?) + 2) * 4,
            44 => {
                // An "atomic" fragment is a whole packet (RFC 6946).
                if u16::from_be_bytes([extension(2)?, extension(3)?]) & 0xfff9 != 0 {
                    return Err(Undecoded::Fragment);
                }
                8
            }
            _ => break,
        };
        next = extension(0)?;
        at += len;
    }
    let Some(body) = packet.get(at..) else { return Err(Undecoded::Truncated) };
    let missing = total.saturating_sub(at + body.len());
    Ok(IpParts { src: src.into(), dst: dst.into(), protocol: next, header: at, body, missing })
}

fn tcp(b: &[u8], missing: usize) -> Result<((u16, u16), Transport<'_>), Undecoded> {
    let Some(h) = b.first_chunk::<20>() else { return Err(Undecoded::Truncated) };
    let header = usize::from(h[12] >> 4) * 4;
    if header < 20 {
        return Err(Undecoded::Malformed);
    }
    let Some((head, payload)) = b.split_at_checked(header) else {
        return Err(if missing > 0 { Undecoded::Truncated } else { Undecoded::Malformed });
    };
    let word = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    let flags = h[13];
    let segment = Segment {
        seq: Seq(word(4)),
        ack: (flags & Segment::ACK != 0).then(|| Seq(word(8))),
        flags,
        window: u16::from_be_bytes([h[14], h[15]]),
        options: &head[20..],
        payload,
        missing,
    };
    Ok(((u16::from_be_bytes([h[0], h[1]]), u16::from_be_bytes([h[2], h[3]])), Transport::Tcp(segment)))
}

fn udp(b: &[u8], missing: usize) -> Result<((u16, u16), Transport<'_>), Undecoded> {
    let Some((h, payload)) = b.split_first_chunk::<8>() else { return Err(Undecoded::Truncated) };
    let len = usize::from(u16::from_be_bytes([h[4], h[5]]));
    // Zero: a jumbogram, or recorded before segmentation.
    let (payload, missing) = match len {
        0 => (payload, missing),
        1..8 => return Err(Undecoded::Malformed),
        _ => {
            let kept = payload.len().min(len - 8);
            (&payload[..kept], (len - 8 - kept).min(missing))
        }
    };
    let ports = (u16::from_be_bytes([h[0], h[1]]), u16::from_be_bytes([h[2], h[3]]));
    Ok((ports, Transport::Udp { payload, missing }))
}

#[cfg(test)]
mod tests;
