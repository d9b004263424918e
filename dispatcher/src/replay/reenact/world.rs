//! The small world in which captures are re-enacted: the engine, two networks, their hosts, and one virtual clock.
//!
//! Port 0 of the engine leads to the clients, port 1 to the backends. Every client has an Ethernet address of its own and
//! keeps its recorded VLAN tags; every backend answers ARP or neighbour solicitations for its address and speaks TCP as
//! the recorded server did. The engine's own addresses are taken from ranges set aside for tests.
//!
//! Whatever happens next is what is due first: a frame, the engine's timers, a conversation's next step; in that
//! order when they are due together. Nothing else decides, so the same captures give the same frames.
//!
//! One recording may be played after another to the same engine, and services, pools and backends may change in between: see
//! [`World::play`], [`World::change`] and [`World::next_recording`].

use super::conversation::{CLIENT, Conversation, Outcome, SERVER, USUAL};
use super::endpoint::Endpoint;
use super::faults::Faults;
use super::recording::{Recorded, Recording, Syn};
use super::wire::{Ended, Flight, Heard, Loss, Wire};
use crate::engine::trail::{Sought, TRAILS, Trail};
use crate::engine::{
    Config, ConfigError, Counters, DropReason, End, Engine, PortId, PortSpec, Revision, Verdict, hello_patience,
};
use crate::sessions::Sessions;
use crate::time::Time;
use crate::wire::build::{Arp, Link, MAX_HEADERS, Ndp, arp_op, ndp_type};
use crate::wire::packet::{Ethernet, Ip, Packet, Tcp, ethertype, protocol};
use crate::wire::{Addr, Family, Frame, Mac, Seq};
use core::time::Duration;
use lb::service::AcceptProxy;
use lb::{Directory, Wanted};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Where clients are.
pub const CLIENTS: PortId = PortId(0);
/// Where backends are.
pub const BACKENDS: PortId = PortId(1);

const ENGINE_MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
/// Before the first recorded frame: time to find neighbours and to hear what the backends can do.
pub const LEAD: Duration = Duration::from_secs(1);
/// How long beyond the hello timeout two scripts may wait for each other.
const PATIENCE: Duration = Duration::from_secs(40);
/// Room around a frame that the engine may use.
const ROOM: usize = 128;
/// Secrets keep the others from guessing; here there are no others, and every run shall be the same.
const SECRET: [u8; 32] = *b"the same in every re-enactment..";
/// Longest packet of Ethernet with jumbo frames.
const JUMBO: u16 = 9000;

/// Hears what happens.
pub trait Witness {
    /// A conversation is over, as far as it will ever be.
    fn connection(&mut self, ended: &Ended, conversation: &Conversation<'_>) -> anyhow::Result<()>;
    /// A frame goes into the engine at a port, or out of it. `dropped` is why it came no further, for one that went in.
    fn frame(
        &mut self,
        port: PortId,
        inbound: bool,
        at: Time,
        bytes: &[u8],
        dropped: Option<DropReason>,
    ) -> anyhow::Result<()>;
    /// Why connections of this client went where they went is to be told, see [`Witness::explained`].
    fn wants_explained(&self, _client: SocketAddr) -> bool {
        false
    }
    /// Why the connection that is told of next went where it went; times are the world's, see [`LEAD`].
    fn explained(&mut self, _trail: &Trail, _engine: &Engine) -> anyhow::Result<()> {
        Ok(())
    }
    /// Frames are to be told with their contents.
    fn wants_frames(&self) -> bool;
    /// So many conversations of all are over.
    fn progress(&mut self, over: usize);
}

/// The world.
pub struct World<'c> {
    engine: Engine,
    config: Config,
    wire: Wire,
    now: Time,
    /// When the first SYN of the recording is sent.
    start: Time,
    recording: &'c Recording<'c>,
    vips: Vec<SocketAddr>,
    /// Connections with numbers up to this are of an earlier recording.
    earlier: u64,
    backends: HashMap<Addr, Mac>,
    /// What a backend says that is asked without a client.
    usual: Syn<'c>,
    mtu: [u16; 2],
    /// VIPs whose backends are told the client by a PROXY header, unless it begins with one itself.
    proxied: HashMap<SocketAddr, AcceptProxy>,
    patience: Duration,
    /// By index in the recording; none before its beginning and when all is said.
    conversations: Vec<Option<Box<Conversation<'c>>>>,
    /// Conversations on the same addresses, as the engine sees them: told last, and those not begun yet.
    lines: HashMap<(SocketAddr, SocketAddr), Line>,
    /// Server sides of conversations.
    dialled: HashMap<(SocketAddr, SocketAddr), usize>,
    wakes: BinaryHeap<Reverse<(Time, usize)>>,
    started: usize,
    over: usize,
    scratch: Vec<u8>,
    /// Segments sent before what they waited for.
    pub forced: u64,
    /// What no correct peer would have sent.
    pub faults: Faults,
    /// Segments that ends sent again.
    pub repeats: u64,
}

/// Conversations on the same addresses follow one another.
#[derive(Default)]
struct Line {
    /// Begun, and the engine has not told of them; oldest first.
    begun: VecDeque<usize>,
    /// Waiting for the last of these to be over.
    waiting: VecDeque<usize>,
}

/// Where a recorded server's connections go: to the VIP that is its very address, else to one on its port, else to the first of
/// its family.
pub fn vip_for(server: SocketAddr, vips: &[SocketAddr]) -> Option<SocketAddr> {
    let family = || vips.iter().copied().filter(|v| v.is_ipv4() == server.is_ipv4());
    family().find(|v| *v == server).or_else(|| family().find(|v| v.port() == server.port())).or_else(|| family().next())
}

impl<'c> World<'c> {
    /// Everything at its place, nothing begun. The configuration's ports are made here; its VIPs must be there.
    pub fn new(config: Config, recording: &'c Recording<'c>) -> Result<World<'c>, ConfigError> {
        World::with_room_for(&Wanted::default(), config, recording)
    }

    /// As [`World::new`], where [`World::change`] may bring `next`.
    pub fn with_room_for(
        next: &Wanted,
        mut config: Config,
        recording: &'c Recording<'c>,
    ) -> Result<World<'c>, ConfigError> {
        let taken: HashSet<IpAddr> = [&config.wanted, next]
            .iter()
            .flat_map(|wanted| wanted.listeners().into_iter().chain(wanted.backends().into_iter().map(|b| b.addr)))
            .chain(recording.connections.iter().map(|c| c.client))
            .map(|addr| addr.ip())
            .collect();
        let taken = |ip: IpAddr| taken.contains(&ip);
        config.limits.backends = config.backends().len() + next.backends().len();
        // RFC 2544 and RFC 5180 set these aside for tests of network devices.
        let v4 =
            (1..=u16::MAX).map(|n| IpAddr::V4(Ipv4Addr::new(198, 18, (n >> 8) as u8, n as u8))).find(|a| !taken(*a));
        let v6 = (1..=u16::MAX).map(|n| IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, n))).find(|a| !taken(*a));
        let own = [v4, v6].into_iter().flatten().map(|a| (a, 0)).collect();
        // As large as recorded segments need, so that they can be sent as they were.
        let largest = (recording.mss[0].saturating_add(40)).max(recording.mss[1].saturating_add(60));
        let mtu = largest.clamp(1500, JUMBO);
        let port = |name: &str, mac, addresses| PortSpec {
            name: name.to_owned(),
            mac,
            addresses,
            gateways: Vec::new(),
            vlans: Vec::new(),
            mtu,
        };
        config.ports = vec![port("clients", ENGINE_MACS[0], Vec::new()), port("backends", ENGINE_MACS[1], own)];
        let mut backends = HashMap::new();
        settle_in(&config.wanted, &mut backends);
        let usual = recording.connections.iter().find_map(|c| c.syn_ack);
        let usual = usual.unwrap_or(Syn { isn: Seq(0), flags: 0x12, window: u16::MAX, options: USUAL });
        // A trace of a host that speaks to itself is as good as any.
        config.loopback_sources = true;
        pass_on(&mut config.wanted);
        let vips = config.vips();
        let proxied = proxied(&config.wanted);
        let patience = config.hello_patience() + PATIENCE;
        let engine = Engine::new(config.clone(), SECRET, Time::ZERO)?;
        Ok(World {
            engine,
            config,
            wire: Wire::default(),
            now: Time::ZERO,
            start: Time::ZERO + LEAD,
            recording,
            vips,
            earlier: 0,
            backends,
            usual,
            mtu: [mtu, mtu],
            proxied,
            patience,
            conversations: recording.connections.iter().map(|_| None).collect(),
            lines: HashMap::new(),
            dialled: HashMap::new(),
            wakes: BinaryHeap::new(),
            started: 0,
            over: 0,
            scratch: vec![0; 2 * ROOM + usize::from(mtu) + MAX_HEADERS],
            forced: 0,
            faults: Faults::default(),
            repeats: 0,
        })
    }

    /// From now on frames get lost between the ends and the engine.
    pub fn lose(&mut self, loss: Loss) {
        self.wire.loss = Some(loss);
    }

    /// Frames that were lost.
    pub fn lost(&self) -> u64 {
        self.wire.lost
    }

    /// What the engine has counted.
    pub fn counters(&self) -> &Counters {
        self.engine.counters()
    }

    /// What the affinity tables hold and have counted.
    pub fn sessions(&self) -> Sessions {
        self.engine.sessions(self.now)
    }

    /// Plays the recording, and lets the engine go on for `rest` after its end. What the engine still has open is not told.
    pub fn play(&mut self, rest: Duration, witness: &mut dyn Witness) -> anyhow::Result<()> {
        while self.over < self.conversations.len() {
            self.turn(witness)?;
        }
        let end = self.now + rest;
        // Last acknowledgements are still under way.
        while let Some(at) = self.wire.due() {
            self.advance(at);
            self.frames(witness)?;
        }
        loop {
            let due = [self.wire.due(), self.engine.next_deadline()].into_iter().flatten().min();
            let Some(at) = due.filter(|at| *at <= end) else { break };
            self.advance(at);
            self.frames(witness)?;
            self.timers();
            self.told(witness)?;
        }
        self.advance(end);
        Ok(())
    }

    /// Services, pools and backends are `next` from now on, as [`Engine::apply`] has it; or in one line why they cannot be.
    pub fn change(&mut self, next: &Wanted) -> Result<(), ConfigError> {
        let mut next = next.clone();
        pass_on(&mut next);
        let next = &next;
        let before = self.engine.directory().clone();
        let directory = Directory::next(Some(&before), next, |_| false)
            .map_err(|faults| ConfigError(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
        let revision = Revision::new(&self.config, Arc::new(directory))?;
        self.engine.apply(&Arc::new(revision), self.now);
        settle_in(next, &mut self.backends);
        self.proxied = proxied(next);
        let patience = next.services.iter().map(|s| hello_patience(&s.policy)).max().unwrap_or_default() + PATIENCE;
        self.patience = self.patience.max(patience);
        Ok(())
    }

    /// Another recording is played next, a moment from now. Its servers are among `vips`.
    pub fn next_recording(&mut self, recording: &'c Recording<'c>, vips: Vec<SocketAddr>) {
        (self.recording, self.vips, self.start) = (recording, vips, self.now + LEAD);
        self.conversations = recording.connections.iter().map(|_| None).collect();
        self.lines.clear();
        self.dialled.clear();
        self.wakes.clear();
        (self.started, self.over) = (0, 0);
        self.earlier = self.engine.counters().flows_opened;
    }

    /// Plays everything to the end.
    pub fn run(&mut self, witness: &mut dyn Witness) -> anyhow::Result<()> {
        let total = self.conversations.len();
        while self.over < total {
            self.turn(witness)?;
        }
        // Last acknowledgements are still under way.
        while let Some(at) = self.wire.due() {
            self.advance(at);
            self.frames(witness)?;
        }
        while !self.engine.shutdown(1024, self.now, &mut self.wire) {}
        self.frames_of_the_end(witness)?;
        self.told(witness)?;
        // Those of which the engine has nothing to tell: it never knew them.
        for i in 0..total {
            if self.conversations[i].is_some() {
                self.tell_unknown(i, witness)?;
            }
        }
        Ok(())
    }

    /// The next thing that is due.
    fn turn(&mut self, witness: &mut dyn Witness) -> anyhow::Result<()> {
        let next_start = self.recording.connections.get(self.started).map(|c| self.start + c.begun.since(Time::ZERO));
        let next_wake = self.wakes.peek().map(|Reverse((at, _))| *at);
        let due = [self.wire.due(), self.engine.next_deadline(), next_start, next_wake].into_iter().flatten().min();
        self.advance(due.unwrap_or(self.now));
        self.frames(witness)?;
        self.timers();
        while let Some(Reverse((at, i))) = self.wakes.peek().copied()
            && at <= self.now
        {
            self.wakes.pop();
            let due = self.conversations[i].as_mut().is_some_and(|c| c.wake_at == at);
            if due && let Some(c) = self.conversations[i].as_mut() {
                c.wake_at = Time::MAX;
                self.go_on(i, witness)?;
            }
        }
        if next_start.is_some_and(|at| at <= self.now) {
            let i = self.started;
            self.started += 1;
            self.enter(i, witness)?;
        }
        self.told(witness)
    }

    /// What the engine has to do by itself.
    fn timers(&mut self) {
        if self.engine.next_deadline().is_some_and(|at| at <= self.now) {
            let before = Marks::of(&self.engine, &self.wire);
            self.engine.poll(self.now, &mut self.wire);
            let lost_by = before.refused(&self.engine);
            self.note(&before, lost_by, None);
        }
    }

    fn advance(&mut self, to: Time) {
        self.now = self.now.max(to);
        self.wire.set_now(self.now);
    }

    /// Delivers the frames that have arrived.
    fn frames(&mut self, witness: &mut dyn Witness) -> anyhow::Result<()> {
        while let Some(flight) = self.wire.arrived(self.now) {
            if flight.inbound {
                self.hand_in(&flight, witness)?;
            } else {
                self.hand_out(&flight, witness)?;
            }
            self.wire.recycle(flight.bytes);
        }
        Ok(())
    }

    /// What the engine said when it stopped is recorded, and heard by nobody.
    fn frames_of_the_end(&mut self, witness: &mut dyn Witness) -> anyhow::Result<()> {
        while let Some(flight) = self.wire.arrived(Time::MAX) {
            if !flight.inbound && witness.wants_frames() {
                witness.frame(flight.port, false, self.now, &flight.bytes, None)?;
            }
        }
        Ok(())
    }

    fn hand_in(&mut self, flight: &Flight, witness: &mut dyn Witness) -> anyhow::Result<()> {
        let len = flight.bytes.len();
        if self.scratch.len() < len + 2 * ROOM {
            self.scratch.resize(len + 2 * ROOM, 0);
        }
        self.scratch[ROOM..ROOM + len].copy_from_slice(&flight.bytes);
        let mut frame = Frame::new(&mut self.scratch, ROOM, len);
        let before = Marks::of(&self.engine, &self.wire);
        let verdict = self.engine.handle(flight.port, &mut frame, self.now, &mut self.wire);
        let lost_by = if let Verdict::Drop(why) = verdict { Some(why) } else { before.refused(&self.engine) };
        if let Verdict::Forward(port) | Verdict::Reply(port) = verdict {
            self.wire.from_engine(port, self.now, frame.bytes());
        }
        self.note(&before, lost_by, Some(flight));
        if witness.wants_frames() {
            let dropped = if let Verdict::Drop(why) = verdict { Some(why) } else { None };
            witness.frame(flight.port, true, self.now, &flight.bytes, dropped)?;
        }
        self.told(witness)
    }

    /// Notes with a conversation what the engine did not like about it: with that which has just ended, else with that whose frame
    /// it was given.
    fn note(&mut self, before: &Marks, lost_by: Option<DropReason>, flight: Option<&Flight>) {
        let unwatched = self.engine.counters().unwatched > before.unwatched;
        if lost_by.is_none() && !unwatched {
            return;
        }
        let ended = self
            .wire
            .ended
            .iter()
            .skip(before.ended)
            .find(|e| matches!(e.end, End::NoBackend | End::PortInUse | End::NoBuffer | End::ProxyHeader));
        let index = match (ended, flight) {
            (Some(ended), _) => self.lines.get(&(ended.sender(), ended.vip)).and_then(|line| {
                let untold = |i: &&usize| self.conversations[**i].as_ref().is_some_and(|c| c.told.is_none());
                line.begun.iter().find(untold).copied()
            }),
            (None, Some(flight)) => self.whose(flight),
            (None, None) => None,
        };
        if let Some(c) = index.and_then(|i| self.conversations[i].as_mut()) {
            // What ends it counts; else the first, of which later ones may be the consequence.
            c.lost_by = if ended.is_some() { lost_by } else { c.lost_by.or(lost_by) };
            c.unwatched |= unwatched;
        }
    }

    /// The conversation that a frame to the engine is of.
    fn whose(&self, flight: &Flight) -> Option<usize> {
        let ip = Packet::parse(&flight.bytes).ok()?.ip;
        let tcp = Tcp::parse(&flight.bytes, &ip).ok()?;
        let (from, to) = (ip.src.socket(tcp.src_port), ip.dst.socket(tcp.dst_port));
        if flight.port == CLIENTS {
            self.lines.get(&(from, to))?.begun.back().copied()
        } else {
            self.dialled.get(&(to, from)).copied()
        }
    }

    fn hand_out(&mut self, flight: &Flight, witness: &mut dyn Witness) -> anyhow::Result<()> {
        if witness.wants_frames() {
            witness.frame(flight.port, false, self.now, &flight.bytes, None)?;
        }
        let b = &flight.bytes;
        let Ok(eth) = Ethernet::parse(b) else {
            self.faults.add(true, "frame without headers that can be read");
            return Ok(());
        };
        if eth.ethertype == ethertype::ARP {
            self.on_arp(flight.port, &eth, b);
            return Ok(());
        }
        let parsed = Ip::parse(b, eth.payload, eth.ethertype);
        let Ok(ip) = parsed else {
            self.faults.add(true, "frame without headers that can be read");
            return Ok(());
        };
        match ip.protocol {
            protocol::ICMPV6 => self.on_ndp(flight.port, &eth, &ip, b),
            protocol::TCP => {
                let Ok(tcp) = Tcp::parse(b, &ip) else {
                    self.faults.add(true, "frame without headers that can be read");
                    return Ok(());
                };
                return self.on_segment(flight.port, &eth, &Heard { frame: b, ip, tcp }, witness);
            }
            _ => self.faults.add(true, "frame without headers that can be read"),
        }
        Ok(())
    }

    /// Backends answer for their addresses; clients are behind a router that knows ours.
    fn on_arp(&mut self, port: PortId, eth: &Ethernet, frame: &[u8]) {
        let Some(arp) = Arp::parse(&frame[eth.payload..]) else { return };
        if port != BACKENDS || arp.op != arp_op::REQUEST {
            return;
        }
        let Some(&mac) = self.backends.get(&arp.target) else { return };
        let link = Link { dst: eth.src, src: mac, vlans: eth.vlans };
        let answer = Arp {
            op: arp_op::REPLY,
            sender_mac: mac,
            sender: arp.target,
            target_mac: arp.sender_mac,
            target: arp.sender,
        };
        self.wire.to_engine(port, self.now, link.len() + 28, |b| {
            answer.write(b, &link);
        });
    }

    fn on_ndp(&mut self, port: PortId, eth: &Ethernet, ip: &Ip, frame: &[u8]) {
        let Some(ndp) = Ndp::parse(&frame[ip.payload..ip.end]) else { return };
        if port != BACKENDS || ndp.kind != ndp_type::SOLICITATION {
            return;
        }
        let Some(&mac) = self.backends.get(&ndp.target) else { return };
        let link = Link { dst: eth.src, src: mac, vlans: eth.vlans };
        let answer = Ndp { kind: ndp_type::ADVERTISEMENT, flags: 0x60, target: ndp.target, mac: Some(mac) };
        self.wire.to_engine(port, self.now, link.len() + 40 + 32, |b| {
            answer.write(b, &link, ndp.target, ip.src);
        });
    }

    fn on_segment(
        &mut self,
        port: PortId,
        eth: &Ethernet,
        seg: &Heard<'_>,
        witness: &mut dyn Witness,
    ) -> anyhow::Result<()> {
        let from = seg.ip.src.socket(seg.tcp.src_port);
        let to = seg.ip.dst.socket(seg.tcp.dst_port);
        let (index, side) = if port == CLIENTS {
            let line = self.lines.get(&(to, from));
            (line.and_then(|l| l.begun.back()).copied(), CLIENT)
        } else if seg.tcp.is_bare_syn() {
            return self.on_dial(eth, seg, from, to, witness);
        } else {
            (self.dialled.get(&(from, to)).copied(), SERVER)
        };
        let Some(c) = index.and_then(|i| self.conversations[i].as_mut()) else { return Ok(()) };
        c.receive(side, seg, self.now, &mut self.wire);
        self.go_on(index.unwrap_or_default(), witness)
    }

    /// A backend is called: for a client, or to hear whether it is there.
    fn on_dial(
        &mut self,
        eth: &Ethernet,
        seg: &Heard<'_>,
        from: SocketAddr,
        to: SocketAddr,
        witness: &mut dyn Witness,
    ) -> anyhow::Result<()> {
        let link = Link { dst: eth.src, src: eth.dst, vlans: eth.vlans };
        let (local, remote) = ((seg.ip.dst, seg.tcp.dst_port), (seg.ip.src, seg.tcp.src_port));
        let path_mss = self.path_mss(seg.ip.family);
        let mut fresh = Endpoint::new(BACKENDS, link, local, remote, path_mss);
        let for_client = self.engine.connection_of(to, from);
        let Some(index) = for_client.and_then(|key| self.lines.get(&key)?.begun.back().copied()) else {
            fresh.accept(seg, &self.usual, 0, self.now, &mut self.wire);
            return Ok(());
        };
        self.dialled.insert((from, to), index);
        let recorded = &self.recording.connections[index];
        let vip = self.vip_of(recorded);
        let header = match (expects_header(&self.proxied, recorded.client, vip), seg.ip.family) {
            (false, _) => 0,
            (true, Family::V4) => 28,
            (true, Family::V6) => 52,
        };
        let Some(c) = self.conversations[index].as_mut() else { return Ok(()) };
        let answer = c.answer();
        if !c.ends[SERVER].is_between(local, remote) {
            c.ends[SERVER] = fresh;
        }
        c.ends[SERVER].accept(seg, &answer, header, self.now, &mut self.wire);
        self.go_on(index, witness)
    }

    fn path_mss(&self, family: Family) -> u16 {
        let headers = if family == Family::V4 { 40 } else { 60 };
        self.mtu[0] - headers
    }

    fn vip_of(&self, recorded: &Recorded<'_>) -> SocketAddr {
        vip_for(recorded.server, &self.vips).unwrap_or(recorded.server)
    }

    /// The time of a recorded SYN has come.
    fn enter(&mut self, i: usize, witness: &mut dyn Witness) -> anyhow::Result<()> {
        let recorded = &self.recording.connections[i];
        let key = (recorded.client, self.vip_of(recorded));
        let line = self.lines.entry(key).or_default();
        let busy = line.begun.back().and_then(|last| self.conversations[*last].as_ref());
        if busy.is_some_and(|c| c.outcome == Outcome::Open) || !line.waiting.is_empty() {
            line.waiting.push_back(i);
            return Ok(());
        }
        self.begin(i, key, witness)
    }

    fn begin(&mut self, i: usize, key: (SocketAddr, SocketAddr), witness: &mut dyn Witness) -> anyhow::Result<()> {
        let recorded = &self.recording.connections[i];
        let (client, vip) = key;
        let (a, b) = (Addr::from(client.ip()), Addr::from(vip.ip()));
        let host = a.0;
        let mac = Mac([2, 0, 1, host[13], host[14], host[15]]);
        let link = Link { dst: ENGINE_MACS[0], src: mac, vlans: recorded.vlans };
        let path_mss = self.path_mss(a.family());
        let end = Endpoint::new(CLIENTS, link, (a, client.port()), (b, vip.port()), path_mss);
        let server = Endpoint::new(BACKENDS, Link::default(), (b, 0), (a, 0), path_mss);
        let mut conversation = Box::new(Conversation::new(recorded, [end, server], self.now));
        conversation.begin(self.now, &mut self.wire);
        self.conversations[i] = Some(conversation);
        self.lines.entry(key).or_default().begun.push_back(i);
        self.go_on(i, witness)
    }

    /// Lets a conversation do what it can, and arranges for the next time.
    fn go_on(&mut self, i: usize, witness: &mut dyn Witness) -> anyhow::Result<()> {
        let (now, start, patience) = (self.now, self.start, self.patience);
        let Some(c) = self.conversations[i].as_mut() else { return Ok(()) };
        let was = c.outcome;
        c.go_on(now, start, patience, &mut self.wire);
        let due = c.due(now, start, patience).max(now + Duration::from_nanos(1));
        if due < c.wake_at {
            c.wake_at = due;
            self.wakes.push(Reverse((due, i)));
        }
        if was == Outcome::Open && c.outcome != Outcome::Open {
            self.over += 1;
            witness.progress(self.over);
            let c = self.conversations[i].as_mut().expect("it was there a moment ago");
            let key = (c.recorded.client, vip_for(c.recorded.server, &self.vips).unwrap_or(c.recorded.server));
            if expects_header(&self.proxied, key.0, key.1) {
                c.header_fits = header_fits(&c.ends[SERVER].header, key.0, key.1);
            }
            if let Some(next) = self.lines.get_mut(&key).and_then(|l| l.waiting.pop_front()) {
                self.begin(next, key, witness)?;
            }
            self.settle(i, witness)?;
        }
        Ok(())
    }

    /// Takes in what the engine has told.
    fn told(&mut self, witness: &mut dyn Witness) -> anyhow::Result<()> {
        while let Some(ended) = self.wire.ended.pop_front() {
            if ended.conn <= self.earlier {
                continue;
            }
            let Some(line) = self.lines.get(&(ended.sender(), ended.vip)) else { continue };
            let untold = |i: &&usize| self.conversations[**i].as_ref().is_some_and(|c| c.told.is_none());
            let Some(&i) = line.begun.iter().find(untold) else { continue };
            if let Some(c) = self.conversations[i].as_mut() {
                c.told = Some(ended);
            }
            self.settle(i, witness)?;
        }
        Ok(())
    }

    fn explain(&self, number: u64, witness: &mut dyn Witness) -> anyhow::Result<()> {
        let sought = Sought { number: Some(number), ..Sought::default() };
        let mut told = None;
        self.engine.trails(0, TRAILS, &sought, self.now, &mut |trail, _| {
            told = Some(trail);
            false
        });
        told.map_or(Ok(()), |trail| witness.explained(&trail, &self.engine))
    }

    /// A conversation that is over and told of is passed on and forgotten.
    fn settle(&mut self, i: usize, witness: &mut dyn Witness) -> anyhow::Result<()> {
        let done = self.conversations[i].as_ref().is_some_and(|c| c.told.is_some() && c.outcome != Outcome::Open);
        if !done {
            return Ok(());
        }
        let Some(c) = self.conversations[i].take() else { return Ok(()) };
        let key = (c.recorded.client, self.vip_of(c.recorded));
        if let Some(line) = self.lines.get_mut(&key) {
            line.begun.retain(|other| *other != i);
            if line.begun.is_empty() && line.waiting.is_empty() {
                self.lines.remove(&key);
            }
        }
        let (server, client) = c.ends[SERVER].addresses();
        if self.dialled.get(&(client, server)) == Some(&i) {
            self.dialled.remove(&(client, server));
        }
        self.forced += u64::from(c.forced);
        for end in &c.ends {
            self.faults.join(end.faults);
            self.repeats += u64::from(end.repeats);
        }
        match &c.told {
            Some(ended) => {
                if witness.wants_explained(ended.client) {
                    self.explain(ended.conn, witness)?;
                }
                witness.connection(ended, &c)
            }
            None => Ok(()),
        }
    }

    fn tell_unknown(&mut self, i: usize, witness: &mut dyn Witness) -> anyhow::Result<()> {
        if let Some(c) = self.conversations[i].as_mut() {
            let vip = vip_for(c.recorded.server, &self.vips).unwrap_or(c.recorded.server);
            let began = self.start + c.recorded.begun.since(Time::ZERO);
            c.told.get_or_insert(Ended::unknown(began, c.recorded.client, vip));
        }
        self.settle(i, witness)
    }
}

/// Gives each backend that has none an Ethernet address.
fn settle_in(wanted: &Wanted, backends: &mut HashMap<Addr, Mac>) {
    for backend in wanted.backends() {
        let [a, b] = (backends.len() as u16).to_be_bytes();
        backends.entry(Addr::from(backend.addr.ip())).or_insert(Mac([2, 0, 0, 2, a, b]));
    }
}

/// The VIPs whose backends expect a PROXY header.
fn proxied(wanted: &Wanted) -> HashMap<SocketAddr, AcceptProxy> {
    let services = wanted.services.iter().filter(|s| s.policy.proxy_protocol);
    services.flat_map(|s| s.listen.iter().map(|listen| (*listen, s.policy.accept_proxy.clone()))).collect()
}

/// Headers that are accepted are passed on as they were recorded: so the server's stream is the recorded one, byte for byte, whatever becomes of headers otherwise.
fn pass_on(wanted: &mut Wanted) {
    for policy in wanted.services.iter_mut().map(|s| &mut s.policy).filter(|p| !p.accept_proxy.from.is_empty()) {
        (policy.proxy_protocol, policy.accept_proxy.pass) = (true, true);
    }
}

/// The backend of this connection is given a header of ours.
fn expects_header(proxied: &HashMap<SocketAddr, AcceptProxy>, client: SocketAddr, vip: SocketAddr) -> bool {
    proxied.get(&vip).is_some_and(|accept| !accept.accepts(client.ip()))
}

/// What the engine had counted and told before a step.
struct Marks {
    refused: [u64; DropReason::ALL.len()],
    unwatched: u64,
    ended: usize,
}

impl Marks {
    fn of(engine: &Engine, wire: &Wire) -> Marks {
        let counters = engine.counters();
        Marks { refused: *counters.refused, unwatched: counters.unwatched, ended: wire.ended.len() }
    }

    /// What was refused since.
    fn refused(&self, engine: &Engine) -> Option<DropReason> {
        let now = &engine.counters().refused;
        DropReason::ALL.iter().copied().find(|why| now[*why as usize] > self.refused[*why as usize])
    }
}

/// The PROXY header (version 2, section 2.2 of its specification) names both addresses of the client's connection.
fn header_fits(header: &[u8], client: SocketAddr, vip: SocketAddr) -> bool {
    let addresses = |a: IpAddr, b: IpAddr| match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => [a.octets(), b.octets()].concat(),
        (IpAddr::V6(a), IpAddr::V6(b)) => [a.octets(), b.octets()].concat(),
        _ => Vec::new(),
    };
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    expected.extend(if client.is_ipv4() { [0x21, 0x11, 0, 12] } else { [0x21, 0x21, 0, 36] });
    expected.extend(addresses(client.ip(), vip.ip()));
    expected.extend(client.port().to_be_bytes());
    expected.extend(vip.port().to_be_bytes());
    header.starts_with(&expected)
}
