//! The door to the kernel: every system call of `io/` and `worker/` that the standard library does not offer.

use super::OpenError;
use super::kernel::KernelAddress;
use crate::wire::Mac;
use core::mem::{size_of, zeroed};
use core::ops::Range;
use core::ptr::{self, NonNull};
use core::time::Duration;
use libc::{c_int, c_void};
use std::ffi::CStr;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

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
    /// The kernel merges received segments into larger ones (GRO or LRO), which can be forwarded as large units only.
    pub merges: bool,
    /// The card takes VLAN tags off received frames.
    pub strips_vlan: bool,
    /// Receive queues; 1 where the driver does not say.
    pub queues: u16,
}

/// CLOCK_MONOTONIC (clock_gettime(2)).
pub(super) fn monotonic() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes the struct, which lives as long as the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
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
    let flags = ethtool(&fd, name, ETHTOOL_GFLAGS);
    let merges = ethtool(&fd, name, ETHTOOL_GGRO) != 0 || flags & ETH_FLAG_LRO != 0;
    Ok(DeviceInfo {
        index: index as u32,
        mac,
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        up,
        merges,
        strips_vlan: flags & ETH_FLAG_RXVLAN != 0,
        queues: receive_queues(&fd, name),
    })
}

/// All addresses of the calling thread's network namespace.
pub(super) fn interface_addresses() -> io::Result<Vec<KernelAddress>> {
    let mut first = ptr::null_mut();
    // SAFETY: the list's beginning is written to `first`.
    if unsafe { libc::getifaddrs(&raw mut first) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let (mut found, mut next) = (Vec::new(), first);
    while !next.is_null() {
        // SAFETY: a node of the list, which is freed behind the loop.
        let node = unsafe { &*next };
        // SAFETY: an address of the list's, or null.
        let (ip, mask) = unsafe { (address_in(node.ifa_addr), address_in(node.ifa_netmask)) };
        if let Some(ip) = ip {
            // SAFETY: the list's names end with a zero.
            let name = unsafe { CStr::from_ptr(node.ifa_name) }.to_string_lossy();
            // An address may have a label of its own behind a colon.
            let interface = name.split(':').next().unwrap_or_default().to_string();
            let prefix = match mask {
                Some(IpAddr::V4(mask)) => mask.to_bits().count_ones(),
                Some(IpAddr::V6(mask)) => mask.to_bits().count_ones(),
                None if ip.is_ipv4() => 32,
                None => 128,
            };
            found.push(KernelAddress { interface, ip, prefix: prefix as u8 });
        }
        next = node.ifa_next;
    }
    // SAFETY: from `getifaddrs`, and used no more.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

/// Least memory that large pages are asked for: what the processor's second-level TLB covers with small ones.
const WORTH_LARGE_PAGES: usize = 4 << 20;

/// Asks the kernel to back this memory with large pages (`MADV_HUGEPAGE`), best before it is touched: a table that is looked at at random costs a walk of
/// the page tables with every look otherwise. Where it does not, nothing is lost but that.
pub fn ask_for_large_pages(memory: &Range<*const u8>) {
    // SAFETY: reads a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let (start, end) = ((memory.start as usize).next_multiple_of(page), memory.end as usize / page * page);
    if end.saturating_sub(start) >= WORTH_LARGE_PAGES {
        // SAFETY: advice about how pages are backed: whatever the range, what is in them stays as it is, and what is not mapped is refused.
        unsafe { libc::madvise(start as *mut _, end - start, libc::MADV_HUGEPAGE) };
    }
}

/// Has the system give all of this memory now, which otherwise it does page by page when it is first written (`MADV_POPULATE_WRITE`, Linux 5.14).
pub fn populate(memory: &Range<*const u8>) {
    // SAFETY: reads a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let (start, end) = ((memory.start as usize).next_multiple_of(page), memory.end as usize / page * page);
    if end > start {
        // SAFETY: what is in the pages stays as it is, and what is not mapped is refused; so does a kernel that does not know it.
        unsafe { libc::madvise(start as *mut _, end - start, libc::MADV_POPULATE_WRITE) };
    }
}

/// The same for memory that has been written already: what it holds is moved into large pages now (`MADV_COLLAPSE`, Linux 6.1), instead of when
/// the kernel comes by, which may take hours.
pub fn move_into_large_pages(memory: &Range<*const u8>) {
    const LARGE_PAGE: usize = 2 << 20;
    ask_for_large_pages(memory);
    let (start, end) =
        ((memory.start as usize).next_multiple_of(LARGE_PAGE), memory.end as usize / LARGE_PAGE * LARGE_PAGE);
    if end.saturating_sub(start) >= WORTH_LARGE_PAGES {
        // SAFETY: as above; a kernel that does not know it refuses.
        unsafe { libc::madvise(start as *mut _, end - start, libc::MADV_COLLAPSE) };
    }
}

/// A datagram socket belongs to nobody any more, nor has it a source (connect(2), "AF_UNSPEC").
pub(super) fn disconnect(socket: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: a socket address is plain numbers.
    let mut nobody: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    nobody.sin6_family = libc::AF_UNSPEC as libc::sa_family_t;
    let len = size_of_val(&nobody) as libc::socklen_t;
    // SAFETY: an address of so many bytes, which is read during the call only.
    match unsafe { libc::connect(socket.as_raw_fd(), (&raw const nobody).cast(), len) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The IP address in a socket address; none of another family.
///
/// # Safety
/// Null, or an address of the length that its family has.
unsafe fn address_in(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: not null, and each family is read as what it is.
    unsafe {
        match i32::from((*address).sa_family) {
            libc::AF_INET => {
                let v4 = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some(IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes()))
            }
            libc::AF_INET6 => {
                let v6 = address.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(IpAddr::from(v6.sin6_addr.s6_addr))
            }
            _ => None,
        }
    }
}

/// How many receive queues a device has now; 1 when its driver does not say.
fn receive_queues(fd: &OwnedFd, name: &str) -> u16 {
    /// `struct ethtool_channels`.
    #[repr(C)]
    #[derive(Default)]
    struct Channels {
        command: u32,
        max_rx: u32,
        max_tx: u32,
        max_other: u32,
        max_combined: u32,
        rx: u32,
        tx: u32,
        other: u32,
        combined: u32,
    }
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    let mut request = ifreq(name);
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    // The kernel writes an ethtool_channels, which is what `Channels` is, and `channels` outlives the call.
    match ioctl(fd, SIOCETHTOOL, &mut request) {
        Ok(()) => u16::try_from(channels.rx + channels.combined).unwrap_or(u16::MAX).max(1),
        Err(_) => 1,
    }
}

/// Whether frames can leave by a device now: it is up, and its cable plugged in.
pub(super) fn link_is_up(fd: &OwnedFd, name: &str) -> bool {
    let mut request = ifreq(name);
    if ioctl(fd, libc::SIOCGIFFLAGS as _, &mut request).is_err() {
        return false;
    }
    // SAFETY: the call has written this member of the union.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    // The driver knows at once, the flag follows a little later.
    let carrier = ask_ethtool(fd, name, ETHTOOL_GLINK).unwrap_or((flags & libc::IFF_RUNNING) as u32);
    flags & libc::IFF_UP != 0 && carrier != 0
}

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GLINK: u32 = 0x0a;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_FLAG_LRO: u32 = 1 << 15;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// One of ethtool's questions that are answered by a number; 0 when the driver has no answer.
fn ethtool(fd: &OwnedFd, name: &str, command: u32) -> u32 {
    ask_ethtool(fd, name, command).unwrap_or(0)
}

fn ask_ethtool(fd: &OwnedFd, name: &str, command: u32) -> io::Result<u32> {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let mut value = Value { command, data: 0 };
    let mut request = ifreq(name);
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // The kernel writes an ethtool_value, which is what `Value` is, and `value` outlives the call.
    ioctl(fd, SIOCETHTOOL, &mut request).map(|()| value.data)
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

/// Makes a descriptor's number mean what another means; what it meant is closed.
pub(super) fn replace(old: &OwnedFd, new: &OwnedFd) -> io::Result<()> {
    // SAFETY: no pointers; both are open, and `old` goes on being the only owner of its number.
    match unsafe { libc::dup3(new.as_raw_fd(), old.as_raw_fd(), libc::O_CLOEXEC) } {
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
unsafe impl OptionValue for libc::tpacket_req {}
// SAFETY: as above.
unsafe impl OptionValue for libc::packet_mreq {}
// SAFETY: as above.
unsafe impl OptionValue for libc::tpacket_stats {}
// SAFETY: as above.
unsafe impl OptionValue for libc::xdp_umem_reg {}
// SAFETY: as above.
unsafe impl OptionValue for libc::xdp_mmap_offsets {}
// SAFETY: as above.
unsafe impl OptionValue for libc::xdp_statistics {}
// SAFETY: as above.
unsafe impl OptionValue for libc::xdp_options {}

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
    bind_packet_to(fd, index, libc::ETH_P_ALL as u16)
}

/// Lets a socket hear only what this program returns a length for.
pub(super) fn attach_filter(fd: &OwnedFd, program: &[libc::sock_filter]) -> io::Result<()> {
    // The kernel reads the instructions, and writes none.
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: pointer and length describe `filter`, and what that points to outlives the call.
    let r = unsafe {
        let value = (&raw const filter).cast::<c_void>();
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            value,
            size_of::<libc::sock_fprog>() as u32,
        )
    };
    if r == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Binds a packet socket to one device and one protocol (an Ethernet type).
pub(super) fn bind_packet_to(fd: &OwnedFd, index: u32, protocol: u16) -> io::Result<()> {
    // SAFETY: all zeros is a sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index as c_int;
    // SAFETY: pointer and length describe `address`.
    let r = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32) };
    if r == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Binds an AF_XDP socket to one queue of a device. `shared` is the socket whose UMEM it is to use.
pub(super) fn bind_xdp(fd: &OwnedFd, index: u32, queue: u32, flags: u16, shared: Option<&OwnedFd>) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags | if shared.is_some() { libc::XDP_SHARED_UMEM } else { 0 },
        sxdp_ifindex: index,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    // SAFETY: pointer and length describe `address`.
    let r = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_xdp>() as u32) };
    if r == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Binds a netlink socket to the groups whose messages it is to hear.
pub(super) fn bind_netlink(fd: &OwnedFd, groups: u32) -> io::Result<()> {
    // SAFETY: all zeros is a sockaddr_nl.
    let mut address: libc::sockaddr_nl = unsafe { zeroed() };
    address.nl_family = libc::AF_NETLINK as u16;
    address.nl_groups = groups;
    // SAFETY: pointer and length describe `address`.
    let r = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_nl>() as u32) };
    if r == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A message of a socket's, if one waits.
pub(super) fn receive_now(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length describe `buffer`.
    match unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) } {
        -1 => Err(io::Error::last_os_error()),
        n => Ok(n as usize),
    }
}

/// Tells an AF_XDP socket to look at its transmit ring.
pub(super) fn kick_transmit(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: a null buffer of no bytes and no address are read by nobody.
    match unsafe { libc::sendto(fd.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Tells an AF_XDP socket to look at its fill ring.
pub(super) fn kick_receive(fd: &OwnedFd) {
    // Its errors say that the link is down, which is noticed elsewhere.
    // SAFETY: a null buffer of no bytes and no address are written by nobody.
    let _ = unsafe {
        libc::recvfrom(fd.as_raw_fd(), ptr::null_mut(), 0, libc::MSG_DONTWAIT, ptr::null_mut(), ptr::null_mut())
    };
}

/// A descriptor that is readable when one of `fds` is.
pub(super) fn readable_together(fds: &[&OwnedFd]) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let epoll = match unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } {
        -1 => return Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        fd => unsafe { OwnedFd::from_raw_fd(fd) },
    };
    for fd in fds {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: the event outlives the call.
        if unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(epoll)
}

/// Lets the process pin as much memory as it likes. Only a privileged process may; others keep their limit.
pub(super) fn lift_memlock_limit() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` outlives the call. What it fails to allow is noticed when memory is pinned.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}

/// Memory shared with the kernel, unmapped when this is dropped.
pub(super) struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes of what `fd` offers at its beginning.
    pub(super) fn new(fd: &OwnedFd, len: usize) -> io::Result<Mapping> {
        Mapping::of(fd.as_raw_fd(), 0, len, libc::MAP_SHARED)
    }

    /// Maps `len` bytes of what `fd` offers at `offset`.
    pub(super) fn at(fd: &OwnedFd, offset: libc::off_t, len: usize) -> io::Result<Mapping> {
        Mapping::of(fd.as_raw_fd(), offset, len, libc::MAP_SHARED)
    }

    fn of(fd: RawFd, offset: libc::off_t, len: usize, flags: c_int) -> io::Result<Mapping> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, flags | libc::MAP_POPULATE);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let at = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, fd, offset) };
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

/// A file that is memory, and has no name.
pub(super) fn memory_file() -> io::Result<OwnedFd> {
    // SAFETY: a string that ends with a zero.
    match unsafe { libc::memfd_create(c"dispatcher".as_ptr(), libc::MFD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// Has the system give memory for so many bytes of such a file now. Where it does not, it does as they are written, or says then that it cannot.
pub(super) fn reserve(file: &OwnedFd, bytes: usize) {
    let bytes = libc::off_t::try_from(bytes).unwrap_or(libc::off_t::MAX);
    // SAFETY: no pointers.
    unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) };
}

/// A file has so many bytes from now on.
pub(super) fn set_length(file: &OwnedFd, bytes: u64) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: no pointers.
    match unsafe { libc::ftruncate(file.as_raw_fd(), bytes) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Room for the control data of so many descriptors, in words, which align it.
const CONTROL: usize = (size_of::<libc::cmsghdr>() + super::pass::MOST * size_of::<RawFd>()).div_ceil(8) + 2;

/// Sends bytes, at least one, and descriptors beside the first: how many bytes went.
pub(super) fn send_with_files(socket: &impl AsRawFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    assert!(fds.len() <= super::pass::MOST && !bytes.is_empty());
    let mut control = [0u64; CONTROL];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is a message without anything.
    let mut message: libc::msghdr = unsafe { zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    if !fds.is_empty() {
        let len = size_of_val(fds) as u32;
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: arithmetic only. The control data has room for a header and as many descriptors (`CONTROL`), is zeroed and aligned.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(len) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(len) as _;
            ptr::copy_nonoverlapping(fds.as_ptr(), libc::CMSG_DATA(header).cast::<RawFd>(), fds.len());
        }
    }
    loop {
        // SAFETY: the message describes bytes and control data that outlive the call, which only reads them.
        match unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(io::Error::last_os_error()),
            n => return Ok(n as usize),
        }
    }
}

/// Receives bytes, and the descriptors that came beside them: how many bytes.
pub(super) fn receive_with_files(
    socket: &impl AsRawFd,
    bytes: &mut [u8],
    files: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut control = [0u64; CONTROL];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is a message without anything.
    let mut message: libc::msghdr = unsafe { zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let got = loop {
        // SAFETY: bytes and control data of these lengths, both ours until after the call.
        match unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(io::Error::last_os_error()),
            n => break n as usize,
        }
    };
    // SAFETY: headers as the kernel has just written them into the control data, each within it; of a header of descriptors, those that its length says,
    // each of which is ours from now on.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for n in 0..bytes / size_of::<RawFd>() {
                    files.push(OwnedFd::from_raw_fd(data.add(n).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(got)
}

/// Whether the calling thread has these capabilities. What cannot be told is taken for a yes: the attempt will show.
#[cfg(feature = "dpdk")]
pub(super) fn has_capabilities(numbers: &[u32]) -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(mask) = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()) else { return true };
    numbers.iter().all(|number| mask >> number & 1 == 1)
}

/// Whether a file is there that the process may read and write. It is not opened: some have one user at a time.
#[cfg(feature = "dpdk")]
pub(super) fn can_read_and_write(file: &std::path::Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(file.as_os_str().as_bytes())?;
    // SAFETY: a string that ends with a zero.
    match unsafe { libc::access(path.as_ptr(), libc::R_OK | libc::W_OK) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
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

/// Whether a thread of this process can be bound to this core. It may be one that no thread is on until then (`isolcpus`).
pub fn can_bind_to(core: usize) -> bool {
    // Tried by one that ends with the question.
    std::thread::spawn(move || pin_to_core(core).is_ok()).join().unwrap_or(false)
}

/// While it lives, the calling thread goes before all that have no such right (`SCHED_RR`), where that is allowed (CAP_SYS_NICE): for moments in which nobody serves.
#[derive(Debug)]
pub struct Urgency(());

impl Urgency {
    /// From now on.
    pub fn begin() -> Urgency {
        schedule(libc::SCHED_RR, 1);
        Urgency(())
    }

    /// The same of another thread, until one that it has begun itself is over: who is to hear of something at once must not have to wait for its turn first.
    pub fn begin_for<T>(thread: &JoinHandle<T>) {
        // SAFETY: the thread has not been joined, so its number is its own; the parameters outlive the call, which only reads them.
        unsafe {
            let mut parameters: libc::sched_param = zeroed();
            parameters.sched_priority = 1;
            libc::pthread_setschedparam(thread.as_pthread_t(), libc::SCHED_RR, &raw const parameters);
        }
    }
}

impl Drop for Urgency {
    fn drop(&mut self) {
        schedule(libc::SCHED_OTHER, 0);
    }
}

/// The calling thread goes behind all others from now on, for good: what it still has to do nobody waits for.
pub fn go_behind_others() {
    // SAFETY: of numbers only. Of a thread's own number (0) it is the thread, not the process.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}

/// What is not allowed is not done.
fn schedule(policy: c_int, priority: c_int) {
    // SAFETY: all zeros is a sched_param, and it outlives the call, which only reads it.
    unsafe {
        let mut parameters: libc::sched_param = zeroed();
        parameters.sched_priority = priority;
        libc::sched_setscheduler(0, policy, &raw const parameters);
    }
}

/// Has another process end at once. For a number that is surely that process's still.
pub fn end_process(pid: i32) {
    // 0, 1 and negative ones are groups, or everybody's parent.
    if pid > 1 {
        // SAFETY: numbers only.
        unsafe { libc::kill(pid, libc::SIGKILL) };
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

/// Waits for one descriptor: whether it has something to say.
pub(super) fn poll_one(fd: &mut libc::pollfd, patience: Duration) -> io::Result<bool> {
    let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one pollfd is there.
    match unsafe { libc::poll(fd, 1, millis) } {
        -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => Ok(false),
        -1 => Err(io::Error::last_os_error()),
        n => Ok(n > 0),
    }
}

/// Sleeps until one of `fds` is readable or `limit` is over. True when one of them has an error to tell. Never more
/// than 34 descriptors are looked at: two of each of 16 ports, and two doorbells.
pub fn wait_readable(fds: &[RawFd], limit: Duration) -> bool {
    let mut polls = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; 34];
    let n = fds.len().min(polls.len());
    for (poll, fd) in polls.iter_mut().zip(fds) {
        poll.fd = *fd;
    }
    let limit = libc::timespec { tv_sec: limit.as_secs() as _, tv_nsec: limit.subsec_nanos() as _ };
    // SAFETY: `n` pollfds are there; the timespec outlives the call; no signal mask.
    let r = unsafe { libc::ppoll(polls.as_mut_ptr(), n as libc::nfds_t, &limit, ptr::null()) };
    r > 0 && polls[..n].iter().any(|p| p.revents & (libc::POLLERR | libc::POLLHUP) != 0)
}
