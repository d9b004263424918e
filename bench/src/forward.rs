//! Known flows: what one frame costs, against the least that can be done with the same frames: a swap of their Ethernet addresses.
//!
//! Twice: the engine alone, frames handed in from a buffer; and through the worker's own loop over ports in memory, against a loop over the same
//! ports that swaps and does nothing else. What stands above that is what the dispatcher adds to having a frame in hand.

use crate::figure::{Report, Target};
use crate::looped::{Looped, SwapLoop};
use crate::peers::{Burst, Crowd, World};
use crate::region::{Turns, measured_region};
use anyhow::{Result, ensure};
use dispatcher::engine::Verdict;

/// Frames between two looks at the clock.
const BATCH: usize = 512;

/// Payload of a frame of 64 bytes, its check sequence included, and of one of 1518.
pub const SMALL: usize = 6;
const LARGE: usize = 1460;

/// What is to be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// The engine.
    Engine,
    /// The Ethernet addresses are swapped, and nothing else.
    MacSwap,
}

/// Servers for so many flows: each has some sixty thousand ports.
fn servers(flows: usize) -> usize {
    32.max(flows / 40_000 + 1)
}

/// Flows in both directions.
pub struct Known {
    world: World,
    /// Who speaks.
    pub crowd: Crowd,
    burst: Burst,
}

impl Known {
    /// `flows` spliced flows.
    pub fn new(flows: usize, payload: usize) -> Result<Known> {
        let mut world = World::new(servers(flows), flows.max(1024) * 2)?;
        let crowd = Crowd::open(&mut world, flows, payload)?;
        Ok(Known { world, crowd, burst: Burst::new(BATCH) })
    }

    /// The same flows in a worker's loop.
    pub fn looped(self) -> (Looped, Crowd) {
        (Looped::new(self.world), self.crowd)
    }

    /// And the engine alone.
    #[cfg(feature = "dpdk")]
    pub fn world(self) -> World {
        self.world
    }

    /// A batch of frames of flows at random; how long `work` took for it, nanoseconds a frame.
    pub fn batch(&mut self, work: Work) -> Result<f64> {
        let Known { world, crowd, burst } = self;
        burst.clear();
        for _ in 0..BATCH {
            let from = crowd.side();
            burst.write(from, |buffer| match work {
                Work::Engine => crowd.speak(from, buffer),
                Work::MacSwap => crowd.hum(from, buffer),
            });
        }
        let took = match work {
            Work::Engine => measured_region(&mut || world.take(burst)),
            Work::MacSwap => measured_region(&mut || {
                burst.each(|port, frame| {
                    let b = frame.bytes_mut();
                    let (dst, rest) = b.split_at_mut(6);
                    dst.swap_with_slice(&mut rest[..6]);
                    Verdict::Forward(port)
                });
            }),
        };
        ensure!(burst.verdicts.len() == BATCH, "every frame has a verdict");
        let other = burst.verdicts.iter().find(|v| !matches!(v, Verdict::Forward(_)));
        ensure!(other.is_none(), "not every frame is forwarded: {other:?}");
        Ok(took.as_nanos() as f64 / BATCH as f64)
    }
}

/// Batches of frames handed in when instructions are counted.
pub const COUNTED: usize = 20;

/// Frames of the counted batches.
pub const fn counted_frames() -> usize {
    COUNTED * BATCH
}

/// What a frame through the loop may cost above the swap, by the number of flows.
fn target(flows: usize) -> Option<Target> {
    match flows {
        1000 => Some(Target::AtMost(30.0)),
        1_000_000 => Some(Target::AtMost(60.0)),
        4_000_000 => Some(Target::AtMost(80.0)),
        _ => None,
    }
}

/// Measures for each number of flows.
pub fn run(flows: &[usize], rounds: usize, report: &mut Report) -> Result<()> {
    report.begin("forward", flows.len() * 2 + 1);
    for &n in flows {
        let case = format!("{} flows, 64 B", crate::figure::number(n as f64));
        report.step(&case);
        let mut known = Known::new(n, SMALL)?;
        let alone = Turns::<2>::take(rounds, || Ok([known.batch(Work::Engine)?, known.batch(Work::MacSwap)?]))?;
        report.add("forward", &case, "engine alone", alone.median(0), "ns");
        report.add("forward", &case, "MAC swap alone", alone.median(1), "ns");
        report.step(&format!("{case}, loop"));
        let (mut looped, mut crowd) = known.looped();
        let mut swap = SwapLoop::new();
        through_loop(&mut looped, &mut swap, &mut crowd, &case, rounds, target(n), report)?;
        if n == 1000 {
            crowd.carry(LARGE);
            through_loop(&mut looped, &mut swap, &mut crowd, "1,000 flows, 1518 B", rounds, None, report)?;
        }
    }
    Ok(())
}

fn through_loop(
    looped: &mut Looped,
    swap: &mut SwapLoop,
    crowd: &mut Crowd,
    case: &str,
    rounds: usize,
    target: Option<Target>,
    report: &mut Report,
) -> Result<()> {
    // A turn is a quarter of a batch.
    let turns = Turns::<2>::take(4 * rounds, || Ok([looped.turn(crowd)?, swap.turn(crowd)?]))?;
    report.add("forward", case, "worker's loop", turns.median(0), "ns");
    report.add("forward", case, "MAC swap loop", turns.median(1), "ns");
    let above = turns.above(0, 1);
    match target {
        Some(target) => report.aim(("forward", case, "loop above swap"), above, "ns", target),
        None => report.add("forward", case, "loop above swap", above, "ns"),
    }
    Ok(())
}
