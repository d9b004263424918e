//! A client's requests and a server's responses.

use dispatcher::http::{Pending, Request, RequestWalk, Requests, Responses, Walked};
use lb::{Affinity, BackendId, Config, Identity, Millis, Sighting};
use std::collections::BTreeSet;

const NAME: &[u8] = b"SID";
const SEEN: Sighting = Sighting { backend: BackendId(1), client: 7, now: Millis(1000) };

/// The pieces in which a stream comes.
fn pieces(mut seed: u8, stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = stream;
    core::iter::from_fn(move || {
        seed = seed.wrapping_mul(5).wrapping_add(71);
        let n = (1 + usize::from(seed) % 40).min(rest.len());
        let (piece, more) = rest.split_at(n);
        rest = more;
        (n > 0).then_some(piece)
    })
}

fn lower(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// The head of a request, held as it comes: the same at once and byte by byte, and what `httparse` makes of it where that takes it.
fn request(stream: &[u8]) {
    let whole = RequestWalk::default().advance(stream);
    let mut walk = RequestWalk::default();
    let first = (0..=stream.len()).map(|n| (n, walk.advance(&stream[..n]))).find(|(_, said)| *said != Walked::More);
    assert_eq!(first.map_or(Walked::More, |(_, said)| said), whole);
    let read = Request::read(stream);
    let Some(request) = read else { return };
    let values: Vec<&[u8]> = request.cookies(NAME).collect();
    assert!(values.len() <= dispatcher::http::MAX_COOKIES);
    assert!(values.iter().all(|v| !v.is_empty() && v.len() <= 4096 && !v.contains(&b'\n')));
    assert!(request.host().is_none_or(|host| !host.is_empty() && !host.contains(&b':')));
    if let Some((n, Walked::Whole)) = first {
        // What comes behind a head changes nothing in it.
        let again = Request::read(&stream[..n]).expect("a whole head");
        assert_eq!((again.host(), again.cookies(NAME).collect::<Vec<_>>()), (request.host(), values.clone()));
    }
    let mut fields = [httparse::EMPTY_HEADER; 200];
    let mut theirs = httparse::Request::new(&mut fields);
    if !matches!(theirs.parse(stream), Ok(httparse::Status::Complete(_))) {
        return;
    }
    // With methods as long as nobody's, and with many empty lines in front, it may be what it wants.
    if theirs.method.is_some_and(|method| method.len() > 24) || matches!(stream[0], b'\r' | b'\n') {
        return;
    }
    assert_eq!(whole, Walked::Whole, "a whole request");
    let cookies = theirs.headers.iter().filter(|h| lower(h.name) == "cookie");
    let pairs = cookies.flat_map(|h| h.value.split(|b| *b == b';')).map(<[u8]>::trim_ascii);
    let split = |pair: &[u8]| {
        let at = pair.iter().position(|b| *b == b'=')?;
        (pair[..at].trim_ascii() == NAME).then(|| pair[at + 1..].trim_ascii().to_vec())
    };
    let bare = |value: Vec<u8>| match &value[..] {
        [b'"', inner @ .., b'"'] => inner.to_vec(),
        _ => value,
    };
    let fits = |value: &Vec<u8>| (1..=4096).contains(&value.len());
    let expected: Vec<Vec<u8>> = pairs.filter_map(split).map(bare).filter(fits).take(4).collect();
    assert_eq!(values, expected);
}

/// Cookies that responses set whose beginnings another parser finds; `None` where it finds that one of them is none.
fn model(stream: &[u8], requests: &[u8]) -> Option<BTreeSet<Vec<u8>>> {
    let mut asked = vec![];
    let mut rest = requests;
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 200];
        let mut request = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(n)) = request.parse(rest) else { break };
        asked.push(request.method.unwrap_or_default().to_string());
        let (length, chunked) = framing(request.headers);
        match body(&rest[n..], length, chunked) {
            Some(end) => rest = &rest[n + end..],
            None => break,
        }
    }
    let mut asked = asked.into_iter();
    let mut set = BTreeSet::new();
    let mut rest = stream;
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 200];
        let mut response = httparse::Response::new(&mut fields);
        let n = match response.parse(rest) {
            Ok(httparse::Status::Complete(n)) => n,
            Ok(httparse::Status::Partial) => return Some(set),
            Err(_) => return None,
        };
        let code = response.code.unwrap_or_default();
        for field in response.headers.iter().filter(|h| lower(h.name) == "set-cookie") {
            let pair = field.value.split(|b| *b == b';').next().unwrap_or_default();
            let Some(at) = pair.iter().position(|b| *b == b'=') else { continue };
            if pair[..at].trim_ascii() == NAME {
                let value = pair[at + 1..].trim_ascii();
                set.insert(match value {
                    [b'"', inner @ .., b'"'] => inner.to_vec(),
                    all => all.to_vec(),
                });
            }
        }
        let (length, chunked) = framing(response.headers);
        rest = &rest[n..];
        if (100..200).contains(&code) && code != 101 {
            continue;
        }
        let method = asked.next();
        match (method.as_deref(), code) {
            (_, 101) => return Some(set),
            (Some("CONNECT"), 200..300) => return Some(set),
            (Some("HEAD"), _) | (_, 204 | 304) => continue,
            _ => {}
        }
        match if length.is_none() && !chunked { None } else { body(rest, length, chunked) } {
            Some(end) => rest = &rest[end..],
            None => return Some(set),
        }
    }
}

fn framing(fields: &[httparse::Header<'_>]) -> (Option<usize>, bool) {
    let of =
        |name: &str| fields.iter().find(|h| lower(h.name) == name).and_then(|h| core::str::from_utf8(h.value).ok());
    (
        of("content-length").and_then(|n| n.trim().parse().ok()),
        of("transfer-encoding").is_some_and(|t| lower(t.trim()) == "chunked"),
    )
}

/// Where a body ends, if it does.
fn body(bytes: &[u8], length: Option<usize>, chunked: bool) -> Option<usize> {
    if !chunked {
        return length.or(Some(0)).filter(|n| *n <= bytes.len());
    }
    let mut at = 0;
    loop {
        let Ok(httparse::Status::Complete((n, size))) = httparse::parse_chunk_size(&bytes[at..]) else { return None };
        at += n;
        if size == 0 {
            loop {
                let line = bytes[at..].iter().position(|b| *b == b'\n')?;
                at += line + 1;
                if line <= 1 {
                    return Some(at);
                }
            }
        }
        at = at.checked_add(usize::try_from(size).ok()?)?.checked_add(2)?;
        bytes.get(..at)?;
    }
}

/// What is learned of both streams, the requests first, in these pieces.
fn learn(seed: Option<u8>, requests: &[u8], responses: &[u8]) -> (Affinity, Option<bool>, bool) {
    let (mut reader, mut pending) = (Requests::default(), Pending::new());
    let mut responder = Responses::default();
    responder.restart(NAME, Some(Identity::cookie(NAME, b"old")));
    let mut affinity = Affinity::single(Config::new(3));
    let feed = |stream: &[u8], each: &mut dyn FnMut(&[u8])| match seed {
        Some(seed) => pieces(seed, stream).for_each(each),
        None => each(stream),
    };
    feed(requests, &mut |bytes| reader.feed(bytes, &mut pending));
    let mut more = true;
    feed(responses, &mut |bytes| more = more && responder.feed(bytes, &mut pending, &mut affinity, SEEN));
    (affinity, responder.resumed(), more)
}

fn rows(affinity: &Affinity) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    affinity.for_each_row(SEEN.now, |row| _ = all.insert(format!("{:?}", row.key)));
    all
}

/// A byte that says in which pieces, two for the length of the requests; requests, responses.
pub fn http(bytes: &[u8]) {
    let Some((&[seed, a, b], rest)) = bytes.split_first_chunk() else { return };
    let (requests, responses) = rest.split_at(usize::from(u16::from_be_bytes([a, b])).min(rest.len()));
    request(requests);
    let (whole, resumed, more) = learn(None, requests, responses);
    let (cut, cut_resumed, cut_more) = learn(Some(seed), requests, responses);
    assert_eq!((rows(&whole), resumed, more), (rows(&cut), cut_resumed, cut_more), "in pieces");
    if let Some(set) = model(responses, requests) {
        let known: BTreeSet<String> =
            set.iter().map(|value| format!("{:?}", Identity::cookie(NAME, value).key())).collect();
        let rows = rows(&whole);
        assert!(rows.is_subset(&known), "{rows:?} are not all of {set:?}");
    }
}
