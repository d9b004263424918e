//! Workers of one process stop at a point, and those of another go on from there; or, if these cannot, the first do.
//!
//! **Who gives.** Each worker looks for a [`Halt`] once a turn. It takes what had arrived by the moment that the halt names ([`Divide`]), then what others handed
//! over to it until none of them takes anything any more, and writes its engine down. Then it waits to be told whether to go on or to end. What arrives meanwhile lies in its ring; if it goes on it
//! has missed nothing. If it ends it is as if it had never been: no connection is reset.
//!
//! **Who takes.** Each worker opens its ports in standby and waits at a gate for [`Order`]s: to have frames arrive, to take over what was written, to run.

use super::FrameHandler;
use super::poll::Loop;
use crate::engine::TakenOver;
use crate::io::{Divide, Urgency};
use crate::pack::Unreadable;
use crate::time::Time;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};

/// Kernels stamp a frame and show it a moment later: so long is waited for those from before the moment that divides.
const SHOWN_AFTER: Duration = Duration::from_micros(50);

/// Two sockets do not stamp one frame at the same instant. What arrived so little before the moment that divides is taken by both: twice does no harm to TCP, not at all does.
const OVERLAP: Duration = Duration::from_micros(100);

/// How often a worker looks whether the others take nothing any more.
const LOOK: Duration = Duration::from_micros(50);

/// How long a worker that begins to run still goes before all others of the machine: frames wait for it.
const CATCH_UP: Duration = Duration::from_millis(5);

/// The wall clock, as drivers divide by it.
pub fn wall_nanos() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// What becomes of workers that stand still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// As if nothing had been.
    GoOn,
    /// Others have taken over.
    End,
}

/// What a worker writes down.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// Its engine.
    pub engine: Vec<u8>,
    /// By port: of its receiving and its transmitting half.
    pub ports: Vec<[Vec<u8>; 2]>,
    /// How long it took to come to rest.
    pub rest: Duration,
}

#[derive(Debug, Default)]
struct Standing {
    /// Workers that take nothing from their ports any more.
    still: usize,
    /// By worker: memory to write into.
    rooms: Vec<Vec<u8>>,
    /// By worker: what it wrote.
    packed: Vec<Option<Written>>,
    verdict: Option<Verdict>,
}

/// A point at which all workers stop.
#[derive(Debug)]
pub struct Halt {
    /// Frames from then on are not taken.
    at: u64,
    /// Rows of sessions that were not used since then need not be written.
    rows_since: Time,
    /// Who is not still by then has been kept by something: it goes no further.
    until: Instant,
    standing: Mutex<Standing>,
    changed: Condvar,
}

impl Halt {
    /// At this moment of the wall clock, for as many workers as there is memory to write into (which grows if it is too small).
    pub fn new(rooms: Vec<Vec<u8>>, at: u64, rows_since: Time, until: Instant) -> Halt {
        let packed = rooms.iter().map(|_| None).collect();
        let standing = Mutex::new(Standing { rooms, packed, ..Standing::default() });
        Halt { at, rows_since, until, standing, changed: Condvar::new() }
    }

    /// The moment.
    pub fn at(&self) -> u64 {
        self.at
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What all of them wrote, in order; `None` when one of them has not by then.
    pub fn packed(&self, until: Instant) -> Option<Vec<Written>> {
        let mut standing = self.standing();
        while standing.packed.iter().any(Option::is_none) {
            let left = until.checked_duration_since(Instant::now())?;
            standing = self.changed.wait_timeout(standing, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        standing.packed.iter_mut().map(Option::take).collect()
    }

    /// They hear what becomes of them.
    pub fn decide(&self, verdict: Verdict) {
        self.standing().verdict = Some(verdict);
        self.changed.notify_all();
    }

    fn is_decided(&self) -> bool {
        self.standing().verdict.is_some()
    }

    /// One more takes nothing from its ports.
    fn still(&self) {
        self.standing().still += 1;
    }

    fn all_are_still(&self) -> bool {
        let standing = self.standing();
        standing.still == standing.packed.len()
    }

    fn room(&self, worker: usize) -> Vec<u8> {
        std::mem::take(&mut self.standing().rooms[worker])
    }

    fn wrote(&self, worker: usize, written: Written) {
        self.standing().packed[worker] = Some(written);
        self.changed.notify_all();
    }

    fn verdict(&self) -> Verdict {
        let mut standing = self.standing();
        loop {
            if let Some(verdict) = standing.verdict {
                return verdict;
            }
            standing = self.changed.wait(standing).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Where a halt is put down for one worker.
#[derive(Debug, Default)]
pub(super) struct Stop {
    there: AtomicBool,
    halt: Mutex<Option<(usize, Arc<Halt>)>>,
}

impl Stop {
    /// For the worker of this number.
    pub fn put(&self, worker: usize, halt: Arc<Halt>) {
        *self.halt.lock().unwrap_or_else(PoisonError::into_inner) = Some((worker, halt));
        // Release: whoever sees it finds the halt.
        self.there.store(true, Ordering::Release);
    }

    #[inline]
    pub fn is_there(&self) -> bool {
        self.there.load(Ordering::Relaxed)
    }

    fn take(&self) -> Option<(usize, Arc<Halt>)> {
        self.there.store(false, Ordering::Relaxed);
        self.halt.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What another process leaves.
#[derive(Debug)]
pub struct Estate {
    /// Frames from then on are ours.
    pub at: u64,
    /// By its workers: their engines.
    pub engines: Vec<Vec<u8>>,
    /// By its workers, and port: halves of ports.
    pub ports: Vec<Vec<[Vec<u8>; 2]>>,
}

/// What a worker at the gate is told. When nobody can tell it anything any more, it ends.
#[derive(Clone, Debug)]
pub enum Order {
    /// Its part of these rows of sessions is its own; and about so many connections will be.
    Sessions(Arc<Vec<u8>>, usize),
    /// Frames arrive from now on.
    Begin,
    /// Its part of this is its own.
    TakeOver(Arc<Estate>),
    /// The gate is open.
    Run,
}

/// What it answers.
#[derive(Debug)]
pub enum Answer {
    /// So many rows of sessions are.
    Sessions(Result<usize, Unreadable>),
    /// They do.
    Begun,
    /// What it has taken.
    TakenOver(Result<TakenOver, Unreadable>),
}

/// A worker's side of the gate.
#[derive(Debug)]
pub struct Gate {
    /// Whose it is, of so many.
    worker: usize,
    workers: usize,
    orders: mpsc::Receiver<Order>,
    answers: mpsc::Sender<Answer>,
}

/// The other side of all of them.
#[derive(Debug)]
pub struct Gates {
    orders: Vec<mpsc::Sender<Order>>,
    answers: Vec<mpsc::Receiver<Answer>>,
}

/// For so many workers.
pub fn gates(workers: usize) -> (Gates, Vec<Gate>) {
    let mut gates = Gates { orders: Vec::new(), answers: Vec::new() };
    let gate = |worker| {
        let ((order, orders), (answer, answers)) = (mpsc::channel(), mpsc::channel());
        gates.orders.push(order);
        gates.answers.push(answers);
        Gate { worker, workers, orders, answers: answer }
    };
    let all = (0..workers).map(gate).collect();
    (gates, all)
}

impl Gates {
    /// Workers.
    pub fn len(&self) -> usize {
        self.orders.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    /// Tells all of them, and waits for their answers, in order. `None` when one does not answer in time, or has died.
    pub fn ask(&self, order: &Order, until: Instant) -> Option<Vec<Answer>> {
        self.tell(order)?;
        let left = || until.saturating_duration_since(Instant::now());
        self.answers.iter().map(|answers| answers.recv_timeout(left()).ok()).collect()
    }

    /// Tells all of them. `None` when one has died.
    pub fn tell(&self, order: &Order) -> Option<()> {
        self.orders.iter().try_for_each(|orders| orders.send(order.clone())).ok()
    }
}

impl<H: FrameHandler> Loop<H> {
    /// Stops, if somebody has said so, until it is decided what becomes of it.
    #[cold]
    pub(super) fn halt(&mut self, stop: &Stop) -> Verdict {
        let Some((worker, halt)) = stop.take() else { return Verdict::GoOn };
        // It has begun already, by who put the halt down; here it ends.
        let _urgency = Urgency::begin();
        if halt.is_decided() {
            return halt.verdict();
        }
        self.divide(Divide::Before(halt.at));
        let verdict = match self.come_to_rest(&halt) {
            true => {
                let rest = Duration::from_nanos(wall_nanos().saturating_sub(halt.at));
                let packed = self.pack(halt.rows_since, halt.room(worker));
                halt.wrote(worker, Written { rest, ..packed });
                halt.verdict()
            }
            // Whoever waits for it gives up at that time, too.
            false => halt.verdict(),
        };
        if verdict == Verdict::GoOn {
            self.divide(Divide::No);
        }
        verdict
    }

    /// Takes all that came before; false when that takes too long.
    fn come_to_rest(&mut self, halt: &Halt) -> bool {
        let shown = halt.at + SHOWN_AFTER.as_nanos() as u64;
        let late = || Instant::now() >= halt.until;
        loop {
            let past = wall_nanos() >= shown;
            if self.turn_now() == 0 && past {
                break;
            }
            if late() {
                return false;
            }
        }
        halt.still();
        loop {
            // Asked first: what was handed over before is then taken.
            let last = halt.all_are_still();
            if self.turn_now() == 0 && last {
                return true;
            }
            if late() {
                return false;
            }
            if !last {
                // Slept, not yielded: those that are waited for may have to go behind this thread.
                std::thread::sleep(LOOK);
            }
        }
    }

    /// Works on what has come while nobody served: for a moment only, since nothing else of this thread's is looked at meanwhile.
    fn catch_up(&mut self) {
        let until = Instant::now() + CATCH_UP;
        while self.turn_now() > 0 && Instant::now() < until {}
    }

    /// Waits at the gate. False when it is not to run.
    pub(super) fn wait_at(&mut self, gate: &Gate) -> bool {
        let mut urgency = None;
        while let Ok(order) = gate.orders.recv() {
            let answer = match order {
                Order::Sessions(bytes, connections) => {
                    self.expect(connections);
                    Answer::Sessions(self.take_sessions(&bytes))
                }
                Order::Begin => {
                    urgency = Some(Urgency::begin());
                    self.begin();
                    Answer::Begun
                }
                Order::TakeOver(estate) => {
                    self.divide(Divide::From(estate.at.saturating_sub(OVERLAP.as_nanos() as u64)));
                    Answer::TakenOver(self.inherit(&estate.engines, &estate.ports, (gate.worker, gate.workers)))
                }
                Order::Run => {
                    self.take_charge();
                    self.catch_up();
                    drop(urgency);
                    return true;
                }
            };
            if gate.answers.send(answer).is_err() {
                return false;
            }
        }
        false
    }
}
