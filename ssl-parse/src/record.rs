//! The record layer of SSL 3.0 and TLS (RFC 6101, 5.2; RFC 8446, 5.1): one header, its legacy version unlocked.

use crate::codepoint::{ContentType, ProtocolVersion};
use crate::event::Side;
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

    /// Reads the header in front of `bytes`, where a hello or the rest of one is waited for. [`Outcome::NotTls`] as soon as the bytes show what can
    /// be neither a piece of it nor passed over.
    ///
    /// Of a client's hello all is allowed that some server takes: Go, NSS and JSSE look at no record version there, JSSE at no upper length;
    /// empty pieces pass OpenSSL, JSSE and NSS, warnings GnuTLS, Go and wolfSSL, a ChangeCipherSpec GnuTLS and wolfSSL.
    pub(crate) fn around_hello(bytes: &[u8], side: Side) -> Outcome<Self> {
        let client = side == Side::Client;
        let Some(kind) = bytes.first().copied().map(ContentType) else { return Outcome::NeedMore };
        let may_be = match kind {
            ContentType::HANDSHAKE if client => 0..=15,
            ContentType::HANDSHAKE | ContentType::ALERT => 3..=3,
            ContentType::CHANGE_CIPHER_SPEC if client => 3..=3,
            _ => return Outcome::NotTls,
        };
        if bytes.get(1).is_some_and(|major| !may_be.contains(major)) {
            return Outcome::NotTls;
        }
        let Some(&b) = bytes.first_chunk() else { return Outcome::NeedMore };
        let header = Self::from_bytes(b);
        let fits = match kind {
            ContentType::HANDSHAKE => client || usize::from(header.length) <= MAX_PLAINTEXT,
            ContentType::ALERT => header.length == 2,
            _ => header.length == 1,
        };
        if fits { Outcome::Complete(header) } else { Outcome::NotTls }
    }
}
