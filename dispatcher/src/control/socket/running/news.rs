//! What has happened since it was looked at last: what is looked at for that, and when.

use super::{HANDOVER_FULL, Running, drops, wall_clock, wall_clock_exactly};
use crate::control::events::watch::{self, View};
use crate::control::events::{Kind, News};
use crate::control::own;
use crate::control::port::PortArg;
use crate::control::socket::api::{Applied, Drop, Problem};
use crate::engine::DropReason;
use crate::io::{Loss, Traffic, kernel};
use crate::journal::JournalWriter;
use crate::worker::{self, Snapshot};

/// Ways to lose frames for want of room in a table or queue of ours.
const NO_ROOM: [&str; 8] = [
    DropReason::FlowTableFull.as_str(),
    DropReason::HelloNoBuffer.as_str(),
    DropReason::NoLocalPort.as_str(),
    DropReason::CheckQueueFull.as_str(),
    DropReason::QueueFull.as_str(),
    Loss::TxQueueFull.as_str(),
    Loss::RxRingFull.as_str(),
    HANDOVER_FULL,
];

impl Running<'_> {
    /// Tells what has happened since the last look.
    pub(super) fn look(&mut self) {
        let (now, began) = (wall_clock_exactly(), self.uptime());
        let view = self.view();
        for news in self.watch.look(view, began) {
            self.events.tell(news, now);
        }
        self.events.tick(now);
        self.watch.rest(began, self.uptime());
    }

    fn view(&self) -> View {
        let snapshots = self.snapshots();
        let sum = Snapshot::fold(&snapshots);
        let most = |of: fn(&Traffic) -> u64, port: usize| {
            snapshots.iter().filter_map(|w| w.received.get(port)).map(of).max().unwrap_or(0)
        };
        let port = |(at, port): (usize, &PortArg)| watch::Port {
            name: port.name.clone(),
            up: own::interface(port).and_then(|device| kernel::carrier(&device)),
            downs: most(|t| t.link_downs, at),
            reopened: most(|t| t.reopened, at),
        };
        let ports = self.ports.iter().enumerate().map(port).collect();
        let worker = |(told, worker): (&Snapshot, &worker::Worker)| watch::Worker {
            running: !worker.is_finished(),
            overruns: told.pauses.overruns(),
            longest: told.pauses.longest_turn().as_secs_f64(),
        };
        let workers = snapshots.iter().zip(self.workers).map(worker).collect();
        let room = self.live.configuration().process.flow_capacity as u64;
        let no_room = |d: &Drop| NO_ROOM.contains(&d.reason.as_str());
        let mut refused: Vec<(String, u64)> =
            drops(&sum).into_iter().filter(no_room).map(|d| (d.reason, d.frames + d.answered)).collect();
        refused.push(("queues of classes".to_string(), sum.admission.refused));
        View {
            backends: self.all_backends(),
            tunnels: self.all_tunnels(),
            overrides: self.live.told(self.live.overrides().iter(), wall_clock()),
            ports,
            workers,
            tables: vec![("flow", sum.flows as u64, room)],
            no_room: refused,
            log_lost: self.journal.map_or(0, JournalWriter::lost),
        }
    }

    /// Tells that something else is in force.
    pub(super) fn in_force(&mut self, by: &str, done: &Result<Applied, Problem>) {
        let Ok(done) = done else { return };
        if done.dry_run {
            return;
        }
        let changes: Vec<_> = done.changes.iter().map(|c| format!("{} {}", c.sign, c.what)).collect();
        let what = if changes.is_empty() { "nothing changed".to_string() } else { changes.join("; ") };
        let news = News::new(Kind::Configuration, false, format!("in force, by {by}: {what}"));
        let news = news.with("by", by).with("version", &done.version).with("seconds", done.took);
        self.events.tell(News { logged: true, ..news }, wall_clock_exactly());
        self.look();
    }
}
