//! What goes to and fro between workers and the thread that makes the checks: packets of checks, what these come to, and what connections
//! show of backends.
//!
//! Packets lie in buffers that were made at the start, as many as there are, and go through bounded queues; one that finds no buffer is lost and
//! counted, and TCP repeats it. What holds of backends, and what is shown of them, is no message: each backend has a place where the latest
//! stands, so that there is no queue that could be full. Who reads it looks at a number first, which rises with each change.

use crate::backends::{Checked, Hints};
use crate::checks::{KeyNews, Leaving, RECEIVE, Seen};
use crate::io::doorbell::Doorbell;
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use lb::{BackendId, BackendSet, MAX_BACKENDS};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Packets on their way to the thread that makes the checks. Full: further ones are lost (`check-queue-full`).
pub const ARRIVING: usize = 256;
/// Packets on their way to one worker.
pub const LEAVING: usize = 256;
/// Key names on their way to one worker. Full: further ones come again, with the next look.
const KEYS: usize = 256;
/// Longest packet that arrives: what the window lets a server send at once, with its headers.
const LONGEST: usize = RECEIVE + 200;
/// Words of a set of backends.
const WORDS: usize = MAX_BACKENDS.div_ceil(64);

/// A packet.
pub struct Parcel {
    backend: BackendId,
    generation: u32,
    len: usize,
    bytes: Box<[u8]>,
}

impl Parcel {
    fn new(longest: usize) -> Box<Parcel> {
        Box::new(Parcel { backend: BackendId(0), generation: 0, len: 0, bytes: vec![0; longest].into() })
    }

    /// To whom.
    pub fn backend(&self) -> BackendId {
        self.backend
    }

    /// Which holder of the slot.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The IP packet.
    pub fn packet(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Buffers, full ones and free ones: as many as the queue has places.
struct Way {
    full: ArrayQueue<Box<Parcel>>,
    free: ArrayQueue<Box<Parcel>>,
}

impl Way {
    fn new(places: usize, longest: usize) -> Way {
        let way = Way { full: ArrayQueue::new(places), free: ArrayQueue::new(places) };
        (0..places).for_each(|_| _ = way.free.push(Parcel::new(longest)));
        way
    }

    fn put(&self, backend: BackendId, generation: u32, packet: &[u8]) -> bool {
        let Some(mut parcel) = self.free.pop() else { return false };
        let fits = packet.len() <= parcel.bytes.len();
        if fits {
            (parcel.backend, parcel.generation, parcel.len) = (backend, generation, packet.len());
            parcel.bytes[..packet.len()].copy_from_slice(packet);
        }
        // There are no more parcels than places in either.
        _ = if fits { self.full.push(parcel) } else { self.free.push(parcel) };
        fits
    }
}

/// Wakes a worker; it is rung before the flag says so, which costs who looks no system call.
struct Bell {
    door: Doorbell,
    rung: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        self.door.ring();
        self.rung.store(true, Ordering::Release);
    }
}

/// Seen by all. See the [module](self).
struct Office {
    arriving: Way,
    leaving: Box<[CachePadded<Way>]>,
    keys: Box<[ArrayQueue<KeyNews>]>,
    /// Rises with each change of `seen`.
    version: CachePadded<AtomicU64>,
    /// By slot: generation, what checks say, whether its key names are known.
    seen: Box<[AtomicU64]>,
    tls: [AtomicU64; WORDS],
    strange_tickets: [AtomicU64; WORDS],
    suspects: [AtomicU64; WORDS],
    /// Rung for whoever makes the checks.
    bell: Doorbell,
    /// One for each worker.
    bells: Box<[Bell]>,
}

/// The end of whoever makes the checks.
pub struct Clerk {
    office: Arc<Office>,
}

/// A worker's end.
pub struct Window {
    office: Arc<Office>,
    me: usize,
    /// Of what it has seen.
    version: u64,
}

/// Where a worker hands in what has arrived.
pub struct Arrivals {
    office: Arc<Office>,
}

/// Both ends, for so many workers and packets of up to `mtu` bytes.
pub fn between(workers: usize, mtu: u16) -> io::Result<(Clerk, Vec<Window>)> {
    let way = |_| CachePadded::new(Way::new(LEAVING, usize::from(mtu)));
    let bell = |_| Ok(Bell { door: Doorbell::new()?, rung: AtomicBool::new(false) });
    let bells = (0..workers).map(bell).collect::<io::Result<Box<[_]>>>()?;
    let office = Arc::new(Office {
        arriving: Way::new(ARRIVING, LONGEST),
        leaving: (0..workers).map(way).collect(),
        keys: (0..workers).map(|_| ArrayQueue::new(KEYS)).collect(),
        version: CachePadded::new(AtomicU64::new(0)),
        seen: (0..MAX_BACKENDS).map(|_| AtomicU64::new(0)).collect(),
        tls: [const { AtomicU64::new(0) }; WORDS],
        strange_tickets: [const { AtomicU64::new(0) }; WORDS],
        suspects: [const { AtomicU64::new(0) }; WORDS],
        bell: Doorbell::new()?,
        bells,
    });
    let window = |me| Window { office: office.clone(), me, version: 0 };
    Ok((Clerk { office: office.clone() }, (0..workers).map(window).collect()))
}

fn encoded(seen: &Seen) -> u64 {
    let checked = match seen.checked {
        Checked::Unknown => 1,
        Checked::Up => 2,
        Checked::Down => 3,
    };
    let named = match seen.named {
        None => 0,
        Some(false) => 1,
        Some(true) => 2,
    };
    u64::from(seen.generation) << 32 | named << 2 | checked
}

fn decoded(backend: BackendId, word: u64) -> Option<Seen> {
    let checked = match word & 3 {
        1 => Checked::Unknown,
        2 => Checked::Up,
        3 => Checked::Down,
        _ => return None,
    };
    let named = match word >> 2 & 3 {
        0 => None,
        1 => Some(false),
        2 => Some(true),
        _ => return None,
    };
    Some(Seen { backend, generation: (word >> 32) as u32, checked, named })
}

impl Clerk {
    /// What is readable when there is something to do.
    pub fn bell(&self) -> &Doorbell {
        &self.office.bell
    }

    /// Gives a packet to a worker. Which of them does not matter: the answer comes back by any.
    pub fn send(&self, leaving: &Leaving<'_>) {
        let to = leaving.backend.index() % self.office.leaving.len();
        if self.office.leaving[to].put(leaving.backend, leaving.generation, leaving.packet) {
            self.office.bells[to].ring();
        }
    }

    /// Hands what has arrived to `take`.
    pub fn receive(&self, mut take: impl FnMut(&[u8])) {
        let way = &self.office.arriving;
        // No more than there could be, so that a flood lets others have their turn.
        for _ in 0..ARRIVING {
            let Some(parcel) = way.full.pop() else { return };
            take(parcel.packet());
            _ = way.free.push(parcel);
        }
    }

    /// What connections have shown.
    pub fn hints(&self) -> Hints {
        Hints {
            tls: taken(&self.office.tls),
            strange_tickets: taken(&self.office.strange_tickets),
            suspects: taken(&self.office.suspects),
        }
    }

    /// Tells all workers what holds of backends. Only what differs from before is a change.
    pub fn tell(&self, all: impl Iterator<Item = Seen>) {
        let mut changed = false;
        for seen in all {
            let word = encoded(&seen);
            if let Some(place) = self.office.seen.get(seen.backend.index()) {
                changed |= place.swap(word, Ordering::Relaxed) != word;
            }
        }
        if changed {
            // Release: who sees the number finds what it stands for.
            self.office.version.fetch_add(1, Ordering::Release);
            self.office.bells.iter().for_each(Bell::ring);
        }
    }

    /// Tells a worker a key name: it finds its way to the worker whose row it is.
    pub fn tell_key(&self, news: KeyNews) {
        let to = news.backend.index() % self.office.keys.len();
        if self.office.keys[to].push(news).is_ok() {
            self.office.bells[to].ring();
        }
    }
}

impl Arrivals {
    /// A packet has arrived. False when there is no room for it.
    pub fn arrived(&self, packet: &[u8]) -> bool {
        let put = self.office.arriving.put(BackendId(0), 0, packet);
        if put {
            self.office.bell.ring();
        }
        put
    }
}

impl Window {
    /// What is readable when there is something for this worker.
    pub fn bell(&self) -> RawFd {
        self.office.bells[self.me].door.fd()
    }

    /// Up again: the bell may have been what woke us.
    pub fn awake(&self) {
        let bell = &self.office.bells[self.me];
        if bell.rung.swap(false, Ordering::AcqRel) {
            bell.door.silence();
        }
    }

    /// Where packets are handed in.
    pub fn arrivals(&self) -> Arrivals {
        Arrivals { office: self.office.clone() }
    }

    /// What is seen is to be looked at anew, as if all of it were news.
    pub fn look_again(&mut self) {
        self.version = 0;
    }

    /// The next packet to be sent. To be given [back](Window::give_back).
    #[inline]
    pub fn take(&self) -> Option<Box<Parcel>> {
        self.office.leaving[self.me].full.pop()
    }

    /// Its buffer is free again.
    pub fn give_back(&self, parcel: Box<Parcel>) {
        _ = self.office.leaving[self.me].free.push(parcel);
    }

    /// The next key name.
    #[inline]
    pub fn take_key(&self) -> Option<KeyNews> {
        self.office.keys[self.me].pop()
    }

    /// There is something new to be seen; it is to be looked at now.
    #[inline]
    pub fn has_news(&mut self) -> bool {
        let version = self.office.version.load(Ordering::Acquire);
        core::mem::replace(&mut self.version, version) != version
    }

    /// What holds of backends, of all of which something is known.
    pub fn seen(&self) -> impl Iterator<Item = Seen> + '_ {
        let words = self.office.seen.iter().enumerate();
        words.filter_map(|(slot, word)| decoded(BackendId(slot as u16), word.load(Ordering::Relaxed)))
    }

    /// Tells what connections have shown.
    pub fn hint(&self, hints: &Hints) {
        put(&self.office.tls, &hints.tls);
        put(&self.office.strange_tickets, &hints.strange_tickets);
        put(&self.office.suspects, &hints.suspects);
        self.office.bell.ring();
    }
}

fn put(words: &[AtomicU64; WORDS], set: &BackendSet) {
    for id in set.iter() {
        words[id.index() / 64].fetch_or(1 << (id.0 % 64), Ordering::Relaxed);
    }
}

fn taken(words: &[AtomicU64; WORDS]) -> BackendSet {
    let mut set = BackendSet::EMPTY;
    for (number, word) in words.iter().enumerate() {
        let mut rest = if word.load(Ordering::Relaxed) == 0 { 0 } else { word.swap(0, Ordering::Relaxed) };
        while rest != 0 {
            set.insert(BackendId((number * 64) as u16 + rest.trailing_zeros() as u16));
            rest &= rest - 1;
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::Noticed;

    fn seen(slot: u16, generation: u32, checked: Checked) -> Seen {
        Seen {
            backend: BackendId(slot),
            generation,
            checked,
            named: [None, Some(false), Some(true)][usize::from(slot % 3)],
        }
    }

    #[test]
    fn what_is_told_is_seen_by_every_worker_and_the_same_again_is_no_news() {
        let (clerk, mut workers) = between(2, 1500).unwrap();
        let all = [seen(0, 7, Checked::Down), seen(63, 0, Checked::Up), seen(1023, u32::MAX, Checked::Unknown)];
        assert!(!workers[0].has_news());
        clerk.tell(all.into_iter());
        for worker in &mut workers {
            assert!(worker.has_news() && !worker.has_news());
            assert_eq!(worker.seen().collect::<Vec<_>>(), all);
        }
        clerk.tell(all.into_iter());
        assert!(!workers[0].has_news());
        clerk.tell([seen(0, 7, Checked::Up)].into_iter());
        assert!(workers[1].has_news());
        assert_eq!(workers[1].seen().next().unwrap().checked, Checked::Up);
    }

    #[test]
    fn packets_arrive_whole_and_one_too_many_is_refused_and_buffers_come_back() {
        let (clerk, workers) = between(2, 1500).unwrap();
        for round in 0..3u8 {
            for n in 0..ARRIVING {
                assert!(workers[n % 2].arrivals().arrived(&[round, n as u8]));
            }
            assert!(!workers[0].arrivals().arrived(&[0]));
            let mut got = Vec::new();
            clerk.receive(|packet| got.push(packet.to_vec()));
            assert_eq!((got.len(), &got[3][..]), (ARRIVING, &[round, 3][..]));
        }
        assert!(!workers[0].arrivals().arrived(&[0; LONGEST + 1]) && workers[0].arrivals().arrived(&[0; LONGEST]));
        let leaving = Leaving { backend: BackendId(3), generation: 9, packet: &[1, 2, 3] };
        for _ in 0..3 * LEAVING {
            clerk.send(&leaving);
            let parcel = workers[1].take().unwrap();
            assert_eq!((parcel.backend(), parcel.generation(), parcel.packet()), (BackendId(3), 9, &[1, 2, 3][..]));
            workers[1].give_back(parcel);
        }
        assert!(workers[0].take().is_none());
    }

    #[test]
    fn hints_of_all_workers_come_together_and_once() {
        let (clerk, workers) = between(2, 1500).unwrap();
        let mut hints = Noticed::default();
        hints.spoke_tls(BackendId(5));
        hints.spoke_tls(BackendId(900));
        workers[0].hint(&hints.take().unwrap());
        hints.strange_ticket(&BackendSet::one(BackendId(64)));
        hints.spoke_tls(BackendId(5));
        workers[1].hint(&hints.take().unwrap());
        let got = clerk.hints();
        assert_eq!((got.tls.iter().collect::<Vec<_>>()), [BackendId(5), BackendId(900)]);
        assert_eq!(got.strange_tickets, BackendSet::one(BackendId(64)));
        assert!(clerk.hints().tls.is_empty());
    }
}
