//! Whose a frame is that returns to an address and port of ours: which worker's local ports are which, and what cards do with them.

use super::strays::Strays;
use crate::backends::{PROBE_PORT, PROBE_PORTS};
use crate::config::Config;
use crate::flow::{Key, LocalPorts, Rss};
use crate::wire::Addr;
use std::sync::{Arc, OnceLock};

/// Most workers: each needs a probe port of its own.
pub const MAX_WORKERS: usize = PROBE_PORTS as usize;

/// First of the ports that checks come from ([`crate::checks`]): of all workers together, whoever they come back to.
pub const CHECK_PORT: u16 = PROBE_PORT + PROBE_PORTS;

/// Ports that checks come from.
pub const CHECK_PORTS: u16 = 256;

/// Local ports for flows; those below are left to the system, to probes and to checks.
pub const FIRST_PORT: u16 = CHECK_PORT + CHECK_PORTS;

/// Something that comes to this port of an address of ours answers a check.
#[inline]
pub fn is_check_port(port: u16) -> bool {
    (CHECK_PORT..FIRST_PORT).contains(&port)
}

/// First of the ports, and how many, that a worker's probes come from.
pub fn probe_ports(worker: usize, workers: usize) -> (u16, u16) {
    let each = PROBE_PORTS / workers as u16;
    (PROBE_PORT + worker as u16 * each, each)
}

/// First and last of the ports that a worker's dials come from. Not empty: there are more ports than workers can be.
pub fn dial_ports(worker: usize, workers: usize) -> (u16, u16) {
    LocalPorts::share(FIRST_PORT, u16::MAX, worker, workers).unwrap_or((FIRST_PORT, u16::MAX))
}

/// Which of `workers` a local port of ours belongs to; none when it is nobody's.
#[inline]
pub fn worker_of_port(port: u16, workers: usize) -> Option<usize> {
    if let Some(offset) = port.checked_sub(FIRST_PORT) {
        // The inverse of `LocalPorts::share`: the last worker whose part begins at or before the port.
        let count = usize::from(u16::MAX - FIRST_PORT) + 1;
        return Some(((usize::from(offset) + 1) * workers - 1) / count);
    }
    let offset = usize::from(port.checked_sub(PROBE_PORT)?);
    Some(offset / (usize::from(PROBE_PORTS) / workers)).filter(|worker| *worker < workers)
}

/// Whose a frame is that returns to an address that we dialled from, so that the one who dials can see to it that it is its own:
/// by what the port's card does with it (RSS), where that is known; by ranges of local ports else.
///
/// A pure function of the key: no port of ours is two workers' for the same backend.
#[derive(Default)]
pub struct Returning {
    workers: usize,
    /// Sorted by address.
    by_address: Box<[(Addr, Arc<Rss>)]>,
    /// Of the first port that has it.
    first: Option<Arc<Rss>>,
    /// Connections of another process whose ports are not their workers'. Known before the workers begin.
    strays: OnceLock<Strays>,
}

impl Returning {
    /// By ranges everywhere, among so many workers.
    pub fn by_range(workers: usize) -> Returning {
        Returning { workers: workers.max(1), ..Returning::default() }
    }

    /// By what is known of the ports' cards, in order of `config.ports`.
    pub fn by_ports(config: &Config, workers: usize, ports: &[Option<Arc<Rss>>]) -> Returning {
        let mut by_address = Vec::new();
        for (spec, rss) in config.ports.iter().zip(ports) {
            let Some(rss) = rss else { continue };
            by_address.extend(spec.addresses.iter().map(|(ip, _)| (Addr::from(*ip), rss.clone())));
        }
        by_address.sort_unstable_by_key(|(addr, _)| *addr);
        let first = ports.iter().flatten().next().cloned();
        Returning { by_address: by_address.into(), first, ..Returning::by_range(workers) }
    }

    /// Exceptions, of connections taken over from another process. Once, before the workers begin.
    pub fn except(&self, strays: Strays) {
        if !strays.is_empty() {
            _ = self.strays.set(strays);
        }
    }

    /// There are exceptions.
    #[inline]
    pub fn strays(&self) -> Option<&Strays> {
        self.strays.get()
    }

    /// Whether dials choose among all local ports, because some port's card is known.
    pub fn knows_cards(&self) -> bool {
        !self.by_address.is_empty()
    }

    /// The owner of what comes with this key from a backend to an own address of ours; none when it is nobody's.
    #[inline]
    pub fn owner(&self, key: &Key) -> Option<usize> {
        if let Some(worker) = self.strays().and_then(|strays| strays.owner(key)) {
            return Some(worker);
        }
        if key.dport >= FIRST_PORT
            && let Ok(at) = self.by_address.binary_search_by_key(&key.dst, |(addr, _)| *addr)
            && let Some(worker) = self.by_address[at].1.worker(key).filter(|worker| *worker < self.workers)
        {
            return Some(worker);
        }
        worker_of_port(key.dport, self.workers)
    }

    /// Whose queue the first port with a known card brings a client's frame to. Whatever comes in by other ports is led by the same.
    #[inline]
    pub fn of_client(&self, key: &Key) -> Option<usize> {
        self.first.as_ref()?.worker(key).filter(|worker| *worker < self.workers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_a_worker_is_known_as_its_own() {
        for workers in [1, 2, 3, 5, 7, 64, 700, MAX_WORKERS] {
            for worker in 0..workers {
                let (first, last) = dial_ports(worker, workers);
                assert!(
                    [first, first + (last - first) / 2, last]
                        .iter()
                        .all(|p| worker_of_port(*p, workers) == Some(worker)),
                    "{worker} of {workers}: {first}..={last}"
                );
                let (first, count) = probe_ports(worker, workers);
                assert!(count > 0);
                assert!((first..first + count).all(|p| worker_of_port(p, workers) == Some(worker)));
            }
            assert_eq!(worker_of_port(80, workers), None);
            assert!((CHECK_PORT..FIRST_PORT).all(|port| worker_of_port(port, workers).is_none()));
        }
        // Exhaustively for a few: no port of the range to nobody, and none to two.
        for workers in [2, 3, 7] {
            for port in FIRST_PORT..=u16::MAX {
                let owner = worker_of_port(port, workers).unwrap();
                let (first, last) = dial_ports(owner, workers);
                assert!((first..=last).contains(&port));
            }
        }
    }
}
