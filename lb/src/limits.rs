//! What a backend can take at a time, as it is wanted; [`admission`](crate::admission) sees to it.

use crate::admission::slots::{FULL, MOST};
use core::fmt;
use core::str::FromStr;
use core::time::Duration;

/// Limits of a backend: all of them optional.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackendLimits {
    /// Most connections, from the dial to the end: 1 to [`MOST`].
    pub max_connections: Option<u32>,
    /// Most handshakes at a time.
    pub max_handshakes: Option<MaxHandshakes>,
    /// For so long after a recovery, never after our own start, its weight and its limits grow to what they are.
    pub slow_start: Option<Duration>,
}

impl BackendLimits {
    /// Somebody may have to wait for it.
    pub fn bind(&self) -> bool {
        self.max_connections.is_some() || self.max_handshakes.is_some()
    }
}

/// Most handshakes at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MaxHandshakes {
    /// In units of cost: [`RESUMED`](crate::admission::slots::RESUMED) for a resumed handshake, [`FULL`] for a full one; [`FULL`] to [`MOST`].
    Units(u32),
    /// As many as the server can do without getting slow: see [`auto`](crate::admission::auto).
    Auto,
}

impl FromStr for MaxHandshakes {
    type Err = String;

    /// A number of units, or `auto`.
    fn from_str(text: &str) -> Result<MaxHandshakes, String> {
        if text == "auto" {
            return Ok(MaxHandshakes::Auto);
        }
        let units = text.parse::<u32>().ok().filter(|n| (u32::from(FULL)..=MOST).contains(n));
        units.map(MaxHandshakes::Units).ok_or(format!(
            "expected auto, or units from {FULL} to {MOST}: a full handshake is {FULL} of them, a resumed one 1"
        ))
    }
}

impl fmt::Display for MaxHandshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaxHandshakes::Units(units) => units.fmt(f),
            MaxHandshakes::Auto => f.write_str("auto"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_units_or_auto_and_a_full_one_always_fits() {
        for text in ["auto", "10", "400", "1048575"] {
            assert_eq!(text.parse::<MaxHandshakes>().unwrap().to_string(), text);
        }
        for wrong in ["", "9", "0", "-1", "1048576", "Auto", "10u"] {
            assert!(wrong.parse::<MaxHandshakes>().is_err(), "{wrong}");
        }
    }
}
