//! Virtual Ethernet pairs in network namespaces of their own, and ports on them.
//!
//! A namespace is made by the test's thread and ends with it: nothing is left behind. That needs root; without it the tests say so and
//! pass.

// No test uses all of it.
#![allow(dead_code)]

pub mod segments;

use dispatcher::io::af_xdp::Account;
use dispatcher::io::{self, Burst, Census, Port, af_packet};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long nothing comes when nothing more will.
pub const QUIET: Duration = Duration::from_millis(100);

/// Runs `test` in a fresh network namespace.
pub fn in_namespace(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: no pointers; changes only the calling thread.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                eprintln!("skipped: making a network namespace needs root");
                return;
            }
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs `ip` with these words, and returns what it says.
pub fn ip(arguments: &str) -> String {
    let done = Command::new("ip").args(arguments.split(' ')).output().expect("ip (iproute2) runs");
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Waits until `ip` with these words no longer says `what`: a process that another test starts at the same time has copies of our
/// files until it runs its program, so that what we closed can live a moment longer.
///
/// # Panics
///
/// When it still says so after ten seconds.
pub fn gone(what: &str, arguments: &str) {
    let until = Instant::now() + Duration::from_secs(10);
    while ip(arguments).contains(what) {
        assert!(Instant::now() < until, "ip {arguments} still says {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A virtual pair with so many queues, up, on which the kernel itself says nothing.
pub fn pair_of(a: &str, b: &str, queues: u32) {
    let q = format!("numtxqueues {queues} numrxqueues {queues}");
    ip(&format!("link add {a} {q} type veth peer name {b} {q}"));
    for device in [a, b] {
        ip(&format!("link set {device} addrgenmode none"));
        ip(&format!("link set {device} up"));
    }
}

/// The same with one queue.
pub fn pair(a: &str, b: &str) {
    pair_of(a, b, 1);
}

/// A network namespace that an end of a pair was moved to; it ends with this.
pub struct Far {
    child: std::process::Child,
}

impl Far {
    /// Moves a device to a namespace of its own.
    pub fn of(device: &str) -> Far {
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", "echo there; exec sleep 600"]).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("unshare (util-linux) runs");
        let mut said = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).expect("it is there");
        ip(&format!("link set {device} netns {}", child.id()));
        Far { child }
    }

    /// Runs `ip` there.
    pub fn ip(&self, arguments: &str) {
        let target = ["-t".to_string(), self.child.id().to_string(), "-n".into(), "ip".into()];
        let done = Command::new("nsenter").args(target).args(arguments.split(' ')).output();
        let done = done.expect("nsenter (util-linux) runs");
        assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// An interface for the driver `af-packet`, with large units or without.
pub fn packet_device(device: &str, offload: bool) -> af_packet::Device {
    af_packet::Device { name: device.to_string(), info: io::device_info(device).unwrap(), offload, standby: false }
}

/// The far end of a pair: packet sockets, which see everything and give frames as wires carry them.
pub fn packet_port(device: &str) -> Port {
    af_packet::open(&[packet_device(device, false)]).unwrap().pop().unwrap()
}

/// Frames that arrive until none has come for `quiet`.
pub fn receive_all(port: &mut Port, quiet: Duration) -> Vec<Vec<u8>> {
    let (mut frames, mut burst, mut last) = (Vec::new(), Burst::new(), Instant::now());
    while last.elapsed() < quiet {
        port.rx.receive(&mut burst);
        if burst.is_empty() {
            io::wait_readable(&port.rx.wait_fds(), Duration::from_millis(5));
            continue;
        }
        last = Instant::now();
        for mut slot in burst.drain(..) {
            frames.push(port.rx.frame(&mut slot).bytes().to_vec());
            port.rx.release(slot);
        }
    }
    frames
}

/// A bridge of two ports, the simplest thing above the interface: what comes in at one goes out of the other.
pub fn bridge_once(ports: &mut [Port]) -> usize {
    let (mut moved, mut burst) = (0, Burst::new());
    for from in 0..2 {
        let [a, b] = ports else { panic!("two ports") };
        let (rx, tx) = if from == 0 { (&mut a.rx, &mut b.tx) } else { (&mut b.rx, &mut a.tx) };
        rx.receive(&mut burst);
        for slot in burst.drain(..) {
            assert!(tx.takes(&slot), "ports of one worker share memory");
            assert!(io::send(&mut **rx, &mut **tx, slot));
            moved += 1;
        }
        tx.flush();
    }
    moved
}

/// Frames under way in [`carry`].
const AT_ONCE: usize = 100;

/// Sends them all, at once.
pub fn send_all(port: &mut Port, frames: &[Vec<u8>]) {
    for frame in frames {
        assert!(port.tx.transmit_copy(frame));
    }
    port.tx.flush();
}

/// Sends frames and takes them at the other end, few enough at a time for a virtual pair's own queue of 256.
pub fn carry(from: &mut Port, to: &mut Port, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut carried = Vec::new();
    for chunk in frames.chunks(AT_ONCE) {
        send_all(from, chunk);
        let (before, until) = (carried.len(), Instant::now() + Duration::from_secs(10));
        while carried.len() < before + chunk.len() && Instant::now() < until {
            carried.extend(receive_all(to, Duration::from_millis(1)));
        }
    }
    carried
}

/// Nothing is in our hands, nothing is under way, and every chunk is somewhere.
pub fn assert_settled(account: &Account) {
    let census @ Census { chunks, free, receiving, held, sending } = account.census();
    assert_eq!(free + receiving + held + sending, chunks, "{census:?}");
    assert_eq!((held, sending), (0, 0), "{census:?}");
}
