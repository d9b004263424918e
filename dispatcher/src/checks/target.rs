//! One backend, as it is asked.

use super::Seen;
use super::agent::Says;
use super::doubt::{self, Doubt, News};
use super::http::Http;
use super::keys::{AT_MOST_EVERY, EVERY, Keys, Next};
use super::report::{AgentReport, KeyReport, Report};
use super::run::{Outcome, Talk};
use super::tls::Tls;
use super::verdict::Verdict;
use crate::backends::Checked;
use crate::path::CHECK_PORTS;
use crate::time::Time;
use core::time::Duration;
use lb::{Agent, Backend, BackendId, Check, CheckKind, Directory, KeyName, ServiceKind};
use std::net::{IpAddr, SocketAddr};

/// How much an interval may be longer than wanted, or shorter, so that those of many backends do not meet.
const JITTER: f64 = 0.1;
/// How long one handshake may take by which keys are learned.
const LEARN_PATIENCE: Duration = Duration::from_secs(5);
/// Server names of clients by which one is asked for its keys, in turn. Further ones are left out: they mostly share keys.
const NAMES: usize = 8;
/// A connection that could not be begun is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// What a question is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// Whether it serves.
    Check,
    /// Which ticket keys it has.
    Learn,
    /// What its agent says.
    Agent,
    /// Whether it answers a hello, since clients had no answer.
    Doubt,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Purpose; 4] = [Purpose::Check, Purpose::Doubt, Purpose::Learn, Purpose::Agent];
}

/// A backend.
pub(super) struct Target {
    id: BackendId,
    pub generation: u32,
    name: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Our address towards it.
    pub source: IpAddr,
    check: Option<Check>,
    /// What clients' connections have raised against it.
    doubt: Doubt,
    /// Its services begin connections with a PROXY header.
    pub proxy: bool,
    /// Its keys are of use to somebody.
    learns: bool,
    /// TLS is what it speaks.
    tls: bool,
    agent: Option<(Agent, AgentReport)>,
    agent_due: Time,
    hearing: bool,
    verdict: Verdict,
    check_due: Time,
    checking: bool,
    keys: Keys,
    /// Server names for hellos of ours that no check says anything of; none: without a name.
    names: Vec<String>,
    /// Whose turn it is; and how many have not had one yet.
    turn: usize,
    new_names: usize,
    keys_due: Time,
    looked: Time,
    /// Of the last connection.
    port: u16,
}

impl Target {
    pub fn new(backend: &Backend, now: Time) -> Target {
        Target {
            id: backend.id,
            generation: backend.generation,
            name: backend.name.clone(),
            addr: SocketAddr::new(backend.addr.ip().to_canonical(), backend.addr.port()),
            source: backend.addr.ip(),
            check: None,
            doubt: Doubt::default(),
            proxy: false,
            learns: false,
            tls: false,
            agent: None,
            agent_due: Time::MAX,
            hearing: false,
            verdict: Verdict::unknown(now),
            check_due: Time::MAX,
            checking: false,
            keys: Keys::default(),
            names: Vec::new(),
            turn: 0,
            new_names: 0,
            keys_due: now,
            looked: Time::ZERO,
            port: backend.id.0.wrapping_mul(37) % CHECK_PORTS,
        }
    }

    /// What is wanted of it now. `spread`, from 0 to 1, says when in the first interval it is asked first.
    pub fn follow(
        &mut self,
        backend: &Backend,
        directory: &Directory,
        source: IpAddr,
        learns: bool,
        spread: f64,
        now: Time,
    ) {
        let services = || directory.services().filter(|s| s.backends().contains(self.id));
        let proxy = services().any(|s| s.policy().proxy_protocol);
        let affinity = services().any(|s| s.policy().affinity);
        let tls = services().any(|s| s.policy().kind == ServiceKind::Tls);
        (self.proxy, self.source, self.learns) = (proxy, source, learns && affinity);
        if self.check != backend.check {
            self.check = backend.check.clone();
            self.doubt = Doubt::default();
            self.checking = false;
            // What another check said says nothing of this one.
            self.verdict = Verdict::unknown(now);
            self.check_due = self.check.as_ref().map_or(Time::MAX, |check| now + check.interval.mul_f64(spread));
        }
        if self.agent.as_ref().map(|(agent, _)| *agent) != backend.agent {
            let report = AgentReport { says: Says::default(), since: now, failed: None };
            self.agent = backend.agent.map(|agent| (agent, report));
            (self.hearing, self.agent_due) = (false, now);
        }
        let own = self.check.as_ref().and_then(|check| check.sni.as_deref());
        let pools =
            |s: &lb::Service| s.pools().iter().copied().filter(|pool| self.is_in(directory, *pool)).collect::<Vec<_>>();
        let mut names: Vec<String> = own.into_iter().map(str::to_string).collect();
        for service in services() {
            for name in pools(service).into_iter().flat_map(|pool| service.names_to(pool)) {
                if names.len() < NAMES && !names.iter().any(|known| known == name) {
                    names.push(name.to_string());
                }
            }
        }
        if names != self.names {
            (self.turn, self.new_names) = (0, names.len().saturating_sub(1));
            self.names = names;
        }
        self.tls |= tls || self.check.as_ref().is_some_and(|check| check.kind.is_tls());
    }

    fn is_in(&self, directory: &Directory, pool: lb::PoolId) -> bool {
        directory.pool(pool).is_some_and(|pool| pool.backends().contains(self.id))
    }

    /// It has come while others were there already: nobody is to wait for it.
    pub fn at_once(&mut self, now: Time) {
        if self.check.is_some() {
            self.check_due = now;
        }
    }

    pub fn speaks_tls(&mut self, now: Time) {
        if !self.tls {
            self.tls = true;
            self.keys_due = now;
        }
    }

    /// Connections of clients, one after the other, had no answer. If it has a check that is made at once; and where that is none by which a server that answers
    /// no hellos can be told from one that does, it is asked to answer one. While it does not it is down, unless it is the last.
    pub fn suspect(&mut self, now: Time) {
        self.check_due = self.check_due.min(now);
        let own_port = |check: &Check| check.port.is_none_or(|port| port == self.addr.port());
        if self.check.as_ref().is_none_or(|check| !check.kind.is_tls() || !own_port(check)) {
            self.doubt.raise(now);
        }
    }

    /// What its checks say.
    pub fn checked(&self) -> Checked {
        self.verdict.state
    }

    /// It is down because of a suspicion alone.
    pub fn is_down_by_doubt(&self) -> bool {
        self.doubt.is_down() && self.verdict.state != Checked::Down
    }

    pub fn look_at_keys(&mut self, now: Time) {
        self.keys_due = self.keys_due.min(now.max(self.looked + AT_MOST_EVERY));
    }

    /// What was known of its keys is known no more: it is asked anew, at once.
    pub fn forget_keys(&mut self, now: Time) {
        (self.keys, self.keys_due) = (Keys::default(), now);
    }

    /// Such a question is under way.
    pub fn awaits(&self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Check => self.checking,
            Purpose::Learn => self.keys.is_looking(),
            Purpose::Agent => self.hearing,
            Purpose::Doubt => self.doubt.is_asking(),
        }
    }

    /// When such a question is due.
    pub fn due(&self, purpose: Purpose) -> Time {
        match purpose {
            Purpose::Check if self.check.is_some() && !self.checking => self.check_due,
            Purpose::Doubt => self.doubt.due(),
            Purpose::Learn
                if self.learns && self.tls && !self.keys.is_looking() && self.seen().checked != Checked::Down =>
            {
                self.keys_due
            }
            Purpose::Agent if self.agent.is_some() && !self.hearing => self.agent_due,
            _ => Time::MAX,
        }
    }

    pub fn put_off(&mut self, purpose: Purpose, now: Time) {
        match purpose {
            Purpose::Check => (self.checking, self.check_due) = (false, now + AGAIN),
            Purpose::Agent => (self.hearing, self.agent_due) = (false, now + AGAIN),
            Purpose::Doubt => self.doubt.put_off(now + AGAIN),
            Purpose::Learn => {
                self.keys.give_up();
                self.keys_due = now + AGAIN;
            }
        }
    }

    /// Begins a question: to whom, what is said, and how long it may take.
    pub fn begin(&mut self, purpose: Purpose, spread: f64, now: Time) -> Option<(SocketAddr, Talk, Duration)> {
        let jitter = |every: Duration| every.mul_f64(1.0 + JITTER * (2.0 * spread - 1.0));
        match purpose {
            Purpose::Check => {
                let check = self.check.clone()?;
                let check = &check;
                self.check_due = now + jitter(check.interval);
                let to = SocketAddr::new(self.addr.ip(), check.port.unwrap_or(self.addr.port()));
                let talk = match check.kind {
                    CheckKind::Tcp => Talk::Knock,
                    CheckKind::Http => Talk::Http(Http::new(check, to)),
                    CheckKind::Tls | CheckKind::Https => {
                        let handshake = self.tls(check.kind == CheckKind::Https)?.begin(false, now)?;
                        Talk::Tls(Box::new(handshake), check.kind.is_http().then(|| Http::new(check, to)))
                    }
                };
                let patience = check.patience();
                self.checking = true;
                Some((to, talk, patience))
            }
            Purpose::Doubt => {
                self.doubt.begin(now);
                let handshake = self.tls_as_client()?.begin(false, now)?;
                Some((self.addr, Talk::Tls(Box::new(handshake), None), doubt::EVERY))
            }
            Purpose::Agent => {
                let (agent, _) = self.agent.as_ref()?;
                self.agent_due = now + jitter(agent.interval);
                self.hearing = true;
                let to = SocketAddr::new(self.addr.ip(), agent.port);
                Some((to, Talk::Line(Vec::new()), agent.interval.min(lb::check::TIMEOUT)))
            }
            Purpose::Learn => {
                // Each name once, soon; then one a minute.
                let soon = self.new_names > 0;
                self.new_names = self.new_names.saturating_sub(1);
                self.keys_due = now + if soon { AT_MOST_EVERY } else { jitter(EVERY) };
                self.looked = now;
                self.turn = self.turn.wrapping_add(1);
                let fresh = self.tls_as_client();
                let handshake = self.keys.begin(fresh, now)?;
                Some((self.addr, Talk::Tls(handshake, None), LEARN_PATIENCE))
            }
        }
    }

    /// As a client comes: by a name that leads one there, if there is any; several take turns.
    fn tls_as_client(&self) -> Option<Tls> {
        let name = self.turn.wrapping_sub(1).checked_rem(self.names.len()).map(|at| self.names[at].as_str());
        Tls::new(name, self.addr.ip(), false)
    }

    fn tls(&self, http: bool) -> Option<Tls> {
        let sni = self.check.as_ref().and_then(|check| check.sni.as_deref());
        Tls::new(sni, self.addr.ip(), http)
    }

    /// A check has come to this. A line, when what holds has changed by it.
    pub fn conclude_check(&mut self, outcome: &Outcome, now: Time) -> Option<String> {
        self.checking = false;
        let check = self.check.clone()?;
        self.verdict.took = Some(outcome.took);
        if !self.verdict.note(&outcome.result, (check.rise, check.fall), now) {
            return None;
        }
        let (name, kind, row) = (&self.name, check.kind, self.verdict.in_a_row());
        let line = match (&self.verdict.state, &outcome.result) {
            (Checked::Down, Err(why)) => format!("backend {name} is down: check {kind}: {why} ({row} in a row)"),
            _ => format!("backend {name} is up: check {kind} passed {row} in a row"),
        };
        if self.verdict.state == Checked::Up {
            self.look_at_keys(now);
        }
        Some(line)
    }

    /// A hello of ours to one that is suspected has come to this. A line, when what holds has changed by it.
    pub fn doubted(&mut self, outcome: &Outcome, spread: f64, now: Time) -> Option<String> {
        let name = &self.name;
        match self.doubt.answered(outcome, spread, now) {
            News::None => None,
            News::Back => Some(format!("backend {name} is up: it answers hellos again")),
            News::Away(wait) => {
                let told = self.doubt.report()?;
                let why = told.why.unwrap_or_default();
                let again = match told.times {
                    1 => String::new(),
                    n => format!(" ({n} times in a row: it is asked again in {} s)", wait.as_secs()),
                };
                let what = "clients had no answer to their hellos, nor had we";
                Some(format!("backend {name} is down, unless it is the last: {what}: {why}{again}"))
            }
        }
    }

    /// Its agent has said this. A line, when it is something else than before. What cannot be read, and one that does not answer, change nothing.
    pub fn agent_said(&mut self, outcome: &Outcome, now: Time) -> Option<String> {
        self.hearing = false;
        let (_, report) = self.agent.as_mut()?;
        if let Err(why) = &outcome.result {
            report.failed = Some(why.clone());
            return None;
        }
        let line = outcome.line.as_deref().unwrap_or_default();
        let before = report.says.clone();
        report.failed = (!report.says.hear(line)).then(|| "what it says is none of the words of agents".to_string());
        if report.says == before {
            return None;
        }
        report.since = now;
        Some(format!("backend {}: its agent says: {}", self.name, report.says))
    }

    /// A handshake by which keys are learned has come to this: the name of a key, and a line when there is something to tell; or what is said in
    /// a further one.
    pub fn learned(&mut self, outcome: &Outcome, now: Time) -> (Option<KeyName>, Option<String>, Option<Talk>) {
        let took = self.keys.takes_own;
        let fresh = self.tls_as_client();
        match self.keys.answer(outcome, || fresh, now) {
            Next::Handshake(handshake) => (None, None, Some(Talk::Tls(handshake, None))),
            Next::Done(name) => {
                let refuses = self.keys.takes_own == Some(false) && took != Some(false);
                let line = refuses.then(|| {
                    format!(
                        "warning: backend {} does not take the session tickets that it issues: nobody can resume there",
                        self.name
                    )
                });
                if self.keys.is_in_doubt() {
                    self.keys_due = now;
                }
                (name, line, None)
            }
        }
    }

    /// The patience and the place of a further handshake.
    pub fn further(&self) -> (SocketAddr, Duration) {
        (self.addr, LEARN_PATIENCE)
    }

    /// What is known for long is known no more. True when something has changed.
    pub fn expire(&mut self, now: Time) -> bool {
        self.keys.expire(now)
    }

    /// The next port, as an offset.
    pub fn next_port(&mut self) -> u16 {
        self.port = (self.port + 1) % CHECK_PORTS;
        self.port
    }

    pub fn seen(&self) -> Seen {
        Seen {
            backend: self.id,
            generation: self.generation,
            checked: if self.doubt.is_down() { Checked::Down } else { self.verdict.state },
            named: if self.learns { self.keys.are_named() } else { Some(false) },
        }
    }

    pub fn report(&self) -> Report {
        let keys = (self.learns && self.tls).then(|| {
            let (names, since) = self.keys.names.iter().copied().unzip();
            let (takes_own, failed) = (self.keys.takes_own, self.keys.failed.clone());
            KeyReport { state: self.keys.state, names, since, takes_own, failed }
        });
        Report {
            backend: self.id,
            generation: self.generation,
            kind: self.check.as_ref().map(|check| check.kind),
            verdict: self.verdict.clone(),
            suspicion: self.doubt.report(),
            agent: self.agent.as_ref().map(|(_, report)| report.clone()),
            keys,
        }
    }
}
