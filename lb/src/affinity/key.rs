//! What rows are about, and what a client offers.

use core::fmt;
use sha2::digest::common::hazmat::SerializableState;
use sha2::{Digest, Sha256};

/// The first 16 bytes of an RFC 5077-style ticket: which ticket key sealed it.
pub type KeyName = [u8; 16];

/// How a client offers a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum IdentityKind {
    /// Session ID of TLS <= 1.2.
    SessionId = 0,
    /// Session ticket of TLS <= 1.2 (RFC 5077).
    Ticket = 1,
    /// PSK identity of TLS 1.3 (RFC 8446, 4.2.11).
    Psk = 2,
    /// Cookie of plain HTTP/1 (RFC 6265), one that the service's affinity names.
    Cookie = 3,
}

impl IdentityKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [IdentityKind; 4] =
        [IdentityKind::SessionId, IdentityKind::Ticket, IdentityKind::Psk, IdentityKind::Cookie];

    /// `session-id`, `ticket`, `psk` or `cookie`.
    pub const fn as_str(self) -> &'static str {
        match self {
            IdentityKind::SessionId => "session-id",
            IdentityKind::Ticket => "ticket",
            IdentityKind::Psk => "psk",
            IdentityKind::Cookie => "cookie",
        }
    }
}

impl fmt::Display for IdentityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One identity of a ClientHello, as on the wire.
///
/// A session ID beside a ticket or PSK may be given too: it is looked up last, and what is junk has no row. Of what a
/// *server* echoes, though, the caller must report as issued, accepted or refused only what resumes something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offered<'a> {
    /// Which field it came in.
    pub kind: IdentityKind,
    /// Its bytes; of a cookie its name, `=` and its value.
    pub bytes: &'a [u8],
}

/// One identity of a ClientHello in 52 bytes, whatever its length on the wire: what a caller keeps until the server has
/// answered and the hello's own bytes are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    kind: IdentityKind,
    key: Key,
    name: Option<KeyName>,
}

impl Identity {
    /// Digests what was offered: one SHA-256 of a ticket or PSK identity. `None` for an empty one, and for a session ID
    /// longer than TLS allows.
    pub fn new(offered: &Offered<'_>) -> Option<Identity> {
        let Offered { kind, bytes } = *offered;
        if bytes.is_empty() {
            return None;
        }
        let (key, name) = match kind {
            IdentityKind::SessionId => (Key::session_id(bytes)?, None),
            IdentityKind::Ticket => (Key::ticket(bytes), key_name(bytes)),
            IdentityKind::Psk => (Key::psk(bytes), key_name(bytes)),
            IdentityKind::Cookie => (Key::cookie(&[bytes]), None),
        };
        Some(Identity { kind, key, name })
    }

    /// A cookie: as [`Identity::new`] of its name, `=` and its value.
    pub fn cookie(name: &[u8], value: &[u8]) -> Identity {
        Identity { kind: IdentityKind::Cookie, key: Key::cookie(&[name, b"=", value]), name: None }
    }

    /// A ticket or PSK identity that is known by its key name alone, and not digested. `None` when it is too short to begin with one, and for a
    /// session ID.
    pub(super) fn by_name(offered: &Offered<'_>) -> Option<Identity> {
        let sealed = matches!(offered.kind, IdentityKind::Ticket | IdentityKind::Psk);
        let name = key_name(offered.bytes).filter(|_| sealed)?;
        Some(Identity { kind: offered.kind, key: Key::name(&name), name: Some(name) })
    }

    /// Which field it came in.
    pub fn kind(&self) -> IdentityKind {
        self.kind
    }

    /// The key of its exact row; its key name when it was not digested (see [`Affinity::identify`](super::Affinity::identify)).
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What [`Identity::kind`], [`Identity::key`] and [`Identity::name`] say of one; `None` for what none says.
    pub fn from_parts(kind: IdentityKind, key: Key, name: Option<KeyName>) -> Option<Identity> {
        let fits = match (kind, key.kind) {
            (IdentityKind::SessionId, KeyKind::SessionId) | (IdentityKind::Cookie, KeyKind::Cookie) => name.is_none(),
            (IdentityKind::Ticket, KeyKind::Ticket) | (IdentityKind::Psk, KeyKind::Psk) => true,
            (IdentityKind::Ticket | IdentityKind::Psk, KeyKind::KeyName) => {
                name.is_some_and(|name| name == key.as_bytes())
            }
            _ => false,
        };
        fits.then_some(Identity { kind, key, name })
    }

    /// All of it is known: it was digested.
    pub fn is_whole(&self) -> bool {
        self.key.kind != KeyKind::KeyName
    }

    /// Its first 16 bytes, if a ticket or PSK identity is that long.
    pub fn name(&self) -> Option<&KeyName> {
        self.name.as_ref()
    }
}

/// Digests a ticket that comes in pieces, too long to be held.
#[derive(Clone, Debug, Default)]
pub struct TicketDigest {
    hash: Sha256,
    head: KeyName,
    len: usize,
}

impl TicketDigest {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for (to, from) in self.head.iter_mut().skip(self.len).zip(bytes) {
            *to = *from;
        }
        self.len += bytes.len();
        self.hash.update(bytes);
    }

    /// What was given so far: its digest's own state, so many bytes of the head, and the number of all.
    pub fn save(&self) -> (impl AsRef<[u8]> + use<>, KeyName, u64) {
        (self.hash.serialize(), self.head, self.len as u64)
    }

    /// The inverse; `None` of a state that the digest does not know.
    pub fn restore(state: &[u8], head: KeyName, len: u64) -> Option<TicketDigest> {
        let hash = Sha256::deserialize(&state.try_into().ok()?).ok()?;
        // None is longer.
        let len = usize::from(u16::try_from(len).ok()?);
        Some(TicketDigest { hash, head, len })
    }

    /// All bytes were given: the same identity as of the whole ticket. `None` when it was empty.
    pub fn finish(self) -> Option<Identity> {
        let key = Key::of(KeyKind::Ticket, &self.hash.finalize());
        let name = (self.len >= self.head.len()).then_some(self.head);
        (self.len > 0).then_some(Identity { kind: IdentityKind::Ticket, key, name })
    }
}

/// Why a backend was named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// It issued this session ID.
    SessionId,
    /// It issued or opened this very ticket.
    Ticket,
    /// It opens tickets with this key name.
    TicketKey,
    /// It opened this very PSK identity.
    Psk,
    /// It opens PSK identities with this key name.
    PskKey,
    /// It set this cookie.
    Cookie,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Reason; 6] =
        [Reason::SessionId, Reason::Ticket, Reason::TicketKey, Reason::Psk, Reason::PskKey, Reason::Cookie];

    /// The word for reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::SessionId => "session-id",
            Reason::Ticket => "ticket",
            Reason::TicketKey => "ticket-key",
            Reason::Psk => "psk",
            Reason::PskKey => "psk-key",
            Reason::Cookie => "cookie",
        }
    }

    /// The kind of identity that was offered.
    pub const fn kind(self) -> IdentityKind {
        match self {
            Reason::SessionId => IdentityKind::SessionId,
            Reason::Ticket | Reason::TicketKey => IdentityKind::Ticket,
            Reason::Psk | Reason::PskKey => IdentityKind::Psk,
            Reason::Cookie => IdentityKind::Cookie,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a [`Key`]'s bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// A session ID, verbatim.
    SessionId = 1,
    /// SHA-256 of a ticket.
    Ticket = 2,
    /// SHA-256 of a PSK identity.
    Psk = 3,
    /// A key name.
    KeyName = 4,
    /// SHA-256 of a cookie's name, `=` and value: its first 24 bytes, which leave room in a row for when the cookie ends.
    Cookie = 5,
}

/// Bytes of a cookie's key.
const COOKIE_BYTES: usize = 24;
/// In the last byte of a key's words, where session IDs shorter than 32 bytes have their length: a cookie, and when it ends.
const COOKIE: u64 = 0x40 << 56;
const KIND_OF_SHORT: u64 = 2;

/// When a cookie ends, as a row's last word of the key has it: no end is 0.
pub(crate) fn cookie_end(kind: u64, last: u64) -> Option<u64> {
    (kind == KIND_OF_SHORT && last & 0xff << 56 == COOKIE).then_some(last & !(0xff << 56))
}

/// The key of a row: a kind and at most 32 bytes. Displays as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    kind: KeyKind,
    len: u8,
    bytes: [u8; 32],
}

impl Key {
    /// `None` for an empty ID and for one longer than the 32 bytes that TLS allows.
    pub fn session_id(id: &[u8]) -> Option<Key> {
        if id.is_empty() || id.len() > 32 {
            return None;
        }
        Some(Key::of(KeyKind::SessionId, id))
    }

    /// Of a whole ticket.
    pub fn ticket(ticket: &[u8]) -> Key {
        Key::of(KeyKind::Ticket, &Sha256::digest(ticket))
    }

    /// Of a whole PSK identity.
    pub fn psk(identity: &[u8]) -> Key {
        Key::of(KeyKind::Psk, &Sha256::digest(identity))
    }

    /// Of a cookie, given in pieces: its name, `=` and its value.
    // Apart, so that those who read hellos pay nothing for it: inlined, it costs each of them sixty instructions.
    #[inline(never)]
    pub fn cookie(pieces: &[&[u8]]) -> Key {
        let mut hash = Sha256::new();
        pieces.iter().for_each(|piece| hash.update(piece));
        Key::of(KeyKind::Cookie, &hash.finalize()[..COOKIE_BYTES])
    }

    /// Of a cookie, of the words that [`Key::to_words`] has of it.
    pub(crate) fn cookie_from_words(words: [u64; COOKIE_BYTES / 8]) -> Key {
        let mut bytes = [0; COOKIE_BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        Key::of(KeyKind::Cookie, &bytes)
    }

    /// Of a key name.
    pub fn name(name: &KeyName) -> Key {
        Key::of(KeyKind::KeyName, name)
    }

    /// What [`Key::kind`] (by its number) and [`Key::as_bytes`] say of one; `None` for what no key says.
    pub fn from_parts(kind: u8, bytes: &[u8]) -> Option<Key> {
        let kinds = [KeyKind::SessionId, KeyKind::Ticket, KeyKind::Psk, KeyKind::KeyName, KeyKind::Cookie];
        let kind = kinds.into_iter().find(|known| *known as u8 == kind)?;
        let fits = match kind {
            KeyKind::SessionId => (1..=32).contains(&bytes.len()),
            KeyKind::Ticket | KeyKind::Psk => bytes.len() == 32,
            KeyKind::KeyName => bytes.len() == 16,
            KeyKind::Cookie => bytes.len() == COOKIE_BYTES,
        };
        fits.then(|| Key::of(kind, bytes))
    }

    fn of(kind: KeyKind, from: &[u8]) -> Key {
        let mut bytes = [0; 32];
        bytes[..from.len()].copy_from_slice(from);
        Key { kind, len: from.len() as u8, bytes }
    }

    /// What the bytes are.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The bytes: 1 to 32.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The bytes in four words, and what they are in two bits: 1 for a session ID of 32 bytes, 2 for a shorter one (the last byte is its length)
    /// or a cookie (it is longer than any, and the rest of its word is for the cookie's end), 3 for a ticket. 0, which no row has, for what has
    /// no exact rows.
    pub(crate) fn to_words(self) -> (u64, [u64; 4]) {
        let mut bytes = self.bytes;
        let kind = match self.kind {
            KeyKind::SessionId if self.len == 32 => 1,
            KeyKind::SessionId => {
                bytes[31] = self.len;
                KIND_OF_SHORT
            }
            KeyKind::Cookie => {
                bytes[31] = (COOKIE >> 56) as u8;
                KIND_OF_SHORT
            }
            KeyKind::Ticket => 3,
            KeyKind::Psk | KeyKind::KeyName => 0,
        };
        let word = |i: usize| u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("8 bytes"));
        (kind, core::array::from_fn(word))
    }

    /// The inverse; `None` for words no key has.
    pub(crate) fn from_words(kind: u64, words: [u64; 4]) -> Option<Key> {
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        match kind {
            1 => Key::session_id(&bytes),
            _ if cookie_end(kind, words[3]).is_some() => Some(Key::of(KeyKind::Cookie, &bytes[..COOKIE_BYTES])),
            KIND_OF_SHORT => bytes.get(..usize::from(bytes[31])).filter(|id| id.len() < 32).and_then(Key::session_id),
            3 => Some(Key::of(KeyKind::Ticket, &bytes)),
            _ => None,
        }
    }
}

/// The key name of a ticket or identity, if it is long enough to begin with one. Whether it *is* one has to be proved.
pub fn key_name(ticket: &[u8]) -> Option<KeyName> {
    ticket.first_chunk().copied()
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{self}", self.kind)
    }
}
