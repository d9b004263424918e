//! The tables of `dispatcher ctl show`.

use crate::control::socket::api::{
    Applied, Backend, Change, Configuration, Connections, Diff, Drop, Event, Events, Failure, Observed, Override,
    Overview, Queue, Service, Sessions, Slots, Wanted, Worker,
};
use crate::sessions::HEADS;
use comfy_table::{CellAlignment, Table, presets};
use core::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

/// A table with these heads; columns from `numbers` on are numbers.
fn table(heads: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(heads);
    table.column_iter_mut().take(1).for_each(|column| _ = column.set_padding((0, 1)));
    table.column_iter_mut().skip(numbers).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

/// Columns are filled up with blanks, which no line is to end with.
fn text(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_string() + "\n").collect()
}

fn yes(truth: bool) -> &'static str {
    if truth { "on" } else { "off" }
}

pub(super) fn overview(o: &Overview) -> String {
    let mut out = String::new();
    let up = humantime::format_duration(Duration::from_secs(o.uptime.max(0.0) as u64));
    _ = writeln!(out, "dispatcher {}, process {}, up {up}, {} workers", o.version, o.pid, o.workers);
    _ = writeln!(out, "services {}, backends {}, of which down {}", o.services, o.backends, o.backends_down);
    _ = writeln!(
        out,
        "flows {}, connections ended {}, offered to resume {}, resumed {}, without backend {}",
        o.flows, o.connections, o.offered, o.resumed, o.no_backend
    );
    _ = writeln!(out, "frames dropped {}", o.dropped);
    out
}

pub(super) fn services(all: &[Service]) -> String {
    let heads = [
        "SERVICE",
        "LISTEN",
        "POOLS",
        "BALANCE",
        "AFFINITY",
        "PROXY PROTOCOL",
        "BACKENDS",
        "OVERRIDES",
        "UP",
        "DOWN",
        "FLOWS",
    ];
    let mut table = table(&heads, 8);
    for s in all {
        let listen: Vec<_> = s.listen.iter().map(|l| l.to_string()).collect();
        table.add_row([
            s.name.clone(),
            listen.join("\n"),
            s.pools.join("\n"),
            s.balance.clone(),
            s.cookie.as_ref().map_or_else(|| yes(s.affinity).to_string(), |name| format!("on\ncookie {name}")),
            proxy(s),
            s.backends.join("\n"),
            overrides(&s.overrides),
            s.observed.up.to_string(),
            s.observed.down.to_string(),
            s.observed.flows.to_string(),
        ]);
    }
    text(&table)
}

/// What servers are told of clients, and who may tell us.
fn proxy(s: &Service) -> String {
    let told = if s.proxy_protocol { "v2" } else { "off" };
    if s.accept_proxy.is_empty() { told.into() } else { format!("{told}\nfrom {}", s.accept_proxy.join("\nfrom ")) }
}

/// A line an event: number, time, kind, text; `json`: an object a line.
pub(super) fn events(told: &Events, json: bool) -> String {
    let line = |e: &Event| {
        if json {
            return serde_json::to_string(e).unwrap_or_default() + "\n";
        }
        let time = UNIX_EPOCH + Duration::try_from_secs_f64(e.time).unwrap_or_default();
        let bad = if e.level == "warning" { "!" } else { " " };
        let time = humantime::format_rfc3339_millis(time);
        format!("{:>5} {time} {bad} {:<13} {}\n", e.number, e.kind, e.text)
    };
    let mut lost = String::new();
    if told.lost > 0 && !json {
        lost = format!("({} earlier ones are kept no more)\n", told.lost);
    }
    lost + &told.events.iter().map(line).collect::<String>()
}

/// One a line.
fn overrides(all: &[Override]) -> String {
    let lines: Vec<_> = all.iter().map(|o| format!("{} ({})", o.what, terms(o))).collect();
    if lines.is_empty() { "-".to_string() } else { lines.join("\n") }
}

/// Who, since when, until when, why.
pub(super) fn terms(o: &Override) -> String {
    let mut out = format!("by {}, {} ago", o.who, humantime::format_duration(Duration::from_secs(o.since)));
    if let Some(left) = o.left {
        _ = write!(out, ", for another {}", humantime::format_duration(Duration::from_secs(left)));
    }
    if let Some(why) = &o.why {
        _ = write!(out, ": {why}");
    }
    out
}

/// A state; weights where they are not all 1, and limits.
pub(super) fn wanted(wanted: &Option<Wanted>, none: &str) -> String {
    let Some(Wanted { state, weights, max_connections, max_handshakes, slow_start, check, agent_check }) = wanted
    else {
        return none.to_string();
    };
    let weight = match weights.first() {
        None => None,
        Some(first) if weights.iter().any(|w| w.weight != first.weight) => {
            let all: Vec<_> = weights.iter().map(|w| format!("{} in {}", w.weight, w.pool)).collect();
            Some(format!("weight {}", all.join(", ")))
        }
        Some(first) => (first.weight != 1).then(|| format!("weight {}", first.weight)),
    };
    let time = |seconds: &f64| {
        humantime::format_duration(Duration::try_from_secs_f64(*seconds).unwrap_or_default()).to_string()
    };
    let limits = [
        max_connections.map(|n| format!("max-connections {n}")),
        max_handshakes.as_ref().map(|n| format!("max-handshakes {n}")),
        slow_start.as_ref().map(|seconds| format!("slow-start {}", time(seconds))),
        check.as_ref().map(|check| format!("check {check}")),
        agent_check.as_ref().map(|agent| format!("agent {agent}")),
    ];
    let parts = [Some(state.clone()), weight].into_iter().chain(limits).flatten();
    parts.collect::<Vec<_>>().join(", ")
}

pub(super) fn backends(all: &[Backend]) -> String {
    let heads = [
        "BACKEND",
        "ADDRESS",
        "WANTED",
        "OVERRIDES",
        "IN FORCE",
        "HEALTH",
        "SLOTS",
        "FLOWS",
        "CONNECTIONS",
        "RESUMED",
        "NEW",
        "TO SERVER",
        "TO CLIENT",
    ];
    let mut table = table(&heads, 7);
    for b in all {
        let o = &b.observed;
        let numbers = [o.flows.into(), o.connections, o.resumed, o.new_sessions, o.bytes_to_server, o.bytes_to_client];
        let words = [
            b.name.clone(),
            if b.context == "direct" { b.address.to_string() } else { format!("{} by {}", b.address, b.context) },
            wanted(&b.wanted, "-"),
            overrides(&b.overrides),
            in_force(b),
            health(o),
            slots(o),
        ];
        table.add_row(words.into_iter().chain(numbers.map(|n: u64| n.to_string())));
    }
    text(&table)
}

/// What is in force; and whose word it is, where it is not the file's.
pub(super) fn in_force(b: &Backend) -> String {
    let mut out = wanted(&b.in_force, "leaving");
    if let Some(by) = b.in_force_by.as_ref().filter(|by| *by != "file") {
        _ = write!(out, " (says the {by})");
    }
    out
}

/// What is used of its limits.
pub(super) fn slots(o: &Observed) -> String {
    let Some(Slots { connections, max_connections, handshakes, max_handshakes }) = &o.slots else { return "-".into() };
    let of = |used: &u32, most: &Option<u32>, what: &str| most.map(|most| format!("{used} of {most} {what}"));
    let parts = [of(connections, max_connections, "connections"), of(handshakes, max_handshakes, "handshake units")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

pub(super) fn queues(all: &[Queue]) -> String {
    if all.is_empty() {
        return "queues: none (no backend has a limit)\n".to_string();
    }
    let heads = [
        "SERVICE",
        "POOL",
        "FAMILY",
        "CLASS",
        "WAITING",
        "ASKED",
        "ADMITTED",
        "WAITED",
        "P50",
        "P99",
        "SPILLED",
        "DEMOTED",
        "ABANDONED",
        "TIMED OUT",
        "REFUSED",
    ];
    let mut table = table(&heads, 4);
    for q in all {
        let numbers = [q.waiting as u64, q.asked, q.admitted, q.waited].map(|n| n.to_string());
        let waits = [50, 99].map(|percent| below(&q.waits, percent));
        let others = [q.spilled, q.demoted, q.abandoned, q.timed_out, q.refused].map(|n| n.to_string());
        let words = [&q.service, &q.pool, &q.family, &q.class].map(String::clone);
        table.add_row(words.into_iter().chain(numbers).chain(waits).chain(others));
    }
    text(&table)
}

/// Below which time so many hundredths of those who had waited have waited.
pub(super) fn below(waits: &[u64], percent: u64) -> String {
    let all: u64 = waits.iter().sum();
    let mut sum = 0;
    let reached = |n: &u64| {
        sum += n;
        sum * 100 >= all * percent
    };
    match waits.iter().position(reached).filter(|_| all > 0) {
        None => "-".into(),
        Some(last) if last + 1 == waits.len() => format!("> {} ms", 1u64 << (last.max(1) - 1)),
        Some(bucket) => format!("< {} ms", 1u64 << bucket),
    }
}

/// Up or down; and why, and since when.
pub(super) fn health(o: &Observed) -> String {
    let mut out = o.health.clone();
    if let Some(why) = &o.why {
        _ = write!(out, ": {why}");
    }
    if let Some(since) = o.since {
        _ = write!(out, ", {} ago", humantime::format_duration(Duration::from_secs(since.max(0.0) as u64)));
    }
    if let Some(suspicion) = &o.suspicion {
        let time = |seconds: f64| humantime::format_duration(Duration::from_secs(seconds.max(0.0) as u64));
        _ = match (suspicion.state.as_str(), suspicion.until) {
            ("asked", _) => write!(out, "; clients had no answer to their hellos, it is being asked"),
            ("spared", _) => write!(out, "; clients had no answer to their hellos, nor had we, but it is the last"),
            (_, Some(until)) => write!(out, ", asked again in {}", time(until)),
            _ => Ok(()),
        };
    }
    if o.why.is_none()
        && let Some(check) = &o.check
    {
        _ = match check.state.as_str() {
            "unknown" => write!(out, " (not checked yet)"),
            _ => write!(out, " (check {})", check.kind),
        };
    }
    if let Some(agent) = &o.agent {
        _ = match &agent.failed {
            Some(why) => write!(out, "; agent: {} ({why})", agent.says),
            None => write!(out, "; agent: {}", agent.says),
        };
    }
    if o.keys.as_ref().is_some_and(|keys| keys.takes_own == Some(false)) {
        out.push_str("; it does not take its own tickets");
    }
    out
}

pub(super) fn sessions(s: &Sessions) -> String {
    let heads = [&HEADS[..2], &["CONTEXT"], &HEADS[2..]].concat();
    let mut table = table(&heads, 3);
    for o in &s.offered {
        let numbers = [o.offered, o.promised, o.accepted, o.refused, o.broken, o.unknown];
        let words = [o.kind.clone(), o.backend.clone(), o.context.clone()];
        table.add_row(words.into_iter().chain(numbers.map(|n| n.to_string())));
    }
    let mut out = if s.offered.is_empty() { String::new() } else { text(&table) };
    _ = writeln!(out, "{}", s.rows);
    s.notes.iter().for_each(|note| _ = writeln!(out, "note: {note}"));
    out
}

pub(super) fn workers(all: &[Worker]) -> String {
    let heads = [
        "WORKER",
        "STATE",
        "FLOWS",
        "CONNECTIONS",
        "FRAMES IN",
        "FRAMES OUT",
        "HANDED OVER",
        "RECEIVED",
        "BUSY TURNS",
        "IDLE TURNS",
        "CHANGES",
        "P99",
        "LONGEST",
        "LONGEST TURN",
    ];
    let mut table = table(&heads, 2);
    for w in all {
        let numbers = [
            w.flows as u64,
            w.connections,
            w.frames_in,
            w.frames_out,
            w.handed_over,
            w.received,
            w.busy_turns,
            w.idle_turns,
        ];
        let state = if w.running { "running" } else { "ended" };
        let words = [w.worker.to_string(), state.to_string()];
        let p = &w.pauses;
        let times = [p.change_p99, p.change_longest, p.turn_longest].map(|seconds| format!("{:.2} ms", seconds * 1e3));
        let numbers = numbers.map(|n| n.to_string()).into_iter().chain([p.changes.to_string()]);
        table.add_row(words.into_iter().chain(numbers).chain(times));
    }
    text(&table)
}

pub(super) fn connections(told: &Connections) -> String {
    let heads = [
        "CONN",
        "CLIENT",
        "VIP",
        "BACKEND",
        "LOCAL ADDRESS",
        "STATE",
        "CLASS",
        "OFFERED",
        "REASON",
        "RESUMED",
        "AGE",
        "IDLE",
        "TO SERVER",
        "TO CLIENT",
    ];
    let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".into());
    let mut table = table(&heads, 10);
    for c in &told.connections {
        let offered = if c.offered.is_empty() { "-".into() } else { c.offered.join(",") };
        let resumed = c.resumed.map_or("-", |resumed| if resumed { "yes" } else { "no" });
        table.add_row([
            c.conn.to_string(),
            c.client.to_string(),
            c.vip.to_string(),
            word(&c.backend),
            word(&c.local.map(|local| local.to_string())),
            c.state.clone(),
            word(&c.class),
            offered,
            word(&c.reason),
            resumed.to_string(),
            format!("{:.1} s", c.age),
            format!("{:.1} s", c.idle),
            c.bytes_to_server.to_string(),
            c.bytes_to_client.to_string(),
        ]);
    }
    let mut out = if told.connections.is_empty() { "no connections\n".to_string() } else { text(&table) };
    if told.more {
        _ = writeln!(out, "there are more than these {}: --limit", told.connections.len());
    }
    told.late.iter().for_each(|worker| _ = writeln!(out, "note: worker {worker} has not looked at all of its in time"));
    out
}

pub(super) fn drops(all: &[Drop]) -> String {
    let happened: Vec<_> = all.iter().filter(|d| d.frames > 0 || d.answered > 0).collect();
    if happened.is_empty() {
        return "drops: none\n".to_string();
    }
    let mut table = table(&["DROPS BY", "FRAMES", "ANSWERED BY A RESET"], 1);
    happened.iter().for_each(|d| _ = table.add_row([d.reason.clone(), d.frames.to_string(), d.answered.to_string()]));
    text(&table)
}

/// Those that have grown, the fastest first.
pub(super) fn growing(before: &[Drop], now: &[Drop], time: Duration) -> String {
    let grown = |d: &Drop| {
        let old = before.iter().find(|old| old.reason == d.reason);
        let (frames, answered) = old.map_or((0, 0), |old| (old.frames, old.answered));
        (d.reason.clone(), d.frames.saturating_sub(frames), d.answered.saturating_sub(answered))
    };
    let mut all: Vec<_> = now.iter().map(grown).filter(|(_, frames, answered)| frames + answered > 0).collect();
    all.sort_by_key(|(_, frames, answered)| std::cmp::Reverse(frames + answered));
    if all.is_empty() {
        return format!("drops: none has grown in {:.1} s\n", time.as_secs_f64());
    }
    let mut table = table(&["DROPS BY", "FRAMES MORE", "ANSWERED BY A RESET", "A SECOND"], 1);
    for (reason, frames, answered) in all {
        let rate = (frames + answered) as f64 / time.as_secs_f64().max(1e-3);
        table.add_row([reason, frames.to_string(), answered.to_string(), format!("{rate:.1}")]);
    }
    text(&table)
}

/// A line for each key of a server's; for one of which none is known, why.
pub(super) fn keys(all: &[Backend]) -> String {
    let mut table = table(&["SERVER", "KEY NAME", "KNOWN FOR", "WHAT IS KNOWN"], 4);
    let others = |of: &Backend, name: &String| {
        let has = |b: &&Backend| b.name != of.name && b.observed.keys.as_ref().is_some_and(|k| k.names.contains(name));
        all.iter().filter(has).map(|b| b.name.as_str()).collect::<Vec<_>>()
    };
    for backend in all {
        let Some(keys) = &backend.observed.keys else {
            table.add_row([backend.name.as_str(), "-", "-", "nobody asks: it has no check of kind tls or https"]);
            continue;
        };
        let own = match keys.takes_own {
            Some(false) => "; it does not take its own tickets",
            _ => "",
        };
        for (n, (name, age)) in keys.names.iter().zip(&keys.ages).enumerate() {
            let shared = others(backend, name);
            let mut known = match (n + 1 == keys.names.len(), keys.names.len()) {
                (true, 1) => "its key".to_string(),
                (true, _) => "its latest key: it has rotated them".to_string(),
                (false, _) => "an older key of its".to_string(),
            };
            if !shared.is_empty() {
                _ = write!(known, "; shared with {}", shared.join(", "));
            }
            let age = humantime::format_duration(Duration::from_secs(*age as u64)).to_string();
            table.add_row([backend.name.clone(), name.clone(), age, known + own]);
        }
        if keys.names.is_empty() {
            let known = match (keys.state.as_str(), &keys.failed) {
                (_, Some(why)) => format!("unknown: {why}"),
                ("nameless", _) => "its tickets name no key, or it issues none".to_string(),
                _ => "unknown: not asked yet".to_string(),
            };
            table.add_row([backend.name.clone(), "-".to_string(), "-".to_string(), known + own]);
        }
    }
    text(&table)
}

fn changes(all: &[Change], out: &mut String) {
    all.iter().for_each(|change| _ = writeln!(out, "{} {}", change.sign, change.what));
}

pub(super) fn applied(a: &Applied) -> String {
    let mut out = String::new();
    changes(&a.changes, &mut out);
    a.notes.iter().for_each(|note| _ = writeln!(out, "note: {note}"));
    let took = a.took * 1e3;
    _ = match (a.dry_run, a.changes.is_empty()) {
        (true, true) => writeln!(out, "nothing would change (version {})", a.version),
        (true, false) => writeln!(out, "nothing was done: --dry-run (version {})", a.version),
        (false, true) => writeln!(out, "nothing to change (version {})", a.version),
        (false, false) => writeln!(out, "version {}, in force in all workers after {took:.1} ms", a.version),
    };
    out
}

pub(super) fn diff(now: &Configuration, d: &Diff) -> String {
    let mut out = String::new();
    let file = now.file.as_deref().unwrap_or("none (started by flags)");
    _ = writeln!(out, "version {}, file: {file}", now.version);
    changes(&d.changes, &mut out);
    for o in &d.overrides {
        _ = writeln!(out, "override: {} ({})", o.what, terms(o));
    }
    d.notes.iter().for_each(|note| _ = writeln!(out, "note: {note}"));
    if d.changes.is_empty() && d.overrides.is_empty() {
        out.push_str("no difference\n");
    }
    out
}

pub(super) fn failure(f: &Failure) -> String {
    let mut out = f.error.replace('\n', " ");
    for fault in &f.faults {
        _ = write!(out, "\n  {}:{}: {}", fault.line, fault.column, fault.what);
        if let Some(hint) = &fault.hint {
            _ = write!(out, "; {hint}");
        }
    }
    out
}
