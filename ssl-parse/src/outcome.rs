//! What a reader answers.

use core::fmt;

/// The answer to "is there a hello in these bytes?", four ways apart because a balancer does different things with them: look up what is offered,
/// hold, or balance, as TLS or as something else. None of them is a reason to refuse a client: servers say themselves what is wrong with a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It is all there, and what matters in it can be read.
    Complete(T),
    /// Right as far as it goes, and it goes on behind the bytes given. Ask again with more of them.
    NeedMore,
    /// It began as TLS (or SSL or DTLS), and cannot be read; no byte to come can mend that.
    Malformed(Malformed),
    /// These bytes do not begin a TLS, SSL or DTLS handshake, whatever follows.
    NotTls,
}

impl<T> Outcome<T> {
    /// The value of [`Outcome::Complete`], if it is that.
    pub fn complete(self) -> Option<T> {
        match self {
            Self::Complete(value) => Some(value),
            _ => None,
        }
    }

    /// Whether more bytes are needed.
    pub const fn needs_more(&self) -> bool {
        matches!(self, Self::NeedMore)
    }

    /// The same answer about something made from the value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Complete(value) => Outcome::Complete(f(value)),
            Self::NeedMore => Outcome::NeedMore,
            Self::Malformed(why) => Outcome::Malformed(why),
            Self::NotTls => Outcome::NotTls,
        }
    }
}

/// Why bytes that begin as TLS are none. The names are meant for counters and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Malformed {
    /// A vector or field reaches beyond what encloses it.
    Truncated,
    /// Bytes are left over behind the last field of a structure.
    TrailingBytes,
    /// A vector is shorter or longer than its bounds, or not a whole number of elements.
    VectorLength,
    /// A version that is neither of SSL 3.0/TLS nor of DTLS, as the place requires.
    Version,
    /// A record of an unknown content type.
    ContentType,
    /// A record that carries nothing where that is not allowed, or more than 2^14 bytes (and what protection may add).
    RecordLength,
    /// A record or message where the protocol does not allow it.
    Unexpected,
    /// The same extension twice in a server's hello (RFC 8446, 4.2), one of those that are read here.
    DuplicateExtension,
    /// An alert that is neither a warning nor fatal.
    AlertLevel,
    /// Fragments of one DTLS message contradict each other.
    Fragments,
    /// Well formed as far as seen, but longer than the memory given to it.
    TooLong,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "a field reaches beyond what encloses it",
            Self::TrailingBytes => "bytes left over behind the last field",
            Self::VectorLength => "vector length out of bounds",
            Self::Version => "no such protocol version here",
            Self::ContentType => "unknown record content type",
            Self::RecordLength => "record length out of bounds",
            Self::Unexpected => "record or message out of place",
            Self::DuplicateExtension => "the same extension twice",
            Self::AlertLevel => "unknown alert level",
            Self::Fragments => "fragments contradict each other",
            Self::TooLong => "longer than the memory given",
        })
    }
}

impl core::error::Error for Malformed {}
