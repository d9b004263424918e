//! The client's handshake: a SYN, which leaves no state, and the acknowledgement in which our cookie comes back.

use super::connection::{Agreed, Connection, Held, Opening, Proxy, Stage, State, Waiting};
use super::control::{ControlSegment, syn_options};
use super::hot::{ClientLink, Hot};
use super::record::Record;
use super::reset_grace::ResetGrace;
use super::settled::Settled;
use super::{Arrived, HEADER_ROOM};
use crate::backends::{Capabilities, OUR_WSCALE};
use crate::config::{COMPLETE_WITHIN, hello_patience};
use crate::counters::DropReason;
use crate::flow::{Assembler, ClientOptions, CookieJar, CookieVerified};
use crate::time::Time;
use crate::wire::options::{SegmentOptions, SynOptions, Timestamps};
use crate::wire::packet::Flags;
use crate::wire::{Family, Frame};
use arrayvec::ArrayVec;
use lb::Service;

/// The SYN-ACK to a SYN that is intact. `offer` is what its service's backends can do, `window` what we take, `clock` ours.
pub fn syn_ack(
    seg: &Arrived,
    frame: &Frame<'_>,
    cookies: &CookieJar,
    offer: &Capabilities,
    window: u16,
    clock: u32,
) -> Result<ControlSegment, DropReason> {
    let asked = SynOptions::parse(&frame.bytes()[seg.tcp.header + 20..seg.tcp.payload]);
    let v4 = seg.ip.family == Family::V4;
    let wants_ecn = seg.tcp.flags.contains(Flags::ECE.with(Flags::CWR));
    let agreed = ClientOptions {
        mss: asked.mss.unwrap_or(if v4 { 536 } else { 1220 }),
        wscale: asked.wscale.filter(|_| offer.wscale),
        sack: asked.sack_permitted && offer.sack,
        ecn: wants_ecn && offer.ecn,
    };
    let cookie = cookies.issue(&seg.key(), seg.tcp.seq, &agreed, seg.now).ok_or(DropReason::MssTooSmall)?;
    let answer = SynOptions {
        mss: Some(offer.mss),
        wscale: agreed.wscale.map(|_| OUR_WSCALE),
        sack_permitted: agreed.sack,
        timestamps: asked.timestamps.filter(|_| offer.timestamps).map(|ts| Timestamps { val: clock, ecr: ts.val }),
    };
    let ecn = if agreed.ecn { Flags::ECE } else { Flags::default() };
    Ok(ControlSegment {
        seq: cookie,
        ack: seg.tcp.seq + 1,
        flags: Flags::SYN.with(Flags::ACK).with(ecn),
        window,
        options: syn_options(&answer),
    })
}

/// Why nothing begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// Its sender hears so by a reset, as of a host that does not know the connection.
    Refuse(DropReason),
    /// Its sender hears nothing.
    Ignore(DropReason),
}

/// A segment to a VIP that belongs to no flow and is no SYN: perhaps a cookie comes back. `hash` is of its addresses and ports.
pub fn cookie(
    seg: &Arrived,
    cookies: &CookieJar,
    grace: &mut ResetGrace,
    hash: impl Fn() -> u64,
    stopping: bool,
) -> Result<CookieVerified, Denied> {
    let flags = seg.tcp.flags;
    if flags.contains(Flags::RST) {
        return Err(Denied::Ignore(DropReason::NoFlow));
    }
    if !flags.contains(Flags::ACK) || flags.contains(Flags::SYN) {
        return Err(Denied::Refuse(DropReason::NoFlow));
    }
    if stopping {
        return Err(Denied::Refuse(DropReason::Stopping));
    }
    let (key, len, cookie) = (seg.key(), seg.tcp.payload_len(), seg.tcp.ack - 1);
    match cookies.verify(&key, seg.tcp.seq - 1, cookie, seg.now) {
        Some(proof) => Ok(proof),
        // Beyond the grace only one is heard out that came before those that were sent before it, as after a hand-over between workers: who repeats later than
        // that is no stranger for it.
        None if grace.granted(hash(), len > 0, seg.now)
            || len > 0 && cookies.is_behind(&key, seg.tcp.seq, len, cookie, seg.now) =>
        {
            Err(Denied::Ignore(DropReason::BadCookie))
        }
        None => Err(Denied::Refuse(DropReason::BadCookie)),
    }
}

/// A connection begins, whose running number is `number`; and when it is to be looked at.
pub fn open(
    proof: &CookieVerified,
    seg: &Arrived,
    frame: &Frame<'_>,
    service: &Service,
    number: u64,
) -> Result<(Hot, Connection, Time), DropReason> {
    if !frame.tcp_is_intact(&seg.ip) {
        return Err(DropReason::BadChecksum);
    }
    let (isn, cookie, got) = (proof.client_isn(), proof.cookie(), proof.options());
    let options = SegmentOptions::parse(&frame.bytes()[seg.tcp.header + 20..seg.tcp.payload]);
    let stamp = options.timestamps.map(|(_, ts)| ts);
    let policy = service.policy();
    let now = seg.now;
    let silent_until = now + hello_patience(policy);
    let waiting = Waiting {
        silent_until,
        complete_until: now + policy.hello_timeout.max(COMPLETE_WITHIN),
        ack_at: None,
        unacked: 0,
        header_due: policy.accept_proxy.accepts(seg.ip.src.ip()),
        since: now,
        walk: Default::default(),
        request: service.reads_requests().then(Default::default),
    };
    // Beside what was agreed nothing is known of it yet.
    let settled = Settled {
        agreed: Agreed { mss: got.mss, wscale: got.wscale, sack: got.sack, ecn: got.ecn, timestamps: stamp.is_some() },
        isn,
        cookie,
        client_window: u32::from(seg.tcp.window) << got.wscale.unwrap_or(0),
        accepted: 0,
        proxy: match (policy.proxy_protocol, policy.accept_proxy.pass) {
            (false, _) => Proxy::No,
            (true, false) => Proxy::Ours,
            (true, true) => Proxy::AsAccepted,
        },
        record: Record::new(number, now, service.id(), service.pool()),
    };
    let opening = Opening {
        held: Held { stream: Assembler::lazy(isn + 1, HEADER_ROOM), acked: isn + 1, urgent: None },
        tried: ArrayVec::new(),
        asks: None,
        stage: Stage::AwaitHello(waiting),
    };
    let connection = Connection { state: State::Opening(opening), ..settled.into() };
    let hot = Hot {
        last_seen: now,
        clocks: stamp.map_or([0; 2], |ts| [ts.val, ts.ecr]),
        through: None,
        client: ClientLink::of(seg),
    };
    Ok((hot, connection, silent_until))
}
