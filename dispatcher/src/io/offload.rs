//! What an interface card would have done for the sender: complete a checksum, put a stripped VLAN tag back.

use crate::path::split::Pieces;
use crate::wire::checksum::{self, Sum};
use crate::wire::packet::{Ethernet, Ip, protocol};
use crate::wire::{Family, Frame};

/// Completes the TCP or UDP checksum of a frame whose sender left that to a card. False when it cannot be done.
///
/// Computed anew instead of from the partial sum in the field, so nothing is assumed about what the field holds.
pub(super) fn complete_checksum(frame: &mut [u8]) -> bool {
    let Ok(ethernet) = Ethernet::parse(frame) else { return false };
    let Ok(ip) = Ip::parse(frame, ethernet.payload, ethernet.ethertype) else { return false };
    let field = match ip.protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => return false,
    };
    let Some(segment) = frame.get_mut(ip.payload..ip.end).filter(|s| s.len() >= field + 2) else { return false };
    segment[field..field + 2].fill(0);
    let mut sum = checksum::transport(ip.src.octets(), ip.dst.octets(), ip.protocol, segment);
    if sum == 0 && ip.protocol == protocol::UDP {
        // RFC 768: zero means "no checksum".
        sum = 0xffff;
    }
    segment[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Makes an [unfinished](crate::wire::Offload::is_finished) frame what a wire carries: cut into its segments, with checksums, each given to `out`
/// in order. False when `out` said so of any. The frame is not of use afterwards.
pub fn finish(frame: &mut Frame<'_>, out: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    let mut all = true;
    let pieces = match usize::from(frame.offload().segment()) {
        0 => None,
        // Whoever left work to others vouches for the bytes, and headers that cannot be read are sent as they are.
        room => Pieces::of_payload(frame, room).unwrap_or_default(),
    };
    if let Some(mut pieces) = pieces {
        while let Some(piece) = pieces.next(frame) {
            all &= out(piece);
        }
        pieces.finish(frame);
    } else if !frame.offload().is_finished() {
        complete_checksum(frame.bytes_mut());
        frame.is_whole_now();
    }
    out(frame.bytes()) && all
}

/// Whether a frame's IPv4 header and TCP or UDP checksums are right; true of whatever has none that can be checked here.
#[cfg_attr(not(feature = "dpdk"), allow(dead_code))]
pub(super) fn checksums_right(frame: &[u8]) -> bool {
    let Ok(ethernet) = Ethernet::parse(frame) else { return true };
    let Ok(ip) = Ip::parse(frame, ethernet.payload, ethernet.ethertype) else { return true };
    // Of the header as it is, with its checksum, the sum is zero.
    let header = frame.get(ip.header..ip.payload).unwrap_or_default();
    if ip.family == Family::V4 && Sum::default().add_bytes(header).checksum() != 0 {
        return false;
    }
    let Some(segment) = frame.get(ip.payload..ip.end) else { return true };
    let unused = ip.protocol == protocol::UDP && segment.get(6..8) == Some(&[0, 0]);
    if !matches!(ip.protocol, protocol::TCP | protocol::UDP) || unused {
        return true;
    }
    checksum::transport(ip.src.octets(), ip.dst.octets(), ip.protocol, segment) == 0
}

/// Puts a VLAN tag back behind the addresses. False when there is no headroom.
pub(super) fn push_vlan(frame: &mut Frame<'_>, tpid: u16, tci: u16) -> bool {
    if frame.len() < 12 || !frame.push_front(4) {
        return false;
    }
    let bytes = frame.bytes_mut();
    bytes.copy_within(4..16, 0);
    bytes[12..14].copy_from_slice(&tpid.to_be_bytes());
    bytes[14..16].copy_from_slice(&tci.to_be_bytes());
    true
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::wire::build::{Link, Segment};
    use crate::wire::packet::{Flags, Vlans};
    use crate::wire::{Addr, Offload, Seq};
    use proptest::prelude::*;

    /// A SYN as recorded from a host whose card completes checksums, and the checksum that tcpdump expects.
    #[test]
    fn a_partial_checksum_is_completed() {
        // Ethernet, IPv4 10.0.0.1 > 10.0.0.2, TCP 1 > 2, seq 0, SYN, no options; and UDP over IPv6.
        let mut tcp = vec![0u8; 14 + 20 + 20];
        tcp[12..14].copy_from_slice(&[8, 0]);
        tcp[14..34].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        tcp[34..].copy_from_slice(&[0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 1, 0, 0x14, 0x1f, 0, 0]);
        let mut padded = tcp.clone();
        padded.extend([0xaa; 6]);
        assert!(complete_checksum(&mut tcp) && complete_checksum(&mut padded));
        // By hand: 0a00+0001+0a00+0002 + 0006+0014 + 0001+0002+5002+0100 = 6522; ~ = 9add... of the folded sum.
        let sum = 0x0a00u32 + 1 + 0x0a00 + 2 + 6 + 20 + 1 + 2 + 0x5002 + 0x0100;
        assert_eq!(u16::from_be_bytes([tcp[50], tcp[51]]), !(sum as u16));
        assert_eq!(padded[..54], tcp[..], "padding is not part of the segment");
        let mut arp = vec![0u8; 42];
        arp[12..14].copy_from_slice(&[8, 6]);
        assert!(!complete_checksum(&mut arp));
        for cut in 0..tcp.len() {
            complete_checksum(&mut tcp[..cut].to_vec());
        }
    }

    #[test]
    fn a_completed_checksum_is_right_and_a_spoiled_one_is_not() {
        let mut tcp = vec![0u8; 14 + 20 + 20];
        tcp[12..14].copy_from_slice(&[8, 0]);
        // Its header checksum by hand: 4500+0028+4006+0a00+0001+0a00+0002 = 9931.
        tcp[14..34].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0x66, 0xce, 10, 0, 0, 1, 10, 0, 0, 2]);
        tcp[34..].copy_from_slice(&[0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0]);
        assert!(!checksums_right(&tcp));
        assert!(complete_checksum(&mut tcp) && checksums_right(&tcp));
        for at in [18, 22, 26, 34, 45, 50] {
            tcp[at] ^= 1;
            assert!(!checksums_right(&tcp), "{at}");
            tcp[at] ^= 1;
        }
        let mut arp = vec![0u8; 42];
        arp[12..14].copy_from_slice(&[8, 6]);
        assert!(checksums_right(&arp), "nothing to check");
    }

    #[test]
    fn a_tag_is_put_behind_the_addresses() {
        let mut buf: Vec<u8> = (0..40).collect();
        let mut frame = Frame::new(&mut buf, 4, 20);
        assert!(push_vlan(&mut frame, 0x8100, 0x2064));
        let expected: Vec<u8> = (4..16).chain([0x81, 0, 0x20, 0x64]).chain(16..24).collect();
        assert_eq!(frame.bytes(), expected);
        assert!(!push_vlan(&mut frame, 0x8100, 1), "no headroom left");
    }

    /// What a card makes of a segment, written from scratch: one after the other, each with headers of its own.
    fn naive(whole: &Segment<'_>, room: usize) -> Vec<Vec<u8>> {
        let count = whole.payload.chunks(room).count();
        let pieces = whole.payload.chunks(room).enumerate().map(|(n, payload)| {
            let mut flags = whole.flags.0;
            if n + 1 < count {
                flags &= !(Flags::PSH.0 | Flags::FIN.0);
            }
            if n > 0 {
                flags &= !Flags::CWR.0;
            }
            let seq = whole.seq + (n * room) as u32;
            let mut piece = written(&Segment { seq, flags: Flags(flags), payload, ..*whole });
            if whole.src.0.family() == Family::V4 {
                let at = whole.link.len();
                piece[at + 4..at + 6].copy_from_slice(&(n as u16).to_be_bytes());
                piece[at + 10..at + 12].fill(0);
                let sum = Sum::default().add_bytes(&piece[at..at + 20]).checksum();
                piece[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
            }
            piece
        });
        pieces.collect()
    }

    /// One with this payload.
    pub(in crate::io) fn plain(payload: &[u8]) -> Segment<'_> {
        Segment {
            link: Link::default(),
            src: (Addr::v4([10, 0, 0, 1]), 1),
            dst: (Addr::v4([10, 0, 0, 2]), 2),
            seq: Seq(100),
            ack: Seq(1),
            flags: Flags::ACK,
            window: 1,
            options: &[],
            payload,
        }
    }

    pub(in crate::io) fn written(segment: &Segment<'_>) -> Vec<u8> {
        let mut frame = vec![0; segment.frame_len()];
        segment.write(&mut frame);
        frame
    }

    fn finished(frame: &[u8], offload: Offload) -> Vec<Vec<u8>> {
        let (mut bytes, mut pieces) = (frame.to_vec(), Vec::new());
        assert!(finish(&mut Frame::whole(&mut bytes).with(offload), &mut |piece| {
            pieces.push(piece.to_vec());
            true
        }));
        pieces
    }

    proptest! {
        #[test]
        fn a_large_unit_is_cut_as_a_card_cuts_it(
            v6: bool, tags in 0usize..3, options in 0usize..11, room in 1usize..3000, len in 0usize..60_000,
            flags: u8, padding in 0usize..9, fill: u8,
        ) {
            // Few and many pieces, and those at the border.
            let len = len.min(room * 40);
            let payload: Vec<u8> = (0..len).map(|i| (i * 31 + i / 251) as u8 ^ fill).collect();
            let address = |n| if v6 { Addr::from(std::net::IpAddr::from([n; 16])) } else { Addr::v4([10, 0, 0, n]) };
            let options = vec![1; options * 4];
            let whole = Segment {
                link: Link { vlans: Vlans::from_ids(&[7, 8][..tags]), ..Link::default() },
                src: (address(1), 443),
                dst: (address(2), 50_000),
                seq: Seq(u32::MAX - 5000),
                ack: Seq(77),
                // Neither a reset nor urgent.
                flags: Flags(flags & !0x24),
                window: 1000,
                options: &options,
                payload: &payload,
            };
            let mut frame = written(&whole);
            let at = whole.link.len() + if v6 { 40 } else { 20 } + 16;
            frame[at..at + 2].copy_from_slice(&[fill, fill]);
            frame.resize(frame.len() + padding, 0xaa);
            let mut expected = naive(&whole, room);
            if expected.len() <= 1 {
                // As it is, but for its checksum.
                let mut one = written(&whole);
                one.resize(frame.len(), 0xaa);
                expected = vec![one];
            }
            prop_assert_eq!(finished(&frame, Offload::large(room as u16)), expected);
        }

        #[test]
        fn what_cannot_be_read_is_sent_as_it_is(bytes in proptest::collection::vec(any::<u8>(), 0..200), segment: u16) {
            prop_assume!(Ethernet::parse(&bytes).is_ok_and(|eth| Ip::parse(&bytes, eth.payload, eth.ethertype).is_err()));
            prop_assert_eq!(finished(&bytes, Offload::large(segment)), vec![bytes]);
        }
    }

    #[test]
    fn urgent_data_stay_where_they_are_in_the_stream() {
        let mut frame = written(&Segment { flags: Flags(0x38), ..plain(&[7; 250]) });
        frame[52..54].copy_from_slice(&150u16.to_be_bytes());
        let pointers =
            finished(&frame, Offload::large(100)).iter().map(|p| (p[47] & 0x20 != 0, p[53])).collect::<Vec<_>>();
        // Behind byte 150: 150 from the first, 50 from the second, and the third has none.
        assert_eq!(pointers, [(true, 150), (true, 50), (false, 0)]);
    }

    #[test]
    fn a_piece_that_finds_no_room_is_told_and_the_others_are_tried() {
        let (mut bytes, mut tried) = (written(&plain(&[7; 250])), 0);
        let all = finish(&mut Frame::whole(&mut bytes).with(Offload::large(100)), &mut |_| {
            tried += 1;
            tried != 2
        });
        assert!(!all && tried == 3);
    }
}
