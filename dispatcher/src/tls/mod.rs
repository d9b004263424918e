//! TLS in passing: what a client offers to resume, and what the server's first flight makes of it.
//!
//! * [`OfferedSessions`]: of a ClientHello.
//! * [`ServerFlight`]: reads a server's answer, and tells the affinity table.
//! * [`ServerFlights`]: a bounded pool of those.
//! * [`Lates`]: hellos that come after their backend was chosen.

pub mod flights;
pub mod late;
mod offered;
mod server_flight;

pub use flights::{FlightId, ServerFlights};
pub use late::{Late, Lates, over};
pub use offered::{MAX_PSKS, OfferedSessions, name_text, read_offered, server_name};
pub use server_flight::{MESSAGE_BYTES, SECOND_HELLO_BYTES, ServerFlight};

use crate::pack::packed_words;

/// How the client's stream began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// With a TLS (or SSLv2-framed) ClientHello.
    Secure,
    /// With anything else, or with nothing.
    NonSecure,
}

impl Class {
    /// The word of the JSON contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Secure => "secure",
            Class::NonSecure => "non-secure",
        }
    }
}

packed_words!(Class { Secure = 0, NonSecure = 1 });
