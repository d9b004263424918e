//! Which queue a card brings a frame to: receive-side scaling, computed as the card does.
//!
//! The Toeplitz hash of addresses and ports under the card's key, and its indirection table (Microsoft, "Introduction to Receive
//! Side Scaling"; the cards' data sheets say the same). Knowing it, a worker dials from ports whose answers come back to its own
//! queue. A card that computes something else costs frames handed over, and nothing more.

use super::Key;
use crate::wire::Family;

/// Bytes that are hashed of an IPv6 segment: two addresses, two ports.
const LONGEST: usize = 36;

/// Bytes of key that so many bytes of input take: 32 bits more than the input has.
const KEY: usize = LONGEST + 4;

/// Hash and indirection table of one port.
pub struct Rss {
    /// By half byte of the input, what each of its values adds to the hash.
    parts: Box<[[u32; 16]]>,
    /// The worker of each entry of the table; none: a queue that is no worker's.
    table: Box<[Option<u16>]>,
    v4: bool,
    v6: bool,
}

impl Rss {
    /// `key` is the card's, 40 bytes or more; `table` says for each entry whose queue it is. `v4`, `v6`: TCP over it is hashed with
    /// its ports. `None` when this cannot be a card's.
    pub fn new(key: &[u8], table: &[Option<u16>], v4: bool, v6: bool) -> Option<Rss> {
        let key: &[u8; KEY] = key.first_chunk()?;
        if table.is_empty() || !(v4 || v6) {
            return None;
        }
        let part = |at: usize| {
            let (byte, half) = (at / 2, at % 2);
            // The 64 bits of the key from the byte on (the last of them are not needed: zeros), then from the half byte on.
            let bits = (0..8).fold(0u64, |bits, i| bits << 8 | u64::from(key.get(byte + i).copied().unwrap_or(0)));
            let bits = bits << (4 * half);
            core::array::from_fn(|value| {
                // The first bit of the input goes with the first 32 bits of the key, the second with the 32 from the second on, ...
                (0..4).filter(|bit| value >> (3 - bit) & 1 == 1).fold(0, |sum, bit| sum ^ ((bits << bit) >> 32) as u32)
            })
        };
        Some(Rss { parts: (0..2 * LONGEST).map(part).collect(), table: table.into(), v4, v6 })
    }

    /// The hash of what is hashed of a segment.
    fn hash(&self, input: impl Iterator<Item = u8>) -> u32 {
        let halves = input.flat_map(|byte| [byte >> 4, byte & 15]);
        self.parts.iter().zip(halves).fold(0, |sum, (part, half)| sum ^ part[usize::from(half)])
    }

    /// Whose queue a segment with this key, as it arrives, comes to; none when the card hashes it otherwise.
    #[inline]
    pub fn worker(&self, key: &Key) -> Option<usize> {
        let ports = key.sport.to_be_bytes().into_iter().chain(key.dport.to_be_bytes());
        let hash = if key.family() == Family::V4 {
            self.v4.then(|| self.hash(key.src.octets().iter().chain(key.dst.octets()).copied().chain(ports)))
        } else {
            self.v6.then(|| self.hash(key.src.0.iter().chain(&key.dst.0).copied().chain(ports)))
        }?;
        self.table[hash as usize % self.table.len()].map(usize::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    /// The key of Microsoft's verification suite.
    const MICROSOFT: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    /// "Verifying the RSS Hash Calculation": destination, source, hash of the addresses, and of the ports with them.
    const VECTORS: [(&str, u16, &str, u16, u32, u32); 8] = [
        ("161.142.100.80", 1766, "66.9.149.187", 2794, 0x323e8fc2, 0x51ccc178),
        ("65.69.140.83", 4739, "199.92.111.2", 14230, 0xd718262a, 0xc626b0ea),
        ("12.22.207.184", 38024, "24.19.198.95", 12898, 0xd2d0a5de, 0x5c2b394a),
        ("209.142.163.6", 2217, "38.27.205.30", 48228, 0x82989176, 0xafc7327f),
        ("202.188.127.2", 1303, "153.39.163.191", 44251, 0x5d1809c5, 0x10e828a2),
        ("3ffe:2501:200:3::1", 1766, "3ffe:2501:200:1fff::7", 2794, 0x2cc18cd5, 0x40207d3d),
        ("ff02::1", 4739, "3ffe:501:8::260:97ff:fe40:efab", 14230, 0x0f0c461c, 0xdde51bbf),
        ("fe80::200:f8ff:fe21:67cf", 38024, "3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, 0x4b61e985, 0x02d1feef),
    ];

    fn octets(ip: &str) -> Vec<u8> {
        match ip.parse().unwrap() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        }
    }

    #[test]
    fn the_hashes_are_those_of_microsofts_verification_suite() {
        let rss = Rss::new(&MICROSOFT, &[None], true, true).unwrap();
        for (dst, dport, src, sport, addresses, with_ports) in VECTORS {
            let mut input = [octets(src), octets(dst)].concat();
            assert_eq!(rss.hash(input.iter().copied()), addresses, "{src}");
            input.extend([sport.to_be_bytes(), dport.to_be_bytes()].concat());
            assert_eq!(rss.hash(input.iter().copied()), with_ports, "{src}");
        }
    }

    #[test]
    fn the_table_says_whose_queue_it_is() {
        let table: Vec<_> = (0..128).map(|entry| (entry % 4 != 3).then_some(entry % 4)).collect();
        let rss = Rss::new(&MICROSOFT, &table, true, false).unwrap();
        for (dst, dport, src, sport, _, hash) in VECTORS {
            let ip = |text: &str| text.parse::<IpAddr>().unwrap();
            let key = Key::tcp((ip(src), sport).into(), (ip(dst), dport).into());
            let expected = if key.family() == Family::V4 { table[hash as usize % 128].map(usize::from) } else { None };
            assert_eq!(rss.worker(&key), expected, "{src}");
        }
    }

    #[test]
    fn what_can_be_no_cards_is_refused() {
        assert!(Rss::new(&MICROSOFT[..39], &[None], true, true).is_none());
        assert!(Rss::new(&MICROSOFT, &[], true, true).is_none());
        assert!(Rss::new(&MICROSOFT, &[None], false, false).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Bit by bit, as it is defined.
        #[test]
        fn the_hash_is_toeplitz(key in prop::array::uniform32(any::<u8>()), more in prop::array::uniform20(any::<u8>()), input in prop::collection::vec(any::<u8>(), 0..=36)) {
            let key = [&key[..], &more[..]].concat();
            let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1 == 1;
            let mut expected = 0u32;
            for at in (0..8 * input.len()).filter(|at| bit(&input, *at)) {
                expected ^= (0..32).fold(0, |window, i| window << 1 | u32::from(bit(&key, at + i)));
            }
            let rss = Rss::new(&key, &[None], true, true).unwrap();
            prop_assert_eq!(rss.hash(input.iter().copied()), expected);
        }
    }
}
