//! How a connection is told of, and forgotten.

use super::connections::shown;
use super::share::client_identity;
use super::{Effects, Engine};
use crate::flow::{FlowId, Side};
use crate::path::GateId;
use crate::tcp::{Class, End, flight, http};
use crate::time::Time;
use crate::tls::over;
use lb::admission::Slot;

impl Engine {
    /// Tells of a connection, once.
    pub(super) fn end_record(&mut self, id: FlowId, end: End, now: Time, fx: &mut dyn Effects) {
        let Engine { flows, live, gates, .. } = self;
        let c = flows.get_mut(id);
        if c.record.told {
            return;
        }
        if let Some(backend) = c.record.backend {
            match c.record.slot.take() {
                Some(slot) => self.free_slot(id, slot),
                None => {
                    live.closed(backend);
                    gates.unlimited_ended(backend);
                }
            }
        } else if !gates.is_empty() || gates.large > 0 {
            self.unqueue(id);
        }
        let Engine { flows, lates, flights, readings, buffers, counters, directory, noticed, keyed, trails, .. } = self;
        let Some(client) = flows.key(id, Side::Client) else { return };
        let server = flows.key(id, Side::Server);
        let (hot, c) = flows.both(id);
        let class = over(&mut c.late, lates, buffers, counters);
        c.record.class = class.or(c.record.class);
        flight::close(c, flights, buffers);
        http::close(c, readings, buffers);
        c.record.told = true;
        counters.flows_closed += 1;
        let bytes = hot.through.map_or([0; 2], |through| through.windows.map(|window| window.bytes()));
        // Of a hello that was passed on; what we end ourselves says nothing of the server.
        let theirs = matches!(end, End::Fin | End::ClientReset | End::BackendReset);
        let asked = bytes[Side::Client as usize] > 0 && c.record.class == Some(Class::Secure);
        if let Some(backend) = c.record.backend
            && theirs
            && asked
            && bytes[Side::Server as usize] == 0
        {
            noticed.left_unanswered(backend, client_identity(keyed, client.src));
        }
        c.record.tell((&client, server), directory, bytes, (end, now), |record| fx.connection_ended(record));
        let c = &*c;
        trails.ends(c.record.number, end, now, || {
            shown((&client, server.as_ref()), c.state.word(), &c.record, hot, directory, now)
        });
    }

    /// Gives back what a flow holds of the pools.
    pub(super) fn drop_held(&mut self, id: FlowId) {
        let Engine { flows, flights, readings, buffers, .. } = self;
        let c = flows.get_mut(id);
        flight::close(c, flights, buffers);
        http::close(c, readings, buffers);
        if let Some(stream) = c.stream() {
            stream.release(buffers);
        }
    }

    /// Forgets a flow.
    pub(super) fn remove(&mut self, id: FlowId) {
        self.drop_held(id);
        self.wheel.disarm(id.0);
        if let Some(client) = self.flows.key(id, Side::Client)
            && let Some(flows) = self.routes.revision.flows_at(client.dst, client.dport)
        {
            flows.closed(self.worker);
        }
        self.is_no_stray(id);
        let record = self.flows.remove(id).record;
        record.backend.into_iter().chain(record.decided).for_each(|b| self.unfinished.unrefer(b));
    }

    /// Where it asks for room, or would.
    pub(super) fn gate_id(&mut self, id: FlowId) -> Option<GateId> {
        let family = self.flows.key(id, Side::Client)?.family();
        let record = &self.flows.get(id).record;
        Some(GateId::new(record.service, record.pool, family))
    }

    /// What it had of a backend's limits is free.
    #[cold]
    pub(super) fn free_slot(&mut self, id: FlowId, slot: Slot) {
        if let Some(gate) = self.gate_id(id) {
            self.gates.freed(slot, gate, &self.live);
        }
    }

    /// Its handshake holds nothing of a backend's limits any more.
    #[cold]
    pub(super) fn handshake_over(&mut self, id: FlowId) {
        let Some(gate) = self.gate_id(id) else { return };
        let c = self.flows.get_mut(id);
        c.handshake = None;
        if let Some(slot) = &mut c.record.slot {
            self.gates.handshake_done(slot, gate, &self.live);
        }
    }

    /// It waits no longer, if it did.
    pub(super) fn unqueue(&mut self, id: FlowId) {
        let Some(queued) = self.flows.get_mut(id).queued() else { return };
        let ticket = queued.ticket;
        let large = core::mem::take(&mut queued.large);
        self.gates.large -= usize::from(large);
        if let Some(gate) = self.gate_id(id) {
            self.gates.leave(ticket, gate);
        }
    }

    /// The flow has no backend any more.
    pub(super) fn leave_backend(&mut self, id: FlowId) {
        let record = &mut self.flows.get_mut(id).record;
        if let Some(old) = record.backend.take() {
            match record.slot.take() {
                Some(slot) => self.free_slot(id, slot),
                None => {
                    self.live.closed(old);
                    self.gates.unlimited_ended(old);
                }
            }
            self.unfinished.unrefer(old);
            self.is_no_stray(id);
            self.flows.unbind(id);
        }
    }

    /// Its local port is the worker's again that ports of its number belong to, if it was an exception.
    #[inline]
    pub(super) fn is_no_stray(&self, id: FlowId) {
        if let Some(strays) = self.returning.strays()
            && let Some(key) = self.flows.key(id, Side::Server)
        {
            strays.over(&key);
        }
    }

    /// What is looked at beside the numbers of a segment follows from the connection, which has changed. One that has settled is folded.
    pub(super) fn refresh(&mut self, id: FlowId) {
        if let Some((hot, c)) = self.flows.both_if_whole(id)
            && let Some(through) = &mut hot.through
        {
            through.marks = c.marks();
            if c.is_settled() {
                self.flows.fold(id);
            }
        }
    }
}
