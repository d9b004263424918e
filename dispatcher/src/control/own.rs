//! Addresses of ours that somebody else has, or may come to have: the kernel beside us, a process, a careless configuration.
//!
//! The kernel sees what comes in by an interface that we share with it (over AF_XDP what our program does not take). Has it one of
//! our addresses, on whatever interface, it resets what servers answer to us; over AF_XDP we reset what is answered to it.
//! That is looked for at the start, when VIPs come, and again and again (`cli/signs.rs`).

use super::port::{Driver, PortArg};
use crate::io::kernel::{self, KernelAddress};
use std::net::{IpAddr, SocketAddr};

/// An address of ours that frames reach by an interface of the kernel's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Own {
    /// The address.
    pub ip: IpAddr,
    /// Whose it is, for people.
    pub what: String,
}

/// The kernel's interface behind a port, where it has one: what comes in there the kernel may see, too.
pub fn interface(port: &PortArg) -> Option<String> {
    match port.driver {
        Driver::AfPacket | Driver::AfXdp => Some(port.device.clone()),
        #[cfg(feature = "dpdk")]
        Driver::Dpdk => {
            let device = crate::io::dpdk::DpdkDevice::parse(&port.device).ok()?;
            device.interface().map(str::to_string)
        }
        _ => None,
    }
}

/// All our addresses that the kernel must not have: those of ports that share an interface with it, and then the VIPs.
pub fn shared(ports: &[PortArg], vips: &[SocketAddr]) -> Vec<Own> {
    let sharing: Vec<_> = ports.iter().filter(|port| interface(port).is_some()).collect();
    let of_ports = sharing.iter().flat_map(|port| {
        port.addresses.iter().map(|(ip, _)| Own { ip: *ip, what: format!("ip= of port '{}'", port.name) })
    });
    let of_vips = vips.iter().filter(|_| !sharing.is_empty()).map(|v| Own { ip: v.ip(), what: format!("VIP {v}") });
    let mut all: Vec<Own> = Vec::new();
    for own in of_ports.chain(of_vips) {
        if !all.iter().any(|known| known.ip == own.ip) {
            all.push(own);
        }
    }
    all
}

/// The kernel has none of these addresses of ours; else a line that says which it has, and what to type. Where it cannot be asked, the signs
/// will show.
pub fn free(ours: &[Own]) -> Result<(), String> {
    let kernel = kernel::addresses().unwrap_or_default();
    let held = held(ours, &kernel);
    if !held.is_empty() {
        return Err(explain(&held));
    }
    match routed(ours, &held, kernel::takes()).as_slice() {
        [] => Ok(()),
        routed => Err(explain_routed(routed)),
    }
}

/// Which of ours the kernel has as well.
pub fn held<'a>(ours: &'a [Own], kernel: &'a [KernelAddress]) -> Vec<(&'a Own, &'a KernelAddress)> {
    let theirs = |own: &'a Own| kernel.iter().filter(|a| a.ip == own.ip).map(move |a| (own, a));
    ours.iter().flat_map(theirs).collect()
}

/// Which of ours the kernel takes by a route, though no interface has them.
pub fn routed<'a>(
    ours: &'a [Own],
    held: &[(&Own, &KernelAddress)],
    mut takes: impl FnMut(IpAddr) -> bool,
) -> Vec<&'a Own> {
    ours.iter().filter(|own| held.iter().all(|(o, _)| o.ip != own.ip) && takes(own.ip)).collect()
}

/// What to say of those, in one line that ends with what to type.
pub fn explain_routed(routed: &[&Own]) -> String {
    let what: Vec<_> = routed.iter().map(|own| format!("{} ({})", own.ip, own.what)).collect();
    let family = if routed.iter().all(|own| own.ip.is_ipv6()) { " -6" } else { "" };
    format!(
        "the kernel takes {} for its own by a local route, and each of us would reset the other's connections: to see \
         which: ip{family} route show table all type local; then: ip{family} route del local PREFIX",
        what.join(" and ")
    )
}

/// What to say of them, in one line that ends with what to type.
pub fn explain(held: &[(&Own, &KernelAddress)]) -> String {
    let what: Vec<_> = held.iter().map(|(own, a)| format!("{} ({}, on {})", a.ip, own.what, a.interface)).collect();
    let mut commands: Vec<_> =
        held.iter().map(|(_, a)| format!("ip addr del {}/{} dev {}", a.ip, a.prefix, a.interface)).collect();
    commands.dedup();
    format!(
        "the kernel has {} as well, and each of us would reset the other's connections: {}",
        what.join(" and "),
        commands.join("; ")
    )
}

/// What is to be said of local processes that listen where clients of ours connect to.
pub fn warn_of_listeners(vips: &[SocketAddr], listeners: &[SocketAddr], warnings: &mut Vec<String>) {
    for vip in vips {
        // One that listens at all IPv6 addresses as a rule does at all IPv4 addresses, too.
        let meets = |at: &SocketAddr| {
            let any = at.ip().is_unspecified() && (at.is_ipv6() || vip.is_ipv4());
            at.port() == vip.port() && (at.ip() == vip.ip() || any)
        };
        let Some(at) = listeners.iter().filter(|at| meets(at)).max_by_key(|at| at.ip() == vip.ip()) else { continue };
        let port = vip.port();
        warnings.push(format!(
            "VIP {vip}: a process of this machine listens at {at}; the VIP's clients never reach it (to see which: \
             ss -ltnp sport = :{port})"
        ));
    }
}

/// What is to be said of where the VIPs are.
pub fn warn_of_vips(ports: &[PortArg], vips: &[SocketAddr], warnings: &mut Vec<String>) {
    for vip in vips {
        let (ip, family) = (vip.ip(), if vip.is_ipv4() { "IPv4" } else { "IPv6" });
        let has_it = |p: &&PortArg| p.addresses.iter().any(|(own, _)| *own == ip);
        let has_gateway = |p: &PortArg| p.gateways.iter().any(|g| g.is_ipv4() == ip.is_ipv4());
        if let Some(port) = ports.iter().find(has_it) {
            warnings.push(format!(
                "VIP {vip} is port '{}''s own address, too: servers answer to where clients connect to, and the VIP \
                 cannot move to another dispatcher alone; better give it an address of its own",
                port.name
            ));
        } else if ports.iter().all(|p| p.driver != Driver::Pcap)
            && !ports.iter().any(|p| p.is_on_link(ip))
            && !ports.iter().any(has_gateway)
        {
            warnings.push(format!(
                "VIP {vip} is in no port's network, and no port has an {family} gateway: it is reached only through a \
                 router that has a route to it by a port's ip= (else: ip=ADDR/PREFIX with the VIP's network, or \
                 gateway=)"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(all: &[&str]) -> Vec<PortArg> {
        all.iter().map(|text| PortArg::parse(text).unwrap()).collect()
    }

    fn vips(all: &[&str]) -> Vec<SocketAddr> {
        all.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn kernel(interface: &str, ip: &str, prefix: u8) -> KernelAddress {
        KernelAddress { interface: interface.into(), ip: ip.parse().unwrap(), prefix }
    }

    #[test]
    fn an_address_that_the_kernel_has_on_any_interface_is_found_with_what_to_type() {
        let ports = ports(&["wan=af-packet:eth0,ip=10.0.0.1/24", "lan=af-xdp:eth1,ip=10.1.0.1/24,ip=fd01::1/64"]);
        let ours = shared(&ports, &vips(&["10.0.0.100:443", "10.0.0.100:80", "10.1.0.1:25"]));
        assert_eq!(ours.len(), 4, "each once: {ours:?}");
        let theirs = [
            kernel("lo", "10.0.0.100", 32),
            kernel("br0", "fd01::1", 64),
            kernel("eth0", "10.0.0.7", 24),
            kernel("lo", "127.0.0.1", 8),
        ];
        let line = explain(&held(&ours, &theirs));
        for part in ["fd01::1 (ip= of port 'lan', on br0)", "10.0.0.100 (VIP 10.0.0.100:443, on lo)"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(line.ends_with("ip addr del fd01::1/64 dev br0; ip addr del 10.0.0.100/32 dev lo"), "{line}");
        assert!(!line.contains("10.0.0.7"), "{line}");
    }

    #[test]
    fn an_address_that_a_local_route_takes_is_told_and_one_that_an_interface_has_is_not_told_again() {
        let ours = shared(&ports(&["wan=af-packet:eth0,ip=10.0.0.1/24"]), &vips(&["10.0.0.100:443", "10.0.0.101:443"]));
        let theirs = [kernel("lo", "10.0.0.100", 32)];
        let by_route = routed(&ours, &held(&ours, &theirs), |ip| ip != ours[0].ip);
        let line = explain_routed(&by_route);
        assert!(line.contains("takes 10.0.0.101 (VIP 10.0.0.101:443) for its own by a local route"), "{line}");
        assert!(!line.contains("10.0.0.100 ") && line.ends_with("ip route del local PREFIX"), "{line}");
    }

    #[test]
    fn where_no_interface_is_shared_the_kernels_addresses_are_its_own_affair() {
        let recorded = ports(&["net=pcap:/tmp/x.pcap,ip=10.0.0.1/24"]);
        assert_eq!(shared(&recorded, &vips(&["10.0.0.100:443"])), []);
        let both = ports(&["net=pcap:/tmp/x.pcap,ip=10.0.0.1/24", "wan=af-packet:eth0,ip=10.2.0.1/24"]);
        let ours: Vec<_> = shared(&both, &vips(&["10.0.0.100:443"])).iter().map(|own| own.ip.to_string()).collect();
        assert_eq!(ours, ["10.2.0.1", "10.0.0.100"]);
    }

    #[test]
    fn a_process_that_listens_at_a_vips_port_is_told_once_and_another_port_is_not() {
        let mut told = Vec::new();
        let all = vips(&["10.0.0.100:443", "[fd00::100]:443", "10.0.0.100:80"]);
        warn_of_listeners(&all, &vips(&["[::]:443", "10.0.0.100:443", "10.0.0.9:80", "127.0.0.1:80"]), &mut told);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("listens at 10.0.0.100:443") && told[0].contains("sport = :443"), "{told:?}");
        assert!(told[1].contains("VIP [fd00::100]:443") && told[1].contains("listens at [::]:443"), "{told:?}");
        told.clear();
        warn_of_listeners(&all[1..2], &vips(&["0.0.0.0:443"]), &mut told);
        assert_eq!(told, [""; 0], "IPv4's addresses only");
    }

    #[test]
    fn a_vip_out_of_all_networks_without_a_gateway_and_one_that_is_a_ports_own_are_told() {
        let told = |port: &str, vip: &str| {
            let mut told = Vec::new();
            warn_of_vips(&ports(&[port]), &vips(&[vip]), &mut told);
            told.join("|")
        };
        assert_eq!(told("w=af-packet:eth0,ip=10.0.0.1/24", "10.0.0.100:443"), "");
        assert!(told("w=af-packet:eth0,ip=10.0.0.1/24", "10.9.0.100:443").contains("in no port's network"));
        assert_eq!(told("w=af-packet:eth0,ip=10.0.0.1/24,gateway=10.0.0.9", "10.9.0.100:443"), "");
        assert!(told("w=af-packet:eth0,ip=10.0.0.1/24,gateway=10.0.0.9", "[fd00::1]:443").contains("IPv6 gateway"));
        assert!(told("w=af-packet:eth0,ip=10.0.0.1/24", "10.0.0.1:443").contains("port 'w''s own address"));
    }
}
