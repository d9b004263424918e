//! Which backends resume nothing, and why: the question that is asked first when affinity is doubted.

use crate::control::socket::api::{Backend, Offered};

/// Connections of a backend before anything is said of it: fewer may be chance.
const ENOUGH: u64 = 20;

/// A line for each backend that had connections enough and resumed none.
pub fn without(backends: &[Backend], offered: &[Offered]) -> Vec<String> {
    let none = |b: &&Backend| b.observed.connections >= ENOUGH && b.observed.resumed == 0;
    backends.iter().filter(none).map(|b| format!("{} has resumed no session: {}", b.name, why(b, offered))).collect()
}

fn why(backend: &Backend, offered: &[Offered]) -> String {
    let own =
        |number: fn(&Offered) -> u64| -> u64 { offered.iter().filter(|o| o.backend == backend.name).map(number).sum() };
    let (all, accepted, promised, unknown) =
        (own(|o| o.offered), own(|o| o.accepted), own(|o| o.promised), own(|o| o.unknown));
    let keys = backend.observed.keys.as_ref();
    if backend.observed.new_sessions == 0 {
        "no handshake of its was seen; it speaks no TLS, or its answers are not read".to_string()
    } else if keys.is_some_and(|keys| keys.takes_own == Some(false)) {
        "it does not take the tickets that it issues itself (asked by a handshake of our own)".to_string()
    } else if all == 0 {
        "no client has offered it one; it issues none, or clients do not come back within --session-ttl".to_string()
    } else if accepted > 0 {
        "those that it took are of connections that still live".to_string()
    } else if promised > 0 {
        format!(
            "it refused all {all} that it was offered, {promised} of them its own: its cache is too small, its keys were rotated, or it was restarted"
        )
    } else if unknown == all {
        format!(
            "no row of the tables knows any of the {all} that it was offered: they are older than --session-ttl, or nothing in them names a key"
        )
    } else {
        format!("it refused all {all} that it was offered, none of which it had issued as far as is known")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::socket::api::{Holds, Observed, TicketKeys};

    fn backend(connections: u64, resumed: u64, new_sessions: u64) -> Backend {
        Backend {
            name: "web1".into(),
            address: "10.1.0.1:443".parse().unwrap(),
            context: "direct".into(),
            wanted: None,
            overrides: vec![],
            in_force: None,
            in_force_by: None,
            holds: Holds::default(),
            observed: Observed { connections, resumed, new_sessions, ..observed() },
        }
    }

    fn observed() -> Observed {
        serde_json::from_value(serde_json::json!({
            "health": "up", "by": null, "why": null, "since": null, "check": null, "suspicion": null, "agent": null, "keys": null, "slots": null,
            "up": [], "flows": 0, "connections": 0, "resumed": 0, "new_sessions": 0, "bytes_to_server": 0, "bytes_to_client": 0,
        }))
        .unwrap()
    }

    fn offered(offered: u64, promised: u64, unknown: u64) -> Vec<Offered> {
        let kind = "ticket".to_string();
        let of = |backend: &str, offered| Offered {
            context: "direct".into(),
            kind: kind.clone(),
            backend: backend.into(),
            offered,
            promised,
            accepted: 0,
            refused: offered,
            broken: 0,
            unknown,
        };
        vec![of("web1", offered), of("web2", 1000)]
    }

    #[test]
    fn each_reason_is_told_and_nothing_of_those_who_resume_or_are_new() {
        for (backend, offers, says) in [
            (backend(19, 0, 19), vec![], ""),
            (backend(100, 1, 99), offered(50, 50, 0), ""),
            (backend(100, 0, 0), vec![], "web1 has resumed no session: no handshake of its was seen"),
            (backend(100, 0, 100), vec![], "no client has offered it one"),
            (backend(100, 0, 100), offered(50, 40, 0), "it refused all 50 that it was offered, 40 of them its own"),
            (backend(100, 0, 100), offered(50, 0, 50), "no row of the tables knows any of the 50"),
            (backend(100, 0, 100), offered(50, 0, 10), "none of which it had issued"),
        ] {
            let told = without(&[backend], &offers);
            assert!(told.concat().contains(says) && told.is_empty() == says.is_empty(), "{says}: {told:?}");
        }
        let mut refuses = backend(100, 0, 100);
        let keys = serde_json::json!({"state": "named", "names": [], "ages": [], "takes_own": false, "failed": null});
        refuses.observed.keys = Some(serde_json::from_value::<TicketKeys>(keys).unwrap());
        assert!(without(&[refuses], &[]).concat().contains("does not take the tickets that it issues itself"));
    }
}
