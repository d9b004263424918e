//! Services, pools and backends that come and go while connections run.

use core::time::Duration;
use dispatcher::engine::{Config, End, Limits};
use lb::{Algorithm, BackendId, MemberSpec, PoolSpec, RouteSpec, ServiceSpec, SniPattern, State, Wanted};
use sim::apps::{Closing, Ended, Expect, Plan, Write, get};
use sim::config::{server_ip, server_name, two_armed, vip};
use sim::host::Stack;
use sim::tls::Hello;
use sim::world::World;
use std::net::SocketAddr;

/// A world of servers that are there, of which the first `in_use` are behind the VIP.
fn world(name: &'static str, in_use: usize, servers: usize) -> (World, Wanted) {
    let limits = Limits { flows: 256, hellos: 16, backends: 8, ..Limits::default() };
    let mut config = Config { limits, ..two_armed(in_use, false) };
    // So that few clients meet all servers.
    config.wanted.pools[0].balance = Algorithm::RoundRobin;
    let wanted = config.wanted.clone();
    let mut w = World::new(name, config, 7, 2, in_use, false);
    for n in in_use..servers {
        w.add_server(n, false, 1, Stack::default());
    }
    (w, wanted)
}

fn server(n: usize) -> MemberSpec {
    MemberSpec::new(server_name(n, false), address(n))
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::new(server_ip(n, false), 8443)
}

/// The pool has these servers.
fn of(wanted: &Wanted, backends: Vec<MemberSpec>) -> Wanted {
    let mut next = wanted.clone();
    next.pools[0].backends = backends;
    next
}

/// Bytes that come back, a few every 50 ms, for two seconds.
fn slow() -> Plan {
    Plan::echo(&[b'x'; 4000]).dripping(100, Duration::from_millis(50), 4000)
}

fn hello(session: &[u8]) -> Hello {
    Hello { session_id: session.to_vec(), ..Hello::default() }
}

/// A new session, and the server that made it.
fn session(w: &mut World) -> (Vec<u8>, usize) {
    let id = w.connect(0, Plan::tls(&hello(&[]), b"body"));
    w.run_until_done(Duration::from_secs(10));
    let flight = w.conn(id).flight().expect("a flight");
    (flight.session_id, flight.server)
}

/// Who answers a client that offers the session, and whether it resumes.
fn back(w: &mut World, session: &[u8]) -> (usize, bool) {
    let id = w.connect(0, Plan::tls(&hello(session), b"body"));
    w.run_until_done(Duration::from_secs(10));
    let flight = w.conn(id).flight().expect("a flight");
    (flight.server, flight.resumed)
}

fn is_free(w: &World, slot: u16) -> bool {
    let id = BackendId(slot);
    w.directory().backend(id).is_some_and(|b| w.engine.released().is_free(id, b.generation))
}

#[test]
fn a_backend_that_is_removed_keeps_its_connections_and_gets_no_new_ones_not_even_to_resume() {
    let (mut w, wanted) = world("removed", 1, 2);
    let (old, first) = session(&mut w);
    assert_eq!((first, back(&mut w, &old)), (0, (0, true)));
    let slow_one = w.connect(1, slow());
    w.run(Duration::from_millis(300));
    w.reconfigure(&of(&wanted, vec![server(1)]), &[]).unwrap();
    assert_eq!(back(&mut w, &old), (1, false));
    w.run_until_done(Duration::from_secs(10));
    assert!(w.conn(slow_one).complete());
    assert_eq!(w.conn(slow_one).outcome, Ended::Closed);
    let told = w.told_of(w.conn(slow_one).local);
    assert_eq!((told[0].backend.as_deref(), told[0].end), (Some("web0"), End::Fin), "under its own name to the end");
    w.assert_quiescent();
}

#[test]
fn connections_to_a_backend_that_is_removed_at_once_are_reset_on_both_sides_with_data_under_way() {
    let (mut w, wanted) = world("reset", 2, 2);
    let ids: Vec<_> = (0..6).map(|i| w.connect(i % 2, slow())).collect();
    w.run(Duration::from_millis(300));
    w.reconfigure(&of(&wanted, vec![server(1)]), &[address(0)]).unwrap();
    w.run(Duration::from_millis(50));
    let servers = w.servers();
    let (mut reset, mut stayed) = (0, 0);
    for id in &ids {
        let local = w.conn(*id).local;
        match w.told_of(local).first() {
            Some(t) => {
                assert_eq!((t.backend.as_deref(), t.end), (Some("web0"), End::BackendRemoved));
                assert_eq!(w.conn(*id).outcome, Ended::Reset, "the client knows");
                reset += 1;
            }
            None => stayed += 1,
        }
    }
    assert!(reset > 0 && stayed > 0, "{reset} and {stayed}");
    assert_eq!(w.server(servers[0]).resets, reset, "the server knows");
    w.run_until_done(Duration::from_secs(10));
    assert!(ids.iter().filter(|id| w.conn(**id).outcome == Ended::Closed).all(|id| w.conn(*id).complete()));
    w.assert_quiescent();
}

/// The second change comes before the engine has looked at a single flow for the first; a third takes one of the two back.
#[test]
fn removals_at_once_that_follow_each_other_reset_the_connections_of_each_and_of_none_that_came_back() {
    let (mut w, wanted) = world("resets", 4, 4);
    let ids: Vec<_> = (0..12).map(|i| w.connect(i % 2, slow())).collect();
    w.run(Duration::from_millis(300));
    w.reconfigure(&of(&wanted, vec![server(1), server(2), server(3)]), &[address(0)]).unwrap();
    w.reconfigure(&of(&wanted, vec![server(2), server(3)]), &[address(1)]).unwrap();
    w.reconfigure(&of(&wanted, vec![server(3)]), &[address(2)]).unwrap();
    w.reconfigure(&of(&wanted, vec![server(2), server(3)]), &[]).unwrap();
    w.run(Duration::from_millis(50));
    let ended = |name: &str, w: &World| {
        let of = |id: &&_| w.told_of(w.conn(**id).local).first().is_some_and(|t| t.backend.as_deref() == Some(name));
        ids.iter().filter(of).count()
    };
    assert_eq!(["web0", "web1", "web2", "web3"].map(|name| ended(name, &w)), [3, 3, 0, 0]);
    w.run_until_done(Duration::from_secs(10));
    assert_eq!(ids.iter().filter(|id| w.conn(**id).complete()).count(), 6);
    w.assert_quiescent();
}

#[test]
fn a_service_that_vanishes_refuses_new_clients_and_keeps_its_connections() {
    let (mut w, wanted) = world("closed", 1, 1);
    let mut two = wanted.clone();
    let second = SocketAddr::new(vip(false).ip(), 444);
    two.services.push(ServiceSpec { name: "second".into(), listen: vec![second], ..wanted.services[0].clone() });
    w.reconfigure(&two, &[]).unwrap();
    let led = w.connect_at(0, second, slow());
    // This one has said nothing when its service goes, and is led to where it would have been.
    let silent =
        Plan { writes: vec![Write { pause: Duration::from_millis(400), ..Write::now(get(100)) }], ..Plan::get(100) };
    let silent = w.connect_at(1, second, silent);
    w.run(Duration::from_millis(200));
    w.reconfigure(&wanted, &[]).unwrap();
    let late = w.connect_at(0, second, Plan::get(100));
    w.run(Duration::from_millis(100));
    assert_eq!(w.conn(late).outcome, Ended::Reset, "a closed port of an address that is ours");
    w.run_until_done(Duration::from_secs(10));
    for id in [led, silent] {
        assert!(w.conn(id).complete() && w.conn(id).outcome == Ended::Closed, "{id:?}");
    }
    w.assert_quiescent();
}

#[test]
fn a_new_address_serves_at_once_and_an_address_that_is_ours_no_more_is_silent() {
    let (mut w, wanted) = world("address", 1, 1);
    let elsewhere: SocketAddr = "10.1.9.77:443".parse().unwrap();
    let mut moved = wanted.clone();
    moved.services[0].listen = vec![elsewhere];
    // No flow is left there, so the address is given up with the next version.
    w.reconfigure(&moved, &[]).unwrap();
    w.reconfigure(&moved, &[]).unwrap();
    let here = w.connect_at(0, elsewhere, Plan::get(100));
    let there = w.connect(1, Plan::get(100));
    w.run(Duration::from_secs(1));
    assert_eq!((w.conn(here).outcome, w.conn(there).outcome), (Ended::Closed, Ended::Open));
    assert!(w.conn(there).received.is_empty());
    // It comes back, and the client's next SYN is answered.
    w.reconfigure(&wanted, &[]).unwrap();
    w.run_until_done(Duration::from_secs(60));
    assert!(w.conn(there).complete());
    w.assert_quiescent();
}

#[test]
fn an_address_that_is_removed_stays_ours_until_its_last_flow_is_forgotten_and_refuses_everybody_new() {
    let (mut w, wanted) = world("leaving", 1, 1);
    let second: SocketAddr = "10.1.9.77:443".parse().unwrap();
    let mut two = wanted.clone();
    two.services.push(ServiceSpec { name: "second".into(), listen: vec![second], ..wanted.services[0].clone() });
    w.reconfigure(&two, &[]).unwrap();
    let slow_one = w.connect_at(0, second, slow());
    w.run(Duration::from_millis(300));
    let there = |w: &World| w.directory().listener(second).map(|l| l.is_leaving());
    for _ in 0..3 {
        // However many versions come meanwhile.
        w.reconfigure(&wanted, &[]).unwrap();
        assert_eq!(there(&w), Some(true));
        let id = w.connect_at(1, second, Plan::get(100));
        w.run(Duration::from_millis(200));
        assert_eq!(w.conn(id).outcome, Ended::Reset, "a closed port of an address that is ours");
    }
    w.run_until_done(Duration::from_secs(10));
    assert!(w.conn(slow_one).complete() && w.conn(slow_one).outcome == Ended::Closed);
    w.reconfigure(&wanted, &[]).unwrap();
    assert_eq!(there(&w), Some(true), "its last segments may come again");
    w.run(Duration::from_secs(16));
    w.reconfigure(&wanted, &[]).unwrap();
    assert_eq!(there(&w), None);
    let id = w.connect_at(1, second, Plan::get(100));
    w.run(Duration::from_secs(1));
    assert_eq!(w.conn(id).outcome, Ended::Open, "nobody is there");
    // It comes back, with flows and all.
    w.reconfigure(&two, &[]).unwrap();
    w.run_until_done(Duration::from_secs(60));
    assert!(w.conn(id).complete());
    w.assert_quiescent();
}

#[test]
fn a_client_that_is_being_dialled_at_a_backend_that_goes_is_led_to_another() {
    let (mut w, wanted) = world("dialled", 1, 2);
    let servers = w.servers();
    w.hosts[servers[0]].dark = true;
    let id = w.connect(0, Plan::get(1000));
    w.run(Duration::from_millis(300));
    w.reconfigure(&of(&wanted, vec![server(1)]), &[]).unwrap();
    w.run(Duration::from_millis(700));
    assert!(w.conn(id).complete(), "sooner than a server that stays would have been given up");
    w.run_until_done(Duration::from_secs(10));
    assert_eq!(w.told_of(w.conn(id).local)[0].backend.as_deref(), Some("web1"));
    w.assert_quiescent();
}

#[test]
fn clients_whose_pool_is_renamed_are_routed_anew_by_their_service_the_silent_and_those_being_dialled() {
    let (mut w, wanted) = world("renamed", 1, 3);
    let with = |own: &str, named: &str, there: MemberSpec| {
        let pool = |name: &str, backend| PoolSpec { name: name.into(), backends: vec![backend], ..PoolSpec::default() };
        let route = RouteSpec { sni: vec![SniPattern::Exact("b.example".into())], alpn: vec![], pool: named.into() };
        let service = ServiceSpec { pool: own.into(), routes: vec![route], ..wanted.services[0].clone() };
        Wanted { services: vec![service], pools: vec![pool(own, server(0)), pool(named, there)] }
    };
    w.reconfigure(&with("own", "named", server(1)), &[]).unwrap();
    let host = w.servers()[1];
    w.hosts[host].dark = true;
    let dialled = w.connect(0, Plan::tls(&Hello { sni: Some("b.example"), ..hello(&[]) }, b"body"));
    let silent =
        Plan { writes: vec![Write { pause: Duration::from_millis(500), ..Write::now(get(100)) }], ..Plan::get(100) };
    let silent = w.connect(1, silent);
    w.run(Duration::from_millis(300));
    w.reconfigure(&with("own2", "named2", server(2)), &[]).unwrap();
    w.run_until_done(Duration::from_secs(10));
    for (id, backend) in [(dialled, "web2"), (silent, "web0")] {
        assert!(w.conn(id).complete() && w.conn(id).outcome == Ended::Closed, "{backend}");
        assert_eq!(w.told_of(w.conn(id).local)[0].backend.as_deref(), Some(backend));
    }
    w.assert_quiescent();
}

#[test]
fn sessions_that_are_forgotten_resume_no_more_and_connections_and_those_of_others_stay() {
    let (mut w, wanted) = world("forgotten", 2, 2);
    let all: Vec<_> = (0..6).map(|_| session(&mut w)).collect();
    let slow_one = w.connect(1, slow());
    w.run(Duration::from_millis(300));
    w.forget_sessions(&wanted, address(0)).unwrap();
    w.run(Duration::from_millis(300));
    let (gone, stay): (Vec<_>, Vec<_>) = all.iter().partition(|(_, server)| *server == 0);
    assert!(!gone.is_empty() && !stay.is_empty());
    assert_eq!(w.engine.sessions(w.engine_now()).census.session_ids, stay.len());
    assert!(stay.iter().all(|(id, _)| back(&mut w, id) == (1, true)));
    assert!(w.conn(slow_one).complete());
    // It learns on.
    let (new, server) = (0..4).map(|_| session(&mut w)).find(|(_, server)| *server == 0).unwrap();
    assert_eq!(back(&mut w, &new), (server, true));
    w.assert_quiescent();
}

#[test]
fn a_slot_is_given_away_when_the_last_flow_and_the_last_row_of_its_backend_are_gone() {
    let (mut w, wanted) = world("slot", 2, 3);
    let (id, issuer) = [session(&mut w), session(&mut w)].into_iter().find(|(_, issuer)| *issuer == 0).unwrap();
    let client = (0..20).map(|_| w.connect(1, slow())).collect::<Vec<_>>();
    w.run(Duration::from_millis(300));
    w.reconfigure(&of(&wanted, vec![server(1)]), &[]).unwrap();
    w.run(Duration::from_secs(1));
    assert!(!is_free(&w, 0), "connections run");
    w.reconfigure(&of(&wanted, vec![server(1), server(2)]), &[]).unwrap();
    assert_eq!(w.directory().find("web2").unwrap().id, BackendId(2));
    w.run_until_done(Duration::from_secs(10));
    assert!(client.iter().all(|c| w.conn(*c).complete()));
    assert!(!is_free(&w, 0), "their last segments may come again");
    w.run(Duration::from_secs(16));
    assert!(is_free(&w, 0));
    // The next one gets it, and nothing of what was known of the last.
    let next = MemberSpec { name: "next".into(), ..server(2) };
    w.reconfigure(&of(&wanted, vec![server(1), server(2), next]), &[]).unwrap();
    let holder = w.directory().find("next").unwrap();
    assert_eq!((holder.id, holder.generation), (BackendId(0), 1));
    let (answered, resumed) = back(&mut w, &id);
    assert!(answered != issuer && !resumed);
    assert_eq!(w.told.last().unwrap().decided, None);
    w.assert_quiescent();
}

#[test]
fn a_backend_that_comes_back_while_it_leaves_is_the_same_and_may_leave_again() {
    let (mut w, wanted) = world("returns", 2, 2);
    for _ in 0..3 {
        w.reconfigure(&of(&wanted, vec![server(1)]), &[]).unwrap();
        w.reconfigure(&wanted, &[]).unwrap();
        let holder = w.directory().find("web0").unwrap();
        assert_eq!((holder.id, holder.generation), (BackendId(0), 0));
    }
    let (id, issuer) = session(&mut w);
    w.run(Duration::from_secs(20));
    assert!(!is_free(&w, 0), "it is wanted");
    assert_eq!(back(&mut w, &id), (issuer, true), "and learned of");
    w.reconfigure(&of(&wanted, vec![server(1)]), &[]).unwrap();
    w.run(Duration::from_secs(20));
    assert!(is_free(&w, 0));
    w.assert_quiescent();
}

#[test]
fn draining_backends_resume_only_and_disabled_ones_not_even_that() {
    let (mut w, wanted) = world("drained", 1, 2);
    let (id, _) = session(&mut w);
    let with = |state| of(&wanted, vec![MemberSpec { state, ..server(0) }, server(1)]);
    w.reconfigure(&with(State::Draining), &[]).unwrap();
    assert_eq!(back(&mut w, &id), (0, true));
    for _ in 0..8 {
        assert_eq!(session(&mut w).1, 1);
    }
    w.reconfigure(&with(State::Down), &[]).unwrap();
    assert_eq!(back(&mut w, &id), (1, false));
    w.reconfigure(&with(State::Up), &[]).unwrap();
    assert_eq!(back(&mut w, &id), (0, true), "what was known is still known");
    w.assert_quiescent();
}

#[test]
fn a_server_that_is_added_before_it_is_started_delays_nobody() {
    let (w, wanted) = world("early", 1, 2);
    let config = Config { probe: true, ..w.config.clone() };
    drop(w);
    let mut w = World::new("early", config, 7, 2, 1, false);
    let late = w.add_server(1, false, 1, Stack::default());
    w.hosts[late].dark = true;
    w.run(Duration::from_secs(1));
    w.reconfigure(&of(&wanted, vec![server(0), server(1)]), &[]).unwrap();
    let connect = |w: &mut World| {
        for i in 0..16 {
            w.connect(i % 2, Plan::get(100));
        }
        let begun = w.now;
        w.run_until_done(Duration::from_secs(10));
        w.now.since(begun)
    };
    assert!(connect(&mut w) < Duration::from_millis(1500));
    w.run(Duration::from_secs(5));
    assert!(connect(&mut w) < Duration::from_millis(1500));
    assert_eq!(w.told.iter().map(|t| t.attempts).max(), Some(1), "nobody was led there in vain");
    w.hosts[late].dark = false;
    w.run(Duration::from_secs(3));
    connect(&mut w);
    assert!(w.told.iter().any(|t| t.backend.as_deref() == Some("web1")), "now it is there");
}

#[test]
fn where_all_backends_are_new_they_are_tried_before_they_are_heard() {
    let (w, wanted) = world("new", 1, 2);
    let config = Config { probe: true, ..w.config.clone() };
    drop(w);
    let mut w = World::new("new", config, 7, 2, 1, false);
    w.add_server(1, false, 1, Stack::default());
    w.run(Duration::from_secs(1));
    w.reconfigure(&of(&wanted, vec![server(1)]), &[]).unwrap();
    let id = w.connect(0, Plan::get(100));
    w.run_until_done(Duration::from_secs(10));
    assert!(w.conn(id).complete());
}

#[test]
fn more_backends_than_there_is_room_for_change_nothing() {
    let (mut w, wanted) = world("full", 1, 1);
    let many = (0..9).map(server).collect();
    let why = w.reconfigure(&of(&wanted, many), &[]).unwrap_err();
    assert!(why.contains("room for 8 backends"), "{why}");
    assert_eq!(w.directory().backends().count(), 1);
    let id = w.connect(0, Plan { closing: Closing::ClientFirst, expect: Expect::Anything, ..Plan::get(10) });
    w.run_until_done(Duration::from_secs(10));
    assert_eq!(w.conn(id).outcome, Ended::Closed);
}

#[test]
fn a_thousand_changes_of_a_thousand_backends_leave_no_trace() {
    let limits = Limits { flows: 64, hellos: 4, watches: 16, sessions: 256, backends: 1024, ..Limits::default() };
    let config = Config { limits, ..two_armed(1, false) };
    let wanted = config.wanted.clone();
    let mut w = World::new("many", config, 7, 1, 1, false);
    for round in 0..40u16 {
        let other = |i: u16| {
            let [high, low] = (round % 2 * 1000 + i).to_be_bytes();
            MemberSpec::new(format!("b{round}-{i}"), SocketAddr::from(([10, 2, 100 + high, low], 8443)))
        };
        let mut backends: Vec<MemberSpec> = (0..500).map(other).collect();
        backends.push(server(0));
        w.reconfigure(&of(&wanted, backends), &[]).unwrap();
        w.run(Duration::from_secs(2));
    }
    w.reconfigure(&wanted, &[]).unwrap();
    w.run(Duration::from_secs(2));
    w.reconfigure(&wanted, &[]).unwrap();
    assert_eq!(w.directory().backends().count(), 1);
    assert_eq!(session(&mut w).1, 0);
    w.assert_quiescent();
}

#[test]
fn a_name_that_gets_another_address_is_another_backend_and_the_old_one_ends_its_connections_in_peace() {
    let (mut w, wanted) = world("moved", 1, 2);
    let (old, _) = session(&mut w);
    let slow_one = w.connect(1, slow());
    w.run(Duration::from_millis(300));
    w.reconfigure(&of(&wanted, vec![MemberSpec::new(server_name(0, false), address(1))]), &[]).unwrap();
    assert_eq!(back(&mut w, &old), (1, false), "its sessions are the old server's");
    let (new, maker) = session(&mut w);
    assert_eq!((maker, back(&mut w, &new)), (1, (1, true)));
    w.run_until_done(Duration::from_secs(10));
    assert!(w.conn(slow_one).complete());
    w.assert_quiescent();
}

#[test]
fn of_many_versions_without_a_poll_between_them_the_last_counts() {
    let (mut w, wanted) = world("versions", 2, 2);
    let (old, first) = session(&mut w);
    let other = 1 - first;
    for n in 0..64 {
        w.reconfigure(&of(&wanted, vec![server(if n % 2 == 0 { other } else { first })]), &[]).unwrap();
    }
    assert_eq!(w.directory().version(), 65);
    assert_eq!(back(&mut w, &old).0, first, "the other was removed by the last");
    w.reconfigure(&wanted, &[]).unwrap();
    w.run_until_done(Duration::from_secs(10));
    w.assert_quiescent();
}
