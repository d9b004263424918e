//! One worker's line: who waits, for what, and since when.
//!
//! A slab of a fixed number of places, allocated once; when it is full, nobody more is taken in. Lists run through it by numbers, so that everything is done in a
//! few steps, whoever leaves from wherever he stands. In each list the oldest is at the head. Everybody stands in one list of his class:
//!
//! | list | of each class | its waiters go to |
//! |---|---|---|
//! | again | those whose dial failed | any member but that one; before all others of the class |
//! | lost | those whose own server failed while they waited | any |
//! | spilled | those who have waited long enough for their own | any |
//! | any | those without an own one, or whose was down when they came | any |
//! | own | those who wait for their own | that one |
//!
//! and who has an own server, in the list of that one and of his class, too: whatever else he may be given, he may always be given that.

use super::class::{ClassId, Cost, MAX_CLASSES};
use crate::time::Millis;

/// How far from the head a waiter is looked for who may go to a given member, where those in front were there and failed. Beyond, the slot is left for the
/// next who asks.
pub(crate) const LOOK: usize = 8;

const NIL: u32 = u32::MAX;

/// No member.
pub(crate) const NOBODY: u16 = u16::MAX;

/// A waiter's place in its list, for [`Admission::leave`](super::Admission::leave). One that has gone is nobody's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket {
    index: u32,
    generation: u32,
}

impl Ticket {
    /// Nobody's.
    pub const NONE: Ticket = Ticket { index: u32::MAX, generation: 0 };
}

/// In which list of his class one stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Again,
    Lost,
    Spilled,
    Any,
    Own,
}

/// The lists of those who take any.
const ANYWHERE: [Place; 4] = [Place::Again, Place::Lost, Place::Spilled, Place::Any];

/// Lists of a class beside those of its members.
const PLACES: usize = 5;

/// Who waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Waiter {
    pub token: u64,
    pub since: Millis,
    /// In whose line it stands, and of which class it is.
    pub class: ClassId,
    pub origin: ClassId,
    pub cost: Cost,
    /// The member that can resume it, and one that it must not be given.
    pub own: u16,
    pub avoid: u16,
    pub place: Place,
}

#[derive(Clone, Copy)]
struct Link {
    before: u32,
    behind: u32,
}

const LOOSE: Link = Link { before: NIL, behind: NIL };

const BY_MEMBER: usize = 0;
const BY_PLACE: usize = 1;

struct Entry {
    waiter: Waiter,
    taken: bool,
    generation: u32,
    /// In the list of its own member, and in that of its place; of a free place the first leads to the next free one.
    links: [Link; 2],
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
    len: u32,
}

pub(crate) struct Line {
    slab: Box<[Entry]>,
    free: u32,
    lists: Box<[List]>,
    members: usize,
    /// By class, those again not counted: they had a place, and keep it.
    lengths: [u32; MAX_CLASSES],
    len: usize,
    /// Waiters without handshake.
    unitless: u32,
    /// Waiters who may not go to every member.
    picky: u32,
}

impl Line {
    pub fn new(members: usize, capacity: usize) -> Line {
        let nobody = Waiter {
            token: 0,
            since: Millis(0),
            class: ClassId(0),
            origin: ClassId(0),
            cost: Cost::Full,
            own: NOBODY,
            avoid: NOBODY,
            place: Place::Any,
        };
        let capacity = capacity.min(NIL as usize) as u32;
        let entry = |index: u32| {
            let behind = if index + 1 < capacity { index + 1 } else { NIL };
            let links = [Link { before: NIL, behind }, LOOSE];
            Entry { waiter: nobody, taken: false, generation: 0, links }
        };
        Line {
            slab: (0..capacity).map(entry).collect(),
            free: if capacity > 0 { 0 } else { NIL },
            lists: vec![List { head: NIL, tail: NIL, len: 0 }; (PLACES + members) * MAX_CLASSES].into(),
            members,
            lengths: [0; MAX_CLASSES],
            len: 0,
            unitless: 0,
            picky: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn len_of(&self, class: ClassId) -> usize {
        self.lengths[class.index()] as usize
    }

    pub fn unitless(&self) -> bool {
        self.unitless > 0
    }

    pub fn picky(&self) -> bool {
        self.picky > 0
    }

    pub fn get(&self, index: u32) -> &Waiter {
        &self.slab[index as usize].waiter
    }

    /// Who holds a ticket.
    pub fn find(&self, ticket: Ticket) -> Option<u32> {
        let entry = self.slab.get(ticket.index as usize)?;
        (entry.taken && entry.generation == ticket.generation).then_some(ticket.index)
    }

    /// At the end of its list; `None` when no place is left.
    pub fn push(&mut self, waiter: Waiter) -> Option<Ticket> {
        let index = self.free;
        let entry = self.slab.get_mut(index as usize)?;
        self.free = entry.links[BY_MEMBER].behind;
        (entry.waiter, entry.taken) = (waiter, true);
        let generation = entry.generation;
        self.len += 1;
        self.tally(&waiter, true);
        let (by_member, by_place) = self.lists_of(&waiter);
        self.insert(by_place, index, BY_PLACE, self.lists[by_place].tail);
        if let Some(list) = by_member {
            self.insert(list, index, BY_MEMBER, self.lists[list].tail);
        }
        Some(Ticket { index, generation })
    }

    /// Takes one out, from wherever it stands.
    pub fn remove(&mut self, index: u32) -> Waiter {
        let waiter = *self.get(index);
        let (by_member, by_place) = self.lists_of(&waiter);
        self.unlink(by_place, index, BY_PLACE);
        if let Some(list) = by_member {
            self.unlink(list, index, BY_MEMBER);
        }
        self.tally(&waiter, false);
        self.len -= 1;
        let entry = &mut self.slab[index as usize];
        debug_assert!(entry.taken);
        entry.taken = false;
        entry.generation = entry.generation.wrapping_add(1);
        entry.links[BY_MEMBER].behind = self.free;
        self.free = index;
        waiter
    }

    /// One that waited for its own takes any from now on.
    pub fn spill(&mut self, index: u32) {
        let class = self.get(index).class;
        let (own, spilled) = (self.placed(Place::Own, class), self.placed(Place::Spilled, class));
        self.unlink(own, index, BY_PLACE);
        self.slab[index as usize].waiter.place = Place::Spilled;
        self.insert(spilled, index, BY_PLACE, self.lists[spilled].tail);
    }

    /// All that wait for a member take any from now on. As many steps as there are waiters who have lost theirs: once for each failure.
    pub fn lose(&mut self, member: usize) {
        for class in (0..MAX_CLASSES as u8).map(ClassId) {
            let (own, lost) = (self.placed(Place::Own, class), self.placed(Place::Lost, class));
            // Two sorted lists into one: from the newest on, never back.
            let mut before = self.lists[lost].tail;
            let mut index = self.lists[self.of_member(member, class)].tail;
            while index != NIL {
                let Waiter { since, place, .. } = *self.get(index);
                if place == Place::Own {
                    self.unlink(own, index, BY_PLACE);
                    self.slab[index as usize].waiter.place = Place::Lost;
                    while before != NIL && self.get(before).since > since {
                        before = self.slab[before as usize].links[BY_PLACE].before;
                    }
                    self.insert(lost, index, BY_PLACE, before);
                }
                index = self.slab[index as usize].links[BY_MEMBER].before;
            }
        }
    }

    /// Classes of which somebody can be resumed by this member.
    pub fn classes_at(&self, member: usize) -> u8 {
        self.classes(|class| self.lists[self.of_member(member, class)].head != NIL)
    }

    /// Classes of which somebody takes any.
    pub fn classes_anywhere(&self) -> u8 {
        self.classes(|class| ANYWHERE.iter().any(|&place| self.lists[self.placed(place, class)].head != NIL))
    }

    /// How many of a class can be resumed by a member, or take any.
    pub fn count(&self, member: Option<usize>, class: ClassId) -> u32 {
        match member {
            Some(member) => self.lists[self.of_member(member, class)].len,
            None => ANYWHERE.iter().map(|&place| self.lists[self.placed(place, class)].len).sum(),
        }
    }

    fn classes(&self, waits: impl Fn(ClassId) -> bool) -> u8 {
        (0..MAX_CLASSES as u8).map(ClassId).filter(|&class| waits(class)).fold(0, |set, class| set | class.bit())
    }

    /// Who of a class goes next to a member, if it goes to one; `up` says whether it takes others than those that it can resume.
    pub fn next(&self, member: usize, class: ClassId, newest: bool, up: bool) -> Option<u32> {
        let may = |waiter: &Waiter| usize::from(waiter.avoid) != member;
        let anywhere =
            |place: Place| if up { self.first(self.placed(place, class), BY_PLACE, newest, may) } else { None };
        let again = if up { self.first(self.placed(Place::Again, class), BY_PLACE, false, may) } else { None };
        again.or_else(|| {
            let own = self.next_own(member, class, newest);
            self.best(own.into_iter().chain(ANYWHERE[1..].iter().filter_map(|&place| anywhere(place))), newest)
        })
    }

    /// The same of those who take any, whichever member it is.
    pub fn next_anywhere(&self, class: ClassId, newest: bool) -> Option<u32> {
        let first = |place: Place, newest: bool| self.first(self.placed(place, class), BY_PLACE, newest, |_| true);
        first(Place::Again, false)
            .or_else(|| self.best(ANYWHERE[1..].iter().filter_map(|&place| first(place, newest)), newest))
    }

    /// The same of those whom a member can resume.
    pub fn next_own(&self, member: usize, class: ClassId, newest: bool) -> Option<u32> {
        self.first(self.of_member(member, class), BY_MEMBER, newest, |_| true)
    }

    /// Since when the oldest of a class waits.
    pub fn oldest(&self, class: ClassId) -> Option<Millis> {
        self.first_of_class(class).map(|index| self.get(index).since)
    }

    /// Who of a class has waited longest.
    pub fn first_of_class(&self, class: ClassId) -> Option<u32> {
        let heads = ANYWHERE.into_iter().chain([Place::Own]).map(|place| self.lists[self.placed(place, class)].head);
        heads.filter(|&head| head != NIL).min_by_key(|&index| self.get(index).since)
    }

    /// Who of a class has waited longest for its own member alone.
    pub fn first_own(&self, class: ClassId) -> Option<u32> {
        Some(self.lists[self.placed(Place::Own, class)].head).filter(|&head| head != NIL)
    }

    fn first(&self, list: usize, by: usize, newest: bool, may: impl Fn(&Waiter) -> bool) -> Option<u32> {
        let List { head, tail, .. } = self.lists[list];
        let mut index = if newest { tail } else { head };
        for _ in 0..LOOK {
            if index == NIL || may(self.get(index)) {
                return Some(index).filter(|&index| index != NIL);
            }
            let link = self.slab[index as usize].links[by];
            index = if newest { link.before } else { link.behind };
        }
        None
    }

    fn best(&self, indices: impl Iterator<Item = u32>, newest: bool) -> Option<u32> {
        // Of equal ones the first that was named.
        indices.min_by_key(|&index| {
            let since = self.get(index).since.0;
            if newest { !since } else { since }
        })
    }

    fn placed(&self, place: Place, class: ClassId) -> usize {
        place as usize * MAX_CLASSES + class.index()
    }

    fn of_member(&self, member: usize, class: ClassId) -> usize {
        debug_assert!(member < self.members);
        (PLACES + member) * MAX_CLASSES + class.index()
    }

    /// The lists that it stands in.
    fn lists_of(&self, waiter: &Waiter) -> (Option<usize>, usize) {
        let own = waiter.own != NOBODY && waiter.own != waiter.avoid;
        let by_member = own.then(|| self.of_member(usize::from(waiter.own), waiter.class));
        (by_member, self.placed(waiter.place, waiter.class))
    }

    fn tally(&mut self, waiter: &Waiter, more: bool) {
        let add = |n: &mut u32, one: bool| *n = if more { *n + u32::from(one) } else { *n - u32::from(one) };
        add(&mut self.picky, waiter.avoid != NOBODY);
        add(&mut self.unitless, waiter.cost.units() == 0);
        add(&mut self.lengths[waiter.class.index()], waiter.place != Place::Again);
    }

    /// Behind `before`, or in front of all.
    fn insert(&mut self, list: usize, index: u32, link: usize, before: u32) {
        let behind = match before {
            NIL => core::mem::replace(&mut self.lists[list].head, index),
            before => core::mem::replace(&mut self.slab[before as usize].links[link].behind, index),
        };
        match behind {
            NIL => self.lists[list].tail = index,
            behind => self.slab[behind as usize].links[link].before = index,
        }
        self.slab[index as usize].links[link] = Link { before, behind };
        self.lists[list].len += 1;
    }

    fn unlink(&mut self, list: usize, index: u32, link: usize) {
        let Link { before, behind } = core::mem::replace(&mut self.slab[index as usize].links[link], LOOSE);
        self.lists[list].len -= 1;
        match before {
            NIL => self.lists[list].head = behind,
            before => self.slab[before as usize].links[link].behind = behind,
        }
        match behind {
            NIL => self.lists[list].tail = before,
            behind => self.slab[behind as usize].links[link].before = before,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const C: ClassId = ClassId(0);

    fn waiter(token: u64, since: u64, place: Place, own: u16) -> Waiter {
        let since = Millis(since);
        Waiter { token, since, class: C, origin: C, cost: Cost::Full, own, avoid: NOBODY, place }
    }

    fn drain(line: &mut Line, member: usize, newest: bool) -> Vec<u64> {
        let next = |line: &mut Line| line.next(member, C, newest, true).map(|index| line.remove(index).token);
        core::iter::from_fn(|| next(line)).collect()
    }

    #[test]
    fn who_has_waited_longest_goes_first_whatever_he_waits_for_and_turned_round_last() {
        for newest in [false, true] {
            let mut line = Line::new(2, 16);
            line.push(waiter(1, 10, Place::Any, NOBODY)).unwrap();
            line.push(waiter(2, 20, Place::Own, 0)).unwrap();
            line.push(waiter(3, 30, Place::Own, 1)).unwrap();
            line.push(waiter(4, 40, Place::Any, NOBODY)).unwrap();
            line.push(waiter(5, 50, Place::Own, 0)).unwrap();
            line.push(waiter(6, 60, Place::Again, NOBODY)).unwrap();
            let want = if newest { [6, 5, 4, 2, 1] } else { [6, 1, 2, 4, 5] };
            assert_eq!(drain(&mut line, 0, newest), want);
            assert_eq!(drain(&mut line, 1, newest), [3]);
            assert_eq!((line.len(), line.len_of(C), line.picky()), (0, 0, false));
        }
    }

    #[test]
    fn those_who_lost_their_server_stand_by_age_whenever_it_failed() {
        let mut line = Line::new(3, 16);
        for (token, since) in [(1, 10), (2, 20), (3, 30), (4, 40), (5, 50), (6, 60)] {
            line.push(waiter(token, since, Place::Own, (token % 3) as u16)).unwrap();
        }
        let spilled = line.first_own(C).unwrap();
        line.spill(spilled);
        (0..2).for_each(|member| line.lose(member));
        assert_eq!(line.oldest(C), Some(Millis(10)));
        assert_eq!((line.classes_at(0), line.classes_at(2), line.classes_anywhere()), (1, 1, 1));
        assert_eq!(line.get(line.first_own(C).unwrap()).token, 2);
        // Whom it can resume it still can.
        assert_eq!(line.next(1, C, false, false).map(|index| line.get(index).token), Some(1));
        assert_eq!(line.next(1, C, true, false).map(|index| line.get(index).token), Some(4));
        assert_eq!(drain(&mut line, 0, false), [1, 3, 4, 6]);
        assert_eq!(drain(&mut line, 2, false), [2, 5]);
        assert_eq!((line.len(), line.classes_at(1)), (0, 0));
    }

    #[test]
    fn a_ticket_is_nobodys_when_its_holder_has_gone() {
        let mut line = Line::new(1, 1);
        let ticket = line.push(waiter(1, 1, Place::Any, NOBODY)).unwrap();
        assert_eq!(line.push(waiter(2, 1, Place::Any, NOBODY)), None, "full");
        let index = line.find(ticket).unwrap();
        line.remove(index);
        assert_eq!(line.find(ticket), None);
        let other = line.push(waiter(3, 1, Place::Any, NOBODY)).unwrap();
        assert_eq!((line.find(ticket), line.find(other)), (None, Some(index)));
    }

    #[test]
    fn whoever_may_not_go_there_is_stepped_over_but_not_without_end() {
        let mut line = Line::new(2, 64);
        let failed = |token| Waiter { avoid: 0, ..waiter(token, token, Place::Again, NOBODY) };
        for token in 1..LOOK as u64 {
            line.push(failed(token)).unwrap();
        }
        line.push(waiter(90, 90, Place::Again, NOBODY)).unwrap();
        line.push(waiter(99, 99, Place::Any, NOBODY)).unwrap();
        let token = |line: &Line, member| line.next(member, C, false, true).map(|index| line.get(index).token);
        assert_eq!((token(&line, 0), token(&line, 1)), (Some(90), Some(1)));
        let mut line = Line::new(2, 64);
        (0..LOOK as u64).for_each(|token| _ = line.push(failed(token)).unwrap());
        line.push(waiter(90, 90, Place::Again, NOBODY)).unwrap();
        assert!(line.picky());
        assert_eq!((token(&line, 0), token(&line, 1)), (None, Some(0)), "the ninth is not looked at");
        line.push(waiter(99, 99, Place::Any, NOBODY)).unwrap();
        assert_eq!(token(&line, 0), Some(99));
    }
}
