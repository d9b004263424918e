//! What somebody may send who wishes us ill, or who is merely broken: each of these once did harm, or might.

use core::time::Duration;
use dispatcher::engine::{AddressMode, Config, ConnectionRecord, DropReason, Effects, End, Engine, PortId, Verdict};
use dispatcher::time::Time;
use dispatcher::wire::build::{Arp, Link, Ndp, arp_op, ndp_type};
use dispatcher::wire::checksum;
use dispatcher::wire::options::SynOptions;
use dispatcher::wire::packet::{Flags, Packet, Tcp, Vlans, protocol};
use dispatcher::wire::{Addr, Frame, Mac, Seq};
use lb::{Algorithm, MemberSpec};
use sim::config::{client_ip, ip, one_armed, two_armed, vip};
use sim::rng::{Rng, seed_from_env, size_from_env};
use sim::script::*;
use sim::tls::Hello;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const HTTP: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
const STRANGER: Mac = Mac([2, 0, 0, 0, 66, 66]);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn bench() -> Bench {
    Bench::new(two_armed(1, false), false)
}

fn mapped(a: IpAddr) -> [u8; 16] {
    match a {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

/// An IPv6 packet with this ICMPv6 message, from a client's neighbour to the dispatcher's own address.
fn icmp6(message: &[u8], hops: u8) -> Vec<u8> {
    let (from, to) = (Addr::from(client_ip(7, true)), Addr::from(ip("fd01::1")));
    let mut message = message.to_vec();
    let sum = checksum::transport(from.octets(), to.octets(), protocol::ICMPV6, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut f = [&sim::config::PORT_MACS[0].0[..], &STRANGER.0, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    f.extend((message.len() as u16).to_be_bytes());
    f.extend([protocol::ICMPV6, hops]);
    f.extend(from.octets());
    f.extend(to.octets());
    f.extend(message);
    f
}

// ---- addresses of one family in the clothes of the other

#[test]
fn an_icmpv6_error_that_quotes_ipv4_addresses_finds_no_ipv4_flow() {
    let mut b = bench();
    b.splice(HTTP);
    let mut error = vec![1, 0, 0, 0, 0, 0, 0, 0];
    error.extend([0x60, 0, 0, 0, 0, 20, protocol::TCP, 64]);
    error.extend(mapped(vip(false).ip()));
    error.extend(mapped(b.client.ip()));
    error.extend(443u16.to_be_bytes());
    error.extend(b.client.port().to_be_bytes());
    error.extend((b.cookie + 1).0.to_be_bytes());
    error.extend([0; 12]);
    let (out, v) = b.hand_in(0, &icmp6(&error, 64));
    assert!(matches!(v, Verdict::Drop(_)) && out.is_empty(), "{v:?}");
}

#[test]
fn neighbour_discovery_about_ipv4_addresses_is_malformed() {
    let mut b = bench();
    for (kind, addr) in [(ndp_type::SOLICITATION, vip(false).ip()), (ndp_type::ADVERTISEMENT, b.server_addr())] {
        let mut message = vec![kind, 0, 0, 0, 0x60, 0, 0, 0];
        message.extend(mapped(addr));
        message.extend([if kind == ndp_type::SOLICITATION { 1 } else { 2 }, 1]);
        message.extend(STRANGER.0);
        let (out, v) = b.hand_in(0, &icmp6(&message, 255));
        assert_eq!((out.len(), v), (0, Verdict::Drop(DropReason::Malformed)));
    }
}

// ---- neighbours

#[test]
fn claims_in_quick_succession_do_not_outrun_the_true_holder() {
    let mut b = bench();
    let server = Addr::from(b.server_addr());
    let link = Link { dst: sim::config::PORT_MACS[1], src: STRANGER, vlans: Vlans::NONE };
    let claim = Arp {
        op: arp_op::REPLY,
        sender_mac: STRANGER,
        sender: server,
        target_mac: sim::config::PORT_MACS[1],
        target: Addr::from(ip("10.2.0.1")),
    };
    let mut f = [0; 64];
    let n = claim.write(&mut f, &link);
    let mut asked = 0;
    for _ in 0..100 {
        // As fast as a link carries them, long before the holder's answer can be here.
        b.now += Duration::from_micros(1);
        let (_, v) = b.hand_in(1, &f[..n]);
        assert_eq!(v, Verdict::Drop(DropReason::NeighbourUnasked));
        asked += b.poll().len();
    }
    assert!(asked <= 1, "{asked} questions for a hundred claims");
    let syn = b.dial(HTTP);
    assert_eq!(syn.eth.dst, SERVER_MAC);
}

// ---- what is held for a client

#[test]
fn clients_that_keep_half_hellos_make_room_for_those_that_go_on() {
    let mut config = two_armed(1, false);
    config.limits.hellos = 8;
    let mut b = Bench::new(config, false);
    let half = &Hello::default().bytes()[..60];
    for port in 1..=8 {
        b.client.set_port(port);
        b.client_syn(&SynOptions::default());
        b.client_sends(seg(ACK, 1, 1, half));
    }
    b.client.set_port(5000);
    b.client_syn(&SynOptions::default());
    let whole = Hello::default().bytes();
    let (_, v) = b.client_sends(seg(ACK, 1, 1, &whole));
    assert_eq!(v, Verdict::Drop(DropReason::HelloNoBuffer), "all are young: nobody is sent away for another");
    b.wait(ms(1500));
    let (out, v) = b.client_sends(seg(ACK, 1, 1, &whole));
    assert_eq!(v, Verdict::Hold);
    assert!(out.iter().any(|o| o.tcp().is_bare_syn() && o.port == 1), "dialled");
    assert!(out.iter().any(|o| o.flags() == RST_ACK && o.port == 0), "one of the others was reset");
    assert_eq!(b.ended.len(), 1);
    assert_eq!(b.ended[0].0, End::NoBuffer);
}

#[test]
fn a_hello_of_one_byte_records_in_one_byte_segments_is_read_when_its_last_byte_is_there() {
    let mut b = bench();
    let wire = Hello { at_least: 3300, ..Hello::default() }.in_records(1);
    assert!(wire.len() > 19_000 && wire.len() < 20_480);
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    let begun = std::time::Instant::now();
    for (i, byte) in wire.iter().enumerate() {
        let (out, v) = b.client_sends(seg(ACK, 1 + i as u32, 1, &[*byte]));
        assert_eq!(v, Verdict::Hold, "byte {i}");
        let dialled = out.iter().any(|o| o.port == 1);
        assert_eq!(dialled, i + 1 == wire.len(), "byte {i} of {}", wire.len());
    }
    println!("{} segments, {} ns each, bench included", wire.len(), begun.elapsed().as_nanos() / wire.len() as u128);
    assert_eq!(b.engine.counters().secure, 1);
}

#[test]
fn a_damaged_reset_ends_no_waiting_client() {
    let mut b = bench();
    b.client_syn(&SynOptions::default());
    b.client_sends(seg(ACK, 1, 1, &Hello::default().bytes()[..60]));
    let mut f = b.client_frame(&seg(RST, 61, 0, &[]));
    let at = f.len() - 3;
    f[at] ^= 0x40;
    let (_, v) = b.hand_in(0, &f);
    assert_eq!(v, Verdict::Drop(DropReason::BadChecksum));
    assert_eq!(b.engine.flows(), 1);
}

// ---- a flow's way

#[test]
fn a_segment_of_guessed_numbers_leads_no_flow_elsewhere() {
    let mut b = bench();
    b.splice(HTTP);
    let answer = |b: &mut Bench, seq| {
        let (out, _) = b.server_sends(Seg { window: 60000, ..seg(ACK, seq, 19, b"data") });
        out[0].eth.dst
    };
    fn from(b: &Bench, s: Seg<'_>) -> Vec<u8> {
        let mut f = b.client_frame(&s);
        f[6..12].copy_from_slice(&STRANGER.0);
        f
    }
    // Old enough to be a repetition of what was never sent; right in sequence but wrong in what it acknowledges.
    for s in [seg(ACK, 19u32.wrapping_sub(1 << 29), 1, b"x"), seg(ACK, 19, 1 << 28, b"x")] {
        let f = from(&b, s);
        b.hand_in(0, &f);
        assert_eq!(answer(&mut b, 1), CLIENT_MAC);
    }
    let mut damaged = from(&b, seg(ACK, 19, 5, b"x"));
    *damaged.last_mut().unwrap() ^= 1;
    b.hand_in(0, &damaged);
    assert_eq!(answer(&mut b, 1), CLIENT_MAC);
    // The client itself, behind another router now.
    let moved = from(&b, seg(ACK, 19, 5, b"x"));
    b.hand_in(0, &moved);
    assert_eq!(answer(&mut b, 5), STRANGER);
}

#[test]
fn a_dial_whose_next_hop_is_lost_comes_to_an_end() {
    let mut b = Bench::new(two_armed(2, false), false);
    let pass = |b: &mut Bench, time: Duration| {
        let end = b.now + time;
        while b.now < end {
            b.now += ms(10);
            // Nobody answers for the servers' addresses.
            b.poll();
        }
    };
    pass(&mut b, ms(32_500));
    b.dial(HTTP);
    b.client.set_port(50_001);
    b.now += ms(10);
    b.splice(HTTP);
    pass(&mut b, ms(15_000));
    assert!(b.ended.iter().any(|(end, ..)| *end == End::NoBackend), "{:?}", b.ended);
    assert_eq!(b.engine.flows(), 1, "the one that was connected");
}

#[test]
fn an_echo_that_came_on_its_last_hop_is_answered_with_enough_for_the_way_back() {
    let mut b = Bench::new(two_armed(1, true), true);
    let (out, v) = b.hand_in(0, &icmp6(&[128, 0, 0, 0, 1, 2, 3, 4], 1));
    assert!(matches!(v, Verdict::Reply(_)), "{v:?}");
    assert_eq!(out[0].ip().ttl, 64);
    let (from, to) = ([10, 1, 0, 17], [10, 1, 0, 1]);
    let mut h = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 1, protocol::ICMP, 0, 0];
    h.extend(from);
    h.extend(to);
    let sum = checksum::Sum::default().add_bytes(&h).checksum();
    h[10..12].copy_from_slice(&sum.to_be_bytes());
    let f = [&sim::config::PORT_MACS[0].0[..], &STRANGER.0, &[8, 0], &h, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]].concat();
    let (out, v) = b.hand_in(0, &f);
    assert!(matches!(v, Verdict::Reply(_)), "{v:?}");
    assert_eq!(out[0].ip().ttl, 64);
    assert_eq!(checksum::Sum::default().add_bytes(&out[0].bytes[14..34]).checksum(), 0);
}

// ---- configurations at the edge

#[test]
fn sizes_that_cannot_work_are_refused_in_words() {
    let new = |c: Config| Engine::new(c, [0; 32], Time::ZERO).map(|_| ());
    let mut tiny = two_armed(1, false);
    tiny.ports[1].mtu = 50;
    assert!(new(tiny).unwrap_err().0.contains("MTU"));
    let mut none = two_armed(1, false);
    none.limits.flows = 0;
    assert!(new(none).is_err());
}

#[test]
fn a_thousand_backends_are_dialled_and_watched_over_without_a_busy_loop() {
    let each = |balance: Algorithm| {
        let address = |n: u32| SocketAddr::new(ip(&format!("10.2.{}.{}", 1 + n / 250, 1 + n % 250)), 443);
        let mut config = two_armed(0, false).pool(|pool| {
            pool.backends = (0..1000).map(|n| MemberSpec::new(format!("b{n}"), address(n))).collect();
            pool.balance = balance;
        });
        config.probe = true;
        let mut b = Bench::new(config, false);
        for port in 1..200 {
            b.client.set_port(port);
            b.dial(HTTP);
        }
        // All silent: nobody is up at last, and every client has been told.
        let (mut turns, end) = (0u64, b.now + Duration::from_secs(60));
        while let Some(at) = b.engine.next_deadline().filter(|at| *at <= end) {
            b.now = b.now.max(at);
            let out = b.poll();
            turns += 1;
            assert!(turns < 400_000, "{balance:?}: a busy loop");
            if out.iter().any(|o| o.eth.ethertype == 0x0806) && turns.is_multiple_of(50) {
                b.poll();
            }
        }
        println!("{balance:?}: {turns} turns in a minute");
        assert_eq!(b.engine.flows(), 0);
        b.assert_empty();
    };
    std::thread::scope(|threads| {
        for balance in [Algorithm::Maglev, Algorithm::LeastConn, Algorithm::RoundRobin, Algorithm::RandomTwo] {
            threads.spawn(move || each(balance));
        }
    });
}

// ---- everything at once

#[derive(Default)]
struct World {
    frames: Vec<(usize, Vec<u8>)>,
    /// Of a thousand frames of the engine's own so many find no room.
    lost: u32,
    rng: u64,
    ended: u64,
}

impl Effects for World {
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> bool {
        self.rng = self.rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let sent = (self.rng >> 33) % 1000 >= u64::from(self.lost);
        if sent {
            self.frames.push((usize::from(port.0), frame.to_vec()));
        }
        sent
    }
    fn connection_ended(&mut self, _: &ConnectionRecord<'_>) {
        self.ended += 1;
    }
}

/// What an attacker on both sides knows of a connection.
#[derive(Clone, Copy)]
struct Known {
    client: SocketAddr,
    cookie: Seq,
    from: SocketAddr,
    server: SocketAddr,
}

/// Valid segments with random flags and numbers near the edges, of few connections so that they meet; half-valid
/// handshakes, damaged bytes, neighbours' and errors' messages; queues that are full now and then.
#[test]
fn a_storm_of_nonsense_panics_nowhere_and_leaves_nothing() {
    let seed = seed_from_env(11);
    let frames = size_from_env(200_000);
    for (round, (v6, mode, proxy)) in
        [(false, AddressMode::Snat, false), (true, AddressMode::Snat, true), (false, AddressMode::Dnat, true)]
            .into_iter()
            .enumerate()
    {
        let base = if round == 1 { one_armed(3, v6) } else { two_armed(3, v6) };
        let mut config = Config { address_mode: mode, probe: round == 1, ..base }.policy(|p| p.proxy_protocol = proxy);
        config.limits.flows = 24;
        config.limits.hellos = 10;
        config.limits.watches = 6;
        config.limits.sessions = 64;
        config.limits.hello_bytes = 4096;
        // The bench builds frames; the engine is driven here.
        let mut b = Bench::new(config.clone(), v6);
        let mut rng = Rng::new(seed + round as u64);
        let mut fx = World { lost: 50, rng: seed, ..World::default() };
        let mut now = b.now;
        let mut known: Vec<Known> = (0..32u16)
            .map(|n| Known {
                client: SocketAddr::new(client_ip(usize::from(n % 4), v6), 50_000 + n / 4),
                cookie: Seq(0),
                from: b.dialled_from,
                server: b.dialled,
            })
            .collect();
        let hellos = [
            Hello::default().bytes(),
            Hello { session_id: vec![7; 32], ..Hello::default() }.in_records(9),
            Hello { psk: vec![vec![3; 60]], tls13: true, at_least: 1800, ..Hello::default() }.bytes(),
            HTTP.to_vec(),
            vec![0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff],
        ];
        let mut homeless = 0;
        for turn in 0..frames / 3 {
            let k = rng.below(known.len());
            (b.client, b.cookie, b.dialled_from, b.dialled) =
                (known[k].client, known[k].cookie, known[k].from, known[k].server);
            let near = |rng: &mut Rng| match rng.below(10) {
                0..5 => 1,
                5 => rng.below(40) as u32,
                6 => rng.below(6000) as u32,
                7 => 0u32.wrapping_sub(rng.below(70_000) as u32),
                8 => rng.u64() as u32,
                _ => 1 + 517,
            };
            let flags = match rng.below(10) {
                0..5 => ACK,
                5 => FIN_ACK,
                6 => RST,
                7 => RST_ACK,
                8 => SYN_ACK,
                _ => Flags(rng.u64() as u8),
            };
            let options = match rng.below(4) {
                0 => written(&linux()),
                1 => b.stamp(6000).to_vec(),
                2 => rng.bytes(12),
                _ => vec![],
            };
            let hello = &hellos[rng.below(hellos.len())];
            let part = rng.below(hello.len());
            let (payload, offset) = match rng.below(5) {
                0 => (vec![], 0),
                1 => (rng.bytes(70), 0),
                2 => (hello[part..].to_vec(), part as u32),
                3 => (hello[..part].to_vec(), 0),
                _ => (hello.clone(), 0),
            };
            let window = [0, 1, 1000, 65535][rng.below(4)];
            let (seq, ack) = (near(&mut rng).wrapping_add(offset), near(&mut rng));
            let s = Seg { seq, ack, flags, window, options: &options, payload: &payload };
            let last = b.server_port();
            let (port, mut frame) = match rng.below(16) {
                0..3 => (0, b.client_frame(&Seg { seq: 0, flags: SYN, ..s })),
                3..6 => (0, b.client_frame(&Seg { flags: ACK, seq: 1 + offset, ack: 1, ..s })),
                6..10 => (0, b.client_frame(&s)),
                10 | 11 => (
                    last,
                    b.server_frame(&Seg {
                        flags: SYN_ACK,
                        seq: 0,
                        ack: if proxy { 1u32.wrapping_sub(if v6 { 52 } else { 28 }) } else { 1 },
                        ..s
                    }),
                ),
                12..14 => (last, b.server_frame(&s)),
                14 => {
                    let at = rng.below(2).min(last);
                    let quoted = if rng.per_mille(500) { b.client_frame(&s) } else { b.server_frame(&s) };
                    (at, b.error_about(&quoted, rng.u64() as u8 % 5, [512, 1280][usize::from(v6)]))
                }
                _ => {
                    let mut f = vec![0; 128];
                    let link = Link { dst: config.ports[last].mac, src: STRANGER, vlans: Vlans::NONE };
                    let target = config.backends()[rng.below(3)].addr.ip();
                    let n = if target.is_ipv6() {
                        let kind = [ndp_type::SOLICITATION, ndp_type::ADVERTISEMENT][rng.below(2)];
                        let ndp = Ndp { kind, flags: 0x60, target: target.into(), mac: Some(SERVER_MAC) };
                        ndp.write(&mut f, &link, target.into(), Addr::from(ip("fd02::1")))
                    } else {
                        let op = [arp_op::REQUEST, arp_op::REPLY, 9][rng.below(3)];
                        Arp {
                            op,
                            sender_mac: SERVER_MAC,
                            sender: target.into(),
                            target_mac: STRANGER,
                            target: Addr::from(ip("10.2.0.1")),
                        }
                        .write(&mut f, &link)
                    };
                    f.truncate(n);
                    (last, f)
                }
            };
            if rng.per_mille(200) {
                for _ in 0..rng.between(1, 4) {
                    let at = rng.below(frame.len());
                    frame[at] = rng.u64() as u8;
                }
            }
            if rng.per_mille(30) {
                frame.truncate(rng.below(frame.len() + 1));
            }
            let head = if rng.per_mille(20) { 0 } else { 64 };
            let mut buffer = vec![0; head + frame.len() + if rng.per_mille(20) { 0 } else { 128 }];
            buffer[head..head + frame.len()].copy_from_slice(&frame);
            let len = frame.len();
            let mut held = Frame::new(&mut buffer, head, len);
            let verdict = b.engine.handle(PortId(port as u8), &mut held, now, &mut fx);
            if let Verdict::Forward(PortId(p)) | Verdict::Reply(PortId(p)) = verdict {
                fx.frames.push((usize::from(p), held.bytes().to_vec()));
            }
            homeless += u64::from(verdict == Verdict::Drop(DropReason::NoNeighbour));
            if turn % 4 == 0 {
                let most = if rng.per_mille(20) { 3_000_000 } else { 3_000 };
                now += Duration::from_micros(rng.below(most) as u64);
                b.engine.poll(now, &mut fx);
            }
            for (_, f) in fx.frames.drain(..) {
                let Ok(p) = Packet::parse(&f) else { continue };
                let (Ok(t), protocol::TCP) = (Tcp::parse(&f, &p.ip), p.ip.protocol) else { continue };
                let (src, dst) = (p.ip.src.socket(t.src_port), p.ip.dst.socket(t.dst_port));
                if t.is_bare_syn()
                    && config.backends().iter().any(|b| b.addr == dst)
                    && let Some((client, _)) = b.engine.connection_of(dst, src)
                    && let Some(k) = known.iter_mut().find(|k| k.client == client)
                {
                    (k.from, k.server) = (src, dst);
                } else if t.flags.0 & 0x3f == SYN_ACK.0
                    && src == vip(v6)
                    && let Some(k) = known.iter_mut().find(|k| k.client == dst)
                {
                    k.cookie = t.seq;
                }
            }
            let e = &b.engine;
            assert!(e.flows() <= 24 && e.held_hellos() <= 10 && e.watched() <= 6, "turn {turn}");
            let live = e.directory().live();
            let open: usize = e.directory().backends().map(|b| live.connections(b.id) as usize).sum();
            assert!(open <= e.flows(), "turn {turn}: {open} connections of {} flows", e.flows());
        }
        let c = b.engine.counters().clone();
        let dropped: u64 = c.drops.iter().sum();
        // Frames of our own that had no next hop were never made.
        let unmade = c.dropped(DropReason::NoNeighbour) - homeless;
        assert_eq!(c.frames_in + c.made + unmade, c.frames_out + c.held + dropped);
        assert_eq!(c.flows_closed, fx.ended);
        println!(
            "round {round}: {} opened, {} dials, {} forwarded, {} resets refused",
            c.flows_opened,
            c.dials,
            c.forwarded,
            c.refused.iter().sum::<u64>()
        );
        assert!(c.flows_opened > 100 && c.dials > 100 && c.forwarded > 100, "the storm reached every state");
        let end = now + Duration::from_secs(3600);
        let mut turns = 0;
        while let Some(at) = b.engine.next_deadline().filter(|at| *at <= end) {
            now = now.max(at);
            b.engine.poll(now, &mut fx);
            turns += 1;
            assert!(turns < 200_000, "a busy loop");
        }
        b.engine.poll(end, &mut fx);
        b.assert_empty();
        assert_eq!(b.engine.counters().flows_opened, b.engine.counters().flows_closed);
    }
}

#[test]
fn unspecified_is_no_client() {
    // A martian opens nothing, whatever it carries.
    let mut b = Bench::new(two_armed(1, true), true);
    b.client = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 7);
    let (_, v) = b.client_sends(seg(SYN, 0, 0, &[]));
    assert_eq!(v, Verdict::Drop(DropReason::Malformed));
}
