//! What is told of a connection when it ends.

use crate::flow::Key as FlowKey;
pub use crate::tls::Class;
use arrayvec::ArrayVec;
use lb::{BackendId, Directory, IdentityKind, Key, PoolId, ServiceId};
use std::net::SocketAddr;

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Both sides closed in order.
    Fin,
    /// Reset by the client.
    ClientReset,
    /// Reset by the backend.
    BackendReset,
    /// The backend acknowledged nothing of what was ours to deliver.
    BackendLost,
    /// No frames for the idle timeout, and no answer to keepalive probes.
    Idle,
    /// No backend could be reached.
    NoBackend,
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
            End::BackendReset => "backend-reset",
            End::BackendLost => "backend-lost",
            End::Idle => "idle",
            End::NoBackend => "no-backend",
            End::PortInUse => "port-in-use",
            End::NoBuffer => "no-buffer",
            End::Replaced => "replaced",
            End::BackendRemoved => "backend-removed",
            End::Shutdown => "shutdown",
        }
    }
}

/// One connection, told when it ends. Field names are those of the JSON contract.
#[derive(Clone, Debug)]
pub struct ConnectionRecord<'a> {
    /// Running number, from 1, in the order the flows were opened.
    pub conn: u64,
    /// The client's address and port.
    pub client: SocketAddr,
    /// What it connected to.
    pub vip: SocketAddr,
    /// The service it connected to; none when that has gone long ago.
    pub service: Option<&'a str>,
    /// The pool it was routed to; none when that has gone long ago.
    pub pool: Option<&'a str>,
    /// Where it went; none when no backend was reached.
    pub backend: Option<&'a str>,
    /// Secure or not.
    pub class: Class,
    /// The backend the table named; none when it named none.
    pub decided: Option<&'a str>,
    /// `session-id`, `ticket`, `ticket-key`, `psk`, `psk-key`, `balanced`.
    pub reason: &'static str,
    /// The key of the row that decided; empty when none did.
    pub identity: &'a [u8],
    /// What the hello offered to resume: `session-id`, `ticket`, `psk`.
    pub offered: &'a [&'static str],
    /// The version the server chose, as a code point (0x0303 is TLS 1.2); none when not seen.
    pub tls_version: Option<u16>,
    /// The server name in the hello.
    pub sni: Option<&'a str>,
    /// What the server's answer showed; none if unknown.
    pub resumed: Option<bool>,
    /// Stream bytes, each counted once.
    pub bytes_to_server: u64,
    /// Stream bytes, each counted once.
    pub bytes_to_client: u64,
    /// Backends dialled.
    pub dial_attempts: u32,
    /// Why it ended.
    pub end: End,
}

/// The same while the connection lives, with numbers where names will stand.
#[derive(Debug)]
pub struct Record {
    /// Running number.
    pub number: u64,
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
    /// Why.
    pub reason: &'static str,
    /// By which row.
    pub key: Option<Key>,
    /// What was offered.
    pub offered: ArrayVec<IdentityKind, 3>,
    /// A session ID decided.
    pub id_decided: bool,
    /// Version the server chose.
    pub version: Option<u16>,
    /// What the server's answer showed.
    pub resumed: Option<bool>,
    /// Server name, kept only when somebody will be told.
    pub sni: Option<Box<str>>,
    /// Backends dialled.
    pub attempts: u32,
    /// It has been told.
    pub told: bool,
}

impl Record {
    /// Of connection `number`.
    pub fn new(number: u64, service: ServiceId, pool: PoolId) -> Record {
        Record {
            number,
            service,
            pool,
            class: None,
            backend: None,
            decided: None,
            reason: "balanced",
            key: None,
            offered: ArrayVec::new(),
            id_decided: false,
            version: None,
            resumed: None,
            sni: None,
            attempts: 0,
            told: false,
        }
    }

    /// The connection has ended: `tell` hears of it. `bytes` are those from the client and from the server.
    pub fn tell(
        &self,
        client: &FlowKey,
        directory: &Directory,
        bytes: [u64; 2],
        end: End,
        tell: impl FnOnce(&ConnectionRecord<'_>),
    ) {
        let name = |b: Option<BackendId>| Some(directory.backend(b?)?.name.as_str());
        let offered: ArrayVec<&'static str, 3> = self.offered.iter().map(|kind| kind.as_str()).collect();
        tell(&ConnectionRecord {
            conn: self.number,
            client: client.source(),
            vip: client.destination(),
            service: directory.service_name(self.service),
            pool: directory.pool_name(self.pool),
            backend: name(self.backend),
            class: self.class.unwrap_or(Class::NonSecure),
            decided: name(self.decided),
            reason: self.reason,
            identity: self.key.as_ref().map_or(&[], |k| k.as_bytes()),
            offered: &offered,
            tls_version: self.version,
            sni: self.sni.as_deref(),
            resumed: self.resumed,
            bytes_to_server: bytes[0],
            bytes_to_client: bytes[1],
            dial_attempts: self.attempts,
            end,
        });
    }
}
