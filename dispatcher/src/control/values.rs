//! Words, numbers and addresses as people write them. A flag and the key of the same name are read by the same function.

use super::configuration::{LogFormat, LogLevel};
use super::name::check_name;
use crate::engine::{AddressMode, MAX_WORKERS, TicketKey};
use crate::worker::Idle;
use clap::ValueEnum;
use core::fmt::Display;
use core::str::FromStr;
use core::time::Duration;
use lb::service::CookieName;
use lb::{Algorithm, HashOn, ServiceKind};
use std::net::SocketAddr;

/// Declares a flag's words and what each means to the engine.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident -> $target:ty { $($(#[$vdoc:meta])* $word:ident => $value:expr,)* }) => {
        $(#[$doc])*
        #[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[$vdoc])* $word,)* }

        impl From<$name> for $target {
            fn from(word: $name) -> $target {
                match word { $($name::$word => $value,)* }
            }
        }
    };
}

words! {
    /// `--log-format`.
    LogFormatArg -> LogFormat {
        /// A line for people.
        Text => LogFormat::Text,
        /// A JSON object a line, with its time and particulars.
        Json => LogFormat::Json,
    }
}

words! {
    /// `--log-level`.
    LogLevelArg -> LogLevel {
        /// What ends the dispatcher or a part of it.
        Error => LogLevel::Error,
        /// And what somebody should look at.
        Warning => LogLevel::Warning,
        /// And what has happened.
        Info => LogLevel::Info,
    }
}

words! {
    /// `--balance`.
    BalanceArg -> Algorithm {
        /// Consistent hashing, weighted
        Maglev => Algorithm::Maglev,
        /// Fewest open connections for its weight
        LeastConn => Algorithm::LeastConn,
        /// In turn
        RoundRobin => Algorithm::RoundRobin,
        /// The less loaded of two drawn at random
        RandomTwo => Algorithm::RandomTwo,
    }
}
/// The word of an algorithm, as `--balance` takes it.
pub fn balance(algorithm: Algorithm) -> String {
    let word = BalanceArg::value_variants().iter().find(|word| Algorithm::from(**word) == algorithm);
    word.and_then(BalanceArg::to_possible_value).map(|word| word.get_name().to_owned()).unwrap_or_default()
}

words! {
    /// `--hash-on`.
    HashOnArg -> HashOn {
        /// The client's address
        SourceIp => HashOn::SourceIp,
        /// Addresses and ports
        Tuple => HashOn::Tuple,
    }
}
words! {
    /// `--address-mode`.
    AddressModeArg -> AddressMode {
        /// One of our own addresses
        Snat => AddressMode::Snat,
        /// The client's address
        Dnat => AddressMode::Dnat,
    }
}
words! {
    /// `--proxy-protocol`.
    ProxyArg -> bool {
        /// Version 2, binary
        V2 => false,
        /// The header that was accepted (--accept-proxy), as it came; where none was, version 2
        Pass => true,
    }
}
words! {
    /// `on` or `off`.
    OnOff -> bool {
        /// Yes
        On => true,
        /// No
        Off => false,
    }
}
/// `--affinity`: a word, or a cookie's name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AffinityArg {
    /// Follow sessions.
    pub on: bool,
    /// Those of plain HTTP/1, too, by this cookie.
    pub cookie: Option<CookieName>,
}

/// `on`, `off` or `cookie=NAME`.
pub fn affinity(text: &str) -> Result<AffinityArg, String> {
    match (text, text.strip_prefix("cookie=")) {
        (_, Some(name)) => Ok(AffinityArg { on: true, cookie: Some(name.parse()?) }),
        ("on" | "off", None) => Ok(AffinityArg { on: text == "on", cookie: None }),
        _ => Err("expected on, off or cookie=NAME".into()),
    }
}

words! {
    /// `--service-kind`.
    ServiceKindArg -> ServiceKind {
        /// TLS or anything else
        Auto => ServiceKind::Auto,
        /// TLS alone
        Tls => ServiceKind::Tls,
    }
}
words! {
    /// `--idle`.
    IdleArg -> Idle {
        /// Look again at once
        Spin => Idle::Spin,
        /// Let others run in between
        Yield => Idle::Yield,
        /// Sleep until something arrives or is due
        Sleep => Idle::Sleep,
    }
}

/// `ADDR:PORT`, IPv6 in brackets.
pub fn socket_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Err("port 0 cannot be connected to".into()),
        Ok(address) if address.ip().is_unspecified() => Err("the unspecified address cannot be connected to".into()),
        Ok(address) if address.ip().is_multicast() => Err("a multicast address cannot be connected to".into()),
        Ok(address) => Ok(address),
        Err(_) if text.matches(':').count() > 1 && !text.starts_with('[') => {
            Err("an IPv6 address with a port needs brackets: [ADDR]:PORT".into())
        }
        Err(_) => Err("expected ADDR:PORT with a numeric address, IPv6 in brackets".into()),
    }
}

/// `source-ip` or `balance`.
pub fn resume_fallback(text: &str) -> Result<lb::ResumeFallback, String> {
    text.parse()
}

/// `NAME=HEX16`, 32 hex digits for 16 bytes, or `NAME=unknown`.
pub fn ticket_key(text: &str) -> Result<TicketKey, String> {
    let (name, key) = text.split_once('=').ok_or("expected NAME=HEX16 or NAME=unknown")?;
    check_name(name)?;
    let backend = name.to_string();
    if key == "unknown" {
        return Ok(TicketKey::Unknown { backend });
    }
    match u128::from_str_radix(key, 16) {
        Ok(n) if key.len() == 32 && !key.starts_with('+') => Ok(TicketKey::Name { backend, name: n.to_be_bytes() }),
        _ => Err("a key name is 16 bytes in hex: 32 digits".into()),
    }
}

/// Largest weight: beyond it, tables would have to grow for differences nobody sees.
pub const MAX_WEIGHT: u16 = lb::backend::MAX_WEIGHT;

/// `500ms`, `30s`, `1h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(d) if d.is_zero() => Err("a duration of zero makes no sense here".into()),
        Ok(d) if d > Duration::from_secs(366 * 24 * 3600) => Err("longer than a year".into()),
        Ok(d) => Ok(d),
        Err(_) => Err("expected a duration such as 500ms, 30s or 1h".into()),
    }
}

/// A duration, or `never`.
pub fn spill_after(text: &str) -> Result<SpillAfter, String> {
    if text == "never" {
        return Ok(SpillAfter(None));
    }
    let never = |why| format!("{why}, or never");
    duration(text).map(|after| SpillAfter(Some(after))).map_err(never)
}

/// How long a client waits for its own server alone; `None`: always.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpillAfter(pub Option<Duration>);

/// A number within bounds.
pub fn number<T: FromStr + PartialOrd + Display>(text: &str, least: T, most: T) -> Result<T, String> {
    let n = text.parse().ok().filter(|n| (&least..=&most).contains(&n));
    n.ok_or_else(|| format!("expected a number from {least} to {most}"))
}

/// Of KEY=VALUE pairs each key is told once.
pub fn once<'t>(given: &mut Vec<&'t str>, key: &'t str) -> Result<(), String> {
    if given.contains(&key) {
        return Err(format!("{key} given twice"));
    }
    given.push(key);
    Ok(())
}

/// Rows of a table.
pub fn capacity(text: &str) -> Result<usize, String> {
    number(text, 1, 1 << 28)
}

/// Threads.
pub fn workers(text: &str) -> Result<usize, String> {
    number(text, 1, MAX_WORKERS)
}

/// Cores, in the order given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cores(pub Vec<usize>);

impl Cores {
    /// `0,2-3`.
    pub fn parse(text: &str) -> Result<Cores, String> {
        let wrong = || "expected core numbers such as 2 or 0,2-3".to_string();
        let number = |t: &str| t.parse::<usize>().ok().filter(|n| *n < 1024).ok_or_else(wrong);
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((a, b)) => (number(a)?, number(b)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(wrong());
            }
            for core in first..=last {
                if cores.contains(&core) {
                    return Err(format!("core {core} given twice"));
                }
                cores.push(core);
            }
        }
        Ok(Cores(cores))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_contract_writes_them() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for wrong in ["", "30", "-1s", "0s", "1x", "9999999999999999999999s", "1000d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Cores::parse("0,2-4"), Ok(Cores(vec![0, 2, 3, 4])));
        for wrong in ["", "a", "3-1", "1,1", "0-2,2", "1-", "99999"] {
            assert!(Cores::parse(wrong).is_err(), "{wrong}");
        }
    }
}
