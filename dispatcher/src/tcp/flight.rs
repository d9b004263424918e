//! A connection's part in reading its server's first flight in passing.

use super::Arrived;
use super::connection::{Connection, State};
use super::hot::Through;
use crate::backends::Noticed;
use crate::counters::Counters;
use crate::flow::{BufferPool, Side};
use crate::http::Readings;
use crate::time::Time;
use crate::tls::{Lates, ServerFlights};
use crate::wire::packet::Flags;
use crate::wire::{Frame, Seq};
use core::num::NonZeroU16;
use lb::{Affinity, BackendId, Millis, Sighting};

/// What is at hand to read in passing, and to be given back.
pub struct Passers<'a> {
    /// Hello bytes that are ours, and streams out of order.
    pub buffers: &'a mut BufferPool,
    /// Servers' answers being read.
    pub flights: &'a mut ServerFlights,
    /// Requests and responses being read.
    pub readings: &'a mut Readings,
    /// Hellos that came late.
    pub lates: &'a mut Lates,
    /// What is learned,
    pub affinity: &'a mut Affinity,
    /// what is shown of backends,
    pub noticed: &'a mut Noticed,
    /// if the segment is of a server's answer: of whom and when.
    pub seen: Option<(BackendId, Millis)>,
    /// What is counted.
    pub counters: &'a mut Counters,
}

/// What a client sends while its server's answer is awaited: whatever is passed on, plausible or not.
#[cold]
pub fn client_sends(through: &Through, c: &Connection, seg: &Arrived, frame: &Frame<'_>, flights: &mut ServerFlights) {
    let Some(reading) = c.flight.and_then(|f| flights.get_mut(f)) else { return };
    let plain = !seg.tcp.flags.contains(Flags::URG) && frame.tcp_is_intact(&seg.ip);
    let payload = &frame.bytes()[seg.tcp.payload..seg.tcp.end];
    reading.client_sends(seg.tcp.seq, payload, through.window(Side::Client).acked, plain);
}

/// What was held is given to the backend: from now on its answer is awaited.
pub fn released(c: &Connection, buffers: &BufferPool, flights: &mut ServerFlights, now: Time) {
    let (Some(flight), State::Spliced(Some(unacked))) = (c.flight, &c.state) else { return };
    let Some((reading, _)) = flights.heard(flight, now) else { return };
    let len = reading.flight.offer().wire_len();
    let all = unacked.stream.contiguous(buffers);
    let held = all.get(len..).unwrap_or_default();
    if unacked.urgent.is_some() {
        reading.flight.distrust();
    }
    reading.remember(unacked.stream.base(), all);
    reading.released(unacked.stream.base() + len as u32, held, now);
}

/// What the server sends, at `seq` in the client's numbers.
pub fn server_sends(c: &mut Connection, seq: Seq, payload: &[u8], now: Time, passers: &mut Passers<'_>) {
    let Passers { buffers, flights, affinity, noticed, counters, seen: Some((backend, when)), .. } = passers else {
        return;
    };
    let Some((reading, client)) = c.flight.and_then(|f| flights.heard(f, now)) else { return };
    let seen = Sighting { backend: *backend, client, now: *when };
    let more = match reading.stream.accept_in_order(seq, payload) {
        Some(fresh) => {
            reading.stream.advance(fresh.len());
            reading.flight.feed(fresh, affinity, seen)
        }
        None => {
            let inserted = reading.stream.insert(buffers, seq, payload);
            if inserted.no_buffer || inserted.gap_full || inserted.overflow {
                // Too much out of order to be followed.
                counters.unwatched += 1;
                false
            } else {
                let more = reading.flight.feed(reading.stream.contiguous(buffers), affinity, seen);
                let n = reading.stream.contiguous_len();
                reading.stream.consume(buffers, n);
                more
            }
        }
    };
    reading.was_read(now);
    if reading.took().is_some() {
        noticed.spoke_tls(*backend);
    }
    if !more {
        close(c, flights, buffers);
    }
}

/// Ends the reading, and notes what it showed.
pub fn close(c: &mut Connection, flights: &mut ServerFlights, buffers: &mut BufferPool) {
    let Some(flight) = c.flight.take() else { return };
    let record = &mut c.record;
    flights.close(flight, buffers, |reading| {
        let flight = &reading.flight;
        reading.took().into_iter().for_each(|took| record.times.shook_hands(took));
        record.version = flight.version().and_then(NonZeroU16::new);
        record.resumed = flight.resumed();
        record.offered = flight.offer().kinds(record.id_decided, flight.version(), record.resumed).into();
    });
}
