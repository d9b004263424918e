//! Resets of our own are obeyed, with data in flight, by receivers that go by RFC 5961.

use super::*;
use dispatcher::engine::Limits;

/// Whose rules a receiver goes by.
#[derive(Clone, Copy, PartialEq, Debug)]
enum System {
    /// `tcp_validate_incoming`: the exact next number, or the end of the rightmost block it has behind a gap; a challenge elsewhere in the window,
    /// once in half a second; silence outside.
    Linux,
    /// `tcp_do_segment`: the number it has acknowledged last; a challenge elsewhere in the window; silence outside.
    FreeBsd,
    /// The exact next number, silence elsewhere. It acknowledges what it has at last.
    Windows,
}

/// One end that receives, in the numbers of [`Seg`].
#[derive(Debug)]
struct Receiver {
    system: System,
    next: u32,
    acked: u32,
    window: u32,
    rightmost: Option<u32>,
    challenged: Option<u64>,
    obeyed: bool,
}

impl Receiver {
    /// A reset: what is acknowledged in answer, if anything is.
    fn reset(&mut self, seq: u32, now: u64) -> Option<u32> {
        let within = |from: u32| seq.wrapping_sub(from) <= self.window;
        let (exact, heard) = match self.system {
            System::Linux => (seq == self.next || Some(seq) == self.rightmost, within(self.acked)),
            System::FreeBsd => (seq == self.acked, within(self.acked)),
            System::Windows => (seq == self.next, false),
        };
        self.obeyed |= exact;
        let asked = self.system == System::Linux && self.challenged.is_some_and(|at| now < at + 500);
        if self.obeyed || !heard || asked {
            return None;
        }
        self.challenged = Some(now);
        self.acked = self.next;
        Some(self.next)
    }
}

/// What is under way in one direction when the flow ends: sent so much, of which so much arrives in order, and is acknowledged so far.
#[derive(Clone, Copy, Debug)]
struct Way {
    sent: u32,
    arrived: u32,
    acked: u32,
    /// What arrived behind a gap ends here.
    rightmost: Option<u32>,
    /// The receiver's window.
    window: u32,
}

const WAYS: [Way; 6] = [
    // All arrives, nothing of it is acknowledged yet; the same, acknowledged.
    Way { sent: 30_000, arrived: 30_000, acked: 0, rightmost: None, window: 60_000 },
    Way { sent: 30_000, arrived: 30_000, acked: 30_000, rightmost: None, window: 60_000 },
    // The end of it is lost; all of it; a piece in the middle.
    Way { sent: 30_000, arrived: 20_000, acked: 10_000, rightmost: None, window: 60_000 },
    Way { sent: 30_000, arrived: 10_000, acked: 10_000, rightmost: None, window: 60_000 },
    Way { sent: 30_000, arrived: 15_000, acked: 10_000, rightmost: Some(30_000), window: 60_000 },
    // The window is closed, and a probe of it was sent.
    Way { sent: 10_001, arrived: 10_000, acked: 10_000, rightmost: None, window: 0 },
];

/// A spliced flow with that under way to the client and to the server. Where each side's first byte after that is numbered from.
fn under_way(b: &mut Bench, to_client: Way, to_server: Way) -> [u32; 2] {
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    let body = [b'x'; 1000];
    for (way, is_client) in [(to_client, true), (to_server, false)] {
        let (base, other) = if is_client { (1, n) } else { (n, 1) };
        let receives = |b: &mut Bench, upto: u32, window: u16| {
            let s = Seg { window, ..seg(ACK, other, base + upto, &[]) };
            if is_client {
                b.client_sends(s)
            } else {
                b.server_sends(s)
            };
        };
        receives(b, 0, 60_000);
        for at in (0..way.sent).step_by(1000) {
            if at == way.acked && at > 0 {
                receives(b, way.acked, way.window as u16);
            }
            let s = seg(ACK, base + at, other, &body[..(way.sent - at).min(1000) as usize]);
            if is_client {
                b.server_sends(s)
            } else {
                b.client_sends(s)
            };
        }
        if way.acked == way.sent {
            receives(b, way.acked, way.window as u16);
        }
    }
    [1, n]
}

/// Plays the second after the flow was ended by `first`; `lose` says of each reset of ours whether it is lost, by when it was sent in ms. Both
/// receivers, as they are in the end.
fn play(
    b: &mut Bench,
    first: Vec<Out>,
    mut receivers: [Receiver; 2],
    bases: [u32; 2],
    lose: impl Fn(u64) -> bool,
) -> [Receiver; 2] {
    let mut queue = std::collections::VecDeque::from(first);
    let mut late = false;
    for now in (0..1000).step_by(10) {
        while let Some(out) = queue.pop_front() {
            if !out.flags().contains(RST) || lose(now) {
                continue;
            }
            let side = usize::from(out.eth.dst != CLIENT_MAC);
            let isn = if side == 0 { b.cookie.0 } else { CLIENT_ISN };
            if let Some(ack) = receivers[side].reset(out.tcp().seq.0.wrapping_sub(isn), now) {
                let s = Seg { window: 60_000, ..seg(ACK, bases[1 - side], ack, &[]) };
                let (answer, _) = if side == 0 { b.client_sends(s) } else { b.server_sends(s) };
                queue.extend(answer);
            }
        }
        if now >= 200 && !late {
            late = true;
            // Acknowledgements that were delayed.
            for side in [0, 1] {
                let r = &mut receivers[side];
                if !r.obeyed && r.acked != r.next {
                    r.acked = r.next;
                    let s = Seg { window: 60_000, ..seg(ACK, bases[1 - side], r.next, &[]) };
                    let (answer, _) = if side == 0 { b.client_sends(s) } else { b.server_sends(s) };
                    queue.extend(answer);
                }
            }
        }
        queue.extend(b.wait(ms(10)));
    }
    receivers
}

/// One of four, whose tables are small.
fn small_world(n: usize) -> Bench {
    let limits = Limits { flows: 16, hellos: 4, watches: 4, ..Limits::default() };
    let address_mode = if n.is_multiple_of(2) { AddressMode::Snat } else { AddressMode::Dnat };
    let v6 = n & 2 != 0;
    Bench::new(Config { limits, address_mode, ..two_armed(1, v6) }, v6)
}

/// RFC 5961 section 3.2, for whatever is in flight, in both directions, whichever system receives, also when the first reset is lost; in both
/// address modes and families, through wraps of all numbers.
#[test]
fn whatever_is_in_flight_both_ends_obey_the_resets_of_a_stop_rfc_5961() {
    for system in [System::Linux, System::FreeBsd, System::Windows] {
        for (n, to_client) in WAYS.into_iter().enumerate() {
            for (m, lost) in [0, 1, 250].into_iter().enumerate() {
                for to_server in [WAYS[(n + m) % WAYS.len()], WAYS[(n + m + 3) % WAYS.len()]] {
                    let mut b = small_world(n + m);
                    let bases = under_way(&mut b, to_client, to_server);
                    let receiver = |way: Way, base: u32| Receiver {
                        system,
                        next: base + way.arrived,
                        acked: base + way.acked,
                        window: way.window,
                        rightmost: way.rightmost.map(|r| base + r),
                        challenged: None,
                        obeyed: false,
                    };
                    let receivers = [receiver(to_client, bases[0]), receiver(to_server, bases[1])];
                    let first = b.shutdown();
                    let ends = play(&mut b, first, receivers, bases, |now| now < lost);
                    assert!(ends.iter().all(|r| r.obeyed), "{to_client:?} {to_server:?}, lost {lost}: {ends:?}");
                    b.wait(ms(1600));
                    b.assert_empty();
                    assert_eq!(b.ended.iter().map(|e| e.0).collect::<Vec<_>>(), [End::Shutdown]);
                }
            }
        }
    }
}

/// The first reset goes behind everything that was sent: whoever gets all of it in order obeys at once (RFC 5961).
#[test]
fn the_first_reset_of_a_stop_is_behind_everything_sent_rfc_5961() {
    for mut b in all_worlds() {
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        // The clients' window is 1000 bytes, and they are sent more than that.
        for i in 0..10 {
            b.server_sends(seg(ACK, 1 + i * 1000, n, &[b'y'; 1000]));
            b.client_sends(seg(ACK, n + i * 1000, 1, &[b'x'; 1000]));
        }
        let out = b.shutdown();
        let numbers: Vec<_> = out.iter().map(|o| (o.port == 0, o.tcp().seq)).collect();
        let expected = [b.cookie + 10_001, Seq(CLIENT_ISN) + n + 10_000];
        assert_eq!(numbers.iter().map(|n| n.1).collect::<Vec<_>>(), expected);
    }
}

/// What comes of a flow that was cut is answered at its acknowledgement, which is by definition what its sender expects.
#[test]
fn a_flow_that_was_cut_answers_challenges_and_data_by_resets_at_their_acknowledgement_rfc_5961() {
    for mut b in all_worlds() {
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        b.shutdown();
        for (at, payload) in [(1u32, &b""[..]), (5, b"data"), (700, b"")] {
            let (out, v) = b.client_sends(seg(ACK, n, at, payload));
            assert!(matches!(v, Verdict::Reply(_)));
            let t = out[0].tcp();
            assert_eq!((out[0].port, t.flags, t.seq), (0, RST, b.cookie + at));
            let (out, v) = b.server_sends(seg(ACK, 1, n + at, payload));
            assert!(answers(&b, v));
            let t = out[0].tcp();
            assert_eq!((out[0].port, t.flags, t.seq), (b.server_port(), RST, Seq(CLIENT_ISN) + n + at));
        }
        // A reset is answered by nothing (RFC 9293), and its sender is told nothing more.
        b.client_sends(seg(RST, n, 0, &[]));
        assert!(b.wait(ms(2000)).iter().all(|o| o.port == b.server_port() && o.flags().contains(RST)));
        b.assert_empty();
    }
}

#[test]
fn a_stop_resets_who_waits_for_a_hello_or_a_backend_at_the_number_they_expect_rfc_5961() {
    for proxy_protocol in [false, true] {
        let config = two_armed(1, false).policy(|p| p.proxy_protocol = proxy_protocol);
        let header = if proxy_protocol { 28 } else { 0u32 };
        // A client that was acknowledged half a hello.
        let mut b = Bench::new(config.clone(), false);
        let hello = Hello::default().bytes();
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        b.client_sends(seg(ACK, 1, 1, &hello[..60]));
        b.wait(ms(60));
        let out = b.shutdown();
        assert_eq!(out.iter().map(|o| (o.port, o.tcp().seq)).collect::<Vec<_>>(), [(0, b.cookie + 1)]);
        let (out, _) = b.client_sends(seg(ACK, 61, 1, &hello[60..]));
        assert_eq!((out[0].flags(), out[0].tcp().seq), (RST, b.cookie + 1));
        // One whose backend has not answered: it may have taken the SYN.
        let mut b = Bench::new(config.clone(), false);
        b.dial(HTTP);
        let out = b.shutdown();
        let expected = [(0, b.cookie + 1), (1, Seq(CLIENT_ISN) + 1 - header)];
        assert_eq!(out.iter().map(|o| (o.port, o.tcp().seq)).collect::<Vec<_>>(), expected);
        let (out, _) = b.server_sends(seg(SYN_ACK, 0, 1u32.wrapping_sub(header), &[]));
        assert_eq!((out[0].flags(), out[0].tcp().seq), (RST, Seq(CLIENT_ISN) + 1 - header));
        // One whose backend has acknowledged nothing of what is ours.
        let mut b = Bench::new(config, false);
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        b.client_sends(seg(ACK, 1, 1, &hello[..60]));
        b.wait(ms(60));
        b.client_sends(seg(ACK, 61, 1, &hello[60..]));
        b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, 1u32.wrapping_sub(header), &[]) });
        let out = b.shutdown();
        assert_eq!((out[1].port, out[1].tcp().seq), (1, Seq(CLIENT_ISN) + 1 + hello.len() as u32));
        let again = b.wait(ms(250));
        let to_server: Vec<_> = again.iter().filter(|o| o.port == 1).map(|o| o.tcp().seq).collect();
        assert_eq!(to_server, [Seq(CLIENT_ISN) + 1 + hello.len() as u32, Seq(CLIENT_ISN) + 1 - header]);
        b.wait(ms(1500));
        b.assert_empty();
    }
}

#[test]
fn while_it_comes_to_its_end_nothing_new_is_begun() {
    let mut b = bench();
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.shutdown();
    // The handshake's end: refused. A SYN: silence, so that it comes again when the next process is there.
    let (out, _) = b.client_sends(seg(ACK, 1, 1, HTTP));
    assert_eq!((out[0].flags(), out[0].tcp().seq), (RST, b.cookie + 1));
    b.client.set_port(50_001);
    assert_eq!(b.client_sends(seg(SYN, 0, 0, &[])).1, Verdict::Drop(DropReason::Stopping));
    b.assert_empty();
}

/// Where the flow table is nearly full a flow that was cut is not kept: both numbers are said at once.
#[test]
fn a_full_table_keeps_no_dead_flows() {
    let limits = Limits { flows: 1, ..Limits::default() };
    let mut b = Bench::new(Config { limits, ..two_armed(1, false) }, false);
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    b.server_sends(seg(ACK, 1, n, b"12345"));
    let out = b.wait(Duration::from_secs(316));
    let to_client: Vec<_> =
        out.iter().filter(|o| o.port == 0 && o.flags().contains(RST)).map(|o| o.tcp().seq).collect();
    assert_eq!(to_client, [b.cookie + 6, b.cookie + 6, b.cookie + 1]);
    b.assert_empty();
}

/// After a restart nothing is known of a hundred uploads and a hundred downloads; each sender has a window under way, each receiver acknowledges
/// what still arrives. All are told within two seconds, though resets of the unknown are bounded.
#[test]
fn after_a_restart_two_hundred_transfers_do_not_starve_each_other() {
    for mode in [AddressMode::Snat, AddressMode::Dnat] {
        let mut b = Bench::new(Config { address_mode: mode, ..two_armed(1, false) }, false);
        b.wait(ms(300));
        b.dialled = b.config.backends()[0].addr;
        let mut told = vec![false; 400];
        for round in 0..8u32 {
            for n in 0..200u16 {
                let client = SocketAddr::new(client_ip(0, false), 20_000 + n);
                b.client = client;
                b.cookie = Seq(77_000_000);
                b.dialled_from = match mode {
                    AddressMode::Snat => SocketAddr::new(sim::config::ip("10.2.0.1"), 40_000 + n),
                    AddressMode::Dnat => client,
                };
                // Who sends data sends a window at first, then repeats one segment; who receives acknowledges, and then has nothing to say.
                let upload = n < 100;
                for i in 0..if round == 0 { 64 } else { 1 } {
                    for (client, sends) in [(true, upload), (false, !upload)] {
                        if !sends && round > 0 {
                            continue;
                        }
                        let at = 1_000_000 + i * 1000;
                        let s = if sends { seg(ACK, at, 500, &[b'x'; 100]) } else { seg(ACK, 500, at, &[]) };
                        if !sends && i % 8 != 0 {
                            continue;
                        }
                        let (out, _) = if client { b.client_sends(s) } else { b.server_sends(s) };
                        let expected = if sends { 500 } else { 1_000_000 + 56_000 };
                        let base = if client { b.cookie } else { Seq(CLIENT_ISN) };
                        let hit = out.iter().any(|o| o.flags() == RST && o.tcp().seq == base + expected);
                        told[usize::from(n) * 2 + usize::from(client)] |= hit;
                    }
                }
            }
            b.wait(ms(250));
        }
        let senders = |n: &usize| (n / 2 < 100) == (n % 2 == 1);
        let hanging = (0..400).filter(|n| senders(n) && !told[*n]).count();
        assert_eq!(hanging, 0, "{mode:?}: senders that hang");
    }
}
