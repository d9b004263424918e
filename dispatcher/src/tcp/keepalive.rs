//! Is a silent connection still there? Before a flow is given up as idle, both of its ends are asked: by a segment from before the number
//! that they expect, without payload, which every TCP answers by an acknowledgement (RFC 9293 section 3.8.4), or by a reset when it knows nothing of the
//! connection. Connections that wait for hours (push, SSH) live on as long as both ends do; one end alone keeps none.
//!
//! It costs two frames for each flow and idle timeout. Who keeps a flow by answering could keep it by sending: nothing is gained by it.

use super::action::Action;
use super::connection::{Asked, Connection};
use super::control::ControlSegment;
use super::hot::Hot;
use super::record::End;
use super::unacked;
use crate::flow::Side;
use crate::time::Time;
use core::time::Duration;

/// Probes before a side that has not answered is held to be gone.
pub(super) const TIMES: u8 = 3;
/// Between them, or the idle timeout where that is shorter.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// A segment of this side's that could be meant seriously came.
pub fn heard(hot: &mut Hot, c: &mut Connection, side: Side, now: Time) {
    if c.asked.any() {
        c.asked.heard[side as usize] = true;
        if c.asked.heard != [true; 2] {
            return;
        }
        c.asked = Asked::default();
    }
    hot.last_seen = now;
}

/// When it is to be asked, or given up, if nothing is heard.
pub fn idle_at(hot: &Hot, c: &Connection, timeout: Duration) -> Time {
    hot.last_seen + timeout + EVERY.min(timeout) * u32::from(c.asked.times)
}

/// Nothing was heard for long: those who have not answered are asked, or the flow is given up.
pub fn due(hot: &Hot, c: &mut Connection) -> Action {
    let Some(through) = &hot.through else { return Action::Hold };
    if c.asked.times >= TIMES {
        return Action::Cut(End::Idle);
    }
    c.asked.times += 1;
    let [client, server] = c.asked.heard.map(|heard| !heard);
    let (sent, received) = (through.window(Side::Client), through.window(Side::Server));
    let ask_client = || {
        let window = c.window_for_client(sent.allowed() as usize);
        ControlSegment::ack(received.acked - 1, sent.acked, window, c.clock_for_client(hot))
    };
    let ask_server = || unacked::acknowledgement(hot, through, c, sent.acked - 1);
    Action::Probe([client.then(ask_client), server.then(ask_server)])
}
