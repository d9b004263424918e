//! How long handshakes and connections took, by service, in buckets.
//!
//! Buckets are those that Prometheus is told, of fixed bounds: a worker adds to two numbers, a snapshot copies some hundred bytes a service, and workers'
//! are summed by adding. A histogram of high resolution (hdrhistogram) would be some kilobytes for each, ten times a second, to be cut down to these in the end.

use crate::engine::ConnectionRecord;
use crate::pack::{Pack, Packer, Unpacker, Unreadable, packed_counts};
use core::time::Duration;
use std::collections::HashMap;
use std::sync::Arc;

/// Most services that are told apart: as many as there can be at once, and three times as many that were there before. Those beyond are not told.
pub const MOST_SERVICES: usize = 4 * lb::service::MAX_SERVICES;

/// Buckets of a [`Histogram`]; the last is for all that took longer than the bounds.
pub const BUCKETS: usize = 16;

/// Upper bounds of the buckets, in microseconds.
pub type Bounds = [u64; BUCKETS - 1];

/// Of handshakes: 250 microseconds to 10 seconds.
pub const HANDSHAKE: Bounds = [
    250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// Of connections: 5 milliseconds to 2 hours.
pub const CONNECTION: Bounds = [
    5000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    15_000_000,
    60_000_000,
    300_000_000,
    1_800_000_000,
    7_200_000_000,
];

/// How many took how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Histogram {
    /// By bucket: not longer than its bound, and longer than the one before.
    pub counts: [u64; BUCKETS],
    /// All together, in microseconds.
    pub sum: u64,
}

impl Histogram {
    fn add(&mut self, bounds: &Bounds, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[bounds.partition_point(|bound| *bound < micros)] += 1;
        self.sum = self.sum.saturating_add(micros);
    }

    fn merge(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.sum = self.sum.saturating_add(other.sum);
    }
}

/// Of one service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timings {
    /// Its name.
    pub service: Arc<str>,
    /// From the client's hello to the server's: full handshakes, and resumed ones.
    pub handshakes: [Histogram; 2],
    /// Connections, from beginning to end.
    pub connections: Histogram,
}

/// Of all services, in the order in which they were met. One that has left keeps its own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ByService {
    all: Vec<Timings>,
    places: HashMap<Arc<str>, u32>,
    /// The place of the one that was met last: as a rule that is the next one, too.
    latest: usize,
}

impl ByService {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Timings> {
        self.all.iter()
    }

    /// Allocates when a service is met first; none: it is one too many.
    fn entry(&mut self, service: &str) -> Option<&mut Timings> {
        if self.all.get(self.latest).is_none_or(|latest| *latest.service != *service) {
            self.latest = match self.places.get(service) {
                Some(at) => *at as usize,
                None if self.all.len() >= MOST_SERVICES => return None,
                None => {
                    let service = Arc::<str>::from(service);
                    self.places.insert(service.clone(), self.all.len() as u32);
                    let (handshakes, connections) = ([Histogram::default(); 2], Histogram::default());
                    self.all.push(Timings { service, handshakes, connections });
                    self.all.len() - 1
                }
            };
        }
        self.all.get_mut(self.latest)
    }

    /// One more connection.
    pub fn add(&mut self, record: &ConnectionRecord<'_>) {
        let Some(timings) = record.service.and_then(|service| self.entry(service)) else { return };
        timings.connections.add(&CONNECTION, record.lasted);
        if let (Some(took), Some(resumed)) = (record.handshake, record.resumed) {
            timings.handshakes[usize::from(resumed)].add(&HANDSHAKE, took);
        }
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: &ByService) {
        for theirs in &other.all {
            if let Some(mine) = self.entry(&theirs.service) {
                mine.connections.merge(&theirs.connections);
                mine.handshakes.iter_mut().zip(&theirs.handshakes).for_each(|(mine, theirs)| mine.merge(theirs));
            }
        }
    }
}

impl ByService {
    /// Writes them.
    pub(super) fn pack(&self, to: &mut Packer) {
        (self.all.len() as u32).pack(to);
        for Timings { service, handshakes, connections } in &self.all {
            service.to_string().pack(to);
            (*handshakes, *connections).pack(to);
        }
    }

    /// Adds those of another process.
    pub(super) fn take_over(&mut self, from: &mut Unpacker<'_>) -> Result<(), Unreadable> {
        for _ in 0..u32::unpack(from)? {
            let service = String::unpack(from)?;
            let (handshakes, connections) = <([Histogram; 2], Histogram)>::unpack(from)?;
            if let Some(mine) = self.entry(&service) {
                mine.connections.merge(&connections);
                mine.handshakes.iter_mut().zip(&handshakes).for_each(|(mine, theirs)| mine.merge(theirs));
            }
        }
        Ok(())
    }
}

packed_counts!(Histogram { counts, sum });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_as_long_as_a_bound_is_below_it_and_the_last_bucket_takes_the_rest() {
        let mut histogram = Histogram::default();
        for micros in [0, 250, 251, 10_000_000, 10_000_001] {
            histogram.add(&HANDSHAKE, Duration::from_micros(micros));
        }
        histogram.add(&HANDSHAKE, Duration::MAX);
        assert_eq!(histogram.counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(histogram.sum, u64::MAX, "it stays where it cannot go on");
        assert!([HANDSHAKE, CONNECTION].iter().all(|bounds| bounds.is_sorted()));
    }

    #[test]
    fn services_are_told_apart_summed_by_name_and_bounded() {
        let mut mine = ByService::default();
        for (service, micros) in [("a", 1), ("b", 300), ("a", 1), ("a", 700)] {
            mine.entry(service).unwrap().connections.add(&HANDSHAKE, Duration::from_micros(micros));
        }
        let mut theirs = ByService::default();
        (0..MOST_SERVICES + 5).for_each(|n| _ = theirs.entry(&format!("s{n}")));
        theirs.entry("s3").unwrap().connections.sum = 5;
        let (mut sum, before) = (mine.clone(), theirs.iter().count());
        sum.merge(&theirs);
        sum.merge(&mine);
        assert_eq!(before, MOST_SERVICES);
        assert_eq!(sum.iter().count(), MOST_SERVICES);
        let of =
            |name: &str| sum.iter().find(|t| &*t.service == name).map(|t| (t.connections.counts[0], t.connections.sum));
        assert_eq!((of("a"), of("b"), of("s3")), (Some((4, 2 * 702)), Some((0, 600)), Some((0, 5))));
    }
}
