//! The Internet checksum: whole (RFC 1071) and by difference (RFC 1624, equation 3).

use super::Addr;

/// So many bytes are worth to be summed in the machine's own order.
const LONG: usize = 32;

/// A sum in the machine's own order, which costs it nothing, and turned round at the end: RFC 1071, section 2 B. Of eight bytes at a time, whose
/// carries go into the upper half.
#[derive(Clone, Copy, Default)]
struct Wide(u128);

impl Wide {
    #[inline]
    fn add(self, word: u64) -> Wide {
        Wide(self.0 + u128::from(word))
    }

    #[inline]
    fn add_bytes(mut self, bytes: &[u8]) -> Wide {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self = self.add(u64::from_ne_bytes(*word));
        }
        let rest = match rest.split_first_chunk() {
            Some((four, rest)) => {
                self = self.add(u64::from(u32::from_ne_bytes(*four)));
                rest
            }
            None => rest,
        };
        self.add(u64::from(u32::from_ne_bytes(padded(rest))))
    }

    /// An address of either family as it stands in a pseudo header. Of an IPv4 address all 16 bytes: what they have in common adds up to
    /// 0xffff, which is nothing where sums are ones' complement (and are not of zeros alone).
    #[inline]
    fn add_address(self, addr: &Addr) -> Wide {
        let half = |at: usize| u64::from_ne_bytes(addr.0[at..at + 8].try_into().expect("8 of 16 bytes"));
        self.add(half(0)).add(half(8))
    }

    /// Folded to 16 bits, and in the network's order.
    #[inline]
    fn fold(self) -> u16 {
        let [low, high] = [self.0 as u64, (self.0 >> 64) as u64];
        // 2^64 counts as 1, as 2^16 does.
        u16::from_be_bytes(Sum((low >> 32) + (low & 0xffff_ffff) + high).fold().to_ne_bytes())
    }
}

/// Up to three bytes, and zeros.
#[inline]
fn padded(rest: &[u8]) -> [u8; 4] {
    match *rest {
        [a] => [a, 0, 0, 0],
        [a, b] => [a, b, 0, 0],
        [a, b, c] => [a, b, c, 0],
        _ => [0; 4],
    }
}

/// A running ones' complement sum of 16-bit words.
///
/// 64 bits hold the carries of any frame, so they are folded once, at the end.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum(u64);

impl Sum {
    /// Adds `bytes`, which begin at an even offset of what is summed. An odd last byte counts as padded with zero.
    #[inline]
    pub fn add_bytes(mut self, bytes: &[u8]) -> Sum {
        if bytes.len() >= LONG {
            self.0 += u64::from(Wide::default().add_bytes(bytes).fold());
            return self;
        }
        let (words, rest) = bytes.as_chunks::<4>();
        self.0 += words.iter().map(|w| u64::from(u32::from_be_bytes(*w))).sum::<u64>();
        self.0 += u64::from(u32::from_be_bytes(padded(rest)));
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
        // Both halves are added in both places: what the lower sum carries goes into the upper one, which is then the sum with its carry.
        let s = (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32;
        (s.wrapping_add(s.rotate_left(16)) >> 16) as u16
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

/// The same of a TCP segment, between addresses of one family.
#[inline]
pub fn tcp(src: &Addr, dst: &Addr, segment: &[u8]) -> u16 {
    const TCP: u32 = 6;
    // The length has 32 bits in IPv6's pseudo header, and 16 in IPv4's. Both numbers lie at an even offset.
    let constant = (TCP + segment.len() as u32).to_be();
    !Wide(u128::from(constant)).add_address(src).add_address(dst).add_bytes(segment).fold()
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

    #[test]
    fn what_carries_over_and_over_is_folded_as_by_hand() {
        let by_hand = |mut s: u64| {
            while s > 0xffff {
                s = (s & 0xffff) + (s >> 16);
            }
            s as u16
        };
        let edges =
            [0, 1, 2, 0xfffe, 0xffff, 0x1_0000, 0xffff_fffe, 0xffff_ffff, 0x1_0000_0000, u64::MAX - 1, u64::MAX];
        for (a, b) in edges.iter().flat_map(|a| edges.iter().map(move |b| (a, b))) {
            for s in [a ^ b, a.wrapping_add(*b), a.rotate_left(16) ^ b] {
                assert_eq!(Sum(s).fold(), by_hand(s), "{s:x}");
            }
        }
    }

    /// Word by word, as RFC 1071 section 1 says it.
    fn slowly(bytes: &[u8]) -> u16 {
        let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        bytes.chunks(2).map(word).fold(0, |sum, word| {
            let sum = sum + word;
            (sum & 0xffff) + (sum >> 16)
        }) as u16
    }

    #[test]
    fn all_ones_sum_up_as_they_do_word_by_word_however_many_they_are() {
        for n in 0..200 {
            assert_eq!(Sum::default().add_bytes(&vec![0xff; n]).fold(), slowly(&vec![0xff; n]), "{n}");
            assert_eq!(Sum::default().add_bytes(&vec![0; n]).fold(), 0);
        }
    }

    proptest! {
        #[test]
        fn bytes_are_summed_as_word_by_word(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Sum::default().add_bytes(&data).fold(), slowly(&data));
        }

        #[test]
        fn tcp_between_addresses_is_transport_between_their_octets(
            data in proptest::collection::vec(any::<u8>(), 20..100), a: [u8; 16], b: [u8; 16], v4: bool,
        ) {
            let addr = |x: [u8; 16]| if v4 { Addr::v4([x[0], x[1], x[2], x[3]]) } else { Addr(x) };
            let (a, b) = (addr(a), addr(b));
            prop_assert_eq!(tcp(&a, &b, &data), transport(a.octets(), b.octets(), 6, &data));
        }

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
