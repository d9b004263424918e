//! Whose rows a table holds, and whose go when a bucket is full.
//!
//! A row is charged to the host of the client whose connection made it: its *maker*, 16 bits of a keyed hash, in the row's meta
//! word. The writer counts rows by maker.
//!
//! **And when full?** An expired row of the bucket (for sessions, of both buckets) goes; else, of the rows of its heaviest makers, the one the caller values least
//! (usually the least recently used). A newcomer that holds more than any of them gets no row, and that is counted. So a client that
//! makes rows by the thousand, all of them true, runs out of its own rows, not of those of others; and as long as there is room
//! nobody is limited.
//!
//! Two hosts in 65536 are one maker by chance: they then share what is a fair part.

use super::saved::Mirror;
use super::table::{Inserted, META, STAMP, Table, WAYS, Writer};
use crate::sync::Arc;
use core::ops::Range;

/// Where the maker stands in the meta word.
const MAKER: u32 = 48;
const MAKERS: usize = 1 << 16;
/// A worth is below it: the rest of the word is for how much the maker holds.
pub(crate) const MOST_WORTH: u64 = (1 << 44) - 1;

/// Puts the maker into a meta word.
pub(crate) const fn made_by(meta: u64, maker: u16) -> u64 {
    meta & !(0xffff << MAKER) | (maker as u64) << MAKER
}

/// Who made a row.
pub(crate) const fn maker(meta: u64) -> u16 {
    (meta >> MAKER) as u16
}

/// How many things each maker holds.
pub(crate) struct Held(Box<[u32]>);

impl Held {
    pub const BYTES: usize = MAKERS * size_of::<u32>();

    pub fn new() -> Held {
        Held(vec![0; MAKERS].into_boxed_slice())
    }

    pub fn of(&self, maker: u16) -> u32 {
        self.0[usize::from(maker)]
    }

    pub fn more(&mut self, maker: u16) {
        self.0[usize::from(maker)] += 1;
    }

    pub fn less(&mut self, maker: u16) {
        let held = &mut self.0[usize::from(maker)];
        debug_assert!(*held > 0, "maker {maker} holds nothing");
        *held = held.saturating_sub(1);
    }

    /// The heaviest maker's row first, then the one worth least.
    pub fn rank(&self, maker: u16, worth: u64) -> u64 {
        const MOST: u32 = (1 << 20) - 1;
        u64::from(MOST - self.of(maker).min(MOST)) << 44 | worth.min(MOST_WORTH)
    }
}

/// A table's writer that knows whose its rows are.
pub(crate) struct FairWriter<const W: usize> {
    writer: Writer<W>,
    held: Held,
    kept: Option<Kept<W>>,
}

/// Where rows are kept besides, and how.
type Kept<const W: usize> = (Mirror, fn(&Mirror, usize, &[u64; W]));

impl<const W: usize> FairWriter<W> {
    /// Of `words` of the `W` words.
    pub fn new(capacity: usize, words: usize) -> FairWriter<W> {
        FairWriter { writer: Table::with_words(capacity, WAYS, words), held: Held::new(), kept: None }
    }

    /// From now on each row is kept at its place in `mirror`, too, by `put`.
    pub fn keep(&mut self, mirror: Mirror, put: fn(&Mirror, usize, &[u64; W])) {
        self.kept = Some((mirror, put));
    }

    fn keep_row(&self, at: usize, words: &[u64; W]) {
        if let Some((mirror, put)) = &self.kept {
            put(mirror, at, words);
        }
    }

    pub const fn bytes_for(capacity: usize, words: usize) -> usize {
        Table::<W>::bytes_for(capacity, WAYS, words) + Held::BYTES
    }

    pub fn table(&self) -> Arc<Table<W>> {
        self.writer.table()
    }

    pub fn capacity(&self) -> usize {
        self.writer.capacity()
    }

    pub fn words(&self) -> usize {
        self.writer.words()
    }

    pub fn position(&self, hash: u64, matches: impl Fn(&[u64; W]) -> bool) -> Option<usize> {
        self.writer.position(hash, matches)
    }

    pub fn position_by_first<const N: usize>(&self, hash: u64, matches: impl Fn(&[u64; N]) -> bool) -> Option<usize> {
        self.writer.position_by_first(hash, matches)
    }

    pub fn get(&self, at: usize) -> [u64; W] {
        self.writer.get(at)
    }

    pub fn first<const N: usize>(&self, at: usize) -> [u64; N] {
        self.writer.first(at)
    }

    pub fn any_word(&self, at: usize, word: usize) -> u64 {
        self.writer.any_word(at, word)
    }

    pub fn bucket(&self, hash: u64) -> impl Iterator<Item = (usize, [u64; W])> + '_ {
        self.writer.bucket(hash)
    }

    /// A new row of `maker`, and the row that went for it. `worth` is at most [`MOST_WORTH`], or `u64::MAX` for a row that stays.
    pub fn insert(
        &mut self,
        mut words: [u64; W],
        maker_: u16,
        expired_before: u64,
        worth: impl Fn(&[u64; W]) -> u64,
    ) -> (Inserted, Option<[u64; W]>) {
        words[META] = made_by(words[META], maker_);
        let FairWriter { writer, held, .. } = self;
        let place = writer.place(words[super::table::HASH], expired_before, |row| match worth(row) {
            u64::MAX => u64::MAX,
            worth => held.rank(maker(row[META]), worth),
        });
        let Some(place) = place else { return (Inserted::Refused, None) };
        if place.how == Inserted::Evicted && held.rank(maker_, MOST_WORTH) < place.worth {
            return (Inserted::Refused, None);
        }
        let gone = (place.how != Inserted::Free).then(|| writer.get(place.at));
        if let Some(row) = &gone {
            held.less(maker(row[META]));
        }
        held.more(maker_);
        writer.put(&place, &words);
        self.keep_row(place.at, &words);
        (place.how, gone)
    }

    /// Replaces the used row at a place; its maker stays.
    pub fn replace(&mut self, at: usize, words: &[u64; W]) {
        let mut words = *words;
        words[META] = made_by(words[META], maker(self.writer.get(at)[META]));
        self.writer.replace(at, &words);
        self.keep_row(at, &words);
    }

    /// What is kept elsewhere has the time of the last publication: nothing that is kept is touched.
    pub fn touch(&mut self, at: usize, now: u64) {
        self.writer.touch(at, now);
    }

    pub fn remove(&mut self, at: usize) {
        let row = self.writer.get(at);
        if row[META] != 0 {
            self.held.less(maker(row[META]));
            self.writer.remove(at);
            if let Some((mirror, _)) = &self.kept {
                mirror.clear(at);
            }
        }
    }

    /// Empties the rows in `places` (cut to the table) that `drop` names; returns how many.
    pub fn sweep(&mut self, places: Range<usize>, drop: impl Fn(&[u64; W]) -> bool) -> usize {
        let before = self.writer.used();
        for at in places.start..places.end.min(self.capacity()) {
            let row = self.writer.get(at);
            if row[META] != 0 && drop(&row) {
                self.remove(at);
            }
        }
        before - self.writer.used()
    }
}

const _: () = assert!(STAMP == 1 && META == 2);

#[cfg(test)]
mod tests {
    use super::*;

    /// One bucket of eight; each row's word 3 is its key.
    fn one() -> FairWriter<4> {
        FairWriter::new(8, 4)
    }

    fn put(writer: &mut FairWriter<4>, key: u64, maker: u16) -> (Inserted, Option<u64>) {
        let (how, gone) = writer.insert([key, key, 1, key], maker, 0, |row| row[STAMP]);
        (how, gone.map(|row| row[3]))
    }

    #[test]
    fn the_oldest_row_of_who_holds_most_goes() {
        let mut writer = one();
        for (key, maker) in [(1, 7), (2, 9), (3, 9), (4, 8), (5, 9), (6, 8), (7, 6), (8, 5)] {
            assert_eq!(put(&mut writer, key, maker), (Inserted::Free, None));
        }
        assert_eq!(put(&mut writer, 9, 4), (Inserted::Evicted, Some(2)));
        // Makers 8 and 9 hold two each now: of both the least recently used.
        assert_eq!(put(&mut writer, 10, 3), (Inserted::Evicted, Some(3)));
        assert_eq!(put(&mut writer, 11, 3), (Inserted::Evicted, Some(4)));
    }

    #[test]
    fn who_holds_most_pays_with_his_own_row_or_gets_none() {
        let mut writer = one();
        (1..=5).for_each(|key| _ = put(&mut writer, key, 9));
        (6..=8).for_each(|key| _ = put(&mut writer, key, key as u16));
        assert_eq!(put(&mut writer, 9, 9), (Inserted::Evicted, Some(1)));
        // In another bucket there is none of his.
        let mut writer = FairWriter::<4>::new(16, 4);
        let upper = 1 << 63;
        (1..=8).for_each(|key| _ = put(&mut writer, key, key as u16));
        (1..=2).for_each(|key| _ = put(&mut writer, upper | key, 9));
        assert_eq!(put(&mut writer, 20, 9), (Inserted::Refused, None));
        assert_eq!(put(&mut writer, 21, 10), (Inserted::Evicted, Some(1)));
    }

    #[test]
    fn what_is_removed_swept_or_expired_is_no_longer_held() {
        let mut writer = one();
        (1..=8).for_each(|key| _ = put(&mut writer, key, 9));
        assert_eq!(writer.insert([9, 9, 1, 9], 8, 2, |row| row[STAMP]).0, Inserted::Expired);
        writer.remove(writer.position(2, |_| true).unwrap());
        assert_eq!(writer.sweep(0..8, |row| row[3] < 5), 2);
        assert_eq!((writer.held.of(9), writer.held.of(8)), (4, 1));
        // A replaced row stays its maker's.
        let at = writer.position(9, |_| true).unwrap();
        writer.replace(at, &[9, 10, 1, 9]);
        assert_eq!(maker(writer.get(at)[META]), 8);
    }
}
