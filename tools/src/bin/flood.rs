//! A flood for the lab: frames from invented addresses, as fast as asked, on one end of a virtual Ethernet pair.
//!
//! For `scripts/live` only. It refuses any interface that is not a veth, and any target outside private address
//! space; the sources are those set aside for measurements (198.18.0.0/15, RFC 2544).

use anyhow::{Context, bail, ensure};
use clap::Parser;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Sends frames from invented addresses into a virtual Ethernet pair.
#[derive(Parser)]
struct Args {
    /// What the frames are.
    #[arg(long, value_enum, default_value_t = Kind::Syn)]
    kind: Kind,
    /// One end of a veth pair.
    #[arg(long)]
    interface: String,
    /// Ethernet address of whom they are for.
    #[arg(long, value_parser = mac)]
    to: [u8; 6],
    /// Address and port that they ask for.
    #[arg(long)]
    target: SocketAddrV4,
    /// How many; at most a hundred million.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    count: u64,
    /// At most so many a second.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: u64,
}

/// Kinds of frames, all of one length.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Requests for a connection, as a usual client sends them.
    Syn,
    /// Acknowledgements of SYN-ACKs that nobody sent: guesses at a cookie.
    Ack,
    /// Resets of connections that nobody has.
    Rst,
    /// First fragments of packets whose rest never comes.
    Fragment,
}

/// Ethernet, IPv4, TCP with the options of a usual client: MSS, SACK, timestamps, window scale.
const FRAME: usize = 14 + 20 + 20 + OPTIONS.len();
const OPTIONS: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
/// Frames a system call.
const BATCH: usize = 64;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.target.ip().is_private(), "{}: only private addresses", args.target);
    // SAFETY: plain system calls; the descriptor is new and ours.
    let fd = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        ensure!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    let (index, own) = veth(&fd, &args.interface)?;
    // SAFETY: all zeroes are a value of it.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index;
    // SAFETY: the address is of the length told.
    let bound =
        unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32) };
    ensure!(bound == 0, "bind: {}", io::Error::last_os_error());

    let mut frames = [[0u8; FRAME]; BATCH];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let begun = Instant::now();
    let mut sent = 0;
    while sent < args.count {
        let due = (begun.elapsed().as_secs_f64() * args.rate as f64) as u64;
        if due <= sent {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        let n = BATCH.min((args.count - sent) as usize).min((due - sent) as usize);
        for frame in &mut frames[..n] {
            // Marsaglia's xorshift64.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            write(frame, &args, &own, random);
        }
        sent += send(&fd, &mut frames[..n])? as u64;
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{sent} frames in {seconds:.1} s");
    Ok(())
}

/// Writes a frame whose source and numbers are drawn from `random`.
fn write(frame: &mut [u8; FRAME], args: &Args, own: &[u8; 6], random: u64) {
    let r = random.to_be_bytes();
    frame[..6].copy_from_slice(&args.to);
    frame[6..12].copy_from_slice(own);
    frame[12..14].copy_from_slice(&[8, 0]);
    let ip = &mut frame[14..34];
    ip.copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 198, 18 | r[0] & 1, r[1], r[2], 0, 0, 0, 0]);
    ip[2..4].copy_from_slice(&((FRAME - 14) as u16).to_be_bytes());
    ip[16..20].copy_from_slice(&args.target.ip().octets());
    if args.kind == Kind::Fragment {
        (ip[4], ip[5], ip[6]) = (r[3], r[4], 0x20);
    }
    let sum = checksum(0, ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    // Addresses, protocol and length are part of the checksum of TCP.
    let pseudo = u32::from(u16::MAX - checksum(6 + (FRAME - 34) as u32, &ip[12..20]));
    let tcp = &mut frame[34..];
    tcp[..2].copy_from_slice(&(u16::from_be_bytes([r[3], r[4]]) | 1024).to_be_bytes());
    tcp[2..4].copy_from_slice(&args.target.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&[r[5], r[6], r[7], r[1]]);
    let flags = match args.kind {
        Kind::Syn | Kind::Fragment => 2,
        Kind::Rst => 4,
        Kind::Ack => 16,
    };
    tcp[8..20].copy_from_slice(&[0, 0, 0, 0, ((20 + OPTIONS.len()) << 2) as u8, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    if args.kind == Kind::Ack {
        tcp[8..12].copy_from_slice(&(random.wrapping_mul(0x9e37_79b9_7f4a_7c15) as u32).to_be_bytes());
    }
    tcp[20..].copy_from_slice(&OPTIONS);
    let sum = checksum(pseudo, tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
}

/// The Internet checksum (RFC 1071) of an even number of bytes, begun with a sum.
fn checksum(begin: u32, bytes: &[u8]) -> u16 {
    let mut sum = bytes.chunks_exact(2).fold(begin, |s, w| s + u32::from(u16::from_be_bytes([w[0], w[1]])));
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Hands frames to the kernel; how many it took.
fn send(fd: &OwnedFd, frames: &mut [[u8; FRAME]]) -> anyhow::Result<usize> {
    // SAFETY: all zeroes are a value of these.
    let (mut parts, mut messages): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { (zeroed(), zeroed()) };
    for (i, frame) in frames.iter_mut().enumerate() {
        parts[i] = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: FRAME };
        messages[i].msg_hdr.msg_iov = &raw mut parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: as many messages as told, each of one part that lives until the call returns.
    let n = unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), frames.len() as u32, 0) };
    match n {
        0.. => Ok(n as usize),
        _ => {
            let e = io::Error::last_os_error();
            // The other end's queue is full.
            ensure!(matches!(e.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR)), "sendmmsg: {e}");
            std::thread::sleep(Duration::from_micros(100));
            Ok(0)
        }
    }
}

/// `struct ethtool_drvinfo` of the kernel.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// Index and Ethernet address of an interface, if it is one end of a veth pair.
fn veth(fd: &OwnedFd, name: &str) -> anyhow::Result<(i32, [u8; 6])> {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    const ETHTOOL_GDRVINFO: u32 = 3;
    ensure!(!name.is_empty() && name.len() < libc::IFNAMSIZ, "no interface '{name}'");
    // SAFETY: all zeroes are a value of it.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let ask = |what: libc::c_ulong, request: &mut libc::ifreq| -> anyhow::Result<()> {
        // SAFETY: each of these calls reads and writes one `ifreq`, and what its member points to.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), what as _, &raw mut *request) };
        ensure!(done == 0, "interface '{name}': {}", io::Error::last_os_error());
        Ok(())
    };
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    ask(SIOCETHTOOL, &mut request)?;
    if info.driver.split(|b| *b == 0).next() != Some(b"veth") {
        bail!("'{name}' is not a veth: this tool is for the lab only");
    }
    ask(libc::SIOCGIFINDEX as _, &mut request)?;
    // SAFETY: the call before has written this member of the union.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    ask(libc::SIOCGIFHWADDR as _, &mut request)?;
    // SAFETY: as above.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    Ok((index, std::array::from_fn(|i| address.sa_data[i] as u8)))
}

fn mac(text: &str) -> anyhow::Result<[u8; 6]> {
    let bytes = text.split(':').map(|b| u8::from_str_radix(b, 16)).collect::<Result<Vec<_>, _>>();
    bytes.ok().and_then(|b| b.try_into().ok()).context("expected aa:bb:cc:dd:ee:ff")
}
