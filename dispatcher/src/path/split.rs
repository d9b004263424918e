//! Segments that are longer than their receiver's path takes: cut to fit, as segmentation offload cuts them.
//!
//! With `snat` a server knows one address for all clients. Told of one client's narrow path it would send small packets to all of
//! them, for ten minutes (RFC 1191 section 6.3). So the path of a client stays with its flow, and that flow's segments are made to
//! fit here. The segment that did not fit is lost; the server sends it again, and it goes out in pieces.

use crate::counters::DropReason;
use crate::wire::checksum::{Change, transport};
use crate::wire::packet::{Flags, Ip, Packet, Tcp, protocol, tcp_checksum_ok};
use crate::wire::{Family, Frame};

/// The pieces of a segment that is too long.
#[derive(Debug)]
pub struct Pieces {
    ip: Ip,
    tcp: Tcp,
    /// Payload of each but the last.
    room: usize,
    /// The next one.
    next: usize,
    /// The last one.
    last: usize,
}

impl Pieces {
    /// How to cut a translated frame into IP packets of at most `limit` bytes, each in no more than `longest` bytes of frame; none when it
    /// cannot be cut, or need not.
    #[cold]
    pub fn of(frame: &[u8], limit: usize, longest: usize) -> Result<Option<Pieces>, DropReason> {
        let Packet { ip, .. } = Packet::parse(frame)?;
        let tcp = Tcp::parse(frame, &ip)?;
        let headers = tcp.payload - ip.header;
        let room = limit.saturating_sub(headers).min(longest.saturating_sub(tcp.payload));
        let len = tcp.payload_len();
        // A reset's payload is of no use to its receiver, and headers cannot be cut.
        if room == 0 || len <= room || tcp.flags.contains(Flags::RST) {
            return Ok(None);
        }
        // The pieces get checksums of their own, which must not make damaged bytes good.
        if !tcp_checksum_ok(frame, &ip) {
            return Err(DropReason::BadChecksum);
        }
        Ok(Some(Pieces { ip, tcp, room, next: 0, last: (len - 1) / room }))
    }

    /// Writes the next piece of `frame` into `buf`: its length. None when only the last one is left, see [`Pieces::finish`].
    pub fn next(&mut self, frame: &[u8], buf: &mut [u8]) -> Option<usize> {
        let Pieces { ip, tcp, room, next, last } = self;
        if next == last {
            return None;
        }
        let from = tcp.payload + *next * *room;
        let piece = &mut buf[..tcp.payload + *room];
        piece[..tcp.payload].copy_from_slice(&frame[..tcp.payload]);
        piece[tcp.payload..].copy_from_slice(&frame[from..from + *room]);
        set_headers(piece, ip, tcp, *next, *next * *room, false);
        *next += 1;
        Some(tcp.payload + *room)
    }

    /// The last piece stays in the frame, for it leaves after the others.
    pub fn finish(self, frame: &mut Frame<'_>) {
        let Pieces { ip, tcp, room, last, .. } = self;
        let skip = last * room;
        frame.bytes_mut().copy_within(tcp.payload + skip..tcp.end, tcp.payload);
        let cut = frame.set_len(tcp.end - skip);
        debug_assert!(cut, "shorter is always possible");
        set_headers(frame.bytes_mut(), &ip, &tcp, last, skip, true);
    }
}

/// Makes the headers of a whole segment those of piece number `n`, whose payload begins `skip` bytes behind the whole one's.
fn set_headers(b: &mut [u8], ip: &Ip, tcp: &Tcp, n: usize, skip: usize, last: bool) {
    let whole = ip.end - ip.header;
    let len = b.len() - ip.header;
    match ip.family {
        Family::V4 => {
            let h = &mut b[ip.header..ip.header + 20];
            // Where packets may be fragmented, each needs a number of its own.
            let old = u16::from_be_bytes([h[4], h[5]]);
            let id = old.wrapping_add(n as u16);
            let mut sum = Change::default();
            sum.word(whole as u16, len as u16);
            sum.word(old, id);
            let new = sum.apply(u16::from_be_bytes([h[10], h[11]]));
            h[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            h[4..6].copy_from_slice(&id.to_be_bytes());
            h[10..12].copy_from_slice(&new.to_be_bytes());
        }
        Family::V6 => {
            let payload = len - 40;
            b[ip.header + 4..ip.header + 6].copy_from_slice(&(payload as u16).to_be_bytes());
        }
    }
    let t = &mut b[tcp.header..];
    let urgent = usize::from(u16::from_be_bytes([t[18], t[19]]));
    let mut flags = tcp.flags.0;
    if !last {
        flags &= !(Flags::PSH.0 | Flags::FIN.0);
    }
    if n > 0 {
        // Said once (RFC 3168 section 6.1.2).
        flags &= !Flags::CWR.0;
    }
    if flags & Flags::URG.0 != 0 {
        // The pointer counts from the piece's own number.
        let left = urgent.saturating_sub(skip) as u16;
        t[18..20].copy_from_slice(&left.to_be_bytes());
        if left == 0 {
            flags &= !Flags::URG.0;
        }
    }
    t[4..8].copy_from_slice(&(tcp.seq + skip as u32).0.to_be_bytes());
    t[13] = flags;
    t[16..18].fill(0);
    let sum = transport(ip.src.octets(), ip.dst.octets(), protocol::TCP, t);
    t[16..18].copy_from_slice(&sum.to_be_bytes());
}
