//! How long a TLS handshake holds units of its backend's limit: from the dial to the client's first record after the server's hello, which shows that the
//! costly part is done; or to an alert of the server's, or its FIN; or for ten seconds, so that nobody holds them by silence.
//!
//! It is read off single segments, without putting streams in order: what is lost or comes late ends it a segment later.

use super::connection::{Connection, Handshake, State};
use super::hot::Through;
use crate::flow::Side;
use crate::time::Time;
use crate::wire::Seq;
use core::time::Duration;

/// Longest.
const LONGEST: Duration = Duration::from_secs(10);

/// Record types (RFC 8446 section 5.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
/// Handshake messages (section 4).
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// The first bytes of the random value by which a HelloRetryRequest is told from a ServerHello (section 4.1.3).
const RETRY_REQUEST: [u8; 4] = [0xcf, 0x21, 0xad, 0x74];

/// What a segment shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// The server's hello has come: so long after it had answered the dial.
    pub took: Option<Duration>,
    /// It holds its units no longer.
    pub over: bool,
}

/// The backend has answered, and is given what is held: when it is over in any case.
pub fn begins(c: &mut Connection, now: Time) -> Time {
    if let State::Spliced(Some(unacked)) = &c.state {
        c.handshake = Some(Handshake { since: now, given: unacked.stream.next_seq(), answered: None });
    }
    now + LONGEST
}

/// When it is over in any case.
pub fn ends_at(handshake: &Handshake) -> Time {
    handshake.since + LONGEST
}

/// A segment of `side`'s that was passed on, at `seq` in the client's numbers.
pub fn passes(
    through: &Through,
    c: &mut Connection,
    side: Side,
    seq: Seq,
    payload: &[u8],
    fin: bool,
    now: Time,
) -> Seen {
    let Some(handshake) = &mut c.handshake else { return Seen::default() };
    // What was noted of it, or is before what was.
    if (seq + payload.len() as u32).is_after(through.window(side).next) {
        return Seen::default();
    }
    match side {
        Side::Server => {
            let first = handshake.answered.is_none() && !payload.is_empty() && seq == c.cookie + 1;
            if first && !is_retry_request(payload) {
                handshake.answered = Some(now);
            }
            let hello = first && payload[0] == HANDSHAKE && payload.get(5) == Some(&SERVER_HELLO);
            let took = hello.then(|| now.since(handshake.since)).filter(|_| handshake.answered.is_some());
            // A hello that was asked for again is answered behind the first answer.
            if !first && !payload.is_empty() {
                handshake.answered.get_or_insert(now);
            }
            Seen { took, over: fin || first && payload[0] == ALERT }
        }
        Side::Client => {
            let new = usize::try_from(seq.distance_to(handshake.given)).unwrap_or(0);
            let rest = payload.get(new..).unwrap_or_default();
            let over = handshake.answered.is_some() && !rest.is_empty() && !begins_with_hello(rest);
            Seen { took: None, over: over || fin }
        }
    }
}

fn is_retry_request(record: &[u8]) -> bool {
    record[0] == HANDSHAKE && record.get(5) == Some(&SERVER_HELLO) && record.get(11..15) == Some(&RETRY_REQUEST)
}

/// A second hello, perhaps behind the empty record that some put there for the sake of old boxes on the way (RFC 8446 appendix D.4).
fn begins_with_hello(records: &[u8]) -> bool {
    let records = match records {
        [CHANGE_CIPHER_SPEC, 3, _, 0, 1, 1, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    records[0] == HANDSHAKE && records.get(5).is_none_or(|kind| *kind == CLIENT_HELLO)
}
