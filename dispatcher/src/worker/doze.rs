//! How the owner of an inbox falls asleep without missing what is put into it, and how it knows that nothing more will be.
//!
//! **Sleep.** An owner that is about to sleep says so, and then looks into its inbox once more; one that has put something into an inbox
//! looks afterwards whether its owner sleeps, and rings. A full fence lies between the two steps on both sides, so at least one of them
//! sees the other (Dekker's pattern).
//!
//! **Leaving.** Who will put nothing more says so after its last; an owner that sees that all have left sees all that they have put.
//!
//! The atomics are the surrounding module's: the standard ones here, loom's where the model of this is checked (`tests/loom_exchange.rs`).

use super::sync::{AtomicBool, AtomicUsize, Ordering, fence};

/// Whether the owner of an inbox sleeps.
pub struct Sleep {
    sleeping: AtomicBool,
    /// Rings that were promised and not heard yet; the owner's alone. One that came too late for the sleep that it was meant to end would
    /// otherwise end every later one.
    owed: AtomicUsize,
}

impl Sleep {
    /// It does not.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Sleep {
        Sleep { sleeping: AtomicBool::new(false), owed: AtomicUsize::new(0) }
    }

    /// The owner: whether it may sleep until somebody rings, its inbox being empty. In any case to be followed by [`Sleep::awake`].
    pub fn doze(&self, inbox_is_empty: impl FnOnce() -> bool) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        inbox_is_empty()
    }

    /// The owner, up again. `silence` ends all ringing, and tells how many rings it was; it is called when one is due, or was promised and
    /// has not come.
    pub fn awake(&self, silence: impl FnOnce() -> usize) {
        let promised = !self.sleeping.swap(false, Ordering::Relaxed);
        let owed = self.owed.load(Ordering::Relaxed) + usize::from(promised);
        if owed > 0 {
            self.owed.store(owed.saturating_sub(silence()), Ordering::Relaxed);
        }
    }

    /// One that has put something, behind [`have_put`]: whether it is to ring. One of several is, once, and then must.
    pub fn must_ring(&self) -> bool {
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed)
    }
}

/// To be called between what was put into inboxes, and the look at who sleeps.
pub fn have_put() {
    fence(Ordering::SeqCst);
}

/// Those who may still put something.
pub struct Present {
    count: AtomicUsize,
}

impl Present {
    /// So many.
    pub fn new(count: usize) -> Present {
        Present { count: AtomicUsize::new(count) }
    }

    /// One of them will put nothing more.
    pub fn leave(&self) {
        // Release: who sees that we have left sees what we have put.
        self.count.fetch_sub(1, Ordering::Release);
    }

    /// Nobody will put anything any more.
    pub fn none(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }
}
