//! A storm: many connections of every kind at once over bad links, by a seed. Nothing corrupt, nothing stuck, nobody
//! misrouted, nothing left.
//!
//! `LAB_SEED` and `LAB_CONNECTIONS` repeat or enlarge it.

use core::time::Duration;
use dispatcher::engine::{AddressMode, Config, End};
use sim::apps::{Closing, Ended, Expect, Plan, Write, get_and_reset, pattern};
use sim::config::{one_armed, two_armed};
use sim::links::Faults;
use sim::rng::{seed_from_env, size_from_env};
use sim::tls::Hello;
use sim::world::World;
use std::collections::HashMap;

/// A plan at random, and whether the server may cut it short.
fn plan(w: &mut World, sessions: &[Vec<u8>]) -> (Plan, bool) {
    let n = match w.rng.below(10) {
        0 => w.rng.between(20_000, 80_000),
        1..4 => w.rng.between(2000, 20_000),
        _ => w.rng.between(1, 2000),
    };
    let closing = [Closing::ClientFirst, Closing::Half, Closing::ClientFirst, Closing::Abort][w.rng.below(4)];
    let drip = |w: &mut World, p: Plan| {
        // Not slower than a hello may take in all, with the second that each loss costs.
        let (size, window) = [(10, 200), (20, 200), (300, 3000)][w.rng.below(3)];
        p.dripping(size, Duration::from_micros(w.rng.below(4000) as u64), window)
    };
    match w.rng.below(10) {
        0 => (Plan::echo(&[b"x".to_vec(), pattern(n)].concat()).closing(closing), false),
        1 => (Plan::get(n), false),
        2 => (Plan::get(n).closing(Closing::Half), false),
        3 => {
            let plan = Plan {
                writes: vec![Write::now(get_and_reset(n))],
                expect: Expect::Exactly(pattern(n)),
                closing: Closing::Never,
            };
            (plan, true)
        }
        kind => {
            let sizes = [0, 0, 500, 1700, 1800, 6000, 16_000];
            let mut hello = Hello { at_least: sizes[w.rng.below(sizes.len())], ..Hello::default() };
            hello.random.copy_from_slice(&w.rng.bytes(32));
            if !sessions.is_empty() && w.rng.per_mille(600) {
                hello.session_id = sessions[w.rng.below(sessions.len())].clone();
            }
            let bytes = if w.rng.per_mille(200) { hello.in_records(w.rng.between(40, 900)) } else { hello.bytes() };
            let small = bytes.len() < 700;
            let p = Plan::tls_bytes(bytes, &pattern(n)).closing(closing);
            // A client that shuts its direction at once must not wait for the flight before it writes.
            (if kind == 9 && small { drip(w, p) } else { p }, false)
        }
    }
}

fn storm(name: &'static str, config: Config, v6: bool, faults: Faults, connections: usize, default_seed: u64) {
    let seed = seed_from_env(default_seed);
    let proxy = config.wanted.services[0].policy.proxy_protocol;
    let config = Config { flow_idle_timeout: Duration::from_secs(100), ..config };
    let (clients, servers) = (6, 3);
    let mut w = World::new(name, config, seed, clients, servers, v6);
    for s in w.servers() {
        w.server_mut(s).expects_proxy_header = proxy;
    }
    w.roughen(faults);
    // Damage on one wire only: a second flip on the other may undo what the checksum says of the first.
    let spared = seed as usize % w.faults.len();
    w.faults[spared].corruption = 0;
    let mut sessions: Vec<Vec<u8>> = vec![];
    let mut issuers: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut excused = vec![];
    for i in 0..connections {
        let (p, cut) = plan(&mut w, &sessions);
        let client = w.rng.below(clients);
        let id = w.connect(client, p);
        if cut {
            excused.push(id);
        }
        let wait = w.rng.below(40_000) as u64;
        w.run(Duration::from_micros(wait));
        if i % 10 == 0 {
            for c in w.hosts.iter().flat_map(|h| &h.conns) {
                if let Some(f) = c.flight().filter(|f| !f.resumed && f.session_id.len() == 32)
                    && !issuers.contains_key(&f.session_id)
                {
                    issuers.insert(f.session_id.clone(), f.server);
                    sessions.push(f.session_id);
                }
            }
        }
    }
    w.run_until_done(Duration::from_secs(240));
    assert_eq!(w.open_connections(), 0, "connections are stuck");
    for (h, host) in w.hosts.iter().enumerate() {
        for (i, c) in host.conns.iter().enumerate() {
            c.check();
            if excused.contains(&(h, i)) {
                continue;
            }
            assert!(c.complete(), "{}: {} bytes received, {:?}", c.local, c.received.len(), c.outcome);
            assert_eq!(c.outcome, Ended::Closed, "{}", c.local);
        }
    }
    w.assert_quiescent();
    // Every promise was kept: all servers are up all the time.
    let promised: Vec<_> = w.told.iter().filter(|t| t.decided.is_some()).collect();
    for t in &promised {
        assert!(matches!(t.end, End::NoBackend) || t.decided == t.backend, "{} was promised {:?}", t.client, t.decided);
    }
    for c in w.hosts.iter().flat_map(|h| &h.conns) {
        let told = w.told_of(c.local);
        let promised = told.iter().any(|t| t.reason == "session-id");
        if promised && let Some(f) = c.flight() {
            assert!(f.resumed, "{}: sent by its session ID, and not resumed", c.local);
        }
    }
    assert!(promised.len() > connections / 10, "{} of {connections} were promised anything", promised.len());
    assert_eq!(w.told.iter().filter(|t| t.end == End::BackendLost).count(), 0);
}

#[test]
fn a_storm_over_bad_links_leaves_every_byte_in_place() {
    storm("storm", two_armed(3, false), false, Faults::ROUGH, size_from_env(300), 1);
}

#[test]
fn a_storm_over_ipv6_with_proxy_headers() {
    let config = two_armed(3, true).policy(|p| p.proxy_protocol = true);
    storm("storm-v6-proxy", config, true, Faults::ROUGH, size_from_env(300) / 2, 2);
}

#[test]
fn a_storm_with_the_clients_own_addresses_on_one_port() {
    let config = Config { address_mode: AddressMode::Dnat, ..one_armed(3, false) };
    storm("storm-dnat", config, false, Faults::ROUGH, size_from_env(300) / 2, 3);
}

#[test]
fn a_storm_of_damaged_frames_damages_no_stream() {
    let faults = Faults { corruption: 20, ..Faults::ROUGH };
    storm("storm-damage", two_armed(3, false), false, faults, size_from_env(300) / 2, 4);
}
