//! Backends as flags say them. The keys of the file are read by the same functions.

use super::checks;
use super::name::check_name;
use super::values::{MAX_WEIGHT, duration, number, once, socket_address};
use lb::admission::slots::MOST;
use lb::{Agent, Check, MemberSpec};

/// `NAME=ADDR:PORT[,KEY=VALUE]...`.
pub fn backend(text: &str) -> Result<MemberSpec, String> {
    let (name, rest) = text.split_once('=').ok_or("expected NAME=ADDR:PORT[,weight=N]")?;
    check_name(name)?;
    let mut parts = rest.split(',');
    let mut backend = MemberSpec::new(name, socket_address(parts.next().unwrap_or(""))?);
    let mut given = Vec::new();
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        once(&mut given, key)?;
        let limits = &mut backend.limits;
        let of_key = |why: String| format!("{key}: {why}");
        match key {
            "weight" => backend.weight = weight(value).map_err(of_key)?,
            "max-connections" => limits.max_connections = Some(max_connections(value).map_err(of_key)?),
            "max-handshakes" => limits.max_handshakes = Some(value.parse().map_err(of_key)?),
            "slow-start" => limits.slow_start = Some(duration(value).map_err(of_key)?),
            "check" => backend.check = Some(Check::new(checks::kind(value).map_err(of_key)?)),
            "agent" => backend.agent = Some(Agent::at(checks::port(value).map_err(of_key)?)),
            _ => {
                return Err(format!(
                    "unknown option '{part}' (there are weight=N, max-connections=N, max-handshakes=N or auto, slow-start=D, check=KIND, agent=PORT)"
                ));
            }
        }
    }
    Ok(backend)
}

/// One that is added while running: its weight is all that can be said there of it.
pub fn added(text: &str) -> Result<MemberSpec, String> {
    let backend = backend(text)?;
    if backend.check.is_some() || backend.agent.is_some() {
        return Err("checks of a backend are the file's to say; there is weight=N here".into());
    }
    if backend.limits != lb::BackendLimits::default() {
        return Err("limits of a backend are the file's to say; there is weight=N here".into());
    }
    Ok(backend)
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

    #[test]
    fn backends_are_read_as_the_contract_writes_them() {
        let b = backend("web=[fd00::1]:443,weight=3").unwrap();
        assert_eq!((b.name.as_str(), b.addr, b.weight), ("web", "[fd00::1]:443".parse().unwrap(), 3));
        assert_eq!(backend("w=10.0.0.1:1").unwrap(), MemberSpec::new("w", "10.0.0.1:1".parse().unwrap()));
        let b = backend("w=10.0.0.1:1,max-connections=4000,max-handshakes=auto,slow-start=30s").unwrap();
        assert_eq!((b.limits.max_connections, b.limits.max_handshakes), (Some(4000), Some(MaxHandshakes::Auto)));
        assert_eq!(b.limits.slow_start, Some(Duration::from_secs(30)));
        assert_eq!(
            backend("w=10.0.0.1:1,max-handshakes=40").unwrap().limits.max_handshakes,
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
        ] {
            assert!(backend(wrong).is_err(), "{wrong}");
        }
        assert!(added("w=10.0.0.1:1,weight=2").is_ok() && added("w=10.0.0.1:1,max-connections=1").is_err());
    }
}
