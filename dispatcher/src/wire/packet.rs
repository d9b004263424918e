//! A frame's headers, checked once and lifted into a small struct of offsets and values.
//!
//! [`Packet::parse`] verifies every length before anything else reads the frame; whoever holds a [`Packet`] may then
//! index the same bytes by its offsets without fear. Bytes behind the IP packet (Ethernet padding) belong to nothing.

use super::addr::{Addr, Family};
use super::{Mac, Seq};

/// Why a frame has no usable headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// It ends before its headers, or before the length they give.
    Truncated,
    /// A field has a value that cannot be.
    Malformed,
    /// A piece of a fragmented packet.
    Fragment,
}

/// IP protocol numbers.
pub mod protocol {
    /// Internet Control Message Protocol.
    pub const ICMP: u8 = 1;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// Ethernet types.
pub mod ethertype {
    /// Internet Protocol version 4.
    pub const IPV4: u16 = 0x0800;
    /// Address Resolution Protocol.
    pub const ARP: u16 = 0x0806;
    /// IEEE 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// IEEE 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8;
    /// The service tag's type before 802.1ad had one.
    pub const QINQ_OLD: u16 = 0x9100;
    /// Internet Protocol version 6.
    pub const IPV6: u16 = 0x86dd;

    /// What a VLAN tag begins with. All that read tags go by this list.
    pub const TAGS: [u16; 3] = [VLAN, QINQ, QINQ_OLD];
}

/// Most VLAN tags of a frame.
pub const MAX_TAGS: usize = 2;

/// Up to two VLAN tags, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Vlans {
    /// Their control information.
    tags: [u16; MAX_TAGS],
    /// How many, in two bits; above them in two bits each, the first lowest: their types, as places in [`ethertype::TAGS`].
    kinds: u8,
}

impl Vlans {
    /// No tag.
    pub const NONE: Vlans = Vlans { tags: [0; MAX_TAGS], kinds: 0 };

    /// From VLAN ids, outermost first: one is a customer tag, of two the outer is a service tag. Ids beyond the
    /// second are ignored.
    pub fn from_ids(ids: &[u16]) -> Vlans {
        let mut v = Vlans::NONE;
        for (i, id) in ids.iter().take(2).enumerate() {
            let outer_of_two = i == 0 && ids.len() > 1;
            v.push(if outer_of_two { ethertype::QINQ } else { ethertype::VLAN }, id & 0x0fff);
        }
        v
    }

    fn push(&mut self, tpid: u16, tci: u16) {
        let at = self.count();
        let kind = ethertype::TAGS.iter().position(|tag| *tag == tpid).unwrap_or(0) as u8;
        self.tags[at] = tci;
        self.kinds = (self.kinds + 1) | kind << (2 + 2 * at);
    }

    #[inline]
    fn count(&self) -> usize {
        usize::from(self.kinds & 3)
    }

    /// The tags, each as type and control information.
    #[inline]
    pub fn tags(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        let kind = |at: usize| usize::from(self.kinds >> (2 + 2 * at) & 3);
        (0..self.count()).map(move |at| (ethertype::TAGS[kind(at) % ethertype::TAGS.len()], self.tags[at]))
    }

    /// Bytes they take in a frame.
    #[inline]
    pub fn len(&self) -> usize {
        self.count() * 4
    }

    /// No tag.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.kinds == 0
    }

    /// VLAN ids, outermost first.
    pub fn ids(&self) -> impl Iterator<Item = u16> + '_ {
        self.tags().map(|(_, tci)| tci & 0x0fff)
    }

    /// In five bytes, for [`Vlans::unpacked`].
    #[inline]
    pub fn packed(&self) -> (u8, [u16; MAX_TAGS]) {
        (self.kinds, self.tags)
    }

    /// They are no more than there can be.
    pub fn can_be(&self) -> bool {
        self.count() <= MAX_TAGS
    }

    /// What was [packed](Vlans::packed).
    #[inline]
    pub fn unpacked(kinds: u8, tags: [u16; MAX_TAGS]) -> Vlans {
        Vlans { tags, kinds }
    }
}

/// The Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ethernet {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// Tags.
    pub vlans: Vlans,
    /// Of the payload, behind the tags.
    pub ethertype: u16,
    /// Where the payload begins.
    pub payload: usize,
}

impl Ethernet {
    /// Reads the header and at most two tags.
    #[inline]
    pub fn parse(b: &[u8]) -> Result<Ethernet, WireError> {
        let Some(h) = b.first_chunk::<14>() else { return Err(WireError::Truncated) };
        let dst = Mac([h[0], h[1], h[2], h[3], h[4], h[5]]);
        let src = Mac([h[6], h[7], h[8], h[9], h[10], h[11]]);
        let mut ethertype = u16::from_be_bytes([h[12], h[13]]);
        let mut vlans = Vlans::NONE;
        let mut payload = 14;
        while ethertype::TAGS.contains(&ethertype) {
            let Some(t) = b.get(payload..payload + 4) else { return Err(WireError::Truncated) };
            if vlans.count() == MAX_TAGS {
                return Err(WireError::Malformed);
            }
            vlans.push(ethertype, u16::from_be_bytes([t[0], t[1]]));
            ethertype = u16::from_be_bytes([t[2], t[3]]);
            payload += 4;
        }
        Ok(Ethernet { dst, src, vlans, ethertype, payload })
    }
}

/// The IP header: addresses, and where the packet's payload lies in the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ip {
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// Version 4 or 6.
    pub family: Family,
    /// Of the payload; for IPv6 behind its extension headers.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Where the IP header begins in the frame.
    pub header: usize,
    /// Where its payload begins.
    pub payload: usize,
    /// Where the IP packet ends; padding follows.
    pub end: usize,
}

impl Ip {
    /// Reads an IP header of either version at `at`; `end` bytes of `b` are the frame's.
    #[inline]
    pub fn parse(b: &[u8], at: usize, ethertype: u16) -> Result<Ip, WireError> {
        match ethertype {
            ethertype::IPV4 => Ip::parse_v4(b, at),
            ethertype::IPV6 => Ip::parse_v6(b, at),
            _ => Err(WireError::Malformed),
        }
    }

    fn parse_v4(b: &[u8], at: usize) -> Result<Ip, WireError> {
        let Some(h) = b.get(at..).and_then(|b| b.first_chunk::<20>()) else { return Err(WireError::Truncated) };
        let header_len = usize::from(h[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([h[2], h[3]]));
        if h[0] >> 4 != 4 || header_len < 20 || total < header_len {
            return Err(WireError::Malformed);
        }
        if at + total > b.len() {
            return Err(WireError::Truncated);
        }
        // More fragments, or a fragment offset: not a whole packet. "Don't fragment" and the reserved bit are.
        if u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0 {
            return Err(WireError::Fragment);
        }
        Ok(Ip {
            src: Addr::v4([h[12], h[13], h[14], h[15]]),
            dst: Addr::v4([h[16], h[17], h[18], h[19]]),
            family: Family::V4,
            protocol: h[9],
            ttl: h[8],
            header: at,
            payload: at + header_len,
            end: at + total,
        })
    }

    fn parse_v6(b: &[u8], at: usize) -> Result<Ip, WireError> {
        let Some(h) = b.get(at..).and_then(|b| b.first_chunk::<40>()) else { return Err(WireError::Truncated) };
        if h[0] >> 4 != 6 {
            return Err(WireError::Malformed);
        }
        let end = at + 40 + usize::from(u16::from_be_bytes([h[4], h[5]]));
        if end > b.len() {
            return Err(WireError::Truncated);
        }
        let addr = |i: usize| {
            let mut a = [0; 16];
            a.copy_from_slice(&h[i..i + 16]);
            Addr(a)
        };
        let (src, dst) = (addr(8), addr(24));
        if src.family() == Family::V4 || dst.family() == Family::V4 {
            // Mapped addresses never appear on the wire (RFC 4038 section 4.2), and would alias IPv4 in our tables.
            return Err(WireError::Malformed);
        }
        let (mut protocol, mut payload) = (h[6], at + 40);
        // Extension headers (RFC 8200 section 4). Eight are more than anyone sends.
        for _ in 0..8 {
            match protocol {
                // Hop-by-hop, routing, destination options: skipped.
                0 | 43 | 60 => {
                    let Some(e) = b[..end].get(payload..payload + 2) else { return Err(WireError::Truncated) };
                    protocol = e[0];
                    payload += 8 + usize::from(e[1]) * 8;
                    if payload > end {
                        return Err(WireError::Truncated);
                    }
                }
                44 => return Err(WireError::Fragment),
                _ => return Ok(Ip { src, dst, family: Family::V6, protocol, ttl: h[7], header: at, payload, end }),
            }
        }
        Err(WireError::Malformed)
    }
}

/// TCP flags (RFC 9293 section 3.1; ECE and CWR: RFC 3168).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgement field counts.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer is of meaning.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo.
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced.
    pub const CWR: Flags = Flags(0x80);

    /// All of `other`'s flags are set.
    #[inline]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Any of `other`'s flags is set.
    #[inline]
    pub const fn intersects(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// All flags of both.
    #[inline]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// The TCP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tcp {
    /// Where it begins in the frame.
    pub header: usize,
    /// Where its payload begins.
    pub payload: usize,
    /// Where its payload ends.
    pub end: usize,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number of the first payload byte (or of SYN).
    pub seq: Seq,
    /// Acknowledgement number.
    pub ack: Seq,
    /// Flags.
    pub flags: Flags,
    /// Window field, as sent.
    pub window: u16,
}

/// The urgent pointer of a segment.
pub fn urgent_pointer(b: &[u8], tcp: &Tcp) -> u16 {
    u16::from_be_bytes([b[tcp.header + 18], b[tcp.header + 19]])
}

/// Makes the segment in the frame `b`, whose TCP header begins at `tcp`, point to urgent data: flag, pointer and checksum.
pub fn set_urgent_pointer(b: &mut [u8], tcp: usize, pointer: u16) {
    let t = &mut b[tcp..tcp + 20];
    let word = |t: &[u8], at: usize| u16::from_be_bytes([t[at], t[at + 1]]);
    let (flags, before) = (word(t, 12), word(t, 18));
    t[13] |= Flags::URG.0;
    t[18..20].copy_from_slice(&pointer.to_be_bytes());
    let mut sum = super::checksum::Change::default();
    sum.word(flags, word(t, 12));
    sum.word(before, pointer);
    let new = sum.apply(word(t, 16));
    t[16..18].copy_from_slice(&new.to_be_bytes());
}

impl Tcp {
    /// Reads the TCP header of an IP packet.
    #[inline]
    pub fn parse(b: &[u8], ip: &Ip) -> Result<Tcp, WireError> {
        let at = ip.payload;
        let Some(h) = b[..ip.end].get(at..).and_then(|b| b.first_chunk::<20>()) else {
            return Err(WireError::Truncated);
        };
        let header_len = usize::from(h[12] >> 4) * 4;
        if header_len < 20 {
            return Err(WireError::Malformed);
        }
        if at + header_len > ip.end {
            return Err(WireError::Truncated);
        }
        Ok(Tcp {
            header: at,
            payload: at + header_len,
            end: ip.end,
            src_port: u16::from_be_bytes([h[0], h[1]]),
            dst_port: u16::from_be_bytes([h[2], h[3]]),
            seq: Seq(u32::from_be_bytes([h[4], h[5], h[6], h[7]])),
            ack: Seq(u32::from_be_bytes([h[8], h[9], h[10], h[11]])),
            flags: Flags(h[13]),
            window: u16::from_be_bytes([h[14], h[15]]),
        })
    }

    /// Payload bytes.
    #[inline]
    pub fn payload_len(&self) -> usize {
        self.end - self.payload
    }

    /// Sequence space taken: payload, and one each for SYN and FIN.
    #[inline]
    pub fn seq_len(&self) -> u32 {
        self.payload_len() as u32
            + u32::from(self.flags.contains(Flags::SYN))
            + u32::from(self.flags.contains(Flags::FIN))
    }

    /// The sequence number behind this segment.
    #[inline]
    pub fn seq_end(&self) -> Seq {
        self.seq + self.seq_len()
    }

    /// SYN without ACK, RST or FIN.
    #[inline]
    pub fn is_bare_syn(&self) -> bool {
        self.flags.0 & 0x17 == Flags::SYN.0
    }
}

/// Ethernet and IP headers of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Link layer.
    pub eth: Ethernet,
    /// Network layer.
    pub ip: Ip,
}

impl Packet {
    /// The headers of a frame that carries IP of either version.
    #[inline]
    pub fn parse(b: &[u8]) -> Result<Packet, WireError> {
        let eth = Ethernet::parse(b)?;
        Ok(Packet { eth, ip: Ip::parse(b, eth.payload, eth.ethertype)? })
    }
}

/// A frame's headers, read once: by whoever asks first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed {
    /// Link layer.
    pub eth: Ethernet,
    /// What it carries, or why that cannot be read.
    pub body: Result<Body, WireError>,
}

/// A frame's headers, or why it has none.
pub type Headers = Result<Parsed, WireError>;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// A TCP segment.
    Tcp(Ip, Tcp),
    /// An ICMP message, of either version.
    Icmp(Ip),
    /// An ARP packet.
    Arp,
    /// Something that nobody here speaks.
    Other,
}

impl Parsed {
    /// Reads all headers.
    #[inline]
    pub fn read(b: &[u8]) -> Headers {
        let eth = Ethernet::parse(b)?;
        Ok(Parsed::behind(b, eth))
    }

    /// Reads what follows a link header that is known.
    #[inline]
    pub fn behind(b: &[u8], eth: Ethernet) -> Parsed {
        Parsed { eth, body: Body::read(b, &eth) }
    }
}

impl Body {
    #[inline]
    fn read(b: &[u8], eth: &Ethernet) -> Result<Body, WireError> {
        match eth.ethertype {
            ethertype::IPV4 | ethertype::IPV6 => {}
            ethertype::ARP => return Ok(Body::Arp),
            _ => return Ok(Body::Other),
        }
        let ip = Ip::parse(b, eth.payload, eth.ethertype)?;
        match ip.protocol {
            protocol::TCP => Ok(Body::Tcp(ip, Tcp::parse(b, &ip)?)),
            protocol::ICMP | protocol::ICMPV6 => Ok(Body::Icmp(ip)),
            _ => Ok(Body::Other),
        }
    }
}

/// The TCP checksum over pseudo header and segment fits.
pub fn tcp_checksum_ok(b: &[u8], ip: &Ip) -> bool {
    super::checksum::tcp(&ip.src, &ip.dst, &b[ip.payload..ip.end]) == 0
}
