//! Tunnels whose packets are sealed (WireGuard): keys, sessions, and how it is known whether one is up.
//!
//! * [`key`]: the file of our secret, and the keys that follow from it.
//! * [`edge`]: what a worker has of all of them: by it packets are sealed and opened.
//! * [`peer`]: one of them.
//! * [`shown`]: what is told of them.
//!
//! The cryptography is boringtun's `Tunn`. That reads clocks (its own, and the wall clock once, for the time stamps in handshakes) and random numbers of the
//! system; so this room stands beside `io`, above the engine, which asks for it by its [`Effects`](crate::engine::Effects). All that is decided here, when to
//! begin a handshake anew, when to say that a tunnel is lost, goes by the worker's time, which is an argument.
//!
//! Nothing is shared between workers: each has a key of its own, hence sessions, counters and a replay window of its own, and to the other end each is a peer
//! of its own.

pub mod edge;
pub mod key;
pub mod peer;
pub mod shown;

pub use edge::{Edge, News};
pub use key::Secret;
pub use shown::{Shown, Standing};
