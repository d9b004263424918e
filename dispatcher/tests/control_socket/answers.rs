//! A dispatcher that is made up: what it answers cannot be mistaken for anything else.

use crate::made_up;
use dispatcher::control::overrides::Order;
use dispatcher::control::socket::api::*;
use dispatcher::control::socket::capture::{self, Taps};
use dispatcher::control::socket::connections::{Asked, Walking};
use dispatcher::control::socket::explain;
use dispatcher::control::socket::queue::{Control, Upload};
use dispatcher::control::socket::router::Peer;
use dispatcher::engine::PortId;
use dispatcher::metrics::Figures;
use dispatcher::worker::Tap;
use dispatcher::worker::poll::Clock;
use lb::{Directory, MemberSpec, Policy, PoolSpec};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Says what cannot be mistaken for anything else.
pub struct MadeUp {
    pub log: bool,
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
pub fn shop() -> Directory {
    let backends = vec![MemberSpec::new("web1", "10.9.0.1:443".parse().unwrap())];
    let pool = PoolSpec { backends, ..PoolSpec::default() };
    let wanted = lb::Wanted::single(vec!["10.0.0.1:443".parse().unwrap()], Policy::default(), pool);
    Directory::next(None, &wanted, |_| true).unwrap()
}

/// The file of the test of `--against`, and how often it was applied.
pub const LED: &str = "led.toml";
pub static APPLIED: AtomicUsize = AtomicUsize::new(0);

/// A file of a service at addresses of a capture's, with these backends.
pub fn with(backends: &[&str]) -> String {
    let backend = |name: &&str| format!("{{ name = \"{name}\", address = \"10.9.0.{}:443\" }}", name.as_bytes()[0]);
    let backends = backends.iter().map(backend).collect::<Vec<_>>().join(", ");
    format!(
        "[[port]]\nname = \"net\"\ndriver = \"af-packet:eth0\"\nip = [\"10.9.0.1/24\"]\n\n[[service]]\nname = \"shop\"\n\
         listen = [\"10.0.0.2:443\", \"10.0.0.3:443\"]\npool = \"web\"\n\n[pool.web]\nbackend = [{backends}]\n"
    )
}

pub fn overrides() -> Vec<Override> {
    let by = |left, why| Override { what: "drain a".into(), who: "uid 0".into(), since: 3, left, why };
    vec![by(Some(5), None), by(None, Some("new disk".into()))]
}

pub fn applied(what: &str) -> Applied {
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
