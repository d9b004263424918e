//! Admission: which request goes first, and to which server, when servers have limits.
//!
//! The order depends on the state of the server ([`slots`]) and on the nature of the request ([`class`]). A request is admitted at once when a server that may have
//! it has room and nobody waits for that; else it waits in its worker's line, and goes when a slot is free and it is the best who waits.
//!
//! | file | idea |
//! |---|---|
//! | [`slots`] | connections and handshakes of a backend: one atomic word, never above a limit |
//! | [`class`] | classes of requests: first match wins |
//! | `reserve` | what is kept for a class at each backend |
//! | `fairness` | weighted classes: whose turn it is |
//! | `queue` | one worker's line: a bounded slab of lists |
//! | [`overdue`] | when a line turns to newest first |
//! | `request` | what is asked, and what is answered |
//! | `terms` | by what requests are admitted; what all workers have in common of it |
//! | `offers` | what a worker tells of its line, and does with offers |
//! | `share` | what workers tell each other of their lines, and offers of free slots |
//! | [`slow_start`] | limits and weight after a recovery |
//! | [`auto`] | how much a backend can do at a time, found out |
//!
//! # Who goes first
//!
//! At a backend with room: strict classes in their order, then the weighted one that is most behind; in a class the oldest, or the newest once the oldest has waited too
//! long; those whose dial failed before the others of their class. One that does not fit is not overtaken by a smaller one, or ten-unit handshakes would starve
//! among single units: the room is held until it suffices. Two of other classes go beside it, since they take nothing from it: one that needs no handshake, and one
//! within what is in reserve for its class. So of a limit at most nine units lie idle while somebody waits.
//!
//! # Own server, or any
//!
//! A request that a server can resume waits for that one up to `spill-after`, then it takes any with room; its row in the affinity tables is not moved. When its server goes down
//! it may go anywhere at once. A draining server is only given those that it can resume.
//!
//! # Bounds, and when full
//!
//! | what | bound | when full |
//! |---|---|---|
//! | a backend's connections and handshakes | its limits; [`slots::MOST`] without | requests wait |
//! | a class's line in a worker | `queue`, divided by workers | the last class's line |
//! | the last class's line | its `queue` | [`Refusal::LastClassFull`] |
//! | a worker's line with those whose dial failed | an eighth more than all `queue`s | [`Refusal::NoPlace`] |
//! | a worker's mailbox | a bit for each backend and kind | cannot be |
//! | waiting | the class's `timeout` | [`Admission::expired`] |
//! | those whose dial failed, looked at for one whose did not fail there | 8 | the slot is left for the next who asks |
//! | backends looked at again because a big one in front has gone | 16 for each that goes | the others in the next turn, or when something is freed there |
//!
//! # How it is called
//!
//! One [`Admission`] for a worker, and for the requests of a service at a pool; several share the [`Slots`] if their pools share backends. Once a turn of its loop the worker calls
//! [`next`](Admission::next) and [`expired`](Admission::expired) until they say `None`, and passes [`wake`](Admission::wake) on to workers that may sleep; before it sleeps itself,
//! it looks whether it [`has_offers`](Admission::has_offers), and sleeps no longer than to [`due`](Admission::due). Whatever ends a connection that waits calls
//! [`leave`](Admission::leave); whatever ends one that was admitted, [`freed`](Admission::freed). Where a backend is in several pools, each other one's `Admission` of
//! this worker is told of what was freed by [`room_at`](Admission::room_at).
//!
//! Nothing is allocated after construction, no operation waits for another worker, and time is an argument.

pub mod auto;
mod bits;
pub mod class;
mod fairness;
mod metrics;
mod offers;
pub mod overdue;
mod queue;
mod request;
mod reserve;
mod share;
pub mod slots;
pub mod slow_start;
mod terms;

pub use auto::{Auto, Samples};
pub use class::{ClassFault, ClassId, ClassSpec, Classes, Cost, MAX_CLASSES, Nature, Prefix, Share};
pub use metrics::{ClassCounters, Metrics, WAITS};
pub use queue::Ticket;
pub use request::{Answer, Expired, Grant, Parked, Refusal, Request, Slot};
pub use share::MAX_WORKERS;
pub use slots::{Limits, Slots, Used};
pub use slow_start::SlowStart;
pub use terms::{Config, Terms};

use crate::backend::{BackendId, State};
use crate::sync::Arc;
use crate::time::Millis;
use bits::Bits;
use core::fmt;
use core::time::Duration;
use overdue::Overdue;
use queue::{Line, NOBODY, Place, Waiter};
use share::{OFFERS, Offer};
use slots::Take;
use terms::Shared;

/// How long a returning client waits for its own server: about what a full handshake elsewhere would cost it.
pub const SPILL_AFTER: Duration = Duration::from_millis(50);

/// Backends at which room was held for one that has gone, and that are looked at again in one go.
const HELD_AT_ONCE: usize = 16;

/// How a look at a member's room ended.
enum Outcome {
    Went(Grant),
    /// Room is held for one who needs more than there is.
    Held,
    /// Nobody of ours can use what there is.
    Nobody,
}

/// One worker's admission: see the [module](self).
pub struct Admission {
    shared: Arc<Shared>,
    worker: usize,
    line: Line,
    /// By class: most that wait here.
    bounds: [usize; MAX_CLASSES],
    /// By member, as this worker sees them.
    states: Box<[State]>,
    overdue: [Overdue; MAX_CLASSES],
    /// Members with room, perhaps: found by ourselves, and by kind of offer.
    found: Bits,
    offered: [Bits; 3],
    /// By member: for how many units may go by [`Offer::Best`]. The last may need more than is left of it.
    allowed: Box<[u16]>,
    /// Members with room that was not enough for the one in front, and whether one has gone since.
    held: Bits,
    gone: bool,
    /// Nobody is to be spilled or expires before.
    due: Millis,
    wakes: u64,
    metrics: Metrics,
}

impl Admission {
    /// One for each worker, by [`Terms`] of their own.
    pub fn for_workers(config: Config, slots: &Arc<Slots>, workers: usize) -> Vec<Admission> {
        let terms = Terms::new(config, slots, workers);
        (0..terms.0.board.workers()).map(|worker| terms.join(worker)).collect()
    }

    /// What it goes by.
    pub fn terms(&self) -> Terms {
        Terms(self.shared.clone())
    }

    /// The backends that it is about.
    pub fn members(&self) -> &[BackendId] {
        &self.shared.members
    }

    /// The classes, for [`Classes::class_of`].
    pub fn classes(&self) -> &Classes {
        &self.shared.classes
    }

    /// Whether one may be given to a backend, as this worker sees it, room aside; `resumes`: its session is there.
    pub fn is_up(&self, backend: BackendId, resumes: bool) -> bool {
        self.member(backend).is_some_and(|member| match self.states[member] {
            State::Up => true,
            State::Draining => resumes,
            State::Down => false,
        })
    }

    /// Would one of this class and cost be admitted to that backend now? For the choice among several that can resume a session.
    pub fn has_room(&self, backend: BackendId, class: ClassId, cost: Cost) -> bool {
        self.member(backend).is_some_and(|member| {
            self.states[member] != State::Down
                && self.shared.board.nobody_at(member)
                && self.shared.could_take(member, class, cost) == Take::Taken
        })
    }

    /// Whether those of this class are refused now: a SYN whose class is certain ([`Classes::class_by_address`]) is better not answered then.
    pub fn refuses(&self, class: ClassId) -> bool {
        let full = |class: ClassId| self.line.len_of(class) >= self.bounds[class.index()];
        full(class) && full(self.shared.classes.last())
    }

    /// A new request. `pick` is how the pool is balanced: it names one of the backends that it is told may be chosen, or none; it is not asked for one that is
    /// admitted to its own server, or must wait anyway.
    pub fn admit(
        &mut self,
        now: Millis,
        request: Request,
        pick: impl FnMut(&dyn Fn(BackendId) -> bool) -> Option<BackendId>,
    ) -> Answer {
        self.metrics.at(self.class_within(request.class)).asked += 1;
        self.ask(now, request, None, pick)
    }

    /// One that was admitted and whose dial to `failed` did; its slot was [`freed`](Admission::freed). It keeps its place: before all others of its
    /// class. Its time-out begins anew, and it is not given that backend.
    pub fn again(
        &mut self,
        now: Millis,
        request: Request,
        failed: BackendId,
        pick: impl FnMut(&dyn Fn(BackendId) -> bool) -> Option<BackendId>,
    ) -> Answer {
        self.metrics.at(self.class_within(request.class)).asked += 1;
        self.ask(now, request, Some(failed), pick)
    }

    /// Follows `before`, whose terms are none any more: its counters are counted on. Whoever waits there is to be taken out by [`Admission::next_parked`] and asked by
    /// [`Admission::resume`] here, or is abandoned.
    pub fn follow(&mut self, before: &Admission) {
        let classes = self.shared.classes.alike(&before.shared.classes);
        for (class, to) in classes.into_iter().enumerate() {
            *self.metrics.at(to) += *before.metrics.of(ClassId(class as u8));
        }
    }

    /// The next one of those who wait, the longest first. It waits no more, and is not counted as one that has gone.
    pub fn next_parked(&mut self) -> Option<Parked> {
        let all = (0..MAX_CLASSES as u8).map(ClassId).filter_map(|class| self.line.first_of_class(class));
        let index = all.min_by_key(|&index| self.line.get(index).since)?;
        let waiter = self.out(index);
        Some(self.as_parked(&waiter))
    }

    /// One who waits, as it was made and since when; it waits on.
    pub fn parked(&self, ticket: Ticket) -> Option<Parked> {
        self.line.find(ticket).map(|index| self.as_parked(self.line.get(index)))
    }

    fn as_parked(&self, waiter: &Waiter) -> Parked {
        let Waiter { token, since, origin: class, cost, own, avoid, place, .. } = *waiter;
        let backend = |member: u16| self.shared.members.get(usize::from(member)).copied();
        let failed = backend(avoid).filter(|_| place == Place::Again);
        Parked { request: Request { token, class, cost, own: backend(own) }, since, failed }
    }

    /// One that has waited by former terms, with the class here that has its class's name (else the last): it keeps its place by its time.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn resume(&mut self, parked: &Parked, former: &Classes) -> Result<Ticket, Refusal> {
        let class = self.shared.classes.alike(former)[parked.request.class.index()];
        self.stand(&Parked { request: Request { class, ..parked.request }, ..*parked })
    }

    /// The same of one whose class is one of these terms', whoever kept it waiting before.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn stand(&mut self, parked: &Parked) -> Result<Ticket, Refusal> {
        let Parked { request, since, failed } = *parked;
        let class = self.class_within(request.class);
        let waiter = self.waiter(since, &Request { class, ..request }, failed);
        let place = match failed {
            Some(_) => Place::Again,
            None if waiter.own != NOBODY && self.states[usize::from(waiter.own)] != State::Down => Place::Own,
            None => Place::Any,
        };
        self.park(Waiter { place, ..waiter })
    }

    /// The class of this number; the last, if there is none.
    pub fn class_within(&self, class: ClassId) -> ClassId {
        class.min(self.shared.classes.last())
    }

    fn ask(
        &mut self,
        now: Millis,
        request: Request,
        failed: Option<BackendId>,
        mut pick: impl FnMut(&dyn Fn(BackendId) -> bool) -> Option<BackendId>,
    ) -> Answer {
        let waiter = self.waiter(now, &request, failed);
        let (class, avoid) = (waiter.class, waiter.avoid);
        let own = Some(usize::from(waiter.own)).filter(|_| waiter.own != NOBODY);
        let own = own.filter(|&member| self.states[member] != State::Down && member as u16 != avoid);
        if let Some(member) = own
            && self.shared.board.nobody_at(member)
            && let Some(slot) = self.take(&waiter, member)
        {
            self.metrics.at(class).admitted += 1;
            return Answer::Admitted(slot);
        }
        let waits_for_own = own.is_some() && failed.is_none() && self.shared.spill_after != Some(Duration::ZERO);
        if !waits_for_own && self.shared.board.nobody_for_any() {
            // Another worker may be faster each time: then it is saturated, and this one waits.
            for _ in 0..4 {
                let may = |id: BackendId| {
                    self.member(id).is_some_and(|member| {
                        self.takes(&waiter, member)
                            && self.shared.board.nobody_at(member)
                            && self.shared.could_take(member, class, cost_at(&waiter, member)) == Take::Taken
                    })
                };
                let Some(member) = pick(&may).and_then(|id| self.member(id)) else { break };
                if self.takes(&waiter, member)
                    && let Some(slot) = self.take(&waiter, member)
                {
                    let spilled = waiter.own != NOBODY && usize::from(waiter.own) != member;
                    let counters = self.metrics.at(class);
                    counters.admitted += 1;
                    counters.spilled += u64::from(spilled);
                    return Answer::Admitted(slot);
                }
            }
        }
        let place = match (waits_for_own, failed) {
            (true, _) => Place::Own,
            (false, Some(_)) => Place::Again,
            (false, None) => Place::Any,
        };
        match self.park(Waiter { place, ..waiter }) {
            Ok(ticket) => Answer::Wait(ticket),
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    /// One who asks, as one who waits.
    fn waiter(&self, since: Millis, request: &Request, failed: Option<BackendId>) -> Waiter {
        let class = self.class_within(request.class);
        let own = request.own.and_then(|id| self.member(id));
        // Its server is none of ours: nobody resumes it.
        let lost = own.is_none() && request.own.is_some() && request.cost == Cost::Resumed;
        Waiter {
            token: request.token,
            since,
            class,
            origin: class,
            cost: if lost { Cost::Full } else { request.cost },
            own: own.map_or(NOBODY, |member| member as u16),
            avoid: failed.and_then(|id| self.member(id)).map_or(NOBODY, |member| member as u16),
            place: Place::Any,
        }
    }

    fn park(&mut self, mut waiter: Waiter) -> Result<Ticket, Refusal> {
        let last = self.shared.classes.last();
        let full = |class: ClassId| self.line.len_of(class) >= self.bounds[class.index()];
        let kept = waiter.place == Place::Again;
        if !kept && full(waiter.class) {
            if full(last) {
                self.metrics.at(waiter.origin).refused += 1;
                return Err(Refusal::LastClassFull);
            }
            waiter.class = last;
        }
        let new = self.line.classes_anywhere() & waiter.class.bit() == 0 || self.line.picky();
        let Some(ticket) = self.line.push(waiter) else {
            self.metrics.at(waiter.origin).refused += 1;
            return Err(Refusal::NoPlace);
        };
        self.metrics.at(waiter.origin).demoted += u64::from(waiter.class != waiter.origin);
        self.due = self.due.min(self.leaves_line(&waiter));
        self.shared.fairness.waits(waiter.class);
        self.shared.board.one_more();
        self.publish(&waiter);
        match waiter.place {
            Place::Own => {
                self.shared.board.fence();
                self.look_at(usize::from(waiter.own));
            }
            // If others of the class wait here already, and any would suit them, whoever frees a slot has seen them.
            _ if new => self.look_everywhere(),
            _ => {}
        }
        Ok(ticket)
    }

    /// Who may go now. To be called until it says `None`, once in every turn of the worker's loop.
    pub fn next(&mut self, now: Millis) -> Option<Grant> {
        self.receive();
        self.spill(now);
        self.turn_round(now);
        loop {
            while let Some(member) = self.found.pop() {
                self.deal(member);
            }
            for kind in OFFERS {
                while let Some(member) = self.offered[kind as usize].pop() {
                    if let Some(grant) = self.look(now, member, kind) {
                        return Some(grant);
                    }
                }
            }
            if self.found.is_empty() {
                if !self.gone || self.held.is_empty() {
                    self.gone = false;
                    return None;
                }
                // One for whom room was held has gone; who is in front now may need less.
                self.gone = false;
                for _ in 0..HELD_AT_ONCE {
                    let Some(member) = self.held.pop() else { break };
                    self.found.insert(member);
                }
            }
        }
    }

    /// Deals out the room at a member, to ourselves, too.
    fn deal(&mut self, member: usize) {
        let Shared { board, slots, members, fairness, .. } = &*self.shared;
        let mut dealt = [0; MAX_WORKERS];
        if board.waiting() <= self.line.len() as u64 {
            dealt[self.worker] = u16::MAX;
        } else {
            board.deal(self.worker, member, fairness.standing(), slots.room(members[member]), &mut dealt);
        }
        for (worker, amount) in dealt.into_iter().enumerate().filter(|(_, amount)| *amount > 0) {
            if worker == self.worker {
                self.allow(member, amount);
            } else {
                self.offer(worker, member, Offer::Best, amount);
            }
        }
    }

    fn allow(&mut self, member: usize, amount: u16) {
        self.allowed[member] = self.allowed[member].max(amount);
        self.offered[Offer::Best as usize].insert(member);
    }

    fn look(&mut self, now: Millis, member: usize, offer: Offer) -> Option<Grant> {
        match self.fill(now, member, offer) {
            Outcome::Went(grant) => {
                let allowed = &mut self.allowed[member];
                if offer == Offer::Best {
                    *allowed = allowed.saturating_sub(u16::from(grant.slot.units().max(1)));
                }
                if *allowed > 0 || offer != Offer::Best {
                    self.offered[offer as usize].insert(member);
                }
                return Some(grant);
            }
            Outcome::Held => {
                // With no room at all there is nothing to look at before some is freed.
                if self.shared.has_room(member, Cost::Resumed) {
                    self.held.insert(member);
                }
                self.pass_on(member, offer, Offer::Beside);
            }
            Outcome::Nobody => self.pass_on(member, offer, Offer::Rest),
        }
        None
    }

    /// The best of ours for the room at a member.
    fn fill(&mut self, now: Millis, member: usize, offer: Offer) -> Outcome {
        self.held.remove(member);
        let classes = self.line.classes_at(member) | self.line.classes_anywhere();
        if self.states[member] == State::Down || classes == 0 {
            return Outcome::Nobody;
        }
        let mut held = offer == Offer::Beside;
        let mut holds = false;
        for class in self.shared.fairness.order() {
            if classes & class.bit() == 0 {
                continue;
            }
            let newest = self.overdue[class.index()].newest_first();
            let up = self.states[member] == State::Up;
            let Some(index) = self.line.next(member, class, newest, up) else {
                continue;
            };
            let waiter = *self.line.get(index);
            let cost = cost_at(&waiter, member);
            if held && cost.units() > 0 && !self.shared.is_its_own(member, class, cost) {
                continue;
            }
            match self.shared.take(member, class, cost) {
                Take::Taken => {
                    self.shared.fairness.went(class, u32::from(cost.units()));
                    self.out(index);
                    let spilled = waiter.own != NOBODY && usize::from(waiter.own) != member;
                    let waited = now.since(waiter.since);
                    let counters = self.metrics.at(waiter.origin);
                    counters.admitted += 1;
                    counters.waited(waited);
                    counters.spilled += u64::from(spilled);
                    let slot = self.shared.slot(member, class, cost);
                    return Outcome::Went(Grant { token: waiter.token, slot, waited, spilled });
                }
                Take::Full => (held, holds) = (true, true),
                Take::Reserved => {}
            }
        }
        if holds { Outcome::Held } else { Outcome::Nobody }
    }

    /// A slot that was taken in another process, of whatever is left: it counts, and is to be given back, as if it had been taken here. Limits are not asked, for it is there; nor
    /// who is a member, for a backend that is no longer wanted may be wanted again.
    pub fn taken_over(&mut self, backend: BackendId, class: ClassId, units: u8) -> Slot {
        let class = self.class_within(class);
        let units = units.min(slots::FULL);
        self.shared.count(backend, class, Used { connections: 1, units: u32::from(units) });
        Slot { backend, class, units, ledger: self.shared.ledger.number() }
    }

    /// Counts on from what another process had counted of a class.
    pub fn count_on(&mut self, class: ClassId, counters: ClassCounters) {
        *self.metrics.at(self.class_within(class)) += counters;
    }

    /// The handshake at this slot's backend is over, well or not: its units are free, its connection is not. Again: nothing.
    pub fn handshake_done(&mut self, slot: &mut Slot) {
        let units = core::mem::take(&mut slot.units);
        if units > 0 {
            self.give_back(slot, Used { connections: 0, units: u32::from(units) });
        }
    }

    /// The connection is over, or its dial failed.
    pub fn freed(&mut self, slot: Slot) {
        self.give_back(&slot, Used { connections: 1, units: u32::from(slot.units) });
    }

    fn give_back(&mut self, slot: &Slot, cost: Used) {
        if self.shared.ledger.number() == slot.ledger {
            self.shared.ledger.given_back(slot.backend, slot.class, cost);
        }
        if self.shared.slots.give_back(slot.backend, cost)
            && let Some(member) = self.member(slot.backend)
        {
            self.tell(member);
        }
    }

    /// There may be room at a backend for another reason than a slot that was freed here: it was freed by another pool's connection, or a limit was raised.
    pub fn room_at(&mut self, backend: BackendId) {
        if let Some(member) = self.member(backend) {
            self.tell(member);
        }
    }

    fn tell(&mut self, member: usize) {
        self.shared.board.fence();
        if self.shared.board.waiting() > 0 {
            self.deal(member);
        }
    }

    /// A backend's state as this worker sees it. Going down sends those who wait for it anywhere (as many steps as there are such); one of weight
    /// zero is as one that drains.
    pub fn set_state(&mut self, backend: BackendId, state: State) {
        let Some(member) = self.member(backend) else { return };
        let before = core::mem::replace(&mut self.states[member], state);
        if before == state {
            return;
        }
        self.publish_own(member);
        if state == State::Down {
            if self.line.classes_at(member) != 0 {
                self.line.lose(member);
                self.publish_any();
                self.look_everywhere();
            }
        } else {
            self.shared.board.fence();
            self.found.insert(member);
        }
    }

    /// One leaves by itself: whatever ends a connection that waits calls it. False when it does not wait any more.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        let Some(index) = self.line.find(ticket) else { return false };
        let waiter = self.out(index);
        self.metrics.at(waiter.origin).abandoned += 1;
        true
    }

    /// The same of one that cannot be kept, for want of something that admission knows nothing of: it is counted as refused.
    pub fn cannot_keep(&mut self, ticket: Ticket) {
        if let Some(index) = self.line.find(ticket) {
            let waiter = self.out(index);
            self.metrics.at(waiter.origin).refused += 1;
        }
    }

    /// Who has waited as long as its class waits. To be called until it says `None`, in every turn.
    pub fn expired(&mut self, now: Millis) -> Option<Expired> {
        if now < self.due {
            return None;
        }
        for class in (0..MAX_CLASSES as u8).map(ClassId) {
            let Some(index) = self.line.first_of_class(class) else { continue };
            if self.times_out(self.line.get(index)) <= now {
                let waiter = self.out(index);
                self.metrics.at(waiter.origin).timed_out += 1;
                return Some(Expired { token: waiter.token, class: waiter.origin, waited: now.since(waiter.since) });
            }
        }
        self.due = self.next_due();
        None
    }

    /// Not before this has [`Admission::next`] or [`Admission::expired`] something to do of itself; `None` when nobody waits. It may be early, never late.
    pub fn due(&self) -> Option<Millis> {
        (self.line.len() > 0).then_some(self.due)
    }

    /// Something lies in this worker's mailbox, or is left to be looked at. To be asked after it has said that it is about to sleep.
    pub fn has_offers(&self) -> bool {
        let left = !self.found.is_empty() || self.offered.iter().any(|bits| !bits.is_empty());
        left || self.gone && !self.held.is_empty() || self.shared.board.has_offers(self.worker)
    }

    /// A worker that was sent an offer since the last call: if it sleeps, it is to be woken.
    pub fn wake(&mut self) -> Option<usize> {
        let worker = (self.wakes != 0).then(|| self.wakes.trailing_zeros() as usize)?;
        self.wakes &= self.wakes - 1;
        Some(worker)
    }

    /// How many wait here.
    pub fn waiting(&self) -> usize {
        self.line.len()
    }

    /// How many of a class's line wait here, those whose dial failed not counted.
    pub fn waiting_in(&self, class: ClassId) -> usize {
        if class.index() < MAX_CLASSES { self.line.len_of(class) } else { 0 }
    }

    /// This worker's counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What the whole of a class has at a backend; nothing is counted if no class has a reserve.
    pub fn used_by(&self, backend: BackendId, class: ClassId) -> Used {
        self.shared.ledger.used(backend, class)
    }

    fn member(&self, backend: BackendId) -> Option<usize> {
        let member = *self.shared.member_of.get(backend.index())?;
        (member != NOBODY).then_some(usize::from(member))
    }

    /// May one who takes any take this one?
    fn takes(&self, waiter: &Waiter, member: usize) -> bool {
        let own = usize::from(waiter.own) == member;
        usize::from(waiter.avoid) != member
            && match self.states[member] {
                State::Up => true,
                State::Draining => own,
                State::Down => false,
            }
    }

    fn take(&self, waiter: &Waiter, member: usize) -> Option<Slot> {
        let cost = cost_at(waiter, member);
        let taken = self.shared.take(member, waiter.class, cost) == Take::Taken;
        taken.then(|| self.shared.slot(member, waiter.class, cost))
    }

    /// Out of the line, for whatever reason.
    fn out(&mut self, index: u32) -> Waiter {
        let waiter = self.line.remove(index);
        self.shared.fairness.waits_no_more(waiter.class);
        self.shared.board.one_less();
        self.publish(&waiter);
        // Only such are waited for.
        self.gone |= waiter.cost == Cost::Full || waiter.own != NOBODY;
        waiter
    }

    /// Those who have waited long enough for their own server.
    fn spill(&mut self, now: Millis) {
        let Some(after) = self.shared.spill_after.filter(|_| now >= self.due) else { return };
        let mut any = false;
        for class in (0..MAX_CLASSES as u8).map(ClassId) {
            while let Some(index) = self.line.first_own(class) {
                if self.line.get(index).since.after(after) > now {
                    break;
                }
                self.line.spill(index);
                any = true;
            }
        }
        if any {
            self.publish_any();
            self.look_everywhere();
        }
        self.due = self.next_due();
    }

    /// Whose newest go first from now on, or no more.
    fn turn_round(&mut self, now: Millis) {
        if self.line.len() > 0 {
            for class in (0..MAX_CLASSES as u8).map(ClassId) {
                // Who was in front and did not fit may be so no more.
                self.gone |= self.overdue[class.index()].look(now, self.line.oldest(class));
            }
        }
    }

    fn times_out(&self, waiter: &Waiter) -> Millis {
        waiter.since.after(self.shared.classes.specs()[waiter.class.index()].timeout)
    }

    fn spills(&self, waiter: &Waiter) -> Option<Millis> {
        (waiter.place == Place::Own).then(|| self.shared.spill_after.map(|after| waiter.since.after(after))).flatten()
    }

    fn leaves_line(&self, waiter: &Waiter) -> Millis {
        let out = self.times_out(waiter);
        self.spills(waiter).map_or(out, |spills| spills.min(out))
    }

    fn next_due(&self) -> Millis {
        let of = |class: ClassId| {
            let first = [self.line.first_of_class(class), self.line.first_own(class)];
            first.into_iter().flatten().map(|index| self.leaves_line(self.line.get(index))).min()
        };
        (0..MAX_CLASSES as u8).map(ClassId).filter_map(of).min().unwrap_or(Millis(u64::MAX))
    }
}

/// What a waiter costs at a member: it is resumed at its own only.
fn cost_at(waiter: &Waiter, member: usize) -> Cost {
    match waiter.cost {
        Cost::Resumed if waiter.own != NOBODY && usize::from(waiter.own) != member => Cost::Full,
        cost => cost,
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("worker", &self.worker)
            .field("waiting", &self.line.len())
            .finish_non_exhaustive()
    }
}
