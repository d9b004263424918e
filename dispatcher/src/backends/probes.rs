//! When a backend is asked whether it answers, and what becomes of the question.

use super::{Health, Passive};
use crate::time::Time;
use crate::wire::{Addr, Seq};
use core::time::Duration;
use lb::BackendId;

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
pub const PROBE_PORTS: u16 = 768;

/// A question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    isn: Seq,
    answered: bool,
    /// SYNs sent with this number.
    sent: u8,
    /// The last one was not sent: that it is not answered says nothing.
    unsent: bool,
}

impl Health {
    /// A dial of a client's was refused or not answered. The backend is asked, soon; until it has answered it is held to be what it was.
    pub fn doubt(&mut self, id: BackendId, now: Time) {
        // Without probes nothing would bring it back.
        if !self.probing || self.get(id).is_none_or(|b| b.passive != Passive::Up) {
            return;
        }
        let Some(b) = self.get_mut(id) else { return };
        if b.doubted {
            return;
        }
        b.doubted = true;
        if b.probe.is_some_and(|probe| !probe.answered) {
            // It is being asked.
            return;
        }
        // One that waits for its turn may still have been due later than now.
        b.probe_due = now.max(b.asked + DOUBT_EVERY);
        let due = b.probe_due;
        self.due = self.due.min(due);
    }

    /// A probe was answered by a reset.
    pub fn refused(&mut self, id: BackendId, now: Time) {
        self.failed(id, (FAILURES, Passive::Refuses), now);
        if self.holds(id) {
            let Some(b) = self.get_mut(id) else { return };
            b.doubted = true;
            b.probe_due = now + PROBE_REFUSED;
            let due = b.probe_due;
            self.due = self.due.min(due);
        }
    }

    /// A probe was not answered.
    fn unanswered(&mut self, id: BackendId, now: Time) {
        if !self.foreign_dials || self.get(id).is_some_and(|b| b.reached) {
            self.silent(id, now);
        }
    }

    /// Nothing reaches it.
    fn silent(&mut self, id: BackendId, now: Time) {
        let last = self.get(id).is_some_and(|b| self.up[b.family()].single() == Some(id));
        self.failed(id, (if last { FAILURES_OF_LAST } else { FAILURES }, Passive::Silent), now);
    }

    /// A probe failed: perhaps the one that makes it too many.
    fn failed(&mut self, id: BackendId, (most, how): (u8, Passive), now: Time) {
        let held = self.holds(id);
        let Some(b) = self.get_mut(id) else { return };
        b.failures = b.failures.saturating_add(1);
        if !held || b.failures < most {
            return;
        }
        b.doubted = false;
        b.probe_due = now + PROBE_EVERY;
        (b.passive, b.since) = (how, now);
        let family = b.family();
        self.settle(id);
        if self.up[family].is_empty() {
            // The last one: from now on all of them are asked more often.
            for b in self.backends.iter_mut().flatten().filter(|b| b.family() == family) {
                b.probe_due = b.probe_due.min(now + PROBE_LAST);
            }
        }
        self.due = self.due.min(now + PROBE_LAST);
    }

    /// Nothing that probes say is against it.
    fn holds(&self, id: BackendId) -> bool {
        self.get(id).is_some_and(|b| !b.passive.is_down())
    }

    /// How long the answer to a probe of this backend is waited for.
    fn patience(&self, id: BackendId) -> Duration {
        if self.holds(id) {
            PROBE_PATIENCE
        } else if self.get(id).is_some_and(|b| self.up[b.family()].is_empty()) {
            PROBE_LAST
        } else {
            PROBE_EVERY
        }
    }

    /// When [`Health::next_probe`] has one.
    pub fn due(&self) -> Option<Time> {
        (self.due != Time::MAX).then_some(self.due)
    }

    /// Whether the probe to be sent now asks for congestion notification: the repetitions do not, since some firewalls drop SYNs that do
    /// (RFC 3168 section 6.1.1.1).
    pub fn probe_asks_ecn(&self, id: BackendId) -> bool {
        self.get(id).and_then(|b| b.probe).is_some_and(|p| p.sent <= 1)
    }

    /// There is something to ask.
    fn wanted(&self, id: BackendId) -> bool {
        self.get(id).is_some_and(|b| b.known.is_none() || b.doubted || b.passive != Passive::Up)
    }

    /// A backend that is due to be asked: its id, and the sequence number for the SYN. Call until none is left.
    pub fn next_probe(&mut self, now: Time) -> Option<(BackendId, Seq)> {
        if now < self.due {
            return None;
        }
        let ids = (0..self.backends.len()).map(|i| BackendId(i as u16));
        let first = ids.clone().find(|&id| self.wanted(id) && self.get(id).is_some_and(|b| b.probe_due <= now));
        let found = first.and_then(|id| {
            let before = self.get(id)?.probe.filter(|p| !p.answered);
            if before.is_some_and(|p| !p.unsent) {
                self.unanswered(id, now);
            }
            let probe = match before {
                Some(p) if p.sent < SAME_SYN => Probe { sent: p.sent + 1, unsent: false, ..p },
                _ => {
                    self.serial = self.serial.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
                    Probe { isn: Seq(self.serial), answered: false, sent: 1, unsent: false }
                }
            };
            let wait = self.patience(id);
            let b = self.get_mut(id)?;
            (b.probe, b.asked, b.probe_due) = (Some(probe), now, now + wait);
            Some((id, probe.isn))
        });
        let due = ids.filter(|&id| self.wanted(id)).filter_map(|id| Some(self.get(id)?.probe_due)).min();
        self.due = due.unwrap_or(Time::MAX);
        found
    }

    /// The probe could not be sent, its next hop's address is not known: soon again, as at start; and when that does not help,
    /// as seldom as other probes, each of which has failed then.
    pub fn postpone(&mut self, id: BackendId, now: Time) {
        let Some(b) = self.get_mut(id) else { return };
        b.probe = None;
        b.postponed = b.postponed.saturating_add(1);
        let mut wait = PROBE_SOON;
        if b.postponed > SOON_TRIES {
            self.silent(id, now);
            wait = self.patience(id);
        }
        self.again(id, now + wait);
    }

    /// The probe was not sent, our own transmit ring was full. That is no evidence of anything.
    pub fn unsent(&mut self, id: BackendId, now: Time) {
        let Some(b) = self.get_mut(id) else { return };
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
        if let Some(b) = self.get_mut(id) {
            b.probe_due = at;
            self.due = self.due.min(at);
        }
    }

    /// Which backend a segment from `addr` to one of the probes' ports belongs to, if it answers a probe whose SYN had the
    /// sequence number before `ack`.
    pub fn probe_answer(&self, addr: Addr, to_port: u16, ack: Seq) -> Option<BackendId> {
        let first = to_port.checked_sub(self.ports.0).filter(|p| *p < self.ports.1)?;
        let asked = (first..self.backends.len() as u16).step_by(usize::from(self.ports.1)).map(BackendId);
        asked.into_iter().find(|id| {
            self.get(*id)
                .is_some_and(|b| b.addr == addr && b.probe.is_some_and(|probe| probe.isn + 1 == ack && !probe.answered))
        })
    }

    /// The answer to its probe has come, undamaged: a SYN-ACK if it was `taken`.
    pub fn probe_answered(&mut self, id: BackendId, taken: bool) {
        let Some(b) = self.get_mut(id) else { return };
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
