//! ICMP errors about a flow of ours: translated and passed on to the side whose packet they are about, so that path-MTU
//! discovery works through us; and heard, when they are about a backend that is being dialled.
//!
//! One is not passed on: that a client's path is narrow, when servers know all clients by one address of ours (`snat`). It is
//! remembered with the flow, whose segments are cut to fit ([`split`](crate::path::split)).

use super::send::relink;
use super::wrapped::wrap_frame;
use super::{Effects, Engine, Step, Verdict};
use crate::config::AddressMode;
use crate::counters::DropReason;
use crate::flow::quote::{Quote, is_error};
use crate::flow::{Endpoints, FlowId, Side};
use crate::tcp::connection::{Opening, Stage, State};
use crate::tcp::icmp::{complain, path_mtu, unreachable};
use crate::time::Time;
use crate::wire::checksum::{Change, Sum, transport};
use crate::wire::packet::{Ethernet, Ip, protocol};
use crate::wire::{Family, Frame};

impl Engine {
    pub(super) fn on_icmp_error(
        &mut self,
        eth: &Ethernet,
        ip: &Ip,
        frame: &mut Frame<'_>,
        now: Time,
        fx: &mut dyn Effects,
    ) -> Step {
        let [kind, code] = [frame.bytes()[ip.payload], frame.bytes()[ip.payload + 1]];
        if !is_error(ip.family, kind) || eth.dst.is_group() {
            return Err(DropReason::NotForUs);
        }
        let quote = Quote::read(frame.bytes(), ip).ok_or(DropReason::Truncated)?;
        // The quoted packet went out from us; turned round it is what arrives from the side that complains.
        let (id, side) = self.flows.lookup(&quote.key.reversed()).ok_or(DropReason::IcmpNoFlow)?;
        let c = self.flows.get(id);
        match (&c.state, side) {
            (State::Opening(Opening { stage: Stage::Dialing(_), .. }), Side::Server) => {
                if let Some(backend) = unreachable(c, ip, [kind, code], quote.seq)? {
                    self.health.doubt(backend, now);
                }
                self.redispatch(id, now, fx);
                self.refresh(id);
                Ok(Verdict::Hold)
            }
            (State::Spliced(_), _) => {
                let step = self.pass_error_on((id, side), eth, ip, &quote, frame, fx);
                self.refresh(id);
                step
            }
            _ => Err(DropReason::IcmpNoFlow),
        }
    }

    /// `side` complains about a packet that came from the other side; that one must hear it, about its own packet.
    fn pass_error_on(
        &mut self,
        (id, side): (FlowId, Side),
        eth: &Ethernet,
        ip: &Ip,
        quote: &Quote,
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        let sender = side.other();
        // Addresses of the sender's own packet as it arrived here.
        let Some(arrived) = self.flows.key(id, sender) else { return Err(DropReason::NoFlow) };
        let for_all = sender == Side::Server && self.config.address_mode == AddressMode::Snat;
        let mtu = path_mtu(frame.bytes(), ip);
        let (hot, c) = self.flows.both(id);
        let (client, hop) = (hot.client, c.hop(hot));
        let Some(complaint) = complain(hot, c, sender, quote.seq, mtu, ip.family, for_all)? else {
            return Ok(Verdict::Hold);
        };
        if let Some(mtu) = complaint.mtu {
            write_mtu(frame.bytes_mut(), ip, mtu);
        }
        let (port, link) = match sender {
            Side::Client => (client.port(), Some(client.link(self.mac(client.port())))),
            Side::Server => self.neighbours.link(hop.ok_or(DropReason::NoFlow)?),
        };
        let wrap = hop.filter(|_| sender == Side::Server).and_then(|hop| self.neighbours.wrap(hop).copied());
        let link = link.ok_or(DropReason::NoNeighbour)?;
        let cut = frame.set_len(ip.end);
        debug_assert!(cut, "shorter is always possible");
        let b = frame.bytes_mut();
        quote.rewrite(b, ip, &arrived, complaint.seq, complaint.acks);
        // The error itself goes to the sender, from whoever complained.
        let to = Endpoints { src: (ip.src, 0), dst: (arrived.src, 0) };
        crate::flow::splice::rewrite_addresses(b, ip, &to, &mut Change::default());
        let message = ip.payload..ip.end;
        b[ip.payload + 2..ip.payload + 4].fill(0);
        let sum = match ip.family {
            Family::V4 => Sum::default().add_bytes(&b[message]).checksum(),
            Family::V6 => transport(ip.src.octets(), arrived.src.octets(), protocol::ICMPV6, &b[message]),
        };
        b[ip.payload + 2..ip.payload + 4].copy_from_slice(&sum.to_be_bytes());
        relink(frame, eth.payload, ip.family, &link)?;
        if let Some(wrap) = wrap {
            frame.is_whole_now();
            if wrap.seals().is_some() {
                return self.pass_sealed((port, &link, &wrap), frame, fx);
            }
            wrap_frame(&wrap, &link, frame)?;
        }
        self.counters.forwarded += 1;
        Ok(Verdict::Forward(port))
    }
}

/// Writes an MTU into an error "packet too big". Its checksum is made anew later.
fn write_mtu(b: &mut [u8], ip: &Ip, mtu: u16) {
    let at = ip.payload + 4;
    if ip.family == Family::V6 {
        b[at..at + 2].fill(0);
    }
    b[at + 2..at + 4].copy_from_slice(&mtu.to_be_bytes());
}
