//! The handshake with the client: cookies, and what is said to strangers.

use super::*;

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
fn data_whose_cookie_cannot_be_verified_yet_meets_silence_first_and_a_reset_later() {
    // The ACK and the first segment of a long hello are lost; the next is the first to arrive.
    let mut b = bench();
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    let hello = Hello { at_least: 2000, ..Hello::default() }.bytes();
    let (out, v) = b.client_sends(seg(ACK, 1461, 1, &hello[1460..]));
    assert!(out.is_empty() && v == Verdict::Drop(DropReason::BadCookie));
    b.assert_empty();
    // The client repeats what is missing, and all is well.
    b.wait(ms(1000));
    b.client_sends(seg(ACK, 1, 1, &hello[..1460]));
    let (out, _) = b.client_sends(seg(ACK, 1461, 1, &hello[1460..]));
    assert!(out[0].tcp().is_bare_syn());
    // A connection that nobody here knows repeats the same in vain.
    let mut b = bench();
    b.wait(Duration::from_secs(10));
    b.cookie = Seq(4711);
    for empty in [false, true, false] {
        let (out, v) = b.client_sends(seg(ACK, 1461, 1, if empty { b"" } else { b"data" }));
        assert!(out.is_empty() && v == Verdict::Drop(DropReason::BadCookie));
        b.wait(ms(1500));
    }
    let (out, _) = b.client_sends(seg(ACK, 1461, 1, b"data"));
    assert_eq!(out[0].flags(), RST);
    b.assert_empty();
    // Soon after a start it is of before that, as likely as not: it is told sooner.
    let mut b = bench();
    b.cookie = Seq(4711);
    for (silent, wait) in [(true, 400), (true, 800), (false, 0)] {
        let (out, _) = b.client_sends(seg(ACK, 1461, 1, b"data"));
        assert_eq!(out.is_empty(), silent);
        b.wait(ms(wait));
    }
}

#[test]
fn an_empty_segment_behind_data_that_came_too_early_is_not_reset() {
    // Found by a storm: the client answers a second SYN-ACK by an ACK from behind its data, whose first segment is late. A reset
    // would have ended a good connection.
    let mut b = bench();
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    let hello = Hello { at_least: 2000, ..Hello::default() }.bytes();
    b.client_sends(seg(ACK, 1461, 1, &hello[1460..]));
    let (out, v) = b.client_sends(seg(ACK, 1 + hello.len() as u32, 1, &[]));
    assert!(out.is_empty() && v == Verdict::Drop(DropReason::BadCookie));
    b.client_sends(seg(ACK, 1, 1, &hello[..1460]));
    let (out, _) = b.client_sends(seg(ACK, 1461, 1, &hello[1460..]));
    assert!(out[0].tcp().is_bare_syn());
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
        (seg(ACK, 5, 9, &[]), RST, Seq(77) + 9, Seq(0)),
        (seg(Flags::FIN, 5, 0, b"data"), RST_ACK, Seq(0), Seq(CLIENT_ISN) + 5 + 4 + 1),
        (seg(SYN_ACK, 5, 10, &[]), RST, Seq(77) + 10, Seq(0)),
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
    assert!(out.is_empty() && v == Verdict::Drop(DropReason::BadCookie));
    let mut damaged = b.client_frame(&seg(ACK, 1, 1, &[]));
    damaged[14 + 20 + 4] ^= 1;
    let (out, v) = b.hand_in(0, &damaged);
    assert!(out.is_empty() && v == Verdict::Drop(DropReason::BadCookie));
    // Nor one of which nothing else was heard.
    b.client.set_port(50_001);
    let (out, v) = b.hand_in(0, &spoil(b.client_frame(&seg(ACK, 9, 1, &[]))));
    assert!(out.is_empty() && v == Verdict::Drop(DropReason::BadChecksum));
    b.client.set_port(50_000);
    let first = spoil(b.client_frame(&seg(ACK, 1, 1, HTTP)));
    assert_eq!(b.hand_in(0, &first).1, Verdict::Drop(DropReason::BadChecksum));
    b.assert_empty();
    b.dial(HTTP);
    let answer = spoil(b.server_frame(&Seg { options: &options, ..seg(SYN_ACK, 0, 1, &[]) }));
    assert_eq!(b.hand_in(1, &answer).1, Verdict::Drop(DropReason::BadChecksum));
}

#[test]
fn an_old_handshake_that_comes_again_does_not_end_the_connection_that_has_the_port_now() {
    // Found by a storm.
    let mut b = bench();
    let options = SynOptions { mss: Some(1460), ..SynOptions::default() };
    let old = {
        b.client_syn(&options);
        b.client_frame(&seg(ACK, 1, 1, &[]))
    };
    // The connection that has the port now, of another initial number.
    let offset = 0x1000_0000;
    let (before, bytes) = (b.cookie, written(&options));
    b.client_sends(Seg { options: &bytes, ..seg(SYN, offset, 0, &[]) });
    assert!(b.cookie != before);
    b.client_sends(seg(ACK, offset + 1, 1, &[]));
    assert_eq!(b.engine.flows(), 1);
    for _ in 0..2 {
        // Its number is not this connection's.
        assert_eq!(b.hand_in(0, &old).1, Verdict::Drop(DropReason::OutOfWindow));
    }
    assert!(b.ended.is_empty());
    let (out, _) = b.client_sends(seg(ACK, offset + 1, 1, HTTP));
    assert!(out[0].tcp().is_bare_syn(), "a server is dialled");
    assert_eq!(b.hand_in(0, &old).1, Verdict::Drop(DropReason::OutOfWindow));
    assert_eq!((b.engine.flows(), b.ended.len()), (1, 0));
}

#[test]
fn a_handshake_of_the_connection_before_that_comes_again_does_not_end_the_one_that_has_the_port_now() {
    // Found by a storm.
    let mut b = bench();
    b.splice(HTTP);
    let options = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    let old_syn = b.client_frame(&Seg { options: &options, ..seg(SYN, 0, 0, &[]) });
    let old = b.client_frame(&seg(ACK, 1, 1, HTTP));
    b.client_sends(seg(RST, 1 + HTTP.len() as u32, 0, &[]));
    assert_eq!(b.ended.len(), 1);
    // The same port again, from another number; the old SYN comes again before that handshake has ended.
    let offset = 0x1000_0000;
    b.client_sends(Seg { options: &options, ..seg(SYN, offset, 0, &[]) });
    let cookie = b.cookie;
    assert!(matches!(b.hand_in(0, &old_syn).1, Verdict::Reply(_)));
    b.cookie = cookie;
    let (out, _) = b.client_sends(seg(ACK, offset + 1, 1, HTTP));
    assert!(out[0].tcp().is_bare_syn(), "a server is dialled");
    // Its SYN was seen, or is seen once more, and its cookie is still good.
    for again in [None, Some(&old_syn)] {
        again.map(|syn| b.hand_in(0, syn));
        assert_eq!(b.hand_in(0, &old).1, Verdict::Drop(DropReason::OutOfWindow));
        assert_eq!((b.engine.flows(), b.ended.len()), (1, 1));
    }
    // Nor does it end the one after that.
    let third = 0x2000_0000;
    b.client_sends(Seg { options: &options, ..seg(SYN, third, 0, &[]) });
    let (out, _) = b.client_sends(seg(ACK, third + 1, 1, HTTP));
    assert!(out.iter().any(|o| o.tcp().is_bare_syn()), "a server is dialled");
    assert_eq!(b.ended.len(), 2);
    assert!(matches!(b.hand_in(0, &old_syn).1, Verdict::Reply(_)));
    assert_eq!(b.hand_in(0, &old).1, Verdict::Drop(DropReason::OutOfWindow));
    assert_eq!((b.engine.flows(), b.ended.len()), (1, 2));
}
