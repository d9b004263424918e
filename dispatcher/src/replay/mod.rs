//! Captures, and the engine driven by them.
//!
//! * [`capture`]: pcap and pcapng files, read in place; [`pcapng`]: written.
//! * [`decode`]: a recorded frame's addresses, ports and payload.
//! * [`reassembly`]: connections and their byte streams, whatever the network or the capture did to them.
//! * [`dialogue`]: how a connection's streams begin.
//! * [`inspect`]: what the TLS and DTLS streams of a capture say in the clear.

pub mod capture;
pub mod decode;
pub mod dialogue;
pub mod inspect;
pub mod pcapng;
pub mod reassembly;
