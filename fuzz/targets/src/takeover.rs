//! What another process has written down, for one that takes over.

use core::time::Duration;
use dispatcher::engine::{Config, ConnectionRecord, Effects, Engine, Limits, PortId, Share};
use dispatcher::pack::{Ids, Packer, Unpacker};
use dispatcher::time::Time;
use lb::{BackendLimits, MaxHandshakes};
use sim::apps::{COOKIE, Plan, pattern};
use sim::config::two_armed;
use sim::links::Faults;
use sim::tls::Hello;
use sim::world::World;

/// The section that says whose all others are.
const HEAD: u32 = 1;
const VERSION: u32 = 2;

fn config() -> Config {
    let limits = Limits { flows: 64, hellos: 8, waiting: 8, watches: 16, sessions: 64, ..Limits::default() };
    let mut config = Config { limits, ..two_armed(3, false) }.policy(|p| p.cookie = COOKIE.parse().ok());
    let limits = BackendLimits {
        max_connections: Some(2),
        max_handshakes: Some(MaxHandshakes::Auto),
        slow_start: Some(Duration::from_secs(9)),
    };
    config.wanted.pools[0].backends.iter_mut().for_each(|backend| backend.limits = limits);
    config
}

/// An engine in the middle of some connections, as an input: its sections, each as kind, length and bytes.
pub fn takeover_seed(seed: u64) -> Vec<u8> {
    let mut w = World::new("takeover", config(), seed, 3, 3, false);
    w.roughen(Faults::ROUGH);
    for n in 0..12 {
        let hello = Hello { at_least: [0, 1700][w.rng.below(2)], ..Hello::default() };
        let plan = match n % 4 {
            0 => Plan::get(900),
            1 => Plan::http("a.example", None, 50, &pattern(900)),
            _ => Plan::tls_bytes(hello.bytes(), &pattern(900)),
        };
        w.connect(n % 3, plan);
        let wait = w.rng.below(1500) as u64;
        w.run(Duration::from_micros(wait));
    }
    let (packed, nobody) = (w.pack(), Ids::default());
    let mut sections = Unpacker::new(&packed, &nobody);
    let mut input = vec![];
    while let Some(section) = sections.section().expect("its own") {
        if section.kind != HEAD {
            input.push(section.kind as u8);
            input.extend((section.bytes.len() as u32).to_le_bytes());
            input.extend(section.bytes);
        }
    }
    input
}

struct Nothing;

impl Effects for Nothing {
    fn transmit(&mut self, _: PortId, _: &[u8]) -> bool {
        true
    }
    fn connection_ended(&mut self, _: &ConnectionRecord<'_>) {}
}

/// Sections of another process, each with a checksum that is right: they are refused, or taken over, and whatever was taken ends in order.
pub fn takeover(bytes: &[u8]) {
    let (secret, mut now) = ([7; 32], Time::from_millis(1_000_000));
    let fresh = || {
        let share = Share::divide(&config(), &secret, 1).expect("a configuration that works").remove(0);
        Engine::for_worker(config(), secret, share, now).expect("a configuration that works")
    };
    let (before, nobody) = (fresh().pack(Time::ZERO, now), Ids::default());
    let head = Unpacker::new(&before, &nobody).section().ok().flatten().expect("a head");
    let mut written = Packer::new();
    written.section(HEAD, VERSION, |to| to.raw(head.bytes));
    let mut rest = bytes;
    while let Some(([kind, len @ ..], behind)) = rest.split_first_chunk::<5>() {
        let (body, behind) = behind.split_at(behind.len().min(u32::from_le_bytes(*len) as usize));
        written.section(u32::from(*kind), VERSION, |to| to.raw(body));
        rest = behind;
    }
    let mut engine = fresh();
    let Ok(taken) = engine.take_over(&[written.into_bytes()], &|_| 0, now) else { return };
    assert_eq!(engine.flows(), taken.flows);
    // It is of no use where something was lost, and goes on all the same.
    for _ in 0..40 {
        now += Duration::from_millis(700);
        engine.poll(now, &mut Nothing);
    }
    engine.pack(Time::ZERO, now);
    while !engine.shutdown(1000, now, &mut Nothing) {}
    for _ in 0..40 {
        now += Duration::from_millis(500);
        engine.poll(now, &mut Nothing);
    }
    assert_eq!((engine.flows(), engine.held_hellos()), (0, 0), "nothing is left");
}
