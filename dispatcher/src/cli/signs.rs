//! What shows while it runs that something was set up wrong. Each is said once, with what to type.

use crate::control::own::{self, Own};
use crate::control::port::PortArg;
use crate::io::kernel::KernelAddress;
use crate::io::{Loss, Traffic};
use crate::worker::Snapshot;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

/// Lines that may be said of addresses that come and go.
const MOST: u32 = 16;

/// Remembers what was said.
pub struct Signs {
    ports: Vec<PortArg>,
    /// By port: the kernel's interface behind it.
    interfaces: Vec<Option<String>>,
    oversized: Vec<bool>,
    vips: HashSet<SocketAddr>,
    /// Addresses that the kernel must not have.
    ours: Vec<Own>,
    /// Those of ours that the kernel had when last looked at.
    held: HashSet<IpAddr>,
    /// Those of ours that another host claims.
    claimed: HashSet<IpAddr>,
    said: u32,
}

impl Signs {
    /// Nothing was said yet.
    pub fn new(ports: Vec<PortArg>, vips: &[SocketAddr]) -> Signs {
        let interfaces: Vec<_> = ports.iter().map(own::interface).collect();
        let (oversized, held, claimed) = (vec![false; ports.len()], HashSet::new(), HashSet::new());
        let (ours, vips) = (own::shared(&ports, vips), vips.iter().copied().collect());
        Signs { ports, interfaces, oversized, vips, ours, held, claimed, said: 0 }
    }

    /// The VIPs are these from now on. What is to be said of those that are new; `listeners`: where local processes listen.
    pub fn follow(&mut self, vips: &[SocketAddr], listeners: impl FnOnce() -> Vec<SocketAddr>) -> Vec<String> {
        let new: Vec<_> = vips.iter().filter(|vip| !self.vips.contains(vip)).copied().collect();
        let mut lines = Vec::new();
        if !new.is_empty() {
            own::warn_of_vips(&self.ports, &new, &mut lines);
            if self.interfaces.iter().any(Option::is_some) {
                own::warn_of_listeners(&new, &listeners(), &mut lines);
            }
        }
        self.ours = own::shared(&self.ports, vips);
        self.vips = vips.iter().copied().collect();
        // What goes and comes back is told again.
        let ours: HashSet<IpAddr> = vips
            .iter()
            .map(SocketAddr::ip)
            .chain(self.ports.iter().flat_map(|p| &p.addresses).map(|(ip, _)| *ip))
            .collect();
        self.held.retain(|ip| ours.contains(ip));
        self.claimed.retain(|ip| ours.contains(ip));
        lines
    }

    /// What is new. `kernel`: its addresses now, if they could be read; `takes`: which others it takes for its own.
    pub fn look(
        &mut self,
        workers: &[Snapshot],
        kernel: Option<&[KernelAddress]>,
        takes: impl FnMut(IpAddr) -> bool,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        let all = Snapshot::fold(workers);
        self.look_for_offloads(&all.received, &mut lines);
        for conflict in &all.conflicts {
            if self.claimed.insert(conflict.ip) {
                let port = self.ports.get(usize::from(conflict.port.0)).map_or("?", |port| &port.name);
                lines.push(format!(
                    "port '{port}': another host, {}, says that it has {}: one of the two must give it up, or clients \
                     and servers reach now the one, now the other",
                    conflict.mac, conflict.ip
                ));
            }
        }
        if let Some(kernel) = kernel {
            self.look_for_kernel(kernel, takes, &mut lines);
        }
        lines
    }

    fn look_for_offloads(&mut self, received: &[Traffic], lines: &mut Vec<String>) {
        let ports = self.ports.iter().zip(&self.interfaces);
        for (((port, interface), said), traffic) in ports.zip(&mut self.oversized).zip(received) {
            let Some(device) = interface else { continue };
            if traffic.lost_to(Loss::RxOversized) > 0 && !std::mem::replace(said, true) {
                let what = if port.takes_large_units() {
                    // It is not what offloads make of TCP.
                    format!("MTUs must be alike on all of a wire: ip link set {device} mtu N, or less at the others")
                } else {
                    format!(
                        "ethtool -K {device} gro off lro off tso off gso off (the same at the far end of a virtual pair)"
                    )
                };
                lines.push(format!(
                    "port '{}': frames longer than the MTU of {device} come in (rx-oversized) and cannot be sent on, so \
                     transfers crawl: {what}",
                    port.name
                ));
            }
        }
    }

    /// An address, or a route to one, that somebody gives the kernel while we run.
    fn look_for_kernel(
        &mut self,
        kernel: &[KernelAddress],
        takes: impl FnMut(IpAddr) -> bool,
        lines: &mut Vec<String>,
    ) {
        let held = own::held(&self.ours, kernel);
        let routed = own::routed(&self.ours, &held, takes);
        let before = &self.held;
        let new: Vec<_> = held.iter().filter(|(own, _)| !before.contains(&own.ip)).copied().collect();
        let new_routed: Vec<_> = routed.iter().filter(|own| !before.contains(&own.ip)).copied().collect();
        let said = [
            (!new.is_empty()).then(|| own::explain(&new)),
            (!new_routed.is_empty()).then(|| own::explain_routed(&new_routed)),
        ];
        for line in said.into_iter().flatten() {
            if self.said < MOST {
                self.said += 1;
                lines.push(line);
            }
        }
        self.held = held.iter().map(|(own, _)| own.ip).chain(routed.iter().map(|own| own.ip)).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Conflict, PortId};
    use crate::wire::Mac;

    fn signs() -> Signs {
        let ports = ["wan=af-packet:eth0,ip=10.0.0.1/24", "card=mem:x", "lan=af-packet:eth1,offload=off"];
        let ports = ports.iter().map(|port| PortArg::parse(port).unwrap()).collect();
        Signs::new(ports, &["10.0.0.100:443".parse().unwrap()])
    }

    #[test]
    fn offloads_are_told_at_the_first_oversized_frame_once_a_port() {
        let mut signs = signs();
        let mut workers = vec![Snapshot { received: vec![Traffic::default(); 3], ..Snapshot::default() }; 2];
        assert_eq!(signs.look(&workers, None, |_| false), [""; 0]);
        // By any worker's queue. What no interface is behind is no matter of ethtool's.
        workers[1].received[0].losses[Loss::RxOversized as usize] += 1;
        workers[1].received[1].losses[Loss::RxOversized as usize] += 1;
        workers[1].received[2].losses[Loss::RxOversized as usize] += 1;
        let lines = signs.look(&workers, None, |_| false);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("port 'wan'") && lines[0].contains("ip link set eth0 mtu N"), "{lines:?}");
        assert!(lines[1].contains("port 'lan'"), "{lines:?}");
        assert!(lines[1].contains("ethtool -K eth1 gro off lro off tso off gso off"), "{lines:?}");
        workers[0].received[0].losses[Loss::RxOversized as usize] += 9;
        assert_eq!(signs.look(&workers, None, |_| false), [""; 0]);
    }

    #[test]
    fn an_address_that_the_kernel_gets_meanwhile_is_told_when_it_comes_and_when_it_comes_again() {
        let mut signs = signs();
        let with = [KernelAddress { interface: "eth0".into(), ip: "10.0.0.100".parse().unwrap(), prefix: 24 }];
        let mut look = |kernel: Option<&[KernelAddress]>| signs.look(&[], kernel, |_| false);
        assert_eq!(look(Some(&[])).len(), 0);
        assert!(look(Some(&with))[0].ends_with("ip addr del 10.0.0.100/24 dev eth0"));
        assert_eq!((look(Some(&with)).len(), look(None).len(), look(Some(&with)).len()), (0, 0, 0));
        // However often it comes and goes, the lines have a bound.
        let lines: usize = (0..100).map(|_| look(Some(&[])).len() + look(Some(&with)).len()).sum();
        assert_eq!(lines as u32, MOST - 1);
    }

    #[test]
    fn a_local_route_that_takes_an_address_of_ours_meanwhile_is_told_once() {
        let mut signs = signs();
        let mut look = |takes: bool| signs.look(&[], Some(&[]), |ip| takes && ip != IpAddr::from([10, 0, 0, 1]));
        assert_eq!(look(false).len(), 0);
        assert!(look(true)[0].contains("takes 10.0.0.100 (VIP 10.0.0.100:443) for its own by a local route"));
        assert_eq!((look(true).len(), look(false).len(), look(true).len()), (0, 0, 1));
    }

    #[test]
    fn another_hosts_claim_is_told_once_an_address() {
        let mut signs = signs();
        let conflict =
            |last, mac| Conflict { port: PortId(0), ip: [10, 0, 0, last].into(), mac: Mac([2, 0, 0, 0, 0, mac]) };
        let mut workers = vec![Snapshot::default(); 2];
        workers[0].conflicts.push(conflict(100, 7));
        workers[1].conflicts.push(conflict(100, 8));
        let lines = signs.look(&workers, None, |_| false);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("02:00:00:00:00:07, says that it has 10.0.0.100"), "{lines:?}");
        workers[1].conflicts.push(conflict(1, 9));
        assert_eq!(signs.look(&workers, None, |_| false).len(), 1);
        assert_eq!(signs.look(&workers, None, |_| false), [""; 0]);
    }

    #[test]
    fn vips_that_come_while_it_runs_are_looked_at_as_those_of_the_start_and_those_that_went_no_more() {
        let mut signs = signs();
        let vip = |text: &str| text.parse::<SocketAddr>().unwrap();
        let listeners = || vec![vip("0.0.0.0:443")];
        assert_eq!(signs.follow(&[vip("10.0.0.100:443")], listeners), [""; 0], "that was told at the start");
        let both = [vip("10.0.0.100:443"), vip("10.9.0.101:443")];
        let lines = signs.follow(&both, listeners);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("10.9.0.101:443 is in no port's network"), "{lines:?}");
        assert!(lines[1].contains("VIP 10.9.0.101:443: a process of this machine listens"), "{lines:?}");
        let kernel = |ip: &str| KernelAddress { interface: "eth0".into(), ip: ip.parse().unwrap(), prefix: 24 };
        let with = [kernel("10.9.0.101"), kernel("10.0.0.100")];
        assert_eq!(signs.look(&[], Some(&with[..1]), |_| false).len(), 1);
        assert_eq!(signs.follow(&both[1..], listeners), [""; 0]);
        assert_eq!(signs.look(&[], Some(&with), |_| false), [""; 0], "the one is known, the other ours no more");
        assert_eq!(signs.follow(&both, listeners).len(), 1, "it came back");
        assert_eq!(signs.look(&[], Some(&with), |_| false).len(), 1);
    }
}
