//! `dispatcher run`: checks, starts a worker, reports until it is told to stop.

use super::args::RunArgs;
use super::{Refusal, check, report};
use crate::journal;
use crate::worker::{self, Plan};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the waiting thread looks whether there is something to do.
const LOOK: Duration = Duration::from_millis(20);

/// Exit status after the same signal came twice: as the shell says it of SIGINT.
const IMPATIENT: i32 = 130;

/// The command. `Err` when nothing was started.
pub fn run(args: &RunArgs) -> Result<ExitCode, Refusal> {
    let checked = check::run(args)?;
    for warning in &checked.warnings {
        eprintln!("dispatcher: warning: {warning}");
    }
    let (journal, writer) = match &args.connections_log {
        Some(path) => {
            let (journal, writer) = journal::open(path)
                .map_err(|e| Refusal::new(format!("connections log {}: cannot be written: {e}", path.display())))?;
            (Some(journal), Some(writer))
        }
        None => (None, None),
    };
    let stop = stop_on_signals().map_err(|e| Refusal::new(format!("cannot catch signals: {e}")))?;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|e| Refusal::new(format!("no random numbers: {e}")))?;
    one_line_panics();

    let mut config = checked.config.clone();
    let plan = Plan {
        config: checked.config,
        secret,
        ports: checked.ports,
        idle: args.idle.into(),
        core: checked.core,
        journal,
    };
    let worker = worker::start(0, plan).map_err(Refusal::new)?;
    // Some ports tell their address only when they are open.
    config.ports.iter_mut().zip(&worker.macs).for_each(|(port, mac)| port.mac = *mac);
    say(&report::start(&config, &worker.ports, args.idle.into(), checked.core, writer.is_some()));

    let started = Instant::now();
    let mut rates = report::Rates::default();
    let mut next_report = args.stats_interval.map(|every| started + every);
    while !worker.is_finished() {
        if stop.load(Ordering::Relaxed) {
            worker.stop();
        }
        if let (Some(at), Some(every)) = (next_report, args.stats_interval)
            && Instant::now() >= at
        {
            let journal_lost = writer.as_ref().map_or(0, |w| w.lost());
            say(&rates.line(&worker.shared.snapshot(), journal_lost));
            // From when it was due, so that lines do not drift; but not several at once after a pause.
            next_report = Some((at + every).max(Instant::now()));
        }
        std::thread::sleep(LOOK);
    }
    let (last, died) = worker.join();
    let journal_lost = writer.map_or(0, |w| w.finish());
    say(&report::summary(&config, &last, started.elapsed(), journal_lost));
    if died {
        eprintln!("dispatcher: a worker died; the numbers above may be a little old");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// A reader that has gone away is no reason to stop forwarding.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A flag that SIGINT and SIGTERM set; the second of them ends the process at once.
fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: at the first signal the flag is not set yet when this one looks at it.
        flag::register_conditional_shutdown(signal, IMPATIENT, stop.clone())?;
        flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

/// Says of a panic what and where, on one line.
fn one_line_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("for an unknown reason");
        let place = panic.location().map_or(String::new(), |l| format!(" ({}:{})", l.file(), l.line()));
        let thread = std::thread::current();
        eprintln!("dispatcher: {} died: {}{place}", thread.name().unwrap_or("a thread"), message.replace('\n', " "));
    }));
}
