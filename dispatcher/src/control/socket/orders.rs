//! What somebody asks to have changed: read from the bodies of requests, and checked as far as that can be done without knowing what
//! is there.

use super::api::Problem;
use super::router::Peer;
use crate::control::member::{Particulars, Question, Scalar};
use crate::control::name::check_name;
use crate::control::overrides::{MAX_WHY, Order, What};
use crate::control::values;
use lb::{MAX_WEIGHT, MemberSpec, State};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The body of a request to drain, disable, or make ready. May be left away.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// A duration, as in flags.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The body of a request for another weight.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewWeight {
    /// From 0.
    pub weight: u16,
    /// As in [`Terms`].
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// As in [`Terms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The body of a request for one more backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBackend {
    /// Its name.
    pub name: String,
    /// `ADDR:PORT`, IPv6 in brackets.
    pub address: String,
    /// From 0; 1 if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Most connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Most handshakes at a time, in units, or `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_handshakes: Option<Scalar>,
    /// A duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<String>,
    /// As in the configuration file: its keys, or `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Question>,
    /// As in the configuration file: its keys, or `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_check: Option<Question>,
    /// As in the configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Question>,
    /// As in [`Terms`].
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// As in [`Terms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl NewBackend {
    /// Of what a flag says.
    pub fn new(backend: &MemberSpec, time: Option<String>, why: Option<String>) -> NewBackend {
        let said = Particulars::of(backend);
        let Particulars { max_connections, max_handshakes, slow_start, check, agent_check, tunnel } = said;
        let (name, address, weight) = (backend.name.clone(), backend.addr.to_string(), Some(backend.weight));
        #[rustfmt::skip]
        let body = NewBackend {
            name, address, weight, max_connections, max_handshakes, slow_start, check, agent_check, tunnel, time, why,
        };
        body
    }
}

/// A backend is to be drained, disabled or ready.
pub fn state(who: Peer, state: State, backend: &str, body: &[u8]) -> Result<Order, Problem> {
    let terms = if body.is_empty() { Terms::default() } else { read(body)? };
    order(who, What::State(name("backend", backend)?, state), terms.time, terms.why)
}

/// A backend is to have another weight.
pub fn weight(who: Peer, backend: &str, body: &[u8]) -> Result<Order, Problem> {
    let NewWeight { weight, time, why } = read(body)?;
    order(who, What::Weight(name("backend", backend)?, bounded(weight)?), time, why)
}

/// There is to be one more backend.
pub fn add(who: Peer, pool: &str, body: &[u8]) -> Result<Order, Problem> {
    let body: NewBackend = read(body)?;
    let wrong = |why: String| Problem::new(400, why);
    let pool = name("pool", pool)?;
    let called = name("name", &body.name)?;
    let addr = values::socket_address(&body.address).map_err(|e| wrong(format!("address: {e}")))?;
    let weight = bounded(body.weight.unwrap_or(1))?;
    let NewBackend { max_connections, max_handshakes, slow_start, check, agent_check, tunnel, time, why, .. } = body;
    let mut backend = MemberSpec { weight, ..MemberSpec::new(called, addr) };
    let said = Particulars { max_connections, max_handshakes, slow_start, check, agent_check, tunnel };
    said.say(&mut backend).map_err(wrong)?;
    order(who, What::Add { pool, backend: Box::new(backend) }, time, why)
}

/// A backend is to go.
pub fn remove(who: Peer, backend: &str, now: bool) -> Result<Order, Problem> {
    order(who, What::Remove { backend: name("backend", backend)?, now }, None, None)
}

/// A name that could be one.
pub fn name(what: &str, name: &str) -> Result<String, Problem> {
    check_name(name).map(|()| name.to_string()).map_err(|e| Problem::new(400, format!("{what}: {e}")))
}

fn order(who: Peer, what: What, time: Option<String>, why: Option<String>) -> Result<Order, Problem> {
    let time = time.map(|t| values::duration(&t)).transpose();
    let time = time.map_err(|e| Problem::new(400, format!("for: {e}")))?;
    if let Some(why) = &why
        && (why.chars().count() > MAX_WHY || why.chars().any(char::is_control))
    {
        return Err(Problem::new(400, format!("why: at most {MAX_WHY} characters, on one line")));
    }
    Ok(Order { who: who.to_string(), what, time, why })
}

fn bounded(weight: u16) -> Result<u16, Problem> {
    if weight > MAX_WEIGHT {
        return Err(Problem::new(400, format!("weight is a number from 0 to {MAX_WEIGHT}")));
    }
    Ok(weight)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|e| Problem::new(400, format!("the body is not what is wanted here: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    const WHO: Peer = Peer { uid: 0, pid: None };

    #[test]
    fn an_order_has_its_terms_and_what_is_wrong_is_named() {
        let drain = state(WHO, State::Draining, "web1", br#"{"for": "10m", "why": "new disk"}"#).unwrap();
        assert_eq!(drain.what, What::State("web1".into(), State::Draining));
        assert_eq!((drain.time, drain.why.as_deref()), (Some(Duration::from_secs(600)), Some("new disk")));
        assert_eq!(state(WHO, State::Up, "web1", b"").unwrap().time, None);
        let added = add(WHO, "shop", br#"{"name": "w", "address": "[fd00::1]:443"}"#).unwrap();
        assert_eq!(added.what.to_string(), "add shop w=[fd00::1]:443,weight=1");
        let added = add(
            WHO,
            "shop",
            br#"{"name": "w", "address": "10.0.0.1:443", "max_connections": 9, "max_handshakes": 40, "slow_start": "30s",
                "check": {"kind": "https", "path": "/up", "rise": 1}, "agent_check": "off"}"#,
        );
        let line = "add shop w=10.0.0.1:443,weight=1,max-connections=9,max-handshakes=40,slow-start=30s,check=https,check-path=/up,check-rise=1,agent=off";
        assert_eq!(added.unwrap().what.to_string(), line);
        let long = format!(r#"{{"why": "{}"}}"#, "x".repeat(MAX_WHY + 1));
        for (body, named) in [
            (r#"{"for": "soon"}"#, "for: "),
            (r#"{"fro": "1m"}"#, "`fro`"),
            (r#"{"why": "a\nb"}"#, "why: "),
            (&long, "why: "),
            ("[", "line 1 column 1"),
        ] {
            let problem = state(WHO, State::Draining, "web1", body.as_bytes()).unwrap_err();
            assert!(problem.status == 400 && problem.failure.error.contains(named), "{body}: {problem:?}");
        }
        for (done, named) in [
            (weight(WHO, "web1", br#"{"weight": 1001}"#), "0 to 1000"),
            (weight(WHO, "web1", b"{}"), "`weight`"),
            (weight(WHO, "a b", br#"{"weight": 1}"#), "backend: "),
            (add(WHO, "shop", br#"{"name": "w", "address": "host:1"}"#), "address: "),
            (add(WHO, "", br#"{"name": "w", "address": "10.0.0.1:1"}"#), "pool: "),
            (add(WHO, "shop", br#"{"name": "w", "address": "10.0.0.1:1", "max_connections": 0}"#), "max_connections: "),
            (add(WHO, "shop", br#"{"name": "w", "address": "10.0.0.1:1", "check": {"kind": "ftp"}}"#), "check: "),
        ] {
            let problem = done.unwrap_err();
            assert!(problem.status == 400 && problem.failure.error.contains(named), "{problem:?}");
        }
    }
}
