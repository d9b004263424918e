//! What makes a backend up or down, and what clients are offered.

use super::*;
use crate::wire::options::Timestamps;

const ALL: SynOptions = SynOptions {
    mss: Some(1460),
    wscale: Some(7),
    sack_permitted: true,
    timestamps: Some(Timestamps { val: 1, ecr: 0 }),
};

fn numbered(addrs: &[Addr]) -> impl Iterator<Item = (BackendId, Addr)> {
    addrs.iter().enumerate().map(|(i, addr)| (BackendId(i as u16), *addr))
}

fn two() -> Health {
    let addrs = [[10, 0, 0, 1], [10, 0, 0, 2]].map(Addr::v4);
    Health::new(numbered(&addrs), [1460, 1440], true, 1, Time::ZERO)
}

#[test]
fn clients_are_offered_what_all_backends_have_in_common() {
    let mut h = two();
    assert!(h.offer(Family::V4).sack && !h.offer(Family::V4).ecn);
    h.answered(BackendId(0), &ALL, &SynOptions { timestamps: None, ..ALL }, Some(true), 64240);
    assert!(!h.offer(Family::V4).timestamps && h.offer(Family::V4).ecn);
    h.answered(BackendId(1), &ALL, &SynOptions { mss: Some(1300), ..ALL }, Some(false), 30000);
    let o = *h.offer(Family::V4);
    assert_eq!((o.timestamps, o.ecn, o.mss, o.window, o.sack), (false, false, 1300, 30000, true));
    assert_eq!(h.offer(Family::V6).mss, 1440);
}

#[test]
fn timestamps_are_offered_when_all_backends_that_may_be_chosen_have_been_heard() {
    let mut h = two();
    assert!(!h.offer(Family::V4).timestamps, "nobody was heard");
    h.answered(BackendId(0), &ALL, &ALL, None, 64240);
    assert!(!h.offer(Family::V4).timestamps);
    // The other does not answer its probes: it is chosen no more, and teaches before it is again.
    for second in 0..4 {
        while h.next_probe(Time::from_millis(second * 1000)).is_some() {}
    }
    assert!(!h.is_up(BackendId(1)) && h.offer(Family::V4).timestamps);
    h.answered(BackendId(1), &ALL, &SynOptions { timestamps: None, ..ALL }, None, 64240);
    assert!(h.is_up(BackendId(1)) && !h.offer(Family::V4).timestamps);
    // Without probes nothing else would teach.
    let addrs = [[10, 0, 0, 1]].map(Addr::v4);
    assert!(Health::new(numbered(&addrs), [1460, 1440], false, 1, Time::ZERO).offer(Family::V4).timestamps);
}

#[test]
fn no_backend_makes_clients_be_offered_a_window_or_segments_of_nothing() {
    for (mss, window) in [(Some(0), 0), (Some(1), 1), (None, 100)] {
        let mut h = two();
        h.answered(BackendId(0), &ALL, &SynOptions { mss, ..ALL }, None, window);
        let o = *h.offer(Family::V4);
        assert!(o.window >= 4096 && o.mss >= 216, "{o:?}");
    }
}

#[test]
fn an_option_that_was_not_offered_teaches_nothing() {
    let mut h = two();
    h.answered(BackendId(1), &ALL, &ALL, None, 64240);
    h.answered(BackendId(0), &ALL, &ALL, None, 64240);
    h.answered(
        BackendId(0),
        &SynOptions::default(),
        &SynOptions { mss: Some(1460), ..SynOptions::default() },
        None,
        64240,
    );
    assert!(h.offer(Family::V4).sack && h.offer(Family::V4).timestamps && h.offer(Family::V4).wscale);
}

const A: BackendId = BackendId(0);
const B: BackendId = BackendId(1);

fn ms(n: u64) -> Time {
    Time::from_millis(n)
}

/// All probes that are due by `end` are answered: `answer` says by what (a SYN-ACK, a reset, nothing). Returns when each backend was
/// asked.
fn live(h: &mut Health, end: u64, answer: impl Fn(BackendId, u64) -> Option<bool>) -> Vec<(u64, u16)> {
    let mut asked = vec![];
    while let Some(at) = h.due().filter(|at| *at <= ms(end)) {
        let Some((id, isn)) = h.next_probe(at) else { continue };
        let t = at.as_millis();
        asked.push((t, id.0));
        if let Some(taken) = answer(id, t) {
            let (addr, port) = (Addr::v4([10, 0, 0, 1 + id.0 as u8]), h.probe_port(id));
            assert_eq!(h.probe_answer(addr, port, isn), None, "a guessed number");
            assert_eq!(h.probe_answer(addr, port, isn + 1), Some(id));
            h.probe_answered(id, taken);
            assert_eq!(h.probe_answer(addr, port, isn + 1), None, "an answer counts once");
            if taken { h.answered(id, &ALL, &ALL, None, 64240) } else { h.refused(id, at) }
        }
    }
    asked
}

#[test]
fn a_failed_dial_makes_us_ask_and_only_a_probe_decides() {
    let mut h = two();
    live(&mut h, 900, |_, _| Some(true));
    assert_eq!(h.due(), None, "both are known and up: nothing to ask");
    // One client fails as often as it likes: the backend is asked four times a second, and stays what it is.
    let mut asked = vec![];
    for t in (1000..3000).step_by(10) {
        h.doubt(A, ms(t));
        asked.extend(live(&mut h, t, |_, _| Some(true)));
        assert!(h.is_up(A));
    }
    assert!(asked.iter().all(|(_, id)| *id == 0) && asked.len() == 8, "{asked:?}");
    // Now it is gone, without a word. As long as it takes a dial to be given up, not longer.
    h.doubt(A, ms(3000));
    let asked = live(&mut h, 4499, |_, _| None);
    assert_eq!((asked.len(), h.is_up(A)), (3, true), "{asked:?}");
    let asked = live(&mut h, 9999, |_, _| None);
    assert!(!h.is_up(A) && h.is_up(B));
    assert_eq!(asked, [(4500, 0), (5500, 0), (6500, 0), (7500, 0), (8500, 0), (9500, 0)], "once a second");
    // Back.
    live(&mut h, 10_500, |_, _| Some(true));
    assert!(h.is_up(A));
    live(&mut h, 20_000, |_, _| None);
    assert_eq!(h.due(), None);
}

#[test]
fn a_backend_that_refuses_three_probes_in_a_row_is_down_and_single_refusals_are_forgiven() {
    let mut h = two();
    live(&mut h, 100, |_, _| Some(true));
    h.doubt(B, ms(1000));
    let asked = live(&mut h, 2000, |_, t| Some(t > 1060));
    assert_eq!(asked, [(1000, 1), (1050, 1), (1100, 1)]);
    assert!(h.is_up(B));
    h.doubt(B, ms(2000));
    let asked = live(&mut h, 2999, |_, _| Some(false));
    assert_eq!(asked, [(2000, 1), (2050, 1), (2100, 1)]);
    assert!(!h.is_up(B));
    h.doubt(B, ms(3000));
    assert_eq!(h.due(), Some(ms(3100)), "a client that fails does not make us ask one more often that is down");
}

#[test]
fn while_none_is_up_all_are_asked_four_times_a_second() {
    let mut h = two();
    let any = &[A, B].into_iter().collect();
    assert!(h.serves(Family::V4, any) && !h.serves(Family::V6, any));
    live(&mut h, 2900, |_, _| None);
    assert!(!h.is_up(A) && h.serves(Family::V4, any), "the last one is waited for longer");
    live(&mut h, 3000, |_, _| None);
    assert!(!h.serves(Family::V4, any), "known at start: {:?}", h.backends);
    let asked = live(&mut h, 5000, |_, _| None);
    assert!((16..=18).contains(&asked.len()), "{asked:?}");
    live(&mut h, 5250, |id, _| (id == B).then_some(true));
    assert!(h.serves(Family::V4, any) && h.is_up(B), "at once");
    assert!(!h.serves(Family::V4, &BackendSet::one(A)));
    assert!(h.serves(Family::V4, &BackendSet::one(B)));
}

#[test]
fn an_answer_that_takes_longer_than_we_wait_still_counts() {
    let mut h = two();
    live(&mut h, 4000, |_, _| None);
    assert!(!h.is_up(A));
    let mut isns = vec![];
    while isns.len() < 8 {
        let at = h.due().unwrap();
        isns.extend(h.next_probe(at).filter(|(id, _)| *id == A).map(|(_, isn)| isn));
    }
    isns.dedup();
    assert!((2..=3).contains(&isns.len()), "one SYN is repeated, and not for ever: {isns:?}");
    let last = *isns.last().unwrap();
    assert_eq!(h.probe_answer(Addr::v4([10, 0, 0, 1]), h.probe_port(A), last + 1), Some(A));
}

#[test]
fn where_dials_come_from_elsewhere_the_silence_of_one_that_probes_never_reached_says_nothing() {
    let mut h = two().with_foreign_dials(true);
    h.doubt(A, ms(0));
    live(&mut h, 10_000, |id, _| (id == B).then_some(true));
    assert!(h.is_up(A) && h.is_up(B));
    h.doubt(B, ms(10_000));
    live(&mut h, 20_000, |_, _| None);
    assert!(h.is_up(A) && !h.is_up(B), "this one did answer once");
}

#[test]
fn where_dials_come_from_elsewhere_a_reset_shows_that_probes_reach_nobody_behind_it() {
    let mut h = two().with_foreign_dials(true);
    live(&mut h, 10_000, |id, t| (id == B || t < 50).then_some(id == B));
    assert!(h.is_up(A) && h.is_up(B));
}

#[test]
fn a_probe_is_repeated_without_asking_for_congestion_notification() {
    let mut h = two();
    let mut asks = vec![];
    while asks.len() < 5 {
        let at = h.due().unwrap();
        asks.extend(h.next_probe(at).filter(|(id, _)| *id == A).map(|_| h.probe_asks_ecn(A)));
    }
    assert_eq!(asks, [true, false, false, false, true]);
}

#[test]
fn a_probe_that_was_not_sent_is_no_evidence() {
    let mut h = two();
    live(&mut h, 900, |_, _| Some(true));
    h.doubt(A, ms(1000));
    for _ in 0..50 {
        let at = h.due().unwrap();
        assert_eq!(h.next_probe(at).map(|(id, _)| id), Some(A));
        h.unsent(A, at);
    }
    assert!(h.is_up(A));
    assert!(h.due().unwrap() > ms(3400), "not in a tight loop");
}
