//! The transmitting half of a port: one queue, the first that its worker has of the device.
//!
//! A frame is one descriptor, a long one several, of which the kernel is always shown all or none.

use super::{Device, Sending, TRANSMIT, max_frame};
use crate::io::umem::{Part, Umem};
use crate::io::xsk::{Descriptor, Transmitting};
use crate::io::{BURST, Loss, Slot, Traffic, Transmitter, sys};
use crate::pack::{Ids, Pack, Packer, Unpacker, Unreadable};
use core::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// Descriptors queued or being sent at once: the ring also has room for a batch that was withdrawn.
const IN_FLIGHT: u32 = TRANSMIT - BURST as u32;

/// Descriptors that the kernel takes in one system call, unless it can be told otherwise.
const KERNEL_BATCH: u32 = 32;

/// As large a buffer and batch as the kernel allows. Returns how many descriptors it takes in one call.
pub(super) fn enlarge(fd: &OwnedFd) -> u32 {
    // What it bounds are frames in the device's own queue; as large as allowed.
    let send_buffer = 8 << 20;
    if sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, send_buffer).is_err() {
        let _ = sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, send_buffer);
    }
    // Since Linux 6.17.
    const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
    match sys::set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, BURST as i32) {
        Ok(()) => BURST as u32,
        Err(_) => KERNEL_BATCH,
    }
}

pub(super) struct XdpTransmitter {
    umem: Rc<Umem>,
    /// Of this worker's ports.
    port: u8,
    fd: Rc<OwnedFd>,
    rings: Transmitting,
    device: String,
    /// To ask for the link's state.
    questions: OwnedFd,
    zero_copy: bool,
    /// Descriptors that the kernel takes in one system call.
    batch: u32,
    /// Most descriptors of a frame.
    most_parts: u32,
    /// Descriptors in the ring that the kernel was not shown.
    staged: u32,
    /// The kernel did not take all that it was shown.
    waiting: bool,
    /// The ring's consumer index is what the kernel has consumed. Some kernels tell it late when a call ends early.
    exact: bool,
    /// Chunks in the tx ring, the device or the completion ring; at most `IN_FLIGHT`.
    in_flight: u32,
    /// Descriptors in the ring that were withdrawn, at most a batch: the kernel skips one of them in each call.
    withdrawn: u32,
    /// The link was found down when last used.
    down: bool,
    max_frame: usize,
    /// New rings, once the device was removed and is there again.
    renewal: Rc<Cell<Option<Box<Sending>>>>,
    traffic: Traffic,
}

impl XdpTransmitter {
    pub(super) fn new(
        device: &Device,
        port: u8,
        umem: Rc<Umem>,
        sending: Sending,
        renewal: Rc<Cell<Option<Box<Sending>>>>,
    ) -> io::Result<XdpTransmitter> {
        let Sending { fd, rings, zero_copy } = sending;
        Ok(XdpTransmitter {
            most_parts: umem.most_parts(),
            umem,
            port,
            batch: enlarge(&fd),
            fd,
            rings,
            device: device.name.clone(),
            questions: sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?,
            zero_copy,
            staged: 0,
            waiting: false,
            exact: true,
            in_flight: 0,
            withdrawn: 0,
            down: false,
            max_frame: max_frame(device),
            renewal,
            traffic: Traffic::default(),
        })
    }

    /// Goes on with the rings of a device that was made anew. What the old one had is lost with it.
    fn renew(&mut self, Sending { fd, rings, zero_copy }: Sending) {
        self.unstage(Loss::TxLinkDown);
        self.reap();
        self.batch = enlarge(&fd);
        (self.fd, self.rings, self.zero_copy) = (fd, rings, zero_copy);
        let lost = self.umem.reclaim_sending(self.port) as u64;
        self.traffic.lost(Loss::TxLinkDown, lost);
        // Which ones they were is not known any more; their bytes stay counted.
        self.traffic.not_passed(lost, 0);
        (self.in_flight, self.withdrawn) = (0, 0);
        (self.waiting, self.exact, self.down) = (false, true, false);
    }

    /// Takes back what was sent.
    fn reap(&mut self) {
        let before = self.in_flight;
        while let Some(address) = self.rings.completion.take() {
            if self.umem.sent(self.port, address) {
                self.in_flight = self.in_flight.saturating_sub(1);
            }
        }
        if self.in_flight != before {
            self.rings.completion.done();
        }
    }

    /// Whether one more frame, of so many descriptors, can be queued. Counts it as lost if not.
    fn has_room(&mut self, parts: u32) -> bool {
        if self.in_flight + parts > IN_FLIGHT {
            self.reap();
            if self.in_flight + parts > IN_FLIGHT {
                self.kick();
            }
            if self.in_flight + parts > IN_FLIGHT {
                self.traffic.lost(if self.down { Loss::TxLinkDown } else { Loss::TxQueueFull }, 1);
                return false;
            }
        }
        true
    }

    /// Queues a slot of our region, for which there is room.
    fn queue(&mut self, slot: Slot) {
        self.traffic.passed(slot.len());
        for Part { address, len, goes_on } in self.umem.to_send(self.port, slot) {
            let options = if goes_on { Descriptor::GOES_ON } else { 0 };
            let put = self.rings.tx.put(Descriptor { address, len, options });
            debug_assert!(put, "the ring has room for all that may be in flight");
            self.in_flight += 1;
            self.staged += 1;
        }
        // The next frame may be more than the batch has room for.
        if self.staged + self.most_parts > self.batch {
            self.kick();
        }
    }

    /// Shows the kernel what is staged, and has it sent.
    fn kick(&mut self) {
        if let Some(sending) = self.renewal.take() {
            self.renew(*sending);
            return;
        }
        if self.down && !self.is_up_again() {
            self.unstage(Loss::TxLinkDown);
            return;
        }
        self.rings.tx.publish();
        self.staged = 0;
        let (mut idle, mut drops) = (0, 0);
        while self.rings.tx.needs_wakeup() {
            match sys::kick_transmit(&self.fd) {
                // It came to a withdrawn one, perhaps, and stopped there.
                Ok(()) if self.withdrawn > 0 => self.withdrawn -= 1,
                Ok(()) => {
                    // Copying, it has looked until nothing was left.
                    self.exact = true;
                    self.down &= drops > 0;
                    break;
                }
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The device dropped one frame, and the rest was not looked at.
                    Some(libc::EBUSY) if !self.zero_copy && drops < TRANSMIT => {
                        (self.exact, drops) = (false, drops + 1);
                        let link_down = !sys::link_is_up(&self.questions, &self.device);
                        self.found_down(link_down);
                        self.traffic.lost(if link_down { Loss::TxLinkDown } else { Loss::TxQueueFull }, 1);
                        // Which one it was is not known; its bytes stay counted.
                        self.traffic.not_passed(1, 0);
                    }
                    Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                        self.found_down(true);
                        self.withdraw(Loss::TxLinkDown);
                        break;
                    }
                    // The completion ring or the device's queue is full, memory is short, or the batch is over.
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM) => {
                        self.exact = false;
                        self.reap();
                        idle += 1;
                        if idle == 4 {
                            break;
                        }
                    }
                    _ => {
                        self.withdraw(Loss::TxRefused);
                        break;
                    }
                },
            }
        }
        self.waiting = self.rings.tx.unread() > self.withdrawn;
        self.reap();
    }

    /// Asks, before anything more is put into the ring of a link that was down.
    fn is_up_again(&mut self) -> bool {
        match sys::kick_transmit(&self.fd).map_err(|e| e.raw_os_error()) {
            Err(Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV)) => false,
            Ok(()) => {
                self.withdrawn = self.withdrawn.saturating_sub(1);
                true
            }
            Err(_) => true,
        }
    }

    /// One that was counted as sent was not. A frame is counted by its last descriptor.
    fn take_back(&mut self, descriptor: Descriptor, why: Loss) {
        if self.umem.sent(self.port, descriptor.address) {
            self.in_flight = self.in_flight.saturating_sub(1);
            let frames = u64::from(!descriptor.goes_on());
            self.traffic.not_passed(frames, descriptor.len.into());
            self.traffic.lost(why, frames);
        }
    }

    /// Takes what the kernel was not shown out of the ring, lost for this reason.
    fn unstage(&mut self, why: Loss) {
        for back in 1..=self.staged {
            self.take_back(self.rings.tx.recent(back), why);
        }
        self.rings.tx.forget(self.staged);
        self.staged = 0;
    }

    fn found_down(&mut self, down: bool) {
        self.traffic.link_downs += u64::from(down && !self.down);
        self.down = down;
    }

    /// Takes everything that the kernel has not consumed out of the ring, lost for this reason. Where that cannot be
    /// known it stays there.
    fn withdraw(&mut self, why: Loss) {
        if self.zero_copy || !self.exact {
            return;
        }
        self.withdrawn = self.rings.tx.unread();
        for back in 1..=self.withdrawn {
            // What was withdrawn before is of no chunk, and not counted again.
            self.take_back(self.rings.tx.recent(back), why);
            // SAFETY: with copies the kernel reads the ring within system calls on this socket only, and this thread,
            // which alone has it, is in none.
            unsafe {
                self.rings.tx.replace_recent(back, Descriptor { address: self.umem.nowhere(), len: 0, options: 0 });
            }
        }
    }
}

impl Transmitter for XdpTransmitter {
    fn takes(&self, slot: &Slot) -> bool {
        slot.region() == self.umem.region()
    }

    fn transmit(&mut self, slot: Slot) -> Result<(), Slot> {
        if !self.takes(&slot) {
            return Err(slot);
        }
        if slot.len() > self.max_frame {
            self.traffic.lost(Loss::TxRefused, 1);
            return Err(slot);
        }
        if !self.has_room(self.umem.parts_of(&slot)) {
            return Err(slot);
        }
        self.queue(slot);
        Ok(())
    }

    fn transmit_copy(&mut self, frame: &[u8]) -> bool {
        if frame.len() > self.max_frame {
            self.traffic.lost(Loss::TxRefused, 1);
            return false;
        }
        if !self.has_room(self.umem.parts_of_copy(frame.len())) {
            return false;
        }
        match self.umem.copy_in(frame) {
            Some(slot) => {
                self.queue(slot);
                true
            }
            None => {
                self.traffic.lost(Loss::TxQueueFull, 1);
                false
            }
        }
    }

    fn pack(&mut self) -> Vec<u8> {
        // The kernel is shown all of it first.
        self.flush();
        let mut to = Packer::new();
        (self.in_flight, self.withdrawn).pack(&mut to);
        (self.waiting, self.exact).pack(&mut to);
        self.down.pack(&mut to);
        to.into_bytes()
    }

    fn take_over(&mut self, packed: &[u8]) -> Result<(), Unreadable> {
        let nobody = Ids::default();
        let from = &mut Unpacker::new(packed, &nobody);
        (self.in_flight, self.withdrawn) = Pack::unpack(from)?;
        (self.waiting, self.exact) = Pack::unpack(from)?;
        self.down = Pack::unpack(from)?;
        self.staged = 0;
        self.rings.tx.go_on();
        self.rings.completion.go_on();
        Ok(())
    }

    fn flush(&mut self) {
        if self.staged > 0 || self.waiting {
            self.kick();
        } else if self.in_flight > 0 {
            self.reap();
        }
    }

    fn traffic(&mut self) -> Traffic {
        self.traffic
    }
}
