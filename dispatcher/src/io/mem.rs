//! Ports in memory: a test, or a simulation, is the other end of the wire.
//!
//! All ports of a [`Memory`] share its buffers, as those of a kernel-bypass driver do, so the path without a copy is
//! the one that tests take. Every queue is bounded: [`Wire::inject`] refuses when the receive queue or the buffers are
//! full, [`Transmitter::transmit`] when the transmit queue is.

use super::arena::Arena;
use super::{Burst, HEADROOM, Loss, Port, Receiver, Slot, Traffic, Transmitter};
use crate::wire::{Frame, Offload};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Bytes of a buffer: headroom, a jumbo-free Ethernet frame, and some room behind it.
const BUFFER: usize = 2048;

/// Buffers shared by in-memory ports.
pub struct Memory {
    arena: Rc<Arena>,
}

/// The far end of an in-memory port.
pub struct Wire {
    arena: Rc<Arena>,
    shared: Rc<RefCell<Shared>>,
}

struct Shared {
    inbound: VecDeque<Slot>,
    outbound: VecDeque<Slot>,
    /// Most slots in each queue.
    depth: usize,
    link_up: bool,
    closed: bool,
}

impl Memory {
    /// `buffers` of 2048 bytes each for all ports together.
    pub fn new(buffers: usize) -> Memory {
        Memory { arena: Rc::new(Arena::new(buffers, BUFFER)) }
    }

    /// A port whose queues hold `depth` frames each way, and its far end.
    pub fn port(&self, depth: usize) -> (Port, Wire) {
        let shared = Rc::new(RefCell::new(Shared {
            inbound: VecDeque::with_capacity(depth),
            outbound: VecDeque::with_capacity(depth),
            depth,
            link_up: true,
            closed: false,
        }));
        let rx = MemReceiver { arena: self.arena.clone(), shared: shared.clone(), traffic: Traffic::default() };
        let tx = MemTransmitter {
            arena: self.arena.clone(),
            shared: shared.clone(),
            queued: Vec::with_capacity(depth),
            traffic: Traffic::default(),
        };
        let wire = Wire { arena: self.arena.clone(), shared };
        (Port { description: format!("mem, {depth} frames a queue"), rx: Box::new(rx), tx: Box::new(tx) }, wire)
    }

    /// Buffers that nobody holds: when a test is over, all of them.
    pub fn available(&self) -> usize {
        self.arena.available()
    }
}

impl Wire {
    /// Puts a frame onto the wire towards the port. False when its queue or the buffers are full.
    pub fn inject(&self, frame: &[u8]) -> bool {
        self.inject_with(frame, Offload::NONE)
    }

    /// The same for a frame of which this is left to whoever sends it.
    pub fn inject_with(&self, frame: &[u8], offload: Offload) -> bool {
        let mut shared = self.shared.borrow_mut();
        if shared.inbound.len() == shared.depth {
            return false;
        }
        let Some(mut slot) = self.arena.copy_in(HEADROOM, frame) else { return false };
        slot.set_offload(offload);
        shared.inbound.push_back(slot);
        true
    }

    /// The next frame that the port has sent.
    pub fn take(&self) -> Option<Vec<u8>> {
        let slot = self.shared.borrow_mut().outbound.pop_front()?;
        let frame = self.arena.bytes(&slot).to_vec();
        self.arena.release(slot);
        Some(frame)
    }

    /// Pulls or plugs the cable: what is sent while it is out is lost and counted.
    pub fn set_link(&self, up: bool) {
        self.shared.borrow_mut().link_up = up;
    }

    /// Nothing will be injected any more: the receiver is exhausted once it is empty.
    pub fn close(&self) {
        self.shared.borrow_mut().closed = true;
    }
}

struct MemReceiver {
    arena: Rc<Arena>,
    shared: Rc<RefCell<Shared>>,
    traffic: Traffic,
}

impl Receiver for MemReceiver {
    fn receive(&mut self, burst: &mut Burst) {
        let mut shared = self.shared.borrow_mut();
        while !burst.is_full() {
            let Some(slot) = shared.inbound.pop_front() else { break };
            self.traffic.passed(slot.len());
            burst.push(slot);
        }
    }

    fn frame<'a>(&'a mut self, slot: &'a mut Slot) -> Frame<'a> {
        self.arena.frame(slot)
    }

    fn bytes<'a>(&'a mut self, slot: &'a mut Slot) -> &'a [u8] {
        self.arena.bytes(slot)
    }

    fn release(&mut self, slot: Slot) {
        self.arena.release(slot);
    }

    fn exhausted(&self) -> bool {
        let shared = self.shared.borrow();
        shared.closed && shared.inbound.is_empty()
    }

    fn traffic(&mut self) -> Traffic {
        self.traffic
    }
}

struct MemTransmitter {
    arena: Rc<Arena>,
    shared: Rc<RefCell<Shared>>,
    queued: Vec<Slot>,
    traffic: Traffic,
}

impl MemTransmitter {
    fn full(&mut self) -> bool {
        let shared = self.shared.borrow();
        let full = self.queued.len() + shared.outbound.len() >= shared.depth;
        if full {
            self.traffic.lost(Loss::TxQueueFull, 1);
        }
        full
    }
}

impl Transmitter for MemTransmitter {
    fn takes(&self, slot: &Slot) -> bool {
        slot.region() == self.arena.region()
    }

    fn transmit(&mut self, slot: Slot) -> Result<(), Slot> {
        if !self.takes(&slot) || self.full() {
            return Err(slot);
        }
        self.queued.push(slot);
        Ok(())
    }

    fn transmit_copy(&mut self, frame: &[u8]) -> bool {
        if self.full() {
            return false;
        }
        match self.arena.copy_in(HEADROOM, frame) {
            Some(slot) => {
                self.queued.push(slot);
                true
            }
            None => {
                self.traffic.lost(Loss::TxQueueFull, 1);
                false
            }
        }
    }

    fn flush(&mut self) {
        let mut shared = self.shared.borrow_mut();
        for slot in self.queued.drain(..) {
            if shared.link_up {
                self.traffic.passed(slot.len());
                shared.outbound.push_back(slot);
            } else {
                self.traffic.lost(Loss::TxLinkDown, 1);
                self.arena.release(slot);
            }
        }
    }

    fn traffic(&mut self) -> Traffic {
        self.traffic
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{BURST, send};

    #[test]
    fn a_frame_goes_from_port_to_port_without_a_copy() {
        let memory = Memory::new(4);
        let ((mut a, a_wire), (mut b, b_wire)) = (memory.port(4), memory.port(4));
        assert!(a_wire.inject(&[1, 2, 3]));
        let mut burst = Burst::new();
        a.rx.receive(&mut burst);
        let mut slot = burst.pop().unwrap();
        let mut frame = a.rx.frame(&mut slot);
        let before = frame.bytes().as_ptr();
        assert!(frame.push_front(4));
        frame.bytes_mut()[..4].fill(9);
        let (head, len) = (frame.head(), frame.len());
        slot.reframe(head, len);
        assert!(b.tx.takes(&slot));
        assert!(send(&mut *a.rx, &mut *b.tx, slot));
        assert!(b_wire.take().is_none(), "not before the flush");
        b.tx.flush();
        let sent = b.tx.traffic();
        assert_eq!((sent.frames, sent.bytes), (1, 7));
        // The buffer itself arrived at the other wire.
        let slot = b_wire.shared.borrow_mut().outbound.pop_front().unwrap();
        assert_eq!(memory.arena.bytes(&slot)[4..].as_ptr(), before);
        memory.arena.release(slot);
        assert_eq!(memory.available(), 4);
    }

    #[test]
    fn between_two_memories_it_is_copied() {
        let (m, n) = (Memory::new(2), Memory::new(2));
        let ((mut a, a_wire), (mut b, b_wire)) = (m.port(2), n.port(2));
        assert!(a_wire.inject(b"hello"));
        let mut burst = Burst::new();
        a.rx.receive(&mut burst);
        let slot = burst.pop().unwrap();
        assert!(!b.tx.takes(&slot));
        assert!(send(&mut *a.rx, &mut *b.tx, slot));
        b.tx.flush();
        assert_eq!(m.available(), 2, "the original is free at once");
        assert_eq!(b_wire.take().unwrap(), b"hello");
    }

    #[test]
    fn every_queue_is_bounded_and_every_loss_counted() {
        let memory = Memory::new(200);
        let (mut port, wire) = memory.port(100);
        assert_eq!((0..150).filter(|_| wire.inject(&[0; 60])).count(), 100);
        let mut burst = Burst::new();
        port.rx.receive(&mut burst);
        assert_eq!(burst.len(), BURST);
        let (mut sent, mut refused) = (0, 0);
        for slot in burst.drain(..) {
            if send(&mut *port.rx, &mut *port.tx, slot) { sent += 1 } else { refused += 1 }
        }
        assert_eq!((sent, refused), (64, 0));
        assert_eq!((0..100).filter(|_| port.tx.transmit_copy(&[0; 60])).count(), 36);
        wire.set_link(false);
        port.tx.flush();
        let traffic = port.tx.traffic();
        assert_eq!(traffic.lost_to(Loss::TxQueueFull), 64);
        assert_eq!(traffic.lost_to(Loss::TxLinkDown), 100);
        assert_eq!(traffic.frames, 0);
        port.rx.receive(&mut burst);
        burst.drain(..).for_each(|slot| port.rx.release(slot));
        assert_eq!(memory.available(), 200);
        assert!(!port.rx.exhausted());
        wire.close();
        assert!(port.rx.exhausted());
    }
}
