//! Which server should a connection go to? Affinity tables, backend pool and balancing algorithms.
//!
//! No I/O, no clock, no random source: the time ([`Millis`]) and entropy are arguments, so that a replay, a simulation
//! or a fuzz target drives the very code that runs live.
//!
//! * [`backend`]: [`BackendId`], and sets of them.
//! * [`pool`]: members, weights and states of one pool, and its Maglev table; [`live`]: connection counts, shared by all
//!   workers.
//! * [`balance`]: Maglev, least connections, round robin, random two.
//! * [`service`]: services, routes and pools as somebody wants them, and what can be wrong with them.
//! * [`directory`]: the same made into numbers that stay from change to change, with routing by server name and ALPN.
//! * [`released`]: which slots may be given to other backends.
//! * [`affinity`]: who can resume which TLS session, learned from what the servers say in clear.
//! * [`check`]: what is asked of a backend, so that it is known whether it serves; somebody else asks.
//! * [`admission`]: which request goes first when servers have limits: slots, classes, lines.
//!
//! A new connection goes through all of them, in this order:
//!
//! ```
//! use lb::{Affinity, Balancers, Config, Directory, Identity, IdentityKind, MemberSpec, Millis, Offered, Policy, PoolSpec, Wanted};
//!
//! let servers = ["web1=10.0.1.1:443", "web2=10.0.1.2:443"].map(|s| s.split_once('=').unwrap());
//! let backends = servers.map(|(name, addr)| MemberSpec::new(name, addr.parse().unwrap())).to_vec();
//! let pool = PoolSpec { backends, ..PoolSpec::default() };
//! let wanted = Wanted::single(vec!["10.0.0.1:443".parse().unwrap()], Policy::default(), pool);
//! let directory = Directory::next(None, &wanted, |_| true).unwrap();
//! let mut balancers = Balancers::new(&directory);
//! let affinity = Affinity::single(Config::new(directory.slots()));
//!
//! let service = directory.service_at("10.0.0.1:443".parse().unwrap()).unwrap();
//! let id = directory.pool_for(service, Some(b"www.example.com"), [].into_iter()).unwrap();
//! let (pool, balancer) = (directory.pool(id).unwrap(), balancers.of(id).unwrap());
//! let offered = [Identity::new(&Offered { kind: IdentityKind::SessionId, bytes: &[7; 32] }).unwrap()];
//! let found = affinity.lookup(&offered, Millis(0), |b| pool.may_resume(b));
//! let backend = match &found.decision {
//!     Some(decision) => balancer.pick_among(pool, &decision.backends, 42, 0, |_| true),
//!     None => balancer.pick(pool, 42, 0, |b| !found.avoid.contains(b)),
//! };
//! assert!(backend.is_some());
//! ```

pub mod admission;
pub mod affinity;
pub mod backend;
pub mod balance;
pub mod check;
pub mod choose;
pub mod directory;
pub mod limits;
pub mod listener;
pub mod live;
pub mod pool;
pub mod released;
mod routes;
pub mod service;
mod sync;
pub mod time;
pub mod tunnel;

pub use affinity::{
    Affinity, Config, Decision, Identity, IdentityKind, Key, KeyKind, KeyName, Lookup, Offered, Reason, Sighting,
    TicketDigest, Update,
};
pub use backend::{BackendId, BackendSet, MAX_BACKENDS, MAX_WEIGHT, State};
pub use balance::{Algorithm, Balancer, Balancers, StableHash};
pub use check::{Agent, Asked, Check, CheckKind, Method};
pub use choose::{Hints, ResumeFallback, choose, choose_own, the_only_one};
pub use directory::{Backend, Directory, Leaving, Left, LeftBackend, PoolId, Service, ServiceId};
pub use limits::{BackendLimits, MaxHandshakes};
pub use listener::{FlowCount, Listener};
pub use live::Live;
pub use pool::{Member, Pool};
pub use released::Released;
pub use service::{
    Fault, FaultKind, HashOn, MemberSpec, Place, Policy, PoolSpec, RouteSpec, ServiceKind, ServiceSpec, SniPattern,
    Wanted,
};
pub use time::Millis;
pub use tunnel::{Tunnel, TunnelKind};
