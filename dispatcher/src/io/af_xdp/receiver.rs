//! The receiving half of a port: all queues that its worker has of the device.

use super::layout::max_frame;
use super::regions::Regions;
use super::sockets::{Opened, Seat, Sending, opened, wait_on};
use crate::io::link_watch::LinkWatch;
use crate::io::umem::Umem;
use crate::io::xsk::Receiving;
use crate::io::{Burst, Divide, Loss, Receiver, Slot, Traffic, WaitFds, sys};
use crate::pack::{Ids, Pack, Packer, Unpacker, Unreadable};
use crate::wire::Frame;
use core::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

/// Fewest chunks given back to the kernel at once.
const REFILL: u32 = 32;

/// What one queue receives.
pub(super) struct Queue {
    socket: u16,
    pub(super) fd: Rc<OwnedFd>,
    rings: Receiving,
    umem: Rc<Umem>,
    /// Most chunks lent to the kernel.
    size: u32,
    /// Chunks in the fill and rx rings.
    lent: u32,
    /// Frames lost, as the kernel last told.
    lost: u64,
    /// A frame of which not all parts have come.
    partial: Option<Partial>,
}

/// A frame that comes in several chunks, so far.
enum Partial {
    /// In a long buffer.
    Whole(Slot),
    /// What is left of it is to be passed over.
    Lost(Loss),
}

impl Queue {
    pub(super) fn new(socket: u16, fd: Rc<OwnedFd>, rings: Receiving, umem: Rc<Umem>, size: u32) -> Queue {
        Queue { socket, fd, rings, umem, size, lent: 0, lost: 0, partial: None }
    }

    /// Lends the kernel as many chunks as it may have, if it is worth it.
    fn refill(&mut self) {
        if self.size - self.lent < REFILL {
            return;
        }
        while self.lent < self.size
            && let Some(address) = self.umem.lend_to_kernel(self.socket)
        {
            let put = self.rings.fill.put(address);
            debug_assert!(put, "the ring is as large as what is lent");
            self.lent += 1;
        }
        self.rings.fill.publish();
    }

    /// One more part of a frame that comes in several; none when the kernel's word for it cannot be true. The frame, with its last part.
    #[cold]
    fn put_together(&mut self, part: Option<Slot>, goes_on: bool, max_frame: usize) -> Option<Result<Slot, Loss>> {
        let umem = &self.umem;
        // No buffer is free when all are on their way out.
        let begun = || umem.long_buffer().map_or(Partial::Lost(Loss::RxRingFull), Partial::Whole);
        let mut partial = self.partial.take().unwrap_or_else(begun);
        if let Partial::Whole(mut whole) = partial {
            let why = match part {
                None => Some(Loss::RxTruncated),
                Some(mut part) => {
                    let fits = whole.len() + part.len() <= max_frame && umem.append(&mut whole, &mut part);
                    umem.release(part);
                    (!fits).then_some(Loss::RxOversized)
                }
            };
            partial = match why {
                None => Partial::Whole(whole),
                Some(why) => {
                    umem.release(whole);
                    Partial::Lost(why)
                }
            };
        } else if let Some(part) = part {
            umem.release(part);
        }
        if goes_on {
            self.partial = Some(partial);
            return None;
        }
        Some(match partial {
            Partial::Whole(slot) => Ok(slot),
            Partial::Lost(why) => Err(why),
        })
    }

    /// Gives up a frame of which the rest will not come, if there is one: why it is lost.
    fn give_up(&mut self) -> Option<Loss> {
        match self.partial.take()? {
            Partial::Whole(slot) => {
                self.umem.release(slot);
                Some(Loss::RxTruncated)
            }
            Partial::Lost(why) => Some(why),
        }
    }
}

pub(super) struct XdpReceiver {
    seat: Seat,
    regions: Rc<Regions>,
    queues: Vec<Queue>,
    /// The queue that is looked at first.
    next: usize,
    /// For several queues.
    wait: Option<OwnedFd>,
    /// Of what neighbours tell all, what was not received yet.
    told: Burst,
    link: LinkWatch,
    max_frame: usize,
    /// By which the other half gets its rings when the device was made anew.
    to_transmitter: Rc<Cell<Option<Box<Sending>>>>,
    /// Another process may have it from here on.
    stopped: bool,
    traffic: Traffic,
}

impl XdpReceiver {
    pub(super) fn new(
        seat: Seat,
        queues: Vec<Queue>,
        to_transmitter: Rc<Cell<Option<Box<Sending>>>>,
    ) -> io::Result<XdpReceiver> {
        Ok(XdpReceiver {
            wait: None,
            told: Burst::new(),
            link: LinkWatch::new(&seat.device.name, seat.device.info.index)?,
            max_frame: max_frame(&seat.device),
            regions: seat.regions.clone(),
            seat,
            queues,
            next: 0,
            to_transmitter,
            stopped: false,
            traffic: Traffic::default(),
        })
    }

    /// Nobody has had its queues before: lends the kernel what it may have.
    pub(super) fn begin_anew(&mut self) -> io::Result<()> {
        self.wait = wait_on(&self.queues)?;
        self.queues.iter_mut().for_each(Queue::refill);
        Ok(())
    }

    fn receive_from(&mut self, number: usize, burst: &mut Burst) {
        let Some(queue) = self.queues.get_mut(number) else { return };
        let before = queue.lent;
        while !burst.is_full() {
            let Some(descriptor) = queue.rings.rx.take() else { break };
            queue.lent = queue.lent.saturating_sub(1);
            let received = queue.umem.received(queue.socket, descriptor.address, descriptor.len);
            if descriptor.goes_on() || queue.partial.is_some() {
                match queue.put_together(received, descriptor.goes_on(), self.max_frame) {
                    Some(Ok(slot)) => {
                        self.traffic.passed(slot.len());
                        burst.push(slot);
                    }
                    Some(Err(why)) => self.traffic.lost(why, 1),
                    None => {}
                }
                continue;
            }
            match received {
                Some(slot) if slot.len() > self.max_frame => {
                    self.traffic.lost(Loss::RxOversized, 1);
                    queue.umem.release(slot);
                }
                Some(slot) => {
                    self.traffic.passed(slot.len());
                    burst.push(slot);
                }
                None => self.traffic.lost(Loss::RxTruncated, 1),
            }
        }
        if queue.lent != before {
            queue.rings.rx.done();
        }
        queue.refill();
        if queue.rings.fill.needs_wakeup() {
            sys::kick_receive(&queue.fd);
        }
    }

    /// Takes up a device that was removed, and is there again under its name: with new sockets, since those that have lost their
    /// device are of no use any more. False while that cannot be.
    fn take_up_again(&mut self) -> bool {
        let Ok(Opened { index, queues, sending }) = opened(&self.seat) else {
            return false;
        };
        let Ok(wait) = wait_on(&queues) else { return false };
        let Ok(link) = LinkWatch::new(&self.seat.device.name, index) else { return false };
        for queue in &mut self.queues {
            if let Some(why) = queue.give_up() {
                self.traffic.lost(why, 1);
            }
        }
        // The old ones are closed before their chunks are lent to the new ones.
        (self.queues, self.wait, self.link, self.next) = (queues, wait, link, 0);
        self.queues.iter().for_each(|queue| queue.umem.reclaim_receiving(queue.socket));
        self.seat.device.info.index = index;
        self.to_transmitter.set(Some(Box::new(sending)));
        self.queues.iter_mut().for_each(Queue::refill);
        true
    }
}

impl Receiver for XdpReceiver {
    fn receive(&mut self, burst: &mut Burst) {
        if self.stopped {
            return;
        }
        while !burst.is_full()
            && let Some(slot) = self.told.pop_at(0)
        {
            self.traffic.passed(slot.len());
            burst.push(slot);
        }
        // In turn, so that a busy queue does not starve the others.
        for i in 0..self.queues.len() {
            self.receive_from((self.next + i) % self.queues.len(), burst);
        }
        self.next = (self.next + 1) % self.queues.len();
    }

    fn frame<'a>(&'a mut self, slot: &'a mut Slot) -> Frame<'a> {
        self.regions.of(slot.region()).frame(slot)
    }

    fn release(&mut self, slot: Slot) {
        self.regions.of(slot.region()).release(slot);
    }

    fn wait_fds(&self) -> WaitFds {
        let first = || Some(self.queues.first()?.fd.as_raw_fd());
        self.wait.as_ref().map(AsRawFd::as_raw_fd).or_else(first).into_iter().collect()
    }

    // The rings go from hand to hand: what lies in them is taken once, whoever takes it.
    fn divide(&mut self, by: Divide) {
        self.stopped = matches!(by, Divide::Before(_));
    }

    fn pack(&mut self) -> Vec<u8> {
        let mut to = Packer::new();
        // It is one of all ports.
        let with_memory = self.seat.port == 0;
        with_memory.pack(&mut to);
        if with_memory {
            self.regions.pack(&mut to);
        }
        (self.queues.len() as u32).pack(&mut to);
        self.queues.iter().for_each(|queue| (queue.socket, (queue.lent, queue.lost)).pack(&mut to));
        to.into_bytes()
    }

    fn take_over(&mut self, packed: &[&[u8]]) -> Result<(), Unreadable> {
        let (nobody, mut accounts, mut queues) = (Ids::default(), BTreeMap::new(), BTreeMap::new());
        for packed in packed {
            let from = &mut Unpacker::new(packed, &nobody);
            if bool::unpack(from)? {
                Regions::read(from, &mut accounts)?;
            }
            for _ in 0..u32::unpack(from)? {
                let (socket, counts) = <(u16, (u32, u64))>::unpack(from)?;
                queues.insert(socket, counts);
            }
        }
        if self.seat.port == 0 {
            self.regions.take_over(&accounts)?;
        }
        for queue in &mut self.queues {
            let counts = queues.get(&queue.socket).ok_or(Unreadable::Impossible("a queue of nobody"))?;
            (queue.lent, queue.lost) = *counts;
            queue.lent = queue.lent.min(queue.size);
            queue.rings.fill.go_on();
            queue.rings.rx.go_on();
        }
        // Not before: whoever asks whether something can be read has the kernel look at what is to be sent.
        self.wait = wait_on(&self.queues).map_err(|_| Unreadable::NoRoom)?;
        Ok(())
    }

    fn device_event(&mut self) {
        self.traffic.link_downs += self.link.downs();
        if self.link.is_gone() && self.take_up_again() {
            self.traffic.reopened += 1;
        }
        // The first worker has them, and hands them to the others.
        if self.seat.part.worker == 0 {
            let (told, regions) = (&mut self.told, &self.regions);
            self.seat.attached.take_announcements(|frame| {
                if !told.is_full()
                    && let Some(slot) = regions.copy_in(frame)
                {
                    told.push(slot);
                }
            });
        }
    }

    fn traffic(&mut self) -> Traffic {
        for queue in &mut self.queues {
            if let Ok(stats) = sys::get_option::<libc::xdp_statistics>(&queue.fd, libc::SOL_XDP, libc::XDP_STATISTICS) {
                let lost = stats.rx_dropped + stats.rx_ring_full;
                self.traffic.lost(Loss::RxRingFull, lost.saturating_sub(queue.lost));
                queue.lost = lost;
            }
        }
        self.device_event();
        self.traffic
    }
}
