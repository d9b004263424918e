//! One-shot reading of the hello that begins a TCP stream.

use crate::codepoint::{AlertLevel, ContentType, HandshakeType, ProtocolVersion};
use crate::event::Side;
use crate::hello::{ClientHello, Framing, ServerHello};
use crate::outcome::{Malformed, Outcome};
use crate::record::RecordHeader;
use crate::sslv2;

/// Bytes of type and length in front of a handshake message.
pub(crate) const MESSAGE_HEAD: usize = 4;

/// Longest body of a hello, in bytes, with every vector at its upper bound (RFC 5246, 7.4.1.2). What announces more is [`Malformed::TooLong`] at
/// sight of its length, whatever memory is given.
pub const MAX_HELLO: usize = 131_396;

/// Reads the ClientHello at the front of a client's stream: TLS and SSL 3.0 records, or the SSL 2.0 form.
///
/// `stream` is what the client has sent so far, in order and contiguous, from its first byte. A hello inside one record borrows from it alone;
/// one that is spread over several records is joined in `scratch`, and is [`Malformed::TooLong`] when that is too small for it (message
/// header of four bytes included). Nothing is kept: call again with the longer stream after [`Outcome::NeedMore`], or have a [`HelloWalk`] say when
/// that is worth while.
///
/// [`Outcome::NotTls`] comes as early as the bytes show it, mostly with the first one. To be TLS takes, as far as there are bytes: content type
/// handshake, a major version below 16, message type ClientHello. Passed over, before the hello and between its pieces, is what some servers pass
/// over: empty records, warnings, ChangeCipherSpecs.
pub fn client_hello<'a>(stream: &'a [u8], scratch: &'a mut [u8]) -> Outcome<ClientHello<'a>> {
    if stream.first().is_some_and(|b| b & 0x80 != 0) {
        return sslv2::client_hello(stream);
    }
    match first_message(stream, Side::Client, scratch) {
        Outcome::Complete(found) => match ClientHello::parse(found.body, Framing::Tls, found.record_version) {
            Ok(hello) => Outcome::Complete(ClientHello { consumed: found.consumed, ..hello }),
            Err(why) => Outcome::Malformed(why),
        },
        Outcome::NeedMore => Outcome::NeedMore,
        Outcome::Malformed(why) => Outcome::Malformed(why),
        Outcome::NotTls => Outcome::NotTls,
    }
}

/// Reads as much of a ClientHello as has come, for who has no room for all of it: what stands in the part that is missing is as if it were not in the
/// hello, which is [ambiguous](ClientHello::is_ambiguous) therefore. `None` when not even the part before the extensions is there.
pub fn client_hello_so_far<'a>(stream: &'a [u8], scratch: &'a mut [u8]) -> Option<ClientHello<'a>> {
    let mut walk = Walk::default();
    if stream.first().is_some_and(|b| b & 0x80 != 0) || walk.on(stream, Side::Client) == Outcome::NotTls {
        return None;
    }
    let announced = walk.announced()?;
    let filled = join(stream, announced.min(scratch.len()), scratch);
    let body = scratch.get(MESSAGE_HEAD..filled)?;
    let hello = ClientHello::parse(body, Framing::Tls, walk.record_version()).ok()?;
    Some(ClientHello { ambiguous: true, ..hello })
}

/// Reads the ServerHello or HelloRetryRequest at the front of a server's stream, as [`client_hello`] does. A server that begins with a fatal alert is
/// [`Outcome::NotTls`] here.
pub fn server_hello<'a>(stream: &'a [u8], scratch: &'a mut [u8]) -> Outcome<ServerHello<'a>> {
    match first_message(stream, Side::Server, scratch) {
        Outcome::Complete(found) => match ServerHello::parse(found.body, found.record_version) {
            Ok(hello) => Outcome::Complete(hello),
            Err(why) => Outcome::Malformed(why),
        },
        Outcome::NeedMore => Outcome::NeedMore,
        Outcome::Malformed(why) => Outcome::Malformed(why),
        Outcome::NotTls => Outcome::NotTls,
    }
}

/// Follows a client's stream up to the end of its hello without reading it, and looks at each record once however small the pieces are in
/// which the stream grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HelloWalk(Walk);

impl HelloWalk {
    /// Goes on to the end of `stream`: all that the client has sent so far, from its first byte. [`Outcome::Complete`] with the bytes up to the end of the
    /// hello when [`client_hello`] would find it whole; otherwise what that would answer if memory were no matter.
    pub fn advance(&mut self, stream: &[u8]) -> Outcome<usize> {
        if stream.first().is_none_or(|b| b & 0x80 == 0) {
            return self.0.on(stream, Side::Client).map(|found| found.consumed);
        }
        match sslv2::length(stream) {
            Outcome::Complete(total) => {
                (self.0.whole, self.0.seen) = (total as u32, stream.len() as u32);
                if stream.len() < total { Outcome::NeedMore } else { Outcome::Complete(total) }
            }
            other => other,
        }
    }

    /// Whether what has come shows itself to be a hello: its length is known.
    pub const fn is_hello(&self) -> bool {
        self.0.whole > 0
    }

    /// Bytes that have to come, at least, before the hello can be complete; at least one.
    pub const fn missing(&self) -> usize {
        let missing = self.0.whole.saturating_sub(self.0.seen) as usize;
        if missing == 0 { 1 } else { missing }
    }
}

/// A handshake message at the front of a stream.
struct Found<'a> {
    record_version: ProtocolVersion,
    body: &'a [u8],
    consumed: usize,
}

fn first_message<'a>(stream: &'a [u8], side: Side, scratch: &'a mut [u8]) -> Outcome<Found<'a>> {
    let mut walk = Walk::default();
    let outcome = walk.on(stream, side);
    // Said first, and whatever follows: an answer is never taken back.
    if !walk.in_one_record && walk.announced().is_some_and(|whole| whole > scratch.len()) {
        return Outcome::Malformed(Malformed::TooLong);
    }
    outcome.map(|Extent { whole, consumed }| {
        let message = if walk.in_one_record {
            &stream[consumed - whole..consumed]
        } else {
            join(stream, whole, scratch);
            &scratch[..whole]
        };
        Found { record_version: walk.record_version(), body: &message[MESSAGE_HEAD..], consumed }
    })
}

/// Copies the message at the front of a stream, or as much of it as there is, up to `most` bytes; says how many. The records have been walked through.
fn join(stream: &[u8], most: usize, scratch: &mut [u8]) -> usize {
    let (mut rest, mut filled) = (stream, 0);
    while let (true, Some((&header, payload))) = (filled < most, rest.split_first_chunk()) {
        let record = RecordHeader::from_bytes(header);
        let (fragment, after) = payload.split_at(payload.len().min(record.length.into()));
        if record.content_type == ContentType::HANDSHAKE {
            let n = fragment.len().min(most - filled);
            scratch[filled..filled + n].copy_from_slice(&fragment[..n]);
            filled += n;
        }
        rest = after;
    }
    filled
}

/// A whole message at the front of a stream: its bytes, and those of the stream up to its end.
#[derive(Debug, PartialEq, Eq)]
struct Extent {
    whole: usize,
    consumed: usize,
}

/// How far the front of a stream has been looked at: up to the last record that was not all there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Walk {
    /// Where that record begins.
    at: u32,
    /// Bytes of the message in front of it.
    have: u32,
    /// The first of these.
    head: [u8; MESSAGE_HEAD],
    /// Bytes of the message that have come.
    seen: u32,
    /// Bytes of the whole message with its header; 0 as long as that is not known.
    whole: u32,
    /// The message is all in the record in which it begins.
    in_one_record: bool,
    /// Version of that record.
    record_version: u16,
}

impl Walk {
    const fn record_version(&self) -> ProtocolVersion {
        ProtocolVersion(self.record_version)
    }

    /// The length announced, as soon as it is known.
    fn announced(&self) -> Option<usize> {
        (self.whole > 0).then_some(self.whole as usize)
    }

    fn on(&mut self, stream: &[u8], side: Side) -> Outcome<Extent> {
        let kind = match side {
            Side::Client => HandshakeType::CLIENT_HELLO,
            Side::Server => HandshakeType::SERVER_HELLO,
        };
        loop {
            let Some(rest) = stream.get(self.at as usize..) else { return Outcome::NeedMore };
            let broken = if self.have == 0 { Outcome::NotTls } else { Outcome::Malformed(Malformed::Unexpected) };
            let header = match RecordHeader::around_hello(rest, side) {
                Outcome::Complete(header) => header,
                Outcome::NeedMore => return Outcome::NeedMore,
                _ => return broken,
            };
            let (length, payload) = (usize::from(header.length), &rest[RecordHeader::LEN..]);
            let fragment = payload.get(..length).unwrap_or(payload);
            let mut head = self.head;
            if header.content_type == ContentType::HANDSHAKE {
                if self.have == 0 && !fragment.is_empty() {
                    self.record_version = header.version.0;
                    if fragment[0] != kind.0 {
                        return Outcome::NotTls;
                    }
                }
                for (slot, &byte) in head.iter_mut().skip(self.have as usize).zip(fragment) {
                    *slot = byte;
                }
                self.seen = self.have + fragment.len() as u32;
                if self.seen as usize >= MESSAGE_HEAD {
                    let whole = MESSAGE_HEAD + u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
                    if whole > MAX_HELLO {
                        return Outcome::Malformed(Malformed::TooLong);
                    }
                    self.whole = whole as u32;
                    self.in_one_record |= self.have == 0 && whole <= length;
                    if self.seen >= self.whole {
                        let left = whole - self.have as usize;
                        return Outcome::Complete(Extent {
                            whole,
                            consumed: self.at as usize + RecordHeader::LEN + left,
                        });
                    }
                }
            } else if header.content_type == ContentType::ALERT
                && fragment.first().is_some_and(|&level| level != AlertLevel::WARNING.0)
            {
                return broken;
            }
            if fragment.len() < length {
                return Outcome::NeedMore;
            }
            (self.head, self.have) = (head, self.seen);
            self.at += (RecordHeader::LEN + length) as u32;
        }
    }
}
