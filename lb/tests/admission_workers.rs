//! Several workers, stepped in one thread by a seed, over servers that fail, drain, recover and are given other limits.
#![cfg(not(loom))]

use lb::admission::{
    Admission, Answer, ClassCounters, ClassId, ClassSpec, Classes, Config, Cost, Limits, Metrics, Request, Share, Slot,
    Slots, Ticket, Used,
};
use lb::{BackendId, Millis, State};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

const SPILL: u64 = 50;
const FULL: u32 = 10;

/// One who waits, as the simulation knows him.
#[derive(Clone, Debug)]
struct Waiter {
    since: u64,
    request: Request,
    avoid: Option<BackendId>,
    ticket: Ticket,
}

/// A connection at a server.
struct Open {
    slot: Option<Slot>,
    request: Request,
    class: usize,
    server: usize,
    units: u32,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Event {
    Handshake,
    End,
    DialFails,
}

struct Worker {
    admission: Admission,
    waiting: BTreeMap<u64, Waiter>,
    open: BTreeMap<u64, Open>,
    /// By time.
    events: BTreeMap<(u64, u64), Event>,
}

struct World {
    random: Random,
    now: u64,
    token: u64,
    specs: Vec<ClassSpec>,
    slots: Arc<Slots>,
    workers: Vec<Worker>,
    /// Counted here, without regard to what is counted there.
    used: Vec<Used>,
    by_class: Vec<[Used; 8]>,
    limits: Vec<Limits>,
    states: Vec<State>,
    /// By server: since which turn there is room for one full handshake, for a second one, and so on; and the most turns that somebody who could have
    /// gone there waited beside it.
    free: Vec<VecDeque<u64>>,
    longest_idle: u64,
    arrivals: u64,
    longest_wait: u64,
    granted: [u64; 8],
}

impl World {
    fn new(seed: u64, workers: usize, servers: usize, specs: Vec<ClassSpec>, spill_after: Option<u64>) -> World {
        let slots = Arc::new(Slots::new(servers));
        let config = Config {
            classes: Classes::new(specs.clone()).unwrap(),
            members: (0..servers as u16).map(BackendId).collect(),
            spill_after: spill_after.map(Duration::from_millis),
        };
        let worker =
            |admission| Worker { admission, waiting: BTreeMap::new(), open: BTreeMap::new(), events: BTreeMap::new() };
        World {
            random: Random(seed),
            now: 1,
            token: 0,
            specs,
            workers: Admission::for_workers(config, &slots, workers).into_iter().map(worker).collect(),
            slots,
            used: vec![Used::default(); servers],
            by_class: vec![Default::default(); servers],
            limits: vec![Limits::NONE; servers],
            states: vec![State::Up; servers],
            free: vec![VecDeque::new(); servers],
            longest_idle: 0,
            arrivals: 0,
            longest_wait: 0,
            granted: [0; 8],
        }
    }

    fn set_limits(&mut self, server: usize, connections: u32, units: u32) {
        let limits = Limits { connections: Some(connections), units: Some(units) };
        let id = BackendId(server as u16);
        self.slots.set_limits(id, limits);
        self.limits[server] = limits;
        let teller = self.random.below(self.workers.len() as u64) as usize;
        self.workers[teller].admission.room_at(id);
        self.check(server);
    }

    fn set_state(&mut self, server: usize, state: State) {
        self.states[server] = state;
        self.workers.iter_mut().for_each(|w| w.admission.set_state(BackendId(server as u16), state));
    }

    fn reserve(&self, class: usize, limits: Limits) -> Used {
        let percent = self.specs.get(class).map_or(0, |spec| u32::from(spec.reserve));
        let units = limits.units.unwrap();
        match percent {
            0 => Used::default(),
            _ => Used {
                connections: (limits.connections.unwrap() * percent).div_ceil(100),
                units: (units * percent).div_ceil(100).max(FULL).min(units),
            },
        }
    }

    /// Whether one more of this class leaves the others what is kept for them.
    fn spares(&self, server: usize, class: usize, units: u32) -> bool {
        let (limits, used) = (self.limits[server], self.used[server]);
        let left = |other: usize| {
            let (reserve, has) = (self.reserve(other, limits), self.by_class[server][other]);
            (reserve.connections.saturating_sub(has.connections), reserve.units.saturating_sub(has.units))
        };
        let kept = (0..8).filter(|&other| other != class).map(left).fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
        let (reserve, has) = (self.reserve(class, limits), self.by_class[server][class]);
        let own = reserve.connections > has.connections && (units == 0 || reserve.units >= has.units + units);
        let connections = used.connections == 0 || used.connections + 1 + kept.0 <= limits.connections.unwrap();
        own || connections && (units == 0 || used.units == 0 || used.units + units + kept.1 <= limits.units.unwrap())
    }

    fn fits(&self, server: usize, units: u32) -> bool {
        let (limits, used) = (self.limits[server], self.used[server]);
        used.connections < limits.connections.unwrap() && (units == 0 || used.units + units <= limits.units.unwrap())
    }

    fn opened(&mut self, worker: usize, request: Request, slot: Slot) {
        let (server, class) = (slot.backend().index(), slot.class().index());
        let units = u32::from(slot.units());
        assert!(self.fits(server, units), "above a limit: {:?} {:?}", self.used[server], self.limits[server]);
        assert!(self.spares(server, class, units), "of another's reserve: {:?}", self.by_class[server]);
        let own = request.own == Some(slot.backend());
        let may = self.states[server] == State::Up || self.states[server] == State::Draining && own;
        assert!(may, "given to a server that takes none");
        self.used[server].connections += 1;
        self.used[server].units += units;
        self.by_class[server][class].connections += 1;
        self.by_class[server][class].units += units;
        self.granted[class] += u64::from(units);
        let handshake = self.now + if units == FULL { 8 + self.random.below(12) } else { 1 + self.random.below(3) };
        let end = handshake + self.random.below(60);
        let w = &mut self.workers[worker];
        if self.random.below(50) == 0 {
            w.events.insert((handshake, request.token * 4 + 2), Event::DialFails);
        } else {
            w.events.insert((handshake, request.token * 4), Event::Handshake);
            w.events.insert((end, request.token * 4 + 1), Event::End);
        }
        w.open.insert(request.token, Open { slot: Some(slot), request, class, server, units });
        self.check(server);
    }

    /// After every change.
    fn check(&mut self, server: usize) {
        assert_eq!(self.slots.used(BackendId(server as u16)), self.used[server]);
        // What was free first is taken first.
        let (room, free) = (self.room(server), &mut self.free[server]);
        free.drain(..free.len().saturating_sub(room));
        free.resize(room, self.now);
    }

    /// How many full handshakes could begin, whatever their class.
    fn room(&self, server: usize) -> usize {
        let (limits, used) = (self.limits[server], self.used[server]);
        let left = |other: usize| {
            let (reserve, has) = (self.reserve(other, limits), self.by_class[server][other]);
            (reserve.connections.saturating_sub(has.connections), reserve.units.saturating_sub(has.units))
        };
        let kept = (0..8).map(left).fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
        let connections = limits.connections.unwrap().saturating_sub(used.connections + kept.0);
        let units = limits.units.unwrap().saturating_sub(used.units + kept.1);
        connections.min(units / FULL) as usize
    }

    /// The balance: at random, from there on.
    fn ask(&mut self, worker: usize, request: Request, failed: Option<BackendId>) {
        let servers = self.used.len() as u64;
        let first = self.random.below(servers);
        let pick = |may: &dyn Fn(BackendId) -> bool| {
            (0..servers).map(|n| BackendId(((first + n) % servers) as u16)).find(|&id| may(id))
        };
        let now = Millis(self.now);
        let admission = &mut self.workers[worker].admission;
        let answer = match failed {
            None => admission.admit(now, request, pick),
            Some(failed) => admission.again(now, request, failed, pick),
        };
        match answer {
            Answer::Admitted(slot) => self.opened(worker, request, slot),
            Answer::Wait(ticket) => {
                let waiter = Waiter { since: self.now, request, avoid: failed, ticket };
                self.workers[worker].waiting.insert(request.token, waiter);
            }
            Answer::Refused(_) => {}
        }
    }

    fn arrive(&mut self, worker: usize, class: u8) {
        self.token += 1;
        self.arrivals += 1;
        let own = BackendId(self.random.below(self.used.len() as u64) as u16);
        let (cost, own) = match self.random.below(8) {
            0 => (Cost::NotTls, None),
            1..4 => (Cost::Full, None),
            _ => (Cost::Resumed, Some(own)),
        };
        self.ask(worker, Request { token: self.token, class: ClassId(class), cost, own }, None);
    }

    fn turn(&mut self, worker: usize, leaves: bool) {
        while let Some(first) = self.workers[worker].events.first_entry()
            && first.key().0 <= self.now
        {
            let ((_, key), event) = first.remove_entry();
            let w = &mut self.workers[worker];
            let open = w.open.get_mut(&(key / 4)).unwrap();
            let (server, class, request) = (open.server, open.class, open.request);
            let units = std::mem::take(&mut open.units);
            self.used[server].units -= units;
            self.by_class[server][class].units -= units;
            if event == Event::Handshake {
                w.admission.handshake_done(open.slot.as_mut().unwrap());
            } else {
                self.used[server].connections -= 1;
                self.by_class[server][class].connections -= 1;
                let slot = open.slot.take().unwrap();
                w.open.remove(&(key / 4));
                w.admission.freed(slot);
            }
            self.check(server);
            if event == Event::DialFails {
                self.ask(worker, request, Some(BackendId(server as u16)));
            }
        }
        if leaves && self.random.below(4) == 0 {
            let w = &mut self.workers[worker];
            if let Some(token) = w.waiting.keys().next().copied() {
                let waiter = w.waiting.remove(&token).unwrap();
                assert!(w.admission.leave(waiter.ticket));
            }
        }
    }

    fn grants(&mut self, worker: usize) {
        while let Some(grant) = self.workers[worker].admission.next(Millis(self.now)) {
            let waiter = self.workers[worker].waiting.remove(&grant.token).expect("one who does not wait");
            assert_eq!(grant.waited, self.now - waiter.since);
            assert_ne!(Some(grant.slot.backend()), waiter.avoid);
            self.opened(worker, waiter.request, grant.slot);
        }
        while let Some(expired) = self.workers[worker].admission.expired(Millis(self.now)) {
            let waiter = self.workers[worker].waiting.remove(&expired.token).expect("one who does not wait");
            assert_eq!(expired.class, waiter.request.class);
            self.longest_wait = self.longest_wait.max(expired.waited);
        }
    }

    /// After all workers' turns.
    fn look_for_idle(&mut self) {
        let (now, states) = (self.now, &self.states);
        let spilled = |w: &Waiter| w.request.own.is_none() || now - w.since >= SPILL || w.avoid.is_some();
        let workers = &self.workers;
        let waits = |server: usize| {
            let id = BackendId(server as u16);
            workers.iter().flat_map(|w| w.waiting.values()).any(|w| {
                let may = w.request.own == Some(id) || states[server] == State::Up && spilled(w);
                may && w.avoid != Some(id) && states[server] != State::Down
            })
        };
        for server in 0..self.used.len() {
            let Some(&since) = self.free[server].front().filter(|since| **since < self.now) else { continue };
            if waits(server) {
                self.longest_idle = self.longest_idle.max(self.now - since);
            } else {
                self.free[server].iter_mut().for_each(|since| *since = self.now);
            }
        }
    }

    fn metrics(&self) -> Metrics {
        let mut sum = Metrics::default();
        self.workers.iter().for_each(|w| sum.merge(w.admission.metrics()));
        sum
    }

    fn waiting(&self) -> usize {
        self.workers.iter().map(|w| w.waiting.len()).sum()
    }
}

fn class(name: &str, share: Share, queue: usize, timeout: u64, reserve: u8) -> ClassSpec {
    ClassSpec { share, queue, timeout: Duration::from_millis(timeout), reserve, ..ClassSpec::new(name) }
}

fn adds_up(sum: &ClassCounters, waiting: usize) {
    assert_eq!(sum.asked, sum.admitted + sum.abandoned + sum.timed_out + sum.refused + waiting as u64, "{sum:?}");
    assert_eq!(sum.waited, sum.waits.iter().sum::<u64>());
    assert!(sum.waited <= sum.admitted && sum.spilled <= sum.admitted && sum.demoted <= sum.asked);
}

/// A third of a million arrivals for each number of workers, in calm and in storms.
fn storms(workers: usize, seed: u64) {
    let specs = vec![
        class("strict", Share::Strict, 200, 800, 0),
        class("light", Share::Weight(1), 400, 1000, 25),
        class("heavy", Share::Weight(5), 400, 1000, 0),
        class("last", Share::Weight(2), 600, 600, 0),
    ];
    let mut world = World::new(seed, workers, 24, specs, Some(SPILL));
    (0..24).for_each(|server| world.set_limits(server, 60, 40));
    while world.arrivals < 350_000 {
        world.now += 1;
        let server = world.random.below(24) as usize;
        match world.random.below(60) {
            0 => world.set_limits(server, 60, 40),
            // Below what is in use, mostly.
            1 => {
                let (connections, units) = (1 + world.random.below(60) as u32, 10 + world.random.below(60) as u32);
                world.set_limits(server, connections, units);
            }
            2 => world.set_state(server, State::Down),
            3 => world.set_state(server, State::Draining),
            4..10 => world.set_state(server, State::Up),
            _ => {}
        }
        // Two seconds of storm, and one in which the lines are emptied.
        let rate = if world.now / 1000 % 3 < 2 { 30 } else { 4 };
        let first = world.random.below(workers as u64) as usize;
        for n in 0..workers {
            let worker = (first + n) % workers;
            world.turn(worker, true);
            for _ in 0..world.random.below(2 * rate / workers as u64 + 1) {
                let class = world.random.below(4) as u8;
                world.arrive(worker, class);
            }
            world.grants(worker);
        }
        world.look_for_idle();
        if world.now.is_multiple_of(1000) {
            adds_up(&world.metrics().sum(), world.waiting());
            for w in &world.workers {
                assert_eq!(w.admission.waiting(), w.waiting.len());
            }
        }
    }
    let sum = world.metrics().sum();
    adds_up(&sum, world.waiting());
    for (what, n) in [
        ("spilled", sum.spilled),
        ("demoted", sum.demoted),
        ("abandoned", sum.abandoned),
        ("timed out", sum.timed_out),
        ("refused", sum.refused),
    ] {
        assert!(n > 100, "the simulation has none that is {what}: {sum:?}");
    }
    assert!(world.longest_idle <= 1, "a slot was free for {} turns", world.longest_idle);
    // Its time-out, and the turn in which that is noticed.
    assert!(world.longest_wait <= 1001, "{}", world.longest_wait);
    // All go home.
    for _ in 0..3000 {
        world.now += 1;
        for worker in 0..workers {
            world.turn(worker, false);
            world.grants(worker);
        }
    }
    assert_eq!((world.waiting(), world.slots.used(BackendId(0))), (0, Used::default()));
    assert!(world.used.iter().all(|used| *used == Used::default()));
    adds_up(&world.metrics().sum(), 0);
}

#[test]
fn one_worker_is_never_above_a_limit_and_leaves_nobody_waiting_for_a_free_slot() {
    storms(1, 11);
}

#[test]
fn two_workers_are_never_above_a_limit_and_leave_nobody_waiting_for_a_free_slot() {
    storms(2, 22);
}

#[test]
fn four_workers_are_never_above_a_limit_and_leave_nobody_waiting_for_a_free_slot() {
    storms(4, 44);
}

/// `classes_of(worker)` says of which classes clients come to it.
fn shares(workers: usize, classes_of: impl Fn(usize) -> Vec<u8>) {
    let weights = [1, 2, 5];
    let specs = weights.map(|w| class(&w.to_string(), Share::Weight(w), 4000, 600_000, 0)).to_vec();
    let mut world = World::new(7, workers, 4, specs, Some(0));
    (0..4).for_each(|server| world.set_limits(server, 10_000, 400));
    let mut before = [0; 8];
    for second in 0..4 {
        for _ in 0..1000 {
            world.now += 1;
            for worker in 0..workers {
                world.turn(worker, false);
                for class in classes_of(worker) {
                    while world.workers[worker].admission.waiting_in(ClassId(class)) < 200 {
                        world.arrive(worker, class);
                    }
                }
                world.grants(worker);
            }
        }
        let given: Vec<f64> = (0..3).map(|c| (world.granted[c] - before[c]) as f64).collect();
        before = world.granted;
        let all: f64 = given.iter().sum();
        for (given, weight) in given.iter().zip(weights) {
            let share = f64::from(weight) / 8.0;
            // The first second begins with empty servers.
            assert!(
                second == 0 || (given / all / share - 1.0).abs() < 0.02,
                "{workers} workers, weight {weight}: {given} of {all}"
            );
        }
    }
}

#[test]
fn shares_of_weighted_classes_are_their_weights_with_any_number_of_workers() {
    for workers in [1, 2, 4] {
        shares(workers, |_| vec![0, 1, 2]);
    }
}

#[test]
fn shares_are_the_weights_even_if_each_class_comes_to_another_worker() {
    shares(3, |worker| vec![worker as u8]);
}

#[test]
fn no_class_with_a_reserve_is_starved_by_strict_ones() {
    for workers in [1, 2, 4] {
        let specs = vec![
            class("strict", Share::Strict, 4000, 600_000, 0),
            class("kept", Share::Weight(1), 4000, 600_000, 20),
            class("other", Share::Weight(100), 4000, 600_000, 0),
        ];
        let mut world = World::new(5, workers, 4, specs, Some(0));
        (0..4).for_each(|server| world.set_limits(server, 10_000, 100));
        for _ in 0..3000 {
            world.now += 1;
            for worker in 0..workers {
                world.turn(worker, false);
                for class in 0..3 {
                    while world.workers[worker].admission.waiting_in(ClassId(class)) < 100 {
                        world.arrive(worker, class);
                    }
                }
                world.grants(worker);
            }
        }
        let all: u64 = world.granted.iter().sum();
        let kept = world.granted[1] as f64 / all as f64;
        // A fifth, but for what is lost where ten units do not fit any more.
        assert!((0.15..0.25).contains(&kept), "{workers} workers: {kept}");
        assert!(world.granted[2] < all / 50, "strict goes before weighted: {:?}", world.granted);
    }
}
