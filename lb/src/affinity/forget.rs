//! Clearing all rows of backends: in portions, since the tables are large and workers have frames to forward.

use super::Affinity;
use crate::backend::{BackendId, BackendSet};
use core::ops::Range;

/// How far the rows of some backends have been cleared.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Forgetting {
    backends: BackendSet,
    at: usize,
}

impl Forgetting {
    /// Nothing is cleared yet of these.
    pub fn of(backends: BackendSet) -> Forgetting {
        Forgetting { backends, at: 0 }
    }

    /// Of whom.
    pub fn backends(&self) -> &BackendSet {
        &self.backends
    }
}

impl Affinity {
    /// Clears what is about the backends among the next `rows` rows of this worker's shard, what was told in advance included. True when
    /// none is left: for good, of those that were [dismissed](Affinity::dismiss) before the beginning. Each worker has to.
    pub fn forget_some(&mut self, forgetting: &mut Forgetting, rows: usize) -> bool {
        let Affinity { exact, recent, names, .. } = self;
        let backends = forgetting.backends;
        recent.iter_mut().for_each(|recent| recent.forget(&backends, 0..usize::MAX));
        let all = forgetting.at..forgetting.at.saturating_add(rows);
        forgetting.at = all.end;
        // Names last: candidates become names while this goes on, and never the other way round.
        let (exact_rows, name_rows) = (exact.capacity(), names.longest());
        let part =
            |range: &Range<usize>, before: usize| range.start.saturating_sub(before)..range.end.saturating_sub(before);
        exact.forget(&backends, all.clone());
        names.forget_hints(&backends, part(&all, exact_rows));
        names.forget_names(&backends, part(&all, exact_rows + name_rows));
        if all.end < exact_rows + 2 * name_rows {
            return false;
        }
        backends.iter().for_each(|backend| names.forget_beginning(backend));
        true
    }

    /// Clears all of this worker's rows about a backend at once. Walks the tables: not in passing. Each worker has to.
    pub fn forget(&mut self, backend: BackendId) {
        let done = self.forget_some(&mut Forgetting::of(BackendSet::one(backend)), usize::MAX);
        debug_assert!(done, "all rows were walked");
    }
}
