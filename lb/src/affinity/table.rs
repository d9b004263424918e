//! A bounded table of fixed rows with one writer and any number of lock-free readers. No `unsafe`.
//!
//! # Shape
//!
//! A table is an array of buckets of `ways` rows. The hash of a key names its bucket, and a key lives nowhere else:
//! finding, inserting and removing touch one bucket. A row is up to `W` words of 64 bits and a sequence number, on cache
//! lines of its own. The first three words mean the same in every table: [`HASH`], [`STAMP`] (last use, in
//! milliseconds) and [`META`] (zero in an empty row, never else).
//!
//! **And when full?** When the bucket of a new key has no free row, an expired row goes; else the row the caller values
//! least (usually the least recently used), which is reported, to be counted.
//!
//! # Memory protocol
//!
//! There is exactly one [`Writer`], which is not `Clone` and writes through `&mut self`. It publishes a row as a
//! sequence lock does (Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012):
//!
//! | writer: `publish` | reader: `snapshot` |
//! |---|---|
//! | W1 `seq := odd`, relaxed | R1 `s := seq`, acquire; odd: try again |
//! | W2 fence, release | R2 read all words, relaxed |
//! | W3 write all words, relaxed | R3 fence, acquire |
//! | W4 `seq := even`, release | R4 `seq`, relaxed; differs from `s`: try again |
//!
//! * R1 that reads a W4 happens after it, and so sees all words of that publication (or later ones).
//! * R2 that reads a word of a *later* W3 makes R3 synchronise with that publication's W2, hence R4 sees at least its
//!   W1, which is not `s`: the mixture is thrown away. So a snapshot that is kept holds the words of one publication.
//! * Every word is an atomic, so reading while the writer writes is a race in the sense of the algorithm only, not of
//!   the language.
//!
//! The exception: [`Writer::touch`] stores [`STAMP`] alone, relaxed, without moving `seq`. A reader then has the older
//! or the newer time of last use of *this* publication, either of which is true; the stamp of another publication is
//! caught by `seq`, as above, because replacing a row always moves it.
//!
//! A reader first compares [`HASH`], relaxed and unprotected, to leave other rows alone. That it may miss a row written
//! at this moment, or take a replaced row for the sought one, does no harm: the first costs one full handshake, the
//! second is decided by the snapshot that follows.
//!
//! A reader never waits for the writer: after [`ATTEMPTS`] failed snapshots the row counts as absent. The writer reads
//! its own rows relaxed: nobody else writes them.
//!
//! `tests/loom.rs` checks the protocol on tiny tables; `tests/threads.rs` on large ones with real threads.

use crate::sync::{Arc, AtomicU64, Ordering::*, fence, spin_loop};

/// Word of a row: hash of the key.
pub const HASH: usize = 0;
/// Word of a row: time of last use, milliseconds.
pub const STAMP: usize = 1;
/// Word of a row: zero means that the row is empty.
pub const META: usize = 2;

/// Snapshots tried before a row counts as absent. A model needs to see that one fails and the next one is right.
pub const ATTEMPTS: usize = if cfg!(loom) { 2 } else { 16 };

/// Rows of a bucket, unless said otherwise.
pub const WAYS: usize = 8;

/// A cache line.
#[repr(align(64))]
struct Line([AtomicU64; LINE]);

const LINE: usize = 8;

/// The readers' side: share it as `Arc<Table<W>>`.
pub struct Table<const W: usize> {
    /// Row after row, each on lines of its own: its sequence number, then its words.
    lines: Box<[Line]>,
    /// Lines of a row.
    stride: usize,
    /// Words of a row, at most `W`; those beyond read as zero.
    words: usize,
    ways: usize,
}

impl<const W: usize> Table<W> {
    /// A table of at least `capacity` rows and its only writer. Rows are rounded up to whole buckets.
    ///
    /// # Panics
    /// If `ways` is zero or rows have fewer than three words: errors of the program, not of its input.
    #[allow(clippy::new_ret_no_self)] // the writer is the new thing; the table is what it shares
    pub fn new(capacity: usize, ways: usize) -> Writer<W> {
        Table::with_words(capacity, ways, W)
    }

    /// The same with shorter rows: only `words` of the `W` words are held, and the others are always zero.
    ///
    /// # Panics
    /// As [`Table::new`].
    pub fn with_words(capacity: usize, ways: usize, words: usize) -> Writer<W> {
        assert!(ways > 0 && words > META && words <= W);
        let count = capacity.max(1).div_ceil(ways) * ways;
        let stride = Table::<W>::stride(words);
        let line = |_| Line(core::array::from_fn(|_| AtomicU64::new(0)));
        Writer {
            table: Arc::new(Table { lines: (0..count * stride).map(line).collect(), stride, words, ways }),
            used: 0,
        }
    }

    const fn stride(words: usize) -> usize {
        (1 + words).div_ceil(LINE)
    }

    /// Bytes a table of this capacity takes.
    pub const fn bytes_for(capacity: usize, ways: usize, words: usize) -> usize {
        let capacity = if capacity == 0 { 1 } else { capacity };
        capacity.div_ceil(ways) * ways * Table::<W>::stride(words) * size_of::<Line>()
    }

    /// Rows, used or not.
    pub fn capacity(&self) -> usize {
        self.lines.len() / self.stride
    }

    /// Words of a row; those beyond are zero.
    #[inline]
    pub fn words(&self) -> usize {
        self.words
    }

    fn seq(&self, at: usize) -> &AtomicU64 {
        &self.lines[at * self.stride].0[0]
    }

    /// One of the first words of a row.
    fn word(&self, at: usize, word: usize) -> &AtomicU64 {
        const { assert!(META + 1 < LINE) };
        &self.lines[at * self.stride].0[1 + word]
    }

    fn row(&self, at: usize) -> &[Line] {
        &self.lines[at * self.stride..(at + 1) * self.stride]
    }

    /// One attempt at the first `N` words; `None` when the writer was at it.
    fn snapshot<const N: usize>(&self, at: usize) -> Option<[u64; N]> {
        let seq = self.seq(at);
        let before = seq.load(Acquire); // R1
        if before & 1 == 1 {
            return None;
        }
        let words = self.own(at); // R2
        fence(Acquire); // R3
        (seq.load(Relaxed) == before).then_some(words) // R4
    }

    /// Only by the one writer.
    fn publish(&self, at: usize, words: &[u64; W]) {
        debug_assert!(words[self.words..].iter().all(|&word| word == 0));
        let seq = self.seq(at);
        let before = seq.load(Relaxed);
        seq.store(before.wrapping_add(1), Relaxed); // W1
        fence(Release); // W2
        let held = self.row(at).iter().flat_map(|line| &line.0).skip(1).take(self.words);
        for (to, &word) in held.zip(words) {
            to.store(word, Relaxed); // W3
        }
        seq.store(before.wrapping_add(2), Release); // W4
    }

    /// The first `N` words, unprotected: the one writer's, or part of a snapshot.
    fn own<const N: usize>(&self, at: usize) -> [u64; N] {
        let mut words = [0; N];
        let mut to = &mut words[..self.words.min(N)];
        for (n, line) in self.row(at).iter().enumerate() {
            // The sequence number is in front.
            let from = &line.0[usize::from(n == 0)..];
            let (now, later) = to.split_at_mut(from.len().min(to.len()));
            now.iter_mut().zip(from).for_each(|(to, from)| *to = from.load(Relaxed));
            to = later;
        }
        words
    }

    fn range(&self, hash: u64) -> core::ops::Range<usize> {
        let buckets = (self.capacity() / self.ways) as u128;
        // The upper bits choose: the lower ones have chosen the shard.
        let first = ((u128::from(hash) * buckets) >> 64) as usize * self.ways;
        first..first + self.ways
    }

    /// The first row of this hash that `take` likes: a consistent snapshot, no older than the latest publication that
    /// happened before the call. `busy` is raised when a row was given up because the writer kept changing it.
    pub fn find<T>(&self, hash: u64, busy: &mut u64, take: impl FnMut(&[u64; W]) -> Option<T>) -> Option<T> {
        self.find_by_first(hash, busy, take)
    }

    /// The same of the first `N` words of a row: the others are not read.
    pub fn find_by_first<const N: usize, T>(
        &self,
        hash: u64,
        busy: &mut u64,
        mut take: impl FnMut(&[u64; N]) -> Option<T>,
    ) -> Option<T> {
        const { assert!(N > META && N <= W) };
        for at in self.range(hash) {
            if self.word(at, HASH).load(Relaxed) != hash {
                continue;
            }
            let mut snapshot = self.snapshot(at);
            for _ in 1..ATTEMPTS {
                if snapshot.is_some() {
                    break;
                }
                spin_loop();
                snapshot = self.snapshot(at);
            }
            match snapshot {
                Some(words) if words[META] != 0 && words[HASH] == hash => {
                    if let Some(found) = take(&words) {
                        return Some(found);
                    }
                }
                Some(_) => {}
                None => *busy += 1,
            }
        }
        None
    }

    /// All used rows, one consistent snapshot each, not all of one moment. For tools.
    pub fn snapshots(&self) -> impl Iterator<Item = [u64; W]> + '_ {
        (0..self.capacity())
            .filter_map(|at| (0..ATTEMPTS).find_map(|_| self.snapshot(at)))
            .filter(|words| words[META] != 0)
    }
}

/// What became of [`Writer::insert`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inserted {
    /// Into a free row.
    Free,
    /// Over an expired row.
    Expired,
    /// Over the row worth least.
    Evicted,
    /// Not at all: every row of the bucket is worth `u64::MAX`.
    Refused,
}

/// Where a new row would go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The row.
    pub at: usize,
    /// What would become of what is there.
    pub how: Inserted,
    /// What that is worth, if it has not expired.
    pub worth: u64,
}

/// The writers' side: one for each table, and it alone changes rows.
pub struct Writer<const W: usize> {
    table: Arc<Table<W>>,
    used: usize,
}

impl<const W: usize> Writer<W> {
    /// The table, for readers.
    pub fn table(&self) -> Arc<Table<W>> {
        self.table.clone()
    }

    /// Used rows, expired ones that nobody has cleared included.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Words of a row; those beyond are zero.
    pub fn words(&self) -> usize {
        self.table.words
    }

    /// Place of the first used row of this hash that `matches`.
    pub fn position(&self, hash: u64, matches: impl Fn(&[u64; W]) -> bool) -> Option<usize> {
        self.table
            .range(hash)
            .find(|&at| self.word(at, HASH) == hash && self.word(at, META) != 0 && matches(&self.get(at)))
    }

    /// The same, by the first `N` words.
    pub fn position_by_first<const N: usize>(&self, hash: u64, matches: impl Fn(&[u64; N]) -> bool) -> Option<usize> {
        let is = |at: usize| self.word(at, HASH) == hash && self.word(at, META) != 0 && matches(&self.first(at));
        self.table.range(hash).find(|&at| is(at))
    }

    /// The row at a place.
    pub fn get(&self, at: usize) -> [u64; W] {
        self.table.own(at)
    }

    /// Its first `N` words.
    pub fn first<const N: usize>(&self, at: usize) -> [u64; N] {
        self.table.own(at)
    }

    /// One word of the row at a place, by its number; zero beyond those that are held.
    pub fn any_word(&self, at: usize, word: usize) -> u64 {
        let Table { words, .. } = *self.table;
        let place = |i: usize| &self.table.row(at)[i / LINE].0[i % LINE];
        if word < words { place(1 + word).load(Relaxed) } else { 0 }
    }

    fn word(&self, at: usize, word: usize) -> u64 {
        self.table.word(at, word).load(Relaxed)
    }

    /// The used rows of a hash's bucket, whatever their hash, with their places.
    pub fn bucket(&self, hash: u64) -> impl Iterator<Item = (usize, [u64; W])> + '_ {
        self.table.range(hash).map(|at| (at, self.get(at))).filter(|(_, words)| words[META] != 0)
    }

    /// Rows, used or not.
    pub fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// Where a new row of this hash would go: a free row, one last used before `expired_before`, or that of least `worth`. `None` when
    /// every row of the bucket is worth `u64::MAX`.
    pub fn place(&self, hash: u64, expired_before: u64, worth: impl Fn(&[u64; W]) -> u64) -> Option<Place> {
        let mut least: Option<(bool, u64, usize)> = None;
        for at in self.table.range(hash) {
            let row = self.get(at);
            if row[META] == 0 {
                return Some(Place { at, how: Inserted::Free, worth: 0 });
            }
            let worth = worth(&row);
            if worth == u64::MAX {
                continue;
            }
            // An expired row is worth less than any other, and the longest expired the least.
            let lives = row[STAMP] >= expired_before;
            let rank = (lives, if lives { worth } else { row[STAMP] }, at);
            if least.is_none_or(|least| rank < least) {
                least = Some(rank);
            }
        }
        let (lives, worth, at) = least?;
        Some(Place { at, how: if lives { Inserted::Evicted } else { Inserted::Expired }, worth })
    }

    /// Writes a new row where [`Writer::place`] has said, with nothing changed since.
    pub fn put(&mut self, place: &Place, words: &[u64; W]) {
        debug_assert!(words[META] != 0, "an empty row is written by `remove`");
        self.table.publish(place.at, words);
        self.used += usize::from(place.how == Inserted::Free);
    }

    /// Writes a new row: into a free one, over one last used before `expired_before`, or over that of least `worth`.
    /// Does not look whether the key is there already.
    pub fn insert(&mut self, words: &[u64; W], expired_before: u64, worth: impl Fn(&[u64; W]) -> u64) -> Inserted {
        let Some(place) = self.place(words[HASH], expired_before, worth) else { return Inserted::Refused };
        self.put(&place, words);
        place.how
    }

    /// Replaces the used row at a place.
    pub fn replace(&mut self, at: usize, words: &[u64; W]) {
        debug_assert!(words[META] != 0 && self.word(at, META) != 0);
        self.table.publish(at, words);
    }

    /// Notes a use of the row at a place: one store, no publication.
    pub fn touch(&mut self, at: usize, now: u64) {
        self.table.word(at, STAMP).store(now, Relaxed);
    }

    /// Empties the row at a place.
    pub fn remove(&mut self, at: usize) {
        if self.word(at, META) != 0 {
            self.table.publish(at, &[0; W]);
            self.used -= 1;
        }
    }
}
