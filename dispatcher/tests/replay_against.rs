//! What a change would do to recorded traffic: whose clients meet another server, and which sessions are lost by that.

mod captures;

use captures::capture;
use dispatcher::capture::Capture;
use dispatcher::engine::{Config, DropReason, PortId};
use dispatcher::replay::against::{Comparison, Move, Session, compare};
use dispatcher::replay::reenact::conversation::Conversation;
use dispatcher::replay::reenact::recording::{Reader, Recorded, Recording};
use dispatcher::replay::reenact::wire::Ended;
use dispatcher::replay::reenact::world::{Witness, World};
use dispatcher::time::Time;
use lb::{Algorithm, HashOn, MemberSpec, Policy, PoolSpec, RouteSpec, ServiceSpec, Wanted};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const FLEETS: [&str; 3] = ["fleet_tls12_sessionid.pcap", "fleet_tls12_ticket.pcap", "fleet_tls13_psk.pcap"];

fn member(name: &str) -> MemberSpec {
    let last = name.as_bytes()[0] - b'a' + 1;
    MemberSpec::new(name, SocketAddr::from(([10, 9, 0, last], 443)))
}

fn read(capture: &Capture) -> Recording<'_> {
    let mut reader = Reader::default();
    reader.read(capture, |_| {}).unwrap();
    reader.finish()
}

/// The recorded servers' addresses are the VIPs of one service with these backends.
fn config(recording: &Recording<'_>, backends: &[&str]) -> Config {
    let mut listen: Vec<SocketAddr> = recording.connections.iter().map(|c| c.server).collect();
    listen.sort_unstable();
    listen.dedup();
    let backends = backends.iter().map(|name| member(name)).collect();
    let pool = PoolSpec { backends, ..PoolSpec::default() };
    Config { wanted: Wanted::single(listen, Policy::default(), pool), ..Config::default() }
}

/// With a, b and c, and after the change.
fn changed(name: &str, balance: Algorithm, change: impl Fn(&mut Wanted)) -> Comparison {
    let capture = Capture::open(&capture(name)).unwrap();
    let recording = read(&capture);
    let config = config(&recording, &["a", "b", "c"]).pool(|p| p.balance = balance);
    let mut next = config.wanted.clone();
    change(&mut next);
    let found = compare(recording, &config, &next, |_, _| {}).unwrap();
    let t = &found.total;
    assert_eq!(found.moves.len() as u64, t.another + t.none + t.served, "{t:?}");
    found
}

/// The same, where connections of one client spread.
fn spread(name: &str, change: impl Fn(&mut Wanted)) -> Comparison {
    let capture = Capture::open(&capture(name)).unwrap();
    let recording = read(&capture);
    let config = config(&recording, &["a", "b", "c"]).pool(|p| p.hash_on = HashOn::Tuple);
    let mut next = config.wanted.clone();
    change(&mut next);
    compare(recording, &config, &next, |_, _| {}).unwrap()
}

/// Known sessions by their server: all of them move when all servers are others.
fn known_at(name: &str) -> BTreeMap<String, u64> {
    let all = changed(name, Algorithm::Maglev, |w| w.pools[0].backends = ["d", "e", "f"].map(member).into());
    let mut known = BTreeMap::new();
    for m in all.moves.iter().filter(|m| m.session == Some(Session::Lost)) {
        *known.entry(m.before.clone().unwrap()).or_default() += 1;
    }
    assert_eq!((all.total.lost, all.total.same()), (all.total.known, 0), "nobody meets whom he met");
    known
}

/// One service for each recorded server, with one backend of its own: so no two have the same ticket keys.
fn one_for_each(recording: &Recording<'_>) -> Config {
    let one = config(recording, &["a"]);
    let (service, pool) = (&one.wanted.services[0], &one.wanted.pools[0]);
    let mut wanted = Wanted::default();
    for (listen, name) in service.listen.iter().zip(["a", "b", "c"]) {
        let name = name.to_owned();
        wanted.pools.push(PoolSpec { name: name.clone(), backends: vec![member(&name)], ..pool.clone() });
        wanted.services.push(ServiceSpec { pool: name.clone(), listen: vec![*listen], name, ..service.clone() });
    }
    Config { wanted, ..one }
}

fn new_ones(moves: &[Move]) -> impl Iterator<Item = &Move> {
    moves.iter().filter(|m| m.session.is_none())
}

#[test]
fn a_change_that_changes_nothing_moves_nobody_whatever_the_balance() {
    let in_turn = FLEETS.map(|name| (name, Algorithm::RoundRobin));
    let others = [Algorithm::Maglev, Algorithm::LeastConn, Algorithm::RandomTwo].map(|balance| (FLEETS[0], balance));
    for (name, balance) in in_turn.into_iter().chain(others) {
        let found = changed(name, balance, |_| {});
        assert_eq!(found.moves, [], "{name} {balance:?}");
        let t = found.total;
        assert!(t.known > 400 && t.known < t.connections, "{name} {balance:?}: {t:?}");
        let chance = found.notes.iter().any(|n| n.contains("is chance"));
        assert_eq!(chance, balance != Algorithm::Maglev);
    }
}

#[test]
fn without_a_backend_all_its_sessions_are_lost_and_no_other() {
    let known = known_at(FLEETS[0]);
    let found = changed(FLEETS[0], Algorithm::Maglev, |w| drop(w.pools[0].backends.remove(0)));
    let t = found.total;
    assert_eq!((t.lost, t.kept, t.none), (known["a"], 0, 0), "{known:?}");
    assert!(t.lost > 50, "{t:?}");
    for m in &found.moves {
        assert!(m.session.is_none() || m.before.as_deref() == Some("a"), "{m:?}");
        assert!(matches!(m.after.as_deref(), Some("b" | "c")), "{m:?}");
    }
    // Of those without a session few have not met it.
    let others = new_ones(&found.moves).filter(|m| m.before.as_deref() != Some("a")).count() as u64;
    assert!(others * 50 <= t.connections, "{others} of {t:?}");
}

#[test]
fn sessions_of_every_kind_are_lost_with_their_server_and_follow_it_into_another_pool() {
    for name in FLEETS {
        let capture = Capture::open(&capture(name)).unwrap();
        let now = one_for_each(&read(&capture));
        // Of one service the server is exchanged.
        let mut next = now.wanted.clone();
        next.pools[0].backends = vec![member("d")];
        let found = compare(read(&capture), &now, &next, |_, _| {}).unwrap();
        let (t, a) = (found.total, found.pools[&("a".to_owned(), "a".to_owned())]);
        assert!(a.known > 50 && a.known < a.connections && t.known > a.known, "{name}: {t:?}");
        assert_eq!((t.lost, t.another, a.another, t.kept), (a.known, a.connections, a.connections, 0), "{name}");
        assert_eq!(found.notes, [""; 0], "{name}");
        // All services lead to all servers.
        let mut next = now.wanted.clone();
        next.pools[0].backends = ["c", "b", "a", "d"].map(member).into();
        next.services.iter_mut().for_each(|s| s.pool = "a".into());
        next.pools.truncate(1);
        let together = compare(read(&capture), &now, &next, |_, _| {}).unwrap().total;
        assert_eq!((together.known, together.lost, together.kept), (t.known, 0, 0), "{name}");
        assert!(together.another > 0 && together.another <= t.connections - t.known, "{name}: {together:?}");
    }
}

#[test]
fn one_more_backend_takes_its_share_of_new_sessions_and_not_one_that_is_known() {
    let found = spread(FLEETS[0], |w| w.pools[0].backends.push(member("d")));
    let t = found.total;
    assert_eq!((t.lost, t.kept, t.none), (0, 0, 0), "{t:?}");
    assert!(new_ones(&found.moves).count() as u64 == t.another && t.another > 0, "{t:?}");
    // A quarter, give or take a tenth of all.
    assert!(t.another * 100 < (t.connections - t.known) * 35, "{t:?}");
    let strays = found.moves.iter().filter(|m| m.after.as_deref() != Some("d")).count() as u64;
    assert!(strays * 50 <= t.connections, "{strays}");
    // Where several servers open a ticket another of them may be met, and none is lost.
    for name in &FLEETS[1..] {
        let t = spread(name, |w| w.pools[0].backends.push(member("d"))).total;
        assert!(t.lost == 0 && t.another > t.kept, "{name}: {t:?}");
    }
}

#[test]
fn a_backend_of_weight_zero_keeps_its_sessions_and_one_that_is_down_does_not() {
    let with =
        |change: fn(&mut MemberSpec)| changed(FLEETS[0], Algorithm::Maglev, |w| change(&mut w.pools[0].backends[0]));
    let idle = with(|a| a.weight = 0);
    assert_eq!((idle.total.lost, idle.total.kept), (0, 0));
    assert!(idle.total.another > 0 && idle.moves.iter().all(|m| m.after.as_deref() != Some("a")));
    assert_eq!(with(|a| a.state = lb::State::Draining).total, idle.total);
    assert_eq!(with(|a| a.state = lb::State::Down).total.lost, known_at(FLEETS[0])["a"]);
}

#[test]
fn another_name_of_a_pool_or_a_service_moves_nobody_and_another_name_of_a_server_loses_its_sessions() {
    let found = changed(FLEETS[0], Algorithm::Maglev, |w| {
        (w.pools[0].name, w.services[0].pool, w.services[0].name) = ("shop".into(), "shop".into(), "front".into());
    });
    assert_eq!(found.moves, []);
    assert_eq!(found.pools.keys().collect::<Vec<_>>(), [&("default".to_owned(), "default".to_owned())]);
    // It is at its address still, and some meet it there again by chance: they have not moved.
    let found = changed(FLEETS[0], Algorithm::Maglev, |w| w.pools[0].backends[0].name = "g".into());
    let known = known_at(FLEETS[0])["a"];
    assert!(found.total.lost > 0 && found.total.lost < known, "{:?}", found.total);
    assert!(found.moves.iter().all(|m| m.session.is_none() || m.before.as_deref() == Some("a")));
}

#[test]
fn a_session_that_another_server_opens_too_is_kept() {
    // In turn: the same key's tickets come from all servers, so each of them is known to open it.
    let found = changed("fleet_tls12_ticket.pcap", Algorithm::RoundRobin, |w| drop(w.pools[0].backends.remove(0)));
    let t = found.total;
    assert!(t.kept > 50 && t.kept + t.lost <= t.another, "{t:?}");
    assert!(found.notes.iter().any(|n| n.contains("ticket keys come from more than one server")), "{:?}", found.notes);
    assert!(found.moves.iter().all(|m| m.session != Some(Session::Kept) || m.after.is_some()));
}

#[test]
fn a_listener_that_goes_leaves_its_clients_without_a_server_and_one_that_comes_finds_its_own() {
    let name = FLEETS[0];
    let found = changed(name, Algorithm::Maglev, |w| w.services[0].listen = w.services[0].listen.split_off(1));
    let t = found.total;
    assert!(t.none > 100 && t.another == 0 && t.served == 0, "{t:?}");
    assert!(t.lost > 0 && t.lost < t.none, "{t:?}");
    assert!(found.moves.iter().all(|m| m.after.is_none() && m.vip == found.moves[0].vip));
    // The other way round.
    let capture = Capture::open(&capture(name)).unwrap();
    let recording = read(&capture);
    let next = config(&recording, &["a", "b", "c"]).wanted;
    let mut now = config(&recording, &["a", "b", "c"]);
    now.wanted.services[0].listen.remove(0);
    let back = compare(recording, &now, &next, |_, _| {}).unwrap().total;
    assert_eq!((back.served, back.another, back.none, back.lost), (t.none, 0, 0, 0));
}

#[test]
fn routes_that_change_are_told_by_the_pool_that_clients_had() {
    let name = "interleaved_many_clients.pcap";
    let found = changed(name, Algorithm::Maglev, |w| {
        w.pools.push(PoolSpec { name: "other".into(), backends: vec![member("d")], ..PoolSpec::default() });
        w.services[0].routes.push(RouteSpec {
            sni: vec!["s1.example.test".parse().unwrap(), "s2.example.test".parse().unwrap()],
            alpn: vec![],
            pool: "other".into(),
        });
    });
    assert_eq!(found.moves.len(), 24, "{:?}", found.total);
    assert!(found.moves.iter().all(|m| matches!(m.sni.as_deref(), Some("s1.example.test" | "s2.example.test"))));
    let default = ("default".to_owned(), "default".to_owned());
    assert!(found.moves.iter().all(|m| m.after.as_deref() == Some("d") && m.pool.as_ref() == Some(&default)));
}

#[test]
fn a_service_with_a_proxy_header_beside_one_without_is_compared_like_any_other() {
    let capture = Capture::open(&capture(FLEETS[0])).unwrap();
    let recording = read(&capture);
    let mut now = config(&recording, &["a", "b", "c"]);
    let first = now.wanted.services[0].listen.remove(0);
    now.wanted.services.push(ServiceSpec {
        name: "proxied".into(),
        listen: vec![first],
        policy: Policy { proxy_protocol: true, ..Policy::default() },
        ..now.wanted.services[0].clone()
    });
    // The change takes it from the one, and gives it to the other.
    let mut next = now.wanted.clone();
    next.services.iter_mut().for_each(|s| s.policy.proxy_protocol = !s.policy.proxy_protocol);
    let found = compare(recording, &now, &next, |_, _| {}).unwrap();
    assert_eq!(found.moves, []);
    let known: Vec<u64> = found.pools.values().map(|t| t.known).collect();
    assert!(known.len() == 2 && known.iter().all(|n| *n > 100), "{known:?}");
}

#[test]
fn what_cannot_be_and_what_is_about_nothing_is_said() {
    let capture = Capture::open(&capture(FLEETS[0])).unwrap();
    let now = config(&read(&capture), &["a", "b", "c"]);
    let mut twice = now.wanted.clone();
    twice.pools[0].backends[1].name = "a".into();
    let why = compare(read(&capture), &now, &twice, |_, _| {}).unwrap_err().to_string();
    assert!(why.contains("backend a is given twice"), "{why}");
    let mut elsewhere = now.clone();
    elsewhere.wanted.services[0].listen = vec!["192.0.2.1:443".parse().unwrap()];
    let found = compare(read(&capture), &elsewhere, &elsewhere.wanted, |_, _| {}).unwrap();
    let nothing = found.nothing().unwrap();
    let server = read(&capture).connections[0].server.to_string();
    assert!(nothing.contains("is to an address at which a service listens") && nothing.contains(&server), "{nothing}");
    let (mut last, mut total) = (0, 0);
    compare(read(&capture), &now, &now.wanted, |done, of| {
        assert!(done >= last && done <= of);
        (last, total) = (done, of);
    })
    .unwrap();
    assert!(last == total && total > 0);
}

struct Nobody;

impl Witness for Nobody {
    fn connection(&mut self, _: &Ended, _: &Conversation<'_>) -> anyhow::Result<()> {
        Ok(())
    }
    fn frame(&mut self, _: PortId, _: bool, _: Time, _: &[u8], _: Option<DropReason>) -> anyhow::Result<()> {
        Ok(())
    }
    fn wants_frames(&self) -> bool {
        false
    }
    fn progress(&mut self, _: usize) {}
}

/// Else those that come later would find the sessions of those that came before them.
#[test]
fn nothing_is_learned_of_those_that_come_again() {
    for name in FLEETS.into_iter().chain(["tls12_ticket_key_rotation_and_shared_keys.pcap", "tls13_hrr_openssl.pcap"]) {
        let capture = Capture::open(&capture(name)).unwrap();
        let recording = read(&capture);
        let again = Recording {
            connections: recording
                .connections
                .iter()
                .enumerate()
                .map(|(i, c): (usize, &Recorded<'_>)| c.greeting(Time::from_nanos(i as u64 * 1_000_000)))
                .collect(),
            ..Recording::default()
        };
        let config = config(&recording, &["a", "b", "c"]);
        let vips = config.vips();
        let mut world = World::new(config, &recording).unwrap();
        world.play(Duration::from_secs(20), &mut Nobody).unwrap();
        let learned = world.sessions().census;
        assert!(learned.rows() > 0);
        let counted = world.sessions().metrics;
        world.next_recording(&again, vips);
        world.run(&mut Nobody).unwrap();
        let after = world.sessions();
        assert_eq!(after.census, learned, "{name}");
        for kind in dispatcher::sessions::KINDS {
            let (before, after) = (counted.kind(kind), after.metrics.kind(kind));
            assert_eq!((before.accepted, before.refused, before.broken), (after.accepted, after.refused, after.broken));
        }
    }
}

fn dispatcher(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dispatcher")).args(args).output().unwrap()
}

fn file(folder: &Path, name: &str, listen: &str, backends: &[&str]) -> String {
    let backends: Vec<_> =
        backends.iter().map(|b| format!("{{ name = \"{b}\", address = \"{}\" }}", member(b).addr)).collect();
    let text = format!(
        "[[port]]\nname = \"net\"\ndriver = \"af-packet:eth0\"\nip = [\"10.9.0.200/24\"]\n\n[[service]]\nname = \"shop\"\n\
         listen = [{listen}]\npool = \"web\"\n\n[pool.web]\nbackend = [{}]\n",
        backends.join(", ")
    );
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn the_command_tells_it_of_two_files_and_says_what_is_wrong_with_them() {
    let folder = std::env::temp_dir().join(format!("against-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let trace = capture(FLEETS[0]);
    let opened = Capture::open(&trace).unwrap();
    let servers = config(&read(&opened), &["a"]).vips();
    let listen = servers.iter().map(|s| format!("\"{s}\"")).collect::<Vec<_>>().join(", ");
    let now = file(&folder, "now.toml", &listen, &["a", "b", "c"]);
    let next = file(&folder, "next.toml", &listen, &["b", "c"]);
    let trace = trace.display().to_string();

    let out = dispatcher(&["replay", &trace, "--config", &now, "--next-config", &next]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!((out.status.code(), &out.stderr[..]), (Some(0), &b""[..]), "{text}");
    let lost = known_at(FLEETS[0])["a"];
    assert!(text.contains(&format!("{lost} of these sessions are lost.")), "{text}");
    assert!(text.lines().any(|l| l.trim_start().starts_with("shop ") && l.contains(" web ")), "{text}");
    assert!(text.contains(": a, then "), "{text}");

    let out = dispatcher(&["replay", &trace, "--config", &now, "--next-config", &next, "--json"]);
    let lines = String::from_utf8(out.stdout).unwrap();
    let mut lines: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let summary = lines.pop().unwrap()["summary"].clone();
    assert_eq!(summary["sessions_lost"], lost);
    assert_eq!(summary["pools"][0]["service"], "shop");
    assert_eq!(lines.iter().filter(|l| l["session"] == "lost").count() as u64, lost);
    assert_eq!(lines.len() as u64, summary["another_server"].as_u64().unwrap());

    // A file alone is re-enacted.
    let out = dispatcher(&["replay", &trace, "--config", &now, "--json"]);
    let text = String::from_utf8(out.stdout).unwrap();
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((&first["service"], &first["pool"]), (&"shop".into(), &"web".into()), "{first}");

    let refused = |args: &[&str]| {
        let out = dispatcher(args);
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        String::from_utf8(out.stderr).unwrap()
    };
    let foreign = file(&folder, "foreign.toml", "\"192.0.2.1:443\"", &["b", "c"]);
    let why = refused(&["replay", &trace, "--config", &foreign, "--next-config", &foreign]);
    assert!(why.contains("at which a service listens") && why.lines().count() == 1, "{why}");
    std::fs::write(&next, "[[service]]\nname = \"shop\"\nlisten = 1\n").unwrap();
    let why = refused(&["replay", &trace, "--config", &now, "--next-config", &next]);
    assert!(why.contains("next.toml:3:"), "{why}");
    let why = refused(&["replay", &trace, "--next-config", &next]);
    assert!(why.contains("--config"), "{why}");
    let why = refused(&["replay", &trace, "--config", &now, "--balance", "maglev"]);
    assert!(why.contains("cannot be used with"), "{why}");
    std::fs::remove_dir_all(&folder).unwrap();
}
