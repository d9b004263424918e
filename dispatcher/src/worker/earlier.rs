//! What processes before this one have counted, so that no figure falls back when one takes over: sums of ended connections, and what ports and inboxes count from their own beginning.
//!
//! It stands behind what an engine writes, in a section of its own. Ports are meant by their names; with fewer workers one counts on for several.

use super::exchange::Handover;
use super::totals::Totals;
use crate::io::Traffic;
use crate::pack::{Ids, Pack, Packer, Unpacker, Unreadable, count, packed_counts};
use crate::tunnel::Edge;

/// The section, behind those of an engine.
const SUMS: u32 = crate::engine::moving::OTHERS;
const VERSION: u32 = 1;

/// What ports and inboxes had counted, and turns.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Earlier {
    /// By port.
    pub received: Vec<Traffic>,
    /// By port.
    pub sent: Vec<Traffic>,
    pub handover: Handover,
    pub busy_turns: u64,
    pub idle_turns: u64,
}

/// All that a worker tells of, by the names of its ports.
pub(super) struct Sums<'a> {
    pub ports: Vec<&'a str>,
    pub now: Earlier,
    pub totals: &'a Totals,
    pub edge: Option<&'a Edge>,
}

impl Sums<'_> {
    /// Writes them behind an engine.
    pub fn pack(&self, to: &mut Packer) {
        let Earlier { received, sent, handover, busy_turns, idle_turns } = &self.now;
        to.section(SUMS, VERSION, |to| {
            (*busy_turns, *idle_turns).pack(to);
            handover.pack(to);
            (self.ports.len() as u32).pack(to);
            for ((name, received), sent) in self.ports.iter().zip(received).zip(sent) {
                name.to_string().pack(to);
                (*received, *sent).pack(to);
            }
            self.totals.pack(to);
            match self.edge {
                Some(edge) => edge.pack_counts(to),
                None => 0u32.pack(to),
            }
        });
    }
}

impl Earlier {
    /// Adds what stands behind an engine, and to the sums that are kept, and to what is counted of tunnels.
    pub fn take_over(
        &mut self,
        engine: &[u8],
        ports: &[&str],
        totals: &mut Totals,
        mut edge: Option<&mut Edge>,
    ) -> Result<(), Unreadable> {
        let nobody = Ids::default();
        let mut sections = Unpacker::new(engine, &nobody);
        while let Some(section) = sections.section_if(|kind| kind == SUMS)? {
            if section.version != VERSION {
                return Err(Unreadable::Unknown { kind: SUMS, version: section.version });
            }
            let from = &mut Unpacker::new(section.bytes, &nobody);
            self.busy_turns += count(from)?;
            self.idle_turns += count(from)?;
            self.handover += Handover::unpack(from)?;
            self.received.resize(ports.len(), Traffic::default());
            self.sent.resize(ports.len(), Traffic::default());
            for _ in 0..u32::unpack(from)? {
                let name = String::unpack(from)?;
                let (received, sent) = <(Traffic, Traffic)>::unpack(from)?;
                if let Some(at) = ports.iter().position(|port| *port == name) {
                    self.received[at] = self.received[at].plus(&received);
                    self.sent[at] = self.sent[at].plus(&sent);
                }
            }
            totals.take_over(from)?;
            Edge::count_on(edge.as_deref_mut(), from)?;
        }
        Ok(())
    }

    /// With what a port counts now.
    pub fn received(&self, port: usize, now: Traffic) -> Traffic {
        self.received.get(port).map_or(now, |before| before.plus(&now))
    }

    /// The same.
    pub fn sent(&self, port: usize, now: Traffic) -> Traffic {
        self.sent.get(port).map_or(now, |before| before.plus(&now))
    }

    /// With what its inbox counts now.
    pub fn handover(&self, mut now: Handover) -> Handover {
        now += self.handover;
        now
    }
}

packed_counts!(Handover { sent, received, full, updates_sent, updates_received, updates_lost });

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(frames: u64) -> Traffic {
        Traffic { frames, bytes: 100 * frames, ..Traffic::default() }
    }

    #[test]
    fn what_two_workers_had_counted_is_counted_on_by_one_whatever_the_order_of_its_ports() {
        let sums = |n: u64, totals: &Totals| {
            let now = Earlier {
                received: vec![traffic(n), traffic(2 * n)],
                sent: vec![traffic(3 * n), traffic(4 * n)],
                handover: Handover { sent: n, ..Handover::default() },
                busy_turns: n,
                idle_turns: 1,
            };
            let mut to = Packer::new();
            // An engine's.
            to.section(1, 2, |to| 7u64.pack(to));
            Sums { ports: vec!["wan", "lan"], now, totals, edge: None }.pack(&mut to);
            to.into_bytes()
        };
        let mut totals = Totals::new(vec!["web1".into()]);
        totals.connections = 5;
        let (mut earlier, mut mine) = (Earlier::default(), Totals::default());
        for n in [10, 100] {
            earlier.take_over(&sums(n, &totals), &["lan", "wan"], &mut mine, None).unwrap();
        }
        assert_eq!((earlier.busy_turns, earlier.idle_turns, earlier.handover.sent), (110, 2, 110));
        assert_eq!([0, 1].map(|port| earlier.received(port, traffic(1)).frames), [221, 111]);
        assert_eq!([0, 1].map(|port| earlier.sent(port, traffic(0)).frames), [440, 330]);
        assert_eq!((mine.connections, mine.backends.len()), (10, 1));
        let bytes = sums(1, &totals);
        assert!(earlier.take_over(&bytes[..bytes.len() - 1], &["wan"], &mut mine, None).is_err());
    }
}
