//! What it costs to choose a backend, by algorithm and number of backends.

use crate::figure::{Report, number};
use crate::region::{Draw, Turns, measured_region};
use anyhow::{Context, Result, ensure};
use core::hint::black_box;
use lb::{Algorithm, Balancers, Directory, MemberSpec, Policy, PoolSpec, Wanted};
use std::net::SocketAddr;

/// Choices between two looks at the clock. As many flows are open.
const BATCH: usize = 512;

/// A directory with one pool.
pub fn directory(backends: usize, balance: Algorithm) -> Result<Directory> {
    let member =
        |n: usize| MemberSpec::new(format!("web{n}"), SocketAddr::from(([10, 2, (n >> 8) as u8, n as u8], 443)));
    let pool = PoolSpec { balance, backends: (0..backends).map(member).collect(), ..PoolSpec::default() };
    let wanted = Wanted::single(vec![SocketAddr::from(([10, 1, 9, 1], 443))], Policy::default(), pool);
    Directory::next(None, &wanted, |_| true).ok().context("a directory that cannot be")
}

struct Choosing {
    directory: Directory,
    balancers: Balancers,
    draw: Draw,
}

impl Choosing {
    fn new(backends: usize, balance: Algorithm) -> Result<Choosing> {
        let directory = directory(backends, balance)?;
        let balancers = Balancers::new(&directory);
        Ok(Choosing { directory, balancers, draw: Draw::new(5) })
    }

    /// Backends for flows that begin, each of which ends a batch later. Nanoseconds for one; the counts of flows by backend included, which
    /// some algorithms go by.
    fn batch(&mut self) -> Result<f64> {
        let Choosing { directory, balancers, draw } = self;
        let pool = directory.pools().next().context("no pool")?.clone();
        let id = directory.services().next().context("no service")?.pool();
        let balancer = balancers.of(id).context("no balancer")?;
        let hashes: Vec<(u64, u64)> = (0..BATCH).map(|_| (draw.next() << 20 ^ draw.next(), draw.next())).collect();
        let (live, mut chosen) = (directory.live(), Vec::with_capacity(BATCH));
        let took = measured_region(&mut || {
            for &(hash, entropy) in &hashes {
                if let Some(backend) = black_box(balancer.pick(&pool, hash, entropy, |_| true)) {
                    live.opened(backend);
                    chosen.push(backend);
                }
            }
        });
        ensure!(chosen.len() == BATCH, "every flow gets a backend");
        chosen.into_iter().for_each(|backend| live.closed(backend));
        Ok(took.as_nanos() as f64 / BATCH as f64)
    }
}

/// Measures all algorithms in turns.
pub fn run(rounds: usize, report: &mut Report) -> Result<()> {
    let sizes = [32, 512, lb::MAX_BACKENDS];
    report.begin("balance", sizes.len());
    for backends in sizes {
        let case = format!("{} backends", number(backends as f64));
        report.step(&case);
        let mut all = Vec::new();
        for algorithm in Algorithm::ALL {
            all.push(Choosing::new(backends, algorithm)?);
        }
        let turns = Turns::<4>::take(rounds, || {
            let mut took = [0.0; 4];
            for (took, one) in took.iter_mut().zip(&mut all) {
                *took = one.batch()?;
            }
            Ok(took)
        })?;
        for (which, algorithm) in Algorithm::ALL.into_iter().enumerate() {
            report.add("balance", &case, algorithm.as_str(), turns.median(which), "ns");
        }
    }
    Ok(())
}
