//! TCP sequence numbers as types (RFC 9293, section 3.4): they wrap in one place, here.
//!
//! "After" is not an order: of three numbers each can be after the next. So [`Seq`] has no `Ord`; ask
//! [`Seq::is_before`], [`Seq::distance_to`] or [`Seq::in_window`] about numbers known to be near each other.

use crate::pack::packed;
use core::fmt;
use core::ops::{Add, AddAssign, Neg, Sub};

/// A sequence or acknowledgement number: a position in one direction of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Seq(pub u32);

/// What must be added to the numbers of one side to get those of the other. Constant for a flow's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SeqDelta(pub u32);

impl Seq {
    /// How far `later` lies behind `self`: negative when it lies before. Right for distances below 2^31.
    #[inline]
    pub const fn distance_to(self, later: Seq) -> i32 {
        later.0.wrapping_sub(self.0) as i32
    }

    /// Strictly before `other`.
    #[inline]
    pub const fn is_before(self, other: Seq) -> bool {
        self.distance_to(other) > 0
    }

    /// Strictly after `other`.
    #[inline]
    pub const fn is_after(self, other: Seq) -> bool {
        other.is_before(self)
    }

    /// Within `[start, start + len)`. An empty window holds nothing.
    #[inline]
    pub const fn in_window(self, start: Seq, len: u32) -> bool {
        self.0.wrapping_sub(start.0) < len
    }

    /// The later of two numbers.
    #[inline]
    pub const fn later_of(self, other: Seq) -> Seq {
        if self.is_before(other) { other } else { self }
    }

    /// The delta that carries `self` onto `target`.
    #[inline]
    pub const fn delta_to(self, target: Seq) -> SeqDelta {
        SeqDelta(target.0.wrapping_sub(self.0))
    }
}

impl Add<u32> for Seq {
    type Output = Seq;
    #[inline]
    fn add(self, n: u32) -> Seq {
        Seq(self.0.wrapping_add(n))
    }
}

impl AddAssign<u32> for Seq {
    #[inline]
    fn add_assign(&mut self, n: u32) {
        *self = *self + n;
    }
}

impl Sub<u32> for Seq {
    type Output = Seq;
    #[inline]
    fn sub(self, n: u32) -> Seq {
        Seq(self.0.wrapping_sub(n))
    }
}

impl Add<SeqDelta> for Seq {
    type Output = Seq;
    #[inline]
    fn add(self, d: SeqDelta) -> Seq {
        Seq(self.0.wrapping_add(d.0))
    }
}

impl Neg for SeqDelta {
    type Output = SeqDelta;
    #[inline]
    fn neg(self) -> SeqDelta {
        SeqDelta(self.0.wrapping_neg())
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

packed!(Seq(u32));
packed!(SeqDelta(u32));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_holds_across_the_wrap() {
        let (a, b) = (Seq(u32::MAX - 1), Seq(3));
        assert!(a.is_before(b) && b.is_after(a) && !a.is_before(a));
        assert_eq!((a.distance_to(b), b.distance_to(a)), (5, -5));
        assert!(b.in_window(a, 6) && !b.in_window(a, 5) && !a.in_window(a, 0));
        assert_eq!(a.later_of(b), b);
    }

    #[test]
    fn a_delta_and_its_negation_cancel() {
        let (k, b) = (Seq(7), Seq(0xffff_fff0));
        let d = b.delta_to(k);
        assert_eq!(b + d, k);
        assert_eq!(k + -d, b);
    }
}
