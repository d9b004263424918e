//! What is ours to deliver, and how it is delivered: the PROXY header, and hello bytes that we have acknowledged to the
//! client. The client will not repeat them, so we do, until the backend has acknowledged them.
//!
//! When the splice begins everything held is sent at once, ours or not: what is not ours is only a copy that saves the
//! client a retransmission.

use super::connection::{Connection, State};
use super::{Arrived, Effects, End, Engine};
use crate::flow::{Clock, FlowId, Side};
use crate::time::Time;
use crate::wire::build::Segment;
use crate::wire::options::{Timestamps, write_timestamps};
use crate::wire::packet::{Flags, set_urgent_pointer};
use crate::wire::{Addr, Seq};
use core::time::Duration;

/// First retransmission; doubled each time, up to two seconds.
const RETRY: Duration = Duration::from_millis(250);
/// A backend that has acknowledged nothing after so many is lost, and the connection with it.
const TRIES: u8 = 10;

impl Engine {
    /// The splice begins: completes the handshake with the backend and sends all that is held. `segment` is the largest
    /// payload with options that the backend takes, `window` what it allows.
    pub(super) fn release(&mut self, id: FlowId, segment: usize, window: usize, seg: &Arrived, fx: &mut dyn Effects) {
        let now = seg.now;
        let State::Spliced(Some(ours)) = &mut self.flows.get_mut(id).state else { return };
        ours.segment = segment as u16;
        let upto = ours.stream.next_seq();
        let sent = self.send_held(id, upto, window, now, fx);
        if !sent {
            // Nothing to carry the acknowledgement, which completes the handshake.
            self.acknowledge_server(id, now, fx);
        }
        let State::Spliced(slot) = &mut self.flows.get_mut(id).state else { return };
        let Some(ours) = slot else { return };
        if ours.header == 0 && ours.end == ours.stream.base() {
            ours.stream.release(&mut self.buffers);
            *slot = None;
        } else {
            ours.retry_at = now + RETRY;
            let at = ours.retry_at;
            self.wheel.arm(id.0, at);
        }
    }

    /// Sends what is held from the first byte that the backend lacks up to `upto`, in segments, as far as `window` allows. True
    /// when anything was sent.
    fn send_held(&mut self, id: FlowId, upto: Seq, window: usize, now: Time, fx: &mut dyn Effects) -> bool {
        let hop = self.flows.get(id).hop;
        let Some((port, link)) = self.link_to(hop, now) else { return true };
        let mtu = usize::from(self.routes.ports[usize::from(port.0)].mtu);
        let Some(t) = self.flows.tuple(id, Side::Server).copied() else { return false };
        let mut done = 0;
        loop {
            let Engine { flows, buffers, scratch, .. } = self;
            let c = flows.get_mut(id);
            let State::Spliced(Some(ours)) = &c.state else { return done > 0 };
            let all = ours.stream.with_header(buffers, usize::from(ours.header));
            let first = ours.stream.base() - u32::from(ours.header);
            let skip = first.distance_to(ours.una).max(0) as usize + done;
            let total = first.distance_to(upto).max(0) as usize;
            let total = total.min(all.len()).min(skip - done + window);
            let fin = ours.stream.at_fin() && upto == ours.stream.next_seq();
            if skip >= total {
                // A FIN alone needs no byte in front of it.
                if !(fin && done == 0 && all.is_empty()) {
                    return done > 0;
                }
            }
            let (options, n) = clock_for_server(c);
            let headers = if t.is_v4() { 40 } else { 60 };
            let most = usize::from(ours.segment).min(mtu - headers).saturating_sub(n).max(1);
            let payload = &all[skip.min(total)..total.min(skip + most)];
            let last = skip + payload.len() >= all.len();
            let mut flags = Flags::ACK;
            if last || skip + payload.len() >= total {
                flags = flags.with(Flags::PSH);
            }
            if last && fin {
                flags = flags.with(Flags::FIN);
            }
            let segment = Segment {
                link,
                src: (Addr(t.dst), t.dport),
                dst: (Addr(t.src), t.sport),
                seq: first + skip as u32,
                ack: server_expects(c),
                flags,
                window: window_for_server(c),
                options: &options[..n],
                payload,
            };
            done += payload.len();
            let more = !payload.is_empty();
            let len = segment.write(scratch);
            if let Some(urgent) = ours.urgent
                && urgent.is_after(segment.seq)
            {
                let tcp = link.len() + if t.is_v4() { 20 } else { 40 };
                let pointer = u16::try_from(segment.seq.distance_to(urgent)).unwrap_or(u16::MAX);
                set_urgent_pointer(scratch, tcp, pointer);
            }
            // The backend's acknowledgements are measured against what was sent.
            let (seq, n) = (segment.seq, payload.len() as u32);
            c.directions[Side::Client as usize].sent(seq, n, last && fin);
            self.hand_out(port, len, fx);
            if !more {
                return true;
            }
        }
    }

    /// An acknowledgement of ours to the backend: of its SYN, as a rule.
    pub(super) fn acknowledge_server(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let c = self.flows.get(id);
        let seq = match &c.state {
            State::Spliced(Some(ours)) => ours.una,
            _ => c.directions[Side::Client as usize].acked,
        };
        self.tell_server(id, seq, now, fx);
    }

    /// An acknowledgement of ours to the backend, from `seq`.
    pub(super) fn tell_server(&mut self, id: FlowId, seq: Seq, now: Time, fx: &mut dyn Effects) {
        let c = self.flows.get(id);
        let (options, n) = clock_for_server(c);
        let own = super::send::Own {
            seq,
            ack: server_expects(c),
            flags: Flags::ACK,
            window: window_for_server(c),
            options: &options[..n],
        };
        self.send_to_server(id, &own, now, fx);
    }

    /// The backend acknowledged up to `ack`, in the client's numbers. Returns the number below which the client must hear no
    /// acknowledgement, because it was acknowledged more already.
    pub(super) fn ours_acknowledged(&mut self, id: FlowId, ack: Seq) -> Option<Seq> {
        let c = self.flows.get_mut(id);
        let sent = c.directions[Side::Client as usize].next;
        let State::Spliced(slot) = &mut c.state else { return None };
        let ours = slot.as_mut()?;
        if ack.is_after(ours.una) && !ack.is_after(sent) {
            ours.una = ack;
            ours.tries = 0;
        }
        if ours.una.is_before(ours.end) {
            return Some(ours.end);
        }
        ours.stream.release(&mut self.buffers);
        *slot = None;
        None
    }

    /// What is ours was not acknowledged in time: again, or the backend is lost.
    pub(super) fn on_ours_due(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let c = self.flows.get_mut(id);
        let allowed = c.directions[Side::Client as usize].allowed().max(1) as usize;
        let State::Spliced(Some(ours)) = &mut c.state else { return };
        if ours.tries >= TRIES {
            return self.cut(id, End::BackendLost, now, fx);
        }
        ours.tries += 1;
        ours.retry_at = now + RETRY * (1 << ours.tries.min(3));
        let (end, at) = (ours.end, ours.retry_at);
        self.counters.retransmits += 1;
        self.send_held(id, end, allowed, now, fx);
        self.wheel.arm(id.0, at);
    }
}

/// What the backend has not been acknowledged yet, in its own numbers.
fn server_expects(c: &Connection) -> Seq {
    c.directions[Side::Server as usize].acked + -c.splice.seq
}

fn window_for_server(c: &Connection) -> u16 {
    let shift = c.agreed.wscale.unwrap_or(0);
    c.splice.to_server.apply(u16::try_from(c.client_window >> shift).unwrap_or(u16::MAX))
}

/// The timestamps option of a segment of ours to the backend: the client's clock, and the echo of the backend's SYN-ACK.
fn clock_for_server(c: &Connection) -> ([u8; 12], usize) {
    match c.splice.clock {
        Clock::Shift(d) => (write_timestamps(Timestamps { val: c.client_clock, ecr: c.our_clock.wrapping_sub(d) }), 12),
        Clock::Unused | Clock::Erase => ([0; 12], 0),
    }
}
