//! Where clients are led, and what is believed of the servers.

use super::*;
use dispatcher::time::Time;
use lb::{Algorithm, HashOn};

/// The names of the servers that these clients' connections are dialled to.
fn led(config: &Config, secret: u8, v6: bool, clients: &[&str]) -> Vec<String> {
    let mut b = Bench::with_secret(config.clone(), v6, [secret; 32]);
    let mut names = vec![];
    for client in clients {
        b.client = client.parse().unwrap();
        b.dial(HTTP);
        names.push(config.backends().iter().find(|s| s.addr == b.dialled).unwrap().name.clone());
    }
    names
}

const CLIENTS: [&str; 8] = [
    "192.0.2.1:40000",
    "192.0.2.2:40000",
    "192.0.2.3:40000",
    "198.51.100.77:1025",
    "203.0.113.9:65535",
    "10.1.0.10:50000",
    "100.64.1.1:2000",
    "8.8.8.8:53",
];

#[test]
fn a_client_meets_the_same_server_in_every_run_and_on_every_dispatcher() {
    for hash_on in [HashOn::SourceIp, HashOn::Tuple] {
        let config = two_armed(5, false).pool(|p| p.hash_on = hash_on);
        let first = led(&config, 1, false, &CLIENTS);
        assert_eq!(led(&config, 2, false, &CLIENTS), first, "whatever the process's secret");
        let mut turned = config.clone();
        turned.wanted.pools[0].backends.reverse();
        assert_eq!(led(&turned, 3, false, &CLIENTS), first, "whatever the order of the flags");
        assert_ne!(led(&Config { hash_seed: 1, ..config.clone() }, 1, false, &CLIENTS), first, "the seed counts");
        // Written down, so that no version leads elsewhere than the one before.
        let golden = match hash_on {
            HashOn::SourceIp => ["web2", "web3", "web1", "web1", "web0", "web3", "web2", "web0"],
            HashOn::Tuple => ["web4", "web1", "web1", "web2", "web4", "web0", "web0", "web1"],
        };
        assert_eq!(first, golden, "{hash_on:?}");
    }
}

#[test]
fn a_client_of_an_unknown_session_is_led_by_its_address_whatever_the_algorithm() {
    let hello = Hello { session_id: vec![3; 32], ..Hello::default() }.bytes();
    let meets = |balance, secret| {
        let config = two_armed(5, false).pool(|p| p.balance = balance).pool(|p| p.hash_on = HashOn::Tuple);
        let mut b = Bench::with_secret(config, false, [secret; 32]);
        let mut dialled = vec![];
        for port in 1..6 {
            b.client.set_port(port);
            b.dial(&hello);
            dialled.push(b.dialled);
        }
        dialled
    };
    let all = meets(Algorithm::Maglev, 1);
    assert!(all.iter().all(|d| *d == all[0]), "{all:?}");
    assert_eq!(meets(Algorithm::RoundRobin, 2), all);
}

#[test]
fn the_addresses_of_one_ipv6_network_meet_one_server() {
    let config = two_armed(5, true);
    let host = |n: u32| format!("[2001:db8:0:77:{:x}:{:x}:0:1]:50000", n, n.wrapping_mul(0x9e37) & 0xffff);
    let hosts: Vec<String> = (0..12).map(host).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let met = led(&config, 1, true, &hosts);
    assert!(met.iter().all(|name| *name == met[0]), "{met:?}");
    let networks: Vec<String> = (0..12).map(|n| format!("[2001:db8:0:{n:x}::1]:50000")).collect();
    let networks: Vec<&str> = networks.iter().map(String::as_str).collect();
    assert!(led(&config, 1, true, &networks).iter().any(|name| *name != met[0]));
}

/// How a server answers probes: takes them, refuses them, says nothing.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Answer {
    Takes,
    Refuses,
    Silent,
}

/// Time passes, and probes are answered; the rest of what was sent is returned, and how many probes there were.
fn live(b: &mut Bench, time: Duration, answer: impl Fn(SocketAddr) -> Answer) -> (Vec<Out>, usize) {
    let (end, mut rest, mut probes) = (b.now + time, vec![], 0);
    while b.now < end {
        let dial = (b.dialled, b.dialled_from);
        for out in b.wait(ms(10)) {
            let is_tcp = out.ip().protocol == protocol::TCP;
            if !is_tcp || !out.tcp().is_bare_syn() || out.tcp().src_port >= 2048 {
                rest.push(out);
                continue;
            }
            probes += 1;
            b.dialled = out.ip().dst.socket(out.tcp().dst_port);
            b.dialled_from = out.ip().src.socket(out.tcp().src_port);
            let ack = (out.tcp().seq + 1).0.wrapping_sub(CLIENT_ISN);
            let options = written(&linux());
            match answer(b.dialled) {
                Answer::Takes => {
                    _ = b.server_sends(Seg { options: &options, window: 60000, ..seg(SYN_ACK, 0, ack, &[]) })
                }
                Answer::Refuses => _ = b.server_sends(seg(RST_ACK, 0, ack, &[])),
                Answer::Silent => {}
            }
        }
        // A dial that went out meanwhile is the latest; a probe is none.
        let last = rest.iter().rev().find(|o: &&Out| o.port == b.server_port() && o.tcp().is_bare_syn());
        (b.dialled, b.dialled_from) =
            last.map_or(dial, |o| (o.ip().dst.socket(o.tcp().dst_port), o.ip().src.socket(o.tcp().src_port)));
    }
    (rest, probes)
}

/// Two servers that are probed, and a hello whose session is at the second.
fn probed(mode: AddressMode) -> (Bench, Vec<u8>) {
    let key = TicketKey::Name { backend: server_name(1, false), name: [9; 16] };
    let config = Config { address_mode: mode, probe: true, ticket_keys: vec![key], ..two_armed(2, false) };
    let mut b = Bench::new(config, false);
    live(&mut b, ms(300), |_| Answer::Takes);
    (b, Hello { ticket: Some(vec![9; 100]), ..Hello::default() }.bytes())
}

/// The client's SYN; returns the verdict, and the answer's flags.
fn knock(b: &mut Bench) -> (Verdict, Flags) {
    let (out, v) = b.client_sends(Seg { flags: SYN, ..Seg::default() });
    (v, out.first().map_or(Flags::default(), Out::flags))
}

#[test]
fn a_client_whom_the_servers_refuse_takes_them_from_nobody() {
    for mode in [AddressMode::Dnat, AddressMode::Snat] {
        for how in ["reset", "unreachable", "silence"] {
            let (mut b, session) = probed(mode);
            let mut probes = 0;
            for n in 0..8 {
                // A firewall at the servers that is against this one client.
                b.client = SocketAddr::new(client_ip(66, false), 51_000 + n);
                b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
                b.client_sends(seg(ACK, 1, 1, &[]));
                let (mut out, _) = b.client_sends(seg(ACK, 1, 1, HTTP));
                for _ in 0..2 {
                    let syn = out.into_iter().find(|o| o.tcp().is_bare_syn()).expect("a dial");
                    out = match how {
                        "reset" => b.server_sends(seg(RST_ACK, 0, 1, &[])).0,
                        "unreachable" => {
                            let error = icmp_error(&b, 1, (3, 10, 0), &syn.bytes);
                            b.hand_in(1, &error).0
                        }
                        _ => {
                            let first = b.dialled;
                            let mut all = vec![];
                            while b.dialled == first && b.ended.len() == usize::from(n) {
                                let (out, more) = live(&mut b, ms(10), |_| Answer::Takes);
                                probes += more;
                                all = out;
                            }
                            all
                        }
                    };
                }
                probes += live(&mut b, ms(200), |_| Answer::Takes).1;
                // Somebody else, with a session at the second server.
                b.client = SocketAddr::new(client_ip(1, false), 52_000 + n);
                b.dial(&session);
                assert_eq!(b.dialled, b.config.backends()[1].addr, "{mode:?}, {how}");
                b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
            }
            let seconds = b.now.since(Time::from_millis(64_000_000)).as_secs() as usize + 1;
            assert!(probes > 0 && probes <= 2 * 4 * seconds, "{mode:?}, {how}: {probes} probes in {seconds} s");
        }
    }
}

#[test]
fn while_no_server_lives_a_syn_is_refused_at_once_and_answered_as_soon_as_one_is_back() {
    let (mut b, session) = probed(AddressMode::Snat);
    let waiting = b.client;
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &[]));
    let cookie = b.cookie;
    // Both stop: the first client to meet that is told soon, and from then on it is known.
    b.client = SocketAddr::new(client_ip(3, false), 50_000);
    b.dial(HTTP);
    b.server_sends(seg(RST_ACK, 0, 1, &[]));
    let (out, _) = b.server_sends(seg(RST_ACK, 0, 1, &[]));
    assert!(out.iter().any(|o| o.port == 0 && o.flags().contains(RST)), "no server is left for it");
    live(&mut b, ms(150), |_| Answer::Refuses);
    b.client.set_port(50_001);
    let (v, flags) = knock(&mut b);
    assert!(matches!(v, Verdict::Reply(_)) && flags == RST_ACK, "{v:?} {flags:?}");
    assert_eq!(b.engine.counters().refused[DropReason::NoBackend as usize], 2);
    assert_eq!(b.engine.flows(), 1, "nothing is kept for it");
    // A client whose hello comes now is told at once, too.
    (b.client, b.cookie) = (waiting, cookie);
    let (out, _) = b.client_sends(seg(ACK, 1, 1, &session));
    assert_eq!(out.iter().map(|o| (o.port, o.flags())).collect::<Vec<_>>(), [(0, RST_ACK)]);
    assert_eq!(b.ended.last().unwrap().0, End::NoBackend);
    // Also while strangers use up all resets of unknown connections; and however often.
    for port in 1..1500 {
        b.client.set_port(port);
        b.client_sends(seg(ACK, 5000, 5000, &[]));
    }
    let limited = b.dropped(DropReason::RateLimited);
    assert!(limited >= 400, "{limited}");
    for port in 1..1500 {
        b.client.set_port(port);
        assert_eq!(knock(&mut b).1, RST_ACK, "{port}");
    }
    assert_eq!(b.dropped(DropReason::RateLimited), limited);
    // The second server comes back.
    let second = b.config.backends()[1].addr;
    let back = |server| if server == second { Answer::Takes } else { Answer::Refuses };
    let (_, probes) = live(&mut b, ms(260), back);
    assert!((1..=4).contains(&probes), "{probes}");
    b.client.set_port(50_002);
    b.dial(HTTP);
    assert_eq!(b.dialled, second);
}

#[test]
fn servers_of_which_nothing_is_known_yet_are_waited_for() {
    let config = Config { probe: true, ..two_armed(2, false) };
    let mut b = Bench::new(config, false);
    assert_eq!(knock(&mut b).1, SYN_ACK);
    live(&mut b, ms(1000), |_| Answer::Silent);
    assert_eq!(knock(&mut b).1, SYN_ACK);
    live(&mut b, ms(3000), |_| Answer::Silent);
    assert_eq!(knock(&mut b).1, RST_ACK, "now it is known");
}

#[test]
fn a_server_that_drains_may_be_connected_to_and_one_that_was_taken_out_may_not() {
    let mut b = Bench::new(two_armed(1, false), false);
    let mut wanted = b.config.wanted.clone();
    assert_eq!(knock(&mut b).1, SYN_ACK);
    for (state, flags) in [(lb::State::Draining, SYN_ACK), (lb::State::Down, RST_ACK), (lb::State::Up, SYN_ACK)] {
        wanted.pools[0].backends[0].state = state;
        b.reconfigure(&wanted).unwrap();
        assert_eq!(knock(&mut b).1, flags, "{state}");
    }
}

#[test]
fn a_dial_ends_when_its_server_is_known_to_be_down() {
    let (mut b, session) = probed(AddressMode::Snat);
    b.dial(&session);
    let first = b.dialled;
    assert_eq!(first, b.config.backends()[1].addr);
    // Its next SYN is due after 250 ms; meanwhile another client is refused by it, and so are we.
    b.client.set_port(50_001);
    b.dial(&session);
    b.server_sends(seg(RST_ACK, 0, 1, &[]));
    b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
    let gone = |server| if server == first { Answer::Refuses } else { Answer::Takes };
    let (out, _) = live(&mut b, ms(300), gone);
    let dials: Vec<_> =
        out.iter().filter(|o| o.tcp().is_bare_syn()).map(|o| o.ip().dst.socket(o.tcp().dst_port)).collect();
    assert_eq!(dials, [b.config.backends()[0].addr], "not the dead one again");
}

#[test]
fn what_our_own_full_ring_did_not_send_is_no_ones_silence() {
    for what in ["probe", "repetition", "dial"] {
        let (mut b, session) = probed(AddressMode::Snat);
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        b.client_sends(seg(ACK, 1, 1, &[]));
        if what != "dial" {
            // The server is doubted, and the probe is not sent, or not again.
            let waiting = (b.client, b.cookie);
            b.client.set_port(50_001);
            b.dial(&session);
            b.server_sends(seg(RST_ACK, 0, 1, &[]));
            if what == "repetition" {
                assert_eq!(live(&mut b, ms(200), |_| Answer::Silent).1, 1);
            }
            b.full = true;
            live(&mut b, ms(5000), |_| Answer::Silent);
            b.full = false;
            b.client.set_port(50_002);
            b.dial(&session);
            assert_eq!(b.dialled, b.config.backends()[1].addr, "it is up");
            (b.client, b.cookie) = waiting;
        } else {
            let dials = b.engine.counters().dials;
            b.full = true;
            b.client_sends(seg(ACK, 1, 1, &session));
            live(&mut b, ms(1000), |_| Answer::Takes);
            assert_eq!(b.engine.counters().dials, dials, "nothing was sent");
            b.full = false;
            let (out, _) = live(&mut b, ms(30), |_| Answer::Takes);
            assert!(out.iter().any(|o| o.tcp().is_bare_syn()), "sent as soon as there is room");
            assert_eq!((b.dialled, b.engine.counters().redispatches), (b.config.backends()[1].addr, 0));
        }
    }
}

/// A client whose hello is complete; returns what was sent to servers because of that.
fn hello(b: &mut Bench, port: u16, bytes: &[u8]) -> Vec<SocketAddr> {
    b.client.set_port(port);
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &[]));
    let (out, _) = b.client_sends(seg(ACK, 1, 1, bytes));
    out.iter()
        .filter(|o| o.port == b.server_port() && o.tcp().is_bare_syn())
        .map(|o| o.ip().dst.socket(o.tcp().dst_port))
        .collect()
}

#[test]
fn a_server_whose_address_on_the_link_was_lost_is_found_down() {
    for mode in [AddressMode::Snat, AddressMode::Dnat] {
        for gone in [vec![1], vec![0, 1]] {
            let (mut b, session) = probed(mode);
            let (first, second) = (b.config.backends()[0].addr, b.config.backends()[1].addr);
            b.gone = gone.clone();
            // An answer is good for 30 s, and six questions are asked then.
            live(&mut b, ms(40_000), |_| Answer::Takes);
            assert_eq!(hello(&mut b, 50_001, &session), [], "no SYN can be sent");
            live(&mut b, ms(5000), |_| Answer::Takes);
            if gone.len() == 1 {
                assert_eq!(b.dialled, first, "the other was asked");
                assert_eq!(hello(&mut b, 50_002, &session), [first], "{mode:?}: and now at once");
                assert!(b.dropped(DropReason::NoNeighbour) > 0);
            } else {
                live(&mut b, ms(5000), |_| Answer::Takes);
                assert_eq!(knock(&mut b).1, RST_ACK, "{mode:?}: the VIP refuses");
            }
            b.gone.clear();
            live(&mut b, ms(2500), |_| Answer::Takes);
            assert_eq!(hello(&mut b, 50_003, &session), [second], "{mode:?}: back");
        }
    }
}

#[test]
fn a_damaged_answer_to_a_probe_does_not_take_the_true_ones_place() {
    let config = Config { address_mode: AddressMode::Dnat, probe: true, ..two_armed(1, false) };
    let mut b = Bench::new(config, false);
    let probe = b.wait(ms(300)).into_iter().find(|o| o.tcp().is_bare_syn()).expect("a probe");
    let ack = (probe.tcp().seq + 1).0.wrapping_sub(CLIENT_ISN);
    let options = written(&linux());
    let mut frame = b.server_frame(&Seg { options: &options, window: 60000, ..seg(SYN_ACK, 0, ack, &[]) });
    *frame.last_mut().unwrap() ^= 1;
    assert_eq!(b.hand_in(1, &frame).1, Verdict::Drop(DropReason::BadChecksum));
    *frame.last_mut().unwrap() ^= 1;
    b.hand_in(1, &frame);
    assert_eq!(live(&mut b, ms(3000), |_| Answer::Silent).1, 0, "it was heard, and nothing is left to ask");
}

#[test]
fn a_server_that_ignores_our_reset_is_dialled_from_another_port_at_once() {
    // Linux with tcp_rfc1337=1: TIME_WAIT outlives the reset, and says nothing for half a second.
    let (mut b, session) = probed(AddressMode::Snat);
    b.dial(&session);
    let server = b.dialled;
    let mut ports = vec![b.dialled_from.port()];
    for n in 0..8 {
        let from = b.dialled_from;
        let (out, _) = b.server_sends(seg(ACK, 900, 0x4000_0000, &[]));
        assert_eq!(out.len(), 2);
        let (rst, syn) = (out[0].tcp(), out[1].tcp());
        assert_eq!((rst.flags, rst.seq, rst.src_port), (RST, Seq(CLIENT_ISN) + 0x4000_0000, from.port()));
        assert!(syn.is_bare_syn() && syn.seq == Seq(CLIENT_ISN));
        assert!(!ports.contains(&b.dialled_from.port()), "{n}");
        ports.push(b.dialled_from.port());
        // What comes to the old port is nobody's any more.
        let now = (b.dialled, b.dialled_from);
        b.dialled_from = from;
        let (out, _) = b.server_sends(seg(SYN_ACK, 0, 1, &[]));
        assert!(out.iter().all(|o| o.flags().contains(RST)), "{out:?}");
        (b.dialled, b.dialled_from) = now;
    }
    // An end to it: who forges challenges does not lead us through all ports.
    let (out, _) = b.server_sends(seg(ACK, 900, 0x4000_0000, &[]));
    assert!(out.iter().all(|o| o.tcp().src_port == *ports.last().unwrap()));
    let (out, _) = b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
    assert_eq!(out.iter().flat_map(|o| o.payload().to_vec()).collect::<Vec<_>>(), session);
    assert_eq!((b.dialled, b.engine.counters().redispatches), (server, 0), "its session's server");
}

#[test]
fn with_the_clients_own_port_the_syn_is_repeated_and_the_end_has_a_name_and_nobody_is_down() {
    let (mut b, session) = probed(AddressMode::Dnat);
    b.dial(&session);
    let mut servers = vec![b.dialled];
    while b.ended.is_empty() {
        let (out, _) = live(&mut b, ms(10), |_| Answer::Takes);
        for _ in out.iter().filter(|o| o.port == 1 && o.tcp().is_bare_syn()) {
            assert_eq!(b.dialled_from, b.client);
            if servers.last() != Some(&b.dialled) {
                servers.push(b.dialled);
            }
            // It says so twice a second at most; our reset does not help.
            b.server_sends(seg(ACK, 900, 0x4000_0000, &[]));
        }
        assert!(b.now.since(Time::from_millis(64_000_000)) < Duration::from_secs(30), "for ever");
    }
    assert_eq!(b.ended[0].0, End::PortInUse);
    assert_eq!(servers, [b.config.backends()[1].addr, b.config.backends()[0].addr], "each was asked");
    b.client.set_port(50_001);
    b.dial(&session);
    assert_eq!(b.dialled, servers[0], "and both are up");
}

#[test]
fn a_server_that_challenges_once_and_then_refuses_has_refused_and_the_end_says_so() {
    let (mut b, session) = probed(AddressMode::Snat);
    b.dial(&session);
    for _ in 0..b.config.backends().len() {
        // An old connection stands in the way; then its process is gone.
        b.server_sends(seg(ACK, 900, 0x4000_0000, &[]));
        b.server_sends(seg(RST_ACK, 0, 1, &[]));
    }
    assert_eq!(b.ended.iter().map(|e| e.0).collect::<Vec<_>>(), [End::NoBackend]);
}

/// A whole connection, closed in order by the client first. True when it got a server.
fn visit(b: &mut Bench) -> bool {
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &[]));
    let (out, _) = b.client_sends(seg(ACK, 1, 1, HTTP));
    if !out.iter().any(|o| o.tcp().is_bare_syn()) {
        return false;
    }
    let n = 1 + HTTP.len() as u32;
    b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
    b.client_sends(seg(FIN_ACK, n, 1, &[]));
    b.server_sends(Seg { window: 60000, ..seg(FIN_ACK, 1, n + 1, &[]) });
    b.client_sends(seg(ACK, n + 1, 2, &[]));
    true
}

#[test]
fn local_ports_do_not_run_out_while_closed_connections_are_remembered() {
    // 100 ports stand for 63,488, of which 15 s of TIME_WAIT would let 4,232 a second go: here 6.7. At 50 a second, for 20 s.
    let mut b = bench();
    b.engine.use_local_ports(100);
    let mut used: Vec<u16> = vec![];
    for n in 0..1000u16 {
        b.client.set_port(10_000 + n);
        assert!(visit(&mut b), "{n}: {:?}", b.engine.counters().refused[DropReason::NoLocalPort as usize]);
        used.push(b.dialled_from.port());
        b.wait(ms(20));
    }
    assert_eq!(b.engine.counters().refused[DropReason::NoLocalPort as usize], 0);
    // Each port as late as before: when all others had their turn.
    assert!(used.windows(100).all(|w| !w[1..].contains(&w[0])));
    // A second of TIME_WAIT is kept whatever happens.
    for n in 0..150u16 {
        b.client.set_port(20_000 + n);
        if !visit(&mut b) {
            assert!(n >= 45, "{n}");
            break;
        }
    }
    assert!(b.engine.counters().refused[DropReason::NoLocalPort as usize] > 0);
}

#[test]
fn a_flow_table_full_of_closed_connections_refuses_nobody() {
    // 20,000 connections a second and a table of 65,536: here 400 a second and 1,310. With 15 s of TIME_WAIT all of it is full after 3 s.
    let config = two_armed(16, false);
    let limits = Limits { flows: 1310, ..config.limits };
    let mut b = Bench::new(Config { limits, ..config }, false);
    for n in 0..4000u16 {
        b.client.set_port(10_000 + n);
        assert!(visit(&mut b), "{n}: {} flows", b.engine.flows());
        b.wait(Duration::from_micros(2500));
    }
    assert_eq!((b.dropped(DropReason::FlowTableFull), b.engine.flows()), (0, 1310));
    // The oldest went first: the last second's, and all before it for which there is room, are remembered.
    b.client.set_port(10_000 + 4000 - 1309);
    let n = 1 + HTTP.len() as u32;
    let (_, v) = b.client_sends(seg(FIN_ACK, n, 1, &[]));
    assert!(!matches!(v, Verdict::Reply(_)), "{v:?}");
    // But nobody is forgotten in the first second, in which a lost last acknowledgement is said again.
    b.wait(Duration::from_secs(16));
    let mut opened = 0;
    for n in 0..2000u16 {
        b.client.set_port(20_000 + n);
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        if b.client_sends(seg(ACK, 1, 1, &[])).1 == Verdict::Drop(DropReason::FlowTableFull) {
            break;
        }
        opened += 1;
        let (_, v) = b.client_sends(seg(ACK, 1, 1, HTTP));
        assert_eq!(v, Verdict::Hold);
        let n = 1 + HTTP.len() as u32;
        b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
        b.client_sends(seg(FIN_ACK, n, 1, &[]));
        b.server_sends(Seg { window: 60000, ..seg(FIN_ACK, 1, n + 1, &[]) });
        b.client_sends(seg(ACK, n + 1, 2, &[]));
        b.wait(Duration::from_micros(500));
    }
    assert_eq!(opened, 1310);
}

/// Two own addresses in the servers' network, and one in another.
fn two_sources(v6: bool) -> Config {
    let mut config = two_armed(1, v6);
    let more = if v6 { ["fd02::2/64", "fd03::1/64"] } else { ["10.2.0.2/16", "10.3.0.1/16"] };
    config.ports[1].addresses.extend(sim::config::port(1, &more).addresses);
    config
}

#[test]
fn all_own_addresses_in_a_servers_network_are_dialled_from_and_each_has_ports_of_its_own() {
    for v6 in [false, true] {
        let mut b = Bench::new(two_sources(v6), v6);
        b.engine.use_local_ports(100);
        let mut used = std::collections::BTreeMap::<_, usize>::new();
        // Twice as many at once as one address has ports.
        for n in 0..200u16 {
            b.client.set_port(10_000 + n);
            b.splice(HTTP);
            *used.entry(b.dialled_from.ip()).or_default() += 1;
        }
        let own = if v6 { ["fd02::1", "fd02::2"] } else { ["10.2.0.1", "10.2.0.2"] };
        assert_eq!(used, own.map(|a| (sim::config::ip(a), 100)).into());
        assert_eq!(b.engine.counters().refused[DropReason::NoLocalPort as usize], 0);
    }
}

#[test]
fn fifty_thousand_connections_a_second_to_one_server_are_closed_without_a_want_of_ports() {
    // 63,488 ports stand for 635 here, and 50,000 a second for 500.
    let mut b = bench();
    b.engine.use_local_ports(635);
    for n in 0..5000u16 {
        b.client.set_port(10_000 + n);
        assert!(visit(&mut b), "{n}: {:?}", b.engine.counters().refused[DropReason::NoLocalPort as usize]);
        b.wait(ms(2));
    }
    assert_eq!(b.engine.counters().refused[DropReason::NoLocalPort as usize], 0);
}

#[test]
fn with_dnat_a_port_that_a_client_used_for_another_vip_is_free_again_when_that_connection_is_over() {
    let mut config = Config { address_mode: AddressMode::Dnat, ..two_armed(1, false) };
    let first = vip(false);
    let second = SocketAddr::new(first.ip(), 444);
    config.wanted.services[0].listen.push(second);
    let mut b = Bench::new(config, false);
    assert!(visit(&mut b));
    let to = |b: &mut Bench, s: Seg<'_>| {
        let mut frame = b.client_frame(&s);
        let mut sum = checksum::Change::default();
        sum.word(443, 444);
        frame[36..38].copy_from_slice(&444u16.to_be_bytes());
        let old = u16::from_be_bytes([frame[50], frame[51]]);
        frame[50..52].copy_from_slice(&sum.apply(old).to_be_bytes());
        b.hand_in(0, &frame).0
    };
    let says = |b: &mut Bench| {
        to(b, Seg { options: &[], ..seg(SYN, 0, 0, &[]) });
        to(b, seg(ACK, 1, 1, &[]));
        to(b, seg(ACK, 1, 1, HTTP)).iter().any(|out| out.tcp().is_bare_syn())
    };
    assert!(!says(&mut b), "the server may still repeat its FIN");
    b.wait(ms(1100));
    assert!(says(&mut b));
}
