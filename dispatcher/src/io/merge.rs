//! Segments of one stream that follow each other, sent as one large unit: what GRO does on arrival, for packets that were within others and that no
//! GRO has seen ([`Frame::was_within`](crate::wire::Frame::was_within)).
//!
//! Nothing is copied but headers: those of the unit are written beside the frames, and the kernel is told of the payloads where they lie. The
//! frames stay as they are, and can still be sent one by one.
//!
//! Merged is only what a card cuts into the very same segments again, but for numbers of packets that must not be fragmented: same headers, same size but
//! for the last, and right checksums, for the unit's segments get new ones. Whatever is odd goes alone.

use super::{MAX_LINK_HEADER, vnet};
use crate::wire::checksum::Sum;
use crate::wire::packet::{Flags, Ip, Packet, Tcp, protocol, tcp_checksum_ok};
use crate::wire::{Family, Seq};
use core::ops::Range;

/// Most bytes of headers: link, IPv6, TCP with all its options.
const HEADERS: usize = MAX_LINK_HEADER + 40 + 60;

/// What goes before a unit's payloads: the kernel's header, and those of a frame.
pub(super) const LEAD: usize = vnet::LEN + HEADERS;

/// Most bytes of a unit's IP packet.
const LONGEST: usize = 65_535;

/// A payload of fewer bytes is sent in no large unit.
const LEAST_SEGMENT: usize = 256;

/// Segments that will be sent as one.
pub(super) struct Unit {
    ip: Ip,
    /// Its payload grows.
    tcp: Tcp,
    segment: usize,
    next: Seq,
    /// No other can follow: it was a short one, or has PSH.
    ends: bool,
    mtu: u16,
}

impl Unit {
    /// Which this frame can begin.
    pub fn begin(frame: &[u8], mtu: u16) -> Option<Unit> {
        let Packet { ip, .. } = Packet::parse(frame).ok()?;
        let headers = if ip.family == Family::V4 { 20 } else { 40 };
        let tcp = Tcp::parse(frame, &ip).ok()?;
        let whole = ip.protocol == protocol::TCP
            && ip.end == frame.len()
            && tcp.payload <= HEADERS
            && ip.end - ip.header <= usize::from(mtu);
        // Without options of IPv4, or headers behind that of IPv6. What must not be fragmented needs no number of its own.
        let plain = ip.payload - ip.header == headers && tcp.payload_len() >= LEAST_SEGMENT;
        let unfragmented = ip.family == Family::V6 || frame[ip.header + 6] == 0x40;
        let (ordinary, ends) = ordinary(tcp.flags);
        let unit = Unit { ip, tcp, segment: tcp.payload_len(), next: tcp.seq + tcp.payload_len() as u32, ends, mtu };
        (whole && plain && unfragmented && ordinary && !ends).then_some(unit)
    }

    /// The payload of the frame that began.
    pub fn payload<'a>(&self, first: &'a [u8]) -> &'a [u8] {
        &first[self.tcp.payload..]
    }

    /// Takes a frame that follows: its payload. None when it does not fit. `first`: the one that began.
    pub fn take<'a>(&mut self, first: &[u8], frame: &'a [u8]) -> Option<&'a [u8]> {
        let Unit { ip, tcp, .. } = *self;
        let payload = frame.len().checked_sub(tcp.payload).filter(|n| (1..=self.segment).contains(n))?;
        if self.ends || tcp.end + payload - ip.header > LONGEST || !self.follows(first, frame) {
            return None;
        }
        let alone = tcp.payload_len() == self.segment;
        // The first is looked at when there is another.
        if alone && !is_intact(first, &ip) || !is_intact(frame, &Ip { end: frame.len(), ..ip }) {
            return None;
        }
        let (_, last) = ordinary(flags(frame, &tcp));
        self.ends = last || payload < self.segment;
        self.next += payload as u32;
        self.tcp.end += payload;
        self.tcp.flags = flags(frame, &tcp);
        Some(&frame[tcp.payload..])
    }

    /// The frame has the headers that the next segment has to have.
    fn follows(&self, first: &[u8], frame: &[u8]) -> bool {
        let (ip, tcp) = (self.ip.header, self.tcp.header);
        let same = |range: Range<usize>| first[range.clone()] == frame[range];
        let len = (frame.len() - ip) as u16;
        let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let network = match self.ip.family {
            // All but length, number and checksum.
            Family::V4 => same(0..ip + 2) && word(ip + 2) == len && same(ip + 6..ip + 10) && same(ip + 12..tcp + 4),
            Family::V6 => same(0..ip + 4) && word(ip + 4) == len - 40 && same(ip + 6..tcp + 4),
        };
        let seq = [frame[tcp + 4], frame[tcp + 5], frame[tcp + 6], frame[tcp + 7]];
        // All but number, PSH and checksum.
        network
            && u32::from_be_bytes(seq) == self.next.0
            && same(tcp + 8..tcp + 13)
            && ordinary(flags(frame, &self.tcp)).0
            && same(tcp + 14..tcp + 16)
            && same(tcp + 18..self.tcp.payload)
    }

    /// Writes what goes before the payloads, by the headers of the frame that began: how many bytes.
    pub fn write(&self, first: &[u8], to: &mut [u8; LEAD]) -> usize {
        let Unit { ip, tcp, segment, mtu, .. } = self;
        let ip = &Ip { end: tcp.end, ..*ip };
        let len = vnet::LEN + tcp.payload;
        let (header, headers) = to[..len].split_at_mut(vnet::LEN);
        header.copy_from_slice(&vnet::segments(ip, tcp, *segment as u16, *mtu));
        headers.copy_from_slice(&first[..tcp.payload]);
        let packet = &mut headers[ip.header..];
        let bytes = (ip.end - ip.header) as u16;
        match ip.family {
            Family::V4 => {
                packet[2..4].copy_from_slice(&bytes.to_be_bytes());
                packet[10..12].fill(0);
                let sum = Sum::default().add_bytes(&packet[..20]).checksum();
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            Family::V6 => packet[4..6].copy_from_slice(&(bytes - 40).to_be_bytes()),
        }
        headers[tcp.header + 13] = tcp.flags.0;
        headers[tcp.header + 16..tcp.header + 18].copy_from_slice(&vnet::pseudo_header(ip).to_be_bytes());
        len
    }
}

fn flags(frame: &[u8], tcp: &Tcp) -> Flags {
    Flags(frame[tcp.header + 13])
}

/// Whether they are those of a segment in the middle of a stream, and whether it is the last of a unit.
fn ordinary(flags: Flags) -> (bool, bool) {
    let push = flags.contains(Flags::PSH);
    (flags.0 & !Flags::PSH.0 == Flags::ACK.0, push)
}

/// Checksums are right.
fn is_intact(frame: &[u8], ip: &Ip) -> bool {
    let header = &frame[ip.header..ip.payload];
    (ip.family == Family::V6 || Sum::default().add_bytes(header).checksum() == 0) && tcp_checksum_ok(frame, ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::offload::{self, tests::plain, tests::written};
    use crate::wire::build::{Link, Segment};
    use crate::wire::packet::Vlans;
    use crate::wire::{Addr, Frame, Offload};
    use proptest::prelude::*;

    const MTU: u16 = 1500;

    fn cut(unit: &[u8], offload: Offload) -> Vec<Vec<u8>> {
        let (mut bytes, mut pieces) = (unit.to_vec(), Vec::new());
        assert!(offload::finish(&mut Frame::whole(&mut bytes).with(offload), &mut |piece| {
            pieces.push(piece.to_vec());
            true
        }));
        pieces
    }

    /// As many of the frames as fit into one unit: how many, and what the kernel is given.
    fn merged(frames: &[Vec<u8>]) -> (usize, [u8; vnet::LEN], Vec<u8>) {
        let mut unit = Unit::begin(&frames[0], MTU).expect("it can begin one");
        let mut payloads = unit.payload(&frames[0]).to_vec();
        let taken = frames[1..].iter().map_while(|frame| unit.take(&frames[0], frame));
        let taken = taken.map(|payload| payloads.extend(payload)).count();
        let mut lead = [0; LEAD];
        let len = unit.write(&frames[0], &mut lead);
        (1 + taken, lead[..vnet::LEN].try_into().unwrap(), [&lead[vnet::LEN..len], &payloads].concat())
    }

    fn address(v6: bool, n: u8) -> Addr {
        if v6 { Addr::from(std::net::IpAddr::from([n; 16])) } else { Addr::v4([10, 0, 0, n]) }
    }

    /// A stream's next segments: as a card makes them of a large one.
    fn stream(v6: bool, tags: usize, options: usize, room: usize, payload: &[u8], flags: Flags) -> Vec<Vec<u8>> {
        let options = vec![1; options * 4];
        let whole = Segment {
            link: Link { vlans: Vlans::from_ids(&[7, 8][..tags]), ..Link::default() },
            src: (address(v6, 1), 443),
            dst: (address(v6, 2), 50_000),
            seq: Seq(u32::MAX - 3000),
            flags,
            options: &options,
            payload,
            ..plain(payload)
        };
        cut(&written(&whole), Offload::large(room as u16))
    }

    proptest! {
        #[test]
        fn what_was_merged_is_cut_into_the_same_segments_again(
            v6: bool, tags in 0usize..3, options in 0usize..11, room in LEAST_SEGMENT..1400, len in 0usize..60_000, push: bool,
        ) {
            let payload: Vec<u8> = (0..len + 2 * room).map(|i| (i * 31 + i / 251) as u8).collect();
            let flags = if push { Flags::ACK.with(Flags::PSH) } else { Flags::ACK };
            let frames = stream(v6, tags, options, room, &payload[..payload.len().min(64_000)], flags);
            let (taken, header, unit) = merged(&frames);
            prop_assert_eq!(taken, frames.len());
            let vnet::Said::Left(left) = vnet::read(&header) else { panic!("{header:?}") };
            prop_assert_eq!(left, Offload::large(room as u16));
            prop_assert_eq!(cut(&unit, left), frames);
        }
    }

    #[test]
    fn a_frame_with_any_bit_wrong_stays_out() {
        for v6 in [false, true] {
            let frames = stream(v6, 1, 3, 300, &[7; 600], Flags::ACK);
            let takes = |first: &[u8], second: &[u8]| {
                Unit::begin(first, MTU).is_some_and(|mut unit| unit.take(first, second).is_some())
            };
            assert!(takes(&frames[0], &frames[1]));
            for bit in 0..frames[1].len() * 8 {
                let (mut first, mut second) = (frames[0].clone(), frames[1].clone());
                first[bit / 8] ^= 1 << (bit % 8);
                second[bit / 8] ^= 1 << (bit % 8);
                assert!(!takes(&first, &frames[1]), "bit {bit} of the first");
                assert!(!takes(&frames[0], &second), "bit {bit} of the second");
            }
        }
    }

    /// With right checksums.
    #[test]
    fn a_frame_that_a_card_would_not_make_next_stays_out() {
        let first = Segment { options: &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], payload: &[5; 300], ..plain(&[]) };
        let next = Segment { seq: first.seq + 300, ..first };
        let takes = |second: &Segment<'_>| {
            let (first, second) = (written(&first), written(second));
            Unit::begin(&first, MTU).expect("ordinary").take(&first, &second).is_some()
        };
        assert!(takes(&next) && takes(&Segment { payload: &[5; 1], ..next }));
        for other in [
            Segment { seq: next.seq + 1, ..next },
            first,
            Segment { ack: next.ack + 1, ..next },
            Segment { window: 2, ..next },
            Segment { flags: Flags::ACK.with(Flags::FIN), ..next },
            Segment { flags: Flags::ACK.with(Flags::RST), ..next },
            Segment { flags: Flags(0x30), ..next },
            Segment { flags: Flags(0x50), ..next },
            Segment { flags: Flags(0), ..next },
            Segment { options: &[1, 1, 8, 10, 0, 0, 0, 2, 0, 0, 0, 2], ..next },
            Segment { options: &[], ..next },
            Segment { payload: &[], ..next },
            Segment { payload: &[5; 301], ..next },
            Segment { src: (next.src.0, 3), ..next },
            Segment { dst: (Addr::v4([10, 0, 0, 3]), 2), ..next },
            Segment { link: Link { vlans: Vlans::from_ids(&[4]), ..next.link }, ..next },
        ] {
            assert!(!takes(&other), "{other:?}");
        }
        // Padding is part of no payload.
        let mut padded = written(&next);
        padded.push(0);
        let first = written(&first);
        assert!(Unit::begin(&first, MTU).expect("ordinary").take(&first, &padded).is_none());
        assert!(Unit::begin(&padded, MTU).is_none() && Unit::begin(&first, 300).is_none());
    }

    #[test]
    fn what_might_be_fragmented_is_told_from_others_or_is_no_ordinary_segment_begins_no_unit() {
        let segment = plain(&[5; 300]);
        let begins = |frame: &[u8]| Unit::begin(frame, MTU).is_some();
        assert!(begins(&written(&segment)));
        for flags in [0x00, 0x02, 0x11, 0x12, 0x14, 0x18, 0x30, 0x50, 0x90] {
            assert!(!begins(&written(&Segment { flags: Flags(flags), ..segment })), "{flags:x}");
        }
        assert!(!begins(&written(&plain(&[5; 100]))), "small");
        let mut frame = written(&segment);
        frame[20] = 0;
        assert!(!begins(&frame), "may be fragmented");
        (frame[20], frame[23]) = (0x40, 17);
        assert!(!begins(&frame), "UDP");
        for cut in 0..frame.len() {
            assert!(!begins(&written(&segment)[..cut]));
        }
    }

    #[test]
    fn a_unit_ends_with_a_short_segment_with_push_and_at_the_size_of_a_packet() {
        let frames = |n: usize| stream(false, 0, 0, 1000, &vec![3; n * 1000], Flags::ACK);
        assert_eq!(merged(&frames(60)).0, 60);
        let mut many = frames(60);
        let more = Segment { seq: Seq(u32::MAX - 3000) + 60_000, ..plain(&[3; 1000]) };
        let more = Segment { src: (more.src.0, 443), dst: (more.dst.0, 50_000), ..more };
        many.extend((0..10).map(|n| written(&Segment { seq: more.seq + n * 1000, ..more })));
        // 40 bytes of headers.
        let (taken, _, unit) = merged(&many);
        assert_eq!((taken, unit.len()), (65, 14 + 40 + 65_000));
        for (flags, len) in [(0x18, 1000), (0x10, 999)] {
            let mut frames = frames(3);
            frames[1] = written(&Segment {
                seq: Seq(u32::MAX - 3000) + 1000,
                flags: Flags(flags),
                payload: &vec![3; len],
                ..more
            });
            frames[2] = written(&Segment { seq: Seq(u32::MAX - 3000) + 1000 + len as u32, ..more });
            assert_eq!(merged(&frames).0, 2, "{flags:x}, {len}");
        }
    }
}
