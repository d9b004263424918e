//! The head of a connection's first request, as it is held until a backend is chosen: all of it in a row.
//!
//! It is read for a choice, and judged by nobody: what is odd in it may decide nothing, and goes on to a server, which says what is wrong with it.

use super::words::{field, is_token, unquoted};

/// Longest method that is taken for one.
const LONGEST_METHOD: usize = 24;
/// Fields that are looked at: more is no request of anybody's.
const MOST_FIELDS: usize = 256;
/// Cookies of one name in a request that are looked up.
pub const MAX_COOKIES: usize = 4;
/// Longest value of a cookie (RFC 6265 section 6.1).
pub(super) const LONGEST_VALUE: usize = 4096;

/// What the beginning of a stream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Walked {
    /// No request of HTTP/1.
    Not,
    /// Perhaps one: more is to come.
    More,
    /// The head of one.
    Whole,
}

/// Follows a stream to the end of its first head, looking at each byte once.
#[derive(Clone, Copy, Default, Debug)]
pub struct RequestWalk {
    /// So much of it has been looked at.
    seen: u32,
    /// The line that this is in began here.
    line: u32,
    /// Behind the first line.
    in_fields: bool,
}

impl RequestWalk {
    /// `stream` is all that has come, what was given before included.
    pub fn advance(&mut self, stream: &[u8]) -> Walked {
        loop {
            let rest = stream.get(self.seen as usize..).unwrap_or_default();
            let Some(end) = rest.iter().position(|&b| b == b'\n') else {
                self.seen = stream.len() as u32;
                let begun = &stream[self.line as usize..];
                return if self.in_fields || may_begin(begun) { Walked::More } else { Walked::Not };
            };
            let end = self.seen as usize + end;
            let line = stream[self.line as usize..end].strip_suffix(b"\r");
            let line = line.unwrap_or(&stream[self.line as usize..end]);
            (self.seen, self.line) = (end as u32 + 1, end as u32 + 1);
            match line {
                // Empty lines may stand in front (RFC 9112 section 2.2).
                [] if !self.in_fields && end < 8 => {}
                [] if !self.in_fields => return Walked::Not,
                [] => return Walked::Whole,
                _ if self.in_fields => {}
                line if request_line(line).is_some() => self.in_fields = true,
                _ => return Walked::Not,
            }
        }
    }

    /// The first line has come, or a part of one that is longer than a method: it is meant as a request.
    pub fn has_begun(&self) -> bool {
        self.in_fields || self.seen > self.line
    }
}

/// A first line may begin so: with the letters of a method.
fn may_begin(line: &[u8]) -> bool {
    let method = line.iter().take_while(|&&b| is_token(b)).count();
    let ended = line.len() == method || line[method] == b' ' && method > 0 || line == b"\r";
    method <= LONGEST_METHOD && ended
}

/// A method, what it is for, and the version after `HTTP/1.`; `None` of what is no request of HTTP/1.
pub(super) fn request_line(line: &[u8]) -> Option<(&[u8], &[u8], u8)> {
    let method = line.iter().position(|&b| b == b' ')?;
    let (head, version) = line.split_at_checked(line.len().checked_sub(9)?)?;
    let [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'9'] = version else { return None };
    let target = head.get(method + 1..)?;
    let token = (1..=LONGEST_METHOD).contains(&method) && line[..method].iter().all(|&b| is_token(b));
    token.then_some((&line[..method], target, *minor))
}

/// The head of a request, or as much of it as has come.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    target: &'a [u8],
    fields: &'a [u8],
}

impl<'a> Request<'a> {
    /// At the beginning of `stream`. `None` when there is none, or its first line is not whole.
    pub fn read(stream: &'a [u8]) -> Option<Request<'a>> {
        let mut rest = stream;
        loop {
            let end = rest.iter().position(|&b| b == b'\n')?;
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            rest = &rest[end + 1..];
            if !line.is_empty() {
                let (_, target, _) = request_line(line)?;
                return Some(Request { target, fields: rest });
            }
            if stream.len() - rest.len() > 8 {
                return None;
            }
        }
    }

    /// Names and values of the fields that are whole. The value of one that is continued on further lines has those in it, with their line breaks.
    fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.fields;
        let lines = core::iter::from_fn(move || {
            let mut end = rest.iter().position(|&b| b == b'\n')?;
            // As long as the next line begins with a blank, it belongs to this one.
            while matches!(rest.get(end + 1), Some(b' ' | b'\t')) && !matches!(rest[..end], [] | [b'\r']) {
                end += 1 + rest[end + 1..].iter().position(|&b| b == b'\n')?;
            }
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            rest = &rest[end + 1..];
            (!line.is_empty()).then_some(line)
        });
        lines.take(MOST_FIELDS).filter_map(field)
    }

    /// The host that it is for, without the port (RFC 9112 section 3.2): of a target in absolute form its own. `None` when there is none, or several that differ.
    pub fn host(&self) -> Option<&'a [u8]> {
        if let Some(authority) = authority(self.target) {
            return without_port(authority);
        }
        let mut hosts = self.fields().filter(|(name, _)| name.eq_ignore_ascii_case(b"host")).map(|(_, value)| value);
        let host = hosts.next()?;
        if hosts.any(|other| other != host) { None } else { without_port(host) }
    }

    /// The values of the cookies of this name (case matters, RFC 6265 section 5.4), in their order, without quotes: [`MAX_COOKIES`] at most.
    pub fn cookies<'n>(&self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let lines = self.fields().filter(|(field, _)| field.eq_ignore_ascii_case(b"cookie"));
        let pairs = lines.flat_map(|(_, value)| value.split(|&b| b == b';')).map(<[u8]>::trim_ascii);
        let values = pairs.filter_map(move |pair| {
            let value = pair.strip_prefix(name)?.trim_ascii_start().strip_prefix(b"=")?;
            let value = unquoted(value.trim_ascii_start());
            // One that goes over several lines is put together in different ways.
            let whole = !value.iter().any(|b| matches!(b, b'\r' | b'\n'));
            (whole && (1..=LONGEST_VALUE).contains(&value.len())).then_some(value)
        });
        values.take(MAX_COOKIES)
    }
}

/// Whom a target in absolute form is for.
fn authority(target: &[u8]) -> Option<&[u8]> {
    let scheme = target.iter().position(|&b| !b.is_ascii_alphanumeric())?;
    let rest = target[scheme..].strip_prefix(b"://").filter(|_| scheme > 0)?;
    Some(&rest[..rest.iter().position(|&b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len())])
}

/// A host without its port; `None` of an address in brackets, which is no name.
fn without_port(host: &[u8]) -> Option<&[u8]> {
    let host = host.rsplit(|&b| b == b'@').next().unwrap_or(host);
    let end = host.iter().position(|&b| b == b':').unwrap_or(host.len());
    (end > 0 && host[0] != b'[').then(|| &host[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a walk says of a stream that comes in pieces, and after how many bytes.
    fn walk(stream: &[u8], piece: usize) -> (Walked, usize) {
        let mut walk = RequestWalk::default();
        let mut n = 0;
        loop {
            n = (n + piece).min(stream.len());
            match walk.advance(&stream[..n]) {
                Walked::More if n < stream.len() => {}
                said => return (said, n),
            }
        }
    }

    #[test]
    fn a_request_is_whole_at_its_empty_line_and_not_before() {
        for whole in [
            b"GET / HTTP/1.1\r\nHost: a\r\nCookie: b=c\r\n\r\n".as_slice(),
            b"POST /x y HTTP/1.0\r\n\r\n",
            b"\r\nM-SEARCH * HTTP/1.1\nA: b\n\n",
            b"GET / HTTP/1.1\r\nA: b\r\n \r\n c\r\n\r\n",
        ] {
            for piece in 1..whole.len() {
                let body = [whole, b"body\r\n\r\n"].concat();
                assert_eq!(walk(&body[..whole.len()], piece), (Walked::Whole, whole.len()), "{}", whole.escape_ascii());
                assert_eq!(walk(&body[..whole.len() - 1], piece).0, Walked::More);
            }
        }
    }

    #[test]
    fn what_is_no_request_is_known_as_early_as_it_can_be() {
        for (stream, after) in [
            (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".as_slice(), 32),
            (b"\x00\x01\x02", 1),
            (b"PING\r\n", 5),
            (b"* HTTP\r\n", 8),
            (b"GET /\r\n", 7),
            (b"PRI * HTTP/2.0\r\n", 16),
            (b"GET / HTTP/1.10\r\n", 17),
            (b"EHLO-AND-MORE-LETTERS-THAN-A-METHOD", 25),
            (b" GET / HTTP/1.1\r\n", 1),
        ] {
            assert_eq!(walk(stream, 1), (Walked::Not, after), "{}", stream.escape_ascii());
        }
    }

    #[test]
    fn the_host_is_a_name_without_its_port_or_none() {
        let host = |head: &str| {
            Request::read(head.as_bytes()).unwrap().host().map(|h| String::from_utf8_lossy(h).into_owned())
        };
        assert_eq!(host("GET / HTTP/1.1\r\nhOsT:  a.Example:8080 \r\n\r\n").unwrap(), "a.Example");
        assert_eq!(host("GET http://u@b.example:80/x HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap(), "b.example");
        assert_eq!(host("GET /?u=http://b HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap(), "a.example");
        assert_eq!(host("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n").unwrap(), "a");
        for none in [
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [fd00::1]:80\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nX: y\r\n Host: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            // Not whole.
            "GET / HTTP/1.1\r\nHost: a",
        ] {
            assert_eq!(host(none), None, "{none:?}");
        }
    }

    #[test]
    fn cookies_of_the_name_are_found_wherever_they_stand_and_no_others() {
        let cookies = |head: &str| {
            let request = Request::read(head.as_bytes()).unwrap();
            request.cookies(b"SID").map(|v| String::from_utf8_lossy(v).into_owned()).collect::<Vec<_>>()
        };
        let get = "GET / HTTP/1.1\r\n";
        assert_eq!(cookies(&format!("{get}Cookie: a=b; SID=one; sid=two\r\n\r\n")), ["one"]);
        assert_eq!(cookies(&format!("{get}cookie:SID=\"one\";SID = two;XSID=no;SIDX=no\r\n\r\n")), ["one", "two"]);
        assert_eq!(cookies(&format!("{get}Cookie: SID=one\r\nCookie: SID=two=2\r\n\r\n")), ["one", "two=2"]);
        // Continued lines are one field; what a line break stands in is left alone.
        assert_eq!(cookies(&format!("{get}Cookie: a=b;\r\n SID=one\r\n\r\n")), ["one"]);
        assert_eq!(cookies(&format!("{get}Cookie: SID=o\r\n ne\r\n\r\n")), [""; 0]);
        assert_eq!(cookies(&format!("{get}X: y\r\n Cookie: SID=one\r\n\r\n")), [""; 0]);
        assert_eq!(cookies(&format!("{get}Cookie: SID=\r\nX-Cookie: SID=one\r\n\r\nCookie: SID=two\r\n")), [""; 0]);
        assert_eq!(cookies(&format!("{get}Cookie: SID={}\r\n\r\n", "x".repeat(5000))), [""; 0]);
        assert_eq!(cookies(&format!("{get}Cookie: {}\r\n\r\n", "SID=x; ".repeat(1000))).len(), MAX_COOKIES);
        assert_eq!(cookies(&format!("{get}{}Cookie: SID=x\r\n\r\n", "A: b\r\n".repeat(1000))), [""; 0]);
    }
}
