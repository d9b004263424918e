//! Which backend: by identity where the tables know one, else by the balancing algorithm.

use super::Engine;
pub(super) use super::ask::millis;
use super::ask::{Asker, Chosen, Natures, choose_paced, hints};
use super::share::client_identity;
use super::share::session_time;
use super::trail::{self, What};
use crate::flow::{FlowId, Key};
use crate::http::Request;
use crate::tcp::action::Choice;
use crate::tcp::connection::{Opening, State};
use crate::tcp::{Class, flight};
use crate::time::Time;
use crate::tls::{Late, server_name};
use crate::wire::{Addr, Family, Seq};
use lb::admission::Cost;
use lb::{BackendId, IdentityKind, Lookup, PoolId, Service, ServiceId};
use ssl_parse::{ClientHello, Outcome};

impl Engine {
    /// The first backend for a connection, or what else becomes of it.
    pub(super) fn choose(&mut self, id: FlowId, choice: Choice, now: Time) -> Chosen {
        let record = &self.flows.get(id).record;
        record.named().into_iter().for_each(|named| trail::named(&mut self.trails, record.number, named.client));
        match choice {
            Choice::ByHello => {
                self.counters.secure += 1;
                self.flows.get_mut(id).record.class = Some(Class::Secure);
                self.note(id, What::Hello, now);
                return self.choose_by_hello(id, true, now);
            }
            Choice::ByRequest => {
                self.flows.get_mut(id).record.class = Some(Class::NonSecure);
                self.counters.non_secure += 1;
                self.note(id, What::Request, now);
                return self.choose_by_request(id, true, now);
            }
            Choice::NotTls => {
                self.flows.get_mut(id).record.class = Some(Class::NonSecure);
                self.counters.non_secure += 1;
                self.note(id, What::NotTls, now);
            }
            Choice::Silent => {
                // Who has said nothing may still say a hello, see `late`.
                self.counters.silent += 1;
                self.flows.get_mut(id).late = Late::Awaited;
                self.note(id, What::Silent, now);
            }
        }
        self.choose_by_algorithm(id, now)
    }

    /// One that waited where nobody waits any more: once more from the beginning, as far as that counts nothing twice.
    pub(super) fn choose_anew(&mut self, id: FlowId, now: Time) -> Chosen {
        match self.flows.get(id).record.class {
            Some(Class::Secure) => self.choose_by_hello(id, false, now),
            _ => self.choose_by_request(id, false, now),
        }
    }

    /// Chooses by the request of plain HTTP/1, or as much of it as there is; one in which nothing can be read is balanced. `first`: it was not read before.
    fn choose_by_request(&mut self, id: FlowId, first: bool, now: Time) -> Chosen {
        let Some((pool, natures)) = self.read_request(id, first) else { return self.choose_by_algorithm(id, now) };
        self.flows.get_mut(id).record.pool = pool;
        let Some(asker) = self.asker(id) else { return Chosen::Nobody };
        let client = self.client_identity(asker.client);
        let mut found = Lookup::default();
        self.look_up_cookies(id, client, now, &mut found);
        let chosen = self.choose_found(id, &asker, &found, natures, now);
        let backend = if let Chosen::Backend(backend, _) = &chosen { Some(*backend) } else { None };
        self.note_decision(id, &found, backend);
        self.request_decided(id, client, &found, backend, now);
        chosen
    }

    /// One of plain HTTP/1 that waited goes to `backend`.
    fn request_goes_to(&mut self, id: FlowId, backend: BackendId, now: Time) {
        if self.flows.get(id).http.is_some() || self.read_request(id, false).is_none() {
            return;
        }
        let Some(asker) = self.asker(id) else { return };
        let client = self.client_identity(asker.client);
        let mut found = Lookup::default();
        self.look_up_cookies(id, client, now, &mut found);
        found.decision = found.decision.filter(|d| self.flows.get(id).record.spilled || d.backends.contains(backend));
        self.note_decision(id, &found, Some(backend));
        self.request_decided(id, client, &found, Some(backend), now);
    }

    /// Chooses by the hello, or as much of it as there is. One that cannot be read is balanced: only bounds refuse.
    fn choose_by_hello(&mut self, id: FlowId, first: bool, now: Time) -> Chosen {
        match self.read_hello(id, first, now) {
            Some((pool, natures)) => {
                self.flows.get_mut(id).record.pool = pool;
                self.choose_for_offer(id, natures, now)
            }
            // It began as a hello, and nothing can be read of it. The server says what is wrong.
            None => self.choose_by_algorithm(id, now),
        }
    }

    /// Reads what is held of a hello into the draft: where it is routed to, and of which class it is. `first`: it is counted, and its name is kept.
    fn read_hello(&mut self, id: FlowId, first: bool, now: Time) -> Option<(PoolId, Natures)> {
        let asks = !self.gates.is_empty();
        let asker = if asks { self.asker(id) } else { None };
        let Engine { flows, buffers, joined, counters, config, directory, affinity, flights, trails, .. } = self;
        let connection = flows.get_mut(id);
        let State::Opening(Opening { held, .. }) = &connection.state else { return None };
        let (service, own) = (directory.service(connection.record.service), connection.record.pool);
        let stream = held.stream.contiguous(buffers);
        let (mut name, number) = (None, connection.record.number);
        let mut read = |hello: &ClientHello<'_>| {
            flights.draft_mut().read_at_head_of(stream, hello, |offered| affinity.identify(offered, session_time(now)));
            if first {
                trail::name(trails, number, hello.sni);
            }
            if first && config.keep_names {
                name = server_name(hello);
            }
            let natures = match (service, &asker) {
                (Some(service), Some(asker)) => Natures::of(service, asker, Some(hello), Cost::Full),
                _ => Natures::UNKNOWN,
            };
            (service.map_or(own, |service| route(service, hello)), natures)
        };
        let read = match ssl_parse::client_hello(stream, joined) {
            Outcome::Complete(hello) => Some(read(&hello)),
            _ => {
                counters.hellos_unread += u64::from(first);
                ssl_parse::client_hello_so_far(stream, joined).map(|hello| read(&hello))
            }
        };
        if first && read.is_some() {
            connection.record.keep_name(name);
        }
        read
    }

    /// What the tables know of the draft, for this client.
    #[inline]
    fn look_up(&mut self, id: FlowId, key: &Key, client: u64, now: Time, found: &mut Lookup) {
        let record = &self.flows.get(id).record;
        let (service, pool) = (self.directory.service(record.service), self.directory.pool(record.pool));
        if let Some(pool) = pool.filter(|_| service.is_some_and(|s| s.policy().affinity)) {
            // Rows lead within the pool that the hello was routed to. The set first: it is small, and at hand.
            let of_family = self.routes.revision.of_family(key.family());
            let may_resume = |b: BackendId| pool.may_resume(b) && of_family.contains(b) && self.health.is_up(b);
            let offer = self.flights.draft();
            self.affinity.lookup_into(Some(client), offer.identities(), session_time(now), may_resume, found);
            if found.decision.is_none() && !offer.is_unknown(found) {
                // Nothing is asked for: a session ID that nobody knows, of a client that would send a random one.
                found.clear();
            }
        }
    }

    /// Asks the table for what stands in the draft, and chooses.
    fn choose_for_offer(&mut self, id: FlowId, natures: Natures, now: Time) -> Chosen {
        let Some(asker) = self.asker(id) else { return Chosen::Nobody };
        let client = self.client_identity(asker.client);
        let mut found = Lookup::default();
        self.look_up(id, &asker.key, client, now, &mut found);
        if found.decision.is_none() && matches!(found.kind, Some(IdentityKind::Psk | IdentityKind::Ticket)) {
            let pool = self.directory.pool(self.flows.get(id).record.pool);
            pool.into_iter().for_each(|pool| self.noticed.strange_ticket(pool.backends()));
        }
        let chosen = self.choose_found(id, &asker, &found, natures, now);
        let backend = if let Chosen::Backend(backend, _) = &chosen { Some(*backend) } else { None };
        self.decided(id, client, &found, backend, now);
        chosen
    }

    /// Chooses by what the tables have said.
    #[inline]
    fn choose_found(&mut self, id: FlowId, asker: &Asker, found: &Lookup, natures: Natures, now: Time) -> Chosen {
        match self.gate_of(id) {
            None if self.is_shut_out(id) => Chosen::Nobody,
            None => self.pick(id, asker, found, &[], now).into(),
            Some(gate) => {
                let asks = self.asks(id, gate, asker, found, natures);
                self.ask_for_room(id, gate, found, asks, None, now)
            }
        }
    }

    /// One that waited goes to `backend`: what is offered is read along from now on, as if it had been chosen at once.
    pub(super) fn goes_to(&mut self, id: FlowId, backend: BackendId, now: Time) {
        let c = self.flows.get(id);
        if c.record.class == Some(Class::NonSecure) {
            return self.request_goes_to(id, backend, now);
        }
        if c.record.class != Some(Class::Secure) || c.flight.is_some() || self.read_hello(id, false, now).is_none() {
            return;
        }
        let Some(asker) = self.asker(id) else { return };
        let client = self.client_identity(asker.client);
        let mut found = Lookup::default();
        self.look_up(id, &asker.key, client, now, &mut found);
        // What the tables have learned of its session while it waited has not decided where it goes.
        found.decision = found.decision.filter(|d| self.flows.get(id).record.spilled || d.backends.contains(backend));
        self.decided(id, client, &found, Some(backend), now);
    }

    /// Notes what the tables say of the draft, and reads along what its server will answer.
    #[inline]
    fn decided(&mut self, id: FlowId, client: u64, found: &Lookup, chosen: Option<BackendId>, now: Time) {
        self.note_decision(id, found, chosen);
        let connection = self.flows.get_mut(id);
        let cookie = connection.cookie;
        let record = &mut connection.record;
        let id_known = record.id_decided;
        record.offered = self.flights.draft().kinds(id_known, None, None).into();
        let number = record.number;
        trail::note_offer(&mut self.trails, number, self.flights.draft().identities(), found, chosen);
        let Some(backend) = chosen else { return };
        self.affinity.chosen(found, backend);
        self.open_flight(id, client, id_known, cookie + 1, now);
    }

    /// Notes whom the tables have named.
    #[inline]
    fn note_decision(&mut self, id: FlowId, found: &Lookup, chosen: Option<BackendId>) {
        let record = &mut self.flows.get_mut(id).record;
        if let Some(decision) = &found.decision {
            record.reason = Some(decision.reason);
            record.key = Some(decision.key);
            record.id_decided = decision.reason.kind() == lb::IdentityKind::SessionId;
            let decided = chosen.filter(|b| decision.backends.contains(*b)).or(decision.backends.iter().next());
            let before = core::mem::replace(&mut record.decided, decided);
            decided.into_iter().for_each(|b| self.unfinished.refer(b));
            before.into_iter().for_each(|b| self.unfinished.unrefer(b));
        }
    }

    /// Reads along what the server is going to answer to `client` (see [`lb::Sighting::client`]), whose offer is the draft, from `start` on.
    /// `id_known`: a row for its session ID decided.
    pub(super) fn open_flight(&mut self, id: FlowId, client: u64, id_known: bool, start: Seq, now: Time) {
        let Engine { flows, flights, buffers, counters, directory, .. } = self;
        // One that was chosen before, and whose dial failed, is chosen anew: what was to be read along for it is over.
        flight::close(flows.get_mut(id), flights, buffers);
        if let Some(flow) = flights.next_to_yield(now) {
            counters.unwatched += 1;
            flight::close(flows.get_mut(flow), flights, buffers);
        }
        let c = flows.get_mut(id);
        match flights.open(id, client, id_known, start, now) {
            Some((flight, reading)) => {
                c.flight = Some(flight);
                if directory.service(c.record.service).is_some_and(|s| s.policy().servers_have_ech) {
                    reading.flight.servers_have_ech();
                }
            }
            None => {
                c.flight = None;
                counters.unwatched += 1;
            }
        }
    }

    /// A backend by the algorithm of the pool that the service has now: it may have had another when the client came.
    fn choose_by_algorithm(&mut self, id: FlowId, now: Time) -> Chosen {
        let record = &mut self.flows.get_mut(id).record;
        if let Some(service) = self.directory.service(record.service) {
            record.pool = service.pool();
        }
        let Some(asker) = self.asker(id) else { return Chosen::Nobody };
        match self.gate_of(id) {
            None if self.is_shut_out(id) => Chosen::Nobody,
            None => self.pick(id, &asker, &Lookup::default(), &[], now).into(),
            Some(gate) => {
                let natures = self.natures(id, &asker);
                let asks = self.asks(id, gate, &asker, &Lookup::default(), natures);
                self.ask_for_room(id, gate, &Lookup::default(), asks, None, now)
            }
        }
    }

    /// Of one of which nothing was asked before: by what is held of its hello, if it has said one.
    fn natures(&mut self, id: FlowId, asker: &Asker) -> Natures {
        let Engine { flows, directory, buffers, joined, .. } = self;
        let c = flows.get(id);
        let (State::Opening(Opening { held, .. }), Some(service)) = (&c.state, directory.service(c.record.service))
        else {
            return Natures::UNKNOWN;
        };
        match c.record.class {
            Some(Class::Secure) => {
                let hello = ssl_parse::client_hello_so_far(held.stream.contiguous(buffers), joined);
                Natures::of(service, asker, hello.as_ref(), Cost::Full)
            }
            _ => {
                let request = Request::read(held.stream.contiguous(buffers)).filter(|_| service.reads_requests());
                Natures::of_name(service, asker, request.and_then(|request| request.host()), Cost::NotTls)
            }
        }
    }

    /// The backend did not take the connection: another one, if there is one that was not tried.
    pub(super) fn choose_another(&mut self, id: FlowId, now: Time) -> Chosen {
        let Some(asker) = self.asker(id) else { return Chosen::Nobody };
        let Some(opening) = self.flows.get_mut(id).opening() else { return Chosen::Nobody };
        let (tried, asked) = (opening.tried.clone(), opening.asks);
        if tried.is_full() {
            return Chosen::Nobody;
        }
        if self.flows.get(id).record.slot.is_some() {
            // It is asked for anew, and is not to wait for what it has itself.
            self.leave_backend(id);
        }
        self.route_again(id);
        let chosen = match self.gate_of(id) {
            None if self.is_shut_out(id) => Chosen::Nobody,
            None => self.pick(id, &asker, &Lookup::default(), &tried, now).into(),
            Some(gate) => {
                self.leave_backend(id);
                let asks = asked.unwrap_or_else(|| {
                    let natures = self.natures(id, &asker);
                    self.asks(id, gate, &asker, &Lookup::default(), natures)
                });
                self.ask_for_room(id, gate, &Lookup::default(), asks, tried.last().copied(), now)
            }
        };
        self.counters.redispatches += u64::from(!matches!(chosen, Chosen::Nobody));
        chosen
    }

    /// A flow without a backend, whose pool has gone while its service stays: to the pool that its hello is routed to now.
    fn route_again(&mut self, id: FlowId) {
        let Engine { flows, directory, buffers, joined, .. } = self;
        let c = flows.get_mut(id);
        let State::Opening(Opening { held, .. }) = &c.state else { return };
        if directory.pool(c.record.pool).is_some() {
            return;
        }
        let Some(service) = directory.service(c.record.service) else { return };
        let held = held.stream.contiguous(buffers);
        let hello = ssl_parse::client_hello_so_far(held, joined);
        let request = || Request::read(held).filter(|_| service.reads_requests());
        c.record.pool = match (hello, c.record.class) {
            (Some(hello), _) => route(service, &hello),
            (None, Some(Class::NonSecure)) => request().map_or(service.pool(), |r| super::request::route(service, &r)),
            (None, _) => service.pool(),
        };
    }

    /// A backend of the client's family that is up, none of `except`; where there is none, one that was added and has not been heard yet. Those
    /// held to be down are not tried, not even as the last resort: the probes that said so go on, and find out that one is back sooner than a
    /// client would who waits for it.
    fn pick(
        &mut self,
        id: FlowId,
        asker: &Asker,
        found: &Lookup,
        except: &[BackendId],
        now: Time,
    ) -> Option<BackendId> {
        let Engine { routes, health, directory, balancers, flows, balance, keyed, serial, pace, .. } = self;
        let pool: PoolId = flows.get(id).record.pool;
        let (pool, balancer) = (directory.pool(pool)?, balancers.of(pool)?);
        let of_family = routes.revision.of_family(asker.key.family());
        let fits = |b: BackendId| of_family.contains(b) && !except.contains(&b);
        let only = lb::the_only_one(pool, found, |b| fits(b) && health.is_up(b));
        if only.is_some() {
            return only;
        }
        let hints = hints(pool, asker, balance, || keyed.hash(&serial.to_le_bytes()));
        if pace.is_on() {
            let may = |b: BackendId| fits(b) && health.is_up(b);
            let paced = choose_paced(pace, balancer, pool, found, hints, *serial, now, may);
            if paced.is_some() {
                return paced;
            }
        }
        lb::choose(balancer, pool, found, hints, |b| fits(b) && health.is_up(b))
            .or_else(|| lb::choose(balancer, pool, found, hints, |b| fits(b) && health.is_fresh(b)))
    }

    /// Some backend of the service and of the family is up that may take a connection, by whatever pool: which it will be, the hello
    /// says. One that drains may: the client may have a session there.
    pub(super) fn serves(&self, service: ServiceId, family: Family) -> bool {
        self.directory.service(service).is_some_and(|service| self.health.serves(family, service.resumes()))
    }

    /// Who the client is, as far as the affinity table cares: see [`lb::Sighting::client`].
    pub(super) fn client_identity(&self, client: Addr) -> u64 {
        client_identity(&self.keyed, client)
    }
}

/// The pool that a hello is for.
fn route(service: &Service, hello: &ClientHello<'_>) -> PoolId {
    service.pool_for(hello.sni, hello.alpn.into_iter().flatten())
}
