//! The simulated world: the real engine on a virtual clock, among clients and servers, over links as bad as wanted; and a bench for
//! single segments. Everything follows from a seed.
//!
//! * [`world`]: the engine, hosts and time, on the network of [`config`]. [`host`]: who speaks TCP by smoltcp, and runs [`apps`].
//!   [`links`]: what happens to frames between them.
//! * [`upset`]: crashes, leaps of the clock, narrow paths. [`hostile`]: forgers, peers that lie, frames of long ago.
//! * [`upgrade`]: another process takes over.
//! * [`crew`]: several workers in the engine's place.
//! * [`check`]: the engine's books. [`pairs`]: who is led where.
//! * [`storm`]: all of it at once, by a seed.
//! * [`rush`]: more clients than servers with limits may take.
//! * [`liar`]: an adversary that knows how sessions are learned, among honest clients that come back.
//! * [`script`]: the bench; one segment in, what leaves because of it.
//! * [`twin`]: the engine, and one that knows no short cut, compared.
//! * [`tls`]: hellos and flights made by hand. [`rng`]: numbers from a seed. [`pcap`]: what a failure leaves behind.
//!
//! What does not hold panics: callers are tests, or catch it.

pub mod apps;
pub mod check;
pub mod config;
pub mod crew;
pub mod host;
pub mod hostile;
pub mod liar;
pub mod links;
pub mod pairs;
pub mod pcap;
pub mod rng;
pub mod rush;
pub mod script;
pub mod storm;
mod strict;
pub mod tls;
pub mod tunnels;
pub mod twin;
pub mod upgrade;
pub mod upset;
pub mod world;
