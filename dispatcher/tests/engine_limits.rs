//! Servers with limits, in the simulated world: what they see themselves is never above them, whoever waits is served as soon as he can be, and what is told of
//! all adds up. With one worker, two and four.

use core::time::Duration;
use dispatcher::engine::Config;
use lb::admission::{ClassSpec, Classes};
use lb::{Algorithm, BackendId, BackendLimits, MaxHandshakes, State};
use sim::apps::{Closing, Ended, Plan, Write, pattern};
use sim::config::two_armed;
use sim::rng::Rng;
use sim::tls::Hello;
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
    assert_eq!(sum.asked, sum.admitted + sum.abandoned + sum.timed_out + sum.refused, "{sum:?}");
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
        let alert = [0x15, 3, 3, 0, 2, 2, 0x50];
        let told = conns.iter().filter(|c| c.received == alert && c.outcome == Ended::Closed).count();
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
        assert_eq!(sum.asked, sum.admitted + sum.abandoned + sum.timed_out + sum.refused);
        w.assert_all_complete();
        w.run(Duration::from_secs(30));
        let slots = w.directory().live().slots();
        (0..3).map(BackendId).for_each(|id| assert_eq!(slots.used(id), Default::default(), "seed {seed}"));
    }
}
