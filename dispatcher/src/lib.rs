//! `dispatcher`: a packet-level load balancer that locks every TLS session to the server that can resume it.
//!
//! The modules are layered; each may use those above it in this list and nothing below:
//!
//! * [`time`]: points in time as numbers; nobody here reads a clock.
//! * [`wire`]: header views and checksums, sequence numbers as types.
//! * [`capture`]: pcap and pcapng files: read in place, written block by block.
//! * [`flow`]: flow table, SYN cookie, splice.
//! * [`engine`]: what happens to one frame.
//! * [`worker`]: the poll loop, counters.
//! * [`io`]: one trait, one file per driver.
//! * [`replay`]: captures, and the engine driven by them.
//! * [`journal`]: ended connections as JSON lines.
//! * [`control`]: what is wanted of the dispatcher, as it was written; the control socket, and what can be asked there.
//! * [`cli`]: the command line.

pub mod capture;
pub mod cli;
pub mod control;
pub mod engine;
pub mod flow;
pub mod io;
pub mod journal;
pub mod replay;
pub mod sessions;
pub mod time;
pub mod wire;
pub mod worker;
