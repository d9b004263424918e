//! One process takes over from another (`dispatcher run --takeover`): what they say to each other.
//!
//! The new one comes by the control socket of the old one, as `ctl` does, and keeps the connection ([`crate::control::socket::router::TAKEOVER`]). Then, in this order:
//!
//! | who | says | and does |
//! |---|---|---|
//! | new | `HELLO` | its version, and of this protocol |
//! | old | `WELCOME` | what is fixed, the secret, the clock, what its connections need, its listening sockets; or `REFUSED` |
//! | new | `PREPARED` | all is built, all ports are open in standby |
//! | old | `SESSIONS` | the rows of sessions that there are by now, most of what there is; trails; what has happened; what checks have counted |
//! | new | `KNOWN` | they are in its tables |
//! | old | `BEGIN` | |
//! | new | `BEGUN` | frames arrive at both |
//! | old | `ESTATE` | its workers stand still, and have written all down |
//! | new | `TAKEN` | all of it is in its tables |
//! | old | `GO` | the last step: it ends, whatever happens, and has never been |
//! | new | | runs |
//!
//! Devices that cannot be in two hands change hands in front of the last step (`cards`).
//!
//! Until `GO` has been sent the old one goes on when anything goes wrong, or takes too long, and says why (`REFUSED`). The new one ends then, and says so. If the old one dies after its
//! estate is complete, the new one runs: nobody else would.

mod before;
mod cards;
mod give;
mod take;
mod welcome;

pub use before::CheckCounts;
pub use give::{Failed, Giver, give};
pub use take::{Heir, Taken};

use crate::io::pass::{Message, Passage};
use crate::pack::{Pack, Packer, Unpacker, Unreadable};
use core::time::Duration;
use std::io::{self, ErrorKind};
use std::time::Instant;

/// Of this protocol. Formats of what is written down have versions of their own.
const PROTOCOL: u32 = 1;

const HELLO: u32 = 1;
const WELCOME: u32 = 2;
const REFUSED: u32 = 3;
const PREPARED: u32 = 4;
const BEGIN: u32 = 5;
const BEGUN: u32 = 6;
const ESTATE: u32 = 7;
const TAKEN: u32 = 8;
const GO: u32 = 9;
const SESSIONS: u32 = 10;
const KNOWN: u32 = 11;

/// How long a message may take that needs no work.
const SOON: Duration = Duration::from_secs(5);

/// How long the new one may take to prepare itself: tables, rings, programs.
const PREPARE: Duration = Duration::from_secs(20);

/// Longer than all of that for as many connections as there may be: nobody waits for ever.
const LONGEST: Duration = Duration::from_secs(3600);

fn pack_all<T>(all: &[T], to: &mut Packer, one: impl Fn(&T, &mut Packer)) {
    (all.len() as u32).pack(to);
    all.iter().for_each(|each| one(each, to));
}

fn unpack_all<T>(
    from: &mut Unpacker<'_>,
    one: impl Fn(&mut Unpacker<'_>) -> Result<T, Unreadable>,
) -> Result<Vec<T>, Unreadable> {
    (0..u32::unpack(from)?).map(|_| one(from)).collect()
}

/// Says why not, and means that nothing more will come.
fn refuse(to: &mut Passage, why: &str) {
    // Who has gone need not hear it.
    _ = to.send(REFUSED, why.as_bytes(), &[], SOON);
}

fn in_words(e: &io::Error) -> String {
    match e.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => "it has ended".into(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "it takes too long".into(),
        _ => e.to_string(),
    }
}

/// The next message, which is to be of this kind.
fn expect(from: &mut Passage, kind: u32, until: Instant) -> Result<Message, String> {
    let message = from.receive(until).map_err(|e| in_words(&e))?;
    match message.kind {
        found if found == kind => Ok(message),
        REFUSED => Err(String::from_utf8_lossy(&message.bytes).into_owned()),
        other => Err(format!("it says {other} where {kind} is due")),
    }
}
