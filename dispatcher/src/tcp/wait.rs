//! A connection that waits for room at a backend: its client has said enough to choose by, and is kept from saying it again.
//!
//! What it said lies in a small buffer, if it fits into one, so that those who wait do not starve hellos that begin. It is acknowledged when the client would
//! repeat it, and is ours to deliver then, as any hello that is acknowledged. The window is what is left of the buffer, and never zero. A client that closes or
//! resets has given up, and leaves at once.
//!
//! One who is silent while he waits for long is asked every five seconds whether he is still there, as the ends of a silent connection are (`keepalive`): what stands between us
//! does not forget the connection, and one that is gone without a word leaves the line after three questions, instead of being given a slot that others wait for.

use super::Arrived;
use super::action::Action;
use super::connection::{Connection, Held, Opening, Queued, Stage, State};
use super::control::ControlSegment;
use super::hello::{self, ACK_AFTER, Holding};
use super::hot::Hot;
use super::keepalive;
use super::record::End;
use crate::counters::DropReason;
use crate::flow::{BufferPool, FlowId, Side};
use crate::time::Time;
use crate::wire::Frame;
use crate::wire::packet::Flags;
use lb::admission::Ticket;

/// It waits from now on, wherever it stood; `may_be_large` says whether it may keep a large buffer if no small one will do. False when it may not, and it stays where it was.
pub fn begin(c: &mut Connection, buffers: &mut BufferPool, ticket: Ticket, may_be_large: bool, now: Time) -> bool {
    let Some(Opening { held, stage, .. }) = c.opening() else { return false };
    let large = !held.stream.shrink(buffers);
    if large && !may_be_large {
        return false;
    }
    let due = match stage {
        Stage::AwaitHello(waiting) => waiting.ack_at,
        _ => None,
    };
    let ack_at = is_owed(held).then_some(due.unwrap_or(now + ACK_AFTER));
    *stage = Stage::Queued(Queued { ticket, since: now, ack_at, large, ask_at: now + keepalive::EVERY, asked: 0 });
    true
}

/// The client has sent something that it has not been acknowledged.
fn is_owed(held: &Held) -> bool {
    held.acked != held.stream.next_seq()
}

/// A segment of a client that waits.
pub fn segment(
    hot: &mut Hot,
    c: &mut Connection,
    id: FlowId,
    seg: &Arrived,
    frame: &Frame<'_>,
    holding: Holding<'_>,
) -> Action {
    match hello::segment(hot, c, id, seg, frame, holding) {
        Action::Abandon(End::ClientReset) => return Action::Abandon(End::QueueAbandoned),
        Action::Hold => {}
        other => return other,
    }
    if seg.tcp.flags.contains(Flags::FIN) {
        return Action::TurnAway(End::QueueAbandoned);
    }
    let State::Opening(Opening { stage: Stage::Queued(queued), .. }) = &mut c.state else {
        return Action::Drop(DropReason::FlowClosed);
    };
    (queued.ask_at, queued.asked) = (seg.now + keepalive::EVERY, 0);
    // New or said again: our acknowledgement was lost then.
    if seg.tcp.payload_len() > 0 && queued.ack_at.is_none() {
        queued.ack_at = Some(seg.now + ACK_AFTER);
        return Action::Wake(seg.now + ACK_AFTER);
    }
    Action::Hold
}

/// It is acknowledged, or asked whether it is still there, if it is time.
pub fn due(hot: &Hot, c: &mut Connection, now: Time, hello_bytes: usize) -> Option<Action> {
    let queued = c.queued()?;
    if queued.ack_at.is_some_and(|at| at <= now) {
        queued.ack_at = None;
        return Some(hello::acknowledge_all(hot, c, hello_bytes));
    }
    if queued.ask_at > now {
        return None;
    }
    if queued.asked >= keepalive::TIMES {
        return Some(Action::TurnAway(End::QueueAbandoned));
    }
    (queued.asked, queued.ask_at) = (queued.asked + 1, now + keepalive::EVERY);
    let acked = c.opening()?.held.acked;
    // From before the number that it expects: every TCP answers that.
    let probe = ControlSegment { seq: c.cookie, ..hello::acknowledgement(hot, c, acked, hello_bytes) };
    Some(Action::Send(Side::Client, probe))
}
