//! What is said of a backend in JSON: over the control socket, and in the file that keeps overrides. Its words are those of the configuration file, and
//! read by the same functions.

use super::backend::max_connections;
use super::values::duration;
use super::{checks, tunnel};
use core::time::Duration;
use lb::{Agent, Asked, BackendLimits, Check, CheckKind, MemberSpec, Tunnel};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A number or a word.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `3`.
    Number(u64),
    /// `"3s"`.
    Text(String),
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Scalar::Number(n) => n.to_string(),
            Scalar::Text(text) => text.clone(),
        }
    }
}

/// A check or an agent: its keys, or `"off"`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Question {
    /// It is not asked.
    Word(String),
    /// As in the file.
    Keys(BTreeMap<String, Scalar>),
}

impl core::fmt::Display for Question {
    /// What is first of it: the kind of a check, the port of an agent.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Question::Word(word) => f.write_str(word),
            Question::Keys(keys) => {
                let first = keys.get("kind").or_else(|| keys.get("port"));
                f.write_str(&first.map(Scalar::text).unwrap_or_default())
            }
        }
    }
}

impl Question {
    fn of(told: Vec<(&'static str, String)>) -> Question {
        let scalar = |value: String| serde_json::from_str(&value).unwrap_or(Scalar::Text(value));
        Question::Keys(told.into_iter().map(|(key, value)| (key.to_string(), scalar(value))).collect())
    }

    /// A check.
    pub fn check(check: &Check) -> Question {
        Question::of(checks::told(check))
    }

    /// A tunnel.
    pub fn tunnel(tunnel: &Tunnel) -> Question {
        Question::of(tunnel::told(tunnel))
    }

    /// An agent.
    pub fn agent(agent: &Agent) -> Question {
        Question::of(checks::told_of(agent))
    }
}

/// What may be said beside name, address, weight and state. What is left away is not said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Particulars {
    /// Most connections.
    pub max_connections: Option<u32>,
    /// Most handshakes, in units, or `auto`.
    pub max_handshakes: Option<Scalar>,
    /// A duration.
    pub slow_start: Option<String>,
    /// How it is checked.
    pub check: Option<Question>,
    /// Its agent.
    pub agent_check: Option<Question>,
    /// How its packets are wrapped.
    pub tunnel: Option<Question>,
}

impl Particulars {
    /// Of a backend.
    pub fn of(backend: &MemberSpec) -> Particulars {
        let BackendLimits { max_connections, max_handshakes, slow_start } = &backend.limits;
        let auto = |text: String| text.parse().map_or(Scalar::Text(text), Scalar::Number);
        Particulars {
            max_connections: *max_connections,
            max_handshakes: max_handshakes.map(|most| auto(most.to_string())),
            slow_start: slow_start.map(|time: Duration| humantime::format_duration(time).to_string()),
            check: question(&backend.check, Question::check),
            agent_check: question(&backend.agent, Question::agent),
            tunnel: backend.tunnel.as_ref().map(Question::tunnel),
        }
    }

    /// Says them of a backend; or what is wrong with them.
    pub fn say(&self, backend: &mut MemberSpec) -> Result<(), String> {
        let named = |key: &'static str| move |why| format!("{key}: {why}");
        let limits = &mut backend.limits;
        if let Some(most) = &self.max_connections {
            limits.max_connections = Some(max_connections(&most.to_string()).map_err(named("max_connections"))?);
        }
        if let Some(most) = &self.max_handshakes {
            limits.max_handshakes = Some(most.text().parse().map_err(named("max_handshakes"))?);
        }
        if let Some(time) = &self.slow_start {
            limits.slow_start = Some(duration(time).map_err(named("slow_start"))?);
        }
        if let Some(question) = &self.check {
            backend.check = asked(question, check).map_err(named("check"))?;
        }
        if let Some(question) = &self.agent_check {
            backend.agent = asked(question, agent).map_err(named("agent_check"))?;
        }
        if let Some(question) = &self.tunnel {
            backend.tunnel = Some(tunnel(question, &mut backend.addr).map_err(named("tunnel"))?);
        }
        Ok(())
    }
}

fn question<T>(own: &Asked<T>, of: fn(&T) -> Question) -> Option<Question> {
    match own {
        Asked::AsPool => None,
        Asked::Off => Some(Question::Word(checks::OFF.to_string())),
        Asked::This(this) => Some(of(this)),
    }
}

type Keys = BTreeMap<String, Scalar>;

fn asked<T>(question: &Question, read: fn(&Keys) -> Result<T, String>) -> Result<Asked<T>, String> {
    match question {
        Question::Word(word) if word == checks::OFF => Ok(Asked::Off),
        Question::Word(_) => Err(format!("expected its keys, or \"{}\"", checks::OFF)),
        Question::Keys(keys) => read(keys).map(Asked::This),
    }
}

fn check(keys: &Keys) -> Result<Check, String> {
    let kind = keys.get("kind").ok_or("no 'kind': tcp, tls, http or https")?;
    let mut check = Check::new(CheckKind::Tcp);
    checks::set(&mut check, "kind", &kind.text())?;
    for (key, value) in keys {
        checks::set(&mut check, key, &value.text()).map_err(|why| format!("{key}: {why}"))?;
    }
    checks::fault(&check, |key| keys.contains_key(key)).map_or(Ok(check), Err)
}

fn agent(keys: &Keys) -> Result<Agent, String> {
    let port = keys.get("port").ok_or("no 'port'")?;
    let mut agent = Agent::at(checks::port(&port.text())?);
    for (key, value) in keys {
        checks::set_of(&mut agent, key, &value.text()).map_err(|why| format!("{key}: {why}"))?;
    }
    Ok(agent)
}

fn tunnel(question: &Question, addr: &mut SocketAddr) -> Result<Tunnel, String> {
    let Question::Keys(keys) = question else { return Err("expected its keys".into()) };
    let mut said = tunnel::Said::default();
    for (key, value) in keys {
        said.set(key, &value.text()).map_err(|why| format!("{key}: {why}"))?;
    }
    said.tunnel(addr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::backend;

    #[test]
    fn what_a_flag_says_of_a_backend_is_the_same_after_it_was_json_and_after_it_was_shown() {
        for flag in [
            "w=10.0.0.1:1,weight=1",
            "w=10.0.0.1:1,weight=1,max-connections=9,max-handshakes=400,slow-start=30s,check=off,agent=off",
            "w=10.0.0.1:1,weight=7,max-handshakes=auto,check=https,check-sni=a.example,check-path=/up?a=\"b\",check-host=h:8,check-method=HEAD,\
             check-expect=200-204,check-interval=5s,check-timeout=1s,check-rise=1,check-fall=9,check-port=8443,agent=9999,agent-interval=250ms",
            "w=10.0.0.1:1,weight=1,tunnel=ipip,tunnel-endpoint=203.0.113.5",
            "w=10.0.0.1:1,weight=1,tunnel=vxlan,tunnel-endpoint=[2001:db8::5]:8472,tunnel-vni=7,tunnel-mac=02:00:00:00:00:0a",
            "w=10.0.0.1:1,weight=1,tunnel=wireguard,tunnel-endpoint=203.0.113.5,tunnel-public-key=xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
        ] {
            let backend = backend::backend(flag).unwrap().backend;
            assert_eq!(backend::shown(&backend), flag);
            let mut other = MemberSpec { weight: backend.weight, ..MemberSpec::new("w", backend.addr) };
            Particulars::of(&backend).say(&mut other).unwrap();
            assert_eq!(other, backend);
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key() {
        let keys = |pairs: &[(&str, &str)]| {
            let pair = |(key, value): &(&str, &str)| (key.to_string(), Scalar::Text(value.to_string()));
            Some(Question::Keys(pairs.iter().map(pair).collect()))
        };
        let usual = Particulars::default;
        for (said, named) in [
            (Particulars { max_connections: Some(0), ..usual() }, "max_connections: expected a number"),
            (Particulars { max_handshakes: Some(Scalar::Text("some".into())), ..usual() }, "max_handshakes: "),
            (Particulars { slow_start: Some("soon".into()), ..usual() }, "slow_start: "),
            (
                Particulars { check: Some(Question::Word("on".into())), ..usual() },
                "check: expected its keys, or \"off\"",
            ),
            (Particulars { check: keys(&[("path", "/up")]), ..usual() }, "check: no 'kind'"),
            (Particulars { check: keys(&[("kind", "tls"), ("rise", "0")]), ..usual() }, "check: rise: "),
            (Particulars { check: keys(&[("kind", "tls"), ("path", "/")]), ..usual() }, "'path' says nothing"),
            (Particulars { check: keys(&[("kind", "tls"), ("colour", "red")]), ..usual() }, "unknown option 'colour'"),
            (Particulars { agent_check: keys(&[("interval", "1s")]), ..usual() }, "agent_check: no 'port'"),
            (Particulars { agent_check: keys(&[("port", "1"), ("interval", "1ms")]), ..usual() }, "interval: shorter"),
            (Particulars { tunnel: keys(&[("kind", "gre")]), ..usual() }, "tunnel: kind: expected ipip"),
            (Particulars { tunnel: keys(&[("kind", "gue")]), ..usual() }, "tunnel: a tunnel has no 'endpoint'"),
        ] {
            let why = said.say(&mut MemberSpec::new("w", "10.0.0.1:1".parse().unwrap())).unwrap_err();
            assert!(why.contains(named), "{why}");
        }
    }
}
