//! What is known of one direction of a flow, as far as a middlebox needs it: which segments can be meant seriously.
//!
//! Nearly every segment changes a few numbers only: the [`Window`]. What few do is noted beside it ([`Oddities`]), so that it need not be at hand
//! for each of the others.
//!
//! All numbers are in the client's view: client bytes counted from the client's own ISN (which the backend was given
//! too), server bytes counted from our cookie. So both ends of a comparison are in one frame of reference, whichever
//! side a frame came from.

use crate::pack::packed;
use crate::wire::Seq;

/// A retransmission may be that far behind however small the window is, bytes: two full segments of any link.
const LEAST_REACH: u32 = 1 << 17;

/// An acknowledgement of bytes that were not seen, and the window that came with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    ack: Seq,
    window: u32,
}

/// The window of one direction, bytes that flow away from one side: all that an ordinary segment changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, packed(4))]
pub struct Window {
    /// Behind the last byte (or FIN) that was sent within the window.
    pub next: Seq,
    /// Highest acknowledgement from the receiver: it has everything before.
    pub acked: Seq,
    /// The furthest the receiver ever allowed to send: acknowledgement and window. Receivers ought not to take back what
    /// they allowed (RFC 9293 section 3.8.6), and acknowledgements that overtake each other must not make it seem so.
    pub edge: Seq,
    /// The most that the receiver ever allowed at once, bytes: how far behind its acknowledgement an honest sender, who has not
    /// heard it yet, can be.
    reach: u32,
    /// Bytes by which `next` has grown, FIN not counted.
    bytes: u64,
}

/// What is seldom known of a direction: its end, and what does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Oddities {
    /// Where the sender's FIN stands, once it was seen.
    pub fin: Option<Seq>,
    /// Where another one stands: one of the two is a guess of somebody who hit the window. The receiver acknowledges the true one.
    other_fin: Option<Seq>,
    /// The receiver has acknowledged what its sender was not seen to send. Either it is not the receiver who says so, or we are out of step:
    /// its sender will tell, see [`Direction::corroborated`].
    claim: Option<Claim>,
    /// Behind what was sent furthest beyond the receiver's window; of meaning while it is further than `next`.
    far: Option<Seq>,
    /// Where its sender's last repetition of what was acknowledged began: the acknowledgement was lost behind us. Until it sends anything new.
    repeated: Option<Seq>,
}

impl Oddities {
    /// Something is known that the next ordinary segment may change, or that changes what it means.
    #[inline]
    pub fn any(&self) -> bool {
        self.fin.is_some() | self.other_fin.is_some() | self.claim.is_some() | self.repeated.is_some()
    }
}

impl Window {
    /// Nothing sent yet; the first byte will be `next`.
    pub fn new(next: Seq, window: u32) -> Window {
        Window { next, acked: next, edge: next + window, reach: window.max(LEAST_REACH), bytes: 0 }
    }

    /// Stream bytes sent so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A segment that its sender can have sent: it begins within what the receiver allows (at its edge, as a window probe does), and
    /// does not end further behind the acknowledgement than a whole window. After G. van Rooij, "Real Stateful TCP Packet
    /// Filtering in IP Filter" (2001), bounds I and II. What is outside changes nothing here; its receiver may judge it.
    #[inline(always)]
    pub fn plausible(&self, seq: Seq, len: u32) -> bool {
        !seq.is_after(self.edge) && self.acked.distance_to(seq + len) >= -(self.reach as i32)
    }

    /// A segment that is of this direction rather than of another connection on the same addresses and ports: it begins within what the
    /// receiver allows, and not before what was sent (the last 16 MiB of it).
    pub fn is_of_this(&self, seq: Seq) -> bool {
        // One for the SYN, and one for a keepalive, which begins before the byte it repeats.
        let back = self.bytes().min(1 << 24) as i32 + 2;
        !seq.is_after(self.edge) && self.acked.distance_to(seq) >= -back
    }

    /// A reset with this sequence number is one the receiver may obey: RFC 5961 (section 3.2) lets it obey only its
    /// exact next number, which lies between what it has acknowledged and what was sent.
    #[inline]
    pub fn reset_counts(&self, seq: Seq) -> bool {
        !seq.is_before(self.acked) && !seq.is_after(self.next)
    }

    /// As [`Direction::sent`] for a direction without oddities, and a plausible segment without FIN. False, and nothing changed, when it
    /// repeats what was acknowledged: that is an oddity.
    #[inline(always)]
    pub fn sent_in_order(&mut self, seq: Seq, len: u32) -> bool {
        let end = seq + len;
        if len == 0 {
            return true;
        }
        if !end.is_after(self.acked) {
            return false;
        }
        if end.is_after(self.next) {
            self.bytes += u64::from(end.0.wrapping_sub(self.next.0));
            self.next = end;
        }
        true
    }

    /// As [`Direction::acknowledged`] for a direction without oddities. False, and nothing changed, when it acknowledges what was not seen.
    #[inline(always)]
    pub fn acknowledged_in_order(&mut self, ack: Seq, window: u32) -> bool {
        if ack.is_after(self.next) {
            return false;
        }
        if !ack.is_before(self.acked) {
            self.acked = ack;
            self.reach = self.reach.max(window);
            self.edge = self.edge.later_of(ack + window);
        }
        true
    }

    /// Bytes the receiver allows beyond what it has acknowledged.
    pub fn allowed(&self) -> u32 {
        self.acked.distance_to(self.edge).max(0) as u32
    }

    /// Beyond what was seen, but no further than one more window: nobody gets out of step by more than that at once.
    fn is_near(&self, at: Seq) -> bool {
        at.is_after(self.next) && !at.is_after(self.edge + self.reach.min(1 << 29))
    }
}

/// One direction with all that is known of it.
#[derive(Debug)]
pub struct Direction<'a> {
    /// What every segment changes.
    pub window: &'a mut Window,
    /// And what few do.
    pub odd: &'a mut Oddities,
}

impl Direction<'_> {
    /// A segment with payload `[seq, seq + len)` and perhaps a FIN behind it was sent. Its checksum is right if it has a FIN, or if
    /// one was seen before: what is noted of the end of a flow is noted for good. What begins within the receiver's window counts
    /// whole: some receivers cut off what lies beyond it, and Linux takes it; a sender that was cut short sends it again.
    pub fn sent(&mut self, seq: Seq, len: u32, fin: bool) {
        // An empty segment tells only where its sender stands, which may be behind bytes, or a FIN, that were lost on their
        // way here: they are not counted before they come.
        if (len == 0 && !fin) || !self.window.plausible(seq, len) {
            return;
        }
        let finished = self.finished();
        let Direction { window, odd } = self;
        let end = seq + len;
        if len > 0 && !end.is_after(window.acked) {
            odd.repeated = Some(seq);
        }
        if let Some(at) = odd.fin
            && end.is_after(at)
        {
            if finished {
                return;
            }
            if len == 0 {
                odd.other_fin = Some(end);
                window.next = window.next.later_of(end + 1);
                return;
            }
            // Who goes on behind a FIN has not sent it; unless what goes on is the guess.
            (odd.fin, odd.other_fin, window.next) = (None, Some(at), at);
        }
        if end.is_after(window.next) {
            window.bytes += u64::from(end.0.wrapping_sub(window.next.0));
            window.next = end;
            odd.repeated = None;
        }
        if !fin || end.is_before(window.acked) {
            return;
        }
        if odd.fin.is_some_and(|at| at != end) {
            odd.other_fin = Some(end);
        } else if odd.fin.is_none() {
            // Nothing is sent behind a FIN: what seemed to be was damaged, or another's.
            window.bytes = window.bytes().saturating_sub(u64::from(window.next.0.wrapping_sub(end.0)));
            odd.fin = Some(end);
            window.next = end + 1;
        }
    }

    /// The receiver acknowledged up to `ack` and allows `window` bytes from there.
    pub fn acknowledged(&mut self, ack: Seq, window: u32) {
        if ack.is_before(self.window.acked) {
            return;
        }
        if self.window.acknowledged_in_order(ack, window) {
            self.odd.claim = None;
        } else if self.window.is_near(ack) {
            // What was not seen.
            self.odd.claim = Some(Claim { ack, window });
        }
    }

    /// A segment with a number beyond the receiver's window was sent. Nothing is concluded from it, but if the receiver took it, it expects
    /// what is behind it.
    pub fn overshot(&mut self, seq: Seq, len: u32) {
        let end = seq + len;
        if self.window.is_near(end) && end.is_after(self.furthest()) {
            self.odd.far = Some(end);
        }
    }

    /// The most that the receiver may expect next.
    pub fn furthest(&self) -> Seq {
        self.odd.far.filter(|far| self.window.is_near(*far)).unwrap_or(self.window.next)
    }

    /// From here on something may be under way: what was not acknowledged, or what its sender repeats all the same.
    pub fn in_flight_from(&self) -> Seq {
        self.odd.repeated.filter(|from| from.is_before(self.window.acked)).unwrap_or(self.window.acked)
    }

    /// There is a claim that the sender's next segment may corroborate.
    pub fn is_in_doubt(&self) -> bool {
        self.odd.claim.is_some()
    }

    /// The sender is at `seq`, in a segment that knows where the other direction is. If that is where the receiver claims to be, or further and
    /// within the window that it claimed, both ends say the same, and it is we who were out of step: what they say holds from now on. One of
    /// them alone moves nothing, and the claim ends with the receiver's next acknowledgement of what was seen.
    pub fn corroborated(&mut self, seq: Seq) {
        let Direction { window: w, odd } = self;
        let Some(Claim { ack, window }) = odd.claim else { return };
        if !ack.is_after(w.next) {
            // Seen meanwhile.
            odd.claim = None;
        }
        if odd.claim.is_none() || seq.is_before(ack) || seq.is_after(ack + window) {
            return;
        }
        odd.claim = None;
        w.bytes += u64::from(ack.0.wrapping_sub(w.next.0));
        (w.next, w.acked) = (ack, ack);
        w.reach = w.reach.max(window);
        w.edge = w.edge.later_of(ack + window);
        // Where it seemed to end it went on.
        (odd.fin, odd.other_fin) = (None, None);
    }

    /// The least that the receiver may expect next: what it has acknowledged, or claims to.
    pub fn heard(&self) -> Seq {
        self.odd.claim.map_or(self.window.acked, |claim| claim.ack)
    }

    /// The FIN was sent and acknowledged: this direction is over.
    pub fn finished(&self) -> bool {
        [self.odd.fin, self.odd.other_fin].into_iter().flatten().any(|fin| self.window.acked == fin + 1)
    }
}

packed!(Claim { ack, window });
packed!(Window { next, acked, edge, reach, bytes });
packed!(Oddities { fin, other_fin, claim, far, repeated });

#[cfg(test)]
mod tests {
    use super::*;

    /// A direction that owns its parts.
    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Owned {
        window: Window,
        odd: Oddities,
    }

    impl Owned {
        fn new(next: Seq, window: u32) -> Owned {
            Owned { window: Window::new(next, window), odd: Oddities::default() }
        }

        fn d(&mut self) -> Direction<'_> {
            Direction { window: &mut self.window, odd: &mut self.odd }
        }

        /// What is ordinary is noted both ways, to the same end.
        fn sent(&mut self, seq: Seq, len: u32, fin: bool) {
            let mut plain = *self;
            let ordinary = !self.odd.any() && !fin && plain.window.plausible(seq, len);
            let noted = ordinary && plain.window.sent_in_order(seq, len);
            self.d().sent(seq, len, fin);
            assert!(!noted || plain == *self);
        }

        fn acknowledged(&mut self, ack: Seq, window: u32) {
            let mut plain = *self;
            let noted = !self.odd.any() && plain.window.acknowledged_in_order(ack, window);
            self.d().acknowledged(ack, window);
            assert!(!noted || plain == *self);
        }

        fn bytes(&self) -> u64 {
            self.window.bytes()
        }

        fn next(&self) -> Seq {
            self.window.next
        }

        fn finished(&self) -> bool {
            let mut copy = *self;
            copy.d().finished()
        }
    }

    #[test]
    fn a_direction_is_over_when_its_fin_is_acknowledged() {
        let mut d = Owned::new(Seq(u32::MAX - 2), 100);
        d.sent(Seq(u32::MAX - 2), 10, true);
        assert_eq!((d.bytes(), d.odd.fin), (10, Some(Seq(7))));
        d.acknowledged(Seq(7), 100);
        assert!(!d.finished());
        d.acknowledged(Seq(8), 100);
        assert!(d.finished());
    }

    #[test]
    fn a_fin_that_was_lost_is_known_when_it_comes_again_after_an_empty_segment_from_behind_it() {
        let mut d = Owned::new(Seq(1000), 100);
        d.sent(Seq(1000), 10, false);
        // The FIN at 1010 was lost; its sender acknowledges something from where it stands, then repeats the FIN.
        d.sent(Seq(1011), 0, false);
        d.sent(Seq(1010), 0, true);
        assert_eq!((d.odd.fin, d.next(), d.bytes()), (Some(Seq(1010)), Seq(1011), 10));
        d.acknowledged(Seq(1011), 100);
        assert!(d.finished());
    }

    #[test]
    fn what_nobody_in_step_can_have_sent_moves_nothing() {
        let mut d = Owned::new(Seq(1_000_000), 300_000);
        d.sent(Seq(1_000_000), 1000, false);
        d.acknowledged(Seq(1_001_000), 250_000);
        for (seq, good) in [
            (701_000, true),
            (700_999, false),
            (1_300_000, true),
            (1_300_001, false),
            (1 << 29, false),
            (3 << 30, false),
        ] {
            assert_eq!(d.window.plausible(Seq(seq), 0), good, "{seq}");
        }
    }

    #[test]
    fn a_fin_behind_which_its_sender_goes_on_was_none() {
        let mut d = Owned::new(Seq(1000), 5000);
        d.sent(Seq(1000), 100, false);
        // Another's guess, within the window.
        d.sent(Seq(1300), 0, true);
        assert_eq!((d.odd.fin, d.next()), (Some(Seq(1300)), Seq(1301)));
        d.sent(Seq(1100), 400, false);
        assert_eq!((d.odd.fin, d.next(), d.bytes()), (None, Seq(1500), 500));
        d.acknowledged(Seq(1500), 5000);
        assert!(!d.finished());
        d.sent(Seq(1500), 10, true);
        d.acknowledged(Seq(1511), 5000);
        assert!(d.finished());
        // Bytes behind an acknowledged FIN do not reopen it.
        d.sent(Seq(1511), 10, false);
        assert!(d.finished() && d.bytes() == 510);
    }

    #[test]
    fn of_two_fins_the_one_that_is_acknowledged_ends_the_direction() {
        // A guess before the true one, and a guess behind it.
        for (first, second) in [(1300, 1110), (1110, 1300)] {
            let mut d = Owned::new(Seq(1000), 5000);
            d.sent(Seq(1000), 110, false);
            d.sent(Seq(first), 0, true);
            d.sent(Seq(second), 0, true);
            d.acknowledged(Seq(1110), 5000);
            assert!(!d.finished());
            d.acknowledged(Seq(1111), 5000);
            assert!(d.finished(), "{first} {second}");
        }
    }

    #[test]
    fn a_fin_is_known_although_a_damaged_segment_seemed_to_be_behind_it() {
        let mut d = Owned::new(Seq(1000), 5000);
        d.sent(Seq(1000), 100, false);
        d.sent(Seq(4000), 100, false);
        d.sent(Seq(1100), 10, true);
        assert_eq!((d.odd.fin, d.next(), d.bytes()), (Some(Seq(1110)), Seq(1111), 110));
        d.acknowledged(Seq(1111), 5000);
        assert!(d.finished());
    }

    #[test]
    fn an_overtaken_acknowledgement_takes_no_window_back() {
        let mut d = Owned::new(Seq(1000), 100);
        d.acknowledged(Seq(1000), 500);
        d.acknowledged(Seq(1000), 20);
        d.sent(Seq(1000), 500, false);
        assert_eq!((d.next(), d.window.allowed()), (Seq(1500), 500));
        d.acknowledged(Seq(1500), 0);
        assert_eq!(({ d.window.acked }, d.window.allowed()), (Seq(1500), 0));
    }

    #[test]
    fn what_was_sent_and_may_be_sent_is_of_this_connection_and_nothing_else() {
        let mut d = Owned::new(Seq(u32::MAX - 9), 100);
        d.sent(Seq(u32::MAX - 9), 50, false);
        d.acknowledged(Seq(40), 100);
        let first = Seq(u32::MAX - 9);
        assert!(d.window.is_of_this(first) && d.window.is_of_this(Seq(first.0 - 1)) && d.window.is_of_this(Seq(140)));
        assert!(
            !d.window.is_of_this(Seq(first.0 - 3))
                && !d.window.is_of_this(Seq(141))
                && !d.window.is_of_this(Seq(1 << 31))
        );
    }

    #[test]
    fn a_segment_across_the_edge_counts_whole_whether_its_receiver_takes_all_of_it_or_cuts_it() {
        let mut d = Owned::new(Seq(1000), 100);
        d.sent(Seq(1000), 150, true);
        assert_eq!((d.next(), d.odd.fin, d.bytes()), (Seq(1151), Some(Seq(1150)), 150));
        let mut taken = d;
        taken.acknowledged(Seq(1151), 100);
        assert!(taken.finished());
        d.acknowledged(Seq(1100), 100);
        d.sent(Seq(1100), 50, true);
        assert_eq!((d.next(), d.odd.fin, d.bytes(), d.finished()), (Seq(1151), Some(Seq(1150)), 150, false));
        d.acknowledged(Seq(1151), 100);
        assert!(d.finished());
    }

    #[test]
    fn out_of_step_is_regained_when_both_ends_say_the_same_and_by_none_of_them_alone() {
        let mut d = Owned::new(Seq(u32::MAX - 499), 1000);
        d.sent(Seq(u32::MAX - 499), 500, false);
        let before = d;
        // The receiver has more than was seen; its sender, somewhere else, does not agree.
        d.acknowledged(Seq(3000), 2000);
        assert!(d.d().is_in_doubt() && d.d().heard() == Seq(3000));
        for elsewhere in [0, 2999, 5001, 1 << 31] {
            d.d().corroborated(Seq(elsewhere));
            assert!(!d.window.plausible(Seq(4500), 1) && d.next() == before.next(), "{elsewhere}");
        }
        // What was seen is acknowledged: it was somebody else who claimed.
        d.acknowledged(Seq(0), 1000);
        d.d().corroborated(Seq(3000));
        assert_eq!((d.next(), { d.window.acked }, d.bytes(), d.d().is_in_doubt()), (Seq(0), Seq(0), 500, false));
        // Beyond all windows there is no claim.
        d.acknowledged(Seq(1 << 20), 2000);
        assert!(!d.d().is_in_doubt());
        // Both.
        d.acknowledged(Seq(3000), 2000);
        d.d().corroborated(Seq(4460));
        assert_eq!(
            (d.next(), { d.window.acked }, { d.window.edge }, d.bytes()),
            (Seq(3000), Seq(3000), Seq(5000), 3500)
        );
        d.sent(Seq(4460), 100, true);
        d.acknowledged(Seq(4561), 2000);
        assert!(d.finished());
    }

    #[test]
    fn what_lies_outside_the_window_moves_nothing() {
        let mut d = Owned::new(Seq(1000), 100);
        let before = d;
        d.sent(Seq(1101), 1, false);
        d.sent(Seq(900_000), 10, true);
        d.acknowledged(Seq(1001), 5);
        d.acknowledged(Seq(999), 5);
        let odd = Oddities { claim: None, ..d.odd };
        assert_eq!(Owned { odd, ..d }, before);
        assert!(
            d.window.reset_counts(Seq(1000)) && !d.window.reset_counts(Seq(1001)) && !d.window.reset_counts(Seq(999))
        );
    }
}
