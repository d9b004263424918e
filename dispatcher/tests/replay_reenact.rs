//! Recorded conversations against made-up backends, through the whole engine: all of them arrive whole, in every mode,
//! and sessions find back to where they began.

mod captures;

use captures::{all_captures, capture, load_truth, odd_captures};
use dispatcher::capture::Capture;
use dispatcher::engine::{AddressMode, Config, DropReason, PortId};
use dispatcher::replay::decode::{Transport, decode};
use dispatcher::replay::reassembly::{At, Connection, Handler, Limits, Tracker, Turn, Way};
use dispatcher::replay::reenact::conversation::Conversation;
use dispatcher::replay::reenact::faults::Faults;
use dispatcher::replay::reenact::recording::{Reader, Recording};
use dispatcher::replay::reenact::wire::{Ended, Loss};
use dispatcher::replay::reenact::world::{Witness, World};
use dispatcher::replay::reenact::{Totals, served};
use dispatcher::replay::{ReplayOptions, replay};
use dispatcher::time::Time;
use lb::{Algorithm, MaxHandshakes, MemberSpec, Policy, PoolSpec, Wanted};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;

/// Three backends of each family.
fn config() -> Config {
    let backend = |name: &str, addr: &str| MemberSpec::new(name, addr.parse().unwrap());
    let backends = vec![
        backend("a", "10.9.0.1:443"),
        backend("b", "10.9.0.2:443"),
        backend("c", "10.9.0.3:443"),
        backend("a6", "[fd09::1]:443"),
        backend("b6", "[fd09::2]:443"),
        backend("c6", "[fd09::3]:443"),
    ];
    Config {
        wanted: Wanted::single(vec![], Policy::default(), PoolSpec { backends, ..PoolSpec::default() }),
        keep_names: true,
        ..Config::default()
    }
}

/// What was told, by the number of each connection's first frame.
#[derive(Default)]
struct Told {
    connections: BTreeMap<u64, (Ended, bool)>,
    totals: Totals,
}

impl Witness for Told {
    fn connection(&mut self, ended: &Ended, conversation: &Conversation<'_>) -> anyhow::Result<()> {
        let intact = conversation.intact();
        self.totals.connection(ended, intact);
        self.totals.warn(ended, conversation);
        self.connections.insert(conversation.recorded.first_frame, (ended.clone(), intact));
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

fn read(capture: &Capture) -> Recording<'_> {
    let mut reader = Reader::default();
    reader.read(capture, |_| {}).unwrap();
    reader.finish()
}

/// With these VIPs instead of the recorded servers' addresses.
fn at(vips: Vec<SocketAddr>) -> Config {
    let mut config = config();
    config.wanted.services[0].listen = vips;
    config
}

fn reenact(path: &Path, config: Config) -> Told {
    reenact_with(path, config, None).0
}

fn reenact_with(path: &Path, config: Config, loss: Option<Loss>) -> (Told, u64) {
    let capture = Capture::open(path).unwrap();
    let recording = read(&capture);
    let config = served(config, &recording).unwrap();
    let mut told = Told { totals: Totals::new(&config), ..Told::default() };
    let mut world = World::new(config, &recording).unwrap();
    if let Some(loss) = loss {
        world.lose(loss);
    }
    world.run(&mut told).unwrap();
    told.totals.finish(&world, &recording);
    assert_eq!(told.connections.len(), recording.connections.len(), "every connection is told once");
    (told, world.lost())
}

/// Everything arrived, nothing was sent out of turn, and nothing arrived that a suspicious peer would object to.
fn assert_perfect(told: &Told, what: &str) {
    let broken: Vec<_> = told.connections.iter().filter(|(_, (_, intact))| !intact).collect();
    assert!(broken.is_empty(), "{what}: {broken:#?}");
    let t = &told.totals;
    assert!(t.refused.is_empty(), "{what}: {:?}", t.refused);
    assert_eq!(t.not_followed.iter().sum::<u64>(), 0, "{what}: {:?}", t.not_followed);
    // With clients' addresses kept, one that uses its port again towards another VIP can meet its own earlier connection at
    // the backend, and is sent to another.
    let met = t.counters.refused[DropReason::NoLocalPort as usize];
    assert_eq!((t.forced, t.faults, t.counters.redispatches), (0, Faults::default(), met), "{what}");
    assert!(met <= t.connections / 100, "{what}");
    assert_eq!(t.counters.drops.iter().sum::<u64>(), 0, "{what}: {:?}", t.counters);
}

#[test]
fn every_connection_of_every_capture_arrives_whole_in_every_mode() {
    let mut connections = 0;
    for path in all_captures() {
        for address_mode in [AddressMode::Snat, AddressMode::Dnat] {
            for proxy_protocol in [false, true] {
                let told =
                    reenact(&path, Config { address_mode, ..config() }.policy(|p| p.proxy_protocol = proxy_protocol));
                assert_perfect(&told, &format!("{} {address_mode:?} proxy {proxy_protocol}", path.display()));
                connections += told.totals.connections;
            }
        }
    }
    assert!(connections > 4 * 3200, "{connections}");
}

/// Their servers took these hellos; each is odd in one thing that a reader could stumble over.
#[test]
fn real_handshakes_with_odd_hellos_arrive_whole_and_count_as_secure() {
    let captures = odd_captures();
    assert_eq!(captures.len(), 10);
    for path in captures {
        for proxy_protocol in [false, true] {
            let told = reenact(&path, config().policy(|p| p.proxy_protocol = proxy_protocol));
            let t = &told.totals;
            let what = path.display();
            assert!(
                t.connections > 0
                    && told.connections.values().all(|(ended, intact)| *intact && ended.class.as_str() == "secure"),
                "{what}"
            );
            assert_eq!((t.forced, t.faults), (0, Faults::default()), "{what}");
            assert_eq!(
                t.counters.drops.iter().chain(t.counters.refused.iter()).sum::<u64>(),
                0,
                "{what}: {:?}",
                t.counters
            );
        }
    }
}

#[test]
fn only_what_cannot_be_reenacted_is_left_out() {
    for (name, skipped) in [
        ("alerts_and_unanswered.pcap", [0, 1, 0]),
        ("capture_begins_late.pcap", [16, 0, 0]),
        ("non_secure_on_tls_ports.pcap", [0, 3, 6]),
        ("retransmit_reorder_loss.pcap", [0; 3]),
    ] {
        assert_eq!(reenact(&capture(name), config()).totals.skipped, skipped, "{name}");
    }
}

#[test]
fn every_balancing_algorithm_spreads_the_fleet_and_breaks_nothing() {
    for balance in [Algorithm::Maglev, Algorithm::LeastConn, Algorithm::RoundRobin, Algorithm::RandomTwo] {
        let told = reenact(&capture("fleet_tls12_sessionid.pcap"), config().pool(|p| p.balance = balance));
        assert_perfect(&told, &format!("{balance:?}"));
        for (name, counts) in &told.totals.backends[..3] {
            assert!(counts.full > 0, "{balance:?}: {name} got no new session: {:?}", told.totals.backends);
        }
    }
}

/// Connections that came back to where their session began, and those that did not.
fn came_back(name: &str, told: &Told) -> (usize, usize) {
    let (mut back, mut elsewhere) = (0, 0);
    for session in load_truth(name)["sessions"].as_array().unwrap() {
        let at = |c: &serde_json::Value| told.connections[&c["first_frame"].as_u64().unwrap()].0.backend.clone();
        let backends: Vec<_> = session["connections"].as_array().unwrap().iter().map(at).collect();
        back += backends.iter().skip(1).filter(|b| **b == backends[0]).count();
        elsewhere += backends.iter().skip(1).filter(|b| **b != backends[0]).count();
    }
    (back, elsewhere)
}

#[test]
fn every_session_id_leads_back_to_the_backend_that_issued_it() {
    for balance in [Algorithm::Maglev, Algorithm::LeastConn, Algorithm::RoundRobin, Algorithm::RandomTwo] {
        let name = "fleet_tls12_sessionid";
        let path = capture(&format!("{name}.pcap"));
        let told = reenact(&path, config().pool(|p| p.balance = balance));
        assert_eq!(came_back(name, &told), (565, 0), "{balance:?}");
        let decided = told.connections.values().filter(|(e, _)| e.decided.is_some());
        assert!(decided.clone().all(|(e, _)| e.decided == e.backend && e.reason_word() == "session-id"));
        assert_eq!(decided.count(), 565);
        let without = reenact(&path, config().pool(|p| p.balance = balance).policy(|p| p.affinity = false));
        assert_perfect(&without, "without affinity");
        assert_eq!(without.totals.decided, 0);
        if balance == Algorithm::RoundRobin {
            let (_, elsewhere) = came_back(name, &without);
            assert!(elsewhere > 300, "without affinity most sessions are lost: {elsewhere}");
        }
    }
}

/// Ticket key names that backends have shown to open, kept naively: by what each connection offered and where it went.
#[test]
fn tickets_lead_to_backends_that_issued_some_under_the_same_key() {
    let name = "fleet_tls12_ticket";
    let path = capture(&format!("{name}.pcap"));
    let told = reenact(&path, config());
    assert_eq!(came_back(name, &told), (575, 0), "clients keep their addresses here, and so does what hashes them");
    // In turn, so that nothing but the table brings anybody anywhere.
    let told = reenact(&path, config().pool(|p| p.balance = Algorithm::RoundRobin));
    assert_perfect(&told, "in turn");
    let mut issuers: HashMap<String, Vec<String>> = HashMap::new();
    let (mut by_key, mut by_ticket) = (0, 0);
    let sessions = load_truth(name);
    let connections =
        sessions["sessions"].as_array().unwrap().iter().flat_map(|s| s["connections"].as_array().unwrap());
    let mut connections: Vec<_> = connections.collect();
    connections.sort_by_key(|c| c["first_frame"].as_u64());
    for c in connections {
        let (ended, _) = &told.connections[&c["first_frame"].as_u64().unwrap()];
        let backend = ended.backend.clone().unwrap();
        // A server of this fleet has one ticket key: what it issues is known by its address.
        let server = c["server"]["ip"].as_str().unwrap().to_owned();
        if c["key"].is_string() {
            by_key += usize::from(ended.reason_word() == "ticket-key");
            by_ticket += usize::from(ended.reason_word() == "ticket");
            assert!(issuers.values().any(|i| i.contains(&backend)));
            if c["resumed"].as_bool() == Some(true) && c["misrouted"].as_bool() == Some(false) {
                assert!(issuers[&server].contains(&backend), "{c}: went to {backend}, {issuers:?} issued");
            }
        }
        let known = issuers.entry(server).or_default();
        if !known.contains(&backend) {
            known.push(backend);
        }
    }
    assert_eq!(by_key + by_ticket, 575);
    assert!(by_key > 400, "{by_key}");
}

/// The two streams of a connection.
type Streams = [Vec<u8>; 2];

/// Collects every stream, as the default replay's reassembly has it: nothing of it is used in a re-enactment.
#[derive(Default)]
struct Collector(Vec<(SocketAddr, SocketAddr, Streams)>);

impl Handler for Collector {
    type State = Streams;
    fn opened(&mut self, _: &Connection) -> Streams {
        Streams::default()
    }
    fn data(&mut self, _: &mut Connection, state: &mut Streams, way: Way, bytes: &[u8], _: At) -> Turn {
        state[way.index()].extend_from_slice(bytes);
        Turn::Keep
    }
    fn gap(&mut self, connection: &mut Connection, _: &mut Streams, _: Way, len: u64, _: At) {
        panic!("{len} bytes are missing of {connection:?}");
    }
    fn ended(&mut self, connection: &Connection, state: &mut Streams) {
        if !connection.began_late && state.iter().any(|s| !s.is_empty()) {
            self.0.push((connection.client, connection.server, core::mem::take(state)));
        }
    }
    fn wants(&self, _: &Streams, _: Way) -> bool {
        true
    }
}

/// All streams seen at an interface of a capture.
fn streams(capture: &Capture, interface: Option<u32>) -> Vec<(SocketAddr, SocketAddr, Streams)> {
    let mut tracker = Tracker::new(Collector::default(), Limits::default());
    for frame in capture.frames().unwrap() {
        let frame = frame.unwrap();
        if interface.is_some_and(|i| i != frame.interface) {
            continue;
        }
        if let Ok(packet) = decode(&frame)
            && let Transport::Tcp(segment) = packet.transport
        {
            let at = At { frame: frame.number, time: frame.time, unix_nanos: frame.unix_nanos };
            tracker.segment(&packet, &segment, at);
        }
    }
    tracker.finish();
    tracker.handler.0
}

fn with_out(path: &Path, config: Config, name: &str) -> (Vec<u8>, Vec<u8>) {
    let out = std::env::temp_dir().join(format!("reenact-{}-{name}.pcapng", std::process::id()));
    let mut report = Vec::new();
    let options = ReplayOptions {
        files: vec![path.into()],
        json: true,
        out: Some(out.clone()),
        config,
        ..ReplayOptions::default()
    };
    replay(&options, &mut report).unwrap();
    let frames = std::fs::read(&out).unwrap();
    std::fs::remove_file(&out).unwrap();
    (report, frames)
}

#[test]
fn the_frames_at_both_ports_carry_the_recorded_streams() {
    let odd = [
        "alerts_and_unanswered.pcap",
        "clienthello_tiny_segments_and_records.pcap",
        "retransmit_reorder_loss.pcap",
        "port_reuse_nginx.pcap",
        "non_secure_on_tls_ports.pcap",
        "no_tcp_timestamps_stunnel.pcap",
        "small_mtu_client_certs_openssl.pcap",
        "qinq_openssl_nginx.pcap",
        "mix_curl_wget_python_node_nginx.pcap",
        "fleet_tls13_psk.pcap",
    ];
    for name in odd {
        let path = capture(name);
        let mut recorded = streams(&Capture::open(&path).unwrap(), None);
        recorded.sort();
        for address_mode in [AddressMode::Snat, AddressMode::Dnat] {
            let (_, frames) = with_out(&path, Config { address_mode, ..config() }, &format!("{name}-{address_mode:?}"));
            let frames = Capture::from_bytes(frames).unwrap();
            let mut clients = streams(&frames, Some(0));
            clients.sort();
            assert!(clients == recorded, "{name}: the client side differs");
            let only_streams = |all: Vec<(SocketAddr, SocketAddr, Streams)>| {
                let mut all: Vec<Streams> = all.into_iter().map(|(_, _, s)| s).collect();
                all.sort();
                all
            };
            let servers = only_streams(streams(&frames, Some(1)));
            assert!(servers == only_streams(recorded.clone()), "{name}: the server side differs");
        }
    }
}

#[test]
fn the_same_capture_gives_the_same_lines_and_the_same_frames() {
    for balance in [Algorithm::Maglev, Algorithm::RandomTwo] {
        let path = capture("interleaved_many_clients.pcap");
        let once = with_out(&path, config().pool(|p| p.balance = balance), &format!("once-{balance:?}"));
        let again = with_out(&path, config().pool(|p| p.balance = balance), &format!("again-{balance:?}"));
        assert!(once == again);
    }
}

#[test]
fn json_is_as_the_contract_has_it() {
    let (lines, _) = with_out(&capture("non_secure_on_tls_ports.pcap"), config(), "json");
    let lines: Vec<serde_json::Value> =
        lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect();
    let (summary, lines) = lines.split_last().unwrap();
    for line in lines {
        let line = line.as_object().unwrap();
        for member in [
            "conn",
            "client",
            "vip",
            "backend",
            "class",
            "decided",
            "verdict",
            "reason",
            "identity",
            "offered",
            "tls_version",
            "sni",
            "resumed",
            "bytes_to_server",
            "bytes_to_client",
            "dial_attempts",
            "intact",
            "end",
        ] {
            assert!(line.contains_key(member), "{member}");
        }
        assert!(line["verdict"].is_null() && line["intact"] == true && line["dial_attempts"] == 1);
    }
    let s = &summary["summary"];
    for member in ["right", "wrong", "rescued", "stale", "unknown", "offered", "resumed", "frames_in", "frames_out"] {
        assert!(s[member].is_u64(), "{member}");
    }
    assert_eq!(s["connections"], 19);
    assert_eq!(s["intact"], 19);
    assert_eq!(s["secure"].as_u64().unwrap() + s["non_secure"].as_u64().unwrap(), 19);
    assert!(s["drops"].is_object());
    let of_lines = |class: &str| lines.iter().filter(|l| l["class"] == class).count() as u64;
    assert_eq!(
        (of_lines("secure"), of_lines("non-secure")),
        (s["secure"].as_u64().unwrap(), s["non_secure"].as_u64().unwrap())
    );
    let report = {
        let mut report = Vec::new();
        let files = vec![capture("non_secure_on_tls_ports.pcap")];
        replay(
            &ReplayOptions { files, json: false, out: None, config: config(), ..ReplayOptions::default() },
            &mut report,
        )
        .unwrap();
        String::from_utf8(report).unwrap()
    };
    assert!(report.starts_with("19 connections re-enacted, 19 intact: 7 secure, 12 non-secure"), "{report}");
    assert!(report.contains("9 recorded connections left out: no-data 6, not-accepted 3"), "{report}");
}

#[test]
fn what_is_missing_is_told_in_one_line() {
    let told = |config: Config, name: &str| {
        let options =
            ReplayOptions { files: vec![capture(name)], json: false, out: None, config, ..ReplayOptions::default() };
        let error = format!("{:#}", replay(&options, &mut Vec::new()).unwrap_err());
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let mut v4 = config();
    v4.wanted.pools[0].backends.truncate(3);
    let error = told(v4.clone(), "ipv6_openssl_nginx.pcap");
    assert!(error.contains("no IPv6 backend"), "{error}");
    v4.wanted.pools[0].backends[0].addr = "10.0.0.1:443".parse().unwrap();
    let error = told(v4, "tls12_sessionid_openssl_nginx.pcap");
    assert!(error.contains("backend 'a' has the address of a recorded server"), "{error}");
    let mut wrong_vip = config();
    wrong_vip.wanted.services[0].listen = vec!["10.0.99.1:443".parse().unwrap()];
    let error = told(wrong_vip, "ipv6_openssl_nginx.pcap");
    assert!(error.contains("no IPv6 VIP"), "{error}");
}

#[test]
fn recorded_servers_become_the_vips_given() {
    let vips: Vec<SocketAddr> = ["10.0.99.1:443", "[fd99::1]:443"].map(|v| v.parse().unwrap()).to_vec();
    for name in ["mix_curl_wget_python_node_nginx.pcap", "fleet_tls12_sessionid.pcap", "port_reuse_nginx.pcap"] {
        let told = reenact(&capture(name), at(vips.clone()).policy(|p| p.proxy_protocol = true));
        assert_perfect(&told, name);
        assert!(told.connections.values().all(|(e, _)| vips.contains(&e.vip)));
    }
    // Recorded servers may even be the backends then.
    let mut same = at(vips);
    same.wanted.pools[0].backends[0].addr = "10.0.0.1:443".parse().unwrap();
    assert_perfect(&reenact(&capture("fleet_tls12_sessionid.pcap"), same), "servers as backends");
}

#[test]
fn lost_frames_are_repaired_by_whoever_is_to_repair_them() {
    let mut frames = 0;
    for (i, path) in all_captures().into_iter().enumerate() {
        for (address_mode, proxy_protocol) in [(AddressMode::Snat, true), (AddressMode::Dnat, false)] {
            let loss = Loss { per_mille: 20, seed: 0x5eed + i as u64 };
            let (told, lost) = reenact_with(
                &path,
                Config { address_mode, ..config() }.policy(|p| p.proxy_protocol = proxy_protocol),
                Some(loss),
            );
            let broken: Vec<_> = told.connections.iter().filter(|(_, (_, intact))| !intact).collect();
            let name = path.display();
            assert!(broken.is_empty(), "{name} {address_mode:?} {loss:?}: {broken:#?} {:?}", told.totals.counters);
            assert_eq!(told.totals.faults, Faults::default(), "{name} {address_mode:?} {loss:?}");
            frames += lost;
        }
    }
    assert!(frames > 3000, "{frames} were lost");
}

#[test]
fn with_limits_connections_wait_by_class_arrive_whole_and_the_summary_says_how_long() {
    let mut config = config();
    let backends = &mut config.wanted.pools[0].backends;
    // One full handshake at a time.
    backends.iter_mut().for_each(|b| b.limits.max_handshakes = Some(MaxHandshakes::Units(10)));
    let options = |json| ReplayOptions {
        files: vec![capture("interleaved_many_clients.pcap")],
        json,
        out: None,
        config: config.clone(),
        ..ReplayOptions::default()
    };
    let mut out = vec![];
    replay(&options(true), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let mut lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let queues = lines.pop().unwrap()["summary"]["queues"].clone();
    let mut by_class: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for line in &lines {
        assert_eq!(line["intact"], true, "{line}");
        by_class.entry(line["queue_class"].as_str().unwrap()).or_default().push(line["waited_ms"].as_u64().unwrap());
    }
    assert_eq!(by_class.keys().copied().collect::<Vec<_>>(), ["full", "resumes"]);
    assert!(by_class["full"].iter().any(|ms| *ms > 0), "nobody waited: {queues}");
    for (name, waits) in &mut by_class {
        waits.sort_unstable();
        let (told, n) = (&queues[*name], waits.len());
        assert_eq!(
            (told["connections"].as_u64(), told["longest_ms"].as_u64()),
            (Some(n as u64), waits.last().copied())
        );
        assert_eq!(told["waited"].as_u64(), Some(waits.iter().filter(|ms| **ms > 0).count() as u64));
        assert_eq!(told["p50_ms"].as_u64(), Some(waits[n.div_ceil(2) - 1]), "{waits:?}");
        assert_eq!((&told["refused"], &told["timed_out"], &told["abandoned"]), (&0.into(), &0.into(), &0.into()));
    }
    let mut report = vec![];
    replay(&options(false), &mut report).unwrap();
    let report = String::from_utf8(report).unwrap();
    assert!(report.contains("Room at backends with limits:") && report.contains(" resumes "), "{report}");
    // Without limits nobody is asked.
    let mut out = vec![];
    let free = ReplayOptions { config: self::config(), ..options(true) };
    replay(&free, &mut out).unwrap();
    assert!(!String::from_utf8(out).unwrap().contains("queue"));
}

#[test]
fn what_is_explained_is_what_the_connections_own_line_says_step_by_step() {
    let options = ReplayOptions {
        files: vec![capture("tls12_sessionid_openssl_nginx.pcap")],
        json: true,
        config: config(),
        ..ReplayOptions::default()
    };
    let lines = |options: &ReplayOptions| -> Vec<serde_json::Value> {
        let mut out = vec![];
        replay(options, &mut out).unwrap();
        String::from_utf8(out)
            .unwrap()
            .lines()
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    };
    let all = lines(&options);
    let client: std::net::SocketAddr = all[0]["client"].as_str().unwrap().parse().unwrap();
    let theirs = |line: &&serde_json::Value| {
        line["client"].as_str().is_some_and(|c| c.starts_with(&format!("{}:", client.ip())))
    };
    let explained = lines(&ReplayOptions { explain: Some((client.ip(), None)), ..options.clone() });
    let told: Vec<&serde_json::Value> = explained.iter().filter_map(|line| line.get("explanation")).collect();
    assert_eq!(told.len(), all.iter().filter(theirs).count());
    assert_eq!(explained.len(), all.len() + told.len(), "nothing else is other");
    let mut led = 0;
    for line in all.iter().filter(theirs) {
        let why = told.iter().find(|why| why["conn"] == line["conn"]).expect("it is explained");
        for key in [
            "client",
            "vip",
            "backend",
            "local",
            "class",
            "sni",
            "tls_version",
            "resumed",
            "handshake_ms",
            "first_byte_ms",
            "bytes_to_client",
            "end",
        ] {
            assert_eq!(why[key], line[key], "{key}: {why}");
        }
        let steps: Vec<&str> = why["steps"].as_array().unwrap().iter().map(|s| s["what"].as_str().unwrap()).collect();
        assert_eq!(steps, ["hello", "dials", "answers", "ends"], "{why}");
        assert_eq!(why["candidates"].as_array().unwrap().len(), options.config.backends().len());
        match line["reason"].as_str().unwrap() {
            "balanced" => assert!(why["row"].is_null()),
            reason => {
                led += 1;
                assert_eq!((why["row"]["reason"].as_str(), &why["row"]["key"]), (Some(reason), &line["identity"]));
                assert_eq!(why["row"]["followed"], line["decided"] == line["backend"]);
            }
        }
    }
    assert!(led > 2, "{led}");
    // One port of it alone, in words.
    let mut out = vec![];
    replay(&ReplayOptions { json: false, explain: Some((client.ip(), Some(client.port()))), ..options }, &mut out)
        .unwrap();
    let words = String::from_utf8(out).unwrap();
    assert_eq!(words.matches(" of worker 0: ").count(), 1, "{words}");
    assert!(words.contains("the client's hello, for www.example.test") && words.contains("is chosen"), "{words}");
}

/// A PROXY line, and behind it a hello with a session ID, of which a trace had hundreds: taken for something else than TLS, until it is said that headers are accepted.
#[test]
fn a_hello_behind_a_proxy_header_is_followed_where_such_headers_are_accepted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/proxy/proxy_v1_before_hello.pcap");
    let accept = || lb::service::AcceptProxy { from: vec!["0.0.0.0/0".parse().unwrap()], pass: false };
    for accepts in [false, true] {
        for proxy_protocol in [false, true] {
            let policy = |p: &mut Policy| {
                p.proxy_protocol = proxy_protocol;
                if accepts {
                    p.accept_proxy = accept();
                }
            };
            let told = reenact(&path, config().policy(policy));
            assert_perfect(&told, &format!("accepts {accepts}"));
            let (ended, _) = told.connections.values().next().unwrap();
            assert_eq!(ended.class == dispatcher::tcp::Class::Secure, accepts);
            assert_eq!((ended.via.is_some(), ended.offered.contains(&"session-id")), (accepts, accepts));
        }
    }
}
