//! The next hops we send to, and their Ethernet addresses: asked for by ARP (RFC 826) or neighbour discovery (RFC 4861).
//!
//! Only the next hops of backends have an entry, for as long as one of these is here, so nobody can fill this table. What we are told unasked is
//! not believed: a known address is confirmed by its holder, asked directly, and only when that stays silent is the whole
//! link asked and the first answer taken. Clients need no entry; they are answered where their frames come from.

use crate::config::PortId;
use crate::pack::{Pack, Packer, Unpacker, Unreadable};
use crate::path::tunnel::Wrap;
use crate::time::Time;
use crate::wire::build::{Arp, Link, Ndp, arp_op, ndp_type, solicited_node};
use crate::wire::packet::Vlans;
use crate::wire::{Addr, Family, Mac};
use core::time::Duration;

/// Index of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop(pub u16);

/// How long an answer is good for before its holder is asked again.
const CONFIRM: Duration = Duration::from_secs(30);
/// Between questions that stay unanswered.
const RETRY: Duration = Duration::from_secs(1);
/// The first questions, while nothing is known, come faster: traffic waits for the answer.
const EAGER: Duration = Duration::from_millis(50);
const EAGER_TRIES: u32 = 8;
/// Unanswered questions to a known holder before the whole link is asked.
const DIRECT_TRIES: u32 = 2;
/// Unanswered questions in all before a known address is given up.
const GIVE_UP: u32 = 5;

#[derive(Debug)]
struct Entry {
    /// Backends that are reached by it; none: the place is free.
    users: u16,
    port: PortId,
    addr: Addr,
    /// The address of ours that asks.
    source: Addr,
    vlans: Vlans,
    /// What is written in front of packets that go by it.
    wrap: Option<Wrap>,
    /// Neither tags nor that.
    plain: bool,
    our_mac: Mac,
    mac: Option<Mac>,
    /// Questions since the last answer.
    asked: u32,
    due: Time,
}

impl Entry {
    /// The whole link is being asked, so any answer is as good as another.
    fn open_question(&self) -> bool {
        self.mac.is_none() || self.asked > DIRECT_TRIES
    }
}

/// All next hops.
#[derive(Debug)]
pub struct Neighbours {
    entries: Vec<Entry>,
    due: Time,
}

impl Default for Neighbours {
    fn default() -> Neighbours {
        Neighbours { entries: Vec::new(), due: Time::MAX }
    }
}

impl Neighbours {
    /// The next hop at `addr` behind `port`, made if there is none yet; it stays until each [`Neighbours::add`] has had its
    /// [`Neighbours::release`]. `source` is our address that asks for it. With `wrap` packets go to it wrapped.
    pub fn add(
        &mut self,
        port: PortId,
        our_mac: Mac,
        vlans: Vlans,
        (addr, source): (Addr, Addr),
        wrap: Option<Wrap>,
    ) -> NextHop {
        let same = |e: &Entry| e.users > 0 && e.port == port && e.addr == addr && e.wrap == wrap;
        if let Some(i) = self.entries.iter().position(same) {
            self.entries[i].users += 1;
            return NextHop(i as u16);
        }
        let plain = vlans.is_empty() && wrap.is_none();
        let (mac, asked, due) = (None, 0, Time::ZERO);
        let entry = Entry { users: 1, port, addr, source, vlans, wrap, plain, our_mac, mac, asked, due };
        self.due = Time::ZERO;
        match self.entries.iter().position(|e| e.users == 0) {
            Some(i) => {
                self.entries[i] = entry;
                NextHop(i as u16)
            }
            None => {
                self.entries.push(entry);
                NextHop((self.entries.len() - 1) as u16)
            }
        }
    }

    /// A backend is reached by this next hop no longer. Of the last one: no flow may have it any more.
    pub fn release(&mut self, hop: NextHop) {
        let e = &mut self.entries[usize::from(hop.0)];
        debug_assert!(e.users > 0, "{hop:?} is nobody's");
        e.users = e.users.saturating_sub(1);
        if e.users == 0 {
            (e.mac, e.due) = (None, Time::MAX);
        }
    }

    /// Out of which port, and with what link layer, frames go to a next hop; none while its address is not known.
    #[inline]
    pub fn link(&self, hop: NextHop) -> (PortId, Option<Link>) {
        let e = &self.entries[usize::from(hop.0)];
        (e.port, e.mac.map(|dst| Link { dst, src: e.our_mac, vlans: e.vlans }))
    }

    /// The same for a next hop whose address is known, and that frames go to without tags and not wrapped: its port and address.
    #[inline(always)]
    pub fn untagged(&self, hop: NextHop) -> Option<(PortId, Mac)> {
        let e = &self.entries[usize::from(hop.0)];
        e.mac.filter(|_| e.plain).map(|mac| (e.port, mac))
    }

    /// Something is written in front of packets to it.
    #[inline]
    pub fn wraps(&self, hop: NextHop) -> bool {
        self.entries[usize::from(hop.0)].wrap.is_some()
    }

    /// What that is.
    #[inline]
    pub fn wrap(&self, hop: NextHop) -> Option<&Wrap> {
        self.entries[usize::from(hop.0)].wrap.as_ref()
    }

    /// Somebody needs this next hop and does not have it: ask soon.
    pub fn want(&mut self, hop: NextHop, now: Time) {
        let e = &mut self.entries[usize::from(hop.0)];
        if e.mac.is_none() && e.due > now + EAGER {
            e.due = now + EAGER;
            self.due = self.due.min(e.due);
        }
    }

    /// When [`Neighbours::next_question`] has one.
    pub fn due(&self) -> Option<Time> {
        (self.due != Time::MAX).then_some(self.due)
    }

    /// The next question that is due, written into `buf` (at least 128 bytes): the port it goes out of, and its length. Call until none is left,
    /// or as often as is bearable at once.
    pub fn next_question(&mut self, now: Time, buf: &mut [u8]) -> Option<(PortId, usize)> {
        if now < self.due {
            return None;
        }
        let mut asked = None;
        self.due = Time::MAX;
        for e in self.entries.iter_mut().filter(|e| e.users > 0) {
            if e.due <= now && asked.is_none() {
                asked = Some((e.port, question(e, buf)));
                e.asked += 1;
                if e.asked > GIVE_UP {
                    e.mac = None;
                }
                e.due = now + if e.mac.is_none() && e.asked <= EAGER_TRIES { EAGER } else { RETRY };
            }
            self.due = self.due.min(e.due);
        }
        asked
    }

    /// Somebody at `port` says that `addr` is at `mac`. True when it concerns a next hop of ours and fits what we asked.
    pub fn heard(&mut self, port: PortId, addr: Addr, mac: Mac, now: Time) -> bool {
        if mac.is_group() || mac == Mac::default() {
            return false;
        }
        // One neighbour may be the next hop of several tunnels, and of what goes plainly.
        let mut fits = false;
        for e in self.entries.iter_mut().filter(|e| e.users > 0 && e.port == port && e.addr == addr) {
            if e.mac == Some(mac) || (e.asked > 0 && e.open_question()) {
                e.mac = Some(mac);
                e.asked = 0;
                e.due = now + CONFIRM;
                fits = true;
            } else if e.asked == 0 {
                // Perhaps it has moved (a failover announces itself): let the old holder confirm, now. But once asked it must have
                // time to answer, or who claims often enough would make its silence.
                e.due = e.due.min(now);
                self.due = self.due.min(e.due);
            }
        }
        fits
    }
}

/// Writes the question for a next hop: to its last known holder, or to the whole link.
fn question(e: &Entry, buf: &mut [u8]) -> usize {
    let direct = if e.open_question() { None } else { e.mac };
    match e.addr.family() {
        Family::V4 => {
            let link = Link { dst: direct.unwrap_or(Mac::BROADCAST), src: e.our_mac, vlans: e.vlans };
            let arp = Arp {
                op: arp_op::REQUEST,
                sender_mac: e.our_mac,
                sender: e.source,
                target_mac: Mac::default(),
                target: e.addr,
            };
            arp.write(buf, &link)
        }
        Family::V6 => {
            let (group, group_mac) = solicited_node(e.addr);
            let link = Link { dst: direct.unwrap_or(group_mac), src: e.our_mac, vlans: e.vlans };
            let dst = if direct.is_some() { e.addr } else { group };
            let ndp = Ndp { kind: ndp_type::SOLICITATION, flags: 0, target: e.addr, mac: Some(e.our_mac) };
            ndp.write(buf, &link, e.source, dst)
        }
    }
}

impl Neighbours {
    /// Writes which next hops are known, for another process.
    pub fn pack(&self, to: &mut Packer) {
        let known = || self.entries.iter().filter(|e| e.users > 0 && e.mac.is_some());
        (known().count() as u32).pack(to);
        for e in known() {
            (e.port, e.addr).pack(to);
            (e.mac, e.due).pack(to);
        }
    }

    /// Takes over what another process knew of those that are here.
    pub fn take_over(&mut self, from: &mut Unpacker<'_>) -> Result<(), Unreadable> {
        for _ in 0..u32::unpack(from)? {
            let (port, addr) = <(PortId, Addr)>::unpack(from)?;
            let (mac, due) = <(Option<Mac>, Time)>::unpack(from)?;
            for e in self.entries.iter_mut().filter(|e| e.users > 0 && e.port == port && e.addr == addr) {
                (e.mac, e.asked, e.due) = (mac, 0, due);
            }
        }
        self.due = self.entries.iter().filter(|e| e.users > 0).map(|e| e.due).min().unwrap_or(Time::MAX);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Sent(Vec<Vec<u8>>);

    impl Neighbours {
        /// Asks all that is due.
        fn poll(&mut self, now: Time, sent: &mut Sent) {
            let mut buf = [0; 128];
            while let Some((_, n)) = self.next_question(now, &mut buf) {
                sent.0.push(buf[..n].to_vec());
            }
        }
    }

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const HOLDER: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const THIEF: Mac = Mac([2, 0, 0, 0, 0, 3]);

    fn table() -> (Neighbours, NextHop, Addr) {
        let addr = Addr::v4([10, 0, 0, 9]);
        let mut n = Neighbours::default();
        let hop = n.add(PortId(1), OURS, Vlans::NONE, (addr, Addr::v4([10, 0, 0, 1])), None);
        assert_eq!(n.add(PortId(1), OURS, Vlans::NONE, (addr, Addr::v4([10, 0, 0, 1])), None), hop);
        (n, hop, addr)
    }

    #[test]
    fn an_answer_is_taken_only_when_asked_for_and_from_its_port() {
        let (mut n, hop, addr) = table();
        let mut fx = Sent::default();
        assert!(!n.heard(PortId(1), addr, THIEF, Time::ZERO), "nothing asked yet");
        n.poll(Time::ZERO, &mut fx);
        assert_eq!(fx.0[0][..6], [0xff; 6]);
        assert!(!n.heard(PortId(0), addr, THIEF, Time::ZERO));
        assert!(n.heard(PortId(1), addr, HOLDER, Time::ZERO));
        assert_eq!(n.link(hop).1.unwrap().dst, HOLDER);
    }

    #[test]
    fn a_next_hop_stays_for_as_long_as_a_backend_is_reached_by_it_and_its_place_is_given_to_another() {
        let (mut n, hop, addr) = table();
        let mut fx = Sent::default();
        n.poll(Time::ZERO, &mut fx);
        assert!(n.heard(PortId(1), addr, HOLDER, Time::ZERO));
        n.release(hop);
        assert!(n.link(hop).1.is_some(), "the other backend is there");
        n.release(hop);
        n.poll(Time::ZERO + CONFIRM, &mut fx);
        assert!(n.link(hop).1.is_none() && n.due().is_none() && fx.0.len() == 1, "nothing is asked any more");
        assert!(!n.heard(PortId(1), addr, HOLDER, Time::ZERO));
        let other = Addr::v4([10, 0, 0, 8]);
        assert_eq!(n.add(PortId(0), OURS, Vlans::NONE, (other, Addr::v4([10, 0, 0, 1])), None), hop);
        n.poll(Time::from_millis(1), &mut fx);
        assert!(!n.heard(PortId(1), addr, HOLDER, Time::from_millis(1)));
        assert!(n.heard(PortId(0), other, THIEF, Time::from_millis(1)));
    }

    #[test]
    fn a_thousand_next_hops_are_asked_for_once_each_and_may_be_in_portions() {
        let mut n = Neighbours::default();
        for i in 0..1000u16 {
            let [high, low] = i.to_be_bytes();
            n.add(PortId(0), OURS, Vlans::NONE, (Addr::v4([10, 1, high, low]), Addr::v4([10, 0, 0, 1])), None);
        }
        let (mut buf, mut asked) = ([0; 128], 0);
        while n.due().is_some_and(|due| due <= Time::ZERO) {
            asked += (0..64).filter(|_| n.next_question(Time::ZERO, &mut buf).is_some()).count();
        }
        assert_eq!(asked, 1000);
    }

    #[test]
    fn a_claim_against_a_living_holder_is_put_to_the_holder_and_fails() {
        let (mut n, hop, addr) = table();
        let mut fx = Sent::default();
        n.poll(Time::ZERO, &mut fx);
        n.heard(PortId(1), addr, HOLDER, Time::ZERO);
        let t = Time::from_millis(1000);
        assert!(!n.heard(PortId(1), addr, THIEF, t));
        n.poll(t, &mut fx);
        assert_eq!(fx.0[1][..6], HOLDER.0, "asked directly");
        assert!(!n.heard(PortId(1), addr, THIEF, t));
        assert!(n.heard(PortId(1), addr, HOLDER, t));
        assert_eq!(n.link(hop).1.unwrap().dst, HOLDER);
    }

    #[test]
    fn an_address_that_moved_is_found_when_its_old_holder_stays_silent() {
        let (mut n, hop, addr) = table();
        let mut fx = Sent::default();
        n.poll(Time::ZERO, &mut fx);
        n.heard(PortId(1), addr, HOLDER, Time::ZERO);
        let mut t = Time::from_millis(1000);
        for _ in 0..3 {
            n.heard(PortId(1), addr, THIEF, t);
            n.poll(t, &mut fx);
            t += RETRY;
        }
        assert!(n.heard(PortId(1), addr, THIEF, t));
        assert_eq!(n.link(hop).1.unwrap().dst, THIEF);
    }

    #[test]
    fn unanswered_questions_slow_down_and_end_a_stale_entry() {
        let (mut n, hop, addr) = table();
        let mut fx = Sent::default();
        n.poll(Time::ZERO, &mut fx);
        n.heard(PortId(1), addr, HOLDER, Time::ZERO);
        let mut t = Time::from_millis(0) + CONFIRM;
        for _ in 0..=GIVE_UP {
            assert!(n.link(hop).1.is_some());
            n.poll(t, &mut fx);
            t += RETRY;
        }
        assert!(n.link(hop).1.is_none());
        let before = fx.0.len();
        for _ in 0..100 {
            n.poll(t, &mut fx);
            t += Duration::from_millis(100);
        }
        assert!(fx.0.len() - before <= 11 + EAGER_TRIES as usize);
    }
}
