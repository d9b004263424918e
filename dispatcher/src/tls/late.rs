//! Hellos that come after their backend was chosen, put together.
//!
//! A client that says nothing within its time gets a backend without one, for the server may be the one to speak first. If it says a
//! hello after all, too late to lead it anywhere, the hello is read in passing: what the server answers teaches as much as any other
//! answer, and a loss that affinity suffers by it shows in the statistics. A server that speaks first ends the waiting: it speaks no TLS.
//!
//! A hello in one segment, as most are, needs no memory. Others are put together in a few places, each with a buffer of the hellos'.
//! A place is taken by the first bytes only: what is damaged or out of order takes none.
//! **And when full?** The oldest of the client that holds most gives way, if that holds more than the newcomer; else one that has stood for
//! longer than a hello takes; is there none, the newcomer is not followed (`unwatched`).

use super::{Class, OfferedSessions, read_offered};
use crate::counters::Counters;
use crate::flow::{Assembler, BufferPool, FlowId};
use crate::pack::{Pack, Packer, Unpacker, Unreadable};
use crate::time::Time;
use crate::wire::Seq;
use core::time::Duration;
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

/// One that is put together.
#[derive(Debug)]
pub struct Begun {
    flow: FlowId,
    client: u16,
    since: Time,
    /// What has come.
    pub stream: Assembler,
    /// How far it was followed.
    pub walk: HelloWalk,
    /// The server may get other bytes than these.
    pub unclear: bool,
}

/// Hellos that are put together.
#[derive(Debug)]
pub struct Lates {
    places: Box<[Option<Begun>]>,
    /// Places held, by client.
    held: Box<[u8]>,
}

impl Default for Lates {
    fn default() -> Lates {
        Lates::new()
    }
}

impl Lates {
    /// All places free.
    pub fn new() -> Lates {
        Lates { places: (0..PLACES).map(|_| None).collect(), held: vec![0; 1 << 16].into_boxed_slice() }
    }

    /// No place is free.
    pub fn is_full(&self) -> bool {
        self.places.iter().all(Option::is_some)
    }

    /// What is put together at a place.
    pub fn get_mut(&mut self, place: u8) -> Option<&mut Begun> {
        self.places[usize::from(place)].as_mut()
    }

    /// The flow that has to leave its place for another of `client`: the oldest of who holds most. At once if that would still hold as many
    /// as `client` does then; otherwise when it has its place for long enough.
    pub fn to_give_way(&self, client: u16, now: Time) -> Option<FlowId> {
        let held = |client: u16| self.held[usize::from(client)];
        let rank = |b: &&Begun| (core::cmp::Reverse(held(b.client)), b.since);
        let heaviest = self.places.iter().flatten().min_by_key(rank)?;
        if held(heaviest.client) > held(client) + 1 {
            return Some(heaviest.flow);
        }
        let old = |b: &&Begun| now.since(b.since) >= KEEP;
        self.places.iter().flatten().filter(old).min_by_key(rank).map(|b| b.flow)
    }

    /// A place for a hello that begins at `start`.
    pub fn open(&mut self, flow: FlowId, client: u16, start: Seq, unclear: bool, now: Time) -> Option<u8> {
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

    /// Writes what is put together at a place, for [`Lates::take_over`].
    pub fn pack(&self, place: u8, buffers: &BufferPool, to: &mut Packer) {
        // How far it was followed is seen again.
        if let Some(Some(Begun { flow: _, client, since, stream, walk: _, unclear })) =
            self.places.get(usize::from(place))
        {
            (*client, *since).pack(to);
            unclear.pack(to);
            stream.pack(buffers, to);
        }
    }

    /// Takes over what another process was putting together of `flow`; none when there is no place for it, or no buffer.
    pub fn take_over(
        &mut self,
        flow: FlowId,
        buffers: &mut BufferPool,
        from: &mut Unpacker<'_>,
    ) -> Result<Option<u8>, Unreadable> {
        let (client, since) = <(u16, Time)>::unpack(from)?;
        let unclear = bool::unpack(from)?;
        let mut stream = match Assembler::unpack(buffers, from) {
            Err(Unreadable::NoRoom) => return Ok(None),
            stream => stream?,
        };
        let Some(place) = self.open(flow, client, stream.base(), unclear, since) else {
            stream.release(buffers);
            return Ok(None);
        };
        if let Some(begun) = self.get_mut(place) {
            _ = begun.walk.advance(stream.contiguous(buffers));
            begun.stream = stream;
        }
        Ok(Some(place))
    }

    /// None is waited for, and nothing is said of it.
    pub fn forget(&mut self, late: &mut Late, buffers: &mut BufferPool) {
        if let Late::Begun(place) = core::mem::replace(late, Late::No) {
            self.close(place, buffers);
        }
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
pub enum Read {
    /// A hello, and its server name if somebody wants to know it.
    Hello(OfferedSessions, Option<Box<str>>),
    /// TLS, and not to be read.
    Unreadable,
    /// Something else.
    NotTls,
    /// Not to be told yet.
    More,
}

/// Reads a client's first bytes.
pub fn read(bytes: &[u8], joined: &mut [u8], keep_names: bool) -> Read {
    match ssl_parse::client_hello(bytes, joined) {
        Outcome::Complete(hello) => {
            let (offer, name) = read_offered(bytes, &hello, keep_names);
            Read::Hello(offer, name)
        }
        Outcome::NotTls => Read::NotTls,
        Outcome::NeedMore => Read::More,
        Outcome::Malformed(_) => Read::Unreadable,
    }
}

/// These bytes begin a hello.
pub fn begins_a_hello(bytes: &[u8]) -> bool {
    let mut walk = HelloWalk::default();
    _ = walk.advance(bytes);
    walk.is_hello()
}

/// The flow is over, or not followed any more, or its server has spoken: what has not come by now does not come. Returns what its stream is, if
/// it was waited for.
pub fn over(late: &mut Late, lates: &mut Lates, buffers: &mut BufferPool, counters: &mut Counters) -> Option<Class> {
    let hello = match *late {
        Late::Begun(place) => lates.get_mut(place).is_some_and(|b| b.walk.is_hello()),
        _ => false,
    };
    unread(late, if hello { Class::Secure } else { Class::NonSecure }, lates, buffers, counters)
}

/// What has come is not read, or not all of it.
pub fn unread(
    late: &mut Late,
    class: Class,
    lates: &mut Lates,
    buffers: &mut BufferPool,
    counters: &mut Counters,
) -> Option<Class> {
    counters.hellos_unread += u64::from(*late != Late::No && class == Class::Secure);
    end(late, class, lates, buffers, counters)
}

/// No hello is waited for any more, for it is known what the stream is.
pub fn end(
    late: &mut Late,
    class: Class,
    lates: &mut Lates,
    buffers: &mut BufferPool,
    counters: &mut Counters,
) -> Option<Class> {
    let before = core::mem::replace(late, Late::No);
    if before == Late::No {
        return None;
    }
    if let Late::Begun(place) = before {
        lates.close(place, buffers);
    }
    if class == Class::Secure {
        counters.secure += 1;
        counters.late_hellos += 1;
    } else {
        counters.non_secure += 1;
    }
    Some(class)
}
