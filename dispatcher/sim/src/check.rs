//! The engine's books: every frame handed in has one fate, every loss a name, every table its bound.

use dispatcher::counters::ByReason;
use dispatcher::engine::{DropReason, Engine, Limits, Verdict};

/// What the driver saw, to be compared with what the engine counted.
#[derive(Default, Debug, Clone)]
pub struct Books {
    /// Frames handed in.
    pub frames_in: u64,
    /// Of these, forwarded.
    pub forwarded: u64,
    /// Of these, turned into answers.
    pub replied: u64,
    /// Of these, held.
    pub held: u64,
    /// Of these, dropped, by reason.
    pub dropped: ByReason,
    /// Frames of the engine's own that were sent.
    pub transmitted: u64,
    /// Frames of the engine's own that found no room.
    pub refused_by_driver: u64,
}

impl Books {
    /// A verdict was given.
    pub fn note(&mut self, verdict: Verdict) {
        self.frames_in += 1;
        match verdict {
            Verdict::Forward(_) => self.forwarded += 1,
            Verdict::Reply(_) => self.replied += 1,
            Verdict::Hold => self.held += 1,
            Verdict::Drop(why) => self.dropped[why as usize] += 1,
        }
    }

    /// Panics when the engine's counters disagree, or a bound is exceeded.
    pub fn check(&self, engine: &Engine, limits: &Limits) {
        let c = engine.counters();
        assert_eq!(c.frames_in, self.frames_in);
        assert_eq!(c.held, self.held);
        assert_eq!(c.forwarded, self.forwarded, "forwarded");
        let dropped: u64 = self.dropped.iter().sum();
        assert_eq!(c.frames_in, self.forwarded + self.replied + self.held + dropped, "every frame has one fate");
        assert_eq!(c.made, self.transmitted + self.refused_by_driver, "frames of our own");
        assert_eq!(c.frames_out, self.forwarded + self.replied + self.transmitted, "frames out");
        for &why in DropReason::ALL {
            let (counted, seen) = (c.dropped(why), self.dropped[why as usize]);
            match why {
                // Frames of our own are lost for these two reasons too.
                DropReason::TxFull => assert_eq!(counted, seen + self.refused_by_driver, "{why:?}"),
                DropReason::NoNeighbour => assert!(counted >= seen, "{why:?}"),
                _ => assert_eq!(counted, seen, "{why:?}"),
            }
        }
        assert!(engine.flows() <= limits.flows, "{} flows", engine.flows());
        assert!(engine.held_hellos() <= limits.hellos + limits.waiting, "{} hellos", engine.held_hellos());
        // Servers' answers to hellos, and as many connections of plain HTTP.
        assert!(engine.watched() <= 2 * limits.watches, "{} watches", engine.watched());
        let open = c.flows_opened.checked_sub(c.flows_closed).expect("no more flows closed than opened");
        assert!(open <= engine.flows() as u64, "{open} flows were not told, {} are there", engine.flows());
    }
}
