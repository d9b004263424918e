//! One connection after the other is put into all the tables that know of it.

use crate::engine::Engine;
use crate::engine::admission::{Stranded, Token};
use crate::flow::{FlowId, Key};
use crate::pack::{Ids, Unpacker, Unreadable};
use crate::tcp::connection::{Asks, Opening, Stage, State};
use crate::tcp::{Connection, Hot, moving, timer};
use crate::time::Time;
use crate::tls::Late;
use crate::wire::packet::protocol;
use lb::admission::{ClassId, Parked, Request};
use lb::{BackendId, Millis};

/// What an engine has taken over.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TakenOver {
    /// Connections, in any state.
    pub flows: usize,
    /// Those of its own that it could not take.
    pub lost: usize,
    /// Why the first of these.
    pub why: Option<Unreadable>,
    /// Affinity rows.
    pub rows: usize,
    /// By the keys of their backends' frames: connections whose local ports are not this worker's.
    pub strays: Vec<Key>,
}

/// What is read of a connection in passing, as bytes.
#[derive(Clone, Copy, Default)]
pub(super) struct Readings<'a> {
    pub flight: Option<&'a [u8]>,
    pub http: Option<&'a [u8]>,
    pub late: Option<&'a [u8]>,
}

/// What it has of its backend's limits: by which class, and units of a handshake.
pub(super) type Taken = (ClassId, u8);

/// Since when it waits, and whose dial failed before.
pub(super) type Place = (Millis, Option<BackendId>);

/// One connection on its way.
pub(super) struct Arriving<'a> {
    pub client: Key,
    pub server: Option<Key>,
    pub hot: Hot,
    pub c: Connection,
    pub readings: Readings<'a>,
    pub taken: Option<Taken>,
    pub place: Option<Place>,
}

impl Arriving<'_> {
    /// Its place among others of its kind is by time.
    pub fn stands_in_line(&self) -> bool {
        matches!(self.c.state, State::Opening(Opening { stage: Stage::Queued(_), .. }) | State::TimeWait { .. })
    }
}

impl Engine {
    /// Puts those into the tables that stand in line: those that wait, and those that are closed, each in their order.
    pub(super) fn settle_in_order(&mut self, mut arriving: Vec<Arriving<'_>>, taken: &mut TakenOver) {
        arriving.sort_by_key(|one| match &one.c.state {
            State::Opening(Opening { stage: Stage::Queued(queued), .. }) => queued.since,
            State::TimeWait { until } => *until,
            _ => Time::ZERO,
        });
        arriving.into_iter().for_each(|one| self.settle(one, taken));
    }

    /// Puts a connection into all the tables that know of it.
    pub(super) fn settle(&mut self, one: Arriving<'_>, taken: &mut TakenOver) {
        match self.try_to_settle(one, taken) {
            Ok(()) => taken.flows += 1,
            Err(why) => {
                taken.lost += 1;
                taken.why.get_or_insert(why);
            }
        }
    }

    fn try_to_settle(&mut self, one: Arriving<'_>, taken: &mut TakenOver) -> Result<(), Unreadable> {
        let Arriving { client, server, hot, mut c, readings, taken: units, place } = one;
        let can_be = |key: &Key| {
            key.protocol == protocol::TCP && [key.src, key.dst].iter().all(|addr| addr.family() == client.family())
        };
        let fits = can_be(&client) && server.is_none_or(|key| can_be(&key)) && !self.flows.contains(&client);
        if !fits || self.flows.len() >= self.flows.capacity() {
            moving::release(&mut c.state, &mut self.buffers);
            return Err(Unreadable::NoRoom);
        }
        let buffer = c.stream().and_then(|stream| stream.buffer_index());
        let id = self.flows.insert(client, hot, c).ok_or(Unreadable::NoRoom)?;
        let bound = server.is_none_or(|server| self.flows.bind(id, server));
        if let Err(why) = if bound { self.take_readings(id, readings) } else { Err(Unreadable::NoRoom) } {
            self.drop_held(id);
            let Engine { flows, lates, buffers, .. } = self;
            lates.forget(&mut flows.remove(id).late, buffers);
            return Err(why);
        }
        buffer.into_iter().for_each(|buffer| self.eviction.taken(buffer, id));
        self.note_taken(id, (&client, server.as_ref()), taken);
        self.count_taken(id, units);
        self.stand_in_line(id, place);
        self.refresh(id);
        Ok(())
    }

    /// What was read of it is read on, where there is a place for that.
    fn take_readings(&mut self, id: FlowId, from: Readings<'_>) -> Result<(), Unreadable> {
        let nobody = Ids::default();
        let Engine { flows, flights, readings, lates, buffers, counters, .. } = self;
        let c = flows.get_mut(id);
        let Readings { flight, http, late } = from;
        let all = [flight, http, late].into_iter().flatten().count();
        if let Some(bytes) = flight {
            c.flight = flights.take_over(id, buffers, &mut Unpacker::new(bytes, &nobody))?;
        }
        if let Some(bytes) = http {
            c.http = readings.take_over(id, buffers, &mut Unpacker::new(bytes, &nobody))?;
        }
        if let Some(bytes) = late {
            let place = lates.take_over(id, buffers, &mut Unpacker::new(bytes, &nobody))?;
            // Without a place it is still told of in the end, as one that was not read.
            c.late = place.map_or(Late::Unclear, Late::Begun);
        }
        let here = [c.flight.is_some(), c.http.is_some(), matches!(c.late, Late::Begun(_))];
        counters.unwatched += (all - here.into_iter().filter(|here| *here).count()) as u64;
        Ok(())
    }

    fn note_taken(&mut self, id: FlowId, (client, server): (&Key, Option<&Key>), taken: &mut TakenOver) {
        if let Some(flows) = self.routes.revision.flows_at(client.dst, client.dport) {
            flows.opened(self.worker);
        }
        if let Some(server) = server
            && self.returning.owner(server).is_some_and(|owner| owner != self.worker)
        {
            taken.strays.push(*server);
        }
        let Engine { flows, unfinished, wheel, config, .. } = self;
        let (hot, c) = flows.both(id);
        c.record.backend.into_iter().chain(c.record.decided).for_each(|b| unfinished.refer(b));
        match &c.state {
            State::TimeWait { until } => wheel.line_up(id.0, *until),
            _ => wheel.arm(id.0, timer::wakes_at(hot, c, config.flow_idle_timeout)),
        }
    }

    /// It counts at its backend, with what it has of the limits there.
    fn count_taken(&mut self, id: FlowId, units: Option<Taken>) {
        let gate = self.gate_id(id).and_then(|gate| self.gates.find(gate));
        let Engine { flows, live, gates, .. } = self;
        let c = flows.get_mut(id);
        if let Some(backend) = c.record.backend.filter(|_| !c.record.told) {
            let slot = gate
                .zip(units)
                .map(|(gate, (class, units))| gates.at(gate).admission.taken_over(backend, class, units));
            if slot.is_none() {
                // Like those from before there were limits.
                live.opened(backend);
            }
            c.record.slot = slot;
        }
        // Without units there is nothing to end.
        c.handshake = c.handshake.filter(|_| c.record.slot.as_ref().is_some_and(|slot| slot.units() > 0));
    }

    /// It waits on where it stood, with the time that it has waited. Where nobody waits any more, or fewer may, it is led on.
    fn stand_in_line(&mut self, id: FlowId, place: Option<Place>) {
        let token = Token { id, generation: self.flows.generation(id) };
        let gate = self.gate_id(id).and_then(|gate| self.gates.find(gate));
        let Engine { flows, gates, .. } = self;
        let c = flows.get_mut(id);
        let Some(Opening { asks, stage: Stage::Queued(queued), .. }) = c.opening() else { return };
        gates.large += usize::from(queued.large);
        let parked = place.zip(*asks).map(|((since, failed), Asks { class, cost, own })| Parked {
            request: Request { token: token.to_word(), class, cost, own },
            since,
            failed,
        });
        let ticket = gate.zip(parked).and_then(|(gate, parked)| gates.at(gate).admission.stand(&parked).ok());
        match ticket {
            Some(ticket) => queued.ticket = ticket,
            None => gates.stranded.push(Stranded::Free(token)),
        }
    }
}
