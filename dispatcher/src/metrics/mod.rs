//! What can be measured of a running dispatcher, in Prometheus' text format.
//!
//! [`catalogue`] names every metric, [`exporter`] writes them out of a [`Reading`], which is made of what workers tell anyway: nothing is counted for this, and the packet path has no
//! atomic more. [`server`] answers at the address that is given by `--metrics`, for people too: [`page`] is the status page.

pub mod catalogue;
pub mod exporter;
pub mod page;
pub mod server;

use crate::control::socket::api::{Backend, Drop, Queue, Sessions, Tunnel, Worker};
use crate::engine::Counters;
use crate::io::Traffic;
use crate::worker::Totals;

/// All that is told of one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    /// All backends.
    pub backends: Vec<Backend>,
    /// The affinity tables.
    pub sessions: Sessions,
    /// All workers.
    pub workers: Vec<Worker>,
    /// Frames that came to nothing.
    pub drops: Vec<Drop>,
    /// Every line for room at backends.
    pub queues: Vec<Queue>,
    /// Every tunnel whose packets are sealed, as each worker has it.
    pub tunnels: Vec<Tunnel>,
    /// What is told nowhere else.
    pub figures: Figures,
}

/// Figures that only metrics have.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Version of what is in force.
    pub generation: u64,
    /// Seconds since 1970 at the start.
    pub started: f64,
    /// By worker, then by port.
    pub traffic: Vec<Vec<Port>>,
    /// The engines', all together.
    pub counters: Counters,
    /// Ended connections.
    pub totals: Totals,
}

/// What passed a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Taken from it.
    pub received: Traffic,
    /// Given to it.
    pub sent: Traffic,
}
