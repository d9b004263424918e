//! Hears of the link of an interface of the kernel's: netlink tells.

use super::sys;
use std::io;
use std::os::fd::OwnedFd;

/// Hears of a device's link.
pub(super) struct LinkWatch {
    fd: OwnedFd,
    device: u32,
    up: bool,
    gone: bool,
}

impl LinkWatch {
    /// Of the device with this name and number.
    pub(super) fn new(name: &str, index: u32) -> io::Result<LinkWatch> {
        let fd = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_NONBLOCK, libc::NETLINK_ROUTE)?;
        sys::bind_netlink(&fd, libc::RTMGRP_LINK as u32)?;
        let up = sys::link_is_up(&sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?, name);
        Ok(LinkWatch { fd, device: index, up, gone: false })
    }

    /// How often the link went down since the last time.
    pub(super) fn downs(&mut self) -> u64 {
        let mut downs = 0;
        let mut buffer = [0u8; 8192];
        // Messages that found no room in the socket are lost; the next one tells the state again.
        while let Ok(len @ 1..) = sys::receive_now(&self.fd, &mut buffer) {
            downs += self.read(&buffer[..len]);
        }
        downs
    }

    fn read(&mut self, messages: &[u8]) -> u64 {
        let (mut downs, mut rest) = (0, messages);
        // struct nlmsghdr: length, type, ...; struct ifinfomsg: family, ..., index at 4, flags at 8.
        while let Some(header) = rest.first_chunk::<32>() {
            let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let (len, kind) = (word(0) as usize, u16::from_ne_bytes([header[4], header[5]]));
            // A bridge's port is told of in another family: it leaves the bridge, and not the system.
            let of_the_device = word(20) == self.device && header[16] == libc::AF_UNSPEC as u8;
            if of_the_device && matches!(kind, libc::RTM_NEWLINK | libc::RTM_DELLINK) {
                let running = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
                let up = kind == libc::RTM_NEWLINK && word(24) & running == running;
                downs += u64::from(self.up && !up);
                self.up = up;
                self.gone |= kind == libc::RTM_DELLINK;
            }
            rest = rest.get(len.next_multiple_of(4).max(16)..).unwrap_or_default();
        }
        downs
    }

    /// As it was when last asked for [`LinkWatch::downs`].
    #[cfg(feature = "dpdk")]
    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// The device has been removed: its number is not given to another soon, its name may be.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, family: u8, index: u32, flags: i32) -> Vec<u8> {
        let mut m = vec![0u8; 36];
        m[..4].copy_from_slice(&36u32.to_ne_bytes());
        m[4..6].copy_from_slice(&kind.to_ne_bytes());
        m[16] = family;
        m[20..24].copy_from_slice(&index.to_ne_bytes());
        m[24..28].copy_from_slice(&(flags as u32).to_ne_bytes());
        m
    }

    #[test]
    fn downs_are_counted_once_and_only_of_the_device_itself() {
        let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).unwrap();
        let mut watch = LinkWatch { fd, device: 7, up: true, gone: false };
        let (up, none) = (libc::IFF_UP | libc::IFF_RUNNING, libc::AF_UNSPEC as u8);
        let (new, del) = (libc::RTM_NEWLINK, libc::RTM_DELLINK);
        let mut told = message(new, none, 8, 0);
        told.extend(message(new, none, 7, libc::IFF_UP));
        told.extend(message(new, none, 7, 0));
        assert_eq!((watch.read(&told), watch.gone), (1, false));
        told = message(new, none, 7, up);
        told.extend(message(del, libc::AF_BRIDGE as u8, 7, 0));
        assert_eq!((watch.read(&told), watch.gone), (0, false));
        assert_eq!((watch.read(&message(del, none, 7, 0)), watch.gone), (1, true));
        for cut in 0..36 {
            watch.read(&message(new, none, 7, up)[..cut]);
        }
    }
}
