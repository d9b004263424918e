//! Who is given the benefit of the doubt: the first segment to arrive of a new connection need not be the first sent.
//!
//! When the handshake's last ACK and the segment behind it are lost or overtaken, what arrives is data with a number from which
//! the cookie cannot be verified, and perhaps, when our SYN-ACK came twice, an empty ACK from behind that data. A reset, as for
//! any stranger, would break a good connection; silence lets the client repeat
//! what is missing, which verifies. But after a restart of ours all clients are strangers, and those a reset serves best. So silence
//! comes first, and the reset when the same connection is still unknown after a while.
//!
//! Bounded: a fixed number of places, found by hash; a newcomer takes the place over, and its former owner is in doubt anew.

use crate::time::Time;
use core::time::Duration;

/// Places. A few segments in a thousand begin a connection out of order.
const PLACES: usize = 1024;
/// Longer than a client takes to repeat its first segment, and to repeat it once more when that is lost too (RFC 6298: after one second,
/// and two more, or less when it knows the round trip).
const PATIENCE: Duration = Duration::from_secs(4);
/// After that long the same tuple is another connection.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Connections in doubt.
#[derive(Debug)]
pub struct Doubts {
    places: Box<[(u64, Time)]>,
}

impl Doubts {
    /// Nobody yet.
    pub fn new() -> Doubts {
        Doubts { places: vec![(0, Time::ZERO); PLACES].into_boxed_slice() }
    }

    /// A segment of a connection that cannot be verified, by a keyed hash of its tuple: true when silence is better than a reset.
    /// One without `data` raises no doubt by itself.
    pub fn benefit(&mut self, hash: u64, data: bool, now: Time) -> bool {
        let place = &mut self.places[hash as usize % PLACES];
        let since = now.since(place.1);
        if place.0 != hash || since > FORGOTTEN {
            if data {
                *place = (hash, now);
            }
            return data;
        }
        since < PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_comes_first_and_a_reset_when_nothing_verifies() {
        let mut doubts = Doubts::new();
        let at = |ms: u64| Time::from_millis(100_000 + ms);
        assert!(!doubts.benefit(7, false, at(0)), "an empty segment of a stranger");
        assert!(doubts.benefit(7, true, at(0)) && doubts.benefit(7, true, at(3500)));
        assert!(doubts.benefit(7, false, at(3500)), "an empty segment behind data");
        assert!(!doubts.benefit(7, true, at(4500)) && !doubts.benefit(7, true, at(50_000)));
        assert!(doubts.benefit(7, true, at(70_000)), "another connection by now");
        assert!(
            doubts.benefit(7 + PLACES as u64, true, at(70_001)) && doubts.benefit(7, true, at(80_000)),
            "the place was taken over"
        );
    }
}
