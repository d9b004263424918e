//! One-shot reading of the hello that begins a TCP stream.

use crate::codepoint::{ContentType, HandshakeType, ProtocolVersion};
use crate::hello::{ClientHello, Framing, ServerHello};
use crate::outcome::{Malformed, Outcome};
use crate::record::{MAX_PLAINTEXT, RecordHeader};
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
/// header of four bytes included). Nothing is kept: call again with the longer stream after [`Outcome::NeedMore`], which costs a walk over the
/// record headers so far and copies nothing.
///
/// [`Outcome::NotTls`] comes as early as the bytes show it, mostly with the first one. To be TLS takes, as far as there are bytes: content type
/// handshake, major version 3, a length of 1 to 2^14, message type ClientHello. From then on, what is wrong is [`Outcome::Malformed`].
pub fn client_hello<'a>(stream: &'a [u8], scratch: &'a mut [u8]) -> Outcome<ClientHello<'a>> {
    if stream.first().is_some_and(|b| b & 0x80 != 0) {
        return sslv2::client_hello(stream);
    }
    match first_message(stream, HandshakeType::CLIENT_HELLO, scratch) {
        Outcome::Complete(found) => match ClientHello::parse(found.body, Framing::Tls, found.record_version) {
            Ok(hello) => Outcome::Complete(ClientHello { consumed: found.consumed, ..hello }),
            Err(why) => Outcome::Malformed(why),
        },
        Outcome::NeedMore => Outcome::NeedMore,
        Outcome::Malformed(why) => Outcome::Malformed(why),
        Outcome::NotTls => Outcome::NotTls,
    }
}

/// Reads the ServerHello or HelloRetryRequest at the front of a server's stream, as [`client_hello`] does. A server that begins with an alert is
/// [`Outcome::NotTls`] here.
pub fn server_hello<'a>(stream: &'a [u8], scratch: &'a mut [u8]) -> Outcome<ServerHello<'a>> {
    match first_message(stream, HandshakeType::SERVER_HELLO, scratch) {
        Outcome::Complete(found) => match ServerHello::parse(found.body, found.record_version) {
            Ok(hello) => Outcome::Complete(hello),
            Err(why) => Outcome::Malformed(why),
        },
        Outcome::NeedMore => Outcome::NeedMore,
        Outcome::Malformed(why) => Outcome::Malformed(why),
        Outcome::NotTls => Outcome::NotTls,
    }
}

/// A handshake message at the front of a stream.
struct Found<'a> {
    record_version: ProtocolVersion,
    body: &'a [u8],
    consumed: usize,
}

fn first_message<'a>(stream: &'a [u8], kind: HandshakeType, scratch: &'a mut [u8]) -> Outcome<Found<'a>> {
    let at = |i: usize| stream.get(i).copied();
    if at(0).is_some_and(|b| b != ContentType::HANDSHAKE.0)
        || at(1).is_some_and(|b| b != 3)
        || at(RecordHeader::LEN).is_some_and(|b| b != kind.0)
    {
        return Outcome::NotTls;
    }
    let Some((&header, payload)) = stream.split_first_chunk() else { return Outcome::NeedMore };
    let first = RecordHeader::from_bytes(header);
    let first_len = usize::from(first.length);
    if first_len == 0 || first_len > MAX_PLAINTEXT {
        return Outcome::NotTls;
    }
    let record_version = first.version;

    // The common case: the message header is in the first record, and the message too.
    if first_len >= MESSAGE_HEAD {
        let Some(&[_, a, b, c]) = payload.first_chunk() else { return Outcome::NeedMore };
        let whole = MESSAGE_HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
        if whole > MAX_HELLO {
            return Outcome::Malformed(Malformed::TooLong);
        }
        if whole <= first_len {
            return match payload.get(MESSAGE_HEAD..whole) {
                Some(body) => Outcome::Complete(Found { record_version, body, consumed: RecordHeader::LEN + whole }),
                None => Outcome::NeedMore,
            };
        }
        if whole > scratch.len() {
            return Outcome::Malformed(Malformed::TooLong);
        }
    }

    // Walk the headers first, and copy only once all is there: the walk is repeated with every segment that comes, the copy is not.
    let mut head = [0; MESSAGE_HEAD];
    let mut have = 0;
    let mut records = HandshakeRecords { stream };
    let whole = loop {
        match records.next_fragment() {
            Outcome::Complete(fragment) => {
                for (slot, &byte) in head.iter_mut().skip(have).zip(fragment) {
                    *slot = byte;
                }
                have += fragment.len();
            }
            Outcome::NeedMore => return Outcome::NeedMore,
            Outcome::Malformed(why) => return Outcome::Malformed(why),
            Outcome::NotTls => return Outcome::NotTls,
        }
        if have >= MESSAGE_HEAD {
            let whole = MESSAGE_HEAD + u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
            if whole > MAX_HELLO || whole > scratch.len() {
                return Outcome::Malformed(Malformed::TooLong);
            }
            if have >= whole {
                break whole;
            }
        }
    };
    let mut records = HandshakeRecords { stream };
    let mut filled = 0;
    let mut consumed = 0;
    while filled < whole {
        let before = records.stream.len();
        let Outcome::Complete(fragment) = records.next_fragment() else { return Outcome::NeedMore };
        let n = fragment.len().min(whole - filled);
        scratch[filled..filled + n].copy_from_slice(&fragment[..n]);
        filled += n;
        // A message that ends inside its last record leaves the rest of that record.
        consumed += before - records.stream.len() - (fragment.len() - n);
    }
    let scratch: &'a [u8] = scratch;
    Outcome::Complete(Found { record_version, body: &scratch[MESSAGE_HEAD..whole], consumed })
}

/// The fragments of handshake records in front of a stream; that of the last record as far as it has come.
struct HandshakeRecords<'a> {
    stream: &'a [u8],
}

impl<'a> HandshakeRecords<'a> {
    fn next_fragment(&mut self) -> Outcome<&'a [u8]> {
        let at = |i: usize| self.stream.get(i).copied();
        if at(0).is_some_and(|b| b != ContentType::HANDSHAKE.0) {
            return Outcome::Malformed(Malformed::Unexpected);
        }
        if at(1).is_some_and(|b| b != 3) {
            return Outcome::Malformed(Malformed::Version);
        }
        let Some((&header, payload)) = self.stream.split_first_chunk() else { return Outcome::NeedMore };
        let length = usize::from(RecordHeader::from_bytes(header).length);
        if length == 0 || length > MAX_PLAINTEXT {
            return Outcome::Malformed(Malformed::RecordLength);
        }
        match payload.split_at_checked(length) {
            Some((fragment, rest)) => {
                self.stream = rest;
                Outcome::Complete(fragment)
            }
            // What has come of the last record may be all that is missing, when more follows in it.
            None if payload.is_empty() => Outcome::NeedMore,
            None => {
                self.stream = &[];
                Outcome::Complete(payload)
            }
        }
    }
}
