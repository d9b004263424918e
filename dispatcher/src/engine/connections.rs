//! Connections as they stand now, for who wants to look at them: a walk over the flow table in portions, while it changes.
//!
//! What opens or ends between two portions may be told or not; what stays in the table the whole time is told once.

use super::Engine;
use crate::flow::{FlowId, Key, Rest, Side};
use crate::tcp::{Class, Hot, Kinds, Record, SPLICED, Times};
use crate::time::Time;
use core::num::NonZeroU16;
use core::time::Duration;
use lb::admission::{ClassId, Prefix};
use lb::{BackendId, BackendSet, Directory, PoolId, Reason, ServiceId};
use std::net::SocketAddr;

/// Which connections are meant: those for which all that is given holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Meant {
    /// It is at one of these backends.
    pub backend: Option<BackendSet>,
    /// It came to this service.
    pub service: Option<ServiceId>,
    /// Its client's address begins so.
    pub client: Option<Prefix>,
    /// It is in this state, one of [`STATES`](crate::tcp::STATES).
    pub state: Option<&'static str>,
}

/// One of them. Numbers stand where names will: whoever tells it has the directory.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Its running number, as in what is told at its end.
    pub number: u64,
    /// The client's address and port: those of its connection, or what a PROXY header that was accepted says.
    pub client: SocketAddr,
    /// What it connected to.
    pub vip: SocketAddr,
    /// The service it came to.
    pub service: ServiceId,
    /// The pool that its hello was routed to.
    pub pool: PoolId,
    /// Its backend, and which holder of that slot; none while none is chosen.
    pub backend: Option<(BackendId, u32)>,
    /// Our address and port towards it (the client's own, where these are kept); none while none is dialled.
    pub local: Option<SocketAddr>,
    /// Where it stands, one of [`STATES`](crate::tcp::STATES).
    pub state: &'static str,
    /// For so long it has been there, since its client's cookie came back.
    pub age: Duration,
    /// For so long no frame of it was seen that could be meant seriously.
    pub idle: Duration,
    /// Secure or not; none while unknown.
    pub class: Option<Class>,
    /// Why the table named a backend; none: it named none.
    pub reason: Option<Reason>,
    /// What its hello offered to resume.
    pub offered: Kinds,
    /// Whether the server resumed it; none while unknown.
    pub resumed: Option<bool>,
    /// The version that the server chose.
    pub version: Option<NonZeroU16>,
    /// Backends dialled.
    pub attempts: u8,
    /// Stream bytes so far, from the client and from the server.
    pub bytes: [u64; 2],
    /// When what of it was.
    pub times: Times,
    /// The class in which it asked for room at a backend.
    pub queue_class: Option<ClassId>,
    /// Milliseconds that it waited for that, all told.
    pub waited: u16,
    /// Its session's backend had no room, and it went to another.
    pub spilled: bool,
}

impl Engine {
    /// Tells `each` of the connections that are meant among `places` places of the table from `from` on, until it says that it has enough.
    /// Where to go on; nowhere, when those were the last, or it has enough.
    pub fn connections(
        &self,
        from: FlowId,
        places: usize,
        meant: &Meant,
        now: Time,
        each: &mut dyn FnMut(Shown) -> bool,
    ) -> Option<FlowId> {
        let (mut ids, next) = self.flows.portion(from, places);
        let told = |id: FlowId| self.is_meant(id, meant) && self.shown(id, now).is_some_and(|shown| !each(shown));
        if ids.any(told) { None } else { next }
    }

    /// What will be told of a flow.
    pub(super) fn record(&self, id: FlowId) -> &Record {
        match self.flows.peek(id) {
            Rest::Whole(c) => &c.record,
            Rest::Folded(settled) => &settled.record,
        }
    }

    /// Where one stands.
    fn state(&self, id: FlowId) -> &'static str {
        match self.flows.peek(id) {
            Rest::Whole(c) => c.state.word(),
            Rest::Folded(_) => SPLICED,
        }
    }

    fn is_meant(&self, id: FlowId, meant: &Meant) -> bool {
        let Some(key) = self.flows.key(id, Side::Client) else { return false };
        let (state, record) = (self.state(id), self.record(id));
        if meant.client.is_some_and(|prefix| !prefix.contains(record.client(&key).ip())) {
            return false;
        }
        meant.state.is_none_or(|word| word == state)
            && meant.backend.as_ref().is_none_or(|set| record.backend.is_some_and(|id| set.contains(id)))
            && meant.service.is_none_or(|service| record.service == service)
    }

    /// One as it stands now.
    pub(super) fn shown(&self, id: FlowId, now: Time) -> Option<Shown> {
        let (client, server) = (self.flows.key(id, Side::Client)?, self.flows.key(id, Side::Server));
        let (state, record) = (self.state(id), self.record(id));
        Some(shown((&client, server.as_ref()), state, record, self.flows.hot(id), &self.directory, now))
    }
}

/// One with these keys, that stands there.
pub(super) fn shown(
    (client, server): (&Key, Option<&Key>),
    state: &'static str,
    record: &Record,
    hot: &Hot,
    directory: &Directory,
    now: Time,
) -> Shown {
    let last_seen = hot.last_seen;
    Shown {
        number: record.number,
        client: record.client(client),
        vip: client.destination(),
        service: record.service,
        pool: record.pool,
        backend: record.backend.and_then(|id| Some((id, directory.backend(id)?.generation))),
        local: server.map(|key| key.destination()),
        state,
        age: now.since(record.times.began()),
        idle: now.since(last_seen),
        class: record.class,
        reason: record.reason,
        offered: record.offered,
        resumed: record.resumed,
        version: record.version,
        attempts: record.attempts,
        bytes: hot.through.map_or([0; 2], |through| through.windows.map(|window| window.bytes())),
        times: record.times,
        queue_class: record.queue_class,
        waited: record.waited,
        spilled: record.spilled,
    }
}
