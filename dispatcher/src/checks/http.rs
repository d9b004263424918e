//! HTTP as a check speaks it: one request, and the status of its answer.

use crate::time::Time;
use core::time::Duration;
use lb::Check;
use std::net::SocketAddr;

/// A status line and what is before it. Longer ones are none.
const HEAD: usize = 1024;
/// So much of an answer is taken. One that is longer is broken off.
const BODY: usize = 64 * 1024;
/// How long the rest of an answer is waited for, so that it is not broken off without need.
const REST: Duration = Duration::from_secs(1);

/// A request under way.
#[derive(Debug)]
pub(super) struct Http {
    request: Option<Vec<u8>>,
    expect: (u16, u16),
    head: Vec<u8>,
    taken: usize,
    status: Option<(u16, Time)>,
}

impl Http {
    pub fn new(check: &Check, to: SocketAddr) -> Http {
        let usual = if check.kind.is_tls() { 443 } else { 80 };
        let address = if to.port() == usual { plain(to) } else { to.to_string() };
        let host = check.host.clone().or_else(|| check.sni.clone()).unwrap_or(address);
        let (method, path) = (check.method.as_str(), &check.path);
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: dispatcher-check\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        Http { request: Some(request.into_bytes()), expect: check.expect, head: Vec::new(), taken: 0, status: None }
    }

    /// What is to be sent, once.
    pub fn request(&mut self) -> Option<Vec<u8>> {
        self.request.take()
    }

    /// The server says this; `end`: and nothing more.
    pub fn hear(&mut self, bytes: &[u8], end: bool, now: Time) -> Option<Result<(), String>> {
        self.taken += bytes.len();
        if self.status.is_none() {
            let room = HEAD - self.head.len();
            self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
            match status(&self.head) {
                Some(Ok(status)) => self.status = Some((status, now)),
                Some(Err(())) => return Some(Err("the answer is no HTTP".into())),
                None if end && self.head.is_empty() => return Some(Err("closed without an answer".into())),
                None if end => return Some(Err("closed within its answer".into())),
                None => return None,
            }
        }
        let (status, since) = self.status?;
        let over = end || self.taken >= BODY || now >= since + REST;
        let (first, last) = self.expect;
        let well = (first..=last).contains(&status);
        over.then(|| if well { Ok(()) } else { Err(format!("status {status}")) })
    }

    /// When [`Http::hear`] is to be asked again though nothing was heard.
    pub fn due(&self) -> Option<Time> {
        self.status.map(|(_, since)| since + REST)
    }

    /// The verdict, if an answer was begun.
    pub fn status(&self) -> Option<u16> {
        self.status.map(|(status, _)| status)
    }
}

/// The status of an answer; an error when it is none. Provisional ones are passed over by no server that was asked for none.
fn status(head: &[u8]) -> Option<Result<u16, ()>> {
    const BEGIN: &[u8] = b"HTTP/1.";
    let seen = head.len().min(BEGIN.len());
    if head[..seen] != BEGIN[..seen] {
        return Some(Err(()));
    }
    let Some(end) = head.iter().position(|b| *b == b'\n') else {
        return if head.len() >= HEAD { Some(Err(())) } else { None };
    };
    let line = &head[..end];
    let code = line.get(9..12).filter(|code| line[8] == b' ' && code.iter().all(u8::is_ascii_digit));
    Some(code.and_then(|code| core::str::from_utf8(code).ok()?.parse().ok()).ok_or(()))
}

/// An address as it stands in `Host`.
fn plain(at: SocketAddr) -> String {
    match at {
        SocketAddr::V4(at) => at.ip().to_string(),
        SocketAddr::V6(at) => format!("[{}]", at.ip()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb::CheckKind;

    fn http() -> Http {
        Http::new(&Check::new(CheckKind::Http), "10.0.0.1:80".parse().unwrap())
    }

    #[test]
    fn a_status_is_read_however_the_answer_comes_and_only_a_status_line_has_one() {
        let now = Time::from_millis(5);
        for (answer, result) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], Some(Ok(()))),
            (b"HTTP/1.0 302\r\n", Some(Ok(()))),
            (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", Some(Err("status 503".to_string()))),
            (b"HTTP/1.1 2x0 OK\r\n", Some(Err("the answer is no HTTP".into()))),
            (b"SSH-2.0-OpenSSH", Some(Err("the answer is no HTTP".into()))),
            (b"", Some(Err("closed without an answer".into()))),
            (b"HTTP/1.1 20", Some(Err("closed within its answer".into()))),
        ] {
            assert_eq!(http().hear(answer, true, now), result, "{}", answer.escape_ascii());
            let mut slow = http();
            let mut last = None;
            for byte in answer {
                last = last.or_else(|| slow.hear(&[*byte], false, now));
            }
            assert_eq!(last.or_else(|| slow.hear(&[], true, now)), result);
        }
    }

    #[test]
    fn the_rest_of_an_answer_is_waited_for_within_bounds() {
        let mut endless = http();
        assert_eq!(endless.hear(b"HTTP/1.1 200 OK\r\n\r\n", false, Time::ZERO), None);
        assert_eq!(endless.hear(&[0; BODY], false, Time::ZERO), Some(Ok(())));
        let mut silent = http();
        assert_eq!(silent.hear(b"HTTP/1.1 200 OK\r\n\r\n", false, Time::ZERO), None);
        let due = silent.due().unwrap();
        assert_eq!(silent.hear(b"", false, due), Some(Ok(())));
        let mut long = http();
        let line = [&b"HTTP/1.1 "[..], &[b'1'; 2 * HEAD]].concat();
        assert_eq!(long.hear(&line, false, Time::ZERO), Some(Err("the answer is no HTTP".into())));
    }

    #[test]
    fn the_request_names_the_host_as_browsers_would() {
        let mut check = Check { sni: Some("a.example".into()), ..Check::new(CheckKind::Https) };
        let line = |check: &Check, to: &str| {
            let request = String::from_utf8(Http::new(check, to.parse().unwrap()).request().unwrap()).unwrap();
            request.lines().nth(1).unwrap().to_string()
        };
        assert_eq!(line(&check, "10.0.0.1:8443"), "Host: a.example");
        check.sni = None;
        assert_eq!(line(&check, "10.0.0.1:443"), "Host: 10.0.0.1");
        assert_eq!(line(&check, "[fd00::1]:443"), "Host: [fd00::1]");
        assert_eq!(line(&check, "[fd00::1]:8443"), "Host: [fd00::1]:8443");
        check.host = Some("b.example".into());
        assert_eq!(line(&check, "10.0.0.1:443"), "Host: b.example");
    }
}
