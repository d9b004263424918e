//! `dispatcher replay`.

use super::args::ReplayArgs;
use super::{INCOMPLETE, REFUSED, Refusal, check, check_file};
use crate::control::configuration::Configuration;
use crate::replay::unread::NotRead;
use crate::replay::{self, against};
use std::io::{self, BufWriter};
use std::path::Path;
use std::process::ExitCode;

/// The command.
pub fn run(args: &ReplayArgs) -> Result<ExitCode, Refusal> {
    let Some(file) = &args.config else {
        return done(replay::run(&check::replay_options(args)?));
    };
    let now = match check_file::load(file)? {
        Ok(source) => source.configuration,
        Err(faults) => return faulty(&faults),
    };
    let Some(next) = &args.next_config else {
        return done(replay::run(&check::replay_of(args, &now)?));
    };
    match check_file::load(next)? {
        Ok(source) => {
            let next_one = source.configuration;
            warn(&now, &next_one, next);
            let config = check::replay_of(args, &now)?.config;
            let options = against::Options {
                files: args.files.clone(),
                json: args.json,
                report: args.report.clone(),
                config,
                next: next_one.wanted,
            };
            let compared = against::run(&options, &mut BufWriter::new(io::stdout().lock()));
            done(replay::whole(compared))
        }
        Err(faults) => faulty(&faults),
    }
}

/// Only services and pools change while a dispatcher runs.
fn warn(now: &Configuration, next: &Configuration, file: &Path) {
    let fixed = |c: &Configuration| (c.process.clone(), c.ports.clone(), c.ticket_keys.clone());
    if fixed(now) != fixed(next) {
        eprintln!(
            "dispatcher: warning: {} changes other things than services and pools, too: they need a restart, and are not compared",
            file.display()
        );
    }
}

fn faulty(faults: &dyn core::fmt::Display) -> Result<ExitCode, Refusal> {
    // All of them, each with its place.
    eprint!("{faults}");
    Ok(ExitCode::from(REFUSED))
}

fn done(replayed: anyhow::Result<()>) -> Result<ExitCode, Refusal> {
    match replayed {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(e) if e.is::<NotRead>() => {
            eprintln!("dispatcher: {e}");
            Ok(ExitCode::from(INCOMPLETE))
        }
        // An error's whole chain on one line.
        Err(e) => Err(Refusal::new(format!("{e:#}"))),
    }
}
