//! Frames in, frames out: one narrow interface, one file per driver.
//!
//! A port's queue pair has two halves, because a frame that lies in the receiving half is worked on while the
//! transmitting halves of all ports stand ready: [`Receiver`] and [`Transmitter`]. Both deal in [`Slot`]s.
//!
//! **Ownership.** A buffer is either the kernel's (or the NIC's) or ours. Ours is it exactly while a [`Slot`] for it
//! exists: a slot cannot be copied, comes from [`Receiver::receive`], and goes back by [`Receiver::release`] or
//! [`Transmitter::transmit`]. A slot that is dropped instead is a buffer lost until the port closes; `#[must_use]` and
//! the tests' accounts guard against that.
//!
//! **Memory.** Every slot lies in a [`RegionId`]: the memory of one driver in one worker (one UMEM, one set of receive
//! rings, one mempool), shared by all ports of that driver. A transmitter [takes](Transmitter::takes) slots of the
//! regions it can send from without a copy. For all others there is [`Transmitter::transmit_copy`]; [`send`] decides.
//!
//! **Bursts.** At most [`BURST`] slots at a time; no call here allocates once the ports are open, and none blocks.
//!
//! Nothing above this module sees a driver's types. Drivers: [`mem`], [`pcap`], [`af_packet`], [`af_xdp`], and `dpdk` behind
//! the cargo feature of that name. Wrappers around any of them: [`tee`], [`fault`].

pub mod af_packet;
pub mod af_xdp;
pub mod arena;
mod bpf;
pub mod cards;
pub mod doorbell;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod fault;
pub mod kernel;
pub mod lasting;
mod link_watch;
pub mod mem;
mod merge;
mod offload;
pub mod pass;
pub mod pcap;
mod prefetch;
mod sys;
pub mod tee;
mod umem;
mod vnet;
mod xdp_program;
mod xsk;

use crate::pack::{Unreadable, packed_counts};
use crate::wire::{Frame, Offload};
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicU32, Ordering};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

pub use offload::finish;
pub use sys::{
    DeviceInfo, Urgency, allowed_cores, ask_for_large_pages, can_bind_to, device_info, end_process, go_behind_others,
    move_into_large_pages, pin_to_core, populate, wait_readable,
};
pub use umem::Census;

/// Most frames taken from or given to a queue at once.
pub const BURST: usize = 64;

/// Room kept in front of a received frame, bytes: enough to push two VLAN tags and a tunnel's headers.
pub const HEADROOM: usize = 96;

const _: () = assert!(HEADROOM >= crate::path::tunnel::MAX_OVERHEAD + 8);

/// Most bytes of link header: Ethernet and two VLAN tags.
pub const MAX_LINK_HEADER: usize = 14 + 8;

/// Names a piece of memory that slots lie in. Never the same for two pieces in the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionId(u32);

impl RegionId {
    /// A new name.
    fn unique() -> RegionId {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Relaxed: only that the numbers differ matters.
        RegionId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A buffer that is ours, and where in it the frame lies. See the module's words on ownership.
#[must_use = "a slot that is dropped is a buffer lost: release or transmit it"]
#[derive(Debug)]
pub struct Slot {
    region: RegionId,
    /// Bytes of the buffer.
    capacity: u32,
    head: u32,
    len: u32,
    /// What is left to whoever sends it.
    offload: Offload,
    /// Where the buffer is; only its driver can read this.
    token: u64,
}

impl Slot {
    /// # Safety
    /// The `capacity` bytes that the region's driver finds by `token` are in no other slot, and are neither read nor
    /// written by anybody else, until this slot is given back to that driver.
    unsafe fn new(region: RegionId, token: u64, capacity: usize, head: usize, len: usize) -> Slot {
        assert!(head + len <= capacity && capacity <= u32::MAX as usize, "frame outside its buffer");
        Slot { region, capacity: capacity as u32, head: head as u32, len: len as u32, offload: Offload::NONE, token }
    }

    /// The memory it lies in.
    pub fn region(&self) -> RegionId {
        self.region
    }

    /// Bytes in the frame.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// An empty frame.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is left to whoever sends the frame.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Says what is left to whoever sends the frame, as its [`Frame`] said it.
    pub fn set_offload(&mut self, offload: Offload) {
        self.offload = offload;
    }

    /// Says where the frame lies now, after a [`Frame`] of this slot was pushed, pulled or cut.
    ///
    /// # Panics
    /// When it would lie outside the buffer.
    pub fn reframe(&mut self, head: usize, len: usize) {
        assert!(head + len <= self.capacity as usize, "frame outside its buffer");
        (self.head, self.len) = (head as u32, len as u32);
    }
}

/// Most bytes of a large unit: what an IP packet can have, behind a link header.
pub const MAX_UNIT: usize = 65_535 + MAX_LINK_HEADER;

/// What a receiver is waited on by.
pub type WaitFds = ArrayVec<RawFd, 2>;

/// Slots on their way from a receiver to its worker.
pub type Burst = ArrayVec<Slot, BURST>;

/// The receiving half of a port's queue.
pub trait Receiver {
    /// Takes frames that have arrived, up to the room left in `burst`. Never waits.
    fn receive(&mut self, burst: &mut Burst);

    /// The frame in a slot that this receiver gave.
    fn frame<'a>(&'a mut self, slot: &'a mut Slot) -> Frame<'a>;

    /// Gives a slot back that this receiver gave.
    fn release(&mut self, slot: Slot);

    /// The frame's bytes, only to be read: for who looks at all frames of a burst before the first one's turn.
    fn bytes<'a>(&'a mut self, slot: &'a mut Slot) -> &'a [u8] {
        self.frame(slot).into_bytes()
    }

    /// What becomes readable when frames arrive, each of them; none when there is nothing to wait on.
    fn wait_fds(&self) -> WaitFds {
        WaitFds::new()
    }

    /// The device said something while waited on (link down, for one): read it, count it.
    fn device_event(&mut self) {}

    /// Frames arrive from now on, where a port was opened in [standby](crate::worker::PortPlan::standby).
    fn begin(&mut self) {}

    /// Another process has the same device, and its frames are divided between the two by the time at which they arrived. Drivers that cannot tell take all, or as many as may have come by then.
    fn divide(&mut self, _by: Divide) {}

    /// What another process needs to go on with this queue, beside what was passed to it beforehand; nothing is received meanwhile.
    fn pack(&mut self) -> Vec<u8> {
        Vec::new()
    }

    /// Goes on with what another process has had, by what all of its workers [wrote](Receiver::pack) of this port. Before the transmitting half does.
    fn take_over(&mut self, _packed: &[&[u8]]) -> Result<(), Unreadable> {
        Ok(())
    }

    /// That process has it no more, for good.
    fn take_charge(&mut self) {}

    /// No frame will ever come again (the end of a capture).
    fn exhausted(&self) -> bool {
        false
    }

    /// Counts since the port was opened.
    fn traffic(&mut self) -> Traffic;
}

/// Which frames are taken, by the time at which they arrived: nanoseconds of the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Divide {
    /// All.
    #[default]
    No,
    /// Those from before; others stay where they are.
    Before(u64),
    /// Those from then on; others are dropped, uncounted.
    From(u64),
}

/// The transmitting half of a port's queue.
pub trait Transmitter {
    /// Whether [`Transmitter::transmit`] takes this slot.
    fn takes(&self, slot: &Slot) -> bool;

    /// Queues a slot's frame; its buffer goes back to its owner once it is sent. The slot comes back when the queue is
    /// full (counted here), or when it is not of a region that this transmitter takes.
    fn transmit(&mut self, slot: Slot) -> Result<(), Slot>;

    /// Queues a copy of `frame`. False when there is no room, or it is larger than the port can send; counted here.
    fn transmit_copy(&mut self, frame: &[u8]) -> bool;

    /// The same for a frame that is [unfinished](Offload::is_finished): most ports send it cut, with checksums made here. False when any part of
    /// it was lost.
    fn transmit_unfinished(&mut self, frame: &mut Frame<'_>) -> bool {
        offload::finish(frame, &mut |bytes| self.transmit_copy(bytes))
    }

    /// The same for a frame that is [alone](Offload::is_alone): a port may merge it with those that follow.
    fn transmit_alone(&mut self, frame: &[u8]) -> bool {
        self.transmit_copy(frame)
    }

    /// Hands all that is queued to the device. Call it at the end of every burst.
    fn flush(&mut self);

    /// See [`Receiver::pack`].
    fn pack(&mut self) -> Vec<u8> {
        Vec::new()
    }

    /// See [`Receiver::take_over`].
    fn take_over(&mut self, _packed: &[&[u8]]) -> Result<(), Unreadable> {
        Ok(())
    }

    /// Counts since the port was opened.
    fn traffic(&mut self) -> Traffic;
}

/// Sends a frame out of `tx` that came in by `rx`: without a copy where both share memory, else with one. False when
/// it was lost; the transmitter has counted it.
#[inline]
pub fn send(rx: &mut dyn Receiver, tx: &mut dyn Transmitter, mut slot: Slot) -> bool {
    if tx.takes(&slot) {
        match tx.transmit(slot) {
            Ok(()) => true,
            Err(slot) => {
                rx.release(slot);
                false
            }
        }
    } else {
        let sent = send_copy(tx, &mut rx.frame(&mut slot));
        rx.release(slot);
        sent
    }
}

/// Sends a copy of a frame out of `tx`, finished as that port needs it. False when it, or part of it, was lost; the transmitter has counted it.
#[inline]
pub fn send_copy(tx: &mut dyn Transmitter, frame: &mut Frame<'_>) -> bool {
    match frame.offload() {
        offload if !offload.is_finished() => tx.transmit_unfinished(frame),
        offload if offload.is_alone() => tx.transmit_alone(frame.bytes()),
        _ => tx.transmit_copy(frame.bytes()),
    }
}

/// One queue pair of a port, open.
pub struct Port {
    /// What it is, for people.
    pub description: String,
    /// Frames in.
    pub rx: Box<dyn Receiver>,
    /// Frames out.
    pub tx: Box<dyn Transmitter>,
}

/// Which frames are the dispatcher's: told to drivers that share their device with the kernel, and leave it the rest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// The ports' own addresses. ARP and NDP for them; ICMP and TCP to them, any port.
    pub addresses: Vec<IpAddr>,
    /// The VIPs. ARP and NDP for their addresses; ICMP to these; TCP to these ports of theirs.
    pub services: Vec<SocketAddr>,
    /// The servers. Looked at where `dnat` is set only.
    pub backends: Vec<SocketAddr>,
    /// Where tunnels end: IP in IP (port 0), or UDP to this port, from these addresses to the ports' own.
    pub tunnels: Vec<SocketAddr>,
    /// Servers answer to the clients' addresses: what comes from the servers' addresses and ports is ours too.
    pub dnat: bool,
}

/// Why a port could not be opened: one clear line, that says what to do where something can be done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

/// Declares [`Loss`] with its names, so that the list stands in one place.
macro_rules! losses {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// How a driver can lose a frame. The names stand beside the engine's drop reasons in every report.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Loss { $($(#[$doc])* $variant,)* }

        impl Loss {
            /// All of them, in order of their counters.
            pub const ALL: &'static [Loss] = &[$(Loss::$variant,)*];

            /// The operators' name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Loss::$variant => $name,)* }
            }
        }
    };
}

losses! {
    /// Frames came faster than the ring was emptied.
    RxRingFull = "rx-ring-full",
    /// Longer than the port's MTU allows: a super-frame of an offload (GRO, LRO, a neighbour's TSO) that the port does not take.
    RxOversized = "rx-oversized",
    /// Cut off by the capture or the ring.
    RxTruncated = "rx-truncated",
    /// Recorded on a link that is not Ethernet.
    RxNotEthernet = "rx-not-ethernet",
    /// The card says that a checksum is wrong, and it is.
    RxBadChecksum = "rx-bad-checksum",
    /// The transmit queue was full.
    TxQueueFull = "tx-queue-full",
    /// The link is down, or the device is gone.
    TxLinkDown = "tx-link-down",
    /// The device refused the frame (larger than its MTU, for one).
    TxRefused = "tx-refused",
    /// Passed, but not recorded.
    TeeNotWritten = "tee-not-written",
    /// Lost on purpose.
    Injected = "fault-injected",
}

/// Counts of one half of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Frames that passed; a large unit is one.
    pub frames: u64,
    /// Their bytes, Ethernet header included.
    pub bytes: u64,
    /// Frames lost, by [`Loss`].
    pub losses: [u64; Loss::ALL.len()],
    /// How often the link was seen going down.
    pub link_downs: u64,
    /// How often a device that had been removed was taken up again.
    pub reopened: u64,
}

packed_counts!(Traffic { frames, bytes, losses, link_downs, reopened });

impl Traffic {
    fn passed(&mut self, len: usize) {
        self.frames += 1;
        self.bytes += len as u64;
    }

    /// Frames that were counted as passed, of so many bytes, were not. Some may have been taken back before: never below zero.
    fn not_passed(&mut self, frames: u64, bytes: u64) {
        self.frames = self.frames.saturating_sub(frames);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn lost(&mut self, why: Loss, frames: u64) {
        self.losses[why as usize] += frames;
    }

    /// Frames lost for one reason.
    pub fn lost_to(&self, why: Loss) -> u64 {
        self.losses[why as usize]
    }

    /// The sum of both.
    pub fn plus(mut self, other: &Traffic) -> Traffic {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.link_downs += other.link_downs;
        self.reopened += other.reopened;
        for (mine, theirs) in self.losses.iter_mut().zip(other.losses) {
            *mine += theirs;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a device drops late, or takes with it when it is removed, may have been taken back already.
    #[test]
    fn what_is_taken_back_twice_leaves_the_counts_at_zero() {
        let mut traffic = Traffic::default();
        traffic.passed(60);
        traffic.not_passed(1, 0);
        traffic.not_passed(1, 60);
        traffic.not_passed(2, 60);
        assert_eq!((traffic.frames, traffic.bytes), (0, 0));
    }
}
