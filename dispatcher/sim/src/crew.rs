//! Several workers in place of a world's one engine: the real loops with their inboxes, over in-memory ports. A frame comes in by
//! any worker's queue, as the dice fall: neither symmetric nor stable within a flow. All in one thread, so that each seed is one run.

use crate::rng::Rng;
use dispatcher::engine::{Config, Counters, Engine, Returning, Revision, Share, Strays, TakenOver};
use dispatcher::flow::{Key, Rss};
use dispatcher::io::mem::{Memory, Wire};
use dispatcher::time::Time;
use dispatcher::wire::packet::{Body, Parsed};
use dispatcher::worker::poll::{Clock, Loop};
use dispatcher::worker::{Change, Exchange, FrameHandler, Handover, Idle, Publisher, Steering, Totals, changes};
use lb::Left;
use std::sync::Arc;

/// Several workers.
pub struct Crew {
    /// Their loops, by worker.
    pub loops: Vec<Loop<Engine>>,
    /// By worker and port.
    wires: Vec<Vec<Wire>>,
    memories: Vec<Memory>,
    rng: Rng,
    /// Brings frames to the queues instead of the dice.
    card: Option<Arc<Rss>>,
    steering: Steering,
    publisher: Publisher,
}

const BUFFERS: usize = 4096;

impl Crew {
    /// So many workers at `now`. With a card, every port has such a one, and tells.
    pub fn with_card(
        config: &Config,
        secret: [u8; 32],
        workers: usize,
        seed: u64,
        now: Time,
        card: Option<Arc<Rss>>,
    ) -> Crew {
        Crew::left_with(config, secret, workers, seed, now, card, &Left::default()).0
    }

    fn left_with(
        config: &Config,
        secret: [u8; 32],
        workers: usize,
        seed: u64,
        now: Time,
        card: Option<Arc<Rss>>,
        left: &Left,
    ) -> (Crew, Arc<Returning>) {
        let returning = Arc::new(match &card {
            Some(_) => Returning::by_ports(config, workers, &vec![card.clone(); config.ports.len()]),
            None => Returning::by_range(workers),
        });
        let shares = Share::divide_with(config, &secret, workers, left).expect("a configuration that works");
        let steering = Steering::new(config, &secret, workers).returning(returning.clone());
        let steering = steering.following(shares[0].directory());
        let exchanges = Exchange::between(&steering, 1500, false).expect("inboxes");
        let (publisher, subscribers) = changes::between(workers).expect("bells");
        let (loops, wires, memories, rng) = (vec![], vec![], vec![], Rng::new(seed));
        let mut crew = Crew { loops, wires, memories, rng, card, steering, publisher };
        for ((share, exchange), changes) in shares.into_iter().zip(exchanges).zip(subscribers) {
            let memory = Memory::new(BUFFERS);
            let (ports, wires) = config.ports.iter().map(|_| memory.port(BUFFERS)).unzip();
            let share = share.returning(returning.clone());
            let engine = Engine::for_worker(config.clone(), secret, share, now).expect("a configuration that works");
            let totals = Totals::new(config.backends().iter().map(|b| b.name.clone()).collect());
            let run = Loop::new(engine, ports, Clock::start(), Idle::Spin, None, totals);
            crew.loops.push(run.among(exchange).following(changes));
            crew.wires.push(wires);
            crew.memories.push(memory);
        }
        (crew, returning)
    }

    /// Others, in another process, go on from what these have written, with what they leave.
    pub(crate) fn begin_again(
        &mut self,
        config: &Config,
        secret: [u8; 32],
        workers: usize,
        now: Time,
        left: &Left,
        packed: &[Vec<u8>],
    ) -> Vec<TakenOver> {
        let seed = self.rng.u64();
        let before = self.handover();
        let (mut crew, returning) = Crew::left_with(config, secret, workers, seed, now, self.card.clone(), left);
        let steering = crew.steering.clone();
        let owner = |key: &Key| steering.owner(key).unwrap_or(0);
        let take = |l: &mut Loop<Engine>| l.handler_mut().take_over(packed, &owner, now).expect("it can be read");
        let taken: Vec<TakenOver> = crew.loops.iter_mut().map(take).collect();
        let strays = taken.iter().enumerate().flat_map(|(n, t)| t.strays.iter().map(move |key| (*key, n)));
        returning.except(Strays::new(strays));
        assert_eq!((before.sent, before.full), (before.received, 0));
        *self = crew;
        taken
    }

    /// When one of them has something to do of its own accord.
    pub fn next_deadline(&self) -> Option<Time> {
        self.loops.iter().filter_map(|l| l.handler().next_deadline()).min()
    }

    /// A frame comes in at a port, by some queue.
    pub fn hand_in(&mut self, port: usize, frame: &[u8]) {
        let by_card = self.card.as_ref().and_then(|card| card.worker(&key(frame)?));
        let worker = by_card.unwrap_or_else(|| self.rng.below(self.wires.len()));
        assert!(self.wires[worker][port].inject(frame), "room");
    }

    /// All workers turn until none has anything to do; what they sent.
    pub fn turn(&mut self, now: Time) -> Vec<(usize, Vec<u8>)> {
        let mut sent = vec![];
        loop {
            let mut busy = 0;
            for worker in 0..self.loops.len() {
                busy += self.loops[worker].turn(now);
                for (port, wire) in self.wires[worker].iter().enumerate() {
                    sent.extend(core::iter::from_fn(|| wire.take()).map(|frame| (port, frame)));
                }
            }
            if busy == 0 {
                return sent;
            }
        }
    }

    /// What was handed over, all told.
    pub fn handover(&self) -> Handover {
        self.loops.iter().map(Loop::handover).fold(Handover::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }

    /// Counters of all together.
    pub fn counters(&self) -> Counters {
        self.loops.iter().fold(Counters::default(), |mut sum, one| {
            sum.add(FrameHandler::counters(one.handler()));
            sum
        })
    }

    /// Services, pools and backends change. Each worker takes that over by itself, at its next turn.
    pub fn apply(&mut self, revision: &Arc<Revision>) {
        let steering = Some(Arc::new(self.steering.following(revision.directory())));
        self.publisher.publish(Change { revision: revision.clone(), steering });
    }

    /// Flows of all together.
    pub fn flows(&self) -> usize {
        self.loops.iter().map(|l| l.handler().flows()).sum()
    }

    /// Nothing is left of any connection, no buffer is lost, and what was handed over came.
    pub fn check(&self) {
        let handover = self.handover();
        assert_eq!((handover.sent, handover.full), (handover.received, 0));
        assert_eq!((handover.updates_sent, handover.updates_lost), (handover.updates_received, 0));
        for (memory, run) in self.memories.iter().zip(&self.loops) {
            let engine = run.handler();
            assert_eq!((engine.flows(), engine.held_hellos(), engine.watched()), (0, 0, 0));
            assert_eq!(engine.waiting(), 0, "somebody waits");
            assert_eq!(memory.available(), BUFFERS);
            for b in engine.directory().backends() {
                let live = engine.directory().live();
                assert_eq!(live.connections(b.id), 0, "connections counted at {}", b.name);
                assert_eq!(live.slots().used(b.id), Default::default(), "slots of {}", b.name);
            }
        }
        let c = self.counters();
        assert_eq!(c.flows_opened, c.flows_closed);
    }
}

/// Of a TCP segment.
fn key(frame: &[u8]) -> Option<Key> {
    match Parsed::read(frame).ok()?.body {
        Ok(Body::Tcp(ip, tcp)) => Some(Key::of(&ip, &tcp)),
        _ => None,
    }
}
