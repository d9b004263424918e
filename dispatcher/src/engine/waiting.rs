//! Once a turn: who has waited and may go on, and who has waited long enough.

use super::admission::{Stranded, Token};
use super::ask::{Chosen, millis};
use super::trail::What;
use super::{Effects, Engine};
use crate::counters::DropReason;
use crate::flow::FlowId;
use crate::tcp::End;
use crate::time::Time;
use lb::admission::Grant;

impl Engine {
    /// Deals with what admission has to say.
    pub(super) fn serve_queues(&mut self, now: Time, fx: &mut dyn Effects) {
        if self.gates.is_empty() && self.gates.stranded.is_empty() || self.stopping {
            return;
        }
        self.gates.follow_health(&self.directory, &self.health);
        for stranded in core::mem::take(&mut self.gates.stranded) {
            self.lead_on(stranded, now, fx);
        }
        for n in 0..self.gates.len() {
            while let Some(grant) = self.gates.at(n).admission.next(millis(now)) {
                self.granted(n, grant, now, fx);
            }
            while let Some(expired) = self.gates.at(n).admission.expired(millis(now)) {
                if let Some(id) = self.who_waits(Token::of_word(expired.token)) {
                    self.has_waited(id, expired.waited);
                    self.take_leave(id, End::QueueTimeout, DropReason::QueueTimeout, now, fx);
                    self.refresh(id);
                }
            }
        }
    }

    /// The flow that waits by this token.
    fn who_waits(&mut self, Token { id, generation }: Token) -> Option<FlowId> {
        let waits = self.flows.is_current(id, generation) && self.flows.get_mut(id).queued().is_some();
        debug_assert!(waits, "{id:?} waits no more, and has not left its line");
        waits.then_some(id)
    }

    fn has_waited(&mut self, id: FlowId, millis: u64) {
        let record = &mut self.flows.get_mut(id).record;
        record.waited = record.waited.saturating_add(u16::try_from(millis).unwrap_or(u16::MAX));
    }

    /// One may go.
    fn granted(&mut self, n: usize, grant: Grant, now: Time, fx: &mut dyn Effects) {
        let Grant { token, slot, waited, spilled } = grant;
        let Some(id) = self.who_waits(Token::of_word(token)) else {
            return self.gates.at(n).admission.freed(slot);
        };
        self.has_waited(id, waited);
        self.flows.get_mut(id).record.spilled |= spilled;
        self.unqueue(id);
        self.note(id, What::Goes(self.holder(slot.backend())), now);
        self.goes_to(id, slot.backend(), now);
        self.go_on(id, Chosen::Backend(slot.backend(), Some(slot)), now, fx);
        self.refresh(id);
    }

    /// One whose line is none any more.
    fn lead_on(&mut self, stranded: Stranded, now: Time, fx: &mut dyn Effects) {
        let (Stranded::Free(token) | Stranded::Refused(token)) = stranded;
        // It may have left since.
        if !self.flows.is_current(token.id, token.generation) {
            return;
        }
        let id = token.id;
        let Some(queued) = self.flows.get_mut(id).queued() else { return };
        let waited = now.since(queued.since).as_millis() as u64;
        self.has_waited(id, waited);
        self.unqueue(id);
        match stranded {
            Stranded::Free(_) => {
                let chosen = self.choose_anew(id, now);
                self.go_on(id, chosen, now, fx);
            }
            Stranded::Refused(_) => self.take_leave(id, End::QueueFull, DropReason::QueueFull, now, fx),
        }
        self.refresh(id);
    }
}
