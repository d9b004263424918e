//! Servers as true as the play needs them: they take a session only with a MAC of their own over it, a TLS 1.3 one only with its binder,
//! ask again where a key share is missing, and differ in what they do with the rest.

use super::hello::{Draft, read};
use crate::tls::{extension, message, record, vec8, vec16};
use lb::IdentityKind;
use siphasher::sip::SipHasher13;

fn mac(secret: u128, parts: &[&[u8]]) -> [u8; 16] {
    let text: Vec<u8> = parts.iter().flat_map(|p| [&(p.len() as u32).to_le_bytes()[..], p].concat()).collect();
    let half = |n: u64| SipHasher13::new_with_keys(secret as u64 ^ n, (secret >> 64) as u64).hash(&text).to_le_bytes();
    [half(0), half(1)].concat().try_into().expect("16 bytes")
}

/// The binder of whoever holds the session's secret.
pub fn binder(identity: &[u8], random: &[u8; 32]) -> Vec<u8> {
    mac(0xb1, &[identity, random]).repeat(2)
}

/// With what tickets begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prefix {
    /// With the name of their key (RFC 5077).
    KeyName,
    /// With a random nonce.
    Nothing,
    /// With sixteen bytes that are the same whatever the key and the server.
    Constant,
}

/// What becomes of an extension that comes twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeated {
    /// An alert.
    Refused,
    /// The first counts.
    First,
    /// The last counts.
    Last,
}

/// A session as its client holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// In which field it is offered.
    pub kind: IdentityKind,
    /// What is offered.
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
struct TicketKey {
    name: [u8; 16],
    secret: u128,
}

/// A server's settings and secrets. It keeps nothing by connection: what it issued is known by its MAC.
#[derive(Clone, Debug)]
pub struct Site {
    /// Of all servers.
    pub index: usize,
    /// Takes TLS 1.3 where it is offered.
    pub tls13: bool,
    /// Issues and takes tickets in TLS 1.2.
    pub tickets: bool,
    /// Has a session cache for TLS 1.2.
    pub cache: bool,
    /// Looks into the cache although a ticket was offered, which it could not open.
    pub cache_behind_ticket: bool,
    /// Of its tickets.
    pub prefix: Prefix,
    /// See there.
    pub repeated: Repeated,
    /// Of bytes that come twice behind a gap, the later count.
    pub later_bytes_win: bool,
    /// The first seals, all open.
    keys: Vec<TicketKey>,
    cache_secret: u128,
}

const TLS12: u8 = 2;
const TLS13: u8 = 3;

impl Site {
    /// A plain one: TLS 1.3, tickets with key names, no cache.
    pub fn new(index: usize, secret: u64) -> Site {
        let cache_secret = u128::from(secret) << 64 | 0xcace;
        let mut site = Site {
            index,
            tls13: true,
            tickets: true,
            cache: false,
            cache_behind_ticket: false,
            prefix: Prefix::KeyName,
            repeated: Repeated::Refused,
            later_bytes_win: false,
            keys: vec![],
            cache_secret,
        };
        site.rotate(secret);
        site
    }

    /// From now on another key seals; that before still opens, older ones do not.
    pub fn rotate(&mut self, secret: u64) {
        let secret = u128::from(secret);
        self.keys.insert(0, TicketKey { name: mac(secret, &[b"name"]), secret });
        self.keys.truncate(2);
    }

    /// Has the other's keys.
    pub fn shares_keys_of(&mut self, other: &Site) {
        self.keys.clone_from(&other.keys);
    }

    /// The names of its keys, the newest first.
    pub fn names(&self) -> impl Iterator<Item = [u8; 16]> + '_ {
        self.keys.iter().map(|key| key.name)
    }

    fn seal(&self, version: u8, seed: &[u8]) -> Vec<u8> {
        let key = &self.keys[0];
        let nonce = mac(key.secret, &[b"nonce", seed]);
        let prefix = match self.prefix {
            Prefix::KeyName => key.name.to_vec(),
            Prefix::Nothing => vec![],
            Prefix::Constant => vec![0x5a; 16],
        };
        [&prefix[..], &nonce, &mac(key.secret, &[&[version], &nonce]), &[version; 60]].concat()
    }

    fn opens(&self, version: u8, ticket: &[u8]) -> bool {
        let at = if self.prefix == Prefix::Nothing { 0 } else { 16 };
        let Some((nonce, rest)) = ticket.get(at..).and_then(|b| b.split_at_checked(16)) else { return false };
        let good = |key: &TicketKey| {
            (self.prefix != Prefix::KeyName || ticket.starts_with(&key.name))
                && rest.starts_with(&mac(key.secret, &[&[version], nonce]))
        };
        self.keys.iter().any(good)
    }

    fn cached(&self, id: &[u8]) -> bool {
        self.cache && id.len() == 32 && id[16..] == mac(self.cache_secret, &[&id[..16]])
    }

    /// Whether it would resume this session, of whoever holds it.
    pub fn takes(&self, session: &Session) -> bool {
        match session.kind {
            IdentityKind::Psk => self.tls13 && self.opens(TLS13, &session.bytes),
            IdentityKind::Ticket => self.tickets && self.opens(TLS12, &session.bytes),
            IdentityKind::SessionId => self.cached(&session.bytes),
            IdentityKind::Cookie => false,
        }
    }
}

/// What came of a handshake.
#[derive(Clone, Default, Debug)]
pub struct Outcome {
    /// The server.
    pub site: usize,
    /// The version it chose.
    pub tls13: bool,
    /// It asked for another hello.
    pub retried: bool,
    /// Its answer: resumed or not. None before, and where it is an alert.
    pub resumed: Option<bool>,
    /// The client's part is done, too.
    pub finished: bool,
    /// Sessions the client has from it.
    pub granted: Vec<Session>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Hello,
    SecondHello,
    Finished,
    Over,
}

/// A server's side of one handshake.
#[derive(Debug)]
pub struct Handshake {
    step: Step,
    received: Vec<u8>,
    message: Vec<u8>,
    tls13: bool,
    /// TLS 1.2: announced in its hello.
    ticket: bool,
    random: [u8; 32],
    /// So far.
    pub outcome: Outcome,
}

impl Handshake {
    /// With nothing received.
    pub fn new(site: usize) -> Handshake {
        Handshake {
            step: Step::Hello,
            received: vec![],
            message: vec![],
            tls13: false,
            ticket: false,
            random: [0; 32],
            outcome: Outcome { site, ..Outcome::default() },
        }
    }

    /// The random of the client's first hello, once it came.
    pub fn random(&self) -> Option<[u8; 32]> {
        (self.step != Step::Hello).then_some(self.random)
    }

    /// The next bytes of the client's stream; returns what the server says.
    pub fn input(&mut self, site: &Site, bytes: &[u8]) -> Vec<u8> {
        self.received.extend(bytes);
        let mut said = vec![];
        while self.step != Step::Over {
            let Some(n) = self.received.get(3..5).map(|n| 5 + usize::from(u16::from_be_bytes([n[0], n[1]]))) else {
                break;
            };
            if self.received.len() < n {
                break;
            }
            let record: Vec<u8> = self.received.drain(..n).collect();
            match (self.step, record[0]) {
                (Step::Hello | Step::SecondHello, 22) => {
                    self.message.extend(&record[5..]);
                    let m = &self.message;
                    if m.len() < 4 || m.len() < 4 + u32::from_be_bytes([0, m[1], m[2], m[3]]) as usize {
                        continue;
                    }
                    let whole = core::mem::take(&mut self.message);
                    let answer = read(&whole).and_then(|hello| self.answer(site, &hello));
                    said.extend(answer.unwrap_or_else(|| self.alert()));
                }
                // Early, or of a middlebox's kind.
                (Step::SecondHello, 20 | 23) => {}
                (Step::Finished, 23) if self.tls13 => said.extend(self.finish(site)),
                (Step::Finished, 22) if !self.tls13 && record[5] != 16 => said.extend(self.finish(site)),
                (Step::Finished, _) => {}
                _ => said.extend(self.alert()),
            }
        }
        said
    }

    fn alert(&mut self) -> Vec<u8> {
        self.step = Step::Over;
        record(21, &[2, 47])
    }

    /// None: an alert.
    fn answer(&mut self, site: &Site, hello: &Draft) -> Option<Vec<u8>> {
        let second = self.step == Step::SecondHello;
        if !second {
            self.random = hello.random;
        }
        // Whoever asks for it is told from now on.
        self.step = Step::Finished;
        if site.repeated == Repeated::Refused && (hello.psks.len() > 1 || hello.tickets.len() > 1) {
            return None;
        }
        self.tls13 = site.tls13 && hello.tls13;
        self.outcome.tls13 = self.tls13;
        if self.tls13 { self.answer_1_3(site, hello, second) } else { Some(self.answer_1_2(site, hello)) }
    }

    fn answer_1_3(&mut self, site: &Site, hello: &Draft, second: bool) -> Option<Vec<u8>> {
        let compatible = record(20, &[1]);
        if !hello.share {
            if second {
                return None;
            }
            (self.step, self.outcome.retried) = (Step::SecondHello, true);
            let ask = [extension(VERSIONS, &[3, 4]), extension(51, &[0, 29])].concat();
            return Some(
                [server_hello(&ssl_parse::HELLO_RETRY_RANDOM, &hello.session_id, true, &ask), compatible].concat(),
            );
        }
        let psks = if site.repeated == Repeated::Last { hello.psks.last() } else { hello.psks.first() };
        let found = psks.and_then(|psks| psks.iter().position(|(id, _)| !hello.other_name && site.opens(TLS13, id)));
        if let (Some(psks), Some(i)) = (psks, found)
            && psks[i].1 != binder(&psks[i].0, &hello.random)
        {
            return None;
        }
        self.outcome.resumed = Some(found.is_some());
        let share = extension(51, &[&[0, 29][..], &vec16(&[8; 32])].concat());
        let mut extensions = [extension(VERSIONS, &[3, 4]), share].concat();
        if let Some(i) = found {
            extensions.extend(extension(41, &(i as u16).to_be_bytes()));
        }
        let hello = server_hello(&mac(1, &[&self.random]).repeat(2), &hello.session_id, true, &extensions);
        let rest = record(23, &vec![0xe7; if found.is_some() { 90 } else { 3000 }]);
        Some([hello, if self.outcome.retried { vec![] } else { compatible }, rest].concat())
    }

    fn answer_1_2(&mut self, site: &Site, hello: &Draft) -> Vec<u8> {
        let ticket = if site.repeated == Repeated::Last { hello.tickets.last() } else { hello.tickets.first() };
        let ticket = ticket.filter(|_| site.tickets);
        let offered = ticket.filter(|ticket| !ticket.is_empty());
        let opened = offered.is_some_and(|ticket| site.opens(TLS12, ticket));
        let looks = offered.is_none() || site.cache_behind_ticket;
        let resumed = !hello.other_name && (opened || looks && site.cached(&hello.session_id));
        self.outcome.resumed = Some(resumed);
        self.ticket = ticket.is_some() && !resumed;
        let random = mac(1, &[&self.random]).repeat(2);
        let mut said = if resumed {
            server_hello(&random, &hello.session_id, false, &[])
        } else if self.ticket {
            server_hello(&random, &[], false, &extension(35, &[]))
        } else if site.cache {
            server_hello(&random, &self.id(site), false, &[])
        } else {
            server_hello(&random, &[], false, &[])
        };
        if resumed {
            said.extend([record(20, &[1]), record(22, &[0xe7; 40])].concat());
        } else {
            said.extend(record(22, &message(11, &[&[0, 0x0b, 0xb8][..], &[0xce; 3000]].concat())));
            said.extend(record(22, &message(14, &[])));
        }
        said
    }

    fn id(&self, site: &Site) -> Vec<u8> {
        let nonce = mac(site.cache_secret, &[b"id", &self.random]);
        [nonce, mac(site.cache_secret, &[&nonce])].concat()
    }

    /// The client's part is done.
    fn finish(&mut self, site: &Site) -> Vec<u8> {
        self.step = Step::Over;
        self.outcome.finished = true;
        if self.tls13 {
            let tickets = [0, 1].map(|n| site.seal(TLS13, &[&self.random[..], &[n]].concat()));
            self.outcome.granted = tickets.map(|bytes| Session { kind: IdentityKind::Psk, bytes }).to_vec();
            return record(23, &[0xe7; 500]);
        }
        if self.outcome.resumed == Some(true) {
            return vec![];
        }
        let mut said = vec![];
        if self.ticket {
            let bytes = site.seal(TLS12, &self.random);
            said = record(22, &message(4, &[&[0, 0, 1, 0][..], &vec16(&bytes)].concat()));
            self.outcome.granted = vec![Session { kind: IdentityKind::Ticket, bytes }];
        } else if site.cache {
            self.outcome.granted = vec![Session { kind: IdentityKind::SessionId, bytes: self.id(site) }];
        }
        said.extend([record(20, &[1]), record(22, &[0xe7; 40])].concat());
        said
    }
}

const VERSIONS: u16 = 43;

fn server_hello(random: &[u8], session_id: &[u8], tls13: bool, extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend(random);
    body.extend(vec8(session_id));
    body.extend(if tls13 { [0x13, 0x01] } else { [0xc0, 0x2f] });
    body.push(0);
    body.extend(vec16(extensions));
    record(22, &message(2, &body))
}
