//! Checks against servers that are smoltcp and rustls themselves, over a network that loses packets, in virtual time.

mod checks {
    pub mod server;
}

use checks::server::{Manner, NAMES, Server};
use core::time::Duration;
use dispatcher::backends::Checked;
use dispatcher::checks::{Checks, KeyState, Report};
use dispatcher::engine::{Config, PortSpec, Revision};
use dispatcher::time::Time;
use dispatcher::wire::Mac;
use lb::{
    Agent, Check, CheckKind, Directory, MemberSpec, Policy, PoolSpec, RouteSpec, ServiceKind, Tunnel, TunnelKind,
    Wanted,
};
use std::net::SocketAddr;
use std::sync::Arc;

const SECOND: Duration = Duration::from_secs(1);
/// Where agents listen.
const AGENT: u16 = 9999;

/// Servers, and whoever asks them.
struct World {
    checks: Checks,
    servers: Vec<Server>,
    /// Another port of theirs, where something else listens.
    aside: u16,
    now: Time,
    /// Of a thousand packets so many are lost.
    loss: u64,
    seed: u64,
    keys: Vec<(u16, [u8; 16])>,
    lines: Vec<String>,
    /// On their way: when they are there, to a server or from one, and the packet.
    wire: Vec<(Time, Option<usize>, Vec<u8>)>,
}

fn address(n: usize, v6: bool) -> SocketAddr {
    if v6 { format!("[fd02::{:x}]:443", 0x11 + n) } else { format!("10.2.0.{}:443", 11 + n) }.parse().unwrap()
}

fn revision(checks: &[Option<Check>], policy: &Policy, v6: bool, previous: Option<&Directory>) -> Arc<Revision> {
    let port = port(v6);
    let member = |(n, check): (usize, &Option<Check>)| MemberSpec {
        check: check.clone().into(),
        ..MemberSpec::new(format!("web{n}"), address(n, v6))
    };
    let backends = checks.iter().enumerate().map(member).collect();
    let vip = if v6 { "[fd01::9]:443" } else { "10.1.0.9:443" };
    let pool = PoolSpec { backends, ..PoolSpec::default() };
    let wanted = Wanted::single(vec![vip.parse().unwrap()], policy.clone(), pool);
    let config = Config { ports: vec![port], wanted: wanted.clone(), ..Config::default() };
    let directory = Directory::next(previous, &wanted, |_| true).unwrap();
    Arc::new(Revision::new(&config, Arc::new(directory)).unwrap())
}

fn port(v6: bool) -> PortSpec {
    let ips = if v6 { ("fd02::1", 64) } else { ("10.2.0.1", 24) };
    PortSpec {
        name: "p".into(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        addresses: vec![(ips.0.parse().unwrap(), ips.1)],
        gateways: vec![],
        vlans: vec![],
        mtu: 1500,
    }
}

impl World {
    fn new(manners: &[Manner], check: Option<Check>, policy: &Policy, v6: bool) -> World {
        let mut checks = Checks::new(1500, true, 7);
        checks.follow(&revision(&vec![check; manners.len()], policy, v6, None), Time::ZERO);
        let servers = manners.iter().enumerate().map(|(n, manner)| Server::new(address(n, v6), *manner)).collect();
        World {
            checks,
            servers,
            aside: AGENT,
            now: Time::ZERO,
            loss: 0,
            seed: 1,
            keys: vec![],
            lines: vec![],
            wire: vec![],
        }
    }

    /// What a backend's packet goes to: those of the port aside stand behind all servers, in the same order.
    fn whom(&self, backend: usize, packet: &[u8]) -> usize {
        let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
        let port = u16::from_be_bytes([packet[header + 2], packet[header + 3]]);
        if port == self.aside { self.servers.len() / 2 + backend } else { backend }
    }

    fn put(&mut self, to: Option<usize>, packet: Vec<u8>) {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        if (self.seed >> 33) % 1000 >= self.loss {
            self.wire.push((self.now + Duration::from_millis(1), to, packet));
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            let mut out = Vec::new();
            self.checks.poll(self.now, &mut |leaving| out.push((leaving.backend.index(), leaving.packet.to_vec())));
            for (backend, packet) in out {
                self.put(Some(self.whom(backend, &packet)), packet);
            }
            for n in 0..self.servers.len() {
                let back = self.servers[n].poll(self.now);
                back.into_iter().for_each(|packet| self.put(None, packet));
            }
            while let Some(news) = self.checks.next_key() {
                self.keys.push((news.backend.0, news.name));
            }
            self.lines.extend(core::iter::from_fn(|| self.checks.next_line()));
            self.now += Duration::from_millis(1);
            let (due, rest) = core::mem::take(&mut self.wire).into_iter().partition(|(at, _, _)| *at <= self.now);
            self.wire = rest;
            for (_, to, packet) in due {
                match to {
                    Some(server) => self.servers[server].receive(&packet, self.now),
                    None => self.checks.receive(&packet, self.now),
                }
            }
        }
    }

    fn reports(&self) -> Vec<Report> {
        self.checks.reports().collect()
    }

    fn states(&self) -> Vec<Checked> {
        self.reports().iter().map(|r| r.verdict.state).collect()
    }

    fn why(&self, n: usize) -> String {
        self.reports()[n].verdict.why.clone().unwrap_or_default()
    }
}

fn every_second(kind: CheckKind) -> Check {
    Check { interval: SECOND, timeout: Some(SECOND / 2), ..Check::new(kind) }
}

#[test]
fn what_a_server_does_is_told_from_what_it_should_do_by_each_kind_of_check() {
    use Manner::*;
    let all = [Tls, Plain(200), Plain(503), Mute, Closes, Resets, Refuses, Dead, TlsHttp(200), TlsHttp(500)];
    let expected = |kind: CheckKind| -> Vec<&str> {
        match kind {
            CheckKind::Tcp => vec!["", "", "", "", "", "", "connection refused", "no answer to connection", "", ""],
            CheckKind::Tls => vec![
                "",
                "TLS: ",
                "TLS: ",
                "TLS handshake timed out",
                "closed within the TLS handshake",
                "reset within the TLS handshake",
                "connection refused",
                "no answer to connection",
                "",
                "",
            ],
            CheckKind::Http => vec![
                "the answer is no HTTP",
                "",
                "status 503",
                "no answer to the request",
                "closed without",
                "reset without",
                "connection refused",
                "no answer to connection",
                "the answer is no HTTP",
                "the answer is no HTTP",
            ],
            CheckKind::Https => vec![
                "no answer to the request",
                "TLS: ",
                "TLS: ",
                "TLS handshake timed out",
                "closed within",
                "reset within",
                "connection refused",
                "no answer to connection",
                "",
                "status 500",
            ],
        }
    };
    for kind in CheckKind::ALL {
        for v6 in [false, true] {
            let mut world = World::new(&all, Some(every_second(kind)), &Policy::default(), v6);
            // The first interval, three checks and their time-out.
            world.run(5 * SECOND);
            for (n, why) in expected(kind).into_iter().enumerate() {
                let (state, told) = (world.states()[n], world.why(n));
                let right = if why.is_empty() { state == Checked::Up } else { state == Checked::Down };
                assert!(
                    right && told.starts_with(why) && why.is_empty() == told.is_empty(),
                    "{kind} {:?}: {told}",
                    all[n]
                );
            }
        }
    }
}

#[test]
fn a_tcp_check_never_becomes_a_connection_of_the_servers_application_and_others_end_in_order() {
    for (kind, manner) in [
        (CheckKind::Tcp, Manner::Tls),
        (CheckKind::Tls, Manner::Tls),
        (CheckKind::Http, Manner::Plain(200)),
        (CheckKind::Https, Manner::TlsHttp(200)),
    ] {
        let mut world =
            World::new(&[manner], Some(every_second(kind)), &Policy { affinity: false, ..Policy::default() }, false);
        world.run(10 * SECOND);
        let server = &world.servers[0];
        let (passed, seen) = (world.reports()[0].verdict.passed, server.seen);
        assert!(passed >= 8, "{kind}: {passed}");
        assert_eq!(seen.resets, 0, "{kind}: {seen:?}");
        if kind == CheckKind::Tcp {
            assert_eq!((seen.accepted, seen.errors), (0, 0));
        } else {
            assert!(seen.accepted >= passed as usize && seen.errors == 0, "{kind}: {seen:?}");
            assert!(seen.ended + 1 >= seen.accepted, "{kind}: {seen:?}");
        }
        if kind.is_tls() {
            assert!(seen.close_notifies + 1 >= seen.accepted, "{kind}: {seen:?}");
        }
    }
}

#[test]
fn a_proxy_header_of_nobodys_connection_goes_before_what_is_said() {
    let policy = Policy { proxy_protocol: true, ..Policy::default() };
    let check = Some(every_second(CheckKind::Tls));
    let mut world = World::new(&[Manner::BehindProxyHeader, Manner::Tls], check, &policy, false);
    world.run(5 * SECOND);
    assert_eq!(world.states(), [Checked::Up, Checked::Down]);
    assert_eq!(world.reports()[0].keys.as_ref().unwrap().state, KeyState::Named);
}

#[test]
fn a_server_leaves_within_fall_intervals_and_comes_back_within_rise_while_packets_get_lost() {
    let check = Check { interval: 2 * SECOND, ..Check::new(CheckKind::Tls) };
    let mut world = World::new(&[Manner::Tls; 3], Some(check), &Policy::default(), false);
    world.loss = 20;
    world.run(60 * SECOND);
    assert_eq!(world.states(), [Checked::Up; 3]);
    for broken in [Manner::Dead, Manner::Mute, Manner::Resets] {
        world.servers[1].become_(broken);
        let mut took = 0;
        while world.states()[1] != Checked::Down {
            world.run(SECOND / 10);
            took += 1;
            assert_eq!((world.states()[0], world.states()[2]), (Checked::Up, Checked::Up));
            // Three intervals, each a tenth longer, and the last one's time-out; and what was under way.
            assert!(took < 95, "{broken:?}");
        }
        world.servers[1].become_(Manner::Tls);
        let mut took = 0;
        while world.states()[1] != Checked::Up {
            world.run(SECOND / 10);
            took += 1;
            assert!(took < 100, "{broken:?}");
        }
    }
    // Up, and then three times down and up.
    assert_eq!(world.lines.iter().filter(|line| line.contains("web1")).count(), 7, "{:?}", world.lines);
    assert_eq!(world.lines.iter().filter(|line| line.contains("is down")).count(), 3);
}

#[test]
fn what_was_under_way_while_nobody_carried_packets_says_nothing_of_the_server() {
    let check = Check { interval: Duration::from_millis(100), ..every_second(CheckKind::Tcp) };
    let mut w = World::new(&[Manner::Tls], Some(check), &Policy::default(), false);
    let verdict = |w: &World| w.checks.reports().next().unwrap().verdict.clone();
    w.run(SECOND);
    for _ in 0..20 {
        // A question is put, and goes nowhere.
        let mut put = 0;
        for _ in 0..1000 {
            w.now += Duration::from_millis(1);
            w.checks.poll(w.now, &mut |_| put += 1);
            if put > 0 {
                break;
            }
        }
        assert!(put > 0);
        w.wire.clear();
        w.now += 5 * SECOND;
        w.checks.interrupted(w.now);
        w.run(2 * SECOND);
        assert_eq!((verdict(&w).state, verdict(&w).failed), (Checked::Up, 0));
    }
    assert!(verdict(&w).passed > 200, "and it is asked on: {}", verdict(&w).passed);
}

#[test]
fn a_healthy_server_is_never_down_for_long_however_many_packets_are_lost() {
    let check = Check { interval: 2 * SECOND, ..Check::new(CheckKind::Http) };
    let mut world = World::new(&[Manner::Plain(200); 4], Some(check), &Policy::default(), false);
    world.loss = 100;
    let mut down = [0; 4];
    for _ in 0..600 {
        world.run(SECOND);
        for (n, state) in world.states().iter().enumerate() {
            down[n] = if *state == Checked::Down { down[n] + 1 } else { 0 };
            assert!(down[n] < 20, "{n}: down for {} s", down[n]);
        }
    }
}

#[test]
fn key_names_are_those_of_the_servers_tickets_and_servers_without_any_are_told() {
    let manners = [Manner::Tls, Manner::Tls12, Manner::Stateful, Manner::NoTickets, Manner::Forgets];
    let mut world = World::new(&manners, Some(every_second(CheckKind::Tls)), &Policy::default(), false);
    world.run(5 * SECOND);
    let keys: Vec<_> = world.reports().into_iter().map(|r| r.keys.unwrap()).collect();
    let states: Vec<_> = keys.iter().map(|k| k.state).collect();
    use KeyState::{Named, Nameless};
    assert_eq!(states, [Named, Named, Nameless, Nameless, Nameless]);
    for n in [0, 1] {
        assert_eq!((keys[n].names.len(), keys[n].since.len()), (1, 1));
        assert!(keys[n].since[0] < world.now);
        assert!(world.servers[n].issued_names().contains(&keys[n].names[0]), "of server {n}");
        assert!(world.keys.contains(&(n as u16, keys[n].names[0])));
    }
    assert_ne!(keys[0].names, keys[1].names);
    assert_eq!(
        keys.iter().map(|k| k.takes_own).collect::<Vec<_>>(),
        [Some(true), Some(true), Some(true), None, Some(false)]
    );
    let warned: Vec<_> = world.lines.iter().filter(|line| line.contains("does not take")).collect();
    assert_eq!(warned.len(), 1);
    assert!(warned[0].contains("web4"));
    // A server that is started anew has another key.
    world.keys.clear();
    world.servers[0].become_(Manner::Tls);
    world.run(70 * SECOND);
    let new = world.reports()[0].keys.clone().unwrap();
    assert_eq!(new.names.len(), 2);
    assert_eq!(new.names[0], keys[0].names[0]);
}

#[test]
fn keys_that_were_forgotten_are_asked_for_at_once_and_a_look_that_is_under_way_counts_for_nothing() {
    let mut world = World::new(&[Manner::Tls], Some(every_second(CheckKind::Tls)), &Policy::default(), false);
    world.run(5 * SECOND);
    let old = world.reports()[0].keys.clone().unwrap();
    assert_eq!((old.state, old.names.len()), (KeyState::Named, 1));
    // Its keys are lost, and an operator says so.
    world.servers[0].become_(Manner::Tls);
    world.keys.clear();
    world.checks.forget_keys(lb::BackendId(0), world.now);
    let keys = world.reports()[0].keys.clone().unwrap();
    assert_eq!((keys.state, keys.names.len()), (KeyState::Unknown, 0));
    world.run(SECOND / 2);
    let new = world.reports()[0].keys.clone().unwrap();
    assert_eq!((new.state, new.names.len()), (KeyState::Named, 1));
    assert_ne!(new.names, old.names);
    assert_eq!(world.keys, [(0, new.names[0])]);
    // In the midst of a look.
    for ms in 0..20 {
        world.checks.forget_keys(lb::BackendId(0), world.now);
        world.run(Duration::from_millis(ms));
    }
    world.keys.clear();
    world.servers[0].become_(Manner::Tls);
    world.checks.forget_keys(lb::BackendId(0), world.now);
    world.run(SECOND);
    let newest = world.reports()[0].keys.clone().unwrap().names;
    assert!(newest.len() == 1 && newest != new.names, "{newest:?}");
    assert!(world.keys.iter().all(|(_, name)| *name == newest[0]), "{:?}", world.keys);
}

#[test]
fn a_server_that_needs_a_name_is_asked_for_its_keys_by_those_that_lead_clients_there_in_turn() {
    let members = || vec![MemberSpec::new("web0", address(0, false))];
    let pool = |name: &str| PoolSpec { name: name.into(), backends: members(), ..PoolSpec::default() };
    let policy = Policy { kind: ServiceKind::Tls, ..Policy::default() };
    let mut wanted = Wanted::single(vec!["10.1.0.9:443".parse().unwrap()], policy, pool("default"));
    let begun = |wanted: &Wanted| {
        let config = Config { ports: vec![port(false)], wanted: wanted.clone(), ..Config::default() };
        let directory = Arc::new(Directory::next(None, wanted, |_| true).unwrap());
        let mut world = World::new(&[Manner::NeedsName, Manner::Tls], None, &Policy::default(), false);
        world.checks = Checks::new(1500, true, 3);
        world.checks.follow(&Arc::new(Revision::new(&config, directory).unwrap()), world.now);
        world.run(20 * SECOND);
        world
    };
    // No route names anything.
    let world = begun(&wanted);
    let keys = world.reports()[0].keys.clone().unwrap();
    assert_eq!((keys.state, keys.failed.is_some()), (KeyState::Unknown, true));
    assert!(world.servers[0].asked_for().iter().all(String::is_empty));
    let route = |sni: &[&str], pool: &str| RouteSpec {
        sni: sni.iter().map(|name| name.parse().unwrap()).collect(),
        alpn: vec![],
        pool: pool.into(),
    };
    let elsewhere = PoolSpec { backends: vec![MemberSpec::new("other", address(1, false))], ..pool("elsewhere") };
    wanted.pools.extend([pool("named"), elsewhere]);
    wanted.services[0].routes = vec![
        route(&[NAMES[1], "*.example.net"], "named"),
        route(&["other.example.com"], "elsewhere"),
        route(&[NAMES[0]], "named"),
    ];
    let world = begun(&wanted);
    assert_eq!(world.reports()[0].keys.clone().unwrap().state, KeyState::Named);
    let mut asked = world.servers[0].asked_for();
    assert!(asked.len() >= 4, "{asked:?}");
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked, NAMES);
}

#[test]
fn keys_are_learned_of_servers_that_were_seen_to_speak_tls_and_of_no_others() {
    let mut world = World::new(&[Manner::Tls, Manner::Plain(200)], None, &Policy::default(), false);
    world.run(10 * SECOND);
    assert!(world.servers.iter().all(|server| server.seen.accepted == 0));
    world.checks.speaks_tls(lb::BackendId(0), world.now);
    world.run(SECOND);
    assert_eq!(world.reports()[0].keys.as_ref().unwrap().state, KeyState::Named);
    assert_eq!((world.servers[1].seen.accepted, world.states()), (0, vec![Checked::Unknown; 2]));
    // A server that is no longer there says nothing against its keys, nor against itself.
    world.servers[0].become_(Manner::Mute);
    world.run(100 * SECOND);
    assert_eq!(world.reports()[0].keys.as_ref().unwrap().state, KeyState::Named);
    world.run(200 * SECOND);
    assert_eq!(world.reports()[0].keys.as_ref().unwrap().state, KeyState::Unknown);
    assert_eq!(world.states(), [Checked::Unknown; 2]);
}

#[test]
fn a_suspect_is_asked_at_once_and_away_until_it_answers_hellos_but_never_the_last() {
    use Checked::{Down, Unknown};
    let mut world = World::new(&[Manner::Closes, Manner::Tls, Manner::Mute], None, &Policy::default(), false);
    let told = |world: &World| world.checks.seen().map(|seen| seen.checked).collect::<Vec<_>>();
    world.run(SECOND);
    (0..3).for_each(|n| world.checks.suspect(lb::BackendId(n), world.now));
    world.run(5 * SECOND);
    // One that answers is cleared, and asked no more.
    assert_eq!(told(&world), [Down, Unknown, Down]);
    let asked = world.servers[1].seen.knocks;
    world.run(20 * SECOND);
    assert_eq!(world.servers[1].seen.knocks, asked);
    // What refuses us by an alert has answered.
    world.servers[0].become_(Manner::Tls);
    world.run(5 * SECOND);
    assert_eq!(told(&world), [Unknown, Unknown, Down]);
    // The last ones are not taken away.
    for n in 0..2 {
        world.servers[n].become_(Manner::Resets);
        world.checks.suspect(lb::BackendId(n as u16), world.now);
    }
    world.run(5 * SECOND);
    assert_eq!((told(&world), world.states()), (vec![Unknown; 3], vec![Unknown; 3]));
    let suspicions: Vec<_> = world.reports().into_iter().map(|r| r.suspicion.unwrap()).collect();
    assert!(suspicions.iter().all(|one| one.down && one.spared), "{suspicions:?}");
    // One that has a check is asked that, before it is due.
    let check = Check { interval: 60 * SECOND, fall: 1, ..Check::new(CheckKind::Tls) };
    let mut world = World::new(&[Manner::Tls, Manner::Tls], Some(check), &Policy::default(), false);
    world.run(70 * SECOND);
    world.servers[0].become_(Manner::Closes);
    world.checks.suspect(lb::BackendId(0), world.now);
    world.run(SECOND);
    assert_eq!(told(&world)[0], Down);
}

#[test]
fn a_server_that_fails_clients_again_and_again_is_left_alone_for_longer_each_time_and_not_once_it_serves_well() {
    use Checked::{Down, Unknown};
    let mut world = World::new(&[Manner::Tls, Manner::Tls], None, &Policy::default(), false);
    let told = |world: &World| world.checks.seen().next().unwrap().checked;
    world.run(SECOND);
    // Seconds from when it answers us again to when it is back, and questions in that time.
    let round = |world: &mut World| {
        world.servers[0].become_(Manner::Closes);
        world.checks.suspect(lb::BackendId(0), world.now);
        while told(world) != Down {
            world.run(SECOND / 10);
        }
        let suspicion = world.reports()[0].suspicion.clone().unwrap();
        assert!(suspicion.down && !suspicion.spared && suspicion.why.unwrap().contains("closed"));
        let until = suspicion.until.unwrap().since(world.now).as_secs_f64();
        world.servers[0].become_(Manner::Tls);
        let (before, since) = (world.servers[0].seen.knocks, world.now);
        while told(world) == Down {
            world.run(SECOND / 10);
        }
        assert!(world.servers[0].seen.knocks - before <= 3, "it is asked twice, and not before");
        let took = world.now.since(since).as_secs_f64();
        assert!(took >= until && took < until + 2.5, "{took} s, of which {until} s alone");
        (suspicion.times, took)
    };
    let rounds: Vec<(u32, f64)> = (0..5).map(|_| round(&mut world)).collect();
    for (n, (times, took)) in rounds.iter().enumerate() {
        let least = 10.0 * n as f64;
        assert!(*times == n as u32 + 1 && *took >= least && *took < least * 1.1 + 4.0, "{rounds:?}");
    }
    assert!(
        world.lines.iter().any(|line| line.contains("3 times in a row: it is asked again in 2")),
        "{:?}",
        world.lines
    );
    // A suspicion that our own hello clears costs nothing; five minutes of good service, and it is the first time.
    world.checks.suspect(lb::BackendId(0), world.now);
    world.run(10 * SECOND);
    assert_eq!((told(&world), world.reports()[0].suspicion.clone()), (Unknown, None));
    world.run(300 * SECOND);
    assert_eq!(round(&mut world).0, 1);
}

#[test]
fn a_suspicion_of_what_no_check_can_see_is_looked_into_beside_the_check() {
    for (kind, port) in [(CheckKind::Tcp, None), (CheckKind::Tls, Some(444))] {
        let check = Check { port, ..every_second(kind) };
        let mut world = World::new(&[Manner::Tls, Manner::Tls], Some(check), &Policy::default(), false);
        // What is checked at the other port is well, whatever the service does.
        let other = |n| Server::new(SocketAddr::new(address(n, false).ip(), 444), Manner::Tls);
        world.servers.extend([other(0), other(1)]);
        world.aside = 444;
        world.run(5 * SECOND);
        let told = |world: &World| world.checks.seen().next().unwrap().checked;
        assert_eq!(told(&world), Checked::Up, "{kind}");
        world.servers[0].become_(Manner::Closes);
        world.run(5 * SECOND);
        assert_eq!((told(&world), world.states()[0]), (Checked::Up, Checked::Up), "{kind} cannot tell");
        world.checks.suspect(lb::BackendId(0), world.now);
        world.run(3 * SECOND);
        assert_eq!((told(&world), world.states()[0]), (Checked::Down, Checked::Up), "{kind}");
        world.servers[0].become_(Manner::Tls);
        world.run(5 * SECOND);
        assert_eq!(told(&world), Checked::Up, "{kind}");
        // Failed checks take away whom a suspicion would spare.
        world.servers[0].become_(Manner::Refuses);
        world.servers[2].become_(Manner::Refuses);
        world.run(6 * SECOND);
        assert_eq!((told(&world), world.states()[0]), (Checked::Down, Checked::Down), "{kind}");
    }
}

#[test]
fn an_agent_is_heard_and_what_cannot_be_read_changes_nothing() {
    let mut world = World::new(&[Manner::Says("75% maxconn:30\r\n"), Manner::Mute], None, &Policy::default(), false);
    world.checks = Checks::new(1500, false, 3);
    let first = revision(&[None, None], &Policy::default(), false, None);
    let mut wanted = Wanted::single(
        vec!["10.1.0.9:443".parse().unwrap()],
        Policy::default(),
        PoolSpec { agent: Some(Agent { interval: SECOND, ..Agent::at(443) }), ..PoolSpec::default() },
    );
    wanted.pools[0].backends = (0..2).map(|n| MemberSpec::new(format!("web{n}"), address(n, false))).collect();
    let directory = Arc::new(Directory::next(Some(first.directory()), &wanted, |_| true).unwrap());
    let config = Config { ports: vec![port(false)], wanted, ..Config::default() };
    world.checks.follow(&Arc::new(Revision::new(&config, directory).unwrap()), Time::ZERO);
    world.run(5 * SECOND);
    let agents = |world: &World| world.reports().into_iter().map(|r| r.agent.unwrap()).collect::<Vec<_>>();
    let told = agents(&world);
    assert_eq!((told[0].says.to_string(), told[0].failed.as_deref()), ("75%, maxconn:30".into(), None));
    assert_eq!((told[1].says.to_string(), told[1].failed.is_some()), ("nothing".into(), true));
    assert_eq!((world.servers[0].seen.resets, world.servers[0].seen.errors), (0, 0));
    assert_eq!(world.lines, ["backend web0: its agent says: 75%, maxconn:30"]);
    for (manner, says) in [
        (Manner::Says("down#disk full"), "down: disk full, 75%, maxconn:30"),
        (Manner::Says("quickly!\n"), "down: disk full, 75%, maxconn:30"),
        (Manner::Refuses, "down: disk full, 75%, maxconn:30"),
        (Manner::Says("up ready 100%\n"), "ready, 100%, maxconn:30"),
    ] {
        world.servers[0].become_(manner);
        world.run(3 * SECOND);
        assert_eq!(agents(&world)[0].says.to_string(), says);
    }
    // Whether it serves is not for agents to say here.
    assert_eq!(world.states(), [Checked::Unknown; 2]);
}

/// An agent that says something else each second, which is brought into force as the main thread does it, and a server that dies and comes back. Neither
/// delays what the other's word leads to, nor asks or says anything more often.
#[test]
fn an_agent_that_flaps_and_checks_that_fail_never_fight() {
    let every = Agent { interval: SECOND / 2, ..Agent::at(AGENT) };
    let check = Check { interval: SECOND, timeout: Some(SECOND / 2), ..Check::new(CheckKind::Tls) };
    let members = || (0..2).map(|n| MemberSpec::new(format!("web{n}"), address(n, false))).collect();
    let pool = PoolSpec { check: Some(check), agent: Some(every), backends: members(), ..PoolSpec::default() };
    let wanted = Wanted::single(vec!["10.1.0.9:443".parse().unwrap()], Policy::default(), pool);
    let config = Config { ports: vec![port(false)], wanted: wanted.clone(), ..Config::default() };
    let in_force = |wanted: &Wanted, before: Option<&Directory>| {
        let directory = Arc::new(Directory::next(before, wanted, |_| true).unwrap());
        Arc::new(Revision::new(&config, directory).unwrap())
    };
    let mut world = World::new(&[Manner::Tls; 2], None, &Policy::default(), false);
    for n in 0..2 {
        let agent = SocketAddr::new(address(n, false).ip(), AGENT);
        world.servers.push(Server::new(agent, Manner::Says("ready\n")));
    }
    world.checks = Checks::new(1500, false, 3);
    let mut now_wanted = wanted.clone();
    let mut revision = in_force(&wanted, None);
    world.checks.follow(&revision, world.now);
    let (mut said, mut laid, mut down_for, mut up_for) = (0, 0, 0, 0);
    let mut states = vec![Checked::Unknown];
    for tenth in 0..600 {
        if tenth % 10 == 0 {
            let words = ["maint\n", "ready\n", "drain 50%\n", "ready up 100%\n", "down#disk\n"];
            world.servers[2].become_(Manner::Says(words[tenth / 10 % words.len()]));
            said += 1;
        }
        if tenth % 150 == 100 {
            let alive = tenth % 300 > 150;
            world.servers[0].become_(if alive { Manner::Tls } else { Manner::Resets });
        }
        world.run(SECOND / 10);
        let reports = world.reports();
        let says = reports.iter().map(|r| (format!("web{}", r.backend.0), r.agent.clone().unwrap().says)).collect();
        let next = dispatcher::control::agents::lay(&wanted, &says, &Default::default());
        if next != now_wanted {
            laid += 1;
            revision = in_force(&next, Some(revision.directory()));
            now_wanted = next;
            world.checks.follow(&revision, world.now);
        }
        let state = world.states()[0];
        if states.last() != Some(&state) {
            states.push(state);
        }
        // From 10 s to 25 s it is dead, and so on: three checks, each a tenth later, and their turn.
        let dead = (tenth + 200) % 300 < 150 && tenth >= 100;
        (down_for, up_for) = if dead { (down_for + 1, 0) } else { (0, up_for + 1) };
        assert!(down_for < 45 || state == Checked::Down, "{tenth}: still {state:?}");
        assert!(up_for < 35 || state == Checked::Up, "{tenth}: still {state:?}");
        assert_ne!(world.states()[1], Checked::Down);
    }
    use Checked::{Down, Unknown, Up};
    assert_eq!(states, [Unknown, Up, Down, Up, Down, Up], "as often as the server");
    assert!(laid > said / 3 && laid <= said, "{laid} changes, {said} words");
    let lines = |what: &str| world.lines.iter().filter(|line| line.contains(what)).count();
    assert_eq!((lines("web0 is down"), lines("web0 is up")), (2, 3));
    assert!(lines("web0: its agent") <= said);
}

#[test]
fn what_is_no_longer_wanted_is_asked_no_more_and_what_comes_is_asked_at_once() {
    let check = Some(Check { interval: 30 * SECOND, ..Check::new(CheckKind::Tcp) });
    let mut world = World::new(&[Manner::Tls, Manner::Tls], check.clone(), &Policy::default(), false);
    let first = revision(&[check.clone(), None], &Policy::default(), false, None);
    let mut checks = Checks::new(1500, false, 3);
    checks.follow(&first, Time::ZERO);
    world.checks = checks;
    world.run(65 * SECOND);
    assert_eq!(world.states(), [Checked::Up, Checked::Unknown]);
    let second = revision(&[None, check], &Policy::default(), false, Some(first.directory()));
    world.checks.follow(&second, world.now);
    assert_eq!(world.states(), [Checked::Unknown; 2]);
    let before = world.servers[0].seen.knocks;
    world.run(65 * SECOND);
    assert_eq!(world.states(), [Checked::Unknown, Checked::Up]);
    assert_eq!(world.servers[0].seen.knocks, before);
}

#[test]
fn at_the_end_and_when_it_is_no_longer_wanted_a_check_under_way_is_broken_off_at_the_server_too() {
    let check = || Some(Check { interval: 30 * SECOND, timeout: Some(20 * SECOND), ..Check::new(CheckKind::Tls) });
    for at_the_end in [true, false] {
        let mut world = World::new(&[Manner::Mute], check(), &Policy::default(), false);
        world.checks = Checks::new(1500, false, 3);
        world.checks.follow(&revision(&[check()], &Policy::default(), false, None), Time::ZERO);
        while world.servers[0].seen.accepted == 0 {
            world.run(SECOND);
        }
        let before = world.servers[0].seen;
        assert_eq!(world.checks.under_way(), 1);
        if at_the_end {
            let (now, mut out) = (world.now, Vec::new());
            world.checks.end(now, &mut |leaving| out.push(leaving.packet.to_vec()));
            out.into_iter().for_each(|packet| world.put(Some(0), packet));
        } else {
            let none = revision(&[None], &Policy::default(), false, None);
            world.checks.follow(&none, world.now);
        }
        world.run(SECOND / 2);
        assert_eq!((world.checks.under_way(), world.servers[0].seen.resets), (0, before.resets + 1), "{at_the_end}");
    }
}

#[test]
fn no_more_than_so_many_connections_are_under_way_and_all_servers_have_their_turn() {
    let check = Check { interval: SECOND, ..Check::new(CheckKind::Tcp) };
    let mut checks = Checks::new(1500, false, 3);
    let many = vec![Some(check); 600];
    // No more addresses than a /24 has.
    let wanted: Vec<_> = many.into_iter().take(200).collect();
    checks.follow(&revision(&wanted, &Policy::default(), false, None), Time::ZERO);
    let mut asked = std::collections::HashSet::new();
    for ms in 0..8000 {
        checks.poll(Time::from_millis(ms), &mut |leaving| _ = asked.insert(leaving.backend));
        assert!(checks.under_way() <= dispatcher::checks::AT_ONCE);
    }
    assert_eq!(asked.len(), 200);
    assert!(checks.seen().all(|seen| seen.checked == Checked::Down));
}

#[test]
fn hostile_packets_do_no_harm() {
    let mut world = World::new(&[Manner::Tls], Some(every_second(CheckKind::Tls)), &Policy::default(), false);
    let mut random = 1u64;
    for _ in 0..2000 {
        world.run(Duration::from_millis(2));
        let mut packets: Vec<Vec<u8>> = world.wire.iter().map(|(_, _, packet)| packet.clone()).collect();
        packets.push(vec![0x45; 3]);
        for mut packet in packets {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
            let at = (random >> 33) as usize % packet.len();
            packet[at] ^= (random >> 20) as u8;
            packet.truncate(packet.len() - (random >> 60) as usize % packet.len().min(8));
            world.checks.receive(&packet, world.now);
        }
    }
}

#[test]
fn a_check_through_a_tunnel_says_a_segment_size_that_leaves_room_for_what_stands_in_front() {
    let udp = |port| SocketAddr::new("10.2.0.99".parse().unwrap(), port);
    let vxlan = TunnelKind::Vxlan { vni: 7, mac: [2, 0, 0, 0, 0, 9] };
    let of = |kind, port| Some(Tunnel { kind, endpoint: udp(port) });
    for (tunnel, mss) in
        [(None, 1460), (of(TunnelKind::Ipip, 0), 1440), (of(TunnelKind::Gue, 6080), 1428), (of(vxlan, 4789), 1410)]
    {
        let check = Some(Check::new(CheckKind::Tcp)).into();
        let backend = MemberSpec { check, tunnel, ..MemberSpec::new("web1", address(0, false)) };
        let pool = PoolSpec { backends: vec![backend], ..PoolSpec::default() };
        let wanted = Wanted::single(vec!["10.1.0.9:443".parse().unwrap()], Policy::default(), pool);
        let config = Config { ports: vec![port(false)], wanted: wanted.clone(), ..Config::default() };
        let directory = Arc::new(Directory::next(None, &wanted, |_| true).unwrap());
        let mut checks = Checks::new(1500, false, 7);
        checks.follow(&Arc::new(Revision::new(&config, directory).unwrap()), Time::ZERO);
        let mut said = vec![];
        for ms in 0..3000 {
            let now = Time::ZERO + Duration::from_millis(ms);
            // Of each SYN what stands behind both headers, the first option.
            checks.poll(now, &mut |leaving| said.extend(leaving.packet.get(40..44).map(<[u8]>::to_vec)));
        }
        let option = [&[2, 4][..], &u16::to_be_bytes(mss)].concat();
        assert!(!said.is_empty() && said.iter().all(|option_of| *option_of == option), "{tunnel:?}: {said:?}");
    }
}
