//! Metrics: what is written, and that documents, dashboard and alerts know nothing else.

mod made_up;

use dispatcher::control::socket::api::{Backend, Checked, Drop, Observed, Slots, Wanted, Weight};
use dispatcher::engine::Counters;
use dispatcher::io::Traffic;
use dispatcher::metrics::catalogue::{ALL, Metric};
use dispatcher::metrics::exporter::text;
use dispatcher::metrics::{Figures, Port, Reading};
use made_up::{queue, sessions, worker};
use std::collections::{BTreeMap, BTreeSet};

/// Two backends and two workers, of which everything can be said.
fn reading() -> Reading {
    let backend = |name: &str, health: &str, state: &str| Backend {
        name: name.into(),
        address: "10.1.0.1:443".parse().unwrap(),
        wanted: None,
        overrides: vec![],
        in_force: Some(Wanted {
            state: state.into(),
            weights: ["shop", "api"].map(|pool| Weight { pool: pool.into(), weight: 3 }).to_vec(),
            max_connections: Some(4000),
            max_handshakes: None,
            slow_start: None,
        }),
        observed: Observed {
            health: health.into(),
            why: None,
            since: None,
            check: Some(Checked {
                kind: "tls".into(),
                state: "up".into(),
                since: 3.0,
                why: None,
                took: Some(0.25),
                passed: 8,
                failed: 1,
            }),
            agent: None,
            keys: None,
            slots: Some(Slots {
                connections: 7,
                max_connections: Some(4000),
                handshakes: 30,
                max_handshakes: Some(40),
            }),
            up: vec![true, false],
            flows: 5,
            connections: 100,
            resumed: 49,
            new_sessions: 51,
            bytes_to_server: 1 << 52,
            bytes_to_client: 2,
        },
    };
    let port = Port {
        name: "wan".into(),
        received: Traffic { frames: 10, bytes: 1000, link_downs: 2, ..Traffic::default() },
        sent: Traffic { frames: 9, bytes: 900, ..Traffic::default() },
    };
    let left = Backend { in_force: None, ..backend("a", "down", "up") };
    Reading {
        backends: vec![
            backend("a", "up", "up"),
            left,
            backend("b", "down", "up"),
            backend("c", "up", "draining"),
            backend("d", "differs", "up"),
            backend("e", "up", "down"),
        ],
        sessions: sessions("a\"\\\n"),
        workers: vec![worker(0), worker(1)],
        drops: vec![
            Drop { reason: "bad-cookie".into(), frames: 3, answered: 2 },
            Drop { reason: "malformed".into(), frames: 0, answered: 0 },
        ],
        queues: vec![queue()],
        figures: Figures {
            generation: 12,
            started: 1.7e9,
            traffic: vec![vec![port.clone()], vec![port]],
            counters: Counters { dials: 77, ..Counters::default() },
            totals: Default::default(),
        },
    }
}

/// The values of each series.
fn series(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').map(|(series, value)| (series, value.parse().unwrap())).unwrap()).collect()
}

#[test]
fn every_metric_of_the_catalogue_is_written_and_no_other() {
    let text = text(&reading());
    let written: BTreeSet<&str> = series(&text).keys().map(|s| s.split('{').next().unwrap()).collect();
    assert_eq!(written, ALL.iter().map(|m| m.name).collect());
    for metric in ALL {
        let kind = if metric.counts { "counter" } else { "gauge" };
        assert!(text.contains(&format!("# TYPE {} {kind}\n", metric.name)), "{text}");
        assert_eq!(metric.counts, metric.name.ends_with("_total"), "{}", metric.name);
        assert!(metric.name.starts_with("dispatcher_") && !metric.help.ends_with('.'));
    }
}

#[test]
fn numbers_stand_under_their_labels() {
    let text = text(&reading());
    let of = series(&text);
    for (name, value) in [
        (concat!("dispatcher_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
        ("dispatcher_workers", 2.0),
        ("dispatcher_config_generation", 12.0),
        ("dispatcher_flows{worker=\"1\"}", 5.0),
        ("dispatcher_dials_total", 77.0),
        ("dispatcher_bytes_received_total{worker=\"0\",port=\"wan\"}", 1000.0),
        ("dispatcher_link_downs_total{port=\"wan\"}", 2.0),
        ("dispatcher_frames_dropped_total{reason=\"malformed\"}", 0.0),
        ("dispatcher_segments_refused_total{reason=\"bad-cookie\"}", 2.0),
        ("dispatcher_loop_longest_turn_seconds{worker=\"0\"}", 0.004),
        ("dispatcher_backend_state{backend=\"a\"}", 2.0),
        ("dispatcher_backend_state{backend=\"b\"}", 0.0),
        ("dispatcher_backend_state{backend=\"c\"}", 1.0),
        ("dispatcher_backend_state{backend=\"d\"}", 3.0),
        ("dispatcher_backend_state{backend=\"e\"}", 0.0),
        ("dispatcher_checks_total{backend=\"a\",outcome=\"failed\"}", 1.0),
        ("dispatcher_check_duration_seconds{backend=\"a\"}", 0.25),
        ("dispatcher_backend_weight{backend=\"a\",pool=\"api\"}", 3.0),
        ("dispatcher_backend_bytes_total{backend=\"a\",direction=\"to_server\"}", (1u64 << 52) as f64),
        ("dispatcher_resumptions_total{backend=\"a\\\"\\\\\\n\",kind=\"psk\",outcome=\"accepted\"}", 4.0),
        ("dispatcher_queue_length{service=\"shop\",pool=\"api\",family=\"IPv6\",class=\"full\"}", 3.0),
        (
            "dispatcher_queue_requests_total{service=\"shop\",pool=\"api\",family=\"IPv6\",class=\"full\",outcome=\"timed_out\"}",
            2.0,
        ),
        ("dispatcher_backend_max_handshakes{backend=\"a\"}", 40.0),
        ("dispatcher_session_rows{kind=\"key-name\"}", 3.0),
    ] {
        assert_eq!(of.get(name), Some(&value), "{name}\n{text}");
    }
}

#[test]
fn the_document_lists_every_metric_and_no_other() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let document = std::fs::read_to_string(path).unwrap();
    let listed: Vec<&str> = document.lines().filter(|l| l.starts_with("| `")).collect();
    let row = |Metric { name, counts, labels, help }: &Metric| {
        let kind = if *counts { "counter" } else { "gauge" };
        format!("| `{name}` | {kind} | {} | {help} |", labels.join(", "))
    };
    assert_eq!(listed, ALL.iter().map(row).collect::<Vec<_>>());
}
