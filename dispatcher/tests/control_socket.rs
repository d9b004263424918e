//! The control socket from outside: who gets it, what it answers, and what it survives. Behind it stands a dispatcher that is made up.

use dispatcher::control::socket::api::*;
use dispatcher::control::socket::client;
use dispatcher::control::socket::queue::{self, Control, Queue};
use dispatcher::control::socket::router::{OPENAPI, paths};
use dispatcher::control::socket::server::{self, CONNECTIONS, Server, Times};
use hyper::Method;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Says what cannot be mistaken for anything else.
struct MadeUp {
    log: bool,
}

impl Control for MadeUp {
    fn overview(&mut self) -> Overview {
        Overview {
            version: "1.2.3".into(),
            pid: 7,
            uptime: 1.5,
            workers: 2,
            services: 1,
            backends: 2,
            backends_down: 1,
            flows: 5,
            connections: 100,
            offered: 50,
            resumed: 49,
            no_backend: 1,
            dropped: 3,
        }
    }
    fn services(&mut self) -> Vec<Service> {
        vec![Service {
            name: "default".into(),
            listen: vec!["10.0.0.1:443".parse().unwrap(), "[fd00::1]:443".parse().unwrap()],
            balance: "maglev".into(),
            affinity: true,
            proxy_protocol: false,
            backends: vec!["a".into(), "b".into()],
        }]
    }
    fn backends(&mut self) -> Vec<Backend> {
        let observed = Observed {
            health: "differs".into(),
            up: vec![true, false],
            flows: 5,
            connections: 100,
            resumed: 49,
            new_sessions: 51,
            bytes_to_server: 1,
            bytes_to_client: 2,
        };
        let wanted = Wanted { state: "up".into(), weight: 3 };
        vec![Backend { name: "a".into(), address: "10.1.0.1:443".parse().unwrap(), wanted, observed }]
    }
    fn sessions(&mut self) -> Sessions {
        let offered = Offered {
            kind: "psk".into(),
            backend: "a".into(),
            offered: 6,
            promised: 5,
            accepted: 4,
            refused: 2,
            broken: 1,
            unknown: 1,
        };
        let rows = Rows { session_ids: 1, tickets: 2, key_names: 3, shared_key_names: 1, candidates: 4, refusals: 5 };
        Sessions { offered: vec![offered], rows, notes: vec!["rows are made up".into()] }
    }
    fn workers(&mut self) -> Vec<Worker> {
        vec![Worker {
            worker: 0,
            running: true,
            flows: 5,
            connections: 100,
            frames_in: 1,
            frames_out: 2,
            handed_over: 3,
            received: 4,
            busy_turns: 5,
            idle_turns: 6,
            pauses: Pauses {
                changes: 7,
                change_median: 0.0001,
                change_p99: 0.0002,
                change_longest: 0.0003,
                turn_longest: 0.004,
            },
        }]
    }
    fn drops(&mut self) -> Vec<Drop> {
        vec![Drop { reason: "bad-cookie".into(), frames: 3, answered: 2 }]
    }
    fn reopen_log(&mut self) -> Result<Reopened, Problem> {
        match self.log {
            true => Ok(Reopened { file: "/var/log/x".into() }),
            // One that would take a thread with it that does not look out.
            false => panic!("made up to fail"),
        }
    }
}

/// A server with its owner, until it is dropped.
struct Scene {
    folder: PathBuf,
    socket: PathBuf,
    server: Option<Server>,
    owner: Option<JoinHandle<Queue>>,
    stop: Arc<AtomicBool>,
}

impl Scene {
    fn new(name: &str, log: bool, times: Times) -> Scene {
        let folder = folder(name);
        let socket = folder.join("control.sock");
        let (handle, queue) = queue::queue();
        let server = server::start(&socket, handle, times).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let owner = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                queue.serve(&mut MadeUp { log }, Duration::from_millis(5));
            }
            queue
        });
        Scene { folder, socket, server: Some(server), owner: Some(owner), stop }
    }

    fn ask(&self, method: Method, path: &str) -> (u16, Value) {
        let answer = client::request(&self.socket, method, path).unwrap();
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }

    /// Bytes sent as they are, with nothing behind them; what comes back.
    fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        // The server may have had enough before all was sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    fn is_well(&self) {
        assert_eq!(self.ask(Method::GET, "/v1").1["version"], "1.2.3");
    }
}

impl std::ops::Drop for Scene {
    fn drop(&mut self) {
        drop(self.server.take());
        self.stop.store(true, Ordering::Relaxed);
        if let Some(owner) = self.owner.take() {
            let _ = owner.join();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("dispatcher-control-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Is the value what the schema says? Only what docs/openapi.json uses of JSON Schema is known here; anything else fails.
fn check(value: &Value, schema: &Value, document: &Value, place: &str) {
    for (key, rule) in schema.as_object().unwrap() {
        match key.as_str() {
            "description" => {}
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
                check(
                    value,
                    document.pointer(pointer).unwrap_or_else(|| panic!("{place}: {pointer}")),
                    document,
                    place,
                );
            }
            "type" => {
                let fits = match rule.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "number" => value.is_number(),
                    "boolean" => value.is_boolean(),
                    other => panic!("{place}: type {other}"),
                };
                assert!(fits, "{place}: {value} is no {rule}");
            }
            "minimum" => assert!(value.as_f64() >= rule.as_f64(), "{place}: {value}"),
            "enum" => assert!(rule.as_array().unwrap().contains(value), "{place}: {value} is none of {rule}"),
            "items" => value.as_array().unwrap().iter().for_each(|v| check(v, rule, document, &format!("{place}[]"))),
            "required" => rule
                .as_array()
                .unwrap()
                .iter()
                .for_each(|key| assert!(value.get(key.as_str().unwrap()).is_some(), "{place}: {key} is missing")),
            "properties" => {
                for (key, value) in value.as_object().unwrap() {
                    let place = format!("{place}.{key}");
                    check(value, rule.get(key).unwrap_or_else(|| panic!("{place}: not described")), document, &place);
                }
            }
            "additionalProperties" => assert_eq!(rule, &Value::Bool(false)),
            other => panic!("{place}: {other}"),
        }
    }
}

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH];

#[test]
fn the_description_has_every_path_and_method_and_every_answer_is_as_described() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let described = document["paths"].as_object().unwrap();
    let mut known = paths();
    known.sort_unstable();
    let mut listed: Vec<&str> = described.keys().map(|k| k.as_str()).collect();
    listed.sort_unstable();
    assert_eq!(known, listed);
    let scene = Scene::new("described", true, Times::default());
    let failure = &document["components"]["schemas"]["Failure"];
    for path in known {
        for method in METHODS {
            let (status, answer) = scene.ask(method.clone(), path);
            let place = format!("{method} {path}");
            match described[path].get(method.as_str().to_lowercase()) {
                None => {
                    assert_eq!(status, 405, "{place}");
                    check(&answer, failure, &document, &place);
                }
                Some(described) => {
                    assert_eq!(status, 200, "{place}: {answer}");
                    let content = &described["responses"]["200"]["content"]["application/json"];
                    check(&answer, &content["schema"], &document, &place);
                }
            }
        }
    }
    let (status, answer) = scene.ask(Method::GET, "/v1/nonsense");
    assert_eq!(status, 404);
    check(&answer, failure, &document, "404");
}

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
        while client::request(&scene.socket, Method::GET, "/v1").map(|a| a.status) != Ok(200) {
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
    assert_eq!(client::request(&socket, Method::GET, "/v1").unwrap().status, 503);
    drop(server);
    let gone = client::request(&socket, Method::GET, "/v1").unwrap_err();
    assert!(gone.starts_with("no dispatcher answers at ") && !gone.contains('\n'), "{gone}");
    std::fs::remove_dir_all(&folder).unwrap();
}

/// xorshift: the same nonsense in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n.max(1)
    }
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn ten_thousand_nonsense_requests_cost_nothing_and_it_still_answers() {
    let scene = Scene::new("nonsense", true, Times::default());
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let whole: Vec<Vec<u8>> = paths()
        .iter()
        .flat_map(|path| METHODS.map(|m| format!("{m} {path} HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{{}}")))
        .map(String::into_bytes)
        .collect();
    let before = resident();
    for n in 0..10_000 {
        let mut bytes = whole[dice.below(whole.len())].clone();
        match n % 5 {
            // Cut anywhere.
            0 => bytes.truncate(dice.below(bytes.len())),
            // Some bytes are others.
            1 => (0..1 + dice.below(4)).for_each(|_| {
                let at = dice.below(bytes.len());
                bytes[at] = dice.below(256) as u8;
            }),
            // Nothing but noise.
            2 => bytes = (0..dice.below(400)).map(|_| dice.below(256) as u8).collect(),
            // A path, a header or a number of headers that is too long; a body that was not announced so.
            3 => {
                let much = dice.below(if n % 100 == 3 { 1 << 20 } else { 4000 });
                bytes = match dice.below(4) {
                    0 => format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(much)).into_bytes(),
                    1 => format!("GET /v1 HTTP/1.1\r\nX: {}\r\n\r\n", "b".repeat(much)).into_bytes(),
                    2 => format!("GET /v1 HTTP/1.1\r\n{}\r\n", "c: d\r\n".repeat(much / 6)).into_bytes(),
                    _ => {
                        [&b"POST /v1/log/reopen HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"[..], &vec![b'f'; much]]
                            .concat()
                    }
                };
            }
            // Another length than is announced, and one request behind the other.
            _ => {
                let length = [0, 1, 3, 1 << 20, usize::MAX][dice.below(5)];
                let text = format!("POST /v1/log/reopen HTTP/1.1\r\nHost: d\r\nContent-Length: {length}\r\n\r\n{{}}");
                bytes = text.repeat(1 + dice.below(3)).into_bytes();
            }
        }
        scene.raw(&bytes);
        if n % 1000 == 999 {
            scene.is_well();
        }
    }
    let after = resident();
    assert!(after < before + (32 << 20), "{before} bytes resident before, {after} after");
}
