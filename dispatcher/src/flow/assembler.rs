//! One direction of a TCP stream, put in order in a buffer from a pool.
//!
//! Two uses. A client's *hello* is assembled as a whole and kept, since it may become ours to retransmit: a buffer from
//! the start, with room in front for a PROXY header. A server's *answer* is read in passing: bytes are consumed as they
//! are parsed, and as long as segments come in order and the parser takes them whole, no buffer is needed at all
//! ([`Assembler::accept_in_order`]).
//!
//! Where segments overlap the first bytes win: what has been parsed cannot be changed afterwards by a retransmission that
//! says something else (Ptacek and Newsham, 1998).

use crate::pack::{Pack, Packer, Unpacker, Unreadable};
use crate::wire::Seq;
use arrayvec::ArrayVec;

/// Ranges of bytes ahead of a gap that one buffer keeps apart. A segment that would make one more is refused; its sender
/// repeats it.
pub const MAX_RANGES: usize = 16;

/// Offsets from the base: from, to. In order, not empty, with gaps between them.
type Ranges = ArrayVec<(u32, u32), MAX_RANGES>;

/// A buffer of a [`BufferPool`], held by whoever has this. Neither copied nor dropped without thought: it goes back by
/// [`BufferPool::free`].
#[derive(PartialEq, Eq, Debug)]
pub struct BufferId(u32);

/// Set in the number of a small buffer.
const SMALL: u32 = 1 << 31;

/// Buffers of one size in one allocation.
struct Lot {
    bytes: Box<[u8]>,
    size: usize,
    /// What is known of bytes ahead of a gap, by buffer: there is none without a buffer, so it lives here, and the state
    /// in the flow stays small.
    ranges: Box<[Ranges]>,
    free: Vec<u32>,
}

impl Lot {
    fn new(count: usize, size: usize) -> Lot {
        assert!(size <= i32::MAX as usize, "buffers of {size} bytes");
        let last = u32::try_from(count).ok().filter(|count| count & SMALL == 0).expect("at most 2^31 buffers");
        Lot {
            bytes: vec![0; count * size].into_boxed_slice(),
            size,
            ranges: vec![Ranges::new(); count].into_boxed_slice(),
            free: (0..last).rev().collect(),
        }
    }

    fn in_use(&self) -> usize {
        self.ranges.len() - self.free.len()
    }

    fn allocate(&mut self) -> Option<u32> {
        let number = self.free.pop()?;
        self.ranges[number as usize].clear();
        Some(number)
    }

    fn range(&self, number: usize) -> core::ops::Range<usize> {
        number * self.size..(number + 1) * self.size
    }
}

/// Buffers of one size, in which streams begin, and smaller ones for those that have to be kept for long.
pub struct BufferPool {
    large: Lot,
    small: Lot,
}

impl BufferPool {
    /// `count` buffers of `size` bytes.
    ///
    /// # Panics
    /// When `size` or `count` does not fit in 31 bits.
    pub fn new(count: usize, size: usize) -> BufferPool {
        BufferPool { large: Lot::new(count, size), small: Lot::new(0, 0) }
    }

    /// And `count` of `size` bytes, which is less, that streams are moved into ([`Assembler::shrink`]).
    ///
    /// # Panics
    /// As [`BufferPool::new`].
    pub fn with_small(self, count: usize, size: usize) -> BufferPool {
        BufferPool { small: Lot::new(count, size), ..self }
    }

    /// Memory of `count` buffers of `size` bytes, bytes.
    pub const fn bytes_for(count: usize, size: usize) -> usize {
        count * (size + size_of::<Ranges>() + size_of::<u32>())
    }

    /// Size of each buffer in which a stream begins, bytes.
    pub fn size(&self) -> usize {
        self.large.size
    }

    /// Of these, those not in use.
    pub fn available(&self) -> usize {
        self.large.free.len()
    }

    /// Buffers in use, of either size.
    pub fn in_use(&self) -> usize {
        self.large.in_use() + self.small.in_use()
    }

    /// A buffer with unspecified contents (of earlier streams, perhaps). `None` when all are in use.
    pub fn allocate(&mut self) -> Option<BufferId> {
        self.large.allocate().map(BufferId)
    }

    /// Gives a buffer back.
    pub fn free(&mut self, id: BufferId) {
        let (lot, number) = self.lot_mut(&id);
        debug_assert!(!lot.free.contains(&(number as u32)), "{id:?} of another pool");
        lot.free.push(number as u32);
    }

    /// All bytes of a buffer.
    pub fn bytes(&self, id: &BufferId) -> &[u8] {
        let (lot, number) = self.lot(id);
        &lot.bytes[lot.range(number)]
    }

    /// All bytes of a buffer, to write.
    pub fn bytes_mut(&mut self, id: &BufferId) -> &mut [u8] {
        let (lot, number) = self.lot_mut(id);
        let range = lot.range(number);
        &mut lot.bytes[range]
    }

    #[inline]
    fn lot(&self, id: &BufferId) -> (&Lot, usize) {
        if id.is_small() { (&self.small, (id.0 & !SMALL) as usize) } else { (&self.large, id.0 as usize) }
    }

    #[inline]
    fn lot_mut(&mut self, id: &BufferId) -> (&mut Lot, usize) {
        if id.is_small() { (&mut self.small, (id.0 & !SMALL) as usize) } else { (&mut self.large, id.0 as usize) }
    }
}

impl BufferId {
    fn is_small(&self) -> bool {
        self.0 & SMALL != 0
    }
}

/// What became of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Inserted {
    /// Bytes by which the stream in order grew, those that had waited behind the gap included.
    pub new_in_order: usize,
    /// Bytes of the segment that were stored.
    pub stored: usize,
    /// Bytes of the segment that were there before, or consumed.
    pub duplicate: usize,
    /// The segment reaches beyond the buffer; what did not fit was left out.
    pub overflow: bool,
    /// The segment would have made a range too many, and was left out.
    pub gap_full: bool,
    /// A buffer was needed and the pool had none: the segment was left out.
    pub no_buffer: bool,
}

/// One direction of a stream. Small; the bytes are in the pool, which must be the same one in every call.
#[derive(Debug)]
pub struct Assembler {
    /// Position of the first byte not consumed: in the buffer, just behind the reserve.
    base: Seq,
    /// Bytes in order from the base on.
    in_order: u32,
    /// From the base to behind the last byte held, gaps included.
    extent: u32,
    reserve: u32,
    buffer: Option<BufferId>,
    /// Buffer only while there is something to hold.
    lazy: bool,
    fin: Option<Seq>,
}

impl Assembler {
    /// A stream whose first byte is at `start`, held in `buffer` until [`Assembler::release`]. The first `reserve` bytes of
    /// the buffer stay free, for a header to be put directly before the stream.
    pub fn new(start: Seq, buffer: BufferId, reserve: usize) -> Assembler {
        Assembler { buffer: Some(buffer), lazy: false, ..Assembler::lazy(start, reserve) }
    }

    /// A stream that takes a buffer from the pool when there is something to hold, and gives it back when there is not.
    pub fn lazy(start: Seq, reserve: usize) -> Assembler {
        Assembler { base: start, in_order: 0, extent: 0, reserve: reserve as u32, buffer: None, lazy: true, fin: None }
    }

    /// Position of the first byte that has not arrived: what an acknowledgement would say (a FIN not counted).
    #[inline]
    pub fn next_seq(&self) -> Seq {
        self.base + self.in_order
    }

    /// Position of the first byte of [`Assembler::contiguous`].
    #[inline]
    pub fn base(&self) -> Seq {
        self.base
    }

    /// Length of [`Assembler::contiguous`].
    #[inline]
    pub fn contiguous_len(&self) -> usize {
        self.in_order as usize
    }

    /// Bytes wait behind a gap.
    #[inline]
    pub fn has_gap(&self) -> bool {
        self.extent > self.in_order
    }

    /// It holds a buffer.
    pub fn has_buffer(&self) -> bool {
        self.buffer.is_some()
    }

    /// Which of the pool's buffers it holds, below their count; none for a small one.
    pub fn buffer_index(&self) -> Option<usize> {
        self.buffer.as_ref().filter(|id| !id.is_small()).map(|id| id.0 as usize)
    }

    /// It holds a small one.
    pub fn is_small(&self) -> bool {
        self.buffer.as_ref().is_some_and(BufferId::is_small)
    }

    /// Moves what is in order into a small buffer, if it fits into one and there is one; what waits behind a gap is forgotten, and would have to be sent again. Whether
    /// it is in no other one now.
    pub fn shrink(&mut self, pool: &mut BufferPool) -> bool {
        let Some(id) = self.buffer.as_ref().filter(|id| !id.is_small()) else { return true };
        let len = (self.reserve + self.in_order) as usize;
        if len > pool.small.size {
            return false;
        }
        let Some(number) = pool.small.allocate() else { return false };
        let to = pool.small.range(number as usize).start;
        let from = pool.large.range(id.0 as usize).start;
        pool.small.bytes[to..to + len].copy_from_slice(&pool.large.bytes[from..from + len]);
        if let Some(old) = self.buffer.replace(BufferId(number | SMALL)) {
            pool.free(old);
        }
        self.extent = self.in_order;
        true
    }

    /// The bytes in order that have not been consumed.
    pub fn contiguous<'p>(&self, pool: &'p BufferPool) -> &'p [u8] {
        self.with_header(pool, 0)
    }

    /// The last `header` bytes of the reserve, and [`Assembler::contiguous`] behind them. Empty without a buffer.
    ///
    /// # Panics
    /// When `header` exceeds the reserve.
    pub fn with_header<'p>(&self, pool: &'p BufferPool, header: usize) -> &'p [u8] {
        let reserve = self.reserve as usize;
        match &self.buffer {
            Some(id) => &pool.bytes(id)[reserve - header..reserve + self.in_order as usize],
            None => &[],
        }
    }

    /// The last `header` bytes of the reserve, to be written. `None` without a buffer.
    ///
    /// # Panics
    /// When `header` exceeds the reserve.
    pub fn header_mut<'p>(&self, pool: &'p mut BufferPool, header: usize) -> Option<&'p mut [u8]> {
        let reserve = self.reserve as usize;
        self.buffer.as_ref().map(|id| &mut pool.bytes_mut(id)[reserve - header..reserve])
    }

    /// What is new in a segment that continues the stream, when nothing is held: read it where it lies, then say by
    /// [`Assembler::advance`] how much of it is done with, and [`Assembler::insert`] the same segment if some is left. `None`
    /// when the segment must be inserted first: it lies ahead, or older bytes are held.
    ///
    /// Empty for a segment that is all old.
    #[inline]
    pub fn accept_in_order<'s>(&self, seq: Seq, payload: &'s [u8]) -> Option<&'s [u8]> {
        if self.extent > 0 {
            return None;
        }
        let old = usize::try_from(seq.distance_to(self.base)).ok()?;
        let end = (old as i64).saturating_add(self.fin_offset()).min(payload.len() as i64) as usize;
        Some(payload.get(old..end).unwrap_or_default())
    }

    /// Moves the base over bytes that were read from the frame itself; only while nothing is held.
    pub fn advance(&mut self, n: usize) {
        debug_assert!(self.extent == 0, "bytes are held: consume them");
        self.base += n as u32;
    }

    /// Stores what is new in a segment.
    pub fn insert(&mut self, pool: &mut BufferPool, seq: Seq, payload: &[u8]) -> Inserted {
        let mut result = Inserted::default();
        // Offsets from the base. A 32-bit distance and a slice's length cannot overflow 64 bits.
        let begin = i64::from(self.base.distance_to(seq));
        let mut end = (begin + payload.len() as i64).min(self.fin_offset());
        if begin >= end {
            return result;
        }
        let size = if self.is_small() { pool.small.size } else { pool.large.size };
        let room = size.saturating_sub(self.reserve as usize) as i64;
        if end > room {
            result.overflow = true;
            end = room;
        }
        let from = begin.max(i64::from(self.in_order));
        if from >= end {
            result.duplicate = (end - begin).max(0) as usize;
            return result;
        }
        // Both lie within the buffer from here on.
        let (from, end) = (from as u32, end as u32);
        if self.buffer.is_none() {
            self.buffer = pool.allocate();
        }
        let Some(id) = &self.buffer else {
            result.duplicate = (i64::from(from) - begin) as usize;
            result.no_buffer = true;
            return result;
        };
        let (lot, number) = pool.lot_mut(id);
        let ranges = &mut lot.ranges[number];
        // Ranges `first..last` overlap the segment or touch it: they become one with it.
        let first = ranges.iter().position(|r| r.1 >= from).unwrap_or(ranges.len());
        let last = ranges.iter().position(|r| r.0 > end).unwrap_or(ranges.len());
        if first == last && from > self.in_order && ranges.is_full() {
            result.gap_full = true;
            return result;
        }
        let store = &mut lot.bytes[number * lot.size..][..lot.size][self.reserve as usize..];
        let mut copy = |a: u32, b: u32| {
            let at = (i64::from(a) - begin) as usize;
            let n = (b - a) as usize;
            store[a as usize..b as usize].copy_from_slice(&payload[at..at + n]);
            result.stored += n;
        };
        let mut at = from;
        let mut merged = (from, end);
        for &(a, b) in &ranges[first..last] {
            if at < a {
                copy(at, a);
            }
            at = at.max(b);
            merged = (merged.0.min(a), merged.1.max(b));
        }
        if at < end {
            copy(at, end);
        }
        ranges.drain(first..last);
        if merged.0 == self.in_order {
            result.new_in_order = (merged.1 - self.in_order) as usize;
            self.in_order = merged.1;
        } else {
            ranges.insert(first, merged);
        }
        self.extent = self.extent.max(merged.1);
        result.duplicate = (i64::from(end) - begin) as usize - result.stored;
        result
    }

    /// Discards the first `n` bytes of [`Assembler::contiguous`]; what is behind them moves to the front of the buffer, which is
    /// given back if it was taken lazily and nothing is left.
    ///
    /// # Panics
    /// When fewer are held.
    pub fn consume(&mut self, pool: &mut BufferPool, n: usize) {
        assert!(n <= self.in_order as usize, "{n} bytes of {}", self.in_order);
        let shift = n as u32;
        self.base += shift;
        self.in_order -= shift;
        self.extent -= shift;
        let Some(id) = &self.buffer else { return };
        if self.extent == 0 && self.lazy {
            self.release(pool);
            return;
        }
        let (lot, number) = pool.lot_mut(id);
        for range in &mut lot.ranges[number] {
            *range = (range.0 - shift, range.1 - shift);
        }
        let reserve = self.reserve as usize;
        pool.bytes_mut(id).copy_within(reserve + n..reserve + n + self.extent as usize, reserve);
    }

    /// The first `n` bytes of [`Assembler::contiguous`] become a header in front of the stream, which begins behind them from now on. They stay where they are: the
    /// last of the reserve, which is so much larger.
    ///
    /// # Panics
    /// When fewer are held.
    pub fn set_apart(&mut self, pool: &mut BufferPool, n: usize) {
        assert!(n <= self.in_order as usize, "{n} bytes of {}", self.in_order);
        let shift = n as u32;
        self.base += shift;
        self.in_order -= shift;
        self.extent -= shift;
        self.reserve += shift;
        let Some(id) = &self.buffer else { return };
        let (lot, number) = pool.lot_mut(id);
        for range in &mut lot.ranges[number] {
            *range = (range.0 - shift, range.1 - shift);
        }
    }

    /// The stream as it is, to be held elsewhere from now on; nothing is held here any more.
    pub fn hand_over(&mut self) -> Assembler {
        let rest = Assembler { buffer: self.buffer.take(), ..*self };
        (self.in_order, self.extent) = (0, 0);
        rest
    }

    /// Gives the buffer back; bytes not consumed are forgotten, and would have to be sent again. To be called when the
    /// flow ends: dropping an assembler leaks its buffer.
    pub fn release(&mut self, pool: &mut BufferPool) {
        if let Some(id) = self.buffer.take() {
            pool.free(id);
        }
        (self.in_order, self.extent) = (0, 0);
    }

    /// The stream ends at `seq_after_payload`, the position of the FIN: that of a segment plus the length of its payload. The
    /// first FIN holds; one that lies before bytes already held contradicts them and is ignored.
    pub fn fin(&mut self, seq_after_payload: Seq) {
        if self.fin.is_none() && self.base.distance_to(seq_after_payload) >= self.extent as i32 {
            self.fin = Some(seq_after_payload);
        }
    }

    /// Position of the FIN, if it is known.
    pub fn fin_seq(&self) -> Option<Seq> {
        self.fin
    }

    /// Everything up to the FIN has arrived.
    pub fn at_fin(&self) -> bool {
        self.fin == Some(self.next_seq())
    }

    /// Offset of the FIN from the base: nothing behind it belongs to the stream.
    #[inline]
    fn fin_offset(&self) -> i64 {
        self.fin.map_or(i64::MAX, |fin| i64::from(self.base.distance_to(fin)))
    }
}

impl Assembler {
    /// Room for a header in front of it, bytes.
    pub fn reserve(&self) -> usize {
        self.reserve as usize
    }

    /// Writes it with what it holds, for another pool.
    pub fn pack(&self, pool: &BufferPool, to: &mut Packer) {
        let Assembler { base, in_order, extent, reserve, buffer, lazy, fin } = self;
        (*base, *fin).pack(to);
        (*reserve, *lazy).pack(to);
        (*in_order, *extent).pack(to);
        let Some(id) = buffer else { return 0u8.pack(to) };
        (1 + u8::from(id.is_small())).pack(to);
        let (lot, number) = pool.lot(id);
        let ranges = &lot.ranges[number];
        (ranges.len() as u8).pack(to);
        ranges.iter().for_each(|range| range.pack(to));
        to.raw(&pool.bytes(id)[..(reserve + extent) as usize]);
    }

    /// The inverse. What it holds lies in a buffer of this pool then, of the same size if there is one.
    pub fn unpack(pool: &mut BufferPool, from: &mut Unpacker<'_>) -> Result<Assembler, Unreadable> {
        const BAD: Unreadable = Unreadable::Impossible("a stream that cannot be");
        let (base, fin) = <(Seq, Option<Seq>)>::unpack(from)?;
        let (reserve, lazy) = <(u32, bool)>::unpack(from)?;
        let (in_order, extent) = <(u32, u32)>::unpack(from)?;
        let whole = reserve.checked_add(extent).filter(|_| in_order <= extent).ok_or(BAD)? as usize;
        let stream = |buffer| Assembler { base, in_order, extent, reserve, buffer, lazy, fin };
        let small = match u8::unpack(from)? {
            0 if extent == 0 => return Ok(stream(None)),
            n @ 1..=2 => n == 2,
            _ => return Err(BAD),
        };
        let mut ranges = Ranges::new();
        let mut behind = in_order;
        for _ in 0..u8::unpack(from)? {
            let (a, b) = <(u32, u32)>::unpack(from)?;
            // With gaps between them.
            if a <= behind || b <= a || b > extent || ranges.is_full() {
                return Err(BAD);
            }
            behind = b;
            ranges.push((a, b));
        }
        if behind != extent {
            return Err(BAD);
        }
        let bytes = from.raw(whole)?;
        let number = if small && whole <= pool.small.size { pool.small.allocate().map(|n| n | SMALL) } else { None };
        let id = match number {
            Some(number) => BufferId(number),
            None if whole <= pool.size() => pool.allocate().ok_or(Unreadable::NoRoom)?,
            None => return Err(Unreadable::NoRoom),
        };
        pool.bytes_mut(&id)[..whole].copy_from_slice(bytes);
        let (lot, number) = pool.lot_mut(&id);
        lot.ranges[number] = ranges;
        Ok(stream(Some(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const SIZE: usize = 120;
    const RESERVE: usize = 20;
    const ROOM: i64 = (SIZE - RESERVE) as i64;

    /// A map from positions (from the stream's start) to bytes, and nothing clever.
    #[derive(Default)]
    struct Model {
        bytes: BTreeMap<i64, u8>,
        base: i64,
        fin: Option<i64>,
    }

    impl Model {
        fn next(&self) -> i64 {
            (self.base..).find(|at| !self.bytes.contains_key(at)).unwrap()
        }

        /// Runs of bytes ahead of the gap.
        fn runs(bytes: &BTreeMap<i64, u8>, next: i64) -> usize {
            bytes.keys().filter(|at| **at > next && !bytes.contains_key(&(**at - 1))).count()
        }

        fn insert(&mut self, begin: i64, payload: &[u8]) -> Inserted {
            let mut result = Inserted::default();
            let before = self.next();
            let mut bytes = self.bytes.clone();
            for (at, byte) in (begin..).zip(payload) {
                if self.fin.is_some_and(|fin| at >= fin) {
                } else if at >= self.base + ROOM {
                    result.overflow = true;
                } else if at < self.base || bytes.contains_key(&at) {
                    result.duplicate += 1;
                } else {
                    bytes.insert(at, *byte);
                    result.stored += 1;
                }
            }
            let next = (self.base..).find(|at| !bytes.contains_key(at)).unwrap();
            if Model::runs(&bytes, next) > MAX_RANGES {
                return Inserted { gap_full: true, overflow: result.overflow, ..Inserted::default() };
            }
            self.bytes = bytes;
            result.new_in_order = (next - before) as usize;
            result
        }
    }

    #[test]
    fn a_stream_in_a_small_buffer_goes_on_as_far_as_that_goes_and_its_old_one_is_free() {
        let mut pool = BufferPool::new(1, SIZE).with_small(1, 60);
        let mut stream = Assembler::lazy(Seq(u32::MAX - 4), RESERVE);
        stream.insert(&mut pool, Seq(u32::MAX - 4), b"hello");
        stream.insert(&mut pool, Seq(5), b"behind a gap");
        stream.header_mut(&mut pool, 3).unwrap().copy_from_slice(b"pxy");
        assert!(stream.shrink(&mut pool) && stream.is_small() && stream.buffer_index().is_none());
        assert_eq!((pool.available(), pool.in_use(), stream.has_gap()), (1, 1, false));
        assert_eq!(stream.with_header(&pool, 3), b"pxyhello");
        let inserted = stream.insert(&mut pool, Seq(0), &[7; 50]);
        assert_eq!((inserted.stored, inserted.overflow), (35, true));
        stream.consume(&mut pool, 38);
        assert_eq!(stream.contiguous(&pool), [7, 7]);
        let mut other = Assembler::lazy(Seq(0), RESERVE);
        other.insert(&mut pool, Seq(0), b"hello");
        assert!(!other.shrink(&mut pool) && other.buffer_index().is_some(), "no small one is left");
        stream.consume(&mut pool, 2);
        assert!(!stream.has_buffer() && other.shrink(&mut pool));
        other.release(&mut pool);
        other.insert(&mut pool, Seq(0), &[1; 41]);
        assert!(!other.shrink(&mut pool), "it does not fit");
        assert_eq!((pool.available(), pool.in_use()), (0, 1));
    }

    #[derive(Clone, Debug)]
    enum Op {
        /// Position relative to the base, length, and a number that makes bytes differ between segments.
        Segment(i64, usize, u8),
        /// A byte every other position: many ranges.
        Comb(i64),
        Consume(usize),
        Fin(i64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => (-15..ROOM + 10, 0..12usize, any::<u8>()).prop_map(|(a, n, b)| Op::Segment(a, n, b)),
            2 => (-15..20i64, 0..60usize, any::<u8>()).prop_map(|(a, n, b)| Op::Segment(a, n, b)),
            1 => (0..ROOM).prop_map(Op::Comb),
            2 => (0..40usize).prop_map(Op::Consume),
            1 => (0..ROOM + 5).prop_map(Op::Fin),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn it_agrees_with_a_map_of_bytes(
            start in prop_oneof![any::<u32>(), (u32::MAX - 150)..=u32::MAX],
            lazy: bool,
            ops in prop::collection::vec(op(), 1..80),
        ) {
            let mut pool = BufferPool::new(2, SIZE);
            let neighbour = pool.allocate().unwrap();
            pool.bytes_mut(&neighbour).fill(0xee);
            let mut asm = if lazy {
                Assembler::lazy(Seq(start), RESERVE)
            } else {
                Assembler::new(Seq(start), pool.allocate().unwrap(), RESERVE)
            };
            if let Some(header) = asm.header_mut(&mut pool, RESERVE) {
                header.fill(0xdd);
            }
            let mut model = Model::default();
            let seq = |at: i64| Seq(start.wrapping_add(at as u32));
            for op in ops {
                match op {
                    Op::Segment(begin, len, salt) => {
                        let payload: Vec<u8> = (0..len).map(|i| salt.wrapping_add(i as u8 * 3)).collect();
                        let begin = model.base + begin;
                        prop_assert_eq!(asm.insert(&mut pool, seq(begin), &payload), model.insert(begin, &payload));
                    }
                    Op::Comb(begin) => {
                        for i in 0..20 {
                            let begin = model.base + begin + 2 * i;
                            prop_assert_eq!(asm.insert(&mut pool, seq(begin), &[7]), model.insert(begin, &[7]));
                        }
                    }
                    Op::Consume(n) => {
                        let n = n.min(asm.contiguous_len());
                        asm.consume(&mut pool, n);
                        model.base += n as i64;
                        model.bytes = model.bytes.split_off(&model.base);
                    }
                    Op::Fin(at) => {
                        let at = model.base + at;
                        asm.fin(seq(at));
                        let held = model.bytes.keys().last().map_or(model.base, |last| last + 1);
                        if model.fin.is_none() && at >= held {
                            model.fin = Some(at);
                        }
                    }
                }
                let next = model.next();
                let expected: Vec<u8> = (model.base..next).map(|at| model.bytes[&at]).collect();
                prop_assert_eq!(asm.contiguous(&pool), &expected[..]);
                prop_assert_eq!(asm.contiguous_len(), expected.len());
                prop_assert_eq!((asm.base(), asm.next_seq()), (seq(model.base), seq(next)));
                prop_assert_eq!(asm.has_gap(), model.bytes.len() > expected.len());
                prop_assert_eq!(asm.fin_seq(), model.fin.map(seq));
                prop_assert_eq!(asm.at_fin(), model.fin == Some(next));
                prop_assert_eq!(asm.has_buffer(), !lazy || !model.bytes.is_empty());
                if !lazy {
                    prop_assert!(asm.with_header(&pool, RESERVE)[..RESERVE].iter().all(|b| *b == 0xdd), "the reserve is kept");
                }
                prop_assert!(pool.bytes(&neighbour).iter().all(|b| *b == 0xee), "the next buffer is untouched");
            }
            asm.release(&mut pool);
            pool.free(neighbour);
            prop_assert_eq!(pool.in_use(), 0);
        }

        /// The use in the server's direction: a parser that takes what it likes, a network that loses, repeats and reorders.
        #[test]
        fn a_parser_reads_the_stream_whatever_the_network_does(
            start: u32,
            stream in prop::collection::vec(any::<u8>(), 1..400),
            arrivals in prop::collection::vec((0..400usize, 1..50usize), 0..60),
            appetite in prop::collection::vec(0..70usize, 1..20),
        ) {
            let mut pool = BufferPool::new(1, 90);
            let mut asm = Assembler::lazy(Seq(start), 0);
            let mut appetite = appetite.into_iter().cycle();
            let mut read = Vec::new();
            // Then everything once more in order, in segments that fit the buffer, until it is through.
            let tail = (0..stream.len()).step_by(30).map(|at| (at, 30));
            for (at, len) in arrivals.into_iter().chain(tail) {
                let at = at.min(stream.len() - 1);
                let payload = &stream[at..(at + len).min(stream.len())];
                let seq = Seq(start) + at as u32;
                match asm.accept_in_order(seq, payload) {
                    Some(fresh) => {
                        prop_assert!(!asm.has_buffer());
                        let n = appetite.next().unwrap().min(fresh.len());
                        read.extend_from_slice(&fresh[..n]);
                        asm.advance(n);
                        if n < fresh.len() {
                            let result = asm.insert(&mut pool, seq, payload);
                            prop_assert_eq!(result.stored, payload.len() - result.duplicate);
                        }
                    }
                    None => {
                        asm.insert(&mut pool, seq, payload);
                    }
                }
                // A parser that is told of new bytes takes them in the end, or the buffer would fill.
                let held = asm.contiguous(&pool);
                let n = if held.len() > 40 { held.len() } else { appetite.next().unwrap().min(held.len()) };
                read.extend_from_slice(&held[..n]);
                asm.consume(&mut pool, n);
            }
            read.extend_from_slice(asm.contiguous(&pool));
            prop_assert_eq!(&read, &stream);
            let rest = asm.contiguous_len();
            asm.consume(&mut pool, rest);
            prop_assert_eq!(pool.in_use(), 0, "nothing held, no buffer");
        }
    }

    #[test]
    fn a_header_goes_directly_before_the_first_byte() {
        let mut pool = BufferPool::new(1, 64);
        let id = pool.allocate().unwrap();
        let mut asm = Assembler::new(Seq(u32::MAX), id, 28);
        asm.insert(&mut pool, Seq(u32::MAX), b"hello");
        asm.header_mut(&mut pool, 5).unwrap().copy_from_slice(b"PROXY");
        assert_eq!(asm.with_header(&pool, 5), b"PROXYhello");
        assert_eq!(asm.contiguous(&pool), b"hello");
        assert_eq!(asm.next_seq(), Seq(4));
    }

    #[test]
    fn without_a_buffer_to_be_had_a_segment_is_refused_and_read_in_place_all_the_same() {
        let mut pool = BufferPool::new(1, 64);
        let other = pool.allocate().unwrap();
        let mut asm = Assembler::lazy(Seq(10), 0);
        assert_eq!(asm.accept_in_order(Seq(13), b"later"), None);
        assert_eq!(asm.insert(&mut pool, Seq(13), b"later"), Inserted { no_buffer: true, ..Inserted::default() });
        assert_eq!(asm.accept_in_order(Seq(8), b"..now"), Some(&b"now"[..]));
        asm.advance(3);
        assert_eq!(asm.accept_in_order(Seq(8), b"..now"), Some(&b""[..]));
        assert_eq!(asm.accept_in_order(Seq(1), b"old"), Some(&b""[..]));
        pool.free(other);
        assert_eq!(asm.insert(&mut pool, Seq(14), b"ater").stored, 4);
        assert_eq!(asm.insert(&mut pool, Seq(13), b"l").new_in_order, 5);
        assert_eq!(asm.contiguous(&pool), b"later");
    }

    #[test]
    fn nothing_behind_the_fin_belongs_to_the_stream() {
        let mut pool = BufferPool::new(1, 64);
        let mut asm = Assembler::lazy(Seq(0), 0);
        asm.fin(Seq(3));
        assert_eq!(asm.accept_in_order(Seq(0), b"abcde"), Some(&b"abc"[..]));
        assert_eq!(asm.accept_in_order(Seq(u32::MAX), b".abcde"), Some(&b"abc"[..]));
        asm.insert(&mut pool, Seq(1), b"bcde");
        asm.insert(&mut pool, Seq(0), b"a");
        assert_eq!((asm.contiguous(&pool), asm.at_fin()), (&b"abc"[..], true));
        asm.fin(Seq(9));
        assert_eq!(asm.fin_seq(), Some(Seq(3)), "the first holds");
        let mut late = Assembler::lazy(Seq(0), 0);
        late.advance(5);
        late.fin(Seq(4));
        assert_eq!(late.fin_seq(), None, "a FIN before what was read");
    }

    #[test]
    fn state_in_the_flow_is_small_and_the_pool_costs_what_it_says() {
        assert!(size_of::<Assembler>() <= 48);
        let pool = BufferPool::new(10, 100);
        let Lot { bytes, ranges, free, .. } = &pool.large;
        let real = bytes.len() + size_of_val(&**ranges) + free.capacity() * size_of::<u32>();
        assert_eq!(real, BufferPool::bytes_for(10, 100));
    }
}
