//! Rows as they lie in memory that outlives the process: eight words each, with a checksum.
//!
//! | word | exact row | key name and backend | candidate |
//! |---|---|---|---|
//! | 0 | checksum of the others | the same | the same |
//! | 1 | kind, flags, maker | the same | the same |
//! | 2 | the backend's name, hashed ([`called`]) | the same | the same |
//! | 3 | last used | the same | last seen |
//! | 4, 5 | key | key name | key name |
//! | 6, 7 | key; of a cookie key, end | first used, 0 | identity, 0 |
//!
//! A row says all that is to be known of it: where it lies, and what lies beside it, means nothing. So one that was torn while it was written is
//! that one row, and tables of other sizes take in what they have room for. Backends are meant by name: numbers are given anew at each start. Times
//! are those of a clock that goes on from process to process. No hash of a row is kept: its key is a secret of the process.

use super::key::{Key, KeyName};
use super::{CHECKS, host_tag};
use crate::backend::BackendId;
use core::hash::Hasher;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use siphasher::sip::SipHasher13;
use std::sync::Arc;

/// Words of a row.
pub const SAVED_WORDS: usize = 8;

/// Not a secret: against what happens, not against who can write the file.
const KEY: &[u8; 16] = b"rows of affinity";

const OPENER: u64 = 4;
const CANDIDATE: u64 = 5;
const COOKIE: u64 = 6;
const FLAG: u64 = 1 << 8;
const MAKER: u32 = 16;
/// Bits of the second word that mean something.
const MEANT: u64 = 0xffff << MAKER | FLAG | 0xff;

/// How a backend is meant in rows: by its name.
pub fn called(name: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_key(KEY);
    hasher.write(name.as_bytes());
    hasher.finish().max(1)
}

/// What a row is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum About {
    /// A session ID or ticket that was issued or resumed; and whether it was refused once.
    Exact {
        /// Which.
        key: Key,
        /// By the backend, to the client that made it.
        refused: bool,
    },
    /// A cookie that was set; and whether it was refused once.
    Cookie {
        /// Which.
        key: Key,
        /// When it ends by itself; 0: so long after its last use.
        end: u64,
        /// By the backend, to the client that made it.
        refused: bool,
    },
    /// A key name that the backend opens.
    Name {
        /// Which.
        name: KeyName,
        /// When the backend began to use it.
        since: u64,
        /// Its backends refuse each other's tickets.
        doubted: bool,
    },
    /// A prefix seen once.
    Candidate {
        /// Which.
        name: KeyName,
        /// Of the ticket or identity that was seen with it.
        identity: u64,
    },
}

/// A row that was kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Saved {
    /// What it is about.
    pub about: About,
    /// Its backend: see [`called`].
    pub backend: u64,
    /// Whose connection made it: see [`host_tag`](super::host_tag).
    pub maker: u16,
    /// Last used, on the clock that outlives processes; milliseconds.
    pub used: u64,
}

/// A row whose checksum is not its own, or that no version wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damaged;

impl Saved {
    /// A key name that checks have shown.
    pub(super) fn is_of_checks(&self) -> bool {
        matches!(self.about, About::Name { .. }) && self.maker == host_tag(CHECKS)
    }

    /// As it is kept.
    pub fn to_words(&self) -> [u64; SAVED_WORDS] {
        let name = |name: &KeyName| {
            let whole = u128::from_le_bytes(*name);
            [whole as u64, (whole >> 64) as u64]
        };
        let (kind, flag, about) = match &self.about {
            About::Exact { key, refused } => {
                let (kind, words) = key.to_words();
                (kind, *refused, words)
            }
            About::Cookie { key, end, refused } => {
                let (_, [a, b, c, _]) = key.to_words();
                (COOKIE, *refused, [a, b, c, *end])
            }
            About::Name { name: of, since, doubted } => {
                let [low, high] = name(of);
                (OPENER, *doubted, [low, high, *since, 0])
            }
            About::Candidate { name: of, identity } => {
                let [low, high] = name(of);
                (CANDIDATE, false, [low, high, *identity, 0])
            }
        };
        let head = kind | (u64::from(flag) * FLAG) | u64::from(self.maker) << MAKER;
        let [a, b, c, d] = about;
        let mut words = [0, head, self.backend, self.used, a, b, c, d];
        words[0] = checksum(&words);
        words
    }

    /// The inverse; `None` where there is no row.
    pub fn from_words(words: &[u64; SAVED_WORDS]) -> Result<Option<Saved>, Damaged> {
        if *words == [0; SAVED_WORDS] {
            return Ok(None);
        }
        let [sum, head, backend, used, a, b, c, d] = *words;
        if sum != checksum(words) || head & !MEANT != 0 {
            return Err(Damaged);
        }
        let (kind, flag) = (head & 0xff, head & FLAG != 0);
        let name = (u128::from(a) | u128::from(b) << 64).to_le_bytes();
        let about = match kind {
            OPENER if d == 0 => About::Name { name, since: c, doubted: flag },
            CANDIDATE if d == 0 && !flag => About::Candidate { name, identity: c },
            COOKIE => About::Cookie { key: Key::cookie_from_words([a, b, c]), end: d, refused: flag },
            _ => About::Exact { key: Key::from_words(kind, [a, b, c, d]).ok_or(Damaged)?, refused: flag },
        };
        Ok(Some(Saved { about, backend, maker: (head >> MAKER) as u16, used }))
    }
}

/// Of all words but the first, which is for it.
fn checksum(words: &[u64; SAVED_WORDS]) -> u64 {
    let mut hasher = SipHasher13::new_with_key(KEY);
    words[1..].iter().for_each(|word| hasher.write(&word.to_le_bytes()));
    hasher.finish()
}

/// Memory that outlives the process: words, which processes to come read in order.
pub type Memory = Arc<dyn AsRef<[AtomicU64]> + Send + Sync>;

/// Where one table's rows are kept besides: one writer, and no reader while it runs.
pub(crate) struct Mirror {
    memory: Memory,
    /// Its first word.
    first: usize,
    /// By slot: what the backend is called.
    called: Arc<[AtomicU64]>,
    /// How far the clock of rows that are kept is ahead of that of the tables.
    ahead: u64,
}

impl Mirror {
    /// From this row of the memory on.
    pub fn new(memory: &Memory, row: usize, called: &Arc<[AtomicU64]>, ahead: u64) -> Mirror {
        Mirror { memory: memory.clone(), first: row * SAVED_WORDS, called: called.clone(), ahead }
    }

    fn words(&self, at: usize) -> &[AtomicU64] {
        let first = self.first + at * SAVED_WORDS;
        (*self.memory).as_ref().get(first..first + SAVED_WORDS).unwrap_or_default()
    }

    /// Keeps a row; times are those of the tables. Not that of a backend that nobody has named.
    pub fn put(&self, at: usize, backend: BackendId, maker: u16, used: u64, about: About) {
        let called = self.called.get(backend.index()).map_or(0, |called| called.load(Relaxed));
        if called == 0 {
            return self.clear(at);
        }
        let about = match about {
            About::Name { name, since, doubted } => {
                About::Name { name, since: since.wrapping_add(self.ahead), doubted }
            }
            About::Cookie { key, end, refused } if end > 0 => {
                About::Cookie { key, end: end.wrapping_add(self.ahead), refused }
            }
            other => other,
        };
        let saved = Saved { about, backend: called, maker, used: used.wrapping_add(self.ahead) };
        self.write(at, &saved.to_words());
    }

    /// Keeps none.
    pub fn clear(&self, at: usize) {
        self.write(at, &[0; SAVED_WORDS]);
    }

    // In whatever order the words get there: the checksum fits those of one row only.
    fn write(&self, at: usize, words: &[u64; SAVED_WORDS]) {
        self.words(at).iter().zip(words).for_each(|(to, word)| to.store(*word, Relaxed));
    }
}
