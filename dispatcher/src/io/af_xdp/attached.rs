//! What the workers of a process have in common at one device: the program, what it takes, and what else makes frames for our addresses
//! come to it.
//!
//! What is taken can change while the workers run, from any other thread: the program stays, its maps are written entry by entry, so there
//! is no moment at which a frame that was taken before and after goes to the kernel. No worker waits for it.

use super::announcements::{Announcements, Families};
use super::layout::has_long;
use super::passing::{Legacy, Memory, Place};
use super::{Device, Mode, patiently, refused};
use crate::io::bpf::{Hook, Map, Program};
use crate::io::xdp_program::{self, Entries, Maps};
use crate::io::{Filter, OpenError, sys};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// One device's part of what the workers share: the same for all of them. The program is attached by whoever comes first, until all of
/// them have let go.
#[derive(Debug, Default)]
pub struct Common {
    attached: Mutex<Weak<Attached>>,
    /// Of the first device: the regions of all, by number, for another process.
    memories: Mutex<BTreeMap<u32, Memory>>,
    /// What another process has passed to this one.
    legacy: Option<Legacy>,
}

impl Common {
    /// Goes on with what another process has had.
    pub fn inherited(place: Place, memories: BTreeMap<u32, Memory>) -> Common {
        Common { legacy: Some(Legacy::new(place, memories)), ..Common::default() }
    }

    /// For another process; none while no worker has the device open.
    pub fn lend(&self) -> io::Result<Option<Place>> {
        let Some(attached) = locked(&self.attached).upgrade() else { return Ok(None) };
        let one = |(socket, region): &(OwnedFd, u32)| Ok((socket.try_clone()?, *region));
        let sockets = locked(&attached.handed).values().map(one).collect::<io::Result<_>>()?;
        let link = locked(&attached.state).link.try_clone()?;
        let Attached { name, hook, frags, .. } = &*attached;
        Ok(Some(Place { name: name.clone(), hook: *hook, frags: *frags, link, sockets }))
    }

    /// Of the first device: all regions, for another process.
    pub fn lend_memories(&self) -> io::Result<BTreeMap<u32, Memory>> {
        locked(&self.memories).iter().map(|(number, memory)| Ok((*number, memory.try_clone()?))).collect()
    }

    /// See [`SharedDevices::take_charge`](crate::worker::SharedDevices::take_charge).
    pub fn take_charge(&self) {
        let attached = locked(&self.attached).upgrade();
        attached.iter().for_each(|attached| attached.take_charge());
    }

    pub(super) fn has_memory(&self, number: u32, memory: Memory) {
        locked(&self.memories).insert(number, memory);
    }

    pub(super) fn legacy(&self) -> Option<&Legacy> {
        self.legacy.as_ref()
    }

    /// Has exactly this taken from now on; nothing happens while no worker has the device open. What stays is taken without a gap.
    ///
    /// When it fails, more may be taken than was before, and nothing less.
    pub fn set_filter(&self, filter: &Filter) -> Result<(), OpenError> {
        fits(filter)?;
        // Not kept locked: workers that start or end need not wait for the kernel.
        let attached = locked(&self.attached).upgrade();
        attached.map_or(Ok(()), |attached| attached.set_filter(filter))
    }
}

/// Whether the maps have room for a filter; says which of them has not.
pub fn fits(filter: &Filter) -> Result<(), OpenError> {
    Entries::of(filter).fit().map_err(|why| OpenError(format!("af-xdp: {why}")))
}

/// What is behind these locks is whole after every single step.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Our program, attached to a device until this is dropped.
#[derive(Debug)]
pub(super) struct Attached {
    name: String,
    program: Program,
    sockets: Map,
    hook: Hook,
    /// The program is one that knows of fragments.
    frags: bool,
    maps: Maps,
    /// By queue: the sockets that were given, and of which region each is, for another process.
    handed: Mutex<BTreeMap<u16, (OwnedFd, u32)>>,
    /// The program is there; until then another process's is, at the same link.
    in_charge: AtomicBool,
    /// Locked at the start, when the filter changes, and when the device was made anew.
    state: Mutex<State>,
    /// Locked for moments only, for the first worker looks for them.
    announcements: Mutex<Announcements>,
}

/// What goes with the device, and with the filter.
#[derive(Debug)]
struct State {
    /// The device's number.
    index: u32,
    /// Keeps the program there.
    link: OwnedFd,
    groups: Groups,
    /// What is in the maps.
    entries: Entries,
}

impl Attached {
    /// The one that there is at this device, or a new one.
    pub(super) fn shared(device: &Device, filter: &Filter, common: &Common) -> Result<Arc<Attached>, OpenError> {
        let mut there = locked(&common.attached);
        if let Some(attached) = there.upgrade() {
            return Ok(attached);
        }
        let place = common.legacy().and_then(Legacy::take_place);
        let attached = Arc::new(Attached::new(device, filter, place)?);
        *there = Arc::downgrade(&attached);
        Ok(attached)
    }

    fn new(device: &Device, filter: &Filter, place: Option<Place>) -> Result<Attached, OpenError> {
        fits(filter)?;
        let told = |e: io::Error| refused(&device.name, "program", &e);
        let mut entries = Entries::default();
        let filled = Maps::new(filter.dnat).and_then(|maps| {
            maps.add(&Entries::of(filter), &mut entries)?;
            Ok(maps)
        });
        let maps = filled.map_err(|e| refused(&device.name, "filter map", &e))?;
        let sockets = xdp_program::sockets(device.info.queues.into()).map_err(told)?;
        let index = device.info.index;
        let load = |frags| xdp_program::load(&maps, &sockets, frags);
        let in_charge = AtomicBool::new(place.is_none());
        let (program, frags, hook, link) = match place {
            None => attach(device, load)?,
            Some(place) => (load(place.frags).map_err(told)?, place.frags, place.hook, place.link),
        };
        let failed = |e: io::Error| refused(&device.name, "socket", &e);
        let groups = Groups::join(index, multicast_groups(&entries)).map_err(failed)?;
        let announcements = Announcements::open(index, Families::of(&entries)).map_err(failed)?;
        let state = Mutex::new(State { index, link, groups, entries });
        let announcements = Mutex::new(announcements);
        let (name, handed) = (device.name.clone(), Mutex::default());
        Ok(Attached { name, program, sockets, hook, frags, maps, handed, in_charge, state, announcements })
    }

    pub(super) fn hook(&self) -> Hook {
        self.hook
    }

    /// Frames that come by this queue, and are taken, go to this socket, which is bound to this region.
    pub(super) fn give_socket(&self, queue: u16, region: u32, socket: &OwnedFd) -> io::Result<()> {
        self.sockets.set(&u32::from(queue).to_ne_bytes(), socket.as_raw_fd() as u32)?;
        locked(&self.handed).insert(queue, (socket.try_clone()?, region));
        Ok(())
    }

    /// Our program takes the place of that of a process that has gone, if one has. When that cannot be just now, that one goes on, with what it was told last.
    fn take_charge(&self) {
        if !self.in_charge.load(Ordering::Relaxed) {
            let replaced = self.program.replace(&locked(&self.state).link);
            self.in_charge.store(replaced.is_ok(), Ordering::Relaxed);
        }
    }

    /// The device has another number now: it was made anew.
    pub(super) fn follow(&self, index: u32) -> io::Result<()> {
        let mut state = locked(&self.state);
        if state.index != index {
            let link = self.program.attach(index, self.hook)?;
            let groups = Groups::join(index, multicast_groups(&state.entries))?;
            let announcements = Announcements::open(index, Families::of(&state.entries))?;
            self.in_charge.store(true, Ordering::Relaxed);
            (state.index, state.link, state.groups) = (index, link, groups);
            *locked(&self.announcements) = announcements;
        }
        Ok(())
    }

    fn set_filter(&self, filter: &Filter) -> Result<(), OpenError> {
        self.take_charge();
        let wanted = Entries::of(filter);
        let state = &mut *locked(&self.state);
        let map_error = |e: io::Error| refused(&self.name, "filter map", &e);
        // First what is new, so that a failure takes nothing away.
        self.maps.add(&wanted, &mut state.entries).map_err(map_error)?;
        self.listen(state, &wanted).or_else(|e| match e.raw_os_error() {
            // The device is away just now: it is done when it is made anew.
            Some(libc::ENODEV | libc::ENXIO) => Ok(()),
            _ => Err(refused(&self.name, "socket", &e)),
        })?;
        self.maps.keep(&wanted, &mut state.entries).map_err(map_error)
    }

    /// Hears what is said to, and of, these addresses.
    fn listen(&self, state: &mut State, wanted: &Entries) -> io::Result<()> {
        state.groups.set(state.index, &multicast_groups(wanted))?;
        let families = Families::of(wanted);
        if locked(&self.announcements).families() != families {
            // Opened before the lock is taken: that takes the kernel a while.
            let opened = Announcements::open(state.index, families)?;
            *locked(&self.announcements) = opened;
        }
        Ok(())
    }

    /// What neighbours have told all since the last time; nothing while somebody changes what is listened to.
    pub(super) fn take_announcements(&self, each: impl FnMut(&[u8])) {
        if let Ok(announcements) = self.announcements.try_lock() {
            announcements.take(each);
        }
    }
}

/// Loads the program and attaches it by the best hook that the device has and its mode allows. `load` is told whether it is to be
/// for frames in several buffers.
///
/// A driver whose buffers hold less than the device's MTU takes such a program only; all others are given the plain one, as ever, unless
/// there are frames that no chunk of ours holds.
fn attach(
    device: &Device,
    load: impl Fn(bool) -> io::Result<Program>,
) -> Result<(Program, bool, Hook, OwnedFd), OpenError> {
    let told = |e: io::Error| refused(&device.name, "program", &e);
    let long = has_long(device);
    let program = load(long).map_err(told)?;
    let index = device.info.index;
    let native = |program: &Program| patiently(|| program.attach(index, Hook::Native));
    if device.mode != Mode::Generic {
        match native(&program) {
            Ok(link) => return Ok((program, long, Hook::Native, link)),
            // Nothing that another hook would change.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EBUSY | libc::EEXIST)) => {
                return Err(told(e));
            }
            Err(e) => {
                if !long
                    && let Ok(program) = load(true)
                    && let Ok(link) = native(&program)
                {
                    return Ok((program, true, Hook::Native, link));
                }
                if matches!(device.mode, Mode::ZeroCopy | Mode::Copy) {
                    return Err(OpenError(format!(
                        "af-xdp:{}: its driver cannot run an XDP program (MTU {}: {e}): mode=generic, or leave mode= away",
                        device.name, device.info.mtu
                    )));
                }
            }
        }
    }
    let link = patiently(|| program.attach(index, Hook::Generic)).map_err(told)?;
    Ok((program, long, Hook::Generic, link))
}

/// The last three bytes of the addresses of multicast groups.
type GroupSet = BTreeSet<[u8; 3]>;

/// Multicast groups that the card lets through, for as long as the descriptor is open. The kernel, which does not have our addresses, has
/// not joined them.
#[derive(Debug)]
struct Groups {
    fd: OwnedFd,
    joined: GroupSet,
}

impl Groups {
    fn join(index: u32, groups: GroupSet) -> io::Result<Groups> {
        // Of no protocol: it receives nothing.
        let mut all = Groups { fd: sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?, joined: GroupSet::new() };
        all.set(index, &groups)?;
        Ok(all)
    }

    /// Joins what is new, then leaves what is no longer wanted.
    fn set(&mut self, index: u32, wanted: &GroupSet) -> io::Result<()> {
        let option = |name, group: [u8; 3]| sys::set_option(&self.fd, libc::SOL_PACKET, name, membership(index, group));
        for group in wanted {
            if !self.joined.contains(group) {
                option(libc::PACKET_ADD_MEMBERSHIP, *group)?;
                self.joined.insert(*group);
            }
        }
        while let Some(group) = self.joined.difference(wanted).next().copied() {
            option(libc::PACKET_DROP_MEMBERSHIP, group)?;
            self.joined.remove(&group);
        }
        Ok(())
    }
}

fn membership(index: u32, [a, b, c]: [u8; 3]) -> libc::packet_mreq {
    libc::packet_mreq {
        mr_ifindex: index as i32,
        mr_type: libc::PACKET_MR_MULTICAST as u16,
        mr_alen: 6,
        mr_address: [0x33, 0x33, 0xff, a, b, c, 0, 0],
    }
}

/// The groups in which neighbours ask for our IPv6 addresses (RFC 4291 section 2.7.1).
fn multicast_groups(entries: &Entries) -> GroupSet {
    entries.v6().map(|ip| [ip.octets()[13], ip.octets()[14], ip.octets()[15]]).collect()
}
