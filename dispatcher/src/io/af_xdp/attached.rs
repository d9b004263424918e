//! What the workers of a process have in common at one device: the program, what it takes, and what else makes frames for our addresses
//! come to it.
//!
//! What is taken can change while the workers run, from any other thread: the program stays, its maps are written entry by entry, so there
//! is no moment at which a frame that was taken before and after goes to the kernel. No worker waits for it.

use super::announcements::{Announcements, Families};
use super::{Device, Mode, has_long, patiently, refused};
use crate::io::bpf::{Hook, Map, Program};
use crate::io::xdp_program::{self, Entries, Maps};
use crate::io::{Filter, OpenError, sys};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// One device's part of what the workers share: the same for all of them. The program is attached by whoever comes first, until all of
/// them have let go.
#[derive(Debug, Default)]
pub struct Common(Mutex<Weak<Attached>>);

impl Common {
    /// Has exactly this taken from now on; nothing happens while no worker has the device open. What stays is taken without a gap.
    ///
    /// When it fails, more may be taken than was before, and nothing less.
    pub fn set_filter(&self, filter: &Filter) -> Result<(), OpenError> {
        fits(filter)?;
        // Not kept locked: workers that start or end need not wait for the kernel.
        let attached = locked(&self.0).upgrade();
        attached.map_or(Ok(()), |attached| attached.set_filter(filter))
    }
}

/// Whether the maps have room for a filter; says which of them has not.
pub fn fits(filter: &Filter) -> Result<(), OpenError> {
    Entries::of(filter).fit().map_err(|why| OpenError(format!("af-xdp: {why}")))
}

/// What is behind these locks is whole after every single step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Our program, attached to a device until this is dropped.
#[derive(Debug)]
pub(super) struct Attached {
    name: String,
    program: Program,
    sockets: Map,
    hook: Hook,
    maps: Maps,
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
    _link: OwnedFd,
    groups: Groups,
    /// What is in the maps.
    entries: Entries,
}

impl Attached {
    /// The one that there is at this device, or a new one.
    pub(super) fn shared(device: &Device, filter: &Filter, common: &Common) -> Result<Arc<Attached>, OpenError> {
        let mut common = locked(&common.0);
        if let Some(attached) = common.upgrade() {
            return Ok(attached);
        }
        let attached = Arc::new(Attached::new(device, filter)?);
        *common = Arc::downgrade(&attached);
        Ok(attached)
    }

    fn new(device: &Device, filter: &Filter) -> Result<Attached, OpenError> {
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
        let (program, hook, link) = attach(device, |frags| xdp_program::load(&maps, &sockets, frags))?;
        let failed = |e: io::Error| refused(&device.name, "socket", &e);
        let groups = Groups::join(index, multicast_groups(&entries)).map_err(failed)?;
        let announcements = Announcements::open(index, Families::of(&entries)).map_err(failed)?;
        let state = Mutex::new(State { index, _link: link, groups, entries });
        let announcements = Mutex::new(announcements);
        Ok(Attached { name: device.name.clone(), program, sockets, hook, maps, state, announcements })
    }

    pub(super) fn hook(&self) -> Hook {
        self.hook
    }

    /// Frames that come by this queue, and are taken, go to this socket.
    pub(super) fn give_socket(&self, queue: u16, socket: &OwnedFd) -> io::Result<()> {
        self.sockets.set(&u32::from(queue).to_ne_bytes(), socket.as_raw_fd() as u32)
    }

    /// The device has another number now: it was made anew.
    pub(super) fn follow(&self, index: u32) -> io::Result<()> {
        let mut state = locked(&self.state);
        if state.index != index {
            let link = self.program.attach(index, self.hook)?;
            let groups = Groups::join(index, multicast_groups(&state.entries))?;
            let announcements = Announcements::open(index, Families::of(&state.entries))?;
            (state.index, state._link, state.groups) = (index, link, groups);
            *locked(&self.announcements) = announcements;
        }
        Ok(())
    }

    fn set_filter(&self, filter: &Filter) -> Result<(), OpenError> {
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
fn attach(device: &Device, load: impl Fn(bool) -> io::Result<Program>) -> Result<(Program, Hook, OwnedFd), OpenError> {
    let told = |e: io::Error| refused(&device.name, "program", &e);
    let long = has_long(device);
    let program = load(long).map_err(told)?;
    let index = device.info.index;
    let native = |program: &Program| patiently(|| program.attach(index, Hook::Native));
    if device.mode != Mode::Generic {
        match native(&program) {
            Ok(link) => return Ok((program, Hook::Native, link)),
            // Nothing that another hook would change.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EBUSY | libc::EEXIST)) => {
                return Err(told(e));
            }
            Err(e) => {
                if !long
                    && let Ok(program) = load(true)
                    && let Ok(link) = native(&program)
                {
                    return Ok((program, Hook::Native, link));
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
    Ok((program, Hook::Generic, link))
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
