//! What the af-xdp driver takes changes while it runs, over virtual Ethernet pairs.
//!
//! Each test runs in a network namespace of its own, which needs root; without it the tests say so and pass.

mod veth;

use dispatcher::io::af_xdp::{self, Common, Mode, Part};
use dispatcher::io::{self, Filter, Port};
use dispatcher::wire::build::{Link, Ndp, Segment, ndp_type};
use dispatcher::wire::packet::Flags;
use dispatcher::wire::{Addr, Mac, Seq};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use veth::{QUIET, in_namespace, ip, packet_port, pair, pair_of, receive_all};

fn filter(services: &[&str]) -> Filter {
    let services = services.iter().map(|s| s.parse().unwrap()).collect();
    Filter { addresses: vec!["10.9.0.2".parse().unwrap()], services, ..Filter::default() }
}

fn open(filter: &Filter, workers: usize, common: &Arc<Common>) -> Vec<Port> {
    let device = [af_xdp::Device { name: "t1".into(), info: io::device_info("t1").unwrap(), mode: Mode::Auto }];
    let common = [common.clone()];
    (0..workers)
        .map(|worker| af_xdp::open_part(&device, filter, Part { worker, workers }, &common).unwrap().0.pop().unwrap())
        .collect()
}

fn to(service: &str, number: u32) -> Vec<u8> {
    let service: SocketAddr = service.parse().unwrap();
    let client: IpAddr = if service.is_ipv4() { "10.9.0.1" } else { "fd09::1" }.parse().unwrap();
    let segment = Segment {
        link: Link { dst: Mac([2, 0, 0, 0, 0, 9]), src: Mac([2, 0, 0, 0, 0, 1]), ..Link::default() },
        src: (client.into(), 1000),
        dst: (service.ip().into(), service.port()),
        seq: Seq(number),
        ack: Seq(1),
        flags: Flags::ACK,
        window: 1,
        options: &[],
        payload: &[7; 40],
    };
    let mut frame = vec![0; 200];
    let n = segment.write(&mut frame);
    frame.truncate(n);
    frame
}

fn send(port: &mut Port, frames: &[Vec<u8>]) {
    frames.iter().for_each(|frame| assert!(port.tx.transmit_copy(frame)));
    port.tx.flush();
}

const SERVICES: [&str; 3] = ["10.9.0.100:443", "10.9.0.100:80", "[fd09::100]:443"];

#[test]
fn what_is_added_is_taken_by_every_worker_and_what_is_removed_is_the_kernels_again() {
    in_namespace(|| {
        pair_of("t0", "t1", 2);
        let mut far = packet_port("t0");
        let common = Arc::default();
        let mut workers = open(&filter(&[]), 2, &common);
        let all = SERVICES.map(|s| to(s, 1));
        for services in [&[][..], &SERVICES[..1], &SERVICES, &SERVICES[1..], &SERVICES[2..], &[], &SERVICES] {
            common.set_filter(&filter(services)).unwrap();
            send(&mut far, &all);
            let mut got: Vec<_> = workers.iter_mut().flat_map(|w| receive_all(w, QUIET)).collect();
            got.sort();
            let mut expected: Vec<_> = services.iter().map(|s| to(s, 1)).collect();
            expected.sort();
            assert!(got == expected, "{services:?}: {} frames", got.len());
        }
    });
}

/// Neighbours find a new IPv6 VIP by its multicast group, and are heard when they tell all of themselves.
#[test]
fn a_vip_of_a_new_family_is_asked_for_and_its_neighbours_are_heard() {
    in_namespace(|| {
        pair("t0", "t1");
        let mut far = packet_port("t0");
        let common = Arc::default();
        let mut ours = open(&filter(&SERVICES[..1]), 1, &common).pop().unwrap();
        let addr = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        let said = Ndp { kind: ndp_type::ADVERTISEMENT, flags: 0x20, target: addr("fd09::7"), mac: Some(Mac([2; 6])) };
        let link = Link { dst: Mac([0x33, 0x33, 0, 0, 0, 1]), src: Mac([2; 6]), ..Link::default() };
        let mut told = vec![0; 100];
        let n = said.write(&mut told, &link, addr("fd09::7"), addr("ff02::1"));
        told.truncate(n);
        let group = "33:33:ff:00:01:00";
        let mut heard = |ours: &mut Port, patience: Duration| {
            send(&mut far, std::slice::from_ref(&told));
            let until = Instant::now() + patience;
            loop {
                // They are looked for when the counts are asked for.
                ours.rx.traffic();
                if receive_all(ours, Duration::from_millis(5)).contains(&told) {
                    return true;
                }
                if Instant::now() >= until {
                    return false;
                }
            }
        };
        for with_v6 in [false, true, false, true] {
            let services = if with_v6 { &SERVICES[..] } else { &SERVICES[..2] };
            common.set_filter(&filter(services)).unwrap();
            assert_eq!(ip("maddr show dev t1").contains(group), with_v6);
            let patience = if with_v6 { Duration::from_secs(10) } else { QUIET };
            assert_eq!(heard(&mut ours, patience), with_v6);
        }
        // Made anew, the device has what the filter is by now.
        common.set_filter(&filter(&SERVICES[..1])).unwrap();
        ip("link del t1");
        common.set_filter(&filter(&SERVICES)).unwrap();
        pair("t0", "t1");
        far = packet_port("t0");
        let until = Instant::now() + Duration::from_secs(10);
        while ours.rx.traffic().reopened == 0 {
            assert!(Instant::now() < until, "taken up again");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(ip("maddr show dev t1").contains(group));
        send(&mut far, &SERVICES.map(|s| to(s, 5)));
        assert_eq!(receive_all(&mut ours, QUIET).len(), 3);
    });
}

#[test]
fn what_stays_is_taken_without_a_gap_while_everything_around_it_changes() {
    in_namespace(|| {
        pair("t0", "t1");
        let mut far = packet_port("t0");
        let common: Arc<Common> = Arc::default();
        let mut ours = open(&filter(&SERVICES[..1]), 1, &common).pop().unwrap();
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let changes = scope.spawn(|| {
                let (mut changes, many) = (0, (0..1000).map(|n| format!("10.{}.{}.7:443", n / 250, n % 250)));
                let mut more: Vec<_> = many.collect();
                more.push(SERVICES[0].into());
                let more: Vec<_> = more.iter().map(String::as_str).collect();
                while !end.load(Ordering::Relaxed) || changes < 10 {
                    let services = if changes % 2 == 0 { &more[..] } else { &SERVICES };
                    common.set_filter(&filter(services)).unwrap();
                    changes += 1;
                }
                changes
            });
            // Few enough at a time for a virtual pair's own queue.
            for round in 0..300 {
                let sent: Vec<_> = (0..64).map(|n| to(SERVICES[0], round * 64 + n)).collect();
                send(&mut far, &sent);
                let (mut got, until) = (Vec::new(), Instant::now() + Duration::from_secs(5));
                while got.len() < sent.len() && Instant::now() < until {
                    got.extend(receive_all(&mut ours, Duration::from_millis(1)));
                }
                if got != sent {
                    end.store(true, Ordering::Relaxed);
                    panic!("{} of {} frames of round {round}", got.len(), sent.len());
                }
            }
            end.store(true, Ordering::Relaxed);
            assert!(changes.join().unwrap() >= 10);
        });
    });
}

#[test]
fn more_than_the_maps_hold_is_refused_in_words_and_nothing_has_changed() {
    in_namespace(|| {
        pair("t0", "t1");
        let mut far = packet_port("t0");
        let common: Arc<Common> = Arc::default();
        let mut ours = open(&filter(&SERVICES), 1, &common).pop().unwrap();
        let services = (0..3000u16).map(|n| SocketAddr::from(([10, 8, (n >> 8) as u8, n as u8], 443))).collect();
        let refused = common.set_filter(&Filter { services, ..filter(&[]) }).unwrap_err();
        assert_eq!(refused.0, "af-xdp: 3001 addresses of its own and of VIPs: at most 2048 are possible");
        send(&mut far, &SERVICES.map(|s| to(s, 2)));
        assert_eq!(receive_all(&mut ours, QUIET).len(), 3);
    });
}
