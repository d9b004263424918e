//! A region whose sockets go to other workers than they were of: which of its chunks each of them has.
//!
//! Sockets are bound to their region for good, so it is divided when some of them go to one worker, and others to another. What the kernel has goes with the socket by which it has it. The rest is shared
//! out so that each worker has what is due to it: enough for the receive rings of its sockets, and an equal part of what is meant for everything else. All workers compute
//! the same from the same accounts, each for itself.

use super::Long;
use super::place::Place;
use crate::pack::Unreadable;
use std::collections::BTreeMap;

/// How a region is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Chunks for a frame each.
    pub singles: usize,
    /// The buffers behind them.
    pub long: Long,
}

/// Who has a part of a region.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Holders {
    /// By socket of the region: its worker, and chunks for its receive rings.
    sockets: BTreeMap<u16, (usize, usize)>,
}

impl Holders {
    /// This socket of the region is that worker's, and has so many chunks for receiving.
    pub fn add(&mut self, socket: u16, worker: usize, receiving: usize) {
        self.sockets.insert(socket, (worker, receiving));
    }

    /// Workers, in order, each once; and chunks for receiving, of all sockets of each.
    fn workers(&self) -> BTreeMap<usize, usize> {
        let mut all = BTreeMap::new();
        self.sockets.values().for_each(|(worker, receiving)| *all.entry(*worker).or_default() += receiving);
        all
    }

    /// Chunks that are due to each worker: together all of them. None when there are not enough for receiving.
    pub fn due(&self, chunks: usize) -> Option<BTreeMap<usize, usize>> {
        let mut due = self.workers();
        let spare = chunks.checked_sub(due.values().sum())?;
        let parts = equal_parts(spare, due.len());
        due.values_mut().zip(parts).for_each(|(due, part)| *due += part);
        Some(due)
    }

    /// Chunks of this worker's that are not for receiving. None when there are not enough for that.
    pub fn spare(&self, chunks: usize, worker: usize) -> Option<usize> {
        Some(self.due(chunks)?.get(&worker)? - self.workers().get(&worker)?)
    }
}

/// In so many parts, of which the first may be larger by one.
fn equal_parts(all: usize, parts: usize) -> impl Iterator<Item = usize> {
    (0..parts).map(move |n| all / parts + usize::from(n < all % parts))
}

/// Where every chunk is, by the accounts of all that have a part of the region. An error when they do not agree.
pub fn together(accounts: &[&[u8]], chunks: usize) -> Result<Vec<Place>, Unreadable> {
    let mut all = vec![Place::ELSEWHERE; chunks];
    for account in accounts {
        let (places, rest) = account.as_chunks::<2>();
        if places.len() != chunks || !rest.is_empty() {
            return Err(Unreadable::Impossible("chunks of another memory"));
        }
        for (place, said) in all.iter_mut().zip(places) {
            let said = Place::of_bytes(*said)?;
            match (*place, said) {
                (_, Place::ELSEWHERE) => {}
                (Place::ELSEWHERE, _) => *place = said,
                _ => return Err(Unreadable::Impossible("a chunk of two workers")),
            }
        }
    }
    if all.contains(&Place::ELSEWHERE) {
        return Err(Unreadable::Impossible("a chunk of nobody"));
    }
    Ok(all)
}

/// By chunk: whose it is from now on.
pub fn divide(places: &[Place], shape: Shape, holders: &Holders) -> Result<Vec<usize>, Unreadable> {
    let (singles, long) = places.split_at_checked(shape.singles).ok_or(Unreadable::CutOff)?;
    let few = Unreadable::Impossible("fewer chunks than rings");
    let due = holders.due(singles.len()).ok_or(few)?;
    let mut owners = Vec::with_capacity(places.len());
    share(singles.chunks(1), &due, holders, &mut owners)?;
    let buffers = long.len() / shape.long.chunks;
    let due = due.keys().copied().zip(equal_parts(buffers, due.len())).collect();
    share(long.chunks(shape.long.chunks), &due, holders, &mut owners)?;
    Ok(owners)
}

/// Shares out pieces, each of some chunks that are one worker's; of so many pieces as are due to each.
fn share<'a>(
    pieces: impl Iterator<Item = &'a [Place]> + Clone,
    due: &BTreeMap<usize, usize>,
    holders: &Holders,
    owners: &mut Vec<usize>,
) -> Result<(), Unreadable> {
    let owner = |piece: &[Place]| match piece.iter().find_map(|place| place.socket()) {
        None => Ok(None),
        Some(socket) => {
            holders.sockets.get(&socket).map(|(worker, _)| Some(*worker)).ok_or(Unreadable::Impossible("whose socket"))
        }
    };
    // What each of them lacks, when it has what the kernel has for it.
    let (mut lacking, mut free) = (due.clone(), 0);
    for piece in pieces.clone() {
        match owner(piece)?.map(|worker| lacking.entry(worker).or_default()) {
            // One that has more than is due to it keeps that: it comes back, and is shared out the next time.
            Some(lack) => *lack = lack.saturating_sub(1),
            None => free += 1,
        }
    }
    let all: usize = lacking.values().sum();
    let mut portions: Vec<(usize, usize)> =
        lacking.iter().map(|(worker, lack)| (*worker, (lack * free).checked_div(all).unwrap_or(0))).collect();
    // What division left over goes to the first.
    let mut rest = free - portions.iter().map(|(_, portion)| portion).sum::<usize>();
    for (worker, portion) in &mut portions {
        let more = (lacking[worker] - *portion).min(rest);
        (*portion, rest) = (*portion + more, rest - more);
    }
    let mut takers = portions.into_iter().flat_map(|(worker, portion)| core::iter::repeat_n(worker, portion));
    for piece in pieces {
        let worker = match owner(piece)? {
            Some(worker) => worker,
            None => takers.next().ok_or(Unreadable::Impossible("fewer chunks than rings"))?,
        };
        owners.extend(core::iter::repeat_n(worker, piece.len()));
    }
    Ok(())
}
