//! What the tables of an engine take in memory, when they are full. What is not used of those of flows is not touched.

use crate::config::Limits;
use crate::flow::{BufferPool, LocalPorts, Wheel};
use crate::http::Readings;
use crate::tcp::{Eviction, HEADER_ROOM, SMALL_HELLO};
use crate::tls::ServerFlights;
use lb::Affinity;

/// Horizon of the timing wheel in ticks: longer spans are looked at again when they come into it.
pub(super) const WHEEL_SLOTS: usize = 4096;

/// What one table takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableSize {
    /// What it holds.
    pub name: &'static str,
    /// So many of them.
    pub entries: usize,
    /// In so many bytes, all told.
    pub bytes: usize,
}

impl Limits {
    /// What the engines of `workers` workers take in memory together, table by table, for `backends` backends.
    pub fn tables(&self, backends: usize, workers: usize) -> Vec<TableSize> {
        let backends = self.slots(backends);
        let part = self.divided(workers);
        let all = part.tables_of_one(backends).into_iter().map(|t| TableSize {
            entries: t.entries * workers,
            bytes: t.bytes * workers,
            ..t
        });
        let affinity = Affinity::bytes(&self.affinity(backends), workers);
        all.chain([TableSize { name: "affinity rows", entries: self.sessions, bytes: affinity }]).collect()
    }

    /// What the engines of `workers` workers take together once a service follows a cookie.
    pub fn readings(&self, workers: usize) -> TableSize {
        let part = self.divided(workers).watches;
        TableSize { name: "requests read along", entries: part * workers, bytes: Readings::bytes_for(part) * workers }
    }

    fn tables_of_one(&self, backends: usize) -> Vec<TableSize> {
        let size = |name, entries, bytes| TableSize { name, entries, bytes };
        vec![
            size("flows", self.flows, super::Flows::bytes_for(self.flows)),
            size("flows not settled", self.flows, super::Flows::bytes_for_whole(self.flows)),
            size("timers", self.flows, Wheel::bytes_for(self.flows, WHEEL_SLOTS)),
            size(
                "held hellos",
                self.hellos,
                BufferPool::bytes_for(self.hellos, HEADER_ROOM + self.hello_bytes) + Eviction::bytes_for(self.hellos),
            ),
            size("hellos that wait", self.waiting, BufferPool::bytes_for(self.waiting, HEADER_ROOM + SMALL_HELLO)),
            size("watched answers", self.watches, ServerFlights::bytes_for(self.watches)),
            size("local port cursors", backends, LocalPorts::bytes_for(backends)),
        ]
    }

    /// Slots for backends, of which there are so many at start.
    pub(crate) fn slots(&self, backends: usize) -> usize {
        backends.max(self.backends).min(lb::MAX_BACKENDS)
    }

    pub(super) fn affinity(&self, backends: usize) -> lb::Config {
        lb::Config { session_capacity: self.sessions, ..lb::Config::new(backends) }
    }
}

impl Limits {
    /// What each of `workers` engines may hold, so that together they hold no less than this. Session rows are not divided:
    /// the affinity tables are one, whoever writes them.
    pub fn divided(self, workers: usize) -> Limits {
        let part = |n: usize| n.div_ceil(workers.max(1));
        Limits {
            flows: part(self.flows),
            hellos: part(self.hellos),
            waiting: part(self.waiting),
            watches: part(self.watches),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_together_hold_no_less_than_the_whole() {
        let whole = Limits::default();
        for workers in 1..9 {
            let part = whole.divided(workers);
            assert!(part.flows * workers >= whole.flows && part.flows * workers < whole.flows + workers);
            assert!(part.hellos * workers >= whole.hellos && part.watches * workers >= whole.watches);
            assert_eq!((part.sessions, part.hello_bytes), (whole.sessions, whole.hello_bytes));
        }
    }
}
