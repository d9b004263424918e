//! A client whose uplink fails over: its frames come in by another port, and so it is answered, in every state.

use super::*;
use dispatcher::wire::Mac;
use sim::config::port;

const GATEWAY2: Mac = Mac([2, 0, 0, 0, 9, 9]);

fn three_ports() -> Bench {
    let mut config = two_armed(1, false);
    let mut second = port(1, &["10.3.0.1/16"]);
    second.mac = Mac([2, 0, 0, 0, 3, 0]);
    second.name = "port0b".into();
    config.ports.insert(1, second);
    Bench::new(config, false)
}

/// The same client's segment, by the second uplink's router.
fn by_the_other(b: &mut Bench, s: Seg<'_>) -> (Vec<Out>, Verdict) {
    let mut f = b.client_frame(&s);
    f[..6].copy_from_slice(&b.config.ports[1].mac.0);
    f[6..12].copy_from_slice(&GATEWAY2.0);
    b.hand_in(1, &f)
}

fn leaves_by_the_other(b: &Bench, out: &Out) {
    assert_eq!((out.port, out.eth.dst, out.eth.src), (1, GATEWAY2, b.config.ports[1].mac));
}

#[test]
fn a_client_that_comes_by_another_port_is_answered_by_that_port() {
    let mut b = three_ports();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    let (out, _) = by_the_other(&mut b, seg(ACK, n, 1, b"more"));
    assert_eq!(out[0].port, 2);
    let (out, _) = b.server_sends(Seg { window: 60000, ..seg(ACK, 1, n + 4, b"answer") });
    leaves_by_the_other(&b, &out[0]);
    // Both close, and it goes on by the first port again: a FIN of the server's that comes again follows.
    by_the_other(&mut b, seg(FIN_ACK, n + 4, 7, &[]));
    b.server_sends(seg(FIN_ACK, 7, n + 5, &[]));
    by_the_other(&mut b, seg(ACK, n + 5, 8, &[]));
    assert_eq!(b.ended.len(), 1);
    b.client_sends(seg(ACK, n + 5, 8, &[]));
    let (out, _) = b.server_sends(seg(FIN_ACK, 7, n + 5, &[]));
    assert_eq!((out[0].port, out[0].eth.dst), (0, CLIENT_MAC));
}

#[test]
fn a_client_that_comes_by_another_port_before_the_splice_is_answered_by_that_port() {
    let mut b = three_ports();
    let hello = Hello::default().bytes();
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &[]));
    by_the_other(&mut b, seg(ACK, 1, 1, &hello[..50]));
    let out = b.wait(ms(60));
    leaves_by_the_other(&b, out.iter().find(|o| o.flags() == ACK).expect("an acknowledgement"));
    let (out, _) = by_the_other(&mut b, seg(ACK, 51, 1, &hello[50..]));
    assert!(out[0].tcp().is_bare_syn());
    // While the backend is dialled it comes back to the first.
    b.client_sends(seg(ACK, 1, 1, &hello[..50]));
    b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
    let (out, _) = b.server_sends(Seg { window: 60000, ..seg(ACK, 1, 1 + hello.len() as u32, b"answer") });
    assert_eq!((out[0].port, out[0].eth.dst), (0, CLIENT_MAC));
}

#[test]
fn a_guess_by_another_port_leads_no_flow_there() {
    let mut b = three_ports();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    // Within the window, but no acknowledgement of where the server is.
    by_the_other(&mut b, seg(ACK, n + 10, 5000, b"guess"));
    let (out, _) = b.server_sends(Seg { window: 60000, ..seg(ACK, 1, n, b"answer") });
    assert_eq!((out[0].port, out[0].eth.dst), (0, CLIENT_MAC));
}
