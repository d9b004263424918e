//! What is known of the backends: whether they answer, and what TCP options they speak.
//!
//! Options are learned from every SYN-ACK. Whether a backend is down says nothing but a probe of our own: a SYN from our address with
//! every option, whose SYN-ACK is answered by a reset, so that the server's application never sees it. It is asked at start, while it is
//! down, and when a client's dial failed. That dial alone is no evidence, whether it was refused or not answered: it carried the client's
//! address (`dnat`) and the client's options, and a server's firewall may refuse that client alone. Believed, one client would take
//! every server away from all others.

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
/// Probes in a row, refused or not answered, after which a backend is held to be down.
const FAILURES: u8 = 3;
/// Unanswered ones before the last of a family is, and its VIPs refuse everybody: where frames get lost, three in a row are no rarity.
const FAILURES_OF_LAST: u8 = 6;
/// Between probes of a backend that is down.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// The same while no other of its family is up: nobody is served until one of them is back.
const PROBE_LAST: Duration = Duration::from_millis(250);
/// How long a probe of a backend that is held to be up may take.
const PROBE_PATIENCE: Duration = Duration::from_millis(500);
/// Between probes of a backend that refuses them and is still held to be up: one that is started anew refuses for a moment.
const PROBE_REFUSED: Duration = Duration::from_millis(50);
/// Between probes for the sake of failed dials, which a client can make as many as it likes of.
const DOUBT_EVERY: Duration = Duration::from_millis(250);
/// Probes that repeat one SYN, so that a late answer to any of them counts.
const SAME_SYN: u8 = 4;
/// While its next hop's address is not known, for the first tries, and while our own transmit ring is full.
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
    /// SYNs sent with this number.
    sent: u8,
    /// The last one was not sent: that it is not answered says nothing.
    unsent: bool,
}

#[derive(Debug)]
struct Backend {
    addr: Addr,
    /// Assumed up until found otherwise.
    up: bool,
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
    /// There is something to ask.
    fn wanted(&self) -> bool {
        self.known.is_none() || !self.up || self.doubted
    }

    /// A probe is under way.
    fn is_asked(&self) -> bool {
        self.probe.is_some_and(|p| !p.answered)
    }
}

/// All backends.
#[derive(Debug)]
pub struct Health {
    backends: Vec<Backend>,
    /// How many are up, by family.
    up: [usize; 2],
    /// One that served the family when last asked: likely it does now.
    serving: [usize; 2],
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
    /// Backends by their addresses, in order of their ids. `mss` is the largest for each family (IPv4, IPv6) that our own
    /// ports allow. Without `probing` only dials tell.
    pub fn new(addrs: impl Iterator<Item = Addr>, mss: [u16; 2], probing: bool, serial: u32, now: Time) -> Health {
        let backends: Vec<Backend> = addrs
            .map(|addr| Backend {
                addr,
                up: true,
                failures: 0,
                doubted: false,
                known: None,
                probe: None,
                probe_due: now,
                asked: Time::ZERO,
                postponed: 0,
                heard: Time::ZERO,
                reached: false,
            })
            .collect();
        let offers = mss.map(Capabilities::assumed);
        let due = if probing { now } else { Time::MAX };
        let mut up = [0; 2];
        backends.iter().for_each(|b| up[b.addr.family() as usize] += 1);
        let ports = (PROBE_PORT, PROBE_PORTS);
        let mut health = Health {
            backends,
            up,
            serving: [0; 2],
            offers,
            assumed: mss,
            probing,
            foreign_dials: false,
            due,
            serial,
            ports,
        };
        health.refresh_offer(Family::V4);
        health.refresh_offer(Family::V6);
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

    /// Some backend of the family is up, as far as is known, and `may` serve. While that is so it costs a look at one of them, as a rule.
    pub fn serves(&mut self, family: Family, may: impl Fn(BackendId) -> bool) -> bool {
        if self.up[family as usize] == 0 {
            return false;
        }
        let n = self.backends.len();
        let first = self.serving[family as usize];
        let good = |i: &usize| {
            let b = &self.backends[*i];
            b.up && b.addr.family() == family && may(BackendId(*i as u16))
        };
        let found = (first..n).chain(0..first.min(n)).find(good);
        self.serving[family as usize] = found.unwrap_or(first);
        found.is_some()
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
        self.set_up(id.index(), true);
        let b = &mut self.backends[id.index()];
        (b.failures, b.postponed, b.doubted) = (0, 0, false);
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

    fn set_up(&mut self, i: usize, up: bool) {
        let b = &mut self.backends[i];
        if b.up != up {
            b.up = up;
            let family = b.addr.family();
            let count = &mut self.up[family as usize];
            *count = if up { *count + 1 } else { *count - 1 };
            self.refresh_offer(family);
        }
    }

    /// A dial of a client's was refused or not answered. The backend is asked, soon; until it has answered it is held to be what it was.
    pub fn doubt(&mut self, id: BackendId, now: Time) {
        let b = &mut self.backends[id.index()];
        // Without probes nothing would bring it back.
        if !self.probing || !b.up || b.doubted {
            return;
        }
        b.doubted = true;
        if b.is_asked() {
            return;
        }
        // One that waits for its turn may still have been due later than now.
        b.probe_due = now.max(b.asked + DOUBT_EVERY);
        self.due = self.due.min(b.probe_due);
    }

    /// A probe was answered by a reset.
    pub fn refused(&mut self, id: BackendId, now: Time) {
        self.failed(id.index(), FAILURES, now);
        let b = &mut self.backends[id.index()];
        if b.up {
            b.doubted = true;
            b.probe_due = now + PROBE_REFUSED;
            self.due = self.due.min(b.probe_due);
        }
    }

    /// A probe was not answered.
    fn unanswered(&mut self, i: usize, now: Time) {
        if !self.foreign_dials || self.backends[i].reached {
            self.silent(i, now);
        }
    }

    /// Nothing reaches it.
    fn silent(&mut self, i: usize, now: Time) {
        let last = self.up[self.backends[i].addr.family() as usize] == 1;
        self.failed(i, if last { FAILURES_OF_LAST } else { FAILURES }, now);
    }

    /// A probe failed: perhaps the one that makes it too many.
    fn failed(&mut self, i: usize, most: u8, now: Time) {
        let b = &mut self.backends[i];
        b.failures = b.failures.saturating_add(1);
        if !b.up || b.failures < most {
            return;
        }
        let family = b.addr.family();
        b.doubted = false;
        b.probe_due = now + PROBE_EVERY;
        self.set_up(i, false);
        if self.up[family as usize] == 0 {
            // The last one: from now on all of them are asked more often.
            for b in self.backends.iter_mut().filter(|b| b.addr.family() == family) {
                b.probe_due = b.probe_due.min(now + PROBE_LAST);
            }
        }
        self.due = self.due.min(now + PROBE_LAST);
    }

    /// How long the answer to a probe of this backend is waited for.
    fn patience(&self, i: usize) -> Duration {
        let b = &self.backends[i];
        match b.up {
            true => PROBE_PATIENCE,
            false if self.up[b.addr.family() as usize] == 0 => PROBE_LAST,
            false => PROBE_EVERY,
        }
    }

    /// When [`Health::next_probe`] has one.
    pub fn due(&self) -> Option<Time> {
        (self.due != Time::MAX).then_some(self.due)
    }

    /// Whether the probe to be sent now asks for congestion notification: the repetitions do not, since some firewalls drop SYNs that do
    /// (RFC 3168 section 6.1.1.1).
    pub fn probe_asks_ecn(&self, id: BackendId) -> bool {
        self.backends[id.index()].probe.is_some_and(|p| p.sent <= 1)
    }

    /// A backend that is due to be asked: its id, and the sequence number for the SYN. Call until none is left.
    pub fn next_probe(&mut self, now: Time) -> Option<(BackendId, Seq)> {
        if now < self.due {
            return None;
        }
        let first = (0..self.backends.len()).find(|&i| self.backends[i].wanted() && self.backends[i].probe_due <= now);
        let mut found = None;
        if let Some(i) = first {
            let before = self.backends[i].probe.filter(|p| !p.answered);
            if before.is_some_and(|p| !p.unsent) {
                self.unanswered(i, now);
            }
            let probe = match before {
                Some(p) if p.sent < SAME_SYN => Probe { sent: p.sent + 1, unsent: false, ..p },
                _ => {
                    self.serial = self.serial.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
                    Probe { isn: Seq(self.serial), answered: false, sent: 1, unsent: false }
                }
            };
            let wait = self.patience(i);
            let b = &mut self.backends[i];
            (b.probe, b.asked, b.probe_due) = (Some(probe), now, now + wait);
            found = Some((BackendId(i as u16), probe.isn));
        }
        let due = self.backends.iter().filter(|b| b.wanted()).map(|b| b.probe_due).min();
        self.due = due.unwrap_or(Time::MAX);
        found
    }

    /// The probe could not be sent, its next hop's address is not known: soon again, as at start; and when that does not help,
    /// as seldom as other probes, each of which has failed then.
    pub fn postpone(&mut self, id: BackendId, now: Time) {
        let b = &mut self.backends[id.index()];
        b.probe = None;
        b.postponed = b.postponed.saturating_add(1);
        let mut wait = PROBE_SOON;
        if b.postponed > SOON_TRIES {
            self.silent(id.index(), now);
            wait = self.patience(id.index());
        }
        self.again(id, now + wait);
    }

    /// The probe was not sent, our own transmit ring was full. That is no evidence of anything.
    pub fn unsent(&mut self, id: BackendId, now: Time) {
        let b = &mut self.backends[id.index()];
        if let Some(p) = &mut b.probe {
            p.sent -= 1;
            p.unsent = true;
            if p.sent == 0 {
                b.probe = None;
            }
        }
        self.again(id, now + PROBE_SOON);
    }

    fn again(&mut self, id: BackendId, at: Time) {
        self.backends[id.index()].probe_due = at;
        self.due = self.due.min(at);
    }

    /// Which backend a segment from `addr` to one of the probes' ports belongs to, if it answers a probe whose SYN had the
    /// sequence number before `ack`.
    pub fn probe_answer(&self, addr: Addr, to_port: u16, ack: Seq) -> Option<BackendId> {
        let first = usize::from(to_port.checked_sub(self.ports.0).filter(|p| *p < self.ports.1)?);
        for i in (first..self.backends.len()).step_by(usize::from(self.ports.1)) {
            let b = &self.backends[i];
            if let Some(probe) = &b.probe
                && b.addr == addr
                && probe.isn + 1 == ack
                && !probe.answered
            {
                return Some(BackendId(i as u16));
            }
        }
        None
    }

    /// The answer to its probe has come, undamaged: a SYN-ACK if it was `taken`.
    pub fn probe_answered(&mut self, id: BackendId, taken: bool) {
        let b = &mut self.backends[id.index()];
        if let Some(probe) = &mut b.probe {
            probe.answered = true;
        }
        b.reached |= taken;
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

    const A: BackendId = BackendId(0);
    const B: BackendId = BackendId(1);

    fn ms(n: u64) -> Time {
        Time::from_millis(n)
    }

    /// All probes that are due by `end` are answered: `answer` says by what (a SYN-ACK, a reset, nothing). Returns when each backend was
    /// asked.
    fn live(h: &mut Health, end: u64, answer: impl Fn(BackendId, u64) -> Option<bool>) -> Vec<(u64, u16)> {
        let mut asked = vec![];
        while let Some(at) = h.due().filter(|at| *at <= ms(end)) {
            let Some((id, isn)) = h.next_probe(at) else { continue };
            let t = at.as_millis();
            asked.push((t, id.0));
            if let Some(taken) = answer(id, t) {
                let (addr, port) = (Addr::v4([10, 0, 0, 1 + id.0 as u8]), h.probe_port(id));
                assert_eq!(h.probe_answer(addr, port, isn), None, "a guessed number");
                assert_eq!(h.probe_answer(addr, port, isn + 1), Some(id));
                h.probe_answered(id, taken);
                assert_eq!(h.probe_answer(addr, port, isn + 1), None, "an answer counts once");
                if taken { h.answered(id, &ALL, &ALL, None, 64240) } else { h.refused(id, at) }
            }
        }
        asked
    }

    #[test]
    fn a_failed_dial_makes_us_ask_and_only_a_probe_decides() {
        let mut h = two();
        live(&mut h, 900, |_, _| Some(true));
        assert_eq!(h.due(), None, "both are known and up: nothing to ask");
        // One client fails as often as it likes: the backend is asked four times a second, and stays what it is.
        let mut asked = vec![];
        for t in (1000..3000).step_by(10) {
            h.doubt(A, ms(t));
            asked.extend(live(&mut h, t, |_, _| Some(true)));
            assert!(h.is_up(A));
        }
        assert!(asked.iter().all(|(_, id)| *id == 0) && asked.len() == 8, "{asked:?}");
        // Now it is gone, without a word. As long as it takes a dial to be given up, not longer.
        h.doubt(A, ms(3000));
        let asked = live(&mut h, 4499, |_, _| None);
        assert_eq!((asked.len(), h.is_up(A)), (3, true), "{asked:?}");
        let asked = live(&mut h, 9999, |_, _| None);
        assert!(!h.is_up(A) && h.is_up(B));
        assert_eq!(asked, [(4500, 0), (5500, 0), (6500, 0), (7500, 0), (8500, 0), (9500, 0)], "once a second");
        // Back.
        live(&mut h, 10_500, |_, _| Some(true));
        assert!(h.is_up(A));
        live(&mut h, 20_000, |_, _| None);
        assert_eq!(h.due(), None);
    }

    #[test]
    fn a_backend_that_refuses_three_probes_in_a_row_is_down_and_single_refusals_are_forgiven() {
        let mut h = two();
        live(&mut h, 100, |_, _| Some(true));
        h.doubt(B, ms(1000));
        let asked = live(&mut h, 2000, |_, t| Some(t > 1060));
        assert_eq!(asked, [(1000, 1), (1050, 1), (1100, 1)]);
        assert!(h.is_up(B));
        h.doubt(B, ms(2000));
        let asked = live(&mut h, 2999, |_, _| Some(false));
        assert_eq!(asked, [(2000, 1), (2050, 1), (2100, 1)]);
        assert!(!h.is_up(B));
        h.doubt(B, ms(3000));
        assert_eq!(h.due(), Some(ms(3100)), "a client that fails does not make us ask one more often that is down");
    }

    #[test]
    fn while_none_is_up_all_are_asked_four_times_a_second() {
        let mut h = two();
        let any = |_: BackendId| true;
        assert!(h.serves(Family::V4, any) && !h.serves(Family::V6, any));
        live(&mut h, 2900, |_, _| None);
        assert!(!h.is_up(A) && h.serves(Family::V4, any), "the last one is waited for longer");
        live(&mut h, 3000, |_, _| None);
        assert!(!h.serves(Family::V4, any), "known at start: {:?}", h.backends);
        let asked = live(&mut h, 5000, |_, _| None);
        assert!((16..=18).contains(&asked.len()), "{asked:?}");
        live(&mut h, 5250, |id, _| (id == B).then_some(true));
        assert!(h.serves(Family::V4, any) && h.is_up(B), "at once");
        assert!(!h.serves(Family::V4, |id| id == A));
        assert!(h.serves(Family::V4, |id| id == B));
    }

    #[test]
    fn an_answer_that_takes_longer_than_we_wait_still_counts() {
        let mut h = two();
        live(&mut h, 4000, |_, _| None);
        assert!(!h.is_up(A));
        let mut isns = vec![];
        while isns.len() < 8 {
            let at = h.due().unwrap();
            isns.extend(h.next_probe(at).filter(|(id, _)| *id == A).map(|(_, isn)| isn));
        }
        isns.dedup();
        assert!((2..=3).contains(&isns.len()), "one SYN is repeated, and not for ever: {isns:?}");
        let last = *isns.last().unwrap();
        assert_eq!(h.probe_answer(Addr::v4([10, 0, 0, 1]), h.probe_port(A), last + 1), Some(A));
    }

    #[test]
    fn where_dials_come_from_elsewhere_the_silence_of_one_that_probes_never_reached_says_nothing() {
        let mut h = two().with_foreign_dials(true);
        h.doubt(A, ms(0));
        live(&mut h, 10_000, |id, _| (id == B).then_some(true));
        assert!(h.is_up(A) && h.is_up(B));
        h.doubt(B, ms(10_000));
        live(&mut h, 20_000, |_, _| None);
        assert!(h.is_up(A) && !h.is_up(B), "this one did answer once");
    }

    #[test]
    fn where_dials_come_from_elsewhere_a_reset_shows_that_probes_reach_nobody_behind_it() {
        let mut h = two().with_foreign_dials(true);
        live(&mut h, 10_000, |id, t| (id == B || t < 50).then_some(id == B));
        assert!(h.is_up(A) && h.is_up(B));
    }

    #[test]
    fn a_probe_is_repeated_without_asking_for_congestion_notification() {
        let mut h = two();
        let mut asks = vec![];
        while asks.len() < 5 {
            let at = h.due().unwrap();
            asks.extend(h.next_probe(at).filter(|(id, _)| *id == A).map(|_| h.probe_asks_ecn(A)));
        }
        assert_eq!(asks, [true, false, false, false, true]);
    }

    #[test]
    fn a_probe_that_was_not_sent_is_no_evidence() {
        let mut h = two();
        live(&mut h, 900, |_, _| Some(true));
        h.doubt(A, ms(1000));
        for _ in 0..50 {
            let at = h.due().unwrap();
            assert_eq!(h.next_probe(at).map(|(id, _)| id), Some(A));
            h.unsent(A, at);
        }
        assert!(h.is_up(A));
        assert!(h.due().unwrap() > ms(3400), "not in a tight loop");
    }
}
