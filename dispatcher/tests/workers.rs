//! Several workers, as many queues of every port: frames come in by any queue, and flows work as if there were one.

mod lab;

use core::time::Duration;
use dispatcher::engine::{AddressMode, Config, DropReason, HashOn};
use lab::apps::{Plan, pattern};
use lab::config::{one_armed, two_armed};
use lab::tls::Hello;
use lab::world::{Faults, World};

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
    let config = Config { hash_on: HashOn::SourceIp, ..two_armed(3, false) };
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
