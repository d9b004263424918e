//! The hash that flows lie by: keyed, and of two multiplications for IPv4.
//!
//! Addresses and ports are the sender's to choose, so who does not know the key must not be able to make many of them meet.
//!
//! 1. The words of the key are joined by NH, the universal hash of UMAC (Black, Halevi, Krawczyk, Krovetz, Rogaway: "UMAC: fast and secure
//!    message authentication", CRYPTO 1999), on words of 64 bits: `(m0 + k0) * (m1 + k1) + ...`, all 128 bits kept. For any two different keys
//!    of one family that were chosen without knowledge of the secret these 128 bits are equal with a probability of at most 2^-64 (theorem 4.2
//!    there). IPv4 and IPv6 have secret words of their own, hence meet no more often.
//! 2. The 128 bits are mixed into 64 by a second multiplication with secret words, folded (as in wyhash and aHash): that spreads them
//!    evenly over buckets and tags, and nothing of the first product's structure is left.
//!
//! **What an attacker sees.** Neither a hash nor where a key lies: only how long an answer takes, in which one more or one less cache
//! line is a tenth of a microsecond, once. **What he would need**: many pairs known to share a bucket. With a linear hash (CRC, Toeplitz,
//! multilinear) one such pair is enough to make any number of others; here both steps multiply what he chooses with what he does not know, so
//! that of a pair that meets nothing follows for another. He would have to find each by itself, as with any keyed function however strong: one in as many as there
//! are buckets, each a connection of his that has completed its handshake, since a SYN puts no key into the table. **What he
//! would have**: for the keys of one bucket a line more for fifteen of them. Nothing but speed depends on this hash; cookies, and all that is to convince somebody, have SipHash.

use super::key::Key;
use crate::wire::{Addr, Family};
use siphasher::sip::SipHasher13;

/// The addresses and ports of an IPv4 frame, source first: the bytes as they stand in it, read as little-endian numbers, so that nothing is turned round
/// only to be compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyV4 {
    /// Both addresses.
    pub addresses: u64,
    /// Both ports.
    pub ports: u32,
}

impl KeyV4 {
    /// Of a key whose addresses are both of IPv4.
    #[inline]
    pub fn of(key: &Key) -> Option<KeyV4> {
        let both = key.src.family() == Family::V4 && key.dst.family() == Family::V4;
        let addresses = u64::from(key.src.v4_bits()) | u64::from(key.dst.v4_bits()) << 32;
        both.then(|| KeyV4 { addresses, ports: ports_of(key) })
    }
}

/// See the module's description.
pub(super) struct KeyHasher {
    v4: [u64; 2],
    v6: [u64; 6],
    mix: [u64; 2],
}

impl KeyHasher {
    /// Under this secret.
    pub fn new(secret: (u64, u64)) -> KeyHasher {
        let prf = SipHasher13::new_with_keys(secret.0, secret.1);
        let word = |n: u64| prf.hash(&n.to_le_bytes());
        KeyHasher { v4: [0, 1].map(word), v6: [2, 3, 4, 5, 6, 7].map(word), mix: [8, 9].map(word) }
    }

    /// Of any key.
    #[inline]
    pub fn hash(&self, key: &Key) -> u64 {
        if let Some(v4) = KeyV4::of(key) {
            return self.hash_v4(&v4, key.protocol);
        }
        let ports = ports_of(key);
        let half = |a: &Addr, at: usize| u64::from_le_bytes(a.0[at..at + 8].try_into().expect("8 of 16 bytes"));
        let [k0, k1, k2, k3, k4, k5] = self.v6;
        let words = product(half(&key.src, 0), k0, half(&key.src, 8), k1)
            .wrapping_add(product(half(&key.dst, 0), k2, half(&key.dst, 8), k3))
            .wrapping_add(product(u64::from(ports), k4, u64::from(key.protocol), k5));
        self.mixed(words)
    }

    /// Of an IPv4 key: the same as [`KeyHasher::hash`] says of it.
    #[inline(always)]
    pub fn hash_v4(&self, key: &KeyV4, protocol: u8) -> u64 {
        let ports = u64::from(key.ports) | u64::from(protocol) << 32;
        self.mixed(product(key.addresses, self.v4[0], ports, self.v4[1]))
    }

    #[inline(always)]
    fn mixed(&self, words: u128) -> u64 {
        let product = u128::from(words as u64 ^ self.mix[0]) * u128::from((words >> 64) as u64 ^ self.mix[1]);
        product as u64 ^ (product >> 64) as u64
    }
}

/// One term of NH.
#[inline(always)]
fn product(a: u64, secret_a: u64, b: u64, secret_b: u64) -> u128 {
    u128::from(a.wrapping_add(secret_a)) * u128::from(b.wrapping_add(secret_b))
}

/// Both ports as they stand in a frame.
#[inline]
fn ports_of(key: &Key) -> u32 {
    u32::from(key.sport.swap_bytes()) | u32::from(key.dport.swap_bytes()) << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(src: u32, sport: u16, dst: u32, dport: u16) -> Key {
        Key::v4(src.to_be_bytes(), sport, dst.to_be_bytes(), dport)
    }

    fn v6(src: u128, sport: u16, dst: u128, dport: u16) -> Key {
        Key::v6(src.to_be_bytes(), sport, dst.to_be_bytes(), dport)
    }

    /// What clients, scanners and attackers send: sets of `N` keys with much in common.
    const N: usize = 1 << 16;
    type Set = (&'static str, fn(u32) -> Key);
    const SETS: [Set; 10] = [
        ("one client's ports", |n| v4(0x0a00_0007, n as u16, 0x0a00_0901, 443)),
        ("a /16 of clients with one port", |n| v4(0x0a01_0000 | n, 40_000, 0x0a00_0901, 443)),
        ("addresses a multiple of 2^16 apart", |n| v4(n << 16, 40_000, 0x0a00_0901, 443)),
        ("address and port in step", |n| v4(0x0a01_0000 | n, n as u16, 0x0a00_0901, 443)),
        ("address and port against each other", |n| v4(0x0a01_0000 | n, !n as u16, 0x0a00_0901, 443)),
        ("ports of ours towards one server", |n| v4(0x0a02_000b, 8443, 0x0a02_0001, n as u16)),
        ("two ports, one small square", |n| v4(0x0a00_0007, (n >> 8) as u16, 0x0a00_0901, (n & 0xff) as u16)),
        ("bits reversed", |n| v4(n.reverse_bits(), 1, n, 443)),
        ("a /64's hosts", |n| v6(0x2001_0db8 << 96 | u128::from(n), 40_000, 0x2001_0db8 << 96 | 1 << 64, 443)),
        ("a /48's nets", |n| v6(0x2001_0db8 << 96 | u128::from(n) << 64, 40_000, 0x2001_0db8 << 96 | 1, 443)),
    ];

    /// As many keys as buckets: by chance the squares of the loads sum to 2N, give or take; and no bucket has more than a dozen.
    #[test]
    fn keys_with_much_in_common_spread_like_any_others() {
        for secret in [(1, 2), (0, 0), (u64::MAX, 7), (0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210)] {
            let hasher = KeyHasher::new(secret);
            for (name, key) in SETS {
                // What chooses buckets, and what is left as a tag.
                for shift in [0, 24, 48] {
                    let mut loads = vec![0u64; N];
                    (0..N as u32).for_each(|n| loads[(hasher.hash(&key(n)) >> shift) as usize % N] += 1);
                    let squares: u64 = loads.iter().map(|l| l * l).sum();
                    let mean = squares as f64 / N as f64;
                    assert!((1.95..2.05).contains(&mean), "{name}, bits from {shift}: {mean}");
                    assert!(loads.iter().max() < Some(&14), "{name}, bits from {shift}");
                }
            }
        }
    }

    #[test]
    fn every_bit_of_a_key_changes_every_bit_of_its_hash_half_of_the_time() {
        const KEYS: u32 = 4000;
        let hasher = KeyHasher::new((3, 4));
        for bit in 0..96 {
            let mut changed = [0u32; 64];
            for n in 0..KEYS {
                let k = n.wrapping_mul(0x9e37_79b9);
                let mut raw = [0; 12];
                raw[..4].copy_from_slice(&k.to_be_bytes());
                raw[4..8].copy_from_slice(&[10, 0, 9, 1]);
                raw[8..].copy_from_slice(&[(n >> 8) as u8, n as u8, 1, 187]);
                let split = |raw: &[u8; 12]| KeyV4 {
                    addresses: u64::from_le_bytes(raw[..8].try_into().unwrap()),
                    ports: u32::from_le_bytes(raw[8..].try_into().unwrap()),
                };
                let before = hasher.hash_v4(&split(&raw), 6);
                raw[bit / 8] ^= 1 << (bit % 8);
                let difference = before ^ hasher.hash_v4(&split(&raw), 6);
                changed.iter_mut().enumerate().for_each(|(at, n)| *n += (difference >> at & 1) as u32);
            }
            assert!(changed.iter().all(|n| (KEYS * 2 / 5..KEYS * 3 / 5).contains(n)), "bit {bit}: {changed:?}");
        }
    }

    #[test]
    fn what_stands_in_the_frame_has_the_hash_of_its_key_and_the_protocol_counts() {
        let hasher = KeyHasher::new((5, 6));
        let key = Key::v4([10, 0, 0, 7], 41022, [10, 0, 9, 1], 443);
        let raw = KeyV4 {
            addresses: u64::from_le_bytes([10, 0, 0, 7, 10, 0, 9, 1]),
            ports: u32::from_le_bytes([160, 62, 1, 187]),
        };
        assert_eq!(hasher.hash(&key), hasher.hash_v4(&raw, key.protocol));
        let other = |key: Key| Key { protocol: 17, ..key };
        let six = v6(1, 2, 3, 4);
        assert_ne!(hasher.hash(&key), hasher.hash(&other(key)));
        assert_ne!(hasher.hash(&six), hasher.hash(&other(six)));
        assert_ne!(hasher.hash(&six), hasher.hash(&six.reversed()));
    }

    #[test]
    fn keys_that_meet_under_one_secret_do_not_under_another() {
        let keys: Vec<Key> = (0..200_000).map(|n| v4(0x0a00_0000 | n, 40_000, 0x0a00_0901, 443)).collect();
        let crowd = |secret| {
            let hasher = KeyHasher::new(secret);
            move |key: &Key| hasher.hash(key) >> 52
        };
        let (one, other) = (crowd((1, 2)), crowd((1, 3)));
        let together: Vec<&Key> = keys.iter().filter(|key| one(key) == 5).collect();
        let mut elsewhere: Vec<u64> = together.iter().map(|key| other(key)).collect();
        elsewhere.sort_unstable();
        elsewhere.dedup();
        assert!(
            together.len() > 30 && elsewhere.len() + 4 > together.len(),
            "{} of {}",
            elsewhere.len(),
            together.len()
        );
    }
}
