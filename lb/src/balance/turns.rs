//! Whose turn it is, for another process that goes on choosing.

use crate::backend::BackendId;

/// What a [`Balancer`](super::Balancer) remembers from choice to choice, in the order in which the backends come. Whoever is not in the pool there is left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Turns {
    /// Of [`RoundRobin`](super::RoundRobin): the classes of one weight each; and what backends have of credit that were chosen among a few.
    RoundRobin {
        /// See there.
        classes: Vec<ClassTurns>,
        /// By backend. Who is not named has none.
        among: Vec<(BackendId, i64)>,
    },
    /// Of [`LeastConn`](super::LeastConn): the last chosen among all, and the last among a few.
    LeastConn([Option<BackendId>; 2]),
}

/// The backends of one weight.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClassTurns {
    /// Of those that still have a turn.
    pub credit: i64,
    /// How many were chosen in the last round.
    pub chosen: u16,
    /// Those that have a turn in this round.
    pub turns: Vec<BackendId>,
    /// Those that had it.
    pub had: Vec<BackendId>,
}

/// Credit is never more than that, either way: all weights together are less, and nobody is owed many rounds.
pub const MOST_CREDIT: i64 = 1 << 40;
