//! Segments of a spliced connection: the hot path.
//!
//! Nearly every segment is [`ordinary`] (Van Jacobson's header prediction, from the middle): it is noted in the windows, and passed on. The few
//! others, which change a connection's state, are [`segment`]'s.

use super::Arrived;
use super::action::{Action, Over, Passing};
use super::connection::{Connection, State};
use super::control::ControlSegment;
use super::flight::{self, Passers};
use super::hot::{ClientLink, Hot, Marks};
use super::reuse::{self, Anew};
use super::{http, keepalive, unacked};
use crate::counters::DropReason;
use crate::flow::Side;
use crate::time::Time;
use crate::tls::over;
use crate::wire::packet::{Flags, Tcp};
use crate::wire::{Frame, Seq};

/// What a segment says of its connection, apart from its payload.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// Sequence number, as sent.
    pub seq: Seq,
    /// Acknowledgement, as sent.
    pub ack: Seq,
    /// Window field, as sent.
    pub window: u16,
    /// Payload bytes.
    pub len: u32,
    /// Flags.
    pub flags: Flags,
}

impl From<&Tcp> for Numbers {
    #[inline]
    fn from(tcp: &Tcp) -> Numbers {
        let Tcp { seq, ack, window, flags, .. } = *tcp;
        Numbers { seq, ack, window, len: tcp.payload_len() as u32, flags }
    }
}

/// What became of a segment that might be an ordinary one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Noted {
    /// It is none, and nothing has changed.
    No,
    /// It is noted.
    Yes,
    /// The same, and it has the server's first bytes: when they came is to be noted with the connection.
    First,
}

/// Notes a segment that needs no more than the numbers at hand; `from` is where its frame came from.
#[inline(always)]
pub fn ordinary(hot: &mut Hot, side: Side, from: ClientLink, segment: &Numbers, now: Time) -> Noted {
    let Numbers { window, len, flags, .. } = *segment;
    let unusual = Flags::SYN.with(Flags::RST).with(Flags::FIN).with(Flags::URG);
    let moved = hot.client.has_moved(&from, side);
    let Some(through) = &mut hot.through else { return Noted::No };
    if flags.intersects(unusual) || moved {
        return Noted::No;
    }
    let mut noted = Noted::Yes;
    if through.marks != Marks::OPEN {
        if through.marks != Marks::OPEN_MUTE {
            return Noted::No;
        }
        if side == Side::Server && len > 0 {
            noted = Noted::First;
        }
    }
    let (seq, ack) = through.splice.client_view(side, segment.seq, segment.ack);
    let window = through.splice.rescale(side).bytes(window);
    let [client, server] = &mut through.windows;
    let (own, other) = if side == Side::Client { (client, server) } else { (server, client) };
    let acks = flags.contains(Flags::ACK);
    if !own.plausible(seq, len) || (acks && ack.is_after(other.next)) || !own.sent_in_order(seq, len) {
        return Noted::No;
    }
    if acks {
        other.acknowledged_in_order(ack, window);
    }
    if noted == Noted::First {
        through.marks = Marks::OPEN;
    }
    hot.last_seen = now;
    noted
}

/// Any segment of a spliced connection.
#[cold]
pub fn segment(
    hot: &mut Hot,
    c: &mut Connection,
    side: Side,
    seg: &Arrived,
    frame: &Frame<'_>,
    anew: Anew<'_>,
    mut passers: Passers<'_>,
) -> Action {
    let tcp = &seg.tcp;
    if tcp.flags.intersects(Flags::SYN.with(Flags::RST)) {
        return rare(hot, c, side, seg, frame);
    }
    if side == Side::Server && matches!(c.state, State::Spliced(Some(_))) && !frame.tcp_is_intact(&seg.ip) {
        // A damaged acknowledgement must not make us forget bytes that nobody else has.
        return Action::Drop(DropReason::BadChecksum);
    }
    let Some(through) = &mut hot.through else { return Action::Drop(DropReason::NoFlow) };
    let (seq, ack) = through.splice.client_view(side, tcp.seq, tcp.ack);
    let len = tcp.payload_len() as u32;
    if side == Side::Client
        && len > 0
        && c.accepted > 0
        && seq.is_before(c.isn + 1)
        && matches!(&c.state, State::Spliced(Some(unacked)) if unacked.header > 0)
    {
        // The header that was accepted, said again. The server would take its end for a part of the header in its place, which it does not have yet.
        let (sent, received) = (through.window(Side::Client), through.window(Side::Server));
        let window = c.window_for_client(sent.allowed() as usize);
        return Action::Reply(ControlSegment::ack(received.acked, sent.acked, window, c.clock_for_client(hot)));
    }
    if c.odd[side as usize].any() && through.direction(&mut c.odd, side).is_in_doubt() && frame.tcp_is_intact(&seg.ip) {
        // The receiver of this side's bytes claims to have more of them than were seen. If this segment, of their sender, says the same, and
        // knows where the other direction is, we were out of step. Who forges both must hit the windows of both directions.
        let other = through.window(side.other());
        if tcp.flags.contains(Flags::ACK) && !ack.is_before(other.acked) && !ack.is_after(other.next) {
            through.direction(&mut c.odd, side).corroborated(seq);
        }
    }
    // A FIN changes what is kept for the rest of the flow's life, and so does what comes behind one: damaged frames are left
    // to their receiver. Once or twice a flow and direction, that costs nothing.
    let fin = tcp.flags.contains(Flags::FIN);
    let closing = fin || (len > 0 && c.odd[side as usize].fin.is_some());
    let plausible = through.window(side).plausible(seq, len);
    if !plausible
        && side == Side::Client
        && c.renewed.is_some()
        && let Some(reuse) = reuse::begins(c, seg, anew)
    {
        return Action::Reuse(reuse);
    }
    let mut passing = Passing::default();
    if plausible && (!closing || frame.tcp_is_intact(&seg.ip)) {
        if side == Side::Client && hot.client != ClientLink::of(seg) {
            follow(hot, seg, seq, ack, frame);
        }
        note(hot, c, side, seg, seq, ack);
        keepalive::heard(hot, c, side, seg.now);
        passing.noted = true;
        if side == Side::Server {
            if len > 0 {
                c.record.times.server_says(seg.now);
            }
            if matches!(c.state, State::Spliced(Some(_))) {
                let sent = hot.through.as_ref().map_or(ack, |through| through.window(Side::Client).next);
                passing.floor = unacked::acknowledged(c, passers.buffers, ack, sent);
                if passing.floor.is_some() && len == 0 && !fin {
                    // Acknowledges only what the client was told already.
                    return Action::Hold;
                }
            }
            if len > 0 && c.flight.is_some() {
                let payload = &frame.bytes()[tcp.payload..tcp.end];
                flight::server_sends(c, seq, payload, seg.now, &mut passers);
            } else if len > 0 && c.http.is_some() {
                http::server_sends(c, seq, seg, frame, &mut passers);
            } else if len > 0 {
                // A server that speaks first speaks no TLS.
                let Passers { buffers, lates, counters, .. } = &mut passers;
                let class = over(&mut c.late, lates, buffers, counters);
                c.record.class = class.or(c.record.class);
            }
        }
        if c.odd[0].any()
            && c.odd[1].any()
            && let Some(through) = &mut hot.through
            && through.direction(&mut c.odd, Side::Client).finished()
            && through.direction(&mut c.odd, Side::Server).finished()
        {
            passing.over = Some(Over::Closed);
        }
    }
    if !plausible && let Some(through) = &mut hot.through {
        through.direction(&mut c.odd, side).overshot(seq, len);
    }
    Action::Forward(passing)
}

/// Notes what a plausible segment says about both directions; its numbers in the client's view.
pub(super) fn note(hot: &mut Hot, c: &mut Connection, side: Side, seg: &Arrived, seq: Seq, ack: Seq) {
    let Some(through) = &mut hot.through else { return };
    let tcp = &seg.tcp;
    let window = through.splice.rescale(side).bytes(tcp.window);
    through.direction(&mut c.odd, side).sent(seq, tcp.payload_len() as u32, tcp.flags.contains(Flags::FIN));
    if tcp.flags.contains(Flags::ACK) {
        through.direction(&mut c.odd, side.other()).acknowledged(ack, window);
    }
}

/// A client behind routers that fail over is followed to where its frames come from now. But only by a segment that knows both
/// sides' numbers: one that is merely plausible can be guessed, and would lead the server's answers away.
pub(super) fn follow(hot: &mut Hot, seg: &Arrived, seq: Seq, ack: Seq, frame: &Frame<'_>) {
    let Some(through) = &hot.through else { return };
    let (sent, received) = (through.window(Side::Client), through.window(Side::Server));
    // One before: a keepalive.
    let current = !(seq + 1).is_before(sent.acked) && !ack.is_before(received.acked) && !ack.is_after(received.next);
    if seg.tcp.flags.contains(Flags::ACK) && current && frame.tcp_is_intact(&seg.ip) {
        hot.client = ClientLink::of(seg);
    }
}

/// SYN or RST on a spliced flow.
fn rare(hot: &Hot, c: &Connection, side: Side, seg: &Arrived, frame: &Frame<'_>) -> Action {
    let Some(through) = &hot.through else { return Action::Drop(DropReason::NoFlow) };
    let (seq, _) = through.splice.client_view(side, seg.tcp.seq, seg.tcp.ack);
    if seg.tcp.flags.contains(Flags::RST) {
        if !frame.tcp_is_intact(&seg.ip) {
            return Action::Drop(DropReason::BadChecksum);
        }
        let window = through.window(side);
        if !window.plausible(seq, 0) || seq.is_before(window.acked) {
            return Action::Drop(DropReason::OutOfWindow);
        }
        let certain = window.acked == window.next;
        // While bytes of the client are ours to deliver its reset waits for them: if it was true, the client's host says it
        // again to the acknowledgement.
        let owing = side == Side::Client && matches!(c.state, State::Spliced(Some(_)));
        let counts = window.reset_counts(seq) && (certain || !owing);
        // In the window but not at its edge: the receiver will ask, and the true sender answer.
        let over = counts.then_some(Over::Reset { by: side, certain });
        return Action::Forward(Passing { over, ..Passing::default() });
    }
    match side {
        // Our acknowledgement was lost, and the backend says its SYN-ACK again.
        Side::Server if seq == c.cookie => {
            let from = unacked::stands_at(through, c);
            Action::Send(Side::Server, unacked::acknowledgement(hot, through, c, from))
        }
        Side::Server => Action::Drop(DropReason::OutOfWindow),
        // A SYN on a living flow: ask the client whether it means it (RFC 5961 section 4.2). One that does answers with a
        // reset that fits. As many as ask: it costs what the SYN-ACK to any other SYN does, and a common limit would tell an
        // observer, by what is left of it for him, whether a flow exists (CVE-2016-5696).
        Side::Client => {
            let (sent, received) = (through.window(Side::Client), through.window(Side::Server));
            let window = c.window_for_client(sent.allowed() as usize);
            Action::Reply(ControlSegment::ack(received.acked, sent.acked, window, c.clock_for_client(hot)))
        }
    }
}
