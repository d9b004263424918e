//! What a dispatcher would tell that is made up: each number is there once, so that none is taken for another.

#![allow(dead_code, reason = "not every test that has this needs all of it")]

use dispatcher::control::socket::api::{
    Connection, Connections, Explanations, Offered, Pauses, Queue, Rows, Sessions, Tunnel, Worker,
};
use dispatcher::explain::{Candidate, Decided, Done, Explanation};

/// The affinity tables, with one pair of kind and backend.
pub fn sessions(backend: &str) -> Sessions {
    let offered = Offered {
        kind: "psk".into(),
        context: "direct".into(),
        backend: backend.into(),
        offered: 6,
        promised: 5,
        accepted: 4,
        refused: 2,
        broken: 1,
        unknown: 1,
    };
    let rows =
        Rows { session_ids: 1, tickets: 2, cookies: 6, key_names: 3, shared_key_names: 1, candidates: 4, refusals: 5 };
    Sessions { offered: vec![offered], rows, notes: vec!["rows are made up".into()] }
}

/// A worker that runs.
pub fn worker(worker: usize) -> Worker {
    Worker {
        worker,
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
    }
}

/// A tunnel whose packets are sealed.
pub fn tunnel(worker: usize, state: &str) -> Tunnel {
    Tunnel {
        kind: "wireguard".into(),
        endpoint: "203.0.113.5:51820".parse().unwrap(),
        backends: vec!["a".into(), "b".into()],
        worker,
        public_key: "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=".into(),
        own_public_key: "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=".into(),
        state: state.into(),
        since: 12.5,
        why: (state == "down").then(|| "its other end answers no handshake".into()),
        handshake: (state == "up").then_some(61.5),
        heard: Some(0.5),
        keepalive: 25.0,
        waiting: 2,
        bytes_in: 1_500_000,
        bytes_out: 1023,
        messages_in: 4000,
        messages_out: 3000,
        handshakes: 3,
        initiations: 5,
        unopened: 7,
        replayed: 1,
        old_handshakes: 0,
        flooded: 9,
    }
}

/// A line for room at backends.
pub fn queue() -> Queue {
    Queue {
        service: "shop".into(),
        pool: "api".into(),
        family: "IPv6".into(),
        class: "full".into(),
        waiting: 3,
        asked: 100,
        admitted: 90,
        waited: 60,
        spilled: 5,
        demoted: 4,
        abandoned: 3,
        timed_out: 2,
        refused: 2,
        waits: vec![10, 20, 30, 0],
        waited_ms: 105,
    }
}

/// Why two connections went where they went: one that is over, of which everything is known, and one of which nothing is yet.
pub fn explanations() -> Explanations {
    let step = |after_ms, what: &str, backend: Option<&str>| Done {
        after_ms,
        what: what.into(),
        backend: backend.map(str::to_string),
    };
    let known = Explanation {
        via: None,
        conn: 17,
        worker: 1,
        began: 1.5e9,
        client: Some("10.0.0.7:41022".parse().unwrap()),
        vip: Some("10.0.9.1:443".parse().unwrap()),
        service: Some("shop".into()),
        pool: Some("api".into()),
        balance: Some("least-conn".into()),
        backend: Some("web2".into()),
        local: Some("10.2.0.1:20001".parse().unwrap()),
        state: None,
        end: Some("fin".into()),
        class: Some("secure".into()),
        sni: Some("a.example".into()),
        offered: vec![dispatcher::explain::Offered {
            kind: "ticket".into(),
            key: Some("ab".repeat(32)),
            key_name: Some("cd".repeat(16)),
        }],
        unsaid: 1,
        row: Some(Decided {
            reason: "ticket-key".into(),
            key: "cd".repeat(16),
            proven: true,
            named: 1,
            followed: true,
        }),
        tls_version: Some("1.3".into()),
        resumed: Some(true),
        handshake_ms: Some(0.75),
        first_byte_ms: Some(2.5),
        bytes_to_server: 2315,
        bytes_to_client: 8120,
        queue_class: Some("resumes".into()),
        waited_ms: 12,
        spilled: false,
        steps: vec![
            step(0.5, "hello", None),
            step(0.5, "waits", None),
            step(12.5, "goes", Some("web2")),
            step(12.5, "dials", Some("web2")),
            step(13.0, "answers", Some("web2")),
            step(90.0, "ends", None),
        ],
        lost: 3,
        candidates: vec![Candidate {
            name: "web3".into(),
            state: "down".into(),
            why: Some("check: connection refused".into()),
            weight: 2,
        }],
    };
    let new = Explanation {
        conn: 18,
        began: 1.4e9,
        client: known.client,
        vip: known.vip,
        state: Some("await-hello".into()),
        ..Explanation::default()
    };
    Explanations { explanations: vec![known, new], more: true, late: vec![3], kept: 4096 }
}

/// Two connections: one of which everything is known, and one whose client has said nothing yet.
pub fn connections() -> Connections {
    let known = Connection {
        conn: 17,
        worker: 1,
        client: "[2001:db8::7]:41022".parse().unwrap(),
        vip: "[fd00::1]:443".parse().unwrap(),
        service: Some("shop".into()),
        pool: Some("api".into()),
        backend: Some("web2".into()),
        address: Some("[fd00:1::12]:443".parse().unwrap()),
        local: Some("[fd00:1::200]:20001".parse().unwrap()),
        state: "spliced".into(),
        age: 61.5,
        idle: 1.25,
        class: Some("secure".into()),
        reason: Some("ticket-key".into()),
        offered: vec!["session-id".into(), "ticket".into()],
        tls_version: Some("1.2".into()),
        resumed: Some(true),
        dial_attempts: 1,
        bytes_to_server: 2315,
        bytes_to_client: 8120,
    };
    let new = Connection {
        conn: 18,
        worker: 0,
        backend: None,
        address: None,
        local: None,
        state: "await-hello".into(),
        idle: 0.5,
        class: None,
        reason: None,
        offered: vec![],
        tls_version: None,
        resumed: None,
        dial_attempts: 0,
        bytes_to_server: 0,
        bytes_to_client: 0,
        ..known.clone()
    };
    Connections { connections: vec![known, new], more: true, late: vec![3] }
}
