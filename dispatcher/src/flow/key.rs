//! What a flow is found by: protocol, addresses and ports.

use crate::pack::packed;
use crate::wire::packet::{Ip, Tcp, protocol};
use crate::wire::{Addr, Family};
use core::fmt;
use std::net::SocketAddr;

/// Protocol, addresses and ports of one direction of one connection, source first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Key {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// As IP headers number it: [`protocol::TCP`].
    pub protocol: u8,
}

impl Key {
    /// As a TCP segment carries it.
    #[inline]
    pub fn of(ip: &Ip, tcp: &Tcp) -> Key {
        Key { src: ip.src, dst: ip.dst, sport: tcp.src_port, dport: tcp.dst_port, protocol: protocol::TCP }
    }

    /// Of TCP segments from `src` to `dst`.
    pub fn tcp(src: SocketAddr, dst: SocketAddr) -> Key {
        let (sport, dport) = (src.port(), dst.port());
        Key { src: src.ip().into(), dst: dst.ip().into(), sport, dport, protocol: protocol::TCP }
    }

    #[cfg(test)]
    pub(crate) fn v4(src: [u8; 4], sport: u16, dst: [u8; 4], dport: u16) -> Key {
        Key { src: Addr::v4(src), dst: Addr::v4(dst), sport, dport, protocol: protocol::TCP }
    }

    #[cfg(test)]
    pub(crate) fn v6(src: [u8; 16], sport: u16, dst: [u8; 16], dport: u16) -> Key {
        Key { src: Addr(src), dst: Addr(dst), sport, dport, protocol: protocol::TCP }
    }

    /// The same connection, seen in a frame going the other way.
    #[inline]
    pub const fn reversed(&self) -> Key {
        Key { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, protocol: self.protocol }
    }

    /// Of IPv4 or IPv6: both addresses are of one family.
    #[inline]
    pub fn family(&self) -> Family {
        self.src.family()
    }

    /// Source address and port.
    pub fn source(&self) -> SocketAddr {
        self.src.socket(self.sport)
    }

    /// Destination address and port.
    pub fn destination(&self) -> SocketAddr {
        self.dst.socket(self.dport)
    }

    /// Addresses and ports in a fixed order.
    #[inline]
    pub(super) fn address_bytes(&self) -> [u8; 36] {
        let mut bytes = [0; 36];
        bytes[..16].copy_from_slice(&self.src.0);
        bytes[16..32].copy_from_slice(&self.dst.0);
        bytes[32..34].copy_from_slice(&self.sport.to_be_bytes());
        bytes[34..].copy_from_slice(&self.dport.to_be_bytes());
        bytes
    }

    /// The same without what IPv4 addresses have in common, in front of `N` bytes, at least 36; and how many it is. IPv4 and IPv6 differ in length.
    #[inline]
    pub(super) fn short_bytes<const N: usize>(&self) -> ([u8; N], usize) {
        let mut bytes = [0; N];
        let ports = |to: &mut [u8]| {
            to[..2].copy_from_slice(&self.sport.to_be_bytes());
            to[2..4].copy_from_slice(&self.dport.to_be_bytes());
        };
        match (self.src.family(), self.dst.family()) {
            (Family::V4, Family::V4) => {
                bytes[..4].copy_from_slice(&self.src.0[12..]);
                bytes[4..8].copy_from_slice(&self.dst.0[12..]);
                ports(&mut bytes[8..]);
                (bytes, 12)
            }
            _ => {
                bytes[..36].copy_from_slice(&self.address_bytes());
                (bytes, 36)
            }
        }
    }

    /// All of it in a fixed order, to be hashed.
    #[inline]
    pub(crate) fn to_bytes(self) -> [u8; 37] {
        let mut bytes = [0; 37];
        bytes[..36].copy_from_slice(&self.address_bytes());
        bytes[36] = self.protocol;
        bytes
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} (protocol {})", self.source(), self.destination(), self.protocol)
    }
}

packed!(Key { src, dst, sport, dport, protocol });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_addresses_and_families() {
        let (c, v): (SocketAddr, SocketAddr) = ("10.0.0.7:41022".parse().unwrap(), "10.0.9.1:443".parse().unwrap());
        let t = Key::tcp(c, v);
        assert_eq!(t, Key::v4([10, 0, 0, 7], 41022, [10, 0, 9, 1], 443));
        assert_eq!((t.source(), t.destination(), t.family()), (c, v, Family::V4));
        assert_eq!(t.reversed(), Key::tcp(v, c));
        let (c, v): (SocketAddr, SocketAddr) =
            ("[2001:db8::7]:1".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap());
        let t = Key::tcp(c, v);
        assert_eq!((t.source(), t.destination(), t.family()), (c, v, Family::V6));
    }

    #[test]
    fn another_protocol_is_another_key() {
        let t = Key::v4([10, 0, 0, 7], 41022, [10, 0, 9, 1], 443);
        let u = Key { protocol: protocol::UDP, ..t };
        assert!(t != u && t.to_bytes() != u.to_bytes() && u.reversed().protocol == protocol::UDP);
    }
}
