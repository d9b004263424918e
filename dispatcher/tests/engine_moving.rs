//! An engine as bytes, and back: in the middle of everything, whatever the bytes say, and with another number of workers.

use core::time::Duration;
use dispatcher::engine::{Config, ConnectionRecord, Effects, Engine, PortId, Share};
use lb::Left;
use sim::apps::{Closing, Plan, pattern};
use sim::config::two_armed;
use sim::links::Faults;
use sim::rng::{Rng, size_from_env};
use sim::storm::{self, Kind, Kinds, Scenario, Wish};
use sim::tls::Hello;
use sim::upgrade::{connections, distorted, left};
use sim::world::World;

/// All kinds of connections, some at their beginning, some at their end.
fn busy(seed: u64) -> World {
    let config = Config { flow_idle_timeout: Duration::from_secs(100), ..two_armed(3, false) };
    let config = config.policy(|p| p.proxy_protocol = seed.is_multiple_of(2));
    let mut w = World::new("moving", config, seed, 4, 3, false);
    for s in w.servers() {
        w.server_mut(s).expects_proxy_header = seed.is_multiple_of(2);
    }
    w.roughen(Faults::ROUGH);
    for n in 0..60 {
        let size = [100, 3000, 40_000][w.rng.below(3)];
        let hello = Hello { at_least: [0, 1700, 6000][w.rng.below(3)], ..Hello::default() };
        let closing = [Closing::ClientFirst, Closing::Half, Closing::Abort][w.rng.below(3)];
        let plan = if n % 3 == 0 { Plan::get(size) } else { Plan::tls_bytes(hello.bytes(), &pattern(size)) };
        let client = w.rng.below(4);
        w.connect(client, plan.closing(closing));
        let wait = w.rng.below(20_000) as u64;
        w.run(Duration::from_micros(wait));
    }
    w
}

struct Nothing;

impl Effects for Nothing {
    fn transmit(&mut self, _: PortId, _: &[u8]) -> bool {
        true
    }
    fn connection_ended(&mut self, _: &ConnectionRecord<'_>) {}
}

/// An engine that has had no frame, with the world's secret.
fn fresh(w: &World, left: &Left) -> Engine {
    let secret = w.secret();
    let share = Share::divide_with(&w.config, &secret, 1, left).unwrap().remove(0);
    Engine::for_worker(w.config.clone(), secret, share, w.now).unwrap()
}

#[test]
fn whatever_the_bytes_say_nothing_panics_and_nothing_is_left_of_what_was_refused() {
    for seed in 0..2 {
        let mut w = busy(seed);
        let now = w.now;
        let packed = w.pack();
        let left = left(w.directory());
        let mut rng = Rng::new(seed);
        let (mut lost, mut taken) = (0, 0);
        for round in 0..60 {
            let bytes = distorted(&packed, &mut rng, 1 + round / 4);
            let mut engine = fresh(&w, &left);
            let Ok(all) = engine.take_over(&[bytes], &|_| 0, now) else { continue };
            (lost, taken) = (lost + all.lost, taken + all.flows);
            assert_eq!(engine.flows(), all.flows);
            // Whatever it believes, it goes on.
            let mut at = now;
            for _ in 0..200 {
                at += Duration::from_secs(1);
                engine.poll(at, &mut Nothing);
            }
            while !engine.shutdown(1000, at, &mut Nothing) {}
            for _ in 0..40 {
                at += Duration::from_millis(500);
                engine.poll(at, &mut Nothing);
            }
            assert_eq!((engine.flows(), engine.held_hellos()), (0, 0), "round {round} of seed {seed}");
        }
        assert!(lost > 10 && taken > 500, "{lost} lost, {taken} taken: something was tried");
    }
}

#[test]
fn what_is_cut_off_or_damaged_is_refused_as_a_whole() {
    let mut w = busy(1);
    let (packed, left, now) = (w.pack(), left(w.directory()), w.now);
    assert!(connections(std::slice::from_ref(&packed)).len() > 20);
    for cut in (1..packed.len()).step_by(packed.len() / 50) {
        assert!(fresh(&w, &left).take_over(&[packed[..cut].to_vec()], &|_| 0, now).is_err(), "cut at {cut}");
        let mut damaged = packed.clone();
        damaged[cut] ^= 4;
        assert!(fresh(&w, &left).take_over(&[damaged], &|_| 0, now).is_err(), "damaged at {cut}");
    }
    assert!(fresh(&w, &left).take_over(&[packed], &|_| 0, now).is_ok());
}

fn storms(kinds: &[Kind], first_seed: u64, worlds: u64, connections: usize) -> storm::Sum {
    let kinds: Kinds = kinds.iter().copied().chain([Kind::Upgrade]).collect();
    let wish = Wish { connections, kinds: Some(kinds), ..Wish::default() };
    let mut sum = storm::Sum::default();
    for seed in first_seed..first_seed + worlds {
        sum += storm::run(&Scenario::new(seed, &wish), None);
    }
    assert!(sum.upgrades >= worlds, "{} upgrades", sum.upgrades);
    sum
}

/// `LAB_CONNECTIONS=10000` for as many.
#[test]
fn upgrades_in_the_middle_of_storms_break_no_connection() {
    let worlds = (size_from_env(600) / 100) as u64;
    let sum = storms(&[Kind::Loss, Kind::Reordering, Kind::Duplication], 1, worlds, 100);
    assert_eq!(sum.excused, 0, "nobody has an excuse");
}

#[test]
fn upgrades_with_another_number_of_workers_break_no_connection() {
    let sum = storms(&[Kind::Workers, Kind::Loss], 1, 6, 40);
    assert_eq!(sum.excused, 0, "nobody has an excuse");
}

#[test]
fn upgrades_keep_lines_for_room_and_what_a_configuration_lets_go_of() {
    let sum = storms(&[Kind::Limits], 1, 10, 60);
    assert!(sum.waited > 0);
    assert!(storms(&[Kind::Reconfigure], 1, 10, 40).changes > 0);
}
