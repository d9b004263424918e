//! The XDP program: which frames are the dispatcher's, and which go on to the kernel.
//!
//! What [`Filter`] says in words, in the kernel's instructions, put together here and loaded as they are. Everything
//! that the program does not take goes on as if it were not there, so an operator's connections through the same
//! interface live on, and so does everything else that the kernel does there.
//!
//! **Taken:**
//! * ARP that asks for, or answers to, one of our addresses; IPv6 neighbour solicitations for one of them.
//! * To a VIP's address: TCP to its port, ICMP, fragments, IPv6 extension headers.
//! * To one of a port's own addresses: the same, and TCP to any port: answers of servers come there.
//! * To one of a port's own addresses, from where a tunnel ends: IP in IP, or UDP to the tunnel's port.
//! * With the clients' addresses kept (dnat): TCP from a server's address and port, and ICMP errors that quote a
//!   segment to it.
//!
//! With up to two VLAN tags. Whatever is cut short or unknown is the kernel's.
//!
//! **Maps:** `addresses`, 16 bytes (IPv4 mapped, `::ffff:a.b.c.d`) -> [`VIP`] or [`OWN`]; `services`, address and port
//! (network order) and two zeros -> [`VIP`] or [`SERVER`]; of a tunnel's end, [`MARK`] instead of the zeros -> [`TUNNEL`]. Both are filled before the program is attached, and written
//! entry by entry when the filter changes; whether servers are looked at (dnat) is in the program. `sockets`: queue -> socket; a queue without one passes its frames on.
//!
//! **Registers:** r6 the context, r7 the packet's beginning and later the address's value, r8 its end, r9 the IP (or ARP)
//! header. The key of a look-up lies at the end of the stack: address from fp-24, port at fp-8, zeros at fp-6.

use super::Filter;
use super::bpf::{Assembler, FP, Helper, Label, Map, MapKind, Program, Register, When, Width};
use crate::wire::packet::{MAX_TAGS, ethertype};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const VIP: u32 = 1;
const OWN: u32 = 2;
const SERVER: u32 = 3;
const TUNNEL: u32 = 4;

/// What the key of a tunnel's end has behind its port, so that it is no other's.
const MARK: u16 = 1;

/// `XDP_PASS`.
const PASS: i32 = 2;

const KEY: i16 = -24;
const KEY_PORT: i16 = -8;
const KEY_MARK: i16 = -6;

/// Most addresses: own ones, and those of VIPs.
pub(super) const MOST_ADDRESSES: usize = 2048;

/// Most services: VIPs with their ports and, with dnat, servers with theirs. Both maps are the kernel's memory at full size, less than
/// 1 MiB a device.
pub(super) const MOST_SERVICES: usize = 6144;

/// What is ours, in the kernel's maps.
#[derive(Debug)]
pub(super) struct Maps {
    addresses: Map,
    services: Map,
    dnat: bool,
}

/// What is in the maps, or is to be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Entries {
    addresses: BTreeMap<[u8; 16], u32>,
    services: BTreeMap<[u8; 20], u32>,
}

impl Entries {
    pub(super) fn of(filter: &Filter) -> Entries {
        let mut addresses: BTreeMap<_, _> = filter.services.iter().map(|s| (address_key(s.ip()), VIP)).collect();
        // An address that is both takes all that comes to an own one.
        addresses.extend(filter.addresses.iter().map(|ip| (address_key(*ip), OWN)));
        let servers = filter.backends.iter().filter(|_| filter.dnat).map(|b| (service_key(*b), SERVER));
        let tunnels = filter.tunnels.iter().map(|end| (tunnel_key(*end), TUNNEL));
        let services = servers.chain(filter.services.iter().map(|s| (service_key(*s), VIP))).chain(tunnels).collect();
        Entries { addresses, services }
    }

    /// Says what is too many.
    pub(super) fn fit(&self) -> Result<(), String> {
        for (what, count, most) in [
            ("addresses of its own and of VIPs", self.addresses.len(), MOST_ADDRESSES),
            ("VIPs, tunnels and, with dnat, backends", self.services.len(), MOST_SERVICES),
        ] {
            if count > most {
                return Err(format!("{count} {what}: at most {most} are possible"));
            }
        }
        Ok(())
    }

    /// There is an IPv4 address of ours.
    pub(super) fn has_v4(&self) -> bool {
        self.addresses.keys().any(|key| Ipv6Addr::from(*key).to_ipv4_mapped().is_some())
    }

    /// The IPv6 addresses of ours.
    pub(super) fn v6(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.addresses.keys().map(|key| Ipv6Addr::from(*key)).filter(|ip| ip.to_ipv4_mapped().is_none())
    }
}

fn address_key(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn service_key(service: SocketAddr) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&address_key(service.ip()));
    key[16..18].copy_from_slice(&service.port().to_be_bytes());
    key
}

fn tunnel_key(end: SocketAddr) -> [u8; 20] {
    let mut key = service_key(end);
    key[18..].copy_from_slice(&MARK.to_ne_bytes());
    key
}

impl Maps {
    /// Empty ones.
    pub(super) fn new(dnat: bool) -> io::Result<Maps> {
        Ok(Maps {
            addresses: Map::new(MapKind::Hash, 16, MOST_ADDRESSES)?,
            services: Map::new(MapKind::Hash, 20, MOST_SERVICES)?,
            dnat,
        })
    }

    /// Puts in what is wanted and not there; `there` says at any time what is.
    pub(super) fn add(&self, wanted: &Entries, there: &mut Entries) -> io::Result<()> {
        // A port before its address: who finds the address in the map looks for the port.
        add(&self.services, &wanted.services, &mut there.services)?;
        add(&self.addresses, &wanted.addresses, &mut there.addresses)
    }

    /// Takes out what is not wanted; `there` says at any time what is there.
    pub(super) fn keep(&self, wanted: &Entries, there: &mut Entries) -> io::Result<()> {
        keep(&self.addresses, &wanted.addresses, &mut there.addresses)?;
        keep(&self.services, &wanted.services, &mut there.services)
    }
}

fn add<const N: usize>(
    map: &Map,
    wanted: &BTreeMap<[u8; N], u32>,
    there: &mut BTreeMap<[u8; N], u32>,
) -> io::Result<()> {
    for (key, value) in wanted {
        if there.get(key) != Some(value) {
            map.set(key, *value)?;
            there.insert(*key, *value);
        }
    }
    Ok(())
}

fn keep<const N: usize>(
    map: &Map,
    wanted: &BTreeMap<[u8; N], u32>,
    there: &mut BTreeMap<[u8; N], u32>,
) -> io::Result<()> {
    let unwanted: Vec<_> = there.keys().filter(|key| !wanted.contains_key(*key)).copied().collect();
    unwanted.iter().try_for_each(|key| {
        map.remove(key)?;
        there.remove(key);
        Ok(())
    })
}

/// The sockets of one device, by queue.
pub(super) fn sockets(queues: usize) -> io::Result<Map> {
    Map::new(MapKind::Xsk, 4, queues)
}

/// The program for one device. `frags`: for frames in several buffers, too; headers are looked for in the first.
pub(super) fn load(maps: &Maps, sockets: &Map, frags: bool) -> io::Result<Program> {
    let code = assemble(maps, |a| {
        a.map(1, sockets);
        // ctx->rx_queue_index
        a.load(Width::Word, 2, 6, 16);
        a.set(3, PASS);
        a.call(Helper::RedirectMap);
    });
    Program::load("dispatcher", &code, frags)
}

/// `take` leaves in r0 what the program answers for a frame that is ours.
fn assemble(maps: &Maps, take: impl Fn(&mut Assembler)) -> Vec<super::bpf::Instruction> {
    let mut a = Assembler::default();
    let (ours, pass) = (a.label(), a.label());
    let parts = Parts { maps, ours, pass };
    let (arp, v4, v6) = (a.label(), a.label(), a.label());

    a.copy(6, 1);
    // ctx->data, ctx->data_end
    a.load(Width::Word, 7, 6, 0);
    a.load(Width::Word, 8, 6, 4);
    a.copy(9, 7);
    a.add(9, 14);
    a.jump_if_register(9, When::Greater, 8, pass);
    a.load(Width::Half, 3, 7, 12);
    // Keys have two zeros at their end.
    a.store_value(Width::Word, FP, KEY_PORT, 0);
    let network = |ethertype: u16| i32::from(ethertype.to_be());
    let untagged = a.label();
    for _ in 0..MAX_TAGS {
        let tagged = a.label();
        for kind in ethertype::TAGS {
            a.jump_if(3, When::Equal, network(kind), tagged);
        }
        a.jump(untagged);
        a.here(tagged);
        a.add(9, 4);
        a.jump_if_register(9, When::Greater, 8, pass);
        a.load(Width::Half, 3, 9, -2);
    }
    a.here(untagged);
    a.jump_if(3, When::Equal, network(0x0800), v4);
    a.jump_if(3, When::Equal, network(0x86dd), v6);
    a.jump_if(3, When::Equal, network(0x0806), arp);
    a.jump(pass);

    a.here(arp);
    // Of Ethernet and IPv4, 28 bytes; the target's address is at 24.
    parts.within(&mut a, 9, 28);
    parts.v4_key(&mut a, 24);
    parts.look_up(&mut a, &maps.addresses, pass);
    a.jump(ours);

    a.here(v4);
    parts.ipv4(&mut a);
    a.here(v6);
    parts.ipv6(&mut a);

    a.here(ours);
    take(&mut a);
    a.exit();
    a.here(pass);
    a.set(0, PASS);
    a.exit();
    a.finish()
}

/// What the parts of the program have in common.
struct Parts<'a> {
    maps: &'a Maps,
    ours: Label,
    pass: Label,
}

const TCP: i32 = 6;
const UDP: i32 = 17;
/// IP in IP, of either version.
const WRAPPED: [i32; 2] = [4, 41];
const ICMP: i32 = 1;
const ICMPV6: i32 = 58;

impl Parts<'_> {
    /// Passes the frame on unless `len` bytes from the register's place are there. Uses r4.
    fn within(&self, a: &mut Assembler, from: Register, len: i32) {
        a.copy(4, from);
        a.add(4, len);
        a.jump_if_register(4, When::Greater, 8, self.pass);
    }

    /// Makes the IPv4 address at `offset` of the header (r9) the key. Uses r1.
    fn v4_key(&self, a: &mut Assembler, offset: i16) {
        self.v4_key_of(a, 9, offset);
    }

    fn v4_key_of(&self, a: &mut Assembler, from: Register, offset: i16) {
        a.store_value(Width::Double, FP, KEY, 0);
        a.store_value(Width::Word, FP, KEY + 8, i32::from_ne_bytes([0, 0, 0xff, 0xff]));
        a.load(Width::Word, 1, from, offset);
        a.store(Width::Word, FP, KEY + 12, 1);
    }

    /// Makes the IPv6 address at `offset` from a register's place the key. Uses r1.
    fn v6_key_of(&self, a: &mut Assembler, from: Register, offset: i16) {
        for part in [0, 4, 8, 12] {
            a.load(Width::Word, 1, from, offset + part);
            a.store(Width::Word, FP, KEY + part, 1);
        }
    }

    /// r0 = the key's value; to `missing` when there is none.
    fn look_up(&self, a: &mut Assembler, map: &Map, missing: Label) {
        a.map(1, map);
        a.copy(2, FP);
        a.add(2, KEY.into());
        a.call(Helper::MapLookup);
        a.jump_if(0, When::Equal, 0, missing);
        a.load(Width::Word, 0, 0, 0);
    }

    /// The port at `offset` from a register's place completes the key: ours if this is a service of that kind.
    fn service(&self, a: &mut Assembler, from: Register, offset: i16, kind: u32) {
        a.load(Width::Half, 1, from, offset);
        a.store(Width::Half, FP, KEY_PORT, 1);
        self.look_up(a, &self.maps.services, self.pass);
        a.jump_if(0, When::Equal, kind as i32, self.ours);
        a.jump(self.pass);
    }

    /// The address in the key is that of a tunnel's end, for the port at `offset` from a register's place, or for no port: then it is ours.
    fn tunnel(&self, a: &mut Assembler, port: Option<(Register, i16)>) {
        if let Some((from, offset)) = port {
            a.load(Width::Half, 1, from, offset);
            a.store(Width::Half, FP, KEY_PORT, 1);
        }
        a.store_value(Width::Half, FP, KEY_MARK, MARK.into());
        self.look_up(a, &self.maps.services, self.pass);
        a.jump_if(0, When::Equal, TUNNEL as i32, self.ours);
        a.jump(self.pass);
    }

    /// r3 = behind the IPv4 header that begins at `from`; to `pass` when there is none. Uses r2. Each length has a branch of its own,
    /// for the verifier lets nobody but root (and CAP_PERFMON) add to a packet's place what it does not know.
    fn v4_payload(&self, a: &mut Assembler, from: Register) {
        let behind = a.label();
        a.load(Width::Byte, 2, from, 0);
        a.and(2, 15);
        a.copy(3, from);
        for words in 5..=15 {
            let longer = a.label();
            a.jump_if(2, When::NotEqual, words, longer);
            a.add(3, 4 * words);
            a.jump(behind);
            a.here(longer);
        }
        a.jump(self.pass);
        a.here(behind);
    }

    fn ipv4(&self, a: &mut Assembler) {
        let other = a.label();
        self.within(a, 9, 20);
        self.v4_key(a, 16);
        self.look_up(a, &self.maps.addresses, other);
        a.copy(7, 0);
        // A fragment: the engine has a word for it.
        a.load(Width::Half, 1, 9, 6);
        a.jump_if(1, When::AnyBit, i32::from(0x3fffu16.to_be()), self.ours);
        a.load(Width::Byte, 1, 9, 9);
        a.jump_if(1, When::Equal, ICMP, self.ours);
        let not_tcp = a.label();
        a.jump_if(1, When::NotEqual, TCP, not_tcp);
        a.jump_if(7, When::Equal, OWN as i32, self.ours);
        self.v4_payload(a, 9);
        self.within(a, 3, 4);
        self.service(a, 3, 2, VIP);

        a.here(not_tcp);
        let wrapped = a.label();
        a.jump_if(7, When::NotEqual, OWN as i32, self.pass);
        for protocol in WRAPPED {
            a.jump_if(1, When::Equal, protocol, wrapped);
        }
        a.jump_if(1, When::NotEqual, UDP, self.pass);
        self.v4_payload(a, 9);
        self.within(a, 3, 4);
        self.v4_key(a, 12);
        self.tunnel(a, Some((3, 2)));
        a.here(wrapped);
        self.v4_key(a, 12);
        self.tunnel(a, None);

        a.here(other);
        if !self.maps.dnat {
            a.jump(self.pass);
            return;
        }
        let error = a.label();
        a.load(Width::Half, 1, 9, 6);
        a.jump_if(1, When::AnyBit, i32::from(0x1fffu16.to_be()), self.pass);
        a.load(Width::Byte, 1, 9, 9);
        a.jump_if(1, When::Equal, ICMP, error);
        a.jump_if(1, When::NotEqual, TCP, self.pass);
        self.v4_payload(a, 9);
        self.within(a, 3, 4);
        self.v4_key(a, 12);
        self.service(a, 3, 0, SERVER);

        a.here(error);
        self.v4_payload(a, 9);
        self.within(a, 3, 8 + 20);
        a.load(Width::Byte, 1, 3, 0);
        let quoting = a.label();
        // Unreachable (fragmentation needed is one), time exceeded, parameter problem.
        for kind in [3, 11, 12] {
            a.jump_if(1, When::Equal, kind, quoting);
        }
        a.jump(self.pass);
        a.here(quoting);
        a.add(3, 8);
        a.load(Width::Byte, 1, 3, 9);
        a.jump_if(1, When::NotEqual, TCP, self.pass);
        self.v4_key_of(a, 3, 16);
        a.copy(9, 3);
        self.v4_payload(a, 9);
        self.within(a, 3, 4);
        self.service(a, 3, 2, SERVER);
    }

    fn ipv6(&self, a: &mut Assembler) {
        let other = a.label();
        self.within(a, 9, 40);
        self.v6_key_of(a, 9, 24);
        self.look_up(a, &self.maps.addresses, other);
        a.copy(7, 0);
        a.load(Width::Byte, 1, 9, 6);
        // ICMPv6; hop-by-hop options, routing, fragment, destination options: the engine reads them.
        for next in [ICMPV6, 0, 43, 44, 60] {
            a.jump_if(1, When::Equal, next, self.ours);
        }
        let not_tcp = a.label();
        a.jump_if(1, When::NotEqual, TCP, not_tcp);
        a.jump_if(7, When::Equal, OWN as i32, self.ours);
        self.within(a, 9, 44);
        self.service(a, 9, 42, VIP);

        a.here(not_tcp);
        let wrapped = a.label();
        a.jump_if(7, When::NotEqual, OWN as i32, self.pass);
        for protocol in WRAPPED {
            a.jump_if(1, When::Equal, protocol, wrapped);
        }
        a.jump_if(1, When::NotEqual, UDP, self.pass);
        self.within(a, 9, 44);
        self.v6_key_of(a, 9, 8);
        self.tunnel(a, Some((9, 42)));
        a.here(wrapped);
        self.v6_key_of(a, 9, 8);
        self.tunnel(a, None);

        a.here(other);
        let solicitation = a.label();
        let icmp = a.label();
        a.load(Width::Byte, 1, 9, 6);
        a.jump_if(1, When::Equal, ICMPV6, icmp);
        if self.maps.dnat {
            a.jump_if(1, When::NotEqual, TCP, self.pass);
            self.within(a, 9, 44);
            self.v6_key_of(a, 9, 8);
            self.service(a, 9, 40, SERVER);
        } else {
            a.jump(self.pass);
        }

        a.here(icmp);
        self.within(a, 9, 40 + 24);
        a.load(Width::Byte, 1, 9, 40);
        a.jump_if(1, When::Equal, 135, solicitation);
        if self.maps.dnat {
            let quoting = a.label();
            // Unreachable, packet too big, time exceeded, parameter problem.
            for kind in [1, 2, 3, 4] {
                a.jump_if(1, When::Equal, kind, quoting);
            }
            a.jump(self.pass);
            a.here(quoting);
            self.within(a, 9, 48 + 44);
            a.load(Width::Byte, 1, 9, 48 + 6);
            a.jump_if(1, When::NotEqual, TCP, self.pass);
            self.v6_key_of(a, 9, 48 + 24);
            self.service(a, 9, 48 + 42, SERVER);
        } else {
            a.jump(self.pass);
        }
        a.here(solicitation);
        self.v6_key_of(a, 9, 48);
        self.look_up(a, &self.maps.addresses, self.pass);
        a.jump(self.ours);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `XDP_REDIRECT`.
    const TAKEN: u32 = 4;

    /// The program, without sockets: it only says what it would take. None without the privilege to load it.
    fn program(filter: &Filter) -> Option<(Program, Maps, Entries)> {
        let maps = match Maps::new(filter.dnat) {
            Ok(maps) => maps,
            Err(e) => {
                eprintln!("skipped: loading a BPF program needs root ({e})");
                return None;
            }
        };
        let mut there = Entries::default();
        maps.add(&Entries::of(filter), &mut there).unwrap();
        let code = assemble(&maps, |a| a.set(0, TAKEN as i32));
        // The verifier has nothing against it as one for frames in several buffers.
        Program::load("frags", &code, true).unwrap_or_else(|e| panic!("{e}"));
        Some((Program::load("test", &code, false).unwrap_or_else(|e| panic!("{e}")), maps, there))
    }

    fn filter(dnat: bool) -> Filter {
        let parse = |all: &[&str]| all.iter().map(|s| s.parse().unwrap()).collect();
        Filter {
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            services: parse(&["10.0.0.100:443", "10.0.0.101:80", "[fd00::100]:443"]),
            backends: parse(&["10.0.0.11:443", "10.0.0.12:8443", "[fd00::11]:443"]),
            // At the port of a server, and where none is.
            tunnels: parse(&["10.0.0.11:443", "10.0.0.12:0", "[fd00::11]:80", "[fd00::2]:0"]),
            dnat,
        }
    }

    /// What [`Filter`] says, in plain words: the oracle.
    fn wanted(filter: &Filter, frame: &[u8]) -> Option<bool> {
        let be = |bytes: Option<&[u8]>| Some(u16::from_be_bytes(bytes?.try_into().ok()?));
        let ip4 = |bytes: &[u8]| IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap());
        let ip6 = |bytes: &[u8]| IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap());
        let own = |ip: IpAddr| filter.addresses.contains(&ip);
        let vip = |ip: IpAddr| filter.services.iter().any(|s| s.ip() == ip);
        let service = |ip, port| filter.services.contains(&SocketAddr::new(ip, port));
        let server = |ip, port| filter.dnat && filter.backends.contains(&SocketAddr::new(ip, port));
        let tunnel = |ip, port| filter.tunnels.contains(&SocketAddr::new(ip, port));
        let (mut at, mut kind) = (14, be(frame.get(12..14))?);
        for _ in 0..2 {
            if matches!(kind, 0x8100 | 0x88a8 | 0x9100) {
                kind = be(frame.get(at + 2..at + 4))?;
                at += 4;
            }
        }
        let packet = frame.get(at..)?;
        Some(match kind {
            0x0806 => {
                let target = ip4(packet.get(24..28)?);
                own(target) || vip(target)
            }
            0x0800 => {
                let (src, dst) = (ip4(packet.get(12..16)?), ip4(packet.get(16..20)?));
                fn payload(packet: &[u8]) -> Option<&[u8]> {
                    let header = usize::from(packet[0] & 15) * 4;
                    packet.get(header..).filter(|_| header >= 20)
                }
                let segment = payload(packet);
                let (fragment, offset) = (be(packet.get(6..8))? & 0x3fff != 0, be(packet.get(6..8))? & 0x1fff);
                match packet[9] {
                    _ if fragment && (own(dst) || vip(dst)) => true,
                    1 if own(dst) || vip(dst) => true,
                    6 if own(dst) => true,
                    6 if vip(dst) && !own(dst) => service(dst, be(segment?.get(2..4))?),
                    4 | 41 if own(dst) => tunnel(src, 0),
                    17 if own(dst) => tunnel(src, be(segment?.get(2..4))?),
                    _ if own(dst) || vip(dst) || offset != 0 => false,
                    6 => {
                        let segment = segment?.get(..4)?;
                        server(src, be(segment.get(0..2))?)
                    }
                    1 => {
                        let quoted = segment?.get(8..)?;
                        let (to, inner) = (ip4(quoted.get(16..20)?), payload(quoted)?);
                        matches!(segment?[0], 3 | 11 | 12) && quoted[9] == 6 && server(to, be(inner.get(2..4))?)
                    }
                    _ => false,
                }
            }
            0x86dd => {
                let (src, dst) = (ip6(packet.get(8..24)?), ip6(packet.get(24..40)?));
                match packet[6] {
                    0 | 43 | 44 | 58 | 60 if own(dst) || vip(dst) => true,
                    6 if own(dst) => true,
                    6 if vip(dst) => service(dst, be(packet.get(42..44))?),
                    4 | 41 if own(dst) => tunnel(src, 0),
                    17 if own(dst) => tunnel(src, be(packet.get(42..44))?),
                    _ if own(dst) || vip(dst) => false,
                    6 => server(src, be(packet.get(40..44)?.get(..2))?),
                    58 => {
                        let message = packet.get(40..64).and(packet.get(40..))?;
                        match message[0] {
                            135 => own(ip6(&message[8..24])) || vip(ip6(&message[8..24])),
                            1..=4 => {
                                let quoted = message.get(8..)?;
                                let port = be(quoted.get(42..44))?;
                                quoted[6] == 6 && server(ip6(&quoted[24..40]), port)
                            }
                            _ => false,
                        }
                    }
                    _ => false,
                }
            }
            _ => false,
        })
    }

    /// One of a few addresses, of which some are ours.
    fn v4() -> impl Strategy<Value = [u8; 4]> {
        prop::sample::select(vec![1u8, 2, 11, 12, 100, 101]).prop_map(|last| [10, 0, 0, last])
    }

    fn v6() -> impl Strategy<Value = [u8; 16]> {
        prop::sample::select(vec![1u16, 2, 0x11, 0x100])
            .prop_map(|last| std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).octets())
    }

    fn ports() -> impl Strategy<Value = Vec<u8>> {
        let port = || prop::sample::select(vec![22u16, 80, 443, 8443]);
        (port(), port()).prop_map(|(a, b)| [a.to_be_bytes(), b.to_be_bytes()].concat())
    }

    fn v4_packet(payload: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        let fragment = prop::sample::select(vec![0u16, 0, 0, 0, 0x4000, 0x2000, 7]);
        (v4(), v4(), prop::sample::select(vec![6u8, 6, 6, 1, 1, 17, 17, 4, 41]), 5u8..8, fragment, payload).prop_map(
            |(src, dst, protocol, words, fragment, payload)| {
                let mut packet = vec![0x40 | words, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
                packet[6..8].copy_from_slice(&fragment.to_be_bytes());
                packet.extend(src.iter().chain(&dst));
                packet.resize(usize::from(words) * 4, 1);
                packet.extend(payload);
                packet
            },
        )
    }

    fn v6_packet(payload: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        let multicast = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1).octets();
        let dst = prop_oneof![3 => v6(), 1 => Just(multicast)];
        (v6(), dst, prop::sample::select(vec![6u8, 6, 58, 58, 17, 17, 4, 41, 0, 44]), payload).prop_map(
            |(src, dst, next, payload)| {
                let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 255];
                packet.extend(src.iter().chain(&dst));
                packet.extend(payload);
                packet
            },
        )
    }

    /// A message of either ICMP that quotes a packet, or asks for an address.
    fn icmp(quoted: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        let kind = prop::sample::select(vec![0u8, 1, 2, 3, 4, 8, 11, 12, 128, 135, 136]);
        (kind, quoted).prop_map(|(kind, quoted)| [vec![kind, 0, 0, 0, 0, 0, 0, 0], quoted].concat())
    }

    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let arp = (v4(), v4()).prop_map(|(a, b)| {
            let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1];
            body.extend(a.iter().chain(&[0; 6]).chain(&b));
            (0x0806u16, body)
        });
        let v4_payload = || prop_oneof![ports(), icmp(v4_packet(ports()))];
        let solicitation = (v6(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(a, b)| [a.to_vec(), b].concat());
        let v6_payload = prop_oneof![ports(), icmp(v6_packet(ports())), icmp(solicitation)];
        let packet = prop_oneof![
            1 => arp,
            4 => v4_packet(v4_payload()).prop_map(|p| (0x0800u16, p)),
            4 => v6_packet(v6_payload).prop_map(|p| (0x86dd, p)),
            1 => (any::<u16>(), prop::collection::vec(any::<u8>(), 0..64)),
        ];
        let tags = prop::collection::vec(prop::sample::select(vec![0x8100u16, 0x88a8, 0x9100]), 0..4);
        (packet, tags, prop::option::weighted(0.2, 14usize..150), 0usize..20).prop_map(
            |((kind, packet), tags, cut, padding)| {
                let mut frame = vec![2; 12];
                for tag in tags {
                    frame.extend([tag.to_be_bytes(), [0, 7]].concat());
                }
                frame.extend(kind.to_be_bytes());
                frame.extend(packet);
                frame.resize(frame.len() + padding, 0);
                frame.truncate(cut.unwrap_or(usize::MAX));
                frame
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// The kernel itself runs the program on each frame.
        #[test]
        fn the_program_takes_what_the_filter_says(frames in prop::collection::vec(frame(), 200)) {
            for dnat in [false, true] {
                let filter = filter(dnat);
                let Some((program, ..)) = program(&filter) else { return Ok(()) };
                for frame in &frames {
                    let expected = if wanted(&filter, frame) == Some(true) { TAKEN } else { PASS as u32 };
                    prop_assert_eq!(program.run(frame).unwrap(), expected, "dnat {} {:x?}", dnat, frame);
                }
            }
        }

        /// The same program, loaded once, after changes; and what is taken before and after a change is taken in the midst of it.
        #[test]
        fn a_filter_that_changes_is_followed_without_a_gap(
            frames in prop::collection::vec(frame(), 60),
            parts in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..6),
        ) {
            for dnat in [false, true] {
                let whole = filter(dnat);
                let mut now = whole.clone();
                let Some((program, maps, mut there)) = program(&now) else { return Ok(()) };
                let taken = |frame: &Vec<u8>| program.run(frame).unwrap() == TAKEN;
                for (a, b, c) in &parts {
                    fn some<T: Clone>(all: &[T], mask: u8) -> Vec<T> {
                        all.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, x)| x.clone()).collect()
                    }
                    let next = Filter {
                        addresses: some(&whole.addresses, *a),
                        services: some(&whole.services, *b),
                        backends: some(&whole.backends, *c),
                        tunnels: some(&whole.tunnels, *c >> 3),
                        dnat,
                    };
                    maps.add(&Entries::of(&next), &mut there).unwrap();
                    for frame in frames.iter().filter(|f| wanted(&now, f) == Some(true) && wanted(&next, f) == Some(true)) {
                        prop_assert!(taken(frame), "a gap for {:x?}", frame);
                    }
                    maps.keep(&Entries::of(&next), &mut there).unwrap();
                    prop_assert_eq!(&there, &Entries::of(&next));
                    for frame in &frames {
                        prop_assert_eq!(taken(frame), wanted(&next, frame) == Some(true), "{:?} {:x?}", next, frame);
                    }
                    now = next;
                }
            }
        }
    }

    #[test]
    fn a_thousand_backends_and_a_hundred_services_fit_and_beyond_the_bounds_it_is_said_what_is_too_many() {
        let endpoint = |net: u8, n: usize| SocketAddr::new([10, net, (n >> 8) as u8, n as u8].into(), 443);
        let many = |services: usize, backends: usize| Filter {
            addresses: vec!["10.0.0.1".parse().unwrap()],
            services: (0..services).map(|n| endpoint(1, n)).collect(),
            backends: (0..backends).map(|n| endpoint(2, n)).collect(),
            tunnels: vec![],
            dnat: true,
        };
        let full = many(MOST_ADDRESSES - 1, MOST_SERVICES - MOST_ADDRESSES + 1);
        for fits in [many(100, 1000), full.clone()] {
            let entries = Entries::of(&fits);
            assert_eq!(entries.fit(), Ok(()));
            // The kernel's maps hold them, too.
            if let Some((_, _, there)) = program(&fits) {
                assert_eq!(there, entries);
            }
        }
        let too_many = Entries::of(&many(MOST_ADDRESSES, 0)).fit().unwrap_err();
        assert!(too_many.contains("2049 addresses") && too_many.contains("2048"), "{too_many}");
        let too_many = Entries::of(&Filter { backends: (0..5000).map(|n| endpoint(2, n)).collect(), ..full });
        assert!(too_many.fit().unwrap_err().contains("VIPs, tunnels and, with dnat, backends"));
    }

    #[test]
    fn the_verifier_accepts_the_program_with_nothing_to_filter() {
        let Some((program, ..)) = program(&Filter::default()) else { return };
        assert_eq!(program.run(&[0; 60]).unwrap(), PASS as u32);
    }
}
