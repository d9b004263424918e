//! What lies between the beginning of a recorded frame and the IP packet that is meant.
//!
//! Captures are taken where operators can take them: on access lines (PPPoE, PPP), in provider networks (MPLS), behind switches that tag (Cisco
//! SGT), and by mirrors that send what they saw in a tunnel (ERSPAN in GRE, VXLAN, Geneve, GTP). Each layer here is stepped over, up to [`MOST`]
//! of them, so that nobody spends more on a frame than its length allows. A tunnel over UDP is one only if what it carries is a TCP or UDP packet: the port alone is a
//! guess.

use super::{IpParts, MAX_VLANS, Undecoded, be16, ipv4, ipv6};
use crate::capture::LinkType;
use crate::wire::packet::{ethertype, protocol};
use arrayvec::ArrayVec;

/// Most layers of a frame.
const MOST: usize = 16;

/// VLAN ids, outermost first.
pub type Vlans = ArrayVec<u16, MAX_VLANS>;

/// An IP packet in a frame.
pub struct Located<'a> {
    /// [`ethertype::IPV4`] or [`ethertype::IPV6`].
    pub kind: u16,
    /// Where its header begins in the frame.
    pub at: usize,
    /// It came in a packet of IP.
    pub tunnelled: bool,
    /// VLAN ids of the network it is of.
    pub vlans: Vlans,
    /// What it says; [`Undecoded::Fragment`] when it is a piece of a packet.
    pub ip: Result<IpParts<'a>, Undecoded>,
}

impl Located<'_> {
    /// TCP or UDP, or a piece of something.
    fn is_meant(&self) -> bool {
        match &self.ip {
            Ok(parts) => matches!(parts.protocol, protocol::TCP | protocol::UDP),
            Err(why) => *why == Undecoded::Fragment,
        }
    }
}

/// The innermost IP packet of a frame that can be reached.
pub fn locate(link: LinkType, bytes: &[u8], original_len: usize) -> Result<Located<'_>, Undecoded> {
    let mut rest = Rest { bytes, at: 0, wire_len: original_len, layers: 0, tunnelled: false };
    let layer = link_layer(link, &mut rest)?;
    descend(rest, layer, Vlans::new())
}

/// What has not been read yet.
#[derive(Clone, Copy)]
struct Rest<'a> {
    bytes: &'a [u8],
    /// Where that begins in the frame.
    at: usize,
    /// So much of it was on the wire.
    wire_len: usize,
    layers: usize,
    tunnelled: bool,
}

impl<'a> Rest<'a> {
    fn skip(&mut self, n: usize) -> Result<(), Undecoded> {
        self.bytes = self.bytes.get(n..).ok_or(Undecoded::Truncated)?;
        self.at += n;
        self.wire_len = self.wire_len.saturating_sub(n);
        Ok(())
    }

    fn byte(&self, at: usize) -> Result<u8, Undecoded> {
        self.bytes.get(at).copied().ok_or(Undecoded::Truncated)
    }

    fn half(&self, at: usize) -> Result<u16, Undecoded> {
        be16(self.bytes, at)
    }

    /// The body of the IP packet that begins here.
    fn body(&self, parts: &IpParts<'a>) -> Rest<'a> {
        Rest {
            bytes: parts.body,
            at: self.at + parts.header,
            wire_len: parts.body.len() + parts.missing,
            layers: self.layers,
            tunnelled: true,
        }
    }
}

/// What comes next.
#[derive(Clone, Copy)]
enum Layer {
    /// An Ethernet header.
    Ethernet,
    /// What this EtherType says.
    Type(u16),
    /// A protocol field of PPP (RFC 1661 section 2), after the address field of HDLC framing, if there is one.
    Ppp,
    /// IP, by its version.
    Ip,
}

fn link_layer(link: LinkType, rest: &mut Rest<'_>) -> Result<Layer, Undecoded> {
    Ok(match link {
        LinkType::ETHERNET => Layer::Ethernet,
        LinkType::LINUX_SLL => {
            let kind = rest.half(14)?;
            rest.skip(16)?;
            Layer::Type(kind)
        }
        LinkType::LINUX_SLL2 => {
            let kind = rest.half(0)?;
            rest.skip(20)?;
            Layer::Type(kind)
        }
        // The address family differs from system to system; the IP version does not.
        LinkType::NULL | LinkType::LOOP => {
            rest.skip(4)?;
            Layer::Ip
        }
        LinkType::RAW | LinkType::IPV4 | LinkType::IPV6 => Layer::Ip,
        // What BSDs and old Linux wrote for raw IP before it had a number.
        LinkType(12 | 14) => Layer::Ip,
        LinkType(9 | 50) => Layer::Ppp,
        LinkType(51) => pppoe(rest)?,
        LinkType(104) => cisco_hdlc(rest)?,
        // Which way it went, then as without.
        LinkType(166) => {
            rest.skip(2)?;
            Layer::Ppp
        }
        LinkType(204) => {
            rest.skip(1)?;
            Layer::Ppp
        }
        LinkType(205) => {
            rest.skip(1)?;
            cisco_hdlc(rest)?
        }
        LinkType(239) => nflog(rest)?,
        _ => return Err(Undecoded::LinkType(link)),
    })
}

fn descend<'a>(mut rest: Rest<'a>, mut layer: Layer, mut vlans: Vlans) -> Result<Located<'a>, Undecoded> {
    loop {
        rest.layers += 1;
        if rest.layers > MOST {
            return Err(Undecoded::Malformed);
        }
        layer = match layer {
            Layer::Ethernet => {
                let kind = rest.half(12)?;
                rest.skip(14)?;
                Layer::Type(kind)
            }
            Layer::Ppp => ppp(&mut rest)?,
            Layer::Ip => match rest.byte(0)? >> 4 {
                4 => Layer::Type(ethertype::IPV4),
                6 => Layer::Type(ethertype::IPV6),
                _ => return Err(Undecoded::NotIp(None)),
            },
            Layer::Type(kind @ (ethertype::IPV4 | ethertype::IPV6)) => {
                let ip = if kind == ethertype::IPV4 {
                    ipv4(rest.bytes, rest.wire_len)
                } else {
                    ipv6(rest.bytes, rest.wire_len)
                };
                let parts = match ip {
                    Ok(parts) => parts,
                    Err(Undecoded::Fragment) => {
                        return Ok(Located { kind, at: rest.at, tunnelled: rest.tunnelled, vlans, ip });
                    }
                    Err(why) => return Err(why),
                };
                let mut inner = rest.body(&parts);
                let here = Located { kind, at: rest.at, tunnelled: rest.tunnelled, vlans, ip: Ok(parts) };
                if parts.protocol == protocol::UDP {
                    let found = over_udp(&mut inner).and_then(|layer| descend(inner, layer, Vlans::new()).ok());
                    return Ok(found.filter(Located::is_meant).unwrap_or(here));
                }
                let Some(next) = over_ip(parts.protocol, &mut inner)? else { return Ok(here) };
                (rest, vlans) = (inner, Vlans::new());
                next
            }
            Layer::Type(kind) => under_type(kind, &mut rest, &mut vlans)?,
        };
    }
}

/// What is no IP, and may have IP behind it.
fn under_type(kind: u16, rest: &mut Rest<'_>, vlans: &mut Vlans) -> Result<Layer, Undecoded> {
    match kind {
        ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_OLD => {
            let (id, kind) = (rest.half(0)? & 0x0fff, rest.half(2)?);
            let _ = vlans.try_push(id);
            rest.skip(4)?;
            Ok(Layer::Type(kind))
        }
        0x8864 => pppoe(rest),
        0x8847 | 0x8848 => mpls(rest),
        0x880b => Ok(Layer::Ppp),
        0x6558 => Ok(Layer::Ethernet),
        // Cisco metadata: version, length in fours, options (a security group tag), the next type.
        0x8909 => {
            let options = usize::from(rest.byte(1)?) * 4;
            let kind = rest.half(2 + options)?;
            rest.skip(2 + options + 2)?;
            Ok(Layer::Type(kind))
        }
        // Provider backbone bridging: a service instance tag, then the customer's frame (IEEE 802.1ah).
        0x88e7 => {
            rest.skip(4)?;
            Ok(Layer::Ethernet)
        }
        // VN-Tag, and the E-Tag that came of it (IEEE 802.1BR).
        0x8926 | 0x893f => {
            let tag = if kind == 0x8926 { 4 } else { 6 };
            let kind = rest.half(tag)?;
            rest.skip(tag + 2)?;
            Ok(Layer::Type(kind))
        }
        // A length of IEEE 802.3, and a type behind it (SNAP, RFC 1042).
        0..=0x05ff if rest.bytes.starts_with(&[0xaa, 0xaa, 3, 0, 0, 0]) => {
            let kind = rest.half(6)?;
            rest.skip(8)?;
            Ok(Layer::Type(kind))
        }
        _ => Err(Undecoded::NotIp(Some(kind))),
    }
}

/// A session packet of PPP over Ethernet (RFC 2516 section 4).
fn pppoe(rest: &mut Rest<'_>) -> Result<Layer, Undecoded> {
    if rest.half(0)? != 0x1100 {
        return Err(Undecoded::NotIp(Some(0x8864)));
    }
    rest.skip(6)?;
    Ok(Layer::Ppp)
}

fn ppp(rest: &mut Rest<'_>) -> Result<Layer, Undecoded> {
    // Address and control, of HDLC-like framing (RFC 1662 section 3.1).
    if rest.bytes.starts_with(&[0xff, 3]) {
        rest.skip(2)?;
    }
    // An odd byte is a field compressed to it (RFC 1661 section 6.5).
    let first = rest.byte(0)?;
    let (number, len) = if first & 1 == 1 { (u16::from(first), 1) } else { (rest.half(0)?, 2) };
    rest.skip(len)?;
    match number {
        0x0021 => Ok(Layer::Type(ethertype::IPV4)),
        0x0057 => Ok(Layer::Type(ethertype::IPV6)),
        0x0281 | 0x0283 => Ok(Layer::Type(0x8847)),
        // Link control and the like.
        _ => Err(Undecoded::NotIp(None)),
    }
}

/// Address, control, EtherType (RFC 1547 section 4.3.1).
fn cisco_hdlc(rest: &mut Rest<'_>) -> Result<Layer, Undecoded> {
    let kind = rest.half(2)?;
    rest.skip(4)?;
    Ok(Layer::Type(kind))
}

/// Labels up to the last of the stack (RFC 3032 section 2.1). What is behind it, nothing says: IP has its version in the first bits, the control word
/// of a pseudowire has zeros there (RFC 4385 section 3).
fn mpls(rest: &mut Rest<'_>) -> Result<Layer, Undecoded> {
    loop {
        let last = rest.byte(2)? & 1 == 1;
        rest.skip(4)?;
        if last {
            break;
        }
    }
    match rest.byte(0)? >> 4 {
        4 | 6 => Ok(Layer::Ip),
        0 => {
            rest.skip(4)?;
            Ok(Layer::Ethernet)
        }
        _ => Err(Undecoded::NotIp(Some(0x8847))),
    }
}

/// Linux's NFLOG: a header of four bytes, then attributes of a length, a type and padding to four, in the byte order of the machine; the packet is the ninth type.
/// Some writers leave its attribute out: then it lies where the next attribute would.
fn nflog(rest: &mut Rest<'_>) -> Result<Layer, Undecoded> {
    let here = *rest;
    let payload = |swapped: bool| {
        let half = |at: usize| here.half(at).ok().map(|v| usize::from(if swapped { v.swap_bytes() } else { v }));
        let mut at = 4;
        loop {
            let (len, kind) = (half(at)?, half(at + 2)?);
            if here.byte(at) == Ok(0x45) && here.half(at + 2).map(usize::from) == Ok(here.bytes.len() - at) {
                return Some(at);
            }
            if kind == 9 {
                return Some(at + 4);
            }
            at += len.max(4).next_multiple_of(4);
        }
    };
    let at = payload(true).or_else(|| payload(false)).ok_or(Undecoded::Malformed)?;
    rest.skip(at)?;
    Ok(Layer::Ip)
}

/// What a packet of this protocol carries, if it is a tunnel.
fn over_ip(number: u8, rest: &mut Rest<'_>) -> Result<Option<Layer>, Undecoded> {
    Ok(Some(match number {
        // RFC 2003, RFC 4213.
        4 => Layer::Type(ethertype::IPV4),
        41 => Layer::Type(ethertype::IPV6),
        47 => gre(rest)?,
        // Ethernet in IP (RFC 3378): a version.
        97 => {
            rest.skip(2)?;
            Layer::Ethernet
        }
        // RFC 4023.
        137 => Layer::Type(0x8847),
        _ => return Ok(None),
    }))
}

/// Generic routing encapsulation (RFC 2784, RFC 2890; version 1 of PPTP, RFC 2637), and mirrors in it (draft-foschiano-erspan).
fn gre(rest: &mut Rest<'_>) -> Result<Layer, Undecoded> {
    let (flags, kind) = (rest.half(0)?, rest.half(2)?);
    let (checksum, routing, key, sequence, acknowledged) = (0x8000, 0x4000, 0x2000, 0x1000, 0x0080);
    let version = flags & 7;
    if version > 1 || flags & routing != 0 {
        return Err(Undecoded::OtherProtocol(47));
    }
    let optional = if version == 1 { [key, sequence, acknowledged] } else { [checksum, key, sequence] };
    rest.skip(4 + 4 * optional.iter().filter(|bit| flags & **bit != 0).count())?;
    match kind {
        // Type II has a header and always a sequence number; type I has neither.
        0x88be => {
            rest.skip(if flags & sequence != 0 { 8 } else { 0 })?;
            Ok(Layer::Ethernet)
        }
        // Type III; with a part that some platforms add.
        0x22eb => {
            let (kind, more) = (rest.half(10)? >> 10 & 31, rest.byte(11)? & 1 == 1);
            rest.skip(if more { 20 } else { 12 })?;
            Ok(if kind == 2 { Layer::Ip } else { Layer::Ethernet })
        }
        0 => Err(Undecoded::OtherProtocol(47)),
        _ => Ok(Layer::Type(kind)),
    }
}

/// What a datagram to the port of a tunnel carries.
fn over_udp(rest: &mut Rest<'_>) -> Option<Layer> {
    let port = rest.half(2).ok()?;
    rest.skip(8).ok()?;
    let first = rest.byte(0).ok()?;
    match port {
        // VXLAN (RFC 7348 section 5), also at the port that Linux had before; with its generic extension at the third.
        4789 | 8472 | 4790 if first & 0x08 != 0 => {
            let next = if port == 4790 && first & 0x04 != 0 { rest.byte(3).ok()? } else { 3 };
            rest.skip(8).ok()?;
            match next {
                1 => Some(Layer::Type(ethertype::IPV4)),
                2 => Some(Layer::Type(ethertype::IPV6)),
                3 => Some(Layer::Ethernet),
                _ => None,
            }
        }
        // Geneve (RFC 8926 section 3.4): version 0, options in fours.
        6081 if first >> 6 == 0 => {
            let kind = rest.half(2).ok()?;
            rest.skip(8 + 4 * usize::from(first & 0x3f)).ok()?;
            Some(Layer::Type(kind))
        }
        // GTP-U (3GPP TS 29.281 section 5): version 1, a packet of the user's.
        2152 if first & 0xf0 == 0x30 && rest.byte(1).ok()? == 0xff => {
            let mut extension = if first & 4 != 0 { rest.byte(11).ok()? } else { 0 };
            rest.skip(if first & 7 != 0 { 12 } else { 8 }).ok()?;
            while extension != 0 {
                let len = usize::from(rest.byte(0).ok()?) * 4;
                extension = rest.byte(len.checked_sub(1)?).ok()?;
                rest.skip(len).ok()?;
            }
            Some(Layer::Ip)
        }
        // Generic UDP encapsulation (draft-ietf-intarea-gue): variant 0, or IP itself.
        6080 => match first >> 6 {
            0 if first & 0x20 == 0 => {
                let (number, len) = (rest.byte(1).ok()?, 4 + 4 * usize::from(first & 0x1f));
                rest.skip(len).ok()?;
                match number {
                    4 => Some(Layer::Type(ethertype::IPV4)),
                    41 => Some(Layer::Type(ethertype::IPV6)),
                    _ => None,
                }
            }
            1 => Some(Layer::Ip),
            _ => None,
        },
        _ => None,
    }
}
