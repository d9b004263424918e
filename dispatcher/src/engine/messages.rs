//! Messages of tunnels whose packets are sealed: those that arrive are opened, or answered; those of tunnels' own are sent. And what follows from a tunnel that
//! is lost.

use super::sealed::Unsealed;
use super::wrapped::ethertype_of;
use super::{Effects, Engine};
use crate::config::PortId;
use crate::counters::DropReason;
use crate::path::tunnel::{End, Message, Opened};
use crate::time::Time;
use crate::wire::Frame;
use crate::wire::build::Link;
use crate::wire::packet::Ethernet;

impl Engine {
    /// Sends a message of a tunnel's own making, or one in which a packet was sealed that had to wait. False when it is not sent: the other end's next hop is not
    /// known yet, or the port has no room, or nobody is reached by that tunnel any more.
    pub fn carry_message(&mut self, end: End, message: &[u8], now: Time, fx: &mut dyn Effects) -> bool {
        let Some(hop) = self.routes.hop_to_end(end, &self.neighbours) else { return false };
        let Some((port, link)) = self.link_to(hop, now) else { return false };
        let Some(wrap) = self.neighbours.wrap(hop).copied() else { return false };
        let begin = link.len() + wrap.message_at();
        let Some(room) = self.sealed.get_mut(begin..begin + message.len()) else { return false };
        room.copy_from_slice(message);
        self.hand_out_message((port, &link, &wrap), message.len(), 0, fx)
    }

    /// The tunnel that ends there has come up, or was lost: with it the backends behind it. `lost` packets waited for it in vain.
    pub fn tunnel_changed(&mut self, end: End, up: bool, lost: u64, now: Time) {
        self.counters.made += lost;
        self.counters.drops[DropReason::TunnelNotUp as usize] += lost;
        let behind = |b: &&lb::Backend| b.tunnel.is_some_and(|t| t.seals().is_some() && End::from(t.endpoint) == end);
        let directory = self.directory.clone();
        for backend in directory.backends().filter(behind) {
            self.health.tunnel_changed(backend.id, up, now);
        }
    }

    /// Opens a message in place. None: there was no packet in it, and it has been dealt with. Else the frame is that packet, behind the same link header.
    pub(super) fn unseal(
        &mut self,
        port: PortId,
        (message, eth): (&Message, &Ethernet),
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Result<Option<Opened>, DropReason> {
        if message.worker != self.worker {
            return Err(DropReason::TunnelUnknown);
        }
        // Several messages in one unit: no card is asked for that.
        if frame.offload().segment() != 0 || message.end - message.at > self.sealed.len() {
            return Err(DropReason::TunnelMalformed);
        }
        let n = match fx.unseal(message.from, &frame.bytes()[message.at..message.end], &mut self.sealed) {
            Unsealed::Packet(n) => n,
            Unsealed::Answer(n) => {
                self.answer_message(port, message.from, eth, n, fx);
                return Ok(None);
            }
            Unsealed::Refused(n, why) => {
                self.answer_message(port, message.from, eth, n, fx);
                return Err(why);
            }
            Unsealed::Taken => return Ok(None),
            Unsealed::Lost(why) => return Err(why),
        };
        let link = Link { dst: eth.dst, src: eth.src, vlans: eth.vlans };
        let at = link.len();
        let opened = message.opened(&self.sealed[..n], at)?;
        // It is shorter than what it was sealed in.
        frame.pull_front(message.at - at);
        if !frame.set_len(at + n) {
            return Err(DropReason::TunnelMalformed);
        }
        link.write(frame.bytes_mut(), ethertype_of(opened.family));
        frame.bytes_mut()[at..].copy_from_slice(&self.sealed[..n]);
        // Whatever was left to do of the outer one: what was sealed is whole.
        frame.is_whole_now();
        Ok(Some(opened))
    }

    /// Sends the message of `n` bytes that begins the buffer to where one has just come from.
    fn answer_message(&mut self, port: PortId, end: End, eth: &Ethernet, n: usize, fx: &mut dyn Effects) {
        let Some(hop) = self.routes.hop_to_end(end, &self.neighbours) else { return };
        let Some(wrap) = self.neighbours.wrap(hop).copied() else { return };
        // By the way that it came: its next hop may not be known yet.
        let link = Link { dst: eth.src, src: self.mac(port), vlans: eth.vlans };
        let begin = link.len() + wrap.message_at();
        if begin + n > self.sealed.len() {
            return self.count(DropReason::TxFull);
        }
        self.sealed.copy_within(..n, begin);
        self.hand_out_message((port, &link, &wrap), n, 0, fx);
    }
}
