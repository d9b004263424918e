//! By what requests are admitted, and what all workers have in common of it.

use super::Admission;
use super::bits::Bits;
use super::class::{ClassId, Classes, Cost, MAX_CLASSES, Share};
use super::fairness::Fairness;
use super::metrics::Metrics;
use super::queue::{Line, NOBODY};
use super::request::Slot;
use super::reserve::Ledger;
use super::share::{Board, MAX_WORKERS};
use super::slots::{Slots, Take, Used};
use crate::backend::{BackendId, MAX_BACKENDS, State};
use crate::sync::Arc;
use crate::time::Millis;
use core::fmt;
use core::time::Duration;

#[cfg(doc)]
use super::SPILL_AFTER;

/// What the requests of one service at one pool are admitted by.
#[derive(Clone, Debug)]
pub struct Config {
    /// The service's.
    pub classes: Classes,
    /// The pool's backends.
    pub members: Vec<BackendId>,
    /// [`SPILL_AFTER`]; `None` for applications that must have their own server.
    pub spill_after: Option<Duration>,
}

/// What all workers have in common.
pub(super) struct Shared {
    pub(super) slots: Arc<Slots>,
    pub(super) classes: Classes,
    pub(super) members: Box<[BackendId]>,
    /// By backend, as far as the members go.
    pub(super) member_of: Box<[u16]>,
    pub(super) spill_after: Option<Duration>,
    /// Classes with a reserve.
    pub(super) reserved: u8,
    pub(super) ledger: Arc<Ledger>,
    pub(super) fairness: Fairness,
    pub(super) board: Board,
}

/// What all workers have in common of an admission: made once, by whoever makes it; then each worker [joins](Terms::join).
#[derive(Clone)]
pub struct Terms(pub(super) Arc<Shared>);

impl Terms {
    /// For so many workers. Members beyond [`MAX_BACKENDS`] are none, nor are those named twice; nor workers beyond [`MAX_WORKERS`], of whom there is one at least.
    pub fn new(config: Config, slots: &Arc<Slots>, workers: usize) -> Terms {
        Terms::make(None, config, slots, workers)
    }

    /// Those that follow these for the same service and pool: the same, if nothing is different.
    pub fn followed_by(&self, config: Config, workers: usize) -> Terms {
        let Shared { classes, members, spill_after, slots, board, .. } = &*self.0;
        let same = *classes == config.classes
            && **members == *sorted(&config.members)
            && *spill_after == config.spill_after
            && board.workers() == workers.clamp(1, MAX_WORKERS);
        if same { self.clone() } else { Terms::make(Some(self), config, slots, workers) }
    }

    fn make(before: Option<&Terms>, config: Config, slots: &Arc<Slots>, workers: usize) -> Terms {
        let workers = workers.clamp(1, MAX_WORKERS);
        let specs = config.classes.specs();
        let share = core::array::from_fn(|c| specs.get(c).map_or(Share::Weight(1), |spec| spec.share));
        let percent = core::array::from_fn(|c| specs.get(c).map_or(0, |spec| spec.reserve));
        let members = sorted(&config.members);
        let mut member_of = vec![NOBODY; members.last().map_or(0, |id| id.index() + 1)];
        members.iter().enumerate().for_each(|(member, id)| member_of[id.index()] = member as u16);
        Terms(Arc::new(Shared {
            slots: slots.clone(),
            member_of: member_of.into(),
            spill_after: config.spill_after,
            reserved: (0..MAX_CLASSES as u8).filter(|&c| percent[usize::from(c)] > 0).fold(0, |set, c| set | 1 << c),
            ledger: Ledger::following(before.map(|terms| &terms.0.ledger), percent, slots),
            fairness: Fairness::new(share),
            board: Board::new(workers, members.len()),
            members: members.into(),
            classes: config.classes,
        }))
    }

    /// The same ones, not only alike.
    pub fn are(&self, others: &Terms) -> bool {
        Arc::ptr_eq(&self.0, &others.0)
    }

    /// One worker's admission; one for each worker at a time.
    pub fn join(&self, worker: usize) -> Admission {
        let Shared { classes, members, board, .. } = &*self.0;
        let specs = classes.specs();
        let bounds: [usize; MAX_CLASSES] =
            core::array::from_fn(|c| specs.get(c).map_or(0, |spec| spec.queue.div_ceil(board.workers())));
        let (n, places) = (members.len(), bounds.iter().sum::<usize>());
        Admission {
            shared: self.0.clone(),
            worker: worker.min(board.workers() - 1),
            line: Line::new(n, places + places / 8 + 1),
            bounds,
            states: vec![State::Up; n].into(),
            overdue: Default::default(),
            found: Bits::new(n),
            offered: core::array::from_fn(|_| Bits::new(n)),
            allowed: vec![0; n].into(),
            held: Bits::new(n),
            gone: false,
            due: Millis(u64::MAX),
            wakes: 0,
            metrics: Metrics::default(),
        }
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms").field("members", &self.0.members).finish_non_exhaustive()
    }
}

/// Each once, in order, without those that cannot be.
fn sorted(members: &[BackendId]) -> Vec<BackendId> {
    let mut members: Vec<BackendId> = members.iter().copied().filter(|id| id.index() < MAX_BACKENDS).collect();
    members.sort_unstable();
    members.dedup();
    members
}

impl Shared {
    pub(super) fn take(&self, member: usize, class: ClassId, cost: Cost) -> Take {
        let id = self.members[member];
        let spares = |used, limits| self.ledger.spares(id, class, cost.used(), used, limits);
        let take = self.slots.take(id, cost.used(), spares);
        if take == Take::Taken {
            self.ledger.taken(id, class, cost.used());
        }
        take
    }

    /// Counts what is taken already.
    pub(super) fn count(&self, id: BackendId, class: ClassId, cost: Used) {
        self.slots.take_over(id, cost);
        self.ledger.taken(id, class, cost);
    }

    pub(super) fn could_take(&self, member: usize, class: ClassId, cost: Cost) -> Take {
        let id = self.members[member];
        let spares = |used, limits| self.ledger.spares(id, class, cost.used(), used, limits);
        self.slots.could_take(id, cost.used(), spares)
    }

    /// Whether one of this cost could go, reserves aside.
    pub(super) fn has_room(&self, member: usize, cost: Cost) -> bool {
        self.slots.could_take(self.members[member], cost.used(), |_, _| true) == Take::Taken
    }

    pub(super) fn is_its_own(&self, member: usize, class: ClassId, cost: Cost) -> bool {
        let id = self.members[member];
        self.ledger.is_its_own(id, class, cost.used(), self.slots.limits(id))
    }

    pub(super) fn slot(&self, member: usize, class: ClassId, cost: Cost) -> Slot {
        Slot { backend: self.members[member], class, units: cost.units(), ledger: self.ledger.number() }
    }
}
