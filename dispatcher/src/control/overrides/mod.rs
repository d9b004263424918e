//! What operators said while the dispatcher ran: overrides of the configuration.
//!
//! An override says what one thing is to be (a backend's state, its weight, whether it is in a pool at all), who said so, when, why, and
//! until when. It remembers what the configuration had said of the same thing: when that changes, the configuration was changed on purpose,
//! and wins. Nothing else undoes an override but its time, or another order.
//!
//! * [`mod@lay`]: overrides laid over a configuration.
//! * [`saved`]: the file that keeps them over a restart.
//!
//! Times are seconds since 1970 by the wall clock, so that they mean the same after a restart.

pub mod lay;
pub mod saved;

use super::backend::shown;
use core::fmt;
use core::time::Duration;
use lay::{lay, members_of};
use lb::{MemberSpec, State, Wanted};

/// Most overrides at once. Full: further ones are refused; what is to last belongs into the configuration.
pub const MAX_OVERRIDES: usize = 1024;

/// Most characters of a reason.
pub const MAX_WHY: usize = 200;

/// Something that an operator wants other than the configuration has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// Who says so.
    pub who: String,
    /// What is to be.
    pub what: What,
    /// For so long; for good, if it is not said.
    pub time: Option<Duration>,
    /// The reason that was given.
    pub why: Option<String>,
}

/// What is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A backend has another state: drained, disabled, or ready.
    State(String, State),
    /// A backend has another weight, in all its pools.
    Weight(String, u16),
    /// There is one more backend in a pool.
    Add {
        /// The pool.
        pool: String,
        /// The backend; its state is that which it has elsewhere.
        backend: Box<MemberSpec>,
    },
    /// A backend goes, out of all its pools.
    Remove {
        /// Its name.
        backend: String,
        /// Its connections are reset, instead of waited for.
        now: bool,
    },
}

/// The verb that brings a backend into a state.
pub const fn verb(state: State) -> &'static str {
    match state {
        State::Up => "ready",
        State::Draining => "drain",
        State::Down => "disable",
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::State(backend, state) => write!(f, "{} {backend}", verb(*state)),
            What::Weight(backend, weight) => write!(f, "weight {backend} {weight}"),
            What::Add { pool, backend } => write!(f, "add {pool} {}", shown(backend)),
            What::Remove { backend, now } => write!(f, "remove {backend}{}", if *now { " --now" } else { "" }),
        }
    }
}

/// What an override sets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Setting {
    /// A backend's state.
    State(String, State),
    /// A backend's weight, in all its pools.
    Weight(String, u16),
    /// A backend is in this pool.
    Added {
        /// The pool.
        pool: String,
        /// The backend; its state is that which it has elsewhere.
        backend: Box<MemberSpec>,
    },
    /// What the configuration has under this name is in no pool.
    Removed(String),
}

impl Setting {
    /// The backend that it is about.
    pub fn backend(&self) -> &str {
        match self {
            Setting::State(name, _) | Setting::Weight(name, _) | Setting::Removed(name) => name,
            Setting::Added { backend, .. } => &backend.name,
        }
    }

    /// Both set the same thing, so that one takes the other's place.
    pub fn sets_the_same(&self, other: &Setting) -> bool {
        match (self, other) {
            (Setting::State(a, _), Setting::State(b, _))
            | (Setting::Weight(a, _), Setting::Weight(b, _))
            | (Setting::Removed(a), Setting::Removed(b)) => a == b,
            (Setting::Added { pool: p, backend: a }, Setting::Added { pool: q, backend: b }) => {
                p == q && a.name == b.name
            }
            _ => false,
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::State(backend, state) => write!(f, "{} {backend}", verb(*state)),
            Setting::Weight(backend, weight) => write!(f, "weight {backend} {weight}"),
            Setting::Added { pool, backend } => write!(f, "add {pool} {}", shown(backend)),
            Setting::Removed(backend) => write!(f, "remove {backend}"),
        }
    }
}

/// An override.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Override {
    /// What it sets.
    pub what: Setting,
    /// Who said so.
    pub who: String,
    /// When.
    pub since: u64,
    /// Until when; none: for good.
    pub until: Option<u64>,
    /// The reason given.
    pub why: Option<String>,
    /// What the configuration said of the same thing then: see [`lay::said`].
    pub file: String,
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' (by {}", self.what, self.who)?;
        self.why.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))?;
        f.write_str(")")
    }
}

/// Why an order is not followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wrong {
    /// It is about something that is not there.
    NotThere(String),
    /// It does not fit what is there.
    Conflict(String),
}

/// What an order leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ordered {
    /// All overrides, with the new one.
    pub overrides: Overrides,
    /// What else should be known.
    pub notes: Vec<String>,
}

/// All overrides; of each thing one at most.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Overrides(Vec<Override>);

impl Overrides {
    /// Of these. `Err`: they are too many, or two of them set the same.
    pub fn new(all: Vec<Override>) -> Result<Overrides, String> {
        if all.len() > MAX_OVERRIDES {
            return Err(format!("{} overrides, at most {MAX_OVERRIDES} are possible", all.len()));
        }
        for (n, one) in all.iter().enumerate() {
            if all[..n].iter().any(|other| other.what.sets_the_same(&one.what)) {
                return Err(format!("'{}' sets what another one sets, too", one.what));
            }
        }
        Ok(Overrides(all))
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Override> {
        self.0.iter()
    }

    /// Those about a backend.
    pub fn about<'a>(&'a self, backend: &'a str) -> impl Iterator<Item = &'a Override> {
        self.iter().filter(move |o| o.what.backend() == backend)
    }

    /// When the next one expires.
    pub fn next_expiry(&self) -> Option<u64> {
        self.iter().filter_map(|o| o.until).min()
    }

    /// What comes of an order, given at `now` while the configuration says `file`. `agents` lays over what is wanted what backends' agents say: an order
    /// that says what the file does is kept where an agent says something else.
    pub fn order(
        &self,
        file: &Wanted,
        order: &Order,
        now: u64,
        agents: impl Fn(&Wanted, &Overrides) -> Wanted,
    ) -> Result<Ordered, Wrong> {
        // What has expired is no more.
        let before = lay(file, self, now);
        let (mut next, mut notes) = (before.kept, Vec::new());
        // Without an override it is so already.
        let so_anyway = |next: &Overrides, backend: &str, so: &dyn Fn(&MemberSpec) -> bool| {
            let (members, wanted) = next.members(file, now, backend)?;
            let with_agents = agents(&wanted, next);
            Ok(members.iter().all(|(p, b)| [&wanted, &with_agents].iter().all(|w| so(&w.pools[*p].backends[*b]))))
        };
        let setting = match &order.what {
            What::State(backend, state) => {
                let removed = Setting::Removed(backend.clone());
                if *state == State::Up && next.take(&removed) {
                    notes.push(format!("the removal of backend '{backend}' is taken back"));
                }
                let setting = Setting::State(backend.clone(), *state);
                next.take(&setting);
                (!so_anyway(&next, backend, &|b| b.state == *state)?).then_some(setting)
            }
            What::Weight(backend, weight) => {
                let setting = Setting::Weight(backend.clone(), *weight);
                next.take(&setting);
                (!so_anyway(&next, backend, &|b| b.weight == *weight)?).then_some(setting)
            }
            What::Add { pool, backend } => {
                let name = &backend.name;
                let setting = Setting::Added { pool: pool.clone(), backend: backend.clone() };
                let again = next.take(&setting);
                let Some(there) = before.wanted.pools.iter().find(|p| p.name == *pool) else {
                    return Err(Wrong::NotThere(format!("there is no pool '{pool}'")));
                };
                if !again && there.backends.iter().any(|b| b.name == *name) {
                    return Err(Wrong::Conflict(format!("backend '{name}' is in pool '{pool}' already")));
                }
                Some(setting)
            }
            What::Remove { backend, .. } => {
                next.members(file, now, backend)?;
                next.0.retain(|o| o.what.backend() != backend || matches!(o.what, Setting::Removed(_)));
                // Where the configuration has none of it, it was an addition, which is taken back.
                next.members(file, now, backend).is_ok().then(|| Setting::Removed(backend.clone()))
            }
        };
        match setting {
            Some(what) => {
                if next.0.len() >= MAX_OVERRIDES {
                    let full = format!("there are {MAX_OVERRIDES} overrides: what is to last belongs into the file");
                    return Err(Wrong::Conflict(full));
                }
                let until = order.time.map(|time| now.saturating_add(time.as_secs().max(1)));
                let file = lay::said(file, &what);
                let (who, why) = (order.who.clone(), order.why.clone());
                next.0.push(Override { what, who, since: now, until, why, file });
            }
            None if matches!(order.what, What::Remove { .. }) => {}
            None => notes.push("so it is without an override: none is kept".to_string()),
        }
        Ok(Ordered { overrides: next, notes })
    }

    /// Takes out what sets the same; true when there was one.
    fn take(&mut self, what: &Setting) -> bool {
        let before = self.0.len();
        self.0.retain(|o| !o.what.sets_the_same(what));
        self.0.len() < before
    }

    /// Where a backend is when these are laid over `file`, and what they make of it.
    fn members(&self, file: &Wanted, now: u64, backend: &str) -> Result<(Vec<(usize, usize)>, Wanted), Wrong> {
        let wanted = lay(file, self, now).wanted;
        let members: Vec<_> = members_of(&wanted, backend).collect();
        if members.is_empty() {
            return Err(Wrong::NotThere(format!("there is no backend '{backend}'")));
        }
        Ok((members, wanted))
    }
}

#[cfg(test)]
mod tests;
