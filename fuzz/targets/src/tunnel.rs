//! Outer packets: what arrives from where tunnels end, or seems to; and messages of a tunnel whose packets are sealed.

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use dispatcher::engine::{DropReason, Unsealed};
use dispatcher::path::tunnel::{End, Found, Tunnels};
use dispatcher::time::Time;
use dispatcher::tunnel::{Edge, Secret};
use dispatcher::wire::Addr;
use dispatcher::wire::packet::Ethernet;
use lb::{Directory, MemberSpec, PoolSpec, Tunnel, TunnelKind, Wanted};
use sim::config::{server_ip, vip};
use sim::tunnels::{KINDS, SEALED};
use std::net::SocketAddr;

const FAR: [u8; 32] = [9; 32];
const ROOM: usize = 4096;

fn behind(kind: TunnelKind, v6: bool) -> (SocketAddr, Tunnel) {
    let port = match kind {
        TunnelKind::Ipip => 0,
        TunnelKind::Gue => lb::tunnel::GUE_PORT,
        TunnelKind::Vxlan { .. } => lb::tunnel::VXLAN_PORT,
        TunnelKind::Wireguard { .. } => lb::tunnel::WIREGUARD_PORT,
    };
    (SocketAddr::new(server_ip(0, v6), 443), Tunnel { kind, endpoint: SocketAddr::new(server_ip(0, v6), port) })
}

/// A frame, to one who has tunnels of all kinds; a message, to one whose tunnel is up; and steps of such a tunnel.
pub fn tunnel(bytes: &[u8]) {
    frame(bytes);
    messages(bytes);
}

fn frame(bytes: &[u8]) {
    let all: Vec<_> = KINDS.into_iter().flat_map(|kind| [behind(kind, false), behind(kind, true)]).collect();
    let known = Tunnels::new(all.iter().map(|(addr, tunnel)| (*addr, Some(tunnel))));
    let Ok(eth) = Ethernet::parse(bytes) else { return };
    match known.open(bytes, &eth) {
        Ok(Some(Found::Packet(opened))) => {
            assert!(opened.at > eth.payload && opened.at < bytes.len());
            let _ = known.check(&opened, Addr::from(server_ip(0, false)));
            let mut copy = bytes.to_vec();
            if known.peek(bytes, &eth).is_some() {
                let long_enough = copy.len() - opened.at >= 20;
                let _ = long_enough.then(|| opened.pass_congestion(&mut copy, opened.at));
            }
        }
        Ok(Some(Found::Sealed(message))) => {
            assert!(message.at > eth.payload && message.at <= message.end && message.end <= bytes.len());
            let _ = message.opened(&bytes[message.at..message.end], eth.payload);
        }
        Ok(None) | Err(_) => {}
    }
}

struct Ends {
    edge: Edge,
    far: Tunn,
    end: End,
    now: Time,
    out: Vec<u8>,
}

impl Ends {
    fn up() -> Ends {
        let (addr, tunnel) = behind(SEALED, false);
        let kind = TunnelKind::Wireguard { public_key: PublicKey::from(&StaticSecret::from(FAR)).to_bytes() };
        let tunnel = Tunnel { kind, ..tunnel };
        let backend = MemberSpec { tunnel: Some(tunnel), ..MemberSpec::new("web1", addr) };
        let pool = PoolSpec { backends: vec![backend], ..PoolSpec::default() };
        let wanted = Wanted::single(vec![vip(false)], Default::default(), pool);
        let secret = Secret::from_bytes([7; 32]);
        let mut edge = Edge::new(&secret, 0, 1500, Time::ZERO);
        edge.follow(&Directory::next(None, &wanted, |_| true).expect("what can be"), Time::ZERO);
        let far = Tunn::new(StaticSecret::from(FAR), PublicKey::from(secret.public_of(0)), None, None, 1, None);
        let mut ends = Ends { edge, far, end: End::from(tunnel.endpoint), now: Time::ZERO, out: vec![0; ROOM] };
        ends.exchange();
        ends
    }

    /// What is due goes there and back.
    fn exchange(&mut self) {
        let mut back = vec![0; ROOM];
        self.edge.at(self.now);
        while let Some((_, n)) = self.edge.next_message(&mut self.out) {
            if let TunnResult::WriteToNetwork(answer) = self.far.decapsulate(None, &self.out[..n], &mut back)
                && let Unsealed::Answer(n) = self.edge.unseal(self.end, answer, &mut self.out)
            {
                let _ = self.far.decapsulate(None, &self.out[..n], &mut back);
            }
        }
        while self.edge.next_news().is_some() {}
    }

    fn unseal(&mut self, message: &[u8]) -> Unsealed {
        let what = self.edge.unseal(self.end, message, &mut self.out);
        if let Unsealed::Packet(n) | Unsealed::Answer(n) | Unsealed::Refused(n, _) = what {
            assert!(n <= self.out.len().min(message.len().max(148)));
        }
        what
    }
}

fn messages(bytes: &[u8]) {
    let mut ends = Ends::up();
    // Nobody without keys says anything that opens.
    assert!(!matches!(ends.unseal(bytes), Unsealed::Packet(_) | Unsealed::Answer(_)));
    let mut last: Option<Vec<u8>> = None;
    for step in bytes.chunks_exact(4).take(64) {
        let [what, a, b, c] = [step[0], step[1], step[2], step[3]];
        match what % 6 {
            0 | 1 => {
                let len = 20 + usize::from(a) * 5;
                let mut packet = vec![b; len];
                packet[0] = 0x45;
                packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                let TunnResult::WriteToNetwork(message) = ends.far.encapsulate(&packet, &mut ends.out) else {
                    continue;
                };
                let mut message = message.to_vec();
                if what % 6 == 1 {
                    let at = usize::from(c) % message.len();
                    message[at] ^= b | 1;
                    assert!(matches!(ends.unseal(&message), Unsealed::Lost(_)), "what was damaged opens");
                } else {
                    assert_eq!(ends.unseal(&message), Unsealed::Packet(len));
                    assert_eq!(ends.out[..len], packet);
                    last = Some(message);
                }
            }
            2 => {
                if let Some(message) = &last {
                    let again = ends.unseal(&message.clone());
                    assert_eq!(again, Unsealed::Lost(DropReason::TunnelReplayed), "a message opens twice");
                }
            }
            3 => {
                // Keys are made anew.
                ends.now += core::time::Duration::from_secs(u64::from(a));
                ends.exchange();
                last = None;
            }
            4 => {
                let mut out = vec![0; ROOM];
                let TunnResult::WriteToNetwork(message) = ends.far.format_handshake_initiation(&mut out, true) else {
                    continue;
                };
                let mut message = message.to_vec();
                if c & 1 != 0 {
                    let at = usize::from(a) % message.len();
                    message[at] ^= b | 1;
                }
                let what = ends.unseal(&message);
                assert!(!matches!(what, Unsealed::Packet(_)));
                // It goes on by what comes of it, as it would.
                if let Unsealed::Answer(n) = what
                    && let TunnResult::WriteToNetwork(confirms) = ends.far.decapsulate(None, &ends.out[..n], &mut out)
                {
                    let confirms = confirms.to_vec();
                    assert_eq!(ends.unseal(&confirms), Unsealed::Taken);
                }
                last = None;
            }
            _ => {
                let cut = usize::from(a) % bytes.len();
                let _ = ends.unseal(&bytes[cut..]);
            }
        }
    }
}
