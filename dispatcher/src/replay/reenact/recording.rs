//! What is to be re-enacted: the connections of a capture as scripts, one for each direction.
//!
//! A script says which bytes a side sent, cut into which segments, when, and how much of the other side's stream it had
//! acknowledged by then. Pure acknowledgements are not part of it: they are the business of the ends that play.
//!
//! # Memory
//!
//! Bytes stay in the capture, which is mapped. A segment with payload costs about 64 bytes here, no more than its headers cost
//! on disk; a connection some 500. So the index of ordinary traffic is smaller than the file, and that of a flood of
//! SYNs a few times as large. Pieces of fragmented IP packets count as not recorded.

use super::super::decode::{Decoded, Segment, Transport, decode};
use super::super::unread::Unread;
use crate::capture::{Capture, CaptureError};
use crate::time::Time;
use crate::wire::Seq;
use crate::wire::options::SynOptions;
use crate::wire::packet::Vlans;
use core::time::Duration;
use std::collections::HashMap;
use std::net::SocketAddr;

/// Why a recorded connection is not re-enacted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Skip {
    /// Its SYN was not recorded.
    BeganLate,
    /// No server accepted it, as far as recorded.
    NotAccepted,
    /// No byte was recorded in order from the start of either stream.
    NoData,
}

impl Skip {
    /// All, in the order of reports.
    pub const ALL: [Skip; 3] = [Skip::BeganLate, Skip::NotAccepted, Skip::NoData];

    /// In a sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            Skip::BeganLate => "Its SYN was not recorded.",
            Skip::NotAccepted => "No server accepted it.",
            Skip::NoData => "No byte was recorded in order from its start.",
        }
    }

    /// For reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Skip::BeganLate => "began-late",
            Skip::NotAccepted => "not-accepted",
            Skip::NoData => "no-data",
        }
    }
}

/// A SYN or SYN-ACK as it was sent.
#[derive(Clone, Copy, Debug)]
pub struct Syn<'c> {
    /// Initial sequence number.
    pub isn: Seq,
    /// Flags, for ECN.
    pub flags: u8,
    /// Window, never scaled.
    pub window: u16,
    /// Option bytes as they were.
    pub options: &'c [u8],
}

/// One segment to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Not before this.
    pub at: Time,
    /// Place among all segments of the connection, both ways.
    pub order: u32,
    /// First byte, from the start of the stream.
    pub start: u32,
    /// Bytes.
    pub len: u32,
    /// Not before so much of the other stream has arrived here (its FIN counts one).
    pub need: u32,
    /// With PSH.
    pub push: bool,
    /// With FIN.
    pub fin: bool,
    /// A reset instead.
    pub reset: bool,
}

/// One direction of a connection.
#[derive(Clone, Debug, Default)]
pub struct Script<'c> {
    /// The stream: pieces that follow each other without a hole from the first byte on, each with its place.
    pieces: Vec<(u32, &'c [u8])>,
    /// Bytes in the stream.
    pub len: u32,
    /// Its end was recorded.
    pub fin: bool,
    /// Segments in the order recorded.
    pub steps: Vec<Step>,
}

impl<'c> Script<'c> {
    /// Sequence space of the stream: its bytes, and one for the FIN.
    pub fn space(&self) -> u32 {
        self.len + u32::from(self.fin)
    }

    /// The pieces of the stream that make up `start..end`, in order.
    pub fn range(&self, start: u32, end: u32) -> impl Iterator<Item = &'c [u8]> + '_ {
        let first = self.pieces.partition_point(|(at, bytes)| at + bytes.len() as u32 <= start);
        self.pieces[first..].iter().take_while(move |(at, _)| *at < end).map(move |(at, bytes)| {
            let from = start.saturating_sub(*at) as usize;
            let to = ((end - at) as usize).min(bytes.len());
            &bytes[from.min(to)..to]
        })
    }

    /// A whole stream in one piece.
    #[cfg(test)]
    pub(super) fn of(bytes: &'c [u8]) -> Script<'c> {
        Script { pieces: vec![(0, bytes)], len: bytes.len() as u32, ..Script::default() }
    }

    /// Takes in a recorded piece of the stream. Where two differ, the first recorded wins.
    fn insert(&mut self, mut start: u32, mut bytes: &'c [u8]) {
        let mut i = self.pieces.partition_point(|(at, b)| at + b.len() as u32 <= start);
        while !bytes.is_empty() {
            let Some(&(at, known)) = self.pieces.get(i) else {
                self.pieces.push((start, bytes));
                return;
            };
            if start < at {
                let n = bytes.len().min((at - start) as usize);
                self.pieces.insert(i, (start, &bytes[..n]));
                i += 1;
                (start, bytes) = (start + n as u32, &bytes[n..]);
            } else {
                let skip = bytes.len().min((at + known.len() as u32 - start) as usize);
                (start, bytes) = (start + skip as u32, &bytes[skip..]);
                i += 1;
            }
        }
    }

    /// Everything is recorded that ever will be: the stream ends at its first hole.
    fn close(&mut self, fin: Option<u32>) {
        let mut end = 0;
        let whole = self.pieces.iter().take_while(|(at, bytes)| {
            let follows = *at == end;
            end += if follows { bytes.len() as u32 } else { 0 };
            follows
        });
        let whole = whole.count();
        self.pieces.truncate(whole);
        self.pieces.shrink_to_fit();
        let len = self.pieces.last().map_or(0, |(at, b)| at + b.len() as u32);
        self.len = len;
        self.fin = fin == Some(len);
        self.steps.retain_mut(|step| {
            step.len = step.len.min(len.saturating_sub(step.start));
            step.fin &= fin == Some(len) && step.start + step.len == len;
            step.len > 0 || step.fin || step.reset
        });
        self.steps.shrink_to_fit();
    }
}

/// A connection to be re-enacted.
#[derive(Clone, Debug)]
pub struct Recorded<'c> {
    /// Who opened it.
    pub client: SocketAddr,
    /// Whom it was opened to.
    pub server: SocketAddr,
    /// Tags of its SYN; more than two are cut.
    pub vlans: Vlans,
    /// When its SYN was recorded.
    pub begun: Time,
    /// The number of that frame in its file, from 1.
    pub first_frame: u64,
    /// The client's.
    pub syn: Syn<'c>,
    /// The server's; none when it was not recorded though the connection was accepted.
    pub syn_ack: Option<Syn<'c>>,
    /// From the client, from the server.
    pub scripts: [Script<'c>; 2],
}

/// Most bytes of a client that [`Recorded::greeting`] keeps: more than is ever read of a hello.
const GREETING: u32 = 64 << 10;

impl<'c> Recorded<'c> {
    /// The same connection, begun at another time and closed by both as soon as the client has said what it said before the server spoke:
    /// a server is chosen by it, and says nothing that anybody could learn from.
    pub fn greeting(&self, begun: Time) -> Recorded<'c> {
        let [client, server] = &self.scripts;
        let answered = server.steps.iter().filter(|s| s.len > 0).map(|s| s.order).min().unwrap_or(u32::MAX);
        let mut said = Script::default();
        let mut at = begun;
        for step in client.steps.iter().filter(|s| s.order < answered && s.len > 0 && s.start + s.len <= GREETING) {
            let mut start = step.start;
            for piece in client.range(step.start, step.start + step.len) {
                said.insert(start, piece);
                start += piece.len() as u32;
            }
            at = begun + step.at.since(self.begun);
            said.steps.push(Step { at, need: 0, fin: false, ..*step });
        }
        said.close(None);
        let fin = |start, need, order| Step { at, order, start, len: 0, need, push: false, fin: true, reset: false };
        said.steps.push(fin(said.len, 1, u32::MAX));
        said.fin = true;
        let silent = Script { fin: true, steps: vec![fin(0, said.len, u32::MAX - 1)], ..Script::default() };
        Recorded { begun, scripts: [said, silent], ..self.clone() }
    }

    /// Ends with a reset by the client, when no end of it was recorded: as late as everything else was said.
    pub fn close(&mut self) {
        let reset = self.scripts.iter().flat_map(|s| &s.steps).any(|s| s.reset);
        if reset || self.scripts.iter().all(|s| s.fin) {
            return;
        }
        let at = self.scripts.iter().flat_map(|s| &s.steps).map(|s| s.at).max().unwrap_or(self.begun);
        let end = Step { at, order: u32::MAX, start: 0, len: 0, need: 0, push: false, fin: false, reset: true };
        self.scripts[0].steps.push(end);
    }
}

/// All connections of some captures.
#[derive(Default)]
pub struct Recording<'c> {
    /// To be re-enacted, by the times of their SYNs.
    pub connections: Vec<Recorded<'c>>,
    /// Those that are not, by [`Skip`].
    pub skipped: [u64; Skip::ALL.len()],
    /// Nanoseconds since 1970 of the first frame.
    pub unix_nanos: u64,
    /// TCP segments that were recorded.
    pub segments: u64,
    /// What was read, and what was not.
    pub unread: Unread,
    /// Largest segment size that any SYN names, IPv4 and IPv6.
    pub mss: [u16; 2],
}

/// Reads connections off captures.
#[derive(Default)]
pub struct Reader<'c> {
    found: Vec<Building<'c>>,
    latest: HashMap<(SocketAddr, SocketAddr), usize>,
    first_nanos: Option<u64>,
    /// The capture's clock, and ours, in which gaps are of bounded length.
    clock: Time,
    now: Time,
    segments: u64,
    unread: Unread,
    mss: [u16; 2],
}

struct Building<'c> {
    recorded: Recorded<'c>,
    late: bool,
    /// Where each stream begins: the number of its first byte.
    base: [Option<Seq>; 2],
    fin: [Option<u32>; 2],
    /// Highest number of the other stream acknowledged.
    acked: [u32; 2],
    order: u32,
    client_spoke: bool,
    over: bool,
}

/// How far from the stream a reset may lie and still be taken for one of this connection.
const NEAR: u32 = 1 << 24;
/// Longest time between two frames. A longer one tells of a recorder's wrong clock rather than of waiting, and the
/// dispatcher's own timers would have to be gone through for all of it.
const LONGEST_GAP: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest stream, bytes: numbers further away cannot be told from earlier ones. What comes behind is not re-enacted.
const LONGEST: u32 = 1 << 30;

impl<'c> Reader<'c> {
    /// Everything in a capture, as far as it can be read; `progress` hears of bytes of the file walked over. Time runs on
    /// from file to file, and never backwards.
    pub fn read(&mut self, capture: &'c Capture, mut progress: impl FnMut(usize)) -> Result<(), CaptureError> {
        let mut frames = capture.frames()?;
        let mut begin = None;
        while let Some(frame) = frames.next() {
            let frame = frame?;
            if frame.number.is_multiple_of(4096) {
                progress(frames.position());
            }
            let first = *self.first_nanos.get_or_insert(frame.unix_nanos);
            let since_first = Time::from_nanos(frame.unix_nanos.saturating_sub(first));
            let at = *begin.get_or_insert(self.clock.max(since_first)) + frame.time.since(Time::ZERO);
            self.now += at.since(self.clock).min(LONGEST_GAP);
            self.clock = at;
            match decode(&frame) {
                Ok(packet) => {
                    self.unread.taken();
                    if let Transport::Tcp(segment) = packet.transport {
                        self.segments += 1;
                        self.segment(&packet, &segment, frame.number);
                    }
                }
                Err(why) => self.unread.not_taken(why),
            }
        }
        self.unread.end_of_file();
        Ok(())
    }

    fn segment(&mut self, packet: &Decoded<'c>, segment: &Segment<'c>, number: u64) {
        let key = (packet.src.min(packet.dst), packet.src.max(packet.dst));
        let syn = segment.has(Segment::SYN) && !segment.has(Segment::RST);
        let bare_syn = syn && segment.ack.is_none();
        if syn && let Some(mss) = SynOptions::parse(segment.options).mss {
            let most = &mut self.mss[usize::from(packet.src.is_ipv6())];
            *most = mss.max(*most);
        }
        let same = |b: &Building<'_>| {
            !bare_syn || (b.recorded.client == packet.src && !b.late && b.recorded.syn.isn == segment.seq)
        };
        let known = self.latest.get(&key).copied().filter(|i| same(&self.found[*i]));
        let index = known.unwrap_or_else(|| {
            let ids: Vec<u16> = packet.vlans.iter().copied().take(2).collect();
            let (client, server) = (packet.src, packet.dst);
            let syn = Syn { isn: segment.seq, flags: segment.flags, window: segment.window, options: segment.options };
            self.found.push(Building {
                recorded: Recorded {
                    client,
                    server,
                    vlans: Vlans::from_ids(&ids),
                    begun: self.now,
                    first_frame: number,
                    syn,
                    syn_ack: None,
                    scripts: Default::default(),
                },
                late: !bare_syn,
                base: [bare_syn.then_some(segment.seq + 1), None],
                fin: [None; 2],
                acked: [0; 2],
                order: 0,
                client_spoke: false,
                over: false,
            });
            self.latest.insert(key, self.found.len() - 1);
            self.found.len() - 1
        });
        let building = &mut self.found[index];
        if !building.late && !building.over {
            building.segment(packet, segment, self.now);
        }
    }

    /// All that was read.
    pub fn finish(self) -> Recording<'c> {
        let mut recording = Recording {
            unix_nanos: self.first_nanos.unwrap_or(0),
            segments: self.segments,
            unread: self.unread,
            mss: self.mss,
            ..Recording::default()
        };
        for building in self.found {
            match building.finish() {
                Ok(recorded) => recording.connections.push(recorded),
                Err(why) => recording.skipped[why as usize] += 1,
            }
        }
        recording
    }
}

impl<'c> Building<'c> {
    fn segment(&mut self, packet: &Decoded<'c>, segment: &Segment<'c>, now: Time) {
        let way = usize::from(packet.src != self.recorded.client);
        if segment.has(Segment::RST) {
            return self.reset(way, segment, now);
        }
        let syn = segment.has(Segment::SYN);
        if syn && way == 1 {
            let answers = segment.ack.is_some() && segment.ack == self.base[0];
            // A server without memory may answer each SYN by another number; the client's acknowledgement tells which.
            if answers && !self.client_spoke && self.recorded.scripts[1].steps.is_empty() {
                let Segment { seq, flags, window, options, .. } = *segment;
                self.recorded.syn_ack = Some(Syn { isn: seq, flags, window, options });
                self.base[1] = Some(seq + 1);
            }
        } else if !syn && way == 0 && !self.client_spoke {
            self.client_spoke = true;
            if let Some(ack) = segment.ack
                && self.base[1].is_none_or(|base| ack.0.wrapping_sub(base.0) > NEAR)
            {
                self.base[1] = Some(ack);
            }
        }
        let Some(base) = self.base[way] else { return };
        if let (Some(ack), Some(other)) = (segment.ack, self.base[1 - way]) {
            let upto = ack.0.wrapping_sub(other.0);
            if upto <= LONGEST {
                self.acked[way] = self.acked[way].max(upto);
            }
        }
        let seq = if syn { segment.seq + 1 } else { segment.seq };
        let mut payload = segment.payload;
        let mut start = base.distance_to(seq);
        let end = i64::from(start) + (payload.len() + segment.missing) as i64;
        if start < 0 {
            // A keep-alive repeats a byte from before the stream.
            payload = &payload[payload.len().min(start.unsigned_abs() as usize)..];
            start = 0;
        }
        let fin = segment.has(Segment::FIN) && (0..=i64::from(LONGEST)).contains(&end);
        if i64::from(start) + payload.len() as i64 > i64::from(LONGEST) {
            return;
        }
        if fin {
            self.fin[way].get_or_insert(end as u32);
        }
        if payload.is_empty() && !fin {
            return;
        }
        let script = &mut self.recorded.scripts[way];
        script.insert(start as u32, payload);
        script.steps.push(Step {
            at: now,
            order: self.order,
            start: start as u32,
            len: payload.len() as u32,
            need: self.acked[way],
            push: segment.has(0x08),
            fin,
            reset: false,
        });
        self.order += 1;
    }

    /// What comes after a reset was delivered to nobody.
    fn reset(&mut self, way: usize, segment: &Segment<'c>, now: Time) {
        let near =
            |base: Seq| segment.seq.0.wrapping_sub(base.0).wrapping_add(1) <= LONGEST.min(self.extent(way) + NEAR);
        if !self.base[way].is_some_and(near) {
            return;
        }
        self.over = true;
        self.recorded.scripts[way].steps.push(Step {
            at: now,
            order: self.order,
            start: 0,
            len: 0,
            need: 0,
            push: false,
            fin: false,
            reset: true,
        });
    }

    fn extent(&self, way: usize) -> u32 {
        self.recorded.scripts[way].pieces.last().map_or(0, |(at, bytes)| at + bytes.len() as u32)
    }

    fn finish(mut self) -> Result<Recorded<'c>, Skip> {
        if self.late {
            return Err(Skip::BeganLate);
        }
        if self.base[1].is_none() {
            return Err(Skip::NotAccepted);
        }
        for (script, fin) in self.recorded.scripts.iter_mut().zip(self.fin) {
            script.close(fin);
        }
        if self.recorded.scripts.iter().all(|s| s.len == 0) {
            return Err(Skip::NoData);
        }
        Ok(self.recorded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_script_holds_what_an_array_holds_where_the_first_writer_wins(
            parts in proptest::collection::vec((0u32..60, proptest::collection::vec(any::<u8>(), 0..20)), 0..20),
            (a, b) in (0u32..80, 0u32..80),
        ) {
            let mut script = Script::default();
            let mut naive: Vec<Option<u8>> = vec![None; 100];
            for (start, bytes) in &parts {
                script.insert(*start, bytes);
                for (i, byte) in bytes.iter().enumerate() {
                    naive[*start as usize + i].get_or_insert(*byte);
                }
            }
            script.close(None);
            let whole: Vec<u8> = naive.iter().map_while(|b| *b).collect();
            prop_assert_eq!(script.len as usize, whole.len());
            let (a, b) = (a.min(b).min(script.len), a.max(b).min(script.len));
            let range: Vec<u8> = script.range(a, b).flatten().copied().collect();
            prop_assert_eq!(&range[..], &whole[a as usize..b as usize]);
        }
    }
}
