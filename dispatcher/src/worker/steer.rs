//! Whose is a frame? A pure function of its bytes, the same in every worker.
//!
//! A flow belongs to one worker, whichever queue its frames come in by:
//!
//! | frame | owner |
//! |---|---|
//! | TCP to a VIP | by a keyed hash of the client's address and port; SNAT, and a port tells what its card does: whose queue that brings it to |
//! | TCP to an address of our own (SNAT: from a backend; the answers to probes) | the worker whose local ports include the destination's ([`Returning`]) |
//! | TCP to anything else, address mode DNAT (from a backend to its client) | by the same hash, of the destination |
//! | an ICMP error | the owner of the packet it quotes |
//! | through a tunnel | the owner of the packet within; where that is sealed, the worker whose UDP port it comes to ([`sealed_port`](crate::path::tunnel::sealed_port)) |
//! | ARP replies and announcements, neighbour advertisements | all: each worker asks for itself, and believes what it asked for |
//! | other ARP requests, neighbour solicitations, echo requests, anything else | whoever has it: answered without any state |
//!
//! SYNs too are led to the owner, though anybody could answer them with a cookie: their key may be that of a flow whose end
//! is still remembered, which only the owner knows. But see [`Place::Preferably`].
//!
//! A card that does something else than it told costs frames handed over: the owner stays the one that is computed here.
//!
//! Why the local ports and the hash never contradict each other: the owner of a client's frames opens the flow and dials from a
//! port of its own (SNAT), or from the client's own address and port (DNAT), of which the hash is the same.

use crate::engine::{AddressMode, Config, Returning};
use crate::flow::Key;
use crate::flow::quote::quoted_key;
use crate::path::tunnel::{Peeked, Tunnels};
use crate::wire::packet::{Body, Ethernet, Headers, Parsed, protocol};
use crate::wire::{Addr, Mac};
use lb::Directory;
use siphasher::sip::SipHasher13;
use std::net::SocketAddr;
use std::sync::Arc;

/// Where a frame is to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// To whoever has it.
    Here,
    /// To this worker.
    At(usize),
    /// To this worker, if it has time: a bare SYN. Under a flood whoever has it answers it, which costs no more than to hand it over.
    Preferably(usize),
    /// To every worker.
    Everywhere,
}

/// What is needed to know it.
#[derive(Clone)]
pub struct Steering {
    workers: usize,
    dnat: bool,
    /// Ports' Ethernet addresses, by port.
    macs: Box<[Mac]>,
    /// Sorted.
    services: Box<[(Addr, u16)]>,
    /// Our own addresses, sorted.
    own: Box<[Addr]>,
    /// Sorted.
    backends: Box<[(Addr, u16)]>,
    key: SipHasher13,
    returning: Arc<Returning>,
    tunnels: Arc<Tunnels>,
}

impl Steering {
    /// Among `workers` workers (at least 1), for the configuration and under the secret that their engines have.
    pub fn new(config: &Config, secret: &[u8; 32], workers: usize) -> Steering {
        let mut own: Vec<Addr> =
            config.ports.iter().flat_map(|p| p.addresses.iter().map(|(ip, _)| Addr::from(*ip))).collect();
        own.sort_unstable();
        let tunnels = Tunnels::new(config.backends().into_iter().map(|b| (b.addr, b.tunnel.as_ref())));
        Steering {
            workers: workers.max(1),
            dnat: config.address_mode == AddressMode::Dnat,
            macs: config.ports.iter().map(|p| p.mac).collect(),
            services: sorted(config.vips().iter()),
            own: own.into(),
            backends: sorted(config.backends().iter().map(|b| &b.addr)),
            key: SipHasher13::new_with_key(&crate::engine::derived(secret, 8)),
            returning: Arc::new(Returning::by_range(workers)),
            tunnels: Arc::new(tunnels),
        }
    }

    /// The same, where ports tell to which queue they bring what; as the engines have it.
    pub fn returning(self, returning: Arc<Returning>) -> Steering {
        Steering { returning, ..self }
    }

    /// The same for the services and backends of another version of the directory. Those that are leaving still have frames.
    pub fn following(&self, directory: &Directory) -> Steering {
        let services: Vec<SocketAddr> = directory.listeners().iter().map(|l| l.addr()).collect();
        let backends = directory.backends().map(|b| &b.addr);
        let tunnels = Arc::new(Tunnels::of(directory));
        Steering { services: sorted(services.iter()), backends: sorted(backends), tunnels, ..self.clone() }
    }

    /// Workers in all.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Where the frame that came in by `port` (its index in the configuration) is to go. What cannot be read stays where it is, to
    /// be counted there.
    #[inline]
    pub fn place(&self, port: usize, headers: &Headers, frame: &[u8]) -> Place {
        self.read(port, headers, frame).unwrap_or(Place::Here)
    }

    #[inline]
    fn read(&self, port: usize, headers: &Headers, frame: &[u8]) -> Option<Place> {
        let Parsed { eth, body } = headers.as_ref().ok()?;
        if !eth.dst.is_group() && self.macs.get(port) != Some(&eth.dst) {
            return None;
        }
        self.of_body(eth, body.as_ref().ok()?, frame)
    }

    #[inline]
    fn of_body(&self, eth: &Ethernet, body: &Body, frame: &[u8]) -> Option<Place> {
        match body {
            Body::Arp => {
                let arp = frame.get(eth.payload..eth.payload + 28)?;
                // An announcement (RFC 5227 section 3) asks for the address that it tells.
                let told = arp[6..8] == [0, 2] || arp[14..18] == arp[24..28];
                told.then_some(Place::Everywhere)
            }
            Body::Tcp(ip, tcp) => {
                let owner = self.owner(&Key::of(ip, tcp))?;
                Some(if tcp.is_bare_syn() { Place::Preferably(owner) } else { Place::At(owner) })
            }
            Body::Icmp(ip) if ip.protocol == protocol::ICMPV6 && frame.get(ip.payload) == Some(&ADVERTISEMENT) => {
                Some(Place::Everywhere)
            }
            Body::Icmp(ip) => {
                let quoted = quoted_key(frame, ip)?;
                // It went out from us; turned round it is what arrives from the side that complains.
                self.owner(&quoted.reversed()).map(Place::At)
            }
            Body::Other => self.within(eth, frame),
        }
    }

    /// By the packet within, if it came through a tunnel.
    #[cold]
    fn within(&self, eth: &Ethernet, frame: &[u8]) -> Option<Place> {
        match self.tunnels.peek(frame, eth)? {
            Peeked::Worker(worker) => (worker < self.workers).then_some(Place::At(worker)),
            Peeked::Packet(Parsed { body: Ok(Body::Other | Body::Arp), .. }) => None,
            Peeked::Packet(Parsed { eth, body }) => self.of_body(&eth, body.as_ref().ok()?, frame),
        }
    }

    /// The owner of the flow that a segment with this key, as it arrives, belongs to; none when it can be of no flow.
    #[inline]
    pub fn owner(&self, key: &Key) -> Option<usize> {
        let (to, from) = ((key.dst, key.dport), (key.src, key.sport));
        let ours = || self.own.binary_search(&to.0).is_ok();
        if self.services.binary_search(&to).is_ok() {
            // A VIP may be one of the addresses that we dial from, and its port one of those we dial from.
            let returning = !self.dnat && ours() && self.backends.binary_search(&from).is_ok();
            if !returning {
                // By SNAT the queue it came by is as good as any hash, and is where it is already.
                let at_hand = if self.dnat { None } else { self.returning.of_client(key) };
                return Some(at_hand.unwrap_or_else(|| self.of_client(key.src, key.sport)));
            }
        }
        if ours() { self.returning.owner(key) } else { self.dnat.then(|| self.of_client(key.dst, key.dport)) }
    }

    fn of_client(&self, addr: Addr, port: u16) -> usize {
        let mut bytes = [0; 18];
        bytes[..16].copy_from_slice(&addr.0);
        bytes[16..].copy_from_slice(&port.to_be_bytes());
        (((self.key.hash(&bytes) >> 32) * self.workers as u64) >> 32) as usize
    }
}

fn sorted<'a>(endpoints: impl Iterator<Item = &'a SocketAddr>) -> Box<[(Addr, u16)]> {
    let mut all: Vec<_> = endpoints.map(|a| (Addr::from(a.ip()), a.port())).collect();
    all.sort_unstable();
    all.into()
}

/// Neighbour advertisement (RFC 4861 section 4.4).
const ADVERTISEMENT: u8 = 136;

#[cfg(test)]
impl Steering {
    /// The same for a frame whose headers nobody has read.
    pub(super) fn place_of(&self, port: usize, frame: &[u8]) -> Place {
        self.place(port, &Parsed::read(frame), frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{PortSpec, worker_of_port};
    use crate::flow::Rss;
    use crate::wire::build::{Arp, Link, Segment, arp_op};
    use crate::wire::packet::{Flags, Vlans};
    use crate::wire::{Seq, checksum};
    use lb::{MemberSpec, Policy, PoolSpec, Wanted};
    use proptest::prelude::*;
    use std::net::IpAddr;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn config(mode: AddressMode) -> Config {
        let port = |ips: [&str; 2]| PortSpec {
            name: "p".into(),
            mac: OURS,
            addresses: ips.iter().map(|ip| (ip.parse().unwrap(), 24)).collect(),
            gateways: vec![],
            vlans: vec![],
            mtu: 1500,
        };
        let backend = |addr: &str| MemberSpec::new(addr, addr.parse().unwrap());
        let vips = ["10.1.9.1:443", "[fd01::9:1]:443", "10.2.0.1:5000"].map(|a| a.parse().unwrap()).to_vec();
        let backends = vec![backend("10.2.0.11:8443"), backend("[fd02::11]:8443")];
        Config {
            ports: vec![port(["10.1.0.1", "fd01::1"]), port(["10.2.0.1", "fd02::1"])],
            wanted: Wanted::single(vips, Policy::default(), PoolSpec { backends, ..PoolSpec::default() }),
            address_mode: mode,
            ..Config::default()
        }
    }

    fn steering(mode: AddressMode, workers: usize) -> Steering {
        Steering::new(&config(mode), &[7; 32], workers)
    }

    fn tcp(from: SocketAddr, to: SocketAddr, flags: Flags, dst: Mac) -> Vec<u8> {
        let segment = Segment {
            link: Link { dst, src: OTHER, vlans: Vlans::NONE },
            src: (from.ip().into(), from.port()),
            dst: (to.ip().into(), to.port()),
            seq: Seq(1),
            ack: Seq(2),
            flags,
            window: 1000,
            options: &[],
            payload: b"abc",
        };
        let mut buf = vec![0; 200];
        let n = segment.write(&mut buf);
        buf.truncate(n);
        buf
    }

    /// An ICMP error (unreachable) to `to` from `by` that quotes an IP packet.
    fn error(by: IpAddr, to: IpAddr, quoted: &[u8]) -> Vec<u8> {
        let mut frame = [OURS.0, OTHER.0].concat();
        match (by, to) {
            (IpAddr::V4(by), IpAddr::V4(to)) => {
                let len = (20 + 8 + quoted.len()) as u16;
                frame.extend([8, 0, 0x45, 0]);
                frame.extend(len.to_be_bytes());
                frame.extend([0, 0, 0, 0, 64, 1, 0, 0]);
                frame.extend(by.octets().iter().chain(&to.octets()));
                frame.extend([3, 1, 0, 0, 0, 0, 0, 0]);
            }
            (IpAddr::V6(by), IpAddr::V6(to)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((8 + quoted.len() as u16).to_be_bytes());
                frame.extend([58, 64]);
                frame.extend(by.octets().iter().chain(&to.octets()));
                frame.extend([1, 0, 0, 0, 0, 0, 0, 0]);
            }
            _ => unreachable!("one family"),
        }
        frame.extend(quoted);
        frame
    }

    fn any_client() -> impl Strategy<Value = SocketAddr> {
        let ip = prop_oneof![
            any::<[u8; 4]>().prop_map(|b| IpAddr::from([172, b[1], b[2], b[3]])),
            any::<[u16; 4]>().prop_map(|b| IpAddr::from([0x2001, 0xdb8, b[0], b[1], 0, 0, b[2], b[3]])),
        ];
        (ip, 1u16..).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    #[test]
    fn frames_to_a_listener_that_is_leaving_are_led_where_its_flows_are() {
        let mut config = config(AddressMode::Snat);
        let first = Directory::next(None, &config.wanted, |_| true).unwrap();
        let gone = config.wanted.services[0].listen.remove(0);
        let second = Directory::next(Some(&first), &config.wanted, |_| false).unwrap();
        let third = Directory::next(Some(&second), &config.wanted, |_| true).unwrap();
        let before = steering(AddressMode::Snat, 4);
        for port in 1..200 {
            let key = Key::tcp(SocketAddr::from(([172, 16, 0, 9], port)), gone);
            assert!(before.owner(&key).is_some());
            assert_eq!(before.following(&second).owner(&key), before.owner(&key));
            assert_eq!(before.following(&third).owner(&key), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// What comes from the client, what its backend returns, and errors about either, by DNAT: one owner.
        #[test]
        fn both_sides_of_a_flow_and_errors_about_it_have_one_owner_dnat(client in any_client(), workers in 1usize..9) {
            let s = steering(AddressMode::Dnat, workers);
            let (vip, backend): (SocketAddr, SocketAddr) = if client.is_ipv4() {
                ("10.1.9.1:443".parse().unwrap(), "10.2.0.11:8443".parse().unwrap())
            } else {
                ("[fd01::9:1]:443".parse().unwrap(), "[fd02::11]:8443".parse().unwrap())
            };
            let Place::At(owner) = s.place_of(0, &tcp(client, vip, Flags::ACK, OURS)) else { panic!("no owner") };
            prop_assert!(owner < workers);
            prop_assert_eq!(s.place_of(0, &tcp(client, vip, Flags::SYN, OURS)), Place::Preferably(owner));
            prop_assert_eq!(s.place_of(1, &tcp(backend, client, Flags::ACK, OURS)), Place::At(owner));
            // We sent from the VIP to the client, and from the client's address to the backend.
            for (src, dst) in [(vip, client), (client, backend)] {
                let quoted = &tcp(src, dst, Flags::ACK, OURS)[14..];
                prop_assert_eq!(s.place_of(1, &error(dst.ip(), src.ip(), quoted)), Place::At(owner));
            }
        }

        /// By SNAT a returning frame's port says who dialled; errors about what was sent from it say the same.
        #[test]
        fn a_returning_frame_belongs_to_the_worker_of_its_port_snat(port in 2048u16.., workers in 1usize..9) {
            let s = steering(AddressMode::Snat, workers);
            let expected = (0..workers).find(|w| {
                let (first, last) = crate::flow::LocalPorts::share(2048, u16::MAX, *w, workers).unwrap();
                (first..=last).contains(&port)
            }).unwrap();
            for (backend, own) in [("10.2.0.11:8443", "10.2.0.1"), ("[fd02::11]:8443", "fd02::1")] {
                let (backend, own) = (backend.parse().unwrap(), SocketAddr::new(own.parse().unwrap(), port));
                prop_assert_eq!(s.place_of(1, &tcp(backend, own, Flags::ACK, OURS)), Place::At(expected));
                let quoted = &tcp(own, backend, Flags::SYN, OURS)[14..];
                prop_assert_eq!(s.place_of(1, &error(backend.ip(), own.ip(), quoted)), Place::At(expected));
            }
        }

        #[test]
        fn hostile_bytes_are_read_without_harm(mut frame in prop::collection::vec(any::<u8>(), 0..200), kind in 0usize..4) {
            let s = steering(AddressMode::Dnat, 4);
            if frame.len() > 14 {
                frame[..6].copy_from_slice(&OURS.0);
                frame[12..14].copy_from_slice(&[[8, 0], [8, 6], [0x86, 0xdd], [0x81, 0]][kind]);
            }
            if let Place::At(w) | Place::Preferably(w) = s.place_of(0, &frame) {
                prop_assert!(w < 4);
            }
        }
    }

    #[test]
    fn clients_spread_evenly_over_workers() {
        let s = steering(AddressMode::Snat, 3);
        let vip = "10.1.9.1:443".parse().unwrap();
        let mut got = [0u32; 3];
        for port in 10_000..13_000 {
            let Place::At(w) = s.place_of(0, &tcp(SocketAddr::new([10, 1, 0, 7].into(), port), vip, Flags::ACK, OURS))
            else {
                panic!("no owner")
            };
            got[w] += 1;
        }
        assert!(got.iter().all(|n| (900..1100).contains(n)), "{got:?}");
    }

    #[test]
    fn a_vip_on_the_address_we_dial_from_is_no_contradiction() {
        let s = steering(AddressMode::Snat, 7);
        let both: SocketAddr = "10.2.0.1:5000".parse().unwrap();
        let backend = "10.2.0.11:8443".parse().unwrap();
        assert_eq!(s.place_of(1, &tcp(backend, both, Flags::ACK, OURS)), Place::At(worker_of_port(5000, 7).unwrap()));
        let owners = (1..200).map(|n| {
            let client = SocketAddr::new([10, 1, 0, n as u8].into(), 1000 + n);
            s.place_of(0, &tcp(client, both, Flags::ACK, OURS))
        });
        assert!(owners.collect::<Vec<_>>().windows(2).any(|w| w[0] != w[1]), "clients go by hash");
    }

    /// What a card with two queues does with what returns, and with what clients send, is what steering says; whatever the card.
    #[test]
    fn where_a_card_is_known_frames_belong_to_the_queue_they_come_by() {
        let key: Vec<u8> = (0..40u8).map(|n| n.wrapping_mul(37) ^ 11).collect();
        let table: Vec<_> = (0..64).map(|entry| Some(entry % 2)).collect();
        let rss = Arc::new(Rss::new(&key, &table, true, false).unwrap());
        let config = config(AddressMode::Snat);
        let ports = [Some(rss.clone()), Some(rss.clone())];
        let returning = Arc::new(Returning::by_ports(&config, 2, &ports));
        let s = Steering::new(&config, &[7; 32], 2).returning(returning);
        let mut got = [0; 2];
        for port in 3000..3200 {
            let (backend, own) =
                ("10.2.0.11:8443".parse().unwrap(), SocketAddr::new("10.2.0.1".parse().unwrap(), port));
            let queue = rss.worker(&Key::tcp(backend, own)).unwrap();
            assert_eq!(s.place_of(1, &tcp(backend, own, Flags::ACK, OURS)), Place::At(queue));
            got[queue] += 1;
            let (client, vip) = (SocketAddr::new("172.16.0.9".parse().unwrap(), port), "10.1.9.1:443".parse().unwrap());
            let queue = rss.worker(&Key::tcp(client, vip)).unwrap();
            assert_eq!(s.place_of(0, &tcp(client, vip, Flags::ACK, OURS)), Place::At(queue));
            // It hashes no IPv6, and probes have ports of their own: by ranges.
            let (backend, own) =
                ("[fd02::11]:8443".parse().unwrap(), SocketAddr::new("fd02::1".parse().unwrap(), port));
            let expected = Place::At(worker_of_port(port, 2).unwrap());
            assert_eq!(s.place_of(1, &tcp(backend, own, Flags::ACK, OURS)), expected);
        }
        assert!(got.iter().all(|n| *n > 60), "{got:?}");
        let (backend, probe) = ("10.2.0.11:8443".parse().unwrap(), "10.2.0.1:1024".parse().unwrap());
        assert_eq!(s.place_of(1, &tcp(backend, probe, Flags::ACK, OURS)), Place::At(worker_of_port(1024, 2).unwrap()));
        // By DNAT both sides must agree, which a card does not.
        let config = self::config(AddressMode::Dnat);
        let dnat = Steering::new(&config, &[7; 32], 2).returning(Arc::new(Returning::by_ports(&config, 2, &ports)));
        for port in 3000..3200 {
            let (client, vip) = (SocketAddr::new("172.16.0.9".parse().unwrap(), port), "10.1.9.1:443".parse().unwrap());
            let backend = "10.2.0.11:8443".parse().unwrap();
            let there = dnat.place_of(0, &tcp(client, vip, Flags::ACK, OURS));
            assert_eq!(there, dnat.place_of(1, &tcp(backend, client, Flags::ACK, OURS)));
        }
    }

    #[test]
    fn what_neighbours_say_goes_to_all_and_what_they_ask_stays() {
        let s = steering(AddressMode::Snat, 2);
        let mut arp = Arp {
            op: arp_op::REPLY,
            sender_mac: OTHER,
            sender: Addr::v4([10, 2, 0, 11]),
            target_mac: OURS,
            target: Addr::v4([10, 2, 0, 1]),
        };
        let link = Link { dst: OURS, src: OTHER, vlans: Vlans::from_ids(&[7]) };
        let mut buf = [0; 128];
        let n = arp.write(&mut buf, &link);
        assert_eq!(s.place_of(1, &buf[..n]), Place::Everywhere);
        arp.op = arp_op::REQUEST;
        let n = arp.write(&mut buf, &link);
        assert_eq!(s.place_of(1, &buf[..n]), Place::Here);
        arp.target = arp.sender;
        let n = arp.write(&mut buf, &Link { dst: Mac::BROADCAST, ..link });
        assert_eq!(s.place_of(1, &buf[..n]), Place::Everywhere, "an announcement");
        let mut icmp = vec![136u8, 0, 0, 0, 0, 0, 0, 0];
        let mut frame = error("fd02::11".parse().unwrap(), "fd02::1".parse().unwrap(), &[]);
        let at = frame.len() - 8;
        assert_ne!(
            checksum::transport(&[0; 4], &[0; 4], 58, &icmp),
            0,
            "steering looks at no checksum: the engine does"
        );
        frame[at..].copy_from_slice(&icmp);
        assert_eq!(s.place_of(1, &frame), Place::Everywhere);
        icmp[0] = 135;
        frame[at..].copy_from_slice(&icmp);
        assert_eq!(s.place_of(1, &frame), Place::Here);
    }

    #[test]
    fn what_is_not_for_us_is_handed_to_nobody() {
        let s = steering(AddressMode::Dnat, 2);
        let (a, b) = ("10.1.0.7:1000".parse().unwrap(), "10.1.9.1:443".parse().unwrap());
        assert_eq!(s.place_of(0, &tcp(a, b, Flags::ACK, OTHER)), Place::Here);
        let snat = steering(AddressMode::Snat, 2);
        assert_eq!(snat.place_of(0, &tcp(a, "10.9.9.9:443".parse().unwrap(), Flags::ACK, OURS)), Place::Here);
        assert_eq!(snat.place_of(1, &tcp(a, "10.2.0.1:80".parse().unwrap(), Flags::ACK, OURS)), Place::Here);
    }
}
