//! All of an engine as bytes, for another process that goes on with it, and back.
//!
//! Written is what connections need to go on, and what would be missed: connections in every state with what they hold, what is known of backends and next hops,
//! affinity rows, where the local ports have got to, the running number, counters. Not written: what follows from the secret and the clock, which both processes have in
//! common (cookies, hashes); the reading of servers' answers, which ends (`unwatched`); places in lines, which are asked for anew in the same order; trails; rates of resets.
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
//! | 7 | connections |

use super::admission::{Stranded, Token};
use super::{AddressMode, Engine, session_time};
use crate::flow::{FlowId, Key, Side};
use crate::pack::{Ids, Pack, Packer, Section, Unpacker, Unreadable};
use crate::tcp::connection::{Opening, Stage, State};
use crate::tcp::{Connection, Hot, moving, timer};
use crate::time::Time;
use crate::wire::packet::protocol;
use lb::affinity::{Reader, Restored, SAVED_WORDS, Saved, called};
use lb::{BackendId, Directory, Millis};
use std::collections::HashMap;
use std::net::SocketAddr;

const HEAD: u32 = 1;
const COUNTERS: u32 = 2;
const HEALTH: u32 = 3;
const NEIGHBOURS: u32 = 4;
const PORTS: u32 = 5;
const ROWS: u32 = 6;
const FLOWS: u32 = 7;

/// Of the formats of all sections. A version that writes others writes another number there.
const VERSION: u32 = 1;

/// Whose a connection is here, by the key of its client's frames.
pub type Owner<'a> = &'a dyn Fn(&Key) -> usize;

/// What an engine has taken over.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TakenOver {
    /// Connections, in any state.
    pub flows: usize,
    /// Those of its own that it could not take.
    pub lost: usize,
    /// Why the first of these.
    pub why: Option<Unreadable>,
    /// Affinity rows.
    pub rows: usize,
    /// By the keys of their backends' frames: connections whose local ports are not this worker's.
    pub strays: Vec<Key>,
}

/// The first section.
struct Head {
    worker: u32,
    workers: u32,
    serial: u64,
    ids: Ids,
}

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

/// One connection on its way.
struct Arriving {
    client: Key,
    server: Option<Key>,
    hot: Hot,
    c: Connection,
}

impl Arriving {
    /// Its place among others of its kind is by time.
    fn stands_in_line(&self) -> bool {
        matches!(self.c.state, State::Opening(Opening { stage: Stage::Queued(_), .. }) | State::TimeWait { .. })
    }
}

impl Engine {
    /// All of it, as bytes; of rows of sessions those that may have been used since `rows_since`: the others went before ([`pack_sessions`]). It can go on as if nothing had been.
    pub fn pack(&mut self, rows_since: Time, now: Time) -> Vec<u8> {
        let mut to = Packer::new();
        to.section(HEAD, VERSION, |to| self.pack_head(to));
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
            let (now, since) = (session_time(now), session_time(rows_since));
            let since = if rows_since == Time::ZERO { Millis(0) } else { since };
            self.affinity.save(now, since, names_in_rows(&self.directory), |row| row.to_words().pack(to));
        });
        to.section(FLOWS, VERSION, |to| {
            let all: Vec<FlowId> = self.flows.iter_ids().collect();
            for id in all {
                let (Some(client), server) = (self.flows.key(id, Side::Client), self.flows.key(id, Side::Server))
                else {
                    continue;
                };
                to.sized(|to| {
                    (client, server).pack(to);
                    let Engine { flows, buffers, .. } = self;
                    let (hot, c) = flows.both(id);
                    moving::loses_its_reading(c).pack(to);
                    moving::pack(hot, c, buffers, to);
                });
                // It may have been folded.
                self.refresh(id);
            }
        });
        to.into_bytes()
    }

    fn pack_head(&self, to: &mut Packer) {
        (self.worker as u32, self.workers as u32).pack(to);
        self.serial.pack(to);
        (self.directory.backends().count() as u32).pack(to);
        for b in self.directory.backends() {
            (b.id, b.name.clone()).pack(to);
            (b.addr, b.tunnel.map(|tunnel| tunnel.to_string())).pack(to);
        }
        let (services, pools) = (self.directory.services_called(), self.directory.pools_called());
        (services.len() as u32).pack(to);
        services.iter().for_each(|(id, name)| (*id, name.to_string()).pack(to));
        (pools.len() as u32).pack(to);
        pools.iter().for_each(|(id, name)| (*id, name.to_string()).pack(to));
    }

    /// Takes its part of what all workers of another process have written, each its own, in any order. For an engine that has had no frame, with the same secret and a clock with the same
    /// origin. An error says that it is of no use: whatever was taken is not to be used either.
    pub fn take_over(&mut self, all: &[Vec<u8>], owner: Owner<'_>, now: Time) -> Result<TakenOver, Unreadable> {
        let mut taken = TakenOver::default();
        let (mut arriving, mut same_ports) = (Vec::new(), false);
        for (n, bytes) in all.iter().enumerate() {
            let nobody = Ids::default();
            let mut sections = Unpacker::new(bytes, &nobody);
            let mut head = None;
            while let Some(Section { kind, version, bytes }) = sections.section()? {
                if version != VERSION {
                    return Err(Unreadable::Unknown { kind, version });
                }
                if kind == HEAD {
                    head = Some(Head::read(bytes, &self.directory)?);
                    continue;
                }
                let head = head.as_ref().ok_or(Unreadable::Impossible("no head"))?;
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
                            self.unpack_flow(&mut one, owner, &mut arriving, &mut taken);
                        }
                    }
                    // Of a later version, which can do without.
                    _ => {}
                }
            }
            let head = head.ok_or(Unreadable::Impossible("no head"))?;
            self.serial = self.serial.max(head.serial);
            debug_assert!(head.worker < head.workers);
        }
        // The numbers of one worker are apart by the number of workers.
        let step = self.step;
        self.serial = self.serial.next_multiple_of(step) + self.worker as u64;
        self.trails.begin_at(self.serial + 1);
        self.settle_in_order(arriving, &mut taken);
        if !same_ports && self.config.address_mode == AddressMode::Snat {
            self.dial_elsewhere();
        }
        self.gates.follow_health(&self.directory, &self.health);
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

    /// Takes its part of the rows that were written by [`pack_sessions`]: how many.
    pub fn take_sessions(&mut self, bytes: &[u8], now: Time) -> Result<usize, Unreadable> {
        let nobody = Ids::default();
        let section = Unpacker::new(bytes, &nobody).section()?.ok_or(Unreadable::CutOff)?;
        if (section.kind, section.version) != (ROWS, VERSION) {
            return Err(Unreadable::Unknown { kind: section.kind, version: section.version });
        }
        self.take_rows(&mut Unpacker::new(section.bytes, &nobody), now)
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

    /// Reads one connection, if it is this worker's.
    fn unpack_flow(
        &mut self,
        from: &mut Unpacker<'_>,
        owner: Owner<'_>,
        all: &mut Vec<Arriving>,
        taken: &mut TakenOver,
    ) {
        let mut read = || {
            let (client, server) = <(Key, Option<Key>)>::unpack(from)?;
            if owner(&client) != self.worker {
                return Ok(None);
            }
            self.counters.unwatched += u64::from(bool::unpack(from)?);
            let Engine { buffers, routes, .. } = self;
            let hop = |id| Some(routes.backend(id)?.hop);
            let (hot, mut c) = moving::unpack(from, buffers, routes.ports.len(), hop)?;
            let bound = matches!(c.state, State::Spliced(_)) || c.dialing().is_some();
            if bound && server.is_none() {
                moving::release(&mut c.state, buffers);
                return Err(Unreadable::Impossible("a state that cannot be"));
            }
            Ok(Some(Arriving { client, server, hot, c }))
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

    /// Puts those into the tables that stand in line: those that wait, and those that are closed, each in their order.
    fn settle_in_order(&mut self, mut arriving: Vec<Arriving>, taken: &mut TakenOver) {
        arriving.sort_by_key(|one| match &one.c.state {
            State::Opening(Opening { stage: Stage::Queued(queued), .. }) => queued.since,
            State::TimeWait { until } => *until,
            _ => Time::ZERO,
        });
        arriving.into_iter().for_each(|one| self.settle(one, taken));
    }

    /// Puts a connection into all the tables that know of it.
    fn settle(&mut self, Arriving { client, server, hot, mut c }: Arriving, taken: &mut TakenOver) {
        let can_be = |key: &Key| {
            key.protocol == protocol::TCP && [key.src, key.dst].iter().all(|addr| addr.family() == client.family())
        };
        let fits = can_be(&client) && server.is_none_or(|key| can_be(&key)) && !self.flows.contains(&client);
        let id = if fits && self.flows.len() < self.flows.capacity() {
            let buffer = c.stream().and_then(|stream| stream.buffer_index());
            let id = self.flows.insert(client, hot, c);
            if let (Some(id), Some(buffer)) = (id, buffer) {
                self.eviction.taken(buffer, id);
            }
            id
        } else {
            moving::release(&mut c.state, &mut self.buffers);
            None
        };
        let Some(id) = id else {
            taken.lost += 1;
            taken.why.get_or_insert(Unreadable::NoRoom);
            return;
        };
        if let Some(server) = server
            && !self.flows.bind(id, server)
        {
            taken.lost += 1;
            taken.why.get_or_insert(Unreadable::NoRoom);
            let mut c = self.flows.remove(id);
            moving::release(&mut c.state, &mut self.buffers);
            return;
        }
        taken.flows += 1;
        self.note_taken(id, (&client, server.as_ref()), taken);
    }

    fn note_taken(&mut self, id: FlowId, (client, server): (&Key, Option<&Key>), taken: &mut TakenOver) {
        if let Some(flows) = self.routes.revision.flows_at(client.dst, client.dport) {
            flows.opened(self.worker);
        }
        if let Some(server) = server
            && self.returning.owner(server).is_some_and(|owner| owner != self.worker)
        {
            taken.strays.push(*server);
        }
        let generation = self.flows.generation(id);
        let Engine { flows, live, unfinished, gates, wheel, config, .. } = self;
        let (hot, c) = flows.both(id);
        // It counts, and has nothing of limits in hand, like those from before there were any.
        c.record.backend.filter(|_| !c.record.told).into_iter().for_each(|b| live.opened(b));
        c.record.backend.into_iter().chain(c.record.decided).for_each(|b| unfinished.refer(b));
        match &c.state {
            State::TimeWait { until } => wheel.line_up(id.0, *until),
            _ => wheel.arm(id.0, timer::wakes_at(hot, c, config.flow_idle_timeout)),
        }
        if let Some(queued) = c.queued() {
            gates.large += usize::from(queued.large);
            gates.stranded.push(Stranded::Free(Token { id, generation }));
        }
        self.refresh(id);
    }
}

impl Head {
    fn read(bytes: &[u8], directory: &Directory) -> Result<Head, Unreadable> {
        let nobody = Ids::default();
        let from = &mut Unpacker::new(bytes, &nobody);
        let (worker, workers) = <(u32, u32)>::unpack(from)?;
        let serial = u64::unpack(from)?;
        if worker >= workers || serial > u64::MAX / 2 {
            return Err(Unreadable::Impossible("whose it is"));
        }
        let mut head = Head { worker, workers, serial, ids: Ids::default() };
        for _ in 0..u32::unpack(from)? {
            let (number, name) = <(u16, String)>::unpack(from)?;
            let (addr, tunnel) = <(SocketAddr, Option<String>)>::unpack(from)?;
            let same = |b: &&lb::Backend| {
                b.name == name && b.addr == addr && b.tunnel.map(|tunnel| tunnel.to_string()) == tunnel
            };
            if let Some(here) = directory.backends().find(same) {
                head.ids.backends.insert(number, here.id);
            }
        }
        for _ in 0..u32::unpack(from)? {
            let (bits, name) = <(u32, String)>::unpack(from)?;
            let here = directory.services().find(|service| service.name() == name);
            here.into_iter().for_each(|service| _ = head.ids.services.insert(bits, service.id()));
        }
        for _ in 0..u32::unpack(from)? {
            let (bits, name) = <(u32, String)>::unpack(from)?;
            let here = directory.pools().find(|pool| pool.name() == name);
            here.into_iter().for_each(|pool| _ = head.ids.pools.insert(bits, pool.id()));
        }
        Ok(head)
    }
}
