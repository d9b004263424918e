//! Hellos that come after their backend was chosen.
//!
//! A client that says nothing within its time gets a backend without one, for the server may be the one to speak first. If it says a
//! hello after all, too late to lead it anywhere, the hello is read in passing: what the server answers teaches as much as any other
//! answer, and a loss that affinity suffers by it shows in the statistics. A server that speaks first ends the waiting: it speaks no TLS.
//!
//! A hello in one segment, as most are, needs no memory. Others are put together in a few places, each with a buffer of the hellos'.
//! A place is taken by the first bytes only: what is damaged or out of order takes none.
//! **And when full?** The oldest of the client that holds most gives way, if that holds more than the newcomer; else one that has stood for
//! longer than a hello takes; is there none, the newcomer is not followed (`unwatched`).

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
use lb::affinity::host_tag;
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
    /// Its first bytes have not come, and others have, or damaged ones: the server may get something else than is read here.
    Unclear,
    /// Part of it has come; the place where it is put together.
    Begun(u8),
}

#[derive(Debug)]
struct Begun {
    flow: FlowId,
    client: u16,
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
    /// Places held, by client.
    held: Box<[u8]>,
}

impl Lates {
    /// All places free.
    pub fn new() -> Lates {
        Lates { places: (0..PLACES).map(|_| None).collect(), held: vec![0; 1 << 16].into_boxed_slice() }
    }

    fn is_full(&self) -> bool {
        self.places.iter().all(Option::is_some)
    }

    /// The flow that has to leave its place for another of `client`: the oldest of who holds most. At once if that would still hold as many
    /// as `client` does then; otherwise when it has its place for long enough.
    fn to_give_way(&self, client: u16, now: Time) -> Option<FlowId> {
        let held = |client: u16| self.held[usize::from(client)];
        let rank = |b: &&Begun| (core::cmp::Reverse(held(b.client)), b.since);
        let heaviest = self.places.iter().flatten().min_by_key(rank)?;
        if held(heaviest.client) > held(client) + 1 {
            return Some(heaviest.flow);
        }
        let old = |b: &&Begun| now.since(b.since) >= KEEP;
        self.places.iter().flatten().filter(old).min_by_key(rank).map(|b| b.flow)
    }

    fn open(&mut self, flow: FlowId, client: u16, start: Seq, unclear: bool, now: Time) -> Option<u8> {
        let place = self.places.iter().position(Option::is_none)?;
        self.held[usize::from(client)] += 1;
        self.places[place] = Some(Begun {
            flow,
            client,
            since: now,
            stream: Assembler::lazy(start, 0),
            walk: HelloWalk::default(),
            unclear,
        });
        Some(place as u8)
    }

    fn close(&mut self, place: u8, buffers: &mut BufferPool) {
        if let Some(mut begun) = self.places[usize::from(place)].take() {
            self.held[usize::from(begun.client)] -= 1;
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

fn begins_a_hello(bytes: &[u8]) -> bool {
    let mut walk = HelloWalk::default();
    _ = walk.advance(bytes);
    walk.is_hello()
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
        let plain = whole && !seg.tcp.flags.contains(Flags::URG);
        let place = match c.late {
            Late::No => return,
            Late::Begun(place) => Some(place),
            Late::Awaited | Late::Unclear if whole && seq == start && !payload.is_empty() => {
                let unclear = c.late == Late::Unclear || !plain;
                match read(payload, &mut self.joined, self.config.keep_names) {
                    // There is nothing to be learned from it but that it is one.
                    Read::More if unclear && begins_a_hello(payload) => return self.unread_late(id, Class::Secure),
                    Read::More => self.begin_late(id, payload, unclear, now),
                    found => return self.late_hello(id, found, payload.len(), unclear, now),
                }
            }
            Late::Awaited | Late::Unclear => {
                if !plain || (seq + payload.len() as u32).is_after(acked) {
                    self.flows.get_mut(id).late = Late::Unclear;
                }
                return;
            }
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
        let mut walk = HelloWalk::default();
        _ = walk.advance(&held[..n]);
        joined[..n].copy_from_slice(&held[..n]);
        let Some(place) = self.place_for_late(id, walk.is_hello(), unclear, now) else { return };
        let Engine { lates, buffers, joined, .. } = self;
        if let Some(begun) = &mut lates.places[usize::from(place)] {
            begun.walk = walk;
            begun.stream.insert(buffers, start, &joined[..n]);
        }
    }

    /// A place to put together the hello that begins with `head`.
    fn begin_late(&mut self, id: FlowId, head: &[u8], unclear: bool, now: Time) -> Option<u8> {
        self.place_for_late(id, begins_a_hello(head), unclear, now)
    }

    /// A place to put the hello together; none when there is none, and the flow is not followed. `hello`: it is known to be one.
    fn place_for_late(&mut self, id: FlowId, hello: bool, unclear: bool, now: Time) -> Option<u8> {
        let start = self.flows.get(id).isn + 1;
        let tuple = *self.flows.tuple(id, Side::Client)?;
        let client = host_tag(self.client_identity(&tuple));
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

    /// The flow is over, or not followed any more, or its server has spoken: what has not come by now does not come.
    pub(super) fn late_over(&mut self, id: FlowId) {
        let hello = match self.flows.get(id).late {
            Late::Begun(place) => self.lates.places[usize::from(place)].as_ref().is_some_and(|b| b.walk.is_hello()),
            _ => false,
        };
        self.unread_late(id, if hello { Class::Secure } else { Class::NonSecure });
    }

    /// What has come is not read, or not all of it.
    fn unread_late(&mut self, id: FlowId, class: Class) {
        let awaited = self.flows.get(id).late != Late::No;
        self.counters.hellos_unread += u64::from(awaited && class == Class::Secure);
        self.end_late(id, class);
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
            Read::Unreadable => return self.unread_late(id, Class::Secure),
            Read::NotTls | Read::More => return self.end_late(id, Class::NonSecure),
        };
        self.end_late(id, Class::Secure);
        let Some(tuple) = self.flows.tuple(id, Side::Client).copied() else { return };
        let service = self.directory.service(self.flows.get(id).story.service);
        let id_known = service.is_some_and(|s| s.policy().affinity) && {
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
