//! `dispatcher run` as a process: starting, refusing, stopping. Over virtual pairs in a namespace of the test's own,
//! which ends with its thread. Needs root; without it the tests say so and pass.

mod veth;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use veth::{ip, pair};

/// Runs `test` in a fresh network namespace with two pairs: c0-wan and s0-lan.
fn in_namespace(test: impl FnOnce() + Send) {
    veth::in_namespace(|| {
        // A new namespace may have it from the machine's own.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
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
    start(command(program(), more))
}

/// The same of any command line.
fn start(mut command: Command) -> (Child, BufReader<std::process::ChildStdout>, String) {
    let mut child = command.spawn().unwrap();
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
                "TPACKET_V2",
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
            for (expected, when) in [("3 workers on any core", several), ("inboxes", several), ("on core 0", !several)]
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
        // The build directory may be closed to others. Not copied here: a child that another test begins meanwhile would have the copy open for
        // writing, and what is open so cannot be run.
        let copy = scratch("program");
        assert!(Command::new("cp").arg(program()).arg(&copy).status().unwrap().success());
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
            ("--cores 0,900", "core 900: the process may not run there; it may on 0"),
            ("--port b=af-packet:c0,mtu=9000", "has an MTU of 1500"),
            ("--port b=pcap:/nonexistent.pcap", "/nonexistent.pcap"),
            ("--port b=af-packet:c0,tee=/nonexistent/tee", "/nonexistent/tee"),
        ] {
            assert_refused(command(program(), more), expected);
        }
    });
}

/// The likeliest first mistake: the kernel resets what servers answer, and nothing shows it.
#[test]
fn an_address_that_the_kernel_has_too_is_refused_with_what_to_type_on_any_interface() {
    in_namespace(|| {
        pair("other", "its-end");
        for (address, device, family) in [
            ("10.77.0.1/24", "wan", "ip= of port 'wan'"),
            ("10.78.0.1/16", "other", "ip= of port 'lan'"),
            ("10.77.0.100/32", "lo", "VIP 10.77.0.100:443"),
        ] {
            ip(&format!("addr add {address} dev {device}"));
            for driver in ["af-packet", "af-xdp"] {
                let mut command = Command::new(program());
                command.args(RUN.replace("af-packet", driver).split_whitespace());
                let what = format!("({family}, on {device}) as well");
                assert_refused(command, &what);
            }
            let typed = format!("ip addr del {address} dev {device}");
            assert_refused(command(program(), ""), &typed);
            // What is to be typed mends it.
            ip(typed.strip_prefix("ip ").unwrap());
        }
        let (mut child, _, _) = started("");
        signal(&child, libc::SIGTERM);
        assert_eq!((child.wait().unwrap().code(), rest(&mut child).as_str()), (Some(0), ""));
    });
}

/// Reads warnings until one holds this; the process is stopped then.
fn warned(mut child: Child, expected: &str) {
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let (mut line, mut all) = (String::new(), String::new());
    // The test's end, should it never come, is the harness's.
    while !line.contains(expected) {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it ended: {all}");
        all += &line;
    }
    assert!(line.starts_with("dispatcher: warning: "), "{line}");
    signal(&child, libc::SIGTERM);
    all.clear();
    lines.read_to_string(&mut all).unwrap();
    assert_eq!((child.wait().unwrap().code(), all.matches(expected).count()), (Some(0), 0), "once: {all}");
}

#[test]
fn an_address_that_the_kernel_gets_meanwhile_is_told() {
    in_namespace(|| {
        let (child, _out, _) = started("");
        ip("addr add 10.77.0.100/24 dev wan");
        warned(child, "ip addr del 10.77.0.100/24 dev wan");
    });
}

const FILE: &str = "[[port]]\nname = \"wan\"\ndriver = \"af-packet:wan\"\nip = \"10.77.0.1/24\"\n\
    [[port]]\nname = \"lan\"\ndriver = \"af-packet:lan\"\nip = \"10.78.0.1/24\"\n\
    [[service]]\nname = \"shop\"\nlisten = [\"10.77.0.100:443\", \"10.77.0.101:443\"]\npool = \"shop\"\n\
    route = [{ sni = \"api.example.com\", pool = \"api\" }]\n\
    [[service]]\nname = \"mail\"\nlisten = [\"10.77.0.100:993\"]\npool = \"api\"\n\
    [pool.shop]\nbackend = [{ name = \"web1\", address = \"10.78.0.11:443\" }]\n\
    [pool.api]\nbackend = [{ name = \"api1\", address = \"10.78.0.12:443\" }]\n";

fn with_file(text: &str) -> (std::path::PathBuf, Command) {
    let path = std::env::temp_dir().join(format!("dispatcher-{}-{}.toml", std::process::id(), text.len()));
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new(program());
    command.args(["run", "--config"]).arg(&path);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    (path, command)
}

#[test]
fn a_file_with_two_services_starts_both_and_stands_alone() {
    in_namespace(|| {
        let (path, command) = with_file(FILE);
        let (mut child, _out, said) = start(command);
        for expected in ["10.77.0.100:443", "10.77.0.101:443", "10.77.0.100:993", "web1", "api1"] {
            assert!(said.contains(expected), "{expected}: {said}");
        }
        signal(&child, libc::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let mut command = with_file(FILE).1;
        command.args(["--stats-interval", "1s"]);
        assert_refused(command, "cannot be used with");
        std::fs::remove_file(path).unwrap();
    });
}

#[test]
fn a_file_with_faults_starts_nothing_and_all_of_them_are_told_with_their_places() {
    let (path, mut command) =
        with_file(&FILE.replace("pool = \"api\" }", "pool = \"apis\" }").replace("10.78.0.12:443", "10.77.0.100:443"));
    let done = command.output().unwrap();
    std::fs::remove_file(&path).unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(done.stdout.is_empty());
    let places = said.lines().filter(|line| line.starts_with(&format!("{}:", path.display()))).count();
    assert!(places >= 2 && said.contains(":13:") && said.contains("apis"), "{said}");
    assert!(said.contains("'api1' has the address of a VIP"), "{said}");
}

#[test]
fn an_address_that_a_local_route_gives_to_the_kernel_is_told_while_it_runs_and_refused_at_the_start() {
    in_namespace(|| {
        ip("link set lo up");
        let (child, _out, _) = started("");
        // As a transparent proxy adds it: no interface has the address.
        ip("route add local 10.77.0.96/28 dev lo");
        warned(child, "the kernel takes 10.77.0.100 (VIP 10.77.0.100:443) for its own by a local route");
        let mut command = Command::new(program());
        command.args(RUN.split_whitespace());
        assert_refused(command, "ip route del local PREFIX");
    });
}

#[test]
fn a_frame_that_is_too_long_is_told_with_what_to_type() {
    for (offload, said) in [("on", "ip link set wan mtu N"), ("off", "ethtool -K wan gro off lro off tso off gso off")]
    {
        in_namespace(|| {
            let mut command = Command::new(program());
            let ports = RUN.replace(":wan,", &format!(":wan,offload={offload},"));
            command.args(ports.split_whitespace());
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
            let (child, _out, _) = start(command);
            // The far end may send longer frames than ours takes.
            ip("link set c0 mtu 9000");
            let program = "import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('c0', 0x800)); \
                s.send(bytes.fromhex('ff' * 6 + '020000000009' + '0800') + bytes(3000))";
            ip("link set wan mtu 9000");
            let sent = Command::new("python3").args(["-c", program]).output().expect("python3 is there");
            assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
            warned(child, said);
        });
    }
}

#[test]
fn another_host_that_has_the_vip_is_told() {
    in_namespace(|| {
        // The far end, in a namespace of its own: the kernel has nothing of it here.
        let far = veth::Far::of("c0");
        far.ip("addr add 10.77.0.100/24 dev c0");
        far.ip("link set c0 up");
        for driver in ["af-packet", "af-xdp"] {
            let mut command = Command::new(program());
            command.args(RUN.replace("af-packet", driver).split_whitespace());
            command.stdout(Stdio::null()).stderr(Stdio::piped()).stdin(Stdio::null());
            warned(command.spawn().unwrap(), "says that it has 10.77.0.100");
        }
    });
}

#[test]
fn what_will_not_go_well_is_warned_of_at_the_start_each_in_one_line() {
    in_namespace(|| {
        ip("link set lo up");
        let _listener = std::net::TcpListener::bind("0.0.0.0:443").unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/lan/forwarding", "1").unwrap();
        let (mut child, _, _) = started("--vip 10.99.0.1:80 --vip 10.78.0.1:25");
        signal(&child, libc::SIGTERM);
        child.wait().unwrap();
        let told = rest(&mut child);
        for expected in [
            "VIP 10.77.0.100:443: a process of this machine listens at 0.0.0.0:443",
            "VIP 10.99.0.1:80 is in no port's network",
            "VIP 10.78.0.1:25 is port 'lan''s own address, too",
            "sysctl -w net.ipv4.conf.lan.forwarding=0",
        ] {
            assert_eq!(told.matches(expected).count(), 1, "{expected}: {told}");
        }
        assert_eq!(told.lines().count(), 4, "{told}");
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

/// What `dispatcher ctl` says: exit status, standard output, standard error.
fn ctl(socket: &Path, words: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(program());
    let done = command.arg("ctl").arg("--socket").arg(socket).args(words.split_whitespace()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

#[test]
fn a_running_dispatcher_is_asked_by_its_control_socket_which_is_gone_with_it() {
    in_namespace(|| {
        let (socket, log, moved) = (scratch("control"), scratch("ctl-log"), scratch("ctl-log.1"));
        let flags = format!("--workers 2 --control {} --connections-log {}", socket.display(), log.display());
        let (mut child, _out, _) = started(&flags);
        // Everything can be shown, as a table and as JSON.
        for (what, expected) in [
            ("", "2 workers"),
            ("services", "10.77.0.100:443"),
            ("backends", "web2"),
            ("sessions", "affinity table: 0 session ids"),
            ("workers", "running"),
            ("drops", ""),
        ] {
            let (status, said, wrong) = ctl(&socket, &format!("show {what}"));
            assert_eq!((status, wrong.as_str()), (Some(0), ""), "{what}");
            assert!(said.contains(expected), "{what}: {said}");
            let (status, json, _) = ctl(&socket, &format!("show {what} --json"));
            assert!(status == Some(0) && (json.starts_with('{') || json.starts_with('[')), "{what}: {json}");
        }
        // Wanted and observed side by side.
        let (_, backends, _) = ctl(&socket, "show backends");
        let row: Vec<_> = backends.lines().find(|l| l.starts_with("web2")).unwrap().split_whitespace().collect();
        assert_eq!((&row[..3], row[4]), (&["web2", "10.78.0.12:443", "up,"][..], "2"), "{backends}");
        // The log is opened anew under its name, by ctl and by signal.
        for by_signal in [false, true] {
            std::fs::rename(&log, &moved).unwrap();
            if by_signal {
                signal(&child, libc::SIGUSR1);
                let until = Instant::now() + Duration::from_secs(10);
                while !log.exists() && Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(10));
                }
            } else {
                assert_eq!(ctl(&socket, "log reopen").0, Some(0));
            }
            assert!(log.exists(), "by signal: {by_signal}");
        }
        // Another one does not take the socket away.
        let refused = command(program(), &format!("--control {}", socket.display()));
        assert_refused(refused, "another dispatcher answers there");
        assert_eq!(ctl(&socket, "show").0, Some(0));
        signal(&child, libc::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let said = rest(&mut child);
        assert!(said.contains("control: log reopen (uid "), "{said}");
        assert!(!socket.exists());
        let (status, out, wrong) = ctl(&socket, "show");
        assert_eq!((status, out.as_str(), wrong.lines().count()), (Some(2), "", 1), "{wrong}");
        assert!(wrong.starts_with("dispatcher: no dispatcher answers at "), "{wrong}");
        [log, moved].iter().for_each(|file| std::fs::remove_file(file).unwrap());
    });
}

/// What is answered at the address of metrics.
fn got(request: &str) -> String {
    let mut stream = TcpStream::connect("127.0.0.1:9127").unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: metrics\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_running_dispatcher_answers_prometheus_and_nobody_who_wants_a_change() {
    in_namespace(|| {
        ip("link set lo up");
        let (mut child, _out, _) = started("--workers 2 --metrics 127.0.0.1:9127");
        let answer = got("GET /metrics");
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 200 OK") && head.contains("content-type: text/plain; version=0.0.4"),
            "{head}"
        );
        for line in
            ["dispatcher_workers 2", "dispatcher_flows{worker=\"1\"} 0", "# TYPE dispatcher_dials_total counter"]
        {
            assert!(text.lines().any(|l| l.starts_with(line)), "{line}\n{text}");
        }
        assert!(got("GET /v1/backends").starts_with("HTTP/1.1 404"));
        assert!(got("POST /metrics").starts_with("HTTP/1.1 405"));
        assert_refused(
            command(program(), "--metrics 127.0.0.1:9127"),
            "metrics at 127.0.0.1:9127: Address already in use",
        );
        signal(&child, libc::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    });
}

#[test]
fn a_killed_dispatchers_control_socket_is_taken_over_and_without_a_log_none_is_reopened() {
    in_namespace(|| {
        let socket = scratch("stale");
        let flags = format!("--control {}", socket.display());
        let (mut child, _out, _) = started(&flags);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(socket.exists());
        let (mut child, _out, _) = started(&flags);
        let (status, _, wrong) = ctl(&socket, "log reopen");
        assert_eq!((status, wrong.lines().count()), (Some(1), 1), "{wrong}");
        assert!(wrong.contains("--connections-log"), "{wrong}");
        // No reason to end.
        signal(&child, libc::SIGUSR1);
        assert_eq!(ctl(&socket, "show").0, Some(0));
        signal(&child, libc::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    });
}

/// A configuration file, with a control socket.
fn configuration(control: &Path) -> String {
    format!(
        r#"
[dispatcher]
workers = 2
control = "{}"

[[port]]
name = "wan"
driver = "af-packet:wan"
ip = ["10.77.0.1/24"]

[[port]]
name = "lan"
driver = "af-packet:lan"
ip = ["10.78.0.1/24"]

[[service]]
name = "shop"
listen = ["10.77.0.100:443"]
pool = "shop"

[pool.shop]
backend = [
  {{ name = "web1", address = "10.78.0.11:443" }},
  {{ name = "web2", address = "10.78.0.12:443" }},
]
"#,
        control.display()
    )
}

/// Asks until it is so.
fn until(socket: &Path, words: &str, so: impl Fn(&str) -> bool) -> String {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let (_, said, wrong) = ctl(socket, words);
        if so(&said) {
            return said;
        }
        assert!(Instant::now() < end, "{words}: {said}{wrong}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_happens_is_told_as_events_and_in_a_log_of_objects() {
    in_namespace(|| {
        let (socket, file) = (scratch("events"), scratch("events.toml"));
        let text = configuration(&socket).replacen("[dispatcher]", "[dispatcher]\nlog-format = \"json\"", 1);
        std::fs::write(&file, &text).unwrap();
        let mut command = Command::new(program());
        command.args(["run", "--config"]).arg(&file);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
        let (mut child, _out, _) = start(command);
        until(&socket, "show backends", |said| said.contains("web1"));
        // How it began is no event: a link that is down a moment later is.
        std::thread::sleep(Duration::from_millis(1500));
        ip("link set lan down");
        until(&socket, "events", |said| said.contains("! link          port lan: its link is down"));
        ip("link set lan up");
        until(&socket, "events", |said| said.contains("port lan: its link is up"));
        let (code, _, wrong) = ctl(&socket, "drain web2 --for 1s");
        assert_eq!(code, Some(0), "{wrong}");
        // At once, and what ends by itself when it has ended.
        let (_, said, _) = ctl(&socket, "events");
        assert!(said.contains("override: drain web2 for 1 s, says uid "), "{said}");
        assert!(said.contains("backend web2 is wanted draining, says the operator (was up)"), "{said}");
        until(&socket, "events", |said| said.contains("override is over: drain web2"));
        std::fs::write(&file, text.replacen("443\"]", "443\", \"10.77.0.101:443\"]", 1)).unwrap();
        assert_eq!(ctl(&socket, "reload").0, Some(0));
        let (_, said, _) = ctl(&socket, "events --json");
        let all: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = all.iter().rfind(|e| e["kind"] == "configuration").unwrap();
        assert!(last["text"].as_str().unwrap().contains("+ service shop: listener 10.77.0.101:443"), "{said}");
        assert!(all.windows(2).all(|two| two[1]["number"].as_u64() == two[0]["number"].as_u64().map(|n| n + 1)));
        signal(&child, libc::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let log = rest(&mut child);
        let lines: Vec<serde_json::Value> =
            log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
        let has = |level: &str, words: &str| {
            lines.iter().any(|l| l["level"] == level && l["message"].as_str().is_some_and(|m| m.contains(words)))
        };
        assert!(has("WARN", "port lan: its link is down") && has("INFO", "control: drain web2 (uid "), "{log}");
        let told = lines.iter().find(|l| l["kind"] == "link").unwrap();
        assert_eq!((&told["port"], &told["state"]), (&"lan".into(), &"down".into()), "{log}");
    });
}

#[test]
fn the_service_manager_hears_when_it_is_ready_reloads_lives_and_ends() {
    in_namespace(|| {
        let (control, file, manager) = (scratch("notify"), scratch("notify.toml"), scratch("notify.manager"));
        std::fs::write(&file, configuration(&control)).unwrap();
        let _ = std::fs::remove_file(&manager);
        let heard = std::os::unix::net::UnixDatagram::bind(&manager).unwrap();
        heard.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let next = |wanted: &str| {
            let mut buffer = [0; 1024];
            loop {
                let len = heard.recv(&mut buffer).unwrap_or_else(|e| panic!("{wanted}: {e}"));
                let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
                if text.contains(wanted) {
                    return text;
                }
                // What comes in between is the state, and that it lives.
                assert!(text.starts_with("STATUS=") || text == "WATCHDOG=1\n", "{text}, not {wanted}");
            }
        };
        let mut command = Command::new(program());
        command.args(["run", "--config"]).arg(&file).env("NOTIFY_SOCKET", &manager).env("WATCHDOG_USEC", "400000");
        command.env_remove("WATCHDOG_PID").stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
        let (mut child, _out, _) = start(command);
        assert_eq!(next("READY=1"), "READY=1\nSTATUS=2 workers run\n");
        next("WATCHDOG=1");
        assert!(next("backends up").contains("STATUS=2 workers, "));
        signal(&child, libc::SIGHUP);
        assert!(next("RELOADING=1").contains("MONOTONIC_USEC="));
        next("READY=1");
        // The worker's loop turns on, so there is more than one of them.
        (0..3).for_each(|_| _ = next("WATCHDOG=1"));
        signal(&child, libc::SIGTERM);
        next("STOPPING=1");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    });
}

#[test]
fn what_operators_say_is_in_force_at_once_and_after_a_restart_until_its_time_is_over_or_the_file_changes() {
    in_namespace(|| {
        let (socket, file) = (scratch("day-two"), scratch("day-two.toml"));
        let text = configuration(&socket);
        let write = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
        };
        write("", "");
        let run = || {
            let mut command = Command::new(program());
            command.args(["run", "--config"]).arg(&file);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
            start(command)
        };
        let (mut child, _out, _) = run();
        let good = |words: &str| {
            let (status, said, wrong) = ctl(&socket, words);
            assert_eq!((status, wrong.as_str()), (Some(0), ""), "{words}");
            said
        };
        let bad = |words: &str, expected: &str| {
            let (status, said, wrong) = ctl(&socket, words);
            assert_eq!((status, said.as_str()), (Some(1), ""), "{words}");
            assert!(wrong.contains(expected), "{words}: {wrong}");
        };
        let version = || good("diff").split_whitespace().nth(1).unwrap().trim_end_matches(',').to_string();
        let row = |name: &str| good("show backends").lines().find(|l| l.starts_with(name)).unwrap_or("").to_string();
        let said = good("drain web1 --for 1h --why disk");
        assert!(said.contains("~ backend web1: state up -> draining\n") && said.contains("in all workers"), "{said}");
        assert!(row("web1").contains("drain web1 (by uid ") && row("web1").contains(": disk)"), "{}", row("web1"));
        good("weight web2 5");
        good("add shop web3=10.78.0.13:443,weight=2 --for 2s");
        bad("remove web9", "there is no backend 'web9'");
        bad("add shop web4=10.78.0.11:443", "two backends have the address 10.78.0.11:443");
        bad("add shop web4=192.0.2.9:443", "is in no port's network");
        // Two operators: what the second one knows is old.
        let old = version();
        good(&format!("weight web2 6 --only-if {old}"));
        bad(&format!("weight web2 7 --only-if {old}"), "somebody has changed something");
        // Its time is over.
        until(&socket, "show backends", |said| !said.lines().any(|l| l.starts_with("web3")));
        // A file with faults changes nothing; each is told with its place.
        let before = version();
        write("[pool.shop]", "[pool.shop]\nbalance = \"best\"\ncolour = 1");
        let (status, _, wrong) = ctl(&socket, "reload");
        assert_eq!(status, Some(1));
        for expected in
            ["2 faults, nothing was changed\n", "\n  22:11: balance: 'best'", "\n  23:1: unknown key 'colour'"]
        {
            assert!(wrong.contains(expected), "{wrong}");
        }
        write("workers = 2", "workers = 1");
        bad("reload", "needs a restart: workers 2 -> 1; nothing was changed");
        assert_eq!(version(), before);
        // One more listener, by signal; overrides stay.
        write("\"10.77.0.100:443\"", "\"10.77.0.100:443\", \"10.77.0.101:443\"");
        assert!(good("diff").contains("+ service shop: listener 10.77.0.101:443"));
        assert!(good("reload --dry-run").contains("nothing was done"));
        signal(&child, libc::SIGHUP);
        until(&socket, "show services", |said| said.contains("10.77.0.101:443"));
        assert!(row("web1").contains("draining") && row("web2").contains("weight 6"));
        assert!(good("sessions forget web2").contains("forgotten"));
        good("remove web2 --now");
        // Over a restart.
        signal(&child, libc::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let told = rest(&mut child);
        assert!(told.contains("control: drain web1 (uid ") && told.contains("dispatcher: reload: "), "{told}");
        let (mut child, _out, _) = run();
        assert!(row("web1").contains("draining") && row("web2").is_empty(), "{}", good("show backends"));
        let diff = good("diff");
        assert!(diff.contains("override: drain web1 ") && diff.contains("override: remove web2 "), "{diff}");
        good("ready web2");
        assert!(row("web2").contains("up"));
        // What the file says anew wins.
        write("10.78.0.11:443\"", "10.78.0.11:443\", state = \"down\"");
        assert!(good("reload").contains("'drain web1'"));
        assert_eq!(row("web1").split_whitespace().nth(2), Some("down"));
        assert!(!good("diff").contains("override"));
        signal(&child, libc::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let kept = PathBuf::from(format!("{}.overrides", socket.display()));
        [file, kept].iter().for_each(|file| std::fs::remove_file(file).unwrap());
    });
}
