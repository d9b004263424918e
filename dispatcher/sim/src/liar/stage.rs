//! The engine frame by frame, between clients that do as they are told and servers that speak TCP as systems do: what they drop (wrong
//! checksums, old timestamps, what is outside the window or acknowledges what was never sent), they drop; what comes twice counts once.

use super::server::{Handshake, Outcome, Site};
use crate::check::Books;
use crate::config::{server_ip, vip};
use crate::script::{ACK, CLIENT_MAC, FIN_ACK, RST, SERVER_MAC, SYN, SYN_ACK, introductions, linux, written};
use core::time::Duration;
use dispatcher::engine::{Config, ConnectionRecord, Effects, Engine, PortId, Verdict};
use dispatcher::time::Time;
use dispatcher::wire::build::{Link, Segment};
use dispatcher::wire::checksum::Sum;
use dispatcher::wire::options::{SynOptions, Timestamps, write_timestamps};
use dispatcher::wire::packet::{Flags, Packet, Tcp, Vlans, protocol, tcp_checksum_ok};
use dispatcher::wire::{Family, Frame, Seq};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;

const MSS: usize = 1400;
const WSCALE: u8 = 7;
const WINDOW: u32 = 65_000;

/// A client's connection: it sends what it is told, and acknowledges what comes.
pub struct Client {
    isn: Seq,
    /// Bytes said so far, from the first on: what is not acknowledged is said again when asked to.
    said: Vec<u8>,
    acked: u32,
    next: Option<Seq>,
    clock: u32,
    /// Unscaled; told in each segment.
    pub window: u16,
    /// Acknowledges nothing.
    pub deaf: bool,
    /// The other side has ended.
    pub over: bool,
}

impl Client {
    /// Where the next byte to be said stands.
    pub fn at(&self) -> u32 {
        1 + self.said.len() as u32
    }
}

/// A segment of a client that lies, in relative numbers.
#[derive(Clone, Default)]
pub struct Lie {
    /// From the client's ISN.
    pub seq: u32,
    /// Payload.
    pub payload: Vec<u8>,
    /// Added to the acknowledgement.
    pub ack_off: u32,
    /// Instead of ACK.
    pub flags: Option<Flags>,
    /// Taken off the clock.
    pub old: u32,
    /// The TCP checksum is wrong.
    pub spoilt: bool,
    /// The IPv4 header's checksum is wrong.
    pub ip_spoilt: bool,
}

/// A server's connection.
struct Peer {
    site: usize,
    irs: Seq,
    isn: Seq,
    /// Expected next; sent next; acknowledged: from the beginnings.
    rcv: u32,
    snd: u32,
    una: u32,
    window: u32,
    scale: u8,
    stamps: Option<u32>,
    behind_gap: BTreeMap<u32, u8>,
    out: Vec<u8>,
    ended: bool,
    used: Time,
    tls: Handshake,
}

#[derive(Default)]
struct Made(Vec<(PortId, Vec<u8>)>);

impl Effects for Made {
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> bool {
        self.0.push((port, frame.to_vec()));
        true
    }
    fn connection_ended(&mut self, _: &ConnectionRecord<'_>) {}
}

/// The engine and all around it.
pub struct Stage {
    /// The real one.
    pub engine: Engine,
    /// As configured.
    pub config: Config,
    /// Virtual.
    pub now: Time,
    /// The servers; backend `n` and backend `n` + their number are the same one, by IPv4 and by IPv6.
    pub sites: Vec<Site>,
    /// By the random of the first hello.
    pub outcomes: HashMap<[u8; 32], Outcome>,
    /// So many of the next segments with payload are lost on their way to servers.
    pub lose: u32,
    /// Frames handed in.
    pub frames: u64,
    books: Books,
    clients: HashMap<SocketAddr, Client>,
    peers: HashMap<(SocketAddr, SocketAddr), Peer>,
    queue: VecDeque<(usize, Vec<u8>)>,
}

impl Stage {
    /// With all servers known to the engine.
    pub fn new(config: Config, sites: Vec<Site>, secret: [u8; 32]) -> Stage {
        let now = Time::from_millis(64_000_000);
        let mut stage = Stage {
            engine: Engine::new(config.clone(), secret, now).expect("a configuration that works"),
            config,
            now,
            sites,
            outcomes: HashMap::new(),
            lose: 0,
            frames: 0,
            books: Books::default(),
            clients: HashMap::new(),
            peers: HashMap::new(),
            queue: VecDeque::new(),
        };
        stage.poll();
        stage
    }

    /// Panics when the engine's books are wrong.
    pub fn check(&self) {
        self.books.check(&self.engine, &self.config.limits);
    }

    fn hand_in(&mut self, port: usize, bytes: &[u8]) {
        let mut buffer = vec![0; 256 + bytes.len()];
        buffer[64..64 + bytes.len()].copy_from_slice(bytes);
        let mut frame = Frame::new(&mut buffer, 64, bytes.len());
        let mut made = Made::default();
        let verdict = self.engine.handle(PortId(port as u8), &mut frame, self.now, &mut made);
        self.frames += 1;
        self.books.note(verdict);
        if let Verdict::Forward(PortId(p)) | Verdict::Reply(PortId(p)) = verdict {
            self.queue.push_back((usize::from(p), frame.bytes().to_vec()));
        }
        self.took(made);
    }

    fn took(&mut self, made: Made) {
        self.books.transmitted += made.0.len() as u64;
        self.queue.extend(made.0.into_iter().map(|(p, frame)| (usize::from(p.0), frame)));
    }

    /// What is due, done, and what comes of it.
    fn poll(&mut self) {
        let mut made = Made::default();
        self.engine.poll(self.now, &mut made);
        self.took(made);
        self.pump();
    }

    /// Time passes up to then, with all that is due in it.
    pub fn wait_until(&mut self, end: Time) {
        while let Some(at) = self.engine.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.poll();
            if self.engine.next_deadline().is_some_and(|again| again <= self.now) {
                self.now += Duration::from_millis(1);
            }
        }
        self.now = self.now.max(end);
        self.poll();
        if self.peers.len() > 4000 {
            let now = self.now;
            self.peers.retain(|_, peer| now.since(peer.used) < Duration::from_secs(400));
        }
    }

    /// Time passes.
    pub fn wait(&mut self, time: Duration) {
        self.wait_until(self.now + time);
    }

    /// All frames to where they go, and what comes of them.
    fn pump(&mut self) {
        while let Some((port, frame)) = self.queue.pop_front() {
            let Some((p, t)) = Packet::parse(&frame).ok().and_then(|p| {
                let tcp = p.ip.protocol == protocol::TCP;
                let t = tcp.then(|| Tcp::parse(&frame, &p.ip).ok()).flatten()?;
                Some((p, t))
            }) else {
                // Questions for neighbours, and for nothing else.
                if port == 1 {
                    for (port, frame) in introductions(&self.config) {
                        self.hand_in(port, &frame);
                    }
                }
                continue;
            };
            if port == 0 { self.client_gets(&frame, &p, &t) } else { self.server_gets(&frame, &p, &t) }
        }
    }

    // ---- clients

    /// A connection from here, of a client that takes so much at once. True when it stands.
    pub fn open(&mut self, from: SocketAddr, window: u16) -> bool {
        let clock = self.now.as_millis() as u32;
        let client = Client {
            isn: Seq(clock.wrapping_mul(0x9e37_79b9) ^ u32::from(from.port())),
            said: vec![],
            acked: 0,
            next: None,
            clock: 0,
            window,
            deaf: false,
            over: false,
        };
        self.clients.insert(from, client);
        self.syn(from);
        self.stands(from)
    }

    /// Whether our SYN was answered.
    pub fn stands(&self, from: SocketAddr) -> bool {
        self.clients.get(&from).is_some_and(|c| c.next.is_some() && !c.over)
    }

    /// A client's connection.
    pub fn client(&mut self, from: SocketAddr) -> Option<&mut Client> {
        self.clients.get_mut(&from)
    }

    fn syn(&mut self, from: SocketAddr) {
        let clock = self.now.as_millis() as u32;
        let options = written(&SynOptions { timestamps: Some(Timestamps { val: clock, ecr: 0 }), ..linux() });
        let Some(c) = self.clients.get(&from) else { return };
        let (isn, window) = (c.isn, c.window);
        let frame = self.client_frame(from, isn, Seq(0), SYN, window, &options, &[]);
        self.hand_in(0, &frame);
        self.pump();
    }

    #[expect(clippy::too_many_arguments, reason = "a segment has so many")]
    fn client_frame(
        &self,
        from: SocketAddr,
        seq: Seq,
        ack: Seq,
        flags: Flags,
        window: u16,
        options: &[u8],
        payload: &[u8],
    ) -> Vec<u8> {
        let to = vip(from.is_ipv6());
        let segment = Segment {
            link: Link { dst: self.config.ports[0].mac, src: CLIENT_MAC, vlans: Vlans::default() },
            src: (from.ip().into(), from.port()),
            dst: (to.ip().into(), to.port()),
            seq,
            ack,
            flags,
            window,
            options,
            payload,
        };
        let mut b = vec![0; segment.frame_len()];
        segment.write(&mut b);
        b
    }

    fn plain(&self, from: SocketAddr, flags: Flags, seq: u32, payload: &[u8]) -> Option<Vec<u8>> {
        let c = self.clients.get(&from)?;
        let stamp = write_timestamps(Timestamps { val: self.now.as_millis() as u32, ecr: c.clock });
        Some(self.client_frame(from, c.isn + seq, c.next?, flags, c.window, &stamp, payload))
    }

    /// The client says more, in segments, and what comes of it.
    pub fn send(&mut self, from: SocketAddr, bytes: &[u8]) {
        let Some(c) = self.clients.get_mut(&from) else { return };
        let mut at = c.at();
        c.said.extend(bytes);
        for part in bytes.chunks(MSS) {
            if let Some(frame) = self.plain(from, ACK, at, part) {
                self.hand_in(0, &frame);
            }
            at += part.len() as u32;
        }
        self.pump();
    }

    /// The client repeats what was not answered.
    pub fn nudge(&mut self, from: SocketAddr) {
        let Some(c) = self.clients.get(&from).filter(|c| !c.over) else { return };
        if c.next.is_none() {
            return self.syn(from);
        }
        let acked = c.acked.max(1);
        let rest: Vec<u8> = c.said[(acked - 1) as usize..].to_vec();
        for (i, part) in rest.chunks(MSS).enumerate() {
            if let Some(frame) = self.plain(from, ACK, acked + (i * MSS) as u32, part) {
                self.hand_in(0, &frame);
            }
        }
        self.pump();
    }

    /// Several segments arrive before anything comes of the first.
    pub fn lie(&mut self, from: SocketAddr, lies: &[Lie]) {
        for lie in lies {
            let Some(c) = self.clients.get(&from) else { return };
            let Some(next) = c.next else { return };
            let val = (self.now.as_millis() as u32).wrapping_sub(lie.old);
            let stamp = write_timestamps(Timestamps { val, ecr: c.clock });
            let flags = lie.flags.unwrap_or(ACK);
            let (seq, ack) = (c.isn + lie.seq, next + lie.ack_off);
            let mut frame = self.client_frame(from, seq, ack, flags, c.window, &stamp, &lie.payload);
            if lie.ip_spoilt && from.is_ipv4() {
                frame[24] ^= 0x55;
            }
            if lie.spoilt {
                let at = if from.is_ipv4() { 14 + 20 + 16 } else { 14 + 40 + 16 };
                frame[at] ^= 0x55;
            }
            self.hand_in(0, &frame);
        }
        self.pump();
    }

    /// The client believes to have said this, whatever was sent.
    pub fn believe(&mut self, from: SocketAddr, bytes: &[u8]) {
        if let Some(c) = self.clients.get_mut(&from) {
            c.said.extend(bytes);
        }
    }

    /// The client ends in order, or by a reset, and forgets the connection.
    pub fn close(&mut self, from: SocketAddr, reset: bool) {
        let Some(at) = self.clients.get(&from).map(Client::at) else { return };
        if let Some(frame) = self.plain(from, if reset { Flags(RST.0 | ACK.0) } else { FIN_ACK }, at, &[]) {
            self.hand_in(0, &frame);
            self.pump();
            // Its acknowledgement of the other's FIN.
            if !reset && let Some(frame) = self.plain(from, ACK, at + 1, &[]) {
                self.hand_in(0, &frame);
                self.pump();
            }
        }
        self.clients.remove(&from);
    }

    /// The client is gone without a word.
    pub fn vanish(&mut self, from: SocketAddr) {
        self.clients.remove(&from);
    }

    fn client_gets(&mut self, frame: &[u8], p: &Packet, t: &Tcp) {
        assert!(tcp_checksum_ok(frame, &p.ip), "what clients get is whole");
        let from = p.ip.dst.socket(t.dst_port);
        let Some(c) = self.clients.get_mut(&from) else { return };
        if t.flags.contains(RST) {
            c.over = true;
            return;
        }
        let options = SynOptions::parse(&frame[t.header + 20..t.payload]);
        if let Some(ts) = options.timestamps {
            c.clock = ts.val;
        }
        if t.flags.contains(SYN) {
            c.next = Some(t.seq + 1);
            return self.answer(from, 1);
        }
        let Some(next) = c.next else { return };
        let acked = t.ack.0.wrapping_sub(c.isn.0);
        if acked <= c.at() {
            c.acked = c.acked.max(acked);
        }
        let at = c.at();
        if t.payload_len() == 0 && !t.flags.contains(Flags::FIN) || c.deaf {
            return;
        }
        if t.seq == next {
            c.next = Some(t.seq_end());
        }
        self.answer(from, at);
    }

    fn answer(&mut self, from: SocketAddr, at: u32) {
        if let Some(frame) = self.plain(from, ACK, at, &[]) {
            self.hand_in(0, &frame);
        }
    }

    // ---- servers

    fn server_gets(&mut self, frame: &[u8], p: &Packet, t: &Tcp) {
        if p.ip.family == Family::V4 && Sum::default().add_bytes(&frame[14..34]).checksum() != 0 {
            return;
        }
        if !tcp_checksum_ok(frame, &p.ip) {
            return;
        }
        if t.payload_len() > 0 && self.lose > 0 {
            self.lose -= 1;
            return;
        }
        let (peer, own) = (p.ip.src.socket(t.src_port), p.ip.dst.socket(t.dst_port));
        let stamp = SynOptions::parse(&frame[t.header + 20..t.payload]);
        if t.is_bare_syn() {
            return self.accept(peer, own, t, stamp);
        }
        let Some(c) = self.peers.get_mut(&(peer, own)) else { return };
        c.used = self.now;
        let seq = t.seq.0.wrapping_sub(c.irs.0);
        if t.flags.contains(RST) {
            if seq == c.rcv {
                self.peers.remove(&(peer, own));
            }
            return;
        }
        let (payload, fin) = (&frame[t.payload..t.end], t.flags.contains(Flags::FIN));
        let ack = t.ack.0.wrapping_sub(c.isn.0);
        let old = match (c.stamps, stamp.timestamps) {
            (Some(recent), Some(ts)) => (ts.val.wrapping_sub(recent) as i32) < 0,
            _ => false,
        };
        let behind = seq.wrapping_sub(c.rcv) as i32;
        let end = behind.saturating_add(payload.len() as i32);
        let empty = payload.is_empty() && !fin;
        if !t.flags.contains(ACK) {
            return;
        }
        // What is not acceptable is answered by where we are.
        let ahead = ack.wrapping_sub(c.snd) as i32 > 0;
        let outside = behind > WINDOW as i32 || !empty && end <= 0 && !fin;
        if t.flags.contains(SYN) || old || ahead || outside {
            return self.serve(peer, own, !empty);
        }
        if let (Some(_), Some(ts)) = (c.stamps, stamp.timestamps)
            && behind <= 0
        {
            c.stamps = Some(ts.val);
        }
        c.una = if (ack.wrapping_sub(c.una) as i32) > 0 { ack } else { c.una };
        c.window = u32::from(t.window) << c.scale;
        let site = &self.sites[c.site];
        let mut new = vec![];
        if behind <= 0 {
            new.extend(payload.get((-behind) as usize..).unwrap_or_default());
            let mut next = c.rcv + new.len() as u32;
            c.behind_gap = c.behind_gap.split_off(&next);
            while let Some(b) = c.behind_gap.remove(&next) {
                new.push(b);
                next += 1;
            }
        } else {
            for (i, b) in payload.iter().enumerate() {
                let kept = c.behind_gap.entry(seq + i as u32).or_insert(*b);
                if site.later_bytes_win {
                    *kept = *b;
                }
            }
        }
        c.rcv += new.len() as u32;
        if !new.is_empty() {
            let said = c.tls.input(site, &new);
            c.out.extend(said);
            if let Some(random) = c.tls.random() {
                self.outcomes.insert(random, c.tls.outcome.clone());
            }
        }
        if fin && seq + payload.len() as u32 == c.rcv && !c.ended {
            c.rcv += 1;
            c.ended = true;
        }
        self.serve(peer, own, !empty);
    }

    fn accept(&mut self, peer: SocketAddr, own: SocketAddr, t: &Tcp, options: SynOptions) {
        let half = self.sites.len();
        let site = (0..half).find(|n| [false, true].iter().any(|v6| server_ip(*n, *v6) == own.ip())).expect("a server");
        let c = Peer {
            site,
            irs: t.seq,
            isn: Seq(t.seq.0.wrapping_mul(77) ^ 0x5555),
            rcv: 1,
            snd: 1,
            una: 1,
            window: u32::from(t.window),
            scale: options.wscale.unwrap_or(0),
            stamps: options.timestamps.map(|ts| ts.val),
            behind_gap: BTreeMap::new(),
            out: vec![],
            ended: false,
            used: self.now,
            tls: Handshake::new(site),
        };
        let timestamps = options.timestamps.map(|ts| Timestamps { val: self.now.as_millis() as u32, ecr: ts.val });
        let answer =
            written(&SynOptions { mss: Some(1460), wscale: options.wscale.map(|_| WSCALE), timestamps, ..options });
        let isn = c.isn;
        self.peers.insert((peer, own), c);
        self.server_sends(peer, own, isn, SYN_ACK, &answer, &[]);
    }

    fn server_sends(
        &mut self,
        peer: SocketAddr,
        own: SocketAddr,
        seq: Seq,
        flags: Flags,
        options: &[u8],
        payload: &[u8],
    ) {
        let Some(c) = self.peers.get(&(peer, own)) else { return };
        let segment = Segment {
            link: Link { dst: self.config.ports[1].mac, src: SERVER_MAC, vlans: Vlans::default() },
            src: (own.ip().into(), own.port()),
            dst: (peer.ip().into(), peer.port()),
            seq,
            ack: c.irs + c.rcv,
            flags,
            window: if flags == SYN_ACK { WINDOW as u16 } else { (WINDOW >> WSCALE) as u16 },
            options,
            payload,
        };
        let mut b = vec![0; segment.frame_len()];
        segment.write(&mut b);
        self.hand_in(1, &b);
    }

    /// Sends what the window allows; an acknowledgement when there is nothing but one is owed.
    fn serve(&mut self, peer: SocketAddr, own: SocketAddr, owed: bool) {
        let mut sent = false;
        loop {
            let now = self.now.as_millis() as u32;
            let Some(c) = self.peers.get_mut(&(peer, own)) else { return };
            let stamp = c.stamps.map(|ecr| write_timestamps(Timestamps { val: now, ecr }));
            let stamp = stamp.as_ref().map_or(&[][..], |s| s);
            let done = (c.snd - 1) as usize;
            let all = c.out.len();
            let may = ((c.una - 1 + c.window) as usize).min(all);
            if done < may {
                let part = c.out[done..may.min(done + MSS)].to_vec();
                let at = c.isn + c.snd;
                c.snd += part.len() as u32;
                self.server_sends(peer, own, at, ACK, stamp, &part);
                sent = true;
                continue;
            }
            let at = c.isn + c.snd;
            if c.ended && done == all {
                // The FIN counts one.
                c.snd += 1;
                self.server_sends(peer, own, at, FIN_ACK, stamp, &[]);
                self.peers.remove(&(peer, own));
            } else if owed && !sent {
                self.server_sends(peer, own, at, ACK, stamp, &[]);
            }
            return;
        }
    }
}
