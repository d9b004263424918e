//! What a dispatcher would tell that is made up: each number is there once, so that none is taken for another.

use dispatcher::control::socket::api::{Offered, Pauses, Queue, Rows, Sessions, Worker};

/// The affinity tables, with one pair of kind and backend.
pub fn sessions(backend: &str) -> Sessions {
    let offered = Offered {
        kind: "psk".into(),
        backend: backend.into(),
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
    }
}
