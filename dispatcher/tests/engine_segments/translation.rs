//! What is changed in segments on their way.

use super::*;

#[test]
fn numbers_ports_and_checksums_are_translated_both_ways() {
    for mut b in all_worlds() {
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        let (out, _) = b.server_sends(seg(ACK, 1, n, b"answer"));
        let (t, ip) = (out[0].tcp(), out[0].ip());
        assert_eq!((t.seq, t.ack, out[0].payload()), (b.cookie + 1, Seq(CLIENT_ISN) + n, &b"answer"[..]));
        assert_eq!((ip.src.socket(t.src_port), ip.dst.socket(t.dst_port)), (vip(b.v6), b.client));
        assert_eq!((out[0].port, out[0].eth.dst), (0, CLIENT_MAC));
        let (out, _) = b.client_sends(seg(ACK, n, 7, b"more"));
        let (t, ip) = (out[0].tcp(), out[0].ip());
        assert_eq!((t.seq, t.ack), (Seq(CLIENT_ISN) + n, Seq(SERVER_ISN) + 7));
        assert_eq!((ip.src.socket(t.src_port), ip.dst.socket(t.dst_port)), (b.dialled_from, b.dialled));
        assert_eq!((out[0].port, out[0].eth.dst), (b.server_port(), SERVER_MAC));
    }
}

#[test]
fn timestamps_sack_and_windows_are_translated() {
    let mut b = bench();
    b.dial_with(&linux(), HTTP);
    let options =
        written(&SynOptions { wscale: Some(3), timestamps: Some(Timestamps { val: 999, ecr: 5001 }), ..linux() });
    let (out, _) = b.server_sends(Seg { window: 60000, options: &options, ..seg(SYN_ACK, 0, 1, &[]) });
    let ts = SegmentOptions::parse(out[0].option_bytes()).timestamps.unwrap().1;
    assert_eq!(ts, Timestamps { val: 5001, ecr: 999 }, "the held bytes echo the SYN-ACK");
    // The server's clock and window, as the client must see them.
    let n = 1 + HTTP.len() as u32;
    let stamp = write_timestamps(Timestamps { val: 1009, ecr: 5001 });
    let (out, _) = b.server_sends(Seg { window: 800, options: &stamp, ..seg(ACK, 1, n, b"answer") });
    let ts = SegmentOptions::parse(out[0].option_bytes()).timestamps.unwrap().1;
    assert_eq!(ts, Timestamps { val: b.our_clock + 10, ecr: 5001 });
    assert_eq!(out[0].tcp().window, 800 >> 4, "scale 3 said as scale 7");
    // The client's echo, its SACK blocks and window, as the server must see them.
    let cookie = b.cookie;
    let mut o = write_timestamps(Timestamps { val: 5010, ecr: b.our_clock + 10 }).to_vec();
    o.extend([1, 1, 5, 10]);
    o.extend((cookie + 101).0.to_be_bytes());
    o.extend((cookie + 201).0.to_be_bytes());
    let (out, _) = b.client_sends(Seg { window: 500, options: &o, ..seg(ACK, n, 7, &[]) });
    let found = SegmentOptions::parse(out[0].option_bytes());
    assert_eq!(found.timestamps.unwrap().1, Timestamps { val: 5010, ecr: 1009 });
    let at = found.sack.unwrap().0;
    let edge = |i: usize| Seq(u32::from_be_bytes(out[0].option_bytes()[at + i..at + i + 4].try_into().unwrap()));
    assert_eq!((edge(0), edge(4)), (Seq(SERVER_ISN) + 101, Seq(SERVER_ISN) + 201));
    assert_eq!(out[0].tcp().window, 500, "the server reads it with the client's own scale");
}

#[test]
fn a_server_that_lacks_an_option_is_served_and_clients_to_come_are_not_offered_it() {
    let without: [(&str, SynOptions); 4] = [
        ("timestamps", SynOptions { timestamps: None, ..linux() }),
        ("sack", SynOptions { sack_permitted: false, ..linux() }),
        ("wscale", SynOptions { wscale: None, ..linux() }),
        ("mss", SynOptions { mss: Some(1000), ..linux() }),
    ];
    for (what, has) in without {
        let mut b = bench();
        let offered = b.client_syn(&linux());
        assert!(offered.timestamps.is_some() && offered.sack_permitted && offered.wscale.is_some());
        b.dial_with(&linux(), &[b'x'; 1400]);
        let has = SynOptions { timestamps: has.timestamps.map(|_| Timestamps { val: 9, ecr: 5001 }), ..has };
        let options = written(&has);
        let (out, _) = b.server_sends(Seg { window: 60000, options: &options, ..seg(SYN_ACK, 0, 1, &[]) });
        assert_eq!(out.len(), if what == "mss" { 2 } else { 1 }, "{what}: cut to what the server takes");
        for o in &out {
            let carried = SegmentOptions::parse(o.option_bytes()).timestamps.is_some();
            assert_eq!(carried, what != "timestamps");
            let window = o.tcp().window;
            assert_eq!(window, if what == "wscale" { 65535 } else { 1000 }, "{what}");
        }
        // The client's timestamps are taken out for a server that does not know them.
        let stamp = b.stamp(5002);
        let (out, _) = b.client_sends(Seg { options: &stamp, ..seg(ACK, 1401, 1, b"more") });
        assert_eq!(SegmentOptions::parse(out[0].option_bytes()).timestamps.is_some(), what != "timestamps");
        assert_eq!(out[0].payload(), b"more");
        // A window of 65535 unscaled bytes is said in our scale.
        let (out, _) = b.server_sends(Seg { window: 6400, ..seg(ACK, 1, 1405, &[]) });
        assert_eq!(out[0].tcp().window, if what == "wscale" { 6400 >> 7 } else { 6400 });
        b.client.set_port(50_001);
        let offered = b.client_syn(&linux());
        assert_eq!(offered.timestamps.is_some(), what != "timestamps");
        assert_eq!(offered.sack_permitted, what != "sack");
        assert_eq!(offered.wscale.is_some(), what != "wscale");
        assert_eq!(offered.mss, Some(if what == "mss" { 1000 } else { 1460 }));
    }
}

#[test]
fn congestion_notification_is_agreed_end_to_end_once_the_servers_are_known_to_do_it() {
    let mut b = bench();
    let syn = Flags(SYN.0 | Flags::ECE.0 | Flags::CWR.0);
    let options = written(&linux());
    let asks = |b: &mut Bench| {
        let (out, _) = b.client_sends(Seg { options: &options, ..seg(syn, 0, 0, &[]) });
        out[0].tcp().flags.contains(Flags::ECE)
    };
    assert!(!asks(&mut b), "not promised while unknown");
    // A probe learns it.
    let mut b = Bench::new(Config { probe: true, ..two_armed(1, false) }, false);
    let out = b.wait(ms(100));
    let probe = out.iter().rfind(|o| o.tcp().is_bare_syn()).expect("a probe");
    assert!(probe.tcp().flags.contains(Flags::ECE) && probe.tcp().flags.contains(Flags::CWR));
    let mut answer = Seg { options: &options, window: 60000, ..seg(Flags(SYN_ACK.0 | Flags::ECE.0), 0, 0, &[]) };
    answer.ack = (probe.tcp().seq + 1).0.wrapping_sub(CLIENT_ISN);
    let (out, _) = b.server_sends(answer);
    assert_eq!((out.len(), out[0].flags()), (1, RST), "the probe ends without a connection");
    assert!(asks(&mut b));
    b.client_sends(seg(ACK, 1, 1, &[]));
    let (out, _) = b.client_sends(seg(ACK, 1, 1, HTTP));
    assert!(
        out[0].tcp().flags.contains(Flags::ECE) && out[0].tcp().flags.contains(Flags::CWR),
        "and asked of the server"
    );
}

#[test]
fn tags_and_padding_go_no_further_than_their_link() {
    let mut config = two_armed(1, false);
    config.ports[1].vlans = vec![30];
    let mut b = Bench::new(config, false);
    b.client_vlans = vec![100, 200];
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    let mut padded = b.client_frame(&seg(ACK, n, 1, b"x"));
    padded.extend([0xaa; 7]);
    let (out, _) = b.hand_in(0, &padded);
    assert!(out[0].eth.vlans.ids().eq([30]));
    assert_eq!(out[0].payload(), b"x");
    assert_eq!(out[0].bytes.len(), out[0].ip().end, "no padding of another link");
    let (out, _) = b.server_sends(seg(ACK, 1, n + 1, b"y"));
    assert!(out[0].eth.vlans.ids().eq([100, 200]));
}

#[test]
fn a_client_whose_frames_come_from_another_router_is_answered_there() {
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    let mut frame = b.client_frame(&seg(ACK, n, 1, b"x"));
    frame[6..12].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    b.hand_in(0, &frame);
    let (out, _) = b.server_sends(seg(ACK, 1, n + 1, b"y"));
    assert_eq!(out[0].eth.dst.0, [2, 9, 9, 9, 9, 9]);
}
