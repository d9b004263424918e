//! Between the ends and the engine: frames under way, in order, each the same short time.

use crate::engine::{Class, ConnectionRecord, Effects, End, PortId, Told};
use crate::journal::ConnectionLine;
use crate::time::Time;
use crate::wire::packet::{Ip, Tcp};
use core::time::Duration;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::SystemTime;

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
        self.ended.push_back(record.kept(str::to_owned, str::to_owned, <[u8]>::to_vec, <[&str]>::to_vec));
    }
}

/// A [`ConnectionRecord`] that is kept.
pub type Ended = Told<String, String, Vec<u8>, Vec<&'static str>>;

impl Ended {
    /// Of a connection that the engine never heard of.
    pub fn unknown(began: Time, client: SocketAddr, vip: SocketAddr) -> Ended {
        Ended {
            conn: 0,
            began,
            lasted: Duration::ZERO,
            first_byte: None,
            handshake: None,
            client,
            via: None,
            vip,
            service: None,
            pool: None,
            backend: None,
            local: None,
            slot: None,
            class: Class::NonSecure,
            decided: None,
            reason: None,
            identity: Vec::new(),
            offered: Vec::new(),
            tls_version: None,
            sni: None,
            resumed: None,
            bytes_to_server: 0,
            bytes_to_client: 0,
            dial_attempts: 0,
            queue_class: None,
            waited_ms: 0,
            spilled: false,
            end: End::NoBackend,
        }
    }

    /// As a line of the JSON contract. There is no verdict in this form of replay: who issued a session is unknown to it.
    /// `origin` as for [`ConnectionLine::of`].
    pub fn line(&self, intact: bool, origin: SystemTime) -> ConnectionLine<'_> {
        ConnectionLine { verdict: Some(None), intact: Some(Some(intact)), ..ConnectionLine::of(self, origin) }
    }
}
