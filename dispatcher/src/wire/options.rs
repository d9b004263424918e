//! TCP options (RFC 9293 section 3.2): those of a SYN lifted into one struct, and where a segment's timestamps and
//! SACK blocks stand, to be rewritten in place.

mod kind {
    pub const END: u8 = 0;
    pub const NOP: u8 = 1;
    pub const MSS: u8 = 2;
    pub const WSCALE: u8 = 3;
    pub const SACK_PERMITTED: u8 = 4;
    pub const SACK: u8 = 5;
    pub const TIMESTAMPS: u8 = 8;
}

/// Walks options: kind, and the offset and bytes of the body. Ends at the first that cannot be.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Walk<'a> {
    type Item = (u8, usize, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let kind = *self.bytes.get(self.at)?;
            match kind {
                kind::END => return None,
                kind::NOP => self.at += 1,
                _ => {
                    let len = usize::from(*self.bytes.get(self.at + 1)?);
                    let body = self.bytes.get(self.at + 2..self.at + len.max(2))?;
                    if len < 2 {
                        return None;
                    }
                    let at = self.at + 2;
                    self.at += len;
                    return Some((kind, at, body));
                }
            }
        }
    }
}

/// A timestamps option's two values (RFC 7323).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timestamps {
    /// The sender's clock.
    pub val: u32,
    /// The echo of the receiver's clock.
    pub ecr: u32,
}

/// What a SYN or SYN-ACK offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SynOptions {
    /// Maximum segment size, bytes of payload and options.
    pub mss: Option<u16>,
    /// Window scale shift; at most 14 (RFC 7323 section 2.3).
    pub wscale: Option<u8>,
    /// Selective acknowledgements are understood.
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
}

impl SynOptions {
    /// Reads the option bytes of a SYN. Unknown and misshapen options are passed over, as hosts do, and so is an MSS of zero: it
    /// would let nothing through.
    pub fn parse(bytes: &[u8]) -> SynOptions {
        SynOptions::usual(bytes).unwrap_or_else(|| SynOptions::by_walk(bytes))
    }

    /// The three layouts that nearly all SYNs have, at one look: Linux with timestamps and without, Windows.
    #[inline]
    fn usual(bytes: &[u8]) -> Option<SynOptions> {
        use kind::{MSS, NOP, SACK_PERMITTED, TIMESTAMPS, WSCALE};
        let (mss, shift, stamp) = match *bytes {
            [MSS, 4, a, b, SACK_PERMITTED, 2, TIMESTAMPS, 10, .., NOP, WSCALE, 3, s] if bytes.len() == 20 => {
                ([a, b], s, Some(read_timestamps(&bytes[8..16])))
            }
            [MSS, 4, a, b, NOP, NOP, SACK_PERMITTED, 2, NOP, WSCALE, 3, s]
            | [MSS, 4, a, b, NOP, WSCALE, 3, s, NOP, NOP, SACK_PERMITTED, 2] => ([a, b], s, None),
            _ => return None,
        };
        Some(SynOptions {
            mss: Some(u16::from_be_bytes(mss)).filter(|mss| *mss > 0),
            wscale: Some(shift.min(14)),
            sack_permitted: true,
            timestamps: stamp,
        })
    }

    fn by_walk(bytes: &[u8]) -> SynOptions {
        let mut o = SynOptions::default();
        for (kind, _, body) in (Walk { bytes, at: 0 }) {
            match (kind, body) {
                (kind::MSS, &[a, b]) => o.mss = Some(u16::from_be_bytes([a, b])).filter(|mss| *mss > 0),
                (kind::WSCALE, &[s]) => o.wscale = Some(s.min(14)),
                (kind::SACK_PERMITTED, []) => o.sack_permitted = true,
                (kind::TIMESTAMPS, b) if b.len() == 8 => o.timestamps = Some(read_timestamps(b)),
                _ => {}
            }
        }
        o
    }

    /// Writes the options in the order and padding Linux uses; returns the bytes used, a multiple of four, at most 20.
    pub fn write(&self, out: &mut [u8; 40]) -> usize {
        let mut n = 0;
        let mut put = |b: &[u8]| {
            out[n..n + b.len()].copy_from_slice(b);
            n += b.len();
        };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            put(&[kind::MSS, 4, a, b]);
        }
        match (self.sack_permitted, self.timestamps) {
            (sack, Some(ts)) => {
                put(if sack { &[kind::SACK_PERMITTED, 2] } else { &[kind::NOP, kind::NOP] });
                put(&[kind::TIMESTAMPS, 10]);
                put(&ts.val.to_be_bytes());
                put(&ts.ecr.to_be_bytes());
            }
            (true, None) => put(&[kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2]),
            (false, None) => {}
        }
        if let Some(shift) = self.wscale {
            put(&[kind::NOP, kind::WSCALE, 3, shift]);
        }
        n
    }
}

/// Writes the timestamps option of an ordinary segment, padded to twelve bytes.
pub fn write_timestamps(ts: Timestamps) -> [u8; 12] {
    let mut o = [kind::NOP, kind::NOP, kind::TIMESTAMPS, 10, 0, 0, 0, 0, 0, 0, 0, 0];
    o[4..8].copy_from_slice(&ts.val.to_be_bytes());
    o[8..12].copy_from_slice(&ts.ecr.to_be_bytes());
    o
}

fn read_timestamps(b: &[u8]) -> Timestamps {
    Timestamps { val: u32::from_be_bytes([b[0], b[1], b[2], b[3]]), ecr: u32::from_be_bytes([b[4], b[5], b[6], b[7]]) }
}

/// Where a segment's options of interest stand, as offsets from the first option byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegmentOptions {
    /// Offset of TSval, and the values.
    pub timestamps: Option<(usize, Timestamps)>,
    /// Offset of the first SACK block, and how many blocks of eight bytes there are (RFC 2018).
    pub sack: Option<(usize, usize)>,
}

impl SegmentOptions {
    /// Reads the option bytes of a segment. The usual twelve bytes (two NOPs and timestamps) take the short way.
    #[inline]
    pub fn parse(bytes: &[u8]) -> SegmentOptions {
        if bytes.is_empty() {
            return SegmentOptions::default();
        }
        if bytes.len() == 12 && bytes[..4] == [kind::NOP, kind::NOP, kind::TIMESTAMPS, 10] {
            return SegmentOptions { timestamps: Some((4, read_timestamps(&bytes[4..]))), sack: None };
        }
        let mut o = SegmentOptions::default();
        for (kind, at, body) in (Walk { bytes, at: 0 }) {
            match kind {
                kind::TIMESTAMPS if body.len() == 8 => o.timestamps = Some((at, read_timestamps(body))),
                kind::SACK if body.len().is_multiple_of(8) => o.sack = Some((at, body.len() / 8)),
                _ => {}
            }
        }
        o
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn linux_syn_options_are_read() {
        // As sent by Linux 6.x: MSS 1460, SACK permitted, timestamps, window scale 7.
        let b = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7];
        let o = SynOptions::parse(&b);
        let ts = Timestamps { val: 9, ecr: 0 };
        assert_eq!(o, SynOptions { mss: Some(1460), wscale: Some(7), sack_permitted: true, timestamps: Some(ts) });
        let mut out = [0; 40];
        let n = o.write(&mut out);
        assert_eq!(out[..n], b);
    }

    #[test]
    fn misshapen_options_end_the_walk_and_harm_nothing() {
        for b in [&[2u8][..], &[2, 0, 1, 1], &[2, 1, 3, 3], &[8, 40, 0, 0], &[0, 2, 4, 5, 0xb4], &[5, 3, 1]] {
            assert_eq!(SynOptions::parse(b), SynOptions::default());
            assert_eq!(SegmentOptions::parse(b), SegmentOptions::default());
        }
    }

    #[test]
    fn sack_blocks_are_found_behind_timestamps() {
        let mut b = vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1, 5, 18];
        b.extend([0u8; 16]);
        let o = SegmentOptions::parse(&b);
        assert_eq!(o.timestamps, Some((4, Timestamps { val: 1, ecr: 2 })));
        assert_eq!(o.sack, Some((16, 2)));
    }

    proptest! {
        #[test]
        fn written_options_are_read_back(mss in proptest::option::of(1u16..), wscale in proptest::option::of(0u8..15), sack: bool, ts: Option<(u32, u32)>) {
            let o = SynOptions { mss, wscale, sack_permitted: sack, timestamps: ts.map(|(val, ecr)| Timestamps { val, ecr }) };
            let mut out = [0; 40];
            let n = o.write(&mut out);
            prop_assert_eq!(n % 4, 0);
            prop_assert_eq!(SynOptions::parse(&out[..n]), o);
        }

        #[test]
        fn the_usual_layouts_are_read_as_by_a_walk(ab: [u8; 2], s: u8, ts: [u8; 8], at in 0usize..20, other: u8) {
            let [a, b] = ab;
            let linux = [&[2, 4, a, b, 4, 2, 8, 10][..], &ts, &[1, 3, 3, s]].concat();
            let bare = vec![2, 4, a, b, 1, 1, 4, 2, 1, 3, 3, s];
            let windows = vec![2, 4, a, b, 1, 3, 3, s, 1, 1, 4, 2];
            for mut bytes in [linux, bare, windows] {
                prop_assert_eq!(SynOptions::usual(&bytes), Some(SynOptions::by_walk(&bytes)));
                // With any byte another one, and cut anywhere.
                let at = at % bytes.len();
                bytes[at] = other;
                prop_assert_eq!(SynOptions::parse(&bytes), SynOptions::by_walk(&bytes));
                prop_assert_eq!(SynOptions::parse(&bytes[..at]), SynOptions::by_walk(&bytes[..at]));
            }
        }

        #[test]
        fn no_option_bytes_panic(b in proptest::collection::vec(any::<u8>(), 0..44)) {
            let _ = (SynOptions::parse(&b), SegmentOptions::parse(&b));
        }
    }
}
