//! Where requests may have to wait: at which pools of which services some backend has a limit.
//!
//! Worked out for a version of the directory by whichever worker takes it over first, and the same for all: what they have in common of it
//! ([`Terms`]) is made once. What has not changed is that of the version before, so that whoever waits is not disturbed.

use crate::pack::packed;
use crate::wire::Family;
use lb::admission::{Config, Terms};
use lb::{BackendId, BackendSet, Directory, PoolId, ServiceId};

/// The requests of a service's clients of one family at a pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GateId {
    /// The service.
    pub service: ServiceId,
    /// The pool.
    pub pool: PoolId,
    /// The clients' family, which is their servers'.
    v6: bool,
}

impl GateId {
    /// Of these.
    pub fn new(service: ServiceId, pool: PoolId, family: Family) -> GateId {
        GateId { service, pool, v6: family == Family::V6 }
    }

    /// The family.
    pub fn family(&self) -> Family {
        if self.v6 { Family::V6 } else { Family::V4 }
    }
}

packed!(GateId { service, pool, v6 });

/// By what requests are admitted somewhere.
#[derive(Clone, Debug)]
pub struct GateTerms {
    /// Where.
    pub id: GateId,
    /// By what.
    pub terms: Terms,
}

/// Those of a version of the directory, in order of their numbers; of `before` what has stayed. Where no backend of a pool has a limit there is none.
pub(super) fn gates(
    directory: &Directory,
    families: &[BackendSet; 2],
    workers: usize,
    before: &[GateTerms],
) -> Box<[GateTerms]> {
    let mut all = Vec::new();
    for service in directory.services() {
        for pool in service.pools().iter().filter_map(|id| directory.pool(*id)) {
            for family in [Family::V4, Family::V6] {
                let of_family = &families[family as usize];
                let ids = pool.members().iter().map(|m| m.id).filter(|id| of_family.contains(*id));
                let members: Vec<BackendId> = ids.collect();
                let bind = |id: &BackendId| directory.backend(*id).is_some_and(|b| b.limits.bind());
                if !members.iter().any(bind) {
                    continue;
                }
                let policy = service.policy();
                let config = Config { classes: policy.classes.clone(), members, spill_after: policy.spill_after };
                let id = GateId::new(service.id(), pool.id(), family);
                let same = before.iter().find(|gate| gate.id == id);
                let terms = match same {
                    Some(gate) => gate.terms.followed_by(config, workers),
                    None => Terms::new(config, directory.live().slots(), workers),
                };
                all.push(GateTerms { id, terms });
            }
        }
    }
    all.sort_unstable_by_key(|gate| gate.id);
    all.into()
}
