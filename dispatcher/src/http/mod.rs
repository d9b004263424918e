//! Plain HTTP/1 in passing (RFC 9112): which cookie a connection's first request has and what it is for, and which cookies the server sets.
//!
//! * [`RequestWalk`], [`Request`]: the head of the first request, held until a backend is chosen.
//! * [`Responses`]: reads what the server sends, and tells the affinity table which cookies it sets; [`Requests`]: reads along what it answers to.
//! * [`Readings`]: a bounded pool of those.
//!
//! **What is believed.** Rows are made by `Set-Cookie` in the head of a response alone. That of the first response is where the server's stream begins; where a later
//! one begins is known while every body before it can be skipped exactly, for which the requests have to be known, too: the answer to `HEAD` has none,
//! whatever it says of its length. Nothing is guessed: what could be read in two ways (two lengths, a line that breaks oddly, a segment that was said twice and not
//! the same, more than there are places for) ends the reading, and the connection goes on unread.

mod body;
mod head;
mod readings;
mod request;
mod requests;
mod responses;
mod set_cookie;
mod words;

pub use readings::{LONGEST, QUIET, Reading, Readings};
pub use request::{MAX_COOKIES, Request, RequestWalk, Walked};
pub use requests::{Method, Pending, Requests};
pub use responses::{MAX_SET, Responses};
pub use set_cookie::{Life, SetCookie};
