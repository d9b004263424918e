//! Checks: what is asked of backends, so that it is known whether they serve, and which ticket keys they have.
//!
//! IP packets in, IP packets out: no socket, no clock, no thread. Each question is a TCP connection of its own (`endpoint`), from an own address and a
//! port that nobody else has ([`CHECK_PORTS`]), by the way that clients' connections take: whoever carries the packets sees to that. There
//! is one [`Checks`] for all workers.
//!
//! What comes of it is a [`Verdict`] a backend, changed by `rise` or `fall` answers in a row, and what is known of its ticket keys (`keys`).
//!
//! **Bounds.** At most [`AT_ONCE`] connections are under way; further questions wait for their turn, those due first before others. Each has a time
//! after which it is given up.

mod agent;
mod doubt;
mod endpoint;
mod http;
mod keys;
mod report;
mod run;
mod target;
mod tls;
mod verdict;

pub use agent::{Admin, Says};
pub use doubt::Suspicion;
pub use endpoint::RECEIVE;
pub use keys::KeyState;
pub use report::{AgentReport, KeyReport, Report};
pub use verdict::Verdict;

use crate::backends::Checked;
use crate::path::{CHECK_PORT, CHECK_PORTS, Revision};
use crate::time::Time;
use crate::wire::Addr;
use core::time::Duration;
use lb::{BackendId, KeyName};
use run::{Ends, Run, Talk};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use target::{Purpose, Target};

/// Most connections under way. More backends than that which do not answer are asked less often than wanted.
pub const AT_ONCE: usize = 256;

/// Lines that wait for [`Checks::next_line`]. Further ones are lost: what holds is told by [`Checks::reports`] all the same.
const LINES: usize = 1024;

/// What holds of a backend, for workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Whom.
    pub backend: BackendId,
    /// Which holder of the slot.
    pub generation: u32,
    /// What its checks say.
    pub checked: Checked,
    /// The names of its ticket keys are known; `None` before that was looked at for the first time.
    pub named: Option<bool>,
}

/// A packet to a backend.
#[derive(Clone, Copy, Debug)]
pub struct Leaving<'a> {
    /// To whom.
    pub backend: BackendId,
    /// Which holder of the slot.
    pub generation: u32,
    /// The IP packet.
    pub packet: &'a [u8],
}

/// A name of a backend's ticket keys, as it gave it to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyNews {
    /// Whose.
    pub backend: BackendId,
    /// Which holder of the slot.
    pub generation: u32,
    /// The name.
    pub name: KeyName,
}

/// All checks. See the [module](self).
pub struct Checks {
    /// By slot.
    targets: Vec<Option<Target>>,
    runs: Vec<(BackendId, Purpose, Run)>,
    /// Makes sequence numbers, and scatters times.
    seed: u64,
    /// Largest packet.
    mtu: u16,
    /// Ticket keys are learned.
    learns: bool,
    revision: Option<Arc<Revision>>,
    keys: VecDeque<KeyNews>,
    lines: VecDeque<String>,
    changed: bool,
}

impl Checks {
    /// For packets of up to `mtu` bytes; `learns`: which ticket keys backends have.
    pub fn new(mtu: u16, learns: bool, seed: u64) -> Checks {
        Checks {
            targets: Vec::new(),
            runs: Vec::new(),
            seed,
            mtu,
            learns,
            revision: None,
            keys: VecDeque::new(),
            lines: VecDeque::new(),
            changed: true,
        }
    }

    /// From now on these are the backends.
    pub fn follow(&mut self, revision: &Arc<Revision>, now: Time) {
        let directory = revision.directory();
        let first = self.revision.is_none();
        self.targets.resize_with(directory.slots().max(self.targets.len()), || None);
        for (slot, place) in self.targets.iter_mut().enumerate() {
            let id = BackendId(slot as u16);
            let wanted = directory.backend(id).filter(|b| !b.leaving).zip(revision.way(id));
            let Some((backend, way)) = wanted else {
                *place = None;
                continue;
            };
            let source = way.checks_from(id).ip();
            let spread = spread(&mut self.seed);
            match place {
                Some(target) if target.generation == backend.generation => {
                    target.follow(backend, directory, source, self.learns, spread, now);
                }
                _ => {
                    let mut target = Target::new(backend, now);
                    target.follow(backend, directory, source, self.learns, spread, now);
                    if !first {
                        target.at_once(now);
                    }
                    *place = Some(target);
                }
            }
        }
        let targets = &self.targets;
        for (id, purpose, run) in &mut self.runs {
            let target = targets.get(id.index()).and_then(Option::as_ref);
            let awaited = target.is_some_and(|target| target.awaits(*purpose) && target.addr.ip() == run.to.ip());
            if !awaited {
                run.abandon(now);
            }
        }
        self.revision = Some(revision.clone());
        self.changed = true;
    }

    /// A backend is seen to speak TLS.
    pub fn speaks_tls(&mut self, backend: BackendId, now: Time) {
        if let Some(target) = self.target(backend) {
            target.speaks_tls(now);
        }
    }

    /// Clients were left without an answer by a backend: it is asked at once, also one that has no check. See `doubt.rs`.
    pub fn suspect(&mut self, backend: BackendId, now: Time) {
        if let Some(target) = self.target(backend) {
            target.suspect(now);
        }
    }

    /// Clients bring tickets that no known key explains: perhaps a backend has new ones.
    pub fn look_at_keys(&mut self, backend: BackendId, now: Time) {
        if let Some(target) = self.target(backend) {
            target.look_at_keys(now);
        }
    }

    /// Which keys a backend has was forgotten, since it has lost them, or its sessions: it is asked at once, and a look that is under way, which may know the
    /// former ones, counts for nothing.
    pub fn forget_keys(&mut self, backend: BackendId, now: Time) {
        let Some(target) = self.target(backend) else { return };
        target.forget_keys(now);
        let under_way = self.runs.iter_mut().filter(|(id, purpose, _)| *id == backend && *purpose == Purpose::Learn);
        under_way.for_each(|(_, _, run)| run.abandon(now));
        self.changed = true;
    }

    fn target(&mut self, backend: BackendId) -> Option<&mut Target> {
        self.targets.get_mut(backend.index())?.as_mut()
    }

    /// An IP packet to one of the check ports has arrived, intact.
    pub fn receive(&mut self, packet: &[u8], now: Time) {
        let Some((from, to)) = ends(packet) else { return };
        if let Some((_, _, run)) = self.runs.iter_mut().find(|(_, _, run)| run.to == from && run.from == to) {
            run.receive(packet, now);
        }
    }

    /// Goes on with everything. Packets go to `send`.
    pub fn poll(&mut self, now: Time, send: &mut dyn FnMut(Leaving<'_>)) {
        self.begin_due(now);
        let mut at = 0;
        while at < self.runs.len() {
            let (id, purpose) = (self.runs[at].0, self.runs[at].1);
            let generation = self.target(id).map_or(0, |target| target.generation);
            let run = &mut self.runs[at].2;
            let outcome = run.advance(now, &mut |packet| send(Leaving { backend: id, generation, packet }));
            let over = run.is_over();
            if over {
                self.runs.swap_remove(at);
            } else {
                at += 1;
            }
            if let Some(outcome) = outcome {
                self.conclude(id, purpose, &outcome, now);
            }
        }
    }

    /// For a while nobody has carried its packets: what is under way says nothing of any server, and is asked anew.
    pub fn interrupted(&mut self, now: Time) {
        for n in 0..self.runs.len() {
            let (id, purpose, run) = &mut self.runs[n];
            run.abandon(now);
            let (id, purpose) = (*id, *purpose);
            self.forsake(id, purpose, now);
        }
    }

    /// The last it does: no server is left with a connection that nobody has the other end of.
    pub fn end(&mut self, now: Time, send: &mut dyn FnMut(Leaving<'_>)) {
        for (id, _, mut run) in core::mem::take(&mut self.runs) {
            let generation = self.target(id).map_or(0, |target| target.generation);
            run.abandon(now);
            run.advance(now, &mut |packet| send(Leaving { backend: id, generation, packet }));
        }
    }

    fn conclude(&mut self, id: BackendId, purpose: Purpose, outcome: &run::Outcome, now: Time) {
        let Some(target) = self.targets.get_mut(id.index()).and_then(Option::as_mut) else { return };
        self.changed = true;
        match purpose {
            Purpose::Check => {
                if let Some(line) = target.conclude_check(outcome, now) {
                    push_line(&mut self.lines, line);
                }
            }
            Purpose::Doubt => {
                if let Some(line) = target.doubted(outcome, spread(&mut self.seed), now) {
                    push_line(&mut self.lines, line);
                }
            }
            Purpose::Agent => {
                if let Some(line) = target.agent_said(outcome, now) {
                    push_line(&mut self.lines, line);
                }
            }
            Purpose::Learn => {
                let (name, line, further) = target.learned(outcome, now);
                self.keys.extend(name.map(|name| KeyNews { backend: id, generation: target.generation, name }));
                line.into_iter().for_each(|line| push_line(&mut self.lines, line));
                if let Some(talk) = further {
                    let (to, patience) = target.further();
                    self.open(id, purpose, to, talk, patience, now);
                }
            }
        }
    }

    fn begin_due(&mut self, now: Time) {
        for slot in 0..self.targets.len() {
            for purpose in Purpose::ALL {
                if self.runs.len() >= AT_ONCE {
                    return;
                }
                let Some(target) = &mut self.targets[slot] else { continue };
                self.changed |= target.expire(now);
                if target.due(purpose) > now {
                    continue;
                }
                let spread = spread(&mut self.seed);
                let Some((to, talk, patience)) = target.begin(purpose, spread, now) else { continue };
                self.open(BackendId(slot as u16), purpose, to, talk, patience, now);
            }
        }
    }

    fn open(&mut self, id: BackendId, purpose: Purpose, to: SocketAddr, talk: Talk, patience: Duration, now: Time) {
        let seed = mix(&mut self.seed);
        let Some(from) = self.free_port(id, to) else { return self.forsake(id, purpose, now) };
        let Some(target) = self.target(id) else { return };
        let proxy = target.proxy && purpose != Purpose::Agent;
        // Through a tunnel it is less than by a port.
        let way = self.revision.as_ref().and_then(|revision| revision.way(id));
        let mtu = way.map_or(self.mtu, |way| self.mtu.min(way.mtu));
        let ends = Ends { from, to, mtu, seed };
        match Run::begin(ends, talk, proxy, patience, now) {
            Some(run) => self.runs.push((id, purpose, run)),
            None => self.forsake(id, purpose, now),
        }
    }

    /// It cannot be asked now.
    fn forsake(&mut self, id: BackendId, purpose: Purpose, now: Time) {
        if let Some(target) = self.target(id) {
            target.put_off(purpose, now);
        }
    }

    /// A port of ours towards a server that no connection to it has: each one comes again as late as possible.
    fn free_port(&mut self, id: BackendId, to: SocketAddr) -> Option<SocketAddr> {
        let Checks { targets, runs, revision, .. } = self;
        let target = targets.get_mut(id.index())?.as_mut()?;
        let directory = revision.as_ref()?.directory();
        (0..CHECK_PORTS).find_map(|_| {
            let port = CHECK_PORT + target.next_port();
            let from = SocketAddr::new(target.source, port);
            let free = !runs.iter().any(|(_, _, run)| run.to == to && run.from == from);
            (free && directory.listener(from).is_none()).then_some(from)
        })
    }

    /// When [`Checks::poll`] has something to do.
    pub fn due(&mut self, now: Time) -> Time {
        let room = self.runs.len() < AT_ONCE;
        let runs = self.runs.iter_mut().map(|(_, _, run)| run.due(now)).min().unwrap_or(Time::MAX);
        let targets = self.targets.iter().flatten().flat_map(|t| Purpose::ALL.map(|purpose| t.due(purpose)));
        runs.min(targets.filter(|_| room).min().unwrap_or(Time::MAX))
    }

    /// Whether something that [`Checks::seen`] or [`Checks::reports`] tells may have changed since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// What holds of all backends.
    pub fn seen(&self) -> impl Iterator<Item = Seen> + '_ {
        self.targets.iter().flatten().map(|target| {
            let seen = target.seen();
            // A suspicion takes nobody away who is the last.
            if self.spares(target) { Seen { checked: target.checked(), ..seen } } else { seen }
        })
    }

    /// It is down by a suspicion, and would be missed.
    fn spares(&self, target: &Target) -> bool {
        target.is_down_by_doubt() && !self.has_others(&target.seen())
    }

    /// Each of a backend's pools has another of its family that is not down.
    fn has_others(&self, seen: &Seen) -> bool {
        let Some(revision) = &self.revision else { return false };
        let target = |id: BackendId| self.targets.get(id.index()).and_then(Option::as_ref);
        let Some(mine) = target(seen.backend) else { return false };
        let serves = |id: BackendId| {
            target(id).is_some_and(|other| {
                other.addr.is_ipv4() == mine.addr.is_ipv4() && other.seen().checked != Checked::Down
            })
        };
        let mut pools = revision.directory().pools().filter(|pool| pool.backends().contains(seen.backend));
        pools.all(|pool| pool.backends().iter().any(|id| id != seen.backend && serves(id)))
    }

    /// What is to be told of all backends, in order of their slots.
    pub fn reports(&self) -> impl Iterator<Item = Report> + '_ {
        self.targets.iter().flatten().map(|target| {
            let mut report = target.report();
            report.suspicion.iter_mut().for_each(|suspicion| suspicion.spared = self.spares(target));
            report
        })
    }

    /// The next name of a ticket key.
    pub fn next_key(&mut self) -> Option<KeyNews> {
        self.keys.pop_front()
    }

    /// What an operator should read, a line at a time.
    pub fn next_line(&mut self) -> Option<String> {
        self.lines.pop_front()
    }

    /// Connections under way.
    pub fn under_way(&self) -> usize {
        self.runs.len()
    }
}

fn push_line(lines: &mut VecDeque<String>, line: String) {
    if lines.len() < LINES {
        lines.push_back(line);
    }
}

/// SplitMix64.
fn mix(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// From 0 to 1.
fn spread(seed: &mut u64) -> f64 {
    (mix(seed) >> 11) as f64 / (1u64 << 53) as f64
}

/// Source and destination of a TCP segment.
fn ends(packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (from, to, header): (Addr, Addr, usize) = match packet.first()? >> 4 {
        4 => {
            let addr = |at| Some(Addr::v4(packet.get(at..at + 4)?.try_into().ok()?));
            (addr(12)?, addr(16)?, usize::from(packet[0] & 15) * 4)
        }
        6 => {
            let addr = |at| Some(Addr(packet.get(at..at + 16)?.try_into().ok()?));
            (addr(8)?, addr(24)?, 40)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    Some((SocketAddr::new(from.ip(), port(header)?), SocketAddr::new(to.ip(), port(header + 2)?)))
}
