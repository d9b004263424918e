//! One direction of a connection: which of its bytes have come, and which are waiting.

use crate::time::Time;
use crate::wire::Seq;
use std::collections::BTreeMap;
use std::time::Duration;

/// Further ahead than any sender gets in practice: a segment of another connection, or nonsense.
const MAX_AHEAD: i64 = 1 << 26;

/// What a waiting piece is taken to cost besides its bytes.
const PIECE_COST: usize = 64;

/// Positions are counted from the first byte, in 64 bits: they do not wrap, sequence numbers are turned into them.
#[derive(Default)]
pub(super) struct Direction {
    /// Sequence number of the byte at `delivered`.
    next: Option<Seq>,
    delivered: u64,
    /// Pieces not delivered yet; they do not overlap, and all end behind `delivered`.
    pieces: BTreeMap<u64, Body>,
    waiting: usize,
    /// Where the last byte seen ends.
    extent: u64,
    /// Where a FIN says that the stream ends.
    fin: Option<u64>,
    /// How far the receiver says that it has everything.
    acked: u64,
    /// Since when the receiver has had what we lack.
    hole_since: Option<Time>,
    closed: bool,
}

/// What is known of a range of bytes.
enum Body {
    Bytes(Vec<u8>),
    /// Seen, and of no interest.
    Skipped(u64),
    /// The recorder cut it off.
    Lost(u64),
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Body::Bytes(b) => b.len() as u64,
            Body::Skipped(n) | Body::Lost(n) => *n,
        }
    }

    fn cost(&self) -> usize {
        PIECE_COST + if let Body::Bytes(b) = self { b.len() } else { 0 }
    }
}

/// The next bytes of the stream, or that they are unknown.
pub(super) enum Piece {
    Data(Vec<u8>),
    Skipped,
    Lost(u64),
}

impl Direction {
    /// The stream begins at `seq`.
    pub fn begin(&mut self, seq: Seq) {
        self.next = Some(seq);
    }

    /// Nothing is known of where its bytes are.
    pub fn unknown(&self) -> bool {
        self.next.is_none()
    }

    /// No byte of it was seen.
    pub fn untouched(&self) -> bool {
        self.extent == 0
    }

    /// Nothing has come yet, and the first byte is known to be at `seq`.
    pub fn begins_at(&self, seq: Seq) -> bool {
        self.untouched() && self.next == Some(seq)
    }

    /// Cost of what waits.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Bytes up to the last one seen.
    pub fn extent(&self) -> u64 {
        self.extent
    }

    /// Whether a segment numbered `seq` can belong to this stream, as far as is known.
    pub fn plausible(&self, seq: Seq) -> bool {
        self.next.is_none_or(|next| i64::from(next.distance_to(seq)).abs() < MAX_AHEAD)
    }

    /// Takes in a segment's bytes, and `missing` that the recorder cut off behind them. False when they would have to
    /// wait and there is no room: nothing was taken then.
    pub fn insert(&mut self, seq: Seq, payload: &[u8], missing: usize, wanted: bool, room: usize) -> bool {
        let len = (payload.len() + missing) as i64;
        if len == 0 || self.closed {
            return true;
        }
        let next = *self.next.get_or_insert(seq);
        let ahead = i64::from(next.distance_to(seq));
        if ahead + len <= 0 || ahead > MAX_AHEAD {
            return true;
        }
        if ahead > 0 && self.waiting + PIECE_COST + if wanted { payload.len() } else { 0 } > room {
            return false;
        }
        // A first segment may begin before position 0: a keep-alive, or a repetition of what came before the capture.
        let old = (-ahead).max(0) as usize;
        let start = self.delivered + ahead.max(0) as u64;
        let (old_bytes, old_missing) = (old.min(payload.len()), old.saturating_sub(payload.len()));
        let payload = &payload[old_bytes..];
        let data_end = start + payload.len() as u64;
        self.cover(start, data_end, |from, to| {
            if wanted {
                Body::Bytes(payload[(from - start) as usize..(to - start) as usize].to_vec())
            } else {
                Body::Skipped(to - from)
            }
        });
        let end = data_end + (missing - old_missing) as u64;
        self.cover(data_end, end, |from, to| Body::Lost(to - from));
        self.extent = self.extent.max(end);
        true
    }

    /// Fills what is not yet covered of a range: of two that tell of a byte, the first wins.
    fn cover(&mut self, start: u64, end: u64, body: impl Fn(u64, u64) -> Body) {
        if start >= end {
            return;
        }
        let mut free = Vec::new();
        let mut cursor = start;
        let before = self.pieces.range(..start).next_back().map(|(&s, b)| (s, b.len()));
        let within = self.pieces.range(start..end).map(|(&s, b)| (s, b.len()));
        for (s, len) in before.into_iter().chain(within) {
            if s > cursor {
                free.push((cursor, s));
            }
            cursor = cursor.max(s + len);
        }
        if cursor < end {
            free.push((cursor, end));
        }
        for (from, to) in free {
            let body = body(from, to);
            self.waiting += body.cost();
            self.pieces.insert(from, body);
        }
    }

    /// The receiver has everything before `seq`.
    pub fn acknowledged(&mut self, seq: Seq, now: Time) {
        let Some(next) = self.next else { return };
        let ahead = i64::from(next.distance_to(seq));
        if ahead > 0 && ahead <= MAX_AHEAD {
            self.acked = self.acked.max(self.delivered + ahead as u64);
            self.hole_since.get_or_insert(now);
        }
    }

    /// A FIN stands at `seq`.
    pub fn finish_at(&mut self, seq: Seq) {
        let next = *self.next.get_or_insert(seq);
        let ahead = i64::from(next.distance_to(seq));
        if (0..=MAX_AHEAD).contains(&ahead) {
            self.fin.get_or_insert(self.delivered + ahead as u64);
        }
    }

    /// All of it has come, or the receiver says so.
    pub fn finished(&self) -> bool {
        self.fin.is_some_and(|end| self.delivered >= end || self.acked > end)
    }

    /// The next piece in order. A hole in front of it is given up when `force`d, or when the receiver has long had what
    /// is missing.
    pub fn next_piece(&mut self, force: bool, now: Time, patience: Duration) -> Option<Piece> {
        let Some((&start, _)) = self.pieces.first_key_value() else {
            if self.acked <= self.delivered {
                self.hole_since = None;
            }
            return None;
        };
        if start > self.delivered {
            let acknowledged = self.acked > self.delivered;
            let given_up = acknowledged && self.hole_since.is_some_and(|since| now.since(since) > patience);
            if !force && !given_up {
                return None;
            }
            let len = start - self.delivered;
            self.advance(len);
            return Some(Piece::Lost(len));
        }
        let (_, body) = self.pieces.pop_first()?;
        self.waiting -= body.cost();
        self.advance(body.len());
        if self.acked <= self.delivered {
            self.hole_since = None;
        }
        Some(match body {
            Body::Bytes(bytes) => Piece::Data(bytes),
            Body::Skipped(_) => Piece::Skipped,
            Body::Lost(len) => Piece::Lost(len),
        })
    }

    /// Bytes at the end that were sent, as FIN or acknowledgements show, and never recorded.
    pub fn missing_tail(&self) -> u64 {
        let end = match self.fin {
            Some(fin) => fin,
            // The last byte acknowledged may be a FIN that was not recorded.
            None => self.acked.saturating_sub(1),
        };
        end.saturating_sub(self.delivered)
    }

    fn advance(&mut self, len: u64) {
        self.delivered += len;
        if let Some(next) = &mut self.next {
            *next += len as u32;
        }
    }

    /// Nothing more will be delivered.
    pub fn close(&mut self) {
        self.pieces.clear();
        self.waiting = 0;
        self.closed = true;
    }
}
