//! What is asked of an admission, and what it answers.

use super::class::{ClassId, Cost};
use super::queue::Ticket;
use super::slots::{Slots, Used};
use crate::backend::BackendId;
use crate::time::Millis;
use core::fmt;
use core::num::NonZeroU16;

#[cfg(doc)]
use super::{Admission, class::Classes};

/// Somebody who wants a connection to a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Whatever the caller knows it by; comes back in [`Grant`] and [`Expired`].
    pub token: u64,
    /// By [`Classes::class_of`].
    pub class: ClassId,
    /// What it will cost its own server; what is [`Cost::Resumed`] there is a full handshake at any other, and counted as one.
    pub cost: Cost,
    /// The server that can resume its session. Of several that can: one with [`room`](Admission::has_room), or any of them.
    pub own: Option<BackendId>,
}

/// A place at a server: to be given back by [`Admission::freed`] of the admission that gave it, or of one that has followed it, whatever becomes of the
/// connection; when there is none any more, by [`Slot::give_back`].
#[must_use = "a slot that is not given back is lost"]
#[derive(PartialEq, Eq, Debug)]
pub struct Slot {
    pub(super) backend: BackendId,
    pub(super) class: ClassId,
    pub(super) units: u8,
    /// Of the ledger in which it is counted.
    pub(super) ledger: NonZeroU16,
}

impl Slot {
    /// At whom.
    pub fn backend(&self) -> BackendId {
        self.backend
    }

    /// Units of a handshake that is not over.
    pub fn units(&self) -> u8 {
        self.units
    }

    /// By which class it was taken.
    pub fn class(&self) -> ClassId {
        self.class
    }

    /// Gives it back where no admission is left that could: nobody is told.
    pub fn give_back(self, slots: &Slots) {
        slots.give_back(self.backend, Used { connections: 1, units: u32::from(self.units) });
    }

    /// The same of its handshake alone.
    pub fn handshake_done(&mut self, slots: &Slots) {
        let units = core::mem::take(&mut self.units);
        if units > 0 {
            slots.give_back(self.backend, Used { connections: 0, units: u32::from(units) });
        }
    }
}

/// One that waited by terms that others have followed, or in another process: to be asked again by [`Admission::resume`] or [`Admission::stand`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parked {
    /// As it was made; its class is one of the former terms'.
    pub request: Request,
    /// Since when it has waited.
    pub since: Millis,
    /// Its dial to this one failed.
    pub failed: Option<BackendId>,
}

/// What becomes of a request.
#[must_use = "it holds a slot or a place in a line"]
#[derive(PartialEq, Eq, Debug)]
pub enum Answer {
    /// It may dial.
    Admitted(Slot),
    /// It waits until [`Admission::next`] or [`Admission::expired`] names it, or it leaves.
    Wait(Ticket),
    /// There is no room to wait, either.
    Refused(Refusal),
}

/// Why one may not even wait.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// Its class's line is full, and the last one's is.
    LastClassFull,
    /// Its dial failed, and no place is left for such.
    NoPlace,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::LastClassFull => "last-class-full",
            Refusal::NoPlace => "no-place",
        })
    }
}

/// One who waited and may dial now.
#[must_use = "it holds a slot"]
#[derive(PartialEq, Eq, Debug)]
pub struct Grant {
    /// Of its request.
    pub token: u64,
    /// Where.
    pub slot: Slot,
    /// Milliseconds that it waited.
    pub waited: u64,
    /// It has an own server, and this is another one.
    pub spilled: bool,
}

/// One who has waited as long as its class waits, and is out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expired {
    /// Of its request.
    pub token: u64,
    /// What it was of, whatever line it stood in.
    pub class: ClassId,
    /// Milliseconds that it waited.
    pub waited: u64,
}
