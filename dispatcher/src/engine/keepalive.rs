//! Is a silent connection still there? Before a flow is given up as idle, both of its ends are asked: by a segment from before the number
//! that they expect, without payload, which every TCP answers by an acknowledgement (RFC 9293 section 3.8.4), or by a reset when it knows nothing of the
//! connection. Connections that wait for hours (push, SSH) live on as long as both ends do; one end alone keeps none.
//!
//! It costs two frames for each flow and idle timeout. Who keeps a flow by answering could keep it by sending: nothing is gained by it.

use super::connection::Connection;
use super::record::End;
use super::send::Own;
use super::{Effects, Engine};
use crate::flow::{FlowId, Side};
use crate::time::Time;
use crate::wire::packet::Flags;
use core::time::Duration;

/// Probes before a side that has not answered is held to be gone.
const TIMES: u8 = 3;
/// Between them, or the idle timeout where that is shorter.
const EVERY: Duration = Duration::from_secs(5);

/// Whom a silent flow's probes have reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Probes sent since the flow was last heard.
    times: u8,
    /// By side: heard since the first of them.
    heard: [bool; 2],
}

impl Connection {
    /// A segment of this side's that could be meant seriously came.
    #[inline]
    pub(super) fn heard(&mut self, side: Side, now: Time) {
        if self.asked.times == 0 { self.last_seen = now } else { self.answered(side, now) }
    }

    /// A side's clock, in the client's view. Segments of ours show the latest: a receiver does not hear what is older than what it has seen
    /// (RFC 7323 section 5.3), a keepalive least of all.
    #[inline]
    pub(super) fn shows_clock(&mut self, side: Side, clock: u32) {
        let latest = match side {
            Side::Client => &mut self.client_clock,
            Side::Server => &mut self.our_clock,
        };
        if (clock.wrapping_sub(*latest) as i32) > 0 {
            *latest = clock;
        }
    }

    #[cold]
    fn answered(&mut self, side: Side, now: Time) {
        self.asked.heard[side as usize] = true;
        if self.asked.heard == [true; 2] {
            self.asked = Asked::default();
            self.last_seen = now;
        }
    }

    /// When it is to be asked, or given up, if nothing is heard.
    pub(super) fn idle_at(&self, timeout: Duration) -> Time {
        self.last_seen + timeout + EVERY.min(timeout) * u32::from(self.asked.times)
    }
}

impl Engine {
    /// Nothing was heard for long: those who have not answered are asked, or the flow is given up.
    pub(super) fn on_idle(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let asked = &mut self.flows.get_mut(id).asked;
        if asked.times >= TIMES {
            return self.cut(id, End::Idle, now, fx);
        }
        asked.times += 1;
        let heard = asked.heard;
        let c = self.flows.get(id);
        let [sent, received] = &c.directions;
        if !heard[Side::Client as usize] {
            let (options, n) = c.clock_for_client();
            let window = c.window_for_client(sent.allowed() as usize);
            let own =
                Own { seq: received.acked - 1, ack: sent.acked, flags: Flags::ACK, window, options: &options[..n] };
            self.send_to_client(id, &own, fx);
        }
        if !heard[Side::Server as usize] {
            let seq = self.flows.get(id).directions[Side::Client as usize].acked - 1;
            self.tell_server(id, seq, now, fx);
        }
    }
}
