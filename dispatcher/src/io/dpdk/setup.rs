//! What DPDK is started with: memory, pages, EAL's arguments.

use super::device::RING_BYTES;
use super::{DpdkDevice, large};
use crate::io::{BURST, OpenError};
use capsule::config::RuntimeConfig;
use std::path::{Path, PathBuf};

/// A port to open.
#[derive(Clone, Debug)]
pub struct PortSetup {
    /// What to open.
    pub device: DpdkDevice,
    /// Largest IP packet, bytes; at most [`MAX_MTU`].
    pub mtu: u16,
    /// Huge pages insisted on, or refused; none: as [`pages`] says.
    pub huge: Option<bool>,
    /// Large units are to be merged and cut by the port, as far as it can.
    pub offload: bool,
}

/// Largest IP packet of a port: a frame lies in one buffer.
pub const MAX_MTU: u16 = 1500;

/// Bytes of a buffer with everything around it.
const MBUF_BYTES: usize = 2176 + 128 + 64;

/// Buffers that a worker's core keeps at hand.
const MBUF_CACHE: usize = 256;

/// Descriptors of a receive or transmit queue; a port that cannot have so many has what it can.
pub(super) const DESCRIPTORS: usize = 1024;

/// Memory for everything of DPDK's but the buffers: queues, tables, its own accounts.
const REST: usize = 48 << 20;

/// What the path of EAL's directory ends with. All processes may have one: nothing is put there.
const NAME: &str = "dispatcher";

/// Where there is no card: where this one alone is allowed, none is looked at.
const NO_CARD: &str = "ffff:ff:1f.7";

/// Pages that DPDK's memory is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    /// Huge ones.
    Huge,
    /// Ordinary ones.
    Small,
}

impl Pages {
    /// For reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Pages::Huge => "huge pages",
            Pages::Small => "no huge pages",
        }
    }
}

/// Buffers for so many ports and workers: what all receive and transmit queues hold when they are full, what the cores keep,
/// and a burst for each on its way. One less than a power of two is what fits a mempool best.
pub fn buffers(ports: usize, workers: usize) -> usize {
    // DPDK lets a cache grow to half as much again.
    let most = ports * workers * 2 * DESCRIPTORS + workers * (MBUF_CACHE * 3 / 2 + 2 * BURST);
    most.next_power_of_two() - 1
}

/// Bytes of memory that these ports take, with so many workers: DPDK's, rings shared with the kernel, and buffers for large units.
pub fn port_memory(ports: &[PortSetup], workers: usize) -> usize {
    let rings = ports.iter().filter(|p| p.device.has_rings()).count() * workers * 2;
    let units = if ports.iter().any(|p| p.offload) { workers * large::MEMORY } else { 0 };
    memory(ports.len(), workers) + rings * RING_BYTES + units
}

/// Bytes of memory that DPDK takes.
pub(super) fn memory(ports: usize, workers: usize) -> usize {
    (buffers(ports, workers) * MBUF_BYTES + REST).next_multiple_of(2 << 20)
}

/// Which pages to use. Cards are driven in huge ones, unless ordinary ones are asked for: their rate, and often that they work at
/// all, depends on it, and the operator who has a card has the memory to reserve. Virtual devices take what there is.
pub(super) fn pages(ports: &[PortSetup], workers: usize) -> Result<Pages, OpenError> {
    decide(ports, workers, free_huge_pages(Path::new("/sys")))
}

fn decide(ports: &[PortSetup], workers: usize, free: usize) -> Result<Pages, OpenError> {
    let asked = |what| ports.iter().find(|p| p.huge == Some(what)).map(|p| p.device.name.as_str());
    if let (Some(with), Some(without)) = (asked(true), asked(false)) {
        return Err(OpenError(format!("dpdk: huge=on for {with}, but huge=off for {without}: all share one memory")));
    }
    let memif = ports.iter().any(|p| p.device.name.starts_with("net_memif"));
    if memif && asked(true).is_some() {
        return Err(OpenError("dpdk: net_memif would leave files of huge pages behind: without huge=on".into()));
    }
    if memif || asked(false).is_some() {
        return Ok(Pages::Small);
    }
    let needed = memory(ports.len(), workers);
    if free >= needed {
        return Ok(Pages::Huge);
    }
    match ports.iter().find(|p| p.huge == Some(true) || p.device.is_pci()) {
        Some(port) => Err(OpenError(format!(
            "dpdk:{}: {} MiB of huge pages are needed and {} MiB are free: echo {} > /proc/sys/vm/nr_hugepages, or huge=off to do \
             without (slower; a card then needs an IOMMU)",
            port.device.name,
            needed >> 20,
            free >> 20,
            pages_to_reserve(needed, free),
        ))),
        None => Ok(Pages::Small),
    }
}

/// How many huge pages of the usual size there must be in all, for `needed` bytes where `free` are free now.
fn pages_to_reserve(needed: usize, free: usize) -> usize {
    let now = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").ok().and_then(|n| n.trim().parse().ok());
    now.unwrap_or(0) + needed.saturating_sub(free).div_ceil(2 << 20)
}

/// A card whose NUMA node has no worker would find no buffers.
pub(super) fn check_nodes(ports: &[PortSetup], cores: &[usize]) -> Result<(), OpenError> {
    nodes_fit(Path::new("/sys"), ports, cores)
}

fn nodes_fit(sysfs: &Path, ports: &[PortSetup], cores: &[usize]) -> Result<(), OpenError> {
    for PortSetup { device, .. } in ports.iter().filter(|p| p.device.is_pci()) {
        let name = &device.name;
        let node = std::fs::read_to_string(sysfs.join("bus/pci/devices").join(name).join("numa_node"));
        let Some(node) = node.ok().and_then(|n| n.trim().parse::<usize>().ok()) else { continue };
        let of_node = sysfs.join(format!("devices/system/node/node{node}"));
        if of_node.is_dir() && !cores.iter().any(|core| of_node.join(format!("cpu{core}")).exists()) {
            let list = std::fs::read_to_string(of_node.join("cpulist")).unwrap_or_default();
            return Err(OpenError(format!(
                "dpdk:{name}: is on NUMA node {node}, and no worker's core is: --cores with one of {}",
                list.trim()
            )));
        }
    }
    Ok(())
}

/// When the ports' devices are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// As EAL starts.
    AtStart,
    /// Later, when another process has let go of them; it tells its cards addresses of its memory, not the machine's.
    Later { virtual_addresses: bool },
}

/// What capsule is told. Its types cannot be made but from data. Of the ports it knows nothing: they are [`ports`](super::ports)'s.
pub(super) fn config(
    ports: &[PortSetup],
    cores: &[usize],
    pages: Pages,
    found: Found,
) -> Result<RuntimeConfig, OpenError> {
    let config = serde_json::json!({
        "app_name": NAME, "master_core": cores.first(), "cores": cores, "ports": [],
        "mempool": { "capacity": buffers(ports.len(), cores.len()), "cache_size": MBUF_CACHE },
        "dpdk_args": arguments(ports, cores, pages, found).join(" "),
    });
    serde_json::from_value(config).map_err(|e| OpenError(format!("dpdk: {e}")))
}

/// EAL's arguments.
fn arguments(ports: &[PortSetup], cores: &[usize], pages: Pages, found: Found) -> Vec<String> {
    let pci = ports.iter().any(|p| p.device.is_pci());
    // `--no-shconf`: no files, and so no second process.
    let mut arguments = vec!["--no-telemetry".to_string(), "--no-shconf".into()];
    match pages {
        Pages::Huge => arguments.push("--in-memory".into()),
        // `--in-memory` is about huge pages and refused here.
        Pages::Small => {
            let mib = memory(ports.len(), cores.len()) >> 20;
            arguments.extend(["--no-huge".into(), "-m".into(), mib.to_string()]);
        }
    }
    // Otherwise every card of the host would be looked at.
    if !pci {
        arguments.push("--no-pci".into());
    }
    match found {
        Found::AtStart => {
            for port in ports {
                let name = port.device.name.clone();
                match port.device.arguments_for(cores.len()) {
                    _ if port.device.is_pci() => arguments.extend(["-a".into(), name]),
                    None => arguments.extend(["--vdev".into(), name]),
                    Some(of_device) => arguments.extend(["--vdev".into(), format!("{name},{of_device}")]),
                }
            }
        }
        Found::Later { virtual_addresses } if pci => {
            // EAL would go by the cards that it finds.
            arguments.push(format!("--iova-mode={}", if virtual_addresses { "va" } else { "pa" }));
            arguments.extend(["-a".into(), NO_CARD.into()]);
        }
        Found::Later { .. } => {}
    }
    arguments
}

/// EAL makes a directory even when it puts nothing there. Another process that starts right now makes it again.
pub(super) fn remove_runtime_directory() {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    for base in
        [Some("/var/run".into()), Some("/tmp".into()), variable("XDG_RUNTIME_DIR"), variable("RUNTIME_DIRECTORY")]
            .into_iter()
            .flatten()
    {
        let of_dpdk = base.join("dpdk");
        // Only when they are empty.
        let _ = std::fs::remove_dir(of_dpdk.join(NAME)).and_then(|()| std::fs::remove_dir(of_dpdk));
    }
}

/// Bytes in huge pages that nobody uses.
fn free_huge_pages(sysfs: &Path) -> usize {
    let Ok(sizes) = sysfs.join("kernel/mm/hugepages").read_dir() else { return 0 };
    let free = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        let kib: usize = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages: usize = std::fs::read_to_string(entry.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
        Some(kib * 1024 * pages)
    };
    sizes.flatten().filter_map(free).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(name: &str) -> PortSetup {
        PortSetup { device: DpdkDevice::parse(name).unwrap(), mtu: 1500, huge: None, offload: false }
    }

    #[test]
    fn huge_pages_are_summed_over_their_sizes() {
        let root = std::env::temp_dir().join(format!("dispatcher-huge-{}", std::process::id()));
        assert_eq!(free_huge_pages(&root), 0);
        for (size, free) in [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "1\n"), ("other", "7\n")] {
            let dir = root.join("kernel/mm/hugepages").join(size);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("free_hugepages"), free).unwrap();
        }
        assert_eq!(free_huge_pages(&root), (3 * 2 + 1024) << 20);
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn cards_want_huge_pages_and_virtual_devices_take_what_there_is() {
        let (card, vdev) = (setup("03:00.0"), setup("net_null0"));
        let needed = memory(1, 1);
        let with = |port: &PortSetup, huge| PortSetup { huge, ..port.clone() };
        assert_eq!(decide(std::slice::from_ref(&card), 1, needed), Ok(Pages::Huge));
        assert_eq!(decide(std::slice::from_ref(&vdev), 1, needed), Ok(Pages::Huge));
        assert_eq!(decide(std::slice::from_ref(&vdev), 1, needed - 1), Ok(Pages::Small));
        let refused = decide(std::slice::from_ref(&card), 1, needed - 1).unwrap_err().0;
        assert!(
            refused.contains("nr_hugepages") && refused.contains("huge=off") && !refused.contains('\n'),
            "{refused}"
        );
        assert_eq!(decide(&[with(&card, Some(false))], 1, 0), Ok(Pages::Small));
        assert!(decide(&[with(&vdev, Some(true))], 1, 0).is_err());
        assert!(decide(&[with(&vdev, Some(true)), with(&card, Some(false))], 1, usize::MAX).is_err());
        assert_eq!(decide(&[setup("net_memif0;id=0")], 1, usize::MAX), Ok(Pages::Small), "huge pages would be files");
    }

    #[test]
    fn there_are_buffers_for_all_queues_when_they_are_full() {
        for (ports, workers) in [(1, 1), (2, 1), (2, 2), (16, 8)] {
            assert!(buffers(ports, workers) > ports * workers * 2 * DESCRIPTORS);
            assert!(memory(ports, workers) > buffers(ports, workers) * MBUF_BYTES);
        }
    }

    #[test]
    fn what_dpdk_is_told_depends_on_the_devices() {
        let args = |names: &[&str], pages, found| {
            arguments(&names.iter().map(|n| setup(n)).collect::<Vec<_>>(), &[1], pages, found).join(" ")
        };
        let mib = memory(2, 1) >> 20;
        let small = format!("--no-telemetry --no-shconf --no-huge -m {mib} --no-pci");
        assert_eq!(
            args(&["net_null0", "net_af_packet0;iface=a;framecnt=8"], Pages::Small, Found::AtStart),
            format!("{small} --vdev net_null0 --vdev net_af_packet0,iface=a,framecnt=8,qpairs=1")
        );
        let huge = "--no-telemetry --no-shconf --in-memory";
        assert_eq!(
            args(&["03:00.0", "net_null1"], Pages::Huge, Found::AtStart),
            format!("{huge} -a 0000:03:00.0 --vdev net_null1")
        );
        // Nothing is found that another process may still have.
        for (virtual_addresses, mode) in [(true, "va"), (false, "pa")] {
            let later = Found::Later { virtual_addresses };
            assert_eq!(args(&["net_null0", "net_null1"], Pages::Small, later), small);
            assert_eq!(args(&["03:00.0"], Pages::Huge, later), format!("{huge} --iova-mode={mode} -a {NO_CARD}"));
        }
        let ports = [setup("net_null0")];
        assert!(config(&ports, &[1], Pages::Small, Found::AtStart).is_ok(), "capsule can read it");
    }

    #[test]
    fn a_card_without_a_worker_on_its_node_is_refused() {
        let root = std::env::temp_dir().join(format!("dispatcher-numa-{}", std::process::id()));
        let device = root.join("bus/pci/devices/0000:03:00.0");
        std::fs::create_dir_all(&device).unwrap();
        let ports = [setup("03:00.0"), setup("net_null0")];
        for (node, cpus) in [("node0", ["cpu0", "cpu2"]), ("node1", ["cpu1", "cpu3"])] {
            for cpu in cpus {
                std::fs::create_dir_all(root.join("devices/system/node").join(node).join(cpu)).unwrap();
            }
        }
        std::fs::write(root.join("devices/system/node/node1/cpulist"), "1,3\n").unwrap();
        std::fs::write(device.join("numa_node"), "-1\n").unwrap();
        assert_eq!(nodes_fit(&root, &ports, &[0]), Ok(()), "it does not say");
        std::fs::write(device.join("numa_node"), "1\n").unwrap();
        assert!(nodes_fit(&root, &ports, &[0, 2]).unwrap_err().0.contains("one of 1,3"));
        assert_eq!(nodes_fit(&root, &ports, &[0, 3]), Ok(()));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
