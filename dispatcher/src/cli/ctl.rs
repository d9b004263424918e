//! `dispatcher ctl`: asks a running dispatcher over its control socket.

use super::capture::CaptureArgs;
use super::{listing, tunnel_listing};
use crate::control::backend::{self, BackendArg};
use crate::control::overrides::verb;
use crate::control::socket::DEFAULT_SOCKET;
use crate::control::socket::api::{
    Applied, Backend, Configuration, Connections, Diff, Drop, Events, Explanations, Failure, Forgotten, Overview,
    Queue, Reopened, Service, Sessions, Tunnel, Worker,
};
use crate::control::socket::client::{self, Answer, Question, escaped};
use crate::control::socket::orders::{NewBackend, NewWeight, Terms};
use crate::control::socket::{connections, explain};
use crate::control::{file, values};
use crate::engine::STATES;
use crate::explain::Explanation;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use lb::State;
use lb::admission::Prefix;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What stands below the help.
pub const EXAMPLES: &str = "\
Examples:
  dispatcher ctl show
  dispatcher ctl show backends
  dispatcher ctl show connections --backend web2 --client 192.0.2.0/24
  dispatcher ctl events --follow
  dispatcher ctl explain 192.0.2.7:41022
  dispatcher ctl capture --client 192.0.2.7 --for 30s --out client.pcapng
  dispatcher ctl drain web2 --for 10m --why 'new disk'
  dispatcher ctl apply dispatcher.toml --dry-run --against trace.pcapng
  dispatcher ctl --socket /run/dispatcher/control.sock show drops --json
  curl --unix-socket /run/dispatcher/control.sock http://dispatcher/v1/backends

The dispatcher must have been started with --control. Everything that can be asked is described by docs/openapi.json, and by the dispatcher itself at /v1/openapi.json.

Exit status: 0 done, 1 the dispatcher refused (one line on standard error says why), 2 wrong flags, or no dispatcher answers.";

const ADD_HELP: &str = "\
KEY=VALUE is
  weight=N             share of new sessions (1); 0 takes none
  max-connections=N    further ones wait
  max-handshakes=N     at a time, in units; auto: it is found out
  slow-start=D         after a recovery weight and limits grow for so long
  check=KIND           tcp, tls, http or https; off: not what all of its pool are
                       asked
  check-KEY=VALUE      sni, path, host, method, expect, interval, timeout, rise,
                       fall or port, as with --check of run
  agent=PORT           an agent there says how much it can take; off: none
  agent-interval=D     from one question to the next (2s)
  tunnel=KIND          its packets go wrapped: ipip, gue, vxlan or wireguard
  tunnel-endpoint=A    where it ends
  tunnel-vni=N, tunnel-mac=M             of vxlan
  tunnel-public-key=K, tunnel-address=A  of wireguard
What is not said is as in its other pools, and its pool's.

Example:
  dispatcher ctl add shop web3=198.51.100.13:443,max-connections=4000,check=https,check-path=/up,agent=9999";

/// Flags of `ctl`.
#[derive(Args, Debug)]
pub struct CtlArgs {
    /// The control socket of the dispatcher
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,

    /// Change something only if this version is in force still: nobody else has changed anything since `ctl diff` showed it
    #[arg(long, global = true, value_name = "VERSION")]
    pub only_if: Option<String>,

    /// What to ask, or to have done.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to ask, or to have done.
#[derive(Subcommand, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is read once")]
pub enum Verb {
    /// Show the dispatcher at a glance, or one kind of thing in it
    Show {
        /// What to show
        #[arg(value_enum)]
        what: Option<What>,

        #[command(flatten)]
        #[allow(missing_docs)]
        which: Which,

        /// Of drops: only those that grow in this time from now on, and how fast
        #[arg(long, value_name = "D", value_parser = values::duration, conflicts_with = "json")]
        over: Option<Duration>,

        /// JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Take over a configuration file: validated as a whole, and in force in all workers when this is done, or nothing is changed
    Apply {
        /// As for `run --config`
        file: PathBuf,

        /// Say what would change, and change nothing
        #[arg(long)]
        dry_run: bool,

        /// Run the change over this capture first, and tell how many of its clients would meet another server, and how many sessions would be lost;
        /// what cannot be told is not applied
        #[arg(long, value_name = "TRACE")]
        against: Option<PathBuf>,
    },
    /// Take over the file that the dispatcher was started with, as it is now (SIGHUP does the same)
    Reload {
        /// Say what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// What a reload would change, and what is other than the file has it
    Diff,
    /// What has happened: backends up and down, and who says so; keys, configurations, overrides, links, workers, tables that are full
    Events {
        /// Go on with what happens from now on, until it is interrupted
        #[arg(long)]
        follow: bool,

        /// Only those behind the event of this number
        #[arg(long, value_name = "N")]
        since: Option<u64>,

        /// A JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Why a connection went where it went: what it offered, what the tables said, who was asked, and what came of it
    Explain {
        /// Connections of this client, the latest first; of all, if nothing is given
        #[arg(value_name = "CLIENT[:PORT]", value_parser = explain::client_text)]
        client: Option<String>,

        /// The connection of this number in the connections log
        #[arg(long, value_name = "N")]
        conn: Option<u64>,

        /// Connections with this server name in their hello
        #[arg(long, value_name = "NAME")]
        sni: Option<String>,

        /// Most connections explained: 1 to 100 [default: 5]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=explain::MOST as i64))]
        limit: Option<u32>,

        /// JSON instead of words
        #[arg(long)]
        json: bool,
    },
    /// Frames as they pass, with what became of each as its comment, which Wireshark shows: into a pcapng file
    Capture(CaptureArgs),
    /// Give a backend no new sessions; its own it still resumes
    Drain(Target),
    /// Give a backend whatever there is
    Ready(Target),
    /// Give a backend nothing
    Disable(Target),
    /// Give a backend another share of new connections
    Weight {
        /// Its name
        backend: String,

        /// Relative to the others' weights
        weight: u16,

        #[command(flatten)]
        #[allow(missing_docs)]
        terms: TermArgs,
    },
    /// Add a backend to a pool, with the limits and checks that one of the file can have
    #[command(after_help = ADD_HELP)]
    Add {
        /// The pool's name
        pool: String,

        /// The backend, as with `run --backend`
        #[arg(value_name = "NAME=ADDR:PORT[,KEY=VALUE]...", value_parser = backend::backend)]
        backend: BackendArg,

        #[command(flatten)]
        #[allow(missing_docs)]
        terms: TermArgs,
    },
    /// Take a backend away: it gets no new connections, and is gone when its last one has ended
    Remove {
        /// Its name
        backend: String,

        /// Reset its connections instead of waiting for their ends
        #[arg(long)]
        now: bool,
    },
    /// The affinity tables
    #[command(subcommand)]
    Sessions(SessionsVerb),
    /// The connections log
    #[command(subcommand)]
    Log(LogVerb),
}

/// A backend, and for how long.
#[derive(Args, Debug)]
pub struct Target {
    /// Its name
    pub backend: String,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub terms: TermArgs,
}

/// For how long, and why.
#[derive(Args, Debug)]
pub struct TermArgs {
    /// Until then; for good, if it is left away
    #[arg(long = "for", value_name = "D", value_parser = a_duration)]
    pub time: Option<String>,

    /// Shown in listings, to whoever looks next
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,
}

/// Sent as it was written.
fn a_duration(text: &str) -> Result<String, String> {
    values::duration(text).map(|_| text.to_string())
}

/// What can be done with the affinity tables.
#[derive(Subcommand, Debug)]
pub enum SessionsVerb {
    /// Forget which sessions a backend can resume
    Forget {
        /// Its name
        backend: String,
    },
}

/// What `ctl show` shows.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Where clients connect to, and how their server is chosen
    Services,
    /// Servers: as they are wanted, and as they are seen
    Backends,
    /// What the affinity tables hold, and what they were asked
    Sessions,
    /// Ticket keys by server: known by which name, since when, shared with whom; and servers of which none is known, and why
    Keys,
    /// Threads that move frames
    Workers,
    /// Frames that came to nothing, by reason
    Drops,
    /// Who waits for room at servers with limits, by class, and what became of others
    Queues,
    /// Tunnels whose packets are sealed, as each worker has them: keys, latest handshakes, what went through
    Tunnels,
    /// Connections as they stand now: by --backend, --service, --client, --state
    Connections,
}

/// Which connections `ctl show connections` shows: those for which all that is given holds.
#[derive(Args, Clone, PartialEq, Eq, Debug, Default)]
pub struct Which {
    /// Connections at this backend only
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,

    /// Connections to this service only
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,

    /// Connections of clients whose addresses begin so only
    #[arg(long, value_name = "ADDR[/BITS]")]
    pub client: Option<Prefix>,

    /// Connections in this state only
    #[arg(long, value_name = "STATE", value_parser = PossibleValuesParser::new(STATES))]
    pub state: Option<String>,

    /// Most connections shown: 1 to 10000 [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=connections::MOST as i64))]
    pub limit: Option<u32>,
}

impl Which {
    /// As it stands behind the path.
    fn query(&self) -> String {
        let Which { backend, service, client, state, limit } = self;
        let given = [
            ("backend", backend.clone()),
            ("service", service.clone()),
            ("client", client.map(|prefix| prefix.to_string())),
            ("state", state.clone()),
            ("limit", limit.map(|n| n.to_string())),
        ];
        query(&given)
    }
}

/// What is given, as it stands behind a path.
fn query(given: &[(&str, Option<String>)]) -> String {
    let given = given.iter().filter_map(|(key, value)| Some(format!("{key}={}", escaped(value.as_ref()?))));
    given.collect::<Vec<_>>().join("&")
}

fn pretty(body: &[u8]) -> Result<String, (u8, String)> {
    let value: serde_json::Value = read(body)?;
    serde_json::to_string_pretty(&value).map(|text| text + "\n").map_err(|e| (REFUSED, e.to_string()))
}

/// In words; that there are none is no success.
fn explained(told: &Explanations) -> Result<String, (u8, String)> {
    let Explanations { explanations, more, late, kept } = told;
    let workers = late.iter().map(|worker| format!("worker {worker} did not answer in time\n")).collect::<String>();
    if explanations.is_empty() {
        let why = format!("no such connection is kept: of each worker the latest {kept} are, living or ended");
        return Err((REFUSED, format!("{why}\n{workers}")));
    }
    let words: Vec<_> = explanations.iter().map(Explanation::text).collect();
    let more = if *more { "(there are more: --limit)\n" } else { "" };
    Ok(words.join("\n") + more + &workers)
}

/// What can be done with the connections log.
#[derive(Subcommand, Debug)]
pub enum LogVerb {
    /// Open it anew, after it was moved away (SIGUSR1 does the same)
    Reopen,
}

/// The dispatcher refused.
pub(super) const REFUSED: u8 = 1;
/// It could not be asked.
pub(super) const NOT_ASKED: u8 = 2;

/// The command.
pub fn run(args: &CtlArgs) -> ExitCode {
    match carry_out(args) {
        Ok(text) => {
            // A reader that has gone away is no error of ours.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err((code, why)) => {
            // One line; where a file is wrong, one for each of its faults.
            eprintln!("dispatcher: {}", why.trim_end());
            ExitCode::from(code)
        }
    }
}

/// What to print; or an exit status and why.
fn carry_out(args: &CtlArgs) -> Result<String, (u8, String)> {
    let question = match &args.verb {
        Verb::Show { what: Some(What::Drops), over: Some(over), .. } => return growing(args, *over),
        Verb::Show { over: Some(_), .. } => return Err((NOT_ASKED, "--over goes with `show drops` only".to_string())),
        Verb::Show { what, which, json, .. } => return show(args, *what, which, *json),
        Verb::Events { follow, since, json } => return events(args, *follow, *since, *json),
        Verb::Explain { client, conn, sni, limit, json } => {
            let given = [
                ("client", client.clone()),
                ("conn", conn.map(|n| n.to_string())),
                ("sni", sni.clone()),
                ("limit", limit.map(|n| n.to_string())),
            ];
            let body = ask(args, Question::new(Method::GET, format!("/v1/explain?{}", query(&given))))?;
            return if *json { pretty(&body) } else { explained(&read(&body)?) };
        }
        Verb::Capture(capture) => return super::capture::run(args, capture),
        Verb::Diff => {
            let now: Configuration = get(args, "/v1/configuration")?;
            return Ok(listing::diff(&now, &get::<Diff>(args, "/v1/diff")?));
        }
        Verb::Log(LogVerb::Reopen) => {
            let done: Reopened = read(&ask(args, Question::new(Method::POST, "/v1/log/reopen"))?)?;
            return Ok(format!("connections log {}: opened anew\n", done.file));
        }
        Verb::Sessions(SessionsVerb::Forget { backend }) => {
            let path = format!("/v1/backends/{}/sessions", escaped(backend));
            let done: Forgotten = read(&ask(args, Question::new(Method::DELETE, path))?)?;
            return Ok(format!("the sessions of {} are forgotten\n", done.backend));
        }
        Verb::Apply { file: path, dry_run, against } => {
            let shown = path.display();
            let text = file::at_most(file::MAX_FILE, path).map_err(|e| (NOT_ASKED, format!("{shown}: {e}")))?;
            let put = |dry_run: bool| {
                let path = format!("/v1/configuration?dry_run={dry_run}&name={}", escaped(&shown.to_string()));
                Question { body: text.clone().into(), ..Question::new(Method::PUT, path) }
            };
            if let Some(trace) = against {
                return apply_against(args, trace, put, *dry_run);
            }
            put(*dry_run)
        }
        Verb::Reload { dry_run } => Question::new(Method::POST, format!("/v1/reload?dry_run={dry_run}")),
        Verb::Drain(target) => state(State::Draining, target)?,
        Verb::Ready(target) => state(State::Up, target)?,
        Verb::Disable(target) => state(State::Down, target)?,
        Verb::Weight { backend, weight, terms: TermArgs { time, why } } => {
            let body = NewWeight { weight: *weight, time: time.clone(), why: why.clone() };
            question(Method::PUT, format!("/v1/backends/{}/weight", escaped(backend)), &body)?
        }
        Verb::Add { pool, backend, terms: TermArgs { time, why } } => {
            let body = NewBackend::new(&backend.backend, time.clone(), why.clone());
            question(Method::POST, format!("/v1/pools/{}/backends", escaped(pool)), &body)?
        }
        Verb::Remove { backend, now } => {
            Question::new(Method::DELETE, format!("/v1/backends/{}?now={now}", escaped(backend)))
        }
    };
    Ok(listing::applied(&read::<Applied>(&ask(args, question)?)?))
}

fn state(wanted: State, Target { backend, terms: TermArgs { time, why } }: &Target) -> Result<Question, (u8, String)> {
    let body = Terms { time: time.clone(), why: why.clone() };
    question(Method::POST, format!("/v1/backends/{}/{}", escaped(backend), verb(wanted)), &body)
}

fn question(method: Method, path: String, body: &impl Serialize) -> Result<Question, (u8, String)> {
    let body = serde_json::to_vec(body).map_err(|e| (NOT_ASKED, e.to_string()))?.into();
    Ok(Question { body, ..Question::new(method, path) })
}

fn get<T: DeserializeOwned>(args: &CtlArgs, path: &str) -> Result<T, (u8, String)> {
    read(&ask(args, Question::new(Method::GET, path))?)
}

/// Tells what the change would do to recorded traffic, and then makes it, unless somebody else has made one meanwhile.
fn apply_against(
    args: &CtlArgs,
    trace: &Path,
    put: impl Fn(bool) -> Question,
    dry_run: bool,
) -> Result<String, (u8, String)> {
    let now: Configuration = get(args, "/v1/configuration")?;
    let tried: Applied = read(&ask(args, put(true))?)?;
    let next = tried.in_force.as_deref().unwrap_or_default();
    let told = super::ctl_against::tell(trace, &now.in_force, next, &mut io::stdout().lock());
    told.map_err(|why| (REFUSED, format!("--against {}: {why}; nothing was changed", trace.display())))?;
    if dry_run {
        return Ok(listing::applied(&tried));
    }
    let unless_changed = Question { only_if: Some(now.version), ..put(false) };
    Ok(listing::applied(&read::<Applied>(&ask(args, unless_changed)?)?))
}

/// Which drops grow.
fn growing(args: &CtlArgs, over: Duration) -> Result<String, (u8, String)> {
    let (before, since): (Vec<Drop>, _) = (get(args, "/v1/drops")?, Instant::now());
    std::thread::sleep(over);
    let now: Vec<Drop> = get(args, "/v1/drops")?;
    Ok(listing::growing(&before, &now, since.elapsed()))
}

fn show(args: &CtlArgs, what: Option<What>, which: &Which, json: bool) -> Result<String, (u8, String)> {
    if what != Some(What::Connections) && *which != Which::default() {
        let why = "--backend, --service, --client, --state and --limit go with `show connections` only";
        return Err((NOT_ASKED, why.to_string()));
    }
    let connections = format!("/v1/connections?{}", which.query());
    let path = match what {
        None => "/v1",
        Some(What::Services) => "/v1/services",
        Some(What::Backends | What::Keys) => "/v1/backends",
        Some(What::Sessions) => "/v1/sessions",
        Some(What::Workers) => "/v1/workers",
        Some(What::Drops) => "/v1/drops",
        Some(What::Queues) => "/v1/queues",
        Some(What::Tunnels) => "/v1/tunnels",
        Some(What::Connections) => &connections,
    };
    let body = ask(args, Question::new(Method::GET, path))?;
    if json {
        return pretty(&body);
    }
    Ok(match what {
        None => listing::overview(&read::<Overview>(&body)?),
        Some(What::Services) => listing::services(&read::<Vec<Service>>(&body)?),
        Some(What::Backends) => listing::backends(&read::<Vec<Backend>>(&body)?),
        Some(What::Keys) => listing::keys(&read::<Vec<Backend>>(&body)?),
        Some(What::Sessions) => listing::sessions(&read::<Sessions>(&body)?),
        Some(What::Workers) => listing::workers(&read::<Vec<Worker>>(&body)?),
        Some(What::Drops) => listing::drops(&read::<Vec<Drop>>(&body)?),
        Some(What::Queues) => listing::queues(&read::<Vec<Queue>>(&body)?),
        Some(What::Tunnels) => tunnel_listing::tunnels(&read::<Vec<Tunnel>>(&body)?),
        Some(What::Connections) => listing::connections(&read::<Connections>(&body)?),
    })
}

/// Seconds for which the dispatcher may wait with an answer until there is one.
const WAIT: u64 = 15;

/// Events; with `follow` until nobody reads on, or the dispatcher ends.
fn events(args: &CtlArgs, follow: bool, since: Option<u64>, json: bool) -> Result<String, (u8, String)> {
    let mut path = since.map_or("/v1/events".to_string(), |after| format!("/v1/events?after={after}"));
    loop {
        let began = Instant::now();
        let told: Events = get(args, &path)?;
        let text = listing::events(&told, json);
        // As many as one answer has: there may be more.
        let after = told.events.last().map_or(told.last, |e| e.number);
        if !follow && (since.is_none() || after >= told.last) {
            return Ok(text);
        }
        let mut out = io::stdout().lock();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            return Ok(String::new());
        }
        if told.events.is_empty() && began.elapsed() < Duration::from_millis(500) {
            // There are too many who wait.
            std::thread::sleep(Duration::from_secs(1));
        }
        let wait = if follow { WAIT } else { 0 };
        path = format!("/v1/events?after={after}&wait={wait}");
    }
}

/// The body of an answer that is none of a refusal.
fn ask(args: &CtlArgs, question: Question) -> Result<Vec<u8>, (u8, String)> {
    let only_if = args.only_if.clone().or(question.only_if);
    let answer = client::request(&args.socket, Question { only_if, ..question }).map_err(|why| (NOT_ASKED, why))?;
    if (200..300).contains(&answer.status) {
        return Ok(answer.body.to_vec());
    }
    Err((REFUSED, refusal(args, &answer)))
}

/// Why the dispatcher refused.
pub(super) fn refusal(args: &CtlArgs, answer: &Answer) -> String {
    match serde_json::from_slice::<Failure>(&answer.body) {
        Ok(failure) => listing::failure(&failure),
        Err(_) => format!("{}: refused, status {}", args.socket.display(), answer.status),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, (u8, String)> {
    let wrong = |e| (REFUSED, format!("the dispatcher's answer is not understood; is it of another version? ({e})"));
    serde_json::from_slice(body).map_err(wrong)
}
