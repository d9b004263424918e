//! What `--port NAME=dpdk:DEVICE` can name: a card by its PCI address, or one of DPDK's virtual devices.
//!
//! A virtual device's own arguments follow its name behind semicolons, because the comma separates the options of
//! `--port`: `net_af_packet0;iface=eth0;qpairs=1` is what DPDK calls `net_af_packet0,iface=eth0,qpairs=1`.

use crate::io::{OpenError, sys};
use std::path::Path;

/// A device as DPDK names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DpdkDevice {
    /// PCI address, or the virtual device's name.
    pub name: String,
    /// A virtual device's arguments, between commas.
    pub arguments: Option<String>,
}

/// Frames in a ring of net_af_packet. By itself it takes 512, which is less than what comes while a worker sleeps.
pub(super) const RING_FRAMES: usize = 2048;

/// And its bytes.
pub(super) const RING_BYTES: usize = RING_FRAMES * 2048;

/// Kernel drivers that leave a card to DPDK; the Mellanox ones stay in place beside it.
const USABLE_DRIVERS: [&str; 5] = ["vfio-pci", "uio_pci_generic", "igb_uio", "mlx4_core", "mlx5_core"];

impl DpdkDevice {
    /// Reads a device's name; the short form of a PCI address is completed.
    pub fn parse(text: &str) -> Result<DpdkDevice, OpenError> {
        if let Some(name) = pci_address(text) {
            return Ok(DpdkDevice { name, arguments: None });
        }
        let (name, arguments) = match text.split_once(';') {
            Some((name, arguments)) => (name, Some(arguments.replace(';', ","))),
            None => (text, None),
        };
        // EAL's arguments are split at white space on their way.
        let plain = |c: char| c.is_ascii_graphic();
        if !name.starts_with("net_") || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(OpenError(format!(
                "dpdk:{text}: neither a PCI address (0000:03:00.0) nor a virtual device (net_af_packet0;iface=eth0)"
            )));
        }
        if let Some(wrong) =
            arguments.iter().flat_map(|a| a.split(',')).find(|a| !a.contains('=') || !a.chars().all(plain))
        {
            return Err(OpenError(format!("dpdk:{text}: expected KEY=VALUE behind the semicolon, not '{wrong}'")));
        }
        let device = DpdkDevice { name: name.to_string(), arguments };
        if device.stands_on_interface() && device.interface().is_none() {
            return Err(OpenError(format!("dpdk:{text}: on which interface? ({name};iface=eth0)")));
        }
        Ok(device)
    }

    /// Shares rings with the kernel, each of [`RING_BYTES`] unless the operator says otherwise: two for each queue.
    pub(super) fn has_rings(&self) -> bool {
        self.name.starts_with("net_af_packet")
    }

    /// A virtual device's arguments for so many queues, where its driver must be told and the operator has not.
    pub(super) fn arguments_for(&self, queues: usize) -> Option<String> {
        let given = self.arguments.clone();
        let mut arguments: Vec<String> = given.iter().flat_map(|a| a.split(',')).map(str::to_owned).collect();
        let mut tell = |key: &str, value: usize| {
            if !arguments.iter().any(|a| a.split('=').next() == Some(key)) {
                arguments.push(format!("{key}={value}"));
            }
        };
        if self.has_rings() {
            tell("framecnt", RING_FRAMES);
            tell("qpairs", queues);
        } else if self.stands_on_interface() && queues > 1 {
            tell("queue_count", queues);
        }
        Some(arguments.join(",")).filter(|a| !a.is_empty())
    }

    /// Says what right the process lacks that the device needs. A card: to the device file of its group.
    pub fn permitted(&self) -> Result<(), OpenError> {
        let name = &self.name;
        if self.is_pci() {
            let group = Path::new("/sys/bus/pci/devices").join(name).join("iommu_group").read_link().ok();
            let Some(group) = group.as_deref().and_then(Path::file_name) else { return Ok(()) };
            let file = Path::new("/dev/vfio").join(group);
            return match sys::can_read_and_write(&file) {
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Err(OpenError(format!(
                    "dpdk:{name}: not permitted to use {}: run as root, or give it to the user (and LimitMEMLOCK=infinity)",
                    file.display()
                ))),
                _ => Ok(()),
            };
        }
        let wants = self.stands_on_interface() || self.name.starts_with("net_tap");
        if wants && !sys::has_capabilities(&[CAP_NET_ADMIN, CAP_NET_RAW]) {
            return Err(OpenError(format!(
                "dpdk:{name}: not permitted: needs CAP_NET_RAW and CAP_NET_ADMIN (run as root, or: setcap \
                 cap_net_raw,cap_net_admin+ep on the program)"
            )));
        }
        Ok(())
    }

    /// A card on the PCI bus.
    pub fn is_pci(&self) -> bool {
        pci_address(&self.name).is_some()
    }

    fn stands_on_interface(&self) -> bool {
        self.name.starts_with("net_af_packet") || self.name.starts_with("net_af_xdp")
    }

    /// Another process can open it when this one has let go of it. An interface that a device makes itself goes with it, and all that was set at it.
    pub fn can_change_hands(&self) -> bool {
        !self.name.starts_with("net_tap")
    }

    /// The kernel's interface that a virtual device stands on; such a one must be there.
    pub fn interface(&self) -> Option<&str> {
        if !self.stands_on_interface() {
            return None;
        }
        self.arguments.as_deref()?.split(',').find_map(|a| a.strip_prefix("iface="))
    }

    /// Says of a card, before DPDK is started, why it cannot be used. `sysfs` is where the kernel shows its devices.
    pub fn check(&self, sysfs: &Path) -> Result<(), OpenError> {
        if !self.is_pci() {
            return Ok(());
        }
        let name = &self.name;
        let device = sysfs.join("bus/pci/devices").join(name);
        if !device.exists() {
            return Err(OpenError(format!("no PCI device {name} (lspci -D shows what there is)")));
        }
        // The first byte of a class of three: 02 are network controllers.
        if std::fs::read_to_string(device.join("class")).is_ok_and(|class| !class.starts_with("0x02")) {
            return Err(OpenError(format!("PCI device {name} is not a network card (lspci -s {name})")));
        }
        let Ok(driver) = device.join("driver").read_link() else {
            return Err(OpenError(format!(
                "PCI device {name} is bound to no driver: modprobe vfio-pci; dpdk-devbind.py --bind=vfio-pci {name}"
            )));
        };
        let driver = driver.file_name().map(|d| d.to_string_lossy().into_owned()).unwrap_or_default();
        if USABLE_DRIVERS.contains(&driver.as_str()) {
            return Ok(());
        }
        Err(OpenError(format!(
            "PCI device {name} is in use by the kernel's driver {driver}: modprobe vfio-pci; dpdk-devbind.py --bind=vfio-pci {name}"
        )))
    }
}

// linux/capability.h
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

/// The full form of a PCI address; none when it is not one.
fn pci_address(text: &str) -> Option<String> {
    let full = if text.len() == 7 { format!("0000:{text}") } else { text.to_string() };
    let is_one = full.len() == 12
        && full.bytes().enumerate().all(|(i, c)| match i {
            4 | 7 => c == b':',
            10 => c == b'.',
            _ => c.is_ascii_hexdigit(),
        });
    is_one.then(|| full.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_and_virtual_devices() {
        let card = DpdkDevice::parse("0000:0A:1f.6").unwrap();
        assert_eq!((card.name.as_str(), card.is_pci(), card.interface()), ("0000:0a:1f.6", true, None));
        assert_eq!(DpdkDevice::parse("03:00.0").unwrap().name, "0000:03:00.0");
        let vdev = DpdkDevice::parse("net_af_packet0;iface=wan;qpairs=2").unwrap();
        assert_eq!((vdev.name.as_str(), vdev.arguments.as_deref()), ("net_af_packet0", Some("iface=wan,qpairs=2")));
        assert_eq!((vdev.is_pci(), vdev.interface()), (false, Some("wan")));
        assert_eq!(DpdkDevice::parse("net_tap0;iface=new").unwrap().interface(), None, "it makes its interface itself");
        assert_eq!(DpdkDevice::parse("net_null0").unwrap().arguments, None);
        assert!(card.can_change_hands() && vdev.can_change_hands());
        assert!(!DpdkDevice::parse("net_tap0;iface=new").unwrap().can_change_hands());
    }

    #[test]
    fn a_virtual_device_is_told_how_many_queues_unless_it_was() {
        let arguments = |text: &str, queues| DpdkDevice::parse(text).unwrap().arguments_for(queues);
        assert_eq!(arguments("net_af_packet0;iface=wan", 2).as_deref(), Some("iface=wan,framecnt=2048,qpairs=2"));
        let told = "net_af_packet0;iface=wan;qpairs=4;framecnt=64";
        assert_eq!(arguments(told, 2).as_deref(), Some("iface=wan,qpairs=4,framecnt=64"));
        assert_eq!(arguments("net_af_xdp0;iface=wan", 1).as_deref(), Some("iface=wan"));
        assert_eq!(arguments("net_af_xdp0;iface=wan", 2).as_deref(), Some("iface=wan,queue_count=2"));
        assert_eq!(arguments("net_null0", 2), None);
    }

    #[test]
    fn what_is_neither_is_refused() {
        for wrong in [
            "",
            "eth0",
            "0000:03:00",
            "net_null0 --no-pci",
            "net_null0;size",
            "net_null0;a=b c",
            "net_null0;",
            "net_af_packet0",
        ] {
            assert!(DpdkDevice::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_card_must_be_there_and_must_have_been_left_to_dpdk() {
        let root = std::env::temp_dir().join(format!("dispatcher-dpdk-{}", std::process::id()));
        let card = DpdkDevice::parse("03:00.0").unwrap();
        assert!(card.check(&root).unwrap_err().0.contains("no PCI device"));
        let device = root.join("bus/pci/devices/0000:03:00.0");
        std::fs::create_dir_all(&device).unwrap();
        assert!(card.check(&root).unwrap_err().0.contains("bound to no driver"));
        std::fs::write(device.join("class"), "0x060000\n").unwrap();
        assert!(card.check(&root).unwrap_err().0.contains("not a network card"));
        std::fs::write(device.join("class"), "0x020000\n").unwrap();
        std::os::unix::fs::symlink("../../drivers/e1000e", device.join("driver")).unwrap();
        assert!(card.check(&root).unwrap_err().0.contains("in use by the kernel's driver e1000e"));
        std::fs::remove_file(device.join("driver")).unwrap();
        std::os::unix::fs::symlink("../../drivers/vfio-pci", device.join("driver")).unwrap();
        assert_eq!(card.check(&root), Ok(()));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
