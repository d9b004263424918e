//! Several services, and pools by name behind one of them: each session returns within its own pool.

use core::ops::Range;
use core::time::Duration;
use dispatcher::engine::Config;
use lb::{Algorithm, MemberSpec, Policy, PoolSpec, RouteSpec, ServiceSpec, Wanted};
use sim::apps::{FlightSeen, Plan, Write};
use sim::config::{client_ip, pool, two_armed, vip};
use sim::tls::Hello;
use sim::world::World;
use std::net::SocketAddr;

const LONG: Duration = Duration::from_secs(60);
const CLIENTS: usize = 12;

type Name = Option<&'static str>;

/// Servers `from..to` as a pool, in turn.
fn named(name: &str, from: usize, to: usize) -> PoolSpec {
    let backends: Vec<MemberSpec> = pool(to, false).backends.split_off(from);
    PoolSpec { name: name.into(), balance: Algorithm::RoundRobin, backends, ..PoolSpec::default() }
}

fn route(sni: &[&str], alpn: &[&str], pool: &str) -> RouteSpec {
    RouteSpec {
        sni: sni.iter().map(|name| name.parse().unwrap()).collect(),
        alpn: alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
        pool: pool.into(),
    }
}

fn service(name: &str, listen: SocketAddr, pool: &str, routes: Vec<RouteSpec>) -> ServiceSpec {
    ServiceSpec { name: name.into(), listen: vec![listen], pool: pool.into(), routes, policy: Policy::default() }
}

/// Three pools of three servers behind one VIP: by an exact name, by a wildcard, and whatever else.
fn three_pools() -> Config {
    let routes = vec![route(&["api.example.com"], &[], "api"), route(&["*.example.com"], &[], "shops")];
    let wanted = Wanted {
        services: vec![service("front", vip(false), "default", routes)],
        pools: vec![named("default", 0, 3), named("api", 3, 6), named("shops", 6, 9)],
    };
    Config { wanted, ..two_armed(0, false) }
}

/// A connection from its hello to its end, and what the server's flight said. Some hellos come in pieces, of segments or of records.
fn go(w: &mut World, client: usize, hello: &Hello, pieces: usize) -> FlightSeen {
    let plan = match pieces % 4 {
        0 => Plan::tls(hello, b"body"),
        1 => Plan::tls(hello, b"body").dripping(40, Duration::from_millis(15), usize::MAX),
        2 => Plan::tls_bytes(hello.in_records(17), b"body"),
        _ => Plan::tls_bytes(hello.in_records(50), b"body").dripping(33, Duration::from_millis(1), usize::MAX),
    };
    let id = w.connect(client, plan);
    w.run_until_done(LONG);
    assert!(w.conn(id).complete());
    w.conn(id).flight().unwrap()
}

#[test]
fn sessions_of_three_pools_behind_one_vip_resume_in_their_own_pool_on_their_own_server() {
    let mut w = World::new("three-pools", three_pools(), 11, CLIENTS, 9, false);
    let names: [(&[Name], &str, Range<usize>); 3] = [
        (&[None, Some("example.com"), Some("a.b.example.com"), Some("other.example")], "default", 0..3),
        (&[Some("api.example.com"), Some("API.Example.COM")], "api", 3..6),
        (&[Some("shoes.example.com"), Some("hats.example.com")], "shops", 6..9),
    ];
    // From tickets that are issued in clear the keys are learned, by which PSKs of TLS 1.3 are led.
    for (n, (names, ..)) in (0..12).flat_map(|n| names.iter().map(move |of| (n, of))) {
        w.servers().into_iter().for_each(|s| w.server_mut(s).issues_tickets = true);
        go(&mut w, n, &Hello { sni: names[0], ticket: Some(vec![]), ..Hello::default() }, n);
    }
    let mut resumed = [0; 3];
    for n in 0..50 {
        for (i, (names, pool, servers)) in names.iter().enumerate() {
            // Session IDs, tickets of TLS 1.2, PSKs of TLS 1.3.
            let kind = n % 3;
            for s in w.servers() {
                (w.server_mut(s).issues_tickets, w.server_mut(s).tls13) = (kind == 1, kind == 2);
            }
            let fresh = Hello {
                sni: names[n % names.len()],
                ticket: (kind == 1).then(Vec::new),
                tls13: kind == 2,
                ..Hello::default()
            };
            let first = go(&mut w, n % CLIENTS, &fresh, n + i);
            assert!(servers.contains(&first.server), "{pool}: {}", first.server);
            let told = w.told.last().unwrap();
            assert_eq!((told.service.as_deref(), told.pool.as_deref()), (Some("front"), Some(*pool)));
            // Once more by another name of the pool, from another address.
            let again = Hello { sni: names[(n + 1) % names.len()], ..Hello::default() };
            let again = match kind {
                0 => Hello { session_id: first.session_id, ..again },
                2 => {
                    let host = w.servers()[first.server];
                    Hello { tls13: true, psk: vec![w.server_mut(host).ticket()], session_id: vec![1; 32], ..again }
                }
                _ => Hello { ticket: first.ticket, session_id: vec![n as u8; 32], ..again },
            };
            let second = go(&mut w, (n + 5) % CLIENTS, &again, n + i + 1);
            assert_eq!(second.server, first.server, "{pool}");
            resumed[i] += usize::from(second.resumed);
            assert_eq!(w.told.last().unwrap().pool.as_deref(), Some(*pool));
        }
    }
    assert_eq!(resumed, [50, 50, 50]);
    w.assert_quiescent();
}

#[test]
fn a_session_leads_nobody_out_of_the_pool_that_the_name_chose() {
    let mut w = World::new("pool-bounds", three_pools(), 12, CLIENTS, 9, false);
    for c in 0..CLIENTS {
        let api = Hello { sni: Some("api.example.com"), ..Hello::default() };
        let session = go(&mut w, c, &api, c).session_id;
        // The same session under a name of another pool: its server is not there, and one of that pool makes a new one.
        let elsewhere = go(&mut w, c, &Hello { sni: None, session_id: session.clone(), ..Hello::default() }, c);
        assert!((0..3).contains(&elsewhere.server) && !elsewhere.resumed);
        let back = go(&mut w, c, &Hello { session_id: session, ..api }, c);
        assert!((3..6).contains(&back.server) && back.resumed);
    }
    w.assert_quiescent();
}

#[test]
fn a_server_in_two_pools_resumes_by_either() {
    let mut config = three_pools();
    let both = config.wanted.pools[1].backends[0].clone();
    config.wanted.pools[0].backends = vec![both];
    let mut w = World::new("shared", config, 13, CLIENTS, 9, false);
    let mut by_api = 0;
    for c in 0..CLIENTS {
        let first = go(&mut w, c, &Hello { sni: None, ..Hello::default() }, 0);
        assert_eq!(first.server, 3, "the only one of its pool");
        let api = Hello { sni: Some("api.example.com"), session_id: first.session_id, ..Hello::default() };
        let again = go(&mut w, (c + 1) % CLIENTS, &api, 0);
        by_api += usize::from(again.resumed && again.server == 3);
    }
    assert_eq!(by_api, CLIENTS);
    w.assert_quiescent();
}

#[test]
fn protocols_route_where_no_name_does_plain_http_by_its_host_and_what_names_nothing_goes_to_the_services_own_pool() {
    let mut config = three_pools();
    config.wanted.services[0].routes.push(route(&[], &["h2"], "shops"));
    let mut w = World::new("alpn", config, 14, CLIENTS, 9, false);
    let pool_of = |w: &World| w.told.last().unwrap().pool.clone().unwrap();
    go(&mut w, 0, &Hello { sni: None, alpn: vec!["http/1.1", "h2"], ..Hello::default() }, 0);
    assert_eq!(pool_of(&w), "shops");
    go(&mut w, 1, &Hello { sni: Some("api.example.com"), alpn: vec!["h2"], ..Hello::default() }, 1);
    assert_eq!(pool_of(&w), "api");
    go(&mut w, 2, &Hello { sni: None, alpn: vec!["http/1.1"], ..Hello::default() }, 2);
    assert_eq!(pool_of(&w), "default");
    for (client, text, pool) in [
        (3, &b"XGET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n"[..], "api"),
        (0, b"XGET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n", "shops"),
        (0, b"XGET / HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n", "default"),
        (1, b"XGET / HTTP/1.1\r\n\r\n", "default"),
        (2, b"hello, this is for api.example.com\r\n\r\n", "default"),
    ] {
        w.connect(client, Plan::echo(text));
        w.run_until_done(LONG);
        assert_eq!(pool_of(&w), pool, "{}", text.escape_ascii());
    }
    w.assert_quiescent();
}

/// A hello in two parts, cut at this place, with a pause between them.
fn halved(hello: &Hello, cut: usize, pause: Duration) -> Plan {
    let mut plan = Plan::tls(hello, b"body");
    let rest = plan.writes[0].bytes.split_off(cut);
    plan.writes.insert(1, Write { pause, ..Write::now(rest) });
    plan
}

/// Where the name begins in the hello.
fn name_at(hello: &Hello) -> usize {
    let name = hello.sni.unwrap().as_bytes();
    hello.bytes().windows(name.len()).position(|w| w == name).unwrap()
}

/// Three pools, and routes for what the name of "api" would be if it ended too early.
fn names_that_begin_alike() -> Config {
    let mut config = three_pools();
    let cut = ["a", "api", "api.e", "api.example", "api.example.c", "api.example.co"];
    config.wanted.services[0].routes.push(route(&cut, &[], "shops"));
    config
}

#[test]
fn a_hello_whose_first_part_ends_within_the_name_is_routed_by_the_whole_name() {
    let mut w = World::new("cut-names", names_that_begin_alike(), 16, CLIENTS, 9, false);
    let hello = Hello { sni: Some("api.example.com"), ..Hello::default() };
    let (from, len) = (name_at(&hello), "api.example.com".len());
    for (n, cut) in (from - 9..=from + len).enumerate() {
        let id = w.connect(n % CLIENTS, halved(&hello, cut, Duration::from_millis(300 + 100 * n as u64)));
        w.run_until_done(LONG);
        assert!(w.conn(id).complete(), "cut at {cut}");
        assert_eq!(w.told.last().unwrap().pool.as_deref(), Some("api"), "cut at {cut}");
        assert!((3..6).contains(&w.conn(id).flight().unwrap().server));
    }
    w.assert_quiescent();
}

#[test]
fn half_a_hello_whose_time_is_up_is_routed_by_its_name_if_that_is_whole_and_to_the_services_own_pool_if_not() {
    let mut w = World::new("half-hellos", names_that_begin_alike(), 17, CLIENTS, 9, false);
    let hello = Hello { sni: Some("api.example.com"), at_least: 400, ..Hello::default() };
    let (from, len) = (name_at(&hello), "api.example.com".len());
    let cuts = [from - 9, from, from + 1, from + 3, from + 11, from + len - 1, from + len, from + len + 40];
    // The rest comes when nobody waits for it any more, and goes where the first part went.
    for (n, cut) in cuts.into_iter().enumerate() {
        let id = w.connect(n, halved(&hello, cut, Duration::from_secs(35)));
        w.run_until_done(LONG);
        assert!(w.conn(id).complete(), "cut at {cut}");
        let (pool, servers) = if cut >= from + len { ("api", 3..6) } else { ("default", 0..3) };
        assert_eq!(w.told.last().unwrap().pool.as_deref(), Some(pool), "cut at {cut} of {from}+{len}");
        assert!(servers.contains(&w.conn(id).flight().unwrap().server));
    }
    w.assert_quiescent();
}

#[test]
fn with_encrypted_client_hello_the_outer_name_routes_whole_or_in_pieces() {
    let mut w = World::new("outer-names", three_pools(), 18, CLIENTS, 9, false);
    let names = [("api.example.com", "api"), ("front.example.com", "shops"), ("public.example", "default")];
    for (n, (name, pool)) in (0..12).flat_map(|n| names.iter().map(move |of| (n, of))) {
        w.servers().into_iter().for_each(|s| w.server_mut(s).tls13 = true);
        let hello = Hello { sni: Some(name), ech: true, tls13: true, ..Hello::default() };
        go(&mut w, n % CLIENTS, &hello, n);
        assert_eq!(w.told.last().unwrap().pool.as_deref(), Some(*pool), "{name}");
    }
    w.assert_quiescent();
}

/// Two services at two ports of one address: each has its pool, and its policy.
#[test]
fn each_service_has_its_own_pool_and_policy() {
    let mut config = three_pools();
    let second = SocketAddr::new(vip(false).ip(), 8443);
    config.wanted.services.push(service("proxied", second, "api", vec![]));
    config.wanted.services[1].policy = Policy { proxy_protocol: true, affinity: false, ..Policy::default() };
    let mut w = World::new("two-services", config, 15, CLIENTS, 9, false);
    for s in 0..9 {
        let host = w.servers()[s];
        w.server_mut(host).expects_proxy_header = (3..6).contains(&s);
    }
    let mut told = vec![];
    for c in 0..CLIENTS {
        go(&mut w, c, &Hello { sni: Some("shoes.example.com"), ..Hello::default() }, c);
        assert_eq!(w.told.last().unwrap().service.as_deref(), Some("front"));
        let local = SocketAddr::new(client_ip(c, false), 40_000 + c as u16);
        let id = w.connect_to(
            c,
            local,
            second,
            Plan::tls(&Hello { sni: Some("shoes.example.com"), ..Hello::default() }, b"x"),
        );
        w.run_until_done(LONG);
        assert!(w.conn(id).complete() && (3..6).contains(&w.conn(id).flight().unwrap().server));
        let last = w.told.last().unwrap();
        assert_eq!((last.service.as_deref(), last.pool.as_deref()), (Some("proxied"), Some("api")));
        told.push((local, second));
    }
    let mut proxied: Vec<_> = w.servers().iter().flat_map(|&s| w.server(s).proxied.clone()).collect();
    proxied.sort_unstable();
    assert_eq!(proxied, told);
    w.assert_quiescent();
}
