//! Which backend for a connection of plain HTTP/1: by the cookie in its first request, where a row knows it; and whose pool it is, by the host that it is for.

use super::Engine;
use super::ask::Natures;
use super::trail;
use crate::flow::FlowId;
use crate::http::Request;
use crate::tcp::connection::{Opening, State};
use crate::tcp::http;
use crate::time::Time;
use lb::admission::Cost;
use lb::{BackendId, Identity, IdentityKind, Lookup, PoolId, Service};

/// The pool that a request is for.
pub(super) fn route(service: &Service, request: &Request<'_>) -> PoolId {
    service.pool_for(request.host(), core::iter::empty())
}

impl Engine {
    /// Reads what is held of a request: the cookies that count into the draft, where it is routed to, and of which class it is. `first`: its name is kept.
    pub(super) fn read_request(&mut self, id: FlowId, first: bool) -> Option<(PoolId, Natures)> {
        let asker = if self.gates.is_empty() { None } else { self.asker(id) };
        let Engine { flows, buffers, config, directory, readings, trails, .. } = self;
        let connection = flows.get_mut(id);
        let State::Opening(Opening { held, .. }) = &connection.state else { return None };
        let service = directory.service(connection.record.service).filter(|service| service.reads_requests())?;
        let request = Request::read(held.stream.contiguous(buffers))?;
        readings.draft.clear();
        if let Some(name) = service.cookie() {
            let name = name.as_str().as_bytes();
            readings.draft.extend(request.cookies(name).map(|value| Identity::cookie(name, value)));
        }
        let host = request.host();
        let natures = match &asker {
            Some(asker) => Natures::of_name(service, asker, host, Cost::NotTls),
            None => Natures::UNKNOWN,
        };
        if first {
            trail::name(trails, connection.record.number, host);
            if let Some(host) = host.filter(|_| config.keep_names) {
                connection.record.keep_name(Some(crate::tls::name_text(host)));
            }
        }
        Some((route(service, &request), natures))
    }

    /// What the tables know of the draft.
    pub(super) fn look_up_cookies(&mut self, id: FlowId, client: u64, now: Time, found: &mut Lookup) {
        let Some(key) = self.flows.key(id, crate::flow::Side::Client) else { return };
        let record = &self.flows.get(id).record;
        let Some(pool) = self.directory.pool(record.pool).filter(|_| !self.readings.draft.is_empty()) else { return };
        let of_family = self.routes.revision.of_family(key.family());
        let may_resume = |b: BackendId| pool.may_resume(b) && of_family.contains(b) && self.health.is_up(b);
        let now = super::share::session_time(now);
        self.affinity.lookup_into(Some(client), &self.readings.draft, now, may_resume, found);
    }

    /// Notes what the tables say of the draft, and reads along what the server will answer, if its cookies count.
    pub(super) fn request_decided(
        &mut self,
        id: FlowId,
        client: u64,
        found: &Lookup,
        chosen: Option<BackendId>,
        now: Time,
    ) {
        let Engine { flows, readings, trails, affinity, directory, .. } = self;
        let c = flows.get_mut(id);
        let offered: arrayvec::ArrayVec<IdentityKind, 3> = readings.draft.iter().map(Identity::kind).take(1).collect();
        c.record.offered = offered.into();
        trail::note_offer(trails, c.record.number, &readings.draft, found, chosen);
        let Some(backend) = chosen else { return };
        affinity.chosen(found, backend);
        let (service, start) = (c.record.service, c.cookie + 1);
        let Some(name) = directory.service(service).and_then(Service::cookie).cloned() else { return };
        let led = found.decision.as_ref().and_then(|d| self.readings.draft.iter().find(|i| *i.key() == d.key));
        let offered = led.or(self.readings.draft.first()).copied();
        self.open_reading(id, client, (name.as_str().as_bytes(), offered), start, now);
    }

    fn open_reading(
        &mut self,
        id: FlowId,
        client: u64,
        asks: (&[u8], Option<Identity>),
        start: crate::wire::Seq,
        now: Time,
    ) {
        let Engine { flows, readings, buffers, counters, .. } = self;
        // One whose dial failed is chosen anew.
        http::close(flows.get_mut(id), readings, buffers);
        if let Some(flow) = readings.next_to_yield(now) {
            counters.unwatched += 1;
            http::close(flows.get_mut(flow), readings, buffers);
            self.refresh(flow);
        }
        let Engine { flows, readings, counters, .. } = self;
        let reading = readings.open(id, client, asks, start, now);
        counters.unwatched += u64::from(reading.is_none());
        flows.get_mut(id).http = reading;
    }

    /// Places to read in, once a service follows a cookie. They stay.
    pub(super) fn provide_readings(&mut self) {
        if self.directory.services().any(|service| service.cookie().is_some()) {
            self.readings.provide(self.config.limits.watches);
        }
    }
}
