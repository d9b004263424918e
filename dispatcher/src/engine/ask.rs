//! Asks for room at a backend, where backends have limits: for whom, of which class, at what cost; and what becomes of one for whom there is none.

use super::Engine;
use super::admission::Token;
use super::pace::Pace;
use crate::flow::{FlowId, Key, Side};
use crate::path::GateId;
use crate::tcp::connection::{Asks, Opening, State};
use crate::tcp::{Class, wait};
use crate::time::Time;
use crate::wire::Addr;
use lb::admission::{Answer, ClassId, Cost, Nature, Request, Slot};
use lb::{
    Algorithm, BackendId, Balancer, HashOn, Hints, Lookup, Member, Millis, Pool, Reason, ResumeFallback, Service,
};
use ssl_parse::ClientHello;
use std::net::SocketAddr;

/// What a choice comes to.
#[must_use = "it may hold a slot"]
pub(super) enum Chosen {
    /// This one, with what it has of its limits, where it was asked.
    Backend(BackendId, Option<Slot>),
    /// It waits for one to have room.
    Waits,
    /// None has room, and there is no place to wait.
    Refused,
    /// There is none.
    Nobody,
}

impl From<Option<BackendId>> for Chosen {
    /// Where nobody is asked.
    fn from(chosen: Option<BackendId>) -> Chosen {
        chosen.map_or(Chosen::Nobody, |backend| Chosen::Backend(backend, None))
    }
}

/// Whose a connection is: by this it is led, classed and charged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    /// The key of its client's frames.
    pub key: Key,
    /// The client: its sender, or whom an accepted PROXY header names.
    pub client: Addr,
    /// Its port.
    pub port: u16,
}

impl Asker {
    /// Its address and port.
    pub fn source(&self) -> SocketAddr {
        self.client.socket(self.port)
    }
}

/// The class of a request, by what it will turn out to cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Natures {
    /// If a server can resume its session.
    pub resumed: ClassId,
    /// If none can.
    pub other: ClassId,
}

impl Natures {
    /// Where nothing can be said: of the last class, whichever that is.
    pub const UNKNOWN: Natures = Natures { resumed: ClassId(u8::MAX), other: ClassId(u8::MAX) };

    /// Of a client of this service, that said `hello` or none.
    pub fn of(service: &Service, asker: &Asker, hello: Option<&ClientHello<'_>>, other: Cost) -> Natures {
        let alpn = hello.and_then(|hello| hello.alpn);
        Natures::classed(service, asker, hello.and_then(|hello| hello.sni), alpn.into_iter().flatten(), other)
    }

    /// The same of one that does not speak TLS, and said perhaps for whom its request is.
    pub fn of_name(service: &Service, asker: &Asker, host: Option<&[u8]>, other: Cost) -> Natures {
        Natures::classed(service, asker, host, core::iter::empty(), other)
    }

    fn classed<'a>(
        service: &Service,
        asker: &Asker,
        sni: Option<&'a [u8]>,
        alpn: impl Iterator<Item = &'a [u8]> + Clone,
        other: Cost,
    ) -> Natures {
        let (listener, client) = (asker.key.destination(), asker.client.ip());
        let class = |cost| {
            let nature = Nature { listener, client, sni, cost };
            service.policy().classes.class_of(&nature, alpn.clone())
        };
        Natures { resumed: class(Cost::Resumed), other: class(other) }
    }
}

impl Engine {
    /// Whose a flow is.
    #[inline]
    pub(super) fn asker(&self, id: FlowId) -> Option<Asker> {
        let key = self.flows.key(id, Side::Client)?;
        Some(match self.record(id).named() {
            None => Asker { key, client: key.src, port: key.sport },
            Some(named) => Asker { key, client: Addr::from(named.client.ip()), port: named.client.port() },
        })
    }

    /// Where a flow must ask: none where no backend of its pool has a limit.
    #[inline]
    pub(super) fn gate_of(&mut self, id: FlowId) -> Option<GateId> {
        if self.gates.is_empty() {
            return None;
        }
        let gate = self.gate_id(id)?;
        self.gates.find(gate).map(|_| gate)
    }

    /// Where nobody is asked although there are limits, because its service has gone: nobody is let past them.
    #[inline]
    pub(super) fn is_shut_out(&mut self, id: FlowId) -> bool {
        !self.gates.is_empty() && {
            let record = &self.flows.get(id).record;
            let (service, pool) = (self.directory.service(record.service), self.directory.pool(record.pool));
            let binds = |m: &Member| self.directory.backend(m.id).is_some_and(|b| b.limits.bind());
            service.is_none() && pool.is_some_and(|pool| pool.members().iter().any(binds))
        }
    }

    /// What it asks for, by what the tables know.
    pub(super) fn asks(&mut self, id: FlowId, gate: GateId, asker: &Asker, found: &Lookup, natures: Natures) -> Asks {
        let Engine { directory, balancers, flows, gates, health, balance, keyed, serial, .. } = self;
        let c = flows.get_mut(id);
        let class = c.record.class;
        let full = if class == Some(Class::NonSecure) { Cost::NotTls } else { Cost::Full };
        let other = Asks { class: natures.other, cost: full, own: None };
        let Some(decision) = &found.decision else { return other };
        let (Some(pool), Some(balancer), Some(gate)) =
            (directory.pool(gate.pool), balancers.of(gate.pool), gates.find(gate))
        else {
            return other;
        };
        // A guess may turn out to be a full handshake.
        let (class, cost) = match decision.reason {
            // There is no handshake.
            Reason::Cookie => (natures.other, full),
            _ if decision.proven => (natures.resumed, Cost::Resumed),
            _ => (natures.other, Cost::Full),
        };
        let hints = hints(pool, asker, balance, || keyed.hash(&serial.to_le_bytes()));
        let admission = &gates.at(gate).admission;
        let is_member = |b: BackendId| admission.is_up(b, true) && health.is_up(b);
        let roomy = |b: BackendId| is_member(b) && admission.has_room(b, class, cost);
        let own = lb::choose_own(balancer, pool, found, hints, roomy)
            .or_else(|| lb::choose_own(balancer, pool, found, hints, is_member));
        match own {
            Some(_) => Asks { class, cost, own },
            None => other,
        }
    }

    /// Asks. `failed`: the dial to that one did, and its slot was given back.
    pub(super) fn ask_for_room(
        &mut self,
        id: FlowId,
        gate: GateId,
        found: &Lookup,
        asks: Asks,
        failed: Option<BackendId>,
        now: Time,
    ) -> Chosen {
        let Some(asker) = self.asker(id) else { return Chosen::Nobody };
        let token = Token { id, generation: self.flows.generation(id) };
        let Engine { directory, balancers, flows, gates, balance, keyed, serial, pace, .. } = self;
        let (Some(pool), Some(balancer), Some(n)) =
            (directory.pool(gate.pool), balancers.of(gate.pool), gates.find(gate))
        else {
            return Chosen::Nobody;
        };
        let admission = &mut gates.at(n).admission;
        let c = flows.get_mut(id);
        let State::Opening(Opening { tried, asks: asked, .. }) = &mut c.state else { return Chosen::Nobody };
        let (Asks { class, cost, own }, tried) = (asks, &*tried);
        *asked = Some(asks);
        c.record.queue_class = Some(class);
        let may_ask = |b: BackendId| admission.is_up(b, own == Some(b)) && !tried.contains(&b);
        if !admission.members().iter().any(|b| may_ask(*b)) {
            return Chosen::Nobody;
        }
        let hints = hints(pool, &asker, balance, || keyed.hash(&serial.to_le_bytes()));
        let pick = |may: &dyn Fn(BackendId) -> bool| {
            let may = |b: BackendId| !tried.contains(&b) && may(b);
            let paced =
                if pace.is_on() { choose_paced(pace, balancer, pool, found, hints, *serial, now, may) } else { None };
            paced.or_else(|| lb::choose(balancer, pool, found, hints, may))
        };
        let request = Request { token: token.to_word(), class, cost, own };
        let answer = match failed {
            Some(failed) => admission.again(millis(now), request, failed, pick),
            None => admission.admit(millis(now), request, pick),
        };
        match answer {
            Answer::Admitted(slot) => {
                c.record.spilled |= own.is_some_and(|own| own != slot.backend());
                Chosen::Backend(slot.backend(), Some(slot))
            }
            Answer::Wait(ticket) => {
                let may_be_large = gates.large < gates.most_large;
                let Engine { flows, buffers, gates, .. } = self;
                let c = flows.get_mut(id);
                if !wait::begin(c, buffers, ticket, may_be_large, now) {
                    gates.at(n).admission.cannot_keep(ticket);
                    return Chosen::Refused;
                }
                gates.large += usize::from(c.queued().is_some_and(|queued| queued.large));
                Chosen::Waits
            }
            Answer::Refused(_) => Chosen::Refused,
        }
    }
}

/// As [`lb::choose`], where backends that have recovered are given only a part of what the algorithm would give them. None where nobody else is left: then it is theirs. Those
/// that the tables name are had as ever.
#[allow(clippy::too_many_arguments)]
pub(super) fn choose_paced(
    pace: &Pace,
    balancer: &mut Balancer,
    pool: &Pool,
    found: &Lookup,
    hints: Hints,
    serial: u64,
    now: Time,
    may: impl Fn(BackendId) -> bool,
) -> Option<BackendId> {
    // A client that is led by what it is stays where that leads it; others are drawn one by one.
    let hash = if pool.balance() == Algorithm::Maglev { hints.hash } else { serial };
    let named = |b: BackendId| found.decision.as_ref().is_some_and(|decision| decision.backends.contains(b));
    let passed = |b: BackendId| !named(b) && pace.passes_by(b, hash, millis(now));
    let by_address = found.kind.is_some() && pool.resume_fallback() == ResumeFallback::SourceIp;
    if pool.balance() != Algorithm::LeastConn || by_address {
        return lb::choose(balancer, pool, found, hints, |b| may(b) && !passed(b));
    }
    // One that has next to no connections would be given each client that does not pass it by: it is to have its part of connections as well, not only of
    // clients. Compared by what it has of its weight, with the best of those that have all of theirs.
    let slow = |b: BackendId| !named(b) && pace.slow(millis(now)).any(|(id, _)| id == b);
    let best = lb::choose(balancer, pool, found, hints, |b| may(b) && !slow(b))?;
    if named(best) {
        return Some(best);
    }
    let load = |b: BackendId| u128::from(pool.connections(b)) + 1;
    // As the load for a weight, without dividing: (connections + 1) / weight.
    let less = |a: (u128, u128), b: (u128, u128)| a.0 * b.1 < b.0 * a.1;
    let mut least = (best, (load(best), 1000 * u128::from(pool.weight(best))));
    for (id, part) in pace.slow(millis(now)) {
        let its = (load(id), u128::from(part) * u128::from(pool.weight(id)));
        if pool.may_take_new(id) && !found.avoid.contains(id) && less(its, least.1) && !passed(id) && may(id) {
            least = (id, its);
        }
    }
    Some(least.0)
}

/// What a choice may go by, beside the tables.
pub(super) fn hints(pool: &Pool, asker: &Asker, balance: &lb::StableHash, entropy: impl FnOnce() -> u64) -> Hints {
    let address_hash = balance.client(asker.client.ip());
    Hints {
        // No secret in it, so that a restarted dispatcher leads as the one before.
        hash: match pool.hash_on() {
            HashOn::SourceIp => address_hash,
            HashOn::Tuple => balance.tuple(asker.source(), asker.key.destination()),
        },
        address_hash,
        // Drawn where somebody asks for it.
        entropy: if pool.balance() == Algorithm::RandomTwo { entropy() } else { 0 },
    }
}

pub(super) fn millis(now: Time) -> Millis {
    Millis(now.as_millis())
}
