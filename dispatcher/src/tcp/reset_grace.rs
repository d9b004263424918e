//! Who is given the benefit of the doubt: the first segment to arrive of a new connection need not be the first sent.
//!
//! When the handshake's last ACK and the segment behind it are lost or overtaken, what arrives is data with a number from which
//! the cookie cannot be verified, and perhaps, when our SYN-ACK came twice, an empty ACK from behind that data. A reset, as for
//! any stranger, would break a good connection; silence lets the client repeat
//! what is missing, which verifies. But after a restart of ours all clients are strangers, and those a reset serves best. So silence
//! comes first, and the reset when the same connection is still unknown after a while: after no longer than we have been there ourselves, since a
//! connection that is new cannot be older than that.
//!
//! Bounded: a fixed number of places in sets, found by hash; a newcomer takes the oldest place of its set, whose owner is in doubt anew. Several to a
//! set, because two connections that took one place from each other in turn would both be in doubt for ever.

use crate::time::Time;
use core::time::Duration;

/// Sets of places. A few segments in a thousand begin a connection out of order; after a restart of ours every upload is in doubt.
const SETS: usize = 1024;
/// Places of a set.
const WAYS: usize = 4;
/// Longer than a client takes to repeat its first segment, and to repeat it once more when that is lost too (RFC 6298: after one second,
/// and two more, or less when it knows the round trip).
const PATIENCE: Duration = Duration::from_secs(4);
/// Soon after our start: an earlier connection's next repetition but one is reset then, and a new one has repeated what was lost. That comes a
/// second after the first, to the millisecond (RFC 6298: the first time-out): what it begins with, and what follows in the same burst, must still be
/// within, however late they come by what paths and stacks add.
const LEAST_PATIENCE: Duration = Duration::from_millis(1200);
/// After that long the same tuple is another connection.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Connections in doubt.
#[derive(Debug)]
pub struct ResetGrace {
    born: Time,
    places: Box<[[(u64, Time); WAYS]]>,
}

impl ResetGrace {
    /// Nobody yet.
    pub fn new(now: Time) -> ResetGrace {
        ResetGrace { born: now, places: vec![[(0, Time::ZERO); WAYS]; SETS].into_boxed_slice() }
    }

    /// A segment of a connection that cannot be verified, by a keyed hash of its tuple: true when silence is better than a reset.
    /// One without `data` raises no doubt by itself.
    pub fn granted(&mut self, hash: u64, data: bool, now: Time) -> bool {
        let set = &mut self.places[hash as usize % SETS];
        let known = set.iter().find(|(owner, at)| *owner == hash && now.since(*at) <= FORGOTTEN);
        let Some((_, first)) = known else {
            if data && let Some(oldest) = set.iter_mut().min_by_key(|(_, at)| *at) {
                *oldest = (hash, now);
            }
            return data;
        };
        now.since(*first) < PATIENCE.min(first.since(self.born).max(LEAST_PATIENCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_comes_first_and_a_reset_when_nothing_verifies() {
        let mut grace = ResetGrace::new(Time::ZERO);
        let at = |ms: u64| Time::from_millis(100_000 + ms);
        assert!(!grace.granted(7, false, at(0)), "an empty segment of a stranger");
        assert!(grace.granted(7, true, at(0)) && grace.granted(7, true, at(3500)));
        assert!(grace.granted(7, false, at(3500)), "an empty segment behind data");
        assert!(!grace.granted(7, true, at(4500)) && !grace.granted(7, true, at(50_000)));
        assert!(grace.granted(7, true, at(70_000)), "another connection by now");
        let others = |n: u64| 7 + n * SETS as u64;
        assert!((1..4).all(|n| grace.granted(others(n), true, at(70_000 + n))));
        assert!(!grace.granted(7, true, at(75_000)), "they are beside it");
        assert!(
            grace.granted(others(4), true, at(75_001)) && grace.granted(7, true, at(80_000)),
            "its place was taken"
        );
    }

    #[test]
    fn soon_after_a_start_strangers_are_not_kept_waiting() {
        let mut grace = ResetGrace::new(Time::from_millis(1000));
        let at = |ms: u64| Time::from_millis(1000 + ms);
        assert!(grace.granted(7, true, at(150)) && grace.granted(7, true, at(1200)), "a new connection may begin so");
        assert!(!grace.granted(7, true, at(1400)), "what its sender repeats still is older than we are");
        assert!(
            grace.granted(8, true, at(3000)) && grace.granted(8, true, at(5900)) && !grace.granted(8, true, at(6100))
        );
    }
}
