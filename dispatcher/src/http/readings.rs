//! A bounded pool of connections whose requests and responses are being read in passing.

use super::{Pending, Requests, Responses};
use crate::flow::watches::{Patience, WatchId, Watches};
use crate::flow::{Assembler, BufferPool, FlowId};
use crate::pack::{Pack, Packer, Unpacker, Unreadable};
use crate::time::Time;
use crate::wire::Seq;
use arrayvec::ArrayVec;
use core::time::Duration;
use lb::Identity;

/// A connection in which the server has said nothing for so long is not read any further: as long as servers keep one open between two requests.
pub const QUIET: Duration = Duration::from_secs(60);
/// Nor is one that lasts for so long.
pub const LONGEST: Duration = Duration::from_secs(600);
/// Bytes of a client's stream that are remembered to know them again, the last ones: a request with its cookies, as a rule.
const REMEMBERED: usize = 2048;

/// One connection: both readers, the server's stream put in order, and the end of the client's.
#[derive(Debug)]
pub struct Reading {
    responses: Responses,
    requests: Requests,
    pending: Pending,
    /// The server's stream, in the client's numbers. Takes a buffer only behind a gap.
    pub stream: Assembler,
    /// Up to here the client's stream was read.
    read_to: Seq,
    /// The last bytes before that.
    said: ArrayVec<u8, REMEMBERED>,
}

impl Reading {
    fn new() -> Reading {
        Reading {
            responses: Responses::default(),
            requests: Requests::default(),
            pending: Pending::new(),
            stream: Assembler::lazy(Seq(0), 0),
            read_to: Seq(0),
            said: ArrayVec::new(),
        }
    }

    fn pack(&self, buffers: &BufferPool, to: &mut Packer) {
        let Reading { responses, requests, pending, stream, read_to, said } = self;
        responses.pack(to);
        requests.pack(to);
        pending.pack(to);
        read_to.pack(to);
        to.block(said);
        stream.pack(buffers, to);
    }

    /// The inverse, where it lies. Last what takes a buffer, so that none is taken for what cannot be read.
    fn unpack(&mut self, buffers: &mut BufferPool, from: &mut Unpacker<'_>) -> Result<(), Unreadable> {
        self.responses.unpack(from)?;
        self.requests.unpack(from)?;
        self.pending = Pack::unpack(from)?;
        self.read_to = Pack::unpack(from)?;
        from.block_into(&mut self.said)?;
        self.stream = Assembler::unpack(buffers, from)?;
        Ok(())
    }

    /// The backend has answered and is given what is held, from `begin` on. `clear`: it gets nothing else.
    pub fn released(&mut self, begin: Seq, held: &[u8], clear: bool) {
        self.read_to = begin + held.len() as u32;
        self.remember(held);
        if clear {
            self.requests.feed(held, &mut self.pending);
        } else {
            self.distrust();
        }
    }

    /// A segment of the client's on its way to the server, which has everything before `acked`. What the server has not acknowledged it may get as this
    /// segment says it, not as the one before did: then nobody knows what it reads. The same of one that is not `plain`: damaged, or with urgent data.
    pub fn client_sends(&mut self, seq: Seq, payload: &[u8], acked: Seq, plain: bool) {
        if plain && !(seq + payload.len() as u32).is_after(acked) {
            return;
        }
        if !plain {
            return self.distrust();
        }
        if seq.is_after(self.read_to) {
            // Behind a gap. What comes in it is not the next for this one.
            return self.requests.lose();
        }
        // A client that does not hear from the server at once says its last segment again (RFC 8985), and perhaps more behind it: the same.
        let old = usize::try_from(seq.distance_to(self.read_to)).unwrap_or(0).min(payload.len());
        let (old, new) = payload.split_at(old);
        if !old.is_empty() && !self.has_said(seq, old) {
            return self.distrust();
        }
        self.read_to += new.len() as u32;
        // What is not followed any more needs not be known again, but for what the first response answers.
        if !self.responses.has_answered() || self.requests.is_followed() {
            self.remember(new);
        }
        self.requests.feed(new, &mut self.pending);
    }

    /// The server may have got other requests than those that were read.
    fn distrust(&mut self) {
        self.requests.lose();
        self.pending.clear();
        self.responses.distrust();
    }

    fn remember(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(REMEMBERED)..];
        let over = (self.said.len() + bytes.len()).saturating_sub(REMEMBERED);
        self.said.drain(..over);
        // As many as there is room for now.
        _ = self.said.try_extend_from_slice(bytes);
    }

    /// The client has said these bytes at their place.
    fn has_said(&self, seq: Seq, payload: &[u8]) -> bool {
        let begin = self.read_to - self.said.len() as u32;
        usize::try_from(begin.distance_to(seq))
            .ok()
            .and_then(|at| self.said.get(at..at + payload.len()))
            .is_some_and(|same| same == payload)
    }

    /// The server's stream is next read here, where the reader of responses stands: see [`Responses::feed`].
    pub fn feed(&mut self, bytes: &[u8], affinity: &mut lb::Affinity, seen: lb::Sighting) -> bool {
        self.responses.feed(bytes, &mut self.pending, affinity, seen)
    }

    /// The same of what has come in order in the stream's own buffer.
    pub fn feed_held(&mut self, buffers: &BufferPool, affinity: &mut lb::Affinity, seen: lb::Sighting) -> bool {
        self.responses.feed(self.stream.contiguous(buffers), &mut self.pending, affinity, seen)
    }

    /// So many bytes of the server's are passed over whatever they are.
    pub fn skips(&self) -> u64 {
        self.responses.skips()
    }

    /// See [`Responses::resumed`].
    pub fn resumed(&self) -> Option<bool> {
        self.responses.resumed()
    }
}

/// All places, and what the request at hand offers.
#[derive(Debug)]
pub struct Readings {
    places: Watches<Reading>,
    /// What a client offers that is being asked for.
    pub draft: ArrayVec<Identity, { super::MAX_COOKIES }>,
}

impl Readings {
    /// `count` places, all memory taken now.
    pub fn new(count: usize) -> Readings {
        Readings { places: Watches::new(count, Patience { quiet: QUIET, longest: LONGEST }), draft: ArrayVec::new() }
    }

    /// Where there were none, there are `count` from now on: some service wants them.
    pub fn provide(&mut self, count: usize) {
        if self.places.is_none() {
            *self = Readings::new(count);
        }
    }

    /// Bytes that `count` places take.
    pub const fn bytes_for(count: usize) -> usize {
        Watches::<Reading>::bytes_for(count)
    }

    /// See [`Watches::next_to_yield`].
    pub fn next_to_yield(&mut self, now: Time) -> Option<FlowId> {
        self.places.next_to_yield(now)
    }

    /// The server of `flow` is about to be asked, its first byte at `start`; the client, `client` (see [`lb::Sighting::client`]), offers `offered`. Cookies of this
    /// name are learned. `None` when all places are taken.
    pub fn open(
        &mut self,
        flow: FlowId,
        client: u64,
        (name, offered): (&[u8], Option<Identity>),
        start: Seq,
        now: Time,
    ) -> Option<WatchId> {
        let (id, place) = self.places.open(flow, client, now)?;
        let reading = place.get_or_insert_with(Reading::new);
        reading.responses.restart(name, offered);
        reading.requests.restart();
        reading.pending.clear();
        reading.stream = Assembler::lazy(start, 0);
        reading.read_to = Seq(0);
        reading.said.clear();
        Some(id)
    }

    /// One that is open, whose server has said something; and who its client is.
    pub fn heard(&mut self, id: WatchId, now: Time) -> Option<(&mut Reading, u64)> {
        self.places.heard(id, now)
    }

    /// One that is open.
    pub fn get_mut(&mut self, id: WatchId) -> Option<&mut Reading> {
        self.places.get_mut(id)
    }

    /// Writes one, for [`Readings::take_over`].
    pub fn pack(&self, id: WatchId, buffers: &BufferPool, to: &mut Packer) {
        self.places.pack(id, to, |reading, to| reading.pack(buffers, to));
    }

    /// Takes over what another process was reading of `flow`; none when there is no place for it, or no buffer.
    pub fn take_over(
        &mut self,
        flow: FlowId,
        buffers: &mut BufferPool,
        from: &mut Unpacker<'_>,
    ) -> Result<Option<WatchId>, Unreadable> {
        let unpack = |place: &mut Option<Reading>, from: &mut Unpacker<'_>| {
            place.get_or_insert_with(Reading::new).unpack(buffers, from)
        };
        self.places.take_over(flow, from, unpack)
    }

    /// Done: `note` hears what it has shown, and the place is free again.
    pub fn close(&mut self, id: WatchId, buffers: &mut BufferPool, note: impl FnOnce(&Reading)) {
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

/// What a place takes: docs/ARCHITECTURE.md says it, in round numbers.
const _: () = assert!(size_of::<Option<Reading>>() <= 6 * 1024);
