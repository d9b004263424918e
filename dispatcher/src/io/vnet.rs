//! The header that goes before each frame where a packet socket is asked for it (`PACKET_VNET_HDR`): what was left to cards, and is left to
//! them. It is the one of virtual cards: Virtual I/O Device (VIRTIO) Version 1.2, section 5.1.6, in the machine's own byte order.

use crate::wire::packet::{Body, Flags, Ip, Parsed, Tcp};
use crate::wire::{Family, Frame, Offload, checksum::Sum};

/// Bytes of it.
pub(super) const LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Beside the others: the first segment bears CWR, and no other is to.
const GSO_ECN: u8 = 0x80;
/// Smallest segments that are believed: Linux cuts no smaller ones (`TCP_MIN_MSS`), and whoever could say one byte would have us make 65,000
/// frames of one.
const LEAST_SEGMENT: u16 = 48;
/// Where the checksum stands in a TCP header.
const TCP_CHECKSUM: u16 = 16;

/// What a header says of the frame behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Said {
    /// This is left to whoever sends it; or nothing is.
    Left(Offload),
    /// Its checksum is left, and it is no TCP segment.
    OtherChecksum,
    /// It is several packets in one, and not of TCP; or nobody has checked them.
    Unknown,
}

/// Reads a header.
pub(super) fn read(header: &[u8; LEN]) -> Said {
    let [flags, gso, ..] = *header;
    let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let (segment, offset) = (word(4), word(8));
    match gso & !GSO_ECN {
        GSO_NONE if flags & NEEDS_CSUM != 0 && offset == TCP_CHECKSUM => Said::Left(Offload::OPEN),
        GSO_NONE if flags & NEEDS_CSUM != 0 => Said::OtherChecksum,
        GSO_NONE if flags & DATA_VALID != 0 => Said::Left(Offload::VERIFIED),
        GSO_NONE => Said::Left(Offload::NONE),
        // Merged segments whose checksum is whole are those of a card that has checked each: what stands there is of the first, or of none.
        GSO_TCPV4 | GSO_TCPV6 if segment >= LEAST_SEGMENT && flags & (NEEDS_CSUM | DATA_VALID) != 0 => {
            Said::Left(Offload::large(segment))
        }
        _ => Said::Unknown,
    }
}

/// The header for a frame that is to be sent. A checksum that is open is made what a card takes: the sum over the pseudo header alone. What is to be
/// cut is cut to IP packets of at most `mtu` bytes.
pub(super) fn write(frame: &mut Frame<'_>, mtu: u16) -> [u8; LEN] {
    let offload = frame.offload();
    if offload.is_finished() {
        return [0; LEN];
    }
    // What is open is a TCP segment: so it was when it arrived.
    let Ok(Parsed { body: Ok(Body::Tcp(ip, tcp)), .. }) = Parsed::read(frame.bytes()) else { return [0; LEN] };
    let sum = pseudo_header(&ip).to_be_bytes();
    frame.bytes_mut()[tcp.header + 16..tcp.header + 18].copy_from_slice(&sum);
    segments(&ip, &tcp, offload.segment(), mtu)
}

/// The header for a TCP segment that lacks its checksum, and is to be cut into segments of so much payload, and IP packets of at most `mtu` bytes; 0: it
/// is one segment.
pub(super) fn segments(ip: &Ip, tcp: &Tcp, segment: u16, mtu: u16) -> [u8; LEN] {
    let mut header = [0; LEN];
    let put = |header: &mut [u8; LEN], at: usize, word: u16| header[at..at + 2].copy_from_slice(&word.to_ne_bytes());
    header[0] = NEEDS_CSUM;
    // All offsets fit: a frame's headers end within 64 kB, and a little.
    put(&mut header, 6, tcp.header as u16);
    put(&mut header, 8, TCP_CHECKSUM);
    let headers = (tcp.payload - ip.header) as u16;
    let segment = segment.min(mtu.saturating_sub(headers));
    if segment > 0 && tcp.payload_len() > usize::from(segment) {
        header[1] = gso(ip, tcp);
        put(&mut header, 2, tcp.payload as u16);
        put(&mut header, 4, segment);
    }
    header
}

fn gso(ip: &Ip, tcp: &Tcp) -> u8 {
    let ecn = if tcp.flags.contains(Flags::CWR) { GSO_ECN } else { 0 };
    ecn | if ip.family == Family::V4 { GSO_TCPV4 } else { GSO_TCPV6 }
}

/// The sum over the pseudo header of a TCP segment, not complemented: a card adds the segment's to it.
pub(super) fn pseudo_header(ip: &Ip) -> u16 {
    Sum::default()
        .add_bytes(ip.src.octets())
        .add_bytes(ip.dst.octets())
        .add_bytes(&((ip.end - ip.payload) as u32).to_be_bytes())
        .add_word(ip.protocol.into())
        .fold()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::build::{Link, Segment};
    use crate::wire::{Addr, Seq, checksum};

    fn frame(v6: bool, flags: u8, payload: &[u8]) -> Vec<u8> {
        let address = |n| if v6 { Addr::from(std::net::IpAddr::from([n; 16])) } else { Addr::v4([10, 0, 0, n]) };
        let segment = Segment {
            link: Link::default(),
            src: (address(1), 443),
            dst: (address(2), 50_000),
            seq: Seq(9),
            ack: Seq(8),
            flags: Flags(flags),
            window: 7,
            options: &[1; 12],
            payload,
        };
        let mut frame = vec![0; segment.frame_len()];
        segment.write(&mut frame);
        frame
    }

    fn header(flags: u8, gso: u8, words: [u16; 4]) -> [u8; LEN] {
        let mut header = [flags, gso, 0, 0, 0, 0, 0, 0, 0, 0];
        words
            .iter()
            .zip((2..).step_by(2))
            .for_each(|(word, at)| header[at..at + 2].copy_from_slice(&word.to_ne_bytes()));
        header
    }

    #[test]
    fn what_the_kernel_says_is_understood_and_what_is_not_ours_is_told_apart() {
        for (flags, gso, segment, offset, expected) in [
            (0, 0, 0, 0, Said::Left(Offload::NONE)),
            (2, 0, 0, 0, Said::Left(Offload::VERIFIED)),
            (1, 0, 0, 16, Said::Left(Offload::OPEN)),
            // UDP, SCTP.
            (1, 0, 0, 6, Said::OtherChecksum),
            (1, 0, 0, 8, Said::OtherChecksum),
            (1, 1, 1448, 16, Said::Left(Offload::large(1448))),
            (1, 4, 1428, 16, Said::Left(Offload::large(1428))),
            (1, 0x81, 1448, 16, Said::Left(Offload::large(1448))),
            // Merged by a card, which has checked each.
            (2, 1, 1448, 0, Said::Left(Offload::large(1448))),
            (0, 1, 1448, 0, Said::Unknown),
            (1, 1, 0, 16, Said::Unknown),
            (1, 1, 47, 16, Said::Unknown),
            (1, 1, 48, 16, Said::Left(Offload::large(48))),
            // UDP in fragments, UDP in segments, and what may come.
            (1, 3, 1448, 6, Said::Unknown),
            (1, 5, 1448, 6, Said::Unknown),
            (1, 9, 1448, 16, Said::Unknown),
        ] {
            assert_eq!(
                read(&header(flags, gso, [66, segment, 34, offset])),
                expected,
                "{flags} {gso} {segment} {offset}"
            );
        }
    }

    #[test]
    fn nothing_is_said_of_a_frame_that_is_finished_and_it_stays_as_it_is() {
        for offload in [Offload::NONE, Offload::VERIFIED] {
            let mut bytes = frame(false, 0x18, &[1; 100]);
            let before = bytes.clone();
            assert_eq!(write(&mut Frame::whole(&mut bytes).with(offload), 1500), [0; LEN]);
            assert_eq!(bytes, before);
        }
    }

    #[test]
    fn a_card_that_does_what_is_said_makes_the_checksum_right() {
        for v6 in [false, true] {
            let whole = frame(v6, 0x18, &[0xa5; 1001]);
            let mut bytes = whole.clone();
            let tcp = if v6 { 54 } else { 34 };
            bytes[tcp + 16..tcp + 18].copy_from_slice(&[0x12, 0x34]);
            let said = write(&mut Frame::whole(&mut bytes).with(Offload::OPEN), 1500);
            assert_eq!(said, header(1, 0, [0, 0, tcp as u16, 16]));
            // Sums from `csum_start` to the end, what stands in the field included, and puts the complement there.
            let sum = checksum::Sum::default().add_bytes(&bytes[tcp..]).checksum();
            bytes[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
            assert!(bytes == whole, "IPv6: {v6}");
        }
    }

    #[test]
    fn segments_are_as_large_as_they_were_unless_the_port_takes_less() {
        let mtu = |segment, mtu, flags| {
            let mut bytes = frame(false, flags, &[3; 5000]);
            let header = write(&mut Frame::whole(&mut bytes).with(Offload::large(segment)), mtu);
            (header[1], u16::from_ne_bytes([header[2], header[3]]), u16::from_ne_bytes([header[4], header[5]]))
        };
        // 14 + 20 + 32 bytes of headers, 52 of them in the packet.
        assert_eq!(mtu(1448, 1500, 0x18), (1, 66, 1448));
        assert_eq!(mtu(1448, 1400, 0x18), (1, 66, 1348));
        assert_eq!(mtu(536, 1500, 0x18), (1, 66, 536));
        assert_eq!(mtu(1448, 1500, 0x98), (0x81, 66, 1448), "CWR");
        // One segment after all.
        assert_eq!(mtu(5000, 9000, 0x18), (0, 0, 0));
        let mut bytes = frame(true, 0x10, &[3; 5000]);
        assert_eq!(write(&mut Frame::whole(&mut bytes).with(Offload::large(1000)), 1500)[1], 4);
    }
}
