//! A processor that is not there: what handshakes cost a server that can do so many at a time.
//!
//! Up to `slots` handshakes go on at full speed. Beyond, all in progress share what there is, and the whole gets slower with every further one, as processors do that
//! change between tasks. No time of the machine's own is used, so the machine is not what is measured.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(1);

pub struct Cpu {
    slots: f64,
    thrash: f64,
    state: Mutex<State>,
}

struct State {
    /// What each handshake in progress has got since the start, in seconds at full speed: the same for all, so whose turn to end it is follows from the order of
    /// `given` at their start and their own cost.
    given: f64,
    at: Instant,
    next: u64,
    /// By what must have been given when they end, in nanoseconds, and a number.
    working: BTreeMap<(u64, u64), Thread>,
    most: usize,
}

/// A handshake in progress.
pub struct Job((u64, u64));

impl Cpu {
    /// `thrash`: by which part of itself the whole gets slower for every `slots` handshakes too many.
    pub fn new(slots: usize, thrash: f64) -> Cpu {
        let state = State { given: 0.0, at: Instant::now(), next: 0, working: BTreeMap::new(), most: 0 };
        Cpu { slots: slots as f64, thrash, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How fast each goes.
    fn speed(&self, working: usize) -> f64 {
        let load = working as f64 / self.slots;
        if load <= 1.0 { 1.0 } else { 1.0 / load / (1.0 + self.thrash * (load - 1.0)) }
    }

    /// To be called again and again by a thread of its own.
    pub fn tick(&self) {
        thread::sleep(TICK);
        let mut s = self.state();
        let now = Instant::now();
        s.given += (now - s.at).as_secs_f64() * self.speed(s.working.len());
        s.at = now;
        let upto = ((s.given * 1e9) as u64, u64::MAX);
        let rest = s.working.split_off(&upto);
        for done in std::mem::replace(&mut s.working, rest).into_values() {
            done.unpark();
        }
    }

    /// Begins a handshake that takes so long when nobody is in the way.
    pub fn begin(&self, cost: Duration) -> Job {
        let mut s = self.state();
        s.next += 1;
        let at = ((s.given * 1e9) as u64 + cost.as_nanos() as u64, s.next);
        s.working.insert(at, thread::current());
        s.most = s.most.max(s.working.len());
        Job(at)
    }

    /// Waits for its end, no longer than so; whether it has ended.
    pub fn wait(&self, job: &Job, most: Duration) -> bool {
        thread::park_timeout(most);
        !self.state().working.contains_key(&job.0)
    }

    /// Of somebody who has gone.
    pub fn give_up(&self, job: &Job) {
        self.state().working.remove(&job.0);
    }

    /// How many were in progress at once.
    pub fn most(&self) -> usize {
        self.state().most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_to_its_slots_each_goes_at_full_speed_and_beyond_all_share_less_than_the_whole() {
        let cpu = Cpu::new(40, 0.1);
        assert_eq!((cpu.speed(1), cpu.speed(40)), (1.0, 1.0));
        // Of the whole, forty in forty times its slots: 1 / (1 + 0.1 * 39).
        for (working, whole) in [(41, 40.0 / 1.0025), (80, 40.0 / 1.1), (1600, 40.0 / 4.9)] {
            assert!((cpu.speed(working) * working as f64 - whole).abs() < 1e-9, "{working}");
        }
    }

    #[test]
    fn a_handshake_ends_when_its_cost_was_given_and_one_that_is_given_up_never() {
        let begun = Instant::now();
        let cpu = Cpu::new(1, 0.0);
        let (short, long, gone) = (Duration::from_millis(5), Duration::from_millis(20), Duration::ZERO);
        let (short, long, gone) = (cpu.begin(short), cpu.begin(long), cpu.begin(gone));
        cpu.give_up(&gone);
        let at = |job: &Job| cpu.state().working.contains_key(&job.0);
        while at(&short) {
            cpu.tick();
        }
        // Two shared one slot, so it had at most half of the time.
        assert!(begun.elapsed() >= Duration::from_millis(10) && at(&long));
        while at(&long) {
            cpu.tick();
        }
        assert!(begun.elapsed() >= Duration::from_millis(25));
        assert_eq!(cpu.most(), 3);
    }
}
