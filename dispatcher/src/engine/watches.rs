//! A bounded pool of [`Watch`]es: server answers that are being read in passing.

use super::session::{Offer, Watch};
use crate::flow::{Assembler, BufferPool};
use crate::wire::Seq;

/// A place in the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatchId(u32);

/// One server's answer: the reader, and its stream put in order.
#[derive(Debug)]
pub struct Watched {
    /// The reader.
    pub watch: Watch,
    /// The server's stream, in the client's numbers. Takes a buffer only behind a gap.
    pub stream: Assembler,
}

/// All places.
#[derive(Debug)]
pub struct Watches {
    places: Box<[Option<Watched>]>,
    free: Vec<u32>,
}

impl Watches {
    /// `count` places, all memory taken now.
    pub fn new(count: usize) -> Watches {
        let count = count.min(u32::MAX as usize) as u32;
        Watches { places: (0..count).map(|_| None).collect(), free: (0..count).rev().collect() }
    }

    /// Bytes that `count` places take.
    pub const fn bytes_for(count: usize) -> usize {
        count * (size_of::<Option<Watched>>() + size_of::<u32>())
    }

    /// Watches a server that is about to answer `offer`, its first byte at `start`. `None` when all places are taken: nothing
    /// will be learned from this connection.
    pub fn open(&mut self, offer: Offer, id_known: bool, start: Seq) -> Option<WatchId> {
        let i = self.free.pop()?;
        self.places[i as usize] =
            Some(Watched { watch: Watch::new(offer, id_known), stream: Assembler::lazy(start, 0) });
        Some(WatchId(i))
    }

    /// A watch that is open.
    pub fn get_mut(&mut self, id: WatchId) -> Option<&mut Watched> {
        self.places[id.0 as usize].as_mut()
    }

    /// Done: the place is free again.
    pub fn close(&mut self, id: WatchId, buffers: &mut BufferPool) -> Option<Watch> {
        let mut watched = self.places[id.0 as usize].take()?;
        watched.stream.release(buffers);
        self.free.push(id.0);
        Some(watched.watch)
    }

    /// Places in use.
    pub fn in_use(&self) -> usize {
        self.places.len() - self.free.len()
    }
}
