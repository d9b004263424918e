//! What `dispatcher run` prints: at start, now and then, and at the end.

use crate::control::socket::api::Overview;
use crate::engine::{Config, DropReason, PortSpec, TableSize};
use crate::io::{Loss, Traffic};
use crate::journal;
use crate::worker::{Idle, Snapshot, exchange};
use core::fmt::Write;
use core::time::Duration;
use lb::{Directory, MemberSpec, Policy, PoolSpec, RouteSpec, ServiceSpec, Wanted};

/// Listeners, backends and how they are chosen. The one service that flags describe has no name to be told.
fn services(out: &mut String, config: &Config) {
    let Wanted { services, pools } = &config.wanted;
    let mode = config.address_mode.as_str();
    let backends = |out: &mut String, pool: &PoolSpec, of: &str| {
        for MemberSpec { name, addr, weight, .. } in &pool.backends {
            _ = writeln!(out, "{of}backend {name} {addr} weight {weight}");
        }
    };
    let policy = |Policy { proxy_protocol, accept_proxy, affinity, cookie, .. }: &Policy| {
        let proxy = if *proxy_protocol { if accept_proxy.pass { "pass" } else { "v2" } } else { "off" };
        let from: Vec<_> = accept_proxy.from.iter().map(|prefix| prefix.to_string()).collect();
        let accepted = if from.is_empty() { String::new() } else { format!(", accepted from {}", from.join(" ")) };
        let cookie =
            cookie.as_ref().filter(|_| *affinity).map_or_else(String::new, |name| format!(" with cookie {name}"));
        format!("proxy protocol {proxy}{accepted}, affinity {}{cookie}", if *affinity { "on" } else { "off" })
    };
    if let ([service], [pool]) = (&services[..], &pools[..]) {
        service.listen.iter().for_each(|vip| _ = writeln!(out, "vip {vip}"));
        backends(out, pool, "");
        _ = writeln!(out, "balance {}, address mode {mode}, {}", pool.balance, policy(&service.policy));
        return;
    }
    for ServiceSpec { name, listen, pool, routes, policy: p } in services {
        listen.iter().for_each(|vip| _ = writeln!(out, "service {name}: vip {vip}"));
        for RouteSpec { sni, alpn, pool } in routes {
            let names = sni.iter().map(|s| s.to_string());
            let protocols = alpn.iter().map(|p| format!("alpn {}", p.escape_ascii()));
            let matches: Vec<String> = names.chain(protocols).collect();
            _ = writeln!(out, "service {name}: {} to pool {pool}", matches.join(", "));
        }
        _ = writeln!(out, "service {name}: pool {pool}, {}", policy(p));
    }
    for pool in pools {
        backends(out, pool, &format!("pool {}: ", pool.name));
        _ = writeln!(out, "pool {}: balance {}", pool.name, pool.balance);
    }
    _ = writeln!(out, "address mode {mode}");
}

/// For `systemctl status`.
pub fn glance(o: &Overview) -> String {
    let up = o.backends.saturating_sub(o.backends_down);
    format!(
        "{} workers, {up} of {} backends up, {} connections open, {} served",
        o.workers, o.backends, o.flows, o.connections
    )
}

/// What is started, and the memory it takes.
///
/// `ports` as they were opened, and `port_memory`, the bytes that they took with all workers; `large_units`: some of them take these. `cores`: of each worker, if it has
/// one of its own. `more`: what else takes memory.
pub fn start(
    config: &Config,
    ports: &[String],
    port_memory: usize,
    large_units: bool,
    idle: Idle,
    cores: &[Option<usize>],
    more: impl IntoIterator<Item = TableSize>,
) -> String {
    let mut out = String::new();
    let workers = cores.len();
    let numbers: Vec<_> = cores.iter().flatten().map(|n| n.to_string()).collect();
    let place = match numbers.len() {
        0 => "any core".to_string(),
        1 => format!("core {}", numbers[0]),
        _ => format!("cores {}", numbers.join(",")),
    };
    let plural = if workers == 1 { "" } else { "s" };
    let idle = format!("{idle:?}").to_lowercase();
    _ = writeln!(out, "dispatcher {}: {workers} worker{plural} on {place}, idle: {idle}", env!("CARGO_PKG_VERSION"));
    for (PortSpec { name, mac, addresses, gateways, vlans, mtu }, description) in config.ports.iter().zip(ports) {
        _ = write!(out, "port {name}: {mac}, mtu {mtu}");
        addresses.iter().for_each(|(ip, prefix)| _ = write!(out, ", {ip}/{prefix}"));
        gateways.iter().for_each(|ip| _ = write!(out, ", gateway {ip}"));
        vlans.iter().for_each(|id| _ = write!(out, ", vlan {id}"));
        _ = writeln!(out, " ({description})");
    }
    services(&mut out, config);
    let mut tables = config.limits.tables(config.backends().len(), workers);
    if config.wanted.services.iter().any(|s| s.policy.affinity && s.policy.cookie.is_some()) {
        tables.push(config.limits.readings(workers));
    }
    tables.push(TableSize { name: "receive rings", entries: config.ports.len() * workers, bytes: port_memory });
    if workers > 1 {
        let mtu = config.ports.iter().map(|p| p.mtu).max().unwrap_or(1500);
        let bytes = exchange::bytes_for(workers, mtu, large_units);
        tables.push(TableSize { name: "inboxes, frames", entries: workers * exchange::FRAMES, bytes });
    }
    tables.extend(more);
    _ = writeln!(out, "memory:");
    for TableSize { name, entries, bytes } in &tables {
        _ = writeln!(out, "  {name:<22} {entries:>10} {bytes:>14} bytes");
    }
    let total: usize = tables.iter().map(|t| t.bytes).sum();
    _ = writeln!(out, "  {:<22} {:>10} {total:>14} bytes ({})", "total", "", binary(total as u64));
    out
}

/// What waits to be written to the connections log.
pub fn journal_queue() -> TableSize {
    TableSize { name: "connections log queue", entries: journal::QUEUE_ENTRIES, bytes: journal::QUEUE_BYTES }
}

fn binary(bytes: u64) -> String {
    match bytes {
        0..0x400 => format!("{bytes} B"),
        0x400..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// Every way a frame was lost that has happened, by name.
fn drops(snapshot: &Snapshot) -> Vec<(&'static str, u64)> {
    let engine = DropReason::ALL.iter().map(|r| (r.as_str(), snapshot.counters.dropped(*r)));
    let driver = sum(&snapshot.received).plus(&sum(&snapshot.sent));
    let driver = Loss::ALL.iter().map(|l| (l.as_str(), driver.lost_to(*l))).collect::<Vec<_>>();
    let handover = [("handover-full", snapshot.handover.full)];
    engine.chain(driver).chain(handover).filter(|(_, n)| *n > 0).collect()
}

fn sum(ports: &[Traffic]) -> Traffic {
    ports.iter().fold(Traffic::default(), |all, port| all.plus(port))
}

/// Remembers the last line of `--stats-interval`, for its rates.
#[derive(Default)]
pub struct Rates {
    last: Snapshot,
    last_frames: Vec<u64>,
}

impl Rates {
    /// One line: rates since the last, gauges and drops as they stand, of all workers together; and what each of several does.
    pub fn line(&mut self, workers: &[Snapshot], journal_lost: u64) -> String {
        let now = &Snapshot::fold(workers);
        let seconds = now.at.since(self.last.at).as_secs_f64().max(1e-3);
        let (rx, tx) = (sum(&now.received), sum(&now.sent));
        let (rx0, tx0) = (sum(&self.last.received), sum(&self.last.sent));
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let mut out = String::new();
        _ = write!(
            out,
            "{:.1}s: in {:.0} frames/s {:.1} Mbit/s, out {:.0} frames/s {:.1} Mbit/s, flows {} (+{:.0}/s), \
             connections {}, resumed {}",
            now.at.as_nanos() as f64 / 1e9,
            rate(rx.frames, rx0.frames),
            rate(rx.bytes, rx0.bytes) * 8e-6,
            rate(tx.frames, tx0.frames),
            rate(tx.bytes, tx0.bytes) * 8e-6,
            now.flows,
            rate(now.counters.flows_opened, self.last.counters.flows_opened),
            now.totals.connections,
            now.totals.resumed,
        );
        let drops = drops(now);
        if !drops.is_empty() {
            _ = write!(out, ", drops:");
            drops.iter().for_each(|(name, n)| _ = write!(out, " {name}={n}"));
        }
        if rx.link_downs > 0 {
            _ = write!(out, ", link-downs {}", rx.link_downs);
        }
        if rx.reopened > 0 {
            _ = write!(out, ", reopened {}", rx.reopened);
        }
        if journal_lost > 0 {
            _ = write!(out, ", log-lines-lost {journal_lost}");
        }
        if workers.len() > 1 {
            _ = write!(out, ", handed-over {}, workers:", now.handover.sent);
            self.last_frames.resize(workers.len(), 0);
            for (number, (worker, last)) in workers.iter().zip(&mut self.last_frames).enumerate() {
                let frames = worker.counters.frames_in;
                _ = write!(out, " {number}={:.0}/s:{}", rate(frames, *last), worker.flows);
                *last = frames;
            }
        }
        out.push('\n');
        self.last = now.clone();
        out
    }
}

/// What it all came to. `directory`: of the end.
pub fn summary(
    config: &Config,
    directory: &Directory,
    workers: &[Snapshot],
    ran: Duration,
    journal_lost: u64,
) -> String {
    let mut out = String::new();
    let last = &Snapshot::fold(workers);
    let totals = &last.totals;
    _ = writeln!(out, "stopped after {:.1} s", ran.as_secs_f64());
    _ = writeln!(
        out,
        "connections {}, secure {}, offered {}, resumed {}, without backend {}",
        totals.connections, totals.secure, totals.offered, totals.resumed, totals.no_backend
    );
    let reasons: Vec<_> = totals.reasons().filter(|(_, n)| *n > 0).map(|(r, n)| format!("{r} {n}")).collect();
    if !reasons.is_empty() {
        _ = writeln!(out, "decided by: {}", reasons.join(", "));
    }
    let beyond = Some(&totals.beyond).filter(|b| b.connections > 0);
    let shortest = if beyond.is_some() { "(others)" } else { "backend" };
    let width = totals.backends.iter().map(|b| b.name.len()).max().unwrap_or(0).max(shortest.len());
    _ = writeln!(
        out,
        "{:<width$} {:>12} {:>7} {:>9} {:>13} {:>16} {:>16}",
        "backend", "connections", "share", "resumed", "new sessions", "bytes to server", "bytes to client"
    );
    for b in totals.backends.iter().chain(beyond) {
        let share = 100.0 * b.connections as f64 / (totals.connections.max(1)) as f64;
        _ = writeln!(
            out,
            "{:<width$} {:>12} {:>6.1}% {:>9} {:>13} {:>16} {:>16}",
            if b.name.is_empty() { "(others)" } else { &b.name },
            b.connections,
            share,
            b.resumed,
            b.new_sessions,
            b.bytes_to_server,
            b.bytes_to_client
        );
    }
    if let Some(sessions) = &last.sessions {
        let names: Vec<_> = directory.backends().map(|b| (b.id, b.name.as_str())).collect();
        out += &sessions.report(&names);
    }
    for (i, (rx, tx)) in last.received.iter().zip(&last.sent).enumerate() {
        let name = config.ports.get(i).map_or("?", |p| p.name.as_str());
        _ = write!(
            out,
            "port {name}: in {} frames {} bytes, out {} frames {} bytes",
            rx.frames, rx.bytes, tx.frames, tx.bytes
        );
        if rx.link_downs > 0 {
            _ = write!(out, ", link went down {} times", rx.link_downs);
        }
        if rx.reopened > 0 {
            _ = write!(out, ", removed and reopened {} times", rx.reopened);
        }
        out.push('\n');
    }
    if workers.len() > 1 {
        for (number, worker) in workers.iter().enumerate() {
            let h = &worker.handover;
            _ = writeln!(
                out,
                "worker {number}: frames in {}, handed over {}, received {}, updates sent {}, received {}, connections {}, busy turns {}, \
                 idle {}",
                sum(&worker.received).frames,
                h.sent,
                h.received,
                h.updates_sent,
                h.updates_received,
                worker.totals.connections,
                worker.busy_turns,
                worker.idle_turns
            );
        }
        let h = &last.handover;
        _ = writeln!(
            out,
            "between workers: frames handed over {}, received {}, lost {}; updates {}, received {}, lost {}",
            h.sent, h.received, h.full, h.updates_sent, h.updates_received, h.updates_lost
        );
    }
    let c = &last.counters;
    _ = writeln!(
        out,
        "engine: frames in {}, out {}, forwarded {}, cookies {}, flows opened {}, closed {}, dials {}, redispatches {}, \
         retransmits {}",
        c.frames_in,
        c.frames_out,
        c.forwarded,
        c.cookies_sent,
        c.flows_opened,
        c.flows_closed,
        c.dials,
        c.redispatches,
        c.retransmits
    );
    let a = &last.admission;
    if a.asked > 0 {
        _ = writeln!(
            out,
            "room at servers: asked for {}, admitted {} ({} had waited, {} spilled), demoted {}, abandoned {}, timed out {}, refused {}",
            a.asked, a.admitted, a.waited, a.spilled, a.demoted, a.abandoned, a.timed_out, a.refused
        );
    }
    if c.hellos_unread > 0 {
        _ = writeln!(
            out,
            "hellos that could not be read, or not to their end, and were balanced or led by what could: {}",
            c.hellos_unread
        );
    }
    if c.silent > 0 {
        _ = writeln!(
            out,
            "clients that said nothing in time: {}; a hello came too late from {} of them, and from the others none so far",
            c.silent, c.late_hellos
        );
    }
    let refused = DropReason::ALL.iter().filter(|r| c.refused[**r as usize] > 0);
    let refused: Vec<_> = refused.map(|r| format!("{} {}", r.as_str(), c.refused[*r as usize])).collect();
    if !refused.is_empty() {
        _ = writeln!(out, "answered by a reset: {}", refused.join(", "));
    }
    let drops = drops(last);
    if drops.is_empty() {
        _ = writeln!(out, "drops: none");
    } else {
        _ = writeln!(out, "drops:");
        drops.iter().for_each(|(name, n)| _ = writeln!(out, "  {name:<18} {n:>12}"));
    }
    if journal_lost > 0 {
        _ = writeln!(out, "connections log: {journal_lost} lines lost");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Time;
    use crate::worker::Handover;

    fn directory() -> Directory {
        Directory::next(None, &Wanted::default(), |_| true).unwrap()
    }

    #[test]
    fn a_line_tells_rates_of_the_interval_and_only_drops_that_happened() {
        let mut rates = Rates::default();
        let mut snapshot = Snapshot { at: Time::from_millis(1000), ..Snapshot::default() };
        snapshot.received = vec![Traffic { frames: 100, bytes: 125_000, ..Traffic::default() }];
        let line = rates.line(std::slice::from_ref(&snapshot), 0);
        assert!(line.contains("in 100 frames/s 1.0 Mbit/s") && !line.contains("drops"), "{line}");
        snapshot.at = Time::from_millis(3000);
        snapshot.received[0].frames = 300;
        snapshot.received[0].losses[Loss::RxOversized as usize] = 4;
        snapshot.counters.drops[DropReason::BadCookie as usize] = 5;
        let line = rates.line(std::slice::from_ref(&snapshot), 2);
        assert!(line.contains("in 100 frames/s 0.0 Mbit/s"), "{line}");
        assert!(line.contains("drops: bad-cookie=5 rx-oversized=4") && line.contains("log-lines-lost 2"), "{line}");
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn several_workers_are_told_together_and_each() {
        let mut workers = vec![Snapshot::default(); 2];
        for (n, worker) in workers.iter_mut().enumerate() {
            worker.at = Time::from_millis(1000);
            worker.counters.frames_in = 100 + n as u64;
            worker.flows = 5 + n;
            worker.received = vec![Traffic { frames: 50, link_downs: 1, ..Traffic::default() }];
            worker.handover = Handover { sent: 7, received: 7, full: 2, ..Handover::default() };
        }
        let line = Rates::default().line(&workers, 0);
        for expected in [
            "in 100 frames/s",
            "flows 11 ",
            "handover-full=4",
            "link-downs 1,",
            "handed-over 14",
            "0=100/s:5 1=101/s:6",
        ] {
            assert!(line.contains(expected), "{expected}: {line}");
        }
        let text = summary(&Config::default(), &directory(), &workers, Duration::from_secs(1), 0);
        for expected in [
            "worker 1: frames in 50, handed over 7, received 7",
            "frames handed over 14, received 14, lost 4",
            "frames in 201",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn of_silent_clients_it_is_not_said_that_their_hello_never_comes() {
        let mut worker = Snapshot::default();
        (worker.counters.silent, worker.counters.late_hellos) = (5, 2);
        let text = summary(&Config::default(), &directory(), &[worker], Duration::from_secs(1), 0);
        let line = "clients that said nothing in time: 5; a hello came too late from 2 of them, and from the others none so far";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn the_start_tells_the_memory_of_every_table() {
        for (cores, said) in [(&[Some(1)][..], "1 worker on core 1,"), (&[None, None], "2 workers on any core,")] {
            let text = start(&Config::default(), &[], 0, false, Idle::Sleep, cores, [journal_queue()]);
            assert!(text.contains(said), "{text}");
            the_total_is_the_sum(&text);
        }
    }

    fn the_total_is_the_sum(text: &str) {
        let bytes = |line: &str| -> Option<u64> { line.split_whitespace().rev().nth(1)?.parse().ok() };
        let rows: Vec<_> = text.lines().skip_while(|l| *l != "memory:").skip(1).collect();
        let (total, rows) = rows.split_last().unwrap();
        let total: u64 = total.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert_eq!(rows.iter().map(|r| bytes(r).unwrap()).sum::<u64>(), total, "{text}");
    }
}
