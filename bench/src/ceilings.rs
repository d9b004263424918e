//! Ceilings, in virtual time: how many connections a second can end before something that is counted by the second runs out. The same in every run.

use crate::connect::hello_of_session;
use crate::figure::{Report, Target, number};
use crate::peers::{Conversation, From, World};
use anyhow::{Context, Result, ensure};
use core::time::Duration;
use dispatcher::engine::DropReason;
use dispatcher::wire::Addr;
use dispatcher::wire::packet::Flags;
use sim::config::two_armed;

/// Seconds of virtual time: some more than a closed connection is remembered.
const SECONDS: usize = 20;

/// What became of connections.
#[derive(Debug, Default)]
struct Outcome {
    offered: usize,
    /// Those that never had a server.
    refused: usize,
    /// By reasons of frames that were dropped, or answered by a reset.
    reasons: Vec<(&'static str, u64)>,
    /// Of those with a session: led to another server than the one that has it.
    strayed: usize,
}

/// Connections that are opened and closed at once, so many a second, spread over milliseconds.
struct Stream {
    world: World,
    next: usize,
}

impl Stream {
    /// To so many servers, with room for so many flows.
    fn new(servers: usize, flows: usize) -> Result<Stream> {
        let mut config = two_armed(servers, false);
        config.limits.flows = flows;
        Ok(Stream { world: World::of(config)?, next: 0 })
    }

    /// A whole connection each, from SYN to last acknowledgement; `begin` is what its client says. How many had no server.
    fn connections(&mut self, n: usize, begin: &[u8], outcome: &mut Outcome, home: Option<Addr>) {
        let fin = Flags(Flags::FIN.0 | Flags::ACK.0);
        let syn_ack = Flags(Flags::SYN.0 | Flags::ACK.0);
        let mut who: Vec<Conversation> = (self.next..self.next + n).map(Conversation::new).collect();
        self.next += n;
        outcome.offered += n;
        let world = &mut self.world;
        world.all_say(&mut who, From::Client, Flags::SYN, &[]);
        world.all_say(&mut who, From::Client, Flags::ACK, &[]);
        world.all_say(&mut who, From::Client, Flags::ACK, begin);
        outcome.strayed += who.iter().filter(|c| c.server().is_some() && home.is_some() && c.server() != home).count();
        who.retain(|c| c.server().is_some());
        outcome.refused += n - who.len();
        world.all_say(&mut who, From::Server, syn_ack, &[]);
        world.all_say(&mut who, From::Server, Flags::ACK, b"answer");
        world.all_say(&mut who, From::Client, Flags::ACK, &[]);
        world.all_say(&mut who, From::Client, fin, &[]);
        world.all_say(&mut who, From::Server, fin, &[]);
        world.all_say(&mut who, From::Client, Flags::ACK, &[]);
    }

    fn run(&mut self, rate: usize, begin: &[u8], home: Option<Addr>, report: &Report) -> Outcome {
        let mut outcome = Outcome::default();
        for second in 0..SECONDS {
            report.step(&format!("{} a second, second {second}", number(rate as f64)));
            let mut due = 0;
            for milli in 1..=1000 {
                let now = rate * milli / 1000 - due;
                due += now;
                self.connections(now, begin, &mut outcome, home);
                self.world.pass(Duration::from_millis(1));
            }
        }
        let counters = self.world.engine.counters();
        let lost = |reason: DropReason| counters.dropped(reason) + counters.refused[reason as usize];
        let reasons = [DropReason::NoLocalPort, DropReason::FlowTableFull, DropReason::NoBackend];
        outcome.reasons = reasons.into_iter().map(|r| (r.as_str(), lost(r))).filter(|(_, n)| *n > 0).collect();
        outcome
    }
}

fn tell(report: &mut Report, case: &str, outcome: &Outcome, target: Option<Target>) {
    let share = 100.0 * outcome.refused as f64 / outcome.offered.max(1) as f64;
    match target {
        Some(target) => report.aim(("ceilings", case, "refused"), share, "%", target),
        None => report.add("ceilings", case, "refused", share, "%"),
    }
    for (reason, n) in &outcome.reasons {
        report.add("ceilings", case, reason, *n as f64, "frames");
    }
}

/// Measures one server at several rates, the session that leads there, and the table as it is by default.
pub fn run(report: &mut Report) -> Result<()> {
    let rates: &[usize] = if report.quick { &[4_000] } else { &[4_000, 10_000, 20_000, 50_000] };
    report.begin("ceilings", (rates.len() + 2) * SECONDS);
    for &rate in rates {
        let mut stream = Stream::new(1, 1 << 20)?;
        let outcome = stream.run(rate, b"GET / HTTP/1.0\r\n\r\n", None, report);
        ensure!(outcome.offered == rate * SECONDS, "all connections were tried");
        let case = format!("one server, {} closes/s", number(rate as f64));
        // What is asked of the highest rate holds for the lower ones.
        tell(report, &case, &outcome, Some(Target::AtMost(0.0)));
    }
    let rate = if report.quick { 4_000 } else { 50_000 };
    let mut stream = Stream::new(2, 1 << 20)?;
    let home = learn(&mut stream)?;
    let outcome = stream.run(rate, &hello_of_session(1), Some(home), report);
    let case = format!("one of two servers has the session, {} closes/s", number(rate as f64));
    tell(report, &case, &outcome, Some(Target::AtMost(0.0)));
    let strayed = 100.0 * outcome.strayed as f64 / outcome.offered as f64;
    report.aim(("ceilings", &case, "led to the other server"), strayed, "%", Target::AtMost(0.0));
    let rate = if report.quick { 4_000 } else { 20_000 };
    let flows = dispatcher::engine::Limits::default().flows;
    let mut stream = Stream::new(16, flows)?;
    let outcome = stream.run(rate, b"GET / HTTP/1.0\r\n\r\n", None, report);
    let case = format!("table by default, {} connections/s", number(rate as f64));
    tell(report, &case, &outcome, Some(Target::AtMost(0.0)));
    Ok(())
}

/// Has a server make session 1; which one that is.
fn learn(stream: &mut Stream) -> Result<Addr> {
    let mut who = vec![Conversation::new(5_000_000)];
    let world = &mut stream.world;
    world.all_say(&mut who, From::Client, Flags::SYN, &[]);
    world.all_say(&mut who, From::Client, Flags::ACK, &[]);
    world.all_say(&mut who, From::Client, Flags::ACK, &hello_of_session(1));
    world.all_say(&mut who, From::Server, Flags(Flags::SYN.0 | Flags::ACK.0), &[]);
    world.all_say(&mut who, From::Server, Flags::ACK, &crate::connect::answer_of_session(1));
    let now = lb::Millis(world.now.as_millis());
    let sessions = world.engine.affinity().census(now).session_ids;
    ensure!(sessions == 1, "{sessions} sessions are known");
    who[0].server().context("the session has no server")
}
