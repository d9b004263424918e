//! What the engines of several workers have in common, and each one's part of it.
//!
//! Common are the secret (a cookie issued by one is verified by any; all hash clients alike), the directory with its connection
//! counts, and the affinity tables, of which each engine writes one shard and reads all. Divided are flows, buffers, server flights, the
//! rate of resets, and the local ports: those of the dials and those of the probes, so that a returning frame tells whose
//! it is ([`Returning`]). Everything else (neighbours, what is known of the backends' health and options) each engine
//! learns for itself: what was agreed with a client stands in its cookie, so engines need not be of one mind.

use super::pace::Observed;
use super::{Config, ConfigError, Returning, TicketKey};
use crate::path::{MAX_WORKERS, Revision};
use crate::time::Time;
use crate::wire::{Addr, Family};
use lb::affinity::{Memory, Restored, Saved};
use lb::{Affinity, BackendId, Directory, Left, Millis, Released};
use siphasher::sip::{SipHasher13, SipHasher24};
use std::sync::Arc;

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
    pub(super) observed: Arc<Observed>,
}

impl Share {
    /// The parts of `workers` engines, in order of their numbers. All of them are to be given the same configuration and secret.
    pub fn divide(config: &Config, secret: &[u8; 32], workers: usize) -> Result<Vec<Share>, ConfigError> {
        Share::divide_with(config, secret, workers, &Left::default())
    }

    /// The same, where connections of another process are to be taken over, to what it serves or lets go of.
    pub fn divide_with(
        config: &Config,
        secret: &[u8; 32],
        workers: usize,
        left: &Left,
    ) -> Result<Vec<Share>, ConfigError> {
        if !(1..=MAX_WORKERS).contains(&workers) {
            return Err(ConfigError(format!("{workers} workers: 1 to {MAX_WORKERS} are possible")));
        }
        let first = Directory::next(None, &config.wanted, |_| true);
        let directory = first.and_then(|first| first.and_leaving(left)).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(|fault| fault.to_string()).collect();
            ConfigError(faults.join("; "))
        })?;
        let directory = Arc::new(directory);
        let revision = Arc::new(Revision::new(config, directory.clone())?);
        let released = Arc::new(Released::new(workers));
        let tables = config.limits.affinity(config.limits.slots(directory.slots()));
        let mut affinity = lb::Config { secret: derived(secret, 1), ..tables }.lives(config.session_ttl);
        affinity.one_refusal_counts = one_refusal_counts(&directory);
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
        let observed = Arc::new(Observed::new(config.limits.slots(directory.slots())));
        let share = |(worker, affinity)| Share {
            worker,
            workers,
            revision: revision.clone(),
            released: released.clone(),
            affinity,
            returning: returning.clone(),
            observed: observed.clone(),
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

    /// Rows of memory that outlives the process that [`Share::keep`] wants for all of these.
    pub fn kept_rows(all: &[Share]) -> usize {
        lb::affinity::kept_rows(all.iter().map(|share| &share.affinity))
    }

    /// What the affinity tables learn from now on is kept in this memory, too, under the backends' names. `all` are all shares, in
    /// order. The clock of what is kept is `ahead` milliseconds ahead of [`session_time`].
    pub fn keep(all: &mut [Share], memory: &Memory, ahead: u64) {
        let Some(any) = all.first() else { return };
        let called = any.directory().backends().map(|b| (b.id, lb::affinity::called(&b.name)));
        let called: Vec<_> = called.collect();
        Affinity::keep(&mut Share::tables(all), memory, &called, ahead);
    }

    /// Takes in a row that was kept, `age` milliseconds after its last use.
    pub fn restore(all: &mut [Share], saved: &Saved, backend: BackendId, now: Time, age: u64) -> Restored {
        Affinity::restore(&mut Share::tables(all), saved, backend, session_time(now), age)
    }

    /// No checks will say whose key names are all known: what those of an earlier process have said does not count.
    pub fn explain_nobody(all: &mut [Share]) {
        for share in all {
            let backends: Vec<_> = share.directory().backends().map(|b| b.id).collect();
            backends.iter().for_each(|backend| share.affinity.explain(*backend, false));
        }
    }

    fn tables(all: &mut [Share]) -> Vec<&mut Affinity> {
        all.iter_mut().map(|share| &mut share.affinity).collect()
    }

    /// Which worker's it is.
    pub fn worker(&self) -> usize {
        self.worker
    }
}

/// Points in time as the affinity tables have them. They know of times before the beginning: those of rows that an earlier process has kept, 199
/// days before it at most.
pub const fn session_time(now: Time) -> Millis {
    const BEGINNING: u64 = 1 << 34;
    Millis(now.as_millis().saturating_add(BEGINNING))
}

/// 16 bytes for one purpose out of the secret, telling nothing about those for others.
pub(crate) fn derived(secret: &[u8; 32], purpose: u8) -> [u8; 16] {
    let mut out = [0; 16];
    for (i, half) in out.chunks_exact_mut(8).enumerate() {
        let key: &[u8; 16] = secret[..16].try_into().expect("16 of 32 bytes");
        let mut message = [purpose; 17];
        message[..16].copy_from_slice(&secret[16..]);
        let word = SipHasher24::new_with_key(key).hash(&[&message[..], &[i as u8]].concat());
        half.copy_from_slice(&word.to_le_bytes());
    }
    out
}

/// Whether one refusal of a ticket key's name counts for everybody. Where in any pool a client's address leads to its server it may not: the
/// client would be led away from it by the refusals of others.
pub(super) fn one_refusal_counts(directory: &Directory) -> bool {
    !directory.pools().any(|pool| pool.address_finds_server())
}

/// Who a client is: a host may have any address of its /64, and rarely more than one of IPv4; a site has a /48, or a /24.
pub(super) fn client_identity(keyed: &SipHasher13, addr: Addr) -> u64 {
    let of = |bytes: &[u8]| keyed.hash(bytes) as u32;
    // Of four lengths, so that no two of them are hashed alike.
    let (host, network) = match addr.family() {
        Family::V4 => (&addr.0[12..], &addr.0[12..15]),
        Family::V6 => (&addr.0[..8], &addr.0[..6]),
    };
    lb::affinity::client(of(network), of(host))
}
