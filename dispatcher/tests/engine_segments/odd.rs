//! Frames that mean nothing, or little.

use super::*;
use dispatcher::engine::PortId;
use std::net::IpAddr;

#[test]
fn no_frame_panics_and_each_has_a_fate() {
    let mut b = Bench::new(two_armed(2, false), false);
    b.splice(HTTP);
    let mut rng = Rng::new(5);
    let good = [
        b.client_frame(&seg(ACK, 19, 1, &[b'x'; 100])),
        b.server_frame(&seg(ACK, 1, 19, &[b'y'; 100])),
        b.client_frame(&Seg { options: &written(&linux()), ..seg(SYN, 0, 0, &[]) }),
        icmp_error(&b, 1, (3, 4, 500), &b.client_frame(&seg(ACK, 19, 1, &[b'x'; 100]))),
    ];
    for i in 0..30_000 {
        let mut f = good[rng.below(good.len())].clone();
        for _ in 0..rng.between(0, 4) {
            let at = rng.below(f.len());
            f[at] = rng.u64() as u8;
        }
        if rng.per_mille(300) {
            let n = rng.below(f.len() + 1);
            f.truncate(n);
        }
        // The books are checked at each.
        b.hand_in(rng.below(2), &f);
        if i % 100 == 0 {
            b.wait(ms(50));
        }
    }
}

#[test]
fn a_frame_of_another_address_or_protocol_is_not_for_us() {
    let mut b = bench();
    let mut f = b.client_frame(&seg(SYN, 0, 0, &[]));
    f[5] ^= 1;
    assert_eq!(b.hand_in(0, &f).1, Verdict::Drop(DropReason::NotForUs));
    let mut f = b.client_frame(&seg(SYN, 0, 0, &[]));
    f[23] = protocol::UDP;
    assert_eq!(b.hand_in(0, &f).1, Verdict::Drop(DropReason::NotForUs));
    let mut f = b.client_frame(&seg(SYN, 0, 0, &[]));
    f[20] = 0x20; // More fragments.
    assert_eq!(b.hand_in(0, &f).1, Verdict::Drop(DropReason::IpFragment));
}

/// We answer to where a frame came from: an answer to a group would go to all.
#[test]
fn a_frame_from_a_groups_ethernet_address_is_malformed() {
    let mut b = bench();
    let syn = b.client_frame(&seg(SYN, 0, 0, &[]));
    for (first, verdict) in [(0x02, Verdict::Reply(PortId(0))), (0x03, Verdict::Drop(DropReason::Malformed))] {
        let mut f = syn.clone();
        f[6] = first;
        assert_eq!(b.hand_in(0, &f).1, verdict, "{first:#x}");
    }
    let mut arp = vec![0xff; 6];
    arp.extend([2, 9, 9, 9, 9, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend([0xff; 6]);
    arp.extend([10, 9, 9, 9]);
    arp.extend([0; 6]);
    let IpAddr::V4(vip) = vip(false).ip() else { panic!("IPv4") };
    arp.extend(vip.octets());
    arp.resize(60, 0);
    assert_eq!(b.hand_in(0, &arp).1, Verdict::Drop(DropReason::Malformed), "whom would we tell?");
}

#[test]
fn a_client_of_two_vips_keeps_its_connections_apart_in_dnat_mode() {
    let mut config = Config { address_mode: AddressMode::Dnat, ..two_armed(1, false) };
    config.wanted.services[0].listen.push(SocketAddr::new(vip(false).ip(), 444));
    let mut b = Bench::new(config, false);
    b.splice(HTTP);
    // The same client port to the other VIP: towards the one server there is no second tuple; it is refused, not mixed up.
    let mut syn = b.client_frame(&seg(SYN, 0, 0, &[]));
    let fix = |f: &mut Vec<u8>, port: u16| {
        let old = u16::from_be_bytes([f[36], f[37]]);
        f[36..38].copy_from_slice(&port.to_be_bytes());
        let mut c = checksum::Change::default();
        c.word(old, port);
        let sum = c.apply(u16::from_be_bytes([f[50], f[51]]));
        f[50..52].copy_from_slice(&sum.to_be_bytes());
    };
    fix(&mut syn, 444);
    let kept = b.cookie;
    b.hand_in(0, &syn);
    let mut first = b.client_frame(&seg(ACK, 1, 1, HTTP));
    fix(&mut first, 444);
    let (out, v) = b.hand_in(0, &first);
    assert_eq!(v, Verdict::Hold);
    assert!(out.iter().all(|o| o.port == 0 && o.flags().contains(RST)), "{out:?}");
    assert_eq!(b.engine.counters().refused[DropReason::NoLocalPort as usize], 1);
    b.cookie = kept;
    let n = 1 + HTTP.len() as u32;
    let (out, _) = b.server_sends(seg(ACK, 1, n, b"to the first"));
    assert_eq!(out[0].payload(), b"to the first");
}

#[test]
fn a_server_that_announces_another_ethernet_address_is_followed_when_the_old_one_is_silent() {
    use dispatcher::wire::Mac;
    use dispatcher::wire::build::{Arp, arp_op};
    use dispatcher::wire::packet::Ethernet;
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    let new = Mac([2, 7, 7, 7, 7, 7]);
    let server = Addr::from(b.server_addr());
    let arp = |op| {
        let link = Link { dst: Mac::BROADCAST, src: new, ..Link::default() };
        let mut f = vec![0; 60];
        Arp { op, sender_mac: new, sender: server, target_mac: Mac::default(), target: server }.write(&mut f, &link);
        f
    };
    let (_, v) = b.hand_in(1, &arp(arp_op::REQUEST));
    assert_eq!(v, Verdict::Drop(DropReason::NeighbourUnasked), "not believed, but looked into");
    let mut asked = vec![];
    for _ in 0..4 {
        asked.extend(b.poll());
        b.now += Duration::from_secs(1);
    }
    let to = |o: &Out| Ethernet::parse(&o.bytes).unwrap().dst;
    assert_eq!(to(&asked[0]), SERVER_MAC, "first its holder is asked");
    assert_eq!(to(asked.last().unwrap()), Mac::BROADCAST, "then everybody");
    assert_eq!(b.hand_in(1, &arp(arp_op::REPLY)).1, Verdict::Hold);
    let (out, _) = b.client_sends(seg(ACK, n, 1, b"x"));
    assert_eq!(to(&out[0]), new);
}

#[test]
fn an_mss_of_zero_is_none_and_a_tiny_one_shrinks_nobody_elses_segments() {
    for v6 in [false, true] {
        for said in [0, 1, 215] {
            let mut b = Bench::new(two_armed(1, v6), v6);
            let hello = Hello { at_least: 1450, ..Hello::default() }.bytes();
            b.dial(&hello);
            let tiny = written(&SynOptions { mss: Some(said), ..SynOptions::default() });
            let (out, _) = b.server_sends(Seg { options: &tiny, window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
            assert!(out.len() <= hello.len().div_ceil(216), "MSS {said}: {} segments", out.len());
            assert_eq!(out.iter().flat_map(|o| o.payload().to_vec()).collect::<Vec<_>>(), hello);
            // What clients after it are offered.
            b.client = SocketAddr::new(client_ip(1, v6), 50_000);
            let offer = b.client_syn(&linux());
            let least = if said > 0 {
                216
            } else if v6 {
                1220
            } else {
                536
            };
            assert_eq!(offer.mss, Some(least), "MSS {said}");
        }
        // A client that says it is taken as one that says nothing.
        let mut b = Bench::new(two_armed(1, v6), v6);
        let dialled = b.dial_with(&SynOptions { mss: Some(0), ..SynOptions::default() }, HTTP);
        let least = if v6 { 1220 } else { 536 };
        assert_eq!(dialled.options().mss, Some(least));
    }
}
