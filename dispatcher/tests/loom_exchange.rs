//! How workers sleep, wake each other and leave, under every interleaving and every reordering loom knows.
//!
//! The module under test is the worker's own, compiled once more over loom's atomics. Of the inbox's queue (crossbeam's, which is trusted)
//! less is assumed than is true: that it counts, and nothing of what its operations order besides.

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

mod sync {
    pub use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
}

#[path = "../src/worker/doze.rs"]
mod doze;

use doze::{Present, Sleep, have_put};

/// An `eventfd`: rung until silenced.
#[derive(Default)]
struct Bell {
    rings: Mutex<usize>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rings.lock().unwrap() += 1;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let mut rings = self.rings.lock().unwrap();
        while *rings == 0 {
            rings = self.changed.wait(rings).unwrap();
        }
    }

    fn silence(&self) -> usize {
        std::mem::take(&mut *self.rings.lock().unwrap())
    }
}

struct Inbox {
    frames: AtomicUsize,
    sleep: Sleep,
    bell: Bell,
    senders: Present,
}

impl Inbox {
    fn new(senders: usize) -> Arc<Inbox> {
        Arc::new(Inbox {
            frames: AtomicUsize::new(0),
            sleep: Sleep::new(),
            bell: Bell::default(),
            senders: Present::new(senders),
        })
    }

    fn put(&self) {
        self.frames.fetch_add(1, Ordering::Relaxed);
    }

    /// At the end of a burst.
    fn wake(&self) {
        have_put();
        if self.sleep.must_ring() {
            self.bell.ring();
        }
    }

    fn take_all(&self) -> usize {
        // A look that may be late, as late as the order of everything else allows.
        let frames = self.frames.load(Ordering::Relaxed);
        self.frames.fetch_sub(frames, Ordering::Relaxed);
        frames
    }

    fn rest(&self) {
        if self.sleep.doze(|| self.frames.load(Ordering::Relaxed) == 0) {
            self.bell.wait();
        }
        self.sleep.awake(|| self.bell.silence());
    }
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Who sleeps with something in its inbox sleeps for ever here, which loom tells as a deadlock. One that cannot sleep any more for a ring
/// that was never heard turns round for ever, which loom tells as too many branches.
#[test]
fn no_frame_is_slept_over() {
    check(3, || {
        let inbox = Inbox::new(1);
        let sender = {
            let inbox = inbox.clone();
            thread::spawn(move || {
                inbox.put();
                inbox.wake();
                inbox.put();
                inbox.wake();
            })
        };
        let mut received = 0;
        while received < 2 {
            match inbox.take_all() {
                0 => inbox.rest(),
                some => received += some,
            }
        }
        sender.join().unwrap();
    });
}

#[test]
fn no_frame_of_several_senders_is_slept_over() {
    check(2, || {
        let inbox = Inbox::new(2);
        let senders = [(); 2].map(|()| {
            let inbox = inbox.clone();
            thread::spawn(move || {
                inbox.put();
                inbox.wake();
            })
        });
        let mut received = 0;
        while received < 2 {
            match inbox.take_all() {
                0 => inbox.rest(),
                some => received += some,
            }
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}

/// What was handed over is received: the owner looks first whether all have left, and empties its inbox then.
#[test]
fn what_was_put_before_all_left_is_received() {
    check(3, || {
        let inbox = Inbox::new(2);
        let senders = [1, 2].map(|frames| {
            let inbox = inbox.clone();
            thread::spawn(move || {
                (0..frames).for_each(|_| inbox.put());
                inbox.senders.leave();
            })
        });
        let mut received = 0;
        loop {
            let last = inbox.senders.none();
            received += inbox.take_all();
            if last {
                break;
            }
            thread::yield_now();
        }
        assert_eq!(received, 3);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}
