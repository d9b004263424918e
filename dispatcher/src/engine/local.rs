//! Frames to ourselves: ARP, NDP, echo requests, answers to probes; and what we say of our own accord.

use super::{Conflict, DropReason, Effects, Engine, PortId, Step, Verdict};
use crate::tcp::{Arrived, ControlSegment};
use crate::time::Time;
use crate::wire::build::{Arp, Link, Ndp, Segment, arp_op, ndp_type, solicited_node};
use crate::wire::checksum::transport;
use crate::wire::options::{SynOptions, Timestamps};
use crate::wire::packet::{Ethernet, Flags, Ip, protocol};
use crate::wire::{Addr, Family, Frame, Mac, Seq};

const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
/// Hops that our answers may take.
const HOPS: u8 = 64;

impl Engine {
    /// ARP: questions about our addresses are answered; answers to our questions are heard.
    pub(super) fn on_arp(&mut self, port: PortId, eth: &Ethernet, frame: &mut Frame<'_>, now: Time) -> Step {
        let arp = Arp::parse(&frame.bytes()[eth.payload..]).ok_or(DropReason::Malformed)?;
        if arp.sender_mac.is_group() {
            return Err(DropReason::Malformed);
        }
        self.note_claim(port, arp.sender, arp.sender_mac);
        match arp.op {
            arp_op::REQUEST if self.routes.answers(arp.target, port) => {
                let ours = self.routes.ports[usize::from(port.0)].mac;
                let link = Link { dst: arp.sender_mac, src: ours, vlans: eth.vlans };
                let reply = Arp {
                    op: arp_op::REPLY,
                    sender_mac: ours,
                    sender: arp.target,
                    target_mac: arp.sender_mac,
                    target: arp.sender,
                };
                let n = reply.write(frame.bytes_mut(), &link);
                let cut = frame.set_len(n);
                debug_assert!(cut, "the question was as long");
                Ok(Verdict::Reply(port))
            }
            // An announcement (RFC 5227 section 3): after a failover, perhaps.
            arp_op::REQUEST if arp.sender == arp.target => self.heard(port, arp.sender, arp.sender_mac, now),
            arp_op::REQUEST => Err(DropReason::NotForUs),
            arp_op::REPLY => self.heard(port, arp.sender, arp.sender_mac, now),
            _ => Err(DropReason::Malformed),
        }
    }

    /// Somebody says that `addr` is at `mac`: is it another host, and the address ours?
    fn note_claim(&mut self, port: PortId, addr: Addr, mac: Mac) {
        // What we say ourselves may come back by another port of ours.
        if self.routes.is_ours_alone(addr, port) && !self.routes.ports.iter().any(|p| p.mac == mac) {
            super::conflicts::note(&mut self.conflicts, Conflict { port, ip: addr.ip(), mac });
        }
    }

    fn heard(&mut self, port: PortId, addr: Addr, mac: Mac, now: Time) -> Step {
        if self.neighbours.heard(port, addr, mac, now) { Ok(Verdict::Hold) } else { Err(DropReason::NeighbourUnasked) }
    }

    /// Any ICMP message, of either version.
    pub(super) fn on_icmp(
        &mut self,
        port: PortId,
        eth: &Ethernet,
        ip: &Ip,
        frame: &mut Frame<'_>,
        now: Time,
        fx: &mut dyn Effects,
    ) -> Step {
        let message = &frame.bytes()[ip.payload..ip.end];
        let Some(&[kind, ..]) = message.first_chunk::<8>() else { return Err(DropReason::Truncated) };
        let fits = match (ip.family, ip.protocol) {
            (Family::V4, protocol::ICMP) => crate::wire::checksum::Sum::default().add_bytes(message).checksum() == 0,
            (Family::V6, protocol::ICMPV6) => {
                transport(ip.src.octets(), ip.dst.octets(), protocol::ICMPV6, message) == 0
            }
            _ => return Err(DropReason::Malformed),
        };
        if !fits {
            return Err(DropReason::BadChecksum);
        }
        match (ip.family, kind) {
            (Family::V6, ndp_type::SOLICITATION | ndp_type::ADVERTISEMENT) => self.on_ndp(port, eth, ip, frame, now),
            (Family::V4, ECHO_REQUEST) | (Family::V6, ECHO_REQUEST_V6) => self.on_echo(port, eth, ip, frame),
            _ => self.on_icmp_error(eth, ip, frame, now, fx),
        }
    }

    /// Neighbour discovery. Its hop limit proves that it was not routed here (RFC 4861 section 7.1).
    fn on_ndp(&mut self, port: PortId, eth: &Ethernet, ip: &Ip, frame: &mut Frame<'_>, now: Time) -> Step {
        let ndp = Ndp::parse(&frame.bytes()[ip.payload..ip.end]).ok_or(DropReason::Malformed)?;
        if ip.ttl != 255 {
            return Err(DropReason::Malformed);
        }
        if ndp.kind == ndp_type::ADVERTISEMENT {
            self.note_claim(port, ndp.target, ndp.mac.unwrap_or(eth.src));
            return self.heard(port, ndp.target, ndp.mac.unwrap_or(eth.src), now);
        }
        if !self.routes.answers(ndp.target, port) {
            return Err(DropReason::NotForUs);
        }
        let ours = self.routes.ports[usize::from(port.0)].mac;
        let unspecified = ip.src.ip().is_unspecified();
        let (dst, dst_mac, solicited) = if unspecified {
            // Somebody checks whether the address is in use (RFC 4862): the answer goes to all nodes.
            (ALL_NODES, Mac([0x33, 0x33, 0, 0, 0, 1]), 0)
        } else {
            (ip.src, ndp.mac.unwrap_or(eth.src), 0x40)
        };
        let link = Link { dst: dst_mac, src: ours, vlans: eth.vlans };
        let answer =
            Ndp { kind: ndp_type::ADVERTISEMENT, flags: solicited | 0x20, target: ndp.target, mac: Some(ours) };
        // A solicitation may lack the option that our answer carries.
        if !frame.set_len(link.len() + 40 + 32) {
            return Err(DropReason::NoHeadroom);
        }
        answer.write(frame.bytes_mut(), &link, ndp.target, dst);
        Ok(Verdict::Reply(port))
    }

    /// An echo request to one of our addresses.
    fn on_echo(&mut self, port: PortId, eth: &Ethernet, ip: &Ip, frame: &mut Frame<'_>) -> Step {
        if !self.routes.is_ours(ip.dst) || eth.dst.is_group() {
            return Err(DropReason::NotForUs);
        }
        let cut = frame.set_len(ip.end);
        debug_assert!(cut, "shorter is always possible");
        let b = frame.bytes_mut();
        let ours = self.routes.ports[usize::from(port.0)].mac;
        b[..6].copy_from_slice(&eth.src.0);
        b[6..12].copy_from_slice(&ours.0);
        let (at, n) = match ip.family {
            Family::V4 => (ip.header + 12, 4),
            Family::V6 => (ip.header + 8, 16),
        };
        // The request's own hop count would do only for a way back that is no longer than what was left of it.
        match ip.family {
            Family::V4 => {
                let h = &mut b[ip.header..ip.header + 20];
                let mut sum = crate::wire::checksum::Change::default();
                sum.word(u16::from_be_bytes([h[8], h[9]]), u16::from_be_bytes([HOPS, h[9]]));
                let new = sum.apply(u16::from_be_bytes([h[10], h[11]]));
                h[10..12].copy_from_slice(&new.to_be_bytes());
                h[8] = HOPS;
            }
            Family::V6 => b[ip.header + 7] = HOPS,
        }
        // Swapping the addresses changes no sum.
        b[at..at + n].copy_from_slice(ip.dst.octets());
        b[at + n..at + 2 * n].copy_from_slice(ip.src.octets());
        let p = ip.payload;
        let mut sum = crate::wire::checksum::Change::default();
        let reply = if ip.family == Family::V4 { 0 } else { ECHO_REQUEST_V6 + 1 };
        sum.word(u16::from_be_bytes([b[p], b[p + 1]]), u16::from_be_bytes([reply, b[p + 1]]));
        b[p] = reply;
        let new = sum.apply(u16::from_be_bytes([b[p + 2], b[p + 3]]));
        b[p + 2..p + 4].copy_from_slice(&new.to_be_bytes());
        Ok(Verdict::Reply(port))
    }

    /// A TCP segment to one of our own addresses, of no flow: the answer to a probe, or nothing of ours.
    pub(super) fn on_own_address(&mut self, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        let flags = seg.tcp.flags;
        if crate::path::is_check_port(seg.tcp.dst_port) {
            return self.on_check(seg, frame, fx);
        }
        if flags.contains(Flags::ACK)
            && let Some(id) = self.health.probe_answer(seg.ip.src, seg.tcp.dst_port, seg.tcp.ack)
        {
            if !frame.tcp_is_intact(&seg.ip) {
                return Err(DropReason::BadChecksum);
            }
            let taken = flags.contains(Flags::SYN) && !flags.contains(Flags::RST);
            self.health.probe_answered(id, taken);
            if !taken {
                self.health.refused(id, seg.now);
                return Ok(Verdict::Hold);
            }
            let got = SynOptions::parse(&frame.bytes()[seg.tcp.header + 20..seg.tcp.payload]);
            let ecn = Some(flags.contains(Flags::ECE));
            self.health.heard(id, seg.now);
            self.health.answered(id, &self.probe_options(seg.ip.family, seg.now), &got, ecn, seg.tcp.window);
            return self.answer(seg, &ControlSegment::reset(seg.tcp.ack, None), frame, fx);
        }
        self.refuse(seg, DropReason::NoFlow, frame, fx)
    }

    fn probe_options(&self, family: Family, now: Time) -> SynOptions {
        SynOptions {
            mss: Some(self.routes.mss()[family as usize]),
            wscale: Some(crate::backends::OUR_WSCALE),
            sack_permitted: true,
            timestamps: Some(Timestamps { val: now.as_millis() as u32, ecr: 0 }),
        }
    }

    /// Asks the backends that are due to be asked.
    pub(super) fn probe(&mut self, now: Time, fx: &mut dyn Effects) {
        // One a call is plenty, and bounds the call.
        let Some((id, isn)) = self.health.next_probe(now) else { return };
        let Some(route) = self.routes.backend(id) else { return };
        let (port, Some(link)) = self.neighbours.link(route.hop) else {
            self.neighbours.want(route.hop, now);
            self.health.postpone(id, now);
            return;
        };
        let mut options = [0; 40];
        let n = self.probe_options(route.addr.family(), now).write(&mut options);
        let segment = Segment {
            link,
            src: (route.source, self.health.probe_port(id)),
            dst: (route.addr, route.port),
            seq: isn,
            ack: Seq(0),
            flags: if self.health.probe_asks_ecn(id) {
                Flags::SYN.with(Flags::ECE).with(Flags::CWR)
            } else {
                Flags::SYN
            },
            window: u16::MAX,
            options: &options[..n],
            payload: &[],
        };
        if !self.emit_by(route.hop, (port, &link), &segment, fx) {
            self.health.unsent(id, now);
        }
    }

    /// Says once of each address of ours, at start or when it comes, that it is here: switches and routers that remember another place learn.
    /// Before that it is asked whether another host has it, once; who answers is told of, and not waited for.
    pub(super) fn announce(&mut self, fx: &mut dyn Effects) {
        let addresses = self.unfinished.next_addresses();
        if addresses.is_empty() {
            return;
        }
        for (port, addr) in &addresses {
            if self.routes.is_ours_alone(*addr, *port) {
                self.ask_whether_taken(*port, *addr, fx);
            }
        }
        for (port, addr) in addresses {
            let mac = self.routes.ports[usize::from(port.0)].mac;
            let vlans = self.routes.ports[usize::from(port.0)].vlans;
            let n = match addr.family() {
                Family::V4 => {
                    let link = Link { dst: Mac::BROADCAST, src: mac, vlans };
                    let arp = Arp {
                        op: arp_op::REQUEST,
                        sender_mac: mac,
                        sender: addr,
                        target_mac: Mac::default(),
                        target: addr,
                    };
                    arp.write(&mut self.scratch, &link)
                }
                Family::V6 => {
                    let link = Link { dst: Mac([0x33, 0x33, 0, 0, 0, 1]), src: mac, vlans };
                    let ndp = Ndp { kind: ndp_type::ADVERTISEMENT, flags: 0x20, target: addr, mac: Some(mac) };
                    ndp.write(&mut self.scratch, &link, addr, ALL_NODES)
                }
            };
            self.hand_out(port, n, fx);
        }
    }
}

impl Engine {
    /// Asks in nobody's name, so that no cache is changed: an ARP probe (RFC 5227 section 2.1.1), or a solicitation as for duplicate
    /// address detection (RFC 4862 section 5.4.2).
    fn ask_whether_taken(&mut self, port: PortId, addr: Addr, fx: &mut dyn Effects) {
        let src = self.routes.ports[usize::from(port.0)].mac;
        let vlans = self.routes.ports[usize::from(port.0)].vlans;
        let n = match addr.family() {
            Family::V4 => {
                let (sender, target_mac) = (Addr::v4([0; 4]), Mac::default());
                let arp = Arp { op: arp_op::REQUEST, sender_mac: src, sender, target_mac, target: addr };
                arp.write(&mut self.scratch, &Link { dst: Mac::BROADCAST, src, vlans })
            }
            Family::V6 => {
                let (group, dst) = solicited_node(addr);
                let ndp = Ndp { kind: ndp_type::SOLICITATION, flags: 0, target: addr, mac: None };
                ndp.write(&mut self.scratch, &Link { dst, src, vlans }, Addr::default(), group)
            }
        };
        self.hand_out(port, n, fx);
    }
}

const ALL_NODES: Addr = Addr([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
