//! The far ends of tunnels: frames to servers are unwrapped as they leave the engine, and those of servers wrapped before it has them, so that the rest
//! of the world knows nothing of it.
//!
//! Written by the RFCs and not by what is tested: it shares no code with it.

use dispatcher::engine::{Config, DropReason, Sealed, Unsealed};
use dispatcher::wire::Addr;
use lb::{Tunnel, TunnelKind};
use std::collections::HashMap;
use std::net::SocketAddr;

/// The servers behind tunnels, by address; each tunnel ends at the server itself.
pub struct FarEnds {
    tunnels: HashMap<Addr, Tunnel>,
    /// Largest IP packet.
    mtu: usize,
}

/// The same configuration, where each server is behind a tunnel that ends at its own address.
pub fn behind(mut config: Config, kind: TunnelKind) -> Config {
    for pool in &mut config.wanted.pools {
        for backend in &mut pool.backends {
            let port = match kind {
                TunnelKind::Ipip => 0,
                TunnelKind::Gue => lb::tunnel::GUE_PORT,
                TunnelKind::Vxlan { .. } => lb::tunnel::VXLAN_PORT,
                TunnelKind::Wireguard { .. } => lb::tunnel::WIREGUARD_PORT,
            };
            backend.tunnel = Some(Tunnel { kind, endpoint: SocketAddr::new(backend.addr.ip(), port) });
        }
    }
    if matches!(kind, TunnelKind::Wireguard { .. }) {
        config.sealers = 1;
        // Within it we are another address than that where it begins.
        for port in &mut config.ports {
            for (own, within) in [("10.2.0.1", "10.2.0.2"), ("fd02::1", "fd02::2")] {
                if let Some((_, prefix)) = port.addresses.iter().find(|(ip, _)| *ip == crate::config::ip(own)).copied()
                {
                    port.addresses.push((crate::config::ip(within), prefix));
                }
            }
        }
    }
    config
}

/// Each kind once.
pub const KINDS: [TunnelKind; 4] =
    [TunnelKind::Ipip, TunnelKind::Gue, TunnelKind::Vxlan { vni: 0x00ab_cdef, mac: [2, 0, 0, 0, 0x5a, 1] }, SEALED];

/// One whose packets are sealed, here on paper: see [`seal`].
pub const SEALED: TunnelKind = TunnelKind::Wireguard { public_key: [0x5a; 32] };

const TAG: [u8; 16] = *b"sealed on paper.";

/// A seal that hides nothing and holds nobody off, of the size of the real one: type, receiver and a counter of zero, the packet with each bit of it turned round, padded to a
/// multiple of sixteen bytes, and a tag.
pub fn seal(packet: &[u8], out: &mut [u8]) -> Sealed {
    let mut message = vec![0; 16];
    message[0] = 4;
    message.extend(packet.iter().map(|b| !b));
    message.resize(16 + packet.len().next_multiple_of(16), 0xff);
    message.extend(TAG);
    out[..message.len()].copy_from_slice(&message);
    Sealed::Message(message.len())
}

/// Opens it.
pub fn unseal(message: &[u8], out: &mut [u8]) -> Unsealed {
    let Some((sealed, tag)) = message.split_last_chunk::<16>() else {
        return Unsealed::Lost(DropReason::TunnelMalformed);
    };
    if *tag != TAG || sealed.len() < 16 {
        return Unsealed::Lost(DropReason::TunnelUnopened);
    }
    let packet: Vec<u8> = sealed[16..].iter().map(|b| !b).collect();
    let len = match packet.first().map(|b| b >> 4) {
        Some(4) if packet.len() >= 20 => be(&packet[2..4]),
        Some(6) if packet.len() >= 40 => 40 + be(&packet[4..6]),
        _ => return Unsealed::Lost(DropReason::TunnelMalformed),
    };
    let Some(packet) = packet.get(..len) else { return Unsealed::Lost(DropReason::TunnelMalformed) };
    out[..len].copy_from_slice(packet);
    Unsealed::Packet(len)
}

fn be(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte))
}

/// The packet in a frame, and where it begins; none for a frame that has no IP packet.
fn packet_of(frame: &[u8]) -> Option<(usize, &[u8])> {
    let mut at = 12;
    while matches!(be(frame.get(at..at + 2)?), 0x8100 | 0x88a8 | 0x9100) {
        at += 4;
    }
    matches!(be(&frame[at..at + 2]), 0x0800 | 0x86dd).then(|| (at + 2, &frame[at + 2..]))
}

/// Source and destination of the IP packet that begins here.
fn ends(packet: &[u8]) -> Option<(Addr, Addr)> {
    let v6 = |at: usize| Addr(packet[at..at + 16].try_into().expect("16 bytes"));
    let v4 = |at: usize| Addr::v4(packet[at..at + 4].try_into().expect("4 bytes"));
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => Some((v4(12), v4(16))),
        6 if packet.len() >= 40 => Some((v6(8), v6(24))),
        _ => None,
    }
}

/// The ones' complement sum of RFC 1071, as it is written there.
fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut total: u32 = bytes.chunks(2).map(|c| be(&[c[0], *c.get(1).unwrap_or(&0)]) as u32).sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

impl FarEnds {
    /// Of a configuration; none where no server has a tunnel.
    pub fn of(config: &Config) -> Option<FarEnds> {
        let all = config.backends().into_iter().filter_map(|b| Some((Addr::from(b.addr.ip()), b.tunnel?)));
        let tunnels: HashMap<_, _> = all.collect();
        let mtu = config.ports.iter().map(|port| usize::from(port.mtu)).min().unwrap_or(1500);
        (!tunnels.is_empty()).then_some(FarEnds { tunnels, mtu })
    }

    /// What a server behind a tunnel gets of a frame; none for a frame that goes to nobody behind one.
    ///
    /// # Panics
    /// When the frame is none that such a server would take.
    pub fn unwrapped(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let (at, packet) = packet_of(frame)?;
        let (src, dst) = ends(packet)?;
        let tunnel = self.tunnels.get(&dst)?;
        let v6 = packet[0] >> 4 == 6;
        let (header, protocol) = if v6 { (40, packet[6]) } else { (20, packet[9]) };
        // Its neighbours are asked plainly.
        if protocol == 58 && matches!(packet[40], 133..=136) {
            return None;
        }
        assert!(packet.len() <= self.mtu, "{} bytes do not fit", packet.len());
        let total = if v6 { 40 + be(&packet[4..6]) } else { be(&packet[2..4]) };
        assert_eq!(total, packet.len(), "the outer length");
        if !v6 {
            assert_eq!((packet[0], sum(&[&packet[..20]])), (0x45, 0), "the outer header");
            assert_eq!(packet[6] & 0xc0, 0x40, "don't fragment");
        }
        let inner = match tunnel.kind {
            TunnelKind::Ipip => {
                assert!(matches!(protocol, 4 | 41), "protocol {protocol} to a server behind ipip");
                &packet[header..]
            }
            TunnelKind::Wireguard { .. } => {
                assert_eq!(protocol, 17, "to a server behind wireguard");
                let udp = &packet[header..];
                assert_eq!((be(&udp[..2]), be(&udp[2..4]), be(&udp[4..6])), (51820, 51820, udp.len()));
                if v6 {
                    let pseudo = [&src.0[..], &dst.0[..], &[0, 0, udp[4], udp[5], 0, 0, 0, 17]].concat();
                    assert_eq!(sum(&[&pseudo, udp]), 0, "the checksum");
                }
                let mut out = vec![0; udp.len()];
                let Unsealed::Packet(n) = unseal(&udp[8..], &mut out) else { panic!("what does not open") };
                out.truncate(n);
                let kind: u16 = if out[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
                return Some([&frame[..at - 2], &kind.to_be_bytes(), &out].concat());
            }
            TunnelKind::Gue | TunnelKind::Vxlan { .. } => {
                assert_eq!(protocol, 17, "to a server behind {}", tunnel.kind.as_str());
                let udp = &packet[header..];
                assert_eq!((be(&udp[2..4]), be(&udp[4..6])), (usize::from(tunnel.endpoint.port()), udp.len()));
                assert!(be(&udp[..2]) >= 0xc000, "a port from the dynamic ones");
                if v6 {
                    let pseudo = [&src.0[..], &dst.0[..], &[0, 0, udp[4], udp[5], 0, 0, 0, 17]].concat();
                    assert_eq!(sum(&[&pseudo, udp]), 0, "the checksum");
                }
                match tunnel.kind {
                    TunnelKind::Vxlan { vni, mac } => {
                        assert_eq!(udp[8..16], [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes()].concat());
                        assert_eq!(udp[16..22], mac);
                        &udp[30..]
                    }
                    _ => {
                        assert_eq!((udp[8], &udp[10..12]), (0, &[0, 0][..]));
                        assert_eq!(udp[9], if udp[12] >> 4 == 4 { 4 } else { 41 });
                        &udp[12..]
                    }
                }
            }
        };
        let kind: u16 = if inner[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
        Some([&frame[..at - 2], &kind.to_be_bytes(), inner].concat())
    }

    /// What comes of a frame of a server behind a tunnel; none for one that is of nobody behind one.
    pub fn wrapped(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let (at, packet) = packet_of(frame)?;
        let (src, _) = ends(packet)?;
        let tunnel = self.tunnels.get(&src)?;
        let v6 = packet[0] >> 4 == 6;
        let carries = if v6 { packet[6] } else { packet[9] };
        // Somebody has wrapped it himself, or it is about neighbours.
        if matches!(carries, 4 | 41 | 17) || carries == 58 && matches!(packet.get(40), Some(133..=136)) {
            return None;
        }
        let total = if v6 { 40 + be(&packet[4..6]) } else { be(&packet[2..4]) };
        let packet = &packet[..total.min(packet.len())];
        let inner_protocol = if v6 { 41 } else { 4 };
        let mut sealed = vec![0; packet.len() + 64];
        let shim = match tunnel.kind {
            TunnelKind::Wireguard { .. } => {
                if let Sealed::Message(n) = seal(packet, &mut sealed) {
                    sealed.truncate(n);
                }
                sealed
            }
            TunnelKind::Ipip => vec![],
            TunnelKind::Gue => vec![0, inner_protocol, 0, 0],
            TunnelKind::Vxlan { vni, mac } => {
                let kind: u16 = if v6 { 0x86dd } else { 0x0800 };
                let vni = (vni << 8).to_be_bytes();
                [&[8, 0, 0, 0][..], &vni, &frame[..6], &mac, &kind.to_be_bytes()].concat()
            }
        };
        let seals = tunnel.seals().is_some();
        let mut body = if seals { shim } else { [&shim[..], packet].concat() };
        let mut protocol = inner_protocol;
        if tunnel.kind != TunnelKind::Ipip {
            let len = (body.len() + 8) as u16;
            let port = tunnel.endpoint.port().to_be_bytes();
            let from = if seals { port } else { [0xd0, 1] };
            body = [&from[..], &port, &len.to_be_bytes(), &[0, 0], &body].concat();
            protocol = 17;
        }
        // To the address that the dispatcher wraps from: the tests have one a port and family.
        let ours = if v6 { crate::config::ip("fd02::1") } else { crate::config::ip("10.2.0.1") };
        let ours = Addr::from(ours);
        let len = body.len() as u16;
        let header = if v6 {
            [&[0x60, 0, 0, 0][..], &len.to_be_bytes(), &[protocol, 60], &src.0, &ours.0].concat()
        } else {
            let mut h = [&[0x45, 0][..], &(len + 20).to_be_bytes(), &[0, 0, 0x40, 0, 60, protocol, 0, 0]].concat();
            h.extend([&src.0[12..], &ours.0[12..]].concat());
            let check = sum(&[&h]);
            h[10..12].copy_from_slice(&check.to_be_bytes());
            h
        };
        Some([&frame[..at], &header, &body].concat())
    }
}
