//! Backends: their numbers and states, and sets of them.

use core::fmt;

/// Most backends in one directory.
pub const MAX_BACKENDS: usize = 4096;

/// A backend's number: its slot in the [`Directory`](crate::Directory), below [`MAX_BACKENDS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BackendId(pub u16);

impl BackendId {
    /// As an index into arrays of one entry per backend.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a backend may be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// New flows and resumptions.
    #[default]
    Up,
    /// Resumptions of its own sessions only.
    Draining,
    /// Nothing.
    Down,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Up => "up",
            State::Draining => "draining",
            State::Down => "down",
        })
    }
}

/// Largest weight: keeps the products that compare loads within 64 bits, and a Maglev table's turns bounded.
pub const MAX_WEIGHT: u16 = 1000;

pub(crate) const SET_WORDS: usize = MAX_BACKENDS / 64;

/// Words of a set whose members lie close together.
const NEAR: usize = 2;

/// A set of backends. `Copy`, never allocates.
///
/// Slots are given from the lowest on, so that the backends of most installations lie close together, and most sets that a connection meets have
/// one member. Sets whose members lie in two neighbouring words of bits (in 128 slots from a multiple of 64 on) take 24 bytes and are all that
/// is worked on then; others are a bit for each of [`MAX_BACKENDS`].
#[derive(Clone, Copy)]
pub struct BackendSet(Bits);

#[expect(clippy::large_enum_variant, reason = "it is Copy; what is not used is not touched")]
#[derive(Clone, Copy)]
enum Bits {
    /// From this word on; from any when it is empty.
    Near(u16, [u64; NEAR]),
    All([u64; SET_WORDS]),
}

impl BackendSet {
    /// No backend.
    pub const EMPTY: BackendSet = BackendSet(Bits::Near(0, [0; NEAR]));

    /// Just this one; none, when it is beyond [`MAX_BACKENDS`].
    #[inline]
    pub fn one(id: BackendId) -> BackendSet {
        let bit = u64::from(id.index() < MAX_BACKENDS) << (id.0 % 64);
        BackendSet(Bits::Near(id.0 / 64, [bit, 0]))
    }

    /// Takes all members out.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.0 = Bits::Near(0, [0; NEAR]);
    }

    /// Of a bit for each backend, the first of the first word.
    pub(crate) fn from_words(words: &[u64]) -> BackendSet {
        let used = |word: &u64| *word != 0;
        let Some(first) = words.iter().position(used) else { return BackendSet::EMPTY };
        let last = words.iter().rposition(used).unwrap_or(first);
        if last - first < NEAR {
            let near = core::array::from_fn(|i| words.get(first + i).copied().unwrap_or(0));
            return BackendSet(Bits::Near(first as u16, near));
        }
        BackendSet(Bits::All(core::array::from_fn(|i| words.get(i).copied().unwrap_or(0))))
    }

    /// The inverse; what lies beyond the words is left out.
    pub(crate) fn to_words(self, words: &mut [u64]) {
        words.fill(0);
        let (first, bits) = self.bits();
        words.iter_mut().skip(first).zip(bits).for_each(|(to, from)| *to = *from);
    }

    /// The number of the first word, and the words.
    fn bits(&self) -> (usize, &[u64]) {
        match &self.0 {
            Bits::Near(first, words) => (usize::from(*first), words),
            Bits::All(words) => (0, words),
        }
    }

    /// The word that has this number.
    fn word(&self, number: usize) -> u64 {
        let (first, words) = self.bits();
        words.get(number.wrapping_sub(first)).copied().unwrap_or(0)
    }

    /// Adds a member; one beyond [`MAX_BACKENDS`] is ignored. True when it was not there.
    pub fn insert(&mut self, id: BackendId) -> bool {
        let (number, bit) = (id.index() / 64, 1 << (id.0 % 64));
        if number >= SET_WORDS {
            return false;
        }
        let new = self.word(number) & bit == 0;
        if let Bits::Near(first, words) = &mut self.0 {
            let first_used = words.iter().position(|word| *word != 0);
            match first_used {
                None => *first = number as u16,
                // The one word in use may be the last of two, or the first.
                Some(at) if words.iter().filter(|word| **word != 0).count() == 1 => {
                    let used = usize::from(*first) + at;
                    if used.abs_diff(number) < NEAR {
                        let word = core::mem::take(&mut words[at]);
                        *first = used.min(number) as u16;
                        words[used - usize::from(*first)] = word;
                    }
                }
                Some(_) => {}
            }
            if !(usize::from(*first)..usize::from(*first) + NEAR).contains(&number) {
                let mut all = [0; SET_WORDS];
                self.to_words(&mut all);
                self.0 = Bits::All(all);
            }
        }
        match &mut self.0 {
            Bits::Near(first, words) => words[number - usize::from(*first)] |= bit,
            Bits::All(words) => words[number] |= bit,
        }
        new
    }

    /// Takes a member out; true when it was there.
    pub fn remove(&mut self, id: BackendId) -> bool {
        let (number, bit) = (id.index() / 64, 1 << (id.0 % 64));
        let there = self.contains(id);
        if there {
            match &mut self.0 {
                Bits::Near(first, words) => words[number - usize::from(*first)] &= !bit,
                Bits::All(words) => words[number] &= !bit,
            }
        }
        there
    }

    /// Is it a member?
    #[inline]
    pub fn contains(&self, id: BackendId) -> bool {
        self.word(id.index() / 64) & (1 << (id.0 % 64)) != 0
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.bits().1.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// No members?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bits().1.iter().all(|&word| word == 0)
    }

    /// The member, when there is exactly one.
    #[inline]
    pub fn single(&self) -> Option<BackendId> {
        let mut members = self.iter();
        let first = members.next()?;
        members.next().is_none().then_some(first)
    }

    /// Members of either.
    pub fn union(&self, other: &BackendSet) -> BackendSet {
        let ((a, mine), (b, theirs)) = (self.bits(), other.bits());
        if other.is_empty() {
            return *self;
        }
        if self.is_empty() {
            return *other;
        }
        if a == b && mine.len() == NEAR && theirs.len() == NEAR {
            return BackendSet(Bits::Near(a as u16, core::array::from_fn(|i| mine[i] | theirs[i])));
        }
        let words: [u64; SET_WORDS] = core::array::from_fn(|i| self.word(i) | other.word(i));
        BackendSet::from_words(&words)
    }

    /// Is some member in both?
    pub fn intersects(&self, other: &BackendSet) -> bool {
        let (shorter, longer) = if self.bits().1.len() < other.bits().1.len() { (self, other) } else { (other, self) };
        let (first, words) = shorter.bits();
        words.iter().enumerate().any(|(i, word)| word & longer.word(first + i) != 0)
    }

    /// The members, smallest number first.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = BackendId> + '_ {
        let (first, words) = self.bits();
        words.iter().enumerate().flat_map(move |(index, &word)| {
            let mut rest = word;
            core::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                Some(BackendId(((first + index) * 64) as u16 + bit as u16))
            })
        })
    }

    /// The members that `keep` likes.
    #[inline]
    pub fn filter(&self, keep: impl Fn(BackendId) -> bool) -> BackendSet {
        let kept = |number: usize, mut rest: u64| {
            let mut kept = 0;
            while rest != 0 {
                let bit = rest & rest.wrapping_neg();
                if keep(BackendId((number * 64) as u16 + bit.trailing_zeros() as u16)) {
                    kept |= bit;
                }
                rest &= rest - 1;
            }
            kept
        };
        match &self.0 {
            Bits::Near(first, words) => {
                let first = *first;
                BackendSet(Bits::Near(first, core::array::from_fn(|i| kept(usize::from(first) + i, words[i]))))
            }
            Bits::All(words) => BackendSet::from_words(&core::array::from_fn::<_, SET_WORDS, _>(|i| kept(i, words[i]))),
        }
    }
}

impl Default for BackendSet {
    #[inline(always)]
    fn default() -> BackendSet {
        BackendSet(Bits::Near(0, [0; NEAR]))
    }
}

impl PartialEq for BackendSet {
    fn eq(&self, other: &BackendSet) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for BackendSet {}

impl FromIterator<BackendId> for BackendSet {
    fn from_iter<I: IntoIterator<Item = BackendId>>(ids: I) -> BackendSet {
        let mut set = BackendSet::EMPTY;
        for id in ids {
            set.insert(id);
        }
        set
    }
}

impl fmt::Debug for BackendSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|id| id.0)).finish()
    }
}
