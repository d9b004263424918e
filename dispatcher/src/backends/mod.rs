//! What is known of the backends: whether they answer, and what TCP options they speak.
//!
//! Options are learned from every SYN-ACK (`capabilities`). Whether a backend is down says nothing but a probe of our own (`probes`): a SYN
//! from our address with every option, whose SYN-ACK is answered by a reset, so that the server's application never sees it. It is asked at
//! start, while it is down, and when a client's dial failed. That dial alone is no evidence, whether it was refused or not answered: it carried the client's
//! address (`dnat`) and the client's options, and a server's firewall may refuse that client alone. Believed, one client would take
//! every server away from all others.
//!
//! Backends come and go while it runs ([`Health::add`], [`Health::remove`]). At start all are held to be up: somebody has to be asked. One that
//! comes later is *fresh* until it has answered its first probe, and passed its checks if it has one: it gets a client only where nobody else is left, so that a server that was
//! added before it was started delays nobody.
//!
//! Two things are known of a backend, and kept apart: what probes say here ([`Passive`]), and what its checks say ([`Checked`]), which somebody
//! else asks, for all workers. It is up when neither says that it is down. Where it stands follows in one place, `Health::settle`, which
//! counts each change ([`Health::changes`]).

mod capabilities;
mod hints;
mod moving;
mod probes;
#[cfg(test)]
mod tests;

pub use capabilities::{Capabilities, OUR_WSCALE, mss_said};
pub use hints::{Hints, Noticed};
pub use probes::{PROBE_PORT, PROBE_PORTS};

use crate::time::Time;
use crate::wire::options::SynOptions;
use crate::wire::{Addr, Family};
use lb::{BackendId, BackendSet, MAX_BACKENDS};
use probes::Probe;

/// What checks say of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checked {
    /// Nothing: there are none, or not enough yet.
    #[default]
    Unknown,
    /// It serves.
    Up,
    /// It does not.
    Down,
}

/// What probes say of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passive {
    /// It answers, as far as is known.
    Up,
    /// It was added, and has neither answered nor failed yet.
    Fresh,
    /// It refuses probes.
    Refuses,
    /// It leaves probes unanswered.
    Silent,
    /// The tunnel to it is lost.
    Cut,
}

impl Passive {
    /// It is not to be given a connection.
    pub fn is_down(self) -> bool {
        matches!(self, Passive::Refuses | Passive::Silent | Passive::Cut)
    }
}

/// Where a backend stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Up,
    Fresh,
    Down,
}

#[derive(Debug)]
struct Backend {
    addr: Addr,
    passive: Passive,
    /// Since when.
    since: Time,
    checked: Checked,
    /// It was added while others were there, and has not passed its first checks.
    awaits_check: bool,
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
    fn new(addr: Addr, passive: Passive, awaits_check: bool, now: Time) -> Backend {
        Backend {
            addr,
            passive,
            since: now,
            checked: Checked::Unknown,
            awaits_check,
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

    fn standing(&self) -> Standing {
        match (self.passive, self.checked) {
            (Passive::Refuses | Passive::Silent | Passive::Cut, _) | (_, Checked::Down) => Standing::Down,
            (Passive::Fresh, Checked::Unknown) => Standing::Fresh,
            (Passive::Up, Checked::Unknown) if self.awaits_check => Standing::Fresh,
            (Passive::Up | Passive::Fresh, _) => Standing::Up,
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
    /// How often somebody came up, or went down, or left.
    changes: u32,
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
            changes: 0,
        };
        for (id, addr) in backends {
            health.put(id, Backend::new(addr, Passive::Up, false, now), now);
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
    /// start. One that `has_check` is fresh until it has passed that. [`Health::refresh_offers`] is due when all have come.
    pub fn add(&mut self, id: BackendId, addr: Addr, has_check: bool, now: Time) {
        self.remove(id);
        let told = self.probing && !self.foreign_dials;
        let passive = if told { Passive::Fresh } else { Passive::Up };
        self.put(id, Backend::new(addr, passive, has_check, now), now);
    }

    fn put(&mut self, id: BackendId, backend: Backend, now: Time) {
        debug_assert!(id.index() < MAX_BACKENDS);
        if self.backends.len() <= id.index() {
            self.backends.resize_with(id.index() + 1, || None);
        }
        let (family, standing) = (backend.family(), backend.standing());
        self.backends[id.index()] = Some(backend);
        match standing {
            Standing::Up => _ = self.up[family].insert(id),
            Standing::Fresh => _ = self.fresh[family].insert(id),
            Standing::Down => {}
        }
        if self.probing {
            self.due = self.due.min(now);
        }
    }

    /// A backend goes: it is asked no more, and nothing that it says counts. [`Health::refresh_offers`] is due when all have gone.
    pub fn remove(&mut self, id: BackendId) {
        if let Some(slot) = self.backends.get_mut(id.index()) {
            *slot = None;
        }
        self.changes = self.changes.wrapping_add(1);
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

    /// A number that is another one when somebody is up or fresh, or is so no more.
    #[inline]
    pub fn changes(&self) -> u32 {
        self.changes
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
        let assumed = self.assumed;
        let Some(b) = self.get_mut(id) else { return };
        (b.failures, b.postponed, b.doubted) = (0, 0, false);
        if b.passive != Passive::Up {
            (b.passive, b.since) = (Passive::Up, b.heard);
            self.settle(id);
        }
        let Some(b) = self.get_mut(id) else { return };
        let family = b.addr.family();
        let before = b.known.unwrap_or(Capabilities::assumed(assumed[family as usize]));
        let learned = before.after(offered, got, ecn, window, family);
        if b.known != Some(learned) {
            b.known = Some(learned);
            self.refresh_offer(family);
        }
    }

    /// Our own ports allow segments of so many bytes now, by family. [`Health::refresh_offers`] is due.
    pub fn assume(&mut self, mss: [u16; 2]) {
        self.assumed = mss;
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

    /// Its checks have come to this.
    pub fn checked(&mut self, id: BackendId, checked: Checked) {
        let Some(b) = self.get_mut(id) else { return };
        b.checked = checked;
        b.awaits_check &= checked == Checked::Unknown;
        self.settle(id);
    }

    /// It has a check no more, and does not wait for one.
    pub fn unchecked(&mut self, id: BackendId) {
        if let Some(b) = self.get_mut(id) {
            b.awaits_check = false;
            self.settle(id);
        }
    }

    /// The tunnel to it is lost, or up again. Then it is asked at once, where probes can tell; it may have gone, too.
    pub fn tunnel_changed(&mut self, id: BackendId, up: bool, now: Time) {
        let asks = self.probing && !self.foreign_dials;
        let Some(b) = self.get_mut(id) else { return };
        match (up, b.passive) {
            (false, _) => (b.passive, b.since) = (Passive::Cut, now),
            (true, Passive::Cut) if !asks => (b.passive, b.since) = (Passive::Up, now),
            (true, Passive::Cut) => b.passive = Passive::Silent,
            (true, _) => {}
        }
        if up && b.passive != Passive::Up {
            (b.probe, b.probe_due) = (None, now);
            self.due = self.due.min(now);
        }
        self.settle(id);
    }

    /// What probes say of it, and since when.
    pub fn passive(&self, id: BackendId) -> Option<(Passive, Time)> {
        self.get(id).map(|b| (b.passive, b.since))
    }

    /// Where a backend stands follows from what is known of it: here it goes up and down, and nowhere else.
    fn settle(&mut self, id: BackendId) {
        let Some((family, standing)) = self.get(id).map(|b| (b.family(), b.standing())) else { return };
        let was_up = self.up[family].contains(id);
        let was_fresh = self.fresh[family].contains(id);
        let (up, fresh) = (standing == Standing::Up, standing == Standing::Fresh);
        if (was_up, was_fresh) == (up, fresh) {
            return;
        }
        let put = |set: &mut BackendSet, there: bool| if there { set.insert(id) } else { set.remove(id) };
        put(&mut self.up[family], up);
        put(&mut self.fresh[family], fresh);
        self.changes = self.changes.wrapping_add(1);
        self.refresh_offer(if family == Family::V4 as usize { Family::V4 } else { Family::V6 });
    }
}
