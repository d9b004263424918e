//! Which backend: by identity where the tables know one, else by the balancing algorithm.

use super::Engine;
use crate::flow::{FlowId, Key, Side};
use crate::tcp::action::Choice;
use crate::tcp::connection::{Opening, State};
use crate::tcp::{Class, flight};
use crate::time::Time;
use crate::tls::{Late, server_name};
use crate::wire::{Addr, Family, Seq};
use lb::{Algorithm, BackendId, HashOn, Hints, IdentityKind, Lookup, Millis, PoolId, Service, ServiceId};
use siphasher::sip::SipHasher13;
use ssl_parse::{ClientHello, Outcome};

impl Engine {
    /// The first backend for a connection; none when there is none.
    pub(super) fn choose(&mut self, id: FlowId, choice: Choice, now: Time) -> Option<BackendId> {
        match choice {
            Choice::ByHello => return self.choose_by_hello(id, now),
            Choice::NotTls => {
                self.flows.get_mut(id).record.class = Some(Class::NonSecure);
                self.counters.non_secure += 1;
            }
            Choice::Silent => {
                // Who has said nothing may still say a hello, see `late`.
                self.counters.silent += 1;
                self.flows.get_mut(id).late = Late::Awaited;
            }
        }
        self.balance(id)
    }

    /// Reads the hello, or as much of it as there is, and chooses by it. One that cannot be read is balanced: only bounds refuse.
    fn choose_by_hello(&mut self, id: FlowId, now: Time) -> Option<BackendId> {
        let Engine { flows, buffers, joined, counters, config, directory, affinity, flights, .. } = self;
        let connection = flows.get(id);
        let State::Opening(Opening { held, .. }) = &connection.state else { return None };
        let (service, own) = (directory.service(connection.record.service), connection.record.pool);
        let stream = held.stream.contiguous(buffers);
        let mut read = |hello: &ClientHello<'_>| {
            flights.draft_mut().read_at_head_of(stream, hello, |offered| affinity.identify(offered, millis(now)));
            let pool = service.map_or(own, |service| route(service, hello));
            (pool, if config.keep_names { server_name(hello) } else { None })
        };
        let read = match ssl_parse::client_hello(stream, joined) {
            Outcome::Complete(hello) => Some(read(&hello)),
            _ => {
                counters.hellos_unread += 1;
                ssl_parse::client_hello_so_far(stream, joined).map(|hello| read(&hello))
            }
        };
        counters.secure += 1;
        let record = &mut self.flows.get_mut(id).record;
        record.class = Some(Class::Secure);
        match read {
            Some((pool, name)) => {
                record.pool = pool;
                record.sni = name;
                self.choose_for_offer(id, now)
            }
            // It began as a hello, and nothing can be read of it. The server says what is wrong.
            None => self.balance(id),
        }
    }

    /// Asks the table for what stands in the draft, and chooses.
    fn choose_for_offer(&mut self, id: FlowId, now: Time) -> Option<BackendId> {
        let key = self.flows.key(id, Side::Client)?;
        let record = &self.flows.get(id).record;
        let (service, pool) = (self.directory.service(record.service), self.directory.pool(record.pool));
        let client = self.client_identity(key.src);
        let mut found = Lookup::default();
        if let Some(pool) = pool.filter(|_| service.is_some_and(|s| s.policy().affinity)) {
            // Rows lead within the pool that the hello was routed to. The set first: it is small, and at hand.
            let of_family = self.routes.revision.of_family(key.family());
            let may_resume = |b: BackendId| pool.may_resume(b) && of_family.contains(b) && self.health.is_up(b);
            let offer = self.flights.draft();
            self.affinity.lookup_into(Some(client), offer.identities(), millis(now), may_resume, &mut found);
            if found.decision.is_none() && !offer.is_unknown(&found) {
                // Nothing is asked for: a session ID that nobody knows, of a client that would send a random one.
                found.clear();
            }
        }
        if found.decision.is_none() && matches!(found.kind, Some(IdentityKind::Psk | IdentityKind::Ticket)) {
            pool.into_iter().for_each(|pool| self.noticed.strange_ticket(pool.backends()));
        }
        let chosen = self.pick(id, &key, &found, &[]);
        let connection = self.flows.get_mut(id);
        let cookie = connection.cookie;
        let record = &mut connection.record;
        if let Some(decision) = &found.decision {
            record.reason = Some(decision.reason);
            record.key = Some(decision.key);
            record.id_decided = decision.reason.kind() == lb::IdentityKind::SessionId;
            record.decided = chosen.filter(|b| decision.backends.contains(*b)).or(decision.backends.iter().next());
            record.decided.into_iter().for_each(|b| self.unfinished.refer(b));
        }
        let id_known = record.id_decided;
        record.offered = self.flights.draft().kinds(id_known, None, None);
        let backend = chosen?;
        self.affinity.chosen(&found, backend);
        self.open_flight(id, client, id_known, cookie + 1, now);
        Some(backend)
    }

    /// Reads along what the server is going to answer to `client` (see [`lb::Sighting::client`]), whose offer is the draft, from `start` on.
    /// `id_known`: a row for its session ID decided.
    pub(super) fn open_flight(&mut self, id: FlowId, client: u64, id_known: bool, start: Seq, now: Time) {
        let Engine { flows, flights, buffers, counters, directory, .. } = self;
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
    fn balance(&mut self, id: FlowId) -> Option<BackendId> {
        let record = &mut self.flows.get_mut(id).record;
        if let Some(service) = self.directory.service(record.service) {
            record.pool = service.pool();
        }
        let key = self.flows.key(id, Side::Client)?;
        self.pick(id, &key, &Lookup::default(), &[])
    }

    /// The backend did not take the connection: another one, if there is one that was not tried.
    pub(super) fn choose_another(&mut self, id: FlowId) -> Option<BackendId> {
        let key = self.flows.key(id, Side::Client)?;
        let tried = self.flows.get_mut(id).opening()?.tried.clone();
        if tried.is_full() {
            return None;
        }
        self.route_again(id);
        let backend = self.pick(id, &key, &Lookup::default(), &tried)?;
        self.counters.redispatches += 1;
        Some(backend)
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
        let hello = ssl_parse::client_hello_so_far(held.stream.contiguous(buffers), joined);
        c.record.pool = hello.map_or(service.pool(), |hello| route(service, &hello));
    }

    /// A backend of the client's family that is up, none of `except`; where there is none, one that was added and has not been heard yet. Those
    /// held to be down are not tried, not even as the last resort: the probes that said so go on, and find out that one is back sooner than a
    /// client would who waits for it.
    fn pick(&mut self, id: FlowId, key: &Key, found: &Lookup, except: &[BackendId]) -> Option<BackendId> {
        let Engine { routes, health, directory, balancers, flows, balance, keyed, serial, .. } = self;
        let pool: PoolId = flows.get(id).record.pool;
        let (pool, balancer) = (directory.pool(pool)?, balancers.of(pool)?);
        let of_family = routes.revision.of_family(key.family());
        let fits = |b: BackendId| of_family.contains(b) && !except.contains(&b);
        let only = lb::the_only_one(pool, found, |b| fits(b) && health.is_up(b));
        if only.is_some() {
            return only;
        }
        let address_hash = balance.client(key.src.ip());
        let hints = Hints {
            // No secret in it, so that a restarted dispatcher leads as the one before.
            hash: match pool.hash_on() {
                HashOn::SourceIp => address_hash,
                HashOn::Tuple => balance.tuple(key.source(), key.destination()),
            },
            address_hash,
            // Drawn where somebody asks for it.
            entropy: if pool.balance() == Algorithm::RandomTwo { keyed.hash(&serial.to_le_bytes()) } else { 0 },
        };
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

pub(super) fn millis(now: Time) -> Millis {
    Millis(now.as_millis())
}

/// The pool that a hello is for.
fn route(service: &Service, hello: &ClientHello<'_>) -> PoolId {
    service.pool_for(hello.sni, hello.alpn.into_iter().flatten())
}

/// Who a client is: a host may have any address of its /64, and rarely more than one of IPv4; a site has a /48, or a /24.
fn client_identity(keyed: &SipHasher13, addr: Addr) -> u64 {
    let of = |bytes: &[u8]| keyed.hash(bytes) as u32;
    // Of four lengths, so that no two of them are hashed alike.
    let (host, network) = match addr.family() {
        Family::V4 => (&addr.0[12..], &addr.0[12..15]),
        Family::V6 => (&addr.0[..8], &addr.0[..6]),
    };
    lb::affinity::client(of(network), of(host))
}
