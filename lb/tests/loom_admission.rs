//! The words and offers of `admission`, under every interleaving and every reordering loom knows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p lb --test loom_admission --release`
#![cfg(loom)]

mod models;

use lb::admission::{Admission, Answer, ClassId, Classes, Config, Cost, Grant, Limits, Request, Slot, Slots};
use lb::{BackendId, Millis};
use loom::sync::Arc;
use loom::thread;
use models::bounded;

const B: BackendId = BackendId(0);

fn limits(connections: u32) -> Limits {
    Limits { connections: Some(connections), units: None }
}

/// So many workers of one backend that may have so many connections.
fn workers(n: usize, connections: u32) -> (Arc<Slots>, Vec<Admission>) {
    let slots = Arc::new(Slots::new(1));
    slots.set_limits(B, limits(connections));
    let config = Config { classes: Classes::default(), members: vec![B], spill_after: None };
    (slots.clone(), Admission::for_workers(config, &slots, n))
}

fn ask(admission: &mut Admission, token: u64) -> Answer {
    let request = Request { token, class: ClassId(2), cost: Cost::Full, own: None };
    admission.admit(Millis(1), request, |may| Some(B).filter(|&id| may(id)))
}

fn slot(admission: &mut Admission) -> Slot {
    match ask(admission, 0) {
        Answer::Admitted(slot) => slot,
        other => panic!("{other:?}"),
    }
}

/// Turns of all workers, after all that happened: who goes.
fn turns(workers: &mut [Admission], turns: usize) -> Vec<Grant> {
    let mut all = vec![];
    for _ in 0..turns {
        workers.iter_mut().for_each(|worker| all.extend(std::iter::from_fn(|| worker.next(Millis(2)))));
    }
    all
}

/// Two want the one slot: one has it.
#[test]
fn a_slot_is_taken_once() {
    bounded(3, || {
        let (slots, mut workers) = workers(2, 1);
        let (mut two, mut one) = (workers.pop().unwrap(), workers.pop().unwrap());
        let other = thread::spawn(move || matches!(ask(&mut two, 2), Answer::Admitted(_)));
        let mine = matches!(ask(&mut one, 1), Answer::Admitted(_));
        let theirs = other.join().unwrap();
        assert!(mine != theirs, "{mine} {theirs}");
        assert_eq!(slots.used(B).connections, 1);
    });
}

/// What is in use does not grow beyond a limit once that is set, whoever was about to take.
#[test]
fn a_limit_that_is_lowered_holds_from_then_on() {
    bounded(3, || {
        let (slots, mut workers) = workers(1, 3);
        let mut one = workers.pop().unwrap();
        let first = slot(&mut one);
        let taker = thread::spawn(move || {
            let answers = [ask(&mut one, 1), ask(&mut one, 2)];
            one.freed(first);
            answers
        });
        slots.set_limits(B, limits(1));
        let then = slots.used(B).connections;
        let _answers = taker.join().unwrap();
        assert!(slots.used(B).connections <= then.max(1) && then <= 3);
    });
}

/// One frees the only slot while another begins to wait: whatever came first, he goes within the next turns.
#[test]
fn nobody_waits_beside_a_slot_that_is_freed_as_he_comes() {
    bounded(3, || {
        let (_, mut workers) = workers(2, 1);
        let (mut two, mut one) = (workers.pop().unwrap(), workers.pop().unwrap());
        let mine = slot(&mut one);
        let other = thread::spawn(move || {
            let answer = ask(&mut two, 2);
            (two, answer)
        });
        one.freed(mine);
        let (two, answer) = other.join().unwrap();
        let mut workers = [one, two];
        match answer {
            Answer::Wait(_) => {
                let gone: Vec<u64> = turns(&mut workers, 1).iter().map(|grant| grant.token).collect();
                assert_eq!(gone, [2]);
            }
            Answer::Admitted(_) => assert!(turns(&mut workers, 1).is_empty()),
            Answer::Refused(why) => panic!("{why}"),
        }
    });
}

/// A slot is freed and offered to one who is about to leave: it goes to the other who waits.
#[test]
fn what_is_offered_to_one_who_leaves_goes_to_another() {
    bounded(2, || {
        let (_, mut workers) = workers(2, 1);
        let (mut two, mut one) = (workers.pop().unwrap(), workers.pop().unwrap());
        let mine = slot(&mut one);
        let Answer::Wait(ticket) = ask(&mut two, 2) else { panic!("it is full") };
        let Answer::Wait(_) = ask(&mut one, 1) else { panic!("it is full") };
        let other = thread::spawn(move || {
            two.leave(ticket);
            let gone: Vec<u64> = std::iter::from_fn(|| two.next(Millis(2))).map(|grant| grant.token).collect();
            assert_eq!(gone, []);
            two
        });
        one.freed(mine);
        let two = other.join().unwrap();
        // The one that was offered it may have to pass it on.
        let gone: Vec<u64> = turns(&mut [two, one], 1).iter().map(|grant| grant.token).collect();
        assert_eq!(gone, [1]);
    });
}
