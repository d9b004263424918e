//! What a running dispatcher answers at its control socket.
//!
//! * `backends`: what is told of them.
//! * `tunnels`: the same of tunnels whose packets are sealed.
//! * `news`: what has happened since it was looked at last.

mod backends;
mod news;
mod resumption;
mod tunnels;

use super::api::{
    self, Applied, Backend, Configuration, Connections, Diff, Drop, Explanations, Forgotten, Offered, Overview, Pauses,
    Problem, Reached, Reopened, Service, Sessions, Worker,
};
use super::capture::{self, Taps};
use super::connections::{Asked, Walking};
use super::explain;
use super::queue::{Control, Upload};
use super::router::Peer;
use crate::checks::{Report, Says};
use crate::control::agents;
use crate::control::events::Events;
use crate::control::events::watch::Watch;
use crate::control::live::{DataPlane, Done, Live};
use crate::control::overrides::{Order, Overrides};
use crate::control::own;
use crate::control::port::PortArg;
use crate::engine::{DropReason, QueueState, session_time};
use crate::io::{Loss, Traffic};
use crate::journal::JournalWriter;
use crate::metrics::{Figures, Port};
use crate::sessions;
use crate::wire::Family;
use crate::worker::poll::Clock;
use crate::worker::prober::Prober;
use crate::worker::{self, Conductor, InForce, Snapshot};
use backends::health;
use lb::Directory;
use lb::affinity::Reader;
use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long workers may take to tell what their affinity tables have counted.
const PATIENCE: Duration = Duration::from_millis(500);

/// What everything that is told is read from. Nothing here is written by workers for this: they tell it anyway.
pub struct Running<'a> {
    /// What is wanted: the configuration and what operators said.
    pub live: Live,
    /// Services, pools and backends as they are in force, and how they change.
    pub conductor: Conductor,
    /// The affinity tables of all workers.
    pub rows: Reader,
    /// Ports, which are fixed at start.
    pub ports: &'a [PortArg],
    /// The clock of the workers.
    pub clock: Clock,
    /// All workers.
    pub workers: &'a [worker::Worker],
    /// Whoever makes the checks.
    pub prober: Option<&'a Prober>,
    /// The connections log.
    pub journal: Option<&'a JournalWriter>,
    /// What has happened.
    pub events: Events,
    /// By what it is found out.
    pub watch: Watch,
    /// Another process that wants to take over: who it is, and the connection to it.
    pub heir: Option<(Peer, UnixStream)>,
}

impl Running<'_> {
    fn directory(&self) -> &Arc<Directory> {
        self.conductor.directory()
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        self.workers.iter().map(|w| w.status.snapshot()).collect()
    }

    /// Has `change` done with what is wanted.
    fn change<T>(&mut self, change: impl FnOnce(&mut Live, &mut dyn DataPlane, u64) -> T) -> T {
        // What agents say holds beside what is being changed; and what an operator has just said goes before it.
        let (agents, overrides) = (self.agents(), self.live.overrides().clone());
        let Running { live, conductor, ports, .. } = self;
        let done = change(live, &mut Workers { conductor, ports, agents, overrides }, wall_clock());
        self.follow_agents();
        done
    }

    /// What agents say, by backend's name.
    fn agents(&self) -> HashMap<String, Says> {
        let directory = self.directory();
        let of = |report: Report| {
            let backend = directory.backend(report.backend).filter(|b| b.generation == report.generation)?;
            Some((backend.name.clone(), report.agent?.says))
        };
        self.prober.map(Prober::reports).unwrap_or_default().into_iter().filter_map(of).collect()
    }

    /// Brings into force what agents say now. What cannot be is tried again the next time.
    fn follow_agents(&mut self) -> Option<String> {
        let agents = self.agents();
        let wanted = agents::lay(self.live.in_force(), &agents, self.live.overrides());
        if wanted == *self.conductor.wanted() {
            return None;
        }
        self.conductor.apply(&wanted, &[]).err().map(|why| format!("what agents say is not in force: {why}"))
    }

    /// Ends overrides whose time is over, and does what else became possible since the last change. What an operator should know is returned. To
    /// be called now and then.
    pub fn tick(&mut self) -> Vec<String> {
        let mut told = self.change(|live, plane, now| live.expire(plane, now));
        told.extend(self.follow_agents());
        told.extend(self.conductor.settle());
        told.extend(self.prober.into_iter().flat_map(Prober::lines));
        if self.watch.is_due(self.uptime()) {
            self.look();
        }
        told
    }

    /// Seconds since the start.
    fn uptime(&self) -> f64 {
        self.clock.now().as_nanos() as f64 / 1e9
    }
}

/// The name of frames that found no room in another worker's inbox.
const HANDOVER_FULL: &str = "handover-full";

/// Frames that came to nothing, of all workers together.
fn drops(sum: &Snapshot) -> Vec<Drop> {
    let engine = DropReason::ALL.iter().map(|why| {
        let (frames, answered) = (sum.counters.dropped(*why), sum.counters.refused[*why as usize]);
        Drop { reason: why.as_str().to_string(), frames, answered }
    });
    let ports = sum.received.iter().chain(&sum.sent).fold(Traffic::default(), |all, port| all.plus(port));
    let drivers = Loss::ALL.iter().map(|why| (why.as_str(), ports.lost_to(*why)));
    let outside = drivers.chain([(HANDOVER_FULL, sum.handover.full)]);
    let outside = outside.map(|(why, frames)| Drop { reason: why.to_string(), frames, answered: 0 });
    engine.chain(outside).collect()
}

fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Seconds since 1970, with their parts.
pub fn wall_clock_exactly() -> f64 {
    // Before 1970 nothing happens, and there are no overrides.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Seconds since 1970.
pub fn wall_clock() -> u64 {
    wall_clock_exactly() as u64
}

/// Workers and drivers, and the kernel beside them.
struct Workers<'a> {
    conductor: &'a mut Conductor,
    ports: &'a [PortArg],
    agents: HashMap<String, Says>,
    overrides: Overrides,
}

impl Workers<'_> {
    /// The kernel has none of the VIPs that are new.
    fn kernel_has_none(&self, wanted: &lb::Wanted) -> Result<(), String> {
        let directory = self.conductor.directory();
        let new = wanted.listeners().into_iter().filter(|vip| directory.service_at(*vip).is_none());
        let new: Vec<_> = new.collect();
        if new.is_empty() { Ok(()) } else { own::free(&own::shared(self.ports, &new)) }
    }
}

impl DataPlane for Workers<'_> {
    fn apply(&mut self, wanted: &lb::Wanted, reset: &[String]) -> Result<Done, String> {
        self.kernel_has_none(wanted)?;
        let wanted = agents::lay(wanted, &self.agents, &self.overrides);
        self.conductor.apply(&wanted, reset).map(done).map_err(|why| why.to_string())
    }

    fn try_out(&self, wanted: &lb::Wanted) -> Result<(), String> {
        self.kernel_has_none(wanted)?;
        self.conductor.dry_run(wanted).map(drop).map_err(|why| why.to_string())
    }

    fn with_agents(&self, wanted: &lb::Wanted, overrides: &Overrides) -> lb::Wanted {
        agents::lay(wanted, &self.agents, overrides)
    }

    fn is_leaving(&self, backend: &str) -> bool {
        self.conductor.directory().backends().any(|b| b.leaving && b.name == backend)
    }

    fn forget(&mut self, backend: &str) -> Result<Done, String> {
        self.conductor.forget(backend).map(done).map_err(|why| why.to_string())
    }
}

fn done(in_force: InForce) -> Done {
    Done { took: in_force.took, late: in_force.late.map(|late| late.to_string()) }
}

impl Control for Running<'_> {
    fn overview(&mut self) -> Overview {
        let workers = self.snapshots();
        let sum = Snapshot::fold(&workers);
        let backends: Vec<_> = self.directory().backends().map(|b| health(b.id, &workers)).collect();
        Overview {
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            uptime: self.uptime(),
            workers: self.workers.iter().filter(|w| !w.is_finished()).count(),
            services: self.directory().services().len(),
            backends: backends.len(),
            backends_down: backends.iter().filter(|health| **health == "down").count(),
            flows: sum.flows,
            connections: sum.totals.connections,
            offered: sum.totals.offered,
            resumed: sum.totals.resumed,
            no_backend: sum.totals.no_backend,
            dropped: drops(&sum).iter().map(|d| d.frames).sum(),
        }
    }

    fn services(&mut self) -> Vec<Service> {
        let (workers, directory) = (self.snapshots(), self.directory());
        let (live, now) = (&self.live, wall_clock());
        let one = |service: &lb::Service| {
            let mine = || service.backends().iter().filter_map(|id| directory.backend(id));
            let names: Vec<String> = mine().map(|b| b.name.clone()).collect();
            let overrides = live.overrides().iter().filter(|o| names.iter().any(|name| o.what.backend() == name));
            let pools = service.pools().iter().filter_map(|id| directory.pool_name(*id)).map(str::to_string);
            Service {
                name: service.name().to_string(),
                listen: service.listen().to_vec(),
                pools: pools.collect(),
                balance: directory.pool(service.pool()).map(|p| p.balance().to_string()).unwrap_or_default(),
                affinity: service.policy().affinity,
                cookie: service.cookie().map(|name| name.to_string()),
                proxy_protocol: service.policy().proxy_protocol,
                accept_proxy: service.policy().accept_proxy.from.iter().map(|prefix| prefix.to_string()).collect(),
                overrides: live.told(overrides, now),
                observed: Reached {
                    up: mine().filter(|b| health(b.id, &workers) == "up").count(),
                    down: mine().filter(|b| health(b.id, &workers) == "down").count(),
                    flows: mine().map(|b| u64::from(directory.live().connections(b.id))).sum(),
                },
                backends: names,
            }
        };
        directory.services().map(one).collect()
    }

    fn backends(&mut self) -> Vec<Backend> {
        self.all_backends()
    }

    fn sessions(&mut self, backends: &[Backend]) -> Sessions {
        self.workers.iter().for_each(worker::Worker::ask_for_session_metrics);
        self.conductor.rouse();
        let until = Instant::now() + PATIENCE;
        // The workers answer meanwhile.
        let now = session_time(self.clock.now());
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
                        context: backends::context(spec),
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
        let mut notes = sessions::Sessions { metrics, census }.notes();
        notes.extend(resumption::without(backends, &offered));
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
        drops(&Snapshot::fold(&self.snapshots()))
    }

    fn tunnels(&mut self) -> Vec<api::Tunnel> {
        self.all_tunnels()
    }

    fn queues(&mut self) -> Vec<api::Queue> {
        let sum = Snapshot::fold(&self.snapshots());
        let directory = self.directory();
        let one = |line: &QueueState| {
            // Of a version that is no more: its line has gone, too.
            let service = directory.service(line.gate.service)?;
            let c = &line.counters;
            Some(api::Queue {
                service: service.name().to_string(),
                pool: directory.pool_name(line.gate.pool)?.to_string(),
                family: family(line.gate.family()).to_string(),
                class: directory.class_name(line.gate.service, line.class)?.to_string(),
                waiting: line.waiting,
                asked: c.asked,
                admitted: c.admitted,
                waited: c.waited,
                spilled: c.spilled,
                demoted: c.demoted,
                abandoned: c.abandoned,
                timed_out: c.timed_out,
                refused: c.refused,
                waits: c.waits.to_vec(),
                waited_ms: c.waited_ms,
            })
        };
        sum.queues.iter().filter_map(one).collect()
    }

    fn look_for(&mut self, asked: &Asked) -> Result<Walking, Problem> {
        let walking = asked.begin(self.directory(), self.workers);
        self.conductor.rouse();
        walking
    }

    fn look_for_trails(&mut self, asked: &explain::Asked) -> Result<Walking, Problem> {
        let walking = asked.begin(self.workers);
        self.conductor.rouse();
        walking
    }

    fn explanations(&mut self, found: &Walking) -> Explanations {
        let backends = self.backends();
        explain::tell(found, self.directory(), self.clock.origin(), &backends)
    }

    fn capture(&mut self, asked: &capture::Asked) -> Result<Taps, Problem> {
        let ports = self.ports.iter().map(|port| port.name.clone()).collect();
        let taps = asked.begin(self.directory(), self.workers, ports, self.clock);
        self.conductor.rouse();
        taps
    }

    fn connections(&mut self, found: &Walking) -> Connections {
        found.tell(self.directory())
    }

    fn figures(&mut self) -> Figures {
        let snapshots = self.snapshots();
        let sum = Snapshot::fold(&snapshots);
        let of_worker = |told: &Snapshot| {
            let ports = self.ports.iter().zip(told.received.iter().zip(&told.sent));
            ports
                .map(|(port, (received, sent))| Port { name: port.name.clone(), received: *received, sent: *sent })
                .collect()
        };
        let traffic = snapshots.iter().map(of_worker).collect();
        let uptime = self.clock.now().as_nanos() as f64 / 1e9;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        Figures {
            generation: self.directory().version(),
            started: now - uptime,
            traffic,
            counters: sum.counters,
            totals: sum.totals,
        }
    }

    fn version(&self) -> String {
        self.live.version()
    }

    fn configuration(&mut self) -> Configuration {
        self.live.described()
    }

    fn apply(&mut self, file: Upload) -> Result<Applied, Problem> {
        let Upload { name, text, dry_run } = file;
        let done = self.change(|live, plane, now| live.apply(&name, &text, dry_run, plane, now));
        self.in_force(&format!("file {name}"), &done);
        done
    }

    fn reload(&mut self, dry_run: bool) -> Result<Applied, Problem> {
        let done = self.change(|live, plane, now| live.reload(dry_run, plane, now));
        self.in_force("file", &done);
        done
    }

    fn diff(&mut self) -> Result<Diff, Problem> {
        self.live.diff(wall_clock())
    }

    fn order(&mut self, order: Order) -> Result<Applied, Problem> {
        let done = self.change(|live, plane, now| live.order(&order, plane, now));
        self.in_force(&order.who, &done);
        done
    }

    fn forget(&mut self, backend: &str) -> Result<Forgotten, Problem> {
        let done = self.change(|live, plane, _| live.forget(backend, plane))?;
        let there = self.directory().backends().find(|b| !b.leaving && b.name == backend).map(|b| b.id);
        if let Some((prober, id)) = self.prober.zip(there) {
            prober.forget_keys(id);
        }
        Ok(Forgotten { backend: backend.to_string(), took: done.took.as_secs_f64() })
    }

    fn take_over(&mut self, who: Peer, heir: UnixStream) {
        // The last one who says so; those before hear that their connection is over.
        self.heir = Some((who, heir));
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
