//! A hash index of four bytes a key: from the hash of a key to a number, which the caller checks.
//!
//! A bucket is a cache line: fifteen slots, and a count. A slot holds a number, and above it as many bits of the hash as there is room for, which
//! turn away nearly all strangers: 15 in a table of the default size, 7 in one of sixteen million flows. All fifteen are compared at once, without a
//! branch. A key lies in its home bucket or, when that is full, in the next one that has room; the count says how many keys went past, so
//! that who looks for one that is not here stops at the first bucket nobody went past (Bronson and Shi, "Open-sourcing F14", 2019). Removal takes them off
//! the counts again: there are no tombstones, nothing is moved, and a table that has been churned for a month probes like a new one.
//!
//! Memory that is all zero is an empty index: it comes so from the system, and no page is touched before a key needs it.

use crate::prefetch;

/// Words of a bucket: the count, and the slots.
const WORDS: usize = 16;
const SLOTS: usize = WORDS - 1;

type Bucket = [u32; WORDS];

/// See the module's description.
pub(super) struct Index {
    words: Box<[u32]>,
    /// Words before the first one that begins a cache line.
    skew: usize,
    buckets: usize,
    /// Bits of a slot that hold the number.
    shift: u32,
}

impl Index {
    /// For at most `keys` keys, with numbers from 1 to `most`, which is no less than there are keys.
    ///
    /// # Panics
    /// When `most` leaves no bit of a slot's 32.
    pub fn new(keys: usize, most: u32) -> Index {
        let shift = u32::BITS - most.leading_zeros();
        assert!((1..u32::BITS).contains(&shift) && most as usize >= keys, "numbers up to {most}");
        let buckets = buckets_for(keys);
        let words = vec![0; buckets * WORDS + WORDS].into_boxed_slice();
        // Where it cannot be said a bucket lies in two lines, and all else is the same.
        let skew = Some(words.as_ptr().cast::<u8>().align_offset(prefetch::LINE) / size_of::<u32>());
        Index { skew: skew.filter(|n| *n <= WORDS).unwrap_or(0), words, buckets, shift }
    }

    /// Memory of an index for so many keys, bytes.
    pub const fn bytes_for(keys: usize) -> usize {
        (buckets_for(keys) + 1) * WORDS * size_of::<u32>()
    }

    /// Where it lies.
    pub fn memory(&self) -> core::ops::Range<*const u8> {
        let words = self.words.as_ptr_range();
        words.start.cast()..words.end.cast()
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.buckets as u64) >> 32) as usize
    }

    #[inline(always)]
    fn next(&self, bucket: usize) -> usize {
        if bucket + 1 == self.buckets { 0 } else { bucket + 1 }
    }

    #[inline(always)]
    fn at(&self, bucket: usize) -> usize {
        self.skew + bucket * WORDS
    }

    #[inline(always)]
    fn bucket(&self, bucket: usize) -> &Bucket {
        let at = self.at(bucket);
        self.words[at..at + WORDS].first_chunk().expect("so many words")
    }

    /// What a slot holds above the number. Never nothing: that is vacant.
    #[inline(always)]
    fn tag(&self, hash: u64) -> u32 {
        let tag = (hash as u32) >> self.shift;
        (tag + u32::from(tag == 0)) << self.shift
    }

    #[inline(always)]
    fn number(&self, slot: u32) -> u32 {
        slot & ((1 << self.shift) - 1)
    }

    /// Asks for the line of this hash's home.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch::line(self.words.as_ptr().wrapping_add(self.at(self.home(hash))).cast());
    }

    /// The first number that may be that of a key with this hash, among those that lie at its home.
    #[inline(always)]
    pub fn guess(&self, hash: u64) -> Option<u32> {
        let bucket = self.bucket(self.home(hash));
        let found = matching(bucket, self.tag(hash), self.shift);
        (found != 0).then(|| self.number(bucket[found.trailing_zeros() as usize % WORDS]))
    }

    /// The number of a key with this hash that `is` the one.
    #[inline]
    pub fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let (mut bucket, tag) = (self.home(hash), self.tag(hash));
        for _ in 0..self.buckets {
            let words = self.bucket(bucket);
            let mut found = matching(words, tag, self.shift);
            while found != 0 {
                let number = self.number(words[found.trailing_zeros() as usize % WORDS]);
                if is(number) {
                    return Some(number);
                }
                found &= found - 1;
            }
            if words[0] == 0 {
                break;
            }
            bucket = self.next(bucket);
        }
        None
    }

    /// Puts a number in that is not there. No more than there is room for.
    pub fn insert(&mut self, hash: u64, number: u32) {
        debug_assert!(number > 0 && self.number(number) == number);
        let slot = self.tag(hash) | number;
        let mut bucket = self.home(hash);
        // There are a third more slots than keys, so this ends.
        loop {
            let at = self.at(bucket);
            let words = &mut self.words[at..at + WORDS];
            if let Some(vacant) = words[1..].iter_mut().find(|word| **word == 0) {
                *vacant = slot;
                return;
            }
            words[0] += 1;
            bucket = self.next(bucket);
        }
    }

    /// Takes a number out that is there, with this hash.
    pub fn remove(&mut self, hash: u64, number: u32) {
        let slot = self.tag(hash) | number;
        let mut bucket = self.home(hash);
        for _ in 0..self.buckets {
            let at = self.at(bucket);
            let words = &mut self.words[at..at + WORDS];
            if let Some(word) = words[1..].iter_mut().find(|word| **word == slot) {
                *word = 0;
                return;
            }
            debug_assert!(words[0] > 0, "{number} is not in the index");
            words[0] = words[0].saturating_sub(1);
            bucket = self.next(bucket);
        }
        debug_assert!(false, "{number} is not in the index");
    }
}

/// The slots with this tag, as bits. The count has none: it is no larger than a number is.
#[inline(always)]
fn matching(bucket: &Bucket, tag: u32, shift: u32) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::*;
        // The compiler makes more than twice as many instructions of the loop below.
        // SAFETY: every processor of this architecture has SSE2, and what is read lies within the bucket.
        unsafe {
            let (tag, shift) = (_mm_set1_epi32(tag as i32), _mm_cvtsi32_si128(shift as i32));
            let words = bucket.as_ptr().cast::<__m128i>();
            let [a, b, c, d] = [0, 1, 2, 3].map(|four| {
                let differs = _mm_srl_epi32(_mm_xor_si128(_mm_loadu_si128(words.add(four)), tag), shift);
                _mm_cmpeq_epi32(differs, _mm_setzero_si128())
            });
            // All ones or all zeros each: so they are still when they are narrow.
            _mm_movemask_epi8(_mm_packs_epi16(_mm_packs_epi32(a, b), _mm_packs_epi32(c, d))) as u32
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    matching_one_by_one(bucket, tag, shift)
}

/// The same, in any machine's words.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn matching_one_by_one(bucket: &Bucket, tag: u32, shift: u32) -> u32 {
    let mut found = 0;
    for (at, word) in bucket.iter().enumerate() {
        found |= u32::from((word ^ tag) >> shift == 0) << at;
    }
    found
}

/// At a load of at most 3/4.
const fn buckets_for(keys: usize) -> usize {
    (keys * 4).div_ceil(SLOTS * 3)
}

#[cfg(test)]
impl Index {
    /// All slots in use, as bucket, bits of the hash, and number.
    pub fn all(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        let used = |bucket| self.bucket(bucket)[1..].iter().filter(|slot| **slot != 0);
        (0..self.buckets).flat_map(move |bucket| used(bucket).map(move |slot| (bucket, self.number(*slot))))
    }

    /// How many keys went past each bucket, summed; and what it ought to be, if keys with these hashes lie in these buckets.
    pub fn passed(&self, lies: impl Iterator<Item = (u64, usize)>) -> (Vec<u32>, Vec<u32>) {
        let counted = (0..self.buckets).map(|b| self.bucket(b)[0]).collect();
        let mut expected = vec![0; self.buckets];
        for (hash, bucket) in lies {
            let mut at = self.home(hash);
            while at != bucket {
                expected[at] += 1;
                at = self.next(at);
            }
        }
        (counted, expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        /// Few buckets, and hashes that crowd into some of them: keys go past full ones and around the end.
        #[test]
        fn it_agrees_with_a_map(ops in prop::collection::vec((any::<bool>(), 0..48u32, 0..4u64, 0..3u64), 1..300)) {
            let mut index = Index::new(48, 63);
            let mut model: HashMap<u32, u64> = HashMap::new();
            for (put, n, home, tag) in ops {
                let number = n + 1;
                match (put, model.get(&number).copied()) {
                    (true, None) => {
                        let hash = (home * 0x5555_5555) << 32 | tag << 26;
                        index.insert(hash, number);
                        model.insert(number, hash);
                    }
                    (false, Some(hash)) => {
                        index.remove(hash, number);
                        model.remove(&number);
                    }
                    _ => {}
                }
                for number in 1..49 {
                    let hash = model.get(&number).copied();
                    prop_assert_eq!(index.find(hash.unwrap_or(0), |n| n == number), hash.map(|_| number));
                }
                let lies: Vec<_> = index.all().collect();
                prop_assert_eq!(lies.len(), model.len());
                let (counted, expected) = index.passed(lies.into_iter().map(|(bucket, n)| (model[&n], bucket)));
                prop_assert_eq!(counted, expected);
            }
        }
    }

    proptest! {
        #[test]
        fn all_slots_at_once_match_as_one_by_one(
            mut bucket in prop::array::uniform16(any::<u32>()), shift in 1u32..32, tag: u32, like: u16,
        ) {
            let tag = tag >> shift << shift;
            for (at, word) in bucket.iter_mut().enumerate().filter(|(at, _)| like >> at & 1 != 0) {
                *word = tag | (*word & ((1 << shift) - 1));
                prop_assert!(matching_one_by_one(&[*word; WORDS], tag, shift) == 0xffff, "{}", at);
            }
            prop_assert_eq!(matching(&bucket, tag, shift), matching_one_by_one(&bucket, tag, shift));
        }
    }

    #[test]
    fn a_full_index_finds_everybody_and_nobody_else() {
        const KEYS: u32 = 10_000;
        let hash = |n: u32| {
            u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        };
        let mut index = Index::new(KEYS as usize, KEYS);
        (1..=KEYS).for_each(|n| index.insert(hash(n), n));
        assert!((1..=KEYS).all(|n| index.find(hash(n), |m| m == n) == Some(n)));
        assert!((KEYS + 1..3 * KEYS).all(|n| index.find(hash(n), |m| hash(m) == hash(n)).is_none()));
        let guessed = (1..=KEYS).filter(|n| index.guess(hash(*n)) == Some(*n)).count();
        assert!(guessed > KEYS as usize * 95 / 100, "{guessed} of {KEYS} are at home, and first");
        (1..=KEYS).for_each(|n| index.remove(hash(n), n));
        assert!(index.words.iter().all(|word| *word == 0), "nothing is left behind");
    }

    #[test]
    fn buckets_are_cache_lines_and_memory_is_what_bytes_for_says() {
        for keys in [1, 11, 12, 1000, 100_000] {
            let index = Index::new(keys, keys as u32);
            assert!(index.buckets * SLOTS >= keys * 4 / 3);
            assert_eq!(index.words.as_ptr().wrapping_add(index.skew) as usize % prefetch::LINE, 0);
            assert_eq!(size_of_val(&*index.words), Index::bytes_for(keys));
        }
    }
}
