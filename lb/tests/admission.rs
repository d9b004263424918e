//! One worker's admission against a naive reference, and rule by rule.
#![cfg(not(loom))]

use lb::admission::slots::{FULL, RESUMED};
use lb::admission::{
    Admission, Answer, ClassId, ClassSpec, Classes, Config, Cost, Expired, Grant, Limits, Refusal, Request, Share,
    Slot, Slots, Ticket, Used,
};
use lb::{BackendId, Millis, State};
use std::sync::Arc;
use std::time::Duration;

const A: BackendId = BackendId(3);
const B: BackendId = BackendId(70);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn class(name: &str, share: Share) -> ClassSpec {
    ClassSpec { share, ..ClassSpec::new(name) }
}

struct World {
    slots: Arc<Slots>,
    admission: Admission,
}

impl World {
    fn new(classes: Vec<ClassSpec>, spill_after: Option<Duration>) -> World {
        let slots = Arc::new(Slots::new(100));
        let classes = Classes::new(classes).unwrap();
        let config = Config { classes, members: vec![B, A, B], spill_after };
        let admission = Admission::for_workers(config, &slots, 1).pop().unwrap();
        World { slots, admission }
    }

    fn limit(&self, id: BackendId, connections: u32, units: u32) {
        self.slots.set_limits(id, Limits { connections: Some(connections), units: Some(units) });
    }

    fn ask(&mut self, now: u64, token: u64, class: u8, cost: Cost, own: Option<BackendId>) -> Answer {
        let request = Request { token, class: ClassId(class), cost, own };
        self.admission.admit(Millis(now), request, |may| [A, B].into_iter().find(|&id| may(id)))
    }

    fn wait(&mut self, now: u64, token: u64, class: u8, cost: Cost, own: Option<BackendId>) -> Ticket {
        match self.ask(now, token, class, cost, own) {
            Answer::Wait(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn slot(&mut self, now: u64, class: u8, cost: Cost, own: Option<BackendId>) -> Slot {
        match self.ask(now, 0, class, cost, own) {
            Answer::Admitted(slot) => slot,
            other => panic!("{other:?}"),
        }
    }

    fn grants(&mut self, now: u64) -> Vec<Grant> {
        std::iter::from_fn(|| self.admission.next(Millis(now))).collect()
    }

    fn tokens(&mut self, now: u64) -> Vec<u64> {
        self.grants(now).iter().map(|grant| grant.token).collect()
    }
}

#[test]
fn without_limits_everybody_is_admitted_where_the_balance_says() {
    let mut world = World::new(vec![ClassSpec::new("all")], None);
    for n in 0..1000 {
        let slot = world.slot(n, 0, Cost::Full, (n % 2 == 0).then_some(B));
        assert_eq!(slot.backend(), if n % 2 == 0 { B } else { A });
        if n % 3 == 0 {
            world.admission.freed(slot);
        }
    }
    assert_eq!(world.admission.waiting(), 0);
    assert_eq!(world.slots.used(A).connections + world.slots.used(B).connections, 666);
    let counters = world.admission.metrics().sum();
    assert_eq!((counters.asked, counters.admitted, counters.waited), (1000, 1000, 0));
}

#[test]
fn a_handshake_gives_back_its_units_and_a_connection_its_place() {
    let mut world = World::new(vec![ClassSpec::new("all")], None);
    world.limit(A, 2, 10);
    world.admission.set_state(B, State::Down);
    let mut slot = world.slot(0, 0, Cost::Full, None);
    assert_eq!((slot.units(), world.slots.used(A)), (FULL, Used { connections: 1, units: 10 }));
    world.wait(1, 7, 0, Cost::Full, None);
    world.admission.handshake_done(&mut slot);
    world.admission.handshake_done(&mut slot);
    assert_eq!(world.slots.used(A), Used { connections: 1, units: 0 });
    let grant = world.grants(5).pop().unwrap();
    assert_eq!((grant.token, grant.waited, grant.spilled), (7, 4, false));
    world.wait(6, 8, 0, Cost::NotTls, None);
    assert_eq!(world.tokens(6), []);
    world.admission.freed(slot);
    assert_eq!(world.slots.used(A), Used { connections: 1, units: 10 });
    let third = world.grants(7).pop().unwrap();
    world.admission.freed(third.slot);
    world.admission.freed(grant.slot);
    assert_eq!(world.slots.used(A), Used::default());
}

#[test]
fn a_returning_client_waits_for_its_own_server_and_then_takes_any() {
    let mut world = World::new(vec![ClassSpec::new("all")], Some(ms(50)));
    world.limit(A, 1, 100);
    let a = world.slot(0, 0, Cost::Resumed, Some(A));
    world.wait(10, 1, 0, Cost::Resumed, Some(A));
    world.wait(20, 2, 0, Cost::Resumed, Some(A));
    assert_eq!(world.tokens(59), [], "although B has room");
    assert_eq!(world.admission.due(), Some(Millis(60)));
    let grant = world.grants(60).pop().unwrap();
    assert_eq!((grant.token, grant.slot.backend(), grant.spilled), (1, B, true));
    assert_eq!(grant.slot.units(), FULL, "nobody resumes it there");
    world.admission.freed(a);
    let grant = world.grants(65).pop().unwrap();
    assert_eq!((grant.token, grant.slot.backend(), grant.slot.units()), (2, A, RESUMED));
    let counters = world.admission.metrics().sum();
    assert_eq!((counters.waited, counters.spilled), (2, 1));
}

#[test]
fn who_must_have_his_own_server_waits_until_it_fails() {
    let mut world = World::new(vec![ClassSpec::new("all")], None);
    world.limit(A, 1, 100);
    let _a = world.slot(0, 0, Cost::Resumed, Some(A));
    world.wait(10, 1, 0, Cost::Resumed, Some(A));
    world.wait(11, 2, 0, Cost::Resumed, Some(A));
    assert_eq!(world.tokens(500), []);
    world.admission.set_state(A, State::Down);
    assert_eq!(world.tokens(500), [1, 2]);
}

#[test]
fn a_draining_server_is_only_given_those_that_it_can_resume() {
    let mut world = World::new(vec![ClassSpec::new("all")], Some(ms(50)));
    world.limit(A, 1, 100);
    world.limit(B, 1, 100);
    let a = world.slot(0, 0, Cost::Full, Some(A));
    let _b = world.slot(0, 0, Cost::Full, Some(B));
    world.wait(1, 1, 0, Cost::Full, None);
    world.wait(2, 2, 0, Cost::Resumed, Some(A));
    world.wait(3, 3, 0, Cost::Full, None);
    world.admission.set_state(A, State::Draining);
    world.admission.freed(a);
    // 2 has been spilled meanwhile, and may go to its own nevertheless.
    assert_eq!(world.tokens(100), [2]);
}

#[test]
fn one_that_does_not_fit_is_not_overtaken_but_by_those_who_take_nothing_from_it() {
    let specs = vec![
        class("first", Share::Strict),
        class("second", Share::Strict),
        ClassSpec { reserve: 25, ..class("kept", Share::Weight(1)) },
    ];
    let mut world = World::new(specs, None);
    world.limit(A, 100, 40);
    world.admission.set_state(B, State::Down);
    let full = [(); 3].map(|()| world.slot(0, 0, Cost::Full, None));
    world.wait(1, 1, 0, Cost::Full, None);
    world.wait(1, 2, 1, Cost::Resumed, None);
    assert_eq!(world.tokens(1), [], "10 of 40 are kept");
    world.wait(1, 3, 2, Cost::Resumed, None);
    assert_eq!(world.tokens(1), [3]);
    world.wait(1, 4, 1, Cost::NotTls, None);
    assert_eq!(world.tokens(1), [], "behind one of its own class");
    let [one, two, three] = full;
    world.admission.freed(one);
    assert_eq!(world.tokens(2), [1]);
    world.admission.freed(two);
    assert_eq!(world.tokens(3), [2, 4]);
    assert_eq!(world.admission.used_by(A, ClassId(2)), Used { connections: 1, units: 1 });
    world.admission.freed(three);
}

#[test]
fn room_that_was_held_for_one_who_left_is_given_to_the_next() {
    let mut world = World::new(vec![class("first", Share::Strict), class("second", Share::Strict)], None);
    world.limit(A, 100, 15);
    world.admission.set_state(B, State::Down);
    let _full = world.slot(0, 0, Cost::Full, None);
    let big = world.wait(1, 1, 0, Cost::Full, None);
    let small: Vec<_> = (2..8).map(|token| world.wait(1, token, 1, Cost::Resumed, None)).collect();
    assert_eq!(world.tokens(1), []);
    assert!(world.admission.leave(big) && !world.admission.leave(big));
    assert_eq!(world.tokens(2), [2, 3, 4, 5, 6]);
    assert!(!world.admission.leave(small[0]) && world.admission.leave(small[5]));
    assert_eq!(world.admission.metrics().of(ClassId(0)).abandoned, 1);
    assert_eq!(world.admission.metrics().of(ClassId(1)).abandoned, 1);
}

#[test]
fn beyond_its_bound_a_class_stands_in_the_last_line_and_only_the_last_refuses() {
    let small = |name: &str| ClassSpec { queue: 2, timeout: ms(100), ..class(name, Share::Strict) };
    let last = ClassSpec { queue: 3, timeout: ms(50), ..class("last", Share::Weight(1)) };
    let mut world = World::new(vec![small("one"), small("two"), last], None);
    world.limit(A, 1, 100);
    world.admission.set_state(B, State::Down);
    let _slot = world.slot(0, 0, Cost::Full, None);
    for token in 1..=4 {
        world.wait(token, token, 0, Cost::Full, None);
    }
    world.wait(5, 5, 2, Cost::Full, None);
    assert!(world.admission.refuses(ClassId(0)) && !world.admission.refuses(ClassId(1)));
    assert_eq!(world.ask(6, 6, 2, Cost::Full, None), Answer::Refused(Refusal::LastClassFull));
    assert_eq!(world.ask(6, 7, 0, Cost::Full, None), Answer::Refused(Refusal::LastClassFull));
    world.wait(6, 8, 1, Cost::Full, None);
    let of = |world: &World, class: u8| *world.admission.metrics().of(ClassId(class));
    assert_eq!((of(&world, 0).demoted, of(&world, 0).refused, of(&world, 2).refused), (2, 1, 1));
    world.wait(7, 10, 1, Cost::Full, None);
    // All lines are full; one whose dial failed keeps its place.
    let request = Request { token: 9, class: ClassId(1), cost: Cost::Full, own: None };
    let answer = world.admission.again(Millis(7), request, A, |may| [A, B].into_iter().find(|&id| may(id)));
    assert!(matches!(answer, Answer::Wait(_)), "{answer:?}");
    assert_eq!((of(&world, 1).asked, of(&world, 1).refused, of(&world, 1).demoted), (3, 0, 0));
    // The last line's time-out is theirs who stand in it.
    let expired: Vec<Expired> = std::iter::from_fn(|| world.admission.expired(Millis(56))).collect();
    let of = |e: &Expired| (e.token, e.class.0, e.waited);
    assert_eq!(expired.iter().map(of).collect::<Vec<_>>(), [(3, 0, 53), (4, 0, 52), (5, 2, 51)]);
    assert_eq!(world.admission.due(), Some(Millis(101)));
}

#[test]
fn one_whose_dial_failed_goes_before_its_class_and_not_there_again() {
    let mut world = World::new(vec![ClassSpec::new("all")], Some(ms(50)));
    world.limit(A, 1, 100);
    world.limit(B, 1, 100);
    let a = world.slot(0, 0, Cost::Resumed, Some(A));
    let b = world.slot(0, 0, Cost::Full, Some(B));
    world.wait(1, 1, 0, Cost::Full, None);
    world.admission.freed(a);
    let request = Request { token: 2, class: ClassId(0), cost: Cost::Resumed, own: Some(A) };
    let answer = world.admission.again(Millis(2), request, A, |may| [A, B].into_iter().find(|&id| may(id)));
    assert!(matches!(answer, Answer::Wait(_)));
    let grant = world.grants(3).pop().unwrap();
    assert_eq!((grant.token, grant.slot.backend()), (1, A), "it leaves it to others");
    world.wait(3, 3, 0, Cost::Full, None);
    world.admission.freed(b);
    let grants = world.grants(4);
    assert_eq!(grants.len(), 1);
    assert_eq!((grants[0].token, grants[0].slot.backend(), grants[0].slot.units()), (2, B, FULL));
}

#[test]
fn when_the_oldest_has_waited_too_long_the_newest_goes_first() {
    let mut world = World::new(vec![ClassSpec::new("all")], None);
    world.limit(A, 1, 100);
    world.admission.set_state(B, State::Down);
    let mut slot = world.slot(0, 0, Cost::Full, None);
    let (mut order, mut token) = (vec![], 0);
    // Two come for each one that goes, every 20 ms.
    for now in (0..2400).step_by(20) {
        for _ in 0..2 {
            token += 1;
            world.wait(now, token, 0, Cost::Full, None);
        }
        let mut grants = {
            world.admission.freed(slot);
            world.grants(now)
        };
        assert_eq!(grants.len(), 1);
        let grant = grants.pop().unwrap();
        order.push((now, grant.token == token, grant.waited));
        slot = grant.slot;
    }
    let turned = order.iter().find(|(_, newest, _)| *newest).unwrap().0;
    // The third served waited 20 ms; that of about 100 ms is the first above 50, which lasts from then on.
    assert!((550..=700).contains(&turned), "{turned}");
    assert!(order.iter().filter(|(now, ..)| *now >= turned).all(|(_, newest, waited)| *newest && *waited == 0));
    assert!(order.iter().filter(|(now, ..)| *now < turned).map(|(.., waited)| waited).is_sorted());
}

/// The rules again, over plain vectors: slow, and hard to get wrong.
mod naive {

    #[derive(Clone, Debug)]
    pub struct Waiter {
        pub token: u64,
        pub since: u64,
        pub class: usize,
        pub full: bool,
        pub own: Option<usize>,
        pub spilled: bool,
    }

    /// Two servers, one worker, no reserves, strict classes only.
    #[derive(Default)]
    pub struct Naive {
        pub line: Vec<Waiter>,
        pub units: [u32; 2],
        pub connections: [u32; 2],
        pub limits: [(u32, u32); 2],
        /// By class: since when the oldest has been above the target.
        pub above: [Option<u64>; 8],
    }

    impl Naive {
        pub fn cost(waiter: &Waiter, at: usize) -> u32 {
            if waiter.full || waiter.own.is_some_and(|own| own != at) { 10 } else { 1 }
        }

        pub fn fits(&self, at: usize, cost: u32) -> bool {
            self.connections[at] < self.limits[at].0 && self.units[at] + cost <= self.limits[at].1
        }

        pub fn waits_at(&self, at: usize) -> bool {
            self.line.iter().any(|w| w.own.is_none_or(|own| own == at || w.spilled))
        }

        pub fn take(&mut self, at: usize, cost: u32) {
            self.connections[at] += 1;
            self.units[at] += cost;
        }

        pub fn spill(&mut self, now: u64) {
            self.line.iter_mut().filter(|w| w.own.is_some() && now - w.since >= 50).for_each(|w| w.spilled = true);
        }

        /// In every turn, and when one has gone.
        pub fn look(&mut self, now: u64) {
            for class in 0..8 {
                let oldest = self.line.iter().filter(|w| w.class == class).map(|w| w.since).min();
                let above = oldest.filter(|since| now - since >= 50).map(|since| since + 50);
                self.above[class] = above.map(|above| self.above[class].unwrap_or(above));
            }
        }

        /// Who goes to this server now.
        pub fn next(&self, now: u64, at: usize) -> Option<(Waiter, u32)> {
            for class in 0..8 {
                let may = |w: &&Waiter| w.class == class && w.own.is_none_or(|own| own == at || w.spilled);
                if !self.line.iter().any(|w| may(&w)) {
                    continue;
                }
                let newest = self.above[class].is_some_and(|since| now - since >= 500);
                let mut those: Vec<&Waiter> = self.line.iter().filter(may).collect();
                those.sort_by_key(|w| (if newest { u64::MAX - w.since } else { w.since }, w.token));
                let first = those[0].clone();
                let cost = Naive::cost(&first, at);
                if !self.fits(at, cost) {
                    return None;
                }
                return Some((first, cost));
            }
            None
        }
    }
}

/// A hundred thousand events: whoever goes is who the reference says, and when it says nobody, nobody goes.
#[test]
fn it_does_what_the_naive_reference_does() {
    for seed in 0..8u64 {
        let mut x = seed * 2 + 1;
        let mut random = move |n: u64| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 33) % n
        };
        let strict = |name: &str| ClassSpec { queue: 10_000, timeout: ms(1500), ..class(name, Share::Strict) };
        let mut world = World::new(vec![strict("a"), strict("b"), strict("c")], Some(ms(50)));
        let mut naive = naive::Naive { limits: [(6, 25); 2], ..Default::default() };
        world.limit(A, 6, 25);
        world.limit(B, 6, 25);
        let ids = [A, B];
        let mut open: Vec<(Slot, u32)> = vec![];
        let mut tickets: Vec<(u64, Ticket)> = vec![];
        let (mut now, mut waited) = (0, 0);
        for token in 1..12_500u64 {
            // At most one comes in a millisecond: then there is no tie.
            now += 1 + random(4);
            let at_of = |slot: &Slot| usize::from(slot.backend() == B);
            match random(10) {
                0..4 => {
                    let (full, class) = (random(2) == 0, random(3) as usize);
                    let own = (!full).then(|| random(2) as usize);
                    let cost = if full { Cost::Full } else { Cost::Resumed };
                    let waiter = naive::Waiter { token, since: now, class, full, own, spilled: false };
                    let admitted = match own {
                        Some(own) => Some(own).filter(|&own| !naive.waits_at(own) && naive.fits(own, 1)),
                        None => {
                            let free = |w: &naive::Waiter| w.own.is_none() || w.spilled;
                            let any = naive.line.iter().any(free);
                            (0..2).find(|&at| !any && !naive.waits_at(at) && naive.fits(at, 10))
                        }
                    };
                    match (world.ask(now, token, class as u8, cost, own.map(|own| ids[own])), admitted) {
                        (Answer::Admitted(slot), Some(at)) => {
                            assert_eq!(slot.backend(), ids[at]);
                            naive.take(at, naive::Naive::cost(&waiter, at));
                            open.push((slot, naive::Naive::cost(&waiter, at)));
                        }
                        (Answer::Wait(ticket), None) => {
                            tickets.push((token, ticket));
                            naive.line.push(waiter);
                        }
                        (answer, admitted) => panic!("seed {seed} token {token}: {answer:?}, not {admitted:?}"),
                    }
                }
                4..6 if !open.is_empty() => {
                    let at = random(open.len() as u64) as usize;
                    let (slot, units) = &mut open[at];
                    let server = at_of(slot);
                    naive.units[server] -= std::mem::take(units);
                    world.admission.handshake_done(slot);
                }
                6..9 if !open.is_empty() => {
                    let (slot, units) = open.swap_remove(random(open.len() as u64) as usize);
                    let server = at_of(&slot);
                    naive.units[server] -= units;
                    naive.connections[server] -= 1;
                    world.admission.freed(slot);
                }
                9 if !tickets.is_empty() && random(4) == 0 => {
                    let (token, ticket) = tickets.swap_remove(random(tickets.len() as u64) as usize);
                    naive.line.retain(|w| w.token != token);
                    assert!(world.admission.leave(ticket));
                }
                _ => {}
            }
            naive.spill(now);
            naive.look(now);
            while let Some(grant) = world.admission.next(Millis(now)) {
                let at = at_of(&grant.slot);
                let expected = naive.next(now, at);
                let (who, cost) = expected.unwrap_or_else(|| panic!("seed {seed} {now}: {grant:?}, not nobody"));
                assert_eq!((grant.token, u32::from(grant.slot.units())), (who.token, cost), "seed {seed} {now}");
                naive.line.retain(|w| w.token != who.token);
                tickets.retain(|(token, _)| *token != who.token);
                naive.take(at, cost);
                open.push((grant.slot, cost));
                naive.look(now);
                waited += 1;
            }
            for (at, id) in ids.into_iter().enumerate() {
                let next = naive.next(now, at);
                assert!(next.is_none(), "seed {seed} {now}: nobody, not {next:?} at {at}");
                let used = Used { connections: naive.connections[at], units: naive.units[at] };
                assert_eq!(world.slots.used(id), used);
            }
            while let Some(expired) = world.admission.expired(Millis(now)) {
                let who = naive.line.iter().find(|w| w.token == expired.token).unwrap();
                assert!(now - who.since >= 1500);
                naive.line.retain(|w| w.token != expired.token);
                tickets.retain(|(token, _)| *token != expired.token);
            }
            assert!(naive.line.iter().all(|w| now - w.since < 1500));
            assert_eq!(world.admission.waiting(), naive.line.len());
        }
        assert!(waited > 1000, "{waited}");
        let sum = world.admission.metrics().sum();
        let ended = sum.admitted + sum.abandoned + sum.timed_out + sum.refused + naive.line.len() as u64;
        assert_eq!(sum.asked, ended, "{sum:?}");
    }
}
