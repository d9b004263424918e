//! Those who wish us ill, or are merely broken: peers whose frames are not what TCP would send, strangers who forge them, and a
//! network that repeats frames of long ago.

use crate::links::To;
use crate::rng::Rng;
use crate::script::STRANGER_MAC;
use crate::world::World;
use dispatcher::wire::build::{Link, Segment};
use dispatcher::wire::packet::{Flags, Packet, Tcp, protocol};
use dispatcher::wire::{Addr, Mac, Seq};
use std::net::SocketAddr;

/// Frames of long ago that are kept.
const PAST: usize = 200;

/// What a peer sends that is evil, instead of a frame: wrong acknowledgements, overlapping segments of different bytes, games with the
/// window, RST, FIN and SYN anywhere, options that are none. Checksums are right.
pub fn mangle(rng: &mut Rng, frame: &[u8]) -> Vec<Vec<u8>> {
    let Ok(p) = Packet::parse(frame) else { return vec![frame.to_vec()] };
    let (Ok(t), protocol::TCP) = (Tcp::parse(frame, &p.ip), p.ip.protocol) else { return vec![frame.to_vec()] };
    let honest = Segment {
        link: Link { dst: p.eth.dst, src: p.eth.src, vlans: p.eth.vlans },
        src: (p.ip.src, t.src_port),
        dst: (p.ip.dst, t.dst_port),
        seq: t.seq,
        ack: t.ack,
        flags: t.flags,
        window: t.window,
        options: &frame[t.header + 20..t.payload],
        payload: &frame[t.payload..t.end],
    };
    let near = |rng: &mut Rng| match rng.below(4) {
        0 => rng.u64() as u32,
        1 => rng.below(100_000) as u32,
        2 => 0u32.wrapping_sub(rng.below(100_000) as u32),
        _ => rng.below(3) as u32,
    };
    let other: Vec<u8> = rng.bytes(honest.payload.len().min(1400));
    let words = rng.between(1, 10);
    let garbage = rng.bytes(4 * words);
    match rng.below(11) {
        0 => vec![written(&Segment { ack: honest.ack + near(rng), ..honest })],
        1 => vec![written(&Segment { seq: honest.seq + near(rng), ..honest })],
        2 => vec![written(&Segment { window: [0, 1, 65535, rng.u64() as u16][rng.below(4)], ..honest })],
        3 => {
            let flag = [Flags::RST, Flags::FIN, Flags::SYN, Flags(rng.u64() as u8)][rng.below(4)];
            vec![written(&Segment { flags: Flags(honest.flags.0 | flag.0), ..honest }), written(&honest)]
        }
        4 => vec![written(&Segment { payload: &other, ..honest }), written(&honest)],
        5 => vec![written(&honest), written(&Segment { payload: &other, ..honest })],
        6 => {
            // Begins before, in other bytes.
            let back = rng.between(1, 40);
            let both = [&rng.bytes(back), honest.payload].concat();
            let payload = &both[..both.len().min(1400)];
            vec![written(&Segment { seq: Seq(honest.seq.0.wrapping_sub(back as u32)), payload, ..honest })]
        }
        7 => {
            // In two that overlap, the later first.
            let at = honest.payload.len() / 2;
            let later = Segment { seq: honest.seq + at as u32, payload: &honest.payload[at..], ..honest };
            vec![
                written(&later),
                written(&Segment { payload: &honest.payload[..honest.payload.len() - at / 2], ..honest }),
            ]
        }
        8 => vec![written(&Segment { options: &garbage, payload: &other[..other.len().min(900)], ..honest })],
        9 => {
            let syn = Segment { seq: honest.seq + near(rng), ack: Seq(0), flags: Flags::SYN, payload: &[], ..honest };
            vec![written(&syn), written(&honest)]
        }
        _ => vec![
            written(&Segment { flags: Flags::RST, seq: honest.seq + near(rng), payload: &[], ..honest }),
            written(&honest),
        ],
    }
}

fn written(segment: &Segment<'_>) -> Vec<u8> {
    let mut b = vec![0; segment.frame_len()];
    segment.write(&mut b);
    b
}

/// A reset as [`World::forge`] makes it.
pub(crate) fn is_forged_reset(frame: &[u8]) -> bool {
    let reset = |p: &Packet| {
        p.ip.protocol == protocol::TCP && Tcp::parse(frame, &p.ip).is_ok_and(|t| t.flags.contains(Flags::RST))
    };
    frame[6..12] == STRANGER_MAC.0 && Packet::parse(frame).is_ok_and(|p| reset(&p))
}

impl World {
    /// From now on frames are kept, to be repeated much later.
    pub fn keep_the_past(&mut self) {
        self.past.get_or_insert_default();
    }

    /// One in twenty is kept.
    pub(crate) fn remember(&mut self, port: usize, frame: &[u8]) {
        if !self.rng.per_mille(50) {
            return;
        }
        let instead = self.rng.below(PAST);
        let past = self.past.get_or_insert_default();
        if past.len() < PAST {
            past.push_back((port, frame.to_vec()));
        } else {
            past[instead] = (port, frame.to_vec());
        }
    }

    /// A frame of long ago arrives once more at the engine.
    pub fn repeat_the_past(&mut self) {
        let Some(past) = self.past.as_ref().filter(|past| !past.is_empty()) else { return };
        let n = past.len();
        let which = self.rng.below(n);
        let (port, frame) = self.past.as_ref().expect("kept")[which].clone();
        // ARP is no part of it: it would be an old truth, and a lie now.
        if frame[12..14] != [8, 6] {
            self.put(self.now, To::Engine(port), frame);
        }
    }

    /// A stranger off path, who knows a connection's addresses and ports on both sides but none of its numbers, sends segments as if
    /// from one of its ends.
    pub fn forge(&mut self, client: SocketAddr, vip: SocketAddr) {
        let place = self.pairs.place(client);
        let from_server = place.is_some() && self.rng.per_mille(500);
        let (src, dst, port) = match place {
            Some((own, backend)) if from_server => (backend, own, self.config.ports.len() - 1),
            _ => (client, vip, 0),
        };
        let flags = [Flags::RST, Flags::SYN, Flags::ACK, Flags(0x11), Flags(0x12), Flags(0x14)][self.rng.below(6)];
        let len = if flags.contains(Flags::ACK) { self.rng.below(200) } else { 0 };
        let payload = self.rng.bytes(len);
        let segment = Segment {
            link: Link {
                dst: Mac(self.config.ports[port].mac.0),
                src: STRANGER_MAC,
                vlans: dispatcher::wire::packet::Vlans::from_ids(&self.config.ports[port].vlans),
            },
            src: (Addr::from(src.ip()), src.port()),
            dst: (Addr::from(dst.ip()), dst.port()),
            seq: Seq(self.rng.u64() as u32),
            ack: Seq(self.rng.u64() as u32),
            flags,
            window: self.rng.u64() as u16,
            options: &[],
            payload: &payload,
        };
        let frame = written(&segment);
        self.put(self.now, To::Engine(port), frame);
    }
}
