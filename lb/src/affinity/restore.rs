//! Rows kept in memory that outlives the process, and taken in again from what an earlier one kept.

use super::exact::{LONGEST_COOKIE, Learned};
use super::names::NameEvent;
use super::saved::{About, Memory, Mirror, Saved};
use super::{Affinity, Metrics, Reader, hash_name, names};
use crate::backend::BackendId;
use crate::time::Millis;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What became of a row that an earlier process kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restored {
    /// It is known again.
    Known,
    /// It is too old.
    Expired,
    /// There is no room for it, or nothing is to be learned of its backend.
    Refused,
}

/// Rows of memory that [`Affinity::keep`] wants for these workers.
pub fn kept_rows<'a>(workers: impl Iterator<Item = &'a Affinity>) -> usize {
    workers.map(Affinity::kept_rows).sum()
}

impl Reader {
    /// Rows of sessions of all workers, as they would be kept, while they go on. What is learned meanwhile may be among them or not.
    pub fn save_sessions(&self, now: Millis, called: impl Fn(BackendId) -> Option<u64>, mut each: impl FnMut(&Saved)) {
        for shard in &self.shared().shards {
            shard.exact.save(now.0, 0, |about, backend, maker, used| {
                if let Some(backend) = called(backend) {
                    each(&Saved { about, backend, maker, used });
                }
            });
        }
    }
}

impl Affinity {
    fn kept_rows(&self) -> usize {
        self.exact.capacity() + self.names.kept_rows()
    }

    /// From now on whatever these workers, all that share the tables, learn is kept in `memory`, too, which has [`SAVED_WORDS`](super::SAVED_WORDS) words for each of
    /// [`kept_rows`], all zero. What they know already is not. `called`: the backends, by slot. Times that are kept are `ahead`
    /// milliseconds later than those of the tables.
    pub fn keep(workers: &mut [&mut Affinity], memory: &Memory, called: &[(BackendId, u64)], ahead: u64) {
        let slots = workers.iter().map(|worker| worker.holders.slots()).max().unwrap_or(0);
        let names: Arc<[AtomicU64]> = (0..slots).map(|_| AtomicU64::new(0)).collect();
        let mut first = 0;
        for worker in workers {
            let mirror = |row: usize| Mirror::new(memory, row, &names, ahead);
            let exact = worker.exact.capacity();
            worker.exact.keep(mirror(first));
            worker.names.keep(|row| mirror(first + exact + row));
            worker.called = Some(names.clone());
            first += worker.kept_rows();
            called.iter().for_each(|(backend, called)| worker.call(*backend, *called));
        }
    }

    /// The slot's holder is called so in rows that are kept: see [`called`](super::called). To be said before it is
    /// [admitted](Affinity::admit), for which no row may name the slot.
    pub fn call(&mut self, backend: BackendId, called: u64) {
        if let Some(slot) = self.called.as_ref().and_then(|names| names.get(backend.index())) {
            slot.store(called, Relaxed);
        }
    }

    /// Takes a row in that an earlier process kept, about the backend of this number: of this age, milliseconds since its last use. `workers` are
    /// all that share the tables, before they begin. A backend one of whose key names the checks had shown is taken for
    /// [explained](Affinity::explain) until they say what it is now: else its clients' unknown tickets would be tried there first.
    pub fn restore(
        workers: &mut [&mut Affinity],
        saved: &Saved,
        backend: BackendId,
        now: Millis,
        age: u64,
    ) -> Restored {
        let Some(shared) = workers.first().map(|any| any.shared.clone()) else { return Restored::Refused };
        let hash = match &saved.about {
            About::Exact { key, .. } | About::Cookie { key, .. } => shared.folded.of(key),
            About::Name { name, .. } | About::Candidate { name, .. } => hash_name(&shared.hasher, name),
        };
        if saved.is_of_checks() {
            workers.iter_mut().for_each(|worker| worker.explain(backend, true));
        }
        match workers.get_mut(shared.shard(hash)) {
            Some(worker) => worker.take_in(saved, hash, backend, now, age),
            None => Restored::Refused,
        }
    }

    /// The same for one worker of those who share the tables, each of which is to be given every row: `None` for one of another's part.
    pub fn restore_own(&mut self, saved: &Saved, backend: BackendId, now: Millis, age: u64) -> Option<Restored> {
        let hash = match &saved.about {
            About::Exact { key, .. } | About::Cookie { key, .. } => self.shared.folded.of(key),
            About::Name { name, .. } | About::Candidate { name, .. } => hash_name(&self.shared.hasher, name),
        };
        if saved.is_of_checks() {
            self.explain(backend, true);
        }
        (self.shared.shard(hash) == usize::from(self.me)).then(|| self.take_in(saved, hash, backend, now, age))
    }

    /// Live rows of this worker's part, as they would be kept: sessions that may have been used since then, and all key names; not what was told in advance, nor what is known of refusals of
    /// names. `called`: see [`called`](super::called). Times are those of the tables.
    pub fn save(
        &self,
        now: Millis,
        since: Millis,
        called: impl Fn(BackendId) -> Option<u64>,
        mut each: impl FnMut(&Saved),
    ) {
        let mut one = |about, backend, maker, used| {
            if let Some(backend) = called(backend) {
                each(&Saved { about, backend, maker, used });
            }
        };
        self.exact.table().save(now.0, since.0, &mut one);
        self.names.save(&mut one);
    }

    fn take_in(&mut self, saved: &Saved, hash: u64, backend: BackendId, now: Millis, age: u64) -> Restored {
        let worker = self;
        let (ttl, sealed) = match &saved.about {
            // One with an end of its own has come to it, or not.
            About::Cookie { end, .. } if *end > 0 => {
                let clock = saved.used.saturating_add(age);
                (if clock <= *end { LONGEST_COOKIE } else { 0 }, false)
            }
            About::Exact { .. } | About::Cookie { .. } => (worker.exact.ttl(), false),
            About::Name { .. } => (worker.shared.ttl.key, true),
            About::Candidate { .. } => (worker.shared.ttl.candidate, true),
        };
        let Some(used) = now.0.checked_sub(age).filter(|_| age <= ttl) else { return Restored::Expired };
        if worker.holders.generation(backend).is_none() || sealed && worker.no_key_names.contains(backend) {
            return Restored::Refused;
        }
        let (maker, client) = (saved.maker, u64::from(saved.maker));
        // It was counted when it was learned.
        let mut metrics = Metrics::new(0);
        match &saved.about {
            About::Exact { key, refused } | About::Cookie { key, refused, .. } => {
                let end = match &saved.about {
                    About::Cookie { end, .. } if *end > 0 => used + end.saturating_sub(saved.used).min(LONGEST_COOKIE),
                    _ => 0,
                };
                let learned = Learned { key, hash, backend, client: maker, end };
                worker.exact.has(&learned, used, |_| false, &mut metrics.exact);
                if *refused {
                    worker.exact.refused(&learned, &mut metrics.exact);
                }
            }
            About::Name { name, since, doubted } => {
                let since = used.saturating_sub(saved.used.saturating_sub(*since));
                let event = NameEvent { name: *name, hash, identity: names::UNKNOWN, backend, client, now: used };
                worker.names.restore_opener(&event, since, *doubted, &mut metrics);
            }
            About::Candidate { name, identity } => {
                let event = NameEvent { name: *name, hash, identity: *identity, backend, client, now: used };
                worker.names.restore_candidate(&event, &mut metrics);
            }
        }
        let refused = metrics.exact.crowded + metrics.names.crowded + metrics.candidates.crowded;
        if refused > 0 { Restored::Refused } else { Restored::Known }
    }
}
