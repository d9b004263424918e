//! ClientHello (RFC 8446, 4.1.2; RFC 5246, 7.4.1.2; RFC 6347, 4.2.1; the SSL 2.0 form is in [`crate::sslv2`]).
//!
//! The reader judges nothing: a server says what is wrong with a hello, and servers differ. What has to be there is what stands in front of the
//! extensions. Each extension is read by itself; one that cannot be read is as if it were not there. Of a repeated one the last counts, as with the
//! servers that take such a hello (JSSE, Mbed TLS). Where two servers could read different identities, [`ClientHello::is_ambiguous`] says so.

use crate::codepoint::{CipherSuite, ExtensionType, NamedGroup, ProtocolVersion};
use crate::hello::extension::{Extension, Extensions};
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
    /// `random`, 32 bytes; in the SSL 2.0 form the challenge, 16 to 32 as a rule.
    pub random: &'a [u8],
    /// `legacy_session_id`, 0 to 32 bytes; or as many as were sent, up to 255: Go and NSS take longer ones, though no server issues them.
    pub session_id: &'a [u8],
    /// Cipher suites in the client's order.
    pub cipher_suites: CipherSuites<'a>,
    /// `legacy_compression_methods`; in the SSL 2.0 form, which has none, the null method.
    pub compression_methods: &'a [u8],
    /// DTLS: the cookie, empty in a first hello. `None` where there is no such field.
    pub dtls_cookie: Option<&'a [u8]>,
    /// `server_name`: the first host name, as sent (it need not be UTF-8, nor a name). `None` as well when it cannot be read; so for all that follow.
    pub sni: Option<&'a [u8]>,
    /// ALPN protocol names in the client's order; `None` without the extension.
    pub alpn: Option<ProtocolNames<'a>>,
    /// `session_ticket`: `None` when absent, empty when the client has none and would like one.
    pub ticket: Option<&'a [u8]>,
    /// `pre_shared_key`: the identities offered, at least one.
    pub psk: Option<OfferedPsks<'a>>,
    /// `early_data`, whatever it holds: 0-RTT data may follow.
    pub early_data: bool,
    /// `supported_versions` as sent, GREASE included; as much of it as can be read.
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
    /// [`Malformed::Truncated`] when it ends before the compression methods do; [`Malformed::Version`] when it is not of DTLS and should be.
    pub fn parse(body: &'a [u8], framing: Framing, record_version: ProtocolVersion) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        // Of TLS any version is taken: servers do, and choose one of their own (RFC 8446, 4.2.1).
        let legacy_version = ProtocolVersion(r.u16()?);
        if framing == Framing::Dtls && !legacy_version.is_dtls() {
            return Err(Malformed::Version);
        }
        let random = r.take(32)?;
        let session_id = r.vec8()?;
        let dtls_cookie = if framing == Framing::Dtls { Some(r.vec8()?) } else { None };
        let suites = r.vec16()?;
        let compression_methods = r.vec8()?;
        let (extensions, exact) = Extensions::read(&mut r);
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
            ambiguous: exact.is_err() || session_id.len() > 32,
            extensions,
            consumed: 0,
        };
        hello.read_extensions();
        Ok(hello)
    }

    fn read_extensions(&mut self) {
        let (mut named, mut versioned, mut psk_came) = (false, false, false);
        for Extension { kind, data } in self.extensions {
            // `pre_shared_key` is the last, or some servers refuse the hello and others do not.
            self.ambiguous |= psk_came;
            match kind {
                ExtensionType::SERVER_NAME => {
                    let (name, plain) = first_host_name(data);
                    self.sni = name;
                    self.ambiguous |= !plain || core::mem::replace(&mut named, true);
                }
                ExtensionType::ALPN => self.alpn = ProtocolNames::read(data).ok(),
                ExtensionType::SESSION_TICKET => self.ambiguous |= self.ticket.replace(data).is_some(),
                ExtensionType::PRE_SHARED_KEY => {
                    let (psk, plain) = OfferedPsks::read(data);
                    self.psk = psk;
                    self.ambiguous |= !plain;
                    psk_came = true;
                }
                ExtensionType::EARLY_DATA => self.early_data = true,
                ExtensionType::SUPPORTED_VERSIONS => {
                    let (versions, plain) = Versions::read(data);
                    self.supported_versions = Some(versions);
                    self.ambiguous |= !plain || core::mem::replace(&mut versioned, true);
                }
                ExtensionType::KEY_SHARE => self.key_shares = KeyShares::read(data).ok(),
                ExtensionType::COOKIE => self.cookie = vec16_alone(data).ok(),
                ExtensionType::ENCRYPTED_CLIENT_HELLO => self.ech = true,
                _ => {}
            }
        }
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

/// The first `host_name` of a ServerNameList (RFC 6066, 3), and whether it is the only one and nothing else is odd. Entries of other types, for
/// which nobody has defined a syntax, are read as if they were names. An empty extension is a server's way to write it, and a client that
/// copies it names nothing.
fn first_host_name(data: &[u8]) -> (Option<&[u8]>, bool) {
    let mut list = match vec16_alone(data) {
        Ok(list) => Reader::new(list),
        Err(_) => return (None, data.is_empty()),
    };
    let mut names = 0;
    let mut first = None;
    while !list.is_empty() {
        let (Ok(kind), Ok(name)) = (list.u8(), list.vec16()) else { return (first, false) };
        if kind == 0 {
            names += 1;
            first = first.or(Some(name));
        }
    }
    (first.filter(|name| !name.is_empty()), names <= 1)
}

/// `opaque x<0..2^16-1>` and nothing behind it.
fn vec16_alone(data: &[u8]) -> Result<&[u8], Malformed> {
    let mut r = Reader::new(data);
    let inner = r.vec16()?;
    r.finish()?;
    Ok(inner)
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
    /// What can be read, and whether that is all.
    fn read(data: &'a [u8]) -> (Self, bool) {
        let mut r = Reader::new(data);
        match r.vec8() {
            Ok(bytes) => (Self { bytes }, r.is_empty() && !bytes.is_empty() && bytes.len().is_multiple_of(2)),
            Err(_) => (Self { bytes: data.get(1..).unwrap_or_default() }, false),
        }
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
    /// The list may be empty: the client asks for a HelloRetryRequest. So may a key, of a group that the server does not look at.
    fn read(data: &'a [u8]) -> Result<Self, Malformed> {
        let bytes = vec16_alone(data)?;
        let mut shares = Reader::new(bytes);
        while !shares.is_empty() {
            shares.u16()?;
            shares.vec16()?;
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
        let bytes = vec16_alone(data)?;
        let mut names = Reader::new(bytes);
        while !names.is_empty() {
            names.vec8()?;
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
    /// The identities, if one can be read, and whether everything is as RFC 8446 says. Binders are only looked at for that: servers check none
    /// but that of the identity they know, and OpenSSL 4.0 writes an empty one into the outer hello of ECH.
    fn read(data: &'a [u8]) -> (Option<Self>, bool) {
        let mut r = Reader::new(data);
        let Ok(identities) = r.vec16() else { return (None, false) };
        let binders = r.vec16();
        let plain = binders.is_ok_and(|binders| pair_up(identities, binders).is_ok()) && r.is_empty();
        let psk = Self { identities, binders: binders.unwrap_or_default() };
        (Some(psk).filter(|psk| psk.identities().next().is_some()), plain)
    }

    /// The identities in order; the place of one is what a ServerHello selects.
    pub const fn identities(&self) -> PskIdentities<'a> {
        PskIdentities { bytes: self.identities }
    }

    /// The binders as sent: by rights as many as identities. Empty when the list cannot be read.
    pub const fn binders(&self) -> &'a [u8] {
        self.binders
    }
}

/// Whether there is one binder, as long as a hash, for each identity.
fn pair_up(identities: &[u8], binders: &[u8]) -> Result<(), Malformed> {
    let (mut i, mut b) = (Reader::new(identities), Reader::new(binders));
    if i.is_empty() {
        return Err(Malformed::VectorLength);
    }
    while !i.is_empty() {
        let identity = i.vec16()?;
        i.u32()?;
        if identity.is_empty() || b.vec8()?.len() < 32 {
            return Err(Malformed::VectorLength);
        }
    }
    b.finish()
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
