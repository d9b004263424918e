//! The driver dpdk with large units: over `net_virtio_user`, at whose other end DPDK's own `dpdk-testpmd` (vhost-user) gives back what it gets, as a
//! host gives large units to a virtual machine; and over `net_tap`, whose segments the kernel receives.
//!
//! DPDK starts once in a process, so this is one test. In a network namespace of its own, which needs root; without it, or without
//! `dpdk-testpmd` and two cores, it says so and passes.

#![cfg(feature = "dpdk")]

mod veth;

use dispatcher::io::dpdk::{Dpdk, DpdkDevice, PortSetup};
use dispatcher::io::{self, Burst, Loss, Port};
use dispatcher::wire::{Frame, Offload};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use veth::segments::{finished, tcp};
use veth::{in_namespace, ip, packet_port};

/// How long what must come is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Gives back whatever it gets at a vhost-user socket.
struct Mirror(Child);

impl Mirror {
    fn at(socket: &Path) -> Option<Mirror> {
        // Flags as for sending: what was left to it is left to us again.
        let device = format!("net_vhost0,iface={},tso=1,queues=1,legacy-ol-flags=1", socket.display());
        let words =
            ["-l", "0,1", "--no-huge", "-m", "256", "--no-pci", "--no-shconf", "--no-telemetry", "--vdev", &device];
        let of_testpmd = ["--", "--forward-mode=io", "--nb-cores=1", "--auto-start", "--total-num-mbufs=8192"];
        // Its standard input stays open: at its end it would end.
        let mut command = Command::new("dpdk-testpmd");
        command.args(words).args(of_testpmd).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().ok()?;
        let until = Instant::now() + PATIENCE;
        while !socket.exists() {
            assert!(Instant::now() < until && child.try_wait().unwrap().is_none(), "dpdk-testpmd makes no socket");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Mirror(child))
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Whether it is one of ours: the kernel says this and that at new interfaces.
fn is_ours(frame: &[u8]) -> bool {
    frame.get(6..12) == Some(&[2, 0, 0, 0, 0, 8])
}

/// Takes frames of ours until there are so many.
fn await_frames(port: &mut Port, count: usize) -> Vec<io::Slot> {
    let (mut got, mut burst, until) = (Vec::new(), Burst::new(), Instant::now() + PATIENCE);
    while got.len() < count && Instant::now() < until {
        port.rx.receive(&mut burst);
        for mut slot in burst.drain(..) {
            if is_ours(port.rx.frame(&mut slot).bytes()) { got.push(slot) } else { port.rx.release(slot) }
        }
    }
    got
}

fn send_unit(port: &mut Port, unit: &[u8], cut: Offload) {
    let mut bytes = unit.to_vec();
    assert!(port.tx.transmit_unfinished(&mut Frame::whole(&mut bytes).with(cut)));
    port.tx.flush();
}

/// What comes back of it, as a wire would carry it, in how many frames.
fn come_back(port: &mut Port, pieces: usize) -> (Vec<Vec<u8>>, usize) {
    let (mut all, mut frames, until) = (Vec::new(), 0, Instant::now() + PATIENCE);
    while all.len() < pieces && Instant::now() < until {
        for mut slot in await_frames(port, 1) {
            frames += 1;
            let offload = slot.offload();
            all.extend(finished(port.rx.frame(&mut slot).bytes(), offload));
            port.rx.release(slot);
        }
    }
    (all, frames)
}

/// On DPDK's core. `kernels`: the far end of the tap.
fn large_units(mut ports: Vec<Port>) {
    let mut tap = ports.pop().unwrap();
    let mut host = ports.pop().unwrap();
    assert!(host.description.ends_with("LRO, TSO"), "{}", host.description);
    assert!(tap.description.ends_with("TSO"), "{}", tap.description);
    let mut kernels = packet_port("dtap0");
    let cut = Offload::large(1400);
    // The other end may not be there yet.
    let small = tcp(false, 1, 0x18, 100, false);
    let until = Instant::now() + PATIENCE;
    loop {
        assert!(host.tx.transmit_copy(&small) && Instant::now() < until, "the mirror does not answer");
        host.tx.flush();
        std::thread::sleep(Duration::from_millis(20));
        let mut burst = Burst::new();
        host.rx.receive(&mut burst);
        let answered = !burst.is_empty();
        burst.drain(..).for_each(|slot| host.rx.release(slot));
        if answered {
            break;
        }
    }
    std::thread::sleep(Duration::from_millis(200));
    let mut burst = Burst::new();
    host.rx.receive(&mut burst);
    burst.drain(..).for_each(|slot| host.rx.release(slot));

    for (n, (v6, vlan)) in [(false, false), (true, false), (false, true)].into_iter().enumerate() {
        for len in [500, 1400, 1401, 5000, 30_000, 65_000] {
            let unit = tcp(v6, 1000 + n as u32, 0x18, len, vlan);
            let expected = finished(&unit, cut);
            // There and back: one frame each way, whatever its length.
            send_unit(&mut host, &unit, cut);
            let mut came = await_frames(&mut host, 1);
            assert_eq!(came.len(), 1, "IPv6 {v6}, VLAN {vlan}, {len}: nothing came back");
            let mut slot = came.pop().unwrap();
            assert_eq!(slot.len(), unit.len());
            assert_eq!(slot.offload().segment(), if len > 1400 { 1400 } else { 0 });
            // Sent on from where it lies, with other headers, as the engine does it.
            let mut changed = unit.clone();
            changed[5] ^= 1;
            let mut frame = host.rx.frame(&mut slot);
            frame.bytes_mut()[5] ^= 1;
            // A frame whose checksum is whole would need another.
            if !frame.offload().is_finished() {
                let at = unit.len() - len - 32 + 4;
                for bytes in [frame.bytes_mut(), &mut changed] {
                    bytes[at..at + 4].copy_from_slice(&7777u32.to_be_bytes());
                }
            }
            assert!(io::send(&mut *host.rx, &mut *host.tx, slot));
            host.tx.flush();
            let (got, frames) = come_back(&mut host, expected.len());
            assert!(
                got == finished(&changed, cut),
                "IPv6 {v6}, VLAN {vlan}, {len}: {} of {}",
                got.len(),
                expected.len()
            );
            assert_eq!(frames, 1);

            // To the kernel, which sees segments: as it came by the other port, and copied.
            send_unit(&mut host, &unit, cut);
            for slot in await_frames(&mut host, 1) {
                assert!(io::send(&mut *host.rx, &mut *tap.tx, slot));
            }
            tap.tx.flush();
            send_unit(&mut tap, &unit, cut);
            let segments: Vec<_> = at_kernel(&mut kernels, 2 * expected.len());
            let twice: Vec<_> = expected.iter().chain(&expected).cloned().collect();
            assert!(segments == twice, "IPv6 {v6}, VLAN {vlan}, {len}: {} of {}", segments.len(), twice.len());
        }
    }
    // More of them than there are buffers, in mbufs and for units, if one were lost each time.
    let unit = tcp(false, 9, 0x18, 65_000, false);
    for n in 0..600 {
        send_unit(&mut host, &unit, cut);
        let slot = await_frames(&mut host, 1).pop().unwrap_or_else(|| panic!("unit {n} did not come back"));
        if n % 2 == 0 {
            host.rx.release(slot)
        } else {
            assert!(io::send(&mut *host.rx, &mut *host.tx, slot))
        }
        host.tx.flush();
        if n % 2 == 1 {
            await_frames(&mut host, 1).into_iter().for_each(|slot| host.rx.release(slot));
        }
    }
    for port in [&mut host, &mut tap] {
        assert_eq!(port.rx.traffic().losses, [0; Loss::ALL.len()], "{}", port.description);
        assert_eq!(port.tx.traffic().losses, [0; Loss::ALL.len()], "{}", port.description);
    }
}

fn at_kernel(kernels: &mut Port, count: usize) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    for mut slot in await_frames(kernels, count) {
        got.push(kernels.rx.frame(&mut slot).bytes().to_vec());
        kernels.rx.release(slot);
    }
    got
}

#[test]
fn large_units_pass_whole_between_ports_that_take_them_and_a_card_makes_the_segments_that_we_would() {
    in_namespace(|| {
        let cores = io::allowed_cores();
        let directory = std::env::temp_dir().join(format!("dispatcher-dpdk-test-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let socket = directory.join("vhost");
        let mirror = if cores.len() < 2 { None } else { Mirror::at(&socket) };
        if mirror.is_none() {
            eprintln!("skipped: it takes dpdk-testpmd (package dpdk) and two cores");
            return;
        }
        let port = |device: &str| PortSetup {
            device: DpdkDevice::parse(device).unwrap(),
            mtu: 1500,
            huge: Some(false),
            offload: true,
        };
        let host = format!("net_virtio_user0;path={};queue_size=1024", socket.display());
        let mut dpdk = Dpdk::start(vec![port(&host), port("net_tap0;iface=dtap0")], &cores[..1]).unwrap();
        ip("link set dtap0 addrgenmode none");
        ip("link set dtap0 up");
        let seat = dpdk.seat(0).unwrap();
        assert!(seat.run(|core| large_units(core.open().unwrap())));
        drop((dpdk, mirror));
        _ = std::fs::remove_dir_all(&directory);
    });
}
