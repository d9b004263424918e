//! A client's requests, read along for one purpose: to know what each response of the server answers, and so where it ends.

use super::body::{Body, LONGEST, Skipped};
use super::head::{Head, Part};
use super::request::request_line;
use super::words::{decimal, field};
use crate::pack::{Pack, Packer, Unpacker, Unreadable, packed, packed_words};
use arrayvec::ArrayVec;

/// Requests that may wait for their responses.
const MOST_PENDING: usize = 32;
/// So much of a field's line is looked at.
const LINE: usize = 128;

/// What a request asks, as far as its response's end depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// The response has no body.
    Head,
    /// After a response that grants it nothing is HTTP any more.
    Connect,
    /// Any other.
    Other,
}

/// Requests that are not answered yet, the oldest first.
pub type Pending = ArrayVec<Method, MOST_PENDING>;

/// Where the reading stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Head,
    Body(Body),
    /// It is not known where the next request begins.
    Lost,
}

/// What a head has said so far.
#[derive(Clone, Copy, Default, Debug)]
struct Said {
    method: Option<Method>,
    minor: u8,
    length: Option<u64>,
    chunked: bool,
}

/// Reads a client's stream. What servers read in different ways is not read any further.
#[derive(Debug)]
pub struct Requests {
    head: Head<LINE>,
    at: At,
    said: Said,
}

impl Default for Requests {
    fn default() -> Self {
        Requests { head: Head::default(), at: At::Head, said: Said::default() }
    }
}

impl Requests {
    /// Begins anew, where it lies.
    pub fn restart(&mut self) {
        self.head.restart();
        (self.at, self.said) = (At::Head, Said::default());
    }

    /// Writes it.
    pub fn pack(&self, to: &mut Packer) {
        let Requests { head, at, said } = self;
        head.pack(to);
        match at {
            At::Head => 0u8.pack(to),
            At::Body(body) => (1u8, *body).pack(to),
            At::Lost => 2u8.pack(to),
        }
        said.pack(to);
    }

    /// The inverse, where it lies.
    pub fn unpack(&mut self, from: &mut Unpacker<'_>) -> Result<(), Unreadable> {
        self.head.unpack(from)?;
        self.at = match u8::unpack(from)? {
            0 => At::Head,
            1 => At::Body(Body::unpack(from)?),
            2 => At::Lost,
            _ => return Err(Unreadable::Impossible("where requests are read")),
        };
        self.said = Pack::unpack(from)?;
        Ok(())
    }

    /// Nothing more is known of what the client asks.
    pub fn lose(&mut self) {
        self.at = At::Lost;
    }

    /// It is known where the next request begins, or will be.
    pub fn is_followed(&self) -> bool {
        self.at != At::Lost
    }

    /// The next bytes of the client's stream, in order, of which the server gets no others. Each request is pending once its head is whole.
    pub fn feed(&mut self, mut bytes: &[u8], pending: &mut Pending) {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Lost => return,
                At::Body(body) => match body.skip(&mut bytes, true) {
                    Skipped::All => self.at = At::Head,
                    Skipped::More => return,
                    Skipped::Lost => self.at = At::Lost,
                },
                At::Head => {
                    let Some(part) = self.head.next(&mut bytes) else { return };
                    let ended = part == Part::End;
                    let took = self.said.take(part);
                    // A line that is continued or ends oddly, or one that matters and is longer than anybody's: servers differ in what they make of it.
                    let odd = !self.head.is_plain() || took == Took::Matters && self.head.is_cut();
                    if took == Took::Odd || odd || ended && !self.is_pending(pending) {
                        self.at = At::Lost;
                    }
                }
            }
        }
    }

    /// A head is whole: what it asks is pending, and what follows it is known. False when it is not.
    fn is_pending(&mut self, pending: &mut Pending) -> bool {
        let Said { method, minor, length, chunked } = core::mem::take(&mut self.said);
        let Some(method) = method else { return false };
        self.at = match (length, chunked) {
            (None | Some(0), false) => At::Head,
            (Some(length), false) if length <= LONGEST => At::Body(Body::Length(length)),
            (None, true) if minor == 1 => At::Body(Body::CHUNKED),
            // Its response is still known for what it is.
            (Some(_), false) => At::Lost,
            _ => return false,
        };
        pending.try_push(method).is_ok()
    }
}

/// What a line of a head is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Took {
    /// The end of the request depends on it.
    Matters,
    /// Any other.
    Fine,
    /// None that servers read alike.
    Odd,
}

impl Said {
    fn take(&mut self, part: Part<'_>) -> Took {
        match part {
            Part::End => Took::Fine,
            Part::Broken => Took::Odd,
            Part::Start(line) => {
                // A blank within what it is for is read in different ways.
                let Some((method, target, minor)) = request_line(line) else { return Took::Odd };
                if target.is_empty() || target.contains(&b' ') || minor > b'1' {
                    return Took::Odd;
                }
                self.minor = minor - b'0';
                self.method = Some(match method {
                    b"HEAD" => Method::Head,
                    b"CONNECT" => Method::Connect,
                    _ => Method::Other,
                });
                Took::Matters
            }
            Part::Field(line) => {
                let Some((name, value)) = field(line) else { return Took::Odd };
                let unsaid = self.length.is_none() && !self.chunked;
                if name.eq_ignore_ascii_case(b"content-length") {
                    self.length = decimal(value).filter(|_| unsaid);
                    if self.length.is_some() { Took::Matters } else { Took::Odd }
                } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                    self.chunked = value.eq_ignore_ascii_case(b"chunked") && unsaid;
                    if self.chunked { Took::Matters } else { Took::Odd }
                } else {
                    Took::Fine
                }
            }
        }
    }
}

packed_words!(Method { Head = 0, Connect = 1, Other = 2 });
packed!(Said { method, minor, length, chunked });

#[cfg(test)]
mod tests {
    use super::*;

    /// What is pending, and whether it is followed on.
    #[track_caller]
    fn reads(stream: &[u8], want: &[Method], followed: bool) {
        for piece in 1..=stream.len() {
            let (mut requests, mut pending) = (Requests::default(), Pending::new());
            stream.chunks(piece).for_each(|bytes| requests.feed(bytes, &mut pending));
            let all = (pending.as_slice(), requests.is_followed());
            assert_eq!(all, (want, followed), "{} in pieces of {piece}", stream.escape_ascii());
        }
    }

    use Method::{Connect, Head as HeadOnly, Other};

    #[test]
    fn requests_in_a_row_are_told_apart_by_their_bodies() {
        reads(
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\nHEAD /x HTTP/1.1\r\n\r\nCONNECT a:1 HTTP/1.1\r\n\r\n",
            &[Other, HeadOnly, Connect],
            true,
        );
        reads(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nHEAD / HTTGET / HTTP/1.0\r\n\r\n", &[Other, Other], true);
        let chunked =
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nHEAD\r\n0\r\n\r\nHEAD / HTTP/1.1\r\n\r\n";
        reads(chunked, &[Other, HeadOnly], true);
        // Not whole yet.
        reads(b"GET / HTTP/1.1\r\nHost: a\r\n", &[], true);
        reads(&b"GET / HTTP/1.1\r\n\r\n".repeat(33), &[Other; 32], false);
    }

    /// As smuggled requests are (RFC 9112 section 11.2): what follows is not read.
    #[test]
    fn what_servers_read_in_different_ways_is_not_followed() {
        let smuggled = b"HEAD / HTTP/1.1\r\n\r\n";
        for odd in [
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
            "Content-Length: 4\r\nContent-Length: 5\r\n",
            "Content-Length: 4\r\nContent-Length: 4\r\n",
            "Content-Length: 4, 4\r\n",
            "Content-Length: +4\r\n",
            "Content-Length: 0x4\r\n",
            "Content-Length:\r\n",
            "Content-Length : 4\r\n",
            "Content-Length: 4\n",
            "Content-Length:\r\n 4\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: \x0bchunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "X\r\n",
            " X: y\r\n",
            "X: a\x01b\r\n",
        ] {
            let request = [b"POST / HTTP/1.1\r\n".as_slice(), odd.as_bytes(), b"\r\n0\r\n\r\n", smuggled].concat();
            reads(&request, &[], false);
        }
        let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        reads(old, &[], false);
        reads(b"GET /a b HTTP/1.1\r\n\r\n", &[], false);
        reads(b"GET / HTTP/1.2\r\n\r\n", &[], false);
        reads(b"GET /\r\n", &[], false);
        // The response to a long one is still its response.
        reads(b"PUT / HTTP/1.1\r\nContent-Length: 2000000\r\n\r\nHEAD", &[Other], false);
    }
}
