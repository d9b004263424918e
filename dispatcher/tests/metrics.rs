//! Metrics: what is written, and that documents, dashboard and alerts know nothing else.

mod made_up;

use core::time::Duration;
use dispatcher::control::socket::api::{Backend, Checked, Drop, Holds, Observed, Offered, Slots, Wanted, Weight};
use dispatcher::engine::{Class, ConnectionRecord, Counters, End};
use dispatcher::io::Traffic;
use dispatcher::metrics::catalogue::{ALL, Kind, Metric};
use dispatcher::metrics::exporter::text;
use dispatcher::metrics::{Figures, Port, Reading};
use dispatcher::time::Time;
use dispatcher::worker::Totals;
use made_up::{queue, sessions, tunnel, worker};
use std::collections::{BTreeMap, BTreeSet};

/// Two backends and two workers, of which everything can be said.
fn reading() -> Reading {
    let backend = |name: &str, health: &str, state: &str| Backend {
        name: name.into(),
        address: "10.1.0.1:443".parse().unwrap(),
        context: "direct".into(),
        wanted: None,
        overrides: vec![],
        in_force: Some(Wanted {
            state: state.into(),
            weights: ["shop", "api"].map(|pool| Weight { pool: pool.into(), weight: 3 }).to_vec(),
            max_connections: Some(4000),
            max_handshakes: None,
            slow_start: None,
            check: None,
            agent_check: None,
        }),
        in_force_by: Some("file".into()),
        holds: Holds { state: state.into(), ..Holds::default() },
        observed: Observed {
            health: health.into(),
            by: None,
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
            suspicion: None,
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
        tunnels: vec![tunnel(0, "up"), tunnel(1, "down")],
        figures: Figures {
            generation: 12,
            started: 1.7e9,
            traffic: vec![vec![port.clone()], vec![port]],
            counters: Counters { dials: 77, ..Counters::default() },
            totals: totals(),
        },
    }
}

/// Of three connections: a full handshake, a resumed one, and none.
fn totals() -> Totals {
    let mut totals = Totals::default();
    let one = ConnectionRecord {
        via: None,
        conn: 1,
        began: Time::ZERO,
        lasted: Duration::from_millis(30),
        first_byte: None,
        handshake: None,
        client: "10.0.0.7:41022".parse().unwrap(),
        vip: "10.0.9.1:443".parse().unwrap(),
        service: Some("shop"),
        pool: None,
        backend: Some("a"),
        local: None,
        slot: None,
        class: Class::NonSecure,
        decided: None,
        reason: None,
        identity: &[],
        offered: &[],
        tls_version: None,
        sni: None,
        resumed: None,
        bytes_to_server: 0,
        bytes_to_client: 0,
        dial_attempts: 1,
        queue_class: None,
        waited_ms: 0,
        spilled: false,
        end: End::Fin,
    };
    totals.add(&one);
    let handshake = |millis, resumed| ConnectionRecord {
        class: Class::Secure,
        lasted: Duration::from_secs(3600),
        handshake: Some(Duration::from_millis(millis)),
        resumed: Some(resumed),
        ..one.clone()
    };
    totals.add(&handshake(40, false));
    totals.add(&handshake(1, true));
    totals
}

/// The values of each series.
fn series(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').map(|(series, value)| (series, value.parse().unwrap())).unwrap()).collect()
}

/// What a series' name is a part of, if it is one of a histogram's.
fn metric_of(name: &str) -> &str {
    let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|part| name.strip_suffix(part));
    let mut histograms = parts.filter(|name| ALL.iter().any(|m| m.name == *name && m.kind == Kind::Histogram));
    histograms.next().unwrap_or(name)
}

#[test]
fn every_metric_of_the_catalogue_is_written_and_no_other() {
    let text = text(&reading());
    let of = series(&text);
    let written: BTreeSet<&str> = of.keys().map(|s| metric_of(s.split('{').next().unwrap())).collect();
    assert_eq!(written, ALL.iter().map(|m| m.name).collect());
    for metric in ALL {
        assert!(text.contains(&format!("# TYPE {} {}\n", metric.name, metric.kind.as_str())), "{text}");
        assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
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
        ("dispatcher_tunnel_up{endpoint=\"203.0.113.5:51820\",worker=\"0\"}", 1.0),
        ("dispatcher_tunnel_up{endpoint=\"203.0.113.5:51820\",worker=\"1\"}", 0.0),
        ("dispatcher_tunnel_handshake_age_seconds{endpoint=\"203.0.113.5:51820\",worker=\"0\"}", 61.5),
        ("dispatcher_tunnel_handshakes_total{endpoint=\"203.0.113.5:51820\",worker=\"1\",outcome=\"initiated\"}", 5.0),
        ("dispatcher_tunnel_bytes_total{endpoint=\"203.0.113.5:51820\",worker=\"0\",way=\"received\"}", 1_500_000.0),
        ("dispatcher_tunnel_refused_messages_total{endpoint=\"203.0.113.5:51820\",worker=\"0\",why=\"flooded\"}", 9.0),
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
        ("dispatcher_handshake_seconds_bucket{service=\"shop\",resumed=\"no\",le=\"0.025\"}", 0.0),
        ("dispatcher_handshake_seconds_bucket{service=\"shop\",resumed=\"no\",le=\"0.05\"}", 1.0),
        ("dispatcher_handshake_seconds_bucket{service=\"shop\",resumed=\"yes\",le=\"0.001\"}", 1.0),
        ("dispatcher_handshake_seconds_sum{service=\"shop\",resumed=\"no\"}", 0.04),
        ("dispatcher_connection_seconds_bucket{service=\"shop\",le=\"0.05\"}", 1.0),
        ("dispatcher_connection_seconds_bucket{service=\"shop\",le=\"+Inf\"}", 3.0),
        ("dispatcher_connection_seconds_count{service=\"shop\"}", 3.0),
        ("dispatcher_connection_seconds_sum{service=\"shop\"}", 7200.03),
        (
            "dispatcher_queue_wait_seconds_bucket{service=\"shop\",pool=\"api\",family=\"IPv6\",class=\"full\",le=\"0.004\"}",
            60.0,
        ),
        ("dispatcher_queue_wait_seconds_sum{service=\"shop\",pool=\"api\",family=\"IPv6\",class=\"full\"}", 0.105),
        ("dispatcher_session_rows{kind=\"key-name\"}", 3.0),
    ] {
        assert_eq!(of.get(name), Some(&value), "{name}\n{text}");
    }
}

/// As many as an operator's Prometheus must be told of each of a thousand backends, with a check, limits, and clients that offer all there is to offer.
#[test]
fn a_backend_in_a_pool_makes_29_series_at_most() {
    let mut reading = reading();
    reading.backends.truncate(1);
    let in_force = reading.backends[0].in_force.as_mut().unwrap();
    in_force.weights.truncate(1);
    in_force.max_handshakes = Some("auto".into());
    let kinds = lb::IdentityKind::ALL;
    let offered = |kind: &lb::IdentityKind| Offered { kind: kind.as_str().into(), ..sessions("a").offered[0].clone() };
    reading.sessions.offered = kinds.iter().map(offered).collect();
    let text = text(&reading);
    let of_backend = series(&text).keys().filter(|s| s.contains("backend=\"a\"")).count();
    assert_eq!(of_backend, 29, "{text}");
}

#[test]
fn the_document_lists_every_metric_and_no_other() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let document = std::fs::read_to_string(path).unwrap();
    let listed: Vec<&str> = document.lines().filter(|l| l.starts_with("| `")).collect();
    let row = |Metric { name, kind, labels, help }: &Metric| {
        format!("| `{name}` | {} | {} | {help} |", kind.as_str(), labels.join(", "))
    };
    assert_eq!(listed, ALL.iter().map(row).collect::<Vec<_>>());
}

/// Every metric that stands in a text: what the recording rules make have a colon before or behind.
fn named(text: &str) -> BTreeSet<&str> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c: char| !part(c))
        .filter(|word| word.starts_with("dispatcher_") || word.contains(":dispatcher_"))
        .collect()
}

#[test]
fn dashboard_rules_and_alerts_ask_for_metrics_and_labels_that_there_are() {
    let read = |path: &str| std::fs::read_to_string(format!("{}/../docs/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let rules = read("prometheus/rules.yml");
    let recorded: BTreeSet<&str> = rules.lines().filter_map(|l| l.trim().strip_prefix("- record: ")).collect();
    assert!(recorded.len() >= 5, "{recorded:?}");
    let alerts = read("prometheus/alerts.yml");
    let dashboard: serde_json::Value = serde_json::from_str(&read("grafana/dispatcher.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|p| p["targets"].as_array().unwrap());
    let mut asked: Vec<&str> = targets.map(|t| t["expr"].as_str().unwrap()).collect();
    asked.extend(dashboard["templating"]["list"].as_array().unwrap().iter().filter_map(|v| v["definition"].as_str()));
    asked.extend(dashboard["annotations"]["list"].as_array().unwrap().iter().filter_map(|a| a["expr"].as_str()));
    let all = asked.join("\n");
    // The words of instance, job and the quantiles are Prometheus' own.
    let known: BTreeSet<&str> = ALL.iter().flat_map(|m| m.labels).copied().chain(["instance", "job", "le"]).collect();
    for (text, place) in [(&rules, "rules"), (&alerts, "alerts"), (&all, "dashboard")] {
        for name in named(text) {
            assert!(recorded.contains(name) || ALL.iter().any(|m| m.name == metric_of(name)), "{place}: {name}");
        }
        for by in text.split("by (").skip(1).chain(text.split(" on (").skip(1)) {
            let labels = by.split(')').next().unwrap().split(',').map(str::trim);
            labels.for_each(|label| assert!(known.contains(label), "{place}: label {label}"));
        }
        // What stands before =, =~ and == within braces.
        for within in text
            .split('{')
            .skip(1)
            .filter_map(|rest| rest.split('}').next())
            .filter(|w| w.contains("=\"") || w.contains("=~"))
        {
            let labels = within.split("\",").filter_map(|one| one.split('=').next()).map(str::trim);
            labels.for_each(|label| assert!(known.contains(label), "{place}: label {label} in {within}"));
        }
    }
    // What an alert's runbook is called stands in the document, and so does every reason that an alert names.
    let operating = read("operating.md");
    for alert in alerts.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")) {
        assert!(
            operating.contains(&format!("**{alert}**")),
            "docs/operating.md does not tell what to do about {alert}"
        );
        assert!(alerts.contains(&format!("operating.md#{}", alert.to_lowercase())), "{alert} has no runbook");
    }
    let reasons: BTreeSet<&str> = dispatcher::engine::DropReason::ALL
        .iter()
        .map(|r| r.as_str())
        .chain(dispatcher::io::Loss::ALL.iter().map(|l| l.as_str()))
        .chain(["handover-full"])
        .collect();
    let list = alerts.split("reason=~\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    list.split('|').for_each(|reason| assert!(reasons.contains(reason), "{reason}"));
}
