//! What smoltcp leaves out of RFC 5961: it obeys any reset in its window. A host that is strict obeys one only at the very number that it has
//! acknowledged, answers others in its window by a challenge, at most twice a second (as Linux), and does not hear the rest. That number
//! is FreeBSD's measure, the narrowest of those in use.

use core::time::Duration;
use dispatcher::time::Time;
use dispatcher::wire::build::{Link, Segment};
use dispatcher::wire::options::SynOptions;
use dispatcher::wire::packet::{Ethernet, Flags, Packet, Tcp, protocol};
use dispatcher::wire::{Addr, Seq};
use std::collections::HashMap;

const BETWEEN_CHALLENGES: Duration = Duration::from_millis(500);

type Ends = ((Addr, u16), (Addr, u16));

struct Said {
    next: Seq,
    acked: Seq,
    window: u32,
    scale: u8,
    challenged: Option<Time>,
}

/// What a strict host has said of its connections: own end first.
#[derive(Default)]
pub(crate) struct Strict {
    said: HashMap<Ends, Said>,
    /// Resets that were not obeyed.
    pub(crate) doubted: u64,
}

/// What becomes of a frame.
pub(crate) enum Judged {
    /// smoltcp shall see it.
    Fine,
    /// Nothing.
    Unheard,
    /// It is answered so.
    Challenged(Vec<u8>),
}

impl Strict {
    /// The host sends a frame.
    pub(crate) fn sends(&mut self, frame: &[u8]) {
        let Some((p, t)) = segment(frame) else { return };
        let ends = ((p.ip.src, t.src_port), (p.ip.dst, t.dst_port));
        if t.flags.contains(Flags::SYN) {
            let options = SynOptions::parse(&frame[t.header + 20..t.payload]);
            let scale = options.wscale.unwrap_or(0);
            self.said.insert(ends, Said { next: t.seq_end(), acked: t.ack, window: 0, scale, challenged: None });
        } else if let Some(said) = self.said.get_mut(&ends).filter(|_| t.flags.contains(Flags::ACK)) {
            said.next = said.next.later_of(t.seq_end());
            said.acked = t.ack;
            said.window = u32::from(t.window) << said.scale;
        }
    }

    /// A frame comes.
    pub(crate) fn judge(&mut self, frame: &[u8], now: Time) -> Judged {
        let Some((p, t)) = segment(frame).filter(|(_, t)| t.flags.contains(Flags::RST)) else { return Judged::Fine };
        let ends = ((p.ip.dst, t.dst_port), (p.ip.src, t.src_port));
        let Some(said) = self.said.get_mut(&ends).filter(|s| s.window > 0) else { return Judged::Fine };
        if t.seq == said.acked {
            return Judged::Fine;
        }
        self.doubted += 1;
        let asked = said.challenged.is_some_and(|at| now.since(at) < BETWEEN_CHALLENGES);
        if asked || !t.seq.in_window(said.acked, said.window) {
            return Judged::Unheard;
        }
        said.challenged = Some(now);
        let eth = Ethernet::parse(frame).expect("it was read before");
        let challenge = Segment {
            link: Link { dst: eth.src, src: eth.dst, vlans: eth.vlans },
            src: ends.0,
            dst: ends.1,
            seq: said.next,
            ack: said.acked,
            flags: Flags::ACK,
            window: (said.window >> said.scale) as u16,
            options: &[],
            payload: &[],
        };
        let mut bytes = vec![0; challenge.frame_len()];
        challenge.write(&mut bytes);
        Judged::Challenged(bytes)
    }
}

fn segment(frame: &[u8]) -> Option<(Packet, Tcp)> {
    let p = Packet::parse(frame).ok().filter(|p| p.ip.protocol == protocol::TCP)?;
    let t = Tcp::parse(frame, &p.ip).ok()?;
    Some((p, t))
}
