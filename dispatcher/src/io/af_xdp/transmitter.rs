//! The transmitting half of a port: a socket for each of its worker's regions, as a rule one.

use super::Device;
use super::layout::max_frame;
use super::line::{Line, Link};
use super::sockets::Sending;
use crate::io::{Loss, Slot, Traffic, Transmitter, sys};
use crate::pack::{Ids, Pack, Packer, Unpacker, Unreadable};
use core::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

pub(super) struct XdpTransmitter {
    /// Each sends what lies in its region; copies leave by the first that has room.
    lines: Vec<Line>,
    /// By which another process has sent, and this one does not: until they are empty.
    leaving: Vec<Line>,
    link: Link,
    max_frame: usize,
    /// New rings, once the device was removed and is there again.
    renewal: Rc<Cell<Option<Box<Sending>>>>,
}

impl XdpTransmitter {
    pub(super) fn new(
        device: &Device,
        sending: Sending,
        renewal: Rc<Cell<Option<Box<Sending>>>>,
    ) -> io::Result<XdpTransmitter> {
        let Sending { lines, others, zero_copy } = sending;
        let questions = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        let traffic = Traffic::default();
        Ok(XdpTransmitter {
            lines,
            leaving: others,
            link: Link { device: device.name.clone(), questions, zero_copy, down: false, traffic },
            max_frame: max_frame(device),
            renewal,
        })
    }

    /// Goes on with the rings of a device that was made anew, of as many lines: the regions are the same. What the old one had is lost with it.
    fn renew(&mut self, Sending { lines, others: _, zero_copy }: Sending) {
        self.lines.iter_mut().chain(&mut self.leaving).for_each(|line| line.give_up(&mut self.link));
        self.leaving.clear();
        (self.lines, self.link.zero_copy, self.link.down) = (lines, zero_copy, false);
    }

    fn kick(&mut self, line: usize) {
        match self.renewal.take() {
            Some(sending) => self.renew(*sending),
            None => self.lines[line].kick(&mut self.link),
        }
    }

    /// The line by which a slot leaves without a copy.
    #[inline]
    fn line_of(&self, slot: &Slot) -> Option<usize> {
        self.lines.iter().position(|line| line.region() == slot.region())
    }

    /// Whether one more frame, of so many descriptors, can be queued.
    fn has_room(&mut self, line: usize, parts: u32) -> bool {
        if !self.lines[line].has_room(parts) {
            self.lines[line].reap();
            if !self.lines[line].has_room(parts) {
                self.kick(line);
            }
            return self.lines[line].has_room(parts);
        }
        true
    }

    fn queue(&mut self, line: usize, slot: Slot) {
        if self.lines[line].queue(slot, &mut self.link) {
            self.kick(line);
        }
    }

    /// One finds no room.
    fn full(&mut self) {
        self.link.traffic.lost(if self.link.down { Loss::TxLinkDown } else { Loss::TxQueueFull }, 1);
    }

    /// Looks after those by which nothing leaves any more.
    #[cold]
    fn empty(&mut self) {
        for line in &mut self.leaving {
            match line.has_something_to_show() {
                true => line.kick(&mut self.link),
                false => line.reap_if_any(),
            }
        }
        self.leaving.retain(|line| !line.is_empty());
    }
}

impl Transmitter for XdpTransmitter {
    fn takes(&self, slot: &Slot) -> bool {
        self.line_of(slot).is_some()
    }

    fn transmit(&mut self, slot: Slot) -> Result<(), Slot> {
        let Some(line) = self.line_of(&slot) else { return Err(slot) };
        if slot.len() > self.max_frame {
            self.link.traffic.lost(Loss::TxRefused, 1);
            return Err(slot);
        }
        if !self.has_room(line, self.lines[line].parts_of(&slot)) {
            self.full();
            return Err(slot);
        }
        self.queue(line, slot);
        Ok(())
    }

    fn transmit_copy(&mut self, frame: &[u8]) -> bool {
        if frame.len() > self.max_frame {
            self.link.traffic.lost(Loss::TxRefused, 1);
            return false;
        }
        let mut line = 0;
        while line < self.lines.len() {
            if self.has_room(line, self.lines[line].parts_of_copy(frame.len()))
                && let Some(slot) = self.lines[line].copy_in(frame)
            {
                self.queue(line, slot);
                return true;
            }
            line += 1;
        }
        self.full();
        false
    }

    fn pack(&mut self) -> Vec<u8> {
        // The kernel is shown all of it first.
        self.flush();
        let mut to = Packer::new();
        self.link.down.pack(&mut to);
        ((self.lines.len() + self.leaving.len()) as u32).pack(&mut to);
        self.lines.iter().chain(&self.leaving).for_each(|line| line.pack(&mut to));
        to.into_bytes()
    }

    fn take_over(&mut self, packed: &[&[u8]]) -> Result<(), Unreadable> {
        let (nobody, mut progress) = (Ids::default(), BTreeMap::new());
        for packed in packed {
            let from = &mut Unpacker::new(packed, &nobody);
            self.link.down |= bool::unpack(from)?;
            for _ in 0..u32::unpack(from)? {
                Line::read(from, &mut progress)?;
            }
        }
        self.lines.iter_mut().chain(&mut self.leaving).for_each(|line| line.take_over(&progress));
        self.leaving.retain(|line| !line.is_empty());
        Ok(())
    }

    fn flush(&mut self) {
        if !self.leaving.is_empty() {
            self.empty();
        }
        for line in 0..self.lines.len() {
            match self.lines[line].has_something_to_show() {
                true => self.kick(line),
                false => self.lines[line].reap_if_any(),
            }
        }
    }

    fn traffic(&mut self) -> Traffic {
        self.link.traffic
    }
}
