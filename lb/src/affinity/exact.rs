//! Exact rows: one for a session ID or ticket, naming the backend that issued it or resumed it.
//!
//! Bounded by `--session-capacity`; when a bucket is full the client that holds most gives way, see [`fair`](super::fair).

use super::fair::{FairWriter, maker};
use super::key::Key;
use super::metrics::TableCounters;
use super::table::{HASH, META, STAMP, Table, WAYS};
use crate::backend::{BackendId, BackendSet};
use crate::sync::Arc;
use core::ops::Range;

/// Hash, stamp, meta, and the key in four words. With the sequence number: one cache line.
pub(crate) const WORDS: usize = 7;

/// A row goes when its backend refused it so often in a row to the client that made it. One refusal may be about the hello rather than
/// the session (another cipher suite, SNI or version), and then the server still has the session. What others are refused counts for
/// nothing: they may have seen the identity on its way, and a row that leads to a session that is gone does no harm.
pub(crate) const FORGET_AFTER: u64 = 2;

/// Meta word: kind 0..8, length 8..16, refusals in a row 16..24, backend 32..48, maker 48..64.
const REFUSALS: u32 = 16;
const BACKEND: u32 = 32;
/// All but the maker.
const UNMADE: u64 = (1 << 48) - 1;

/// A decoded row.
pub(crate) struct ExactRow {
    pub key: Key,
    pub backend: BackendId,
    pub used: u64,
}

pub(crate) fn decode(words: &[u64; WORDS]) -> Option<ExactRow> {
    let key = Key::from_words(words[META], [words[3], words[4], words[5], words[6]])?;
    Some(ExactRow { key, backend: BackendId((words[META] >> BACKEND) as u16), used: words[STAMP] })
}

fn encode(key: &Key, hash: u64, backend: BackendId, now: u64, refusals: u64) -> [u64; WORDS] {
    let (meta, k) = key.to_words();
    [hash, now, meta | refusals << REFUSALS | u64::from(backend.0) << BACKEND, k[0], k[1], k[2], k[3]]
}

fn is(key: &Key, words: &[u64; WORDS]) -> bool {
    let (meta, k) = key.to_words();
    words[META] & 0xffff == meta && words[3..] == k
}

/// The live row of a key.
pub(crate) fn find(
    table: &Table<WORDS>,
    key: &Key,
    hash: u64,
    now: u64,
    ttl: u64,
    busy: &mut u64,
) -> Option<BackendId> {
    let row = table.find(hash, busy, |words| is(key, words).then(|| decode(words)).flatten())?;
    (now.saturating_sub(row.used) <= ttl).then_some(row.backend)
}

/// One shard's writer.
pub(crate) struct ExactShard {
    writer: FairWriter<WORDS>,
    ttl: u64,
    cursor: usize,
}

impl ExactShard {
    pub fn new(capacity: usize, ttl: u64) -> ExactShard {
        ExactShard { writer: FairWriter::new(capacity, WAYS), ttl, cursor: 0 }
    }

    pub const fn bytes_for(capacity: usize) -> usize {
        FairWriter::<WORDS>::bytes_for(capacity, WAYS)
    }

    pub fn table(&self) -> Arc<Table<WORDS>> {
        self.writer.table()
    }

    /// The backend has this session: it issued it, or resumed it. A row that names another backend moves only with the client that made it:
    /// where two backends have the session (a shared cache, one server with an address of each family), somebody who saw the identity on its
    /// way could otherwise lead its owner to the other one.
    pub fn has(
        &mut self,
        key: &Key,
        hash: u64,
        backend: BackendId,
        client: u16,
        now: u64,
        counters: &mut TableCounters,
    ) {
        let fresh = encode(key, hash, backend, now, 0);
        if let Some(at) = self.writer.position(hash, |words| is(key, words)) {
            let meta = self.writer.get(at)[META];
            if meta & UNMADE == fresh[META] {
                self.writer.touch(at, now);
            } else if (meta >> BACKEND) as u16 == backend.0 || maker(meta) == client {
                // Refusals have to be forgotten, or the row moves.
                self.writer.replace(at, &fresh);
            }
            return;
        }
        let (done, _) = self.writer.insert(fresh, client, now.saturating_sub(self.ttl), |words| words[STAMP]);
        counters.count(done);
    }

    /// The backend was offered this session and did not resume it.
    pub fn refused(&mut self, key: &Key, hash: u64, backend: BackendId, client: u16, counters: &mut TableCounters) {
        let Some(at) = self.writer.position(hash, |words| is(key, words)) else { return };
        let mut words = self.writer.get(at);
        if (words[META] >> BACKEND) as u16 != backend.0 || maker(words[META]) != client {
            return; // It never promised that, or not to this client.
        }
        let refusals = (words[META] >> REFUSALS & 0xff) + 1;
        if refusals >= FORGET_AFTER {
            self.writer.remove(at);
            counters.retired += 1;
        } else {
            words[META] = words[META] & !(0xff << REFUSALS) | refusals << REFUSALS;
            self.writer.replace(at, &words);
        }
    }

    /// Clears expired rows among the next `rows` of the table.
    pub fn sweep(&mut self, now: u64, rows: usize, counters: &mut TableCounters) {
        let expired_before = now.saturating_sub(self.ttl);
        let gone = self.writer.sweep(self.cursor..self.cursor + rows, |words| words[STAMP] < expired_before);
        counters.expired += gone as u64;
        self.cursor += rows;
        if self.cursor >= self.writer.capacity() {
            self.cursor = 0;
        }
    }

    pub fn capacity(&self) -> usize {
        self.writer.capacity()
    }

    /// Clears the rows of backends among those in `places`.
    pub fn forget(&mut self, backends: &BackendSet, places: Range<usize>) {
        self.writer.sweep(places, |words| backends.contains(BackendId((words[META] >> BACKEND) as u16)));
    }
}

const _: () = assert!(HASH == 0 && STAMP == 1 && META == 2);
