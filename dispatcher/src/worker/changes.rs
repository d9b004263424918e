//! How a change reaches the workers: one immutable directory, and what of it was prepared beforehand, for all of them at once.
//!
//! The control side [publishes](Publisher::publish) a change; each worker takes it over between two frames, at the beginning of a turn as
//! a rule, and acknowledges its version. To look whether there is one costs a worker a load from a cache line that nobody writes between
//! changes. All that is expensive was done before: a worker exchanges what it has for what it is given.
//!
//! **What is handed over meanwhile.** A worker that has taken over a change may hand a frame to one that has not. That one looks again
//! before it reads the frame ([`Subscriber::new_change`]): the version was raised before the first worker could see it, hence
//! before the frame was put, so whoever has the frame sees the version, too. And since a worker exchanges what leads frames to others
//! and its engine in one step, no flow is ever opened by one that does not own it.
//!
//! **Sleep.** A sleeper is woken by a bell of its own, which is rung before the flag that says so is set: a worker that sees the
//! flag finds the bell rung, and silences it; one that is woken before it sees the flag goes to sleep in vain once more. The same bell
//! wakes those who are asked something.

use super::Steering;
use crate::engine::Revision;
use crate::io::doorbell::Doorbell;
use core::fmt;
use core::time::Duration;
use crossbeam::utils::CachePadded;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How often a waiting publisher looks.
const LOOK: Duration = Duration::from_micros(100);

/// What workers take over.
#[derive(Clone)]
pub struct Change {
    /// Services, pools and backends.
    pub revision: Arc<Revision>,
    /// Who has which frame, where there are several workers.
    pub steering: Option<Arc<Steering>>,
}

impl Change {
    /// Of its directory.
    pub fn version(&self) -> u64 {
        self.revision.directory().version()
    }
}

/// Seen by all.
struct Board {
    /// Of the latest change; 0 before the first.
    version: CachePadded<AtomicU64>,
    latest: Mutex<Option<Arc<Change>>>,
    seats: Box<[CachePadded<Seat>]>,
}

/// One worker's.
struct Seat {
    /// What it has taken over.
    applied: AtomicU64,
    /// It takes over nothing any more.
    left: AtomicBool,
    bell: Doorbell,
    rung: AtomicBool,
}

impl Board {
    fn latest(&self) -> MutexGuard<'_, Option<Arc<Change>>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The control side. There is one.
pub struct Publisher {
    board: Arc<Board>,
    /// The change before the latest: kept until the next, so that what it was made of is given up here, and not by a worker.
    _previous: Option<Arc<Change>>,
}

/// One worker's side.
pub struct Subscriber {
    board: Arc<Board>,
    me: usize,
    /// As in its seat.
    applied: u64,
}

/// Who follows changes and is not waited for.
pub struct Reader {
    board: Arc<Board>,
    version: u64,
}

impl Reader {
    /// The latest change, once.
    pub fn new_change(&mut self) -> Option<Arc<Change>> {
        // Acquire: see `publish`.
        let version = self.board.version.load(Ordering::Acquire);
        if core::mem::replace(&mut self.version, version) == version {
            return None;
        }
        self.board.latest().clone()
    }
}

/// Workers that did not take over a change in time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Late {
    /// Their numbers.
    pub workers: Vec<usize>,
    /// What was waited.
    pub waited: Duration,
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<_> = self.workers.iter().map(usize::to_string).collect();
        let plural = if numbers.len() == 1 { "" } else { "s" };
        write!(f, "worker{plural} {} did not take it over within {:.1?}; it stays due", numbers.join(", "), self.waited)
    }
}

impl core::error::Error for Late {}

/// The two sides, for so many workers: what each of them is to have, in order of their numbers.
pub fn between(workers: usize) -> io::Result<(Publisher, Vec<Subscriber>)> {
    let seat = |_| {
        let (applied, left, rung) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        Ok(CachePadded::new(Seat { applied, left, bell: Doorbell::new()?, rung }))
    };
    let seats = (0..workers).map(seat).collect::<io::Result<Box<[_]>>>()?;
    let board = Arc::new(Board { version: CachePadded::new(AtomicU64::new(0)), latest: Mutex::new(None), seats });
    let subscribers = (0..workers).map(|me| Subscriber { board: board.clone(), me, applied: 0 }).collect();
    Ok((Publisher { board, _previous: None }, subscribers))
}

impl Publisher {
    /// Puts a change where all workers see it, and wakes them. A change that some worker has not taken over yet is skipped by it.
    ///
    /// # Panics
    /// When its version is none above the last one's.
    pub fn publish(&mut self, change: Change) {
        let version = change.version();
        assert!(version > self.board.version.load(Ordering::Relaxed), "versions rise");
        self._previous = self.board.latest().replace(Arc::new(change));
        // Release: whoever sees the version finds the change.
        self.board.version.store(version, Ordering::Release);
        self.rouse();
    }

    /// Wakes all workers that sleep: for what was put down elsewhere, and is to be seen now and not at the end of a sleep.
    pub fn rouse(&self) {
        for seat in &self.board.seats {
            seat.bell.ring();
            seat.rung.store(true, Ordering::Release);
        }
    }

    /// One more that follows.
    pub fn reader(&self) -> Reader {
        Reader { board: self.board.clone(), version: 0 }
    }

    /// Waits until every worker that runs has taken over the latest change.
    pub fn wait(&self, patience: Duration) -> Result<(), Late> {
        let began = Instant::now();
        loop {
            let workers = self.behind();
            if workers.is_empty() {
                return Ok(());
            }
            let waited = began.elapsed();
            if waited >= patience {
                return Err(Late { workers, waited });
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The version that a worker has taken over; 0 before the first change.
    pub fn applied(&self, worker: usize) -> u64 {
        self.board.seats.get(worker).map_or(0, |seat| seat.applied.load(Ordering::Acquire))
    }

    /// How many workers have taken over the latest change.
    pub fn have_it(&self) -> usize {
        let version = self.board.version.load(Ordering::Relaxed);
        let has = |seat: &&CachePadded<Seat>| seat.applied.load(Ordering::Acquire) == version;
        self.board.seats.iter().filter(has).count()
    }

    /// Workers that have not taken over the latest change, and will.
    fn behind(&self) -> Vec<usize> {
        let version = self.board.version.load(Ordering::Relaxed);
        let late = |seat: &Seat| seat.applied.load(Ordering::Acquire) < version && !seat.left.load(Ordering::Acquire);
        self.board.seats.iter().enumerate().filter(|(_, seat)| late(seat)).map(|(number, _)| number).collect()
    }
}

impl Subscriber {
    /// The change that is to be taken over now, if there is one. To be followed by [`Subscriber::acknowledge`].
    #[inline]
    pub fn new_change(&self) -> Option<Arc<Change>> {
        // Acquire: see `publish`.
        if self.board.version.load(Ordering::Acquire) == self.applied {
            return None;
        }
        self.board.latest().clone()
    }

    /// It is taken over.
    pub fn acknowledge(&mut self, change: &Change) {
        self.applied = change.version();
        self.board.seats[self.me].applied.store(self.applied, Ordering::Release);
    }

    /// What becomes readable when there is a new change.
    pub(super) fn bell(&self) -> RawFd {
        self.board.seats[self.me].bell.fd()
    }

    /// Up again: the bell may have been what woke us.
    pub(super) fn awake(&self) {
        let seat = &self.board.seats[self.me];
        if seat.rung.swap(false, Ordering::AcqRel) {
            seat.bell.silence();
        }
    }
}

impl Drop for Subscriber {
    /// A worker that ends keeps nobody waiting.
    fn drop(&mut self) {
        self.board.seats[self.me].left.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Config;
    use crate::io::wait_readable;
    use lb::{Directory, Wanted};

    fn next(previous: Option<&Change>) -> Change {
        let previous = previous.map(|change| &**change.revision.directory());
        let directory = Directory::next(previous, &Wanted::default(), |_| true).unwrap();
        let revision = Revision::new(&Config::default(), Arc::new(directory)).unwrap();
        Change { revision: Arc::new(revision), steering: None }
    }

    #[test]
    fn it_is_said_who_is_late_and_who_has_ended_is_not_waited_for() {
        let (mut publisher, mut all) = between(3).unwrap();
        assert_eq!(publisher.wait(Duration::ZERO), Ok(()));
        publisher.publish(next(None));
        let change = all[1].new_change().unwrap();
        all[1].acknowledge(&change);
        assert!(all[1].new_change().is_none());
        let late = publisher.wait(Duration::from_millis(1)).unwrap_err();
        assert_eq!(late.workers, [0, 2]);
        assert!(late.to_string().starts_with("workers 0, 2 did not take it over within "), "{late}");
        drop(all.remove(0));
        assert_eq!(publisher.wait(Duration::ZERO).unwrap_err().workers, [2]);
        drop(all);
        assert_eq!(publisher.wait(Duration::ZERO), Ok(()));
        assert_eq!([0, 1, 2].map(|worker| publisher.applied(worker)), [0, 1, 0]);
    }

    #[test]
    fn who_comes_late_takes_over_the_latest_change_only() {
        let (mut publisher, mut all) = between(1).unwrap();
        let mut change = next(None);
        for _ in 0..5 {
            publisher.publish(change.clone());
            change = next(Some(&change));
        }
        let taken = all[0].new_change().unwrap();
        assert_eq!(taken.version(), 5);
        all[0].acknowledge(&taken);
        assert!(all[0].new_change().is_none());
        assert_eq!(publisher.wait(Duration::ZERO), Ok(()));
    }

    #[test]
    fn a_sleeper_is_woken_and_the_bell_is_silent_afterwards() {
        let (mut publisher, all) = between(1).unwrap();
        let mine = &all[0];
        let rings = || {
            let before = Instant::now();
            wait_readable(&[mine.bell()], Duration::from_millis(200));
            before.elapsed() < Duration::from_millis(100)
        };
        std::thread::scope(|scope| {
            scope.spawn(|| publisher.publish(next(None)));
            let before = Instant::now();
            wait_readable(&[mine.bell()], Duration::from_secs(20));
            assert!(before.elapsed() < Duration::from_secs(10));
        });
        mine.awake();
        assert!(!rings());
        mine.awake();
        assert!(!rings(), "it is not rung by waking");
        publisher.rouse();
        assert!(rings());
        mine.awake();
        assert!(!rings());
    }

    /// Threads that take over as fast as they can: versions only rise, and none is missed in the end.
    #[test]
    fn all_workers_end_with_the_last_of_many_changes() {
        let (mut publisher, all) = between(3).unwrap();
        let mut change = next(None);
        let last = 500;
        std::thread::scope(|scope| {
            for mut mine in all {
                scope.spawn(move || {
                    while mine.applied < last {
                        if let Some(change) = mine.new_change() {
                            assert!(change.version() > mine.applied);
                            mine.acknowledge(&change);
                        }
                        wait_readable(&[mine.bell()], Duration::from_millis(1));
                        mine.awake();
                    }
                });
            }
            for version in 1..=last {
                publisher.publish(change.clone());
                if version % 50 == 0 {
                    publisher.wait(Duration::from_secs(20)).unwrap();
                }
                change = next(Some(&change));
            }
            publisher.wait(Duration::from_secs(20)).unwrap();
        });
    }
}
