//! What is told of checks.

use super::agent::Says;
use super::doubt::Suspicion;
use super::keys::KeyState;
use super::verdict::Verdict;
use crate::time::Time;
use lb::{BackendId, CheckKind, KeyName};

/// Of one backend.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which.
    pub backend: BackendId,
    /// Which holder of the slot.
    pub generation: u32,
    /// How it is checked.
    pub kind: Option<CheckKind>,
    /// What has come of it.
    pub verdict: Verdict,
    /// What clients' connections have raised against it, if anything stands.
    pub suspicion: Option<Suspicion>,
    /// What its agent says; none: it has none.
    pub agent: Option<AgentReport>,
    /// What is known of its ticket keys; none where nobody looks.
    pub keys: Option<KeyReport>,
}

/// What a backend's agent says.
#[derive(Clone, Debug)]
pub struct AgentReport {
    /// All in all.
    pub says: Says,
    /// When it said something else for the last time.
    pub since: Time,
    /// Why nothing was heard of it, the last time.
    pub failed: Option<String>,
}

/// What is known of a backend's ticket keys.
#[derive(Clone, Debug)]
pub struct KeyReport {
    /// Whether they have names.
    pub state: KeyState,
    /// Those seen, the latest last.
    pub names: Vec<KeyName>,
    /// When each of them was first seen.
    pub since: Vec<Time>,
    /// Whether it takes the tickets that it issues.
    pub takes_own: Option<bool>,
    /// Why nothing could be learned, the last time.
    pub failed: Option<String>,
}
