//! Whose what returns is, of connections that another process has dialled, from a local port that is another worker's here: there were more workers there, or fewer.
//!
//! Made once, before the workers begin, and only ever emptied: so readers need no lock. A port in it is nobody's to dial from towards the same backend, until its connection is forgotten.

use crate::flow::Key;
use core::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::collections::HashMap;

/// No connection is left.
const OVER: u16 = u16::MAX;

/// By the key of the backend's frames: the worker.
#[derive(Default)]
pub struct Strays(HashMap<Key, AtomicU16>);

impl Strays {
    /// Of these.
    pub fn new(all: impl IntoIterator<Item = (Key, usize)>) -> Strays {
        Strays(all.into_iter().map(|(key, worker)| (key, AtomicU16::new(worker as u16))).collect())
    }

    /// How many there are, those included that are over.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There never was one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose it is.
    pub fn owner(&self, key: &Key) -> Option<usize> {
        // Relaxed: who dials from the port next asks its own flow table, too, and frames on their way are lost at worst.
        let worker = self.0.get(key)?.load(Relaxed);
        (worker != OVER).then_some(usize::from(worker))
    }

    /// Its connection is forgotten.
    pub fn over(&self, key: &Key) {
        if let Some(worker) = self.0.get(key) {
            worker.store(OVER, Relaxed);
        }
    }
}
