//! `dispatcher run` as a process: starting, refusing, stopping. Over virtual pairs in a namespace of the test's own,
//! which ends with its thread. Needs root; without it the tests say so and pass.

mod veth;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use veth::{ip, pair};

/// Runs `test` in a fresh network namespace with two pairs: c0-wan and s0-lan.
fn in_namespace(test: impl FnOnce() + Send) {
    veth::in_namespace(|| {
        pair("c0", "wan");
        pair("s0", "lan");
        test();
    });
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("dispatcher-cli-{}-{name}", std::process::id()))
}

const RUN: &str = "run --port wan=af-packet:wan,ip=10.77.0.1/24 --port lan=af-packet:lan,ip=10.78.0.1/24 \
    --vip 10.77.0.100:443 --backend web1=10.78.0.11:443 --backend web2=10.78.0.12:443,weight=2";

fn command(program: &Path, more: &str) -> Command {
    let mut command = Command::new(program);
    command.args(RUN.split_whitespace()).args(more.split_whitespace());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    command
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_dispatcher"))
}

/// Starts it and reads what it says until its tables are told; the rest of its output comes later.
fn started(more: &str) -> (Child, BufReader<std::process::ChildStdout>, String) {
    let mut child = command(program(), more).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("  total ") {
        assert_ne!(out.read_line(&mut said).unwrap(), 0, "it ended: {said} {}", rest(&mut child));
    }
    (child, out, said)
}

fn rest(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: no pointers; the process is our own child and was not waited for yet.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

#[test]
fn it_tells_what_it_starts_and_stops_cleanly_at_either_signal() {
    in_namespace(|| {
        for number in [libc::SIGINT, libc::SIGTERM] {
            let log = scratch(&format!("log{number}"));
            let (mut child, mut out, said) =
                started(&format!("--stats-interval 100ms --connections-log {}", log.display()));
            for expected in [
                "port wan: ",
                "port lan: ",
                "TPACKET_V3",
                "10.77.0.1/24",
                "vip 10.77.0.100:443",
                "backend web2 10.78.0.12:443 weight 2",
                "flows ",
                "affinity rows ",
                "held hellos ",
                "receive rings",
            ] {
                assert!(said.contains(expected), "{expected}: {said}");
            }
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            assert!(line.contains("frames/s") && line.contains("flows 0"), "{line}");
            let asked = Instant::now();
            signal(&child, number);
            let mut last = String::new();
            out.read_to_string(&mut last).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(0), "{last}");
            assert!(asked.elapsed() < Duration::from_secs(5));
            for expected in ["stopped after", "connections 0", "web1", "port lan: in"] {
                assert!(last.contains(expected), "{expected}: {last}");
            }
            assert_eq!(rest(&mut child), "");
            assert_eq!(std::fs::read_to_string(&log).unwrap(), "", "the log was opened, and nothing ended");
            std::fs::remove_file(log).unwrap();
        }
    });
}

/// Asks for an address by ARP from the far end of a pair, again and again from other addresses: how many answers came back.
fn ask_for(device: &str, address: &str) -> usize {
    let program = format!(
        "import socket, struct\n\
         s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x806)); s.bind(('{device}', 0)); s.settimeout(2)\n\
         me = s.getsockname()[4]; got = set()\n\
         for n in range(40):\n\
         \x20   ours = bytes([10, 77, 0, 150 + n])\n\
         \x20   s.send(b'\\xff' * 6 + me + bytes.fromhex('0806000108000604' '0001') + me + ours + bytes(6) + socket.inet_aton('{address}'))\n\
         try:\n\
         \x20   while len(got) < 40:\n\
         \x20       f = s.recv(100)\n\
         \x20       if f[20:22] == b'\\0\\2': got.add(f[38:42])\n\
         except TimeoutError: pass\n\
         print(len(got))"
    );
    let output = Command::new("python3").args(["-c", &program]).output().expect("python3 is there");
    let said = String::from_utf8_lossy(&output.stdout).trim().to_string();
    said.parse().unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn several_workers_share_the_frames_of_every_port_and_tell_what_each_did() {
    in_namespace(|| {
        for flags in ["--workers 3 --stats-interval 100ms", "--cores 0 --stats-interval 100ms"] {
            let several = flags.starts_with("--workers");
            let (mut child, mut out, said) = started(flags);
            for (expected, when) in
                [("3 workers on any core", several), ("mailboxes", several), ("on core 0", !several)]
            {
                assert_eq!(said.contains(expected), when, "{expected}: {said}");
            }
            assert_eq!(ask_for("c0", "10.77.0.100"), 40, "each question is answered, once");
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            assert_eq!(line.contains("workers: 0="), several, "{line}");
            signal(&child, libc::SIGTERM);
            let mut last = String::new();
            out.read_to_string(&mut last).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(0), "{last}");
            assert_eq!(last.contains("worker 2: frames in "), several, "{last}");
            assert_eq!(last.contains("between workers: frames handed over "), several, "{last}");
            // Shared, not copied: as many frames in as there were, questions and perhaps a few of the kernel's own.
            let wan = last.split("port wan: in ").nth(1).and_then(|l| l.split(' ').next()).unwrap();
            let wan: u32 = wan.parse().unwrap();
            assert!((40..80).contains(&wan), "{last}");
            assert_eq!(rest(&mut child), "");
        }
    });
}

#[test]
fn a_killed_process_leaves_nothing_that_keeps_the_next_from_starting() {
    in_namespace(|| {
        for flags in ["", "--workers 2", "--workers 2"] {
            let (mut child, _out, _) = started(flags);
            child.kill().unwrap();
            child.wait().unwrap();
        }
    });
}

#[test]
fn a_link_that_is_down_is_warned_of_and_its_coming_up_is_noticed() {
    in_namespace(|| {
        ip("link set lan down");
        let (mut child, mut out, _) = started("--stats-interval 100ms");
        ip("link set wan down");
        let mut line = String::new();
        let until = Instant::now() + Duration::from_secs(5);
        while !line.contains("link-downs") && Instant::now() < until {
            line.clear();
            out.read_line(&mut line).unwrap();
        }
        assert!(line.contains("link-downs"), "{line}");
        ip("link set wan up");
        ip("link set lan up");
        signal(&child, libc::SIGTERM);
        let mut last = String::new();
        out.read_to_string(&mut last).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(rest(&mut child).contains("warning: port 'lan': lan is down"));
    });
}

fn assert_refused(mut command: Command, expected: &str) {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), error.lines().count()), (Some(2), 1), "{error}");
    assert!(error.contains(expected), "{error}");
    assert!(output.stdout.is_empty());
}

#[test]
fn without_privilege_it_says_which_it_needs() {
    in_namespace(|| {
        // The build directory may be closed to others.
        let copy = scratch("program");
        std::fs::copy(program(), &copy).unwrap();
        let mut command = command(&copy, "");
        command.uid(65_534).gid(65_534);
        assert_refused(command, "CAP_NET_RAW and CAP_NET_ADMIN");
        std::fs::remove_file(copy).unwrap();
    });
}

#[test]
fn what_the_devices_or_the_machine_cannot_do_is_refused() {
    in_namespace(|| {
        for (more, expected) in [
            ("--connections-log /nonexistent/log", "/nonexistent/log"),
            ("--cores 900", "core 900"),
            ("--cores 0,900", "core 900"),
            ("--port b=af-packet:c0,mtu=9000", "has an MTU of 1500"),
            ("--port b=pcap:/nonexistent.pcap", "/nonexistent.pcap"),
            ("--port b=af-packet:c0,tee=/nonexistent/tee", "/nonexistent/tee"),
        ] {
            assert_refused(command(program(), more), expected);
        }
    });
}

#[test]
fn over_a_capture_it_ends_when_the_capture_does() {
    let capture = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/captures/vlan8021q_openssl_nginx.pcap");
    let out = scratch("out.pcapng");
    let port = format!("net=pcap:{capture},ip=10.0.0.200/24,out={}", out.display());
    let output = Command::new(program())
        .args(["run", "--port", &port, "--vip", "10.0.0.1:443", "--backend", "a=10.0.0.77:443"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("port net: in 299 frames"), "{said}");
    assert!(!said.contains("cookies 0,"), "recorded SYNs are answered: {said}");
    assert!(dispatcher::capture::Capture::open(&out).unwrap().frames().unwrap().count() > 0);
    std::fs::remove_file(out).unwrap();
}
