//! The thread that makes the checks of backends, for all workers: [`Checks`], under the workers' clock.

use super::changes::Reader;
use super::poll::Clock;
use super::post::Clerk;
use crate::checks::{Checks, Report};
use crate::engine::Revision;
use crate::io::wait_readable;
use lb::{BackendId, BackendSet};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often it looks whether backends have changed, or it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// Lines that wait for somebody to read them. Further ones are lost.
const LINES: usize = 1024;

/// What it tells.
#[derive(Debug, Default)]
pub struct Told {
    /// What holds of each backend.
    pub reports: Vec<Report>,
    lines: VecDeque<String>,
    /// Whose keys are to be asked for anew.
    forgotten: BackendSet,
    /// By backend, and which holder of its slot: checks that have passed and failed in processes before this one.
    earlier: HashMap<(BackendId, u32), [u64; 2]>,
}

/// The thread. It ends when this is dropped.
pub struct Prober {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    held: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
}

/// Starts it, for the backends of `first` and of what follows. `held`: workers do not run yet ([`Prober::hold`]).
pub fn start(
    checks: Checks,
    clerk: Clerk,
    first: Arc<Revision>,
    changes: Reader,
    clock: Clock,
    held: bool,
) -> Result<Prober, String> {
    let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Told::default())));
    let held = Arc::new(AtomicBool::new(held));
    let (orders, tells) = ((stop.clone(), held.clone()), told.clone());
    let thread = std::thread::Builder::new()
        .name("checks".into())
        .spawn(move || run(checks, &clerk, &first, changes, clock, &orders, &tells))
        .map_err(|e| format!("cannot start a thread: {e}"))?;
    Ok(Prober { thread: Some(thread), stop, held, told })
}

fn run(
    mut checks: Checks,
    clerk: &Clerk,
    first: &Arc<Revision>,
    mut changes: Reader,
    clock: Clock,
    (stop, held): &(Arc<AtomicBool>, Arc<AtomicBool>),
    told: &Mutex<Told>,
) {
    checks.follow(first, clock.now());
    let mut stood = false;
    while !stop.load(Ordering::Relaxed) {
        let now = clock.now();
        if let Some(change) = changes.new_change() {
            checks.follow(&change.revision, now);
        }
        let forgotten = core::mem::take(&mut lock(told).forgotten);
        forgotten.iter().for_each(|id| checks.forget_keys(id, now));
        let hints = clerk.hints();
        hints.tls.iter().for_each(|id| checks.speaks_tls(id, now));
        hints.strange_tickets.iter().for_each(|id| checks.look_at_keys(id, now));
        hints.suspects.iter().for_each(|id| checks.suspect(id, now));
        if held.load(Ordering::Relaxed) {
            stood = true;
        } else {
            if core::mem::take(&mut stood) {
                checks.interrupted(now);
            }
            clerk.receive(|packet| checks.receive(packet, now));
            checks.poll(now, &mut |leaving| clerk.send(&leaving));
        }
        while let Some(news) = checks.next_key() {
            clerk.tell_key(news);
        }
        if checks.take_changed() {
            clerk.tell(checks.seen());
            lock(told).reports = checks.reports().collect();
        }
        while let Some(line) = checks.next_line() {
            let lines = &mut lock(told).lines;
            if lines.len() < LINES {
                lines.push_back(line);
            }
        }
        let wait = if stood { LOOK } else { checks.due(now).since(clock.now()).min(LOOK) };
        if !wait.is_zero() {
            wait_readable(&[clerk.bell().fd()], wait);
        }
        clerk.bell().silence();
    }
    checks.end(clock.now(), &mut |leaving| clerk.send(&leaving));
}

/// What was told is whole, whoever died.
fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Prober {
    /// What holds of each backend; with the checks that were counted before ([`Prober::count_on`]).
    pub fn reports(&self) -> Vec<Report> {
        let told = lock(&self.told);
        let mut reports = told.reports.clone();
        for report in &mut reports {
            if let Some([passed, failed]) = told.earlier.get(&(report.backend, report.generation)) {
                report.verdict.passed += passed;
                report.verdict.failed += failed;
            }
        }
        reports
    }

    /// Goes on from what another process has counted: by backend, and which holder of its slot, checks that have passed and failed.
    pub fn count_on(&self, earlier: impl IntoIterator<Item = ((BackendId, u32), [u64; 2])>) {
        lock(&self.told).earlier.extend(earlier);
    }

    /// What an operator should read since it was asked last.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.told).lines.drain(..).collect()
    }

    /// Workers have forgotten a backend's sessions and keys: these are asked for anew, within a tenth of a second.
    pub fn forget_keys(&self, backend: BackendId) {
        lock(&self.told).forgotten.insert(backend);
    }

    /// Workers stand still, or do not run yet: nothing is asked, and what is under way comes to nothing, until [`Prober::go_on`].
    pub fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }

    /// Workers run: within a tenth of a second it asks on.
    pub fn go_on(&self) {
        self.held.store(false, Ordering::Relaxed);
    }

    /// Ends it soon: servers that are being asked hear so, if workers still send.
    pub fn stop(&self) {
        // It looks ten times a second.
        self.stop.store(true, Ordering::Relaxed);
    }

    /// It has ended, and given to the workers all that it had to say.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop();
        _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Verdict;
    use crate::time::Time;

    #[test]
    fn checks_of_processes_before_are_counted_with_those_of_this_one_but_not_for_a_successor_in_the_slot() {
        let mut verdict = Verdict::unknown(Time::ZERO);
        (verdict.passed, verdict.failed) = (3, 1);
        let report = |slot, generation| Report {
            backend: BackendId(slot),
            generation,
            kind: None,
            verdict: verdict.clone(),
            suspicion: None,
            agent: None,
            keys: None,
        };
        let told = Told { reports: vec![report(0, 0), report(1, 1), report(2, 0)], ..Told::default() };
        let prober =
            Prober { thread: None, stop: Arc::default(), held: Arc::default(), told: Arc::new(Mutex::new(told)) };
        prober.count_on([((BackendId(0), 0), [10, 20]), ((BackendId(1), 0), [10, 20])]);
        let counts = |report: Report| (report.verdict.passed, report.verdict.failed);
        let now = || prober.reports().into_iter().map(counts).collect::<Vec<_>>();
        assert_eq!(now(), [(13, 21), (3, 1), (3, 1)]);
        lock(&prober.told).reports[0].verdict.passed += 1;
        assert_eq!(now()[0], (14, 21));
    }
}
