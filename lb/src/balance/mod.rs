//! Choosing a backend for a connection that no identity ties to one.
//!
//! A [`Balancer`] belongs to one worker and one pool. Whatever the algorithm, a backend is chosen only when the pool lets it take
//! new flows and the caller's `eligible` agrees (address family, not tried already, has not refused the client's key).

mod least_conn;
pub(crate) mod maglev;
mod random_two;
mod round_robin;
mod stable;
mod turns;

pub use least_conn::LeastConn;
pub use maglev::{Maglev, table_size};
pub use round_robin::RoundRobin;
pub use stable::StableHash;
pub use turns::{ClassTurns, MOST_CREDIT, Turns};

use crate::backend::{BackendId, BackendSet};
use crate::directory::{Directory, PoolId};
use crate::pool::Pool;
use core::fmt;
use core::str::FromStr;

/// `--balance`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Algorithm {
    /// Consistent hashing: the same client goes to the same backend, on every dispatcher.
    #[default]
    Maglev,
    /// Fewest live connections for its weight, counted across all workers.
    LeastConn,
    /// One after the other, smoothly by weight; each worker turns by itself.
    RoundRobin,
    /// The less loaded of two drawn at random by weight.
    RandomTwo,
}

impl Algorithm {
    /// All of them, by the names of the command line.
    pub const ALL: [Algorithm; 4] =
        [Algorithm::Maglev, Algorithm::LeastConn, Algorithm::RoundRobin, Algorithm::RandomTwo];

    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::Maglev => "maglev",
            Algorithm::LeastConn => "least-conn",
            Algorithm::RoundRobin => "round-robin",
            Algorithm::RandomTwo => "random-two",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = String;
    fn from_str(name: &str) -> Result<Algorithm, String> {
        Algorithm::ALL.into_iter().find(|a| a.as_str() == name).ok_or_else(|| {
            let known: Vec<_> = Algorithm::ALL.iter().map(|a| a.as_str()).collect();
            format!("unknown algorithm {name:?}, expected one of {}", known.join(", "))
        })
    }
}

/// One worker's chooser for one pool: what the algorithm remembers from choice to choice. The [`Pool`], which is
/// everybody's, is passed to each call.
#[derive(Debug)]
pub struct Balancer {
    least_conn: LeastConn,
    round_robin: RoundRobin,
}

impl Balancer {
    /// For this pool.
    pub fn new(pool: &Pool) -> Balancer {
        let mut balancer = Balancer { least_conn: LeastConn::default(), round_robin: RoundRobin::default() };
        balancer.follow(pool);
        balancer
    }

    /// For this pool from now on, of the next directory.
    pub fn follow(&mut self, pool: &Pool) {
        match pool.balance() {
            Algorithm::LeastConn => self.least_conn.follow(pool),
            Algorithm::RoundRobin => self.round_robin.follow(pool),
            Algorithm::Maglev | Algorithm::RandomTwo => {}
        }
    }

    /// Whose turn it is in this pool, where that is remembered.
    pub fn turns(&self, pool: &Pool) -> Option<Turns> {
        match pool.balance() {
            Algorithm::RoundRobin => {
                Some(Turns::RoundRobin { classes: self.round_robin.turns(), among: self.round_robin.among() })
            }
            Algorithm::LeastConn => Some(Turns::LeastConn(self.least_conn.turns())),
            Algorithm::Maglev | Algorithm::RandomTwo => None,
        }
    }

    /// Goes on where another process was. Turns of another algorithm than the pool's mean nothing.
    pub fn go_on(&mut self, pool: &Pool, turns: &Turns) {
        match (pool.balance(), turns) {
            (Algorithm::RoundRobin, Turns::RoundRobin { classes, among }) => {
                self.round_robin.go_on(pool, classes, among);
            }
            (Algorithm::LeastConn, Turns::LeastConn(last)) => self.least_conn.go_on(*last),
            _ => {}
        }
    }

    /// A backend for a new flow, or `None` when none may take it.
    ///
    /// `hash` is what Maglev goes by, of the client's address or of the tuple: as [`StableHash`] makes it, it leads alike in every
    /// run and on every dispatcher; `entropy` is 64 random bits, used by random-two alone.
    pub fn pick(
        &mut self,
        pool: &Pool,
        hash: u64,
        entropy: u64,
        eligible: impl Fn(BackendId) -> bool,
    ) -> Option<BackendId> {
        let may = |b| pool.may_take_new(b) && eligible(b);
        match pool.balance() {
            Algorithm::Maglev => pool.maglev().pick(hash, may),
            Algorithm::LeastConn => self.least_conn.pick(pool.live(), may),
            Algorithm::RoundRobin => self.round_robin.pick(may),
            Algorithm::RandomTwo => random_two::pick(pool, entropy, may),
        }
    }

    /// By Maglev, whatever the algorithm: for a client whose identity no row knows. Coming back from the same address,
    /// it then meets the server it met before.
    pub fn pick_by_hash(&self, pool: &Pool, hash: u64, eligible: impl Fn(BackendId) -> bool) -> Option<BackendId> {
        pool.maglev().pick(hash, |b| pool.may_take_new(b) && eligible(b))
    }

    /// One of several that can resume the client's session: by the algorithm among those that are up, else the least
    /// loaded of those that are draining.
    pub fn pick_among(
        &mut self,
        pool: &Pool,
        set: &BackendSet,
        hash: u64,
        entropy: u64,
        eligible: impl Fn(BackendId) -> bool,
    ) -> Option<BackendId> {
        // The usual case, one server: no algorithm to run.
        if let Some(only) = set.single() {
            return (pool.may_resume(only) && eligible(only)).then_some(only);
        }
        let may = |b| pool.may_take_new(b) && eligible(b);
        let few = || set.iter().filter(|&b| may(b));
        let up = match pool.balance() {
            Algorithm::Maglev => pool.maglev().pick(hash, |b| set.contains(b) && may(b)),
            Algorithm::LeastConn => self.least_conn.pick_among(pool, few()),
            Algorithm::RoundRobin => self.round_robin.pick_among(pool, few()),
            Algorithm::RandomTwo => random_two::pick(pool, entropy, |b| set.contains(b) && may(b)),
        };
        up.or_else(|| set.iter().filter(|&b| pool.may_resume(b) && eligible(b)).min_by_key(|&b| pool.connections(b)))
    }
}

/// One worker's choosers for all pools of a directory.
#[derive(Debug)]
pub struct Balancers(Vec<Option<(PoolId, Balancer)>>);

impl Balancers {
    /// For the pools of this directory.
    pub fn new(directory: &Directory) -> Balancers {
        let mut balancers = Balancers(Vec::new());
        balancers.follow(directory);
        balancers
    }

    /// For the pools of this directory from now on. Those of pools that have gone are dropped.
    pub fn follow(&mut self, directory: &Directory) {
        let mut before = core::mem::take(&mut self.0);
        for pool in directory.pools() {
            let at = pool.id().index();
            let known = before.get_mut(at).and_then(Option::take).filter(|(id, _)| *id == pool.id());
            let balancer = match known {
                Some((_, mut balancer)) => {
                    balancer.follow(pool);
                    balancer
                }
                None => Balancer::new(pool),
            };
            if at >= self.0.len() {
                self.0.resize_with(at + 1, || None);
            }
            self.0[at] = Some((pool.id(), balancer));
        }
    }

    /// The one of a pool of the directory; `None` when it has gone.
    pub fn of(&mut self, pool: PoolId) -> Option<&mut Balancer> {
        let (id, balancer) = self.0.get_mut(pool.index())?.as_mut()?;
        (*id == pool).then_some(balancer)
    }
}
