//! What somebody wants, and all that can be wrong with it.

use lb::{
    Agent, Asked, Check, CheckKind, Fault, FaultKind, MAX_BACKENDS, MemberSpec, Place, Policy, PoolSpec, RouteSpec,
    ServiceSpec, SniPattern, State, Wanted,
};

fn pool(name: &str, backends: &[(&str, &str)]) -> PoolSpec {
    let backends = backends.iter().map(|(name, addr)| MemberSpec::new(*name, addr.parse().unwrap())).collect();
    PoolSpec { name: name.into(), backends, ..PoolSpec::default() }
}

fn service(name: &str, listen: &[&str], pool: &str) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        listen: listen.iter().map(|a| a.parse().unwrap()).collect(),
        pool: pool.into(),
        routes: vec![],
        policy: Policy::default(),
    }
}

#[test]
fn what_flags_say_is_one_service_and_one_pool_without_fault() {
    let wanted =
        Wanted::single(vec!["10.0.0.1:443".parse().unwrap()], Policy::default(), pool("", &[("a", "10.1.0.1:443")]));
    assert_eq!((wanted.services[0].name.as_str(), wanted.pools[0].name.as_str()), ("default", "default"));
    assert_eq!(wanted.faults(), []);
}

#[test]
fn all_faults_are_told_at_once_and_where_they_are() {
    let mut shop = service("shop", &["10.0.0.1:443", "10.0.0.1:0", "10.0.0.1:443"], "nowhere");
    shop.routes = vec![
        RouteSpec { pool: "web".into(), ..RouteSpec::default() },
        RouteSpec { alpn: vec![vec![]], pool: "gone".into(), ..RouteSpec::default() },
    ];
    let mut other = service("shop", &["[::ffff:10.0.0.1]:443"], "web");
    other.routes = vec![RouteSpec { alpn: (0..65).map(|n| vec![n]).collect(), pool: "web".into(), sni: vec![] }];
    let mut odd =
        pool("web", &[("a", "10.1.0.2:443"), ("d", "10.1.0.4:0"), ("d", "10.1.0.4:1"), ("b", "10.1.0.3:443")]);
    odd.backends[3].state = State::Draining;
    odd.backends[1].weight = 1001;
    let pools = vec![pool("web", &[("a", "10.1.0.1:443"), ("b", "10.1.0.3:443")]), odd, pool("", &[])];
    let wanted = Wanted { services: vec![shop, other, service("idle", &[], "web")], pools };
    let told: Vec<(Place, String)> = wanted.faults().into_iter().map(|f| (f.place, f.what.to_string())).collect();
    let told: Vec<(Place, &str)> = told.iter().map(|(place, what)| (*place, what.as_str())).collect();
    assert_eq!(
        told,
        [
            (Place::Listener(0, 1), "10.0.0.1:0 has no port"),
            (Place::Listener(0, 2), "service shop listens at 10.0.0.1:443 already"),
            (Place::Service(0), "there is no pool nowhere"),
            (Place::Route(0, 0), "a route needs server names, ALPN protocols or both"),
            (Place::Route(0, 1), "an ALPN protocol has 1 to 255 bytes, not 0"),
            (Place::Route(0, 1), "there is no pool gone"),
            (Place::Service(1), "service shop is given twice"),
            (Place::Listener(1, 0), "service shop listens at [::ffff:10.0.0.1]:443 already"),
            (Place::Service(1), "65 ALPN protocols in the routes of one service, at most 64 are possible"),
            (Place::Service(2), "service idle has no listener"),
            (Place::Pool(1), "pool web is given twice"),
            (Place::Backend(1, 0), "backend a has the address 10.1.0.2:443 here and 10.1.0.1:443 elsewhere"),
            (Place::Backend(1, 1), "10.1.0.4:0 has no port"),
            (Place::Backend(1, 1), "backend d has weight 1001, at most 1000 is possible"),
            (Place::Backend(1, 2), "backend d is given twice"),
            (Place::Backend(1, 3), "backend b is draining here and up elsewhere"),
            (Place::Pool(2), "the name is empty"),
            (Place::Pool(2), "pool  has no backend"),
        ]
    );
}

#[test]
fn a_backend_in_two_pools_counts_once() {
    let many = |n: usize| -> Vec<MemberSpec> {
        (0..n)
            .map(|i| MemberSpec::new(format!("s{i}"), format!("10.1.{}.{}:443", i / 250, i % 250).parse().unwrap()))
            .collect()
    };
    let pools =
        |n| ["a", "b"].map(|name| PoolSpec { name: name.into(), backends: many(n), ..PoolSpec::default() }).to_vec();
    let wanted = |n| Wanted { services: vec![], pools: pools(n) };
    assert_eq!(wanted(MAX_BACKENDS).faults(), []);
    let what = FaultKind::TooManyBackends { wanted: MAX_BACKENDS + 1, leaving: 0 };
    assert_eq!(wanted(MAX_BACKENDS + 1).faults(), [Fault { place: Place::Whole, what }]);
}

#[test]
fn a_backend_that_is_not_to_be_asked_is_so_in_all_its_pools_whatever_these_ask_of_others() {
    let check = |kind| Check::new(kind);
    let member = |name: &str, check: Asked<Check>| MemberSpec {
        check,
        ..MemberSpec::new(name, format!("10.1.0.{}:443", name.len()).parse().unwrap())
    };
    let pool = |name: &str, backends| PoolSpec {
        name: name.into(),
        check: Some(check(CheckKind::Tls)),
        agent: Some(Agent::at(9999)),
        backends,
        ..PoolSpec::default()
    };
    let own = Asked::This(check(CheckKind::Tcp));
    let mut one = pool("a", vec![member("off", Asked::Off), member("usual", Asked::AsPool), member("its-own", own)]);
    one.backends[1].agent = Asked::Off;
    let mut wanted = Wanted { services: vec![], pools: vec![one, pool("b", vec![member("off", Asked::AsPool)])] };
    let asked = wanted.asked();
    let shown = |name: &str| (asked[name].0.map(|c| c.kind), asked[name].1.map(|a| a.port));
    assert_eq!(shown("off"), (None, Some(9999)));
    assert_eq!(shown("usual"), (Some(CheckKind::Tls), None));
    assert_eq!(shown("its-own"), (Some(CheckKind::Tcp), Some(9999)));
    assert_eq!(wanted.faults(), []);
    wanted.pools[1].backends[0].check = Asked::This(check(CheckKind::Tls));
    let faults: Vec<_> = wanted.faults().iter().map(ToString::to_string).collect();
    assert_eq!(faults, ["backend off has another check here than elsewhere"]);
}

#[test]
fn server_names_are_exact_or_one_label_wide() {
    let parse = |text: &str| text.parse::<SniPattern>();
    assert_eq!(parse("WWW.Example.com"), Ok(SniPattern::Exact("www.example.com".into())));
    assert_eq!(parse("*.Example.com"), Ok(SniPattern::Wildcard("example.com".into())));
    assert_eq!(parse("*.com").unwrap().to_string(), "*.com");
    assert_eq!(parse("localhost").unwrap().to_string(), "localhost");
    for bad in ["", "*", "*.", "w*.example.com", "*.*.com", "a..b", ".a", "a.", "a b", "ä.example", &"a.".repeat(200)]
    {
        assert!(parse(bad).is_err(), "{bad}");
    }
    assert_eq!(parse("w*.a").unwrap_err(), "\"w*.a\": a wildcard is the whole first label, as in *.example.com");
}
