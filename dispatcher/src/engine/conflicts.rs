//! Other hosts that say they have an address of ours (RFC 5227, RFC 4862): remembered, so that somebody is told. What
//! they say changes nothing here.

use crate::config::PortId;
use crate::wire::Mac;
use arrayvec::ArrayVec;
use std::net::IpAddr;

/// A claim of another host's to an address of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// Where it was heard.
    pub port: PortId,
    /// The address.
    pub ip: IpAddr,
    /// Who says so.
    pub mac: Mac,
}

/// The first claim to each address. More addresses than that are not needed to see what is wrong.
pub type Conflicts = ArrayVec<Conflict, 8>;

/// Keeps a claim, if it is the first to its address and there is room.
pub fn note(all: &mut Conflicts, claim: Conflict) {
    if !all.iter().any(|known| known.ip == claim.ip) {
        _ = all.try_push(claim);
    }
}
