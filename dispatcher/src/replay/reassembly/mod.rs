//! TCP connections of a capture, and the byte streams of their two directions.
//!
//! A [`Tracker`] is given segments in the order of the capture and tells a [`Handler`] what each stream says, byte
//! after byte, each byte once: reordered segments wait for their turn, repeated ones are dropped, and where two
//! segments disagree about a byte the first that was recorded wins (as in Wireshark, so that answers can be compared).
//! What the recorder never saw is told as a gap.
//!
//! # Which connection a segment belongs to
//!
//! The addresses and ports decide, whatever VLAN or interface a segment was seen on. A SYN with another initial
//! sequence number begins a new connection on the same addresses. Everything else belongs to the latest connection of
//! its addresses, also behind its end (late acknowledgements). A connection whose SYN and SYN-ACK are both missing
//! *began late*: its client is guessed by the ports, and the handler may turn it around when it knows better.
//!
//! # Memory
//!
//! A connection costs a few hundred bytes for the whole capture, whatever it carried. Segments that wait for a hole in
//! front of them cost their bytes, at most [`Limits::direction_bytes`] for a direction and [`Limits::total_bytes`] for
//! all: when one is reached, the hole is told as a gap, and what waited behind it is delivered.

mod direction;

use super::decode::{Decoded, Segment};
use crate::engine::End;
use crate::time::Time;
use crate::wire::Seq;
use direction::{Direction, Piece};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Sizes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes waiting in one direction of one connection.
    pub direction_bytes: usize,
    /// Bytes waiting in all.
    pub total_bytes: usize,
    /// How long, by the capture's clock, bytes may still turn up after the receiver has acknowledged them (a recorder
    /// with several queues writes frames in a wrong order).
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { direction_bytes: 1 << 20, total_bytes: 64 << 20, patience: Duration::from_secs(1) }
    }
}

/// One of the two directions of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Way {
    /// From the client.
    ToServer,
    /// From the server.
    ToClient,
}

impl Way {
    /// The other one.
    pub const fn reverse(self) -> Way {
        match self {
            Way::ToServer => Way::ToClient,
            Way::ToClient => Way::ToServer,
        }
    }

    /// 0 from the client, 1 from the server.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// When something was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct At {
    /// Number of the frame, from 1.
    pub frame: u64,
    /// Since the first frame.
    pub time: Time,
    /// Nanoseconds since 1970.
    pub unix_nanos: u64,
}

/// What is known of a connection from its headers.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Who opened it; a guess when it `began_late`.
    pub client: SocketAddr,
    /// Whom it was opened to.
    pub server: SocketAddr,
    /// VLAN ids of its first frame, outermost first.
    pub vlans: Vec<u16>,
    /// Its first frame.
    pub first: At,
    /// Its latest frame.
    pub last: At,
    /// Neither SYN nor SYN-ACK was recorded.
    pub began_late: bool,
    /// The first byte's place is known, for each direction ([`Way::index`]).
    pub from_start: [bool; 2],
    /// Stream bytes each way, each counted once, holes included.
    pub bytes: [u64; 2],
    /// Bytes of these that were never recorded.
    pub lost: [u64; 2],
    /// How it ended; none while it is open.
    pub end: Option<End>,
}

/// Hears what the streams say.
pub trait Handler {
    /// Kept for each connection.
    type State;

    /// A connection begins.
    fn opened(&mut self, connection: &Connection) -> Self::State;
    /// The next bytes of a direction.
    fn data(&mut self, connection: &mut Connection, state: &mut Self::State, way: Way, bytes: &[u8], at: At) -> Turn;
    /// `len` bytes of a direction that will never be known.
    fn gap(&mut self, connection: &mut Connection, state: &mut Self::State, way: Way, len: u64, at: At);
    /// A connection has ended, or the capture has (then `connection.end` is none).
    fn ended(&mut self, connection: &Connection, state: &mut Self::State);
    /// Whether the bytes of a direction are still of interest. Those that are not are counted and dropped.
    fn wants(&self, state: &Self::State, way: Way) -> bool;
}

/// A handler's answer to data of a connection that began late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// The guess of the client stands.
    Keep,
    /// It is the other one. The bytes were taken as coming from the other way; so are all from now on.
    Around,
}

type Tuple = (SocketAddr, SocketAddr);

struct Stream<S> {
    connection: Connection,
    state: S,
    /// By sender: the client's first, as told by `connection`.
    directions: [Direction; 2],
    /// Initial sequence number of the SYN, if that was recorded.
    isn: Option<u32>,
    told: bool,
}

/// Follows all connections of a capture.
pub struct Tracker<H: Handler> {
    /// Who hears.
    pub handler: H,
    streams: Vec<Stream<H::State>>,
    latest: HashMap<Tuple, usize>,
    waiting: usize,
    limits: Limits,
}

impl<H: Handler> Tracker<H> {
    /// Nothing seen yet.
    pub fn new(handler: H, limits: Limits) -> Tracker<H> {
        Tracker { handler, streams: Vec::new(), latest: HashMap::new(), waiting: 0, limits }
    }

    /// All connections so far, in order of their first frames.
    pub fn connections(&self) -> impl Iterator<Item = (&Connection, &H::State)> {
        self.streams.iter().map(|s| (&s.connection, &s.state))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// One segment; `packet` is where it was read from.
    pub fn segment(&mut self, packet: &Decoded<'_>, segment: &Segment<'_>, at: At) {
        let index = self.stream_of(packet, segment, at);
        let stream = &mut self.streams[index];
        stream.connection.last = at;
        let way = if packet.src == stream.connection.client { Way::ToServer } else { Way::ToClient };
        let plausible = stream.directions[way.index()].plausible(segment.seq);
        let mut delivery =
            Delivery { handler: &mut self.handler, stream, waiting: &mut self.waiting, limits: &self.limits, at };
        if segment.has(Segment::RST) {
            // What comes with a reset is a diagnostic, not part of the stream (RFC 9293, 3.5.3). One that answers an
            // acknowledgement of an older connection on these addresses says nothing about this one.
            if plausible {
                delivery.reset(way);
            }
            return;
        }
        delivery.headers(way, segment);
        delivery.payload(way, segment);
        // The handler may have turned the connection around.
        let way = if packet.src == delivery.stream.connection.client { Way::ToServer } else { Way::ToClient };
        delivery.end_of_stream(way, segment);
    }

    /// The capture is over: holes are told as gaps, and every open connection as ended.
    pub fn finish(&mut self) {
        for stream in &mut self.streams {
            let at = stream.connection.last;
            Delivery { handler: &mut self.handler, stream, waiting: &mut self.waiting, limits: &self.limits, at }
                .tell_end();
        }
    }

    fn stream_of(&mut self, packet: &Decoded<'_>, segment: &Segment<'_>, at: At) -> usize {
        let tuple = if packet.src < packet.dst { (packet.src, packet.dst) } else { (packet.dst, packet.src) };
        let syn = segment.has(Segment::SYN) && !segment.has(Segment::RST);
        let bare_syn = syn && segment.ack.is_none();
        if let Some(&index) = self.latest.get(&tuple) {
            let stream = &mut self.streams[index];
            // A SYN that is not a repetition of the one this connection began with begins another. (When the SYN-ACK was
            // recorded first, the connection has begun with that.)
            let client = &stream.directions[Way::ToServer.index()];
            let behind_its_answer = stream.isn.is_none() && client.begins_at(segment.seq + 1);
            let same = stream.connection.client == packet.src
                && (stream.isn == Some(segment.seq.0) || !stream.connection.began_late && behind_its_answer);
            if same {
                stream.isn = Some(segment.seq.0);
            }
            if !bare_syn || same {
                return index;
            }
            stream.connection.end.get_or_insert(End::Replaced);
            let last = stream.connection.last;
            Delivery { handler: &mut self.handler, stream, waiting: &mut self.waiting, limits: &self.limits, at: last }
                .tell_end();
        }
        let from_client = if syn { bare_syn } else { guess_from_client(packet.src, packet.dst) };
        let (client, server) = if from_client { (packet.src, packet.dst) } else { (packet.dst, packet.src) };
        let connection = Connection {
            client,
            server,
            vlans: packet.vlans.to_vec(),
            first: at,
            last: at,
            began_late: !syn,
            from_start: [false; 2],
            bytes: [0; 2],
            lost: [0; 2],
            end: None,
        };
        let state = self.handler.opened(&connection);
        self.latest.insert(tuple, self.streams.len());
        self.streams.push(Stream {
            connection,
            state,
            directions: [Direction::default(), Direction::default()],
            isn: bare_syn.then_some(segment.seq.0),
            told: false,
        });
        self.streams.len() - 1
    }
}

/// For a connection that began late: servers listen on the lower port; of equals, the first sender is the client.
fn guess_from_client(src: SocketAddr, dst: SocketAddr) -> bool {
    src.port() >= dst.port()
}

/// One segment's way to the handler.
struct Delivery<'a, H: Handler> {
    handler: &'a mut H,
    stream: &'a mut Stream<H::State>,
    waiting: &'a mut usize,
    limits: &'a Limits,
    at: At,
}

impl<H: Handler> Delivery<'_, H> {
    /// What flags and numbers say about where the two streams begin.
    fn headers(&mut self, way: Way, segment: &Segment<'_>) {
        let stream = &mut *self.stream;
        let [own, other] = [way.index(), way.reverse().index()];
        if segment.has(Segment::SYN) {
            // Also when repeated: a server without memory (SYN cookies) may answer each SYN by another number.
            if stream.directions[own].untouched() {
                stream.directions[own].begin(segment.seq + 1);
                stream.connection.from_start[own] = true;
            }
            if let Some(ack) = segment.ack
                && stream.directions[other].unknown()
                && !stream.connection.began_late
            {
                stream.directions[other].begin(ack);
                stream.connection.from_start[other] = true;
            }
        } else if let Some(ack) = segment.ack {
            let opening = way == Way::ToServer && stream.isn.is_some() && stream.directions[own].untouched();
            if opening && stream.directions[other].untouched() {
                // The client's first acknowledgement tells where the server's stream begins, when the SYN-ACK is
                // missing or there were several that differ.
                stream.directions[other].begin(ack);
                stream.connection.from_start[other] = true;
            } else {
                stream.directions[other].acknowledged(ack, self.at.time);
            }
        }
    }

    fn payload(&mut self, way: Way, segment: &Segment<'_>) {
        let seq = if segment.has(Segment::SYN) { segment.seq + 1 } else { segment.seq };
        if !self.insert(way, seq, segment) {
            // No room to wait: what waits now is delivered behind a gap, and then it may fit. If not, it is as if it
            // had not been recorded.
            self.drain(way, true);
            self.insert(way, seq, segment);
        }
        self.drain(way, false);
        // An acknowledgement may long have passed a hole on the other side.
        self.drain(way.reverse(), false);
    }

    fn insert(&mut self, way: Way, seq: Seq, segment: &Segment<'_>) -> bool {
        let wanted = self.handler.wants(&self.stream.state, way);
        let direction = &mut self.stream.directions[way.index()];
        let before = direction.waiting();
        let room = self.limits.total_bytes.saturating_sub(*self.waiting - before).min(self.limits.direction_bytes);
        let taken = direction.insert(seq, segment.payload, segment.missing, wanted, room);
        *self.waiting = *self.waiting - before + direction.waiting();
        self.stream.connection.bytes[way.index()] = direction.extent();
        taken
    }

    /// Delivers what is in order; `force`: also what waits behind holes.
    fn drain(&mut self, mut way: Way, force: bool) {
        loop {
            let direction = &mut self.stream.directions[way.index()];
            let before = direction.waiting();
            let piece = direction.next_piece(force, self.at.time, self.limits.patience);
            *self.waiting = *self.waiting - before + direction.waiting();
            let (connection, state) = (&mut self.stream.connection, &mut self.stream.state);
            match piece {
                None => break,
                Some(Piece::Skipped) => {}
                Some(Piece::Lost(len)) => {
                    connection.lost[way.index()] += len;
                    self.handler.gap(connection, state, way, len, self.at);
                }
                Some(Piece::Data(bytes)) => {
                    if !self.handler.wants(state, way) {
                        continue;
                    }
                    if self.handler.data(connection, state, way, &bytes, self.at) == Turn::Around {
                        let connection = &mut self.stream.connection;
                        core::mem::swap(&mut connection.client, &mut connection.server);
                        connection.from_start.swap(0, 1);
                        connection.bytes.swap(0, 1);
                        connection.lost.swap(0, 1);
                        self.stream.directions.swap(0, 1);
                        way = way.reverse();
                    }
                }
            }
        }
    }

    fn reset(&mut self, way: Way) {
        let end = if way == Way::ToServer { End::ClientReset } else { End::BackendReset };
        self.stream.connection.end.get_or_insert(end);
        self.tell_end();
    }

    fn end_of_stream(&mut self, way: Way, segment: &Segment<'_>) {
        let stream = &mut *self.stream;
        if segment.has(Segment::FIN) {
            let end = segment.seq + (segment.payload.len() + segment.missing) as u32;
            stream.directions[way.index()].finish_at(end);
        }
        if stream.directions.iter().all(Direction::finished) {
            stream.connection.end.get_or_insert(End::Fin);
            self.tell_end();
        }
    }

    fn tell_end(&mut self) {
        if self.stream.told {
            return;
        }
        self.stream.told = true;
        for way in [Way::ToServer, Way::ToClient] {
            self.drain(way, true);
        }
        for (direction, lost) in self.stream.directions.iter_mut().zip(&mut self.stream.connection.lost) {
            *lost += direction.missing_tail();
            *self.waiting -= direction.waiting();
            direction.close();
        }
        self.handler.ended(&self.stream.connection, &mut self.stream.state);
    }
}

#[cfg(test)]
mod tests;
