//! Errors and echo requests.

use super::*;

#[test]
fn too_big_is_translated_to_whom_it_concerns_with_the_packet_it_sent() {
    for mut b in all_worlds() {
        let v6 = b.v6;
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        let too_big = if v6 { (2, 0, 1280) } else { (3, 4, 1400) };
        for from_client in [true, false] {
            // Of a client's path servers hear only where they know the client by its own address.
            if !from_client && b.config.address_mode == AddressMode::Snat {
                continue;
            }
            let (sent, arrived, other) = if from_client {
                let s = seg(ACK, n, 1, &[b'x'; 1300]);
                (b.client_frame(&s), b.client_sends(s).0, b.server_port())
            } else {
                let s = seg(ACK, 1, n, &[b'y'; 1300]);
                (b.server_frame(&s), b.server_sends(s).0, 0)
            };
            let error = icmp_error(&b, other, too_big, &arrived[0].bytes);
            let (out, v) = b.hand_in(other, &error);
            assert!(matches!(v, Verdict::Forward(_)), "{v:?}");
            let ip = out[0].ip();
            assert_eq!(out[0].port, if from_client { 0 } else { b.server_port() });
            let sender = dispatcher::wire::packet::Packet::parse(&sent).unwrap().ip;
            assert_eq!(ip.dst, sender.src);
            let message = &out[0].bytes[ip.payload..ip.end];
            assert_eq!(message[4..8], u32::to_be_bytes(too_big.2), "the MTU");
            // What is quoted is what the sender sent, byte for byte (as far as it is quoted).
            assert_eq!(message[8..], sent[14..14 + message.len() - 8]);
            let sum = if v6 {
                checksum::transport(ip.src.octets(), ip.dst.octets(), protocol::ICMPV6, message)
            } else {
                checksum::Sum::default().add_bytes(message).checksum()
            };
            assert_eq!(sum, 0);
            if !v6 {
                let h = &out[0].bytes[ip.header..ip.header + 20];
                assert_eq!(checksum::Sum::default().add_bytes(h).checksum(), 0);
            }
        }
    }
}

#[test]
fn forged_and_foreign_errors_are_dropped_and_named() {
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    let (out, _) = b.client_sends(seg(ACK, n, 1, &[b'x'; 100]));
    let good = out[0].bytes.clone();
    let t = out[0].tcp();
    let mut far = good.clone();
    far[t.header + 4] ^= 0x10;
    let error = icmp_error(&b, 1, (3, 4, 500), &far);
    assert_eq!(b.hand_in(1, &error).1, Verdict::Drop(DropReason::OutOfWindow), "never in flight");
    let mut foreign = good.clone();
    foreign[t.header] ^= 1;
    let error = icmp_error(&b, 1, (3, 4, 500), &foreign);
    assert_eq!(b.hand_in(1, &error).1, Verdict::Drop(DropReason::IcmpNoFlow));
    let mut error = icmp_error(&b, 1, (3, 4, 500), &good);
    let last = error.len() - 1;
    error[last] ^= 1;
    assert_eq!(b.hand_in(1, &error).1, Verdict::Drop(DropReason::BadChecksum));
    let error = icmp_error_quoting(&b, 1, (3, 4, 500), &good, 24);
    assert_eq!(b.hand_in(1, &error).1, Verdict::Drop(DropReason::Truncated));
}

#[test]
fn what_is_ours_shrinks_to_the_path_that_an_error_tells_of() {
    // Nobody else can: the client was acknowledged these bytes.
    for v6 in [false, true] {
        let mut b = Bench::new(two_armed(1, v6), v6);
        let hello = Hello { at_least: 4000, ..Hello::default() }.bytes();
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        b.client_sends(seg(ACK, 1, 1, &hello[..1400]));
        b.client_sends(seg(ACK, 1401, 1, &hello[1400..2800]));
        b.wait(ms(60));
        b.client_sends(seg(ACK, 2801, 1, &hello[2800..]));
        let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        let (out, _) = b.server_sends(Seg { options: &mss, window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
        assert!(out[0].payload().len() > 1400);
        let mtu = 1280;
        let error = icmp_error(&b, 1, if v6 { (2, 0, mtu) } else { (3, 4, mtu) }, &out[0].bytes);
        let (_, v) = b.hand_in(1, &error);
        assert!(matches!(v, Verdict::Forward(_)), "{v:?}");
        let again = b.wait(ms(300));
        assert!(!again.is_empty());
        for o in &again {
            assert!(o.ip().end - o.ip().header <= mtu as usize, "{}", o.bytes.len());
        }
        assert_eq!(again.iter().flat_map(|o| o.payload().to_vec()).collect::<Vec<_>>(), hello[..2800]);
    }
}

#[test]
fn a_segment_that_begins_with_the_proxy_header_shrinks_too() {
    // Found by a storm: its number is before the client's first, so the error about it was dropped, and the path stayed black.
    for v6 in [false, true] {
        let mut b = Bench::new(two_armed(1, v6).policy(|p| p.proxy_protocol = true), v6);
        let header = if v6 { 52 } else { 28 };
        let hello = Hello { at_least: 1450, ..Hello::default() }.bytes();
        b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        b.client_sends(seg(ACK, 1, 1, &hello));
        let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        let (out, _) =
            b.server_sends(Seg { options: &mss, window: 60000, ..seg(SYN_ACK, 0, 1u32.wrapping_sub(header), &[]) });
        assert!(out[0].payload().len() > 1400);
        let mtu = 1280;
        let error = icmp_error(&b, 1, if v6 { (2, 0, mtu) } else { (3, 4, mtu) }, &out[0].bytes);
        let (told, v) = b.hand_in(1, &error);
        assert!(matches!(v, Verdict::Forward(_)), "{v:?}");
        // The client is told of the first byte that it has in flight.
        let quote = told[0].ip().payload + 8 + if v6 { 40 } else { 20 };
        let seq: [u8; 4] = told[0].bytes[quote + 4..quote + 8].try_into().unwrap();
        assert_eq!(Seq(u32::from_be_bytes(seq)), Seq(CLIENT_ISN) + 1);
        let again = b.wait(ms(300));
        let payload: Vec<u8> = again.iter().flat_map(|o| o.payload().to_vec()).collect();
        assert!(payload.len() >= header as usize && again.iter().all(|o| o.ip().end - o.ip().header <= mtu as usize));
    }
}

/// What leaves because of a segment of the server's, in the order of the wire: the frame that was handed in goes last.
fn to_client(b: &mut Bench, s: Seg<'_>) -> Vec<Out> {
    let (mut out, v) = b.server_sends(s);
    assert!(matches!(v, Verdict::Forward(_)), "{v:?}");
    out.rotate_left(1);
    out
}

/// A client whose path takes `mtu` complains about what the server has just sent.
fn narrow(b: &mut Bench, mtu: u32, sent: &Out) -> (Vec<Out>, Verdict) {
    let error = icmp_error(b, 0, if b.v6 { (2, 0, mtu) } else { (3, 4, mtu) }, &sent.bytes);
    b.hand_in(0, &error)
}

fn packet_len(o: &Out) -> usize {
    o.ip().end - o.ip().header
}

/// Checksums of both headers fit, and the addresses are those of the flow.
fn assert_sound(b: &Bench, o: &Out) {
    let (ip, tcp) = (o.ip(), o.tcp());
    if !b.v6 {
        let h = &o.bytes[ip.header..ip.payload];
        assert_eq!(checksum::Sum::default().add_bytes(h).checksum(), 0);
    }
    assert_eq!((ip.src.socket(tcp.src_port), ip.dst.socket(tcp.dst_port)), (vip(b.v6), b.client));
    assert_eq!((o.port, o.bytes.len()), (0, ip.end));
}

#[test]
fn a_clients_narrow_path_stays_with_its_flow_whose_segments_are_cut_to_fit() {
    // Passed on, the server would have remembered it for our address: for every client, for ten minutes.
    for v6 in [false, true] {
        for config in [two_armed(1, v6), one_armed(1, v6)] {
            let mut b = Bench::new(config, v6);
            b.splice(HTTP);
            let n = 1 + HTTP.len() as u32;
            let whole: Vec<u8> = (0..1400u32).map(|i| (i * 7 % 251) as u8).collect();
            let big = Seg { flags: Flags(0x18), ..seg(ACK, 1, n, &whole) };
            let lost = to_client(&mut b, big);
            assert_eq!(lost.len(), 1);
            let mtu = if v6 { 1280 } else { 600 };
            let (out, v) = narrow(&mut b, mtu, &lost[0]);
            assert_eq!((out.len(), v), (0, Verdict::Hold), "nobody is told");
            // What was lost comes again, and with it a FIN.
            let again = to_client(&mut b, Seg { flags: Flags(0xd9), ..big });
            assert_eq!(again.len(), if v6 { 2 } else { 3 });
            let mut seq = lost[0].tcp().seq;
            for (i, o) in again.iter().enumerate() {
                assert_sound(&b, o);
                assert!(packet_len(o) <= mtu as usize, "{}", packet_len(o));
                let (t, last) = (o.tcp(), i + 1 == again.len());
                assert_eq!((t.seq, t.ack, t.window), (seq, lost[0].tcp().ack, lost[0].tcp().window));
                seq += t.payload_len() as u32;
                // ACK and ECN echo on each, "window reduced" on the first, PSH and FIN on the last.
                let cwr = if i == 0 { 0x80 } else { 0 };
                assert_eq!(t.flags.0, 0x50 | cwr | if last { 0x09 } else { 0 }, "piece {i}");
                assert!(last || packet_len(o) == mtu as usize);
            }
            assert_eq!(again.iter().flat_map(|o| o.payload().to_vec()).collect::<Vec<_>>(), whole);
            // What fits goes as it is.
            let small = to_client(&mut b, seg(ACK, 1401, n, &whole[..500]));
            assert_eq!((small.len(), small[0].payload()), (1, &whole[..500]));
        }
    }
}

#[test]
fn the_segments_of_others_stay_as_large_as_they_were() {
    for v6 in [false, true] {
        let mut b = Bench::new(two_armed(1, v6), v6);
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        let lost = to_client(&mut b, seg(ACK, 1, n, &[b'y'; 1400]));
        assert_eq!(narrow(&mut b, 1280, &lost[0]).1, Verdict::Hold);
        // Another client, and another connection of the same.
        for client in [SocketAddr::new(client_ip(1, v6), 50_000), SocketAddr::new(client_ip(0, v6), 50_001)] {
            b.client = client;
            b.splice(HTTP);
            let out = to_client(&mut b, seg(ACK, 1, n, &[b'y'; 1400]));
            assert_eq!((out.len(), out[0].payload().len()), (1, 1400), "{client}");
        }
    }
}

#[test]
fn options_and_the_urgent_pointer_are_right_in_each_piece() {
    for v6 in [false, true] {
        let mut b = Bench::new(two_armed(1, v6), v6);
        b.dial_with(&linux(), HTTP);
        let syn = written(&SynOptions { timestamps: Some(Timestamps { val: 900, ecr: 5001 }), ..linux() });
        b.server_sends(Seg { options: &syn, ..seg(SYN_ACK, 0, 1, &[]) });
        let n = 1 + HTTP.len() as u32;
        let stamp = write_timestamps(Timestamps { val: 1000, ecr: 5001 });
        let lost = to_client(&mut b, Seg { options: &stamp, ..seg(ACK, 1, n, &[b'y'; 1400]) });
        let mtu = if v6 { 1280 } else { 600 };
        assert_eq!(narrow(&mut b, mtu, &lost[0]).1, Verdict::Hold);
        let room = mtu as usize - if v6 { 72 } else { 52 };
        // Urgent up to the middle of the first piece, up to its end, and into the second.
        for urgent in [100, room, room + 100] {
            let mut frame = b.server_frame(&Seg { options: &stamp, ..seg(ACK, 1, n, &[b'y'; 1400]) });
            let p = dispatcher::wire::packet::Packet::parse(&frame).unwrap().ip;
            frame[p.payload + 13] |= 0x20;
            frame[p.payload + 18..p.payload + 20].copy_from_slice(&(urgent as u16).to_be_bytes());
            frame[p.payload + 16..p.payload + 18].fill(0);
            let sum = checksum::transport(p.src.octets(), p.dst.octets(), protocol::TCP, &frame[p.payload..p.end]);
            frame[p.payload + 16..p.payload + 18].copy_from_slice(&sum.to_be_bytes());
            let (mut out, v) = b.hand_in(1, &frame);
            assert!(matches!(v, Verdict::Forward(_)));
            out.rotate_left(1);
            assert!(out.len() > 1);
            for (i, o) in out.iter().enumerate() {
                assert_sound(&b, o);
                assert!(packet_len(o) <= mtu as usize);
                assert_eq!(o.option_bytes(), lost[0].option_bytes(), "as the whole segment's were translated");
                let t = o.tcp().header;
                let pointer = usize::from(u16::from_be_bytes([o.bytes[t + 18], o.bytes[t + 19]]));
                let left = urgent.saturating_sub(i * room);
                assert_eq!((o.bytes[t + 13] & 0x20 != 0, pointer), (left > 0, left), "piece {i}, urgent {urgent}");
            }
        }
    }
}

#[test]
fn a_damaged_segment_is_not_made_good_by_being_cut() {
    let mut b = bench();
    b.splice(HTTP);
    let n = 1 + HTTP.len() as u32;
    let lost = to_client(&mut b, seg(ACK, 1, n, &[b'y'; 1400]));
    narrow(&mut b, 600, &lost[0]);
    let mut frame = b.server_frame(&seg(ACK, 1, n, &[b'y'; 1400]));
    frame[1000] ^= 1;
    let (out, v) = b.hand_in(1, &frame);
    assert_eq!((out.len(), v), (0, Verdict::Drop(DropReason::BadChecksum)));
}

#[test]
fn no_error_makes_segments_smaller_than_a_link_of_today() {
    for (v6, told, largest) in [(false, 68, 256), (false, 0, 552), (true, 0, 1280), (true, 600, 1280)] {
        let mut b = Bench::new(two_armed(1, v6), v6);
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        let lost = to_client(&mut b, seg(ACK, 1, n, &[b'y'; 1400]));
        assert_eq!(narrow(&mut b, told, &lost[0]).1, Verdict::Hold);
        let out = to_client(&mut b, seg(ACK, 1, n, &[b'y'; 1400]));
        assert_eq!(packet_len(&out[0]), largest, "told {told}");
        // A later error that allows more changes nothing: the path may be narrow at two places.
        assert_eq!(narrow(&mut b, 1400, &out[0]).1, Verdict::Hold);
        let out = to_client(&mut b, seg(ACK, 1, n, &[b'y'; 1400]));
        assert_eq!(packet_len(&out[0]), largest);
    }
}

#[test]
fn a_host_is_told_of_no_path_that_no_host_believes_in_and_what_does_not_fit_is_cut_here() {
    for mut b in plain_worlds() {
        let v6 = b.v6;
        b.splice(HTTP);
        let n = 1 + HTTP.len() as u32;
        let (kind, code, least) = if v6 { (2, 0, 1280u32) } else { (3, 4, 552) };
        let dnat = b.config.address_mode == AddressMode::Dnat;
        for from_client in [true, false] {
            if !from_client && !dnat {
                continue;
            }
            let other = if from_client { b.server_port() } else { 0 };
            let send = |b: &mut Bench| {
                let (mut out, v) = match from_client {
                    true => b.client_sends(seg(ACK, n, 1, &[b'x'; 1400])),
                    false => b.server_sends(seg(ACK, 1, n, &[b'y'; 1400])),
                };
                assert!(matches!(v, Verdict::Forward(_)), "{v:?}");
                out.rotate_left(1);
                out
            };
            let lost = send(&mut b);
            for told in [0, 300] {
                let error = icmp_error(&b, other, (kind, code, told), &lost[0].bytes);
                let (out, v) = b.hand_in(other, &error);
                assert!(matches!(v, Verdict::Forward(_)), "{v:?}");
                let ip = out[0].ip();
                let message = &out[0].bytes[ip.payload..ip.end];
                assert_eq!(message[4..8], least.to_be_bytes(), "told {told}");
                let sum = match v6 {
                    true => checksum::transport(ip.src.octets(), ip.dst.octets(), protocol::ICMPV6, message),
                    false => checksum::Sum::default().add_bytes(message).checksum(),
                };
                assert_eq!(sum, 0);
            }
            let again = send(&mut b);
            let fits = if v6 { 1460 } else { 300 };
            assert!(again.iter().all(|o| packet_len(o) <= fits));
            let payload: Vec<u8> = again.iter().flat_map(|o| o.payload().to_vec()).collect();
            assert_eq!(payload, lost[0].payload());
        }
    }
}

#[test]
fn echo_requests_to_our_addresses_are_answered() {
    for v6 in [false, true] {
        let mut b = Bench::new(two_armed(1, v6), v6);
        for to in [vip(v6).ip(), b.config.ports[0].addresses[usize::from(v6)].0] {
            let from = Addr::from(client_ip(0, v6));
            let to = Addr::from(to);
            let mut icmp = vec![if v6 { 128 } else { 8 }, 0, 0, 0, 1, 2, 3, 4, b'p', b'i', b'n', b'g', b'!'];
            let sum = |m: &[u8]| {
                if v6 {
                    checksum::transport(from.octets(), to.octets(), protocol::ICMPV6, m)
                } else {
                    checksum::Sum::default().add_bytes(m).checksum()
                }
            };
            let s = sum(&icmp);
            icmp[2..4].copy_from_slice(&s.to_be_bytes());
            // The headers of an error, for the same purpose: source and destination are put in place.
            let mut f = icmp_error(&b, 0, (0, 0, 0), &b.client_frame(&seg(ACK, 1, 1, &[])));
            let (src_at, n, head) = if v6 { (14 + 8, 16, 54) } else { (14 + 12, 4, 34) };
            f.truncate(head);
            f[src_at..src_at + n].copy_from_slice(from.octets());
            f[src_at + n..src_at + 2 * n].copy_from_slice(to.octets());
            if v6 {
                f[18..20].copy_from_slice(&(icmp.len() as u16).to_be_bytes());
            } else {
                f[16..18].copy_from_slice(&(20 + icmp.len() as u16).to_be_bytes());
            }
            f.extend(&icmp);
            let (out, v) = b.hand_in(0, &f);
            assert!(matches!(v, Verdict::Reply(_)), "{v:?}");
            let ip = out[0].ip();
            let m = &out[0].bytes[ip.payload..ip.end];
            assert_eq!((ip.src, ip.dst, m[0], &m[4..]), (to, from, if v6 { 129 } else { 0 }, &icmp[4..]));
            assert_eq!(sum(m), 0);
        }
    }
}
