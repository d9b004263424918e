//! The way of a request to the thread that owns the dispatcher's state, and of its answer back.
//!
//! The owner lends itself to one request after the other ([`Queue::serve`]), so requests need no lock and see no half of a change. A
//! request that panics is answered by an error and harms nothing else; one whose asker has given up is not begun.

use super::api::{
    self, Applied, Backend, Configuration, Connections, Diff, Drop, Event, Explanations, Forgotten, Overview, Problem,
    Reopened, Service, Sessions, Status, Worker,
};
use super::capture::{self, Taps};
use super::connections::{Asked, Walking};
use super::explain::Asked as Explain;
use super::router::Peer;
use crate::control::events::Events;
use crate::control::overrides::Order;
use crate::metrics::{Figures, Reading};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// A configuration that somebody sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upload {
    /// What its faults are to call it.
    pub name: String,
    /// TOML.
    pub text: Vec<u8>,
    /// Say what would be, and do nothing.
    pub dry_run: bool,
}

/// What can be asked of a running dispatcher.
pub trait Control {
    /// At a glance.
    fn overview(&mut self) -> Overview;
    /// All services.
    fn services(&mut self) -> Vec<Service>;
    /// All backends.
    fn backends(&mut self) -> Vec<Backend>;
    /// The affinity tables.
    fn sessions(&mut self, backends: &[Backend]) -> Sessions;
    /// All workers.
    fn workers(&mut self) -> Vec<Worker>;
    /// Every way in which frames came to nothing, those that have not happened included.
    fn drops(&mut self) -> Vec<Drop>;
    /// Every line for room at backends.
    fn queues(&mut self) -> Vec<api::Queue>;
    /// Every tunnel whose packets are sealed, by where it ends and worker.
    fn tunnels(&mut self) -> Vec<api::Tunnel>;
    /// Has workers look for connections.
    fn look_for(&mut self, asked: &Asked) -> Result<Walking, Problem>;
    /// Has workers look for trails of connections.
    fn look_for_trails(&mut self, asked: &Explain) -> Result<Walking, Problem>;
    /// What they have found.
    fn explanations(&mut self, found: &Walking) -> Explanations;
    /// Has workers show frames.
    fn capture(&mut self, asked: &capture::Asked) -> Result<Taps, Problem>;
    /// What they have found.
    fn connections(&mut self, found: &Walking) -> Connections;
    /// Figures that only metrics have.
    fn figures(&mut self) -> Figures;
    /// All that can be measured.
    fn reading(&mut self) -> Reading {
        let backends = self.backends();
        Reading {
            sessions: self.sessions(&backends),
            backends,
            workers: self.workers(),
            drops: self.drops(),
            queues: self.queues(),
            tunnels: self.tunnels(),
            figures: self.figures(),
        }
    }
    /// All that is shown of one moment, with the latest events.
    fn status(&mut self, events: Vec<Event>) -> Status {
        let backends = self.backends();
        Status {
            overview: self.overview(),
            services: self.services(),
            sessions: self.sessions(&backends),
            backends,
            queues: self.queues(),
            drops: self.drops(),
            workers: self.workers(),
            events,
        }
    }
    /// Of what is wanted: changes with everything that is changed.
    fn version(&self) -> String;
    /// The file in force.
    fn configuration(&mut self) -> Configuration;
    /// Takes a file over, or says what would change; nothing changes when anything is wrong with it.
    fn apply(&mut self, file: Upload) -> Result<Applied, Problem>;
    /// Takes over the file it was started with, as it is now.
    fn reload(&mut self, dry_run: bool) -> Result<Applied, Problem>;
    /// What a reload would change, and what is overridden.
    fn diff(&mut self) -> Result<Diff, Problem>;
    /// What an operator wants other than the file has it.
    fn order(&mut self, order: Order) -> Result<Applied, Problem>;
    /// Forgets the sessions of a backend.
    fn forget(&mut self, backend: &str) -> Result<Forgotten, Problem>;
    /// Opens the connections log anew, under its name.
    fn reopen_log(&mut self) -> Result<Reopened, Problem>;
    /// Another process wants to take over, and says so by this connection from now on.
    fn take_over(&mut self, who: Peer, heir: UnixStream);
}

/// Requests that wait for the owner. Full: further ones are refused (503). There are no more connections than this.
pub const WAITING: usize = super::serve::CONNECTIONS;

/// How long an answer is waited for. The owner may have a change to apply meanwhile, and workers to wait for.
pub const PATIENCE: Duration = Duration::from_secs(20);

type Job = Box<dyn FnOnce(&mut dyn Control) + Send>;

/// The asking end.
#[derive(Clone)]
pub struct Handle {
    jobs: SyncSender<Job>,
    events: Events,
    /// There is one capture at a time.
    captures: Arc<Semaphore>,
}

/// The owner's end.
pub struct Queue {
    jobs: Receiver<Job>,
    events: Events,
}

/// Both ends.
pub fn queue() -> (Handle, Queue) {
    let (send, receive) = mpsc::sync_channel(WAITING);
    let events = Events::default();
    let captures = Arc::new(Semaphore::new(1));
    (Handle { jobs: send, events: events.clone(), captures }, Queue { jobs: receive, events })
}

impl Handle {
    /// What has happened. Read without the owner: who waits for the next one keeps nobody else.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The right to have frames shown, if nobody has it. Others have it when this is dropped.
    pub fn capture(&self) -> Option<OwnedSemaphorePermit> {
        self.captures.clone().try_acquire_owned().ok()
    }

    /// What `job` says of the dispatcher's state, or has done to it.
    pub async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut dyn Control) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let (tell, told) = oneshot::channel();
        let job: Job = Box::new(move |control| {
            if !tell.is_closed() {
                // Who no longer waits for the answer does not get it.
                let _ = tell.send(job(control));
            }
        });
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return Err(Problem::new(503, "too many requests are waiting; try again"));
            }
            Err(TrySendError::Disconnected(_)) => return Err(Problem::new(503, "the dispatcher is stopping")),
        }
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(answer)) => Ok(answer),
            // Its sender is gone: with the queue at the end, or by a panic, which has been told on standard error.
            Ok(Err(_)) => {
                Err(Problem::new(500, "the request was not carried out: the dispatcher is stopping, or failed at it"))
            }
            Err(_) => Err(Problem::new(
                504,
                format!("no answer within {} s; if it was begun, it goes on", PATIENCE.as_secs()),
            )),
        }
    }
}

impl Queue {
    /// What has happened.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Does what is asked, for so long.
    pub fn serve(&self, control: &mut dyn Control, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.jobs.recv_timeout(left) {
                // What it may have left behind is what it was before: changes are made whole, at their end.
                Ok(job) => _ = catch_unwind(AssertUnwindSafe(|| job(control))),
                Err(RecvTimeoutError::Timeout) => return,
                // Nobody can ask; the time is to pass all the same.
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(end.saturating_duration_since(Instant::now()));
                    return;
                }
            }
            if left.is_zero() {
                return;
            }
        }
    }
}
