//! What a replay says about traffic that it could not read, would have refused, or could not follow: nobody shall go live on a
//! report that only looks good.

mod captures;

use captures::capture;
use dispatcher::engine::{AddressMode, Config, Limits};
use dispatcher::replay::unread::NotRead;
use dispatcher::replay::{ReplayOptions, replay};
use lb::{MemberSpec, Policy, PoolSpec, Wanted};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn wrapped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/wrapped").join(name)
}

fn dispatcher(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dispatcher")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// As a re-enactment against servers that were not recorded.
fn elsewhere() -> Config {
    let backend = |name: &str, addr: &str| MemberSpec::new(name, addr.parse().unwrap());
    let backends = vec![backend("a", "10.9.0.1:443"), backend("b", "10.9.0.2:443"), backend("a6", "[fd09::1]:443")];
    let pool = PoolSpec { backends, ..PoolSpec::default() };
    Config { wanted: Wanted::single(vec![], Policy::default(), pool), ..Config::default() }
}

/// Connections' lines, the summary, and what was returned.
fn lines(file: &Path, config: Config) -> (Vec<Value>, Value, anyhow::Result<()>) {
    let mut out = vec![];
    let options =
        ReplayOptions { files: vec![file.to_owned()], json: true, out: None, config, ..ReplayOptions::default() };
    let result = replay(&options, &mut out);
    let text = String::from_utf8(out).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = lines.pop().expect("a summary")["summary"].clone();
    (lines, summary, result)
}

fn report(file: &Path, config: Config) -> String {
    let mut out = vec![];
    let options =
        ReplayOptions { files: vec![file.to_owned()], json: false, out: None, config, ..ReplayOptions::default() };
    let _ = replay(&options, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_trace_of_loopback_addresses_is_replayed_and_reenacted_like_any_other() {
    let file = wrapped("loopback_addresses.pcap");
    let (connections, summary, result) = lines(&file, Config::default());
    result.unwrap();
    assert_eq!((connections.len(), &summary["secure"]), (1, &Value::from(1)));
    for address_mode in [AddressMode::Snat, AddressMode::Dnat] {
        for proxy_protocol in [false, true] {
            let (connections, summary, result) =
                lines(&file, Config { address_mode, ..elsewhere() }.policy(|p| p.proxy_protocol = proxy_protocol));
            result.unwrap();
            let c = &connections[0];
            assert_eq!((connections.len(), &c["class"], &c["intact"]), (1, &"secure".into(), &true.into()), "{c}");
            assert!(c["backend"].is_string() && c["dial_attempts"] == 1 && c["end"] == "fin", "{c}");
            assert_eq!(summary["drops"], serde_json::json!({}));
            assert_eq!(summary["connections_refused"], serde_json::json!({}));
        }
    }
}

#[test]
fn what_is_not_read_is_named_and_the_exit_status_tells() {
    for (file, name) in [
        ("unread/ieee80211_linktype105.pcap", "link type 105 (IEEE 802.11) 8"),
        ("unread/macsec.pcap", "MACsec 8"),
        ("unread/nsh.pcap", "NSH 8"),
    ] {
        let path = wrapped(file);
        let path = path.to_str().unwrap();
        for more in [&[][..], &["--json"], &["--backend", "a=10.9.0.1:443"], &["--json", "--backend", "a=10.9.0.1:443"]]
        {
            let output = dispatcher(&[&["replay", path][..], more].concat());
            assert_eq!(output.status.code(), Some(1), "{file} {more:?}");
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(said.contains(name) && said.contains("none of 8 frames"), "{file}: {said}");
            let out = String::from_utf8(output.stdout).unwrap();
            let plain = name.trim_end_matches(" 8");
            assert!(out.contains(plain), "{file} {more:?}: {out}");
        }
    }
}

/// The frames of several captures of microseconds and one link type, as one.
fn joined(files: &[PathBuf]) -> Vec<u8> {
    let all: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
    let head = all[0][..24].to_vec();
    assert!(all.iter().all(|b| b[..4] == head[..4] && b[20..24] == head[20..24]));
    all.iter().fold(head, |mut joined, b| {
        joined.extend(&b[24..]);
        joined
    })
}

#[test]
fn a_capture_that_was_read_in_part_is_reported_and_what_is_missing_is_named() {
    let good = capture("tls13_hrr_openssl.pcap");
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("in_part.pcap");
    std::fs::write(
        &file,
        joined(&[
            good.clone(),
            wrapped("unread/nsh.pcap"),
            wrapped("unread/macsec.pcap"),
            wrapped("unread/macsec.pcap"),
        ]),
    )
    .unwrap();
    for config in [Config::default(), elsewhere()] {
        let (of_good, whole, result) = lines(&good, config.clone());
        result.unwrap();
        let (of_part, summary, result) = lines(&file, config.clone());
        assert_eq!(of_part.len(), of_good.len());
        assert_eq!((&summary["unread"]["NSH"], &summary["unread"]["MACsec"]), (&8.into(), &16.into()));
        assert!(whole["unread"]["NSH"].is_null());
        let error = result.unwrap_err();
        assert!(error.is::<NotRead>() && error.to_string().contains("24 of "), "{error}");
        assert!(error.to_string().ends_with("MACsec 16, NSH 8"), "{error}");
        assert!(report(&file, config).contains("MACsec 16, NSH 8"));
    }
}

#[test]
fn a_capture_without_frames_is_said_to_have_none() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no_frames.pcap");
    std::fs::write(&file, &std::fs::read(wrapped("mpls.pcap")).unwrap()[..24]).unwrap();
    for more in [&[][..], &["--backend", "a=10.9.0.1:443"]] {
        let output = dispatcher(&[&["replay", file.to_str().unwrap()][..], more].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.trim()), (Some(1), "dispatcher: the capture has no frames"));
    }
}

#[test]
fn connections_that_the_engine_refuses_are_named_with_the_rule() {
    let file = capture("small_mtu_client_certs_openssl.pcap");
    let (all, summary, _) = lines(&file, elsewhere());
    assert!(all.iter().all(|c| c.get("refused").is_none() && c.get("not_followed").is_none()));
    assert_eq!(summary["connections_refused"], serde_json::json!({}));
    assert!(!report(&file, elsewhere()).contains("would have refused"));
    // No room for hellos of more than a segment or two.
    let small = Config { limits: Limits { flows: 2, ..Limits::default() }, ..elsewhere() };
    let crowd = capture("interleaved_many_clients.pcap");
    let (all, summary, result) = lines(&crowd, small.clone());
    result.unwrap();
    let refused: Vec<&Value> = all.iter().filter(|c| c["refused"] == "flow-table-full").collect();
    let broken = all.iter().filter(|c| c["intact"] == false).count();
    assert!(!refused.is_empty() && refused.iter().all(|c| c["intact"] == false), "{all:#?}");
    assert_eq!(all.iter().filter(|c| c.get("refused").is_some()).count(), broken);
    assert_eq!(summary["connections_refused"]["flow-table-full"], refused.len());
    let text = report(&crowd, small);
    assert!(text.contains(&format!("Connections that the dispatcher would have refused: {broken}")), "{text}");
    assert!(text.contains("flow-table-full: The flow table is full."), "{text}");
    let named = format!(
        "{} -> {} flow-table-full",
        refused[0]["client"].as_str().unwrap(),
        refused[0]["vip"].as_str().unwrap()
    );
    assert!(text.contains(&named), "{text}");
}

#[test]
fn connections_that_the_engine_does_not_follow_are_named_with_the_reason() {
    let file = capture("interleaved_many_clients.pcap");
    let few = Config { limits: Limits { watches: 1, ..Limits::default() }, ..elsewhere() };
    let (all, summary, _) = lines(&file, few.clone());
    let named = all.iter().filter(|c| c["not_followed"] == "unwatched").count();
    assert!(named > 10 && all.iter().all(|c| c["intact"] == true));
    assert_eq!(summary["not_followed"], serde_json::json!({ "unwatched": named }));
    assert!(report(&file, few).contains(&format!("{named} unwatched: ")));
    // A hello that comes after the time in which one is waited for.
    let hasty = elsewhere().policy(|p| p.hello_timeout = Duration::from_micros(1));
    let (all, ..) = lines(&file, hasty);
    let late = all.iter().filter(|c| c["not_followed"] == "hello-late").count();
    // It is read all the same, only too late to lead anywhere.
    let decided = |c: &Value| c["decided"].is_null() && c["reason"] == "balanced";
    assert!(late > 0);
    assert!(all.iter().filter(|c| c["not_followed"] == "hello-late").all(|c| c["class"] == "secure" && decided(c)));
}

#[test]
fn recorded_connections_that_could_not_be_followed_are_named_with_the_reason() {
    let (all, summary, result) = lines(&capture("capture_begins_late.pcap"), Config::default());
    result.unwrap();
    let named = all.iter().filter(|c| c["not_followed"] == "began-late").count();
    assert_eq!(summary["not_followed"], serde_json::json!({ "began-late": named }));
    // Eight of those that began late show no hello.
    assert_eq!(named, 8);
    let text = report(&capture("capture_begins_late.pcap"), Config::default());
    assert!(text.contains("8 began-late: It began before the capture did."), "{text}");
    // Whole traces have nothing to warn of.
    for name in ["tls12_ticket_openssl_nginx.pcap", "non_secure_on_tls_ports.pcap", "retransmit_reorder_loss.pcap"] {
        let (all, summary, _) = lines(&capture(name), Config::default());
        assert_eq!(summary["not_followed"], serde_json::json!({}), "{name}");
        assert!(all.iter().all(|c| c.get("not_followed").is_none() && c.get("refused").is_none()), "{name}");
    }
}

#[test]
fn holes_in_hellos_and_answers_are_told_apart() {
    // The n-th frame with payload of one direction is lost: of the client's hello, of the server's answer.
    let whole = std::fs::read(wrapped("loopback_addresses.pcap")).unwrap();
    let mut frames = vec![];
    let mut at = 24;
    while at < whole.len() {
        let len = u32::from_le_bytes(whole[at + 8..at + 12].try_into().unwrap()) as usize;
        frames.push(&whole[at..at + 16 + len]);
        at += 16 + len;
    }
    for (lost, why) in [(3, "hello-hole"), (4, "answer-hole")] {
        let mut bytes = whole[..24].to_vec();
        frames.iter().enumerate().filter(|(n, _)| *n != lost).for_each(|(_, f)| bytes.extend(*f));
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{why}.pcap"));
        std::fs::write(&file, bytes).unwrap();
        let (all, summary, _) = lines(&file, Config::default());
        assert_eq!((all.len(), &all[0]["not_followed"]), (1, &why.into()), "{}", all[0]);
        assert_eq!(summary["not_followed"], serde_json::json!({ why: 1 }));
    }
}
