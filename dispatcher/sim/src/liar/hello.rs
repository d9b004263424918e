//! Hellos of clients that may lie, and what servers read in them. Written and read here without `ssl-parse`, so that the servers'
//! judgement is a second one.

use crate::tls::{extension, message, record, vec8, vec16};

const NAME: u16 = 0;
const TICKET: u16 = 35;
const PSK: u16 = 41;
const VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;

const OTHER: &[u8] = b"b.example";

/// Identities and their binders.
pub type Psks = Vec<(Vec<u8>, Vec<u8>)>;

/// What a hello says.
#[derive(Clone, Default, Debug)]
pub struct Draft {
    /// Of the client.
    pub random: [u8; 32],
    /// May be empty.
    pub session_id: Vec<u8>,
    /// Offers TLS 1.3.
    pub tls13: bool,
    /// With a share of the only group that servers take; without one, they ask again.
    pub share: bool,
    /// The `pre_shared_key` extensions: one, or (against the rules) several.
    pub psks: Vec<Psks>,
    /// The `session_ticket` extensions.
    pub tickets: Vec<Vec<u8>>,
    /// Asks for a server name for which sessions of the other one are not taken.
    pub other_name: bool,
    /// Filled up to so many bytes on the wire.
    pub at_least: usize,
}

impl Draft {
    /// On the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let plain = record(22, &self.message(None));
        match self.at_least.checked_sub(plain.len() + 4) {
            Some(n) => record(22, &self.message(Some(n))),
            None => plain,
        }
    }

    fn message(&self, padding: Option<usize>) -> Vec<u8> {
        let name = if self.other_name { OTHER } else { b"a.example" };
        let mut extensions = extension(NAME, &vec16(&[&[0][..], &vec16(name)].concat()));
        extensions.extend(extension(10, &vec16(&[0, 29])));
        extensions.extend(extension(13, &vec16(&[4, 3])));
        for ticket in &self.tickets {
            extensions.extend(extension(TICKET, ticket));
        }
        if self.tls13 {
            extensions.extend(extension(VERSIONS, &vec8(&[3, 4, 3, 3])));
            extensions.extend(extension(45, &vec8(&[1])));
            let share = if self.share { [&[0, 29][..], &vec16(&[7; 32])].concat() } else { vec![] };
            extensions.extend(extension(KEY_SHARE, &vec16(&share)));
        }
        if let Some(n) = padding {
            extensions.extend(extension(21, &vec![0; n]));
        }
        for psks in &self.psks {
            let ids: Vec<u8> = psks.iter().flat_map(|(id, _)| [vec16(id), vec![0, 0, 0, 9]].concat()).collect();
            let binders: Vec<u8> = psks.iter().flat_map(|(_, binder)| vec8(binder)).collect();
            extensions.extend(extension(PSK, &[vec16(&ids), vec16(&binders)].concat()));
        }
        let mut body = vec![3, 3];
        body.extend(self.random);
        body.extend(vec8(&self.session_id));
        body.extend(vec16(&[0x13, 0x01, 0xc0, 0x2f]));
        body.extend(vec8(&[0]));
        body.extend(vec16(&extensions));
        message(1, &body)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    fn vec(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let n = self.number(bytes)?;
        self.take(n)
    }
}

/// The hello in a whole handshake message. None when it is no good.
pub fn read(message: &[u8]) -> Option<Draft> {
    let mut r = Reader(message);
    (r.number(1)? == 1).then_some(())?;
    let mut r = Reader(r.vec(3)?);
    r.take(2)?;
    let mut draft = Draft { random: r.take(32)?.try_into().ok()?, ..Draft::default() };
    draft.session_id = r.vec(1)?.to_vec();
    r.vec(2)?;
    r.vec(1)?;
    let mut extensions = Reader(r.vec(2)?);
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let mut body = Reader(extensions.vec(2)?);
        match kind as u16 {
            NAME => draft.other_name = body.0.ends_with(OTHER),
            TICKET => draft.tickets.push(body.0.to_vec()),
            VERSIONS => draft.tls13 |= body.vec(1)?.chunks(2).any(|v| v == [3, 4]),
            KEY_SHARE => draft.share |= !body.vec(2)?.is_empty(),
            PSK => {
                let (mut ids, mut binders) = (Reader(body.vec(2)?), Reader(body.vec(2)?));
                let mut psks = vec![];
                while !ids.0.is_empty() {
                    let id = ids.vec(2)?.to_vec();
                    ids.take(4)?;
                    psks.push((id, binders.vec(1)?.to_vec()));
                }
                draft.psks.push(psks);
            }
            _ => {}
        }
    }
    Some(draft)
}
