//! One TCP connection of ours to a server, packets in and packets out: smoltcp, with a link of its own.
//!
//! Each connection has its own, so that none can hold up another, and what there is of one is gone with it.

use crate::time::Time;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use std::net::{IpAddr, SocketAddr};

/// What a server may send before we have read it. Small enough that its window needs no scale, and that no large unit (GRO) of it is longer.
pub const RECEIVE: usize = 8192;
/// What we may have under way: a hello, a request.
const SEND: usize = 4096;

/// A connection.
pub(super) struct Endpoint {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    /// It was open once.
    opened: bool,
}

/// How it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Not answered yet.
    Opening,
    /// Both directions, or at least the server's, may still say something.
    Open,
    /// Over.
    Closed {
        /// Without having been open: it was refused.
        refused: bool,
    },
}

impl Endpoint {
    /// Connects. `seed` makes its first sequence number, `mtu` is the largest IP packet.
    pub fn connect(from: SocketAddr, to: SocketAddr, mtu: u16, seed: u64, now: Time) -> Option<Endpoint> {
        let mut wire = Wire { mtu, arrived: None, leaving: Vec::new() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, instant(now));
        let whole = if from.is_ipv4() { 32 } else { 128 };
        interface.update_ip_addrs(|all| _ = all.push(IpCidr::new(address(from.ip()), whole)));
        let mut socket = Socket::new(SocketBuffer::new(vec![0; RECEIVE]), SocketBuffer::new(vec![0; SEND]));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let ends = ((address(to.ip()), to.port()), (address(from.ip()), from.port()));
        socket.connect(interface.context(), ends.0, ends.1).ok()?;
        let mut sockets = SocketSet::new(vec![]);
        let handle = sockets.add(socket);
        Some(Endpoint { interface, wire, sockets, handle, opened: false })
    }

    /// A packet for it has arrived. What it answers goes out by [`Endpoint::send`], so that who looks at it in between has the last word.
    pub fn receive(&mut self, packet: &[u8], now: Time) {
        self.wire.arrived = Some(packet.to_vec());
        self.interface.poll_ingress_single(instant(now), &mut self.wire, &mut self.sockets);
        self.wire.arrived = None;
        self.opened |= self.socket().may_recv();
    }

    /// What it has to send, repetitions included.
    pub fn send(&mut self, now: Time, out: &mut dyn FnMut(&[u8])) {
        self.interface.poll_maintenance(instant(now));
        self.interface.poll_egress(instant(now), &mut self.wire, &mut self.sockets);
        self.wire.leaving.drain(..).for_each(|packet| out(&packet));
    }

    /// When [`Endpoint::send`] has something again, as far as is known.
    pub fn due(&mut self, now: Time) -> Option<Time> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(Time::from_nanos(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000)).max(now))
    }

    pub fn standing(&mut self) -> Standing {
        match self.socket().state() {
            State::SynSent | State::SynReceived | State::Listen => Standing::Opening,
            State::Closed => Standing::Closed { refused: !self.opened },
            State::TimeWait => Standing::Closed { refused: false },
            _ => Standing::Open,
        }
    }

    /// Both ends have said that they have no more to say, or one of them has broken it off.
    pub fn is_over(&mut self) -> bool {
        matches!(self.socket().state(), State::Closed | State::TimeWait)
    }

    /// The server will say nothing more, and all it said has been read.
    pub fn is_at_end(&mut self) -> bool {
        !self.socket().may_recv()
    }

    /// Reads what there is.
    pub fn read(&mut self, buf: &mut Vec<u8>) {
        let socket = self.socket();
        while socket.can_recv() {
            let read = socket.recv(|bytes| {
                buf.extend_from_slice(bytes);
                (bytes.len(), ())
            });
            if read.is_err() {
                return;
            }
        }
    }

    /// Writes as much as there is room for; says how much.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let socket = self.socket();
        if socket.can_send() { socket.send_slice(bytes).unwrap_or(0) } else { 0 }
    }

    /// We have no more to say.
    pub fn close(&mut self) {
        self.socket().close();
    }

    /// Breaks it off by a reset.
    pub fn abort(&mut self) {
        self.socket().abort();
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

fn instant(now: Time) -> Instant {
    Instant::from_micros(i64::try_from(now.as_nanos() / 1000).unwrap_or(i64::MAX))
}

fn address(ip: IpAddr) -> IpAddress {
    ip.to_canonical().into()
}

/// The link: one packet in, some out.
struct Wire {
    mtu: u16,
    arrived: Option<Vec<u8>>,
    leaving: Vec<Vec<u8>>,
}

struct Arrived(Vec<u8>);

struct Leaving<'a>(&'a mut Vec<Vec<u8>>);

impl Device for Wire {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        Some((Arrived(self.arrived.take()?), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut can = DeviceCapabilities::default();
        can.medium = Medium::Ip;
        can.max_transmission_unit = usize::from(self.mtu);
        // Who hands packets in has looked at their sums; those of large units, and over virtual links, are not there yet.
        can.checksum.ipv4 = Checksum::Tx;
        can.checksum.tcp = Checksum::Tx;
        can
    }
}

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let done = f(&mut packet);
        self.0.push(packet);
        done
    }
}
