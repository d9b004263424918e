//! ServerHello and HelloRetryRequest (RFC 8446, 4.1.3 and 4.1.4; RFC 5246, 7.4.1.3): one message, told apart by its random.

use crate::codepoint::{CipherSuite, ExtensionType, NamedGroup, ProtocolVersion};
use crate::hello::client::ProtocolNames;
use crate::hello::extension::{Extensions, once};
use crate::outcome::Malformed;
use crate::reader::Reader;

/// The random of a HelloRetryRequest: SHA-256 of "HelloRetryRequest" (RFC 8446, 4.1.3).
pub const HELLO_RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// What a server chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerHello<'a> {
    /// Version of the record it begins in.
    pub record_version: ProtocolVersion,
    /// `legacy_version`.
    pub legacy_version: ProtocolVersion,
    /// The version really chosen: `supported_versions` if present, else `legacy_version`.
    pub version: ProtocolVersion,
    /// `random`, 32 bytes.
    pub random: &'a [u8],
    /// Up to TLS 1.2 the session's ID: the client's own when the session is resumed (or its ticket taken), a new one, or empty. In TLS 1.3 an echo.
    pub session_id: &'a [u8],
    /// The cipher suite chosen.
    pub cipher_suite: CipherSuite,
    /// The compression method chosen; 0 is none.
    pub compression_method: u8,
    /// It is a HelloRetryRequest: the client shall send another hello, and nothing is encrypted yet.
    pub hello_retry: bool,
    /// `pre_shared_key`: the place, from 0, of the identity accepted. `None` when none is.
    pub psk_selected: Option<u16>,
    /// `session_ticket` present (and empty): the server will send a NewSessionTicket, up to TLS 1.2.
    pub ticket_ext: bool,
    /// ALPN protocol chosen in the clear, up to TLS 1.2.
    pub alpn: Option<&'a [u8]>,
    /// `key_share`: the group chosen, or in a HelloRetryRequest asked for.
    pub key_share_group: Option<NamedGroup>,
    /// All extensions.
    pub extensions: Extensions<'a>,
}

impl<'a> ServerHello<'a> {
    /// Reads the body of a ServerHello message: what follows the four bytes of type and length (twelve in DTLS).
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(body: &'a [u8], record_version: ProtocolVersion) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        let legacy_version = ProtocolVersion(r.u16()?);
        if !legacy_version.is_tls() && !legacy_version.is_dtls() && legacy_version.0 >> 8 != 0x7f {
            return Err(Malformed::Version);
        }
        let random = r.take(32)?;
        // Longer than 32 bytes when the server echoes what a client should not have sent (Go).
        let session_id = r.vec8()?;
        let cipher_suite = CipherSuite(r.u16()?);
        let compression_method = r.u8()?;
        let (extensions, exact) = Extensions::read(&mut r);
        exact?;

        let hello_retry = *random == HELLO_RETRY_RANDOM;
        let (mut version, mut psk_selected, mut ticket, mut alpn, mut group) = (None, None, None, None, None);
        for extension in extensions {
            let mut data = Reader::new(extension.data);
            match extension.kind {
                ExtensionType::SUPPORTED_VERSIONS => once(&mut version, ProtocolVersion(data.u16()?))?,
                ExtensionType::PRE_SHARED_KEY => once(&mut psk_selected, data.u16()?)?,
                ExtensionType::SESSION_TICKET => once(&mut ticket, ())?,
                ExtensionType::ALPN => {
                    let mut names = ProtocolNames::read(data.rest())?;
                    let name = names.next();
                    // RFC 7301, 3.1: exactly one.
                    if names.next().is_some() {
                        return Err(Malformed::VectorLength);
                    }
                    once(&mut alpn, name)?;
                    continue;
                }
                ExtensionType::KEY_SHARE => {
                    once(&mut group, NamedGroup(data.u16()?))?;
                    if !hello_retry {
                        data.vec16()?;
                    }
                }
                _ => continue,
            }
            data.finish()?;
        }
        Ok(Self {
            record_version,
            legacy_version,
            version: version.unwrap_or(legacy_version),
            random,
            session_id,
            cipher_suite,
            compression_method,
            hello_retry,
            psk_selected,
            ticket_ext: ticket.is_some(),
            alpn: alpn.flatten(),
            key_share_group: group,
            extensions,
        })
    }

    /// Whether the server took an identity of the client's `pre_shared_key`.
    pub const fn psk_accepted(&self) -> bool {
        self.psk_selected.is_some()
    }
}
