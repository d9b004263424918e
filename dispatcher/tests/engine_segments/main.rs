//! The engine, segment by segment: what arrives, and what leaves because of it.

mod accept;
mod addresses;
mod alive;
mod backends;
mod binding;
mod cookies;
mod ending;
mod handshake;
mod icmp;
mod large;
mod late;
mod odd;
mod resets;
mod step;
mod times;
mod translation;
mod tunnels;
mod uplink;
mod waiting;
mod window;

use core::time::Duration;
use dispatcher::engine::{AddressMode, Config, DropReason, End, Limits, TicketKey, Verdict};
use dispatcher::wire::build::{Link, Segment};
use dispatcher::wire::checksum;
use dispatcher::wire::options::{SegmentOptions, SynOptions, Timestamps, write_timestamps};
use dispatcher::wire::packet::{Flags, protocol};
use dispatcher::wire::{Addr, Seq};
use sim::config::{client_ip, one_armed, server_name, two_armed, vip};
use sim::rng::Rng;
use sim::script::*;
use sim::tls::Hello;
use std::net::SocketAddr;

const HTTP: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn bench() -> Bench {
    Bench::new(two_armed(1, false), false)
}

/// Both families and address modes, with one port and with two.
fn plain_worlds() -> Vec<Bench> {
    let mut all = vec![];
    for v6 in [false, true] {
        for mode in [AddressMode::Snat, AddressMode::Dnat] {
            for config in [two_armed(1, v6), one_armed(1, v6)] {
                all.push(Bench::new(Config { address_mode: mode, ..config }, v6));
            }
        }
    }
    all
}

/// The same, and with the servers behind each kind of tunnel.
fn all_worlds() -> Vec<Bench> {
    let mut all = plain_worlds();
    for v6 in [false, true] {
        for address_mode in [AddressMode::Snat, AddressMode::Dnat] {
            for kind in sim::tunnels::KINDS {
                let config = sim::tunnels::behind(two_armed(1, v6), kind);
                all.push(Bench::new(Config { address_mode, ..config }, v6));
            }
        }
    }
    all
}

/// The verdict of a frame from a server that is answered: in its own buffer, or through the tunnel it came by.
fn answers(b: &Bench, verdict: Verdict) -> bool {
    let wrapped = b.config.backends().iter().any(|backend| backend.tunnel.is_some());
    if wrapped { verdict == Verdict::Hold } else { matches!(verdict, Verdict::Reply(_)) }
}

/// An error of the given type, code and fourth word about `frame`'s packet, from the server's router or the client's.
fn icmp_error(b: &Bench, port: usize, what: (u8, u8, u32), frame: &[u8]) -> Vec<u8> {
    icmp_error_quoting(b, port, what, frame, if b.v6 { 400 } else { 28 })
}

/// The same with so many bytes of the packet.
fn icmp_error_quoting(
    b: &Bench,
    port: usize,
    (kind, code, word): (u8, u8, u32),
    frame: &[u8],
    quote: usize,
) -> Vec<u8> {
    let quoted = &frame[14..];
    let p = dispatcher::wire::packet::Packet::parse(frame).unwrap().ip;
    let from = Addr::from(if b.v6 { sim::config::ip("fd0f::1") } else { sim::config::ip("10.15.0.1") });
    let mut icmp = vec![kind, code, 0, 0];
    icmp.extend(word.to_be_bytes());
    icmp.extend(&quoted[..quoted.len().min(quote)]);
    let sum = if b.v6 {
        checksum::transport(from.octets(), p.src.octets(), protocol::ICMPV6, &icmp)
    } else {
        checksum::Sum::default().add_bytes(&icmp).checksum()
    };
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut f = vec![];
    f.extend(b.config.ports[port].mac.0);
    f.extend(if port == 0 { CLIENT_MAC.0 } else { SERVER_MAC.0 });
    if b.v6 {
        f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        f.extend((icmp.len() as u16).to_be_bytes());
        f.extend([protocol::ICMPV6, 60]);
        f.extend(from.octets());
        f.extend(p.src.octets());
    } else {
        f.extend([8, 0]);
        let mut h = vec![0x45, 0];
        h.extend((20 + icmp.len() as u16).to_be_bytes());
        h.extend([0, 0, 0, 0, 60, protocol::ICMP, 0, 0]);
        h.extend(from.octets());
        h.extend(p.src.octets());
        let sum = checksum::Sum::default().add_bytes(&h).checksum();
        h[10..12].copy_from_slice(&sum.to_be_bytes());
        f.extend(h);
    }
    f.extend(icmp);
    f
}
