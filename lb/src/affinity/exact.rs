//! Exact rows: one for a session ID, ticket or cookie, naming the backend that issued it or resumed it.
//!
//! Bounded by `--session-capacity`; when both buckets of a row are full and none of their rows can be moved, the client that holds most gives
//! way, see [`fair`](super::fair).

use super::cuckoo::{Cuckoo, Writer};
use super::fair::Held;
use super::key::{Key, cookie_end};
use super::metrics::TableCounters;
use super::saved::{About, Mirror};
use super::table::Inserted;
use crate::backend::{BackendId, BackendSet, MAX_BACKENDS};
use crate::sync::Arc;
use core::ops::Range;

/// The key in four words, and all else in one: 40 bytes.
pub(crate) const WORDS: usize = 5;
type Words = [u64; WORDS];
const REST: usize = WORDS - 1;

/// A row goes when its backend refused it so often in a row to the client that made it: at the second time. One refusal may be about the hello
/// rather than the session (another cipher suite, SNI or version), and then the server still has the session. What others are refused counts
/// for nothing: they may have seen the identity on its way, and a row that leads to a session that is gone does no harm.
const REFUSED: u64 = 1 << KIND_BITS;

// The last word: kind, refused once, backend, maker, time of last use.
const KIND_BITS: u32 = 2;
const BACKEND: u32 = KIND_BITS + 1;
const MAKER: u32 = BACKEND + BACKEND_BITS;
const TIME: u32 = MAKER + 16;
const BACKEND_BITS: u32 = 12;
const _: () = assert!(MAX_BACKENDS <= 1 << BACKEND_BITS);

fn kind(rest: u64) -> u64 {
    rest & ((1 << KIND_BITS) - 1)
}

fn backend(rest: u64) -> BackendId {
    BackendId((rest >> BACKEND) as u16 & ((1 << BACKEND_BITS) - 1))
}

fn maker(rest: u64) -> u16 {
    (rest >> MAKER) as u16
}

/// All but the time and the maker: what a row says.
fn says(rest: u64) -> u64 {
    rest & ((1 << MAKER) - 1)
}

/// Times of last use take 33 bits: milliseconds, modulo 99 days. Of two times that lie closer together than half of that it is known which is the
/// later. Rows do not get that old: they are cleared when they expire, and a time-to-live is much shorter; of a longer one the steps are
/// longer, a second at most.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    /// Milliseconds of a step, as a power of two.
    step: u32,
    /// Steps, at most a quarter of all.
    ttl: u64,
}

impl Clock {
    const BITS: u32 = 64 - TIME;
    const MASK: u64 = (1 << Clock::BITS) - 1;
    const LONGEST: u64 = 1 << (Clock::BITS - 2);

    pub fn new(ttl: u64) -> Clock {
        let step = (0..10).find(|step| ttl >> step <= Clock::LONGEST).unwrap_or(10);
        // No shorter than it should be.
        let steps = (ttl >> step) + u64::from(ttl & ((1 << step) - 1) != 0);
        Clock { step, ttl: steps.min(Clock::LONGEST) }
    }

    fn time(self, now: u64) -> u64 {
        (now >> self.step & Clock::MASK) << TIME
    }

    /// Steps since the last use; negative when that was told by a clock a little ahead of this one.
    fn age(self, rest: u64, now: u64) -> i64 {
        let steps = (now >> self.step).wrapping_sub(rest >> TIME);
        // The sign is the highest of the bits.
        (steps << TIME) as i64 >> TIME
    }

    fn is_live(self, rest: u64, now: u64) -> bool {
        self.age(rest, now) <= self.ttl as i64
    }

    fn used(self, rest: u64, now: u64) -> u64 {
        let steps = (now >> self.step).saturating_add_signed(-self.age(rest, now));
        steps << self.step
    }

    /// The later, the greater.
    fn rank(self, rest: u64, now: u64) -> u64 {
        (1 << Clock::BITS) - self.age(rest, now).max(0) as u64
    }
}

/// A row is worth something still: so long after its last use, or to the end that it has itself, as some cookies have.
fn is_live(clock: Clock, row: &Words, now: u64) -> bool {
    match cookie_end(kind(row[REST]), row[REST - 1]) {
        None | Some(0) => clock.is_live(row[REST], now),
        Some(end) => now <= end,
    }
}

/// What readers of a shard need.
#[derive(Clone)]
pub(crate) struct ExactTable {
    table: Arc<Cuckoo<WORDS>>,
    clock: Clock,
}

/// A decoded row.
pub(crate) struct ExactRow {
    pub key: Key,
    pub backend: BackendId,
    pub used: u64,
}

impl ExactTable {
    /// The backend of the live row of a key, which is given in words.
    #[inline]
    pub fn find(&self, key: &(u64, [u64; 4]), hash: u64, now: u64, busy: &mut u64) -> Option<BackendId> {
        let (mine, words) = key;
        let is = |row: &Words| (row[..REST] == *words && kind(row[REST]) == *mine).then_some(row[REST]);
        let rest = self.table.find(hash, busy, is)?;
        self.clock.is_live(rest, now).then(|| backend(rest))
    }

    /// The same of a cookie, whose row has its end beside the key.
    #[inline]
    pub fn find_cookie(&self, key: &(u64, [u64; 4]), hash: u64, now: u64, busy: &mut u64) -> Option<BackendId> {
        let row = self.table.find(hash, busy, |row: &Words| is_cookie(row, key).then_some(*row))?;
        is_live(self.clock, &row, now).then(|| backend(row[REST]))
    }

    /// Where it lies.
    pub fn memory(&self) -> [core::ops::Range<*const u8>; 2] {
        self.table.memory()
    }

    /// All live rows that may have been used since then: about what, backend, maker, last use.
    pub fn save(&self, now: u64, since: u64, mut each: impl FnMut(About, BackendId, u16, u64)) {
        // Times are exact to a step.
        let since = since.saturating_sub(2 << self.clock.step);
        for row in self.table.snapshots().filter(|row| is_live(self.clock, row, now)) {
            let (rest, used) = (row[REST], self.clock.used(row[REST], now));
            if used >= since
                && let Some(about) = about(&row)
            {
                each(about, backend(rest), maker(rest), used);
            }
        }
    }

    /// All live rows: for tools.
    pub fn rows(&self, now: u64) -> impl Iterator<Item = ExactRow> + '_ {
        self.table.snapshots().filter(move |row| is_live(self.clock, row, now)).filter_map(move |row| {
            let [a, b, c, d, rest] = row;
            let key = Key::from_words(kind(rest), [a, b, c, d])?;
            Some(ExactRow { key, backend: backend(rest), used: self.clock.used(rest, now) })
        })
    }
}

/// What a row says, as it is kept.
fn about(&[a, b, c, d, rest]: &Words) -> Option<About> {
    let (key, refused) = (Key::from_words(kind(rest), [a, b, c, d])?, rest & REFUSED != 0);
    Some(match cookie_end(kind(rest), d) {
        Some(end) => About::Cookie { key, end, refused },
        None => About::Exact { key, refused },
    })
}

fn is_cookie(row: &Words, (mine, words): &(u64, [u64; 4])) -> bool {
    row[..REST - 1] == words[..REST - 1] && kind(row[REST]) == *mine && cookie_end(*mine, row[REST - 1]).is_some()
}

/// One shard's writer.
pub(crate) struct ExactShard {
    writer: Writer<WORDS>,
    held: Held,
    clock: Clock,
    /// The time-to-live, milliseconds.
    ttl: u64,
    /// The latest time that was told.
    latest: u64,
    cursor: usize,
    /// Where rows are kept besides, each at its place.
    kept: Option<Mirror>,
}

/// What somebody learned of a key.
pub(crate) struct Learned<'a> {
    pub key: &'a Key,
    /// Keyed hash of the key.
    pub hash: u64,
    pub backend: BackendId,
    /// Whose connection showed it.
    pub client: u16,
    /// When it ends by itself, as a cookie may: 0 for what is forgotten so long after its last use.
    pub end: u64,
}

/// A cookie that is said to last for longer lasts so long, milliseconds: times of rows are known for twice that.
pub(crate) const LONGEST_COOKIE: u64 = 30 * 86_400_000;

impl ExactShard {
    pub fn new(capacity: usize, ttl: u64) -> ExactShard {
        ExactShard {
            writer: Cuckoo::new(capacity),
            held: Held::new(),
            clock: Clock::new(ttl),
            ttl,
            latest: 0,
            cursor: 0,
            kept: None,
        }
    }

    pub const fn bytes_for(capacity: usize) -> usize {
        Cuckoo::<WORDS>::bytes_for(capacity) + Held::BYTES
    }

    pub fn table(&self) -> ExactTable {
        ExactTable { table: self.writer.table(), clock: self.clock }
    }

    /// From now on each row is kept at its place in `mirror`, too.
    pub fn keep(&mut self, mirror: Mirror) {
        self.kept = Some(mirror);
    }

    #[inline]
    fn keep_row(&self, at: usize) {
        if let Some(mirror) = &self.kept {
            self.keep_row_in(mirror, at);
        }
    }

    #[cold]
    fn keep_row_in(&self, mirror: &Mirror, at: usize) {
        let row = self.writer.get(at);
        if let Some(about) = about(&row) {
            let rest = row[REST];
            mirror.put(at, backend(rest), maker(rest), self.clock.used(rest, self.latest), about);
        }
    }

    fn position(&self, key: &Key, hash: u64) -> Option<usize> {
        let key @ (mine, words) = key.to_words();
        if cookie_end(mine, words[REST - 1]).is_some() {
            return self.writer.position(hash, |row| is_cookie(row, &key));
        }
        self.writer.position(hash, |row| row[..REST] == words && kind(row[REST]) == mine)
    }

    /// The backend has this session: it issued it, or resumed it. A row that names another backend moves only with the client that made it:
    /// where two backends have the session (a shared cache, one server with an address of each family), somebody who saw the identity on its
    /// way could otherwise lead its owner to the other one.
    ///
    /// Rows of backends that are `dead` are worth nothing, and stay where they are until they are cleared or overwritten.
    pub fn has(
        &mut self,
        learned: &Learned<'_>,
        now: u64,
        dead: impl Fn(BackendId) -> bool,
        counters: &mut TableCounters,
    ) {
        self.notice(now, counters);
        let Learned { key, hash, backend: id, client, end } = *learned;
        let (kind, [a, b, c, d]) = key.to_words();
        // What lies beside a cookie's key, and is nothing of others'.
        let d = d | end;
        let time = self.clock.time(now);
        let fresh = kind | u64::from(id.0) << BACKEND | u64::from(client) << MAKER | time;
        if let Some(at) = self.position(key, hash) {
            let [.., before, rest] = self.writer.get(at);
            // Its maker stays.
            let again = says(fresh) | u64::from(maker(rest)) << MAKER | time;
            if says(rest) == says(fresh) && before == d {
                self.writer.touch(at, again);
            } else if backend(rest) == id || maker(rest) == client {
                // Refusals have to be forgotten, or the row moves.
                self.writer.replace(at, &[a, b, c, d, again]);
            } else {
                return;
            }
            self.keep_row(at);
            return;
        }
        let ExactShard { writer, held, clock, .. } = self;
        let gone = |row: &Words| !is_live(*clock, row, now) || dead(backend(row[REST]));
        let room = writer.make_room(hash, gone, |row| held.rank(maker(row[REST]), clock.rank(row[REST], now)));
        if let (Some(mirror), Some(to)) = (&self.kept, room.moved) {
            self.keep_row_in(mirror, to);
        }
        let held = &mut self.held;
        if room.how == Inserted::Evicted && held.rank(client, u64::MAX) < room.worth {
            return counters.count(Inserted::Refused);
        }
        if room.how != Inserted::Free {
            held.less(maker(self.writer.get(room.at)[REST]));
        }
        held.more(client);
        self.writer.put(&room, &[a, b, c, d, fresh]);
        self.keep_row(room.at);
        counters.count(room.how);
    }

    /// The backend was offered this session, and nothing speaks against its having it: a row that says so is used. It makes none.
    pub fn used(&mut self, learned: &Learned<'_>, now: u64, counters: &mut TableCounters) {
        self.notice(now, counters);
        let Some(at) = self.position(learned.key, learned.hash) else { return };
        let mut words = self.writer.get(at);
        let rest = words[REST];
        if backend(rest) != learned.backend || !is_live(self.clock, &words, now) {
            return;
        }
        words[REST] = says(rest) & !REFUSED | u64::from(maker(rest)) << MAKER | self.clock.time(now);
        if rest & REFUSED == 0 {
            self.writer.touch(at, words[REST]);
        } else {
            self.writer.replace(at, &words);
        }
        self.keep_row(at);
    }

    /// The backend has ended this session, and told its client, if that made the row.
    pub fn ended(&mut self, learned: &Learned<'_>, counters: &mut TableCounters) {
        let Some(at) = self.position(learned.key, learned.hash) else { return };
        let rest = self.writer.get(at)[REST];
        if backend(rest) == learned.backend && maker(rest) == learned.client {
            self.remove(at);
            counters.retired += 1;
        }
    }

    /// The backend was offered this session and did not resume it.
    pub fn refused(&mut self, learned: &Learned<'_>, counters: &mut TableCounters) {
        let Some(at) = self.position(learned.key, learned.hash) else { return };
        let mut words = self.writer.get(at);
        let rest = words[REST];
        if backend(rest) != learned.backend || maker(rest) != learned.client {
            return; // It never promised that, or not to this client.
        }
        if rest & REFUSED != 0 {
            self.remove(at);
            counters.retired += 1;
        } else {
            words[REST] |= REFUSED;
            self.writer.replace(at, &words);
            self.keep_row(at);
        }
    }

    fn remove(&mut self, at: usize) {
        self.held.less(maker(self.writer.get(at)[REST]));
        self.writer.remove(at);
        if let Some(mirror) = &self.kept {
            mirror.clear(at);
        }
    }

    /// Empties the rows in `places` (cut to the table) that `drop` names; returns how many.
    fn clear(&mut self, places: Range<usize>, drop: impl Fn(&Words) -> bool) -> u64 {
        let before = self.writer.used();
        for at in places.start..places.end.min(self.capacity()) {
            if self.writer.is_used(at) && drop(&self.writer.get(at)) {
                self.remove(at);
            }
        }
        (before - self.writer.used()) as u64
    }

    /// What time it is. When nothing was said for a whole time-to-live, all rows have expired but those with an end of their own: they go at once,
    /// before anybody takes what is very old for new.
    fn notice(&mut self, now: u64, counters: &mut TableCounters) {
        if now.saturating_sub(self.latest) > self.ttl && self.writer.used() > 0 {
            let own_end = |row: &Words| cookie_end(kind(row[REST]), row[REST - 1]).is_some_and(|end| now <= end);
            counters.expired += self.clear(0..usize::MAX, |row| !own_end(row));
        }
        self.latest = self.latest.max(now);
    }

    /// Clears expired rows among the next `rows` of the table.
    pub fn sweep(&mut self, now: u64, rows: usize, counters: &mut TableCounters) {
        self.notice(now, counters);
        let clock = self.clock;
        counters.expired += self.clear(self.cursor..self.cursor + rows, |row| !is_live(clock, row, now));
        self.cursor += rows;
        if self.cursor >= self.writer.capacity() {
            self.cursor = 0;
        }
    }

    /// Milliseconds.
    pub fn ttl(&self) -> u64 {
        self.ttl
    }

    pub fn capacity(&self) -> usize {
        self.writer.capacity()
    }

    /// Clears the rows of backends among those in `places`.
    pub fn forget(&mut self, backends: &BackendSet, places: Range<usize>) {
        self.clear(places, |row| backends.contains(backend(row[REST])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against whole numbers: whatever the time and the time-to-live, a row lives exactly as long (to the step).
    #[test]
    fn times_are_told_apart_though_they_are_kept_modulo_99_days() {
        for ttl in [0, 1, 1000, 7_200_000, 86_400_000 * 24, 86_400_000 * 300, u64::MAX] {
            let clock = Clock::new(ttl);
            let step = 1 << clock.step;
            for born in [0, 5, (1 << 33) - 1, 1 << 33, 123_456_789_012_345] {
                let rest = 1 | clock.time(born);
                assert_eq!(clock.used(rest, born), born / step * step);
                assert_eq!(clock.age(rest, born.saturating_sub(10 * step)).signum(), if born < step { 0 } else { -1 });
                let ttl = ttl.min(Clock::LONGEST << clock.step);
                assert!(clock.is_live(rest, born) && clock.is_live(rest, born + ttl));
                assert!(!clock.is_live(rest, born + ttl + 2 * step - 1), "{ttl} {born}");
                let later = 1 | clock.time(born + 3 * step);
                assert!(clock.rank(later, born + 4 * step) > clock.rank(rest, born + 4 * step));
            }
        }
    }

    #[test]
    fn after_a_silence_of_a_hundred_years_nothing_is_taken_for_new() {
        let (mut shard, mut counters) = (ExactShard::new(64, 1000), TableCounters::default());
        let key = Key::session_id(b"abc").unwrap();
        let learned = Learned { key: &key, hash: 5, backend: BackendId(1), client: 1, end: 0 };
        shard.has(&learned, 77, |_| false, &mut counters);
        let much_later = 77 + (1 << 33);
        // By the word alone it would be of this very moment.
        shard.sweep(much_later, 0, &mut counters);
        assert_eq!(shard.table().find(&key.to_words(), 5, much_later, &mut 0), None);
        assert_eq!((counters.expired, shard.held.of(1)), (1, 0));
    }
}
