//! Servers with limits, in the simulated world: what they see themselves is never above them, whoever waits is served as soon as he can be, and what is told of
//! all adds up. With one worker, two and four.

use core::time::Duration;
use dispatcher::engine::{Config, End};
use lb::admission::{ClassSpec, Classes};
use lb::{Algorithm, BackendId, BackendLimits, MaxHandshakes, State};
use sim::apps::{Closing, Ended, Plan, Write, pattern};
use sim::config::two_armed;
use sim::rng::Rng;
use sim::tls::{ALERT, Hello};
use sim::world::World;

const LONG: Duration = Duration::from_secs(600);

fn limited(servers: usize, max_connections: u32, units: u32) -> Config {
    let limits = BackendLimits {
        max_connections: Some(max_connections),
        max_handshakes: Some(MaxHandshakes::Units(units)),
        slow_start: None,
    };
    two_armed(servers, false).pool(|p| {
        p.balance = Algorithm::LeastConn;
        p.backends.iter_mut().for_each(|b| b.limits = limits);
    })
}

/// Everybody is of one class, and waits for up to so long.
fn patient(config: Config, seconds: u64) -> Config {
    let timeout = Duration::from_secs(seconds);
    let classes = Classes::new(vec![ClassSpec { timeout, ..ClassSpec::new("all") }]).unwrap();
    config.policy(|p| p.classes = classes.clone())
}

/// At every instant: what servers see, and what is counted, is within the limits; and if there is somebody who waits and room for him, it is his
/// worker's turn.
fn check(w: &World, handshakes: bool) {
    let directory = w.directory();
    let slots = directory.live().slots();
    for host in w.servers() {
        let server = w.server(host).index;
        let id = BackendId(server as u16);
        // One that was removed has none.
        let limits = slots.limits(id);
        let seen = w.hosts[host].connected();
        let most = limits.connections.map_or(usize::MAX, |most| most as usize);
        assert!(seen <= most, "server {server} sees {seen} connections");
        assert!(limits.hold(slots.used(id)), "server {server}: {:?}", slots.used(id));
    }
    let (waiting, _) = w.admission();
    let room = directory.backends().filter(|b| !b.leaving && b.state == State::Up).any(|b| {
        let (used, limits) = (slots.used(b.id), slots.limits(b.id));
        // With limits of handshakes, room is held for one who needs more.
        used.connections < limits.connections.unwrap() && (!handshakes || used.units + 10 <= limits.units.unwrap())
    });
    assert!(waiting == 0 || !room || w.is_due(), "{waiting} wait although there is room");
}

fn run(w: &mut World, handshakes: bool) {
    w.run_until(LONG, "everybody is served", |w| {
        check(w, handshakes);
        w.open_connections() == 0
    });
    let (waiting, sum) = w.admission();
    assert_eq!(waiting, 0);
    assert_eq!(sum.asked, sum.admitted + sum.turned_away(), "{sum:?}");
}

/// So many connections, at random times within so many milliseconds: TLS and not, closed by either side.
fn arrive(w: &mut World, rng: &mut Rng, clients: usize, connections: usize, within: u64) {
    for _ in 0..connections {
        let body = pattern(rng.below(20_000));
        let plan = match rng.below(4) {
            0 => Plan::get(1 + rng.below(100_000)),
            1 => Plan::echo(&[b"x".to_vec(), body].concat()),
            _ => Plan::tls(&Hello::default(), &body),
        };
        let plan = if rng.below(8) == 0 { plan.closing(Closing::Abort) } else { plan };
        w.connect(rng.below(clients), plan);
        w.run(Duration::from_micros(rng.below((within * 1000 / connections as u64) as usize) as u64));
        check(w, true);
    }
}

#[test]
fn servers_never_see_more_than_their_limits_and_everybody_is_served() {
    for (seed, workers) in [(1, 1), (2, 2), (3, 4), (4, 2)] {
        let mut w = World::new("limits", patient(limited(3, 4, 25), 300), seed, 6, 3, false);
        if workers > 1 {
            w.employ(workers);
        }
        let mut rng = Rng::new(seed);
        arrive(&mut w, &mut rng, 6, 150, 60);
        run(&mut w, true);
        let (_, sum) = w.admission();
        assert_eq!((sum.admitted, sum.timed_out, sum.refused), (150, 0, 0), "seed {seed}");
        assert!(sum.waited > 50, "seed {seed}: {sum:?}");
        w.assert_all_complete();
    }
}

/// Other processes take over, with other numbers of workers, while clients wait and shake hands.
#[test]
fn limits_hold_through_upgrades_and_everybody_is_served_and_counted_once() {
    for (seed, workers) in [(5, 1), (6, 2), (7, 4)] {
        let mut w = World::new("limits", patient(limited(3, 4, 25), 300), seed, 6, 3, false);
        if workers > 1 {
            w.employ(workers);
        }
        let mut rng = Rng::new(seed);
        let (mut waiting, mut units) = (0, 0);
        for _ in 0..15 {
            arrive(&mut w, &mut rng, 6, 10, 4);
            waiting += w.admission().0;
            let used = |w: &World| -> Vec<_> {
                let directory = w.directory().clone();
                directory.backends().map(|b| directory.live().slots().used(b.id)).collect()
            };
            let before = used(&w);
            units += before.iter().map(|used| used.units).sum::<u32>();
            w.upgrade(1 + rng.below(4));
            assert_eq!(used(&w), before);
            check(&w, true);
        }
        run(&mut w, true);
        let (_, sum) = w.admission();
        assert_eq!((sum.admitted, sum.timed_out, sum.refused), (150, 0, 0), "seed {seed}");
        assert!(waiting > 50 && units > 50, "seed {seed}: {waiting} waited, {units} units were in use");
        w.assert_all_complete();
        w.assert_quiescent();
    }
}

/// One that has a server for so long, and three who wait for it, one after the other; then another process takes over. What is told of the three.
fn three_wait(seconds: u64, held: Duration, apart: Duration) -> Vec<(u32, usize, End)> {
    let mut w = World::new("turns", patient(limited(1, 1, 20), seconds), 21, 6, 1, false);
    let mut plan = Plan::tls(&Hello::default(), b"good bye");
    let last = Write { pause: held, ..Write::now(plan.writes[1].bytes.split_off(5)) };
    plan.writes.push(last);
    w.connect(0, plan);
    let all: Vec<_> = (1..4)
        .map(|client| {
            w.run(apart);
            w.connect(client, Plan::tls(&Hello::default(), b"hello"))
        })
        .collect();
    w.run(apart);
    assert_eq!(w.admission().0, 3);
    w.upgrade(1);
    assert_eq!(w.admission().0, 3);
    run(&mut w, true);
    w.run(Duration::from_secs(1));
    let told = |id: &(usize, usize)| {
        let local = w.conn(*id).local;
        let at = w.told.iter().position(|told| told.client == local).unwrap();
        (w.told[at].waited_ms, at, w.told[at].end)
    };
    all.iter().map(told).collect()
}

#[test]
fn who_waits_has_waited_as_long_after_an_upgrade_as_before() {
    for (waited, _, end) in three_wait(2, Duration::from_secs(20), Duration::from_millis(300)) {
        assert!(end == End::QueueTimeout && (2000..2010).contains(&waited), "{end:?} after {waited} ms of 2000");
    }
}

#[test]
fn who_waits_keeps_his_turn_through_an_upgrade() {
    let told = three_wait(60, Duration::from_millis(120), Duration::from_millis(20));
    assert!(told.iter().all(|(_, _, end)| *end == End::Fin));
    assert!(told.is_sorted_by_key(|(_, at, _)| *at), "{told:?}");
    // From when each came, and not from the upgrade.
    let waited: Vec<_> = told.iter().map(|(waited, ..)| *waited).collect();
    assert!(waited.is_sorted_by(|a, b| a - b > 10), "{waited:?}");
}

#[test]
fn who_waits_too_long_is_told_and_the_others_are_served() {
    for (seed, workers) in [(11, 1), (12, 2)] {
        let mut w = World::new("time-outs", patient(limited(1, 2, 20), 1), seed, 6, 1, false);
        if workers > 1 {
            w.employ(workers);
        }
        for n in 0..40 {
            // Each holds its place for 200 ms.
            let mut plan = Plan::tls(&Hello::default(), b"good bye");
            let last = Write { pause: Duration::from_millis(200), ..Write::now(plan.writes[1].bytes.split_off(5)) };
            plan.writes.push(last);
            w.connect(n % 6, plan);
        }
        run(&mut w, true);
        let (_, sum) = w.admission();
        assert!(sum.timed_out > 5 && sum.admitted > 5, "seed {seed}: {sum:?}");
        let conns: Vec<_> = w.hosts.iter().flat_map(|h| &h.conns).collect();
        let told = conns.iter().filter(|c| c.received == ALERT && c.outcome == Ended::Closed).count();
        let served = conns.iter().filter(|c| c.complete()).count();
        assert_eq!((told as u64, served as u64), (sum.timed_out, sum.admitted), "seed {seed}");
    }
}

#[test]
fn limits_drains_and_classes_that_change_under_load_lose_nobody() {
    for (seed, workers) in [(21, 1), (22, 2), (23, 4)] {
        let config = patient(limited(3, 4, 25), 300);
        let mut w = World::new("changes", config.clone(), seed, 6, 3, false);
        if workers > 1 {
            w.employ(workers);
        }
        let mut rng = Rng::new(seed);
        let mut wanted = config.wanted.clone();
        for round in 0..12 {
            arrive(&mut w, &mut rng, 6, 20, 8);
            let server = rng.below(wanted.pools[0].backends.len());
            match rng.below(4) {
                // Up only: what is in use may be above a limit that was lowered, which is another test's.
                0 => wanted.pools[0].backends[server].limits.max_connections = Some(4 + round),
                1 => {
                    let backends = &mut wanted.pools[0].backends;
                    let other = if backends[server].state == State::Up { State::Draining } else { State::Up };
                    backends[server].state = other;
                    let n = backends.len();
                    backends[(server + 1) % n].state = State::Up;
                }
                2 => {
                    let name = format!("class{round}");
                    let spec = ClassSpec { timeout: Duration::from_secs(300), reserve: 20, ..ClassSpec::new(name) };
                    let rest = ClassSpec { timeout: Duration::from_secs(300), ..ClassSpec::new("rest") };
                    wanted.services[0].policy.classes = Classes::new(vec![spec, rest]).unwrap();
                }
                _ => {
                    let all = &mut wanted.pools[0].backends;
                    if all.len() == 3 && all[..2].iter().any(|b| b.state == State::Up) {
                        all.truncate(2);
                    } else if all.len() == 2 {
                        all.push(config.wanted.pools[0].backends[2].clone());
                    }
                }
            }
            w.reconfigure(&wanted, &[]).unwrap();
        }
        wanted.pools[0].backends.iter_mut().for_each(|b| b.state = State::Up);
        w.reconfigure(&wanted, &[]).unwrap();
        w.run_until(LONG, "everybody is served", |w| w.open_connections() == 0);
        let (waiting, sum) = w.admission();
        assert_eq!((waiting, sum.timed_out, sum.refused, sum.abandoned), (0, 0, 0, 0), "seed {seed}");
        w.assert_all_complete();
        w.run(Duration::from_secs(30));
        let directory = w.directory();
        let slots = directory.live().slots();
        assert!(directory.backends().all(|b| slots.used(b.id) == Default::default()), "seed {seed}: all is given back");
    }
}

#[test]
fn servers_that_fail_and_recover_under_load_are_never_given_more_than_they_may() {
    for (seed, workers) in [(31, 1), (32, 2), (33, 4)] {
        let config = Config { probe: true, ..patient(limited(3, 4, 25), 300) };
        let mut w = World::new("failures", config, seed, 6, 3, false);
        if workers > 1 {
            w.employ(workers);
        }
        let mut rng = Rng::new(seed);
        w.run(Duration::from_secs(1));
        for round in 0..8 {
            let host = 6 + rng.below(3);
            w.hosts[host].deaf = round % 2 == 0;
            for other in 6..9 {
                if other != host {
                    w.hosts[other].deaf = false;
                }
            }
            for _ in 0..20 {
                w.connect(rng.below(6), Plan::tls(&Hello::default(), &pattern(rng.below(5000))));
                w.run(Duration::from_millis(rng.below(30) as u64));
                let slots = w.directory().live().slots();
                (0..3).map(BackendId).for_each(|id| assert!(slots.limits(id).hold(slots.used(id))));
            }
        }
        (6..9).for_each(|h| w.hosts[h].deaf = false);
        w.run_until(LONG, "everybody is served", |w| w.open_connections() == 0);
        let (waiting, sum) = w.admission();
        assert_eq!(waiting, 0);
        assert_eq!(sum.asked, sum.admitted + sum.turned_away());
        w.assert_all_complete();
        w.run(Duration::from_secs(30));
        let slots = w.directory().live().slots();
        (0..3).map(BackendId).for_each(|id| assert_eq!(slots.used(id), Default::default(), "seed {seed}"));
    }
}

/// So many short connections at even distances within so many seconds, whether served or not.
fn come(w: &mut World, connections: usize, seconds: u64) {
    for n in 0..connections {
        w.connect(n % 6, Plan::tls(&Hello::default(), b"good bye"));
        w.run(Duration::from_micros(seconds * 1_000_000 / connections as u64));
    }
}

/// A server is deaf until it is held to be down, and comes back. What it had accepted until then.
fn recover(w: &mut World, host: usize) -> usize {
    w.hosts[host].deaf = true;
    come(w, 60, 12);
    let before = w.server(host).accepted;
    w.hosts[host].deaf = false;
    // It is asked once a second.
    w.run(Duration::from_millis(1500));
    before
}

#[test]
fn a_server_that_recovers_gets_few_new_clients_at_first_and_its_share_later() {
    for workers in [1, 2] {
        for units in [None, Some(200)] {
            let limits = BackendLimits {
                max_handshakes: units.map(MaxHandshakes::Units),
                slow_start: Some(Duration::from_secs(20)),
                max_connections: None,
            };
            let config = two_armed(2, false).pool(|p| {
                p.balance = Algorithm::RoundRobin;
                p.backends.iter_mut().for_each(|b| b.limits = limits);
            });
            let mut w = World::new("slow start", Config { probe: true, ..config }, 41, 6, 2, false);
            if workers > 1 {
                w.employ(workers);
            }
            come(&mut w, 100, 2);
            let shares = [6, 7].map(|host| w.server(host).accepted);
            assert!(shares[0].abs_diff(shares[1]) <= 6, "not at our own start: {shares:?}");
            let limit = |w: &World| w.directory().live().slots().limits(BackendId(0)).units;
            assert_eq!(limit(&w), units);
            let before = recover(&mut w, 6);
            assert!(limit(&w).is_none_or(|units| units < 40), "{:?}", limit(&w));
            come(&mut w, 200, 3);
            let first = w.server(6).accepted - before;
            assert!((1..40).contains(&first), "{first} of 200, of which half are its share");
            w.run(Duration::from_secs(18));
            assert_eq!(limit(&w), units);
            let before = w.server(6).accepted;
            come(&mut w, 200, 3);
            let later = w.server(6).accepted - before;
            assert!((90..=110).contains(&later), "{later} of 200");
            w.run_until(LONG, "everybody is served", |w| w.open_connections() == 0);
        }
    }
}

#[test]
fn by_least_connections_too_one_that_recovers_has_its_part_of_the_connections_and_no_more() {
    let slow_start = Some(Duration::from_secs(40));
    let config = two_armed(5, false).pool(|p| {
        p.balance = Algorithm::LeastConn;
        p.backends.iter_mut().for_each(|b| b.limits.slow_start = slow_start);
    });
    let mut w = World::new("least connections", Config { probe: true, ..config }, 46, 6, 5, false);
    // Each stays for two seconds: 25 in a second are 10 at each of five servers.
    let come = |w: &mut World, seconds: u64| {
        let mut inside = [0; 5];
        for n in 0..25 * seconds as usize {
            let mut plan = Plan::tls(&Hello::default(), b"good bye");
            let last = Write { pause: Duration::from_secs(2), ..Write::now(plan.writes[1].bytes.split_off(5)) };
            plan.writes.push(last);
            w.connect(n % 6, plan);
            w.run(Duration::from_millis(40));
            (0..5).for_each(|s| inside[s] += w.hosts[6 + s].connected());
        }
        let others = inside[1..].iter().sum::<usize>() as f64 / 4.0;
        inside[0] as f64 / others
    };
    come(&mut w, 4);
    w.hosts[6].deaf = true;
    come(&mut w, 12);
    w.hosts[6].deaf = false;
    w.run(Duration::from_millis(1500));
    // In the middle of each of these it is so far: about an eighth, three, five and seven.
    let parts: Vec<f64> = (0..4).map(|_| come(&mut w, 10)).collect();
    for (n, part) in parts.iter().enumerate() {
        let expected = (2 * n + 1) as f64 / 8.0;
        assert!((part - expected).abs() < 0.13, "{part:.2} of what others have, not {expected:.2}: {parts:.2?}");
    }
    let part = come(&mut w, 4);
    assert!((0.9..1.1).contains(&part), "{part}");
    w.run_until(LONG, "everybody is served", |w| w.open_connections() == 0);
}

#[test]
fn the_only_server_that_is_there_gets_all_although_it_has_just_recovered() {
    let slow_start = Some(Duration::from_secs(60));
    let config = two_armed(2, false).pool(|p| p.backends.iter_mut().for_each(|b| b.limits.slow_start = slow_start));
    let mut w = World::new("only one", Config { probe: true, ..config }, 42, 6, 2, false);
    let before = recover(&mut w, 6);
    w.hosts[7].deaf = true;
    come(&mut w, 60, 12);
    let before = w.server(6).accepted.max(before);
    come(&mut w, 50, 2);
    assert_eq!(w.server(6).accepted - before, 50);
}

#[test]
fn clients_that_wait_for_a_server_that_recovers_are_let_in_as_its_limits_grow() {
    for workers in [1, 2] {
        let config =
            patient(limited(1, 20, 200), 300).pool(|p| p.backends[0].limits.slow_start = Some(Duration::from_secs(20)));
        let mut w = World::new("growing", Config { probe: true, ..config }, 43, 6, 1, false);
        if workers > 1 {
            w.employ(workers);
        }
        w.run(Duration::from_secs(1));
        recover(&mut w, 6);
        for n in 0..20 {
            // Each stays for a minute.
            let mut plan = Plan::tls(&Hello::default(), b"good bye");
            let last = Write { pause: Duration::from_secs(60), ..Write::now(plan.writes[1].bytes.split_off(5)) };
            plan.writes.push(last);
            w.connect(n % 6, plan);
        }
        let mut inside = vec![];
        for _ in 0..20 {
            w.run(Duration::from_secs(1));
            inside.push(w.hosts[6].connected());
            let slots = w.directory().live().slots();
            assert!(slots.limits(BackendId(0)).hold(slots.used(BackendId(0))));
        }
        assert!(inside.is_sorted() && inside[0] <= 4 && (8..=14).contains(&inside[9]), "{inside:?}");
        assert_eq!(inside[19], 20, "nobody has left, and all are in: {inside:?}");
    }
}

#[test]
fn a_limit_that_is_found_out_falls_when_the_server_gets_slow_and_grows_again() {
    for workers in [1, 2] {
        let config = patient(limited(1, 1000, 10), 300).pool(|p| {
            let limits = &mut p.backends[0].limits;
            (limits.max_handshakes, limits.max_connections) = (Some(MaxHandshakes::Auto), None);
        });
        let mut w = World::new("auto", config, 44, 6, 1, false);
        if workers > 1 {
            w.employ(workers);
        }
        let limit = |w: &World| w.directory().live().slots().limits(BackendId(0)).units.unwrap();
        assert_eq!(limit(&w), 40);
        // Always more than may be inside.
        let offer = |w: &mut World, works: u64, millis: u64| {
            w.server_mut(6).works = Duration::from_millis(works);
            for n in 0..millis / 10 {
                for _ in 0..2 {
                    let (waiting, _) = w.admission();
                    if waiting < 20 {
                        w.connect(n as usize % 6, Plan::tls(&Hello::default(), b"good bye"));
                    }
                }
                w.run(Duration::from_millis(10));
                let slots = w.directory().live().slots();
                assert!(workers > 1 || slots.used(BackendId(0)).units <= 1000);
            }
        };
        offer(&mut w, 40, 1500);
        let whole = limit(&w);
        offer(&mut w, 200, 3000);
        let slow = limit(&w);
        offer(&mut w, 40, 2000);
        let again = limit(&w);
        assert!(whole > 50 && slow < whole / 2 && again > slow + 30, "{workers}: {whole} {slow} {again}");
        w.run_until(LONG, "everybody is served", |w| w.open_connections() == 0);
        w.assert_all_complete();
    }
}

#[test]
fn a_server_that_an_operator_had_taken_away_recovers_too() {
    let slow_start = Some(Duration::from_secs(20));
    let config = two_armed(2, false).pool(|p| {
        p.balance = Algorithm::RoundRobin;
        p.backends.iter_mut().for_each(|b| b.limits.slow_start = slow_start);
    });
    let mut wanted = config.wanted.clone();
    let mut w = World::new("taken away", config, 45, 6, 2, false);
    for (state, expected) in [(State::Draining, 90..=110), (State::Down, 1..=40)] {
        for state in [state, State::Up] {
            wanted.pools[0].backends[0].state = state;
            w.reconfigure(&wanted, &[]).unwrap();
            w.run(Duration::from_millis(200));
        }
        let before = w.server(6).accepted;
        come(&mut w, 200, 3);
        let got = w.server(6).accepted - before;
        assert!(expected.contains(&got), "{state}: {got} of 200");
    }
}
