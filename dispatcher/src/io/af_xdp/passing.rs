//! Sockets, memory and the place at the device, passed to another process that goes on with them.
//!
//! A queue has one socket, and that is bound to the memory of the process that made it: so it is the socket that changes hands, with its rings and its memory. The kernel sees nothing of it. What it has of chunks,
//! and we, stands in the account of the memory (`Umem::pack`), which is written down when the workers stand still. The program is replaced by the new process's own, with maps of its own, in one step
//! (`BPF_LINK_UPDATE`), once it runs.

use crate::io::bpf::Hook;
use crate::io::umem::{Long, Umem};
use crate::pack::{Ids, Pack, Packer, Unpacker, Unreadable};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

/// One worker's memory.
#[derive(Debug)]
pub struct Memory {
    pub(super) file: OwnedFd,
    pub(super) chunk: u32,
    pub(super) chunks: u32,
    pub(super) long: Long,
}

impl Memory {
    pub(super) fn of(umem: &Umem) -> io::Result<Memory> {
        let (file, chunk, chunks, long) = umem.lend()?;
        Ok(Memory { file, chunk: chunk as u32, chunks: chunks as u32, long })
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
    /// By queue.
    pub(super) sockets: Vec<OwnedFd>,
}

/// All that a process has of this driver.
#[derive(Debug, Default)]
pub struct Passed {
    /// Its devices, in order.
    pub places: Vec<Place>,
    /// By worker.
    pub memories: Vec<Memory>,
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
            files.extend(sockets);
        }
        (self.memories.len() as u32).pack(&mut to);
        for Memory { file, chunk, chunks, long } in self.memories {
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
            let sockets = (0..count).map(|_| file()).collect::<Result<_, _>>()?;
            passed.places.push(Place { name, hook, frags, link, sockets });
        }
        for _ in 0..u32::unpack(from)? {
            let (chunk, chunks) = Pack::unpack(from)?;
            let (buffers, of_each) = <(u32, u32)>::unpack(from)?;
            let long = Long { buffers: buffers as usize, chunks: of_each as usize };
            passed.memories.push(Memory { file: file()?, chunk, chunks, long });
        }
        Ok(passed)
    }
}

/// What of it is one device's, until it is taken; and of the first device also all workers' memory.
#[derive(Debug, Default)]
pub(super) struct Legacy {
    place: Mutex<Option<Place>>,
    sockets: Mutex<Vec<Option<OwnedFd>>>,
    memories: Mutex<Vec<Option<Memory>>>,
}

impl Legacy {
    pub fn new(mut place: Place, memories: Vec<Memory>) -> Legacy {
        let sockets = core::mem::take(&mut place.sockets).into_iter().map(Some).collect();
        let memories = memories.into_iter().map(Some).collect();
        Legacy { place: Mutex::new(Some(place)), sockets: Mutex::new(sockets), memories: Mutex::new(memories) }
    }

    pub fn take_place(&self) -> Option<Place> {
        super::attached::locked(&self.place).take()
    }

    pub fn take_socket(&self, queue: u16) -> Option<OwnedFd> {
        super::attached::locked(&self.sockets).get_mut(usize::from(queue))?.take()
    }

    pub fn take_memory(&self, worker: usize) -> Option<Memory> {
        super::attached::locked(&self.memories).get_mut(worker)?.take()
    }
}
