//! The poll loop: the clock once a turn, a burst from every port, everything that is due, then what is queued goes out.

use super::changes::{Change, Subscriber};
use super::earlier::{Earlier, Sums};
use super::exchange::{Exchange, Handoff, Handover};
use super::idle::Idler;
use super::listing::Walk;
use super::post::{Arrivals, Window};
use super::succession::{self, Written};
use super::tap::Tapping;
use super::{FrameHandler, Idle, Pauses, Snapshot, Status, Totals};
use crate::engine::{ConnectionRecord, DropReason, Effects, Look, PortId, Sealed, TakenOver, Unsealed, Verdict};
use crate::flow::Key;
use crate::io::kernel;
use crate::io::{self, Burst, Divide, Port, Receiver, Transmitter};
use crate::journal::Journal;
use crate::pack::{Packer, Unreadable};
use crate::path::tunnel::End;
use crate::time::Time;
use crate::tunnel::Edge;
use crate::wire::packet::Parsed;
use arrayvec::ArrayVec;
use core::time::Duration;
use std::sync::TryLockError;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

/// How often a worker tells what it has counted.
const TELL: Duration = Duration::from_millis(100);

/// How long a worker that was asked to stop may take to reset its flows, and to answer those who have not heard.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Longest sleep in that time: other workers, and the end of it, are not waited for longer.
const SHUTDOWN_NAP: Duration = Duration::from_millis(5);

/// Flows reset in one turn while stopping: no more than what the transmit queues take.
const SHUTDOWN_BUDGET: usize = 32;

/// Two clocks read so shortly after each other show the same moment; and how often that is tried.
const AT_ONCE: Duration = Duration::from_micros(5);
const TRIES: usize = 100;

/// The worker's clock: its time begins at its start.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Begins now.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Reads it.
    #[inline]
    pub fn now(&self) -> Time {
        Time::ZERO + self.0.elapsed()
    }

    /// What CLOCK_MONOTONIC showed at [`Time::ZERO`]: the same for all processes of a machine.
    pub fn monotonic_origin(&self) -> Duration {
        let exact = || {
            let before = Instant::now();
            let monotonic = kernel::monotonic();
            (before.elapsed() < AT_ONCE).then(|| monotonic.saturating_sub(before.duration_since(self.0)))
        };
        core::iter::repeat_with(exact)
            .take(TRIES)
            .flatten()
            .next()
            .unwrap_or_else(|| kernel::monotonic().saturating_sub(self.0.elapsed()))
    }

    /// The clock of another process of this machine, by its [`Clock::monotonic_origin`]; none when that cannot be.
    pub fn with_origin(origin: Duration) -> Option<Clock> {
        let here = Clock(Instant::now());
        let since = here.monotonic_origin().checked_sub(origin)?;
        here.0.checked_sub(since).map(Clock)
    }

    /// What the wall clock would have shown at [`Time::ZERO`], as it is set now.
    pub fn origin(&self) -> SystemTime {
        SystemTime::now().checked_sub(self.0.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// What the engine does to the world, done.
struct Outside {
    tx: Vec<Box<dyn Transmitter>>,
    totals: Totals,
    journal: Option<Journal>,
    /// Where answers to checks go.
    arrivals: Option<Arrivals>,
    /// Where tunnels are whose packets are sealed.
    edge: Option<Box<Edge>>,
    /// Where frames are shown, while somebody looks.
    tap: Option<Box<Tapping>>,
}

impl Effects for Outside {
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> bool {
        if let Some(tap) = &mut self.tap {
            tap.made(port, frame);
        }
        match self.tx.get_mut(usize::from(port.0)) {
            Some(tx) => tx.transmit_copy(frame),
            None => false,
        }
    }

    fn check_arrived(&mut self, packet: &[u8]) -> Option<bool> {
        Some(self.arrivals.as_ref()?.arrived(packet))
    }

    fn seal(&mut self, end: End, packet: &[u8], out: &mut [u8]) -> Sealed {
        match &mut self.edge {
            Some(edge) => edge.seal(end, packet, out),
            None => Sealed::Lost(DropReason::TunnelNotUp),
        }
    }

    fn unseal(&mut self, end: End, message: &[u8], out: &mut [u8]) -> Unsealed {
        match &mut self.edge {
            Some(edge) => edge.unseal(end, message, out),
            None => Unsealed::Lost(DropReason::TunnelUnknown),
        }
    }

    fn connection_ended(&mut self, record: &ConnectionRecord<'_>) {
        self.totals.add(record);
        if let Some(journal) = &self.journal {
            journal.record(record);
        }
    }
}

/// Why a loop has come to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It was told to, or no port will have a frame again.
    Stopped,
    /// Another process goes on with all of it.
    TakenOver,
}

/// One worker's loop.
pub struct Loop<H> {
    handler: H,
    rx: Vec<Box<dyn Receiver>>,
    outside: Outside,
    burst: Burst,
    clock: Clock,
    idler: Idler,
    told: Time,
    busy_turns: u64,
    idle_turns: u64,
    pauses: Pauses,
    /// With several workers.
    exchange: Option<Exchange>,
    /// What others have handed over, at once.
    handed: ArrayVec<Box<Handoff>, { io::BURST }>,
    /// Where services and backends come and go.
    changes: Option<Subscriber>,
    /// Where there are checks.
    window: Option<Window>,
    /// Over connections, while somebody is being told of them.
    walk: Option<Walk>,
    /// Messages of tunnels' own are made in here.
    message: Box<[u8]>,
    /// Counted by processes before this one.
    earlier: Earlier,
}

/// In the order of their numbers.
fn port_names<H: FrameHandler>(handler: &H, ports: usize) -> Vec<&str> {
    (0..ports).map(|n| handler.port_name(PortId(n as u8)).unwrap_or_default()).collect()
}

impl<H: FrameHandler> Loop<H> {
    /// Over these ports, in the order of the handler's port numbers.
    pub fn new(
        handler: H,
        ports: Vec<Port>,
        clock: Clock,
        idle: Idle,
        journal: Option<Journal>,
        totals: Totals,
    ) -> Loop<H> {
        let idler = Idler::new(idle, ports.len());
        let (rx, tx) = ports.into_iter().map(|p| (p.rx, p.tx)).unzip();
        Loop {
            handler,
            rx,
            outside: Outside { tx, totals, journal, arrivals: None, edge: None, tap: None },
            burst: Burst::new(),
            clock,
            idler,
            told: Time::ZERO,
            busy_turns: 0,
            idle_turns: 0,
            pauses: Pauses::default(),
            exchange: None,
            handed: ArrayVec::new(),
            changes: None,
            window: None,
            walk: None,
            message: Box::default(),
            earlier: Earlier::default(),
        }
    }

    /// The same as one of several workers, that hands over what is another's.
    pub fn among(self, exchange: Exchange) -> Loop<H> {
        Loop { exchange: Some(exchange), ..self }
    }

    /// The same, that takes over what is published.
    pub fn following(self, changes: Subscriber) -> Loop<H> {
        Loop { changes: Some(changes), ..self }
    }

    /// The same, that carries what is asked of backends, and hears what comes of it.
    pub fn checking(mut self, window: Window) -> Loop<H> {
        self.outside.arrivals = Some(window.arrivals());
        Loop { window: Some(window), ..self }
    }

    /// The same, with tunnels whose packets are sealed.
    pub fn sealing(mut self, edge: Edge) -> Loop<H> {
        self.message = vec![0; edge.longest_message()].into();
        self.outside.edge = Some(Box::new(edge));
        self
    }

    /// What is fed with frames.
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// The same, to change it between two turns.
    pub fn handler_mut(&mut self) -> &mut H {
        &mut self.handler
    }

    /// What was handed over to other workers, and came from them.
    pub fn handover(&self) -> Handover {
        self.exchange.as_ref().map_or_else(Handover::default, Exchange::counts)
    }

    /// Turns until it is told to stop, or until no port will ever have a frame again.
    pub fn run(&mut self, status: &Status) -> Ending {
        // Whoever asks before the first turns are over is not to think that all backends are down.
        self.tell(self.clock.now(), status, false);
        // When the last turn began, if it led to this one at once.
        let mut began = None;
        // Relaxed: the flag orders nothing; it need only be seen soon.
        while !status.stop.load(Ordering::Relaxed) {
            if status.halts.is_there() && self.halt(&status.halts) == succession::Verdict::End {
                // Others go on with all of it.
                self.tell(self.clock.now(), status, true);
                return Ending::TakenOver;
            }
            let now = self.clock.now();
            if let Some(began) = began.take() {
                self.pauses.turn(now.since(began));
            }
            self.look_for_tap(status);
            self.tell_sessions(status);
            let (frames, walks) = (self.turn(now), self.walk(now, status));
            if frames == 0 {
                if self.rx.iter().all(|rx| rx.exhausted()) {
                    break;
                }
                if !walks {
                    let due = self.next_deadline().map(|at| at.since(now));
                    let offered = || self.handler.has_offers();
                    let (exchange, changes, window) =
                        (self.exchange.as_ref(), self.changes.as_ref(), self.window.as_ref());
                    self.idler.rest(&mut self.rx, exchange, changes, window, due, offered);
                }
            } else {
                self.idler.busy();
                began = Some(now);
            }
            if now.since(self.told) >= TELL {
                self.told = now;
                self.tell(now, status, false);
            }
        }
        let until = self.clock.now() + SHUTDOWN;
        self.wind_up(until);
        if let Some(exchange) = &mut self.exchange {
            exchange.leave();
        }
        self.empty_inbox(until);
        self.flush();
        self.tell(self.clock.now(), status, true);
        Ending::Stopped
    }

    /// Which frames are taken, at all ports.
    pub(super) fn divide(&mut self, by: Divide) {
        self.rx.iter_mut().for_each(|rx| rx.divide(by));
    }

    /// Frames arrive from now on.
    pub(super) fn begin(&mut self) {
        self.rx.iter_mut().for_each(|rx| rx.begin());
    }

    /// One turn.
    pub(super) fn turn_now(&mut self) -> usize {
        self.turn(self.clock.now())
    }

    /// See [`FrameHandler::pack_to`]; with what the ports' other owner needs. Written into `room`.
    pub(super) fn pack(&mut self, rows_since: Time, room: Vec<u8>) -> Written {
        let mut to = Packer::within(room);
        self.handler.pack_to(rows_since, self.clock.now(), &mut to);
        let now = self.sums();
        let Outside { totals, edge, .. } = &self.outside;
        Sums { ports: port_names(&self.handler, self.rx.len()), now, totals, edge: edge.as_deref() }.pack(&mut to);
        let ports = self.rx.iter_mut().zip(&mut self.outside.tx).map(|(rx, tx)| [rx.pack(), tx.pack()]).collect();
        Written { engine: to.into_bytes(), ports, ..Written::default() }
    }

    /// See [`FrameHandler::take_sessions`].
    pub(super) fn take_sessions(&mut self, bytes: &[u8]) -> Result<usize, Unreadable> {
        let exchange = self.exchange.as_ref();
        let owner = |key: &Key| exchange.and_then(|exchange| exchange.owner(key)).unwrap_or(0);
        self.handler.take_sessions(bytes, &owner, self.clock.now())
    }

    /// So many connections will be taken over: their memory is there before.
    pub(super) fn expect(&self, connections: usize) {
        self.handler.memory_for(connections).iter().for_each(io::populate);
    }

    /// The ports are this process's, for good.
    pub(super) fn take_charge(&mut self) {
        self.rx.iter_mut().for_each(|rx| rx.take_charge());
    }

    /// See [`FrameHandler::take_over`]. `ports`: by worker there, and port, what halves of ports have written; this is worker `me` of so many.
    pub(super) fn inherit(
        &mut self,
        packed: &[Vec<u8>],
        ports: &[Vec<[Vec<u8>; 2]>],
        (me, workers): (usize, usize),
    ) -> Result<TakenOver, Unreadable> {
        for (n, (rx, tx)) in self.rx.iter_mut().zip(&mut self.outside.tx).enumerate() {
            let half = |which: usize| -> Vec<&[u8]> {
                let of_port = ports.iter().filter_map(|worker| worker.get(n));
                of_port.map(|halves| &halves[which][..]).filter(|half| !half.is_empty()).collect()
            };
            let (of_rx, of_tx) = (half(0), half(1));
            if !of_rx.is_empty() {
                rx.take_over(&of_rx)?;
                tx.take_over(&of_tx)?;
            }
        }
        let Loop { handler, rx, outside: Outside { totals, edge, .. }, earlier, .. } = self;
        let names = port_names(handler, rx.len());
        for engine in packed.iter().skip(me).step_by(workers.max(1)) {
            earlier.take_over(engine, &names, totals, edge.as_deref_mut())?;
        }
        let exchange = self.exchange.as_ref();
        // What nobody's frame can be is the first one's.
        let owner = |key: &Key| exchange.and_then(|exchange| exchange.owner(key)).unwrap_or(0);
        self.handler.take_over(packed, &owner, self.clock.now())
    }

    /// Begins to show frames, or ends it, if somebody has said so.
    #[inline]
    pub fn look_for_tap(&mut self, status: &Status) {
        if status.taps.has_one() || self.outside.tap.is_some() {
            status.taps.change(&mut self.outside.tap);
        }
    }

    /// Tells a part of what somebody wants to know of connections. False when nobody does, or all is told.
    #[inline]
    fn walk(&mut self, now: Time, status: &Status) -> bool {
        if status.listings.has_one() {
            Walk::begin(&status.listings, &mut self.walk);
        }
        let Loop { walk, handler, .. } = self;
        if walk.as_mut().is_some_and(|walk| !walk.go_on(handler, now)) {
            *walk = None;
        }
        walk.is_some()
    }

    /// Resets all flows, and goes on turning for as long as the handler keeps any of them, or another worker does: what comes in meanwhile is of
    /// ends that have not heard, and is answered.
    fn wind_up(&mut self, until: Time) {
        loop {
            let now = self.clock.now();
            let reset = self.handler.shutdown(SHUTDOWN_BUDGET, now, &mut self.outside);
            let frames = self.turn(now);
            // Who will never hear anything more need not listen.
            let settled = reset && (self.handler.flows() == 0 || self.rx.iter().all(|rx| rx.exhausted()));
            if settled
                && self.exchange.as_mut().is_none_or(|e| {
                    e.settle();
                    e.all_have_settled()
                })
                || now >= until
            {
                return;
            }
            if reset && frames == 0 {
                let due = self.next_deadline().map_or(SHUTDOWN_NAP, |at| at.since(now).min(SHUTDOWN_NAP));
                let offered = || self.handler.has_offers();
                let (exchange, changes, window) = (self.exchange.as_ref(), self.changes.as_ref(), self.window.as_ref());
                self.idler.rest(&mut self.rx, exchange, changes, window, Some(due), offered);
            } else {
                self.idler.busy();
            }
        }
    }

    /// Takes what others still hand over until they have come to their ends, too: there is no flow left that it belongs to, but
    /// what was handed over is to be accounted for.
    fn empty_inbox(&mut self, until: Time) {
        let Some(exchange) = &mut self.exchange else { return };
        loop {
            // Asked first: what was put before is then taken.
            let last = exchange.all_have_left() || self.clock.now() >= until;
            while let Some(handoff) = exchange.take() {
                exchange.give_back(handoff);
            }
            while exchange.take_update().is_some() {}
            if last {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// When the handler or the tunnels have something to do.
    fn next_deadline(&self) -> Option<Time> {
        let tunnels = self.outside.edge.as_ref().and_then(|edge| edge.due());
        self.handler.next_deadline().into_iter().chain(tunnels).min()
    }

    /// One turn: how many frames came in.
    pub fn turn(&mut self, now: Time) -> usize {
        self.look_for_change(now);
        if let Some(edge) = &mut self.outside.edge {
            edge.at(now);
        }
        let mut frames = 0;
        for port in 0..self.rx.len() {
            // Nobody looks at frames as a rule, and then that is all that it costs.
            frames += match self.outside.tap {
                None => self.burst::<false>(port, now),
                Some(_) => self.burst_shown(port, now),
            };
        }
        frames += self.take_handed_over(now);
        if let Some(tap) = &mut self.outside.tap {
            tap.forget_made();
        }
        self.serve_tunnels(now);
        self.serve_checks(now);
        if frames > 0 || self.handler.next_deadline().is_some_and(|at| at <= now) {
            self.handler.poll(now, &mut self.outside);
        }
        if let Some(tap) = &mut self.outside.tap {
            tap.by_itself(&self.handler, now);
        }
        self.flush();
        if let Some(exchange) = &mut self.exchange {
            while let Some(update) = self.handler.next_update() {
                exchange.send_update(update);
            }
            while let Some(worker) = self.handler.next_wake() {
                exchange.touch(worker);
            }
            exchange.wake();
        }
        if frames > 0 {
            self.busy_turns += 1
        } else {
            self.idle_turns += 1
        }
        frames
    }

    #[cold]
    #[inline(never)]
    fn burst_shown(&mut self, port: usize, now: Time) -> usize {
        self.burst::<true>(port, now)
    }

    /// A burst of a port; with `SHOWN`, each frame is shown with what became of it. How many frames.
    #[inline(always)]
    fn burst<const SHOWN: bool>(&mut self, port: usize, now: Time) -> usize {
        let rx = &mut *self.rx[port];
        rx.receive(&mut self.burst);
        let frames = self.burst.len();
        // What frames need of memory is asked for, for all of them, before the first one's turn.
        let mut looks = [Look::NONE; io::BURST];
        for (slot, look) in self.burst.iter_mut().zip(&mut looks) {
            *look = self.handler.look(rx.bytes(slot));
        }
        looks[..self.burst.len()].iter_mut().for_each(|look| self.handler.look_again(look));
        let port = PortId(port as u8);
        for (mut slot, look) in self.burst.drain(..).zip(looks) {
            let mut frame = rx.frame(&mut slot);
            if SHOWN && let Some(tap) = &mut self.outside.tap {
                tap.before(&self.handler, frame.bytes());
            }
            let verdict = match self.handler.straight(port, look, &mut frame, now) {
                Some(verdict) => verdict,
                None => {
                    let headers = Parsed::read(frame.bytes());
                    // Its owner shows it.
                    if let Some(exchange) = &mut self.exchange
                        && exchange.handed_over(port.0, &headers, &mut frame)
                    {
                        rx.release(slot);
                        continue;
                    }
                    self.handler.handle(port, &headers, &mut frame, now, &mut self.outside)
                }
            };
            if SHOWN && let Some(tap) = &mut self.outside.tap {
                tap.after(&self.handler, port, verdict, frame.bytes(), now);
            }
            match verdict {
                Verdict::Forward(to) | Verdict::Reply(to) => {
                    let (head, len, offload) = (frame.head(), frame.len(), frame.offload());
                    slot.reframe(head, len);
                    slot.set_offload(offload);
                    match self.outside.tx.get_mut(usize::from(to.0)) {
                        // A frame that finds no room is counted by its port; its sender will repeat it.
                        Some(tx) => _ = io::send(rx, &mut **tx, slot),
                        None => rx.release(slot),
                    }
                }
                Verdict::Hold | Verdict::Drop(_) => rx.release(slot),
            }
        }
        frames
    }

    /// Sends what tunnels have to say of themselves, and tells what has become of them.
    #[inline]
    fn serve_tunnels(&mut self, now: Time) {
        if self.outside.edge.as_ref().and_then(|edge| edge.due()).is_some_and(|at| at <= now) {
            self.serve_due_tunnels(now);
        }
    }

    #[cold]
    fn serve_due_tunnels(&mut self, now: Time) {
        let Loop { handler, outside, message, .. } = self;
        while let Some((end, n)) = outside.edge.as_mut().and_then(|edge| edge.next_message(message)) {
            if !handler.carry_message(end, &message[..n], now, outside) {
                outside.edge.iter_mut().for_each(|edge| edge.unsent(end));
            }
        }
        while let Some(news) = outside.edge.as_mut().and_then(|edge| edge.next_news()) {
            handler.tunnel_changed(news, now);
        }
    }

    /// Sends what is asked of backends, hears what has come of it, and tells what connections have shown of them.
    fn serve_checks(&mut self, now: Time) {
        let Loop { window: Some(window), handler, outside, .. } = self else { return };
        while let Some(parcel) = window.take() {
            handler.carry(&parcel, now, outside);
            window.give_back(parcel);
        }
        if window.has_news() {
            window.seen().for_each(|seen| handler.observe(&seen));
        }
        while let Some(news) = window.take_key() {
            handler.key_shown(&news, now);
        }
        if let Some(hints) = handler.take_hints() {
            window.hint(&hints);
        }
    }

    /// Takes over what was published, if there is something new.
    #[inline]
    fn look_for_change(&mut self, now: Time) {
        if let Some(change) = self.changes.as_ref().and_then(Subscriber::new_change) {
            self.take_over(&change, now);
        }
    }

    #[cold]
    fn take_over(&mut self, change: &Change, now: Time) {
        let began = Instant::now();
        if let (Some(exchange), Some(steering)) = (&mut self.exchange, &change.steering) {
            exchange.steer_by(steering.clone());
        }
        self.handler.apply(&change.revision, now);
        if let Some(edge) = &mut self.outside.edge {
            edge.follow(change.revision.directory(), now);
        }
        // What was seen of a backend may have come before the backend did.
        self.window.iter_mut().for_each(Window::look_again);
        if let Some(changes) = &mut self.changes {
            changes.acknowledge(change);
        }
        self.pauses.change(began.elapsed());
    }

    /// What other workers have handed over: how many frames. No more than could have come in by our own queues in a turn.
    fn take_handed_over(&mut self, now: Time) -> usize {
        let Some(exchange) = &mut self.exchange else { return 0 };
        while let Some(update) = exchange.take_update() {
            self.handler.learn(update);
        }
        let most = io::BURST * self.rx.len().max(1);
        let mut done = 0;
        while done < most {
            let Some(exchange) = &mut self.exchange else { break };
            self.handed.extend(core::iter::from_fn(|| exchange.take()).take(io::BURST.min(most - done)));
            if self.handed.is_empty() {
                break;
            }
            done += self.handed.len();
            // Who handed them over may know more than we do.
            self.look_for_change(now);
            let mut looks = [Look::NONE; io::BURST];
            for (handoff, look) in self.handed.iter_mut().zip(&mut looks) {
                *look = self.handler.look(handoff.frame().bytes());
            }
            looks[..self.handed.len()].iter_mut().for_each(|look| self.handler.look_again(look));
            for (mut handoff, look) in self.handed.drain(..).zip(looks) {
                let (port, headers) = (PortId(handoff.port), handoff.headers);
                let mut frame = handoff.frame();
                if let Some(tap) = &mut self.outside.tap {
                    tap.before(&self.handler, frame.bytes());
                }
                let verdict = match self.handler.straight(port, look, &mut frame, now) {
                    Some(verdict) => verdict,
                    None => self.handler.handle(port, &headers, &mut frame, now, &mut self.outside),
                };
                if let Some(tap) = &mut self.outside.tap {
                    tap.after(&self.handler, port, verdict, frame.bytes(), now);
                }
                if let Verdict::Forward(to) | Verdict::Reply(to) = verdict
                    && let Some(tx) = self.outside.tx.get_mut(usize::from(to.0))
                {
                    // One that finds no room is counted by its port.
                    io::send_copy(&mut **tx, &mut frame);
                }
                if let Some(exchange) = &mut self.exchange {
                    exchange.give_back(handoff);
                }
            }
        }
        done
    }

    fn flush(&mut self) {
        self.outside.tx.iter_mut().for_each(|tx| tx.flush());
    }

    /// All that it has counted, and processes before it.
    fn sums(&mut self) -> Earlier {
        let Loop { rx, outside, exchange, earlier, busy_turns, idle_turns, .. } = self;
        let now = exchange.as_ref().map_or_else(Handover::default, Exchange::counts);
        Earlier {
            received: rx.iter_mut().enumerate().map(|(n, rx)| earlier.received(n, rx.traffic())).collect(),
            sent: outside.tx.iter_mut().enumerate().map(|(n, tx)| earlier.sent(n, tx.traffic())).collect(),
            handover: earlier.handover(now),
            busy_turns: *busy_turns + earlier.busy_turns,
            idle_turns: *idle_turns + earlier.idle_turns,
        }
    }

    fn tell(&mut self, now: Time, status: &Status, last: bool) {
        let mut snapshot = match status.snapshot.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            // Somebody reads; the next round will do, unless there is none.
            Err(TryLockError::WouldBlock) if !last => return,
            Err(TryLockError::WouldBlock) => status.snapshot.lock().unwrap_or_else(|e| e.into_inner()),
        };
        let Snapshot {
            at,
            counters,
            conflicts,
            flows,
            backends_up,
            admission,
            queues,
            unreachable,
            tunnels,
            received,
            sent,
            totals,
            sessions,
            busy_turns,
            idle_turns,
            handover,
            pauses,
        } = &mut *snapshot;
        *at = now;
        counters.clone_from(self.handler.counters());
        *conflicts = self.handler.conflicts();
        *flows = self.handler.flows();
        *backends_up = self.handler.backends_up();
        *admission = self.handler.admission();
        queues.clear();
        self.handler.queues(queues);
        unreachable.clear();
        self.handler.unreachable(unreachable);
        tunnels.clear();
        tunnels.extend(self.outside.edge.iter().flat_map(|edge| edge.shown()));
        received.clear();
        let earlier = &self.earlier;
        received.extend(self.rx.iter_mut().enumerate().map(|(n, rx)| earlier.received(n, rx.traffic())));
        sent.clear();
        let tx = self.outside.tx.iter_mut().enumerate();
        sent.extend(tx.map(|(n, tx)| earlier.sent(n, tx.traffic())));
        totals.clone_from(&self.outside.totals);
        if last {
            *sessions = self.handler.sessions(now);
        }
        *busy_turns = self.busy_turns + earlier.busy_turns;
        *idle_turns = self.idle_turns + earlier.idle_turns;
        *handover = earlier.handover(self.exchange.as_ref().map_or_else(Handover::default, Exchange::counts));
        pauses.follow(&self.pauses);
        drop(snapshot);
        self.tell_sessions(status);
    }

    /// Tells what the affinity tables have counted, when somebody waits for it.
    #[inline]
    fn tell_sessions(&self, status: &Status) {
        // Relaxed: it orders nothing. Where the lock is taken, the next turn will do.
        if status.session_metrics_wanted.load(Ordering::Relaxed)
            && let Ok(mut told) = status.session_metrics.try_lock()
        {
            *told = self.handler.session_metrics();
            status.session_metrics_wanted.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Config, Counters, DropReason, Revision};
    use crate::io::mem::Memory;
    use crate::wire::Frame;
    use crate::wire::packet::Headers;
    use crate::worker::{Steering, changes};
    use lb::{Directory, Wanted};
    use std::sync::Arc;

    /// Forwards by the frame's first byte: 0, 1 to that port with a byte put in front; 2 answers by a frame of its own;
    /// 3 is dropped; 4 answers which version was taken over.
    #[derive(Default)]
    struct Bridge {
        applied: u8,
        counters: Counters,
        polls: u64,
        deadline: Option<Time>,
        flows: usize,
        /// Flows that were reset are kept for so many frames more.
        lingers: usize,
        reset: bool,
    }

    impl FrameHandler for Bridge {
        fn apply(&mut self, revision: &Arc<Revision>, _: Time) {
            self.applied = revision.directory().version() as u8;
        }
        fn handle(
            &mut self,
            port: PortId,
            _: &Headers,
            frame: &mut Frame<'_>,
            _: Time,
            fx: &mut dyn Effects,
        ) -> Verdict {
            self.counters.frames_in += 1;
            if self.reset && self.lingers > 0 {
                self.lingers -= 1;
                assert!(fx.transmit(port, b"reset again"));
                return Verdict::Hold;
            }
            match frame.bytes()[0] {
                to @ (0 | 1) => {
                    assert!(frame.push_front(1));
                    frame.bytes_mut()[0] = 0xee;
                    Verdict::Forward(PortId(to))
                }
                2 => {
                    assert!(fx.transmit(port, b"made here"));
                    Verdict::Hold
                }
                4 => {
                    assert!(fx.transmit(port, &[0xaa, self.applied]));
                    Verdict::Hold
                }
                _ => Verdict::Drop(DropReason::NotForUs),
            }
        }
        fn poll(&mut self, now: Time, _: &mut dyn Effects) {
            self.polls += 1;
            if self.deadline.is_some_and(|at| at <= now) {
                self.deadline = None;
            }
        }
        fn next_deadline(&self) -> Option<Time> {
            self.deadline
        }
        fn shutdown(&mut self, budget: usize, _: Time, fx: &mut dyn Effects) -> bool {
            for _ in 0..budget.min(self.flows) {
                assert!(fx.transmit(PortId(0), b"reset"));
                self.flows -= 1;
            }
            self.reset = self.flows == 0;
            self.reset
        }
        fn counters(&self) -> &Counters {
            &self.counters
        }
        fn flows(&self) -> usize {
            self.flows + self.lingers
        }
    }

    fn run_loop(handler: Bridge, ports: Vec<Port>) -> Loop<Bridge> {
        Loop::new(handler, ports, Clock::start(), Idle::Sleep, None, Totals::default())
    }

    #[test]
    fn each_verdict_does_what_it_says_and_no_buffer_is_lost() {
        let memory = Memory::new(64);
        let ((a, a_wire), (b, b_wire)) = (memory.port(16), memory.port(16));
        let mut worker = run_loop(Bridge::default(), vec![a, b]);
        for first in [0, 1, 2, 3] {
            assert!(a_wire.inject(&[first, 9]));
        }
        assert_eq!(worker.turn(Time::from_millis(1)), 4);
        assert_eq!(a_wire.take().unwrap(), [0xee, 0, 9]);
        assert_eq!(a_wire.take().unwrap(), b"made here");
        assert_eq!(b_wire.take().unwrap(), [0xee, 1, 9]);
        assert!(a_wire.take().is_none() && b_wire.take().is_none());
        assert_eq!(memory.available(), 64);
        assert_eq!(worker.handler.polls, 1);
    }

    #[test]
    fn it_polls_after_frames_and_when_something_is_due_and_not_else() {
        let memory = Memory::new(4);
        let (a, _wire) = memory.port(4);
        let handler = Bridge { deadline: Some(Time::from_millis(10)), ..Bridge::default() };
        let mut worker = run_loop(handler, vec![a]);
        worker.turn(Time::from_millis(9));
        assert_eq!(worker.handler.polls, 0);
        worker.turn(Time::from_millis(10));
        worker.turn(Time::from_millis(11));
        assert_eq!(worker.handler.polls, 1);
    }

    #[test]
    fn a_bridge_between_two_memories_conserves_frames_under_load() {
        let (m, n) = (Memory::new(300), Memory::new(300));
        let ((a, a_wire), (b, b_wire)) = (m.port(256), n.port(256));
        let mut worker = run_loop(Bridge::default(), vec![a, b]);
        let (mut sent, mut got) = (0u64, 0u64);
        for round in 0..100u32 {
            sent += (0..round % 200).filter(|_| a_wire.inject(&[1; 60])).count() as u64;
            sent += (0..round % 150).filter(|_| b_wire.inject(&[0; 60])).count() as u64;
            worker.turn(Time::from_millis(u64::from(round)));
            while a_wire.take().is_some() || b_wire.take().is_some() {
                got += 1;
            }
        }
        while worker.turn(Time::from_millis(200)) > 0 {
            while a_wire.take().is_some() || b_wire.take().is_some() {
                got += 1;
            }
        }
        let lost: u64 = worker.outside.tx.iter_mut().map(|tx| tx.traffic().lost_to(io::Loss::TxQueueFull)).sum();
        assert_eq!((sent, sent), (got + lost, worker.handler.counters.frames_in));
        assert_eq!((m.available(), n.available()), (300, 300));
    }

    #[test]
    fn a_stop_resets_every_flow_and_tells_the_last_numbers() {
        let memory = Memory::new(200);
        let (a, wire) = memory.port(200);
        let mut worker = run_loop(Bridge { flows: 100, ..Bridge::default() }, vec![a]);
        assert!(wire.inject(&[3]));
        worker.turn(Time::ZERO);
        let status = Status::default();
        status.stop.store(true, Ordering::Relaxed);
        worker.run(&status);
        let last = status.snapshot();
        assert_eq!((last.flows, last.received[0].frames, last.sent[0].frames), (0, 1, 100));
        assert_eq!(last.counters.frames_in, 1);
    }

    #[test]
    fn a_stop_goes_on_answering_those_who_have_not_heard_and_ends_in_time_if_they_never_speak() {
        for (speak, heard) in [(3, 3), (1, 1)] {
            let memory = Memory::new(200);
            let (a, wire) = memory.port(200);
            let mut worker = run_loop(Bridge { flows: 3, lingers: 3, ..Bridge::default() }, vec![a]);
            let status = Status::default();
            status.stop.store(true, Ordering::Relaxed);
            // They come in after the resets: one turn takes them all, and `Bridge` has none of its flows left then.
            (0..speak).for_each(|_| assert!(wire.inject(&[3])));
            let begun = Instant::now();
            worker.run(&status);
            let sent: Vec<_> = core::iter::from_fn(|| wire.take()).collect();
            assert_eq!(sent.iter().filter(|f| **f == b"reset again").count(), heard);
            assert_eq!(sent.iter().filter(|f| **f == b"reset").count(), 3);
            // No measure of speed: that it waited at all, where somebody is still to speak.
            assert!(speak == 3 || begun.elapsed() >= SHUTDOWN);
            assert_eq!(status.snapshot().flows, 3 - speak);
        }
    }

    fn change(previous: Option<&Change>) -> Change {
        let previous = previous.map(|change| &**change.revision.directory());
        let directory = Directory::next(previous, &Wanted::default(), |_| true);
        let revision = Revision::new(&Config::default(), Arc::new(directory.unwrap()));
        Change { revision: Arc::new(revision.unwrap()), steering: None }
    }

    #[test]
    fn a_change_is_taken_over_once_before_the_frames_of_the_turn_and_acknowledged_and_measured() {
        let memory = Memory::new(8);
        let (a, wire) = memory.port(8);
        let (mut publisher, mut subscribers) = changes::between(1).unwrap();
        let mut worker = run_loop(Bridge::default(), vec![a]).following(subscribers.remove(0));
        worker.turn(Time::ZERO);
        let first = change(None);
        let second = change(Some(&first));
        publisher.publish(first.clone());
        assert_eq!(publisher.applied(0), 0);
        assert_eq!(publisher.wait(Duration::ZERO).unwrap_err().workers, [0]);
        assert!(wire.inject(&[4]));
        worker.turn(Time::ZERO);
        assert_eq!(wire.take().unwrap(), [0xaa, 1]);
        assert_eq!((publisher.applied(0), publisher.wait(Duration::ZERO)), (1, Ok(())));
        publisher.publish(second);
        assert!(wire.inject(&[4]));
        worker.turn(Time::ZERO);
        assert_eq!((wire.take().unwrap(), publisher.applied(0)), (vec![0xaa, 2], 2));
        let status = Status::default();
        worker.tell(Time::ZERO, &status, true);
        assert_eq!(status.snapshot().pauses.changes(), 2);
        drop(worker);
    }

    /// Who hands a frame over because of a change hands it to one that has it, too, before it looks at the frame.
    #[test]
    fn what_is_handed_over_because_of_a_change_meets_an_owner_that_has_it() {
        let steering = Steering::new(&Config::default(), &[1; 32], 2);
        let mut exchanges = Exchange::between(&steering, 1500, false).unwrap().into_iter();
        let (mut publisher, subscribers) = changes::between(2).unwrap();
        let memory = Memory::new(16);
        let (mut workers, wires): (Vec<_>, Vec<_>) = subscribers
            .into_iter()
            .map(|changes| {
                let (port, wire) = memory.port(8);
                let run = run_loop(Bridge::default(), vec![port]).following(changes);
                (run.among(exchanges.next().unwrap()), wire)
            })
            .unzip();
        // The owner has begun its turn, and looked for a change in vain, when the other publishes, applies and hands over.
        workers[1].look_for_change(Time::ZERO);
        publisher.publish(change(None));
        workers[0].turn(Time::ZERO);
        assert_eq!((publisher.applied(0), publisher.applied(1)), (1, 0));
        workers[0].exchange.as_mut().unwrap().hand_to(1, 0, &[4]);
        assert_eq!(workers[1].take_handed_over(Time::ZERO), 1);
        workers[1].flush();
        assert_eq!(wires[1].take().unwrap(), [0xaa, 1]);
    }

    #[test]
    fn it_ends_by_itself_when_no_port_will_have_frames_again() {
        let memory = Memory::new(200);
        let (a, wire) = memory.port(200);
        let mut worker = run_loop(Bridge::default(), vec![a]);
        (0..150).for_each(|_| assert!(wire.inject(&[3])));
        wire.close();
        let status = Status::default();
        worker.run(&status);
        assert_eq!(status.snapshot().received[0].frames, 150);
    }
}
