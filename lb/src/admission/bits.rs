//! Sets of members of a pool: a bit for each, and one for each word of them.

use crate::backend::SET_WORDS;

/// A set of numbers below 4096.
pub(crate) struct Bits {
    words: Box<[u64]>,
    used: u64,
    /// Where the next is looked for.
    cursor: usize,
}

// One bit of `used` for each word.
const _: () = assert!(SET_WORDS <= 64);

impl Bits {
    pub fn new(members: usize) -> Bits {
        Bits { words: vec![0; members.div_ceil(64)].into(), used: 0, cursor: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    pub fn insert(&mut self, member: usize) {
        self.insert_word(member / 64, 1 << (member % 64));
    }

    pub fn insert_word(&mut self, word: usize, bits: u64) {
        self.words[word] |= bits;
        self.used |= u64::from(bits != 0) << word;
    }

    pub fn remove(&mut self, member: usize) {
        self.words[member / 64] &= !(1 << (member % 64));
        if self.words[member / 64] == 0 {
            self.used &= !(1 << (member / 64));
        }
    }

    /// Takes one out: in turn, so that none is always the last.
    pub fn pop(&mut self) -> Option<usize> {
        if self.used == 0 {
            return None;
        }
        let (word, bit) = (self.cursor / 64 % 64, self.cursor % 64);
        let rest = if self.used >> word & 1 != 0 { self.words[word] >> bit << bit } else { 0 };
        let member = if rest != 0 {
            word * 64 + rest.trailing_zeros() as usize
        } else {
            let later = self.used & u64::MAX.checked_shl(word as u32 + 1).unwrap_or(0);
            let word = (if later != 0 { later } else { self.used }).trailing_zeros() as usize;
            word * 64 + self.words[word].trailing_zeros() as usize
        };
        self.remove(member);
        self.cursor = member + 1;
        Some(member)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn all_come_out_once_and_in_turn() {
        let mut bits = Bits::new(4096);
        for member in [4095, 0, 63, 64, 700, 64] {
            bits.insert(member);
        }
        assert_eq!((bits.pop(), bits.pop()), (Some(0), Some(63)));
        bits.insert(0);
        bits.insert(65);
        bits.remove(700);
        let rest: Vec<_> = core::iter::from_fn(|| bits.pop()).collect();
        assert_eq!(rest, [64, 65, 4095, 0]);
        assert!(bits.is_empty() && bits.pop().is_none());
    }

    #[test]
    fn of_those_that_come_back_each_has_its_turn() {
        let mut bits = Bits::new(130);
        (0..130).for_each(|member| bits.insert(member));
        for n in 0..1000 {
            let member = bits.pop().unwrap();
            assert_eq!(member, n % 130);
            bits.insert(member);
        }
    }
}
