//! How a connection is told of, and forgotten.

use super::{Effects, Engine};
use crate::flow::{FlowId, Rest, Side};
use crate::tcp::{End, Record, flight};
use crate::tls::over;

impl Engine {
    /// Tells of a connection, once.
    pub(super) fn end_record(&mut self, id: FlowId, end: End, fx: &mut dyn Effects) {
        let Engine { flows, lates, flights, buffers, counters, live, directory, .. } = self;
        let Some(client) = flows.key(id, Side::Client) else { return };
        let (hot, c) = flows.both(id);
        if c.record.told {
            return;
        }
        let class = over(&mut c.late, lates, buffers, counters);
        c.record.class = class.or(c.record.class);
        flight::close(c, flights, buffers);
        c.record.told = true;
        counters.flows_closed += 1;
        if let Some(backend) = c.record.backend {
            live.closed(backend);
        }
        let bytes = hot.through.map_or([0; 2], |through| through.windows.map(|window| window.bytes()));
        c.record.tell(&client, directory, bytes, end, |record| fx.connection_ended(record));
    }

    /// Gives back what a flow holds of the pools.
    pub(super) fn drop_held(&mut self, id: FlowId) {
        let Engine { flows, flights, buffers, .. } = self;
        let c = flows.get_mut(id);
        flight::close(c, flights, buffers);
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
        let record = self.flows.remove(id).record;
        record.backend.into_iter().chain(record.decided).for_each(|b| self.unfinished.unrefer(b));
    }

    /// The flow has no backend any more.
    pub(super) fn leave_backend(&mut self, id: FlowId) {
        if let Some(old) = self.flows.get_mut(id).record.backend.take() {
            self.live.closed(old);
            self.unfinished.unrefer(old);
            self.flows.unbind(id);
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

    /// What will be told of a flow.
    pub(super) fn record(&self, id: FlowId) -> &Record {
        match self.flows.peek(id) {
            Rest::Whole(c) => &c.record,
            Rest::Folded(settled) => &settled.record,
        }
    }
}
