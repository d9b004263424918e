//! A connection as bytes, for another process that goes on with it, and back.
//!
//! All of it is written that it needs to go on, with the stream that it holds. Not here is what others keep for it, who write it themselves: what is read of it in passing, what it
//! has of its backend's limits, its place in a line. Nor what only this process has, and what is made anew from the rest: next hops, marks.

use super::connection::{
    Agreed, Asked, Asks, Connection, Cut, Dialing, Farewell, Handshake, Held, MAX_ATTEMPTS, Opening, Proxy, Queued,
    Stage, State, Told, Unacked, Waiting,
};
use super::hot::{ClientLink, Hot, Marks, Through};
use super::record::Record;
use crate::flow::{Assembler, BufferPool, LARGEST_SHIFT, Side};
use crate::http::RequestWalk;
use crate::pack::{Pack, Packer, Unpacker, Unreadable, packed, packed_words};
use crate::path::NextHop;
use crate::time::Time;
use crate::tls::Late;
use crate::wire::Seq;
use arrayvec::ArrayVec;
use lb::BackendId;
use lb::admission::Ticket;
use ssl_parse::{HelloWalk, Outcome};

packed!(Agreed { mss, wscale, sack, ecn, timestamps });
packed!(Asked { times, heard });
packed!(Asks { class, cost, own });
packed!(Handshake { since, given, answered });
packed!(Told { acked, next, ack });
packed_words!(Proxy { No = 0, Ours = 1, AsAccepted = 2 });

/// Numbers of the states.
mod state {
    pub const AWAIT_HELLO: u8 = 0;
    pub const QUEUED: u8 = 1;
    pub const DIALING: u8 = 2;
    pub const SPLICED: u8 = 3;
    pub const TIME_WAIT: u8 = 4;
    pub const RESET: u8 = 5;
    pub const CUT: u8 = 6;
    pub const FAREWELL: u8 = 7;
}

/// Writes one; `counted`: somebody counts what it has of its backend's limits.
pub fn pack(hot: &Hot, c: &Connection, counted: bool, buffers: &BufferPool, to: &mut Packer) {
    pack_hot(hot, to);
    let Connection {
        state,
        agreed,
        isn,
        accepted,
        cookie,
        client_window,
        renewed,
        former,
        odd,
        asked,
        flight: _,
        http: _,
        handshake,
        late,
        proxy,
        record,
    } = c;
    record.pack(to);
    agreed.pack(to);
    (*isn, *accepted).pack(to);
    (*cookie, *client_window).pack(to);
    (*renewed, *former).pack(to);
    odd.pack(to);
    asked.pack(to);
    let late: u8 = match late {
        Late::No | Late::Begun(_) => 0,
        Late::Awaited => 1,
        Late::Unclear => 2,
    };
    (late, *proxy).pack(to);
    // Where its units have been given back there is nothing to end.
    let under_way = counted && record.slot.as_ref().is_some_and(|slot| slot.units() > 0);
    handshake.as_ref().filter(|_| under_way).copied().pack(to);
    pack_state(state, buffers, to);
}

/// The inverse: one whose backend is reached by `hop`, of an engine with so many ports. What holds of any that can be here holds of it, or it is refused.
pub fn unpack(
    from: &mut Unpacker<'_>,
    buffers: &mut BufferPool,
    ports: usize,
    hop: impl Fn(BackendId) -> Option<NextHop>,
) -> Result<(Hot, Connection), Unreadable> {
    let mut hot = Hot::default();
    let through = unpack_hot(&mut hot, from)?;
    let record = Record::unpack(from)?;
    let agreed = Agreed::unpack(from)?;
    let (isn, accepted) = Pack::unpack(from)?;
    let (cookie, client_window) = Pack::unpack(from)?;
    let (renewed, former) = Pack::unpack(from)?;
    let odd = Pack::unpack(from)?;
    let asked = Asked::unpack(from)?;
    let (late, proxy) = <(u8, Proxy)>::unpack(from)?;
    let handshake = Pack::unpack(from)?;
    let late = match late {
        0 => Late::No,
        1 => Late::Awaited,
        2 => Late::Unclear,
        _ => return Err(Unreadable::Impossible("Late")),
    };
    let hop = record.backend.and_then(hop);
    let mut state = unpack_state(from, buffers, hop)?;
    // What it holds is given back when it turns out that it cannot be.
    let stands = match (&state, through.is_some()) {
        (State::Spliced(_), there) => there && hop.is_some(),
        (State::Opening(Opening { stage: Stage::Dialing(_), tried, .. }), there) => !there && !tried.is_empty(),
        (State::Opening(_) | State::Farewell(_), there) => !there,
        _ => through.is_none() || hop.is_some(),
    };
    let link = hot.client.link(Default::default());
    let fits = stands
        && link.vlans.can_be()
        && usize::from(hot.client.port().0) < ports
        && agreed.wscale.is_none_or(|shift| shift <= LARGEST_SHIFT)
        && through.is_none_or(|through| through.splice.to_server.can_be() && through.splice.to_client.can_be())
        && counts_can_be(&state, &asked);
    if !fits {
        release(&mut state, buffers);
        return Err(Unreadable::Impossible("a state that cannot be"));
    }
    hot.through = through.zip(hop).map(|(through, hop)| Through { hop, ..through });
    let c = Connection {
        state,
        agreed,
        isn,
        accepted,
        cookie,
        client_window,
        renewed,
        former,
        odd,
        asked,
        flight: None,
        http: None,
        handshake,
        late,
        proxy,
        record,
    };
    if let Some(through) = &mut hot.through {
        through.marks = c.marks();
    }
    Ok((hot, c))
}

/// What is counted is no more than anybody counts to, and headers have room.
fn counts_can_be(state: &State, asked: &Asked) -> bool {
    const MOST: u8 = 64;
    let here = match state {
        State::Opening(Opening { held, stage, .. }) => match stage {
            Stage::Dialing(dialing) => {
                dialing.syns.max(dialing.challenges) <= MOST && usize::from(dialing.header) <= held.stream.reserve()
            }
            Stage::Queued(queued) => queued.asked <= MOST,
            Stage::AwaitHello(_) => true,
        },
        State::Spliced(Some(unacked)) => {
            unacked.tries <= MOST && usize::from(unacked.header) <= unacked.stream.reserve()
        }
        State::Cut(cut) => cut.times <= MOST,
        _ => true,
    };
    here && asked.times <= MOST
}

/// Gives back what it holds.
pub fn release(state: &mut State, buffers: &mut BufferPool) {
    match state {
        State::Opening(opening) => opening.held.stream.release(buffers),
        State::Spliced(Some(unacked)) => unacked.stream.release(buffers),
        _ => {}
    }
}

fn pack_hot(hot: &Hot, to: &mut Packer) {
    let Hot { last_seen, clocks, through, client } = *hot;
    (last_seen, clocks).pack(to);
    client.pack(to);
    through.is_some().pack(to);
    if let Some(Through { windows, splice, path, hop: _, marks: _ }) = through {
        windows.pack(to);
        splice.pack(to);
        path.pack(to);
    }
}

/// Whatever the next hop is.
fn unpack_hot(hot: &mut Hot, from: &mut Unpacker<'_>) -> Result<Option<Through>, Unreadable> {
    let (last_seen, clocks) = Pack::unpack(from)?;
    (hot.last_seen, hot.clocks) = (last_seen, clocks);
    hot.client = ClientLink::unpack(from)?;
    Ok(if bool::unpack(from)? {
        let (windows, splice, path) = (Pack::unpack(from)?, Pack::unpack(from)?, Pack::unpack(from)?);
        Some(Through { windows, splice, path, hop: NextHop(0), marks: Marks::OPEN })
    } else {
        None
    })
}

fn pack_state(state: &State, buffers: &BufferPool, to: &mut Packer) {
    match state {
        State::Opening(Opening { held: Held { stream, acked, urgent }, tried, asks, stage }) => {
            match stage {
                Stage::AwaitHello(Waiting {
                    silent_until,
                    complete_until,
                    ack_at,
                    unacked,
                    since,
                    header_due,
                    // Followed anew.
                    walk: _,
                    request,
                }) => {
                    state::AWAIT_HELLO.pack(to);
                    (*silent_until, *complete_until).pack(to);
                    (*ack_at, *unacked).pack(to);
                    (*since, *header_due).pack(to);
                    request.is_some().pack(to);
                }
                Stage::Queued(Queued { ticket: _, since, ack_at, large: _, ask_at, asked }) => {
                    state::QUEUED.pack(to);
                    (*since, *ack_at).pack(to);
                    (*ask_at, *asked).pack(to);
                }
                Stage::Dialing(Dialing { header, hop: _, syns, challenges, since, retry_at }) => {
                    state::DIALING.pack(to);
                    (*header, *syns).pack(to);
                    challenges.pack(to);
                    (*since, *retry_at).pack(to);
                }
            }
            (*acked, *urgent).pack(to);
            tried.pack(to);
            asks.pack(to);
            stream.pack(buffers, to);
        }
        State::Spliced(unacked) => {
            state::SPLICED.pack(to);
            unacked.is_some().pack(to);
            if let Some(Unacked { stream, header, una, end, urgent, segment, retry_at, tries }) = unacked {
                (*header, *una).pack(to);
                (*end, *urgent).pack(to);
                (*segment, *retry_at).pack(to);
                tries.pack(to);
                stream.pack(buffers, to);
            }
        }
        State::TimeWait { until } => (state::TIME_WAIT, *until).pack(to),
        State::Reset { by, until } => {
            state::RESET.pack(to);
            (*by, *until).pack(to);
        }
        State::Cut(Cut { told, hop: _, times, since, retry_at }) => {
            state::CUT.pack(to);
            told.pack(to);
            times.pack(to);
            (*since, *retry_at).pack(to);
        }
        State::Farewell(Farewell { next, heard, closed, tries, since, retry_at }) => {
            state::FAREWELL.pack(to);
            (*next, *heard).pack(to);
            (*closed, *tries).pack(to);
            (*since, *retry_at).pack(to);
        }
    }
}

fn unpack_state(from: &mut Unpacker<'_>, buffers: &mut BufferPool, hop: Option<NextHop>) -> Result<State, Unreadable> {
    Ok(match u8::unpack(from)? {
        state::AWAIT_HELLO => {
            let (silent_until, complete_until) = Pack::unpack(from)?;
            let (ack_at, unacked) = Pack::unpack(from)?;
            let (since, header_due) = <(Time, bool)>::unpack(from)?;
            let mut request = bool::unpack(from)?.then(RequestWalk::default);
            let (held, tried, asks) = unpack_held(from, buffers)?;
            let mut walk = HelloWalk::default();
            if !header_due {
                // All of it lies there; what it comes to is asked when more has come, as it was.
                let stream = held.stream.contiguous(buffers);
                if let (Outcome::NotTls, Some(request)) = (walk.advance(stream), &mut request) {
                    _ = request.advance(stream);
                }
            }
            let waiting = Waiting { silent_until, complete_until, ack_at, unacked, since, header_due, walk, request };
            State::Opening(Opening { held, tried, asks, stage: Stage::AwaitHello(waiting) })
        }
        state::QUEUED => {
            let (since, ack_at) = Pack::unpack(from)?;
            let (ask_at, asked) = Pack::unpack(from)?;
            let (held, tried, asks) = unpack_held(from, buffers)?;
            let large = held.stream.buffer_index().is_some();
            let queued = Queued { ticket: Ticket::NONE, since, ack_at, large, ask_at, asked };
            State::Opening(Opening { held, tried, asks, stage: Stage::Queued(queued) })
        }
        state::DIALING => {
            let (header, syns) = Pack::unpack(from)?;
            let challenges = Pack::unpack(from)?;
            let (since, retry_at) = Pack::unpack(from)?;
            let hop = hop.ok_or(Unreadable::Impossible("a dial to nobody"))?;
            let (held, tried, asks) = unpack_held(from, buffers)?;
            let dialing = Dialing { header, hop, syns, challenges, since, retry_at };
            State::Opening(Opening { held, tried, asks, stage: Stage::Dialing(dialing) })
        }
        state::SPLICED => State::Spliced(if bool::unpack(from)? {
            let (header, una) = Pack::unpack(from)?;
            let (end, urgent) = Pack::unpack(from)?;
            let (segment, retry_at) = Pack::unpack(from)?;
            let tries = Pack::unpack(from)?;
            let stream = Assembler::unpack(buffers, from)?;
            Some(Unacked { stream, header, una, end, urgent, segment, retry_at, tries })
        } else {
            None
        }),
        state::TIME_WAIT => State::TimeWait { until: Time::unpack(from)? },
        state::RESET => {
            let (by, until) = <(Side, Time)>::unpack(from)?;
            State::Reset { by, until }
        }
        state::CUT => {
            let told = <[Option<Told>; 2]>::unpack(from)?;
            let times = u8::unpack(from)?;
            let (since, retry_at) = Pack::unpack(from)?;
            State::Cut(Cut { told, hop, times, since, retry_at })
        }
        state::FAREWELL => {
            let (next, heard) = Pack::unpack(from)?;
            let (closed, tries) = Pack::unpack(from)?;
            let (since, retry_at) = Pack::unpack(from)?;
            State::Farewell(Farewell { next, heard, closed, tries, since, retry_at })
        }
        _ => return Err(Unreadable::Impossible("State")),
    })
}

type Tried = ArrayVec<BackendId, MAX_ATTEMPTS>;

/// Last what takes a buffer, so that none is taken for what cannot be read.
fn unpack_held(from: &mut Unpacker<'_>, buffers: &mut BufferPool) -> Result<(Held, Tried, Option<Asks>), Unreadable> {
    let (acked, urgent) = <(Seq, Option<Seq>)>::unpack(from)?;
    let (tried, asks) = (Pack::unpack(from)?, Pack::unpack(from)?);
    let stream = Assembler::unpack(buffers, from)?;
    Ok((Held { stream, acked, urgent }, tried, asks))
}
