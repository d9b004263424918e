//! Frames of our own making.

use super::connection::Connection;
use super::neighbours::NextHop;
use super::{Arrived, DropReason, Effects, Engine, PortId, Step, Verdict};
use crate::flow::{Endpoints, FlowId, Side};
use crate::time::Time;
use crate::wire::build::{Link, Segment};
use crate::wire::options::{Timestamps, write_timestamps};
use crate::wire::packet::{Flags, tcp_checksum_ok};
use crate::wire::{Frame, Seq};

/// What differs between the segments we send on a flow.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// Sequence number, as the receiver counts.
    pub seq: Seq,
    /// Acknowledgement, likewise.
    pub ack: Seq,
    /// Flags.
    pub flags: Flags,
    /// Window field.
    pub window: u16,
    /// Options.
    pub options: &'a [u8],
}

impl<'a> Own<'a> {
    /// As a segment without payload.
    fn segment(&self, link: Link, ends: &Endpoints) -> Segment<'a> {
        Segment {
            link,
            src: ends.src,
            dst: ends.dst,
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            options: self.options,
            payload: &[],
        }
    }
}

impl Engine {
    /// Writes a segment and hands it out.
    pub(super) fn emit(&mut self, port: PortId, segment: &Segment<'_>, fx: &mut dyn Effects) -> bool {
        let n = segment.frame_len();
        if n > self.scratch.len() {
            // Only a payload cut too large could get here; nothing is ever cut larger than the MTU.
            self.count(DropReason::TxFull);
            return false;
        }
        segment.write(&mut self.scratch);
        self.hand_out(port, n, fx)
    }

    /// Hands out what stands in the scratch buffer.
    pub(super) fn hand_out(&mut self, port: PortId, n: usize, fx: &mut dyn Effects) -> bool {
        self.counters.made += 1;
        let sent = fx.transmit(port, &self.scratch[..n]);
        if sent {
            self.counters.frames_out += 1;
        } else {
            self.count(DropReason::TxFull);
        }
        sent
    }

    /// A segment of ours to the client, without payload.
    pub(super) fn send_to_client(&mut self, id: FlowId, own: &Own<'_>, fx: &mut dyn Effects) -> bool {
        let c = self.flows.get(id);
        let (port, link) = (c.client_port, c.client_link);
        let Some(t) = self.flows.tuple(id, Side::Client).copied() else { return false };
        let segment = own.segment(link, &Endpoints::answering(&t));
        self.emit(port, &segment, fx)
    }

    /// A segment of ours to the backend, without payload. When the next hop is not known it is not sent, and counted.
    pub(super) fn send_to_server(&mut self, id: FlowId, own: &Own<'_>, now: Time, fx: &mut dyn Effects) -> bool {
        let Some(t) = self.flows.tuple(id, Side::Server).copied() else { return false };
        let hop = self.flows.get(id).hop;
        let Some((port, link)) = self.link_to(hop, now) else { return false };
        let segment = own.segment(link, &Endpoints::answering(&t));
        self.emit(port, &segment, fx)
    }

    /// The way to a next hop; when it is not known yet, it is asked for and the frame at hand is lost.
    pub(super) fn link_to(&mut self, hop: NextHop, now: Time) -> Option<(PortId, Link)> {
        match self.neighbours.link(hop) {
            (port, Some(link)) => Some((port, link)),
            (_, None) => {
                self.neighbours.want(hop, now);
                self.count(DropReason::NoNeighbour);
                None
            }
        }
    }

    /// Turns the frame at hand into an answer to its sender, in its own buffer if that has room.
    pub(super) fn answer(&mut self, seg: &Arrived, own: &Own<'_>, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        let mac = self.routes.ports[usize::from(seg.port.0)].mac;
        let link = Link { dst: seg.eth.src, src: mac, vlans: seg.eth.vlans };
        let segment = own.segment(link, &Endpoints::answering(&seg.tuple()));
        if frame.set_len(segment.frame_len()) {
            segment.write(frame.bytes_mut());
            return Ok(Verdict::Reply(seg.port));
        }
        self.emit(seg.port, &segment, fx);
        Ok(Verdict::Hold)
    }

    /// The reset that a host would send to a segment of a connection it does not know (RFC 9293 section 3.10.7.1), at a
    /// bounded rate; the reason the segment is dropped for is `why` when the rate is exhausted or it was a reset itself.
    pub(super) fn refuse(
        &mut self,
        seg: &Arrived,
        why: DropReason,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        if seg.tcp.flags.contains(Flags::RST) {
            return Err(why);
        }
        // A damaged frame belongs to no flow because of the damage, perhaps, and what it says a reset would hit.
        if !tcp_checksum_ok(frame.bytes(), &seg.ip) {
            return Err(DropReason::BadChecksum);
        }
        self.count_refusal(why);
        // What the answer depends on.
        let (kind, number) =
            if seg.tcp.flags.contains(Flags::ACK) { (0, seg.tcp.ack) } else { (1 << 32, seg.tcp.seq_end()) };
        let about = self.tuple_hash(&seg.tuple()) ^ kind ^ u64::from(number.0);
        if !self.resets.allow(about, seg.now) {
            return Err(DropReason::RateLimited);
        }
        self.answer_by_reset(seg, frame, fx)
    }

    /// The same, whatever was said before, to a segment that is intact and no reset.
    pub(super) fn answer_by_reset(&mut self, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        let own = if seg.tcp.flags.contains(Flags::ACK) {
            Own { seq: seg.tcp.ack, ack: Seq(0), flags: Flags::RST, window: 0, options: &[] }
        } else {
            Own { seq: Seq(0), ack: seg.tcp.seq_end(), flags: Flags::RST.with(Flags::ACK), window: 0, options: &[] }
        };
        self.answer(seg, &own, frame, fx)
    }

    /// Segments answered by a reset are neither forwarded nor dropped; why they were refused is counted beside.
    pub(super) fn count_refusal(&mut self, why: DropReason) {
        self.counters.refused[why as usize] += 1;
    }
}

impl Connection {
    /// The timestamps option of a segment of ours to the client, if the client uses them.
    pub(super) fn clock_for_client(&self) -> ([u8; 12], usize) {
        let stamp = Timestamps { val: self.our_clock, ecr: self.client_clock };
        (write_timestamps(stamp), if self.agreed.timestamps { 12 } else { 0 })
    }

    /// A window in bytes, as the field of a segment to the client must say it.
    pub(super) fn window_for_client(&self, bytes: usize) -> u16 {
        let shift = if self.agreed.wscale.is_some() { super::health::OUR_WSCALE } else { 0 };
        u16::try_from(bytes >> shift).unwrap_or(u16::MAX)
    }
}
