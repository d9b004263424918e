//! Follows one direction of a TCP stream in bounded memory.
//!
//! Two layers are taken off as bytes come. Records: a header of five bytes, then a body that is a piece of handshake, one alert, one
//! ChangeCipherSpec, or passed over. Handshake: a header of four bytes, then a body that is collected (hellos and tickets, up to `N` bytes) or passed
//! over (certificates and the rest), over as many records as it takes. What ends the part in the clear:
//!
//! | direction | event |
//! |---|---|
//! | server, up to TLS 1.2 | its ChangeCipherSpec |
//! | server, TLS 1.3 | its ServerHello, but not a HelloRetryRequest, behind which a ChangeCipherSpec may stand for nothing |
//! | client | its ChangeCipherSpec, unless only a hello that offers TLS 1.3 went before it: see below; or application data |
//!
//! A client's ChangeCipherSpec right behind a hello that offers TLS 1.3 may be that of an abbreviated TLS 1.2 handshake (an encrypted
//! Finished follows, in a handshake record), or a decoy before its second hello (which follows in the clear, in a handshake record, possibly behind
//! early data). The follower does not know what the server said; but a second hello repeats version and random of the first
//! (RFC 8446, 4.1.2), which no ciphertext does.

mod saved;

use crate::codepoint::{AlertDescription, AlertLevel, ContentType, HandshakeType, ProtocolVersion};
use crate::event::{Event, Side};
use crate::hello::{ClientHello, Framing, ServerHello};
use crate::outcome::{Malformed, Outcome};
use crate::reader::Reader;
use crate::record::{MAX_CIPHERTEXT, MAX_PLAINTEXT, RecordHeader};
use crate::sslv2;
use crate::stream::{MAX_HELLO, MESSAGE_HEAD};
use crate::ticket::NewSessionTicket;

/// A NewSessionTicket's lifetime and length, and the key name.
const TICKET_HEAD: usize = 4 + 2 + 16;

/// Follows one direction of a stream from its first byte; holds messages of up to `N` bytes, and about 100 bytes of its own.
///
/// Fed arbitrary slices in order, it reports the same events whatever the slicing (only [`Event::LongTicketBytes`] may be cut otherwise).
/// What is longer than `N` is reported as [`Event::Skipped`], tickets as a stream of bytes. After [`Event::Encrypted`],
/// [`Event::Malformed`] or [`Event::NotTls`] it [is done](Self::is_done) and swallows the rest.
///
/// ```
/// use ssl_parse::{Event, Follower, Side};
/// # let segment: &[u8] = b"SSH-2.0-OpenSSH_9.2\r\n";
/// let mut follower = Follower::<2048>::new(Side::Server);
/// let mut input = segment;
/// while let Some(event) = follower.next_event(&mut input) {
///     match event {
///         Event::ServerHello(hello) => assert!(hello.session_id.len() <= 32),
///         Event::NotTls => assert!(follower.is_done()),
///         _ => {}
///     }
/// }
/// assert!(input.is_empty() && follower.is_done());
/// ```
#[derive(Clone, Debug)]
pub struct Follower<const N: usize> {
    side: Side,
    done: bool,
    /// To be reported before anything else is read.
    pending: Option<Pending>,
    layer: Layer,
    record: RecordHeader,
    /// Bytes of the record's body to come.
    record_left: u16,
    message: Message,
    /// Record version where the message began.
    message_version: ProtocolVersion,
    progress: Progress,
    body: [u8; N],
}

/// Which header or body the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum Layer {
    /// A record header, of which there are so many bytes.
    RecordHead { bytes: [u8; RecordHeader::LEN], have: u8 },
    /// The body of a record.
    RecordBody,
    /// An alert's two bytes.
    Alert { level: Option<u8> },
    /// A hello in SSL 2.0 form, collected in `body`, header included.
    Sslv2 { have: u16 },
    /// Such a hello, too long: bytes to pass over.
    Sslv2Skip { left: u16 },
}

const RECORD_HEAD: Layer = Layer::RecordHead { bytes: [0; RecordHeader::LEN], have: 0 };

/// The handshake message under way.
#[derive(Clone, Copy, Debug)]
enum Message {
    /// Its header, of which there are so many bytes: none means that no message is under way.
    Head { bytes: [u8; MESSAGE_HEAD], have: u8 },
    /// Its body, into `Follower::body`.
    Collect { kind: HandshakeType, len: u32, have: u32 },
    /// Its body, passed over.
    Skip { left: u32 },
    /// The first bytes of a long ticket, into `Follower::body`.
    TicketHead { len: u32, have: u8 },
    /// What follows the key name of a long ticket.
    Ticket { left: u16 },
}

const MESSAGE_NONE: Message = Message::Head { bytes: [0; MESSAGE_HEAD], have: 0 };

/// What has to be known of a client's first hello in order to follow its stream from there on: see [`Follower::behind`].
#[derive(Clone, Copy, Debug)]
pub struct AfterHello(Progress);

impl AfterHello {
    /// Of this hello.
    pub fn new(hello: &ClientHello<'_>) -> AfterHello {
        let mut progress = Progress::NONE;
        progress.client_hello(hello);
        AfterHello(progress)
    }
}

/// What the messages so far mean for those to come.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// Hellos of this side so far, HelloRetryRequests included; sticks at 255.
    hellos: u8,
    /// Another message than a hello was seen.
    beyond_hello: bool,
    /// Client: the hello offers TLS 1.3. Server: the last was a HelloRetryRequest.
    may_repeat: bool,
    /// Client: the last hello offers TLS 1.3 or could not be read. Server: the last could not be read. Application data then are what TLS 1.3 encrypts.
    perhaps_1_3: bool,
    /// Client: early data may follow the hello.
    early_data: bool,
    /// Client: a ChangeCipherSpec came right behind the hello; what follows is a second hello or encrypted.
    probing: bool,
    /// Client: version and random of the first hello, when it could be read.
    first: Option<[u8; 34]>,
    /// Server: resumed or not, as soon as it shows.
    resumed: Option<bool>,
}

#[derive(Clone, Copy, Debug)]
enum Pending {
    Encrypted,
    TicketName,
    TicketEnd,
}

/// An event as the inner loop finds it: what borrows from `Follower::body` is made an [`Event`] outside of the loop.
#[expect(clippy::large_enum_variant, reason = "lives on the stack for a moment")]
enum Found<'i> {
    Event(Event<'i>),
    Message(HandshakeType, usize),
    Sslv2(usize),
    TicketName,
}

impl<const N: usize> Follower<N> {
    /// Memory must hold at least the head of a long ticket and of a hello.
    const ENOUGH: () = assert!(N >= 64, "a follower needs 64 bytes of memory at least");

    /// A follower of the side's stream from its first byte.
    pub const fn new(side: Side) -> Self {
        let () = Self::ENOUGH;
        Self {
            side,
            done: false,
            pending: None,
            layer: RECORD_HEAD,
            record: RecordHeader { content_type: ContentType(0), version: ProtocolVersion(0), length: 0 },
            record_left: 0,
            message: MESSAGE_NONE,
            message_version: ProtocolVersion(0),
            progress: Progress::NONE,
            body: [0; N],
        }
    }

    /// A follower of a client's stream from behind its first hello, to read the second one that a HelloRetryRequest asks for. The first
    /// must have ended with its record: what stands behind it in the same record is not seen.
    pub fn behind(first: AfterHello) -> Self {
        Self { progress: first.0, ..Self::new(Side::Client) }
    }

    /// Begins anew, as [`Follower::new`]: in its place, where what it held is left as it lies.
    pub fn restart(&mut self, side: Side) {
        let new = Follower::<64>::new(side);
        // All of them by name, so that none is forgotten.
        let Self { side, done, pending, layer, record, record_left, message, message_version, progress, body: _ } =
            self;
        (*side, *done, *pending, *layer) = (new.side, new.done, new.pending, new.layer);
        (*record, *record_left) = (new.record, new.record_left);
        (*message, *message_version, *progress) = (new.message, new.message_version, new.progress);
    }

    /// The same, as [`Follower::behind`].
    pub fn restart_behind(&mut self, first: AfterHello) {
        self.restart(Side::Client);
        self.progress = first.0;
    }

    /// The side it follows.
    pub const fn side(&self) -> Side {
        self.side
    }

    /// Whether there is nothing more to learn: all that follows is encrypted, or was never TLS, or is broken.
    pub const fn is_done(&self) -> bool {
        self.done && self.pending.is_none()
    }

    /// Server side: whether the session was resumed, as soon as the stream shows it. TLS 1.3: the ServerHello takes a PSK. Before: no Certificate,
    /// ServerKeyExchange or ServerHelloDone comes before the ChangeCipherSpec.
    pub const fn resumed(&self) -> Option<bool> {
        self.progress.resumed
    }

    /// Takes bytes off the front of `input` up to the next event. `None` when all of `input` has been taken; feed the next slice then.
    pub fn next_event<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Option<Event<'s>> {
        Some(match self.advance(input)? {
            Found::Event(event) => event,
            Found::TicketName => Event::LongTicketBytes(&self.body[TICKET_HEAD - 16..TICKET_HEAD]),
            Found::Sslv2(len) => match sslv2::parse(&self.body[..len]) {
                Ok(hello) => {
                    self.progress.client_hello(&hello);
                    Event::ClientHello(ClientHello { consumed: 0, ..hello })
                }
                Err(why) => {
                    self.done = true;
                    Event::Malformed(why)
                }
            },
            Found::Message(kind, len) => {
                let body = &self.body[..len];
                let event = match kind {
                    HandshakeType::CLIENT_HELLO => {
                        ClientHello::parse(body, Framing::Tls, self.message_version).map(|hello| {
                            self.progress.client_hello(&hello);
                            Event::ClientHello(hello)
                        })
                    }
                    HandshakeType::SERVER_HELLO => ServerHello::parse(body, self.message_version).map(|hello| {
                        if self.progress.server_hello(&hello) {
                            self.pending = Some(Pending::Encrypted);
                        }
                        Event::ServerHello(hello)
                    }),
                    _ => NewSessionTicket::parse(body).map(Event::NewSessionTicket),
                };
                event.unwrap_or_else(|why| {
                    self.done = true;
                    Event::Malformed(why)
                })
            }
        })
    }

    /// Feeds a slice and hands each event to `sink`.
    pub fn feed(&mut self, mut input: &[u8], mut sink: impl FnMut(Event<'_>)) {
        while let Some(event) = self.next_event(&mut input) {
            sink(event);
        }
    }

    fn advance<'i>(&mut self, input: &mut &'i [u8]) -> Option<Found<'i>> {
        loop {
            match self.pending.take() {
                Some(Pending::Encrypted) => {
                    self.done = true;
                    return Some(Found::Event(Event::Encrypted));
                }
                Some(Pending::TicketName) => return Some(Found::TicketName),
                Some(Pending::TicketEnd) => return Some(Found::Event(Event::LongTicketEnd)),
                None => {}
            }
            if self.done {
                *input = &[];
                return None;
            }
            if input.is_empty() {
                return None;
            }
            let step = match self.layer {
                Layer::RecordHead { bytes, have } => self.record_head(bytes, have, input),
                Layer::RecordBody => self.record_body(input),
                Layer::Alert { level } => self.alert(level, input),
                Layer::Sslv2 { have } => self.sslv2(have.into(), input),
                Layer::Sslv2Skip { left } => {
                    let n = take(input, left.into()).len() as u16;
                    self.layer = if n == left { RECORD_HEAD } else { Layer::Sslv2Skip { left: left - n } };
                    Ok(None)
                }
            };
            match step {
                Ok(None) => {}
                Ok(Some(found)) => return Some(found),
                Err(Stop::Encrypted) => self.pending = Some(Pending::Encrypted),
                Err(Stop::Malformed(why)) => {
                    self.done = true;
                    return Some(Found::Event(Event::Malformed(why)));
                }
                Err(Stop::NotTls) => {
                    self.done = true;
                    return Some(Found::Event(Event::NotTls));
                }
            }
        }
    }

    /// Nothing of this side is known to be TLS yet.
    const fn at_start(&self) -> bool {
        let untouched = matches!(self.message, Message::Head { have: 0, .. });
        self.progress.hellos == 0 && !self.progress.beyond_hello && untouched
    }

    /// A client's first hello is waited for, or the rest of any: records may then come in all forms that some server takes.
    const fn amid_hello(&self) -> bool {
        let hello = match self.message {
            Message::Head { have: 0, .. } => self.progress.hellos == 0,
            Message::Head { bytes: [kind, ..], .. } => kind == HandshakeType::CLIENT_HELLO.0,
            Message::Collect { kind, .. } => kind.0 == HandshakeType::CLIENT_HELLO.0,
            Message::Skip { .. } => !self.progress.beyond_hello,
            Message::TicketHead { .. } | Message::Ticket { .. } => false,
        };
        hello && matches!(self.side, Side::Client) && !self.progress.probing
    }

    fn record_head<'i>(&mut self, mut bytes: [u8; 5], have: u8, input: &mut &'i [u8]) -> Step<'i> {
        // The SSL 2.0 form can only be the first of all.
        let first = have == 0 && self.record.content_type == ContentType(0);
        if first && self.side == Side::Client && input.first().is_some_and(|b| b & 0x80 != 0) {
            self.layer = Layer::Sslv2 { have: 0 };
            return Ok(None);
        }
        let have = usize::from(have);
        let got = take(input, RecordHeader::LEN - have);
        bytes[have..have + got.len()].copy_from_slice(got);
        let have = have + got.len();

        // What can be said of the first bytes alone is said at once.
        let kind = ContentType(bytes[0]);
        let amid_hello = self.amid_hello();
        if amid_hello {
            if RecordHeader::around_hello(&bytes[..have], Side::Client) == Outcome::NotTls {
                let started = !self.at_start();
                return Err(if started { Stop::Malformed(Malformed::Unexpected) } else { Stop::NotTls });
            }
        } else if self.at_start() {
            let may_start = kind == ContentType::HANDSHAKE || kind == ContentType::ALERT;
            if !may_start || have > 1 && bytes[1] != 3 {
                return Err(Stop::NotTls);
            }
        } else if !(ContentType::CHANGE_CIPHER_SPEC..=ContentType::HEARTBEAT).contains(&kind) {
            return Err(Stop::Malformed(Malformed::ContentType));
        } else if have > 1 && bytes[1] != 3 {
            return Err(Stop::Malformed(Malformed::Version));
        }
        if have < RecordHeader::LEN {
            self.layer = Layer::RecordHead { bytes, have: have as u8 };
            return Ok(None);
        }

        let record = RecordHeader::from_bytes(bytes);
        let length = usize::from(record.length);
        let wrong_length = if self.at_start() { Stop::NotTls } else { Stop::Malformed(Malformed::RecordLength) };
        self.record = record;
        self.record_left = record.length;
        self.layer = Layer::RecordBody;
        let between_messages = matches!(self.message, Message::Head { have: 0, .. });
        match kind {
            ContentType::HANDSHAKE if self.progress.probing && length > MAX_PLAINTEXT => return Err(Stop::Encrypted),
            ContentType::HANDSHAKE if !amid_hello && length > MAX_PLAINTEXT => return Err(wrong_length),
            ContentType::HANDSHAKE => {}
            ContentType::ALERT if length == 2 => self.layer = Layer::Alert { level: None },
            ContentType::ALERT if self.progress.probing => return Err(Stop::Encrypted),
            ContentType::ALERT => return Err(wrong_length),
            _ if !between_messages && !amid_hello => return Err(Stop::Malformed(Malformed::Unexpected)),
            ContentType::CHANGE_CIPHER_SPEC if length == 1 => {}
            ContentType::CHANGE_CIPHER_SPEC => return Err(wrong_length),
            ContentType::APPLICATION_DATA => {
                let Progress { early_data, perhaps_1_3, beyond_hello, .. } = self.progress;
                if !early_data || beyond_hello {
                    let may_be = perhaps_1_3 && !beyond_hello;
                    return Err(if may_be { Stop::Encrypted } else { Stop::Malformed(Malformed::Unexpected) });
                }
                if length > MAX_CIPHERTEXT {
                    return Err(wrong_length);
                }
            }
            _ if length > MAX_CIPHERTEXT => return Err(wrong_length),
            _ => {}
        }
        if self.record_left == 0 {
            self.layer = RECORD_HEAD;
        }
        Ok(None)
    }

    fn record_body<'i>(&mut self, input: &mut &'i [u8]) -> Step<'i> {
        match self.record.content_type {
            ContentType::HANDSHAKE => self.handshake(input),
            ContentType::CHANGE_CIPHER_SPEC => {
                take(input, 1);
                self.layer = RECORD_HEAD;
                self.change_cipher_spec()
            }
            _ => {
                self.take_record(input, usize::MAX);
                Ok(None)
            }
        }
    }

    /// Up to `most` bytes of the record's body.
    fn take_record<'i>(&mut self, input: &mut &'i [u8], most: usize) -> &'i [u8] {
        let got = take(input, most.min(self.record_left.into()));
        self.record_left -= got.len() as u16;
        if self.record_left == 0 {
            self.layer = RECORD_HEAD;
        }
        got
    }

    fn change_cipher_spec<'i>(&mut self) -> Step<'i> {
        if self.amid_hello() {
            return Ok(Some(Found::Event(Event::ChangeCipherSpec)));
        }
        let progress = &mut self.progress;
        if progress.hellos == 0 {
            return Err(Stop::Malformed(Malformed::Unexpected));
        }
        let clear_may_follow = progress.may_repeat && !progress.beyond_hello;
        if !clear_may_follow {
            self.pending = Some(Pending::Encrypted);
            if self.side == Side::Server && !progress.perhaps_1_3 && progress.resumed.is_none() {
                progress.resumed = Some(true);
            }
        }
        progress.probing = clear_may_follow && self.side == Side::Client;
        Ok(Some(Found::Event(Event::ChangeCipherSpec)))
    }

    fn alert<'i>(&mut self, level: Option<u8>, input: &mut &'i [u8]) -> Step<'i> {
        let &byte = take(input, 1).first().ok_or(Stop::Malformed(Malformed::Truncated))?;
        let Some(level) = level else {
            // A client that begins with a fatal alert begins nothing.
            let most =
                if self.at_start() && self.side == Side::Client { AlertLevel::WARNING } else { AlertLevel::FATAL };
            if !(AlertLevel::WARNING.0..=most.0).contains(&byte) {
                let started = !self.at_start();
                return Err(if started { Stop::Malformed(Malformed::AlertLevel) } else { Stop::NotTls });
            }
            self.layer = Layer::Alert { level: Some(byte) };
            return Ok(None);
        };
        self.layer = RECORD_HEAD;
        Ok(Some(Found::Event(Event::Alert { level: AlertLevel(level), description: AlertDescription(byte) })))
    }

    fn handshake<'i>(&mut self, input: &mut &'i [u8]) -> Step<'i> {
        match self.message {
            Message::Head { mut bytes, have } => {
                let have = usize::from(have);
                let got = self.take_record(input, MESSAGE_HEAD - have);
                bytes[have..have + got.len()].copy_from_slice(got);
                if have == 0 {
                    self.message_version = self.record.version;
                    self.check_kind(HandshakeType(bytes[0]))?;
                }
                let have = have + got.len();
                self.message = Message::Head { bytes, have: have as u8 };
                // A second hello behind the decoy: no ciphertext passes for one (the rest is compared while it is collected).
                if self.progress.probing && have > 1 && bytes[1] != 0 {
                    return Err(Stop::Encrypted);
                }
                if have < MESSAGE_HEAD { Ok(None) } else { self.message_begins(bytes) }
            }
            Message::Collect { kind, len, have } => {
                let got = self.take_record(input, (len - have) as usize);
                let start = have as usize;
                let end = start + got.len();
                self.body[start..end].copy_from_slice(got);
                if self.progress.probing {
                    let first = self.progress.first.as_ref().map_or(&[][..], |first| &first[..]);
                    if self.body[..end].iter().zip(first).any(|(a, b)| a != b) {
                        return Err(Stop::Encrypted);
                    }
                }
                if end < len as usize {
                    self.message = Message::Collect { kind, len, have: end as u32 };
                    return Ok(None);
                }
                self.message = MESSAGE_NONE;
                Ok(Some(Found::Message(kind, end)))
            }
            Message::Skip { left } => {
                let left = left - self.take_record(input, left as usize).len() as u32;
                self.message = if left == 0 { MESSAGE_NONE } else { Message::Skip { left } };
                Ok(None)
            }
            Message::TicketHead { len, have } => {
                let have = usize::from(have);
                let got = self.take_record(input, TICKET_HEAD - have);
                let end = have + got.len();
                self.body[have..end].copy_from_slice(got);
                if end < TICKET_HEAD {
                    self.message = Message::TicketHead { len, have: end as u8 };
                    return Ok(None);
                }
                let mut head = Reader::new(&self.body[..TICKET_HEAD]);
                let lifetime = head.u32().map_err(Stop::Malformed)?;
                let ticket = head.u16().map_err(Stop::Malformed)?;
                match (len as usize).cmp(&(usize::from(ticket) + 6)) {
                    core::cmp::Ordering::Less => return Err(Stop::Malformed(Malformed::Truncated)),
                    core::cmp::Ordering::Greater => return Err(Stop::Malformed(Malformed::TrailingBytes)),
                    core::cmp::Ordering::Equal => {}
                }
                // Longer than the key name, because it is longer than `N`.
                self.message = Message::Ticket { left: ticket - 16 };
                self.pending = Some(Pending::TicketName);
                Ok(Some(Found::Event(Event::LongTicketStart { lifetime, len: ticket })))
            }
            Message::Ticket { left } => {
                let got = self.take_record(input, left.into());
                let left = left - got.len() as u16;
                self.message = Message::Ticket { left };
                if left == 0 {
                    self.message = MESSAGE_NONE;
                    self.pending = Some(Pending::TicketEnd);
                }
                Ok(Some(Found::Event(Event::LongTicketBytes(got))))
            }
        }
    }

    /// Whether a message of this type may come now, by its first byte.
    fn check_kind(&self, kind: HandshakeType) -> Result<(), Stop> {
        use HandshakeType as T;
        let right = match (self.side, kind) {
            // The only messages a side may begin with.
            (Side::Client, T::CLIENT_HELLO) | (Side::Server, T::SERVER_HELLO | T::HELLO_REQUEST) => {
                self.progress.hellos == 0 || self.progress.may_repeat || kind == T::HELLO_REQUEST
            }
            (Side::Client, T::SERVER_HELLO | T::HELLO_REQUEST | T::NEW_SESSION_TICKET | T::SERVER_HELLO_DONE)
            | (Side::Server, T::CLIENT_HELLO | T::CLIENT_KEY_EXCHANGE) => false,
            // Up to its second hello a server that asked for one says nothing else.
            (Side::Server, _) => self.progress.hellos > 0 && !self.progress.may_repeat,
            (Side::Client, _) => self.progress.hellos > 0,
        };
        match right {
            true if self.progress.probing && kind != T::CLIENT_HELLO => Err(Stop::Encrypted),
            true => Ok(()),
            false if self.progress.probing => Err(Stop::Encrypted),
            false if self.at_start() => Err(Stop::NotTls),
            false => Err(Stop::Malformed(Malformed::Unexpected)),
        }
    }

    fn message_begins<'i>(&mut self, [kind, a, b, c]: [u8; MESSAGE_HEAD]) -> Step<'i> {
        use HandshakeType as T;
        let kind = HandshakeType(kind);
        let len = u32::from_be_bytes([0, a, b, c]);
        let fits = len as usize <= N;
        let hello = matches!(kind, T::CLIENT_HELLO | T::SERVER_HELLO);
        let wanted = hello || kind == T::NEW_SESSION_TICKET;
        if hello && len as usize > MAX_HELLO {
            return Err(if self.progress.probing { Stop::Encrypted } else { Stop::Malformed(Malformed::TooLong) });
        }
        if !hello && kind != T::HELLO_REQUEST {
            self.progress.beyond_hello = true;
        }
        if self.side == Side::Server
            && matches!(kind, T::CERTIFICATE | T::SERVER_KEY_EXCHANGE | T::CERTIFICATE_REQUEST | T::SERVER_HELLO_DONE)
        {
            self.progress.resumed = Some(false);
        }
        self.message = match len {
            0 => MESSAGE_NONE,
            _ if wanted && fits => Message::Collect { kind, len, have: 0 },
            _ if kind == T::NEW_SESSION_TICKET => Message::TicketHead { len, have: 0 },
            _ => Message::Skip { left: len },
        };
        Ok(match (wanted, fits) {
            (true, true) if len == 0 => Some(Found::Message(kind, 0)),
            (true, true) => None,
            (true, false) if hello => {
                self.progress.unread_hello(self.side);
                Some(Found::Event(Event::Skipped { kind, len }))
            }
            (true, false) => None,
            (false, _) => Some(Found::Event(Event::Handshake { kind, len })),
        })
    }

    fn sslv2<'i>(&mut self, have: usize, input: &mut &'i [u8]) -> Step<'i> {
        let target = match sslv2::length(&self.body[..have]) {
            Outcome::Complete(total) if total > N => {
                self.layer = Layer::Sslv2Skip { left: (total - have) as u16 };
                self.progress.hellos = 1;
                let len = total as u32 - 2;
                return Ok(Some(Found::Event(Event::Skipped { kind: HandshakeType::CLIENT_HELLO, len })));
            }
            Outcome::Complete(total) => total,
            _ => sslv2::HEAD,
        };
        let got = take(input, target - have);
        let end = have + got.len();
        self.body[have..end].copy_from_slice(got);
        self.layer = Layer::Sslv2 { have: end as u16 };
        match sslv2::length(&self.body[..end]) {
            Outcome::Complete(total) if total == end => {
                self.layer = RECORD_HEAD;
                Ok(Some(Found::Sslv2(end)))
            }
            Outcome::Complete(_) | Outcome::NeedMore => Ok(None),
            Outcome::NotTls => Err(Stop::NotTls),
            Outcome::Malformed(why) => Err(Stop::Malformed(why)),
        }
    }
}

impl Progress {
    const NONE: Progress = Progress {
        hellos: 0,
        beyond_hello: false,
        may_repeat: false,
        perhaps_1_3: false,
        early_data: false,
        probing: false,
        first: None,
        resumed: None,
    };

    fn client_hello(&mut self, hello: &ClientHello<'_>) {
        // A third hello has no place, nor early data behind the second (RFC 8446, 4.2.10).
        let second = self.hellos > 0;
        self.hellos = self.hellos.saturating_add(1);
        self.perhaps_1_3 = hello.offers_1_3();
        self.may_repeat = self.perhaps_1_3 && !second;
        self.early_data = hello.early_data && !second;
        self.probing = false;
        self.first = None;
        if let (false, Ok(random)) = (second, <[u8; 32]>::try_from(hello.random)) {
            let mut first = [0; 34];
            first[..2].copy_from_slice(&hello.legacy_version.0.to_be_bytes());
            first[2..].copy_from_slice(&random);
            self.first = Some(first);
        }
    }

    /// Whether all is encrypted behind it.
    fn server_hello(&mut self, hello: &ServerHello<'_>) -> bool {
        self.hellos = self.hellos.saturating_add(1);
        self.may_repeat = hello.hello_retry;
        self.perhaps_1_3 = false;
        let ends = !hello.hello_retry && hello.version.is_1_3_or_later();
        if ends {
            self.resumed = Some(hello.psk_accepted());
        }
        ends
    }

    /// A hello passed over may have said anything; but a HelloRetryRequest is never long.
    fn unread_hello(&mut self, side: Side) {
        self.may_repeat = side == Side::Client && self.hellos == 0;
        self.hellos = self.hellos.saturating_add(1);
        self.perhaps_1_3 = true;
        self.early_data = false;
        self.probing = false;
    }
}

/// Why the follower stops.
enum Stop {
    Encrypted,
    Malformed(Malformed),
    NotTls,
}

type Step<'i> = Result<Option<Found<'i>>, Stop>;

/// Up to `n` bytes off the front.
fn take<'i>(input: &mut &'i [u8], n: usize) -> &'i [u8] {
    let (head, rest) = input.split_at(n.min(input.len()));
    *input = rest;
    head
}
