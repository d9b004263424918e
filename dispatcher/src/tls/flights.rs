//! A bounded pool of [`ServerFlight`]s: server answers that are being read in passing.
//!
//! A peer that falls silent in the middle of a handshake keeps its place for `QUIET` only, and no handshake keeps one for longer
//! than [`LONGEST`]. When it is full one gives way as [`Watches`] says: whoever stalls thousands of handshakes stops learning from his own, not from those of others.

use super::{OfferedSessions, ServerFlight};
use crate::flow::watches::{Patience, WatchId, Watches};
use crate::flow::{Assembler, BufferPool, FlowId};
use crate::pack::{Pack, Packer, Unpacker, Unreadable};
use crate::time::Time;
use crate::wire::Seq;
use arrayvec::ArrayVec;
use core::time::Duration;

/// A handshake in which the server has said nothing for so long is not followed any further.
pub const QUIET: Duration = Duration::from_secs(10);
/// Nor is one that takes so long in all.
pub const LONGEST: Duration = Duration::from_secs(30);
/// Bytes of a client's stream that are remembered to know them again: a hello with post-quantum shares and a ticket, as a rule.
const REMEMBERED: usize = 2048;

/// A place in the pool.
pub type FlightId = WatchId;

/// One server's answer: the reader, and its stream put in order.
#[derive(Debug)]
pub struct FlightReading {
    /// The reader.
    pub flight: ServerFlight,
    /// The server's stream, in the client's numbers. Takes a buffer only behind a gap.
    pub stream: Assembler,
    /// When the server was given the client's hello, and how long it then took to its own.
    given_at: Time,
    took: Option<Duration>,
    /// Behind the client's first hello.
    hello_end: Seq,
    /// Up to here the client's stream was read.
    read_to: Seq,
    /// What the backend was given of it: the first [`REMEMBERED`] bytes, and where they begin.
    given: (Seq, ArrayVec<u8, REMEMBERED>),
}

impl FlightReading {
    fn new() -> FlightReading {
        FlightReading {
            flight: ServerFlight::new(OfferedSessions::default(), false),
            stream: Assembler::lazy(Seq(0), 0),
            given_at: Time::ZERO,
            took: None,
            hello_end: Seq(0),
            read_to: Seq(0),
            given: (Seq(0), ArrayVec::new()),
        }
    }

    fn pack(&self, buffers: &BufferPool, to: &mut Packer) {
        let FlightReading { flight, stream, given_at, took, hello_end, read_to, given: (begin, given) } = self;
        flight.pack(to);
        (*given_at, *took).pack(to);
        (*hello_end, *read_to).pack(to);
        begin.pack(to);
        to.block(given);
        stream.pack(buffers, to);
    }

    /// The inverse, in its place. Last what takes a buffer, so that none is taken for what cannot be read.
    fn unpack(&mut self, buffers: &mut BufferPool, from: &mut Unpacker<'_>) -> Result<(), Unreadable> {
        self.flight.unpack(from)?;
        (self.given_at, self.took) = Pack::unpack(from)?;
        (self.hello_end, self.read_to) = Pack::unpack(from)?;
        self.given.0 = Pack::unpack(from)?;
        from.block_into(&mut self.given.1)?;
        self.stream = Assembler::unpack(buffers, from)?;
        Ok(())
    }

    /// The backend is given `held`, from `begin` on.
    pub fn remember(&mut self, begin: Seq, held: &[u8]) {
        let (at, given) = &mut self.given;
        *at = begin;
        given.clear();
        // As one copy, and never refused: it is cut to what there is room for.
        _ = given.try_extend_from_slice(&held[..held.len().min(REMEMBERED)]);
    }

    /// These bytes are at their place what the backend was given.
    fn were_given(&self, seq: Seq, payload: &[u8]) -> bool {
        let (begin, given) = &self.given;
        usize::try_from(begin.distance_to(seq))
            .ok()
            .and_then(|at| given.get(at..at + payload.len()))
            .is_some_and(|same| same == payload)
    }

    /// The backend has answered and is given what was held: `held` lies behind the client's first hello, which ends at `hello_end`.
    pub fn released(&mut self, hello_end: Seq, held: &[u8], now: Time) {
        self.given_at = now;
        (self.hello_end, self.read_to) = (hello_end, hello_end);
        if self.flight.reads_client() {
            self.read_to = hello_end + held.len() as u32;
            self.flight.feed_client(held);
        }
    }

    /// What the server has sent was read: its hello may be in it.
    pub fn was_read(&mut self, now: Time) {
        if self.flight.version().is_some() && self.took.is_none() {
            self.took = Some(now.since(self.given_at));
        }
    }

    /// From the client's hello, on its way to the server, to the server's.
    pub fn took(&self) -> Option<Duration> {
        self.took
    }

    /// A segment of the client's on its way to the server, which has everything before `acked`. What the server has not acknowledged
    /// it may get as this segment says it, not as the one before did: then nobody knows what it reads. The same of one that is not
    /// `plain`: damaged, or with urgent data, which TCP may take out of the stream.
    pub fn client_sends(&mut self, seq: Seq, payload: &[u8], acked: Seq, plain: bool) {
        if plain && !(seq + payload.len() as u32).is_after(acked) {
            return;
        }
        // A client that does not hear from the server at once says its last segment again (RFC 8985): the same.
        if plain && self.were_given(seq, payload) {
            return;
        }
        // Urgent data may lie anywhere in what the server has not got yet.
        let first = if plain { seq } else { acked };
        if first.is_before(self.hello_end) {
            return self.flight.distrust();
        }
        let reads = self.flight.reads_client();
        if reads && plain && seq == self.read_to {
            self.flight.feed_client(payload);
            self.read_to += payload.len() as u32;
        } else if reads || !plain || seq.is_before(self.read_to) {
            self.flight.second_is_unclear();
        }
    }
}

/// All places.
#[derive(Debug)]
pub struct ServerFlights {
    places: Watches<FlightReading>,
    /// What the client offers whose server's answer will be read next.
    draft: OfferedSessions,
}

impl ServerFlights {
    /// `count` places, all memory taken now.
    pub fn new(count: usize) -> ServerFlights {
        let patience = Patience { quiet: QUIET, longest: LONGEST };
        ServerFlights { places: Watches::new(count, patience), draft: OfferedSessions::default() }
    }

    /// Bytes that `count` places take.
    pub const fn bytes_for(count: usize) -> usize {
        Watches::<FlightReading>::bytes_for(count)
    }

    /// See [`Watches::next_to_yield`].
    pub fn next_to_yield(&mut self, now: Time) -> Option<FlowId> {
        self.places.next_to_yield(now)
    }

    /// What the client offers for which a place is opened next. It is read here, asked for here, and copied once.
    pub fn draft(&self) -> &OfferedSessions {
        &self.draft
    }

    /// The same, to be read into.
    pub fn draft_mut(&mut self) -> &mut OfferedSessions {
        &mut self.draft
    }

    /// A server is about to answer the [draft](ServerFlights::draft) of `flow`, its first byte at `start`. `client` is who it is, see
    /// [`lb::Sighting::client`]; `id_known` as in [`ServerFlight::new`]. `None` when all places are taken: nothing will be learned from this connection.
    pub fn open(
        &mut self,
        flow: FlowId,
        client: u64,
        id_known: bool,
        start: Seq,
        now: Time,
    ) -> Option<(FlightId, &mut FlightReading)> {
        let (id, place) = self.places.open(flow, client, now)?;
        let reading = place.get_or_insert_with(FlightReading::new);
        reading.flight.restart(&self.draft, id_known);
        reading.stream = Assembler::lazy(start, 0);
        (reading.hello_end, reading.read_to) = (Seq(0), Seq(0));
        (reading.given_at, reading.took) = (now, None);
        reading.given.1.clear();
        Some((id, reading))
    }

    /// One that is open, whose server has said something; and who its client is.
    pub fn heard(&mut self, id: FlightId, now: Time) -> Option<(&mut FlightReading, u64)> {
        self.places.heard(id, now)
    }

    /// One that is open.
    pub fn get_mut(&mut self, id: FlightId) -> Option<&mut FlightReading> {
        self.places.get_mut(id)
    }

    /// Writes one, for [`ServerFlights::take_over`].
    pub fn pack(&self, id: FlightId, buffers: &BufferPool, to: &mut Packer) {
        self.places.pack(id, to, |reading, to| reading.pack(buffers, to));
    }

    /// Takes over what another process was reading of `flow`; none when there is no place for it, or no buffer.
    pub fn take_over(
        &mut self,
        flow: FlowId,
        buffers: &mut BufferPool,
        from: &mut Unpacker<'_>,
    ) -> Result<Option<FlightId>, Unreadable> {
        let unpack = |place: &mut Option<FlightReading>, from: &mut Unpacker<'_>| {
            place.get_or_insert_with(FlightReading::new).unpack(buffers, from)
        };
        self.places.take_over(flow, from, unpack)
    }

    /// Done: `note` hears what it has shown, and the place is free again.
    pub fn close(&mut self, id: FlightId, buffers: &mut BufferPool, note: impl FnOnce(&FlightReading)) {
        if let Some(reading) = self.places.close(id) {
            reading.stream.release(buffers);
            note(reading);
        }
    }

    /// See [`Watches::overdue`].
    pub fn overdue(&mut self, now: Time) -> Option<FlowId> {
        self.places.overdue(now)
    }

    /// Places in use.
    pub fn in_use(&self) -> usize {
        self.places.in_use()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(flights: &mut ServerFlights, flow: u32, client: u16, now: Time) -> Option<FlightId> {
        flights.open(FlowId(flow), u64::from(client), false, Seq(0), now).map(|(id, _)| id)
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn the_oldest_watch_of_the_client_that_holds_most_gives_way() {
        let mut flights = ServerFlights::new(6);
        for (flow, client) in [(1, 7), (2, 9), (3, 9), (4, 8), (5, 9)] {
            assert!(open(&mut flights, flow, client, at(0) + Duration::from_millis(u64::from(flow))).is_some());
        }
        assert_eq!(flights.next_to_yield(at(1)), None, "there is room");
        assert!(open(&mut flights, 6, 8, at(1)).is_some());
        assert!(open(&mut flights, 7, 8, at(1)).is_none());
        assert_eq!(flights.next_to_yield(at(1)), Some(FlowId(2)));
    }

    #[test]
    fn a_watch_is_overdue_ten_seconds_after_the_last_word_and_thirty_after_the_first() {
        let mut flights = ServerFlights::new(300);
        let (talks, _) = (open(&mut flights, 1, 1, at(0)).unwrap(), open(&mut flights, 2, 1, at(0)));
        let all = |flights: &mut ServerFlights, now| -> Vec<u32> {
            (0..3).filter_map(|_| flights.overdue(now).map(|f| f.0)).collect()
        };
        for second in 1..30 {
            assert!(flights.heard(talks, at(second)).is_some());
            let quiet = all(&mut flights, at(second));
            assert_eq!(quiet.contains(&2), second >= 10, "after {second} s");
            assert!(!quiet.contains(&1), "after {second} s");
        }
        flights.heard(talks, at(30));
        assert!(all(&mut flights, at(30)).contains(&1));
        let mut buffers = BufferPool::new(1, 100);
        let mut noted = 0;
        flights.close(talks, &mut buffers, |_| noted += 1);
        // It is nobody's now.
        flights.close(talks, &mut buffers, |_| noted += 1);
        assert!(noted == 1 && flights.get_mut(talks).is_none() && flights.heard(talks, at(30)).is_none());
        assert!(!all(&mut flights, at(30)).contains(&1));
        assert_eq!(flights.in_use(), 1);
    }
}
