//! `dispatcher ctl`: asks a running dispatcher over its control socket.

use super::listing;
use crate::control::socket::api::{Backend, Drop, Failure, Overview, Reopened, Service, Sessions, Worker};
use crate::control::socket::{DEFAULT_SOCKET, client};
use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use serde::de::DeserializeOwned;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// What stands below the help.
pub const EXAMPLES: &str = "\
Examples:
  dispatcher ctl show
  dispatcher ctl show backends
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

    /// What to ask, or to have done.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to ask, or to have done.
#[derive(Subcommand, Debug)]
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
    /// The connections log
    #[command(subcommand)]
    Log(LogVerb),
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
            eprintln!("dispatcher: {}", why.trim_end().replace('\n', " "));
            ExitCode::from(code)
        }
    }
}

/// What to print; or an exit status and why.
fn carry_out(args: &CtlArgs) -> Result<String, (u8, String)> {
    match &args.verb {
        Verb::Show { what, json } => show(args, *what, *json),
        Verb::Log(LogVerb::Reopen) => {
            let done: Reopened = read(&ask(args, Method::POST, "/v1/log/reopen")?)?;
            Ok(format!("connections log {}: opened anew\n", done.file))
        }
    }
}

fn show(args: &CtlArgs, what: Option<What>, json: bool) -> Result<String, (u8, String)> {
    let path = match what {
        None => "/v1",
        Some(What::Services) => "/v1/services",
        Some(What::Backends) => "/v1/backends",
        Some(What::Sessions) => "/v1/sessions",
        Some(What::Workers) => "/v1/workers",
        Some(What::Drops) => "/v1/drops",
    };
    let body = ask(args, Method::GET, path)?;
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
    })
}

/// The body of an answer that is none of a refusal.
fn ask(args: &CtlArgs, method: Method, path: &str) -> Result<Vec<u8>, (u8, String)> {
    let answer = client::request(&args.socket, method, path).map_err(|why| (NOT_ASKED, why))?;
    if (200..300).contains(&answer.status) {
        return Ok(answer.body.to_vec());
    }
    let why = match serde_json::from_slice::<Failure>(&answer.body) {
        Ok(failure) => failure.error,
        Err(_) => format!("{}: refused, status {}", args.socket.display(), answer.status),
    };
    Err((REFUSED, why))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, (u8, String)> {
    let wrong = |e| (REFUSED, format!("the dispatcher's answer is not understood; is it of another version? ({e})"));
    serde_json::from_slice(body).map_err(wrong)
}
