//! Connections that are over: closed by both sides, or reset by one.

use super::Arrived;
use super::action::{Action, Over, Passing};
use super::connection::{Connection, State};
use super::forward::{follow, note};
use super::hot::{ClientLink, Hot};
use crate::counters::DropReason;
use crate::flow::Side;
use crate::time::Time;
use crate::wire::Frame;
use crate::wire::packet::Flags;
use core::time::Duration;

/// How long a flow that was closed in order is kept: as long as a lost last acknowledgement may be repeated.
const TIME_WAIT: Duration = Duration::from_secs(15);
/// How long at least, when its place or its port is wanted: a lost last acknowledgement may be repeated once. Linux, too, lets a port be used
/// again after a second (`tcp_tw_reuse`).
const TIME_WAIT_SHORT: Duration = Duration::from_secs(1);
/// How long a flow is kept after a reset.
const RESET_WAIT: Duration = Duration::from_secs(2);

/// It is over: until when it is kept.
pub fn begin(c: &mut Connection, over: Over, now: Time) -> Time {
    let (state, until) = match over {
        Over::Closed => {
            let until = now + TIME_WAIT;
            (State::TimeWait { until }, until)
        }
        Over::Reset { by, .. } => {
            let until = now + RESET_WAIT;
            (State::Reset { by, until }, until)
        }
    };
    c.state = state;
    until
}

/// It was closed in order long enough ago to be forgotten, if its place or its port is wanted.
pub fn may_be_forgotten(c: &Connection, now: Time) -> bool {
    matches!(c.state, State::TimeWait { until } if until <= now + (TIME_WAIT - TIME_WAIT_SHORT))
}

/// A segment of a flow that is over.
#[cold]
pub fn segment(hot: &mut Hot, c: &mut Connection, side: Side, seg: &Arrived, frame: &Frame<'_>) -> Action {
    let Some(through) = &hot.through else { return Action::Drop(DropReason::FlowClosed) };
    let (seq, ack) = through.splice.client_view(side, seg.tcp.seq, seg.tcp.ack);
    let (window, other) = (through.window(side), through.window(side.other()));
    let of_this = window.is_of_this(seq);
    // Sends, or takes what the other side sent.
    let takes = seg.tcp.flags.contains(Flags::ACK) && ack.is_after(other.acked) && !ack.is_after(other.next);
    let len = seg.tcp.payload_len() as u32;
    let plausible = window.plausible(seq, len);
    let alive = (len > 0 || takes) && plausible;
    if plausible && side == Side::Client && hot.client != ClientLink::of(seg) {
        follow(hot, seg, seq, ack, frame);
    }
    // If the reset was forged both sides go on, and must not be out of step when the flow is taken up again.
    if plausible
        && matches!(c.state, State::Reset { .. })
        && !seg.tcp.flags.intersects(Flags::RST.with(Flags::SYN))
        && frame.tcp_is_intact(&seg.ip)
    {
        note(hot, c, side, seg, seq, ack);
    }
    if let State::Reset { by, .. } = c.state
        && by == side
        && alive
        && !c.record.told
        && !seg.tcp.flags.contains(Flags::RST)
    {
        // Who goes on sending has not sent that reset.
        c.state = State::Spliced(None);
        return Action::Resume;
    }
    // What is of no use to the old connection may be the second segment of a new one, overtaking the first. The other side knows
    // only the old one, and its reset would end the new one.
    if seg.tcp.flags.contains(Flags::SYN) || !of_this {
        return Action::Drop(DropReason::FlowClosed);
    }
    Action::Forward(Passing::default())
}
