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

use super::connection::{Cut, State, Told};
use super::record::End;
use super::send::Own;
use super::{Arrived, DropReason, Effects, Engine, Step};
use crate::flow::{FlowId, Side};
use crate::time::Time;
use crate::wire::packet::{Flags, tcp_checksum_ok};
use crate::wire::{Frame, Seq};
use core::time::Duration;

/// How long a flow that we have ended is kept.
const WAIT: Duration = Duration::from_millis(1500);
/// When its resets are sent again: with more than the half second between them in which Linux answers a reset by no second challenge
/// (`tcp_invalid_ratelimit`).
const AGAIN: [Duration; 3] = [Duration::from_millis(150), Duration::from_millis(600), Duration::from_millis(1150)];

impl Engine {
    /// Ends a living flow: resets to both sides, and again for as long as they may not have heard.
    pub(super) fn cut(&mut self, id: FlowId, end: End, now: Time, fx: &mut dyn Effects) {
        let told = self.told_by_reset(id);
        self.tell(id, end, fx);
        self.drop_held(id);
        let crowded = self.flows.len() > self.flows.capacity() / 4 * 3 && !self.stopping;
        self.flows.get_mut(id).state = State::Cut(Cut { told, times: 0, since: now, retry_at: now + AGAIN[0] });
        self.say_resets(id, now, fx);
        if crowded {
            // No room to keep it: the other number is said at once.
            self.on_cut_due(id, now + AGAIN[0], fx);
            return self.remove(id);
        }
        self.wheel.arm(id.0, now + AGAIN[0]);
    }

    /// Ends a flow whose client is gone or has been told: a reset to the backend, if there is one.
    pub(super) fn abandon(&mut self, id: FlowId, end: End, now: Time, fx: &mut dyn Effects) {
        if !self.flows.get(id).story.told
            && let Some(told) = self.told_by_reset(id)[Side::Server as usize]
        {
            self.say_reset(id, Side::Server, told.next, told.ack, now, fx);
            if told.acked != told.next {
                self.say_reset(id, Side::Server, told.acked, told.ack, now, fx);
            }
        }
        self.tell(id, end, fx);
        self.remove(id);
    }

    /// What a reset to each side must say, by the state of a flow. None for a side that is not there.
    fn told_by_reset(&self, id: FlowId) -> [Option<Told>; 2] {
        let c = self.flows.get(id);
        let [from_client, from_server] = &c.directions;
        let before = |upto| Some(Told { acked: c.cookie + 1, next: c.cookie + 1, ack: Some(upto) });
        match &c.state {
            State::AwaitHello(waiting) => [before(waiting.held.stream.next_seq()), None],
            State::Dialing(dialing) => {
                // It may have taken our SYN; what it expects is the number behind that.
                let first = c.isn - u32::from(dialing.header) + 1;
                [before(dialing.held.stream.next_seq()), Some(Told { acked: first, next: first, ack: None })]
            }
            State::Spliced(_) | State::Reset { .. } => {
                let acked = match &c.state {
                    State::Spliced(Some(ours)) => ours.una,
                    _ => from_client.heard(),
                };
                [
                    Some(Told {
                        acked: from_server.heard(),
                        next: from_server.furthest(),
                        ack: Some(from_client.next),
                    }),
                    Some(Told { acked, next: from_client.furthest(), ack: Some(from_server.next + -c.splice.seq) }),
                ]
            }
            State::Cut(_) | State::TimeWait { .. } => [None; 2],
        }
    }

    /// The resets of a flow that was cut: behind everything sent, and from the second time on at what was acknowledged, too.
    fn say_resets(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let State::Cut(Cut { told, times, .. }) = &self.flows.get(id).state else { return };
        let (told, again) = (*told, *times > 0);
        for side in [Side::Client, Side::Server] {
            let Some(told) = told[side as usize] else { continue };
            self.say_reset(id, side, told.next, told.ack, now, fx);
            if again && told.acked != told.next {
                self.say_reset(id, side, told.acked, told.ack, now, fx);
            }
        }
    }

    fn say_reset(&mut self, id: FlowId, to: Side, seq: Seq, ack: Option<Seq>, now: Time, fx: &mut dyn Effects) {
        let flags = if ack.is_some() { Flags::RST.with(Flags::ACK) } else { Flags::RST };
        let own = Own { seq, ack: ack.unwrap_or_default(), flags, window: 0, options: &[] };
        match to {
            Side::Client => self.send_to_client(id, &own, fx),
            Side::Server => self.send_to_server(id, &own, now, fx),
        };
    }

    /// A flow that was cut is looked at again: once more the resets, or it is forgotten.
    pub(super) fn on_cut_due(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let State::Cut(cut) = &mut self.flows.get_mut(id).state else { return };
        if now >= cut.since + WAIT {
            return self.remove(id);
        }
        if now < cut.retry_at {
            return;
        }
        cut.times += 1;
        cut.retry_at = cut.since + AGAIN.get(usize::from(cut.times)).copied().unwrap_or(WAIT);
        self.say_resets(id, now, fx);
    }

    /// A segment of a flow that we have cut: its sender has not heard of that.
    #[cold]
    pub(super) fn on_cut(
        &mut self,
        id: FlowId,
        side: Side,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        if side == Side::Client
            && !self.stopping
            && let Some(step) = self.on_reuse(id, seg, frame, fx)
        {
            return step;
        }
        let flags = seg.tcp.flags;
        if !tcp_checksum_ok(frame.bytes(), &seg.ip) {
            return Err(DropReason::BadChecksum);
        }
        let c = self.flows.get_mut(id);
        let (seq, _) = c.splice.client_view(side, &seg.tcp);
        let plausible = c.directions[side as usize].plausible(seq, seg.tcp.payload_len() as u32);
        let State::Cut(cut) = &mut c.state else { return Err(DropReason::FlowClosed) };
        let told = &mut cut.told[side as usize];
        if flags.contains(Flags::RST) {
            if plausible {
                // It is gone already.
                *told = None;
            }
            return Err(DropReason::FlowClosed);
        }
        if !flags.contains(Flags::ACK) {
            return Err(DropReason::FlowClosed);
        }
        if plausible && let Some(told) = told {
            told.acked = seg.tcp.ack;
        }
        self.count_refusal(DropReason::FlowClosed);
        let own = Own { seq: seg.tcp.ack, ack: Seq(0), flags: Flags::RST, window: 0, options: &[] };
        self.answer(seg, &own, frame, fx)
    }

    /// Ends every flow with resets to both sides and a record (`End::Shutdown`), and opens none any more. At most `budget` flows a call;
    /// true when all have been ended. They are kept for a moment ([`Engine::flows`]), in which [`Engine::handle`] and
    /// [`Engine::poll`] answer those who have not heard.
    pub fn shutdown(&mut self, budget: usize, now: Time, fx: &mut dyn Effects) -> bool {
        self.stopping = true;
        for _ in 0..budget {
            let Some(id) = self.flows.next_id(self.closing) else { return true };
            self.closing = FlowId(id.0 + 1);
            match self.flows.get(id).state {
                // Both its sides are done.
                State::TimeWait { .. } => self.remove(id),
                State::Cut(_) => {}
                _ => self.cut(id, End::Shutdown, now, fx),
            }
        }
        false
    }
}
