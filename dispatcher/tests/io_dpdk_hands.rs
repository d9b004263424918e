//! The driver dpdk when its devices change hands: what a queue takes that comes to rest, and that it works on when its device has been let go of and opened again. Over
//! `net_null`, at which frames never end.
//!
//! DPDK starts once in a process, so this is one test.

#![cfg(feature = "dpdk")]

use dispatcher::io::cards::Cards;
use dispatcher::io::dpdk::{Dpdk, DpdkDevice, PortSetup};
use dispatcher::io::{self, Burst, Divide, Loss, Port};
use std::sync::mpsc::{Receiver, Sender, channel};

/// A device's queue and net_af_packet's ring have no more than this.
const MOST: usize = 2048;

/// How many come, of so many that are asked for.
fn take(port: &mut Port, most: usize) -> usize {
    let (mut taken, mut burst) = (0, Burst::new());
    while taken < most {
        port.rx.receive(&mut burst);
        if burst.is_empty() {
            break;
        }
        taken += burst.len();
        burst.drain(..).for_each(|slot| port.rx.release(slot));
    }
    taken
}

fn send(port: &mut Port) {
    assert!(port.tx.transmit_copy(&[0; 60]));
    port.tx.flush();
}

/// On DPDK's core. `done`: it is the other one's turn; `turn`: it is ours.
fn change_hands(port: &mut Port, done: &Sender<()>, turn: &Receiver<()>) {
    assert!(take(port, 10 * MOST) >= 10 * MOST, "frames that never end");
    port.rx.divide(Divide::Before(0));
    assert_eq!(take(port, 10 * MOST), MOST, "what may have waited, and no more");
    assert!(port.rx.pack().is_empty());

    done.send(()).unwrap();
    turn.recv().unwrap();
    port.rx.divide(Divide::No);
    assert_eq!(take(port, MOST), 0, "nobody's frames");
    let sent = port.tx.traffic();
    send(port);
    let lost = port.tx.traffic();
    assert_eq!((lost.frames, lost.lost_to(Loss::TxLinkDown)), (sent.frames, 1), "where there is no device it is lost");

    done.send(()).unwrap();
    turn.recv().unwrap();
    port.rx.take_charge();
    assert!(take(port, 10 * MOST) >= 10 * MOST, "frames again, and without an end again");
    send(port);
    let sent = port.tx.traffic();
    assert_eq!((sent.frames, sent.lost_to(Loss::TxLinkDown)), (lost.frames + 1, 1));
}

#[test]
fn a_queue_takes_what_may_have_waited_and_works_on_when_its_device_is_opened_again() {
    let cores = io::allowed_cores();
    let device = |name: &str| PortSetup {
        device: DpdkDevice::parse(name).unwrap(),
        mtu: 1500,
        huge: Some(false),
        offload: false,
    };
    let mut dpdk = Dpdk::start(vec![device("net_null0"), device("net_null1")], &cores[..1]).unwrap();
    let (seat, told) = (dpdk.seat(0).unwrap(), dpdk.tell());
    let ((done, is_done), (turn, is_turn)) = (channel(), channel());
    let work = std::thread::spawn(move || {
        // Each lets go, and takes up, twice: what is left of it the first time would fail the second.
        seat.run(move |core| {
            let mut ports = core.open().unwrap();
            ports.iter_mut().for_each(|port| change_hands(port, &done, &is_turn));
        })
    });
    for _ in 0..2 {
        is_done.recv().unwrap();
        dpdk.let_go().unwrap();
        turn.send(()).unwrap();
        is_done.recv().unwrap();
        dpdk.take_up().unwrap();
        assert_eq!(dpdk.tell(), told, "they are what they were, addresses included");
        turn.send(()).unwrap();
    }
    assert!(work.join().unwrap());
}
