//! One socket by which frames leave.
//!
//! A frame is one descriptor, a long one several, of which the kernel is always shown all or none.

use super::layout::TRANSMIT;
use super::regions::Region;
use crate::io::umem::{Part, Umem};
use crate::io::xsk::{Descriptor, Transmitting};
use crate::io::{BURST, Loss, RegionId, Slot, Traffic, sys};
use crate::pack::{Pack, Packer, Unpacker, Unreadable};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// Descriptors that the kernel takes in one system call, unless it can be told otherwise.
const KERNEL_BATCH: u32 = 32;

/// As large a buffer and batch as the kernel allows. Returns how many descriptors it takes in one call.
fn enlarge(fd: &OwnedFd) -> u32 {
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

/// The device, as all lines see it that lead there.
pub(super) struct Link {
    pub(super) device: String,
    /// To ask for the link's state.
    pub(super) questions: OwnedFd,
    pub(super) zero_copy: bool,
    /// The link was found down when last used.
    pub(super) down: bool,
    pub(super) traffic: Traffic,
}

impl Link {
    fn found_down(&mut self, down: bool) {
        self.traffic.link_downs += u64::from(down && !self.down);
        self.down = down;
    }
}

/// How far a line had got, for another process.
pub(super) type Progress = ((u32, u32), (bool, bool));

pub(super) struct Line {
    socket: u16,
    umem: Rc<Umem>,
    fd: Rc<OwnedFd>,
    rings: Transmitting,
    /// Descriptors that the kernel takes in one system call.
    batch: u32,
    /// Most descriptors of a frame.
    most_parts: u32,
    /// Most that may be in flight.
    most: u32,
    /// Descriptors in the ring that the kernel was not shown.
    staged: u32,
    /// The kernel did not take all that it was shown.
    waiting: bool,
    /// The ring's consumer index is what the kernel has consumed. Some kernels tell it late when a call ends early.
    exact: bool,
    /// Chunks in the tx ring, the device or the completion ring; at most `most`.
    in_flight: u32,
    /// Descriptors in the ring that were withdrawn, at most a batch: the kernel skips one of them in each call.
    withdrawn: u32,
}

impl Line {
    pub(super) fn new(socket: u16, fd: Rc<OwnedFd>, rings: Transmitting, region: &Region) -> Line {
        Line {
            socket,
            umem: region.umem.clone(),
            batch: enlarge(&fd),
            fd,
            rings,
            most_parts: region.umem.most_parts(),
            most: region.in_flight,
            staged: 0,
            waiting: false,
            exact: true,
            in_flight: 0,
            withdrawn: 0,
        }
    }

    #[inline]
    pub(super) fn region(&self) -> RegionId {
        self.umem.region()
    }

    /// Whether frames of this memory leave by it.
    pub(super) fn sends(&self, umem: &Rc<Umem>) -> bool {
        Rc::ptr_eq(&self.umem, umem)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_flight == 0
    }

    /// The kernel is to be shown something, or has not taken what it was shown.
    #[inline]
    pub(super) fn has_something_to_show(&self) -> bool {
        self.staged > 0 || self.waiting
    }

    /// Descriptors that a slot of its region takes.
    pub(super) fn parts_of(&self, slot: &Slot) -> u32 {
        self.umem.parts_of(slot)
    }

    /// Descriptors that a frame of so many bytes takes.
    pub(super) fn parts_of_copy(&self, len: usize) -> u32 {
        self.umem.parts_of_copy(len)
    }

    /// A chunk with `frame` in it, if there is one.
    pub(super) fn copy_in(&self, frame: &[u8]) -> Option<Slot> {
        self.umem.copy_in(frame)
    }

    /// Takes back what was sent.
    pub(super) fn reap(&mut self) {
        let before = self.in_flight;
        while let Some(address) = self.rings.completion.take() {
            if self.umem.sent(self.socket, address) {
                self.in_flight = self.in_flight.saturating_sub(1);
            }
        }
        if self.in_flight != before {
            self.rings.completion.done();
        }
    }

    /// Whether one more frame, of so many descriptors, can be queued, as it is.
    #[inline]
    pub(super) fn has_room(&self, parts: u32) -> bool {
        self.in_flight + parts <= self.most
    }

    /// Queues a slot of its region, for which there is room. True when a batch is full: it is to be shown.
    pub(super) fn queue(&mut self, slot: Slot, link: &mut Link) -> bool {
        link.traffic.passed(slot.len());
        for Part { address, len, goes_on } in self.umem.to_send(self.socket, slot) {
            let options = if goes_on { Descriptor::GOES_ON } else { 0 };
            let put = self.rings.tx.put(Descriptor { address, len, options });
            debug_assert!(put, "the ring has room for all that may be in flight");
            self.in_flight += 1;
            self.staged += 1;
        }
        // The next frame may be more than the batch has room for.
        self.staged + self.most_parts > self.batch
    }

    /// Takes back what was sent, if anything is under way.
    #[inline]
    pub(super) fn reap_if_any(&mut self) {
        if self.in_flight > 0 {
            self.reap();
        }
    }

    /// Shows the kernel what is staged, and has it sent.
    pub(super) fn kick(&mut self, link: &mut Link) {
        if link.down && !self.is_up_again() {
            self.unstage(Loss::TxLinkDown, link);
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
                    link.down &= drops > 0;
                    break;
                }
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The device dropped one frame, and the rest was not looked at.
                    Some(libc::EBUSY) if !link.zero_copy && drops < TRANSMIT => {
                        (self.exact, drops) = (false, drops + 1);
                        let link_down = !sys::link_is_up(&link.questions, &link.device);
                        link.found_down(link_down);
                        link.traffic.lost(if link_down { Loss::TxLinkDown } else { Loss::TxQueueFull }, 1);
                        // Which one it was is not known; its bytes stay counted.
                        link.traffic.not_passed(1, 0);
                    }
                    Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                        link.found_down(true);
                        self.withdraw(Loss::TxLinkDown, link);
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
                        self.withdraw(Loss::TxRefused, link);
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
    fn take_back(&mut self, descriptor: Descriptor, why: Loss, link: &mut Link) {
        if self.umem.sent(self.socket, descriptor.address) {
            self.in_flight = self.in_flight.saturating_sub(1);
            let frames = u64::from(!descriptor.goes_on());
            link.traffic.not_passed(frames, descriptor.len.into());
            link.traffic.lost(why, frames);
        }
    }

    /// Takes what the kernel was not shown out of the ring, lost for this reason.
    fn unstage(&mut self, why: Loss, link: &mut Link) {
        for back in 1..=self.staged {
            self.take_back(self.rings.tx.recent(back), why, link);
        }
        self.rings.tx.forget(self.staged);
        self.staged = 0;
    }

    /// Takes everything that the kernel has not consumed out of the ring, lost for this reason. Where that cannot be
    /// known it stays there.
    fn withdraw(&mut self, why: Loss, link: &mut Link) {
        if link.zero_copy || !self.exact {
            return;
        }
        self.withdrawn = self.rings.tx.unread();
        for back in 1..=self.withdrawn {
            // What was withdrawn before is of no chunk, and not counted again.
            self.take_back(self.rings.tx.recent(back), why, link);
            // SAFETY: with copies the kernel reads the ring within system calls on this socket only, and this thread,
            // which alone has it, is in none.
            unsafe {
                self.rings.tx.replace_recent(back, Descriptor { address: self.umem.nowhere(), len: 0, options: 0 });
            }
        }
    }

    /// The device is gone, and the socket with it: what it had is lost. Its chunks are free.
    pub(super) fn give_up(&mut self, link: &mut Link) {
        self.unstage(Loss::TxLinkDown, link);
        self.reap();
        let lost = self.umem.reclaim_sending(self.socket) as u64;
        link.traffic.lost(Loss::TxLinkDown, lost);
        // Which ones they were is not known any more; their bytes stay counted.
        link.traffic.not_passed(lost, 0);
    }

    /// How far it has got; what was staged has been shown.
    pub(super) fn pack(&self, to: &mut Packer) {
        let progress: Progress = ((self.in_flight, self.withdrawn), (self.waiting, self.exact));
        (self.socket, progress).pack(to);
    }

    /// What [`Line::pack`] wrote, by socket.
    pub(super) fn read(from: &mut Unpacker<'_>, all: &mut BTreeMap<u16, Progress>) -> Result<(), Unreadable> {
        let (socket, progress) = <(u16, Progress)>::unpack(from)?;
        all.insert(socket, progress);
        Ok(())
    }

    /// Goes on where another process was. By one that nobody speaks of nothing has left.
    pub(super) fn take_over(&mut self, all: &BTreeMap<u16, Progress>) {
        let progress = all.get(&self.socket).copied().unwrap_or(((0, 0), (false, true)));
        ((self.in_flight, self.withdrawn), (self.waiting, self.exact)) = progress;
        self.staged = 0;
        self.rings.tx.go_on();
        self.rings.completion.go_on();
    }
}
