//! Whole connections of twelve frames: handshake, hello, dial, answer, a request and its response, and both FINs.

use crate::figure::{Report, Target};
use crate::forward::{Known, SMALL, Work};
use crate::peers::{BURST, Burst, Conversation, From, World};
use crate::region::{Turns, measured_region};
use anyhow::{Result, ensure};
use core::time::Duration;
use dispatcher::wire::packet::Flags;
use sim::tls::{Flight, Hello};

/// Frames that come in for one connection.
pub const FRAMES: usize = 12;

/// What the client begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// No TLS.
    Http,
    /// A hello without an identity.
    NoIdentity,
    /// A TLS 1.2 hello with a session ID that has a row.
    SessionId,
    /// A TLS 1.3 hello with a PSK identity whose key name has a row.
    KeyName,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Http, Kind::NoIdentity, Kind::SessionId, Kind::KeyName];

    /// As on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Http => "http",
            Kind::NoIdentity => "no-identity",
            Kind::SessionId => "session-id",
            Kind::KeyName => "key-name",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Kind::Http => "no TLS",
            Kind::NoIdentity => "hello without identity",
            Kind::SessionId => "session ID known",
            Kind::KeyName => "key name known",
        }
    }

    /// Millions a second.
    const fn target(self) -> Option<Target> {
        match self {
            Kind::Http => None,
            Kind::NoIdentity | Kind::SessionId => Some(Target::AtLeast(0.8)),
            Kind::KeyName => Some(Target::AtLeast(0.7)),
        }
    }

    fn hello(self, n: u8) -> Vec<u8> {
        let hello = Hello { at_least: 517, random: [n; 32], ..Hello::default() };
        match self {
            Kind::Http => b"GET / HTTP/1.0\r\n\r\n".to_vec(),
            Kind::NoIdentity => Hello { tls13: true, session_id: vec![n ^ 0x55; 32], ..hello }.bytes(),
            Kind::SessionId => Hello { session_id: vec![n; 32], ..hello }.bytes(),
            Kind::KeyName => {
                let identity = [&[7; 16][..], &[n; 176]].concat();
                Hello { tls13: true, session_id: vec![n ^ 0x55; 32], psk: vec![identity], ..hello }.bytes()
            }
        }
    }

    fn answer(self, n: u8) -> Vec<u8> {
        let flight = |tls13, session_id, resumed| Flight {
            tls13,
            session_id,
            psk_selected: tls13 && resumed,
            ticket: None,
            resumed,
            random: [0; 32],
        };
        let mut bytes = match self {
            Kind::Http => b"HTTP/1.0 200 OK\r\n\r\n".to_vec(),
            Kind::NoIdentity => flight(true, vec![n ^ 0x55; 32], false).bytes(),
            Kind::SessionId => flight(false, vec![n; 32], true).bytes(),
            Kind::KeyName => flight(true, vec![n ^ 0x55; 32], true).bytes(),
        };
        bytes.truncate(1400);
        bytes
    }
}

/// What a client says that comes back with session `n`.
pub fn hello_of_session(n: u8) -> Vec<u8> {
    Kind::SessionId.hello(n)
}

/// What a server says that resumes session `n`.
pub fn answer_of_session(n: u8) -> Vec<u8> {
    Kind::SessionId.answer(n)
}

/// Connections of one kind, 64 in step.
pub struct Steps {
    world: World,
    kind: Kind,
    burst: Burst,
    next: usize,
}

impl Steps {
    /// With 32 servers, and the rows that the kind needs.
    pub fn new(kind: Kind) -> Result<Steps> {
        let mut steps = Steps { world: World::new(32, 1 << 16)?, kind, burst: Burst::new(BURST), next: 0 };
        // Twice: a prefix is a key name when it was seen with two identities.
        steps.round()?;
        steps.round()?;
        Ok(steps)
    }

    /// 64 connections from SYN to last acknowledgement; how long the engine took for all their frames.
    pub fn round(&mut self) -> Result<Duration> {
        let mut who: Vec<Conversation> = (self.next..self.next + BURST).map(Conversation::new).collect();
        self.next += BURST;
        let fin = Flags(Flags::FIN.0 | Flags::ACK.0);
        let syn_ack = Flags(Flags::SYN.0 | Flags::ACK.0);
        let kind = self.kind;
        type Payload<'a> = &'a dyn Fn(u8) -> Vec<u8>;
        let none: Payload<'_> = &|_| vec![];
        let steps: [(From, Flags, Payload<'_>); FRAMES] = [
            (From::Client, Flags::SYN, none),
            (From::Client, Flags::ACK, none),
            (From::Client, Flags::ACK, &|n| kind.hello(n)),
            (From::Server, syn_ack, none),
            (From::Server, Flags::ACK, &|n| kind.answer(n)),
            (From::Client, Flags::ACK, none),
            (From::Client, Flags::ACK, &|_| vec![0xe7; 300]),
            (From::Server, Flags::ACK, &|_| vec![0xe7; 1400]),
            (From::Client, Flags::ACK, none),
            (From::Server, fin, none),
            (From::Client, fin, none),
            (From::Server, Flags::ACK, none),
        ];
        let mut took = Duration::ZERO;
        for (from, flags, payload) in steps {
            self.burst.clear();
            for (n, c) in who.iter_mut().enumerate() {
                self.burst.push(from, &c.says(from, flags, &payload(n as u8 + 1)));
            }
            let Steps { world, burst, .. } = self;
            took += measured_region(&mut || world.take(burst));
            world.hear(burst, &mut who);
        }
        // Behind their TIME-WAIT.
        for _ in 0..4 {
            self.world.pass(Duration::from_secs(20));
        }
        ensure!(self.world.engine.flows() == 0, "{} connections did not end", self.world.engine.flows());
        Ok(took)
    }
}

/// Measures `rounds` rounds of 64 connections of each kind, in turns with swaps of the Ethernet addresses of as many frames.
pub fn run(rounds: usize, report: &mut Report) -> Result<()> {
    report.begin("connect", Kind::ALL.len());
    let mut known = Known::new(1000, SMALL)?;
    for kind in Kind::ALL {
        report.step(kind.as_str());
        let mut steps = Steps::new(kind)?;
        let turns = Turns::<2>::take(rounds, || {
            let swap = known.batch(Work::MacSwap)? * FRAMES as f64;
            Ok([steps.round()?.as_nanos() as f64 / BURST as f64, swap])
        })?;
        let (case, ns) = (kind.words(), turns.median(0));
        report.add("connect", case, "a connection", ns, "ns");
        report.add("connect", case, "over MAC swaps", turns.ratio(0, 1), "ratio");
        let rate = 1e3 / ns;
        match kind.target() {
            Some(target) => report.aim(("connect", case, "connections"), rate, "million/s", target),
            None => report.add("connect", case, "connections", rate, "million/s"),
        }
    }
    Ok(())
}

/// Rounds when instructions are counted.
pub const COUNTED: usize = 10;
