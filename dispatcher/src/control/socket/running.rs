//! What a running dispatcher answers at its control socket.

use super::api::{
    Backend, Drop, Observed, Offered, Overview, Pauses, Problem, Reopened, Service, Sessions, Wanted, Worker,
};
use super::queue::Control;
use crate::engine::DropReason;
use crate::io::{Loss, Traffic};
use crate::journal::JournalWriter;
use crate::sessions;
use crate::worker::poll::Clock;
use crate::worker::{self, Conductor, Snapshot};
use lb::affinity::Reader;
use lb::{Directory, Millis};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long workers may take to tell what their affinity tables have counted.
const PATIENCE: Duration = Duration::from_millis(500);

/// What everything that is told is read from. Nothing here is written by workers for this: they tell it anyway.
pub struct Running<'a> {
    /// Services, pools and backends, and how they change.
    pub conductor: Conductor,
    /// The affinity tables of all workers.
    pub rows: Reader,
    /// The clock of the workers.
    pub clock: Clock,
    /// All workers.
    pub workers: &'a [worker::Worker],
    /// The connections log.
    pub journal: Option<&'a JournalWriter>,
}

impl Running<'_> {
    fn directory(&self) -> &Arc<Directory> {
        self.conductor.directory()
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        self.workers.iter().map(|w| w.shared.snapshot()).collect()
    }

    /// In the first pool that it is in.
    fn weight(&self, backend: &lb::Backend) -> u16 {
        self.directory().pools().find(|p| p.backends().contains(backend.id)).map_or(0, |p| p.weight(backend.id))
    }

    fn backend(&self, spec: &lb::Backend, workers: &[Snapshot], sum: &Snapshot) -> Backend {
        let id = spec.id;
        let up: Vec<bool> = workers.iter().map(|w| w.backends_up.contains(id)).collect();
        let health = match (up.contains(&true), up.contains(&false)) {
            (true, false) => "up",
            (true, true) => "differs",
            (false, _) => "down",
        };
        let ended = sum.totals.backend(&spec.name).cloned().unwrap_or_default();
        Backend {
            name: spec.name.clone(),
            address: spec.addr,
            wanted: Wanted { state: spec.state.to_string(), weight: self.weight(spec) },
            observed: Observed {
                health: health.to_string(),
                up,
                flows: self.directory().live().connections(id),
                connections: ended.connections,
                resumed: ended.resumed,
                new_sessions: ended.new_sessions,
                bytes_to_server: ended.bytes_to_server,
                bytes_to_client: ended.bytes_to_client,
            },
        }
    }
}

impl Control for Running<'_> {
    fn overview(&mut self) -> Overview {
        let backends = self.backends();
        let sum = Snapshot::fold(&self.snapshots());
        Overview {
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            uptime: self.clock.now().as_nanos() as f64 / 1e9,
            workers: self.workers.iter().filter(|w| !w.is_finished()).count(),
            services: self.services().len(),
            backends: backends.len(),
            backends_down: backends.iter().filter(|b| b.observed.health == "down").count(),
            flows: sum.flows,
            connections: sum.totals.connections,
            offered: sum.totals.offered,
            resumed: sum.totals.resumed,
            no_backend: sum.totals.no_backend,
            dropped: self.drops().iter().map(|d| d.frames).sum(),
        }
    }

    fn services(&mut self) -> Vec<Service> {
        let directory = self.directory();
        let name = |id| directory.backend(id).map(|b| b.name.clone());
        let one = |service: &lb::Service| Service {
            name: service.name().to_string(),
            listen: service.listen().to_vec(),
            balance: directory.pool(service.pool()).map(|p| p.balance().to_string()).unwrap_or_default(),
            affinity: service.policy().affinity,
            proxy_protocol: service.policy().proxy_protocol,
            backends: service.backends().iter().filter_map(name).collect(),
        };
        directory.services().map(one).collect()
    }

    fn backends(&mut self) -> Vec<Backend> {
        let workers = self.snapshots();
        let sum = Snapshot::fold(&workers);
        self.directory().backends().map(|spec| self.backend(spec, &workers, &sum)).collect()
    }

    fn sessions(&mut self) -> Sessions {
        let until = Instant::now() + PATIENCE;
        let now = Millis(self.clock.now().as_nanos() / 1_000_000);
        let census = self.rows.census(now);
        let mut all = self.workers.iter().filter_map(|w| w.session_metrics(until));
        let metrics = all.next().map(|first| {
            all.fold(first, |mut sum, one| {
                sum.merge(&one);
                sum
            })
        });
        let rows = census.into();
        let Some(metrics) = metrics else {
            let notes = vec!["no worker has told in time what was offered".to_string()];
            return Sessions { offered: Vec::new(), rows, notes };
        };
        let mut offered = Vec::new();
        for kind in sessions::KINDS {
            for spec in self.directory().backends() {
                let c = metrics.of(spec.id, kind);
                if c != Default::default() {
                    offered.push(Offered {
                        kind: kind.as_str().to_string(),
                        backend: spec.name.clone(),
                        offered: c.offered,
                        promised: c.promised,
                        accepted: c.accepted,
                        refused: c.refused,
                        broken: c.broken,
                        unknown: c.unknown,
                    });
                }
            }
        }
        let notes = sessions::Sessions { metrics, census }.notes();
        Sessions { offered, rows, notes }
    }

    fn workers(&mut self) -> Vec<Worker> {
        let frames = |ports: &[Traffic]| ports.iter().map(|p| p.frames).sum();
        let one = |(number, (told, worker)): (usize, (Snapshot, &worker::Worker))| Worker {
            worker: number,
            running: !worker.is_finished(),
            flows: told.flows,
            connections: told.totals.connections,
            frames_in: frames(&told.received),
            frames_out: frames(&told.sent),
            handed_over: told.handover.sent,
            received: told.handover.received,
            busy_turns: told.busy_turns,
            idle_turns: told.idle_turns,
            pauses: Pauses {
                changes: told.pauses.changes(),
                change_median: told.pauses.change_quantile(0.5).as_secs_f64(),
                change_p99: told.pauses.change_quantile(0.99).as_secs_f64(),
                change_longest: told.pauses.longest_change().as_secs_f64(),
                turn_longest: told.pauses.longest_turn().as_secs_f64(),
            },
        };
        self.snapshots().into_iter().zip(self.workers).enumerate().map(one).collect()
    }

    fn drops(&mut self) -> Vec<Drop> {
        let sum = Snapshot::fold(&self.snapshots());
        let engine = DropReason::ALL.iter().map(|why| {
            let (frames, answered) = (sum.counters.dropped(*why), sum.counters.refused[*why as usize]);
            Drop { reason: why.as_str().to_string(), frames, answered }
        });
        let ports = sum.received.iter().chain(&sum.sent).fold(Traffic::default(), |all, port| all.plus(port));
        let drivers = Loss::ALL.iter().map(|why| (why.as_str(), ports.lost_to(*why)));
        let outside = drivers.chain([("handover-full", sum.handover.full)]);
        let outside = outside.map(|(why, frames)| Drop { reason: why.to_string(), frames, answered: 0 });
        engine.chain(outside).collect()
    }

    fn reopen_log(&mut self) -> Result<Reopened, Problem> {
        let Some(journal) = self.journal else {
            return Err(Problem::new(409, "there is no connections log to reopen (--connections-log)"));
        };
        let file = journal.path().display().to_string();
        match journal.reopen() {
            Ok(()) => Ok(Reopened { file }),
            Err(e) => {
                Err(Problem::new(500, format!("connections log {file}: {e}; the one opened before stays in use")))
            }
        }
    }
}
