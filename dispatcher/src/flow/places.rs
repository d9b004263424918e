//! Addresses and ports that many flows of IPv6 have in common: those of VIPs and backends, and our own. A flow has their numbers, of two bytes.
//!
//! **And when full?** Then a flow to yet another one is refused, as by a full flow table. There is room for several times as many as the
//! configuration may have.

use crate::wire::Addr;

/// Most of them at once.
pub(super) const MOST: usize = 1 << 14;
/// Positions of the index: at a load of at most 1/2.
const POSITIONS: usize = 2 * MOST;
const VACANT: u16 = u16::MAX;

#[derive(Clone, Copy)]
struct Place {
    addr: Addr,
    port: u16,
    /// Keys that have its number.
    users: u32,
}

impl Place {
    /// Its home in the index. No secret in it: what stands here is of our configuration, and nobody else's to choose.
    #[inline]
    fn home(&self) -> usize {
        (self.addr.scattered(self.port) as usize) % POSITIONS
    }
}

/// All that are known. One that nobody uses keeps its number until there is no room: the next flow will have it, as a rule.
pub(super) struct Places {
    all: Vec<Place>,
    /// Numbers, by home: open addressing.
    index: Box<[u16]>,
    free: Vec<u16>,
}

impl Places {
    /// None yet; nothing grows up to [`MOST`].
    pub fn new() -> Places {
        Places {
            all: Vec::with_capacity(MOST),
            index: vec![VACANT; POSITIONS].into_boxed_slice(),
            free: Vec::with_capacity(MOST),
        }
    }

    /// Memory of all, bytes.
    pub const fn bytes() -> usize {
        MOST * (size_of::<Place>() + size_of::<u16>()) + POSITIONS * size_of::<u16>()
    }

    /// The number of an address and port, for one key more.
    pub fn enter(&mut self, addr: Addr, port: u16) -> Option<u16> {
        let place = Place { addr, port, users: 1 };
        let at = match self.find(&place) {
            Ok(number) => {
                self.all[usize::from(number)].users += 1;
                return Some(number);
            }
            Err(at) if self.all.len() < MOST || !self.free.is_empty() => at,
            Err(_) => {
                self.forget_unused();
                // Where it lies now, unless all are in use.
                self.find(&place).err().filter(|_| !self.free.is_empty())?
            }
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.all[usize::from(number)] = place;
                number
            }
            None => {
                self.all.push(place);
                (self.all.len() - 1) as u16
            }
        };
        self.index[at] = number;
        Some(number)
    }

    /// The number of a place, or the vacant position where it would stand.
    fn find(&self, place: &Place) -> Result<u16, usize> {
        let mut at = place.home();
        loop {
            let number = self.index[at];
            if number == VACANT {
                return Err(at);
            }
            let known = &self.all[usize::from(number)];
            if known.addr == place.addr && known.port == place.port {
                return Ok(number);
            }
            at = (at + 1) % POSITIONS;
        }
    }

    #[cold]
    fn forget_unused(&mut self) {
        self.index.fill(VACANT);
        self.free.clear();
        for number in 0..self.all.len() {
            let place = self.all[number];
            match self.find(&place) {
                Err(at) if place.users > 0 => self.index[at] = number as u16,
                _ => self.free.push(number as u16),
            }
        }
    }

    /// A key has it no more.
    #[inline]
    pub fn leave(&mut self, number: u16) {
        self.all[usize::from(number)].users -= 1;
    }

    /// What a number in use stands for.
    #[inline]
    pub fn get(&self, number: u16) -> (Addr, u16) {
        let Place { addr, port, .. } = self.all[usize::from(number)];
        (addr, port)
    }
}

#[cfg(test)]
impl Places {
    /// How many are in use.
    pub fn in_use(&self) -> usize {
        self.all.iter().filter(|place| place.users > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_the_same_address_and_port_has_the_same_number() {
        let mut places = Places::new();
        let a = |n| Addr::v4([10, 0, 0, n]);
        let one = places.enter(a(1), 443).unwrap();
        assert_eq!(places.enter(a(1), 443), Some(one));
        let two = places.enter(a(1), 444).unwrap();
        assert!(one != two && places.get(two) == (a(1), 444));
        places.leave(one);
        places.leave(one);
        assert_eq!(places.in_use(), 1);
        assert_eq!((places.enter(a(1), 443), places.get(one)), (Some(one), (a(1), 443)), "it is remembered");
    }

    #[test]
    fn a_place_too_many_takes_that_of_one_that_nobody_uses_or_is_refused() {
        let mut places = Places::new();
        let at = |n: usize| (Addr::v4([10, 0, (n >> 8) as u8, n as u8]), n as u16);
        for n in 0..MOST {
            assert_eq!(places.enter(at(n).0, at(n).1), Some(n as u16));
        }
        assert_eq!(places.enter(at(1).0, 9999), None);
        places.leave(7);
        assert_eq!(places.enter(at(1).0, 9999), Some(7));
        assert_eq!(places.enter(at(7).0, at(7).1), None, "its number is another's");
        for n in (0..MOST).filter(|n| *n != 7) {
            assert_eq!((places.enter(at(n).0, at(n).1), places.get(n as u16)), (Some(n as u16), at(n)));
        }
        places.leave(7);
        assert_eq!(places.enter(at(7).0, at(7).1), Some(7));
    }
}
