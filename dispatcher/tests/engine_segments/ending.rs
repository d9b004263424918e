//! How flows end, and what does not end them.

use super::*;

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
        assert_eq!(b.engine.directory().live().connections(lb::BackendId(0)), 0);
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
fn a_reset_that_may_be_forged_ends_nothing_while_its_supposed_sender_acknowledges_what_it_is_sent() {
    // Found by forged segments on a live download.
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    b.server_sends(seg(ACK, 1, n, &[b'y'; 500]));
    // A guess within the window makes the next number uncertain.
    b.client_sends(seg(ACK, n + 50, 1, b"guess"));
    b.client_sends(seg(RST, n + 20, 0, &[]));
    // The client only listens, and the server goes on.
    let (_, v) = b.server_sends(seg(ACK, 501, n, &[b'y'; 500]));
    assert!(matches!(v, Verdict::Forward(_)));
    let (_, v) = b.client_sends(seg(ACK, n, 1001, &[]));
    assert!(matches!(v, Verdict::Forward(_)));
    b.wait(Duration::from_secs(10));
    assert_eq!((b.engine.flows(), b.ended.len()), (1, 0));
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
        // Asked three times whether they are still there, they do not answer.
        let asked = b.wait(Duration::from_secs(15));
        assert!(asked.len() == 6 && asked.iter().all(|o| o.flags() == ACK) && b.ended.is_empty());
        let out = b.wait(Duration::from_secs(3));
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
    let (out, _) = b.client_sends(seg(ACK, n, 1, &[]));
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

#[test]
fn a_forged_reset_does_not_lose_what_is_ours() {
    let mut b = bench();
    let hello = Hello::default().bytes();
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &hello[..60]));
    b.wait(ms(60));
    b.client_sends(seg(ACK, 61, 1, &hello[60..]));
    b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
    // Between what the server has acknowledged and what was sent.
    b.client_sends(seg(RST, 31, 0, &[]));
    let again = b.wait(ms(300));
    assert_eq!(again[0].payload(), &hello[..60]);
    let (_, v) = b.server_sends(seg(ACK, 1, 1 + hello.len() as u32, &[]));
    assert!(matches!(v, Verdict::Forward(_)));
    assert!(b.ended.is_empty());
}

#[test]
fn a_server_that_remembers_a_flow_longer_than_we_do_is_reset_in_both_address_modes() {
    for mut b in all_worlds() {
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        b.client_sends(seg(RST, n, 0, &[]));
        b.wait(Duration::from_secs(3));
        b.assert_empty();
        let (out, v) = b.server_sends(seg(ACK, 1, n, b"are you there?"));
        assert!(answers(&b, v), "{v:?}");
        assert_eq!((out[0].flags(), out[0].tcp().seq), (RST, Seq(CLIENT_ISN) + n));
        assert_eq!(out[0].ip().src.socket(out[0].tcp().src_port), b.dialled_from);
    }
}

/// Every kind of segment with every kind of number that no honest sender can be at, from both sides, before the hello is
/// complete, while the backend is dialled and afterwards: the flow goes on and ends as if none had come.
#[test]
fn nothing_with_a_number_outside_the_window_closes_or_alters_a_flow() {
    let mut guess = 0x9e37_79b9_u32;
    let mut far = move || {
        guess = guess.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // At least a quarter of a megabyte from where the flow is, on either side.
        0x4_0000 + guess % (u32::MAX - 0x8_0000)
    };
    let mut forge = |b: &mut Bench, server_too: bool| {
        for _ in 0..2000 {
            for flags in [ACK, FIN_ACK, RST, RST_ACK] {
                let payload: &[u8] = if flags.0 & RST.0 != 0 { &[] } else { b"forged" };
                b.client_sends(Seg { window: 65535, ..seg(flags, far(), far(), payload) });
                if server_too {
                    b.server_sends(Seg { window: 65535, ..seg(flags, far(), far(), payload) });
                }
            }
        }
        assert_eq!((b.engine.flows(), b.ended.len()), (1, 0));
        b.out.clear();
    };
    let hello = Hello::default().bytes();
    let n = 1 + hello.len() as u32;
    let mut b = bench();
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &hello[..20]));
    forge(&mut b, false);
    let (out, _) = b.client_sends(seg(ACK, 21, 1, &hello[20..]));
    assert!(out[0].tcp().is_bare_syn());
    forge(&mut b, false);
    let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    let (out, _) = b.server_sends(Seg { options: &mss, window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
    assert_eq!(out.iter().flat_map(|o| o.payload().to_vec()).collect::<Vec<_>>(), hello);
    b.server_sends(Seg { window: 60000, ..seg(ACK, 1, n, &[]) });
    forge(&mut b, true);
    // A request of two segments of which the second comes first, an answer, and both close.
    b.client_sends(seg(ACK, n + 100, 1, &[2; 100]));
    b.client_sends(seg(ACK, n, 1, &[1; 100]));
    let (out, _) = b.server_sends(seg(ACK, 1, n + 200, b"answer"));
    assert_eq!((out[0].payload(), out[0].tcp().seq), (&b"answer"[..], b.cookie + 1));
    forge(&mut b, true);
    b.client_sends(seg(FIN_ACK, n + 200, 7, &[]));
    forge(&mut b, true);
    b.server_sends(seg(FIN_ACK, 7, n + 201, &[]));
    b.client_sends(seg(ACK, n + 201, 8, &[]));
    assert_eq!(b.ended, [(End::Fin, u64::from(n) + 199, 6)]);
    b.wait(Duration::from_secs(16));
    b.assert_empty();
}

#[test]
fn nobody_out_of_step_keeps_a_dead_flow() {
    let mut b = bench();
    b.splice(HTTP);
    for second in 0..400u32 {
        // From just behind any window to a quarter of the way round.
        let behind = 0x4_0000 + second * 0x10_0000;
        b.client_sends(seg(ACK, 1u32.wrapping_sub(behind), 1, b"x"));
        b.server_sends(seg(ACK, 1u32.wrapping_sub(behind), 1, b"x"));
        b.wait(Duration::from_secs(1));
    }
    assert_eq!(b.ended.iter().map(|e| e.0).collect::<Vec<_>>(), [End::Idle]);
    b.assert_empty();
}

#[test]
fn the_second_segment_of_a_new_connection_that_comes_first_is_not_passed_to_the_old_ones_server() {
    // Found by a storm: the server's reset would have ended the new connection.
    let mut b = bench();
    b.splice(HTTP);
    let n = HTTP.len() as u32;
    b.client_sends(seg(RST, 1 + n, 0, &[]));
    b.server_sends(seg(ACK, 1, 1 + n, &[]));
    b.client_sends(seg(RST, 1 + n, 0, &[]));
    assert_eq!(b.engine.flows(), 1, "remembered");
    // The same port again, from another number.
    let again = 1_700_000_000u32;
    b.client_sends(seg(SYN, again, 0, &[]));
    let (out, v) = b.client_sends(seg(ACK, again + 1 + 1460, 1, b"second"));
    assert!(out.is_empty() && v == Verdict::Drop(DropReason::FlowClosed), "{v:?}");
    let (out, _) = b.client_sends(seg(ACK, again + 1, 1, HTTP));
    assert!(out.iter().any(|o| o.port == 1 && o.tcp().is_bare_syn()), "the first opens the new connection");
}
