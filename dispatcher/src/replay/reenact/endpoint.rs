//! One end of a re-enacted connection: a small TCP endpoint (RFC 9293) that sends what its script says and knows what it
//! should receive.
//!
//! Both ends are this one type. What is sent is cut as it was recorded (and further, where the peer takes smaller segments),
//! repeated when it stays unacknowledged, and held back by the peer's window. What arrives is acknowledged at once, with
//! timestamps (RFC 7323) and SACK blocks (RFC 2018) where they were agreed, and compared with the recorded stream byte by byte.
//! Nothing that arrives needs to be kept for that, in order or not.
//!
//! An endpoint is also a suspicious one: what no correct peer would send is counted as a [`Endpoint::faults`].

use super::faults::Faults;
use super::recording::{Script, Syn};
use super::wire::{Heard, Wire};
use crate::engine::PortId;
use crate::time::Time;
use crate::wire::build::{Link, Segment};
use crate::wire::options::{SegmentOptions, SynOptions, Timestamps, write_timestamps};
use crate::wire::packet::{Flags, tcp_checksum_ok};
use crate::wire::{Addr, Family, Seq};
use arrayvec::ArrayVec;
use core::time::Duration;
use std::net::SocketAddr;

/// Where an endpoint stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Nothing happened yet.
    Idle,
    /// The client has sent its SYN.
    SynSent,
    /// The server has sent its SYN-ACK.
    SynReceived,
    /// The handshake is complete.
    Open,
    /// A reset was sent or received.
    Reset,
    /// What was sent stayed unacknowledged too long.
    GaveUp,
}

/// First retransmission of a SYN.
const SYN_RETRY: Duration = Duration::from_secs(1);
const SYN_TRIES: u8 = 6;
/// First retransmission of data (RFC 6298 with the minimum that systems use).
const RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(3);
const TRIES: u8 = 20;
/// Ranges kept of what arrived out of order. More are forgotten: they come again.
const RANGES: usize = 64;
/// Longest PROXY protocol header that the engine writes.
pub const LONGEST_HEADER: usize = 52;

/// A part of the own stream to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Send {
    /// First byte.
    pub start: u32,
    /// Behind the last.
    pub end: u32,
    /// With PSH on the last segment.
    pub push: bool,
    /// With FIN behind it.
    pub fin: bool,
}

/// Timestamps as one side uses them.
#[derive(Clone, Copy, Debug)]
struct Stamps {
    /// Our clock's value then.
    base: u32,
    since: Time,
    /// The peer's latest, to be echoed.
    recent: u32,
}

impl Stamps {
    fn clock(&self, now: Time) -> u32 {
        self.base.wrapping_add(now.since(self.since).as_millis() as u32)
    }
}

/// What a SYN-ACK says beside what was agreed.
#[derive(Clone, Copy, Debug, Default)]
struct Answer {
    mss: Option<u16>,
    wscale: Option<u8>,
    ecn: u8,
    window: u16,
}

/// One end.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it stands.
    pub phase: Phase,
    port: PortId,
    link: Link,
    local: (Addr, u16),
    remote: (Addr, u16),
    /// Largest payload with options that fits the path.
    path_mss: u16,
    iss: Seq,
    /// All further numbers count from the first byte behind a SYN. First byte not acknowledged by the peer.
    una: u32,
    /// Behind the last byte, or FIN, that was sent.
    nxt: u32,
    /// The furthest the peer ever allowed.
    edge: u32,
    irs: Seq,
    /// Everything before has arrived.
    rcv: u32,
    /// What has arrived behind that: sorted, disjoint.
    ranges: ArrayVec<(u32, u32), RANGES>,
    fin_at: Option<u32>,
    /// Bytes that come in front of the recorded stream.
    skip: u32,
    /// These bytes.
    pub header: [u8; LONGEST_HEADER],
    peer_mss: u16,
    peer_shift: u8,
    /// Of its own windows.
    shift: u8,
    answer: Answer,
    /// The furthest it ever allowed its peer to send.
    offered: u32,
    sack: bool,
    stamps: Option<Stamps>,
    retry_at: Option<Time>,
    tries: u8,
    /// A byte arrived that is not the recorded one, or that was never recorded.
    pub differs: bool,
    /// What no correct peer would have sent.
    pub faults: Faults,
    /// Segments sent again.
    pub repeats: u32,
}

impl Endpoint {
    /// A closed one. `path_mss` is the largest payload with options that fits the path.
    pub fn new(port: PortId, link: Link, local: (Addr, u16), remote: (Addr, u16), path_mss: u16) -> Endpoint {
        Endpoint {
            phase: Phase::Idle,
            port,
            link,
            local,
            remote,
            path_mss,
            iss: Seq(0),
            una: 0,
            nxt: 0,
            edge: 0,
            irs: Seq(0),
            rcv: 0,
            ranges: ArrayVec::new(),
            fin_at: None,
            skip: 0,
            header: [0; LONGEST_HEADER],
            peer_mss: 536,
            peer_shift: 0,
            shift: 0,
            answer: Answer::default(),
            offered: 0,
            sack: false,
            stamps: None,
            retry_at: None,
            tries: 0,
            differs: false,
            faults: Faults::default(),
            repeats: 0,
        }
    }

    /// Its own address, and its peer's.
    pub fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.local.0.socket(self.local.1), self.remote.0.socket(self.remote.1))
    }

    /// It stands between these addresses.
    pub fn is_between(&self, local: (Addr, u16), remote: (Addr, u16)) -> bool {
        (self.local, self.remote) == (local, remote)
    }

    /// So much of the recorded stream has arrived in order; its FIN counts one.
    pub fn arrived(&self) -> u32 {
        self.rcv.saturating_sub(self.skip)
    }

    /// The furthest it was allowed to send.
    pub fn allowed(&self) -> u32 {
        self.edge
    }

    /// The furthest it allowed its peer to send of the recorded stream.
    pub fn offered(&self) -> u32 {
        self.offered.saturating_sub(self.skip)
    }

    /// So much was sent; the FIN counts one.
    pub fn sent(&self) -> u32 {
        self.nxt
    }

    /// Everything that was sent is acknowledged.
    pub fn settled(&self) -> bool {
        self.una == self.nxt
    }

    /// The connection is over for this end, whatever arrives.
    pub fn is_dead(&self) -> bool {
        matches!(self.phase, Phase::Reset | Phase::GaveUp)
    }

    /// When [`Endpoint::on_time`] has something to do.
    pub fn due(&self) -> Option<Time> {
        self.retry_at
    }

    /// The client begins.
    pub fn connect(&mut self, syn: &Syn<'_>, now: Time, wire: &mut Wire) {
        self.phase = Phase::SynSent;
        self.iss = syn.isn;
        self.send_syn(syn, now, wire);
        self.retry_at = Some(now + SYN_RETRY);
    }

    /// The client's SYN, exactly as recorded.
    fn send_syn(&mut self, syn: &Syn<'_>, now: Time, wire: &mut Wire) {
        let asked = SynOptions::parse(syn.options);
        self.stamps = asked.timestamps.map(|ts| Stamps { base: ts.val, since: now, recent: 0 });
        let ecn = syn.flags & (Flags::ECE.0 | Flags::CWR.0);
        self.emit(syn.isn, Seq(0), Flags(Flags::SYN.0 | ecn), syn.window, syn.options, now, wire);
    }

    /// A SYN has come to a server that answers as the recorded one did. `skip` bytes will come in front of the recorded
    /// stream.
    pub fn accept(&mut self, seg: &Heard<'_>, answer: &Syn<'_>, skip: u32, now: Time, wire: &mut Wire) {
        let again = self.phase == Phase::SynReceived && self.irs == seg.tcp.seq;
        if self.phase != Phase::Idle && !again {
            self.faults.add(true, "SYN in the middle of a connection");
            return;
        }
        self.phase = Phase::SynReceived;
        (self.iss, self.irs, self.skip) = (answer.isn, seg.tcp.seq, skip);
        let asked = SynOptions::parse(seg.options());
        let able = SynOptions::parse(answer.options);
        let clock = able.timestamps.map_or(0, |ts| ts.val);
        self.peer_mss = asked.mss.unwrap_or(if self.local.0.family() == Family::V4 { 536 } else { 1220 });
        self.sack = asked.sack_permitted && able.sack_permitted;
        self.peer_shift = asked.wscale.filter(|_| able.wscale.is_some()).unwrap_or(0);
        self.stamps = asked.timestamps.filter(|_| able.timestamps.is_some()).map(|ts| Stamps {
            base: clock,
            since: now,
            recent: ts.val,
        });
        let shift = able.wscale.filter(|_| asked.wscale.is_some());
        self.edge = u32::from(seg.tcp.window);
        let wants_ecn = seg.tcp.flags.contains(Flags::ECE) && seg.tcp.flags.contains(Flags::CWR);
        let ecn = if wants_ecn { answer.flags & Flags::ECE.0 } else { 0 };
        self.answer = Answer { mss: able.mss, wscale: shift, ecn, window: answer.window };
        self.send_syn_ack(now, wire);
        self.retry_at = Some(now + SYN_RETRY);
    }

    /// The SYN-ACK, for the first time or again.
    fn send_syn_ack(&mut self, now: Time, wire: &mut Wire) {
        let Answer { mss, wscale, ecn, window } = self.answer;
        let options = SynOptions { mss, wscale, sack_permitted: self.sack, timestamps: self.stamps_now(now) };
        let mut bytes = [0; 40];
        let n = options.write(&mut bytes);
        // The window of a SYN-ACK is never scaled.
        self.shift = 0;
        let flags = Flags(Flags::SYN.0 | Flags::ACK.0 | ecn);
        self.emit(self.iss, self.irs + 1, flags, window, &bytes[..n], now, wire);
        self.shift = wscale.unwrap_or(0);
    }

    /// A segment has arrived. `syn` is what the client began with, `theirs` the stream that should arrive.
    pub fn receive(&mut self, seg: &Heard<'_>, syn: &Syn<'_>, theirs: &Script<'_>, now: Time, wire: &mut Wire) {
        if !tcp_checksum_ok(seg.frame, &seg.ip) {
            self.faults.add(true, "wrong checksum");
            return;
        }
        let flags = seg.tcp.flags;
        match self.phase {
            Phase::Idle | Phase::Reset | Phase::GaveUp => return,
            Phase::SynSent => return self.on_syn_ack(seg, syn, now, wire),
            Phase::SynReceived | Phase::Open => {}
        }
        let place = (self.irs + 1).distance_to(seg.tcp.seq);
        if flags.contains(Flags::RST) {
            // RFC 5961 section 3.2: only the exact number counts.
            if place == self.rcv as i32 {
                self.phase = Phase::Reset;
            } else {
                self.faults.add(true, "RST with another number than the next");
            }
            return;
        }
        if flags.contains(Flags::SYN) {
            // The peer has not heard our acknowledgement.
            return self.acknowledge(now, wire);
        }
        if !flags.contains(Flags::ACK) {
            self.faults.add(true, "neither ACK nor SYN nor RST");
            return;
        }
        let options = SegmentOptions::parse(seg.options());
        if !self.on_clock(options.timestamps.map(|(_, ts)| ts), place, seg.tcp.seq_len(), now) {
            return self.acknowledge(now, wire);
        }
        self.on_ack(seg, &options, now);
        if seg.tcp.seq_len() > 0 {
            self.on_data(seg, place, theirs);
            self.acknowledge(now, wire);
        }
    }

    fn on_syn_ack(&mut self, seg: &Heard<'_>, syn: &Syn<'_>, now: Time, wire: &mut Wire) {
        let flags = seg.tcp.flags;
        let fits = flags.contains(Flags::ACK) && seg.tcp.ack == self.iss + 1;
        if flags.contains(Flags::RST) {
            if fits {
                self.phase = Phase::Reset;
            }
        } else if flags.contains(Flags::SYN) && fits {
            let got = SynOptions::parse(seg.options());
            let asked = SynOptions::parse(syn.options);
            self.phase = Phase::Open;
            self.irs = seg.tcp.seq;
            self.peer_mss = got.mss.unwrap_or(536);
            self.sack = got.sack_permitted && asked.sack_permitted;
            (self.peer_shift, self.shift) = match (got.wscale, asked.wscale) {
                (Some(theirs), Some(ours)) => (theirs, ours),
                _ => (0, 0),
            };
            self.faults.add(got.sack_permitted && !asked.sack_permitted, "SACK that was not offered");
            self.faults.add(got.wscale.is_some() && asked.wscale.is_none(), "window scale that was not offered");
            self.stamps = match (self.stamps, got.timestamps) {
                (Some(ours), Some(ts)) => Some(Stamps { recent: ts.val, ..ours }),
                (None, Some(_)) => {
                    self.faults.add(true, "timestamps that were not offered");
                    None
                }
                (_, None) => None,
            };
            self.edge = u32::from(seg.tcp.window);
            (self.retry_at, self.tries) = (None, 0);
            self.acknowledge(now, wire);
        } else if flags.contains(Flags::ACK) && !fits {
            // The peer still has an older connection (RFC 9293 section 3.10.7.3): end that, and try again.
            self.emit(seg.tcp.ack, Seq(0), Flags::RST, 0, &[], now, wire);
            self.send_syn(syn, now, wire);
        }
    }

    /// False when the segment is older than one that was seen (RFC 7323 section 5).
    fn on_clock(&mut self, got: Option<Timestamps>, place: i32, len: u32, now: Time) -> bool {
        match (&mut self.stamps, got) {
            (Some(stamps), Some(ts)) => {
                if (ts.val.wrapping_sub(stamps.recent) as i32) < 0 {
                    // The dispatcher repeats what is its own with the clock of that time. It may be too late, not too early.
                    let new = i64::from(place) + i64::from(len) > i64::from(self.rcv);
                    self.faults.add(new, "timestamp older than one before");
                    return false;
                }
                // An echo of what our clock never said.
                let echo = ts.ecr.wrapping_sub(stamps.base);
                let said = stamps.clock(now).wrapping_sub(stamps.base);
                self.faults.add(echo > said, "echo of a timestamp that was never sent");
                if place <= self.rcv as i32 {
                    stamps.recent = ts.val;
                }
            }
            // Where they were agreed with the client and its backend has none, the dispatcher has nothing to put there; systems
            // take such segments, though RFC 7323 (section 3.2) would have them dropped.
            (Some(_), None) => {}
            // Not agreed: nobody reads them.
            (None, _) => {}
        }
        true
    }

    fn on_ack(&mut self, seg: &Heard<'_>, options: &SegmentOptions, now: Time) {
        let upto = (self.iss + 1).distance_to(seg.tcp.ack);
        if upto < 0 || upto as u32 > self.nxt {
            self.faults.add(true, "acknowledgement of what was never sent");
            return;
        }
        let upto = upto as u32;
        if self.phase == Phase::SynReceived {
            self.phase = Phase::Open;
            (self.retry_at, self.tries) = (None, 0);
        }
        if upto > self.una {
            self.una = upto;
            self.tries = 0;
            self.retry_at = (self.una < self.nxt).then_some(now + RETRY);
        }
        self.edge = self.edge.max(upto.saturating_add(u32::from(seg.tcp.window) << self.peer_shift));
        if let Some((at, blocks)) = options.sack {
            self.faults.add(!self.sack, "SACK that was not agreed");
            for block in seg.options()[at..].chunks_exact(8).take(blocks) {
                let edge = |i: usize| {
                    let seq = Seq(u32::from_be_bytes([block[i], block[i + 1], block[i + 2], block[i + 3]]));
                    (self.iss + 1).distance_to(seq)
                };
                let fits = 0 <= edge(0) && edge(0) < edge(4) && edge(4) <= self.nxt as i32;
                self.faults.add(!fits, "SACK of what was never sent");
            }
        }
    }

    fn on_data(&mut self, seg: &Heard<'_>, place: i32, theirs: &Script<'_>) {
        let payload = &seg.frame[seg.tcp.payload..seg.tcp.end];
        let before = payload.len().min(place.min(0).unsigned_abs() as usize);
        let (payload, start) = (&payload[before..], place.max(0) as u32);
        let end = start + payload.len() as u32;
        self.compare(start, payload, theirs);
        if seg.tcp.flags.contains(Flags::FIN) {
            let at = (i64::from(place) + seg.tcp.payload_len() as i64) as u32;
            self.differs |= self.fin_at.is_some_and(|fin| fin != at);
            self.fin_at = Some(at);
        }
        if end > self.rcv.max(start) {
            self.insert(start, end);
        }
        while let Some(&(from, to)) = self.ranges.first()
            && from <= self.rcv
        {
            self.rcv = self.rcv.max(to);
            self.ranges.remove(0);
        }
        if self.fin_at == Some(self.rcv) {
            self.rcv += 1;
        }
    }

    fn insert(&mut self, mut from: u32, mut to: u32) {
        self.ranges.retain(|(a, b)| {
            let apart = *b < from || to < *a;
            if !apart {
                (from, to) = (from.min(*a), to.max(*b));
            }
            apart
        });
        let at = self.ranges.partition_point(|(a, _)| *a < from);
        // Full: it comes again.
        let _ = self.ranges.try_insert(at, (from, to));
    }

    /// Compares what arrived with what was recorded there.
    fn compare(&mut self, start: u32, mut payload: &[u8], theirs: &Script<'_>) {
        let mut at = start;
        if at < self.skip {
            let n = payload.len().min((self.skip - at) as usize);
            let (header, rest) = payload.split_at(n);
            self.header[at as usize..at as usize + n].copy_from_slice(header);
            (payload, at) = (rest, at + n as u32);
        }
        let at = at - self.skip.min(at);
        let end = at + payload.len() as u32;
        if payload.is_empty() || end > theirs.len {
            self.differs |= !payload.is_empty();
            return;
        }
        for piece in theirs.range(at, end) {
            let (now, rest) = payload.split_at(piece.len().min(payload.len()));
            self.differs |= now != piece;
            payload = rest;
        }
        self.differs |= !payload.is_empty();
    }

    /// Largest payload.
    fn segment_size(&self) -> u32 {
        let options = if self.stamps.is_some() { 12 } else { 0 };
        u32::from(self.peer_mss.min(self.path_mss)).saturating_sub(options).max(1)
    }

    /// Sends `start..end` of its stream, and the FIN behind it if told so, as far as the peer's window allows: how far it
    /// came, the FIN counted.
    pub fn send(&mut self, what: Send, script: &Script<'_>, now: Time, wire: &mut Wire) -> u32 {
        let mut at = what.start;
        loop {
            let mut n = (what.end - at).min(self.segment_size());
            let beyond = (at + n).saturating_sub(self.edge.max(self.nxt));
            if beyond > 0 && n > 0 {
                // Nothing in flight that would bring another window: a probe of one byte.
                n = if beyond < n { n - beyond } else { u32::from(self.settled()) };
                if n == 0 {
                    return at;
                }
            }
            let last = at + n == what.end;
            let mut flags = Flags::ACK;
            if what.push && last {
                flags = flags.with(Flags::PSH);
            }
            if what.fin && last {
                flags = flags.with(Flags::FIN);
            }
            let seq = self.iss + 1 + at;
            let (bytes, len) = self.options();
            let pieces = script.range(at, at + n);
            self.emit_pieces(seq, flags, &bytes[..len], pieces, now, wire);
            at += n;
            self.nxt = self.nxt.max(at + u32::from(what.fin && last));
            if self.retry_at.is_none() && !self.settled() {
                self.retry_at = Some(now + RETRY);
            }
            if last {
                return at + u32::from(what.fin);
            }
        }
    }

    /// Ends the connection.
    pub fn reset(&mut self, now: Time, wire: &mut Wire) {
        if matches!(self.phase, Phase::Open | Phase::SynReceived) {
            let seq = self.iss + 1 + self.nxt;
            self.emit(seq, self.irs + 1 + self.rcv, Flags::RST.with(Flags::ACK), 0, &[], now, wire);
        }
        self.phase = Phase::Reset;
        self.retry_at = None;
    }

    /// What is due by `now`.
    pub fn on_time(&mut self, syn: &Syn<'_>, script: &Script<'_>, now: Time, wire: &mut Wire) {
        if self.retry_at.is_none_or(|at| at > now) {
            return;
        }
        self.retry_at = None;
        self.tries += 1;
        self.repeats += 1;
        match self.phase {
            Phase::SynSent if self.tries >= SYN_TRIES => self.phase = Phase::GaveUp,
            Phase::SynSent => {
                self.send_syn(syn, now, wire);
                self.retry_at = Some(now + SYN_RETRY * (1 << self.tries.min(4)));
            }
            Phase::SynReceived if self.tries >= SYN_TRIES => self.phase = Phase::GaveUp,
            Phase::SynReceived => {
                self.send_syn_ack(now, wire);
                self.retry_at = Some(now + SYN_RETRY * (1 << self.tries.min(4)));
            }
            Phase::Open if self.settled() => {}
            Phase::Open if self.tries >= TRIES => self.phase = Phase::GaveUp,
            Phase::Open => {
                let end = (self.una + self.segment_size()).min(self.nxt).min(script.len);
                let fin = end == script.len && self.nxt > script.len;
                self.send(
                    Send { start: self.una, end: end.max(self.una.min(script.len)), push: true, fin },
                    script,
                    now,
                    wire,
                );
                self.retry_at = Some(now + (RETRY * (1 << self.tries.min(5))).min(LONGEST_RETRY));
            }
            Phase::Idle | Phase::Reset | Phase::GaveUp => {}
        }
    }

    fn stamps_now(&self, now: Time) -> Option<Timestamps> {
        self.stamps.map(|s| Timestamps { val: s.clock(now), ecr: s.recent })
    }

    /// The dispatcher asks whether this end is still there: a segment without content, from before what is expected.
    pub fn is_asked(&self, seg: &Heard<'_>) -> bool {
        let plain = seg.tcp.flags.contains(Flags::ACK) && seg.tcp.seq_len() == 0 && !seg.tcp.flags.contains(Flags::RST);
        self.phase == Phase::Open && plain && (self.irs + 1).distance_to(seg.tcp.seq) < self.rcv as i32
    }

    /// Says where it is.
    pub fn acknowledge(&mut self, now: Time, wire: &mut Wire) {
        let (bytes, len) = self.options();
        let seq = self.iss + 1 + self.nxt;
        self.emit_pieces(seq, Flags::ACK, &bytes[..len], [].into_iter(), now, wire);
    }

    /// Room for timestamps, then SACK blocks; the former are filled in when the segment is sent.
    fn options(&self) -> ([u8; 40], usize) {
        let mut bytes = [0; 40];
        let mut n = if self.stamps.is_some() { 12 } else { 0 };
        if self.sack && !self.ranges.is_empty() {
            let blocks = self.ranges.len().min(3);
            bytes[n..n + 4].copy_from_slice(&[1, 1, 5, 2 + 8 * blocks as u8]);
            n += 4;
            for (from, to) in &self.ranges[..blocks] {
                for edge in [from, to] {
                    bytes[n..n + 4].copy_from_slice(&(self.irs + 1 + *edge).0.to_be_bytes());
                    n += 4;
                }
            }
        }
        (bytes, n)
    }

    fn emit_pieces<'p>(
        &mut self,
        seq: Seq,
        flags: Flags,
        options: &[u8],
        payload: impl Iterator<Item = &'p [u8]>,
        now: Time,
        wire: &mut Wire,
    ) {
        let mut bytes = [0; 40];
        bytes[..options.len()].copy_from_slice(options);
        if let Some(ts) = self.stamps_now(now) {
            bytes[..12].copy_from_slice(&write_timestamps(ts));
        }
        let mut whole = core::mem::take(&mut wire.payload);
        whole.clear();
        payload.for_each(|piece| whole.extend_from_slice(piece));
        let options = &bytes[..options.len()];
        self.put(seq, self.irs + 1 + self.rcv, flags, u16::MAX, options, &whole, now, wire);
        wire.payload = whole;
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a header")]
    fn emit(&mut self, seq: Seq, ack: Seq, flags: Flags, window: u16, options: &[u8], now: Time, wire: &mut Wire) {
        self.put(seq, ack, flags, window, options, &[], now, wire);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a header")]
    fn put(
        &mut self,
        seq: Seq,
        ack: Seq,
        flags: Flags,
        window: u16,
        options: &[u8],
        payload: &[u8],
        now: Time,
        wire: &mut Wire,
    ) {
        self.offered = self.offered.max(self.rcv.saturating_add(u32::from(window) << self.shift));
        let segment =
            Segment { link: self.link, src: self.local, dst: self.remote, seq, ack, flags, window, options, payload };
        wire.to_engine(self.port, now, segment.frame_len(), |bytes| {
            segment.write(bytes);
        });
    }
}

#[cfg(test)]
mod tests;
