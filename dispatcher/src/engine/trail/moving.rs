//! Trails as bytes, for another process that goes on with them, and back.
//!
//! Most of them do not change any more: those go before the workers stop, as they are told to whoever asks ([`Engine::trails`]). What changed since goes with the connections.
//!
//! A backend stands there by its number, which is another one in the other process; one that has left its slot has no name any more, there as here ([`NOBODY`]).

use super::{Holder, NAME, Row, STEPS, Step, TRAILS, Trail, Trails, What};
use crate::engine::connections::Shown;
use crate::flow::Key;
use crate::pack::{Pack, Packer, Unpacker, Unreadable, of_backend, packed};
use crate::tcp::STATES;
use crate::time::Time;
use arrayvec::ArrayVec;
use lb::{BackendId, Directory, PoolId, ServiceId};

/// Nobody's place.
const NOBODY: Holder = (BackendId(u16::MAX), u32::MAX);

packed!(Row { reason, key, proven, named, followed });

/// Numbers of what was decided or has happened.
mod what {
    pub const HELLO: u8 = 0;
    pub const REQUEST: u8 = 1;
    pub const NOT_TLS: u8 = 2;
    pub const SILENT: u8 = 3;
    pub const LATE_HELLO: u8 = 4;
    pub const WAITS: u8 = 5;
    pub const GOES: u8 = 6;
    pub const DIALS: u8 = 7;
    pub const NO_WAY: u8 = 8;
    pub const REFUSES: u8 = 9;
    pub const SILENCE: u8 = 10;
    pub const ANSWERS: u8 = 11;
    pub const NOBODY: u8 = 12;
    pub const NO_PLACE: u8 = 13;
    pub const ENDS: u8 = 14;
}

impl Trail {
    /// Writes it, first whose it is.
    pub(in crate::engine) fn pack(&self, directory: &Directory, to: &mut Packer) {
        let Trail { number, key, named, began, offered, unsaid, name, row, steps, lost, ended } = self;
        key.pack(to);
        (*number, *began).pack(to);
        named.pack(to);
        offered.pack(to);
        (*unsaid, *lost).pack(to);
        to.block(name);
        row.pack(to);
        (steps.len() as u8).pack(to);
        for Step { after, what } in steps {
            after.pack(to);
            pack_what(what, directory, to);
        }
        ended.is_some().pack(to);
        ended.iter().for_each(|shown| pack_shown(shown, directory, to));
    }

    /// The inverse, for an engine with this directory.
    pub(in crate::engine) fn unpack(from: &mut Unpacker<'_>, directory: &Directory) -> Result<Trail, Unreadable> {
        let key = Key::unpack(from)?;
        let (number, began) = Pack::unpack(from)?;
        let (named, offered) = (Pack::unpack(from)?, Pack::unpack(from)?);
        let (unsaid, lost) = Pack::unpack(from)?;
        let mut name = ArrayVec::<u8, NAME>::new();
        from.block_into(&mut name)?;
        let row = Pack::unpack(from)?;
        let mut steps = ArrayVec::<Step, STEPS>::new();
        for _ in 0..u8::unpack(from)? {
            let step = Step { after: u32::unpack(from)?, what: unpack_what(from, directory)? };
            steps.try_push(step).map_err(|_| Unreadable::Impossible("so many steps"))?;
        }
        let ended = if bool::unpack(from)? { Some(unpack_shown(from, directory)?) } else { None };
        Ok(Trail { number, key, named, began, offered, unsaid, name, row, steps, lost, ended })
    }

    /// Something may have been noted since then.
    pub(in crate::engine) fn changed_since(&self, then: Time) -> bool {
        // What has no step yet may have been named without one.
        self.steps.last().is_none_or(|step| step.after == u32::MAX || self.began + step.after() >= then)
    }
}

impl Trails {
    /// All of them, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Trail> {
        self.ring.iter()
    }

    /// Has these of another process, too, in any order; of one that is there, what it says now. The latest are kept. Before any has begun here.
    pub fn take(&mut self, more: Vec<Trail>) {
        debug_assert_eq!(self.begun, self.earlier);
        let number = |trail: &Trail| trail.number;
        let mut new = Vec::new();
        for trail in more {
            match self.ring.binary_search_by_key(&trail.number, number) {
                Ok(at) => self.ring[at] = trail,
                Err(_) => new.push(trail),
            }
        }
        if new.is_empty() {
            return;
        }
        new.sort_unstable_by_key(number);
        new.dedup_by_key(|trail| trail.number);
        let surplus = (self.ring.len() + new.len()).saturating_sub(TRAILS);
        let (mut oldest, mut of_new) = (0, 0);
        while oldest + of_new < surplus {
            let later =
                new.get(of_new).is_none_or(|new| self.ring.get(oldest).is_some_and(|old| old.number < new.number));
            *(if later { &mut oldest } else { &mut of_new }) += 1;
        }
        self.ring.drain(..oldest);
        self.ring.extend(new.into_iter().skip(of_new));
        // As a rule they are in order: what began later has the greater number.
        self.ring.sort_unstable_by_key(number);
        self.earlier = self.ring.len() as u64;
        self.begun = self.earlier;
    }

    /// The next connection to begin has this number: those before it are another process's.
    pub fn begin_at(&mut self, number: u64) {
        self.first = number;
        self.ring.truncate(self.ring.partition_point(|trail| trail.number < number));
        self.earlier = self.ring.len() as u64;
        self.begun = self.earlier;
    }
}

fn pack_holder((id, generation): &Holder, directory: &Directory, to: &mut Packer) {
    let there = directory.backend(*id).filter(|b| b.generation == *generation);
    there.map(|b| b.id).pack(to);
}

fn unpack_holder(from: &mut Unpacker<'_>, directory: &Directory) -> Result<Holder, Unreadable> {
    if !bool::unpack(from)? {
        return Ok(NOBODY);
    }
    let here = of_backend(from)?.and_then(|id| directory.backend(id));
    Ok(here.map_or(NOBODY, |b| (b.id, b.generation)))
}

fn pack_what(what: &What, directory: &Directory, to: &mut Packer) {
    let (number, holder): (u8, Option<&Holder>) = match what {
        What::Hello => (what::HELLO, None),
        What::Request => (what::REQUEST, None),
        What::NotTls => (what::NOT_TLS, None),
        What::Silent => (what::SILENT, None),
        What::LateHello => (what::LATE_HELLO, None),
        What::Waits => (what::WAITS, None),
        What::Goes(holder) => (what::GOES, Some(holder)),
        What::Dials(holder) => (what::DIALS, Some(holder)),
        What::NoWay(holder) => (what::NO_WAY, Some(holder)),
        What::Refuses(holder) => (what::REFUSES, Some(holder)),
        What::Silence(holder) => (what::SILENCE, Some(holder)),
        What::Answers(holder) => (what::ANSWERS, Some(holder)),
        What::Nobody => (what::NOBODY, None),
        What::NoPlace => (what::NO_PLACE, None),
        What::Ends(_) => (what::ENDS, None),
    };
    number.pack(to);
    holder.into_iter().for_each(|holder| pack_holder(holder, directory, to));
    if let What::Ends(end) = what {
        end.pack(to);
    }
}

fn unpack_what(from: &mut Unpacker<'_>, directory: &Directory) -> Result<What, Unreadable> {
    Ok(match u8::unpack(from)? {
        what::HELLO => What::Hello,
        what::REQUEST => What::Request,
        what::NOT_TLS => What::NotTls,
        what::SILENT => What::Silent,
        what::LATE_HELLO => What::LateHello,
        what::WAITS => What::Waits,
        what::GOES => What::Goes(unpack_holder(from, directory)?),
        what::DIALS => What::Dials(unpack_holder(from, directory)?),
        what::NO_WAY => What::NoWay(unpack_holder(from, directory)?),
        what::REFUSES => What::Refuses(unpack_holder(from, directory)?),
        what::SILENCE => What::Silence(unpack_holder(from, directory)?),
        what::ANSWERS => What::Answers(unpack_holder(from, directory)?),
        what::NOBODY => What::Nobody,
        what::NO_PLACE => What::NoPlace,
        what::ENDS => What::Ends(Pack::unpack(from)?),
        _ => return Err(Unreadable::Impossible("a step")),
    })
}

fn pack_shown(shown: &Shown, directory: &Directory, to: &mut Packer) {
    let Shown {
        number,
        client,
        vip,
        service,
        pool,
        backend,
        local,
        state,
        age,
        idle,
        class,
        reason,
        offered,
        resumed,
        version,
        attempts,
        bytes,
        times,
        queue_class,
        waited,
        spilled,
    } = shown;
    (*number, *client).pack(to);
    (*vip, *local).pack(to);
    // Whose names have been forgotten have none there either.
    let service = directory.service_name(*service).map_or(ServiceId::NONE, |_| *service);
    let pool = directory.pool_name(*pool).map_or(PoolId::NONE, |_| *pool);
    (service, pool).pack(to);
    pack_holder(&backend.unwrap_or(NOBODY), directory, to);
    let state = STATES.iter().position(|word| word == state).unwrap_or(0) as u8;
    (state, *attempts).pack(to);
    (*age, *idle).pack(to);
    (*class, *reason).pack(to);
    (*offered, *resumed).pack(to);
    (*version, *times).pack(to);
    bytes.pack(to);
    let queue_class = queue_class.filter(|class| directory.class_name(service, *class).is_some());
    (queue_class, *waited).pack(to);
    spilled.pack(to);
}

fn unpack_shown(from: &mut Unpacker<'_>, directory: &Directory) -> Result<Shown, Unreadable> {
    let (number, client) = Pack::unpack(from)?;
    let (vip, local) = Pack::unpack(from)?;
    let (service, pool) = Pack::unpack(from)?;
    let backend = Some(unpack_holder(from, directory)?).filter(|holder| *holder != NOBODY);
    let (state, attempts) = <(u8, u8)>::unpack(from)?;
    let state = STATES.get(usize::from(state)).ok_or(Unreadable::Impossible("State"))?;
    let (age, idle) = Pack::unpack(from)?;
    let (class, reason) = Pack::unpack(from)?;
    let (offered, resumed) = Pack::unpack(from)?;
    let (version, times) = Pack::unpack(from)?;
    let bytes = Pack::unpack(from)?;
    let (queue_class, waited) = Pack::unpack(from)?;
    let spilled = Pack::unpack(from)?;
    Ok(Shown {
        number,
        client,
        vip,
        service,
        pool,
        backend,
        local,
        state,
        age,
        idle,
        class,
        reason,
        offered,
        resumed,
        version,
        attempts,
        bytes,
        times,
        queue_class,
        waited,
        spilled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Addr;
    use std::net::Ipv4Addr;

    fn key() -> Key {
        let [src, dst] = [1, 2].map(|n| Addr::from(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))));
        Key { src, dst, sport: 40_000, dport: 443, protocol: 6 }
    }

    /// One of this number; `lost` says which of several.
    fn trail(number: u64, lost: u16) -> Trail {
        let mut one = Trails::new(0, 1);
        one.first = number;
        one.begin(number, key(), Time::from_millis(number));
        Trail { lost, ..one.ring.remove(0) }
    }

    fn kept(trails: &Trails) -> Vec<(u64, u16)> {
        let ring = &trails.ring;
        (0..ring.len() as u64)
            .rev()
            .map(|back| &ring[(trails.begun - 1 - back) as usize % TRAILS])
            .map(|t| (t.number, t.lost))
            .collect()
    }

    #[test]
    fn of_those_that_several_workers_tell_in_pieces_the_latest_are_kept_and_found_and_give_way_to_its_own() {
        let most = TRAILS as u64;
        let (odd, even) = ((0..most).map(|n| 2 * n + 1), (1..=most).map(|n| 2 * n));
        let mut trails = Trails::new(0, 2);
        // One worker's with the latest first, the other's anyhow.
        trails.take(odd.rev().map(|n| trail(n, 0)).collect());
        trails.take(even.map(|n| trail(n * 4099 % (2 * most) / 2 * 2 + 2, 0)).collect());
        let latest: Vec<u64> = (most + 1..=2 * most).collect();
        assert_eq!(kept(&trails), latest.iter().map(|n| (*n, 0)).collect::<Vec<_>>());
        // What has changed since says it again; one is new.
        trails.take([2 * most + 1, 2 * most, most + 7, most + 7].map(|n| trail(n, 1)).into());
        let again = |n: u64| (n, u16::from(n == most + 7 || n >= 2 * most));
        let latest: Vec<_> = (most + 2..=2 * most + 1).map(again).collect();
        assert_eq!(kept(&trails), latest);
        assert!(trails.ring.capacity() < 2 * TRAILS, "no more than there is room for");
        // The numbers of its own go in steps of two; none of the others' is beyond the first.
        let first = 2 * most + 1;
        trails.begin_at(first);
        for n in 0..1000 {
            let number = first + 2 * n;
            trails.begin(number, key(), Time::ZERO);
            assert_eq!(trails.of(number).unwrap().number, number);
        }
        for (number, lost) in latest {
            let found = trails.of(number).map(|trail| (trail.number, trail.lost));
            let there = number < first && number >= first - (most - 1000);
            assert_eq!(
                found,
                if number == first { Some((first, 0)) } else { there.then_some((number, lost)) },
                "{number}"
            );
        }
        assert!(trails.of(first + 1).is_none() && trails.of(0).is_none());
    }
}
