//! The control socket from outside: who gets it, what it answers, and what it survives. Behind it stands a dispatcher that is made up.

mod made_up;

use dispatcher::control::file::MAX_FILE;
use dispatcher::control::overrides::Order;
use dispatcher::control::socket::api::*;
use dispatcher::control::socket::client;
use dispatcher::control::socket::client::Question;
use dispatcher::control::socket::queue::{self, Control, Upload};
use dispatcher::control::socket::router::{OPENAPI, paths};
use dispatcher::control::socket::serve::{CONNECTIONS, Times};
use dispatcher::control::socket::server::{self, Server};
use dispatcher::metrics::Figures;
use hyper::Method;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
            pools: vec!["default".into()],
            balance: "maglev".into(),
            affinity: true,
            proxy_protocol: false,
            backends: vec!["a".into(), "b".into()],
            overrides: overrides(),
            observed: Reached { up: 1, down: 1, flows: 5 },
        }]
    }
    fn backends(&mut self) -> Vec<Backend> {
        let observed = Observed {
            health: "differs".into(),
            why: Some("check tls: connection refused".into()),
            since: Some(1.5),
            check: Some(Checked {
                kind: "tls".into(),
                state: "down".into(),
                since: 1.5,
                why: Some("connection refused".into()),
                took: Some(0.25),
                passed: 7,
                failed: 3,
            }),
            agent: Some(AgentSays { says: "drain, 75%".into(), since: 2.5, failed: None }),
            keys: Some(TicketKeys {
                state: "named".into(),
                names: vec!["00112233445566778899aabbccddeeff".into()],
                takes_own: Some(true),
                failed: None,
            }),
            slots: Some(Slots { connections: 7, max_connections: Some(4000), handshakes: 30, max_handshakes: None }),
            up: vec![true, false],
            flows: 5,
            connections: 100,
            resumed: 49,
            new_sessions: 51,
            bytes_to_server: 1,
            bytes_to_client: 2,
        };
        let wanted = Wanted {
            state: "up".into(),
            weights: vec![Weight { pool: "default".into(), weight: 3 }],
            max_connections: Some(4000),
            max_handshakes: Some("auto".into()),
            slow_start: None,
        };
        let in_force = Some(Wanted { state: "draining".into(), ..wanted.clone() });
        let address = "10.1.0.1:443".parse().unwrap();
        let left = Backend {
            name: "b".into(),
            address,
            wanted: None,
            overrides: vec![],
            in_force: None,
            observed: observed.clone(),
        };
        vec![
            Backend { name: "a".into(), address, wanted: Some(wanted), overrides: overrides(), in_force, observed },
            left,
        ]
    }
    fn sessions(&mut self) -> Sessions {
        made_up::sessions("a")
    }
    fn workers(&mut self) -> Vec<Worker> {
        vec![made_up::worker(0)]
    }
    fn drops(&mut self) -> Vec<Drop> {
        vec![Drop { reason: "bad-cookie".into(), frames: 3, answered: 2 }]
    }
    fn queues(&mut self) -> Vec<Queue> {
        vec![made_up::queue()]
    }
    fn figures(&mut self) -> Figures {
        Figures::default()
    }
    fn version(&self) -> String {
        "v7".into()
    }
    fn configuration(&mut self) -> Configuration {
        Configuration {
            version: "v7".into(),
            file: Some("/etc/x.toml".into()),
            text: Some("# nothing".into()),
            in_force: with(&["a", "b", "c"]),
        }
    }
    fn apply(&mut self, file: Upload) -> Result<Applied, Problem> {
        if file.text == b"wrong" {
            let fault = Fault { line: 1, column: 1, what: "wrong".into(), hint: Some("right".into()) };
            let error = format!("{}: 1 fault, nothing was changed", file.name);
            return Err(Problem { status: 422, failure: Failure { error, faults: vec![fault] } });
        }
        if !file.dry_run && file.name.ends_with(LED) {
            APPLIED.fetch_add(1, Ordering::Relaxed);
        }
        let in_force = file.dry_run.then(|| String::from_utf8_lossy(&file.text).into_owned());
        Ok(Applied { dry_run: file.dry_run, in_force, ..applied(&format!("{} {}", file.name, file.text.len())) })
    }
    fn reload(&mut self, dry_run: bool) -> Result<Applied, Problem> {
        Ok(Applied { dry_run, ..applied("reload") })
    }
    fn diff(&mut self) -> Result<Diff, Problem> {
        let notes = vec!["made up".into()];
        Ok(Diff { changes: applied("weight a 1 -> 2").changes, overrides: overrides(), notes })
    }
    fn order(&mut self, order: Order) -> Result<Applied, Problem> {
        Ok(applied(&format!("{} by {}", order.what, order.who)))
    }
    fn forget(&mut self, backend: &str) -> Result<Forgotten, Problem> {
        Ok(Forgotten { backend: backend.into(), took: 0.001 })
    }
    fn reopen_log(&mut self) -> Result<Reopened, Problem> {
        match self.log {
            true => Ok(Reopened { file: "/var/log/x".into() }),
            // One that would take a thread with it that does not look out.
            false => panic!("made up to fail"),
        }
    }
}

/// The file of the test of `--against`, and how often it was applied.
const LED: &str = "led.toml";
static APPLIED: AtomicUsize = AtomicUsize::new(0);

/// A file of a service at addresses of a capture's, with these backends.
fn with(backends: &[&str]) -> String {
    let backend = |name: &&str| format!("{{ name = \"{name}\", address = \"10.9.0.{}:443\" }}", name.as_bytes()[0]);
    let backends = backends.iter().map(backend).collect::<Vec<_>>().join(", ");
    format!(
        "[[port]]\nname = \"net\"\ndriver = \"af-packet:eth0\"\nip = [\"10.9.0.1/24\"]\n\n[[service]]\nname = \"shop\"\n\
         listen = [\"10.0.0.2:443\", \"10.0.0.3:443\"]\npool = \"web\"\n\n[pool.web]\nbackend = [{backends}]\n"
    )
}

fn overrides() -> Vec<Override> {
    let by = |left, why| Override { what: "drain a".into(), who: "uid 0".into(), since: 3, left, why };
    vec![by(Some(5), None), by(None, Some("new disk".into()))]
}

fn applied(what: &str) -> Applied {
    let changes = vec![Change { sign: "~".into(), what: what.into() }];
    Applied {
        version: "v8".into(),
        dry_run: false,
        changes,
        notes: vec!["made up".into()],
        took: 0.001,
        in_force: None,
    }
}

/// A server with its owner, until it is dropped.
struct Scene {
    folder: PathBuf,
    socket: PathBuf,
    server: Option<Server>,
    owner: Option<JoinHandle<queue::Queue>>,
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
        self.put(Question::new(method, path))
    }

    fn put(&self, question: Question) -> (u16, Value) {
        let answer = client::request(&self.socket, question).unwrap();
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
    if value.is_null() && schema["type"].as_array().is_some_and(|all| all.contains(&"null".into())) {
        return;
    }
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
                // One type, or one and null.
                let rule = if rule.is_array() { &rule[0] } else { rule };
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
            "maximum" => assert!(value.as_f64() <= rule.as_f64(), "{place}: {value}"),
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
            let place = format!("{method} {path}");
            let question = |body: Vec<u8>| Question {
                body: body.into(),
                ..Question::new(method.clone(), path.replace("{backend}", "web1").replace("{pool}", "shop"))
            };
            // What stands there as an example is as described, too, and is taken.
            let wanted = &described[path][method.as_str().to_lowercase()]["requestBody"]["content"];
            let body = match wanted.as_object().and_then(|all| all.iter().next()) {
                None => Vec::new(),
                Some((_, content)) => {
                    check(&content["example"], &content["schema"], &document, &place);
                    content["example"].as_str().map_or(content["example"].to_string(), str::to_string).into_bytes()
                }
            };
            let (status, answer) = scene.put(question(body));
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
        .map(|path| path.replace("{backend}", "web1").replace("{pool}", "shop"))
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
