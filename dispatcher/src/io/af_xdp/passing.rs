//! Sockets, memory and the place at the device, passed to another process that goes on with them.
//!
//! A queue has one socket, and that is bound to the memory of the process that made it: so it is the socket that changes hands, with its rings and its memory. The kernel sees nothing of it. What it has of chunks,
//! and we, stands in the account of the memory (`Umem::pack`), which is written down when the workers stand still. The program is replaced by the new process's own, with maps of its own, in one step
//! (`BPF_LINK_UPDATE`), once it runs. With another number of workers a worker has regions of several, or a part of one (`regions`).

use crate::io::bpf::Hook;
use crate::io::umem::division::Shape;
use crate::io::umem::{Long, Umem};
use crate::pack::{Ids, Pack, Packer, Unpacker, Unreadable};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

/// A region: memory that sockets are bound to.
#[derive(Debug)]
pub struct Memory {
    pub(super) file: OwnedFd,
    pub(super) chunk: u32,
    pub(super) chunks: u32,
    pub(super) long: Long,
}

impl Memory {
    pub(super) fn of(umem: &Umem) -> io::Result<Memory> {
        let (file, chunk) = umem.lend()?;
        let Shape { singles, long } = umem.shape();
        Ok(Memory { file, chunk: chunk as u32, chunks: singles as u32, long })
    }

    pub(super) fn try_clone(&self) -> io::Result<Memory> {
        Ok(Memory { file: self.file.try_clone()?, ..*self })
    }
}

/// One device.
#[derive(Debug)]
pub struct Place {
    /// Its name.
    pub name: String,
    pub(super) hook: Hook,
    /// The program is one that knows of fragments.
    pub(super) frags: bool,
    pub(super) link: OwnedFd,
    /// By queue: with the number of the region that it is bound to.
    pub(super) sockets: Vec<(OwnedFd, u32)>,
}

impl Place {
    /// Queues that it has there.
    pub fn queues(&self) -> usize {
        self.sockets.len()
    }
}

/// All that a process has of this driver.
#[derive(Debug, Default)]
pub struct Passed {
    /// Its devices, in order.
    pub places: Vec<Place>,
    /// By their numbers.
    pub memories: BTreeMap<u32, Memory>,
}

impl Passed {
    /// In bytes, and descriptors beside them.
    pub fn into_parts(self) -> (Vec<u8>, Vec<OwnedFd>) {
        let (mut to, mut files) = (Packer::new(), Vec::new());
        (self.places.len() as u32).pack(&mut to);
        for Place { name, hook, frags, link, sockets } in self.places {
            name.pack(&mut to);
            (hook == Hook::Native, frags).pack(&mut to);
            (sockets.len() as u32).pack(&mut to);
            files.push(link);
            for (socket, region) in sockets {
                region.pack(&mut to);
                files.push(socket);
            }
        }
        (self.memories.len() as u32).pack(&mut to);
        for (number, Memory { file, chunk, chunks, long }) in self.memories {
            number.pack(&mut to);
            (chunk, chunks).pack(&mut to);
            (long.buffers as u32, long.chunks as u32).pack(&mut to);
            files.push(file);
        }
        (to.into_bytes(), files)
    }

    /// The inverse.
    pub fn of_parts(bytes: &[u8], mut files: impl Iterator<Item = OwnedFd>) -> Result<Passed, Unreadable> {
        let nobody = Ids::default();
        let from = &mut Unpacker::new(bytes, &nobody);
        let mut file = || files.next().ok_or(Unreadable::CutOff);
        let mut passed = Passed::default();
        for _ in 0..u32::unpack(from)? {
            let name = String::unpack(from)?;
            let (native, frags) = <(bool, bool)>::unpack(from)?;
            let hook = if native { Hook::Native } else { Hook::Generic };
            let count = u32::unpack(from)?;
            let link = file()?;
            let mut sockets = Vec::new();
            for _ in 0..count {
                let region = u32::unpack(from)?;
                sockets.push((file()?, region));
            }
            passed.places.push(Place { name, hook, frags, link, sockets });
        }
        for _ in 0..u32::unpack(from)? {
            let number = u32::unpack(from)?;
            let (chunk, chunks) = Pack::unpack(from)?;
            let (buffers, of_each) = <(u32, u32)>::unpack(from)?;
            let long = Long { buffers: buffers as usize, chunks: of_each as usize };
            passed.memories.insert(number, Memory { file: file()?, chunk, chunks, long });
        }
        Ok(passed)
    }
}

/// What of it is one device's; and of the first device also the memory.
#[derive(Debug, Default)]
pub(super) struct Legacy {
    place: Mutex<Option<Place>>,
    /// By queue: until it is taken.
    sockets: Mutex<Vec<Option<OwnedFd>>>,
    /// By queue: of which region its socket is.
    regions: Vec<u32>,
    memories: BTreeMap<u32, Memory>,
}

impl Legacy {
    pub fn new(mut place: Place, memories: BTreeMap<u32, Memory>) -> Legacy {
        let (sockets, regions) = core::mem::take(&mut place.sockets).into_iter().map(|(fd, n)| (Some(fd), n)).unzip();
        Legacy { place: Mutex::new(Some(place)), sockets: Mutex::new(sockets), regions, memories }
    }

    pub fn take_place(&self) -> Option<Place> {
        super::attached::locked(&self.place).take()
    }

    pub fn take_socket(&self, queue: u16) -> Option<OwnedFd> {
        super::attached::locked(&self.sockets).get_mut(usize::from(queue))?.take()
    }

    pub fn region(&self, queue: u16) -> Option<u32> {
        self.regions.get(usize::from(queue)).copied()
    }

    /// Several workers may have a part of it: each is given one.
    pub fn memory(&self, number: u32) -> Option<Memory> {
        self.memories.get(&number)?.try_clone().ok()
    }
}
