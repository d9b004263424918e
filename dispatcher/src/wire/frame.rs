//! One Ethernet frame in a driver's buffer, and what is left to do for whoever sends it.

use super::packet::{Ip, tcp_checksum_ok};

/// What was left to interface cards, by who made a frame or merged it of others: such a frame is no wire's, and whoever sends it finishes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    checksum: Checksum,
    /// See [`Frame::was_within`].
    alone: bool,
    segment: u16,
}

/// What is known of a frame's TCP checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    /// Nothing: what stands in the frame is to be looked at.
    #[default]
    Unknown,
    /// A card or the kernel has found it right.
    Verified,
    /// What stands in the frame is of no meaning. The kernel vouches for the frame: it is of this machine or of a card that has checked it.
    Open,
}

impl Offload {
    /// Nothing is left to do, and nothing was done by others: as frames come from wires.
    pub const NONE: Offload = Offload { checksum: Checksum::Unknown, alone: false, segment: 0 };

    /// A frame that a card or the kernel has checked.
    pub const VERIFIED: Offload = Offload { checksum: Checksum::Verified, alone: false, segment: 0 };

    /// A whole frame [that was within another packet](Frame::was_within).
    pub const ALONE: Offload = Offload { alone: true, ..Offload::NONE };

    /// One segment, without its checksum.
    pub const OPEN: Offload = Offload { checksum: Checksum::Open, alone: false, segment: 0 };

    /// Segments of so many bytes of payload each (the last may have fewer), under one header without its checksum. 0: one segment.
    pub const fn large(segment: u16) -> Offload {
        Offload { checksum: Checksum::Open, alone: false, segment }
    }

    /// Nothing is left to do.
    #[inline]
    pub fn is_finished(self) -> bool {
        !matches!(self.checksum, Checksum::Open)
    }

    /// It may be merged with those that follow it: see [`Frame::was_within`].
    #[inline]
    pub fn is_alone(self) -> bool {
        self.alone
    }

    /// Payload of each of the segments; 0 if it is one.
    #[inline]
    pub fn segment(self) -> u16 {
        self.segment
    }
}

/// A frame inside a larger buffer of the driver's: bytes may be pushed to or pulled from its front, as far as the
/// buffer's headroom goes, and cut or grown at its end.
#[derive(Debug)]
pub struct Frame<'a> {
    buf: &'a mut [u8],
    head: usize,
    len: usize,
    offload: Offload,
}

impl<'a> Frame<'a> {
    /// The `len` bytes from `head` of `buf` are the frame; what lies around them is room.
    ///
    /// # Panics
    /// When the frame does not lie within `buf`: a driver's mistake.
    pub fn new(buf: &'a mut [u8], head: usize, len: usize) -> Frame<'a> {
        assert!(head + len <= buf.len(), "frame outside its buffer");
        Frame { buf, head, len, offload: Offload::NONE }
    }

    /// A frame that fills its buffer: no headroom.
    pub fn whole(buf: &'a mut [u8]) -> Frame<'a> {
        let len = buf.len();
        Frame { buf, head: 0, len, offload: Offload::NONE }
    }

    /// The same, of which this was left to others.
    #[must_use]
    pub fn with(self, offload: Offload) -> Frame<'a> {
        Frame { offload, ..self }
    }

    /// What is left to whoever sends it.
    #[inline]
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// It was written anew, and is whole.
    #[inline]
    pub fn is_whole_now(&mut self) {
        self.offload = Offload::NONE;
    }

    /// It was within another packet. So no card and no kernel could merge it with the segments that follow it, as they do with what comes plainly:
    /// whoever sends it may.
    pub fn was_within(&mut self) {
        self.offload.alone = self.offload.is_finished();
    }

    /// What others have checked was not what is looked at now. A checksum that is open stays so.
    pub fn doubt(&mut self) {
        if self.offload.checksum == Checksum::Verified {
            self.offload.checksum = Checksum::Unknown;
        }
    }

    /// Of a frame whose checksum is [open](Checksum::Open): whoever sends it is to cut it into segments of at most so much payload. False,
    /// and nothing changed, for any other.
    pub fn cut_at_most(&mut self, payload: u16) -> bool {
        if self.offload.is_finished() {
            return false;
        }
        let segment = self.offload.segment;
        self.offload.segment = if segment == 0 { payload } else { segment.min(payload) };
        true
    }

    /// Segments that a payload of so many bytes stands for.
    #[inline]
    pub fn segments(&self, payload: usize) -> usize {
        match usize::from(self.offload.segment) {
            0 => 1,
            segment => payload.div_ceil(segment).max(1),
        }
    }

    /// The TCP segment that the frame's IP packet carries has arrived as it was sent, as far as its checksum tells, or who has checked it.
    pub fn tcp_is_intact(&self, ip: &Ip) -> bool {
        self.offload.checksum != Checksum::Unknown || tcp_checksum_ok(self.bytes(), ip)
    }

    /// The frame, from its destination MAC address on.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.head..self.head + self.len]
    }

    /// As [`Frame::bytes`], to be rewritten in place.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buf[self.head..self.head + self.len]
    }

    /// As [`Frame::bytes`], for as long as the buffer is borrowed.
    #[inline]
    pub fn into_bytes(self) -> &'a [u8] {
        &self.buf[self.head..self.head + self.len]
    }

    /// Where in the buffer the frame begins.
    pub fn head(&self) -> usize {
        self.head
    }

    /// Bytes in the frame.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes by which it could grow at its end.
    pub fn room_behind(&self) -> usize {
        self.buf.len() - self.head - self.len
    }

    /// No bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Moves the front by `n` bytes outwards (new bytes are whatever the buffer held). False when there is no room.
    #[must_use]
    pub fn push_front(&mut self, n: usize) -> bool {
        if n > self.head {
            return false;
        }
        self.head -= n;
        self.len += n;
        true
    }

    /// Cuts `n` bytes off the front; at most the whole frame.
    pub fn pull_front(&mut self, n: usize) {
        let n = n.min(self.len);
        self.head += n;
        self.len -= n;
    }

    /// Makes the frame `len` bytes long, cutting or growing at its end. False when there is no room.
    #[must_use]
    pub fn set_len(&mut self, len: usize) -> bool {
        if self.head + len > self.buf.len() {
            return false;
        }
        self.len = len;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_moves_only_within_the_headroom() {
        let mut buf = [1, 2, 3, 4, 5, 6];
        let mut f = Frame::new(&mut buf, 2, 3);
        assert_eq!(f.bytes(), [3, 4, 5]);
        assert!(!f.push_front(3) && f.push_front(2));
        assert_eq!(f.bytes(), [1, 2, 3, 4, 5]);
        f.pull_front(4);
        assert_eq!(f.bytes(), [5]);
        assert!(f.set_len(2) && !f.set_len(3));
        assert_eq!(f.bytes(), [5, 6]);
    }

    #[test]
    fn what_is_to_be_cut_is_cut_no_larger_than_before_and_nothing_else_is() {
        let mut buf = [0; 4];
        let mut whole = Frame::whole(&mut buf);
        assert!(!whole.cut_at_most(100) && whole.offload() == Offload::NONE && whole.segments(5000) == 1);
        let mut open = Frame::whole(&mut buf).with(Offload::OPEN);
        assert!(open.cut_at_most(100) && open.offload() == Offload::large(100));
        let mut large = Frame::whole(&mut buf).with(Offload::large(1448));
        assert_eq!([0, 1, 1448, 1449, 2896].map(|n| large.segments(n)), [1, 1, 1, 2, 2]);
        assert!(large.cut_at_most(9000) && large.offload() == Offload::large(1448));
        assert!(large.cut_at_most(536) && large.offload() == Offload::large(536));
        large.is_whole_now();
        assert!(large.offload().is_finished() && large.offload() == Offload::NONE);
    }

    #[test]
    fn what_was_within_another_packet_may_be_merged_until_it_is_written_anew_and_what_lacks_its_checksum_never() {
        let mut buf = [0; 4];
        let mut frame = Frame::whole(&mut buf);
        assert!(!frame.offload().is_alone());
        frame.was_within();
        assert_eq!(frame.offload(), Offload::ALONE);
        assert!(frame.offload().is_alone() && frame.offload().is_finished() && !frame.cut_at_most(100));
        frame.is_whole_now();
        assert!(!frame.offload().is_alone());
        for left in [Offload::OPEN, Offload::large(1448)] {
            let mut open = Frame::whole(&mut buf).with(left);
            open.was_within();
            assert_eq!(open.offload(), left);
        }
    }
}
