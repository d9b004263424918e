//! What is different between two configurations, in words.

use super::checks;
use super::class::kind_word;
use super::configuration::{Configuration, Process};
use super::port::PortArg;
use crate::engine::{AddressMode, TicketKey};
use crate::worker::Idle;
use core::fmt::{Debug, Display};
use lb::admission::{ClassSpec, Share};
use lb::service::{HashOn, ServiceKind};
use lb::{
    Agent, Asked, BackendLimits, Check, MemberSpec, Policy, PoolSpec, ResumeFallback, RouteSpec, ServiceSpec, Wanted,
};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

/// What kind of difference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Sign {
    /// Something comes.
    Comes,
    /// Something goes.
    Goes,
    /// Something is another.
    Changes,
    /// It cannot change while the dispatcher runs.
    Restart,
}

impl Sign {
    /// One character.
    pub const fn as_str(self) -> &'static str {
        match self {
            Sign::Comes => "+",
            Sign::Goes => "-",
            Sign::Changes => "~",
            Sign::Restart => "!",
        }
    }
}

/// One difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// What kind.
    pub sign: Sign,
    /// What, in words.
    pub what: String,
}

/// From one configuration to another: only what cannot change while running.
pub fn fixed(from: &Configuration, to: &Configuration) -> Vec<Difference> {
    let mut found = Found::default();
    processes(&from.process, &to.process, &mut found);
    ports(&from.ports, &to.ports, &mut found);
    ticket_keys(&from.ticket_keys, &to.ticket_keys, &mut found);
    found.0
}

/// From services, pools and backends to others; none when they are equal, and only then.
pub fn services(from: &Wanted, to: &Wanted) -> Vec<Difference> {
    let mut found = Found::default();
    let (old, new) = (by(&from.services, |s| &s.name), by(&to.services, |s| &s.name));
    for one in &from.services {
        match new.get(one.name.as_str()) {
            Some(other) => service(one, other, &mut found),
            None => found.put(Sign::Goes, format!("service {}", one.name)),
        }
    }
    for one in to.services.iter().filter(|s| !old.contains_key(s.name.as_str())) {
        found.put(Sign::Comes, format!("service {} at {}, pool {}", one.name, list(&one.listen), one.pool));
        one.routes.iter().for_each(|r| found.put(Sign::Comes, format!("service {}: {}", one.name, route(r))));
        policy(&one.name, &Policy::default(), &one.policy, &mut found);
    }
    let names = |all: &'_ Wanted| all.services.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    found.order(Sign::Changes, "services", common(names(from), &new), common(names(to), &old));
    pools(from, to, &mut found);
    found.0
}

#[derive(Default)]
struct Found(Vec<Difference>);

impl Found {
    fn put(&mut self, sign: Sign, what: String) {
        self.0.push(Difference { sign, what });
    }

    fn changed<T: PartialEq>(&mut self, what: &str, from: &T, to: &T, shown: impl Fn(&T) -> String) {
        if from != to {
            self.put(Sign::Changes, format!("{what} {} -> {}", shown(from), shown(to)));
        }
    }

    /// What both have stands in another order.
    fn order<T: PartialEq>(&mut self, sign: Sign, what: &str, from: Vec<T>, to: Vec<T>) {
        if from != to {
            self.put(sign, format!("{what}: in another order"));
        }
    }
}

/// Those that the other side has, too.
fn common<T>(names: Vec<String>, other: &HashMap<&str, T>) -> Vec<String> {
    names.into_iter().filter(|name| other.contains_key(name.as_str())).collect()
}

fn by<T>(all: &[T], name: impl Fn(&T) -> &String) -> HashMap<&str, &T> {
    all.iter().map(|one| (name(one).as_str(), one)).collect()
}

fn list<T: Display>(all: &[T]) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn on(on: &bool) -> String {
    String::from(if *on { "on" } else { "off" })
}

fn duration(d: &Duration) -> String {
    humantime::format_duration(*d).to_string()
}

fn service(from: &ServiceSpec, to: &ServiceSpec, found: &mut Found) {
    let name = &to.name;
    let (old, new): (HashSet<_>, HashSet<_>) = (from.listen.iter().collect(), to.listen.iter().collect());
    let listener = |at: &&SocketAddr| format!("service {name}: listener {at}");
    from.listen.iter().filter(|at| !new.contains(at)).for_each(|at| found.put(Sign::Goes, listener(&at)));
    to.listen.iter().filter(|at| !old.contains(at)).for_each(|at| found.put(Sign::Comes, listener(&at)));
    let stay = from.listen.iter().filter(|at| new.contains(at)).collect();
    let stays = to.listen.iter().filter(|at| old.contains(at)).collect();
    found.order(Sign::Changes, &format!("service {name}: listeners"), stay, stays);
    found.changed(&format!("service {name}: pool"), &from.pool, &to.pool, String::clone);
    if from.routes != to.routes {
        // The same route may be there twice.
        let mut left: Vec<&RouteSpec> = to.routes.iter().collect();
        let mut gone = Vec::new();
        for one in &from.routes {
            match left.iter().position(|other| *other == one) {
                Some(at) => drop(left.remove(at)),
                None => gone.push(one),
            }
        }
        if gone.is_empty() && left.is_empty() {
            found.put(Sign::Changes, format!("service {name}: routes: in another order"));
        }
        gone.iter().for_each(|one| found.put(Sign::Goes, format!("service {name}: {}", route(one))));
        left.iter().for_each(|one| found.put(Sign::Comes, format!("service {name}: {}", route(one))));
    }
    policy(name, &from.policy, &to.policy, found);
}

fn route(route: &RouteSpec) -> String {
    let protocols: Vec<_> = route.alpn.iter().map(|p| p.escape_ascii().to_string()).collect();
    let parts = [("sni", list(&route.sni)), ("alpn", list(&protocols))];
    let parts: Vec<_> =
        parts.iter().filter(|(_, all)| !all.is_empty()).map(|(key, all)| format!("{key} {all}")).collect();
    format!("route {} to pool {}", parts.join("; "), route.pool)
}

fn policy(name: &str, from: &Policy, to: &Policy, found: &mut Found) {
    let what = |key: &str| format!("service {name}: {key}");
    let proxy = |policy: &Policy| match (policy.proxy_protocol, policy.accept_proxy.pass) {
        (false, _) => "off",
        (true, false) => "v2",
        (true, true) => "pass",
    };
    let kind = |kind: &ServiceKind| String::from(if *kind == ServiceKind::Tls { "tls" } else { "auto" });
    let affinity = |policy: &Policy| match &policy.cookie {
        Some(cookie) if policy.affinity => format!("cookie {cookie}"),
        _ => on(&policy.affinity),
    };
    found.changed(&what("affinity"), &affinity(from), &affinity(to), String::clone);
    found.changed(&what("proxy-protocol"), &proxy(from), &proxy(to), |word| word.to_string());
    let prefixes = |all: &Vec<lb::admission::Prefix>| if all.is_empty() { "off".into() } else { list(all) };
    found.changed(&what("accept-proxy"), &from.accept_proxy.from, &to.accept_proxy.from, prefixes);
    found.changed(&what("hello-timeout"), &from.hello_timeout, &to.hello_timeout, duration);
    found.changed(&what("service-kind"), &from.kind, &to.kind, kind);
    found.changed(&what("servers-have-ech"), &from.servers_have_ech, &to.servers_have_ech, bool::to_string);
    let spill = |after: &Option<Duration>| after.as_ref().map_or_else(|| "never".into(), duration);
    found.changed(&what("spill-after"), &from.spill_after, &to.spill_after, spill);
    classes(name, from.classes.specs(), to.classes.specs(), found);
}

fn classes(service: &str, from: &[ClassSpec], to: &[ClassSpec], found: &mut Found) {
    let (old, new) = (by(from, |c| &c.name), by(to, |c| &c.name));
    for one in from {
        let name = format!("service {service}: class {}", one.name);
        match new.get(one.name.as_str()) {
            Some(other) => found.changed(&format!("{name}:"), one, other, class_in_words),
            None => found.put(Sign::Goes, name),
        }
    }
    for one in to.iter().filter(|c| !old.contains_key(c.name.as_str())) {
        found.put(Sign::Comes, format!("service {service}: class {}: {}", one.name, class_in_words(one)));
    }
    let names = |all: &[ClassSpec]| all.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    let what = format!("service {service}: classes");
    found.order(Sign::Changes, &what, common(names(from), &new), common(names(to), &old));
}

fn class_in_words(class: &ClassSpec) -> String {
    let ClassSpec { name: _, listeners, clients, sni, alpn, cost, share, queue, timeout, reserve } = class;
    let protocols: Vec<_> = alpn.iter().map(|p| p.escape_ascii().to_string()).collect();
    let lists =
        [("listen", list(listeners)), ("client", list(clients)), ("sni", list(sni)), ("alpn", list(&protocols))];
    let lists = lists.iter().filter(|(_, all)| !all.is_empty()).map(|(key, all)| format!("{key} {all}"));
    let kind = cost.map(|cost| format!("kind {}", kind_word(cost)));
    let share = match share {
        Share::Strict => String::from("strict"),
        Share::Weight(weight) => format!("weight {weight}"),
    };
    let rest = format!("queue {queue}, queue-timeout {}, reserve {reserve} %", duration(timeout));
    lists.chain(kind).chain([share, rest]).collect::<Vec<_>>().join("; ")
}

fn pools(from: &Wanted, to: &Wanted, found: &mut Found) {
    let (old, new) = (by(&from.pools, |p| &p.name), by(&to.pools, |p| &p.name));
    // A backend of several pools has one address and one state: told once.
    let mut told = HashSet::new();
    for one in &from.pools {
        match new.get(one.name.as_str()) {
            Some(other) => pool(one, other, &mut told, found),
            None => found.put(Sign::Goes, format!("pool {}", one.name)),
        }
    }
    for one in to.pools.iter().filter(|p| !old.contains_key(p.name.as_str())) {
        found.put(Sign::Comes, format!("pool {}", one.name));
        balance(&PoolSpec::default(), one, found);
        one.backends.iter().for_each(|b| found.put(Sign::Comes, member(&one.name, b)));
    }
    let names = |all: &Wanted| all.pools.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    found.order(Sign::Changes, "pools", common(names(from), &new), common(names(to), &old));
}

fn balance(from: &PoolSpec, to: &PoolSpec, found: &mut Found) {
    let what = |key: &str| format!("pool {}: {key}", to.name);
    let hash = |on: &HashOn| String::from(if *on == HashOn::Tuple { "tuple" } else { "source-ip" });
    let fallback = |to: &ResumeFallback| to.to_string();
    found.changed(&what("balance"), &from.balance, &to.balance, ToString::to_string);
    found.changed(&what("hash-on"), &from.hash_on, &to.hash_on, hash);
    found.changed(&what("resume-fallback"), &from.resume_fallback, &to.resume_fallback, fallback);
    found.changed(&what("check"), &from.check, &to.check, checks::shown);
    found.changed(&what("agent-check"), &from.agent, &to.agent, checks::shown_of);
}

fn member(pool: &str, backend: &MemberSpec) -> String {
    let MemberSpec { name, addr, weight, state, limits: of, check, agent, tunnel } = backend;
    let mut line = format!("pool {pool}: backend {name} at {addr}, weight {weight}, {state}");
    if *of != BackendLimits::default() {
        line += &format!(", {}", limits(of));
    }
    if check.is_said() {
        line += &format!(", check {}", own_check(check));
    }
    if agent.is_said() {
        line += &format!(", agent-check {}", own_agent(agent));
    }
    if tunnel.is_some() {
        line += &format!(", tunnel {}", super::tunnel::shown(tunnel));
    }
    line
}

fn own_check(check: &Asked<Check>) -> String {
    checks::shown_own(check, checks::shown)
}

fn own_agent(agent: &Asked<Agent>) -> String {
    checks::shown_own(agent, checks::shown_of)
}

fn limits(limits: &BackendLimits) -> String {
    let BackendLimits { max_connections, max_handshakes, slow_start } = limits;
    let parts = [
        max_connections.map(|n| format!("max-connections {n}")),
        max_handshakes.map(|n| format!("max-handshakes {n}")),
        slow_start.map(|time| format!("slow-start {}", duration(&time))),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "none".into() } else { parts.join(", ") }
}

fn pool(from: &PoolSpec, to: &PoolSpec, told: &mut HashSet<String>, found: &mut Found) {
    balance(from, to, found);
    let (old, new) = (by(&from.backends, |b| &b.name), by(&to.backends, |b| &b.name));
    for one in &from.backends {
        let name = &one.name;
        let Some(other) = new.get(name.as_str()) else {
            found.put(Sign::Goes, format!("pool {}: backend {name}", to.name));
            continue;
        };
        let mut of_all = Found::default();
        of_all.changed(&format!("backend {name}: address"), &one.addr, &other.addr, ToString::to_string);
        of_all.changed(&format!("backend {name}: state"), &one.state, &other.state, ToString::to_string);
        of_all.changed(&format!("backend {name}: limits"), &one.limits, &other.limits, limits);
        of_all.changed(&format!("backend {name}: check"), &one.check, &other.check, own_check);
        of_all.changed(&format!("backend {name}: agent-check"), &one.agent, &other.agent, own_agent);
        of_all.changed(&format!("backend {name}: tunnel"), &one.tunnel, &other.tunnel, super::tunnel::shown);
        found.0.extend(of_all.0.into_iter().filter(|difference| told.insert(difference.what.clone())));
        let weight = format!("pool {}: backend {name}: weight", to.name);
        found.changed(&weight, &one.weight, &other.weight, u16::to_string);
    }
    let come = to.backends.iter().filter(|b| !old.contains_key(b.name.as_str()));
    come.for_each(|one| found.put(Sign::Comes, member(&to.name, one)));
    let names = |all: &PoolSpec| all.backends.iter().map(|b| b.name.clone()).collect::<Vec<_>>();
    let what = format!("pool {}: backends", to.name);
    found.order(Sign::Changes, &what, common(names(from), &new), common(names(to), &old));
}

fn restart(found: &mut Found, what: impl Display, from: String, to: String) {
    if from != to {
        found.put(Sign::Restart, format!("{what} {from} -> {to}"));
    }
}

/// Of something that need not be there.
fn maybe<T>(value: &Option<T>, shown: impl Fn(&T) -> String) -> String {
    value.as_ref().map_or_else(|| String::from("none"), shown)
}

fn processes(from: &Process, to: &Process, found: &mut Found) {
    let path = |path: &std::path::PathBuf| path.display().to_string();
    let idle = |idle: Idle| match idle {
        Idle::Spin => "spin",
        Idle::Yield => "yield",
        Idle::Sleep => "sleep",
    };
    let mode = |mode: AddressMode| match mode {
        AddressMode::Snat => "snat",
        AddressMode::Dnat => "dnat",
    };
    let cores = |p: &Process| maybe(&p.cores, |c| list(&c.0));
    // Workers without cores of their own: one, if it is not said.
    let workers = |p: &Process| p.worker_count().to_string();
    let mut is = |key: &str, shown: &dyn Fn(&Process) -> String| restart(found, key, shown(from), shown(to));
    is("workers", &workers);
    is("cores", &cores);
    is("idle", &|p| idle(p.idle).to_string());
    is("address-mode", &|p| mode(p.address_mode).to_string());
    is("hash-seed", &|p| p.hash_seed.to_string());
    is("session-capacity", &|p| p.session_capacity.to_string());
    is("session-ttl", &|p| duration(&p.session_ttl));
    is("flow-capacity", &|p| p.flow_capacity.to_string());
    is("flow-idle-timeout", &|p| duration(&p.flow_idle_timeout));
    is("connections-log", &|p| maybe(&p.connections_log, path));
    is("control", &|p| maybe(&p.control, path));
    is("overrides", &|p| maybe(&p.overrides, path));
    is("state", &|p| maybe(&p.state, path));
    is("tunnel-key", &|p| maybe(&p.tunnel_key, path));
    is("learn-keys", &|p| on(&p.learn_keys));
    is("metrics", &|p| maybe(&p.metrics, SocketAddr::to_string));
    is("stats-interval", &|p| maybe(&p.stats_interval, duration));
    is("log-format", &|p| p.log_format.as_str().to_string());
    is("log-level", &|p| p.log_level.as_str().to_string());
}

fn ports(from: &[PortArg], to: &[PortArg], found: &mut Found) {
    let (old, new) = (by(from, |p| &p.name), by(to, |p| &p.name));
    for one in from {
        match new.get(one.name.as_str()) {
            Some(other) => port(one, other, found),
            None => found.put(Sign::Restart, format!("port {} goes", one.name)),
        }
    }
    for one in to.iter().filter(|p| !old.contains_key(p.name.as_str())) {
        found.put(Sign::Restart, format!("port {} comes", one.name));
    }
    let names = |all: &[PortArg]| all.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    found.order(Sign::Restart, "ports", common(names(from), &new), common(names(to), &old));
}

fn port(from: &PortArg, to: &PortArg, found: &mut Found) {
    fn any<T: Debug>(value: &Option<T>) -> String {
        maybe(value, |value| format!("{value:?}").to_lowercase())
    }
    let path = |path: &std::path::PathBuf| path.display().to_string();
    let all = |all: String| if all.is_empty() { String::from("none") } else { all };
    let ip = |p: &PortArg| {
        let own: Vec<_> = p.addresses.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect();
        all(list(&own))
    };
    let mut is = |key: &str, shown: &dyn Fn(&PortArg) -> String| {
        restart(found, format_args!("port {}: {key}", to.name), shown(from), shown(to))
    };
    is("driver", &|p| format!("{}:{}", p.driver.as_str(), p.device));
    is("ip", &ip);
    is("gateway", &|p| all(list(&p.gateways)));
    is("vlan", &|p| all(list(&p.vlans)));
    is("mtu", &|p| any(&p.mtu));
    is("queues", &|p| any(&p.queues));
    is("mode", &|p| any(&p.mode));
    is("offload", &|p| any(&p.offload));
    is("huge", &|p| any(&p.huge));
    is("out", &|p| maybe(&p.out, path));
    is("tee", &|p| maybe(&p.tee, path));
}

/// Their order says nothing.
fn ticket_keys(from: &[TicketKey], to: &[TicketKey], found: &mut Found) {
    let of = |key: &TicketKey| key.backend().to_string();
    let changed = from.iter().filter(|key| !to.contains(key)).chain(to.iter().filter(|key| !from.contains(key)));
    let backends: BTreeSet<String> = changed.map(of).collect();
    backends.iter().for_each(|name| found.put(Sign::Restart, format!("backend {name}: ticket-key")));
}
