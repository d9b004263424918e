//! The engine, segment by segment: what arrives, and what leaves because of it.

mod lab;

use core::time::Duration;
use dispatcher::engine::{AddressMode, Config, DropReason, End, Verdict};
use dispatcher::wire::build::{Link, Segment};
use dispatcher::wire::checksum;
use dispatcher::wire::options::{SegmentOptions, SynOptions, Timestamps, write_timestamps};
use dispatcher::wire::packet::{Flags, protocol};
use dispatcher::wire::{Addr, Seq};
use lab::config::{client_ip, one_armed, two_armed, vip};
use lab::rng::Rng;
use lab::script::*;
use lab::tls::Hello;
use std::net::SocketAddr;

const HTTP: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn bench() -> Bench {
    Bench::new(two_armed(1, false), false)
}

fn all_worlds() -> Vec<Bench> {
    let mut all = vec![];
    for v6 in [false, true] {
        for mode in [AddressMode::Snat, AddressMode::Dnat] {
            for config in [two_armed(1, v6), one_armed(1, v6)] {
                all.push(Bench::new(Config { address_mode: mode, ..config }, v6));
            }
        }
    }
    all
}

// ---- the handshake with the client

#[test]
fn a_syn_is_answered_and_leaves_nothing_behind() {
    for mut b in all_worlds() {
        let got = b.client_syn(&linux());
        assert_eq!((got.wscale, got.sack_permitted), (Some(7), true));
        assert_eq!(got.timestamps.unwrap().ecr, 5000);
        assert_eq!(b.engine.flows(), 0);
        let none = b.client_syn(&SynOptions::default());
        assert_eq!(none, SynOptions { mss: got.mss, ..SynOptions::default() }, "nothing that was not asked for");
    }
}

#[test]
fn a_flood_of_syns_leaves_no_state_and_real_clients_connect_meanwhile() {
    let mut b = bench();
    let mut rng = Rng::new(1);
    let to = vip(false);
    let options = written(&linux());
    let real = b.client;
    for i in 0..100_000u32 {
        let src: [u8; 4] = [rng.below(100) as u8 + 11, rng.u64() as u8, rng.u64() as u8, rng.u64() as u8];
        let segment = Segment {
            link: Link { dst: b.config.ports[0].mac, src: CLIENT_MAC, ..Link::default() },
            src: (Addr::v4(src), rng.u64() as u16),
            dst: (to.ip().into(), to.port()),
            seq: Seq(rng.u64() as u32),
            ack: Seq(0),
            flags: SYN,
            window: 1000,
            options: &options,
            payload: &[],
        };
        let mut frame = [0; 100];
        let n = segment.write(&mut frame);
        let (out, v) = b.hand_in(0, &frame[..n]);
        assert!(matches!(v, Verdict::Reply(_)) && out.len() == 1);
        if i % 20_000 == 0 {
            assert_eq!(b.engine.flows(), 0);
        }
    }
    assert_eq!(b.engine.counters().cookies_sent, 100_000);
    b.assert_empty();
    b.client = real;
    b.splice(HTTP);
    assert_eq!(b.engine.flows(), 1);
}

#[test]
fn a_guessed_cookie_is_reset_at_a_bounded_rate_and_named() {
    let mut b = bench();
    b.client_syn(&linux());
    let (mut resets, mut silent) = (0, 0);
    for i in 0..3000 {
        let (out, v) = b.client_sends(seg(ACK, 1, 2 + i, &[]));
        match v {
            Verdict::Reply(_) => {
                resets += 1;
                let t = out[0].tcp();
                assert_eq!((t.flags, t.seq), (RST, b.cookie + 2 + i));
            }
            Verdict::Drop(DropReason::RateLimited) => silent += 1,
            v => panic!("{v:?}"),
        }
    }
    assert_eq!((resets, silent), (1000, 2000));
    assert_eq!(b.engine.counters().refused[DropReason::BadCookie as usize], 3000);
    b.assert_empty();
}

#[test]
fn a_cookie_comes_back_from_behind_lost_segments() {
    // The ACK and the first full segments of a long hello are lost; the next is the first to arrive.
    for missing in [1, 2, 8] {
        let mut b = bench();
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        let hello = Hello { at_least: 1460 * 9 + 100, ..Hello::default() }.bytes();
        let at = 1460 * missing;
        let (_, v) = b.client_sends(seg(ACK, 1 + at as u32, 1, &hello[at..at + 1460]));
        assert_eq!(v, Verdict::Hold, "{missing}");
        assert_eq!(b.engine.flows(), 1);
        let out = b.wait(ms(60));
        assert_eq!(out.len(), 1, "says what it lacks");
        assert_eq!(out[0].tcp().ack, Seq(CLIENT_ISN) + 1);
    }
    // Nonsense is still nonsense.
    let mut b = bench();
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    let (out, _) = b.client_sends(seg(ACK, 1001, 1, &[7; 333]));
    assert_eq!(out[0].flags(), RST);
    b.assert_empty();
}

#[test]
fn a_cookie_too_old_opens_nothing() {
    let mut b = bench();
    b.client_syn(&linux());
    b.wait(Duration::from_secs(129));
    let (out, _) = b.client_sends(seg(ACK, 1, 1, &[]));
    assert_eq!(out[0].flags(), RST);
    b.assert_empty();
}

#[test]
fn segments_of_unknown_flows_are_reset_as_a_host_would() {
    let mut b = bench();
    b.cookie = Seq(77);
    for (s, flags, seq_, ack) in [
        (seg(ACK, 5, 9, b"data"), RST, Seq(77) + 9, Seq(0)),
        (seg(Flags::FIN, 5, 0, b"data"), RST_ACK, Seq(0), Seq(CLIENT_ISN) + 5 + 4 + 1),
        (seg(SYN_ACK, 5, 9, &[]), RST, Seq(77) + 9, Seq(0)),
    ] {
        let (out, _) = b.client_sends(s);
        let t = out[0].tcp();
        assert_eq!((t.flags, t.seq, t.ack), (flags, seq_, ack));
    }
    let (_, v) = b.client_sends(seg(RST, 5, 0, &[]));
    assert_eq!(v, Verdict::Drop(DropReason::NoFlow), "a reset is never answered");
}

#[test]
fn a_wrong_checksum_on_the_slow_path_changes_nothing() {
    let mut b = bench();
    let spoil = |mut f: Vec<u8>| {
        let n = f.len();
        f[n - 1] ^= 1;
        f
    };
    let options = written(&linux());
    let syn = spoil(b.client_frame(&Seg { options: &options, ..seg(SYN, 0, 0, &[]) }));
    assert_eq!(b.hand_in(0, &syn).1, Verdict::Drop(DropReason::BadChecksum));
    b.client_syn(&SynOptions::default());
    // A good client's first segment, its sequence number damaged: no cookie fits, and no reset may hit the client.
    let mut damaged = b.client_frame(&seg(ACK, 1, 1, HTTP));
    damaged[14 + 20 + 4] ^= 1;
    let (out, v) = b.hand_in(0, &damaged);
    assert!(out.is_empty() && v == Verdict::Drop(DropReason::BadChecksum));
    let first = spoil(b.client_frame(&seg(ACK, 1, 1, HTTP)));
    assert_eq!(b.hand_in(0, &first).1, Verdict::Drop(DropReason::BadChecksum));
    b.assert_empty();
    b.dial(HTTP);
    let answer = spoil(b.server_frame(&Seg { options: &options, ..seg(SYN_ACK, 0, 1, &[]) }));
    assert_eq!(b.hand_in(1, &answer).1, Verdict::Drop(DropReason::BadChecksum));
}

// ---- delayed binding

#[test]
fn the_server_is_dialled_with_the_clients_own_numbers_and_options() {
    for mut b in all_worlds() {
        let syn = b.dial_with(&linux(), HTTP);
        let (t, o) = (syn.tcp(), syn.options());
        assert_eq!(t.seq, Seq(CLIENT_ISN));
        let mss = if b.v6 { 1440 } else { 1460 };
        let ts = Timestamps { val: 5001, ecr: 0 };
        assert_eq!(o, SynOptions { mss: Some(mss), wscale: Some(7), sack_permitted: true, timestamps: Some(ts) });
        match b.config.address_mode {
            AddressMode::Dnat => assert_eq!(b.dialled_from, b.client),
            AddressMode::Snat => assert_ne!(b.dialled_from.ip(), b.client.ip()),
        }
        assert_eq!(syn.eth.dst, SERVER_MAC);
        assert_eq!(syn.port, b.server_port());
    }
}

#[test]
fn a_hello_in_two_segments_is_not_acknowledged_and_goes_on_whole() {
    let mut b = bench();
    let hello = Hello { at_least: 1700, ..Hello::default() }.bytes();
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &[]));
    let (out, _) = b.client_sends(seg(ACK, 1, 1, &hello[..1460]));
    assert!(out.is_empty());
    let (out, _) = b.client_sends(seg(ACK, 1461, 1, &hello[1460..]));
    assert_eq!(out.len(), 1, "the SYN and no acknowledgement");
    let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    let (out, _) = b.server_sends(Seg { options: &mss, window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
    assert_eq!(out.len(), 2);
    assert_eq!(out.iter().flat_map(|o| o.payload().to_vec()).collect::<Vec<_>>(), hello);
    assert_eq!(out[1].tcp().seq, Seq(CLIENT_ISN) + 1461);
    assert_eq!(out[0].tcp().ack, Seq(SERVER_ISN) + 1);
    assert_eq!(b.engine.held_hellos(), 0, "not ours, so not kept");
    // Lost on the way to the server: the client repeats it, end to end.
    let (out, v) = b.client_sends(seg(ACK, 1, 1, &hello[..1460]));
    assert!(matches!(v, Verdict::Forward(_)));
    assert_eq!(out[0].payload(), &hello[..1460]);
    assert!(b.wait(Duration::from_secs(5)).is_empty(), "nothing is repeated by us");
}

#[test]
fn a_hello_out_of_order_and_repeated_is_read_once() {
    let mut b = bench();
    let hello = Hello { at_least: 1200, ..Hello::default() }.bytes();
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &[]));
    for (from, to) in [(800, hello.len()), (400, 800), (400, 900)] {
        let (out, v) = b.client_sends(seg(ACK, 1 + from as u32, 1, &hello[from..to]));
        assert!(out.is_empty() && v == Verdict::Hold);
    }
    let (out, _) = b.client_sends(seg(ACK, 1, 1, &hello[..450]));
    assert!(out[0].tcp().is_bare_syn());
    let (out, _) = b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
    assert_eq!(out.iter().flat_map(|o| o.payload().to_vec()).collect::<Vec<_>>(), hello);
}

#[test]
fn what_we_acknowledged_we_repeat_until_the_server_has_it() {
    let mut b = bench();
    let hello = Hello::default().bytes();
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &[]));
    let (out, _) = b.client_sends(seg(ACK, 1, 1, &hello[..60]));
    assert!(out.is_empty());
    let out = b.wait(ms(60));
    assert_eq!((out.len(), out[0].tcp().ack), (1, Seq(CLIENT_ISN) + 61), "a stalled client is acknowledged");
    b.client_sends(seg(ACK, 61, 1, &hello[60..]));
    let (out, _) = b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
    assert_eq!(out.iter().flat_map(|o| o.payload().to_vec()).collect::<Vec<_>>(), hello);
    assert_eq!(b.engine.held_hellos(), 1, "ours, so kept");
    // Only what is ours is repeated.
    let again = b.wait(ms(300));
    assert_eq!((again.len(), again[0].payload()), (1, &hello[..60]));
    // Part of it acknowledged: the client must not hear of less than it was told, and the rest is repeated.
    let (out, v) = b.server_sends(seg(ACK, 1, 21, &[]));
    assert!(out.is_empty() && v == Verdict::Hold);
    // A damaged acknowledgement of more than that releases nothing.
    let mut damaged = b.server_frame(&seg(ACK, 1, 21, &[]));
    damaged[14 + 20 + 11] ^= 1;
    assert_eq!(b.hand_in(1, &damaged).1, Verdict::Drop(DropReason::BadChecksum));
    let (out, _) = b.server_sends(seg(ACK, 1, 21, b"early answer"));
    assert_eq!(out[0].tcp().ack, Seq(CLIENT_ISN) + 61);
    let again = b.wait(ms(1000));
    assert_eq!((again[0].tcp().seq, again[0].payload()), (Seq(CLIENT_ISN) + 21, &hello[20..60]));
    let (out, _) = b.server_sends(seg(ACK, 13, 1 + hello.len() as u32, &[]));
    assert_eq!(out[0].tcp().ack, Seq(CLIENT_ISN) + 1 + hello.len() as u32);
    assert_eq!(b.engine.held_hellos(), 0);
    assert!(b.wait(Duration::from_secs(10)).is_empty());
}

#[test]
fn a_server_that_never_acknowledges_what_is_ours_is_lost_and_both_sides_hear_it() {
    let mut b = Bench::new(Config { proxy_protocol: true, ..two_armed(1, false) }, false);
    b.dial(HTTP);
    let header = 28;
    b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, 1u32.wrapping_sub(header), &[]) });
    let out = b.wait(Duration::from_secs(60));
    let resets: Vec<_> = out.iter().filter(|o| o.flags().has(RST)).collect();
    assert_eq!(resets.len(), 2);
    assert_eq!(resets.iter().map(|o| o.port).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(b.ended[0].0, End::BackendLost);
    assert_eq!(out.len() - 2, 10, "ten tries");
    b.assert_empty();
}

#[test]
fn a_lost_ack_to_the_servers_syn_ack_is_said_again() {
    let mut b = bench();
    b.splice(HTTP);
    let (out, v) = b.server_sends(seg(SYN_ACK, 0, 1, &[]));
    assert_eq!(v, Verdict::Hold);
    let t = out[0].tcp();
    assert_eq!((out[0].port, t.flags, t.ack), (1, ACK, Seq(SERVER_ISN) + 1));
}

#[test]
fn silence_is_answered_by_more_syns_then_by_another_server() {
    let mut b = Bench::new(two_armed(2, false), false);
    b.dial(HTTP);
    let first = b.dialled;
    let out = b.wait(ms(1700));
    assert_eq!(out.len(), 2, "the SYN twice more");
    assert!(out.iter().all(|o| o.tcp().is_bare_syn() && o.tcp().seq == Seq(CLIENT_ISN)));
    let out = b.wait(ms(100));
    assert!(out.iter().any(|o| o.tcp().is_bare_syn()));
    assert_ne!(b.dialled, first);
    let (out, _) = b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
    assert_eq!(out.iter().flat_map(|o| o.payload().to_vec()).collect::<Vec<_>>(), HTTP);
    assert_eq!(b.engine.counters().redispatches, 1);
}

#[test]
fn an_unreachable_server_is_replaced_at_once() {
    for v6 in [false, true] {
        let mut b = Bench::new(two_armed(2, v6), v6);
        let syn = b.dial(HTTP);
        let first = b.dialled;
        // A forged one, about a SYN that was never sent.
        let mut forged = syn.bytes.clone();
        let at = syn.tcp().header + 4;
        forged[at] ^= 1;
        let error = if v6 { (1, 3, 0) } else { (3, 1, 0) };
        let (_, v) = b.hand_in(1, &icmp_error(&b, 1, error, &forged));
        assert_eq!(v, Verdict::Drop(DropReason::OutOfWindow));
        let (out, v) = b.hand_in(1, &icmp_error(&b, 1, error, &syn.bytes));
        assert_eq!(v, Verdict::Hold);
        assert!(out[0].tcp().is_bare_syn());
        assert_ne!(b.dialled, first);
    }
}

#[test]
fn a_challenge_from_an_old_time_wait_is_reset_and_dialled_again() {
    let mut b = bench();
    b.dial(HTTP);
    let (out, v) = b.server_sends(seg(ACK, 900, 0x4000_0000, &[]));
    assert_eq!(v, Verdict::Hold);
    assert_eq!(out.len(), 2);
    let (rst, syn) = (out[0].tcp(), out[1].tcp());
    assert_eq!((rst.flags, rst.seq), (RST, Seq(CLIENT_ISN) + 0x4000_0000));
    assert!(syn.is_bare_syn() && syn.seq == Seq(CLIENT_ISN));
    let (out, _) = b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
    assert_eq!(out[0].payload(), HTTP);
}

#[test]
fn a_forged_reset_while_dialling_does_nothing() {
    let mut b = Bench::new(two_armed(2, false), false);
    b.dial(HTTP);
    for (flags, ack) in [(RST, 0), (RST_ACK, 2), (RST_ACK, 0)] {
        let (out, v) = b.server_sends(seg(flags, 0, ack, &[]));
        assert!(out.is_empty() && v == Verdict::Drop(DropReason::OutOfWindow));
    }
    let (out, _) = b.server_sends(seg(RST_ACK, 0, 1, &[]));
    assert!(out[0].tcp().is_bare_syn(), "the true one leads to the other server");
}

#[test]
fn a_client_that_resets_while_its_server_is_dialled_ends_that_too() {
    let mut b = bench();
    b.dial(HTTP);
    let (out, _) = b.client_sends(seg(RST, 1 + HTTP.len() as u32, 0, &[]));
    let t = out[0].tcp();
    assert_eq!((out[0].port, t.flags, t.seq), (1, RST, Seq(CLIENT_ISN) + 1));
    assert_eq!(b.ended[0].0, End::ClientReset);
    b.assert_empty();
}

#[test]
fn no_buffer_left_is_a_named_drop_and_the_repetition_succeeds() {
    let mut config = two_armed(1, false);
    config.limits.hellos = 2;
    let mut b = Bench::new(config, false);
    let half = Hello::default().bytes()[..60].to_vec();
    let mut last = (vec![], Verdict::Hold);
    for port in 1..=3 {
        b.client.set_port(port);
        b.client_syn(&SynOptions::default());
        last = b.client_sends(seg(ACK, 1, 1, &half));
    }
    assert_eq!(last.1, Verdict::Drop(DropReason::HelloNoBuffer));
    assert_eq!(b.engine.held_hellos(), 2);
    b.wait(Duration::from_secs(31));
    let (_, v) = b.client_sends(seg(ACK, 1, 1, &half));
    assert_eq!(v, Verdict::Hold);
}

#[test]
fn a_full_flow_table_is_a_named_drop_and_the_repetition_succeeds() {
    let mut config = two_armed(1, false);
    config.limits.flows = 2;
    let mut b = Bench::new(config, false);
    for port in 1..=3 {
        b.client.set_port(port);
        b.client_syn(&SynOptions::default());
        let (_, v) = b.client_sends(seg(ACK, 1, 1, &[]));
        let want = if port == 3 { Verdict::Drop(DropReason::FlowTableFull) } else { Verdict::Hold };
        assert_eq!(v, want);
    }
    assert_eq!(b.engine.flows(), 2);
    let keep = b.client;
    b.wait(Duration::from_secs(10));
    assert_eq!(b.engine.flows(), 0, "no server: all are given up");
    b.client = keep;
    let (_, v) = b.client_sends(seg(ACK, 1, 1, HTTP));
    assert_eq!(v, Verdict::Hold);
}

// ---- translation

#[test]
fn numbers_ports_and_checksums_are_translated_both_ways() {
    for mut b in all_worlds() {
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        let (out, _) = b.server_sends(seg(ACK, 1, n, b"answer"));
        let (t, ip) = (out[0].tcp(), out[0].ip());
        assert_eq!((t.seq, t.ack, out[0].payload()), (b.cookie + 1, Seq(CLIENT_ISN) + n, &b"answer"[..]));
        assert_eq!((ip.src.socket(t.src_port), ip.dst.socket(t.dst_port)), (vip(b.v6), b.client));
        assert_eq!((out[0].port, out[0].eth.dst), (0, CLIENT_MAC));
        let (out, _) = b.client_sends(seg(ACK, n, 7, b"more"));
        let (t, ip) = (out[0].tcp(), out[0].ip());
        assert_eq!((t.seq, t.ack), (Seq(CLIENT_ISN) + n, Seq(SERVER_ISN) + 7));
        assert_eq!((ip.src.socket(t.src_port), ip.dst.socket(t.dst_port)), (b.dialled_from, b.dialled));
        assert_eq!((out[0].port, out[0].eth.dst), (b.server_port(), SERVER_MAC));
    }
}

#[test]
fn timestamps_sack_and_windows_are_translated() {
    let mut b = bench();
    b.dial_with(&linux(), HTTP);
    let options =
        written(&SynOptions { wscale: Some(3), timestamps: Some(Timestamps { val: 999, ecr: 5001 }), ..linux() });
    let (out, _) = b.server_sends(Seg { window: 60000, options: &options, ..seg(SYN_ACK, 0, 1, &[]) });
    let ts = SegmentOptions::parse(out[0].option_bytes()).timestamps.unwrap().1;
    assert_eq!(ts, Timestamps { val: 5001, ecr: 999 }, "the held bytes echo the SYN-ACK");
    // The server's clock and window, as the client must see them.
    let n = 1 + HTTP.len() as u32;
    let stamp = write_timestamps(Timestamps { val: 1009, ecr: 5001 });
    let (out, _) = b.server_sends(Seg { window: 800, options: &stamp, ..seg(ACK, 1, n, b"answer") });
    let ts = SegmentOptions::parse(out[0].option_bytes()).timestamps.unwrap().1;
    assert_eq!(ts, Timestamps { val: b.our_clock + 10, ecr: 5001 });
    assert_eq!(out[0].tcp().window, 800 >> 4, "scale 3 said as scale 7");
    // The client's echo, its SACK blocks and window, as the server must see them.
    let cookie = b.cookie;
    let mut o = write_timestamps(Timestamps { val: 5010, ecr: b.our_clock + 10 }).to_vec();
    o.extend([1, 1, 5, 10]);
    o.extend((cookie + 101).0.to_be_bytes());
    o.extend((cookie + 201).0.to_be_bytes());
    let (out, _) = b.client_sends(Seg { window: 500, options: &o, ..seg(ACK, n, 7, &[]) });
    let found = SegmentOptions::parse(out[0].option_bytes());
    assert_eq!(found.timestamps.unwrap().1, Timestamps { val: 5010, ecr: 1009 });
    let at = found.sack.unwrap().0;
    let edge = |i: usize| Seq(u32::from_be_bytes(out[0].option_bytes()[at + i..at + i + 4].try_into().unwrap()));
    assert_eq!((edge(0), edge(4)), (Seq(SERVER_ISN) + 101, Seq(SERVER_ISN) + 201));
    assert_eq!(out[0].tcp().window, 500, "the server reads it with the client's own scale");
}

#[test]
fn a_server_that_lacks_an_option_is_served_and_clients_to_come_are_not_offered_it() {
    let without: [(&str, SynOptions); 4] = [
        ("timestamps", SynOptions { timestamps: None, ..linux() }),
        ("sack", SynOptions { sack_permitted: false, ..linux() }),
        ("wscale", SynOptions { wscale: None, ..linux() }),
        ("mss", SynOptions { mss: Some(1000), ..linux() }),
    ];
    for (what, has) in without {
        let mut b = bench();
        let offered = b.client_syn(&linux());
        assert!(offered.timestamps.is_some() && offered.sack_permitted && offered.wscale.is_some());
        b.dial_with(&linux(), &[b'x'; 1400]);
        let has = SynOptions { timestamps: has.timestamps.map(|_| Timestamps { val: 9, ecr: 5001 }), ..has };
        let options = written(&has);
        let (out, _) = b.server_sends(Seg { window: 60000, options: &options, ..seg(SYN_ACK, 0, 1, &[]) });
        assert_eq!(out.len(), if what == "mss" { 2 } else { 1 }, "{what}: cut to what the server takes");
        for o in &out {
            let carried = SegmentOptions::parse(o.option_bytes()).timestamps.is_some();
            assert_eq!(carried, what != "timestamps");
            let window = o.tcp().window;
            assert_eq!(window, if what == "wscale" { 65535 } else { 1000 }, "{what}");
        }
        // The client's timestamps are taken out for a server that does not know them.
        let stamp = b.stamp(5002);
        let (out, _) = b.client_sends(Seg { options: &stamp, ..seg(ACK, 1401, 1, b"more") });
        assert_eq!(SegmentOptions::parse(out[0].option_bytes()).timestamps.is_some(), what != "timestamps");
        assert_eq!(out[0].payload(), b"more");
        // A window of 65535 unscaled bytes is said in our scale.
        let (out, _) = b.server_sends(Seg { window: 6400, ..seg(ACK, 1, 1405, &[]) });
        assert_eq!(out[0].tcp().window, if what == "wscale" { 6400 >> 7 } else { 6400 });
        b.client.set_port(50_001);
        let offered = b.client_syn(&linux());
        assert_eq!(offered.timestamps.is_some(), what != "timestamps");
        assert_eq!(offered.sack_permitted, what != "sack");
        assert_eq!(offered.wscale.is_some(), what != "wscale");
        assert_eq!(offered.mss, Some(if what == "mss" { 1000 } else { 1460 }));
    }
}

#[test]
fn congestion_notification_is_agreed_end_to_end_once_the_servers_are_known_to_do_it() {
    let mut b = bench();
    let syn = Flags(SYN.0 | Flags::ECE.0 | Flags::CWR.0);
    let options = written(&linux());
    let asks = |b: &mut Bench| {
        let (out, _) = b.client_sends(Seg { options: &options, ..seg(syn, 0, 0, &[]) });
        out[0].tcp().flags.has(Flags::ECE)
    };
    assert!(!asks(&mut b), "not promised while unknown");
    // A probe learns it.
    let mut b = Bench::new(Config { probe: true, ..two_armed(1, false) }, false);
    let out = b.wait(ms(1500));
    let probe = out.iter().rfind(|o| o.tcp().is_bare_syn()).expect("a probe");
    assert!(probe.tcp().flags.has(Flags::ECE) && probe.tcp().flags.has(Flags::CWR));
    let mut answer = Seg { options: &options, window: 60000, ..seg(Flags(SYN_ACK.0 | Flags::ECE.0), 0, 0, &[]) };
    answer.ack = (probe.tcp().seq + 1).0.wrapping_sub(CLIENT_ISN);
    let (out, _) = b.server_sends(answer);
    assert_eq!((out.len(), out[0].flags()), (1, RST), "the probe ends without a connection");
    assert!(asks(&mut b));
    b.client_sends(seg(ACK, 1, 1, &[]));
    let (out, _) = b.client_sends(seg(ACK, 1, 1, HTTP));
    assert!(out[0].tcp().flags.has(Flags::ECE) && out[0].tcp().flags.has(Flags::CWR), "and asked of the server");
}

#[test]
fn tags_and_padding_go_no_further_than_their_link() {
    let mut config = two_armed(1, false);
    config.ports[1].vlans = vec![30];
    let mut b = Bench::new(config, false);
    b.client_vlans = vec![100, 200];
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    let mut padded = b.client_frame(&seg(ACK, n, 1, b"x"));
    padded.extend([0xaa; 7]);
    let (out, _) = b.hand_in(0, &padded);
    assert!(out[0].eth.vlans.ids().eq([30]));
    assert_eq!(out[0].payload(), b"x");
    assert_eq!(out[0].bytes.len(), out[0].ip().end, "no padding of another link");
    let (out, _) = b.server_sends(seg(ACK, 1, n + 1, b"y"));
    assert!(out[0].eth.vlans.ids().eq([100, 200]));
}

#[test]
fn a_client_whose_frames_come_from_another_router_is_answered_there() {
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    let mut frame = b.client_frame(&seg(ACK, n, 1, b"x"));
    frame[6..12].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    b.hand_in(0, &frame);
    let (out, _) = b.server_sends(seg(ACK, 1, n + 1, b"y"));
    assert_eq!(out[0].eth.dst.0, [2, 9, 9, 9, 9, 9]);
}

// ---- the end of a flow

#[test]
fn both_sides_close_in_any_order_and_the_flow_is_told_once() {
    // Client first, server first, both at once.
    for order in [[0, 1], [1, 0], [2, 2]] {
        let mut b = bench();
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        match order {
            [0, 1] => {
                b.client_sends(seg(FIN_ACK, n, 1, &[]));
                b.server_sends(seg(ACK, 1, n + 1, b"still talking"));
                b.client_sends(seg(ACK, n + 1, 14, &[]));
                b.server_sends(seg(FIN_ACK, 14, n + 1, &[]));
                assert!(b.ended.is_empty());
                b.client_sends(seg(ACK, n + 1, 15, &[]));
            }
            [1, 0] => {
                b.server_sends(seg(FIN_ACK, 1, n, b"bye"));
                b.client_sends(seg(FIN_ACK, n, 5, &[]));
                assert!(b.ended.is_empty());
                b.server_sends(seg(ACK, 5, n + 1, &[]));
            }
            _ => {
                b.client_sends(seg(FIN_ACK, n, 1, &[]));
                b.server_sends(seg(FIN_ACK, 1, n, &[]));
                b.client_sends(seg(ACK, n + 1, 2, &[]));
                assert!(b.ended.is_empty());
                b.server_sends(seg(ACK, 2, n + 1, &[]));
            }
        }
        assert_eq!(b.ended.len(), 1);
        assert_eq!(b.ended[0].0, End::Fin);
        assert_eq!(b.ended[0].1, HTTP.len() as u64);
        // A late FIN still finds its way, and is not told again.
        let (_, v) = b.server_sends(seg(FIN_ACK, if order == [0, 1] { 14 } else { 1 }, n + 1, &[]));
        assert!(matches!(v, Verdict::Forward(_)));
        assert_eq!(b.engine.pool().connections(lb::BackendId(0)), 0);
        b.wait(Duration::from_secs(16));
        assert_eq!(b.ended.len(), 1);
        b.assert_empty();
    }
}

#[test]
fn a_reset_outside_the_window_is_dropped_and_named_and_one_inside_closes_nothing_by_itself() {
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    for wrong in [n + 100_000, n.wrapping_sub(5), n + 0x4000_0000] {
        let (_, v) = b.client_sends(seg(RST, wrong, 0, &[]));
        assert_eq!(v, Verdict::Drop(DropReason::OutOfWindow), "{wrong}");
    }
    // In the window, not exact: the server will ask, so it must hear it; the flow lives.
    let (out, v) = b.client_sends(seg(RST, n + 10, 0, &[]));
    assert!(matches!(v, Verdict::Forward(_)) && out[0].flags() == RST);
    let (out, _) = b.server_sends(seg(ACK, 1, n, b"challenge"));
    assert_eq!(out[0].payload(), b"challenge");
    assert!(b.ended.is_empty());
    b.wait(Duration::from_secs(30));
    assert_eq!(b.engine.flows(), 1);
    // Damaged: nothing.
    let mut f = b.client_frame(&seg(RST, n, 0, &[]));
    let at = f.len() - 4;
    f[at] ^= 1;
    assert_eq!(b.hand_in(0, &f).1, Verdict::Drop(DropReason::BadChecksum));
    // Exact.
    b.client_sends(seg(RST, n, 0, &[]));
    assert_eq!(b.ended.len(), 1);
    b.wait(Duration::from_secs(3));
    b.assert_empty();
}

#[test]
fn a_reset_that_may_be_forged_ends_nothing_while_its_supposed_sender_goes_on() {
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    // The client has sent more than the server has acknowledged; a reset in between may be anyone's.
    b.client_sends(seg(ACK, n, 1, &[b'x'; 100]));
    b.client_sends(seg(RST, n + 50, 0, &[]));
    assert!(b.ended.is_empty());
    let (out, v) = b.client_sends(seg(ACK, n + 100, 1, b"I live"));
    assert!(matches!(v, Verdict::Forward(_)));
    assert_eq!(out[0].payload(), b"I live");
    b.wait(Duration::from_secs(10));
    assert_eq!(b.engine.flows(), 1);
    assert!(b.ended.is_empty());
}

#[test]
fn a_damaged_fin_does_not_close() {
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    // The flag was flipped on the way: the checksum tells.
    let mut f = b.client_frame(&seg(ACK, n, 1, b"data"));
    let flags = f.len() - 4 - 20 + 13;
    f[flags] ^= 1;
    let (_, v) = b.hand_in(0, &f);
    assert!(matches!(v, Verdict::Forward(_)), "its receiver finds it");
    b.client_sends(seg(ACK, n, 1, b"data and more"));
    b.server_sends(seg(ACK, 1, n + 13, &[]));
    b.server_sends(seg(FIN_ACK, 1, n + 13, &[]));
    b.client_sends(seg(ACK, n + 13, 2, &[]));
    assert!(b.ended.is_empty(), "the client has not closed");
    b.client_sends(seg(FIN_ACK, n + 13, 2, &[]));
    b.server_sends(seg(ACK, 2, n + 14, &[]));
    assert_eq!(b.ended, [(End::Fin, 31, 0)]);
}

#[test]
fn a_syn_on_a_living_flow_is_challenged() {
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    b.server_sends(seg(ACK, 1, n, b"12345"));
    b.client_sends(seg(ACK, n, 6, &[]));
    let (out, v) = b.client_sends(seg(SYN, 0x1000_0000, 0, &[]));
    assert!(matches!(v, Verdict::Reply(_)));
    let t = out[0].tcp();
    assert_eq!((t.flags, t.seq, t.ack), (ACK, b.cookie + 6, Seq(CLIENT_ISN) + n));
    assert!(b.ended.is_empty());
    let (_, v) = b.server_sends(seg(SYN, 77, 0, &[]));
    assert_eq!(v, Verdict::Drop(DropReason::OutOfWindow));
}

#[test]
fn an_idle_flow_is_reset_on_both_sides_at_the_numbers_they_expect() {
    for mut b in all_worlds() {
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        b.server_sends(seg(ACK, 1, n, b"12345"));
        b.client_sends(seg(ACK, n, 6, &[]));
        assert!(b.wait(Duration::from_secs(299)).is_empty());
        let out = b.wait(Duration::from_secs(2));
        let (c, s) = (out[0].tcp(), out[1].tcp());
        assert_eq!((out[0].port, c.flags, c.seq), (0, RST_ACK, b.cookie + 6));
        assert_eq!((out[1].port, s.flags, s.seq), (b.server_port(), RST_ACK, Seq(CLIENT_ISN) + n));
        assert_eq!(b.ended, [(End::Idle, HTTP.len() as u64, 5)]);
        b.assert_empty();
    }
}

#[test]
fn traffic_beyond_a_narrow_window_keeps_a_flow_alive_and_is_followed() {
    // A sender that overshoots the window (as behind a PROXY header, whose bytes it does not know of): the receiver cuts
    // what it cannot take, and acknowledges the rest.
    let mut b = bench();
    b.dial(HTTP);
    let n = 1 + HTTP.len() as u32;
    b.server_sends(Seg { window: 100, ..seg(SYN_ACK, 0, 1, &[]) });
    b.server_sends(Seg { window: 82, ..seg(ACK, 1, n, &[]) });
    b.client_sends(seg(ACK, n, 1, &[b'x'; 200]));
    b.server_sends(Seg { window: 500, ..seg(ACK, 1, n + 82, &[]) });
    b.client_sends(seg(FIN_ACK, n + 82, 1, &[b'x'; 118]));
    b.server_sends(seg(FIN_ACK, 1, n + 201, &[]));
    b.client_sends(seg(ACK, n + 201, 2, &[]));
    assert_eq!(b.ended, [(End::Fin, HTTP.len() as u64 + 200, 0)]);
}

#[test]
fn a_port_used_again_in_time_wait_is_a_new_connection() {
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    b.client_sends(seg(FIN_ACK, n, 1, &[]));
    b.server_sends(seg(FIN_ACK, 1, n + 1, &[]));
    b.client_sends(seg(ACK, n + 1, 2, &[]));
    assert_eq!(b.ended.len(), 1);
    let old = b.dialled_from;
    // The SYN alone changes nothing.
    let (out, v) = b.client_sends(seg(SYN, 5_000_000, 0, &[]));
    assert!(matches!(v, Verdict::Reply(_)));
    assert_eq!(out[0].flags(), SYN_ACK);
    let (_, v) = b.server_sends(seg(FIN_ACK, 1, n + 1, &[]));
    assert!(matches!(v, Verdict::Forward(_)), "the old one still stands");
    let (_, v) = b.client_sends(seg(ACK, 5_000_001, 1, &[]));
    assert_eq!(v, Verdict::Hold);
    let (out, _) = b.client_sends(seg(ACK, 5_000_001, 1, HTTP));
    assert!(out[0].tcp().is_bare_syn());
    assert_ne!(b.dialled_from, old, "from a port that the server does not remember");
    assert_eq!(b.engine.flows(), 1);
}

#[test]
fn late_segments_of_a_forgotten_flow_are_reset_and_harm_nothing() {
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    b.client_sends(seg(RST, n, 0, &[]));
    b.wait(Duration::from_secs(3));
    b.assert_empty();
    let (out, _) = b.server_sends(seg(ACK, 1, n, b"late"));
    assert_eq!((out[0].port, out[0].flags(), out[0].tcp().seq), (1, RST, Seq(CLIENT_ISN) + n));
    let (out, _) = b.client_sends(seg(ACK, n, 1, b"late"));
    assert_eq!((out[0].port, out[0].flags()), (0, RST));
    b.assert_empty();
}

#[test]
fn keepalives_keep_a_flow() {
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    for _ in 0..4 {
        b.wait(Duration::from_secs(200));
        let (out, v) = b.client_sends(seg(ACK, n - 1, 1, &[]));
        assert!(matches!(v, Verdict::Forward(_)));
        assert_eq!(out[0].tcp().seq, Seq(CLIENT_ISN) + n - 1);
        b.server_sends(seg(ACK, 1, n, &[]));
    }
    assert_eq!(b.engine.flows(), 1);
}

// ---- ICMP

/// An error of the given type, code and fourth word about `frame`'s packet, from the server's router or the client's.
fn icmp_error(b: &Bench, port: usize, what: (u8, u8, u32), frame: &[u8]) -> Vec<u8> {
    icmp_error_quoting(b, port, what, frame, if b.v6 { 400 } else { 28 })
}

/// The same with so many bytes of the packet.
fn icmp_error_quoting(
    b: &Bench,
    port: usize,
    (kind, code, word): (u8, u8, u32),
    frame: &[u8],
    quote: usize,
) -> Vec<u8> {
    let quoted = &frame[14..];
    let p = dispatcher::wire::packet::Packet::parse(frame).unwrap().ip;
    let from = Addr::from(if b.v6 { lab::config::ip("fd0f::1") } else { lab::config::ip("10.15.0.1") });
    let mut icmp = vec![kind, code, 0, 0];
    icmp.extend(word.to_be_bytes());
    icmp.extend(&quoted[..quoted.len().min(quote)]);
    let sum = if b.v6 {
        checksum::transport(from.octets(), p.src.octets(), protocol::ICMPV6, &icmp)
    } else {
        checksum::Sum::default().add_bytes(&icmp).checksum()
    };
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut f = vec![];
    f.extend(b.config.ports[port].mac.0);
    f.extend(if port == 0 { CLIENT_MAC.0 } else { SERVER_MAC.0 });
    if b.v6 {
        f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        f.extend((icmp.len() as u16).to_be_bytes());
        f.extend([protocol::ICMPV6, 60]);
        f.extend(from.octets());
        f.extend(p.src.octets());
    } else {
        f.extend([8, 0]);
        let mut h = vec![0x45, 0];
        h.extend((20 + icmp.len() as u16).to_be_bytes());
        h.extend([0, 0, 0, 0, 60, protocol::ICMP, 0, 0]);
        h.extend(from.octets());
        h.extend(p.src.octets());
        let sum = checksum::Sum::default().add_bytes(&h).checksum();
        h[10..12].copy_from_slice(&sum.to_be_bytes());
        f.extend(h);
    }
    f.extend(icmp);
    f
}

#[test]
fn too_big_is_translated_to_whom_it_concerns_with_the_packet_it_sent() {
    for v6 in [false, true] {
        let mut b = Bench::new(two_armed(1, v6), v6);
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        let too_big = if v6 { (2, 0, 1280) } else { (3, 4, 1400) };
        for from_client in [true, false] {
            let (sent, arrived, other) = if from_client {
                let s = seg(ACK, n, 1, &[b'x'; 1300]);
                (b.client_frame(&s), b.client_sends(s).0, 1)
            } else {
                let s = seg(ACK, 1, n, &[b'y'; 1300]);
                (b.server_frame(&s), b.server_sends(s).0, 0)
            };
            let error = icmp_error(&b, other, too_big, &arrived[0].bytes);
            let (out, v) = b.hand_in(other, &error);
            assert!(matches!(v, Verdict::Forward(_)), "{v:?}");
            let ip = out[0].ip();
            assert_eq!(out[0].port, 1 - other);
            let sender = dispatcher::wire::packet::Packet::parse(&sent).unwrap().ip;
            assert_eq!(ip.dst, sender.src);
            let message = &out[0].bytes[ip.payload..ip.end];
            assert_eq!(message[4..8], u32::to_be_bytes(too_big.2), "the MTU");
            // What is quoted is what the sender sent, byte for byte (as far as it is quoted).
            assert_eq!(message[8..], sent[14..14 + message.len() - 8]);
            let sum = if v6 {
                checksum::transport(ip.src.octets(), ip.dst.octets(), protocol::ICMPV6, message)
            } else {
                checksum::Sum::default().add_bytes(message).checksum()
            };
            assert_eq!(sum, 0);
            if !v6 {
                let h = &out[0].bytes[ip.header..ip.header + 20];
                assert_eq!(checksum::Sum::default().add_bytes(h).checksum(), 0);
            }
        }
    }
}

#[test]
fn forged_and_foreign_errors_are_dropped_and_named() {
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    let (out, _) = b.client_sends(seg(ACK, n, 1, &[b'x'; 100]));
    let good = out[0].bytes.clone();
    let t = out[0].tcp();
    let mut far = good.clone();
    far[t.header + 4] ^= 0x10;
    let error = icmp_error(&b, 1, (3, 4, 500), &far);
    assert_eq!(b.hand_in(1, &error).1, Verdict::Drop(DropReason::OutOfWindow), "never in flight");
    let mut foreign = good.clone();
    foreign[t.header] ^= 1;
    let error = icmp_error(&b, 1, (3, 4, 500), &foreign);
    assert_eq!(b.hand_in(1, &error).1, Verdict::Drop(DropReason::IcmpNoFlow));
    let mut error = icmp_error(&b, 1, (3, 4, 500), &good);
    let last = error.len() - 1;
    error[last] ^= 1;
    assert_eq!(b.hand_in(1, &error).1, Verdict::Drop(DropReason::BadChecksum));
    let error = icmp_error_quoting(&b, 1, (3, 4, 500), &good, 24);
    assert_eq!(b.hand_in(1, &error).1, Verdict::Drop(DropReason::Truncated));
}

#[test]
fn what_is_ours_shrinks_to_the_path_that_an_error_tells_of() {
    // Nobody else can: the client was acknowledged these bytes.
    for v6 in [false, true] {
        let mut b = Bench::new(two_armed(1, v6), v6);
        let hello = Hello { at_least: 4000, ..Hello::default() }.bytes();
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        b.client_sends(seg(ACK, 1, 1, &hello[..1400]));
        b.client_sends(seg(ACK, 1401, 1, &hello[1400..2800]));
        b.wait(ms(60));
        b.client_sends(seg(ACK, 2801, 1, &hello[2800..]));
        let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        let (out, _) = b.server_sends(Seg { options: &mss, window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
        assert!(out[0].payload().len() > 1400);
        let mtu = 1280;
        let error = icmp_error(&b, 1, if v6 { (2, 0, mtu) } else { (3, 4, mtu) }, &out[0].bytes);
        let (_, v) = b.hand_in(1, &error);
        assert!(matches!(v, Verdict::Forward(_)), "{v:?}");
        let again = b.wait(ms(300));
        assert!(!again.is_empty());
        for o in &again {
            assert!(o.ip().end - o.ip().header <= mtu as usize, "{}", o.bytes.len());
        }
        assert_eq!(again.iter().flat_map(|o| o.payload().to_vec()).collect::<Vec<_>>(), hello[..2800]);
    }
}

#[test]
fn echo_requests_to_our_addresses_are_answered() {
    for v6 in [false, true] {
        let mut b = Bench::new(two_armed(1, v6), v6);
        for to in [vip(v6).ip(), b.config.ports[0].addresses[usize::from(v6)].0] {
            let from = Addr::from(client_ip(0, v6));
            let to = Addr::from(to);
            let mut icmp = vec![if v6 { 128 } else { 8 }, 0, 0, 0, 1, 2, 3, 4, b'p', b'i', b'n', b'g', b'!'];
            let sum = |m: &[u8]| {
                if v6 {
                    checksum::transport(from.octets(), to.octets(), protocol::ICMPV6, m)
                } else {
                    checksum::Sum::default().add_bytes(m).checksum()
                }
            };
            let s = sum(&icmp);
            icmp[2..4].copy_from_slice(&s.to_be_bytes());
            // The headers of an error, for the same purpose: source and destination are put in place.
            let mut f = icmp_error(&b, 0, (0, 0, 0), &b.client_frame(&seg(ACK, 1, 1, &[])));
            let (src_at, n, head) = if v6 { (14 + 8, 16, 54) } else { (14 + 12, 4, 34) };
            f.truncate(head);
            f[src_at..src_at + n].copy_from_slice(from.octets());
            f[src_at + n..src_at + 2 * n].copy_from_slice(to.octets());
            if v6 {
                f[18..20].copy_from_slice(&(icmp.len() as u16).to_be_bytes());
            } else {
                f[16..18].copy_from_slice(&(20 + icmp.len() as u16).to_be_bytes());
            }
            f.extend(&icmp);
            let (out, v) = b.hand_in(0, &f);
            assert!(matches!(v, Verdict::Reply(_)), "{v:?}");
            let ip = out[0].ip();
            let m = &out[0].bytes[ip.payload..ip.end];
            assert_eq!((ip.src, ip.dst, m[0], &m[4..]), (to, from, if v6 { 129 } else { 0 }, &icmp[4..]));
            assert_eq!(sum(m), 0);
        }
    }
}

// ---- nonsense

#[test]
fn no_frame_panics_and_each_has_a_fate() {
    let mut b = Bench::new(two_armed(2, false), false);
    b.splice(HTTP);
    let mut rng = Rng::new(5);
    let good = [
        b.client_frame(&seg(ACK, 19, 1, &[b'x'; 100])),
        b.server_frame(&seg(ACK, 1, 19, &[b'y'; 100])),
        b.client_frame(&Seg { options: &written(&linux()), ..seg(SYN, 0, 0, &[]) }),
        icmp_error(&b, 1, (3, 4, 500), &b.client_frame(&seg(ACK, 19, 1, &[b'x'; 100]))),
    ];
    for i in 0..30_000 {
        let mut f = good[rng.below(good.len())].clone();
        for _ in 0..rng.between(0, 4) {
            let at = rng.below(f.len());
            f[at] = rng.u64() as u8;
        }
        if rng.per_mille(300) {
            let n = rng.below(f.len() + 1);
            f.truncate(n);
        }
        // The books are checked at each.
        b.hand_in(rng.below(2), &f);
        if i % 100 == 0 {
            b.wait(ms(50));
        }
    }
}

#[test]
fn a_frame_of_another_address_or_protocol_is_not_for_us() {
    let mut b = bench();
    let mut f = b.client_frame(&seg(SYN, 0, 0, &[]));
    f[5] ^= 1;
    assert_eq!(b.hand_in(0, &f).1, Verdict::Drop(DropReason::NotForUs));
    let mut f = b.client_frame(&seg(SYN, 0, 0, &[]));
    f[23] = protocol::UDP;
    assert_eq!(b.hand_in(0, &f).1, Verdict::Drop(DropReason::NotForUs));
    let mut f = b.client_frame(&seg(SYN, 0, 0, &[]));
    f[20] = 0x20; // More fragments.
    assert_eq!(b.hand_in(0, &f).1, Verdict::Drop(DropReason::IpFragment));
}

#[test]
fn a_client_of_two_vips_keeps_its_connections_apart_in_dnat_mode() {
    let mut config = Config { address_mode: AddressMode::Dnat, ..two_armed(1, false) };
    config.vips.push(SocketAddr::new(vip(false).ip(), 444));
    let mut b = Bench::new(config, false);
    b.splice(HTTP);
    // The same client port to the other VIP: towards the one server there is no second tuple; it is refused, not mixed up.
    let mut syn = b.client_frame(&seg(SYN, 0, 0, &[]));
    let fix = |f: &mut Vec<u8>, port: u16| {
        let old = u16::from_be_bytes([f[36], f[37]]);
        f[36..38].copy_from_slice(&port.to_be_bytes());
        let mut c = checksum::Change::default();
        c.word(old, port);
        let sum = c.apply(u16::from_be_bytes([f[50], f[51]]));
        f[50..52].copy_from_slice(&sum.to_be_bytes());
    };
    fix(&mut syn, 444);
    let kept = b.cookie;
    b.hand_in(0, &syn);
    let mut first = b.client_frame(&seg(ACK, 1, 1, HTTP));
    fix(&mut first, 444);
    let (out, v) = b.hand_in(0, &first);
    assert_eq!(v, Verdict::Hold);
    assert!(out.iter().all(|o| o.port == 0 && o.flags().has(RST)), "{out:?}");
    assert_eq!(b.engine.counters().refused[DropReason::NoLocalPort as usize], 1);
    b.cookie = kept;
    let n = 1 + HTTP.len() as u32;
    let (out, _) = b.server_sends(seg(ACK, 1, n, b"to the first"));
    assert_eq!(out[0].payload(), b"to the first");
}
