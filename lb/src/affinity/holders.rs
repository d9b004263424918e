//! Who has which slot, as far as one worker has been told.

use super::{Affinity, KeyName, hash_name};
use crate::backend::BackendId;

/// Nobody: no generation gets that far.
const NOBODY: u32 = u32::MAX;

/// By slot: the generation of who has it.
pub(super) struct Holders(Box<[u32]>);

impl Holders {
    /// Every slot is its first holder's, generation 0.
    pub fn new(slots: usize) -> Holders {
        Holders(vec![0; slots].into_boxed_slice())
    }

    /// How many there are.
    pub fn slots(&self) -> usize {
        self.0.len()
    }

    /// Of whoever has the slot now.
    #[inline]
    pub fn generation(&self, backend: BackendId) -> Option<u32> {
        self.0.get(backend.index()).copied().filter(|generation| *generation != NOBODY)
    }

    /// True when it was another.
    fn put(&mut self, backend: BackendId, generation: u32) -> bool {
        let slot = self.0.get_mut(backend.index());
        slot.is_some_and(|slot| core::mem::replace(slot, generation) != generation)
    }
}

impl Affinity {
    /// From now on the slot is this backend's, and rows are learned of it. Before that no row may name the slot: see
    /// [`Affinity::dismiss`]. Each worker has to be told, and at first every slot is of generation 0.
    ///
    /// `names`: whether its tickets carry key names, so that some are learned of it.
    pub fn admit(&mut self, backend: BackendId, generation: u32, names: bool) {
        if self.holders.put(backend, generation.min(NOBODY - 1)) {
            self.metrics.clear(backend);
            self.explained.remove(backend);
        }
        if names {
            self.no_key_names.remove(backend);
        } else {
            self.no_key_names.insert(backend);
        }
    }

    /// The backend opens tickets with this key name: told in advance, it neither expires nor is retired. Each worker has to be told.
    pub fn tell_name(&mut self, backend: BackendId, name: &KeyName) {
        let hash = hash_name(&self.shared.hasher, name);
        if self.shared.shard(hash) == usize::from(self.me) {
            self.names.tell(name, hash, backend, &mut self.metrics);
        }
    }

    /// The slot is nobody's: nothing more is learned of it. What is known stays until [`Affinity::forget_some`] has cleared it, and leads
    /// nowhere if lookups are told that the backend is not eligible. Each worker has to be told.
    pub fn dismiss(&mut self, backend: BackendId) {
        self.holders.put(backend, NOBODY);
    }

    /// From now on one refusal of an unknown key name counts for everybody, or no longer: see
    /// [`Config::one_refusal_counts`](super::Config::one_refusal_counts). What was refused before stays as it counted then, until it expires.
    pub fn let_one_refusal_count(&mut self, counts: bool) {
        self.names.let_one_refusal_count(counts);
    }
}
