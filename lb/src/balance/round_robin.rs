//! Smooth weighted round robin, as in nginx.

use crate::backend::BackendId;
use crate::pool::Pool;

/// Every eligible backend gains its weight in credit, the one with most credit is chosen and pays the sum of all
/// weights. Weights 5, 1, 1 give a a b a c a a rather than a a a a a b c.
///
/// A backend that is not eligible neither gains nor pays; it comes back with the credit it had.
#[derive(Debug)]
pub struct RoundRobin {
    credit: Box<[i64]>,
}

impl RoundRobin {
    /// For a pool of `backends` members.
    pub fn new(backends: usize) -> RoundRobin {
        RoundRobin { credit: vec![0; backends].into() }
    }

    /// The next of those that `may`.
    pub fn pick(&mut self, pool: &Pool, may: impl Fn(BackendId) -> bool) -> Option<BackendId> {
        let mut total = 0;
        let mut top: Option<(usize, i64)> = None;
        for (index, credit) in self.credit.iter_mut().enumerate() {
            let id = BackendId(index as u16);
            let weight = i64::from(pool.weight(id));
            if weight == 0 || !may(id) {
                continue;
            }
            *credit += weight;
            total += weight;
            if top.is_none_or(|(_, most)| *credit > most) {
                top = Some((index, *credit));
            }
        }
        let (index, _) = top?;
        self.credit[index] -= total;
        Some(BackendId(index as u16))
    }
}
