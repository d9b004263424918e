//! Resets of our own: how a flow is ended that neither of its ends has ended, so that both hear of it with data in flight.
//!
//! A receiver obeys a reset only at the very number it expects next; elsewhere in its window it answers by a challenge ACK, outside it
//! is silent (RFC 5961 section 3.2). What it expects we know only within bounds: it is no less than what it has acknowledged, and no more than
//! what was sent to it. So the first reset goes behind everything that was sent to it: whoever gets that in order obeys. The flow is
//! kept for a moment, and whatever else comes of either end (a challenge, a late acknowledgement, data again) is answered as by a host that
//! does not know the connection (RFC 9293 section 3.10.7.1): by a reset at its acknowledgement, which is what its sender expects by definition. Both
//! numbers are said again three times, since a receiver that says nothing more would not notice that the first reset was lost.
//!
//! Resets carry no timestamps: RFC 7323 (section 3.2) asks for none, and PAWS is not applied to them.

use super::Arrived;
use super::action::Action;
use super::connection::{Connection, Cut, Opening, Stage, State, Told};
use super::control::ControlSegment;
use super::farewell;
use super::hot::Hot;
use crate::counters::{Counters, DropReason};
use crate::flow::{Side, Window};
use crate::time::Time;
use crate::wire::Frame;
use crate::wire::packet::Flags;
use arrayvec::ArrayVec;
use core::time::Duration;

/// How long a flow that we have ended is kept.
const WAIT: Duration = Duration::from_millis(1500);
/// When its resets are sent again: with more than the half second between them in which Linux answers a reset by no second challenge
/// (`tcp_invalid_ratelimit`).
pub const AGAIN: [Duration; 3] = [Duration::from_millis(150), Duration::from_millis(600), Duration::from_millis(1150)];

/// What a reset to each side must say, by the state of a flow. None for a side that is not there.
pub fn told(hot: &mut Hot, c: &mut Connection) -> [Option<Told>; 2] {
    let before = |upto| Some(Told { acked: c.cookie + 1, next: c.cookie + 1, ack: Some(upto) });
    match (&c.state, &mut hot.through) {
        (State::Opening(Opening { held, stage, .. }), _) => {
            let server = match stage {
                Stage::AwaitHello(_) | Stage::Queued(_) => None,
                Stage::Dialing(dialing) => {
                    // It may have taken our SYN; what it expects is the number behind that.
                    let first = c.isn - u32::from(dialing.header) + 1;
                    Some(Told { acked: first, next: first, ack: None })
                }
            };
            [before(held.stream.next_seq()), server]
        }
        (State::Farewell(farewell), _) => {
            let next = farewell::end(c);
            let acked = if farewell.heard { next } else { c.cookie + 1 };
            [Some(Told { acked, next, ack: Some(farewell.next) }), None]
        }
        (State::Spliced(_) | State::Reset { .. }, Some(through)) => {
            let (sent, received) = (through.window(Side::Client).next, through.window(Side::Server).next);
            let delta = through.splice.seq;
            let server = through.direction(&mut c.odd, Side::Server);
            let to_client = Told { acked: server.heard(), next: server.furthest(), ack: Some(sent) };
            let client = through.direction(&mut c.odd, Side::Client);
            let acked = match &c.state {
                State::Spliced(Some(unacked)) => unacked.una,
                _ => client.heard(),
            };
            let to_server = Told { acked, next: client.furthest(), ack: Some(received + -delta) };
            [Some(to_client), Some(to_server)]
        }
        _ => [None; 2],
    }
}

/// It is cut: these are told.
pub fn begin(hot: &Hot, c: &mut Connection, told: [Option<Told>; 2], now: Time) {
    let hop = c.hop(hot);
    c.state = State::Cut(Cut { told, hop, times: 0, since: now, retry_at: now + AGAIN[0] });
}

/// Resets to be sent.
pub type Resets = ArrayVec<(Side, ControlSegment), 4>;

/// The resets of a flow that was cut: behind everything sent, and from the second time on at what was acknowledged, too.
pub fn resets(c: &Connection) -> Resets {
    let mut all = Resets::new();
    if let State::Cut(Cut { told, times, .. }) = &c.state {
        for side in [Side::Client, Side::Server] {
            say(&mut all, side, told[side as usize], *times > 0);
        }
    }
    all
}

/// What the backend is told, both numbers at once, when a flow is forgotten.
pub fn farewell(told: &[Option<Told>; 2]) -> Resets {
    let mut all = Resets::new();
    say(&mut all, Side::Server, told[Side::Server as usize], true);
    all
}

fn say(all: &mut Resets, to: Side, told: Option<Told>, both: bool) {
    let Some(told) = told else { return };
    all.push((to, ControlSegment::reset(told.next, told.ack)));
    if both && told.acked != told.next {
        all.push((to, ControlSegment::reset(told.acked, told.ack)));
    }
}

/// A flow that was cut is looked at again: once more the resets, or it is forgotten.
pub fn due(cut: &mut Cut, now: Time) -> Action {
    if now >= cut.since + WAIT {
        return Action::Forget(None);
    }
    if now < cut.retry_at {
        return Action::Hold;
    }
    cut.times += 1;
    cut.retry_at = cut.since + AGAIN.get(usize::from(cut.times)).copied().unwrap_or(WAIT);
    Action::SayResets
}

/// A segment of a flow that we have cut: its sender has not heard of that.
#[cold]
pub fn segment(
    hot: &Hot,
    c: &mut Connection,
    side: Side,
    seg: &Arrived,
    frame: &Frame<'_>,
    hello_bytes: usize,
    counters: &mut Counters,
) -> Action {
    let flags = seg.tcp.flags;
    if !frame.tcp_is_intact(&seg.ip) {
        return Action::Drop(DropReason::BadChecksum);
    }
    let len = seg.tcp.payload_len() as u32;
    let plausible = match (&hot.through, side) {
        (Some(through), _) => {
            let (seq, _) = through.splice.client_view(side, seg.tcp.seq, seg.tcp.ack);
            through.window(side).plausible(seq, len)
        }
        // Nothing was forwarded: what it may send is what we take.
        (None, Side::Client) => Window::new(c.isn + 1, hello_bytes as u32).plausible(seg.tcp.seq, len),
        (None, Side::Server) => false,
    };
    let State::Cut(cut) = &mut c.state else { return Action::Drop(DropReason::FlowClosed) };
    let told = &mut cut.told[side as usize];
    if flags.contains(Flags::RST) {
        if plausible {
            // It is gone already.
            *told = None;
        }
        return Action::Drop(DropReason::FlowClosed);
    }
    if !flags.contains(Flags::ACK) {
        return Action::Drop(DropReason::FlowClosed);
    }
    if plausible && let Some(told) = told {
        told.acked = seg.tcp.ack;
    }
    counters.refused[DropReason::FlowClosed as usize] += 1;
    Action::Reply(ControlSegment::reset(seg.tcp.ack, None))
}
