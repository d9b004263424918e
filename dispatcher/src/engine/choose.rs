//! Which backend: by identity where the tables know one, else by the balancing algorithm.

use super::connection::State;
use super::record::{Class, End};
use super::session::{Offer, Watch};
use super::{AddressMode, DropReason, Effects, Engine, HashOn};
use crate::flow::{FlowId, Side, Tuple};
use crate::time::Time;
use crate::wire::{Addr, Family, Seq};
use lb::affinity::host_tag;
use lb::{BackendId, Hints, Lookup, Millis};
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
        let may_resume = |b: BackendId| {
            self.routes.backends[b.index()].addr.family() == family && self.health.is_up(b) && self.pool.may_resume(b)
        };
        let mut found = Lookup::default();
        if self.config.affinity {
            let client = Some(self.client_identity(&tuple));
            found = self.affinity.lookup_of(client, offer.identities(), millis(now), may_resume);
            if found.decision.is_none() && !offer.is_unknown(&found) {
                // Nothing is asked for: a session ID that nobody knows, of a client that would send a random one.
                found = Lookup::default();
            }
        }
        let chosen = self.pick(&tuple, &found, &[]);
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
        }
        let id_known = story.id_decided;
        story.offered = offer.kinds(id_known, None, None).iter().map(|k| k.as_str()).collect();
        let Some(backend) = chosen else { return self.give_up(id, now, fx) };
        self.affinity.chosen(&found, backend);
        self.open_watch(id, Watch::new(offer, id_known), &tuple, cookie + 1, now);
        self.dial(id, backend, now, fx);
    }

    /// Reads along what the server is going to answer, from `start` on.
    fn open_watch(&mut self, id: FlowId, watch: Watch, tuple: &Tuple, start: Seq, now: Time) {
        if let Some(flow) = self.watches.to_give_way(now) {
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
        self.balance(id, Class::Secure, now, fx);
    }

    /// Not TLS, or a client that waits for the server to speak: choose by the algorithm, dial.
    pub(super) fn choose_without_identity(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        self.counters.non_secure += 1;
        self.balance(id, Class::NonSecure, now, fx);
    }

    fn balance(&mut self, id: FlowId, class: Class, now: Time, fx: &mut dyn Effects) {
        let Some(tuple) = self.flows.tuple(id, Side::Client).copied() else { return };
        self.flows.get_mut(id).story.class = Some(class);
        match self.pick(&tuple, &Lookup::default(), &[]) {
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
        match self.pick(&tuple, &Lookup::default(), &tried) {
            Some(backend) => {
                self.counters.redispatches += 1;
                self.dial(id, backend, now, fx);
            }
            None => self.give_up(id, now, fx),
        }
    }

    /// Nobody left to ask.
    fn give_up(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        self.counters.refused[DropReason::NoBackend as usize] += 1;
        self.reset_client(id, fx);
        self.abandon(id, End::NoBackend, now, fx);
    }

    /// A backend of the client's family, none of `except`. Those held to be down are asked only when no other is left: they
    /// may have come back, and the client has nothing to lose.
    fn pick(&mut self, tuple: &Tuple, found: &Lookup, except: &[BackendId]) -> Option<BackendId> {
        let family = family_of(tuple);
        let hints = Hints {
            hash: self.balance_hash(tuple),
            address_hash: self.balance.client(Addr(tuple.src).ip()),
            entropy: self.keyed.hash(&self.serial.to_le_bytes()),
            fallback: self.config.resume_fallback,
        };
        let Engine { routes, health, pool, balancer, .. } = self;
        let fits = |b: BackendId| routes.backends[b.index()].addr.family() == family && !except.contains(&b);
        lb::choose(balancer, pool, found, hints, |b| fits(b) && health.is_up(b))
            .or_else(|| lb::choose(balancer, pool, found, hints, fits))
    }

    /// What picks a backend goes by: no secret in it, so that a restarted dispatcher leads as the one before.
    fn balance_hash(&self, tuple: &Tuple) -> u64 {
        match self.config.hash_on {
            HashOn::SourceIp => self.balance.client(Addr(tuple.src).ip()),
            HashOn::Tuple => self.balance.tuple(tuple.source(), tuple.destination()),
        }
    }

    /// A keyed hash of addresses and ports.
    pub(super) fn tuple_hash(&self, tuple: &Tuple) -> u64 {
        self.keyed.hash(&tuple.to_bytes())
    }

    /// A hash of the client's address alone.
    fn client_hash(&self, tuple: &Tuple) -> u64 {
        self.keyed.hash(&tuple.src)
    }

    /// Who the client is, as far as the affinity table cares: see [`lb::Sighting::client`].
    pub(super) fn client_identity(&self, tuple: &Tuple) -> u64 {
        client_identity(&self.keyed, Addr(tuple.src))
    }

    /// The tuple in which a backend's answers will arrive, from a local port that is free. In DNAT mode there is only one.
    pub(super) fn server_tuple(&mut self, client: &Tuple, backend: BackendId) -> Option<Tuple> {
        let Engine { routes, flows, local_ports, config, returning, worker, workers, .. } = self;
        let route = &routes.backends[backend.index()];
        let tuple = |local: Addr, port| Tuple { src: route.addr.0, sport: route.port, dst: local.0, dport: port };
        if config.address_mode == AddressMode::Dnat {
            return Some(tuple(Addr(client.src), client.sport)).filter(|t| !flows.contains(t));
        }
        let scattered = returning.knows_cards();
        // Whose the port is first: it is the cheaper question, and mostly the one that is answered no.
        let free = |port: u16| {
            let tuple = tuple(route.source, port);
            (!scattered || returning.owner(&tuple) == Some(*worker)) && !flows.contains(&tuple)
        };
        let tries = if scattered { PORT_TRIES * *workers } else { PORT_TRIES };
        let port = local_ports.next(backend.index(), free, tries)?;
        Some(tuple(route.source, port))
    }
}

/// Local ports of one's own looked at for one dial.
const PORT_TRIES: usize = 512;

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
