//! Hears of the link of an interface of the kernel's: netlink tells.

use super::sys;
use std::io;
use std::os::fd::OwnedFd;

/// Hears of a device's link.
pub(super) struct LinkWatch {
    fd: OwnedFd,
    device: u32,
    up: bool,
}

impl LinkWatch {
    /// Of the device with this name and number.
    pub(super) fn new(name: &str, index: u32) -> io::Result<LinkWatch> {
        let fd = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_NONBLOCK, libc::NETLINK_ROUTE)?;
        sys::bind_netlink(&fd, libc::RTMGRP_LINK as u32)?;
        let up = sys::link_is_up(&sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?, name);
        Ok(LinkWatch { fd, device: index, up })
    }

    /// How often the link went down since the last time.
    pub(super) fn downs(&mut self) -> u64 {
        let mut downs = 0;
        let mut buffer = [0u8; 8192];
        // Messages that found no room in the socket are lost; the next one tells the state again.
        while let Ok(len @ 1..) = sys::receive_now(&self.fd, &mut buffer) {
            let mut rest = &buffer[..len];
            // struct nlmsghdr: length, type, ...; struct ifinfomsg: ..., index at 4, flags at 8.
            while let Some(header) = rest.first_chunk::<32>() {
                let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
                let (len, kind) = (word(0) as usize, u16::from_ne_bytes([header[4], header[5]]));
                if word(20) == self.device && matches!(kind, libc::RTM_NEWLINK | libc::RTM_DELLINK) {
                    let running = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
                    let up = kind == libc::RTM_NEWLINK && word(24) & running == running;
                    downs += u64::from(self.up && !up);
                    self.up = up;
                }
                rest = rest.get(len.next_multiple_of(4).max(16)..).unwrap_or_default();
            }
        }
        downs
    }
}
