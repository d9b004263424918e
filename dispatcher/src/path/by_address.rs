//! What a frame of no flow is asked for by address and port: which service listens there, whose the address is. It follows from the configuration,
//! is made once for each version of that, and read only.
//!
//! Open addressing with linear probing, at a load of at most 1/4. No secret in the hash: what stands here is of our configuration, and nobody
//! else's to choose. What a stranger asks for begins where he likes, and ends with the run that it meets there: the runs are those of our own
//! addresses, and no frame makes one longer.

use crate::wire::Addr;
use std::collections::BTreeMap;

/// Values of type `T` by address and port.
#[derive(Debug)]
pub(super) struct ByAddress<T> {
    places: Box<[Option<Entry<T>>]>,
    /// `places.len() - 1`; the length is a power of two.
    mask: usize,
}

#[derive(Debug)]
struct Entry<T> {
    addr: Addr,
    port: u16,
    value: T,
}

impl<T> ByAddress<T> {
    /// What stands at an address and port.
    #[inline]
    pub fn get(&self, addr: Addr, port: u16) -> Option<&T> {
        let mut at = addr.scattered(port) as usize & self.mask;
        // Three quarters of the places are vacant, so this ends.
        while let Some(entry) = &self.places[at] {
            if entry.addr == addr && entry.port == port {
                return Some(&entry.value);
            }
            at = (at + 1) & self.mask;
        }
        None
    }

    /// All of it, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (Addr, u16, &T)> {
        self.places.iter().flatten().map(|entry| (entry.addr, entry.port, &entry.value))
    }
}

impl<T> From<BTreeMap<(Addr, u16), T>> for ByAddress<T> {
    fn from(all: BTreeMap<(Addr, u16), T>) -> ByAddress<T> {
        let count = (all.len() * 4).next_power_of_two().max(4);
        let mut table = ByAddress { places: (0..count).map(|_| None).collect(), mask: count - 1 };
        for ((addr, port), value) in all {
            let mut at = addr.scattered(port) as usize & table.mask;
            while table.places[at].is_some() {
                at = (at + 1) & table.mask;
            }
            table.places[at] = Some(Entry { addr, port, value });
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_a_map_says_and_of_addresses_in_a_row_makes_no_long_runs() {
        for n in [0, 1, 2, 3, 1000, 4096] {
            // A network of listeners, as a file may have it; of each a port more than is asked for.
            let key = |i: u32| (Addr::v4((0x0a00_0000 + i / 2).to_be_bytes()), 443 + (i % 2) as u16);
            let map: BTreeMap<_, _> = (0..n).map(|i| (key(i), i)).collect();
            let table = ByAddress::from(map.clone());
            for i in 0..n + 100 {
                let (addr, port) = key(i);
                assert_eq!(table.get(addr, port), map.get(&(addr, port)));
                assert_eq!(table.get(addr, port + 7), None);
            }
            let all: BTreeMap<_, _> = table.iter().map(|(addr, port, value)| ((addr, port), *value)).collect();
            assert_eq!(all, map);
            let longest = table.places.split(Option::is_none).map(<[_]>::len).max().unwrap_or(0);
            assert!(longest <= 16, "a run of {longest} for {n}");
        }
    }
}
