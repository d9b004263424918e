//! Silent connections: both ends are asked before one is given up.

use super::*;

/// Waits for probes, and lets those answer that are to. Which ports were asked.
fn ask(b: &mut Bench, time: Duration, n: u32, client: bool, server: bool) -> Vec<usize> {
    let end = b.now + time;
    let mut asked = vec![];
    while b.now < end {
        for out in b.wait(Duration::from_secs(1)) {
            if out.flags() != ACK {
                continue;
            }
            let t = out.tcp();
            asked.push(usize::from(out.eth.dst != CLIENT_MAC));
            let to_client = out.eth.dst == CLIENT_MAC;
            let before = if to_client { b.cookie } else { Seq(CLIENT_ISN) + n - 1 };
            assert_eq!((t.seq, t.payload_len()), (before, 0), "one before what it expects");
            if to_client && client {
                b.client_sends(seg(ACK, n, 1, &[]));
            } else if !to_client && server {
                b.server_sends(seg(ACK, 1, n, &[]));
            }
        }
    }
    asked
}

#[test]
fn a_silent_connection_lives_as_long_as_both_of_its_ends() {
    for mut b in all_worlds() {
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        let asked = ask(&mut b, Duration::from_secs(3600), n, true, true);
        assert!((20..=24).contains(&asked.len()), "each once in five minutes: {}", asked.len());
        assert_eq!((b.engine.flows(), b.ended.len()), (1, 0));
        let (out, v) = b.server_sends(seg(ACK, 1, n, b"push"));
        assert!(matches!(v, Verdict::Forward(_)) && out[0].payload() == b"push");
    }
}

#[test]
fn one_end_alone_keeps_no_connection() {
    for (client, server) in [(true, false), (false, true)] {
        let mut b = bench();
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        let asked = ask(&mut b, Duration::from_secs(320), n, client, server);
        let silent = if client { 1 } else { 0 };
        assert_eq!(asked.iter().filter(|p| **p == silent).count(), 3, "{asked:?}");
        assert_eq!(asked.iter().filter(|p| **p != silent).count(), 1, "who has answered is not asked again");
        assert_eq!(b.ended.iter().map(|e| e.0).collect::<Vec<_>>(), [End::Idle]);
        b.assert_empty();
    }
}

#[test]
fn an_end_that_knows_nothing_of_the_connection_ends_it() {
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    let out = b.wait(Duration::from_secs(301));
    let probe = out.iter().find(|o| o.port == 0).expect("a probe").tcp();
    assert_eq!(probe.ack, Seq(CLIENT_ISN) + n);
    let (out, _) = b.client_sends(seg(RST, n, 0, &[]));
    assert_eq!((out[0].port, out[0].flags()), (1, RST), "the server hears of it");
    assert_eq!(b.ended[0].0, End::ClientReset);
}

/// A receiver drops what shows an older clock than it has seen (RFC 7323 section 5.3), Linux a pure acknowledgement without a word.
#[test]
fn probes_show_the_latest_clocks_of_both_ends() {
    for mut b in all_worlds() {
        b.dial_with(&linux(), HTTP);
        let n = 1 + HTTP.len() as u32;
        let stamped = |val, ecr| write_timestamps(Timestamps { val, ecr });
        let syn_ack = written(&SynOptions { timestamps: Some(Timestamps { val: 77, ecr: 5001 }), ..linux() });
        let first = if !b.config.wanted.services[0].policy.proxy_protocol {
            0
        } else if b.v6 {
            52
        } else {
            28
        };
        b.server_sends(Seg { options: &syn_ack, window: 60000, ..seg(SYN_ACK, 0, 1u32.wrapping_sub(first), &[]) });
        let theirs = b.our_clock;
        // An hour of clocks later, on either side; then a segment that was overtaken, and one with numbers of nobody's.
        for (val, at) in [(3_600_077, 1), (3_599_000, 1)] {
            b.server_sends(Seg { options: &stamped(val, 5001), window: 60000, ..seg(ACK, at, n, b"answer") });
        }
        b.client_sends(Seg { options: &stamped(4_000_000, theirs), window: 60000, ..seg(ACK, n, 7, &[]) });
        b.client_sends(Seg { options: &stamped(2_000_000_000, theirs), ..seg(ACK, n + 0x4000_0000, 7, &[]) });
        // Neighbours are asked meanwhile, and answer.
        let probes: Vec<_> =
            (0..301).flat_map(|_| b.wait(Duration::from_secs(1))).filter(|o| o.flags() == ACK).collect();
        let clocks = |o: &Out| SegmentOptions::parse(o.option_bytes()).timestamps.expect("a clock").1;
        let (to_client, to_server): (Vec<_>, Vec<_>) = probes.iter().partition(|o| o.eth.dst == CLIENT_MAC);
        let (client, server) = (clocks(to_client[0]), clocks(to_server[0]));
        assert_eq!((client.val, client.ecr), (theirs + 3_600_000, 4_000_000));
        assert_eq!((server.val, server.ecr), (4_000_000, 3_600_077));
    }
}
