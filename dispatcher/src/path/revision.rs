//! What follows from a version of the directory for addresses: which service listens where, which addresses are ours, by which port and next
//! hop a backend is reached.
//!
//! Worked out once, outside the workers, and given to all of them: see [`Engine::apply`](crate::engine::Engine::apply). Ports and their own addresses
//! are fixed at start.

use super::by_address::ByAddress;
use super::gates::{GateTerms, gates};
use super::tunnel::{Tunnels, Wrap};
use crate::config::{AddressMode, Config, ConfigError, PortId, PortSpec};
use crate::flow::MAX_SOURCES;
use crate::wire::{Addr, Family};
use lb::{Backend, BackendId, BackendSet, Directory, FlowCount, ServiceId};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// How a backend is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Way {
    /// Where it listens.
    pub addr: Addr,
    /// Its port there.
    pub port: u16,
    /// Out of this port of ours.
    pub out: PortId,
    /// By this neighbour, which may be itself.
    pub next: Addr,
    /// Our addresses towards it, of which the first asks its neighbours and probes it; at least one, at most [`MAX_SOURCES`]. Where its packets are sealed: one for
    /// each worker.
    pub sources: Box<[Addr]>,
    /// What is written in front of its packets.
    pub wrap: Option<Wrap>,
    /// Largest packet to it, without that.
    pub mtu: u16,
}

impl Way {
    /// The address that stands for us where one is enough.
    pub fn source(&self) -> Addr {
        self.sources[0]
    }

    /// What is sealed for it carries its worker's own address: by that the other side tells the workers, which have keys of their own.
    fn has_own(&self) -> bool {
        self.wrap.as_ref().is_some_and(|wrap| wrap.seals().is_some())
    }

    /// Those of a worker.
    #[inline]
    pub fn sources_of(&self, worker: usize) -> &[Addr] {
        if self.has_own() { &self.sources[worker..=worker] } else { &self.sources }
    }

    /// The address that checks of the holder of a slot come from: that of the worker who carries them.
    pub fn checks_from(&self, id: BackendId) -> Addr {
        if self.has_own() { self.sources[carrier(id, self.sources.len())] } else { self.source() }
    }
}

/// Of several workers, the one that carries what is asked of the holder of a slot by checks.
pub fn carrier(id: BackendId, workers: usize) -> usize {
    id.index() % workers.max(1)
}

/// Where clients connect to.
#[derive(Debug)]
struct Door {
    /// None where it is leaving: nothing begins there.
    service: Option<ServiceId>,
    flows: Arc<FlowCount>,
}

/// A version of the directory, and what the engines need of it.
#[derive(Debug)]
pub struct Revision {
    directory: Arc<Directory>,
    doors: ByAddress<Door>,
    servers: ByAddress<BackendId>,
    /// Our own addresses and the VIPs, also those that are leaving, and the ports that answer for them; each with port 0.
    held: ByAddress<Vec<PortId>>,
    /// By slot, also of those that are leaving.
    ways: Box<[Option<Way>]>,
    /// By family.
    families: [BackendSet; 2],
    resets: BackendSet,
    forgets: BackendSet,
    gates: OnceLock<Box<[GateTerms]>>,
    tunnels: Tunnels,
}

impl Revision {
    /// Works it out, or says in one line why it cannot be. Of `config` what is fixed at start counts: ports, and the address mode.
    pub fn new(config: &Config, directory: Arc<Directory>) -> Result<Revision, ConfigError> {
        let most = config.limits.slots(config.backends().len());
        if directory.slots() > most {
            let leaving = directory.backends().filter(|b| b.leaving).count();
            return Err(ConfigError(format!(
                "there is room for {most} backends, and {leaving} that were removed still have connections or sessions"
            )));
        }
        let mut held: BTreeMap<(Addr, u16), Vec<PortId>> = BTreeMap::new();
        let ports = || config.ports.iter().enumerate().map(|(i, p)| (PortId(i as u8), p));
        for (id, port) in ports() {
            for (addr, _) in &port.addresses {
                held.entry((Addr::from(*addr), 0)).or_default().push(id);
            }
        }
        let mut doors = BTreeMap::new();
        for listener in directory.listeners() {
            let addr = Addr::from(listener.addr().ip());
            let service = (!listener.is_leaving()).then(|| listener.service());
            doors.insert((addr, listener.addr().port()), Door { service, flows: listener.flows().clone() });
            let near: Vec<PortId> = ports()
                .filter(|(_, p)| p.addresses.iter().any(|(a, prefix)| addr.in_prefix(Addr::from(*a), *prefix)))
                .map(|(id, _)| id)
                .collect();
            let answering = if near.is_empty() { ports().map(|(id, _)| id).collect() } else { near };
            held.entry((addr, 0)).or_insert(answering);
        }
        let held = ByAddress::from(held);
        let mut ways: Vec<Option<Way>> = (0..directory.slots()).map(|_| None).collect();
        let mut families = [BackendSet::EMPTY; 2];
        let mut servers = BTreeMap::new();
        for backend in directory.backends() {
            let way = match way_to(backend, config, &held) {
                Ok(way) => way,
                // It was reached before, and is only on its way out.
                Err(_) if backend.leaving => continue,
                Err(why) => return Err(ConfigError(format!("backend {}: {why}", backend.name))),
            };
            let known = servers.contains_key(&(way.addr, way.port));
            if known && config.address_mode == AddressMode::Dnat && !backend.leaving {
                let twice = |b: &&Backend| b.id != backend.id && !b.leaving && b.addr == backend.addr;
                if directory.backends().any(|b| twice(&b)) {
                    return Err(ConfigError(format!("backend {}: {} is listed twice", backend.name, backend.addr)));
                }
            }
            servers.insert((way.addr, way.port), backend.id);
            families[way.addr.family() as usize].insert(backend.id);
            ways[backend.id.index()] = Some(way);
        }
        let (resets, forgets) = (BackendSet::EMPTY, BackendSet::EMPTY);
        let (doors, servers) = (doors.into(), servers.into());
        Ok(Revision {
            tunnels: Tunnels::of(&directory),
            directory,
            doors,
            servers,
            held,
            ways: ways.into(),
            families,
            resets,
            forgets,
            gates: OnceLock::new(),
        })
    }

    /// The same, where connections to those of `backends` that are leaving are ended by resets, instead of going on to their end.
    pub fn resetting(self, backends: BackendSet) -> Revision {
        Revision { resets: backends, ..self }
    }

    /// By what requests are admitted, for so many workers, who ask for the same; `before` is what the asking one went by until now.
    pub fn gates(&self, workers: usize, before: &[GateTerms]) -> &[GateTerms] {
        self.gates.get_or_init(|| gates(&self.directory, &self.families, workers, before))
    }

    /// Services, pools and backends.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The same, where workers forget which sessions these can resume.
    pub fn forgetting(self, backends: BackendSet) -> Revision {
        Revision { forgets: backends, ..self }
    }

    /// Whose connections end by resets.
    pub fn resets(&self) -> &BackendSet {
        &self.resets
    }

    /// Whose rows are cleared.
    pub fn forgets(&self) -> &BackendSet {
        &self.forgets
    }

    /// Who listens there, for who comes now.
    #[inline]
    pub fn service_at(&self, addr: Addr, port: u16) -> Option<ServiceId> {
        self.doors.get(addr, port)?.service
    }

    /// The flows of whoever listens or has listened there.
    pub fn flows_at(&self, addr: Addr, port: u16) -> Option<&FlowCount> {
        Some(&self.doors.get(addr, port)?.flows)
    }

    /// A backend listens here.
    #[inline]
    pub fn is_backend(&self, addr: Addr, port: u16) -> bool {
        self.servers.get(addr, port).is_some()
    }

    /// A backend that listens here.
    pub fn backend_at(&self, addr: Addr, port: u16) -> Option<BackendId> {
        self.servers.get(addr, port).copied()
    }

    /// The ports that answer for an address that is one of ours or a VIP.
    #[inline]
    pub fn held_by(&self, addr: Addr) -> Option<&[PortId]> {
        self.held.get(addr, 0).map(Vec::as_slice)
    }

    /// All addresses that are ours, with the ports; always in the same order.
    pub fn addresses(&self) -> Vec<(PortId, Addr)> {
        let mut all: Vec<_> =
            self.held.iter().flat_map(|(addr, _, ports)| ports.iter().map(move |p| (*p, addr))).collect();
        all.sort_unstable_by_key(|(port, addr)| (port.0, *addr));
        all
    }

    /// How the holder of a slot is reached.
    #[inline]
    pub fn way(&self, id: BackendId) -> Option<&Way> {
        self.ways.get(id.index())?.as_ref()
    }

    /// What packets come wrapped in.
    #[inline]
    pub fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// The backends of a family.
    #[inline]
    pub fn of_family(&self, family: Family) -> &BackendSet {
        &self.families[family as usize]
    }
}

/// How a backend is reached, or why it is not.
fn way_to(backend: &Backend, config: &Config, held: &ByAddress<Vec<PortId>>) -> Result<Way, String> {
    let (addr, port) = (Addr::from(backend.addr.ip()), backend.addr.port());
    if held.get(addr, 0).is_some() && !backend.leaving {
        return Err(format!("{} is our own address", addr.ip()));
    }
    let end = backend.tunnel.as_ref().map_or(addr, |tunnel| Addr::from(tunnel.endpoint.ip()));
    if held.get(end, 0).is_some() && !backend.leaving {
        return Err(format!("its tunnel ends at {}, our own address", end.ip()));
    }
    let (out, next, source) =
        hop_to(end, config).ok_or_else(|| format!("no port has {} on its link, nor a gateway to it", end.ip()))?;
    let spec = &config.ports[usize::from(out.0)];
    let Some(tunnel) = &backend.tunnel else {
        let sources = sources_towards(next, source, spec);
        return Ok(Way { addr, port, out, next, sources, wrap: None, mtu: spec.mtu });
    };
    let wrap = Wrap::new(tunnel, source, spec.mac);
    let left = wrap.room(usize::from(spec.mtu));
    let least = if addr.family() == Family::V4 { LEAST_INNER_MTU } else { LEAST_INNER_MTU_V6 };
    if left < least {
        return Err(format!("an MTU of {} leaves {left} bytes within its tunnel, {least} are needed", spec.mtu));
    }
    // Within it we are who we are in a network with the backend. Where there is none: who the tunnel begins at.
    let within = spec.addresses.iter().filter(|(own, prefix)| addr.in_prefix(Addr::from(*own), *prefix));
    let within = within.map(|(own, _)| Addr::from(*own));
    if wrap.seals().is_some() {
        let sources = own_sources(within.filter(|own| *own != source).collect(), backend, spec, config)?;
        return Ok(Way { addr, port, out, next, sources, wrap: Some(wrap), mtu: left as u16 });
    }
    let mut sources: Vec<Addr> = within.take(MAX_SOURCES).collect();
    if sources.is_empty() {
        let all = || spec.addresses.iter().map(|(own, _)| Addr::from(*own)).filter(|own| own.family() == addr.family());
        let own = all().find(|own| *own == source).or_else(|| all().next());
        let none = || format!("port {} has no address of the family of {}", spec.name, addr.ip());
        sources.push(own.ok_or_else(none)?);
    }
    let sources = sources.into();
    Ok(Way { addr, port, out, next, sources, wrap: Some(wrap), mtu: left as u16 })
}

/// Where packets are sealed: an address for each worker, of those that we have in a network with the backend.
fn own_sources(
    mut within: Vec<Addr>,
    backend: &Backend,
    spec: &PortSpec,
    config: &Config,
) -> Result<Box<[Addr]>, String> {
    let workers = config.sealers;
    if workers == 0 {
        return Err("its tunnel is sealed, and there is no key of ours (--tunnel-key FILE)".into());
    }
    if workers > 1 && config.address_mode == AddressMode::Dnat {
        return Err("with dnat a sealed tunnel is one worker's: the other end tells workers by their addresses".into());
    }
    if within.len() < workers {
        return Err(format!(
            "of port {}'s addresses, without that where the tunnel begins, {} are in a network with {}, and each of {workers} workers needs one",
            spec.name,
            within.len(),
            backend.addr.ip()
        ));
    }
    within.truncate(workers);
    Ok(within.into())
}

/// RFC 791, and RFC 8200 section 5: what every link must carry.
const LEAST_INNER_MTU: usize = 576;
const LEAST_INNER_MTU_V6: usize = 1280;

/// Our addresses by which what is behind `next` knows the way back to a port: those in a network with it. `first` is one that serves in any case.
fn sources_towards(next: Addr, first: Addr, port: &PortSpec) -> Box<[Addr]> {
    let near = port.addresses.iter().filter(|(own, prefix)| next.in_prefix(Addr::from(*own), *prefix));
    let others = near.map(|(own, _)| Addr::from(*own)).filter(|own| *own != first);
    [first].into_iter().chain(others).take(MAX_SOURCES).collect()
}

/// Port, next hop and our source address towards `addr`.
fn hop_to(addr: Addr, cfg: &Config) -> Option<(PortId, Addr, Addr)> {
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
