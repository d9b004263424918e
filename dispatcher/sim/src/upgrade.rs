//! Another process takes over, in the middle of everything: all engines are written down, and others, of the same secret and clock, go on from that.

use crate::crew::Crew;
use crate::rng::Rng;
use crate::twin::Twin;
use crate::world::World;
use dispatcher::engine::{Config, Engine, Share, TakenOver};
use dispatcher::pack::{Ids, Pack, Packer, Unpacker};
use dispatcher::time::Time;
use lb::affinity::SAVED_WORDS;
use lb::{Directory, Left, LeftBackend};

/// What a process leaves to another: all that its directory still has.
pub fn left(directory: &Directory) -> Left {
    let backend = |b: &lb::Backend| LeftBackend { name: b.name.clone(), addr: b.addr, tunnel: b.tunnel };
    Left {
        backends: directory.backends().map(backend).collect(),
        listeners: directory.listeners().iter().map(|l| l.addr()).collect(),
    }
}

/// Nothing may be missing.
fn check(taken: &[TakenOver], flows: usize) {
    let lost: Vec<_> = taken.iter().filter(|t| t.lost > 0).collect();
    assert!(lost.is_empty(), "lost in an upgrade: {lost:?}");
    assert_eq!(taken.iter().map(|t| t.flows).sum::<usize>(), flows, "connections taken over");
}

impl World {
    /// The engine, written down.
    pub fn pack(&mut self) -> Vec<u8> {
        self.pack_since(Time::ZERO)
    }

    /// The engine without rows and trails that have not changed since then.
    pub fn pack_since(&mut self, then: Time) -> Vec<u8> {
        let now = self.engine_now();
        let mut packed = vec![];
        self.engine.look_at(|engine| packed = engine.pack(then, now));
        packed
    }

    /// Another process takes over, with so many workers where there are several.
    pub fn upgrade(&mut self, workers: usize) {
        let (now, config) = (self.engine_now(), self.config_of_now());
        let secret = self.secret();
        match &mut self.crew {
            Some(crew) => {
                let taken = crew.upgrade(&config, secret, workers, self.now);
                check(&taken.0, taken.1);
            }
            None => {
                let limited = config.backends().iter().any(|b| b.limits.bind());
                let short = config.limits.hellos < config.limits.flows.min(64);
                if self.full > 0 || config.probe || limited || short {
                    // What it says first may find no room, and backends are asked at once. Where buffers for hellos are short, it goes by their places
                    // which one of several clients gives way that keep half a hello.
                    self.engine.part();
                }
                let flows = self.engine.flows();
                let taken = self.engine.upgrade(&config, secret, now, self.local_ports);
                check(&[taken], flows);
            }
        }
        self.show();
    }
}

/// One engine goes on from what another was.
pub fn successor(
    before: &mut Engine,
    config: &Config,
    secret: [u8; 32],
    now: Time,
    local_ports: Option<u16>,
) -> (Engine, TakenOver) {
    let bytes = before.pack(Time::ZERO, now);
    let left = left(before.directory());
    let share = Share::divide_with(config, &secret, 1, &left).expect("a configuration that works").remove(0);
    let mut engine = Engine::for_worker(config.clone(), secret, share, now).expect("a configuration that works");
    local_ports.into_iter().for_each(|count| engine.use_local_ports(count));
    let taken = engine.take_over(core::slice::from_ref(&bytes), &|_| 0, now).expect("it can be read");
    // What was written is there, and written again the same.
    if numbers(before.directory()) == numbers(engine.directory()) {
        compare(&[bytes], &[engine.pack(Time::ZERO, now)]);
    }
    (engine, taken)
}

/// Who has which number, as connections have it.
fn numbers(directory: &Directory) -> String {
    let backends: Vec<_> = directory.backends().map(|b| (b.id, &b.name, b.addr)).collect();
    format!("{backends:?} {:?} {:?}", directory.services_called(), directory.pools_called())
}

/// Sections, of those that engines write.
const ROWS: u32 = 6;
/// Connections.
pub const CONNECTIONS: u32 = 7;
/// Whose turn it is.
pub const TURNS: u32 = 11;
/// Why connections went where they went.
pub const TRAILS: u32 = 12;

/// All affinity rows that an engine has written, in a fixed order.
pub fn rows(packed: &[u8]) -> Vec<[u64; SAVED_WORDS]> {
    let nobody = Ids::default();
    let mut all = vec![];
    let mut sections = Unpacker::new(packed, &nobody);
    while let Some(section) = sections.section().expect("sections") {
        let mut from = Unpacker::new(section.bytes, &nobody);
        while section.kind == ROWS && !from.is_empty() {
            all.push(Pack::unpack(&mut from).expect("a row"));
        }
    }
    all.sort_unstable();
    all
}

/// What was written, and written again by who has taken it over.
fn compare(before: &[Vec<u8>], after: &[Vec<u8>]) {
    assert!(connections(before) == connections(after), "connections have changed on their way");
    assert!(entries(before, TRAILS) == entries(after, TRAILS), "trails have changed on their way");
}

/// All connections that engines have written, in a fixed order, with all that is kept of them.
pub fn connections(packed: &[Vec<u8>]) -> Vec<Vec<u8>> {
    entries(packed, CONNECTIONS)
}

/// All that stands in sections of this kind, in a fixed order.
pub fn entries(packed: &[Vec<u8>], kind: u32) -> Vec<Vec<u8>> {
    let nobody = Ids::default();
    let mut all = vec![];
    for bytes in packed {
        let mut sections = Unpacker::new(bytes, &nobody);
        while let Some(section) = sections.section().expect("sections") {
            let mut from = Unpacker::new(section.bytes, &nobody);
            while section.kind == kind && !from.is_empty() {
                all.push(from.block().expect("an entry").to_vec());
            }
        }
    }
    all.sort();
    all
}

/// The same bytes, of which some in sections of this kind are others: with checksums that are right.
pub fn distorted(packed: &[u8], kind: u32, rng: &mut Rng, bytes: usize) -> Vec<u8> {
    let nobody = Ids::default();
    let mut sections = Unpacker::new(packed, &nobody);
    let mut to = Packer::new();
    while let Some(section) = sections.section().expect("sections") {
        let mut body = section.bytes.to_vec();
        if section.kind == kind && !body.is_empty() {
            for _ in 0..bytes {
                let at = rng.below(body.len());
                body[at] = [rng.below(256) as u8, body[at] ^ 1 << rng.below(8), 0, 255][rng.below(4)];
            }
        }
        to.section(section.kind, section.version, |to| to.raw(&body));
    }
    to.into_bytes()
}

impl Twin {
    /// The first one goes on in another process, and the other one as if nothing had been: nobody may tell them apart.
    fn upgrade(&mut self, config: &Config, secret: [u8; 32], now: Time, local_ports: Option<u16>) -> TakenOver {
        let mut told = TakenOver::default();
        self.exchange(|engine| {
            let (next, taken) = successor(engine, config, secret, now, local_ports);
            told = taken;
            next
        });
        told
    }
}

impl Crew {
    /// Goes on with so many workers: what they have taken over, and how many connections there were.
    fn upgrade(&mut self, config: &Config, secret: [u8; 32], workers: usize, now: Time) -> (Vec<TakenOver>, usize) {
        let flows = self.flows();
        let left = left(self.loops[0].handler().directory());
        let before = numbers(self.loops[0].handler().directory());
        let workers_before = self.loops.len();
        let waiting: usize = self.loops.iter().map(|l| l.handler().waiting()).sum();
        let packed: Vec<Vec<u8>> = self.loops.iter_mut().map(|l| l.handler_mut().pack(Time::ZERO, now)).collect();
        let taken = self.begin_again(config, secret, workers, now, &left, &packed);
        // Lines are shorter where there are more of them, and not everybody may find his place again.
        let all_stand = self.loops.len() == workers_before || waiting == 0;
        if all_stand && before == numbers(self.loops[0].handler().directory()) {
            let again: Vec<Vec<u8>> = self.loops.iter_mut().map(|l| l.handler_mut().pack(Time::ZERO, now)).collect();
            compare(&packed, &again);
        }
        (taken, flows)
    }
}
