//! The links of a [`World`]: what happens to a frame between a host and the engine, and who is meant by it.

use crate::hostile::mangle;
use crate::world::World;
use core::time::Duration;
use dispatcher::time::Time;
use std::collections::BinaryHeap;
use std::net::IpAddr;

/// What a link does to frames, in thousandths.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Faults {
    /// Frames that vanish.
    pub loss: u32,
    /// Frames that come twice.
    pub duplication: u32,
    /// Overtaken by frames up to 30 ms later.
    pub reordering: u32,
    /// One bit flipped behind the Ethernet header.
    pub corruption: u32,
}

impl Faults {
    /// None.
    pub const NONE: Faults = Faults { loss: 0, duplication: 0, reordering: 0, corruption: 0 };
    /// 5 % lost, 5 % reordered, 2 % repeated.
    pub const ROUGH: Faults = Faults { loss: 50, duplication: 20, reordering: 50, corruption: 0 };
}

/// A frame on its way.
#[derive(PartialEq, Eq)]
pub(crate) struct Flying {
    pub(crate) at: Time,
    order: u64,
    pub(crate) to: To,
    pub(crate) frame: Vec<u8>,
}

/// Where it arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum To {
    /// At this port of the engine's.
    Engine(usize),
    Host(usize),
}

impl Ord for Flying {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}
impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// All frames on their way, in the order in which they arrive.
#[derive(Default)]
pub(crate) struct Air {
    flying: BinaryHeap<Flying>,
    order: u64,
}

impl Air {
    fn put(&mut self, at: Time, to: To, frame: Vec<u8>) {
        self.order += 1;
        self.flying.push(Flying { at, order: self.order, to, frame });
    }

    /// When the next one arrives.
    pub(crate) fn next(&self) -> Option<Time> {
        self.flying.peek().map(|f| f.at)
    }

    /// The next one, if it arrives by `now`.
    pub(crate) fn landed(&mut self, now: Time) -> Option<Flying> {
        if self.next()? > now {
            return None;
        }
        self.flying.pop()
    }
}

impl World {
    /// Sends a frame over a port's wire: to the engine from a host, or from it.
    pub(crate) fn fly(&mut self, port: usize, frame: Vec<u8>, from: Option<usize>) {
        let to_engine = from.is_some();
        if self.too_long(port, &frame, from) {
            return;
        }
        if to_engine && self.past.is_some() {
            self.remember(port, &frame);
        }
        let f = self.faults[port];
        if self.rng.per_mille(f.loss) {
            return;
        }
        let copies = 1 + usize::from(self.rng.per_mille(f.duplication));
        for _ in 0..copies {
            let mut frame = frame.clone();
            let mut at = self.now + self.delay;
            if self.rng.per_mille(f.reordering) {
                at += Duration::from_micros(self.rng.below(30_000) as u64);
            }
            // ARP has no checksum: a lie in it is believed for a minute, by anyone.
            let arp = frame[12..14] == [8, 6];
            if self.rng.per_mille(f.corruption) && frame.len() > 14 && !arp {
                let bit = self.rng.below((frame.len() - 14) * 8);
                frame[14 + bit / 8] ^= 1 << (bit % 8);
            }
            if to_engine {
                self.put(at, To::Engine(port), frame);
            } else {
                self.deliver(at, port, &frame, None);
            }
        }
    }

    pub(crate) fn put(&mut self, at: Time, to: To, frame: Vec<u8>) {
        self.air.put(at, to, frame);
    }

    /// To the hosts on a wire that the frame is for.
    fn deliver(&mut self, at: Time, port: usize, frame: &[u8], from: Option<usize>) {
        let (vlan, plain) = untag(frame);
        for h in 0..self.hosts.len() {
            let host = &self.hosts[h];
            let meant = frame[0] & 1 == 1 || frame[..6] == host.mac;
            if Some(h) == from || host.port != port || host.vlan != vlan || !meant || host.dark {
                continue;
            }
            if let Some(router) = &host.router
                && let Some(to) = destination(&plain)
                && let Some((_, mac)) = router.hosts.iter().find(|(ip, _)| *ip == to)
                && frame[0] & 1 == 0
            {
                let mut onward = plain.clone();
                onward[..6].copy_from_slice(mac);
                onward[6..12].copy_from_slice(&host.mac);
                self.deliver(at, port, &onward, Some(h));
                continue;
            }
            self.put(at, To::Host(h), plain.clone());
        }
    }

    /// What a host sends, or something like it.
    pub(crate) fn host_sends(&mut self, h: usize, frame: Vec<u8>) {
        let (evil, mtu) = (self.hosts[h].evil, self.hosts[h].path_mtu);
        for frame in crate::upset::cut(frame, mtu) {
            let frames = if self.rng.per_mille(evil) { mangle(&mut self.rng, &frame) } else { vec![frame] };
            for frame in frames {
                self.host_sends_so(h, frame);
            }
        }
    }

    fn host_sends_so(&mut self, h: usize, frame: Vec<u8>) {
        let host = &self.hosts[h];
        if host.dark {
            return;
        }
        let port = host.port;
        let tagged = match host.vlan {
            Some(id) => [&frame[..12], &[0x81, 0], &id.to_be_bytes(), &frame[12..]].concat(),
            None => frame,
        };
        let engine_mac = self.config.ports[port].mac.0;
        let mut frame = tagged;
        // Through a router on the way to the engine?
        let router = self
            .hosts
            .iter()
            .position(|r| r.router.is_some() && r.mac == frame[..6] && r.port == port && host.vlan == r.vlan);
        if let Some(r) = router
            && let Some(to) = destination(&frame)
            && !self.hosts[r].has_address(to)
        {
            let known = self.hosts[r].router.as_ref().and_then(|r| r.hosts.iter().find(|(ip, _)| *ip == to).copied());
            frame[6..12].copy_from_slice(&self.hosts[r].mac);
            frame[..6].copy_from_slice(&known.map_or(engine_mac, |(_, mac)| mac));
        }
        if frame[..6] == engine_mac || frame[0] & 1 == 1 {
            self.fly(port, frame.clone(), Some(h));
        }
        if frame[..6] != engine_mac {
            self.deliver(self.now + self.delay, port, &frame, Some(h));
        }
    }
}

/// The tag of a frame, if it has one, and the frame without it.
fn untag(frame: &[u8]) -> (Option<u16>, Vec<u8>) {
    if frame[12..14] == [0x81, 0] {
        let id = u16::from_be_bytes([frame[14], frame[15]]) & 0xfff;
        (Some(id), [&frame[..12], &frame[16..]].concat())
    } else {
        (None, frame.to_vec())
    }
}

/// Where an IP packet in an untagged frame goes.
fn destination(frame: &[u8]) -> Option<IpAddr> {
    match frame[12..14] {
        [8, 0] => Some(<[u8; 4]>::try_from(frame.get(30..34)?).ok()?.into()),
        [0x86, 0xdd] => Some(<[u8; 16]>::try_from(frame.get(38..54)?).ok()?.into()),
        _ => None,
    }
}
