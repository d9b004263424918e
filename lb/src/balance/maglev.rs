//! Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4),
//! weighted.
//!
//! Each backend has its own permutation of the table's slots, made from two hashes of its *name*. In turns, each takes
//! the first slot of its permutation that is still free, until the table is full. A backend of weight `w` takes part in
//! `w / max(weights)` of the rounds. Turns go in the order of the names' hashes, so neither the order of flags nor the
//! numbers of backends matter, and dispatchers that know the same names and weights build the same table.
//!
//! A backend that may not be chosen now (down, draining, already tried, wrong family) is *walked past*, the table is
//! not rebuilt: the lookup hashes on from the client's hash, at most [`PROBES`] times, then takes the eligible backend
//! with the greatest hash of (name, client). Both are functions of client and backend alone: every worker and
//! dispatcher walks the same way, the share of a backend that is down spreads over all the others by weight, and nobody
//! else's clients move. The paper rebuilds instead, which also moves a few entries between backends that are up.

use crate::backend::{BackendId, MAX_BACKENDS};
use siphasher::sip::SipHasher24;

/// Lookups walk through so many slots before they compare all backends. With half of the backends ineligible one in
/// 2^64 lookups gets that far; when 99 of 100 are, every second.
pub const PROBES: u64 = 64;

const NONE: u16 = u16::MAX;

/// Table sizes: primes, each twice the one before. A table of another size has all clients elsewhere, so the size must not change with
/// every backend that comes or goes: only with the 656th, 1312th and 2622nd.
const SIZES: [usize; 4] = [65_537, 131_101, 262_147, 524_309];

/// Slots for `backends` members: a prime, at least 65537 (as in the paper) and at least 100 for each, which keeps the
/// shares of equal backends within about 1 % of each other. (Less for a fuzzer, which builds one for every input.)
pub fn table_size(backends: usize) -> usize {
    const { assert!(SIZES[SIZES.len() - 1] >= 100 * MAX_BACKENDS) };
    if cfg!(fuzzing) && backends <= 10 {
        return 1021;
    }
    SIZES.into_iter().find(|size| *size >= 100 * backends).unwrap_or(SIZES[SIZES.len() - 1])
}

/// Two numbers that depend on the name alone. The key is no secret: all dispatchers must agree.
fn name_hashes(name: &str) -> (u64, u64) {
    let hash = |key| SipHasher24::new_with_keys(0x6d61_676c_6576, key).hash(name.as_bytes());
    (hash(1), hash(2))
}

/// SplitMix64's finalizer: each input bit reaches each output bit.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// An immutable lookup table. Two bytes per slot.
pub struct Maglev {
    slots: Box<[u16]>,
    members: Box<[Placed]>,
}

/// A backend of a table.
struct Placed {
    id: BackendId,
    weight: u16,
    /// Both hashes of its name.
    name: (u64, u64),
}

impl Maglev {
    /// From numbers, names and weights. Backends of weight zero get no slot.
    pub fn build(members: &[(BackendId, &str, u16)]) -> Maglev {
        Maglev::with_size(members, table_size(members.len()))
    }

    /// With a table of `size` slots, which must be a prime greater than the number of members.
    pub fn with_size(members: &[(BackendId, &str, u16)], size: usize) -> Maglev {
        struct Turn {
            id: u16,
            weight: u64,
            next: u64,
            skip: u64,
            credit: u64,
        }
        let m = size as u64;
        let hashes: Vec<(u64, u64)> = members.iter().map(|(_, name, _)| name_hashes(name)).collect();
        let mut order: Vec<usize> = (0..members.len()).filter(|&i| members[i].2 > 0).collect();
        order.sort_by_key(|&i| (hashes[i], members[i].1));
        let mut turns: Vec<Turn> = order
            .into_iter()
            .map(|i| Turn {
                id: members[i].0.0,
                weight: u64::from(members[i].2),
                next: hashes[i].0 % m,
                skip: hashes[i].1 % (m - 1) + 1,
                credit: 0,
            })
            .collect();
        let heaviest = turns.iter().map(|t| t.weight).max().unwrap_or(1);
        let mut slots = vec![NONE; size];
        let mut free = if turns.is_empty() { 0 } else { size };
        while free > 0 {
            for turn in &mut turns {
                // A turn is earned when the credit reaches the heaviest weight: that one plays every round.
                turn.credit += turn.weight;
                if turn.credit < heaviest {
                    continue;
                }
                turn.credit -= heaviest;
                while slots[turn.next as usize] != NONE {
                    turn.next = step(turn.next, turn.skip, m);
                }
                slots[turn.next as usize] = turn.id;
                turn.next = step(turn.next, turn.skip, m);
                free -= 1;
                if free == 0 {
                    break;
                }
            }
        }
        let members = members.iter().zip(hashes).map(|(&(id, _, weight), name)| Placed { id, weight, name }).collect();
        Maglev { slots: slots.into(), members }
    }

    /// The backend of a client's hash, walking past those that may not be chosen. `None` when none may.
    pub fn pick(&self, hash: u64, may: impl Fn(BackendId) -> bool) -> Option<BackendId> {
        let m = self.slots.len() as u64;
        let mut at = hash;
        for _ in 0..PROBES {
            let id = self.slots[(at % m) as usize];
            if id == NONE {
                return None;
            }
            if may(BackendId(id)) {
                return Some(BackendId(id));
            }
            at = mix(at.wrapping_add(0x9e37_79b9_7f4a_7c15));
        }
        self.members
            .iter()
            .filter(|m| m.weight > 0 && may(m.id))
            .max_by_key(|m| (mix(m.name.0 ^ hash), m.name.0))
            .map(|m| m.id)
    }

    /// It is what [`Maglev::build`] would make of these.
    pub(crate) fn is_of(&self, members: &[(BackendId, &str, u16)]) -> bool {
        let same = |(placed, &(id, name, weight)): (&Placed, &(BackendId, &str, u16))| {
            placed.id == id && placed.weight == weight && placed.name == name_hashes(name)
        };
        self.members.len() == members.len() && self.members.iter().zip(members).all(same)
    }

    /// The table itself: the backend of each slot; empty of backends when nobody has weight.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = Option<BackendId>> + '_ {
        self.slots.iter().map(|&id| (id != NONE).then_some(BackendId(id)))
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.slots) + size_of_val(&*self.members)
    }
}

impl core::fmt::Debug for Maglev {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Maglev({} slots, {} backends)", self.slots.len(), self.members.len())
    }
}

fn step(at: u64, skip: u64, m: u64) -> u64 {
    let next = at + skip;
    if next >= m { next - m } else { next }
}
