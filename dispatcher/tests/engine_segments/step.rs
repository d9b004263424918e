//! Flows that have lost step, and how they regain it.

use super::*;

/// What the server has taken is in step again: a FIN and a reset of the client's count.
fn is_in_step(mut b: Bench, mut at: u32) {
    // An upload for longer than the idle timeout.
    for _ in 0..320 {
        let (_, v) = b.client_sends(seg(ACK, at, 1, &[b'z'; 1000]));
        assert!(matches!(v, Verdict::Forward(_)), "{v:?}");
        at += 1000;
        let (_, v) = b.server_sends(Seg { window: 60000, ..seg(ACK, 1, at, &[]) });
        assert!(matches!(v, Verdict::Forward(_)), "{v:?}");
        b.wait(Duration::from_secs(1));
        assert!(b.ended.is_empty(), "{:?} at {at}", b.ended);
    }
    let (_, v) = b.client_sends(seg(RST, at, 0, &[]));
    assert!(matches!(v, Verdict::Forward(_)), "the client's reset: {v:?}");
    assert_eq!(b.ended[0].0, End::ClientReset);
}

/// A server takes a segment that begins within its window whole, as Linux does; with a PROXY header and without.
#[test]
fn a_segment_across_the_first_windows_edge_does_not_put_a_flow_out_of_step() {
    for (proxy, header) in [(false, 0), (true, 28u32)] {
        let mut b = Bench::new(two_armed(1, false).policy(|p| p.proxy_protocol = proxy), false);
        let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        let body = [&b"POST / HTTP/1.0\r\n\r\n"[..], &[b'x'; 20_000]].concat();
        b.client_sends(seg(ACK, 1, 1, &body[..1460]));
        b.server_sends(Seg { options: &mss, window: 6000, ..seg(SYN_ACK, 0, 1u32.wrapping_sub(header), &[]) });
        for at in (1460..8760).step_by(1460) {
            b.client_sends(seg(ACK, 1 + at as u32, 1, &body[at..at + 1460]));
        }
        // 6000 bytes less the header end in the fifth.
        b.server_sends(Seg { window: 60000, ..seg(ACK, 1, 7301, &[]) });
        is_in_step(b, 7301);
    }
}

/// More was taken than any window that was seen allowed: another window was, and was lost on its way to us alone.
#[test]
fn a_flow_regains_step_when_both_ends_say_the_same() {
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    // 60000 bytes are allowed; from 80000 on nobody saw anything.
    let (_, v) = b.client_sends(seg(ACK, n + 80_000, 1, &[b'y'; 1000]));
    assert!(matches!(v, Verdict::Forward(_)), "it is passed on at least");
    b.server_sends(Seg { window: 60000, ..seg(ACK, 1, n + 81_000, &[]) });
    b.client_sends(seg(ACK, n + 81_000, 1, &[b'y'; 1000]));
    b.server_sends(Seg { window: 60000, ..seg(ACK, 1, n + 82_000, &[]) });
    is_in_step(b, n + 82_000);
}

/// A forger who has hit the window of one direction, by luck, claims that more was received than was sent. Without the other end's word nothing
/// moves; with the other end's true word the claim ends.
#[test]
fn neither_end_alone_moves_a_flow() {
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    for ahead in (0..100_000).step_by(1000) {
        b.server_sends(Seg { window: 65535, ..seg(ACK, 1, n + 61_000 + ahead, &[]) });
        // What is sent beyond the window by one who does not know where the server is.
        b.client_sends(seg(ACK, n + 61_000 + ahead, 1 << 30, b"forged"));
    }
    b.server_sends(Seg { window: 60000, ..seg(ACK, 1, n, b"true") });
    b.client_sends(seg(ACK, n + 61_000, 1, b"forged"));
    // The true client's reset is at its true number, and one elsewhere is not passed on.
    assert_eq!(b.client_sends(seg(RST, n + 61_000, 0, &[])).1, Verdict::Drop(DropReason::OutOfWindow));
    b.client_sends(seg(ACK, n, 5, b"I am here"));
    let (_, v) = b.client_sends(seg(RST, n + 9, 0, &[]));
    assert!(matches!(v, Verdict::Forward(_)), "{v:?}");
}

/// Found by a storm: the client's acknowledgement was lost behind us and its path has become narrow, so the server repeats, in vain, what is
/// acknowledged here. The router's error about that counts, and about no other byte that was acknowledged.
#[test]
fn an_error_about_a_repetition_of_what_was_acknowledged_is_heeded() {
    for mode in [AddressMode::Snat, AddressMode::Dnat] {
        let mut b = Bench::new(Config { address_mode: mode, ..two_armed(1, false) }, false);
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        b.client_sends(Seg { window: 60_000, ..seg(ACK, n, 1, &[]) });
        b.server_sends(seg(ACK, 1, n, &[b'y'; 1000]));
        let (last, _) = b.server_sends(seg(ACK, 1001, n, &[b'y'; 1000]));
        b.client_sends(Seg { window: 60_000, ..seg(ACK, n, 2001, &[]) });
        let error = icmp_error(&b, 0, (3, 4, 800), &last[0].bytes);
        assert_eq!(b.hand_in(0, &error).1, Verdict::Drop(DropReason::OutOfWindow), "nothing is under way");
        let (again, _) = b.server_sends(seg(ACK, 1001, n, &[b'y'; 1000]));
        let error = icmp_error(&b, 0, (3, 4, 800), &again[0].bytes);
        let (out, v) = b.hand_in(0, &error);
        match mode {
            AddressMode::Snat => {
                assert_eq!(v, Verdict::Hold);
                let (out, _) = b.server_sends(seg(ACK, 1001, n, &[b'y'; 1000]));
                assert!(out.len() == 2 && out.iter().all(|o| o.payload().len() <= 760), "cut to fit");
            }
            AddressMode::Dnat => {
                // The server's own number stands in what it is told.
                let quoted = &out[0].bytes[14 + 20 + 8 + 20..];
                assert_eq!(quoted[4..8], (SERVER_ISN.wrapping_add(1001)).to_be_bytes());
            }
        }
        // Something new: what is older is over.
        b.server_sends(seg(ACK, 2001, n, b"new"));
        assert_eq!(b.hand_in(0, &error).1, Verdict::Drop(DropReason::OutOfWindow));
    }
}

/// Under a flood another worker may have answered the SYN, and this one has not seen it.
#[test]
fn a_client_that_begins_anew_while_its_old_connection_says_nothing_is_served_although_its_syn_went_elsewhere() {
    let mut b = bench();
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &[]));
    assert_eq!(b.engine.flows(), 1);
    // The same secret in another worker.
    let mut other = bench();
    let later = 0x10_0000;
    let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    other.client_sends(Seg { options: &mss, ..seg(SYN, later, 0, &[]) });
    let old = core::mem::replace(&mut b.cookie, other.cookie);
    assert_ne!(old, other.cookie);
    assert_eq!(b.client_sends(seg(ACK, later + 1, 1, &[])).1, Verdict::Hold);
    let (out, _) = b.client_sends(seg(ACK, later + 1, 1, HTTP));
    assert!(out[0].tcp().is_bare_syn(), "the new connection");
    assert_eq!(b.ended.iter().map(|e| e.0).collect::<Vec<_>>(), [End::Replaced]);
    // The old handshake, come again, does not take its place.
    b.cookie = old;
    b.client_sends(seg(ACK, 1, 1, &[]));
    assert_eq!((b.engine.flows(), b.ended.len()), (1, 1));
}
