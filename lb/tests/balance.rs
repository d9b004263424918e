//! The other algorithms, and what holds for all.

mod common;

use common::OnePool;
use lb::balance::{ClassTurns, Turns};
use lb::{Algorithm, BackendId, BackendSet, Balancer, State};
use proptest::prelude::*;

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn round_robin_is_smooth() {
    let pool = OnePool::new(Algorithm::RoundRobin, &[5, 1, 1]).get();
    let mut balancer = Balancer::new(&pool);
    let order: Vec<u16> = (0..14).map(|_| balancer.pick(&pool, 0, 0, |_| true).unwrap().0).collect();
    // The sequence of nginx's own commit message: a a b a c a a.
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn least_conn_lets_equal_backends_take_turns() {
    let pool = OnePool::new(Algorithm::LeastConn, &[1, 1, 1]).get();
    let mut balancer = Balancer::new(&pool);
    // Nothing stays open: all are equal each time.
    let order: Vec<u16> = (0..6).map(|_| balancer.pick(&pool, 0, 0, |_| true).unwrap().0).collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn least_conn_fills_by_weight() {
    let world = OnePool::new(Algorithm::LeastConn, &[1, 2, 5]);
    let pool = world.get();
    let mut balancer = Balancer::new(&pool);
    for _ in 0..800 {
        let id = balancer.pick(&pool, 0, 0, |_| true).unwrap();
        world.opened(id);
    }
    let got: Vec<u32> = pool.members().iter().map(|m| pool.connections(m.id)).collect();
    assert_eq!(got, [100, 200, 500]);
    pool.members().iter().for_each(|m| world.closed(m.id));
    assert_eq!(pool.connections(BackendId(0)), 99);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// Against exact fractions: nobody eligible is less loaded than the chosen one.
    #[test]
    fn least_conn_is_least(
        members in proptest::collection::vec((0u16..6, 0u32..9, any::<bool>()), 1..12),
    ) {
        let weights: Vec<u16> = members.iter().map(|m| m.0).collect();
        let world = OnePool::new(Algorithm::LeastConn, &weights);
        for (i, m) in members.iter().enumerate() {
            (0..m.1).for_each(|_| world.opened(BackendId(i as u16)));
        }
        let pool = world.get();
        let mut balancer = Balancer::new(&pool);
        let got = balancer.pick(&pool, 0, 0, |b| members[b.index()].2);
        let load = |i: usize| f64::from(members[i].1 + 1) / f64::from(members[i].0);
        let may: Vec<usize> = (0..members.len()).filter(|&i| members[i].2 && members[i].0 > 0).collect();
        match got {
            None => prop_assert!(may.is_empty()),
            Some(id) => {
                prop_assert!(may.contains(&id.index()));
                prop_assert!(may.iter().all(|&i| load(id.index()) <= load(i) + 1e-9));
            }
        }
    }

    /// Every algorithm: an eligible backend that may take new flows, or none when there is none.
    #[test]
    fn only_eligible_backends_are_chosen(
        members in proptest::collection::vec((0u16..3, 0u8..3, any::<bool>()), 1..9),
        hash in any::<u64>(),
        entropy in any::<u64>(),
    ) {
        let weights: Vec<u16> = members.iter().map(|m| m.0).collect();
        let may = |i: usize| members[i].0 > 0 && members[i].1 == 0 && members[i].2;
        for algorithm in Algorithm::ALL {
            let pool = OnePool::new(algorithm, &weights).change(|pool| {
                for (backend, m) in pool.backends.iter_mut().zip(&members) {
                    backend.state = [State::Up, State::Draining, State::Down][usize::from(m.1)];
                }
            });
            let mut balancer = Balancer::new(&pool);
            for step in 0..4 {
                match balancer.pick(&pool, hash.wrapping_add(step), entropy ^ step, |b| members[b.index()].2) {
                    Some(id) => prop_assert!(may(id.index()), "{algorithm}"),
                    None => prop_assert!((0..members.len()).all(|i| !may(i)), "{algorithm}"),
                }
            }
        }
    }
}

#[test]
fn random_two_is_much_more_even_than_random() {
    let world = OnePool::new(Algorithm::RandomTwo, &[1; 50]);
    let pool = world.get();
    let mut balancer = Balancer::new(&pool);
    let mut seed = 5;
    for _ in 0..5000 {
        let id = balancer.pick(&pool, 0, splitmix(&mut seed), |_| true).unwrap();
        world.opened(id);
    }
    let most = pool.members().iter().map(|m| pool.connections(m.id)).max().unwrap();
    // Mean 100; purely random draws give about 124 at most, two choices about log log n more than the mean.
    assert!(most <= 105, "{most}");
}

#[test]
fn random_two_follows_weights() {
    let world = OnePool::new(Algorithm::RandomTwo, &[1, 4]);
    let pool = world.get();
    let mut balancer = Balancer::new(&pool);
    let mut seed = 6;
    for _ in 0..1000 {
        let id = balancer.pick(&pool, 0, splitmix(&mut seed), |_| true).unwrap();
        world.opened(id);
    }
    assert!((180..=220).contains(&pool.connections(BackendId(0))), "{}", pool.connections(BackendId(0)));
}

#[test]
fn among_servers_that_share_keys_a_draining_one_is_the_last_resort() {
    let mut world = OnePool::new(Algorithm::LeastConn, &[1, 1, 1]);
    let mut balancer = Balancer::new(&world.get());
    let set: BackendSet = [BackendId(0), BackendId(1)].into_iter().collect();
    let pool = world.set_state(0, State::Draining);
    assert_eq!(balancer.pick_among(&pool, &set, 1, 2, |_| true), Some(BackendId(1)));
    let pool = world.set_state(1, State::Down);
    assert_eq!(balancer.pick_among(&pool, &set, 1, 2, |_| true), Some(BackendId(0)));
    let pool = world.set_state(0, State::Down);
    assert_eq!(balancer.pick_among(&pool, &set, 1, 2, |_| true), None);
}

/// One backend leaves and another comes: who stays goes on with the credit it had, as if nothing had been.
#[test]
fn round_robin_goes_on_when_its_pool_changes() {
    let mut world = OnePool::new(Algorithm::RoundRobin, &[3, 1, 1]);
    let mut pool = world.get();
    let mut balancer = Balancer::new(&pool);
    let pick = |balancer: &mut Balancer, pool: &lb::Pool| balancer.pick(pool, 0, 0, |_| true).unwrap().0;
    // a b a c a: after two, b has had its turn.
    assert_eq!([pick(&mut balancer, &pool), pick(&mut balancer, &pool)], [0, 1]);
    pool = world.change(|pool| {
        pool.backends.remove(2);
        pool.backends.reverse();
        pool.backends.push(lb::MemberSpec::new("new", "10.1.0.9:443".parse().unwrap()));
    });
    balancer.follow(&pool);
    let order: Vec<u16> = (0..5).map(|_| pick(&mut balancer, &pool)).collect();
    assert_eq!(order.iter().filter(|&&id| id == 0).count(), 3);
    assert_eq!(order[4], 1, "b waits for its next turn: {order:?}");
}

/// Close together, or anywhere.
fn id() -> impl Strategy<Value = u16> {
    prop_oneof![0u16..4100, 3000u16..3130, 60u16..70]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    /// A set of backends is a set.
    #[test]
    fn backend_sets_equal_hash_sets(ops in proptest::collection::vec((any::<bool>(), id()), 0..200)) {
        let mut set = BackendSet::EMPTY;
        let mut model = std::collections::BTreeSet::new();
        for (add, id) in ops {
            if add {
                prop_assert_eq!(set.insert(BackendId(id)), id < 4096 && model.insert(id));
            } else {
                prop_assert_eq!(set.remove(BackendId(id)), model.remove(&id));
            }
        }
        prop_assert_eq!(set.iter().map(|b| b.0).collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(set.len(), model.len());
        let single = (model.len() == 1).then(|| BackendId(*model.first().unwrap()));
        prop_assert_eq!(set.single(), single);
        prop_assert_eq!(set.is_empty(), model.is_empty());
        prop_assert!((0..4100).all(|id| set.contains(BackendId(id)) == model.contains(&id)));
        prop_assert_eq!(set, model.iter().map(|&id| BackendId(id)).collect());
    }

    /// Of two sets, too.
    #[test]
    fn backend_sets_meet_and_unite_as_hash_sets_do(
        one in proptest::collection::btree_set(id(), 0..6),
        two in proptest::collection::btree_set(id(), 0..6),
        near in any::<bool>(),
    ) {
        // Half of the time all in one place.
        let shape = |ids: std::collections::BTreeSet<u16>| -> std::collections::BTreeSet<u16> {
            ids.into_iter().map(|id| if near { id % 150 } else { id % 4096 }).collect()
        };
        let (one, two) = (shape(one), shape(two));
        let set = |ids: &std::collections::BTreeSet<u16>| -> BackendSet { ids.iter().map(|&id| BackendId(id)).collect() };
        let (a, b) = (set(&one), set(&two));
        prop_assert_eq!(a.union(&b), set(&one.union(&two).copied().collect()));
        prop_assert_eq!(a.intersects(&b), !one.is_disjoint(&two));
        prop_assert_eq!(a == b, one == two);
        prop_assert_eq!(a.filter(|id| id.0 % 2 == 0), set(&one.iter().copied().filter(|id| id % 2 == 0).collect()));
    }
}

/// nginx's own loop: all gain, the first of the richest pays.
struct Naive(Vec<(i64, i64)>);

impl Naive {
    fn pick(&mut self, may: impl Fn(usize) -> bool) -> Option<usize> {
        let of: Vec<usize> = (0..self.0.len()).filter(|&i| self.0[i].0 > 0 && may(i)).collect();
        of.iter().for_each(|&i| self.0[i].1 += self.0[i].0);
        let total: i64 = of.iter().map(|&i| self.0[i].0).sum();
        let richest = of.iter().copied().max_by_key(|&i| (self.0[i].1, core::cmp::Reverse(i)))?;
        self.0[richest].1 -= total;
        Some(richest)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    /// Though it does not look at every backend.
    #[test]
    fn round_robin_equals_a_walk_over_all_backends(weights in proptest::collection::vec(0u16..6, 1..60)) {
        let pool = OnePool::new(Algorithm::RoundRobin, &weights).get();
        let mut balancer = Balancer::new(&pool);
        let mut naive = Naive(weights.iter().map(|&w| (i64::from(w), 0)).collect());
        for step in 0..3 * weights.iter().map(|&w| usize::from(w)).sum::<usize>() + 1 {
            let got = balancer.pick(&pool, 0, 0, |_| true).map(BackendId::index);
            prop_assert_eq!(got, naive.pick(|_| true), "step {}", step);
        }
    }

    /// Whoever goes on from what another process has written chooses as that one would have.
    #[test]
    fn turns_go_on_in_another_process(
        members in proptest::collection::vec((0u16..4, any::<bool>()), 1..40),
        steps in proptest::collection::vec(any::<u8>(), 0..120),
        least in any::<bool>(),
    ) {
        let weights: Vec<u16> = members.iter().map(|m| m.0).collect();
        let world = OnePool::new(if least { Algorithm::LeastConn } else { Algorithm::RoundRobin }, &weights);
        let pool = world.get();
        let mut before = Balancer::new(&pool);
        let step = |balancer: &mut Balancer, step: u8| {
            // Some may not be chosen now and then, and now and then it is among a few.
            let may = |b: BackendId| !step.is_multiple_of(3) || members[b.index()].1;
            let few: BackendSet = (0..weights.len() as u16).filter(|n| n % 5 == u16::from(step) % 5).map(BackendId).collect();
            match step % 7 {
                0 => balancer.pick_among(&pool, &few, 0, 0, may),
                _ => balancer.pick(&pool, 0, 0, may),
            }
        };
        for &n in &steps {
            step(&mut before, n);
        }
        let mut after = Balancer::new(&pool);
        after.go_on(&pool, &before.turns(&pool).unwrap());
        for n in (0..100).chain(steps) {
            prop_assert_eq!(step(&mut before, n), step(&mut after, n));
        }
    }

    /// Whatever the other one says, nobody is chosen who may not be, and somebody is.
    #[test]
    fn turns_that_cannot_be_harm_nobody(
        weights in proptest::collection::vec(0u16..4, 1..12),
        classes in proptest::collection::vec((any::<i64>(), any::<u16>(), proptest::collection::vec(0u16..20, 0..9)), 0..6),
        among in proptest::collection::vec((0u16..5000, any::<i64>()), 0..9),
        last in any::<[Option<u16>; 2]>(),
    ) {
        let ids = |ids: &[u16]| ids.iter().map(|&id| BackendId(id)).collect::<Vec<_>>();
        let class = |(credit, chosen, turns): (i64, u16, Vec<u16>)| {
            let (turns, had) = turns.split_at(turns.len() / 2);
            ClassTurns { credit, chosen, turns: ids(turns), had: ids(had) }
        };
        let classes = classes.into_iter().map(class).collect();
        let among = among.into_iter().map(|(id, credit)| (BackendId(id), credit)).collect();
        let least = Turns::LeastConn(last.map(|id| id.map(BackendId)));
        for (algorithm, turns) in
            [(Algorithm::RoundRobin, Turns::RoundRobin { classes, among }), (Algorithm::LeastConn, least)]
        {
            let pool = OnePool::new(algorithm, &weights).get();
            let mut balancer = Balancer::new(&pool);
            balancer.go_on(&pool, &turns);
            let all: BackendSet = (0..weights.len() as u16).map(BackendId).collect();
            for n in 0..50 {
                let got = if n % 3 == 0 {
                    balancer.pick_among(&pool, &all, 0, 0, |_| true)
                } else {
                    balancer.pick(&pool, 0, 0, |_| true)
                };
                let there = weights.iter().any(|weight| *weight > 0);
                prop_assert_eq!(got.is_some_and(|id| weights[id.index()] > 0), there);
            }
        }
    }

    /// While some may not be chosen, the others have their shares by weight; and when they may again, everybody has.
    #[test]
    fn round_robin_is_fair_among_those_that_may_be_chosen(
        members in proptest::collection::vec((1u16..5, any::<bool>()), 2..40),
        first in any::<bool>(),
    ) {
        let weights: Vec<u16> = members.iter().map(|m| m.0).collect();
        let pool = OnePool::new(Algorithm::RoundRobin, &weights).get();
        let mut balancer = Balancer::new(&pool);
        for some in [first, !first] {
            let may = |i: usize| !some || members[i].1;
            let total: usize = (0..members.len()).filter(|&i| may(i)).map(|i| usize::from(weights[i])).sum();
            let mut got = vec![0usize; members.len()];
            // Two rounds to get used to it.
            for step in 0..14 * total {
                let id = balancer.pick(&pool, 0, 0, |b| may(b.index())).unwrap();
                prop_assert!(may(id.index()));
                got[id.index()] += usize::from(step >= 4 * total);
            }
            for i in (0..members.len()).filter(|&i| may(i)) {
                let want = 10 * usize::from(weights[i]);
                prop_assert!(got[i].abs_diff(want) <= 2, "{}: {} of {}", i, got[i], want);
            }
        }
    }

    /// Of many, with flows that come and go, by other workers too.
    #[test]
    fn least_conn_is_least_of_hundreds(
        weights in proptest::collection::vec(0u16..4, 17..120),
        steps in proptest::collection::vec((any::<u16>(), 0u8..4, any::<u16>()), 1..200),
    ) {
        let world = OnePool::new(Algorithm::LeastConn, &weights);
        let pool = world.get();
        let mut balancers = [Balancer::new(&pool), Balancer::new(&pool)];
        let mut open: Vec<BackendId> = vec![];
        for (draw, what, tried) in steps {
            if what == 0 && !open.is_empty() {
                // Several at once, as when a server restarts.
                let id = open[usize::from(draw) % open.len()];
                open.iter().filter(|&&b| b == id).for_each(|&b| world.closed(b));
                open.retain(|&b| b != id);
                continue;
            }
            let may = |b: BackendId| b.0 % 7 != tried % 8;
            let load = |i: usize| f64::from(pool.connections(BackendId(i as u16)) + 1) / f64::from(weights[i]);
            let least = (0..weights.len())
                .filter(|&i| weights[i] > 0 && may(BackendId(i as u16)))
                .map(load)
                .min_by(f64::total_cmp);
            let got = balancers[usize::from(what % 2)].pick(&pool, 0, 0, may);
            prop_assert_eq!(got.is_some(), least.is_some());
            if let (Some(id), Some(least)) = (got, least) {
                prop_assert!(may(id) && load(id.index()) <= least + 1e-9, "{:?}: {} > {}", id, load(id.index()), least);
                (0..draw % 4 + 1).for_each(|_| {
                    world.opened(id);
                    open.push(id);
                });
            }
        }
    }

    /// Among a few that share a session, too, and they take turns when they are equal.
    #[test]
    fn least_conn_among_a_few_is_least(loads in proptest::collection::vec(0u8..3, 2..30), few in any::<u32>()) {
        let world = OnePool::new(Algorithm::LeastConn, &vec![1; loads.len()]);
        loads.iter().enumerate().for_each(|(i, n)| (0..*n).for_each(|_| world.opened(BackendId(i as u16))));
        let pool = world.get();
        let set: BackendSet = (0..loads.len() as u16).filter(|i| few >> i & 1 == 1).map(BackendId).collect();
        let least: Vec<u16> = {
            let min = set.iter().map(|b| loads[b.index()]).min();
            set.iter().filter(|b| Some(loads[b.index()]) == min).map(|b| b.0).collect()
        };
        let mut balancer = Balancer::new(&pool);
        let order: Vec<u16> = least.iter().map(|_| balancer.pick_among(&pool, &set, 0, 0, |_| true).unwrap().0).collect();
        prop_assert_eq!(order, least);
    }
}
