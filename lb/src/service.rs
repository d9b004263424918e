//! Services and pools as somebody wants them: plain data, checked by [`Wanted::faults`], made into a
//! [`Directory`](crate::Directory).
//!
//! A *service* is where clients connect to, and how they are treated; a *pool* is a set of backends and how one of them
//! is chosen; a *route* of a service sends what it matches to another pool than the service's own.

use crate::admission::{Classes, Prefix, SPILL_AFTER};
use crate::backend::{MAX_BACKENDS, MAX_WEIGHT, State};
use crate::balance::Algorithm;
use crate::check::{Agent, Asked, Check};
use crate::choose::ResumeFallback;
use crate::limits::BackendLimits;
use crate::tunnel::Tunnel;
use core::fmt;
use core::str::FromStr;
use core::time::Duration;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

/// What the one service is called that has no name of its own, and its pool: that of the command line's flags.
pub const DEFAULT: &str = "default";

/// Most services in one directory.
pub const MAX_SERVICES: usize = 1024;

/// Most listeners in one directory, those included that are leaving and still have flows.
pub const MAX_LISTENERS: usize = 4096;

/// Most pools in one directory.
pub const MAX_POOLS: usize = 1024;

/// Most different ALPN protocols in the routes of one service: a hello is matched against all of them in one pass, with
/// a bit for each.
pub const MAX_ALPN: usize = 64;

/// Everything that is wanted: the services, and the pools they name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// In the order of the file.
    pub services: Vec<ServiceSpec>,
    /// In the order of the file. One that no service names is allowed.
    pub pools: Vec<PoolSpec>,
}

/// A service: listeners, routes, policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceSpec {
    /// Unique among services.
    pub name: String,
    /// Where clients connect to. No two services share one.
    pub listen: Vec<SocketAddr>,
    /// The pool of what no route matches.
    pub pool: String,
    /// Tried as [`Directory::pool_for`](crate::Directory::pool_for) says.
    pub routes: Vec<RouteSpec>,
    /// How its connections are treated.
    pub policy: Policy,
}

/// Which hellos go to another pool. Of each list any entry may match; where both lists are given, both must.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RouteSpec {
    /// Server names: of a hello, or the `Host` of a plain HTTP/1 request.
    pub sni: Vec<SniPattern>,
    /// Protocols of application-layer protocol negotiation (RFC 7301), as bytes.
    pub alpn: Vec<Vec<u8>>,
    /// The pool they go to.
    pub pool: String,
}

/// A server name, or all names one label below it. Lower case; hellos are compared without regard to case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SniPattern {
    /// `www.example.com`.
    Exact(String),
    /// `*.example.com`: what follows the `*.`. It matches `www.example.com`, and neither `example.com` nor
    /// `a.b.example.com`, as the names of certificates do (RFC 6125 section 6.4.3).
    Wildcard(String),
}

impl FromStr for SniPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<SniPattern, String> {
        let (name, wildcard) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let label_ok = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.contains('*') {
            return Err(format!("{text:?}: a wildcard is the whole first label, as in *.example.com"));
        }
        if name.len() > 253 || !name.split('.').all(label_ok) {
            return Err(format!("{text:?} is no server name: labels of letters, digits and hyphens, divided by dots"));
        }
        let name = name.to_ascii_lowercase();
        Ok(if wildcard { SniPattern::Wildcard(name) } else { SniPattern::Exact(name) })
    }
}

impl fmt::Display for SniPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SniPattern::Exact(name) => f.write_str(name),
            SniPattern::Wildcard(rest) => write!(f, "*.{rest}"),
        }
    }
}

/// What a service speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServiceKind {
    /// TLS or anything else: who says nothing for the hello timeout may be waiting for the server to speak.
    #[default]
    Auto,
    /// TLS alone: the client speaks first, and half a minute is waited for its hello, so that a slow one is led by its session, too.
    Tls,
}

/// From whom a service takes a PROXY header that names the client, as another balancer in front of it writes one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AcceptProxy {
    /// Who comes from one of these must begin with a header, and who comes from elsewhere is the client himself.
    pub from: Vec<Prefix>,
    /// A backend is given the header as it came, instead of one of ours. Where it is given none the header is taken out.
    pub pass: bool,
}

impl AcceptProxy {
    /// A header is taken from this address.
    pub fn accepts(&self, addr: IpAddr) -> bool {
        self.from.iter().any(|prefix| prefix.contains(addr))
    }
}

/// The name of a cookie (RFC 6265 section 4.1.1: a token).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CookieName(Box<str>);

impl CookieName {
    /// Bytes of the longest.
    pub const LONGEST: usize = 64;

    /// As it stands in headers.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CookieName {
    type Err = String;

    fn from_str(text: &str) -> Result<CookieName, String> {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if (1..=CookieName::LONGEST).contains(&text.len()) && text.bytes().all(token) {
            return Ok(CookieName(text.into()));
        }
        let longest = CookieName::LONGEST;
        Err(format!("{text:?} is no cookie's name: 1 to {longest} letters, digits and !#$%&'*+-.^_`|~"))
    }
}

impl fmt::Display for CookieName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a service treats its connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Follow identities at all.
    pub affinity: bool,
    /// The cookie by which sessions of plain HTTP/1 are followed; none: these are not. Of meaning with [`Policy::affinity`].
    pub cookie: Option<CookieName>,
    /// Begin every connection to a backend with a PROXY protocol v2 header.
    pub proxy_protocol: bool,
    /// Who may say by a PROXY header whose connection it is.
    pub accept_proxy: AcceptProxy,
    /// How long a client may stay silent before it is taken for one that waits for the server to speak.
    pub hello_timeout: Duration,
    /// What is served.
    pub kind: ServiceKind,
    /// The servers hold keys for Encrypted Client Hello: a hello with it proves nothing about the identities that can be read in it.
    pub servers_have_ech: bool,
    /// Which request goes first where servers have limits.
    pub classes: Classes,
    /// How long a client waits for a server that can resume its session and has no room, before it takes any; `None`: for as long as it waits at all.
    pub spill_after: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            affinity: true,
            cookie: None,
            proxy_protocol: false,
            accept_proxy: AcceptProxy::default(),
            hello_timeout: Duration::from_secs(3),
            kind: ServiceKind::default(),
            servers_have_ech: false,
            classes: Classes::default(),
            spill_after: Some(SPILL_AFTER),
        }
    }
}

/// What Maglev hashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HashOn {
    /// The client's address: all its connections meet one backend.
    #[default]
    SourceIp,
    /// Addresses and ports: connections of one client spread.
    Tuple,
}

/// A pool: backends, and how one is chosen when no identity decides.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PoolSpec {
    /// Unique among pools.
    pub name: String,
    /// Without an identity.
    pub balance: Algorithm,
    /// For Maglev.
    pub hash_on: HashOn,
    /// Where a client goes whose identity no row knows.
    pub resume_fallback: ResumeFallback,
    /// What its backends are asked that say nothing of it themselves.
    pub check: Option<Check>,
    /// The same of their agents.
    pub agent: Option<Agent>,
    /// At least one.
    pub backends: Vec<MemberSpec>,
}

/// A backend in a pool. The same name in two pools is the same backend: of one address, one state and the same limits, and
/// perhaps of two weights.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberSpec {
    /// Unique in its pool. Maglev hashes it, so equal pools give equal tables whatever the order of their members.
    pub name: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Share of new connections relative to the pool's others, at most [`MAX_WEIGHT`]. Zero: none, it only resumes.
    pub weight: u16,
    /// What it may be given.
    pub state: State,
    /// What it can take at a time.
    pub limits: BackendLimits,
    /// What it is asked, so that it is known whether it serves.
    pub check: Asked<Check>,
    /// An agent on its host, that tells how much it can take.
    pub agent: Asked<Agent>,
    /// How its packets are wrapped; none: not at all.
    pub tunnel: Option<Tunnel>,
}

impl MemberSpec {
    /// A backend of weight 1 that is up.
    pub fn new(name: impl Into<String>, addr: SocketAddr) -> MemberSpec {
        let limits = BackendLimits::default();
        MemberSpec {
            name: name.into(),
            addr,
            weight: 1,
            state: State::Up,
            limits,
            check: Asked::AsPool,
            agent: Asked::AsPool,
            tunnel: None,
        }
    }
}

/// Why something wanted cannot be. Places are numbers in the lists of [`Wanted`], so that whoever has read them from a
/// file can say where they stand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub what: FaultKind,
}

/// Where a fault is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// All of it.
    Whole,
    /// A service.
    Service(usize),
    /// A listener of a service.
    Listener(usize, usize),
    /// A route of a service.
    Route(usize, usize),
    /// A pool.
    Pool(usize),
    /// A backend of a pool.
    Backend(usize, usize),
}

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// More than [`MAX_SERVICES`].
    TooManyServices(usize),
    /// More than [`MAX_LISTENERS`], together with those that are leaving and still have flows.
    TooManyListeners {
        /// So many are wanted.
        wanted: usize,
        /// So many are leaving.
        leaving: usize,
    },
    /// More than [`MAX_POOLS`].
    TooManyPools(usize),
    /// More different backends than there are places, together with those that are leaving and still in use.
    TooManyBackends {
        /// So many are wanted.
        wanted: usize,
        /// So many are leaving.
        leaving: usize,
    },
    /// A name must have a letter at least.
    NoName,
    /// Two services of this name.
    ServiceTwice(String),
    /// Two pools of this name.
    PoolTwice(String),
    /// Nobody could connect to the service.
    NoListener(String),
    /// A listener of this service and of that one.
    ListenerTwice(SocketAddr, String),
    /// No such pool.
    NoSuchPool(String),
    /// A route that says nothing of what it matches.
    EmptyRoute,
    /// An ALPN protocol has 1 to 255 bytes.
    AlpnLength(usize),
    /// More than [`MAX_ALPN`] different ALPN protocols in the routes of a service.
    TooManyAlpn(usize),
    /// A pool without backends.
    EmptyPool(String),
    /// A backend is twice in the same pool.
    BackendTwice(String),
    /// A backend has this address here and that one elsewhere.
    TwoAddresses(String, SocketAddr, SocketAddr),
    /// A backend has this state here and that one elsewhere.
    TwoStates(String, State, State),
    /// The same backend, of other limits in another pool.
    TwoLimits(String),
    /// It is checked in one way here and in another elsewhere.
    TwoChecks(String),
    /// The same backend, behind another tunnel in another pool.
    TwoTunnels(String),
    /// Port 0 is none.
    NoPort(SocketAddr),
    /// Above [`MAX_WEIGHT`].
    WeightTooLarge(String, u16),
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultKind::TooManyServices(n) => write!(f, "{n} services, at most {MAX_SERVICES} are possible"),
            FaultKind::TooManyListeners { wanted, leaving: 0 } => {
                write!(f, "{wanted} listeners, at most {MAX_LISTENERS} are possible")
            }
            FaultKind::TooManyListeners { wanted, leaving } => {
                write!(
                    f,
                    "{wanted} listeners and {leaving} that were removed and still have connections, at most {MAX_LISTENERS} are possible \
                     together"
                )
            }
            FaultKind::TooManyPools(n) => write!(f, "{n} pools, at most {MAX_POOLS} are possible"),
            FaultKind::TooManyBackends { wanted, leaving: 0 } => {
                write!(f, "{wanted} backends, at most {MAX_BACKENDS} are possible")
            }
            FaultKind::TooManyBackends { wanted, leaving } => {
                write!(
                    f,
                    "{wanted} backends and {leaving} that were removed and still have connections or sessions, at most \
                     {MAX_BACKENDS} are possible together"
                )
            }
            FaultKind::NoName => f.write_str("the name is empty"),
            FaultKind::ServiceTwice(name) => write!(f, "service {name} is given twice"),
            FaultKind::PoolTwice(name) => write!(f, "pool {name} is given twice"),
            FaultKind::NoListener(name) => write!(f, "service {name} has no listener"),
            FaultKind::ListenerTwice(listener, other) => write!(f, "service {other} listens at {listener} already"),
            FaultKind::NoSuchPool(name) => write!(f, "there is no pool {name}"),
            FaultKind::EmptyRoute => f.write_str("a route needs server names, ALPN protocols or both"),
            FaultKind::AlpnLength(n) => write!(f, "an ALPN protocol has 1 to 255 bytes, not {n}"),
            FaultKind::TooManyAlpn(n) => {
                write!(f, "{n} ALPN protocols in the routes of one service, at most {MAX_ALPN} are possible")
            }
            FaultKind::EmptyPool(name) => write!(f, "pool {name} has no backend"),
            FaultKind::BackendTwice(name) => write!(f, "backend {name} is given twice"),
            FaultKind::TwoAddresses(name, here, there) => {
                write!(f, "backend {name} has the address {here} here and {there} elsewhere")
            }
            FaultKind::TwoStates(name, here, there) => write!(f, "backend {name} is {here} here and {there} elsewhere"),
            FaultKind::TwoLimits(name) => write!(f, "backend {name} has other limits here than elsewhere"),
            FaultKind::TwoChecks(name) => write!(f, "backend {name} has another check here than elsewhere"),
            FaultKind::TwoTunnels(name) => write!(f, "backend {name} has another tunnel here than elsewhere"),
            FaultKind::NoPort(addr) => write!(f, "{addr} has no port"),
            FaultKind::WeightTooLarge(name, weight) => {
                write!(f, "backend {name} has weight {weight}, at most {MAX_WEIGHT} is possible")
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.fmt(f)
    }
}

impl core::error::Error for Fault {}

impl Wanted {
    /// One service and one pool, both of the name `default`.
    pub fn single(listen: Vec<SocketAddr>, policy: Policy, pool: PoolSpec) -> Wanted {
        let name = String::from(DEFAULT);
        let service = ServiceSpec { name: name.clone(), listen, pool: name.clone(), routes: Vec::new(), policy };
        Wanted { services: vec![service], pools: vec![PoolSpec { name, ..pool }] }
    }

    /// All listeners, in the order of the file.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        self.services.iter().flat_map(|s| s.listen.iter().copied()).collect()
    }

    /// All backends, each once, in the order of the file: a first directory numbers them so.
    pub fn backends(&self) -> Vec<&MemberSpec> {
        let mut seen = HashSet::new();
        self.pools.iter().flat_map(|p| &p.backends).filter(|b| seen.insert(b.name.as_str())).collect()
    }

    /// All that is wrong with it, in the order of its lists: services first.
    pub fn faults(&self) -> Vec<Fault> {
        let mut found = Vec::new();
        if self.services.len() > MAX_SERVICES {
            found.push(Fault { place: Place::Whole, what: FaultKind::TooManyServices(self.services.len()) });
        }
        let listeners = self.services.iter().map(|s| s.listen.len()).sum();
        if listeners > MAX_LISTENERS {
            let what = FaultKind::TooManyListeners { wanted: listeners, leaving: 0 };
            found.push(Fault { place: Place::Whole, what });
        }
        if self.pools.len() > MAX_POOLS {
            found.push(Fault { place: Place::Whole, what: FaultKind::TooManyPools(self.pools.len()) });
        }
        self.service_faults(&mut found);
        self.pool_faults(&mut found);
        found
    }

    /// What backends are asked, and their agents, by name: told of themselves in any of their pools, else by the first of these that tells it for all.
    pub fn asked(&self) -> HashMap<&str, (Option<&Check>, Option<&Agent>)> {
        let mut all: HashMap<&str, (Asked<&Check>, Asked<&Agent>)> = HashMap::new();
        let members = || self.pools.iter().flat_map(|pool| pool.backends.iter().map(move |b| (pool, b)));
        for (_, member) in members() {
            let (check, agent) = all.entry(&member.name).or_default();
            *check = check.or(member.check.as_ref());
            *agent = agent.or(member.agent.as_ref());
        }
        for (pool, member) in members() {
            let (check, agent) = all.entry(&member.name).or_default();
            *check = check.or(pool.check.as_ref().into());
            *agent = agent.or(pool.agent.as_ref().into());
        }
        all.into_iter().map(|(name, (check, agent))| (name, (check.in_pool(None), agent.in_pool(None)))).collect()
    }

    fn service_faults(&self, found: &mut Vec<Fault>) {
        let pools: HashSet<&str> = self.pools.iter().map(|p| p.name.as_str()).collect();
        let mut names = HashSet::new();
        let mut listeners: HashMap<SocketAddr, &str> = HashMap::new();
        for (s, service) in self.services.iter().enumerate() {
            let mut fault = |place, what| found.push(Fault { place, what });
            if service.name.is_empty() {
                fault(Place::Service(s), FaultKind::NoName);
            } else if !names.insert(service.name.as_str()) {
                fault(Place::Service(s), FaultKind::ServiceTwice(service.name.clone()));
            }
            if service.listen.is_empty() {
                fault(Place::Service(s), FaultKind::NoListener(service.name.clone()));
            }
            for (l, listener) in service.listen.iter().enumerate() {
                if listener.port() == 0 {
                    fault(Place::Listener(s, l), FaultKind::NoPort(*listener));
                } else if let Some(other) = listeners.insert(plain(*listener), &service.name) {
                    fault(Place::Listener(s, l), FaultKind::ListenerTwice(*listener, other.to_owned()));
                }
            }
            if !pools.contains(service.pool.as_str()) {
                fault(Place::Service(s), FaultKind::NoSuchPool(service.pool.clone()));
            }
            for (r, route) in service.routes.iter().enumerate() {
                if route.sni.is_empty() && route.alpn.is_empty() {
                    fault(Place::Route(s, r), FaultKind::EmptyRoute);
                }
                if let Some(odd) = route.alpn.iter().find(|p| !(1..=255).contains(&p.len())) {
                    fault(Place::Route(s, r), FaultKind::AlpnLength(odd.len()));
                }
                if !pools.contains(route.pool.as_str()) {
                    fault(Place::Route(s, r), FaultKind::NoSuchPool(route.pool.clone()));
                }
            }
            let protocols: HashSet<&[u8]> = service.routes.iter().flat_map(|r| &r.alpn).map(Vec::as_slice).collect();
            if protocols.len() > MAX_ALPN {
                fault(Place::Service(s), FaultKind::TooManyAlpn(protocols.len()));
            }
        }
    }

    fn pool_faults(&self, found: &mut Vec<Fault>) {
        let mut names = HashSet::new();
        let mut backends: HashMap<&str, &MemberSpec> = HashMap::new();
        for (p, pool) in self.pools.iter().enumerate() {
            let mut fault = |place, what| found.push(Fault { place, what });
            if pool.name.is_empty() {
                fault(Place::Pool(p), FaultKind::NoName);
            } else if !names.insert(pool.name.as_str()) {
                fault(Place::Pool(p), FaultKind::PoolTwice(pool.name.clone()));
            }
            if pool.backends.is_empty() {
                fault(Place::Pool(p), FaultKind::EmptyPool(pool.name.clone()));
            }
            let mut here = HashSet::new();
            for (b, backend) in pool.backends.iter().enumerate() {
                let name = || backend.name.clone();
                if backend.name.is_empty() {
                    fault(Place::Backend(p, b), FaultKind::NoName);
                } else if !here.insert(backend.name.as_str()) {
                    fault(Place::Backend(p, b), FaultKind::BackendTwice(name()));
                } else {
                    let first = *backends.entry(&backend.name).or_insert(backend);
                    if plain(first.addr) != plain(backend.addr) {
                        fault(Place::Backend(p, b), FaultKind::TwoAddresses(name(), backend.addr, first.addr));
                    } else if first.state != backend.state {
                        fault(Place::Backend(p, b), FaultKind::TwoStates(name(), backend.state, first.state));
                    } else if first.limits != backend.limits {
                        fault(Place::Backend(p, b), FaultKind::TwoLimits(name()));
                    } else if differ(&first.check, &backend.check) || differ(&first.agent, &backend.agent) {
                        fault(Place::Backend(p, b), FaultKind::TwoChecks(name()));
                    } else if first.tunnel != backend.tunnel {
                        fault(Place::Backend(p, b), FaultKind::TwoTunnels(name()));
                    }
                }
                if backend.addr.port() == 0 {
                    fault(Place::Backend(p, b), FaultKind::NoPort(backend.addr));
                }
                if backend.weight > MAX_WEIGHT {
                    fault(Place::Backend(p, b), FaultKind::WeightTooLarge(name(), backend.weight));
                }
            }
        }
        if backends.len() > MAX_BACKENDS {
            found.push(Fault {
                place: Place::Whole,
                what: FaultKind::TooManyBackends { wanted: backends.len(), leaving: 0 },
            });
        }
    }
}

/// What an address means on the wire: an IPv4 address that is written as an IPv6 one is an IPv4 address; scope and flow
/// label are no part of it.
pub(crate) fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Both say something, and not the same.
fn differ<T: PartialEq>(one: &Asked<T>, other: &Asked<T>) -> bool {
    one.is_said() && other.is_said() && one != other
}
