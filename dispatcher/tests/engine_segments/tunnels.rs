//! Servers behind tunnels. All that is tested in `all_worlds` is tested over each kind of them, too, with far ends that share no code with what is
//! tested (`sim::tunnels`).

use super::*;
use dispatcher::wire::Offload;
use sim::tunnels::{KINDS, behind};

fn worlds() -> impl Iterator<Item = (usize, Bench)> {
    [false, true].into_iter().flat_map(|v6| {
        KINDS.into_iter().map(move |kind| {
            let shim = match kind {
                lb::TunnelKind::Ipip => 0,
                lb::TunnelKind::Gue => 12,
                lb::TunnelKind::Vxlan { .. } => 30,
                // What is left is a multiple of sixteen.
                lb::TunnelKind::Wireguard { .. } if v6 => 52,
                lb::TunnelKind::Wireguard { .. } => 40,
            };
            let overhead = if v6 { 40 } else { 20 } + shim;
            (overhead, Bench::new(behind(two_armed(1, v6), kind), v6))
        })
    })
}

#[test]
fn both_ends_are_told_of_segments_that_fit_within_the_tunnel() {
    for (overhead, mut b) in worlds() {
        let headers = if b.v6 { 60 } else { 40 };
        let fits = (1500 - headers - overhead) as u16;
        assert_eq!(b.client_syn(&linux()).mss, Some(fits));
        let out = b.dial_with(&linux(), HTTP);
        assert_eq!(out.options().mss, Some(fits));
    }
}

/// In order of their numbers.
fn payloads(mut out: Vec<Out>) -> Vec<u8> {
    let first = out.iter().map(|o| o.tcp().seq).reduce(|a, b| if b.is_before(a) { b } else { a }).unwrap();
    out.sort_by_key(|o| o.tcp().seq.0.wrapping_sub(first.0));
    out.iter().flat_map(|o| o.payload().to_vec()).collect()
}

#[test]
fn what_is_longer_than_fits_is_cut_and_arrives_whole() {
    for (overhead, mut b) in worlds() {
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        // Larger than the client was told; the far end counts what each packet takes.
        let payload: Vec<u8> = (0..1400).map(|i| i as u8).collect();
        let (out, _) = b.client_sends(seg(ACK, n, 1, &payload));
        let got = payloads(out);
        assert_eq!(got, payload, "{overhead}");
    }
}

#[test]
fn large_units_and_open_checksums_are_finished_before_they_are_wrapped() {
    for (overhead, mut b) in worlds() {
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        let payload: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8).collect();
        for (offload, payload) in [(Offload::large(1300), &payload[..900]), (Offload::OPEN, &payload[900..1000])] {
            b.offload = offload;
            let at = if payload.len() == 900 { n } else { n + 900 };
            let (out, _) = b.client_sends(Seg { window: 60_000, ..seg(ACK, at, 1, payload) });
            // `Out::tcp` looks at the checksum of what is finished.
            assert!(out.iter().all(|o| o.offload.is_finished()), "{overhead}");
            assert_eq!(payloads(out), payload);
        }
        b.offload = Offload::large(1000);
        let (out, _) = b.client_sends(Seg { window: 60_000, ..seg(ACK, n + 1000, 1, &payload[..8000]) });
        assert_eq!(out.len(), 8);
        assert_eq!(payloads(out), payload[..8000]);
    }
}

#[test]
fn what_came_through_a_tunnel_may_be_merged_by_who_sends_it_and_what_came_plainly_may_not() {
    for (overhead, mut b) in worlds() {
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        let (down, _) = b.server_sends(seg(ACK, 1, n, &[7; 500]));
        assert!(down.len() == 1 && down[0].offload == Offload::ALONE, "{overhead}: {:?}", down);
        let (up, _) = b.client_sends(seg(ACK, n, 501, &[7; 500]));
        assert!(up.len() == 1 && up[0].offload == Offload::NONE, "{overhead}: {:?}", up);
    }
}

/// As a frame arrives: to the dispatcher's servers' side, from this outer address, with this protocol and payload.
fn outer(b: &Bench, src: Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let ours = Addr::from(sim::config::ip("10.2.0.1"));
    let mut frame = [&b.config.ports[1].mac.0[..], &SERVER_MAC.0, &[8, 0, 0x45, 0]].concat();
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 60, protocol, 0, 0]);
    frame.extend(&src.0[12..]);
    frame.extend(&ours.0[12..]);
    let sum = checksum::Sum::default().add_bytes(&frame[14..34]).checksum();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(payload);
    frame
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len() as u16;
    [&[0xc0, 1][..], &port.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload].concat()
}

#[test]
fn who_claims_to_come_through_a_tunnel_and_does_not_is_dropped_by_name() {
    let inner = |src: &str| {
        let ends = (Addr::from(sim::config::ip(src)), 8443);
        let ours = (Addr::from(sim::config::ip("10.2.0.1")), 40_000);
        let segment = Segment {
            link: Link::default(),
            src: ends,
            dst: ours,
            seq: Seq(1),
            ack: Seq(1),
            flags: ACK,
            window: 1,
            options: &[],
            payload: b"",
        };
        let mut bytes = vec![0; segment.frame_len()];
        segment.write(&mut bytes);
        bytes[14..].to_vec()
    };
    let vni = |n: u32| [&[8, 0, 0, 0][..], &(n << 8).to_be_bytes(), &[2; 12], &[8, 0]].concat();
    let server = Addr::from(sim::config::server_ip(0, false));
    let stranger = Addr::from(sim::config::ip("10.2.0.77"));
    let [ipip, gue, vxlan, _] = KINDS;
    let drop = |kind, src, protocol, payload: &[u8]| {
        let mut b = Bench::new(behind(two_armed(1, false), kind), false);
        let frame = outer(&b, src, protocol, payload);
        match b.hand_in(1, &frame).1 {
            Verdict::Drop(why) => Some(why.as_str()),
            // The reset of a connection that nobody knows: it was opened.
            Verdict::Hold => None,
            other => panic!("{other:?}"),
        }
    };
    let good = inner("10.2.0.10");
    let foreign = inner("10.2.0.78");
    let of_vni = |n: u32, inner: &[u8]| udp(4789, &[&vni(n)[..], inner].concat());
    let of_gue = |head: [u8; 4], inner: &[u8]| udp(6080, &[&head[..], inner].concat());
    for (kind, src, protocol, payload, why) in [
        (ipip, server, 4, good.clone(), None),
        (ipip, stranger, 4, good.clone(), Some("tunnel-unknown")),
        (ipip, server, 4, foreign.clone(), Some("tunnel-foreign")),
        (ipip, server, 4, vec![0x45], Some("truncated")),
        (ipip, server, 4, vec![], Some("tunnel-malformed")),
        (ipip, server, 17, of_gue([0, 4, 0, 0], &good), Some("tunnel-unknown")),
        (ipip, server, 17, udp(53, &good), Some("not-for-us")),
        (gue, server, 17, of_gue([0, 4, 0, 0], &good), None),
        (gue, server, 17, of_gue([1, 4, 0, 0], &[&[0; 4], &good[..]].concat()), None),
        // Variant 1: no header.
        (gue, server, 17, udp(6080, &good), None),
        // A control message, and a variant that nobody has.
        (gue, server, 17, of_gue([0x20, 4, 0, 0], &good), Some("tunnel-malformed")),
        (gue, server, 17, of_gue([0x80, 4, 0, 0], &good), Some("tunnel-malformed")),
        (gue, server, 17, of_gue([31, 4, 0, 0], &good), Some("tunnel-malformed")),
        (gue, stranger, 17, of_gue([0, 4, 0, 0], &good), Some("tunnel-unknown")),
        (gue, server, 4, good.clone(), Some("tunnel-unknown")),
        (vxlan, server, 17, of_vni(0x00ab_cdef, &good), None),
        (vxlan, server, 17, of_vni(7, &good), Some("tunnel-unknown")),
        (vxlan, server, 17, of_vni(0x00ab_cdef, &foreign), Some("tunnel-foreign")),
        (vxlan, server, 17, udp(4789, &vni(0x00ab_cdef)[..12]), Some("tunnel-malformed")),
    ] {
        assert_eq!(drop(kind, src, protocol, &payload), why, "{kind:?} {payload:02x?}");
    }
}

#[test]
fn congestion_on_the_way_through_a_tunnel_is_told_and_where_it_cannot_be_the_packet_is_lost() {
    // By the tables of RFC 6040 section 4: what the outer header says, the inner one; what leaves.
    let [ipip, ..] = KINDS;
    for (outer_ecn, inner_ecn, leaves) in
        [(0u8, 0u8, Some(0u8)), (0, 2, Some(2)), (3, 2, Some(3)), (3, 1, Some(3)), (3, 3, Some(3)), (3, 0, None)]
    {
        let mut b = Bench::new(behind(two_armed(1, false), ipip), false);
        b.splice(HTTP);
        let ends = (Addr::from(b.dialled.ip()), b.dialled.port());
        let ours = (Addr::from(b.dialled_from.ip()), b.dialled_from.port());
        let n = 1 + HTTP.len() as u32;
        let segment = Segment {
            link: Link::default(),
            src: ends,
            dst: ours,
            seq: Seq(SERVER_ISN) + 1,
            ack: Seq(CLIENT_ISN) + n,
            flags: ACK,
            window: 1000,
            options: &[],
            payload: b"answer",
        };
        let mut bytes = vec![0; segment.frame_len()];
        segment.write(&mut bytes);
        bytes[15] = inner_ecn;
        bytes[24..26].fill(0);
        let sum = checksum::Sum::default().add_bytes(&bytes[14..34]).checksum();
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        let mut frame = outer(&b, ends.0, 4, &bytes[14..]);
        frame[15] = outer_ecn;
        let (out, v) = b.hand_in(1, &frame);
        match leaves {
            Some(ecn) => {
                assert_eq!(out[0].bytes[15] & 3, ecn, "{outer_ecn} {inner_ecn}");
                assert_eq!(checksum::Sum::default().add_bytes(&out[0].bytes[14..34]).checksum(), 0);
            }
            None => assert_eq!(v, Verdict::Drop(DropReason::TunnelCongested)),
        }
    }
}
