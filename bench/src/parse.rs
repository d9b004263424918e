//! Hellos: how long until it is known what they offer to resume, beside two parsers that others use.
//!
//! Those read all of a hello into structures of their own, for another purpose; so this says what reading costs who needs little of it.

use crate::figure::{Report, Target};
use crate::region::{Turns, measured_region};
use anyhow::{Result, bail, ensure};
use core::hint::black_box;
use dispatcher::tls::OfferedSessions;
use lb::{Affinity, BackendId, Config, KeyName, Millis};
use sim::tls::Hello;
use ssl_parse::Outcome;
use tls_parser::{TlsMessage, TlsMessageHandshake};

/// Hellos between two looks at the clock.
const BATCH: usize = 200;
/// What tickets and identities begin with.
const KEY_NAME: KeyName = [7; 16];

/// A hello to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// 517 bytes, nothing to resume.
    Plain,
    /// 517 bytes, a ticket of TLS 1.2.
    Ticket,
    /// 517 bytes, a PSK identity.
    Psk,
    /// 1826 bytes, as with a post-quantum key share, and a PSK identity.
    Long,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Plain, Kind::Ticket, Kind::Psk, Kind::Long];

    /// For reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Ticket => "ticket",
            Kind::Psk => "psk",
            Kind::Long => "long-psk",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Kind::Plain => "517 B, no identity",
            Kind::Ticket => "517 B, ticket",
            Kind::Psk => "517 B, PSK",
            Kind::Long => "1826 B, PSK",
        }
    }

    fn bytes(self) -> Vec<u8> {
        let identity = || [&KEY_NAME[..], &[0x3c; 176]].concat();
        let at_least = if self == Kind::Long { 1826 } else { 517 };
        let hello = Hello { at_least, session_id: vec![9; 32], alpn: vec!["h2", "http/1.1"], ..Hello::default() };
        match self {
            Kind::Plain => Hello { tls13: true, ..hello },
            Kind::Ticket => Hello { ticket: Some(identity()), ..hello },
            Kind::Psk | Kind::Long => Hello { tls13: true, psk: vec![identity()], ..hello },
        }
        .bytes()
    }
}

/// Reads one hello again and again.
pub struct Reading {
    bytes: Vec<u8>,
    joined: Vec<u8>,
    affinity: Affinity,
    offered: OfferedSessions,
}

impl Reading {
    /// Of that kind.
    pub fn new(kind: Kind) -> Reading {
        let ticket_keys = vec![(BackendId(0), KEY_NAME)];
        Reading {
            bytes: kind.bytes(),
            joined: vec![0; 20_000],
            affinity: Affinity::single(Config { ticket_keys, ..Config::new(1) }),
            offered: OfferedSessions::default(),
        }
    }

    fn repeat(mut work: impl FnMut() -> bool) -> Result<f64> {
        let mut all = true;
        let took = measured_region(&mut || (0..BATCH).for_each(|_| all &= work()));
        ensure!(all, "every hello can be read");
        Ok(took.as_nanos() as f64 / BATCH as f64)
    }

    /// By `ssl-parse`; nanoseconds for one.
    pub fn parse(&mut self) -> Result<f64> {
        let Reading { bytes, joined, .. } = self;
        Reading::repeat(|| matches!(black_box(ssl_parse::client_hello(black_box(bytes), joined)), Outcome::Complete(_)))
    }

    /// The same, and what it offers, in the form that the affinity tables are asked with: as the engine reads it, where the tables know the key
    /// name of its ticket or identity.
    pub fn identities(&mut self) -> Result<f64> {
        let Reading { bytes, joined, affinity, offered } = self;
        Reading::repeat(|| match ssl_parse::client_hello(black_box(bytes), joined) {
            Outcome::Complete(hello) => {
                offered.read_at_head_of(bytes, &hello, |identity| affinity.identify(identity, Millis(0)));
                !black_box(&offered).identities().is_empty()
            }
            _ => false,
        })
    }

    /// By `tls-parser`, extensions included.
    pub fn tls_parser(&mut self) -> Result<f64> {
        let bytes = &self.bytes;
        Reading::repeat(|| {
            let Ok((_, record)) = tls_parser::parse_tls_plaintext(black_box(bytes)) else { return false };
            let Some(TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello))) = record.msg.first() else {
                return false;
            };
            hello.ext.is_some_and(|ext| black_box(tls_parser::parse_tls_client_hello_extensions(ext)).is_ok())
        })
    }

    /// By the part of `rustls` that reads a hello before a configuration is chosen for it.
    pub fn rustls(&mut self) -> Result<f64> {
        let bytes = &self.bytes;
        Reading::repeat(|| {
            let mut acceptor = rustls::server::Acceptor::default();
            let read = acceptor.read_tls(&mut black_box(&bytes[..]));
            read.is_ok() && matches!(black_box(acceptor.accept()), Ok(Some(_)))
        })
    }
}

/// Batches when instructions are counted.
pub const COUNTED: usize = 2;

/// Hellos of the counted batches.
pub const fn counted() -> usize {
    COUNTED * BATCH
}

/// Measures each kind of hello by each parser, in turns.
pub fn run(rounds: usize, report: &mut Report) -> Result<()> {
    report.begin("parse", Kind::ALL.len());
    for kind in Kind::ALL {
        report.step(kind.words());
        let mut reading = Reading::new(kind);
        let Ok(_) = reading.rustls() else { bail!("rustls cannot read the hello of kind {}", kind.as_str()) };
        let turns = Turns::<4>::take(rounds, || {
            Ok([reading.parse()?, reading.identities()?, reading.tls_parser()?, reading.rustls()?])
        })?;
        let case = kind.words();
        report.add("parse", case, "ssl-parse", turns.median(0), "ns");
        match kind {
            Kind::Ticket | Kind::Psk => {
                report.aim(("parse", case, "to its identities"), turns.median(1), "ns", Target::AtMost(120.0));
            }
            _ => report.add("parse", case, "to its identities", turns.median(1), "ns"),
        }
        report.add("parse", case, "tls-parser", turns.median(2), "ns");
        report.add("parse", case, "rustls", turns.median(3), "ns");
    }
    Ok(())
}
