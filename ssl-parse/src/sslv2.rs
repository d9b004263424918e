//! The ClientHello of SSL 2.0, in which old clients also offer SSL 3.0 and TLS (RFC 5246, E.2; RFC 6101, E.1).
//!
//! ```text
//! uint16 msg_length, highest bit set    uint8 msg_type = 1    uint16 version
//! uint16 cipher_spec_length   uint16 session_id_length   uint16 challenge_length   the three
//! ```
//! Nothing in it says "TLS" but the sum of its fields, so the bounds that servers check (OpenSSL, GnuTLS: both take what the other does not) are
//! checked, and as early as its byte is there: what fails one is not SSL at all.

use crate::codepoint::ProtocolVersion;
use crate::hello::{CipherSuites, ClientHello, Extensions, Framing};
use crate::outcome::{Malformed, Outcome};
use crate::reader::Reader;

/// Bytes up to the three vectors, with the two of the length.
pub(crate) const HEAD: usize = 11;

/// Bytes of the shortest: one cipher, and a challenge of none.
const SHORTEST: usize = HEAD + 3;

/// Bytes of the longest that is believed, as in OpenSSL: one record.
const LONGEST: usize = 2 + (1 << 14);

/// Whether `bytes` may begin a hello in this form, and how long it then is with its header: by as many of the first [`HEAD`] bytes as there are.
pub(crate) fn length(bytes: &[u8]) -> Outcome<usize> {
    let at = |i: usize| bytes.get(i).copied();
    // From the highest bit set up to the highest length.
    if at(0).is_some_and(|b| !(0x80..=0xc0).contains(&b)) || at(2).is_some_and(|b| b != 1) {
        return Outcome::NotTls;
    }
    let (Some(hi), Some(lo)) = (at(0), at(1)) else { return Outcome::NeedMore };
    let total = 2 + (usize::from(hi & 0x7f) << 8 | usize::from(lo));
    if !(SHORTEST..=LONGEST).contains(&total) {
        return Outcome::NotTls;
    }
    let version_fits = match (at(3), at(4)) {
        (Some(0), low) => low.is_none_or(|low| low == 2),
        (major, _) => major.is_none_or(|major| major >= 3),
    };
    if !version_fits {
        return Outcome::NotTls;
    }
    let pair = |i: usize| at(i).zip(at(i + 1)).map(|(hi, lo)| usize::from(hi) << 8 | usize::from(lo));
    let (ciphers, session_id, challenge) = (pair(5), pair(7), pair(9));
    let room = total - HEAD;
    if ciphers.is_some_and(|n| n == 0 || n % 3 != 0 || n > room) || session_id.is_some_and(|n| n > 32) {
        return Outcome::NotTls;
    }
    match (ciphers, session_id, challenge) {
        (Some(ciphers), Some(session_id), Some(challenge)) => {
            // GnuTLS lets bytes stand behind the last field.
            if ciphers + session_id + challenge <= room { Outcome::Complete(total) } else { Outcome::NotTls }
        }
        _ => Outcome::NeedMore,
    }
}

/// Reads the hello in front of `bytes`.
pub fn client_hello(bytes: &[u8]) -> Outcome<ClientHello<'_>> {
    match length(bytes) {
        Outcome::Complete(total) => match bytes.get(..total) {
            Some(whole) => match parse(whole) {
                Ok(hello) => Outcome::Complete(hello),
                Err(why) => Outcome::Malformed(why),
            },
            None => Outcome::NeedMore,
        },
        Outcome::NeedMore => Outcome::NeedMore,
        Outcome::Malformed(why) => Outcome::Malformed(why),
        Outcome::NotTls => Outcome::NotTls,
    }
}

/// Reads a whole hello, header included, that [`length`] has measured.
pub(crate) fn parse(whole: &[u8]) -> Result<ClientHello<'_>, Malformed> {
    let mut r = Reader::new(whole);
    r.take(3)?;
    let legacy_version = ProtocolVersion(r.u16()?);
    let (ciphers, session_id, challenge) = (r.u16()?, r.u16()?, r.u16()?);
    let cipher_suites = CipherSuites::sslv2(r.take(ciphers.into())?);
    let session_id = r.take(session_id.into())?;
    let random = r.take(challenge.into())?;
    Ok(ClientHello {
        framing: Framing::Sslv2,
        record_version: ProtocolVersion::SSL2,
        legacy_version,
        random,
        session_id,
        cipher_suites,
        compression_methods: &[0],
        dtls_cookie: None,
        sni: None,
        alpn: None,
        ticket: None,
        psk: None,
        early_data: false,
        supported_versions: None,
        key_shares: None,
        cookie: None,
        ech: false,
        ambiguous: !r.is_empty(),
        extensions: Extensions::default(),
        consumed: whole.len(),
    })
}
