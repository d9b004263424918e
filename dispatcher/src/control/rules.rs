//! What is wrong with values that are each right: of services, pools and ports together, whether they came from flags or from a file.

use super::configuration::{Configuration, Process};
use super::port::{Driver, PortArg};
use crate::engine::AddressMode;
use core::hash::Hash;
use lb::service::{DEFAULT, FaultKind, Place};
use lb::{MemberSpec, PoolSpec, ServiceSpec, Wanted};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

/// Most ports: the engine numbers them so.
pub const MAX_PORTS: usize = 16;

/// Most listeners of all services together: each takes places in the drivers' filters.
pub const MAX_LISTENERS: usize = 1024;

/// What a broken rule is about: numbers in the lists of a [`Configuration`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum About {
    /// All of it.
    Whole,
    /// A port.
    Port(usize),
    /// An address of a port.
    PortAddress(usize, usize),
    /// A service.
    Service(usize),
    /// The pool that a service names.
    ServicePool(usize),
    /// A listener of a service.
    Listener(usize, usize),
    /// A route of a service.
    Route(usize, usize),
    /// The pool that a route names.
    RoutePool(usize, usize),
    /// A pool.
    Pool(usize),
    /// A backend of a pool.
    Backend(usize, usize),
    /// A backend's address.
    Address(usize, usize),
}

/// A broken rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// Where.
    pub about: About,
    /// What is wrong.
    pub what: String,
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// All rules that a configuration breaks.
pub fn faults(configuration: &Configuration) -> Vec<Broken> {
    let mut found = services(&configuration.wanted);
    ports(configuration, &mut found);
    found
}

/// The rules of services and pools.
pub fn services(wanted: &Wanted) -> Vec<Broken> {
    let mut found: Vec<Broken> = wanted.faults().into_iter().map(|fault| broken(wanted, fault)).collect();
    let mut put = |about, what| found.push(Broken { about, what });
    let listeners = || wanted.services.iter().flat_map(|s| &s.listen);
    if listeners().count() > MAX_LISTENERS {
        put(About::Whole, format!("{} listeners, at most {MAX_LISTENERS} are possible", listeners().count()));
    }
    let vips: HashSet<IpAddr> = listeners().map(SocketAddr::ip).collect();
    let mut holders: HashMap<SocketAddr, &str> = HashMap::new();
    // By pool: the families of listeners from which connections come to it.
    let mut comes: HashMap<&str, [bool; 2]> = HashMap::new();
    for service in &wanted.services {
        for listener in &service.listen {
            for pool in pools_of(service) {
                comes.entry(pool).or_default()[usize::from(listener.is_ipv6())] = true;
            }
        }
    }
    let mut ends: HashMap<SocketAddr, (&[u8; 32], &str)> = HashMap::new();
    for (p, pool) in wanted.pools.iter().enumerate() {
        for (b, backend) in pool.backends.iter().enumerate() {
            let (name, addr) = (&backend.name, backend.addr);
            if let Some((end, key)) =
                backend.tunnel.as_ref().and_then(|tunnel| Some((tunnel.endpoint, tunnel.seals()?)))
            {
                let (other, holder) = *ends.entry(end).or_insert((key, name));
                if other != key {
                    put(
                        About::Backend(p, b),
                        format!("the tunnels of backends '{holder}' and '{name}' end at {end}, with two public keys"),
                    );
                }
            }
            let holder = *holders.entry(addr).or_insert(name);
            if holder != name {
                put(About::Address(p, b), format!("two backends have the address {addr}: '{holder}' and '{name}'"));
            }
            if vips.contains(&addr.ip()) {
                put(About::Address(p, b), format!("backend '{name}' has the address of a VIP"));
            } else if comes.get(pool.name.as_str()).is_some_and(|families| !families[usize::from(addr.is_ipv6())]) {
                let family = family(addr.ip());
                put(About::Address(p, b), format!("backend '{name}' is {family}, but there is no {family} VIP"));
            }
        }
        if let Some(family) = weightless(pool) {
            let what = format!("every {family} backend has weight 0: none would take a new session");
            put(About::Pool(p), of_pool(&pool.name, what));
        }
    }
    let families: HashMap<&str, [bool; 2]> = wanted
        .pools
        .iter()
        .map(|pool| (pool.name.as_str(), [true, false].map(|v4| pool.backends.iter().any(|b| b.addr.is_ipv4() == v4))))
        .collect();
    for (s, service) in wanted.services.iter().enumerate() {
        let mut routed: HashMap<(String, &[Vec<u8>]), usize> = HashMap::new();
        for (r, route) in service.routes.iter().enumerate() {
            for pattern in &route.sni {
                if routed.insert((pattern.to_string(), &route.alpn), r).is_some_and(|other| other != r) {
                    put(About::Route(s, r), format!("service '{}': '{pattern}' is routed twice", service.name));
                }
            }
        }
        for (l, listener) in service.listen.iter().enumerate() {
            let lacks = |pool: &&str| families.get(pool).is_some_and(|has| !has[usize::from(listener.is_ipv6())]);
            if let Some(pool) = pools_of(service).find(lacks) {
                let what = format!("VIP {listener} has no {} backend", family(listener.ip()));
                put(About::Listener(s, l), of_pool(pool, what));
            }
        }
    }
    found
}

/// The pools that a service leads to.
fn pools_of(service: &ServiceSpec) -> impl Iterator<Item = &str> {
    core::iter::once(service.pool.as_str()).chain(service.routes.iter().map(|route| route.pool.as_str()))
}

/// With flags there is one pool, which need not be named.
fn of_pool(pool: &str, what: String) -> String {
    if pool == DEFAULT { what } else { format!("pool '{pool}': {what}") }
}

/// A family of which no server takes new sessions serves nobody.
fn weightless(pool: &PoolSpec) -> Option<&'static str> {
    [true, false].into_iter().find_map(|v4| {
        let mut all = pool.backends.iter().filter(|b| b.addr.is_ipv4() == v4).peekable();
        let first = all.peek()?.addr.ip();
        all.all(|b| b.weight == 0).then(|| family(first))
    })
}

fn broken(wanted: &Wanted, fault: lb::service::Fault) -> Broken {
    let no_pool = matches!(fault.what, FaultKind::NoSuchPool(_));
    let about = match fault.place {
        Place::Whole => About::Whole,
        Place::Service(s) if no_pool => About::ServicePool(s),
        Place::Service(s) => About::Service(s),
        Place::Listener(s, l) => About::Listener(s, l),
        Place::Route(s, r) if no_pool => About::RoutePool(s, r),
        Place::Route(s, r) => About::Route(s, r),
        Place::Pool(p) => About::Pool(p),
        Place::Backend(p, b) => About::Backend(p, b),
    };
    let what = match &fault.what {
        FaultKind::BackendTwice(name) => format!("backend '{name}' is given twice"),
        FaultKind::ListenerTwice(vip, other) => match about {
            About::Listener(s, _) if wanted.services[s].name == *other => format!("VIP {vip} is given twice"),
            _ => format!("service '{other}' listens at {vip} already"),
        },
        other => other.to_string(),
    };
    Broken { about, what }
}

/// The rules of ports, and of backends behind them.
fn ports(configuration: &Configuration, found: &mut Vec<Broken>) {
    let Configuration { process, ports, wanted, .. } = configuration;
    let mut put = |about, what| found.push(Broken { about, what });
    if ports.len() > MAX_PORTS {
        put(About::Whole, format!("at most {MAX_PORTS} ports"));
    }
    let (mut names, mut devices, mut own) = (HashSet::new(), HashSet::new(), HashMap::new());
    for (number, port) in ports.iter().enumerate() {
        if !names.insert(&port.name) {
            put(About::Port(number), format!("port '{}' is given twice", port.name));
        }
        if !devices.insert(device_name(port)) {
            put(About::Port(number), format!("two ports have the device {}", device_name(port)));
        }
        for (n, (ip, _)) in port.addresses.iter().enumerate() {
            if own.insert(*ip, &port.name).is_some() {
                put(About::PortAddress(number, n), format!("address {ip} is given to two ports"));
            }
        }
    }
    let has = |v4: bool| own.keys().any(|ip| ip.is_ipv4() == v4);
    let gateway = |v4: bool| ports.iter().any(|p| p.gateways.iter().any(|g| g.is_ipv4() == v4));
    let (has, gateway) = ([true, false].map(has), [true, false].map(gateway));
    for (p, pool) in wanted.pools.iter().enumerate() {
        for (b, backend) in pool.backends.iter().enumerate() {
            let (name, ip) = (&backend.name, backend.addr.ip());
            let (family, index) = (family(ip), usize::from(ip.is_ipv6()));
            if let Some(why) = seals_in_vain(process, backend) {
                put(About::Backend(p, b), format!("backend '{name}' {why}"));
            }
            if let Some(port) = own.get(&ip) {
                put(About::Address(p, b), format!("backend '{name}' has port '{port}''s own address"));
            } else if process.address_mode == AddressMode::Snat && !has[index] {
                put(
                    About::Address(p, b),
                    format!(
                        "backend '{name}' is {family}, but no port has an {family} address of its own to reach it from \
                         (ip of a port: ADDR/PREFIX)"
                    ),
                );
            } else if !gateway[index] && !ports.iter().any(|port| port.is_on_link(ip)) {
                put(
                    About::Address(p, b),
                    format!("backend '{name}' ({ip}) is in no port's network, and no port has an {family} gateway"),
                );
            }
        }
    }
}

/// Why packets cannot be sealed for a backend whose tunnel wants that.
fn seals_in_vain(process: &Process, backend: &MemberSpec) -> Option<&'static str> {
    backend.tunnel?.seals()?;
    if process.tunnel_key.is_none() {
        return Some("has a wireguard tunnel, and there is no key of ours: 'tunnel-key' names its file");
    }
    let several = process.address_mode == AddressMode::Dnat && process.worker_count() > 1;
    several.then_some("has a wireguard tunnel, which with dnat can be one worker's only: its other end tells workers by their addresses")
}

/// What may be there only once: of DPDK's virtual devices the name, whatever its arguments.
fn device_name(port: &PortArg) -> &str {
    let device = port.device.as_str();
    if port.driver == Driver::Dpdk { device.split(';').next().unwrap_or(device) } else { device }
}
