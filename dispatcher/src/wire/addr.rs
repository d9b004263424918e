//! Addresses of both families in one 16-byte form: IPv4 as `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2), so that
//! tables need one kind of key. An IPv6 packet that carries such an address on the wire is refused when it is parsed.

use crate::pack::packed;
use core::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// An IPv4 or IPv6 address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Addr(pub [u8; 16]);

/// Address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

impl Addr {
    /// From the four bytes of an IPv4 header.
    #[inline]
    pub fn v4(b: [u8; 4]) -> Addr {
        let mut a = [0; 16];
        a[..12].copy_from_slice(&MAPPED);
        a[12..].copy_from_slice(&b);
        Addr(a)
    }

    /// The last four bytes as they stand in a header, read as a little-endian number: of IPv4 the whole address.
    #[inline(always)]
    pub fn v4_bits(&self) -> u32 {
        u32::from_le_bytes([self.0[12], self.0[13], self.0[14], self.0[15]])
    }

    /// All bytes, read as little-endian numbers.
    pub fn words(&self) -> [u32; 4] {
        let word = |at: usize| u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]]);
        [word(0), word(4), word(8), word(12)]
    }

    /// The address that these are the [words](Addr::words) of.
    pub fn from_words(words: [u32; 4]) -> Addr {
        let mut addr = Addr::default();
        addr.0.chunks_exact_mut(4).zip(words).for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_le_bytes()));
        addr
    }

    /// The family.
    #[inline]
    pub fn family(&self) -> Family {
        if self.0[..12] == MAPPED { Family::V4 } else { Family::V6 }
    }

    /// The bytes as they stand in a header: 4 or 16.
    #[inline]
    pub fn octets(&self) -> &[u8] {
        match self.family() {
            Family::V4 => &self.0[12..],
            Family::V6 => &self.0,
        }
    }

    /// Shares the first `prefix` bits (of 32 or of 128) with `other`, and the family.
    pub fn in_prefix(&self, other: Addr, prefix: u8) -> bool {
        if self.family() != other.family() {
            return false;
        }
        let bits = u32::from(prefix) + if self.family() == Family::V4 { 96 } else { 0 };
        let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits.min(128)) };
        (u128::from_be_bytes(self.0) ^ u128::from_be_bytes(other.0)) & mask == 0
    }

    /// A hash of it with a port, under no secret: for tables of addresses that are ours to choose.
    #[inline]
    pub fn scattered(&self, port: u16) -> u64 {
        let [high, low] = [0, 8].map(|at| u64::from_be_bytes(self.0[at..at + 8].try_into().expect("8 of 16 bytes")));
        let product = u128::from(high.rotate_left(25) ^ low ^ u64::from(port) << 40) * 0x9e37_79b9_7f4a_7c15;
        // Its middle depends on all of it.
        product as u64 ^ (product >> 64) as u64
    }

    /// None of a single host that could send from it: multicast, unspecified, the IPv4 broadcast address, loopback.
    #[inline]
    pub fn is_nobodys(&self) -> bool {
        match (self.family(), self.0) {
            (Family::V4, [.., a, b, c, d]) => {
                (224..240).contains(&a) || a == 127 || matches!([a, b, c, d], [0, 0, 0, 0] | [255, 255, 255, 255])
            }
            (Family::V6, bytes) => bytes[0] == 0xff || u128::from_be_bytes(bytes) <= 1,
        }
    }

    /// As the standard library has it.
    pub fn ip(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self.0)).to_canonical()
    }

    /// With a port, as the standard library has it.
    pub fn socket(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Addr {
        match ip {
            IpAddr::V4(a) => Addr::v4(a.octets()),
            IpAddr::V6(a) => Addr(a.octets()),
        }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ip())
    }
}

packed!(Addr([u8; 16]));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_round_trip() {
        for s in ["10.1.2.3", "fd00::1", "::"] {
            let ip: IpAddr = s.parse().unwrap();
            assert_eq!(Addr::from(ip).ip(), ip);
        }
        assert_eq!(Addr::from("10.1.2.3".parse::<IpAddr>().unwrap()).octets(), [10, 1, 2, 3]);
    }

    #[test]
    fn nobodys_are_those_of_which_the_standard_library_says_so() {
        let says = |ip: IpAddr| {
            let broadcast = matches!(ip, IpAddr::V4(a) if a.is_broadcast());
            ip.is_multicast() || ip.is_unspecified() || ip.is_loopback() || broadcast
        };
        let v4 = (0..=255u8).flat_map(|a| [0, 1, 255].map(|b| IpAddr::from([a, b, b, b])));
        let v6 = ["::", "::1", "::2", "1::", "1::1", "fe80::1", "ff02::1", "feff::", "2001:db8::", "::127.0.0.1"];
        let v4 = v4.chain([IpAddr::from([0, 0, 0, 1]), IpAddr::from([255, 255, 255, 254])]);
        for ip in v4.chain(v6.map(|ip| ip.parse().unwrap())) {
            assert_eq!(Addr::from(ip).is_nobodys(), says(ip), "{ip}");
        }
    }

    #[test]
    fn prefixes_count_the_bits_of_their_family() {
        let a = |s: &str| Addr::from(s.parse::<IpAddr>().unwrap());
        assert!(a("10.1.2.3").in_prefix(a("10.1.2.200"), 24) && !a("10.1.2.3").in_prefix(a("10.1.3.3"), 24));
        assert!(a("10.1.2.3").in_prefix(a("99.1.2.3"), 0) && !a("10.1.2.3").in_prefix(a("fd00::1"), 0));
        assert!(a("fd00::1").in_prefix(a("fd00::2"), 64) && !a("fd00::1").in_prefix(a("fd00::2"), 128));
    }
}
