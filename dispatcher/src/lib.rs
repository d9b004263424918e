//! `dispatcher`: a packet-level load balancer that locks every TLS session to the server that can resume it.
//!
//! The modules are layered; each may use those above it in this list and nothing below:
//!
//! * [`pack`]: state as bytes, and back.
//! * [`time`]: points in time as numbers; nobody here reads a clock.
//! * `prefetch`: memory into the cache before it is needed.
//! * `strange`: characters that are none of a text's; [`html`]: documents and plots for browsers.
//! * [`wire`]: header views and checksums, sequence numbers as types.
//! * [`capture`]: pcap and pcapng files: read in place, written block by block.
//! * [`flow`]: flow table, SYN cookie, splice.
//! * [`config`]: what the engine is told at start.
//! * [`counters`]: every way to lose a frame, and what is counted.
//! * [`path`]: how a backend is reached.
//! * [`backends`]: whether backends answer, and what TCP options they speak.
//! * [`tls`]: what clients offer to resume, and what servers make of it.
//! * [`http`]: plain HTTP/1: which session a request belongs to, and which begin with a response.
//! * [`tcp`]: one connection.
//! * [`engine`]: what happens to one frame: the ladder, and all tables together.
//! * [`checks`]: what is asked of backends by connections of our own: whether they serve, and which ticket keys they have.
//! * [`worker`]: the poll loop, counters.
//! * [`io`]: one trait, one file per driver.
//! * [`replay`]: captures, and the engine driven by them.
//! * [`state`]: what outlives the process: the affinity tables, in a file.
//! * [`journal`]: ended connections as JSON lines.
//! * [`control`]: what is wanted of the dispatcher, as it was written; the control socket, and what can be asked there.
//! * [`metrics`]: what can be measured, for Prometheus.
//! * [`cli`]: the command line.

pub mod backends;
pub mod capture;
pub mod checks;
pub mod cli;
pub mod config;
pub mod control;
pub mod counters;
pub mod engine;
pub mod explain;
pub mod flow;
pub mod html;
pub mod http;
pub mod io;
pub mod journal;
pub mod metrics;
pub mod pack;
pub mod path;
mod prefetch;
pub mod replay;
pub mod sessions;
pub mod state;
mod strange;
pub mod tcp;
pub mod time;
pub mod tls;
pub mod tunnel;
pub mod wire;
pub mod worker;
