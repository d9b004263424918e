//! Hellos that come after their backend was chosen.
//!
//! A client that says nothing within its time gets a backend without one, for the server may be the one to speak first. If it says a
//! hello after all, too late to lead it anywhere, the hello is read in passing: what the server answers teaches as much as any other
//! answer, and a loss that affinity suffers by it shows in the statistics. A server that speaks first ends the waiting: it speaks no TLS.
//!
//! A hello in one segment, as most are, needs no memory. Others are put together in a few places, each with a buffer of the hellos'.
//! **And when full?** One that has stood for longer than a hello takes gives way; is there none, the newcomer is not followed
//! (`unwatched`).

use super::admit::read_offer;
use super::connection::State;
use super::record::Class;
use super::session::{Offer, Watch};
use super::{Arrived, Engine, choose};
use crate::flow::{Assembler, BufferPool, FlowId, Side};
use crate::time::Time;
use crate::wire::packet::{Flags, tcp_checksum_ok};
use crate::wire::{Frame, Seq};
use core::time::Duration;
use lb::IdentityKind;
use ssl_parse::{HelloWalk, Outcome};

/// Hellos put together at once.
const PLACES: usize = 64;
/// One that takes longer gives way to another.
const KEEP: Duration = Duration::from_secs(1);

/// Whether a flow's hello may still come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Late {
    /// It has come in time, or will not come.
    No,
    /// The client has said nothing yet.
    Awaited,
    /// Part of it has come; the place where it is put together.
    Begun(u8),
}

#[derive(Debug)]
struct Begun {
    flow: FlowId,
    since: Time,
    stream: Assembler,
    walk: HelloWalk,
    /// The server may get other bytes than these.
    unclear: bool,
}

/// Hellos that are put together.
#[derive(Debug)]
pub struct Lates {
    places: Box<[Option<Begun>]>,
}

impl Lates {
    /// All places free.
    pub fn new() -> Lates {
        Lates { places: (0..PLACES).map(|_| None).collect() }
    }

    /// The flow that has to leave its place for another: the one that has it for longest, when that is long enough.
    fn to_give_way(&self, now: Time) -> Option<FlowId> {
        if self.places.iter().any(Option::is_none) {
            return None;
        }
        let oldest = self.places.iter().flatten().min_by_key(|b| b.since)?;
        (now.since(oldest.since) >= KEEP).then_some(oldest.flow)
    }

    fn open(&mut self, flow: FlowId, start: Seq, now: Time) -> Option<u8> {
        let place = self.places.iter().position(Option::is_none)?;
        self.places[place] = Some(Begun {
            flow,
            since: now,
            stream: Assembler::lazy(start, 0),
            walk: HelloWalk::default(),
            unclear: false,
        });
        Some(place as u8)
    }

    fn close(&mut self, place: u8, buffers: &mut BufferPool) {
        if let Some(mut begun) = self.places[usize::from(place)].take() {
            begun.stream.release(buffers);
        }
    }
}

/// What a client's first bytes are.
#[expect(clippy::large_enum_variant, reason = "lives on the stack for a moment")]
enum Read {
    Hello(Offer, Option<Box<str>>),
    /// TLS, and not to be read.
    Unreadable,
    NotTls,
    More,
}

fn read(bytes: &[u8], joined: &mut [u8], keep_names: bool) -> Read {
    match ssl_parse::client_hello(bytes, joined) {
        Outcome::Complete(hello) => {
            let (offer, name) = read_offer(bytes, &hello, keep_names);
            Read::Hello(offer, name)
        }
        Outcome::NotTls => Read::NotTls,
        Outcome::NeedMore => Read::More,
        Outcome::Malformed(_) => Read::Unreadable,
    }
}

impl Engine {
    /// A segment of a client whose hello may still come, on its way to the server, plausible or not. As with every hello nothing is
    /// learned when the server may get another one than is read here: see [`super::watches::Watched::client_sends`].
    #[cold]
    pub(super) fn read_late(&mut self, id: FlowId, seg: &Arrived, frame: &Frame<'_>) {
        let (seq, now) = (seg.tcp.seq, seg.now);
        let payload = &frame.bytes()[seg.tcp.payload..seg.tcp.end];
        let c = self.flows.get(id);
        let direction = &c.directions[Side::Client as usize];
        let (start, acked) = (c.isn + 1, direction.acked);
        let whole = tcp_checksum_ok(frame.bytes(), &seg.ip) && direction.plausible(seq, payload.len() as u32);
        let plain = whole && !seg.tcp.flags.has(Flags::URG);
        let place = match c.late {
            Late::No => return,
            Late::Awaited if plain && seq == start => match read(payload, &mut self.joined, self.config.keep_names) {
                Read::More => self.begin_late(id, start, now),
                found => return self.late_hello(id, found, payload.len(), false, now),
            },
            Late::Awaited => self.begin_late(id, start, now),
            Late::Begun(place) => Some(place),
        };
        let Engine { lates, buffers, joined, config, .. } = self;
        let Some(begun) = place.and_then(|p| lates.places[usize::from(p)].as_mut()) else { return };
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
                self.end_late(id, Class::Secure);
            }
            Read::More => {}
            found => self.late_hello(id, found, total, unclear, now),
        }
    }

    /// The same for what was held while the backend was dialled, at the moment when that is spliced.
    pub(super) fn read_late_held(&mut self, id: FlowId, now: Time) {
        let Engine { flows, buffers, joined, config, .. } = self;
        let c = flows.get(id);
        let State::Spliced(Some(ours)) = &c.state else { return };
        let held = ours.stream.contiguous(buffers);
        if c.late == Late::No || held.is_empty() {
            return;
        }
        let unclear = ours.urgent.is_some();
        let found = read(held, joined, config.keep_names);
        if !matches!(found, Read::More) {
            let total = held.len();
            return self.late_hello(id, found, total, unclear, now);
        }
        // It is about to leave its buffer, and goes into another.
        let (start, n) = (c.isn + 1, held.len().min(joined.len()));
        joined[..n].copy_from_slice(&held[..n]);
        let Some(place) = self.begin_late(id, start, now) else { return };
        let Engine { lates, buffers, joined, .. } = self;
        if let Some(begun) = &mut lates.places[usize::from(place)] {
            begun.unclear = unclear;
            begun.stream.insert(buffers, start, &joined[..n]);
        }
    }

    /// A place to put the hello together; none when there is none, and the flow is not followed.
    fn begin_late(&mut self, id: FlowId, start: Seq, now: Time) -> Option<u8> {
        if let Some(flow) = self.lates.to_give_way(now) {
            self.counters.unwatched += 1;
            self.end_late(flow, Class::Secure);
        }
        // Those who come in time need the buffers more.
        let spare = self.buffers.available() > self.config.limits.hellos / 2;
        let place = if spare { self.lates.open(id, start, now) } else { None };
        match place {
            Some(place) => self.flows.get_mut(id).late = Late::Begun(place),
            None => {
                self.counters.unwatched += 1;
                self.end_late(id, Class::Secure);
            }
        }
        place
    }

    /// The flow is over, or its server has spoken: what has not come by now does not come.
    pub(super) fn late_over(&mut self, id: FlowId) {
        let begun = matches!(self.flows.get(id).late, Late::Begun(_));
        self.end_late(id, if begun { Class::Secure } else { Class::NonSecure });
    }

    /// No hello is waited for any more, for it is known what the stream is.
    fn end_late(&mut self, id: FlowId, class: Class) {
        let c = self.flows.get_mut(id);
        let late = core::mem::replace(&mut c.late, Late::No);
        if late == Late::No {
            return;
        }
        c.story.class = Some(class);
        if let Late::Begun(place) = late {
            self.lates.close(place, &mut self.buffers);
        }
        if class == Class::Secure {
            self.counters.secure += 1;
            self.counters.late_hellos += 1;
        } else {
            self.counters.non_secure += 1;
        }
    }

    /// It has come. What the server answers is read as if it had come in time; to whom the table would have led it is not told, for
    /// nobody was asked.
    /// So many bytes of the client's were read, and it is `unclear` whether the server gets the same.
    fn late_hello(&mut self, id: FlowId, read: Read, total: usize, unclear: bool, now: Time) {
        let (offer, name) = match read {
            Read::Hello(offer, name) => (offer, name),
            Read::Unreadable => return self.end_late(id, Class::Secure),
            Read::NotTls | Read::More => return self.end_late(id, Class::NonSecure),
        };
        self.end_late(id, Class::Secure);
        let Some(tuple) = self.flows.tuple(id, Side::Client).copied() else { return };
        let id_known = self.config.affinity && {
            let client = Some(self.client_identity(&tuple));
            let found = self.affinity.lookup_of(client, offer.identities(), choose::millis(now), |_| true);
            found.decision.is_some_and(|d| d.reason.kind() == IdentityKind::SessionId)
        };
        let c = self.flows.get_mut(id);
        let start = c.cookie + 1;
        c.story.sni = name;
        c.story.id_decided = id_known;
        c.story.offered = offer.kinds(id_known, None, None).iter().map(|k| k.as_str()).collect();
        let end = c.isn + 1 + offer.wire_len() as u32;
        let more = total > offer.wire_len();
        self.open_watch(id, Watch::new(offer, id_known), &tuple, start, now);
        let Engine { flows, watches, .. } = self;
        let Some(watched) = flows.get(id).watch.and_then(|watch| watches.get_mut(watch)) else { return };
        if unclear {
            watched.watch.distrust();
        } else if more {
            watched.watch.second_is_unclear();
        }
        watched.released(end, &[]);
    }
}
