//! The hash by which exact rows find their buckets, and key names their openers: keyed multiplications, a quarter of SipHash's price.
//!
//! A row's key is chosen by a server, or is a SHA-256: no client can make one of its liking, and what is merely asked for changes nothing. So it
//! is enough that nobody can aim at a bucket who does not know the key, which never leaves the process. Words are paired, each with a word of the
//! key, and the halves of their products laid upon each other, after Wang Yi's wyhash (<https://github.com/wangyi-fudan/wyhash>). What *clients* make rows
//! by, key names that nobody knows, is hashed by SipHash.

use super::key::Key;
use core::hash::{BuildHasher, Hasher};
use siphasher::sip::SipHasher13;

/// The halves of the product of two words, laid upon each other.
#[inline]
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// The hash, with its key.
#[derive(Clone, Copy)]
pub(crate) struct Folded([u64; 6]);

impl Folded {
    /// Under a secret.
    pub fn new(secret: &[u8; 16]) -> Folded {
        let secret = SipHasher13::new_with_key(secret);
        // Two bytes: messages of the length of no key of a row.
        Folded(core::array::from_fn(|i| secret.hash(&[0xf0, i as u8])))
    }

    /// Of a row's key.
    #[inline]
    pub fn of(&self, key: &Key) -> u64 {
        self.of_words(&key.to_words())
    }

    /// The same, of its words.
    #[inline]
    pub fn of_words(&self, &(kind, [a, b, c, d]): &(u64, [u64; 4])) -> u64 {
        let [p, q, r, s, t, u] = self.0;
        folded(folded(a ^ p, b ^ q) ^ t ^ kind, folded(c ^ r, d ^ s) ^ u)
    }
}

/// For a map of the writer's own.
impl BuildHasher for Folded {
    type Hasher = FoldedHasher;

    fn build_hasher(&self) -> FoldedHasher {
        let [start, by, ..] = self.0;
        FoldedHasher { state: start, by }
    }
}

/// Takes one word in after the other.
pub(crate) struct FoldedHasher {
    state: u64,
    by: u64,
}

impl FoldedHasher {
    #[inline]
    fn word(&mut self, word: u64) {
        self.state = folded(self.state ^ word, self.by);
        // So that no word takes it to zero for good.
        self.by = self.by.rotate_left(23) ^ self.state;
    }
}

impl Hasher for FoldedHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.word(u64::from_le_bytes(last));
        }
    }

    #[inline]
    fn write_u16(&mut self, n: u16) {
        self.word(u64::from(n));
    }

    #[inline]
    fn write_usize(&mut self, n: usize) {
        self.word(n as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Every bit of what is hashed reaches every bit of the hash, as likely as not; above all those that choose shard, bucket and tag.
    #[test]
    fn one_bit_of_a_key_turns_half_of_the_hash_round() {
        for len in [32, 31, 16, 1] {
            let mut turned = [0u32; 64];
            let mut tries = 0;
            for n in 0..64u8 {
                let hash = Folded::new(&[n; 16]);
                let id: Vec<u8> = (0..len).map(|i| (i * 7) ^ n).collect();
                let before = hash.of(&Key::session_id(&id).unwrap());
                for bit in 0..usize::from(len) * 8 {
                    let mut other = id.clone();
                    other[bit / 8] ^= 1 << (bit % 8);
                    let differs = before ^ hash.of(&Key::session_id(&other).unwrap());
                    turned.iter_mut().enumerate().for_each(|(i, n)| *n += (differs >> i & 1) as u32);
                    tries += 1;
                }
            }
            let share = turned.map(|n| f64::from(n) / f64::from(tries));
            let allowed = 4.0 * 0.5 / f64::from(tries).sqrt();
            assert!(share.iter().all(|s| (s - 0.5).abs() < allowed.max(0.02)), "{len} bytes: {share:?}");
        }
    }

    #[test]
    fn keys_of_another_kind_length_or_secret_are_hashed_otherwise() {
        let keys = [
            Key::session_id(&[0; 32]).unwrap(),
            Key::session_id(&[0; 31]).unwrap(),
            Key::session_id(&[0; 30]).unwrap(),
            Key::session_id(&[0; 1]).unwrap(),
            Key::ticket(&[]),
            Key::psk(&[]),
        ];
        let hashes: HashSet<u64> =
            (0..10).flat_map(|secret| keys.map(|key| Folded::new(&[secret; 16]).of(&key))).collect();
        assert_eq!(hashes.len(), 60);
    }

    #[test]
    fn a_map_of_names_that_differ_in_one_place_has_a_hash_for_each() {
        let hash = Folded::new(&[3; 16]);
        let names = (0..16).flat_map(|at| {
            (0..=255u8).map(move |byte| {
                let mut name = [7; 16];
                name[at] = byte;
                name
            })
        });
        let names: HashSet<[u8; 16]> = names.collect();
        let hashes: HashSet<u64> = names.iter().flat_map(|n| [0u16, 1, 4095].map(|b| hash.hash_one((n, b)))).collect();
        assert_eq!(hashes.len(), 3 * names.len());
    }
}
