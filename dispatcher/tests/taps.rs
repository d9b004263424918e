//! Frames that a worker shows with what became of each, against what came in and went out at its ports.

use dispatcher::engine::{DropReason, Engine, PortId};
use dispatcher::io::mem::{Memory, Wire};
use dispatcher::time::Time;
use dispatcher::wire::build::{Link, Segment};
use dispatcher::wire::packet::{Body, Flags, Parsed};
use dispatcher::wire::{Mac, Seq};
use dispatcher::worker::poll::{Clock, Loop};
use dispatcher::worker::tap::{Lost, Tap, Wants};
use dispatcher::worker::{Idle, Status, Totals};
use sim::config::{client_ip, two_armed, vip};
use std::net::SocketAddr;
use std::sync::Arc;

/// Of a frame: port, sent or received, its bytes as far as kept, bytes that it had, comment.
type Shown = (u8, bool, Vec<u8>, usize, String);

const CLIENT: Mac = Mac([2, 0, 0, 0, 9, 1]);

/// A worker between two wires, of which the first leads to the clients.
struct Scene {
    run: Loop<Engine>,
    wires: [Wire; 2],
    port: Mac,
    status: Status,
}

impl Scene {
    fn new() -> Scene {
        let config = two_armed(2, false);
        let port = config.ports[0].mac;
        let engine = Engine::new(config, [7; 32], Time::ZERO).unwrap();
        let memory = Memory::new(256);
        let ((a, a_wire), (b, b_wire)) = (memory.port(64), memory.port(64));
        let run = Loop::new(engine, vec![a, b], Clock::start(), Idle::Spin, None, Totals::default());
        Scene { run, wires: [a_wire, b_wire], port, status: Status::default() }
    }

    fn client(&self, n: usize, to: SocketAddr, flags: Flags, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
        let segment = Segment {
            link: Link { dst: self.port, src: CLIENT, ..Link::default() },
            src: (client_ip(n, false).into(), 40_000),
            dst: (to.ip().into(), to.port()),
            seq: Seq(seq),
            ack: Seq(ack),
            flags,
            window: 60_000,
            options: if flags.contains(Flags::SYN) { &[2, 4, 5, 0xb4] } else { &[] },
            payload,
        };
        let mut frame = vec![0; segment.frame_len()];
        let len = segment.write(&mut frame);
        frame.truncate(len);
        frame
    }

    /// Turns until nothing more is shown or sent: what came out at the wires.
    fn turn(&mut self, now: u64) -> Vec<(u8, Vec<u8>)> {
        self.run.turn(Time::from_millis(now));
        let of = |port: u8, wire: &Wire| std::iter::from_fn(|| wire.take()).map(|f| (port, f)).collect::<Vec<_>>();
        [of(0, &self.wires[0]), of(1, &self.wires[1])].concat()
    }

    fn show(&mut self, wants: Wants, snap: usize, frames: usize) -> Arc<Tap> {
        let tap = Arc::new(Tap::new(wants, snap, frames));
        self.status.show(tap.clone());
        self.run.look_for_tap(&self.status);
        assert!(tap.is_taken());
        tap
    }
}

fn shown(tap: &Tap) -> Vec<Shown> {
    let mut all = vec![];
    while tap.next(|s| all.push((s.port.0, s.sent, s.bytes().to_vec(), s.original, s.comment.to_string()))) {}
    all
}

/// The number that a SYN-ACK carries.
fn number(frame: &[u8]) -> u32 {
    match Parsed::read(frame).unwrap().body {
        Ok(Body::Tcp(_, tcp)) => tcp.seq.0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_frame_is_shown_as_it_came_with_what_became_of_it_and_what_was_sent_for_it() {
    let mut scene = Scene::new();
    // Before anybody looks: questions to neighbours.
    scene.turn(1);
    let tap = scene.show(Wants::default(), 2048, 64);
    let syn = scene.client(0, vip(false), Flags::SYN, 1000, 0, &[]);
    assert!(scene.wires[0].inject(&syn));
    let out = scene.turn(2);
    let all = shown(&tap);
    assert_eq!(all[0], (0, false, syn.clone(), syn.len(), "answered by a cookie".to_string()));
    assert_eq!((all[1].0, all[1].1, all[1].4.as_str()), (0, true, "the answer to it"));
    assert!(out.contains(&(0, all[1].2.clone())), "what is shown as sent was sent");
    let sent: Vec<_> = all.iter().filter(|s| s.1).map(|s| (s.0, s.2.clone())).collect();
    let sorted = |mut all: Vec<(u8, Vec<u8>)>| {
        all.sort();
        all
    };
    assert_eq!(sorted(sent), sorted(out.clone()), "and all that was sent is shown");
    let cookie = number(&all[1].2);
    // Its cookie comes back with something to say, which is held.
    let ack = scene.client(0, vip(false), Flags::ACK, 1001, cookie.wrapping_add(1), b"GET / HTTP/1.0\r\n\r\n");
    assert!(scene.wires[0].inject(&ack));
    let out = scene.turn(3);
    let all = shown(&tap);
    let client = SocketAddr::new(client_ip(0, false), 40_000);
    assert_eq!(all[0].2, ack);
    assert!(all[0].4.starts_with("held, connection opened"), "{}", all[0].4);
    assert!(all[0].4.contains(&format!("; connection 1 of {client}, dialing, server ")), "{}", all[0].4);
    assert_eq!(all.iter().filter(|s| s.1).count(), out.len());
    // What nobody expects.
    let stray = scene.client(1, vip(false), Flags::ACK, 1, 1, b"x");
    let mut elsewhere = syn.clone();
    elsewhere[5] ^= 0x40;
    assert!(scene.wires[0].inject(&stray) && scene.wires[0].inject(&elsewhere) && scene.wires[0].inject(&[7; 20]));
    scene.turn(4);
    let told: Vec<_> = shown(&tap).into_iter().filter(|s| !s.1).map(|s| s.4).collect();
    let dropped = |why: DropReason| format!("dropped: {}", why.as_str());
    assert_eq!(told.len(), 3);
    assert!(told[0].contains(DropReason::BadCookie.as_str()), "{told:?}");
    // By its addresses it is the connection's; by its Ethernet address somebody else's.
    assert!(
        told[1].starts_with(&format!("{}; connection 1 of {client}, dialing", dropped(DropReason::NotForUs))),
        "{told:?}"
    );
    assert_eq!(told[2], dropped(DropReason::Malformed));
    assert_eq!(tap.lost(), 0);
}

#[test]
fn a_tap_shows_what_is_meant_and_no_longer_than_somebody_looks() {
    let mut scene = Scene::new();
    scene.turn(1);
    let from = |scene: &Scene, n| scene.client(n, vip(false), Flags::SYN, 1, 0, &[]);
    let mut lost = from(&scene, 1);
    lost[5] ^= 0x40;
    let inject = |scene: &Scene| {
        let frames = [from(scene, 0), lost.clone(), from(scene, 1)];
        frames.iter().for_each(|frame| assert!(scene.wires[0].inject(frame)));
    };
    let one = format!("{}/32", client_ip(1, false)).parse().unwrap();
    let drops = Wants { lost: Some(Lost::Any), ..Wants::default() };
    let other = Wants { lost: Some(Lost::To(DropReason::BadChecksum)), ..Wants::default() };
    let client = Wants { client: Some(one), ..Wants::default() };
    let both = Wants { client: Some(one), ..drops.clone() };
    for (n, (wants, expected)) in (2..).zip([(drops, 1), (other, 0), (client, 3), (both, 1)]) {
        let tap = scene.show(wants.clone(), 2048, 64);
        inject(&scene);
        scene.turn(n);
        let all = shown(&tap);
        assert_eq!(all.len(), expected, "{wants:?}: {all:?}");
        assert!(all.iter().all(|s| wants.lost.is_none() || s.2 == lost));
        tap.end();
        scene.run.look_for_tap(&scene.status);
        assert_eq!(Arc::strong_count(&tap), 1, "the worker has let go of it");
        inject(&scene);
        scene.turn(n);
        assert!(shown(&tap).is_empty());
    }
}

#[test]
fn frames_are_cut_and_what_finds_no_buffer_is_counted_and_costs_nobody_anything() {
    let mut scene = Scene::new();
    scene.turn(1);
    let tap = scene.show(Wants { lost: Some(Lost::Any), ..Wants::default() }, 64, 4);
    let mut frame = scene.client(0, vip(false), Flags::ACK, 1, 1, &[b'x'; 500]);
    frame[5] ^= 0x40;
    for round in 0..3 {
        (0..10).for_each(|_| assert!(scene.wires[0].inject(&frame)));
        scene.turn(2 + round);
        let all = shown(&tap);
        assert_eq!(all.len(), 4);
        assert!(all.iter().all(|s| s.2 == frame[..64] && s.3 == frame.len()));
        assert_eq!(tap.lost(), 6 * (round + 1));
    }
    assert_eq!(scene.run.handler().counters().dropped(DropReason::NotForUs), 30);
    assert!(
        tap.put(Time::ZERO, PortId(1), true, (&[1; 60], 60), &"ä".repeat(500)),
        "a comment that is too long is cut"
    );
}
