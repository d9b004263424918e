//! The executor: does what a connection wants done ([`Action`]). It alone brings together what the connections' own functions know nothing of:
//! tables, ports, next hops, backends.

use super::ask::Chosen;
use super::trail::What;
use super::{Effects, Engine, Step, Verdict};
use crate::config::AddressMode;
use crate::counters::DropReason;
use crate::flow::{Endpoints, FlowId, Key, PortUse, Rest, Side};
use crate::tcp::action::{Choice, Failed, Over};
use crate::tcp::connection::{Opening, Proxy, Stage, State};
use crate::tcp::{
    Action, Arrived, Connection, End, Settled, close, cut, dial, farewell, flight, handshake, hello, http, timer,
    unacked,
};
use crate::time::Time;
use crate::wire::build::Segment;
use crate::wire::packet::set_urgent_pointer;
use crate::wire::proxy::{self, Named};
use crate::wire::{Family, Frame, Seq};
use lb::BackendId;
use lb::admission::Slot;

/// Local ports of one's own looked at for one dial.
const PORT_TRIES: usize = 512;

/// What came of dialling a backend.
enum Dialled {
    /// It may be sent a SYN.
    Ready,
    /// There is no way to it, or no port to dial it from.
    NoWay,
    /// There is no buffer for the PROXY header.
    NoBuffer,
}

impl Engine {
    /// What becomes of the frame at hand, and of its connection.
    pub(super) fn conclude(
        &mut self,
        id: FlowId,
        side: Side,
        action: Action,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        match action {
            Action::Forward(passing) => {
                if let Some(over) = passing.over {
                    self.close(id, over, seg.now, fx);
                }
                self.pass_on(id, side, seg, frame, passing, fx)
            }
            Action::Reply(control) => self.answer(seg, &control, frame, fx),
            Action::ReplyAndWake(control, at) => {
                self.wheel.arm(id.0, at);
                self.answer(seg, &control, frame, fx)
            }
            Action::Drop(reason) => Err(reason),
            Action::Abandon(end) => {
                self.abandon(id, end, seg.now, fx);
                Err(DropReason::FlowClosed)
            }
            Action::Splice => {
                self.splice(id, seg, frame, fx);
                Ok(Verdict::Hold)
            }
            other => {
                self.perform(id, other, seg.now, fx);
                Ok(Verdict::Hold)
            }
        }
    }

    /// Does what is not about a frame. Its caller has the marks [refreshed](Engine::refresh).
    pub(super) fn perform(&mut self, id: FlowId, action: Action, now: Time, fx: &mut dyn Effects) {
        match action {
            Action::Send(to, control) => _ = self.send(id, to, &control, now, fx),
            Action::Probe([client, server]) => {
                client.into_iter().for_each(|control| _ = self.send(id, Side::Client, &control, now, fx));
                server.into_iter().for_each(|control| _ = self.send(id, Side::Server, &control, now, fx));
            }
            Action::Wake(at) => self.wheel.arm(id.0, at),
            Action::Choose(choice) => self.begin(id, choice, now, fx),
            Action::Redispatch(failed) => {
                self.note_failure(id, failed, now);
                self.redispatch(id, now, fx);
            }
            Action::Redial => self.send_syn(id, now, fx),
            Action::Challenged(reset) => {
                self.send(id, Side::Server, &reset, now, fx);
                self.after_challenge(id, now, fx);
            }
            Action::Resend => self.resend(id, now, fx),
            Action::Cut(end) => self.cut(id, end, now, fx),
            Action::TurnAway(end) => {
                if end == End::ProxyHeader {
                    self.count_refusal(DropReason::ProxyHeader);
                }
                self.turn_away(id, end, now, fx);
            }
            Action::SayFarewell => self.say_farewell(id, now, fx),
            Action::HandshakeOver => self.handshake_over(id),
            Action::Abandon(end) => self.abandon(id, end, now, fx),
            Action::SayResets => self.say_resets(id, now, fx),
            Action::Forget(end) => {
                if let Some(end) = end {
                    self.end_record(id, end, now, fx);
                }
                self.remove(id);
            }
            // About a frame: `conclude` and the ladder have them.
            Action::Forward(_)
            | Action::Reply(_)
            | Action::ReplyAndWake(..)
            | Action::Hold
            | Action::Drop(_)
            | Action::Reuse(_)
            | Action::MakeRoom
            | Action::Resume
            | Action::Splice => {}
        }
    }

    /// Both sides are done: the flow is told, and kept for a while.
    fn close(&mut self, id: FlowId, over: Over, now: Time, fx: &mut dyn Effects) {
        match over {
            Over::Closed => self.end_record(id, End::Fin, now, fx),
            Over::Reset { by: Side::Client, certain: true } => self.end_record(id, End::ClientReset, now, fx),
            Over::Reset { by: Side::Server, certain: true } => self.end_record(id, End::BackendReset, now, fx),
            Over::Reset { certain: false, .. } => {}
        }
        self.drop_held(id);
        let until = close::begin(self.flows.get_mut(id), over, now);
        match over {
            // All of these are kept equally long.
            Over::Closed => self.wheel.line_up(id.0, until),
            Over::Reset { .. } => self.wheel.arm(id.0, until),
        }
    }

    /// Room for one more flow where the table is full: of those that were closed in order the one that has been over for longest is forgotten.
    pub(super) fn make_place(&mut self, now: Time) {
        if self.flows.len() == self.flows.capacity()
            && let Some(oldest) = self.wheel.first_in_line().map(FlowId)
            && is_over(self.flows.peek(oldest), now)
        {
            self.remove(oldest);
        }
    }

    fn is_crowded(&self) -> bool {
        self.flows.len() > self.flows.capacity() / 4 * 3
    }

    /// Ends a living flow: resets to both sides, and again for as long as they may not have heard.
    pub(super) fn cut(&mut self, id: FlowId, end: End, now: Time, fx: &mut dyn Effects) {
        let (hot, c) = self.flows.both(id);
        let told = cut::told(hot, c);
        self.end_record(id, end, now, fx);
        self.drop_held(id);
        let crowded = self.is_crowded() && !self.stopping;
        let (hot, c) = self.flows.both(id);
        cut::begin(hot, c, told, now);
        self.refresh(id);
        self.say_resets(id, now, fx);
        if crowded {
            // No room to keep it: the other number is said at once.
            if let State::Cut(cut) = &mut self.flows.get_mut(id).state {
                cut::due(cut, now + cut::AGAIN[0]);
            }
            self.say_resets(id, now, fx);
            return self.remove(id);
        }
        self.wheel.arm(id.0, now + cut::AGAIN[0]);
    }

    fn say_resets(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        for (to, reset) in cut::resets(self.flows.get(id)) {
            self.send(id, to, &reset, now, fx);
        }
    }

    /// Ends a flow whose client is gone or has been told: a reset to the backend, if there is one.
    pub(super) fn abandon(&mut self, id: FlowId, end: End, now: Time, fx: &mut dyn Effects) {
        let (hot, c) = self.flows.both(id);
        if !c.record.told {
            let told = cut::told(hot, c);
            for (to, reset) in cut::farewell(&told) {
                self.send(id, to, &reset, now, fx);
            }
        }
        self.end_record(id, end, now, fx);
        self.remove(id);
    }

    /// Tells the client that nothing will come of it, and forgets it.
    pub(super) fn turn_away(&mut self, id: FlowId, end: End, now: Time, fx: &mut dyn Effects) {
        if let Some(reset) = hello::refusal(self.flows.get(id)) {
            self.send(id, Side::Client, &reset, now, fx);
        }
        self.abandon(id, end, now, fx);
    }

    /// The backend that was dialled did not take it.
    fn note_failure(&mut self, id: FlowId, failed: Failed, now: Time) {
        let Some(backend) = self.record(id).backend else { return };
        let holder = self.holder(backend);
        let what = match failed {
            Failed::Refused => What::Refuses(holder),
            Failed::Silent => What::Silence(holder),
        };
        self.note(id, what, now);
    }

    /// The first backend is chosen, and dialled.
    fn begin(&mut self, id: FlowId, choice: Choice, now: Time, fx: &mut dyn Effects) {
        let chosen = self.choose(id, choice, now);
        self.go_on(id, chosen, now, fx);
    }

    /// Another backend is chosen, and dialled.
    pub(super) fn redispatch(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let chosen = self.choose_another(id, now);
        self.go_on(id, chosen, now, fx);
    }

    /// Dials the chosen backend, and if there is no way to it another one; or waits, or ends it.
    pub(super) fn go_on(&mut self, id: FlowId, mut chosen: Chosen, now: Time, fx: &mut dyn Effects) {
        loop {
            let (backend, slot) = match chosen {
                Chosen::Backend(backend, slot) => (backend, slot),
                Chosen::Waits => {
                    self.note(id, What::Waits, now);
                    let (hot, c) = self.flows.both(id);
                    let at = timer::wakes_at(hot, c, self.config.flow_idle_timeout);
                    return self.wheel.arm(id.0, at);
                }
                Chosen::Refused => {
                    self.note(id, What::NoPlace, now);
                    return self.take_leave(id, End::QueueFull, DropReason::QueueFull, now, fx);
                }
                Chosen::Nobody => break,
            };
            match self.dial(id, backend, slot, now) {
                Dialled::Ready => {
                    self.note(id, What::Dials(self.holder(backend)), now);
                    return self.send_syn(id, now, fx);
                }
                Dialled::NoWay => {
                    self.note(id, What::NoWay(self.holder(backend)), now);
                    self.count_refusal(DropReason::NoLocalPort);
                    chosen = self.choose_another(id, now);
                }
                Dialled::NoBuffer => {
                    self.count_refusal(DropReason::HelloNoBuffer);
                    return self.turn_away(id, End::NoBackend, now, fx);
                }
            }
        }
        // Nobody left to ask.
        self.note(id, What::Nobody, now);
        self.count_refusal(DropReason::NoBackend);
        // The last one asked was there, and refused nothing but the port.
        let port_in_use = self.flows.get_mut(id).dialing().is_some_and(|d| d.challenges > 0);
        self.turn_away(id, if port_in_use { End::PortInUse } else { End::NoBackend }, now, fx);
    }

    /// No backend had room in time: a client that speaks TLS is told so in words, and any other by a reset.
    pub(super) fn take_leave(&mut self, id: FlowId, end: End, why: DropReason, now: Time, fx: &mut dyn Effects) {
        self.count_refusal(why);
        let farewell = farewell::of(self.flows.get(id), now);
        let Some(farewell) = farewell else { return self.turn_away(id, end, now, fx) };
        self.leave_backend(id);
        self.end_record(id, end, now, fx);
        self.drop_held(id);
        self.flows.get_mut(id).state = State::Farewell(farewell);
        self.say_farewell(id, now, fx);
    }

    fn say_farewell(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let (hot, c) = self.flows.both(id);
        let Some((control, words)) = farewell::words(hot, c) else { return };
        self.send_words(id, Side::Client, &control, words, now, fx);
        let at = farewell::said(self.flows.get_mut(id), now);
        self.wheel.arm(id.0, at);
    }

    /// Gives a flow that waits for its hello or for room, or whose last backend failed, to `backend`, of whose limits it has `slot`.
    fn dial(&mut self, id: FlowId, backend: BackendId, mut slot: Option<Slot>, now: Time) -> Dialled {
        self.leave_backend(id);
        let dialled = self.try_to_dial(id, backend, &mut slot, now);
        if let Some(slot) = slot {
            self.free_slot(id, slot);
        }
        dialled
    }

    /// Takes the slot if it is ready.
    fn try_to_dial(&mut self, id: FlowId, backend: BackendId, slot: &mut Option<Slot>, now: Time) -> Dialled {
        dial::chosen(self.flows.get_mut(id), backend);
        let (Some(client), Some(route)) = (self.flows.key(id, Side::Client), self.routes.backend(backend)) else {
            return Dialled::NoWay;
        };
        let Some(key) = self.key_towards(&client, backend, now) else { return Dialled::NoWay };
        let Engine { flows, buffers, .. } = self;
        let c = flows.get_mut(id);
        let header = match c.proxy {
            Proxy::No => 0,
            Proxy::AsAccepted if c.accepted > 0 => c.accepted,
            Proxy::Ours | Proxy::AsAccepted => {
                let own = || Named { client: client.source(), to: client.destination() };
                let named = c.record.named().copied().unwrap_or_else(own);
                if !dial::write_proxy_header(c, buffers, &named) {
                    return Dialled::NoBuffer;
                }
                proxy::len_for(&named)
            }
        };
        // Nobody has the key: two flows on one would mix their bytes.
        if !flows.bind_free(id, key) {
            return Dialled::NoWay;
        }
        let c = flows.get_mut(id);
        dial::begin(c, header, route.hop, now);
        c.record.backend = Some(backend);
        c.record.slot = slot.take();
        if c.record.slot.is_none() {
            self.live.opened(backend);
        }
        self.unfinished.refer(backend);
        Dialled::Ready
    }

    /// The key by which a backend's answers will arrive, from an address and port of ours that is free, or whose flow is over when ports are
    /// scarce: that flow is forgotten then. In DNAT mode there is only one.
    fn key_towards(&mut self, client: &Key, backend: BackendId, now: Time) -> Option<Key> {
        let Engine { flows, local_ports, config, returning, routes, worker, workers, .. } = self;
        let way = routes.revision.way(backend)?;
        let sources = way.sources_of(*worker);
        let key = |local, port| Key { src: way.addr, sport: way.port, dst: local, dport: port, ..*client };
        let used = |key: &Key| match flows.lookup(key) {
            None => PortUse::Free,
            Some((id, Side::Server)) if is_over(flows.peek(id), now) => PortUse::Over,
            Some(_) => PortUse::Taken,
        };
        let (key, used) = if config.address_mode == AddressMode::Dnat {
            let key = key(client.src, client.sport);
            Some((key, used(&key))).filter(|(_, used)| *used != PortUse::Taken)?
        } else {
            let ask = |source: usize, port| {
                let key = key(sources[source], port);
                // Whose the port is first: it is the cheaper question, and mostly the one that is answered no.
                if (returning.knows_cards() || returning.strays().is_some()) && returning.owner(&key) != Some(*worker) {
                    return PortUse::Taken;
                }
                used(&key)
            };
            let tries = if returning.knows_cards() { PORT_TRIES * *workers } else { PORT_TRIES };
            let (source, port, used) = local_ports.next(backend.index(), sources.len(), ask, tries)?;
            (key(sources[source], port), used)
        };
        if used == PortUse::Over
            && let Some((over, _)) = flows.lookup(&key)
        {
            self.remove(over);
        }
        Some(key)
    }

    /// Sends the SYN, for the first time or again.
    fn send_syn(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let mss = self.mss_for_backend(id);
        let (hot, c) = self.flows.both(id);
        let Some(syn) = dial::syn(hot, c, mss) else { return };
        let sent = self.send(id, Side::Server, &syn, now, fx);
        self.counters.dials += u64::from(sent);
        let again = dial::tried(self.flows.get_mut(id), sent, now);
        self.wheel.arm(id.0, again);
    }

    /// Largest segment the backend may send: what the client takes, and what fits the ports on both sides.
    fn mss_for_backend(&mut self, id: FlowId) -> u16 {
        let family = self.flows.key(id, Side::Client).map_or(Family::V4, |key| key.family());
        self.flows.get(id).agreed.mss.min(self.routes.mss()[family as usize])
    }

    /// The backend holds an older connection from our port, and was told.
    fn after_challenge(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        if self.config.address_mode == AddressMode::Snat
            && dial::may_try_another_port(self.flows.get_mut(id))
            && self.bind_another_port(id, now)
        {
            dial::from_another_port(self.flows.get_mut(id));
            self.send_syn(id, now, fx);
        } else if dial::may_repeat(self.flows.get_mut(id)) {
            self.send_syn(id, now, fx);
        }
    }

    fn bind_another_port(&mut self, id: FlowId, now: Time) -> bool {
        let backend = self.flows.get_mut(id).opening().and_then(|opening| opening.tried.last().copied());
        let (Some(client), Some(backend)) = (self.flows.key(id, Side::Client), backend) else { return false };
        let Some(key) = self.key_towards(&client, backend, now) else { return false };
        self.is_no_stray(id);
        self.flows.bind_free(id, key)
    }

    /// The backend has answered: completes the handshake with it, and sends all that is held.
    fn splice(&mut self, id: FlowId, seg: &Arrived, frame: &Frame<'_>, fx: &mut dyn Effects) {
        let now = seg.now;
        let mss = self.mss_for_backend(id);
        let Engine { flows, health, buffers, flights, readings, .. } = self;
        let (hot, c) = flows.both(id);
        let Some(takes) = dial::splice(hot, c, seg, frame, mss, health) else { return };
        flight::released(c, buffers, flights, now);
        http::released(c, buffers, readings, now);
        let mut at = now + self.config.flow_idle_timeout;
        if c.record.slot.as_ref().is_some_and(|slot| slot.units() > 0) {
            at = at.min(handshake::begins(c, now));
        }
        self.wheel.arm(id.0, at);
        if let Some(backend) = self.record(id).backend {
            self.note(id, What::Answers(self.holder(backend)), now);
        }
        self.read_late_held(id, now);
        let upto = match &self.flows.get(id).state {
            State::Spliced(Some(unacked)) => unacked.stream.next_seq(),
            _ => return,
        };
        if !self.send_held(id, upto, takes.window, now, fx) {
            // Nothing to carry the acknowledgement, which completes the handshake.
            let (hot, c) = self.flows.both(id);
            let ack = hot.through.map(|t| unacked::acknowledgement(hot, &t, c, unacked::stands_at(&t, c)));
            ack.into_iter().for_each(|ack| _ = self.send(id, Side::Server, &ack, now, fx));
        }
        if let Some(at) = unacked::released(self.flows.get_mut(id), &mut self.buffers, now) {
            self.wheel.arm(id.0, at);
        }
    }

    /// Sends what is held from the first byte that the backend lacks up to `upto`, in segments, as far as `window` allows. True
    /// when anything was sent, or could not be for want of a next hop.
    fn send_held(&mut self, id: FlowId, upto: Seq, window: usize, now: Time, fx: &mut dyn Effects) -> bool {
        let (hot, c) = self.flows.both(id);
        let Some(hop) = c.hop(hot) else { return true };
        let Some((port, link)) = self.link_to(hop, now) else { return true };
        let Some(key) = self.flows.key(id, Side::Server) else { return false };
        let mtu = usize::from(self.routes.ports[usize::from(port.0)].mtu);
        let mtu = self.neighbours.wrap(hop).map_or(mtu, |wrap| wrap.room(mtu));
        let headers = if key.family() == Family::V4 { 40 } else { 60 };
        let ends = Endpoints::answering(&key);
        let mut done = 0;
        loop {
            let Engine { flows, buffers, scratch, .. } = self;
            let (hot, c) = flows.both(id);
            let options = hot.through.map(|through| unacked::clock(hot, &through));
            let (Some(through), Some(options), State::Spliced(Some(unacked))) = (&mut hot.through, options, &c.state)
            else {
                return done > 0;
            };
            let most = usize::from(unacked.segment).min(mtu - headers).saturating_sub(options.len()).max(1);
            let Some(piece) = unacked::next_piece(unacked, buffers, done, upto, window, most) else { return done > 0 };
            let segment = Segment {
                link,
                src: ends.src,
                dst: ends.dst,
                seq: piece.seq,
                ack: unacked::server_expects(through),
                flags: piece.flags,
                window: unacked::window(through, c),
                options: &options,
                payload: piece.payload,
            };
            let len = segment.write(scratch);
            if let Some(pointer) = piece.urgent {
                set_urgent_pointer(scratch, link.len() + headers - 20, pointer);
            }
            // The backend's acknowledgements are measured against what was sent.
            let n = piece.payload.len();
            let fin = piece.flags.contains(crate::wire::packet::Flags::FIN);
            let seq = piece.seq;
            through.direction(&mut c.odd, Side::Client).sent(seq, n as u32, fin);
            self.hand_out_by(hop, (port, &link), len, fx);
            if n == 0 {
                return true;
            }
            done += n;
        }
    }

    /// Sends what is ours once more.
    fn resend(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let (hot, c) = self.flows.both(id);
        let (Some(through), State::Spliced(Some(unacked))) = (&hot.through, &c.state) else { return };
        let (upto, window) = (unacked.end, through.window(Side::Client).allowed().max(1) as usize);
        self.counters.retransmits += 1;
        self.send_held(id, upto, window, now, fx);
    }

    /// All buffers are taken: one of a client that has kept half a hello for long is taken back, and the client is reset.
    pub(super) fn make_room(&mut self, now: Time, fx: &mut dyn Effects) {
        let Engine { flows, eviction, .. } = self;
        let keeps = |id, buffer| {
            flows.is_live(id) && matches!(flows.peek(id), Rest::Whole(c) if hello::keeps_half(c, buffer, now))
        };
        let Some(id) = eviction.next(keeps) else { return };
        self.count_refusal(DropReason::HelloNoBuffer);
        self.flows.get_mut(id).record.class = Some(crate::tcp::Class::Secure);
        self.turn_away(id, End::NoBuffer, now, fx);
    }

    /// Ends a connection whose backend is to go at once: one that is being dialled goes to another.
    pub(super) fn take_backend_away(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        match self.flows.get(id).state {
            State::Opening(Opening { stage: Stage::Dialing(_), .. }) => self.redispatch(id, now, fx),
            _ => self.cut(id, End::BackendRemoved, now, fx),
        }
    }
}

/// See [`close::may_be_forgotten`]; one that has settled lives.
fn is_over(rest: Rest<'_, Connection, Settled>, now: Time) -> bool {
    matches!(rest, Rest::Whole(c) if close::may_be_forgotten(c, now))
}
