//! The other end of a tunnel whose packets are sealed, as its server sees it: one interface, with a peer for each of our workers.

use super::tunnel::DEVICE;
use crate::path::Way;
use crate::path::tunnel::sealed_port;
use lb::Tunnel;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// Where the server has its private key.
const KEY_FILE: &str = "/etc/wireguard/dispatcher0.key";
/// A routing table of its own, for what clients' addresses would lead elsewhere (dnat).
const TABLE: u32 = 51820;

/// One of our workers, as a peer of the server's.
struct Peer {
    key: String,
    endpoint: SocketAddr,
    /// Its address within the tunnel; with dnat there is one worker, who has all.
    allowed: Vec<String>,
    inner: IpAddr,
}

/// Both ends.
pub(super) struct Sealed {
    /// The server's UDP port.
    port: u16,
    inner: IpAddr,
    mtu: u16,
    dnat: bool,
    peers: Vec<Peer>,
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

impl Sealed {
    /// `keys` are our workers' public ones.
    pub fn new(tunnel: &Tunnel, way: &Way, keys: Vec<String>, dnat: bool) -> Sealed {
        let begins = way.wrap.as_ref().map_or(way.source(), |wrap| wrap.source()).ip();
        let peer = |(worker, key)| {
            let inner = way.sources_of(worker)[0].ip();
            let all = || if inner.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            let allowed = vec![if dnat { all().to_string() } else { format!("{inner}/{}", bits(inner)) }];
            Peer { key, endpoint: SocketAddr::new(begins, sealed_port(worker)), allowed, inner }
        };
        let peers = keys.into_iter().enumerate().map(peer).collect();
        Sealed { port: tunnel.endpoint.port(), inner: way.addr.ip(), mtu: way.mtu, dnat, peers }
    }

    fn family(&self) -> &'static str {
        if self.inner.is_ipv4() { "" } else { "-6 " }
    }

    pub fn commands(&self) -> String {
        let Sealed { port, inner, mtu, .. } = self;
        let mut out = String::new();
        _ = writeln!(
            out,
            "# Once, if there is no key yet: (umask 077; wg genkey > {KEY_FILE}); wg pubkey < {KEY_FILE} is its public-key"
        );
        _ = writeln!(out, "ip link add {DEVICE} type wireguard");
        _ = writeln!(out, "wg set {DEVICE} private-key {KEY_FILE} listen-port {port}");
        for Peer { key, endpoint, allowed, .. } in &self.peers {
            _ = writeln!(out, "wg set {DEVICE} peer {key} endpoint {endpoint} allowed-ips {}", allowed.join(","));
        }
        _ = writeln!(out, "ip addr add {inner}/{} dev {DEVICE}", bits(*inner));
        _ = writeln!(out, "ip link set {DEVICE} mtu {mtu} up");
        let family = self.family();
        for Peer { inner, .. } in &self.peers {
            _ = writeln!(out, "ip {family}route add {inner}/{} dev {DEVICE}", bits(*inner));
        }
        if self.dnat {
            _ = writeln!(out, "ip {family}route add default dev {DEVICE} table {TABLE}");
            _ = writeln!(out, "ip {family}rule add from {inner} table {TABLE}");
        }
        if inner.is_ipv4() {
            _ = writeln!(out, "sysctl -w net.ipv4.conf.{DEVICE}.rp_filter=0");
        }
        out
    }

    pub fn networkd(&self) -> String {
        let Sealed { port, inner, mtu, .. } = self;
        let mut out = String::new();
        _ = writeln!(out, "# /etc/systemd/network/50-{DEVICE}.netdev (its key's file: root:systemd-network, 0640)");
        _ = writeln!(out, "[NetDev]\nName={DEVICE}\nKind=wireguard\nMTUBytes={mtu}\n");
        _ = writeln!(out, "[WireGuard]\nPrivateKeyFile={KEY_FILE}\nListenPort={port}");
        for Peer { key, endpoint, allowed, .. } in &self.peers {
            _ = writeln!(
                out,
                "\n[WireGuardPeer]\nPublicKey={key}\nEndpoint={endpoint}\nAllowedIPs={}",
                allowed.join(",")
            );
        }
        _ = writeln!(out, "\n# /etc/systemd/network/50-{DEVICE}.network\n[Match]\nName={DEVICE}\n");
        _ = writeln!(out, "[Network]\nAddress={inner}/{}", bits(*inner));
        for Peer { inner, .. } in &self.peers {
            _ = writeln!(out, "\n[Route]\nDestination={inner}/{}\nScope=link", bits(*inner));
        }
        if self.dnat {
            let all = if inner.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            _ = writeln!(out, "\n[Route]\nDestination={all}\nScope=link\nTable={TABLE}");
            _ = writeln!(out, "\n[RoutingPolicyRule]\nFrom={inner}\nTable={TABLE}");
        }
        out
    }
}
