//! TLS as a check speaks it: rustls, bytes in and bytes out.
//!
//! **Certificates are not verified.** Whether a server's certificate is the right one is for its clients to say; a check asks whether it can complete a
//! handshake, and nothing of what is said in it is believed. Signatures are not looked at either, so that every algorithm will do.
//!
//! The time is given, as everywhere. Keys and nonces are drawn by rustls' provider (ring) from the operating system, which lets nobody else give
//! them: what a check decides does not depend on them.

use crate::time::Time;
use core::time::Duration;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, ResolvesClientCert, Resumption};
use rustls::client::{Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, NamedGroup, ProtocolVersion,
    SignatureScheme,
};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Tickets kept of one server.
const KEPT: usize = 8;
/// How long tickets are waited for after a handshake.
const FOR_TICKETS: Duration = Duration::from_secs(1);
/// How long the next one is waited for: servers send theirs together.
const FOR_MORE_TICKETS: Duration = Duration::from_millis(100);
/// Room for the hello that is read back: it has no more than one certificate-less first flight.
const HELLO: usize = 20 * 1024;

/// What handshakes with one server have in common: its name, and the sessions it has issued.
#[derive(Debug)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    sessions: Arc<Sessions>,
    clock: Arc<Clock>,
    /// It has asked for a certificate of ours.
    asked: Arc<AtomicBool>,
}

impl Tls {
    /// Towards a server, whose hello has this name or none. With `http` its protocol is told. None when the name is no name.
    pub fn new(sni: Option<&str>, ip: IpAddr, http: bool) -> Option<Tls> {
        let name = match sni {
            Some(name) => ServerName::try_from(name.to_owned()).ok()?,
            None => ServerName::IpAddress(ip.into()),
        };
        let provider = Arc::new(ring::default_provider());
        let (clock, asked) = (Arc::new(Clock::default()), Arc::new(AtomicBool::new(false)));
        let sessions = Arc::new(Sessions::default());
        let mut config = ClientConfig::builder_with_details(provider.clone(), clock.clone())
            .with_safe_default_protocol_versions()
            .ok()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_client_cert_resolver(Arc::new(NoCertificate(asked.clone())));
        config.resumption = Resumption::store(sessions.clone());
        if http {
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        Some(Tls { config: Arc::new(config), name, sessions, clock, asked })
    }

    /// A handshake, which resumes a session of those before if there is one. `tickets`: they are waited for.
    pub fn begin(&self, tickets: bool, now: Time) -> Option<Handshake> {
        self.clock.set(now);
        let connection = ClientConnection::new(self.config.clone(), self.name.clone()).ok()?;
        self.sessions.issued.store(0, Ordering::Relaxed);
        Some(Handshake {
            connection,
            sessions: self.sessions.clone(),
            asked: self.asked.clone(),
            clock: self.clock.clone(),
            tickets,
            completed: None,
            seen: (0, now),
            closed: false,
        })
    }

    /// The tickets and identities by which sessions could be resumed that are known, one after the other: each is used up by that. Read from
    /// hellos that nobody is sent. Those of TLS 1.2 stay; a session ID is none.
    pub fn take_tickets(&self, now: Time) -> Vec<Vec<u8>> {
        self.clock.set(now);
        let mut all: Vec<Vec<u8>> = Vec::new();
        while all.len() < KEPT {
            let Ok(mut connection) = ClientConnection::new(self.config.clone(), self.name.clone()) else { break };
            let mut hello = Vec::new();
            if connection.write_tls(&mut hello).is_err() {
                break;
            }
            match ticket_in(&hello) {
                Some(ticket) if !all.contains(&ticket) => all.push(ticket),
                _ => break,
            }
        }
        all
    }
}

/// The ticket or PSK identity that a hello offers first.
pub(super) fn ticket_in(hello: &[u8]) -> Option<Vec<u8>> {
    let mut scratch = vec![0; HELLO];
    let ssl_parse::Outcome::Complete(hello) = ssl_parse::client_hello(hello, &mut scratch) else { return None };
    let psk = hello.psk_identities().next().map(|psk| psk.identity);
    psk.or(hello.ticket).filter(|ticket| !ticket.is_empty()).map(<[u8]>::to_vec)
}

/// A handshake, and what is said within.
pub(super) struct Handshake {
    connection: ClientConnection,
    sessions: Arc<Sessions>,
    asked: Arc<AtomicBool>,
    clock: Arc<Clock>,
    tickets: bool,
    completed: Option<Time>,
    /// Tickets that have come, and when the last one did.
    seen: (usize, Time),
    closed: bool,
}

impl Handshake {
    /// What the server says. What it says within TLS is put behind `inner`.
    pub fn hear(&mut self, mut bytes: &[u8], inner: &mut Vec<u8>, now: Time) -> Result<(), String> {
        self.clock.set(now);
        while !bytes.is_empty() {
            let Ok(read) = self.connection.read_tls(&mut bytes) else { break };
            let state = self.connection.process_new_packets().map_err(|e| self.failure(&e))?;
            if state.plaintext_bytes_to_read() > 0 {
                let before = inner.len();
                inner.resize(before + state.plaintext_bytes_to_read(), 0);
                let got = std::io::Read::read(&mut self.connection.reader(), &mut inner[before..]).unwrap_or(0);
                inner.truncate(before + got);
            }
            self.closed |= state.peer_has_closed();
            if read == 0 {
                break;
            }
        }
        if self.completed.is_none() && !self.connection.is_handshaking() {
            self.completed = Some(now);
        }
        let issued = self.sessions.issued.load(Ordering::Relaxed);
        if issued != self.seen.0 {
            self.seen = (issued, now);
        }
        Ok(())
    }

    /// What is to be sent to the server.
    pub fn speak(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() && self.connection.write_tls(out).is_ok_and(|n| n > 0) {}
    }

    /// To be said within TLS.
    pub fn say(&mut self, bytes: &[u8]) {
        // Into a buffer without a bound, which takes a request.
        _ = std::io::Write::write_all(&mut self.connection.writer(), bytes);
    }

    /// We have no more to say.
    pub fn close(&mut self) {
        self.connection.send_close_notify();
    }

    pub fn is_complete(&self) -> bool {
        self.completed.is_some()
    }

    /// The server has said that it has no more to say.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// It resumed the session that it was offered.
    pub fn resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Tickets that are waited for have come, or come no more. None: not before then.
    pub fn has_tickets(&self, now: Time) -> Result<(), Option<Time>> {
        let Some(completed) = self.completed else { return Err(None) };
        // Before TLS 1.3 they are part of the handshake.
        if !self.tickets || self.closed || self.connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Ok(());
        }
        let until = match self.seen {
            (0, _) => completed + FOR_TICKETS,
            (1, at) => at + FOR_MORE_TICKETS,
            _ => return Ok(()),
        };
        if now >= until { Ok(()) } else { Err(Some(until)) }
    }

    /// What is wrong; or that it is the server's good right.
    fn failure(&self, error: &Error) -> String {
        match error {
            Error::AlertReceived(alert) => format!("TLS alert {alert:?}"),
            other => format!("TLS: {other}"),
        }
    }

    /// The server wants a certificate of its clients: that it refuses us says nothing against it.
    pub fn wants_certificate(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl core::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Handshake").field("completed", &self.completed).finish_non_exhaustive()
    }
}

/// Sessions that a server issued, and how many of TLS 1.3 since the last handshake began.
#[derive(Debug)]
struct Sessions {
    kept: ClientSessionMemoryCache,
    issued: AtomicUsize,
}

impl Default for Sessions {
    fn default() -> Sessions {
        Sessions { kept: ClientSessionMemoryCache::new(KEPT), issued: AtomicUsize::new(0) }
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(name, group);
    }
    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(name)
    }
    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.kept.set_tls12_session(name, value);
    }
    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept.tls12_session(name)
    }
    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.kept.remove_tls12_session(name);
    }
    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.issued.fetch_add(1, Ordering::Relaxed);
        self.kept.insert_tls13_ticket(name, value);
    }
    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.take_tls13_ticket(name)
    }
}

/// Takes whatever certificate there is.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Has none, and notes that it was asked.
#[derive(Debug)]
struct NoCertificate(Arc<AtomicBool>);

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

/// The time that is given, as rustls asks for it. Lives of tickets are counted by it, and nothing else.
#[derive(Debug, Default)]
struct Clock(AtomicU64);

impl Clock {
    fn set(&self, now: Time) {
        self.0.store(now.as_secs(), Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}
