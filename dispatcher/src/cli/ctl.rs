//! `dispatcher ctl`: asks a running dispatcher over its control socket.

use super::listing;
use crate::control::overrides::verb;
use crate::control::socket::DEFAULT_SOCKET;
use crate::control::socket::api::{
    Applied, Backend, Configuration, Diff, Drop, Failure, Forgotten, Overview, Queue, Reopened, Service, Sessions,
    Worker,
};
use crate::control::socket::client::{self, Question, escaped};
use crate::control::socket::orders::{NewBackend, NewWeight, Terms};
use crate::control::{backend, file, values};
use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use lb::{MemberSpec, State};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What stands below the help.
pub const EXAMPLES: &str = "\
Examples:
  dispatcher ctl show
  dispatcher ctl show backends
  dispatcher ctl drain web2 --for 10m --why 'new disk'
  dispatcher ctl apply dispatcher.toml --dry-run --against trace.pcapng
  dispatcher ctl --socket /run/dispatcher/control.sock show drops --json
  curl --unix-socket /run/dispatcher/control.sock http://dispatcher/v1/backends

The dispatcher must have been started with --control. Everything that can be asked is described by docs/openapi.json, and by the dispatcher itself at /v1/openapi.json.

Exit status: 0 done, 1 the dispatcher refused (one line on standard error says why), 2 wrong flags, or no dispatcher answers.";

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
#[expect(clippy::large_enum_variant, reason = "one is made in a process")]
pub enum Verb {
    /// Show the dispatcher at a glance, or one kind of thing in it
    Show {
        /// What to show
        #[arg(value_enum)]
        what: Option<What>,

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
    /// Add a backend to a pool
    Add {
        /// The pool's name
        pool: String,

        /// The backend
        #[arg(value_name = "NAME=ADDR:PORT[,weight=N]", value_parser = backend::added)]
        backend: MemberSpec,

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
    /// Threads that move frames
    Workers,
    /// Frames that came to nothing, by reason
    Drops,
    /// Who waits for room at servers with limits, by class, and what became of others
    Queues,
}

/// What can be done with the connections log.
#[derive(Subcommand, Debug)]
pub enum LogVerb {
    /// Open it anew, after it was moved away (SIGUSR1 does the same)
    Reopen,
}

/// The dispatcher refused.
const REFUSED: u8 = 1;
/// It could not be asked.
const NOT_ASKED: u8 = 2;

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
        Verb::Show { what, json } => return show(args, *what, *json),
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
        Verb::Add { pool, backend: MemberSpec { name, addr, weight, .. }, terms: TermArgs { time, why } } => {
            let body = NewBackend {
                name: name.clone(),
                address: addr.to_string(),
                weight: Some(*weight),
                time: time.clone(),
                why: why.clone(),
            };
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

fn show(args: &CtlArgs, what: Option<What>, json: bool) -> Result<String, (u8, String)> {
    let path = match what {
        None => "/v1",
        Some(What::Services) => "/v1/services",
        Some(What::Backends) => "/v1/backends",
        Some(What::Sessions) => "/v1/sessions",
        Some(What::Workers) => "/v1/workers",
        Some(What::Drops) => "/v1/drops",
        Some(What::Queues) => "/v1/queues",
    };
    let body = ask(args, Question::new(Method::GET, path))?;
    if json {
        let value: serde_json::Value = read(&body)?;
        return serde_json::to_string_pretty(&value).map(|text| text + "\n").map_err(|e| (REFUSED, e.to_string()));
    }
    Ok(match what {
        None => listing::overview(&read::<Overview>(&body)?),
        Some(What::Services) => listing::services(&read::<Vec<Service>>(&body)?),
        Some(What::Backends) => listing::backends(&read::<Vec<Backend>>(&body)?),
        Some(What::Sessions) => listing::sessions(&read::<Sessions>(&body)?),
        Some(What::Workers) => listing::workers(&read::<Vec<Worker>>(&body)?),
        Some(What::Drops) => listing::drops(&read::<Vec<Drop>>(&body)?),
        Some(What::Queues) => listing::queues(&read::<Vec<Queue>>(&body)?),
    })
}

/// The body of an answer that is none of a refusal.
fn ask(args: &CtlArgs, question: Question) -> Result<Vec<u8>, (u8, String)> {
    let only_if = args.only_if.clone().or(question.only_if);
    let answer = client::request(&args.socket, Question { only_if, ..question }).map_err(|why| (NOT_ASKED, why))?;
    if (200..300).contains(&answer.status) {
        return Ok(answer.body.to_vec());
    }
    let why = match serde_json::from_slice::<Failure>(&answer.body) {
        Ok(failure) => listing::failure(&failure),
        Err(_) => format!("{}: refused, status {}", args.socket.display(), answer.status),
    };
    Err((REFUSED, why))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, (u8, String)> {
    let wrong = |e| (REFUSED, format!("the dispatcher's answer is not understood; is it of another version? ({e})"));
    serde_json::from_slice(body).map_err(wrong)
}
