//! `dispatcher run`: checks, starts the workers, reports until it is told to stop.

use super::args::RunArgs;
use super::background;
use super::signs::Signs;
use super::{REFUSED, Refusal, cards, check, check_file, listing, log, report};
use crate::checks::Checks;
use crate::control::configuration::{Configuration, Process};
use crate::control::events::watch::Watch;
use crate::control::events::{Kind, News};
use crate::control::live::{Live, Source};
use crate::control::overrides::saved::Saved;
use crate::control::service::Manager;
use crate::control::socket::running::{wall_clock, wall_clock_exactly};
use crate::control::socket::server::Server;
use crate::control::socket::{self, Control, Running};
use crate::control::takeover::{self, CheckCounts, Failed, Giver, Heir};
use crate::engine::{Returning, Share, Strays};
use crate::io::kernel;
use crate::journal;
use crate::metrics;
use crate::state::{self, Note, State};
use crate::time::Time;
use crate::tunnel::Secret;
use crate::worker::poll::Clock;
use crate::worker::prober::{self, Prober};
use crate::worker::succession::{self, Gates};
use crate::worker::{self, Conductor, Exchange, Plan, SharedDevices, Steering, Worker, changes, post};
use lb::affinity::Reader;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How often the waiting thread looks whether there is something to do.
const LOOK: Duration = Duration::from_millis(20);

/// How often it looks for signs that something was set up wrong.
const WATCH: Duration = Duration::from_secs(1);

/// Exit status after the same signal came twice: as the shell says it of SIGINT.
const IMPATIENT: i32 = 130;

/// The command. `Err` when nothing was started.
pub fn run(args: &RunArgs) -> Result<ExitCode, Refusal> {
    if args.detached {
        return background::leave();
    }
    let source = match &args.config {
        None => Source::flags(check::configuration(args)?),
        Some(file) => match check_file::load(file)? {
            Ok(source) => source,
            // All of them, each with its place.
            Err(faults) => {
                eprint!("{faults}");
                return Ok(ExitCode::from(REFUSED));
            }
        },
    };
    let process = source.configuration.process.clone();
    if args.background {
        return background::start(process.control.as_deref());
    }
    let saved = match (&process.overrides, &process.control) {
        (Some(file), _) => Some(Saved::at(file)),
        (None, Some(socket)) => Some(Saved::beside(socket)),
        (None, None) => None,
    };
    log::start(process.log_format, process.log_level);
    let (live, notes) = Live::new(args.config.clone(), source, saved, wall_clock());
    notes.iter().for_each(|note| tracing::info!("{note}"));
    let wanted = Configuration { wanted: live.in_force().clone(), ..live.configuration().clone() };
    let process = &wanted.process;
    let mut checked = check::run(&wanted, process.control.is_some() || args.config.is_some())?;
    for warning in &checked.warnings {
        tracing::warn!("{warning}");
    }
    let mut heir = None;
    if args.takeover {
        heir = Some(self::heir(process, &mut checked)?);
        // From here on the running one follows no order.
        if live.overrides_were_changed(wall_clock()) {
            return Err(Refusal::new("takeover: somebody has given the running one an order meanwhile: once more"));
        }
    }
    let clock = heir.as_ref().map_or_else(Clock::start, |heir| heir.clock);
    let (journal, writer) = match &process.connections_log {
        Some(path) => {
            let (journal, writer) = journal::open(path, Box::new(move || clock.origin()))
                .map_err(|e| Refusal::new(format!("connections log {}: cannot be written: {e}", path.display())))?;
            (Some(journal), Some(writer))
        }
        None => (None, None),
    };
    let signals = |e| Refusal::new(format!("cannot catch signals: {e}"));
    let stop = stop_on_signals().map_err(signals)?;
    let reopen = Arc::new(AtomicBool::new(false));
    flag::register(SIGUSR1, reopen.clone()).map_err(signals)?;
    let reload = Arc::new(AtomicBool::new(false));
    if args.config.is_some() {
        flag::register(SIGHUP, reload.clone()).map_err(signals)?;
    }
    let mut secret = [0; 32];
    match &heir {
        Some(heir) => secret = heir.secret,
        None => getrandom::fill(&mut secret).map_err(|e| Refusal::new(format!("no random numbers: {e}")))?,
    }
    one_line_panics();

    let told = heir.as_mut().and_then(|heir| heir.cards.take());
    let mut dpdk = cards::bring_up(&mut checked, told).map_err(|e| Refusal::new(e.to_string()))?;
    let config = checked.config.clone();
    let mut signs = Signs::new(wanted.ports.clone(), &config.vips());
    let port_memory = cards::port_memory(&checked.ports, checked.cores.len());
    let are_cards: Vec<bool> = checked.ports.iter().map(cards::is_card).collect();
    let large_units = worker::take_large_units(&checked.ports);
    let (handle, queue) = socket::queue::queue();
    let asked = handle.clone();
    // Before anything is opened: where another dispatcher answers, nothing is to be started. What is asked until then waits.
    let (mut server, mut metrics) = (None, None);
    // Where another is taken over from it answers there until the end, and what it does not answer is begun at once.
    let elsewhere = |at| heir.as_ref().and_then(|heir| heir.metrics.as_ref()).is_none_or(|(taken, _)| *taken != at);
    if heir.is_none() {
        let start = |path| socket::server::start(path, handle.clone(), Default::default());
        server = process.control.as_deref().map(start).transpose().map_err(Refusal::new)?;
    }
    if let Some(at) = process.metrics.filter(|at| elsewhere(*at)) {
        metrics = Some(metrics::server::start(at, asked.clone(), Default::default()).map_err(Refusal::new)?);
    }
    let started = start(checked, process, secret, clock, journal, heir.as_mut(), &mut dpdk).map_err(Refusal::new)?;
    let Started { mut workers, cores, conductor, rows, prober, mut state, gates, returning, devices } = started;
    let mut taken_over = None;
    if let (Some(heir), Some(gates)) = (heir.take(), gates) {
        let watched = heir.watched.clone();
        let notes = heir.leaving(conductor.directory());
        let strays = |all| returning.except(Strays::new(all));
        match heir.take(&gates, cards::all(dpdk.as_ref()), strays) {
            Ok(taken) => {
                devices.take_charge();
                if !queue.events().go_on(&taken.events) {
                    tracing::warn!("takeover: what has happened before cannot be read, and is left out");
                }
                prober.go_on();
                prober.count_on(CheckCounts::here(&taken.checks, conductor.directory()));
                let words = format!("took over {}", taken.words);
                let news = News::new(Kind::Takeover, false, words).with("version", env!("CARGO_PKG_VERSION"));
                queue.events().tell(news, wall_clock_exactly());
                notes.iter().for_each(|note| tracing::info!("{note}"));
                if let Some(path) = process.control.as_deref() {
                    let go_on = socket::server::go_on(path, taken.control, handle, Default::default());
                    server = go_on.inspect_err(|why| tracing::error!("{why}")).ok();
                }
                if let Some((at, listener)) = taken.metrics.filter(|(at, _)| process.metrics == Some(*at)) {
                    let go_on = metrics::server::go_on(at, listener.into(), asked, Default::default());
                    metrics = go_on.inspect_err(|why| tracing::error!("{why}")).ok();
                }
                if let Some(news) = state.as_mut().and_then(State::put_in_place) {
                    tracing::warn!("{news}");
                }
                workers.iter_mut().for_each(|w| cards::describe(dpdk.as_ref(), &are_cards, &mut w.ports));
                taken_over = Some(watched);
            }
            Err(why) => {
                // Those at the gates see that nobody will open them.
                drop(gates);
                prober.stop();
                workers.into_iter().for_each(|worker| _ = worker.join());
                return Err(Refusal::new(why));
            }
        }
    }
    let ports = workers.first().map_or(&[][..], |w| &w.ports);
    let more = writer.is_some().then(report::journal_queue).into_iter().chain(state.as_ref().map(State::size));
    say(&report::start(&config, ports, port_memory, large_units, process.idle, &cores, more));

    let mut manager = Manager::from_environment();
    let status = format!("{} workers run", workers.len());
    match taken_over {
        Some(watched) => manager.took_over(&status, watched),
        None => manager.ready(&status),
    }
    let started = Instant::now();
    let fixed = live.configuration().ports.clone();
    let mut running = Running {
        live,
        conductor,
        rows,
        ports: &fixed,
        clock,
        workers: &workers,
        prober: Some(&prober),
        journal: writer.as_ref(),
        events: queue.events().clone(),
        watch: Watch::default(),
        heir: None,
    };
    let (mut handed_over, mut lost) = (false, false);
    let mut version = running.conductor.directory().version();
    let mut rates = report::Rates::default();
    let mut next_report = process.stats_interval.map(|every| started + every);
    let mut next_look = started + WATCH;
    let (mut stopping, mut turns) = (false, Turns::default());
    while !workers.iter().all(Worker::is_finished) {
        // One that ends by itself has died, or will get no frame any more: without it the others serve half of the flows.
        if stop.load(Ordering::Relaxed) || workers.iter().any(Worker::is_finished) {
            if !std::mem::replace(&mut stopping, true) {
                manager.stopping();
            }
            // First what asks servers by way of them.
            prober.stop();
            if prober.is_finished() {
                workers.iter().for_each(Worker::stop);
            }
        }
        if let (Some(at), Some(every)) = (next_report, process.stats_interval)
            && Instant::now() >= at
        {
            let journal_lost = writer.as_ref().map_or(0, |w| w.lost());
            let all: Vec<_> = workers.iter().map(|w| w.status.snapshot()).collect();
            say(&rates.line(&all, journal_lost));
            // From when it was due, so that lines do not drift; but not several at once after a pause.
            next_report = Some((at + every).max(Instant::now()));
        }
        if Instant::now() >= next_look {
            let all: Vec<_> = workers.iter().map(|w| w.status.snapshot()).collect();
            let kernel = kernel::addresses().ok();
            let lines = signs.look(&all, kernel.as_deref(), kernel::takes());
            lines.iter().for_each(|line| tracing::warn!("{line}"));
            let news = state.as_mut().and_then(|state| state.beat(clock.now(), wall_millis()));
            news.iter().for_each(|line| tracing::warn!("{line}"));
            running.tick().iter().for_each(|line| tracing::info!("{line}"));
            let directory = running.conductor.directory();
            if std::mem::replace(&mut version, directory.version()) != directory.version() {
                let vips: Vec<_> = directory.services().flat_map(|s| s.listen()).copied().collect();
                let lines = signs.follow(&vips, kernel::listeners);
                lines.iter().for_each(|line| tracing::warn!("{line}"));
            }
            if !stopping {
                manager.status(|| report::glance(&running.overview()));
            }
            next_look = Instant::now() + WATCH;
        }
        if reload.swap(false, Ordering::Relaxed) {
            manager.reloading();
            let done = running.reload(false);
            manager.ready("reloaded");
            match done {
                Ok(done) => tracing::info!("reload: {}", listing::applied(&done).trim_end()),
                Err(problem) => tracing::warn!("reload: {}", listing::failure(&problem.failure).trim_end()),
            }
        }
        if reopen.swap(false, Ordering::Relaxed)
            && writer.is_some()
            && let Err(problem) = running.reopen_log()
        {
            tracing::warn!("{}", problem.failure.error);
        }
        if !stopping {
            manager.beat(Instant::now(), || turns.all_turned(&workers));
        }
        queue.serve(&mut running, LOOK);
        if let (Some((who, stream)), false) = (running.heir.take(), stopping)
            && let Some(server) = &server
        {
            let giver = Giver {
                workers: &workers,
                conductor: &running.conductor,
                rows: &running.rows,
                devices: &devices,
                secret,
                clock,
                control: server.listener(),
                metrics: metrics.as_ref().map(|metrics| (metrics.address, metrics.listener())),
                events: queue.events(),
                prober: &prober,
                watched: manager.watched(),
                cards: cards::all(dpdk.as_ref()),
                heir: who.pid,
            };
            tracing::info!("takeover: {who} begins to take over");
            // Workers that stand still are waited for, and no longer than is told.
            let mut meanwhile = |turning: bool| manager.beat(Instant::now(), || !turning || turns.all_turned(&workers));
            let given = takeover::give(stream, &giver, &mut meanwhile);
            match given {
                Ok(words) => {
                    who.pid.into_iter().for_each(|pid| manager.hands_over_to(pid));
                    tracing::info!("takeover: {words}");
                    handed_over = true;
                    break;
                }
                Err(Failed { why, over }) => {
                    let then = if over { "without its devices nothing goes on" } else { "everything goes on here" };
                    let words = format!("takeover by {who} has failed: {why}; {then}");
                    let news = News::new(Kind::Takeover, true, words).with("by", who).with("why", why);
                    queue.events().tell(news, wall_clock_exactly());
                    if over {
                        lost = true;
                        break;
                    }
                }
            }
        }
    }
    if handed_over || lost {
        // What asks servers has no way to them any more, and what it learned another finds out.
        prober.stop();
    }
    if handed_over {
        server.take().into_iter().for_each(Server::pass_on);
    }
    // The last one.
    state.iter_mut().for_each(|state| _ = state.beat(clock.now(), wall_millis()));
    drop((server, metrics, queue));
    if handed_over {
        // Freeing all that memory takes a while, and the other one has enough to do.
        crate::io::go_behind_others();
    }
    let directory = running.conductor.directory().clone();
    let (last, died): (Vec<_>, Vec<_>) = workers.into_iter().map(Worker::join).unzip();
    let journal_lost = writer.map_or(0, |w| w.finish());
    say(&report::summary(&config, &directory, &last, started.elapsed(), journal_lost));
    if died.contains(&true) {
        tracing::error!("a worker died; the numbers above may be a little old");
        return Ok(ExitCode::FAILURE);
    }
    Ok(if lost { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// How far the workers' loops had turned when last looked at.
#[derive(Default)]
struct Turns(Vec<Time>);

impl Turns {
    /// Each has told something since the last time, which it does in its loop. Whoever is stuck tells nothing.
    fn all_turned(&mut self, workers: &[Worker]) -> bool {
        let now: Vec<_> = workers.iter().map(|w| w.status.snapshot().at).collect();
        let turned = self.0.len() != now.len() || self.0.iter().zip(&now).all(|(before, now)| before != now);
        if turned {
            self.0 = now;
        }
        turned
    }
}

/// The workers, and what they have in common.
struct Started {
    workers: Vec<Worker>,
    /// Of each worker, if it has one of its own.
    cores: Vec<Option<usize>>,
    conductor: Conductor,
    rows: Reader,
    prober: Prober,
    state: Option<State>,
    /// Where workers wait, if another process is to be taken over from.
    gates: Option<Gates>,
    returning: Arc<Returning>,
    devices: SharedDevices,
}

/// Asks the running dispatcher, and looks whether this one can go on with what it has.
fn heir(process: &Process, checked: &mut check::Checked) -> Result<Heir, Refusal> {
    let refused = |why: &str| Refusal::new(format!("takeover: {why}"));
    let path = process.control.as_deref().ok_or_else(|| refused("no --control: by it the running one is found"))?;
    for port in &mut checked.ports {
        match port.device {
            worker::Device::AfPacket(..) => port.standby = true,
            worker::Device::AfXdp(..) => {}
            _ if cards::can_change_hands(port) => {}
            _ => return Err(refused(&format!("port '{}': its driver cannot hand over: stop, and start", port.name))),
        }
    }
    let heir = Heir::ask(path).map_err(Refusal::new)?;
    cards::agree(heir.cards.as_ref(), checked).map_err(|why| refused(&why))?;
    heir.fits(&checked.config).map_err(Refusal::new)?;
    Ok(heir)
}

/// Starts all workers; or none, and says why.
fn start(
    checked: check::Checked,
    process: &Process,
    secret: [u8; 32],
    clock: Clock,
    journal: Option<journal::Journal>,
    mut heir: Option<&mut Heir>,
    dpdk: &mut Option<cards::Dpdk>,
) -> Result<Started, String> {
    let check::Checked { config, ports, cores, .. } = checked;
    let returning = Arc::new(cards::returning(&config, &ports, cores.len(), dpdk.as_ref()));
    let left = heir.as_ref().map(|heir| heir.left.clone()).unwrap_or_default();
    let mut shares = Share::divide_with(&config, &secret, cores.len(), &left).map_err(|e| e.to_string())?;
    let (state, notes) = match process.state.as_deref() {
        Some(path) if heir.is_some() => state::open_beside(path, &mut shares, clock.now(), wall_millis()),
        Some(path) => state::open(path, &mut shares, clock.now(), wall_millis()),
        None => (None, Vec::new()),
    };
    if !process.learn_keys {
        Share::explain_nobody(&mut shares);
    }
    // Where nobody seals, nothing of it is kept in memory for longer than this.
    let tunnel_key = process.tunnel_key.as_deref().map(Secret::read).transpose()?.map(Arc::new);
    for note in &notes {
        match note {
            Note::Said(text) => tracing::info!("{text}"),
            Note::Trouble(text) => tracing::warn!("{text}"),
        }
    }
    let Some(any) = shares.first() else { return Err("no worker to start".into()) };
    let (first, released, rows) = (any.revision().clone(), any.released().clone(), any.rows());
    let (clerk, windows) = post::between(cores.len(), ports.iter().map(|p| p.mtu).max().unwrap_or(1500))
        .map_err(|e| format!("the way of checks: {e}"))?;
    let changes_of_checks;
    let (publisher, subscribers) =
        changes::between(cores.len()).map_err(|e| format!("the workers' way to hear of changes: {e}"))?;
    let (mut exchanges, mut steers) = (Vec::new(), None);
    if cores.len() > 1 {
        let steering = Steering::new(&config, &secret, cores.len()).returning(returning.clone());
        let steering = steering.following(first.directory());
        let mtu = ports.iter().map(|p| p.mtu).max().unwrap_or(1500);
        exchanges = Exchange::between(&steering, mtu, worker::take_large_units(&ports))
            .map_err(|e| format!("inboxes between workers: {e}"))?;
        steers = Some(Arc::new(steering));
    }
    changes_of_checks = publisher.reader();
    let revision = first.clone();
    let devices = match heir.as_mut().and_then(|heir| heir.xdp.take()) {
        Some(passed) => {
            SharedDevices::inheriting(&ports, cores.len(), passed).map_err(|why| format!("takeover: {why}"))?
        }
        None => SharedDevices::new(&ports, cores.len()),
    };
    let conductor = Conductor::new(config.clone(), first, steers, released, publisher, Box::new(devices.clone()));
    let mut exchanges = exchanges.into_iter();
    let (gates, at_gates) = match heir {
        Some(_) => {
            let (gates, all) = succession::gates(cores.len());
            (Some(gates), all)
        }
        None => (None, Vec::new()),
    };
    let mut at_gates = at_gates.into_iter();
    let mut started: Vec<Worker> = Vec::with_capacity(cores.len());
    let ends = subscribers.into_iter().zip(windows);
    for (number, ((core, share), (changes, window))) in cores.iter().zip(shares).zip(ends).enumerate() {
        let plan = Plan {
            config: config.clone(),
            share: share.returning(returning.clone()),
            exchange: exchanges.next(),
            changes,
            window,
            devices: devices.clone(),
            clock,
            secret,
            ports: ports.clone(),
            idle: process.idle,
            core: *core,
            #[cfg(feature = "dpdk")]
            seat: dpdk.as_mut().and_then(|dpdk| dpdk.seat(number)),
            journal: journal.clone(),
            tunnel_key: tunnel_key.clone(),
            gate: at_gates.next(),
        };
        match worker::start(number, plan) {
            Ok(worker) => started.push(worker),
            Err(why) => {
                // Those that wait for the inbox of one that never came wait in vain.
                drop((exchanges, gates));
                started.iter().for_each(Worker::stop);
                started.into_iter().for_each(|worker| _ = worker.join());
                return Err(why);
            }
        }
    }
    let mtu = ports.iter().map(|p| p.mtu).min().unwrap_or(1500);
    let seed = u64::from_le_bytes(secret[..8].try_into().expect("8 of 32 bytes"));
    let checks = Checks::new(mtu, process.learn_keys, seed ^ 0x6368_6563_6b73);
    let prober = match prober::start(checks, clerk, revision, changes_of_checks, clock, gates.is_some()) {
        Ok(prober) => prober,
        Err(why) => {
            drop(gates);
            started.iter().for_each(Worker::stop);
            started.into_iter().for_each(|worker| _ = worker.join());
            return Err(why);
        }
    };
    Ok(Started { workers: started, cores, conductor, rows, prober, state, gates, returning, devices })
}

/// Milliseconds since 1970.
fn wall_millis() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
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
        let name = thread.name().unwrap_or("a thread");
        tracing::error!("{name} died: {}{place}", message.replace('\n', " "));
    }));
}
