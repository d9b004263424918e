//! What a connection wants done: returned by its functions, done by the engine's executor, which alone holds all tables.

use super::control::ControlSegment;
use super::record::End;
use super::reuse::Reuse;
use crate::counters::DropReason;
use crate::flow::Side;
use crate::time::Time;
use crate::wire::Seq;

/// How a segment is passed on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passing {
    /// What it acknowledges is raised to this: see [`Splice::translate`](crate::flow::Splice::translate).
    pub floor: Option<Seq>,
    /// It could be meant seriously, and what it says was noted.
    pub noted: bool,
    /// It is the last of its connection.
    pub over: Option<Over>,
}

/// How a connection is over for both of its ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// Both have closed, and know it of each other.
    Closed,
    /// One has sent a reset.
    Reset {
        /// Which.
        by: Side,
        /// It is the very number that the other expects.
        certain: bool,
    },
}

/// By what a backend is to be chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// By the hello, or what there is of it.
    ByHello,
    /// By the request of plain HTTP/1, or what there is of it.
    ByRequest,
    /// By the algorithm: it is neither.
    NotTls,
    /// By the algorithm: nothing has come, or too little to tell. A hello may still come.
    Silent,
}

/// How a dial failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failed {
    /// By a reset.
    Refused,
    /// No answer came in time, or none is to be expected.
    Silent,
}

/// What is to be done.
///
/// Those that are not about a frame leave the one at hand as held.
#[derive(Debug)]
pub enum Action {
    /// Translate the frame at hand, and send it to the other side.
    Forward(Passing),
    /// Turn the frame at hand into this answer to its sender.
    Reply(ControlSegment),
    /// The same, and look at the connection again at this time.
    ReplyAndWake(ControlSegment, Time),
    /// Everything worth keeping of the frame was copied.
    Hold,
    /// Nothing is to be done with the frame.
    Drop(DropReason),
    /// The client begins anew on the same addresses and ports.
    Reuse(Reuse),
    /// No buffer is left for the frame: take one back from who has kept half a hello for long. Then [`hello::take`](super::hello::take).
    MakeRoom,
    /// The flow is taken up again, with the frame at hand.
    Resume,

    /// Send this.
    Send(Side, ControlSegment),
    /// Send both, to those that are to be asked.
    Probe([Option<ControlSegment>; 2]),
    /// Look at the connection again at this time.
    Wake(Time),
    /// Choose a backend, and dial it.
    Choose(Choice),
    /// Send the SYN again.
    Redial,
    /// The backend holds an older connection from our port: tell it by this reset, and try another port.
    Challenged(ControlSegment),
    /// The backend that is dialled did not take it: choose another one.
    Redispatch(Failed),
    /// The backend has answered: splice.
    Splice,
    /// Send what is ours once more.
    Resend,
    /// End it by resets to both sides.
    Cut(End),
    /// End it by a reset to the backend, if there is one: the client is gone, or has been told.
    Abandon(End),
    /// Say the resets of a connection that was cut once more.
    SayResets,
    /// End it by a reset to the client, for which there is no backend.
    TurnAway(End),
    /// Tell the client once more that there was no room.
    SayFarewell,
    /// Its handshake holds units of its backend's limit no longer.
    HandshakeOver,
    /// Forget it; of one that has not been told of yet, with its end.
    Forget(Option<End>),
}

impl From<DropReason> for Action {
    fn from(reason: DropReason) -> Action {
        Action::Drop(reason)
    }
}
