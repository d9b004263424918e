//! What TCP options a backend speaks: learned from every SYN-ACK of it.

use crate::pack::packed;
use crate::wire::Family;
use crate::wire::options::SynOptions;

/// Our own window scale, told to every client that has one. A constant, because nothing of what we told a client is
/// remembered until its cookie comes back; what a backend's differs is translated. 7 is what Linux servers choose with
/// their usual buffers, so that as a rule nothing needs translation.
pub const OUR_WSCALE: u8 = 7;

/// The least window that clients are promised. A backend whose SYN-ACK says less takes what it can of a first flight, and the client repeats
/// the rest; but a window of 0 (netfilter's SYNPROXY says it until its own server has answered) would stop everybody's clients.
const LEAST_WINDOW: u16 = 4096;

/// What a backend's SYN-ACK offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Selective acknowledgements.
    pub sack: bool,
    /// Timestamps.
    pub timestamps: bool,
    /// Window scaling.
    pub wscale: bool,
    /// Explicit congestion notification; none while unknown.
    pub ecn: bool,
    /// Largest segment it takes.
    pub mss: u16,
    /// The window of its SYN-ACK, bytes.
    pub window: u16,
}

impl Capabilities {
    /// What is assumed of backends that have not been heard: what all systems of this century do. Congestion
    /// notification is not: a client told yes would send packets whose marks nobody reads.
    pub(super) fn assumed(mss: u16) -> Capabilities {
        Capabilities { sack: true, timestamps: true, wscale: true, ecn: false, mss, window: u16::MAX }
    }

    /// What both can do.
    pub(super) fn both(self, other: Capabilities) -> Capabilities {
        Capabilities {
            sack: self.sack && other.sack,
            timestamps: self.timestamps && other.timestamps,
            wscale: self.wscale && other.wscale,
            ecn: self.ecn && other.ecn,
            mss: self.mss.min(other.mss),
            window: self.window.min(other.window),
        }
    }

    /// What is known after a SYN that carried `offered` was answered by `got`.
    pub(super) fn after(
        self,
        offered: &SynOptions,
        got: &SynOptions,
        ecn: Option<bool>,
        window: u16,
        family: Family,
    ) -> Capabilities {
        // Options are answered only when offered (RFC 9293 section 3.1 and the options' own): else nothing was learned.
        Capabilities {
            sack: if offered.sack_permitted { got.sack_permitted } else { self.sack },
            timestamps: if offered.timestamps.is_some() { got.timestamps.is_some() } else { self.timestamps },
            wscale: if offered.wscale.is_some() { got.wscale.is_some() } else { self.wscale },
            ecn: ecn.unwrap_or(self.ecn),
            mss: mss_said(got.mss, family),
            window: window.max(LEAST_WINDOW),
        }
    }
}

/// The largest segment that a backend takes, by its SYN-ACK: what RFC 9293 (section 3.7.1) says when that is silent. What is offered
/// to all clients depends on it, so no backend is believed less than clients are (the smallest class of `flow::cookie`).
pub fn mss_said(said: Option<u16>, family: Family) -> u16 {
    said.unwrap_or(if family == Family::V4 { 536 } else { 1220 }).max(216)
}

packed!(Capabilities { sack, timestamps, wscale, ecn, mss, window });
