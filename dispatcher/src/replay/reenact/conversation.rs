//! A connection being re-enacted: both ends, and how far each script has come.
//!
//! # Cause before effect
//!
//! A segment is sent in the order recorded, not before its time, and not before so much of the other side's stream has
//! arrived as its sender had acknowledged when it was recorded. So no side ever answers what it has not heard, however long
//! the dispatcher takes; and where it takes no longer than the network once did, everything happens at its recorded time.
//! A reset waits until everything sent before it, either way, has arrived: in the recording it had.
//!
//! A recorder that wrote frames in a wrong order, or missed some, can make two segments wait for each other. After
//! some patience the one recorded first is sent all the same, and counted.

use super::endpoint::{Endpoint, Phase, Send};
use super::recording::{Recorded, Step, Syn};
use super::wire::{Ended, Heard, Wire};
use crate::engine::DropReason;
use crate::time::Time;
use core::time::Duration;

/// Client and server as indices.
pub const CLIENT: usize = 0;
/// See [`CLIENT`].
pub const SERVER: usize = 1;

/// While no backend is there the dispatcher takes in as much by itself.
const FIRST_WINDOW: u32 = 20 * 1024;

/// What became of a conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Still under way.
    Open,
    /// Both scripts were played to the end and everything has arrived.
    Played,
    /// A reset that was not in the script, silence, or scripts that wait for what never comes.
    Broken,
}

/// One connection.
pub struct Conversation<'c> {
    /// What is re-enacted.
    pub recorded: &'c Recorded<'c>,
    /// Client and server.
    pub ends: [Endpoint; 2],
    /// Steps done, and of the next one how far.
    next: [(usize, u32); 2],
    progress_at: Time,
    /// What the engine told of it.
    pub told: Option<Ended>,
    /// Why the engine ended it, or else dropped, or answered by a reset, the first of its frames for which it did.
    pub lost_by: Option<DropReason>,
    /// The engine did not follow its server's answer.
    pub unwatched: bool,
    /// See there.
    pub outcome: Outcome,
    /// Steps sent before what they waited for.
    pub forced: u32,
    /// When it wants to be looked at; for the world's queue.
    pub wake_at: Time,
    /// The PROXY header was the right one, or none was due.
    pub header_fits: bool,
}

impl<'c> Conversation<'c> {
    /// Before its beginning.
    pub fn new(recorded: &'c Recorded<'c>, ends: [Endpoint; 2], now: Time) -> Conversation<'c> {
        Conversation {
            recorded,
            ends,
            next: [(0, 0); 2],
            progress_at: now,
            told: None,
            lost_by: None,
            unwatched: false,
            outcome: Outcome::Open,
            forced: 0,
            wake_at: Time::MAX,
            header_fits: true,
        }
    }

    /// The client's SYN.
    pub fn begin(&mut self, now: Time, wire: &mut Wire) {
        self.ends[CLIENT].connect(&self.recorded.syn, now, wire);
    }

    /// A segment has arrived at one of the ends.
    pub fn receive(&mut self, side: usize, seg: &Heard<'_>, now: Time, wire: &mut Wire) {
        let before = (self.ends[side].arrived(), self.ends[side].phase);
        let theirs = &self.recorded.scripts[1 - side];
        let allowed = self.ends[side].allowed();
        if self.outcome == Outcome::Open && self.ends[side].is_asked(seg) {
            // Whoever has something to say yet is there.
            self.ends[side].acknowledge(now, wire);
        }
        self.ends[side].receive(seg, &self.recorded.syn, theirs, now, wire);
        // What the dispatcher tells of a window must not be more than its owner said.
        let told = self.ends[side].allowed();
        if told > allowed && before.1 == Phase::Open && told > self.ends[1 - side].offered().max(FIRST_WINDOW) {
            self.ends[side].faults.add(true, "more window than the peer allowed");
        }
        if (self.ends[side].arrived(), self.ends[side].phase) != before {
            self.progress_at = now;
        }
    }

    /// Sends what is to be sent, by both sides, and finds out whether it is over. `patience` is how long two
    /// scripts may wait for each other.
    pub fn go_on(&mut self, now: Time, start: Time, patience: Duration, wire: &mut Wire) {
        if self.outcome != Outcome::Open {
            return self.keep_up(now, wire);
        }
        let stuck = self.stuck_at(start) + patience <= now;
        let force = if stuck { self.first_blocked(now, start) } else { None };
        for side in [CLIENT, SERVER] {
            while self.step(side, now, start, force == Some(side), wire) {}
        }
        self.keep_up(now, wire);
        self.judge(stuck && force.is_none());
    }

    fn keep_up(&mut self, now: Time, wire: &mut Wire) {
        for side in [CLIENT, SERVER] {
            self.ends[side].on_time(&self.recorded.syn, &self.recorded.scripts[side], now, wire);
        }
    }

    fn head(&self, side: usize) -> Option<&'c Step> {
        self.recorded.scripts[side].steps.get(self.next[side].0)
    }

    /// Of the sides whose next step waits for the other side, the one whose step was recorded first.
    fn first_blocked(&self, now: Time, start: Time) -> Option<usize> {
        let waiting = [CLIENT, SERVER].into_iter().filter_map(|side| {
            let step = self.head(side)?;
            let due = self.ends[side].phase == Phase::Open && due(step, start) <= now;
            (due && !self.may(side, step)).then_some((step.order, side))
        });
        waiting.min().map(|(_, side)| side)
    }

    /// Its cause has happened.
    fn may(&self, side: usize, step: &Step) -> bool {
        let other = 1 - side;
        let theirs = &self.recorded.scripts[other];
        if !step.reset {
            return self.ends[side].arrived() >= step.need.min(theirs.space());
        }
        self.next[other].0 == theirs.steps.len()
            && self.ends[side].arrived() == self.ends[other].sent()
            && self.ends[other].arrived() == self.ends[side].sent()
    }

    /// The next step of a side, if it may; true when there may be another.
    fn step(&mut self, side: usize, now: Time, start: Time, force: bool, wire: &mut Wire) -> bool {
        let Some(step) = self.head(side) else { return false };
        if self.ends[side].phase != Phase::Open || due(step, start) > now {
            return false;
        }
        if !self.may(side, step) {
            if !force {
                return false;
            }
            // Once a look is enough to loosen the knot.
            self.forced += 1;
            self.progress_at = now;
            self.send(side, step, now, wire);
            return false;
        }
        self.send(side, step, now, wire)
    }

    fn send(&mut self, side: usize, step: &Step, now: Time, wire: &mut Wire) -> bool {
        if step.reset {
            self.ends[side].reset(now, wire);
            self.next[side].0 += 1;
            self.progress_at = now;
            return false;
        }
        let end = step.start + step.len;
        let done = self.next[side].1;
        let what = Send { start: step.start + done, end, push: step.push, fin: step.fin };
        let reached = self.ends[side].send(what, &self.recorded.scripts[side], now, wire);
        if reached >= end + u32::from(step.fin) {
            self.next[side] = (self.next[side].0 + 1, 0);
            self.progress_at = now;
            true
        } else {
            self.next[side].1 = reached - step.start;
            false
        }
    }

    fn judge(&mut self, hopeless: bool) {
        let played = |side: usize| self.head(side).is_none();
        let whole = |side: usize| self.ends[1 - side].arrived() >= self.recorded.scripts[side].space();
        let calm = self.ends.iter().all(|e| e.settled() || e.is_dead());
        if played(CLIENT) && played(SERVER) && whole(CLIENT) && whole(SERVER) && calm {
            self.outcome = Outcome::Played;
        } else if self.ends.iter().any(Endpoint::is_dead) && !self.may_recover() || hopeless {
            self.outcome = Outcome::Broken;
        }
    }

    /// An end is dead by its own script while the other has not heard of it.
    fn may_recover(&self) -> bool {
        let by_script = |side: usize| {
            let steps = &self.recorded.scripts[side].steps;
            self.next[side].0 == steps.len() && steps.last().is_some_and(|s| s.reset)
        };
        by_script(CLIENT) || by_script(SERVER)
    }

    /// Both streams arrived as they were recorded.
    pub fn intact(&self) -> bool {
        let whole = |side: usize| self.ends[1 - side].arrived() >= self.recorded.scripts[side].len;
        whole(CLIENT) && whole(SERVER) && self.header_fits && self.ends.iter().all(|e| !e.differs)
    }

    /// When [`Conversation::go_on`] should be called next, though nothing arrives.
    pub fn due(&self, now: Time, start: Time, patience: Duration) -> Time {
        let retries = self.ends.iter().filter_map(Endpoint::due).min().unwrap_or(Time::MAX);
        if self.outcome != Outcome::Open {
            return retries;
        }
        let steps = [CLIENT, SERVER].into_iter().filter_map(|side| self.head(side)).map(|s| due(s, start));
        let next = steps.filter(|at| *at > now).min();
        next.unwrap_or(self.stuck_at(start) + patience).min(retries)
    }

    /// Since when nothing has happened though something might have; while a step is still to come, the time of that.
    fn stuck_at(&self, start: Time) -> Time {
        let steps = [CLIENT, SERVER].into_iter().filter_map(|side| self.head(side)).map(|s| due(s, start));
        steps.max().unwrap_or(Time::ZERO).max(self.progress_at)
    }

    /// The server's SYN-ACK as recorded; where it was not, one that any system would send.
    pub fn answer(&self) -> Syn<'c> {
        let isn = crate::wire::Seq(!self.recorded.syn.isn.0);
        self.recorded.syn_ack.unwrap_or(Syn { isn, flags: 0x12, window: u16::MAX, options: USUAL })
    }
}

/// MSS 1460, SACK, timestamps, window scale 7.
pub const USUAL: &[u8] = &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];

fn due(step: &Step, start: Time) -> Time {
    start + step.at.since(Time::ZERO)
}
