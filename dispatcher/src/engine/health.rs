//! What is known of the backends: whether they answer, and what TCP options they speak.
//!
//! Both are learned from their SYN-ACKs. At start, and while one is held to be down, a backend is asked by a probe: a SYN
//! of ours with every option, whose SYN-ACK is answered by a reset, so that the server's application never sees it.
//! Otherwise the dials of clients' connections tell.

use crate::time::Time;
use crate::wire::options::SynOptions;
use crate::wire::{Addr, Family, Seq};
use core::time::Duration;
use lb::BackendId;

/// Our own window scale, told to every client that has one. A constant, because nothing of what we told a client is
/// remembered until its cookie comes back; what a backend's differs is translated. 7 is what Linux servers choose with
/// their usual buffers, so that as a rule nothing needs translation.
pub const OUR_WSCALE: u8 = 7;

/// The least window that clients are promised. A backend whose SYN-ACK says less takes what it can of a first flight, and the client repeats
/// the rest; but a window of 0 (netfilter's SYNPROXY says it until its own server has answered) would stop everybody's clients.
const LEAST_WINDOW: u16 = 4096;
/// Failed dials in a row after which a backend that refuses is held to be down. One that stays silent costs every
/// client that tries it more than a second, so it is down at once.
const REFUSALS: u8 = 3;
/// Between probes of a backend that is down.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// While its next hop's address is not known, for the first tries.
const PROBE_SOON: Duration = Duration::from_millis(50);
const SOON_TRIES: u8 = 10;
/// Probes use source ports below those of flows: the port tells the backend's index.
pub const PROBE_PORT: u16 = 1024;
/// Probe source ports; with more backends than that, indices share them and are told apart by address.
pub const PROBE_PORTS: u16 = 1024;

/// What a backend's SYN-ACK offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Selective acknowledgements.
    pub sack: bool,
    /// Timestamps.
    pub timestamps: bool,
    /// Window scaling.
    pub wscale: bool,
    /// Explicit congestion notification; none while unknown.
    pub ecn: bool,
    /// Largest segment it takes.
    pub mss: u16,
    /// The window of its SYN-ACK, bytes.
    pub window: u16,
}

impl Capabilities {
    /// What is assumed of backends that have not been heard: what all systems of this century do. Congestion
    /// notification is not: a client told yes would send packets whose marks nobody reads.
    fn assumed(mss: u16) -> Capabilities {
        Capabilities { sack: true, timestamps: true, wscale: true, ecn: false, mss, window: u16::MAX }
    }

    fn both(self, other: Capabilities) -> Capabilities {
        Capabilities {
            sack: self.sack && other.sack,
            timestamps: self.timestamps && other.timestamps,
            wscale: self.wscale && other.wscale,
            ecn: self.ecn && other.ecn,
            mss: self.mss.min(other.mss),
            window: self.window.min(other.window),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    isn: Seq,
    answered: bool,
}

#[derive(Debug)]
struct Backend {
    addr: Addr,
    /// Assumed up until found otherwise.
    up: bool,
    refusals: u8,
    known: Option<Capabilities>,
    probe: Option<Probe>,
    probe_due: Time,
    /// Probes in a row that could not be sent.
    postponed: u8,
    /// When it last answered a SYN.
    heard: Time,
}

/// All backends.
#[derive(Debug)]
pub struct Health {
    backends: Vec<Backend>,
    offers: [Capabilities; 2],
    assumed: [u16; 2],
    probing: bool,
    due: Time,
    /// A counter and a secret make the probes' sequence numbers.
    serial: u32,
    /// Where probes come from: first port, and how many.
    ports: (u16, u16),
}

impl Health {
    /// Backends by their addresses, in order of their ids. `mss` is the largest for each family (IPv4, IPv6) that our own
    /// ports allow. Without `probing` only dials tell.
    pub fn new(addrs: impl Iterator<Item = Addr>, mss: [u16; 2], probing: bool, serial: u32, now: Time) -> Health {
        let backends = addrs
            .map(|addr| Backend {
                addr,
                up: true,
                refusals: 0,
                known: None,
                probe: None,
                probe_due: now,
                postponed: 0,
                heard: Time::ZERO,
            })
            .collect();
        let offers = mss.map(Capabilities::assumed);
        let due = if probing { now } else { Time::MAX };
        let mut health =
            Health { backends, offers, assumed: mss, probing, due, serial, ports: (PROBE_PORT, PROBE_PORTS) };
        health.refresh_offer(Family::V4);
        health.refresh_offer(Family::V6);
        health
    }

    /// The same, with probes from `ports` (first, and how many) of the range alone: the others are other workers'.
    pub fn probing_from(self, ports: (u16, u16)) -> Health {
        Health { ports, ..self }
    }

    /// What may be offered to clients: what all backends of the family can do.
    #[inline]
    pub fn offer(&self, family: Family) -> &Capabilities {
        &self.offers[family as usize]
    }

    /// It answers, as far as is known.
    #[inline]
    pub fn is_up(&self, id: BackendId) -> bool {
        self.backends[id.index()].up
    }

    /// A backend answered a SYN of ours.
    pub fn heard(&mut self, id: BackendId, now: Time) {
        self.backends[id.index()].heard = now;
    }

    /// It answered some SYN of ours since: it is alive, and who has not heard from it has bad luck.
    pub fn heard_since(&self, id: BackendId, since: Time) -> bool {
        self.backends[id.index()].heard > since
    }

    /// A backend answered a SYN of ours that carried every option `offered` says.
    pub fn answered(&mut self, id: BackendId, offered: &SynOptions, got: &SynOptions, ecn: Option<bool>, window: u16) {
        let b = &mut self.backends[id.index()];
        b.up = true;
        (b.refusals, b.postponed) = (0, 0);
        let family = b.addr.family();
        let before = b.known.unwrap_or(Capabilities::assumed(self.assumed[family as usize]));
        // Options are answered only when offered (RFC 9293 section 3.1 and the options' own): else nothing was learned.
        let learned = Capabilities {
            sack: if offered.sack_permitted { got.sack_permitted } else { before.sack },
            timestamps: if offered.timestamps.is_some() { got.timestamps.is_some() } else { before.timestamps },
            wscale: if offered.wscale.is_some() { got.wscale.is_some() } else { before.wscale },
            ecn: ecn.unwrap_or(before.ecn),
            mss: mss_said(got.mss, family),
            window: window.max(LEAST_WINDOW),
        };
        if b.known != Some(learned) {
            b.known = Some(learned);
            self.refresh_offer(family);
        }
    }

    /// Timestamps are not offered while a backend that may be chosen has not been heard: a client that was promised them, and gets none from a
    /// backend that has none, drops everything (FreeBSD since 13, as RFC 7323 section 3.2 lets it).
    fn refresh_offer(&mut self, family: Family) {
        let own = self.assumed[family as usize];
        let unheard =
            self.probing && self.backends.iter().any(|b| b.addr.family() == family && b.up && b.known.is_none());
        let known = self.backends.iter().filter(|b| b.addr.family() == family).filter_map(|b| b.known);
        let common = known.reduce(Capabilities::both).unwrap_or(Capabilities::assumed(own));
        self.offers[family as usize] =
            Capabilities { mss: common.mss.min(own), timestamps: common.timestamps && !unheard, ..common };
    }

    /// A backend answered a dial by a reset. True when it is held to be down now, and was not before.
    pub fn refused(&mut self, id: BackendId, now: Time) -> bool {
        let b = &mut self.backends[id.index()];
        b.refusals = b.refusals.saturating_add(1);
        if b.refusals >= REFUSALS { self.down(id, now) } else { false }
    }

    /// A backend did not answer a dial at all. True when it is held to be down now, and was not before.
    pub fn silent(&mut self, id: BackendId, now: Time) -> bool {
        self.down(id, now)
    }

    fn down(&mut self, id: BackendId, now: Time) -> bool {
        if !self.probing {
            // Without probes nothing would bring it back.
            return false;
        }
        let b = &mut self.backends[id.index()];
        let news = b.up;
        b.up = false;
        if news {
            b.probe_due = now + PROBE_EVERY;
            self.due = self.due.min(b.probe_due);
            let family = b.addr.family();
            self.refresh_offer(family);
        }
        news
    }

    /// When [`Health::next_probe`] has one.
    pub fn due(&self) -> Option<Time> {
        (self.due != Time::MAX).then_some(self.due)
    }

    /// A backend that is due to be asked: its id, and the sequence number for the SYN. Call until none is left.
    pub fn next_probe(&mut self, now: Time) -> Option<(BackendId, Seq)> {
        if now < self.due {
            return None;
        }
        let wanted = |b: &Backend| b.known.is_none() || !b.up;
        let mut due = Time::MAX;
        let mut found = None;
        let mut lost = None;
        for (i, b) in self.backends.iter_mut().enumerate().filter(|(_, b)| wanted(b)) {
            if b.probe_due <= now && found.is_none() {
                if b.probe.is_some_and(|p| !p.answered) {
                    b.refusals = b.refusals.saturating_add(1);
                    if b.up && b.refusals >= REFUSALS {
                        b.up = false;
                        lost = Some(b.addr.family());
                    }
                }
                self.serial = self.serial.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
                let isn = Seq(self.serial);
                b.probe = Some(Probe { isn, answered: false });
                b.probe_due = now + PROBE_EVERY;
                found = Some((BackendId(i as u16), isn));
            }
            due = due.min(b.probe_due);
        }
        self.due = due;
        if let Some(family) = lost {
            self.refresh_offer(family);
        }
        found
    }

    /// The probe could not be sent, its next hop's address is not known: soon again, as at start; and when that does not help,
    /// as seldom as other probes, each of which has failed then.
    pub fn postpone(&mut self, id: BackendId, now: Time) {
        let b = &mut self.backends[id.index()];
        b.probe = None;
        b.postponed = b.postponed.saturating_add(1);
        b.probe_due = now + PROBE_SOON;
        if b.postponed > SOON_TRIES {
            b.probe_due = now + PROBE_EVERY;
            b.refusals = b.refusals.saturating_add(1);
            b.up &= b.refusals < REFUSALS;
        }
        self.due = self.due.min(b.probe_due);
        let family = b.addr.family();
        self.refresh_offer(family);
    }

    /// Which backend a segment from `addr` to one of the probes' ports belongs to, if it answers a probe whose SYN had the
    /// sequence number before `ack`.
    pub fn probe_answer(&mut self, addr: Addr, to_port: u16, ack: Seq) -> Option<BackendId> {
        let first = usize::from(to_port.checked_sub(self.ports.0).filter(|p| *p < self.ports.1)?);
        for i in (first..self.backends.len()).step_by(usize::from(self.ports.1)) {
            let b = &mut self.backends[i];
            if let Some(probe) = &mut b.probe
                && b.addr == addr
                && probe.isn + 1 == ack
                && !probe.answered
            {
                probe.answered = true;
                return Some(BackendId(i as u16));
            }
        }
        None
    }

    /// Where a probe of this backend comes from.
    pub fn probe_port(&self, id: BackendId) -> u16 {
        self.ports.0 + id.0 % self.ports.1
    }
}

/// The largest segment that a backend takes, by its SYN-ACK: what RFC 9293 (section 3.7.1) says when that is silent. What is offered
/// to all clients depends on it, so no backend is believed less than clients are (the smallest class of `flow::cookie`).
pub fn mss_said(said: Option<u16>, family: Family) -> u16 {
    said.unwrap_or(if family == Family::V4 { 536 } else { 1220 }).max(216)
}

/// Largest segment payload that fits a port's MTU.
pub fn mss_for(mtu: u16, family: Family) -> u16 {
    mtu.saturating_sub(if family == Family::V4 { 40 } else { 60 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::options::Timestamps;

    const ALL: SynOptions = SynOptions {
        mss: Some(1460),
        wscale: Some(7),
        sack_permitted: true,
        timestamps: Some(Timestamps { val: 1, ecr: 0 }),
    };

    fn two() -> Health {
        let addrs = [[10, 0, 0, 1], [10, 0, 0, 2]].map(Addr::v4);
        Health::new(addrs.into_iter(), [1460, 1440], true, 1, Time::ZERO)
    }

    #[test]
    fn clients_are_offered_what_all_backends_have_in_common() {
        let mut h = two();
        assert!(h.offer(Family::V4).sack && !h.offer(Family::V4).ecn);
        h.answered(BackendId(0), &ALL, &SynOptions { timestamps: None, ..ALL }, Some(true), 64240);
        assert!(!h.offer(Family::V4).timestamps && h.offer(Family::V4).ecn);
        h.answered(BackendId(1), &ALL, &SynOptions { mss: Some(1300), ..ALL }, Some(false), 30000);
        let o = *h.offer(Family::V4);
        assert_eq!((o.timestamps, o.ecn, o.mss, o.window, o.sack), (false, false, 1300, 30000, true));
        assert_eq!(h.offer(Family::V6).mss, 1440);
    }

    #[test]
    fn timestamps_are_offered_when_all_backends_that_may_be_chosen_have_been_heard() {
        let mut h = two();
        assert!(!h.offer(Family::V4).timestamps, "nobody was heard");
        h.answered(BackendId(0), &ALL, &ALL, None, 64240);
        assert!(!h.offer(Family::V4).timestamps);
        // The other does not answer its probes: it is chosen no more, and teaches before it is again.
        for second in 0..4 {
            while h.next_probe(Time::from_millis(second * 1000)).is_some() {}
        }
        assert!(!h.is_up(BackendId(1)) && h.offer(Family::V4).timestamps);
        h.answered(BackendId(1), &ALL, &SynOptions { timestamps: None, ..ALL }, None, 64240);
        assert!(h.is_up(BackendId(1)) && !h.offer(Family::V4).timestamps);
        // Without probes nothing else would teach.
        let addrs = [[10, 0, 0, 1]].map(Addr::v4);
        assert!(Health::new(addrs.into_iter(), [1460, 1440], false, 1, Time::ZERO).offer(Family::V4).timestamps);
    }

    #[test]
    fn no_backend_makes_clients_be_offered_a_window_or_segments_of_nothing() {
        for (mss, window) in [(Some(0), 0), (Some(1), 1), (None, 100)] {
            let mut h = two();
            h.answered(BackendId(0), &ALL, &SynOptions { mss, ..ALL }, None, window);
            let o = *h.offer(Family::V4);
            assert!(o.window >= 4096 && o.mss >= 216, "{o:?}");
        }
    }

    #[test]
    fn an_option_that_was_not_offered_teaches_nothing() {
        let mut h = two();
        h.answered(BackendId(1), &ALL, &ALL, None, 64240);
        h.answered(BackendId(0), &ALL, &ALL, None, 64240);
        h.answered(
            BackendId(0),
            &SynOptions::default(),
            &SynOptions { mss: Some(1460), ..SynOptions::default() },
            None,
            64240,
        );
        assert!(h.offer(Family::V4).sack && h.offer(Family::V4).timestamps && h.offer(Family::V4).wscale);
    }

    #[test]
    fn a_silent_backend_is_down_until_a_probe_is_answered() {
        let mut h = two();
        while let Some((id, isn)) = h.next_probe(Time::ZERO) {
            let port = h.probe_port(id);
            let addr = Addr::v4([10, 0, 0, 1 + id.0 as u8]);
            assert_eq!(h.probe_answer(addr, port, isn), None, "a guessed number");
            assert_eq!(h.probe_answer(addr, port, isn + 1), Some(id));
            h.answered(id, &ALL, &ALL, None, 64240);
        }
        assert!(h.silent(BackendId(1), Time::ZERO) && !h.silent(BackendId(1), Time::ZERO));
        assert!(!h.is_up(BackendId(1)) && h.is_up(BackendId(0)));
        assert_eq!(h.next_probe(Time::ZERO), None);
        let (id, isn) = h.next_probe(Time::from_millis(1000)).unwrap();
        assert_eq!(h.next_probe(Time::from_millis(1000)), None);
        assert_eq!(h.probe_answer(Addr::v4([10, 0, 0, 2]), h.probe_port(id), isn + 1), Some(BackendId(1)));
        h.answered(id, &ALL, &ALL, None, 64240);
        assert!(h.is_up(BackendId(1)));
        assert_eq!(h.next_probe(Time::from_millis(5000)), None);
    }

    #[test]
    fn single_refusals_are_forgiven() {
        let mut h = two();
        assert!(!h.refused(BackendId(0), Time::ZERO) && !h.refused(BackendId(0), Time::ZERO));
        assert!(h.refused(BackendId(0), Time::ZERO));
    }
}
