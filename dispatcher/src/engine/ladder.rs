//! The ladder: which step a frame is for, from the most to the least frequent.

use super::{Effects, Engine, Flows, Step};
use crate::config::AddressMode;
use crate::counters::DropReason;
use crate::flow::{CookieVerified, FlowId, RestMut, Side};
use crate::path::GateId;
use crate::tcp::action::Passing;
use crate::tcp::admit::Denied;
use crate::tcp::connection::{Opening, Stage, State};
use crate::tcp::flight::Passers;
use crate::tcp::forward::Noted;
use crate::tcp::hello::{Holding, Room};
use crate::tcp::reuse::{Anew, Begun, Reuse};
use crate::tcp::{
    Action, Arrived, ClientLink, End, admit, close, cut, dial, farewell, flight, forward, handshake, hello, http,
    reuse, wait,
};
use crate::time::Time;
use crate::wire::packet::Flags;
use crate::wire::{Family, Frame, Seq};
use lb::ServiceId;
use lb::admission::slots::RESUMED;

/// A server's first bytes have come, in a flow that is open but for them: noted where the flow lies, folded or not.
#[cold]
pub(super) fn server_speaks(flows: &mut Flows, id: FlowId, now: Time) {
    match flows.peek_mut(id) {
        RestMut::Whole(c) => c.record.times.server_says(now),
        RestMut::Folded(settled) => settled.record.times.server_says(now),
    }
}

impl Engine {
    /// A TCP segment.
    #[inline]
    pub(super) fn on_segment(&mut self, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        match self.flows.lookup(&seg.key()) {
            Some((id, side)) => self.on_known(id, side, seg, frame, fx),
            None => self.on_stranger(seg, frame, fx),
        }
    }

    /// A segment of a known flow: by far the most frequent case is that both sides are connected, and it is an ordinary one.
    #[inline]
    fn on_known(&mut self, id: FlowId, side: Side, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        match forward::ordinary(self.flows.hot_mut(id), side, ClientLink::of(seg), &(&seg.tcp).into(), seg.now) {
            Noted::No => return self.on_unusual(id, side, seg, frame, fx),
            Noted::Yes => {}
            Noted::First => server_speaks(&mut self.flows, id, seg.now),
        }
        self.pass_on(id, side, seg, frame, Passing { noted: true, ..Passing::default() }, fx)
    }

    /// A segment that may change where its connection stands: that says what is to be done.
    #[cold]
    fn on_unusual(
        &mut self,
        id: FlowId,
        side: Side,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        let mut action = self.ask(id, side, seg, frame);
        if let Action::MakeRoom = action {
            self.make_room(seg.now, fx);
            let room = self.room(seg.ip.family);
            let Engine { flows, buffers, eviction, .. } = self;
            let (hot, c) = flows.both(id);
            action = hello::take(hot, c, id, seg, frame, Holding { buffers, eviction, room });
        }
        if let Action::Resume = action {
            self.wheel.arm(id.0, seg.now + self.config.flow_idle_timeout);
            action = self.ask_spliced(id, side, seg, frame);
        }
        let step = match action {
            Action::Reuse(reuse) => self.begin_anew(id, reuse, seg, frame, fx),
            action => self.conclude(id, side, action, seg, frame, fx),
        };
        self.refresh(id);
        step
    }

    /// Asks a connection what is to be done with a segment.
    fn ask(&mut self, id: FlowId, side: Side, seg: &Arrived, frame: &Frame<'_>) -> Action {
        let room = self.room(seg.ip.family);
        let Engine { flows, buffers, eviction, routes, cookies, health, counters, stopping, .. } = self;
        let (hot, c) = flows.both(id);
        let may_begin = match c.state {
            State::Spliced(_) => false,
            State::Cut(_) => !*stopping,
            _ => true,
        };
        let may_begin = side == Side::Client && may_begin && reuse::may_begin(c, seg);
        if may_begin
            && let Some(reuse) =
                reuse::begins(c, seg, Anew { service: routes.service_at(seg.ip.dst, seg.tcp.dst_port), cookies })
        {
            return Action::Reuse(reuse);
        }
        match (&c.state, side) {
            (State::Spliced(_), _) => self.ask_spliced(id, side, seg, frame),
            (State::Opening(Opening { stage: Stage::Queued(_), .. }), Side::Client) => {
                wait::segment(hot, c, id, seg, frame, Holding { buffers, eviction, room })
            }
            (State::Opening(_), Side::Client) => {
                hello::segment(hot, c, id, seg, frame, Holding { buffers, eviction, room })
            }
            (State::Opening(Opening { stage: Stage::Dialing(_), .. }), Side::Server) => {
                dial::answer(c, seg, frame, health)
            }
            (State::Opening(_), Side::Server) => Action::Drop(DropReason::NoFlow),
            (State::TimeWait { .. } | State::Reset { .. }, _) => close::segment(hot, c, side, seg, frame),
            (State::Farewell(_), Side::Client) => farewell::segment(hot, c, seg, frame),
            (State::Farewell(_), Side::Server) => Action::Drop(DropReason::NoFlow),
            (State::Cut(_), _) => cut::segment(hot, c, side, seg, frame, room.hello_bytes, counters),
        }
    }

    /// Asks a spliced connection, after what is read in passing of what its client sends.
    fn ask_spliced(&mut self, id: FlowId, side: Side, seg: &Arrived, frame: &Frame<'_>) -> Action {
        let c = self.flows.get(id);
        let says = seg.tcp.payload_len() > 0 || seg.tcp.flags.contains(Flags::URG);
        let passes = !seg.tcp.flags.intersects(Flags::SYN.with(Flags::RST));
        let (is_read, renewed, counts) = (c.flight.is_some(), c.renewed.is_some(), c.handshake.is_some());
        let is_http = c.http.is_some();
        let seen = c.record.backend.filter(|_| side == Side::Server && (is_read || is_http) && says);
        let seen = seen.map(|backend| (backend, super::share::session_time(seg.now)));
        if side == Side::Client && says && passes {
            if is_read {
                let Engine { flows, flights, .. } = self;
                let (hot, c) = flows.both(id);
                hot.through.iter().for_each(|through| flight::client_sends(through, c, seg, frame, flights));
            } else if is_http {
                let Engine { flows, readings, .. } = self;
                let (hot, c) = flows.both(id);
                hot.through.iter().for_each(|through| http::client_sends(through, c, seg, frame, readings));
            } else {
                self.read_late(id, seg, frame);
            }
        }
        let service = if renewed { self.routes.service_at(seg.ip.dst, seg.tcp.dst_port) } else { None };
        let Engine { flows, buffers, flights, readings, lates, affinity, counters, cookies, noticed, .. } = self;
        let (hot, c) = flows.both(id);
        let passers = Passers { buffers, flights, readings, lates, affinity, noticed, seen, counters };
        let action = forward::segment(hot, c, side, seg, frame, Anew { service, cookies }, passers);
        if counts && passes {
            self.follow_handshake(id, side, seg, frame);
        }
        action
    }

    /// A segment of a connection whose handshake holds units of its backend's limit.
    #[cold]
    fn follow_handshake(&mut self, id: FlowId, side: Side, seg: &Arrived, frame: &Frame<'_>) {
        let payload = &frame.bytes()[seg.tcp.payload..seg.tcp.end];
        let Engine { flows, pace, observed, live, .. } = self;
        let (hot, c) = flows.both(id);
        let Some(through) = hot.through else { return };
        let (seq, _) = through.splice.client_view(side, seg.tcp.seq, seg.tcp.ack);
        let fin = seg.tcp.flags.contains(Flags::FIN);
        let seen = handshake::passes(&through, c, side, seq, payload, fin, seg.now);
        if let (Some(took), Some(slot)) = (seen.took, &c.record.slot) {
            let resumed = slot.units() == RESUMED;
            pace.answered(observed, live.slots(), slot.backend(), resumed, took);
        }
        if seen.over {
            self.handshake_over(id);
        }
    }

    fn room(&self, family: Family) -> Room {
        Room { hello_bytes: self.config.limits.hello_bytes, segment: self.health.offer(family).mss }
    }

    /// A client uses its address and port again.
    fn begin_anew(
        &mut self,
        id: FlowId,
        reuse: Reuse,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        match reuse {
            Reuse::Unserved => self.on_unserved(seg, frame, fx),
            Reuse::Syn(service) => self.on_syn(service, seg, frame, fx),
            Reuse::Cookie(Begun { service, proof, renewed, former }) => {
                self.abandon(id, End::Replaced, seg.now, fx);
                if self.stopping {
                    return self.refuse(seg, DropReason::Stopping, frame, fx);
                }
                self.open(service, &proof, (renewed, former), seg, frame, fx)
            }
        }
    }

    /// A segment of no flow.
    fn on_stranger(&mut self, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        if seg.ip.src.is_nobodys() && !(self.config.loopback_sources && seg.ip.src.ip().is_loopback()) {
            return Err(DropReason::Malformed);
        }
        if let Some(service) = self.routes.service_at(seg.ip.dst, seg.tcp.dst_port) {
            if seg.tcp.is_bare_syn() {
                self.on_syn(service, seg, frame, fx)
            } else {
                self.on_cookie(service, seg, frame, fx)
            }
        } else {
            self.on_unserved(seg, frame, fx)
        }
    }

    /// A segment of no flow to no service.
    fn on_unserved(&mut self, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        if self.routes.is_ours(seg.ip.dst) {
            self.on_own_address(seg, frame, fx)
        } else if self.config.address_mode == AddressMode::Dnat && self.routes.is_backend(seg.ip.src, seg.tcp.src_port)
        {
            // To a client of ours whose flow is over: it is told in the client's name.
            self.refuse(seg, DropReason::NoFlow, frame, fx)
        } else {
            Err(DropReason::NotForUs)
        }
    }

    /// A bare SYN to a VIP: answered with a cookie, and forgotten. While it is known that no backend is up it is refused.
    fn on_syn(&mut self, service: ServiceId, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        if self.stopping {
            // Who comes next may answer it.
            return Err(DropReason::Stopping);
        }
        if !frame.tcp_is_intact(&seg.ip) {
            return Err(DropReason::BadChecksum);
        }
        if !self.serves(service, seg.ip.family) {
            // As the servers would answer; and whoever checks the VIP sees that it serves nobody. As often as there would be a SYN-ACK, which
            // is larger: by a limit that strangers can exhaust, honest clients would hear nothing.
            self.count_refusal(DropReason::NoBackend);
            return self.answer_by_reset(seg, frame, fx);
        }
        if !self.gates.is_empty() && self.is_full(service, seg) {
            // As a full backlog: the client says it again in a second.
            return Err(DropReason::QueueFull);
        }
        let window = self.first_window(service, seg.ip.family);
        let offer = self.health.offer(seg.ip.family);
        let answer = admit::syn_ack(seg, frame, &self.cookies, offer, window, self.clock(seg.now))?;
        self.counters.cookies_sent += 1;
        self.answer(seg, &answer, frame, fx)
    }

    /// Whoever sent this would be refused in the end, whatever he says.
    #[cold]
    fn is_full(&mut self, service: ServiceId, seg: &Arrived) -> bool {
        let Engine { gates, directory, .. } = self;
        let Some(service) = directory.service(service) else { return false };
        let all = service.pools().iter().map(|pool| GateId::new(service.id(), *pool, seg.ip.family));
        let key = seg.key();
        gates.refuse(all, key.destination(), key.src.ip())
    }

    /// The window of our SYN-ACK: no more than we can hold, nor than the backends will say, of which a PROXY header takes some. Never zero.
    fn first_window(&self, service: ServiceId, family: Family) -> u16 {
        let room = u16::try_from(self.config.limits.hello_bytes).unwrap_or(u16::MAX);
        let proxy = self.directory.service(service).is_some_and(|s| s.policy().proxy_protocol);
        let header = if proxy { dial::proxy_header_len(family) } else { 0 };
        room.min(self.health.offer(family).window - header)
    }

    /// Our clock for timestamps: milliseconds, from a secret start.
    fn clock(&self, now: Time) -> u32 {
        (now.as_millis() as u32).wrapping_add(self.clock_start)
    }

    /// A segment to a VIP that belongs to no flow and is no SYN: perhaps a cookie comes back.
    fn on_cookie(&mut self, service: ServiceId, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        let Engine { cookies, reset_grace, keyed, stopping, .. } = self;
        let hash = || keyed.hash(&seg.key().to_bytes());
        match admit::cookie(seg, cookies, reset_grace, hash, *stopping) {
            Ok(proof) => self.open(service, &proof, (None, [None; 2]), seg, frame, fx),
            Err(Denied::Refuse(why)) => self.refuse(seg, why, frame, fx),
            Err(Denied::Ignore(why)) => Err(why),
        }
    }

    /// Opens a flow, and reads what the segment carries. `before` is what is remembered of connections on the same addresses and ports.
    fn open(
        &mut self,
        service: ServiceId,
        proof: &CookieVerified,
        before: (Option<Seq>, [Option<Seq>; 2]),
        seg: &Arrived,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        let Some(service) = self.directory.service(service) else { return Err(DropReason::NoFlow) };
        let (hot, mut connection, due) = admit::open(proof, seg, frame, service, self.serial + 1)?;
        (connection.renewed, connection.former) = before;
        self.make_place(seg.now);
        let id = self.flows.insert(*proof.key(), hot, connection).ok_or(DropReason::FlowTableFull)?;
        if let Some(flows) = self.routes.revision.flows_at(seg.ip.dst, seg.tcp.dst_port) {
            flows.opened(self.worker);
        }
        self.serial += self.step;
        self.trails.begin(self.serial + 1 - self.step, *proof.key(), seg.now);
        self.counters.flows_opened += 1;
        self.wheel.arm(id.0, due);
        let room = self.room(seg.ip.family);
        if seg.tcp.payload_len() > 0 && self.buffers.available() == 0 {
            self.make_room(seg.now, fx);
        }
        let Engine { flows, buffers, eviction, .. } = self;
        let (hot, c) = flows.both(id);
        let action = hello::take(hot, c, id, seg, frame, Holding { buffers, eviction, room });
        self.conclude(id, Side::Client, action, seg, frame, fx)
    }
}
