//! Metrics as text.

use super::Reading;
use super::catalogue::{self as of, Kind, Metric};
use crate::control::socket::api::{Backend, Offered, Queue, Tunnel};
use crate::worker::timings::{self, Bounds, Timings};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;

/// Of what [`text`] makes.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// A reading in Prometheus' text format.
pub fn text(reading: &Reading) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families(reading))));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = prometheus_text::encode(&mut text, &registry);
    text
}

/// A label's value, by its place in [`Metric::labels`], and the number.
type Series = (Vec<String>, f64);

/// The same, and how many took how long: upper bounds in seconds, each with how many are below it and above the one before. And the sum of all.
struct Spans {
    labels: Vec<String>,
    buckets: Vec<(f64, u64)>,
    sum: f64,
}

/// All that is said of a metric.
enum Said {
    Numbers(Vec<Series>),
    Spans(Vec<Spans>),
}

/// What is said of each metric, in the order of the catalogue.
struct Families(Vec<(Metric, Said)>);

impl fmt::Debug for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(metric, _)| metric.name)).finish()
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (metric, said) in &self.0 {
            let (kind, none) = match (metric.kind, said) {
                (Kind::Counter, Said::Numbers(all)) => (MetricType::Counter, all.is_empty()),
                (_, Said::Numbers(all)) => (MetricType::Gauge, all.is_empty()),
                (_, Said::Spans(all)) => (MetricType::Histogram, all.is_empty()),
            };
            if none {
                continue;
            }
            // The encoder puts this behind a counter's name itself.
            let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            let mut family = encoder.encode_descriptor(name, metric.help, None, kind)?;
            let pairs = |values: &'_ [String]| -> Vec<(&'static str, String)> {
                metric.labels.iter().copied().zip(values.iter().cloned()).collect()
            };
            match said {
                Said::Numbers(all) => {
                    for (values, number) in all {
                        let labels = pairs(values);
                        let mut one = family.encode_family(&labels)?;
                        if metric.kind == Kind::Counter {
                            one.encode_counter::<[(&str, &str); 0], f64, f64>(number, None)?;
                        } else {
                            one.encode_gauge(number)?;
                        }
                    }
                }
                Said::Spans(all) => {
                    for Spans { labels, buckets, sum } in all {
                        let labels = pairs(labels);
                        let count = buckets.iter().map(|(_, n)| n).sum();
                        let mut one = family.encode_family(&labels)?;
                        one.encode_histogram::<[(&str, &str); 0]>(*sum, count, buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn families(reading: &Reading) -> Vec<(Metric, Said)> {
    let said = |metric: &Metric| match metric.kind {
        Kind::Histogram => Said::Spans(spans(metric, reading)),
        _ => Said::Numbers(series(metric, reading)),
    };
    of::ALL.iter().map(|metric| (*metric, said(metric))).collect()
}

fn spans(metric: &Metric, r: &Reading) -> Vec<Spans> {
    let timings = r.figures.totals.timings.iter();
    match *metric {
        of::QUEUE_WAIT => {
            // Bucket n is of those that waited for less than 2^n milliseconds.
            let bounds = |n: usize, all: usize| if n + 1 < all { 0.001 * (1u64 << n) as f64 } else { f64::MAX };
            let of_line = |q: &Queue| Spans {
                labels: line(q),
                buckets: q.waits.iter().enumerate().map(|(n, count)| (bounds(n, q.waits.len()), *count)).collect(),
                sum: q.waited_ms as f64 / 1000.0,
            };
            r.queues.iter().map(of_line).collect()
        }
        of::HANDSHAKE => {
            let both = |t: &Timings| {
                let named = |n: usize, resumed: &str| {
                    histogram(vec![t.service.to_string(), resumed.to_string()], &timings::HANDSHAKE, &t.handshakes[n])
                };
                [named(0, "no"), named(1, "yes")]
            };
            timings.flat_map(both).collect()
        }
        of::CONNECTION => {
            timings.map(|t| histogram(vec![t.service.to_string()], &timings::CONNECTION, &t.connections)).collect()
        }
        _ => vec![],
    }
}

fn histogram(labels: Vec<String>, bounds: &Bounds, of: &timings::Histogram) -> Spans {
    let bounds = bounds.iter().map(|micros| *micros as f64 / 1e6).chain([f64::MAX]);
    Spans { labels, buckets: bounds.zip(of.counts).collect(), sum: of.sum as f64 / 1e6 }
}

fn tunnel(t: &Tunnel) -> Vec<String> {
    vec![t.endpoint.to_string(), t.worker.to_string()]
}

fn by_tunnel(r: &Reading, number: impl Fn(&Tunnel) -> Option<f64>) -> Vec<Series> {
    r.tunnels.iter().filter_map(|t| Some((tunnel(t), number(t)?))).collect()
}

fn of_tunnels(r: &Reading, counts: impl Fn(&Tunnel) -> Vec<(&'static str, u64)>) -> Vec<Series> {
    let one = |t: &Tunnel| {
        let labels = tunnel(t);
        let with = move |(what, n): (&'static str, u64)| ([&labels[..], &[what.to_string()]].concat(), n as f64);
        counts(t).into_iter().map(with).collect::<Vec<_>>()
    };
    r.tunnels.iter().flat_map(one).collect()
}

fn series(metric: &Metric, r: &Reading) -> Vec<Series> {
    let f = &r.figures;
    let (c, totals) = (&f.counters, &f.totals);
    let one = |number: f64| vec![(vec![], number)];
    let counter = |number: u64| one(number as f64);
    match *metric {
        of::BUILD_INFO => vec![(vec![env!("CARGO_PKG_VERSION").to_string()], 1.0)],
        of::START_TIME => one(f.started),
        of::CONFIG_GENERATION => counter(f.generation),
        of::WORKERS => one(r.workers.iter().filter(|w| w.running).count() as f64),
        of::FLOWS => by_worker(r, |w| w.flows as f64),
        of::CONNECTIONS => {
            let secure = totals.secure;
            labelled([("secure", secure), ("non-secure", totals.connections - secure)])
        }
        of::CONNECTIONS_LED => labelled(totals.reasons()),
        of::CONNECTIONS_LOST => counter(totals.no_backend),
        of::SYN_COOKIES => counter(c.cookies_sent),
        of::FLOWS_OPENED => counter(c.flows_opened),
        of::DIALS => counter(c.dials),
        of::REDISPATCHES => counter(c.redispatches),
        of::RETRANSMITS => counter(c.retransmits),
        of::HELLOS_UNREAD => counter(c.hellos_unread),
        of::UNWATCHED => counter(c.unwatched),
        of::FRAMES_RECEIVED => by_port(r, |p| p.received.frames),
        of::BYTES_RECEIVED => by_port(r, |p| p.received.bytes),
        of::FRAMES_SENT => by_port(r, |p| p.sent.frames),
        of::BYTES_SENT => by_port(r, |p| p.sent.bytes),
        of::LINK_DOWNS => link_downs(r),
        of::FRAMES_DROPPED => labelled(r.drops.iter().map(|d| (d.reason.as_str(), d.frames))),
        of::SEGMENTS_REFUSED => {
            labelled(r.drops.iter().filter(|d| d.answered > 0).map(|d| (d.reason.as_str(), d.answered)))
        }
        of::TUNNEL_UP => by_tunnel(r, |t| Some(f64::from(u8::from(t.state == "up")))),
        of::TUNNEL_HANDSHAKE => by_tunnel(r, |t| t.handshake),
        of::TUNNEL_HANDSHAKES => of_tunnels(r, |t| vec![("established", t.handshakes), ("initiated", t.initiations)]),
        of::TUNNEL_BYTES => of_tunnels(r, |t| vec![("received", t.bytes_in), ("sent", t.bytes_out)]),
        of::TUNNEL_REFUSED => of_tunnels(r, |t| {
            let counts = [t.unopened, t.replayed, t.old_handshakes, t.flooded];
            ["unopened", "replayed", "old-handshake", "flooded"].into_iter().zip(counts).collect()
        }),
        of::HANDED_OVER => by_worker(r, |w| w.handed_over as f64),
        of::LOOP_TURNS => {
            let turns = |w: &crate::control::socket::api::Worker| [("busy", w.busy_turns), ("idle", w.idle_turns)];
            let of_worker = |w| turns(w).map(|(state, n)| (vec![w.worker.to_string(), state.to_string()], n as f64));
            r.workers.iter().flat_map(of_worker).collect()
        }
        of::LONGEST_TURN => by_worker(r, |w| w.pauses.turn_longest),
        of::BACKEND_STATE => by_backend(r, |b| Some(state(b))),
        of::CHECKS => {
            let outcomes = |b: &Backend| {
                let counts = b.observed.check.iter().flat_map(|c| [("passed", c.passed), ("failed", c.failed)]);
                counts.map(|(outcome, n)| (vec![b.name.clone(), outcome.to_string()], n as f64)).collect::<Vec<_>>()
            };
            there(r).flat_map(outcomes).collect()
        }
        of::CHECK_TIME => by_backend(r, |b| b.observed.check.as_ref()?.took),
        of::BACKEND_WEIGHT => {
            let weights = |b: &Backend| b.in_force.iter().flat_map(|f| f.weights.clone()).collect::<Vec<_>>();
            let of_pool = |b: &Backend| {
                let name = b.name.clone();
                weights(b).into_iter().map(move |w| (vec![name.clone(), w.pool], f64::from(w.weight)))
            };
            r.backends.iter().flat_map(of_pool).collect()
        }
        of::BACKEND_MAX_CONNECTIONS => by_backend(r, |b| b.in_force.as_ref()?.max_connections.map(f64::from)),
        of::BACKEND_FLOWS => by_backend(r, |b| Some(f64::from(b.observed.flows))),
        of::BACKEND_CONNECTIONS => by_backend(r, |b| Some(b.observed.connections as f64)),
        of::BACKEND_BYTES => {
            let ways = |b: &Backend| {
                [("to_server", b.observed.bytes_to_server), ("to_client", b.observed.bytes_to_client)]
                    .map(|(way, n)| (vec![b.name.clone(), way.to_string()], n as f64))
            };
            there(r).flat_map(ways).collect()
        }
        of::BACKEND_CONNECTIONS_USED => by_backend(r, |b| Some(f64::from(b.observed.slots.as_ref()?.connections))),
        of::BACKEND_HANDSHAKES_USED => by_backend(r, |b| Some(f64::from(b.observed.slots.as_ref()?.handshakes))),
        of::BACKEND_MAX_HANDSHAKES => by_backend(r, |b| b.observed.slots.as_ref()?.max_handshakes.map(f64::from)),
        of::QUEUE_LENGTH => by_queue(r, |q| q.waiting as f64),
        of::QUEUE_ASKED => r.queues.iter().flat_map(outcomes).collect(),
        of::QUEUE_WAITED => by_queue(r, |q| q.waited as f64),
        of::QUEUE_SPILLED => by_queue(r, |q| q.spilled as f64),
        of::QUEUE_DEMOTED => by_queue(r, |q| q.demoted as f64),
        of::RESUMPTIONS => r.sessions.offered.iter().flat_map(resumptions).collect(),
        of::SESSION_ROWS => {
            let rows = &r.sessions.rows;
            let kinds = [
                ("session-id", rows.session_ids),
                ("ticket", rows.tickets),
                ("cookie", rows.cookies),
                ("key-name", rows.key_names),
                ("candidate", rows.candidates),
            ];
            labelled(kinds.map(|(kind, n)| (kind, n as u64)))
        }
        of::SHARED_KEY_NAMES => one(r.sessions.rows.shared_key_names as f64),
        // Every metric of the catalogue stands above: a test asks for each.
        _ => vec![],
    }
}

fn labelled<'a>(all: impl IntoIterator<Item = (&'a str, u64)>) -> Vec<Series> {
    all.into_iter().map(|(label, number)| (vec![label.to_string()], number as f64)).collect()
}

fn by_worker(r: &Reading, number: impl Fn(&crate::control::socket::api::Worker) -> f64) -> Vec<Series> {
    r.workers.iter().map(|w| (vec![w.worker.to_string()], number(w))).collect()
}

fn by_port(r: &Reading, number: impl Fn(&super::Port) -> u64) -> Vec<Series> {
    let ports = |(worker, ports): (usize, &Vec<super::Port>)| {
        ports.iter().map(|p| (vec![worker.to_string(), p.name.clone()], number(p) as f64)).collect::<Vec<_>>()
    };
    r.figures.traffic.iter().enumerate().flat_map(ports).collect()
}

/// All workers see the same link; whoever has seen it most often.
fn link_downs(r: &Reading) -> Vec<Series> {
    let first = r.figures.traffic.first().into_iter().flatten();
    let most =
        |at: usize| r.figures.traffic.iter().filter_map(|ports| ports.get(at)).map(|p| p.received.link_downs).max();
    first.enumerate().map(|(at, p)| (vec![p.name.clone()], most(at).unwrap_or(0) as f64)).collect()
}

/// Backends that are leaving may have the name of one that is there: they count as that one's no more.
fn there(r: &Reading) -> impl Iterator<Item = &Backend> {
    r.backends.iter().filter(|b| b.in_force.is_some())
}

fn by_backend(r: &Reading, number: impl Fn(&Backend) -> Option<f64>) -> Vec<Series> {
    there(r).filter_map(|b| Some((vec![b.name.clone()], number(b)?))).collect()
}

fn line(q: &Queue) -> Vec<String> {
    [&q.service, &q.pool, &q.family, &q.class].map(String::clone).to_vec()
}

fn by_queue(r: &Reading, number: impl Fn(&Queue) -> f64) -> Vec<Series> {
    r.queues.iter().map(|q| (line(q), number(q))).collect()
}

fn outcomes(q: &Queue) -> [Series; 4] {
    let all =
        [("admitted", q.admitted), ("abandoned", q.abandoned), ("timed_out", q.timed_out), ("refused", q.refused)];
    all.map(|(outcome, n)| ([line(q), vec![outcome.to_string()]].concat(), n as f64))
}

/// See [`of::BACKEND_STATE`].
fn state(backend: &Backend) -> f64 {
    match (backend.in_force.as_ref().map(|w| w.state.as_str()), backend.observed.health.as_str()) {
        (Some("down"), _) | (_, "down") => 0.0,
        (_, "differs") => 3.0,
        (Some("draining"), _) => 1.0,
        _ => 2.0,
    }
}

fn resumptions(o: &Offered) -> [Series; 4] {
    [("accepted", o.accepted), ("refused", o.refused), ("broken", o.broken), ("unknown", o.unknown)]
        .map(|(outcome, n)| (vec![o.backend.clone(), o.kind.clone(), outcome.to_string()], n as f64))
}
