//! Writes whole frames of our own: TCP segments, ARP, NDP, ICMP echo.

use super::addr::{Addr, Family};
use super::checksum::{self, Sum};
use super::packet::{Flags, Vlans, ethertype, protocol};
use super::{Mac, Seq};

/// The longest headers of ours: Ethernet with two tags, IPv6, TCP with full options.
pub const MAX_HEADERS: usize = 14 + 8 + 40 + 60;

/// The link layer of a frame of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// Tags.
    pub vlans: Vlans,
}

impl Link {
    /// Writes the header; returns its length, [`Link::len`].
    pub fn write(&self, b: &mut [u8], ethertype: u16) -> usize {
        b[..6].copy_from_slice(&self.dst.0);
        b[6..12].copy_from_slice(&self.src.0);
        let mut at = 12;
        for (tpid, tci) in self.vlans.tags() {
            b[at..at + 2].copy_from_slice(&tpid.to_be_bytes());
            b[at + 2..at + 4].copy_from_slice(&tci.to_be_bytes());
            at += 4;
        }
        b[at..at + 2].copy_from_slice(&ethertype.to_be_bytes());
        at + 2
    }

    /// Bytes the header takes.
    #[expect(clippy::len_without_is_empty, reason = "there is always a header")]
    pub fn len(&self) -> usize {
        14 + self.vlans.len()
    }
}

/// A TCP segment of ours.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Link layer.
    pub link: Link,
    /// Source address and port.
    pub src: (Addr, u16),
    /// Destination address and port; of the same family.
    pub dst: (Addr, u16),
    /// Sequence number.
    pub seq: Seq,
    /// Acknowledgement number; sent as is.
    pub ack: Seq,
    /// Flags.
    pub flags: Flags,
    /// Window field.
    pub window: u16,
    /// Option bytes, a multiple of four, at most 40.
    pub options: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// Bytes the frame takes.
    pub fn frame_len(&self) -> usize {
        let ip = if self.src.0.family() == Family::V4 { 20 } else { 40 };
        self.link.len() + ip + 20 + self.options.len() + self.payload.len()
    }

    /// Writes the frame with both checksums; returns its length.
    ///
    /// # Panics
    /// When `b` is shorter than [`Segment::frame_len`].
    pub fn write(&self, b: &mut [u8]) -> usize {
        debug_assert!(self.options.len().is_multiple_of(4), "options are padded");
        let tcp_len = 20 + self.options.len() + self.payload.len();
        let at = write_ip(b, &self.link, self.src.0, self.dst.0, protocol::TCP, 64, tcp_len);
        let t = &mut b[at..at + tcp_len];
        t[..2].copy_from_slice(&self.src.1.to_be_bytes());
        t[2..4].copy_from_slice(&self.dst.1.to_be_bytes());
        t[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        t[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        t[12] = (((20 + self.options.len()) / 4) << 4) as u8;
        t[13] = self.flags.0;
        t[14..16].copy_from_slice(&self.window.to_be_bytes());
        t[16..20].fill(0);
        // By four: options are few, and a copy of any length is a call.
        for (to, from) in t[20..].as_chunks_mut::<4>().0.iter_mut().zip(self.options.as_chunks::<4>().0) {
            *to = *from;
        }
        if !self.payload.is_empty() {
            t[20 + self.options.len()..].copy_from_slice(self.payload);
        }
        let sum = checksum::tcp(&self.src.0, &self.dst.0, t);
        t[16..18].copy_from_slice(&sum.to_be_bytes());
        at + tcp_len
    }
}

/// Writes Ethernet and IP headers for a payload of `len` bytes; returns where the payload begins.
fn write_ip(b: &mut [u8], link: &Link, src: Addr, dst: Addr, protocol: u8, ttl: u8, len: usize) -> usize {
    match src.family() {
        Family::V4 => {
            let at = link.write(b, ethertype::IPV4);
            let h = &mut b[at..at + 20];
            h.fill(0);
            h[0] = 0x45;
            h[2..4].copy_from_slice(&((20 + len) as u16).to_be_bytes());
            // Don't fragment. With it the identification may stay zero (RFC 6864 section 4.1).
            h[6] = 0x40;
            h[8] = ttl;
            h[9] = protocol;
            h[12..16].copy_from_slice(&src.0[12..]);
            h[16..20].copy_from_slice(&dst.0[12..]);
            let sum = Sum::default().add_bytes(h).checksum();
            h[10..12].copy_from_slice(&sum.to_be_bytes());
            at + 20
        }
        Family::V6 => {
            let at = link.write(b, ethertype::IPV6);
            let h = &mut b[at..at + 40];
            h[..4].copy_from_slice(&[0x60, 0, 0, 0]);
            h[4..6].copy_from_slice(&(len as u16).to_be_bytes());
            h[6] = protocol;
            h[7] = ttl;
            h[8..24].copy_from_slice(&src.0);
            h[24..40].copy_from_slice(&dst.0);
            at + 40
        }
    }
}

/// ARP operations (RFC 826).
pub mod arp_op {
    /// Who has it?
    pub const REQUEST: u16 = 1;
    /// I have it.
    pub const REPLY: u16 = 2;
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// [`arp_op`].
    pub op: u16,
    /// Sender's Ethernet address.
    pub sender_mac: Mac,
    /// Sender's address.
    pub sender: Addr,
    /// Target's Ethernet address.
    pub target_mac: Mac,
    /// Target's address.
    pub target: Addr,
}

impl Arp {
    /// Reads what follows the Ethernet header; none when it is not IPv4 over Ethernet or too short.
    pub fn parse(b: &[u8]) -> Option<Arp> {
        let b = b.first_chunk::<28>()?;
        if b[..6] != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let mac = |i: usize| Mac([b[i], b[i + 1], b[i + 2], b[i + 3], b[i + 4], b[i + 5]]);
        let ip = |i: usize| Addr::v4([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        Some(Arp {
            op: u16::from_be_bytes([b[6], b[7]]),
            sender_mac: mac(8),
            sender: ip(14),
            target_mac: mac(18),
            target: ip(24),
        })
    }

    /// Writes the frame; returns its length.
    pub fn write(&self, b: &mut [u8], link: &Link) -> usize {
        let at = link.write(b, ethertype::ARP);
        let a = &mut b[at..at + 28];
        a[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
        a[6..8].copy_from_slice(&self.op.to_be_bytes());
        a[8..14].copy_from_slice(&self.sender_mac.0);
        a[14..18].copy_from_slice(self.sender.octets());
        a[18..24].copy_from_slice(&self.target_mac.0);
        a[24..28].copy_from_slice(self.target.octets());
        at + 28
    }
}

/// ICMPv6 types of neighbour discovery (RFC 4861).
pub mod ndp_type {
    /// Who has it?
    pub const SOLICITATION: u8 = 135;
    /// I have it.
    pub const ADVERTISEMENT: u8 = 136;
}

/// A neighbour solicitation or advertisement with its one link-layer address option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ndp {
    /// [`ndp_type`].
    pub kind: u8,
    /// Flags of an advertisement: 0x40 solicited, 0x20 override.
    pub flags: u8,
    /// The address in question.
    pub target: Addr,
    /// Source (solicitation) or target (advertisement) link-layer address.
    pub mac: Option<Mac>,
}

impl Ndp {
    /// Reads an ICMPv6 message of one of the two types; none when it is misshapen or about an IPv4-mapped address.
    pub fn parse(icmp: &[u8]) -> Option<Ndp> {
        let h = icmp.first_chunk::<24>()?;
        if !matches!(h[0], ndp_type::SOLICITATION | ndp_type::ADVERTISEMENT) || h[1] != 0 {
            return None;
        }
        let mut target = Addr::default();
        target.0.copy_from_slice(&h[8..24]);
        if target.family() != Family::V6 {
            // A mapped address is IPv4's, which ARP speaks about.
            return None;
        }
        let want = if h[0] == ndp_type::SOLICITATION { 1 } else { 2 };
        let (mut mac, mut rest) = (None, &icmp[24..]);
        while let [kind, units, ..] = *rest {
            let len = usize::from(units) * 8;
            if len == 0 || len > rest.len() {
                break;
            }
            if kind == want && len == 8 {
                mac = Some(Mac([rest[2], rest[3], rest[4], rest[5], rest[6], rest[7]]));
            }
            rest = &rest[len..];
        }
        Some(Ndp { kind: h[0], flags: h[4] & 0xe0, target, mac })
    }

    /// Writes the frame with hop limit 255, as receivers demand; returns its length.
    pub fn write(&self, b: &mut [u8], link: &Link, src: Addr, dst: Addr) -> usize {
        let len = 24 + if self.mac.is_some() { 8 } else { 0 };
        let at = write_ip(b, link, src, dst, protocol::ICMPV6, 255, len);
        let p = &mut b[at..at + len];
        p.fill(0);
        p[0] = self.kind;
        p[4] = self.flags;
        p[8..24].copy_from_slice(&self.target.0);
        if let Some(mac) = self.mac {
            p[24] = if self.kind == ndp_type::SOLICITATION { 1 } else { 2 };
            p[25] = 1;
            p[26..32].copy_from_slice(&mac.0);
        }
        let sum = checksum::transport(&src.0, &dst.0, protocol::ICMPV6, p);
        p[2..4].copy_from_slice(&sum.to_be_bytes());
        at + len
    }
}

/// The solicited-node group of an address (RFC 4291 section 2.7.1) and its Ethernet address (RFC 2464 section 7).
pub fn solicited_node(a: Addr) -> (Addr, Mac) {
    let [x, y, z] = [a.0[13], a.0[14], a.0[15]];
    (Addr([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z]), Mac([0x33, 0x33, 0xff, x, y, z]))
}

#[cfg(test)]
mod tests {
    use super::super::packet::{Packet, Tcp, tcp_checksum_ok};
    use super::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn addr(s: &str) -> Addr {
        s.parse::<std::net::IpAddr>().unwrap().into()
    }

    fn segment<'a>(src: &str, dst: &str, vlans: &[u16], payload: &'a [u8]) -> Segment<'a> {
        Segment {
            link: Link { dst: B, src: A, vlans: Vlans::from_ids(vlans) },
            src: (addr(src), 41022),
            dst: (addr(dst), 443),
            seq: Seq(0xffff_fff0),
            ack: Seq(7),
            flags: Flags::ACK.with(Flags::PSH),
            window: 501,
            options: &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            payload,
        }
    }

    #[test]
    fn smoltcp_reads_the_segments_we_write() {
        for (s, d) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let seg = segment(s, d, &[], b"hello");
            let mut b = [0u8; 200];
            let n = seg.write(&mut b);
            assert_eq!(n, seg.frame_len());
            let eth = EthernetFrame::new_checked(&b[..n]).unwrap();
            let (src, dst) = (smol(seg.src.0), smol(seg.dst.0));
            let tcp_bytes = match seg.src.0.family() {
                Family::V4 => {
                    let ip = Ipv4Packet::new_checked(eth.payload()).unwrap();
                    assert!(ip.verify_checksum() && ip.next_header() == IpProtocol::Tcp && ip.dont_frag());
                    ip.payload().to_vec()
                }
                Family::V6 => Ipv6Packet::new_checked(eth.payload()).unwrap().payload().to_vec(),
            };
            let tcp = TcpPacket::new_checked(&tcp_bytes[..]).unwrap();
            assert!(tcp.verify_checksum(&src, &dst));
            let r = TcpRepr::parse(&tcp, &src, &dst, &ChecksumCapabilities::default()).unwrap();
            assert_eq!((r.src_port, r.dst_port, r.window_len, r.payload), (41022, 443, 501, &b"hello"[..]));
            assert_eq!((r.seq_number.0 as u32, r.ack_number.unwrap().0), (0xffff_fff0, 7));
            assert_eq!(r.timestamp.unwrap().tsval, 1);
        }
    }

    fn smol(a: Addr) -> IpAddress {
        a.ip().into()
    }

    #[test]
    fn what_is_written_is_read_back_behind_any_tags_and_before_padding() {
        for vlans in [&[][..], &[100], &[300, 40]] {
            for (s, d) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
                let seg = segment(s, d, vlans, b"abc");
                let mut b = [0xeeu8; 200];
                let n = seg.write(&mut b) + 9;
                let p = Packet::parse(&b[..n]).unwrap();
                assert!(p.eth.vlans.ids().eq(vlans.iter().copied()));
                assert_eq!((p.ip.src, p.ip.dst), (seg.src.0, seg.dst.0));
                assert!(tcp_checksum_ok(&b, &p.ip));
                let t = Tcp::parse(&b, &p.ip).unwrap();
                assert_eq!(&b[t.payload..t.end], b"abc");
                assert_eq!((t.seq, t.ack, t.flags, t.window), (seg.seq, seg.ack, seg.flags, 501));
                for cut in 0..n - 9 {
                    assert!(Packet::parse(&b[..cut]).is_err(), "cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn smoltcp_reads_our_arp_and_we_read_its() {
        let arp = Arp {
            op: arp_op::REQUEST,
            sender_mac: A,
            sender: addr("10.0.0.1"),
            target_mac: Mac::default(),
            target: addr("10.0.0.2"),
        };
        let mut b = [0u8; 64];
        let n = arp.write(&mut b, &Link { dst: Mac::BROADCAST, src: A, vlans: Vlans::NONE });
        let eth = EthernetFrame::new_checked(&b[..n]).unwrap();
        let repr = ArpRepr::parse(&ArpPacket::new_checked(eth.payload()).unwrap()).unwrap();
        let want = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(A.0),
            source_protocol_addr: "10.0.0.1".parse().unwrap(),
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: "10.0.0.2".parse().unwrap(),
        };
        assert_eq!(repr, want);
        assert_eq!(Arp::parse(&b[14..n]), Some(arp));
    }

    #[test]
    fn smoltcp_reads_our_neighbour_discovery() {
        let (src, target) = (addr("fd00::1"), addr("fd00::22:3344"));
        let (group, mac) = solicited_node(target);
        assert_eq!((group, mac), (addr("ff02::1:ff22:3344"), Mac([0x33, 0x33, 0xff, 0x22, 0x33, 0x44])));
        for (kind, flags, to) in [(ndp_type::SOLICITATION, 0, group), (ndp_type::ADVERTISEMENT, 0x60, addr("fd00::9"))]
        {
            let ndp = Ndp { kind, flags, target, mac: Some(A) };
            let mut b = [0u8; 100];
            let n = ndp.write(&mut b, &Link { dst: mac, src: A, vlans: Vlans::NONE }, src, to);
            let ip = Ipv6Packet::new_checked(&b[14..n]).unwrap();
            assert_eq!(ip.hop_limit(), 255);
            let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
            assert!(icmp.verify_checksum(&ip.src_addr(), &ip.dst_addr()));
            match NdiscRepr::parse(&icmp).unwrap() {
                NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
                    assert_eq!(
                        (IpAddress::from(target_addr), lladdr),
                        (smol(target), Some(EthernetAddress(A.0).into()))
                    );
                }
                NdiscRepr::NeighborAdvert { flags, target_addr, lladdr } => {
                    assert_eq!(
                        (IpAddress::from(target_addr), lladdr),
                        (smol(target), Some(EthernetAddress(A.0).into()))
                    );
                    assert_eq!(flags, NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE);
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(Ndp::parse(ip.payload()), Some(ndp));
        }
    }
}
