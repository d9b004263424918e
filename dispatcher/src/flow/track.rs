//! What is known of one direction of a flow, as far as a middlebox needs it: which segments can be meant seriously.
//!
//! All numbers are in the client's view: client bytes counted from the client's own ISN (which the backend was given
//! too), server bytes counted from our cookie. So both ends of a comparison are in one frame of reference, whichever
//! side a frame came from.

use crate::wire::Seq;

/// One direction: bytes that flow away from one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    /// Behind the last byte (or FIN) that was sent within the window.
    pub next: Seq,
    /// Highest acknowledgement from the receiver: it has everything before.
    pub acked: Seq,
    /// The furthest the receiver ever allowed to send: acknowledgement and window. Receivers ought not to take back what
    /// they allowed (RFC 9293 section 3.8.6), and acknowledgements that overtake each other must not make it seem so.
    pub edge: Seq,
    /// Where the sender's FIN stands, once it was seen.
    pub fin: Option<Seq>,
    /// Bytes by which [`Direction::next`] has grown, FIN not counted.
    pub bytes: u64,
}

impl Direction {
    /// Nothing sent yet; the first byte will be `next`.
    pub fn new(next: Seq, window: u32) -> Direction {
        Direction { next, acked: next, edge: next + window, fin: None, bytes: 0 }
    }

    /// A segment that a receiver could have use for: it ends within what the receiver allows (one more for a window
    /// probe), and not before what any retransmission would repeat.
    #[inline]
    pub fn plausible(&self, end: Seq) -> bool {
        !end.is_after(self.edge + 1) && self.acked.distance_to(end) >= -(1 << 30)
    }

    /// A reset with this sequence number is one the receiver may obey: RFC 5961 (section 3.2) lets it obey only its
    /// exact next number, which lies between what it has acknowledged and what was sent.
    #[inline]
    pub fn reset_counts(&self, seq: Seq) -> bool {
        !seq.is_before(self.acked) && !seq.is_after(self.next)
    }

    /// A segment with payload `[seq, seq + len)` and perhaps a FIN behind it was sent.
    #[inline]
    pub fn sent(&mut self, seq: Seq, len: u32, fin: bool) {
        let end = seq + len;
        if !self.plausible(end) {
            return;
        }
        if end.is_after(self.next) {
            self.bytes += u64::from(end.0.wrapping_sub(self.next.0));
            self.next = end;
        }
        if fin && self.fin.is_none() && end == self.next {
            self.fin = Some(end);
            self.next = end + 1;
        }
    }

    /// The receiver acknowledged up to `ack` and allows `window` bytes from there.
    #[inline]
    pub fn acknowledged(&mut self, ack: Seq, window: u32) {
        if ack.is_before(self.acked) || ack.is_after(self.next) {
            return;
        }
        self.acked = ack;
        self.edge = self.edge.later_of(ack + window);
    }

    /// Bytes the receiver allows beyond what it has acknowledged.
    pub fn allowed(&self) -> u32 {
        self.acked.distance_to(self.edge).max(0) as u32
    }

    /// The FIN was sent and acknowledged: this direction is over.
    #[inline]
    pub fn finished(&self) -> bool {
        self.fin.is_some_and(|fin| self.acked.is_after(fin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direction_is_over_when_its_fin_is_acknowledged() {
        let mut d = Direction::new(Seq(u32::MAX - 2), 100);
        d.sent(Seq(u32::MAX - 2), 10, true);
        assert_eq!((d.bytes, d.fin), (10, Some(Seq(7))));
        d.acknowledged(Seq(7), 100);
        assert!(!d.finished());
        d.acknowledged(Seq(8), 100);
        assert!(d.finished());
    }

    #[test]
    fn an_overtaken_acknowledgement_takes_no_window_back() {
        let mut d = Direction::new(Seq(1000), 100);
        d.acknowledged(Seq(1000), 500);
        d.acknowledged(Seq(1000), 20);
        d.sent(Seq(1000), 500, false);
        assert_eq!((d.next, d.allowed()), (Seq(1500), 500));
        d.acknowledged(Seq(1500), 0);
        assert_eq!((d.acked, d.allowed()), (Seq(1500), 0));
    }

    #[test]
    fn what_lies_outside_the_window_moves_nothing() {
        let mut d = Direction::new(Seq(1000), 100);
        let before = d;
        d.sent(Seq(1000), 102, false);
        d.sent(Seq(900_000), 10, true);
        d.acknowledged(Seq(1001), 5);
        d.acknowledged(Seq(999), 5);
        assert_eq!(d, before);
        assert!(d.reset_counts(Seq(1000)) && !d.reset_counts(Seq(1001)) && !d.reset_counts(Seq(999)));
    }
}
