//! Two workers against one, over ports in memory: what each gets done when nothing is handed over, and what a frame costs that is.

use crate::figure::{Report, Target};
use crate::looped::Looped;
use crate::peers::{BURST, Conversation, Crowd, From, SECRET, World};
use crate::region::median;
use anyhow::{Context, Result, anyhow, ensure};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use dispatcher::engine::{Config, Share};
use dispatcher::io::pin_to_core;
use dispatcher::wire::packet::{Flags, Parsed};
use dispatcher::worker::steer::Place;
use dispatcher::worker::{Exchange, Steering};
use sim::config::two_armed;
use std::sync::{Barrier, Mutex};

const WORKERS: usize = 2;
/// Flows of each worker.
const FLOWS: usize = 1000;
/// Turns in a stint.
const TURNS: usize = 500;

/// Nanoseconds a frame, by stint.
#[derive(Default)]
struct Times {
    /// One worker, while the other rests.
    alone: Vec<f64>,
    /// Each, while both work.
    together: [Vec<f64>; WORKERS],
    /// Who hands over.
    given: Vec<f64>,
    /// Whose they are.
    taken: Vec<f64>,
}

/// What the threads have in common.
struct Common {
    config: Config,
    steering: Steering,
    barrier: Barrier,
    times: Mutex<Times>,
    /// Flows of the second worker, for who hands their frames over.
    crowd: Mutex<Option<Crowd>>,
    /// Frames that were handed over and worked on.
    taken: AtomicU64,
    over: AtomicBool,
}

impl Common {
    fn note(&self, note: impl FnOnce(&mut Times)) {
        note(&mut self.times.lock().unwrap_or_else(|e| e.into_inner()));
    }
}

/// The connections whose clients' frames are led to this worker.
fn of_worker(common: &Common, worker: usize) -> Vec<Conversation> {
    let mine = |c: &Conversation| {
        let syn = c.clone().says(From::Client, Flags::SYN, &[]);
        let place = common.steering.place(0, &Parsed::read(&syn), &syn);
        matches!(place, Place::At(w) | Place::Preferably(w) if w == worker)
    };
    (0..).map(Conversation::new).filter(mine).take(FLOWS).collect()
}

/// Measures `stints` stints of each.
pub fn run(stints: usize, report: &mut Report) -> Result<()> {
    let cores = dispatcher::io::allowed_cores();
    if cores.len() < WORKERS {
        report.leave_out("workers", "two workers need two cores");
        return Ok(());
    }
    report.begin("workers", stints);
    let mut config = two_armed(32, false);
    config.limits.flows = 1 << 16;
    let steering = Steering::new(&config, &SECRET, WORKERS);
    let exchanges = Exchange::between(&steering, 1500, false).context("the inboxes")?;
    let shares = Share::divide(&config, &SECRET, WORKERS)?;
    let common = Common {
        config,
        steering,
        barrier: Barrier::new(WORKERS),
        times: Mutex::default(),
        crowd: Mutex::new(None),
        taken: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = shares
            .into_iter()
            .zip(exchanges)
            .zip(&cores)
            .map(|((share, exchange), core)| {
                let common = &common;
                let report = &*report;
                scope.spawn(move || work(common, share, exchange, *core, stints, report))
            })
            .collect();
        // A worker that failed keeps the other waiting at the barrier: nothing but a fault of this program can do that.
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| Err(anyhow!("a worker died"))))
    })?;
    let Times { alone, together, given, taken } = common.times.into_inner().unwrap_or_else(|e| e.into_inner());
    let case = "1,000 flows each, 64 B";
    let one = median(alone);
    let [a, b] = together.map(median);
    report.add("workers", case, "one worker", one, "ns");
    report.add("workers", case, "two workers, each", 2.0 / (1.0 / a + 1.0 / b), "ns");
    let gain = one * (1.0 / a + 1.0 / b);
    report.aim(("workers", case, "two over one"), gain, "ratio", Target::AtLeast(1.8));
    let (given, taken) = (median(given), median(taken));
    report.add("workers", case, "handed over, giver", given, "ns");
    report.add("workers", case, "handed over, owner", taken, "ns");
    report.add("workers", case, "handed over, both above an own frame", given + taken - one, "ns");
    Ok(())
}

fn work(common: &Common, share: Share, exchange: Exchange, core: usize, stints: usize, report: &Report) -> Result<()> {
    pin_to_core(core).with_context(|| format!("core {core}"))?;
    let me = share.worker();
    let mut world = World::of_worker(common.config.clone(), share)?;
    let mut who = of_worker(common, me);
    who.chunks_mut(BURST).for_each(|some| world.open(some));
    ensure!(world.engine.flows() == FLOWS, "{} of {FLOWS} flows are open", world.engine.flows());
    let mut crowd = Crowd::of(who, crate::forward::SMALL);
    let mut looped = Looped::among(world, exchange);
    let stint = |looped: &mut Looped, crowd: &mut Crowd| -> Result<f64> {
        let times: Result<Vec<f64>> = (0..TURNS).map(|_| looped.turn(crowd)).collect();
        Ok(median(times?))
    };
    for _ in 0..stints {
        common.barrier.wait();
        if me == 0 {
            report.step("own frames");
            let one = stint(&mut looped, &mut crowd)?;
            common.note(|t| t.alone.push(one));
        }
        common.barrier.wait();
        let one = stint(&mut looped, &mut crowd)?;
        common.note(|t| t.together[me].push(one));
        // Frames of the second worker's come in at the first.
        let kept = || common.crowd.lock().unwrap_or_else(|e| e.into_inner());
        if me == 1 {
            *kept() = Some(std::mem::replace(&mut crowd, Crowd::of(vec![], 0)));
            common.over.store(false, Ordering::SeqCst);
        }
        common.barrier.wait();
        if me == 0 {
            let mut theirs = kept().take().context("the other's flows")?;
            let begun = common.taken.load(Ordering::SeqCst);
            let mut times = vec![];
            for turn in 1..=TURNS as u64 {
                times.push(looped.turn_away(&mut theirs)?);
                // No more under way than half an inbox holds.
                while common.taken.load(Ordering::SeqCst) + 1024 < begun + turn * 2 * BURST as u64 {
                    std::thread::yield_now();
                }
            }
            while common.taken.load(Ordering::SeqCst) < begun + (TURNS * 2 * BURST) as u64 {
                std::thread::yield_now();
            }
            common.over.store(true, Ordering::SeqCst);
            common.note(|t| t.given.push(median(times)));
            *kept() = Some(theirs);
        } else {
            let mut times = vec![];
            while !common.over.load(Ordering::SeqCst) {
                let (frames, ns) = looped.timed_turn();
                if frames > 0 {
                    common.taken.fetch_add(frames as u64, Ordering::SeqCst);
                    times.push(ns / frames as f64);
                } else {
                    std::thread::yield_now();
                }
            }
            common.note(|t| t.taken.push(median(times)));
        }
        common.barrier.wait();
        if me == 1 {
            crowd = kept().take().context("the flows that were lent")?;
        }
    }
    Ok(())
}
