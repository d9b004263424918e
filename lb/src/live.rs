//! Live connections by backend, counted by all workers.
//!
//! One counter for each slot, for all pools that the slot's backend stands in. Counters outlive directories: a new
//! version is given those of the one before. Every worker adds to them, relaxed; each backend has a cache line of its
//! own, so that workers opening flows to different backends do not disturb one another.

use crate::backend::{BackendId, MAX_BACKENDS};
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A cache line of its own (128: adjacent lines are fetched in pairs).
#[derive(Default)]
#[repr(align(128))]
struct Slot(AtomicU32);

/// The counters. Share it as `Arc<Live>`; every method takes `&self`.
pub struct Live(Box<[Slot]>);

impl Live {
    /// All zero, for all slots there can be.
    pub fn new() -> Live {
        Live((0..MAX_BACKENDS).map(|_| Slot::default()).collect())
    }

    /// A flow to this backend was opened.
    pub fn opened(&self, id: BackendId) {
        if let Some(slot) = self.0.get(id.index()) {
            slot.0.fetch_add(1, Relaxed);
        }
    }

    /// A flow to this backend ended. Every [`Live::opened`] has one.
    pub fn closed(&self, id: BackendId) {
        if let Some(slot) = self.0.get(id.index()) {
            let before = slot.0.fetch_sub(1, Relaxed);
            debug_assert!(before > 0, "more flows closed than opened");
        }
    }

    /// Live flows to this backend, all workers'.
    pub fn connections(&self, id: BackendId) -> u32 {
        self.0.get(id.index()).map_or(0, |slot| slot.0.load(Relaxed))
    }
}

impl Default for Live {
    fn default() -> Live {
        Live::new()
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = (0..self.0.len()).map(|i| (i, self.connections(BackendId(i as u16)))).filter(|(_, n)| *n > 0);
        f.debug_map().entries(counted).finish()
    }
}
