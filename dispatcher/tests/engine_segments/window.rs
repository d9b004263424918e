//! Windows and segment sizes that are zero, and probes.

use super::*;

#[test]
fn a_server_that_opens_its_window_later_stalls_no_other_client() {
    let mut b = bench();
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, HTTP));
    let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    // As netfilter's SYNPROXY in front of a server does.
    b.server_sends(Seg { options: &mss, window: 0, ..seg(SYN_ACK, 0, 1, &[]) });
    b.client.set_port(50_001);
    let bytes = written(&linux());
    let (out, _) = b.client_sends(Seg { options: &bytes, flags: SYN, ..Seg::default() });
    assert!(out[0].tcp().window >= 1460, "{}", out[0].tcp().window);
}

#[test]
fn a_client_is_promised_no_bytes_that_a_proxy_header_takes() {
    for v6 in [false, true] {
        let mut b = Bench::new(two_armed(1, v6).policy(|p| p.proxy_protocol = true), v6);
        let header = if v6 { 52 } else { 28u32 };
        b.client_syn(&SynOptions { mss: Some(1400), ..SynOptions::default() });
        b.client_sends(seg(ACK, 1, 1, HTTP));
        let mss = written(&SynOptions { mss: Some(1400), ..SynOptions::default() });
        b.server_sends(Seg { options: &mss, window: 5840, ..seg(SYN_ACK, 0, 1u32.wrapping_sub(header), &[]) });
        b.client.set_port(50_001);
        let (out, _) = b.client_sends(Seg { options: &mss, flags: SYN, ..Seg::default() });
        assert_eq!(u32::from(out[0].tcp().window), 5840 - header);
    }
}

#[test]
fn a_probe_before_the_hello_and_while_the_backend_is_dialled_is_answered() {
    let mut b = bench();
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    b.client_sends(seg(ACK, 1, 1, &[]));
    let told_where_we_are = |b: &mut Bench| {
        let (out, v) = b.client_sends(seg(ACK, 0, 1, &[]));
        assert!(matches!(v, Verdict::Reply(_)), "{v:?}");
        let t = out[0].tcp();
        assert_eq!((t.flags, t.seq, t.ack), (ACK, b.cookie + 1, Seq(CLIENT_ISN) + 1));
        assert!(t.window > 0);
    };
    told_where_we_are(&mut b);
    // Somebody who does not know the cookie is told nothing.
    assert_eq!(b.client_sends(seg(ACK, 0, 2, &[])).1, Verdict::Drop(DropReason::OutOfWindow));
    let (out, _) = b.client_sends(seg(ACK, 1, 1, HTTP));
    assert!(out[0].tcp().is_bare_syn());
    told_where_we_are(&mut b);
}

#[test]
fn a_syn_ack_with_an_mss_of_zero_is_one_without_the_option() {
    let mut b = bench();
    let request = [b'G'; 1200];
    b.dial(&request);
    let mss = written(&SynOptions { mss: Some(0), ..SynOptions::default() });
    let (out, _) = b.server_sends(Seg { options: &mss, window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
    assert_eq!(out.iter().map(|o| o.payload().len()).collect::<Vec<_>>(), [536, 536, 128]);
    b.client.set_port(50_001);
    let bytes = written(&SynOptions { mss: Some(0), ..SynOptions::default() });
    let (out, v) = b.client_sends(Seg { options: &bytes, flags: SYN, ..Seg::default() });
    assert!(matches!(v, Verdict::Reply(_)), "nor is a client's refused: {v:?}");
    assert_eq!(out[0].options().mss, Some(536));
}

/// A cookie leaves nothing behind, so nobody here can know that the last acknowledgement of a handshake was lost, and nothing is said. The
/// client's first bytes carry the cookie back; a keepalive of its is answered by a reset, so that it hears that there is no connection.
#[test]
fn a_client_whose_last_acknowledgement_was_lost_is_taken_up_by_its_first_bytes_and_told_by_its_keepalive() {
    let mut b = bench();
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    assert!(b.wait(Duration::from_secs(60)).is_empty());
    b.assert_empty();
    let (out, _) = b.client_sends(seg(ACK, 1, 1, HTTP));
    assert!(out[0].tcp().is_bare_syn());
    let mut b = bench();
    b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
    let (out, _) = b.client_sends(seg(ACK, 0, 1, &[]));
    assert_eq!((out[0].flags(), out[0].tcp().seq), (RST, b.cookie + 1));
}

#[test]
fn urgent_data_in_the_first_segments_stay_urgent() {
    for (proxy, header) in [(false, 0), (true, 28u32)] {
        let mut b = Bench::new(two_armed(1, false).policy(|p| p.proxy_protocol = proxy), false);
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        let mut frame = b.client_frame(&seg(ACK, 1, 1, b"ABOR!rest"));
        let tcp = frame.len() - 9 - 20;
        dispatcher::wire::packet::set_urgent_pointer(&mut frame, tcp, 5);
        let (out, v) = b.hand_in(0, &frame);
        assert!(v == Verdict::Hold && out[0].tcp().is_bare_syn(), "{v:?}");
        let (out, _) = b.server_sends(Seg { window: 60000, ..seg(SYN_ACK, 0, 1u32.wrapping_sub(header), &[]) });
        // The checksum is looked at by `tcp`.
        let t = out[0].tcp();
        assert!(t.flags.contains(Flags::URG) && out[0].payload().ends_with(b"ABOR!rest"));
        let pointer = dispatcher::wire::packet::urgent_pointer(&out[0].bytes, &t);
        assert_eq!(t.seq + u32::from(pointer), Seq(CLIENT_ISN) + 6, "the same byte");
    }
}
