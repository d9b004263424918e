//! What the tests share: the connections in `tests/data`, and events in their notation.
#![allow(dead_code, reason = "each test file uses its own part")]

use ssl_parse::{Event, Follower, Side, dtls};

/// Bytes from hexadecimal, white space ignored.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).expect("hexadecimal"))
        .collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// One connection of `tests/data`.
pub struct Connection {
    pub name: String,
    pub datagrams: bool,
    /// Streams have one of each side, in this order.
    pub pieces: Vec<(Side, Vec<u8>)>,
    /// Lines of the oracle, `resumed` apart.
    pub expected: Vec<String>,
    pub resumed: Option<bool>,
}

impl Connection {
    pub fn stream(&self, side: Side) -> &[u8] {
        &self.pieces.iter().find(|(s, _)| *s == side).expect("both sides").1
    }
}

pub fn connections() -> Vec<Connection> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|x| x == "txt"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let mut connection = Connection {
                datagrams: name.starts_with("dtls"),
                name,
                pieces: vec![],
                expected: vec![],
                resumed: None,
            };
            for line in text.lines() {
                match line.split_once(' ').unwrap() {
                    ("C", data) => connection.pieces.push((Side::Client, unhex(data))),
                    ("S", data) => connection.pieces.push((Side::Server, unhex(data))),
                    ("=", "resumed null") => connection.resumed = None,
                    ("=", "resumed true") => connection.resumed = Some(true),
                    ("=", "resumed false") => connection.resumed = Some(false),
                    ("=", rest) => connection.expected.push(rest.to_owned()),
                    _ => {}
                }
            }
            connection
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(all.len() >= 16, "test data are missing");
    all
}

pub fn connection(name: &str) -> Connection {
    connections().into_iter().find(|c| c.name == name).expect("in tests/data")
}

fn blob(bytes: Option<&[u8]>) -> String {
    match bytes {
        None => "-".into(),
        Some([]) => "empty".into(),
        Some(b) => format!("{}:{}", b.len(), hex(&b[..b.len().min(16)])),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or("-".into(), |v| v.to_string())
}

/// An event in the notation of the data files, when it has one there.
pub fn line(event: &Event<'_>) -> Option<String> {
    Some(match event {
        Event::ClientHello(h) => {
            let list = |items: Vec<String>| items.join(",");
            format!(
                "ch record={:x} legacy={:x} sid={} ticket={} psk={} sni={} alpn={} versions={} early={} ech={}",
                h.record_version,
                h.legacy_version,
                hex(h.session_id),
                blob(h.ticket),
                list(h.psk_identities().map(|psk| blob(Some(psk.identity))).collect()),
                h.sni.map_or("-".into(), text),
                list(h.alpn.into_iter().flatten().map(text).collect()),
                list(h.supported_versions.into_iter().flatten().map(|v| format!("{v:x}")).collect()),
                h.early_data,
                h.ech,
            )
        }
        Event::ServerHello(h) => format!(
            "sh version={:x} sid={} hrr={} psk={} cipher={:x} ticket_ext={}",
            h.version,
            hex(h.session_id),
            h.hello_retry,
            or_dash(h.psk_selected),
            h.cipher_suite,
            h.ticket_ext,
        ),
        Event::NewSessionTicket(t) => format!("nst lifetime={} ticket={}", t.lifetime, blob(Some(t.ticket))),
        _ => return None,
    })
}

/// All events of a stream fed in those slices, as text; bytes of long tickets joined, for only they may be cut by the slicing.
pub fn events<'a, const N: usize>(side: Side, slices: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    events_with::<N>(side, slices, |_| ())
}

/// The same, when something is done with the follower between slices.
pub fn events_with<'a, const N: usize>(
    side: Side,
    slices: impl IntoIterator<Item = &'a [u8]>,
    mut between: impl FnMut(&mut Follower<N>),
) -> Vec<String> {
    let mut follower = Follower::<N>::new(side);
    let mut all = Vec::new();
    let mut ticket = Vec::new();
    for slice in slices {
        follower.feed(slice, |event| match event {
            Event::LongTicketBytes(bytes) => {
                assert!(!ticket.is_empty() || bytes.len() >= 16, "the key name comes in one piece");
                ticket.extend_from_slice(bytes);
            }
            Event::LongTicketEnd => all.push(format!("long ticket {}", hex(&std::mem::take(&mut ticket)))),
            event => all.push(line(&event).unwrap_or_else(|| format!("{event:?}"))),
        });
        between(&mut follower);
    }
    if !ticket.is_empty() {
        all.push(format!("long ticket so far {}", hex(&ticket)));
    }
    all.push(format!("resumed {:?}, done {}", follower.resumed(), follower.is_done()));
    all
}

/// All events of datagrams of one side.
pub fn datagram_events<'a, const N: usize>(side: Side, datagrams: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let mut follower = dtls::Follower::<N>::new(side);
    let mut all = Vec::new();
    for datagram in datagrams {
        follower.feed(datagram, |event| all.push(line(&event).unwrap_or_else(|| format!("{event:?}"))));
    }
    all
}

/// `payload` in records of the lengths given, the last one repeated, with version 0x0301.
pub fn records(content_type: u8, payload: &[u8], lengths: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = payload;
    let mut lengths = lengths.iter().chain(std::iter::repeat(lengths.last().unwrap_or(&16384)));
    while !rest.is_empty() {
        let n = (*lengths.next().unwrap()).clamp(1, 16384).min(rest.len());
        out.extend([content_type, 3, 1]);
        out.extend((n as u16).to_be_bytes());
        out.extend(&rest[..n]);
        rest = &rest[n..];
    }
    out
}

/// A handshake message: type, length, body.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32).to_be_bytes();
    [&[kind, len[1], len[2], len[3]], body].concat()
}

/// `opaque x<0..2^8-1>`
pub fn vec8(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8], bytes].concat()
}

/// `opaque x<0..2^16-1>`
pub fn vec16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

pub fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vec16(data)].concat()
}

/// Body of a ClientHello of TLS 1.2 with these extensions.
pub fn hello_body(session_id: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend((0..32).map(|i| i + 0x40));
    body.extend(vec8(session_id));
    body.extend(vec16(&[0x13, 0x01, 0xc0, 0x2f]));
    body.extend(vec8(&[0]));
    if !extensions.is_empty() {
        body.extend(vec16(&extensions.concat()));
    }
    body
}

/// Body of a ServerHello with these extensions.
pub fn server_hello_body(random: &[u8; 32], session_id: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend(random);
    body.extend(vec8(session_id));
    body.extend([0x13, 0x01, 0]);
    if !extensions.is_empty() {
        body.extend(vec16(&extensions.concat()));
    }
    body
}
