//! A bounded table of dense rows with one writer and any number of lock-free readers: bucketized cuckoo hashing. No `unsafe`.
//!
//! # Shape
//!
//! A table is an array of buckets of [`WAYS`] rows. A key may live in either of two buckets (Pagh and Rodler, "Cuckoo hashing", 2004; with
//! several rows a bucket, Dietzfelbinger and Weidling, 2007), and nowhere else. A row is `W` words of 64 bits, of which the last is zero in
//! an empty row and never else. Apart from the rows, 16 bytes for each bucket: a sequence number, and a *tag* for each row, one byte of
//! the key's hash, zero for an empty row.
//!
//! So a lookup reads the tags of two buckets, which for a million rows are 2 MB and stay in the caches, and then only rows whose tag is right:
//! all but one in 16 lookups of an absent key read no row at all, and of a present key one, on one or two cache lines.
//!
//! A key's second bucket follows from its first and its tag, and the first from the second in the same way, as in a cuckoo filter (Fan et al.,
//! "Cuckoo Filter: Practically Better Than Bloom", CoNEXT 2014): rows need not hold their hash to be moved.
//!
//! **And when full?** A new row goes into the emptier of its two buckets. Are both full, an expired row in one of them goes; else one of
//! their rows is moved into its other bucket, if there is room; else the row goes that the caller values least (usually the least recently
//! used), which is reported, to be counted. So the table is full before a row is lost: filled to 90 %, it has lost one in
//! ten thousand at most.
//!
//! # Memory protocol
//!
//! There is exactly one [`Writer`], which is not `Clone` and writes through `&mut self`. All words are atomics. It publishes a row with its
//! tag as [`table`](super::table) does, by the sequence number of its bucket; W and R number the same steps as there:
//!
//! | writer: `publish` | reader: `snapshot` of a row |
//! |---|---|
//! | W1 `seq := odd`, relaxed | R1 `s := seq`, acquire; odd: try again |
//! | W2 fence, release | R2 read all words, relaxed |
//! | W3 write all words, then the tags, relaxed | R3 fence, acquire |
//! | W4 `seq := even`, release | R4 `seq`, relaxed; differs from `s`: try again |
//!
//! A snapshot that is kept holds the words of one publication, for the reasons given there. Two things are new:
//!
//! * *Tags* are read relaxed and alone. All tags of a bucket are one word, and a store of it changes one byte: a row that was published
//!   before the reader began, and is not being moved or removed, has its tag in whatever value is read. A tag that has gone since, or is
//!   there before its row, leads to a snapshot without the key: decided by the snapshot alone.
//! * *Moving* a row would hide it from a reader that looks into the new bucket before, and into the old one after. So:
//!
//! | writer: `shift` | reader: `find` |
//! |---|---|
//! | S1 publish the row in its new bucket | F1 `m := moves`, acquire |
//! | S2 `moves := moves + 1`, release | F2 look into both buckets |
//! | S3 publish the old place as empty | F3 not found: fence, acquire; `moves`, relaxed; differs from `m`: look again |
//!
//!   If F1 reads S2 or later, it happens after S1, and F2 sees the row in its new bucket (unless it is moved once more: then `moves` differs
//!   again). Else F2 misses it only if it has read something that S3 stored, a tag or a sequence number; that store comes after S3's W2, so
//!   with F3's fence S2 happens before F3, and `moves` differs. In between the row is in both buckets, the same in both.
//!
//! The exception, as there: [`Writer::touch`] stores the last word alone, relaxed, without moving `seq`; it must not say anything of the key.
//!
//! A reader never waits for the writer: after [`ATTEMPTS`] failed attempts the key counts as absent. The writer reads its own rows relaxed.
//!
//! `tests/loom.rs` checks the protocol on tiny tables; `tests/threads.rs` on large ones with real threads; `tests/cuckoo.rs` compares with a
//! map.

use super::table::{ATTEMPTS, Inserted};
use crate::sync::{Arc, AtomicU64, Ordering::*, fence, spin_loop};

/// Rows of a bucket: as many as tags in a word. (Two in a model: what matters is that there are others.)
pub const WAYS: usize = if cfg!(loom) { 2 } else { 8 };

/// The lowest bit of each tag.
const LOW: u64 = 0x0101_0101_0101_0101;
/// The highest bit of each tag.
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The highest bit of each tag that is `tag`. (The subtraction borrows upwards: a tag above a right one that differs from it in the lowest bit
/// alone is marked, too, and its row read for nothing.)
const fn marks(tags: u64, tag: u8) -> u64 {
    let differs = tags ^ (tag as u64 * LOW);
    differs.wrapping_sub(LOW) & !differs & HIGH >> (64 - 8 * WAYS)
}

/// The ways of marked tags, the first first.
fn ways(mut marks: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let way = marks.trailing_zeros() as usize / 8;
        (marks != 0).then(|| {
            marks &= marks - 1;
            way
        })
    })
}

const fn free_ways(tags: u64) -> u32 {
    // A tag's bits folded into its highest one.
    let used = (((tags & !HIGH) + !HIGH) | tags) & HIGH;
    WAYS as u32 - used.count_ones()
}

struct Head {
    seq: AtomicU64,
    tags: AtomicU64,
}

/// A cache line that readers share, apart from what the writer writes for every row.
#[repr(align(128))]
struct Moves(AtomicU64);

/// The readers' side: share it as `Arc<Cuckoo<W>>`.
pub struct Cuckoo<const W: usize> {
    heads: Box<[Head]>,
    /// Bucket after bucket.
    rows: Box<[[AtomicU64; W]]>,
    moves: Moves,
}

impl<const W: usize> Cuckoo<W> {
    /// A table of at least `capacity` rows and its only writer. Rows are rounded up to whole buckets.
    #[allow(clippy::new_ret_no_self)] // the writer is the new thing; the table is what it shares
    pub fn new(capacity: usize) -> Writer<W> {
        let buckets = capacity.max(1).div_ceil(WAYS);
        let zero = |_| AtomicU64::new(0);
        let table = Cuckoo {
            heads: (0..buckets).map(|_| Head { seq: AtomicU64::new(0), tags: AtomicU64::new(0) }).collect(),
            rows: (0..buckets * WAYS).map(|_| core::array::from_fn(zero)).collect(),
            moves: Moves(AtomicU64::new(0)),
        };
        Writer { table: Arc::new(table), used: 0 }
    }

    /// Bytes a table of this capacity takes.
    pub const fn bytes_for(capacity: usize) -> usize {
        let capacity = if capacity == 0 { 1 } else { capacity };
        capacity.div_ceil(WAYS) * (size_of::<Head>() + WAYS * size_of::<[AtomicU64; W]>())
    }

    /// Rows, used or not.
    pub fn capacity(&self) -> usize {
        self.rows.len()
    }

    /// Where it lies.
    pub fn memory(&self) -> [core::ops::Range<*const u8>; 2] {
        let (heads, rows) = (self.heads.as_ptr_range(), self.rows.as_ptr_range());
        [heads.start.cast()..heads.end.cast(), rows.start.cast()..rows.end.cast()]
    }

    /// A key's first bucket, by the upper bits of its hash, and its tag, by the lowest: those between have chosen the shard.
    #[inline]
    fn home(&self, hash: u64) -> (usize, u8) {
        (((u128::from(hash) * self.heads.len() as u128) >> 64) as usize, (hash as u8).max(1))
    }

    /// The other bucket of a row with this tag: both add up to the same number, modulo all buckets.
    #[inline]
    fn other(&self, bucket: usize, tag: u8) -> usize {
        let buckets = self.heads.len();
        let spread = u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let sum = ((u128::from(spread) * buckets as u128) >> 64) as usize;
        if sum >= bucket { sum - bucket } else { sum + buckets - bucket }
    }

    /// The first row of this hash that `take` likes: a consistent snapshot, no older than the latest publication that happened before the call.
    /// `busy` is raised when a row was given up because the writer kept changing its bucket.
    #[inline]
    pub fn find<T>(&self, hash: u64, busy: &mut u64, mut take: impl FnMut(&[u64; W]) -> Option<T>) -> Option<T> {
        let (one, tag) = self.home(hash);
        let two = self.other(one, tag);
        for _ in 0..ATTEMPTS {
            let moves = self.moves.0.load(Acquire); // F1
            // F2. Both are asked for before either is looked at: neither waits for the other.
            let tags = [one, two].map(|bucket| self.heads[bucket].tags.load(Relaxed));
            for (bucket, tags) in [one, two].into_iter().zip(tags) {
                for way in ways(marks(tags, tag)) {
                    match self.snapshot(bucket, way) {
                        Some(words) if words[W - 1] != 0 => {
                            if let Some(found) = take(&words) {
                                return Some(found);
                            }
                        }
                        Some(_) => {}
                        None => *busy += 1,
                    }
                }
            }
            fence(Acquire);
            // F3
            if self.moves.0.load(Relaxed) == moves {
                return None;
            }
            spin_loop();
        }
        *busy += 1;
        None
    }

    /// `None` when the writer kept changing the bucket.
    fn snapshot(&self, bucket: usize, way: usize) -> Option<[u64; W]> {
        let seq = &self.heads[bucket].seq;
        for _ in 0..ATTEMPTS {
            let before = seq.load(Acquire); // R1
            if before & 1 == 0 {
                let words = self.own(bucket * WAYS + way); // R2
                fence(Acquire); // R3
                if seq.load(Relaxed) == before {
                    return Some(words); // R4
                }
            }
            spin_loop();
        }
        None
    }

    /// Unprotected: the writer's, or part of a snapshot.
    fn own(&self, at: usize) -> [u64; W] {
        let row = &self.rows[at];
        core::array::from_fn(|i| row[i].load(Relaxed))
    }

    /// Only by the one writer. An empty row has tag zero.
    fn publish(&self, at: usize, words: &[u64; W], tag: u8) {
        let Head { seq, tags } = &self.heads[at / WAYS];
        let before = seq.load(Relaxed);
        seq.store(before.wrapping_add(1), Relaxed); // W1
        fence(Release); // W2
        for (to, &word) in self.rows[at].iter().zip(words) {
            to.store(word, Relaxed); // W3
        }
        let shift = at % WAYS * 8;
        tags.store(tags.load(Relaxed) & !(0xff << shift) | u64::from(tag) << shift, Relaxed);
        seq.store(before.wrapping_add(2), Release); // W4
    }

    /// All used rows, one consistent snapshot each, not all of one moment: one that is moved meanwhile may come twice, or not at all. For
    /// tools.
    pub fn snapshots(&self) -> impl Iterator<Item = [u64; W]> + '_ {
        let used = |bucket: usize| {
            let tags = self.heads[bucket].tags.load(Relaxed);
            (0..WAYS).filter(move |way| tags >> (way * 8) & 0xff != 0)
        };
        (0..self.heads.len())
            .filter(|bucket| self.heads[*bucket].tags.load(Relaxed) != 0)
            .flat_map(move |bucket| used(bucket).filter_map(move |way| self.snapshot(bucket, way)))
            .filter(|words| words[W - 1] != 0)
    }
}

/// Where a new row goes: see [`Writer::make_room`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// The row.
    pub at: usize,
    /// What becomes of what is there.
    pub how: Inserted,
    /// What that is worth, if it is evicted.
    pub worth: u64,
    /// Where the row went that was there.
    pub moved: Option<usize>,
    tag: u8,
}

/// The writers' side: one for each table, and it alone changes rows.
pub struct Writer<const W: usize> {
    table: Arc<Cuckoo<W>>,
    used: usize,
}

impl<const W: usize> Writer<W> {
    /// The table, for readers.
    pub fn table(&self) -> Arc<Cuckoo<W>> {
        self.table.clone()
    }

    /// Used rows, expired ones that nobody has cleared included.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Rows, used or not.
    pub fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// Place of the first row of this hash that `matches`.
    pub fn position(&self, hash: u64, matches: impl Fn(&[u64; W]) -> bool) -> Option<usize> {
        let (one, tag) = self.table.home(hash);
        [one, self.table.other(one, tag)].into_iter().find_map(|bucket| {
            let tags = self.table.heads[bucket].tags.load(Relaxed);
            let is = |at: &usize| self.tag(*at) == tag && matches(&self.get(*at));
            ways(marks(tags, tag)).map(|way| bucket * WAYS + way).find(is)
        })
    }

    /// The row at a place; its last word is zero when it is empty.
    pub fn get(&self, at: usize) -> [u64; W] {
        self.table.own(at)
    }

    /// Is there a row?
    pub fn is_used(&self, at: usize) -> bool {
        self.tag(at) != 0
    }

    fn tag(&self, at: usize) -> u8 {
        (self.table.heads[at / WAYS].tags.load(Relaxed) >> (at % WAYS * 8)) as u8
    }

    /// A free place of a bucket, and how many it has.
    fn free(&self, bucket: usize) -> (u32, usize) {
        let tags = self.table.heads[bucket].tags.load(Relaxed);
        let free = free_ways(tags);
        let first = (0..WAYS).find(|way| tags >> (way * 8) & 0xff == 0).unwrap_or(0);
        (free, bucket * WAYS + first)
    }

    /// Room for a new row of this hash: a free one, for which another may be moved; else one that has `expired`, of these the one of least
    /// `worth`; else that of least `worth` of all.
    ///
    /// A row that has `expired` is never moved.
    pub fn make_room(
        &mut self,
        hash: u64,
        expired: impl Fn(&[u64; W]) -> bool,
        worth: impl Fn(&[u64; W]) -> u64,
    ) -> Room {
        let (one, tag) = self.table.home(hash);
        let two = self.table.other(one, tag);
        let room = |at, how, worth| Room { at, how, worth, moved: None, tag };
        let (free, other) = (self.free(one), self.free(two));
        let emptier = if other.0 > free.0 { other } else { free };
        if emptier.0 > 0 {
            return room(emptier.1, Inserted::Free, 0);
        }
        let places = || [one, two].into_iter().flat_map(|bucket| bucket * WAYS..(bucket + 1) * WAYS);
        let gone = places().map(|at| (at, self.get(at))).filter(|(_, row)| expired(row));
        if let Some((at, _)) = gone.min_by_key(|(_, row)| worth(row)) {
            return room(at, Inserted::Expired, 0);
        }
        for at in places() {
            let other = self.table.other(at / WAYS, self.tag(at));
            if let (1.., to) = self.free(other) {
                self.shift(at, to);
                return Room { moved: Some(to), ..room(at, Inserted::Free, 0) };
            }
        }
        let least = places().map(|at| (worth(&self.get(at)), at)).min();
        let (worth, at) = least.unwrap_or((0, one * WAYS));
        room(at, Inserted::Evicted, worth)
    }

    /// Moves a row to a free place of its other bucket.
    fn shift(&mut self, from: usize, to: usize) {
        let (table, words) = (&*self.table, self.get(from));
        table.publish(to, &words, self.tag(from)); // S1
        table.moves.0.store(table.moves.0.load(Relaxed).wrapping_add(1), Release); // S2
        table.publish(from, &[0; W], 0); // S3
    }

    /// Writes a new row where [`Writer::make_room`] has said, with nothing changed since.
    pub fn put(&mut self, room: &Room, words: &[u64; W]) {
        debug_assert!(words[W - 1] != 0, "an empty row is written by `remove`");
        self.table.publish(room.at, words, room.tag);
        self.used += usize::from(room.how == Inserted::Free);
    }

    /// Replaces the used row at a place by another of the same key.
    pub fn replace(&mut self, at: usize, words: &[u64; W]) {
        debug_assert!(words[W - 1] != 0 && self.is_used(at));
        self.table.publish(at, words, self.tag(at));
    }

    /// Another last word for the row at a place, which says the same of the key: one store, no publication.
    pub fn touch(&mut self, at: usize, word: u64) {
        debug_assert!(word != 0 && self.is_used(at));
        self.table.rows[at][W - 1].store(word, Relaxed);
    }

    /// Empties the row at a place.
    pub fn remove(&mut self, at: usize) {
        if self.is_used(at) {
            self.table.publish(at, &[0; W], 0);
            self.used -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_and_counted_as_one_by_one() {
        let mut x = 7u64;
        for _ in 0..20_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Few values, so that they meet.
            let bytes = (x >> 8).to_le_bytes().map(|b| [0, 1, 2, 0x7f, 0x80, 0x81, 0xfe, 0xff][usize::from(b % 8)]);
            let tags = u64::from_le_bytes(bytes);
            assert_eq!(free_ways(tags) as usize, bytes.iter().filter(|b| **b == 0).count());
            for tag in [1, 2, 0x7f, 0x80, 0x81, 0xfe, 0xff] {
                let found: Vec<usize> = ways(marks(tags, tag)).collect();
                let want: Vec<usize> = (0..WAYS).filter(|&i| bytes[i] == tag).collect();
                assert!(want.iter().all(|way| found.contains(way)), "{tags:x} {tag:x}");
                let extra = found.iter().filter(|way| !want.contains(way));
                assert!(extra.clone().all(|&way| bytes[way] ^ tag == 1), "{tags:x} {tag:x}: {extra:?}");
            }
        }
    }

    #[test]
    fn the_other_bucket_of_the_other_bucket_is_the_first() {
        for rows in [1, 8, 9, 24, 1000, 65_536] {
            let table = Cuckoo::<1>::new(rows).table();
            for bucket in 0..rows.div_ceil(WAYS) {
                for tag in 1..=255 {
                    let other = table.other(bucket, tag);
                    assert!(other < table.heads.len() && table.other(other, tag) == bucket);
                }
            }
        }
    }
}
