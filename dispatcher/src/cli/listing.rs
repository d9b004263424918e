//! The tables of `dispatcher ctl show`.

use crate::control::socket::api::{Backend, Drop, Overview, Service, Sessions, Worker};
use crate::sessions::HEADS;
use comfy_table::{CellAlignment, Table, presets};
use core::fmt::Write;
use std::time::Duration;

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
    let mut table = table(&["SERVICE", "LISTEN", "BALANCE", "AFFINITY", "PROXY PROTOCOL", "BACKENDS"], 6);
    for s in all {
        let listen: Vec<_> = s.listen.iter().map(|l| l.to_string()).collect();
        table.add_row([
            s.name.clone(),
            listen.join("\n"),
            s.balance.clone(),
            yes(s.affinity).to_string(),
            (if s.proxy_protocol { "v2" } else { "off" }).to_string(),
            s.backends.join("\n"),
        ]);
    }
    text(&table)
}

pub(super) fn backends(all: &[Backend]) -> String {
    let heads = [
        "BACKEND",
        "ADDRESS",
        "WANTED",
        "HEALTH",
        "WEIGHT",
        "FLOWS",
        "CONNECTIONS",
        "RESUMED",
        "NEW",
        "TO SERVER",
        "TO CLIENT",
    ];
    let mut table = table(&heads, 4);
    for b in all {
        let o = &b.observed;
        let numbers = [
            u64::from(b.wanted.weight),
            o.flows.into(),
            o.connections,
            o.resumed,
            o.new_sessions,
            o.bytes_to_server,
            o.bytes_to_client,
        ];
        let words = [b.name.clone(), b.address.to_string(), b.wanted.state.clone(), o.health.clone()];
        table.add_row(words.into_iter().chain(numbers.map(|n| n.to_string())));
    }
    text(&table)
}

pub(super) fn sessions(s: &Sessions) -> String {
    let mut table = table(&HEADS, 2);
    for o in &s.offered {
        let numbers = [o.offered, o.promised, o.accepted, o.refused, o.broken, o.unknown];
        table.add_row([o.kind.clone(), o.backend.clone()].into_iter().chain(numbers.map(|n| n.to_string())));
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

pub(super) fn drops(all: &[Drop]) -> String {
    let happened: Vec<_> = all.iter().filter(|d| d.frames > 0 || d.answered > 0).collect();
    if happened.is_empty() {
        return "drops: none\n".to_string();
    }
    let mut table = table(&["DROPS BY", "FRAMES", "ANSWERED BY A RESET"], 1);
    happened.iter().for_each(|d| _ = table.add_row([d.reason.clone(), d.frames.to_string(), d.answered.to_string()]));
    text(&table)
}
