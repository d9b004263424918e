//! Backends: their numbers and states, and sets of them.

use core::fmt;

/// Most backends in one directory. It bounds [`BackendSet`], which is a plain bit per backend.
pub const MAX_BACKENDS: usize = 1024;

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

/// A set of backends, one bit each. `Copy`, 128 bytes, never allocates.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct BackendSet(pub(crate) [u64; SET_WORDS]);

impl BackendSet {
    /// No backend.
    pub const EMPTY: BackendSet = BackendSet([0; SET_WORDS]);

    /// Just this one.
    pub fn one(id: BackendId) -> BackendSet {
        let mut set = BackendSet::EMPTY;
        set.insert(id);
        set
    }

    /// Adds a member; one beyond [`MAX_BACKENDS`] is ignored. True when it was not there.
    pub fn insert(&mut self, id: BackendId) -> bool {
        let Some(word) = self.0.get_mut(id.index() / 64) else { return false };
        let bit = 1 << (id.0 % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Takes a member out; true when it was there.
    pub fn remove(&mut self, id: BackendId) -> bool {
        let Some(word) = self.0.get_mut(id.index() / 64) else { return false };
        let bit = 1 << (id.0 % 64);
        let there = *word & bit != 0;
        *word &= !bit;
        there
    }

    /// Is it a member?
    pub fn contains(&self, id: BackendId) -> bool {
        self.0.get(id.index() / 64).is_some_and(|word| word & (1 << (id.0 % 64)) != 0)
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// No members?
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// The member, when there is exactly one.
    pub fn single(&self) -> Option<BackendId> {
        let mut members = self.iter();
        let first = members.next()?;
        members.next().is_none().then_some(first)
    }

    /// Members of either.
    pub fn union(&self, other: &BackendSet) -> BackendSet {
        BackendSet(core::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// Is some member in both?
    pub fn intersects(&self, other: &BackendSet) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    /// The members, smallest number first.
    pub fn iter(&self) -> impl Iterator<Item = BackendId> + '_ {
        self.0.iter().enumerate().flat_map(|(index, &word)| {
            let mut rest = word;
            core::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                Some(BackendId((index * 64) as u16 + bit as u16))
            })
        })
    }

    /// The members that `keep` likes.
    pub fn filter(&self, keep: impl Fn(BackendId) -> bool) -> BackendSet {
        self.iter().filter(|&id| keep(id)).collect()
    }
}

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
