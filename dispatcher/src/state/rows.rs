//! Rows that an earlier process kept, taken in one by one.

use super::header::{Beat, Header, PAGE};
use crate::engine::Share;
use crate::time::Time;
use lb::BackendId;
use lb::affinity::{Restored, SAVED_WORDS, Saved};
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};

/// What became of the rows of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Taken {
    /// Known again.
    pub known: u64,
    /// Too old.
    pub expired: u64,
    /// Of backends that are not wanted any more.
    pub gone: u64,
    /// For which there was no room.
    pub refused: u64,
    /// With a wrong checksum.
    pub damaged: u64,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows are known again", self.known)?;
        let left_out = [
            (self.expired, "too old"),
            (self.gone, "of backends that are gone"),
            (self.refused, "without room"),
            (self.damaged, "damaged"),
        ];
        left_out.iter().filter(|(n, _)| *n > 0).try_for_each(|(n, why)| write!(f, ", {n} {why}"))
    }
}

/// Reads the rows behind a page into the tables of all workers. `wall`: milliseconds since 1970.
pub fn take(
    mut from: impl Read,
    header: &Header,
    beat: &Beat,
    shares: &mut [Share],
    now: Time,
    wall: u64,
) -> (Taken, io::Result<()>) {
    let clock = beat.clock_at(wall);
    let called: HashMap<u64, BackendId> = match shares.first() {
        Some(share) => share.directory().backends().map(|b| (lb::affinity::called(&b.name), b.id)).collect(),
        None => HashMap::new(),
    };
    let mut taken = Taken::default();
    let mut bytes = [0; SAVED_WORDS * 8];
    for _ in 0..header.rows {
        if let Err(e) = from.read_exact(&mut bytes) {
            return (taken, Err(e));
        }
        let saved = match Saved::from_words(&words(&bytes)) {
            Ok(Some(saved)) => saved,
            Ok(None) => continue,
            Err(_) => {
                taken.damaged += 1;
                continue;
            }
        };
        let Some(backend) = called.get(&saved.backend) else {
            taken.gone += 1;
            continue;
        };
        // A beat may be a little older than the last rows.
        let age = clock.saturating_sub(saved.used);
        match Share::restore(shares, &saved, *backend, now, age) {
            Restored::Known => taken.known += 1,
            Restored::Expired => taken.expired += 1,
            Restored::Refused => taken.refused += 1,
        }
    }
    (taken, Ok(()))
}

/// The same of a whole file that is in memory. `None` when it is not believed on this machine.
pub fn take_all(file: &[u8], machine: [u64; 2], shares: &mut [Share], now: Time, wall: u64) -> Option<Taken> {
    let (page, behind) = file.split_at_checked(PAGE * 8)?;
    let (header, beat) = Header::read(&words(page), file.len() as u64, machine).ok()?;
    Some(take(behind, &header, &beat, shares, now, wall).0)
}

/// As many words as there are.
pub(super) fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
    }
    words
}
