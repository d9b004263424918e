//! What the kernel has of its own in our network namespace: its addresses, and the sockets that listen.
//!
//! The kernel answers for an address of its own whatever interface a packet comes in by. So one that is also ours is
//! answered twice, and TCP that the kernel knows nothing of is reset.

use super::sys;
use core::time::Duration;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address of the kernel's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelAddress {
    /// The interface that has it.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
}

/// All addresses of the calling thread's network namespace.
pub fn addresses() -> io::Result<Vec<KernelAddress>> {
    sys::interface_addresses()
}

/// Tells of addresses whether the kernel takes packets to them for its own: its addresses, and those of local routes (`ip route add local`),
/// which no interface's list shows. A packet to such an address has it as its source, too; none is sent.
///
/// Asks with one socket for each family, of which there is none before the first question: there may be a thousand addresses.
pub fn takes() -> impl FnMut(IpAddr) -> bool {
    let mut sockets = [None, None];
    move |ip| {
        let socket = match &mut sockets[usize::from(ip.is_ipv6())] {
            Some(socket) => socket,
            none => {
                let domain = if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
                // A machine may have no IPv6.
                let Ok(socket) = Socket::new(domain, Type::DGRAM, None) else { return false };
                none.insert(socket)
            }
        };
        // Any port will do: 9 throws away what comes (RFC 863).
        let source = socket.connect(&SocketAddr::new(ip, 9).into()).and_then(|()| socket.local_addr());
        // Else the source would stay what it is.
        let asked = sys::disconnect(socket);
        asked.is_ok() && source.is_ok_and(|source| source.as_socket().is_some_and(|source| source.ip() == ip))
    }
}

/// Where TCP sockets of the calling thread's network namespace listen; an unspecified address stands for all. What
/// cannot be read is left out.
pub fn listeners() -> Vec<SocketAddr> {
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .iter()
        .flat_map(|file| listening(&std::fs::read_to_string(file).unwrap_or_default()))
        .collect()
}

/// Whether the kernel sends on IPv4 packets that come in by this device and are not its own.
pub fn forwards(device: &str) -> bool {
    let file = format!("/proc/sys/net/ipv4/conf/{device}/forwarding");
    std::fs::read_to_string(file).is_ok_and(|value| value.trim() == "1")
}

/// Whether the link of a device is up, where there is a kernel to say so; false, too, of a device that is gone.
pub fn carrier(device: &str) -> Option<bool> {
    let any = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).ok()?;
    Some(sys::link_is_up(&any, device))
}

/// By CLOCK_MONOTONIC, in which service managers think.
pub fn monotonic() -> Duration {
    sys::monotonic()
}

/// The local addresses of the sockets that listen, of a file of the kernel's (proc(5), "net/tcp").
fn listening(table: &str) -> Vec<SocketAddr> {
    /// `TCP_LISTEN`.
    const LISTEN: &str = "0A";
    let socket = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (local, _remote, state) = (words.next()?, words.next()?, words.next()?);
        let (address, port) = local.split_once(':').filter(|_| state == LISTEN)?;
        Some(SocketAddr::new(address_of(address)?, u16::from_str_radix(port, 16).ok()?))
    };
    table.lines().skip(1).filter_map(socket).collect()
}

/// Words of 32 bits, each printed as a number of this machine's.
fn address_of(digits: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(digits.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match digits.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words: Vec<u8> = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    #[cfg(target_endian = "little")]
    fn sockets_that_listen_are_read_and_no_others() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
            0: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 1 1\n   \
            1: 6400000A:01BB 0700000A:D2F0 01 00000000:00000000 00:00000000 00000000  0 0 2 1\n   \
            2: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000\n   \
            3: 000000FD000000000000000000010000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000\n   \
            4: nonsense 0 0A\n   5: 0100007F\n";
        let expected = ["127.0.0.1:631", "[::]:443", "[fd00::100]:8080"];
        assert_eq!(listening(table), expected.map(|a| a.parse().unwrap()));
    }

    #[test]
    fn a_listener_of_our_own_and_the_loopback_address_are_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // A machine may have no IPv6.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let local = listener.local_addr().unwrap();
            assert!(listeners().contains(&local), "{local}: {:?}", listeners());
            let ours = addresses().unwrap().into_iter().find(|a| a.ip == local.ip()).unwrap();
            assert_eq!((ours.interface.as_str(), ours.prefix), ("lo", if local.is_ipv4() { 8 } else { 128 }));
        }
    }

    #[test]
    fn the_loopback_address_is_taken_and_nobody_elses_is_whoever_was_asked_of_before() {
        let mut takes = takes();
        for _ in 0..2 {
            assert!(!takes([192, 0, 2, 1].into()) && !takes("2001:db8::1".parse().unwrap()));
            assert!(takes([127, 0, 0, 1].into()));
        }
    }
}
