//! ClientHello (RFC 8446, 4.1.2; RFC 5246, 7.4.1.2; RFC 6347, 4.2.1; the SSL 2.0 form is in [`crate::sslv2`]).
//!
//! What counts as malformed is what the servers in use refuse: a length that does not fit, bytes left over, no cipher suite or compression
//! method, the same extension twice (one of those read here; servers let unknown ones pass), `pre_shared_key` not last, a binder missing.
//! Tolerated: a `server_name` that is empty or of another name type, extensions unknown to us whatever they hold, versions and code points of any value.

use crate::codepoint::{CipherSuite, ExtensionType, NamedGroup, ProtocolVersion};
use crate::hello::extension::{Extensions, once};
use crate::outcome::Malformed;
use crate::reader::Reader;

/// How the hello was wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// TLS or SSL 3.0 records.
    Tls,
    /// The record format of SSL 2.0, in which clients up to about 2010 offered later versions too.
    Sslv2,
    /// DTLS records in datagrams.
    Dtls,
    /// Whatever else carries a bare handshake message: QUIC's CRYPTO frames.
    Bare,
}

/// What a client offers. All slices borrow from the bytes it was read from (or from the scratch memory they were joined in).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// How it was wrapped.
    pub framing: Framing,
    /// Version of the record it begins in; `0x0002` for the SSL 2.0 form; `0` when bare.
    pub record_version: ProtocolVersion,
    /// `legacy_version`: the highest version offered, unless `supported_versions` says otherwise.
    pub legacy_version: ProtocolVersion,
    /// `random`, 32 bytes; in the SSL 2.0 form the challenge, 16 to 32.
    pub random: &'a [u8],
    /// `legacy_session_id`, 0 to 32 bytes.
    pub session_id: &'a [u8],
    /// Cipher suites in the client's order.
    pub cipher_suites: CipherSuites<'a>,
    /// `legacy_compression_methods`; in the SSL 2.0 form, which has none, the null method.
    pub compression_methods: &'a [u8],
    /// DTLS: the cookie, empty in a first hello. `None` where there is no such field.
    pub dtls_cookie: Option<&'a [u8]>,
    /// `server_name`: the first host name, as sent (it need not be UTF-8, nor a name).
    pub sni: Option<&'a [u8]>,
    /// ALPN protocol names in the client's order; `None` without the extension.
    pub alpn: Option<ProtocolNames<'a>>,
    /// `session_ticket`: `None` when absent, empty when the client has none and would like one.
    pub ticket: Option<&'a [u8]>,
    /// `pre_shared_key`: the identities offered.
    pub psk: Option<OfferedPsks<'a>>,
    /// `early_data`: 0-RTT data follow.
    pub early_data: bool,
    /// `supported_versions` as sent, GREASE included.
    pub supported_versions: Option<Versions<'a>>,
    /// `key_share`: the groups with a share, GREASE included.
    pub key_shares: Option<KeyShares<'a>>,
    /// `cookie` of TLS 1.3, given back after a HelloRetryRequest.
    pub cookie: Option<&'a [u8]>,
    /// Encrypted Client Hello, or GREASE in its shape: `sni` is then that of the outer hello.
    pub ech: bool,
    /// See [`ClientHello::is_ambiguous`].
    pub ambiguous: bool,
    /// All extensions.
    pub extensions: Extensions<'a>,
    /// Bytes of the input up to and including the last byte of the hello. 0 when it was not read from a stream or datagram by itself.
    pub consumed: usize,
}

impl<'a> ClientHello<'a> {
    /// Reads the body of a ClientHello message: what follows the four bytes of type and length (twelve in DTLS).
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(body: &'a [u8], framing: Framing, record_version: ProtocolVersion) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        let legacy_version = ProtocolVersion(r.u16()?);
        let right_family = match framing {
            Framing::Dtls => legacy_version.is_dtls(),
            _ => legacy_version.is_tls(),
        };
        if !right_family {
            return Err(Malformed::Version);
        }
        let random = r.take(32)?;
        let session_id = r.vec8()?;
        if session_id.len() > 32 {
            return Err(Malformed::SessionIdLength);
        }
        let dtls_cookie = if framing == Framing::Dtls { Some(r.vec8()?) } else { None };
        let suites = r.vec16()?;
        let compression_methods = r.vec8()?;
        if suites.is_empty() || suites.len() % 2 != 0 || compression_methods.is_empty() {
            return Err(Malformed::VectorLength);
        }
        let extensions = Extensions::read(&mut r)?;
        r.finish()?;
        let mut hello = Self {
            framing,
            record_version,
            legacy_version,
            random,
            session_id,
            cipher_suites: CipherSuites { bytes: suites, width: 2 },
            compression_methods,
            dtls_cookie,
            sni: None,
            alpn: None,
            ticket: None,
            psk: None,
            early_data: false,
            supported_versions: None,
            key_shares: None,
            cookie: None,
            ech: false,
            ambiguous: false,
            extensions,
            consumed: 0,
        };
        hello.read_extensions()?;
        Ok(hello)
    }

    fn read_extensions(&mut self) -> Result<(), Malformed> {
        let mut server_name = None;
        let mut early_data = None;
        let mut ech = None;
        for extension in self.extensions {
            if self.psk.is_some() {
                // A second one would be caught here too.
                return Err(Malformed::PskNotLast);
            }
            let data = extension.data;
            match extension.kind {
                ExtensionType::SERVER_NAME => once(&mut server_name, first_host_name(data)?)?,
                ExtensionType::ALPN => once(&mut self.alpn, ProtocolNames::read(data)?)?,
                ExtensionType::SESSION_TICKET => once(&mut self.ticket, data)?,
                ExtensionType::PRE_SHARED_KEY => self.psk = Some(OfferedPsks::read(data)?),
                ExtensionType::EARLY_DATA => once(&mut early_data, Reader::new(data).finish()?)?,
                ExtensionType::SUPPORTED_VERSIONS => once(&mut self.supported_versions, Versions::read(data)?)?,
                ExtensionType::KEY_SHARE => once(&mut self.key_shares, KeyShares::read(data)?)?,
                ExtensionType::COOKIE => once(&mut self.cookie, non_empty_vec16(data)?)?,
                ExtensionType::ENCRYPTED_CLIENT_HELLO => once(&mut ech, ())?,
                _ => {}
            }
        }
        self.sni = server_name.flatten();
        self.early_data = early_data.is_some();
        self.ech = ech.is_some();
        Ok(())
    }

    /// Whether two servers may read different identities in it: a repeated extension, bytes left over, a list that is cut short, binders that do not
    /// match the identities.
    ///
    /// Such a hello may be looked up by the identities read here, which are those that most of the servers that take it look at. But **what a
    /// server says about identities of this hello proves nothing**: it may be about an identity that was not read. Nothing must be
    /// learned of an identity that such a hello offers, neither that it was accepted nor that it was refused.
    pub const fn is_ambiguous(&self) -> bool {
        self.ambiguous
    }

    /// The PSK identities offered, in order; none without `pre_shared_key`.
    pub fn psk_identities(&self) -> PskIdentities<'a> {
        self.psk.map_or_else(PskIdentities::default, |psk| psk.identities())
    }

    /// Whether it offers TLS 1.3 (or DTLS 1.3, or later). Its session ID is then as a rule junk, echoed for the sake of middleboxes, unless the
    /// server chooses an earlier version.
    pub fn offers_1_3(&self) -> bool {
        self.supported_versions.is_some_and(|mut versions| versions.any(|v| !v.is_grease() && v.is_1_3_or_later()))
    }
}

/// The first `host_name` of a ServerNameList (RFC 6066, 3). An empty extension is a server's way to write it, and a client that copies it
/// names nothing; a first entry of another type, for which nobody has defined a syntax, hides the rest.
fn first_host_name(data: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    if data.is_empty() {
        return Ok(None);
    }
    let mut r = Reader::new(data);
    let list = r.vec16()?;
    r.finish()?;
    let mut list = Reader::new(list);
    if list.is_empty() {
        return Err(Malformed::VectorLength);
    }
    if list.u8()? != 0 {
        return Ok(None);
    }
    let name = list.vec16()?;
    Ok(if name.is_empty() { None } else { Some(name) })
}

fn non_empty_vec16(data: &[u8]) -> Result<&[u8], Malformed> {
    let mut r = Reader::new(data);
    let inner = r.vec16()?;
    r.finish()?;
    if inner.is_empty() { Err(Malformed::VectorLength) } else { Ok(inner) }
}

/// Cipher suites in the client's order. From the SSL 2.0 form only those of SSL 3.0 and TLS are given, not its own 24-bit kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CipherSuites<'a> {
    bytes: &'a [u8],
    /// Bytes of one: 2, or 3 in the SSL 2.0 form.
    width: usize,
}

impl<'a> CipherSuites<'a> {
    pub(crate) const fn sslv2(bytes: &'a [u8]) -> Self {
        Self { bytes, width: 3 }
    }

    /// The bytes as sent.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl Iterator for CipherSuites<'_> {
    type Item = CipherSuite;

    fn next(&mut self) -> Option<CipherSuite> {
        loop {
            let (suite, rest) = self.bytes.split_at_checked(self.width)?;
            self.bytes = rest;
            match *suite {
                [hi, lo] | [0, hi, lo] => return Some(CipherSuite(u16::from_be_bytes([hi, lo]))),
                _ => {}
            }
        }
    }
}

/// `supported_versions` in the client's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions<'a> {
    bytes: &'a [u8],
}

impl<'a> Versions<'a> {
    fn read(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(data);
        let bytes = r.vec8()?;
        r.finish()?;
        if bytes.is_empty() || !bytes.len().is_multiple_of(2) {
            return Err(Malformed::VectorLength);
        }
        Ok(Self { bytes })
    }
}

impl Iterator for Versions<'_> {
    type Item = ProtocolVersion;

    fn next(&mut self) -> Option<ProtocolVersion> {
        let (&version, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(ProtocolVersion(u16::from_be_bytes(version)))
    }
}

/// The groups of `key_share` in the client's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyShares<'a> {
    bytes: &'a [u8],
}

impl<'a> KeyShares<'a> {
    /// The list may be empty: the client asks for a HelloRetryRequest.
    fn read(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(data);
        let bytes = r.vec16()?;
        r.finish()?;
        let mut shares = Reader::new(bytes);
        while !shares.is_empty() {
            shares.u16()?;
            if shares.vec16()?.is_empty() {
                return Err(Malformed::VectorLength);
            }
        }
        Ok(Self { bytes })
    }
}

/// Each group with its key exchange value.
impl<'a> Iterator for KeyShares<'a> {
    type Item = (NamedGroup, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let mut r = Reader::new(self.bytes);
        let group = NamedGroup(r.u16().ok()?);
        let key = r.vec16().ok()?;
        self.bytes = r.rest();
        Some((group, key))
    }
}

/// ALPN protocol names in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolNames<'a> {
    bytes: &'a [u8],
}

impl<'a> ProtocolNames<'a> {
    pub(super) fn read(data: &'a [u8]) -> Result<Self, Malformed> {
        let bytes = non_empty_vec16(data)?;
        let mut names = Reader::new(bytes);
        while !names.is_empty() {
            if names.vec8()?.is_empty() {
                return Err(Malformed::VectorLength);
            }
        }
        Ok(Self { bytes })
    }
}

impl<'a> Iterator for ProtocolNames<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let mut r = Reader::new(self.bytes);
        let name = r.vec8().ok()?;
        self.bytes = r.rest();
        Some(name)
    }
}

/// The `pre_shared_key` extension of a ClientHello (RFC 8446, 4.2.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferedPsks<'a> {
    identities: &'a [u8],
    binders: &'a [u8],
}

impl<'a> OfferedPsks<'a> {
    fn read(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(data);
        let identities = r.vec16()?;
        let binders = r.vec16()?;
        r.finish()?;
        if identities.is_empty() {
            return Err(Malformed::VectorLength);
        }
        let (mut i, mut b) = (Reader::new(identities), Reader::new(binders));
        while !i.is_empty() {
            if i.vec16()?.is_empty() {
                return Err(Malformed::VectorLength);
            }
            i.u32()?;
            if b.is_empty() {
                return Err(Malformed::PskBinders);
            }
            // A binder is as long as a hash, 32 bytes at least.
            if b.vec8()?.len() < 32 {
                return Err(Malformed::VectorLength);
            }
        }
        if b.is_empty() { Ok(Self { identities, binders }) } else { Err(Malformed::PskBinders) }
    }

    /// The identities in order; the place of one is what a ServerHello selects.
    pub const fn identities(&self) -> PskIdentities<'a> {
        PskIdentities { bytes: self.identities }
    }

    /// The binders as sent: as many as identities, never none.
    pub const fn binders(&self) -> &'a [u8] {
        self.binders
    }
}

/// One identity offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PskIdentity<'a> {
    /// A ticket as some server issued it, or the name of an external key.
    pub identity: &'a [u8],
    /// Age of the ticket in milliseconds plus `ticket_age_add`, modulo 2^32; 0 for an external key.
    pub obfuscated_ticket_age: u32,
}

/// PSK identities in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PskIdentities<'a> {
    bytes: &'a [u8],
}

impl<'a> Iterator for PskIdentities<'a> {
    type Item = PskIdentity<'a>;

    fn next(&mut self) -> Option<PskIdentity<'a>> {
        let mut r = Reader::new(self.bytes);
        let identity = r.vec16().ok()?;
        let obfuscated_ticket_age = r.u32().ok()?;
        self.bytes = r.rest();
        Some(PskIdentity { identity, obfuscated_ticket_age })
    }
}
