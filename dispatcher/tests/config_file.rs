//! The configuration file: what is read from it, and what is said of its mistakes.

use clap::CommandFactory;
use dispatcher::cli::args::Cli;
use dispatcher::control::configuration::Configuration;
use dispatcher::control::fault::MAX_FAULTS;
use dispatcher::control::file::{MAX_FILE, read};
use dispatcher::control::keys::{INSTEAD, KEYS, Table};
use lb::State;
use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

const SHOP: &str = include_str!("../../docs/shop.toml");

fn good(text: &str) -> Configuration {
    read("f", text.as_bytes()).unwrap_or_else(|faults| panic!("{faults}"))
}

/// All faults as `LINE:COLUMN: WHAT; HINT`.
fn faults(text: &str) -> Vec<String> {
    let faults = read("f", text.as_bytes()).expect_err("something is wrong").faults;
    let one = |f: &dispatcher::control::fault::Fault| {
        let hint = f.hint.as_ref().map_or(String::new(), |hint| format!("; {hint}"));
        format!("{}:{}: {}{hint}", f.line, f.column, f.what)
    };
    faults.iter().map(one).collect()
}

#[test]
fn the_example_is_read_as_it_says() {
    let c = good(SHOP);
    assert_eq!(c.process.cores.as_ref().unwrap().0, [2, 3]);
    assert_eq!((c.ports.len(), c.ports[0].addresses.len(), c.ports[0].gateways.len()), (2, 2, 2));
    let shop = &c.wanted.services[0];
    assert_eq!((shop.name.as_str(), shop.listen.len(), shop.pool.as_str()), ("shop", 2, "shop"));
    assert!(shop.policy.proxy_protocol && shop.policy.affinity && !c.wanted.services[1].policy.proxy_protocol);
    let route = &shop.routes[0];
    let sni: Vec<_> = route.sni.iter().map(|p| p.to_string()).collect();
    assert_eq!((sni, route.pool.as_str()), (vec!["api.example.com".into(), "*.api.example.com".to_string()], "api"));
    assert_eq!(route.alpn, [b"h2".to_vec()]);
    let pools: Vec<_> =
        c.wanted.pools.iter().map(|p| (p.name.as_str(), p.balance.as_str(), p.backends.len())).collect();
    assert_eq!(pools, [("shop", "least-conn", 3), ("api", "maglev", 3), ("mail", "maglev", 1)]);
    assert_eq!((c.wanted.pools[0].backends[1].weight, c.wanted.pools[1].backends[1].state), (2, State::Draining));
    assert_eq!(c.ticket_keys.len(), 1);
}

#[test]
fn a_mistake_is_told_with_its_place_and_what_was_meant() {
    // What is replaced by what, the text at which the fault stands, and what is said of it.
    for (from, to, at, expected) in [
        ("balance = ", "ballance = ", "ballance", "unknown key 'ballance' in [pool.shop]; did you mean 'balance'?"),
        (
            "\"least-conn\"",
            "\"least-con\"",
            "\"least-con\"",
            "balance: 'least-con' is none of maglev, least-conn, round-robin, random-two; did you mean 'least-conn'?",
        ),
        ("weight = 2", "weight = 2000", "2000", "weight: expected a number from 0 to 1000"),
        ("weight = 2", "weight = 1.5", "1.5", "'weight' cannot be a number with a point; such as weight = 2"),
        ("pool = \"mail\"", "pool = \"male\"", "\"male\"", "there is no pool male; did you mean 'mail'?"),
        ("h2\"], pool = \"api\"", "h2\"], pool = \"apis\"", "\"apis\"", "there is no pool apis; did you mean 'api'?"),
        (
            "name = \"mail\"\n",
            "name = \"shop\"\n",
            "[[service]]\nname = \"shop\"\nlisten = [\"192.0.2.11",
            "service shop is given twice",
        ),
        ("192.0.2.11:993", "192.0.2.10:443", "\"192.0.2.10:443\"]", "service 'shop' listens at 192.0.2.10:443 already"),
        (
            "192.0.2.11:993",
            "192.0.2.11:993\", \"[2001:db8::11]:993",
            "\"[2001:db8::11]:993",
            "pool 'mail': VIP [2001:db8::11]:993 has no IPv6 backend",
        ),
        (
            "name = \"api7\"",
            "name = \"web6\"",
            "{ name = \"web6\", address = \"[2001:db8:1::22]",
            "backend web6 has the address [2001:db8:1::22]:8443 here and [2001:db8:1::11]:443 elsewhere",
        ),
        (
            "198.51.100.31:993",
            "198.51.100.11:443",
            "\"198.51.100.11:443\" }]",
            "two backends have the address 198.51.100.11:443: 'web1' and 'mail1'",
        ),
        ("198.51.100.31:993", "192.0.2.11:993", "\"192.0.2.11:993\" }]", "backend 'mail1' has the address of a VIP"),
        (
            "198.51.100.31:993",
            "198.51.100.2:993",
            "\"198.51.100.2:993\"",
            "backend 'mail1' has port 'lan''s own address",
        ),
        ("*.api.example.com", "*api.example.com", "\"*api.example.com\"", "a wildcard is the whole first label"),
        (
            "sni = [\"api.example.com\"",
            "host = [\"a\"], sni = [\"api.example.com\"",
            "host = ",
            "unknown key 'host' in a route",
        ),
        (
            "cores = \"2,3\"",
            "workers = 2\ncores = \"2,3\"",
            "\"2,3\"",
            "'cores' cannot stand beside 'workers'; each core has one worker",
        ),
        (
            "cores = \"2,3\"",
            "hello-timeout = \"3s\"",
            "hello-timeout",
            "unknown key 'hello-timeout' in [dispatcher]; it belongs to [[service]]",
        ),
        (
            "service-kind = \"tls\"",
            "class = [{ name = \"a\", strict = true, weight = 2 }]",
            "2 }]",
            "'weight' cannot stand beside 'strict'",
        ),
        (
            "service-kind = \"tls\"",
            "class = [{ name = \"a\", reserve = 60 }, { name = \"b\", reserve = 50 }]",
            "[{ name = \"a\"",
            "the reserves are 110 % together",
        ),
        (
            "service-kind = \"tls\"",
            "class = [{ name = \"a\", kind = \"resume\" }]",
            "\"resume\"",
            "kind: expected resumes, full or non-tls",
        ),
        ("weight = 2", "max-handshakes = 9", "9 }", "expected auto, or units from 10 to 1048575"),
        ("weight = 2", "check = \"on\"", "\"on\"", "'check' is a table, not a text; such as check = {"),
        (
            "weight = 2",
            "agent-check = \"off\", check = { kind = \"off\" }",
            "\"off\" } }",
            "expected tcp, tls, http or https",
        ),
        ("service-kind = \"tls\"", "spill-after = \"soon\"", "\"soon\"", "500ms, 30s or 1h, or never"),
        ("cores = \"2,3\"", "cores = \"2,3", "\nconnections-log", "invalid basic string"),
    ] {
        assert_eq!(SHOP.matches(from).count(), 1, "{from}");
        let text = SHOP.replace(from, to);
        assert_eq!(text.matches(at).count(), 1, "{at}");
        let before = text.split(at).next().unwrap();
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let place = format!("{}:{column}: ", before.matches('\n').count() + 1);
        let told = faults(&text);
        assert_eq!(told.len(), 1, "{from} -> {to}: {told:#?}");
        assert!(told[0].starts_with(&place) && told[0].contains(expected), "{told:?}\n{place}{expected}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = SHOP
        .replace("af-xdp:eth1", "af-xpd:eth1")
        .replace("\"v2\"", "\"v1\"")
        .replace("198.51.100.12:443", "198.51.100.12")
        .replace("service-kind", "service-kin")
        .replace("[pool.mail]\n", "[pool.mail]\nbackend = []\n[pool.other]\n")
        .replace("name = \"wan\"\n", "");
    let all = faults(&text);
    let lines: Vec<usize> = all.iter().map(|f| f.split(':').next().unwrap().parse().unwrap()).collect();
    assert_eq!(all.len(), 5, "{all:#?}");
    assert!(lines.is_sorted());
}

#[test]
fn what_cannot_be_a_file_is_said_and_never_a_panic() {
    assert!(faults("").iter().any(|f| f.contains("[[service]]")));
    let long = vec![b'#'; MAX_FILE + 1];
    assert!(read("f", &long).unwrap_err().faults[0].what.contains("at most"));
    let bad = read("f", b"a = 1\n\xff\xfe").unwrap_err();
    assert_eq!((bad.faults[0].line, bad.faults[0].column), (2, 1));
    let many: String = (0..1000).fold(String::new(), |text, n| text + &format!("k{n} = 1\n"));
    let many = read("f", many.as_bytes()).unwrap_err();
    assert_eq!(many.faults.len(), MAX_FAULTS);
    assert!(many.more >= 900);
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(read("f", deep.as_bytes()).is_err());
}

#[test]
fn every_flag_has_its_key() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    for flag in run.get_arguments().filter_map(|a| a.get_long()) {
        let key = match flag {
            "vip" => "listen",
            // The file itself; how this process begins.
            "help" | "config" | "takeover" | "background" | "detached" => continue,
            other => other,
        };
        assert!(KEYS.iter().any(|k| k.name == key), "--{flag} has no key");
    }
    for (table, sought, _) in INSTEAD {
        assert!(!table.keys().any(|k| k.name == *sought), "{sought}");
    }
}

#[test]
fn every_key_takes_the_value_that_the_document_shows() {
    // A key that goes wrong beside others, or with another driver only.
    let apart = ["workers", "offload", "huge", "out"];
    for key in KEYS.iter().filter(|k| k.table != Table::Root) {
        let (name, value) = (key.name, key.value);
        let line = format!("{name} = {value}\n");
        let text = match key.table {
            Table::Dispatcher if name == "workers" => SHOP.replace("cores = \"2,3\"\n", &line),
            Table::Dispatcher if SHOP.contains(&format!("\n{name} = ")) => continue,
            Table::Dispatcher => SHOP.replace("[dispatcher]\n", &format!("[dispatcher]\n{line}")),
            Table::Port if apart.contains(&name) => {
                let driver = match name {
                    "offload" => "af-packet:eth2",
                    "huge" => "dpdk:net_null0",
                    _ => "pcap:in.pcap",
                };
                SHOP.replace("driver = \"af-xdp:eth2\"\n", &format!("driver = \"{driver}\"\n{line}"))
            }
            Table::Port if ["name", "driver", "ip", "gateway"].contains(&name) => continue,
            Table::Port => SHOP.replace("driver = \"af-xdp:eth2\"\n", &format!("driver = \"af-xdp:eth2\"\n{line}")),
            Table::Service if ["name", "listen", "pool", "service-kind"].contains(&name) => continue,
            Table::Service => SHOP.replace("name = \"mail\"\n", &format!("name = \"mail\"\n{line}")),
            Table::Pool if name == "backend" => continue,
            Table::Pool => SHOP.replace("[pool.mail]\n", &format!("[pool.mail]\n{line}")),
            Table::Backend if ["name", "address"].contains(&name) => continue,
            Table::Backend => SHOP.replace("{ name = \"api7\"", &format!("{{ {name} = {value}, name = \"api7\"")),
            Table::Class if name == "name" => continue,
            Table::Class => SHOP.replace(
                "name = \"mail\"\n",
                &format!("name = \"mail\"\nclass = [{{ name = \"c\", {name} = {value} }}]\n"),
            ),
            Table::Tunnel => {
                // Of the kind that has the key.
                let (kind, others) = match name {
                    "public-key" | "address" => ("wireguard", ["vni", "mac"]),
                    _ => ("vxlan", ["public-key", "address"]),
                };
                let all =
                    Table::Tunnel.keys().filter(|k| k.name != "kind" && k.name != name && !others.contains(&k.name));
                let rest: Vec<_> = all.map(|k| format!(", {} = {}", k.name, k.value)).collect();
                let kind = format!("kind = \"{kind}\"");
                let said = if name == "kind" { kind } else { format!("{kind}, {line}") };
                let tunnel = format!("tunnel = {{ {}{} }}, name = \"api7\"", said.trim(), rest.concat());
                // The one at an address of the tunnel's family.
                let tunnel = if others == ["vni", "mac"] { tunnel.replace("api7", "api1") } else { tunnel };
                let text = SHOP.replace(tunnel.rsplit(", ").next().expect("its name"), &tunnel);
                text.replace("[dispatcher]\n", "[dispatcher]\ntunnel-key = \"/etc/dispatcher/tunnel.key\"\n")
            }
            Table::Check if name == "kind" => continue,
            Table::Check => {
                // Of the kind that it says something to.
                let check = format!("check = {{ kind = \"https\", {name} = {value} }}, name = \"api7\"");
                SHOP.replace("name = \"api7\"", &check)
            }
            Table::Agent => {
                let port = if name == "port" { "" } else { "port = 1, " };
                let agent = format!("agent-check = {{ {port}{name} = {value} }}, name = \"api7\"");
                SHOP.replace("name = \"api7\"", &agent)
            }
            Table::Affinity => {
                SHOP.replace("name = \"mail\"\n", &format!("name = \"mail\"\naffinity = {{ {name} = {value} }}\n"))
            }
            Table::Route | Table::Root => continue,
        };
        assert_ne!(text, SHOP, "{name}");
        if name == "state" && key.table == Table::Backend {
            // Both IPv6 servers of the pool drain then, which is allowed.
            assert_eq!(good(&text).wanted.pools[1].backends[2].state, State::Draining);
        }
        let without = SHOP.replace("name = \"mail\"\n", "name = \"mail\"\nclass = [{ name = \"c\" }]\n");
        let plain = SHOP.replace("name = \"api7\"", "check = { kind = \"https\" }, name = \"api7\"");
        let without = match key.table {
            Table::Class => good(&without),
            Table::Check => good(&plain),
            _ => good(SHOP),
        };
        assert_ne!(good(&text), without, "{name} changes nothing");
    }
}

/// 100 services and 1,000 backends, as a file.
fn large() -> String {
    let mut text = String::from("[[port]]\nname = \"p\"\ndriver = \"af-packet:eth0\"\nip = [\"10.0.0.1/8\"]\n");
    for s in 0..100 {
        let _ = writeln!(
            text,
            "[[service]]\nname = \"s{s}\"\nlisten = [\"10.1.0.{s}:443\"]\npool = \"p{s}\"\nroute = [{{ sni = [\"a.s{s}.example\", \"*.s{s}.example\"], pool = \"p{s}\" }}]\n[pool.p{s}]\nbackend = ["
        );
        for b in 0..10 {
            let _ = writeln!(text, "  {{ name = \"b{s}-{b}\", address = \"10.2.{s}.{b}:443\", weight = 2 }},");
        }
        text.push_str("]\n");
    }
    text.replace("10.1.0.0:", "10.1.1.0:")
}

#[test]
fn a_hundred_services_with_a_thousand_backends_are_read() {
    let text = large();
    let c = good(&text);
    assert_eq!((c.wanted.services.len(), c.wanted.pools.iter().map(|p| p.backends.len()).sum()), (100, 1000));
    let took = (0..5).map(|_| {
        let start = Instant::now();
        good(&text);
        start.elapsed()
    });
    // No bound of a test: the figure for whoever wants it (--nocapture).
    println!("read and checked in {:?}", took.min().unwrap_or(Duration::ZERO));
}

#[test]
fn check_says_what_is_wrong_and_ends_with_its_status() {
    let folder = std::env::temp_dir().join(format!("dispatcher-check-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let run = |name: &str, text: &str, json: bool| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dispatcher"));
        command.arg("check").arg(&path).args(json.then_some("--json"));
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (status, out, err) = run("good.toml", SHOP, false);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert!(out.contains("services 2, pools 3, backends 7"), "{out}");
    let bad = SHOP.replace("balance", "ballance");
    let (status, out, err) = run("bad.toml", &bad, false);
    assert_eq!((status, out.as_str()), (Some(2), ""));
    assert!(err.contains("bad.toml:32:1: unknown key 'ballance'") && err.contains("\n     | ^^^^^^^^\n"), "{err}");
    let (status, out, _) = run("bad.toml", &bad, true);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &json["ok"], &json["faults"][0]["line"]), (Some(2), &false.into(), &32.into()));
    let missing = folder.join("missing.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_dispatcher")).arg("check").arg(&missing).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
    std::fs::remove_dir_all(&folder).unwrap();
}
