//! Several workers, as many queues of every port: frames come in by any queue, and flows work as if there were one.

use core::sync::atomic::Ordering;
use core::time::Duration;
use dispatcher::engine::{AddressMode, Config, DropReason, Engine, Share};
use dispatcher::flow::Rss;
use dispatcher::io::mem::Memory;
use dispatcher::wire::build::{Link, Segment};
use dispatcher::wire::packet::Flags;
use dispatcher::wire::{Addr, Seq};
use dispatcher::worker::poll::{Clock, Loop};
use dispatcher::worker::{Exchange, Idle, Snapshot, Status, Steering, Totals};
use lb::HashOn;
use sim::apps::{Plan, pattern};
use sim::config::{one_armed, two_armed};
use sim::links::Faults;
use sim::tls::Hello;
use sim::world::World;
use std::sync::Arc;

const LONG: Duration = Duration::from_secs(120);

fn world(name: &'static str, config: Config, workers: usize, clients: usize, servers: usize, v6: bool) -> World {
    let mut w = World::new(name, config, 11, clients, servers, v6);
    w.employ(workers);
    w
}

/// Runs to the end: every connection complete, nothing left, every frame handed over received. Returns how many were.
fn settle(mut w: World) -> u64 {
    w.run_until_done(LONG);
    w.assert_all_complete();
    let idle = w.config.flow_idle_timeout * 2;
    w.run_until(idle, "flows left", |w| w.crew().flows() == 0);
    w.crew().check();
    w.crew().handover().sent
}

#[test]
fn all_bytes_arrive_whichever_queue_their_frames_come_in_by() {
    for (mode, v6, workers) in [
        (AddressMode::Snat, false, 2),
        (AddressMode::Dnat, false, 2),
        (AddressMode::Snat, true, 3),
        (AddressMode::Dnat, true, 3),
    ] {
        let config = Config { address_mode: mode, ..two_armed(2, v6) };
        let mut w = world("workers", config, workers, 3, 2, v6);
        for n in 0..12 {
            w.connect(n % 3, Plan::echo(&[b"x".to_vec(), pattern(60_000)].concat()));
            w.connect(n % 3, Plan::get(20_000));
        }
        // Every worker has its share of the flows.
        w.run(Duration::from_millis(30));
        let opened: Vec<_> = w.crew().loops.iter().map(|l| l.handler().counters().flows_opened).collect();
        assert!(opened.iter().all(|n| *n > 0), "{opened:?}");
        let frames = w.crew().counters().frames_in;
        assert!(frames > 0);
        let handed = settle(w);
        assert!(handed > 500, "{handed} frames handed over");
    }
}

/// With cards that tell what they do, workers dial from ports whose answers come by their own queues, and lead clients as the card
/// does: nothing but what goes to all, and what belongs to the probes' ports, is handed over.
#[test]
fn where_cards_tell_to_which_queue_they_bring_what_no_flow_is_handed_over() {
    let key: Vec<u8> = (0..40u8).map(|n| n.wrapping_mul(91) ^ 0x5a).collect();
    for (v6, workers) in [(false, 2), (true, 3)] {
        let table: Vec<_> = (0..128).map(|entry| Some(entry % workers)).collect();
        let card = Arc::new(Rss::new(&key, &table, true, true).unwrap());
        let config = two_armed(2, v6);
        let mut w = World::new("workers-rss", config, 11, 3, 2, v6);
        w.employ_with(workers.into(), Some(card));
        for n in 0..12 {
            w.connect(n % 3, Plan::echo(&[b"x".to_vec(), pattern(60_000)].concat()));
            w.connect(n % 3, Plan::get(20_000));
        }
        w.run_until_done(LONG);
        let opened: Vec<_> = w.crew().loops.iter().map(|l| l.handler().counters().flows_opened).collect();
        assert!(opened.iter().all(|n| *n > 0), "{opened:?}");
        let (frames, handed) = (w.crew().counters().frames_in, settle(w));
        // The answers to the workers' ARP and neighbour questions, a few for each.
        assert!(frames > 1000 && handed < 60, "{handed} of {frames} frames handed over");
    }
}

#[test]
fn bad_links_and_one_arm_make_no_difference() {
    for (mode, arm) in [(AddressMode::Snat, one_armed(2, false)), (AddressMode::Dnat, two_armed(2, false))] {
        let mut w = world("workers-rough", Config { address_mode: mode, ..arm }, 3, 3, 2, false);
        w.roughen(Faults::ROUGH);
        for n in 0..9 {
            w.connect(n % 3, Plan::echo(&[b"x".to_vec(), pattern(20_000)].concat()));
        }
        settle(w);
    }
}

#[test]
fn a_session_learned_by_one_worker_is_known_to_all() {
    let config = two_armed(3, false).pool(|p| p.hash_on = HashOn::SourceIp);
    let mut w = world("workers-sessions", config, 3, 12, 3, false);
    let mut returned = 0;
    for c in 0..12 {
        let id = w.connect(c, Plan::tls(&Hello::default(), b"body"));
        w.run_until_done(LONG);
        let issued = w.conn(id).flight().unwrap();
        for back in [(c + 1) % 12, (c + 5) % 12] {
            let hello = Hello { session_id: issued.session_id.clone(), ..Hello::default() };
            let again = w.connect(back, Plan::tls(&hello, b"body"));
            w.run_until_done(LONG);
            let f = w.conn(again).flight().unwrap();
            assert!(f.resumed && f.server == issued.server, "client {c}");
            returned += 1;
        }
    }
    let handover = w.crew().handover();
    assert_eq!(returned, 24);
    assert!(handover.updates_sent > 10, "rows travelled: {handover:?}");
    settle(w);
}

#[test]
fn each_worker_probes_by_ports_of_its_own_and_hears_its_own_answers() {
    let config = Config { probe: true, ..two_armed(3, false) };
    let mut w = world("workers-probes", config, 3, 1, 3, false);
    w.run(Duration::from_secs(5));
    for run in &w.crew().loops {
        let c = run.handler().counters();
        // Answered: a probe that is not is repeated every second. The questions to three neighbours, three probes, three resets.
        assert!(c.made <= 40, "{c:?}");
        assert_eq!(c.refused[DropReason::NoFlow as usize], 0);
    }
    w.connect(0, Plan::echo(b"hello"));
    settle(w);
}

/// One that was told to stop earlier waits for what the other still hands over.
#[test]
fn what_was_handed_over_is_received_also_when_workers_stop_one_after_the_other() {
    const FRAMES: usize = 1500;
    let config = two_armed(1, false);
    let secret = [3; 32];
    let steering = Steering::new(&config, &secret, 2);
    let exchanges = Exchange::between(&steering, 1500, false).unwrap();
    let shares = Share::divide(&config, &secret, 2).unwrap();
    let clock = Clock::start();
    let stops = [Status::default(), Status::default()];
    stops[0].stop.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        for (stop, (share, exchange)) in stops.iter().zip(shares.into_iter().zip(exchanges)) {
            let config = &config;
            scope.spawn(move || {
                let worker = share.worker();
                let memory = Memory::new(2 * FRAMES);
                let (ports, wires): (Vec<_>, Vec<_>) = config.ports.iter().map(|_| memory.port(FRAMES)).unzip();
                for n in 0..FRAMES as u16 {
                    // An acknowledgement of no flow, to the VIP.
                    let mut buf = [0; 128];
                    let length = Segment {
                        link: Link { dst: config.ports[0].mac, ..Link::default() },
                        src: (Addr::v4([10, 1, 0, 7]), 1024 + n),
                        dst: (config.vips()[0].ip().into(), 443),
                        seq: Seq(1),
                        ack: Seq(2),
                        flags: Flags::ACK,
                        window: 1,
                        options: &[],
                        payload: b"late",
                    }
                    .write(&mut buf);
                    assert!(wires[0].inject(&buf[..length]));
                }
                let engine = Engine::for_worker(config.clone(), secret, share, clock.now()).unwrap();
                let run = Loop::new(engine, ports, clock, Idle::Sleep, None, Totals::default());
                if worker == 1 {
                    std::thread::sleep(Duration::from_millis(30));
                }
                run.among(exchange).run(stop);
            });
        }
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while stops[1].snapshot().received.first().is_none_or(|t| t.frames < FRAMES as u64) {
            assert!(std::time::Instant::now() < until, "all frames taken in");
            std::thread::sleep(Duration::from_millis(5));
        }
        stops[1].stop.store(true, Ordering::Relaxed);
    });
    let all = Snapshot::fold(&stops.map(|s| s.snapshot()));
    assert!(all.handover.sent > FRAMES as u64 / 4, "{:?}", all.handover);
    assert_eq!((all.handover.received, all.handover.full), (all.handover.sent, 0));
}
