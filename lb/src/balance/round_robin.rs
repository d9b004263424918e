//! Smooth weighted round robin, as in nginx.

use crate::backend::BackendId;
use crate::pool::{Member, Pool};

/// Every eligible backend gains its weight in credit, the one with most credit is chosen and pays the sum of all
/// weights. Weights 5, 1, 1 give a a b a c a a rather than a a a a a b c.
///
/// A backend that is not eligible neither gains nor pays; it comes back with the credit it had.
#[derive(Debug)]
pub struct RoundRobin {
    /// By the pool's members, in their order.
    credit: Box<[(BackendId, i64)]>,
}

impl RoundRobin {
    /// For this pool.
    pub fn new(pool: &Pool) -> RoundRobin {
        RoundRobin { credit: pool.members().iter().map(|m| (m.id, 0)).collect() }
    }

    /// For this pool from now on: who is in it still keeps its credit.
    pub fn follow(&mut self, pool: &Pool) {
        let same = |(m, credit): (&Member, &(BackendId, i64))| m.id == credit.0;
        if self.credit.len() == pool.members().len() && pool.members().iter().zip(&self.credit).all(same) {
            return;
        }
        let mut before: Vec<(BackendId, i64)> = self.credit.to_vec();
        before.sort_unstable();
        let credit = |id| before.binary_search_by_key(&id, |(b, _)| *b).map_or(0, |at| before[at].1);
        self.credit = pool.members().iter().map(|m| (m.id, credit(m.id))).collect();
    }

    /// The next of those that `may`.
    pub fn pick(&mut self, pool: &Pool, may: impl Fn(BackendId) -> bool) -> Option<BackendId> {
        let mut total = 0;
        let mut top: Option<(usize, i64)> = None;
        for (index, (id, credit)) in self.credit.iter_mut().enumerate() {
            let weight = i64::from(pool.weight(*id));
            if weight == 0 || !may(*id) {
                continue;
            }
            *credit += weight;
            total += weight;
            if top.is_none_or(|(_, most)| *credit > most) {
                top = Some((index, *credit));
            }
        }
        let (index, _) = top?;
        let (id, credit) = &mut self.credit[index];
        *credit -= total;
        Some(*id)
    }
}
