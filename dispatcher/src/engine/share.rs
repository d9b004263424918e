//! What the engines of several workers have in common, and each one's part of it.
//!
//! Common are the secret (a cookie issued by one is verified by any; all hash clients alike), the directory with its connection
//! counts, and the affinity tables, of which each engine writes one shard and reads all. Divided are flows, buffers, watches, the
//! rate of resets, and the local ports: those of the dials and those of the probes, so that a returning frame tells whose
//! it is ([`Returning`]). Everything else (neighbours, what is known of the backends' health and options) each engine
//! learns for itself: what was agreed with a client stands in its cookie, so engines need not be of one mind.

use super::health::{PROBE_PORT, PROBE_PORTS};
use super::revision::Revision;
use super::{Config, ConfigError, FIRST_PORT, Limits, TicketKey, derived};
use crate::flow::{LocalPorts, Rss, Tuple};
use crate::wire::Addr;
use lb::{Affinity, Directory, Released};
use std::sync::Arc;

/// Most workers: each needs a probe port of its own.
pub const MAX_WORKERS: usize = PROBE_PORTS as usize;

/// One engine's part.
pub struct Share {
    /// Its number.
    pub(super) worker: usize,
    /// Of so many.
    pub(super) workers: usize,
    pub(super) revision: Arc<Revision>,
    pub(super) released: Arc<Released>,
    pub(super) affinity: Affinity,
    pub(super) returning: Arc<Returning>,
}

impl Share {
    /// The parts of `workers` engines, in order of their numbers. All of them are to be given the same configuration and secret.
    pub fn divide(config: &Config, secret: &[u8; 32], workers: usize) -> Result<Vec<Share>, ConfigError> {
        if !(1..=MAX_WORKERS).contains(&workers) {
            return Err(ConfigError(format!("{workers} workers: 1 to {MAX_WORKERS} are possible")));
        }
        let directory = Directory::next(None, &config.wanted, |_| true).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(|fault| fault.to_string()).collect();
            ConfigError(faults.join("; "))
        })?;
        let directory = Arc::new(directory);
        let revision = Arc::new(Revision::new(config, directory.clone())?);
        let released = Arc::new(Released::new(workers));
        let tables = config.limits.affinity(config.limits.slots(directory.slots()));
        let mut affinity = lb::Config { secret: derived(secret, 1), ..tables }.lives(config.session_ttl);
        // Else a client whose address leads to its server would be led away from it by the refusals of others.
        affinity.one_refusal_counts = !directory.pools().any(|pool| pool.address_finds_server());
        for key in &config.ticket_keys {
            let backend = key.backend();
            let id = directory
                .find(backend)
                .ok_or_else(|| ConfigError(format!("ticket key: there is no backend {backend}")))?
                .id;
            match key {
                TicketKey::Name { name, .. } => affinity.ticket_keys.push((id, *name)),
                TicketKey::Unknown { .. } => _ = affinity.no_key_names.insert(id),
            }
        }
        let affinities = Affinity::for_workers(affinity, workers);
        let shares = affinities.into_iter().enumerate();
        let returning = Arc::new(Returning::by_range(workers));
        let share = |(worker, affinity)| Share {
            worker,
            workers,
            revision: revision.clone(),
            released: released.clone(),
            affinity,
            returning: returning.clone(),
        };
        Ok(shares.map(share).collect())
    }

    /// The same, where ports tell to which queue they bring what. To be the same for all engines, and what leads frames to them.
    pub fn returning(self, returning: Arc<Returning>) -> Share {
        Share { returning, ..self }
    }

    /// Services, pools and backends to begin with; the same for all.
    pub fn directory(&self) -> &Arc<Directory> {
        self.revision.directory()
    }

    /// The same, as it was worked out for the engines.
    pub fn revision(&self) -> &Arc<Revision> {
        &self.revision
    }

    /// What the engines will have let go of; the same for all.
    pub fn released(&self) -> &Arc<Released> {
        &self.released
    }

    /// The affinity tables of all workers, to look at from outside.
    pub fn rows(&self) -> lb::affinity::Reader {
        self.affinity.reader()
    }

    /// Which worker's it is.
    pub fn worker(&self) -> usize {
        self.worker
    }
}

impl Limits {
    /// What each of `workers` engines may hold, so that together they hold no less than this. Session rows are not divided:
    /// the affinity tables are one, whoever writes them.
    pub fn divided(self, workers: usize) -> Limits {
        let part = |n: usize| n.div_ceil(workers.max(1));
        Limits { flows: part(self.flows), hellos: part(self.hellos), watches: part(self.watches), ..self }
    }
}

/// First of the ports, and how many, that a worker's probes come from.
pub(super) fn probe_ports(worker: usize, workers: usize) -> (u16, u16) {
    let each = PROBE_PORTS / workers as u16;
    (PROBE_PORT + worker as u16 * each, each)
}

/// First and last of the ports that a worker's dials come from. Not empty: there are more ports than workers can be.
pub(super) fn dial_ports(worker: usize, workers: usize) -> (u16, u16) {
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
/// A pure function of the tuple: no port of ours is two workers' for the same backend.
#[derive(Default)]
pub struct Returning {
    workers: usize,
    /// Sorted by address.
    by_address: Box<[(Addr, Arc<Rss>)]>,
    /// Of the first port that has it.
    first: Option<Arc<Rss>>,
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

    /// Whether dials choose among all local ports, because some port's card is known.
    pub(super) fn knows_cards(&self) -> bool {
        !self.by_address.is_empty()
    }

    /// The owner of what comes with this tuple from a backend to an own address of ours; none when it is nobody's.
    #[inline]
    pub fn owner(&self, tuple: &Tuple) -> Option<usize> {
        if tuple.dport >= FIRST_PORT
            && let Ok(at) = self.by_address.binary_search_by_key(&Addr(tuple.dst), |(addr, _)| *addr)
            && let Some(worker) = self.by_address[at].1.worker(tuple).filter(|worker| *worker < self.workers)
        {
            return Some(worker);
        }
        worker_of_port(tuple.dport, self.workers)
    }

    /// Whose queue the first port with a known card brings a client's frame to. Whatever comes in by other ports is led by the same.
    #[inline]
    pub fn of_client(&self, tuple: &Tuple) -> Option<usize> {
        self.first.as_ref()?.worker(tuple).filter(|worker| *worker < self.workers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_a_worker_is_known_as_its_own() {
        for workers in [1, 2, 3, 5, 7, 64, 1000, MAX_WORKERS] {
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
