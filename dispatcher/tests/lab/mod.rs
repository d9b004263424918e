//! What the engine's tests share: a small world on a virtual clock ([`world`]), and a bench for single segments
//! ([`script`]).
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod apps;
pub mod check;
pub mod config;
pub mod crew;
pub mod pcap;
pub mod rng;
pub mod script;
pub mod tls;
pub mod world;
