//! What an interface card would have done for the sender: complete a checksum, put a stripped VLAN tag back.

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
mod tests {
    use super::*;

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
}
