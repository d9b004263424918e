//! PROXY headers that are accepted: what a balancer in front of us says of its clients.

use super::*;
use dispatcher::tcp::Class;
use lb::service::AcceptProxy;
use std::collections::BTreeSet;

const LINE: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.1 40123 443\r\n";
const NAMED: &str = "203.0.113.7:40123";

fn binary(client: [u8; 4], more: &[u8]) -> Vec<u8> {
    let body = [&client[..], &[198, 51, 100, 1], &40123u16.to_be_bytes(), &443u16.to_be_bytes(), more].concat();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &(body.len() as u16).to_be_bytes(), &body].concat()
}

/// From everywhere; `told`: servers are given a header, ours or the one that was accepted.
fn accepting(servers: usize, v6: bool, told: bool, pass: bool) -> Config {
    let from = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    two_armed(servers, v6).policy(|p| {
        (p.proxy_protocol, p.accept_proxy) = (told, AcceptProxy { from: from.clone(), pass });
    })
}

/// The client sends its stream cut here, and the server gets this, from the SYN on; the client is acknowledged all of it.
fn served(mut b: Bench, stream: &[u8], cuts: &[usize], expected: &[u8], what: &str) {
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    let bounds: Vec<usize> = [&[0], cuts, &[stream.len()]].concat();
    let mut out = vec![];
    for two in bounds.windows(2) {
        let (made, _) = b.client_sends(seg(ACK, 1 + two[0] as u32, 1, &stream[two[0]..two[1]]));
        out.extend(made);
    }
    let syn = out.iter().find(|o| o.tcp().is_bare_syn()).unwrap_or_else(|| panic!("{what}: no SYN: {out:?}"));
    let begin = syn.tcp().seq + 1;
    let n = stream.len() as u32;
    // The server's stream ends where the client's does, so its numbers need no change.
    assert_eq!(begin + expected.len() as u32, Seq(CLIENT_ISN) + 1 + n, "{what}");
    let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    let (out, v) = b.server_sends(Seg {
        options: &mss,
        window: 60000,
        ..seg(SYN_ACK, 0, (begin.0).wrapping_sub(CLIENT_ISN), &[])
    });
    assert_eq!(v, Verdict::Hold, "{what}");
    let mut at = begin;
    for o in &out {
        assert_eq!(o.tcp().seq, at, "{what}");
        at += o.payload().len() as u32;
    }
    assert_eq!(out.iter().flat_map(|o| o.payload().to_vec()).collect::<Vec<_>>(), expected, "{what}");
    let (out, v) = b.server_sends(Seg { window: 60000, ..seg(ACK, 1, 1 + n, b"welcome") });
    assert!(matches!(v, Verdict::Forward(_)), "{what}: {v:?}");
    assert_eq!((out[0].tcp().ack, out[0].payload()), (Seq(CLIENT_ISN) + 1 + n, &b"welcome"[..]), "{what}");
    // What follows is passed on as it is.
    let (out, _) = b.client_sends(seg(ACK, 1 + n, 8, b"more"));
    assert_eq!((out[0].tcp().seq, out[0].payload()), (Seq(CLIENT_ISN) + 1 + n, &b"more"[..]), "{what}");
    b.client_sends(seg(RST, 5 + n, 0, &[]));
    b.wait(Duration::from_secs(60));
    let told = &b.told[0];
    assert_eq!((told.client.to_string().as_str(), told.via), (NAMED, Some(b.client)), "{what}");
    assert_eq!((told.class, told.bytes_to_server), (Class::NonSecure, HTTP.len() as u64 + 4), "{what}");
    b.assert_empty();
}

#[test]
fn a_header_is_taken_out_replaced_or_passed_on_however_it_is_cut() {
    let long = binary([203, 0, 113, 7], &[&[0xe0, 1, 0x2c][..], &[9; 300]].concat());
    for header in [LINE, &binary([203, 0, 113, 7], &[]), &long] {
        let stream = [header, HTTP].concat();
        let ours = [&binary([203, 0, 113, 7], &[]), HTTP].concat();
        for v6 in [false, true] {
            for (told, pass, expected) in [(false, false, HTTP), (true, false, &ours[..]), (true, true, &stream[..])] {
                let what = format!("{} {v6} {told} {pass}", header.escape_ascii());
                let world = || Bench::new(accepting(1, v6, told, pass), v6);
                served(world(), &stream, &[], expected, &what);
                // Everywhere about what may be misread, and here and there within what is passed over.
                let end = header.len();
                for cut in (1..stream.len()).filter(|at| *at < 40 || at % 17 == 0 || at.abs_diff(end) < 3) {
                    served(world(), &stream, &[cut], expected, &format!("{what} at {cut}"));
                }
                let each: Vec<usize> = (1..stream.len()).filter(|at| *at < 60 || at % 9 == 0 || *at > end).collect();
                served(world(), &stream, &each, expected, &format!("{what} piece by piece"));
            }
        }
    }
}

#[test]
fn who_comes_from_elsewhere_is_the_client_himself_and_what_he_writes_is_no_header() {
    let from = || AcceptProxy { from: vec!["192.0.2.0/24".parse().unwrap()], pass: false };
    let mut b = Bench::new(two_armed(1, false).policy(|p| p.accept_proxy = from()), false);
    let forged = [LINE, HTTP].concat();
    b.splice(&forged);
    b.client_sends(seg(RST, 1 + forged.len() as u32, 0, &[]));
    b.wait(Duration::from_secs(60));
    assert_eq!((b.told[0].client, b.told[0].via), (b.client, None));
}

/// A balancer's own connection, to see whether we are there.
#[test]
fn a_header_that_names_nobody_leaves_the_connection_its_own_addresses() {
    let local = [&b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"[..], HTTP].concat();
    for (header, n) in [(local, 16), ([b"PROXY UNKNOWN\r\n", HTTP].concat(), 15)] {
        let mut b = Bench::new(accepting(1, false, false, false), false);
        let syn = b.dial(&header);
        assert_eq!(syn.tcp().seq, Seq(CLIENT_ISN) + n);
        b.client_sends(seg(RST, 1 + header.len() as u32, 0, &[]));
        b.wait(Duration::from_secs(60));
        assert_eq!((b.told[0].client, b.told[0].via), (b.client, None));
    }
}

#[test]
fn one_who_is_to_begin_with_a_header_and_does_not_is_refused_by_name_and_nobody_is_dialled() {
    let refused = |b: &Bench| b.engine.counters().refused[DropReason::ProxyHeader as usize];
    for wrong in [HTTP, b"\x16\x03\x01\x02", b"PROXY TCP9 1.2.3.4 1.2.3.4 1 1\r\n", &[b'\r'; 20]] {
        let mut b = Bench::new(accepting(1, false, true, false), false);
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        let (out, _) = b.client_sends(seg(ACK, 1, 1, wrong));
        assert!(out.len() == 1 && out[0].port == 0 && out[0].flags().contains(RST), "{}", wrong.escape_ascii());
        assert_eq!((b.ended[0].0, refused(&b), b.engine.counters().dials), (End::ProxyHeader, 1, 0));
        b.wait(Duration::from_secs(60));
        b.assert_empty();
    }
    // Nothing, which may have been lost more than once (storm seed 119), half of one, and one that ends too soon.
    for (first, patience) in [(&b""[..], 31), (&LINE[..20], 31)] {
        let mut b = Bench::new(accepting(1, false, true, false), false);
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        b.client_sends(seg(ACK, 1, 1, &[]));
        b.client_sends(seg(ACK, 1, 1, first));
        b.wait(Duration::from_secs(patience - 2));
        assert_eq!((refused(&b), b.engine.flows()), (0, 1), "it is waited for");
        b.wait(Duration::from_secs(2));
        assert_eq!((b.ended[0].0, refused(&b), b.engine.counters().dials), (End::ProxyHeader, 1, 0));
        b.wait(Duration::from_secs(60));
        b.assert_empty();
    }
    let mut b = Bench::new(accepting(1, false, true, false), false);
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(FIN_ACK, 1, 1, &LINE[..20]));
    assert_eq!((b.ended[0].0, refused(&b)), (End::ProxyHeader, 1));
}

/// The client has not heard that its first segment is here, and says it again while the server lacks the header in its place: its end would be taken for a part of that.
#[test]
fn a_header_that_is_said_again_never_gets_among_the_bytes_of_the_one_in_its_place() {
    let stream = [LINE, HTTP].concat();
    let mut b = Bench::new(accepting(1, false, true, false), false);
    let syn = b.dial(&stream);
    let begin = (syn.tcp().seq + 1).0.wrapping_sub(CLIENT_ISN);
    b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, begin, &[]) });
    let (out, v) = b.client_sends(seg(ACK, 1, 1, &stream));
    assert!(matches!(v, Verdict::Reply(_)), "{v:?}");
    assert_eq!((out[0].port, out[0].tcp().ack), (0, Seq(CLIENT_ISN) + 1 + LINE.len() as u32));
    // The server has the header: what it has already it passes over.
    b.server_sends(Seg { window: 60000, ..seg(ACK, 1, 1 + LINE.len() as u32, &[]) });
    let (out, v) = b.client_sends(seg(ACK, 1, 1, &stream));
    assert!(matches!(v, Verdict::Forward(_)), "{v:?}");
    assert_eq!((out[0].tcp().seq, out[0].payload()), (Seq(CLIENT_ISN) + 1, &stream[..]));
}

/// A SYN of its own that comes again, late, finds the connection that it began.
#[test]
fn a_late_copy_of_its_syn_begins_nothing() {
    let mut b = Bench::new(accepting(1, false, false, false), false);
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, LINE));
    let (out, v) = b.client_sends(Seg { flags: SYN, ..Seg::default() });
    assert!(out.is_empty() && matches!(v, Verdict::Drop(_)), "{v:?}");
    assert_eq!(b.engine.flows(), 1);
}

#[test]
fn the_client_that_is_named_is_led_and_not_the_balancer() {
    let led = |client: [u8; 4], port: u16| {
        let mut b = Bench::new(accepting(8, false, false, false), false);
        b.client.set_port(port);
        b.dial(&[&binary(client, &[]), HTTP].concat());
        b.dialled
    };
    let mut all = BTreeSet::new();
    for n in 0..32 {
        let client = [203, 0, 113, n];
        assert_eq!(led(client, 50_000), led(client, 50_001), "wherever it comes from");
        all.insert(led(client, 50_000));
    }
    assert!(all.len() > 4, "{all:?}");
}

#[test]
fn a_hello_behind_a_header_is_read_like_any_other() {
    let hello = Hello { session_id: vec![5; 32], tls13: false, ..Hello::default() }.bytes();
    for cut in [10, LINE.len(), LINE.len() + 3, LINE.len() + 60] {
        let stream = [LINE, &hello].concat();
        let mut b = Bench::new(accepting(1, false, true, false), false);
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        b.client_sends(seg(ACK, 1, 1, &stream[..cut]));
        let (out, _) = b.client_sends(seg(ACK, 1 + cut as u32, 1, &stream[cut..]));
        assert!(out[0].tcp().is_bare_syn());
        b.client_sends(seg(RST, 1 + stream.len() as u32, 0, &[]));
        b.wait(Duration::from_secs(60));
        assert_eq!((b.told[0].class, &b.told[0].offered[..]), (Class::Secure, &["session-id"][..]));
    }
}
