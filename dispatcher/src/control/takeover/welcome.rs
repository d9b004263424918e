//! What the old process tells first: all that the new one must know before it builds anything.

use super::{PROTOCOL, WELCOME, cards, pack_all, unpack_all};
use crate::control::service::Watched;
use crate::engine::{AddressMode, Config};
use crate::io::cards::Told;
use crate::pack::{Ids, Pack, Packer, Unpacker, Unreadable};
use core::time::Duration;
use lb::{Directory, Left, LeftBackend, Tunnel, TunnelKind};
use std::net::SocketAddr;

/// What cannot be another in the process that takes over: connections depend on it. Each line in words.
pub(super) fn fixed(config: &Config) -> Vec<String> {
    let mode = if config.address_mode == AddressMode::Dnat { "dnat" } else { "snat" };
    let mut lines = vec![format!("address mode {mode}")];
    for port in &config.ports {
        let addresses: Vec<String> = port.addresses.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect();
        let vlans: Vec<String> = port.vlans.iter().map(|id| id.to_string()).collect();
        let [a, b, c, d, e, f] = port.mac.0;
        lines.push(format!(
            "port '{}' {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, addresses {}, tags {}, MTU {}",
            port.name,
            addresses.join(" "),
            vlans.join(" "),
            port.mtu
        ));
    }
    lines
}

/// What the old one tells first.
pub(super) struct Welcome {
    pub(super) secret: [u8; 32],
    pub(super) origin: Duration,
    pub(super) fixed: Vec<String>,
    pub(super) left: Left,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) watched: Watched,
    pub(super) version: String,
    /// What is passed of af-xdp.
    pub(super) xdp: Vec<u8>,
    /// Of devices that cannot be in two hands.
    pub(super) cards: Option<Told>,
}

/// What a process leaves to another: all that its directory still has.
pub(super) fn left(directory: &Directory) -> Left {
    let backend = |b: &lb::Backend| LeftBackend { name: b.name.clone(), addr: b.addr, tunnel: b.tunnel };
    Left {
        backends: directory.backends().map(backend).collect(),
        listeners: directory.listeners().iter().map(|l| l.addr()).collect(),
    }
}

fn pack_tunnel(tunnel: &Option<Tunnel>, to: &mut Packer) {
    let Some(tunnel) = tunnel else { return 0u8.pack(to) };
    match tunnel.kind {
        TunnelKind::Ipip => 1u8.pack(to),
        TunnelKind::Gue => 2u8.pack(to),
        TunnelKind::Vxlan { vni, mac } => {
            3u8.pack(to);
            (vni, mac).pack(to);
        }
        TunnelKind::Wireguard { public_key } => {
            4u8.pack(to);
            public_key.pack(to);
        }
    }
    tunnel.endpoint.pack(to);
}

fn unpack_tunnel(from: &mut Unpacker<'_>) -> Result<Option<Tunnel>, Unreadable> {
    let kind = match u8::unpack(from)? {
        0 => return Ok(None),
        1 => TunnelKind::Ipip,
        2 => TunnelKind::Gue,
        3 => {
            let (vni, mac) = Pack::unpack(from)?;
            TunnelKind::Vxlan { vni, mac }
        }
        4 => TunnelKind::Wireguard { public_key: Pack::unpack(from)? },
        _ => return Err(Unreadable::Impossible("kind of tunnel")),
    };
    Ok(Some(Tunnel { kind, endpoint: SocketAddr::unpack(from)? }))
}

impl Welcome {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut to = Packer::new();
        to.section(WELCOME, PROTOCOL, |to| {
            (self.secret, self.origin).pack(to);
            self.version.pack(to);
            pack_all(&self.fixed, to, |line, to| line.pack(to));
            pack_all(&self.left.backends, to, |b, to| {
                (b.name.clone(), b.addr).pack(to);
                pack_tunnel(&b.tunnel, to);
            });
            pack_all(&self.left.listeners, to, |addr, to| addr.pack(to));
            self.metrics.pack(to);
            (self.watched.socket.clone(), self.watched.every).pack(to);
            to.block(&self.xdp);
        });
        self.cards.iter().for_each(|told| cards::pack(told, &mut to));
        to.into_bytes()
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Welcome, Unreadable> {
        let nobody = Ids::default();
        let mut sections = Unpacker::new(bytes, &nobody);
        let section = sections.section()?.ok_or(Unreadable::CutOff)?;
        if (section.kind, section.version) != (WELCOME, PROTOCOL) {
            return Err(Unreadable::Unknown { kind: section.kind, version: section.version });
        }
        let from = &mut Unpacker::new(section.bytes, &nobody);
        let (secret, origin) = Pack::unpack(from)?;
        let version = String::unpack(from)?;
        let fixed = unpack_all(from, String::unpack)?;
        let backends = unpack_all(from, |from| {
            let (name, addr) = Pack::unpack(from)?;
            Ok(LeftBackend { name, addr, tunnel: unpack_tunnel(from)? })
        })?;
        let listeners = unpack_all(from, SocketAddr::unpack)?;
        let metrics = Pack::unpack(from)?;
        let (socket, every) = Pack::unpack(from)?;
        let watched = Watched { socket, every };
        let xdp = from.block()?.to_vec();
        let cards = cards::read(&mut sections)?;
        Ok(Welcome { secret, origin, fixed, left: Left { backends, listeners }, metrics, watched, version, xdp, cards })
    }
}
