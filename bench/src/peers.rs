//! An engine, and clients and servers that say to it what a script has them say.
//!
//! Frames are written outside of what is measured; the engine answers into buffers that were there before.

use crate::region::Draw;
use crate::seal::Through;
use anyhow::{Context, Result, ensure};
use dispatcher::engine::{
    Config, ConnectionRecord, DropReason, Effects, Engine, PortId, Sealed, Share, Unsealed, Verdict,
};
use dispatcher::path::tunnel::End;
use dispatcher::time::Time;
use dispatcher::wire::build::{Arp, Link, Segment, arp_op};
use dispatcher::wire::options::SynOptions;
use dispatcher::wire::packet::{Flags, Packet, Tcp, Vlans, protocol};
use dispatcher::wire::{Addr, Frame, Mac, Seq};
use lb::HashOn;
use sim::config::{ip, two_armed, vip};
use std::net::{IpAddr, Ipv4Addr};

/// Keys the engines' hashes and cookies.
pub const SECRET: [u8; 32] = [7; 32];
/// Frames handed in at once.
pub const BURST: usize = 64;
const CLIENTS: Mac = Mac([2, 0, 0, 0, 9, 1]);
const SERVERS: Mac = Mac([2, 0, 0, 0, 9, 2]);
const HEADROOM: usize = 64;
const BUFFER: usize = 2048;

/// The side of the dispatcher that a frame comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// Port 0.
    Client,
    /// Port 1.
    Server,
}

/// What the engine has sent of its own, in buffers that were there before.
struct Sent {
    frames: Vec<(usize, Box<[u8; BUFFER]>)>,
    used: usize,
    /// Where the servers are behind a tunnel whose packets are sealed.
    through: Option<Box<Through>>,
}

impl Effects for Sent {
    fn transmit(&mut self, _: PortId, frame: &[u8]) -> bool {
        let Some((len, buffer)) = self.frames.get_mut(self.used) else { return false };
        let opened = self.through.as_mut().and_then(|through| through.opened(frame));
        let frame = opened.as_deref().unwrap_or(frame);
        buffer[..frame.len()].copy_from_slice(frame);
        *len = frame.len();
        self.used += 1;
        true
    }
    fn seal(&mut self, end: End, packet: &[u8], out: &mut [u8]) -> Sealed {
        match &mut self.through {
            Some(through) => through.edge.seal(end, packet, out),
            None => Sealed::Lost(DropReason::TunnelNotUp),
        }
    }
    fn unseal(&mut self, end: End, message: &[u8], out: &mut [u8]) -> Unsealed {
        match &mut self.through {
            Some(through) => through.edge.unseal(end, message, out),
            None => Unsealed::Lost(DropReason::TunnelUnknown),
        }
    }
    fn connection_ended(&mut self, _: &ConnectionRecord<'_>) {}
}

/// A burst: frames in buffers with headroom, as a driver hands them in.
pub struct Burst {
    buffers: Vec<(usize, Box<[u8; BUFFER]>)>,
    ports: Vec<PortId>,
    /// What became of each.
    pub verdicts: Vec<Verdict>,
}

impl Burst {
    /// With room for `n` frames.
    pub fn new(n: usize) -> Burst {
        Burst {
            buffers: (0..n).map(|_| (0, Box::new([0; BUFFER]))).collect(),
            ports: Vec::with_capacity(n),
            verdicts: Vec::with_capacity(n),
        }
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.ports.clear();
        self.verdicts.clear();
    }

    /// Puts a frame in.
    pub fn push(&mut self, from: From, frame: &[u8]) {
        self.write(from, |buffer| {
            buffer[..frame.len()].copy_from_slice(frame);
            frame.len()
        });
    }

    /// Puts a frame in that `write` writes, and says the length of.
    pub fn write(&mut self, from: From, write: impl FnOnce(&mut [u8]) -> usize) {
        let (len, buffer) = &mut self.buffers[self.ports.len()];
        *len = write(&mut buffer[HEADROOM..]);
        self.ports.push(PortId(from as u8));
    }

    /// Hands each frame, with the port it came in by, to `handle`.
    #[inline]
    pub fn each(&mut self, mut handle: impl FnMut(PortId, &mut Frame<'_>) -> Verdict) {
        for (port, (len, buffer)) in self.ports.iter().zip(&mut self.buffers) {
            let mut frame = Frame::new(&mut buffer[..], HEADROOM, *len);
            self.verdicts.push(handle(*port, &mut frame));
        }
    }
}

/// One connection as its two ends know it.
#[derive(Clone, Debug)]
pub struct Conversation {
    client: (Addr, u16),
    isn: Seq,
    cookie: Seq,
    /// Where the server sees it come from, and the server.
    seen_from: (Addr, u16),
    server: (Addr, u16),
    server_isn: Seq,
    /// Bytes sent by the client and by the server.
    sent: [u32; 2],
    /// FINs sent by the client and by the server.
    fins: [u32; 2],
}

impl Conversation {
    /// Number `n` of up to some millions.
    pub fn new(n: usize) -> Conversation {
        let host = Ipv4Addr::from(0x0a01_1000 + (n as u32 / 50_000));
        Conversation {
            client: (IpAddr::V4(host).into(), 10_000 + (n % 50_000) as u16),
            isn: Seq((n as u32).wrapping_mul(0x9e37_79b9)),
            cookie: Seq(0),
            seen_from: (Addr([0; 16]), 0),
            server: (Addr([0; 16]), 0),
            server_isn: Seq(!(n as u32).wrapping_mul(0x85eb_ca6b)),
            sent: [0; 2],
            fins: [0; 2],
        }
    }

    /// The server's address, once it was dialled.
    pub fn server(&self) -> Option<Addr> {
        (self.server.1 != 0).then_some(self.server.0)
    }

    /// The next segment of that side, with everything acknowledged that the other has sent.
    pub fn says(&mut self, from: From, flags: Flags, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 14 + 40 + 40 + payload.len()];
        let n = self.write(from, flags, payload, &mut frame);
        frame.truncate(n);
        frame
    }

    /// The same into a buffer; returns its length.
    pub fn write(&mut self, from: From, flags: Flags, payload: &[u8], frame: &mut [u8]) -> usize {
        let options = SynOptions { mss: Some(1460), wscale: Some(7), sack_permitted: true, timestamps: None };
        let options = if flags.0 & Flags::SYN.0 != 0 { options } else { SynOptions::default() };
        self.write_with(from, flags, &options, payload, frame)
    }

    /// The same with options.
    pub fn write_with(
        &mut self,
        from: From,
        flags: Flags,
        options: &SynOptions,
        payload: &[u8],
        frame: &mut [u8],
    ) -> usize {
        let mut written = [0; 40];
        let n = options.write(&mut written);
        let syn = flags.0 & Flags::SYN.0 != 0;
        let vip = vip(false);
        let (me, other) = (from as usize, 1 - from as usize);
        let behind = |isn: Seq, side: usize| isn + 1 + self.sent[side] + self.fins[side];
        let (first, theirs, src, dst, mac) = match from {
            From::Client => (self.isn, self.cookie, self.client, (vip.ip().into(), vip.port()), CLIENTS),
            From::Server => (self.server_isn, self.isn, self.server, self.seen_from, SERVERS),
        };
        let segment = Segment {
            link: Link { dst: sim::config::PORT_MACS[me], src: mac, vlans: Vlans::default() },
            src,
            dst,
            seq: if syn { first } else { behind(first, me) },
            ack: match (flags.0 & Flags::ACK.0 != 0, syn) {
                (false, _) => Seq(0),
                // The dispatcher holds what the client has said, until this has come.
                (true, true) => theirs + 1,
                (true, false) => behind(theirs, other),
            },
            flags,
            window: 0xfff0,
            options: &written[..n],
            payload,
        };
        let n = segment.write(frame);
        self.sent[me] = self.sent[me].wrapping_add(payload.len() as u32);
        self.fins[me] += u32::from(flags.0 & Flags::FIN.0 != 0);
        n
    }
}

/// Open connections, of which frames are drawn at random: both directions, each with new data.
pub struct Crowd {
    who: Vec<Conversation>,
    payload: Vec<u8>,
    draw: Draw,
}

impl Crowd {
    /// `flows` connections through `world`, from the first to the answer to a request. Their segments carry `payload` bytes.
    pub fn open(world: &mut World, flows: usize, payload: usize) -> Result<Crowd> {
        let mut who: Vec<Conversation> = (0..flows).map(Conversation::new).collect();
        for some in who.chunks_mut(1024) {
            world.open(some);
        }
        ensure!(world.engine.flows() == flows, "{} of {flows} flows are open", world.engine.flows());
        Ok(Crowd { who, payload: vec![0xe7; payload], draw: Draw::new(1) })
    }

    /// Those that stand open already.
    pub fn of(who: Vec<Conversation>, payload: usize) -> Crowd {
        Crowd { who, payload: vec![0xe7; payload], draw: Draw::new(1) }
    }

    /// Writes a frame of any connection; returns its length.
    pub fn speak(&mut self, from: From, buffer: &mut [u8]) -> usize {
        let one = self.draw.below(self.who.len());
        self.who[one].write(from, Flags::ACK, &self.payload, buffer)
    }

    /// Writes one that the connection does not remember.
    pub fn hum(&mut self, from: From, buffer: &mut [u8]) -> usize {
        let one = self.draw.below(self.who.len());
        self.who[one].clone().write(from, Flags::ACK, &self.payload, buffer)
    }

    /// One such frame of each connection, from the first to the last. Whoever gets them over and over again gets nothing that was acknowledged.
    pub fn all_hum(&self, from: From) -> impl Iterator<Item = Vec<u8>> {
        self.who.iter().map(move |one| one.clone().says(from, Flags::ACK, &self.payload))
    }

    /// A side at random.
    pub fn side(&mut self) -> From {
        if self.draw.next() & 1 == 0 { From::Client } else { From::Server }
    }

    /// Other payloads from now on.
    pub fn carry(&mut self, payload: usize) {
        self.payload = vec![0xe7; payload];
    }
}

/// The engine and what it knows of the world.
pub struct World {
    /// What is measured.
    pub engine: Engine,
    /// Virtual time.
    pub now: Time,
    sent: Sent,
    backends: usize,
}

impl World {
    /// With `backends` servers whose Ethernet addresses are known, and `flows` rows.
    pub fn new(backends: usize, flows: usize) -> Result<World> {
        // By address and port: there are few addresses, and a server's ports are bounded.
        let mut config = two_armed(backends, false).pool(|pool| pool.hash_on = HashOn::Tuple);
        config.limits.flows = flows;
        World::of(config)
    }

    /// With the servers of `config`, whose Ethernet addresses are known.
    pub fn of(config: Config) -> Result<World> {
        let share = Share::divide(&config, &SECRET, 1)?.pop().context("one worker")?;
        World::of_worker(config, share)
    }

    /// The same for one of several workers.
    pub fn of_worker(config: Config, share: Share) -> Result<World> {
        let backends = config.backends().len();
        let now = Time::from_millis(64_000_000);
        let engine = Engine::for_worker(config, SECRET, share, now)?;
        // As a worker does.
        engine.memory().iter().for_each(dispatcher::io::ask_for_large_pages);
        engine.affinity().memory().iter().for_each(dispatcher::io::move_into_large_pages);
        let sent =
            Sent { frames: (0..8 * BURST).map(|_| (0, Box::new([0; BUFFER]))).collect(), used: 0, through: None };
        let mut world = World { engine, now, sent, backends };
        // Next hops are asked for in portions.
        (0..=backends / 64).for_each(|_| world.pass(core::time::Duration::ZERO));
        Ok(world)
    }

    /// The engine takes a burst. To be called within [`measured_region`](crate::region::measured_region) or outside of it.
    #[inline]
    pub fn take(&mut self, burst: &mut Burst) {
        self.sent.used = 0;
        let World { engine, now, sent, .. } = self;
        burst.each(|port, frame| engine.handle(port, frame, *now, sent));
    }

    /// From now on what goes to servers is sealed, and so must be what comes from them.
    pub fn behind(&mut self, through: Through) {
        self.sent.through = Some(Box::new(through));
    }

    /// That.
    pub fn through(&mut self) -> Option<&mut Through> {
        self.sent.through.as_deref_mut()
    }

    /// What each conversation learns from what left for its ends: the cookie from our SYN-ACK, and the server from our SYN.
    pub fn hear(&self, burst: &Burst, who: &mut [Conversation]) {
        let replies = burst.verdicts.iter().zip(&burst.buffers).filter(|(v, _)| matches!(v, Verdict::Reply(_)));
        let made = self.sent.frames[..self.sent.used].iter();
        for (len, buffer) in replies.map(|(_, b)| (b.0, &b.1[HEADROOM..])).chain(made.map(|b| (b.0, &b.1[..]))) {
            // A reply may have another length than the frame had that it took the place of; its own headers say which.
            let frame = &buffer[..len.max(128)];
            let Ok(p) = Packet::parse(frame) else { continue };
            if p.ip.protocol != protocol::TCP {
                continue;
            }
            let Ok(tcp) = Tcp::parse(frame, &p.ip) else { continue };
            if tcp.flags.0 & Flags::SYN.0 == 0 {
                continue;
            }
            let to_client = tcp.flags.0 & Flags::ACK.0 != 0;
            for c in who.iter_mut() {
                if to_client && (p.ip.dst, tcp.dst_port) == c.client {
                    c.cookie = tcp.seq;
                } else if !to_client && tcp.seq == c.isn {
                    (c.seen_from, c.server) = ((p.ip.src, tcp.src_port), (p.ip.dst, tcp.dst_port));
                }
            }
        }
    }

    /// Every server says its Ethernet address.
    fn introduce(&mut self) {
        for n in 0..self.backends {
            let reply = Arp {
                op: arp_op::REPLY,
                sender_mac: SERVERS,
                sender: sim::config::server_ip(n, false).into(),
                target_mac: sim::config::PORT_MACS[1],
                target: ip("10.2.0.1").into(),
            };
            let mut frame = [0; 128];
            let link = Link { dst: sim::config::PORT_MACS[1], src: SERVERS, vlans: Vlans::default() };
            let n = reply.write(&mut frame, &link);
            let mut burst = Burst::new(1);
            burst.push(From::Server, &frame[..n]);
            self.take(&mut burst);
        }
    }

    /// Time passes, with all that is due in it. Servers are asked for their addresses now and then, and answer.
    pub fn pass(&mut self, time: core::time::Duration) {
        self.now += time;
        self.sent.used = 0;
        self.engine.poll(self.now, &mut self.sent);
        self.introduce();
    }

    /// These connections are opened, and an answer to a request is under way on each.
    pub fn open(&mut self, some: &mut [Conversation]) {
        let syn_ack = Flags(Flags::SYN.0 | Flags::ACK.0);
        self.all_say(some, From::Client, Flags::SYN, &[]);
        self.all_say(some, From::Client, Flags::ACK, &[]);
        self.all_say(some, From::Client, Flags::ACK, b"GET / HTTP/1.0\r\n\r\n");
        self.all_say(some, From::Server, syn_ack, &[]);
        self.all_say(some, From::Server, Flags::ACK, b"answer");
        self.all_say(some, From::Client, Flags::ACK, &[]);
    }

    /// All of these say the same, a burst at a time, outside of what is measured.
    pub fn all_say(&mut self, who: &mut [Conversation], from: From, flags: Flags, payload: &[u8]) {
        let mut burst = Burst::new(BURST);
        for some in who.chunks_mut(BURST) {
            burst.clear();
            some.iter_mut().for_each(|c| burst.push(from, &c.says(from, flags, payload)));
            self.take(&mut burst);
            self.hear(&burst, some);
        }
    }
}
