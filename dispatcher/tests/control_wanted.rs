//! Differences between configurations, and overrides laid over them, for any of both.

use dispatcher::control::diff::services;
use dispatcher::control::overrides::lay::{lay, put_over};
use dispatcher::control::overrides::saved::{from_json, to_json};
use dispatcher::control::overrides::{Order, Overrides, What};
use lb::admission::{ClassSpec, Classes, Share};
use lb::service::AcceptProxy;
use lb::{
    Algorithm, BackendLimits, HashOn, MemberSpec, Policy, PoolSpec, ResumeFallback, RouteSpec, ServiceKind,
    ServiceSpec, State, Wanted,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::net::SocketAddr;
use std::time::Duration;

const POOLS: [&str; 3] = ["a", "b", "c"];
const BACKENDS: [&str; 4] = ["w", "x", "y", "z"];
const STATES: [State; 3] = [State::Up, State::Draining, State::Down];

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 443))
}

/// Some of them, in any order.
fn some<T: Clone + std::fmt::Debug + 'static>(all: Vec<T>, least: usize) -> impl Strategy<Value = Vec<T>> {
    let most = all.len();
    subsequence(all, least..=most).prop_shuffle()
}

fn pools() -> impl Strategy<Value = Vec<PoolSpec>> {
    // Of a backend: which of two addresses, and its state, the same in all pools.
    let kinds = vec((0u8..2, select(&STATES[..])), BACKENDS.len());
    let members = vec((some((0..BACKENDS.len()).collect(), 1), vec(0u16..3, BACKENDS.len())), POOLS.len());
    let balance = (
        select(&[Algorithm::Maglev, Algorithm::LeastConn][..]),
        select(&[HashOn::SourceIp, HashOn::Tuple][..]),
        select(&[ResumeFallback::SourceIp, ResumeFallback::Balance][..]),
    );
    (kinds, members, some((0..POOLS.len()).collect::<Vec<_>>(), POOLS.len()), balance).prop_map(
        |(kinds, members, order, (balance, hash_on, resume_fallback))| {
            let one = |p: usize| {
                let (who, weights) = &members[p];
                let member = |b: &usize| MemberSpec {
                    weight: weights[*b],
                    state: kinds[*b].1,
                    limits: BackendLimits { max_connections: Some(u32::from(kinds[*b].0) + 1), ..Default::default() },
                    ..MemberSpec::new(BACKENDS[*b], at(10 * *b as u8 + kinds[*b].0))
                };
                let backends = who.iter().map(member).collect();
                PoolSpec { name: POOLS[p].into(), balance, hash_on, resume_fallback, backends, ..PoolSpec::default() }
            };
            order.into_iter().map(one).collect()
        },
    )
}

fn route() -> impl Strategy<Value = RouteSpec> {
    (some(vec!["*.n", "o.n", "p.n"], 1), some(vec!["h2", "h3"], 0), select(&POOLS[..])).prop_map(|(sni, alpn, pool)| {
        RouteSpec {
            sni: sni.iter().map(|name| name.parse().unwrap()).collect(),
            alpn: alpn.iter().map(|p| p.as_bytes().to_vec()).collect(),
            pool: pool.into(),
        }
    })
}

fn classes(n: u16) -> Classes {
    let rest = ClassSpec { share: Share::Weight(n), ..ClassSpec::new("rest") };
    Classes::new(vec![ClassSpec { queue: 9, ..ClassSpec::new("own") }, rest]).unwrap()
}

fn policy() -> impl Strategy<Value = Policy> {
    (any::<bool>(), any::<bool>(), 1u64..3, any::<bool>(), any::<bool>()).prop_map(|(a, p, t, tls, ech)| Policy {
        affinity: a,
        cookie: (a && tls).then(|| "SID".parse().unwrap()),
        proxy_protocol: p,
        accept_proxy: AcceptProxy {
            from: if a { vec!["10.0.0.0/8".parse().unwrap()] } else { vec![] },
            pass: p && ech,
        },
        hello_timeout: Duration::from_secs(t),
        kind: if tls { ServiceKind::Tls } else { ServiceKind::Auto },
        servers_have_ech: ech,
        spill_after: (!(tls && ech)).then_some(Duration::from_secs(t)),
        classes: if a == p { classes(t as u16) } else { Classes::default() },
    })
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let service = (some(vec![1u8, 2, 3], 1), select(&POOLS[..]), vec(route(), 0..3), policy());
    let names = some(vec![0usize, 1, 2], 0);
    (vec(service, 3), names, pools()).prop_map(|(specs, names, pools)| {
        let one = |s: usize| {
            let (listen, pool, routes, policy) = specs[s].clone();
            let listen = listen.iter().map(|n| at(100 + 10 * s as u8 + n)).collect();
            ServiceSpec { name: format!("s{s}"), listen, pool: pool.into(), routes, policy }
        };
        Wanted { services: names.into_iter().map(one).collect(), pools }
    })
}

fn order() -> impl Strategy<Value = Order> {
    let name = || select(&["w", "x", "y", "z", "n"][..]).prop_map(String::from);
    let add = (select(&POOLS[..]), name(), 0u8..60, 0u16..3).prop_map(|(pool, name, last, weight)| What::Add {
        pool: pool.into(),
        backend: MemberSpec { weight, ..MemberSpec::new(name, at(last)) }.into(),
    });
    let what = prop_oneof![
        (name(), select(&STATES[..])).prop_map(|(name, state)| What::State(name, state)),
        (name(), 0u16..3).prop_map(|(name, weight)| What::Weight(name, weight)),
        add,
        (name(), any::<bool>()).prop_map(|(backend, now)| What::Remove { backend, now }),
    ];
    (what, proptest::option::of(1u64..100)).prop_map(|(what, time)| Order {
        who: "uid 0".into(),
        what,
        time: time.map(Duration::from_secs),
        why: None,
    })
}

/// Those that are followed, one a second.
fn overrides(file: &Wanted, orders: &[Order]) -> Overrides {
    orders.iter().zip(0..).fold(Overrides::default(), |all, (order, now)| {
        match all.order(file, order, now, |wanted, _| wanted.clone()) {
            Ok(ordered) => ordered.overrides,
            Err(_) => all,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn there_is_no_difference_exactly_where_all_is_equal(a in wanted(), b in wanted(), change in 0usize..4) {
        prop_assert_eq!(services(&a, &a), vec![]);
        // Of two at random hardly anything is equal: so also of two that differ in one part.
        let mut near = a.clone();
        match change {
            0 => near.services = b.services.clone(),
            1 => near.pools.iter_mut().zip(&b.pools).for_each(|(to, from)| to.backends = from.backends.clone()),
            2 => near.services.iter_mut().zip(&b.services).for_each(|(to, from)| to.routes = from.routes.clone()),
            _ => near.pools.rotate_left(1),
        }
        for other in [&b, &near] {
            prop_assert_eq!(services(&a, other).is_empty(), a == *other, "{:?}\n{:?}", a, other);
            prop_assert_eq!(services(other, &a).is_empty(), a == *other);
        }
    }

    #[test]
    fn overrides_laid_twice_are_as_laid_once(file in wanted(), orders in vec(order(), 0..12)) {
        let all = overrides(&file, &orders);
        let laid = lay(&file, &all, 12);
        let mut again = laid.wanted.clone();
        put_over(&mut again, &laid.kept);
        prop_assert_eq!(&again, &laid.wanted);
        // What stays, stays; and over the file it came from nothing ends but by its time.
        prop_assert_eq!(lay(&file, &laid.kept, 12), lay(&file, &laid.kept, 12));
        prop_assert!(laid.over.iter().all(|(one, why)| {
            one.until.is_some_and(|until| until <= 12) || why.contains("any more")
        }), "{:?}", laid.over);
        prop_assert_eq!(from_json(&to_json(&all)), Ok(all));
    }

    #[test]
    fn each_order_that_is_followed_has_its_way(file in wanted(), orders in vec(order(), 1..12)) {
        let mut all = Overrides::default();
        for order in &orders {
            let Ok(ordered) = all.order(&file, order, 0, |wanted, _| wanted.clone()) else { continue };
            all = ordered.overrides;
            let wanted = lay(&file, &all, 0).wanted;
            let members = |name: &str| -> Vec<MemberSpec> {
                wanted.pools.iter().flat_map(|p| &p.backends).filter(|b| b.name == name).cloned().collect()
            };
            match &order.what {
                What::State(name, state) => prop_assert!(members(name).iter().all(|b| b.state == *state)),
                What::Weight(name, weight) => prop_assert!(members(name).iter().all(|b| b.weight == *weight)),
                What::Add { pool, backend } => {
                    let pool = wanted.pools.iter().find(|p| p.name == *pool).unwrap();
                    prop_assert!(pool.backends.iter().any(|b| b.name == backend.name && b.addr == backend.addr));
                }
                What::Remove { backend, .. } => prop_assert_eq!(members(backend), vec![]),
            }
        }
    }

    #[test]
    fn after_all_their_times_the_file_holds(file in wanted(), orders in vec(order(), 0..12)) {
        let orders: Vec<_> =
            orders.into_iter().map(|o| Order { time: o.time.or(Some(Duration::from_secs(1))), ..o }).collect();
        let all = overrides(&file, &orders);
        let removed = all.iter().any(|o| o.until.is_none());
        let late = lay(&file, &all, 1000);
        // Removals have no time.
        prop_assert_eq!(late.kept.iter().len() > 0, removed);
        prop_assert!(removed || late.wanted == file);
    }
}
