//! `dispatcher tunnel config BACKEND`: what a server's administrator types, so that the tunnel to it has its other end.

use super::check_file::load;
use super::tunnel_sealed::Sealed;
use super::{REFUSED, Refusal};
use crate::engine::{AddressMode, Config, PortSpec, Revision};
use crate::io::device_info;
use crate::path::Way;
use crate::tunnel::{Secret, key};
use crate::wire::Mac;
use clap::{Args, Subcommand};
use lb::{Directory, Tunnel, TunnelKind};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Flags of `tunnel`.
#[derive(Args, Debug)]
pub struct TunnelArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// What to type on a backend, as commands and as files of systemd-networkd, so that its tunnel has its other end
    Config {
        /// The backend's name
        #[arg(value_name = "BACKEND")]
        backend: String,

        /// The configuration file that has it
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Make a secret of which workers' keys for wireguard tunnels are made: into a file that nobody else may read, or to standard output
    Keygen {
        /// The file, which must not be there yet
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// The public keys that follow from such a file, a line for each worker
    Pubkey {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,

        /// Of so many workers
        #[arg(long, value_name = "N", default_value = "1", value_parser = crate::control::values::workers)]
        workers: usize,
    },
}

/// What it is called on the server.
pub(super) const DEVICE: &str = "dispatcher0";

/// The command.
pub fn run(args: &TunnelArgs) -> Result<ExitCode, Refusal> {
    match &args.verb {
        Verb::Config { backend, config } => describe(backend, config),
        Verb::Keygen { file: Some(file) } => {
            Secret::generate().and_then(|secret| secret.write(file)).map_err(Refusal::new)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Keygen { file: None } => {
            let secret = Secret::generate().map_err(Refusal::new)?;
            say(&secret.text());
            Ok(ExitCode::SUCCESS)
        }
        Verb::Pubkey { file, workers } => {
            let secret = Secret::read(file).map_err(Refusal::new)?;
            let keys: Vec<String> = (0..*workers).map(|worker| key::text(&secret.public_of(worker)) + "\n").collect();
            say(&keys.concat());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn say(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

fn describe(backend: &str, config: &Path) -> Result<ExitCode, Refusal> {
    let configuration = match load(config)? {
        Ok(source) => source.configuration,
        Err(faults) => {
            eprint!("{faults}");
            return Ok(ExitCode::from(REFUSED));
        }
    };
    let port = |arg: &crate::control::port::PortArg| {
        // Where the file is written elsewhere than it is used, nothing is known of the device.
        let here = device_info(&arg.device).ok();
        PortSpec {
            name: arg.name.clone(),
            mac: here.as_ref().map_or(Mac::default(), |info| info.mac),
            addresses: arg.addresses.clone(),
            gateways: arg.gateways.clone(),
            vlans: arg.vlans.clone(),
            mtu: arg.mtu.or(here.map(|info| info.mtu)).unwrap_or(1500),
        }
    };
    let ports = configuration.ports.iter().map(port).collect();
    let process = &configuration.process;
    // What follows from the key is needed where packets are sealed only, and may not be read by everybody who may read the file.
    let sealers = if process.tunnel_key.is_some() { process.worker_count() } else { 0 };
    let (wanted, address_mode) = (configuration.wanted.clone(), process.address_mode);
    let whole = Config { ports, wanted, address_mode, sealers, ..Config::default() };
    let directory = Directory::next(None, &configuration.wanted, |_| false)
        .map_err(|faults| Refusal::new(faults.first().map(ToString::to_string).unwrap_or_default()))?;
    let revision = Revision::new(&whole, Arc::new(directory)).map_err(|e| Refusal::new(e.to_string()))?;
    let spec =
        revision.directory().find(backend).ok_or_else(|| Refusal::new(format!("no backend is called {backend}")))?;
    let tunnel = spec.tunnel.ok_or_else(|| Refusal::new(format!("backend {backend} has no tunnel")))?;
    let way = revision.way(spec.id).ok_or_else(|| Refusal::new(format!("backend {backend} is not reached")))?;
    let (commands, networkd) = match (tunnel.seals(), &process.tunnel_key) {
        (Some(_), Some(file)) => {
            let secret = Secret::read(file).map_err(Refusal::new)?;
            let keys = (0..sealers).map(|worker| key::text(&secret.public_of(worker))).collect();
            let ends = Sealed::new(&tunnel, way, keys, address_mode == AddressMode::Dnat);
            (ends.commands(), ends.networkd())
        }
        _ => {
            let ends = Ends::new(&tunnel, way, whole.ports[usize::from(way.out.0)].mac);
            (ends.commands(), ends.networkd())
        }
    };
    say(&format!("# On {backend}, as root:\n{commands}\n# Or, to last:\n{networkd}"));
    Ok(ExitCode::SUCCESS)
}

/// Both ends of a tunnel, as the server sees them.
struct Ends {
    kind: TunnelKind,
    port: u16,
    /// Outer: the server's, ours.
    local: IpAddr,
    remote: IpAddr,
    /// Inner: the server's, ours.
    inner: IpAddr,
    sources: Vec<IpAddr>,
    mtu: u16,
    mac: Mac,
}

impl Ends {
    fn new(tunnel: &Tunnel, way: &Way, mac: Mac) -> Ends {
        let remote = way.wrap.as_ref().map_or(way.source(), |wrap| wrap.source()).ip();
        // To where the tunnel itself leads nothing can go through it.
        let sources = way.sources.iter().map(|source| source.ip()).filter(|source| *source != remote).collect();
        let (local, port, kind) = (tunnel.endpoint.ip(), tunnel.endpoint.port(), tunnel.kind);
        Ends { kind, port, local, remote, inner: way.addr.ip(), sources, mtu: way.mtu, mac }
    }

    fn bits(&self) -> u8 {
        if self.inner.is_ipv4() { 32 } else { 128 }
    }

    /// The kernel's word for IP of this family within IP of that.
    fn device_kind(&self) -> &'static str {
        match (self.local.is_ipv4(), self.inner.is_ipv4()) {
            (true, true) => "ipip",
            (true, false) => "sit",
            (false, true) => "ip6tnl mode ipip6",
            (false, false) => "ip6tnl mode ip6ip6",
        }
    }

    fn our_mac(&self) -> String {
        if self.mac == Mac::default() { "OUR-MAC".into() } else { self.mac.to_string() }
    }

    fn commands(&self) -> String {
        let Ends { port, local, remote, inner, mtu, .. } = self;
        let mut out = String::new();
        let six = if local.is_ipv4() { "" } else { "-6 " };
        match self.kind {
            TunnelKind::Ipip => {
                _ = writeln!(out, "ip link add {DEVICE} type {} local {local} remote {remote}", self.device_kind());
            }
            TunnelKind::Gue => {
                _ = writeln!(out, "modprobe fou");
                _ = writeln!(out, "ip {six}fou add port {port} gue");
                _ = writeln!(
                    out,
                    "ip link add {DEVICE} type {} local {local} remote {remote} encap gue encap-sport auto encap-dport {port}",
                    self.device_kind()
                );
            }
            TunnelKind::Wireguard { .. } => {}
            TunnelKind::Vxlan { vni, mac } => {
                _ = writeln!(
                    out,
                    "ip link add {DEVICE} type vxlan id {vni} local {local} remote {remote} dstport {port} nolearning"
                );
                _ = writeln!(out, "ip link set {DEVICE} address {}", Mac(mac));
            }
        }
        _ = writeln!(out, "ip addr add {inner}/{} dev {DEVICE}", self.bits());
        _ = writeln!(out, "ip link set {DEVICE} mtu {mtu} up");
        for source in &self.sources {
            _ = writeln!(out, "ip route add {source}/{} dev {DEVICE}", self.bits());
            if matches!(self.kind, TunnelKind::Vxlan { .. }) {
                _ = writeln!(out, "ip neigh replace {source} lladdr {} dev {DEVICE} nud permanent", self.our_mac());
            }
        }
        if inner.is_ipv4() {
            _ = writeln!(out, "sysctl -w net.ipv4.conf.{DEVICE}.rp_filter=0");
        }
        out
    }

    fn networkd(&self) -> String {
        let Ends { port, local, remote, inner, mtu, .. } = self;
        let mut out = String::new();
        if self.kind == TunnelKind::Gue {
            out += "# /etc/systemd/network/50-dispatcher-fou.netdev\n";
            _ = writeln!(
                out,
                "[NetDev]\nName=dispatcher-fou\nKind=fou\n\n[FooOverUDP]\nPort={port}\nEncapsulation=GenericUDPEncapsulation\n"
            );
        }
        _ = writeln!(out, "# /etc/systemd/network/50-{DEVICE}.netdev\n[NetDev]\nName={DEVICE}\nMTUBytes={mtu}");
        match self.kind {
            TunnelKind::Vxlan { vni, mac } => {
                _ = writeln!(out, "Kind=vxlan\nMACAddress={}\n", Mac(mac));
                _ = writeln!(
                    out,
                    "[VXLAN]\nVNI={vni}\nLocal={local}\nRemote={remote}\nDestinationPort={port}\nMacLearning=no\nIndependent=yes\n"
                );
            }
            TunnelKind::Wireguard { .. } => {}
            TunnelKind::Ipip | TunnelKind::Gue => {
                let (kind, mode) = match self.device_kind().split_once(" mode ") {
                    Some((kind, mode)) => (kind, format!("Mode={mode}\n")),
                    None => (self.device_kind(), String::new()),
                };
                _ = writeln!(out, "Kind={kind}\n\n[Tunnel]\nIndependent=yes\nLocal={local}\nRemote={remote}\n{mode}");
                if self.kind == TunnelKind::Gue {
                    let end = out.trim_end().len();
                    out.truncate(end);
                    _ = writeln!(
                        out,
                        "\nFooOverUDP=yes\nFOUDestinationPort={port}\nEncapsulation=GenericUDPEncapsulation\n"
                    );
                }
            }
        }
        _ = writeln!(out, "# /etc/systemd/network/50-{DEVICE}.network\n[Match]\nName={DEVICE}\n");
        _ = writeln!(out, "[Network]\nAddress={inner}/{}", self.bits());
        for source in &self.sources {
            _ = writeln!(out, "\n[Route]\nDestination={source}/{}\nScope=link", self.bits());
            if matches!(self.kind, TunnelKind::Vxlan { .. }) {
                _ = writeln!(out, "\n[Neighbor]\nAddress={source}\nLinkLayerAddress={}", self.our_mac());
            }
        }
        out
    }
}
