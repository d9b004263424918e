//! What happens without a frame: timeouts, retransmissions, expiry, probes, questions to neighbours; and how a flow is told of and forgotten.
//!
//! Each flow has one timer in the wheel. It fires at or before the time something may be due; what is due is read off the
//! flow's state, so that nothing has to be re-armed when a frame passes.

use super::connection::State;
use super::record::{Class, ConnectionRecord, End};
use super::{DropReason, Effects, Engine};
use crate::flow::{FlowId, Side};
use crate::time::Time;
use crate::wire::Addr;
use core::time::Duration;

/// Timers handled in one call.
const BATCH: usize = 1024;
/// Between looks at a part of the affinity table for rows that have expired.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

impl Engine {
    /// Everything that is due by `now`: retransmissions, timeouts, expiry, probes, neighbour requests. Bounded work a
    /// call; call it once a burst and when [`Engine::next_deadline`] is reached.
    pub fn poll(&mut self, now: Time, fx: &mut dyn Effects) {
        self.announce(fx);
        let (sent, lost) = self.neighbours.poll(now, fx);
        self.counters.made += sent + lost;
        self.counters.frames_out += sent;
        self.counters.drops[DropReason::TxFull as usize] += lost;
        self.probe(now, fx);
        for _ in 0..BATCH {
            let Some(index) = self.wheel.expired(now) else { break };
            self.on_timer(FlowId(index), now, fx);
        }
        if now.since(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            self.affinity.tick(super::choose::millis(now));
            for _ in 0..BATCH {
                let Some(flow) = self.watches.overdue(now) else { break };
                self.counters.unwatched += 1;
                self.unwatch(flow);
            }
        }
        // Last: what has ended by now names no slot any more.
        self.finish_changes(now, fx);
    }

    /// When [`Engine::poll`] next has something to do, for drivers that sleep and for virtual clocks.
    pub fn next_deadline(&self) -> Option<Time> {
        let unfinished = self.unfinished.is_due().then_some(Time::ZERO);
        [self.wheel.next_deadline(), self.neighbours.due(), self.health.due(), unfinished].into_iter().flatten().min()
    }

    fn on_timer(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        if !self.flows.is_live(id) {
            return;
        }
        let c = self.flows.get(id);
        let idle_at = c.idle_at(self.config.flow_idle_timeout);
        match &c.state {
            State::AwaitHello(waiting) => {
                if waiting.ack_at.is_some_and(|at| at <= now) {
                    self.acknowledge_client(id, fx);
                }
                if now >= waiting_until(&self.flows.get(id).state) {
                    self.on_hello_due(id, now, fx);
                }
            }
            State::Dialing(dialing) if dialing.retry_at <= now => self.on_dial_due(id, now, fx),
            State::Spliced(Some(ours)) if ours.retry_at <= now => self.on_ours_due(id, now, fx),
            State::Spliced(_) if idle_at <= now => self.on_idle(id, now, fx),
            State::TimeWait { until } if *until <= now => self.remove(id),
            State::Cut(_) => self.on_cut_due(id, now, fx),
            State::Reset { by, until } if *until <= now => {
                let end = if *by == Side::Client { End::ClientReset } else { End::BackendReset };
                self.tell(id, end, fx);
                self.remove(id);
            }
            _ => {}
        }
        if self.flows.is_live(id) {
            let at = self.due_of(id);
            self.wheel.arm(id.0, at);
        }
    }

    fn due_of(&self, id: FlowId) -> Time {
        let c = self.flows.get(id);
        match &c.state {
            State::AwaitHello(waiting) => waiting_until(&c.state).min(waiting.ack_at.unwrap_or(Time::MAX)),
            State::Dialing(dialing) => dialing.retry_at,
            State::Spliced(ours) => {
                let idle = c.idle_at(self.config.flow_idle_timeout);
                ours.as_ref().map_or(idle, |o| o.retry_at.min(idle))
            }
            State::TimeWait { until } | State::Reset { until, .. } => *until,
            State::Cut(cut) => cut.retry_at,
        }
    }

    /// Tells of a connection, once.
    pub(super) fn tell(&mut self, id: FlowId, end: End, fx: &mut dyn Effects) {
        if self.flows.get(id).story.told {
            return;
        }
        self.late_over(id);
        self.unwatch(id);
        self.flows.get_mut(id).story.told = true;
        self.counters.flows_closed += 1;
        let (c, client, _) = self.flows.get_with_tuples(id);
        let story = &c.story;
        if let Some(backend) = story.backend {
            self.live.closed(backend);
        }
        let directory = &self.directory;
        let name = |b: Option<lb::BackendId>| Some(directory.backend(b?)?.name.as_str());
        fx.connection_ended(&ConnectionRecord {
            conn: story.number,
            client: client.source(),
            vip: client.destination(),
            service: directory.service_name(story.service),
            pool: directory.pool_name(story.pool),
            backend: name(story.backend),
            class: story.class.unwrap_or(Class::NonSecure),
            decided: name(story.decided),
            reason: story.reason,
            identity: story.key.as_ref().map_or(&[], |k| k.as_bytes()),
            offered: &story.offered,
            tls_version: story.version,
            sni: story.sni.as_deref(),
            resumed: story.resumed,
            bytes_to_server: c.directions[Side::Client as usize].bytes,
            bytes_to_client: c.directions[Side::Server as usize].bytes,
            dial_attempts: story.attempts,
            end,
        });
    }

    /// Gives back what a flow holds of the pools.
    pub(super) fn drop_held(&mut self, id: FlowId) {
        self.unwatch(id);
        let stream = match &mut self.flows.get_mut(id).state {
            State::AwaitHello(w) => &mut w.held.stream,
            State::Dialing(d) => &mut d.held.stream,
            State::Spliced(Some(ours)) => &mut ours.stream,
            _ => return,
        };
        stream.release(&mut self.buffers);
    }

    /// Forgets a flow.
    pub(super) fn remove(&mut self, id: FlowId) {
        self.drop_held(id);
        self.wheel.disarm(id.0);
        if let Some(client) = self.flows.tuple(id, Side::Client)
            && let Some(flows) = self.routes.revision.flows_at(Addr(client.dst), client.dport)
        {
            flows.closed(self.worker);
        }
        let story = self.flows.remove(id).story;
        story.backend.into_iter().chain(story.decided).for_each(|b| self.unfinished.unrefer(b));
    }
}

/// Until when the hello may take.
fn waiting_until(state: &State) -> Time {
    match state {
        State::AwaitHello(w) => {
            let begun = w.walk.is_hello() || w.held.stream.has_gap();
            if begun { w.complete_until } else { w.silent_until }
        }
        _ => Time::MAX,
    }
}
