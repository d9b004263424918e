//! Frames that leave: written, translated, handed out. The lowest floor of the engine: nothing here changes where a connection stands.

use super::sealed::Source;
use super::wrapped::{wrap_frame, wrap_made};
use super::{Effects, Engine, Step, Verdict};
use crate::config::PortId;
use crate::counters::DropReason;
use crate::flow::{Endpoints, FlowId, Side};
use crate::path::NextHop;
use crate::path::split::{self, Pieces};
use crate::path::tunnel::Wrap;
use crate::tcp::action::Passing;
use crate::tcp::{Arrived, ControlSegment};
use crate::time::Time;
use crate::wire::build::{Link, Segment};
use crate::wire::packet::{Flags, Packet, Tcp, ethertype};
use crate::wire::{Family, Frame};

impl Engine {
    /// Writes a segment and hands it out.
    pub(super) fn emit(&mut self, port: PortId, segment: &Segment<'_>, fx: &mut dyn Effects) -> bool {
        match self.write_made(segment) {
            Some(n) => self.hand_out(port, n, fx),
            None => false,
        }
    }

    /// The same for one that goes to a backend, by this next hop.
    pub(super) fn emit_by(
        &mut self,
        hop: NextHop,
        way: (PortId, &Link),
        segment: &Segment<'_>,
        fx: &mut dyn Effects,
    ) -> bool {
        match self.write_made(segment) {
            Some(n) => self.hand_out_by(hop, way, n, fx),
            None => false,
        }
    }

    fn write_made(&mut self, segment: &Segment<'_>) -> Option<usize> {
        let n = segment.frame_len();
        if n > self.scratch.len() {
            // Only a payload cut too large could get here; nothing is ever cut larger than the MTU.
            self.count(DropReason::TxFull);
            return None;
        }
        segment.write(&mut self.scratch);
        Some(n)
    }

    /// Hands out what stands in the scratch buffer.
    pub(super) fn hand_out(&mut self, port: PortId, n: usize, fx: &mut dyn Effects) -> bool {
        let sent = fx.transmit(port, &self.scratch[..n]);
        self.note_made(sent);
        sent
    }

    /// A segment of ours to one side of a flow. When that has no address, or its next hop's is not known, it is not sent, and the latter is
    /// counted.
    pub(super) fn send(
        &mut self,
        id: FlowId,
        to: Side,
        control: &ControlSegment,
        now: Time,
        fx: &mut dyn Effects,
    ) -> bool {
        self.send_words(id, to, control, &[], now, fx)
    }

    /// The same with a payload.
    pub(super) fn send_words(
        &mut self,
        id: FlowId,
        to: Side,
        control: &ControlSegment,
        payload: &[u8],
        now: Time,
        fx: &mut dyn Effects,
    ) -> bool {
        let Some(key) = self.flows.key(id, to) else { return false };
        let ends = Endpoints::answering(&key);
        match to {
            Side::Client => {
                let client = self.flows.hot(id).client;
                let link = client.link(self.mac(client.port()));
                self.emit(client.port(), &Segment { payload, ..control.segment(link, &ends) }, fx)
            }
            Side::Server => {
                let (hot, c) = self.flows.both(id);
                let Some(hop) = c.hop(hot) else { return false };
                let Some((port, link)) = self.link_to(hop, now) else { return false };
                self.emit_by(hop, (port, &link), &Segment { payload, ..control.segment(link, &ends) }, fx)
            }
        }
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

    /// Translates the frame and says where it goes.
    #[inline]
    pub(super) fn pass_on(
        &mut self,
        id: FlowId,
        side: Side,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        passing: Passing,
        fx: &mut dyn Effects,
    ) -> Step {
        let Some(other) = self.flows.key(id, side.other()) else { return Err(DropReason::NoFlow) };
        let hot = self.flows.hot_mut(id);
        let client = hot.client;
        let Some(through) = &mut hot.through else { return Err(DropReason::NoFlow) };
        let (port, link, wrap) = match side {
            Side::Client => {
                let (port, link) = self.neighbours.link(through.hop);
                (
                    port,
                    link.ok_or(DropReason::NoNeighbour)?,
                    Some(through.hop).filter(|hop| self.neighbours.wraps(*hop)),
                )
            }
            Side::Server => {
                let port = client.port();
                (port, client.link(self.routes.ports[usize::from(port.0)].mac), None)
            }
        };
        // What follows the IP packet is padding.
        let cut = frame.set_len(seg.ip.end);
        debug_assert!(cut, "shorter is always possible");
        let to = Endpoints::answering(&other);
        let clock = through.splice.translate(side, frame.bytes_mut(), &seg.ip, &seg.tcp, &to, passing.floor);
        let limit = usize::from(through.path[side as usize]);
        if let Some(clock) = clock
            && passing.noted
        {
            hot.shows_clock(side, clock);
        }
        relink(frame, seg.eth.payload, seg.ip.family, &link)?;
        if let Some(wrap) = wrap.and_then(|hop| self.neighbours.wrap(hop).copied()) {
            return self.pass_wrapped((port, &link, &wrap), limit, frame, fx);
        }
        if seg.ip.end - seg.ip.header > limit {
            let headers = seg.tcp.payload - seg.ip.header;
            // What is cut by its sender anyway is cut smaller.
            if !frame.cut_at_most(limit.saturating_sub(headers).max(1) as u16) {
                self.send_pieces(port, limit, frame, fx)?;
            }
        }
        self.counters.forwarded += 1;
        Ok(Verdict::Forward(port))
    }

    /// Cuts a translated frame for a narrow path: what stands in it afterwards is the last piece.
    #[cold]
    fn send_pieces(
        &mut self,
        port: PortId,
        limit: usize,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Result<(), DropReason> {
        let Some(mut pieces) = Pieces::of(frame, limit)? else { return Ok(()) };
        while let Some(piece) = pieces.next(frame) {
            let sent = fx.transmit(port, piece);
            self.note_made(sent);
        }
        pieces.finish(frame);
        Ok(())
    }

    /// Turns the frame at hand into an answer to its sender, in its own buffer if that has room.
    pub(super) fn answer(
        &mut self,
        seg: &Arrived,
        control: &ControlSegment,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        if seg.wrapped {
            return self.answer_wrapped(seg, control, fx);
        }
        let link = Link { dst: seg.eth.src, src: self.mac(seg.port), vlans: seg.eth.vlans };
        let segment = control.segment(link, &Endpoints::answering(&seg.key()));
        if frame.set_len(segment.frame_len()) {
            segment.write(frame.bytes_mut());
            frame.is_whole_now();
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
        if !frame.tcp_is_intact(&seg.ip) {
            return Err(DropReason::BadChecksum);
        }
        self.count_refusal(why);
        // What the answer depends on.
        let (kind, number) =
            if seg.tcp.flags.contains(Flags::ACK) { (0, seg.tcp.ack) } else { (1 << 32, seg.tcp.seq_end()) };
        let about = self.keyed.hash(&seg.key().to_bytes()) ^ kind ^ u64::from(number.0);
        if !self.resets.allow(about, seg.now) {
            return Err(DropReason::RateLimited);
        }
        self.answer_by_reset(seg, frame, fx)
    }

    /// The same, whatever was said before, to a segment that is intact and no reset.
    pub(super) fn answer_by_reset(&mut self, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        let control = if seg.tcp.flags.contains(Flags::ACK) {
            ControlSegment::reset(seg.tcp.ack, None)
        } else {
            ControlSegment::reset(Default::default(), Some(seg.tcp.seq_end()))
        };
        self.answer(seg, &control, frame, fx)
    }

    /// Hands out the `n` bytes that stand in the scratch buffer, behind a link header of `link` bytes, to a next hop.
    pub(super) fn hand_out_by(
        &mut self,
        hop: NextHop,
        (port, link): (PortId, &Link),
        n: usize,
        fx: &mut dyn Effects,
    ) -> bool {
        let n = match self.neighbours.wrap(hop).copied() {
            None => n,
            Some(wrap) if wrap.seals().is_some() => {
                return self.seal_and_hand_out((port, link, &wrap), Source::Scratch(n), fx);
            }
            Some(wrap) => match wrap_made(&wrap, link, &mut self.scratch, n) {
                Some(n) => n,
                None => {
                    self.count(DropReason::TxFull);
                    return false;
                }
            },
        };
        self.hand_out(port, n, fx)
    }

    /// Wraps a translated frame, whose link layer is `link`, and says where it goes. What is too long, or is left to be cut by its sender, is cut here.
    #[cold]
    pub(super) fn pass_wrapped(
        &mut self,
        (port, link, wrap): (PortId, &Link, &Wrap),
        limit: usize,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        let mtu = usize::from(self.routes.ports[usize::from(port.0)].mtu);
        let limit = limit.min(wrap.room(mtu));
        let Packet { ip, .. } = Packet::parse(frame.bytes())?;
        let tcp = Tcp::parse(frame.bytes(), &ip)?;
        let fits = limit.saturating_sub(tcp.payload - ip.header);
        let room = match usize::from(frame.offload().segment()) {
            0 => fits,
            segment => segment.min(fits),
        };
        match Pieces::of_payload(frame, room)? {
            Some(mut pieces) => {
                while let Some(piece) = pieces.next(frame) {
                    let n = piece.len();
                    if wrap.seals().is_some() {
                        self.seal_and_hand_out((port, link, wrap), Source::Frame(piece), fx);
                        continue;
                    }
                    let wrapped = match self.scratch.get_mut(..n) {
                        Some(room) => {
                            room.copy_from_slice(piece);
                            wrap_made(wrap, link, &mut self.scratch, n)
                        }
                        None => None,
                    };
                    match wrapped {
                        Some(n) => _ = self.hand_out(port, n, fx),
                        None => self.count(DropReason::TxFull),
                    }
                }
                pieces.finish(frame);
            }
            None => split::complete(frame, &ip),
        }
        if wrap.seals().is_some() {
            return self.pass_sealed((port, link, wrap), frame, fx);
        }
        wrap_frame(wrap, link, frame)?;
        self.counters.forwarded += 1;
        Ok(Verdict::Forward(port))
    }

    /// Answers a segment that came out of a tunnel, the same way back.
    #[cold]
    pub(super) fn answer_wrapped(&mut self, seg: &Arrived, control: &ControlSegment, fx: &mut dyn Effects) -> Step {
        let hop = self.routes.hop_to(seg.ip.src, seg.tcp.src_port).ok_or(DropReason::NoFlow)?;
        let (port, link) = self.link_to(hop, seg.now).ok_or(DropReason::NoNeighbour)?;
        let ends = Endpoints::answering(&seg.key());
        self.emit_by(hop, (port, &link), &control.segment(link, &ends), fx);
        Ok(Verdict::Hold)
    }

    /// The Ethernet address of a port.
    #[inline]
    pub(super) fn mac(&self, port: PortId) -> crate::wire::Mac {
        self.routes.ports[usize::from(port.0)].mac
    }
}

/// Puts another link layer in front of the IP packet that begins at `ip`.
#[inline]
pub(super) fn relink(frame: &mut Frame<'_>, ip: usize, family: Family, link: &Link) -> Result<(), DropReason> {
    let len = link.len();
    if len > ip {
        if !frame.push_front(len - ip) {
            return Err(DropReason::NoHeadroom);
        }
    } else {
        frame.pull_front(ip - len);
    }
    let kind = match family {
        Family::V4 => ethertype::IPV4,
        Family::V6 => ethertype::IPV6,
    };
    link.write(frame.bytes_mut(), kind);
    Ok(())
}
