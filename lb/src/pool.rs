//! The backends of a VIP, shared by all workers.
//!
//! **Who writes, who reads.** The members and their names never change. Weight and state are single atomic words that a
//! control thread stores and every worker loads, relaxed: each word means something by itself, and a worker that sees a
//! change a moment late gives one more flow to a backend that was good a moment ago. Live connection counts are added
//! to by every worker, relaxed; each backend has a cache line of its own, so that workers opening flows to different
//! backends do not disturb one another. The Maglev table is immutable behind an `Arc`; the control thread builds a new
//! one when weights change, puts it behind the mutex and then raises the version (release). Workers compare the version
//! (acquire) when they choose, and take the mutex only when it has moved: never on the path of a packet of a known
//! flow.

use crate::backend::{Backend, BackendId, MAX_BACKENDS, MAX_WEIGHT, State};
use crate::balance::maglev::Maglev;
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};

/// Why a pool cannot be built or changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PoolError {
    /// It needs at least one backend.
    Empty,
    /// More than [`MAX_BACKENDS`].
    TooMany(usize),
    /// Two of the same name.
    DuplicateName(String),
    /// A weight above [`MAX_WEIGHT`].
    WeightTooLarge(String, u16),
    /// No such backend.
    NoSuchBackend(BackendId),
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolError::Empty => f.write_str("no backend given"),
            PoolError::TooMany(n) => write!(f, "{n} backends, at most {MAX_BACKENDS} are possible"),
            PoolError::DuplicateName(name) => write!(f, "backend {name} is given twice"),
            PoolError::WeightTooLarge(name, weight) => {
                write!(f, "backend {name} has weight {weight}, at most {MAX_WEIGHT} is possible")
            }
            PoolError::NoSuchBackend(id) => write!(f, "no backend number {}", id.0),
        }
    }
}

impl core::error::Error for PoolError {}

/// What changes at run time, on a cache line of its own (128: adjacent lines are fetched in pairs).
#[repr(align(128))]
struct Live {
    connections: AtomicU32,
    weight: AtomicU16,
    state: AtomicU8,
}

/// The backends of a VIP: fixed members, changing weights, states and connection counts.
///
/// Share it as `Arc<Pool>`; every method takes `&self`.
pub struct Pool {
    names: Box<[String]>,
    live: Box<[Live]>,
    version: AtomicU64,
    maglev: Mutex<Arc<Maglev>>,
}

impl Pool {
    /// Backend `i` of the list gets `BackendId(i)`. Builds the Maglev table: some milliseconds for 1000 backends.
    pub fn new(backends: Vec<Backend>) -> Result<Pool, PoolError> {
        if backends.is_empty() {
            return Err(PoolError::Empty);
        }
        if backends.len() > MAX_BACKENDS {
            return Err(PoolError::TooMany(backends.len()));
        }
        let mut sorted: Vec<&str> = backends.iter().map(|b| b.name.as_str()).collect();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PoolError::DuplicateName(twice[0].to_owned()));
        }
        if let Some(heavy) = backends.iter().find(|b| b.weight > MAX_WEIGHT) {
            return Err(PoolError::WeightTooLarge(heavy.name.clone(), heavy.weight));
        }
        let live = backends
            .iter()
            .map(|b| Live {
                connections: AtomicU32::new(0),
                weight: AtomicU16::new(b.weight),
                state: AtomicU8::new(b.state as u8),
            })
            .collect();
        let names: Box<[String]> = backends.into_iter().map(|b| b.name).collect();
        let pool = Pool { maglev: Mutex::new(Arc::new(Maglev::build(&[]))), names, live, version: AtomicU64::new(0) };
        pool.rebuild();
        Ok(pool)
    }

    /// Number of backends, whatever their state. Their numbers are `0..len`.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Never true: a pool has at least one backend.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// All numbers.
    pub fn ids(&self) -> impl Iterator<Item = BackendId> + use<> {
        (0..self.names.len() as u16).map(BackendId)
    }

    /// Its name; empty for a number that is none of ours.
    pub fn name(&self, id: BackendId) -> &str {
        self.names.get(id.index()).map_or("", |name| name.as_str())
    }

    /// Its number.
    pub fn find(&self, name: &str) -> Option<BackendId> {
        self.names.iter().position(|n| n == name).map(|i| BackendId(i as u16))
    }

    /// Its state now; a number that is none of ours is down.
    pub fn state(&self, id: BackendId) -> State {
        self.live.get(id.index()).map_or(State::Down, |live| State::from_u8(live.state.load(Relaxed)))
    }

    /// Its weight now.
    pub fn weight(&self, id: BackendId) -> u16 {
        self.live.get(id.index()).map_or(0, |live| live.weight.load(Relaxed))
    }

    /// May it be given a new flow? Up, and of some weight.
    pub fn may_take_new(&self, id: BackendId) -> bool {
        self.state(id) == State::Up && self.weight(id) > 0
    }

    /// May it be given a flow that resumes one of its own sessions? Up or draining; the weight does not matter.
    pub fn may_resume(&self, id: BackendId) -> bool {
        self.state(id) != State::Down
    }

    /// Changes a state. Maglev's table stays: lookups walk past a backend that may not be chosen, so that only its own
    /// share moves and comes back when it does.
    pub fn set_state(&self, id: BackendId, state: State) -> Result<(), PoolError> {
        let live = self.live.get(id.index()).ok_or(PoolError::NoSuchBackend(id))?;
        live.state.store(state as u8, Relaxed);
        Ok(())
    }

    /// Changes a weight and builds a new Maglev table in the calling thread: not for a worker.
    pub fn set_weight(&self, id: BackendId, weight: u16) -> Result<(), PoolError> {
        let live = self.live.get(id.index()).ok_or(PoolError::NoSuchBackend(id))?;
        if weight > MAX_WEIGHT {
            return Err(PoolError::WeightTooLarge(self.name(id).to_owned(), weight));
        }
        live.weight.store(weight, Relaxed);
        self.rebuild();
        Ok(())
    }

    fn rebuild(&self) {
        // The lock is held while building, so that of two changes at once the later table has both.
        let mut current = self.maglev.lock().unwrap_or_else(PoisonError::into_inner);
        let members: Vec<(&str, u16)> = self.ids().map(|id| (self.name(id), self.weight(id))).collect();
        *current = Arc::new(Maglev::build(&members));
        self.version.fetch_add(1, Release);
    }

    /// Raised whenever [`Pool::maglev`] gives another table.
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// The Maglev table of the present weights.
    pub fn maglev(&self) -> Arc<Maglev> {
        self.maglev.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A flow to this backend was opened.
    pub fn opened(&self, id: BackendId) {
        if let Some(live) = self.live.get(id.index()) {
            live.connections.fetch_add(1, Relaxed);
        }
    }

    /// A flow to this backend ended. Every [`Pool::opened`] has one.
    pub fn closed(&self, id: BackendId) {
        if let Some(live) = self.live.get(id.index()) {
            let before = live.connections.fetch_sub(1, Relaxed);
            debug_assert!(before > 0, "more flows closed than opened");
        }
    }

    /// Live flows to this backend, all workers'.
    pub fn connections(&self, id: BackendId) -> u32 {
        self.live.get(id.index()).map_or(0, |live| live.connections.load(Relaxed))
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.ids().map(|id| (self.name(id), self.weight(id), self.state(id), self.connections(id))))
            .finish()
    }
}
