//! The network of the tests.
//!
//! | what | IPv4 | IPv6 |
//! |---|---|---|
//! | clients' side of the dispatcher (port 0) | 10.1.0.1/16 | fd01::1/64 |
//! | servers' side (port 1; in one-armed worlds port 0) | 10.2.0.1/16 | fd02::1/64 |
//! | VIP | 10.1.9.1:443 | `[fd01::9:1]:443` |
//! | client n | 10.1.0.(10 + n) | fd01::(10 + n) |
//! | server n | 10.2.0.(10 + n):8443 | [fd02::(10 + n)]:8443 |

use dispatcher::engine::{Config, Engine, PortSpec, Revision};
use dispatcher::wire::Mac;
use lb::{Directory, MemberSpec, Policy, PoolSpec, Wanted};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Ethernet addresses of the dispatcher's ports.
pub const PORT_MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 1, 0]), Mac([2, 0, 0, 0, 2, 0])];

/// An address from text.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The virtual address of a family.
pub fn vip(v6: bool) -> SocketAddr {
    SocketAddr::new(if v6 { ip("fd01::9:1") } else { ip("10.1.9.1") }, 443)
}

/// Client n's address.
pub fn client_ip(n: usize, v6: bool) -> IpAddr {
    if v6 { ip(&format!("fd01::{:x}", 0x10 + n)) } else { ip(&format!("10.1.0.{}", 10 + n)) }
}

/// Server n's address.
pub fn server_ip(n: usize, v6: bool) -> IpAddr {
    if v6 { ip(&format!("fd02::{:x}", 0x10 + n)) } else { ip(&format!("10.2.0.{}", 10 + n)) }
}

/// Server n's name.
pub fn server_name(n: usize, v6: bool) -> String {
    format!("web{n}{}", if v6 { "-v6" } else { "" })
}

/// Port i with addresses `ADDR/PREFIX`.
pub fn port(i: usize, addresses: &[&str]) -> PortSpec {
    PortSpec {
        name: format!("port{i}"),
        mac: PORT_MACS[i],
        addresses: addresses
            .iter()
            .map(|a| {
                let (addr, prefix) = a.split_once('/').expect("address/prefix");
                (ip(addr), prefix.parse().expect("a length"))
            })
            .collect(),
        gateways: vec![],
        vlans: vec![],
        mtu: 1500,
    }
}

/// A pool of `servers` servers of one family.
pub fn pool(servers: usize, v6: bool) -> PoolSpec {
    let member = |n| MemberSpec::new(server_name(n, v6), SocketAddr::new(server_ip(n, v6), 8443));
    PoolSpec { backends: (0..servers).map(member).collect(), ..PoolSpec::default() }
}

/// Two ports, `servers` servers of one family; probes off, so that nothing happens that a test did not cause.
pub fn two_armed(servers: usize, v6: bool) -> Config {
    Config {
        ports: vec![port(0, &["10.1.0.1/16", "fd01::1/64"]), port(1, &["10.2.0.1/16", "fd02::1/64"])],
        wanted: Wanted::single(vec![vip(false), vip(true)], Policy::default(), pool(servers, v6)),
        probe: false,
        ..Config::default()
    }
}

/// The same with one port for both sides.
pub fn one_armed(servers: usize, v6: bool) -> Config {
    let both = port(0, &["10.1.0.1/16", "fd01::1/64", "10.2.0.1/16", "fd02::1/64"]);
    Config { ports: vec![both], ..two_armed(servers, v6) }
}

/// The version of services, pools and backends that follows on that of `engine`, and the latter.
///
/// # Errors
/// Why it cannot be.
pub fn next_revision(config: &Config, engine: &Engine, wanted: &Wanted) -> Result<(Arc<Directory>, Revision), String> {
    let (before, released) = (engine.directory().clone(), engine.released());
    let next = Directory::next(Some(&before), wanted, |leaving| released.frees(leaving))
        .map_err(|faults| format!("{faults:?}"))?;
    let revision = Revision::new(config, Arc::new(next)).map_err(|e| e.to_string())?;
    Ok((before, revision))
}
