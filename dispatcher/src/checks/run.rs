//! One question under way: a connection, what is said over it, and what comes of it.

use super::agent::LINE;
use super::endpoint::{Endpoint, Standing};
use super::http::Http;
use super::tls::{Handshake, ticket_in};
use crate::time::Time;
use core::time::Duration;
use std::net::SocketAddr;

/// How long a server may take to close a connection that is over for us; then it is reset.
const GOODBYE: Duration = Duration::from_secs(1);

/// What is said.
#[derive(Debug)]
pub(super) enum Talk {
    /// Nothing: the connection is reset before it is one for the server's application.
    Knock,
    /// A request.
    Http(Http),
    /// Nothing: what the server says, up to the end of a line.
    Line(Vec<u8>),
    /// A handshake, and perhaps a request within.
    Tls(Box<Handshake>, Option<Http>),
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Outcome {
    /// Passed, or why not.
    pub result: Result<(), String>,
    /// How long it took.
    pub took: Duration,
    /// The server resumed the session that it was offered.
    pub resumed: bool,
    /// The ticket that it was offered.
    pub offered: Option<Vec<u8>>,
    /// The line that was listened to.
    pub line: Option<String>,
    /// It said something: a byte at least.
    pub spoke: bool,
}

/// A question under way.
pub(super) struct Run {
    endpoint: Endpoint,
    /// Our end.
    pub from: SocketAddr,
    /// The server's.
    pub to: SocketAddr,
    talk: Talk,
    /// To be sent, and not yet written.
    out: Vec<u8>,
    started: Time,
    deadline: Time,
    opened: bool,
    spoke: bool,
    offered: Option<Vec<u8>>,
    /// Our last word was said then.
    closing: Option<Time>,
    told: bool,
}

/// A PROXY v2 header of a connection that is the proxy's own (LOCAL): servers that expect a header take it, and no address from it.
const PROXY_LOCAL: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// From where to where, and what smoltcp needs besides.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub mtu: u16,
    pub seed: u64,
}

impl Run {
    /// Begins; `proxy`: with a PROXY header. None when no connection can be between these addresses.
    pub fn begin(ends: Ends, talk: Talk, proxy: bool, patience: Duration, now: Time) -> Option<Run> {
        let Ends { from, to, mtu, seed } = ends;
        let endpoint = Endpoint::connect(from, to, mtu, seed, now)?;
        let out = if proxy && !matches!(talk, Talk::Knock) { PROXY_LOCAL.to_vec() } else { Vec::new() };
        let mut run = Run {
            endpoint,
            from,
            to,
            talk,
            out,
            started: now,
            deadline: now + patience,
            opened: false,
            spoke: false,
            offered: None,
            closing: None,
            told: false,
        };
        if let Talk::Tls(handshake, _) = &mut run.talk {
            let mut hello = Vec::new();
            handshake.speak(&mut hello);
            run.offered = ticket_in(&hello);
            run.out.extend_from_slice(&hello);
        }
        Some(run)
    }

    /// A packet for it.
    pub fn receive(&mut self, packet: &[u8], now: Time) {
        self.endpoint.receive(packet, now);
    }

    /// Goes on, sends what there is to send, and says once what came of it.
    pub fn advance(&mut self, now: Time, send: &mut dyn FnMut(&[u8])) -> Option<Outcome> {
        let result = if self.told { None } else { self.ask(now) };
        if let Some(result) = &result {
            self.told = true;
            self.say_goodbye(result.is_ok(), now);
        }
        self.write();
        if self.closing.is_some_and(|since| now >= since + GOODBYE) && !self.endpoint.is_over() {
            self.endpoint.abort();
        }
        if self.told && self.out.is_empty() && self.closing.is_none() {
            self.closing = Some(now);
            self.endpoint.close();
        }
        self.endpoint.send(now, send);
        let resumed = matches!(&self.talk, Talk::Tls(handshake, _) if handshake.resumed());
        let (offered, spoke) = (self.offered.clone(), self.spoke);
        let line = match &self.talk {
            Talk::Line(line) => Some(String::from_utf8_lossy(line).into_owned()),
            _ => None,
        };
        result.map(|result| Outcome { line, result, took: now.since(self.started), resumed, offered, spoke })
    }

    /// Nobody wants to know any more: the server hears a reset with what goes out next, and nothing comes of it.
    pub fn abandon(&mut self, now: Time) {
        self.told = true;
        self.out.clear();
        self.closing = Some(now);
        self.endpoint.abort();
    }

    /// Nothing is left to do.
    pub fn is_over(&mut self) -> bool {
        self.told && self.endpoint.is_over()
    }

    /// When it goes on by itself.
    pub fn due(&mut self, now: Time) -> Time {
        let own = match (&self.closing, self.told) {
            (Some(since), _) => *since + GOODBYE,
            (None, true) => now + GOODBYE,
            (None, false) => {
                let talk = match &self.talk {
                    Talk::Knock | Talk::Line(_) => None,
                    Talk::Http(http) => http.due(),
                    Talk::Tls(_, Some(http)) => http.due(),
                    Talk::Tls(handshake, None) => handshake.has_tickets(now).err().flatten(),
                };
                talk.unwrap_or(Time::MAX).min(self.deadline)
            }
        };
        self.endpoint.due(now).unwrap_or(Time::MAX).min(own)
    }

    fn write(&mut self) {
        if self.opened && !self.out.is_empty() {
            let written = self.endpoint.write(&self.out);
            self.out.drain(..written);
        }
        if self.told && self.endpoint.is_over() {
            // Nobody takes it any more.
            self.out.clear();
        }
    }

    /// Whatever came of it, in the server's log there is to be no word of it that could be spared.
    fn say_goodbye(&mut self, well: bool, now: Time) {
        match &mut self.talk {
            Talk::Tls(handshake, http) if well || http.as_ref().is_some_and(|http| http.status().is_some()) => {
                handshake.close();
                handshake.speak(&mut self.out);
            }
            Talk::Line(_) if well => {}
            Talk::Http(http) if well || http.status().is_some() => {}
            Talk::Knock | Talk::Http(_) | Talk::Line(_) | Talk::Tls(..) => {
                // An alert, perhaps, which tells the server what is wrong.
                if let Talk::Tls(handshake, _) = &mut self.talk {
                    handshake.speak(&mut self.out);
                }
                self.write();
                self.out.clear();
                self.closing = Some(now);
                self.endpoint.abort();
            }
        }
    }

    fn ask(&mut self, now: Time) -> Option<Result<(), String>> {
        let standing = self.endpoint.standing();
        match standing {
            Standing::Opening if now >= self.deadline => return Some(Err("no answer to connection requests".into())),
            Standing::Opening => return None,
            Standing::Closed { refused: true } => return Some(Err("connection refused".into())),
            Standing::Open | Standing::Closed { .. } => self.opened = true,
        }
        let mut heard = Vec::new();
        self.endpoint.read(&mut heard);
        self.spoke |= !heard.is_empty();
        let end = self.endpoint.is_at_end();
        let reset = matches!(standing, Standing::Closed { .. });
        let said = match &mut self.talk {
            Talk::Knock => Some(Ok(())),
            Talk::Line(line) => {
                line.extend_from_slice(&heard[..heard.len().min(LINE - line.len())]);
                let whole = line.iter().position(|b| *b == b'\n');
                line.truncate(whole.unwrap_or(line.len()));
                (whole.is_some() || end || line.len() >= LINE).then_some(Ok(()))
            }
            Talk::Http(http) => {
                self.out.extend(http.request().into_iter().flatten());
                http.hear(&heard, end, now)
            }
            Talk::Tls(handshake, http) => tls(handshake, http.as_mut(), (&heard, end), &mut self.out, now),
        };
        match said {
            Some(Err(why)) if reset && why.starts_with("closed") => Some(Err(why.replacen("closed", "reset", 1))),
            Some(said) => Some(said),
            None if now >= self.deadline => Some(Err(match &self.talk {
                Talk::Tls(handshake, _) if !handshake.is_complete() => "TLS handshake timed out".into(),
                _ => "no answer to the request in time".into(),
            })),
            None => None,
        }
    }
}

/// A handshake goes on; where there is a request, this is sent within, and its answer is what counts.
fn tls(
    handshake: &mut Handshake,
    http: Option<&mut Http>,
    (heard, end): (&[u8], bool),
    out: &mut Vec<u8>,
    now: Time,
) -> Option<Result<(), String>> {
    let mut inner = Vec::new();
    let heard = handshake.hear(heard, &mut inner, now);
    handshake.speak(out);
    if let Err(why) = heard {
        // It was alive enough to want to know who we are.
        return Some(if handshake.wants_certificate() { Ok(()) } else { Err(why) });
    }
    if !handshake.is_complete() {
        return end.then(|| {
            if handshake.wants_certificate() { Ok(()) } else { Err("closed within the TLS handshake".into()) }
        });
    }
    let end = end || handshake.is_closed();
    let Some(http) = http else {
        return (end || handshake.has_tickets(now).is_ok()).then_some(Ok(()));
    };
    if let Some(request) = http.request() {
        handshake.say(&request);
        handshake.speak(out);
    }
    http.hear(&inner, end, now)
}
