//! What a worker tells the others of its line, and what it does with the room that it is offered, or cannot use.

use super::class::{ClassId, Cost};
use super::queue::{NOBODY, Place, Waiter};
use super::share::{OFFERS, Offer, Waiting};
use super::terms::Shared;
use super::{Admission, cost_at};
use crate::backend::State;
use crate::time::Millis;

impl Admission {
    /// After this one has come or gone.
    pub(super) fn publish(&self, waiter: &Waiter) {
        if waiter.own != NOBODY {
            self.publish_own(usize::from(waiter.own));
        }
        if waiter.place != Place::Own {
            self.publish_any();
        }
    }

    pub(super) fn publish_own(&self, member: usize) {
        let classes = if self.states[member] == State::Down { 0 } else { self.line.classes_at(member) };
        let waiting = self.published(classes, Some(member), |class, newest| self.line.next_own(member, class, newest));
        self.shared.board.publish_own(self.worker, member, waiting);
    }

    pub(super) fn publish_any(&self) {
        let classes = self.line.classes_anywhere();
        let waiting = self.published(classes, None, |class, newest| self.line.next_anywhere(class, newest));
        self.shared.board.publish_any(self.worker, waiting);
    }

    pub(super) fn published(
        &self,
        classes: u8,
        member: Option<usize>,
        next: impl Fn(ClassId, bool) -> Option<u32>,
    ) -> Waiting {
        if classes == 0 {
            return Waiting::default();
        }
        let best = self.shared.fairness.order().into_iter().find(|class| classes & class.bit() != 0);
        let index = best.and_then(|class| next(class, self.overdue[class.index()].newest_first()));
        let first = index.map(|index| self.line.get(index));
        Waiting {
            classes,
            unitless: self.line.unitless(),
            units: first.map_or(0, |waiter| cost_at(waiter, member.unwrap_or(usize::MAX)).units()),
            count: best.map_or(0, |class| self.line.count(member, class).min(255) as u8),
            since: first.map_or(Millis(0), |waiter| waiter.since),
        }
    }

    /// Somebody has begun to wait for this one, and that was published: is there room?
    pub(super) fn look_at(&mut self, member: usize) {
        let least = if self.line.unitless() { Cost::NotTls } else { Cost::Resumed };
        if self.states[member] != State::Down && self.shared.has_room(member, least) {
            self.found.insert(member);
        }
    }

    /// The same of one who takes any.
    pub(super) fn look_everywhere(&mut self) {
        self.shared.board.fence();
        (0..self.states.len()).for_each(|member| self.look_at(member));
    }

    /// What was put into the mailbox.
    pub(super) fn receive(&mut self) {
        let Admission { shared, worker, offered, allowed, .. } = self;
        for kind in OFFERS {
            shared.board.receive(*worker, kind, |word, mut set| {
                offered[kind as usize].insert_word(word, set);
                while kind == Offer::Best && set != 0 {
                    let member = word * 64 + set.trailing_zeros() as usize;
                    set &= set - 1;
                    // One that was taken with an earlier bit left none.
                    allowed[member] = allowed[member].max(shared.board.amount(*worker, member)).max(1);
                }
            });
        }
    }

    pub(super) fn offer(&mut self, worker: usize, member: usize, offer: Offer, amount: u16) {
        self.shared.board.send(worker, member, offer, amount);
        self.wakes |= 1 << worker;
    }

    /// What is left of an offer of the best, to all others who could use what we cannot.
    pub(super) fn pass_on(&mut self, member: usize, received: Offer, offer: Offer) {
        if received != Offer::Best {
            return;
        }
        self.allowed[member] = 0;
        let Shared { board, reserved, .. } = &*self.shared;
        if board.waiting() <= self.line.len() as u64 || !self.shared.has_room(member, Cost::NotTls) {
            return;
        }
        let classes = match offer {
            _ if !self.shared.has_room(member, Cost::Resumed) => 0,
            Offer::Beside => *reserved,
            _ => u8::MAX,
        };
        let mut others = board.others(self.worker, member, classes);
        while others != 0 {
            let worker = others.trailing_zeros() as usize;
            others &= others - 1;
            self.offer(worker, member, offer, 0);
        }
    }
}
