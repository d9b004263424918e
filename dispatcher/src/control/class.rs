//! Classes of requests, as a flag says them and as keys of the file do: both by [`set`].

use super::name::check_name;
use super::values::{duration, number, once, socket_address};
use lb::admission::class::MAX_QUEUE;
use lb::admission::{ClassSpec, Cost, Share};

/// `NAME[,KEY=VALUE]...`, as `--class` has it.
pub fn class(text: &str) -> Result<ClassSpec, String> {
    let mut parts = text.split(',');
    let name = parts.next().unwrap_or_default();
    check_name(name)?;
    let mut class = ClassSpec::new(name);
    let mut given = Vec::new();
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, "true"));
        let several = ["listen", "client", "sni", "alpn"].contains(&key);
        let order = ["strict", "weight"].contains(&key);
        let key_or_order = if order { "strict or weight" } else { key };
        if !several {
            once(&mut given, key_or_order)?;
        }
        set(&mut class, key, value).map_err(|why| if why.contains(key) { why } else { format!("{key}: {why}") })?;
    }
    Ok(class)
}

/// Takes one key: of `listen`, `client`, `sni` and `alpn` one entry.
pub fn set(class: &mut ClassSpec, key: &str, value: &str) -> Result<(), String> {
    match key {
        "listen" => class.listeners.push(socket_address(value)?),
        "client" => class.clients.push(value.parse()?),
        "sni" => class.sni.push(value.parse()?),
        "alpn" => class.alpn.push(protocol(value)?),
        "kind" => class.cost = Some(kind(value)?),
        "strict" => match value {
            "true" => class.share = Share::Strict,
            // A weight may be told beside it.
            "false" => {}
            _ => return Err("expected true or false".into()),
        },
        "weight" => class.share = Share::Weight(number(value, 1, 1000)?),
        "queue" => class.queue = number(value, 1, MAX_QUEUE)?,
        "queue-timeout" => class.timeout = duration(value)?,
        "reserve" => class.reserve = number(value.strip_suffix('%').unwrap_or(value), 0, 100)?,
        _ => {
            return Err(format!(
                "cannot take '{key}' here (there are client, listen, sni, alpn, kind, strict, weight, queue, queue-timeout, reserve)"
            ));
        }
    }
    Ok(())
}

/// A protocol of ALPN (RFC 7301 section 3.1).
pub fn protocol(text: &str) -> Result<Vec<u8>, String> {
    match text.len() {
        1..=255 => Ok(text.as_bytes().to_vec()),
        n => Err(format!("a protocol has 1 to 255 bytes, not {n}")),
    }
}

fn kind(word: &str) -> Result<Cost, String> {
    let known = KINDS.iter().find(|(name, _)| *name == word);
    known.map(|(_, cost)| *cost).ok_or_else(|| "expected resumes, full or non-tls".into())
}

/// What a request will cost, as people write it.
pub const KINDS: [(&str, Cost); 3] = [("resumes", Cost::Resumed), ("full", Cost::Full), ("non-tls", Cost::NotTls)];

/// The word for it.
pub fn kind_word(cost: Cost) -> &'static str {
    KINDS.iter().find(|(_, c)| *c == cost).map_or("", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    #[test]
    fn a_flag_says_all_that_a_class_can_have() {
        let all = "app,client=10.0.0.0/8,client=2001:db8::/32,listen=[2001:db8::10]:443,sni=*.api.example,alpn=h2,kind=full,weight=4,queue=9,queue-timeout=1s,reserve=25%";
        let c = class(all).unwrap();
        assert_eq!((c.name.as_str(), c.clients.len(), c.listeners.len(), c.sni.len()), ("app", 2, 1, 1));
        assert_eq!((c.alpn, c.cost, c.share), (vec![b"h2".to_vec()], Some(Cost::Full), Share::Weight(4)));
        assert_eq!((c.queue, c.timeout, c.reserve), (9, Duration::from_secs(1), 25));
        assert_eq!(class("vip,strict").unwrap().share, Share::Strict);
        assert_eq!(class("rest").unwrap(), ClassSpec::new("rest"));
        for wrong in [
            "",
            ",strict",
            "a b",
            "a,strict,weight=2",
            "a,weight=0",
            "a,weight=1001",
            "a,queue=0",
            "a,queue=65537",
            "a,reserve=101",
            "a,queue-timeout=0s",
            "a,kind=tls",
            "a,client=10.0.0.0/33",
            "a,alpn=",
            "a,colour=red",
            "a,kind=full,kind=full",
        ] {
            assert!(class(wrong).is_err(), "{wrong}");
        }
    }
}
