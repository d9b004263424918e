//! Waiting for room at a server: who waits, what its client hears meanwhile, and how it ends.

use super::*;
use lb::admission::{ClassSpec, Classes};
use lb::{BackendLimits, MaxHandshakes};

/// The alert that ends a wait in vain, byte by byte.
const ALERT: &[u8] = &[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x50];

fn limits(max_connections: Option<u32>, units: Option<u32>) -> BackendLimits {
    BackendLimits { max_connections, max_handshakes: units.map(MaxHandshakes::Units), slow_start: None }
}

fn limited(servers: usize, limits: BackendLimits) -> Config {
    two_armed(servers, false).pool(|p| p.backends.iter_mut().for_each(|b| b.limits = limits))
}

/// One class for everybody, with a line of so many places.
fn one_class(config: Config, queue: usize) -> Config {
    let classes = Classes::new(vec![ClassSpec { queue, ..ClassSpec::new("all") }]).unwrap();
    config.policy(|p| p.classes = classes.clone())
}

/// What a test keeps of a client to come back to it.
#[derive(Clone, Copy)]
struct Client(SocketAddr, Seq, (SocketAddr, SocketAddr));

fn kept(b: &Bench) -> Client {
    Client(b.client, b.cookie, (b.dialled_from, b.dialled))
}

fn back_to(b: &mut Bench, Client(client, cookie, dialled): Client) {
    (b.client, b.cookie, (b.dialled_from, b.dialled)) = (client, cookie, dialled);
}

/// Client `n` connects and says `first`: what leaves because of that.
fn arrives(b: &mut Bench, n: u16, first: &[u8]) -> Vec<Out> {
    b.client.set_port(50_000 + n);
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &[]));
    b.client_sends(seg(ACK, 1, 1, first)).0
}

/// The server that was dialled last answers, and gets what is held.
fn answers(b: &mut Bench) -> Vec<u8> {
    let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    let (out, v) = b.server_sends(Seg { options: &mss, window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
    assert_eq!(v, Verdict::Hold);
    out.iter().flat_map(|o| o.payload().to_vec()).collect()
}

fn hello() -> Vec<u8> {
    Hello::default().bytes()
}

/// A world with room for one, who has it, and a second one who waits.
fn one_waits(config: Config, first: &[u8]) -> (Bench, Client, Client) {
    let mut b = Bench::new(config, false);
    b.splice(&hello());
    let inside = kept(&b);
    assert!(arrives(&mut b, 1, first).is_empty(), "nothing is dialled");
    assert_eq!(b.engine.waiting(), 1);
    let waits = kept(&b);
    (b, inside, waits)
}

/// The one inside is reset by its server.
fn leaves(b: &mut Bench, inside: Client) {
    back_to(b, inside);
    let end = hello().len() as u32 + 1;
    assert!(matches!(b.server_sends(seg(RST_ACK, 1, end, &[])).1, Verdict::Forward(_)));
}

#[test]
fn a_client_waits_while_the_server_is_full_and_is_dialled_in_the_turn_in_which_a_connection_ends() {
    let (mut b, inside, waits) = one_waits(limited(1, limits(Some(1), None)), &hello());
    assert_eq!(b.engine.held_hellos(), 1);
    let at = b.now;
    b.wait(ms(500));
    leaves(&mut b, inside);
    assert!(b.engine.next_deadline().unwrap() <= b.now, "at once");
    let out = b.poll();
    assert_eq!(out.len(), 1);
    assert!(out[0].tcp().is_bare_syn() && out[0].tcp().seq == Seq(CLIENT_ISN));
    assert_eq!((b.engine.waiting(), b.now.since(at)), (0, ms(500)));
    let dialled = (b.dialled_from, b.dialled);
    back_to(&mut b, Client(waits.0, waits.1, dialled));
    assert_eq!(answers(&mut b), hello());
    let sum = b.engine.admission();
    assert_eq!((sum.asked, sum.admitted, sum.waited, sum.refused), (2, 2, 1, 0));
    let full: Vec<_> = b.engine.queues().filter(|line| line.counters.asked > 0).collect();
    assert_eq!(
        (full.len(), full[0].class.0, full[0].counters, full[0].waiting),
        (1, 2, sum, 0),
        "both are full handshakes"
    );
}

#[test]
fn what_a_waiting_client_was_acknowledged_is_ours_until_the_server_has_it() {
    let hello = Hello { at_least: 1300, ..Hello::default() }.bytes();
    let n = hello.len() as u32;
    let (mut b, inside, waits) = one_waits(limited(1, limits(Some(1), None)), &hello);
    assert!(b.wait(ms(30)).is_empty());
    let out = b.wait(ms(30));
    assert_eq!((out.len(), out[0].flags(), out[0].tcp().ack), (1, ACK, Seq(CLIENT_ISN) + 1 + n));
    let window = usize::from(out[0].tcp().window);
    assert!(window > 0 && window <= 2048 - hello.len(), "what is left of a small buffer: {window}");
    // More fills it, and what does not fit is not taken; the window stays above zero.
    let more = [7; 1400];
    let (out, _) = b.client_sends(seg(ACK, 1 + n, 1, &more));
    assert!(out.is_empty());
    let out = b.wait(ms(60));
    let taken = out[0].tcp().ack.0.wrapping_sub(CLIENT_ISN + 1);
    assert_eq!(taken, 2048);
    assert!(out[0].tcp().window > 0);
    // It is said again: our acknowledgement was lost.
    b.client_sends(seg(ACK, 1, 1, &hello));
    assert_eq!(b.wait(ms(60))[0].tcp().ack, Seq(CLIENT_ISN) + 1 + taken);
    leaves(&mut b, inside);
    b.poll();
    let dialled = (b.dialled_from, b.dialled);
    back_to(&mut b, Client(waits.0, waits.1, dialled));
    let sent = answers(&mut b);
    assert!(sent[..hello.len()] == hello && sent[hello.len()..].iter().all(|b| *b == 7) && sent.len() == 2048);
    let again = b.wait(ms(300));
    assert_eq!(again.iter().map(|o| o.payload().len()).sum::<usize>(), 2048, "nobody else has it");
    b.server_sends(Seg { window: 60000, ..seg(ACK, 1, 2049, &[]) });
    assert_eq!(b.engine.held_hellos(), 0);
}

#[test]
fn a_client_that_closes_or_resets_leaves_the_line_at_once() {
    for flags in [FIN_ACK, RST] {
        let (mut b, inside, waits) = one_waits(limited(1, limits(Some(1), None)), &hello());
        let n = hello().len() as u32;
        let (out, _) = b.client_sends(seg(flags, 1 + n, 1, &[]));
        assert_eq!(out.iter().filter(|o| o.flags() == RST_ACK).count(), usize::from(flags == FIN_ACK));
        assert_eq!((b.engine.waiting(), b.engine.held_hellos()), (0, 0));
        assert_eq!(b.ended.pop().unwrap().0, End::QueueAbandoned);
        assert_eq!(b.engine.admission().abandoned, 1);
        leaves(&mut b, inside);
        assert!(b.poll().is_empty(), "nobody is dialled for one who is gone");
        _ = waits;
    }
}

/// As [`one_class`], in which one waits for so long.
fn patient(config: Config, seconds: u64) -> Config {
    let timeout = Duration::from_secs(seconds);
    let classes = Classes::new(vec![ClassSpec { timeout, ..ClassSpec::new("all") }]).unwrap();
    config.policy(|p| p.classes = classes.clone())
}

#[test]
fn one_who_waits_for_long_is_asked_whether_it_is_there_and_stays_while_it_says_so() {
    let (mut b, inside, waits) = one_waits(patient(limited(1, limits(Some(1), None)), 120), &hello());
    let n = hello().len() as u32;
    assert_eq!(b.wait(ms(100)).len(), 1, "the hello is acknowledged");
    // A minute, in which it answers twice as late as it might, or says what is older than that.
    for _ in 0..6 {
        let out = b.wait(ms(10_100));
        assert_eq!(out.len(), 2, "it is asked twice");
        for probe in &out {
            let tcp = probe.tcp();
            assert_eq!((tcp.flags, tcp.seq, tcp.ack), (ACK, waits.1, Seq(CLIENT_ISN) + 1 + n));
            assert!(probe.payload().is_empty() && tcp.window > 0);
        }
        assert_eq!(b.client_sends(seg(ACK, 1 + n, 1, &[])).1, Verdict::Hold);
    }
    assert_eq!(b.engine.waiting(), 1);
    leaves(&mut b, inside);
    b.poll();
    let dialled = (b.dialled_from, b.dialled);
    back_to(&mut b, Client(waits.0, waits.1, dialled));
    assert_eq!(answers(&mut b), hello());
}

#[test]
fn one_who_is_gone_without_a_word_leaves_the_line_after_three_questions_and_holds_no_slot() {
    let (mut b, inside, _) = one_waits(patient(limited(1, limits(Some(1), None)), 120), &hello());
    let out = b.wait(ms(19_900));
    assert_eq!((out.len(), b.engine.waiting()), (4, 1), "an acknowledgement and three questions");
    let out = b.wait(ms(200));
    assert_eq!((out.len(), out[0].flags()), (1, RST_ACK), "should it be there after all");
    assert_eq!((b.engine.waiting(), b.engine.held_hellos()), (0, 0));
    assert_eq!(b.ended.pop().unwrap().0, End::QueueAbandoned);
    assert_eq!(b.engine.admission().abandoned, 1);
    leaves(&mut b, inside);
    assert!(b.poll().is_empty(), "nobody is dialled for one who is gone");
}

#[test]
fn who_has_waited_in_vain_is_told_by_an_alert_and_the_connection_is_closed_in_order() {
    let (mut b, _, _) = one_waits(limited(1, limits(Some(1), None)), &hello());
    let n = hello().len() as u32;
    let out = b.wait(ms(2990));
    assert!(
        out.iter().all(|o| o.flags() == ACK && o.payload().is_empty()),
        "the hello is acknowledged, and that is all"
    );
    let out = b.wait(ms(20));
    assert_eq!((out.len(), out[0].payload(), out[0].flags()), (1, ALERT, FIN_ACK));
    assert_eq!((out[0].tcp().seq, out[0].tcp().ack), (b.cookie + 1, Seq(CLIENT_ISN) + 1 + n));
    assert_eq!(b.ended.pop().unwrap().0, End::QueueTimeout);
    assert_eq!((b.engine.waiting(), b.engine.held_hellos()), (0, 0));
    // Lost: it is said again.
    let again = b.wait(ms(260));
    assert_eq!((again.len(), again[0].payload(), again[0].tcp().seq), (1, ALERT, b.cookie + 1));
    // The client acknowledges, closes, and closes once more because our acknowledgement was lost.
    b.client_sends(seg(ACK, 1 + n, 9, &[]));
    for _ in 0..2 {
        let (out, _) = b.client_sends(seg(FIN_ACK, 1 + n, 9, &[]));
        assert_eq!((out[0].flags(), out[0].tcp().seq, out[0].tcp().ack), (ACK, b.cookie + 9, Seq(CLIENT_ISN) + 2 + n));
    }
    assert!(b.wait(ms(2000)).is_empty());
    assert_eq!(b.engine.flows(), 1, "the one inside");
    let sum = b.engine.admission();
    assert_eq!((sum.timed_out, sum.asked, sum.admitted), (1, 2, 1));
}

#[test]
fn a_client_that_does_not_take_its_leave_is_reset() {
    // One that is silent, and one that acknowledges and stays.
    for acknowledges in [false, true] {
        let (mut b, _, _) = one_waits(limited(1, limits(Some(1), None)), &hello());
        let n = hello().len() as u32;
        b.wait(ms(3010));
        if acknowledges {
            b.client_sends(seg(ACK, 1 + n, 9, &[]));
            // What it says is acknowledged, and forgotten.
            let (out, _) = b.client_sends(seg(ACK, 1 + n, 9, b"more"));
            assert_eq!((out[0].flags(), out[0].tcp().ack), (ACK, Seq(CLIENT_ISN) + 5 + n));
        }
        let out = b.wait(ms(10_000));
        let alerts = out.iter().filter(|o| o.payload() == ALERT).count();
        assert_eq!(alerts, if acknowledges { 0 } else { 4 });
        assert!(out.iter().any(|o| o.flags() == RST_ACK && o.tcp().seq == b.cookie + 9));
        assert_eq!(b.engine.flows(), 1);
    }
}

#[test]
fn who_speaks_no_tls_is_told_by_a_reset() {
    let (mut b, _, _) = one_waits(limited(1, limits(Some(1), None)), HTTP);
    let out = b.wait(ms(3010));
    let last = out.last().unwrap();
    assert_eq!((last.flags(), last.tcp().seq), (RST_ACK, b.cookie + 1));
    assert_eq!((b.ended.pop().unwrap().0, b.engine.flows()), (End::QueueTimeout, 1));
}

#[test]
fn who_finds_no_place_to_wait_is_told_at_once_and_syns_are_not_answered_then() {
    let (mut b, inside, _) = one_waits(one_class(limited(1, limits(Some(1), None)), 2), &hello());
    // This one has its cookie already when the line gets full.
    b.client.set_port(50_009);
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    let early = kept(&b);
    assert!(arrives(&mut b, 2, &hello()).is_empty());
    assert_eq!(b.engine.waiting(), 2);
    b.client.set_port(50_003);
    let (out, v) = b.client_sends(seg(SYN, 0, 0, &[]));
    assert_eq!((out.len(), v), (0, Verdict::Drop(DropReason::QueueFull)));
    back_to(&mut b, early);
    b.client_sends(seg(ACK, 1, 1, &[]));
    let (out, _) = b.client_sends(seg(ACK, 1, 1, &hello()));
    assert_eq!((out.len(), out[0].payload(), out[0].flags()), (1, ALERT, FIN_ACK));
    assert_eq!(b.ended.pop().unwrap().0, End::QueueFull);
    assert_eq!(b.engine.counters().refused[DropReason::QueueFull as usize], 1);
    // As soon as one has gone, they are answered.
    leaves(&mut b, inside);
    b.poll();
    b.client.set_port(50_003);
    assert!(matches!(b.client_sends(seg(SYN, 0, 0, &[])).1, Verdict::Reply(_)));
}

#[test]
fn large_hellos_keep_their_buffers_up_to_a_quarter_and_small_ones_when_no_small_buffer_is_left() {
    let large = Hello { at_least: 2100, ..Hello::default() }.bytes();
    let config = limited(1, limits(Some(1), None));
    let config = Config { limits: Limits { hellos: 8, waiting: 1, ..config.limits }, ..config };
    let (mut b, inside, _) = one_waits(config, &hello());
    for n in 2..4 {
        b.client.set_port(50_000 + n);
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        b.client_sends(seg(ACK, 1, 1, &[]));
        b.client_sends(seg(ACK, 1, 1, &large[..1400]));
        let (out, _) = b.client_sends(seg(ACK, 1401, 1, &large[1400..]));
        assert!(out.is_empty());
    }
    assert_eq!((b.engine.waiting(), b.engine.held_hellos()), (3, 3));
    let out = arrives(&mut b, 4, &hello());
    assert_eq!((out.len(), out[0].payload()), (1, ALERT), "no small one, and a quarter of the large ones is theirs");
    assert_eq!((b.engine.waiting(), b.engine.admission().refused), (3, 1));
    // They are given back.
    leaves(&mut b, inside);
    b.wait(ms(20_000));
    assert_eq!((b.engine.waiting(), b.engine.held_hellos()), (0, 0));
}

/// A record of a type, and of a handshake message if it has one.
fn record(kind: u8, message: u8, random: &[u8]) -> Vec<u8> {
    let mut body = vec![message, 0, 0, 60, 3, 3];
    body.extend(random);
    body.resize(64, 0);
    [&[kind, 3, 3, 0, 64][..], &body].concat()
}

#[test]
fn a_handshake_counts_until_the_client_goes_on_after_the_servers_hello() {
    let server_hello = record(22, 2, &[9; 32]);
    let retry = record(22, 2, &[0xcf, 0x21, 0xad, 0x74]);
    let (second, keys) = (record(22, 1, &[]), record(22, 16, &[]));
    let ccs = [20, 3, 3, 0, 1, 1];
    // What the server says, what the client says then, and whether it is over with that.
    let cases: [(&[u8], &[u8], bool); 7] = [
        (&server_hello, &keys, true),
        (&server_hello, &ccs, true),
        (&server_hello, &[], false),
        (&retry, &second, false),
        (&retry, &[&ccs[..], &second].concat(), false),
        (&[21, 3, 3, 0, 2, 2, 40], &[], true),
        (&[], &keys, false),
    ];
    for (n, (server, client, over)) in cases.into_iter().enumerate() {
        let (mut b, inside, _) = one_waits(limited(1, limits(None, Some(12))), &hello());
        let end = hello().len() as u32 + 1;
        back_to(&mut b, inside);
        if !server.is_empty() {
            b.server_sends(Seg { window: 60000, ..seg(ACK, 1, end, server) });
        }
        if !client.is_empty() {
            b.client_sends(seg(ACK, end, 1 + server.len() as u32, client));
        }
        let dialled = b.poll().iter().any(|o| o.tcp().is_bare_syn());
        assert_eq!(dialled, over, "case {n}");
        if server == retry {
            back_to(&mut b, inside);
            let (s, c) = (1 + server.len() as u32, end + client.len() as u32);
            b.server_sends(Seg { window: 60000, ..seg(ACK, s, c, &server_hello) });
            assert!(b.poll().is_empty());
            b.client_sends(seg(ACK, c, s + server_hello.len() as u32, &[23, 3, 3, 0, 1, 7]));
            assert!(b.poll().iter().any(|o| o.tcp().is_bare_syn()), "case {n}");
        }
    }
}

#[test]
fn a_handshake_that_nobody_ends_counts_for_ten_seconds() {
    let config = limited(1, limits(None, Some(10)));
    let patient = Classes::new(vec![ClassSpec { timeout: Duration::from_secs(60), ..ClassSpec::new("all") }]).unwrap();
    let (mut b, _, _) = one_waits(config.policy(|p| p.classes = patient.clone()), &hello());
    assert!(!b.wait(ms(9900)).iter().any(|o| o.tcp().is_bare_syn()));
    assert!(b.wait(ms(200)).iter().any(|o| o.tcp().is_bare_syn()));
    assert_eq!(b.engine.directory().live().slots().used(lb::BackendId(0)).units, 10, "the second one's");
}

#[test]
fn dials_count_and_a_failed_one_asks_again_before_all_others() {
    let mut b = Bench::new(limited(2, limits(Some(1), None)), false);
    assert_eq!(arrives(&mut b, 1, &hello()).len(), 1);
    let first = kept(&b);
    assert_eq!(arrives(&mut b, 2, &hello()).len(), 1);
    let second = kept(&b);
    assert_ne!(first.2.1, second.2.1, "a dial takes a place");
    assert!(arrives(&mut b, 3, &hello()).is_empty());
    // The first one's server refuses: it is another's turn there, and the first waits, in front, for the other server.
    back_to(&mut b, first);
    b.server_sends(seg(RST_ACK, 0, 1, &[]));
    let out = b.poll();
    assert_eq!(out.len(), 1, "the third one is dialled there");
    assert_eq!((b.dialled, b.engine.waiting()), (first.2.1, 1));
    assert!(arrives(&mut b, 4, &hello()).is_empty());
    back_to(&mut b, second);
    b.server_sends(seg(RST_ACK, 0, 1, &[]));
    let out = b.poll();
    assert_eq!((out.len(), b.dialled), (1, second.2.1));
    let dialled = (b.dialled_from, b.dialled);
    back_to(&mut b, Client(first.0, first.1, dialled));
    answers(&mut b);
    let n = hello().len() as u32;
    let (out, _) = b.server_sends(Seg { window: 60000, ..seg(ACK, 1, 1 + n, b"hi") });
    assert_eq!(out[0].tcp().dst_port, first.0.port(), "the first one was first");
}

#[test]
fn limits_change_while_connections_run_and_who_waits_is_asked_anew_in_his_order() {
    let config = limited(1, limits(Some(1), None));
    let (mut b, inside, second) = one_waits(config.clone(), &hello());
    for n in 2..5 {
        assert!(arrives(&mut b, n, &hello()).is_empty());
    }
    let with = |limits: BackendLimits| {
        let mut wanted = config.wanted.clone();
        wanted.pools[0].backends[0].limits = limits;
        wanted
    };
    let syns = |out: &[Out]| out.iter().filter(|o| o.tcp().is_bare_syn()).count();
    b.wait(ms(100));
    // One more.
    b.reconfigure(&with(limits(Some(2), None))).unwrap();
    assert_eq!((syns(&b.poll()), b.engine.waiting()), (1, 3));
    let dialled = (b.dialled_from, b.dialled);
    back_to(&mut b, Client(second.0, second.1, dialled));
    answers(&mut b);
    // Fewer than there are: nobody is let in before as many have gone.
    b.reconfigure(&with(limits(Some(1), Some(100)))).unwrap();
    leaves(&mut b, inside);
    assert_eq!((syns(&b.poll()), b.engine.waiting()), (0, 3));
    // Other classes: those who wait keep their time, and time out when they would have.
    let mut other = with(limits(Some(1), None));
    other.services[0].policy.classes = Classes::new(vec![ClassSpec { queue: 2, ..ClassSpec::new("other") }]).unwrap();
    b.wait(ms(400));
    b.reconfigure(&other).unwrap();
    let out = b.poll();
    assert_eq!(out.iter().filter(|o| o.payload() == ALERT).count(), 1, "there are two places now");
    assert_eq!(b.engine.waiting(), 2);
    let out = b.wait(ms(2490));
    assert_eq!(out.iter().filter(|o| o.payload() == ALERT && o.tcp().dst_port != 50_004).count(), 0);
    let out = b.wait(ms(20));
    assert_eq!(out.iter().filter(|o| o.payload() == ALERT).count(), 2, "three seconds since they came");
    // No limit any more.
    assert!(arrives(&mut b, 6, &hello()).is_empty());
    b.reconfigure(&with(limits(None, None))).unwrap();
    assert_eq!((syns(&b.poll()), b.engine.waiting()), (1, 0));
    let sum = b.engine.admission();
    assert_eq!(sum.asked, sum.admitted + sum.abandoned + sum.timed_out + sum.refused);
    assert_eq!((sum.timed_out, sum.refused), (2, 1));
}

#[test]
fn connections_from_before_a_limit_count_and_are_given_back() {
    let config = two_armed(1, false);
    let mut b = Bench::new(config.clone(), false);
    b.splice(&hello());
    let inside = kept(&b);
    let mut wanted = config.wanted.clone();
    wanted.pools[0].backends[0].limits = limits(Some(1), None);
    b.reconfigure(&wanted).unwrap();
    assert!(arrives(&mut b, 1, &hello()).is_empty());
    assert_eq!(b.engine.waiting(), 1);
    leaves(&mut b, inside);
    assert!(b.poll()[0].tcp().is_bare_syn());
    assert_eq!(b.engine.directory().live().connections(lb::BackendId(0)), 1);
}

#[test]
fn a_pool_without_limits_asks_nobody() {
    let mut b = bench();
    b.splice(&hello());
    assert_eq!((b.engine.queues().count(), b.engine.admission()), (0, Default::default()));
}

#[test]
fn at_the_end_of_the_process_those_who_wait_are_reset() {
    let (mut b, _, waits) = one_waits(limited(1, limits(Some(1), None)), &hello());
    let out = b.shutdown();
    assert!(out.iter().any(|o| o.flags() == RST_ACK && o.tcp().dst_port == waits.0.port()));
    assert_eq!((b.engine.waiting(), b.engine.held_hellos()), (0, 0));
    b.wait(ms(2000));
    b.assert_empty();
}

/// Server 0 opens this ticket.
fn returning(config: Config) -> (Config, Vec<u8>) {
    let key = TicketKey::Name { backend: server_name(0, false), name: [9; 16] };
    let hello = Hello { ticket: Some(vec![9; 100]), ..Hello::default() };
    (Config { ticket_keys: vec![key], ..config }, hello.bytes())
}

#[test]
fn who_returns_waits_for_his_own_server_so_long_and_then_takes_another_and_his_row_stays() {
    let (config, hello) = returning(limited(2, limits(Some(1), None)));
    let n = hello.len() as u32;
    let mut b = Bench::new(config, false);
    b.splice(&hello);
    let (inside, own) = (kept(&b), b.dialled);
    assert_eq!(own, b.config.backends()[0].addr);
    assert!(arrives(&mut b, 1, &hello).is_empty(), "although the other has room");
    let waits = kept(&b);
    assert!(b.wait(ms(49)).iter().all(|out| !out.tcp().is_bare_syn()));
    let out = b.wait(ms(2));
    assert!(out.iter().any(|out| out.tcp().is_bare_syn()));
    assert_eq!((b.dialled, b.engine.waiting()), (b.config.backends()[1].addr, 0));
    let dialled = (b.dialled_from, b.dialled);
    back_to(&mut b, Client(waits.0, waits.1, dialled));
    assert_eq!(answers(&mut b), hello);
    let sum = b.engine.admission();
    assert_eq!((sum.admitted, sum.waited, sum.spilled), (2, 1, 1));
    // What he had is where it was: when there is room he meets his own server again.
    back_to(&mut b, inside);
    assert!(matches!(b.server_sends(seg(RST_ACK, 1, n + 1, &[])).1, Verdict::Forward(_)));
    let out = arrives(&mut b, 2, &hello);
    assert!(out.iter().any(|out| out.tcp().is_bare_syn()));
    assert_eq!(b.dialled, own);
}

#[test]
fn where_only_his_own_server_will_do_he_waits_for_it_until_his_time_is_over() {
    let (config, hello) = returning(limited(2, limits(Some(1), None)).policy(|p| p.spill_after = None));
    let mut b = Bench::new(config, false);
    b.splice(&hello);
    let inside = kept(&b);
    for client in [1, 2] {
        assert!(arrives(&mut b, client, &hello).is_empty());
        assert!(b.wait(ms(1000)).iter().all(|out| !out.tcp().is_bare_syn()));
        b.now += ms(1);
    }
    let end = hello.len() as u32 + 1;
    back_to(&mut b, inside);
    assert!(matches!(b.server_sends(seg(RST_ACK, 1, end, &[])).1, Verdict::Forward(_)));
    assert_eq!(b.poll().len(), 1, "the one who came first");
    assert_eq!(b.dialled, b.config.backends()[0].addr);
    let out = b.wait(ms(2100));
    assert!(out.iter().any(|out| out.payload() == ALERT), "the other has waited in vain");
    let sum = b.engine.admission();
    assert_eq!((sum.spilled, sum.timed_out, sum.waited), (0, 1, 1));
}

#[test]
fn a_proxy_header_goes_before_what_lay_in_a_small_buffer_and_both_are_ours_until_they_are_there() {
    const HEADER: usize = 28;
    let hello = Hello { at_least: 1300, ..Hello::default() }.bytes();
    let n = hello.len() as u32;
    let (mut b, inside, waits) =
        one_waits(limited(1, limits(Some(1), None)).policy(|p| p.proxy_protocol = true), &hello);
    b.wait(ms(60));
    // As much as there is room for.
    b.client_sends(seg(ACK, 1 + n, 1, &[7; 1400]));
    let out = b.wait(ms(60));
    let taken = out[0].tcp().ack.0.wrapping_sub(CLIENT_ISN + 1) as usize;
    assert!(taken > hello.len() && out[0].tcp().window > 0, "{taken}");
    leaves(&mut b, inside);
    b.poll();
    let dialled = (b.dialled_from, b.dialled);
    back_to(&mut b, Client(waits.0, waits.1, dialled));
    let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    // The header stands before what the client counts.
    let syn_ack = Seg { options: &mss, window: 60000, ..seg(SYN_ACK, 0, 1u32.wrapping_sub(HEADER as u32), &[]) };
    let sent: Vec<u8> = b.server_sends(syn_ack).0.iter().flat_map(|o| o.payload().to_vec()).collect();
    let (header, stream) = sent.split_at(HEADER);
    assert!(header.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"), "{header:?}");
    assert_eq!(&header[24..26], waits.0.port().to_be_bytes());
    assert!(stream[..hello.len()] == hello && stream[hello.len()..].iter().all(|b| *b == 7));
    assert_eq!(stream.len(), taken);
    let again = b.wait(ms(300));
    assert_eq!(again.iter().map(|o| o.payload().len()).sum::<usize>(), sent.len(), "nobody else has it");
    // The header alone has arrived: the rest is still ours.
    b.server_sends(Seg { window: 60000, ..seg(ACK, 1, 1, &[]) });
    let again: Vec<u8> = b.wait(ms(700)).iter().flat_map(|o| o.payload().to_vec()).collect();
    assert!(again.len() >= taken && again[..taken] == *stream);
    b.server_sends(Seg { window: 60000, ..seg(ACK, 1, (1 + taken) as u32, &[]) });
    assert_eq!(b.engine.held_hellos(), 0);
}
