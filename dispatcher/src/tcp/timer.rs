//! When a connection is to be looked at without a frame, and what is due then.
//!
//! Each flow has one timer. It fires at or before the time something may be due; what is due is read off the
//! connection's state, so that nothing has to be re-armed when a frame passes.

use super::action::Action;
use super::connection::{Connection, Opening, Stage, State};
use super::hot::Hot;
use super::record::End;
use super::{cut, dial, farewell, handshake, hello, keepalive, unacked, wait};
use crate::backends::Health;
use crate::flow::Side;
use crate::time::Time;
use core::time::Duration;

/// What is due by `now`; none when nothing is. `reachable`: the backend's next hop is known.
pub fn due(
    hot: &Hot,
    c: &mut Connection,
    now: Time,
    idle_timeout: Duration,
    hello_bytes: usize,
    health: &mut Health,
    reachable: bool,
) -> Option<Action> {
    let idle = keepalive::idle_at(hot, c, idle_timeout) <= now;
    if c.handshake.is_some_and(|handshake| handshake::ends_at(&handshake) <= now) {
        return Some(Action::HandshakeOver);
    }
    match &mut c.state {
        State::Opening(Opening { stage: Stage::AwaitHello(_), .. }) => hello::due(hot, c, now, hello_bytes),
        State::Opening(Opening { stage: Stage::Queued(_), .. }) => wait::due(hot, c, now, hello_bytes),
        State::Opening(Opening { stage: Stage::Dialing(dialing), .. }) if dialing.retry_at <= now => {
            Some(dial::due(c, now, health, reachable))
        }
        State::Spliced(Some(unacked)) if unacked.retry_at <= now => Some(unacked::due(unacked, now)),
        State::Spliced(_) if idle => Some(keepalive::due(hot, c)),
        State::TimeWait { until } if *until <= now => Some(Action::Forget(None)),
        State::Cut(cut) if cut.retry_at <= now => Some(cut::due(cut, now)),
        State::Farewell(farewell) if farewell.retry_at <= now => Some(farewell::due(farewell, now)),
        State::Reset { by, until } if *until <= now => {
            Some(Action::Forget(Some(if *by == Side::Client { End::ClientReset } else { End::BackendReset })))
        }
        _ => None,
    }
}

/// When something may be due.
pub fn wakes_at(hot: &Hot, c: &Connection, idle_timeout: Duration) -> Time {
    match &c.state {
        State::Opening(Opening { held, stage: Stage::AwaitHello(waiting), .. }) => {
            hello::patience(held, waiting).min(waiting.ack_at.unwrap_or(Time::MAX))
        }
        // How long it waits is admission's to say.
        State::Opening(Opening { stage: Stage::Queued(queued), .. }) => {
            queued.ack_at.map_or(queued.ask_at, |at| at.min(queued.ask_at))
        }
        State::Opening(Opening { stage: Stage::Dialing(dialing), .. }) => dialing.retry_at,
        State::Spliced(unacked) => {
            let idle = keepalive::idle_at(hot, c, idle_timeout);
            let owed = unacked.as_ref().map_or(idle, |unacked| unacked.retry_at.min(idle));
            c.handshake.as_ref().map_or(owed, |handshake| handshake::ends_at(handshake).min(owed))
        }
        State::TimeWait { until } | State::Reset { until, .. } => *until,
        State::Cut(cut) => cut.retry_at,
        State::Farewell(farewell) => farewell.retry_at,
    }
}
