//! What workers hand each other: frames of flows that are another's, and rows for another's part of the affinity tables.
//!
//! Every worker has an inbox, into which all others put. Three bounded lock-free queues (`crossbeam`'s `ArrayQueue`) make it up:
//! buffers with frames, free buffers, and updates of affinity rows. A frame is copied once: a free buffer of the *owner's* is taken,
//! filled, and put into the owner's queue; the owner works on it where it lies, and puts it back among the free ones. There are as many buffers
//! as the queue has places, so nothing is allocated on the way, and the only thing that can run out is free buffers: then the frame is
//! lost and counted (`handover-full`), like one that finds a ring full. Where ports take large units a few buffers hold one each; when these are
//! under way, units are cut, and their segments handed over. What was handed over is received, always: the
//! owner empties its inbox once more when all others have [left](Exchange::leave).
//!
//! **Sleep.** A worker that sleeps is woken by a [`Doorbell`]; see [`doze`](super::doze), where the tests go through all interleavings. A
//! ring, a system call, is paid only towards a sleeper, and at most once a burst. With `--idle spin` or `yield` nobody ever rings.

use super::doze::{Present, Sleep, have_put};
use super::steer::{Place, Steering};
use crate::flow::Key;
use crate::io::doorbell::Doorbell;
use crate::io::{HEADROOM, MAX_LINK_HEADER, MAX_UNIT, finish};
use crate::wire::packet::{Headers, Parsed, WireError};
use crate::wire::{Frame, Offload};
use core::ops::AddAssign;
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use lb::affinity::Update;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Frames that a worker's inbox holds. Full: further ones are lost, and counted (`handover-full`).
pub const FRAMES: usize = 4096;

/// Large units that a worker's inbox holds, beside its frames. Full: further ones are cut.
pub const LARGE_UNITS: usize = 64;

/// Affinity updates that a worker's inbox holds. Full: further ones are lost, and counted; each costs a full handshake.
pub const UPDATES: usize = 4096;

/// What a worker handed over, and was handed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Handover {
    /// Frames put into others' inboxes.
    pub sent: u64,
    /// Frames taken from its own.
    pub received: u64,
    /// Frames lost because the owner's inbox was full.
    pub full: u64,
    /// Affinity updates put into others' inboxes.
    pub updates_sent: u64,
    /// Affinity updates taken from its own.
    pub updates_received: u64,
    /// Affinity updates lost because the owner's inbox was full.
    pub updates_lost: u64,
}

impl AddAssign for Handover {
    fn add_assign(&mut self, other: Handover) {
        self.sent += other.sent;
        self.received += other.received;
        self.full += other.full;
        self.updates_sent += other.updates_sent;
        self.updates_received += other.updates_received;
        self.updates_lost += other.updates_lost;
    }
}

/// A frame on its way to its owner, in a buffer of the owner's.
pub struct Handoff {
    /// Where it came in.
    pub port: u8,
    /// What its headers say: read where it came in.
    pub headers: Headers,
    len: usize,
    offload: Offload,
    buffer: Box<[u8]>,
}

impl Handoff {
    /// An empty one, for frames of up to so many bytes.
    fn new(longest: usize) -> Box<Handoff> {
        Box::new(Handoff {
            port: 0,
            headers: Err(WireError::Truncated),
            len: 0,
            offload: Offload::NONE,
            buffer: vec![0; HEADROOM + longest].into(),
        })
    }

    /// The frame.
    pub fn frame(&mut self) -> Frame<'_> {
        Frame::new(&mut self.buffer, HEADROOM, self.len).with(self.offload)
    }
}

struct Inbox {
    frames: ArrayQueue<Box<Handoff>>,
    free: ArrayQueue<Box<Handoff>>,
    /// Those that hold large units.
    large: ArrayQueue<Box<Handoff>>,
    updates: ArrayQueue<Update>,
    sleep: Sleep,
    bell: Doorbell,
}

impl Inbox {
    /// More than half full: only for what cannot go elsewhere.
    fn is_busy(&self) -> bool {
        self.frames.len() > self.frames.capacity() / 2
    }
}

/// What all workers see.
struct Inboxes {
    all: Box<[CachePadded<Inbox>]>,
    /// The longest frame that a buffer holds which is not for large units.
    longest: usize,
    /// Workers that may still put something into an inbox.
    senders: Present,
    /// Workers that still have flows.
    unsettled: Present,
}

/// One worker's way to the others.
pub struct Exchange {
    inboxes: Arc<Inboxes>,
    me: usize,
    steering: Arc<Steering>,
    /// Inboxes that something was put into since the last [`Exchange::wake`].
    touched: Box<[bool]>,
    left: bool,
    settled: bool,
    counts: Handover,
}

/// Bytes that the inboxes of `workers` workers take, for ports of no larger MTU than `mtu`, of which some take large units.
pub fn bytes_for(workers: usize, mtu: u16, large_units: bool) -> usize {
    let handoff = |longest: usize| size_of::<Handoff>() + HEADROOM + longest + 2 * size_of::<(usize, usize)>();
    let large = if large_units { LARGE_UNITS * handoff(MAX_UNIT) } else { 0 };
    workers * (FRAMES * handoff(longest(mtu)) + large + UPDATES * (size_of::<Update>() + size_of::<usize>()))
}

/// Longest frame of a wire.
fn longest(mtu: u16) -> usize {
    usize::from(mtu) + MAX_LINK_HEADER
}

impl Exchange {
    /// One for each of the workers that `steering` leads frames to, in order of their numbers. All memory is taken here. `mtu` is the
    /// largest of the ports', of which some take large units.
    pub fn between(steering: &Steering, mtu: u16, large_units: bool) -> io::Result<Vec<Exchange>> {
        let large = if large_units { LARGE_UNITS } else { 0 };
        Exchange::with_capacity(steering, mtu, (FRAMES, large), UPDATES)
    }

    /// The same with inboxes of another size: for so many frames, and large units.
    pub fn with_capacity(
        steering: &Steering,
        mtu: u16,
        (frames, large_units): (usize, usize),
        updates: usize,
    ) -> io::Result<Vec<Exchange>> {
        let workers = steering.workers();
        let inbox = |_| {
            // A queue has a place at least. Of buffers there are as many as places.
            let (free, large) = (ArrayQueue::new(frames), ArrayQueue::new(large_units.max(1)));
            (0..frames).for_each(|_| _ = free.push(Handoff::new(longest(mtu))));
            (0..large_units).for_each(|_| _ = large.push(Handoff::new(MAX_UNIT)));
            Ok(CachePadded::new(Inbox {
                frames: ArrayQueue::new(frames + large_units),
                free,
                large,
                updates: ArrayQueue::new(updates),
                sleep: Sleep::new(),
                bell: Doorbell::new()?,
            }))
        };
        let all = (0..workers).map(inbox).collect::<io::Result<Box<[_]>>>()?;
        let inboxes = Arc::new(Inboxes {
            all,
            longest: longest(mtu),
            senders: Present::new(workers),
            unsettled: Present::new(workers),
        });
        let steering = Arc::new(steering.clone());
        let exchange = |me| Exchange {
            inboxes: inboxes.clone(),
            me,
            steering: steering.clone(),
            touched: vec![false; workers].into(),
            left: false,
            settled: false,
            counts: Handover::default(),
        };
        Ok((0..workers).map(exchange).collect())
    }

    /// Frames are led by another steering from now on, of the same number of workers.
    pub fn steer_by(&mut self, steering: Arc<Steering>) {
        assert_eq!(steering.workers(), self.touched.len(), "as many workers as there are inboxes");
        self.steering = steering;
    }

    /// Whose a flow is, by the key of its client's frames; none when it can be nobody's.
    pub fn owner(&self, key: &Key) -> Option<usize> {
        self.steering.owner(key)
    }

    fn mine(&self) -> &Inbox {
        &self.inboxes.all[self.me]
    }

    /// Looks whose a frame is that came in by `port`, and hands it over when it is another's. True when it is gone: handed over,
    /// or lost and counted. Otherwise it is the caller's.
    #[inline]
    pub fn handed_over(&mut self, port: u8, headers: &Headers, frame: &mut Frame<'_>) -> bool {
        match self.steering.place(usize::from(port), headers, frame.bytes()) {
            Place::Here => false,
            Place::At(owner) | Place::Preferably(owner) if owner == self.me => false,
            Place::At(owner) => {
                self.put(owner, port, headers, frame);
                true
            }
            Place::Preferably(owner) => {
                let busy = self.inboxes.all[owner].is_busy();
                if !busy {
                    self.put(owner, port, headers, frame);
                }
                !busy
            }
            Place::Everywhere => {
                let me = self.me;
                for other in (0..self.touched.len()).filter(|w| *w != me) {
                    // A flood of claims must not crowd out flows; a question that stays unanswered is asked again.
                    if self.inboxes.all[other].is_busy() {
                        self.counts.full += 1
                    } else {
                        self.put(other, port, headers, frame)
                    }
                }
                false
            }
        }
    }

    fn put(&mut self, to: usize, port: u8, headers: &Headers, frame: &mut Frame<'_>) {
        let offload = frame.offload();
        if self.put_bytes(to, port, headers, frame.bytes(), offload) {
            return;
        }
        if offload.segment() == 0 || frame.len() <= self.inboxes.longest {
            self.counts.full += 1;
            return;
        }
        // No buffer for it as it is: its segments.
        finish(frame, &mut |piece| {
            let put = self.put_bytes(to, port, &Parsed::read(piece), piece, Offload::NONE);
            self.counts.full += u64::from(!put);
            put
        });
    }

    /// False when there is no buffer for it.
    fn put_bytes(&mut self, to: usize, port: u8, headers: &Headers, frame: &[u8], offload: Offload) -> bool {
        let inbox = &self.inboxes.all[to];
        // Looked at first: a buffer that was taken must go back.
        let free = match frame.len() {
            len if len <= self.inboxes.longest => inbox.free.pop(),
            ..=MAX_UNIT => inbox.large.pop(),
            _ => None,
        };
        let Some(mut handoff) = free else { return false };
        (handoff.port, handoff.headers) = (port, *headers);
        (handoff.len, handoff.offload) = (frame.len(), offload);
        handoff.buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
        match inbox.frames.push(handoff) {
            Ok(()) => self.counts.sent += 1,
            // Cannot be: there are no more handoffs than places.
            Err(_) => self.counts.full += 1,
        }
        self.touched[to] = true;
        true
    }

    /// Hands a frame to a worker, whoever owns it.
    #[cfg(test)]
    pub(super) fn hand_to(&mut self, to: usize, port: u8, frame: &[u8]) {
        let mut frame = frame.to_vec();
        self.put(to, port, &Parsed::read(&frame), &mut Frame::whole(&mut frame));
    }

    /// The next frame that another worker handed us. To be given [back](Exchange::give_back).
    #[inline]
    pub fn take(&mut self) -> Option<Box<Handoff>> {
        let handoff = self.mine().frames.pop()?;
        self.counts.received += 1;
        Some(handoff)
    }

    /// Its buffer is free again.
    #[inline]
    pub fn give_back(&mut self, handoff: Box<Handoff>) {
        let inbox = self.mine();
        let free = if handoff.buffer.len() > HEADROOM + self.inboxes.longest { &inbox.large } else { &inbox.free };
        // There are no more handoffs than places.
        let _ = free.push(handoff);
    }

    /// Brings an update to its owner.
    pub fn send_update(&mut self, update: Update) {
        let to = update.owner();
        match self.inboxes.all.get(to).map(|inbox| inbox.updates.push(update)) {
            Some(Ok(())) => {
                self.counts.updates_sent += 1;
                self.touched[to] = true;
            }
            _ => self.counts.updates_lost += 1,
        }
    }

    /// The next update that another worker brought us.
    pub fn take_update(&mut self) -> Option<Update> {
        let update = self.mine().updates.pop()?;
        self.counts.updates_received += 1;
        Some(update)
    }

    /// Something was put elsewhere that this worker looks into before it sleeps: it is to be woken by the next [`Exchange::wake`].
    pub fn touch(&mut self, worker: usize) {
        self.touched.get_mut(worker).into_iter().for_each(|touched| *touched = true);
    }

    /// Wakes those that sleep and were given something. At the end of every burst.
    pub fn wake(&mut self) {
        if !self.touched.contains(&true) {
            return;
        }
        have_put();
        for (touched, inbox) in self.touched.iter_mut().zip(&self.inboxes.all) {
            if core::mem::take(touched) && inbox.sleep.must_ring() {
                inbox.bell.ring();
            }
        }
    }

    /// We are about to sleep: what to wait on as well; none when there is something to do. In any case to be followed by
    /// [`Exchange::awake`].
    pub fn doze(&self) -> Option<RawFd> {
        let inbox = self.mine();
        let may_sleep = inbox.sleep.doze(|| inbox.frames.is_empty() && inbox.updates.is_empty());
        may_sleep.then(|| inbox.bell.fd())
    }

    /// Up again.
    pub fn awake(&self) {
        let inbox = self.mine();
        inbox.sleep.awake(|| inbox.bell.silence());
    }

    /// We have no flow left, and shall open none: what else comes by our queues is others'.
    pub fn settle(&mut self) {
        if !core::mem::replace(&mut self.settled, true) {
            self.inboxes.unsettled.leave();
        }
    }

    /// Nobody has a flow left.
    pub fn all_have_settled(&self) -> bool {
        self.inboxes.unsettled.none()
    }

    /// We shall hand over nothing any more.
    pub fn leave(&mut self) {
        if !core::mem::replace(&mut self.left, true) {
            self.inboxes.senders.leave();
        }
    }

    /// Nobody will hand over anything any more.
    pub fn all_have_left(&self) -> bool {
        self.inboxes.senders.none()
    }

    /// What was handed over so far, and what came.
    pub fn counts(&self) -> Handover {
        self.counts
    }
}

impl Drop for Exchange {
    /// A worker that dies keeps nobody waiting.
    fn drop(&mut self) {
        self.settle();
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Config;
    use lb::{Policy, PoolSpec, Wanted};
    use std::time::Duration;

    fn two(frames: usize) -> (Exchange, Exchange) {
        let steering = Steering::new(&Config::default(), &[1; 32], 2);
        let mut all = Exchange::with_capacity(&steering, 1500, (frames, 0), 4).unwrap();
        let b = all.pop().unwrap();
        (all.pop().unwrap(), b)
    }

    #[test]
    fn a_frame_arrives_as_it_was_with_headroom_and_its_port() {
        let (mut a, mut b) = two(2);
        a.hand_to(1, 3, b"frame");
        let mut handoff = b.take().unwrap();
        assert_eq!((handoff.port, handoff.frame().bytes()), (3, &b"frame"[..]));
        assert!(handoff.frame().push_front(HEADROOM));
        b.give_back(handoff);
        assert!(b.take().is_none());
        assert_eq!((a.counts().sent, b.counts().received), (1, 1));
    }

    #[test]
    fn beyond_the_bound_frames_are_lost_and_counted_and_buffers_come_back() {
        let (mut a, mut b) = two(4);
        for round in 1..=3 {
            (0..6).for_each(|_| a.hand_to(1, 0, &[7; 60]));
            let mut got = 0;
            while let Some(handoff) = b.take() {
                b.give_back(handoff);
                got += 1;
            }
            assert_eq!((got, a.counts().sent, a.counts().full), (4, 4 * round, 2 * round));
        }
    }

    #[test]
    fn a_frame_longer_than_any_port_takes_is_lost_and_costs_no_buffer() {
        let (mut a, mut b) = two(4);
        let longest = 1500 + MAX_LINK_HEADER;
        (0..10).for_each(|_| a.hand_to(1, 0, &vec![0; longest + 1]));
        assert_eq!((a.counts().sent, a.counts().full), (0, 10));
        (0..4).for_each(|_| a.hand_to(1, 0, &vec![7; longest]));
        assert_eq!((a.counts().sent, a.counts().full), (4, 10), "all buffers are still there");
        assert!((0..4).all(|_| b.take().is_some_and(|mut handoff| handoff.frame().len() == longest)));
    }

    #[test]
    fn large_units_arrive_as_they_are_and_cut_when_there_is_no_room_for_them() {
        let steering = Steering::new(&Config::default(), &[1; 32], 2);
        let mut all = Exchange::with_capacity(&steering, 1500, (200, 2), 4).unwrap();
        let (mut b, mut a) = (all.pop().unwrap(), all.pop().unwrap());
        let payload: Vec<u8> = (0..60_000u32).map(|n| (n * 7 % 251) as u8).collect();
        let mut buf = vec![0; 65_000];
        let n = crate::wire::build::Segment {
            link: Default::default(),
            src: (crate::wire::Addr::v4([10, 1, 0, 7]), 1),
            dst: (crate::wire::Addr::v4([10, 1, 9, 1]), 443),
            seq: crate::wire::Seq(1),
            ack: crate::wire::Seq(1),
            flags: crate::wire::packet::Flags::ACK,
            window: 1,
            options: &[],
            payload: &payload,
        }
        .write(&mut buf);
        for round in 0..2 {
            for _ in 0..3 {
                let mut unit = buf[..n].to_vec();
                let headers = Parsed::read(&unit);
                a.put(1, 3, &headers, &mut Frame::whole(&mut unit).with(Offload::large(1400)));
            }
            for _ in 0..2 {
                let mut handoff = b.take().unwrap();
                let frame = handoff.frame();
                assert!(frame.bytes() == &buf[..n] && frame.offload() == Offload::large(1400), "round {round}");
                b.give_back(handoff);
            }
            let mut got = Vec::<u8>::new();
            while let Some(mut handoff) = b.take() {
                let Ok(Parsed { body: Ok(crate::wire::packet::Body::Tcp(_, tcp)), .. }) = handoff.headers else {
                    panic!()
                };
                let frame = handoff.frame();
                assert!(frame.offload() == Offload::NONE && tcp.seq.0 as usize == 1 + got.len());
                got.extend(&frame.bytes()[tcp.payload..tcp.end]);
                b.give_back(handoff);
            }
            assert!(got == payload);
        }
        assert_eq!((a.counts().sent, a.counts().full), (2 * (2 + 43), 0));
    }

    #[test]
    fn a_busy_owner_is_spared_what_can_go_elsewhere() {
        let config = Config {
            wanted: Wanted::single(vec!["10.1.9.1:443".parse().unwrap()], Policy::default(), PoolSpec::default()),
            ports: vec![crate::engine::PortSpec {
                name: "p".into(),
                mac: crate::wire::Mac([2, 0, 0, 0, 0, 1]),
                addresses: vec![],
                gateways: vec![],
                vlans: vec![],
                mtu: 1500,
            }],
            ..Config::default()
        };
        let steering = Steering::new(&config, &[1; 32], 2);
        let mut all = Exchange::with_capacity(&steering, 1500, (8, 0), 4).unwrap();
        let (b, a) = (all.pop().unwrap(), &mut all[0]);
        let segment = |port: u16, flags| {
            let mut buf = [0; 128];
            let n = crate::wire::build::Segment {
                link: crate::wire::build::Link { dst: config.ports[0].mac, ..Default::default() },
                src: (crate::wire::Addr::v4([10, 1, 0, 7]), port),
                dst: (crate::wire::Addr::v4([10, 1, 9, 1]), 443),
                seq: crate::wire::Seq(1),
                ack: crate::wire::Seq(1),
                flags: crate::wire::packet::Flags(flags),
                window: 1,
                options: &[],
                payload: &[],
            }
            .write(&mut buf);
            buf[..n].to_vec()
        };
        let theirs = (1000..).find(|p| steering.place_of(0, &segment(*p, 0x10)) == Place::At(1)).unwrap();
        let handed = |a: &mut Exchange, flags, times: usize| {
            (0..times)
                .filter(|_| {
                    let mut frame = segment(theirs, flags);
                    a.handed_over(0, &Parsed::read(&frame), &mut Frame::whole(&mut frame))
                })
                .count()
        };
        assert_eq!(handed(a, 0x02, 10), 5, "SYNs, until the inbox is more than half full");
        assert_eq!((handed(a, 0x10, 10), a.counts().sent, a.counts().full), (10, 8, 7), "the rest of it is for flows");
        drop(b);
    }

    #[test]
    fn threads_lose_nothing_below_the_bound_and_sleepers_are_woken() {
        const N: u64 = 20_000;
        let (mut a, mut b) = two(64);
        let (sent, full) = std::thread::scope(|scope| {
            let sender = scope.spawn(move || {
                for n in 0..N {
                    a.hand_to(1, 0, &n.to_be_bytes());
                    // Now and then it pauses long enough for the other to fall asleep.
                    if n % 16 == 0 {
                        a.wake();
                        if n % 1024 == 0 {
                            std::thread::sleep(Duration::from_millis(2));
                        }
                    }
                }
                a.wake();
                a.leave();
                (a.counts().sent, a.counts().full)
            });
            let mut last = None;
            b.leave();
            loop {
                let over = b.all_have_left();
                while let Some(mut handoff) = b.take() {
                    let n = u64::from_be_bytes(handoff.frame().bytes().try_into().unwrap());
                    assert!(last < Some(n), "in order");
                    last = Some(n);
                    b.give_back(handoff);
                }
                if over {
                    break;
                }
                if let Some(fd) = b.doze() {
                    crate::io::wait_readable(&[fd], Duration::from_millis(200));
                }
                b.awake();
            }
            sender.join().unwrap()
        });
        assert_eq!((sent + full, b.counts().received), (N, sent));
    }
}
