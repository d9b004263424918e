//! The header of the PROXY protocol (haproxy.org, proxy-protocol.txt), versions 1 and 2, as it stands in front of a stream.
//!
//! Whether there is one is not guessed: its specification (section 2) has receivers configured to expect it. So there is no third answer beside "this is
//! one" and "not yet" but that the stream has none that can be read.

use crate::pack::packed;
use std::net::{IpAddr, SocketAddr};

/// What version 2 begins with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Longest line of version 1 with its end (section 2.1).
const LONGEST_LINE: usize = 107;

/// Longest header that is read. One of version 2 may say 64 kB; what balancers write behind the addresses (names, checksums, a certificate) has hundreds of
/// bytes.
pub const LONGEST: usize = 4096;

/// Both ends of a connection, as a header names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Named {
    /// The client's address and port.
    pub client: SocketAddr,
    /// What it connected to.
    pub to: SocketAddr,
}

/// What a stream begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// That is not to be told yet.
    More,
    /// A header.
    Header {
        /// Bytes of it.
        len: usize,
        /// Whose connection it is. None where it does not say: a balancer's own (LOCAL), or of a kind that has no such addresses (UNKNOWN, UNSPEC, UNIX).
        named: Option<Named>,
    },
    /// No header, or none that can be read.
    Not,
}

/// Reads what a stream begins with.
pub fn read(stream: &[u8]) -> Read {
    let begins = |with: &[u8]| {
        let n = stream.len().min(with.len());
        stream[..n] == with[..n]
    };
    if begins(&SIGNATURE) {
        version_2(stream)
    } else if begins(b"PROXY ") {
        version_1(stream)
    } else {
        Read::Not
    }
}

/// `PROXY TCP4 192.0.2.7 198.51.100.1 41022 443`, CR, LF.
fn version_1(stream: &[u8]) -> Read {
    let line = &stream[..stream.len().min(LONGEST_LINE)];
    let Some(end) = line.windows(2).position(|two| two == b"\r\n") else {
        // What cannot become a line is told at once.
        let odd = line
            .iter()
            .enumerate()
            .any(|(at, b)| !b.is_ascii_graphic() && *b != b' ' && !(*b == b'\r' && at + 1 == line.len()));
        return if odd || line.len() == LONGEST_LINE { Read::Not } else { Read::More };
    };
    let Ok(text) = core::str::from_utf8(&line[..end]) else { return Read::Not };
    let len = end + 2;
    let mut words = text.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        // Whatever stands behind it.
        return Read::Header { len, named: None };
    }
    let mut address = || {
        let ip = words.next()?.parse::<IpAddr>().ok()?;
        (ip.is_ipv4() == (family == Some("TCP4"))).then_some(ip)
    };
    let (Some(client), Some(to)) = (address(), address()) else { return Read::Not };
    let mut port = || {
        let word = words.next()?;
        let plain = word.bytes().all(|b| b.is_ascii_digit());
        word.parse::<u16>().ok().filter(|_| plain)
    };
    let (Some(client_port), Some(to_port)) = (port(), port()) else { return Read::Not };
    let known = matches!(family, Some("TCP4" | "TCP6"));
    if !known || words.next().is_some() {
        return Read::Not;
    }
    Read::Header {
        len,
        named: Some(Named { client: SocketAddr::new(client, client_port), to: SocketAddr::new(to, to_port) }),
    }
}

/// Signature, version and command, family and transport, length, addresses, and whatever else that length has.
fn version_2(stream: &[u8]) -> Read {
    let Some(&[what, family, high, low]) = stream.get(12..16).and_then(|rest| rest.first_chunk()) else {
        return match stream.get(12) {
            Some(what) if !matches!(what, 0x20 | 0x21) => Read::Not,
            _ => Read::More,
        };
    };
    let body = usize::from(u16::from_be_bytes([high, low]));
    let len = 16 + body;
    if !matches!(what, 0x20 | 0x21) || len > LONGEST {
        return Read::Not;
    }
    let Some(body) = stream.get(16..len) else { return Read::More };
    let local = what == 0x20;
    let named = match family {
        _ if local => None,
        0x11 | 0x12 => {
            let Some(&[a, b, c, d, e, f, g, h, p, q, r, s]) = body.first_chunk() else { return Read::Not };
            Some(ends([a, b, c, d].into(), [e, f, g, h].into(), [p, q, r, s]))
        }
        0x21 | 0x22 => {
            let (Some(client), Some(to), Some(&ports)) = (
                body.first_chunk::<16>(),
                body.get(16..).and_then(|rest| rest.first_chunk::<16>()),
                body.get(32..).and_then(|rest| rest.first_chunk::<4>()),
            ) else {
                return Read::Not;
            };
            Some(ends(IpAddr::from(*client), IpAddr::from(*to), ports))
        }
        _ => None,
    };
    Read::Header { len, named }
}

fn ends(client: IpAddr, to: IpAddr, [p, q, r, s]: [u8; 4]) -> Named {
    Named {
        client: SocketAddr::new(client, u16::from_be_bytes([p, q])),
        to: SocketAddr::new(to, u16::from_be_bytes([r, s])),
    }
}

/// Length of a header of version 2 that names these ends, and nothing else.
pub const fn len_for(named: &Named) -> u16 {
    if both_v4(named) { 16 + 12 } else { 16 + 36 }
}

const fn both_v4(named: &Named) -> bool {
    named.client.is_ipv4() && named.to.is_ipv4()
}

/// Writes that header; `to` has [`len_for`] bytes.
pub fn write(named: &Named, to: &mut [u8]) {
    let Named { client, to: dst } = named;
    let length = len_for(named);
    let (family, addresses) = if both_v4(named) { (0x11, 4) } else { (0x21, 16) };
    to[..12].copy_from_slice(&SIGNATURE);
    to[12] = 0x21;
    to[13] = family;
    to[14..16].copy_from_slice(&(length - 16).to_be_bytes());
    for (n, ip) in [client.ip(), dst.ip()].into_iter().enumerate() {
        let at = 16 + n * addresses;
        match ip {
            IpAddr::V4(ip) if addresses == 4 => to[at..at + 4].copy_from_slice(&ip.octets()),
            IpAddr::V4(ip) => to[at..at + 16].copy_from_slice(&ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) => to[at..at + 16].copy_from_slice(&ip.octets()),
        }
    }
    let ports = 16 + 2 * addresses;
    to[ports..ports + 2].copy_from_slice(&client.port().to_be_bytes());
    to[ports + 2..ports + 4].copy_from_slice(&dst.port().to_be_bytes());
}

packed!(Named { client, to });

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(client: &str, to: &str) -> Named {
        Named { client: client.parse().unwrap(), to: to.parse().unwrap() }
    }

    /// What the specification has as examples, and what HAProxy and AWS write.
    #[test]
    fn lines_and_binary_headers_are_read_as_the_specification_has_them() {
        let all = |text: &[u8]| read(text);
        let line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
        let four = named("192.168.0.1:56324", "192.168.0.11:443");
        assert_eq!(all(line), Read::Header { len: line.len(), named: Some(four) });
        let line = b"PROXY TCP6 2001:db8::7 fd00::1 1 65535\r\nGET / HTTP/1.1\r\n";
        let six = named("[2001:db8::7]:1", "[fd00::1]:65535");
        assert_eq!(all(line), Read::Header { len: 40, named: Some(six) });
        // The longest that can be (section 2.1).
        let line = b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
        assert_eq!(all(line), Read::Header { len: line.len(), named: None });
        assert_eq!(all(b"PROXY UNKNOWN\r\n"), Read::Header { len: 15, named: None });
        let v2 = |what: u8, family: u8, body: &[u8]| {
            [&SIGNATURE[..], &[what, family], &(body.len() as u16).to_be_bytes(), body].concat()
        };
        let body = [192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 4, 1, 0xbb, 3, 0, 4, 1, 2, 3, 4];
        assert_eq!(all(&v2(0x21, 0x11, &body)), Read::Header { len: 35, named: Some(four) });
        // A balancer's own connection, and families that have no such addresses.
        for (what, family) in [(0x20, 0x11), (0x20, 0), (0x21, 0), (0x21, 0x31)] {
            assert_eq!(all(&v2(what, family, &body)), Read::Header { len: 35, named: None }, "{what:x} {family:x}");
        }
        for wrong in
            [&v2(0x11, 0x11, &body)[..], &v2(0x22, 0x11, &body), &v2(0x21, 0x11, &body[..11]), &v2(0x21, 0x21, &body)]
        {
            assert_eq!(all(wrong), Read::Not, "{wrong:x?}");
        }
        assert_eq!(all(&[&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat()), Read::Not, "longer than is read");
    }

    #[test]
    fn what_is_no_header_is_told_as_soon_as_it_is_certain() {
        for wrong in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01",
            b"PROXY  TCP4 1.2.3.4 1.2.3.5 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.5 1\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.5 1 2 3\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.5 +1 2\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 1.2.3.4 1.2.3.5 1 2\r\n",
            b"PROXY TCP5 1.2.3.4 1.2.3.5 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.5 1 65536\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.5 1 2\n\n",
            b"PROXY\r\n",
        ] {
            assert_eq!(read(wrong), Read::Not, "{}", wrong.escape_ascii());
        }
        assert_eq!(read(&[b"PROXY TCP4 ".as_slice(), &[b'1'; 96]].concat()), Read::Not, "107 bytes without an end");
        assert_eq!(read(&[b"PROXY TCP4 ".as_slice(), &[b'1'; 95]].concat()), Read::More);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_and_no_beginning_of_it_is_taken_for_anything(
            four: bool, a: [u8; 16], b: [u8; 16], p: u16, q: u16, behind in prop::collection::vec(any::<u8>(), 0..40)
        ) {
            let ip = |bytes: [u8; 16]| match four {
                true => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
                false => IpAddr::from(bytes),
            };
            let named = Named { client: SocketAddr::new(ip(a), p), to: SocketAddr::new(ip(b), q) };
            let mut binary = vec![0; usize::from(len_for(&named))];
            write(&named, &mut binary);
            let family = if four { "TCP4" } else { "TCP6" };
            let line = format!("PROXY {family} {} {} {p} {q}\r\n", ip(a), ip(b)).into_bytes();
            for header in [binary, line] {
                let stream = [&header[..], &behind[..]].concat();
                prop_assert_eq!(read(&stream), Read::Header { len: header.len(), named: Some(named) });
                for cut in 0..header.len() {
                    prop_assert_eq!(read(&stream[..cut]), Read::More, "{} bytes", cut);
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic_and_a_header_is_never_longer_than_the_stream(
            begins in 0..3usize, rest in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            let stream = [[&b""[..], &SIGNATURE, b"PROXY TCP4 "][begins], &rest].concat();
            if let Read::Header { len, .. } = read(&stream) {
                prop_assert!(len <= stream.len() && len <= LONGEST);
                prop_assert_eq!(read(&stream[..len]), read(&stream));
            }
        }
    }
}
