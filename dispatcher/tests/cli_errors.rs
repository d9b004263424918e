//! Wrong command lines: one clear line on standard error, exit status 2, nothing started, nothing on standard output.

use std::process::{Command, Output};

fn dispatcher(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dispatcher")).args(arguments).output().expect("the program runs")
}

/// Runs `run` with what is right everywhere, and `wrong` in addition.
fn run_with(wrong: &str) -> Output {
    let right = "run --port net=af-packet:nosuch0,ip=10.0.0.1/24 --vip 10.0.0.100:443 --backend a=10.0.0.11:443";
    dispatcher(&right.split(' ').chain(wrong.split_whitespace()).collect::<Vec<_>>())
}

fn assert_refused(output: &Output, expected: &str, what: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{what}: {error}");
    assert_eq!(error.lines().count(), 1, "{what}: {error}");
    assert!(error.starts_with("dispatcher: ") && error.contains(expected), "{what}: {error}");
    assert!(output.stdout.is_empty(), "{what}");
}

#[test]
fn each_wrong_flag_is_refused_in_one_line_that_names_it() {
    for (wrong, expected) in [
        ("--bogus", "--bogus"),
        ("extra", "extra"),
        ("--balance fastest", "fastest"),
        ("--hash-on colour", "colour"),
        ("--hash-seed red", "red"),
        ("--address-mode bridge", "bridge"),
        ("--proxy-protocol v1", "v1"),
        ("--affinity maybe", "maybe"),
        ("--resume-fallback home", "source-ip or balance"),
        ("--ticket-key a", "NAME=HEX16"),
        ("--ticket-key a=0011", "32 digits"),
        ("--ticket-key b=00112233445566778899aabbccddeeff", "no backend 'b'"),
        ("--idle never", "never"),
        ("--service-kind smtp", "smtp"),
        ("--hello-timeout 5", "such as 500ms"),
        ("--hello-timeout 0s", "zero"),
        ("--session-ttl soon", "such as 500ms"),
        ("--session-capacity 0", "from 1"),
        ("--flow-capacity -1", "-1"),
        ("--flow-capacity 99999999999", "from 1"),
        ("--stats-interval", "--stats-interval"),
        ("--workers 0", "from 1"),
        ("--workers 769", "from 1 to 768"),
        ("--workers 2 --port b=pcap:/nonexistent.pcap", "a capture has one queue"),
        ("--workers 3 --port b=af-packet:eth1,queues=2", "queues=2 does not fit"),
        ("--cores 1,1", "core 1 given twice"),
        ("--cores 0-2,1", "core 1 given twice"),
        ("--cores 1000", "core 1000: the process may not run there; it may on "),
        ("--workers 1 --cores 0", "cannot be used with"),
        ("--port second", "NAME=DRIVER:DEVICE"),
        ("--port b=netmap:eth1", "unknown driver 'netmap'"),
        ("--port b=af-packet:eth1,ip=10.0.0.1", "ADDR/PREFIX"),
        ("--port b=af-packet:eth1,speed=1", "speed=1"),
        ("--port net=af-packet:eth1", "port 'net' is given twice"),
        ("--port b=af-packet:nosuch0", "two ports have the device nosuch0"),
        ("--port b=af-packet:eth1,ip=10.0.0.1/24", "given to two ports"),
        ("--port b=af-packet:eth1,queues=2", "there are 1 (--workers"),
        ("--vip 10.0.0.100:443", "VIP 10.0.0.100:443 is given twice"),
        ("--vip 10.0.0.100", "ADDR:PORT"),
        ("--vip example.org:443", "numeric"),
        ("--vip fd00::1:443", "brackets"),
        ("--vip 10.0.0.100:0", "port 0"),
        ("--vip [fd00::1]:443", "VIP [fd00::1]:443 has no IPv6 backend"),
        ("--backend a=10.0.0.12:443", "backend 'a' is given twice"),
        ("--backend b=10.0.0.11:443", "two backends have the address 10.0.0.11:443"),
        ("--backend b=10.0.0.12:443,weight=heavy", "weight"),
        ("--backend 10.0.0.12:443", "NAME=ADDR:PORT"),
        ("--backend b=[fd00::11]:443", "backend 'b' is IPv6, but there is no IPv6 VIP"),
        ("--backend b=10.0.0.100:8443", "address of a VIP"),
        ("--backend b=10.9.9.9:443", "in no port's network"),
        ("--backend b=10.0.0.1:443", "own address"),
        ("--vip [fd00::1]:443 --backend b=[fd00::11]:443", "no port has an IPv6 address"),
        ("--connections-log /nonexistent/log", "nosuch0"),
        // With nothing else wrong, the device is.
        ("", "no network device named 'nosuch0'"),
    ] {
        assert_refused(&run_with(wrong), expected, wrong);
    }
}

#[test]
fn drivers_that_are_not_there_say_so() {
    for (driver, expected) in [
        ("af-xdp:nosuch0", "no network device named"),
        #[cfg(not(feature = "dpdk"))]
        ("dpdk:0000:00:01.0", "built without DPDK"),
        ("mem:x", "driver mem"),
        ("af-packet:lo", "not Ethernet"),
    ] {
        let port = format!("net={driver},ip=10.0.0.1/24");
        let output = dispatcher(&["run", "--port", &port, "--vip", "10.0.0.100:443", "--backend", "a=10.0.0.11:443"]);
        assert_refused(&output, expected, driver);
    }
}

#[test]
fn what_is_missing_is_named() {
    for (line, expected) in [
        ("", "run or replay"),
        ("serve", "serve"),
        ("run", "--port"),
        ("run --port n=af-packet:x", "no --vip"),
        ("run --port n=af-packet:x --vip 10.0.0.1:1", "no --backend"),
        (
            "run --port n=af-packet:x --vip 10.0.0.1:1 --backend a=10.0.0.2:1,weight=0",
            "every IPv4 backend has weight 0: none would take a new session",
        ),
        (
            "run --port n=af-packet:x --vip 10.0.0.1:1 --vip [fd00::1]:1 --backend a=10.0.0.2:1 \
             --backend b=[fd00::2]:1,weight=0",
            "every IPv6 backend has weight 0",
        ),
        ("replay Cargo.toml --backend a=10.0.0.1:1,weight=0", "every IPv4 backend has weight 0"),
        ("replay", "FILE"),
        ("replay /nonexistent.pcap", "/nonexistent.pcap"),
        ("replay Cargo.toml", "Cargo.toml"),
        ("replay Cargo.toml --out Cargo.toml", "overwritten"),
        ("replay Cargo.toml --vip 10.0.0.1:443", "--vip without --backend"),
        ("replay Cargo.toml --backend a=10.0.0.1:1 --backend a=10.0.0.2:1", "backend 'a' is given twice"),
    ] {
        assert_refused(&dispatcher(&line.split_whitespace().collect::<Vec<_>>()), expected, line);
    }
    assert!(std::fs::read_to_string("Cargo.toml").unwrap().contains("[package]"), "it was not overwritten");
}

#[test]
fn help_names_every_flag_of_the_contract_and_gives_examples() {
    let help = dispatcher(&["run", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in "--port --vip --backend --balance --hash-on --address-mode --proxy-protocol --workers --cores --idle \
        --hello-timeout --affinity --session-capacity --session-ttl --flow-capacity --flow-idle-timeout \
        --connections-log --stats-interval Examples: CAP_NET_RAW"
        .split_whitespace()
    {
        assert!(help.contains(flag), "{flag}");
    }
    let help = String::from_utf8(dispatcher(&["replay", "--help"]).stdout).unwrap();
    for flag in ["--json", "--out", "--vip", "--backend", "--affinity", "Examples:"] {
        assert!(help.contains(flag), "{flag}");
    }
    let help = String::from_utf8(dispatcher(&["ctl", "--help"]).stdout).unwrap();
    for word in ["show", "log", "--socket", "Examples:", "Exit status"] {
        assert!(help.contains(word), "{word}");
    }
    for (wrong, expected) in [
        (&["ctl"][..], "ctl"),
        (&["ctl", "show", "everything"], "everything"),
        (&["ctl", "--socket", "/nonexistent/s", "show"], "no dispatcher answers at /nonexistent/s"),
    ] {
        assert_refused(&dispatcher(wrong), expected, expected);
    }
    assert_eq!(dispatcher(&["--version"]).status.code(), Some(0));
}
