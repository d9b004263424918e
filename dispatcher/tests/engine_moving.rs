//! An engine as bytes, and back: in the middle of everything, whatever the bytes say, and with another number of workers.

use core::time::Duration;
use dispatcher::engine::trail::Sought;
use dispatcher::engine::{Config, ConnectionRecord, Effects, Engine, PortId, Share};
use dispatcher::explain::Explanation;
use lb::{Algorithm, BackendLimits, Left, MaxHandshakes};
use sim::apps::{COOKIE, Closing, Plan, pattern};
use sim::config::two_armed;
use sim::links::Faults;
use sim::rng::{Rng, size_from_env};
use sim::storm::{self, Kind, Kinds, Scenario, Wish};
use sim::tls::Hello;
use sim::upgrade::{CONNECTIONS, TRAILS, TURNS, connections, distorted, left};
use sim::world::World;

/// All kinds of connections, some at their beginning, some at their end.
fn busy(seed: u64) -> World {
    let config = Config { flow_idle_timeout: Duration::from_secs(100), ..two_armed(3, false) };
    let config = config.pool(|pool| pool.balance = Algorithm::ALL[seed as usize % 4]);
    let mut config = config.policy(|p| {
        p.proxy_protocol = seed.is_multiple_of(2);
        p.cookie = Some(COOKIE.parse().unwrap());
    });
    if !seed.is_multiple_of(3) {
        // Some wait.
        let limits = BackendLimits {
            max_connections: Some(5),
            max_handshakes: Some(MaxHandshakes::Units(20)),
            ..BackendLimits::default()
        };
        config.wanted.pools[0].backends.iter_mut().for_each(|backend| backend.limits = limits);
    }
    let mut w = World::new("moving", config, seed, 4, 3, false);
    for s in w.servers() {
        w.server_mut(s).expects_proxy_header = seed.is_multiple_of(2);
    }
    w.roughen(Faults::ROUGH);
    for n in 0..60 {
        let size = [100, 3000, 40_000][w.rng.below(3)];
        let hello = Hello { at_least: [0, 1700, 6000][w.rng.below(3)], ..Hello::default() };
        let closing = [Closing::ClientFirst, Closing::Half, Closing::Abort][w.rng.below(3)];
        let plan = match n % 4 {
            0 => Plan::get(size),
            1 => Plan::http("a.example", None, 500, &pattern(size)),
            _ => Plan::tls_bytes(hello.bytes(), &pattern(size)),
        };
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
    for seed in 0..3 {
        let mut w = busy(seed);
        let now = w.now;
        let packed = w.pack();
        let left = left(w.directory());
        let mut rng = Rng::new(seed);
        let (mut lost, mut taken) = (0, 0);
        for round in 0..48 {
            let bytes = distorted(&packed, CONNECTIONS, &mut rng, 1 + round / 4);
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
fn trails_and_turns_that_cannot_be_are_refused_or_harm_nobody() {
    // By turns.
    let mut w = busy(2);
    let (packed, left, now) = (w.pack(), left(w.directory()), w.now);
    let mut rng = Rng::new(9);
    for kind in [TRAILS, TURNS] {
        let (mut refused, mut taken) = (0, 0);
        for round in 0..60 {
            let bytes = distorted(&packed, kind, &mut rng, 1 + round / 10);
            let mut engine = fresh(&w, &left);
            match engine.take_over(&[bytes], &|_| 0, now) {
                Ok(all) => {
                    taken += 1;
                    assert_eq!(all.lost, 0);
                }
                Err(_) => {
                    refused += 1;
                    continue;
                }
            }
            // Whatever they say, they can be told, written again, and overwritten.
            let directory = engine.directory().clone();
            engine.trails(0, usize::MAX, &Sought::default(), now, &mut |trail, lives| {
                let told = Explanation::new(0, &trail, lives.as_ref(), &directory, std::time::UNIX_EPOCH);
                _ = (told.text(), serde_json::to_string(&told).unwrap());
                true
            });
            let again = engine.pack(now, now);
            fresh(&w, &left).take_over(&[again], &|_| 0, now).unwrap();
            let mut at = now;
            for _ in 0..200 {
                at += Duration::from_secs(1);
                engine.poll(at, &mut Nothing);
            }
            while !engine.shutdown(1000, at, &mut Nothing) {}
        }
        assert!(refused > 3 && taken > 3, "section {kind}: {refused} refused, {taken} taken");
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

/// Balanced in each way.
fn storms(kinds: &[Kind], first_seed: u64, worlds: u64, connections: usize) -> storm::Sum {
    let kinds: Kinds = kinds.iter().copied().chain([Kind::Upgrade]).collect();
    let wish = Wish { connections, kinds: Some(kinds), ..Wish::default() };
    let mut sum = storm::Sum::default();
    for seed in first_seed..first_seed + worlds {
        let balance = Algorithm::ALL[seed as usize % 4];
        sum += storm::run(&Scenario { balance, ..Scenario::new(seed, &wish) }, None);
    }
    println!("{sum:?}");
    assert!(sum.upgrades >= worlds, "{} upgrades", sum.upgrades);
    sum
}

/// Beside each engine that is written down and read again runs one that is not: what both send and tell, what they count, and what they have learned in the end, is
/// the same. `LAB_CONNECTIONS=10000` for as many.
#[test]
fn upgrades_in_the_middle_of_storms_change_nothing_of_what_is_sent_told_and_learned() {
    let worlds = (size_from_env(600) / 100) as u64;
    let sum = storms(&[Kind::Loss, Kind::Reordering, Kind::Duplication], 1, worlds, 100);
    assert_eq!((sum.excused, sum.untouched), (0, sum.connections), "nobody has an excuse");
    assert!(sum.promised > sum.connections / 4);
}

/// At every step of the worlds: see `sim::storm`.
#[test]
fn upgrades_where_servers_have_limits_pass_none_and_leave_nobody_waiting_where_there_is_room() {
    assert!(storms(&[Kind::Limits], 1, 10, 60).waited > 50);
}

#[test]
fn upgrades_with_another_number_of_workers_break_no_connection() {
    let sum = storms(&[Kind::Workers, Kind::Loss], 1, 6, 40);
    assert_eq!(sum.excused, 0, "nobody has an excuse");
    // Limits hold for all of them together.
    assert!(storms(&[Kind::Workers, Kind::Limits], 1, 6, 40).waited > 0);
}

#[test]
fn upgrades_keep_what_a_configuration_lets_go_of() {
    assert!(storms(&[Kind::Reconfigure], 1, 10, 40).changes > 0);
}
