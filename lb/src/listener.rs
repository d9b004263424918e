//! Where clients connect to, and how many flows are there.
//!
//! A listener that is no longer wanted is *leaving* until no flow is left that came by it: its address is ours, and its frames are taken, for as
//! long; nothing begins there any more.
//!
//! **Who writes, who reads.** Workers count flows when they open and forget one. Whoever makes the next [`Directory`](crate::Directory) reads
//! the count of a listener that is leaving: when all workers have taken over the directory in which it is, the count only falls, so none is none.

use crate::directory::ServiceId;
use core::sync::atomic::{AtomicU32, Ordering::*};
use std::net::SocketAddr;
use std::sync::Arc;

/// Counters of one listener: so many workers have one of their own.
const SHARDS: usize = 16;

/// A cache line of its own (128: adjacent lines are fetched in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(AtomicU32);

/// Flows of all workers in their tables, those included that are over and remembered for a moment. Share it as `Arc`.
#[derive(Debug, Default)]
pub struct FlowCount([Shard; SHARDS]);

impl FlowCount {
    /// A worker has one more.
    pub fn opened(&self, worker: usize) {
        self.0[worker % SHARDS].0.fetch_add(1, Relaxed);
    }

    /// A worker has forgotten one.
    pub fn closed(&self, worker: usize) {
        // What it did with the flow is done for whoever sees that none is left.
        let before = self.0[worker % SHARDS].0.fetch_sub(1, Release);
        debug_assert!(before > 0, "more flows closed than opened");
    }

    /// None is left. Of a listener that is leaving, to be asked when all workers have taken over the directory in which it is.
    pub fn is_none(&self) -> bool {
        self.0.iter().all(|shard| shard.0.load(Acquire) == 0)
    }
}

/// A listener of a service.
#[derive(Clone, Debug)]
pub struct Listener {
    pub(crate) addr: SocketAddr,
    pub(crate) service: ServiceId,
    pub(crate) leaving: bool,
    pub(crate) flows: Arc<FlowCount>,
}

impl Listener {
    /// Its address and port; an IPv4 address is written as one.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whose it is; when it is leaving, whose it was.
    pub fn service(&self) -> ServiceId {
        self.service
    }

    /// No longer wanted: nothing begins here.
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Flows that came by it; the same counters in all versions.
    pub fn flows(&self) -> &Arc<FlowCount> {
        &self.flows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_left_when_every_worker_has_forgotten_its_flows() {
        let flows = FlowCount::default();
        assert!(flows.is_none());
        for worker in [0, 3, 3 + SHARDS] {
            flows.opened(worker);
        }
        for worker in [3, 0, 3 + SHARDS] {
            assert!(!flows.is_none());
            flows.closed(worker);
        }
        assert!(flows.is_none());
    }
}
