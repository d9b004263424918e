//! Who gets the socket, and callers that are slow, silent or too many.

use super::scene::{Scene, folder};
use dispatcher::control::socket::client;
use dispatcher::control::socket::client::Question;
use dispatcher::control::socket::queue::{self};
use dispatcher::control::socket::serve::{CONNECTIONS, Times};
use dispatcher::control::socket::server::{self};
use hyper::Method;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

#[test]
fn only_its_owner_may_use_it_and_it_is_gone_at_the_end() {
    let scene = Scene::new("mode", true, Times::default());
    let mode = scene.socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    let socket = scene.socket.clone();
    scene.is_well();
    drop(scene);
    assert!(!socket.exists());
}

#[test]
fn the_socket_of_a_dead_process_is_taken_over_and_that_of_a_living_one_is_not() {
    let folder = folder("stale");
    let socket = folder.join("sub").join("control.sock");
    let start = || server::start(&socket, queue::queue().0, Times::default());
    // Its directory is made, where only that is missing.
    let living = start().unwrap();
    let refused = start().err().unwrap();
    assert!(refused.contains("another dispatcher answers there") && !refused.contains('\n'), "{refused}");
    drop(living);
    // Left behind, with nobody at the other end.
    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let second = start().unwrap();
    // Whoever took its place meanwhile keeps it.
    std::fs::remove_file(&socket).unwrap();
    let other = UnixListener::bind(&socket).unwrap();
    drop(second);
    assert!(UnixStream::connect(&socket).is_ok());
    drop(other);
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "precious").unwrap();
    let refused = start().err().unwrap();
    assert!(refused.contains("no socket"), "{refused}");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn who_takes_over_gets_the_connection_itself_and_nobody_by_mistake() {
    let scene = Scene::new("takeover", true, Times::default());
    assert_eq!(scene.ask(Method::POST, "/v1/takeover").0, 426, "that is no takeover");
    let head = "POST /v1/takeover HTTP/1.1\r\nHost: d\r\nConnection: upgrade\r\nUpgrade: dispatcher-takeover\r\n\r\n";
    let mut stream = UnixStream::connect(&scene.socket).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let uid = std::fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).unwrap();
    assert!(answer.ends_with(&format!("\r\n\r\nyours, uid {uid}, pid {}", std::process::id())), "{answer}");
    scene.is_well();
}

#[test]
fn clients_that_say_nothing_or_half_a_request_give_their_places_back() {
    let times = Times { head: Duration::from_millis(100), life: Duration::from_millis(400) };
    let scene = Scene::new("slow", true, times);
    for said in [
        &b""[..],
        b"GET /v1 HTTP/1.1\r\nHost: x\r\n",
        b"POST /v1/log/reopen HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{",
    ] {
        let held: Vec<_> = (0..2 * CONNECTIONS)
            .map(|_| {
                let mut stream = UnixStream::connect(&scene.socket).unwrap();
                // Where the machine is slow, the place may have been given back already.
                let _ = stream.write_all(said);
                stream
            })
            .collect();
        // All places are taken twice over; it is answered when they are given back, while these are still held. Who asks has no longer
        // than they have: on a slow machine it may have to ask again.
        let mut asked = 0;
        while client::request(&scene.socket, Question::new(Method::GET, "/v1")).map(|a| a.status) != Ok(200) {
            asked += 1;
            assert!(asked < 400, "{}", String::from_utf8_lossy(said));
            std::thread::sleep(Duration::from_millis(25));
        }
        drop(held);
    }
}

#[test]
fn a_request_that_fails_inside_is_answered_and_the_next_one_too() {
    let scene = Scene::new("panic", false, Times::default());
    for _ in 0..3 {
        let (status, answer) = scene.ask(Method::POST, "/v1/log/reopen");
        assert_eq!(status, 500, "{answer}");
        scene.is_well();
    }
}

#[test]
fn without_an_owner_the_answer_is_that_it_is_stopping() {
    let folder = folder("ownerless");
    let socket = folder.join("s");
    let (handle, queue) = queue::queue();
    let server = server::start(&socket, handle, Times::default()).unwrap();
    drop(queue);
    let question = || Question::new(Method::GET, "/v1");
    assert_eq!(client::request(&socket, question()).unwrap().status, 503);
    drop(server);
    let gone = client::request(&socket, question()).unwrap_err();
    assert!(gone.starts_with("no dispatcher answers at ") && !gone.contains('\n'), "{gone}");
    std::fs::remove_dir_all(&folder).unwrap();
}
