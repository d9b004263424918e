//! What is ours to deliver, and how it is delivered: the PROXY header, and hello bytes that we have acknowledged to the
//! client. The client will not repeat them, so we do, until the backend has acknowledged them.
//!
//! When the splice begins everything held is sent at once, ours or not: what is not ours is only a copy that saves the
//! client a retransmission.

use super::action::Action;
use super::connection::{Connection, State, Unacked};
use super::control::{ControlSegment, Options, timestamps};
use super::hot::{Hot, Through};
use super::record::End;
use crate::flow::{BufferPool, Clock, Side};
use crate::time::Time;
use crate::wire::Seq;
use crate::wire::options::Timestamps;
use crate::wire::packet::Flags;
use core::time::Duration;

/// First retransmission; doubled each time, up to two seconds.
const RETRY: Duration = Duration::from_millis(250);
/// A backend that has acknowledged nothing after so many is lost, and the connection with it.
const TRIES: u8 = 10;

/// A piece of what is held, to be sent.
#[derive(Debug)]
pub struct Piece<'b> {
    /// Its number.
    pub seq: Seq,
    /// Its bytes.
    pub payload: &'b [u8],
    /// Its flags.
    pub flags: Flags,
    /// How far behind its number urgent data lies, if any does.
    pub urgent: Option<u16>,
}

/// The next piece from the first byte that the backend lacks up to `upto`, as far as `window` allows, when `done` bytes of it have been sent. At
/// most `most` bytes; none when there is no more.
pub fn next_piece<'b>(
    unacked: &Unacked,
    buffers: &'b BufferPool,
    done: usize,
    upto: Seq,
    window: usize,
    most: usize,
) -> Option<Piece<'b>> {
    let all = unacked.stream.with_header(buffers, usize::from(unacked.header));
    let first = unacked.stream.base() - u32::from(unacked.header);
    let skip = first.distance_to(unacked.una).max(0) as usize + done;
    let total = first.distance_to(upto).max(0) as usize;
    let total = total.min(all.len()).min(skip - done + window);
    let fin = unacked.stream.at_fin() && upto == unacked.stream.next_seq();
    // A FIN alone needs no byte in front of it.
    if skip >= total && !(fin && done == 0 && all.is_empty()) {
        return None;
    }
    let payload = &all[skip.min(total)..total.min(skip + most)];
    let last = skip + payload.len() >= all.len();
    let mut flags = Flags::ACK;
    if last || skip + payload.len() >= total {
        flags = flags.with(Flags::PSH);
    }
    if last && fin {
        flags = flags.with(Flags::FIN);
    }
    let seq = first + skip as u32;
    let urgent = unacked.urgent.filter(|urgent| urgent.is_after(seq));
    let urgent = urgent.map(|urgent| u16::try_from(seq.distance_to(urgent)).unwrap_or(u16::MAX));
    Some(Piece { seq, payload, flags, urgent })
}

/// Everything held was sent for the first time: when to look at what is ours. None when nothing is, which is forgotten then.
pub fn released(c: &mut Connection, buffers: &mut BufferPool, now: Time) -> Option<Time> {
    let State::Spliced(slot) = &mut c.state else { return None };
    let unacked = slot.as_mut()?;
    if unacked.header == 0 && unacked.end == unacked.stream.base() {
        unacked.stream.release(buffers);
        *slot = None;
        return None;
    }
    unacked.retry_at = now + RETRY;
    Some(unacked.retry_at)
}

/// The backend acknowledged up to `ack`, in the client's numbers, of what was sent up to `sent`. Returns the number below which the client must
/// hear no acknowledgement, because it was acknowledged more already.
pub fn acknowledged(c: &mut Connection, buffers: &mut BufferPool, ack: Seq, sent: Seq) -> Option<Seq> {
    let State::Spliced(slot) = &mut c.state else { return None };
    let unacked = slot.as_mut()?;
    if ack.is_after(unacked.una) && !ack.is_after(sent) {
        unacked.una = ack;
        unacked.tries = 0;
    }
    if unacked.una.is_before(unacked.end) {
        return Some(unacked.end);
    }
    unacked.stream.release(buffers);
    *slot = None;
    None
}

/// What is ours was not acknowledged in time: again, or the backend is lost.
pub fn due(unacked: &mut Unacked, now: Time) -> Action {
    if unacked.tries >= TRIES {
        return Action::Cut(End::BackendLost);
    }
    unacked.tries += 1;
    unacked.retry_at = now + RETRY * (1 << unacked.tries.min(3));
    Action::Resend
}

/// Where our own acknowledgements to the backend begin.
pub fn stands_at(through: &Through, c: &Connection) -> Seq {
    match &c.state {
        State::Spliced(Some(unacked)) => unacked.una,
        _ => through.window(Side::Client).acked,
    }
}

/// An acknowledgement of ours to the backend, from `seq`.
pub fn acknowledgement(hot: &Hot, through: &Through, c: &Connection, seq: Seq) -> ControlSegment {
    ControlSegment::ack(seq, server_expects(through), window(through, c), clock(hot, through))
}

/// What the backend has not been acknowledged yet, in its own numbers.
pub fn server_expects(through: &Through) -> Seq {
    through.window(Side::Server).acked + -through.splice.seq
}

/// The client's window, as a segment of ours says it to the backend.
pub fn window(through: &Through, c: &Connection) -> u16 {
    let shift = c.agreed.wscale.unwrap_or(0);
    through.splice.to_server.apply(u16::try_from(c.client_window >> shift).unwrap_or(u16::MAX))
}

/// The timestamps option of a segment of ours to the backend: the client's clock, and the echo of the backend's latest.
pub fn clock(hot: &Hot, through: &Through) -> Options {
    let [val, server] = hot.clocks;
    timestamps(match through.splice.clock {
        Clock::Shift(d) => Some(Timestamps { val, ecr: server.wrapping_sub(d) }),
        Clock::Unused | Clock::Erase => None,
    })
}
