//! One Ethernet frame in a driver's buffer.

/// A frame inside a larger buffer of the driver's: bytes may be pushed to or pulled from its front, as far as the
/// buffer's headroom goes, and cut or grown at its end.
#[derive(Debug)]
pub struct Frame<'a> {
    buf: &'a mut [u8],
    head: usize,
    len: usize,
}

impl<'a> Frame<'a> {
    /// The `len` bytes from `head` of `buf` are the frame; what lies around them is room.
    ///
    /// # Panics
    /// When the frame does not lie within `buf`: a driver's mistake.
    pub fn new(buf: &'a mut [u8], head: usize, len: usize) -> Frame<'a> {
        assert!(head + len <= buf.len(), "frame outside its buffer");
        Frame { buf, head, len }
    }

    /// A frame that fills its buffer: no headroom.
    pub fn whole(buf: &'a mut [u8]) -> Frame<'a> {
        let len = buf.len();
        Frame { buf, head: 0, len }
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
}
