//! All of an engine as bytes, for another process that goes on with it, and back.
//!
//! Written is what connections need to go on, and what would be missed: connections in every state with what they hold, what is known of backends and next hops,
//! affinity rows, where the local ports have got to, the running number, counters; of connections also what is read of them in passing, what they have of their backends' limits,
//! and since when they wait. Not written: what follows from the secret and the clock, which both processes have in common (cookies, hashes); rates of resets.
//!
//! Whoever takes over may have another number of workers. Each of them is given what all workers of the other process wrote, and takes what is its own. A connection whose local
//! port is another worker's here is told of as a stray ([`Strays`](crate::path::Strays)).
//!
//! | section | what |
//! |---|---|
//! | 1 | whose it is, and the names of the numbers in all others |
//! | 2 | counters |
//! | 3 | what is known of backends |
//! | 4 | next hops |
//! | 5 | local ports |
//! | 6 | affinity rows |
//! | 7 | connections, each with the parts that others keep of it |
//! | 8 | what became of those who asked for room |
//! | 9 | how far slow starts and limits that are found out have got |
//! | 10 | what became of those who offered to resume, by backend |
//! | 11 | whose turn it is, by pool |
//! | 12 | trails |

mod head;
mod settle;
mod turns;

pub use settle::TakenOver;

use super::admission::Gates;
use super::trail::{self, Trail};
use super::{AddressMode, Engine, session_time};
use crate::flow::{FlowId, Key, Side};
use crate::pack::{Ids, Pack, Packer, Section, Unpacker, Unreadable, of_backend};
use crate::tcp::connection::State;
use crate::tcp::{Connection, moving};
use crate::time::Time;
use crate::tls::Late;
use crate::wire::packet::protocol;
use head::Head;
use lb::admission::ClassId;
use lb::affinity::{KindCounters, Reader, Restored, SAVED_WORDS, Saved, called};
use lb::{BackendId, Directory, IdentityKind, Millis, ServiceId};
use settle::{Arriving, Readings};
use std::collections::HashMap;

const HEAD: u32 = 1;
const COUNTERS: u32 = 2;
const HEALTH: u32 = 3;
const NEIGHBOURS: u32 = 4;
const PORTS: u32 = 5;
const ROWS: u32 = 6;
const FLOWS: u32 = 7;
const ASKED: u32 = 8;
const PACE: u32 = 9;
const RESUMED: u32 = 10;
const TURNS: u32 = 11;
const TRAILS: u32 = 12;

/// Parts of a connection that others keep.
mod part {
    pub const FLIGHT: u8 = 1;
    pub const HTTP: u8 = 2;
    pub const LATE: u8 = 3;
    pub const UNITS: u8 = 4;
    pub const PLACE: u8 = 5;
}

/// Sections of this kind and above are others', who write them behind an engine's.
pub const OTHERS: u32 = 32;

/// Of the formats of all sections. A version that writes others writes another number there.
const VERSION: u32 = 2;

/// Whose a connection is here, by the key of its client's frames.
pub type Owner<'a> = &'a dyn Fn(&Key) -> usize;

/// What rows call backends.
fn names_in_rows(directory: &Directory) -> impl Fn(BackendId) -> Option<u64> {
    move |id| directory.backend(id).filter(|b| !b.leaving).map(|b| called(&b.name))
}

/// Rows of sessions of all workers, as bytes, while they go on: most of what there is to move, and moved before anybody has to wait. For [`Engine::take_sessions`].
pub fn pack_sessions(rows: &Reader, directory: &Directory, now: Time) -> Vec<u8> {
    let mut to = Packer::new();
    to.section(ROWS, VERSION, |to| {
        rows.save_sessions(session_time(now), names_in_rows(directory), |row| row.to_words().pack(to));
    });
    to.into_bytes()
}

/// Trails of all workers, as these tell of them while they go on; to stand behind rows of sessions.
pub fn pack_trails<'a>(trails: impl Iterator<Item = &'a Trail>, directory: &Directory) -> Vec<u8> {
    let mut to = Packer::new();
    to.section(HEAD, VERSION, |to| Head::pack_common(directory, to));
    to.section(TRAILS, VERSION, |to| trails.for_each(|trail| to.sized(|to| trail.pack(directory, to))));
    to.into_bytes()
}

/// A class that is no more has no name there either, and who is of it is of the last one.
fn forget_classes(c: &mut Connection, directory: &Directory) {
    let service = c.record.service;
    c.record.queue_class = c.record.queue_class.filter(|class| directory.class_name(service, *class).is_some());
    let last = directory.service(service).map(|service| service.policy().classes.last());
    let asks = c.opening().and_then(|opening| opening.asks.as_mut());
    asks.into_iter().for_each(|asks| asks.class = last.map_or(ClassId(u8::MAX), |last| asks.class.min(last)));
}

impl Engine {
    /// All of it, as bytes; of rows of sessions and trails those that may have been used or changed since `since`: the others went before ([`pack_sessions`], [`pack_trails`]). It can go
    /// on as if nothing had been.
    pub fn pack(&mut self, since: Time, now: Time) -> Vec<u8> {
        let mut to = Packer::new();
        self.pack_to(since, now, &mut to);
        to.into_bytes()
    }

    /// The same, behind whatever has been written.
    pub fn pack_to(&mut self, since: Time, now: Time, to: &mut Packer) {
        to.section(HEAD, VERSION, |to| Head::pack(self, to));
        to.section(COUNTERS, VERSION, |to| self.counters.pack(to));
        to.section(HEALTH, VERSION, |to| self.health.pack(to));
        to.section(NEIGHBOURS, VERSION, |to| self.neighbours.pack(to));
        to.section(PORTS, VERSION, |to| {
            let (first, last) = self.local_ports.range();
            (first, last).pack(to);
            (self.directory.backends().count() as u32).pack(to);
            let cursors = self.directory.backends().map(|b| (b.id, self.local_ports.cursor(b.id.index())));
            cursors.for_each(|cursor| cursor.pack(to));
        });
        to.section(ROWS, VERSION, |to| {
            let rows_since = if since == Time::ZERO { Millis(0) } else { session_time(since) };
            self.affinity
                .save(session_time(now), rows_since, names_in_rows(&self.directory), |row| row.to_words().pack(to));
        });
        to.section(FLOWS, VERSION, |to| {
            let all: Vec<FlowId> = self.flows.iter_ids().collect();
            for id in all {
                let (Some(client), server) = (self.flows.key(id, Side::Client), self.flows.key(id, Side::Server))
                else {
                    continue;
                };
                let gate = self.gate_id(id).and_then(|gate| self.gates.find(gate));
                to.sized(|to| {
                    (client, server).pack(to);
                    let Engine { flows, buffers, directory, .. } = self;
                    let (hot, c) = flows.both(id);
                    forget_classes(c, directory);
                    moving::pack(hot, c, gate.is_some(), buffers, to);
                    self.pack_parts(id, gate, to);
                });
                // It may have been folded.
                self.refresh(id);
            }
        });
        to.section(ASKED, VERSION, |to| self.gates.pack(to));
        to.section(RESUMED, VERSION, |to| {
            let metrics = self.affinity.metrics();
            let all = self.directory.backends().flat_map(|b| IdentityKind::ALL.map(|kind| (b.id, kind)));
            all.for_each(|(id, kind)| to.sized(|to| (id, (kind, metrics.of(id, kind))).pack(to)));
        });
        to.section(TURNS, VERSION, |to| turns::pack(&self.directory, &mut self.balancers, to));
        to.section(TRAILS, VERSION, |to| {
            let changed = self.trails.all().filter(|trail| trail.changed_since(since));
            changed.for_each(|trail| to.sized(|to| trail.pack(&self.directory, to)));
        });
        to.section(PACE, VERSION, |to| self.pace.pack(&self.observed, self.worker == 0, to));
    }

    fn pack_parts(&mut self, id: FlowId, gate: Option<usize>, to: &mut Packer) {
        let Engine { flows, flights, readings, lates, buffers, gates, .. } = self;
        let mut part = |kind: u8, write: &mut dyn FnMut(&mut Packer)| {
            kind.pack(to);
            to.sized(|to| write(to));
        };
        let c = flows.get_mut(id);
        c.flight.into_iter().for_each(|id| part(part::FLIGHT, &mut |to| flights.pack(id, buffers, to)));
        c.http.into_iter().for_each(|id| part(part::HTTP, &mut |to| readings.pack(id, buffers, to)));
        if let Late::Begun(place) = c.late {
            part(part::LATE, &mut |to| lates.pack(place, buffers, to));
        }
        // Where nobody is asked any more, it counts as a connection alone.
        if let (Some(slot), Some(gate)) = (&c.record.slot, gate) {
            let class = gates.at(gate).admission.class_within(slot.class());
            part(part::UNITS, &mut |to| (class, slot.units()).pack(to));
        }
        let ticket = c.queued().map(|queued| queued.ticket);
        let parked = gate.zip(ticket).and_then(|(gate, ticket)| gates.at(gate).admission.parked(ticket));
        if let Some(parked) = parked {
            part(part::PLACE, &mut |to| (parked.since, parked.failed).pack(to));
        }
    }

    /// Takes its part of what all workers of another process have written, each its own, in any order. For an engine that has had no frame, with the same secret and a clock with the same
    /// origin. An error says that it is of no use: whatever was taken is not to be used either.
    pub fn take_over(&mut self, all: &[Vec<u8>], owner: Owner<'_>, now: Time) -> Result<TakenOver, Unreadable> {
        let mut taken = TakenOver::default();
        let nobody = Ids::default();
        let heads = all.iter().map(|bytes| match Unpacker::new(bytes, &nobody).section()? {
            Some(Section { kind: HEAD, version: VERSION, bytes }) => Head::read(bytes, &self.directory),
            Some(Section { kind: HEAD, version, .. }) => Err(Unreadable::Unknown { kind: HEAD, version }),
            _ => Err(Unreadable::Impossible("no head")),
        });
        let heads = heads.collect::<Result<Vec<Head>, Unreadable>>()?;
        let (mut arriving, mut same_ports) = (Vec::new(), false);
        for (n, (bytes, head)) in all.iter().zip(&heads).enumerate() {
            let mut sections = Unpacker::new(bytes, &nobody);
            while let Some(Section { kind, version, bytes }) = sections.section()? {
                if kind >= OTHERS {
                    continue;
                }
                if version != VERSION {
                    return Err(Unreadable::Unknown { kind, version });
                }
                let mut from = Unpacker::new(bytes, &head.ids);
                match kind {
                    COUNTERS if n % self.workers == self.worker => self.counters.take_over(&mut from)?,
                    // Each asks for itself: what one knew is good for all, until they know better.
                    HEALTH if n == self.worker % all.len() => self.health.take_over(&mut from, now)?,
                    NEIGHBOURS => self.neighbours.take_over(&mut from)?,
                    PORTS => same_ports |= self.take_ports(&mut from)?,
                    ROWS => taken.rows += self.take_rows(&mut from, now)?,
                    FLOWS => {
                        while !from.is_empty() {
                            let mut one = from.sized()?;
                            self.unpack_flow(&mut one, head, owner, &mut arriving, &mut taken);
                        }
                    }
                    ASKED if n % self.workers == self.worker => self.take_counts(head, &mut from)?,
                    RESUMED if n % self.workers == self.worker => {
                        while !from.is_empty() {
                            let one = of_backend::<(BackendId, (IdentityKind, KindCounters))>(&mut from.sized()?)?;
                            one.into_iter().for_each(|(id, (kind, of))| self.affinity.count_on(id, kind, of));
                        }
                    }
                    PACE if n == self.worker % all.len() => {
                        let Engine { pace, live, worker, .. } = self;
                        pace.take_over(&mut from, (*worker == 0).then(|| &**live.slots()), now)?;
                    }
                    TRAILS => self.take_trails(&mut from, head, owner)?,
                    // Each worker turns by itself.
                    TURNS if n == self.worker % all.len() => {
                        turns::take_over(&self.directory, &mut self.balancers, &mut from)?;
                    }
                    // The head, and what is of a later version, which can do without.
                    _ => {}
                }
            }
            self.serial = self.serial.max(head.serial);
            if head.swept <= now {
                self.swept = head.swept;
            }
            debug_assert!(head.worker < head.workers);
        }
        // The numbers of one worker are apart by the number of workers.
        let step = self.step;
        self.serial = self.serial.next_multiple_of(step) + self.worker as u64;
        self.trails.begin_at(self.serial + 1);
        // By that it is known who may be given to whom.
        self.gates.follow_health(&self.directory, &self.health);
        self.settle_in_order(arriving, &mut taken);
        if !same_ports && self.config.address_mode == AddressMode::Snat {
            self.dial_elsewhere();
        }
        Ok(taken)
    }

    /// Goes on where a worker of the other process was, if it dialled from the same ports: false when it did not.
    fn take_ports(&mut self, from: &mut Unpacker<'_>) -> Result<bool, Unreadable> {
        let same = <(u16, u16)>::unpack(from)? == self.local_ports.range();
        for _ in 0..u32::unpack(from)? {
            let id = BackendId::unpack(from);
            let cursor = u32::unpack(from)?;
            if let (true, Ok(id)) = (same, id) {
                self.local_ports.go_on_from(id.index(), cursor);
            }
        }
        Ok(same)
    }

    /// Dials begin somewhere else than they did there, and not where most ports are still in use.
    fn dial_elsewhere(&mut self) {
        const PLACES: u64 = 8;
        const LOOKS: usize = 64;
        let Engine { directory, routes, flows, local_ports, keyed, serial, .. } = self;
        for b in directory.backends() {
            let Some(way) = routes.revision.way(b.id) else { continue };
            let taken = |source: usize, port: u16| {
                let own = way.sources[source];
                let protocol = protocol::TCP;
                flows.contains(&Key { src: way.addr, dst: own, sport: way.port, dport: port, protocol })
            };
            let place = |n: u64| keyed.hash(&[*serial, u64::from(b.id.0), n].map(u64::to_le_bytes).concat()) as u32;
            let crowd = |n: &u64| local_ports.crowd(b.id.index(), place(*n), way.sources.len(), taken, LOOKS);
            let best = (0..PLACES).min_by_key(crowd).unwrap_or(0);
            local_ports.go_on_from(b.id.index(), place(best));
        }
    }

    /// Takes its part of what was written by [`pack_sessions`], and of the trails behind it ([`pack_trails`]), before [`Engine::take_over`]: how many rows.
    pub fn take_sessions(&mut self, bytes: &[u8], owner: Owner<'_>, now: Time) -> Result<usize, Unreadable> {
        let nobody = Ids::default();
        let (mut rows, mut head) = (None, None);
        let mut sections = Unpacker::new(bytes, &nobody);
        while let Some(Section { kind, version, bytes }) = sections.section()? {
            if version != VERSION && matches!(kind, ROWS | HEAD | TRAILS) {
                return Err(Unreadable::Unknown { kind, version });
            }
            match kind {
                ROWS => rows = Some(self.take_rows(&mut Unpacker::new(bytes, &nobody), now)?),
                HEAD => head = Some(Head::read(bytes, &self.directory)?),
                TRAILS => {
                    let head = head.as_ref().ok_or(Unreadable::Impossible("no head"))?;
                    self.take_trails(&mut Unpacker::new(bytes, &head.ids), head, owner)?;
                }
                // Of a later version, which can do without.
                _ => {}
            }
        }
        rows.ok_or(Unreadable::CutOff)
    }

    /// Takes its part of trails.
    fn take_trails(&mut self, from: &mut Unpacker<'_>, head: &Head, owner: Owner<'_>) -> Result<(), Unreadable> {
        let mut own = Vec::new();
        while !from.is_empty() {
            let mut one = from.sized()?;
            if owner(&Key::unpack(&mut one.clone())?) != self.worker {
                continue;
            }
            let mut trail = Trail::unpack(&mut one, &self.directory)?;
            let shown = trail.ended.as_mut().and_then(|shown| Some((shown.service, shown.queue_class.as_mut()?)));
            shown.into_iter().for_each(|(service, class)| *class = head.class(service, *class));
            own.push(trail);
            if own.len() >= trail::TRAILS {
                self.trails.take(core::mem::take(&mut own));
            }
        }
        self.trails.take(own);
        Ok(())
    }

    fn take_rows(&mut self, from: &mut Unpacker<'_>, now: Time) -> Result<usize, Unreadable> {
        let wanted = self.directory.backends().filter(|b| !b.leaving);
        let by_name: HashMap<u64, BackendId> = wanted.map(|b| (called(&b.name), b.id)).collect();
        let now = session_time(now);
        let mut rows = 0;
        while !from.is_empty() {
            let words = <[u64; SAVED_WORDS]>::unpack(from)?;
            let saved = Saved::from_words(&words).map_err(|_| Unreadable::Damaged)?;
            let Some(saved) = saved else { continue };
            let Some(backend) = by_name.get(&saved.backend) else { continue };
            let age = now.0.saturating_sub(saved.used);
            rows += usize::from(self.affinity.restore_own(&saved, *backend, now, age) == Some(Restored::Known));
        }
        Ok(rows)
    }

    /// Counts on from what became of those who asked for room there.
    fn take_counts(&mut self, head: &Head, from: &mut Unpacker<'_>) -> Result<(), Unreadable> {
        while !from.is_empty() {
            let (gate, class, counters) = Gates::unpack_counts(from)?;
            let class = gate.map(|gate| head.class(gate.service, class)).unwrap_or_default();
            self.gates.count_on(gate, class, counters);
        }
        Ok(())
    }

    /// Reads one connection, if it is this worker's, and puts it into the tables, or to those that stand in line.
    fn unpack_flow<'a>(
        &mut self,
        from: &mut Unpacker<'a>,
        head: &Head,
        owner: Owner<'_>,
        all: &mut Vec<Arriving<'a>>,
        taken: &mut TakenOver,
    ) {
        let mut read = || {
            let (client, server) = <(Key, Option<Key>)>::unpack(from)?;
            if owner(&client) != self.worker {
                return Ok(None);
            }
            let Engine { buffers, routes, .. } = self;
            let hop = |id| Some(routes.backend(id)?.hop);
            let (hot, c) = moving::unpack(from, buffers, routes.ports.len(), hop)?;
            let (readings, taken, place) = Default::default();
            let mut one = Arriving { client, server, hot, c, readings, taken, place };
            let bound = matches!(one.c.state, State::Spliced(_)) || one.c.dialing().is_some();
            let parts = one.read_parts(from);
            if bound && server.is_none() || parts.is_err() {
                moving::release(&mut one.c.state, buffers);
                return Err(parts.err().unwrap_or(Unreadable::Impossible("a state that cannot be")));
            }
            one.follow_classes(|service, class| head.class(service, class));
            Ok(Some(one))
        };
        match read() {
            // Few as a rule, and each is large: the others are not carried to and fro.
            Ok(Some(one)) if one.stands_in_line() => all.push(one),
            Ok(Some(one)) => self.settle(one, taken),
            Ok(None) => {}
            Err(why) => {
                taken.lost += 1;
                taken.why.get_or_insert(why);
            }
        }
    }
}

impl<'a> Arriving<'a> {
    /// What others keep of it.
    fn read_parts(&mut self, from: &mut Unpacker<'a>) -> Result<(), Unreadable> {
        while !from.is_empty() {
            let kind = u8::unpack(from)?;
            let mut one = from.sized()?;
            let all = one.clone().rest();
            match kind {
                part::FLIGHT => self.readings.flight = Some(all),
                part::HTTP => self.readings.http = Some(all),
                part::LATE => self.readings.late = Some(all),
                part::UNITS => self.taken = Some(Pack::unpack(&mut one)?),
                part::PLACE => self.place = Some(Pack::unpack(&mut one)?),
                _ => return Err(Unreadable::Impossible("a part of a connection")),
            }
        }
        // One whose dial failed may wait for room again, and its reading has begun.
        let may_read = matches!(self.c.state, State::Spliced(_) | State::Opening(_));
        let Readings { flight, http, late } = self.readings;
        let reads = flight.is_some() || http.is_some() || late.is_some();
        let has_ended = self.c.record.told || self.c.record.backend.is_none();
        match reads && !may_read || self.taken.is_some() && has_ended {
            true => Err(Unreadable::Impossible("a part that it cannot have")),
            false => Ok(()),
        }
    }

    /// By their numbers here.
    fn follow_classes(&mut self, here: impl Fn(ServiceId, ClassId) -> ClassId) {
        let service = self.c.record.service;
        let classes = [self.c.record.queue_class.as_mut(), self.taken.as_mut().map(|(class, _)| class)];
        classes.into_iter().flatten().for_each(|class| *class = here(service, *class));
        let asks = self.c.opening().and_then(|opening| opening.asks.as_mut());
        asks.into_iter().for_each(|asks| asks.class = here(service, asks.class));
    }
}
