//! `dispatcher check FILE`.

use super::args::CheckArgs;
use super::{REFUSED, Refusal};
use crate::control::configuration::Configuration;
use crate::control::fault::Faults;
use crate::control::file::{MAX_FILE, at_most};
use crate::control::live::Source;
use serde_json::json;
use std::collections::HashSet;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Reads a configuration file; what is longer than any may be is not read to its end.
pub fn load(path: &Path) -> Result<Result<Source, Faults>, Refusal> {
    let bytes = at_most(MAX_FILE, path).map_err(|e| Refusal::new(format!("{}: {e}", path.display())))?;
    Ok(Source::file(&path.display().to_string(), &bytes))
}

/// The command.
pub fn run(args: &CheckArgs) -> Result<ExitCode, Refusal> {
    let read = load(&args.file)?.map(|source| source.configuration);
    let good = read.is_ok();
    let text = match (read, args.json) {
        (Ok(configuration), false) => summary(&args.file, &configuration),
        (Ok(configuration), true) => {
            let (services, pools, backends) = counts(&configuration);
            json!({"ok": true, "services": services, "pools": pools, "backends": backends}).to_string() + "\n"
        }
        (Err(faults), false) => {
            eprint!("{faults}");
            String::new()
        }
        (Err(faults), true) => json!({"ok": false, "faults": faults.faults, "more": faults.more}).to_string() + "\n",
    };
    // A reader that has gone away changes nothing of what was found.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

fn counts(configuration: &Configuration) -> (usize, usize, usize) {
    let wanted = &configuration.wanted;
    let backends: HashSet<_> = wanted.pools.iter().flat_map(|p| &p.backends).map(|b| &b.name).collect();
    (wanted.services.len(), wanted.pools.len(), backends.len())
}

fn summary(path: &Path, configuration: &Configuration) -> String {
    let (services, pools, backends) = counts(configuration);
    let unused: Vec<_> = configuration.unused_pools().collect();
    let mut text =
        format!("{}: nothing wrong: services {services}, pools {pools}, backends {backends}\n", path.display());
    if !unused.is_empty() {
        text += &format!("no service leads to: {}\n", unused.join(", "));
    }
    text
}
