//! Why connections went where they went: what each offered, what the tables said of it, and what was then done, step by step.
//!
//! A trail is written beside the connection, at the places where things are decided, and read when somebody asks. The latest [`TRAILS`] of a worker are kept, whether
//! they live or have ended: a place is used anew when as many have begun since. Nothing is allocated for one, nothing is looked up for one, and a frame of a
//! spliced connection does not touch it.
//!
//! A process that [takes over](super::moving) has those of the other one, too (`moving.rs`): they stand in front of its own, and give way to them.

mod moving;

use super::Engine;
use super::connections::Shown;
use crate::flow::{FlowId, Key, Side};
use crate::tcp::End;
use crate::time::Time;
use crate::wire::Addr;
use arrayvec::ArrayVec;
use core::cmp::Ordering;
use core::time::Duration;
use lb::{BackendId, Identity, Lookup, Reason};
use std::net::{IpAddr, SocketAddr};

/// Connections that a worker remembers.
pub const TRAILS: usize = 4096;
/// Bytes that it takes for that.
pub const TRAIL_BYTES: usize = TRAILS * size_of::<Trail>();
/// Identities of a hello that are kept; further ones are counted.
pub const OFFERED: usize = 3;
/// Steps that are kept; of further ones the last, and how many were between.
pub const STEPS: usize = 14;
/// Bytes of a server name that are kept.
pub const NAME: usize = 96;

/// A backend, and which holder of its slot.
pub type Holder = (BackendId, u32);

/// Something that was decided or has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The client's hello was complete.
    Hello,
    /// The client's request of plain HTTP/1 had come, or as much of it as there will be.
    Request,
    /// The client said something else than TLS.
    NotTls,
    /// The client said nothing for as long as is waited for a hello, or too little to tell.
    Silent,
    /// A hello came after the backend was chosen.
    LateHello,
    /// It waits for room at a backend.
    Waits,
    /// There was room at last.
    Goes(Holder),
    /// It was asked to connect.
    Dials(Holder),
    /// There was no way to it: no free local port, no next hop.
    NoWay(Holder),
    /// It reset the dial.
    Refuses(Holder),
    /// It did not answer.
    Silence(Holder),
    /// It took the connection.
    Answers(Holder),
    /// No backend was left to ask.
    Nobody,
    /// No backend had room, and there was no place to wait.
    NoPlace,
    /// It ended.
    Ends(End),
}

/// When, since the connection's beginning, and what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// In microseconds, 71 minutes at most.
    after: u32,
    /// What.
    pub what: What,
}

impl Step {
    /// When, since the connection's beginning: 71 minutes at most.
    pub fn after(&self) -> Duration {
        Duration::from_micros(u64::from(self.after))
    }
}

/// The row that said where to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// What of the hello it was found by.
    pub reason: Reason,
    /// Its key.
    pub key: lb::Key,
    /// False: a good guess only, see [`lb::affinity::Decision::proven`].
    pub proven: bool,
    /// Backends that it names and that were up: several share ticket keys.
    pub named: u16,
    /// The first choice was one of them.
    pub followed: bool,
}

/// One connection's.
#[derive(Clone, Debug)]
pub struct Trail {
    /// Its running number, as in what is told at its end.
    pub number: u64,
    key: Key,
    /// Whom a PROXY header that was accepted names.
    named: Option<(Addr, u16)>,
    /// When it began.
    pub began: Time,
    /// What its hello offered, as far as it is kept: PSK identities, the ticket, the session ID.
    pub offered: ArrayVec<Identity, OFFERED>,
    /// Identities beyond these.
    pub unsaid: u8,
    /// The server name of its hello, as far as it is kept: any bytes.
    pub name: ArrayVec<u8, NAME>,
    /// The row that decided; none: no row knew what was offered.
    pub row: Option<Row>,
    /// What was done.
    pub steps: ArrayVec<Step, STEPS>,
    /// Steps between the last one and the one before it that are not kept.
    pub lost: u16,
    /// As it was at its end; none while it lives.
    pub ended: Option<Shown>,
}

impl Trail {
    /// The client's address and port: those of its connection, or what a PROXY header that was accepted says.
    pub fn client(&self) -> SocketAddr {
        self.named.map_or_else(|| self.key.source(), |(client, port)| client.socket(port))
    }

    /// Who wrote that header.
    pub fn via(&self) -> Option<SocketAddr> {
        self.named.map(|_| self.key.source())
    }

    /// What it connected to.
    pub fn vip(&self) -> SocketAddr {
        self.key.destination()
    }

    fn note(&mut self, what: What, now: Time) {
        let after = u32::try_from(now.since(self.began).as_micros()).unwrap_or(u32::MAX);
        let step = Step { after, what };
        if self.steps.try_push(step).is_err()
            && let Some(last) = self.steps.last_mut()
        {
            *last = step;
            self.lost = self.lost.saturating_add(1);
        }
    }
}

/// Which trails are meant: those for which all that is given holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sought {
    /// Its client's address.
    pub client: Option<IpAddr>,
    /// Its client's port.
    pub port: Option<u16>,
    /// Its number.
    pub number: Option<u64>,
    /// The server name in its hello, as the client wrote it but for upper and lower case.
    pub name: Option<String>,
}

impl Sought {
    fn means(&self, trail: &Trail) -> bool {
        self.client.is_none_or(|client| trail.client().ip() == client)
            && self.port.is_none_or(|port| trail.client().port() == port)
            && self.number.is_none_or(|number| trail.number == number)
            && self.name.as_ref().is_none_or(|name| {
                let name = name.as_bytes();
                trail.name.eq_ignore_ascii_case(&name[..name.len().min(NAME)])
            })
    }
}

/// Those of one worker: a ring, in the order in which they began.
#[derive(Debug)]
pub(super) struct Trails {
    ring: Vec<Trail>,
    /// So many have begun, with those of another process.
    begun: u64,
    /// So many of these are another process's, in the order of their numbers.
    earlier: u64,
    /// Numbers of a worker's own connections go in steps, from its own place.
    first: u64,
    step: u64,
}

impl Trails {
    pub fn new(worker: usize, workers: usize) -> Trails {
        // Touched as they are written.
        let ring = Vec::with_capacity(TRAILS);
        Trails { ring, begun: 0, earlier: 0, first: worker as u64 + 1, step: workers as u64 }
    }

    /// The next connection begins.
    pub fn begin(&mut self, number: u64, key: Key, now: Time) {
        debug_assert_eq!(number, self.first + (self.begun - self.earlier) * self.step);
        match self.ring.get_mut(self.begun as usize % TRAILS) {
            Some(trail) => {
                (trail.number, trail.key, trail.began) = (number, key, now);
                trail.offered.clear();
                trail.name.clear();
                trail.steps.clear();
                (trail.unsaid, trail.lost, trail.row, trail.ended) = (0, 0, None, None);
                trail.named = None;
            }
            None => self.ring.push(Trail {
                number,
                key,
                named: None,
                began: now,
                offered: ArrayVec::new(),
                unsaid: 0,
                name: ArrayVec::new(),
                row: None,
                steps: ArrayVec::new(),
                lost: 0,
                ended: None,
            }),
        }
        self.begun += 1;
    }

    /// A connection has ended: what there is to be seen of it is kept.
    pub fn ends(&mut self, number: u64, end: End, now: Time, shown: impl FnOnce() -> Shown) {
        if let Some(trail) = self.of(number) {
            trail.note(What::Ends(end), now);
            trail.ended = Some(shown());
        }
    }

    /// The trail of a connection, if it is kept still.
    pub fn of(&mut self, number: u64) -> Option<&mut Trail> {
        let nth = match number.checked_sub(self.first) {
            Some(behind) => self.earlier + behind / self.step,
            None => self.of_another(number)?,
        };
        self.ring.get_mut(nth as usize % TRAILS).filter(|trail| trail.number == number)
    }

    /// Where one of another process stands.
    #[cold]
    fn of_another(&self, number: u64) -> Option<u64> {
        let (mut from, mut to) = (self.begun.saturating_sub(TRAILS as u64), self.earlier);
        while from < to {
            let middle = from.midpoint(to);
            match self.ring.get(middle as usize)?.number.cmp(&number) {
                Ordering::Less => from = middle + 1,
                Ordering::Equal => return Some(middle),
                Ordering::Greater => to = middle,
            }
        }
        None
    }
}

/// Notes whom a PROXY header names.
pub(super) fn named(trails: &mut Trails, number: u64, client: SocketAddr) {
    if let Some(trail) = trails.of(number) {
        trail.named = Some((Addr::from(client.ip()), client.port()));
    }
}

/// Notes what is offered, and what the tables said of it; `chosen` is where it goes.
pub(super) fn note_offer(
    trails: &mut Trails,
    number: u64,
    offered: &[Identity],
    found: &Lookup,
    chosen: Option<BackendId>,
) {
    let Some(trail) = trails.of(number) else { return };
    trail.offered.clear();
    trail.offered.extend(offered.iter().take(OFFERED).cloned());
    trail.unsaid = offered.len().saturating_sub(OFFERED) as u8;
    trail.row = found.decision.as_ref().map(|decision| Row {
        reason: decision.reason,
        key: decision.key,
        proven: decision.proven,
        named: decision.backends.len() as u16,
        followed: chosen.is_some_and(|backend| decision.backends.contains(backend)),
    });
}

/// Notes the server name of a hello, or the host of a request.
pub(super) fn name(trails: &mut Trails, number: u64, name: Option<&[u8]>) {
    if let (Some(trail), Some(name)) = (trails.of(number), name) {
        trail.name.clear();
        // Never refused: it is cut to what there is room for.
        _ = trail.name.try_extend_from_slice(&name[..name.len().min(NAME)]);
    }
}

// What docs/ARCHITECTURE.md says of them.
const _: () = assert!(size_of::<Trail>() <= 1024);

impl Engine {
    /// Notes a step of a flow.
    pub(super) fn note(&mut self, id: FlowId, what: What, now: Time) {
        let number = self.record(id).number;
        if let Some(trail) = self.trails.of(number) {
            trail.note(what, now);
        }
    }

    /// A backend as it is named in a step.
    pub(super) fn holder(&self, backend: BackendId) -> Holder {
        (backend, self.directory.backend(backend).map_or(0, |b| b.generation))
    }

    /// Tells `each` of the trails that are meant among `places` places from `from` on, the latest first, until it says that it has enough; with the
    /// connection as it stands, while it lives. Where to go on; nowhere, when those were the last, or it has enough.
    pub fn trails(
        &self,
        from: u32,
        places: usize,
        sought: &Sought,
        now: Time,
        each: &mut dyn FnMut(Trail, Option<Shown>) -> bool,
    ) -> Option<u32> {
        let Trails { ring, begun, .. } = &self.trails;
        let kept = ring.len();
        let end = (from as usize).saturating_add(places).min(kept);
        for back in from as usize..end {
            let trail = &ring[(begun - 1 - back as u64) as usize % TRAILS];
            if !sought.means(trail) {
                continue;
            }
            let lives = || {
                let (id, side) = self.flows.lookup(&trail.key)?;
                (side == Side::Client && self.record(id).number == trail.number).then(|| self.shown(id, now))?
            };
            let shown = if trail.ended.is_some() { None } else { lives() };
            if !each(trail.clone(), shown) {
                return None;
            }
        }
        (end < kept).then_some(end as u32)
    }
}
