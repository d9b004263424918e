//! A client uses its address and port again.
//!
//! A SYN is answered like any other, and leaves the old flow alone until its cookie has come back. While the old one is not over the SYN must
//! have been seen, for the handshake of a still older connection, come again, would verify too and end a good one. If such a one took the place
//! of a flow that was over, the SYN seen there counts on. No client goes back to the number that it began with before.

use super::Arrived;
use super::connection::{Connection, Opening, Stage, State};
use crate::flow::{CookieJar, CookieVerified};
use crate::wire::Seq;
use crate::wire::packet::Flags;
use lb::ServiceId;

/// How it begins anew.
#[derive(Debug)]
pub enum Reuse {
    /// By a SYN to what is no service's any more.
    Unserved,
    /// By a SYN.
    Syn(ServiceId),
    /// By a cookie that came back.
    Cookie(Begun),
}

/// The connection that takes the place.
#[derive(Debug)]
pub struct Begun {
    /// Where it begins.
    pub service: ServiceId,
    /// With this.
    pub proof: CookieVerified,
    /// See [`Connection::renewed`].
    pub renewed: Option<Seq>,
    /// See [`Connection::former`].
    pub former: [Option<Seq>; 2],
}

/// By what a new connection is known.
#[derive(Clone, Copy)]
pub struct Anew<'a> {
    /// The service that listens where the client connected to, if one does.
    pub service: Option<ServiceId>,
    /// All cookies.
    pub cookies: &'a CookieJar,
}

/// Whether a segment of the client's could be of another connection than `c`: what it costs nothing to see.
pub fn may_begin(c: &Connection, seg: &Arrived) -> bool {
    // Who acknowledges our number speaks of this connection. A reset begins nothing.
    seg.tcp.flags.contains(Flags::SYN)
        || (seg.tcp.flags.contains(Flags::ACK) && !seg.tcp.flags.contains(Flags::RST) && seg.tcp.ack != c.cookie + 1)
}

/// Whether a segment of the client's is of another connection than `c`.
pub fn begins(c: &mut Connection, seg: &Arrived, anew: Anew<'_>) -> Option<Reuse> {
    let Anew { service, cookies } = anew;
    // Its service may have gone since: nothing begins there any more.
    let Some(service) = service else { return seg.tcp.is_bare_syn().then_some(Reuse::Unserved) };
    if seg.tcp.is_bare_syn() {
        if seg.tcp.seq == c.began_at() && matches!(c.state, State::Opening(_)) {
            return None;
        }
        // The flow's own SYN, or that of one before, come again, begins nothing.
        if seg.tcp.seq != c.began_at() && !c.former.contains(&Some(seg.tcp.seq)) {
            c.renewed = Some(seg.tcp.seq);
        }
        return Some(Reuse::Syn(service));
    }
    let plain_ack = seg.tcp.flags.contains(Flags::ACK) && !seg.tcp.flags.intersects(Flags::SYN.with(Flags::RST));
    let isn = seg.tcp.seq - 1;
    let over = matches!(c.state, State::TimeWait { .. } | State::Reset { .. } | State::Cut(_));
    // Under a flood of SYNs another worker may have answered this one. Where nothing was said yet, little is lost by believing a cookie
    // whose client began later than this one by its own number, which grows with time (RFC 6528): an old handshake come again is of before.
    let silent = match &c.state {
        State::Opening(Opening { held, stage: Stage::AwaitHello(_), .. }) => {
            held.stream.contiguous_len() == 0 && !held.stream.has_gap()
        }
        _ => false,
    };
    let unseen = silent && isn.is_after(c.began_at()) && !c.former.contains(&Some(isn));
    if !plain_ack || seg.tcp.ack == c.cookie + 1 || !(over || unseen || c.renewed == Some(isn)) {
        return None;
    }
    let (renewed, former) = (c.renewed.filter(|of| *of != isn), [Some(c.began_at()), c.former[0]]);
    let proof = cookies.verify(&seg.key(), isn, seg.tcp.ack - 1, seg.now)?;
    Some(Reuse::Cookie(Begun { service, proof, renewed, former }))
}
