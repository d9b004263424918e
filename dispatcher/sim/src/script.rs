//! A bench for single segments: a test says what arrives, and states what leaves.
//!
//! Numbers are relative: the client's count from its ISN, the server's from its own, the dispatcher's from its cookie, so
//! that a test reads like a capture.

use crate::check::Books;
use crate::config::{client_ip, next_revision, server_ip, vip};
use crate::pairs::Pairs;
use crate::twin::Twin;
use core::time::Duration;
use dispatcher::engine::{Config, ConnectionRecord, DropReason, Effects, End, PortId, Told, Verdict};
use dispatcher::time::Time;
use dispatcher::wire::build::{Arp, Link, Ndp, Segment, arp_op, ndp_type};
use dispatcher::wire::checksum;
use dispatcher::wire::options::{SynOptions, Timestamps};
use dispatcher::wire::packet::{Flags, Ip, Packet, Tcp, Vlans, ethertype, protocol, tcp_checksum_ok};
use dispatcher::wire::{Addr, Family, Frame, Mac, Offload, Seq};
use lb::Wanted;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The client's Ethernet address.
pub const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 9, 1]);
/// The servers' Ethernet address.
pub const SERVER_MAC: Mac = Mac([2, 0, 0, 0, 9, 2]);
/// The Ethernet address of somebody else.
pub const STRANGER_MAC: Mac = Mac([2, 0, 0, 0, 66, 66]);
/// The client's initial sequence number.
pub const CLIENT_ISN: u32 = 0xffff_ff00;
/// The servers' initial sequence number.
pub const SERVER_ISN: u32 = 0xffff_fc00;

/// ACK.
pub const ACK: Flags = Flags::ACK;
/// SYN.
pub const SYN: Flags = Flags::SYN;
/// RST.
pub const RST: Flags = Flags::RST;
/// SYN and ACK.
pub const SYN_ACK: Flags = Flags(0x12);
/// FIN and ACK.
pub const FIN_ACK: Flags = Flags(0x11);
/// RST and ACK.
pub const RST_ACK: Flags = Flags(0x14);

/// A frame that left.
#[derive(Clone, Debug)]
pub struct Out {
    /// Out of this port.
    pub port: usize,
    /// All of it.
    pub bytes: Vec<u8>,
    /// Its Ethernet header.
    pub eth: dispatcher::wire::packet::Ethernet,
    /// What is left to whoever sends it.
    pub offload: Offload,
}

impl Out {
    fn new(port: usize, bytes: Vec<u8>) -> Out {
        let eth = dispatcher::wire::packet::Ethernet::parse(&bytes).expect("an Ethernet header");
        Out { port, bytes, eth, offload: Offload::NONE }
    }

    /// The IP header.
    pub fn ip(&self) -> Ip {
        Packet::parse(&self.bytes).expect("an IP header").ip
    }

    /// The TCP header; panics when the checksum is wrong, unless it is left open.
    pub fn tcp(&self) -> Tcp {
        let ip = self.ip();
        assert_eq!(ip.protocol, protocol::TCP);
        assert!(!self.offload.is_finished() || tcp_checksum_ok(&self.bytes, &ip), "checksum of {self:?}");
        Tcp::parse(&self.bytes, &ip).expect("a TCP header")
    }

    /// The options of a SYN.
    pub fn options(&self) -> SynOptions {
        let t = self.tcp();
        SynOptions::parse(&self.bytes[t.header + 20..t.payload])
    }

    /// The TCP options as they stand there.
    pub fn option_bytes(&self) -> &[u8] {
        let t = self.tcp();
        &self.bytes[t.header + 20..t.payload]
    }

    /// The segment's payload.
    pub fn payload(&self) -> &[u8] {
        let t = self.tcp();
        &self.bytes[t.payload..t.end]
    }

    /// Flags but PSH.
    pub fn flags(&self) -> Flags {
        let f = self.tcp().flags;
        Flags(f.0 & !Flags::PSH.0)
    }
}

#[derive(Default)]
struct Sent {
    full: bool,
    refused: u64,
    frames: Vec<Out>,
    ended: Vec<(End, u64, u64)>,
    told: Vec<Kept>,
}

/// What was told of a connection.
pub type Kept = Told<String, String, Vec<u8>, Vec<&'static str>>;

impl Effects for Sent {
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> bool {
        if self.full {
            self.refused += 1;
            return false;
        }
        self.frames.push(Out::new(usize::from(port.0), frame.to_vec()));
        true
    }
    fn connection_ended(&mut self, r: &ConnectionRecord<'_>) {
        self.ended.push((r.end, r.bytes_to_server, r.bytes_to_client));
        self.told.push(r.kept(str::to_owned, str::to_owned, <[u8]>::to_vec, <[&str]>::to_vec));
    }
}

/// A segment of the client or of a server, in relative numbers.
#[derive(Clone, Copy, Debug)]
pub struct Seg<'a> {
    /// From the sender's ISN.
    pub seq: u32,
    /// From the receiver's ISN; the client's: from the cookie.
    pub ack: u32,
    /// Flags.
    pub flags: Flags,
    /// As in the header, unscaled.
    pub window: u16,
    /// TCP options, padded.
    pub options: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
}

impl Default for Seg<'_> {
    fn default() -> Self {
        Seg { seq: 0, ack: 0, flags: ACK, window: 1000, options: &[], payload: &[] }
    }
}

/// One without options.
pub fn seg(flags: Flags, seq: u32, ack: u32, payload: &[u8]) -> Seg<'_> {
    Seg { seq, ack, flags, payload, ..Seg::default() }
}

/// The options of a Linux SYN.
pub fn linux() -> SynOptions {
    SynOptions {
        mss: Some(1460),
        wscale: Some(7),
        sack_permitted: true,
        timestamps: Some(Timestamps { val: 5000, ecr: 0 }),
    }
}

/// Options as bytes.
pub fn written(o: &SynOptions) -> Vec<u8> {
    let mut b = [0; 40];
    let n = o.write(&mut b);
    b[..n].to_vec()
}

/// What the servers answer when the engine asks for their Ethernet addresses: a port and a frame for each backend.
pub(crate) fn introductions(config: &Config) -> Vec<(usize, Vec<u8>)> {
    let port = config.ports.len() - 1;
    let ours = config.ports[port].mac;
    let link = Link { dst: ours, src: SERVER_MAC, vlans: Vlans::from_ids(&config.ports[port].vlans) };
    let answer = |addr: Addr| {
        let mut buf = [0; 128];
        let n = match addr.family() {
            Family::V4 => Arp {
                op: arp_op::REPLY,
                sender_mac: SERVER_MAC,
                sender: addr,
                target_mac: ours,
                target: Addr::from(crate::config::ip("10.2.0.1")),
            }
            .write(&mut buf, &link),
            Family::V6 => {
                let ndp = Ndp { kind: ndp_type::ADVERTISEMENT, flags: 0x60, target: addr, mac: Some(SERVER_MAC) };
                ndp.write(&mut buf, &link, addr, Addr::from(crate::config::ip("fd02::1")))
            }
        };
        (port, buf[..n].to_vec())
    };
    config.backends().iter().map(|b| answer(Addr::from(b.addr.ip()))).collect()
}

/// The engine, one client and up to some servers, all by hand.
pub struct Bench {
    /// What is tested.
    pub engine: Twin,
    /// As configured.
    pub config: Config,
    /// Virtual time.
    pub now: Time,
    /// What the driver saw.
    pub books: Books,
    /// Who was led where.
    pub pairs: Pairs,
    /// IPv6.
    pub v6: bool,
    /// The client's address and port.
    pub client: SocketAddr,
    /// Tags on the client's frames.
    pub client_vlans: Vec<u16>,
    /// What the dispatcher answered the SYN with.
    pub cookie: Seq,
    /// The clock that stood in that answer.
    pub our_clock: u32,
    /// Where the dispatcher dials from, and the server it dialled; from the last SYN to a server.
    pub dialled_from: SocketAddr,
    /// See above.
    pub dialled: SocketAddr,
    /// What is left to others of the frames that arrive.
    pub offload: Offload,
    /// The transmit rings are full: what the engine makes is not sent.
    pub full: bool,
    /// Backends, by index, that do not answer for their addresses.
    pub gone: Vec<usize>,
    /// Connections that have ended, with bytes to server and client.
    pub ended: Vec<(End, u64, u64)>,
    /// All that was told of them.
    pub told: Vec<Kept>,
    /// Frames made by the engine and not looked at yet.
    pub out: std::collections::VecDeque<Out>,
}

impl Bench {
    /// An engine that knows its servers' Ethernet addresses.
    pub fn new(config: Config, v6: bool) -> Bench {
        Bench::with_secret(config, v6, [7; 32])
    }

    /// The same with a secret of its own.
    pub fn with_secret(config: Config, v6: bool, secret: [u8; 32]) -> Bench {
        let now = Time::from_millis(64_000_000);
        let none = SocketAddr::new(client_ip(0, v6), 0);
        let pairs = Pairs::new(&config.vips(), config.backends().iter().map(|b| b.addr));
        let mut b = Bench {
            engine: Twin::new(config.clone(), secret, now).expect("a configuration that works"),
            config,
            now,
            books: Books::default(),
            pairs,
            v6,
            client: SocketAddr::new(client_ip(0, v6), 50_000),
            client_vlans: vec![],
            cookie: Seq(0),
            our_clock: 0,
            dialled_from: none,
            dialled: none,
            offload: Offload::NONE,
            full: false,
            gone: vec![],
            ended: vec![],
            told: vec![],
            out: Default::default(),
        };
        // Next hops are asked for in portions.
        (0..=b.config.backends().len() / 64).for_each(|_| _ = b.poll());
        b.introduce_servers();
        b.out.clear();
        b
    }

    /// The port with the servers.
    pub fn server_port(&self) -> usize {
        self.config.ports.len() - 1
    }

    /// Answers for every backend's address.
    fn introduce_servers(&mut self) {
        for (i, (port, frame)) in introductions(&self.config).into_iter().enumerate() {
            if self.gone.contains(&i) {
                continue;
            }
            let addr = self.config.backends()[i].addr;
            let verdict = self.hand_in(port, &frame).1;
            // For one that was removed meanwhile nobody asked.
            let removed = !self.engine.directory().backends().any(|b| b.addr == addr);
            let unasked = removed && verdict == Verdict::Drop(DropReason::NeighbourUnasked);
            assert!(verdict == Verdict::Hold || unasked, "{addr}: {verdict:?}");
        }
    }

    fn collect(&mut self, sent: Sent) {
        self.ended.extend(sent.ended);
        self.told.extend(sent.told);
        for out in sent.frames {
            self.pairs.made(&out.bytes);
            self.look(&out);
            self.out.push_back(out);
        }
        self.books.check(&self.engine, &self.config.limits);
    }

    /// Notes what later segments are relative to.
    fn look(&mut self, out: &Out) {
        if !matches!(out.eth.ethertype, ethertype::IPV4 | ethertype::IPV6) {
            return;
        }
        let ip = out.ip();
        if ip.protocol != protocol::TCP {
            return;
        }
        // Damaged frames are forwarded too, as damaged as they were.
        let Ok(t) = Tcp::parse(&out.bytes, &ip) else { return };
        let servers = self.config.backends().iter().any(|b| b.addr == ip.dst.socket(t.dst_port));
        if t.is_bare_syn() && servers {
            self.dialled_from = ip.src.socket(t.src_port);
            self.dialled = ip.dst.socket(t.dst_port);
        }
        if t.flags.0 & 0x3f == SYN_ACK.0 && ip.src == Addr::from(vip(self.v6).ip()) {
            self.cookie = t.seq;
            self.our_clock = out.options().timestamps.map_or(0, |ts| ts.val);
        }
    }

    /// A whole frame into a port. Returns what left because of it (the frame itself first, if it was forwarded or answered).
    pub fn hand_in(&mut self, port: usize, bytes: &[u8]) -> (Vec<Out>, Verdict) {
        let mut buffer = vec![0; 256 + bytes.len()];
        buffer[64..64 + bytes.len()].copy_from_slice(bytes);
        let mut frame = Frame::new(&mut buffer, 64, bytes.len()).with(self.offload);
        let mut sent = Sent { full: self.full, ..Sent::default() };
        let verdict = self.engine.handle(PortId(port as u8), &mut frame, self.now, &mut sent);
        self.books.note(verdict);
        self.books.transmitted += sent.frames.len() as u64;
        self.books.refused_by_driver += sent.refused;
        let made = sent.frames.clone();
        self.collect(sent);
        // What a call made is returned, not kept.
        self.out.truncate(self.out.len() - made.len());
        let mut all = vec![];
        if let Verdict::Forward(PortId(p)) | Verdict::Reply(PortId(p)) = verdict {
            let mut out = Out::new(usize::from(p), frame.bytes().to_vec());
            out.offload = frame.offload();
            if matches!(verdict, Verdict::Forward(_)) {
                self.pairs.forwarded(bytes, &out.bytes);
            }
            self.look(&out);
            all.push(out);
        }
        all.extend(made);
        (all, verdict)
    }

    /// What is due now, done. Returns what was sent.
    pub fn poll(&mut self) -> Vec<Out> {
        let mut sent = Sent { full: self.full, ..Sent::default() };
        self.engine.poll(self.now, &mut sent);
        self.books.transmitted += sent.frames.len() as u64;
        self.books.refused_by_driver += sent.refused;
        let made = sent.frames.clone();
        self.collect(sent);
        self.out.truncate(self.out.len() - made.len());
        made
    }

    /// All flows are ended. Returns what was sent.
    pub fn shutdown(&mut self) -> Vec<Out> {
        let mut sent = Sent::default();
        while !self.engine.shutdown(16, self.now, &mut sent) {}
        self.books.transmitted += sent.frames.len() as u64;
        let made = sent.frames.clone();
        self.collect(sent);
        self.out.truncate(self.out.len() - made.len());
        made
    }

    /// Time passes, with all that is due in it. Returns what was sent.
    pub fn wait(&mut self, time: Duration) -> Vec<Out> {
        let end = self.now + time;
        let mut all = vec![];
        while let Some(at) = self.engine.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            all.extend(self.poll());
            if self.engine.next_deadline().is_some_and(|again| again <= self.now) {
                self.now += Duration::from_millis(1);
            }
        }
        self.now = self.now.max(end);
        all.extend(self.poll());
        // Questions to neighbours are another matter; they are answered.
        let asked = |o: &Out| o.eth.ethertype == ethertype::ARP || (o.ip().protocol == protocol::ICMPV6);
        if all.iter().any(asked) {
            self.introduce_servers();
        }
        all.retain(|o| !asked(o));
        all
    }

    /// The client's frame, as bytes.
    pub fn client_frame(&self, s: &Seg<'_>) -> Vec<u8> {
        let to = vip(self.v6);
        let segment = Segment {
            link: Link { dst: self.config.ports[0].mac, src: CLIENT_MAC, vlans: Vlans::from_ids(&self.client_vlans) },
            src: (self.client.ip().into(), self.client.port()),
            dst: (to.ip().into(), to.port()),
            seq: Seq(CLIENT_ISN) + s.seq,
            ack: if s.flags.contains(ACK) { self.cookie + s.ack } else { Seq(0) },
            flags: s.flags,
            window: s.window,
            options: s.options,
            payload: s.payload,
        };
        let mut b = vec![0; segment.frame_len()];
        segment.write(&mut b);
        b
    }

    /// The frame of the server that was dialled last.
    pub fn server_frame(&self, s: &Seg<'_>) -> Vec<u8> {
        let port = self.server_port();
        let segment = Segment {
            link: Link {
                dst: self.config.ports[port].mac,
                src: SERVER_MAC,
                vlans: Vlans::from_ids(&self.config.ports[port].vlans),
            },
            src: (self.dialled.ip().into(), self.dialled.port()),
            dst: (self.dialled_from.ip().into(), self.dialled_from.port()),
            seq: Seq(SERVER_ISN) + s.seq,
            ack: if s.flags.contains(ACK) { Seq(CLIENT_ISN) + s.ack } else { Seq(0) },
            flags: s.flags,
            window: s.window,
            options: s.options,
            payload: s.payload,
        };
        let mut b = vec![0; segment.frame_len()];
        segment.write(&mut b);
        b
    }

    /// A segment of the client comes in.
    pub fn client_sends(&mut self, s: Seg<'_>) -> (Vec<Out>, Verdict) {
        let frame = self.client_frame(&s);
        self.hand_in(0, &frame)
    }

    /// A segment of the server that was dialled last comes in.
    pub fn server_sends(&mut self, s: Seg<'_>) -> (Vec<Out>, Verdict) {
        let frame = self.server_frame(&s);
        self.hand_in(self.server_port(), &frame)
    }

    /// SYN and SYN-ACK with these options of the client; returns the answer's.
    pub fn client_syn(&mut self, options: &SynOptions) -> SynOptions {
        let bytes = written(options);
        let (out, v) = self.client_sends(Seg { options: &bytes, flags: SYN, ..Seg::default() });
        assert!(matches!(v, Verdict::Reply(_)), "{v:?}");
        assert_eq!(out[0].tcp().ack, Seq(CLIENT_ISN) + 1);
        out[0].options()
    }

    /// The client's timestamps option at `val`, echoing our SYN-ACK.
    pub fn stamp(&self, val: u32) -> [u8; 12] {
        dispatcher::wire::options::write_timestamps(Timestamps { val, ecr: self.our_clock })
    }

    /// Handshake and first bytes without options; returns the SYN that was sent to a server.
    pub fn dial(&mut self, first: &[u8]) -> Out {
        self.dial_with(&SynOptions { mss: Some(1460), ..SynOptions::default() }, first)
    }

    /// As [`Bench::dial`], the client with these options.
    pub fn dial_with(&mut self, options: &SynOptions, first: &[u8]) -> Out {
        self.client_syn(options);
        let stamp = if options.timestamps.is_some() { self.stamp(5001).to_vec() } else { vec![] };
        let (_, v) = self.client_sends(Seg { options: &stamp, ..seg(ACK, 1, 1, &[]) });
        assert_eq!(v, Verdict::Hold);
        let (out, v) = self.client_sends(Seg { options: &stamp, ..seg(ACK, 1, 1, first) });
        assert_eq!(v, Verdict::Hold);
        assert_eq!(out.len(), 1, "one SYN");
        assert!(out[0].tcp().is_bare_syn());
        out.into_iter().next().unwrap()
    }

    /// A spliced flow whose client has sent `first`, acknowledged by the server; no options but MSS.
    pub fn splice(&mut self, first: &[u8]) {
        self.dial(first);
        let header =
            if self.config.wanted.services[0].policy.proxy_protocol { if self.v6 { 52 } else { 28 } } else { 0 };
        let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        let (out, v) =
            self.server_sends(Seg { options: &mss, window: 60000, ..seg(SYN_ACK, 0, 1u32.wrapping_sub(header), &[]) });
        assert_eq!(v, Verdict::Hold);
        let sent: Vec<u8> = out.iter().flat_map(|o| o.payload().to_vec()).collect();
        assert_eq!(sent[header as usize..], *first);
        let n = first.len() as u32;
        let (out, v) = self.server_sends(Seg { window: 60000, ..seg(ACK, 1, 1 + n, &[]) });
        if header == 0 {
            assert!(matches!(v, Verdict::Forward(_)), "{v:?}");
            assert_eq!(out[0].tcp().ack, Seq(CLIENT_ISN) + 1 + n);
        }
    }

    /// Drops for a reason.
    pub fn dropped(&self, why: DropReason) -> u64 {
        self.engine.counters().dropped(why)
    }

    /// Panics when anything is left of any connection.
    pub fn assert_empty(&self) {
        assert_eq!((self.engine.flows(), self.engine.held_hellos(), self.engine.watched()), (0, 0, 0));
        let directory = self.engine.directory();
        assert!(directory.backends().all(|b| directory.live().connections(b.id) == 0));
    }

    /// Services, pools and backends are from now on as `wanted`.
    ///
    /// # Errors
    /// Why they cannot be. Nothing has changed then.
    pub fn reconfigure(&mut self, wanted: &Wanted) -> Result<(), String> {
        let (_, revision) = next_revision(&self.config, &self.engine, wanted)?;
        self.pairs.extend(revision.directory());
        self.engine.apply(&Arc::new(revision), self.now);
        Ok(())
    }

    /// The address of the only server.
    pub fn server_addr(&self) -> IpAddr {
        server_ip(0, self.v6)
    }

    /// An ICMP error from a stranger that quotes a frame's packet turned round, as if we had sent it: of type 3 (IPv6: of type `kind`)
    /// and this code, `mtu` in its place.
    pub fn error_about(&self, frame: &[u8], kind: u8, mtu: u16) -> Vec<u8> {
        let Ok(p) = Packet::parse(frame) else { return vec![] };
        let mut quote = frame[14..p.ip.end.min(frame.len())].to_vec();
        let (at, n, l4) = if self.v6 { (8, 16, 40) } else { (12, 4, 20) };
        let (x, y) = (quote[at..at + n].to_vec(), quote[at + n..at + 2 * n].to_vec());
        quote[at..at + n].copy_from_slice(&y);
        quote[at + n..at + 2 * n].copy_from_slice(&x);
        quote.swap(l4, l4 + 2);
        quote.swap(l4 + 1, l4 + 3);
        let ack: [u8; 4] = quote[l4 + 8..l4 + 12].try_into().expect("four bytes");
        quote[l4 + 4..l4 + 8].copy_from_slice(&ack);
        quote.truncate(200);
        let [hi, lo] = mtu.to_be_bytes();
        let mac = &self.config.ports[0].mac.0[..];
        if self.v6 {
            let mut message = [&[kind, 0, 0, 0, 0, 0, hi, lo][..], &quote].concat();
            let (from, to) = (Addr::from(client_ip(7, true)), Addr::from(crate::config::ip("fd01::1")));
            let sum = checksum::transport(from.octets(), to.octets(), protocol::ICMPV6, &message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let head = [0x86, 0xdd, 0x60, 0, 0, 0];
            let len = (message.len() as u16).to_be_bytes();
            let rest = [&len[..], &[protocol::ICMPV6, 64], from.octets(), to.octets(), &message].concat();
            return [mac, &STRANGER_MAC.0, &head, &rest].concat();
        }
        let mut message = [&[3, kind, 0, 0, 0, 0, hi, lo][..], &quote].concat();
        let sum = checksum::Sum::default().add_bytes(&message).checksum();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut head = vec![0x45, 0];
        head.extend((20 + message.len() as u16).to_be_bytes());
        head.extend([0, 0, 0, 0, 60, protocol::ICMP, 0, 0, 10, 15, 0, 1, 10, 1, 0, 1]);
        [mac, &STRANGER_MAC.0, &[8, 0], &head, &message].concat()
    }
}
