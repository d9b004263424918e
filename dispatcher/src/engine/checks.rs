//! What passes through here of checks, which somebody else makes for all workers: their packets, and what they come to.

use super::{DropReason, Effects, Engine, Step, Verdict};
use crate::backends::{Checked, Hints};
use crate::tcp::Arrived;
use crate::time::Time;
use crate::wire::Frame;
use crate::wire::build::Link;
use crate::wire::packet::ethertype;
use lb::{BackendId, KeyName};

impl Engine {
    /// Sends an IP packet to a backend, as a connection's would be sent. False when it cannot be, and is lost: its sender repeats it.
    pub fn carry(
        &mut self,
        backend: BackendId,
        generation: u32,
        packet: &[u8],
        now: Time,
        fx: &mut dyn Effects,
    ) -> bool {
        if !self.holds(backend, generation) {
            return false;
        }
        let Some(route) = self.routes.backend(backend) else { return false };
        let Some((port, link)) = self.link_to(route.hop, now) else { return false };
        let kind = if packet.first().is_some_and(|b| b >> 4 == 6) { ethertype::IPV6 } else { ethertype::IPV4 };
        let n = link.len() + packet.len();
        if n > self.scratch.len() {
            return false;
        }
        let head = Link::write(&link, &mut self.scratch, kind);
        self.scratch[head..n].copy_from_slice(packet);
        self.hand_out_by(route.hop, (port, &link), n, fx)
    }

    /// Something has come to one of the ports that checks come from.
    pub(super) fn on_check(&mut self, seg: &Arrived, frame: &mut Frame<'_>, fx: &mut dyn Effects) -> Step {
        if !frame.tcp_is_intact(&seg.ip) {
            return Err(DropReason::BadChecksum);
        }
        match fx.check_arrived(&frame.bytes()[seg.ip.header..seg.ip.end]) {
            Some(true) => Ok(Verdict::Hold),
            Some(false) => Err(DropReason::CheckQueueFull),
            // Nobody makes any.
            None => self.refuse(seg, DropReason::NoFlow, frame, fx),
        }
    }

    /// What the checks of a backend have come to, and whether the names of its ticket keys are known; `None` as long as nobody has looked: then what
    /// an earlier process knew holds.
    pub fn observe(&mut self, backend: BackendId, generation: u32, checked: Checked, named: Option<bool>) {
        if self.holds(backend, generation) {
            self.health.checked(backend, checked);
            named.into_iter().for_each(|named| self.affinity.explain(backend, named));
        }
    }

    /// A check was given tickets with this key name by a backend.
    pub fn key_shown(&mut self, backend: BackendId, generation: u32, name: &KeyName, now: Time) {
        if self.holds(backend, generation) {
            self.affinity.shown(backend, name, super::share::session_time(now));
        }
    }

    /// What connections have shown since this was asked last.
    #[inline]
    pub fn take_hints(&mut self) -> Option<Hints> {
        self.noticed.take()
    }

    fn holds(&self, backend: BackendId, generation: u32) -> bool {
        self.directory.backend(backend).is_some_and(|b| b.generation == generation && !b.leaving)
    }
}
