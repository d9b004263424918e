//! What happens without a frame: timeouts, retransmissions, expiry, probes, questions to neighbours.

use super::{Effects, Engine};
use crate::flow::FlowId;
use crate::tcp::{flight, http, timer};
use crate::time::Time;
use core::time::Duration;

/// Timers handled in one call.
const BATCH: usize = 1024;
/// Things that may be due for one connection at once.
const AT_ONCE: usize = 4;
/// Questions asked in one call: a thousand backends that come at once are asked for in as many portions as it takes.
const ASKED: usize = 64;
/// Between looks at a part of the affinity table for rows that have expired.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

impl Engine {
    /// Everything that is due by `now`: retransmissions, timeouts, expiry, probes, neighbour requests. Bounded work a
    /// call; call it once a burst and when [`Engine::next_deadline`] is reached.
    pub fn poll(&mut self, now: Time, fx: &mut dyn Effects) {
        self.announce(fx);
        self.ask_neighbours(now, fx);
        self.probe(now, fx);
        for _ in 0..BATCH {
            let Some(index) = self.wheel.expired(now) else { break };
            self.on_timer(FlowId(index), now, fx);
        }
        if now.since(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            self.affinity.tick(super::share::session_time(now));
            for _ in 0..BATCH {
                let Some(flow) = self.flights.overdue(now) else { break };
                self.counters.unwatched += 1;
                let Engine { flows, flights, buffers, .. } = self;
                flight::close(flows.get_mut(flow), flights, buffers);
                self.refresh(flow);
            }
            for _ in 0..BATCH {
                // It is idle, or has lasted for long: nothing is lost by that.
                let Some(flow) = self.readings.overdue(now) else { break };
                let Engine { flows, readings, buffers, .. } = self;
                http::close(flows.get_mut(flow), readings, buffers);
                self.refresh(flow);
            }
        }
        self.keep_pace(now);
        self.serve_queues(now, fx);
        // Last: what has ended by now names no slot any more.
        self.finish_changes(now, fx);
    }

    /// Limits and weights that are not what they were.
    fn keep_pace(&mut self, now: Time) {
        if !self.pace.is_due(now, &self.health) || self.stopping {
            return;
        }
        let Engine { pace, health, observed, live, gates, worker, .. } = self;
        pace.look(health, now);
        if *worker == 0 {
            pace.say(observed, live.slots(), super::choose::millis(now), |raised| gates.room_at(raised, None));
        }
    }

    /// Asks for the next hops that are due, a portion of them.
    fn ask_neighbours(&mut self, now: Time, fx: &mut dyn Effects) {
        for _ in 0..ASKED {
            let Some((port, n)) = self.neighbours.next_question(now, &mut self.scratch) else { return };
            self.hand_out(port, n, fx);
        }
    }

    /// When [`Engine::poll`] next has something to do, for drivers that sleep and for virtual clocks.
    pub fn next_deadline(&self) -> Option<Time> {
        let unfinished = (self.unfinished.is_due() || self.has_offers()).then_some(Time::ZERO);
        let queues = self.gates.due().filter(|_| !self.stopping).map(|at| Time::from_millis(at.0));
        // Limits are one worker's to say.
        let pace = if self.worker == 0 { self.pace.due() } else { None };
        let due = [self.wheel.next_deadline(), self.neighbours.due(), self.health.due(), unfinished, queues, pace];
        due.into_iter().flatten().min()
    }

    fn on_timer(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let (idle, hello_bytes) = (self.config.flow_idle_timeout, self.config.limits.hello_bytes);
        for _ in 0..AT_ONCE {
            if !self.flows.is_live(id) {
                return;
            }
            let Engine { flows, health, neighbours, .. } = self;
            let (hot, c) = flows.both(id);
            let reachable = c.hop(hot).is_some_and(|hop| neighbours.link(hop).1.is_some());
            let Some(action) = timer::due(hot, c, now, idle, hello_bytes, health, reachable) else { break };
            self.perform(id, action, now, fx);
        }
        if self.flows.is_live(id) {
            let (hot, c) = self.flows.both(id);
            let at = timer::wakes_at(hot, c, idle);
            self.wheel.arm(id.0, at);
            self.refresh(id);
        }
    }
}
