//! The power of two choices (Mitzenmacher 2001): draw two, take the less loaded.
//!
//! Nearly as even as least connections, but a flow looks at two counters instead of all, and workers that act at the
//! same moment on the same counts do not all run to the same backend.

use super::maglev::mix;
use crate::backend::BackendId;
use crate::pool::Pool;

/// Draws are by weight: a Maglev table holds each backend in proportion to it, so a random slot is such a draw.
pub(super) fn pick(pool: &Pool, entropy: u64, may: impl Fn(BackendId) -> bool) -> Option<BackendId> {
    let maglev = pool.maglev();
    let one = maglev.pick(mix(entropy), &may)?;
    let Some(two) = maglev.pick(mix(!entropy), |b| b != one && may(b)) else { return Some(one) };
    let load = |b| u64::from(pool.connections(b)) + 1;
    let weight = |b| u64::from(pool.weight(b));
    Some(if load(two) * weight(one) < load(one) * weight(two) { two } else { one })
}
