//! Live connections by backend, counted by all workers.
//!
//! One counter for each slot, for all pools that the slot's backend stands in. Counters outlive directories: a new
//! version is given those of the one before. They are those of [`Slots`], by which admission goes where backends have limits: a connection is
//! counted once. Each backend has a cache line of its own, so that workers opening flows to different backends do not disturb one another.
//!
//! # Bounds
//!
//! For least connections each block of 16 slots has a *bound*, a number that no counter of the block is below. Who closes a flow lowers
//! it to the new count, after that was counted; who chooses raises it to the least that he has counted. A raise must not undo
//! a lowering that came in between, so both are one word with a number that each lowering changes, and a raise is made only if the word is
//! what it was before the counting began. What is said of a block is thus right whenever nobody is about to lower it; for that moment a
//! choice goes by the count before.
//!
//! Bounds are kept from when the first pool goes by least connections, so that nobody pays for them who does not use them. Before that they are zero, which is
//! a bound of everything.

use crate::admission::Slots;
use crate::backend::{BackendId, MAX_BACKENDS};
use crate::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};

/// Slots of a block.
pub(crate) const BLOCK: usize = 16;

/// The counters. Share it as `Arc<Live>`; every method takes `&self`.
pub struct Live {
    slots: Arc<Slots>,
    /// By block: how often it was lowered (upper half), and the bound.
    bounds: Box<[AtomicU64]>,
    ordered: AtomicBool,
}

impl Live {
    /// All zero, for all slots there can be.
    pub fn new() -> Live {
        Live {
            slots: Arc::new(Slots::new(MAX_BACKENDS)),
            bounds: (0..MAX_BACKENDS / BLOCK).map(|_| AtomicU64::new(0)).collect(),
            ordered: AtomicBool::new(false),
        }
    }

    /// Bounds are wanted from now on: a pool goes by least connections. To be called before it does.
    pub(crate) fn order(&self) {
        self.ordered.store(true, Release);
    }

    /// The same counters, as admission has them.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// A flow to this backend was opened, of which admission was not asked.
    #[inline]
    pub fn opened(&self, id: BackendId) {
        self.slots.opened(id);
    }

    /// A flow to this backend ended. Every [`Live::opened`] has one.
    #[inline]
    pub fn closed(&self, id: BackendId) {
        let left = self.slots.closed(id);
        if self.ordered.load(Relaxed) {
            self.lower(id.index() / BLOCK, left);
        }
    }

    /// A flow to this backend has ended of which admission was asked, and which was given back there.
    pub fn given_back(&self, id: BackendId) {
        if self.ordered.load(Relaxed) {
            // Whoever closes one meanwhile lowers it himself.
            self.lower(id.index() / BLOCK, self.connections(id));
        }
    }

    fn lower(&self, block: usize, count: u32) {
        let lowered = |word: u64| Some(word.wrapping_add(1 << 32) & !0xffff_ffff | u64::from(count.min(word as u32)));
        // It always says `Some`.
        _ = self.bounds.get(block).map(|bound| bound.fetch_update(AcqRel, Relaxed, lowered));
    }

    /// No counter of the block is below it.
    pub(crate) fn bound(&self, block: usize) -> u32 {
        self.bounds[block].load(Relaxed) as u32
    }

    /// Raises the bound of a block to what its counters say.
    pub(crate) fn look_into(&self, block: usize) {
        let before = self.bounds[block].load(Acquire);
        let slots = block * BLOCK..(block + 1) * BLOCK;
        let least = slots.map(|slot| self.connections(BackendId(slot as u16))).min().unwrap_or(0);
        if least > before as u32 && self.ordered.load(Acquire) {
            let raised = before & !0xffff_ffff | u64::from(least);
            // Lowered meanwhile: then it is as low as it should be.
            _ = self.bounds[block].compare_exchange(before, raised, Release, Relaxed);
        }
    }

    /// Live flows to this backend, all workers'.
    pub fn connections(&self, id: BackendId) -> u32 {
        self.slots.used(id).connections
    }
}

impl Default for Live {
    fn default() -> Live {
        Live::new()
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = (0..MAX_BACKENDS).map(|i| (i, self.connections(BackendId(i as u16)))).filter(|(_, n)| *n > 0);
        f.debug_map().entries(counted).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever workers do at the same time: when they have done it, a bound is one.
    #[test]
    fn no_counter_is_below_its_bound_when_all_is_said() {
        let live = Live::new();
        live.order();
        (0..20 * BLOCK).for_each(|n| live.opened(BackendId((n % BLOCK) as u16)));
        std::thread::scope(|scope| {
            for worker in 0..3u64 {
                let live = &live;
                scope.spawn(move || {
                    let mut x = worker + 1;
                    let mut open = [0u32; BLOCK];
                    for _ in 0..100_000 {
                        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let at = (x >> 40) as usize % BLOCK;
                        match x >> 62 {
                            0 => live.look_into(0),
                            _ if open[at] == 0 || x >> 60 & 1 == 0 => {
                                open[at] += 1;
                                live.opened(BackendId(at as u16));
                            }
                            _ => {
                                open[at] -= 1;
                                live.closed(BackendId(at as u16));
                            }
                        }
                    }
                    // Everything goes.
                    open.iter().enumerate().for_each(|(at, n)| (0..*n).for_each(|_| live.closed(BackendId(at as u16))));
                });
            }
        });
        assert!(live.bound(0) <= 20, "{}", live.bound(0));
        live.look_into(0);
        assert_eq!(live.bound(0), 20);
    }
}
