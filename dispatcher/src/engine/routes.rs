//! Which addresses are ours, and by which port and next hop a backend is reached. Fixed at start.

use super::config::{Config, ConfigError};
use super::health::mss_for;
use super::neighbours::{Neighbours, NextHop};
use super::{AddressMode, PortId};
use crate::wire::packet::Vlans;
use crate::wire::{Addr, Family, Mac};
use lb::{Directory, ServiceId};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// A port as frames are built for it.
#[derive(Debug)]
pub struct Port {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Largest packet.
    pub mtu: u16,
    /// Own addresses and prefix lengths.
    pub addresses: Vec<(Addr, u8)>,
}

/// How a backend is reached.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Where it listens.
    pub addr: Addr,
    /// Its port there.
    pub port: u16,
    /// Next hop.
    pub hop: NextHop,
    /// Our address towards it.
    pub source: Addr,
}

/// What is fixed at start about addresses.
#[derive(Debug)]
pub struct Routes {
    /// By [`PortId`].
    pub ports: Vec<Port>,
    /// By backend id.
    pub backends: Vec<Route>,
    services: HashMap<(Addr, u16), ServiceId>,
    servers: HashSet<(Addr, u16)>,
    /// Our own addresses and the VIPs, and the ports that answer for them; none: all do.
    held: HashMap<Addr, Vec<PortId>>,
}

impl Routes {
    /// Finds the ways, or says in one line what is missing. Next hops are entered in `neighbours`.
    pub fn new(cfg: &Config, directory: &Directory, neighbours: &mut Neighbours) -> Result<Routes, ConfigError> {
        let fail = |why: String| Err(ConfigError(why));
        if cfg.ports.is_empty() || cfg.ports.len() > 16 {
            return fail(format!("{} ports: 1 to 16 are needed", cfg.ports.len()));
        }
        if let Some(small) = cfg.ports.iter().find(|p| p.mtu < LEAST_MTU) {
            return fail(format!("port {}: an MTU of {} is less than {LEAST_MTU}", small.name, small.mtu));
        }
        let ports: Vec<Port> = cfg
            .ports
            .iter()
            .map(|p| Port {
                mac: p.mac,
                mtu: p.mtu,
                addresses: p.addresses.iter().map(|(a, prefix)| (Addr::from(*a), *prefix)).collect(),
            })
            .collect();
        let mut held: HashMap<Addr, Vec<PortId>> = HashMap::new();
        for (i, port) in ports.iter().enumerate() {
            for (addr, _) in &port.addresses {
                held.entry(*addr).or_default().push(PortId(i as u8));
            }
        }
        let mut services = HashMap::new();
        for (vip, service) in directory.listeners() {
            let addr = Addr::from(vip.ip());
            services.insert((addr, vip.port()), *service);
            let on_link = |p: &Port| p.addresses.iter().any(|(a, prefix)| addr.in_prefix(*a, *prefix));
            let mut answering: Vec<PortId> = (0..ports.len()).map(|i| PortId(i as u8)).collect();
            if ports.iter().any(on_link) {
                answering.retain(|p| on_link(&ports[usize::from(p.0)]));
            }
            held.entry(addr).or_insert(answering);
        }
        let mut backends = Vec::new();
        for b in directory.backends() {
            let addr = Addr::from(b.addr.ip());
            if held.contains_key(&addr) {
                return fail(format!("backend {}: {} is our own address", b.name, addr.ip()));
            }
            let Some((port, next, source)) = way_to(addr, cfg) else {
                return fail(format!("backend {}: no port has {} on its link, nor a gateway to it", b.name, addr.ip()));
            };
            let spec = &cfg.ports[usize::from(port.0)];
            let hop = neighbours.add(port, spec.mac, Vlans::from_ids(&spec.vlans), next, source);
            backends.push(Route { addr, port: b.addr.port(), hop, source });
        }
        if cfg.address_mode == AddressMode::Dnat {
            let mut seen = HashSet::new();
            for (b, spec) in backends.iter().zip(directory.backends()) {
                if !seen.insert((b.addr, b.port)) {
                    return fail(format!("backend {}: {} is listed twice", spec.name, spec.addr));
                }
            }
        }
        let servers = backends.iter().map(|b| (b.addr, b.port)).collect();
        Ok(Routes { ports, backends, services, servers, held })
    }

    /// Clients may connect here, to this service.
    #[inline]
    pub fn service_at(&self, addr: Addr, port: u16) -> Option<ServiceId> {
        self.services.get(&(addr, port)).copied()
    }

    /// A backend listens here.
    #[inline]
    pub fn is_backend(&self, addr: Addr, port: u16) -> bool {
        self.servers.contains(&(addr, port))
    }

    /// The address is one of ours or a VIP.
    #[inline]
    pub fn is_ours(&self, addr: Addr) -> bool {
        self.held.contains_key(&addr)
    }

    /// A question for this address at this port is for us to answer.
    pub fn answers(&self, addr: Addr, port: PortId) -> bool {
        self.held.get(&addr).is_some_and(|ports| ports.contains(&port))
    }

    /// Nobody else at this port may have the address: it is ours there, and of a network of the port's. A VIP that is of none is
    /// reached by routes, and several dispatchers may have it.
    pub fn is_ours_alone(&self, addr: Addr, port: PortId) -> bool {
        let networks = &self.ports[usize::from(port.0)].addresses;
        self.answers(addr, port) && networks.iter().any(|(own, prefix)| addr.in_prefix(*own, *prefix))
    }

    /// All addresses to be announced, with the port; always in the same order.
    pub fn announced(&self) -> impl Iterator<Item = (PortId, Addr)> + '_ {
        let mut all: Vec<_> =
            self.held.iter().flat_map(|(addr, ports)| ports.iter().map(move |p| (*p, *addr))).collect();
        all.sort_unstable_by_key(|(port, addr)| (port.0, *addr));
        all.into_iter()
    }

    /// Largest segment our ports allow, for IPv4 and IPv6.
    pub fn mss(&self) -> [u16; 2] {
        let mtu = self.ports.iter().map(|p| p.mtu).min().unwrap_or(1500);
        [mss_for(mtu, Family::V4), mss_for(mtu, Family::V6)]
    }
}

/// RFC 791: what every link must carry. Headers of either family fit, with a byte to spare.
const LEAST_MTU: u16 = 68;

/// Port, next hop and our source address towards `addr`.
fn way_to(addr: Addr, cfg: &Config) -> Option<(PortId, Addr, Addr)> {
    let ports = || cfg.ports.iter().enumerate().map(|(i, p)| (PortId(i as u8), p));
    let longest = ports()
        .flat_map(|(i, p)| p.addresses.iter().map(move |(a, prefix)| (i, Addr::from(*a), *prefix)))
        .filter(|(_, own, prefix)| addr.in_prefix(*own, *prefix))
        .max_by_key(|(_, _, prefix)| *prefix);
    if let Some((port, source, _)) = longest {
        return Some((port, addr, source));
    }
    let same_family = |ip: &IpAddr| Addr::from(*ip).family() == addr.family();
    ports().find_map(|(i, p)| {
        let gateway = Addr::from(*p.gateways.iter().find(|g| same_family(g))?);
        let on_link = p.addresses.iter().find(|(a, prefix)| gateway.in_prefix(Addr::from(*a), *prefix));
        let own = on_link.or_else(|| p.addresses.iter().find(|(a, _)| same_family(a)))?;
        Some((i, gateway, Addr::from(own.0)))
    })
}
