//! Which port of ours to dial a backend from.
//!
//! A backend may hold a (address, port) of ours in TIME_WAIT for minutes after we have forgotten it, so a port should
//! come back as late as possible: for each pair of backend and own address a cursor walks a permutation of the whole
//! range, and a port is offered again only after all others have been. And an off-path attacker should not guess the next
//! one from the last (RFC 6056), so the order is scattered: the permutation is a four-round Feistel network over the
//! smallest even number of bits that covers the range, with SipHash under a secret as its round function, and values
//! outside the range skipped ("cycle walking", Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). A
//! slot costs four bytes; no permutation is stored.

//!
//! Where ports are scarce, late reuse has to give way: when all of the next few ports are those of flows that are over and are only
//! remembered, the first of them is taken. It was left unused longer than all behind it.

use siphasher::sip::SipHasher13;

/// What a local port is at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortUse {
    /// Nobody's.
    Free,
    /// A flow's that is over, and has been for long enough that it may be forgotten.
    Over,
    /// Somebody's.
    Taken,
}

/// Ports looked at behind one whose flow is over, for one that is free.
const LOOK_AHEAD: usize = 8;

/// Most own addresses that a backend is dialled from.
pub const MAX_SOURCES: usize = 16;

/// Cursors over the local addresses and ports, one for each slot: a slot is a backend, numbered by the caller.
pub struct LocalPorts {
    key: SipHasher13,
    first: u16,
    /// Ports in the range, 1 to 65536.
    count: u32,
    /// Position in the domain, by slot.
    cursors: Box<[u32]>,
}

/// The addresses and ports among which one backend's cursor walks.
#[derive(Clone, Copy)]
struct Domain {
    /// Pairs of address and port.
    pairs: u32,
    /// Half the width of the permutation's domain, bits: 1 to 10.
    half: u32,
}

impl Domain {
    fn new(pairs: u32) -> Domain {
        // The smallest even number of bits that numbers them all.
        let bits = (pairs - 1).checked_ilog2().map_or(1, |highest| highest + 1);
        Domain { pairs, half: bits.div_ceil(2) }
    }

    fn size(self) -> u32 {
        1 << (2 * self.half)
    }
}

impl LocalPorts {
    /// Ports `first..=last` of each address, for each of `slots` slots. `entropy` decides order and start: secret, and new at each start of the
    /// process, or a restarted dispatcher would begin with the ports that the backends hold in TIME_WAIT.
    ///
    /// # Panics
    /// When the range is empty.
    pub fn new(first: u16, last: u16, slots: usize, entropy: [u8; 16]) -> LocalPorts {
        assert!(first <= last, "no port in {first}..={last}");
        let count = u32::from(last - first) + 1;
        let key = SipHasher13::new_with_key(&entropy);
        let cursors = (0..slots as u64).map(|slot| key.hash(&slot.to_le_bytes()) as u32).collect();
        LocalPorts { key, first, count, cursors }
    }

    /// The part of `first..=last` that belongs to `worker` of `workers`: no port to two of them, none to nobody. `None` when there
    /// are fewer ports than workers.
    pub fn share(first: u16, last: u16, worker: usize, workers: usize) -> Option<(u16, u16)> {
        let count = usize::from(last.checked_sub(first)?) + 1;
        if worker >= workers || count < workers {
            return None;
        }
        let begin = usize::from(first) + count * worker / workers;
        let end = usize::from(first) + count * (worker + 1) / workers;
        Some((begin as u16, (end - 1) as u16))
    }

    /// Memory of `slots` cursors, bytes.
    pub const fn bytes_for(slots: usize) -> usize {
        slots * size_of::<u32>()
    }

    /// First and last port.
    pub fn range(&self) -> (u16, u16) {
        (self.first, (u32::from(self.first) + self.count - 1) as u16)
    }

    /// The next pair of `slot` that is free, or else over, by what `ask` says; asks about at most `max_tries` of them. Of `sources` own addresses (1 to
    /// [`MAX_SOURCES`]), by number. `None` when all of those are taken: the dial fails as if the backend had refused, and the next
    /// attempt goes on behind them. With what `ask` said of it.
    ///
    /// # Panics
    /// When there is no such slot, or no source.
    pub fn next(
        &mut self,
        slot: usize,
        sources: usize,
        mut ask: impl FnMut(usize, u16) -> PortUse,
        max_tries: usize,
    ) -> Option<(usize, u16, PortUse)> {
        assert!((1..=MAX_SOURCES).contains(&sources), "{sources} own addresses");
        let domain = Domain::new(self.count * sources as u32);
        // The first that is over, the cursor behind it, and how many are looked at yet.
        let mut over = None;
        for _ in 0..max_tries.min(domain.pairs as usize) {
            let (source, port) = self.advance(slot, domain);
            match ask(source, port) {
                PortUse::Free => return Some((source, port, PortUse::Free)),
                PortUse::Over if over.is_none() => over = Some((source, port, self.cursors[slot], LOOK_AHEAD)),
                PortUse::Over | PortUse::Taken => {}
            }
            if let Some((.., left)) = &mut over {
                if *left == 0 {
                    break;
                }
                *left -= 1;
            }
        }
        let (source, port, behind, _) = over?;
        // What was only looked at keeps its turn.
        self.cursors[slot] = behind;
        Some((source, port, PortUse::Over))
    }

    /// Moves the cursor to the next position that stands for a pair. The domain is less than four times as large as there are
    /// pairs (one or two apart, where it has four positions), so that takes less than four steps on average.
    fn advance(&mut self, slot: usize, domain: Domain) -> (usize, u16) {
        // There is at least one pair, and a full round of the domain meets them all.
        loop {
            let at = self.cursors[slot] % domain.size();
            self.cursors[slot] = at + 1;
            let pair = self.permute(slot, at, domain.half);
            if pair < domain.pairs {
                let (source, offset) = (pair / self.count, pair % self.count);
                return (source as usize, (u32::from(self.first) + offset) as u16);
            }
        }
    }

    /// A permutation of the domain, another for each slot (Luby and Rackoff, 1988).
    fn permute(&self, slot: usize, at: u32, half: u32) -> u32 {
        let mask = (1u32 << half) - 1;
        let (mut left, mut right) = (at >> half, at & mask);
        for round in 0..4u16 {
            // A domain apart from that of the starting positions, whose messages are 8 bytes long; and no longer than one block with its length.
            let mut message = [0; 6];
            message[..4].copy_from_slice(&(slot as u32).to_le_bytes());
            message[4..].copy_from_slice(&(right as u16 | round << 14).to_le_bytes());
            (left, right) = (right, left ^ (self.key.hash(&message) as u32 & mask));
        }
        left << half | right
    }
}

impl LocalPorts {
    /// The position of a slot's cursor.
    pub fn cursor(&self, slot: usize) -> u32 {
        self.cursors.get(slot).copied().unwrap_or(0)
    }

    /// How many of the next so many pairs from a position of a slot are taken, by what `taken` says.
    pub fn crowd(
        &self,
        slot: usize,
        cursor: u32,
        sources: usize,
        taken: impl Fn(usize, u16) -> bool,
        looks: usize,
    ) -> usize {
        let domain = Domain::new(self.count * sources.clamp(1, MAX_SOURCES) as u32);
        let pair = |at: u32| self.permute(slot, cursor.wrapping_add(at) % domain.size(), domain.half);
        let pairs = (0..4 * looks as u32).map(pair).filter(|pair| *pair < domain.pairs).take(looks);
        let is_taken = |pair: &u32| {
            let (source, offset) = (pair / self.count, pair % self.count);
            taken(source as usize, (u32::from(self.first) + offset) as u16)
        };
        pairs.filter(is_taken).count()
    }

    /// Goes on from there: with the position that another process had reached, of the same range and entropy, its next port is the next here.
    pub fn go_on_from(&mut self, slot: usize, cursor: u32) {
        self.cursors.get_mut(slot).into_iter().for_each(|mine| *mine = cursor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const ENTROPY: [u8; 16] = [5; 16];

    /// The next port of one address.
    fn next(ports: &mut LocalPorts, slot: usize, mut ask: impl FnMut(u16) -> PortUse, tries: usize) -> Option<u16> {
        let (source, port, _) = ports.next(slot, 1, |_, port| ask(port), tries)?;
        assert_eq!(source, 0);
        Some(port)
    }

    /// The next of several addresses and its port, where all are free.
    fn pair(ports: &mut LocalPorts, slot: usize, sources: usize) -> (usize, u16) {
        let (source, port, used) = ports.next(slot, sources, |_, _| PortUse::Free, 1).unwrap();
        assert_eq!(used, PortUse::Free);
        (source, port)
    }

    #[test]
    fn dials_are_spread_over_all_addresses_and_each_pair_comes_once_before_any_comes_again() {
        for (sources, last) in [(1, 999), (2, 100), (3, 163), (5, 100), (7, 131), (16, 65535)] {
            let mut ports = LocalPorts::new(100, last, 2, ENTROPY);
            let count = usize::from(last - 100) + 1;
            let seen: BTreeSet<_> = (0..count * sources).map(|_| pair(&mut ports, 1, sources)).collect();
            assert_eq!(seen.len(), count * sources, "{sources} addresses of {count} ports");
            assert!(seen.iter().all(|(source, port)| *source < sources && (100..=last).contains(port)));
        }
        // Any part of the order is spread, too.
        let mut ports = LocalPorts::new(2048, 65535, 1, ENTROPY);
        let mut dials = [0; 4];
        (0..4000).for_each(|_| dials[ports.next(0, 4, |_, _| PortUse::Free, 1).unwrap().0] += 1);
        assert!(dials.iter().all(|n| (800..1200).contains(n)), "{dials:?}");
    }

    #[test]
    fn a_slot_that_gets_more_or_fewer_addresses_goes_on() {
        let mut ports = LocalPorts::new(10, 19, 1, ENTROPY);
        for sources in [1, 16, 2, 16, 1] {
            let seen: BTreeSet<_> = (0..10 * sources).map(|_| pair(&mut ports, 0, sources)).collect();
            assert_eq!(seen.len(), 10 * sources);
        }
    }

    #[test]
    fn every_port_comes_once_before_any_comes_again() {
        for (first, last) in [(7, 7), (1024, 1025), (10, 12), (1, 16), (1, 17), (100, 355), (32768, 60999), (0, 65535)]
        {
            let mut ports = LocalPorts::new(first, last, 3, ENTROPY);
            assert_eq!(ports.range(), (first, last));
            let count = usize::from(last - first) + 1;
            let mut round =
                |slot| (0..count).map(|_| next(&mut ports, slot, |_| PortUse::Free, 1).unwrap()).collect::<Vec<_>>();
            for slot in [0, 2] {
                let cycle = round(slot);
                let seen: BTreeSet<_> = cycle.iter().copied().collect();
                assert_eq!(seen, (first..=last).collect(), "{first}..={last}");
                assert_eq!(
                    round(slot),
                    cycle,
                    "the second round repeats the first, so reuse is exactly {count} dials later"
                );
            }
        }
    }

    #[test]
    fn the_order_is_scattered_and_differs_by_slot_and_entropy() {
        let order = |slot, entropy| {
            let mut ports = LocalPorts::new(20_000, 29_999, 2, entropy);
            (0..2000).map(|_| next(&mut ports, slot, |_| PortUse::Free, 1).unwrap()).collect::<Vec<_>>()
        };
        let one = order(0, ENTROPY);
        assert_eq!(one, order(0, ENTROPY));
        for other in [order(1, ENTROPY), order(0, [6; 16])] {
            let same = one.iter().zip(&other).filter(|(a, b)| a == b).count();
            assert!(same < 10, "{same} of 2000 in the same place");
        }
        let steps: BTreeSet<_> = one.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
        assert!(steps.len() > 1500, "the next port follows from the last by one of {} steps", steps.len());
    }

    #[test]
    fn taken_ports_are_passed_over_within_the_number_of_tries() {
        let mut ports = LocalPorts::new(100, 149, 1, ENTROPY);
        let mut asked = Vec::new();
        let none = next(
            &mut ports,
            0,
            |port| {
                asked.push(port);
                PortUse::Taken
            },
            8,
        );
        assert_eq!((none, asked.len()), (None, 8));
        let behind = next(&mut ports, 0, |port| if asked.contains(&port) { PortUse::Taken } else { PortUse::Free }, 1);
        assert!(behind.is_some(), "the next attempt goes on behind the tries that failed");
        let mut tries = 0;
        assert_eq!(
            next(
                &mut ports,
                0,
                |_| {
                    tries += 1;
                    PortUse::Taken
                },
                usize::MAX
            ),
            None
        );
        assert_eq!(tries, 50, "no port is asked about twice");
        let only = |port| if port == 123 { PortUse::Free } else { PortUse::Taken };
        assert_eq!(next(&mut ports, 0, only, 50), Some(123));
    }

    #[test]
    fn where_all_are_over_the_one_unused_for_longest_is_taken_and_no_port_loses_its_turn() {
        let mut ports = LocalPorts::new(100, 149, 1, ENTROPY);
        let order: Vec<u16> = (0..50).map(|_| next(&mut ports, 0, |_| PortUse::Free, 1).unwrap()).collect();
        // Twice round: each comes in its turn, as if all were free.
        let again: Vec<u16> = (0..100).map(|_| next(&mut ports, 0, |_| PortUse::Over, 512).unwrap()).collect();
        assert_eq!(again, [&order[..], &order[..]].concat());
        // One that is free is better, if it is near.
        let one = |free: u16| move |port| if port == free { PortUse::Free } else { PortUse::Over };
        assert_eq!(next(&mut ports, 0, one(order[8]), 512), Some(order[8]));
        assert_eq!(next(&mut ports, 0, one(order[9 + 10]), 512), Some(order[9]));
        // Living flows in between are passed over.
        let taken = |port| if port == order[10] { PortUse::Taken } else { PortUse::Over };
        assert_eq!(next(&mut ports, 0, taken, 512), Some(order[11]));
        assert_eq!(next(&mut ports, 0, taken, 512), Some(order[12]));
        // Only one that is over, with nothing free near or far.
        let last = |port| if port == order[40] { PortUse::Over } else { PortUse::Taken };
        assert_eq!(next(&mut ports, 0, last, 512), Some(order[40]));
    }

    #[test]
    fn the_shares_of_workers_are_a_partition() {
        for workers in [1, 2, 3, 7, 64] {
            let shares: Vec<_> = (0..workers).map(|w| LocalPorts::share(1024, 65535, w, workers).unwrap()).collect();
            assert_eq!((shares[0].0, shares[workers - 1].1), (1024, 65535));
            assert!(shares.windows(2).all(|w| w[0].1 + 1 == w[1].0));
            assert!(shares.iter().all(|(first, last)| first <= last));
        }
        assert_eq!(LocalPorts::share(10, 12, 0, 4), None);
        assert_eq!(LocalPorts::share(12, 10, 0, 1), None);
        assert_eq!(LocalPorts::share(0, 65535, 0, 1), Some((0, 65535)));
    }
}
