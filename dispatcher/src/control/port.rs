//! The little language of `--port`: `NAME=DRIVER:DEVICE[,KEY=VALUE]...`.

use super::name::check_name;
use crate::io::af_xdp;
use std::net::IpAddr;
use std::path::PathBuf;

/// What talks to the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// Any Linux interface, through packet sockets.
    AfPacket,
    /// Any Linux interface, past the kernel's stack.
    AfXdp,
    /// Cards and virtual devices of DPDK.
    Dpdk,
    /// Queues in memory, for tests.
    Mem,
    /// Recorded traffic.
    Pcap,
}

impl Driver {
    const ALL: [(&'static str, Driver); 5] = [
        ("af-packet", Driver::AfPacket),
        ("af-xdp", Driver::AfXdp),
        ("dpdk", Driver::Dpdk),
        ("mem", Driver::Mem),
        ("pcap", Driver::Pcap),
    ];

    /// Its word on the command line.
    pub fn as_str(self) -> &'static str {
        Driver::ALL.iter().find(|(_, d)| *d == self).map_or("?", |(name, _)| name)
    }
}

/// One `--port`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortArg {
    /// In reports.
    pub name: String,
    /// What talks to it.
    pub driver: Driver,
    /// Interface, PCI address or file.
    pub device: String,
    /// Our own addresses, with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Next hops, at most one a family.
    pub gateways: Vec<IpAddr>,
    /// Queue pairs to use, if told: as many as there are workers.
    pub queues: Option<u16>,
    /// VLAN ids, outermost first; at most two.
    pub vlans: Vec<u16>,
    /// Largest IP packet, where it is to be less than the device's.
    pub mtu: Option<u16>,
    /// af-xdp only: how it is to work, if told.
    pub mode: Option<af_xdp::Mode>,
    /// af-packet and dpdk: large units taken and given, or not.
    pub offload: Option<bool>,
    /// dpdk only: huge pages insisted on, or refused.
    pub huge: Option<bool>,
    /// pcap only: what is sent goes here.
    pub out: Option<PathBuf>,
    /// Everything that passes is recorded here.
    pub tee: Option<PathBuf>,
}

impl PortArg {
    /// Reads one `--port`.
    pub fn parse(text: &str) -> Result<PortArg, String> {
        let (name, rest) = text.split_once('=').ok_or("expected NAME=DRIVER:DEVICE")?;
        let mut parts = rest.split(',');
        let device = parts
            .next()
            .filter(|p| p.contains(':'))
            .ok_or_else(|| check_name(name).err().unwrap_or_else(|| String::from("expected NAME=DRIVER:DEVICE")))?;
        let mut port = PortArg::new(name, device)?;
        for part in parts {
            match part.split_once('=') {
                Some((key, value)) => port.set(key, value)?,
                None => return Err(unknown(part)),
            }
        }
        port.check()?;
        Ok(port)
    }

    /// A port of which only its name and `DRIVER:DEVICE` are told.
    pub fn new(name: &str, device: &str) -> Result<PortArg, String> {
        check_name(name)?;
        let (driver, device) = device.split_once(':').ok_or("expected DRIVER:DEVICE")?;
        let driver = Driver::ALL.iter().find(|(word, _)| *word == driver).map(|(_, d)| *d).ok_or_else(|| {
            format!("unknown driver '{driver}' (there are {})", Driver::ALL.map(|(name, _)| name).join(", "))
        })?;
        if device.is_empty() {
            return Err("expected a device behind the driver's name".into());
        }
        Ok(PortArg {
            name: name.to_string(),
            driver,
            device: device.to_string(),
            addresses: Vec::new(),
            gateways: Vec::new(),
            queues: None,
            vlans: Vec::new(),
            mtu: None,
            mode: None,
            offload: None,
            huge: None,
            out: None,
            tee: None,
        })
    }

    /// Takes one KEY=VALUE.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let port = self;
        match (key, value) {
            ("ip", _) => {
                let address = prefixed(value)?;
                if port.addresses.iter().any(|(ip, _)| *ip == address.0) {
                    return Err(format!("address {} given twice", address.0));
                }
                port.addresses.push(address);
            }
            ("gateway", _) => {
                let gateway = host(value)?;
                if port.gateways.iter().any(|g| g.is_ipv4() == gateway.is_ipv4()) {
                    return Err("at most one gateway of each address family".into());
                }
                port.gateways.push(gateway);
            }
            ("queues", _) if port.queues.is_some() => return Err("queues given twice".into()),
            ("queues", n) => {
                let n = n.parse().ok().filter(|n| (1..=64).contains(n)).ok_or("queues is from 1 to 64")?;
                port.queues = Some(n);
            }
            ("vlan", id) => {
                let id = id.parse().ok().filter(|id| (1..=4094).contains(id)).ok_or("a VLAN is from 1 to 4094")?;
                if port.vlans.len() == 2 {
                    return Err("at most two VLAN tags".into());
                }
                port.vlans.push(id);
            }
            ("mtu", _) if port.mtu.is_some() => return Err("mtu given twice".into()),
            ("mtu", n) => {
                let n = n.parse().ok().filter(|n| *n >= 576).ok_or("an MTU is from 576 to 65535")?;
                port.mtu = Some(n);
            }
            ("mode", word) if port.driver == Driver::AfXdp => {
                if port.mode.is_some() {
                    return Err("mode given twice".into());
                }
                let known = af_xdp::Mode::ALL.iter().find(|(name, _)| *name == word);
                port.mode = Some(known.ok_or("a mode is auto, zero-copy, copy or generic")?.1);
            }
            ("offload", word) if matches!(port.driver, Driver::AfPacket | Driver::Dpdk) && port.offload.is_none() => {
                port.offload = Some(match word {
                    "on" => true,
                    "off" => false,
                    _ => return Err("offload is on or off".into()),
                });
            }
            ("huge", word) if port.driver == Driver::Dpdk && port.huge.is_none() => {
                port.huge = Some(match word {
                    "on" => true,
                    "off" => false,
                    _ => return Err("huge is on or off".into()),
                });
            }
            ("out", file) if port.driver == Driver::Pcap && port.out.is_none() && !file.is_empty() => {
                port.out = Some(file.into());
            }
            ("tee", file) if port.tee.is_none() && !file.is_empty() => port.tee = Some(file.into()),
            _ => return Err(unknown(&format!("{key}={value}"))),
        }
        Ok(())
    }

    /// What only the whole can show.
    pub fn check(&self) -> Result<(), String> {
        // A gateway that is on no link of this port's would never be reached.
        match self.gateways.iter().find(|gateway| !self.is_on_link(**gateway)) {
            Some(gateway) => Err(format!("gateway {gateway} is in none of the port's networks")),
            None => Ok(()),
        }
    }

    /// It takes and gives large units, as far as its device can.
    pub fn takes_large_units(&self) -> bool {
        match self.driver {
            Driver::AfPacket => self.offload.unwrap_or(true),
            Driver::Dpdk => self.offload.unwrap_or(false),
            _ => false,
        }
    }

    /// Whether the port's networks hold this address.
    pub fn is_on_link(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(ip, prefix)| on_link(*ip, *prefix, address))
    }
}

fn unknown(part: &str) -> String {
    format!(
        "cannot take '{part}' here (there are ip, gateway, queues, vlan, mtu, tee; for af-packet also offload, for af-xdp mode, for dpdk huge and offload, for pcap out)"
    )
}

fn on_link(own: IpAddr, prefix: u8, other: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let ((a, a_len), (b, b_len)) = (bits(own), bits(other));
    a_len == b_len && (prefix == 0 || (a ^ b) >> (128 - u32::from(prefix)) == 0)
}

/// An address, IPv6 with or without brackets, that a host can have.
fn host(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let parsed = match bare {
        Some(v6) => v6.parse().map(IpAddr::V6).ok(),
        None => text.parse().ok(),
    };
    match parsed {
        Some(ip) if ip.is_unspecified() || ip.is_multicast() => Err(format!("{ip} is not an address of a host")),
        Some(ip) => Ok(ip),
        None => Err(format!("'{text}' is not an address")),
    }
}

/// `ADDR/PREFIX`.
fn prefixed(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, prefix) = text.rsplit_once('/').ok_or("expected ip=ADDR/PREFIX")?;
    let address = host(address)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.parse().ok().filter(|p| *p <= most).ok_or(format!("a prefix is from 0 to {most} here"))?;
    Ok((address, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_can_be_said_of_a_port() {
        let p = PortArg::parse(
            "net=af-packet:eth0,ip=10.0.0.5/24,gateway=10.0.0.1,ip=[fd00::5]/64,gateway=fd00::1,queues=2,vlan=300,vlan=40,mtu=1400",
        )
        .unwrap();
        assert_eq!((p.name.as_str(), p.driver, p.device.as_str()), ("net", Driver::AfPacket, "eth0"));
        assert_eq!(p.addresses, [("10.0.0.5".parse().unwrap(), 24), ("fd00::5".parse().unwrap(), 64)]);
        assert_eq!(p.gateways, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert_eq!((p.queues, p.vlans.as_slice(), p.mtu), (Some(2), &[300, 40][..], Some(1400)));
        assert!(p.is_on_link("fd00::77".parse().unwrap()) && !p.is_on_link("10.0.1.1".parse().unwrap()));
        let large = |text: &str| PortArg::parse(text).unwrap().takes_large_units();
        assert!(large("w=af-packet:eth0") && !large("w=dpdk:net_tap0") && large("w=dpdk:net_tap0,offload=on"));
        assert_eq!([PortArg::parse("w=af-packet:eth0,offload=off").unwrap().offload, p.offload], [Some(false), None]);
        // A PCI address has colons of its own.
        assert_eq!(PortArg::parse("w=dpdk:0000:00:1f.6").unwrap().device, "0000:00:1f.6");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for wrong in [
            "",
            "w",
            "w=eth0",
            "w=af-packet",
            "w=af-packet:",
            "=af-packet:eth0",
            "w=netmap:eth0",
            "w=af-packet:eth0,ip=10.0.0.1",
            "w=af-packet:eth0,ip=10.0.0.1/33",
            "w=af-packet:eth0,ip=10.0.0.256/24",
            "w=af-packet:eth0,ip=[10.0.0.1]/24",
            "w=af-packet:eth0,ip=0.0.0.0/0",
            "w=af-packet:eth0,ip=10.0.0.1/24,ip=10.0.0.1/24",
            "w=af-packet:eth0,ip=10.0.0.1/24,gateway=10.0.1.1",
            "w=af-packet:eth0,ip=10.0.0.1/24,gateway=10.0.0.2,gateway=10.0.0.3",
            "w=af-packet:eth0,queues=0",
            "w=af-packet:eth0,queues=1,queues=1",
            "w=af-packet:eth0,vlan=4095",
            "w=af-packet:eth0,vlan=1,vlan=2,vlan=3",
            "w=af-packet:eth0,mtu=10",
            "w=af-packet:eth0,speed=fast",
            "w=af-packet:eth0,mode=copy",
            "w=af-packet:eth0,offload=maybe",
            "w=af-packet:eth0,offload=on,offload=on",
            "w=af-xdp:eth0,offload=on",
            "w=af-xdp:eth0,mode=fast",
            "w=af-xdp:eth0,huge=on",
            "w=dpdk:net_null0,huge=2M",
            "w=dpdk:net_null0,huge=on,huge=on",
            "w=af-xdp:eth0,mode=copy,mode=copy",
        ] {
            assert!(PortArg::parse(wrong).is_err(), "{wrong}");
        }
    }
}
