//! How packets to a backend are wrapped on their way, and those from it on theirs: plain data, as somebody wants it.
//!
//! Nothing here wraps. What lies inside is the packet as a backend without a tunnel would have it: its [address](crate::Backend::addr) is the inner one.

use core::fmt;
use core::net::SocketAddr;

/// UDP port of Generic UDP Encapsulation (IANA).
pub const GUE_PORT: u16 = 6080;
/// UDP port of VXLAN (RFC 7348 section 8).
pub const VXLAN_PORT: u16 = 4789;
/// UDP port of WireGuard (by convention: IANA has none).
pub const WIREGUARD_PORT: u16 = 51820;
/// VXLAN network identifiers have 24 bits.
pub const MAX_VNI: u32 = (1 << 24) - 1;

/// What is written in front of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TunnelKind {
    /// An IP header (RFC 2003; RFC 2473 where the outer one is IPv6; RFC 4213 for IPv6 in IPv4).
    Ipip,
    /// IP, UDP and four bytes: Generic UDP Encapsulation, variant 0 (draft-ietf-intarea-gue-09), as Linux' `fou` has it.
    Gue,
    /// IP, UDP, the header of RFC 7348 and an Ethernet header.
    Vxlan {
        /// Network identifier, at most [`MAX_VNI`].
        vni: u32,
        /// Ethernet address of the backend within that network.
        mac: [u8; 6],
    },
    /// IP, UDP and a sealed packet: WireGuard (J. Donenfeld, "WireGuard: Next Generation Kernel Network Tunnel", section 5.4.6).
    Wireguard {
        /// The public key (X25519) of whoever is at the other end.
        public_key: [u8; 32],
    },
}

impl TunnelKind {
    /// Its word.
    pub const fn as_str(&self) -> &'static str {
        match self {
            TunnelKind::Ipip => "ipip",
            TunnelKind::Gue => "gue",
            TunnelKind::Vxlan { .. } => "vxlan",
            TunnelKind::Wireguard { .. } => "wireguard",
        }
    }
}

/// A way to a backend that is not plain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tunnel {
    /// What is written in front.
    pub kind: TunnelKind,
    /// Where it ends: the outer destination. The port is 0 where the kind has none.
    pub endpoint: SocketAddr,
}

impl Tunnel {
    /// The public key of the other end, where packets are sealed for it.
    pub const fn seals(&self) -> Option<&[u8; 32]> {
        match &self.kind {
            TunnelKind::Wireguard { public_key } => Some(public_key),
            _ => None,
        }
    }
}

impl fmt::Display for Tunnel {
    /// Without keys: `vxlan 203.0.113.5:4789 vni 7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        match self.kind {
            TunnelKind::Ipip => write!(f, " {}", self.endpoint.ip()),
            TunnelKind::Gue | TunnelKind::Wireguard { .. } => write!(f, " {}", self.endpoint),
            TunnelKind::Vxlan { vni, .. } => write!(f, " {} vni {vni}", self.endpoint),
        }
    }
}
