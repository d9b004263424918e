//! What is told of a connection when it ends.

use super::Times;
use crate::flow::Key as FlowKey;
use crate::pack::{Pack, Packer, Unpacker, Unreadable, packed, packed_words};
use crate::time::Time;
pub use crate::tls::Class;
use crate::wire::proxy::Named;
use arrayvec::ArrayVec;
use core::num::NonZeroU16;
use core::time::Duration;
use lb::admission::{ClassId, Slot};
use lb::{BackendId, Directory, IdentityKind, Key, PoolId, Reason, ServiceId};
use std::net::SocketAddr;

/// The reason of a connection that no row led.
pub const BALANCED: &str = "balanced";

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Both sides closed in order.
    Fin,
    /// Reset by the client.
    ClientReset,
    /// It left while it waited for room at a backend.
    QueueAbandoned,
    /// It waited for room for as long as its class may.
    QueueTimeout,
    /// There was no room at a backend, and no place to wait for it.
    QueueFull,
    /// Reset by the backend.
    BackendReset,
    /// The backend acknowledged nothing of what was ours to deliver.
    BackendLost,
    /// No frames for the idle timeout, and no answer to keepalive probes.
    Idle,
    /// No backend could be reached.
    NoBackend,
    /// It came from where a PROXY header is expected, and began with none that can be read.
    ProxyHeader,
    /// The backends that were asked still hold an older connection from the client's own address and port (`dnat`).
    PortInUse,
    /// It had kept half a hello for long when another client needed the buffer.
    NoBuffer,
    /// The tuple was used anew by the client before the old connection had ended.
    Replaced,
    /// Its backend was removed, at once.
    BackendRemoved,
    /// The dispatcher stopped.
    Shutdown,
}

impl End {
    /// The word used in the JSON of connections and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            End::Fin => "fin",
            End::ClientReset => "client-reset",
            End::QueueAbandoned => "queue-abandoned",
            End::QueueTimeout => "queue-timeout",
            End::QueueFull => "queue-full",
            End::BackendReset => "backend-reset",
            End::BackendLost => "backend-lost",
            End::Idle => "idle",
            End::NoBackend => "no-backend",
            End::ProxyHeader => "proxy-header",
            End::PortInUse => "port-in-use",
            End::NoBuffer => "no-buffer",
            End::Replaced => "replaced",
            End::BackendRemoved => "backend-removed",
            End::Shutdown => "shutdown",
        }
    }
}

/// One connection, told when it ends. Field names are those of the JSON contract.
///
/// What its names (`N`), its server name (`T`), its identity (`I`) and what was offered (`O`) are made of is its holder's matter: they are
/// borrowed while it is told ([`ConnectionRecord`]); who keeps it has them himself ([`Told::kept`]).
#[derive(Clone, Debug)]
pub struct Told<N, T, I, O> {
    /// Running number, from 1, in the order the flows were opened.
    pub conn: u64,
    /// When it began: its client's cookie came back.
    pub began: Time,
    /// From then on until it ended.
    pub lasted: Duration,
    /// The same until the server's first byte; none when there was none.
    pub first_byte: Option<Duration>,
    /// From the moment in which the server was given the client's hello to the server's hello; none when that was not seen.
    pub handshake: Option<Duration>,
    /// The client's address and port: those of its connection, or what a PROXY header that was accepted says.
    pub client: SocketAddr,
    /// With such a header, who wrote it: the balancer in front of us.
    pub via: Option<SocketAddr>,
    /// What it connected to.
    pub vip: SocketAddr,
    /// The service it connected to; none when that has gone long ago.
    pub service: Option<N>,
    /// The pool it was routed to; none when that has gone long ago.
    pub pool: Option<N>,
    /// Where it went; none when no backend was reached.
    pub backend: Option<N>,
    /// Our address and port as its backend sees them, the client's own with `dnat`; none when no backend was dialled.
    pub local: Option<SocketAddr>,
    /// The backend's slot and generation: by these, sums are found without looking at its name.
    pub slot: Option<(BackendId, u32)>,
    /// Secure or not.
    pub class: Class,
    /// The backend the table named; none when it named none.
    pub decided: Option<N>,
    /// Why the table named it; none: it was balanced.
    pub reason: Option<Reason>,
    /// The key of the row that decided; empty when none did.
    pub identity: I,
    /// What the hello offered to resume: `session-id`, `ticket`, `psk`.
    pub offered: O,
    /// The version the server chose, as a code point (0x0303 is TLS 1.2); none when not seen.
    pub tls_version: Option<u16>,
    /// The server name in the hello.
    pub sni: Option<T>,
    /// What the server's answer showed; none if unknown.
    pub resumed: Option<bool>,
    /// Stream bytes, each counted once.
    pub bytes_to_server: u64,
    /// Stream bytes, each counted once.
    pub bytes_to_client: u64,
    /// Backends dialled.
    pub dial_attempts: u32,
    /// The class in which it asked for room at a backend; none when it needed not ask, for there was no limit.
    pub queue_class: Option<N>,
    /// How long it waited for room, milliseconds, all told.
    pub waited_ms: u32,
    /// Its session's backend had no room, and it went to another.
    pub spilled: bool,
    /// Why it ended.
    pub end: End,
}

/// As the engine tells it.
pub type ConnectionRecord<'a> = Told<&'a str, &'a str, &'a [u8], &'a [&'static str]>;

impl<N, T, I, O> Told<N, T, I, O> {
    /// Where its client's frames came from: the client, or who has named it.
    pub fn sender(&self) -> SocketAddr {
        self.via.unwrap_or(self.client)
    }

    /// `session-id`, `ticket`, `ticket-key`, `psk`, `psk-key`, `balanced`.
    pub fn reason_word(&self) -> &'static str {
        self.reason.map_or(BALANCED, Reason::as_str)
    }
}

impl<'a> ConnectionRecord<'a> {
    /// The same with texts of somebody else's.
    pub fn kept<N, T, I, O>(
        &self,
        name: impl Fn(&'a str) -> N,
        text: impl FnOnce(&'a str) -> T,
        identity: impl FnOnce(&'a [u8]) -> I,
        offered: impl FnOnce(&'a [&'static str]) -> O,
    ) -> Told<N, T, I, O> {
        Told {
            conn: self.conn,
            began: self.began,
            lasted: self.lasted,
            first_byte: self.first_byte,
            handshake: self.handshake,
            client: self.client,
            via: self.via,
            vip: self.vip,
            service: self.service.map(&name),
            pool: self.pool.map(&name),
            backend: self.backend.map(&name),
            local: self.local,
            slot: self.slot,
            class: self.class,
            decided: self.decided.map(&name),
            reason: self.reason,
            identity: identity(self.identity),
            offered: offered(self.offered),
            tls_version: self.tls_version,
            sni: self.sni.map(text),
            resumed: self.resumed,
            bytes_to_server: self.bytes_to_server,
            bytes_to_client: self.bytes_to_client,
            dial_attempts: self.dial_attempts,
            queue_class: self.queue_class.map(&name),
            waited_ms: self.waited_ms,
            spilled: self.spilled,
            end: self.end,
        }
    }
}

/// Kinds of identities, in the order of a hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kinds([Option<IdentityKind>; 3]);

impl Kinds {
    /// They.
    pub fn iter(self) -> impl Iterator<Item = IdentityKind> {
        self.0.into_iter().flatten()
    }
}

impl From<ArrayVec<IdentityKind, 3>> for Kinds {
    fn from(kinds: ArrayVec<IdentityKind, 3>) -> Kinds {
        Kinds(core::array::from_fn(|n| kinds.get(n).copied()))
    }
}

/// What a client has said of itself.
#[derive(Debug, Default)]
struct Said {
    /// Server name, kept only when somebody will be told.
    sni: Option<Box<str>>,
    /// Whose connection it is, where a PROXY header has said that.
    named: Option<Named>,
}

/// The same while the connection lives, with numbers where names will stand.
#[derive(Debug)]
pub struct Record {
    /// Running number.
    pub number: u64,
    /// When what was.
    pub times: Times,
    /// What the client connected to.
    pub service: ServiceId,
    /// The pool that its hello was routed to; the service's own, as long as there is none.
    pub pool: PoolId,
    /// None while unknown.
    pub class: Option<Class>,
    /// Where it went.
    pub backend: Option<BackendId>,
    /// Whom the table named.
    pub decided: Option<BackendId>,
    /// Why; none: it is balanced.
    pub reason: Option<Reason>,
    /// By which row.
    pub key: Option<Key>,
    /// What was offered.
    pub offered: Kinds,
    /// A session ID decided.
    pub id_decided: bool,
    /// Version the server chose.
    pub version: Option<NonZeroU16>,
    /// What the server's answer showed.
    pub resumed: Option<bool>,
    /// What its client has said that is to be kept: of most there is nothing.
    said: Option<Box<Said>>,
    /// Backends dialled.
    pub attempts: u8,
    /// What it has of its backend's limits, if it was asked.
    pub slot: Option<Slot>,
    /// The class in which it asked.
    pub queue_class: Option<ClassId>,
    /// Milliseconds that it waited, or the most that this can say.
    pub waited: u16,
    /// Its session's backend had no room.
    pub spilled: bool,
    /// It has been told.
    pub told: bool,
}

impl Record {
    /// Of connection `number`, which begins now.
    pub fn new(number: u64, now: Time, service: ServiceId, pool: PoolId) -> Record {
        Record {
            number,
            times: Times::begin(now),
            service,
            pool,
            class: None,
            backend: None,
            decided: None,
            reason: None,
            key: None,
            offered: Kinds::default(),
            id_decided: false,
            version: None,
            resumed: None,
            said: None,
            attempts: 0,
            slot: None,
            queue_class: None,
            waited: 0,
            spilled: false,
            told: false,
        }
    }

    /// This is the server name in its hello.
    pub fn keep_name(&mut self, sni: Option<Box<str>>) {
        if sni.is_some() || self.said.is_some() {
            self.said.get_or_insert_default().sni = sni;
        }
    }

    /// A PROXY header has named its ends.
    pub fn keep_ends(&mut self, named: Named) {
        self.said.get_or_insert_default().named = Some(named);
    }

    /// What such a header has named.
    pub fn named(&self) -> Option<&Named> {
        self.said.as_ref()?.named.as_ref()
    }

    /// Whose connection it is; `key` is that of its client's frames.
    pub fn client(&self, key: &FlowKey) -> SocketAddr {
        self.named().map_or_else(|| key.source(), |named| named.client)
    }

    /// The connection has ended: `tell` hears of it. `keys` are those of the client's frames and, with a backend, of the backend's; `bytes` those from the client and
    /// from the server.
    pub fn tell(
        &self,
        (client, server): (&FlowKey, Option<FlowKey>),
        directory: &Directory,
        bytes: [u64; 2],
        end: (End, Time),
        tell: impl FnOnce(&ConnectionRecord<'_>),
    ) {
        let (end, now) = end;
        let name = |b: Option<BackendId>| Some(directory.backend(b?)?.name.as_str());
        let offered: ArrayVec<&'static str, 3> = self.offered.iter().map(|kind| kind.as_str()).collect();
        tell(&ConnectionRecord {
            conn: self.number,
            began: self.times.began(),
            lasted: now.since(self.times.began()),
            first_byte: self.times.first_byte(),
            handshake: self.times.handshake(),
            client: self.client(client),
            via: self.named().map(|_| client.source()),
            vip: client.destination(),
            service: directory.service_name(self.service),
            pool: directory.pool_name(self.pool),
            backend: name(self.backend),
            local: self.backend.and(server).map(|key| key.destination()),
            slot: self.backend.and_then(|id| Some((id, directory.backend(id)?.generation))),
            class: self.class.unwrap_or(Class::NonSecure),
            decided: name(self.decided),
            reason: self.reason,
            identity: self.key.as_ref().map_or(&[], |k| k.as_bytes()),
            offered: &offered,
            tls_version: self.version.map(NonZeroU16::get),
            sni: self.said.as_ref().and_then(|said| said.sni.as_deref()),
            resumed: self.resumed,
            bytes_to_server: bytes[0],
            bytes_to_client: bytes[1],
            dial_attempts: u32::from(self.attempts),
            queue_class: self.queue_class.and_then(|class| directory.class_name(self.service, class)),
            waited_ms: u32::from(self.waited),
            spilled: self.spilled,
            end,
        });
    }
}

packed!(Kinds([Option<IdentityKind>; 3]));
packed_words!(End {
    Fin = 0,
    ClientReset = 1,
    QueueAbandoned = 2,
    QueueTimeout = 3,
    QueueFull = 4,
    BackendReset = 5,
    BackendLost = 6,
    Idle = 7,
    NoBackend = 8,
    ProxyHeader = 9,
    PortInUse = 10,
    NoBuffer = 11,
    Replaced = 12,
    BackendRemoved = 13,
    Shutdown = 14,
});

// What it has of its backend's limits is written beside it, by who counts that. Classes are those of the process that writes.
impl Pack for Record {
    fn pack(&self, to: &mut Packer) {
        let Record {
            number,
            times,
            service,
            pool,
            class,
            backend,
            decided,
            reason,
            key,
            offered,
            id_decided,
            version,
            resumed,
            said,
            attempts,
            slot: _,
            queue_class,
            waited,
            spilled,
            told,
        } = self;
        (*number, *times).pack(to);
        (*service, *pool).pack(to);
        class.pack(to);
        (*backend, *decided).pack(to);
        (*reason, *key).pack(to);
        (*offered, *id_decided).pack(to);
        (*version, *resumed).pack(to);
        let said = said.as_deref();
        said.and_then(|said| said.sni.as_deref()).map(str::to_string).pack(to);
        said.and_then(|said| said.named).pack(to);
        (*attempts, *waited).pack(to);
        (*queue_class, (*spilled, *told)).pack(to);
    }

    fn unpack(from: &mut Unpacker<'_>) -> Result<Record, Unreadable> {
        let (number, times) = Pack::unpack(from)?;
        let (service, pool) = Pack::unpack(from)?;
        let class = Pack::unpack(from)?;
        let (backend, decided) = Pack::unpack(from)?;
        let (reason, key) = Pack::unpack(from)?;
        let (offered, id_decided) = Pack::unpack(from)?;
        let (version, resumed) = Pack::unpack(from)?;
        let (sni, named) = <(Option<String>, Option<Named>)>::unpack(from)?;
        let (attempts, waited) = Pack::unpack(from)?;
        let (queue_class, (spilled, told)) = Pack::unpack(from)?;
        let said =
            (sni.is_some() || named.is_some()).then(|| Box::new(Said { sni: sni.map(String::into_boxed_str), named }));
        Ok(Record {
            number,
            times,
            service,
            pool,
            class,
            backend,
            decided,
            reason,
            key,
            offered,
            id_decided,
            version,
            resumed,
            said,
            attempts,
            slot: None,
            queue_class,
            waited,
            spilled,
            told,
        })
    }
}
