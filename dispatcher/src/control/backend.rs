//! Backends as flags say them. The keys of the file are read by the same functions.

use super::name::check_name;
use super::values::{MAX_WEIGHT, duration, number, once, socket_address};
use super::{checks, tunnel};
use lb::admission::slots::MOST;
use lb::{Agent, Asked, BackendLimits, Check, MemberSpec};

/// What a flag says of a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendArg {
    /// The backend.
    pub backend: MemberSpec,
    /// What is said of its check beside the kind: goes before what is said of all checks.
    pub check_keys: Vec<(String, String)>,
}

const OPTIONS: &str = "weight=N, max-connections=N, max-handshakes=N or auto, slow-start=D, check=KIND or off, check-KEY=VALUE, agent=PORT or off, agent-interval=D, tunnel=KIND, tunnel-KEY=VALUE";

/// `NAME=ADDR:PORT[,KEY=VALUE]...`.
pub fn backend(text: &str) -> Result<BackendArg, String> {
    let (name, rest) = text.split_once('=').ok_or("expected NAME=ADDR:PORT[,weight=N]")?;
    check_name(name)?;
    let mut parts = rest.split(',');
    let mut backend = MemberSpec::new(name, socket_address(parts.next().unwrap_or(""))?);
    let (mut given, mut check_keys, mut interval) = (Vec::new(), Vec::new(), None);
    let mut said = tunnel::Said::default();
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        once(&mut given, key)?;
        let limits = &mut backend.limits;
        let of_key = |why: String| format!("{key}: {why}");
        match (key, key.strip_prefix("check-").filter(|key| checks::KEYS[1..].contains(key))) {
            ("weight", _) => backend.weight = weight(value).map_err(of_key)?,
            ("max-connections", _) => limits.max_connections = Some(max_connections(value).map_err(of_key)?),
            ("max-handshakes", _) => limits.max_handshakes = Some(value.parse().map_err(of_key)?),
            ("slow-start", _) => limits.slow_start = Some(duration(value).map_err(of_key)?),
            ("check", _) if value == checks::OFF => backend.check = Asked::Off,
            ("check", _) => {
                let kind = checks::kind(value).map_err(|why| of_key(format!("{why}, or off")))?;
                backend.check = Asked::This(Check::new(kind));
            }
            (_, Some(of_check)) => check_keys.push((of_check.to_string(), value.to_string())),
            ("agent", _) if value == checks::OFF => backend.agent = Asked::Off,
            ("agent", _) => backend.agent = Asked::This(Agent::at(checks::port(value).map_err(of_key)?)),
            ("agent-interval", _) => interval = Some(checks::interval(value).map_err(of_key)?),
            ("tunnel", _) => said.set("kind", value).map_err(of_key)?,
            _ if let Some(of_tunnel) = key.strip_prefix("tunnel-").filter(|key| tunnel::KEYS[1..].contains(key)) => {
                said.set(of_tunnel, value).map_err(of_key)?;
            }
            _ => return Err(format!("unknown option '{part}' (there are {OPTIONS})")),
        }
    }
    match (&mut backend.check, check_keys.first()) {
        (Asked::This(check), _) => set_keys(check, &check_keys)?,
        (_, Some((key, _))) => return Err(format!("check-{key}: it has no check=KIND")),
        _ => {}
    }
    match (&mut backend.agent, interval) {
        (Asked::This(agent), Some(interval)) => agent.interval = interval,
        (_, Some(_)) => return Err("agent-interval: it has no agent=PORT".into()),
        _ => {}
    }
    if !said.is_empty() {
        backend.tunnel = Some(said.tunnel(&mut backend.addr)?);
    }
    Ok(BackendArg { backend, check_keys })
}

/// What is said of one backend's check.
pub fn set_keys(check: &mut Check, keys: &[(String, String)]) -> Result<(), String> {
    for (key, value) in keys {
        checks::set(check, key, value).map_err(|why| format!("check-{key}: {why}"))?;
    }
    checks::fault(check, |key| keys.iter().any(|(told, _)| told == key)).map_or(Ok(()), Err)
}

/// As [`backend`] reads it: the address, and what is not as usual; the weight always.
pub fn shown(backend: &MemberSpec) -> String {
    let MemberSpec { name, addr, weight, limits, check, agent, tunnel, state: _ } = backend;
    let BackendLimits { max_connections, max_handshakes, slow_start } = limits;
    let mut line = format!("{name}={addr},weight={weight}");
    let mut put = |key: &str, value: String| line += &format!(",{key}={value}");
    max_connections.iter().for_each(|n| put("max-connections", n.to_string()));
    max_handshakes.iter().for_each(|n| put("max-handshakes", n.to_string()));
    slow_start.iter().for_each(|time| put("slow-start", humantime::format_duration(*time).to_string()));
    match check {
        Asked::AsPool => {}
        Asked::Off => put("check", checks::OFF.into()),
        Asked::This(check) => {
            for (key, value) in checks::plain(checks::told(check)) {
                if key == "kind" { put("check", value) } else { put(&format!("check-{key}"), value) }
            }
        }
    }
    match agent {
        Asked::AsPool => {}
        Asked::Off => put("agent", checks::OFF.into()),
        Asked::This(agent) => {
            for (key, value) in checks::plain(checks::told_of(agent)) {
                if key == "port" { put("agent", value) } else { put(&format!("agent-{key}"), value) }
            }
        }
    }
    for (key, value) in tunnel.iter().flat_map(|tunnel| checks::plain(tunnel::told(tunnel))) {
        if key == "kind" { put("tunnel", value) } else { put(&format!("tunnel-{key}"), value) }
    }
    line
}

/// 0 to [`MAX_WEIGHT`].
pub fn weight(text: &str) -> Result<u16, String> {
    number(text, 0, MAX_WEIGHT)
}

/// 1 to [`MOST`].
pub fn max_connections(text: &str) -> Result<u32, String> {
    number(text, 1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use lb::MaxHandshakes;

    fn member(text: &str) -> Result<MemberSpec, String> {
        backend(text).map(|flag| flag.backend)
    }

    #[test]
    fn backends_are_read_as_the_contract_writes_them() {
        let b = member("web=[fd00::1]:443,weight=3").unwrap();
        assert_eq!((b.name.as_str(), b.addr, b.weight), ("web", "[fd00::1]:443".parse().unwrap(), 3));
        assert_eq!(member("w=10.0.0.1:1").unwrap(), MemberSpec::new("w", "10.0.0.1:1".parse().unwrap()));
        let b = member("w=10.0.0.1:1,max-connections=4000,max-handshakes=auto,slow-start=30s").unwrap();
        assert_eq!((b.limits.max_connections, b.limits.max_handshakes), (Some(4000), Some(MaxHandshakes::Auto)));
        assert_eq!(b.limits.slow_start, Some(Duration::from_secs(30)));
        assert_eq!(
            member("w=10.0.0.1:1,max-handshakes=40").unwrap().limits.max_handshakes,
            Some(MaxHandshakes::Units(40))
        );
        for wrong in [
            "",
            "web",
            "=1.1.1.1:1",
            "w=1.1.1.1",
            "w=fd00::1:443",
            "w=1.1.1.1:0",
            "w=1.1.1.1:1,weight=x",
            "w=1.1.1.1:1,weight=1,weight=1",
            "w=1.1.1.1:1,colour=red",
            "w=1.1.1.1:1,max-connections=0",
            "w=1.1.1.1:1,max-connections",
            "w=1.1.1.1:1,max-handshakes=9",
            "w=1.1.1.1:1,slow-start=0s",
            "w=host:80",
            "a b=1.1.1.1:1",
            "w=0.0.0.0:1",
            "w=1.1.1.1:1,check=ftp",
            "w=1.1.1.1:1,check-rise=1",
            "w=1.1.1.1:1,check=off,check-rise=1",
            "w=1.1.1.1:1,check=tls,check-path=/",
            "w=1.1.1.1:1,check=tls,check-kind=tcp",
            "w=1.1.1.1:1,agent=0",
            "w=1.1.1.1:1,agent-interval=1s",
            "w=1.1.1.1:1,agent=off,agent-interval=1s",
        ] {
            assert!(backend(wrong).is_err(), "{wrong}");
        }
    }
}
