//! Dialling a backend, and what it answers.
//!
//! The backend gets the client's own initial sequence number (less the length of a PROXY header, so that the stream behind
//! it stays aligned) and the options agreed with the client. The SYN is ours, so we repeat it; a backend that refuses or
//! stays silent is replaced by another, and the client never knows.

use super::choose::family_of;
use super::connection::{Connection, Dialing, Ours, State};
use super::health::{OUR_WSCALE, mss_said};
use super::record::End;
use super::send::Own;
use super::{AddressMode, Arrived, DropReason, Effects, Engine, HEADER_ROOM, Step, Verdict};
use crate::flow::{Assembler, Clock, Direction, FlowId, Rescale, Side, Splice, Tuple};
use crate::time::Time;
use crate::wire::options::{SynOptions, Timestamps};
use crate::wire::packet::{Flags, tcp_checksum_ok};
use crate::wire::{Family, Frame, Seq};
use arrayvec::ArrayVec;
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

impl Engine {
    /// Begins to dial `backend` for a flow that waits for its hello, or whose last backend failed.
    pub(super) fn dial(&mut self, id: FlowId, backend: BackendId, now: Time, fx: &mut dyn Effects) {
        let Some(client) = self.flows.tuple(id, Side::Client).copied() else { return };
        self.leave_backend(id);
        let c = self.flows.get_mut(id);
        let header = if c.proxy_protocol { proxy_header_len(family_of(&client)) } else { 0 };
        let state = core::mem::replace(&mut c.state, State::TimeWait { until: now });
        let mut tried = ArrayVec::new();
        let held = match state {
            State::AwaitHello(waiting) => waiting.held,
            State::Dialing(dialing) => {
                tried = dialing.tried;
                dialing.held
            }
            other => {
                c.state = other;
                return;
            }
        };
        tried.push(backend);
        c.story.attempts += 1;
        c.state = State::Dialing(Dialing { held, header, syns: 0, challenges: 0, since: now, retry_at: now, tried });
        if let Some(route) = self.routes.backend(backend) {
            c.hop = route.hop;
        }
        let Some(tuple) = self.server_tuple(&client, backend, now) else {
            self.counters.refused[DropReason::NoLocalPort as usize] += 1;
            return self.redispatch(id, now, fx);
        };
        if header > 0 && !self.write_proxy_header(id, &client, header) {
            self.counters.refused[DropReason::HelloNoBuffer as usize] += 1;
            self.reset_client(id, fx);
            return self.abandon(id, End::NoBackend, now, fx);
        }
        if !self.flows.bind(id, tuple) {
            // Two flows on one tuple would mix their bytes.
            self.counters.refused[DropReason::NoLocalPort as usize] += 1;
            return self.redispatch(id, now, fx);
        }
        self.flows.get_mut(id).story.backend = Some(backend);
        self.unfinished.refer(backend);
        self.live.opened(backend);
        self.send_syn(id, now, fx);
    }

    /// The flow has no backend any more.
    pub(super) fn leave_backend(&mut self, id: FlowId) {
        if let Some(old) = self.flows.get_mut(id).story.backend.take() {
            self.live.closed(old);
            self.unfinished.unrefer(old);
            self.flows.unbind(id);
        }
    }

    /// Puts the PROXY protocol's header (version 2, section 2.2 of its specification) before the client's first byte.
    fn write_proxy_header(&mut self, id: FlowId, client: &Tuple, len: u8) -> bool {
        let State::Dialing(dialing) = &mut self.flows.get_mut(id).state else { return false };
        let stream = &mut dialing.held.stream;
        if !stream.has_buffer() {
            let Some(buffer) = self.buffers.allocate() else { return false };
            let mut with_buffer = Assembler::new(stream.base(), buffer, HEADER_ROOM);
            if let Some(fin) = stream.fin_seq() {
                with_buffer.fin(fin);
            }
            *stream = with_buffer;
        }
        let Some(to) = stream.header_mut(&mut self.buffers, usize::from(len)) else { return false };
        to[..12].copy_from_slice(b"\r\n\r\n\0\r\nQUIT\n");
        let (family, addresses) = match family_of(client) {
            Family::V4 => (0x11, 4),
            Family::V6 => (0x21, 16),
        };
        to[12] = 0x21;
        to[13] = family;
        to[14..16].copy_from_slice(&(u16::from(len) - 16).to_be_bytes());
        to[16..16 + addresses].copy_from_slice(&client.src[16 - addresses..]);
        to[16 + addresses..16 + 2 * addresses].copy_from_slice(&client.dst[16 - addresses..]);
        let ports = 16 + 2 * addresses;
        to[ports..ports + 2].copy_from_slice(&client.sport.to_be_bytes());
        to[ports + 2..ports + 4].copy_from_slice(&client.dport.to_be_bytes());
        true
    }

    /// Sends the SYN, for the first time or again.
    pub(super) fn send_syn(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let c = self.flows.get(id);
        let State::Dialing(dialing) = &c.state else { return };
        let (header, hop) = (dialing.header, c.hop);
        let known = self.link_to(hop, now).is_some();
        let c = self.flows.get(id);
        let offered = offered_to_backend(c, self.mss_for_backend(id));
        let mut options = [0; 40];
        let n = offered.write(&mut options);
        let ecn = if c.agreed.ecn { Flags::ECE.with(Flags::CWR) } else { Flags::default() };
        let own = Own {
            seq: c.isn - u32::from(header),
            ack: Seq(0),
            flags: Flags::SYN.with(ecn),
            // The window of a SYN is never scaled.
            window: u16::try_from(c.client_window).unwrap_or(u16::MAX),
            options: &options[..n],
        };
        let sent = known && self.send_to_server(id, &own, now, fx);
        let State::Dialing(dialing) = &mut self.flows.get_mut(id).state else { return };
        let wait = if sent {
            self.counters.dials += 1;
            dialing.syns += 1;
            RETRY[usize::from(dialing.syns - 1).min(RETRY.len() - 1)]
        } else {
            NO_LINK_RETRY
        };
        dialing.retry_at = now + wait;
        self.wheel.arm(id.0, now + wait);
    }

    /// No answer yet: again, or another backend.
    pub(super) fn on_dial_due(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let c = self.flows.get(id);
        let State::Dialing(dialing) = &c.state else { return };
        // Patience is counted in SYNs, and in time where none could be sent for want of a next hop.
        let patience = RETRY.iter().sum::<Duration>();
        let out_of_patience = usize::from(dialing.syns) >= RETRY.len() || now.since(dialing.since) > patience;
        let backend = dialing.tried.last().copied();
        let alive = backend.is_some_and(|b| self.health.heard_since(b, dialing.since));
        // Nor can anybody reach it whose address on the link was asked for in vain. Our own full ring is no evidence.
        let lost = self.neighbours.link(c.hop).1.is_none() && now.since(dialing.since) >= RETRY[0];
        if let Some(backend) = backend
            && (dialing.syns > 0 || lost)
            && !alive
        {
            self.health.doubt(backend, now);
            if !self.health.is_up(backend) {
                // Its silence is known by now: nobody waits for what is known.
                return self.redispatch(id, now, fx);
            }
        }
        let promised = backend.is_some_and(|b| c.story.decided == Some(b) && self.health.is_up(b));
        let most = if alive {
            MOST_SYNS
        } else if promised {
            SYNS_FOR_A_SESSION
        } else {
            0
        };
        if !out_of_patience || (dialing.syns < most && now.since(dialing.since) < LONGEST) {
            return self.send_syn(id, now, fx);
        }
        self.redispatch(id, now, fx);
    }

    /// Largest segment the backend may send: what the client takes, and what fits the ports on both sides.
    fn mss_for_backend(&self, id: FlowId) -> u16 {
        let c = self.flows.get(id);
        let family = self.flows.tuple(id, Side::Client).map_or(Family::V4, family_of);
        c.agreed.mss.min(self.routes.mss()[family as usize])
    }

    /// A segment of the backend that is being dialled.
    pub(super) fn on_dialed(&mut self, id: FlowId, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        if !tcp_checksum_ok(frame.bytes(), &seg.ip) {
            return Err(DropReason::BadChecksum);
        }
        let c = self.flows.get(id);
        let State::Dialing(dialing) = &c.state else { return Err(DropReason::NoFlow) };
        let backend = *dialing.tried.last().ok_or(DropReason::NoFlow)?;
        let expected = c.isn - u32::from(dialing.header) + 1;
        let flags = seg.tcp.flags;
        let ours = flags.contains(Flags::ACK) && seg.tcp.ack == expected;
        match (flags.contains(Flags::RST), flags.contains(Flags::SYN), ours) {
            (true, _, true) => {
                // Whatever it challenged before, now it refuses.
                if let State::Dialing(dialing) = &mut self.flows.get_mut(id).state {
                    dialing.challenges = 0;
                }
                self.health.doubt(backend, seg.now);
                self.redispatch(id, seg.now, fx);
                Ok(Verdict::Hold)
            }
            (true, _, false) => Err(DropReason::OutOfWindow),
            (false, true, true) => {
                self.splice(id, backend, seg, frame, fx);
                Ok(Verdict::Hold)
            }
            _ if flags.contains(Flags::ACK) => {
                self.on_challenge(id, backend, seg, fx);
                Ok(Verdict::Hold)
            }
            _ => Err(DropReason::OutOfWindow),
        }
    }

    /// The backend still holds an older connection from this address and port (RFC 9293 section 3.10.7.3). A reset with the number it
    /// expects ends that, but not everywhere: Linux with `tcp_rfc1337=1` ignores it in TIME_WAIT, and says nothing more for half a
    /// second. So the SYN goes from another port at once. With the client's own (`dnat`) there is no other: the SYN is repeated from
    /// there, and in the end another backend is tried, which holds no such connection.
    fn on_challenge(&mut self, id: FlowId, backend: BackendId, seg: &Arrived, fx: &mut dyn Effects) {
        let own = Own { seq: seg.tcp.ack, ack: Seq(0), flags: Flags::RST, window: 0, options: &[] };
        self.send_to_server(id, &own, seg.now, fx);
        // Who challenges is alive.
        self.health.heard(backend, seg.now);
        let State::Dialing(dialing) = &mut self.flows.get_mut(id).state else { return };
        dialing.challenges = dialing.challenges.saturating_add(1);
        let (challenges, syns) = (dialing.challenges, dialing.syns);
        if self.config.address_mode == AddressMode::Snat
            && challenges <= MOST_PORTS
            && let Some(client) = self.flows.tuple(id, Side::Client).copied()
            && let Some(tuple) = self.server_tuple(&client, backend, seg.now)
            && self.flows.bind(id, tuple)
        {
            if let State::Dialing(dialing) = &mut self.flows.get_mut(id).state {
                dialing.syns = 0;
            }
            self.send_syn(id, seg.now, fx);
        } else if usize::from(syns) < RETRY.len() {
            self.send_syn(id, seg.now, fx);
        }
    }

    /// The backend has answered: from now on both directions are forwarded.
    fn splice(&mut self, id: FlowId, backend: BackendId, seg: &Arrived, frame: &Frame<'_>, fx: &mut dyn Effects) {
        let got = SynOptions::parse(&frame.bytes()[seg.tcp.header + 20..seg.tcp.payload]);
        let mss = self.mss_for_backend(id);
        let c = self.flows.get_mut(id);
        let offered = offered_to_backend(c, mss);
        let ecn = c.agreed.ecn.then(|| seg.tcp.flags.contains(Flags::ECE));
        let State::Dialing(Dialing { held, header, .. }) =
            core::mem::replace(&mut c.state, State::TimeWait { until: seg.now })
        else {
            return;
        };
        // A scale counts only when both sides sent one (RFC 7323 section 2.2).
        let both_scale = c.agreed.wscale.is_some() && got.wscale.is_some();
        let backend_shift = if both_scale { got.wscale.unwrap_or(0) } else { 0 };
        let read_by_backend = if both_scale { c.agreed.wscale.unwrap_or(0) } else { 0 };
        c.splice = Splice {
            seq: seg.tcp.seq.delta_to(c.cookie),
            clock: match (c.agreed.timestamps, got.timestamps) {
                (false, _) => Clock::Unused,
                (true, None) => Clock::Erase,
                // So that what the client has echoed since our SYN-ACK is what the backend sent in its own: it accepts
                // no other echo before the handshake is complete.
                (true, Some(ts)) => Clock::Shift(c.our_clock.wrapping_sub(ts.val)),
            },
            to_server: Rescale::new(c.agreed.wscale.unwrap_or(0), read_by_backend),
            to_client: Rescale::new(backend_shift, c.agreed.wscale.map_or(0, |_| OUR_WSCALE)),
        };
        let room = u32::from(seg.tcp.window);
        let begin = c.isn + 1;
        // What is sent of it now, and later, is noted where it is sent.
        c.directions[Side::Client as usize] = Direction::new(begin, room.saturating_sub(u32::from(header)));
        c.directions[Side::Server as usize] = Direction::new(c.cookie + 1, c.client_window);
        c.last_seen = seg.now;
        let ours = Ours {
            una: begin - u32::from(header),
            end: held.acked,
            urgent: held.urgent,
            header,
            stream: held.stream,
            segment: 0,
            retry_at: seg.now,
            tries: 0,
        };
        c.state = State::Spliced(Some(ours));
        let idle = seg.now + self.config.flow_idle_timeout;
        self.wheel.arm(id.0, idle);
        self.health.heard(backend, seg.now);
        self.health.answered(backend, &offered, &got, ecn, seg.tcp.window);
        self.watch_released(id, seg.now);
        let segment = usize::from(mss_said(got.mss, seg.ip.family).min(mss));
        self.read_late_held(id, seg.now);
        self.release(id, segment, room as usize, seg, fx);
    }
}

/// The options of our SYN to a backend: what was agreed with the client.
fn offered_to_backend(c: &Connection, mss: u16) -> SynOptions {
    SynOptions {
        mss: Some(mss),
        wscale: c.agreed.wscale,
        sack_permitted: c.agreed.sack,
        timestamps: c.agreed.timestamps.then_some(Timestamps { val: c.client_clock, ecr: 0 }),
    }
}

pub(super) const fn proxy_header_len(family: Family) -> u8 {
    match family {
        Family::V4 => 16 + 12,
        Family::V6 => 16 + 36,
    }
}
