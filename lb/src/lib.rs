//! Which server should a connection go to? Affinity tables, backend pool and balancing algorithms.
//!
//! No I/O, no clock, no random source: the time ([`Millis`]) and entropy are arguments, so that a replay, a simulation
//! or a fuzz target drives the very code that runs live.
//!
//! * [`backend`]: what a backend is called, [`BackendId`] and sets of them.
//! * [`pool`]: weights, states and live connection counts, shared by all workers.
//! * [`balance`]: Maglev, least connections, round robin, random two.
//! * [`service`]: services, routes and pools as somebody wants them, and what can be wrong with them.
//! * [`directory`]: the same made into numbers that stay from change to change, with routing by server name and ALPN.
//! * [`released`]: which slots may be given to other backends.
//! * [`affinity`]: who can resume which TLS session, learned from what the servers say in clear.
//!
//! A new connection goes through both, in this order:
//!
//! ```
//! use lb::{Affinity, Algorithm, Backend, Balancer, Config, Identity, IdentityKind, Millis, Offered, Pool};
//!
//! let pool = Pool::new(vec![Backend::new("web1"), Backend::new("web2")]).unwrap();
//! let mut balancer = Balancer::new(Algorithm::Maglev, &pool);
//! let affinity = Affinity::single(Config::new(pool.len()));
//!
//! let offered = [Identity::new(&Offered { kind: IdentityKind::SessionId, bytes: &[7; 32] }).unwrap()];
//! let found = affinity.lookup(&offered, Millis(0), |b| pool.may_resume(b));
//! let backend = match &found.decision {
//!     Some(decision) => balancer.pick_among(&pool, &decision.backends, 42, 0, |_| true),
//!     None => balancer.pick(&pool, 42, 0, |b| !found.avoid.contains(b)),
//! };
//! assert!(backend.is_some());
//! ```

pub mod affinity;
pub mod backend;
pub mod balance;
pub mod choose;
pub mod directory;
pub mod pool;
pub mod released;
mod routes;
pub mod service;
mod sync;
pub mod time;

pub use affinity::{
    Affinity, Config, Decision, Identity, IdentityKind, Key, KeyKind, KeyName, Lookup, Offered, Reason, Sighting,
    TicketDigest, Update,
};
pub use backend::{Backend, BackendId, BackendSet, MAX_BACKENDS, State};
pub use balance::{Algorithm, Balancer, StableHash};
pub use choose::{Hints, ResumeFallback, choose};
pub use directory::{Directory, PoolId, ServiceId};
pub use pool::{Pool, PoolError};
pub use released::Released;
pub use service::{
    Fault, FaultKind, HashOn, MemberSpec, Place, Policy, PoolSpec, RouteSpec, ServiceKind, ServiceSpec, SniPattern,
    Wanted,
};
pub use time::Millis;
