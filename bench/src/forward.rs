//! Known flows: what one frame costs, against a loop that only swaps the Ethernet addresses of the same frames.

use crate::peers::{Burst, Conversation, From, World};
use crate::region::{measured_region, median};
use anyhow::{Result, ensure};
use dispatcher::engine::Verdict;
use dispatcher::wire::packet::Flags;
use serde::Serialize;

/// Frames between two looks at the clock.
const BATCH: usize = 512;

/// What is to be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// The engine.
    Engine,
    /// The Ethernet addresses are swapped, and nothing else.
    MacSwap,
}

/// The cost of a frame.
#[derive(Debug, Serialize)]
pub struct Forward {
    /// Flows that the frames belong to, at random.
    pub flows: usize,
    /// Nanoseconds, the engine, median of the batches.
    pub engine_ns: f64,
    /// Nanoseconds, the swap of addresses.
    pub mac_swap_ns: f64,
    /// The one over the other, median of the pairs of batches.
    pub ratio: f64,
}

/// Flows in both directions, with one frame a direction written beforehand.
pub struct Known {
    world: World,
    frames: Vec<[Vec<u8>; 2]>,
    burst: Burst,
    draw: u64,
}

impl Known {
    /// `flows` spliced flows to 32 servers.
    pub fn new(flows: usize) -> Result<Known> {
        let mut world = World::new(32, flows.max(1024) * 2)?;
        let mut who: Vec<Conversation> = (0..flows).map(Conversation::new).collect();
        let request = b"GET / HTTP/1.0\r\n\r\n";
        let syn_ack = Flags(Flags::SYN.0 | Flags::ACK.0);
        for some in who.chunks_mut(1024) {
            world.all_say(some, From::Client, Flags::SYN, &[]);
            world.all_say(some, From::Client, Flags::ACK, &[]);
            world.all_say(some, From::Client, Flags::ACK, request);
            world.all_say(some, From::Server, syn_ack, &[]);
            world.all_say(some, From::Server, Flags::ACK, b"answer");
            world.all_say(some, From::Client, Flags::ACK, &[]);
        }
        ensure!(world.engine.flows() == flows, "{} of {flows} flows are open", world.engine.flows());
        let frames = who
            .iter_mut()
            .map(|c| [From::Client, From::Server].map(|from| c.clone().says(from, Flags::ACK, b"sixsix")))
            .collect();
        Ok(Known { world, frames, burst: Burst::new(BATCH), draw: 1 })
    }

    /// A batch of frames of flows at random; how long `work` took for it.
    pub fn batch(&mut self, work: Work) -> Result<f64> {
        self.burst.clear();
        for _ in 0..BATCH {
            // xorshift64: any order that no cache can guess.
            self.draw ^= self.draw << 13;
            self.draw ^= self.draw >> 7;
            self.draw ^= self.draw << 17;
            let flow = &self.frames[(self.draw >> 8) as usize % self.frames.len()];
            let from = if self.draw & 1 == 0 { From::Client } else { From::Server };
            self.burst.push(from, &flow[from as usize]);
        }
        let Known { world, burst, .. } = self;
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
        ensure!(burst.verdicts.iter().all(|v| matches!(v, Verdict::Forward(_))), "every frame is forwarded");
        Ok(took.as_nanos() as f64 / BATCH as f64)
    }
}

/// Batches of frames handed in when instructions are counted.
pub const COUNTED: usize = 20;

/// Frames of the counted batches.
pub const fn counted_frames() -> usize {
    COUNTED * BATCH
}

/// Measures `rounds` pairs of batches, the two works in turns.
pub fn run(flows: usize, rounds: usize) -> Result<Forward> {
    let mut known = Known::new(flows)?;
    let (mut engine, mut swap, mut ratio) = (vec![], vec![], vec![]);
    for round in 0..rounds + rounds / 10 {
        let (e, s) = (known.batch(Work::Engine)?, known.batch(Work::MacSwap)?);
        // The first tenth warms up.
        if round >= rounds / 10 {
            engine.push(e);
            swap.push(s);
            ratio.push(e / s);
        }
    }
    Ok(Forward { flows, engine_ns: median(engine), mac_swap_ns: median(swap), ratio: median(ratio) })
}
