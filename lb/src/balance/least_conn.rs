//! Weighted least connections.

use crate::backend::BackendId;
use crate::pool::Pool;

/// Chooses the backend with the fewest live connections for its weight.
///
/// Loads are compared as `(connections + 1) / weight`, what the load would be with the new flow, so that among idle
/// backends the heavier comes first. Equal ones take turns: the scan begins behind the last chosen, so an idle pool is
/// not filled from its head. One pass over the backends and their cache lines per new flow.
#[derive(Debug, Default)]
pub struct LeastConn {
    start: usize,
}

impl LeastConn {
    /// The least loaded of those that `may`.
    pub fn pick(&mut self, pool: &Pool, may: impl Fn(BackendId) -> bool) -> Option<BackendId> {
        let members = pool.members();
        let n = members.len();
        let mut best: Option<(usize, u64, u64)> = None;
        for at in (0..n).map(|step| (self.start + step) % n) {
            let member = &members[at];
            let weight = u64::from(member.weight);
            if weight == 0 || !may(member.id) {
                continue;
            }
            let load = u64::from(pool.connections(member.id)) + 1;
            // load / weight < best_load / best_weight, without dividing.
            if best.is_none_or(|(_, best_load, best_weight)| load * best_weight < best_load * weight) {
                best = Some((at, load, weight));
            }
        }
        let (at, ..) = best?;
        self.start = (at + 1) % n;
        Some(members[at].id)
    }
}
