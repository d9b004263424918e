//! Servers with limits, and three times more clients than they may take: what must hold is in [`sim::rush`]. `tools rush` runs a million.

use sim::rush;

fn rush_with(workers: usize) {
    let seen = rush::run(1, workers, 12_000);
    println!("{seen:?}");
    assert!(seen.unfairness() <= 2.0, "{:?}", seen.shares);
    // A quarter of the servers is kept for it, though its weight is an eleventh of all.
    let all: u64 = seen.shares.iter().sum();
    assert!(seen.shares[3] * 100 >= all * 24, "{:?}", seen.shares);
    let asked = seen.asked;
    assert!(asked.timed_out > 100 && asked.demoted > 100 && asked.abandoned > 10 && seen.changes > 20, "{seen:?}");
    assert!(seen.served > 2000 && seen.turned_away > 2000, "{seen:?}");
}

#[test]
fn one_worker_keeps_limits_and_shares_in_a_rush() {
    rush_with(1);
}

#[test]
fn two_workers_keep_limits_and_shares_in_a_rush() {
    rush_with(2);
}

#[test]
fn four_workers_keep_limits_and_shares_in_a_rush() {
    rush_with(4);
}
