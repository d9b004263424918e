//! `dispatcher replay --report`: the page's numbers are those of the JSON, and what stands in it is text.

mod captures;

use captures::capture;
use dispatcher::engine::Config;
use dispatcher::replay::against;
use dispatcher::replay::{ReplayOptions, replay};
use lb::{BackendLimits, MaxHandshakes, MemberSpec, Policy, PoolSpec, Wanted};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A replay's summary, and its page.
fn told(file: PathBuf, config: Config, name: &str) -> (Value, String) {
    let page = scratch(&format!("{name}.html"));
    let mut out = Vec::new();
    let report = Some(page.clone());
    let options = ReplayOptions { files: vec![file], json: true, report, config, ..ReplayOptions::default() };
    let _ = replay(&options, &mut out);
    (summary(&out), std::fs::read_to_string(page).unwrap())
}

fn summary(lines: &[u8]) -> Value {
    let last = std::str::from_utf8(lines).unwrap().lines().last().unwrap().to_string();
    serde_json::from_str::<Value>(&last).unwrap()["summary"].clone()
}

/// What a reader sees of a piece of HTML.
fn seen(html: &str) -> String {
    let text: String = html.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text)).collect();
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
    text.replace("&amp;", "&").replace('\u{202f}', "")
}

/// The cells of the table below this title: its head, then its rows.
fn table(page: &str, title: &str) -> Vec<Vec<String>> {
    let section = section(page, title);
    let cells = |row: &str, tag: &str| row.split(tag).skip(1).map(|c| seen(&format!("<{c}"))).collect();
    let mut rows: Vec<Vec<String>> = vec![cells(section.split("</thead>").next().unwrap(), "<th ")];
    let body = section.split("<tbody>").nth(1).unwrap();
    let row = |row: &str| cells(&row.split("</tr>").next().unwrap().replace("<td", "<th"), "<th");
    rows.extend(body.split("<tr>").skip(1).map(row));
    rows
}

fn section<'p>(page: &'p str, title: &str) -> &'p str {
    let wanted = |s: &&str| s.split("</h2>").next().is_some_and(|head| seen(&format!("<{head}")) == title);
    page.split("<section").find(wanted).unwrap_or_else(|| panic!("no section {title}"))
}

/// Each column below its head, by the names of rows.
fn value(table: &[Vec<String>], row: &str, column: &str) -> u64 {
    let place = table[0].iter().position(|head| head == column).unwrap_or_else(|| panic!("{column}: {:?}", table[0]));
    let row = table.iter().find(|cells| cells[0] == row).unwrap_or_else(|| panic!("{row}: {table:?}"));
    row[place].parse().unwrap_or_else(|_| panic!("{}", row[place]))
}

fn sum(table: &[Vec<String>], column: &str) -> u64 {
    match table[0].iter().position(|head| head == column) {
        Some(place) => table[1..].iter().map(|row| row[place].parse::<u64>().unwrap()).sum(),
        // A kind that there is none of.
        None => 0,
    }
}

/// The large number of a card.
fn card(page: &str, title: &str) -> u64 {
    let text = section(page, title).split("class=\"value\"").nth(1).unwrap().split("</p>").next().unwrap();
    seen(&format!("<{text}")).parse().unwrap()
}

#[test]
fn numbers_of_what_was_recorded_are_those_of_the_json() {
    let (json, page) = told(capture("tls12_rejected_resumption_openssl.pcap"), Config::default(), "recorded");
    for (title, key) in [
        ("Connections", "connections"),
        ("Offered", "offered"),
        ("Resumed", "resumed"),
        ("Right", "right"),
        ("Rescued", "rescued"),
        ("Whole", "intact"),
    ] {
        assert_eq!(card(&page, title), json[key], "{title}");
    }
    assert_eq!((card(&page, "Right"), card(&page, "Rescued")), (8, 8), "it is no page of zeros");
    let verdicts = ["Right", "Wrong", "Rescued", "Stale", "Unknown", "Unanswered"];
    let identities = table(&page, "Sessions offered, and what the table knew of them");
    let course = table(&page, "Verdicts over time");
    for verdict in verdicts {
        let key = verdict.to_lowercase();
        assert_eq!(value(&identities, "all", verdict), json[&key], "{verdict}");
        assert_eq!(sum(&course, verdict), json[&key], "{verdict} over time");
        for (kind, counts) in json["by_identity"].as_object().unwrap() {
            if identities.iter().any(|row| row[0] == *kind) {
                assert_eq!(value(&identities, kind, verdict), counts[&key], "{kind} {verdict}");
            } else {
                assert_eq!(counts[&key], 0, "{kind} {verdict}");
            }
        }
    }
    let kinds = table(&page, "Sessions by kind over time");
    for (kind, name) in [("session-id", "session ID"), ("ticket", "ticket"), ("psk", "PSK")] {
        let all: u64 = json["by_identity"][kind].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(sum(&kinds, name), all, "{name} over time");
    }
    let offered = json["offered"].as_u64().unwrap();
    assert_eq!(sum(&kinds, "TLS, no session offered"), json["secure"].as_u64().unwrap() - offered);
    assert_eq!(sum(&kinds, "not TLS"), json["non_secure"]);
    let backends = table(&page, "Distribution over backends");
    let servers = json["backends"].as_object().unwrap();
    assert_eq!(backends.len() - 1, servers.len());
    for (name, counts) in servers {
        for (title, key) in
            [("Connections", "connections"), ("TLS", "secure"), ("Resumed", "resumed"), ("Full", "full")]
        {
            assert_eq!(value(&backends, name, title), counts[key], "{name} {title}");
        }
    }
    let rows = table(&page, "What the table holds at the end");
    assert_eq!(value(&rows, "session IDs", "Rows"), json["table"]["session_ids"]);
}

/// Two backends, of which the first takes one handshake at a time.
fn two() -> Config {
    let member = |name: &str, addr: &str| MemberSpec::new(name, addr.parse().unwrap());
    let mut first = member("<a>&'\"", "10.9.0.1:443");
    first.limits = BackendLimits { max_handshakes: Some(MaxHandshakes::Units(10)), ..BackendLimits::default() };
    let pool = PoolSpec { backends: vec![first, member("b", "10.9.0.2:443")], ..PoolSpec::default() };
    Config { wanted: Wanted::single(vec![], Policy::default(), pool), keep_names: true, ..Config::default() }
}

#[test]
fn numbers_of_what_was_re_enacted_are_those_of_the_json_classes_of_those_who_waited_included() {
    let (json, page) = told(capture("interleaved_many_clients.pcap"), two(), "reenacted");
    for (title, key) in [
        ("Connections", "connections"),
        ("Offered", "offered"),
        ("Decided", "decided"),
        ("Resumed", "resumed"),
        ("Whole", "intact"),
    ] {
        assert_eq!(card(&page, title), json[key], "{title}");
    }
    let chosen = table(&page, "How backends were chosen");
    let course = table(&page, "How backends were chosen over time");
    for (reason, n) in json["reasons"].as_object().unwrap() {
        assert_eq!(value(&chosen, reason, "Connections"), *n, "{reason}");
        assert_eq!(sum(&course, reason), *n, "{reason} over time");
    }
    let backends = table(&page, "Distribution over backends");
    for name in ["<a>&'\"", "b"] {
        assert_eq!(value(&backends, name, "Connections"), json["backends"][name]["connections"], "{name}");
    }
    let queues = table(&page, "Room at backends with limits");
    let classes = json["queues"].as_object().unwrap();
    assert!(!classes.is_empty() && queues.len() - 1 == classes.len());
    let mut asked = 0;
    for (class, counts) in classes {
        let keys = ["connections", "waited", "spilled", "abandoned", "timed_out", "refused"];
        let titles = ["Connections", "Waited", "Spilled", "Abandoned", "Timed out", "Refused"];
        for (title, key) in titles.iter().zip(keys) {
            assert_eq!(value(&queues, class, title), counts[key], "{class} {title}");
        }
        asked += counts["connections"].as_u64().unwrap();
    }
    let room = table(&page, "Room at backends with limits over time");
    let all = ["at once", "after waiting", "abandoned", "timed out", "refused"].map(|kind| sum(&room, kind));
    assert_eq!(all.iter().sum::<u64>(), asked);
}

#[test]
fn numbers_of_a_change_are_those_of_the_json() {
    let file = capture("fleet_tls12_sessionid.pcap");
    let listen = (1..=4).map(|n| format!("10.0.0.{n}:443").parse().unwrap()).collect();
    let member = |n: u8| MemberSpec::new(format!("web{n}"), format!("10.9.0.{n}:443").parse().unwrap());
    let pool = |n: u8| PoolSpec { backends: (1..=n).map(member).collect(), ..PoolSpec::default() };
    let wanted = |n| Wanted::single(Vec::clone(&listen), Policy::default(), pool(n));
    let page = scratch("change.html");
    let options = against::Options {
        files: vec![file],
        json: true,
        report: Some(page.clone()),
        config: Config { wanted: wanted(3), keep_names: true, ..Config::default() },
        next: wanted(2),
    };
    let mut out = Vec::new();
    against::run(&options, &mut out).unwrap();
    let (json, page) = (summary(&out), std::fs::read_to_string(page).unwrap());
    let named = [
        ("Connections", "connections"),
        ("Same server", "same_server"),
        ("Another server", "another_server"),
        ("No server", "no_server"),
        ("Known sessions", "known_sessions"),
        ("Lost", "sessions_lost"),
    ];
    let pools = table(&page, "By service and pool");
    for (title, key) in named {
        assert_eq!(card(&page, title), json[key], "{title}");
        assert_eq!(sum(&pools, title), json[key], "{title} by pool");
    }
    assert!(card(&page, "Another server") > 50);
    let moves = table(&page, "Connections that meet another server");
    assert_eq!(moves.len() - 1, 50, "no more than are read");
    assert!(moves[1..].iter().all(|row| row[3] == "web3" && row[4] != "web3"), "{:?}", moves[1]);
    assert!(section(&page, "Connections that meet another server").contains("more; --json names all"));
}

#[test]
fn what_others_called_a_file_is_text_and_nothing_is_asked_for() {
    let evil = scratch("<img src=x onerror=alert(1)> & \u{202e}\u{1b}[2J\".pcap");
    std::fs::copy(capture("tls12_rejected_resumption_openssl.pcap"), &evil).unwrap();
    let (_, page) = told(evil, two(), "evil");
    assert!(!page.contains("<img") && !page.contains('\u{1b}') && !page.contains('\u{202e}'));
    assert!(page.contains("Replay of &lt;img src=x onerror=alert(1)&gt; &amp; \u{fffd}\u{fffd}[2J&quot;.pcap"));
    assert!(page.contains("&lt;a&gt;&amp;&#39;&quot;"), "the backend's name");
    for word in ["<script", "http:", "https:", "@import", "url(", " style=", "onclick"] {
        assert!(!page.contains(word), "{word}");
    }
    assert!(page.contains("content=\"default-src 'none'; style-src 'sha256-"));
}

#[test]
fn a_damaged_capture_has_a_page_that_says_so_and_a_file_that_cannot_be_written_is_told_at_once() {
    let whole = std::fs::read(capture("tls12_sessionid_openssl_nginx.pcap")).unwrap();
    let cut = scratch("page_cut.pcap");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let (json, page) = told(cut, Config::default(), "cut");
    assert!(json["error"].is_string());
    assert!(seen(section(&page, "What you should know")).contains("page_cut.pcap is cut off"), "{page}");
    let options = ReplayOptions {
        files: vec![capture("tls12_sessionid_openssl_nginx.pcap")],
        json: true,
        report: Some("/nonexistent/page.html".into()),
        ..ReplayOptions::default()
    };
    let mut out = Vec::new();
    let error = replay(&options, &mut out).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/page.html cannot be written") && out.is_empty(), "{error}");
}
