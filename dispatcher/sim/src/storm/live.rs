//! Living through a storm.

use super::fronted;
use super::limited::{self, Watch};
use super::reconfigure::{Door, NAME, Operator};
use super::{Kind, Kinds, Scenario};
use crate::apps::{COOKIE, Closing, Ended, Expect, Plan, Write, get_and_reset, pattern};
use crate::config::{one_armed, server_ip, server_name, two_armed, vip};
use crate::host::Stack;
use crate::liar::{self, Rows};
use crate::links::Faults;
use crate::rng::Rng;
use crate::tls::{ALERT, Hello};
use crate::tunnels::behind;
use crate::world::{Told, World};
use core::time::Duration;
use dispatcher::engine::{AddressMode, Config, DropReason, End, Limits};
use dispatcher::time::Time;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;

/// Clients that mean well.
const CLIENTS: usize = 4;
/// Hosts repeat what was lost after up to a minute, and that may be lost too: neither they nor the dispatcher give up before.
const PATIENCE: Duration = Duration::from_secs(900);
const IDLE: Duration = Duration::from_secs(400);
/// Servers that may be added while it storms.
const MORE_SERVERS: usize = 3;
/// Slots for backends then: few, so that they are given to others.
const SLOTS: usize = 9;
/// Frames kept for a capture.
const RECORDED: usize = 200_000;

/// What happened in a storm, or in several.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Sum {
    /// Worlds.
    pub worlds: u64,
    /// Connections of clients that mean well.
    pub connections: u64,
    /// Those with an excuse for not ending in order.
    pub excused: u64,
    /// Those reset because an empty segment came before all others (after a second SYN-ACK): nothing tells it from a stranger's.
    pub strangers: u64,
    /// Sessions that clients offered and the table knew.
    pub promised: u64,
    /// Changes of the configuration.
    pub changes: u64,
    /// Other processes that took over.
    pub upgrades: u64,
    /// Connections of worlds in which all that was done after them was, to the byte, what would have been done without.
    pub untouched: u64,
    /// Backends that got the slot of one that had been removed.
    pub successors: u64,
    /// Sessions that had to be taken up where they were made, whatever was changed, and were.
    pub kept: u64,
    /// Connections that waited for room at a server.
    pub waited: u64,
    /// Those that waited in vain, or found no place to wait at.
    pub turned_away: u64,
    /// Frames that came to the engine.
    pub frames: u64,
    /// Frames it dropped.
    pub dropped: u64,
    /// Of honest clients among liars: returns with a session.
    pub returns: u64,
    /// Of these, resumed only because the liar taught the tables something true.
    pub helped: u64,
    /// Connections of liars, among the connections.
    pub lies: u64,
    /// Rows of the tables in the end, with liars.
    pub rows: Rows,
    /// The same without.
    pub rows_without: Rows,
}

impl core::ops::AddAssign for Sum {
    fn add_assign(&mut self, other: Sum) {
        self.worlds += other.worlds;
        self.connections += other.connections;
        self.excused += other.excused;
        self.strangers += other.strangers;
        self.promised += other.promised;
        self.changes += other.changes;
        self.upgrades += other.upgrades;
        self.untouched += other.untouched;
        self.successors += other.successors;
        self.kept += other.kept;
        self.waited += other.waited;
        self.turned_away += other.turned_away;
        self.frames += other.frames;
        self.dropped += other.dropped;
        self.returns += other.returns;
        self.helped += other.helped;
        self.lies += other.lies;
        self.rows += other.rows;
        self.rows_without += other.rows_without;
    }
}

/// One connection that is answered for.
struct Guest {
    id: (usize, usize),
    local: SocketAddr,
    /// By which it came.
    door: Door,
    /// What a PROXY header in front of its bytes calls it.
    named: Option<SocketAddr>,
    /// The session it offers.
    offered: Option<Session>,
    /// Nothing has happened to that session's server in the configuration: so it is called, and it resumes.
    promised: Option<String>,
    /// So many changes of the configuration were before it.
    since: u64,
    /// The server will reset it.
    cut: bool,
    excused: bool,
    /// Its session has been taken down.
    noted: bool,
}

/// A session that a server has issued.
#[derive(Clone)]
struct Session {
    id: Vec<u8>,
    /// It is a cookie.
    cookie: bool,
    issuer: usize,
    /// Changes of the configuration before the connection in which it was.
    since: u64,
}

struct Storm<'a> {
    s: &'a Scenario,
    w: World,
    guests: Vec<Guest>,
    sessions: Vec<Session>,
    operator: Operator,
    /// By server: it has been down.
    crashed: Vec<bool>,
    down: Option<(usize, Time)>,
    evil_client: Option<usize>,
    strangers: u64,
    upgrades: u64,
    /// See [`Sum::kept`].
    kept: u64,
    /// All was delivered, and half an hour later the connection was still not closed.
    unclosed: Vec<SocketAddr>,
    twice: HashSet<SocketAddr>,
}

/// Lives through a scenario.
///
/// # Panics
/// When something does not hold. With `capture`, a pcapng is left in that folder then.
pub fn run(s: &Scenario, capture: Option<&Path>) -> Sum {
    if s.kinds.has(Kind::Liar) {
        return among_liars(s);
    }
    let mut storm = Storm::new(s, capture);
    for _ in 0..s.connections {
        storm.connect();
        let wait = storm.w.rng.below(40_000) as u64;
        storm.w.run(Duration::from_micros(wait));
        storm.trouble();
        storm.take_down_sessions();
    }
    storm.end()
}

/// The liar's world.
fn among_liars(s: &Scenario) -> Sum {
    let r = liar::play(s.seed, s.connections as u64);
    let wrong = (r.misled, r.lost, r.invented);
    let first = r.first.as_deref().unwrap_or("an invention");
    assert!(
        wrong == (0, 0, 0),
        "{} of {} honest returns misled, {} sessions lost, {} inventions became rows, of {} lies; first: {first}",
        r.misled,
        r.returns,
        r.lost,
        r.invented,
        r.lies
    );
    Sum {
        worlds: 1,
        connections: r.honest + r.lies,
        frames: r.frames,
        promised: r.resumed,
        returns: r.returns,
        helped: r.helped,
        lies: r.lies,
        rows: r.rows,
        rows_without: r.rows_without,
        ..Sum::default()
    }
}

fn config(s: &Scenario) -> Config {
    let base = if s.one_armed { one_armed(s.servers, s.v6) } else { two_armed(s.servers, s.v6) };
    let base = match s.tunnel {
        Some(kind) => behind(base, kind),
        None => base,
    };
    // Where frames get lost probes do too, and a pool of one server would be without any.
    let unheard = [Kind::Loss, Kind::Corruption, Kind::Stall, Kind::Leap].into_iter().any(|k| s.kinds.has(k));
    let limits = if s.kinds.has(Kind::Tables) {
        Limits { flows: 24, hellos: 4, waiting: 6, watches: 3, sessions: 32, ..Limits::default() }
    } else {
        let flows = (s.connections * 3).max(64);
        let backends = if s.kinds.has(Kind::Reconfigure) { SLOTS } else { 0 };
        // Of more places some are looked at in each sweep, in turns: behind a takeover it would be others'.
        let watches = flows.min(256);
        Limits { flows, hellos: 128, watches, sessions: 4096, backends, ..Limits::default() }
    };
    Config {
        address_mode: s.mode,
        hash_seed: s.seed,
        probe: s.kinds.has(Kind::Crash) || s.kinds.has(Kind::Reconfigure) && !unheard,
        flow_idle_timeout: IDLE,
        limits,
        ..base
    }
    .policy(|p| {
        p.proxy_protocol = s.proxy;
        if s.fronted {
            fronted::accept(p, s.pass);
        }
        if s.cookies {
            p.cookie = Some(COOKIE.parse().expect("a token"));
        }
    })
    .pool(|p| p.balance = s.balance)
}

impl Storm<'_> {
    fn new<'a>(s: &'a Scenario, capture: Option<&Path>) -> Storm<'a> {
        let has = |kind| s.kinds.has(kind);
        let mut config = config(s);
        let mut rng = Rng::new(s.seed ^ 0x0071_3175);
        let all = if has(Kind::Limits) { s.servers + MORE_SERVERS } else { 0 };
        let limits: Vec<_> = (0..all).map(|_| limited::limits(&mut rng)).collect();
        if has(Kind::Limits) {
            limited::rules(&mut rng, &mut config.wanted.services[0].policy);
            let backends = &mut config.wanted.pools[0].backends;
            backends.iter_mut().zip(&limits).for_each(|(backend, limits)| backend.limits = *limits);
        }
        let mut w = World::new("storm", config, s.seed, CLIENTS, s.servers, s.v6);
        w.record(if capture.is_some() { RECORDED } else { 0 });
        w.leave_captures_in(capture);
        let given = |kind, n| if has(kind) { n } else { 0 };
        w.roughen(Faults {
            loss: given(Kind::Loss, s.faults.loss),
            duplication: given(Kind::Duplication, s.faults.duplication),
            reordering: given(Kind::Reordering, s.faults.reordering),
            corruption: given(Kind::Corruption, s.faults.corruption),
        });
        // Damage on one wire of two only, and not where frames pass the same wire twice: a second flip may undo what the checksum says of
        // the first.
        let spared = s.seed as usize % w.faults.len();
        w.faults[spared].corruption = 0;
        w.full = given(Kind::Full, 20);
        if has(Kind::Reconfigure) {
            let port = w.config.ports.len() - 1;
            for n in s.servers..s.servers + MORE_SERVERS {
                w.add_server(n, s.v6, port, Stack::default());
            }
        }
        let evil_client = has(Kind::EvilClients).then(|| {
            let h = w.add_client(CLIENTS + 10, s.v6);
            w.hosts[h].evil = 150;
            h
        });
        for h in 0..w.hosts.len() {
            let timestamps = w.rng.per_mille(700);
            // So much that windows never close: smoltcp 0.14 takes an overtaken acknowledgement's word for the window, and does not ask
            // again when that was none.
            let receive_buffer = [65_535, 200_000][w.rng.below(2)];
            w.hosts[h].stack = Stack {
                receive_buffer,
                send_buffer: 30_000,
                timestamps,
                patience: PATIENCE,
                careful: true,
                ..Stack::default()
            };
        }
        let servers = w.servers();
        for h in &servers {
            w.server_mut(*h).expects_proxy_header = s.proxy;
            w.server_mut(*h).header_of_others = s.pass;
        }
        if has(Kind::EvilServer) {
            let h = *servers.last().expect("servers");
            w.hosts[h].evil = 50;
            let addr = w.config.backends()[s.servers - 1].addr;
            w.mistrust(addr);
        }
        if has(Kind::Ports) {
            w.use_local_ports(6);
        }
        if has(Kind::Past) {
            w.keep_the_past();
        }
        if has(Kind::Workers) {
            let workers = w.rng.between(2, 3);
            w.employ(workers);
        }
        let service = w.config.wanted.services[0].clone();
        let operator = Operator::new(service, s.balance, s.servers, servers.len(), s.v6)
            .limiting(limits.into_iter().take(servers.len()).collect());
        if has(Kind::Limits) {
            // What is left when the kinds are taken away that leave a server in the dark of what has ended.
            let quiet = [Kind::Limits, Kind::Workers, Kind::Delay].into_iter().fold(s.kinds, Kinds::without);
            let prompt = [Kind::Crash, Kind::Stall, Kind::Leap, Kind::Ports, Kind::Reconfigure, Kind::EvilServer];
            let prompt = !prompt.into_iter().any(has);
            let mut watch = Watch::new(SLOTS.max(s.servers), quiet == Kinds::NONE, prompt);
            w.observe(move |w| watch.look(w));
        }
        Storm {
            operator,
            s,
            w,
            guests: vec![],
            sessions: vec![],
            crashed: vec![false; servers.len()],
            down: None,
            evil_client,
            strangers: 0,
            upgrades: 0,
            kept: 0,
            unclosed: vec![],
            twice: HashSet::new(),
        }
    }

    /// A plan at random, whether the server may cut it short, and the session it offers.
    fn plan(&mut self, door: Door) -> (Plan, bool, Option<Session>) {
        let w = &mut self.w;
        let n = match w.rng.below(12) {
            0 => w.rng.between(20_000, 55_000),
            1..4 => w.rng.between(2000, 15_000),
            _ => w.rng.between(1, 2000),
        };
        let closing = [Closing::ClientFirst, Closing::Half, Closing::ClientFirst, Closing::Abort][w.rng.below(4)];
        match w.rng.below(10) {
            0 => {
                let body = w.rng.bytes(n);
                (Plan::echo(&[b"x".to_vec(), body].concat()).closing(closing), false, None)
            }
            1 => (Plan::get(n), false, None),
            2 => (Plan::get(n).closing(Closing::Half), false, None),
            3 => {
                let plan = Plan {
                    writes: vec![Write::now(get_and_reset(n))],
                    expect: Expect::Exactly(pattern(n)),
                    closing: Closing::Never,
                };
                (plan, true, None)
            }
            kind if self.s.cookies && kind % 2 == 0 => {
                let offered = self.session_to_offer(true);
                let w = &mut self.w;
                let pad = [0, 0, 0, 900, 1700, 6000][w.rng.below(6)];
                let body = w.rng.bytes(n);
                let host = if door.named { NAME } else { "other.example" };
                let mut plan = Plan::http(host, offered.as_ref().map(|s| &s.id[..]), pad, &body).closing(closing);
                if pad == 0 && n < 700 && w.rng.per_mille(400) {
                    let (size, window) = [(10, 200), (20, 200), (300, 3000)][w.rng.below(3)];
                    plan = plan.dripping(size, Duration::from_micros(w.rng.below(4000) as u64), window);
                }
                (plan, false, offered)
            }
            kind => {
                let sizes = [0, 0, 500, 1700, 1800, 6000, 16_000];
                let mut hello = Hello { at_least: sizes[w.rng.below(sizes.len())], ..Hello::default() };
                hello.random.copy_from_slice(&w.rng.bytes(32));
                if door.named {
                    hello.sni = Some(NAME);
                }
                let offered = self.session_to_offer(false);
                offered.iter().for_each(|session| hello.session_id.clone_from(&session.id));
                let w = &mut self.w;
                let bytes = if w.rng.per_mille(200) { hello.in_records(w.rng.between(40, 900)) } else { hello.bytes() };
                let small = bytes.len() < 700;
                let body = w.rng.bytes(n);
                let mut plan = Plan::tls_bytes(bytes, &body).closing(closing);
                if kind == 9 && small {
                    // Not slower than a hello may take in all, with the second that each loss costs.
                    let (size, window) = [(10, 200), (20, 200), (300, 3000)][w.rng.below(3)];
                    plan = plan.dripping(size, Duration::from_micros(w.rng.below(4000) as u64), window);
                }
                (plan, false, offered)
            }
        }
    }

    /// One that a client offers, perhaps: a cookie or a session of TLS.
    fn session_to_offer(&mut self, cookie: bool) -> Option<Session> {
        let fitting: Vec<&Session> = self.sessions.iter().filter(|s| s.cookie == cookie).collect();
        if fitting.is_empty() || !self.w.rng.per_mille(600) {
            return None;
        }
        Some(fitting[self.w.rng.below(fitting.len())].clone())
    }

    fn connect(&mut self) {
        let mut door =
            if self.s.kinds.has(Kind::Reconfigure) { self.operator.door(&mut self.w.rng) } else { Door::default() };
        let (mut plan, cut, offered) = self.plan(door);
        let named = if self.s.fronted { fronted::name(&mut self.w.rng, &mut plan) } else { None };
        let host = self.w.rng.below(CLIENTS);
        let old = self.s.kinds.has(Kind::Reuse).then(|| self.closed_on(host)).flatten();
        let id = match old {
            Some(guest) => {
                let (id, local) = (self.guests[guest].id, self.guests[guest].local);
                self.twice.insert(local);
                self.w.forget(id);
                door.second = false;
                self.w.connect_from(host, local, plan)
            }
            None => self.w.connect_at(host, door.address(self.s.v6), plan),
        };
        let local = self.w.conn(id).local;
        self.w.watch(id);
        let since = self.operator.changes();
        let promised = offered.as_ref().filter(|s| self.operator.resumes(s.issuer, door, s.since));
        let promised = promised.map(|s| self.operator.name(s.issuer));
        self.guests.push(Guest { id, local, door, named, offered, promised, since, cut, excused: false, noted: false });
        if let Some(evil) = self.evil_client
            && self.w.rng.per_mille(400)
        {
            let (plan, ..) = self.plan(Door::default());
            self.w.connect(evil, plan);
        }
    }

    /// A connection of a host that has ended, and whose port nobody uses now.
    fn closed_on(&mut self, host: usize) -> Option<usize> {
        if self.w.rng.per_mille(400) {
            return None;
        }
        let open: HashSet<SocketAddr> =
            self.guests.iter().filter(|g| self.w.conn(g.id).outcome == Ended::Open).map(|g| g.local).collect();
        let closed = self.guests.iter().rposition(|g| g.id.0 == host && !open.contains(&g.local))?;
        // What it got has been judged already.
        self.judge(closed);
        self.guests[closed].excused = true;
        Some(closed)
    }

    fn open(&self) -> Vec<usize> {
        (0..self.guests.len()).filter(|g| self.w.conn(self.guests[*g].id).outcome == Ended::Open).collect()
    }

    /// What goes wrong between two connections.
    fn trouble(&mut self) {
        let has = |kind| self.s.kinds.has(kind);
        let now = self.w.now;
        if let Some((host, until)) = self.down
            && now >= until
        {
            self.w.restart(host);
            self.down = None;
        }
        if has(Kind::Crash) && self.down.is_none() && self.w.rng.per_mille(100) {
            let servers = self.w.servers();
            let which = self.w.rng.below(servers.len());
            self.crashed[which] = true;
            self.w.crash(servers[which]);
            let away = self.w.rng.between(100, 6000) as u64;
            self.down = Some((servers[which], now + Duration::from_millis(away)));
            for g in self.open() {
                self.guests[g].excused = true;
            }
        }
        if has(Kind::Stall) && self.w.rng.per_mille(80) {
            let time = Duration::from_millis(self.w.rng.below(2000) as u64);
            self.w.stop_engine(time);
        }
        if has(Kind::Leap) && self.w.rng.per_mille(60) {
            let time = Duration::from_millis(self.w.rng.below(30_000) as u64);
            self.w.leap(time);
            for g in self.open() {
                self.guests[g].excused |= self.w.conn(self.guests[g].id).received.is_empty();
            }
        }
        if has(Kind::Upgrade) && self.w.rng.per_mille(150) {
            let workers = self.w.rng.between(1, 4);
            self.w.upgrade(workers);
            self.upgrades += 1;
        }
        if has(Kind::Mtu) && self.w.rng.per_mille(100) {
            let (least, most) = if self.s.v6 { (1280, 1450) } else { (600, 1450) };
            let (port, mtu) = (self.w.rng.below(self.w.faults.len()), self.w.rng.between(least, most));
            self.w.narrow(port, mtu);
        }
        if has(Kind::Delay) && self.w.rng.per_mille(150) {
            self.w.delay = Duration::from_micros([100, 500, 5000, 40_000][self.w.rng.below(4)]);
        }
        if has(Kind::Forgery) {
            let open = self.open();
            for _ in 0..self.w.rng.below(4) {
                if !open.is_empty() {
                    let client = self.guests[open[self.w.rng.below(open.len())]].local;
                    self.w.forge(client, vip(self.s.v6));
                }
            }
        }
        if has(Kind::Past) {
            for _ in 0..self.w.rng.below(4) {
                self.w.repeat_the_past();
            }
        }
        if has(Kind::Reconfigure) {
            if self.w.rng.per_mille(60) {
                // As long as ended connections are remembered, so that slots become free.
                self.w.run(Duration::from_secs(20));
            }
            while self.w.rng.per_mille(400) {
                self.reconfigure();
            }
        }
    }

    /// Somebody changes the configuration.
    fn reconfigure(&mut self) {
        let before = self.operator.clone();
        let change = self.operator.change(&mut self.w.rng);
        let address = |server: &usize| SocketAddr::new(server_ip(*server, self.s.v6), 8443);
        let reset: Vec<SocketAddr> = change.reset.iter().map(address).collect();
        // Whose connections may end by it. Where several workers are, nobody sees where a connection was led.
        let about: Vec<usize> = self
            .open()
            .into_iter()
            .filter(|g| {
                let (place, door) = (self.w.place(self.guests[*g].local), self.guests[*g].door);
                let led = place.is_some() && !self.s.kinds.has(Kind::Workers);
                let removed = !reset.is_empty() && (!led || place.is_some_and(|(_, server)| reset.contains(&server)));
                removed || change.closed && door.second && !led
            })
            .collect();
        if self.w.reconfigure(&self.operator.wanted(), &reset).is_err() {
            // No slot is free. Nothing has changed.
            self.operator = before;
            return;
        }
        about.into_iter().for_each(|g| self.guests[g].excused = true);
        for g in self.open() {
            let Guest { offered, promised, door, .. } = &mut self.guests[g];
            let still = offered.as_ref().is_some_and(|s| {
                self.operator.resumes(s.issuer, *door, s.since)
                    && promised.as_ref() == Some(&self.operator.name(s.issuer))
            });
            if !still {
                *promised = None;
            }
        }
    }

    /// Sessions that servers have issued, from the answers that clients got.
    fn take_down_sessions(&mut self) {
        for g in self.guests.iter_mut().filter(|g| !g.noted) {
            let c = self.w.conn(g.id);
            if c.outcome == Ended::Open {
                continue;
            }
            g.noted = true;
            let astray = self.w.astray(g.local);
            if let Some(f) = c.flight().filter(|f| !astray && !f.resumed && f.session_id.len() == 32) {
                let cookie = matches!(c.plan.expect, Expect::Http { .. });
                self.sessions.push(Session { id: f.session_id, cookie, issuer: f.server, since: g.since });
            }
        }
    }

    /// How a connection went, when it has ended.
    fn judge(&mut self, guest: usize) {
        let g = &self.guests[guest];
        let c = self.w.conn(g.id);
        let has = |kind| self.s.kinds.has(kind);
        if self.w.astray(g.local) {
            return;
        }
        c.check();
        let evil_name = server_name(self.s.servers - 1, self.s.v6);
        let told = self.w.told_of(g.local);
        let evil_dialled = has(Kind::EvilServer) && told.iter().any(|t| t.backend.as_deref() == Some(&*evil_name));
        if let Some(f) = c.flight()
            && !self.twice.contains(&g.local)
        {
            let server_of = |t: &&Told| t.backend.as_deref().and_then(Operator::server_of);
            let right = |t: &&Told| server_of(t) == Some(f.server);
            // A first segment that comes again when its connection is forgotten begins another: its cookie is true still. Where the segment is one of long
            // ago, its client resets that. Where a server reset the first connection before it answered, and its client missed the reset, the other one
            // serves it; only the evil server does so, whose SYN-ACK may bear a number that is none of its own.
            let undone = |t: &&Told| {
                has(Kind::Past)
                    || t.end == End::BackendReset
                        && t.bytes_to_client == 0
                        && has(Kind::EvilServer)
                        && t.backend.as_deref() == Some(&*evil_name)
            };
            let mut led = told.iter().copied().filter(|t| server_of(t).is_some()).peekable();
            let served = led.peek().is_none() || led.clone().any(|t| right(&t)) && led.all(|t| right(&t) || undone(&t));
            assert!(
                served,
                "{}: server {} answered, told of {:?}",
                g.local,
                f.server,
                told.iter().map(|t| &t.backend).collect::<Vec<_>>()
            );
            let trouble = self.s.kinds.without(Kind::Reconfigure).without(Kind::Workers).without(Kind::Delay);
            if trouble == Kinds::NONE
                && let (Some(session), Some(_)) = (&g.offered, &g.promised)
            {
                assert!(
                    f.resumed && f.server == session.issuer,
                    "{}: the session's server {} stayed, and server {} answered: {:?}",
                    g.local,
                    session.issuer,
                    f.server,
                    told.iter().map(|t| (t.reason, &t.decided, &t.backend, t.attempts)).collect::<Vec<_>>()
                );
                self.kept += 1;
            }
        }
        if let Some(Session { issuer, .. }) = &g.offered
            && !self.twice.contains(&g.local)
            && !self.crashed[*issuer]
            && !evil_dialled
            // A clock that leaps ends the time that a dial may take.
            && !(has(Kind::Leap) && g.excused)
            && let Some(name) = &g.promised
        {
            // Whose ports are used up takes nobody else, promised or not.
            for t in told.iter().filter(|t| t.decided.is_some() && !t.spilled && !has(Kind::Ports)) {
                assert_eq!(
                    t.decided.as_ref(),
                    Some(name),
                    "{}: promised to another than who issued its session",
                    g.local
                );
                if t.end != End::NoBackend && t.backend.is_some() {
                    assert_eq!(
                        t.backend, t.decided,
                        "{}: not led where it was promised, by {}, attempts {}, waited {} ms",
                        g.local, t.reason, t.attempts, t.waited_ms
                    );
                }
            }
            if !has(Kind::Ports)
                && told.iter().any(|t| matches!(t.reason, "session-id" | "cookie") && !t.spilled)
                && let Some(f) = c.flight()
            {
                assert!(f.server == *issuer && f.resumed, "{}: led by its session, and not resumed", g.local);
            }
        }
        // With the client's own port kept, one port cannot lead from two doors to one server at once.
        let ports_clash = has(Kind::Ports) || self.s.mode == AddressMode::Dnat && has(Kind::Reconfigure);
        let refused = c.outcome == Ended::Reset
            && (has(Kind::Tables)
                || ports_clash
                    && c.received.is_empty()
                    && self.w.engine.counters().refused[DropReason::NoLocalPort as usize] > 0);
        // Leaps may make it seem that nothing was said for long.
        let idle = told.iter().any(|t| t.end == End::Idle);
        // Where several workers are, nobody hears why it ended.
        let in_vain = |t: &&Told| matches!(t.end, End::QueueTimeout | End::QueueFull | End::QueueAbandoned);
        let in_vain = has(Kind::Limits) && (has(Kind::Workers) || told.iter().any(in_vain));
        if in_vain && (c.received == ALERT || c.received.is_empty() && c.outcome == Ended::Reset) {
            self.guests[guest].excused = true;
            return;
        }
        if c.outcome == Ended::Reset && self.w.struck(g.local) {
            self.guests[guest].excused = true;
            return;
        }
        if g.excused || g.cut || refused || evil_dialled || has(Kind::Leap) && idle {
            return;
        }
        // One server is down, and the operator has given the client's pool no other, or the other is the evil one: known at the SYN, or found out by
        // dialling.
        let alone = has(Kind::Crash) && (has(Kind::Reconfigure) || has(Kind::EvilServer)) && c.received.is_empty();
        // With the client's own port kept, the server may still hold the port's earlier connection, whose end was lost; smoltcp 0.14 does not answer a SYN
        // then, where RFC 9293 (3.10.7.4) has it acknowledge what it knows.
        let held = self.s.mode == AddressMode::Dnat && has(Kind::Reuse) && self.twice.contains(&g.local);
        let alone = alone || held && c.received.is_empty();
        if alone && c.outcome == Ended::Reset && told.last().is_none_or(|t| t.end == End::NoBackend) {
            self.guests[guest].excused = true;
            return;
        }
        // Our SYN-ACK came twice: doubled on the way, or because SYNs repeated meanwhile were all answered after a stall.
        let twice = has(Kind::Duplication) || has(Kind::Past) || has(Kind::Stall);
        let counters = if has(Kind::Workers) { self.w.crew().counters() } else { self.w.engine.counters().clone() };
        let refusals = counters.refused[DropReason::BadCookie as usize];
        let before_any = c.outcome == Ended::Reset && c.received.is_empty();
        if twice && before_any && self.strangers < refusals {
            self.strangers += 1;
            return;
        }
        assert!(
            c.complete(),
            "{}: {} bytes received, {:?}, {:?}",
            g.local,
            c.received.len(),
            c.outcome,
            told.iter().map(|t| (t.end, t.backend.clone())).collect::<Vec<_>>()
        );
        if let Some(client) = g.named.filter(|_| self.s.proxy && !has(Kind::EvilServer)) {
            let told = |h: &usize| self.w.server(*h).proxied.iter().any(|(named, _)| *named == client);
            assert!(self.w.servers().iter().any(told), "{}: no server was told that it is {client}", g.local);
        }
        // smoltcp 0.14 does not always repeat a FIN that was lost (see `Stack::careful`); then nothing is said any more until the world
        // ends it, or a clock that leaps.
        let ends: Vec<_> = told.iter().map(|t| t.end).collect();
        assert!(
            c.outcome == Ended::Closed || idle || self.unclosed.contains(&g.local),
            "{}: {:?}, {ends:?}",
            g.local,
            c.outcome
        );
    }

    fn end(mut self) -> Sum {
        if let Some((host, _)) = self.down.take() {
            self.w.restart(host);
        }
        let end = self.w.now + PATIENCE * 2;
        while !self.open().is_empty() && self.w.now < end {
            self.w.run(Duration::from_millis(500));
        }
        if !self.open().is_empty() {
            // Whoever answers when asked is not cut as idle: a server that lies, or one whose smoltcp has forgotten a FIN (see `judge`), keeps
            // its clients for ever. Nobody answers any more, so that what they got is judged like that of others.
            let open = self.open();
            let whole = open.iter().map(|g| &self.guests[*g]).filter(|g| self.w.conn(g.id).complete());
            self.unclosed = whole.map(|g| g.local).collect();
            for server in self.w.servers() {
                self.w.hosts[server].dark = true;
            }
            let end = self.w.now + IDLE * 2;
            while !self.open().is_empty() && self.w.now < end {
                self.w.run(Duration::from_millis(500));
            }
        }
        if let Some(g) = self.open().first() {
            let (g, stuck) = (&self.guests[*g], self.open().len());
            panic!("{stuck} connections are stuck, {} among them: {} bytes", g.local, self.w.conn(g.id).received.len());
        }
        self.w.run(Duration::from_secs(1));
        for g in 0..self.guests.len() {
            if !self.guests[g].excused || !self.twice.contains(&self.guests[g].local) {
                self.judge(g);
            }
        }
        let mut sum =
            Sum { worlds: 1, connections: self.guests.len() as u64, strangers: self.strangers, ..Sum::default() };
        sum.upgrades = self.upgrades;
        if self.upgrades > 0 && self.w.crew.is_none() && self.w.engine.is_compared() {
            self.w.engine.compare_rows(self.w.engine_now());
            sum.untouched = sum.connections;
        }
        sum.excused = self.guests.iter().filter(|g| g.excused && !self.twice.contains(&g.local)).count() as u64;
        if self.s.kinds.has(Kind::Reconfigure) {
            (sum.changes, sum.kept) = (self.operator.changes(), self.kept);
            sum.successors = self.w.directory().backends().map(|b| u64::from(b.generation)).sum();
        }
        // Those who lie, and who were lied to, may go on for as long as they like.
        for h in &mut self.w.hosts {
            h.dark |= self.s.kinds.has(Kind::EvilClients) || self.s.kinds.has(Kind::EvilServer);
        }
        self.w.assert_quiescent();
        let (_, asked) = self.w.admission();
        (sum.waited, sum.turned_away) = (asked.waited, asked.turned_away());
        let c =
            if self.s.kinds.has(Kind::Workers) { self.w.crew().counters() } else { self.w.engine.counters().clone() };
        (sum.frames, sum.dropped) = (c.frames_in, c.drops.iter().sum());
        sum.promised = self.w.told.iter().filter(|t| t.decided.is_some()).count() as u64;
        sum
    }
}
