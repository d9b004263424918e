//! The Internet checksum: whole (RFC 1071) and by difference (RFC 1624, equation 3).

/// A running ones' complement sum of 16-bit words.
///
/// 64 bits hold the carries of any frame, so they are folded once, at the end.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum(u64);

impl Sum {
    /// Adds `bytes`, which begin at an even offset of what is summed. An odd last byte counts as padded with zero.
    #[inline]
    pub fn add_bytes(mut self, bytes: &[u8]) -> Sum {
        let mut words = bytes.chunks_exact(4);
        for w in &mut words {
            self.0 += u64::from(u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
        }
        let rest = words.remainder();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        self.0 += u64::from(u32::from_be_bytes(last));
        self
    }

    /// Adds one 16-bit word.
    #[inline]
    pub fn add_word(mut self, word: u16) -> Sum {
        self.0 += u64::from(word);
        self
    }

    /// Folded to 16 bits; not complemented.
    #[inline]
    pub fn fold(self) -> u16 {
        // Each step may carry once more; no branch, since what carries nobody can predict.
        let s = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let s = (s & 0xffff_ffff) + (s >> 32);
        let s = (s & 0xffff) + (s >> 16);
        let s = (s & 0xffff) + (s >> 16);
        s as u16
    }

    /// What goes into the checksum field.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// The checksum of a pseudo header and a transport segment (RFC 9293 section 3.1, RFC 8200 section 8.1). Addresses
/// of 4 or of 16 bytes. A segment that carries its own right checksum gives 0.
pub fn transport(src: &[u8], dst: &[u8], protocol: u8, segment: &[u8]) -> u16 {
    let len = segment.len() as u32;
    Sum::default()
        .add_bytes(src)
        .add_bytes(dst)
        .add_bytes(&len.to_be_bytes())
        .add_word(u16::from(protocol))
        .add_bytes(segment)
        .checksum()
}

/// What has changed under a checksum: HC' = ~(~HC + sum(~m + m')), collected over all changed words, applied once.
#[derive(Clone, Copy, Default, Debug)]
pub struct Change(u64);

impl Change {
    /// A 16-bit word at an even offset.
    #[inline]
    pub fn word(&mut self, old: u16, new: u16) {
        self.0 += u64::from(!old) + u64::from(new);
    }

    /// Two words at an even offset.
    #[inline]
    pub fn long(&mut self, old: u32, new: u32) {
        // Both halves carry into the same 16 bits once folded.
        self.0 += u64::from(!old) + u64::from(new);
    }

    /// Four bytes at any offset. At an odd one every byte stands in the other half of its word: the sum of swapped
    /// words is the swapped sum (RFC 1071, section 2 B).
    #[inline]
    pub fn long_at(&mut self, offset: usize, old: u32, new: u32) {
        if offset.is_multiple_of(2) {
            self.long(old, new);
        } else {
            let mut c = Change::default();
            c.long(old, new);
            self.0 += u64::from(Sum(c.0).fold().swap_bytes());
        }
    }

    /// Equally long byte strings of even length at an even offset, such as addresses.
    #[inline]
    pub fn bytes(&mut self, old: &[u8], new: &[u8]) {
        debug_assert!(old.len() == new.len() && old.len().is_multiple_of(2));
        for (o, n) in old.chunks_exact(4).zip(new.chunks_exact(4)) {
            self.long(u32::from_be_bytes([o[0], o[1], o[2], o[3]]), u32::from_be_bytes([n[0], n[1], n[2], n[3]]));
        }
        if old.len() % 4 == 2 {
            let i = old.len() - 2;
            self.word(u16::from_be_bytes([old[i], old[i + 1]]), u16::from_be_bytes([new[i], new[i + 1]]));
        }
    }

    /// The new checksum for an old one.
    #[inline]
    pub fn apply(self, checksum: u16) -> u16 {
        Sum(self.0 + u64::from(!checksum)).checksum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        assert_eq!(Sum::default().add_bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_section_4() {
        let mut c = Change::default();
        c.word(0x5555, 0x3285);
        assert_eq!(c.apply(0xdd2f), 0x0000);
    }

    proptest! {
        #[test]
        fn an_incremental_update_verifies_like_a_full_sum(
            mut data in proptest::collection::vec(any::<u8>(), 40..80),
            at in 0usize..30, new: u32, even_at in 0usize..15, addr in proptest::array::uniform16(any::<u8>()),
        ) {
            data[0] = 0; data[1] = 0; // the checksum field
            let sum = Sum::default().add_bytes(&data).checksum();
            data[..2].copy_from_slice(&sum.to_be_bytes());
            let mut c = Change::default();
            let at = at + 2;
            let old = u32::from_be_bytes(data[at..at + 4].try_into().unwrap());
            c.long_at(at, old, new);
            data[at..at + 4].copy_from_slice(&new.to_be_bytes());
            let even = 2 + even_at / 2 * 2;
            let before: [u8; 16] = data[even..even + 16].try_into().unwrap();
            c.bytes(&before, &addr);
            data[even..even + 16].copy_from_slice(&addr);
            data[..2].copy_from_slice(&c.apply(sum).to_be_bytes());
            prop_assert_eq!(Sum::default().add_bytes(&data).checksum(), 0);
        }
    }
}
