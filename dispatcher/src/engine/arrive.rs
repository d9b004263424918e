//! What has arrived: a segment, which climbs the ladder; something about neighbours or an error; or a packet within another, which is opened, and what was in it
//! treated as if it had come plainly.

use super::wrapped::ethertype_of;
use super::{Effects, Engine, Step, Verdict};
use crate::config::PortId;
use crate::counters::DropReason;
use crate::flow::quote::is_error;
use crate::path::tunnel::Found;
use crate::tcp::Arrived;
use crate::time::Time;
use crate::wire::Frame;
use crate::wire::build::Link;
use crate::wire::packet::{Body, Ethernet, Packet, Parsed, ethertype};

impl Engine {
    /// One frame, its headers read.
    pub(super) fn climb(
        &mut self,
        port: PortId,
        headers: &Parsed,
        frame: &mut Frame<'_>,
        now: Time,
        fx: &mut dyn Effects,
    ) -> Step {
        let eth = &headers.eth;
        if eth.dst != self.mac(port) && !eth.dst.is_group() {
            return Err(DropReason::NotForUs);
        }
        // Nobody sends from a group's address (IEEE 802.3 section 3.2.3), and it would be where we answer to.
        if eth.src.is_group() {
            return Err(DropReason::Malformed);
        }
        match headers.body? {
            // TCP is between two (RFC 9293 section 3.9.2.3): what all hear is a mistake or an attack.
            Body::Tcp(..) if eth.dst.is_group() => Err(DropReason::Malformed),
            Body::Tcp(ip, tcp) => {
                let seg = Arrived { port, eth: *eth, ip, tcp, now, wrapped: false };
                self.on_segment(&seg, frame, fx)
            }
            Body::Icmp(ip) => self.on_icmp(port, eth, &ip, frame, now, fx),
            Body::Arp => self.on_arp(port, eth, frame, now),
            Body::Other => self.on_other(port, eth, frame, now, fx),
        }
    }

    /// A frame whose IP packet carries neither TCP nor ICMP: perhaps there is a packet in it that does.
    #[cold]
    pub(super) fn on_other(
        &mut self,
        port: PortId,
        eth: &Ethernet,
        frame: &mut Frame<'_>,
        now: Time,
        fx: &mut dyn Effects,
    ) -> Step {
        let tunnels = self.routes.revision.tunnels();
        if tunnels.is_empty() || eth.dst.is_group() || !matches!(eth.ethertype, ethertype::IPV4 | ethertype::IPV6) {
            return Err(DropReason::NotForUs);
        }
        let outer = Packet::parse(frame.bytes())?.ip;
        if !self.routes.is_ours(outer.dst) {
            return Err(DropReason::NotForUs);
        }
        let opened = match tunnels.open(frame.bytes(), eth)?.ok_or(DropReason::NotForUs)? {
            Found::Packet(opened) => {
                // What follows the outer packet is padding.
                let cut = frame.set_len(outer.end);
                debug_assert!(cut, "shorter is always possible");
                frame.pull_front(opened.at - eth.payload);
                let kind = ethertype_of(opened.family);
                Link { dst: eth.dst, src: eth.src, vlans: eth.vlans }.write(frame.bytes_mut(), kind);
                opened
            }
            Found::Sealed(message) => match self.unseal(port, (&message, eth), frame, fx)? {
                Some(opened) => opened,
                None => return Ok(Verdict::Hold),
            },
        };
        let at = eth.payload;
        // A card that has checked something has checked the outer packet.
        frame.doubt();
        frame.was_within();
        let Parsed { eth, body } = Parsed::read(frame.bytes())?;
        let body = body?;
        let ip = match &body {
            Body::Tcp(ip, _) | Body::Icmp(ip) => *ip,
            Body::Arp | Body::Other => return Err(DropReason::NotForUs),
        };
        self.routes.revision.tunnels().check(&opened, ip.src)?;
        opened.pass_congestion(frame.bytes_mut(), at)?;
        match body {
            Body::Tcp(ip, tcp) => {
                let seg = Arrived { port, eth, ip, tcp, now, wrapped: true };
                self.on_segment(&seg, frame, fx)
            }
            // Whoever asks for an echo would have to be answered through the tunnel.
            Body::Icmp(ip) if is_error(ip.family, frame.bytes()[ip.payload]) => {
                self.on_icmp(port, &eth, &ip, frame, now, fx)
            }
            _ => Err(DropReason::NotForUs),
        }
    }
}
