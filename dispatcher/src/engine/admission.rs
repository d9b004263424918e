//! Who asks for room at a backend before it is dialled: connections whose pool has a backend with a limit. For each such pool of a service, and each family, there is a *gate*: this worker's
//! [`Admission`]. Where there is none, nothing is asked.
//!
//! A connection's place at a backend ([`Slot`]) is in its record from the dial to its end, wherever that ends it (`forget`), and is given back here; the gates of other
//! pools that have the backend hear of it. When the directory changes, gates whose terms are the same stay as they are. Where they are not, those who wait are
//! asked anew in their order, and keep the time that they have waited; those of a gate that is none any more are *stranded*, until the next turn leads them on (`waiting`).

use crate::backends::Health;
use crate::flow::FlowId;
use crate::pack::{Pack, Packer, Unpacker, Unreadable};
use crate::path::{GateId, GateTerms, Revision};
use lb::admission::{Admission, ClassCounters, ClassId, Parked, Slot, Ticket};
use lb::{BackendId, Directory, Live, State};
use std::net::{IpAddr, SocketAddr};

/// One connection that waits, for the tickets and grants of admission: its place in the flow table, and whose it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Token {
    pub id: FlowId,
    pub generation: u32,
}

impl Token {
    pub fn to_word(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.id.0)
    }

    pub fn of_word(word: u64) -> Token {
        Token { id: FlowId(word as u32), generation: (word >> 32) as u32 }
    }
}

/// A pool of a service where requests may have to wait.
pub(super) struct Gate {
    pub id: GateId,
    pub admission: Admission,
}

/// What has become of one that waited by terms that are no more.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stranded {
    /// Where it waited nobody waits any more.
    Free(Token),
    /// The lines are shorter now.
    Refused(Token),
}

/// How many wait in a class, and what became of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueState {
    /// Where.
    pub gate: GateId,
    /// Of which class of the service.
    pub class: ClassId,
    /// So many wait.
    pub waiting: usize,
    /// What became of all who asked.
    pub counters: ClassCounters,
}

/// All gates of a worker.
#[derive(Default)]
pub(super) struct Gates {
    /// In order of their ids.
    all: Vec<Gate>,
    /// By slot of a backend: the gates that it stands behind.
    of_backend: Vec<Vec<u16>>,
    /// What is known of backends' health was taken over up to this.
    seen: Option<u32>,
    pub stranded: Vec<Stranded>,
    moved: Vec<(Token, Ticket)>,
    /// Large buffers of those who wait, and most that they may keep.
    pub large: usize,
    pub most_large: usize,
    /// Of gates that are none any more.
    retired: ClassCounters,
}

impl Gates {
    /// Of the first version that a worker hears of.
    pub fn new(revision: &Revision, worker: usize, workers: usize, most_large: usize) -> Gates {
        let mut gates = Gates { most_large, ..Gates::default() };
        gates.follow(revision.gates(workers, &[]), revision.directory(), worker);
        gates
    }

    /// Nobody need be asked anywhere.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn at(&mut self, n: usize) -> &mut Gate {
        &mut self.all[n]
    }

    /// The number of a gate, if there is one.
    #[inline]
    pub fn find(&self, id: GateId) -> Option<usize> {
        if self.is_empty() { None } else { self.all.binary_search_by_key(&id, |gate| gate.id).ok() }
    }

    fn get(&mut self, id: GateId) -> Option<&mut Gate> {
        self.find(id).map(|n| &mut self.all[n])
    }

    /// What the gates go by.
    fn terms(&self) -> Vec<GateTerms> {
        self.all.iter().map(|gate| GateTerms { id: gate.id, terms: gate.admission.terms() }).collect()
    }

    /// Another version of the directory.
    pub fn change(&mut self, revision: &Revision, worker: usize, workers: usize) {
        let before = self.terms();
        self.follow(revision.gates(workers, &before), revision.directory(), worker);
    }

    fn follow(&mut self, wanted: &[GateTerms], directory: &Directory, worker: usize) {
        let mut before: Vec<Option<Gate>> = core::mem::take(&mut self.all).into_iter().map(Some).collect();
        for GateTerms { id, terms } in wanted {
            let at = before.iter().position(|gate| gate.as_ref().is_some_and(|gate| gate.id == *id));
            let old = at.and_then(|at| before[at].take());
            let admission = match old {
                Some(gate) if gate.admission.terms().are(terms) => gate.admission,
                Some(gate) => self.exchange(gate.admission, terms.join(worker)),
                None => terms.join(worker),
            };
            self.all.push(Gate { id: *id, admission });
        }
        for gate in before.into_iter().flatten() {
            let mut admission = gate.admission;
            self.retired += admission.metrics().sum();
            while let Some(parked) = admission.next_parked() {
                self.retired.admitted += 1;
                self.stranded.push(Stranded::Free(Token::of_word(parked.request.token)));
            }
        }
        self.of_backend.iter_mut().for_each(Vec::clear);
        self.of_backend.resize_with(directory.slots(), Vec::new);
        for (n, gate) in self.all.iter().enumerate() {
            for id in gate.admission.members() {
                self.of_backend[id.index()].push(n as u16);
            }
        }
        // States are not in the terms.
        self.seen = None;
    }

    /// Those who wait by the old terms are asked by the new ones.
    fn exchange(&mut self, mut old: Admission, mut new: Admission) -> Admission {
        new.follow(&old);
        while let Some(parked @ Parked { request, .. }) = old.next_parked() {
            match new.resume(&parked, old.classes()) {
                // Its holder has the ticket until it is told the new one.
                Ok(ticket) => self.moved.push((Token::of_word(request.token), ticket)),
                Err(_) => self.stranded.push(Stranded::Refused(Token::of_word(request.token))),
            }
        }
        new
    }

    /// Whose tickets are others now.
    pub fn next_moved(&mut self) -> Option<(Token, Ticket)> {
        self.moved.pop()
    }

    /// What is known of the backends, if it has changed: by the directory, or because they answer or do not.
    pub fn follow_health(&mut self, directory: &Directory, health: &Health) {
        if self.is_empty() || self.seen == Some(health.changes()) {
            return;
        }
        self.seen = Some(health.changes());
        for gate in &mut self.all {
            let Some(pool) = directory.pool(gate.id.pool) else { continue };
            let members = gate.admission.members().to_vec();
            // One that has not been heard yet is better than nobody.
            let nobody = !members.iter().any(|id| pool.may_take_new(*id) && health.is_up(*id));
            for id in members {
                let there = health.is_up(id) || nobody && health.is_fresh(id);
                let state = match there {
                    true if pool.may_take_new(id) => State::Up,
                    true if pool.may_resume(id) => State::Draining,
                    _ => State::Down,
                };
                gate.admission.set_state(id, state);
            }
        }
    }

    /// A connection is over, which `id` let through.
    pub fn freed(&mut self, slot: Slot, id: GateId, live: &Live) {
        let backend = slot.backend();
        match self.get(id) {
            Some(gate) => gate.admission.freed(slot),
            None => slot.give_back(live.slots()),
        }
        live.given_back(backend);
        self.room_at(backend, Some(id));
    }

    /// The same of its handshake.
    pub fn handshake_done(&mut self, slot: &mut Slot, id: GateId, live: &Live) {
        if slot.units() == 0 {
            return;
        }
        match self.get(id) {
            Some(gate) => gate.admission.handshake_done(slot),
            None => slot.handshake_done(live.slots()),
        }
        self.room_at(slot.backend(), Some(id));
    }

    /// A connection is over of which nobody was asked: it may be from before there was a limit.
    #[inline]
    pub fn unlimited_ended(&mut self, backend: BackendId) {
        if !self.is_empty() {
            self.room_at(backend, None);
        }
    }

    /// There may be room at a backend: all who wait for it hear so, but those behind `told`.
    pub fn room_at(&mut self, backend: BackendId, told: Option<GateId>) {
        let Gates { all, of_backend, .. } = self;
        for n in of_backend.get(backend.index()).into_iter().flatten() {
            let gate = &mut all[usize::from(*n)];
            if told != Some(gate.id) {
                gate.admission.room_at(backend);
            }
        }
    }

    /// One that waits does so no longer, of itself.
    pub fn leave(&mut self, ticket: Ticket, id: GateId) {
        self.get(id).into_iter().for_each(|gate| _ = gate.admission.leave(ticket));
    }

    /// Whether whoever comes now would be refused, whatever he says: all of the service's pools are `gates`.
    pub fn refuse(&mut self, gates: impl Iterator<Item = GateId>, listener: SocketAddr, client: IpAddr) -> bool {
        let mut any = false;
        for id in gates {
            let Some(Gate { admission, .. }) = self.get(id) else { return false };
            let class = admission.classes().class_by_address(listener, client);
            if !class.is_some_and(|class| admission.refuses(class)) {
                return false;
            }
            any = true;
        }
        any
    }

    /// There is something to do in this turn.
    pub fn has_offers(&self) -> bool {
        !self.stranded.is_empty() || self.all.iter().any(|gate| gate.admission.has_offers())
    }

    /// When there is something to do next, milliseconds.
    pub fn due(&self) -> Option<lb::Millis> {
        self.all.iter().filter_map(|gate| gate.admission.due()).min()
    }

    /// A worker that was offered room.
    pub fn next_wake(&mut self) -> Option<usize> {
        self.all.iter_mut().find_map(|gate| gate.admission.wake())
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.all.iter().map(|gate| gate.admission.waiting()).sum()
    }

    /// All lines.
    pub fn states(&self) -> impl Iterator<Item = QueueState> {
        self.all.iter().flat_map(|gate| {
            let classes = (0..gate.admission.classes().specs().len()).map(|n| ClassId(n as u8));
            classes.map(|class| QueueState {
                gate: gate.id,
                class,
                waiting: gate.admission.waiting_in(class),
                counters: *gate.admission.metrics().of(class),
            })
        })
    }

    /// Writes what became of all who asked.
    pub fn pack(&self, to: &mut Packer) {
        (None::<GateId>, (ClassId(0), self.retired)).pack(to);
        self.states().for_each(|state| (Some(state.gate), (state.class, state.counters)).pack(to));
    }

    /// One of those that another process wrote: where there was a gate, of which of its classes.
    pub fn unpack_counts(from: &mut Unpacker<'_>) -> Result<(Option<GateId>, ClassId, ClassCounters), Unreadable> {
        let (gate, (class, counters)) = Pack::unpack(from)?;
        Ok((gate, class, counters))
    }

    /// Counts on from there.
    pub fn count_on(&mut self, gate: Option<GateId>, class: ClassId, counters: ClassCounters) {
        match gate.and_then(|gate| self.get(gate)) {
            Some(gate) => gate.admission.count_on(class, counters),
            None => self.retired += counters,
        }
    }

    /// What became of all who asked, also where nobody is asked any more.
    pub fn sum(&self) -> ClassCounters {
        let mut sum = self.retired;
        self.all.iter().for_each(|gate| sum += gate.admission.metrics().sum());
        sum
    }
}
