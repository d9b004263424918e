//! The configuration changes while it storms: what an operator does, and what may not suffer from it.
//!
//! There is a pool behind the VIP, and another that the name [`NAME`] is led to by a route and a second service has as its own. Servers
//! come, go, drain, are disabled and weighted; they change their names (the same address is another backend then); the route, the
//! algorithms and the second service change. Each pool always has a server that takes new connections.

use super::limited;
use crate::config::{server_ip, server_name, vip};
use crate::rng::Rng;
use lb::{Algorithm, BackendLimits, MemberSpec, PoolSpec, RouteSpec, ServiceSpec, SniPattern, State, Wanted};
use std::net::SocketAddr;

/// The server name that a route may lead elsewhere.
pub const NAME: &str = "b.example";

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Door {
    /// The second service.
    pub second: bool,
    /// By [`NAME`].
    pub named: bool,
}

impl Door {
    /// Where it is.
    pub fn address(self, v6: bool) -> SocketAddr {
        let first = vip(v6);
        if self.second { SocketAddr::new(first.ip(), 444) } else { first }
    }
}

/// A server in a pool.
#[derive(Clone, Debug)]
struct Place {
    server: usize,
    weight: u16,
}

/// What is wanted.
#[derive(Clone, Debug)]
struct Scheme {
    /// The pool of the first service, and the other.
    pools: [Vec<Place>; 2],
    balance: [Algorithm; 2],
    /// By server.
    states: Vec<State>,
    /// By server: how often it was renamed.
    names: Vec<usize>,
    /// By server; empty where nobody thinks of limits.
    limits: Vec<BackendLimits>,
    route: bool,
    second: bool,
}

impl Scheme {
    fn uses(&self, server: usize) -> bool {
        self.pools.iter().flatten().any(|p| p.server == server)
    }

    /// Each pool has somebody for new connections.
    fn serves(&self) -> bool {
        self.pools.iter().all(|pool| pool.iter().any(|p| p.weight > 0 && self.states[p.server] == State::Up))
    }

    fn pool_of(&self, door: Door) -> usize {
        usize::from(door.second || door.named && self.route)
    }
}

/// A change, and what it is about.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Servers whose connections are reset.
    pub reset: Vec<usize>,
    /// The second service has gone.
    pub closed: bool,
}

/// Who changes the configuration.
#[derive(Clone)]
pub struct Operator {
    v6: bool,
    service: ServiceSpec,
    scheme: Scheme,
    changes: u64,
    /// By server: the change with which it last ceased to be the backend it was.
    left: Vec<u64>,
}

impl Operator {
    /// Of a world with so many servers, of which the first `in_use` are behind the VIP of `service`.
    pub fn new(service: ServiceSpec, balance: Algorithm, in_use: usize, servers: usize, v6: bool) -> Operator {
        let places: Vec<_> = (0..in_use).map(|server| Place { server, weight: 1 }).collect();
        let scheme = Scheme {
            pools: [places.clone(), places],
            balance: [balance; 2],
            states: vec![State::Up; servers],
            names: vec![0; servers],
            limits: vec![],
            route: false,
            second: false,
        };
        Operator { v6, service, scheme, changes: 0, left: vec![0; servers] }
    }

    /// The same, with an operator who thinks of limits: by server.
    pub fn limiting(mut self, limits: Vec<BackendLimits>) -> Operator {
        self.scheme.limits = limits;
        self
    }

    /// A server's name, as it is now.
    pub fn name(&self, server: usize) -> String {
        match self.scheme.names[server] {
            0 => server_name(server, self.v6),
            n => format!("{}-again{n}", server_name(server, self.v6)),
        }
    }

    /// Which server's such a name is.
    pub fn server_of(name: &str) -> Option<usize> {
        let digits = name.strip_prefix("web")?.split('-').next()?;
        digits.parse().ok()
    }

    /// How many changes there have been.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Some door that is open.
    pub fn door(&self, rng: &mut Rng) -> Door {
        Door { second: self.scheme.second && rng.per_mille(300), named: rng.per_mille(400) }
    }

    /// It is open.
    pub fn is_open(&self, door: Door) -> bool {
        !door.second || self.scheme.second
    }

    /// A session that a server has made for somebody who came by this door after so many changes can be taken up there now.
    pub fn resumes(&self, server: usize, door: Door, since: u64) -> bool {
        let pool = &self.scheme.pools[self.scheme.pool_of(door)];
        self.is_open(door)
            && self.left[server] <= since
            && self.scheme.states[server] != State::Down
            && pool.iter().any(|p| p.server == server)
    }

    /// Wants something else than before.
    pub fn change(&mut self, rng: &mut Rng) -> Change {
        let before = self.scheme.clone();
        let mut reset = vec![];
        for _ in 0..rng.between(1, 3) {
            self.turn(rng, &mut reset);
        }
        if !self.scheme.serves() {
            self.scheme = before.clone();
        }
        self.changes += 1;
        for server in 0..self.left.len() {
            let renamed = before.names[server] != self.scheme.names[server];
            if before.uses(server) && (renamed || !self.scheme.uses(server)) {
                self.left[server] = self.changes;
            }
        }
        reset.retain(|server| before.uses(*server) && !self.scheme.uses(*server));
        Change { reset, closed: before.second && !self.scheme.second }
    }

    fn turn(&mut self, rng: &mut Rng, reset: &mut Vec<usize>) {
        let server = rng.below(self.left.len());
        let Scheme { pools, balance, states, names, limits, route, second } = &mut self.scheme;
        if !limits.is_empty() && rng.per_mille(250) {
            match rng.below(4) {
                0 => limited::rules(rng, &mut self.service.policy),
                _ => limits[server] = limited::limits(rng),
            }
            return;
        }
        let which = rng.below(2);
        match rng.below(10) {
            0 | 1 => {
                let pool = &mut pools[which];
                if !pool.iter().any(|p| p.server == server) {
                    let used = pools.iter().flatten().any(|p| p.server == server);
                    if !used {
                        states[server] = State::Up;
                    }
                    pools[which].push(Place { server, weight: rng.between(1, 3) as u16 });
                }
            }
            2 | 3 => {
                pools.iter_mut().for_each(|pool| pool.retain(|p| p.server != server));
                if rng.per_mille(400) {
                    reset.push(server);
                }
            }
            4 => pools[which].retain(|p| p.server != server),
            5 => states[server] = [State::Up, State::Draining, State::Down][rng.below(3)],
            6 => pools.iter_mut().flatten().filter(|p| p.server == server).for_each(|p| p.weight = rng.below(4) as u16),
            7 => names[server] += 1,
            8 => *route = !*route,
            _ if rng.per_mille(500) => *second = !*second,
            _ => balance[which] = Algorithm::ALL[rng.below(4)],
        }
    }

    /// What is wanted now.
    pub fn wanted(&self) -> Wanted {
        let s = &self.scheme;
        let pools = [0, 1].map(|i| PoolSpec {
            name: format!("pool{i}"),
            balance: s.balance[i],
            backends: s.pools[i].iter().map(|p| self.member(p)).collect(),
            ..PoolSpec::default()
        });
        let routed = RouteSpec { sni: vec![SniPattern::Exact(NAME.into())], alpn: vec![], pool: "pool1".into() };
        let first = ServiceSpec {
            pool: "pool0".into(),
            routes: if s.route { vec![routed] } else { vec![] },
            ..self.service.clone()
        };
        let second = ServiceSpec {
            name: "second".into(),
            listen: vec![Door { second: true, named: false }.address(self.v6)],
            pool: "pool1".into(),
            routes: vec![],
            ..self.service.clone()
        };
        let services = if s.second { vec![first, second] } else { vec![first] };
        Wanted { services, pools: pools.to_vec() }
    }

    fn member(&self, place: &Place) -> MemberSpec {
        MemberSpec {
            weight: place.weight,
            state: self.scheme.states[place.server],
            limits: self.scheme.limits.get(place.server).copied().unwrap_or_default(),
            ..MemberSpec::new(self.name(place.server), SocketAddr::new(server_ip(place.server, self.v6), 8443))
        }
    }
}
