//! Tunnels as flags and files say them: one reader for both.

use crate::tunnel::key;
use lb::tunnel::{GUE_PORT, MAX_VNI, VXLAN_PORT, WIREGUARD_PORT};
use lb::{Tunnel, TunnelKind};
use std::net::{IpAddr, SocketAddr};

/// The keys of a tunnel.
pub const KEYS: [&str; 6] = ["kind", "endpoint", "vni", "mac", "public-key", "address"];

/// What was said of a tunnel so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Said {
    kind: Option<Word>,
    /// With the port, where one was said.
    endpoint: Option<(IpAddr, Option<u16>)>,
    vni: Option<u32>,
    mac: Option<[u8; 6]>,
    public_key: Option<[u8; 32]>,
    address: Option<IpAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    Ipip,
    Gue,
    Vxlan,
    Wireguard,
}

impl Said {
    /// Sets what a key says.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "kind" => self.kind = Some(word(value)?),
            "endpoint" => self.endpoint = Some(endpoint(value)?),
            "vni" => self.vni = Some(vni(value)?),
            "mac" => self.mac = Some(mac(value)?),
            "public-key" => self.public_key = Some(key::public(value)?),
            "address" => self.address = Some(inner(value)?),
            _ => return Err(format!("unknown option '{key}' (there are {})", KEYS.join(", "))),
        }
        Ok(())
    }

    /// Nothing was said.
    pub fn is_empty(&self) -> bool {
        *self == Said::default()
    }

    /// What comes of all of it, for a backend at `addr`: which is then at the inner address of its tunnel, where one was said. Or what is wrong with it.
    pub fn tunnel(self, addr: &mut SocketAddr) -> Result<Tunnel, String> {
        let kind = self.kind.ok_or("a tunnel has no 'kind': ipip, gue, vxlan or wireguard")?;
        if kind != Word::Wireguard && (self.public_key.is_some() || self.address.is_some()) {
            return Err("'public-key' and 'address' are of wireguard".into());
        }
        let (ip, port) = self.endpoint.ok_or("a tunnel has no 'endpoint': the address at which it ends")?;
        let at = |usual: u16| SocketAddr::new(ip, port.unwrap_or(usual));
        if kind != Word::Vxlan && (self.vni.is_some() || self.mac.is_some()) {
            return Err("'vni' and 'mac' are of vxlan".into());
        }
        Ok(match kind {
            Word::Ipip if port.is_some() => return Err("ipip has no port".into()),
            Word::Ipip => Tunnel { kind: TunnelKind::Ipip, endpoint: at(0) },
            Word::Gue => Tunnel { kind: TunnelKind::Gue, endpoint: at(GUE_PORT) },
            Word::Vxlan => {
                let vni = self.vni.ok_or("vxlan has no 'vni'")?;
                let mac = self.mac.ok_or("vxlan has no 'mac': the backend's Ethernet address within that network")?;
                Tunnel { kind: TunnelKind::Vxlan { vni, mac }, endpoint: at(VXLAN_PORT) }
            }
            Word::Wireguard => {
                let public_key =
                    self.public_key.ok_or("wireguard has no 'public-key': what `wg show` calls so on the server")?;
                if let Some(inner) = self.address {
                    if inner.is_ipv4() != addr.is_ipv4() {
                        return Err(format!(
                            "its address {inner} is of another family than the backend's, {}",
                            addr.ip()
                        ));
                    }
                    addr.set_ip(inner);
                }
                Tunnel { kind: TunnelKind::Wireguard { public_key }, endpoint: at(WIREGUARD_PORT) }
            }
        })
    }
}

fn word(text: &str) -> Result<Word, String> {
    match text {
        "ipip" => Ok(Word::Ipip),
        "gue" => Ok(Word::Gue),
        "vxlan" => Ok(Word::Vxlan),
        "wireguard" => Ok(Word::Wireguard),
        _ => Err("expected ipip, gue, vxlan or wireguard".into()),
    }
}

/// `203.0.113.5`, `203.0.113.5:6080`, `2001:db8::5` or `[2001:db8::5]:6080`.
fn endpoint(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    // IPv6 in brackets, as everywhere; without a port also without them.
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).filter(|ip| ip.contains(':'));
    let (ip, port) = match (bare.unwrap_or(text).parse::<IpAddr>(), text.parse::<SocketAddr>()) {
        (Ok(ip), _) => (ip, None),
        (_, Ok(addr)) if addr.port() > 0 => (addr.ip(), Some(addr.port())),
        _ => return Err("expected an address, with or without a port".into()),
    };
    let ip = ip.to_canonical();
    let usable = !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback());
    if usable { Ok((ip, port)) } else { Err(format!("{ip} is no server's address")) }
}

/// The server's address within the tunnel.
fn inner(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse::<IpAddr>().map_err(|_| String::from("expected an address, without a port"))?.to_canonical();
    let usable = !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback());
    if usable { Ok(ip) } else { Err(format!("{ip} is no server's address")) }
}

fn vni(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|n| *n <= MAX_VNI).ok_or(format!("expected a number up to {MAX_VNI}"))
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let wrong = || String::from("expected an Ethernet address of one host, as 02:00:00:00:00:0a");
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    // What all hear carries no TCP: Linux drops it.
    let good = parts.next().is_none() && bytes[0] & 1 == 0 && bytes != [0; 6];
    if good { Ok(bytes) } else { Err(wrong()) }
}

/// The keys that say something else than what holds anyway, as a file has them.
pub fn told(tunnel: &Tunnel) -> Vec<(&'static str, String)> {
    let text = |text: String| format!("\"{text}\"");
    let usual = match tunnel.kind {
        TunnelKind::Ipip => 0,
        TunnelKind::Gue => GUE_PORT,
        TunnelKind::Vxlan { .. } => VXLAN_PORT,
        TunnelKind::Wireguard { .. } => WIREGUARD_PORT,
    };
    let endpoint = tunnel.endpoint;
    let endpoint = if endpoint.port() == usual { endpoint.ip().to_string() } else { endpoint.to_string() };
    let mut lines = vec![("kind", text(tunnel.kind.as_str().into())), ("endpoint", text(endpoint))];
    if let TunnelKind::Vxlan { vni, mac } = tunnel.kind {
        let [a, b, c, d, e, f] = mac;
        lines.push(("vni", vni.to_string()));
        lines.push(("mac", text(format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"))));
    }
    // The inner address is the backend's.
    lines.extend(tunnel.seals().map(|public_key| ("public-key", text(key::text(public_key)))));
    lines
}

/// In a line, for people.
pub fn shown(tunnel: &Option<Tunnel>) -> String {
    let Some(tunnel) = tunnel else { return "none".into() };
    match tunnel.seals() {
        Some(public_key) => format!("{tunnel} key {}", key::text(public_key)),
        None => tunnel.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Tunnel, String> {
        read_at(text, &mut "10.0.0.1:443".parse().unwrap())
    }

    fn read_at(text: &str, addr: &mut SocketAddr) -> Result<Tunnel, String> {
        let mut said = Said::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap();
            said.set(key, value)?;
        }
        said.tunnel(addr)
    }

    const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

    #[test]
    fn the_inner_address_of_a_sealed_tunnel_is_where_its_backend_is_then() {
        let said = format!("kind=wireguard,endpoint=203.0.113.5,public-key={KEY},address=10.200.1.11");
        let mut addr: SocketAddr = "203.0.113.5:8443".parse().unwrap();
        let tunnel = read_at(&said, &mut addr).unwrap();
        assert_eq!((addr.to_string(), tunnel.endpoint.port()), ("10.200.1.11:8443".into(), 51820));
        let mut six: SocketAddr = "[2001:db8::5]:8443".parse().unwrap();
        let why = read_at(&said, &mut six).unwrap_err();
        assert!(why.contains("of another family"), "{why}");
        read_at(&said.replace("10.200.1.11", "fd00::11"), &mut six).unwrap();
        assert_eq!(six.to_string(), "[fd00::11]:8443");
    }

    #[test]
    fn a_tunnel_is_read_as_it_is_told_and_every_fault_of_it_is_named() {
        for text in [
            "kind=ipip,endpoint=203.0.113.5",
            "kind=ipip,endpoint=2001:db8::5",
            "kind=gue,endpoint=203.0.113.5",
            "kind=gue,endpoint=203.0.113.5:19523",
            "kind=vxlan,endpoint=[2001:db8::5]:8472,vni=16777215,mac=02:00:00:00:0a:ff",
            &format!("kind=wireguard,endpoint=203.0.113.5,public-key={KEY}"),
            &format!("kind=wireguard,endpoint=[2001:db8::5]:4500,public-key={KEY}"),
        ] {
            let tunnel = read(text).unwrap();
            let told = super::super::checks::plain(told(&tunnel));
            let told: Vec<_> = told.iter().map(|(key, value)| format!("{key}={value}")).collect();
            assert_eq!(told.join(","), text);
        }
        let brackets = read("kind=ipip,endpoint=[2001:db8::5]");
        assert_eq!(brackets, read("kind=ipip,endpoint=2001:db8::5"));
        for (wrong, why) in [
            ("", "no 'kind'"),
            ("kind=ipip,endpoint=[10.0.0.1]", "expected an address"),
            ("kind=ipip,endpoint=[2001:db8::5", "expected an address"),
            ("kind=gre", "expected ipip, gue, vxlan or wireguard"),
            ("kind=ipip", "no 'endpoint'"),
            ("kind=ipip,endpoint=web1", "expected an address"),
            ("kind=ipip,endpoint=10.0.0.1:4", "ipip has no port"),
            ("kind=gue,endpoint=10.0.0.1:0", "expected an address"),
            ("kind=gue,endpoint=224.0.0.1", "no server's address"),
            ("kind=gue,endpoint=10.0.0.1,vni=7", "are of vxlan"),
            ("kind=vxlan,endpoint=10.0.0.1,mac=02:00:00:00:00:01", "no 'vni'"),
            ("kind=vxlan,endpoint=10.0.0.1,vni=7", "no 'mac'"),
            ("kind=vxlan,vni=16777216", "up to 16777215"),
            ("kind=vxlan,mac=ff:ff:ff:ff:ff:ff", "Ethernet address of one host"),
            ("kind=vxlan,mac=02:00:00:00:00", "Ethernet address of one host"),
            ("kind=wireguard,endpoint=10.0.0.1", "no 'public-key'"),
            ("kind=wireguard,public-key=abc", "expected a public key"),
            ("kind=wireguard,address=10.0.0.1:80", "without a port"),
            ("kind=wireguard,address=0.0.0.0", "no server's address"),
            ("kind=gue,endpoint=10.0.0.1,address=10.0.0.2", "are of wireguard"),
            ("colour=red", "unknown option 'colour'"),
        ] {
            let told = read(wrong).unwrap_err();
            assert!(told.contains(why), "{wrong}: {told}");
        }
    }
}
