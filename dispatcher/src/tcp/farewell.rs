//! The end of a connection for which no backend had room in time: its client, if it speaks TLS, hears so in words, before any keys: a fatal alert `internal_error` (RFC 8446 section 6) and
//! our FIN behind it. Every client's log has that by its name, where a reset says nothing.
//!
//! It is closed in order: the alert is said again until it is acknowledged, the client's FIN is acknowledged, and what else the client says is acknowledged and
//! forgotten, for a reset could take the alert from it before it is read. Who does not close in five seconds is reset.

use super::Arrived;
use super::action::Action;
use super::connection::{Connection, Farewell, Opening, State};
use super::control::ControlSegment;
use super::hot::{ClientLink, Hot};
use super::record::{Class, End};
use crate::counters::DropReason;
use crate::time::Time;
use crate::wire::Frame;
use crate::wire::Seq;
use crate::wire::packet::Flags;
use core::time::Duration;

/// The alert: a record of TLS 1.2, as all versions write it, with a fatal alert `internal_error`.
pub const ALERT: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 0x50];

/// First repetition; doubled each time.
const RETRY: Duration = Duration::from_millis(250);
/// The alert is said so often.
const TRIES: u8 = 5;
/// A client that has not closed by then is reset.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it is kept when both sides have closed: the client may repeat its FIN.
const KEEP: Duration = Duration::from_secs(1);
/// The window that is said: what comes is not kept.
const WINDOW: usize = 4096;

/// Behind our FIN.
pub(super) fn end(c: &Connection) -> Seq {
    c.cookie + 1 + ALERT.len() as u32 + 1
}

/// One that takes leave from now on; none when it does not speak TLS.
pub fn of(c: &Connection, now: Time) -> Option<Farewell> {
    let State::Opening(Opening { held, .. }) = &c.state else { return None };
    let closed = held.stream.at_fin();
    let next = held.stream.next_seq() + u32::from(closed);
    let speaks_tls = c.record.class == Some(Class::Secure);
    speaks_tls.then_some(Farewell { next, heard: false, closed, tries: 0, since: now, retry_at: now })
}

/// What is said, and payload of it.
pub fn words(hot: &Hot, c: &Connection) -> Option<(ControlSegment, &'static [u8])> {
    let State::Farewell(farewell) = &c.state else { return None };
    let window = c.window_for_client(WINDOW);
    let ack = ControlSegment::ack(c.cookie + 1, farewell.next, window, c.clock_for_client(hot));
    let flags = Flags::ACK.with(Flags::PSH).with(Flags::FIN);
    Some((ControlSegment { flags, ..ack }, &ALERT))
}

/// It was said: when to look at it again.
pub fn said(c: &mut Connection, now: Time) -> Time {
    let State::Farewell(farewell) = &mut c.state else { return now };
    farewell.retry_at = now + RETRY * (1 << farewell.tries.min(4));
    farewell.tries = farewell.tries.saturating_add(1);
    farewell.retry_at
}

/// Nothing has come for a while.
pub fn due(farewell: &mut Farewell, now: Time) -> Action {
    if farewell.heard && farewell.closed {
        return Action::Forget(None);
    }
    if farewell.tries >= TRIES || now.since(farewell.since) >= PATIENCE {
        return Action::Cut(End::QueueTimeout);
    }
    if !farewell.heard {
        return Action::SayFarewell;
    }
    farewell.retry_at = farewell.since + PATIENCE;
    Action::Hold
}

/// A segment of the client's.
#[cold]
pub fn segment(hot: &mut Hot, c: &mut Connection, seg: &Arrived, frame: &Frame<'_>) -> Action {
    if !frame.tcp_is_intact(&seg.ip) {
        return Action::Drop(DropReason::BadChecksum);
    }
    let (end, first, tcp) = (end(c), c.isn + 1, &seg.tcp);
    let State::Farewell(farewell) = &mut c.state else { return Action::Drop(DropReason::FlowClosed) };
    let window = WINDOW as u32;
    let within = tcp.seq.in_window(farewell.next - window, 2 * window) && !tcp.seq.is_before(first - 1);
    if tcp.flags.contains(Flags::SYN) || !within {
        return Action::Drop(DropReason::OutOfWindow);
    }
    if tcp.flags.contains(Flags::RST) {
        return Action::Forget(None);
    }
    if !tcp.flags.contains(Flags::ACK) || tcp.ack.is_before(c.cookie + 1) || tcp.ack.is_after(end) {
        return Action::Drop(DropReason::OutOfWindow);
    }
    hot.client = ClientLink::of(seg);
    farewell.heard |= tcp.ack == end;
    let (behind, fin) = (tcp.seq + tcp.payload_len() as u32, tcp.flags.contains(Flags::FIN));
    if !farewell.closed && !tcp.seq.is_after(farewell.next) && !behind.is_before(farewell.next) {
        farewell.next = behind + u32::from(fin);
        farewell.closed = fin;
    }
    if farewell.heard {
        farewell.retry_at = if farewell.closed { seg.now + KEEP } else { farewell.since + PATIENCE };
    }
    if tcp.seq_len() == 0 {
        return Action::Wake(farewell.retry_at);
    }
    let (seq, next) = (if farewell.heard { end } else { c.cookie + 1 }, farewell.next);
    let at = farewell.retry_at;
    let ack = ControlSegment::ack(seq, next, c.window_for_client(WINDOW), c.clock_for_client(hot));
    Action::ReplyAndWake(ack, at)
}
