//! How a backend is reached: by which port and next hop, from which address of ours, with packets of what size.
//!
//! * [`Revision`]: a version of the directory, worked out for addresses.
//! * [`Routes`]: our ports, and the revision of the moment.
//! * [`GateId`]: where requests may have to wait for room at a backend.
//! * [`Neighbours`]: next hops and their Ethernet addresses.
//! * [`Returning`]: whose a frame is that returns to a local port of ours.
//! * [`Strays`]: exceptions from that, of connections taken over from another process.
//! * [`split`]: segments cut for a narrow path.
//! * [`tunnel`]: packets within packets.

mod by_address;
mod gates;
mod neighbours;
mod returning;
mod revision;
mod routes;
pub mod split;
mod strays;
pub mod tunnel;

pub use gates::{GateId, GateTerms};
pub use neighbours::{Neighbours, NextHop};
pub use returning::{
    CHECK_PORT, CHECK_PORTS, FIRST_PORT, MAX_WORKERS, Returning, dial_ports, is_check_port, probe_ports, worker_of_port,
};
pub use revision::{Revision, Way};
pub use routes::{Port, Route, Routes};
pub use strays::Strays;

use crate::wire::Family;

/// Largest segment payload that fits a port's MTU.
pub fn mss_for(mtu: u16, family: Family) -> u16 {
    mtu.saturating_sub(if family == Family::V4 { 40 } else { 60 })
}
