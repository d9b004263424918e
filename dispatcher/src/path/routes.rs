//! Which addresses are ours, and by which port and next hop a backend is reached: our ports, which are fixed at start, and the
//! [`Revision`] of the moment.

use super::mss_for;
use super::neighbours::{Neighbours, NextHop};
use super::revision::Revision;
use super::tunnel::{End, Wrap};
use crate::config::{Config, ConfigError, PortId, PortSpec};
use crate::wire::packet::Vlans;
use crate::wire::{Addr, Family, Mac};
use lb::{BackendId, ServiceId};
use std::sync::Arc;

/// A port as frames are built for it.
#[derive(Debug)]
pub struct Port {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Largest packet.
    pub mtu: u16,
    /// Own addresses and prefix lengths.
    pub addresses: Vec<(Addr, u8)>,
    /// Tags on frames to backends, gateways and everybody.
    pub vlans: Vlans,
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
    /// Our address towards it, where one is enough.
    pub source: Addr,
}

/// Addresses, as one engine knows them.
#[derive(Debug)]
pub struct Routes {
    /// By [`PortId`].
    pub ports: Vec<Port>,
    /// The services and backends of the moment.
    pub revision: Arc<Revision>,
    /// Largest segment our ports allow, by family.
    mss: [u16; 2],
    /// By slot.
    hops: Vec<Option<NextHop>>,
    worker: usize,
    /// The largest packet that all ports take.
    mtu: u16,
}

impl Routes {
    /// For a worker: the ports of a configuration, or in one line what is wrong with them; and its services and backends, whose next hops are entered in
    /// `neighbours`.
    pub fn new(
        cfg: &Config,
        worker: usize,
        revision: Arc<Revision>,
        neighbours: &mut Neighbours,
    ) -> Result<Routes, ConfigError> {
        let fail = |why: String| Err(ConfigError(why));
        if cfg.ports.is_empty() || cfg.ports.len() > 16 {
            return fail(format!("{} ports: 1 to 16 are needed", cfg.ports.len()));
        }
        if let Some(small) = cfg.ports.iter().find(|p| p.mtu < LEAST_MTU) {
            return fail(format!("port {}: an MTU of {} is less than {LEAST_MTU}", small.name, small.mtu));
        }
        let port = |p: &PortSpec| Port {
            mac: p.mac,
            mtu: p.mtu,
            addresses: p.addresses.iter().map(|(a, prefix)| (Addr::from(*a), *prefix)).collect(),
            vlans: Vlans::from_ids(&p.vlans),
        };
        let mtu = cfg.ports.iter().map(|p| p.mtu).min().unwrap_or(1500);
        let mss = [mss_for(mtu, Family::V4), mss_for(mtu, Family::V6)];
        let ports = cfg.ports.iter().map(port).collect();
        let mut routes = Routes { ports, revision, mss, hops: vec![], worker, mtu };
        let ids: Vec<BackendId> = routes.revision.directory().backends().map(|b| b.id).collect();
        ids.into_iter().for_each(|id| routes.enter(id, neighbours));
        Ok(routes)
    }

    /// The holder of a slot is reached as the present revision says.
    pub fn enter(&mut self, id: BackendId, neighbours: &mut Neighbours) {
        self.leave(id, neighbours);
        let Some(way) = self.revision.way(id) else { return };
        let port = &self.ports[usize::from(way.out.0)];
        let asker = way.wrap.as_ref().map_or(way.source(), Wrap::source);
        let hop = neighbours.add(way.out, port.mac, port.vlans, (way.next, asker), way.wrap);
        if self.hops.len() <= id.index() {
            self.hops.resize(id.index() + 1, None);
        }
        self.hops[id.index()] = Some(hop);
    }

    /// The slot is empty, and no flow is left of who had it.
    pub fn leave(&mut self, id: BackendId, neighbours: &mut Neighbours) {
        if let Some(hop) = self.hops.get_mut(id.index()).and_then(Option::take) {
            neighbours.release(hop);
        }
    }

    /// How the holder of a slot is reached.
    #[inline]
    pub fn backend(&self, id: BackendId) -> Option<Route> {
        let way = self.revision.way(id)?;
        let hop = (*self.hops.get(id.index())?)?;
        Some(Route { addr: way.addr, port: way.port, hop, source: way.sources_of(self.worker)[0] })
    }

    /// Clients may connect here: to this service.
    #[inline]
    pub fn service_at(&self, addr: Addr, port: u16) -> Option<ServiceId> {
        self.revision.service_at(addr, port)
    }

    /// A backend listens here.
    #[inline]
    pub fn is_backend(&self, addr: Addr, port: u16) -> bool {
        self.revision.is_backend(addr, port)
    }

    /// The address is one of ours or a VIP.
    #[inline]
    pub fn is_ours(&self, addr: Addr) -> bool {
        self.revision.held_by(addr).is_some()
    }

    /// A question for this address at this port is for us to answer.
    pub fn answers(&self, addr: Addr, port: PortId) -> bool {
        self.revision.held_by(addr).is_some_and(|ports| ports.contains(&port))
    }

    /// Nobody else at this port may have the address: it is ours there, and of a network of the port's. A VIP that is of none is
    /// reached by routes, and several dispatchers may have it.
    pub fn is_ours_alone(&self, addr: Addr, port: PortId) -> bool {
        let networks = &self.ports[usize::from(port.0)].addresses;
        self.answers(addr, port) && networks.iter().any(|(own, prefix)| addr.in_prefix(*own, *prefix))
    }

    /// Largest segment our ports allow, with what tunnels of the moment take of it, for IPv4 and IPv6.
    pub fn mss(&self) -> [u16; 2] {
        let mtu = usize::from(self.mtu);
        let overhead = |family| self.revision.tunnels().overhead(family, mtu) as u16;
        [self.mss[0].saturating_sub(overhead(Family::V4)), self.mss[1].saturating_sub(overhead(Family::V6))]
    }

    /// By which the other end of a tunnel whose packets are sealed is reached.
    pub fn hop_to_end(&self, end: End, neighbours: &Neighbours) -> Option<NextHop> {
        let ends_there = |hop: &NextHop| neighbours.wrap(*hop).and_then(Wrap::seals) == Some(end);
        self.hops.iter().flatten().copied().find(ends_there)
    }

    /// By which the backend that listens there is reached.
    pub fn hop_to(&self, addr: Addr, port: u16) -> Option<NextHop> {
        let id = self.revision.backend_at(addr, port)?;
        *self.hops.get(id.index())?
    }
}

/// RFC 791: what every link must carry. Headers of either family fit, with a byte to spare.
const LEAST_MTU: u16 = 68;
