//! Servers with limits in a storm: by the seed, how many connections and handshakes each may have, which requests go first, and how long they wait.
//!
//! What must hold then, at every step of the world, is in [`Watch::look`].

use crate::config::server_ip;
use crate::rng::Rng;
use crate::world::World;
use core::time::Duration;
use lb::admission::{ClassSpec, Classes, Cost, Limits, Share, Used};
use lb::{BackendId, BackendLimits, MaxHandshakes, Policy, State};

/// A server's limits by chance. Some have none.
pub fn limits(rng: &mut Rng) -> BackendLimits {
    let max_connections = rng.per_mille(800).then(|| rng.between(1, 6) as u32);
    let max_handshakes = match rng.below(4) {
        0 => None,
        1 => Some(MaxHandshakes::Auto),
        _ => Some(MaxHandshakes::Units(rng.between(10, 45) as u32)),
    };
    let slow_start = rng.per_mille(300).then(|| Duration::from_secs(rng.between(1, 20) as u64));
    BackendLimits { max_connections, max_handshakes, slow_start }
}

/// Which requests go first, by chance: one to four classes.
pub fn rules(rng: &mut Rng, policy: &mut Policy) {
    let costs = [Some(Cost::Resumed), Some(Cost::NotTls), Some(Cost::Full), None];
    let mut kept = 100;
    let specs = (0..rng.between(1, 4)).map(|n| {
        let reserve = rng.below(2) * rng.between(1, kept / 4);
        kept -= reserve;
        ClassSpec {
            cost: costs[rng.below(4)],
            share: if rng.per_mille(300) { Share::Strict } else { Share::Weight(rng.between(1, 9) as u16) },
            queue: [1, 4, 30, 1000][rng.below(4)],
            timeout: Duration::from_millis([50, 1000, 10_000, 100_000][rng.below(4)]),
            reserve: reserve as u8,
            ..ClassSpec::new(format!("class{n}"))
        }
    });
    policy.classes = Classes::new(specs.collect()).expect("classes that can be");
    let times = [Some(0), Some(50), Some(2000), None];
    policy.spill_after = times[rng.below(4)].map(Duration::from_millis);
}

/// Whether what is in use is within the limits, though it may stay what it was before when they are lowered.
pub fn hold(limits: Limits, before: Used, used: Used) -> bool {
    let at_least = |limit: Option<u32>, before: u32| limit.map(|limit| limit.max(before));
    let connections = at_least(limits.connections, before.connections);
    Limits { connections, units: at_least(limits.units, before.units) }.hold(used)
}

/// What is remembered from one step of the world to the next.
pub struct Watch {
    /// By backend: what it had of its limits, and what these were.
    before: Vec<(Used, Limits)>,
    /// Nothing keeps servers from knowing what we know, so they can be asked themselves.
    servers_know: bool,
    /// Nobody is unreachable, and no worker stands still.
    prompt: bool,
}

impl Watch {
    /// Of a world with so many slots for backends. Nothing has been seen yet.
    pub fn new(slots: usize, servers_know: bool, prompt: bool) -> Watch {
        Watch { before: vec![(Used::default(), Limits::NONE); slots], servers_know, prompt }
    }

    /// Panics when a server has more than its limits, though what it has may stay when a limit is lowered; or when somebody waits although all
    /// servers have room, and no worker is about to see to it.
    pub fn look(&mut self, w: &World) {
        let directory = w.directory();
        let slots = directory.live().slots();
        for (n, before) in self.before.iter_mut().enumerate() {
            let id = BackendId(n as u16);
            let (used, limits) = (slots.used(id), slots.limits(id));
            // A slow start that begins and `auto` lower them after something was taken, within one step.
            let (was, under) = *before;
            let held = hold(limits, was, used) || hold(under, was, used);
            assert!(held, "backend {n}: {used:?} after {before:?}, {limits:?}");
            *before = (used, limits);
        }
        if self.servers_know {
            for b in directory.backends() {
                let most = slots.limits(b.id).connections.map_or(usize::MAX, |most| most as usize);
                let its = |h: &usize| server_ip(w.server(*h).index, b.addr.is_ipv6()) == b.addr.ip();
                let seen = w.servers().into_iter().filter(its);
                let seen: usize = seen.map(|h| w.hosts[h].connected()).sum();
                assert!(seen <= most, "{} sees {seen} connections, of {most}", b.name);
            }
        }
        let (waiting, _) = w.admission();
        let has_room = |id| {
            let (used, limits) = (slots.used(id), slots.limits(id));
            limits.connections.is_none_or(|most| used.connections < most)
                && limits.units.is_none_or(|most| used.units + 10 <= most)
        };
        let room = directory.backends().filter(|b| b.state != State::Down).all(|b| has_room(b.id));
        // What is kept for a class is no room for others.
        let kept = directory.services().any(|s| s.policy().classes.specs().iter().any(|class| class.reserve > 0));
        let due = !self.prompt || kept || w.is_due();
        assert!(waiting == 0 || !room || due, "{waiting} wait although all have room");
    }
}
