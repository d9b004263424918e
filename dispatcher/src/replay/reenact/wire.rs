//! Between the ends and the engine: frames under way, in order, each the same short time.

use crate::engine::{Class, ConnectionRecord, Effects, End, PortId};
use crate::journal::{ConnectionLine, VersionName, told};
use crate::time::Time;
use crate::wire::packet::{Ip, Tcp};
use core::time::Duration;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// How long a frame takes from an end to the engine, or back.
pub const LATENCY: Duration = Duration::from_micros(20);

/// A TCP segment that has arrived, its headers read.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    /// The whole frame.
    pub frame: &'a [u8],
    /// Its IP header.
    pub ip: Ip,
    /// Its TCP header.
    pub tcp: Tcp,
}

impl Heard<'_> {
    /// The option bytes.
    pub fn options(&self) -> &[u8] {
        &self.frame[self.tcp.header + 20..self.tcp.payload]
    }
}

/// A frame under way.
pub struct Flight {
    /// When it arrives.
    pub at: Time,
    /// The engine's port it goes to, or came from.
    pub port: PortId,
    /// To the engine, or from it.
    pub inbound: bool,
    /// The frame.
    pub bytes: Vec<u8>,
}

/// Loses frames, the same ones every time.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// So many of a thousand.
    pub per_mille: u16,
    /// Any number but 0.
    pub seed: u64,
}

impl Loss {
    /// The next frame is lost. (xorshift64*, Vigna 2016.)
    fn strikes(&mut self) -> bool {
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        (self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % 1000 < u64::from(self.per_mille)
    }
}

/// Frames under way, and what the engine has told.
#[derive(Default)]
pub struct Wire {
    /// Frames that get lost; none in an ordinary re-enactment.
    pub loss: Option<Loss>,
    /// Frames that were lost.
    pub lost: u64,
    now: Time,
    flights: VecDeque<Flight>,
    spare: Vec<Vec<u8>>,
    /// Payloads are put together here.
    pub payload: Vec<u8>,
    /// Connections that have ended, in this order.
    pub ended: VecDeque<Ended>,
}

/// Empty buffers kept.
const SPARE: usize = 1024;

impl Wire {
    /// When the next frame arrives.
    pub fn due(&self) -> Option<Time> {
        self.flights.front().map(|f| f.at)
    }

    /// The next frame, if it has arrived.
    pub fn arrived(&mut self, now: Time) -> Option<Flight> {
        if self.due()? <= now { self.flights.pop_front() } else { None }
    }

    /// It is `now`.
    pub fn set_now(&mut self, now: Time) {
        self.now = now;
    }

    /// Sends a frame of `len` bytes to the engine.
    pub fn to_engine(&mut self, port: PortId, now: Time, len: usize, write: impl FnOnce(&mut [u8])) {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.resize(len, 0);
        write(&mut bytes);
        self.send(Flight { at: now + LATENCY, port, inbound: true, bytes });
    }

    /// Sends a frame from the engine.
    pub fn from_engine(&mut self, port: PortId, now: Time, frame: &[u8]) {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(frame);
        self.send(Flight { at: now + LATENCY, port, inbound: false, bytes });
    }

    fn send(&mut self, flight: Flight) {
        if self.loss.as_mut().is_some_and(Loss::strikes) {
            self.lost += 1;
            self.recycle(flight.bytes);
        } else {
            self.flights.push_back(flight);
        }
    }

    /// Gives a buffer back.
    pub fn recycle(&mut self, bytes: Vec<u8>) {
        if self.spare.len() < SPARE {
            self.spare.push(bytes);
        }
    }
}

impl Effects for Wire {
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> bool {
        self.from_engine(port, self.now, frame);
        true
    }

    fn connection_ended(&mut self, record: &ConnectionRecord<'_>) {
        self.ended.push_back(record.into());
    }
}

/// A [`ConnectionRecord`] that owns what it says.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields of ConnectionRecord")]
pub struct Ended {
    pub conn: u64,
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub service: Option<String>,
    pub pool: Option<String>,
    pub backend: Option<String>,
    pub class: &'static str,
    pub decided: Option<String>,
    pub reason: &'static str,
    pub identity: Vec<u8>,
    pub offered: Vec<&'static str>,
    pub tls_version: Option<u16>,
    pub sni: Option<String>,
    pub resumed: Option<bool>,
    pub bytes_to_server: u64,
    pub bytes_to_client: u64,
    pub dial_attempts: u32,
    pub end: End,
}

impl From<&ConnectionRecord<'_>> for Ended {
    fn from(r: &ConnectionRecord<'_>) -> Ended {
        Ended {
            conn: r.conn,
            client: r.client,
            vip: r.vip,
            service: r.service.map(str::to_owned),
            pool: r.pool.map(str::to_owned),
            backend: r.backend.map(str::to_owned),
            class: r.class.as_str(),
            decided: r.decided.map(str::to_owned),
            reason: r.reason,
            identity: r.identity.to_vec(),
            offered: r.offered.to_vec(),
            tls_version: r.tls_version,
            sni: r.sni.map(str::to_owned),
            resumed: r.resumed,
            bytes_to_server: r.bytes_to_server,
            bytes_to_client: r.bytes_to_client,
            dial_attempts: r.dial_attempts,
            end: r.end,
        }
    }
}

impl Ended {
    /// Of a connection that the engine never heard of.
    pub fn unknown(client: SocketAddr, vip: SocketAddr) -> Ended {
        Ended {
            conn: 0,
            client,
            vip,
            service: None,
            pool: None,
            backend: None,
            class: Class::NonSecure.as_str(),
            decided: None,
            reason: "balanced",
            identity: Vec::new(),
            offered: Vec::new(),
            tls_version: None,
            sni: None,
            resumed: None,
            bytes_to_server: 0,
            bytes_to_client: 0,
            dial_attempts: 0,
            end: End::NoBackend,
        }
    }

    /// As a line of the JSON contract. There is no verdict in this form of replay: who issued a session is unknown to it.
    pub fn line(&self, intact: bool) -> ConnectionLine<'_> {
        ConnectionLine {
            conn: self.conn,
            client: self.client,
            vip: self.vip,
            backend: self.backend.as_deref(),
            class: self.class,
            decided: self.decided.as_deref(),
            verdict: Some(None),
            reason: self.reason,
            identity: &self.identity,
            offered: &self.offered,
            tls_version: self.tls_version.map(VersionName),
            sni: self.sni.as_deref(),
            resumed: self.resumed,
            bytes_to_server: self.bytes_to_server,
            bytes_to_client: self.bytes_to_client,
            dial_attempts: self.dial_attempts,
            intact: Some(Some(intact)),
            end: self.end.as_str(),
            service: told(self.service.as_deref()),
            pool: told(self.pool.as_deref()),
        }
    }
}
