//! What every worker has let go of: slots that may be given to other backends, listeners that nobody needs any more.
//!
//! **Who writes, who reads.** Each worker says for itself, when a backend that is leaving has no flow of its and its rows are cleared from the
//! worker's shard: one store, releasing. Whoever makes the next [`Directory`](crate::Directory) asks, acquiring. What is said is about one
//! holder (its generation), so an old word is never taken for a new one; a worker that has not said it has not let go, whatever it is about.
//! Of listeners nothing is said: their flows are counted ([`FlowCount`](crate::FlowCount)).

use crate::backend::{BackendId, MAX_BACKENDS};
use crate::directory::Leaving;
use core::sync::atomic::{AtomicU32, Ordering::*};

/// What the workers have said. Share it as `Arc`.
#[derive(Debug)]
pub struct Released {
    /// By worker and slot: the generation that was let go of, and one; zero for none.
    said: Box<[Box<[AtomicU32]>]>,
}

impl Released {
    /// For so many workers, none of which has said anything.
    pub fn new(workers: usize) -> Released {
        Released { said: (0..workers).map(|_| (0..MAX_BACKENDS).map(|_| AtomicU32::new(0)).collect()).collect() }
    }

    /// The worker has no flow and no row of this holder of the slot any more, and will have none.
    pub fn release(&self, worker: usize, id: BackendId, generation: u32) {
        self.say(worker, id, generation.saturating_add(1));
    }

    /// The worker may have some again: the backend is wanted once more.
    pub fn hold(&self, worker: usize, id: BackendId) {
        self.say(worker, id, 0);
    }

    fn say(&self, worker: usize, id: BackendId, word: u32) {
        if let Some(said) = self.said.get(worker).and_then(|slots| slots.get(id.index())) {
            said.store(word, Release);
        }
    }

    /// All workers have let go of this holder. To be asked when all of them have taken over the directory in which it is leaving.
    pub fn is_free(&self, id: BackendId, generation: u32) -> bool {
        let word = generation.saturating_add(1);
        self.said.iter().all(|slots| slots.get(id.index()).is_some_and(|said| said.load(Acquire) == word))
    }

    /// Nothing names it any more. To be asked as [`Released::is_free`].
    pub fn frees(&self, leaving: Leaving<'_>) -> bool {
        match leaving {
            Leaving::Backend(backend) => self.is_free(backend.id, backend.generation),
            Leaving::Listener(listener) => listener.flows().is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_when_all_workers_have_let_go_of_the_very_holder() {
        let released = Released::new(2);
        let id = BackendId(7);
        assert!(!released.is_free(id, 0));
        released.release(0, id, 0);
        assert!(!released.is_free(id, 0), "one of two");
        released.release(1, id, 0);
        assert!(released.is_free(id, 0) && !released.is_free(id, 1) && !released.is_free(BackendId(8), 0));
        released.hold(1, id);
        assert!(!released.is_free(id, 0), "it came back");
        assert!(!released.is_free(BackendId(u16::MAX), 0));
    }
}
