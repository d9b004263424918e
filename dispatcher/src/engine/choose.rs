//! Which backend: by identity where the tables know one, else by the balancing algorithm.

use super::admit::route;
use super::connection::State;
use super::late::Late;
use super::record::{Class, End};
use super::session::{Offer, Watch};
use super::{DropReason, Effects, Engine};
use crate::flow::{FlowId, Side, Tuple};
use crate::time::Time;
use crate::wire::{Addr, Family, Seq};
use lb::affinity::host_tag;
use lb::{BackendId, HashOn, Hints, Lookup, Millis, PoolId, ServiceId};
use siphasher::sip::SipHasher13;

impl Engine {
    /// The hello is complete: ask the table, choose, dial.
    pub(super) fn choose_for_hello(
        &mut self,
        id: FlowId,
        offer: Offer,
        name: Option<Box<str>>,
        now: Time,
        fx: &mut dyn Effects,
    ) {
        self.counters.secure += 1;
        let Some(tuple) = self.flows.tuple(id, Side::Client).copied() else { return };
        let family = family_of(&tuple);
        let story = &self.flows.get(id).story;
        let (service, pool) = (self.directory.service(story.service), self.directory.pool(story.pool));
        let mut found = Lookup::default();
        if let Some(pool) = pool.filter(|_| service.is_some_and(|s| s.policy().affinity)) {
            // Rows lead within the pool that the hello was routed to. The set first: it is small, and at hand.
            let of_family = self.routes.revision.of_family(family);
            let may_resume = |b: BackendId| pool.may_resume(b) && of_family.contains(b) && self.health.is_up(b);
            let client = Some(self.client_identity(&tuple));
            found = self.affinity.lookup_of(client, offer.identities(), millis(now), may_resume);
            if found.decision.is_none() && !offer.is_unknown(&found) {
                // Nothing is asked for: a session ID that nobody knows, of a client that would send a random one.
                found = Lookup::default();
            }
        }
        let chosen = self.pick(id, &tuple, &found, &[]);
        let connection = self.flows.get_mut(id);
        let cookie = connection.cookie;
        let story = &mut connection.story;
        story.class = Some(Class::Secure);
        story.sni = name;
        if let Some(decision) = &found.decision {
            story.reason = decision.reason.as_str();
            story.key = Some(decision.key);
            story.id_decided = decision.reason.kind() == lb::IdentityKind::SessionId;
            story.decided = chosen.filter(|b| decision.backends.contains(*b)).or(decision.backends.iter().next());
            story.decided.into_iter().for_each(|b| self.unfinished.refer(b));
        }
        let id_known = story.id_decided;
        story.offered = offer.kinds(id_known, None, None).iter().map(|k| k.as_str()).collect();
        let Some(backend) = chosen else { return self.give_up(id, now, fx) };
        self.affinity.chosen(&found, backend);
        self.open_watch(id, Watch::new(offer, id_known), &tuple, cookie + 1, now);
        self.dial(id, backend, now, fx);
    }

    /// Reads along what the server is going to answer, from `start` on.
    pub(super) fn open_watch(&mut self, id: FlowId, mut watch: Watch, tuple: &Tuple, start: Seq, now: Time) {
        let service = self.directory.service(self.flows.get(id).story.service);
        if service.is_some_and(|s| s.policy().servers_have_ech) {
            watch.servers_have_ech();
        }
        if let Some(flow) = self.watches.next_to_yield(now) {
            self.counters.unwatched += 1;
            self.unwatch(flow);
        }
        let client = host_tag(self.client_identity(tuple));
        let watch = self.watches.open(id, client, watch, start, now);
        self.counters.unwatched += u64::from(watch.is_none());
        self.flows.get_mut(id).watch = watch;
    }

    /// It began as a hello, and nothing can be read of it: choose by the algorithm, dial. The server says what is wrong.
    pub(super) fn choose_for_unread_hello(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        self.counters.secure += 1;
        self.flows.get_mut(id).story.class = Some(Class::Secure);
        self.balance(id, now, fx);
    }

    /// Not TLS, or a client that waits for the server to speak: choose by the algorithm, dial.
    pub(super) fn choose_without_identity(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        // Who has said nothing may still say a hello, see `late`.
        if self.flows.get(id).late == Late::No {
            self.flows.get_mut(id).story.class = Some(Class::NonSecure);
            self.counters.non_secure += 1;
        }
        self.balance(id, now, fx);
    }

    /// By the algorithm of the pool that the service has now: it may have had another when the client came.
    fn balance(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let story = &mut self.flows.get_mut(id).story;
        if let Some(service) = self.directory.service(story.service) {
            story.pool = service.pool();
        }
        let Some(tuple) = self.flows.tuple(id, Side::Client).copied() else { return };
        match self.pick(id, &tuple, &Lookup::default(), &[]) {
            Some(backend) => self.dial(id, backend, now, fx),
            None => self.give_up(id, now, fx),
        }
    }

    /// The backend did not take the connection: another one, if there is one that was not tried.
    pub(super) fn redispatch(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let Some(tuple) = self.flows.tuple(id, Side::Client).copied() else { return };
        let State::Dialing(dialing) = &self.flows.get(id).state else { return };
        if dialing.tried.is_full() {
            return self.give_up(id, now, fx);
        }
        let tried = dialing.tried.clone();
        self.route_again(id);
        match self.pick(id, &tuple, &Lookup::default(), &tried) {
            Some(backend) => {
                self.counters.redispatches += 1;
                self.dial(id, backend, now, fx);
            }
            None => self.give_up(id, now, fx),
        }
    }

    /// A flow that is being dialled, and whose pool has gone while its service stays: to the pool that its hello is routed to now.
    fn route_again(&mut self, id: FlowId) {
        let Engine { flows, directory, buffers, joined, .. } = self;
        let c = flows.get_mut(id);
        let State::Dialing(dialing) = &c.state else { return };
        if directory.pool(c.story.pool).is_some() {
            return;
        }
        let Some(service) = directory.service(c.story.service) else { return };
        let hello = ssl_parse::client_hello_so_far(dialing.held.stream.contiguous(buffers), joined);
        c.story.pool = hello.map_or(service.pool(), |hello| route(service, &hello));
    }

    /// Nobody left to ask.
    fn give_up(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        self.counters.refused[DropReason::NoBackend as usize] += 1;
        // The last one asked was there, and refused nothing but the port.
        let port_in_use = matches!(&self.flows.get(id).state, State::Dialing(d) if d.challenges > 0);
        self.reset_client(id, fx);
        self.abandon(id, if port_in_use { End::PortInUse } else { End::NoBackend }, now, fx);
    }

    /// A backend of the client's family that is up, none of `except`; where there is none, one that was added and has not been heard yet. Those
    /// held to be down are not tried, not even as the last resort: the probes that said so go on, and find out that one is back sooner than a
    /// client would who waits for it.
    fn pick(&mut self, id: FlowId, tuple: &Tuple, found: &Lookup, except: &[BackendId]) -> Option<BackendId> {
        let family = family_of(tuple);
        let Engine { routes, health, directory, balancers, flows, balance, keyed, serial, .. } = self;
        let pool: PoolId = flows.get(id).story.pool;
        let (pool, balancer) = (directory.pool(pool)?, balancers.of(pool)?);
        let address_hash = balance.client(Addr(tuple.src).ip());
        let hints = Hints {
            // No secret in it, so that a restarted dispatcher leads as the one before.
            hash: match pool.hash_on() {
                HashOn::SourceIp => address_hash,
                HashOn::Tuple => balance.tuple(tuple.source(), tuple.destination()),
            },
            address_hash,
            entropy: keyed.hash(&serial.to_le_bytes()),
        };
        let of_family = routes.revision.of_family(family);
        let fits = |b: BackendId| of_family.contains(b) && !except.contains(&b);
        lb::choose(balancer, pool, found, hints, |b| fits(b) && health.is_up(b))
            .or_else(|| lb::choose(balancer, pool, found, hints, |b| fits(b) && health.is_fresh(b)))
    }

    /// Some backend of the service and of the family is up that may take a connection, by whatever pool: which it will be, the hello
    /// says. One that drains may: the client may have a session there.
    pub(super) fn serves(&self, service: ServiceId, family: Family) -> bool {
        self.directory.service(service).is_some_and(|service| self.health.serves(family, service.resumes()))
    }

    /// A keyed hash of addresses and ports.
    pub(super) fn tuple_hash(&self, tuple: &Tuple) -> u64 {
        self.keyed.hash(&tuple.to_bytes())
    }

    /// Who the client is, as far as the affinity table cares: see [`lb::Sighting::client`].
    pub(super) fn client_identity(&self, tuple: &Tuple) -> u64 {
        client_identity(&self.keyed, Addr(tuple.src))
    }
}

pub(super) fn millis(now: Time) -> Millis {
    Millis(now.as_millis())
}

/// Who a client is: a host may have any address of its /64, and rarely more than one of IPv4; a site has a /48, or a /24.
fn client_identity(keyed: &SipHasher13, addr: Addr) -> u64 {
    let of = |bytes: &[u8]| keyed.hash(bytes) as u32;
    let (host, network) = match addr.family() {
        Family::V4 => (&addr.0[..], &addr.0[..15]),
        Family::V6 => (&addr.0[..8], &addr.0[..6]),
    };
    lb::affinity::client(of(network), of(host))
}

/// The family of a flow's client.
pub(super) fn family_of(tuple: &Tuple) -> Family {
    Addr(tuple.src).family()
}
