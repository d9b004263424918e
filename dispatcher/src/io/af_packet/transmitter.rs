//! Frames on their way to `sendmmsg`, alone or several as one large unit.

use super::{Region, max_frame};
use crate::io::arena::Arena;
use crate::io::merge::{LEAD, Unit};
use crate::io::{BURST, DeviceInfo, Loss, Slot, Traffic, Transmitter, offload, sys, vnet};
use crate::wire::{Frame, Offload};
use core::mem::zeroed;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

/// Most frames queued for transmission before they are handed to the kernel.
const QUEUE: usize = BURST;

/// The queue, and what the kernel is told of it.
pub(super) struct PacketTransmitter {
    region: Rc<Region>,
    ring: usize,
    /// For frames of our own making, and of ports of other drivers.
    copies: Arena,
    queued: Vec<Slot>,
    messages: Messages,
    max_frame: usize,
    mtu: u16,
    /// So many of the next frames go one by one: as a large unit the kernel refused them.
    one_by_one: usize,
    name: String,
    /// To ask for the link's state.
    questions: OwnedFd,
    traffic: Traffic,
}

/// What the kernel is told of queued frames.
struct Messages {
    /// Of all messages, one after the other: for each of its frames a message has two at most.
    parts: Box<[libc::iovec; 2 * QUEUE]>,
    /// What goes before each message, where large units are given.
    headers: Option<Box<[[u8; vnet::LEN]; QUEUE]>>,
    /// The same, with the headers of a frame, of those that are merged.
    leads: Box<[[u8; LEAD]; QUEUE]>,
    messages: Box<[libc::mmsghdr; QUEUE]>,
    /// Frames in each of them.
    frames: [u8; QUEUE],
    /// Parts and messages in use.
    used: (usize, usize),
}

impl Messages {
    fn new(offload: bool) -> Messages {
        Messages {
            // SAFETY: all zeros is an iovec without bytes, and a message without address, buffers or control data.
            parts: Box::new(unsafe { zeroed() }),
            headers: offload.then(|| Box::new([[0; vnet::LEN]; QUEUE])),
            leads: Box::new([[0; LEAD]; QUEUE]),
            // SAFETY: as above.
            messages: Box::new(unsafe { zeroed() }),
            frames: [0; QUEUE],
            used: (0, 0),
        }
    }

    fn clear(&mut self) {
        self.used = (0, 0);
    }

    fn part(&mut self, bytes: &[u8]) {
        let iov_base = bytes.as_ptr().cast_mut().cast();
        self.parts[self.used.0] = libc::iovec { iov_base, iov_len: bytes.len() };
        self.used.0 += 1;
    }

    /// Makes a message of the parts from `first` on.
    fn close(&mut self, first: usize, frames: usize) {
        let (parts, n) = self.used;
        let message = &mut self.messages[n].msg_hdr;
        message.msg_iov = self.parts[first..].as_mut_ptr();
        message.msg_iovlen = (parts - first) as _;
        self.frames[n] = frames as u8;
        self.used.1 += 1;
    }

    /// Makes a message of a frame.
    fn describe(&mut self, frame: &mut Frame<'_>, mtu: u16) {
        let (first, n) = self.used;
        if let Some(headers) = &mut self.headers {
            headers[n] = vnet::write(frame, mtu);
            let header = headers[n].as_ptr();
            self.parts[first] = libc::iovec { iov_base: header.cast_mut().cast(), iov_len: vnet::LEN };
            self.used.0 += 1;
        }
        self.part(frame.bytes());
        self.close(first, 1);
    }
}

impl PacketTransmitter {
    fn copy(&mut self, frame: &[u8], offload: Offload) -> bool {
        if frame.len() > self.max_frame {
            self.traffic.lost(Loss::TxRefused, 1);
            return false;
        }
        if self.copies.available() == 0 {
            self.flush();
        }
        let Some(mut slot) = self.copies.copy_in(0, frame) else { return false };
        slot.set_offload(offload);
        self.queue(slot);
        true
    }

    pub(super) fn new(
        region: Rc<Region>,
        ring: usize,
        offload: bool,
        info: &DeviceInfo,
        name: &str,
    ) -> io::Result<PacketTransmitter> {
        let max_frame = max_frame(info);
        Ok(PacketTransmitter {
            region,
            ring,
            copies: Arena::new(QUEUE, max_frame),
            queued: Vec::with_capacity(QUEUE),
            messages: Messages::new(offload),
            max_frame,
            mtu: info.mtu,
            one_by_one: 0,
            name: name.to_string(),
            questions: sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?,
            traffic: Traffic::default(),
        })
    }

    fn queue(&mut self, slot: Slot) {
        if self.queued.len() == QUEUE {
            self.flush();
        }
        self.queued.push(slot);
    }

    /// Describes the queued frames from `first` on.
    fn describe_from(&mut self, first: usize) {
        let PacketTransmitter { queued, region, copies, messages, mtu, one_by_one, .. } = self;
        messages.clear();
        let merges = messages.headers.is_some() && *one_by_one == 0;
        let mut rest = &mut queued[first..];
        while let Some(slot) = rest.first_mut() {
            let taken = match merges && slot.offload.is_alone() {
                true => describe_unit(rest, (region, copies), *mtu, messages),
                false => 0,
            };
            if taken == 0 {
                messages.describe(&mut frame_of((region, copies), &mut rest[0]), *mtu);
            }
            rest = &mut rest[taken.max(1)..];
        }
    }

    /// Hands the queued frames from `first` on to the kernel: how many it took.
    fn send_from(&mut self, first: usize) -> io::Result<usize> {
        self.describe_from(first);
        let taken = self.send_messages()?;
        Ok(self.messages.frames[..taken].iter().map(|n| usize::from(*n)).sum())
    }

    /// Hands the messages to the kernel: how many it took.
    fn send_messages(&mut self) -> io::Result<usize> {
        let fd = self.region.rings[self.ring].fd.as_raw_fd();
        let Messages { messages, used: (_, count), .. } = &mut self.messages;
        // SAFETY: `count` messages, each of which describes frames, and headers of ours, that are ours until after the call; the kernel only
        // reads them.
        match unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), *count as u32, libc::MSG_DONTWAIT) } {
            -1 => Err(io::Error::last_os_error()),
            taken => Ok(taken as usize),
        }
    }

    /// What is to be done about so many frames, of which the kernel refused the first message: how many are lost, for what.
    fn refused(&self, error: &io::Error, frames: usize) -> (usize, Option<Loss>) {
        let first = usize::from(self.messages.frames[0]);
        match error.raw_os_error() {
            Some(libc::EINTR) => (0, None),
            // A link that went down leaves its error on the socket, to be told once: perhaps it is long back.
            Some(libc::ENETDOWN) if self.region.rings[self.ring].take_error() => (0, None),
            // The whole queue would fare alike. TCP's own retransmission repairs it when the link is back.
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => (frames, Some(Loss::TxLinkDown)),
            Some(libc::EAGAIN) => (frames, Some(Loss::TxQueueFull)),
            // So is told, too, that the cable is pulled.
            Some(libc::ENOBUFS) if !sys::link_is_up(&self.questions, &self.name) => (frames, Some(Loss::TxLinkDown)),
            // The first of them only: its device queue is full.
            Some(libc::ENOBUFS) => (first, Some(Loss::TxQueueFull)),
            _ => (first, Some(Loss::TxRefused)),
        }
    }
}

/// The frame in a slot, of either memory.
fn frame_of<'a>((region, copies): (&'a Region, &'a Arena), slot: &'a mut Slot) -> Frame<'a> {
    if slot.region == region.id { region.frame(slot) } else { copies.frame(slot) }
}

/// Makes one message of the first frame and as many of those behind it as fit: of how many. 0 when it is one only, and nothing was done.
fn describe_unit(slots: &mut [Slot], memory: (&Region, &Arena), mtu: u16, messages: &mut Messages) -> usize {
    let Some((first, others)) = slots.split_first_mut() else { return 0 };
    let first = frame_of(memory, first).into_bytes();
    let Some(mut unit) = Unit::begin(first, mtu) else { return 0 };
    let (begin, n) = messages.used;
    // Behind what goes before: written when all is known.
    messages.used.0 += 1;
    messages.part(unit.payload(first));
    let mut taken = 1;
    for slot in others {
        if !slot.offload.is_alone() {
            break;
        }
        let frame = frame_of(memory, slot).into_bytes();
        let Some(payload) = unit.take(first, frame) else { break };
        messages.part(payload);
        taken += 1;
    }
    if taken == 1 {
        messages.used.0 = begin;
        return 0;
    }
    let lead = &mut messages.leads[n];
    let len = unit.write(first, lead);
    messages.parts[begin] = libc::iovec { iov_base: lead.as_mut_ptr().cast(), iov_len: len };
    messages.close(begin, taken);
    taken
}

impl Transmitter for PacketTransmitter {
    fn takes(&self, slot: &Slot) -> bool {
        slot.region == self.region.id && (slot.offload.is_finished() || self.messages.headers.is_some())
    }

    fn transmit(&mut self, slot: Slot) -> Result<(), Slot> {
        if !self.takes(&slot) {
            return Err(slot);
        }
        self.queue(slot);
        Ok(())
    }

    fn transmit_copy(&mut self, frame: &[u8]) -> bool {
        self.copy(frame, Offload::NONE)
    }

    fn transmit_alone(&mut self, frame: &[u8]) -> bool {
        self.copy(frame, Offload::ALONE)
    }

    fn transmit_unfinished(&mut self, frame: &mut Frame<'_>) -> bool {
        if self.messages.headers.is_none() {
            return offload::finish(frame, &mut |bytes| self.transmit_copy(bytes));
        }
        // Sent at once, behind what is queued, from where it lies: there is no buffer for so large a copy.
        self.flush();
        self.messages.clear();
        self.messages.describe(frame, self.mtu);
        loop {
            match self.send_messages() {
                Ok(0) => return false,
                Ok(_) => {
                    self.traffic.passed(frame.len());
                    return true;
                }
                Err(e) => match self.refused(&e, 1) {
                    (_, None) => {}
                    (_, Some(why)) => {
                        self.traffic.lost(why, 1);
                        return false;
                    }
                },
            }
        }
    }

    fn flush(&mut self) {
        let mut done = 0;
        while done < self.queued.len() {
            match self.send_from(done) {
                Ok(0) => break,
                Ok(taken) => {
                    self.queued[done..done + taken].iter().for_each(|slot| self.traffic.passed(slot.len()));
                    done += taken;
                    self.one_by_one = self.one_by_one.saturating_sub(taken);
                }
                Err(e) => {
                    let (frames, why) = self.refused(&e, self.queued.len() - done);
                    let merged = usize::from(self.messages.frames[0]);
                    if why == Some(Loss::TxRefused) && merged > 1 {
                        self.one_by_one = merged;
                        continue;
                    }
                    why.into_iter().for_each(|why| self.traffic.lost(why, frames as u64));
                    done += frames;
                    self.one_by_one = self.one_by_one.saturating_sub(frames);
                }
            }
        }
        for slot in self.queued.drain(..) {
            if slot.region == self.region.id { self.region.release(slot) } else { self.copies.release(slot) }
        }
    }

    fn traffic(&mut self) -> Traffic {
        self.traffic
    }
}
