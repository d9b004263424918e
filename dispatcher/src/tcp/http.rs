//! A connection's part in reading its requests and responses in passing.

use super::Arrived;
use super::connection::{Connection, State};
use super::flight::Passers;
use super::hot::Through;
use crate::flow::{BufferPool, Side};
use crate::http::Readings;
use crate::time::Time;
use crate::wire::packet::Flags;
use crate::wire::{Frame, Seq};
use lb::Sighting;

/// What a client sends to its server: whatever is passed on, plausible or not.
#[cold]
pub fn client_sends(through: &Through, c: &Connection, seg: &Arrived, frame: &Frame<'_>, readings: &mut Readings) {
    let Some(reading) = c.http.and_then(|id| readings.get_mut(id)) else { return };
    let plain = !seg.tcp.flags.contains(Flags::URG) && frame.tcp_is_intact(&seg.ip);
    let payload = &frame.bytes()[seg.tcp.payload..seg.tcp.end];
    reading.client_sends(seg.tcp.seq, payload, through.window(Side::Client).acked, plain);
}

/// What was held is given to the backend: from now on its answer is awaited.
pub fn released(c: &Connection, buffers: &BufferPool, readings: &mut Readings, now: Time) {
    let (Some(id), State::Spliced(Some(unacked))) = (c.http, &c.state) else { return };
    let Some((reading, _)) = readings.heard(id, now) else { return };
    reading.released(unacked.stream.base(), unacked.stream.contiguous(buffers), unacked.urgent.is_none());
}

/// What the server sends, at `seq` in the client's numbers.
pub fn server_sends(c: &mut Connection, seq: Seq, seg: &Arrived, frame: &Frame<'_>, passers: &mut Passers<'_>) {
    let Passers { buffers, readings, affinity, counters, seen: Some((backend, when)), .. } = passers else { return };
    let Some((reading, client)) = c.http.and_then(|id| readings.heard(id, seg.now)) else { return };
    let payload = &frame.bytes()[seg.tcp.payload..seg.tcp.end];
    let seen = Sighting { backend: *backend, client, now: *when };
    let in_order = reading.stream.accept_in_order(seq, payload);
    // Of a body that is passed over nothing is believed.
    let passed_over = in_order.is_some_and(|fresh| reading.skips() >= fresh.len() as u64);
    let intact = passed_over || frame.tcp_is_intact(&seg.ip) && !seg.tcp.flags.contains(Flags::URG);
    let more = match in_order {
        // Its receiver drops it, and hears it again.
        _ if !intact => true,
        Some(fresh) => {
            reading.stream.advance(fresh.len());
            reading.feed(fresh, affinity, seen)
        }
        None => {
            let inserted = reading.stream.insert(buffers, seq, payload);
            if inserted.no_buffer || inserted.gap_full || inserted.overflow {
                // Too much out of order to be followed.
                counters.unwatched += 1;
                false
            } else {
                let n = reading.stream.contiguous_len();
                let more = n == 0 || reading.feed_held(buffers, affinity, seen);
                reading.stream.consume(buffers, n);
                more
            }
        }
    };
    if !more {
        close(c, readings, buffers);
    }
}

/// Ends the reading, and notes what it showed.
pub fn close(c: &mut Connection, readings: &mut Readings, buffers: &mut BufferPool) {
    let Some(id) = c.http.take() else { return };
    let record = &mut c.record;
    readings.close(id, buffers, |reading| record.resumed = reading.resumed());
}
