//! Weighted least connections, without looking at every backend for each flow.

use crate::backend::{BackendId, MAX_BACKENDS};
use crate::live::{BLOCK, Live};
use crate::pool::Pool;

/// Chooses the backend with the fewest live connections for its weight.
///
/// Loads are compared as `(connections + 1) / weight`, what the load would be with the new flow, so that among idle
/// backends the heavier comes first. Equal ones take turns: the search begins behind the last chosen, so an idle pool is
/// not filled from its head.
///
/// [`Live`] knows for each block of slots a number of connections that none of them is below. So a choice looks at these bounds, then into the
/// block of the least, and into others only while their bound is less than what was found: usually one or two. A block in which a
/// backend with few connections may not be chosen is looked into each time.
#[derive(Debug, Default)]
pub struct LeastConn {
    /// By slot.
    members: Box<[(BackendId, u64)]>,
    blocks: Box<[Block]>,
    /// Place of the last chosen, and one.
    start: usize,
    /// The last chosen among a few.
    among: Option<BackendId>,
}

/// The members of the pool in one of [`Live`]'s blocks.
#[derive(Clone, Copy, Debug)]
struct Block {
    number: usize,
    first: usize,
    end: usize,
    /// The greatest of their weights.
    weight: u64,
}

const BLOCKS: usize = MAX_BACKENDS / BLOCK;

/// `(connections + 1, weight)`, compared without dividing.
fn less(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 * b.1 < b.0 * a.1
}

impl LeastConn {
    /// For this pool from now on.
    pub fn follow(&mut self, pool: &Pool) {
        let may = pool.members().iter().filter(|m| pool.may_take_new(m.id));
        let mut members: Vec<(BackendId, u64)> = may.map(|m| (m.id, u64::from(m.weight))).collect();
        members.sort_unstable();
        let mut first = 0;
        let block = |same: &[(BackendId, u64)]| {
            let (number, end) = (same[0].0.index() / BLOCK, first + same.len());
            let weight = same.iter().map(|m| m.1).max().unwrap_or(1);
            Block { number, first: core::mem::replace(&mut first, end), end, weight }
        };
        self.blocks = members.chunk_by(|a, b| a.0.index() / BLOCK == b.0.index() / BLOCK).map(block).collect();
        self.members = members.into();
    }

    /// The last chosen among all, and among a few.
    pub fn turns(&self) -> [Option<BackendId>; 2] {
        let last = self.start.checked_sub(1).and_then(|place| self.members.get(place));
        [last.map(|member| member.0), self.among]
    }

    /// Goes on behind those.
    pub fn go_on(&mut self, [last, among]: [Option<BackendId>; 2]) {
        let place = |id| self.members.iter().position(|member| member.0 == id);
        self.start = last.and_then(place).map_or(0, |place| place + 1);
        self.among = among;
    }

    /// The least loaded of those that `may`.
    pub fn pick(&mut self, live: &Live, may: impl Fn(BackendId) -> bool) -> Option<BackendId> {
        let LeastConn { members, blocks, start, .. } = self;
        let n = blocks.len();
        if *start >= members.len() {
            *start = 0;
        }
        let begin = blocks.iter().position(|b| b.end > *start)?;
        let mut seen = [0u64; BLOCKS.div_ceil(64)];
        let mut best: Option<(usize, (u64, u64))> = None;
        loop {
            // The first of the least bound, from the last chosen on.
            let mut least = (n, (1, 0));
            for range in [begin..n, 0..begin] {
                for (at, block) in range.clone().zip(&blocks[range]) {
                    let bound = (u64::from(live.bound(block.number)) + 1, block.weight);
                    // Without a weight: more than anything.
                    if less(bound, least.1) && seen[at / 64] >> (at % 64) & 1 == 0 {
                        least = (at, bound);
                    }
                }
            }
            let (at, bound) = least;
            if at == n {
                break;
            }
            if best.is_some_and(|(_, best)| !less(bound, best)) {
                break;
            }
            seen[at / 64] |= 1 << (at % 64);
            let Block { number, first, end, .. } = blocks[at];
            let from = if at == begin { *start } else { first };
            live.look_into(number);
            for place in (from..end).chain(first..from) {
                let (id, weight) = members[place];
                let load = (u64::from(live.connections(id)) + 1, weight);
                if best.is_none_or(|(_, best)| less(load, best)) && may(id) {
                    best = Some((place, load));
                }
            }
            // No other block's bound is less than this one's was: as nearly always, one look is enough.
            if best.is_some_and(|(_, best)| !less(bound, best)) {
                break;
            }
        }
        let (place, _) = best?;
        *start = place + 1;
        Some(members[place].0)
    }

    /// The least loaded of a few, smallest number first; equal ones take turns.
    pub fn pick_among(&mut self, pool: &Pool, few: impl Iterator<Item = BackendId>) -> Option<BackendId> {
        let mut best: Option<(BackendId, (u64, u64))> = None;
        let turn = |id: BackendId| self.among.is_none_or(|last| id > last);
        for id in few {
            let load = (u64::from(pool.connections(id)) + 1, u64::from(pool.weight(id)));
            let better = |(other, best)| less(load, best) || (!less(best, load) && turn(id) && !turn(other));
            if best.is_none_or(better) {
                best = Some((id, load));
            }
        }
        self.among = best.map(|(id, _)| id);
        self.among
    }
}
