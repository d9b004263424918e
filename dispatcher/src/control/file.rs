//! The configuration file: TOML, whose keys [`super::keys`] lists.

use super::backend::{max_connections, weight};
use super::checks;
use super::class;
use super::configuration::{Configuration, Process};
use super::fault::{Faults, meant};
use super::keys::Table;
use super::name::check_name;
use super::port::PortArg;
use super::reader::{Placed, Reader, Section, Span, word};
use super::rules::{self, About};
use super::tunnel;
use super::values::{
    AddressModeArg, BalanceArg, Cores, HashOnArg, IdleArg, LogFormatArg, LogLevelArg, OnOff, ProxyArg, ServiceKindArg,
    capacity, duration, number, resume_fallback, socket_address, spill_after, ticket_key, workers,
};
use crate::engine::TicketKey;
use lb::admission::{ClassSpec, Classes, Share};
use lb::service::{HashOn, ServiceKind};
use lb::{
    Agent, Algorithm, Asked, BackendLimits, Check, MemberSpec, Policy, PoolSpec, RouteSpec, ServiceSpec, SniPattern,
    State, Tunnel, Wanted,
};
use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Longest file. A thousand backends take a fortieth of it.
pub const MAX_FILE: usize = 4 << 20;

/// A file's bytes. Of one that is longer than `most`, one byte more than that: nobody takes it, and it is not read to its end.
///
/// # Errors
/// It cannot be read.
pub fn at_most(most: usize, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a file's bytes. `name` is what the faults call it.
pub fn read(name: &str, bytes: &[u8]) -> Result<Configuration, Faults> {
    let text = core::str::from_utf8(bytes.get(..MAX_FILE).unwrap_or(bytes)).or_else(|e| {
        // The part before the first byte that is no text; of a file that is too long that is told below.
        let good = core::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or_default();
        if bytes.len() > MAX_FILE { Ok(good) } else { Err(good) }
    });
    let text = match text {
        Ok(text) => text,
        Err(good) => {
            let mut reader = Reader::new(good);
            reader.broken(good.len()..good.len(), "the next byte is no UTF-8 text".into());
            return Err(reader.finish(name));
        }
    };
    if bytes.len() > MAX_FILE {
        let mut reader = Reader::new(text);
        reader.broken(0..0, format!("the file has {} bytes, at most {MAX_FILE} are read", bytes.len()));
        return Err(reader.finish(name));
    }
    let mut reader = Reader::new(text);
    let (tree, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        reader.broken(span, error.message().to_string());
    }
    let mut file = File { reader, places: HashMap::new(), told: HashSet::new() };
    let configuration = file.configuration(tree.get_ref());
    if file.reader.is_clean() {
        for broken in rules::faults(&configuration) {
            let (span, hint) = (file.place(broken.about), file.hint(broken.about, &configuration));
            file.reader.fault(&span, broken.what, hint);
        }
    }
    if file.reader.is_clean() { Ok(configuration) } else { Err(file.reader.finish(name)) }
}

struct File<'a> {
    reader: Reader<'a>,
    places: HashMap<About, Span>,
    /// Backends and keys that were told: a backend of two pools may tell them twice.
    told: HashSet<String>,
}

impl File<'_> {
    fn place(&self, about: About) -> Span {
        let parent = match about {
            About::PortAddress(n, _) => About::Port(n),
            About::ServicePool(n) | About::Listener(n, _) | About::Route(n, _) | About::RoutePool(n, _) => {
                About::Service(n)
            }
            About::Backend(n, _) | About::Address(n, _) => About::Pool(n),
            other => other,
        };
        self.places.get(&about).or_else(|| self.places.get(&parent)).cloned().unwrap_or(0..0)
    }

    /// Of a pool that is not there: the one that was meant.
    fn hint(&self, about: About, configuration: &Configuration) -> Option<String> {
        let wanted = &configuration.wanted;
        let named = match about {
            About::ServicePool(s) => &wanted.services[s].pool,
            About::RoutePool(s, r) => &wanted.services[s].routes[r].pool,
            _ => return None,
        };
        let near = meant(named, wanted.pools.iter().map(|pool| pool.name.as_str()));
        Some(match near {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("it would be written as [pool.{named}]"),
        })
    }

    fn put<T>(&mut self, about: About, placed: Placed<T>) -> T {
        self.places.insert(about, placed.1);
        placed.0
    }

    fn configuration(&mut self, tree: &DeTable<'_>) -> Configuration {
        let root = Section::new(&mut self.reader, Table::Root, "the file".into(), 0..0, tree);
        let mut all = Configuration { process: self.process(&root), ..Configuration::default() };
        for (span, table) in root.tables(&mut self.reader, "port") {
            if let Some(port) = self.port(all.ports.len(), span, table) {
                all.ports.push(port);
            }
        }
        for (span, table) in root.tables(&mut self.reader, "service") {
            let service = self.service(all.wanted.services.len(), span, table);
            all.wanted.services.push(service);
        }
        self.pools(&root, &mut all.wanted, &mut all.ticket_keys);
        if self.reader.is_toml() {
            for (name, what) in [
                ("port", "there is no [[port]]: nothing to take frames from"),
                ("service", "there is no [[service]]: nothing for clients to connect to"),
                ("pool", "there is no [pool.NAME]: nowhere to send connections"),
            ] {
                if root.get(name).is_none() {
                    self.reader.fault(&(0..0), what, None);
                }
            }
        }
        all
    }

    fn process(&mut self, root: &Section<'_>) -> Process {
        let mut process = Process::default();
        let Some(value) = root.get("dispatcher") else { return process };
        let DeValue::Table(table) = value.get_ref() else {
            self.reader.fault(&value.span(), "'dispatcher' is a table: [dispatcher]", None);
            return process;
        };
        let reader = &mut self.reader;
        let section = Section::new(reader, Table::Dispatcher, "[dispatcher]".into(), value.span(), table);
        let path = |text: &str| if text.is_empty() { Err("expected a file".into()) } else { Ok(PathBuf::from(text)) };
        process.workers = section.one(reader, "workers", workers).map(|(n, _)| n);
        let cores = section.one(reader, "cores", Cores::parse);
        if let (Some((_, at)), true) = (&cores, process.workers.is_some()) {
            reader.fault(at, "'cores' cannot stand beside 'workers'", Some("each core has one worker".into()));
        }
        process.cores = cores.map(|(cores, _)| cores);
        process.connections_log = section.one(reader, "connections-log", path).map(|(path, _)| path);
        process.control = section.one(reader, "control", path).map(|(path, _)| path);
        process.overrides = section.one(reader, "overrides", path).map(|(path, _)| path);
        process.state = section.one(reader, "state", path).map(|(path, _)| path);
        process.tunnel_key = section.one(reader, "tunnel-key", path).map(|(path, _)| path);
        process.metrics = section.one(reader, "metrics", socket_address).map(|(at, _)| at);
        process.stats_interval = section.one(reader, "stats-interval", duration).map(|(every, _)| every);
        if let Some((format, _)) = section.one(reader, "log-format", word::<LogFormatArg>) {
            process.log_format = format.into();
        }
        if let Some((level, _)) = section.one(reader, "log-level", word::<LogLevelArg>) {
            process.log_level = level.into();
        }
        if let Some((idle, _)) = section.one(reader, "idle", word::<IdleArg>) {
            process.idle = idle.into();
        }
        if let Some((mode, _)) = section.one(reader, "address-mode", word::<AddressModeArg>) {
            process.address_mode = mode.into();
        }
        if let Some((seed, _)) = section.one(reader, "hash-seed", |text| number(text, 0, u64::MAX)) {
            process.hash_seed = seed;
        }
        if let Some((learn, _)) = section.one(reader, "learn-keys", word::<OnOff>) {
            process.learn_keys = learn.into();
        }
        if let Some((n, _)) = section.one(reader, "session-capacity", capacity) {
            process.session_capacity = n;
        }
        if let Some((ttl, _)) = section.one(reader, "session-ttl", duration) {
            process.session_ttl = ttl;
        }
        if let Some((n, _)) = section.one(reader, "flow-capacity", capacity) {
            process.flow_capacity = n;
        }
        if let Some((timeout, _)) = section.one(reader, "flow-idle-timeout", duration) {
            process.flow_idle_timeout = timeout;
        }
        process
    }

    fn port(&mut self, number: usize, span: Span, table: &DeTable<'_>) -> Option<PortArg> {
        let section = Section::new(&mut self.reader, Table::Port, "[[port]]".into(), span.clone(), table);
        let name = section.must(&mut self.reader, "name", checked_name);
        let driver =
            section.must(&mut self.reader, "driver", |text| PortArg::new("port", text).map(|_| text.to_string()));
        let (name, driver) = (name?.0, driver?.0);
        let mut port = PortArg::new(&name, &driver).ok()?;
        let addresses = section.list(&mut self.reader, "ip", |text| port.set("ip", text));
        for (n, (_, at)) in addresses.into_iter().enumerate() {
            self.places.insert(About::PortAddress(number, n), at);
        }
        for key in ["gateway", "vlan", "mtu", "queues", "mode", "offload", "huge", "out", "tee"] {
            section.list(&mut self.reader, key, |text| port.set(key, text));
        }
        if let Err(why) = port.check() {
            let at = section.get("gateway").map_or(span.clone(), |value| value.span());
            self.reader.fault(&at, why, None);
        }
        self.places.insert(About::Port(number), span);
        Some(port)
    }

    fn service(&mut self, number: usize, span: Span, table: &DeTable<'_>) -> ServiceSpec {
        let section = Section::new(&mut self.reader, Table::Service, "[[service]]".into(), span.clone(), table);
        self.places.insert(About::Service(number), span);
        let reader = &mut self.reader;
        let name = section.must(reader, "name", checked_name);
        if section.get("listen").is_none() {
            section.missing(reader, "listen");
        }
        let listen = section.list(reader, "listen", socket_address);
        let pool = section.must(reader, "pool", checked_name);
        let mut policy = Policy::default();
        let in_words = |table: &DeValue<'_>| !matches!(table, DeValue::Table(_));
        if section.get("affinity").is_none_or(|value| in_words(value.get_ref())) {
            if let Some((affinity, _)) = section.one(reader, "affinity", word::<OnOff>) {
                policy.affinity = affinity.into();
            }
        } else if let Some((span, table)) = section.table(reader, "affinity") {
            let section = Section::new(reader, Table::Affinity, "an affinity".into(), span, table);
            policy.cookie = section.must(reader, "cookie", |text| text.parse()).map(|(name, _)| name);
        }
        if let Some((version, _)) = section.one(reader, "proxy-protocol", word::<ProxyArg>) {
            (policy.proxy_protocol, policy.accept_proxy.pass) = (true, version.into());
        }
        let from = section.list(reader, "accept-proxy", |text| text.parse());
        policy.accept_proxy.from = from.into_iter().map(|(prefix, _)| prefix).collect();
        if let Some((timeout, _)) = section.one(reader, "hello-timeout", duration) {
            policy.hello_timeout = timeout;
        }
        if let Some((kind, _)) = section.one(reader, "service-kind", word::<ServiceKindArg>) {
            policy.kind = match kind {
                ServiceKindArg::Auto => ServiceKind::Auto,
                ServiceKindArg::Tls => ServiceKind::Tls,
            };
        }
        let truth = |text: &str| text.parse().map_err(|_| String::from("expected true or false"));
        if let Some((ech, _)) = section.one(reader, "servers-have-ech", truth) {
            policy.servers_have_ech = ech;
        }
        if let Some((after, _)) = section.one(reader, "spill-after", spill_after) {
            policy.spill_after = after.0;
        }
        if let Some(classes) = classes(reader, &section) {
            policy.classes = classes;
        }
        let routes = section.tables(reader, "route");
        let routes =
            routes.into_iter().enumerate().map(|(r, (at, table))| self.route((number, r), at, table)).collect();
        let listen = listen.into_iter().enumerate().map(|(l, placed)| self.put(About::Listener(number, l), placed));
        let listen = listen.collect();
        let name = name.map(|(name, _)| name).unwrap_or_default();
        let pool = pool.map(|placed| self.put(About::ServicePool(number), placed)).unwrap_or_default();
        ServiceSpec { name, listen, pool, routes, policy }
    }

    fn route(&mut self, (s, r): (usize, usize), span: Span, table: &DeTable<'_>) -> RouteSpec {
        let reader = &mut self.reader;
        let section = Section::new(reader, Table::Route, "a route".into(), span.clone(), table);
        let sni = section.list(reader, "sni", |text| text.parse::<SniPattern>());
        let alpn = section.list(reader, "alpn", class::protocol);
        let pool = section.must(reader, "pool", checked_name);
        self.places.insert(About::Route(s, r), span);
        RouteSpec {
            sni: sni.into_iter().map(|(pattern, _)| pattern).collect(),
            alpn: alpn.into_iter().map(|(protocol, _)| protocol).collect(),
            pool: pool.map(|placed| self.put(About::RoutePool(s, r), placed)).unwrap_or_default(),
        }
    }

    fn pools(&mut self, root: &Section<'_>, wanted: &mut Wanted, keys: &mut Vec<TicketKey>) {
        let Some(value) = root.get("pool") else { return };
        let DeValue::Table(pools) = value.get_ref() else {
            self.reader.fault(&value.span(), "'pool' is a table of pools: [pool.NAME]", None);
            return;
        };
        // The parser keeps no order.
        let mut pools: Vec<_> = pools.iter().collect();
        pools.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in pools {
            let at = name.span();
            if let Err(why) = check_name(name.get_ref()) {
                self.reader.fault(&at, why, None);
                continue;
            }
            let DeValue::Table(table) = value.get_ref() else {
                self.reader.fault(&at, format!("pool '{}' is a table: [pool.{0}]", name.get_ref()), None);
                continue;
            };
            let number = wanted.pools.len();
            self.places.insert(About::Pool(number), at.clone());
            let pool = self.pool(number, name.get_ref(), at, table, keys);
            wanted.pools.push(pool);
        }
    }

    fn pool(
        &mut self,
        number: usize,
        name: &str,
        span: Span,
        table: &DeTable<'_>,
        keys: &mut Vec<TicketKey>,
    ) -> PoolSpec {
        let reader = &mut self.reader;
        let section = Section::new(reader, Table::Pool, format!("[pool.{name}]"), span, table);
        let mut pool = PoolSpec { name: name.to_string(), ..PoolSpec::default() };
        if let Some((balance, _)) = section.one(reader, "balance", word::<BalanceArg>) {
            pool.balance = match balance {
                BalanceArg::Maglev => Algorithm::Maglev,
                BalanceArg::LeastConn => Algorithm::LeastConn,
                BalanceArg::RoundRobin => Algorithm::RoundRobin,
                BalanceArg::RandomTwo => Algorithm::RandomTwo,
            };
        }
        if let Some((hash_on, _)) = section.one(reader, "hash-on", word::<HashOnArg>) {
            pool.hash_on = match hash_on {
                HashOnArg::SourceIp => HashOn::SourceIp,
                HashOnArg::Tuple => HashOn::Tuple,
            };
        }
        if let Some((fallback, _)) = section.one(reader, "resume-fallback", resume_fallback) {
            pool.resume_fallback = fallback;
        }
        // "off" says of a pool what holds anyway.
        (pool.check, pool.agent) = (self.check(&section).in_pool(None), self.agent(&section).in_pool(None));
        if section.get("backend").is_none() {
            section.missing(&mut self.reader, "backend");
        }
        let reader = &mut self.reader;
        for (at, table) in section.tables(reader, "backend") {
            if let Some(backend) = self.backend((number, pool.backends.len()), at, table, keys) {
                pool.backends.push(backend);
            }
        }
        pool
    }

    fn backend(
        &mut self,
        (p, b): (usize, usize),
        span: Span,
        table: &DeTable<'_>,
        keys: &mut Vec<TicketKey>,
    ) -> Option<MemberSpec> {
        let reader = &mut self.reader;
        let section = Section::new(reader, Table::Backend, "a backend".into(), span.clone(), table);
        let name = section.must(reader, "name", checked_name);
        let address = section.must(reader, "address", socket_address);
        let weight = section.one(reader, "weight", weight);
        let state = section.one(reader, "state", |text| match text {
            "up" => Ok(State::Up),
            "draining" => Ok(State::Draining),
            "down" => Ok(State::Down),
            _ => Err("expected up, draining or down".into()),
        });
        let limits = BackendLimits {
            max_connections: section.one(reader, "max-connections", max_connections).map(|(n, _)| n),
            max_handshakes: section.one(reader, "max-handshakes", str::parse).map(|(n, _)| n),
            slow_start: section.one(reader, "slow-start", duration).map(|(time, _)| time),
        };
        let (name, address) = (name?.0, address?);
        let told = section.list(reader, "ticket-key", |text| {
            let flag = format!("{name}={text}");
            ticket_key(&flag).map(|key| (flag, key))
        });
        for ((flag, key), _) in told {
            if self.told.insert(flag) {
                keys.push(key);
            }
        }
        let (check, agent) = (self.check(&section), self.agent(&section));
        let (mut addr, at) = address;
        let tunnel = self.tunnel(&section, &mut addr);
        self.places.insert(About::Backend(p, b), span);
        let addr = self.put(About::Address(p, b), (addr, at));
        Some(MemberSpec {
            name,
            addr,
            weight: weight.map_or(1, |(weight, _)| weight),
            state: state.map_or(State::Up, |(state, _)| state),
            limits,
            check,
            agent,
            tunnel,
        })
    }

    /// How a backend's packets are wrapped. Where its inner address is said, that is the backend's.
    fn tunnel(&mut self, backend: &Section<'_>, addr: &mut SocketAddr) -> Option<Tunnel> {
        let reader = &mut self.reader;
        let (span, table) = backend.table(reader, "tunnel")?;
        let section = Section::new(reader, Table::Tunnel, "a tunnel".into(), span.clone(), table);
        let mut said = tunnel::Said::default();
        let mut whole = true;
        for key in tunnel::KEYS {
            let set = |text: &str| said.set(key, text);
            whole &= section.get(key).is_none() || section.one(reader, key, set).is_some();
        }
        // What is wrong with one of its keys has been told.
        if !whole {
            return None;
        }
        said.tunnel(addr).map_err(|why| reader.fault(&span, why, None)).ok()
    }

    /// What a backend is asked, or those of a pool.
    fn check(&mut self, above: &Section<'_>) -> Asked<Check> {
        if above.says("check", checks::OFF) { Asked::Off } else { self.its_check(above).into() }
    }

    fn its_check(&mut self, above: &Section<'_>) -> Option<Check> {
        let reader = &mut self.reader;
        let (span, table) = above.table(reader, "check")?;
        let section = Section::new(reader, Table::Check, "a check".into(), span.clone(), table);
        let (kind, _) = section.must(reader, "kind", checks::kind)?;
        let mut check = Check::new(kind);
        for key in checks::KEYS {
            section.one(reader, key, |text| checks::set(&mut check, key, text));
        }
        if let Some(why) = checks::fault(&check, |key| section.get(key).is_some()) {
            reader.fault(&span, why, None);
        }
        Some(check)
    }

    /// An agent, or those of a pool's backends.
    fn agent(&mut self, above: &Section<'_>) -> Asked<Agent> {
        if above.says("agent-check", checks::OFF) { Asked::Off } else { self.its_agent(above).into() }
    }

    fn its_agent(&mut self, above: &Section<'_>) -> Option<Agent> {
        let reader = &mut self.reader;
        let (span, table) = above.table(reader, "agent-check")?;
        let section = Section::new(reader, Table::Agent, "an agent-check".into(), span, table);
        let interval = section.one(reader, "interval", checks::interval);
        let (port, _) = section.must(reader, "port", checks::port)?;
        let agent = Agent::at(port);
        Some(Agent { interval: interval.map_or(agent.interval, |(every, _)| every), ..agent })
    }
}

/// The classes of a service, if it says any.
fn classes(reader: &mut Reader<'_>, service: &Section<'_>) -> Option<Classes> {
    let at = service.get("class")?.span();
    let tables = service.tables(reader, "class");
    let whole = tables.len();
    let specs: Vec<ClassSpec> = tables.into_iter().filter_map(|(at, table)| class(reader, at, table)).collect();
    if specs.len() < whole {
        // What is wrong with one of them has been told.
        return None;
    }
    let faults = match Classes::new(specs) {
        Ok(classes) => return Some(classes),
        Err(faults) => faults,
    };
    faults.iter().for_each(|fault| reader.fault(&at, fault.to_string(), None));
    None
}

fn class(reader: &mut Reader<'_>, span: Span, table: &DeTable<'_>) -> Option<ClassSpec> {
    let section = Section::new(reader, Table::Class, "a class".into(), span, table);
    let mut spec = ClassSpec::new(section.must(reader, "name", checked_name)?.0);
    for key in Table::Class.keys().map(|key| key.name).filter(|name| *name != "name") {
        let set = |text: &str| class::set(&mut spec, key, text);
        match key {
            "client" | "listen" | "sni" | "alpn" => drop(section.list(reader, key, set)),
            _ => _ = section.one(reader, key, set),
        }
    }
    if let (Some(at), true) = (section.get("weight"), spec.share == Share::Strict) {
        reader.fault(&at.span(), "'weight' cannot stand beside 'strict'", None);
    }
    Some(spec)
}

fn checked_name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_string())
}
