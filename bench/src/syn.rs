//! SYNs of clients that nobody knows: each is answered by a cookie, and nothing is kept.

use crate::figure::{Report, Target};
use crate::peers::{BURST, Burst, Conversation, From, World};
use crate::region::{Draw, Turns, measured_region};
use anyhow::{Result, ensure};
use core::time::Duration;
use dispatcher::engine::Verdict;
use dispatcher::wire::options::{SynOptions, Timestamps};
use dispatcher::wire::packet::Flags;

/// What Linux offers.
const LINUX: SynOptions = SynOptions {
    mss: Some(1460),
    wscale: Some(7),
    sack_permitted: true,
    timestamps: Some(Timestamps { val: 0x1234_5678, ecr: 0 }),
};

/// Bursts in a batch.
const BURSTS: usize = 8;

/// A flood, as it seems to the engine.
pub struct Flood {
    world: World,
    burst: Burst,
    draw: Draw,
}

impl Flood {
    /// Towards 32 servers.
    pub fn new() -> Result<Flood> {
        Ok(Flood { world: World::new(32, 1 << 16)?, burst: Burst::new(BURSTS * BURST), draw: Draw::new(7) })
    }

    /// A batch of SYNs, each of another client; nanoseconds for one.
    pub fn batch(&mut self, options: bool) -> Result<f64> {
        let Flood { world, burst, draw } = self;
        let options = if options { LINUX } else { SynOptions::default() };
        burst.clear();
        for _ in 0..BURSTS * BURST {
            let mut who = Conversation::new(draw.below(1 << 22));
            burst.write(From::Client, |buffer| who.write_with(From::Client, Flags::SYN, &options, &[], buffer));
        }
        world.now += Duration::from_micros(50);
        let took = measured_region(&mut || world.take(burst));
        ensure!(burst.verdicts.iter().all(|v| matches!(v, Verdict::Reply(_))), "every SYN is answered");
        Ok(took.as_nanos() as f64 / (BURSTS * BURST) as f64)
    }
}

/// Batches when instructions are counted.
pub const COUNTED: usize = 10;

/// SYNs of the counted batches.
pub const fn counted() -> usize {
    COUNTED * BURSTS * BURST
}

/// Measures batches of both kinds, in turns.
pub fn run(rounds: usize, report: &mut Report) -> Result<()> {
    report.begin("syn", 1);
    let mut flood = Flood::new()?;
    let turns = Turns::<2>::take(rounds, || Ok([flood.batch(true)?, flood.batch(false)?]))?;
    for (which, case) in ["options of Linux", "no options"].into_iter().enumerate() {
        let ns = turns.median(which);
        report.add("syn", case, "answer", ns, "ns");
        report.aim(("syn", case, "answers"), 1e9 / ns / 1e6, "million/s", Target::AtLeast(10.0));
    }
    Ok(())
}
