//! A server's responses, read in passing: the cookies that their heads set.

use super::body::{Body, LONGEST, Skipped};
use super::head::{Head, Part};
use super::requests::{Method, Pending};
use super::set_cookie::{Life, SetCookie, date};
use super::words::{decimal, field};
use crate::pack::{Pack, Packer, Unpacker, Unreadable};
use arrayvec::ArrayVec;
use lb::{Affinity, Identity, Sighting};

/// So much of a field's line is read. A cookie that is set by a longer one is not learned.
const LINE: usize = 2048;
/// Longest name of a cookie.
const NAME: usize = lb::service::CookieName::LONGEST;
/// Cookies of the name that one response sets: of more the last count.
pub const MAX_SET: usize = 4;

/// Where the reading stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Head,
    Body(Body),
    /// Nothing more is read.
    Over,
}

/// What follows a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    Head,
    Body(Body),
    Over,
}

/// What a head has said so far.
#[derive(Clone, Default, Debug)]
struct Said {
    minor: u8,
    status: u16,
    length: Option<u64>,
    chunked: bool,
    /// Its length is said in two ways, or in one that not everybody reads alike.
    doubtful: bool,
    date: Option<i64>,
    set: ArrayVec<SetCookie, MAX_SET>,
}

/// Reads a server's stream, and tells the affinity table what it sets.
#[derive(Debug)]
pub struct Responses {
    head: Head<LINE>,
    at: At,
    said: Said,
    /// Of the cookie that counts.
    name: ArrayVec<u8, NAME>,
    /// What the client's first request brought, and led it here or might have.
    offered: Option<Identity>,
    /// The first response has come, 1xx apart.
    answered: bool,
    resumed: Option<bool>,
}

impl Default for Responses {
    fn default() -> Self {
        Responses {
            head: Head::default(),
            at: At::Over,
            said: Said::default(),
            name: ArrayVec::new(),
            offered: None,
            answered: false,
            resumed: None,
        }
    }
}

impl Responses {
    /// Begins anew, where it lies: for the cookie `name`, and a client that offers this one.
    pub fn restart(&mut self, name: &[u8], offered: Option<Identity>) {
        self.head.restart();
        self.name.clear();
        // A name that is longer is none.
        let fits = self.name.try_extend_from_slice(name).is_ok();
        self.at = if fits { At::Head } else { At::Over };
        self.said.restart();
        (self.offered, self.answered, self.resumed) = (offered, false, None);
    }

    /// Writes it.
    pub fn pack(&self, to: &mut Packer) {
        let Responses { head, at, said, name, offered, answered, resumed } = self;
        head.pack(to);
        match at {
            At::Head => 0u8.pack(to),
            At::Body(body) => (1u8, *body).pack(to),
            At::Over => 2u8.pack(to),
        }
        said.pack(to);
        to.block(name);
        (*offered, (*answered, *resumed)).pack(to);
    }

    /// The inverse, where it lies.
    pub fn unpack(&mut self, from: &mut Unpacker<'_>) -> Result<(), Unreadable> {
        self.head.unpack(from)?;
        self.at = match u8::unpack(from)? {
            0 => At::Head,
            1 => At::Body(Body::unpack(from)?),
            2 => At::Over,
            _ => return Err(Unreadable::Impossible("where responses are read")),
        };
        self.said = Pack::unpack(from)?;
        from.block_into(&mut self.name)?;
        (self.offered, (self.answered, self.resumed)) = Pack::unpack(from)?;
        Ok(())
    }

    /// The server may have got another request than the one that was read: what it answers says nothing of the cookie that was offered.
    pub fn distrust(&mut self) {
        self.offered = None;
    }

    /// Whether the session went on, as far as the first response shows; none when no cookie was offered.
    pub fn resumed(&self) -> Option<bool> {
        self.resumed
    }

    /// The first response has come.
    pub fn has_answered(&self) -> bool {
        self.answered
    }

    /// So many bytes follow that are nobody's head, at least.
    pub fn skips(&self) -> u64 {
        match &self.at {
            At::Body(body) => body.at_least(),
            _ => 0,
        }
    }

    /// The next bytes of the server's stream, in order. False when there is nothing more to learn.
    pub fn feed(&mut self, mut bytes: &[u8], pending: &mut Pending, affinity: &mut Affinity, seen: Sighting) -> bool {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Over => return false,
                At::Body(body) => match body.skip(&mut bytes, false) {
                    Skipped::All => self.at = At::Head,
                    Skipped::More => return true,
                    Skipped::Lost => self.at = At::Over,
                },
                At::Head => {
                    let Some(part) = self.head.next(&mut bytes) else { return true };
                    let ended = part == Part::End;
                    let reads = self.said.take(part, &self.name);
                    // One of which a part is missing.
                    if reads == Reads::Cookie && self.head.is_cut() {
                        self.said.set.pop();
                    }
                    self.said.doubtful |= reads == Reads::Length && (self.head.is_cut() || self.head.is_folded());
                    if reads == Reads::Nothing {
                        self.at = At::Over;
                    } else if ended {
                        self.head_ends(pending, affinity, seen);
                    }
                }
            }
        }
        self.at != At::Over
    }

    /// A head is whole: what it sets is learned, if it is a response's, and what follows it is known.
    fn head_ends(&mut self, pending: &mut Pending, affinity: &mut Affinity, seen: Sighting) {
        let status = self.said.status;
        self.at = if (100..200).contains(&status) && status != 101 {
            At::Head
        } else {
            let asked = if pending.is_empty() { None } else { pending.pop_at(0) };
            let then = self.said.follows(asked);
            // One that answers nothing that was asked has been said for reasons of the server's own.
            if status != 101 && (asked.is_some() || !self.answered) {
                self.learn(affinity, seen);
            }
            self.answered = true;
            match then {
                Then::Head => At::Head,
                Then::Body(body) => At::Body(body),
                Then::Over => At::Over,
            }
        };
        self.said.restart();
    }

    fn learn(&mut self, affinity: &mut Affinity, seen: Sighting) {
        let Said { set, date, .. } = &self.said;
        for cookie in set {
            match (cookie.life(*date), &cookie.identity) {
                (Life::Session, Some(identity)) => affinity.issued(identity, seen),
                (Life::Seconds(life), Some(identity)) => affinity.issued_for(identity, life.saturating_mul(1000), seen),
                _ => {}
            }
        }
        if self.answered {
            return;
        }
        // Of the cookie that was offered only the answer to the request that brought it tells.
        let Some(offered) = self.offered.take() else { return };
        let last = set.last();
        let over = last.is_some_and(|cookie| cookie.life(*date) == Life::Over);
        let same = last.is_none_or(|cookie| cookie.identity == Some(offered));
        if over {
            // It has ended the session, or never knew it.
            return affinity.deleted(&offered, seen);
        }
        self.resumed = Some(same);
        if same {
            affinity.accepted(&offered, seen);
        } else {
            affinity.refused(&offered, seen);
        }
    }
}

/// What a line is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reads {
    /// The cookie.
    Cookie,
    /// Where the response ends.
    Length,
    /// Anything else.
    Other,
    /// It is no response.
    Nothing,
}

impl Said {
    fn restart(&mut self) {
        let Said { minor, status, length, chunked, doubtful, date, set } = self;
        set.clear();
        (*minor, *status, *length, *chunked, *doubtful, *date) = (0, 0, None, false, false, None);
    }

    fn take(&mut self, part: Part<'_>, cookie: &[u8]) -> Reads {
        match part {
            Part::End => Reads::Other,
            Part::Broken => Reads::Nothing,
            Part::Start(line) => match status(line) {
                Some((minor, status)) => {
                    (self.minor, self.status) = (minor, status);
                    Reads::Other
                }
                None => Reads::Nothing,
            },
            Part::Field(line) => match field(line) {
                Some((name, value)) => self.field(name, value, cookie),
                // Clients differ in what they make of it.
                None => {
                    self.doubtful = true;
                    Reads::Other
                }
            },
        }
    }

    fn field(&mut self, name: &[u8], value: &[u8], cookie: &[u8]) -> Reads {
        if name.eq_ignore_ascii_case(b"set-cookie") {
            let Some(set) = SetCookie::read(value, cookie) else { return Reads::Other };
            if self.set.is_full() {
                self.set.remove(0);
            }
            self.set.push(set);
            Reads::Cookie
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let length = decimal(value);
            self.doubtful |= length.is_none() || self.length.is_some_and(|before| Some(before) != length);
            self.length = length;
            Reads::Length
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.doubtful |= self.chunked || !value.eq_ignore_ascii_case(b"chunked");
            self.chunked = true;
            Reads::Length
        } else {
            if name.eq_ignore_ascii_case(b"date") {
                self.date = date(value);
            }
            Reads::Other
        }
    }

    /// What follows this head, which answers `asked` (RFC 9112 section 6.3).
    fn follows(&self, asked: Option<Method>) -> Then {
        let Some(asked) = asked else { return Then::Over };
        match (self.status, asked) {
            _ if self.doubtful || self.status == 101 => Then::Over,
            (200..300, Method::Connect) => Then::Over,
            (_, Method::Head) | (204 | 304, _) => Then::Head,
            _ => match (self.length, self.chunked) {
                (Some(0), false) => Then::Head,
                (Some(length), false) if length <= LONGEST => Then::Body(Body::Length(length)),
                (None, true) if self.minor == 1 => Then::Body(Body::CHUNKED),
                // To the end of the connection, or for longer than it is worth.
                _ => Then::Over,
            },
        }
    }
}

/// The version after `HTTP/1.` and the status of a response's first line (RFC 9112 section 4).
fn status(line: &[u8]) -> Option<(u8, u16)> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let (version, code, behind) = (rest.get(..2)?, rest.get(2..5)?, rest.get(5));
    let fits = matches!(version, [b'0' | b'1', b' ']) && matches!(behind, None | Some(b' '));
    decimal(code).filter(|code| fits && (100..1000).contains(code)).map(|code| (version[0] - b'0', code as u16))
}

impl Pack for Said {
    fn pack(&self, to: &mut Packer) {
        let Said { minor, status, length, chunked, doubtful, date, set } = self;
        (*minor, *status).pack(to);
        (*length, (*chunked, *doubtful)).pack(to);
        date.pack(to);
        set.pack(to);
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<Said, Unreadable> {
        let (minor, status) = Pack::unpack(from)?;
        let (length, (chunked, doubtful)) = Pack::unpack(from)?;
        let (date, set) = (Pack::unpack(from)?, Pack::unpack(from)?);
        Ok(Said { minor, status, length, chunked, doubtful, date, set })
    }
}

#[cfg(test)]
mod tests;
