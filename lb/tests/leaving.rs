//! Backends that leave, and others that get their slots.

mod common;

use common::ByBytes;
use lb::affinity::Forgetting;
use lb::{Affinity, BackendId, BackendSet, Config, IdentityKind, Millis, Offered, Sighting};
use proptest::prelude::*;

const SLOTS: u16 = 4;

#[derive(Clone, Debug)]
enum Op {
    /// A worker, a backend, an identity, and what happened to it.
    Say(usize, u16, u8, u8),
    /// What was learned elsewhere arrives.
    Carry,
    /// The backend goes.
    Leave(u16),
    /// Its rows are cleared for a while.
    Clear(usize),
    Wait(u16),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        12 => (0usize..2, 0..SLOTS, 0u8..24, 0u8..6).prop_map(|(w, b, i, how)| Op::Say(w, b, i, how)),
        2 => Just(Op::Carry),
        1 => (0..SLOTS).prop_map(Op::Leave),
        6 => (1usize..200).prop_map(Op::Clear),
        1 => (0u16..500).prop_map(Op::Wait),
    ];
    proptest::collection::vec(op, 1..300)
}

/// Six to each of four prefixes, so that key names are found and lost.
fn identity(i: u8) -> Vec<u8> {
    [vec![i % 4; 16], vec![i; 24]].concat()
}

/// The slots that rows name.
fn named(workers: &[Affinity], now: u64) -> BackendSet {
    let mut all = BackendSet::EMPTY;
    workers[0].for_each_row(Millis(now), |row| all = all.union(&row.backends));
    all
}

fn carry(workers: &mut [Affinity]) {
    for from in 0..workers.len() {
        while let Some(update) = workers[from].next_update() {
            workers[update.owner()].apply(update);
        }
    }
}

proptest! {
    /// Whatever is learned meanwhile, and however updates are delayed: once all workers have said that the rows of a backend are cleared, none
    /// names its slot, and none does until somebody else has it. Then only what was said of this one counts.
    #[test]
    fn rows_of_a_backend_that_left_are_gone_for_good_and_those_of_others_stay(ops in ops()) {
        let mut workers = Affinity::for_workers(Config { session_capacity: 128, ..Config::new(usize::from(SLOTS)) }, 2);
        let mut now = 0;
        // By slot: the generation, and while it leaves how far each worker is.
        let mut generations = [0; SLOTS as usize];
        let mut leaving: [Option<[Option<Forgetting>; 2]>; SLOTS as usize] = [None; SLOTS as usize];
        for op in ops {
            match op {
                Op::Say(w, b, i, how) => {
                    let seen = Sighting { backend: BackendId(b), client: lb::affinity::client(u32::from(i), u32::from(i)), now: Millis(now) };
                    let bytes = identity(i);
                    let worker = &mut workers[w];
                    match how {
                        0 => worker.session_issued(&bytes[..32], seen),
                        1 => worker.ticket_issued(&bytes, seen),
                        2 => worker.psk_accepted(&bytes, seen),
                        3 => worker.psk_refused(&bytes, seen),
                        4 => worker.ticket_refused(&bytes, seen),
                        _ => worker.session_refused(&bytes[..32], seen),
                    }
                }
                Op::Carry => carry(&mut workers),
                Op::Leave(b) => {
                    if leaving[usize::from(b)].is_none() {
                        workers.iter_mut().for_each(|w| w.dismiss(BackendId(b)));
                        leaving[usize::from(b)] = Some([Some(Forgetting::of(BackendSet::one(BackendId(b)))); 2]);
                    }
                }
                Op::Clear(rows) => {
                    for slot in 0..SLOTS {
                        let Some(state) = &mut leaving[usize::from(slot)] else { continue };
                        for (worker, left) in workers.iter_mut().zip(state.iter_mut()) {
                            if let Some(forgetting) = left && worker.forget_some(forgetting, rows) {
                                *left = None;
                            }
                        }
                        if state.iter().all(Option::is_none) {
                            prop_assert!(!named(&workers, now).contains(BackendId(slot)));
                            leaving[usize::from(slot)] = None;
                            generations[usize::from(slot)] += 1;
                            workers.iter_mut().for_each(|w| w.admit(BackendId(slot), generations[usize::from(slot)], true));
                            // What was under way is about the one before.
                            carry(&mut workers);
                            prop_assert!(!named(&workers, now).contains(BackendId(slot)));
                        }
                    }
                }
                Op::Wait(ms) => now += u64::from(ms),
            }
        }
    }
}

fn ask(affinity: &Affinity, id: &[u8]) -> Option<BackendId> {
    let offered = [Offered { kind: IdentityKind::SessionId, bytes: id }];
    affinity.find(&offered, Millis(0), |_| true).decision.and_then(|d| d.backends.single())
}

#[test]
fn clearing_one_backend_in_portions_leaves_the_sessions_of_others() {
    let mut affinity = Affinity::single(Config { session_capacity: 4096, ..Config::new(3) });
    for i in 0..900u16 {
        let id = [&i.to_be_bytes()[..], &[1; 30]].concat();
        affinity.session_issued(&id, Sighting { backend: BackendId(i % 3), client: u64::from(i), now: Millis(0) });
    }
    affinity.dismiss(BackendId(1));
    let mut forgetting = Forgetting::of(BackendSet::one(BackendId(1)));
    let mut portions = 1;
    while !affinity.forget_some(&mut forgetting, 100) {
        portions += 1;
    }
    assert!(portions > 40, "{portions} portions of 100 rows");
    for i in 0..900u16 {
        let id = [&i.to_be_bytes()[..], &[1; 30]].concat();
        assert_eq!(ask(&affinity, &id), (i % 3 != 1).then_some(BackendId(i % 3)));
    }
}

#[test]
fn the_next_holder_of_a_slot_begins_with_nothing_but_the_names_told_of_it() {
    let mut affinity = Affinity::single(Config::new(2));
    let seen = Sighting { backend: BackendId(1), client: 1, now: Millis(0) };
    affinity.psk_accepted(&[7; 40], seen);
    assert_eq!(affinity.metrics().of(BackendId(1), IdentityKind::Psk).accepted, 1);
    affinity.dismiss(BackendId(1));
    affinity.session_issued(&[3; 32], seen);
    affinity.forget(BackendId(1));
    affinity.admit(BackendId(1), 1, true);
    affinity.tell_name(BackendId(1), &[9; 16]);
    assert_eq!(affinity.metrics().of(BackendId(1), IdentityKind::Psk).accepted, 0);
    let census = affinity.census(Millis(0));
    assert_eq!((census.session_ids, census.key_names, census.candidates), (0, 1, 0));
    affinity.session_issued(&[4; 32], seen);
    assert_eq!(ask(&affinity, &[4; 32]), Some(BackendId(1)));
}
