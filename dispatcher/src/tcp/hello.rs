//! What a client sends before the splice: its hello, to the moment when there is enough to choose a backend by, and what comes while that
//! is dialled.
//!
//! As a rule nothing of the hello is acknowledged before the backend has it: what is held here is a copy, and the client
//! repeats what was lost. Only a client that would stall (its first window full, the hello still incomplete) is
//! acknowledged what is in order, and from that moment on those bytes are ours to deliver.

use super::Arrived;
use super::SMALL_HELLO;
use super::action::{Action, Choice};
use super::connection::{Connection, Held, Opening, Stage, State, Waiting};
use super::control::ControlSegment;
use super::evict::Eviction;
use super::hot::{ClientLink, Hot};
use super::record::End;
use crate::backends::OUR_WSCALE;
use crate::counters::DropReason;
use crate::flow::{BufferPool, FlowId, Side};
use crate::http::Walked;
use crate::time::Time;
use crate::wire::options::SegmentOptions;
use crate::wire::packet::{Flags, urgent_pointer};
use crate::wire::{Frame, proxy};
use core::time::Duration;
use ssl_parse::Outcome;

/// A client that has sent part of a hello and nothing more for so long has filled its window, or lost a segment: it is
/// acknowledged what is in order. As long as a delayed acknowledgement of a host.
pub(super) const ACK_AFTER: Duration = Duration::from_millis(40);
/// So many segments without an acknowledgement fill the smallest initial windows in use (RFC 6928: ten segments).
const ACK_EVERY: u8 = 8;
/// A client that has kept half a hello for so long gives way to another when no buffer is left: far more than a hello takes on
/// any path when nothing is lost.
const KEEP_HALF: Duration = Duration::from_secs(1);

/// What may be held of a client's stream.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes of a hello.
    pub hello_bytes: usize,
    /// The largest segment that its service's clients were offered.
    pub segment: u16,
}

/// Where it is held.
pub struct Holding<'a> {
    /// All buffers.
    pub buffers: &'a mut BufferPool,
    /// Who has which of them.
    pub eviction: &'a mut Eviction,
    /// How much of one stream.
    pub room: Room,
}

/// A segment of the client's. Of a backend that is being dialled it is kept, to be forwarded when that has answered.
pub fn segment(
    hot: &mut Hot,
    c: &mut Connection,
    id: FlowId,
    seg: &Arrived,
    frame: &Frame<'_>,
    holding: Holding<'_>,
) -> Action {
    let State::Opening(opening) = &mut c.state else { return Action::Drop(DropReason::FlowClosed) };
    let tcp = &seg.tcp;
    let plain = tcp.flags.contains(Flags::ACK) && !tcp.flags.intersects(Flags::SYN.with(Flags::RST));
    // From before the first byte, with the right acknowledgement: a probe, of a connection that is kept alive or of a window. Like any
    // segment outside the window it is told where we are (RFC 9293 section 3.10.7.4).
    if plain && tcp.ack == c.cookie + 1 && tcp.seq_end().is_before(c.isn + 1) {
        if !frame.tcp_is_intact(&seg.ip) {
            return Action::Drop(DropReason::BadChecksum);
        }
        let acked = opening.held.acked;
        return Action::Reply(acknowledgement(hot, c, acked, holding.room.hello_bytes));
    }
    if let Err(action) = accept(hot, c, seg, frame, holding.room.hello_bytes) {
        return action;
    }
    let wants_buffer = tcp.payload_len() > 0 && c.opening().is_some_and(|o| !o.held.stream.has_buffer());
    if wants_buffer && holding.buffers.available() == 0 {
        // Who has none loses none: this flow stays.
        return Action::MakeRoom;
    }
    take(hot, c, id, seg, frame, holding)
}

/// What is common to all segments of a client before the splice: a reset, a new handshake, and the numbers to be
/// remembered of an acceptable one. An error ends the matter.
fn accept(
    hot: &mut Hot,
    c: &mut Connection,
    seg: &Arrived,
    frame: &Frame<'_>,
    hello_bytes: usize,
) -> Result<(), Action> {
    let tcp = &seg.tcp;
    let State::Opening(Opening { held, .. }) = &c.state else { return Err(Action::Drop(DropReason::FlowClosed)) };
    if tcp.flags.contains(Flags::RST) {
        // Anything from what we acknowledged to what has arrived may be the sender's next number.
        if tcp.seq.is_before(held.acked) || tcp.seq.is_after(held.stream.next_seq()) {
            return Err(Action::Drop(DropReason::OutOfWindow));
        }
        if !frame.tcp_is_intact(&seg.ip) {
            return Err(Action::Drop(DropReason::BadChecksum));
        }
        return Err(Action::Abandon(End::ClientReset));
    }
    let window = hello_bytes as u32;
    let fits = !tcp.flags.contains(Flags::SYN)
        && tcp.flags.contains(Flags::ACK)
        && tcp.ack == c.cookie + 1
        && tcp.seq_end().in_window(c.isn + 1, window + 2);
    if !fits {
        return Err(Action::Drop(DropReason::OutOfWindow));
    }
    if !frame.tcp_is_intact(&seg.ip) {
        return Err(Action::Drop(DropReason::BadChecksum));
    }
    hot.last_seen = seg.now;
    hot.client = ClientLink::of(seg);
    c.client_window = u32::from(tcp.window) << c.agreed.wscale.unwrap_or(0);
    if c.agreed.timestamps {
        let options = SegmentOptions::parse(&frame.bytes()[tcp.header + 20..tcp.payload]);
        if let Some((_, ts)) = options.timestamps {
            hot.shows_clock(Side::Client, ts.val);
        }
    }
    Ok(())
}

/// Takes an acceptable segment in, and goes on as far as the stream allows: waits, or says that a backend is to be chosen.
pub fn take(
    hot: &Hot,
    c: &mut Connection,
    id: FlowId,
    seg: &Arrived,
    frame: &Frame<'_>,
    holding: Holding<'_>,
) -> Action {
    let Holding { buffers, eviction, room } = holding;
    let Some(opening) = c.opening() else { return Action::Drop(DropReason::FlowClosed) };
    let waits = matches!(opening.stage, Stage::AwaitHello(_) | Stage::Queued(_));
    if waits && seg.tcp.seq_len() == 0 {
        return Action::Hold;
    }
    if let Err(reason) = hold(&mut opening.held, id, seg, frame, buffers, eviction) {
        return Action::Drop(reason);
    }
    let Stage::AwaitHello(waiting) = &opening.stage else { return Action::Hold };
    if waiting.header_due
        && let Some(action) = accept_header(c, buffers, room)
    {
        return action;
    }
    let accepted = usize::from(c.accepted);
    let Some(Opening { held, stage: Stage::AwaitHello(waiting), .. }) = c.opening() else { return Action::Hold };
    let left = Room { hello_bytes: room.hello_bytes.saturating_sub(accepted), ..room };
    if !waiting.header_due
        && let Some(choice) = read(held, waiting, buffers, left)
    {
        return Action::Choose(choice);
    }
    // If the client has sent as much as a first window may hold it is acknowledged now, else in a moment.
    let segments = frame.segments(seg.tcp.payload_len());
    waiting.unacked = waiting.unacked.saturating_add(u8::try_from(segments).unwrap_or(u8::MAX));
    if waiting.unacked >= ACK_EVERY {
        acknowledge(hot, c, room.hello_bytes)
    } else if waiting.ack_at.is_none() {
        waiting.ack_at = Some(seg.now + ACK_AFTER);
        Action::Wake(seg.now + ACK_AFTER)
    } else {
        Action::Hold
    }
}

/// Copies what is new in a segment into the flow's buffer.
fn hold(
    held: &mut Held,
    id: FlowId,
    seg: &Arrived,
    frame: &Frame<'_>,
    buffers: &mut BufferPool,
    eviction: &mut Eviction,
) -> Result<(), DropReason> {
    let payload = &frame.bytes()[seg.tcp.payload..seg.tcp.end];
    if seg.tcp.flags.contains(Flags::URG) {
        let points_to = seg.tcp.seq + u32::from(urgent_pointer(frame.bytes(), &seg.tcp));
        held.urgent = Some(held.urgent.map_or(points_to, |before| before.later_of(points_to)));
    }
    let stream = &mut held.stream;
    if !payload.is_empty() {
        let inserted = stream.insert(buffers, seg.tcp.seq, payload);
        if let Some(buffer) = stream.buffer_index() {
            eviction.taken(buffer, id);
        }
        if inserted.no_buffer {
            return Err(DropReason::HelloNoBuffer);
        }
        if inserted.gap_full || (inserted.overflow && inserted.stored == 0) {
            return Err(DropReason::HelloOverflow);
        }
        if inserted.overflow {
            // The FIN, if there is one, stands behind bytes that were left out.
            return Ok(());
        }
    }
    if seg.tcp.flags.contains(Flags::FIN) {
        stream.fin(seg.tcp.seq + payload.len() as u32);
    }
    Ok(())
}

/// Reads the PROXY header in front of all else, if it is complete: from then on the connection is as if it had begun behind it. What is to be done instead when there is
/// none.
fn accept_header(c: &mut Connection, buffers: &mut BufferPool, room: Room) -> Option<Action> {
    let Some(Opening { held, stage: Stage::AwaitHello(waiting), .. }) = c.opening() else { return None };
    let (len, named) = match proxy::read(held.stream.contiguous(buffers)) {
        proxy::Read::Header { len, named } => (len, named),
        proxy::Read::More if !held.stream.at_fin() && held.stream.contiguous_len() < room.hello_bytes => return None,
        proxy::Read::More | proxy::Read::Not => return Some(Action::TurnAway(End::ProxyHeader)),
    };
    waiting.header_due = false;
    held.stream.set_apart(buffers, len);
    held.acked = held.acked.later_of(held.stream.base());
    c.isn += len as u32;
    c.accepted = len as u16;
    named.into_iter().for_each(|named| c.record.keep_ends(named));
    None
}

/// Whether there is enough to choose a backend by, or all that will come.
fn read(held: &Held, waiting: &mut Waiting, buffers: &BufferPool, room: Room) -> Option<Choice> {
    let stream = &held.stream;
    match waiting.walk.advance(stream.contiguous(buffers)) {
        Outcome::Complete(_) => return Some(Choice::ByHello),
        Outcome::NotTls => return read_request(held, waiting, buffers, room),
        // It is not ours to judge: what can be read of it may decide, and the server says what is wrong.
        Outcome::Malformed(_) => return Some(Choice::ByHello),
        Outcome::NeedMore => {}
    }
    // A client that closes after half a hello, or after nothing, gets a backend's answer to that. So does one whose hello does not fit into
    // the buffer: not before the buffer is as good as full, since what is in it may decide. A client keeps back less than a segment when
    // the window is smaller.
    let left = room.hello_bytes - stream.contiguous_len();
    let never = waiting.walk.missing() > left && left < usize::from(room.segment);
    match waiting.walk.is_hello() {
        true if stream.at_fin() || never => Some(Choice::ByHello),
        false if stream.at_fin() || left == 0 => Some(Choice::NotTls),
        _ => None,
    }
}

/// The same of what is not TLS: of a request where it matters what is asked.
fn read_request(held: &Held, waiting: &mut Waiting, buffers: &BufferPool, room: Room) -> Option<Choice> {
    let Some(walk) = &mut waiting.request else { return Some(Choice::NotTls) };
    let stream = &held.stream;
    match walk.advance(stream.contiguous(buffers)) {
        Walked::Not => return Some(Choice::NotTls),
        Walked::Whole => return Some(Choice::ByRequest),
        Walked::More => {}
    }
    // As with a hello: what there is of it may decide.
    let left = room.hello_bytes - stream.contiguous_len();
    (stream.at_fin() || left < usize::from(room.segment)).then_some(Choice::ByRequest)
}

/// Acknowledges what is in order: from now on it is ours to deliver.
fn acknowledge(hot: &Hot, c: &mut Connection, hello_bytes: usize) -> Action {
    let State::Opening(Opening { stage: Stage::AwaitHello(waiting), .. }) = &mut c.state else {
        return Action::Hold;
    };
    waiting.ack_at = None;
    waiting.unacked = 0;
    acknowledge_all(hot, c, hello_bytes)
}

/// The same, whatever the stage.
pub(super) fn acknowledge_all(hot: &Hot, c: &mut Connection, hello_bytes: usize) -> Action {
    let Some(Opening { held, .. }) = c.opening() else { return Action::Hold };
    // Also when nothing is new: what came was a repetition then, so our last acknowledgement was lost.
    let upto = held.stream.next_seq();
    held.acked = upto;
    Action::Send(Side::Client, acknowledgement(hot, c, upto, hello_bytes))
}

/// An acknowledgement of ours up to `upto`.
pub(super) fn acknowledgement(hot: &Hot, c: &Connection, upto: crate::wire::Seq, hello_bytes: usize) -> ControlSegment {
    let (room, len) = match &c.state {
        State::Opening(Opening { held, .. }) => {
            // The header that was accepted stays in front.
            let len = held.stream.contiguous_len() + usize::from(c.accepted);
            (if held.stream.is_small() { SMALL_HELLO } else { hello_bytes }, len)
        }
        _ => (hello_bytes, 0),
    };
    // Never zero: nothing would open it again before the splice.
    let window = c.window_for_client(room.saturating_sub(len).max(1 << OUR_WSCALE));
    ControlSegment::ack(c.cookie + 1, upto, window, c.clock_for_client(hot))
}

/// A client that waits for its hello to be read is looked at: it is acknowledged, or gets a backend without one. None when neither is due.
pub fn due(hot: &Hot, c: &mut Connection, now: Time, hello_bytes: usize) -> Option<Action> {
    let State::Opening(Opening { held, stage: Stage::AwaitHello(waiting), .. }) = &c.state else { return None };
    if waiting.ack_at.is_some_and(|at| at <= now) {
        return Some(acknowledge(hot, c, hello_bytes));
    }
    if now < patience(held, waiting) {
        return None;
    }
    if waiting.header_due {
        return Some(Action::TurnAway(End::ProxyHeader));
    }
    // How long half a hello may be waited for, and what becomes of it, is the server's to say. If it is none, perhaps the server is to speak
    // first, or to answer the few bytes that have come.
    let request = waiting.request.is_some_and(|walk| walk.has_begun());
    Some(Action::Choose(match waiting.walk.is_hello() {
        true => Choice::ByHello,
        false if request => Choice::ByRequest,
        false => Choice::Silent,
    }))
}

/// Until when the hello may take.
pub fn patience(held: &Held, waiting: &Waiting) -> Time {
    let request = waiting.request.is_some_and(|walk| walk.has_begun());
    // Who is to begin with a header does not wait for a server to speak: when nothing has come, that was lost, perhaps more than once.
    let begun = waiting.walk.is_hello() || request || held.stream.has_gap() || waiting.header_due;
    if begun { waiting.complete_until } else { waiting.silent_until }
}

/// It has kept half a hello in this buffer for so long that it gives way to another.
pub fn keeps_half(c: &Connection, buffer: usize, now: Time) -> bool {
    let State::Opening(Opening { held, stage: Stage::AwaitHello(waiting), .. }) = &c.state else { return false };
    held.stream.buffer_index() == Some(buffer) && now.since(waiting.since) >= KEEP_HALF
}

/// What tells the client that nothing will come of it. None when it is connected.
pub fn refusal(c: &Connection) -> Option<ControlSegment> {
    let State::Opening(opening) = &c.state else { return None };
    // It was sent nothing but our SYN.
    Some(ControlSegment::reset(c.cookie + 1, Some(opening.held.stream.next_seq())))
}
