//! Which ticket keys a server has, by what it gives us: the first 16 bytes of its tickets, where they are the name of a key.
//!
//! Two handshakes, of which the second offers what the first was given: so it is also known whether the server takes its own tickets. The
//! identities stand in hellos, of which that of the second handshake is sent; further tickets are read in hellos that are not. Where there are not two different
//! tickets by then, as before TLS 1.3, a third handshake begins anew. If all of them begin alike it is a name: 128 bits do not meet by chance. If
//! not, the server's tickets have no names, which is worth knowing as well: a ticket that no known key explains can be of such a server only.

use super::run::Outcome;
use super::tls::{Handshake, Tls};
use crate::time::Time;
use core::time::Duration;
use lb::{Identity, IdentityKind, KeyName, Offered};

/// Between two looks. Servers that change their keys by themselves do it hourly at most.
pub const EVERY: Duration = Duration::from_secs(60);
/// Not sooner than this, whoever asks for it.
pub const AT_MOST_EVERY: Duration = Duration::from_secs(5);
/// What was learned holds for so long.
const HOLDS: Duration = Duration::from_secs(200);
/// Names that are told of one server.
const TOLD: usize = 8;

/// What is known of a server's tickets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KeyState {
    /// Nothing.
    #[default]
    Unknown,
    /// They begin with the name of a key, and which names it uses now is known.
    Named,
    /// They begin with no name, or there are none.
    Nameless,
}

impl KeyState {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            KeyState::Unknown => "unknown",
            KeyState::Named => "named",
            KeyState::Nameless => "nameless",
        }
    }
}

/// Where a look has got to.
#[derive(Debug)]
enum Stage {
    First(Tls),
    Second(Tls),
    Third(Tls),
}

/// What is known of one server's ticket keys, and how it is learned.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub state: KeyState,
    /// The names seen, the latest last, and when each was first seen.
    pub names: Vec<(KeyName, Time)>,
    /// Until then it holds.
    until: Time,
    /// It takes its own tickets; none: it gave none, or nobody knows.
    pub takes_own: Option<bool>,
    /// Why it could not be learned, the last time.
    pub failed: Option<String>,
    stage: Option<Stage>,
    tickets: Vec<Vec<u8>>,
    /// What differed once is looked at once more before it counts.
    differed: bool,
}

/// What follows from an answer.
pub(super) enum Next {
    /// One more handshake.
    Handshake(Box<Handshake>),
    /// It is done; a name, where there is one.
    Done(Option<KeyName>),
}

impl Keys {
    /// Begins a look, by handshakes as `fresh` makes them.
    pub fn begin(&mut self, fresh: Option<Tls>, now: Time) -> Option<Box<Handshake>> {
        let tls = fresh?;
        let handshake = tls.begin(true, now)?;
        self.tickets.clear();
        self.stage = Some(Stage::First(tls));
        Some(Box::new(handshake))
    }

    /// The names are known; `None` before a first look has come to anything.
    pub fn are_named(&self) -> Option<bool> {
        let new = self.until == Time::ZERO && self.failed.is_none();
        (!new).then_some(self.state == KeyState::Named)
    }

    /// A look is under way.
    pub fn is_looking(&self) -> bool {
        self.stage.is_some()
    }

    /// The look is given up: the server is another, or gone.
    pub fn give_up(&mut self) {
        self.stage = None;
    }

    /// A handshake has come to this. `fresh` makes one that knows of no session.
    pub fn answer(&mut self, outcome: &Outcome, fresh: impl FnOnce() -> Option<Tls>, now: Time) -> Next {
        if let Err(why) = &outcome.result {
            self.stage = None;
            self.failed = Some(why.clone());
            return Next::Done(None);
        }
        match self.stage.take() {
            Some(Stage::First(tls)) => self.go_on(tls, Stage::Second, now),
            Some(Stage::Second(tls)) => {
                self.takes_own = outcome.offered.is_some().then_some(outcome.resumed);
                self.tickets.extend(outcome.offered.clone());
                self.add(tls.take_tickets(now));
                match (self.tickets.len(), fresh()) {
                    (1, Some(tls)) => self.go_on(tls, Stage::Third, now),
                    _ => self.conclude(now),
                }
            }
            Some(Stage::Third(tls)) => {
                self.add(tls.take_tickets(now));
                self.conclude(now)
            }
            None => Next::Done(None),
        }
    }

    fn go_on(&mut self, tls: Tls, stage: fn(Tls) -> Stage, now: Time) -> Next {
        match tls.begin(true, now) {
            Some(handshake) => {
                self.stage = Some(stage(tls));
                Next::Handshake(Box::new(handshake))
            }
            None => Next::Done(None),
        }
    }

    fn add(&mut self, tickets: Vec<Vec<u8>>) {
        for ticket in tickets {
            if !self.tickets.contains(&ticket) {
                self.tickets.push(ticket);
            }
        }
    }

    fn conclude(&mut self, now: Time) -> Next {
        self.failed = None;
        let names: Vec<Option<KeyName>> = self.tickets.iter().map(|ticket| name_of(ticket)).collect();
        let name = names.first().copied().flatten().filter(|name| names.iter().all(|other| *other == Some(*name)));
        let name = name.filter(|_| names.len() > 1);
        self.tickets.clear();
        match name {
            Some(name) => {
                self.differed = false;
                let known = self.names.iter().position(|(known, _)| *known == name);
                let seen = known.map_or((name, now), |at| self.names.remove(at));
                self.names.push(seen);
                if self.names.len() > TOLD {
                    self.names.remove(0);
                }
                self.state = KeyState::Named;
            }
            // A key may have changed between two tickets.
            None if self.state == KeyState::Named && !self.differed => self.differed = true,
            None => (self.state, self.differed) = (KeyState::Nameless, false),
        }
        self.until = now + HOLDS;
        Next::Done(name)
    }

    /// A look has shown something new that one more look is to confirm.
    pub fn is_in_doubt(&self) -> bool {
        self.differed && self.stage.is_none()
    }

    /// What is known is known no more, when it was not looked at again for long. True when that has changed something.
    pub fn expire(&mut self, now: Time) -> bool {
        let over = self.state != KeyState::Unknown && now >= self.until;
        if over {
            self.state = KeyState::Unknown;
        }
        over
    }
}

fn name_of(ticket: &[u8]) -> Option<KeyName> {
    Identity::new(&Offered { kind: IdentityKind::Psk, bytes: ticket })?.name().copied()
}
