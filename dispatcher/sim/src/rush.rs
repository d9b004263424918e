//! A rush: for a while three times more connections come than servers with limits may take, while some of them fail, drain and recover.
//!
//! [`run`] lives through one of a seed and panics when something does not hold, at any step: no server has more than its limits, and no line is longer than
//! its bound. (That nobody waits while there is room is looked at in storms without reserves: a reserve is kept free for others.) In the end everybody has been told something, and what became of all adds up.
//! What cannot be told from one rush (how much each class had) is returned, and sums up.

use crate::apps::{Ended, Plan};
use crate::config::{client_ip, two_armed};
use crate::host::Stack;
use crate::rng::Rng;
use crate::storm::limited::Watch;
use crate::tls::{ALERT, Hello};
use crate::world::World;
use core::time::Duration;
use dispatcher::engine::{Config, Limits};
use lb::admission::{ClassCounters, ClassSpec, Classes, Prefix, Share};
use lb::{Algorithm, BackendLimits, MaxHandshakes, State, Wanted};

/// Servers.
const SERVERS: usize = 3;
/// Handshakes that one may have at a time.
const AT_ONCE: u32 = 4;
/// What one takes of a server's time.
const WORKS: Duration = Duration::from_millis(2);
/// By class, each with clients of its own: three that share by weight, and one that has little weight and a reserve.
const WEIGHTS: [u16; 4] = [6, 3, 1, 1];
/// Of the last one, percent.
const RESERVE: u8 = 25;
/// Places in a line: in the calm more than are used, in trouble fewer.
const PLACES: [usize; 2] = [6000, 60];
/// How long one waits.
const TIMEOUT: Duration = Duration::from_millis(400);
/// As long as anybody may take to be told.
const LONG: Duration = Duration::from_secs(300);

/// What a rush came to, or several.
#[derive(Clone, Copy, Default, Debug)]
pub struct Seen {
    /// Connections that came.
    pub arrivals: u64,
    /// What became of them.
    pub asked: ClassCounters,
    /// Clients that were served.
    pub served: u64,
    /// Clients that were told that there was no room in time, or whose first bytes nobody answered.
    pub turned_away: u64,
    /// Failures, drains, recoveries and changed limits.
    pub changes: u64,
    /// By class: full handshakes admitted in the second of calm in which every class had somebody waiting.
    pub shares: [u64; WEIGHTS.len()],
    /// Most that waited at once.
    pub most_waiting: usize,
}

impl core::ops::AddAssign for Seen {
    fn add_assign(&mut self, other: Seen) {
        self.arrivals += other.arrivals;
        self.asked += other.asked;
        self.served += other.served;
        self.turned_away += other.turned_away;
        self.changes += other.changes;
        self.shares.iter_mut().zip(other.shares).for_each(|(mine, theirs)| *mine += theirs);
        self.most_waiting = self.most_waiting.max(other.most_waiting);
    }
}

impl Seen {
    /// Of the three classes that share by weight: how far the furthest is from its part of what they had, in hundredths of the latter.
    pub fn unfairness(&self) -> f64 {
        let all: u64 = self.shares[..3].iter().sum();
        let part = |n: usize| 100.0 * self.shares[n] as f64 / all.max(1) as f64;
        (0..3).map(|n| (part(n) - 10.0 * f64::from(WEIGHTS[n])).abs()).fold(0.0, f64::max)
    }
}

fn config() -> Config {
    let limits = BackendLimits {
        max_handshakes: Some(MaxHandshakes::Units(AT_ONCE * 10)),
        max_connections: Some(2 * AT_ONCE),
        slow_start: None,
    };
    let config = Config {
        probe: true,
        limits: Limits { flows: 8192, hellos: 256, waiting: 4096, ..Limits::default() },
        ..two_armed(SERVERS, false)
    };
    config.policy(|p| p.classes = classes(PLACES[0])).pool(|p| {
        p.balance = Algorithm::LeastConn;
        p.backends.iter_mut().for_each(|b| b.limits = limits);
    })
}

fn classes(places: usize) -> Classes {
    let classes = WEIGHTS.iter().enumerate().map(|(n, weight)| ClassSpec {
        clients: (0..2).filter_map(|i| Prefix::new(client_ip(2 * n + i, false), 32)).collect(),
        share: Share::Weight(*weight),
        reserve: if n == 3 { RESERVE } else { 0 },
        queue: places,
        timeout: TIMEOUT,
        ..ClassSpec::new(format!("class{n}"))
    });
    Classes::new(classes.collect()).expect("classes that can be")
}

struct Rush {
    w: World,
    rng: Rng,
    wanted: Wanted,
    came: u64,
    changes: u64,
    most_waiting: usize,
    /// Clients that may give up by a reset.
    impatient: Vec<(usize, usize)>,
}

impl Rush {
    /// One more comes, of any class, and time goes on by as much as three times the servers' work has them come apart.
    fn arrive(&mut self) {
        // More of each class than its part of the servers.
        let class = [0, 0, 0, 0, 1, 1, 2, 3][self.rng.below(8)];
        let host = 2 * class + self.rng.below(2);
        let id = self.w.connect(host, Plan::tls(&Hello::default(), b"x"));
        self.came += 1;
        // What one takes in all: the answer's way and the close's, besides the work.
        let apart = (WORKS + Duration::from_millis(3)).as_micros() as usize / (SERVERS * AT_ONCE as usize) / 3;
        self.w.run(Duration::from_micros(self.rng.below(2 * apart) as u64));
        if self.rng.per_mille(20) {
            self.impatient.push(id);
        }
        if self.rng.per_mille(20) && !self.impatient.is_empty() {
            let id = self.impatient.swap_remove(self.rng.below(self.impatient.len()));
            if self.w.conn(id).outcome == Ended::Open {
                self.w.socket(id).abort();
            }
        }
        let (waiting, _) = self.w.admission();
        self.most_waiting = self.most_waiting.max(waiting);
        assert!(waiting <= self.w.config.limits.waiting, "{waiting} wait");
    }

    /// Something changes at a server; one of them always serves.
    fn change(&mut self) {
        let server = 1 + self.rng.below(SERVERS - 1);
        let backend = &mut self.wanted.pools[0].backends[server];
        self.changes += 1;
        match self.rng.below(4) {
            0 => {
                let host = self.w.servers()[server];
                let deaf = &mut self.w.hosts[host].deaf;
                *deaf = !*deaf;
                return;
            }
            1 => backend.state = if backend.state == State::Up { State::Draining } else { State::Up },
            2 => backend.state = if backend.state == State::Up { State::Down } else { State::Up },
            _ => backend.limits.max_connections = Some(self.rng.between(1, 3 * AT_ONCE as usize) as u32),
        }
        self.w.reconfigure(&self.wanted, &[]).expect("a configuration that works");
    }

    fn admitted(&self) -> [u64; WEIGHTS.len()] {
        let mut sum = [0; WEIGHTS.len()];
        self.w.queues(|q| sum[q.class.index()] += q.counters.admitted);
        sum
    }

    fn everybody_waits(&self) -> bool {
        let mut waiting = [0; WEIGHTS.len()];
        self.w.queues(|q| waiting[q.class.index()] += q.waiting);
        waiting.iter().all(|n| *n > 0)
    }

    /// All is well again, nobody comes any more, and everybody is told.
    fn end(mut self, shares: [u64; WEIGHTS.len()]) -> Seen {
        for host in self.w.servers() {
            self.w.hosts[host].deaf = false;
        }
        self.wanted = self.w.config.wanted.clone();
        self.w.reconfigure(&self.wanted, &[]).expect("a configuration that works");
        self.w.run_until(LONG, "everybody is told", |w| w.open_connections() == 0);
        self.w.assert_quiescent();
        let (_, asked) = self.w.admission();
        let conns = || self.w.hosts.iter().flat_map(|h| &h.conns);
        let served = conns().filter(|c| c.complete()).count() as u64;
        // Some gave up just then.
        let told = conns().filter(|c| c.received == ALERT && c.outcome == Ended::Closed).count() as u64;
        assert!(told <= asked.timed_out + asked.refused, "{told} were told, of {asked:?}");
        Seen {
            arrivals: self.came,
            asked,
            served,
            turned_away: self.came - served,
            changes: self.changes,
            shares,
            most_waiting: self.most_waiting,
        }
    }
}

/// Lives through a rush of so many connections, or somewhat more, among so many workers.
///
/// # Panics
/// When something does not hold.
pub fn run(seed: u64, workers: usize, arrivals: u64) -> Seen {
    let config = config();
    let wanted = config.wanted.clone();
    let mut w = World::new("rush", config, seed, 2 * WEIGHTS.len(), SERVERS, false);
    w.record(0);
    // Thousands of them are kept.
    let stack = Stack { receive_buffer: 4096, send_buffer: 4096, ..Stack::default() };
    w.hosts.iter_mut().for_each(|host| host.stack = stack);
    for host in w.servers() {
        w.server_mut(host).works = WORKS;
    }
    if workers > 1 {
        w.employ(workers);
    } else {
        // Both ways through the engine are compared in storms.
        w.engine.part();
    }
    let mut watch = Watch::new(SERVERS, false, true);
    w.observe(move |w| watch.look(w));
    let mut rush = Rush { w, rng: Rng::new(seed), wanted, came: 0, changes: 0, most_waiting: 0, impatient: vec![] };
    // The lines fill; then a second of calm and saturation.
    let begun = rush.w.now + TIMEOUT / 2;
    while rush.w.now < begun {
        rush.arrive();
    }
    let (before, end) = (rush.admitted(), rush.w.now + Duration::from_secs(1));
    while rush.w.now < end {
        rush.arrive();
        assert!(rush.everybody_waits(), "a class has nobody who waits");
    }
    let after = rush.admitted();
    let shares = core::array::from_fn(|n| after[n] - before[n]);
    // And then trouble.
    rush.wanted.services[0].policy.classes = classes(PLACES[1]);
    rush.w.reconfigure(&rush.wanted, &[]).expect("a configuration that works");
    while rush.came < arrivals {
        rush.arrive();
        if rush.rng.per_mille(15) {
            rush.change();
        }
    }
    rush.end(shares)
}
