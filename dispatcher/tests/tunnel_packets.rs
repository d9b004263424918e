//! What is written in front of packets that go through tunnels, and what is found in those that come: for any packet, kind and pair of families, and
//! as far ends read it that share no code with it (`sim::tunnels`).

use dispatcher::path::tunnel::{Found, MAX_OVERHEAD, Opened, Peeked, Tunnels, Wrap};
use dispatcher::wire::packet::Ethernet;
use dispatcher::wire::{Addr, Mac};
use lb::{Tunnel, TunnelKind};
use proptest::prelude::*;
use sim::tunnels::{FarEnds, KINDS, behind};
use std::net::{IpAddr, SocketAddr};

const ETHERNET: usize = 14;

fn tunnel(kind: usize, v6: bool) -> Tunnel {
    let config = behind(sim::config::two_armed(1, v6), KINDS[kind]);
    config.wanted.pools[0].backends[0].tunnel.expect("it was given one")
}

/// An inner packet: header and whatever follows it.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    (any::<bool>(), any::<[u8; 40]>(), prop::collection::vec(any::<u8>(), 20..1380)).prop_map(
        |(v6, mut header, rest)| {
            if v6 {
                header[0] = 0x60 | header[0] & 15;
                header[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
                return [&header[..], &rest].concat();
            }
            header[0] = 0x45;
            header[2..4].copy_from_slice(&(20 + rest.len() as u16).to_be_bytes());
            [&header[..20], &rest].concat()
        },
    )
}

/// The frame in which it leaves for the first server of the tests' world.
fn wrapped(tunnel: &Tunnel, inner: &[u8]) -> Vec<u8> {
    let v6 = tunnel.endpoint.is_ipv6();
    let ours: IpAddr = sim::config::ip(if v6 { "fd02::1" } else { "10.2.0.1" });
    let wrap = Wrap::new(tunnel, Addr::from(ours), Mac([2, 0, 0, 0, 0, 1]));
    let overhead = wrap.overhead();
    assert!(overhead <= MAX_OVERHEAD);
    let kind: [u8; 2] = if v6 { [0x86, 0xdd] } else { [8, 0] };
    // Whatever stood in the room before is written over.
    let mut frame = [&[0xee; 12][..], &kind, &vec![0xee; overhead], inner].concat();
    wrap.write(&mut frame[ETHERNET..]);
    assert_eq!(&frame[ETHERNET + overhead..], inner, "the packet is as it was");
    frame
}

/// The same turned round: as if the far end had sent it.
fn returned(frame: &[u8], v6: bool) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let (at, size) = if v6 { (22, 16) } else { (26, 4) };
    let (a, b) = frame[at..at + 2 * size].split_at_mut(size);
    a.swap_with_slice(b);
    frame
}

fn tunnels(tunnel: &Tunnel, inner: SocketAddr) -> Tunnels {
    Tunnels::new([(inner, Some(tunnel))].into_iter())
}

fn plain(found: Found) -> Opened {
    match found {
        Found::Packet(opened) => opened,
        Found::Sealed(message) => panic!("nothing is sealed here: {message:?}"),
    }
}

fn inner_source(packet: &[u8]) -> SocketAddr {
    let addr = if packet[0] >> 4 == 6 {
        IpAddr::from(<[u8; 16]>::try_from(&packet[8..24]).unwrap())
    } else {
        IpAddr::from(<[u8; 4]>::try_from(&packet[12..16]).unwrap())
    };
    SocketAddr::new(addr, 443)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_is_wrapped_is_read_by_a_far_end_and_opened_again_where_it_begins(
        inner in packet(), kind in 0..3usize, v6 in any::<bool>(),
    ) {
        let tunnel = tunnel(kind, v6);
        let frame = wrapped(&tunnel, &inner);
        let far = FarEnds::of(&behind(sim::config::two_armed(1, v6), tunnel.kind)).unwrap();
        // It looks at lengths, checksums, flags and ports itself.
        let read = far.unwrapped(&frame).expect("a packet to the far end");
        prop_assert_eq!(&read[ETHERNET..], &inner[..]);

        let frame = returned(&frame, v6);
        let from = inner_source(&inner);
        let known = tunnels(&tunnel, from);
        let eth = Ethernet::parse(&frame).unwrap();
        let opened = plain(known.open(&frame, &eth).expect("a packet of a known end").expect("a packet within"));
        prop_assert_eq!(&frame[opened.at..], &inner[..]);
        prop_assert!(known.check(&opened, Addr::from(from.ip())).is_ok());
        let other = Addr::from(sim::config::ip("192.0.2.77"));
        prop_assert!(known.check(&opened, other).is_err(), "of somebody who is not behind it");
    }

    #[test]
    fn a_frame_that_was_cut_or_damaged_opens_within_its_bounds_or_not_at_all(
        inner in packet(), kind in 0..3usize, v6 in any::<bool>(), cut in any::<prop::sample::Index>(),
        damage in prop::collection::vec((0..90usize, any::<u8>()), 0..4),
    ) {
        let tunnel = tunnel(kind, v6);
        let mut frame = returned(&wrapped(&tunnel, &inner), v6);
        for (at, byte) in damage {
            let at = at % frame.len();
            frame[at] = byte;
        }
        frame.truncate(cut.index(frame.len() + 1));
        let known = tunnels(&tunnel, inner_source(&inner));
        let Ok(eth) = Ethernet::parse(&frame) else { return Ok(()) };
        if let Ok(Some(Found::Packet(opened))) = known.open(&frame, &eth) {
            prop_assert!(opened.at > eth.payload && opened.at < frame.len());
            let at = opened.at;
            // An outer packet that is shorter than the frame is all that counts.
            if matches!(known.peek(&frame, &eth), Some(Peeked::Packet(parsed)) if parsed.body.is_ok()) {
                let _ = opened.pass_congestion(&mut frame, at);
            }
        } else {
            prop_assert!(known.peek(&frame, &eth).is_none());
        }
    }

    #[test]
    fn the_class_and_congestion_bits_are_the_inner_ones_and_a_connection_keeps_its_source_port(
        inner in packet(), kind in 0..3usize, v6 in any::<bool>(), payload in any::<u8>(), port in any::<u16>(),
    ) {
        let tunnel = tunnel(kind, v6);
        let class = |packet: &[u8]| if packet[0] >> 4 == 6 { packet[0] << 4 | packet[1] >> 4 } else { packet[1] };
        let frame = wrapped(&tunnel, &inner);
        prop_assert_eq!(class(&frame[ETHERNET..]), class(&inner));

        // What networks and cards divide by: of IPv6 the flow label, and the UDP port where there is one.
        let ip = if v6 { 40 } else { 20 };
        let entropy = |frame: &[u8]| {
            let label = if v6 { frame[ETHERNET + 1..ETHERNET + 4].to_vec() } else { vec![] };
            let udp = if tunnel.kind == TunnelKind::Ipip { &[][..] } else { &frame[ETHERNET + ip..ETHERNET + ip + 2] };
            [&label[..], udp].concat()
        };
        let mut later = inner.clone();
        *later.last_mut().unwrap() ^= payload;
        let ports = if inner[0] >> 4 == 6 { 40 } else { 20 };
        prop_assert_eq!(entropy(&wrapped(&tunnel, &later)), entropy(&frame));
        let differs = later[ports..ports + 2] != port.to_be_bytes();
        later[ports..ports + 2].copy_from_slice(&port.to_be_bytes());
        if differs && (v6 || tunnel.kind != TunnelKind::Ipip) {
            // One of 16,384 may meet another.
            let others = (0..4).filter(|n| {
                later[ports + 2..ports + 4].copy_from_slice(&u16::to_be_bytes(*n));
                entropy(&wrapped(&tunnel, &later)) == entropy(&frame)
            });
            prop_assert!(others.count() < 3, "other connections look the same");
        }
    }
}
