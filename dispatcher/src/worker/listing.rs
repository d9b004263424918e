//! How somebody outside is told of live connections, and of the trails of these and of ended ones: he puts down which he means, the worker walks over its flow
//! table, or over what it has kept, a portion a turn, and says when it is over.
//!
//! A portion is a bounded number of places, so that a turn is longer by some microseconds at most; and the room for what is found was made by
//! who asks. One walk at a time: who asks meanwhile takes the place of the one before, who is told that it is over.

use super::FrameHandler;
use crate::engine::connections::{Meant, Shown};
use crate::engine::trail::{Sought, Trail};
use crate::flow::FlowId;
use crate::time::Time;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places of the flow table, or trails, that are looked at in a turn.
const PLACES: usize = 128;

/// What is looked for.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one is made for a question")]
pub enum LookFor {
    /// Connections as they stand.
    Connections(Meant),
    /// Why connections went where they went, the latest first.
    Trails(Sought),
}

/// What is asked of a worker, and what it has found.
#[derive(Debug)]
pub struct Listing {
    wanted: LookFor,
    limit: usize,
    /// Nobody waits for it any more.
    given_up: AtomicBool,
    over: AtomicBool,
    found: Mutex<Found>,
}

/// What a worker has found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// They, as many as were asked for at most.
    pub connections: Vec<Shown>,
    /// Trails, with the connections of those that live.
    pub trails: Vec<(Trail, Option<Shown>)>,
    /// There are more of them.
    pub more: bool,
    /// It has walked over the whole table, unless there was more.
    pub whole: bool,
}

impl Listing {
    /// At most `limit` of those that are meant.
    pub fn new(wanted: LookFor, limit: usize) -> Listing {
        let mut found = Found::default();
        match wanted {
            LookFor::Connections(_) => found.connections.reserve_exact(limit),
            LookFor::Trails(_) => found.trails.reserve_exact(limit),
        }
        let (given_up, over) = (AtomicBool::new(false), AtomicBool::new(false));
        Listing { wanted, limit, given_up, over, found: Mutex::new(found) }
    }

    /// The worker has nothing more to say.
    pub fn is_over(&self) -> bool {
        // With what it has found: that goes by the lock.
        self.over.load(Ordering::Acquire)
    }

    /// Nobody waits for it any more.
    pub fn give_up(&self) {
        // Relaxed: it need only be seen soon.
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// What was found so far.
    pub fn take(&self) -> Found {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        // Whoever died while he wrote left whole entries.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.over.store(true, Ordering::Release);
    }
}

/// Where listings are put down for a worker.
#[derive(Debug, Default)]
pub(super) struct Desk {
    wanted: AtomicBool,
    next: Mutex<Option<Arc<Listing>>>,
}

impl Desk {
    /// Puts one down.
    pub(super) fn put(&self, listing: Arc<Listing>) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(former) = next.replace(listing) {
            former.end();
        }
        // Under the lock, as the worker takes it back.
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// There is one. Costs a worker one look a turn.
    #[inline(always)]
    pub(super) fn has_one(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// It, if nobody is just putting one down.
    fn take(&self) -> Option<Arc<Listing>> {
        let mut next = self.next.try_lock().ok()?;
        self.wanted.store(false, Ordering::Relaxed);
        next.take()
    }
}

/// One under way, of a worker.
pub(super) struct Walk {
    listing: Arc<Listing>,
    at: u32,
}

impl Walk {
    /// Begins the one that was put down; what was under way gives way.
    #[cold]
    pub(super) fn begin(desk: &Desk, before: &mut Option<Walk>) {
        if let Some(listing) = desk.take()
            && let Some(former) = before.replace(Walk { listing, at: 0 })
        {
            former.listing.end();
        }
    }

    /// A turn's portion. False when that was the last.
    pub(super) fn go_on(&mut self, handler: &impl FrameHandler, now: Time) -> bool {
        let listing = &*self.listing;
        if listing.given_up.load(Ordering::Relaxed) {
            return false;
        }
        // Who asks looks into it when it is over, or has given it up.
        let Ok(mut found) = listing.found.try_lock() else { return true };
        let Found { connections, trails, more, whole } = &mut *found;
        let next = match &listing.wanted {
            LookFor::Connections(meant) => {
                let next = handler.connections(FlowId(self.at), PLACES, meant, now, &mut |shown| {
                    *more = connections.len() >= listing.limit;
                    if !*more {
                        connections.push(shown);
                    }
                    !*more
                });
                next.map(|id| id.0)
            }
            LookFor::Trails(sought) => handler.trails(self.at, PLACES, sought, now, &mut |trail, lives| {
                *more = trails.len() >= listing.limit;
                if !*more {
                    trails.push((trail, lives));
                }
                !*more
            }),
        };
        match next {
            Some(next) => self.at = next,
            None => *whole = true,
        }
        next.is_some()
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.listing.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Counters, Effects, PortId, Revision, Verdict};
    use crate::tcp::{Kinds, Times};
    use crate::wire::Frame;
    use crate::wire::packet::Headers;
    use core::time::Duration;
    use lb::{Directory, MemberSpec, Policy, PoolSpec, Wanted};

    /// So many connections, one a place.
    struct Full(u32, Counters);

    impl FrameHandler for Full {
        fn handle(&mut self, _: PortId, _: &Headers, _: &mut Frame<'_>, _: Time, _: &mut dyn Effects) -> Verdict {
            Verdict::Hold
        }
        fn poll(&mut self, _: Time, _: &mut dyn Effects) {}
        fn next_deadline(&self) -> Option<Time> {
            None
        }
        fn apply(&mut self, _: &Arc<Revision>, _: Time) {}
        fn shutdown(&mut self, _: usize, _: Time, _: &mut dyn Effects) -> bool {
            true
        }
        fn counters(&self) -> &Counters {
            &self.1
        }
        fn flows(&self) -> usize {
            self.0 as usize
        }
        fn connections(
            &self,
            from: FlowId,
            places: usize,
            _: &Meant,
            _: Time,
            each: &mut dyn FnMut(Shown) -> bool,
        ) -> Option<FlowId> {
            let end = self.0.min(from.0 + places as u32);
            let told = (from.0..end).all(|n| each(shown(u64::from(n))));
            (told && end < self.0).then_some(FlowId(end))
        }
    }

    fn shown(number: u64) -> Shown {
        let at = std::net::SocketAddr::from(([10, 0, 0, 1], 443));
        let pool = PoolSpec { backends: vec![MemberSpec::new("web1", at)], ..PoolSpec::default() };
        let wanted = Wanted::single(vec![at], Policy::default(), pool);
        let directory = Directory::next(None, &wanted, |_| true).unwrap();
        let service = directory.services().next().unwrap();
        Shown {
            number,
            client: at,
            vip: at,
            service: service.id(),
            pool: service.pool(),
            backend: None,
            local: None,
            state: "spliced",
            age: Duration::ZERO,
            idle: Duration::ZERO,
            class: None,
            reason: None,
            offered: Kinds::default(),
            resumed: None,
            version: None,
            attempts: 1,
            bytes: [0; 2],
            times: Times::begin(Time::ZERO),
            queue_class: None,
            waited: 0,
            spilled: false,
        }
    }

    fn asked(desk: &Desk, limit: usize) -> Arc<Listing> {
        let listing = Arc::new(Listing::new(LookFor::Connections(Meant::default()), limit));
        desk.put(listing.clone());
        listing
    }

    /// Turns that it takes; none is for more than a portion.
    fn turns(walk: &mut Option<Walk>, table: &Full) -> usize {
        let mut turns = 1;
        while walk.as_mut().unwrap().go_on(table, Time::ZERO) {
            let found = walk.as_ref().unwrap().listing.lock();
            assert!(found.connections.len() <= turns * PLACES);
            drop(found);
            turns += 1;
        }
        *walk = None;
        turns
    }

    #[test]
    fn a_table_is_walked_over_in_portions_and_no_more_is_kept_than_was_asked_for() {
        let (desk, mut walk, table) = (Desk::default(), None, Full(3 * PLACES as u32, Counters::default()));
        for (limit, expected, more) in
            [(1000, 3, false), (3 * PLACES, 3, false), (3 * PLACES - 1, 3, true), (5, 1, true)]
        {
            assert!(!desk.has_one());
            let listing = asked(&desk, limit);
            assert!(desk.has_one() && !listing.is_over());
            Walk::begin(&desk, &mut walk);
            assert_eq!(turns(&mut walk, &table), expected);
            assert!(listing.is_over());
            let found = listing.take();
            let numbers: Vec<u64> = found.connections.iter().map(|shown| shown.number).collect();
            assert_eq!(numbers, (0..limit.min(3 * PLACES) as u64).collect::<Vec<_>>());
            assert_eq!((found.more, found.connections.capacity()), (more, limit));
        }
    }

    #[test]
    fn who_asks_meanwhile_takes_the_place_of_the_one_before_and_nobody_waits_for_what_will_not_come() {
        let (desk, mut walk, table) = (Desk::default(), None, Full(10 * PLACES as u32, Counters::default()));
        let first = asked(&desk, 5000);
        let second = asked(&desk, 5000);
        assert!(first.is_over() && !second.is_over());
        Walk::begin(&desk, &mut walk);
        assert!(walk.as_mut().unwrap().go_on(&table, Time::ZERO));
        let third = asked(&desk, 5000);
        assert!(!second.is_over());
        Walk::begin(&desk, &mut walk);
        assert!(second.is_over() && !second.take().whole && !third.is_over());
        // Whoever gave up is not walked for; and the end of a worker is the end of its walk.
        third.give_up();
        assert!(!walk.as_mut().unwrap().go_on(&table, Time::ZERO));
        let fourth = asked(&desk, 5000);
        Walk::begin(&desk, &mut walk);
        assert!(third.is_over() && !fourth.is_over());
        drop(walk);
        assert!(fourth.is_over() && !fourth.take().whole);
    }
}
