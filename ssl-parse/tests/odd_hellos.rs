//! ClientHellos that are off the beaten track in one thing each, and what twelve servers answered (testdata/odd-hellos).

mod common;

use common::{events, extension, hex, line, message, unhex, vec8, vec16};
use proptest::prelude::*;
use ssl_parse::{ClientHello, Event, HelloWalk, Outcome, Side, client_hello};

/// One line of the corpus.
struct Odd {
    name: String,
    /// Some server answered with a ServerHello.
    taken: bool,
    /// As sent; of the long ones the padding or junk that was cut off is replaced by zeros.
    bytes: Vec<u8>,
}

fn corpus() -> Vec<Odd> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/odd-hellos/hellos.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            Odd {
                name: line["name"].as_str().unwrap().to_owned(),
                taken: line["answers"].as_object().unwrap().values().any(|answer| answer == "SH"),
                bytes: completed(unhex(line["hello"].as_str().unwrap())),
            }
        })
        .collect()
}

/// The corpus keeps 3000 bytes of a hello. The rest of a longer one: zeros, in records of at most 2^14.
fn completed(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() < 3000 {
        return bytes;
    }
    let record = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
    let message = 4 + u32::from_be_bytes([0, bytes[6], bytes[7], bytes[8]]) as usize;
    bytes.resize(5 + record, 0);
    let mut left = message - record;
    while left > 0 {
        let n = left.min(1 << 14);
        bytes.extend([&[22, 3, 1][..], &(n as u16).to_be_bytes(), &vec![0; n]].concat());
        left -= n;
    }
    bytes
}

fn first_hello(seen: &[String]) -> Option<&String> {
    seen.iter().find(|event| !event.starts_with("Alert") && *event != "ChangeCipherSpec")
}

/// Session ID, ticket and identities: what a server may look at.
fn identities(hello: &ClientHello<'_>) -> (String, Option<String>, Vec<String>) {
    let psks = hello.psk_identities().map(|psk| hex(psk.identity)).collect();
    (hex(hello.session_id), hello.ticket.map(hex), psks)
}

#[test]
fn none_is_refused_that_some_server_takes() {
    let corpus = corpus();
    assert!(corpus.len() > 200 && corpus.iter().filter(|odd| odd.taken).count() > 180, "the corpus is there");
    let mut scratch = vec![0; 1 << 17];
    let plain = client_hello(&corpus[0].bytes, &mut []).complete().unwrap();
    for Odd { name, taken, bytes } in &corpus {
        let outcome = client_hello(bytes, &mut scratch);
        let Outcome::Complete(hello) = outcome else {
            assert!(!taken, "{name}: {outcome:?}");
            continue;
        };
        // All are the same hello but for the one thing.
        let other_id = name.contains("/sid-") || name.starts_with("v2/");
        assert!(other_id || hello.session_id == plain.session_id, "{name}");
        assert!(
            hello.ticket == Some(b"")
                || ["ticket", "v2/", "extensions", "exts-one", "sni-long-5000"].iter().any(|n| name.contains(n))
        );

        // Followed in any slicing it is the same.
        let wanted = line(&Event::ClientHello(hello));
        for slice in [1, 7, 1460, usize::MAX] {
            let seen = events::<70_000>(Side::Client, bytes.chunks(slice.min(bytes.len())));
            assert_eq!(first_hello(&seen), wanted.as_ref(), "{name}");
        }
        // A walk finds its end, and not before.
        let mut walk = HelloWalk::default();
        for n in (0..bytes.len()).step_by(if bytes.len() > 3000 { 501 } else { 1 }) {
            let wanted = if n < hello.consumed { Outcome::NeedMore } else { Outcome::Complete(hello.consumed) };
            assert_eq!(walk.advance(&bytes[..n]), wanted, "{name} at {n}");
        }
        assert_eq!(walk.advance(bytes), Outcome::Complete(hello.consumed), "{name}");
    }
}

#[test]
fn identities_are_read_as_the_servers_read_them_that_take_the_hello() {
    // Lengths of the identities. OpenSSL and GnuTLS answer all of these but the last three, and look at these identities before they look at a binder.
    let expected: [(&str, &[usize]); 22] = [
        ("psk-fine", &[208]),
        ("psk-two", &[208, 32]),
        ("psk-8-ids", &[208; 8]),
        ("psk-identity-1", &[1]),
        ("psk-identity-16000", &[15_000]),
        ("psk-no-binders-list", &[208]),
        ("psk-binders-empty", &[208]),
        ("psk-binder-0", &[208]),
        ("psk-binder-1", &[208]),
        ("psk-binder-31", &[208]),
        ("psk-binder-255", &[208]),
        ("psk-fewer-binders", &[208, 208]),
        ("psk-more-binders", &[208]),
        ("psk-two-second-binder-0", &[208, 208]),
        ("psk-binder-truncated", &[208]),
        ("psk-binders-trailing", &[208]),
        ("psk-trailing", &[208]),
        ("psk-identities-empty-none", &[]),
        ("psk-early", &[208]),
        ("psk-twice", &[208]),
        ("psk-not-last", &[208]),
        ("psk-identity-empty-second", &[208, 0]),
    ];
    let corpus = corpus();
    let mut scratch = vec![0; 1 << 17];
    for (name, lengths) in expected {
        let odd = corpus.iter().find(|odd| odd.name.strip_prefix("13/") == Some(name)).expect(name);
        let hello = client_hello(&odd.bytes, &mut scratch).complete().unwrap();
        assert!(hello.psk_identities().map(|psk| psk.identity.len()).eq(lengths.iter().copied()), "{name}");
        // They stand one behind the other in the bytes sent, each behind its length.
        for psk in hello.psk_identities() {
            let wire = [&(psk.identity.len() as u16).to_be_bytes(), psk.identity].concat();
            assert!(odd.bytes.windows(wire.len()).any(|w| w == wire), "{name}");
        }
    }
}

/// A hello in parts, to be spoiled and put together.
#[derive(Clone, Debug)]
struct Parts {
    version: [u8; 2],
    session_id: Vec<u8>,
    suites: Vec<u8>,
    compression: Vec<u8>,
    extensions: Vec<(u16, Vec<u8>)>,
    behind: Vec<u8>,
    /// Lengths of its records, the last repeated; their version; and what stands before and between them.
    records: Vec<usize>,
    record_version: [u8; 2],
    between: Vec<u8>,
}

impl Parts {
    fn good(session_id: &[u8], ticket: &[u8], psks: &[Vec<u8>]) -> Parts {
        let identities: Vec<u8> = psks.iter().flat_map(|psk| [vec16(psk), vec![1, 2, 3, 4]].concat()).collect();
        let binders: Vec<u8> = psks.iter().flat_map(|_| vec8(&[5; 32])).collect();
        let mut extensions = vec![
            (0, vec16(&[vec![0], vec16(b"www.example.test")].concat())),
            (35, ticket.to_vec()),
            (16, vec16(&vec8(b"http/1.1"))),
            (43, vec8(&[3, 4, 3, 3])),
            (51, vec16(&[vec![0, 29], vec16(&[9; 32])].concat())),
        ];
        if !psks.is_empty() {
            extensions.push((41, [vec16(&identities), vec16(&binders)].concat()));
        }
        Parts {
            version: [3, 3],
            session_id: session_id.to_vec(),
            suites: vec![0x13, 1, 0xc0, 0x2f],
            compression: vec![0],
            extensions,
            behind: vec![],
            records: vec![1 << 14],
            record_version: [3, 1],
            between: vec![],
        }
    }

    /// One oddity. True when it leaves alone all that says who may resume what.
    fn spoil(&mut self, oddity: u8, junk: &[u8]) -> bool {
        let unknown = |n: usize| (0xff10 + n as u16, junk.to_vec());
        let at = |kind: u16, all: &[(u16, Vec<u8>)]| all.iter().position(|x| x.0 == kind);
        match oddity {
            0 => self.version = [junk[0], junk[1]],
            1 => self.record_version = [junk[0] % 16, junk[1]],
            2 => self.records = junk.iter().map(|n| usize::from(*n) + 1).collect(),
            3 => self.between = vec![22, 3, 1, 0, 0],
            4 => self.between = vec![21, 3, 1, 0, 2, 1, junk[0]],
            5 => self.between = vec![20, 3, 1, 0, 1, junk[0]],
            6 => self.suites.push(junk[0]),
            7 => self.suites.clear(),
            8 => self.compression = junk.to_vec(),
            9 => self.compression.clear(),
            10 => (0..junk.len()).for_each(|n| self.extensions.insert(0, unknown(n % 3))),
            11 => self.extensions.insert(0, (21, vec![0; 100 * junk.len()])),
            // Any of those that have to do with no identity holds junk, is repeated, or is missing.
            12..=17 => {
                let kind = [16, 42, 44, 51, 45, 0xfe0d][usize::from(oddity) - 12];
                match at(kind, &self.extensions) {
                    Some(i) if junk[0].is_multiple_of(2) => drop(self.extensions.remove(i)),
                    Some(i) => self.extensions[i].1 = junk.to_vec(),
                    None => self.extensions.insert(0, (kind, junk.to_vec())),
                }
                self.extensions.insert(0, (kind, junk[1..].to_vec()));
            }
            // From here on, what is read is one way to read it.
            18 => {
                self.behind = junk.to_vec();
                return false;
            }
            19..=22 => {
                let kind = [0, 35, 43, 41][usize::from(oddity) - 19];
                self.extensions.push((kind, junk.to_vec()));
                return false;
            }
            23 => {
                if let Some(i) = at(41, &self.extensions) {
                    let data = &mut self.extensions[i].1;
                    data.truncate(data.len().saturating_sub(usize::from(junk[0]) % 33 + 1));
                }
                return false;
            }
            _ => {
                self.session_id = vec![1; 33 + usize::from(junk[0]) % 200];
                return false;
            }
        }
        true
    }

    fn stream(&self) -> Vec<u8> {
        let extensions: Vec<u8> = self.extensions.iter().flat_map(|(kind, data)| extension(*kind, data)).collect();
        let body = [
            &self.version[..],
            &[7; 32],
            &vec8(&self.session_id),
            &vec16(&self.suites),
            &vec8(&self.compression),
            &vec16(&extensions),
            &self.behind,
        ]
        .concat();
        let message = message(1, &body);
        let mut stream = vec![];
        let (mut rest, mut lengths) = (&message[..], self.records.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*lengths.next().unwrap()).min(rest.len()));
            stream.extend(&self.between);
            stream.extend([&[22], &self.record_version[..], &vec16(piece)].concat());
            rest = after;
        }
        stream
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is odd about it a hello is read, and as long as nothing is odd about the identities they are those of the good one.
    #[test]
    fn no_oddity_hides_a_hello_nor_an_identity_that_it_leaves_alone(
        session_id in prop::collection::vec(any::<u8>(), 0..=32),
        ticket in prop::collection::vec(any::<u8>(), 0..300),
        psks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..3),
        oddities in prop::collection::vec((0_u8..=24, prop::collection::vec(any::<u8>(), 2..9)), 0..4),
    ) {
        let mut parts = Parts::good(&session_id, &ticket, &psks);
        let mut left_alone = true;
        for (oddity, junk) in &oddities {
            left_alone &= parts.spoil(*oddity, junk);
        }
        let stream = parts.stream();
        let mut scratch = vec![0; 1 << 16];
        let outcome = client_hello(&stream, &mut scratch);
        let Outcome::Complete(hello) = outcome else { panic!("{outcome:?} for {parts:?}") };
        prop_assert_eq!(hello.consumed, stream.len());
        if left_alone {
            let psks = psks.iter().map(|psk| hex(psk)).collect();
            prop_assert_eq!(identities(&hello), (hex(&session_id), Some(hex(&ticket)), psks));
            prop_assert!(!hello.is_ambiguous());
        }
        let seen = events::<65_000>(Side::Client, stream.chunks(11));
        let wanted = line(&Event::ClientHello(hello));
        prop_assert_eq!(first_hello(&seen), wanted.as_ref());
    }
}
