//! The af-xdp driver with jumbo frames, which no chunk of its memory holds: over virtual pairs with an MTU of 9000, against packet sockets.
//!
//! Each test runs in a network namespace of its own, which needs root; without it, and before Linux 6.6, the tests say so and pass.

mod veth;

use dispatcher::io::af_xdp::{self, Account, Mode};
use dispatcher::io::{self, Filter, Loss, Port};
use std::net::IpAddr;
use std::time::{Duration, Instant};
use veth::{QUIET, assert_settled, bridge_once, carry, in_namespace, ip, packet_port, pair, receive_all, send_all};

const OWN: [u8; 4] = [10, 9, 0, 2];
const MTU: u16 = 9000;
/// What a chunk has room for behind the kernel's headroom.
const CHUNK: usize = 4096 - 256;
/// The longest frame without tags.
const LONGEST: usize = MTU as usize + 14;

/// A pair with this MTU at both ends.
fn jumbo_pair(a: &str, b: &str) {
    pair(a, b);
    [a, b].iter().for_each(|device| _ = ip(&format!("link set {device} mtu {MTU}")));
}

/// Ports at these devices, which are told that they have this MTU. None where the kernel has no such frames.
fn open(devices: &[&str], mode: Mode, mtu: u16) -> Option<(Vec<Port>, Account)> {
    let device = |name: &&str| {
        let info = io::DeviceInfo { mtu, ..io::device_info(name).unwrap() };
        af_xdp::Device { name: name.to_string(), info, mode }
    };
    let filter = Filter { addresses: vec![IpAddr::from(OWN)], ..Filter::default() };
    match af_xdp::open_accounted(&devices.iter().map(device).collect::<Vec<_>>(), &filter) {
        Ok(opened) => Some(opened),
        Err(e) if e.0.contains("before Linux 6.6") => {
            eprintln!("skipped: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// A TCP segment to our own address, numbered, of this many bytes, each of which says where it stands.
fn numbered(n: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 9, 0, 1]);
    frame[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
    frame.extend(OWN);
    frame.extend([0x10, 0, 0x20, 0]);
    frame.extend(n.to_be_bytes());
    frame.extend([0, 0, 0, 0, 0x50, 16, 1, 0, 0, 0, 0, 0]);
    frame.extend((frame.len()..len).map(|i| (i * 7 + i / 251) as u8 ^ n as u8));
    frame
}

/// Of all lengths, those at the chunks' borders above all, long and short ones mixed.
fn of_all_lengths(count: u32) -> Vec<Vec<u8>> {
    let borders = [60, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1, LONGEST - 1, LONGEST];
    let len = |n: u32| match n as usize % 3 {
        0 => borders[n as usize / 3 % borders.len()],
        1 => LONGEST - n as usize % 50,
        _ => 60 + n as usize * 131 % (LONGEST - 60),
    };
    (0..count).map(|n| numbered(n, len(n))).collect()
}

#[test]
fn jumbo_frames_arrive_whole_and_in_order_both_ways_and_in_both_modes() {
    in_namespace(|| {
        jumbo_pair("t0", "t1");
        let mut a = packet_port("t0");
        for (mode, expected) in [(Mode::Auto, "native, copy, multi-buffer"), (Mode::Generic, "generic, copy, multi")] {
            let Some((mut ports, account)) = open(&["t1"], mode, MTU) else { return };
            let mut b = ports.pop().unwrap();
            assert!(b.description.contains(expected), "{}", b.description);
            // More than both rings hold, and no multiple of theirs: frames lie across their ends.
            let sent = of_all_lengths(5000);
            let there = carry(&mut a, &mut b, &sent);
            assert!(there == sent, "{mode:?}: {} of {}", there.len(), sent.len());
            let back = carry(&mut b, &mut a, &sent);
            assert!(back == sent, "{mode:?}: {} of {}", back.len(), sent.len());
            let bytes = sent.iter().map(|f| f.len() as u64).sum::<u64>();
            for traffic in [b.rx.traffic(), b.tx.traffic()] {
                assert_eq!((traffic.frames, traffic.bytes), (5000, bytes), "{mode:?}");
                assert_eq!(traffic.losses, [0; Loss::ALL.len()], "{mode:?}");
            }
            b.tx.flush();
            assert_settled(&account);
        }
    });
}

#[test]
fn a_bridge_sends_jumbo_frames_on_from_where_they_lie() {
    in_namespace(|| {
        jumbo_pair("c0", "dc");
        jumbo_pair("s0", "ds");
        let Some((mut bridge, account)) = open(&["dc", "ds"], Mode::Auto, MTU) else { return };
        let (mut client, mut server) = (packet_port("c0"), packet_port("s0"));
        let frames = of_all_lengths(3000);
        let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
        for burst in frames.chunks(64) {
            send_all(&mut client, burst);
            send_all(&mut server, burst);
            let until = Instant::now() + Duration::from_secs(10);
            let (servers, clients) = (at_server.len() + burst.len(), at_client.len() + burst.len());
            while (at_server.len() < servers || at_client.len() < clients) && Instant::now() < until {
                bridge_once(&mut bridge);
                at_server.extend(receive_all(&mut server, Duration::from_millis(1)));
                at_client.extend(receive_all(&mut client, Duration::from_millis(1)));
            }
        }
        assert!(at_server == frames && at_client == frames, "{} and {}", at_server.len(), at_client.len());
        for port in &mut bridge {
            port.tx.flush();
            assert_eq!(port.tx.traffic().losses, [0; Loss::ALL.len()]);
            assert_eq!(port.rx.traffic().losses, [0; Loss::ALL.len()]);
        }
        assert_settled(&account);
    });
}

#[test]
fn what_is_longer_than_the_port_takes_is_counted_once_a_frame_and_passed_over_whole() {
    in_namespace(|| {
        jumbo_pair("t0", "t1");
        let mut a = packet_port("t0");
        // The first is within a chunk's room, the others are not: 14 bytes of header, and two tags are allowed for.
        for mtu in [1500, 3819, 5000, 8000] {
            let Some((mut ports, account)) = open(&["t1"], Mode::Auto, mtu) else { return };
            let b = &mut ports[0];
            let most = usize::from(mtu) + 22;
            let sent: Vec<_> = (0..60).map(|n| numbered(n, [100, most, most + 1, LONGEST][n as usize % 4])).collect();
            let fitting: Vec<_> = sent.iter().filter(|frame| frame.len() <= most).cloned().collect();
            send_all(&mut a, &sent);
            let received = receive_all(b, QUIET);
            assert!(received == fitting, "{mtu}: {} of {}", received.len(), fitting.len());
            let traffic = b.rx.traffic();
            // What no chunk holds of a port that has no long frames, the kernel drops itself.
            let lost = [Loss::RxOversized, Loss::RxRingFull].map(|why| traffic.lost_to(why));
            assert_eq!(lost, if mtu == 1500 { [15, 15] } else { [30, 0] }, "{mtu}");
            assert_eq!(traffic.frames, 30);
            assert!(!b.tx.transmit_copy(&sent[2]), "longer than the port's");
            assert_eq!(b.tx.traffic().lost_to(Loss::TxRefused), 1);
            assert_settled(&account);
        }
    });
}

#[test]
fn jumbo_frames_beyond_the_rings_are_counted_and_no_chunk_stays_away() {
    in_namespace(|| {
        jumbo_pair("t0", "t1");
        let mut a = packet_port("t0");
        let Some((mut ports, account)) = open(&["t1"], Mode::Auto, MTU) else { return };
        let b = &mut ports[0];
        // 4,096 chunks hold 1,365 frames of three, and one chunk is left over.
        let frames: Vec<_> = (0..1500).map(|n| numbered(n, LONGEST)).collect();
        for chunk in frames.chunks(50) {
            send_all(&mut a, chunk);
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(50));
        let received = receive_all(b, QUIET);
        assert!(received == frames[..received.len()], "the first ones");
        assert_eq!(received.len(), 1365);
        assert_eq!(b.rx.traffic().lost_to(Loss::RxRingFull), 1500 - 1365);
        assert_settled(&account);
        assert!(carry(&mut a, b, &frames[..300]) == frames[..300], "the rings work as before");
        assert_settled(&account);
    });
}

#[test]
fn jumbo_frames_to_a_link_that_is_down_or_a_device_that_goes_are_counted_as_frames_and_leave_no_chunk_behind() {
    in_namespace(|| {
        jumbo_pair("t0", "t1");
        let Some((mut ports, account)) = open(&["t1"], Mode::Auto, MTU) else { return };
        let b = &mut ports[0];
        let ten: Vec<_> = (0..10).map(|n| numbered(n, LONGEST - 100 * n as usize)).collect();
        for (round, pulled) in (1u64..).zip(["t1", "t0"]) {
            ip(&format!("link set {pulled} down"));
            send_all(b, &ten);
            send_all(b, &ten);
            let traffic = b.tx.traffic();
            assert_eq!(traffic.lost_to(Loss::TxLinkDown), 20 * round, "{pulled}");
            assert_eq!((traffic.frames, traffic.bytes), (10 * (round - 1), traffic.bytes), "{pulled}");
            ip(&format!("link set {pulled} up"));
            let mut a = packet_port("t0");
            std::thread::sleep(Duration::from_millis(20));
            assert!(carry(b, &mut a, &ten) == ten, "{pulled}: only what was sent since");
            assert_settled(&account);
        }
        for round in 1..=2 {
            let mut a = packet_port("t0");
            // Frames lie in the receiving rings while it goes.
            send_all(&mut a, &ten);
            ip("link del t1");
            send_all(b, &ten);
            jumbo_pair("t0", "t1");
            let until = Instant::now() + Duration::from_secs(10);
            while b.rx.traffic().reopened < round && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(b.rx.traffic().reopened, round);
            receive_all(b, QUIET);
            // The first kick after the device was there again has the transmitter take its new rings.
            send_all(b, &ten[..1]);
            let mut a = packet_port("t0");
            receive_all(&mut a, QUIET);
            assert!(carry(b, &mut a, &ten) == ten && carry(&mut a, b, &ten) == ten);
            b.tx.flush();
            assert_settled(&account);
        }
    });
}
