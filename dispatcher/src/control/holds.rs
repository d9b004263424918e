//! What holds of a backend, and whose word it is: its operator's, its agent's, the file's, or that of what is seen of it (checks, and what connections
//! show). All of them speak at any time, and none undoes what another has said: what holds follows from what each says now, here and nowhere else.
//!
//! Whether it may be given connections is wanted: an operator's word goes before the agent's, the agent's before the file's, which it can lower and
//! not raise. Whether it can take them is seen: `down` of either is `down`. So a server that fails its checks is down whatever its agent says, and one that
//! is in maintenance is so whatever its checks say.

use super::overrides::{Override, Setting};
use super::socket::api::Holds;
use crate::checks::{Admin, Says};
use lb::State;

/// Whose word it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// Somebody's at the control socket.
    Operator,
    /// The agent's on its host.
    Agent,
    /// The configuration's, be it a file or flags.
    File,
    /// That of its checks.
    Check,
    /// That of probes, and of what clients meet there.
    Passive,
}

impl By {
    /// As events and listings have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            By::Operator => "operator",
            By::Agent => "agent",
            By::File => "file",
            By::Check => "check",
            By::Passive => "passive",
        }
    }
}

/// What each of them says of a backend.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// What the file has; none: it has no such backend.
    pub file: Option<State>,
    /// What workers were told; none: it is leaving.
    pub in_force: Option<State>,
    /// An override of its state, if there is one.
    pub operator: Option<&'a Override>,
    /// What its agent says.
    pub agent: Option<&'a Says>,
    /// `up`, `down` or `differs`: what workers see.
    pub health: &'a str,
    /// Who says that it is not up, and why.
    pub against: Option<(By, &'a str)>,
    /// Seconds until what is said against it is looked at anew.
    pub until: Option<f64>,
}

/// The override of a backend's state among those about it.
pub fn operators<'a>(mut about: impl Iterator<Item = &'a Override>) -> Option<&'a Override> {
    about.find(|one| matches!(one.what, Setting::State(..)))
}

impl Said<'_> {
    /// Whose word the state in force is.
    pub fn wanted_by(&self) -> By {
        match (self.operator, self.agent.and_then(state)) {
            (Some(_), _) => By::Operator,
            // It lowers, and does not raise.
            (None, Some(state)) if self.in_force == Some(state) && self.file.unwrap_or_default() != state => By::Agent,
            _ => By::File,
        }
    }

    /// What holds, at `now` in seconds since 1970.
    pub fn holds(&self, now: u64) -> Holds {
        let Some(in_force) = self.in_force else {
            return Holds { state: "leaving".into(), by: None, why: None, until: None };
        };
        let by = self.wanted_by();
        let dead = self.health != "up" && in_force != State::Down;
        if dead {
            let (by, why) = self.against.unzip();
            let (by, why) = (by.map(|by| by.as_str().to_string()), why.map(str::to_string));
            return Holds { state: self.health.to_string(), by, why, until: self.until };
        }
        let why = match by {
            By::Operator => self.operator.and_then(|one| one.why.clone()),
            By::Agent => self.agent.map(Says::to_string),
            _ => None,
        };
        let until = self.operator.and_then(|one| one.until).map(|until| until.saturating_sub(now) as f64);
        // That nobody says anything against it needs no words.
        let by = (in_force != State::Up || by == By::Operator).then(|| by.as_str().to_string());
        Holds { state: in_force.to_string(), by, why, until: until.filter(|_| self.operator.is_some()) }
    }
}

/// The state that an agent wants, other than up.
pub fn state(says: &Says) -> Option<State> {
    match (&says.down, says.admin) {
        (Some(_), _) | (None, Some(Admin::Maint)) => Some(State::Down),
        (None, Some(Admin::Drain)) => Some(State::Draining),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
