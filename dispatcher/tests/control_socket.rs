//! The control socket from outside: who gets it, what it answers, and what it survives. Behind it stands a dispatcher that is made up.

mod made_up;

use dispatcher::control::events::{self, Kind, News};
use dispatcher::control::file::MAX_FILE;
use dispatcher::control::overrides::Order;
use dispatcher::control::socket::api::*;
use dispatcher::control::socket::capture::{self, Taps};
use dispatcher::control::socket::client;
use dispatcher::control::socket::client::Question;
use dispatcher::control::socket::connections::{Asked, Walking};
use dispatcher::control::socket::explain;
use dispatcher::control::socket::queue::{self, Control, Upload};
use dispatcher::control::socket::router::{OPENAPI, PCAPNG, Peer, paths};
use dispatcher::control::socket::serve::{CONNECTIONS, Times};
use dispatcher::control::socket::server::{self, Server};
use dispatcher::engine::PortId;
use dispatcher::metrics::Figures;
use dispatcher::worker::Tap;
use dispatcher::worker::poll::Clock;
use hyper::Method;
use lb::{Directory, MemberSpec, Policy, PoolSpec};
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
            cookie: Some("SID".into()),
            proxy_protocol: false,
            accept_proxy: vec![],
            backends: vec!["a".into(), "b".into()],
            overrides: overrides(),
            observed: Reached { up: 1, down: 1, flows: 5 },
        }]
    }
    fn backends(&mut self) -> Vec<Backend> {
        let observed = Observed {
            health: "differs".into(),
            by: Some("check".into()),
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
            suspicion: Some(Suspicion {
                state: "down".into(),
                since: 4.5,
                why: Some("closed within the TLS handshake".into()),
                times: 3,
                until: Some(15.5),
            }),
            agent: Some(AgentSays { says: "drain, 75%".into(), since: 2.5, failed: None }),
            keys: Some(TicketKeys {
                state: "named".into(),
                names: vec!["00112233445566778899aabbccddeeff".into()],
                ages: vec![60.5],
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
            check: serde_json::from_str(r#"{"kind": "https", "path": "/up", "rise": 1}"#).unwrap(),
            agent_check: serde_json::from_str(r#"{"port": 9999, "interval": "5s"}"#).unwrap(),
        };
        let in_force = Some(Wanted { state: "draining".into(), ..wanted.clone() });
        let address = "10.1.0.1:443".parse().unwrap();
        let left = Backend {
            name: "b".into(),
            address,
            context: "gue 203.0.113.5:6080".into(),
            wanted: None,
            overrides: vec![],
            in_force: None,
            in_force_by: None,
            holds: Holds { state: "leaving".into(), ..Holds::default() },
            observed: observed.clone(),
        };
        vec![
            Backend {
                name: "a".into(),
                address,
                context: "direct".into(),
                wanted: Some(wanted),
                overrides: overrides(),
                in_force,
                in_force_by: Some("operator".into()),
                holds: Holds {
                    state: "draining".into(),
                    by: Some("operator".into()),
                    why: Some("new disk".into()),
                    until: Some(590.0),
                },
                observed,
            },
            left,
        ]
    }
    fn sessions(&mut self, _: &[Backend]) -> Sessions {
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
    fn tunnels(&mut self) -> Vec<Tunnel> {
        vec![made_up::tunnel(0, "up"), made_up::tunnel(1, "down")]
    }
    fn look_for(&mut self, asked: &Asked) -> Result<Walking, Problem> {
        // Of no worker: they have done at once.
        asked.begin(&shop(), &[])
    }
    fn look_for_trails(&mut self, asked: &explain::Asked) -> Result<Walking, Problem> {
        asked.begin(&[])
    }
    fn explanations(&mut self, _: &Walking) -> Explanations {
        made_up::explanations()
    }
    fn capture(&mut self, asked: &capture::Asked) -> Result<Taps, Problem> {
        let mut taps = asked.begin(&shop(), &[], vec!["lan".into(), "wan".into()], Clock::start())?;
        let tap = Arc::new(Tap::new(Default::default(), 96, 8));
        for n in 0..3u8 {
            let at = dispatcher::time::Time::from_millis(u64::from(n));
            tap.put(at, PortId(n % 2), n == 1, (&[n; 200], 200), &format!("dropped: made-up-{n}"));
        }
        taps.taps.push(tap);
        // For who sends nonsense behind a request, and reads on for as long as there is anything.
        if *asked == capture::Asked::default() {
            taps.time = Duration::from_millis(10);
        }
        Ok(taps)
    }
    fn connections(&mut self, _: &Walking) -> Connections {
        made_up::connections()
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
    fn take_over(&mut self, who: Peer, mut heir: UnixStream) {
        heir.set_nonblocking(false).unwrap();
        heir.write_all(format!("yours, {who}").as_bytes()).unwrap();
    }
    fn reopen_log(&mut self) -> Result<Reopened, Problem> {
        match self.log {
            true => Ok(Reopened { file: "/var/log/x".into() }),
            // One that would take a thread with it that does not look out.
            false => panic!("made up to fail"),
        }
    }
}

/// With a service `default` and a backend `web1`.
fn shop() -> Directory {
    let backends = vec![MemberSpec::new("web1", "10.9.0.1:443".parse().unwrap())];
    let pool = PoolSpec { backends, ..PoolSpec::default() };
    let wanted = lb::Wanted::single(vec!["10.0.0.1:443".parse().unwrap()], Policy::default(), pool);
    Directory::next(None, &wanted, |_| true).unwrap()
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
    events: events::Events,
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
        let events = queue.events().clone();
        events
            .tell(News::new(Kind::Backend, true, "backend a is down").with("backend", "a").with("by", "check"), 1.5e9);
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let owner = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                queue.serve(&mut MadeUp { log }, Duration::from_millis(5));
            }
            queue
        });
        Scene { folder, socket, events, server: Some(server), owner: Some(owner), stop }
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
                // One type, or one of several; null was seen to.
                let types = rule.as_array().map_or(std::slice::from_ref(rule), Vec::as_slice);
                let fits = types.iter().filter(|one| *one != "null").any(|one| match one.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "number" => value.is_number(),
                    "boolean" => value.is_boolean(),
                    other => panic!("{place}: type {other}"),
                });
                assert!(fits, "{place}: {value} is no {rule}");
            }
            "anyOf" => {
                // A schema by name for an object, one that stands there for a word.
                let fitting = rule.as_array().unwrap().iter().find(|one| one["$ref"].is_null() == value.is_string());
                check(value, fitting.unwrap(), document, place);
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
            if path == "/v1/capture" && method == Method::GET {
                // Not JSON, and it goes on until it has what was asked for.
                let content = described[path]["get"]["responses"]["200"]["content"].as_object().unwrap();
                assert_eq!(content.keys().collect::<Vec<_>>(), [PCAPNG]);
                let asked = Question::new(Method::GET, "/v1/capture?count=3");
                let answer = client::request(&scene.socket, asked).unwrap();
                assert_eq!((answer.status, &answer.body[..4]), (200, &[0x0a, 0x0d, 0x0d, 0x0a][..]));
                continue;
            }
            let (status, answer) = scene.put(question(body));
            if path == "/v1/takeover" && method == Method::POST {
                // For a connection that is to be no longer HTTP's.
                assert_eq!(status, 426);
                check(&answer, failure, &document, &place);
                continue;
            }
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

fn ctl(scene: &Scene, args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_dispatcher"))
        .args(["ctl", "--socket", scene.socket.to_str().unwrap()])
        .args(args)
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn events_are_told_from_a_number_on_and_who_waits_hears_of_the_next_one_and_keeps_nobody_out() {
    let scene = Scene::new("events", false, Times::default());
    assert_eq!(ctl(&scene, &["events"]), "    1 2017-07-14T02:40:00.000Z ! backend       backend a is down\n");
    let line: Value = serde_json::from_str(&ctl(&scene, &["events", "--since", "0", "--json"])).unwrap();
    assert_eq!((&line["fields"]["backend"], &line["fields"]["by"]), (&"a".into(), &"check".into()));
    assert_eq!(ctl(&scene, &["events", "--since", "1"]), "");
    // More than may wait at once, and as many as there are connections.
    let waiting: Vec<_> = (0..CONNECTIONS - 4)
        .map(|_| {
            let socket = scene.socket.clone();
            let question = Question::new(Method::GET, "/v1/events?after=1&wait=20");
            std::thread::spawn(move || client::request(&socket, question).unwrap())
        })
        .collect();
    // All but those who may wait are answered at once; and the others keep nobody from asking.
    while waiting.iter().filter(|w| w.is_finished()).count() < CONNECTIONS - 4 - CONNECTIONS / 4 {
        std::thread::sleep(Duration::from_millis(5));
    }
    scene.is_well();
    scene.events.tell(News::new(Kind::Link, true, "port wan: its link is down"), 1.5e9);
    let told: Vec<Value> =
        waiting.into_iter().map(|w| serde_json::from_slice(&w.join().unwrap().body).unwrap()).collect();
    let heard = told.iter().filter(|t| t["events"][0]["kind"] == "link").count();
    assert_eq!(heard, CONNECTIONS / 4);
    // A dispatcher that was started anew counts from the beginning: nothing of it is missed.
    assert_eq!(scene.ask(Method::GET, "/v1/events?after=99").1["events"].as_array().unwrap().len(), 2);
    for wrong in ["after=x", "after=-1", "before=1"] {
        assert_eq!(scene.ask(Method::GET, &format!("/v1/events?{wrong}")).0, 400, "{wrong}");
    }
}

/// What a plain GET at the address of metrics answers: its head and its body.
#[test]
fn drops_that_grow_are_told_alone_and_keys_with_who_shares_them() {
    let scene = Scene::new("questions", false, Times::default());
    let grown = ctl(&scene, &["show", "drops", "--over", "10ms"]);
    assert!(grown.starts_with("drops: none has grown in 0.0 s"), "{grown}");
    let keys = ctl(&scene, &["show", "keys"]);
    assert!(keys.contains("KEY NAME") && keys.lines().count() > 1, "{keys}");
}

#[test]
fn a_connection_is_explained_in_words_step_by_step() {
    let scene = Scene::new("explain", false, Times::default());
    let words = ctl(&scene, &["explain", "10.0.0.7:41022"]);
    for said in [
        "connection 17 of worker 1: 10.0.0.7:41022 to 10.0.9.1:443, ended: fin",
        "0.000 ms  began 2017-07-14T02:40:00.000000Z",
        "0.500 ms  the client's hello, for a.example",
        "offers a ticket abababababababababababababababab…, key name cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
        "and 1 identities more",
        "the table knows ticket-key cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd: it names one backend",
        "no backend has room: it waits, in class resumes",
        "12.500 ms  there is room at web2, after 12 ms",
        "web2 is chosen, by the row of its ticket-key, and dialled from 10.2.0.1:20001",
        "13.000 ms  web2 answers",
        "its hello: TLS 1.3, the session was resumed, 0.750 ms after the client's",
        "3 steps more",
        "90.000 ms  it ends: fin; 2315 bytes to the server, 8120 to the client",
        "web3: down (check: connection refused), weight 2",
        "connection 18 of worker 0: 10.0.0.7:41022 to 10.0.9.1:443, lives: await-hello",
        "nothing is decided yet",
        "(there are more: --limit)",
        "worker 3 did not answer in time",
    ] {
        assert!(words.contains(said), "{said}\n{words}");
    }
    let json: Value = serde_json::from_str(&ctl(&scene, &["explain", "--conn", "17", "--json"])).unwrap();
    assert_eq!(json["explanations"][0]["row"]["reason"], "ticket-key");
    for (path, says) in [
        ("/v1/explain?client=web1", "\"web1\" is no ADDR or ADDR:PORT"),
        ("/v1/explain?conn=1&limit=101", "limit: 1 to 100"),
    ] {
        let (status, body) = scene.ask(Method::GET, path);
        assert!(status == 400 && body["error"].as_str().unwrap().contains(says), "{path}: {body}");
    }
}

#[test]
fn connections_are_shown_as_they_are_told_and_what_is_meant_must_be_there() {
    let scene = Scene::new("connections", false, Times::default());
    let shown =
        ctl(&scene, &["show", "connections", "--backend", "web1", "--service", "default", "--client", "10.0.0.0/8"]);
    let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows[1],
        [
            "17",
            "[2001:db8::7]:41022",
            "[fd00::1]:443",
            "web2",
            "[fd00:1::200]:20001",
            "spliced",
            "secure",
            "session-id,ticket",
            "ticket-key",
            "yes",
            "61.5",
            "s",
            "1.2",
            "s",
            "2315",
            "8120"
        ]
    );
    assert_eq!(rows[2][3..10], ["-", "-", "await-hello", "-", "-", "-", "-"]);
    assert!(shown.contains("more than these 2: --limit") && shown.contains("worker 3 has not looked"), "{shown}");
    for (query, status, says) in [
        ("backend=web9", 404, "there is no backend \"web9\""),
        ("service=other", 404, "there is no service \"other\""),
        ("client=10.0.0.0%2F33", 400, "has not so many bits"),
        ("state=asleep", 400, "state: one of await-hello, queued, dialing, spliced"),
        ("limit=0", 400, "limit: 1 to 10000"),
        ("limit=10001", 400, "limit: 1 to 10000"),
        ("color=red", 400, "unknown field"),
        ("state=spliced&limit=10000&client=2001:db8::%2F32", 200, ""),
    ] {
        let (got, answer) = scene.ask(Method::GET, &format!("/v1/connections?{query}"));
        assert_eq!(got, status, "{query}: {answer}");
        assert!(answer["error"].as_str().unwrap_or_default().contains(says), "{query}: {answer}");
    }
    // Filters of connections say nothing of other things.
    let refused = Command::new(env!("CARGO_BIN_EXE_dispatcher"))
        .args(["ctl", "--socket"])
        .arg(&scene.socket)
        .args(["show", "drops", "--backend", "web1"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("go with `show connections` only"));
}

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
