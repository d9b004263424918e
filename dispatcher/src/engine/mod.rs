//! What happens to one frame.
//!
//! The [`Engine`] is one worker's share of the dispatcher: frames and a time go in, [`Verdict`]s, frames and
//! [`ConnectionRecord`]s come out. It knows no socket, clock, thread, random source or log; the same engine runs
//! live, on captures, in simulation and under fuzzing.

mod config;
mod counters;
mod health;
mod neighbours;
mod record;
pub mod session;

pub use config::{AddressMode, BackendSpec, Balance, Config, ConfigError, HashOn, Limits, PortSpec};
pub use counters::{Counters, DropReason};
pub use record::{Class, ConnectionRecord, End};

use crate::time::Time;
use crate::wire::Frame;

/// A port of the engine: its index in [`Config::ports`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct PortId(pub u8);

/// What becomes of a frame that was handed to [`Engine::handle`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The frame was rewritten in place; send it out of this port.
    Forward(PortId),
    /// The frame was turned, in place, into an answer of ours; send it out of this port (the one it came from).
    Reply(PortId),
    /// Everything worth keeping was copied; the driver may have its buffer back.
    Hold,
    /// Nothing to be done with it; the reason has been counted.
    Drop(DropReason),
}

/// What the engine does to the world outside a frame's own buffer. Implemented by the worker, a replay, a simulation.
pub trait Effects {
    /// Send a frame of the engine's making. The bytes are copied out before this returns. False when the port had no
    /// room: the engine counts it, and its own retransmission (or the sender's) repairs it.
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> bool;

    /// A connection has ended.
    fn connection_ended(&mut self, record: &ConnectionRecord<'_>);
}

/// One worker's engine.
pub struct Engine {}

impl Engine {
    /// Builds all tables at their full size; nothing grows afterwards.
    ///
    /// `secret` keys every hash and cookie: 32 bytes from the operating system live, a seed in simulation. `now` is the
    /// first time it will hear of.
    pub fn new(_config: Config, _secret: [u8; 32], _now: Time) -> Result<Engine, ConfigError> {
        todo!()
    }

    /// One frame that came in at `port`.
    pub fn handle(&mut self, _port: PortId, _frame: &mut Frame<'_>, _now: Time, _fx: &mut dyn Effects) -> Verdict {
        todo!()
    }

    /// Everything that is due by `now`: retransmissions, timeouts, expiry, probes, neighbour requests. Bounded work a
    /// call; call it once a burst and when [`Engine::next_deadline`] is reached.
    pub fn poll(&mut self, _now: Time, _fx: &mut dyn Effects) {
        todo!()
    }

    /// When [`Engine::poll`] next has something to do, for drivers that sleep and for virtual clocks.
    pub fn next_deadline(&self) -> Option<Time> {
        todo!()
    }

    /// All counters so far.
    pub fn counters(&self) -> &Counters {
        todo!()
    }

    /// Flows now open.
    pub fn flows(&self) -> usize {
        todo!()
    }

    /// Ends every flow with a reset to both sides and a record (`End::Shutdown`). At most `budget` flows a call; true
    /// when none is left.
    pub fn shutdown(&mut self, _budget: usize, _now: Time, _fx: &mut dyn Effects) -> bool {
        todo!()
    }
}
