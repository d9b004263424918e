//! When a connection began, and how long it then was until what is told of it, in little memory.

use crate::pack::packed;
use crate::time::Time;
use core::num::NonZeroU32;
use core::time::Duration;

/// A span in microseconds, 71 minutes at most; none while what it leads to has not been.
#[derive(Clone, Copy, Debug, Default)]
struct Span(Option<NonZeroU32>);

impl Span {
    /// The first time counts.
    fn note(&mut self, span: Duration) {
        if self.0.is_none() {
            // One more than there are, so that none at all is not zero.
            let micros = u32::try_from(span.as_micros()).unwrap_or(u32::MAX).saturating_add(1);
            self.0 = NonZeroU32::new(micros);
        }
    }

    fn get(self) -> Option<Duration> {
        self.0.map(|micros| Duration::from_micros(u64::from(micros.get()) - 1))
    }
}

/// Of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    began: Time,
    first_byte: Span,
    handshake: Span,
}

impl Times {
    /// Begins now: its client's cookie has come back.
    pub fn begin(now: Time) -> Times {
        Times { began: now, first_byte: Span::default(), handshake: Span::default() }
    }

    /// When it began.
    pub fn began(&self) -> Time {
        self.began
    }

    /// The server says something, perhaps for the first time.
    pub fn server_says(&mut self, now: Time) {
        self.first_byte.note(now.since(self.began));
    }

    /// From its beginning to the server's first byte.
    pub fn first_byte(&self) -> Option<Duration> {
        self.first_byte.get()
    }

    /// The server's hello came so long after the server had been given the client's.
    pub fn shook_hands(&mut self, took: Duration) {
        self.handshake.note(took);
    }

    /// From the client's hello to the server's, on the server's side.
    pub fn handshake(&self) -> Option<Duration> {
        self.handshake.get()
    }
}

packed!(Span(Option<NonZeroU32>));
packed!(Times { began, first_byte, handshake });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_counts_none_is_not_zero_and_hours_are_cut() {
        let mut times = Times::begin(Time::from_millis(5));
        assert_eq!((times.first_byte(), times.handshake()), (None, None));
        times.shook_hands(Duration::ZERO);
        times.server_says(Time::from_millis(12));
        times.server_says(Time::from_millis(20));
        assert_eq!((times.first_byte(), times.handshake()), (Some(Duration::from_millis(7)), Some(Duration::ZERO)));
        let mut late = Times::begin(Time::ZERO);
        late.server_says(Time::from_millis(3_600_000 * 5));
        assert_eq!(late.first_byte(), Some(Duration::from_micros(u64::from(u32::MAX) - 1)));
        assert_eq!(size_of::<Times>(), 16);
    }
}
