//! A port whose wire is bad, in a way that can be repeated: seeded loss, duplication, reordering, corruption.
//!
//! Faults strike frames on their way in; a bad wire in both directions is two ports wrapped.

use super::arena::Arena;
use super::{BURST, Burst, Divide, HEADROOM, Loss, MAX_LINK_HEADER, Port, Receiver, Slot, Traffic, WaitFds};
use crate::pack::Unreadable;
use crate::wire::Frame;
use std::collections::VecDeque;

/// How often what happens, each out of 1000 frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Frame lost.
    pub lose: u32,
    /// Frame comes twice.
    pub duplicate: u32,
    /// Frame held back, until one to eight others have overtaken it, or until nothing else comes.
    pub delay: u32,
    /// One bit of the frame turned over, behind the Ethernet header.
    pub corrupt: u32,
}

/// Most frames held back at once; a further one is not delayed.
const HELD: usize = 64;

/// Longest frame that is duplicated, bytes; longer ones come once.
const LONGEST: usize = 2048;

/// Wraps `port`; the same seed and the same frames give the same faults.
pub fn faulty(port: Port, faults: Faults, seed: u64) -> Port {
    let rx = FaultyReceiver {
        inner: port.rx,
        faults,
        random: seed,
        copies: Arena::new(HELD, HEADROOM + LONGEST + MAX_LINK_HEADER),
        held: VecDeque::with_capacity(HELD),
        ready: VecDeque::with_capacity(2 * BURST + HELD),
        taken: Burst::new(),
        injected: 0,
    };
    Port { description: format!("{}, faulty (seed {seed})", port.description), rx: Box::new(rx), tx: port.tx }
}

struct FaultyReceiver {
    inner: Box<dyn Receiver>,
    faults: Faults,
    random: u64,
    copies: Arena,
    /// Frames held back, and how many others must still overtake each.
    held: VecDeque<(Slot, u32)>,
    ready: VecDeque<Slot>,
    taken: Burst,
    injected: u64,
}

impl FaultyReceiver {
    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn strikes(&mut self, permille: u32) -> bool {
        self.next() % 1000 < u64::from(permille)
    }

    fn deliver(&mut self, slot: Slot) {
        self.ready.push_back(slot);
        for (_, left) in &mut self.held {
            *left = left.saturating_sub(1);
        }
        while let Some(at) = self.held.iter().position(|(_, left)| *left == 0) {
            if let Some((late, _)) = self.held.remove(at) {
                self.ready.push_back(late);
            }
        }
    }

    fn arrived(&mut self, mut slot: Slot) {
        if self.strikes(self.faults.lose) {
            self.injected += 1;
            self.inner.release(slot);
            return;
        }
        if self.strikes(self.faults.corrupt) {
            let random = self.next() as usize;
            let mut frame = self.inner.frame(&mut slot);
            let bytes = frame.bytes_mut();
            if bytes.len() > 14 {
                let at = 14 + random % (bytes.len() - 14);
                bytes[at] ^= 1 << (random >> 32 & 7);
            }
        }
        if self.strikes(self.faults.duplicate) {
            let copy = self.copies.copy_in(HEADROOM, self.inner.frame(&mut slot).bytes());
            if let Some(mut copy) = copy {
                copy.set_offload(slot.offload());
                self.deliver(copy);
            }
        }
        if self.strikes(self.faults.delay) && self.held.len() < HELD {
            let others = 1 + (self.next() % 8) as u32;
            self.held.push_back((slot, others));
        } else {
            self.deliver(slot);
        }
    }
}

impl Receiver for FaultyReceiver {
    fn receive(&mut self, burst: &mut Burst) {
        if self.ready.is_empty() {
            let mut taken = core::mem::take(&mut self.taken);
            self.inner.receive(&mut taken);
            if taken.is_empty() {
                // Nothing else to be overtaken by.
                while let Some((late, _)) = self.held.pop_front() {
                    self.ready.push_back(late);
                }
            }
            for slot in taken.drain(..) {
                self.arrived(slot);
            }
            self.taken = taken;
        }
        while !burst.is_full() {
            let Some(slot) = self.ready.pop_front() else { break };
            burst.push(slot);
        }
    }

    fn frame<'a>(&'a mut self, slot: &'a mut Slot) -> Frame<'a> {
        if slot.region() == self.copies.region() { self.copies.frame(slot) } else { self.inner.frame(slot) }
    }

    fn release(&mut self, slot: Slot) {
        if slot.region() == self.copies.region() { self.copies.release(slot) } else { self.inner.release(slot) }
    }

    fn wait_fds(&self) -> WaitFds {
        // While frames are held, waiting on the device would be waiting for the wrong thing.
        if self.held.is_empty() && self.ready.is_empty() { self.inner.wait_fds() } else { WaitFds::new() }
    }

    fn device_event(&mut self) {
        self.inner.device_event();
    }

    fn begin(&mut self) {
        self.inner.begin();
    }

    fn divide(&mut self, by: Divide) {
        self.inner.divide(by);
    }

    fn pack(&mut self) -> Vec<u8> {
        self.inner.pack()
    }

    fn take_over(&mut self, packed: &[&[u8]]) -> Result<(), Unreadable> {
        self.inner.take_over(packed)
    }

    fn take_charge(&mut self) {
        self.inner.take_charge();
    }

    fn exhausted(&self) -> bool {
        self.inner.exhausted() && self.held.is_empty() && self.ready.is_empty()
    }

    fn traffic(&mut self) -> Traffic {
        let mut traffic = self.inner.traffic();
        traffic.lost(Loss::Injected, self.injected);
        traffic
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::mem::Memory;

    /// What came out of `frames` numbered frames through a faulty port.
    fn run(faults: Faults, seed: u64, frames: u16) -> (Vec<Vec<u8>>, u64) {
        let memory = Memory::new(512);
        let (port, wire) = memory.port(128);
        let mut port = faulty(port, faults, seed);
        let (mut out, mut burst) = (Vec::new(), Burst::new());
        let mut next = 0;
        loop {
            while next < frames && wire.inject(&[&[0; 14], &next.to_be_bytes()[..]].concat()) {
                next += 1;
            }
            port.rx.receive(&mut burst);
            if burst.is_empty() && next == frames {
                break;
            }
            for mut slot in burst.drain(..) {
                out.push(port.rx.frame(&mut slot).bytes().to_vec());
                port.rx.release(slot);
            }
        }
        assert_eq!(memory.available(), 512, "no buffer lost");
        (out, port.rx.traffic().lost_to(Loss::Injected))
    }

    fn numbers(frames: &[Vec<u8>]) -> Vec<u16> {
        frames.iter().map(|f| u16::from_be_bytes([f[14], f[15]])).collect()
    }

    #[test]
    fn without_faults_it_is_a_wire() {
        let (out, lost) = run(Faults::default(), 1, 1000);
        assert_eq!((numbers(&out), lost), ((0..1000).collect(), 0));
    }

    #[test]
    fn each_fault_does_what_it_says_and_repeats_with_its_seed() {
        let (out, lost) = run(Faults { lose: 100, ..Faults::default() }, 7, 1000);
        assert!((50..200).contains(&lost) && out.len() as u64 + lost == 1000, "{lost}");
        assert!(numbers(&out).is_sorted());

        let (out, _) = run(Faults { duplicate: 100, ..Faults::default() }, 7, 1000);
        let mut seen = numbers(&out);
        assert!((1050..1200).contains(&seen.len()), "{}", seen.len());
        seen.dedup();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>(), "each at least once, in order");

        let (out, _) = run(Faults { delay: 100, ..Faults::default() }, 7, 1000);
        let mut seen = numbers(&out);
        assert!(!seen.is_sorted());
        seen.sort();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>(), "all of them, once");

        let (out, _) = run(Faults { corrupt: 100, ..Faults::default() }, 7, 1000);
        let wrong = numbers(&out).iter().zip(0u16..).filter(|(got, sent)| **got != *sent).count();
        assert!((50..200).contains(&wrong), "{wrong}");

        let all = Faults { lose: 50, duplicate: 50, delay: 50, corrupt: 50 };
        assert_eq!(run(all, 42, 1000), run(all, 42, 1000));
        assert_ne!(run(all, 42, 1000), run(all, 43, 1000));
    }
}
