//! The memory of one worker: a region of its own; or, where it goes on from another process that had another number of workers, several, of some of which it has a part only.
//!
//! A socket is bound to its region for good. So a worker has the regions that its queues' sockets are bound to, and where they are other workers', too, their chunks are divided
//! (`umem::division`). A frame leaves by a socket of its own region without a copy, and with one where the worker has none at the other device.

use super::layout::{Layout, Part, chunk_count, in_flight, sizes};
use super::passing::Memory;
use super::{Common, Device};
use crate::io::umem::division::Holders;
use crate::io::umem::{Census, Umem};
use crate::io::{OpenError, RegionId, Slot};
use crate::pack::{Pack, Packer, Unpacker, Unreadable};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

/// Where the socket of a queue belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Assigned {
    pub(super) queue: u16,
    /// Its number among all sockets of the process, the same in one that takes over.
    pub(super) socket: u16,
    /// The number of its region.
    pub(super) region: u32,
    pub(super) worker: usize,
}

/// By device, of every queue, whoever's it is. Those of a new process have a region for each worker; those that were passed stay in theirs.
pub(super) fn assigned(
    devices: &[Device],
    workers: usize,
    common: &[Arc<Common>],
) -> Result<Vec<Vec<Assigned>>, OpenError> {
    let mut socket = 0;
    let mut all = Vec::with_capacity(devices.len());
    for (device, common) in devices.iter().zip(common) {
        let mut of_device = Vec::with_capacity(device.info.queues.into());
        for queue in 0..device.info.queues {
            let worker = usize::from(queue) % workers;
            let region = match common.legacy() {
                None => worker as u32,
                Some(legacy) => legacy.region(queue).ok_or_else(|| {
                    OpenError(format!("af-xdp:{}: it has more queues than the running one knows of", device.name))
                })?,
            };
            of_device.push(Assigned { queue, socket, region, worker });
            socket += 1;
        }
        all.push(of_device);
    }
    Ok(all)
}

/// One region.
pub(super) struct Region {
    number: u32,
    pub(super) umem: Rc<Umem>,
    holders: Holders,
    /// Descriptors that each port may have under way in it.
    pub(super) in_flight: u32,
    /// Chunks that are due to this worker.
    chunks: usize,
}

/// All that a worker has. At least one.
pub(super) struct Regions {
    all: Vec<Region>,
    worker: usize,
}

impl Regions {
    /// For a worker's part of these sockets.
    pub(super) fn open(
        devices: &[Device],
        assigned: &[Vec<Assigned>],
        part: Part,
        layout: Layout,
        common: &Common,
    ) -> Result<Regions, OpenError> {
        let mine = |at: &&Assigned| at.worker == part.worker;
        let numbers: BTreeSet<u32> = assigned.iter().flatten().filter(mine).map(|at| at.region).collect();
        let mut all = Vec::with_capacity(numbers.len());
        for number in numbers {
            let (umem, mib) = match common.legacy() {
                None => {
                    let (count, long) = (chunk_count(devices, part), layout.long(devices, part));
                    let mib = ((count + long.buffers * long.chunks) * layout.chunk) >> 20;
                    (Umem::new(count, layout.chunk, long), mib)
                }
                Some(legacy) => {
                    let other = |why: &str| OpenError(format!("af-xdp: the memory that was passed {why}"));
                    let memory = legacy.memory(number).ok_or_else(|| other("is not there"))?;
                    let Memory { file, chunk, chunks, long } = memory;
                    if (chunk as usize, long.chunks) != (layout.chunk, layout.most) {
                        return Err(other("is cut in another way than here"));
                    }
                    (Umem::of_another(file, chunks as usize, layout.chunk, long), 0)
                }
            };
            let no_memory = |e: io::Error| OpenError(format!("af-xdp: {mib} MiB of memory for frames: {e}"));
            let umem = umem.map_err(no_memory)?;
            common.has_memory(number, Memory::of(&umem).map_err(no_memory)?);
            let (mut holders, mut ports) = (Holders::default(), 0);
            for (device, of_device) in devices.iter().zip(assigned) {
                let bound = of_device.iter().filter(|at| at.region == number);
                let receiving = sizes(device).receive as usize;
                bound.clone().for_each(|at| holders.add(at.socket, at.worker, receiving));
                ports += usize::from(bound.clone().any(|at| at.worker == part.worker));
            }
            let singles = umem.shape().singles;
            let spare = holders.spare(singles, part.worker);
            let in_flight = spare.and_then(|spare| in_flight(spare, ports)).ok_or_else(|| {
                OpenError(format!(
                    "af-xdp: the memory of the running one is cut for fewer workers than {}: for so many it takes a restart",
                    part.workers
                ))
            })?;
            let chunks = holders.due(singles).and_then(|due| due.get(&part.worker).copied()).unwrap_or(0);
            all.push(Region { number, umem: Rc::new(umem), holders, in_flight, chunks });
        }
        Ok(Regions { all, worker: part.worker })
    }

    /// The one with this number.
    pub(super) fn numbered(&self, number: u32) -> Option<&Region> {
        self.all.iter().find(|region| region.number == number)
    }

    /// The one that a slot lies in.
    ///
    /// # Panics
    /// When it lies in none of them.
    #[inline]
    pub(super) fn of(&self, id: RegionId) -> &Umem {
        match self.all.first() {
            // As a rule there is no other.
            Some(first) if first.umem.region() == id => &first.umem,
            _ => self.behind_the_first(id),
        }
    }

    #[cold]
    fn behind_the_first(&self, id: RegionId) -> &Umem {
        let found = self.all.iter().find(|region| region.umem.region() == id);
        &found.expect("slot of another region").umem
    }

    /// A free chunk of any of them with `frame` in it.
    pub(super) fn copy_in(&self, frame: &[u8]) -> Option<Slot> {
        self.all.iter().find_map(|region| region.umem.copy_in(frame))
    }

    /// There are buffers for frames that no chunk holds.
    pub(super) fn have_long(&self) -> bool {
        self.all.iter().any(|region| region.umem.has_long())
    }

    /// Bytes of chunks for a frame each and long buffers, that are this worker's.
    pub(super) fn bytes(&self) -> usize {
        self.all.iter().map(|region| region.umem.part_of_bytes(region.chunks)).sum()
    }

    /// Writes down where the chunks of all of them are.
    pub(super) fn pack(&self, to: &mut Packer) {
        (self.all.len() as u32).pack(to);
        for region in &self.all {
            region.number.pack(to);
            region.umem.pack(to);
        }
    }

    /// Adds what [`Regions::pack`] wrote to what others wrote, by region.
    pub(super) fn read<'a>(
        from: &mut Unpacker<'a>,
        accounts: &mut BTreeMap<u32, Vec<&'a [u8]>>,
    ) -> Result<(), Unreadable> {
        for _ in 0..u32::unpack(from)? {
            let number = u32::unpack(from)?;
            accounts.entry(number).or_default().push(from.block()?);
        }
        Ok(())
    }

    /// Has its part of each, by these accounts.
    pub(super) fn take_over(&self, accounts: &BTreeMap<u32, Vec<&[u8]>>) -> Result<(), Unreadable> {
        self.all.iter().try_for_each(|region| {
            let accounts = accounts.get(&region.number).map_or(&[][..], |all| all);
            region.umem.take_over(accounts, &region.holders, self.worker)
        })
    }

    /// How many chunks are where, of all of them.
    pub(super) fn census(&self) -> Census {
        let none = Census { chunks: 0, free: 0, receiving: 0, held: 0, sending: 0 };
        self.all.iter().map(|region| region.umem.census()).fold(none, |sum, one| Census {
            chunks: sum.chunks + one.chunks,
            free: sum.free + one.free,
            receiving: sum.receiving + one.receiving,
            held: sum.held + one.held,
            sending: sum.sending + one.sending,
        })
    }
}
