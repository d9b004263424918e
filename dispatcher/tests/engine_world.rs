//! The engine between real TCP stacks: whole connections, in the shapes that clients and servers give them.

use core::time::Duration;
use dispatcher::engine::{AddressMode, Class, Config, End};
use sim::apps::{Closing, Ended, Expect, Manner, Plan, Write, get, get_and_reset, pattern};
use sim::config::{client_ip, one_armed, two_armed, vip};
use sim::host::Stack;
use sim::links::Faults;
use sim::tls::Hello;
use sim::world::World;
use std::net::SocketAddr;

const LONG: Duration = Duration::from_secs(120);

fn settle(mut w: World) {
    w.run_until_done(LONG);
    w.assert_all_complete();
    w.assert_quiescent();
}

#[test]
fn bytes_come_back_as_they_were_sent_and_nothing_is_left_behind() {
    for v6 in [false, true] {
        let mut w = World::new("echo", two_armed(2, v6), 1, 1, 2, v6);
        w.connect(0, Plan::echo(b"hello, this is no TLS at all"));
        w.run_until_done(LONG);
        assert_eq!(w.told.len(), 1);
        let t = &w.told[0];
        assert_eq!((t.class, t.end, t.bytes_to_server, t.bytes_to_client), (Class::NonSecure, End::Fin, 28, 28));
        settle(w);
    }
}

#[test]
fn a_megabyte_arrives_in_both_directions_at_once() {
    for v6 in [false, true] {
        let mut w = World::new("megabyte", two_armed(1, v6), 2, 1, 1, v6);
        w.connect(0, Plan::echo(&[b"x".to_vec(), pattern(1_000_000)].concat()));
        settle(w);
    }
}

#[test]
fn a_megabyte_arrives_over_bad_links() {
    let mut w = World::new("bad-links", two_armed(1, false), 3, 1, 1, false);
    w.roughen(Faults::ROUGH);
    w.connect(0, Plan::echo(&[b"x".to_vec(), pattern(300_000)].concat()));
    settle(w);
}

#[test]
fn the_server_may_close_first() {
    let mut w = World::new("server-first", two_armed(2, false), 4, 1, 2, false);
    w.connect(0, Plan::get(10_000));
    settle(w);
}

#[test]
fn a_client_that_closes_its_direction_still_gets_its_answer() {
    for n in [10, 200_000] {
        let mut w = World::new("half-close", two_armed(2, false), 5, 1, 2, false);
        w.connect(0, Plan::get(n).closing(Closing::Half));
        w.connect(0, Plan::echo(&pattern(n)[1..]).closing(Closing::Half));
        settle(w);
    }
}

#[test]
fn a_client_that_says_nothing_and_closes_meets_a_server_that_does_the_same() {
    for proxy in [false, true] {
        let config = two_armed(1, false).policy(|p| p.proxy_protocol = proxy);
        let mut w = World::new("nothing", config, 6, 1, 1, false);
        w.server_mut(1).expects_proxy_header = proxy;
        let plan = Plan { writes: vec![], expect: Expect::Exactly(vec![]), closing: Closing::Half };
        w.connect(0, plan);
        settle(w);
    }
}

#[test]
fn a_reset_from_the_client_reaches_the_server_and_ends_the_flow() {
    let mut w = World::new("client-reset", two_armed(1, false), 7, 1, 1, false);
    let id = w.connect(0, Plan::echo(b"then reset").closing(Closing::Abort));
    w.run_until_done(LONG);
    w.run(Duration::from_secs(1));
    assert!(w.conn(id).complete());
    assert_eq!(w.server(1).resets, 1);
    assert_eq!(w.told[0].end, End::ClientReset);
    w.run(Duration::from_secs(3));
    assert_eq!(w.engine.flows(), 0, "kept for a moment only");
    w.assert_quiescent();
}

#[test]
fn a_reset_from_the_server_reaches_the_client_behind_the_bytes_before_it() {
    let mut w = World::new("server-reset", two_armed(1, false), 8, 1, 1, false);
    let plan = Plan {
        writes: vec![Write::now(get_and_reset(5000))],
        expect: Expect::Exactly(pattern(5000)),
        closing: Closing::Never,
    };
    let id = w.connect(0, plan);
    w.run_until_done(LONG);
    assert!(w.conn(id).complete());
    assert_eq!(w.conn(id).outcome, Ended::Reset);
    assert_eq!(w.told[0].end, End::BackendReset);
    w.assert_quiescent();
}

#[test]
fn one_port_serves_both_sides() {
    for v6 in [false, true] {
        for mode in [AddressMode::Snat, AddressMode::Dnat] {
            let config = Config { address_mode: mode, ..one_armed(2, v6) };
            let mut w = World::new("one-armed", config, 9, 2, 2, v6);
            w.connect(0, Plan::echo(b"over one port"));
            w.connect(1, Plan::tls(&Hello::default(), &pattern(20_000)));
            settle(w);
        }
    }
}

#[test]
fn servers_see_our_address_or_the_clients_own_as_configured() {
    for v6 in [false, true] {
        for mode in [AddressMode::Snat, AddressMode::Dnat] {
            let config = Config { address_mode: mode, ..two_armed(1, v6) };
            let mut w = World::new("modes", config, 10, 1, 1, v6);
            let id = w.connect(0, Plan::echo(b"who am I?"));
            w.run_until_done(LONG);
            let peer = w.server(1).peers[0];
            match mode {
                AddressMode::Dnat => assert_eq!(peer, w.conn(id).local),
                AddressMode::Snat => assert_eq!(peer.ip(), w.config.ports[1].addresses[usize::from(v6)].0),
            }
            settle(w);
        }
    }
}

#[test]
fn tags_are_put_on_and_taken_off_as_each_side_has_them() {
    for (client, server) in [(Some(7), None), (None, Some(8)), (Some(7), Some(8))] {
        for v6 in [false, true] {
            let mut config = two_armed(1, v6);
            config.ports[1].vlans = server.into_iter().collect();
            let mut w = World::new("vlan", config, 11, 1, 1, v6);
            w.hosts[0].vlan = client;
            w.hosts[1].vlan = server;
            w.connect(0, Plan::echo(&pattern(50_000)[1..]));
            settle(w);
        }
    }
}

#[test]
fn clients_and_servers_behind_gateways_are_reached() {
    for v6 in [false, true] {
        let addr = |v4: &str, v6_: &str| -> std::net::IpAddr { sim::config::ip(if v6 { v6_ } else { v4 }) };
        let (far, away) = (addr("10.77.0.5", "fd77::5"), addr("10.88.0.5", "fd88::5"));
        let mut config = two_armed(1, v6);
        config.wanted.pools[0].backends[0].addr = SocketAddr::new(far, 8443);
        config.ports[1].gateways = vec![addr("10.2.0.254", "fd02::fe")];
        let mut w = World::empty("gateways", config, 12);
        // Each router has a foot in both networks of its wire.
        let mut behind = |port: usize, near: [&str; 2], ours: [&str; 2], beyond: [&str; 2], host| {
            let feet = [addr(near[0], near[1]), addr(beyond[0], beyond[1])];
            let router = w.add_host(&feet, port, Stack::default(), if v6 { ours[1] } else { ours[0] });
            let h = w.add_host(&[host], port, Stack::default(), if v6 { beyond[1] } else { beyond[0] });
            w.routes_for(router, &[(host, h)]);
            h
        };
        let server = behind(1, ["10.2.0.254", "fd02::fe"], ["10.2.0.1", "fd02::1"], ["10.77.0.254", "fd77::fe"], far);
        let client = behind(0, ["10.1.0.254", "fd01::fe"], ["10.1.0.1", "fd01::1"], ["10.88.0.254", "fd88::fe"], away);
        w.hosts[server].server = Some(sim::apps::Server::new(0, 1));
        w.connect(client, Plan::echo(&pattern(30_000)[1..]));
        settle(w);
    }
}

#[test]
fn a_proxy_header_tells_the_server_the_clients_true_address() {
    for v6 in [false, true] {
        for faults in [Faults::NONE, Faults::ROUGH] {
            let config = two_armed(1, v6).policy(|p| p.proxy_protocol = true);
            let mut w = World::new("proxy", config, 13, 1, 1, v6);
            w.server_mut(1).expects_proxy_header = true;
            w.roughen(faults);
            w.faults[0] = Faults::NONE;
            for _ in 0..10 {
                w.connect(0, Plan::echo(&pattern(5_000)[1..]));
                w.connect(0, Plan::tls(&Hello { at_least: 3000, ..Hello::default() }, b"body"));
            }
            w.run_until_done(LONG);
            let mut clients: Vec<_> = w.hosts[0].conns.iter().map(|c| (c.local, vip(v6))).collect();
            let mut named = w.server(1).proxied.clone();
            clients.sort();
            named.sort();
            assert_eq!(named, clients);
            settle(w);
        }
    }
}

#[test]
fn a_client_who_sends_a_new_hello_is_taken_for_secure_and_served() {
    for faults in [Faults::NONE, Faults::ROUGH] {
        let mut w = World::new("tls", two_armed(3, false), 14, 2, 3, false);
        w.roughen(faults);
        for size in [0, 600, 1700, 4000, 16_000] {
            w.connect(0, Plan::tls(&Hello { at_least: size, ..Hello::default() }, &pattern(3000)));
        }
        w.run_until_done(LONG);
        assert!(w.told.iter().all(|t| t.class == Class::Secure));
        settle(w);
    }
}

#[test]
fn a_hello_in_single_bytes_beyond_any_initial_window_arrives() {
    for (proxy, faults) in [(false, Faults::NONE), (true, Faults::NONE), (false, Faults::ROUGH), (true, Faults::ROUGH)]
    {
        let config = two_armed(1, false).policy(|p| p.proxy_protocol = proxy);
        let mut w = World::new("drip", config, 15, 1, 1, false);
        w.server_mut(1).expects_proxy_header = proxy;
        w.roughen(faults);
        let hello = Hello { at_least: 250, ..Hello::default() };
        w.connect(0, Plan::tls(&hello, b"and then some").dripping(1, Duration::from_millis(1), 10));
        settle(w);
    }
}

#[test]
fn a_hello_over_many_records_and_segments_arrives() {
    let hello = Hello { at_least: 2500, ..Hello::default() };
    for records in [1, 7, 100, 1000] {
        let mut w = World::new("records", two_armed(1, false), 16, 1, 1, false);
        w.connect(
            0,
            Plan::tls_bytes(hello.in_records(records), b"and then some").dripping(300, Duration::from_millis(3), 9000),
        );
        settle(w);
    }
}

#[test]
fn hello_bytes_that_we_acknowledged_reach_a_server_with_a_narrow_window() {
    let mut w = World::empty("narrow", two_armed(1, false), 17);
    w.add_client(0, false);
    w.add_server(0, false, 1, Stack { receive_buffer: 700, ..Stack::default() });
    // So much is acknowledged by us that the server's window takes it only in portions.
    let hello = Hello { at_least: 8000, ..Hello::default() };
    w.connect(0, Plan::tls(&hello, &pattern(5000)).dripping(100, Duration::from_millis(1), 1000));
    settle(w);
}

#[test]
fn a_lost_acknowledgement_of_ours_is_said_again_to_a_client_that_repeats() {
    let mut w = World::new("ack-lost", two_armed(1, false), 18, 1, 1, false);
    let hello = Hello { at_least: 400, ..Hello::default() };
    w.connect(0, Plan::tls(&hello, b"x").dripping(20, Duration::from_millis(2), 40));
    // One direction of the client's link fails for a while: what it sends arrives, and no acknowledgement returns.
    w.run(Duration::from_millis(5));
    w.hosts[0].dark = true;
    w.run(Duration::from_millis(100));
    w.hosts[0].dark = false;
    settle(w);
}

#[test]
fn a_server_that_speaks_first_is_heard_after_the_hello_timeout() {
    for proxy in [false, true] {
        let config = two_armed(2, false)
            .policy(|p| p.proxy_protocol = proxy)
            .policy(|p| p.hello_timeout = Duration::from_millis(700));
        let mut w = World::new("banner", config, 19, 1, 2, false);
        for s in [1, 2] {
            w.server_mut(s).manner = Manner::Greets(b"220 ready\r\n".to_vec());
            w.server_mut(s).expects_proxy_header = proxy;
        }
        let plan = Plan {
            writes: vec![Write { received: 11, ..Write::now(b"EHLO".to_vec()) }],
            expect: Expect::Exactly(b"220 ready\r\nEHLO".to_vec()),
            closing: Closing::ClientFirst,
        };
        let id = w.connect(0, plan);
        w.run(Duration::from_millis(600));
        assert!(w.conn(id).received.is_empty());
        w.run(Duration::from_millis(300));
        assert!(w.conn(id).complete());
        settle(w);
    }
}

#[test]
fn a_client_that_closes_after_half_a_hello_gets_a_servers_answer() {
    let mut w = World::new("half-hello", two_armed(1, false), 20, 1, 1, false);
    let half = Hello::default().bytes()[..50].to_vec();
    let id =
        w.connect(0, Plan { writes: vec![Write::now(half)], expect: Expect::Exactly(vec![]), closing: Closing::Half });
    w.run_until_done(LONG);
    assert_eq!(w.conn(id).outcome, Ended::Closed, "closed in order by the server");
    assert_eq!(w.server(1).accepted, 1);
    w.assert_quiescent();
}

#[test]
fn a_hello_longer_than_the_buffer_is_spliced_whole_and_what_was_read_of_it_decides() {
    for proxy in [false, true] {
        let config = || two_armed(2, false).policy(|p| p.proxy_protocol = proxy);
        let mut w = World::new("long-hello", config(), 21, 1, 2, false);
        for server in w.servers() {
            w.server_mut(server).expects_proxy_header = proxy;
        }
        let first = w.connect(0, Plan::tls(&Hello::default(), b""));
        w.run_until_done(LONG);
        let session = w.conn(first).flight().unwrap();
        for at_least in [19_000, 22_000, 24_000, 45_000, 60_000] {
            let hello = Hello { at_least, session_id: session.session_id.clone(), ..Hello::default() };
            let id = w.connect(0, Plan::tls(&hello, b"and more"));
            w.run_until_done(LONG);
            w.conn(id).check();
            assert!(w.conn(id).complete(), "{at_least}: {:?}", w.conn(id).outcome);
            assert_eq!((w.told.last().unwrap().class, w.told.last().unwrap().reason), (Class::Secure, "session-id"));
            let flight = w.conn(id).flight().unwrap();
            assert!(flight.resumed && flight.server == session.server, "{at_least}");
        }
        let c = w.engine.counters();
        assert_eq!((c.hellos_unread, c.secure), (4, 6), "{c:?}");
        w.assert_quiescent();
    }
}

#[test]
fn a_hello_that_cannot_be_read_goes_to_a_server_which_says_what_is_wrong() {
    let mut w = World::new("unread", two_armed(1, false), 21, 1, 1, false);
    w.server_mut(1).manner = Manner::Greets(vec![]);
    let good = Hello::default().bytes();
    let mut bad = good.clone();
    bad[43] = 200; // The length of the session ID.
    let mut enormous = good.clone();
    enormous[6] = 0xff; // Sixteen megabytes.
    let mut torn = good[..50].to_vec();
    torn[3..5].copy_from_slice(&45_u16.to_be_bytes());
    torn.extend(b"GET / HTTP/1.1");
    for wire in [bad, enormous, torn] {
        // This server sends back what it gets, to the last byte.
        w.connect(0, Plan::echo(&wire));
        w.run_until_done(LONG);
    }
    let c = w.engine.counters();
    assert_eq!((c.hellos_unread, c.secure, c.non_secure, c.dials), (3, 3, 0, 3), "{c:?}");
    assert!(w.told.iter().all(|t| t.class == Class::Secure && t.end == End::Fin));
    settle(w);
}

#[test]
fn half_a_hello_reaches_a_server_after_half_a_minute_and_holds_no_buffer_then() {
    let mut w = World::new("never", two_armed(1, false), 22, 1, 1, false);
    let half = Hello::default().bytes()[..50].to_vec();
    let id = w.connect(0, Plan { writes: vec![Write::now(half)], expect: Expect::Anything, closing: Closing::Never });
    w.run(Duration::from_secs(29));
    assert_eq!((w.server(1).accepted, w.engine.counters().dials), (0, 0));
    w.run(Duration::from_secs(6));
    assert_eq!((w.server(1).accepted, w.engine.counters().hellos_unread), (1, 1));
    assert_eq!(w.engine.held_hellos(), 0);
    assert_ne!(w.conn(id).outcome, Ended::Reset);
}

#[test]
fn a_server_that_refuses_or_is_dark_is_replaced_and_no_client_notices() {
    for proxy in [false, true] {
        let config = two_armed(3, false).policy(|p| p.proxy_protocol = proxy);
        let mut w = World::new("redispatch", config, 23, 8, 3, false);
        let servers = w.servers();
        for &s in &servers {
            w.server_mut(s).expects_proxy_header = proxy;
        }
        w.run(Duration::from_secs(1));
        w.hosts[servers[0]].deaf = true;
        w.hosts[servers[1]].dark = true;
        for c in 0..8 {
            w.connect(c, Plan::tls(&Hello { at_least: 2000, ..Hello::default() }, &pattern(3000)));
            w.connect(c, Plan::echo(&pattern(3000)[1..]));
            w.connect(
                c,
                Plan::tls(&Hello { at_least: 300, ..Hello::default() }, b"x").dripping(
                    10,
                    Duration::from_millis(1),
                    100,
                ),
            );
        }
        w.run_until_done(LONG);
        assert!(w.engine.counters().redispatches > 0);
        assert!(w.told.iter().all(|t| t.backend.as_deref() == Some("web2")));
        settle(w);
    }
}

#[test]
fn when_every_server_is_gone_the_client_is_reset() {
    let mut w = World::new("all-down", two_armed(2, false), 24, 1, 2, false);
    w.run(Duration::from_secs(1));
    w.hosts[1].deaf = true;
    w.hosts[2].dark = true;
    let id = w.connect(0, Plan::echo(b"anybody there?"));
    w.run_until_done(LONG);
    assert_eq!(w.conn(id).outcome, Ended::Reset);
    assert_eq!((w.told[0].end, w.told[0].attempts), (End::NoBackend, 2));
    w.assert_quiescent();
}

#[test]
fn a_server_that_comes_back_is_found_by_a_probe_and_used_again() {
    let config = Config { probe: true, ..two_armed(2, false) };
    let mut w = World::new("comes-back", config, 25, 20, 2, false);
    let servers = w.servers();
    w.run(Duration::from_secs(1));
    w.hosts[servers[0]].dark = true;
    for c in 0..20 {
        w.connect(c, Plan::echo(b"first"));
    }
    w.run_until_done(LONG);
    let before = w.server(servers[0]).accepted;
    let attempts: u32 = w.told.iter().map(|t| t.attempts).sum();
    for c in 0..20 {
        w.connect(c, Plan::echo(b"second"));
    }
    w.run_until_done(LONG);
    assert_eq!(w.told.iter().map(|t| t.attempts).sum::<u32>(), attempts + 20, "nobody tried it while it was down");
    w.hosts[servers[0]].dark = false;
    w.run(Duration::from_secs(10));
    for c in 0..20 {
        w.connect(c, Plan::echo(b"third"));
    }
    w.run_until_done(LONG);
    assert!(w.server(servers[0]).accepted > before);
    assert!(w.told.iter().all(|t| t.end == End::Fin));
    settle(w);
}

#[test]
fn probes_are_never_seen_by_a_servers_application() {
    let config = Config { probe: true, ..two_armed(2, false) };
    let mut w = World::new("probes", config, 26, 0, 2, false);
    w.run(Duration::from_secs(10));
    assert!(w.servers().iter().all(|s| w.server(*s).accepted == 0));
    assert_eq!(w.engine.flows(), 0);
}

#[test]
fn an_idle_connection_is_reset_on_both_sides_after_its_timeout() {
    let config = Config { flow_idle_timeout: Duration::from_secs(20), ..two_armed(1, false) };
    let mut w = World::new("idle", config, 27, 1, 1, false);
    let id = w.connect(0, Plan::echo(b"and now silence").closing(Closing::Never));
    // Both are alive, and say so when they are asked.
    w.run(Duration::from_secs(100));
    assert!(w.conn(id).complete() && w.conn(id).outcome == Ended::Open);
    assert_eq!((w.engine.flows(), w.told.len()), (1, 0));
    // Then the server is not heard any more.
    w.hosts[1].dark = true;
    w.run(Duration::from_secs(40));
    assert_eq!(w.conn(id).outcome, Ended::Reset);
    assert_eq!(w.told[0].end, End::Idle);
    w.assert_quiescent();
}

/// Downloads and uploads in the middle, between hosts that obey a reset at the exact number only (RFC 5961): a stop ends all of
/// them on both sides within two seconds, also where every twentieth frame is lost.
#[test]
fn a_stop_in_the_middle_of_transfers_ends_both_sides_within_two_seconds_rfc_5961() {
    for (mode, v6, loss) in [
        (AddressMode::Snat, false, 0),
        (AddressMode::Dnat, true, 0),
        (AddressMode::Snat, true, 50),
        (AddressMode::Dnat, false, 50),
    ] {
        let config = Config { address_mode: mode, ..two_armed(2, v6) };
        let mut w = World::new("stop", config, 33, 2, 2, v6);
        w.delay = Duration::from_millis(5);
        w.hosts.iter_mut().for_each(|h| h.stack.strict = true);
        let download =
            |n| Plan { writes: vec![Write::now(get(n))], expect: Expect::Exactly(pattern(n)), closing: Closing::Never };
        let upload = Plan {
            writes: vec![Write::now([&b"x"[..], &pattern(20_000_000)].concat())],
            expect: Expect::Anything,
            closing: Closing::Never,
        };
        let ids: Vec<_> =
            (0..20).map(|n| w.connect(n % 2, if n % 4 < 2 { download(1_000_000) } else { upload.clone() })).collect();
        w.run(Duration::from_millis(120));
        w.faults.fill(Faults { loss, ..Faults::NONE });
        w.run(Duration::from_millis(20));
        let under_way = ids.iter().filter(|id| w.conn(**id).outcome == Ended::Open).count();
        let accepted: usize = w.servers().iter().map(|s| w.server(*s).accepted).sum();
        assert_eq!((under_way, accepted), (20, 20));
        w.shutdown();
        w.run(Duration::from_secs(2));
        let open = ids.iter().filter(|id| w.conn(**id).outcome == Ended::Open).count();
        let resets: usize = w.servers().iter().map(|s| w.server(*s).resets).sum();
        assert_eq!((open, resets), (0, 20), "{mode:?}, loss {loss}");
        let doubted: u64 = w.hosts.iter().map(|h| h.doubted()).sum();
        assert!(loss == 0 || doubted > 0, "no reset was a challenge to anybody");
        assert_eq!(w.engine.flows(), 0);
        assert!(w.told.iter().all(|t| t.end == End::Shutdown));
        w.assert_quiescent();
    }
}

#[test]
fn shutdown_resets_everyone_and_tells_of_them() {
    let mut w = World::new("shutdown", two_armed(1, false), 28, 1, 1, false);
    let ids: Vec<_> = (0..20).map(|_| w.connect(0, Plan::echo(b"x").closing(Closing::Never))).collect();
    w.run(Duration::from_secs(1));
    w.shutdown();
    w.run(Duration::from_secs(1));
    assert!(ids.iter().all(|id| w.conn(*id).outcome == Ended::Reset));
    assert!(w.told.len() == 20 && w.told.iter().all(|t| t.end == End::Shutdown));
    w.assert_quiescent();
}

#[test]
fn stacks_without_timestamps_or_with_small_windows_are_served() {
    let stacks = [
        Stack { timestamps: false, ..Stack::default() },
        Stack { receive_buffer: 5000, send_buffer: 5000, ..Stack::default() },
        Stack { receive_buffer: 2_000_000, ..Stack::default() },
        Stack { mtu: 600, ..Stack::default() },
    ];
    for client in stacks {
        for server in stacks {
            for probe in [false, true] {
                let config = Config { probe, ..two_armed(1, false) };
                let mut w = World::empty("stacks", config, 29);
                let c = w.add_host(&[client_ip(0, false)], 0, client, "10.1.0.1");
                w.add_server(0, false, 1, server);
                w.run(Duration::from_secs(2));
                w.connect(c, Plan::echo(&pattern(40_000)[1..]));
                w.connect(c, Plan::tls(&Hello { at_least: 1700, ..Hello::default() }, &pattern(40_000)));
                settle(w);
            }
        }
    }
}

#[test]
fn a_small_mtu_of_ours_bounds_segments_in_both_directions() {
    for v6 in [false, true] {
        let mut config = two_armed(1, v6);
        config.ports[1].mtu = 1300;
        let mut w = World::new("mtu", config, 30, 1, 1, v6);
        w.connect(0, Plan::echo(&pattern(100_000)[1..]));
        w.run_until_done(LONG);
        let most = w.largest_frame();
        assert!((1200..=1300 + 14).contains(&most), "{most}");
        settle(w);
    }
}

#[test]
fn a_driver_without_room_costs_time_and_nothing_else() {
    let config = two_armed(2, false).policy(|p| p.proxy_protocol = true);
    let mut w = World::new("tx-full", config, 31, 2, 2, false);
    for s in w.servers() {
        w.server_mut(s).expects_proxy_header = true;
    }
    w.full = 300;
    for c in [0, 1] {
        for _ in 0..10 {
            w.connect(c, Plan::tls(&Hello::default(), &pattern(3000)));
        }
    }
    settle(w);
}

#[test]
fn a_port_is_used_again_by_a_client_while_the_old_flow_is_still_kept() {
    for n in [1, 20_000] {
        let mut w = World::new("reuse", two_armed(1, false), 32, 1, 1, false);
        let local = SocketAddr::new(client_ip(0, false), 50_000);
        for _ in 0..3 {
            // The server closes first, so the client is free at once; the dispatcher still keeps its TIME_WAIT.
            w.connect_from(0, local, Plan::get(n));
            w.run_until_done(LONG);
            assert_eq!(w.engine.flows(), 1);
            w.run(Duration::from_millis(200));
        }
        assert_eq!(w.told.len(), 3);
        settle(w);
    }
}

#[test]
fn a_client_that_forgot_its_connection_gets_a_new_one_on_the_same_port() {
    let mut w = World::new("amnesia", two_armed(1, false), 33, 1, 1, false);
    let local = SocketAddr::new(client_ip(0, false), 50_000);
    let id = w.connect_from(0, local, Plan::echo(b"old").closing(Closing::Never));
    w.run(Duration::from_secs(1));
    assert!(w.conn(id).complete());
    w.forget(id);
    w.connect_from(0, local, Plan::echo(b"new"));
    w.run_until_done(LONG);
    assert_eq!(w.hosts[0].conns.last().unwrap().received, b"new");
    w.assert_quiescent();
}

#[test]
fn all_numbers_hold_when_they_wrap() {
    // Many connections, so that sequence numbers wrap in some.
    let mut w = World::new("wrap", two_armed(1, false), 34, 1, 1, false);
    for _ in 0..3 {
        w.connect(0, Plan::echo(&pattern(3_000_000)[1..]));
    }
    settle(w);
}

#[test]
fn a_server_that_never_was_there_is_replaced_without_its_link_address() {
    let mut w = World::new("absent", two_armed(3, false), 35, 8, 1, false);
    for c in 0..8 {
        w.connect(c, Plan::echo(b"one of three"));
    }
    w.run_until_done(LONG);
    assert!(w.told.iter().all(|t| t.backend.as_deref() == Some("web0")));
    assert!(w.told.iter().any(|t| t.attempts > 1));
    settle(w);
}
