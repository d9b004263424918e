//! The af-packet driver over virtual Ethernet pairs.
//!
//! Each test runs in a network namespace of its own, which needs root; without it the tests say so and pass.

mod veth;

use dispatcher::io::{self, Burst, Loss, Port, af_packet};
use dispatcher::wire::{Frame, Offload};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};
use veth::segments::{finished, tcp};
use veth::{QUIET, bridge_once, in_namespace, ip, packet_device, packet_port, pair, receive_all};

fn open(devices: &[&str]) -> Vec<Port> {
    let devices: Vec<_> = devices.iter().map(|d| packet_device(d, true)).collect();
    af_packet::open(&devices).unwrap()
}

/// An Ethernet frame of a protocol for experiments, numbered.
fn numbered(n: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.extend(n.to_be_bytes());
    frame.resize(len, n as u8);
    frame
}

#[test]
fn every_frame_arrives_once_in_order_and_whole() {
    in_namespace(|| {
        pair("t0", "t1");
        let (mut a, mut b) = (packet_port("t0"), packet_port("t1"));
        let mut received = Vec::new();
        let sent: Vec<_> = (0..20_000u32).map(|n| numbered(n, 60 + (n as usize * 7) % 1454)).collect();
        // No more at once than the kernel's queue behind a virtual pair holds, when it gets no time in between.
        for burst in sent.chunks(500) {
            for frame in burst {
                assert!(a.tx.transmit_copy(frame));
            }
            a.tx.flush();
            let (all, until) = (received.len() + burst.len(), Instant::now() + Duration::from_secs(10));
            while received.len() < all && Instant::now() < until {
                received.extend(receive_all(&mut b, Duration::from_millis(1)));
            }
        }
        assert_eq!(received.len(), sent.len());
        assert!(received == sent);
        let bytes = sent.iter().map(|f| f.len() as u64).sum::<u64>();
        for traffic in [a.tx.traffic(), b.rx.traffic()] {
            assert_eq!((traffic.frames, traffic.bytes), (20_000, bytes));
            assert_eq!(traffic.losses, [0; Loss::ALL.len()]);
        }
        assert_eq!(a.rx.traffic().frames, 0, "what a port sends does not come back to it");
    });
}

#[test]
fn frames_beyond_the_ring_are_counted_and_none_is_unaccounted_for() {
    in_namespace(|| {
        pair("t0", "t1");
        let (mut a, mut b) = (packet_port("t0"), packet_port("t1"));
        for n in 0..15_000 {
            assert!(a.tx.transmit_copy(&numbered(n, 1514)));
        }
        a.tx.flush();
        let received = receive_all(&mut b, QUIET).len() as u64;
        let lost = b.rx.traffic().lost_to(Loss::RxRingFull);
        assert!(lost > 0, "the ring holds them all");
        assert_eq!(received + lost, a.tx.traffic().frames);
        // The ring works as before.
        assert!(a.tx.transmit_copy(&numbered(1, 60)));
        a.tx.flush();
        assert_eq!(receive_all(&mut b, QUIET), [numbered(1, 60)]);
    });
}

#[test]
fn vlan_tags_that_the_kernel_strips_are_put_back() {
    in_namespace(|| {
        pair("t0", "t1");
        let (mut a, mut b) = (packet_port("t0"), packet_port("t1"));
        let tagged = |tags: &[[u8; 4]]| {
            let mut frame = numbered(1, 60)[..12].to_vec();
            tags.iter().for_each(|t| frame.extend(t));
            frame.extend(&numbered(1, 1500)[12..]);
            frame
        };
        let sent = [
            tagged(&[]),
            tagged(&[[0x81, 0, 0x20, 100]]),
            tagged(&[[0x88, 0xa8, 0x01, 0x2c], [0x81, 0, 0, 40]]),
            tagged(&[[0x81, 0, 0, 0]]),
        ];
        for frame in &sent {
            assert!(a.tx.transmit_copy(frame));
        }
        a.tx.flush();
        assert_eq!(receive_all(&mut b, QUIET), sent);
    });
}

/// A UDP socket of the kernel's at the far end of a pair, sending towards `t1`.
fn kernel_sender() -> UdpSocket {
    pair("t0", "t1");
    ip("addr add 10.9.0.1/24 dev t0");
    ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:09 dev t0");
    let socket = UdpSocket::bind("10.9.0.1:1000").unwrap();
    socket.connect("10.9.0.2:2000").unwrap();
    socket
}

#[test]
fn checksums_that_the_sender_left_to_the_card_are_completed() {
    in_namespace(|| {
        let socket = kernel_sender();
        let mut b = packet_port("t1");
        socket.send(&[7; 333]).unwrap();
        let frames = receive_all(&mut b, QUIET);
        let frame = frames.iter().find(|f| f[12..14] == [8, 0]).expect("the datagram");
        let datagram = &frame[34..];
        assert_eq!(datagram.len(), 8 + 333);
        // Summed here once more, without the library's help: pseudo header and datagram give all ones.
        let mut sum = 17 + datagram.len() as u32;
        for word in frame[26..34].chunks(2).chain(datagram.chunks(2)) {
            sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff);
    });
}

#[test]
fn super_frames_of_anything_but_tcp_are_dropped_by_name() {
    for offload in [false, true] {
        in_namespace(move || {
            let socket = kernel_sender();
            let mut b = af_packet::open(&[packet_device("t1", offload)]).unwrap().pop().unwrap();
            let segment: i32 = 1000;
            // SAFETY: pointer and length describe `segment`. 103 is UDP_SEGMENT.
            let set = unsafe { libc::setsockopt(socket.as_raw_fd(), 17, 103, (&raw const segment).cast(), 4) };
            assert_eq!(set, 0);
            socket.send(&[1; 5000]).unwrap();
            socket.send(&[2; 500]).unwrap();
            let frames = receive_all(&mut b, QUIET);
            let datagrams = frames.iter().filter(|f| f[12..14] == [8, 0]).count();
            assert_eq!((datagrams, b.rx.traffic().lost_to(Loss::RxOversized)), (1, 1));
        });
    }
}

/// What arrives, with what is left of each frame, until none has come for a while.
fn receive_left(port: &mut Port) -> Vec<(Vec<u8>, Offload)> {
    let (mut got, mut burst, mut last) = (Vec::new(), Burst::new(), Instant::now());
    while last.elapsed() < QUIET {
        port.rx.receive(&mut burst);
        if !burst.is_empty() {
            last = Instant::now();
        }
        for mut slot in burst.drain(..) {
            got.push((port.rx.frame(&mut slot).bytes().to_vec(), slot.offload()));
            port.rx.release(slot);
        }
    }
    got
}

#[test]
fn large_units_arrive_as_one_and_the_kernel_cuts_them_as_we_do() {
    for (v6, vlan) in [(false, false), (true, false), (false, true)] {
        in_namespace(move || {
            pair("t0", "t1");
            let mut a = open(&["t0"]).pop().unwrap();
            // CWR, PSH and FIN belong to one of the segments each.
            let unit = tcp(v6, 1000, 0x99, 60_000, vlan);
            let send = |a: &mut Port, offload| {
                let mut bytes = unit.clone();
                assert!(a.tx.transmit_unfinished(&mut Frame::whole(&mut bytes).with(offload)));
            };
            let cut = Offload::large(1400);
            let mut b = open(&["t1"]).pop().unwrap();
            send(&mut a, cut);
            let got = receive_left(&mut b);
            assert_eq!((got.len(), got[0].0.len(), got[0].1), (1, unit.len(), cut));
            assert!(finished(&got[0].0, got[0].1) == finished(&unit, cut));
            assert_eq!(b.rx.traffic().bytes, unit.len() as u64);
            drop(b);
            // Without the device's help the kernel cuts, and makes checksums, itself.
            let off = Command::new("ethtool").args(["-K", "t0", "tso", "off", "gso", "off", "tx", "off"]).output();
            assert!(off.unwrap().status.success());
            let mut b = packet_port("t1");
            send(&mut a, cut);
            let got = receive_all(&mut b, QUIET);
            assert!(got == finished(&unit, cut), "IPv6 {v6}, VLAN {vlan}: {} frames", got.len());
            assert_eq!(b.rx.traffic().losses, [0; Loss::ALL.len()]);
            // More than the MTU takes is cut smaller.
            send(&mut a, Offload::large(9000));
            let most = receive_all(&mut b, QUIET).iter().map(Vec::len).max();
            assert_eq!(most, Some(1500 + if vlan { 18 } else { 14 }));
        });
    }
}

#[test]
fn large_units_and_small_frames_arrive_in_the_order_in_which_they_were_sent() {
    in_namespace(|| {
        pair("t0", "t1");
        let mut a = open(&["t0"]).pop().unwrap();
        let mut b = open(&["t1"]).pop().unwrap();
        // More than the ring for large units has places, in several turns.
        let mut got = Vec::new();
        for turn in 0..8 {
            for n in turn * 100..(turn + 1) * 100 {
                let len = if n % 3 == 0 { 20_000 } else { 10 + n as usize % 50 };
                let offload = if n % 3 == 0 { Offload::large(1400) } else { Offload::OPEN };
                let mut bytes = tcp(false, n, 0x10, len, false);
                assert!(a.tx.transmit_unfinished(&mut Frame::whole(&mut bytes).with(offload)));
            }
            got.extend(receive_left(&mut b));
        }
        let seq = |(frame, _): &(Vec<u8>, Offload)| u32::from_be_bytes(frame[38..42].try_into().unwrap());
        assert!(got.iter().map(seq).eq(0..800), "{:?}", got.iter().map(seq).collect::<Vec<_>>());
        assert!(got.iter().all(|(frame, left)| (left.segment() > 0) == (frame.len() > 1514)));
        assert_eq!(b.rx.traffic().losses, [0; Loss::ALL.len()]);
    });
}

#[test]
fn a_port_without_large_units_gets_them_cut_from_one_that_has_them() {
    in_namespace(|| {
        pair("t0", "t1");
        pair("u0", "u1");
        let mut a = open(&["t0"]).pop().unwrap();
        let mut bridge = af_packet::open(&[packet_device("t1", true), packet_device("u1", false)]).unwrap();
        let mut far = packet_port("u0");
        let unit = tcp(false, 5, 0x18, 30_000, false);
        let mut bytes = unit.clone();
        assert!(a.tx.transmit_unfinished(&mut Frame::whole(&mut bytes).with(Offload::large(1448))));
        let until = Instant::now() + Duration::from_secs(10);
        let mut burst = Burst::new();
        while burst.is_empty() && Instant::now() < until {
            bridge[0].rx.receive(&mut burst);
        }
        let [from, to] = &mut bridge[..] else { panic!("two ports") };
        for slot in burst.drain(..) {
            assert!(!to.tx.takes(&slot) && io::send(&mut *from.rx, &mut *to.tx, slot));
        }
        to.tx.flush();
        assert!(receive_all(&mut far, QUIET) == finished(&unit, Offload::large(1448)));
        assert_eq!(to.tx.traffic().frames, 21);
    });
}

#[test]
fn segments_that_were_within_other_packets_arrive_as_one_unit_and_the_kernel_cuts_them_as_they_were() {
    for (v6, vlan) in [(false, false), (true, false), (false, true)] {
        in_namespace(move || {
            pair("t0", "t1");
            let (mut a, mut b) = (open(&["t0"]).pop().unwrap(), open(&["t1"]).pop().unwrap());
            let cut = Offload::large(1400);
            let units = [tcp(v6, 1000, 0x18, 30_000, vlan), tcp(v6, 7000, 0x10, 20_000, vlan)];
            let pieces = units.each_ref().map(|unit| finished(unit, cut));
            let mut wrong = pieces[0][3].clone();
            *wrong.last_mut().unwrap() ^= 1;
            // The second stream's follow those of the first; one whose checksum is wrong stays what it is, and what came plainly, too.
            let send = |a: &mut Port| {
                pieces.iter().flatten().for_each(|piece| assert!(a.tx.transmit_alone(piece)));
                a.tx.flush();
                assert!(a.tx.transmit_alone(&pieces[0][2]) && a.tx.transmit_alone(&wrong));
                assert!(a.tx.transmit_copy(&pieces[1][0]) && a.tx.transmit_copy(&pieces[1][1]));
                a.tx.flush();
            };
            send(&mut a);
            let apart = [pieces[0][2].clone(), wrong.clone(), pieces[1][0].clone(), pieces[1][1].clone()];
            let got = receive_left(&mut b);
            let lens: Vec<_> = got.iter().map(|(frame, _)| frame.len()).collect();
            assert!(lens[..2] == units.each_ref().map(Vec::len), "{lens:?}");
            for ((frame, left), pieces) in got.iter().zip(&pieces) {
                assert!(*left == cut && finished(frame, *left) == *pieces);
            }
            assert!(got[2..].iter().map(|(frame, _)| frame).eq(&apart), "{lens:?}");
            // Frames are counted as they came.
            let whole = |frames: &[Vec<u8>]| frames.iter().map(Vec::len).sum::<usize>() as u64;
            let sent = a.tx.traffic();
            let count = (pieces[0].len() + pieces[1].len() + apart.len()) as u64;
            assert_eq!((sent.frames, sent.losses), (count, [0; Loss::ALL.len()]));
            assert_eq!(sent.bytes, whole(&pieces[0]) + whole(&pieces[1]) + whole(&apart));
            drop(b);
            let off = Command::new("ethtool").args(["-K", "t0", "tso", "off", "gso", "off", "tx", "off"]).output();
            assert!(off.unwrap().status.success());
            let mut b = packet_port("t1");
            send(&mut a);
            let got = receive_all(&mut b, QUIET);
            assert!(got == [&pieces[0][..], &pieces[1][..], &apart[..]].concat(), "{} frames", got.len());
        });
    }
}

#[test]
fn a_port_with_offloads_off_merges_nothing() {
    in_namespace(|| {
        pair("t0", "t1");
        let (mut a, mut b) = (packet_port("t0"), open(&["t1"]).pop().unwrap());
        let pieces = finished(&tcp(false, 1000, 0x18, 30_000, false), Offload::large(1400));
        pieces.iter().for_each(|piece| assert!(a.tx.transmit_alone(piece)));
        a.tx.flush();
        assert!(receive_left(&mut b).iter().map(|(frame, _)| frame).eq(&pieces));
    });
}

/// What a port counts of its device, as soon as that is so; the kernel takes its time to tell.
fn await_traffic(port: &mut Port, so: impl Fn(&io::Traffic) -> bool) -> io::Traffic {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let traffic = port.rx.traffic();
        if so(&traffic) || Instant::now() > until {
            return traffic;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_link_that_goes_down_and_up_is_counted_and_survived() {
    in_namespace(|| {
        pair("t0", "t1");
        let (mut a, mut b) = (packet_port("t0"), packet_port("t1"));
        for (pulled, what, n) in [("t0", "the interface itself", 1), ("t1", "its cable", 2)] {
            let before = a.tx.traffic();
            ip(&format!("link set {pulled} down"));
            for n in 0..10 {
                assert!(a.tx.transmit_copy(&numbered(n, 60)));
            }
            a.tx.flush();
            let traffic = a.tx.traffic();
            assert_eq!(traffic.lost_to(Loss::TxLinkDown), before.lost_to(Loss::TxLinkDown) + 10, "{what}: {traffic:?}");
            assert_eq!((traffic.frames, traffic.lost_to(Loss::TxQueueFull)), (before.frames, 0), "{what}");
            assert_eq!(await_traffic(&mut a, |t| t.link_downs == n).link_downs, n, "{what}");
            ip(&format!("link set {pulled} up"));
            std::thread::sleep(Duration::from_millis(20));
            for there in [true, false] {
                let (from, to) = if there { (&mut a, &mut b) } else { (&mut b, &mut a) };
                // The receiving half, whose waiting ends with an error that must be read once.
                to.rx.device_event();
                assert!(from.tx.transmit_copy(&numbered(11, 60)));
                from.tx.flush();
                assert_eq!(receive_all(to, QUIET), [numbered(11, 60)], "{what}");
                assert!(!io::wait_readable(&to.rx.wait_fds(), Duration::from_millis(10)));
            }
        }
    });
}

#[test]
fn a_device_that_is_removed_and_made_anew_is_taken_up_again() {
    in_namespace(|| {
        pair("t0", "t1");
        pair("u0", "u1");
        let mut ports = open(&["t1", "u1"]);
        let mut other = packet_port("u0");
        for round in 1..=2 {
            ip("link del t1");
            assert!(ports[0].tx.transmit_copy(&numbered(1, 60)));
            ports[0].tx.flush();
            assert_eq!(ports[0].tx.traffic().lost_to(Loss::TxLinkDown), round);
            let told = await_traffic(&mut ports[0], |t| t.link_downs == round);
            assert_eq!((told.link_downs, told.reopened), (round, round - 1));
            pair("t0", "t1");
            let mut far = packet_port("t0");
            assert_eq!(await_traffic(&mut ports[0], |t| t.reopened == round).reopened, round);
            assert!(far.tx.transmit_copy(&numbered(2, 60)));
            far.tx.flush();
            // From ring to ring, as before.
            let until = Instant::now() + Duration::from_secs(10);
            while bridge_once(&mut ports) == 0 && Instant::now() < until {}
            assert_eq!(receive_all(&mut other, QUIET), [numbered(2, 60)]);
            assert!(ports[0].tx.transmit_copy(&numbered(3, 1000)));
            ports[0].tx.flush();
            assert_eq!(receive_all(&mut far, QUIET), [numbered(3, 1000)]);
        }
    });
}

#[test]
fn sockets_that_share_a_devices_frames_share_those_of_its_successor() {
    in_namespace(|| {
        pair("t0", "t1");
        let fanout = [std::sync::Arc::default()];
        let device = || [packet_device("t1", true)];
        let open = || af_packet::open_shared(&device(), &fanout).unwrap().pop().unwrap();
        let mut both = [open(), open()];
        for round in 0..2 {
            if round > 0 {
                ip("link del t1");
                pair("t0", "t1");
                for port in &mut both {
                    assert_eq!(await_traffic(port, |t| t.reopened == 1).reopened, 1);
                }
            }
            let mut far = packet_port("t0");
            for n in 0..32 {
                // Flows of UDP: the kernel divides by their hash.
                let mut frame = numbered(n, 60);
                frame[12..14].copy_from_slice(&[8, 0]);
                frame[14..34].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
                frame[34..38].copy_from_slice(&[1, n as u8, 2, 0]);
                assert!(far.tx.transmit_copy(&frame));
            }
            far.tx.flush();
            let got = both.each_mut().map(|port| receive_all(port, QUIET).len());
            assert!(got[0] > 0 && got[1] > 0 && got[0] + got[1] == 32, "{got:?}");
        }
    });
}

#[test]
fn a_bridge_of_two_ports_conserves_frames_both_ways() {
    in_namespace(|| {
        pair("c0", "dc");
        pair("s0", "ds");
        let mut bridge = open(&["dc", "ds"]);
        let (mut client, mut server) = (packet_port("c0"), packet_port("s0"));
        let frames: Vec<_> = (0..10_000u32).map(|n| numbered(n, 60 + n as usize % 1400)).collect();
        let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
        for burst in frames.chunks(500) {
            for frame in burst {
                assert!(client.tx.transmit_copy(frame) && server.tx.transmit_copy(frame));
            }
            client.tx.flush();
            server.tx.flush();
            // On a busy machine frames take their time, here and at the far ends.
            let (all, until) = (at_server.len() + burst.len(), Instant::now() + Duration::from_secs(10));
            while at_server.len().min(at_client.len()) < all && Instant::now() < until {
                while bridge_once(&mut bridge) > 0 {}
                at_server.extend(receive_all(&mut server, Duration::from_millis(1)));
                at_client.extend(receive_all(&mut client, Duration::from_millis(1)));
            }
        }
        assert!(at_server == frames && at_client == frames, "{} and {}", at_server.len(), at_client.len());
    });
}

#[test]
fn an_unknown_device_and_one_that_is_not_ethernet_are_refused_in_words() {
    assert_eq!(io::device_info("nosuch0").unwrap_err().0, "no network device named 'nosuch0'");
    assert_eq!(io::device_info("../../x").unwrap_err().0, "no network device named '../../x'");
    assert!(io::device_info("lo").unwrap_err().0.contains("not Ethernet"));
}
