//! What is told of backends: what is wanted of each, what operators and agents say, and what workers and checks have seen.

use super::{Running, wall_clock};
use crate::backends::{Checked as State, Passive};
use crate::checks::{KeyReport, Report, Verdict};
use crate::control::holds::{self, By, Said};
use crate::control::member::Question;
use crate::control::socket::api::{self, AgentSays, Backend, Checked, Observed, Suspicion, TicketKeys, Wanted, Weight};
use crate::time::Time;
use crate::worker::Snapshot;
use crate::worker::prober::Prober;
use lb::CheckKind;
use std::collections::HashMap;
use std::net::SocketAddr;

/// What is said of each backend, by name and address: its state, its limits, and its weight by pool.
type ByName<'a> = HashMap<(&'a str, SocketAddr), (lb::State, Wanted)>;

fn by_name(all: &lb::Wanted) -> ByName<'_> {
    let (mut said, asked) = (ByName::new(), all.asked());
    for pool in &all.pools {
        for b in &pool.backends {
            let wanted = || Wanted {
                state: b.state.to_string(),
                weights: vec![],
                max_connections: b.limits.max_connections,
                max_handshakes: b.limits.max_handshakes.map(|most| most.to_string()),
                slow_start: b.limits.slow_start.map(|time| time.as_secs_f64()),
                check: asked.get(b.name.as_str()).and_then(|(check, _)| check.map(Question::check)),
                agent_check: asked.get(b.name.as_str()).and_then(|(_, agent)| agent.map(Question::agent)),
            };
            let (_, one) = said.entry((&b.name, b.addr)).or_insert_with(|| (b.state, wanted()));
            one.weights.push(Weight { pool: pool.name.clone(), weight: b.weight });
        }
    }
    said
}

/// What is looked at for all backends together.
struct Seen<'a> {
    workers: Vec<Snapshot>,
    sum: Snapshot,
    reports: Vec<Report>,
    /// By the configuration.
    wanted: ByName<'a>,
    /// With what operators and agents say.
    in_force: ByName<'a>,
}

/// Whether workers hold a backend to be up.
pub(super) fn health(id: lb::BackendId, workers: &[Snapshot]) -> &'static str {
    let up = |up: bool| workers.iter().any(|w| w.backends_up.contains(id) == up);
    match (up(true), up(false)) {
        (true, false) => "up",
        (true, true) => "differs",
        (false, _) => "down",
    }
}

impl Running<'_> {
    /// All of them, also those that are leaving.
    pub(super) fn all_backends(&self) -> Vec<Backend> {
        let workers = self.snapshots();
        let seen = Seen {
            sum: Snapshot::fold(&workers),
            workers,
            reports: self.prober.map(Prober::reports).unwrap_or_default(),
            wanted: by_name(&self.live.configuration().wanted),
            in_force: by_name(self.conductor.wanted()),
        };
        self.directory().backends().map(|spec| self.backend(spec, &seen)).collect()
    }

    fn backend(&self, spec: &lb::Backend, seen: &Seen<'_>) -> Backend {
        let Seen { workers, sum, reports, .. } = seen;
        let (id, key) = (spec.id, (spec.name.as_str(), spec.addr));
        let health = health(id, workers);
        let now_here = self.clock.now();
        let seconds = |since: Time| now_here.since(since).as_secs_f64();
        // They are in order of their slots.
        let report = reports.binary_search_by_key(&id, |r| r.backend).ok().map(|at| &reports[at]);
        let report = report.filter(|r| r.generation == spec.generation);
        let unreachable = || workers.iter().find_map(|w| w.unreachable.iter().find(|u| u.backend == id));
        let suspicion = report.and_then(|r| r.suspicion.as_ref());
        let away = suspicion.filter(|one| one.down && !one.spared);
        let in_seconds = |until: Time| until.since(now_here).as_secs_f64();
        let (by, why, since) = match (report.filter(|r| r.verdict.state == State::Down), unreachable()) {
            _ if health == "up" => (None, None, None),
            (Some(report), _) => {
                let (kind, why) = (report.kind.map_or("", CheckKind::as_str), report.verdict.why.as_deref());
                let why = format!("check {kind}: {}", why.unwrap_or("failed"));
                (Some(By::Check), Some(why), Some(seconds(report.verdict.since)))
            }
            (None, None) if let Some(one) = away => {
                let why = one.why.as_deref().unwrap_or_default();
                let times = if one.times > 1 { format!(", {} times in a row", one.times) } else { String::new() };
                let why = format!("clients had no answer to their hellos, nor had we: {why}{times}");
                (Some(By::Passive), Some(why), Some(seconds(one.since)))
            }
            (None, Some(u)) => {
                let why = match u.how {
                    Passive::Refuses => "it refuses connections",
                    Passive::Cut => "its tunnel is lost",
                    _ => "it does not answer",
                };
                (Some(By::Passive), Some(why.to_string()), Some(seconds(u.since)))
            }
            (None, None) if spec.leaving => (None, None, None),
            (None, None) => (Some(By::Passive), Some("it has not answered yet".to_string()), None),
        };
        let check = report.and_then(|r| Some(checked(r.kind?, &r.verdict, seconds)));
        let ended = sum.totals.backend(&spec.name).cloned().unwrap_or_default();
        let (live, now) = (&self.live, wall_clock());
        let in_force = if spec.leaving { None } else { seen.in_force.get(&key).cloned() };
        let said = Said {
            file: seen.wanted.get(&key).map(|one| one.0),
            in_force: in_force.as_ref().map(|one| one.0),
            operator: holds::operators(live.overrides().about(&spec.name)),
            agent: report.and_then(|r| r.agent.as_ref()).map(|agent| &agent.says),
            health,
            against: by.zip(why.as_deref()),
            until: away.and_then(|one| one.until).map(in_seconds),
        };
        let (holds, in_force_by) = (said.holds(now), said.in_force.map(|_| said.wanted_by().as_str().to_string()));
        Backend {
            name: spec.name.clone(),
            address: spec.addr,
            context: context(spec),
            wanted: seen.wanted.get(&key).map(|one| one.1.clone()),
            overrides: live.told(live.overrides().about(&spec.name), now),
            in_force: in_force.map(|one| one.1),
            in_force_by,
            holds,
            observed: Observed {
                health: health.to_string(),
                by: by.map(|by| by.as_str().to_string()),
                why,
                since,
                check,
                suspicion: suspicion.map(|one| Suspicion {
                    state: match (one.down, one.spared) {
                        (false, _) => "asked".to_string(),
                        (true, true) => "spared".to_string(),
                        (true, false) => "down".to_string(),
                    },
                    since: seconds(one.since),
                    why: one.why.clone(),
                    times: one.times,
                    until: one.until.map(in_seconds),
                }),
                agent: report.and_then(|r| r.agent.as_ref()).map(|agent| AgentSays {
                    says: agent.says.to_string(),
                    since: seconds(agent.since),
                    failed: agent.failed.clone(),
                }),
                keys: report.and_then(|r| r.keys.as_ref()).map(|report| keys(report, now_here)),
                slots: slots(self.directory().live().slots(), id),
                up: workers.iter().map(|w| w.backends_up.contains(id)).collect(),
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

/// What a backend's packets go through: many sessions share it, and none has to pay for it.
pub(super) fn context(backend: &lb::Backend) -> String {
    backend.tunnel.map_or("direct".into(), |tunnel| tunnel.to_string())
}

/// What a backend's limits are, and what is used of them.
fn slots(slots: &lb::admission::Slots, id: lb::BackendId) -> Option<api::Slots> {
    let (used, limits) = (slots.used(id), slots.limits(id));
    (limits != lb::admission::Limits::NONE).then_some(api::Slots {
        connections: used.connections,
        max_connections: limits.connections,
        handshakes: used.units,
        max_handshakes: limits.units,
    })
}

fn checked(kind: CheckKind, verdict: &Verdict, seconds: impl Fn(Time) -> f64) -> Checked {
    let state = match verdict.state {
        State::Unknown => "unknown",
        State::Up => "up",
        State::Down => "down",
    };
    Checked {
        kind: kind.to_string(),
        state: state.to_string(),
        since: seconds(verdict.since),
        why: verdict.why.clone(),
        took: verdict.took.map(|took| took.as_secs_f64()),
        passed: verdict.passed,
        failed: verdict.failed,
    }
}

fn keys(report: &KeyReport, now: Time) -> TicketKeys {
    TicketKeys {
        state: report.state.as_str().to_string(),
        names: report.names.iter().map(|name| format!("{:032x}", u128::from_be_bytes(*name))).collect(),
        ages: report.since.iter().map(|since| now.since(*since).as_secs_f64()).collect(),
        takes_own: report.takes_own,
        failed: report.failed.clone(),
    }
}
