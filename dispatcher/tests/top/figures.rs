//! What a dispatcher would tell that is made up; and the same as JSON, as it goes over the socket.

use dispatcher::control::socket::api::*;
use serde_json::Value;

fn backend(name: &str, n: u64, health: &str, why: Option<&str>) -> Backend {
    let why = why.map(str::to_string);
    let wanted = Wanted {
        state: "up".into(),
        weights: vec![Weight { pool: "shop".into(), weight: 1 }],
        max_connections: None,
        max_handshakes: None,
        slow_start: None,
        check: None,
        agent_check: None,
    };
    let check = Checked {
        kind: "tls".into(),
        state: health.into(),
        since: 65.0,
        why: why.clone(),
        took: Some(0.0042),
        passed: 100,
        failed: 3,
    };
    let keys = TicketKeys {
        state: "named".into(),
        names: vec!["00112233445566778899aabbccddeeff".into()],
        ages: vec![7300.0],
        takes_own: Some(true),
        failed: None,
    };
    let slots = Slots { connections: 40, max_connections: Some(40), handshakes: 0, max_handshakes: None };
    let by = why.as_ref().map(|_| "check".to_string());
    Backend {
        name: name.into(),
        address: format!("10.1.0.{}:443", name.len() + usize::from(name.as_bytes()[name.len() - 1])).parse().unwrap(),
        context: "direct".into(),
        wanted: Some(wanted.clone()),
        overrides: vec![],
        in_force: Some(wanted),
        in_force_by: Some("file".into()),
        holds: Holds { state: health.into(), by: by.clone(), why: why.clone(), until: None },
        observed: Observed {
            health: health.into(),
            by,
            since: why.as_ref().map(|_| 65.0),
            why,
            check: Some(check),
            suspicion: None,
            agent: None,
            keys: Some(keys),
            slots: (name == "web1").then_some(slots),
            up: vec![health == "up"],
            flows: (name.len() as u64 + n) as u32,
            connections: 1000 + 200 * n,
            resumed: 750,
            new_sessions: 250,
            bytes_to_server: 1_000_000 * n,
            bytes_to_client: 30_000_000 * n,
        },
    }
}

fn event(number: u64, level: &str, text: &str) -> Event {
    let fields = [("backend", "web2"), ("by", "check")].map(|(name, value)| (name.to_string(), value.to_string()));
    Event {
        number,
        time: 1.5e9 + number as f64,
        kind: "backend".into(),
        level: level.into(),
        fields: fields.into(),
        text: text.into(),
    }
}

fn overview(n: u64) -> Overview {
    Overview {
        version: "1.2.3".into(),
        pid: 4711,
        uptime: 100.0 + 2.0 * n as f64,
        workers: 1,
        services: 1,
        backends: 3,
        backends_down: 1,
        flows: 12 + n as usize,
        connections: 5000 + 600 * n,
        offered: 100,
        resumed: 93,
        no_backend: 1,
        dropped: 40 + 10 * n,
    }
}

fn service() -> Service {
    let (what, who, why) = ("drain web10".into(), "uid 0".into(), Some("new disk".into()));
    Service {
        name: "shop".into(),
        listen: vec!["10.0.0.1:443".parse().unwrap(), "[fd00::1]:443".parse().unwrap()],
        pools: vec!["shop".into()],
        balance: "maglev".into(),
        affinity: true,
        cookie: None,
        proxy_protocol: false,
        accept_proxy: vec![],
        backends: ["web10", "web1", "web2"].map(String::from).to_vec(),
        overrides: vec![Override { what, who, since: 3, left: Some(60), why }],
        observed: Reached { up: 2, down: 1, flows: 12 },
    }
}

fn queue(n: u64) -> Queue {
    Queue {
        service: "shop".into(),
        pool: "shop".into(),
        family: "IPv4".into(),
        class: "full".into(),
        admitted: 90 + 4 * n,
        ..super::made_up::queue()
    }
}

/// The `n`th reading, two seconds after the one before.
pub fn status(n: u64) -> Status {
    let offered = Offered {
        kind: "psk".into(),
        context: "direct".into(),
        backend: "web1".into(),
        offered: 60 + 8 * n,
        promised: 50,
        accepted: 40,
        refused: 20,
        broken: 1,
        unknown: 9,
    };
    let drop = |reason: &str, frames, answered| Drop { reason: reason.into(), frames, answered };
    let worker = Worker {
        connections: 5000 + 600 * n,
        frames_in: 100_000 * n,
        frames_out: 90_000 * n,
        busy_turns: 900 + 30 * n,
        idle_turns: 100 + 10 * n,
        ..super::made_up::worker(0)
    };
    Status {
        overview: overview(n),
        services: vec![service()],
        backends: vec![
            backend("web10", n, "up", None),
            backend("web1", 2 * n, "up", None),
            backend("web2", 0, "down", Some("check tls: connection refused")),
        ],
        sessions: Sessions {
            offered: vec![offered],
            notes: vec!["web1 and web10 share a ticket key".into()],
            ..super::made_up::sessions("web1")
        },
        queues: vec![queue(n)],
        drops: vec![drop("bad-cookie", 30, 0), drop("no-flow", 10 + 10 * n, 2), drop("malformed", 0, 0)],
        workers: vec![worker],
        events: vec![
            event(1, "warning", "backend web2 is down: check tls: connection refused"),
            event(2, "info", "ticket key learned"),
        ],
    }
}

/// The same, as it goes over the socket.
pub fn reading(n: u64) -> Value {
    serde_json::to_value(status(n)).unwrap()
}
