//! A configuration as the file that says it: what flags and overrides have come to can be read, compared and kept like any other.
//!
//! What holds anyway is left out. [`super::file::read`] of it gives the same configuration, which a fuzz target holds.

use super::checks;
use super::class::kind_word;
use super::configuration::{Configuration, Process};
use super::port::PortArg;
use super::values::{BalanceArg, HashOnArg};
use crate::engine::{AddressMode, TicketKey};
use crate::io::af_xdp;
use crate::worker::Idle;
use clap::ValueEnum;
use core::fmt::Display;
use core::time::Duration;
use lb::admission::{ClassSpec, Share};
use lb::{
    Agent, Algorithm, Asked, BackendLimits, Check, HashOn, MemberSpec, Policy, PoolSpec, ServiceKind, ServiceSpec,
    State,
};
use std::collections::HashSet;
use std::path::Path;

/// The whole file.
pub fn text(configuration: &Configuration) -> String {
    let Configuration { process, ports, wanted, ticket_keys } = configuration;
    let mut file = String::new();
    table(&mut file, "[dispatcher]", of_process(process));
    for port in ports {
        table(&mut file, "[[port]]", of_port(port));
    }
    for service in &wanted.services {
        table(&mut file, "[[service]]", of_service(service));
    }
    // A backend's keys are told once.
    let mut told = HashSet::new();
    for pool in &wanted.pools {
        let keys = |backend: &str| if told.insert(backend.to_owned()) { keys_of(backend, ticket_keys) } else { vec![] };
        table(&mut file, &format!("[pool.{}]", quoted(&pool.name)), of_pool(pool, keys));
    }
    file
}

type Lines = Vec<(&'static str, String)>;

fn table(file: &mut String, head: &str, lines: Lines) {
    if lines.is_empty() {
        return;
    }
    let gap = if file.is_empty() { "" } else { "\n" };
    *file += &format!("{gap}{head}\n");
    for (key, value) in lines {
        *file += &format!("{key} = {value}\n");
    }
}

/// As a string of TOML. What JSON escapes TOML does in the same way, and DEL besides.
fn quoted(text: &(impl Display + ?Sized)) -> String {
    serde_json::Value::from(text.to_string()).to_string().replace('\u{7f}', "\\u007F")
}

fn path(path: &Path) -> String {
    quoted(&path.display())
}

fn duration(duration: Duration) -> String {
    quoted(&humantime::format_duration(duration))
}

fn list<T>(all: &[T], one: impl Fn(&T) -> String) -> String {
    format!("[{}]", all.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn inline(lines: Lines) -> String {
    format!("{{ {} }}", lines.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", "))
}

/// The word of the key for what it means.
fn word<E: ValueEnum + Copy + Into<T>, T: PartialEq>(meant: &T) -> String {
    let word = E::value_variants().iter().find(|word| (**word).into() == *meant).and_then(E::to_possible_value);
    quoted(&word.map(|word| word.get_name().to_owned()).unwrap_or_default())
}

fn of_process(process: &Process) -> Lines {
    let usual = Process::default();
    let mut lines = Lines::new();
    lines.extend(process.workers.map(|n| ("workers", n.to_string())));
    lines.extend(process.cores.as_ref().map(|cores| {
        let cores: Vec<String> = cores.0.iter().map(usize::to_string).collect();
        ("cores", quoted(&cores.join(",")))
    }));
    if process.idle != usual.idle {
        let word = match process.idle {
            Idle::Spin => "spin",
            Idle::Yield => "yield",
            Idle::Sleep => "sleep",
        };
        lines.push(("idle", quoted(word)));
    }
    if process.address_mode != AddressMode::default() {
        lines.push(("address-mode", quoted(process.address_mode.as_str())));
    }
    if process.hash_seed != usual.hash_seed {
        // TOML has no numbers above 2^63.
        lines.push(("hash-seed", quoted(&process.hash_seed)));
    }
    if process.session_capacity != usual.session_capacity {
        lines.push(("session-capacity", process.session_capacity.to_string()));
    }
    if process.session_ttl != usual.session_ttl {
        lines.push(("session-ttl", duration(process.session_ttl)));
    }
    if process.flow_capacity != usual.flow_capacity {
        lines.push(("flow-capacity", process.flow_capacity.to_string()));
    }
    if process.flow_idle_timeout != usual.flow_idle_timeout {
        lines.push(("flow-idle-timeout", duration(process.flow_idle_timeout)));
    }
    lines.extend(process.connections_log.as_deref().map(|file| ("connections-log", path(file))));
    lines.extend(process.control.as_deref().map(|file| ("control", path(file))));
    lines.extend(process.overrides.as_deref().map(|file| ("overrides", path(file))));
    lines.extend(process.state.as_deref().map(|file| ("state", path(file))));
    lines.extend(process.tunnel_key.as_deref().map(|file| ("tunnel-key", path(file))));
    if !process.learn_keys {
        lines.push(("learn-keys", quoted("off")));
    }
    lines.extend(process.metrics.map(|at| ("metrics", quoted(&at))));
    lines.extend(process.stats_interval.map(|every| ("stats-interval", duration(every))));
    if process.log_format != usual.log_format {
        lines.push(("log-format", quoted(process.log_format.as_str())));
    }
    if process.log_level != usual.log_level {
        lines.push(("log-level", quoted(process.log_level.as_str())));
    }
    lines
}

fn of_port(port: &PortArg) -> Lines {
    let PortArg { name, driver, device, addresses, gateways, queues, vlans, mtu, mode, offload, huge, out, tee } = port;
    let mut lines = vec![("name", quoted(name)), ("driver", quoted(&format!("{}:{device}", driver.as_str())))];
    if !addresses.is_empty() {
        lines.push(("ip", list(addresses, |(ip, prefix)| quoted(&format!("{ip}/{prefix}")))));
    }
    if !gateways.is_empty() {
        lines.push(("gateway", list(gateways, quoted)));
    }
    if !vlans.is_empty() {
        lines.push(("vlan", list(vlans, u16::to_string)));
    }
    lines.extend(mtu.map(|n| ("mtu", n.to_string())));
    lines.extend(queues.map(|n| ("queues", n.to_string())));
    let words = af_xdp::Mode::ALL.iter();
    lines.extend(mode.and_then(|mode| words.clone().find(|(_, m)| *m == mode)).map(|(word, _)| ("mode", quoted(word))));
    let on_or_off = |on: bool| quoted(if on { "on" } else { "off" });
    lines.extend(offload.map(|on| ("offload", on_or_off(on))));
    lines.extend(huge.map(|on| ("huge", on_or_off(on))));
    lines.extend(out.as_deref().map(|file| ("out", path(file))));
    lines.extend(tee.as_deref().map(|file| ("tee", path(file))));
    lines
}

fn of_service(service: &ServiceSpec) -> Lines {
    let ServiceSpec { name, listen, pool, routes, policy } = service;
    let mut lines = vec![("name", quoted(name)), ("listen", list(listen, quoted)), ("pool", quoted(pool))];
    if !routes.is_empty() {
        let one = |route: &lb::RouteSpec| {
            let mut lines = Lines::new();
            if !route.sni.is_empty() {
                lines.push(("sni", list(&route.sni, quoted)));
            }
            if !route.alpn.is_empty() {
                lines.push(("alpn", list(&route.alpn, |protocol| quoted(&String::from_utf8_lossy(protocol)))));
            }
            lines.push(("pool", quoted(&route.pool)));
            inline(lines)
        };
        lines.push(("route", list(routes, one)));
    }
    let usual = Policy::default();
    if policy.proxy_protocol {
        lines.push(("proxy-protocol", quoted(if policy.accept_proxy.pass { "pass" } else { "v2" })));
    }
    if !policy.accept_proxy.from.is_empty() {
        lines.push(("accept-proxy", list(&policy.accept_proxy.from, quoted)));
    }
    if !policy.affinity {
        lines.push(("affinity", quoted("off")));
    } else if let Some(cookie) = &policy.cookie {
        lines.push(("affinity", inline(vec![("cookie", quoted(cookie.as_str()))])));
    }
    if policy.hello_timeout != usual.hello_timeout {
        lines.push(("hello-timeout", duration(policy.hello_timeout)));
    }
    if policy.kind == ServiceKind::Tls {
        lines.push(("service-kind", quoted("tls")));
    }
    if policy.servers_have_ech {
        lines.push(("servers-have-ech", "true".into()));
    }
    if policy.spill_after != usual.spill_after {
        lines.push(("spill-after", policy.spill_after.map_or_else(|| quoted("never"), duration)));
    }
    if policy.classes != usual.classes {
        lines.push(("class", list(policy.classes.specs(), |class| inline(of_class(class)))));
    }
    lines
}

fn of_class(class: &ClassSpec) -> Lines {
    let ClassSpec { name, listeners, clients, sni, alpn, cost, share, queue, timeout, reserve } = class;
    let usual = ClassSpec::new("");
    let mut lines = vec![("name", quoted(name))];
    lines.extend(cost.map(|cost| ("kind", quoted(kind_word(cost)))));
    if !clients.is_empty() {
        lines.push(("client", list(clients, quoted)));
    }
    if !listeners.is_empty() {
        lines.push(("listen", list(listeners, quoted)));
    }
    if !sni.is_empty() {
        lines.push(("sni", list(sni, quoted)));
    }
    if !alpn.is_empty() {
        lines.push(("alpn", list(alpn, |protocol| quoted(&String::from_utf8_lossy(protocol)))));
    }
    match share {
        Share::Strict => lines.push(("strict", "true".into())),
        Share::Weight(weight) if *share != usual.share => lines.push(("weight", weight.to_string())),
        Share::Weight(_) => {}
    }
    if *queue != usual.queue {
        lines.push(("queue", queue.to_string()));
    }
    if *timeout != usual.timeout {
        lines.push(("queue-timeout", duration(*timeout)));
    }
    if *reserve != usual.reserve {
        lines.push(("reserve", reserve.to_string()));
    }
    lines
}

fn of_pool(pool: &PoolSpec, mut keys: impl FnMut(&str) -> Vec<String>) -> Lines {
    let mut lines = Lines::new();
    if pool.balance != Algorithm::default() {
        lines.push(("balance", word::<BalanceArg, _>(&pool.balance)));
    }
    if pool.hash_on != HashOn::default() {
        lines.push(("hash-on", word::<HashOnArg, _>(&pool.hash_on)));
    }
    if pool.resume_fallback != PoolSpec::default().resume_fallback {
        lines.push(("resume-fallback", quoted(&pool.resume_fallback)));
    }
    lines.extend(of_checks(&pool.check.clone().into(), &pool.agent.into()));
    let backends: Vec<String> = pool.backends.iter().map(|b| inline(of_backend(b, keys(&b.name)))).collect();
    lines.push(("backend", format!("[\n  {},\n]", backends.join(",\n  "))));
    lines
}

fn of_backend(backend: &MemberSpec, keys: Vec<String>) -> Lines {
    let MemberSpec { name, addr, weight, state, limits, check, agent, tunnel } = backend;
    let BackendLimits { max_connections, max_handshakes, slow_start } = limits;
    let mut lines = vec![("name", quoted(name)), ("address", quoted(addr))];
    if *weight != 1 {
        lines.push(("weight", weight.to_string()));
    }
    if *state != State::Up {
        lines.push(("state", quoted(state)));
    }
    lines.extend(max_connections.map(|n| ("max-connections", n.to_string())));
    lines.extend(max_handshakes.map(|n| ("max-handshakes", quoted(&n))));
    lines.extend(slow_start.map(|time| ("slow-start", duration(time))));
    if !keys.is_empty() {
        lines.push(("ticket-key", list(&keys, quoted)));
    }
    lines.extend(tunnel.map(|tunnel| ("tunnel", inline(super::tunnel::told(&tunnel)))));
    lines.extend(of_checks(check, agent));
    lines
}

fn of_checks(check: &Asked<Check>, agent: &Asked<Agent>) -> Lines {
    let check = asked(check, checks::told).map(|check| ("check", check));
    let agent = asked(agent, checks::told_of).map(|agent| ("agent-check", agent));
    check.into_iter().chain(agent).collect()
}

fn asked<T>(own: &Asked<T>, told: fn(&T) -> Lines) -> Option<String> {
    match own {
        Asked::AsPool => None,
        Asked::Off => Some(quoted(&checks::OFF)),
        Asked::This(this) => Some(inline(told(this))),
    }
}

fn keys_of(backend: &str, keys: &[TicketKey]) -> Vec<String> {
    let key = |key: &TicketKey| match key {
        TicketKey::Name { name, .. } => format!("{:032x}", u128::from_be_bytes(*name)),
        TicketKey::Unknown { .. } => "unknown".to_owned(),
    };
    keys.iter().filter(|key| key.backend() == backend).map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::file;

    #[test]
    fn a_file_with_every_key_is_written_as_one_that_says_the_same() {
        let all = r#"
            [dispatcher]
            cores = "4"
            idle = "spin"
            address-mode = "dnat"
            hash-seed = "18446744073709551615"
            session-capacity = 500000
            session-ttl = "90m"
            flow-capacity = 1000
            flow-idle-timeout = "1500ms"
            connections-log = "/var/log/a \"b\"\\c\u0007\u007f.jsonl"
            control = "/run/d.sock"
            overrides = "/var/lib/o.json"
            state = "/var/lib/o.state"
            tunnel-key = "/etc/o.key"
            metrics = "[::1]:9127"
            stats-interval = "10s"
            log-format = "json"
            log-level = "warning"

            [[port]]
            name = "wan"
            driver = "af-xdp:eth1"
            ip = ["192.0.2.2/24", "[2001:db8::2]/64"]
            gateway = ["192.0.2.1", "2001:db8::1"]
            vlan = [300, 40]
            mtu = 1400
            queues = 3
            mode = "zero-copy"
            tee = "all.pcapng"

            [[port]]
            name = "lan"
            driver = "pcap:in.pcap"
            ip = ["198.51.100.2/24", "2001:db8:1::2/64"]
            out = "sent.pcap"

            [[service]]
            name = "shop"
            listen = ["192.0.2.10:443", "[2001:db8::10]:443"]
            pool = "a.b:1"
            proxy-protocol = "pass"
            accept-proxy = ["10.0.0.0/8", "2001:db8::/32"]
            affinity = "off"
            hello-timeout = "5s 250ms"
            service-kind = "tls"
            servers-have-ech = true
            spill-after = "never"
            class = [
              { name = "staff", client = ["10.0.0.0/8", "2001:db8::/32"], listen = "192.0.2.10:443", kind = "full", strict = true, reserve = 10 },
              { name = "api", sni = "*.example.com", alpn = ["h2"], weight = 4, queue = 9, queue-timeout = "500ms" },
              { name = "rest" },
            ]
            route = [{ sni = ["api.example.com", "*.example.com"], alpn = ["h2"], pool = "api" }, { alpn = ["a\"b"], pool = "api" }]

            [[service]]
            name = "plain"
            listen = "192.0.2.10:80"
            pool = "api"
            affinity = { cookie = "JSESSION-ID" }

            [pool."a.b:1"]
            balance = "least-conn"
            hash-on = "tuple"
            resume-fallback = "balance"
            backend = [
              { name = "web1", address = "198.51.100.11:443", weight = 0, ticket-key = ["00112233445566778899aabbccddeeff", "0000000000000000000000000000000f"] },
              { name = "web2", address = "198.51.100.12:443", weight = 7, state = "draining", max-connections = 4000, max-handshakes = 40, slow-start = "1m" },
              { name = "web6", address = "[2001:db8:1::11]:443", ticket-key = "unknown", max-handshakes = "auto" },
            ]

            [pool.api]
            balance = "random-two"
            check = { kind = "https", sni = "a.example", path = "/\"up", host = "h:8", method = "HEAD", expect = "200-204", interval = "5s", timeout = "1s", rise = 1, fall = 9, port = 8443 }
            agent-check = { port = 9999, interval = "250ms" }
            backend = [
              { name = "web1", address = "198.51.100.11:443", check = "off", agent-check = "off" },
              { name = "web7", address = "198.51.100.17:443", check = { kind = "tcp" }, agent-check = { port = 1 } },
              { name = "web8", address = "198.51.100.18:443", tunnel = { kind = "vxlan", endpoint = "203.0.113.5:8472", vni = 7, mac = "02:00:00:00:00:08" } },
              { name = "web9", address = "198.51.100.19:443", tunnel = { kind = "ipip", endpoint = "203.0.113.6" } },
              { name = "web10", address = "198.51.100.20:443", tunnel = { kind = "wireguard", endpoint = "203.0.113.7:4500", public-key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=" } },
              { name = "web6", address = "[2001:db8:1::11]:443", max-handshakes = "auto" },
            ]
        "#;
        let read = |text: &str| file::read("f", text.as_bytes()).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
        let once = read(all);
        let written = text(&once);
        assert_eq!(read(&written), once, "{written}");
        assert_eq!(text(&read(&written)), written);
        let shop = include_str!("../../../docs/shop.toml");
        assert_eq!(read(&text(&read(shop))), read(shop));
    }
}
