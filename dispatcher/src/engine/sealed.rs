//! Packets that are sealed as the last thing before they leave. Keys, clocks and random numbers of tunnels are of whoever drives the engine ([`Effects::seal`],
//! [`Effects::unseal`]); here is what stands around a message.

use super::wrapped::ethertype_of;
use super::{Effects, Engine, Step, Verdict};
use crate::config::PortId;
use crate::counters::DropReason;
use crate::path::tunnel::{Wrap, sealed_port};
use crate::wire::Frame;
use crate::wire::build::Link;

/// What became of a packet that was to be sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sealed {
    /// A message of so many bytes.
    Message(usize),
    /// It waits until the tunnel is up, and comes back as a message then ([`Engine::carry_message`]).
    Kept,
    /// It is lost.
    Lost(DropReason),
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsealed {
    /// An IP packet of so many bytes was in it.
    Packet(usize),
    /// It is answered by a message of so many bytes.
    Answer(usize),
    /// The same, and there was nothing else to it: it counts as lost.
    Refused(usize, DropReason),
    /// It was for the tunnel itself.
    Taken,
    /// It is lost.
    Lost(DropReason),
}

/// A packet on its way, behind the link header that a plain one would have.
pub(super) enum Source<'a> {
    /// So many bytes of the scratch buffer.
    Scratch(usize),
    /// This frame.
    Frame(&'a [u8]),
}

impl Engine {
    /// Seals a packet and hands it out. False when it is lost, which is counted.
    pub(super) fn seal_and_hand_out(
        &mut self,
        (port, link, wrap): (PortId, &Link, &Wrap),
        source: Source<'_>,
        fx: &mut dyn Effects,
    ) -> bool {
        let Some(end) = wrap.seals() else { return false };
        let at = link.len();
        let packet = match source {
            Source::Scratch(n) => &self.scratch[at..n],
            Source::Frame(frame) => &frame[at..],
        };
        let ecn = ecn_of(packet);
        let begin = at + wrap.message_at();
        match fx.seal(end, packet, &mut self.sealed[begin..]) {
            Sealed::Message(n) => self.hand_out_message((port, link, wrap), n, ecn, fx),
            Sealed::Kept => true,
            Sealed::Lost(why) => {
                self.count(why);
                false
            }
        }
    }

    /// Writes what goes in front of a message of `n` bytes, which lies at its place in the buffer, and hands it out.
    pub(super) fn hand_out_message(
        &mut self,
        (port, link, wrap): (PortId, &Link, &Wrap),
        n: usize,
        ecn: u8,
        fx: &mut dyn Effects,
    ) -> bool {
        let at = link.write(&mut self.sealed, ethertype_of(wrap.family()));
        let end = at + wrap.message_at() + n;
        wrap.write_around(&mut self.sealed[at..end], sealed_port(self.worker), ecn);
        let sent = fx.transmit(port, &self.sealed[..end]);
        self.note_made(sent);
        sent
    }

    /// Seals a translated frame, and says where it goes: in its own buffer, or, where that has no room for what is longer, as a frame of ours.
    pub(super) fn pass_sealed(
        &mut self,
        (port, link, wrap): (PortId, &Link, &Wrap),
        frame: &mut Frame<'_>,
        fx: &mut dyn Effects,
    ) -> Step {
        let Some(end) = wrap.seals() else { return Err(DropReason::NotForUs) };
        let at = link.len();
        let packet = &frame.bytes()[at..];
        let (len, ecn, begin) = (packet.len(), ecn_of(packet), at + wrap.message_at());
        let n = match fx.seal(end, packet, &mut self.sealed[begin..]) {
            Sealed::Message(n) => n,
            Sealed::Kept => return Ok(Verdict::Hold),
            Sealed::Lost(why) => return Err(why),
        };
        if !frame.push_front(begin + n - at - len) {
            self.hand_out_message((port, link, wrap), n, ecn, fx);
            return Ok(Verdict::Hold);
        }
        let bytes = frame.bytes_mut();
        bytes[begin..].copy_from_slice(&self.sealed[begin..begin + n]);
        link.write(bytes, ethertype_of(wrap.family()));
        wrap.write_around(&mut bytes[at..], sealed_port(self.worker), ecn);
        self.counters.forwarded += 1;
        Ok(Verdict::Forward(port))
    }
}

/// The congestion bits of an IP packet: they go outside, too (RFC 6040 section 4.1), and nothing else of its class does.
fn ecn_of(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 6 => second >> 4 & 3,
        [_, second, ..] => second & 3,
        _ => 0,
    }
}
