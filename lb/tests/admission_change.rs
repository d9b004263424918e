//! What becomes of those who wait, and of those who were admitted, when the terms of admission change while they do.
#![cfg(not(loom))]

use lb::admission::slots::FULL;
use lb::admission::{
    Admission, Answer, ClassId, ClassSpec, Classes, Config, Cost, Limits, Refusal, Request, Slot, Slots, Terms, Used,
};
use lb::{BackendId, Millis, State};
use std::sync::Arc;
use std::time::Duration;

const A: BackendId = BackendId(3);
const B: BackendId = BackendId(70);
const C: BackendId = BackendId(71);

fn classes(specs: &[(&str, usize)]) -> Classes {
    Classes::new(specs.iter().map(|(name, queue)| ClassSpec { queue: *queue, ..ClassSpec::new(*name) }).collect())
        .unwrap()
}

fn config(specs: &[(&str, usize)], members: &[BackendId]) -> Config {
    Config { classes: classes(specs), members: members.to_vec(), spill_after: Some(Duration::from_millis(50)) }
}

fn request(token: u64, class: u8, own: Option<BackendId>) -> Request {
    Request { token, class: ClassId(class), cost: Cost::NotTls, own }
}

fn ask(admission: &mut Admission, now: u64, request: Request) -> Answer {
    let members = admission.members().to_vec();
    admission.admit(Millis(now), request, |may| members.iter().copied().find(|&id| may(id)))
}

fn admitted(answer: Answer) -> Slot {
    match answer {
        Answer::Admitted(slot) => slot,
        other => panic!("{other:?}"),
    }
}

fn waits(answer: Answer) {
    assert!(matches!(answer, Answer::Wait(_)), "{answer:?}");
}

/// All servers are full with one connection each.
fn full(slots: &Arc<Slots>, members: &[BackendId]) {
    members.iter().for_each(|id| slots.set_limits(*id, Limits { connections: Some(1), units: None }));
}

/// As the engine does it: whom there was no room for.
fn moved(before: &mut Admission, after: &mut Admission) -> Vec<(u64, Refusal)> {
    after.follow(before);
    let former = before.classes().clone();
    let parked: Vec<_> = std::iter::from_fn(|| before.next_parked()).collect();
    parked.iter().filter_map(|one| Some((one.request.token, after.resume(one, &former).err()?))).collect()
}

/// Who goes on, and how long he has waited. Their places stay taken.
fn tokens(admission: &mut Admission, now: u64) -> Vec<(u64, u64)> {
    std::iter::from_fn(|| admission.next(Millis(now))).map(|grant| (grant.token, grant.waited)).collect()
}

#[test]
fn terms_of_which_nothing_is_different_are_the_same_ones_and_others_are_not() {
    let slots = Arc::new(Slots::new(100));
    let usual = || config(&[("x", 9), ("rest", 9)], &[A, B]);
    let terms = Terms::new(usual(), &slots, 2);
    // The order of members says nothing, nor that one is named twice.
    for same in [usual(), config(&[("x", 9), ("rest", 9)], &[B, A, B])] {
        assert!(terms.followed_by(same, 2).are(&terms));
    }
    for (other, workers) in [
        (config(&[("x", 8), ("rest", 9)], &[A, B]), 2),
        (config(&[("rest", 9), ("x", 9)], &[A, B]), 2),
        (config(&[("x", 9), ("rest", 9)], &[A]), 2),
        (Config { spill_after: None, ..usual() }, 2),
        (usual(), 3),
    ] {
        let next = terms.followed_by(other, workers);
        assert!(!next.are(&terms));
        assert!(terms.followed_by(usual(), 2).are(&terms), "they are as they were");
    }
}

#[test]
fn who_was_admitted_by_former_terms_counts_by_later_ones_and_reserves_know_it() {
    let slots = Arc::new(Slots::new(100));
    slots.set_limits(A, Limits { connections: Some(10), units: None });
    let reserved = |reserve, queue| {
        let specs = vec![ClassSpec { reserve, ..ClassSpec::new("x") }, ClassSpec { queue, ..ClassSpec::new("rest") }];
        Config { classes: Classes::new(specs).unwrap(), members: vec![A], spill_after: None }
    };
    let before = Terms::new(reserved(40, 9), &slots, 1);
    let mut old = before.join(0);
    // Two of the four that are x's, and five of the six that anybody may have.
    let mut inside: Vec<Slot> =
        (0..7).map(|n| admitted(ask(&mut old, 0, request(n, u8::from(n >= 2), None)))).collect();
    let after = before.followed_by(reserved(40, 8), 1);
    let mut new = after.join(0);
    assert_eq!(moved(&mut old, &mut new), []);
    inside.push(admitted(ask(&mut new, 1, request(7, 1, None))));
    waits(ask(&mut new, 2, request(8, 1, None)));
    // Somebody waits: they are asked in turn, and may have what is kept for them.
    (9..11).for_each(|n| waits(ask(&mut new, 3, request(n, 0, None))));
    let grants: Vec<_> = std::iter::from_fn(|| new.next(Millis(3))).collect();
    assert_eq!(grants.iter().map(|grant| grant.token).collect::<Vec<_>>(), [9, 10]);
    inside.extend(grants.into_iter().map(|grant| grant.slot));
    assert_eq!(slots.used(A), Used { connections: 10, units: 0 });
    // They go, by whichever terms they came: no place is lost, and none is found.
    inside.into_iter().for_each(|slot| new.freed(slot));
    let (token, _) = tokens(&mut new, 4)[0];
    assert_eq!((token, slots.used(A).connections), (8, 1));
}

#[test]
fn what_another_process_had_taken_of_a_server_that_is_not_wanted_counts_when_it_is_wanted_again() {
    let slots = Arc::new(Slots::new(100));
    slots.set_limits(B, Limits { connections: Some(1), units: Some(19) });
    let before = Terms::new(config(&[("x", 9), ("rest", 9)], &[A]), &slots, 1);
    let mut old = before.join(0);
    let mut slot = old.taken_over(B, ClassId(0), FULL);
    assert_eq!(slots.used(B), Used { connections: 1, units: u32::from(FULL) });
    let mut new = before.followed_by(config(&[("x", 9), ("rest", 9)], &[B]), 1).join(0);
    assert_eq!(moved(&mut old, &mut new), []);
    waits(ask(&mut new, 1, request(1, 0, None)));
    new.handshake_done(&mut slot);
    assert_eq!(slots.used(B), Used { connections: 1, units: 0 });
    new.freed(slot);
    assert_eq!((tokens(&mut new, 2)[0].0, slots.used(B).connections), (1, 1));
}

#[test]
fn those_who_wait_are_taken_out_the_longest_first_whatever_their_class_and_not_as_ones_that_have_gone() {
    let slots = Arc::new(Slots::new(100));
    full(&slots, &[A, B]);
    let mut old = Terms::new(config(&[("x", 9), ("y", 9), ("rest", 9)], &[A, B]), &slots, 1).join(0);
    let _inside = [1, 2].map(|n| admitted(ask(&mut old, 0, request(n, 0, None))));
    for (n, (class, own)) in [(2, None), (0, Some(B)), (1, None), (0, None), (2, Some(A))].into_iter().enumerate() {
        waits(ask(&mut old, 10 + n as u64, request(10 + n as u64, class, own)));
    }
    let parked: Vec<_> = std::iter::from_fn(|| old.next_parked()).collect();
    let told: Vec<_> = parked.iter().map(|one| (one.request.token, one.request.class.0, one.request.own)).collect();
    assert_eq!(told, [(10, 2, None), (11, 0, Some(B)), (12, 1, None), (13, 0, None), (14, 2, Some(A))]);
    assert_eq!(old.waiting(), 0);
    let sum = old.metrics().sum();
    assert_eq!((sum.asked, sum.admitted, sum.abandoned, sum.timed_out, sum.refused), (7, 2, 0, 0, 0));
}

#[test]
fn who_waits_goes_on_in_the_class_of_the_same_name_with_the_time_that_he_has_waited() {
    let slots = Arc::new(Slots::new(100));
    full(&slots, &[A, B, C]);
    let before = Terms::new(config(&[("x", 9), ("y", 9), ("rest", 9)], &[A, B]), &slots, 1);
    let mut old = before.join(0);
    let _inside = [1, 2].map(|n| admitted(ask(&mut old, 0, request(n, 0, None))));
    for (token, class) in [(10, 0), (11, 1), (12, 1), (13, 2)] {
        waits(ask(&mut old, token, request(token, class, None)));
    }
    // x is no more, y is the first, and C has come.
    let after = before.followed_by(config(&[("y", 9), ("new", 9), ("rest", 9)], &[A, B, C]), 1);
    let mut new = after.join(0);
    new.set_state(C, State::Down);
    assert_eq!(moved(&mut old, &mut new), []);
    assert_eq!(
        (new.waiting(), new.waiting_in(ClassId(0)), new.waiting_in(ClassId(1)), new.waiting_in(ClassId(2))),
        (4, 2, 0, 2)
    );
    assert_eq!(tokens(&mut new, 100), [], "there is no room yet");
    // One by one: all have waited since they came.
    let mut went = vec![];
    new.set_state(C, State::Up);
    for _ in 0..4 {
        went.extend(tokens(&mut new, 500));
        slots.give_back(C, Used { connections: 1, units: 0 });
        new.room_at(C);
    }
    assert!(went.iter().all(|(token, waited)| *waited == 500 - token), "{went:?}");
    let place = |token: u64| went.iter().position(|(other, _)| *other == token).unwrap();
    assert!(place(11) < place(12) && place(10) < place(13), "in their order within a class: {went:?}");
    let sum = new.metrics().sum();
    assert_eq!((sum.asked, sum.admitted, sum.waited), (6, 6, 4), "what was counted before is counted on");
}

#[test]
fn who_finds_no_room_in_a_shorter_line_is_of_the_last_class_and_then_told_so() {
    let slots = Arc::new(Slots::new(100));
    full(&slots, &[A]);
    let before = Terms::new(config(&[("x", 9), ("rest", 9)], &[A]), &slots, 1);
    let mut old = before.join(0);
    let _inside = admitted(ask(&mut old, 0, request(1, 0, None)));
    (10..14).for_each(|token| waits(ask(&mut old, token, request(token, 0, None))));
    // One whose dial failed keeps his place, bounds or not.
    waits(old.again(Millis(20), request(14, 0, None), A, |_| None));
    let after = before.followed_by(config(&[("x", 1), ("rest", 1)], &[A]), 1);
    let mut new = after.join(0);
    let refused = moved(&mut old, &mut new);
    assert_eq!(refused, [(12, Refusal::LastClassFull), (13, Refusal::LastClassFull)]);
    assert_eq!((new.waiting(), new.waiting_in(ClassId(1))), (3, 1));
    let sum = new.metrics().sum();
    assert_eq!((sum.demoted, sum.refused), (1, 2));
    assert_eq!(sum.asked, sum.admitted + sum.refused + new.waiting() as u64);
}

#[test]
fn one_whose_own_server_has_gone_with_the_change_waits_for_any_and_one_whose_dial_failed_goes_first() {
    let slots = Arc::new(Slots::new(100));
    full(&slots, &[A, B]);
    let before = Terms::new(Config { spill_after: None, ..config(&[("all", 9)], &[A, B]) }, &slots, 1);
    let mut old = before.join(0);
    let inside = [1, 2].map(|n| admitted(ask(&mut old, 0, request(n, 0, None))));
    waits(ask(&mut old, 10, request(10, 0, Some(B))));
    waits(ask(&mut old, 11, request(11, 0, None)));
    waits(old.again(Millis(12), request(12, 0, None), B, |_| None));
    let after = before.followed_by(Config { spill_after: None, ..config(&[("all", 9)], &[A]) }, 1);
    let mut new = after.join(0);
    assert_eq!(moved(&mut old, &mut new), []);
    let mut went = vec![];
    for slot in inside.into_iter().filter(|slot| slot.backend() == A) {
        new.freed(slot);
    }
    for _ in 0..3 {
        went.extend(tokens(&mut new, 100).iter().map(|(token, _)| *token));
        slots.give_back(A, Used { connections: 1, units: 0 });
        new.room_at(A);
    }
    assert_eq!(went, [12, 10, 11]);
}
