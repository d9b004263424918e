//! The status page.

use super::answers::MadeUp;
use super::scene::Scene;
use dispatcher::control::socket::queue::{self};
use dispatcher::control::socket::serve::Times;
use hyper::Method;
use serde_json::Value;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn got(address: std::net::SocketAddr, path: &str) -> (String, String) {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_string())
}

#[test]
fn the_status_page_shows_what_the_control_socket_tells_and_may_ask_nobody_else() {
    let scene = Scene::new("status", true, Times::default());
    let (handle, queue) = queue::queue();
    // Somebody else may have taken the port meanwhile.
    let (address, serving) = std::iter::repeat_with(|| {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        dispatcher::metrics::server::start(address, handle.clone(), Times::default()).map(|serving| (address, serving))
    })
    .find_map(Result::ok)
    .unwrap();
    let (stop, told) = (Arc::new(AtomicBool::new(false)), scene.stop.clone());
    let ended = stop.clone();
    let owner = std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) && !told.load(Ordering::Relaxed) {
            queue.serve(&mut MadeUp { log: true }, Duration::from_millis(5));
        }
    });
    let (head, body) = got(address, "/status.json");
    assert!(head.starts_with("http/1.1 200") && head.contains("cache-control: no-store"), "{head}");
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["overview"], scene.ask(Method::GET, "/v1").1);
    for part in ["services", "backends", "sessions", "queues", "drops", "workers"] {
        assert_eq!(status[part], scene.ask(Method::GET, &format!("/v1/{part}")).1, "{part}");
    }
    let (head, body) = got(address, "/");
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: text/html"), "{head}");
    let policy = head.lines().find_map(|l| l.strip_prefix("content-security-policy: ")).unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert!(body.starts_with("<!doctype html>") && body.trim_end().ends_with("</html>"));
    assert!(got(address, "/v1").0.starts_with("http/1.1 404"));
    stop.store(true, Ordering::Relaxed);
    owner.join().unwrap();
    drop(serving);
}
