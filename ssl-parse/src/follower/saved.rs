//! A follower's state as bytes, for another process that follows the stream on from there, and back.
//!
//! All of it is written by which it decides, and of its memory so much as is in use. What is read back is a state that a follower can be in, or is refused: whatever the
//! bytes say, the follower that comes of them panics no more than any other.

use super::{AfterHello, Follower, Layer, Message, Pending, Progress, TICKET_HEAD};
use crate::codepoint::{ContentType, HandshakeType, ProtocolVersion};
use crate::event::Side;
use crate::outcome::Outcome;
use crate::record::RecordHeader;
use crate::sslv2;
use crate::stream::MESSAGE_HEAD;

/// Longest message that its header can announce.
const LONGEST: u32 = (1 << 24) - 1;

const fn number(yes: bool) -> u8 {
    if yes { 1 } else { 0 }
}

impl<const N: usize> Follower<N> {
    /// All of its state, piece by piece: for [`Follower::restore`] of one with as much memory.
    pub fn save(&self, mut write: impl FnMut(&[u8])) {
        let Self { side, done, pending, layer, record, record_left, message, message_version, progress, body } = self;
        let pending = match pending {
            None => 0,
            Some(Pending::Encrypted) => 1,
            Some(Pending::TicketName) => 2,
            Some(Pending::TicketEnd) => 3,
        };
        write(&[number(*side == Side::Server), number(*done), pending]);
        progress.save(&mut write);
        if *done {
            // Where it stands is of no meaning any more.
            return;
        }
        match *layer {
            Layer::RecordHead { bytes: [a, b, c, d, e], have } => write(&[0, a, b, c, d, e, have]),
            Layer::RecordBody => write(&[1]),
            Layer::Alert { level: None } => write(&[2]),
            Layer::Alert { level: Some(level) } => write(&[3, level]),
            Layer::Sslv2 { have } => pair(&mut write, 4, have),
            Layer::Sslv2Skip { left } => pair(&mut write, 5, left),
        }
        pair(&mut write, record.content_type.0, record.version.0);
        write(&record.length.to_le_bytes());
        write(&record_left.to_le_bytes());
        match *message {
            Message::Head { bytes: [a, b, c, d], have } => write(&[0, a, b, c, d, have]),
            Message::Collect { kind, len, have } => {
                write(&[1, kind.0]);
                write(&len.to_le_bytes());
                write(&have.to_le_bytes());
            }
            Message::Skip { left } => {
                write(&[2]);
                write(&left.to_le_bytes());
            }
            Message::TicketHead { len, have } => {
                write(&[3]);
                write(&len.to_le_bytes());
                write(&[have]);
            }
            Message::Ticket { left } => pair(&mut write, 4, left),
        }
        write(&message_version.0.to_le_bytes());
        write(&body[..self.in_use()]);
    }

    /// Bytes of its memory that are looked at again.
    fn in_use(&self) -> usize {
        let of_message = match self.message {
            Message::Collect { have, .. } => have as usize,
            Message::TicketHead { have, .. } => have.into(),
            Message::Ticket { .. } if matches!(self.pending, Some(Pending::TicketName)) => TICKET_HEAD,
            _ => 0,
        };
        match self.layer {
            Layer::Sslv2 { have } => of_message.max(have.into()),
            _ => of_message,
        }
    }

    /// Stands from now on where the one stood that has written these bytes, which are taken off the front. `None`, and it is of no use before it begins anew, when no
    /// follower of this memory can stand there, or bytes are missing.
    pub fn restore(&mut self, bytes: &mut &[u8]) -> Option<()> {
        let side = if flag(bytes)? { Side::Server } else { Side::Client };
        self.restart(side);
        self.done = flag(bytes)?;
        self.pending = match one(bytes)? {
            0 => None,
            1 => Some(Pending::Encrypted),
            2 => Some(Pending::TicketName),
            3 => Some(Pending::TicketEnd),
            _ => return None,
        };
        self.progress = Progress::restore(bytes)?;
        if self.done {
            return Some(());
        }
        self.layer = match one(bytes)? {
            0 => {
                let [head @ .., have] = some::<{ RecordHeader::LEN + 1 }>(bytes)?;
                let head = head.first_chunk().copied()?;
                Layer::RecordHead { bytes: head, have }
            }
            1 => Layer::RecordBody,
            2 => Layer::Alert { level: None },
            3 => Layer::Alert { level: Some(one(bytes)?) },
            4 => Layer::Sslv2 { have: two(bytes)? },
            5 => Layer::Sslv2Skip { left: two(bytes)? },
            _ => return None,
        };
        let content_type = ContentType(one(bytes)?);
        self.record = RecordHeader { content_type, version: ProtocolVersion(two(bytes)?), length: two(bytes)? };
        self.record_left = two(bytes)?;
        self.message = match one(bytes)? {
            0 => {
                let [a, b, c, d, have] = some(bytes)?;
                Message::Head { bytes: [a, b, c, d], have }
            }
            1 => Message::Collect { kind: HandshakeType(one(bytes)?), len: four(bytes)?, have: four(bytes)? },
            2 => Message::Skip { left: four(bytes)? },
            3 => Message::TicketHead { len: four(bytes)?, have: one(bytes)? },
            4 => Message::Ticket { left: two(bytes)? },
            _ => return None,
        };
        self.message_version = ProtocolVersion(two(bytes)?);
        if !self.can_be() {
            return None;
        }
        let (held, rest) = bytes.split_at_checked(self.in_use())?;
        self.body.get_mut(..held.len())?.copy_from_slice(held);
        *bytes = rest;
        // What its header says of its length has been read with each byte.
        let behind = |have: u16| match sslv2::length(&self.body[..have.into()]) {
            Outcome::Complete(total) => usize::from(have) < total,
            _ => usize::from(have) < sslv2::HEAD,
        };
        match self.layer {
            Layer::Sslv2 { have } => behind(have).then_some(()),
            _ => Some(()),
        }
    }

    /// What is counted is within what it is counted for.
    fn can_be(&self) -> bool {
        use HandshakeType as T;
        let layer = match self.layer {
            Layer::RecordHead { have, .. } => usize::from(have) < RecordHeader::LEN,
            Layer::RecordBody | Layer::Alert { .. } => self.record_left > 0,
            Layer::Sslv2 { have } => usize::from(have) <= N && self.side == Side::Client,
            Layer::Sslv2Skip { left } => left > 0,
        };
        let message = match self.message {
            Message::Head { have, .. } => usize::from(have) < MESSAGE_HEAD,
            Message::Collect { kind, len, have } => {
                let wanted = matches!(kind, T::CLIENT_HELLO | T::SERVER_HELLO | T::NEW_SESSION_TICKET);
                wanted && have < len && len as usize <= N
            }
            Message::Skip { left } => (1..=LONGEST).contains(&left),
            // Only one that is longer than the memory is taken in pieces.
            Message::TicketHead { len, have } => usize::from(have) < TICKET_HEAD && len <= LONGEST && len as usize > N,
            Message::Ticket { left } => left > 0,
        };
        layer && message && self.record_left <= self.record.length
    }
}

impl AfterHello {
    /// As bytes, piece by piece.
    pub fn save(&self, mut write: impl FnMut(&[u8])) {
        self.0.save(&mut write);
    }

    /// The inverse; the bytes are taken off the front. `None` for what none has written.
    pub fn restore(bytes: &mut &[u8]) -> Option<AfterHello> {
        Progress::restore(bytes).map(AfterHello)
    }
}

impl Progress {
    fn save(&self, write: &mut impl FnMut(&[u8])) {
        let Progress { hellos, beyond_hello, may_repeat, perhaps_1_3, early_data, probing, first, resumed } = self;
        write(&[*hellos, number(*beyond_hello), number(*may_repeat), number(*perhaps_1_3), number(*early_data)]);
        write(&[number(*probing), resumed.map_or(0, |resumed| 1 + number(resumed)), number(first.is_some())]);
        first.iter().for_each(|first| write(first));
    }

    fn restore(bytes: &mut &[u8]) -> Option<Progress> {
        let hellos = one(bytes)?;
        let (beyond_hello, may_repeat, perhaps_1_3) = (flag(bytes)?, flag(bytes)?, flag(bytes)?);
        let (early_data, probing) = (flag(bytes)?, flag(bytes)?);
        let resumed = match one(bytes)? {
            0 => None,
            1 => Some(false),
            2 => Some(true),
            _ => return None,
        };
        let first = if flag(bytes)? { Some(some(bytes)?) } else { None };
        Some(Progress { hellos, beyond_hello, may_repeat, perhaps_1_3, early_data, probing, first, resumed })
    }
}

fn pair(write: &mut impl FnMut(&[u8]), tag: u8, number: u16) {
    let [a, b] = number.to_le_bytes();
    write(&[tag, a, b]);
}

fn some<const M: usize>(bytes: &mut &[u8]) -> Option<[u8; M]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

fn one(bytes: &mut &[u8]) -> Option<u8> {
    some::<1>(bytes).map(|[byte]| byte)
}

fn flag(bytes: &mut &[u8]) -> Option<bool> {
    one(bytes).filter(|byte| *byte < 2).map(|byte| byte == 1)
}

fn two(bytes: &mut &[u8]) -> Option<u16> {
    some(bytes).map(u16::from_le_bytes)
}

fn four(bytes: &mut &[u8]) -> Option<u32> {
    some(bytes).map(u32::from_le_bytes)
}
