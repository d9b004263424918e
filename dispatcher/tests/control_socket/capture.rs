//! `dispatcher ctl capture`.

use super::scene::{Scene, ctl};
use dispatcher::control::socket::client;
use dispatcher::control::socket::client::Question;
use dispatcher::control::socket::serve::Times;
use hyper::Method;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What a capture has: interface, bytes, bytes that it had.
fn captured(path: &Path) -> Vec<(u32, Vec<u8>, usize)> {
    let capture = dispatcher::capture::Capture::open(path).unwrap();
    let frames = capture.frames().unwrap().map(Result::unwrap);
    frames.map(|f| (f.interface, f.bytes.to_vec(), f.original_len)).collect()
}

#[test]
fn a_capture_is_its_owners_and_ends_with_its_number_its_time_or_who_asked_for_it() {
    // Connections live for a second, unless their answer goes on and is read.
    let times = Times { life: Duration::from_secs(1), ..Times::default() };
    let scene = Scene::new("capture", false, times);
    let out = scene.folder.join("out.pcapng");
    let path = out.to_str().unwrap();
    // One that anybody could read was there.
    std::fs::write(&out, b"what was there").unwrap();
    std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o644)).unwrap();
    let frames = [(0, vec![0; 96], 200), (3, vec![1; 96], 200), (0, vec![2; 96], 200)];
    assert_eq!(ctl(&scene, &["capture", "--count", "2", "--out", path]), format!("2 frames in {path}\n"));
    assert_eq!(captured(&out), frames[..2]);
    assert_eq!(out.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let whole = std::fs::read(&out).unwrap();
    let says = |what: &str| whole.windows(what.len()).any(|at| at == what.as_bytes());
    assert!(says("dropped: made-up-0") && says("dropped: made-up-1") && says("lan-received") && says("wan-sent"));
    // Longer than a connection may live that is not read.
    assert_eq!(ctl(&scene, &["capture", "--for", "2500ms", "--out", path]), format!("3 frames in {path}\n"));
    assert_eq!(captured(&out), frames);
    // There is one at a time, and it ends when whoever asked for it has gone.
    let mut asker = UnixStream::connect(&scene.socket).unwrap();
    asker.write_all(b"GET /v1/capture?count=1000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut head = [0; 12];
    asker.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let status = || client::request(&scene.socket, Question::new(Method::GET, "/v1/capture?count=1")).unwrap().status;
    assert_eq!(status(), 409);
    scene.is_well();
    drop(asker);
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while status() != 200 {
        assert!(std::time::Instant::now() < end, "a capture that nobody reads goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
    for (query, status, says) in [
        ("backend=web9", 404, "there is no backend \"web9\""),
        ("client=x", 400, "client: "),
        ("drops=colour", 400, "there is no reason \"colour\""),
        ("count=0", 400, "count: 1 to 10000000"),
        ("snap=63", 400, "snap: 64 to 65557"),
        ("for=2h", 400, "for: 3600 s at most"),
    ] {
        let (got, answer) = scene.ask(Method::GET, &format!("/v1/capture?{query}"));
        assert_eq!(got, status, "{query}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(says), "{query}: {answer}");
    }
    // Where nothing is captured, what was there stays.
    let refused = Command::new(env!("CARGO_BIN_EXE_dispatcher"))
        .args(["ctl", "--socket", scene.socket.to_str().unwrap(), "capture", "--backend", "web9", "--out", path])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(captured(&out), frames);
}
