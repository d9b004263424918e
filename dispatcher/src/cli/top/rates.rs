//! What counters grew by each second, from two readings. Time is the dispatcher's own between them, so that neither how long an answer took nor a clock
//! that is set has a part in it.

use crate::control::socket::api::{Backend, Drop, Offered, Queue, Status, Worker};
use core::hash::Hash;
use std::collections::HashMap;

/// The reading before, by what its rows are known by.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rates {
    /// Seconds between the two; none: there is no reading before, or not of the same process.
    span: Option<f64>,
    backends: HashMap<String, Backend>,
    offered: HashMap<(String, String), Offered>,
    queues: HashMap<[String; 4], Queue>,
    drops: HashMap<String, Drop>,
    workers: HashMap<usize, Worker>,
    connections: u64,
    dropped: u64,
}

/// What a queue is known by.
fn of_queue(q: &Queue) -> [String; 4] {
    [&q.service, &q.pool, &q.family, &q.class].map(String::clone)
}

/// What a backend is known by: one may be taken away and come again under its name, elsewhere.
pub fn of_backend(b: &Backend) -> String {
    format!("{} {}", b.name, b.address)
}

fn by<T: Clone, K: Hash + Eq>(all: &[T], key: impl Fn(&T) -> K) -> HashMap<K, T> {
    all.iter().map(|one| (key(one), one.clone())).collect()
}

impl Rates {
    /// From one reading to the next.
    pub fn between(before: &Status, now: &Status) -> Rates {
        let span = now.overview.uptime - before.overview.uptime;
        if before.overview.pid != now.overview.pid || span <= 0.0 {
            return Rates::default();
        }
        Rates {
            span: Some(span),
            backends: by(&before.backends, of_backend),
            offered: by(&before.sessions.offered, |o| (o.backend.clone(), o.kind.clone())),
            queues: by(&before.queues, of_queue),
            drops: by(&before.drops, |d| d.reason.clone()),
            workers: by(&before.workers, |w| w.worker),
            connections: before.overview.connections,
            dropped: before.overview.dropped,
        }
    }

    fn per_second(&self, before: Option<u64>, now: u64) -> Option<f64> {
        Some(now.saturating_sub(before?) as f64 / self.span?)
    }

    /// Of a backend's counter.
    pub fn backend(&self, b: &Backend, count: impl Fn(&Backend) -> u64) -> Option<f64> {
        self.per_second(self.backends.get(&of_backend(b)).map(&count), count(b))
    }

    /// Connections that offered one kind of identity to one backend. Pairs of which nothing was offered are not told of: those begin at nothing.
    pub fn offered(&self, o: &Offered) -> Option<f64> {
        let before = self.offered.get(&(o.backend.clone(), o.kind.clone())).map_or(0, |before| before.offered);
        self.per_second(Some(before), o.offered)
    }

    /// Of a queue's counter.
    pub fn queue(&self, q: &Queue, count: impl Fn(&Queue) -> u64) -> Option<f64> {
        self.per_second(self.queues.get(&of_queue(q)).map(&count), count(q))
    }

    /// Frames dropped for one reason.
    pub fn drop(&self, d: &Drop) -> Option<f64> {
        self.per_second(self.drops.get(&d.reason).map(|before| before.frames), d.frames)
    }

    /// Of a worker's counter.
    pub fn worker(&self, w: &Worker, count: impl Fn(&Worker) -> u64) -> Option<f64> {
        self.per_second(self.workers.get(&w.worker).map(&count), count(w))
    }

    /// A worker's turns that found frames, and all of its turns, since the reading before; since its start, if there is none.
    pub fn turns(&self, w: &Worker) -> (f64, f64) {
        let before = self.workers.get(&w.worker).map_or((0, 0), |w| (w.busy_turns, w.idle_turns));
        let busy = w.busy_turns.saturating_sub(before.0) as f64;
        (busy, busy + w.idle_turns.saturating_sub(before.1) as f64)
    }

    /// Connections that ended.
    pub fn connections(&self, now: &Status) -> Option<f64> {
        self.per_second(Some(self.connections), now.overview.connections)
    }

    /// Frames dropped.
    pub fn dropped(&self, now: &Status) -> Option<f64> {
        self.per_second(Some(self.dropped), now.overview.dropped)
    }

    /// A counter of all workers together.
    pub fn workers(&self, now: &Status, count: impl Fn(&Worker) -> u64) -> Option<f64> {
        let all: Vec<f64> = now.workers.iter().filter_map(|w| self.worker(w, &count)).collect();
        (!all.is_empty()).then(|| all.iter().sum())
    }
}
