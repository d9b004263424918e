//! Services, pools and backends as they are wanted now: immutable, versioned, the only truth about them.
//!
//! A control thread makes the [next](Directory::next) directory out of the present one and what is [`Wanted`]; workers
//! are given it whole and never see half a change. What they keep about a backend, a service or a pool they keep by its
//! number, which stays the same from version to version.
//!
//! **Backends** have a *slot*, the [`BackendId`]: the index of all arrays by backend, and what affinity rows hold. A
//! backend is a name with an address; one that is no longer wanted keeps its slot and is *leaving*, in no pool, until
//! the caller says that no flow and no row names it. Then the slot is free, and its next holder has another
//! *generation*.
//!
//! **Services and pools** have numbers as well, [`ServiceId`] and [`PoolId`]. A flow may outlive its service, so a
//! number carries its generation with it: one that has gone is not taken for its successor. Numbers that are vacant are
//! used again only when all are, and the longest vacant first; until then the name is known.
//!
//! **Listeners** that are no longer wanted are leaving, too, until the caller says that no flow is left that came by them: their
//! addresses are ours for as long.

use crate::admission::ClassId;
use crate::backend::{BackendId, BackendSet, MAX_BACKENDS, State};
use crate::check::{Agent, Check};
use crate::limits::BackendLimits;
use crate::listener::Listener;
use crate::live::Live;
use crate::pool::Pool;
use crate::routes::Routes;
use crate::service::{
    CookieName, Fault, FaultKind, MAX_LISTENERS, MAX_POOLS, MAX_SERVICES, Place, Policy, ServiceSpec, Wanted, plain,
};
use crate::tunnel::Tunnel;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

/// The number of a service: the same as long as a service of its name is wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServiceId(Number);

/// The number of a pool: the same as long as a pool of its name is wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoolId(Number);

impl ServiceId {
    /// Of none that ever was.
    pub const NONE: ServiceId = ServiceId(Number::NONE);

    /// All of it, for whoever tells another process of it, in which it means nothing by itself.
    pub const fn to_bits(self) -> u32 {
        self.0.to_bits()
    }

    /// As an index into arrays of one entry for each service, [`MAX_SERVICES`] at most. A later service may have it.
    pub const fn index(self) -> usize {
        self.0.slot as usize
    }
}

impl PoolId {
    /// Of none that ever was.
    pub const NONE: PoolId = PoolId(Number::NONE);

    /// All of it, for whoever tells another process of it, in which it means nothing by itself.
    pub const fn to_bits(self) -> u32 {
        self.0.to_bits()
    }

    /// As an index into arrays of one entry for each pool, [`MAX_POOLS`] at most. A later pool may have it.
    pub const fn index(self) -> usize {
        self.0.slot as usize
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Number {
    slot: u16,
    /// Wraps after 65,536 holders of a slot: a flow that lived through all of them would be logged under a wrong name.
    generation: u16,
}

impl Number {
    /// There are fewer slots.
    const NONE: Number = Number { slot: u16::MAX, generation: u16::MAX };

    const fn to_bits(self) -> u32 {
        (self.slot as u32) << 16 | self.generation as u32
    }
}

/// A server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// Its slot.
    pub id: BackendId,
    /// How many had the slot before.
    pub generation: u32,
    /// Unique among those that are wanted. One that is leaving may have the name of another, at another address or behind another tunnel.
    pub name: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it may be given, as wanted; draining when it is leaving.
    pub state: State,
    /// What it can take at a time, as wanted.
    pub limits: BackendLimits,
    /// What it is asked, so that it is known whether it serves.
    pub check: Option<Check>,
    /// An agent on its host, that tells how much it can take.
    pub agent: Option<Agent>,
    /// How its packets are wrapped; none: not at all.
    pub tunnel: Option<Tunnel>,
    /// No longer wanted: it is in no pool.
    pub leaving: bool,
}

/// What is no longer wanted, and stays until nothing names it.
#[derive(Clone, Copy, Debug)]
pub enum Leaving<'a> {
    /// Flows and rows name it.
    Backend(&'a Backend),
    /// Flows came by it.
    Listener(&'a Listener),
}

/// What another process serves or lets go of, of whose connections this one is to take care.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Left {
    /// Its backends.
    pub backends: Vec<LeftBackend>,
    /// Where its connections came in.
    pub listeners: Vec<SocketAddr>,
}

/// A backend of another process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeftBackend {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// How its packets are wrapped; none: not at all.
    pub tunnel: Option<Tunnel>,
}

/// A service of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    id: ServiceId,
    name: String,
    listen: Vec<SocketAddr>,
    policy: Policy,
    pool: PoolId,
    routes: Routes,
    pools: Vec<PoolId>,
    backends: BackendSet,
    resumes: BackendSet,
}

impl Service {
    /// Its number.
    pub fn id(&self) -> ServiceId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients connect to.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// How its connections are treated.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The pool of what no route matches, and of what says no hello.
    pub fn pool(&self) -> PoolId {
        self.pool
    }

    /// All its pools, each once: its own, then those of its routes.
    pub fn pools(&self) -> &[PoolId] {
        &self.pools
    }

    /// Whoever is in any of its pools.
    pub fn backends(&self) -> &BackendSet {
        &self.backends
    }

    /// Whoever may be given a connection by any of its pools, if only to resume: while one of them answers, somebody may be served.
    pub fn resumes(&self) -> &BackendSet {
        &self.resumes
    }

    /// The pool of a hello; see [`Directory::pool_for`].
    pub fn pool_for<'a>(&self, sni: Option<&[u8]>, alpn: impl Iterator<Item = &'a [u8]>) -> PoolId {
        self.routes.pool_for(sni, alpn)
    }

    /// The cookie by which its sessions of plain HTTP/1 are followed, if they are.
    pub fn cookie(&self) -> Option<&CookieName> {
        self.policy.cookie.as_ref().filter(|_| self.policy.affinity)
    }

    /// Where a connection of plain HTTP/1 goes depends on its first request: on a cookie in it, or on whom it is for.
    pub fn reads_requests(&self) -> bool {
        self.cookie().is_some() || self.routes.go_by_name()
    }

    /// The exact server names, in lower case, by which a client is led to this pool.
    pub fn names_to(&self, pool: PoolId) -> impl Iterator<Item = &str> {
        self.routes.names_to(pool)
    }
}

/// The services, pools and backends of one moment. See the [module](self).
#[derive(Clone, Debug)]
pub struct Directory {
    version: u64,
    services: Vec<Service>,
    pools: Vec<Arc<Pool>>,
    /// By slot.
    backends: Vec<Option<Backend>>,
    /// By slot: how many have had it.
    generations: Vec<u32>,
    service_numbers: Numbers,
    pool_numbers: Numbers,
    /// Sorted by address.
    listeners: Vec<Listener>,
    live: Arc<Live>,
}

impl Directory {
    /// The next version: what is wanted, with the numbers of `previous` where something has stayed.
    ///
    /// Backends keep their slot by name, address and tunnel. A backend or listener that is no longer wanted stays as leaving for
    /// one version at least, and then until `free` says that nothing names it: see
    /// [`Released::frees`](crate::Released::frees). Ask this when all workers have taken over `previous`: before that one
    /// of them may still open a flow.
    ///
    /// All faults at once when it cannot be.
    pub fn next(
        previous: Option<&Directory>,
        wanted: &Wanted,
        free: impl Fn(Leaving<'_>) -> bool,
    ) -> Result<Directory, Vec<Fault>> {
        let faults = wanted.faults();
        if !faults.is_empty() {
            return Err(faults);
        }
        let version = previous.map_or(0, |p| p.version) + 1;
        let before = |of: fn(&Directory) -> &Numbers| previous.map(of).cloned().unwrap_or_default();
        let (mut service_numbers, mut pool_numbers) = (before(|p| &p.service_numbers), before(|p| &p.pool_numbers));
        let service_ids = service_numbers.assign(version, wanted.services.iter().map(|s| &*s.name), MAX_SERVICES);
        let pool_ids = pool_numbers.assign(version, wanted.pools.iter().map(|p| &*p.name), MAX_POOLS);
        let (backends, generations) = place_backends(previous, wanted, &free).map_err(|fault| vec![fault])?;
        let slots: HashMap<&str, BackendId> =
            backends.iter().flatten().filter(|b| !b.leaving).map(|b| (b.name.as_str(), b.id)).collect();
        let live = previous.map(|p| p.live.clone()).unwrap_or_default();
        let pools: Vec<Arc<Pool>> = wanted
            .pools
            .iter()
            .zip(&pool_ids)
            .map(|(spec, number)| {
                let id = PoolId(*number);
                let before = previous.and_then(|p| p.pool(id)).map(|p| &**p);
                Arc::new(Pool::new(id, spec, |name| slots[name], before, live.clone()))
            })
            .collect();
        let by_name: HashMap<&str, &Pool> = pools.iter().map(|p| (p.name(), &**p)).collect();
        let services: Vec<Service> = wanted
            .services
            .iter()
            .zip(&service_ids)
            .map(|(spec, number)| Service::new(ServiceId(*number), spec, |name| by_name[name]))
            .collect();
        let listeners = place_listeners(previous, &services, &free).map_err(|fault| vec![fault])?;
        Ok(Directory {
            version,
            services,
            pools,
            backends,
            generations,
            service_numbers,
            pool_numbers,
            listeners,
            live,
        })
    }

    /// The same, with what another process serves or lets go of ([`Left`]) and this one does not want: it is leaving here. For the first version, before anybody
    /// has it.
    ///
    /// All faults at once when there is no room for it.
    pub fn and_leaving(mut self, left: &Left) -> Result<Directory, Vec<Fault>> {
        for backend in &left.backends {
            let same = |b: &Backend| b.name == backend.name && plain(b.addr) == plain(backend.addr);
            if self.backends().any(|b| same(b) && b.tunnel == backend.tunnel) {
                continue;
            }
            let at = self.backends.len();
            if at >= MAX_BACKENDS {
                let wanted = self.backends().filter(|b| !b.leaving).count();
                let what = FaultKind::TooManyBackends { wanted, leaving: left.backends.len() };
                return Err(vec![Fault { place: Place::Whole, what }]);
            }
            self.generations.push(1);
            self.backends.push(Some(Backend {
                id: BackendId(at as u16),
                generation: 0,
                name: backend.name.clone(),
                addr: backend.addr,
                state: State::Draining,
                limits: BackendLimits::default(),
                check: None,
                agent: None,
                tunnel: backend.tunnel,
                leaving: true,
            }));
        }
        for addr in left.listeners.iter().map(|addr| plain(*addr)) {
            if let Err(at) = self.listeners.binary_search_by_key(&addr, |l| l.addr) {
                let flows = Default::default();
                self.listeners.insert(at, Listener { addr, service: ServiceId::NONE, leaving: true, flows });
            }
        }
        if self.listeners.len() > MAX_LISTENERS {
            let leaving = self.listeners.iter().filter(|l| l.leaving).count();
            let what = FaultKind::TooManyListeners { wanted: self.listeners.len() - leaving, leaving };
            return Err(vec![Fault { place: Place::Whole, what }]);
        }
        Ok(self)
    }

    /// One more than that of the one before; the first has 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// In the order of the file.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Service> {
        self.services.iter()
    }

    /// The service of this number, if it is still wanted.
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(self.service_numbers.place(id.0)?)
    }

    /// What a service calls its class of this number, if it has as many.
    pub fn class_name(&self, service: ServiceId, class: ClassId) -> Option<&str> {
        let classes = self.service(service)?.policy().classes.specs();
        Some(&classes.get(class.index())?.name)
    }

    /// Its name, also when it has gone; `None` when its number has been given to another since.
    pub fn service_name(&self, id: ServiceId) -> Option<&str> {
        self.service_numbers.name(id.0)
    }

    /// Who listens there.
    pub fn service_at(&self, listener: SocketAddr) -> Option<ServiceId> {
        Some(self.listener(listener).filter(|l| !l.leaving)?.service)
    }

    /// The listener of this address and port, also when leaving.
    pub fn listener(&self, addr: SocketAddr) -> Option<&Listener> {
        let at = self.listeners.binary_search_by_key(&plain(addr), |l| l.addr).ok()?;
        Some(&self.listeners[at])
    }

    /// All listeners, sorted by address, also those that are leaving.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The names of all services whose numbers may still be told, also of those that have gone.
    pub fn services_called(&self) -> Vec<(ServiceId, &str)> {
        self.service_numbers.called(ServiceId)
    }

    /// The same of pools.
    pub fn pools_called(&self) -> Vec<(PoolId, &str)> {
        self.pool_numbers.called(PoolId)
    }

    /// What is no longer wanted and still here.
    pub fn leaving(&self) -> impl Iterator<Item = Leaving<'_>> {
        let backends = self.backends().filter(|b| b.leaving).map(Leaving::Backend);
        backends.chain(self.listeners.iter().filter(|l| l.leaving).map(Leaving::Listener))
    }

    /// In the order of the file.
    pub fn pools(&self) -> impl ExactSizeIterator<Item = &Arc<Pool>> {
        self.pools.iter()
    }

    /// The pool of this number, if it is still wanted.
    pub fn pool(&self, id: PoolId) -> Option<&Arc<Pool>> {
        self.pools.get(self.pool_numbers.place(id.0)?)
    }

    /// Its name, also when it has gone; `None` when its number has been given to another since.
    pub fn pool_name(&self, id: PoolId) -> Option<&str> {
        self.pool_numbers.name(id.0)
    }

    /// The pool of a hello with this server name and these ALPN protocols: a route with the exact name goes before one
    /// with a wildcard, this before one that names no server, and this before the service's own pool. Of several alike
    /// the first of the file. `None` when the service is no longer wanted.
    pub fn pool_for<'a>(
        &self,
        service: ServiceId,
        sni: Option<&[u8]>,
        alpn: impl Iterator<Item = &'a [u8]>,
    ) -> Option<PoolId> {
        Some(self.service(service)?.pool_for(sni, alpn))
    }

    /// Slots that are or were in use: all [`BackendId`]s are below it, at most [`MAX_BACKENDS`].
    pub fn slots(&self) -> usize {
        self.backends.len()
    }

    /// Who has the slot, also when leaving.
    pub fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(id.index())?.as_ref()
    }

    /// All of them by slot, also those that are leaving.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter().flatten()
    }

    /// Live connections by slot; the same counters in all versions.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// The backend of this name that is wanted.
    pub fn find(&self, name: &str) -> Option<&Backend> {
        self.backends().find(|b| !b.leaving && b.name == name)
    }
}

impl Service {
    fn new<'p>(id: ServiceId, spec: &ServiceSpec, pool: impl Fn(&str) -> &'p Pool) -> Service {
        let own = pool(&spec.pool);
        let routed = spec.routes.iter().map(|route| (route, pool(&route.pool)));
        let mut pools = Vec::new();
        let (mut backends, mut resumes) = (BackendSet::EMPTY, BackendSet::EMPTY);
        for one in core::iter::once(own).chain(routed.clone().map(|(_, pool)| pool)) {
            if !pools.contains(&one.id()) {
                pools.push(one.id());
                backends = backends.union(one.backends());
                resumes = resumes.union(one.resumes());
            }
        }
        Service {
            id,
            name: spec.name.clone(),
            listen: spec.listen.clone(),
            policy: spec.policy.clone(),
            pool: own.id(),
            routes: Routes::new(routed.map(|(route, pool)| (route, pool.id())), own.id()),
            pools,
            backends,
            resumes,
        }
    }
}

/// The slots of the next version, and their generations.
type Slots = (Vec<Option<Backend>>, Vec<u32>);

fn place_backends(
    previous: Option<&Directory>,
    wanted: &Wanted,
    free: impl Fn(Leaving<'_>) -> bool,
) -> Result<Slots, Fault> {
    let mut slots = previous.map(|p| p.backends.clone()).unwrap_or_default();
    let mut generations = previous.map(|p| p.generations.clone()).unwrap_or_default();
    let mut missing = Vec::new();
    let mut stays = BackendSet::EMPTY;
    let mut asked = HashMap::new();
    let all = wanted.asked();
    let said = |name: &str| all.get(name).map_or((None, None), |(check, agent)| (check.cloned(), agent.copied()));
    // An IPv4 address may be written in two ways: the slot is found by what it means.
    let holders: HashMap<(String, SocketAddr, Option<Tunnel>), BackendId> =
        slots.iter().flatten().map(|b| ((b.name.clone(), plain(b.addr), b.tunnel), b.id)).collect();
    for spec in wanted.pools.iter().flat_map(|p| &p.backends) {
        if asked.insert(spec.name.as_str(), ()).is_some() {
            continue;
        }
        match holders.get(&(spec.name.clone(), plain(spec.addr), spec.tunnel)) {
            Some(&id) => {
                stays.insert(id);
                if let Some(holder) = &mut slots[id.index()] {
                    (holder.state, holder.limits, holder.leaving) = (spec.state, spec.limits, false);
                    (holder.check, holder.agent) = said(&spec.name);
                }
            }
            None => missing.push(spec),
        }
    }
    for slot in &mut slots {
        let Some(holder) = slot else { continue };
        if stays.contains(holder.id) {
            continue;
        }
        if holder.leaving && free(Leaving::Backend(holder)) {
            *slot = None;
        } else {
            (holder.state, holder.leaving) = (State::Draining, true);
            (holder.check, holder.agent) = (None, None);
        }
    }
    let vacant: Vec<usize> = (0..MAX_BACKENDS).filter(|&i| slots.get(i).is_none_or(Option::is_none)).collect();
    if missing.len() > vacant.len() {
        let leaving = slots.iter().flatten().filter(|b| b.leaving).count();
        return Err(Fault { place: Place::Whole, what: FaultKind::TooManyBackends { wanted: asked.len(), leaving } });
    }
    for (spec, at) in missing.into_iter().zip(vacant) {
        if at >= slots.len() {
            slots.resize(at + 1, None);
            generations.resize(at + 1, 0);
        }
        let generation = generations[at];
        let (check, agent) = said(&spec.name);
        generations[at] = generation.wrapping_add(1);
        slots[at] = Some(Backend {
            id: BackendId(at as u16),
            generation,
            name: spec.name.clone(),
            addr: spec.addr,
            state: spec.state,
            limits: spec.limits,
            check,
            agent,
            tunnel: spec.tunnel,
            leaving: false,
        });
    }
    Ok((slots, generations))
}

/// The listeners of the next version.
fn place_listeners(
    previous: Option<&Directory>,
    services: &[Service],
    free: impl Fn(Leaving<'_>) -> bool,
) -> Result<Vec<Listener>, Fault> {
    let mut listeners = BTreeMap::new();
    for (service, listen) in services.iter().flat_map(|s| s.listen.iter().map(|l| (s.id, plain(*l)))) {
        let flows = previous.and_then(|p| p.listener(listen)).map(|l| l.flows.clone()).unwrap_or_default();
        listeners.insert(listen, Listener { addr: listen, service, leaving: false, flows });
    }
    let wanted = listeners.len();
    for old in previous.into_iter().flat_map(|p| &p.listeners) {
        if !(old.leaving && free(Leaving::Listener(old))) {
            listeners.entry(old.addr).or_insert_with(|| Listener { leaving: true, ..old.clone() });
        }
    }
    let leaving = listeners.len() - wanted;
    if listeners.len() > MAX_LISTENERS {
        return Err(Fault { place: Place::Whole, what: FaultKind::TooManyListeners { wanted, leaving } });
    }
    Ok(listeners.into_values().collect())
}

/// Numbers for things that have a name.
#[derive(Clone, Debug, Default)]
struct Numbers(Vec<Numbered>);

#[derive(Clone, Debug)]
struct Numbered {
    name: String,
    generation: u16,
    /// Its place in the present list.
    place: Option<usize>,
    /// The version it was last wanted in.
    last: u64,
}

impl Numbers {
    /// A number for each name: its old one; else one that was never used; when there is none, the one vacant for
    /// longest. There are `most` of them, no fewer than names.
    fn assign<'a>(&mut self, version: u64, names: impl Iterator<Item = &'a str> + Clone, most: usize) -> Vec<Number> {
        let known: HashMap<String, usize> = self.0.iter().enumerate().map(|(i, n)| (n.name.clone(), i)).collect();
        self.0.iter_mut().for_each(|n| n.place = None);
        let mut slots: Vec<Option<usize>> = names.clone().map(|name| known.get(name).copied()).collect();
        for (place, slot) in slots.iter().enumerate() {
            if let Some(slot) = *slot {
                self.0[slot].place = Some(place);
                self.0[slot].last = version;
            }
        }
        for (place, name) in names.enumerate() {
            if slots[place].is_some() {
                continue;
            }
            let new = Numbered { name: name.to_owned(), generation: 0, place: Some(place), last: version };
            let longest = (0..self.0.len()).filter(|&i| self.0[i].place.is_none()).min_by_key(|&i| self.0[i].last);
            slots[place] = match longest {
                Some(i) if self.0.len() >= most => {
                    self.0[i] = Numbered { generation: self.0[i].generation.wrapping_add(1), ..new };
                    Some(i)
                }
                _ => {
                    self.0.push(new);
                    Some(self.0.len() - 1)
                }
            };
        }
        let number = |slot: usize| Number { slot: slot as u16, generation: self.0[slot].generation };
        slots.into_iter().flatten().map(number).collect()
    }

    fn get(&self, number: Number) -> Option<&Numbered> {
        self.0.get(usize::from(number.slot)).filter(|n| n.generation == number.generation)
    }

    fn called<T>(&self, id: fn(Number) -> T) -> Vec<(T, &str)> {
        let one = |(slot, n): (usize, &Numbered)| Number { slot: slot as u16, generation: n.generation };
        self.0.iter().enumerate().map(|at| (id(one(at)), at.1.name.as_str())).collect::<Vec<_>>()
    }

    fn place(&self, number: Number) -> Option<usize> {
        self.get(number)?.place
    }

    fn name(&self, number: Number) -> Option<&str> {
        Some(&self.get(number)?.name)
    }
}
