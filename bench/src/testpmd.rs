//! The driver `dpdk` and the worker's own loop beside DPDK's own example of a forwarder, `dpdk-testpmd`, over ports of the same kind with the same input.
//!
//! Each is a process of its own (DPDK starts once in a process), all on one core, where they take turns. What a frame takes is the processor time of
//! the thread that forwards, as the kernel accounts it: what else goes on on the machine is not in it.
//!
//! `net_pcap` replays a recording without end and drops what is sent: known flows pass through the worker's loop as they would on a card. `net_null`
//! gives frames whose bytes are zeros, of which no flow can be made: there drivers are compared with each other.

use crate::figure::{Report, Target, number};
use crate::forward::{Known, SMALL};
use crate::peers::From;
use crate::region::Turns;
use anyhow::{Context, Result, ensure};
use dispatcher::capture::LinkType;
use dispatcher::capture::pcapng::PcapngWriter;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// How long one forwards before it is another's turn.
const STINT: Duration = Duration::from_millis(200);

/// The forwarder of DPDK's.
const TESTPMD: &str = "dpdk-testpmd";

/// What forwards.
#[derive(Clone, Copy, Debug)]
enum Forwarder {
    /// The worker's loop, with an engine that knows so many flows.
    Worker(usize),
    /// A swap of Ethernet addresses over our driver.
    Swap,
    /// testpmd, in this mode.
    Testpmd(&'static str),
}

impl Forwarder {
    fn name(self) -> String {
        match self {
            Forwarder::Worker(_) => "worker's loop".into(),
            Forwarder::Swap => "MAC swap over our driver".into(),
            Forwarder::Testpmd(mode) => format!("testpmd, {mode}"),
        }
    }
}

/// A forwarder that has been started, and waits for its turn.
struct Running {
    child: Child,
    orders: ChildStdin,
    said: BufReader<ChildStdout>,
    ours: bool,
}

impl Running {
    /// On `core`, over two such ports, as DPDK calls them. `work` is a directory for what it says when it fails.
    fn start(forwarder: Forwarder, core: usize, devices: &[String; 2], work: &Path) -> Result<Running> {
        let mut command = match forwarder {
            Forwarder::Testpmd(mode) => {
                // It would keep what it says until there is much of it.
                let mut command = Command::new("stdbuf");
                command.args(["-oL", TESTPMD]);
                // Two threads, which never have anything to do at once: the one that is given orders, and the one that forwards.
                command.arg(format!("--lcores=0@{core},1@{core}"));
                command.args(["--no-huge", "-m", "256", "--no-pci", "--no-telemetry", "--no-shconf"]);
                devices.iter().for_each(|device| _ = command.args(["--vdev", device]));
                command.args(["--", "-i", &format!("--forward-mode={mode}"), "--nb-cores=1"]);
                // As the dispatcher has it.
                command.args(["--burst=64", "--rxd=1024", "--txd=1024", "--total-num-mbufs=8191", "--mbcache=256"]);
                command
            }
            ours => {
                let mut command = Command::new(std::env::current_exe().context("finding this program")?);
                command.args(["over-dpdk", "--core", &core.to_string()]);
                if let Forwarder::Worker(flows) = ours {
                    command.args(["--flows", &flows.to_string()]);
                }
                // Behind semicolons, as in `--port`.
                command.args(devices.iter().map(|device| device.replace(',', ";")));
                command
            }
        };
        let errors = work.join("errors");
        let log = std::fs::File::create(&errors).with_context(|| format!("making {}", errors.display()))?;
        let name = forwarder.name();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let orders = child.stdin.take().context("its input")?;
        let said = BufReader::new(child.stdout.take().context("its output")?);
        let mut running = Running { child, orders, said, ours: !matches!(forwarder, Forwarder::Testpmd(_)) };
        // testpmd says so of the links' states, ours of the ports.
        running.until("Done").with_context(|| {
            let errors = std::fs::read_to_string(&errors).unwrap_or_default();
            format!("starting {name}:\n{errors}")
        })?;
        Ok(running)
    }

    /// What it says, up to a line that begins like this.
    fn until(&mut self, last: &str) -> Result<Vec<String>> {
        let mut lines = vec![];
        loop {
            let mut line = String::new();
            let n = self.said.read_line(&mut line).context("reading what it says")?;
            ensure!(n > 0, "it ended: {}", lines.join("\n"));
            let over = line.starts_with(last);
            lines.push(line.trim().to_owned());
            if over {
                return Ok(lines);
            }
        }
    }

    fn order(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders, "{order}").context("giving an order")
    }

    /// Forwards for a while; nanoseconds a frame.
    fn stint(&mut self) -> Result<f64> {
        let before = busy(self.child.id())?;
        let said = if self.ours {
            self.order(&STINT.as_millis().to_string())?;
            self.until("Done")?
        } else {
            self.order("start")?;
            std::thread::sleep(STINT);
            self.order("stop")?;
            self.until("Done")?
        };
        // The thread that forwards rests by then, and the kernel has said so.
        std::thread::sleep(Duration::from_millis(10));
        let took = busy(self.child.id())? - before;
        let (received, sent) = (count(&said, "RX-packets:")?, count(&said, "TX-packets:")?);
        ensure!(
            received > 0 && received - sent.min(received) <= received / 1000,
            "{sent} of {received} frames were sent"
        );
        Ok(took as f64 / received as f64)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What does not hear is not asked again.
        let _ = self.order("quit").and_then(|()| self.until("Bye").map(|_| ()));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nanoseconds of processor time of all threads of a process but its first, which is given orders and prints.
fn busy(process: u32) -> Result<u64> {
    let tasks = format!("/proc/{process}/task");
    let mut sum = 0;
    for task in std::fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))? {
        let task = task.with_context(|| format!("reading {tasks}"))?;
        if task.file_name().to_str() == Some(&process.to_string()) {
            continue;
        }
        let file = task.path().join("schedstat");
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let spent = text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
        sum += spent.with_context(|| format!("{} has no number", file.display()))?;
    }
    Ok(sum)
}

/// The number behind a word, in the last line that has it: sums come last.
fn count(lines: &[String], word: &str) -> Result<u64> {
    let behind = lines.iter().rev().find_map(|line| line.split_once(word)).map(|(_, behind)| behind);
    let number = behind.and_then(|text| text.split_whitespace().next()).and_then(|n| n.parse().ok());
    number.with_context(|| format!("no {word} in {}", lines.join("\n")))
}

/// Frames of `flows` flows, one of each and direction: a recording for each port.
fn record(flows: usize, work: &Path) -> Result<[PathBuf; 2]> {
    let known = Known::new(flows, SMALL)?;
    let write = |from: From, name: &str| -> Result<PathBuf> {
        let path = work.join(name);
        let file = std::fs::File::create(&path).with_context(|| format!("making {}", path.display()))?;
        let mut out = PcapngWriter::new(std::io::BufWriter::new(file), "dispatcher bench")?;
        let interface = out.interface(name, LinkType::ETHERNET)?;
        known.crowd.all_hum(from).try_for_each(|frame| out.frame(interface, 0, &frame, None))?;
        out.finish()?;
        Ok(path)
    };
    Ok([write(From::Client, "client.pcapng")?, write(From::Server, "server.pcapng")?])
}

/// Measures `rounds` stints of each.
pub fn run(rounds: usize, report: &mut Report) -> Result<()> {
    if !cfg!(feature = "dpdk") {
        report.leave_out("testpmd", "built without DPDK: cargo run --release -p bench --features dpdk -- testpmd");
        return Ok(());
    }
    let found = Command::new(TESTPMD).arg("--version").stdin(Stdio::null()).output();
    if found.is_err() {
        report.leave_out("testpmd", format!("there is no {TESTPMD} (Debian's package dpdk-dev)"));
        return Ok(());
    }
    report.begin("testpmd", 3);
    let work = std::env::temp_dir().join(format!("dispatcher-bench-{}", std::process::id()));
    std::fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
    let measured = beside_each_other(rounds, &work, report);
    std::fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    measured
}

fn beside_each_other(rounds: usize, work: &Path, report: &mut Report) -> Result<()> {
    let core = *dispatcher::io::allowed_cores().last().context("a core to run on")?;
    for flows in [1, 1000] {
        let case = format!("net_pcap, {} flow{}, 64 B", number(flows as f64), if flows == 1 { "" } else { "s" });
        report.step(&case);
        let [client, server] = record(flows, work)?;
        let device = |n: usize, file: &Path| format!("net_pcap{n},rx_pcap={},infinite_rx=1", file.display());
        let devices = [device(0, &client), device(1, &server)];
        let forwarders =
            [Forwarder::Worker(flows), Forwarder::Testpmd("5tswap"), Forwarder::Testpmd("macswap"), Forwarder::Swap];
        let turns = take_turns(forwarders, core, &devices, work, rounds)?;
        tell(&forwarders, &turns, &case, report);
        // Rates: the other way round.
        let rate = turns.ratio(1, 0);
        report.aim(("testpmd", &case, "worker's loop's rate over 5tswap's"), rate, "ratio", Target::AtLeast(0.5));
        report.add("testpmd", &case, "worker's loop's rate over macswap's", turns.ratio(2, 0), "ratio");
        report.add("testpmd", &case, "our driver's rate over macswap's", turns.ratio(2, 3), "ratio");
    }
    let case = "net_null, 64 zeros";
    report.step(case);
    let forwarders = [Forwarder::Swap, Forwarder::Testpmd("macswap")];
    let devices = ["net_null0", "net_null1"].map(String::from);
    let turns = take_turns(forwarders, core, &devices, work, rounds)?;
    tell(&forwarders, &turns, case, report);
    report.add("testpmd", case, "our driver's rate over macswap's", turns.ratio(1, 0), "ratio");
    Ok(())
}

fn take_turns<const N: usize>(
    forwarders: [Forwarder; N],
    core: usize,
    devices: &[String; 2],
    work: &Path,
    rounds: usize,
) -> Result<Turns<N>> {
    let running: Result<Vec<_>> = forwarders.iter().map(|f| Running::start(*f, core, devices, work)).collect();
    let mut running = running?;
    Turns::take(rounds, || {
        let mut took = [0.0; N];
        for (forwarder, took) in running.iter_mut().zip(&mut took) {
            *took = forwarder.stint()?;
        }
        Ok(took)
    })
}

fn tell<const N: usize>(forwarders: &[Forwarder; N], turns: &Turns<N>, case: &str, report: &mut Report) {
    for (n, forwarder) in forwarders.iter().enumerate() {
        let ns = turns.median(n);
        report.add("testpmd", case, &forwarder.name(), ns, "ns");
        report.add("testpmd", case, &format!("{}, frames", forwarder.name()), 1e3 / ns, "million/s");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_testpmd_says_the_sums_count() {
        let said = [
            "  RX-packets: 5004672        RX-dropped: 0             RX-total: 5004672",
            "  +++ Accumulated forward statistics for all ports+++",
            "  RX-packets: 10009344       RX-dropped: 0             RX-total: 10009344",
            "  TX-packets: 10009340       TX-dropped: 4             TX-total: 10009344",
            "Done.",
        ]
        .map(String::from);
        assert_eq!(count(&said, "RX-packets:").unwrap(), 10_009_344);
        assert_eq!(count(&said, "TX-packets:").unwrap(), 10_009_340);
        assert!(count(&said, "RX-bytes:").is_err());
    }
}
