//! Segments that are longer than their receiver's path takes: cut to fit, as segmentation offload cuts them.
//!
//! With `snat` a server knows one address for all clients. Told of one client's narrow path it would send small packets to all of
//! them, for ten minutes (RFC 1191 section 6.3). So the path of a client stays with its flow, and that flow's segments are made to
//! fit here. The segment that did not fit is lost; the server sends it again, and it goes out in pieces.

use crate::counters::DropReason;
use crate::wire::checksum::{Change, transport};
use crate::wire::packet::{Flags, Ip, Packet, Tcp, protocol, urgent_pointer};
use crate::wire::{Family, Frame};

/// Writes the checksum of a segment that lacks it: whoever sends it can leave it to nobody.
pub fn complete(frame: &mut Frame<'_>, ip: &Ip) {
    if frame.offload().is_finished() {
        return;
    }
    let t = &mut frame.bytes_mut()[ip.payload..ip.end];
    t[16..18].fill(0);
    let sum = transport(ip.src.octets(), ip.dst.octets(), protocol::TCP, t);
    t[16..18].copy_from_slice(&sum.to_be_bytes());
    frame.is_whole_now();
}

/// The pieces of a segment that is too long, made one after the other where it lies.
///
/// Each piece's headers are written in front of its payload, over what went out with the piece before.
#[derive(Debug)]
pub struct Pieces {
    ip: Ip,
    tcp: Tcp,
    /// Of the whole: identification (IPv4), and urgent pointer.
    id: u16,
    urgent: u16,
    /// Payload of each but the last.
    room: usize,
    /// The next one.
    next: usize,
    /// The last one.
    last: usize,
}

impl Pieces {
    /// How to cut a frame into IP packets of at most `limit` bytes; none when it cannot be cut, or need not.
    ///
    /// # Errors
    /// It is no TCP segment, or a damaged one: the pieces get checksums of their own, which must not make damaged bytes good.
    #[cold]
    pub fn of(frame: &Frame<'_>, limit: usize) -> Result<Option<Pieces>, DropReason> {
        let Packet { ip, .. } = Packet::parse(frame.bytes())?;
        let tcp = Tcp::parse(frame.bytes(), &ip)?;
        Pieces::cut(frame, ip, tcp, limit.saturating_sub(tcp.payload - ip.header))
    }

    /// The same, into segments of at most `room` bytes of payload.
    ///
    /// # Errors
    /// As [`Pieces::of`].
    pub fn of_payload(frame: &Frame<'_>, room: usize) -> Result<Option<Pieces>, DropReason> {
        let Packet { ip, .. } = Packet::parse(frame.bytes())?;
        let tcp = Tcp::parse(frame.bytes(), &ip)?;
        Pieces::cut(frame, ip, tcp, room)
    }

    fn cut(frame: &Frame<'_>, ip: Ip, tcp: Tcp, room: usize) -> Result<Option<Pieces>, DropReason> {
        let len = tcp.payload_len();
        // A reset's payload is of no use to its receiver, and headers cannot be cut.
        if room == 0 || len <= room || tcp.flags.contains(Flags::RST) {
            return Ok(None);
        }
        if !frame.tcp_is_intact(&ip) {
            return Err(DropReason::BadChecksum);
        }
        let b = frame.bytes();
        let id = u16::from_be_bytes([b[ip.header + 4], b[ip.header + 5]]);
        let urgent = urgent_pointer(b, &tcp);
        Ok(Some(Pieces { ip, tcp, id, urgent, room, next: 0, last: (len - 1) / room }))
    }

    /// The next piece. None when only the last one is left, see [`Pieces::finish`].
    pub fn next<'f>(&mut self, frame: &'f mut Frame<'_>) -> Option<&'f [u8]> {
        if self.next == self.last {
            return None;
        }
        Some(self.make(frame))
    }

    /// The last piece stays in the frame, for it leaves after the others.
    pub fn finish(mut self, frame: &mut Frame<'_>) {
        while self.next < self.last {
            self.make(frame);
        }
        self.make(frame);
        let cut = frame.set_len(self.tcp.end);
        debug_assert!(cut, "shorter is always possible");
        frame.pull_front(self.last * self.room);
        frame.is_whole_now();
    }

    /// Makes the next piece.
    fn make<'f>(&mut self, frame: &'f mut Frame<'_>) -> &'f [u8] {
        let (n, headers) = (self.next, self.tcp.payload);
        self.next += 1;
        let at = n * self.room;
        let bytes = frame.bytes_mut();
        if n > 0 {
            // Those of the piece before; what differs is written over.
            bytes.copy_within(at - self.room..at - self.room + headers, at);
        }
        let end = (at + headers + self.room).min(self.tcp.end);
        let piece = &mut bytes[at..end];
        self.set_headers(piece, n);
        piece
    }

    /// Makes the headers of a piece those of number `n`.
    fn set_headers(&self, b: &mut [u8], n: usize) {
        let Pieces { ip, tcp, id, urgent, room, last, .. } = self;
        let (skip, len) = (n * room, b.len() - ip.header);
        match ip.family {
            Family::V4 => {
                let h = &mut b[ip.header..ip.header + 20];
                let word = |h: &[u8], at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
                // Where packets may be fragmented, each needs a number of its own.
                let id = id.wrapping_add(n as u16);
                let mut sum = Change::default();
                sum.word(word(h, 2), len as u16);
                sum.word(word(h, 4), id);
                let new = sum.apply(word(h, 10));
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
        let mut flags = tcp.flags.0;
        if n != *last {
            flags &= !(Flags::PSH.0 | Flags::FIN.0);
        }
        if n > 0 {
            // Said once (RFC 3168 section 6.1.2).
            flags &= !Flags::CWR.0;
        }
        if flags & Flags::URG.0 != 0 {
            // The pointer counts from the piece's own number.
            let left = usize::from(*urgent).saturating_sub(skip) as u16;
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
}
