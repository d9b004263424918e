//! AF_XDP sockets and their four rings.
//!
//! A ring has one producer and one consumer, one of which is the kernel. Entries are handed over by an index: the
//! producer writes entries and then stores its index (release); the consumer loads that index (acquire), reads, and
//! then stores its own (release), which the producer loads (acquire) before it writes to the same places again.
//! Indices run through all 32 bits and wrap.
//!
//! | ring | producer | entries |
//! |---|---|---|
//! | fill | we | chunks to receive into |
//! | rx | kernel | frames received, or parts of such |
//! | tx | we | frames to send, or parts of such |
//! | completion | kernel | chunks that were sent |

use super::sys;
use core::mem::{align_of, size_of};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use std::io;
use std::os::fd::OwnedFd;

/// An entry of the rx and tx rings: `struct xdp_desc`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Descriptor {
    /// Where in the UMEM the frame begins.
    pub(super) address: u64,
    /// Its bytes.
    pub(super) len: u32,
    /// Nothing, or [`Descriptor::GOES_ON`]; anything else makes the kernel skip the descriptor.
    pub(super) options: u32,
}

impl Descriptor {
    /// The next descriptor belongs to the same frame: `XDP_PKT_CONTD`.
    pub(super) const GOES_ON: u32 = libc::XDP_PKT_CONTD;

    pub(super) fn goes_on(self) -> bool {
        self.options & Descriptor::GOES_ON != 0
    }
}

/// Any bytes are an entry.
trait Entry: Copy {}
impl Entry for u64 {}
impl Entry for Descriptor {}

/// What producers and consumers have in common.
struct Ring<T> {
    /// Keeps what the pointers point to.
    _map: sys::Mapping,
    producer: NonNull<u32>,
    consumer: NonNull<u32>,
    flags: NonNull<u32>,
    entries: NonNull<T>,
    /// Entries, a power of two.
    size: u32,
    /// The index that we advance.
    own: u32,
    /// The index that the kernel advances, as last looked at.
    seen: u32,
}

impl<T: Entry> Ring<T> {
    fn new(fd: &OwnedFd, page: libc::off_t, at: &libc::xdp_ring_offset, size: u32) -> io::Result<Ring<T>> {
        let len = at.desc as usize + size as usize * size_of::<T>();
        let map = sys::Mapping::at(fd, page, len)?;
        let place = |offset: u64, bytes: usize, align: usize| {
            let offset = offset as usize;
            // The kernel's word, checked all the same: everything else here rests on it.
            if offset + bytes > len || !offset.is_multiple_of(align) {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            // SAFETY: within the mapping, as just checked.
            NonNull::new(unsafe { map.as_ptr().add(offset) }).ok_or(io::ErrorKind::InvalidData.into())
        };
        let producer = place(at.producer, 4, 4)?.cast();
        let consumer = place(at.consumer, 4, 4)?.cast();
        let flags = place(at.flags, 4, 4)?.cast();
        let entries = place(at.desc, size as usize * size_of::<T>(), align_of::<T>())?.cast();
        Ok(Ring { _map: map, producer, consumer, flags, entries, size, own: 0, seen: 0 })
    }

    /// Both indices are what the ring says: another process has had it until now.
    fn go_on(&mut self, own: NonNull<u32>, seen: NonNull<u32>) {
        self.own = self.word(own).load(Ordering::Acquire);
        self.seen = self.word(seen).load(Ordering::Acquire);
    }

    fn word(&self, at: NonNull<u32>) -> &AtomicU32 {
        // SAFETY: aligned and within the mapping (`new`), which lives as long as `self`. Kernel and program both
        // access it as one aligned 32-bit word.
        unsafe { AtomicU32::from_ptr(at.as_ptr()) }
    }

    fn entry(&self, index: u32) -> NonNull<T> {
        // SAFETY: the masked index is below `size`, and `new` has checked that so many entries lie in the mapping.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }

    fn needs_wakeup(&self) -> bool {
        self.word(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring that we fill and the kernel empties.
pub(super) struct Producer<T>(Ring<T>);

#[allow(private_bounds)]
impl<T: Entry> Producer<T> {
    /// Another process has had it until now.
    pub(super) fn go_on(&mut self) {
        self.0.go_on(self.0.producer, self.0.consumer);
    }

    /// Entries that can be put now.
    pub(super) fn room(&mut self) -> u32 {
        self.0.seen = self.0.word(self.0.consumer).load(Ordering::Acquire);
        self.0.size - self.0.own.wrapping_sub(self.0.seen)
    }

    /// Puts one entry; the kernel sees it at the next [`Producer::publish`]. False when the ring is full.
    pub(super) fn put(&mut self, value: T) -> bool {
        if self.0.own.wrapping_sub(self.0.seen) >= self.0.size && self.room() == 0 {
            return false;
        }
        // SAFETY: within the ring. The kernel has consumed what was there before (acquire in `room`), and looks here
        // again only after `publish`.
        unsafe { self.0.entry(self.0.own).write(value) };
        self.0.own = self.0.own.wrapping_add(1);
        true
    }

    /// Takes the last entries back, which were not published yet.
    pub(super) fn forget(&mut self, entries: u32) {
        self.0.own = self.0.own.wrapping_sub(entries);
    }

    /// Shows the kernel everything that was put.
    pub(super) fn publish(&mut self) {
        self.0.word(self.0.producer).store(self.0.own, Ordering::Release);
    }

    /// Entries that the kernel has not consumed.
    pub(super) fn unread(&mut self) -> u32 {
        self.0.size - self.room()
    }

    /// The kernel waits to be told of new entries.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.0.needs_wakeup()
    }

    /// The entry that was put `back` entries before the next one: 1 is the last.
    pub(super) fn recent(&self, back: u32) -> T {
        // SAFETY: within the ring, and any bytes are an entry. The kernel only reads here.
        unsafe { self.0.entry(self.0.own.wrapping_sub(back)).read() }
    }

    /// Writes over an entry that was put and published.
    ///
    /// # Safety
    /// The kernel must not be reading the ring: for a tx ring in copy mode it does so only within system calls on
    /// this socket.
    pub(super) unsafe fn replace_recent(&mut self, back: u32, value: T) {
        // SAFETY: within the ring; the caller has seen to the rest.
        unsafe { self.0.entry(self.0.own.wrapping_sub(back)).write(value) };
    }
}

/// A ring that the kernel fills and we empty.
pub(super) struct Consumer<T>(Ring<T>);

#[allow(private_bounds)]
impl<T: Entry> Consumer<T> {
    /// Another process has had it until now.
    pub(super) fn go_on(&mut self) {
        self.0.go_on(self.0.consumer, self.0.producer);
        // What was seen is looked at anew.
        self.0.seen = self.0.own;
    }

    /// Takes one entry, if one is there. The kernel may use its place again after [`Consumer::done`].
    pub(super) fn take(&mut self) -> Option<T> {
        if self.0.own == self.0.seen {
            self.0.seen = self.0.word(self.0.producer).load(Ordering::Acquire);
            if self.0.own == self.0.seen {
                return None;
            }
        }
        // SAFETY: within the ring, and any bytes are an entry. The kernel has published it (acquire) and does not
        // write there again before `done`.
        let value = unsafe { self.0.entry(self.0.own).read() };
        self.0.own = self.0.own.wrapping_add(1);
        Some(value)
    }

    /// Gives the places of everything taken back to the kernel.
    pub(super) fn done(&mut self) {
        self.0.word(self.0.consumer).store(self.0.own, Ordering::Release);
    }
}

/// The receiving rings of a socket.
pub(super) struct Receiving {
    /// Chunks to receive into.
    pub(super) fill: Producer<u64>,
    /// Frames received.
    pub(super) rx: Consumer<Descriptor>,
}

/// The transmitting rings of a socket.
pub(super) struct Transmitting {
    /// Frames to send.
    pub(super) tx: Producer<Descriptor>,
    /// Chunks that were sent.
    pub(super) completion: Consumer<u64>,
}

/// How large the rings of a socket are: entries, powers of two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) receive: u32,
    pub(super) transmit: u32,
}

/// A socket with its rings, not yet bound.
pub(super) struct Xsk {
    pub(super) fd: OwnedFd,
    pub(super) receiving: Receiving,
    pub(super) transmitting: Transmitting,
}

impl Xsk {
    /// A new socket. `umem` is told to the first of those that share it only.
    pub(super) fn new(umem: Option<libc::xdp_umem_reg>, sizes: Sizes) -> io::Result<Xsk> {
        let fd = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0)?;
        if let Some(umem) = umem {
            sys::set_option(&fd, libc::SOL_XDP, libc::XDP_UMEM_REG, umem)?;
        }
        let set = |option, size: u32| sys::set_option(&fd, libc::SOL_XDP, option, size as i32);
        set(libc::XDP_UMEM_FILL_RING, sizes.receive)?;
        set(libc::XDP_UMEM_COMPLETION_RING, sizes.transmit)?;
        set(libc::XDP_RX_RING, sizes.receive)?;
        set(libc::XDP_TX_RING, sizes.transmit)?;
        Xsk::over(fd, sizes)
    }

    /// The rings of a socket that another process has made, and passed; they are its own until it says where it stands.
    pub(super) fn over(fd: OwnedFd, sizes: Sizes) -> io::Result<Xsk> {
        let offsets: libc::xdp_mmap_offsets = sys::get_option(&fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
        let (fill, completion) = (libc::XDP_UMEM_PGOFF_FILL_RING, libc::XDP_UMEM_PGOFF_COMPLETION_RING);
        let receiving = Receiving {
            fill: Producer(Ring::new(&fd, fill as libc::off_t, &offsets.fr, sizes.receive)?),
            rx: Consumer(Ring::new(&fd, libc::XDP_PGOFF_RX_RING, &offsets.rx, sizes.receive)?),
        };
        let transmitting = Transmitting {
            tx: Producer(Ring::new(&fd, libc::XDP_PGOFF_TX_RING, &offsets.tx, sizes.transmit)?),
            completion: Consumer(Ring::new(&fd, completion as libc::off_t, &offsets.cr, sizes.transmit)?),
        };
        Ok(Xsk { fd, receiving, transmitting })
    }
}
