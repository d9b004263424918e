//! What changes of services, pools and backends have left to do, see `apply`.

use super::PortId;
use crate::flow::FlowId;
use crate::wire::Addr;
use lb::affinity::Forgetting;
use lb::{BackendId, BackendSet, MAX_BACKENDS, Released};
use std::collections::VecDeque;
use std::sync::Arc;

/// Addresses announced in one call.
const ANNOUNCED: usize = 32;

/// What is still to be done of changes.
pub(super) struct Unfinished {
    /// What all workers say of slots.
    pub released: Arc<Released>,
    /// By slot: what flows in the table name it.
    pub users: Box<[u32]>,
    /// Those that left, and whose rows are not being cleared yet.
    pub rows_of: BackendSet,
    pub forgetting: Option<Forgetting>,
    /// Without rows: the slot is let go of when no flow names it.
    pub rowless: BackendSet,
    /// Whose flows are reset, and which place of the table is next.
    pub resetting: Option<(BackendSet, FlowId)>,
    /// Ours, and not said yet.
    pub unannounced: VecDeque<(PortId, Addr)>,
}

impl Unfinished {
    pub fn new(released: Arc<Released>, unannounced: Vec<(PortId, Addr)>) -> Unfinished {
        Unfinished {
            released,
            users: vec![0; MAX_BACKENDS].into_boxed_slice(),
            rows_of: BackendSet::EMPTY,
            forgetting: None,
            rowless: BackendSet::EMPTY,
            resetting: None,
            unannounced: unannounced.into(),
        }
    }

    /// A flow names the slot.
    pub fn refer(&mut self, id: BackendId) {
        self.users[id.index()] += 1;
    }

    /// It does no more.
    pub fn unrefer(&mut self, id: BackendId) {
        let users = &mut self.users[id.index()];
        debug_assert!(*users > 0, "{id:?} was not referred to");
        *users = users.saturating_sub(1);
    }

    /// There is something to do that waits for nothing.
    pub fn is_due(&self) -> bool {
        self.forgetting.is_some()
            || !self.rows_of.is_empty()
            || self.resetting.is_some()
            || !self.unannounced.is_empty()
    }

    /// Addresses to be announced now.
    pub fn next_addresses(&mut self) -> Vec<(PortId, Addr)> {
        let n = self.unannounced.len().min(ANNOUNCED);
        self.unannounced.drain(..n).collect()
    }
}
