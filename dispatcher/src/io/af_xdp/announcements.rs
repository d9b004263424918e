//! What neighbours tell all, and the kernel as well: that an address is at another Ethernet address now (a failover), or theirs.
//!
//! The XDP program leaves it to the kernel, which has neighbours of its own and would else miss their failovers; XDP can give
//! a frame to one only. So a copy is taken behind it, by packet sockets that hear nothing else: ARP announcements and answers (an answer
//! to our question whether an address is taken goes to nobody's address), and neighbour advertisements to a group. They are
//! looked at as often as the device is asked for its counts, every 100 ms: no frame pays for it.

use crate::io::sys;
use crate::io::xdp_program::Entries;
use arrayvec::ArrayVec;
use std::io;
use std::os::fd::OwnedFd;

/// Most frames taken from a socket at a time: somebody who tells a lot shall not keep us from our work.
const MOST: usize = 32;

/// Bytes of frames that wait. What comes beyond is lost: it will be told again, or asked for.
const WAITING: i32 = 64 << 10;

/// One instruction of a socket's filter (`linux/filter.h`).
const fn op(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const TO_X: u16 = 0x07;
const IF_EQUAL: u16 = 0x15;
const IF_EQUAL_TO_X: u16 = 0x1d;
const RETURN: u16 = 0x06;
const ALL: u32 = u32::MAX;

/// An answer, or sender and target are one.
const ARP: [libc::sock_filter; 8] = [
    op(LOAD_HALF, 0, 0, 14 + 6),
    op(IF_EQUAL, 5, 0, 2),
    op(LOAD_WORD, 0, 0, 14 + 14),
    op(TO_X, 0, 0, 0),
    op(LOAD_WORD, 0, 0, 14 + 24),
    op(IF_EQUAL_TO_X, 1, 0, 0),
    op(RETURN, 0, 0, 0),
    op(RETURN, 0, 0, ALL),
];

/// An advertisement (ICMPv6, type 136) to a group.
const NDP: [libc::sock_filter; 8] = [
    op(LOAD_BYTE, 0, 0, 14 + 6),
    op(IF_EQUAL, 0, 4, 58),
    op(LOAD_BYTE, 0, 0, 14 + 24),
    op(IF_EQUAL, 0, 2, 0xff),
    op(LOAD_BYTE, 0, 0, 14 + 40),
    op(IF_EQUAL, 1, 0, 136),
    op(RETURN, 0, 0, 0),
    op(RETURN, 0, 0, ALL),
];

/// The sockets of one device.
#[derive(Debug)]
pub(super) struct Announcements {
    families: Families,
    sockets: ArrayVec<OwnedFd, 2>,
}

impl Announcements {
    /// Of the device with this number, for these families.
    pub(super) fn open(index: u32, families: Families) -> io::Result<Announcements> {
        let mut sockets = ArrayVec::new();
        if families.v4 {
            sockets.push(socket(index, libc::ETH_P_ARP, &ARP)?);
        }
        if families.v6 {
            let fd = socket(index, libc::ETH_P_IPV6, &NDP)?;
            sys::set_option(&fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, all_nodes(index))?;
            sockets.push(fd);
        }
        Ok(Announcements { families, sockets })
    }

    /// Those that are listened to.
    pub(super) fn families(&self) -> Families {
        self.families
    }

    /// What was told since the last time. VLAN tags are gone.
    pub(super) fn take(&self, mut each: impl FnMut(&[u8])) {
        let mut buffer = [0; 512];
        for fd in &self.sockets {
            for _ in 0..MOST {
                match sys::receive_now(fd, &mut buffer) {
                    Ok(len @ 1..) => each(&buffer[..len]),
                    _ => break,
                }
            }
        }
    }
}

/// Families that there are addresses of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    pub(super) fn of(entries: &Entries) -> Families {
        Families { v4: entries.has_v4(), v6: entries.v6().next().is_some() }
    }
}

/// It hears what fits only, from the beginning.
fn socket(index: u32, protocol: i32, filter: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)?;
    sys::attach_filter(&fd, filter)?;
    sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, WAITING)?;
    sys::bind_packet_to(&fd, index, protocol as u16)?;
    Ok(fd)
}

/// The group of all nodes, which a kernel without IPv6 has not joined.
fn all_nodes(index: u32) -> libc::packet_mreq {
    libc::packet_mreq {
        mr_ifindex: index as i32,
        mr_type: libc::PACKET_MR_MULTICAST as u16,
        mr_alen: 6,
        mr_address: [0x33, 0x33, 0, 0, 0, 1, 0, 0],
    }
}
