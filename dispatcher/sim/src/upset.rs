//! What befalls machines and links: backends that crash and come back, an engine that stands still, a clock that leaps, paths that
//! become narrow.

use crate::host::Host;
use crate::links::To;
use crate::world::World;
use core::time::Duration;
use dispatcher::engine::AddressMode;
use dispatcher::wire::Addr;
use dispatcher::wire::build::{Link, Segment};
use dispatcher::wire::checksum;
use dispatcher::wire::packet::{Flags, Ip, Packet, Tcp, ethertype, protocol};
use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp;
use std::net::SocketAddr;

impl World {
    /// A server's machine loses power: nothing is answered, and all connections and sessions are forgotten.
    pub fn crash(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        h.dark = true;
        h.sockets = SocketSet::new(vec![]);
        h.server_conns.clear();
        h.listening = 0;
        if let Some(server) = &mut h.server {
            server.forget_sessions();
        }
    }

    /// It is back.
    pub fn restart(&mut self, host: usize) {
        self.hosts[host].dark = false;
        self.hosts[host].next = self.now;
    }

    /// The engine does nothing for so long; its frames wait, none is lost.
    pub fn stop_engine(&mut self, time: Duration) {
        self.stopped_until = self.stopped_until.max(self.now + time);
    }

    /// The engine's clock leaps ahead.
    pub fn leap(&mut self, time: Duration) {
        self.ahead += time;
    }

    /// IP packets longer than this do not pass a port's wire any more.
    pub fn narrow(&mut self, port: usize, mtu: usize) {
        self.path_mtu[port] = mtu;
    }

    /// A frame leaves the engine.
    ///
    /// # Panics
    /// When it tells a server of a client's narrow path, though the server knows all clients by one address: it would send small
    /// packets to every one of them.
    pub(crate) fn stays_with_its_flow(&self, frame: &[u8]) {
        let Ok(Packet { ip, .. }) = Packet::parse(frame) else { return };
        let too_big = match ip.protocol {
            protocol::ICMP => frame[ip.payload..].starts_with(&[3, 4]),
            protocol::ICMPV6 => frame[ip.payload..].first() == Some(&2),
            _ => false,
        };
        let server = self.config.backends().iter().any(|b| b.addr.ip() == ip.dst.ip());
        assert!(
            !(too_big && server && self.config.address_mode == AddressMode::Snat),
            "a server hears of a client's path"
        );
    }

    /// Whether a router on a port's wire throws the frame away as too long, and tells its sender: a host, or the engine.
    pub(crate) fn too_long(&mut self, port: usize, frame: &[u8], from: Option<usize>) -> bool {
        let mtu = self.path_mtu[port];
        if frame.len() <= mtu.saturating_add(14) {
            return false;
        }
        let Ok(p) = Packet::parse(frame) else { return false };
        if p.ip.end - p.ip.header <= mtu {
            return false;
        }
        let error = packet_too_big(&p.ip, frame, mtu as u16, self.config.ports[port].mac.0);
        match from {
            // A host's own router tells it.
            Some(host) => self.put(self.now, To::Host(host), error),
            None => self.put(self.now, To::Engine(port), error),
        }
        true
    }
}

/// ICMP's "fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443) about an untagged packet, from a router in between.
fn packet_too_big(ip: &Ip, frame: &[u8], mtu: u16, to: [u8; 6]) -> Vec<u8> {
    let v6 = ip.src.ip().is_ipv6();
    let quote = &frame[ip.header..frame.len().min(ip.header + if v6 { 1200 } else { 28 })];
    let [hi, lo] = mtu.to_be_bytes();
    let router = Addr::from(if v6 { crate::config::ip("fd0f::1") } else { crate::config::ip("10.15.0.1") });
    let dst = ip.src;
    let (kind, code) = if v6 { (2, 0) } else { (3, 4) };
    let mut message = [&[kind, code, 0, 0, 0, 0, hi, lo][..], quote].concat();
    let (kind, mut head) = if v6 {
        let sum = checksum::transport(router.octets(), dst.octets(), protocol::ICMPV6, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let len = (message.len() as u16).to_be_bytes();
        ([0x86, 0xdd], [&[0x60, 0, 0, 0][..], &len, &[protocol::ICMPV6, 64], router.octets(), dst.octets()].concat())
    } else {
        let sum = checksum::Sum::default().add_bytes(&message).checksum();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let len = (20 + message.len() as u16).to_be_bytes();
        let mut head =
            [&[0x45, 0][..], &len, &[0, 0, 0, 0, 60, protocol::ICMP, 0, 0], router.octets(), dst.octets()].concat();
        let sum = checksum::Sum::default().add_bytes(&head).checksum();
        head[10..12].copy_from_slice(&sum.to_be_bytes());
        ([8, 0], head)
    };
    head.extend(message);
    [&to[..], &crate::script::STRANGER_MAC.0, &kind, &head].concat()
}

impl Host {
    /// Takes a router's word that packets are too long, as a system's IP layer does for TCP (smoltcp's does not).
    ///
    /// # Panics
    /// When it is about a packet that cannot be of this host: the engine translated it wrongly.
    pub(crate) fn heeds(&mut self, frame: &[u8]) -> bool {
        let Ok(p) = Packet::parse(frame) else { return false };
        let b = &frame[p.ip.payload..p.ip.end];
        let about = match (p.ip.protocol, b.first(), b.get(1)) {
            (protocol::ICMP, Some(3), Some(4)) => ethertype::IPV4,
            (protocol::ICMPV6, Some(2), Some(0)) => ethertype::IPV6,
            _ => return false,
        };
        let intact = match p.ip.protocol {
            protocol::ICMP => checksum::Sum::default().add_bytes(b).checksum() == 0,
            _ => checksum::transport(p.ip.src.octets(), p.ip.dst.octets(), protocol::ICMPV6, b) == 0,
        };
        if !intact {
            return true;
        }
        let mtu = usize::from(u16::from_be_bytes([b[6], b[7]]));
        let (from, to) = quoted(&b[8..], about).expect("a quote");
        let known = self.sockets.iter().any(|(_, socket)| {
            let smoltcp::socket::Socket::Tcp(socket) = socket;
            ends(socket) == Some((from, to))
        });
        assert!(self.has_address(from.ip()), "an error about {from} -> {to}, which this host has not sent");
        if known {
            self.path_mtu = self.path_mtu.min(mtu.max(if about == ethertype::IPV4 { 576 } else { 1280 }));
        }
        true
    }
}

/// A frame in as many as it takes for IP packets of `mtu` bytes, as segmentation offload cuts it: smoltcp asks for the MTU only once.
pub(crate) fn cut(frame: Vec<u8>, mtu: usize) -> Vec<Vec<u8>> {
    if frame.len() <= mtu.saturating_add(14) {
        return vec![frame];
    }
    let Ok(p) = Packet::parse(&frame) else { return vec![frame] };
    let (Ok(t), protocol::TCP) = (Tcp::parse(&frame, &p.ip), p.ip.protocol) else { return vec![frame] };
    let room = mtu - (t.payload - p.ip.header);
    let payload = &frame[t.payload..t.end];
    let last = payload.chunks(room).count() - 1;
    let pieces = payload.chunks(room).enumerate().map(|(n, piece)| {
        let end = if n == last { 0 } else { Flags::FIN.0 | Flags::PSH.0 };
        let segment = Segment {
            link: Link { dst: p.eth.dst, src: p.eth.src, vlans: p.eth.vlans },
            src: (p.ip.src, t.src_port),
            dst: (p.ip.dst, t.dst_port),
            seq: t.seq + (n * room) as u32,
            ack: t.ack,
            flags: Flags(t.flags.0 & !end),
            window: t.window,
            options: &frame[t.header + 20..t.payload],
            payload: piece,
        };
        let mut b = vec![0; segment.frame_len()];
        segment.write(&mut b);
        b
    });
    pieces.collect()
}

fn ends(socket: &tcp::Socket<'_>) -> Option<(SocketAddr, SocketAddr)> {
    let address = |e: smoltcp::wire::IpEndpoint| SocketAddr::new(e.addr.into(), e.port);
    Some((address(socket.local_endpoint()?), address(socket.remote_endpoint()?)))
}

/// Source and destination of the segment that an ICMP error quotes.
fn quoted(b: &[u8], kind: u16) -> Option<(SocketAddr, SocketAddr)> {
    let port = |at: usize| Some(u16::from_be_bytes([*b.get(at)?, *b.get(at + 1)?]));
    if kind == ethertype::IPV4 {
        let l4 = usize::from(b.first()? & 15) * 4;
        let ip = |at: usize| Some(<[u8; 4]>::try_from(b.get(at..at + 4)?).ok()?.into());
        return Some((SocketAddr::new(ip(12)?, port(l4)?), SocketAddr::new(ip(16)?, port(l4 + 2)?)));
    }
    let ip = |at: usize| Some(<[u8; 16]>::try_from(b.get(at..at + 16)?).ok()?.into());
    Some((SocketAddr::new(ip(8)?, port(40)?), SocketAddr::new(ip(24)?, port(42)?)))
}
