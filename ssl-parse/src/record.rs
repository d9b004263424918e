//! The record layer of SSL 3.0 and TLS (RFC 6101, 5.2; RFC 8446, 5.1): one header, its legacy version unlocked.

use crate::codepoint::{ContentType, ProtocolVersion};
use crate::outcome::Outcome;

/// Most bytes a record in the clear may carry.
pub const MAX_PLAINTEXT: usize = 1 << 14;

/// Most bytes any record may carry: TLS 1.2 lets compression and protection add 1024 each (RFC 5246, 6.2.3).
pub const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 2048;

/// The five bytes before each record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What it carries.
    pub content_type: ContentType,
    /// `legacy_record_version`. Servers must not care for the low byte in the first record (RFC 5246, E.1).
    pub version: ProtocolVersion,
    /// Bytes of the fragment behind the header.
    pub length: u16,
}

impl RecordHeader {
    /// Bytes of the header itself.
    pub const LEN: usize = 5;

    /// The header in its five bytes, unchecked.
    pub const fn from_bytes(b: [u8; Self::LEN]) -> Self {
        Self {
            content_type: ContentType(b[0]),
            version: ProtocolVersion(u16::from_be_bytes([b[1], b[2]])),
            length: u16::from_be_bytes([b[3], b[4]]),
        }
    }

    /// Reads the header in front of `bytes`. [`Outcome::NotTls`] as soon as the bytes show a content type, a major version or a length that
    /// no record has; never [`Outcome::Malformed`].
    pub fn read(bytes: &[u8]) -> Outcome<Self> {
        let known_type = |t: &u8| (ContentType::CHANGE_CIPHER_SPEC.0..=ContentType::HEARTBEAT.0).contains(t);
        if !bytes.first().is_none_or(known_type) || bytes.get(1).is_some_and(|&major| major != 3) {
            return Outcome::NotTls;
        }
        match bytes.first_chunk() {
            Some(&b) => {
                let header = Self::from_bytes(b);
                if usize::from(header.length) > MAX_CIPHERTEXT { Outcome::NotTls } else { Outcome::Complete(header) }
            }
            None => Outcome::NeedMore,
        }
    }
}
