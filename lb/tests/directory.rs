//! Directories over any sequence of changes, against plain models; routing against a naive reading of the rules.

use lb::directory::Backend;
use lb::{
    BackendId, Directory, FaultKind, Leaving, MAX_BACKENDS, MemberSpec, Policy, PoolSpec, RouteSpec, ServiceSpec,
    SniPattern, State, Wanted,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

fn pool(name: &str, members: &[(&str, u16)]) -> PoolSpec {
    let backends =
        members.iter().map(|&(name, port)| MemberSpec::new(name, SocketAddr::from(([10, 1, 0, 1], port)))).collect();
    PoolSpec { name: name.into(), backends, ..PoolSpec::default() }
}

fn service(name: &str, port: u16, pool: &str, routes: Vec<RouteSpec>) -> ServiceSpec {
    let listen = vec![SocketAddr::from(([10, 0, 0, 1], port))];
    ServiceSpec { name: name.into(), listen, pool: pool.into(), routes, policy: Policy::default() }
}

fn route(sni: &[&str], alpn: &[&str], pool: &str) -> RouteSpec {
    RouteSpec {
        sni: sni.iter().map(|s| s.parse().unwrap()).collect(),
        alpn: alpn.iter().map(|p| p.as_bytes().to_vec()).collect(),
        pool: pool.into(),
    }
}

fn routed(directory: &Directory, port: u16, sni: Option<&str>, alpn: &[&str]) -> String {
    let service = directory.service_at(SocketAddr::from(([10, 0, 0, 1], port))).unwrap();
    let pool = directory.pool_for(service, sni.map(str::as_bytes), alpn.iter().map(|p| p.as_bytes())).unwrap();
    directory.pool_name(pool).unwrap().to_owned()
}

#[test]
fn exact_names_go_before_wildcards_before_protocols_before_the_services_own_pool() {
    let pools = ["own", "h2", "wild", "exact", "both", "late"];
    let pools = pools.iter().enumerate().map(|(i, name)| pool(name, &[(name, i as u16 + 1)])).collect();
    let routes = vec![
        route(&[], &["h2"], "h2"),
        route(&["*.example.com"], &[], "wild"),
        route(&["api.example.com"], &["h2", "h3"], "both"),
        route(&["api.example.com", "www.example.com"], &[], "exact"),
        route(&["www.example.com", "*.example.com"], &[], "late"),
    ];
    let wanted = Wanted { services: vec![service("s", 443, "own", routes)], pools };
    let directory = Directory::next(None, &wanted, |_| true).unwrap();
    let to = |sni, alpn: &[&str]| routed(&directory, 443, sni, alpn);
    assert_eq!(to(Some("www.example.com"), &["h2"]), "exact");
    assert_eq!(to(Some("WWW.example.COM."), &[]), "exact");
    assert_eq!(to(Some("api.example.com"), &["http/1.1", "h2"]), "both");
    assert_eq!(to(Some("api.example.com"), &["http/1.1"]), "exact");
    assert_eq!(to(Some("shop.example.com"), &["h2"]), "wild");
    assert_eq!(to(Some("a.shop.example.com"), &[]), "own");
    assert_eq!(to(Some("example.com"), &[]), "own");
    assert_eq!(to(Some(".example.com"), &[]), "own");
    assert_eq!(to(Some("example.com"), &["h2"]), "h2");
    assert_eq!(to(None, &["h2"]), "h2");
    assert_eq!(to(None, &[]), "own");
    assert_eq!(to(Some(&"x".repeat(16_000)), &[]), "own");
    let own = directory.services().next().unwrap();
    assert_eq!((own.pools().len(), own.backends().len()), (6, 6));
}

#[test]
fn a_backend_in_two_pools_is_one() {
    let wanted =
        Wanted { services: vec![], pools: vec![pool("a", &[("x", 1), ("y", 2)]), pool("b", &[("z", 3), ("x", 1)])] };
    let directory = Directory::next(None, &wanted, |_| true).unwrap();
    let members: Vec<Vec<u16>> = directory.pools().map(|p| p.members().iter().map(|m| m.id.0).collect()).collect();
    assert_eq!(members, [[0, 1], [2, 0]]);
    assert_eq!(directory.backends().count(), 3);
}

#[test]
fn a_new_address_is_a_new_backend_and_an_old_one_back_in_time_is_the_old() {
    let wanted = |members: &[(&str, u16)]| Wanted { services: vec![], pools: vec![pool("p", members)] };
    let first = Directory::next(None, &wanted(&[("a", 1), ("b", 2)]), |_| true).unwrap();
    let second = Directory::next(Some(&first), &wanted(&[("a", 7), ("b", 2)]), |_| true).unwrap();
    assert_eq!(second.find("a").map(|b| (b.id.0, b.addr.port())), Some((2, 7)));
    let old = second.backend(BackendId(0)).unwrap();
    assert_eq!((old.name.as_str(), old.addr.port(), old.leaving, old.state), ("a", 1, true, State::Draining));
    assert!(!second.pools().next().unwrap().backends().contains(BackendId(0)));
    // It comes back before it was found free: the same slot, and its rows hold again.
    let third = Directory::next(Some(&second), &wanted(&[("a", 1), ("b", 2)]), |_| true).unwrap();
    let back = third.find("a").unwrap();
    assert_eq!((back.id.0, back.generation, back.state), (0, 0, State::Up));
    // The one of slot 2 is leaving now; when it is free, another generation has its slot.
    let fourth = Directory::next(Some(&third), &wanted(&[("a", 1), ("b", 2), ("c", 3)]), |_| true).unwrap();
    assert_eq!(fourth.find("c").map(|b| (b.id.0, b.generation)), Some((2, 1)));
    assert_eq!(fourth.version(), 4);
}

#[test]
fn what_leaves_and_is_in_use_takes_room_and_says_so() {
    let wanted = |from: usize, n: usize| {
        let names: Vec<String> = (from..from + n).map(|i| format!("s{i}")).collect();
        let members: Vec<(&str, u16)> = names.iter().map(|n| (n.as_str(), 1)).collect();
        Wanted { services: vec![], pools: vec![pool("p", &members)] }
    };
    let first = Directory::next(None, &wanted(0, MAX_BACKENDS), |_| true).unwrap();
    let full = FaultKind::TooManyBackends { wanted: 10, leaving: MAX_BACKENDS };
    assert_eq!(Directory::next(Some(&first), &wanted(2 * MAX_BACKENDS, 10), |_| true).unwrap_err()[0].what, full);
    let second = Directory::next(Some(&first), &wanted(0, 10), |_| true).unwrap();
    assert!(Directory::next(Some(&second), &wanted(2 * MAX_BACKENDS, 10), |_| false).is_err());
    let third = Directory::next(Some(&second), &wanted(2 * MAX_BACKENDS, 10), |_| true).unwrap();
    assert_eq!(third.backends().count(), 20);
}

#[test]
fn listeners_that_leave_and_are_in_use_take_room_and_say_so() {
    use lb::service::MAX_LISTENERS;
    let wanted = |from: usize, n: usize| {
        let at = |i: usize| SocketAddr::from(([10, 0, (i >> 8) as u8, i as u8], 443));
        let listen = (from..from + n).map(at).collect();
        let service = ServiceSpec { listen, ..service("s", 443, "p", vec![]) };
        Wanted { services: vec![service], pools: vec![pool("p", &[("a", 1)])] }
    };
    let most = MAX_LISTENERS;
    let first = Directory::next(None, &wanted(0, most), |_| true).unwrap();
    let full = |wanted, leaving| FaultKind::TooManyListeners { wanted, leaving };
    assert_eq!(Directory::next(None, &wanted(0, most + 1), |_| true).unwrap_err()[0].what, full(most + 1, 0));
    assert_eq!(Directory::next(Some(&first), &wanted(most, 1), |_| true).unwrap_err()[0].what, full(1, most));
    let second = Directory::next(Some(&first), &wanted(0, 10), |_| true).unwrap();
    assert_eq!(Directory::next(Some(&second), &wanted(most, 1), |_| false).unwrap_err()[0].what, full(1, most));
    let third = Directory::next(Some(&second), &wanted(most, 1), |_| true).unwrap();
    assert_eq!((third.listeners().len(), third.leaving().count()), (11, 10));
}

#[test]
fn a_number_of_a_service_or_pool_that_has_gone_is_not_taken_for_its_successor() {
    let wanted = |n: usize| Wanted {
        services: vec![service(&format!("s{n}"), 443, &format!("p{n}"), vec![])],
        pools: vec![pool(&format!("p{n}"), &[("a", 1)])],
    };
    let mut directory = Directory::next(None, &wanted(0), |_| true).unwrap();
    let (service, pool) = (directory.services().next().unwrap().id(), directory.pools().next().unwrap().id());
    for n in 1..lb::service::MAX_SERVICES {
        directory = Directory::next(Some(&directory), &wanted(n), |_| true).unwrap();
        assert!(directory.service(service).is_none() && directory.pool(pool).is_none());
        assert_eq!((directory.service_name(service), directory.pool_name(pool)), (Some("s0"), Some("p0")));
    }
    // All numbers have been used: the longest vacant is used again, for another.
    directory = Directory::next(Some(&directory), &wanted(9999), |_| true).unwrap();
    let next = directory.services().next().unwrap().id();
    assert_eq!(next.index(), service.index());
    assert_ne!(next, service);
    assert_eq!((directory.service_name(service), directory.service_name(next)), (None, Some("s9999")));
}

#[test]
fn a_directory_with_faults_is_none() {
    let wanted = Wanted { services: vec![service("s", 443, "gone", vec![])], pools: vec![pool("p", &[])] };
    assert_eq!(Directory::next(None, &wanted, |_| true).unwrap_err(), wanted.faults());
}

/// A change: which of the backends are wanted, in which of two pools, at which port each, and which are free.
type Change = (u16, u16, [u8; 8], u16);

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    /// Whatever changes: who stays keeps its slot; a slot goes to another only when `free` said so of a holder that was
    /// already leaving; then its generation is another; no two have one slot; those that are wanted are just those in
    /// pools.
    #[test]
    fn slots_are_kept_and_never_taken_from_one_in_use(changes in proptest::collection::vec(any::<Change>(), 1..24)) {
        let mut directory: Option<Directory> = None;
        for (one, two, ports, free) in changes {
            let members = |mask: u16| -> Vec<(String, u16)> {
                (0..8).filter(|i| mask & 1 << i != 0).map(|i| (format!("s{i}"), u16::from(ports[i] % 3) + 1)).collect()
            };
            let named = |name, mask| {
                let members = members(mask);
                pool(name, &members.iter().map(|(n, p)| (n.as_str(), *p)).collect::<Vec<_>>())
            };
            let pools: Vec<PoolSpec> =
                [named("one", one), named("two", two)].into_iter().filter(|p| !p.backends.is_empty()).collect();
            let wanted = Wanted { services: vec![], pools };
            let is_free = |b: BackendId| free & 1 << (b.0 % 16) != 0;
            let says = |leaving: Leaving<'_>| matches!(leaving, Leaving::Backend(b) if is_free(b.id));
            let next = Directory::next(directory.as_ref(), &wanted, says).unwrap();
            let before: BTreeMap<u16, Backend> =
                directory.iter().flat_map(|d| d.backends().cloned()).map(|b| (b.id.0, b)).collect();
            let all: HashMap<(String, u16), bool> = members(one | two).into_iter().map(|m| (m, true)).collect();
            for now in next.backends() {
                let key = (now.name.clone(), now.addr.port());
                prop_assert_eq!(now.leaving, !all.contains_key(&key));
                match before.get(&now.id.0) {
                    Some(was) if (&was.name, was.addr) == (&now.name, now.addr) => {
                        prop_assert_eq!(was.generation, now.generation);
                    }
                    Some(was) => {
                        prop_assert!(was.leaving && is_free(was.id));
                        prop_assert!(now.generation > was.generation);
                    }
                    None => prop_assert!(!now.leaving),
                }
            }
            for was in before.values() {
                let wanted = all.contains_key(&(was.name.clone(), was.addr.port()));
                let there = next.backend(was.id).is_some_and(|now| (&now.name, now.addr) == (&was.name, was.addr));
                prop_assert!(there || (!wanted && was.leaving && is_free(was.id)), "{:?}", was);
            }
            prop_assert_eq!(next.backends().filter(|b| !b.leaving).count(), all.len());
            for pool in next.pools() {
                for member in pool.members() {
                    prop_assert!(!next.backend(member.id).unwrap().leaving);
                }
            }
            directory = Some(next);
        }
    }

    /// Listeners against a plain model: one that is wanted is there and its service's; one that is wanted no more is leaving for a version at
    /// least and until it is said to be free, and no longer; its counters are the same throughout, and new ones when it comes again later.
    #[test]
    fn listeners_leave_when_they_are_said_to_be_free_and_not_before(
        changes in proptest::collection::vec((any::<[u8; 6]>(), any::<u8>()), 1..40),
    ) {
        let pools = vec![pool("p", &[("a", 1)])];
        let mut directory: Option<Directory> = None;
        // By port: it is leaving, and its counters.
        let mut model: BTreeMap<u16, (bool, usize)> = BTreeMap::new();
        for (owners, free) in changes {
            let mut services: Vec<ServiceSpec> = (0..2).map(|s| service(&format!("s{s}"), 1, "p", vec![])).collect();
            services.iter_mut().for_each(|s| s.listen.clear());
            let at = |i: usize| SocketAddr::from(([10, 0, 0, 1], 100 + i as u16));
            for (i, owner) in owners.iter().enumerate().filter(|(_, owner)| **owner % 3 < 2) {
                services[usize::from(owner % 3)].listen.push(at(i));
            }
            services.retain(|s| !s.listen.is_empty());
            let wanted = Wanted { services, pools: pools.clone() };
            let is_free = |port: u16| free & 1 << (port - 100) != 0;
            let says = |leaving: Leaving<'_>| matches!(leaving, Leaving::Listener(l) if is_free(l.addr().port()));
            let next = Directory::next(directory.as_ref(), &wanted, says).unwrap();
            model.retain(|port, (leaving, _)| owners[usize::from(port - 100)] % 3 < 2 || !(*leaving && is_free(*port)));
            for (i, owner) in owners.iter().enumerate() {
                let port = at(i).port();
                let (there, counters) = (next.listener(at(i)), |l: &lb::Listener| std::sync::Arc::as_ptr(l.flows()) as usize);
                if owner % 3 < 2 {
                    let name = format!("s{}", owner % 3);
                    prop_assert_eq!(next.service_at(at(i)).and_then(|s| next.service_name(s)), Some(name.as_str()));
                    model.entry(port).or_insert((false, counters(there.unwrap()))).0 = false;
                } else {
                    prop_assert!(next.service_at(at(i)).is_none());
                    model.entry(port).and_modify(|(leaving, _)| *leaving = true);
                }
                let expected = model.get(&port).copied();
                prop_assert_eq!(there.map(|l| (l.is_leaving(), counters(l))), expected);
            }
            prop_assert_eq!(next.listeners().len(), model.len());
            let leaving = next.leaving().filter(|l| matches!(l, Leaving::Listener(_))).count();
            prop_assert_eq!(leaving, model.values().filter(|(leaving, _)| *leaving).count());
            directory = Some(next);
        }
    }

    /// Routing says what the rules say when they are read one by one.
    #[test]
    fn routing_equals_a_naive_reading(
        routes in proptest::collection::vec(
            (proptest::collection::vec((any::<bool>(), "[ab](\\.[ab]){0,2}"), 0..3), proptest::collection::vec("[xyz]", 0..3)),
            0..7,
        ),
        hellos in proptest::collection::vec(
            (proptest::option::of("[abAB]?(\\.[abAB]){0,3}\\.?"), proptest::collection::vec("[wxyz]", 0..4)), 1..20),
    ) {
        let routes: Vec<RouteSpec> = routes
            .into_iter()
            .filter(|(sni, alpn)| !(sni.is_empty() && alpn.is_empty()))
            .enumerate()
            .map(|(i, (sni, alpn))| RouteSpec {
                sni: sni
                    .into_iter()
                    .map(|(wild, name)| if wild { SniPattern::Wildcard(name) } else { SniPattern::Exact(name) })
                    .collect(),
                alpn: alpn.into_iter().map(String::into_bytes).collect(),
                pool: format!("p{i}"),
            })
            .collect();
        let mut pools: Vec<PoolSpec> = (0..routes.len()).map(|i| pool(&format!("p{i}"), &[("a", 1)])).collect();
        pools.push(pool("own", &[("a", 1)]));
        let wanted = Wanted { services: vec![service("s", 443, "own", routes.clone())], pools };
        let directory = Directory::next(None, &wanted, |_| true).unwrap();
        for (sni, alpn) in hellos {
            let name = sni.as_ref().map(|n| n.to_lowercase());
            let name = name.as_deref().map(|n| n.strip_suffix('.').unwrap_or(n));
            let alpn_fits = |r: &RouteSpec| r.alpn.is_empty() || r.alpn.iter().any(|p| alpn.iter().any(|a| a.as_bytes() == p));
            let exact = |r: &RouteSpec| {
                name.is_some_and(|n| r.sni.iter().any(|s| matches!(s, SniPattern::Exact(e) if e == n)))
            };
            let wildcard = |r: &RouteSpec| {
                name.is_some_and(|n| r.sni.iter().any(|s| match s {
                    SniPattern::Exact(_) => false,
                    SniPattern::Wildcard(rest) => {
                        let labels: Vec<&str> = n.split('.').collect();
                        !labels[0].is_empty() && labels.len() > 1 && labels[1..].join(".") == *rest
                    }
                }))
            };
            let protocol = |r: &RouteSpec| r.sni.is_empty();
            let rules: [&dyn Fn(&RouteSpec) -> bool; 3] = [&exact, &wildcard, &protocol];
            let expected = rules.iter().find_map(|rule| routes.iter().find(|r| rule(r) && alpn_fits(r)));
            let expected = expected.map_or("own", |r| r.pool.as_str());
            let alpn: Vec<&str> = alpn.iter().map(String::as_str).collect();
            prop_assert_eq!(routed(&directory, 443, sni.as_deref(), &alpn), expected, "{:?} {:?}", sni, alpn);
        }
    }
}
