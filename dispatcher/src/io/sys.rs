//! The door to the kernel: every system call of `io/` and `worker/` that the standard library does not offer.

use super::OpenError;
use crate::wire::Mac;
use core::mem::{size_of, zeroed};
use core::ptr::{self, NonNull};
use core::time::Duration;
use libc::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What the kernel says of a network device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceInfo {
    /// Its number in this network namespace.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Administratively up.
    pub up: bool,
    /// The kernel merges received segments into larger ones (GRO or LRO), which cannot be forwarded.
    pub merges: bool,
}

/// Asks the kernel about a device.
pub fn device_info(name: &str) -> Result<DeviceInfo, OpenError> {
    let unknown = |e: io::Error| match e.raw_os_error() {
        Some(libc::ENODEV) => OpenError(format!("no network device named '{name}'")),
        _ => OpenError(format!("network device '{name}': {e}")),
    };
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('/') {
        return Err(OpenError(format!("no network device named '{name}'")));
    }
    let fd = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(unknown)?;
    let mut request = ifreq(name);
    ioctl(&fd, libc::SIOCGIFINDEX as _, &mut request).map_err(unknown)?;
    // SAFETY: the call before has written this member of the union.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    ioctl(&fd, libc::SIOCGIFHWADDR as _, &mut request).map_err(unknown)?;
    // SAFETY: as above.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    if address.sa_family != libc::ARPHRD_ETHER {
        return Err(OpenError(format!("network device '{name}' is not Ethernet")));
    }
    let mac = Mac(core::array::from_fn(|i| address.sa_data[i] as u8));
    ioctl(&fd, libc::SIOCGIFMTU as _, &mut request).map_err(unknown)?;
    // SAFETY: as above.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    ioctl(&fd, libc::SIOCGIFFLAGS as _, &mut request).map_err(unknown)?;
    // SAFETY: as above.
    let up = i32::from(unsafe { request.ifr_ifru.ifru_flags }) & libc::IFF_UP != 0;
    let merges = ethtool(&fd, name, ETHTOOL_GGRO) != 0 || ethtool(&fd, name, ETHTOOL_GFLAGS) & ETH_FLAG_LRO != 0;
    Ok(DeviceInfo { index: index as u32, mac, mtu: u16::try_from(mtu).unwrap_or(u16::MAX), up, merges })
}

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// One of ethtool's questions that are answered by a number; 0 when the driver has no answer.
fn ethtool(fd: &OwnedFd, name: &str, command: u32) -> u32 {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let mut value = Value { command, data: 0 };
    let mut request = ifreq(name);
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // The kernel writes an ethtool_value, which is what `Value` is, and `value` outlives the call.
    match ioctl(fd, SIOCETHTOOL, &mut request) {
        Ok(()) => value.data,
        Err(_) => 0,
    }
}

fn ifreq(name: &str) -> libc::ifreq {
    // SAFETY: all zeros is an ifreq: integers, arrays of them, and pointers.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request
}

fn ioctl(fd: &OwnedFd, command: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the commands used in this file read and write an ifreq, and what its pointer (if any) points to, which
    // the caller keeps alive.
    match unsafe { libc::ioctl(fd.as_raw_fd(), command as _, request as *mut libc::ifreq) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A socket, closed on exec.
pub(super) fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    match unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// Plain old data that the kernel reads as an option's value.
///
/// # Safety
/// Any bytes are a value of the type, and it has no padding that the kernel would take offence at.
pub(super) unsafe trait OptionValue: Copy {}
// SAFETY: integers, and structs of integers as the kernel declares them.
unsafe impl OptionValue for c_int {}
// SAFETY: as above.
unsafe impl OptionValue for libc::tpacket_req3 {}
// SAFETY: as above.
unsafe impl OptionValue for libc::packet_mreq {}
// SAFETY: as above.
unsafe impl OptionValue for libc::tpacket_stats_v3 {}

pub(super) fn set_option<T: OptionValue>(fd: &OwnedFd, level: c_int, name: c_int, value: T) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`.
    let r = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast::<c_void>(), size_of::<T>() as u32)
    };
    if r == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(super) fn get_option<T: OptionValue>(fd: &OwnedFd, level: c_int, name: c_int) -> io::Result<T> {
    let mut len = size_of::<T>() as u32;
    // SAFETY: `OptionValue`: any bytes are a value, zeros too.
    let mut value: T = unsafe { zeroed() };
    // SAFETY: pointer and length describe `value`, and the kernel writes no more than `len`.
    let r = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast::<c_void>(), &raw mut len) };
    if r == -1 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Binds a packet socket to one device, all protocols.
pub(super) fn bind_packet(fd: &OwnedFd, index: u32) -> io::Result<()> {
    // SAFETY: all zeros is a sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as c_int;
    // SAFETY: pointer and length describe `address`.
    let r = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32) };
    if r == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Memory shared with the kernel, unmapped when this is dropped.
pub(super) struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes of what `fd` offers at its beginning.
    pub(super) fn new(fd: &OwnedFd, len: usize) -> io::Result<Mapping> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let at = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, fd.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { at, len })
    }

    /// Where it begins; valid for [`Mapping::len`] bytes while `self` lives.
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, unmapped only here. Whoever kept a pointer borrowed `self`.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// The cores that the calling thread may run on, in order.
pub fn allowed_cores() -> Vec<usize> {
    // SAFETY: all zeros is an empty cpu_set_t; pointer and length describe it; only cores below its size are asked for.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) == -1 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE as usize).filter(|core| libc::CPU_ISSET(*core, &set)).collect()
    }
}

/// Binds the calling thread to one core.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: all zeros is an empty cpu_set_t; the core is below its size; pointer and length describe it.
    let r = unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if r == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sleeps until one of `fds` is readable or `limit` is over. True when one of them has an error to tell. Never more
/// than 16 descriptors are looked at.
pub fn wait_readable(fds: &[RawFd], limit: Duration) -> bool {
    let mut polls = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; 16];
    let n = fds.len().min(polls.len());
    for (poll, fd) in polls.iter_mut().zip(fds) {
        poll.fd = *fd;
    }
    let limit = libc::timespec { tv_sec: limit.as_secs() as _, tv_nsec: limit.subsec_nanos() as _ };
    // SAFETY: `n` pollfds are there; the timespec outlives the call; no signal mask.
    let r = unsafe { libc::ppoll(polls.as_mut_ptr(), n as libc::nfds_t, &limit, ptr::null()) };
    r > 0 && polls[..n].iter().any(|p| p.revents & (libc::POLLERR | libc::POLLHUP) != 0)
}
