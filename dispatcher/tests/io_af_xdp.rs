//! The af-xdp driver over virtual Ethernet pairs.
//!
//! Each test runs in a network namespace of its own, which needs root; without it the tests say so and pass.

mod veth;

use dispatcher::io::af_xdp::{self, Account, Mode};
use dispatcher::io::{self, Burst, Filter, Loss, Port, af_packet};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use veth::{
    QUIET, assert_settled, bridge_once, carry, gone, in_namespace, ip, packet_device, packet_port, pair, pair_of,
    receive_all, send_all,
};

const OWN: [u8; 4] = [10, 9, 0, 2];

fn filter() -> Filter {
    Filter { addresses: vec![IpAddr::from(OWN), "fd09::1:2345".parse().unwrap()], ..Filter::default() }
}

fn try_open(devices: &[&str], mode: Mode) -> Result<(Vec<Port>, Account), io::OpenError> {
    let device = |name: &&str| af_xdp::Device { name: name.to_string(), info: io::device_info(name).unwrap(), mode };
    af_xdp::open_accounted(&devices.iter().map(device).collect::<Vec<_>>(), &filter())
}

fn open(devices: &[&str]) -> (Vec<Port>, Account) {
    try_open(devices, Mode::Auto).unwrap()
}

/// A TCP segment to our own address, numbered; with these VLAN tags.
fn tagged(n: u32, len: usize, tags: &[[u8; 4]]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];
    tags.iter().for_each(|t| frame.extend(t));
    frame.extend([8, 0]);
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 9, 0, 1];
    packet.extend(OWN);
    packet.extend([0x10, 0, 0x20, 0]);
    packet.extend(n.to_be_bytes());
    packet.extend([0, 0, 0, 0, 0x50, 16, 1, 0, 0, 0, 0, 0]);
    packet.resize(len - 14, n as u8);
    let total = (packet.len() as u16).to_be_bytes();
    packet[2..4].copy_from_slice(&total);
    frame.extend(packet);
    frame
}

fn numbered(n: u32, len: usize) -> Vec<u8> {
    tagged(n, len, &[])
}

/// Frames that a virtual pair has dropped on their way out of `device`.
fn dropped_by_the_pair(device: &str) -> u64 {
    let all = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = all.lines().find_map(|l| l.trim().strip_prefix(&format!("{device}:"))).unwrap();
    line.split_whitespace().nth(11).unwrap().parse().unwrap()
}

#[test]
fn every_frame_arrives_once_in_order_and_whole_in_both_ways_of_working() {
    in_namespace(|| {
        pair("t0", "t1");
        let mut a = packet_port("t0");
        for (mode, expected) in [(Mode::Auto, "native, copy"), (Mode::Copy, "native, copy"), (Mode::Generic, "generic")]
        {
            let (mut ports, account) = try_open(&["t1"], mode).unwrap();
            let mut b = ports.pop().unwrap();
            assert!(b.description.contains(expected), "{}", b.description);
            let sent: Vec<_> = (0..10_000u32).map(|n| numbered(n, 60 + (n as usize * 7) % 1454)).collect();
            let received = carry(&mut a, &mut b, &sent);
            assert_eq!(received.len(), sent.len());
            assert!(received == sent);
            let traffic = b.rx.traffic();
            let bytes = sent.iter().map(|f| f.len() as u64).sum::<u64>();
            assert_eq!((traffic.frames, traffic.bytes), (10_000, bytes));
            assert_eq!(traffic.losses, [0; Loss::ALL.len()]);
            // And the other way.
            let back = carry(&mut b, &mut a, &sent);
            assert!(back == sent, "{} of {}", back.len(), sent.len());
            assert_eq!(b.tx.traffic().frames, 10_000);
            assert_eq!(b.rx.traffic().frames, 10_000, "what a port sends does not come back to it");
            b.tx.flush();
            assert_settled(&account);
        }
    });
}

#[test]
fn frames_beyond_the_rings_are_counted_and_none_is_unaccounted_for() {
    in_namespace(|| {
        pair("t0", "t1");
        let mut a = packet_port("t0");
        let (mut ports, account) = open(&["t1"]);
        let mut b = ports.pop().unwrap();
        for chunk in (0..12_000).collect::<Vec<u32>>().chunks(64) {
            send_all(&mut a, &chunk.iter().map(|n| numbered(*n, 100)).collect::<Vec<_>>());
        }
        std::thread::sleep(Duration::from_millis(50));
        let received = receive_all(&mut b, QUIET).len() as u64;
        let lost = b.rx.traffic().lost_to(Loss::RxRingFull);
        assert!(lost > 0, "the rings hold them all");
        assert_eq!(received + lost + dropped_by_the_pair("t0"), a.tx.traffic().frames);
        assert_settled(&account);
        // The rings work as before.
        send_all(&mut a, &[numbered(1, 60)]);
        assert_eq!(receive_all(&mut b, QUIET), [numbered(1, 60)]);
    });
}

#[test]
fn tagged_frames_pass_with_their_tags_and_have_room_for_more() {
    in_namespace(|| {
        pair("t0", "t1");
        let mut a = packet_port("t0");
        let (mut ports, _account) = open(&["t1"]);
        let b = &mut ports[0];
        let sent = [
            tagged(1, 1514, &[]),
            tagged(2, 1514, &[[0x81, 0, 0x20, 100]]),
            tagged(3, 1506, &[[0x88, 0xa8, 0x01, 0x2c], [0x81, 0, 0, 40]]),
        ];
        send_all(&mut a, &sent);
        let received = receive_all(b, QUIET);
        assert_eq!(received.iter().map(Vec::len).collect::<Vec<_>>(), [1514, 1518, 1514]);
        assert!(received == sent);
        send_all(&mut a, &sent[..1]);
        let mut burst = Burst::new();
        let until = Instant::now() + Duration::from_secs(10);
        while burst.is_empty() && Instant::now() < until {
            b.rx.receive(&mut burst);
        }
        let mut slot = burst.pop().unwrap();
        assert!(b.rx.frame(&mut slot).push_front(io::HEADROOM));
        b.rx.release(slot);
    });
}

#[test]
fn a_bridge_of_two_ports_conserves_frames_both_ways() {
    in_namespace(|| {
        pair("c0", "dc");
        pair("s0", "ds");
        let (mut bridge, account) = open(&["dc", "ds"]);
        let (mut client, mut server) = (packet_port("c0"), packet_port("s0"));
        let frames: Vec<_> = (0..10_000u32).map(|n| numbered(n, 60 + n as usize % 1400)).collect();
        let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
        for burst in frames.chunks(128) {
            for frame in burst {
                assert!(client.tx.transmit_copy(frame) && server.tx.transmit_copy(frame));
            }
            client.tx.flush();
            server.tx.flush();
            let (mut moved, until) = (0, Instant::now() + Duration::from_secs(10));
            while moved < 2 * burst.len() && Instant::now() < until {
                moved += bridge_once(&mut bridge);
            }
            at_server.extend(receive_all(&mut server, Duration::from_millis(2)));
            at_client.extend(receive_all(&mut client, Duration::from_millis(2)));
        }
        bridge.iter_mut().for_each(|port| port.tx.flush());
        // What a busy machine has not delivered yet.
        let until = Instant::now() + Duration::from_secs(10);
        while (at_server.len() < frames.len() || at_client.len() < frames.len()) && Instant::now() < until {
            bridge_once(&mut bridge);
            at_server.extend(receive_all(&mut server, Duration::from_millis(2)));
            at_client.extend(receive_all(&mut client, Duration::from_millis(2)));
        }
        assert!(at_server == frames && at_client == frames, "{} and {}", at_server.len(), at_client.len());
        assert_settled(&account);
        for port in &mut bridge {
            assert_eq!(port.tx.traffic().losses, [0; Loss::ALL.len()]);
            assert_eq!(port.rx.traffic().losses, [0; Loss::ALL.len()]);
        }
    });
}

#[test]
fn all_queues_of_a_device_are_served() {
    in_namespace(|| {
        pair_of("t0", "t1", 4);
        assert_eq!(io::device_info("t1").unwrap().queues, 4);
        let (mut ports, account) = open(&["t1"]);
        assert!(ports[0].description.contains("4 queues"), "{}", ports[0].description);
        // Over the kernel's own stack, whose connections choose a queue each.
        ip("addr add 10.9.0.1/24 dev t0");
        ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:09 dev t0");
        for n in 0..64 {
            let connecting = std::net::SocketAddr::from((OWN, 1000 + n));
            let _ = TcpStream::connect_timeout(&connecting, Duration::from_millis(1));
        }
        let syns = receive_all(&mut ports[0], QUIET).len();
        assert!(syns >= 64, "{syns}");
        assert_settled(&account);
    });
}

#[test]
fn a_link_that_goes_down_and_up_is_counted_and_survived() {
    in_namespace(|| {
        pair("t0", "t1");
        let mut far = packet_port("t0");
        let (mut ports, account) = open(&["t1"]);
        let near = &mut ports[0];
        let ten: Vec<_> = (0..10).map(|n| numbered(n, 60)).collect();
        for (pulled, what) in [("t1", "the interface itself"), ("t0", "its cable")] {
            let before = (near.tx.traffic(), near.rx.traffic());
            ip(&format!("link set {pulled} down"));
            send_all(near, &ten);
            send_all(near, &ten);
            let tx = near.tx.traffic();
            // The kernel takes its time to tell of a cable.
            let until = Instant::now() + Duration::from_secs(10);
            while near.rx.traffic().link_downs == before.1.link_downs && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            let rx = near.rx.traffic();
            assert_eq!(tx.lost_to(Loss::TxLinkDown) - before.0.lost_to(Loss::TxLinkDown), 20, "{what}: {tx:?}");
            assert_eq!(tx.frames, before.0.frames, "{what}");
            assert_eq!(tx.link_downs, before.0.link_downs + 1, "{what}");
            assert_eq!(rx.link_downs, before.1.link_downs + 1, "{what}");
            ip(&format!("link set {pulled} up"));
            // The far end's socket has an error to tell, once.
            far.rx.device_event();
            std::thread::sleep(Duration::from_millis(20));
            send_all(near, &[numbered(11, 60)]);
            assert_eq!(receive_all(&mut far, QUIET), [numbered(11, 60)], "{what}: only what was sent since");
            send_all(&mut far, &[numbered(12, 60)]);
            assert_eq!(receive_all(near, QUIET), [numbered(12, 60)], "{what}");
        }
        assert_settled(&account);
    });
}

/// Waits until a port counts as often as this that its device was taken up again.
fn await_reopened(port: &mut Port, times: u64) {
    let until = Instant::now() + Duration::from_secs(10);
    while port.rx.traffic().reopened < times && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(port.rx.traffic().reopened, times);
}

fn sorted(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut all = frames.to_vec();
    all.sort_unstable();
    all
}

#[test]
fn a_device_that_is_removed_and_made_anew_is_taken_up_again_and_no_chunk_is_lost() {
    in_namespace(|| {
        pair_of("c0", "dc", 2);
        pair_of("s0", "ds", 2);
        let (mut bridge, account) = open(&["dc", "ds"]);
        let mut server = packet_port("s0");
        let frames: Vec<_> = (0..500).map(|n| numbered(n, 300)).collect();
        for round in 1..=4u64 {
            // One, then the other: none of the sockets that registered the memory first is there any more.
            let (near, far, index) = if round % 2 == 1 { ("dc", "c0", 0) } else { ("ds", "s0", 1) };
            // Frames lie in the rings while it goes.
            let mut client = packet_port("c0");
            for chunk in frames.chunks(100) {
                send_all(&mut client, chunk);
                bridge_once(&mut bridge);
            }
            let before = bridge[index].tx.traffic().lost_to(Loss::TxLinkDown);
            ip(&format!("link del {near}"));
            send_all(&mut bridge[index], &[numbered(1, 60), numbered(2, 60)]);
            let now = bridge[index].tx.traffic().lost_to(Loss::TxLinkDown);
            assert_eq!(now, before + 2);
            pair_of(far, near, 2);
            await_reopened(&mut bridge[index], round.div_ceil(2));
            assert_eq!(bridge[index].rx.traffic().link_downs, round.div_ceil(2));
            while bridge_once(&mut bridge) > 0 {}
            let mut client = packet_port("c0");
            server = packet_port("s0");
            // The first kick after the device was there again has the transmitter take its new rings.
            send_all(&mut bridge[index], &[numbered(3, 60)]);
            std::thread::sleep(Duration::from_millis(20));
            receive_all(&mut client, QUIET);
            receive_all(&mut server, QUIET);
            let mut carried = Vec::new();
            for chunk in frames.chunks(100) {
                send_all(&mut client, chunk);
                let until = Instant::now() + Duration::from_secs(10);
                let mut moved = 0;
                while moved < chunk.len() && Instant::now() < until {
                    moved += bridge_once(&mut bridge);
                }
                carried.extend(receive_all(&mut server, Duration::from_millis(3)));
            }
            carried.extend(receive_all(&mut server, QUIET));
            // The sender's core chooses the queue, and it may move to another core: all of them, each once, in whatever order.
            carried.sort_unstable();
            assert!(carried == sorted(&frames), "round {round}: {}", carried.len());
            assert_settled(&account);
        }
        drop(server);
    });
}

#[test]
fn several_workers_have_one_program_and_all_queues_between_them() {
    in_namespace(|| {
        pair_of("t0", "t1", 3);
        let device = [af_xdp::Device { name: "t1".into(), info: io::device_info("t1").unwrap(), mode: Mode::Auto }];
        let common = [std::sync::Arc::default()];
        let open = |worker, workers| af_xdp::open_part(&device, &filter(), af_xdp::Part { worker, workers }, &common);
        let Err(e) = open(0, 4) else { panic!("three queues for four workers") };
        assert!(e.0.contains("3 receive queues") && e.0.contains("ethtool -L t1 combined 4"), "{e}");
        let mut both = [open(0, 2).unwrap(), open(1, 2).unwrap()];
        assert!(both[0].0[0].description.contains("2 queues of each"), "{}", both[0].0[0].description);
        assert!(both[1].0[0].description.contains("1 queue of each"), "{}", both[1].0[0].description);
        for round in 0..2 {
            if round == 1 {
                ip("link del t1");
                pair_of("t0", "t1", 3);
                both.iter_mut().for_each(|(ports, _)| await_reopened(&mut ports[0], 1));
            }
            ip("addr add 10.9.0.1/24 dev t0");
            ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:09 dev t0");
            for n in 0..64 {
                let connecting = std::net::SocketAddr::from((OWN, 1000 + n));
                let _ = TcpStream::connect_timeout(&connecting, Duration::from_millis(1));
            }
            let syns = both.each_mut().map(|(ports, _)| receive_all(&mut ports[0], QUIET).len());
            assert!(syns[0] > 0 && syns[1] > 0 && syns[0] + syns[1] >= 64, "{syns:?}");
            // And each sends by itself.
            let mut far = packet_port("t0");
            for (n, (ports, account)) in both.iter_mut().enumerate() {
                send_all(&mut ports[0], &[numbered(9, 60)]);
                send_all(&mut ports[0], &[numbered(n as u32, 60)]);
                let got = receive_all(&mut far, QUIET);
                assert!(got.contains(&numbered(n as u32, 60)), "{}", got.len());
                assert_settled(account);
            }
        }
        // The program stays until the last of them goes.
        let [a, b] = both;
        drop(a);
        assert!(ip("-d link show dev t1").contains("prog/xdp"));
        drop(b);
        gone("prog/xdp", "-d link show dev t1");
    });
}

#[test]
fn an_interface_that_is_removed_is_survived() {
    in_namespace(|| {
        pair("t0", "t1");
        let (mut ports, _account) = open(&["t1"]);
        ip("link del t1");
        send_all(&mut ports[0], &[numbered(1, 60), numbered(2, 60)]);
        assert_eq!(ports[0].tx.traffic().lost_to(Loss::TxLinkDown), 2);
        let mut burst = Burst::new();
        ports[0].rx.receive(&mut burst);
        assert!(burst.is_empty());
        assert_eq!(ports[0].rx.traffic().link_downs, 1);
    });
}

/// The kernel at the near end has an address of its own, beside ours, and a socket; its far end lives in another
/// network namespace, from where `far` runs.
fn with_the_kernel_beside_us(far: impl FnOnce() + Send, near: impl FnOnce()) {
    ip("link add t0 type veth peer name t1");
    ip("addr add 10.9.0.77/24 dev t1");
    ip("link set t1 up");
    let (told, tell) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let far = scope.spawn(move || {
            // SAFETY: no pointers; changes only the calling thread.
            let thread = unsafe {
                assert_eq!(libc::unshare(libc::CLONE_NEWNET), 0);
                libc::gettid()
            };
            told.send(thread).unwrap();
            wait.recv().unwrap();
            ip("addr add 10.9.0.1/24 dev t0");
            ip("link set t0 up");
            assert!(Command::new("ethtool").args(["-K", "t0", "tx", "off"]).output().unwrap().status.success());
            far();
        });
        // iproute2 takes the id of a process; the thread's own file says the same.
        let thread = tell.recv().unwrap();
        let namespace = format!("/proc/self/task/{thread}/ns/net");
        let name = format!("afxdp-test-{}-{thread}", std::process::id());
        let path = format!("/run/netns/{name}");
        std::fs::create_dir_all("/run/netns").unwrap();
        std::os::unix::fs::symlink(namespace.replace("self", &std::process::id().to_string()), &path).unwrap();
        let moved = Command::new("ip").args(["link", "set", "t0", "netns", &name]).output().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(moved.status.success(), "{moved:?}");
        near();
        go.send(()).unwrap();
        if let Err(panic) = far.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn the_kernels_own_connections_through_the_interface_live_on() {
    in_namespace(|| {
        let mut opened = None;
        let opened_by_near = &mut opened;
        let listener = std::sync::OnceLock::new();
        let listener = &listener;
        with_the_kernel_beside_us(
            || {
                let done = Command::new("ping").args(["-c", "3", "-i", "0.05", "-W", "2", "10.9.0.77"]).output();
                let said = done.expect("ping (iputils-ping) runs").stdout;
                assert!(
                    String::from_utf8_lossy(&said).contains(" 0% packet loss"),
                    "{}",
                    String::from_utf8_lossy(&said)
                );
                let mut connection =
                    TcpStream::connect_timeout(&"10.9.0.77:2222".parse().unwrap(), Duration::from_secs(3)).unwrap();
                std::io::Write::write_all(&mut connection, b"still here").unwrap();
                // And ours are not answered by the kernel.
                let refused = TcpStream::connect_timeout(&"10.9.0.2:2222".parse().unwrap(), Duration::from_millis(300));
                assert!(refused.is_err());
            },
            || {
                *opened_by_near = Some(open(&["t1"]));
                let _ = listener.set(TcpListener::bind("10.9.0.77:2222").unwrap());
            },
        );
        let (mut connection, _) = listener.get().unwrap().accept().unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(&mut connection, &mut said).unwrap();
        assert_eq!(said, "still here");
        let (mut ports, _account) = opened.unwrap();
        let ours = receive_all(&mut ports[0], QUIET);
        assert!(!ours.is_empty() && ours.iter().all(|f| f[12..14] == [8, 6]), "questions about our address only");
    });
}

/// A dispatcher on `t1`, as a process.
fn dispatcher(more: &str) -> std::process::Child {
    let flags = "run --port net=af-xdp:t1,ip=10.9.0.2/24 --vip 10.9.0.100:443 --backend web=10.9.0.1:443";
    let mut command = Command::new(env!("CARGO_BIN_EXE_dispatcher"));
    command.args(flags.split(' ')).args(more.split_whitespace());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
}

/// Reads what it says until its tables are told.
fn started(child: &mut std::process::Child) -> String {
    let mut out = std::io::BufReader::new(child.stdout.as_mut().unwrap());
    let mut said = String::new();
    while !said.contains("  total ") {
        assert_ne!(std::io::BufRead::read_line(&mut out, &mut said).unwrap(), 0, "it ended: {said}");
    }
    said
}

#[test]
fn nothing_of_a_killed_process_stays_and_its_successor_starts_at_once() {
    in_namespace(|| {
        pair("t0", "t1");
        for _ in 0..3 {
            let mut child = dispatcher("");
            let said = started(&mut child);
            assert!(said.contains("af-xdp, native, copy") && said.contains("receive rings"), "{said}");
            assert!(ip("-d link show dev t1").contains("prog/xdp"));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        gone("prog/xdp", "-d link show dev t1");
        // The interface works as before.
        let (mut a, mut b) = (packet_port("t0"), packet_port("t1"));
        send_all(&mut a, &[numbered(1, 60)]);
        assert_eq!(receive_all(&mut b, QUIET), [numbered(1, 60)]);
    });
}

/// Runs it where it must refuse, with these capabilities if not with all: one line that says so, exit status 2.
fn refused(driver: &str, port: &str, more: &str, capabilities: Option<&str>, expected: &str) {
    let program = env!("CARGO_BIN_EXE_dispatcher");
    // One that starts after all is not waited for.
    let mut command = Command::new("timeout");
    command.arg("10");
    match capabilities {
        None => {}
        Some(_) if !readable_by_all() => return,
        Some(capabilities) => {
            command.args(["setpriv", "--reuid", "65534", "--clear-groups"]);
            if !capabilities.is_empty() {
                command.args(["--inh-caps", capabilities, "--ambient-caps", capabilities]);
            }
        }
    }
    command.arg(program);
    let port = format!("net={driver}:{port},ip=10.9.0.2/24");
    command.args(["run", "--port", &port, "--vip", "10.9.0.100:443", "--backend", "web=10.9.0.1:443"]);
    command.args(more.split_whitespace());
    let done = command.output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!((done.status.code(), said.lines().count()), (Some(2), 1), "{port} {more} {capabilities:?}: {said}");
    assert!(said.contains(expected), "{port} {more}: {said}");
    assert!(done.stdout.is_empty());
}

#[test]
fn what_cannot_be_opened_is_refused_with_one_line_and_status_2() {
    in_namespace(|| {
        pair("t0", "t1");
        for driver in ["af-xdp", "af-packet"] {
            refused(driver, "nosuch0", "", None, "no network device named 'nosuch0'");
            refused(driver, "lo", "", None, "not Ethernet");
            refused(driver, "t1", "", Some(""), "not permitted: needs CAP_NET_");
            refused(driver, "t1,queues=3", "", None, "queues=3");
        }
        refused("af-packet", "t1", "", Some("+net_admin"), "needs CAP_NET_RAW");
        for some in ["+net_admin,+net_raw", "+bpf,+net_raw", "+bpf,+net_admin"] {
            refused("af-xdp", "t1", "", Some(some), "needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF (run as root, or");
        }
        refused("af-xdp", "t1,queues=3", "", None, "ethtool -L t1 combined 3");
        refused(
            "af-xdp",
            "t1",
            "--workers 2",
            None,
            "it has 1 receive queue, and each of 2 workers needs one: ethtool -L",
        );
        refused("af-xdp", "t1,mode=zero-copy", "", None, "no zero-copy mode: mode=copy, or leave mode= away");
        refused("af-xdp", "t1,mode=fast", "", None, "a mode is");
        let mut child = dispatcher("");
        started(&mut child);
        refused("af-xdp", "t1", "", None, "in use: another XDP program is attached");
        child.kill().unwrap();
        child.wait().unwrap();
        ip("link set t1 mtu 20000");
        refused("af-xdp", "t1", "", None, "frames of AF_XDP hold an MTU of ");
        ip("link set t1 mtu 1500");
    });
}

/// Whether somebody without privileges can run the program from where it lies.
fn readable_by_all() -> bool {
    use std::os::unix::fs::PermissionsExt;
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_dispatcher"));
    program.ancestors().all(|p| std::fs::metadata(p).is_ok_and(|m| m.permissions().mode() & 0o5 == 0o5))
}

#[test]
fn a_second_user_of_a_device_is_refused_in_words_and_a_successor_is_not() {
    in_namespace(|| {
        pair("t0", "t1");
        for _ in 0..3 {
            let (ports, _account) = open(&["t1"]);
            assert!(ip("-d link show dev t1").contains("prog/xdp"), "attached while open");
            assert!(ip("maddr show dev t1").contains("33:33:ff:01:23:45"), "neighbours' questions reach us");
            drop(ports);
            gone("33:33:ff:01:23:45", "maddr show dev t1");
            gone("prog/xdp", "-d link show dev t1");
        }
        let (_ports, _account) = open(&["t1"]);
        let Err(e) = try_open(&["t1"], Mode::Auto) else { panic!("opened twice") };
        assert!(e.0.contains("in use: another XDP program") && e.0.contains("t1"), "{e}");
        let Err(e) = try_open(&["t0"], Mode::ZeroCopy) else { panic!("veth has no zero-copy mode") };
        assert!(e.0.contains("no zero-copy mode"), "{e}");
    });
}

/// Nanoseconds of processor time that the calling thread has used.
fn processor_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What one frame costs the forwarding thread over the same virtual pairs, from one driver's ring to the far end, where
/// the kernel drops it: af-xdp against af-packet, in turns. `bench/io` runs it.
#[test]
#[ignore = "a measurement: bench/io runs it"]
fn the_cost_of_a_frame_against_af_packet() {
    const FRAMES: u64 = 200;
    in_namespace(|| {
        pair("c0", "dc");
        pair("s0", "ds");
        let mut client = packet_port("c0");
        for len in [64, 600, 1400] {
            let frames: Vec<_> = (0..FRAMES as u32).map(|n| numbered(n, len)).collect();
            let mut costs = [Vec::new(), Vec::new()];
            for _round in 0..15 {
                for (driver, costs) in costs.iter_mut().enumerate() {
                    let mut bridge = match driver {
                        0 => {
                            let device = |d| packet_device(d, true);
                            af_packet::open(&[device("dc"), device("ds")]).unwrap()
                        }
                        _ => open(&["dc", "ds"]).0,
                    };
                    let (mut spent, mut moved) = (0, 0);
                    for _ in 0..40 {
                        send_all(&mut client, &frames);
                        std::thread::sleep(Duration::from_millis(3));
                        let start = processor_time();
                        let mut idle = 0;
                        while idle < 2 {
                            let n = bridge_once(&mut bridge) as u64;
                            moved += n;
                            idle = if n == 0 { idle + 1 } else { 0 };
                        }
                        spent += processor_time() - start;
                    }
                    assert!(moved > 20 * FRAMES, "{moved}");
                    costs.push(spent as f64 / moved as f64);
                }
            }
            let [packet, xdp] = costs.map(|mut c| {
                c.sort_by(f64::total_cmp);
                c[c.len() / 2]
            });
            println!("{len} bytes: af-packet {packet:.0} ns, af-xdp {xdp:.0} ns a frame: ratio {:.2}", xdp / packet);
        }
    });
}

/// An announcement of an IPv4 address (RFC 5227) or, behind it, of an IPv6 address (RFC 4861), to all.
fn announcements(mac: [u8; 6]) -> [Vec<u8>; 2] {
    let mut arp = [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac, &[10, 9, 0, 7]].concat();
    arp.extend([0; 6]);
    arp.extend([10, 9, 0, 7]);
    arp.resize(60, 0);
    use dispatcher::wire::build::{Link, Ndp, ndp_type};
    use dispatcher::wire::{Addr, Mac};
    let addr = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
    let mut ndp = vec![0; 100];
    let said = Ndp { kind: ndp_type::ADVERTISEMENT, flags: 0x20, target: addr("fd09::7"), mac: Some(Mac(mac)) };
    let link = Link { dst: Mac([0x33, 0x33, 0, 0, 0, 1]), src: Mac(mac), ..Link::default() };
    let n = said.write(&mut ndp, &link, addr("fd09::7"), addr("ff02::1"));
    ndp.truncate(n);
    [arp, ndp]
}

/// So that a failover of a server or a gateway is heard, and the machine's own neighbours stay its own.
#[test]
fn what_neighbours_tell_all_comes_to_us_and_to_the_kernel_and_their_chatter_does_not() {
    in_namespace(|| {
        pair("t0", "t1");
        ip("addr add 10.9.0.3/24 dev t1");
        ip("addr add fd09::3/64 dev t1 nodad");
        ip("neigh add 10.9.0.7 lladdr 02:00:00:00:00:70 dev t1 nud stale");
        ip("neigh add fd09::7 lladdr 02:00:00:00:00:70 dev t1 nud stale");
        let mut a = packet_port("t0");
        let (mut ports, account) = open(&["t1"]);
        let mut b = ports.pop().unwrap();
        let told = announcements([2, 0, 0, 0, 0, 0x77]);
        // A question of theirs to each other, and one to the kernel.
        let questions = [[10, 9, 0, 8], [10, 9, 0, 3]].map(|target| {
            let mut f = told[0].clone();
            f[38..42].copy_from_slice(&target);
            f
        });
        send_all(&mut a, &questions);
        send_all(&mut a, &told);
        // They are looked for when the counts are asked for.
        let (mut got, until) = (Vec::new(), Instant::now() + Duration::from_secs(10));
        while got.len() < told.len() && Instant::now() < until {
            b.rx.traffic();
            got.extend(receive_all(&mut b, Duration::from_millis(5)));
        }
        assert_eq!(got, told);
        b.rx.traffic();
        assert_eq!(receive_all(&mut b, QUIET), [[0u8; 0]; 0]);
        assert_settled(&account);
        for address in ["10.9.0.7", "fd09::7"] {
            let entry = ip(&format!("neigh show {address} dev t1"));
            assert!(entry.contains("02:00:00:00:00:77"), "the kernel's own neighbour: {entry}");
        }
    });
}
