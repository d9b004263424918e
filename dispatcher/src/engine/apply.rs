//! Services, pools and backends change while flows run.
//!
//! A change is a [`Revision`], worked out outside the workers; here it is exchanged for the one before, and what is kept by slot follows: next
//! hops, health, who may be learned of. That is a walk over the slots, and nothing else is looked at: no flow, no row. What takes longer is
//! done in portions by [`Engine::poll`]:
//!
//! * Addresses that are new are announced.
//! * Connections to a backend that was removed go on to their end. If it is to be at once they are reset, both ways (`cut`).
//! * Rows of a backend whose sessions are to be forgotten are cleared, and those of one that was removed. When none is left and no flow names the slot any more, this worker has let go of it
//!   ([`lb::Released`]); when all have, the slot may be given to another backend.
//!
//! No connection notices a change that is not about it. One that is being dialled at a backend that has just been removed goes to another if that
//! one does not answer. One whose pool has gone before it had a backend is routed anew by its service; when that has gone, too, it is led to
//! the pool it had while that stands and has no limits (whose turn it is there, only a service says), and is reset after that.

use super::ask::millis;
use super::{Effects, Engine, TicketKey};
use crate::flow::FlowId;
use crate::path::Revision;
use crate::time::Time;
use crate::wire::Addr;
use lb::affinity::Forgetting;
use lb::{Backend, BackendId, BackendSet, Released};
use std::sync::Arc;

/// Rows of each table looked at in one call for those of backends that left.
const ROWS: usize = 1024;
/// Places of the flow table looked at in one call for flows that are to be reset.
const PLACES: u32 = 4096;
/// Flows reset in one call.
const RESETS: usize = 64;
impl Engine {
    /// From now on the services, pools and backends are those of `next`, a later version of the directory than the present one. A walk over the
    /// slots; what takes longer is begun, and done by [`Engine::poll`].
    ///
    /// Whoever makes versions gives a slot to another backend only when all engines have let go of it: see [`Engine::released`].
    pub fn apply(&mut self, next: &Arc<Revision>, now: Time) {
        let before = core::mem::replace(&mut self.routes.revision, next.clone());
        self.directory = next.directory().clone();
        self.provide_readings();
        let slots = before.directory().slots().max(next.directory().slots());
        for id in (0..slots as u16).map(BackendId) {
            match (before.directory().backend(id), next.directory().backend(id)) {
                (Some(old), Some(new)) if old.generation == new.generation => match (old.leaving, new.leaving) {
                    (false, true) => self.backend_leaves(id),
                    (true, false) => self.backend_comes(new, now),
                    _ if old.check.is_some() && new.check.is_none() => self.health.unchecked(id),
                    _ => {}
                },
                (None, None) => {}
                (_, None) => self.slot_is_free(id),
                (_, Some(new)) => {
                    self.slot_is_free(id);
                    self.routes.enter(id, &mut self.neighbours);
                    if new.leaving { self.backend_leaves(id) } else { self.backend_comes(new, now) }
                }
            }
        }
        self.health.assume(self.routes.mss());
        self.health.refresh_offers();
        self.follow_limits(now);
        self.gates.change(next, self.worker, self.workers);
        while let Some((token, ticket)) = self.gates.next_moved() {
            if self.flows.is_current(token.id, token.generation)
                && let Some(queued) = self.flows.get_mut(token.id).queued()
            {
                queued.ticket = ticket;
            }
        }
        self.gates.follow_health(next.directory(), &self.health);
        self.balancers.follow(next.directory());
        self.affinity.let_one_refusal_count(super::share::one_refusal_counts(next.directory()));
        let leaving = |id| next.directory().backend(id).is_some_and(|b| b.leaving);
        let resets: BackendSet = next.resets().filter(leaving);
        // A walk that is under way goes on for whoever is still leaving: one that is wanted again keeps its flows.
        let same = |id| {
            before.directory().backend(id).map(|b| b.generation) == next.directory().backend(id).map(|b| b.generation)
        };
        let (due, at) = self.unfinished.resetting.take().unwrap_or((BackendSet::EMPTY, FlowId(0)));
        let due = due.filter(|id| leaving(id) && same(id));
        let at = if resets.is_empty() { at } else { FlowId(0) };
        let all = due.union(&resets);
        self.unfinished.resetting = (!all.is_empty()).then_some((all, at));
        let wanted = |id| next.directory().backend(id).is_some_and(|b| !b.leaving);
        self.unfinished.rows_of = self.unfinished.rows_of.union(&next.forgets().filter(wanted));
        if self.worker == 0 {
            // One says it for all.
            let new = next.addresses().into_iter().filter(|(_, addr)| before.held_by(*addr).is_none());
            self.unfinished.unannounced.extend(new);
            self.unfinished.unannounced.retain(|(_, addr)| next.held_by(*addr).is_some());
        }
    }

    /// The limits of the backends are those of the directory from now on. One says it for all.
    pub(super) fn follow_limits(&mut self, now: Time) {
        self.pace.follow(&self.directory, &self.observed);
        if self.worker != 0 {
            return;
        }
        let slots = self.live.slots();
        for id in (0..self.directory.slots() as u16).map(BackendId) {
            let wanted = self.directory.backend(id).filter(|b| !b.leaving).map(|b| b.limits);
            let limits = self.pace.limits(id, wanted.unwrap_or_default(), millis(now));
            if slots.limits(id) != limits {
                slots.set_limits(id, limits);
                self.gates.room_at(id, None);
            }
        }
    }

    /// What all engines that share it have let go of.
    pub fn released(&self) -> &Arc<Released> {
        &self.unfinished.released
    }

    /// A backend is wanted: a new one, or one that was leaving.
    fn backend_comes(&mut self, backend: &Backend, now: Time) {
        let id = backend.id;
        let Engine { unfinished, affinity, config, .. } = self;
        unfinished.released.hold(self.worker, id);
        unfinished.rows_of.remove(id);
        unfinished.rowless.remove(id);
        let of = |key: &TicketKey| key.backend() == backend.name;
        let unknown = |key: &TicketKey| of(key) && matches!(key, TicketKey::Unknown { .. });
        affinity.call(id, lb::affinity::called(&backend.name));
        affinity.admit(id, backend.generation, !config.ticket_keys.iter().any(unknown));
        self.tell_names(backend);
        self.noticed.forget(id);
        self.health.add(id, Addr::from(backend.addr.ip()), backend.check.is_some(), now);
    }

    /// The names of its ticket keys that the configuration tells.
    fn tell_names(&mut self, backend: &Backend) {
        for key in &self.config.ticket_keys {
            if let TicketKey::Name { name, .. } = key
                && key.backend() == backend.name
            {
                self.affinity.tell_name(backend.id, name);
            }
        }
    }

    /// A backend is wanted no more. Its flows go on.
    pub(super) fn backend_leaves(&mut self, id: BackendId) {
        self.affinity.dismiss(id);
        self.health.remove(id);
        self.unfinished.rows_of.insert(id);
    }

    /// Nobody has the slot, and no flow is left of who had it.
    fn slot_is_free(&mut self, id: BackendId) {
        debug_assert_eq!(self.unfinished.users[id.index()], 0, "{id:?} is given away while flows name it");
        self.affinity.dismiss(id);
        self.health.remove(id);
        self.routes.leave(id, &mut self.neighbours);
        self.unfinished.rows_of.remove(id);
        self.unfinished.rowless.remove(id);
    }

    /// A portion of what changes have left to do.
    pub(super) fn finish_changes(&mut self, now: Time, fx: &mut dyn Effects) {
        if self.unfinished.resetting.is_some() {
            self.reset_some(now, fx);
        }
        self.forget_some();
        if !self.unfinished.rowless.is_empty() {
            self.let_go();
        }
    }

    /// Resets flows of backends that are to go at once.
    fn reset_some(&mut self, now: Time, fx: &mut dyn Effects) {
        let Some((backends, from)) = self.unfinished.resetting else { return };
        let end = from.0.saturating_add(PLACES).min(self.flows.capacity() as u32);
        let (mut at, mut done) = (from.0, 0);
        while at < end && done < RESETS {
            let id = FlowId(at);
            at += 1;
            if !self.flows.is_live(id) {
                continue;
            }
            let record = self.record(id);
            if record.told || !record.backend.is_some_and(|b| backends.contains(b)) {
                continue;
            }
            done += 1;
            self.take_backend_away(id, now, fx);
            self.refresh(id);
        }
        let over = at as usize >= self.flows.capacity();
        self.unfinished.resetting = (!over).then_some((backends, FlowId(at)));
    }

    /// Clears rows of backends that left.
    fn forget_some(&mut self) {
        let Engine { unfinished, affinity, .. } = self;
        if unfinished.forgetting.is_none() && !unfinished.rows_of.is_empty() {
            unfinished.forgetting = Some(Forgetting::of(core::mem::take(&mut unfinished.rows_of)));
        }
        let Some(forgetting) = &mut unfinished.forgetting else { return };
        if affinity.forget_some(forgetting, ROWS) {
            let cleared = *forgetting.backends();
            unfinished.forgetting = None;
            // One that came back meanwhile may have left again: its rows are cleared anew then.
            let directory = &self.directory;
            let gone = |id: BackendId| directory.backend(id).is_some_and(|b| b.leaving);
            let again = unfinished.rows_of;
            unfinished.rowless = unfinished.rowless.union(&cleared.filter(|id| gone(id) && !again.contains(id)));
            // Who is still wanted was to be forgotten only: what the configuration tells holds on.
            let directory = self.directory.clone();
            let stay = cleared.iter().filter_map(|id| directory.backend(id)).filter(|b| !b.leaving);
            stay.for_each(|backend| self.tell_names(backend));
        }
    }

    /// Says which slots nothing names any more.
    fn let_go(&mut self) {
        let Engine { unfinished, routes, worker, .. } = self;
        let users = &unfinished.users;
        let free = unfinished.rowless.filter(|id| users[id.index()] == 0);
        for id in free.iter() {
            unfinished.rowless.remove(id);
            if let Some(backend) = routes.revision.directory().backend(id) {
                unfinished.released.release(*worker, id, backend.generation);
            }
        }
    }
}
