//! A pool as workers choose from it: immutable, part of a [`Directory`](crate::Directory).
//!
//! Nothing in it changes but the [`Live`] counters it refers to. A change of members, weights or states is another pool
//! in the next directory, made outside the workers, Maglev table and all; a table whose names and weights stay is
//! handed on.

use crate::backend::{BackendId, BackendSet, State};
use crate::balance::Algorithm;
use crate::balance::maglev::Maglev;
use crate::choose::ResumeFallback;
use crate::directory::PoolId;
use crate::live::Live;
use crate::service::{HashOn, PoolSpec};
use std::sync::Arc;

/// A backend in a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Who.
    pub id: BackendId,
    /// Share of new connections relative to the pool's others.
    pub weight: u16,
    /// What it may be given, as wanted.
    pub state: State,
}

/// The backends of a pool, and how one of them is chosen.
#[derive(Debug)]
pub struct Pool {
    id: PoolId,
    name: String,
    balance: Algorithm,
    hash_on: HashOn,
    resume_fallback: ResumeFallback,
    members: Box<[Member]>,
    /// By slot, as far as the members' go.
    weights: Box<[u16]>,
    backends: BackendSet,
    takes_new: BackendSet,
    resumes: BackendSet,
    maglev: Arc<Maglev>,
    live: Arc<Live>,
}

impl Pool {
    /// Of what is wanted, without faults; `slot` knows all backends in it. `before` is the pool that it follows: the
    /// Maglev table is taken from it when it would be the same, else built, which takes some milliseconds for 1000
    /// backends.
    pub(crate) fn new(
        id: PoolId,
        spec: &PoolSpec,
        slot: impl Fn(&str) -> BackendId,
        before: Option<&Pool>,
        live: Arc<Live>,
    ) -> Pool {
        let members: Box<[Member]> =
            spec.backends.iter().map(|b| Member { id: slot(&b.name), weight: b.weight, state: b.state }).collect();
        let mut weights = vec![0; members.iter().map(|m| m.id.index() + 1).max().unwrap_or(0)];
        members.iter().for_each(|m| weights[m.id.index()] = m.weight);
        // A slot's holder keeps its name while it is in a pool, but not from pool to pool.
        let named: Vec<(BackendId, &str, u16)> =
            spec.backends.iter().zip(&members).map(|(b, m)| (m.id, b.name.as_str(), m.weight)).collect();
        let same = before.map(|p| &p.maglev).filter(|maglev| maglev.is_of(&named)).cloned();
        if spec.balance == Algorithm::LeastConn {
            live.order();
        }
        let those = |may: fn(&Member) -> bool| members.iter().filter(|m| may(m)).map(|m| m.id).collect();
        Pool {
            id,
            name: spec.name.clone(),
            balance: spec.balance,
            hash_on: spec.hash_on,
            resume_fallback: spec.resume_fallback,
            weights: weights.into(),
            backends: those(|_| true),
            takes_new: those(|m| m.state == State::Up && m.weight > 0),
            resumes: those(|m| m.state != State::Down),
            maglev: same.unwrap_or_else(|| Arc::new(Maglev::build(&named))),
            members,
            live,
        }
    }

    /// Its number.
    pub fn id(&self) -> PoolId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Without an identity.
    pub fn balance(&self) -> Algorithm {
        self.balance
    }

    /// What Maglev hashes.
    pub fn hash_on(&self) -> HashOn {
        self.hash_on
    }

    /// Where a client goes whose identity no row knows.
    pub fn resume_fallback(&self) -> ResumeFallback {
        self.resume_fallback
    }

    /// A client's address leads to its server: new sessions are placed by it, and so are those that no row knows.
    pub fn address_finds_server(&self) -> bool {
        matches!(
            (self.balance, self.hash_on, self.resume_fallback),
            (Algorithm::Maglev, HashOn::SourceIp, ResumeFallback::SourceIp)
        )
    }

    /// In the order of the file; at least one.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The same as a set.
    pub fn backends(&self) -> &BackendSet {
        &self.backends
    }

    /// Its weight here; none outside.
    pub fn weight(&self, id: BackendId) -> u16 {
        self.weights.get(id.index()).copied().unwrap_or(0)
    }

    /// May it be given a new flow? It is up here, and of some weight.
    pub fn may_take_new(&self, id: BackendId) -> bool {
        self.takes_new.contains(id)
    }

    /// May it be given a flow that resumes one of its own sessions? It is up here or draining; the weight does not
    /// matter.
    pub fn may_resume(&self, id: BackendId) -> bool {
        self.resumes.contains(id)
    }

    /// All that [`Pool::may_resume`].
    pub fn resumes(&self) -> &BackendSet {
        &self.resumes
    }

    /// The table of the present weights. It stays when states change: lookups walk past a backend that may not be chosen, so that
    /// only its own share moves and comes back when it does.
    pub fn maglev(&self) -> &Maglev {
        &self.maglev
    }

    /// Live flows by slot.
    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    /// Live flows to this backend, all workers' and by whatever pool.
    pub fn connections(&self, id: BackendId) -> u32 {
        self.live.connections(id)
    }
}
