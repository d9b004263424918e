//! What changes something: over a version that the sender knows, and tried on recorded traffic before.

use super::answers::{APPLIED, LED, with};
use super::scene::Scene;
use dispatcher::control::file::MAX_FILE;
use dispatcher::control::socket::client;
use dispatcher::control::socket::client::Question;
use dispatcher::control::socket::serve::Times;
use hyper::Method;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

#[test]
fn a_file_is_taken_as_it_is_and_only_over_the_version_that_its_sender_knows() {
    let scene = Scene::new("file", true, Times::default());
    let put = |path: &str, only_if: Option<&str>, body: Vec<u8>| {
        let only_if = only_if.map(String::from);
        scene.put(Question { only_if, body: body.into(), ..Question::new(Method::PUT, path) })
    };
    let path = format!("/v1/configuration?dry_run=true&name={}", client::escaped("/etc/d i/ß.toml"));
    // Bytes that are no text come through, too: what is wrong with them is the reader's to say.
    let (status, answer) = put(&path, Some("v7"), vec![0xff; 1000]);
    assert_eq!((status, &answer["dry_run"]), (200, &Value::Bool(true)), "{answer}");
    assert_eq!(answer["changes"][0]["what"], "/etc/d i/ß.toml 1000");
    assert_eq!(put("/v1/configuration", Some("v6"), Vec::new()).0, 412);
    assert_eq!(put("/v1/configuration", Some("*"), Vec::new()).0, 412, "a star in quotes is a version");
    let (status, answer) = put("/v1/configuration?name=x", None, b"wrong".to_vec());
    assert_eq!((status, &answer["faults"][0]["hint"]), (422, &Value::from("right")));
    assert_eq!(put("/v1/configuration", None, vec![b'#'; MAX_FILE]).0, 200);
    assert_eq!(put("/v1/configuration", None, vec![b'#'; MAX_FILE + 1]).0, 413);
    for path in ["/v1/configuration?dry_run=perhaps", "/v1/configuration?dry-run=true", "/v1/configuration?name=a%0Ab"]
    {
        assert_eq!(put(path, None, Vec::new()).0, 400, "{path}");
    }
    // Who only looks is told what to name.
    for path in ["configuration", "backends", "diff"] {
        // Who closes his side before he has the answer may get none: this one waits.
        let mut stream = UnixStream::connect(&scene.socket).unwrap();
        write!(stream, "GET /v1/{path} HTTP/1.1\r\nHost: d\r\n\r\n").unwrap();
        let mut head = String::new();
        stream.read_to_string(&mut head).unwrap();
        assert!(head.to_lowercase().contains("etag: \"v7\"\r\n"), "{head}");
    }
}

#[test]
fn whoever_changes_something_is_told_to_the_owner_and_may_name_the_version_that_he_knows() {
    let scene = Scene::new("orders", true, Times::default());
    let (whole, named) = (Question::default, |only_if: &str| Some(only_if.to_string()));
    for (method, path, body, what) in [
        (Method::POST, "/v1/backends/a/drain", "", "drain a"),
        (Method::PUT, "/v1/backends/a/weight", r#"{"weight": 2}"#, "weight a 2"),
        (
            Method::POST,
            "/v1/pools/p/backends",
            r#"{"name": "c", "address": "10.0.0.3:443"}"#,
            "add p c=10.0.0.3:443,weight=1",
        ),
        (
            Method::POST,
            "/v1/pools/p/backends",
            r#"{"name": "c", "address": "10.0.0.3:443", "max_connections": 9, "max_handshakes": "auto", "slow_start": "30s",
                "check": {"kind": "tls", "interval": "1s", "fall": 2}, "agent_check": {"port": 9999, "interval": "5s"}}"#,
            "add p c=10.0.0.3:443,weight=1,max-connections=9,max-handshakes=auto,slow-start=30s,check=tls,check-interval=1s,check-fall=2,\
             agent=9999,agent-interval=5s",
        ),
        (Method::DELETE, "/v1/backends/a?now=true", "", "remove a --now"),
        (Method::POST, "/v1/reload?dry_run=true", "", "reload"),
        (Method::DELETE, "/v1/backends/a/sessions", "", "a"),
    ] {
        let question = Question { method, path: path.into(), body: body.into(), ..whole() };
        let (status, answer) = scene.put(Question { only_if: named("v7"), ..question.clone() });
        assert_eq!(status, 200, "{path}: {answer}");
        // SAFETY: cannot fail.
        let me = unsafe { libc::getuid() };
        let told = answer["changes"][0]["what"].as_str().or(answer["backend"].as_str()).unwrap();
        let by = format!("{what} by uid {me}, pid {}", std::process::id());
        assert!(told == by || told == what, "{told}");
        assert_eq!(scene.put(Question { only_if: named("v6"), ..question.clone() }).0, 412, "{path}");
        assert_eq!(scene.put(question).0, 200);
    }
}

#[test]
fn a_change_is_run_over_recorded_traffic_before_it_is_made_and_not_made_when_nothing_can_be_told_of_it() {
    let scene = Scene::new("against", true, Times::default());
    let file = scene.folder.join(LED);
    std::fs::write(&file, with(&["b", "c"])).unwrap();
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/captures");
    let ctl = |trace: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dispatcher"));
        command.args(["ctl", "--socket"]).arg(&scene.socket).arg("apply").arg(&file);
        let out = command.arg("--against").arg(captures.join(trace)).args(more).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code().unwrap(), text(&out.stdout), text(&out.stderr))
    };
    let fleet = "fleet_tls12_sessionid.pcap";
    let (code, told, error) = ctl(fleet, &["--dry-run"]);
    assert_eq!((code, error.as_str()), (0, ""), "{told}");
    assert!(
        told.contains("recorded connections, coming again after the change") && told.contains(": a, then "),
        "{told}"
    );
    assert!(told.contains("nothing was done: --dry-run") && APPLIED.load(Ordering::Relaxed) == 0, "{told}");
    let (code, told, _) = ctl(fleet, &[]);
    assert!(code == 0 && told.contains("sessions are lost") && told.contains("version v8, in force"), "{told}");
    assert_eq!(APPLIED.load(Ordering::Relaxed), 1);
    let (code, _, error) = ctl("ipv6_openssl_nginx.pcap", &[]);
    assert!(
        code == 1 && error.contains("at which a service listens") && error.contains("nothing was changed"),
        "{error}"
    );
    let (code, _, error) = ctl("no-such-file.pcap", &[]);
    assert!(code == 1 && error.contains("no-such-file.pcap"), "{error}");
    assert_eq!(APPLIED.load(Ordering::Relaxed), 1, "what cannot be told is not done");
}
