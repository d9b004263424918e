//! Checks as flags and files say them: one reader for both.

use super::values::{duration, number, once};
use core::time::Duration;
use lb::{Agent, Asked, Check, CheckKind, Method, SniPattern};

/// Shortest interval, and time-out: less would be a load of its own.
pub const SHORTEST: Duration = Duration::from_millis(100);
/// Longest of them.
pub const LONGEST: Duration = Duration::from_secs(3600);
/// Longest path, and name.
const TEXT: usize = 256;

/// Sets what a key of a check says.
pub fn set(check: &mut Check, key: &str, value: &str) -> Result<(), String> {
    match key {
        "kind" => check.kind = kind(value)?,
        "sni" => match value.parse::<SniPattern>()? {
            SniPattern::Exact(name) => check.sni = Some(name),
            SniPattern::Wildcard(_) => return Err("a hello has one name, and no wildcard".into()),
        },
        "path" if value.starts_with('/') => check.path = printable(value)?,
        "path" => return Err("a path begins with /".into()),
        "host" => check.host = Some(printable(value)?),
        "method" => check.method = method(value)?,
        "expect" => check.expect = expect(value)?,
        "interval" => check.interval = interval(value)?,
        "timeout" => check.timeout = Some(interval(value)?),
        "rise" => check.rise = count(value)?,
        "fall" => check.fall = count(value)?,
        "port" => check.port = Some(port(value)?),
        _ => return Err(format!("unknown option '{key}' (there are {})", KEYS.join(", "))),
    }
    Ok(())
}

/// What [`set`] knows.
pub const KEYS: [&str; 11] =
    ["kind", "sni", "path", "host", "method", "expect", "interval", "timeout", "rise", "fall", "port"];

/// What is wrong with all of them together.
pub fn fault(check: &Check, told: impl Fn(&str) -> bool) -> Option<String> {
    let needless = |keys: &[&str]| keys.iter().copied().find(|key| told(key)).map(str::to_owned);
    let of = |kind: CheckKind, key: String| format!("'{key}' says nothing to a check of kind {kind}");
    if check.timeout.is_some_and(|timeout| timeout > check.interval) {
        return Some("a check that may take longer than the interval would overtake itself".into());
    }
    if !check.kind.is_http()
        && let Some(key) = needless(&["path", "host", "method", "expect"])
    {
        return Some(of(check.kind, key));
    }
    if !check.kind.is_tls()
        && let Some(key) = needless(&["sni"])
    {
        return Some(of(check.kind, key));
    }
    None
}

/// `--check KIND`, or `--check kind=KIND[,KEY=VALUE]...`.
pub fn check(text: &str) -> Result<Check, String> {
    let mut check = Check::new(CheckKind::Tcp);
    let mut told = Vec::new();
    for (number, part) in text.split(',').enumerate() {
        let (key, value) = match part.split_once('=') {
            Some(pair) => pair,
            None if number == 0 => ("kind", part),
            None => return Err(format!("'{part}': expected KEY=VALUE")),
        };
        once(&mut told, key)?;
        set(&mut check, key, value).map_err(|why| if KEYS.contains(&key) { format!("{key}: {why}") } else { why })?;
    }
    if !told.contains(&"kind") {
        return Err("expected a kind: tcp, tls, http or https".into());
    }
    fault(&check, |key| told.contains(&key)).map_or(Ok(check), Err)
}

/// The word by which a backend says that it is not asked what all of its pool are.
pub const OFF: &str = "off";

/// The keys of an agent.
pub const KEYS_OF_AGENT: [&str; 2] = ["port", "interval"];

/// Sets what a key of an agent says.
pub fn set_of(agent: &mut Agent, key: &str, value: &str) -> Result<(), String> {
    match key {
        "port" => agent.port = port(value)?,
        "interval" => agent.interval = interval(value)?,
        _ => return Err(format!("unknown option '{key}' (there are {})", KEYS_OF_AGENT.join(", "))),
    }
    Ok(())
}

/// `tcp`, `tls`, `http` or `https`.
pub fn kind(text: &str) -> Result<CheckKind, String> {
    CheckKind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or("expected tcp, tls, http or https".into())
}

fn method(text: &str) -> Result<Method, String> {
    [Method::Get, Method::Head].into_iter().find(|m| m.as_str() == text).ok_or("expected GET or HEAD".into())
}

/// `200`, or `200-399`.
fn expect(text: &str) -> Result<(u16, u16), String> {
    let wrong = || String::from("expected a status, or two of them as in 200-399");
    let status = |text: &str| text.parse().ok().filter(|n| (100..=599).contains(n)).ok_or_else(wrong);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (status(first)?, status(last)?);
    if first <= last { Ok((first, last)) } else { Err(wrong()) }
}

/// Between two questions.
pub fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        d if d < SHORTEST => Err("shorter than 100ms".into()),
        d if d > LONGEST => Err("longer than an hour".into()),
        d => Ok(d),
    }
}

fn count(text: &str) -> Result<u16, String> {
    number(text, 1, 100)
}

/// Of TCP.
pub fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or("expected a port, 1 to 65535".into())
}

/// What stands in a request as it is.
fn printable(text: &str) -> Result<String, String> {
    let good = (1..=TEXT).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if good { Ok(text.to_owned()) } else { Err(format!("expected 1 to {TEXT} printable characters without blanks")) }
}

/// The keys of a check that say something else than what holds anyway, as a file has them; the kind is always said.
pub fn told(check: &Check) -> Vec<(&'static str, String)> {
    let usual = Check::new(check.kind);
    let text = |text: &str| format!("\"{text}\"");
    let time = |time: Duration| format!("\"{}\"", humantime::format_duration(time));
    let mut lines = vec![("kind", text(check.kind.as_str()))];
    lines.extend(check.sni.as_deref().map(|name| ("sni", text(name))));
    if check.path != usual.path {
        lines.push(("path", serde_json::Value::from(check.path.clone()).to_string()));
    }
    lines.extend(check.host.as_ref().map(|host| ("host", serde_json::Value::from(host.clone()).to_string())));
    if check.method != usual.method {
        lines.push(("method", text(check.method.as_str())));
    }
    if check.expect != usual.expect {
        lines.push(("expect", text(&format!("{}-{}", check.expect.0, check.expect.1))));
    }
    if check.interval != usual.interval {
        lines.push(("interval", time(check.interval)));
    }
    lines.extend(check.timeout.map(|timeout| ("timeout", time(timeout))));
    if check.rise != usual.rise {
        lines.push(("rise", check.rise.to_string()));
    }
    if check.fall != usual.fall {
        lines.push(("fall", check.fall.to_string()));
    }
    lines.extend(check.port.map(|port| ("port", port.to_string())));
    lines
}

/// The same of an agent.
pub fn told_of(agent: &Agent) -> Vec<(&'static str, String)> {
    let mut lines = vec![("port", agent.port.to_string())];
    if agent.interval != Agent::at(agent.port).interval {
        lines.push(("interval", format!("\"{}\"", humantime::format_duration(agent.interval))));
    }
    lines
}

/// What [`told`] tells, without the quotes of the file.
pub fn plain(told: Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
    let plain = |value: String| serde_json::from_str(&value).unwrap_or(value);
    told.into_iter().map(|(key, value)| (key, plain(value))).collect()
}

fn line(told: Vec<(&'static str, String)>) -> String {
    plain(told).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// In a line, for people.
pub fn shown(check: &Option<Check>) -> String {
    check.as_ref().map_or("none".into(), |check| line(told(check)))
}

/// The same of an agent.
pub fn shown_of(agent: &Option<Agent>) -> String {
    agent.as_ref().map_or("none".into(), |agent| line(told_of(agent)))
}

/// What a backend says itself, by one of those.
pub fn shown_own<T: Clone>(own: &Asked<T>, shown: impl Fn(&Option<T>) -> String) -> String {
    match own {
        Asked::AsPool => "as its pool".into(),
        Asked::Off => OFF.into(),
        Asked::This(this) => shown(&Some(this.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_read_from_a_flag_as_it_is_shown_and_every_fault_of_it_is_told() {
        assert_eq!(check("tls").unwrap(), Check::new(CheckKind::Tls));
        let text = "kind=https,sni=a.example,path=/up?x=\"1,host=b:80,method=HEAD,expect=200-204,interval=500ms,timeout=200ms,rise=1,fall=5,port=8443";
        let all = check(text).unwrap();
        assert_eq!((all.expect, all.rise, all.fall, all.port), ((200, 204), 1, 5, Some(8443)));
        assert_eq!(check(&shown(&Some(Check { path: "/up".into(), ..all.clone() }))).unwrap().host, all.host);
        for (wrong, why) in [
            ("", "expected tcp, tls, http or https"),
            ("sni=a.example", "expected a kind"),
            ("tls,sni=*.example", "no wildcard"),
            ("tls,path=/", "'path' says nothing to a check of kind tls"),
            ("http,sni=a.example", "'sni' says nothing"),
            ("http,path=up", "begins with /"),
            ("http,path=/a b", "printable"),
            ("http,expect=700", "expected a status"),
            ("http,expect=300-200", "expected a status"),
            ("tcp,interval=10ms", "shorter than 100ms"),
            ("tcp,interval=1s,timeout=2s", "overtake"),
            ("tcp,rise=0", "1 to 100"),
            ("tcp,port=0", "a port"),
            ("tcp,colour=red", "unknown option 'colour'"),
            ("tcp,rise=1,rise=2", "given twice"),
            ("tcp,quickly", "expected KEY=VALUE"),
            ("http,method=POST", "GET or HEAD"),
        ] {
            let told = check(wrong).unwrap_err();
            assert!(told.contains(why), "{wrong}: {told}");
        }
    }
}
