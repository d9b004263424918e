//! Hellos that come after their backend was chosen, read in passing: see [`tls::late`](crate::tls::late).

use super::Engine;
use super::trail::{self, What};
use crate::flow::{BufferPool, FlowId, Side};
use crate::tcp::connection::State;
use crate::tcp::{Arrived, Class};
use crate::time::Time;
use crate::tls::Late;
use crate::tls::late::{Read, begins_a_hello, end, over, read, unread};
use crate::wire::Frame;
use crate::wire::packet::Flags;
use lb::affinity::host_tag;
use lb::{IdentityKind, Lookup};
use ssl_parse::{HelloWalk, Outcome};

impl Engine {
    /// A segment of a client whose hello may still come, on its way to the server, plausible or not. As with every hello nothing is
    /// learned when the server may get another one than is read here: see
    /// [`FlightReading::client_sends`](crate::tls::flights::FlightReading::client_sends).
    #[cold]
    pub(super) fn read_late(&mut self, id: FlowId, seg: &Arrived, frame: &Frame<'_>) {
        let (seq, now) = (seg.tcp.seq, seg.now);
        let payload = &frame.bytes()[seg.tcp.payload..seg.tcp.end];
        let (hot, c) = self.flows.both(id);
        let Some(through) = &hot.through else { return };
        let window = through.window(Side::Client);
        let (start, acked) = (c.isn + 1, window.acked);
        let whole = frame.tcp_is_intact(&seg.ip) && window.plausible(seq, payload.len() as u32);
        let plain = whole && !seg.tcp.flags.contains(Flags::URG);
        let place = match c.late {
            Late::No => return,
            Late::Begun(place) => Some(place),
            Late::Awaited | Late::Unclear if whole && seq == start && !payload.is_empty() => {
                let unclear = c.late == Late::Unclear || !plain;
                match read(payload, &mut self.joined, self.config.keep_names) {
                    // There is nothing to be learned from it but that it is one.
                    Read::More if unclear && begins_a_hello(payload) => return self.unread_late(id, Class::Secure),
                    Read::More => self.place_for_late(id, begins_a_hello(payload), unclear, now),
                    found => return self.late_hello(id, found, payload.len(), unclear, now),
                }
            }
            Late::Awaited | Late::Unclear => {
                if !plain || (seq + payload.len() as u32).is_after(acked) {
                    c.late = Late::Unclear;
                }
                return;
            }
        };
        let Engine { lates, buffers, joined, config, .. } = self;
        let Some(begun) = place.and_then(|p| lates.get_mut(p)) else { return };
        if plain && !(seq + payload.len() as u32).is_after(acked) {
            // The server has it.
            return;
        }
        begun.unclear |= !plain || seq != begun.stream.next_seq();
        if !whole {
            return;
        }
        let inserted = begun.stream.insert(buffers, seq, payload);
        let (bytes, unclear) = (begun.stream.contiguous(buffers), begun.unclear);
        let total = bytes.len();
        let found = match begun.walk.advance(bytes) {
            Outcome::NeedMore => Read::More,
            _ => read(bytes, joined, config.keep_names),
        };
        match found {
            Read::More if inserted.no_buffer || inserted.gap_full || inserted.overflow => {
                self.counters.unwatched += 1;
                self.late_over(id);
            }
            Read::More => {}
            found => self.late_hello(id, found, total, unclear, now),
        }
    }

    /// The same for what was held while the backend was dialled, at the moment when that is spliced.
    pub(super) fn read_late_held(&mut self, id: FlowId, now: Time) {
        let Engine { flows, buffers, joined, config, .. } = self;
        let c = flows.get(id);
        let State::Spliced(Some(unacked)) = &c.state else { return };
        let held = unacked.stream.contiguous(buffers);
        if c.late == Late::No || held.is_empty() {
            return;
        }
        let unclear = unacked.urgent.is_some();
        let found = read(held, joined, config.keep_names);
        if !matches!(found, Read::More) {
            let total = held.len();
            return self.late_hello(id, found, total, unclear, now);
        }
        // It is about to leave its buffer, and goes into another.
        let (start, n) = (c.isn + 1, held.len().min(joined.len()));
        let mut walk = HelloWalk::default();
        _ = walk.advance(&held[..n]);
        joined[..n].copy_from_slice(&held[..n]);
        let Some(place) = self.place_for_late(id, walk.is_hello(), unclear, now) else { return };
        let Engine { lates, buffers, joined, .. } = self;
        if let Some(begun) = lates.get_mut(place) {
            begun.walk = walk;
            begun.stream.insert(buffers, start, &joined[..n]);
        }
    }

    /// A place to put the hello together; none when there is none, and the flow is not followed. `hello`: it is known to be one.
    fn place_for_late(&mut self, id: FlowId, hello: bool, unclear: bool, now: Time) -> Option<u8> {
        let start = self.flows.get(id).isn + 1;
        let client = host_tag(self.client_identity(self.asker(id)?.client));
        // Those who come in time need the buffers more.
        let spare = |buffers: &BufferPool, hellos| buffers.available() > hellos / 2;
        let hellos = self.config.limits.hellos;
        if (self.lates.is_full() || !spare(&self.buffers, hellos))
            && let Some(flow) = self.lates.to_give_way(client, now)
        {
            self.counters.unwatched += 1;
            self.late_over(flow);
        }
        let spare = spare(&self.buffers, hellos);
        let place = if spare { self.lates.open(id, client, start, unclear, now) } else { None };
        match place {
            Some(place) => self.flows.get_mut(id).late = Late::Begun(place),
            None => {
                self.counters.unwatched += 1;
                self.unread_late(id, if hello { Class::Secure } else { Class::NonSecure });
            }
        }
        place
    }

    /// A hello is waited for no more.
    fn late_over(&mut self, id: FlowId) {
        let Engine { flows, lates, buffers, counters, .. } = self;
        let c = flows.get_mut(id);
        c.record.class = over(&mut c.late, lates, buffers, counters).or(c.record.class);
    }

    /// What has come is not read, or not all of it.
    fn unread_late(&mut self, id: FlowId, class: Class) {
        let Engine { flows, lates, buffers, counters, .. } = self;
        let c = flows.get_mut(id);
        c.record.class = unread(&mut c.late, class, lates, buffers, counters).or(c.record.class);
    }

    /// It has come: so many bytes of the client's were read, and it is `unclear` whether the server gets the same. What the server answers is
    /// read as if it had come in time; to whom the table would have led it is not told, for nobody was asked.
    fn late_hello(&mut self, id: FlowId, found: Read, total: usize, unclear: bool, now: Time) {
        let hello = match found {
            Read::Hello(offer, name) => Some((offer, name)),
            Read::Unreadable => return self.unread_late(id, Class::Secure),
            Read::NotTls | Read::More => None,
        };
        let class = if hello.is_some() { Class::Secure } else { Class::NonSecure };
        let Engine { flows, lates, buffers, counters, .. } = self;
        let c = flows.get_mut(id);
        c.record.class = end(&mut c.late, class, lates, buffers, counters).or(c.record.class);
        let Some((offer, name)) = hello else { return };
        let Some(asker) = self.asker(id) else { return };
        let client = self.client_identity(asker.client);
        let service = self.directory.service(self.flows.get(id).record.service);
        let id_known = service.is_some_and(|s| s.policy().affinity) && {
            let found =
                self.affinity.lookup_of(Some(client), offer.identities(), super::share::session_time(now), |_| true);
            found.decision.is_some_and(|d| d.reason.kind() == IdentityKind::SessionId)
        };
        let c = self.flows.get_mut(id);
        let start = c.cookie + 1;
        c.record.keep_name(name);
        c.record.id_decided = id_known;
        c.record.offered = offer.kinds(id_known, None, None).into();
        let behind = c.isn + 1 + offer.wire_len() as u32;
        let more = total > offer.wire_len();
        let number = c.record.number;
        *self.flights.draft_mut() = offer;
        self.note(id, What::LateHello, now);
        trail::note_offer(&mut self.trails, number, self.flights.draft().identities(), &Lookup::default(), None);
        self.open_flight(id, client, id_known, start, now);
        let Engine { flows, flights, .. } = self;
        let Some(reading) = flows.get(id).flight.and_then(|flight| flights.get_mut(flight)) else { return };
        if unclear {
            reading.flight.distrust();
        } else if more {
            reading.flight.second_is_unclear();
        }
        reading.released(behind, &[], now);
    }
}
