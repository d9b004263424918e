//! Points in time as this crate needs them: whole milliseconds.

use core::time::Duration;

/// A point in time: milliseconds since an origin the caller chose once. It must not run backwards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Debug)]
pub struct Millis(pub u64);

impl Millis {
    /// Milliseconds from `earlier` to this; zero when it is not after it.
    pub const fn since(self, earlier: Millis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This point moved later by `span` (whole milliseconds, saturating).
    pub const fn after(self, span: Duration) -> Millis {
        Millis(self.0.saturating_add(millis(span)))
    }
}

/// A span in whole milliseconds, saturating.
pub(crate) const fn millis(span: Duration) -> u64 {
    let whole = span.as_millis();
    if whole > u64::MAX as u128 { u64::MAX } else { whole as u64 }
}
