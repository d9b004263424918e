//! What is counted of frames.

use super::Engine;
use crate::counters::DropReason;

impl Engine {
    /// Counts a frame of our own making.
    pub(super) fn note_made(&mut self, sent: bool) {
        self.counters.made += 1;
        if sent {
            self.counters.frames_out += 1;
        } else {
            self.count(DropReason::TxFull);
        }
    }

    pub(super) fn count(&mut self, reason: DropReason) {
        self.counters.drops[reason as usize] += 1;
    }

    /// Segments answered by a reset are neither forwarded nor dropped; why they were refused is counted beside.
    pub(super) fn count_refusal(&mut self, why: DropReason) {
        self.counters.refused[why as usize] += 1;
    }
}
