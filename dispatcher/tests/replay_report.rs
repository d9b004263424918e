//! What `dispatcher replay` prints and writes in its default form.

mod captures;

use captures::capture;
use dispatcher::capture::Capture;
use dispatcher::replay::inspect::inspect;
use dispatcher::replay::{ReplayOptions, replay};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn options(files: &[PathBuf], json: bool, out: Option<PathBuf>) -> ReplayOptions {
    ReplayOptions { files: files.to_vec(), json, out, ..ReplayOptions::default() }
}

fn json_of(files: &[PathBuf]) -> (Vec<Value>, anyhow::Result<()>) {
    let mut out = Vec::new();
    let result = replay(&options(files, true, None), &mut out);
    let text = String::from_utf8(out).unwrap();
    (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), result)
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn every_connection_has_its_line_and_the_last_line_sums_them_up() {
    let (mut lines, result) = json_of(&[capture("tls12_rejected_resumption_openssl.pcap")]);
    result.unwrap();
    let summary = lines.pop().unwrap()["summary"].clone();
    assert_eq!(lines.len(), 20);
    let members = "conn client vip backend class decided verdict reason identity offered tls_version sni resumed \
                   bytes_to_server bytes_to_client dial_attempts intact end";
    for line in &lines {
        for member in members.split_whitespace() {
            assert!(line.get(member).is_some(), "{member} is missing: {line}");
        }
        assert_eq!(line["backend"], line["vip"]);
        assert_eq!(line["reason"] == "recorded", line["decided"].is_null(), "{line}");
        assert_eq!(line["verdict"].is_null(), line["offered"].as_array().unwrap().is_empty(), "{line}");
        if line["verdict"] == "rescued" {
            assert_ne!(line["decided"], line["backend"], "{line}");
        }
    }
    let count = |word: &str| lines.iter().filter(|l| l["verdict"] == word).count();
    for word in ["right", "wrong", "rescued", "stale", "unknown"] {
        assert_eq!(summary[word], count(word), "{word}");
    }
    assert_eq!((count("right"), count("rescued")), (8, 8));
    assert_eq!(summary["connections"], 20);
    assert_eq!(summary["secure"], 20);
    assert_eq!(summary["non_secure"], 0);
    assert_eq!(summary["offered"], 16);
    assert_eq!(summary["resumed"], 8);
    assert_eq!(summary["intact"], 20);
    let drops: u64 = summary["drops"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    let frames = |key: &str| summary[key].as_u64().unwrap();
    assert_eq!(frames("frames_in"), frames("frames_out") + drops);
}

/// A recorder that begins a new file every so often splits connections: they go on in the next file.
#[test]
fn a_capture_in_two_files_is_replayed_as_one() {
    let file = capture("tls13_psk_openssl_nginx.pcap");
    let whole = std::fs::read(&file).unwrap();
    let mut middle = 24;
    while middle < whole.len() / 2 {
        middle += 16 + u32::from_le_bytes(whole[middle + 8..middle + 12].try_into().unwrap()) as usize;
    }
    let halves = [scratch("replay_half1.pcap"), scratch("replay_half2.pcap")];
    std::fs::write(&halves[0], &whole[..middle]).unwrap();
    std::fs::write(&halves[1], [&whole[..24], &whole[middle..]].concat()).unwrap();
    let (mut once, _) = json_of(&[file]);
    let (mut twice, result) = json_of(&halves);
    result.unwrap();
    assert_eq!(once.pop(), twice.pop());
    assert_eq!(once, twice);
}

#[test]
fn a_damaged_capture_is_reported_as_far_as_it_goes() {
    let whole = std::fs::read(capture("tls12_sessionid_openssl_nginx.pcap")).unwrap();
    let cut = scratch("replay_cut.pcap");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let (lines, result) = json_of(&[cut]);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("replay_cut.pcap is cut off"), "{error}");
    let summary = &lines.last().unwrap()["summary"];
    assert_eq!(summary["connections"], lines.len() - 1);
    assert!(lines.len() > 10 && summary["error"].as_str().is_some_and(|e| e.contains("cut off")));
}

#[test]
fn a_missing_capture_is_told_before_anything_is_written() {
    let mut out = Vec::new();
    let files = [capture("tls12_sessionid_openssl_nginx.pcap"), PathBuf::from("no/such.pcap")];
    let error = replay(&options(&files, true, None), &mut out).unwrap_err().to_string();
    assert!(error.contains("no/such.pcap") && out.is_empty(), "{error}");
}

#[test]
fn the_report_for_people_has_the_verdicts_and_the_backends() {
    let mut out = Vec::new();
    replay(&options(&[capture("fleet_tls12_sessionid.pcap")], false, None), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let row = |name: &str| -> Vec<String> {
        let line = text.lines().find(|l| l.trim_start().starts_with(name)).unwrap_or_else(|| panic!("{name}:\n{text}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(row("IDENTITY"), ["IDENTITY", "OFFERED", "RIGHT", "WRONG", "RESCUED", "STALE", "UNKNOWN", "UNANSWERED"]);
    assert_eq!(row("session-id"), ["session-id", "565", "544", "0", "21", "0", "0", "0"]);
    assert_eq!(row("10.0.0.3:443"), ["10.0.0.3:443", "185", "23.3%", "185", "130", "55"]);
    assert!(text.contains("not-for-us 96"), "{text}");
}

#[test]
fn the_written_copy_says_the_same_as_the_capture() {
    let original = capture("fleet_tls12_sessionid.pcap");
    let copy = scratch("replay_copy.pcapng");
    replay(&options(std::slice::from_ref(&original), true, Some(copy.clone())), &mut Vec::new()).unwrap();
    let (a, b) = (inspect(&Capture::open(&original).unwrap()), inspect(&Capture::open(&copy).unwrap()));
    assert_eq!(a.frames - 96, b.frames, "frames of connections");
    let hellos = |i: &dispatcher::replay::inspect::Inspection| -> Vec<String> {
        i.streams.iter().flat_map(|s| &s.client_hellos).map(|h| h.session_id.clone()).collect()
    };
    assert_eq!(hellos(&a), hellos(&b));
    let bytes = std::fs::read(&copy).unwrap();
    let says = b"leads to 10.0.0.2:443";
    assert!(bytes.windows(says.len()).any(|w| w == says), "comments tell what the table knew");
}
