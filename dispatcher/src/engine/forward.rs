//! Known flows: the hot path.
//!
//! For nearly every frame the whole story is: look the tuple up (done by the caller), note what the segment says about its
//! direction, put in the other side's addresses, ports and numbers, put another link layer in front, send. No allocation, no
//! lock, no log; the rest of this file is what happens to the few others: segments that change a flow's state, and those
//! of flows that are over.

use super::connection::{Connection, State};
use super::late::Late;
use super::record::End;
use super::send::Own;
use super::{Arrived, DropReason, Effects, Engine, Step, Verdict};
use crate::flow::{Endpoints, FlowId, Side};
use crate::time::Time;
use crate::wire::build::Link;
use crate::wire::packet::{Flags, Tcp, tcp_checksum_ok};
use crate::wire::{Family, Frame, Mac, Seq};
use core::time::Duration;
use lb::Sighting;

/// How long a flow that was closed in order is kept: as long as a lost last acknowledgement may be repeated.
const TIME_WAIT: Duration = Duration::from_secs(15);
/// The same when the table is nearly full.
const TIME_WAIT_SHORT: Duration = Duration::from_secs(1);
/// How long a flow is kept after a reset.
const RESET_WAIT: Duration = Duration::from_secs(2);

/// How a segment is passed on.
#[derive(Clone, Copy, Default)]
struct Passing {
    /// What it acknowledges is raised to this: see [`Splice::translate`](crate::flow::Splice::translate).
    floor: Option<Seq>,
    /// It could be meant seriously, and what it says was noted.
    noted: bool,
}

impl Engine {
    /// A segment of a spliced flow.
    #[inline]
    pub(super) fn forward(
        &mut self,
        id: FlowId,
        side: Side,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        let tcp = &seg.tcp;
        if tcp.flags.intersects(Flags::SYN.with(Flags::RST)) {
            return self.forward_rare(id, side, seg, frame, fx);
        }
        let says = tcp.payload_len() > 0 || tcp.flags.contains(Flags::URG);
        if side == Side::Client && says {
            let c = self.flows.get(id);
            if c.watch.is_some() {
                self.watch_client(id, seg, frame);
            } else if c.late != Late::No {
                self.read_late(id, seg, frame);
            }
        }
        let c = self.flows.get_mut(id);
        if side == Side::Server
            && matches!(c.state, State::Spliced(Some(_)))
            && !tcp_checksum_ok(frame.bytes(), &seg.ip)
        {
            // A damaged acknowledgement must not make us forget bytes that nobody else has.
            return Err(DropReason::BadChecksum);
        }
        let (seq, ack) = c.splice.client_view(side, tcp);
        let len = tcp.payload_len() as u32;
        // A FIN changes what is kept for the rest of the flow's life, and so does what comes behind one: damaged frames are left
        // to their receiver. Once or twice a flow and direction, that costs nothing.
        let fin = tcp.flags.contains(Flags::FIN);
        if c.directions[side as usize].is_in_doubt() && tcp_checksum_ok(frame.bytes(), &seg.ip) {
            regain(c, side, tcp, seq, ack);
        }
        let direction = &c.directions[side as usize];
        let closing = fin || (len > 0 && direction.fin.is_some());
        let mut passing = Passing::default();
        let plausible = direction.plausible(seq, len);
        if !plausible
            && side == Side::Client
            && c.renewed.is_some()
            && let Some(step) = self.on_reuse(id, seg, frame, fx)
        {
            return step;
        }
        let c = self.flows.get_mut(id);
        if plausible && (!closing || tcp_checksum_ok(frame.bytes(), &seg.ip)) {
            if side == Side::Client && !c.comes_from_where_it_did(seg) {
                follow(c, seg, (seq, ack), self.routes.ports[usize::from(seg.port.0)].mac, frame);
            }
            c.note(side, tcp, seq, ack);
            c.heard(side, seg.now);
            passing.noted = true;
            if side == Side::Server {
                if matches!(c.state, State::Spliced(Some(_))) {
                    passing.floor = self.ours_acknowledged(id, ack);
                    if passing.floor.is_some() && len == 0 && !fin {
                        // Acknowledges only what the client was told already.
                        return Ok(Verdict::Hold);
                    }
                }
                let c = self.flows.get(id);
                if len > 0 && c.watch.is_some() {
                    self.watch(id, seq, &frame.bytes()[tcp.payload..tcp.end], seg.now);
                } else if len > 0 && c.late != Late::No {
                    self.late_over(id);
                }
            }
            let c = self.flows.get(id);
            if c.directions[0].finished() && c.directions[1].finished() {
                self.finish(id, End::Fin, seg.now, fx);
            }
        }
        if !plausible {
            self.flows.get_mut(id).directions[side as usize].overshot(seq, len);
        }
        self.pass_on(id, side, seg, frame, passing, fx)
    }

    /// Translates the frame and says where it goes.
    #[inline]
    fn pass_on(
        &mut self,
        id: FlowId,
        side: Side,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        passing: Passing,
        fx: &mut dyn Effects,
    ) -> Step {
        let (c, client, server) = self.flows.get_with_tuples(id);
        let Some(server) = server else { return Err(DropReason::NoFlow) };
        let (port, link, to) = match side {
            Side::Client => {
                let (port, link) = self.neighbours.link(c.hop);
                (port, link.ok_or(DropReason::NoNeighbour)?, Endpoints::answering(server))
            }
            Side::Server => (c.client_port, c.client_link, Endpoints::answering(client)),
        };
        // What follows the IP packet is padding.
        let cut = frame.set_len(seg.ip.end);
        debug_assert!(cut, "shorter is always possible");
        let clock = c.splice.translate(side, frame.bytes_mut(), &seg.ip, &seg.tcp, &to, passing.floor);
        if let Some(clock) = clock
            && passing.noted
        {
            c.shows_clock(side, clock);
        }
        let limit = usize::from(c.path[side as usize]);
        relink(frame, seg.eth.payload, seg.ip.family, &link)?;
        if seg.ip.end - seg.ip.header > limit {
            self.split(port, limit, frame, fx)?;
        }
        self.counters.forwarded += 1;
        Ok(Verdict::Forward(port))
    }

    /// SYN or RST on a spliced flow.
    #[cold]
    fn forward_rare(
        &mut self,
        id: FlowId,
        side: Side,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        let c = self.flows.get(id);
        let (seq, _) = c.splice.client_view(side, &seg.tcp);
        if seg.tcp.flags.contains(Flags::RST) {
            if !tcp_checksum_ok(frame.bytes(), &seg.ip) {
                return Err(DropReason::BadChecksum);
            }
            let direction = &c.directions[side as usize];
            if !direction.plausible(seq, 0) || seq.is_before(direction.acked) {
                return Err(DropReason::OutOfWindow);
            }
            let certain = direction.acked == direction.next;
            // While bytes of the client are ours to deliver its reset waits for them: if it was true, the client's host says it
            // again to the acknowledgement.
            let owing = side == Side::Client && matches!(c.state, State::Spliced(Some(_)));
            if direction.reset_counts(seq) && (certain || !owing) {
                self.on_reset(id, side, certain, seg.now, fx);
            }
            // In the window but not at its edge: the receiver will ask, and the true sender answer.
            return self.pass_on(id, side, seg, frame, Passing::default(), fx);
        }
        match side {
            // Our acknowledgement was lost, and the backend says its SYN-ACK again.
            Side::Server if seq == c.cookie => {
                self.acknowledge_server(id, seg.now, fx);
                Ok(Verdict::Hold)
            }
            Side::Server => Err(DropReason::OutOfWindow),
            Side::Client => self.challenge(id, seg, frame, fx),
        }
    }

    /// A SYN on a living flow: ask the client whether it means it (RFC 5961 section 4.2). One that does answers with a
    /// reset that fits. As many as ask: it costs what the SYN-ACK to any other SYN does, and a common limit would tell an
    /// observer, by what is left of it for him, whether a flow exists (CVE-2016-5696).
    fn challenge(&mut self, id: FlowId, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        let c = self.flows.get(id);
        let (options, n) = c.clock_for_client();
        let own = Own {
            seq: c.directions[Side::Server as usize].acked,
            ack: c.directions[Side::Client as usize].acked,
            flags: Flags::ACK,
            window: c.window_for_client(c.directions[Side::Client as usize].allowed() as usize),
            options: &options[..n],
        };
        self.answer(seg, &own, frame, fx)
    }

    fn on_reset(&mut self, id: FlowId, by: Side, certain: bool, now: Time, fx: &mut dyn Effects) {
        let end = if by == Side::Client { End::ClientReset } else { End::BackendReset };
        if certain {
            self.tell(id, end, fx);
        }
        self.drop_held(id);
        let until = now + RESET_WAIT;
        self.flows.get_mut(id).state = State::Reset { by, until };
        self.wheel.arm(id.0, until);
    }

    /// Both sides are done: the flow is told, and kept for a while.
    fn finish(&mut self, id: FlowId, end: End, now: Time, fx: &mut dyn Effects) {
        self.tell(id, end, fx);
        self.drop_held(id);
        let crowded = self.flows.len() > self.flows.capacity() / 4 * 3;
        let until = now + if crowded { TIME_WAIT_SHORT } else { TIME_WAIT };
        self.flows.get_mut(id).state = State::TimeWait { until };
        self.wheel.arm(id.0, until);
    }

    /// A segment of a flow that is over.
    #[cold]
    pub(super) fn on_closed(
        &mut self,
        id: FlowId,
        side: Side,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        if side == Side::Client
            && let Some(step) = self.on_reuse(id, seg, frame, fx)
        {
            return step;
        }
        let c = self.flows.get_mut(id);
        let (seq, ack) = c.splice.client_view(side, &seg.tcp);
        let of_this = c.directions[side as usize].is_of_this(seq);
        // Sends, or takes what the other side sent.
        let other = &c.directions[side.other() as usize];
        let takes = seg.tcp.flags.contains(Flags::ACK) && ack.is_after(other.acked) && !ack.is_after(other.next);
        let len = seg.tcp.payload_len() as u32;
        let plausible = c.directions[side as usize].plausible(seq, len);
        let alive = (len > 0 || takes) && plausible;
        if plausible && side == Side::Client && !c.comes_from_where_it_did(seg) {
            follow(c, seg, (seq, ack), self.routes.ports[usize::from(seg.port.0)].mac, frame);
        }
        // If the reset was forged both sides go on, and must not be out of step when the flow is taken up again.
        if plausible
            && matches!(c.state, State::Reset { .. })
            && !seg.tcp.flags.intersects(Flags::RST.with(Flags::SYN))
            && tcp_checksum_ok(frame.bytes(), &seg.ip)
        {
            c.note(side, &seg.tcp, seq, ack);
        }
        if let State::Reset { by, .. } = c.state
            && by == side
            && alive
            && !c.story.told
            && !seg.tcp.flags.contains(Flags::RST)
        {
            // Who goes on sending has not sent that reset.
            c.state = State::Spliced(None);
            let idle = seg.now + self.config.flow_idle_timeout;
            self.wheel.arm(id.0, idle);
            return self.forward(id, side, seg, frame, fx);
        }
        // What is of no use to the old connection may be the second segment of a new one, overtaking the first. The other side knows
        // only the old one, and its reset would end the new one.
        if seg.tcp.flags.contains(Flags::SYN) || !of_this {
            return Err(DropReason::FlowClosed);
        }
        self.pass_on(id, side, seg, frame, Passing::default(), fx)
    }

    /// Perhaps a client uses its address and port again for a new connection: a SYN is answered like any other, and leaves
    /// the old flow alone until its cookie has come back. While the old one is not over the SYN must have been seen, for the
    /// handshake of a still older connection, come again, would verify too and end a good one. If such a one took the place of a
    /// flow that was over, the SYN seen there counts on. No client goes back to the number that it began with before.
    pub(super) fn on_reuse(
        &mut self,
        id: FlowId,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Option<Step> {
        // Its service may have gone since: nothing begins there any more.
        let Some(service) = self.routes.service_at(seg.ip.dst, seg.tcp.dst_port) else {
            return seg.tcp.is_bare_syn().then(|| self.on_unserved(seg, frame, fx));
        };
        let c = self.flows.get_mut(id);
        if seg.tcp.is_bare_syn() {
            if seg.tcp.seq == c.isn && matches!(c.state, State::AwaitHello(_) | State::Dialing(_)) {
                return None;
            }
            // The flow's own SYN, or that of one before, come again, begins nothing.
            if seg.tcp.seq != c.isn && !c.former.contains(&Some(seg.tcp.seq)) {
                c.renewed = Some(seg.tcp.seq);
            }
            return Some(self.on_syn(service, seg, frame, fx));
        }
        let Flags(flags) = seg.tcp.flags;
        let plain_ack = flags & (Flags::ACK.0 | Flags::SYN.0 | Flags::RST.0) == Flags::ACK.0;
        let isn = seg.tcp.seq - 1;
        let over = matches!(c.state, State::TimeWait { .. } | State::Reset { .. } | State::Cut(_));
        // Under a flood of SYNs another worker may have answered this one. Where nothing was said yet, little is lost by believing a cookie
        // whose client began later than this one by its own number, which grows with time (RFC 6528): an old handshake come again is of before.
        let unseen = matches!(&c.state, State::AwaitHello(w) if w.held.stream.contiguous_len() == 0 && !w.held.stream.has_gap())
            && isn.is_after(c.isn)
            && !c.former.contains(&Some(isn));
        if !plain_ack || seg.tcp.ack == c.cookie + 1 || !(over || unseen || c.renewed == Some(isn)) {
            return None;
        }
        let (renewed, former) = (c.renewed.filter(|of| *of != isn), [Some(c.isn), c.former[0]]);
        self.cookies.verify(&seg.tuple(), isn, seg.tcp.ack - 1, seg.now)?;
        self.abandon(id, End::Replaced, seg.now, fx);
        let step = self.on_cookie(service, seg, frame, fx);
        if let Some((id, Side::Client)) = self.flows.lookup(&seg.tuple()) {
            let c = self.flows.get_mut(id);
            (c.renewed, c.former) = (renewed, former);
        }
        Some(step)
    }

    /// Reads in passing what a client sends while its server's answer is awaited: whatever is passed on, plausible or not.
    #[cold]
    fn watch_client(&mut self, id: FlowId, seg: &Arrived, frame: &Frame<'_>) {
        let Engine { flows, watches, .. } = self;
        let c = flows.get(id);
        let Some(watched) = c.watch.and_then(|w| watches.get_mut(w)) else { return };
        let plain = !seg.tcp.flags.contains(Flags::URG) && tcp_checksum_ok(frame.bytes(), &seg.ip);
        let payload = &frame.bytes()[seg.tcp.payload..seg.tcp.end];
        watched.client_sends(seg.tcp.seq, payload, c.directions[Side::Client as usize].acked, plain);
    }

    /// What was held is given to the backend: from now on its answer is awaited.
    pub(super) fn watch_released(&mut self, id: FlowId, now: Time) {
        let Engine { flows, watches, buffers, .. } = self;
        let c = flows.get(id);
        let (Some(watch), State::Spliced(Some(ours))) = (c.watch, &c.state) else { return };
        let Some(watched) = watches.heard(watch, now) else { return };
        let len = watched.watch.offer().wire_len();
        let all = ours.stream.contiguous(buffers);
        let held = all.get(len..).unwrap_or_default();
        if ours.urgent.is_some() {
            watched.watch.distrust();
        }
        watched.remember(ours.stream.base(), all);
        watched.released(ours.stream.base() + len as u32, held);
    }

    /// Reads the server's answer in passing.
    fn watch(&mut self, id: FlowId, seq: Seq, payload: &[u8], now: Time) {
        let c = self.flows.get(id);
        let (Some(watch_id), Some(backend)) = (c.watch, c.story.backend) else { return };
        let client = self.flows.tuple(id, Side::Client).map_or(0, |t| self.client_identity(t));
        let seen = Sighting { backend, client, now: super::choose::millis(now) };
        let Engine { watches, buffers, affinity, .. } = self;
        let Some(watched) = watches.heard(watch_id, now) else { return };
        let more = match watched.stream.accept_in_order(seq, payload) {
            Some(fresh) => {
                watched.stream.advance(fresh.len());
                watched.watch.feed(fresh, affinity, seen)
            }
            None => {
                let inserted = watched.stream.insert(buffers, seq, payload);
                if inserted.no_buffer || inserted.gap_full || inserted.overflow {
                    // Too much out of order to be followed.
                    self.counters.unwatched += 1;
                    false
                } else {
                    let more = watched.watch.feed(watched.stream.contiguous(buffers), affinity, seen);
                    let n = watched.stream.contiguous_len();
                    watched.stream.consume(buffers, n);
                    more
                }
            }
        };
        if !more {
            self.unwatch(id);
        }
    }

    /// Ends the reading of the server's answer, and notes what it showed.
    pub(super) fn unwatch(&mut self, id: FlowId) {
        let c = self.flows.get_mut(id);
        let Some(watch) = c.watch.take().and_then(|w| self.watches.close(w, &mut self.buffers)) else { return };
        let story = &mut c.story;
        (story.version, story.resumed) = (watch.version(), watch.resumed());
        let kinds = watch.offer().kinds(story.id_decided, story.version, story.resumed);
        story.offered = kinds.iter().map(|k| k.as_str()).collect();
    }
}

impl Connection {
    /// Notes what a plausible segment says about both directions; its numbers in the client's view.
    #[inline]
    fn note(&mut self, side: Side, tcp: &Tcp, seq: Seq, ack: Seq) {
        let window = self.splice.rescale(side).bytes(tcp.window);
        self.directions[side as usize].sent(seq, tcp.payload_len() as u32, tcp.flags.contains(Flags::FIN));
        if tcp.flags.contains(Flags::ACK) {
            self.directions[side.other() as usize].acknowledged(ack, window);
        }
    }
}

impl Connection {
    /// The client's frame came in where those before it did.
    #[inline]
    fn comes_from_where_it_did(&self, seg: &Arrived) -> bool {
        self.client_link.dst == seg.eth.src && self.client_port == seg.port && self.client_link.vlans == seg.eth.vlans
    }

    /// The client is answered to where this frame of its came from: port, Ethernet address and tags. `mac` is the port's own.
    pub(super) fn answer_to(&mut self, seg: &Arrived, mac: Mac) {
        self.client_port = seg.port;
        self.client_link = Link { dst: seg.eth.src, src: mac, vlans: seg.eth.vlans };
    }
}

/// A client behind routers that fail over is followed to where its frames come from now. But only by a segment that knows both
/// sides' numbers: one that is merely plausible can be guessed, and would lead the server's answers away.
#[cold]
fn follow(c: &mut Connection, seg: &Arrived, (seq, ack): (Seq, Seq), mac: Mac, frame: &Frame<'_>) {
    let [sent, received] = &c.directions;
    // One before: a keepalive.
    let current = !(seq + 1).is_before(sent.acked) && !ack.is_before(received.acked) && !ack.is_after(received.next);
    if seg.tcp.flags.contains(Flags::ACK) && current && tcp_checksum_ok(frame.bytes(), &seg.ip) {
        c.answer_to(seg, mac);
    }
}

/// The receiver of this side's bytes claims to have more of them than were seen. If this segment, of their sender, says the same, and
/// knows where the other direction is, we were out of step. Who forges both must hit the windows of both directions.
#[cold]
fn regain(c: &mut Connection, side: Side, tcp: &Tcp, seq: Seq, ack: Seq) {
    let other = &c.directions[side.other() as usize];
    if tcp.flags.contains(Flags::ACK) && !ack.is_before(other.acked) && !ack.is_after(other.next) {
        c.directions[side as usize].corroborated(seq);
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
    link.write(frame.bytes_mut(), super::ethertype_of(family));
    Ok(())
}
