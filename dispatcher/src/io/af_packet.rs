//! Any Linux interface, through packet sockets: receive rings in memory shared with the kernel (TPACKET_V2), frames
//! sent by `sendmmsg(2)` straight from there.
//!
//! **Receiving.** A ring is places for one frame each, which the kernel fills in turn. A frame is ours as soon as it is there, is rewritten
//! where it lies, and its place goes back to the kernel when its slot has been released or sent. When all places are ours, the kernel
//! drops, and tells us how many (`rx-ring-full`). TPACKET_V3, whose blocks hold more of the smallest frames, shows a block when it is full
//! or a millisecond after its first frame (a tick of the kernel's before Linux 6.18): with five such waits in a connection's life, one connection at
//! a time took 5 ms.
//!
//! **Sending.** `sendmmsg` copies out of the receive ring into the kernel's own buffers; the slots are released when
//! it returns, so a frame is copied once on its way. A transmit ring would ask for a copy from ring to ring here, and
//! save none there: over virtual links the kernel copies a ring's pages when a frame is handed to another stack. Errors
//! of a ring concern all of it; here each belongs to a frame. From ring to the far socket over virtual pairs a frame
//! costs the forwarding core 1.2 to 1.3 us (`the_cost_of_a_frame` in the tests).
//!
//! **Large units.** Where the kernel tells what was left to cards (`PACKET_VNET_HDR`), and unless the port has `offload=off`, frames are
//! taken as segmentation offload makes them and as GRO merges them, up to 64 kB each with one header and no checksum, and given back so:
//! the engine translates one frame where it had 44, and two copies of the bytes are most of what is left. Such frames come by a socket and a ring of
//! their own, whose places hold 64 kB, for in the other ring they would take the room of so many small ones; filters of the two sockets divide
//! them by length. Of the two next frames the one that the kernel received first is taken first, and so no segment overtakes another of its flow.
//! Ports that cannot send such a frame get it cut (`offload`).
//!
//! **Merging.** Segments that were within other packets no GRO has seen, and each would take the kernel's whole way. Those that follow each other go as one large unit
//! (`merge`).
//!
//! **What the kernel's other side leaves undone** is done on receipt otherwise: a stripped VLAN tag is put back, a checksum that
//! was left to the card is completed, where it is not left to the next card. Super-frames of anything but TCP, or with `offload=off`, cannot be sent
//! on, and are dropped as `rx-oversized`.
//!
//! **A link that goes down** is counted, and what is sent meanwhile is lost as `tx-link-down`. The socket stays bound
//! and works again when the link does. A device that is removed takes its socket with it; when one of the same name is there
//! again, it is opened anew (`reopened`).

use super::link_watch::LinkWatch;
use super::{
    Burst, DeviceInfo, Divide, HEADROOM, Loss, MAX_LINK_HEADER, MAX_UNIT, OpenError, Port, Receiver, RegionId, Slot,
    Traffic, WaitFds, offload, sys, vnet,
};
use crate::wire::{Frame, Offload};
use core::cell::{Cell, RefCell};
use core::mem::{align_of, size_of};
use core::sync::atomic::{AtomicU32, Ordering};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use transmitter::PacketTransmitter;

mod transmitter;

/// Bytes of a receive ring.
const RING_BYTES: usize = 16 << 20;

/// Bytes of a piece of a ring that is contiguous in the kernel's memory too: for frames of the MTU, and for large units.
const BLOCK: usize = 256 * 1024;
const LARGE_BLOCK: usize = 1 << 20;

/// An interface to open.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// What the kernel says of it.
    pub info: DeviceInfo,
    /// Take and give large units, where the kernel does.
    pub offload: bool,
    /// Nothing arrives before [`Receiver::begin`].
    pub standby: bool,
}

/// Bytes of the receive rings of one worker's queues of these devices.
pub fn memory(devices: &[Device]) -> usize {
    devices.iter().map(|device| if device.offload { 2 * RING_BYTES } else { RING_BYTES }).sum()
}

/// Where a frame may begin in its place in the ring: behind the header, and the address that follows it.
const FRAME_HEADER: usize = libc::TPACKET2_HDRLEN;

/// Most bytes that the kernel leaves between there and an IP packet, [`HEADROOM`] aside: a link header, and what aligns it.
const FRAME_LEAD: usize = 48;

/// Bytes of the place for a frame of so many: whole cache lines, and an odd number of them, so that the beginnings of frames do not all
/// fall into the same few sets of the caches.
const fn place_for(frame: usize) -> usize {
    let lines = (FRAME_HEADER + FRAME_LEAD + HEADROOM + frame).div_ceil(64);
    (lines | 1) * 64
}

/// How the frames of one device are divided among the sockets of several workers: a fanout group of the kernel's, by its hash of
/// the flow. Each direction of a connection stays with one socket; the two directions need not meet.
#[derive(Debug, Default)]
pub struct Fanout {
    /// The device's number and the group's, once there is one. The first socket makes the group, with a number that nobody has; and
    /// another one when the device was made anew. Locked at these times only.
    group: Mutex<Option<(u32, i32)>>,
    /// Those for large units have a group of their own. Who is which in one group is the same in the other, and so a flow is one worker's.
    large: Mutex<Option<(u32, i32)>>,
}

impl Fanout {
    /// Puts a socket that is bound to the device of this number into the group of its kind.
    fn join(&self, fd: &OwnedFd, device: u32, kind: Kind) -> io::Result<()> {
        let group = if kind == Kind::Large { &self.large } else { &self.group };
        let mut group = group.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, number)) = group.filter(|(of, _)| *of == device) {
            let argument = number | (libc::PACKET_FANOUT_HASH << 16) as i32;
            return sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_FANOUT, argument);
        }
        let argument = (libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_UNIQUEID) << 16;
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_FANOUT, argument as i32)?;
        let made = sys::get_option::<i32>(fd, libc::SOL_PACKET, libc::PACKET_FANOUT)?;
        *group = Some((device, made & 0xffff));
        Ok(())
    }
}

/// What a ring is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// All frames, as wires carry them.
    All,
    /// Those of the MTU, and below.
    Small,
    /// All others.
    Large,
}

/// Opens one queue on each of `devices`, for a single worker. They share one region.
pub fn open(devices: &[Device]) -> Result<Vec<Port>, OpenError> {
    open_shared(devices, &[])
}

/// Opens one queue on each of `devices`, for one of several workers, which share each device's frames by `fanouts`, in the order
/// of the devices. Without any the queue gets all frames. One worker after the other.
pub fn open_shared(devices: &[Device], fanouts: &[Arc<Fanout>]) -> Result<Vec<Port>, OpenError> {
    let mut rings = Vec::with_capacity(2 * devices.len());
    let mut of_devices = Vec::with_capacity(devices.len());
    for (index, Device { name, info, offload, standby }) in devices.iter().enumerate() {
        if index == MAX_PORTS {
            return Err(OpenError(format!("at most {MAX_PORTS} af-packet ports a worker")));
        }
        let mut add = |kind| {
            let ring = Ring::open_in(info, kind, *standby).map_err(|e| match e.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => OpenError(format!(
                    "af-packet:{name}: not permitted: needs CAP_NET_RAW and CAP_NET_ADMIN (run as root, or: setcap \
                     cap_net_raw,cap_net_admin+ep on the program)"
                )),
                Some(libc::ENOMEM) => OpenError(format!("af-packet:{name}: no memory for a ring of {RING_MIB} MiB")),
                _ => OpenError(format!("af-packet:{name}: {e}")),
            })?;
            if let Some(fanout) = fanouts.get(index) {
                fanout.join(&ring.fd, info.index, kind).map_err(|e| {
                    OpenError(format!("af-packet:{name}: frames cannot be divided among workers (PACKET_FANOUT): {e}"))
                })?;
            }
            rings.push(ring);
            Ok(rings.len() - 1)
        };
        let of_device = match offload {
            true => (add(Kind::Small)?, Some(add(Kind::Large)?)),
            false => (add(Kind::All)?, None),
        };
        of_devices.push(of_device);
    }
    let region = Rc::new(Region { id: RegionId::unique(), rings: rings.into() });
    devices
        .iter()
        .enumerate()
        .map(|(index, Device { name, info, .. })| {
            let failed = |e: io::Error| OpenError(format!("af-packet:{name}: {e}"));
            let (ring, large) = of_devices[index];
            let rx = PacketReceiver {
                region: region.clone(),
                main: Cursor { ring, next: 0 },
                large: large.map(|ring| Cursor { ring, next: 0 }),
                max_frame: max_frame(info),
                name: name.clone(),
                mtu: info.mtu,
                fanout: fanouts.get(index).cloned(),
                link: LinkWatch::new(name, info.index).map_err(failed)?,
                divide: Divide::No,
                traffic: Traffic::default(),
            };
            let tx = PacketTransmitter::new(region.clone(), ring, large.is_some(), info, name).map_err(failed)?;
            let rings = match large {
                Some(_) => format!("rings of {RING_MIB} MiB, and {RING_MIB} for large units"),
                None => format!("ring of {RING_MIB} MiB"),
            };
            let shared = if fanouts.is_empty() { "" } else { ", one of each worker, by flow hash" };
            Ok(Port {
                description: format!("af-packet, TPACKET_V2 {rings}{shared}"),
                rx: Box::new(rx),
                tx: Box::new(tx),
            })
        })
        .collect()
}

/// Longest frame of a wire, bytes.
fn max_frame(info: &DeviceInfo) -> usize {
    usize::from(info.mtu) + MAX_LINK_HEADER
}

const RING_MIB: usize = RING_BYTES >> 20;
const MAX_PORTS: usize = 16;

/// The receive rings of all ports of one worker: where its slots lie.
///
/// A slot's token is ring (upper 32 bits) and place (lower 32 bits).
struct Region {
    id: RegionId,
    rings: Box<[Ring]>,
}

/// One packet socket and its receive ring.
struct Ring {
    // Dropped in this order: the mapping needs the socket no more than the socket the mapping.
    map: RefCell<sys::Mapping>,
    /// Where it begins, and its bytes: of `map`, at hand.
    base: Cell<*mut u8>,
    len: usize,
    fd: OwnedFd,
    kind: Kind,
    layout: Layout,
    /// By place: there is a slot for it. The mark that the kernel reads says the same, and that is the kernel's memory.
    out: Box<[Cell<bool>]>,
    /// How many are.
    outstanding: Cell<u32>,
}

/// Where the places of a ring are: as many as go into a block, for none crosses the end of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Layout {
    place: usize,
    block: usize,
    blocks: usize,
}

impl Layout {
    fn places(&self) -> usize {
        self.block / self.place * self.blocks
    }

    /// Where a place begins.
    fn offset(&self, place: usize) -> usize {
        let in_block = self.block / self.place;
        place / in_block * self.block + place % in_block * self.place
    }
}

impl Ring {
    fn open(info: &DeviceInfo, kind: Kind) -> io::Result<Ring> {
        Ring::open_in(info, kind, false)
    }

    fn open_in(info: &DeviceInfo, kind: Kind, standby: bool) -> io::Result<Ring> {
        let max_frame = max_frame(info);
        let (longest, block) = if kind == Kind::Large { (MAX_UNIT, LARGE_BLOCK) } else { (max_frame, BLOCK) };
        let layout = Layout { place: place_for(longest), block, blocks: RING_BYTES / block };
        // Protocol 0: nothing arrives before the socket is bound.
        let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)?;
        let option = |name, value: i32| sys::set_option(&fd, libc::SOL_PACKET, name, value);
        option(libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as i32)?;
        option(libc::PACKET_RESERVE, HEADROOM as i32)?;
        if kind != Kind::All {
            option(libc::PACKET_VNET_HDR, 1)?;
        }
        if standby {
            sys::attach_filter(&fd, &nothing())?;
        } else if kind != Kind::All {
            sys::attach_filter(&fd, &by_length(max_frame as u32, kind == Kind::Large))?;
        }
        let request = libc::tpacket_req {
            tp_block_size: block as u32,
            tp_block_nr: layout.blocks as u32,
            tp_frame_size: layout.place as u32,
            tp_frame_nr: layout.places() as u32,
        };
        sys::set_option(&fd, libc::SOL_PACKET, libc::PACKET_RX_RING, request)?;
        let map = sys::Mapping::new(&fd, block * layout.blocks)?;
        // Kernels before 4.20 do not know it; `PACKET_OUTGOING` is looked at as well.
        let _ = option(libc::PACKET_IGNORE_OUTGOING, 1);
        if kind == Kind::All {
            // No queueing discipline between us and the device: less work, and a full device says so. Large units need what comes with one: without
            // it the kernel drops those that the device cannot cut itself.
            let _ = option(libc::PACKET_QDISC_BYPASS, 1);
        }
        // As large as allowed: what it bounds are frames in flight in the device's queue.
        let send_buffer = 8 << 20;
        if sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, send_buffer).is_err() {
            let _ = sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF, send_buffer);
        }
        // VIPs answer on our MAC address, but a port may stand in for several: let the engine decide what is ours.
        let membership = libc::packet_mreq {
            mr_ifindex: info.index as i32,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        sys::set_option(&fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, membership)?;
        sys::bind_packet(&fd, info.index)?;
        let (base, len) = (Cell::new(map.as_ptr()), map.len());
        let out = (0..layout.places()).map(|_| Cell::new(false)).collect();
        Ok(Ring { map: RefCell::new(map), base, len, fd, kind, layout, out, outstanding: Cell::new(0) })
    }

    /// Frames arrive from now on.
    fn begin(&self, max_frame: usize) {
        // A filter that lets pass all is as good as none, and replaces the one before without a gap.
        let filter = match self.kind {
            Kind::All => by_length(0, true),
            kind => by_length(max_frame as u32, kind == Kind::Large),
        };
        // It was taken when it said something else: a kernel that is out of memory is all that could be in the way, and tells `rx` of nothing.
        let _ = sys::attach_filter(&self.fd, &filter);
    }

    /// Goes on as another ring of the same size, whose device is there. The descriptor keeps its number.
    ///
    /// # Panics
    /// When a slot of this ring is out: its memory is unmapped here.
    fn become_like(&self, other: Ring) -> io::Result<()> {
        assert!(self.is_idle() && self.layout == other.layout);
        sys::replace(&self.fd, &other.fd)?;
        self.base.set(other.base.get());
        self.map.swap(&other.map);
        Ok(())
    }

    /// No slot of it is out.
    fn is_idle(&self) -> bool {
        self.outstanding.get() == 0
    }

    /// Reads, and so clears, the error that waits on the socket: the link went down. False when there is none.
    fn take_error(&self) -> bool {
        matches!(sys::get_option::<i32>(&self.fd, libc::SOL_SOCKET, libc::SO_ERROR), Ok(e) if e != 0)
    }

    /// Where a place begins: valid for `layout.place` bytes while `self` lives and does not [become another](Ring::become_like).
    fn place_ptr(&self, place: usize) -> *mut u8 {
        let offset = self.layout.offset(place);
        assert!(offset + self.layout.place <= self.len);
        // SAFETY: within the mapping, as just checked.
        unsafe { self.base.get().add(offset) }
    }

    /// The word by which a place changes hands.
    fn status(&self, place: usize) -> &AtomicU32 {
        const { assert!(align_of::<libc::tpacket2_hdr>() >= align_of::<AtomicU32>()) };
        let header = self.place_ptr(place).cast::<libc::tpacket2_hdr>();
        // SAFETY: blocks are page-aligned, places whole cache lines, and they begin with a header. Kernel and program both access this word
        // as one aligned 32-bit word, so an atomic is what it is; the reference lives no longer than the mapping.
        unsafe { AtomicU32::from_ptr(&raw mut (*header).tp_status) }
    }

    /// What the kernel says of the frame at a place, if one is there that we have not taken yet.
    fn arrived(&self, place: usize) -> Option<Arrival> {
        // One that we have taken and not given back still bears the mark that makes it ours. Acquire: the kernel's writes to the place come
        // before this.
        if self.out[place].get() || self.status(place).load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        let header = self.place_ptr(place);
        // SAFETY: header and address lie within the place, which is ours: the kernel does not write. Read unaligned, so that nothing is asked of
        // where the address lies.
        unsafe {
            let address = header.add(size_of::<libc::tpacket2_hdr>()).cast::<libc::sockaddr_ll>();
            let header = header.cast::<libc::tpacket2_hdr>().read_unaligned();
            Some(Arrival { header, address: address.read_unaligned() })
        }
    }

    /// What is left to whoever sends the frame at a place that is ours, which begins `mac` bytes behind it.
    fn left(&self, place: usize, mac: usize) -> vnet::Said {
        let at = mac.saturating_sub(vnet::LEN);
        if self.kind == Kind::All || at < FRAME_HEADER || mac > self.layout.place {
            return vnet::Said::Left(Offload::NONE);
        }
        // SAFETY: within the place (just checked), which is ours, so the kernel does not write.
        let header = unsafe { self.place_ptr(place).add(at).cast::<[u8; vnet::LEN]>().read() };
        vnet::read(&header)
    }

    /// A slot for the frame at a place that is ours: its bytes from `head` on, behind [`FRAME_HEADER`]. None when that cannot be.
    fn take(&self, region: RegionId, ring: usize, place: usize, head: usize, len: usize) -> Option<Slot> {
        let capacity = self.layout.place - FRAME_HEADER;
        if head + len > capacity || self.out[place].replace(true) {
            return None;
        }
        self.outstanding.set(self.outstanding.get() + 1);
        let token = (ring as u64) << 32 | place as u64;
        // SAFETY: `out` says that there was no slot for this place; the kernel has given it to us, and writes there again when we have given it
        // back, which `release` of this slot does. Places do not overlap.
        Some(unsafe { Slot::new(region, token, capacity, head, len) })
    }

    /// Gives a place back to the kernel.
    fn give_back(&self, place: usize) {
        if self.out[place].replace(false) {
            self.outstanding.set(self.outstanding.get() - 1);
        }
        // Release: everything done to the frame comes before the kernel's next writes.
        self.status(place).store(libc::TP_STATUS_KERNEL, Ordering::Release);
    }
}

impl Region {
    fn place(&self, slot: &Slot) -> (&Ring, usize) {
        assert_eq!(slot.region, self.id, "slot of another region");
        (&self.rings[(slot.token >> 32) as usize], slot.token as u32 as usize)
    }

    fn frame<'a>(&'a self, slot: &'a mut Slot) -> Frame<'a> {
        let (ring, place) = self.place(slot);
        // SAFETY: from there to the end of the place are the bytes of the slot's buffer (`Ring::take`). The mapping lives as long as `self` is
        // borrowed, and is not exchanged while a slot is out. The place is ours while its slot is out, so the kernel does not write; the slot is
        // unique and mutably borrowed, so nobody else reads or writes.
        let bytes =
            unsafe { core::slice::from_raw_parts_mut(ring.place_ptr(place).add(FRAME_HEADER), slot.capacity as usize) };
        Frame::new(bytes, slot.head as usize, slot.len as usize).with(slot.offload)
    }

    fn release(&self, slot: Slot) {
        let (ring, place) = self.place(&slot);
        ring.give_back(place);
    }
}

/// A filter that lets pass nothing.
fn nothing() -> [libc::sock_filter; 1] {
    [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }]
}

/// A filter that lets pass what is no longer than `most` bytes; or, for `larger`, what is.
fn by_length(most: u32, larger: bool) -> [libc::sock_filter; 4] {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let (short, long) = if larger { (0, u32::MAX) } else { (u32::MAX, 0) };
    [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 1, 0, most),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, short),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, long),
    ]
}

/// Where we are in a ring.
#[derive(Clone, Copy)]
struct Cursor {
    ring: usize,
    /// The place where the next frame will be.
    next: usize,
}

/// A frame that has arrived.
struct Arrival {
    header: libc::tpacket2_hdr,
    address: libc::sockaddr_ll,
}

impl Arrival {
    /// When the kernel received it, nanoseconds of the wall clock.
    fn at(&self) -> u64 {
        u64::from(self.header.tp_sec) * 1_000_000_000 + u64::from(self.header.tp_nsec)
    }

    /// Received by the kernel before the other. Of two at once the large one: what is left over of a stream follows it.
    fn is_before(&self, large: &Arrival) -> bool {
        let when = |a: &Arrival| (a.header.tp_sec, a.header.tp_nsec);
        when(self) < when(large)
    }
}

struct PacketReceiver {
    region: Rc<Region>,
    main: Cursor,
    /// Large units are in a ring of their own.
    large: Option<Cursor>,
    /// Longest frame of a wire, bytes.
    max_frame: usize,
    name: String,
    mtu: u16,
    /// With several workers.
    fanout: Option<Arc<Fanout>>,
    link: LinkWatch,
    divide: Divide,
    traffic: Traffic,
}

impl PacketReceiver {
    /// Its rings.
    fn rings(&self) -> impl Iterator<Item = &Ring> {
        [Some(self.main), self.large].into_iter().flatten().map(|cursor| &self.region.rings[cursor.ring])
    }

    /// Takes up a device that was removed, and is there again under its name: the sockets that have lost their device are of no use any
    /// more. False while that cannot be.
    fn take_up_again(&mut self) -> bool {
        let Ok(info) = super::device_info(&self.name) else { return false };
        if info.mtu < self.mtu || !info.up || !self.rings().all(Ring::is_idle) {
            return false;
        }
        // Their places were made for the MTU of the beginning.
        let as_before = DeviceInfo { mtu: self.mtu, ..info };
        let anew = || {
            let mut others = Vec::with_capacity(2);
            for ring in self.rings() {
                let other = Ring::open(&as_before, ring.kind)?;
                if let Some(fanout) = &self.fanout {
                    fanout.join(&other.fd, as_before.index, ring.kind)?;
                }
                others.push(other);
            }
            let link = LinkWatch::new(&self.name, as_before.index)?;
            self.rings().zip(others).try_for_each(|(ring, other)| ring.become_like(other))?;
            Ok::<_, io::Error>(link)
        };
        let Ok(link) = anew() else { return false };
        self.link = link;
        self.main.next = 0;
        self.large.iter_mut().for_each(|cursor| cursor.next = 0);
        true
    }

    /// The next frame that has arrived, of either ring, and where it lies. Its place is passed.
    fn next(&mut self) -> Option<(Arrival, Cursor)> {
        let arrived = |cursor: Cursor| self.region.rings[cursor.ring].arrived(cursor.next);
        let main = arrived(self.main);
        let large = self.large.and_then(|cursor| Some((arrived(cursor)?, cursor)));
        let (arrival, at) = match large {
            None => (main?, self.main),
            Some((large, at)) => {
                // One that came before it may be there since we looked.
                match main.or_else(|| arrived(self.main)).filter(|main| main.is_before(&large)) {
                    Some(main) => (main, self.main),
                    None => (large, at),
                }
            }
        };
        if matches!(self.divide, Divide::Before(time) if arrival.at() >= time) {
            return None;
        }
        let next = at.next + 1;
        let passed = Cursor { next: if next == self.region.rings[at.ring].out.len() { 0 } else { next }, ..at };
        if at.ring == self.main.ring {
            self.main = passed
        } else {
            self.large = Some(passed)
        }
        Some((arrival, at))
    }

    /// A frame that has arrived, made ready. None when it is dropped: its place is to be given back then.
    fn ready(&mut self, arrival: &Arrival, at: Cursor) -> Option<Slot> {
        let Arrival { header, address } = arrival;
        let region = &self.region;
        let ring = &region.rings[at.ring];
        let len = header.tp_snaplen as usize;
        if address.sll_pkttype == libc::PACKET_OUTGOING {
            return None;
        }
        if matches!(self.divide, Divide::From(time) if arrival.at() < time) {
            return None;
        }
        let said = ring.left(at.next, header.tp_mac.into());
        let is_large = matches!(said, vnet::Said::Left(offload) if offload.segment() > 0);
        let longest = if is_large { MAX_UNIT } else { self.max_frame };
        if header.tp_len as usize > longest || said == vnet::Said::Unknown {
            self.traffic.lost(Loss::RxOversized, 1);
            return None;
        }
        let head = usize::from(header.tp_mac).checked_sub(FRAME_HEADER);
        let whole = head.filter(|_| header.tp_snaplen == header.tp_len);
        let slot = whole.and_then(|head| ring.take(region.id, at.ring, at.next, head, len));
        let Some(mut slot) = slot else {
            self.traffic.lost(Loss::RxTruncated, 1);
            return None;
        };
        let mut frame = region.frame(&mut slot);
        let mut left = Offload::NONE;
        match said {
            vnet::Said::Left(offload) if offload != Offload::NONE => left = offload,
            _ if header.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0 => {
                // What is neither TCP nor UDP is left as it is: nobody here forwards it.
                offload::complete_checksum(frame.bytes_mut());
            }
            _ => {}
        }
        if header.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
            let known = header.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
            let tpid = if known { header.tp_vlan_tpid } else { libc::ETH_P_8021Q as u16 };
            if !offload::push_vlan(&mut frame, tpid, header.tp_vlan_tci) {
                self.traffic.lost(Loss::RxTruncated, 1);
                return None;
            }
        }
        let (head, len) = (frame.head(), frame.len());
        slot.reframe(head, len);
        slot.set_offload(left);
        self.traffic.passed(len);
        Some(slot)
    }
}

impl Receiver for PacketReceiver {
    fn receive(&mut self, burst: &mut Burst) {
        while !burst.is_full() {
            let Some((arrival, at)) = self.next() else { return };
            match self.ready(&arrival, at) {
                Some(slot) => burst.push(slot),
                None => self.region.rings[at.ring].give_back(at.next),
            }
        }
    }

    fn frame<'a>(&'a mut self, slot: &'a mut Slot) -> Frame<'a> {
        self.region.frame(slot)
    }

    fn release(&mut self, slot: Slot) {
        self.region.release(slot);
    }

    fn wait_fds(&self) -> WaitFds {
        self.rings().map(|ring| ring.fd.as_raw_fd()).collect()
    }

    fn begin(&mut self) {
        self.rings().for_each(|ring| ring.begin(self.max_frame));
    }

    fn divide(&mut self, by: Divide) {
        self.divide = by;
    }

    fn device_event(&mut self) {
        // Netlink says it better; but what is not read keeps being told.
        self.rings().for_each(|ring| _ = ring.take_error());
        self.traffic.link_downs += self.link.downs();
        if self.link.is_gone() && self.take_up_again() {
            self.traffic.reopened += 1;
        }
    }

    fn traffic(&mut self) -> Traffic {
        // The kernel starts again from zero each time it is asked.
        let stats = |ring: &Ring| {
            sys::get_option::<libc::tpacket_stats>(&ring.fd, libc::SOL_PACKET, libc::PACKET_STATISTICS).ok()
        };
        let drops = self.rings().filter_map(stats).map(|stats| u64::from(stats.tp_drops)).sum();
        self.traffic.lost(Loss::RxRingFull, drops);
        self.device_event();
        self.traffic
    }
}
