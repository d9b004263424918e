//! Weighted classes: whose turn it is.
//!
//! Each class has a *virtual time*: the units it was given, divided by its weight. The class with the least goes next. One that nobody waited in begins where the
//! others are, so that nothing is saved up in silence. This is start-time fair queueing (Goyal, Vin, Cheng: Start-time Fair Queuing, SIGCOMM 1996): over any span in
//! which two classes wait, what each was given, by weight, differs by at most one handshake of each.
//!
//! Why not deficit round robin (Shreedhar and Varghese, Efficient Fair Queuing using Deficit Round Robin, SIGCOMM 1995), whose shares are the same: its round is the state of one
//! scheduler. Here every worker is one, and a class may wait at one of them only; eight numbers that all add to say of any two workers who is behind. And DRR's
//! advantage, no search for the least, is none among eight.

use super::class::{ClassId, MAX_CLASSES, Share};
use crate::sync::{AtomicU64, Ordering};

/// Bits of a fraction of a unit: a weight of 1000 still divides one exactly enough.
const FRACTION: u32 = 20;

/// The virtual times of the classes, shared by all workers. At a million units a second they last half a year at weight 1, and wrap to zero, which costs one moment of
/// wrong order.
pub(crate) struct Fairness {
    share: [Share; MAX_CLASSES],
    times: [AtomicU64; MAX_CLASSES],
    /// Of the class that went last, before it went.
    now: AtomicU64,
    /// By class: all workers' waiters.
    waiting: [AtomicU64; MAX_CLASSES],
}

/// How the classes stand at a moment, and would stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// A strict one's is zero.
    times: [u64; MAX_CLASSES],
    /// Of a weighted one; zero for a strict one.
    weights: [u16; MAX_CLASSES],
}

impl Standing {
    /// Lower goes first.
    pub fn key(&self, class: ClassId) -> (bool, u64, u8) {
        (self.weights[class.index()] > 0, self.times[class.index()], class.0)
    }

    /// The class is given so many units.
    pub fn went(&mut self, class: ClassId, units: u32) {
        if self.weights[class.index()] > 0 {
            self.times[class.index()] += time(units, self.weights[class.index()]);
        }
    }
}

/// What units weigh.
fn time(units: u32, weight: u16) -> u64 {
    (u64::from(units.max(1)) << FRACTION) / u64::from(weight.max(1))
}

impl Fairness {
    pub fn new(share: [Share; MAX_CLASSES]) -> Fairness {
        let zeros = || core::array::from_fn(|_| AtomicU64::new(0));
        Fairness { share, times: zeros(), now: AtomicU64::new(0), waiting: zeros() }
    }

    /// One more waits in it, here.
    pub fn waits(&self, class: ClassId) {
        if self.waiting[class.index()].fetch_add(1, Ordering::AcqRel) == 0 {
            let now = self.now.load(Ordering::Relaxed);
            self.times[class.index()].fetch_max(now, Ordering::Relaxed);
        }
    }

    /// One that waited does no more.
    pub fn waits_no_more(&self, class: ClassId) {
        let before = self.waiting[class.index()].fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "more left than came");
    }

    /// One that waited has been given so many units. What goes at once, because nobody waits, costs nobody anything and is not counted.
    pub fn went(&self, class: ClassId, units: u32) {
        if let Share::Weight(weight) = self.share[class.index()] {
            let began = self.times[class.index()].fetch_add(time(units, weight), Ordering::Relaxed);
            self.now.fetch_max(began, Ordering::Relaxed);
        }
    }

    /// How they stand.
    pub fn standing(&self) -> Standing {
        let weight = |share: &Share| if let Share::Weight(weight) = share { (*weight).max(1) } else { 0 };
        Standing {
            times: core::array::from_fn(|c| self.times[c].load(Ordering::Relaxed)),
            weights: core::array::from_fn(|c| weight(&self.share[c])),
        }
    }

    /// Strict classes as they are listed, then the weighted ones by virtual time.
    pub fn order(&self) -> [ClassId; MAX_CLASSES] {
        let standing = self.standing();
        let mut order = core::array::from_fn(|c| ClassId(c as u8));
        order.sort_unstable_by_key(|&class| standing.key(class));
        order
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn fairness(shares: &[Share]) -> Fairness {
        Fairness::new(core::array::from_fn(|c| shares.get(c).copied().unwrap_or(Share::Weight(1))))
    }

    #[test]
    fn strict_classes_go_before_weighted_ones_wherever_they_are_listed() {
        let fairness = fairness(&[Share::Weight(5), Share::Strict, Share::Weight(1), Share::Strict]);
        assert_eq!(fairness.order()[..3], [ClassId(1), ClassId(3), ClassId(0)]);
        fairness.went(ClassId(0), 10);
        assert_eq!(fairness.order()[..3], [ClassId(1), ClassId(3), ClassId(2)]);
    }

    #[test]
    fn nothing_is_saved_up_in_silence() {
        let fairness = fairness(&[Share::Weight(1), Share::Weight(1)]);
        fairness.waits(ClassId(0));
        (0..1000).for_each(|_| fairness.went(ClassId(0), 10));
        fairness.waits(ClassId(1));
        let first = |_| {
            let first = fairness.order().into_iter().find(|c| c.0 < 2).unwrap();
            fairness.went(first, 10);
            usize::from(first.0)
        };
        let given = (0..100).map(first).filter(|&c| c == 1).count();
        assert!((50..=52).contains(&given), "{given}");
    }

    /// A plain deficit round robin, as in the paper.
    fn deficit_round_robin(weights: &[u16], costs: &[Vec<u32>], units: u64) -> Vec<u64> {
        let mut given = vec![0; weights.len()];
        let (mut deficit, mut at) = (vec![0; weights.len()], vec![0; weights.len()]);
        while given.iter().sum::<u64>() < units {
            for c in 0..weights.len() {
                deficit[c] += u32::from(weights[c]) * 10;
                while let cost = costs[c][at[c] % costs[c].len()]
                    && cost <= deficit[c]
                {
                    deficit[c] -= cost;
                    given[c] += u64::from(cost);
                    at[c] += 1;
                }
            }
        }
        given
    }

    #[test]
    fn shares_are_those_of_deficit_round_robin_whatever_the_costs() {
        let weights = [1, 2, 7];
        let costs = [vec![1, 10, 1], vec![10], vec![1, 1, 10, 10, 1]];
        let fairness = fairness(&weights.map(Share::Weight));
        (0..3).for_each(|c| fairness.waits(ClassId(c)));
        let (mut given, mut at) = (vec![0u64; 3], [0; 3]);
        while given.iter().sum::<u64>() < 100_000 {
            let c = fairness.order().into_iter().find(|c| c.0 < 3).unwrap().index();
            let cost = costs[c][at[c] % costs[c].len()];
            fairness.went(ClassId(c as u8), cost);
            given[c] += u64::from(cost);
            at[c] += 1;
        }
        for (ours, theirs) in given.iter().zip(deficit_round_robin(&weights, &costs, 100_000)) {
            assert!(ours.abs_diff(theirs) <= 100 + 20, "{ours} {theirs}");
        }
    }
}
