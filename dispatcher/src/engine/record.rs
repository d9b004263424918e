//! What is told of a connection when it ends.

use std::net::SocketAddr;

/// How the client's stream began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// With a TLS (or SSLv2-framed) ClientHello.
    Secure,
    /// With anything else, or with nothing.
    NonSecure,
}

impl Class {
    /// The word of the JSON contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Secure => "secure",
            Class::NonSecure => "non-secure",
        }
    }
}

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
