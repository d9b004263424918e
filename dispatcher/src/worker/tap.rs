//! How somebody outside is shown frames, with what became of each: he puts down a [`Tap`] that says which ones he means, and the worker puts
//! copies of them into it.
//!
//! A tap's buffers are made by who puts it down, as many as there will be; a frame that finds none is lost to the tap and counted, and no
//! frame waits for it. A worker has one tap at most. While it has none, that costs a look a burst.

use super::FrameHandler;
use crate::engine::about::About;
use crate::engine::{Counters, DropReason, PortId, Verdict};
use crate::flow::Key;
use crate::time::Time;
use crate::wire::packet::{Body, Parsed};
use arrayvec::{ArrayString, ArrayVec};
use core::fmt::Write;
use crossbeam::queue::ArrayQueue;
use lb::BackendSet;
use lb::admission::Prefix;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Frames that are sent by the engine itself while one frame has its turn, at most as many as are kept.
const MADE: usize = 16;

/// Bytes of a comment; what is longer is cut.
pub const COMMENT: usize = 240;

/// Frames that came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// For any reason.
    Any,
    /// For this one.
    To(DropReason),
}

/// Which frames are meant: those for which all that is given holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wants {
    /// Of clients whose addresses begin so, on both sides.
    pub client: Option<Prefix>,
    /// Of connections to these backends, and from and to these addresses of theirs.
    pub backend: Option<(BackendSet, Vec<IpAddr>)>,
    /// That were dropped, or answered by a reset instead.
    pub lost: Option<Lost>,
}

/// A frame that was seen.
#[derive(Debug)]
pub struct Seen {
    /// When, on the worker's clock.
    pub at: Time,
    /// At which port.
    pub port: PortId,
    /// It was sent; else it was received.
    pub sent: bool,
    /// Bytes that it had.
    pub original: usize,
    /// What became of it.
    pub comment: ArrayString<COMMENT>,
    len: usize,
    bytes: Box<[u8]>,
}

impl Seen {
    /// The frame, as far as it is kept.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Between a worker and who is shown its frames.
#[derive(Debug)]
pub struct Tap {
    wants: Wants,
    snap: usize,
    full: ArrayQueue<Box<Seen>>,
    free: ArrayQueue<Box<Seen>>,
    lost: AtomicU64,
    taken: AtomicBool,
    ended: AtomicBool,
}

impl Tap {
    /// For those that are meant: `snap` bytes of each are kept, and so many frames are on their way at most.
    pub fn new(wants: Wants, snap: usize, frames: usize) -> Tap {
        let free = ArrayQueue::new(frames);
        for _ in 0..frames {
            let (at, port) = (Time::ZERO, PortId(0));
            let (comment, bytes) = (ArrayString::new(), vec![0; snap].into());
            let _ = free.push(Box::new(Seen { at, port, sent: false, original: 0, comment, len: 0, bytes }));
        }
        let (lost, taken, ended) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        Tap { wants, snap, full: ArrayQueue::new(frames), free, lost, taken, ended }
    }

    /// A frame of the worker's. False, and counted, when there is no buffer for it.
    pub fn put(&self, at: Time, port: PortId, sent: bool, frame: (&[u8], usize), comment: &str) -> bool {
        let Some(mut seen) = self.free.pop() else {
            // Relaxed: a count, ordered with nothing.
            self.lost.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        let (bytes, original) = frame;
        let len = bytes.len().min(self.snap);
        (seen.at, seen.port, seen.sent, seen.original, seen.len) = (at, port, sent, original, len);
        seen.bytes[..len].copy_from_slice(&bytes[..len]);
        seen.comment.clear();
        let end = (0..=comment.len().min(COMMENT)).rev().find(|n| comment.is_char_boundary(*n)).unwrap_or(0);
        seen.comment.push_str(&comment[..end]);
        // There are as many places as buffers.
        self.full.push(seen).is_ok()
    }

    /// The next frame, shown to `look`. False when there is none.
    pub fn next(&self, look: impl FnOnce(&Seen)) -> bool {
        let Some(seen) = self.full.pop() else { return false };
        look(&seen);
        let _ = self.free.push(seen);
        true
    }

    /// Frames that were meant, and found no buffer.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The worker has it.
    pub fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }

    /// Nobody looks any more.
    pub fn end(&self) {
        // Relaxed: it need only be seen soon.
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Where taps are put down for a worker.
#[derive(Debug, Default)]
pub(super) struct Bench {
    wanted: AtomicBool,
    next: Mutex<Option<Arc<Tap>>>,
}

impl Bench {
    /// Puts one down, in the place of the one before.
    pub(super) fn put(&self, tap: Arc<Tap>) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = Some(tap);
        // Under the lock, as the worker takes it back.
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// There is one. Costs a worker one look a turn.
    #[inline(always)]
    pub(super) fn has_one(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// A worker begins to show frames, or ends it.
    #[cold]
    pub(super) fn change(&self, tapping: &mut Option<Box<Tapping>>) {
        if self.has_one()
            && let Ok(mut next) = self.next.try_lock()
        {
            self.wanted.store(false, Ordering::Relaxed);
            *tapping = next.take().map(|tap| Box::new(Tapping::new(tap)));
        }
        if tapping.as_ref().is_some_and(|tapping| tapping.tap.ended.load(Ordering::Relaxed)) {
            *tapping = None;
        }
    }
}

/// A worker's end of a tap, and what it notes of the frame that has its turn.
pub(super) struct Tapping {
    tap: Arc<Tap>,
    /// The frame as it came in, as far as it will be kept.
    came: Vec<u8>,
    original: usize,
    key: Option<Key>,
    ends: Option<(IpAddr, IpAddr)>,
    before: Option<About>,
    counters: Counters,
    /// What the engine has sent meanwhile: where, and its bytes in `sent`.
    made: ArrayVec<(PortId, usize, usize), MADE>,
    sent: Vec<u8>,
}

/// Addresses of a frame; and of TCP, the key.
fn read(frame: &[u8]) -> (Option<Key>, Option<(IpAddr, IpAddr)>) {
    match Parsed::read(frame).map(|parsed| parsed.body) {
        Ok(Ok(Body::Tcp(ip, tcp))) => (Some(Key::of(&ip, &tcp)), Some((ip.src.ip(), ip.dst.ip()))),
        Ok(Ok(Body::Icmp(ip))) => (None, Some((ip.src.ip(), ip.dst.ip()))),
        _ => (None, None),
    }
}

impl Tapping {
    fn new(tap: Arc<Tap>) -> Tapping {
        tap.taken.store(true, Ordering::Relaxed);
        let (came, sent) = (Vec::with_capacity(tap.snap), Vec::with_capacity(MADE * tap.snap));
        Tapping {
            tap,
            came,
            original: 0,
            key: None,
            ends: None,
            before: None,
            counters: Counters::default(),
            made: ArrayVec::new(),
            sent,
        }
    }

    /// A frame is about to have its turn.
    pub(super) fn before(&mut self, handler: &impl FrameHandler, frame: &[u8]) {
        self.came.clear();
        self.came.extend_from_slice(&frame[..frame.len().min(self.tap.snap)]);
        self.original = frame.len();
        (self.key, self.ends) = read(frame);
        self.before = self.key.and_then(|key| handler.connection_at(&key));
        self.counters.clone_from(handler.counters());
        self.forget_made();
    }

    /// It has had its turn; `frame` is what it was made into.
    pub(super) fn after(
        &mut self,
        handler: &impl FrameHandler,
        port: PortId,
        verdict: Verdict,
        frame: &[u8],
        now: Time,
    ) {
        let about = self.key.and_then(|key| handler.connection_at(&key)).or(self.before);
        let (then, after) = (&self.counters, handler.counters());
        let mut refused =
            DropReason::ALL.iter().filter(|why| after.refused[**why as usize] > then.refused[**why as usize]);
        let refused = refused.next().copied();
        let lost = match verdict {
            Verdict::Drop(why) => Some(why),
            _ => refused,
        };
        if !self.is_meant(about.as_ref(), lost) {
            return;
        }
        let name = |port| handler.port_name(port).unwrap_or("?");
        let mut text = ArrayString::<COMMENT>::new();
        // What has no room is cut.
        let _ = match (verdict, refused) {
            (Verdict::Drop(why), _) => write!(text, "dropped: {}", why.as_str()),
            (_, Some(why)) => write!(text, "answered by a reset: {}", why.as_str()),
            (Verdict::Reply(_), _) if after.cookies_sent > then.cookies_sent => write!(text, "answered by a cookie"),
            (Verdict::Reply(_), _) => write!(text, "answered"),
            (Verdict::Forward(to), _) => write!(text, "forwarded to {}", name(to)),
            (Verdict::Hold, _) => write!(text, "held"),
        };
        for (what, happened) in [
            ("connection opened", after.flows_opened > then.flows_opened),
            ("server dialed", after.dials > then.dials),
            ("another server taken", after.redispatches > then.redispatches),
            ("connection over", after.flows_closed > then.flows_closed),
        ] {
            if happened {
                let _ = write!(text, ", {what}");
            }
        }
        tell(handler, about.as_ref(), &mut text);
        self.tap.put(now, port, false, (&self.came, self.original), &text);
        if let Verdict::Forward(to) | Verdict::Reply(to) = verdict {
            let mut text = ArrayString::<COMMENT>::new();
            let _ = match verdict {
                Verdict::Forward(_) => write!(text, "forwarded from {}", name(port)),
                _ => write!(text, "the answer to it"),
            };
            tell(handler, about.as_ref(), &mut text);
            self.tap.put(now, to, true, (frame, frame.len()), &text);
        }
        let mut text = ArrayString::<COMMENT>::new();
        let _ = write!(text, "made here, because of it");
        tell(handler, about.as_ref(), &mut text);
        for (to, at, original) in self.made.drain(..) {
            let kept = &self.sent[at..(at + original.min(self.tap.snap))];
            self.tap.put(now, to, true, (kept, original), &text);
        }
    }

    /// The engine sends a frame of its own.
    pub(super) fn made(&mut self, port: PortId, frame: &[u8]) {
        let kept = &frame[..frame.len().min(self.tap.snap)];
        match self.made.try_push((port, self.sent.len(), frame.len())) {
            Ok(()) => self.sent.extend_from_slice(kept),
            Err(_) => _ = self.tap.lost.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// No frame has its turn: what is sent from now on is sent by itself.
    pub(super) fn forget_made(&mut self) {
        self.made.clear();
        self.sent.clear();
    }

    /// What the engine has sent by itself, because it was time.
    pub(super) fn by_itself(&mut self, handler: &impl FrameHandler, now: Time) {
        for n in 0..self.made.len() {
            let (to, at, original) = self.made[n];
            let end = at + original.min(self.tap.snap);
            let (key, ends) = read(&self.sent[at..end]);
            // It is found by what comes back.
            let about = key.and_then(|key| handler.connection_at(&key.reversed()));
            (self.key, self.ends) = (key, ends);
            if self.is_meant(about.as_ref(), None) {
                let mut text = ArrayString::<COMMENT>::new();
                let _ = write!(text, "made here, by itself");
                tell(handler, about.as_ref(), &mut text);
                self.tap.put(now, to, true, (&self.sent[at..end], original), &text);
            }
        }
        self.forget_made();
    }

    fn is_meant(&self, about: Option<&About>, lost: Option<DropReason>) -> bool {
        let Wants { client, backend, lost: wanted } = &self.tap.wants;
        let at_either_end = |is: &dyn Fn(IpAddr) -> bool| self.ends.is_some_and(|(src, dst)| is(src) || is(dst));
        let of_client = |prefix: &Prefix| {
            about.is_some_and(|a| prefix.contains(a.client.ip())) || at_either_end(&|ip| prefix.contains(ip))
        };
        let of_backend = |(set, addresses): &(BackendSet, Vec<IpAddr>)| {
            about.and_then(|a| a.backend).is_some_and(|id| set.contains(id))
                || at_either_end(&|ip| addresses.contains(&ip))
        };
        let is_lost = |wanted: &Lost| match wanted {
            Lost::Any => lost.is_some(),
            Lost::To(why) => lost == Some(*why),
        };
        client.as_ref().is_none_or(of_client)
            && backend.as_ref().is_none_or(of_backend)
            && wanted.as_ref().is_none_or(is_lost)
    }
}

/// Of which connection.
fn tell(handler: &impl FrameHandler, about: Option<&About>, text: &mut ArrayString<COMMENT>) {
    let Some(About { number, client, state, backend, reason }) = about else { return };
    let _ = write!(text, "; connection {number} of {client}, {state}");
    if let Some(name) = backend.and_then(|id| handler.backend_name(id)) {
        let _ = write!(text, ", server {name} by {}", reason.map_or(crate::engine::BALANCED, lb::Reason::as_str));
    }
}
