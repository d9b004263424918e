//! A small world on a virtual clock: the real engine between clients and servers that speak TCP by smoltcp, over links
//! that lose, repeat, delay, reorder and damage frames by a seed.
//!
//! Each port of the engine is on a wire of its own with any number of hosts; ARP and neighbour discovery are real. What the
//! hosts say to each other is not touched by the faults, only what passes the engine's ports.

use crate::apps::{ClientConn, Ended, Plan, Server, ServerConn};
use crate::check::Books;
use crate::config::{client_ip, server_ip, vip};
use crate::crew::Crew;
use crate::hostile::mangle;
use crate::pairs::Pairs;
use crate::pcap::Recorder;
use crate::rng::Rng;
use core::time::Duration;
use dispatcher::engine::{Class, Config, ConnectionRecord, Effects, End, Engine, PortId, Verdict};
use dispatcher::time::Time;
use dispatcher::wire::Frame;
use dispatcher::wire::packet::{Packet, Tcp};
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};
use std::cell::Cell;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};

thread_local! {
    /// Milliseconds, for the timestamps of smoltcp, which asks a bare function.
    static CLOCK: Cell<u32> = const { Cell::new(0) };
}

/// What a link does to frames, in thousandths.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Faults {
    /// Frames that vanish.
    pub loss: u32,
    /// Frames that come twice.
    pub duplication: u32,
    /// Overtaken by frames up to 30 ms later.
    pub reordering: u32,
    /// One bit flipped behind the Ethernet header.
    pub corruption: u32,
}

impl Faults {
    /// None.
    pub const NONE: Faults = Faults { loss: 0, duplication: 0, reordering: 0, corruption: 0 };
    /// 5 % lost, 5 % reordered, 2 % repeated.
    pub const ROUGH: Faults = Faults { loss: 50, duplication: 20, reordering: 50, corruption: 0 };
}

#[derive(Default)]
struct Wire {
    rx: VecDeque<Vec<u8>>,
    tx: Vec<Vec<u8>>,
    mtu: usize,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut b = vec![0; len];
        let r = f(&mut b);
        self.0.push(b);
        r
    }
}

impl Device for Wire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        let frame = self.rx.pop_front()?;
        Some((Rx(frame), Tx(&mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = Medium::Ethernet;
        c.max_transmission_unit = self.mtu + 14;
        c
    }
}

/// TCP buffers and habits of a host.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// Of each socket, bytes.
    pub receive_buffer: usize,
    /// Of each socket, bytes.
    pub send_buffer: usize,
    /// Offers TCP timestamps.
    pub timestamps: bool,
    /// Largest IP packet, bytes.
    pub mtu: usize,
    /// Gives a connection up when nothing was acknowledged for so long.
    pub patience: Duration,
    /// Close only a while after all data was acknowledged. smoltcp 0.14 never repeats a FIN that was lost when a fast
    /// retransmission of the data before it comes in between, or acknowledgements that look like a call for one; over bad
    /// links that would look like our fault.
    pub careful: bool,
}

impl Default for Stack {
    fn default() -> Stack {
        Stack {
            receive_buffer: 200_000,
            send_buffer: 200_000,
            timestamps: true,
            mtu: 1500,
            patience: Duration::from_secs(120),
            careful: false,
        }
    }
}

/// Connections that a server's backlog takes at once.
const LISTENING: usize = 64;

/// A machine on one of the wires.
pub struct Host {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// On the wire of this port of the dispatcher's.
    pub port: usize,
    /// Tag on its frames.
    pub vlan: Option<u16>,
    /// Frames to and from it vanish.
    pub dark: bool,
    /// Refuses: nobody listens.
    pub deaf: bool,
    /// Buffers and habits.
    pub stack: Stack,
    /// So many of its frames in a thousand are not what they should be.
    pub evil: u32,
    /// What it has been told about the paths to others, bytes of IP packets.
    pub(crate) path_mtu: usize,
    wire: Wire,
    iface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    /// Connections as a client, all there ever were.
    pub conns: Vec<ClientConn>,
    /// What it is as a server.
    pub server: Option<Server>,
    pub(crate) server_conns: Vec<ServerConn>,
    pub(crate) listening: usize,
    pub(crate) next: Time,
    router: Option<Router>,
    next_port: u16,
    /// The last answers to SYNs, and to whom.
    syn_acks: VecDeque<(SocketAddr, Vec<u8>)>,
}

impl Host {
    pub(crate) fn has_address(&self, ip: IpAddr) -> bool {
        self.iface.ip_addrs().iter().any(|a| IpAddr::from(a.address()) == ip)
    }

    /// What the host has answered to this very SYN before, if a socket still waits for the handshake's end (empty behind
    /// that). Among several listening sockets of smoltcp another one would take a repeated SYN for a new connection; other
    /// stacks repeat their answer at once.
    fn answered_before(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let p = Packet::parse(frame).ok()?;
        let t = Tcp::parse(frame, &p.ip).ok().filter(|t| t.is_bare_syn())?;
        let from = p.ip.src.socket(t.src_port);
        let state = self.server_conns.iter().find_map(|c| {
            let socket = self.sockets.get::<tcp::Socket<'_>>(c.handle);
            let theirs = socket.remote_endpoint().is_some_and(|r| SocketAddr::new(r.addr.into(), r.port) == from);
            (theirs && !matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait)).then(|| socket.state())
        })?;
        if state != tcp::State::SynReceived {
            return Some(vec![]);
        }
        Some(self.syn_acks.iter().rev().find(|(to, _)| *to == from).map(|(_, f)| f.clone()).unwrap_or_default())
    }

    /// Remembers answers to SYNs.
    fn note_answer(&mut self, frame: &[u8]) {
        let Ok(p) = Packet::parse(frame) else { return };
        let Ok(t) = Tcp::parse(frame, &p.ip) else { return };
        if t.flags.0 & 0x17 == 0x12 {
            if self.syn_acks.len() == 100 {
                self.syn_acks.pop_front();
            }
            self.syn_acks.push_back((p.ip.dst.socket(t.dst_port), frame.to_vec()));
        }
    }
}

/// Forwards between hosts on its wire: who sends to its MAC with another address gets through.
struct Router {
    hosts: Vec<(IpAddr, [u8; 6])>,
}

/// What the engine told of a connection that ended.
pub struct Told {
    /// Address and port.
    pub client: SocketAddr,
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
    /// How it ended.
    pub end: End,
}

#[derive(PartialEq, Eq)]
struct Flying {
    at: Time,
    order: u64,
    to: To,
    frame: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum To {
    Engine(usize),
    Host(usize),
}

impl Ord for Flying {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}
impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
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
    pub engine: Engine,
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
    air: BinaryHeap<Flying>,
    order: u64,
    recorder: Recorder,
    /// Frames that the engine hands out are refused for want of room, in thousandths.
    pub full: u32,
    /// Several workers, in the engine's place.
    crew: Option<Crew>,
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
    /// Servers that do not mean well.
    mistrusted: Vec<SocketAddr>,
    captures: std::path::PathBuf,
}

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
            client: r.client,
            backend: r.backend.map(str::to_owned),
            class: r.class,
            decided: r.decided.map(str::to_owned),
            reason: r.reason,
            resumed: r.resumed,
            offered: r.offered.to_vec(),
            bytes_to_server: r.bytes_to_server,
            bytes_to_client: r.bytes_to_client,
            attempts: r.dial_attempts,
            end: r.end,
        });
    }
}

impl World {
    /// An engine and nobody else.
    pub fn empty(name: &'static str, config: Config, seed: u64) -> World {
        let mut secret = [0; 32];
        secret.copy_from_slice(&Rng::new(seed).bytes(32));
        let now = Time::from_millis(1_000_000);
        let engine = Engine::new(config.clone(), secret, now).expect("a configuration that works");
        let ports = config.ports.len();
        let pairs = Pairs::new(&config.vips, config.backends.iter().map(|b| b.addr));
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
            air: BinaryHeap::new(),
            order: 0,
            recorder: Recorder::new(100_000),
            full: 0,
            crew: None,
            ahead: Duration::ZERO,
            stopped_until: Time::ZERO,
            path_mtu: vec![usize::MAX; ports],
            past: None,
            standing: 0,
            mistrusted: vec![],
            captures: std::env::temp_dir(),
        }
    }

    /// From now on several workers do the engine's work. What is told of connections goes unheard then.
    pub fn employ(&mut self, workers: usize) {
        self.employ_with(workers, None);
    }

    /// The same with cards that tell to which queue they bring what.
    pub fn employ_with(&mut self, workers: usize, card: Option<std::sync::Arc<dispatcher::flow::Rss>>) {
        let mut secret = [0; 32];
        secret.copy_from_slice(&Rng::new(self.seed).bytes(32));
        self.crew = Some(Crew::with_card(&self.config, secret, workers, self.seed, self.now, card));
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
        let mac = [2, 0, 0, 1, 0, n as u8];
        let mut wire = Wire { mtu: stack.mtu, ..Wire::default() };
        let mut config = smoltcp::iface::Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed = self.rng.u64();
        let mut iface = Interface::new(config, &mut wire, instant(self.now));
        iface.update_ip_addrs(|a| {
            for ip in addresses {
                a.push(IpCidr::new(IpAddress::from(*ip), if ip.is_ipv4() { 16 } else { 64 })).expect("room");
            }
        });
        match gateway.parse().expect("an address") {
            IpAddr::V4(g) => drop(iface.routes_mut().add_default_ipv4_route(g)),
            IpAddr::V6(g) => drop(iface.routes_mut().add_default_ipv6_route(g)),
        }
        self.hosts.push(Host {
            mac,
            port,
            vlan: None,
            dark: false,
            deaf: false,
            stack,
            evil: 0,
            path_mtu: usize::MAX,
            wire,
            iface,
            sockets: SocketSet::new(vec![]),
            conns: vec![],
            server: None,
            server_conns: vec![],
            listening: 0,
            next: self.now,
            router: None,
            next_port: 40_000,
            syn_acks: VecDeque::new(),
        });
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
        let from: IpAddr = self.hosts[host].iface.ip_addrs()[0].address().into();
        let port = self.hosts[host].next_port;
        self.hosts[host].next_port += 1;
        self.connect_from(host, SocketAddr::new(from, port), plan)
    }

    /// The same from an address and port of choice.
    pub fn connect_from(&mut self, host: usize, local: SocketAddr, plan: Plan) -> (usize, usize) {
        let now = self.now;
        let h = &mut self.hosts[host];
        let mut socket = new_socket(&h.stack);
        socket.set_nagle_enabled(false);
        let to = vip(local.is_ipv6());
        let from = IpListenEndpoint { addr: Some(local.ip().into()), port: local.port() };
        socket.connect(h.iface.context(), (IpAddress::from(to.ip()), to.port()), from).expect("a free port");
        let handle = h.sockets.add(socket);
        h.conns.push(ClientConn::new(handle, local, plan, now));
        h.next = now;
        (host, h.conns.len() - 1)
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
        if let Some(f) = self.air.peek() {
            next = next.min(f.at);
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
        CLOCK.with(|c| c.set(self.now.as_millis() as u32));
        while self.air.peek().is_some_and(|f| f.at <= self.now) {
            let f = self.air.pop().expect("peeked");
            match f.to {
                To::Engine(port) if self.now < self.stopped_until => {
                    self.put(self.stopped_until, To::Engine(port), f.frame);
                }
                To::Engine(port) => self.hand_in(port, f.frame),
                To::Host(h) if self.hosts[h].heeds(&f.frame) => {}
                To::Host(h) => match self.hosts[h].answered_before(&f.frame) {
                    Some(again) if again.is_empty() => {}
                    Some(again) => self.host_sends(h, again),
                    None => {
                        self.hosts[h].wire.rx.push_back(f.frame);
                        self.hosts[h].next = self.now;
                    }
                },
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
                self.poll_host(h);
            }
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
            self.pairs.forwarded(&bytes, frame.bytes());
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
            self.recorder.note(self.now, port, true, &frame);
            self.fly(port, frame, None);
        }
    }

    /// Sends a frame over a port's wire: to the engine from a host, or from it.
    fn fly(&mut self, port: usize, frame: Vec<u8>, from: Option<usize>) {
        let to_engine = from.is_some();
        if self.too_long(port, &frame, from) {
            return;
        }
        if to_engine && self.past.is_some() {
            self.remember(port, &frame);
        }
        let f = self.faults[port];
        if self.rng.per_mille(f.loss) {
            return;
        }
        let copies = 1 + usize::from(self.rng.per_mille(f.duplication));
        for _ in 0..copies {
            let mut frame = frame.clone();
            let mut at = self.now + self.delay;
            if self.rng.per_mille(f.reordering) {
                at += Duration::from_micros(self.rng.below(30_000) as u64);
            }
            // ARP has no checksum: a lie in it is believed for a minute, by anyone.
            let arp = frame[12..14] == [8, 6];
            if self.rng.per_mille(f.corruption) && frame.len() > 14 && !arp {
                let bit = self.rng.below((frame.len() - 14) * 8);
                frame[14 + bit / 8] ^= 1 << (bit % 8);
            }
            if to_engine {
                self.put(at, To::Engine(port), frame);
            } else {
                self.deliver(at, port, &frame, None);
            }
        }
    }

    pub(crate) fn put(&mut self, at: Time, to: To, frame: Vec<u8>) {
        self.order += 1;
        self.air.push(Flying { at, order: self.order, to, frame });
    }

    /// To the hosts on a wire that the frame is for.
    fn deliver(&mut self, at: Time, port: usize, frame: &[u8], from: Option<usize>) {
        let (vlan, plain) = untag(frame);
        for h in 0..self.hosts.len() {
            let host = &self.hosts[h];
            let meant = frame[0] & 1 == 1 || frame[..6] == host.mac;
            if Some(h) == from || host.port != port || host.vlan != vlan || !meant || host.dark {
                continue;
            }
            if let Some(router) = &host.router
                && let Some(to) = destination(&plain)
                && let Some((_, mac)) = router.hosts.iter().find(|(ip, _)| *ip == to)
                && frame[0] & 1 == 0
            {
                let mut onward = plain.clone();
                onward[..6].copy_from_slice(mac);
                onward[6..12].copy_from_slice(&host.mac);
                self.deliver(at, port, &onward, Some(h));
                continue;
            }
            self.put(at, To::Host(h), plain.clone());
        }
    }

    /// What a host sends, or something like it.
    fn host_sends(&mut self, h: usize, frame: Vec<u8>) {
        let (evil, mtu) = (self.hosts[h].evil, self.hosts[h].path_mtu);
        for frame in crate::upset::cut(frame, mtu) {
            let frames = if self.rng.per_mille(evil) { mangle(&mut self.rng, &frame) } else { vec![frame] };
            for frame in frames {
                self.host_sends_so(h, frame);
            }
        }
    }

    fn host_sends_so(&mut self, h: usize, frame: Vec<u8>) {
        let host = &self.hosts[h];
        if host.dark {
            return;
        }
        let port = host.port;
        let tagged = match host.vlan {
            Some(id) => [&frame[..12], &[0x81, 0], &id.to_be_bytes(), &frame[12..]].concat(),
            None => frame,
        };
        let engine_mac = self.config.ports[port].mac.0;
        let mut frame = tagged;
        // Through a router on the way to the engine?
        let router = self
            .hosts
            .iter()
            .position(|r| r.router.is_some() && r.mac == frame[..6] && r.port == port && host.vlan == r.vlan);
        if let Some(r) = router
            && let Some(to) = destination(&frame)
            && self.hosts[r].iface.ip_addrs().iter().all(|a| IpAddr::from(a.address()) != to)
        {
            let known = self.hosts[r].router.as_ref().and_then(|r| r.hosts.iter().find(|(ip, _)| *ip == to).copied());
            frame[6..12].copy_from_slice(&self.hosts[r].mac);
            frame[..6].copy_from_slice(&known.map_or(engine_mac, |(_, mac)| mac));
        }
        if frame[..6] == engine_mac || frame[0] & 1 == 1 {
            self.fly(port, frame.clone(), Some(h));
        }
        if frame[..6] != engine_mac {
            self.deliver(self.now + self.delay, port, &frame, Some(h));
        }
    }

    fn poll_host(&mut self, h: usize) {
        let now = self.now;
        let host = &mut self.hosts[h];
        if host.deaf {
            for c in &mut host.server_conns {
                let socket = host.sockets.get_mut::<tcp::Socket<'_>>(c.handle);
                if socket.state() == tcp::State::Listen {
                    socket.abort();
                    c.done = true;
                }
            }
        }
        for _ in 0..64 {
            while host.server.is_some() && !host.deaf && host.listening < LISTENING {
                let mut socket = new_socket(&host.stack);
                socket.listen(8443).expect("a port");
                socket.set_nagle_enabled(false);
                let handle = host.sockets.add(socket);
                host.server_conns.push(ServerConn::new(handle));
                host.listening += 1;
            }
            host.iface.poll(instant(now), &mut host.wire, &mut host.sockets);
            let mut active = false;
            for c in &mut host.conns {
                if c.outcome == Ended::Open {
                    let socket = host.sockets.get_mut::<tcp::Socket<'_>>(c.handle);
                    if c.step(socket, now, host.stack.careful) {
                        active = true;
                        if c.watched && !astray(&self.pairs, &self.mistrusted, c.local) {
                            c.check_new();
                        }
                    }
                }
            }
            if let Some(server) = &mut host.server {
                host.listening = 0;
                for c in &mut host.server_conns {
                    let socket = host.sockets.get_mut::<tcp::Socket<'_>>(c.handle);
                    if socket.state() == tcp::State::Listen {
                        host.listening += 1;
                    }
                    active |= c.step(server, socket, now, host.stack.careful);
                }
                let gone: Vec<SocketHandle> = host
                    .server_conns
                    .iter()
                    .filter(|c| {
                        let s = host.sockets.get::<tcp::Socket<'_>>(c.handle);
                        c.done && s.state() == tcp::State::Closed && s.remote_endpoint().is_none()
                    })
                    .map(|c| c.handle)
                    .collect();
                for handle in gone {
                    host.sockets.remove(handle);
                    host.server_conns.retain(|c| c.handle != handle);
                }
            }
            if !active {
                break;
            }
        }
        let mut next = host
            .iface
            .poll_at(instant(now), &host.sockets)
            .map_or(Time::MAX, |i| Time::from_nanos((i.total_micros().max(0) as u64) * 1000));
        for c in host.conns.iter().filter(|c| c.outcome == Ended::Open) {
            if let Some(due) = c.due() {
                next = next.min(due);
            }
        }
        let pauses = host.conns.iter().map(|c| c.quiet.until).chain(host.server_conns.iter().map(|c| c.quiet.until));
        next = pauses.flatten().filter(|t| *t > now).fold(next, Time::min);
        host.next = if next <= now { now + Duration::from_micros(1000) } else { next };
        let out = core::mem::take(&mut host.wire.tx);
        for frame in out {
            self.hosts[h].note_answer(&frame);
            self.host_sends(h, frame);
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
        let handle = self.conn(id).handle;
        let stack = self.hosts[id.0].stack;
        *self.hosts[id.0].sockets.get_mut::<tcp::Socket<'_>>(handle) = new_socket(&stack);
        self.hosts[id.0].conns[id.1].outcome = Ended::Closed;
    }

    /// Nothing is left of any connection: runs until also what was cut short on one side has expired.
    pub fn assert_quiescent(&mut self) {
        let most = self.config.flow_idle_timeout * 3 + Duration::from_secs(60);
        self.faults.fill(Faults::NONE);
        self.full = 0;
        let end = self.now + most;
        while self.engine.flows() > 0 && self.now < end {
            self.step(end);
        }
        assert_eq!(self.engine.flows(), 0, "flows left");
        assert_eq!(self.engine.held_hellos(), 0, "buffers left");
        assert_eq!(self.engine.watched(), 0, "watches left");
        let pool = self.engine.pool();
        for b in pool.ids() {
            assert_eq!(pool.connections(b), 0, "connections counted at {}", pool.name(b));
        }
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

fn astray(pairs: &Pairs, mistrusted: &[SocketAddr], client: SocketAddr) -> bool {
    pairs.place(client).is_some_and(|(_, backend)| mistrusted.contains(&backend))
}

fn new_socket(stack: &Stack) -> tcp::Socket<'static> {
    let buffer = |n| tcp::SocketBuffer::new(vec![0; n]);
    let mut socket = tcp::Socket::new(buffer(stack.receive_buffer), buffer(stack.send_buffer));
    if stack.timestamps {
        socket.set_tsval_generator(Some(|| CLOCK.with(Cell::get)));
    }
    socket.set_timeout(Some(smoltcp::time::Duration::from_millis(stack.patience.as_millis() as u64)));
    socket
}

fn instant(t: Time) -> Instant {
    Instant::from_micros((t.as_nanos() / 1000) as i64)
}

/// The tag of a frame, if it has one, and the frame without it.
fn untag(frame: &[u8]) -> (Option<u16>, Vec<u8>) {
    if frame[12..14] == [0x81, 0] {
        let id = u16::from_be_bytes([frame[14], frame[15]]) & 0xfff;
        (Some(id), [&frame[..12], &frame[16..]].concat())
    } else {
        (None, frame.to_vec())
    }
}

/// Where an IP packet in an untagged frame goes.
fn destination(frame: &[u8]) -> Option<IpAddr> {
    match frame[12..14] {
        [8, 0] => Some(<[u8; 4]>::try_from(frame.get(30..34)?).ok()?.into()),
        [0x86, 0xdd] => Some(<[u8; 16]>::try_from(frame.get(38..54)?).ok()?.into()),
        _ => None,
    }
}
