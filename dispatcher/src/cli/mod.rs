//! The command line: what is written there becomes a [`crate::engine::Config`] and ports, or one clear line and exit
//! status 2.
//!
//! * [`args`] has the flags.
//! * [`check`]: what is wrong with values that are each right.
//! * [`ctl`]: `dispatcher ctl`; `listing`: its tables; [`ctl_against`]: changes before they are made.
//! * [`check_file`]: `dispatcher check`.
//! * [`log`]: the log on standard error.
//! * [`replay`]: `dispatcher replay`.
//! * [`top`]: `dispatcher top`. [`tunnel`]: `dispatcher tunnel`.
//! * [`run`]: `dispatcher run`; `cards`: of DPDK, where it is built in; [`report`]: what it prints; [`signs`]: what it warns of.

pub mod args;
mod background;
pub mod capture;
mod cards;
pub mod check;
pub mod check_file;
pub mod ctl;
pub mod ctl_against;
mod listing;
pub mod log;
pub mod replay;
pub mod report;
pub mod run;
pub mod signs;
pub mod top;
pub mod tunnel;
mod tunnel_listing;
mod tunnel_sealed;

use args::{Cli, Command};
use clap::Parser;
use clap::error::ErrorKind;
use std::process::ExitCode;

/// Something that keeps the command from doing what was asked: one line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl Refusal {
    /// From anything that can be said in one line.
    pub fn new(why: impl Into<String>) -> Refusal {
        Refusal(why.into())
    }
}

/// Exit status of a command that was not started.
const REFUSED: u8 = 2;

/// Exit status of a replay of captures in which there may be connections that were not read.
const INCOMPLETE: u8 = 1;

/// The whole command.
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // Printing help into a closed pipe is no error of ours.
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        Err(e) => return refuse(&one_line(&e)),
    };
    match command {
        Command::Run(args) => match run::run(&args) {
            Ok(code) => code,
            Err(e) => refuse(&e.0),
        },
        Command::Ctl(args) => ctl::run(&args),
        Command::Top(args) => top::run(&args).unwrap_or_else(|e| refuse(&e.0)),
        Command::Check(args) => check_file::run(&args).unwrap_or_else(|e| refuse(&e.0)),
        Command::Tunnel(args) => tunnel::run(&args).unwrap_or_else(|e| refuse(&e.0)),
        Command::Replay(args) => replay::run(&args).unwrap_or_else(|e| refuse(&e.0)),
    }
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("dispatcher: {}", why.replace('\n', " "));
    ExitCode::from(REFUSED)
}

/// clap explains itself over several lines; the first paragraph is what matters.
fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "nothing to do: run or replay, check, ctl, top or tunnel? (see dispatcher --help)".to_string();
    }
    let text = error.render().to_string();
    let words: Vec<_> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let line = words.join(" ");
    format!("{} (see --help)", line.strip_prefix("error: ").unwrap_or(&line))
}
