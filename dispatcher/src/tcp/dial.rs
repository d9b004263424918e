//! Dialling a backend, and what it answers.
//!
//! The backend gets the client's own initial sequence number (less the length of a PROXY header, so that the stream behind
//! it stays aligned) and the options agreed with the client. The SYN is ours, so we repeat it; a backend that refuses or
//! stays silent is replaced by another, and the client never knows.

use super::action::{Action, Failed};
use super::connection::{Connection, Dialing, Opening, Stage, State, Unacked};
use super::control::{ControlSegment, syn_options};
use super::hot::{Hot, Marks, NO_LIMIT, Through};
use super::{Arrived, HEADER_ROOM};
use crate::backends::{Health, OUR_WSCALE, mss_said};
use crate::counters::DropReason;
use crate::flow::{Assembler, BufferPool, Clock, Oddities, Rescale, Side, Splice, Window};
use crate::path::NextHop;
use crate::time::Time;
use crate::wire::options::{SynOptions, Timestamps};
use crate::wire::packet::Flags;
use crate::wire::proxy::{self, Named};
use crate::wire::{Family, Frame, Seq};
use core::time::Duration;
use lb::BackendId;

/// When a SYN is repeated, after the first, second and third; after the last the backend is given up.
const RETRY: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];
/// SYNs to a backend that answers others meanwhile. It is not silent, the link loses frames: to leave it would cost a session its
/// server, and to hold it to be down would cost many.
const MOST_SYNS: u8 = 6;
/// SYNs to the backend that a client's session is on, while nothing else says that it is down: with one frame in twenty lost, three
/// unanswered ones are no rarity among thousands of connections.
const SYNS_FOR_A_SESSION: u8 = 5;
/// But no longer than that: the SYNs are not counted while its next hop's address is lost.
const LONGEST: Duration = Duration::from_secs(10);
/// Other ports tried at one backend that holds an old connection on each. Where half of all ports are so, one dial in 500 needs more.
const MOST_PORTS: u8 = 8;
/// While the next hop's address is not known, or our transmit ring is full, nothing was sent: try again soon.
const NO_LINK_RETRY: Duration = Duration::from_millis(20);

/// `backend` is chosen, for a connection that waits for one: an attempt more.
pub fn chosen(c: &mut Connection, backend: BackendId) {
    let Some(opening) = c.opening() else { return };
    opening.tried.push(backend);
    if let Stage::Dialing(before) = &mut opening.stage {
        // Of the one before.
        before.challenges = 0;
    }
    c.record.attempts = c.record.attempts.saturating_add(1);
}

/// The backend chosen last is dialled, by this next hop, with a PROXY header of so many bytes.
pub fn begin(c: &mut Connection, header: u16, hop: NextHop, now: Time) {
    if let Some(opening) = c.opening() {
        let dialing = Dialing { header, hop, syns: 0, challenges: 0, since: now, retry_at: now };
        opening.stage = Stage::Dialing(dialing);
    }
}

/// Puts the PROXY protocol's header that names these ends before the client's first byte. False when there is no buffer to put it into.
pub fn write_proxy_header(c: &mut Connection, buffers: &mut BufferPool, named: &Named) -> bool {
    let Some(Opening { held, .. }) = c.opening() else { return false };
    let stream = &mut held.stream;
    if !stream.has_buffer() {
        let Some(buffer) = buffers.allocate() else { return false };
        let mut with_buffer = Assembler::new(stream.base(), buffer, HEADER_ROOM);
        if let Some(fin) = stream.fin_seq() {
            with_buffer.fin(fin);
        }
        *stream = with_buffer;
    }
    let Some(to) = stream.header_mut(buffers, usize::from(proxy::len_for(named))) else { return false };
    proxy::write(named, to);
    true
}

/// The SYN. `mss` is the largest segment that the backend may send.
pub fn syn(hot: &Hot, c: &Connection, mss: u16) -> Option<ControlSegment> {
    let State::Opening(Opening { stage: Stage::Dialing(dialing), .. }) = &c.state else { return None };
    let ecn = if c.agreed.ecn { Flags::ECE.with(Flags::CWR) } else { Flags::default() };
    Some(ControlSegment {
        seq: c.isn - u32::from(dialing.header),
        ack: Seq(0),
        flags: Flags::SYN.with(ecn),
        // The window of a SYN is never scaled.
        window: u16::try_from(c.client_window).unwrap_or(u16::MAX),
        options: syn_options(&offered_to_backend(hot, c, mss)),
    })
}

/// It was sent, or could not be: when to look at it again.
pub fn tried(c: &mut Connection, sent: bool, now: Time) -> Time {
    let Some(dialing) = c.dialing() else { return now };
    let wait = if sent {
        dialing.syns += 1;
        RETRY[usize::from(dialing.syns - 1).min(RETRY.len() - 1)]
    } else {
        NO_LINK_RETRY
    };
    dialing.retry_at = now + wait;
    dialing.retry_at
}

/// No answer yet: again, or another backend. `reachable`: its next hop's address is known.
pub fn due(c: &Connection, now: Time, health: &mut Health, reachable: bool) -> Action {
    let State::Opening(Opening { tried, stage: Stage::Dialing(dialing), .. }) = &c.state else { return Action::Hold };
    // Patience is counted in SYNs, and in time where none could be sent for want of a next hop.
    let patience = RETRY.iter().sum::<Duration>();
    let out_of_patience = usize::from(dialing.syns) >= RETRY.len() || now.since(dialing.since) > patience;
    let backend = tried.last().copied();
    let alive = backend.is_some_and(|b| health.heard_since(b, dialing.since));
    // Nor can anybody reach it whose address on the link was asked for in vain. Our own full ring is no evidence.
    let lost = !reachable && now.since(dialing.since) >= RETRY[0];
    if let Some(backend) = backend
        && (dialing.syns > 0 || lost)
        && !alive
    {
        health.doubt(backend, now);
        if !health.is_up(backend) {
            // Its silence is known by now: nobody waits for what is known.
            return Action::Redispatch(Failed::Silent);
        }
    }
    let promised = backend.is_some_and(|b| c.record.decided == Some(b) && health.is_up(b));
    let most = if alive {
        MOST_SYNS
    } else if promised {
        SYNS_FOR_A_SESSION
    } else {
        0
    };
    if !out_of_patience || (dialing.syns < most && now.since(dialing.since) < LONGEST) {
        return Action::Redial;
    }
    Action::Redispatch(Failed::Silent)
}

/// A segment of the backend that is being dialled.
pub fn answer(c: &mut Connection, seg: &Arrived, frame: &Frame<'_>, health: &mut Health) -> Action {
    let isn = c.isn;
    if !frame.tcp_is_intact(&seg.ip) {
        return Action::Drop(DropReason::BadChecksum);
    }
    let State::Opening(Opening { tried, stage: Stage::Dialing(dialing), .. }) = &mut c.state else {
        return Action::Drop(DropReason::NoFlow);
    };
    let Some(&backend) = tried.last() else { return Action::Drop(DropReason::NoFlow) };
    let expected = isn - u32::from(dialing.header) + 1;
    let flags = seg.tcp.flags;
    let ours = flags.contains(Flags::ACK) && seg.tcp.ack == expected;
    match (flags.contains(Flags::RST), flags.contains(Flags::SYN), ours) {
        (true, _, true) => {
            // Whatever it challenged before, now it refuses.
            dialing.challenges = 0;
            health.doubt(backend, seg.now);
            Action::Redispatch(Failed::Refused)
        }
        (true, _, false) => Action::Drop(DropReason::OutOfWindow),
        (false, true, true) => Action::Splice,
        // The backend still holds an older connection from this address and port (RFC 9293 section 3.10.7.3). A reset with the number it
        // expects ends that, but not everywhere: Linux with `tcp_rfc1337=1` ignores it in TIME_WAIT, and says nothing more for half a
        // second. So the SYN goes from another port at once.
        _ if flags.contains(Flags::ACK) => {
            // Who challenges is alive.
            health.heard(backend, seg.now);
            dialing.challenges = dialing.challenges.saturating_add(1);
            Action::Challenged(ControlSegment::reset(seg.tcp.ack, None))
        }
        _ => Action::Drop(DropReason::OutOfWindow),
    }
}

/// Another port may be tried at a backend that holds old connections.
pub fn may_try_another_port(c: &mut Connection) -> bool {
    c.dialing().is_some_and(|dialing| dialing.challenges <= MOST_PORTS)
}

/// It is dialled from another port.
pub fn from_another_port(c: &mut Connection) {
    if let Some(dialing) = c.dialing() {
        dialing.syns = 0;
    }
}

/// The SYN may be repeated from the port that was challenged: with the client's own (`dnat`) there is no other. In the end another backend is
/// tried, which holds no such connection.
pub fn may_repeat(c: &mut Connection) -> bool {
    c.dialing().is_some_and(|dialing| usize::from(dialing.syns) < RETRY.len())
}

/// What the backend takes at once.
#[derive(Clone, Copy, Debug)]
pub struct Takes {
    /// Largest payload with options.
    pub segment: u16,
    /// Bytes in all.
    pub window: usize,
}

/// The backend has answered: from now on both directions are forwarded. What it can do is noted in `health`.
pub fn splice(
    hot: &mut Hot,
    c: &mut Connection,
    seg: &Arrived,
    frame: &Frame<'_>,
    mss: u16,
    health: &mut Health,
) -> Option<Takes> {
    let got = SynOptions::parse(&frame.bytes()[seg.tcp.header + 20..seg.tcp.payload]);
    let offered = offered_to_backend(hot, c, mss);
    let ecn = c.agreed.ecn.then(|| seg.tcp.flags.contains(Flags::ECE));
    let State::Opening(Opening { held, tried, stage: Stage::Dialing(dialing), .. }) = &mut c.state else { return None };
    let (backend, header, hop) = (*tried.last()?, dialing.header, dialing.hop);
    // A scale counts only when both sides sent one (RFC 7323 section 2.2).
    let both_scale = c.agreed.wscale.is_some() && got.wscale.is_some();
    let backend_shift = if both_scale { got.wscale.unwrap_or(0) } else { 0 };
    let read_by_backend = if both_scale { c.agreed.wscale.unwrap_or(0) } else { 0 };
    let splice = Splice {
        seq: seg.tcp.seq.delta_to(c.cookie),
        clock: match (c.agreed.timestamps, got.timestamps) {
            (false, _) => Clock::Unused,
            (true, None) => Clock::Erase,
            // So that what the client has echoed since our SYN-ACK is what the backend sent in its own: it accepts
            // no other echo before the handshake is complete.
            (true, Some(ts)) => Clock::Shift({ hot.clocks }[Side::Server as usize].wrapping_sub(ts.val)),
        },
        to_server: Rescale::new(c.agreed.wscale.unwrap_or(0), read_by_backend),
        to_client: Rescale::new(backend_shift, c.agreed.wscale.map_or(0, |_| OUR_WSCALE)),
    };
    let room = u32::from(seg.tcp.window);
    let begin = c.isn + 1;
    // What is sent of it now, and later, is noted where it is sent.
    let windows =
        [Window::new(begin, room.saturating_sub(u32::from(header))), Window::new(c.cookie + 1, c.client_window)];
    hot.last_seen = seg.now;
    hot.through = Some(Through { windows, splice, path: [NO_LIMIT; 2], hop, marks: Marks::OPEN });
    c.odd = [Oddities::default(); 2];
    let unacked = Unacked {
        una: begin - u32::from(header),
        end: held.acked,
        urgent: held.urgent,
        header,
        stream: held.stream.hand_over(),
        segment: mss_said(got.mss, seg.ip.family).min(mss),
        retry_at: seg.now,
        tries: 0,
    };
    let takes = Takes { segment: unacked.segment, window: room as usize };
    c.state = State::Spliced(Some(unacked));
    health.heard(backend, seg.now);
    health.answered(backend, &offered, &got, ecn, seg.tcp.window);
    Some(takes)
}

/// The options of our SYN to a backend: what was agreed with the client.
fn offered_to_backend(hot: &Hot, c: &Connection, mss: u16) -> SynOptions {
    let [val, _] = hot.clocks;
    SynOptions {
        mss: Some(mss),
        wscale: c.agreed.wscale,
        sack_permitted: c.agreed.sack,
        timestamps: c.agreed.timestamps.then_some(Timestamps { val, ecr: 0 }),
    }
}

/// Bytes of a PROXY header of ours to a backend of this family, where nobody is named that is of another.
pub const fn proxy_header_len(family: Family) -> u16 {
    match family {
        Family::V4 => 16 + 12,
        Family::V6 => 16 + 36,
    }
}
