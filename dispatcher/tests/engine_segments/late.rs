//! Hellos that come after their server was chosen.

use super::*;
use dispatcher::wire::Seq;
use lb::ServiceKind;
use sim::tls::Flight;
use std::net::SocketAddr;

/// A flow whose client said nothing until its server was chosen, and spliced.
fn silent(b: &mut Bench) {
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &[]));
    let out = b.wait(ms(3010));
    assert!(out.iter().any(|o| o.tcp().is_bare_syn()), "dialled without a hello");
    assert_eq!((b.engine.counters().silent, b.engine.counters().late_hellos), (1, 0));
}

fn take(b: &mut Bench) -> Vec<Out> {
    b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, 1, &[]) }).0
}

/// The server's flight of TLS 1.2 with a new session, up to the end of its handshake.
fn answer(b: &mut Bench, n: u32) {
    let flight = Flight {
        tls13: false,
        session_id: vec![9; 32],
        psk_selected: false,
        ticket: None,
        resumed: false,
        random: [0; 32],
    };
    let mut at = 1;
    for part in flight.bytes().chunks(500) {
        b.server_sends(Seg { window: 60000, ..seg(ACK, at, n, part) });
        at += part.len() as u32;
        b.client_sends(Seg { window: 60000, ..seg(ACK, n, at, &[]) });
    }
}

/// Closed by both; what was counted.
fn counted(b: &mut Bench) -> [u64; 4] {
    b.wait(Duration::from_secs(400));
    b.assert_empty();
    let c = b.engine.counters();
    [c.silent, c.late_hellos, c.secure, c.non_secure]
}

fn rows(b: &Bench) -> usize {
    b.engine.sessions(b.now).census.session_ids
}

#[test]
fn a_hello_that_comes_too_late_to_decide_is_learned_from_and_counted() {
    let hello = Hello { at_least: 1700, ..Hello::default() }.bytes();
    for pieces in [vec![0, 1400, 1700], vec![0, 1, 2, 700, 1700], vec![0, 3, 1460, 1700]] {
        let ends: Vec<usize> = pieces[1..].iter().map(|n| (*n).min(hello.len())).chain([hello.len()]).collect();
        for order in ["before the splice", "after it", "overtaking each other"] {
            let mut b = bench();
            silent(&mut b);
            if order != "before the splice" {
                take(&mut b);
            }
            let mut parts: Vec<(usize, usize)> = [0].iter().chain(&ends).copied().zip(ends.iter().copied()).collect();
            parts.retain(|(from, to)| from < to);
            if order == "overtaking each other" {
                parts.reverse();
            }
            for (from, to) in parts.clone() {
                b.client_sends(seg(ACK, 1 + from as u32, 1, &hello[from..to]));
            }
            if order == "overtaking each other" {
                // What came before the first bytes was not kept. It may come again.
                for (from, to) in parts.into_iter().rev() {
                    b.client_sends(seg(ACK, 1 + from as u32, 1, &hello[from..to]));
                }
            }
            if order == "before the splice" {
                let sent: Vec<u8> = take(&mut b).iter().flat_map(|o| o.payload().to_vec()).collect();
                assert_eq!(sent, hello);
            }
            assert_eq!(b.engine.held_hellos(), 0, "{ends:?} {order}");
            let c = b.engine.counters();
            assert_eq!((c.late_hellos, c.secure, c.non_secure), (1, 1, 0), "{ends:?} {order}");
            answer(&mut b, 1 + hello.len() as u32);
            // What the server may put together otherwise than we do proves nothing.
            let sure = usize::from(order != "overtaking each other");
            assert_eq!(rows(&b), sure, "{ends:?} {order}");
            assert_eq!(counted(&mut b), [1, 1, 1, 0]);
        }
    }
}

#[test]
fn a_late_hello_of_which_the_server_may_have_got_another_one_explains_nothing() {
    let hello = Hello::default().bytes();
    let other = Hello { session_id: vec![7; 32], ..Hello::default() }.bytes();
    let n = 1 + hello.len() as u32;
    for trick in ["none", "damaged before", "again before it is acknowledged", "half of it twice", "urgent"] {
        let mut b = bench();
        silent(&mut b);
        take(&mut b);
        let half = hello.len() / 2;
        let sends = |b: &mut Bench, flags, at: usize, bytes: &[u8], damage: bool| {
            let mut frame = b.client_frame(&seg(flags, 1 + at as u32, 1, bytes));
            if damage {
                *frame.last_mut().unwrap() ^= 1;
            }
            b.hand_in(0, &frame);
        };
        match trick {
            "damaged before" => {
                sends(&mut b, ACK, 0, &other, true);
                sends(&mut b, ACK, 0, &hello, false);
            }
            "again before it is acknowledged" => {
                sends(&mut b, ACK, 0, &hello, false);
                sends(&mut b, ACK, 0, &other[..hello.len().min(other.len())], false);
            }
            "half of it twice" => {
                sends(&mut b, ACK, 0, &hello[..half], false);
                sends(&mut b, ACK, 0, &other[..half], false);
                sends(&mut b, ACK, half, &hello[half..], false);
            }
            "urgent" => sends(&mut b, Flags(ACK.0 | Flags::URG.0), 0, &hello, false),
            _ => sends(&mut b, ACK, 0, &hello, false),
        }
        assert_eq!(b.engine.counters().late_hellos, 1, "{trick}");
        answer(&mut b, n);
        assert_eq!(rows(&b), usize::from(trick == "none"), "{trick}");
    }
}

#[test]
fn a_server_that_speaks_first_ends_the_waiting_for_a_hello() {
    let mut b = bench();
    silent(&mut b);
    take(&mut b);
    b.server_sends(Seg { window: 60000, ..seg(ACK, 1, 1, b"220 ready\r\n") });
    assert_eq!(b.engine.counters().non_secure, 1);
    // STARTTLS, in effect: not the beginning of the stream.
    b.client_sends(seg(ACK, 1, 12, &Hello::default().bytes()));
    assert_eq!((b.engine.watched(), b.engine.held_hellos()), (0, 0));
    assert_eq!(counted(&mut b), [1, 0, 0, 1]);
}

#[test]
fn what_is_no_hello_and_what_never_comes_is_not_secure() {
    for late in [&b"GET / HTTP/1.0\r\n\r\n"[..], b""] {
        let mut b = bench();
        silent(&mut b);
        take(&mut b);
        if !late.is_empty() {
            b.client_sends(seg(ACK, 1, 1, late));
            assert_eq!(b.engine.counters().non_secure, 1);
        }
        assert_eq!(counted(&mut b), [1, 0, 0, 1]);
    }
}

#[test]
fn half_late_hellos_hold_a_bounded_number_of_buffers_and_give_way() {
    let mut config = two_armed(1, false);
    config.limits.hellos = 100;
    let mut b = Bench::new(config, false);
    let hello = Hello::default().bytes();
    let begin = |b: &mut Bench, n: u16| {
        b.client.set_port(1000 + n);
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        b.client_sends(seg(ACK, 1, 1, &[]));
        b.wait(ms(3010));
        take(b);
        b.client_sends(seg(ACK, 1, 1, &hello[..60]));
    };
    for n in 0..120 {
        begin(&mut b, n);
    }
    assert!(b.engine.held_hellos() <= 50, "those who come in time have the rest: {}", b.engine.held_hellos());
    // Who comes with all of it at once needs none.
    b.client.set_port(5000);
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &[]));
    b.wait(ms(3010));
    take(&mut b);
    b.client_sends(seg(ACK, 1, 1, &hello));
    answer(&mut b, 1 + hello.len() as u32);
    assert_eq!(rows(&b), 1);
    b.wait(Duration::from_secs(400));
    b.assert_empty();
}

/// Silent flows of `ports` of a host, spliced; what its client side needs to go on.
fn many_silent(b: &mut Bench, host: &str, ports: u16) -> Vec<(SocketAddr, Seq)> {
    let mut flows = vec![];
    for port in 0..ports {
        b.client = SocketAddr::new(host.parse().unwrap(), 1000 + port);
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        b.client_sends(seg(ACK, 1, 1, &[]));
        flows.push((b.client, b.cookie));
    }
    let syns: Vec<u16> = b.wait(ms(3010)).iter().filter(|o| o.tcp().is_bare_syn()).map(|o| o.tcp().src_port).collect();
    assert_eq!(syns.len(), flows.len());
    for port in syns {
        b.dialled_from.set_port(port);
        take(b);
    }
    flows
}

#[test]
fn one_client_with_many_half_late_hellos_gives_way_to_others() {
    let hello = Hello::default().bytes();
    // As many as there are places, or as many as may have buffers.
    for hellos in [1000, 100] {
        let mut config = two_armed(1, false);
        config.limits.hellos = hellos;
        let mut b = Bench::new(config, false);
        let his = many_silent(&mut b, "192.0.2.1", 70);
        let (honest, cookie) = many_silent(&mut b, "198.51.100.7", 1)[0];
        for flow in his {
            (b.client, b.cookie) = flow;
            b.client_sends(seg(ACK, 1, 1, &hello[..1]));
        }
        let unwatched = b.engine.counters().unwatched;
        assert!(unwatched > 0, "all places are his, {hellos}");
        (b.client, b.cookie) = (honest, cookie);
        b.client_sends(seg(ACK, 1, 1, &hello[..60]));
        b.client_sends(seg(ACK, 61, 1, &hello[60..]));
        assert_eq!(b.engine.counters().late_hellos, 1, "one byte is no hello, {hellos}");
        assert_eq!(b.engine.counters().unwatched, unwatched + 1, "one of his gave way, {hellos}");
        answer(&mut b, 1 + hello.len() as u32);
        assert_eq!(rows(&b), 1, "{hellos}");
    }
}

#[test]
fn a_segment_out_of_order_or_damaged_takes_no_place_of_a_late_hello() {
    let hello = Hello::default().bytes();
    for damaged in [false, true] {
        let mut b = bench();
        let his = many_silent(&mut b, "192.0.2.1", 70);
        for flow in his {
            (b.client, b.cookie) = flow;
            let at = if damaged { 0 } else { 60 };
            let mut frame = b.client_frame(&seg(ACK, 1 + at as u32, 1, &hello[at..]));
            if damaged {
                *frame.last_mut().unwrap() ^= 1;
            }
            b.hand_in(0, &frame);
        }
        assert_eq!((b.engine.held_hellos(), b.engine.counters().unwatched), (0, 0), "damaged: {damaged}");
        // And is no hello.
        b.wait(Duration::from_secs(400));
        b.assert_empty();
        let c = b.engine.counters();
        assert_eq!((c.late_hellos, c.secure, c.non_secure, c.hellos_unread), (0, 0, 70, 0), "damaged: {damaged}");
    }
}

#[test]
fn a_late_hello_that_cannot_be_read_or_not_to_its_end_is_counted_as_unread() {
    let hello = Hello::default().bytes();
    let mut bad = hello.clone();
    // The session ID is longer than any.
    bad[43] = 255;
    for (what, bytes, secure) in
        [("whole", &hello[..], 1), ("unreadable", &bad, 1), ("half", &hello[..60], 1), ("two bytes", &hello[..2], 0)]
    {
        let mut b = bench();
        silent(&mut b);
        take(&mut b);
        b.client_sends(seg(ACK, 1, 1, bytes));
        assert_eq!(counted(&mut b), [1, secure, secure, 1 - secure], "{what}");
        let unread = u64::from(what == "unreadable" || what == "half");
        assert_eq!(b.engine.counters().hellos_unread, unread, "{what}");
    }
}

#[test]
fn a_service_that_is_tls_only_waits_half_a_minute_for_the_hello_that_leads_its_client() {
    let key = TicketKey::Name { backend: server_name(1, false), name: [9; 16] };
    let config = Config { ticket_keys: vec![key], ..two_armed(2, false) }.policy(|p| p.kind = ServiceKind::Tls);
    let mut b = Bench::new(config, false);
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &[]));
    assert!(b.wait(ms(29_000)).is_empty(), "no server is chosen without it");
    let (out, _) = b.client_sends(seg(ACK, 1, 1, &Hello { ticket: Some(vec![9; 100]), ..Hello::default() }.bytes()));
    assert!(out[0].tcp().is_bare_syn());
    assert_eq!(b.dialled, b.config.backends()[1].addr, "by its session");
    assert_eq!(b.engine.counters().silent, 0);
    // And who never says one is counted, and given a server that may judge.
    b.client.set_port(50_001);
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &[]));
    let out = b.wait(ms(31_000));
    assert!(out.iter().any(|o| o.tcp().is_bare_syn() && o.tcp().src_port != 0));
    assert_eq!(b.engine.counters().silent, 1);
}
