//! Why a connection went where it went, in words: the [trail](crate::engine::trail) that an engine has kept of it, with names in the place of numbers. The same whether it is asked of
//! a dispatcher that runs, or of a replay.

use crate::control::values::balance;
use crate::engine::connections::Shown;
use crate::engine::trail::{Holder, Row, Step, Trail, What};
use crate::journal::VersionName;
use lb::{Directory, Identity};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Why a connection went where it went.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Explanation {
    /// Its number, as in the connections log.
    pub conn: u64,
    /// Whose it is, from 0.
    pub worker: usize,
    /// When it began, seconds since 1970.
    pub began: f64,
    /// The client's address and port.
    pub client: Option<SocketAddr>,
    /// The balancer whose PROXY header names the client, where one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<SocketAddr>,
    /// What it connected to.
    pub vip: Option<SocketAddr>,
    /// The service's name; none when that has gone long ago, or is not kept.
    pub service: Option<String>,
    /// The name of the pool that it was routed to; none as above.
    pub pool: Option<String>,
    /// How that pool balances; none as above.
    pub balance: Option<String>,
    /// Where it went; none when it reached no backend, or not yet.
    pub backend: Option<String>,
    /// Our address and port as the backend sees them.
    pub local: Option<SocketAddr>,
    /// `await-hello`, `queued`, `dialing`, `spliced`, `time-wait`, `reset`, `cut` or `farewell`; none: it is over.
    pub state: Option<String>,
    /// Why it ended, as in the connections log; none: it lives.
    pub end: Option<String>,
    /// `secure` or `non-secure`; none while unknown.
    pub class: Option<String>,
    /// The server name in its hello; what is no printable ASCII stands as `?`.
    pub sni: Option<String>,
    /// What its hello offered to resume, as far as it is kept: PSK identities, the ticket, the session ID.
    pub offered: Vec<Offered>,
    /// So many more identities.
    pub unsaid: u8,
    /// The row that decided; none: no row knew what was offered, or nothing was.
    pub row: Option<Decided>,
    /// The version that the server chose; none while unknown.
    pub tls_version: Option<String>,
    /// Whether the server resumed a session; none while unknown.
    pub resumed: Option<bool>,
    /// From the client's hello to the server's, milliseconds.
    pub handshake_ms: Option<f64>,
    /// From its beginning to the server's first byte, milliseconds.
    pub first_byte_ms: Option<f64>,
    /// Stream bytes.
    pub bytes_to_server: u64,
    /// Stream bytes.
    pub bytes_to_client: u64,
    /// The class in which it asked for room at a backend; none: it needed not ask.
    pub queue_class: Option<String>,
    /// How long it waited for room, milliseconds, all told.
    pub waited_ms: u32,
    /// Its session's backend had no room, and it went to another.
    pub spilled: bool,
    /// What was decided and done.
    pub steps: Vec<Done>,
    /// Steps before the last one that are not kept.
    pub lost: u16,
    /// Members of the pool, as they are now.
    pub candidates: Vec<Candidate>,
}

/// An identity in a hello.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Offered {
    /// `session-id`, `ticket`, `psk` or `cookie`.
    pub kind: String,
    /// The session ID, or the SHA-256 of the ticket, PSK identity or cookie, in hex; none where its key name was enough.
    pub key: Option<String>,
    /// The name of the ticket key, in hex; none where there can be none.
    pub key_name: Option<String>,
}

/// The row that decided.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Decided {
    /// What of the hello or request it was found by: `session-id`, `ticket`, `ticket-key`, `psk`, `psk-key` or `cookie`.
    pub reason: String,
    /// Its key, in hex.
    pub key: String,
    /// False: a good guess only. A key name that was seen with one ticket so far, or servers that refuse each other's.
    pub proven: bool,
    /// Backends that it named and that were up.
    pub named: u16,
    /// The connection was led to one of them.
    pub followed: bool,
}

/// A step.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// Milliseconds since its beginning.
    pub after_ms: f64,
    /// `hello`, `request`, `not-tls`, `silent`, `late-hello`, `waits`, `goes`, `dials`, `no-way`, `refuses`, `silence`, `answers`, `nobody`, `no-place` or `ends`.
    pub what: String,
    /// The backend that it is about.
    pub backend: Option<String>,
}

/// A backend to which it might have gone.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// `up`, `draining`, `down` or `differs`.
    pub state: String,
    /// Whose word that is, and why.
    pub why: Option<String>,
    /// Its share of new connections.
    pub weight: u16,
}

/// The same number in JSON as in the connections log.
fn ms(span: Duration) -> f64 {
    span.as_micros() as f64 / 1000.0
}

fn offered(identity: &Identity) -> Offered {
    Offered {
        kind: identity.kind().as_str().to_string(),
        key: identity.is_whole().then(|| identity.key().to_string()),
        key_name: identity.name().map(|name| format!("{:032x}", u128::from_be_bytes(*name))),
    }
}

fn decided(row: &Row) -> Decided {
    let Row { reason, key, proven, named, followed } = *row;
    Decided { reason: reason.as_str().to_string(), key: key.to_string(), proven, named, followed }
}

fn word(what: &What) -> (&'static str, Option<Holder>) {
    match *what {
        What::Hello => ("hello", None),
        What::Request => ("request", None),
        What::NotTls => ("not-tls", None),
        What::Silent => ("silent", None),
        What::LateHello => ("late-hello", None),
        What::Waits => ("waits", None),
        What::Goes(backend) => ("goes", Some(backend)),
        What::Dials(backend) => ("dials", Some(backend)),
        What::NoWay(backend) => ("no-way", Some(backend)),
        What::Refuses(backend) => ("refuses", Some(backend)),
        What::Silence(backend) => ("silence", Some(backend)),
        What::Answers(backend) => ("answers", Some(backend)),
        What::Nobody => ("nobody", None),
        What::NoPlace => ("no-place", None),
        What::Ends(_) => ("ends", None),
    }
}

/// What a client wrote, so that it can be shown.
fn printable(name: &[u8]) -> String {
    name.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' }).collect()
}

impl Explanation {
    /// Of a worker's trail; `lives` is the connection as it stands, if it does. `origin` is the wall clock's reading at
    /// [`Time::ZERO`](crate::time::Time::ZERO). Candidates are its teller's to add.
    pub fn new(
        worker: usize,
        trail: &Trail,
        lives: Option<&Shown>,
        directory: &Directory,
        origin: SystemTime,
    ) -> Explanation {
        let name = |(id, generation): Holder| {
            let backend = directory.backend(id).filter(|b| b.generation == generation);
            backend.map(|b| b.name.clone())
        };
        let began = origin + trail.began.since(crate::time::Time::ZERO);
        let done = |step: &Step| {
            let (what, backend) = word(&step.what);
            Done { after_ms: ms(step.after()), what: what.to_string(), backend: backend.and_then(name) }
        };
        let end = trail.steps.last().and_then(|step| match step.what {
            What::Ends(end) => Some(end.as_str().to_string()),
            _ => None,
        });
        let mut told = Explanation {
            conn: trail.number,
            worker,
            began: began.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()),
            client: Some(trail.client()),
            via: trail.via(),
            vip: Some(trail.vip()),
            sni: (!trail.name.is_empty()).then(|| printable(&trail.name)),
            offered: trail.offered.iter().map(offered).collect(),
            unsaid: trail.unsaid,
            row: trail.row.as_ref().map(decided),
            end,
            steps: trail.steps.iter().map(done).collect(),
            lost: trail.lost,
            ..Explanation::default()
        };
        if let Some(shown) = trail.ended.as_ref().or(lives) {
            let pool = directory.pool(shown.pool);
            told.service = directory.service_name(shown.service).map(str::to_string);
            told.pool = directory.pool_name(shown.pool).map(str::to_string);
            told.balance = pool.map(|pool| balance(pool.balance()));
            told.backend = shown.backend.and_then(name);
            told.local = shown.local;
            told.state = lives.map(|shown| shown.state.to_string());
            told.class = shown.class.map(|class| class.as_str().to_string());
            told.tls_version = shown.version.map(|version| VersionName(version.get()).to_string());
            told.resumed = shown.resumed;
            told.handshake_ms = shown.times.handshake().map(ms);
            told.first_byte_ms = shown.times.first_byte().map(ms);
            (told.bytes_to_server, told.bytes_to_client) = (shown.bytes[0], shown.bytes[1]);
            let queue_class = shown.queue_class.and_then(|class| directory.class_name(shown.service, class));
            told.queue_class = queue_class.map(str::to_string);
            (told.waited_ms, told.spilled) = (u32::from(shown.waited), shown.spilled);
        }
        told
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let address = |at: Option<SocketAddr>| at.map_or("?".to_string(), |at| at.to_string());
        let began = UNIX_EPOCH + Duration::try_from_secs_f64(self.began).unwrap_or_default();
        let stands = match (&self.end, &self.state) {
            (Some(end), _) => format!("ended: {end}"),
            (None, Some(state)) => format!("lives: {state}"),
            (None, None) => "is over".to_string(),
        };
        _ = writeln!(
            out,
            "connection {} of worker {}: {} to {}, {stands}",
            self.conn,
            self.worker,
            address(self.client),
            address(self.vip)
        );
        let mut line = |at: Option<f64>, text: String| {
            let at = at.map_or(String::new(), |ms| format!("{ms:.3} ms"));
            _ = writeln!(out, "  {at:>14}  {text}");
        };
        let began = humantime::format_rfc3339_micros(began);
        line(Some(0.0), format!("began {began}: the client's handshake is complete, its cookie came back"));
        self.via.iter().for_each(|via| line(None, format!("the client is named by a PROXY header of {via}")));
        let mut dialled = false;
        for (n, step) in self.steps.iter().enumerate() {
            if self.lost > 0 && n + 1 == self.steps.len() {
                line(None, format!("{} steps more", self.lost));
            }
            line(Some(step.after_ms), self.step(step, &mut dialled));
            match step.what.as_str() {
                "hello" | "request" | "late-hello" => self.hello().into_iter().for_each(|text| line(None, text)),
                "answers" => self.answer().into_iter().for_each(|text| line(None, text)),
                _ => {}
            }
        }
        if self.steps.is_empty() {
            line(None, "nothing is decided yet".to_string());
        }
        if !self.candidates.is_empty() {
            let pool = self.pool.as_deref().unwrap_or("?");
            _ = writeln!(out, "  members of pool {pool}, as they are now:");
            for Candidate { name, state, why, weight } in &self.candidates {
                let why = why.as_ref().map_or(String::new(), |why| format!(" ({why})"));
                _ = writeln!(out, "    {name}: {state}{why}, weight {weight}");
            }
        }
        out
    }

    /// What was offered, and what the tables said of it.
    fn hello(&self) -> Vec<String> {
        let mut lines = vec![];
        for Offered { kind, key, key_name } in &self.offered {
            let key = key.as_ref().map_or(String::new(), |key| format!(" {}", short(key)));
            let name = key_name.as_ref().map_or(String::new(), |name| format!(", key name {name}"));
            lines.push(format!("offers a {kind}{key}{name}"));
        }
        if self.unsaid > 0 {
            lines.push(format!("and {} identities more", self.unsaid));
        }
        match &self.row {
            Some(row) => {
                let how = if row.proven { "" } else { ", which is a guess" };
                let many = if row.named == 1 { "one backend".to_string() } else { format!("{} backends", row.named) };
                let followed = if row.followed { "" } else { "; it had to go elsewhere" };
                lines.push(format!(
                    "the table knows {} {}: it names {many}{how}{followed}",
                    row.reason,
                    short(&row.key)
                ));
            }
            None if self.offered.is_empty() => lines.push("offers no session: it is balanced".to_string()),
            None => lines.push("no row of the tables knows what it offers: it is balanced".to_string()),
        }
        lines
    }

    /// What the server's answer showed.
    fn answer(&self) -> Vec<String> {
        let version = self.tls_version.as_ref().map(|version| format!("TLS {version}"));
        let resumed = self.resumed.map(|resumed| if resumed { "the session was resumed" } else { "a new session" });
        let took = self.handshake_ms.map(|took| format!("{took:.3} ms after the client's"));
        let words: Vec<String> = version.into_iter().chain(resumed.map(str::to_string)).chain(took).collect();
        if words.is_empty() { vec![] } else { vec![format!("its hello: {}", words.join(", "))] }
    }

    fn step(&self, step: &Done, dialled: &mut bool) -> String {
        let backend = step.backend.as_deref().unwrap_or("a backend that has gone");
        match step.what.as_str() {
            "hello" => match &self.sni {
                Some(name) => format!("the client's hello, for {name}"),
                None => "the client's hello, without a server name".to_string(),
            },
            "request" => match &self.sni {
                Some(name) => format!("the client's request, for {name}"),
                None => "the client's request, for no host by name".to_string(),
            },
            "not-tls" => "the client says something else than TLS: it is balanced".to_string(),
            "silent" => {
                "the client waits for the server to speak, or says too little to tell: it is balanced".to_string()
            }
            "late-hello" => "the client's hello, too late to lead".to_string(),
            "waits" => {
                let class = self.queue_class.as_deref().unwrap_or("?");
                format!("no backend has room: it waits, in class {class}")
            }
            "goes" => {
                let elsewhere = if self.spilled { ", though its session is at another one" } else { "" };
                format!("there is room at {backend}, after {} ms{elsewhere}", self.waited_ms)
            }
            "dials" => {
                let again = core::mem::replace(dialled, true);
                let by = match (&self.row, &self.balance) {
                    (Some(row), _) if row.followed && !again => format!("by the row of its {}", row.reason),
                    (_, Some(balance)) => format!("by {balance}"),
                    _ => "balanced".to_string(),
                };
                let local = self.local.filter(|_| step.backend == self.backend);
                let from = local.map_or(String::new(), |local| format!(" from {local}"));
                format!("{backend} is chosen, {by}, and dialled{from}")
            }
            "no-way" => format!("{backend} is chosen, but there is no free local port or no next hop towards it"),
            "refuses" => format!("{backend} refuses, by a reset"),
            "silence" => format!("{backend} does not answer"),
            "answers" => format!("{backend} answers, and is given what the client has said"),
            "nobody" => "no backend is left to ask".to_string(),
            "no-place" => "no backend has room, and there is no place to wait".to_string(),
            "ends" => format!(
                "it ends: {}; {} bytes to the server, {} to the client",
                self.end.as_deref().unwrap_or("?"),
                self.bytes_to_server,
                self.bytes_to_client
            ),
            other => other.to_string(),
        }
    }
}

/// As much of a digest as people compare.
fn short(hex: &str) -> String {
    match hex.char_indices().nth(32) {
        Some((at, _)) => format!("{}…", &hex[..at]),
        None => hex.to_string(),
    }
}
