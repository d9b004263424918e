//! A small world on a virtual clock: the real engine between clients and servers that speak TCP by smoltcp, over links
//! that lose, repeat, delay, reorder and damage frames by a seed.
//!
//! Each port of the engine is on a wire of its own with any number of hosts; ARP and neighbour discovery are real. What the
//! hosts say to each other is not touched by the faults, only what passes the engine's ports.

use crate::apps::{ClientConn, Ended, Plan, Server};
use crate::check::Books;
use crate::config::{client_ip, next_revision, server_ip, vip};
use crate::crew::Crew;
use crate::host::{Host, Router, Stack, set_clock};
use crate::hostile::is_forged_reset;
use crate::links::{Air, Faults, To};
use crate::pairs::Pairs;
use crate::pcap::Recorder;
use crate::rng::Rng;
use crate::twin::Twin;
use core::time::Duration;
use dispatcher::engine::Revision;
use dispatcher::engine::{Class, Config, ConnectionRecord, Effects, End, Engine, PortId, QueueState, Verdict};
use dispatcher::time::Time;
use dispatcher::wire::Frame;
use lb::admission::ClassCounters;
use lb::{Backend, Directory, Wanted};
use smoltcp::socket::tcp;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What the engine told of a connection that ended.
pub struct Told {
    /// Address and port.
    pub client: SocketAddr,
    /// The service it connected to.
    pub service: Option<String>,
    /// The pool it was routed to.
    pub pool: Option<String>,
    /// Where it went.
    pub backend: Option<String>,
    /// TLS or not.
    pub class: Class,
    /// What the table named.
    pub decided: Option<String>,
    /// Why it went there.
    pub reason: &'static str,
    /// What the server's answer showed.
    pub resumed: Option<bool>,
    /// Kinds of identities offered.
    pub offered: Vec<&'static str>,
    /// Payload.
    pub bytes_to_server: u64,
    /// Payload.
    pub bytes_to_client: u64,
    /// Backends dialled.
    pub attempts: u32,
    /// The backend that has its session had no room.
    pub spilled: bool,
    /// For room at a backend.
    pub waited_ms: u32,
    /// From the client's hello to the server's.
    pub handshake: Option<Duration>,
    /// How it ended.
    pub end: End,
}

/// Everything.
pub struct World {
    /// Of the test or storm.
    pub name: &'static str,
    /// All follows from it.
    pub seed: u64,
    /// The engine's.
    pub config: Config,
    /// Without workers, the one engine.
    pub engine: Twin,
    /// Virtual time.
    pub now: Time,
    /// All machines.
    pub hosts: Vec<Host>,
    /// By port: towards the engine and away from it.
    pub faults: Vec<Faults>,
    /// Of every wire.
    pub delay: Duration,
    /// Of connections, in order.
    pub told: Vec<Told>,
    /// What the driver saw.
    pub books: Books,
    /// Who was led where.
    pub pairs: Pairs,
    /// What chance decides.
    pub rng: Rng,
    pub(crate) air: Air,
    recorder: Recorder,
    /// Frames that the engine hands out are refused for want of room, in thousandths.
    pub full: u32,
    /// Several workers, in the engine's place.
    pub(crate) crew: Option<Crew>,
    /// Services and backends as they are wanted now.
    wanted: Wanted,
    pub(crate) local_ports: Option<u16>,
    /// The engine's clock is ahead of the world's.
    pub(crate) ahead: Duration,
    /// Until then the engine does nothing, and its frames wait.
    pub(crate) stopped_until: Time,
    /// By port: longer IP packets do not pass, and their sender is told.
    pub(crate) path_mtu: Vec<usize>,
    /// Frames of long ago, by port of arrival, once somebody wants to repeat them.
    pub(crate) past: Option<VecDeque<(usize, Vec<u8>)>>,
    /// Steps since time went on.
    standing: u32,
    /// Clients of connections in which a forged reset hit the window, and was passed on.
    struck: Vec<SocketAddr>,
    /// Servers that do not mean well.
    mistrusted: Vec<SocketAddr>,
    captures: std::path::PathBuf,
    observer: Option<Observer>,
}

/// Looks at a world after each step and each change of the configuration.
type Observer = Box<dyn FnMut(&World)>;

/// Collects what the engine emits during one call.
struct Collect<'a> {
    sent: Vec<(usize, Vec<u8>)>,
    told: &'a mut Vec<Told>,
    books: &'a mut Books,
    rng: &'a mut Rng,
    full: u32,
}

impl Effects for Collect<'_> {
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> bool {
        if self.rng.per_mille(self.full) {
            self.books.refused_by_driver += 1;
            return false;
        }
        self.books.transmitted += 1;
        self.sent.push((usize::from(port.0), frame.to_vec()));
        true
    }

    fn connection_ended(&mut self, r: &ConnectionRecord<'_>) {
        self.told.push(Told {
            client: r.sender(),
            service: r.service.map(str::to_owned),
            pool: r.pool.map(str::to_owned),
            backend: r.backend.map(str::to_owned),
            class: r.class,
            decided: r.decided.map(str::to_owned),
            reason: r.reason_word(),
            resumed: r.resumed,
            offered: r.offered.to_vec(),
            bytes_to_server: r.bytes_to_server,
            bytes_to_client: r.bytes_to_client,
            attempts: r.dial_attempts,
            spilled: r.spilled,
            waited_ms: r.waited_ms,
            handshake: r.handshake,
            end: r.end,
        });
        let within = |span: Option<Duration>| span.is_none_or(|span| span <= r.lasted + Duration::from_micros(1));
        assert!(within(r.first_byte) && within(r.handshake), "{r:?}");
        assert!(r.bytes_to_client == 0 || r.first_byte.is_some(), "{r:?}");
        assert!(r.handshake.is_none() || r.first_byte.is_some(), "{r:?}");
        assert!(r.local.is_none() || r.backend.is_some(), "{r:?}");
    }
}

impl World {
    /// An engine and nobody else.
    pub fn empty(name: &'static str, config: Config, seed: u64) -> World {
        let secret = secret_of(seed);
        let now = Time::from_millis(1_000_000);
        let engine = Twin::new(config.clone(), secret, now).expect("a configuration that works");
        let (ports, wanted) = (config.ports.len(), config.wanted.clone());
        let pairs = Pairs::new(&config.vips(), config.backends().iter().map(|b| b.addr));
        World {
            name,
            seed,
            faults: vec![Faults::NONE; config.ports.len()],
            config,
            engine,
            now,
            hosts: vec![],
            delay: Duration::from_micros(500),
            told: vec![],
            books: Books::default(),
            pairs,
            rng: Rng::new(seed.wrapping_add(1)),
            air: Air::default(),
            recorder: Recorder::new(100_000),
            full: 0,
            crew: None,
            wanted,
            local_ports: None,
            ahead: Duration::ZERO,
            stopped_until: Time::ZERO,
            path_mtu: vec![usize::MAX; ports],
            past: None,
            standing: 0,
            struck: vec![],
            mistrusted: vec![],
            captures: std::env::temp_dir(),
            observer: None,
        }
    }

    /// From now on several workers do the engine's work. What is told of connections goes unheard then.
    pub fn employ(&mut self, workers: usize) {
        self.employ_with(workers, None);
    }

    /// The same with cards that tell to which queue they bring what.
    pub fn employ_with(&mut self, workers: usize, card: Option<std::sync::Arc<dispatcher::flow::Rss>>) {
        let secret = self.secret();
        self.crew = Some(Crew::with_card(&self.config, secret, workers, self.seed, self.now, card));
    }

    /// Of its engines.
    pub fn secret(&self) -> [u8; 32] {
        secret_of(self.seed)
    }

    /// With the services and backends that are wanted now.
    pub(crate) fn config_of_now(&self) -> Config {
        Config { wanted: self.wanted.clone(), ..self.config.clone() }
    }

    /// Dials from only so many local ports for each backend. Before the first flow.
    pub fn use_local_ports(&mut self, count: u16) {
        self.local_ports = Some(count);
        self.engine.use_local_ports(count);
    }

    /// The workers employed.
    pub fn crew(&self) -> &Crew {
        self.crew.as_ref().expect("workers were employed")
    }

    /// Keeps so many of the last frames for the capture that a failure leaves; 0 is fast.
    pub fn record(&mut self, frames: usize) {
        self.recorder = Recorder::new(frames);
    }

    /// Where a capture is left by a world that fails: in this folder, named after world and seed. Without, in that for temporary files.
    pub fn leave_captures_in(&mut self, folder: Option<&std::path::Path>) {
        if let Some(folder) = folder {
            self.captures = folder.to_owned();
        }
    }

    /// A server need not mean well: nothing that it says to clients is checked.
    pub fn mistrust(&mut self, server: SocketAddr) {
        self.mistrusted.push(server);
    }

    /// Whether a client is led to a server that need not mean well.
    pub fn astray(&self, client: SocketAddr) -> bool {
        astray(&self.pairs, &self.mistrusted, client)
    }

    /// A forged reset hit the window of a client's connection and was passed on. An end that knows RFC 5961 asks whether it was meant;
    /// smoltcp 0.14 obeys.
    pub fn struck(&self, client: SocketAddr) -> bool {
        self.struck.contains(&client)
    }

    /// From now on somebody looks at the world after each step and each change of the configuration.
    pub fn observe(&mut self, observer: impl FnMut(&World) + 'static) {
        self.observer = Some(Box::new(observer));
    }

    /// From now on every byte that a connection receives is checked when it comes.
    pub fn watch(&mut self, id: (usize, usize)) {
        self.hosts[id.0].conns[id.1].watched = true;
    }

    /// What the engine's clock says.
    pub fn engine_now(&self) -> Time {
        self.now + self.ahead
    }

    /// When the engine will do something of its own accord, by the world's clock.
    fn deadline(&self) -> Option<Time> {
        let at = self.crew.as_ref().map_or_else(|| self.engine.next_deadline(), Crew::next_deadline)?;
        let here = Time::from_nanos(at.as_nanos().saturating_sub(self.ahead.as_nanos() as u64));
        Some(here.max(self.stopped_until))
    }

    /// With `clients` and `servers` as the tables of [`crate::config`] have them, servers on the last port.
    pub fn new(name: &'static str, config: Config, seed: u64, clients: usize, servers: usize, v6: bool) -> World {
        let mut w = World::empty(name, config, seed);
        let last = w.config.ports.len() - 1;
        for n in 0..clients {
            w.add_client(n, v6);
        }
        for n in 0..servers {
            w.add_server(n, v6, last, Stack::default());
        }
        w
    }

    /// A client by the tables of [`crate::config`].
    pub fn add_client(&mut self, n: usize, v6: bool) -> usize {
        self.add_host(&[client_ip(n, v6)], 0, Stack::default(), if v6 { "fd01::1" } else { "10.1.0.1" })
    }

    /// A server by the tables of [`crate::config`].
    pub fn add_server(&mut self, n: usize, v6: bool, port: usize, stack: Stack) -> usize {
        let h = self.add_host(&[server_ip(n, v6)], port, stack, if v6 { "fd02::1" } else { "10.2.0.1" });
        self.hosts[h].server = Some(Server::new(n, self.seed));
        h
    }

    /// A host; its default route leads to `gateway`.
    pub fn add_host(&mut self, addresses: &[IpAddr], port: usize, stack: Stack, gateway: &str) -> usize {
        let n = self.hosts.len();
        let random = self.rng.u64();
        let gateway = gateway.parse().expect("an address");
        self.hosts.push(Host::new(n, addresses, port, stack, gateway, random, self.now));
        n
    }

    /// Makes a host a router for others on its wire.
    pub fn routes_for(&mut self, router: usize, hosts: &[(IpAddr, usize)]) {
        let hosts = hosts.iter().map(|(ip, h)| (*ip, self.hosts[*h].mac)).collect();
        self.hosts[router].router = Some(Router { hosts });
    }

    /// What runs on a host.
    pub fn server(&self, host: usize) -> &Server {
        self.hosts[host].server.as_ref().expect("a server")
    }

    /// What runs on a host.
    pub fn server_mut(&mut self, host: usize) -> &mut Server {
        self.hosts[host].server.as_mut().expect("a server")
    }

    /// Bad links everywhere.
    pub fn roughen(&mut self, faults: Faults) {
        self.faults.fill(faults);
        for h in &mut self.hosts {
            h.stack.careful = true;
        }
    }

    /// Hosts that are servers.
    pub fn servers(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|h| self.hosts[*h].server.is_some()).collect()
    }

    /// Starts a connection from a host's first address to the VIP of its family.
    pub fn connect(&mut self, host: usize, plan: Plan) -> (usize, usize) {
        let local = self.hosts[host].next_local();
        self.connect_from(host, local, plan)
    }

    /// The same from an address and port of choice.
    pub fn connect_from(&mut self, host: usize, local: SocketAddr, plan: Plan) -> (usize, usize) {
        self.connect_to(host, local, vip(local.is_ipv6()), plan)
    }

    /// The same to another address.
    pub fn connect_to(&mut self, host: usize, local: SocketAddr, to: SocketAddr, plan: Plan) -> (usize, usize) {
        (host, self.hosts[host].connect(local, to, plan, self.now))
    }

    /// The same from a host's first address and next port, to another VIP.
    pub fn connect_at(&mut self, host: usize, to: SocketAddr, plan: Plan) -> (usize, usize) {
        let local = self.hosts[host].next_local();
        (host, self.hosts[host].connect(local, to, plan, self.now))
    }

    /// A connection by what [`World::connect`] returned.
    pub fn conn(&self, id: (usize, usize)) -> &ClientConn {
        &self.hosts[id.0].conns[id.1]
    }

    /// The socket of a client's connection.
    pub fn socket(&mut self, id: (usize, usize)) -> &mut tcp::Socket<'static> {
        let handle = self.conn(id).handle;
        let h = &mut self.hosts[id.0];
        h.next = self.now;
        h.sockets.get_mut(handle)
    }

    /// Connections that have not ended.
    pub fn open_connections(&self) -> usize {
        self.hosts.iter().flat_map(|h| &h.conns).filter(|c| c.outcome == Ended::Open).count()
    }

    /// Runs until all clients' connections have ended, or so long; and a second more, for last words.
    pub fn run_until_done(&mut self, most: Duration) {
        let end = self.now + most;
        while self.open_connections() > 0 && self.now < end {
            self.step(end);
        }
        self.run(Duration::from_secs(1));
    }

    /// Runs for so long.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step(end);
        }
    }

    /// Runs until `done`, or panics after `most`.
    pub fn run_until(&mut self, most: Duration, what: &str, done: impl Fn(&World) -> bool) {
        let end = self.now + most;
        while !done(self) {
            assert!(self.now < end, "{what}: not within {most:?}");
            self.step(end);
        }
    }

    /// Everything that happens at the next moment when anything happens; no later than `end`.
    fn step(&mut self, end: Time) {
        let mut next = end;
        if let Some(at) = self.air.next() {
            next = next.min(at);
        }
        for h in &self.hosts {
            next = next.min(h.next);
        }
        if let Some(d) = self.deadline() {
            next = next.min(d);
        }
        self.standing = if next > self.now { 0 } else { self.standing + 1 };
        assert!(self.standing < 200_000, "a busy loop");
        self.now = self.now.max(next);
        set_clock(self.now);
        while let Some(f) = self.air.landed(self.now) {
            match f.to {
                To::Engine(port) if self.now < self.stopped_until => {
                    self.put(self.stopped_until, To::Engine(port), f.frame);
                }
                To::Engine(port) => self.hand_in(port, f.frame),
                To::Host(h) => {
                    if let Some(answer) = self.hosts[h].take(f.frame, self.now) {
                        self.host_sends(h, answer);
                    }
                }
            }
        }
        if let Some(crew) = &mut self.crew {
            let sent = crew.turn(self.now);
            self.emitted(sent);
        } else if self.deadline().is_some_and(|d| d <= self.now) {
            self.poll_engine();
        }
        for h in 0..self.hosts.len() {
            if self.hosts[h].next <= self.now {
                let (pairs, mistrusted) = (&self.pairs, &self.mistrusted);
                let sent = self.hosts[h].poll(self.now, |client| !astray(pairs, mistrusted, client));
                sent.into_iter().for_each(|frame| self.host_sends(h, frame));
            }
        }
        self.show();
    }

    /// To who observes, if anybody does.
    pub(crate) fn show(&mut self) {
        if let Some(mut observer) = self.observer.take() {
            observer(self);
            self.observer = Some(observer);
        }
    }

    fn hand_in(&mut self, port: usize, bytes: Vec<u8>) {
        self.recorder.note(self.now, port, false, &bytes);
        if let Some(crew) = &mut self.crew {
            return crew.hand_in(port, &bytes);
        }
        let mut buffer = [0; 2048];
        buffer[64..64 + bytes.len()].copy_from_slice(&bytes);
        let mut frame = Frame::new(&mut buffer, 64, bytes.len());
        let now = self.engine_now();
        let World { engine, told, books, rng, full, .. } = self;
        let mut fx = Collect { sent: vec![], told, books, rng, full: *full };
        let verdict = engine.handle(PortId(port as u8), &mut frame, now, &mut fx);
        let mut sent = fx.sent;
        books.note(verdict);
        sent.iter().for_each(|(_, frame)| self.pairs.made(frame));
        if matches!(verdict, Verdict::Forward(_)) {
            let client = self.pairs.forwarded(&bytes, frame.bytes());
            self.struck.extend(client.filter(|_| is_forged_reset(&bytes)));
        }
        if let Verdict::Forward(PortId(p)) | Verdict::Reply(PortId(p)) = verdict {
            sent.push((usize::from(p), frame.bytes().to_vec()));
        }
        self.emitted(sent);
        self.books.check(&self.engine, &self.config.limits);
    }

    fn poll_engine(&mut self) {
        let now = self.engine_now();
        let World { engine, told, books, rng, full, .. } = self;
        let mut fx = Collect { sent: vec![], told, books, rng, full: *full };
        engine.poll(now, &mut fx);
        let sent = fx.sent;
        sent.iter().for_each(|(_, frame)| self.pairs.made(frame));
        self.emitted(sent);
        self.books.check(&self.engine, &self.config.limits);
    }

    /// Services, pools and backends are from now on as `wanted`; connections to those of the addresses `reset` that are wanted no more are reset.
    ///
    /// # Errors
    /// Why they cannot be. Nothing has changed then.
    pub fn reconfigure(&mut self, wanted: &Wanted, reset: &[SocketAddr]) -> Result<(), String> {
        self.change(wanted, |backends, revision| {
            revision.resetting(backends.filter(|b| reset.contains(&b.addr)).map(|b| b.id).collect())
        })
    }

    /// The sessions of the backend at this address are to be forgotten; services, pools and backends stay as `wanted`.
    ///
    /// # Errors
    /// As those of [`World::reconfigure`].
    pub fn forget_sessions(&mut self, wanted: &Wanted, of: SocketAddr) -> Result<(), String> {
        self.change(wanted, |backends, revision| {
            revision.forgetting(backends.filter(|b| b.addr == of).map(|b| b.id).collect())
        })
    }

    fn change(
        &mut self,
        wanted: &Wanted,
        also: impl FnOnce(&mut dyn Iterator<Item = &Backend>, Revision) -> Revision,
    ) -> Result<(), String> {
        let (before, revision) = next_revision(&self.config, self.one(), wanted)?;
        let revision = Arc::new(also(&mut before.backends(), revision));
        self.pairs.extend(revision.directory());
        let now = self.engine_now();
        match &mut self.crew {
            Some(crew) => {
                crew.apply(&revision);
                let sent = crew.turn(self.now);
                self.emitted(sent);
            }
            None => self.engine.apply(&revision, now),
        }
        self.wanted = wanted.clone();
        self.show();
        Ok(())
    }

    /// Services, pools and backends of the moment.
    pub fn directory(&self) -> &Arc<Directory> {
        self.one().directory()
    }

    /// The engine, or one of them.
    fn one(&self) -> &Engine {
        self.crew.as_ref().map_or(&self.engine, |crew| crew.loops[0].handler())
    }

    /// Connections that wait for room at a server, and what became of all who asked for it.
    pub fn admission(&self) -> (usize, ClassCounters) {
        match &self.crew {
            None => (self.engine.waiting(), self.engine.admission()),
            Some(crew) => {
                crew.loops.iter().map(|l| l.handler()).fold(Default::default(), |(waiting, mut sum), engine| {
                    sum += engine.admission();
                    (waiting + engine.waiting(), sum)
                })
            }
        }
    }

    /// All lines, of every worker.
    pub fn queues(&self, mut look: impl FnMut(QueueState)) {
        match &self.crew {
            None => self.engine.queues().for_each(&mut look),
            Some(crew) => crew.loops.iter().flat_map(|l| l.handler().queues()).for_each(&mut look),
        }
    }

    /// Flows of all workers.
    pub fn flows(&self) -> usize {
        self.crew.as_ref().map_or_else(|| self.engine.flows(), Crew::flows)
    }

    /// An engine has something to do at once.
    pub fn is_due(&self) -> bool {
        self.deadline().is_some_and(|at| at <= self.now)
    }

    /// Where a client's frames go now: from this address and port of ours to this backend. Not seen with several workers.
    pub fn place(&self, client: SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
        self.pairs.place(client)
    }

    /// Ends every flow.
    pub fn shutdown(&mut self) {
        let now = self.engine_now();
        let World { engine, told, books, rng, full, .. } = self;
        let mut fx = Collect { sent: vec![], told, books, rng, full: *full };
        while !engine.shutdown(16, now, &mut fx) {}
        let sent = fx.sent;
        self.emitted(sent);
    }

    fn emitted(&mut self, sent: Vec<(usize, Vec<u8>)>) {
        for (port, frame) in sent {
            self.stays_with_its_flow(&frame);
            self.recorder.note(self.now, port, true, &frame);
            self.fly(port, frame, None);
        }
    }

    /// Backend a connection was answered by, from what was told.
    pub fn told_of(&self, client: SocketAddr) -> Vec<&Told> {
        self.told.iter().filter(|t| t.client == client).collect()
    }

    /// Of all frames at the ports.
    pub fn largest_frame(&self) -> usize {
        self.recorder.largest()
    }

    /// A client's host loses all memory of a connection.
    pub fn forget(&mut self, id: (usize, usize)) {
        self.hosts[id.0].forget(id.1);
    }

    /// Nothing is left of any connection: runs until also what was cut short on one side has expired.
    pub fn assert_quiescent(&mut self) {
        let most = self.config.flow_idle_timeout * 3 + Duration::from_secs(60);
        self.faults.fill(Faults::NONE);
        self.full = 0;
        let end = self.now + most;
        while self.flows() > 0 && self.now < end {
            self.step(end);
        }
        let (_, asked) = self.admission();
        assert_eq!(asked.asked, asked.admitted + asked.turned_away(), "all who asked for room: {asked:?}");
        if let Some(crew) = &self.crew {
            return crew.check();
        }
        assert_eq!(self.engine.flows(), 0, "flows left");
        assert_eq!(self.engine.held_hellos(), 0, "buffers left");
        assert_eq!(self.engine.watched(), 0, "watches left");
        let directory = self.engine.directory();
        for b in directory.backends() {
            assert_eq!(directory.live().connections(b.id), 0, "connections counted at {}", b.name);
            assert_eq!(directory.live().slots().used(b.id), Default::default(), "slots of {}", b.name);
        }
        assert_eq!(self.engine.waiting(), 0, "somebody waits");
        let c = self.engine.counters();
        assert_eq!(c.flows_opened, c.flows_closed);
        assert_eq!(c.flows_closed as usize, self.told.len());
    }

    /// All connections got exactly what they expected and closed in order.
    pub fn assert_all_complete(&self) {
        for c in self.hosts.iter().flat_map(|h| &h.conns) {
            c.check();
            assert!(c.complete(), "{}: {} bytes received, {:?}", c.local, c.received.len(), c.outcome);
            assert_eq!(c.outcome, Ended::Closed, "{}", c.local);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() && self.recorder.keeps() {
            let name = format!("{}-{}", self.name, self.seed);
            let path = self.recorder.write(&self.captures, &name);
            if self.name != "storm" {
                eprintln!("{name} (LAB_SEED), at {:?}; capture of the dispatcher's ports: {path:?}", self.now);
                eprintln!("{:?}", self.engine.counters());
            }
        }
    }
}

fn secret_of(seed: u64) -> [u8; 32] {
    let mut secret = [0; 32];
    secret.copy_from_slice(&Rng::new(seed).bytes(32));
    secret
}

fn astray(pairs: &Pairs, mistrusted: &[SocketAddr], client: SocketAddr) -> bool {
    pairs.place(client).is_some_and(|(_, backend)| mistrusted.contains(&backend))
}
