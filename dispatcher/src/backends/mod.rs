//! What is known of the backends: whether they answer, and what TCP options they speak.
//!
//! Options are learned from every SYN-ACK (`capabilities`). Whether a backend is down says nothing but a probe of our own (`probes`): a SYN
//! from our address with every option, whose SYN-ACK is answered by a reset, so that the server's application never sees it. It is asked at
//! start, while it is down, and when a client's dial failed. That dial alone is no evidence, whether it was refused or not answered: it carried the client's
//! address (`dnat`) and the client's options, and a server's firewall may refuse that client alone. Believed, one client would take
//! every server away from all others.
//!
//! Backends come and go while it runs ([`Health::add`], [`Health::remove`]). At start all are held to be up: somebody has to be asked. One that
//! comes later is *fresh* until it has answered its first probe: it gets a client only where nobody else is left, so that a server that was
//! added before it was started delays nobody.

mod capabilities;
mod probes;
#[cfg(test)]
mod tests;

pub use capabilities::{Capabilities, OUR_WSCALE, mss_said};
pub use probes::{PROBE_PORT, PROBE_PORTS};

use crate::time::Time;
use crate::wire::options::SynOptions;
use crate::wire::{Addr, Family};
use lb::{BackendId, BackendSet, MAX_BACKENDS};
use probes::Probe;

#[derive(Debug)]
struct Backend {
    addr: Addr,
    /// Probes in a row that were refused or not answered.
    failures: u8,
    /// A dial failed, or a probe: it is asked although it is up.
    doubted: bool,
    known: Option<Capabilities>,
    probe: Option<Probe>,
    probe_due: Time,
    /// When it was last asked.
    asked: Time,
    /// Probes in a row that could not be sent.
    postponed: u8,
    /// When it last answered a SYN.
    heard: Time,
    /// It has taken a probe: they get through to it.
    reached: bool,
}

impl Backend {
    fn new(addr: Addr, now: Time) -> Backend {
        Backend {
            addr,
            failures: 0,
            doubted: false,
            known: None,
            probe: None,
            probe_due: now,
            asked: Time::ZERO,
            postponed: 0,
            heard: Time::ZERO,
            reached: false,
        }
    }

    /// Its family, as an index.
    fn family(&self) -> usize {
        self.addr.family() as usize
    }
}

/// All backends.
#[derive(Debug)]
pub struct Health {
    /// By slot; nobody where no backend is.
    backends: Vec<Option<Backend>>,
    /// Those that answer, as far as is known; by family.
    up: [BackendSet; 2],
    /// Those that were added and have not been heard yet; none of these is up.
    fresh: [BackendSet; 2],
    offers: [Capabilities; 2],
    assumed: [u16; 2],
    probing: bool,
    /// Dials carry the clients' addresses, and probes ours: a firewall may let those through and not these.
    foreign_dials: bool,
    due: Time,
    /// A counter and a secret make the probes' sequence numbers.
    serial: u32,
    /// Where probes come from: first port, and how many.
    ports: (u16, u16),
}

impl Health {
    /// Backends and their addresses. `mss` is the largest for each family (IPv4, IPv6) that our own
    /// ports allow. Without `probing` only dials tell.
    pub fn new(
        backends: impl Iterator<Item = (BackendId, Addr)>,
        mss: [u16; 2],
        probing: bool,
        serial: u32,
        now: Time,
    ) -> Health {
        let mut health = Health {
            backends: vec![],
            up: [BackendSet::EMPTY; 2],
            fresh: [BackendSet::EMPTY; 2],
            offers: mss.map(Capabilities::assumed),
            assumed: mss,
            probing,
            foreign_dials: false,
            due: Time::MAX,
            serial,
            ports: (PROBE_PORT, PROBE_PORTS),
        };
        for (id, addr) in backends {
            health.put(id, addr, now);
            health.up[addr.family() as usize].insert(id);
        }
        health.refresh_offers();
        health
    }

    /// The same, with probes from `ports` (first, and how many) of the range alone: the others are other workers'.
    pub fn probing_from(self, ports: (u16, u16)) -> Health {
        Health { ports, ..self }
    }

    /// The same, where dials come from the clients' addresses (`dnat`): the silence of a backend that has never taken a probe is no
    /// evidence then.
    pub fn with_foreign_dials(self, foreign_dials: bool) -> Health {
        Health { foreign_dials, ..self }
    }

    /// A backend comes, or another takes the slot: nothing is known of it. Where probes can tell, it is fresh; else it is held to be up, as at
    /// start. [`Health::refresh_offers`] is due when all have come.
    pub fn add(&mut self, id: BackendId, addr: Addr, now: Time) {
        self.remove(id);
        self.put(id, addr, now);
        let told = self.probing && !self.foreign_dials;
        let among = if told { &mut self.fresh } else { &mut self.up };
        among[addr.family() as usize].insert(id);
    }

    fn put(&mut self, id: BackendId, addr: Addr, now: Time) {
        debug_assert!(id.index() < MAX_BACKENDS);
        if self.backends.len() <= id.index() {
            self.backends.resize_with(id.index() + 1, || None);
        }
        self.backends[id.index()] = Some(Backend::new(addr, now));
        if self.probing {
            self.due = self.due.min(now);
        }
    }

    /// A backend goes: it is asked no more, and nothing that it says counts. [`Health::refresh_offers`] is due when all have gone.
    pub fn remove(&mut self, id: BackendId) {
        if let Some(slot) = self.backends.get_mut(id.index()) {
            *slot = None;
        }
        for family in [0, 1] {
            self.up[family].remove(id);
            self.fresh[family].remove(id);
        }
    }

    fn get(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(id.index())?.as_ref()
    }

    fn get_mut(&mut self, id: BackendId) -> Option<&mut Backend> {
        self.backends.get_mut(id.index())?.as_mut()
    }

    /// What may be offered to clients: what all backends of the family can do.
    #[inline]
    pub fn offer(&self, family: Family) -> &Capabilities {
        &self.offers[family as usize]
    }

    /// It answers, as far as is known.
    #[inline]
    pub fn is_up(&self, id: BackendId) -> bool {
        self.up.iter().any(|up| up.contains(id))
    }

    /// It was added, and has neither answered nor failed yet: better than nobody.
    pub fn is_fresh(&self, id: BackendId) -> bool {
        self.fresh.iter().any(|fresh| fresh.contains(id))
    }

    /// One of these of the family is up or fresh, as far as is known.
    #[inline]
    pub fn serves(&self, family: Family, among: &BackendSet) -> bool {
        self.up[family as usize].intersects(among) || self.fresh[family as usize].intersects(among)
    }

    /// A backend answered a SYN of ours.
    pub fn heard(&mut self, id: BackendId, now: Time) {
        if let Some(b) = self.get_mut(id) {
            b.heard = now;
        }
    }

    /// It answered some SYN of ours since: it is alive, and who has not heard from it has bad luck.
    pub fn heard_since(&self, id: BackendId, since: Time) -> bool {
        self.get(id).is_some_and(|b| b.heard > since)
    }

    /// A backend answered a SYN of ours that carried every option `offered` says.
    pub fn answered(&mut self, id: BackendId, offered: &SynOptions, got: &SynOptions, ecn: Option<bool>, window: u16) {
        self.set_up(id, true);
        let assumed = self.assumed;
        let Some(b) = self.get_mut(id) else { return };
        (b.failures, b.postponed, b.doubted) = (0, 0, false);
        let family = b.addr.family();
        let before = b.known.unwrap_or(Capabilities::assumed(assumed[family as usize]));
        let learned = before.after(offered, got, ecn, window, family);
        if b.known != Some(learned) {
            b.known = Some(learned);
            self.refresh_offer(family);
        }
    }

    /// What is offered to clients of either family follows from the backends that are there.
    pub fn refresh_offers(&mut self) {
        self.refresh_offer(Family::V4);
        self.refresh_offer(Family::V6);
    }

    /// Timestamps are not offered while a backend that may be chosen has not been heard: a client that was promised them, and gets none from a
    /// backend that has none, drops everything (FreeBSD since 13, as RFC 7323 section 3.2 lets it).
    fn refresh_offer(&mut self, family: Family) {
        let own = self.assumed[family as usize];
        let chosen = self.up[family as usize].union(&self.fresh[family as usize]);
        let unheard = self.probing && chosen.iter().any(|id| self.get(id).is_some_and(|b| b.known.is_none()));
        let known = self.backends.iter().flatten().filter(|b| b.addr.family() == family).filter_map(|b| b.known);
        let common = known.reduce(Capabilities::both).unwrap_or(Capabilities::assumed(own));
        self.offers[family as usize] =
            Capabilities { mss: common.mss.min(own), timestamps: common.timestamps && !unheard, ..common };
    }

    fn set_up(&mut self, id: BackendId, up: bool) {
        let Some(family) = self.get(id).map(|b| b.addr.family()) else { return };
        if up && self.up[family as usize].contains(id) {
            // As nearly always. Nobody is both up and fresh.
            return;
        }
        let fresh = self.fresh[family as usize].remove(id);
        let set = &mut self.up[family as usize];
        let changed = if up { set.insert(id) } else { set.remove(id) };
        if changed || fresh {
            self.refresh_offer(family);
        }
    }
}
