//! The client's handshake, and its hello: from the SYN, which leaves no state, to the moment when there is enough to choose a
//! backend by.
//!
//! As a rule nothing of the hello is acknowledged before the backend has it: what is held here is a copy, and the client
//! repeats what was lost. Only a client that would stall (its first window full, the hello still incomplete) is
//! acknowledged what is in order, and from that moment on those bytes are ours to deliver.

use super::choose::family_of;
use super::config::{COMPLETE_WITHIN, hello_patience};
use super::connection::{Agreed, Connection, Held, NO_LIMIT, State, Story, Waiting};
use super::dial::proxy_header_len;
use super::health::OUR_WSCALE;
use super::keepalive::Asked;
use super::late::Late;
use super::neighbours::NextHop;
use super::record::{Class, End};
use super::send::Own;
use super::session::Offer;
use super::{Arrived, DropReason, Effects, Engine, HEADER_ROOM, Step, Verdict};
use crate::flow::{Assembler, ClientOptions, CookieVerified, Direction, FlowId, Side, Splice};
use crate::time::Time;
use crate::wire::build::Link;
use crate::wire::options::{SegmentOptions, SynOptions, Timestamps};
use crate::wire::packet::{Flags, tcp_checksum_ok, urgent_pointer};
use crate::wire::{Family, Frame};
use core::time::Duration;
use lb::{PoolId, Service, ServiceId};
use ssl_parse::{ClientHello, HelloWalk, Outcome};

/// A client that has sent part of a hello and nothing more for so long has filled its window, or lost a segment: it is
/// acknowledged what is in order. As long as a delayed acknowledgement of a host.
const ACK_AFTER: Duration = Duration::from_millis(40);
/// So many segments without an acknowledgement fill the smallest initial windows in use (RFC 6928: ten segments).
const ACK_EVERY: u8 = 8;

/// A client that has kept half a hello for so long gives way to another when no buffer is left: far more than a hello takes on
/// any path when nothing is lost.
const KEEP_HALF: Duration = Duration::from_secs(1);
/// Buffers looked at for such a client, for one segment.
const ROOM_LOOKS: usize = 64;

/// What a client's stream is so far.
enum Reading {
    /// A hello, complete; or nothing more of it is waited for.
    Hello,
    NotTls,
    More,
}

impl Engine {
    /// A bare SYN to a VIP: answered with a cookie, and forgotten. While it is known that no backend is up it is refused.
    pub(super) fn on_syn(
        &mut self,
        service: ServiceId,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        if self.stopping {
            // Who comes next may answer it.
            return Err(DropReason::Stopping);
        }
        if !tcp_checksum_ok(frame.bytes(), &seg.ip) {
            return Err(DropReason::BadChecksum);
        }
        if !self.serves(service, seg.ip.family) {
            // As the servers would answer; and whoever checks the VIP sees that it serves nobody. As often as there would be a SYN-ACK, which
            // is larger: by a limit that strangers can exhaust, honest clients would hear nothing.
            self.count_refusal(DropReason::NoBackend);
            return self.answer_by_reset(seg, frame, fx);
        }
        let asked = SynOptions::parse(&frame.bytes()[seg.tcp.header + 20..seg.tcp.payload]);
        let v4 = seg.ip.family == Family::V4;
        let offer = *self.health.offer(seg.ip.family);
        let wants_ecn = seg.tcp.flags.0 & (Flags::ECE.0 | Flags::CWR.0) == Flags::ECE.0 | Flags::CWR.0;
        let agreed = ClientOptions {
            mss: asked.mss.unwrap_or(if v4 { 536 } else { 1220 }),
            wscale: asked.wscale.filter(|_| offer.wscale),
            sack: asked.sack_permitted && offer.sack,
            ecn: wants_ecn && offer.ecn,
        };
        let cookie = self.cookies.issue(&seg.tuple(), seg.tcp.seq, &agreed, seg.now).ok_or(DropReason::MssTooSmall)?;
        let answer = SynOptions {
            mss: Some(offer.mss),
            wscale: agreed.wscale.map(|_| OUR_WSCALE),
            sack_permitted: agreed.sack,
            timestamps: asked
                .timestamps
                .filter(|_| offer.timestamps)
                .map(|ts| Timestamps { val: self.clock(seg.now), ecr: ts.val }),
        };
        let mut options = [0; 40];
        let n = answer.write(&mut options);
        let ecn = if agreed.ecn { Flags::ECE } else { Flags::default() };
        let own = Own {
            seq: cookie,
            ack: seg.tcp.seq + 1,
            flags: Flags::SYN.with(Flags::ACK).with(ecn),
            window: self.first_window(service, seg.ip.family),
            options: &options[..n],
        };
        self.counters.cookies_sent += 1;
        self.answer(seg, &own, frame, fx)
    }

    /// The window of our SYN-ACK: no more than we can hold, nor than the backends will say, of which a PROXY header takes some. Never zero.
    fn first_window(&self, service: ServiceId, family: Family) -> u16 {
        let room = u16::try_from(self.config.limits.hello_bytes).unwrap_or(u16::MAX);
        let proxy = self.directory.service(service).is_some_and(|s| s.policy().proxy_protocol);
        let header = if proxy { u16::from(proxy_header_len(family)) } else { 0 };
        room.min(self.health.offer(family).window - header)
    }

    /// Our clock for timestamps: milliseconds, from a secret start.
    fn clock(&self, now: Time) -> u32 {
        (now.as_millis() as u32).wrapping_add(self.keyed.hash(b"clock") as u32)
    }

    /// A segment to a VIP that belongs to no flow and is no SYN: perhaps a cookie comes back.
    pub(super) fn on_cookie(
        &mut self,
        service: ServiceId,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        let flags = seg.tcp.flags;
        if flags.contains(Flags::RST) {
            return Err(DropReason::NoFlow);
        }
        if !flags.contains(Flags::ACK) || flags.contains(Flags::SYN) {
            return self.refuse(seg, DropReason::NoFlow, frame, fx);
        }
        if self.stopping {
            return self.refuse(seg, DropReason::Stopping, frame, fx);
        }
        match self.cookies.verify(&seg.tuple(), seg.tcp.seq - 1, seg.tcp.ack - 1, seg.now) {
            Some(proof) => self.open(service, &proof, seg, frame, fx),
            None if self.doubts.benefit(self.tuple_hash(&seg.tuple()), seg.tcp.payload_len() > 0, seg.now) => {
                Err(DropReason::BadCookie)
            }
            None => self.refuse(seg, DropReason::BadCookie, frame, fx),
        }
    }

    /// Opens a flow, and reads what the segment carries.
    fn open(
        &mut self,
        service: ServiceId,
        proof: &CookieVerified,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        if !tcp_checksum_ok(frame.bytes(), &seg.ip) {
            return Err(DropReason::BadChecksum);
        }
        let (isn, cookie, got) = (proof.client_isn(), proof.cookie(), proof.options());
        let options = SegmentOptions::parse(&frame.bytes()[seg.tcp.header + 20..seg.tcp.payload]);
        let stamp = options.timestamps.map(|(_, ts)| ts);
        let client_window = u32::from(seg.tcp.window) << got.wscale.unwrap_or(0);
        let now = seg.now;
        let Some(service) = self.directory.service(service) else { return Err(DropReason::NoFlow) };
        let policy = service.policy();
        let patience = hello_patience(policy);
        let connection = Connection {
            state: State::AwaitHello(Waiting {
                held: Held { stream: Assembler::lazy(isn + 1, HEADER_ROOM), acked: isn + 1, urgent: None },
                silent_until: now + patience,
                complete_until: now + policy.hello_timeout.max(COMPLETE_WITHIN),
                ack_at: None,
                unacked: 0,
                since: now,
                walk: HelloWalk::default(),
            }),
            splice: Splice::default(),
            directions: [
                Direction::new(isn + 1, self.config.limits.hello_bytes as u32),
                Direction::new(cookie + 1, client_window),
            ],
            client_port: seg.port,
            client_link: Link {
                dst: seg.eth.src,
                src: self.routes.ports[usize::from(seg.port.0)].mac,
                vlans: seg.eth.vlans,
            },
            hop: NextHop(0),
            last_seen: now,
            asked: Asked::default(),
            agreed: Agreed {
                mss: got.mss,
                wscale: got.wscale,
                sack: got.sack,
                ecn: got.ecn,
                timestamps: stamp.is_some(),
            },
            isn,
            renewed: None,
            former: [None; 2],
            cookie,
            client_clock: stamp.map_or(0, |ts| ts.val),
            our_clock: stamp.map_or(0, |ts| ts.ecr),
            client_window,
            path: [NO_LIMIT; 2],
            watch: None,
            late: Late::No,
            proxy_protocol: policy.proxy_protocol,
            story: Story::new(self.serial + 1, service.id(), service.pool()),
        };
        let id = self.flows.insert(*proof.tuple(), connection).ok_or(DropReason::FlowTableFull)?;
        if let Some(flows) = self.routes.revision.flows_at(seg.ip.dst, seg.tcp.dst_port) {
            flows.opened(self.worker);
        }
        self.serial += self.step;
        self.counters.flows_opened += 1;
        self.wheel.arm(id.0, now + patience);
        if seg.tcp.seq_len() == 0 {
            return Ok(Verdict::Hold);
        }
        self.read_client(id, seg, frame, fx)
    }

    /// Another segment of a client whose hello is not complete.
    pub(super) fn on_waiting(
        &mut self,
        id: FlowId,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        if let Some(step) = self.on_reuse(id, seg, frame, fx) {
            return step;
        }
        if let Some(step) = self.on_old(id, seg, frame, fx) {
            return step;
        }
        self.on_early(id, seg, frame, fx)?;
        self.read_client(id, seg, frame, fx)
    }

    /// A segment from before the first byte, with the right acknowledgement: a probe, of a connection that is kept alive or of a window. Like any
    /// segment outside the window it is told where we are (RFC 9293 section 3.10.7.4).
    fn on_old(&mut self, id: FlowId, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Option<Step> {
        let tcp = &seg.tcp;
        let c = self.flows.get(id);
        let plain = tcp.flags.contains(Flags::ACK) && !tcp.flags.intersects(Flags::SYN.with(Flags::RST));
        if !plain || tcp.ack != c.cookie + 1 || !tcp.seq_end().is_before(c.isn + 1) {
            return None;
        }
        if !tcp_checksum_ok(frame.bytes(), &seg.ip) {
            return Some(Err(DropReason::BadChecksum));
        }
        let acked = match &c.state {
            State::AwaitHello(w) => w.held.acked,
            State::Dialing(d) => d.held.acked,
            _ => return None,
        };
        let room = self.config.limits.hello_bytes.saturating_sub(stream_len(c)).max(1 << OUR_WSCALE);
        let (options, n) = c.clock_for_client();
        let window = c.window_for_client(room);
        let own = Own { seq: c.cookie + 1, ack: acked, flags: Flags::ACK, window, options: &options[..n] };
        Some(self.answer(seg, &own, frame, fx))
    }

    /// What is common to all segments of a client before the splice: a reset, a new handshake, and the numbers to be
    /// remembered of an acceptable one. An error ends the matter.
    fn on_early(
        &mut self,
        id: FlowId,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Result<(), DropReason> {
        let tcp = &seg.tcp;
        let c = self.flows.get_mut(id);
        let held = match &c.state {
            State::AwaitHello(w) => &w.held,
            State::Dialing(d) => &d.held,
            _ => return Err(DropReason::FlowClosed),
        };
        let window = self.config.limits.hello_bytes as u32;
        let expected = held.stream.next_seq();
        if tcp.flags.contains(Flags::RST) {
            // Anything from what we acknowledged to what has arrived may be the sender's next number.
            if tcp.seq.is_before(held.acked) || tcp.seq.is_after(expected) {
                return Err(DropReason::OutOfWindow);
            }
            if !tcp_checksum_ok(frame.bytes(), &seg.ip) {
                return Err(DropReason::BadChecksum);
            }
            self.abandon(id, End::ClientReset, seg.now, fx);
            return Err(DropReason::FlowClosed);
        }
        if tcp.flags.contains(Flags::SYN) || !tcp.flags.contains(Flags::ACK) {
            return Err(DropReason::OutOfWindow);
        }
        if tcp.ack != c.cookie + 1 || !tcp.seq_end().in_window(c.isn + 1, window + 2) {
            return Err(DropReason::OutOfWindow);
        }
        if !tcp_checksum_ok(frame.bytes(), &seg.ip) {
            return Err(DropReason::BadChecksum);
        }
        c.last_seen = seg.now;
        c.answer_to(seg, self.routes.ports[usize::from(seg.port.0)].mac);
        c.client_window = u32::from(tcp.window) << c.agreed.wscale.unwrap_or(0);
        if c.agreed.timestamps {
            let options = SegmentOptions::parse(&frame.bytes()[tcp.header + 20..tcp.payload]);
            if let Some((_, ts)) = options.timestamps
                && (ts.val.wrapping_sub(c.client_clock) as i32) > 0
            {
                c.client_clock = ts.val;
            }
        }
        Ok(())
    }

    /// A client's segment while its backend is dialled: kept, to be forwarded when the backend has answered.
    pub(super) fn on_client_while_dialing(
        &mut self,
        id: FlowId,
        seg: &Arrived,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        if let Some(step) = self.on_reuse(id, seg, frame, fx) {
            return step;
        }
        if let Some(step) = self.on_old(id, seg, frame, fx) {
            return step;
        }
        self.on_early(id, seg, frame, fx)?;
        self.hold(id, seg, frame, fx)?;
        Ok(Verdict::Hold)
    }

    /// All buffers are taken. One of a client that has kept half a hello for long is taken back, and the client is reset:
    /// otherwise whoever opens as many connections as there are buffers, and sends one byte on each, locks out all others.
    fn make_room(&mut self, now: Time, fx: &mut dyn Effects) {
        for _ in 0..ROOM_LOOKS.min(self.holders.len()) {
            let (hand, id) = (self.hand, self.holders[self.hand]);
            self.hand = (hand + 1) % self.holders.len();
            if self.flows.is_live(id)
                && let State::AwaitHello(w) = &self.flows.get(id).state
                && w.held.stream.buffer_index() == Some(hand)
                && now.since(w.since) >= KEEP_HALF
            {
                self.counters.refused[DropReason::HelloNoBuffer as usize] += 1;
                self.flows.get_mut(id).story.class = Some(Class::Secure);
                self.reset_client(id, fx);
                return self.abandon(id, End::NoBuffer, now, fx);
            }
        }
    }

    /// Copies what is new in a segment into the flow's buffer.
    fn hold(&mut self, id: FlowId, seg: &Arrived, frame: &Frame<'_>, fx: &mut dyn Effects) -> Result<(), DropReason> {
        let payload = &frame.bytes()[seg.tcp.payload..seg.tcp.end];
        let has_buffer = match &self.flows.get(id).state {
            State::AwaitHello(w) => w.held.stream.has_buffer(),
            State::Dialing(d) => d.held.stream.has_buffer(),
            _ => return Err(DropReason::FlowClosed),
        };
        if !payload.is_empty() && !has_buffer && self.buffers.available() == 0 {
            // Who has none loses none: this flow stays.
            self.make_room(seg.now, fx);
        }
        let held = match &mut self.flows.get_mut(id).state {
            State::AwaitHello(w) => &mut w.held,
            State::Dialing(d) => &mut d.held,
            _ => return Err(DropReason::FlowClosed),
        };
        if seg.tcp.flags.contains(Flags::URG) {
            let points_to = seg.tcp.seq + u32::from(urgent_pointer(frame.bytes(), &seg.tcp));
            held.urgent = Some(held.urgent.map_or(points_to, |before| before.later_of(points_to)));
        }
        let stream = &mut held.stream;
        if !payload.is_empty() {
            let inserted = stream.insert(&mut self.buffers, seg.tcp.seq, payload);
            if let Some(buffer) = stream.buffer_index() {
                self.holders[buffer] = id;
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

    /// Takes a segment in, and goes on as far as the stream allows: waits, chooses a backend, or gives up.
    fn read_client(&mut self, id: FlowId, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        if seg.tcp.seq_len() == 0 {
            return Ok(Verdict::Hold);
        }
        self.hold(id, seg, frame, fx)?;
        match self.walk_hello(id) {
            Reading::Hello => self.choose_by_hello(id, seg.now, fx),
            Reading::NotTls => self.choose_without_identity(id, seg.now, fx),
            Reading::More => self.acknowledge_if_stalled(id, seg.now, fx),
        }
        Ok(Verdict::Hold)
    }

    /// Whether there is enough to choose a backend by, or all that will come.
    fn walk_hello(&mut self, id: FlowId) -> Reading {
        let most = self.config.limits.hello_bytes;
        let segment = self.flows.tuple(id, Side::Client).map_or(0, |t| self.health.offer(family_of(t)).mss);
        let State::AwaitHello(waiting) = &mut self.flows.get_mut(id).state else { return Reading::More };
        let stream = &waiting.held.stream;
        match waiting.walk.advance(stream.contiguous(&self.buffers)) {
            Outcome::Complete(_) => return Reading::Hello,
            Outcome::NotTls => return Reading::NotTls,
            // It is not ours to judge: what can be read of it may decide, and the server says what is wrong.
            Outcome::Malformed(_) => return Reading::Hello,
            Outcome::NeedMore => {}
        }
        // A client that closes after half a hello, or after nothing, gets a backend's answer to that. So does one whose hello does not fit into
        // the buffer: not before the buffer is as good as full, since what is in it may decide. A client keeps back less than a segment when
        // the window is smaller.
        let room = most - stream.contiguous_len();
        let never = waiting.walk.missing() > room && room < usize::from(segment);
        match waiting.walk.is_hello() {
            true if stream.at_fin() || never => Reading::Hello,
            false if stream.at_fin() || room == 0 => Reading::NotTls,
            _ => Reading::More,
        }
    }

    /// Reads the hello, or as much of it as there is, and chooses by it. One that cannot be read is balanced: only bounds refuse.
    fn choose_by_hello(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let Engine { flows, buffers, joined, counters, config, directory, .. } = self;
        let connection = flows.get(id);
        let State::AwaitHello(waiting) = &connection.state else { return };
        let (service, own) = (directory.service(connection.story.service), connection.story.pool);
        let stream = waiting.held.stream.contiguous(buffers);
        let read = |hello: &ClientHello<'_>| {
            let pool = service.map_or(own, |service| route(service, hello));
            (read_offer(stream, hello, config.keep_names), pool)
        };
        let complete = match ssl_parse::client_hello(stream, joined) {
            Outcome::Complete(hello) => Some(read(&hello)),
            _ => None,
        };
        let read = complete.or_else(|| {
            counters.hellos_unread += 1;
            ssl_parse::client_hello_so_far(stream, joined).map(|hello| read(&hello))
        });
        match read {
            Some(((offer, name), pool)) => {
                self.flows.get_mut(id).story.pool = pool;
                self.choose_for_hello(id, offer, name, now, fx);
            }
            None => self.choose_for_unread_hello(id, now, fx),
        }
    }

    /// The hello is incomplete. If the client has sent as much as a first window may hold it is acknowledged now, else in a
    /// moment.
    fn acknowledge_if_stalled(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let State::AwaitHello(waiting) = &mut self.flows.get_mut(id).state else { return };
        waiting.unacked = waiting.unacked.saturating_add(1);
        if waiting.unacked >= ACK_EVERY {
            self.acknowledge_client(id, fx);
        } else if waiting.ack_at.is_none() {
            waiting.ack_at = Some(now + ACK_AFTER);
            self.wheel.arm(id.0, now + ACK_AFTER);
        }
    }

    /// Acknowledges what is in order: from now on it is ours to deliver.
    pub(super) fn acknowledge_client(&mut self, id: FlowId, fx: &mut dyn Effects) {
        let limit = self.config.limits.hello_bytes;
        let c = self.flows.get_mut(id);
        let State::AwaitHello(waiting) = &mut c.state else { return };
        waiting.ack_at = None;
        waiting.unacked = 0;
        // Also when nothing is new: what came was a repetition then, so our last acknowledgement was lost.
        let upto = waiting.held.stream.next_seq();
        waiting.held.acked = upto;
        // Never zero: nothing would open it again before the splice.
        let window = c.window_for_client(limit.saturating_sub(stream_len(c)).max(1 << OUR_WSCALE));
        let (options, n) = c.clock_for_client();
        let own = Own { seq: c.cookie + 1, ack: upto, flags: Flags::ACK, window, options: &options[..n] };
        self.send_to_client(id, &own, fx);
    }

    /// A hello, or its rest, has not come in time.
    pub(super) fn on_hello_due(&mut self, id: FlowId, now: Time, fx: &mut dyn Effects) {
        let State::AwaitHello(waiting) = &self.flows.get(id).state else { return };
        if waiting.walk.is_hello() {
            // How long half a hello may be waited for, and what becomes of it, is the server's to say.
            self.choose_by_hello(id, now, fx);
        } else {
            // Perhaps the server is to speak first, or to answer the few bytes that have come.
            self.counters.silent += 1;
            self.flows.get_mut(id).late = Late::Awaited;
            self.choose_without_identity(id, now, fx);
        }
    }

    /// Tells the client that nothing will come of it.
    pub(super) fn reset_client(&mut self, id: FlowId, fx: &mut dyn Effects) {
        let c = self.flows.get(id);
        let ack = match &c.state {
            State::AwaitHello(w) => w.held.stream.next_seq(),
            State::Dialing(d) => d.held.stream.next_seq(),
            _ => return,
        };
        // It was sent nothing but our SYN.
        let own = Own { seq: c.cookie + 1, ack, flags: Flags::RST.with(Flags::ACK), window: 0, options: &[] };
        self.send_to_client(id, &own, fx);
    }
}

/// The pool that a hello is for.
pub(super) fn route(service: &Service, hello: &ClientHello<'_>) -> PoolId {
    service.pool_for(hello.sni, hello.alpn.into_iter().flatten())
}

/// What a hello offers, and its server name if somebody wants to know it.
pub(super) fn read_offer(stream: &[u8], hello: &ClientHello<'_>, keep_name: bool) -> (Offer, Option<Box<str>>) {
    let name = hello.sni.filter(|_| keep_name);
    let name = name.map(|n| String::from_utf8_lossy(&n[..n.len().min(255)]).into_owned().into_boxed_str());
    (Offer::at_head_of(stream, hello), name)
}

fn stream_len(c: &Connection) -> usize {
    match &c.state {
        State::AwaitHello(w) => w.held.stream.contiguous_len(),
        State::Dialing(d) => d.held.stream.contiguous_len(),
        _ => 0,
    }
}
