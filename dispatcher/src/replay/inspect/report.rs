//! One stream as it is reported; as JSON, the format that `testdata/captures/README.md` describes.

use crate::replay::reassembly::At;
use serde::Serialize;
use sha2::{Digest, Sha256};
use ssl_parse::{ClientHello, Event, Framing, ServerHello};
use std::net::SocketAddr;

/// An address and port.
#[derive(Clone, Debug, Serialize)]
pub struct Endpoint {
    /// Without brackets.
    pub ip: String,
    /// TCP or UDP.
    pub port: u16,
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Endpoint {
        Endpoint { ip: addr.ip().to_string(), port: addr.port() }
    }
}

/// A ticket or identity, by its length, digest and first bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Blob {
    /// Bytes.
    pub len: usize,
    /// Lower-case hex.
    pub sha256: String,
    /// Where an RFC 5077-style ticket has its key name; lower-case hex.
    pub first16: String,
}

impl Blob {
    /// Of all its bytes.
    pub fn of(bytes: &[u8]) -> Blob {
        let mut digest = BlobDigest::new();
        digest.update(bytes);
        digest.finish()
    }
}

/// Makes a [`Blob`] from bytes that come piece by piece.
pub(super) struct BlobDigest {
    len: usize,
    sha: Sha256,
    first: arrayvec::ArrayVec<u8, 16>,
}

impl BlobDigest {
    pub fn new() -> BlobDigest {
        BlobDigest { len: 0, sha: Sha256::new(), first: arrayvec::ArrayVec::new() }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        self.sha.update(bytes);
        self.first.extend(bytes.iter().copied().take(self.first.remaining_capacity()));
    }

    pub fn finish(self) -> Blob {
        Blob { len: self.len, sha256: hex(&self.sha.finalize()), first16: hex(&self.first) }
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn word(v: u16) -> String {
    format!("{v:04x}")
}

/// A client's hello.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the names are those of the format")]
pub struct ClientHelloReport {
    pub frame: u64,
    pub record_version: String,
    pub legacy_version: String,
    pub session_id: String,
    pub ticket: Option<Blob>,
    pub psk_identities: Vec<Blob>,
    pub sni: Option<String>,
    pub alpn: Vec<String>,
    pub supported_versions: Vec<String>,
    pub early_data: bool,
    pub ech: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtls_cookie: Option<String>,
}

impl ClientHelloReport {
    fn of(hello: &ClientHello<'_>, frame: u64) -> ClientHelloReport {
        // A hello in SSL 2.0 form has no record; the format writes the version that form is of.
        let record_version = if hello.framing == Framing::Sslv2 { 0x0002 } else { hello.record_version.0 };
        ClientHelloReport {
            frame,
            record_version: word(record_version),
            legacy_version: word(hello.legacy_version.0),
            session_id: hex(hello.session_id),
            ticket: hello.ticket.map(Blob::of),
            psk_identities: hello.psk_identities().map(|psk| Blob::of(psk.identity)).collect(),
            sni: hello.sni.map(text),
            alpn: hello.alpn.into_iter().flatten().map(text).collect(),
            supported_versions: hello.supported_versions.into_iter().flatten().map(|v| word(v.0)).collect(),
            early_data: hello.early_data,
            ech: hello.ech,
            dtls_cookie: hello.dtls_cookie.map(hex),
        }
    }
}

/// A server's hello or HelloRetryRequest.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the names are those of the format")]
pub struct ServerHelloReport {
    pub frame: u64,
    pub record_version: String,
    pub legacy_version: String,
    pub version: String,
    pub session_id: String,
    pub hrr: bool,
    pub psk_accepted: bool,
    pub psk_selected: Option<u16>,
    pub cipher: String,
    pub ticket_ext: bool,
    pub alpn: Option<String>,
}

impl ServerHelloReport {
    fn of(hello: &ServerHello<'_>, frame: u64) -> ServerHelloReport {
        ServerHelloReport {
            frame,
            record_version: word(hello.record_version.0),
            legacy_version: word(hello.legacy_version.0),
            version: word(hello.version.0),
            session_id: hex(hello.session_id),
            hrr: hello.hello_retry,
            psk_accepted: hello.psk_accepted(),
            psk_selected: hello.psk_selected,
            cipher: word(hello.cipher_suite.0),
            ticket_ext: hello.ticket_ext,
            alpn: hello.alpn.map(text),
        }
    }
}

/// A NewSessionTicket of TLS up to 1.2.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the names are those of the format")]
pub struct TicketReport {
    pub frame: u64,
    pub lifetime: u32,
    pub ticket: Blob,
}

/// A TCP connection or UDP flow.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the names are those of the format")]
pub struct StreamReport {
    pub proto: &'static str,
    pub client: Endpoint,
    pub server: Endpoint,
    pub first_frame: u64,
    pub first_time: String,
    pub vlan: Vec<u16>,
    pub class: &'static str,
    pub kind: Option<&'static str>,
    pub client_hellos: Vec<ClientHelloReport>,
    pub server_hellos: Vec<ServerHelloReport>,
    pub new_session_tickets: Vec<TicketReport>,
    pub resumed: Option<bool>,
}

pub(super) fn time_string(unix_nanos: u64) -> String {
    format!("{}.{:09}", unix_nanos / 1_000_000_000, unix_nanos % 1_000_000_000)
}

/// What both directions have said so far.
#[derive(Default)]
pub(super) struct Findings {
    pub client_hellos: Vec<ClientHelloReport>,
    pub server_hellos: Vec<ServerHelloReport>,
    pub tickets: Vec<TicketReport>,
    long_ticket: Option<(u32, BlobDigest)>,
}

impl Findings {
    /// Notes what an event says.
    pub fn note(&mut self, event: &Event<'_>, at: At) {
        match event {
            Event::ClientHello(hello) => self.client_hellos.push(ClientHelloReport::of(hello, at.frame)),
            Event::ServerHello(hello) => self.server_hellos.push(ServerHelloReport::of(hello, at.frame)),
            Event::NewSessionTicket(ticket) => self.tickets.push(TicketReport {
                frame: at.frame,
                lifetime: ticket.lifetime,
                ticket: Blob::of(ticket.ticket),
            }),
            Event::LongTicketStart { lifetime, .. } => self.long_ticket = Some((*lifetime, BlobDigest::new())),
            Event::LongTicketBytes(bytes) => {
                if let Some((_, digest)) = &mut self.long_ticket {
                    digest.update(bytes);
                }
            }
            Event::LongTicketEnd => {
                if let Some((lifetime, digest)) = self.long_ticket.take() {
                    self.tickets.push(TicketReport { frame: at.frame, lifetime, ticket: digest.finish() });
                }
            }
            _ => {}
        }
    }
}
