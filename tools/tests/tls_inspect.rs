//! `tls-inspect` as a user meets it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn tls_inspect(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tls-inspect")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn capture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/captures").join(name).to_string_lossy().into_owned()
}

fn scratch(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Exit status 2, nothing but one line on stderr, which says this.
fn refuses(output: &Output, says: &str) {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
    assert!(stderr.contains(says), "{stderr}");
}

#[test]
fn json_is_one_object_a_line() {
    let output = tls_inspect(&[&capture("tls13_hrr_openssl.pcap"), "--json"]);
    assert!(output.status.success() && output.stderr.is_empty());
    let streams: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(streams.len(), 11);
    assert_eq!(streams.iter().filter(|s| s["resumed"] == true).count(), 7);
}

#[test]
fn the_table_names_what_matters_to_people() {
    let output = tls_inspect(&[&capture("tls12_sessionid_openssl_nginx.pcap")]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("TLS 1.2") && text.contains("www.example.test") && text.contains("10.0.0.1:443"), "{text}");
    assert!(text.contains("37 secure (29 resumed, 8 not, 0 not known)"), "{text}");
}

#[test]
fn connections_without_tls_are_listed_on_request() {
    let name = capture("non_secure_on_tls_ports.pcap");
    let lines = |output: Output| String::from_utf8(output.stdout).unwrap().lines().count();
    let few = lines(tls_inspect(&[&name]));
    let all = lines(tls_inspect(&[&name, "--all"]));
    assert_eq!(all - few, 28 - 7);
}

#[test]
fn help_is_complete_and_is_no_error() {
    let output = tls_inspect(&["--help"]);
    assert!(output.status.success() && output.stderr.is_empty());
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["FILE", "--json", "--all", "pcapng", "exit status"] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
}

#[test]
fn mistakes_are_told_in_one_line() {
    refuses(&tls_inspect(&["--nonsense", "x"]), "--nonsense");
    refuses(&tls_inspect(&[]), "FILE");
    refuses(&tls_inspect(&["a", "b"]), "unexpected");
    refuses(&tls_inspect(&["no/such/file.pcap"]), "no/such/file.pcap cannot be read");
    refuses(&tls_inspect(&[env!("CARGO_TARGET_TMPDIR")]), "cannot be read");
    let path = |p: &PathBuf| p.to_string_lossy().into_owned();
    refuses(&tls_inspect(&[&path(&scratch("empty.pcap", b""))]), "is empty");
    refuses(&tls_inspect(&[&path(&scratch("text.pcap", b"not a capture at all, but long enough"))]), "is not a pcap");
}

#[test]
fn a_capture_cut_off_is_reported_as_far_as_it_goes() {
    let whole = std::fs::read(capture("tls12_sessionid_openssl_nginx.pcap")).unwrap();
    let cut = scratch("cut.pcap", &whole[..whole.len() / 2]);
    let output = tls_inspect(&[&cut.to_string_lossy(), "--json"]);
    refuses(&output, "cut off");
    assert!(output.stdout.iter().filter(|b| **b == b'\n').count() > 10, "streams of the first half");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tls-inspect"))
        .args([&capture("fleet_tls13_psk.pcap"), "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn what_is_not_read_is_named_and_the_exit_status_tells() {
    let wrapped = |name: &str| capture(&format!("../wrapped/{name}"));
    for (file, name) in [
        ("unread/ieee80211_linktype105.pcap", "link type 105 (IEEE 802.11) 8"),
        ("unread/macsec.pcap", "MACsec 8"),
        ("unread/nsh.pcap", "NSH 8"),
    ] {
        let output = tls_inspect(&[&wrapped(file)]);
        let (out, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{file}: {said}");
        assert!(said.contains(name) && said.contains(file) && out.contains(name), "{said}{out}");
        let output = tls_inspect(&[&wrapped(file), "--json"]);
        assert!(output.stdout.is_empty() && output.status.code() == Some(1));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), said);
    }
    let empty = scratch("no_frames.pcap", &std::fs::read(wrapped("mpls.pcap")).unwrap()[..24]);
    let output = tls_inspect(&[empty.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("the capture has no frames"));
    assert!(tls_inspect(&[&wrapped("loopback_addresses.pcap")]).status.success());
}
