//! The other algorithms, and what holds for all.

use lb::{Algorithm, Backend, BackendId, BackendSet, Balancer, Pool, PoolError, State};
use proptest::prelude::*;

fn pool(weights: &[u16]) -> Pool {
    Pool::new(weights.iter().enumerate().map(|(i, &w)| Backend::new(format!("s{i}")).weight(w)).collect()).unwrap()
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn round_robin_is_smooth() {
    let pool = pool(&[5, 1, 1]);
    let mut balancer = Balancer::new(Algorithm::RoundRobin, &pool);
    let order: Vec<u16> = (0..14).map(|_| balancer.pick(&pool, 0, 0, |_| true).unwrap().0).collect();
    // The sequence of nginx's own commit message: a a b a c a a.
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn least_conn_lets_equal_backends_take_turns() {
    let pool = pool(&[1, 1, 1]);
    let mut balancer = Balancer::new(Algorithm::LeastConn, &pool);
    // Nothing stays open: all are equal each time.
    let order: Vec<u16> = (0..6).map(|_| balancer.pick(&pool, 0, 0, |_| true).unwrap().0).collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn least_conn_fills_by_weight() {
    let pool = pool(&[1, 2, 5]);
    let mut balancer = Balancer::new(Algorithm::LeastConn, &pool);
    for _ in 0..800 {
        let id = balancer.pick(&pool, 0, 0, |_| true).unwrap();
        pool.opened(id);
    }
    let got: Vec<u32> = pool.ids().map(|id| pool.connections(id)).collect();
    assert_eq!(got, [100, 200, 500]);
    pool.ids().for_each(|id| pool.closed(id));
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
        let pool = pool(&weights);
        for (i, m) in members.iter().enumerate() {
            (0..m.1).for_each(|_| pool.opened(BackendId(i as u16)));
        }
        let mut balancer = Balancer::new(Algorithm::LeastConn, &pool);
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
        let pool = pool(&weights);
        for (i, m) in members.iter().enumerate() {
            let state = [State::Up, State::Draining, State::Down][usize::from(m.1)];
            pool.set_state(BackendId(i as u16), state).unwrap();
        }
        let may = |i: usize| members[i].0 > 0 && members[i].1 == 0 && members[i].2;
        for algorithm in Algorithm::ALL {
            let mut balancer = Balancer::new(algorithm, &pool);
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
    let pool = pool(&[1; 50]);
    let mut balancer = Balancer::new(Algorithm::RandomTwo, &pool);
    let mut seed = 5;
    for _ in 0..5000 {
        let id = balancer.pick(&pool, 0, splitmix(&mut seed), |_| true).unwrap();
        pool.opened(id);
    }
    let most = pool.ids().map(|id| pool.connections(id)).max().unwrap();
    // Mean 100; purely random draws give about 124 at most, two choices about log log n more than the mean.
    assert!(most <= 105, "{most}");
}

#[test]
fn random_two_follows_weights() {
    let pool = pool(&[1, 4]);
    let mut balancer = Balancer::new(Algorithm::RandomTwo, &pool);
    let mut seed = 6;
    for _ in 0..1000 {
        let id = balancer.pick(&pool, 0, splitmix(&mut seed), |_| true).unwrap();
        pool.opened(id);
    }
    assert!((180..=220).contains(&pool.connections(BackendId(0))), "{}", pool.connections(BackendId(0)));
}

#[test]
fn among_servers_that_share_keys_a_draining_one_is_the_last_resort() {
    let pool = pool(&[1, 1, 1]);
    let mut balancer = Balancer::new(Algorithm::LeastConn, &pool);
    let set: BackendSet = [BackendId(0), BackendId(1)].into_iter().collect();
    pool.set_state(BackendId(0), State::Draining).unwrap();
    assert_eq!(balancer.pick_among(&pool, &set, 1, 2, |_| true), Some(BackendId(1)));
    pool.set_state(BackendId(1), State::Down).unwrap();
    assert_eq!(balancer.pick_among(&pool, &set, 1, 2, |_| true), Some(BackendId(0)));
    pool.set_state(BackendId(0), State::Down).unwrap();
    assert_eq!(balancer.pick_among(&pool, &set, 1, 2, |_| true), None);
}

#[test]
fn bad_pools_are_refused_with_a_reason() {
    assert_eq!(Pool::new(vec![]).unwrap_err(), PoolError::Empty);
    let twice = Pool::new(vec![Backend::new("a"), Backend::new("a")]).unwrap_err();
    assert_eq!(twice.to_string(), "backend a is given twice");
    let heavy = Pool::new(vec![Backend::new("a").weight(1001)]).unwrap_err();
    assert_eq!(heavy.to_string(), "backend a has weight 1001, at most 1000 is possible");
    let many = (0..1025).map(|i| Backend::new(i.to_string())).collect();
    assert_eq!(Pool::new(many).unwrap_err(), PoolError::TooMany(1025));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// A set of backends is a set.
    #[test]
    fn backend_sets_equal_hash_sets(ops in proptest::collection::vec((any::<bool>(), 0u16..1030), 0..200)) {
        let mut set = BackendSet::EMPTY;
        let mut model = std::collections::BTreeSet::new();
        for (add, id) in ops {
            if add {
                prop_assert_eq!(set.insert(BackendId(id)), id < 1024 && model.insert(id));
            } else {
                prop_assert_eq!(set.remove(BackendId(id)), model.remove(&id));
            }
        }
        prop_assert_eq!(set.iter().map(|b| b.0).collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(set.len(), model.len());
        let single = (model.len() == 1).then(|| BackendId(*model.first().unwrap()));
        prop_assert_eq!(set.single(), single);
    }
}
