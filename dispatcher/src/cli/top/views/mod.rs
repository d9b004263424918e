//! What can be looked at: each view makes rows of a reading.

mod backends;
mod drops;
mod events;
mod keys;
mod queues;
mod services;
mod sessions;
mod workers;

use super::rates::Rates;
use super::table::{Column, Row, Table};
use crate::control::socket::api::Status;

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// Where clients connect to.
    Services,
    /// Servers.
    Backends,
    /// What was offered to resume, by backend and kind.
    Sessions,
    /// Ticket keys that are known.
    Keys,
    /// Who waits for room.
    Queues,
    /// Frames that came to nothing.
    Drops,
    /// Threads that move frames.
    Workers,
    /// What has happened.
    Events,
}

impl View {
    /// In the order of their numbers.
    pub const ALL: [View; 8] = [
        View::Services,
        View::Backends,
        View::Sessions,
        View::Keys,
        View::Queues,
        View::Drops,
        View::Workers,
        View::Events,
    ];

    /// Its place among all.
    pub fn place(self) -> usize {
        View::ALL.iter().position(|view| *view == self).unwrap_or(0)
    }

    /// Its name.
    pub fn title(self) -> &'static str {
        ["Services", "Backends", "Sessions", "Keys", "Queues", "Drops", "Workers", "Events"][self.place()]
    }

    /// What stands there when there is nothing to show.
    pub fn empty(self) -> &'static str {
        match self {
            View::Services | View::Backends => "none",
            View::Sessions => "nobody has offered to resume a session yet",
            View::Keys => "no server is known by the names of its ticket keys",
            View::Queues => "no backend has a limit, so nobody waits",
            View::Drops => "no frame was dropped",
            View::Workers => "no worker runs",
            View::Events => "nothing has happened",
        }
    }

    /// Its columns.
    pub fn columns(self) -> &'static [Column] {
        match self {
            View::Services => services::COLUMNS,
            View::Backends => backends::COLUMNS,
            View::Sessions => sessions::COLUMNS,
            View::Keys => keys::COLUMNS,
            View::Queues => queues::COLUMNS,
            View::Drops => drops::COLUMNS,
            View::Workers => workers::COLUMNS,
            View::Events => events::COLUMNS,
        }
    }

    /// The column it is in the order of at first, and whether from the largest.
    pub fn order(self) -> (usize, bool) {
        match self {
            View::Drops => (1, true),
            View::Events => (0, true),
            _ => (0, false),
        }
    }

    /// All of its rows.
    pub fn table(self, now: &Status, rates: &Rates) -> Table {
        let rows: Vec<Row> = match self {
            View::Services => now.services.iter().map(services::row).collect(),
            View::Backends => now.backends.iter().map(|b| backends::row(b, rates)).collect(),
            View::Sessions => now.sessions.offered.iter().map(|o| sessions::row(o, rates)).collect(),
            View::Keys => keys::rows(&now.backends),
            View::Queues => now.queues.iter().map(|q| queues::row(q, rates)).collect(),
            View::Drops => {
                now.drops.iter().filter(|d| d.frames + d.answered > 0).map(|d| drops::row(d, rates)).collect()
            }
            View::Workers => now.workers.iter().map(|w| workers::row(w, rates)).collect(),
            View::Events => now.events.iter().map(events::row).collect(),
        };
        Table::new(self.columns(), rows)
    }
}
