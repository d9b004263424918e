//! The thread that makes the checks of backends, for all workers: [`Checks`], under the workers' clock.

use super::changes::Reader;
use super::poll::Clock;
use super::post::Clerk;
use crate::checks::{Checks, Report};
use crate::engine::Revision;
use crate::io::wait_readable;
use lb::{BackendId, BackendSet};
use std::collections::VecDeque;
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
}

/// The thread. It ends when this is dropped.
pub struct Prober {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
}

/// Starts it, for the backends of `first` and of what follows.
pub fn start(
    checks: Checks,
    clerk: Clerk,
    first: Arc<Revision>,
    changes: Reader,
    clock: Clock,
) -> Result<Prober, String> {
    let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Told::default())));
    let (must_stop, tells) = (stop.clone(), told.clone());
    let thread = std::thread::Builder::new()
        .name("checks".into())
        .spawn(move || run(checks, &clerk, &first, changes, clock, &must_stop, &tells))
        .map_err(|e| format!("cannot start a thread: {e}"))?;
    Ok(Prober { thread: Some(thread), stop, told })
}

fn run(
    mut checks: Checks,
    clerk: &Clerk,
    first: &Arc<Revision>,
    mut changes: Reader,
    clock: Clock,
    stop: &AtomicBool,
    told: &Mutex<Told>,
) {
    checks.follow(first, clock.now());
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
        clerk.receive(|packet| checks.receive(packet, now));
        checks.poll(now, &mut |leaving| clerk.send(&leaving));
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
        let wait = checks.due(now).since(clock.now()).min(LOOK);
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
    /// What holds of each backend.
    pub fn reports(&self) -> Vec<Report> {
        lock(&self.told).reports.clone()
    }

    /// What an operator should read since it was asked last.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.told).lines.drain(..).collect()
    }

    /// Workers have forgotten a backend's sessions and keys: these are asked for anew, within a tenth of a second.
    pub fn forget_keys(&self, backend: BackendId) {
        lock(&self.told).forgotten.insert(backend);
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
