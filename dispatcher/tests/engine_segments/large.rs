//! Frames of which part is left to cards: large units, and checksums that are open.

use super::*;
use dispatcher::wire::Offload;

/// What stands where the checksum of an open one does is of no meaning.
fn without_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    let ip = dispatcher::wire::packet::Packet::parse(&frame).unwrap().ip;
    frame[ip.payload + 16..ip.payload + 18].copy_from_slice(&[0xbe, 0xef]);
    frame
}

#[test]
fn a_frame_whose_checksum_is_open_is_as_good_as_one_whose_checksum_fits_and_no_other_is() {
    for v6 in [false, true] {
        let mut b = Bench::new(two_armed(1, v6), v6);
        b.client_syn(&linux());
        let hello = Seg { flags: Flags(0x18), ..seg(ACK, 1, 1, HTTP) };
        let frame = without_checksum(b.client_frame(&hello));
        assert_eq!(b.hand_in(0, &frame).1, Verdict::Drop(DropReason::BadChecksum));
        b.offload = Offload::OPEN;
        let (dial, verdict) = b.hand_in(0, &frame);
        assert_eq!((verdict, dial[0].tcp().flags), (Verdict::Hold, SYN));
    }
}

#[test]
fn an_answer_in_the_place_of_an_open_frame_is_whole() {
    let mut b = bench();
    b.offload = Offload::OPEN;
    let syn = without_checksum(b.client_frame(&Seg { options: &written(&linux()), ..seg(SYN, 0, 0, b"") }));
    let (out, verdict) = b.hand_in(0, &syn);
    assert_eq!((verdict, out[0].offload), (Verdict::Reply(dispatcher::engine::PortId(0)), Offload::NONE));
    assert_eq!(out[0].tcp().flags, SYN_ACK);
}

#[test]
fn a_hello_in_one_large_unit_is_read_and_delivered_whole() {
    for v6 in [false, true] {
        let mut b = Bench::new(two_armed(1, v6), v6);
        b.client_syn(&linux());
        let hello = Hello { at_least: 9_000, ..Hello::default() }.in_records(16_384);
        b.offload = Offload::large(1400);
        let frame = without_checksum(b.client_frame(&Seg { flags: Flags(0x18), ..seg(ACK, 1, 1, &hello) }));
        let (dial, verdict) = b.hand_in(0, &frame);
        b.offload = Offload::NONE;
        // It is complete.
        assert_eq!((verdict, dial[0].tcp().flags), (Verdict::Hold, SYN));
        let options = written(&linux());
        let (out, _) = b.server_sends(Seg { options: &options, window: 60_000, ..seg(SYN_ACK, 0, 1, b"") });
        let got: Vec<u8> = out.iter().flat_map(|o| o.payload().to_vec()).collect();
        assert!(got == hello, "{} bytes of {}", got.len(), hello.len());
    }
}

#[test]
fn a_large_unit_that_fills_the_first_window_is_acknowledged_at_once() {
    // Ten segments, and the hello goes on: the client waits for nothing but an acknowledgement.
    let hello = Hello { at_least: 15_000, ..Hello::default() }.in_records(16_384);
    for (offload, acks) in [(Offload::large(1400), 1), (Offload::NONE, 0)] {
        let mut b = bench();
        b.client_syn(&linux());
        let frame = b.client_frame(&seg(ACK, 1, 1, &hello[..12_000]));
        b.offload = offload;
        let (out, verdict) = b.hand_in(0, &frame);
        assert_eq!((verdict, out.len()), (Verdict::Hold, acks));
        if acks > 0 {
            assert_eq!(out[0].tcp().ack, Seq(CLIENT_ISN) + 12_001);
        }
    }
}

#[test]
fn of_a_first_unit_that_does_not_fit_what_fits_is_taken() {
    let mut b = bench();
    b.client_syn(&linux());
    // More than was offered, as of a client that does not care; the hello is complete in the part that fits.
    let mut stream = Hello::default().in_records(16_384);
    let hello = stream.len();
    stream.resize(60_000, 7);
    b.offload = Offload::large(1400);
    let frame = without_checksum(b.client_frame(&seg(ACK, 1, 1, &stream)));
    let (dial, verdict) = b.hand_in(0, &frame);
    assert!(hello < 20_000 && verdict == Verdict::Hold && dial[0].tcp().flags == SYN);
}

#[test]
fn a_large_unit_is_translated_as_one_and_stays_what_it_was() {
    for v6 in [false, true] {
        let mut b = Bench::new(two_armed(1, v6), v6);
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        let body: Vec<u8> = (0..60_000u32).map(|i| (i * 7 % 251) as u8).collect();
        b.offload = Offload::large(1448);
        let frame = without_checksum(b.server_frame(&seg(ACK, 1, n, &body)));
        let port = b.server_port();
        let (out, verdict) = b.hand_in(port, &frame);
        assert_eq!((out.len(), verdict), (1, Verdict::Forward(dispatcher::engine::PortId(0))));
        assert!(out[0].offload == Offload::large(1448) && out[0].payload() == body);
        assert_eq!(out[0].tcp().seq, b.cookie + 1);
        // All of it counts as sent: its acknowledgement is that of a known flow.
        b.offload = Offload::NONE;
        let (out, _) = b.client_sends(seg(ACK, n, 60_001, b""));
        assert_eq!((out.len(), out[0].tcp().ack), (1, Seq(SERVER_ISN) + 60_001));
    }
}

#[test]
fn for_a_narrow_path_a_large_unit_is_cut_smaller_by_its_sender() {
    for v6 in [false, true] {
        let mut b = Bench::new(two_armed(1, v6), v6);
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        let (port, body) = (b.server_port(), vec![b'x'; 30_000]);
        b.offload = Offload::large(1400);
        let frame = b.server_frame(&seg(ACK, 1, n, &body));
        let (lost, _) = b.hand_in(port, &frame);
        b.offload = Offload::NONE;
        let mtu = if v6 { 1280 } else { 600 };
        // A router quotes the whole unit's header.
        let error = icmp_error(&b, 0, if v6 { (2, 0, mtu) } else { (3, 4, mtu) }, &lost[0].bytes);
        assert_eq!(b.hand_in(0, &error).1, Verdict::Hold);
        let headers = if v6 { 60 } else { 40 };
        for (payload, before, after) in [
            (30_000, Offload::large(1400), Offload::large(mtu as u16 - headers)),
            // One that is a single segment becomes several.
            (1400, Offload::OPEN, Offload::large(mtu as u16 - headers)),
            (500, Offload::OPEN, Offload::OPEN),
        ] {
            b.offload = before;
            let frame = b.server_frame(&seg(ACK, 1, n, &body[..payload]));
            let (out, _) = b.hand_in(port, &frame);
            assert_eq!((out.len(), out[0].offload, out[0].payload().len()), (1, after, payload));
        }
    }
}
