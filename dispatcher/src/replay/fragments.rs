//! Fragmented IP packets, put together again (RFC 791, 3.2; RFC 8200, 4.5).
//!
//! Rare with TCP, ordinary with large DTLS datagrams. The result is a frame with the whole packet in it, to be decoded
//! as if it had been recorded so.
//!
//! At most [`MAX_PACKETS`] packets of 64 kB wait for their pieces; when one more comes, the oldest is given up. So is
//! one whose pieces stay away for [`PATIENCE`], and one that is cut into more than [`MAX_PIECES`].

use super::decode::layers::{Located, locate};
use super::decode::{Decoded, Undecoded, decode};
use crate::capture::{LinkType, RecordedFrame};
use crate::time::Time;
use crate::wire::packet::ethertype;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

/// Packets that wait for pieces.
pub const MAX_PACKETS: usize = 64;
/// Pieces of one packet.
pub const MAX_PIECES: usize = 256;
/// How long a packet waits for its next piece, by the capture's clock.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Which packet a piece is of.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Id {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    id: u32,
}

struct Piece<'a> {
    /// The frame, or if the packet came in another one, this packet alone: the other's lengths would not fit the whole.
    bytes: &'a [u8],
    id: Id,
    offset: usize,
    more: bool,
    /// Where the body begins in the frame.
    head: usize,
    /// Where the IP header begins in the frame.
    ip: usize,
    /// Where a length and a fragment offset stand in the frame.
    patches: [usize; 2],
    /// Bytes in front of the body that the length counts.
    counted: usize,
    body: &'a [u8],
}

struct Packet {
    id: Id,
    latest: Time,
    /// Link layer and IP header of the piece at offset 0, to be patched.
    head: Option<(Vec<u8>, [usize; 2], usize)>,
    /// Sorted and disjoint.
    pieces: Vec<(usize, Vec<u8>)>,
    end: Option<usize>,
}

/// Waits for the pieces of packets.
#[derive(Default)]
pub struct Defragmenter {
    packets: VecDeque<Packet>,
}

impl Defragmenter {
    /// Reads a frame; or the packet that it was the last missing piece of, which is put together in `joined`.
    pub fn decode<'a>(&mut self, frame: &RecordedFrame<'a>, joined: &'a mut Vec<u8>) -> Result<Decoded<'a>, Undecoded> {
        let read = decode(frame);
        let Err(Undecoded::Fragment) = read else { return read };
        let (link, whole) = self.add(frame).ok_or(Undecoded::Fragment)?;
        *joined = whole;
        decode(&RecordedFrame { link, original_len: joined.len(), bytes: joined, ..*frame })
    }

    /// Takes in a frame that is a piece of a packet. The whole packet as a frame's bytes and link type, if this was the last that was missing.
    fn add(&mut self, frame: &RecordedFrame<'_>) -> Option<(LinkType, Vec<u8>)> {
        let (link, piece) = piece(frame)?;
        self.packets.retain(|p| frame.time.since(p.latest) <= PATIENCE);
        let place = match self.packets.iter().position(|p| p.id == piece.id) {
            Some(place) => place,
            None => {
                if self.packets.len() >= MAX_PACKETS {
                    self.packets.pop_front();
                }
                self.packets.push_back(Packet {
                    id: piece.id,
                    latest: frame.time,
                    head: None,
                    pieces: Vec::new(),
                    end: None,
                });
                self.packets.len() - 1
            }
        };
        let packet = &mut self.packets[place];
        packet.latest = frame.time;
        packet.take(&piece);
        if packet.pieces.len() > MAX_PIECES {
            self.packets.remove(place);
            return None;
        }
        let whole = packet.whole()?;
        self.packets.remove(place);
        Some((link, whole))
    }
}

impl Packet {
    fn take(&mut self, piece: &Piece<'_>) {
        let end = piece.offset + piece.body.len();
        if end > usize::from(u16::MAX) {
            return;
        }
        if !piece.more {
            self.end.get_or_insert(end);
        }
        if piece.offset == 0 && self.head.is_none() {
            self.head = Some((piece.bytes[..piece.head].to_vec(), piece.patches, piece.counted));
        }
        // Of two that tell of a byte, the first wins.
        let mut from = piece.offset;
        let mut fresh = Vec::new();
        for (start, body) in &self.pieces {
            let start = *start;
            if start > from && start.min(end) > from {
                fresh.push((from, start.min(end)));
            }
            from = from.max(start + body.len());
        }
        if from < end {
            fresh.push((from, end));
        }
        let slice = |a: usize, b: usize| piece.body[a - piece.offset..b - piece.offset].to_vec();
        self.pieces.extend(fresh.into_iter().map(|(a, b)| (a, slice(a, b))));
        self.pieces.sort_by_key(|(start, _)| *start);
    }

    fn whole(&self) -> Option<Vec<u8>> {
        let (head, [length_at, offset_at], counted) = self.head.as_ref()?;
        let end = self.end?;
        let mut at = 0;
        for (start, body) in &self.pieces {
            if *start != at {
                return None;
            }
            at += body.len();
        }
        if at < end {
            return None;
        }
        let mut bytes = head.clone();
        bytes.extend(self.pieces.iter().flat_map(|(_, body)| body.iter().copied()).take(end));
        let length = u16::try_from(counted + end).ok()?;
        bytes[*length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        bytes[*offset_at..offset_at + 2].fill(0);
        Some(bytes)
    }
}

/// Reads the frame as a piece of a packet. None when it is none, or was cut by the recorder.
fn piece<'a>(frame: &RecordedFrame<'a>) -> Option<(LinkType, Piece<'a>)> {
    let Located { kind, at, tunnelled, .. } = locate(frame.link, frame.bytes, frame.original_len).ok()?;
    let (link, b, ip) =
        if tunnelled { (LinkType::RAW, frame.bytes.get(at..)?, 0) } else { (frame.link, frame.bytes, at) };
    let half = |at: usize| b.get(at..at + 2).map(|v| u16::from_be_bytes([v[0], v[1]]));
    match kind {
        ethertype::IPV4 => {
            let header: [u8; 20] = *b.get(ip..)?.first_chunk()?;
            let head = ip + usize::from(header[0] & 15) * 4;
            let end = ip + usize::from(half(ip + 2)?);
            let field = half(ip + 6)?;
            let address = |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            Some(Piece {
                bytes: b,
                id: Id { src: address(12), dst: address(16), protocol: header[9], id: half(ip + 4)?.into() },
                offset: usize::from(field & 0x1fff) * 8,
                more: field & 0x2000 != 0,
                head,
                ip,
                patches: [ip + 2, ip + 6],
                counted: head - ip,
                body: b.get(head..end)?,
            })
        }
        ethertype::IPV6 => {
            let header: [u8; 40] = *b.get(ip..)?.first_chunk()?;
            let end = ip + 40 + usize::from(half(ip + 4)?);
            let (mut next, mut at) = (header[6], ip + 40);
            // What may stand in front of a fragment header.
            while matches!(next, 0 | 43 | 60) {
                next = *b.get(at)?;
                at += (usize::from(*b.get(at + 1)?) + 1) * 8;
            }
            if next != 44 {
                return None;
            }
            let field = half(at + 2)?;
            let id = u32::from(half(at + 4)?) << 16 | u32::from(half(at + 6)?);
            let address = |from: usize| -> Option<IpAddr> {
                let octets: [u8; 16] = header[from..from + 16].try_into().ok()?;
                Some(IpAddr::from(octets))
            };
            Some(Piece {
                bytes: b,
                id: Id { src: address(8)?, dst: address(24)?, protocol: *b.get(at)?, id },
                offset: usize::from(field & 0xfff8),
                more: field & 1 != 0,
                head: at + 8,
                ip,
                // Without offset and more-fragments it is an atomic fragment: a whole packet.
                patches: [ip + 4, at + 2],
                counted: at + 8 - ip - 40,
                body: b.get(at + 8..end)?,
            })
        }
        _ => None,
    }
    .filter(|p| p.head >= p.ip && !p.body.is_empty())
    .map(|piece| (link, piece))
}

#[cfg(test)]
mod tests {
    use super::super::decode::Transport;
    use super::*;
    use crate::capture::LinkType;

    fn frame(bytes: &[u8], millis: u64) -> RecordedFrame<'_> {
        let link = LinkType::ETHERNET;
        let time = Time::from_millis(millis);
        RecordedFrame { number: 1, time, unix_nanos: 0, interface: 0, link, bytes, original_len: bytes.len() }
    }

    fn udp(len: usize) -> Vec<u8> {
        let mut b = vec![0x11, 0x51, 0x11, 0x52];
        b.extend((8 + len as u16).to_be_bytes());
        b.extend([0, 0]);
        b.extend((0..len).map(|i| i as u8));
        b
    }

    /// The packet in pieces of so many bytes.
    fn ipv4(body: &[u8], size: usize, id: u16) -> Vec<Vec<u8>> {
        let chunks = body.chunks(size).enumerate();
        let cut = chunks.map(|(i, chunk)| {
            let more = if (i + 1) * size < body.len() { 0x2000 } else { 0 };
            let mut b = [&[2; 12][..], &[8, 0, 0x45, 0]].concat();
            b.extend((20 + chunk.len() as u16).to_be_bytes());
            b.extend(id.to_be_bytes());
            b.extend((more | (i * size / 8) as u16).to_be_bytes());
            b.extend([64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            b.extend(chunk);
            b.resize(b.len().max(60), 0);
            b
        });
        cut.collect()
    }

    fn ipv6(body: &[u8], size: usize) -> Vec<Vec<u8>> {
        let chunks = body.chunks(size).enumerate();
        let cut = chunks.map(|(i, chunk)| {
            let more = u16::from((i + 1) * size < body.len());
            let mut b = [&[2; 12][..], &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
            b.extend((16 + chunk.len() as u16).to_be_bytes());
            b.extend([0, 64]);
            b.extend([[0xfd; 16], [0xfe; 16]].concat());
            b.extend([44, 0, 1, 4, 0, 0, 0, 0, 17, 0]);
            b.extend(((i * size) as u16 | more).to_be_bytes());
            b.extend([0, 0, 0, 7]);
            b.extend(chunk);
            b
        });
        cut.collect()
    }

    fn payload(bytes: &[u8]) -> Vec<u8> {
        match decode(&frame(bytes, 0)).unwrap().transport {
            Transport::Udp { payload, missing: 0 } => payload.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pieces_in_any_order_and_repeated_make_the_packet() {
        let whole = udp(3000);
        for mut pieces in [ipv4(&whole, 1480, 9), ipv6(&whole, 1232), ipv4(&whole, 8, 9)[..].to_vec()] {
            if pieces.len() > MAX_PIECES {
                continue;
            }
            for piece in &pieces {
                assert_eq!(decode(&frame(piece, 0)).unwrap_err(), Undecoded::Fragment);
            }
            pieces.reverse();
            let mut all = Defragmenter::default();
            assert!(all.add(&frame(&pieces[0], 0)).is_none());
            let made: Vec<Vec<u8>> =
                pieces.iter().filter_map(|p| all.add(&frame(p, 0))).map(|(_, whole)| whole).collect();
            assert_eq!(made.len(), 1);
            assert_eq!(payload(&made[0]), whole[8..]);
            assert!(all.packets.is_empty());
        }
    }

    #[test]
    fn packets_do_not_mix_and_the_oldest_gives_way() {
        let mut all = Defragmenter::default();
        for id in 0..=MAX_PACKETS as u16 {
            assert!(all.add(&frame(&ipv4(&udp(100), 56, id)[0], 0)).is_none());
        }
        assert_eq!(all.packets.len(), MAX_PACKETS);
        assert!(all.add(&frame(&ipv4(&udp(100), 56, 0)[1], 0)).is_none(), "given up");
        assert!(all.add(&frame(&ipv4(&udp(100), 56, 7)[1], 0)).is_some());
    }

    #[test]
    fn pieces_that_stay_away_are_given_up() {
        let pieces = ipv4(&udp(100), 56, 1);
        let mut all = Defragmenter::default();
        assert!(all.add(&frame(&pieces[0], 0)).is_none());
        assert!(all.add(&frame(&pieces[1], 31_000)).is_none());
    }

    #[test]
    fn no_cut_and_no_flipped_byte_makes_it_panic() {
        for pieces in [ipv4(&udp(100), 56, 1), ipv6(&udp(100), 56)] {
            for (which, at, value) in
                (0..2).flat_map(|w| (0..80).flat_map(move |a| [0, 1, 0x45, 0x7f, 0x80, 0xff].map(|v| (w, a, v))))
            {
                let mut pieces = pieces.clone();
                if let Some(byte) = pieces[which].get_mut(at) {
                    *byte = value;
                }
                let mut all = Defragmenter::default();
                for piece in &pieces {
                    if let Some((_, whole)) = all.add(&frame(piece, 0)) {
                        let _ = decode(&frame(&whole, 0));
                    }
                }
                let _ = all.add(&frame(&pieces[which][..at.min(pieces[which].len())], 0));
            }
        }
    }
}
