//! What workers tell each other: who waits, and where there may be room.
//!
//! Each worker has its own line. Of it the others see a word for each backend (who waits for that one) and one more (who takes any): the
//! classes that wait; how many of the best, since when, and what the first of them needs. A word is written by its worker only.
//!
//! **Whose room is it?** Whoever frees a slot deals out all the room that there is, one after the other, as if all lines were one, and sends each worker an *offer* of so
//! much. Nothing has to go to and fro then: what is free is taken in the next turn of those who are offered it. Workers that deal at the same time deal nearly the
//! same, and what is dealt twice is taken once.
//!
//! **Nobody is overlooked.** Whoever begins to wait publishes his word, then looks whether there is room; whoever frees a slot gives it back, then looks
//! at the words. A full fence lies between the two steps on both sides, so that at least one of them sees the other (Dekker's pattern). loom goes through it
//! (`tests/loom_admission.rs`).
//!
//! **An offer carries no slot**: it is a bit and a number in the mailbox of a worker, for a backend. The slot itself lies free in its word, so it cannot be lost with a worker that does not
//! answer; and a bit that is set twice is set, hence no mailbox is ever full. A worker that is offered more than it has a use for passes the rest on, to all others that have waiters,
//! and those pass nothing on: so offers come to an end.

use super::class::{ClassId, MAX_CLASSES};
use super::fairness::Standing;
use super::slots::{FULL, Used};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::time::Millis;

/// Most workers: a set of them is one word.
pub const MAX_WORKERS: usize = 64;

/// Most that are dealt one after the other; what is left then is dealt in the same proportion.
const DEAL: usize = 64;

/// What is in an offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offer {
    /// There is room, and yours is the best waiter.
    Best,
    /// There is room, and those that are better than yours cannot use it.
    Rest,
    /// There is room, kept for somebody better who needs more; for those who do not take it from him.
    Beside,
}

/// All kinds, the strongest first.
pub(crate) const OFFERS: [Offer; 3] = [Offer::Best, Offer::Rest, Offer::Beside];

/// Classes that wait, whether one of the waiters needs no handshake; how many of the best class wait, and of the first of them since when and for how many units.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Waiting {
    pub classes: u8,
    pub unitless: bool,
    pub units: u8,
    pub count: u8,
    pub since: Millis,
}

impl Waiting {
    fn to_word(self) -> u64 {
        // 43 bits of milliseconds: 278 years.
        let Waiting { classes, unitless, units, count, since } = self;
        since.0 << 21
            | u64::from(count) << 13
            | u64::from(units & 0xf) << 9
            | u64::from(unitless) << 8
            | u64::from(classes)
    }

    fn of_word(word: u64) -> Waiting {
        Waiting {
            classes: word as u8,
            unitless: word & 0x100 != 0,
            units: (word >> 9) as u8 & 0xf,
            count: (word >> 13) as u8,
            since: Millis(word >> 21),
        }
    }

    fn best(&self, standing: &Standing) -> Option<ClassId> {
        let classes = (0..MAX_CLASSES as u8).map(ClassId).filter(|class| self.classes & class.bit() != 0);
        classes.min_by_key(|&class| standing.key(class))
    }
}

// A cost fits into four bits.
const _: () = assert!(FULL < 16);

/// By worker: for how many units its waiters may go; one that needs none counts as one.
pub(crate) type Dealt = [u16; MAX_WORKERS];

/// A cache line of its own (128: adjacent lines are fetched in pairs).
#[repr(align(128))]
struct Line<T>(T);

struct Mailbox {
    /// By kind of offer: which of its words have a bit.
    kinds: [AtomicU64; 3],
    /// By kind, and 64 backends.
    words: Box<[AtomicU64]>,
    /// By backend: for how many units of the best.
    amounts: Box<[AtomicU64]>,
}

/// The words and mailboxes of all workers.
pub(crate) struct Board {
    /// By worker.
    any: Box<[Line<AtomicU64>]>,
    /// By worker and member.
    own: Box<[Box<[AtomicU64]>]>,
    mailboxes: Box<[Line<Mailbox>]>,
    /// All workers' waiters: so that whoever frees a slot looks at one word when nobody waits.
    waiting: Line<AtomicU64>,
}

impl Board {
    pub fn new(workers: usize, members: usize) -> Board {
        let zeros = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>();
        let kinds = || core::array::from_fn(|_| AtomicU64::new(0));
        let mailbox = |_| {
            let words = zeros(OFFERS.len() * members.div_ceil(64));
            Line(Mailbox { kinds: kinds(), words, amounts: zeros(members) })
        };
        Board {
            any: (0..workers).map(|_| Line(AtomicU64::new(0))).collect(),
            own: (0..workers).map(|_| zeros(members)).collect(),
            mailboxes: (0..workers).map(mailbox).collect(),
            waiting: Line(AtomicU64::new(0)),
        }
    }

    pub fn workers(&self) -> usize {
        self.any.len()
    }

    /// One more waits; before its word is published.
    pub fn one_more(&self) {
        self.waiting.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn one_less(&self) {
        self.waiting.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many wait, all workers together.
    pub fn waiting(&self) -> u64 {
        self.waiting.0.load(Ordering::Relaxed)
    }

    pub fn publish_own(&self, worker: usize, member: usize, waiting: Waiting) {
        self.own[worker][member].store(waiting.to_word(), Ordering::Release);
    }

    pub fn publish_any(&self, worker: usize, waiting: Waiting) {
        self.any[worker].0.store(waiting.to_word(), Ordering::Release);
    }

    fn words(&self, worker: usize, member: usize) -> [Waiting; 2] {
        [&self.own[worker][member], &self.any[worker].0].map(|word| Waiting::of_word(word.load(Ordering::Acquire)))
    }

    /// Nobody waits for this member, nor for any.
    pub fn nobody_at(&self, member: usize) -> bool {
        self.waiting() == 0
            || (0..self.any.len()).all(|worker| self.words(worker, member).iter().all(|words| words.classes == 0))
    }

    /// Nobody waits for whichever member.
    pub fn nobody_for_any(&self) -> bool {
        let none = |word: &Line<AtomicU64>| Waiting::of_word(word.0.load(Ordering::Acquire)).classes == 0;
        self.waiting() == 0 || self.any.iter().all(none)
    }

    /// Deals out the room at a member: to the first of the best class, and so on, in a class to those that have been dealt least and then to the oldest. Ends where the next
    /// does not fit; the first is dealt in any case, so that his worker knows. `me` has as many waiters as there may be: it will see.
    pub fn deal(&self, me: usize, member: usize, mut standing: Standing, room: Used, dealt: &mut Dealt) {
        let workers = self.any.len();
        let mut hands = [(0, ClassId(0), Waiting::default(), 0u16); 2 * MAX_WORKERS];
        let mut held = 0;
        for worker in 0..workers {
            for waiting in self.words(worker, member) {
                if let Some(class) = waiting.best(&standing) {
                    let count = if worker == me { u16::MAX } else { u16::from(waiting.count) };
                    hands[held] = (worker, class, waiting, count);
                    held += 1;
                }
            }
        }
        let (mut connections, mut units) = (room.connections, room.units);
        for n in 0..DEAL {
            let key = |(worker, class, waiting, _): &(usize, ClassId, Waiting, u16)| {
                (standing.key(*class), dealt[*worker], waiting.since, *worker != me, *worker)
            };
            let first = hands[..held].iter_mut().filter(|(.., count)| *count > 0).min_by_key(|hand| key(hand));
            let Some((worker, class, waiting, count)) = first else { return };
            let needed = u32::from(waiting.units);
            let fits = connections > 0 && units >= needed;
            if n == 0 || fits {
                dealt[*worker] += u16::from(waiting.units.max(1));
            }
            if !fits {
                return;
            }
            *count -= u16::from(*worker != me);
            (connections, units) = (connections - 1, units - needed);
            standing.went(*class, needed);
        }
        // As often again as the scarcer of both allows.
        let times = |room: u32, left: u32| if room > left { room / (room - left) } else { u32::MAX };
        let times = times(room.connections, connections).min(times(room.units, units));
        dealt
            .iter_mut()
            .for_each(|amount| *amount = u32::from(*amount).saturating_mul(times).min(u16::MAX.into()) as u16);
    }

    /// The others that wait for a member, with one of these classes or without handshake; as a set.
    pub fn others(&self, me: usize, member: usize, classes: u8) -> u64 {
        let waits = |worker: &usize| {
            self.words(*worker, member).iter().any(|waiting| waiting.classes & classes != 0 || waiting.unitless)
        };
        (0..self.any.len()).filter(|&worker| worker != me).filter(waits).fold(0, |set, worker| set | 1 << worker)
    }

    /// Between publishing and looking for room, and between giving back and looking at words.
    pub fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    /// An offer; `amount` counts for [`Offer::Best`].
    pub fn send(&self, worker: usize, member: usize, offer: Offer, amount: u16) {
        let Mailbox { kinds, words, amounts } = &self.mailboxes[worker].0;
        if offer == Offer::Best {
            amounts[member].fetch_max(u64::from(amount), Ordering::Release);
        }
        let at = offer as usize * (words.len() / OFFERS.len()) + member / 64;
        words[at].fetch_or(1 << (member % 64), Ordering::AcqRel);
        // Behind the bit: whoever sees this sees the bit, or the one that took it before saw what it is about.
        kinds[offer as usize].fetch_or(1 << (member / 64), Ordering::AcqRel);
    }

    /// For how many units the best of this worker's waiters may go to a member, by the offers that were received.
    pub fn amount(&self, worker: usize, member: usize) -> u16 {
        self.mailboxes[worker].0.amounts[member].swap(0, Ordering::AcqRel) as u16
    }

    /// There is something in a worker's mailbox.
    pub fn has_offers(&self, worker: usize) -> bool {
        self.mailboxes[worker].0.kinds.iter().any(|kind| kind.load(Ordering::Acquire) != 0)
    }

    /// Empties a worker's mailbox, word by word: the number of the word, and its bits.
    pub fn receive(&self, worker: usize, offer: Offer, mut each: impl FnMut(usize, u64)) {
        let Mailbox { kinds, words, .. } = &self.mailboxes[worker].0;
        let kind = &kinds[offer as usize];
        if kind.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut set = kind.swap(0, Ordering::AcqRel);
        while set != 0 {
            let word = set.trailing_zeros() as usize;
            set &= set - 1;
            each(word, words[offer as usize * (words.len() / OFFERS.len()) + word].swap(0, Ordering::AcqRel));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::class::Share;
    use super::super::fairness::Fairness;
    use super::*;

    fn waiting(classes: u8, since: u64) -> Waiting {
        Waiting { classes, since: Millis(since), unitless: false, units: 10, count: 200 }
    }

    /// What each of three workers is dealt.
    fn deal(board: &Board, shares: [Share; 3], me: usize, units: u32) -> [u16; 3] {
        let share = core::array::from_fn(|c| shares.get(c).copied().unwrap_or(Share::Weight(1)));
        let mut dealt = [0; MAX_WORKERS];
        board.deal(me, 70, Fairness::new(share).standing(), Used { connections: units.max(50), units }, &mut dealt);
        [dealt[0], dealt[1], dealt[2]]
    }

    #[test]
    fn room_is_dealt_to_the_best_class_and_then_to_the_oldest() {
        let strict = [Share::Strict; 3];
        let board = Board::new(3, 100);
        board.one_more();
        assert_eq!(deal(&board, strict, 0, 30), [0, 0, 0]);
        board.publish_own(0, 70, waiting(0b110, 500));
        board.publish_any(1, waiting(0b10, 400));
        board.publish_own(2, 70, waiting(0b10, 401));
        assert_eq!(deal(&board, strict, 0, 10), [0, 10, 0]);
        assert_eq!(deal(&board, strict, 0, 3), [0, 10, 0], "one in any case");
        assert_eq!(deal(&board, strict, 0, 29), [0, 10, 10]);
        assert_eq!(deal(&board, strict, 0, 45), [10, 20, 10]);
        board.publish_own(0, 70, Waiting { count: 2, units: 1, ..waiting(0b1, 600) });
        assert_eq!(deal(&board, strict, 1, 22), [2, 10, 10]);
        assert_eq!(board.others(0, 70, 0xff), 0b110);
        assert_eq!((board.others(0, 70, 0b1), board.others(0, 70, 0b10)), (0, 0b110));
        board.publish_any(1, Waiting { unitless: true, ..waiting(0b10, 400) });
        assert_eq!(board.others(0, 70, 0), 0b010);
        assert!(!board.nobody_for_any() && !board.nobody_at(71));
        board.publish_any(1, Waiting::default());
        assert!(board.nobody_for_any() && board.nobody_at(71) && !board.nobody_at(70));
    }

    #[test]
    fn room_is_dealt_by_weight_where_classes_wait_at_different_workers() {
        let board = Board::new(3, 100);
        board.one_more();
        (0..3).for_each(|worker| board.publish_any(worker, waiting(1 << worker, 0)));
        let dealt = deal(&board, [1, 2, 5].map(Share::Weight), 0, 400);
        assert_eq!(dealt, [50, 100, 250]);
        // Beyond what is dealt one by one.
        let dealt = deal(&board, [1, 2, 5].map(Share::Weight), 0, 64_000);
        let dealt = dealt.map(u32::from);
        let all: u32 = dealt.iter().sum();
        assert_eq!((dealt.map(|n| n * 8 / all), all), ([1, 2, 5], 64_000));
    }

    #[test]
    fn offers_arrive_once_and_in_their_kind() {
        let board = Board::new(2, 4096);
        for member in [0, 63, 64, 4095, 64] {
            board.send(1, member, Offer::Rest, 0);
        }
        [3, 7, 2].iter().for_each(|&amount| board.send(1, 5, Offer::Best, amount));
        assert!(board.has_offers(1) && !board.has_offers(0));
        let receive = |offer| {
            let mut got = vec![];
            board.receive(1, offer, |word, bits| {
                got.extend((0..64).filter(|bit| bits >> bit & 1 != 0).map(|bit| word * 64 + bit))
            });
            got
        };
        assert_eq!(receive(Offer::Best), [5]);
        assert_eq!((board.amount(1, 5), board.amount(1, 5)), (7, 0));
        assert_eq!(receive(Offer::Rest), [0, 63, 64, 4095]);
        assert!(receive(Offer::Rest).is_empty() && receive(Offer::Beside).is_empty() && !board.has_offers(1));
    }

    #[test]
    fn a_word_keeps_what_it_is_given() {
        for w in
            [Waiting { classes: 0x81, unitless: true, units: 1, count: 255, since: Millis(1 << 42) }, waiting(0xff, 0)]
        {
            assert_eq!(Waiting::of_word(w.to_word()), w);
        }
    }
}
