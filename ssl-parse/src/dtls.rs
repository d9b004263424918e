//! DTLS 1.0 and 1.2 (RFC 4347, RFC 6347), and as much of 1.3 (RFC 9147) as is in the clear: records and handshake fragments in datagrams.

use crate::codepoint::{AlertDescription, AlertLevel, ContentType, HandshakeType, ProtocolVersion};
use crate::event::{Event, Side};
use crate::hello::{ClientHello, Framing, ServerHello};
use crate::outcome::{Malformed, Outcome};
use crate::reader::Reader;
use crate::record::MAX_CIPHERTEXT;
use crate::stream::MAX_HELLO;
use crate::ticket::NewSessionTicket;

/// A DTLS record: thirteen bytes of header, and what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it carries.
    pub content_type: ContentType,
    /// Version of the record.
    pub version: ProtocolVersion,
    /// 0 in the clear; each ChangeCipherSpec adds one.
    pub epoch: u16,
    /// 48 bits, counted in each epoch.
    pub sequence: u64,
    /// What it carries.
    pub fragment: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads the record at the front of `datagram` and takes it off.
    ///
    /// # Errors
    /// [`Malformed::ContentType`], [`Malformed::Version`], [`Malformed::RecordLength`] or [`Malformed::Truncated`]: records are never cut by
    /// datagrams.
    pub fn read(datagram: &mut &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(datagram);
        let content_type = ContentType(r.u8()?);
        if !(ContentType::CHANGE_CIPHER_SPEC..=ContentType::HEARTBEAT).contains(&content_type) {
            return Err(Malformed::ContentType);
        }
        let version = ProtocolVersion(r.u16()?);
        if !version.is_dtls() {
            return Err(Malformed::Version);
        }
        let epoch = r.u16()?;
        let sequence = u64::from(r.u16()?) << 32 | u64::from(r.u32()?);
        let length = r.u16()?;
        if usize::from(length) > MAX_CIPHERTEXT {
            return Err(Malformed::RecordLength);
        }
        let fragment = r.take(length.into())?;
        *datagram = r.rest();
        Ok(Self { content_type, version, epoch, sequence, fragment })
    }
}

/// A piece of a handshake message, perhaps all of it: twelve bytes of header, and the piece (RFC 6347, 4.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Type of the message.
    pub kind: HandshakeType,
    /// Bytes of the message's body.
    pub len: u32,
    /// Place of the message in its side's handshake.
    pub message_seq: u16,
    /// Where in the body the piece belongs.
    pub offset: u32,
    /// The piece.
    pub body: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Reads the piece at the front of a record's fragment and takes it off.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] or [`Malformed::Fragments`].
    pub fn read(record: &mut &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(record);
        let kind = HandshakeType(r.u8()?);
        let len = r.u24()?;
        let message_seq = r.u16()?;
        let offset = r.u24()?;
        let here = r.u24()?;
        if offset + here > len {
            return Err(Malformed::Fragments);
        }
        let body = r.take(here as usize)?;
        *record = r.rest();
        Ok(Self { kind, len, message_seq, offset, body })
    }

    /// Whether the piece is the whole message.
    pub const fn is_whole(&self) -> bool {
        self.body.len() == self.len as usize
    }
}

/// Reads a ClientHello at the front of a datagram: the question whether a datagram of an unknown flow begins a DTLS handshake.
///
/// [`Outcome::NeedMore`] when it holds but a piece of the hello: a [`Follower`] joins it with the others. A datagram that is no DTLS, or does not begin
/// with a ClientHello in the clear, is [`Outcome::NotTls`].
pub fn client_hello(datagram: &[u8]) -> Outcome<ClientHello<'_>> {
    let mut rest = datagram;
    let Ok(record) = Record::read(&mut rest) else { return Outcome::NotTls };
    if record.content_type != ContentType::HANDSHAKE || record.epoch != 0 {
        return Outcome::NotTls;
    }
    let mut piece = record.fragment;
    if piece.first() != Some(&HandshakeType::CLIENT_HELLO.0) {
        return Outcome::NotTls;
    }
    let fragment = match Fragment::read(&mut piece) {
        Ok(fragment) => fragment,
        Err(why) => return Outcome::Malformed(why),
    };
    if fragment.len as usize > MAX_HELLO {
        return Outcome::Malformed(Malformed::TooLong);
    }
    if !fragment.is_whole() {
        return Outcome::NeedMore;
    }
    match ClientHello::parse(fragment.body, Framing::Dtls, record.version) {
        Ok(hello) => Outcome::Complete(ClientHello { consumed: datagram.len() - rest.len() - piece.len(), ..hello }),
        Err(why) => Outcome::Malformed(why),
    }
}

/// Reads a HelloVerifyRequest's body.
fn hello_verify_request(body: &[u8]) -> Result<Event<'_>, Malformed> {
    let mut r = Reader::new(body);
    let version = ProtocolVersion(r.u16()?);
    let cookie = r.vec8()?;
    r.finish()?;
    if version.is_dtls() { Ok(Event::HelloVerifyRequest { version, cookie }) } else { Err(Malformed::Version) }
}

/// Stretches of one message that have come, apart from each other: enough for pieces in any order that datagrams of a usual size make of a
/// hello. When full, a piece that touches none of them is dropped; its sender sends it again.
const STRETCHES: usize = 8;

/// Follows one direction of a DTLS flow, datagram by datagram, and joins fragmented hellos and tickets of up to `N` bytes, one message at a time.
///
/// Messages are reported each time they come, those sent again too, in order of arrival: whoever counts handshakes must expect that. Datagrams may be
/// lost, doubled or out of order. What is not in epoch 0 is encrypted and passed over, with one [`Event::Encrypted`] before it. A fragmented message
/// that is longer than `N` is reported once as [`Event::Skipped`] (tickets too) by its piece at offset 0; when the pieces of two messages come mixed, those
/// of the older are forgotten, to come again.
#[derive(Clone, Debug)]
pub struct Follower<const N: usize> {
    side: Side,
    started: bool,
    encrypted: bool,
    hellos: bool,
    full: bool,
    resumed: Option<bool>,
    joining: Option<Joining>,
    body: [u8; N],
}

/// The message whose pieces are being joined in `Follower::body`.
#[derive(Clone, Copy, Debug)]
struct Joining {
    kind: HandshakeType,
    message_seq: u16,
    len: u32,
    version: ProtocolVersion,
    /// Stretches that have come, sorted, not touching each other; `count` of them.
    stretches: [(u32, u32); STRETCHES],
    count: usize,
}

impl Joining {
    /// Adds a stretch; false when there is no room to remember it.
    fn add(&mut self, mut start: u32, mut end: u32) -> bool {
        // Swallow those that touch the new one, keep the others.
        let mut kept = [(0, 0); STRETCHES];
        let mut count = 0;
        for &(s, e) in &self.stretches[..self.count] {
            if e < start || s > end {
                kept[count] = (s, e);
                count += 1;
            } else {
                start = start.min(s);
                end = end.max(e);
            }
        }
        if count == STRETCHES {
            return false;
        }
        kept[count] = (start, end);
        self.stretches = kept;
        self.count = count + 1;
        true
    }

    fn is_whole(&self) -> bool {
        self.count == 1 && self.stretches[0] == (0, self.len)
    }
}

/// A datagram on its way through a [`Follower`]: where in it the next event is.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'i> {
    rest: &'i [u8],
    /// Rest of a handshake record, and its version.
    record: &'i [u8],
    version: ProtocolVersion,
}

impl<'i> Datagram<'i> {
    /// A datagram's payload, from its first byte.
    pub const fn new(payload: &'i [u8]) -> Self {
        Self { rest: payload, record: &[], version: ProtocolVersion(0) }
    }

    fn give_up(&mut self) {
        (self.rest, self.record) = (&[], &[]);
    }

    fn fail(&mut self, event: Event<'static>) -> Option<Event<'static>> {
        self.give_up();
        Some(event)
    }
}

impl<const N: usize> Follower<N> {
    /// A follower of the side's datagrams.
    pub const fn new(side: Side) -> Self {
        Self {
            side,
            started: false,
            encrypted: false,
            hellos: false,
            full: false,
            resumed: None,
            joining: None,
            body: [0; N],
        }
    }

    /// Server side: whether the session was resumed, as soon as it shows; as [`Follower::resumed`](crate::Follower::resumed).
    pub const fn resumed(&self) -> Option<bool> {
        self.resumed
    }

    /// The next event of a datagram; `None` at its end.
    pub fn next_event<'s, 'i: 's>(&'s mut self, datagram: &mut Datagram<'i>) -> Option<Event<'s>> {
        let step = loop {
            if datagram.record.is_empty() {
                if datagram.rest.is_empty() {
                    return None;
                }
                match self.record(datagram) {
                    None => continue,
                    event => return event,
                }
            }
            match Fragment::read(&mut datagram.record) {
                Ok(fragment) => {
                    if let Some(found) = self.fragment(&fragment, datagram.version) {
                        break found;
                    }
                }
                Err(why) => return datagram.fail(Event::Malformed(why)),
            }
        };
        let (kind, version, body) = match step {
            Found::Event(event) => return Some(event),
            Found::Whole(kind, body) => (kind, datagram.version, body),
            Found::Joined(kind, version, len) => (kind, version, &self.body[..len]),
        };
        let event = match kind {
            HandshakeType::CLIENT_HELLO => ClientHello::parse(body, Framing::Dtls, version).map(Event::ClientHello),
            HandshakeType::SERVER_HELLO => ServerHello::parse(body, version).map(|hello| {
                if hello.version.is_1_3_or_later() && !hello.hello_retry {
                    self.resumed = Some(hello.psk_accepted());
                }
                Event::ServerHello(hello)
            }),
            HandshakeType::HELLO_VERIFY_REQUEST => hello_verify_request(body),
            _ => NewSessionTicket::parse(body).map(Event::NewSessionTicket),
        };
        Some(event.unwrap_or_else(|why| {
            datagram.give_up();
            Event::Malformed(why)
        }))
    }

    /// Feeds one datagram and hands each event to `sink`.
    pub fn feed(&mut self, datagram: &[u8], mut sink: impl FnMut(Event<'_>)) {
        let mut datagram = Datagram::new(datagram);
        while let Some(event) = self.next_event(&mut datagram) {
            sink(event);
        }
    }

    /// Opens the next record. What makes the rest of the datagram worth nothing takes it off.
    fn record(&mut self, datagram: &mut Datagram<'_>) -> Option<Event<'static>> {
        // DTLS 1.3 encrypts under a shorter header (RFC 9147, 4), which no other record can be taken for.
        if self.started && datagram.rest.first().is_some_and(|b| b >> 5 == 1) {
            datagram.give_up();
            return self.encrypted();
        }
        let record = match Record::read(&mut datagram.rest) {
            Ok(record) => record,
            Err(why) => return datagram.fail(if self.started { Event::Malformed(why) } else { Event::NotTls }),
        };
        if record.epoch != 0 {
            // The capture or the flow table came late.
            self.started = true;
            return self.encrypted();
        }
        if !self.started && record.content_type != ContentType::HANDSHAKE && record.content_type != ContentType::ALERT {
            return datagram.fail(Event::NotTls);
        }
        self.started = true;
        match (record.content_type, record.fragment) {
            (ContentType::HANDSHAKE, []) => datagram.fail(Event::Malformed(Malformed::RecordLength)),
            (ContentType::HANDSHAKE, fragment) => {
                datagram.record = fragment;
                datagram.version = record.version;
                None
            }
            // DTLS_BAD has a message sequence number in it.
            (ContentType::CHANGE_CIPHER_SPEC, [1] | [1, _, _]) => {
                if self.side == Side::Server && self.hellos && !self.full && self.resumed.is_none() {
                    self.resumed = Some(true);
                }
                Some(Event::ChangeCipherSpec)
            }
            (ContentType::ALERT, &[level, description]) => {
                let level = AlertLevel(level);
                if level == AlertLevel::WARNING || level == AlertLevel::FATAL {
                    Some(Event::Alert { level, description: AlertDescription(description) })
                } else {
                    datagram.fail(Event::Malformed(Malformed::AlertLevel))
                }
            }
            (ContentType::CHANGE_CIPHER_SPEC | ContentType::ALERT, _) => {
                datagram.fail(Event::Malformed(Malformed::RecordLength))
            }
            // Application data in the clear there are none; heartbeats mean nothing here.
            _ => None,
        }
    }

    fn encrypted(&mut self) -> Option<Event<'static>> {
        let first = !self.encrypted;
        self.encrypted = true;
        first.then_some(Event::Encrypted)
    }

    fn fragment<'i>(&mut self, fragment: &Fragment<'i>, version: ProtocolVersion) -> Option<Found<'i>> {
        use HandshakeType as T;
        let Fragment { kind, len, message_seq, offset, body } = *fragment;
        if self.side == Side::Server {
            match kind {
                T::SERVER_HELLO => self.hellos = true,
                T::CERTIFICATE | T::SERVER_KEY_EXCHANGE | T::CERTIFICATE_REQUEST | T::SERVER_HELLO_DONE => {
                    self.full = true;
                    self.resumed = Some(false);
                }
                _ => {}
            }
        }
        let wanted = match self.side {
            Side::Client => kind == T::CLIENT_HELLO,
            Side::Server => matches!(kind, T::SERVER_HELLO | T::HELLO_VERIFY_REQUEST | T::NEW_SESSION_TICKET),
        };
        if !wanted {
            // Once for each message: at its first piece.
            return (offset == 0).then_some(Found::Event(Event::Handshake { kind, len }));
        }
        if fragment.is_whole() {
            return Some(Found::Whole(kind, body));
        }
        if len as usize > N {
            return (offset == 0).then_some(Found::Event(Event::Skipped { kind, len }));
        }
        let same = |j: &Joining| (j.kind, j.message_seq, j.len) == (kind, message_seq, len);
        let mut joining = self.joining.filter(same).unwrap_or(Joining {
            kind,
            message_seq,
            len,
            version,
            stretches: [(0, 0); STRETCHES],
            count: 0,
        });
        let start = offset as usize;
        // An empty piece brings nothing.
        if !body.is_empty() && joining.add(offset, offset + body.len() as u32) {
            self.body[start..start + body.len()].copy_from_slice(body);
        }
        if joining.is_whole() {
            self.joining = None;
            return Some(Found::Joined(kind, joining.version, len as usize));
        }
        self.joining = Some(joining);
        None
    }
}

#[expect(clippy::large_enum_variant, reason = "lives on the stack for a moment")]
enum Found<'i> {
    Event(Event<'i>),
    /// A message in one piece.
    Whole(HandshakeType, &'i [u8]),
    /// A message of that length, joined in `Follower::body`; version of the record of its first piece.
    Joined(HandshakeType, ProtocolVersion, usize),
}
