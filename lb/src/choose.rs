//! From what the tables know to one backend.

use crate::affinity::Lookup;
use crate::backend::BackendId;
use crate::balance::Balancer;
use crate::pool::Pool;
use core::fmt;
use core::str::FromStr;

/// `--resume-fallback`: where a client goes whose identity no row knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ResumeFallback {
    /// By Maglev on the client's address, whatever the algorithm for new sessions: it may be where it was before.
    #[default]
    SourceIp,
    /// Like a new session.
    Balance,
}

impl fmt::Display for ResumeFallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResumeFallback::SourceIp => "source-ip",
            ResumeFallback::Balance => "balance",
        })
    }
}

impl FromStr for ResumeFallback {
    type Err = String;
    fn from_str(name: &str) -> Result<ResumeFallback, String> {
        match name {
            "source-ip" => Ok(ResumeFallback::SourceIp),
            "balance" => Ok(ResumeFallback::Balance),
            _ => Err(format!("unknown fallback {name:?}, expected source-ip or balance")),
        }
    }
}

/// What a choice may go by, besides the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hints {
    /// What `--hash-on` says: of the client's address, or of the tuple.
    pub hash: u64,
    /// Of the client's address.
    pub address_hash: u64,
    /// 64 random bits.
    pub entropy: u64,
}

/// The backend that the tables name, when they name just one and it may be had: what [`choose`] would say, without hints.
pub fn the_only_one(pool: &Pool, found: &Lookup, eligible: impl Fn(BackendId) -> bool) -> Option<BackendId> {
    let only = found.decision.as_ref()?.backends.single()?;
    (pool.may_resume(only) && eligible(only)).then_some(only)
}

/// Of the backends that the tables name, when they name any.
pub fn choose_own(
    balancer: &mut Balancer,
    pool: &Pool,
    found: &Lookup,
    hints: Hints,
    eligible: impl Fn(BackendId) -> bool,
) -> Option<BackendId> {
    let decision = found.decision.as_ref()?;
    // One of several, and nobody knows which: perhaps where the client was before.
    let blind = !decision.proven && pool.resume_fallback() == ResumeFallback::SourceIp;
    let by_address = if blind && decision.backends.single().is_none() {
        balancer.pick_by_hash(pool, hints.address_hash, |b| decision.backends.contains(b) && eligible(b))
    } else {
        None
    };
    by_address.or_else(|| balancer.pick_among(pool, &decision.backends, hints.hash, hints.entropy, &eligible))
}

/// The backend of this pool for a connection. `balancer` is the worker's for the pool; `eligible` excludes backends of the wrong address family and those tried already.
///
/// A decision of the tables that cannot be followed (its backends were tried) falls back like an unknown identity.
/// `None` when no eligible backend is left.
pub fn choose(
    balancer: &mut Balancer,
    pool: &Pool,
    found: &Lookup,
    hints: Hints,
    eligible: impl Fn(BackendId) -> bool,
) -> Option<BackendId> {
    let own = choose_own(balancer, pool, found, hints, &eligible);
    if own.is_some() {
        return own;
    }
    let by_address = found.kind.is_some() && pool.resume_fallback() == ResumeFallback::SourceIp;
    let mut pick = |may: &dyn Fn(BackendId) -> bool| {
        if by_address {
            balancer.pick_by_hash(pool, hints.address_hash, may)
        } else {
            balancer.pick(pool, hints.hash, hints.entropy, may)
        }
    };
    pick(&|b| !found.avoid.contains(b) && eligible(b)).or_else(|| {
        // Those that have not refused the client's key take no new flows. One that drains may be the one that sealed
        // it.
        let remains = |b| !found.avoid.contains(b) && pool.may_resume(b) && eligible(b);
        let last = pool.members().iter().map(|m| m.id).find(|&b| !found.avoid.is_empty() && remains(b));
        last.or_else(|| pick(&eligible))
    })
}
