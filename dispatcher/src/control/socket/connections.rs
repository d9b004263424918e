//! Live connections: what is asked of workers, and what they have found.
//!
//! Workers walk over their tables while whoever asked waits at the socket; the thread that owns the dispatcher's state is needed at the
//! beginning and at the end only, to put numbers in the place of names and names in the place of numbers.

use super::api::{Connection, Connections, Problem};
use crate::engine::STATES;
use crate::engine::connections::{Meant, Shown};
use crate::journal::VersionName;
use crate::worker::Worker;
use crate::worker::listing::{Found, Listing, LookFor};
use core::num::NonZeroU16;
use lb::admission::Prefix;
use lb::{BackendSet, Directory};
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connections in one answer, if nothing is said.
pub const USUAL: usize = 100;
/// Most connections in one answer.
pub const MOST: usize = 10_000;

/// How long workers may take: a table of sixteen million flows takes them a few seconds beside their work.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often it is looked whether they have done.
const LOOK: Duration = Duration::from_millis(2);

/// What may stand behind the path.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Asked {
    backend: Option<String>,
    service: Option<String>,
    client: Option<String>,
    state: Option<String>,
    limit: Option<usize>,
}

impl Asked {
    /// The same with numbers for names.
    fn meant(&self, directory: &Directory) -> Result<Meant, Problem> {
        let backend = self.backend.as_deref().map(|name| at_backend(name, directory)).transpose()?;
        let service = self.service.as_deref().map(|name| {
            let found = directory.services().find(|s| s.name() == name);
            found.map(lb::Service::id).ok_or_else(|| Problem::new(404, format!("there is no service {name:?}")))
        });
        let client = self.client.as_deref().map(from_clients).transpose()?;
        let state = self.state.as_deref().map(|word| {
            let known = STATES.into_iter().find(|known| *known == word);
            known.ok_or_else(|| Problem::new(400, format!("state: one of {}", STATES.join(", "))))
        });
        Ok(Meant { backend, service: service.transpose()?, client, state: state.transpose()? })
    }

    /// Has all workers begin.
    pub fn begin(&self, directory: &Directory, workers: &[Worker]) -> Result<Walking, Problem> {
        let (limit, meant) = (limit(self.limit, USUAL, MOST)?, self.meant(directory)?);
        Ok(Walking::begin(&LookFor::Connections(meant), limit, workers))
    }
}

/// How many are asked for: `usual`, if nothing is said.
pub(super) fn limit(asked: Option<usize>, usual: usize, most: usize) -> Result<usize, Problem> {
    let limit = asked.unwrap_or(usual);
    if (1..=most).contains(&limit) { Ok(limit) } else { Err(Problem::new(400, format!("limit: 1 to {most}"))) }
}

/// The backends of a name: one that was removed may have connections still.
pub(super) fn at_backend(name: &str, directory: &Directory) -> Result<BackendSet, Problem> {
    let mut set = BackendSet::EMPTY;
    let all = directory.backends().filter(|b| b.name == name);
    match all.map(|b| set.insert(b.id)).count() {
        0 => Err(Problem::new(404, format!("there is no backend {name:?}"))),
        _ => Ok(set),
    }
}

/// Clients' addresses, as `ADDR` or `ADDR/BITS`.
pub(super) fn from_clients(text: &str) -> Result<Prefix, Problem> {
    text.parse().map_err(|why| Problem::new(400, format!("client: {why}")))
}

/// Workers that look for them. Given up when this is dropped.
#[derive(Debug, Default)]
pub struct Walking {
    listings: Vec<Arc<Listing>>,
    limit: usize,
}

impl Walking {
    /// Has all workers begin.
    pub(super) fn begin(wanted: &LookFor, limit: usize, workers: &[Worker]) -> Walking {
        let begin = |worker: &Worker| {
            let listing = Arc::new(Listing::new(wanted.clone(), limit));
            worker.list(listing.clone());
            listing
        };
        Walking { listings: workers.iter().map(begin).collect(), limit }
    }

    /// Most that are told.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// What each worker has found, and whether that is all.
    pub(super) fn found(&self) -> impl Iterator<Item = (Found, bool)> {
        self.listings.iter().map(|listing| {
            listing.give_up();
            let found = listing.take();
            let whole = listing.is_over() && (found.whole || found.more);
            (found, whole)
        })
    }

    /// Waits until all have done, or for long enough.
    pub async fn wait(&self) {
        let until = Instant::now() + PATIENCE;
        while !self.listings.iter().all(|l| l.is_over()) && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What they have found, by these names.
    pub fn tell(&self, directory: &Directory) -> Connections {
        let mut told = Connections { connections: Vec::new(), more: false, late: Vec::new() };
        for (worker, (found, whole)) in self.found().enumerate() {
            if !whole {
                told.late.push(worker);
            }
            told.more |= found.more;
            for shown in &found.connections {
                if told.connections.len() == self.limit {
                    told.more = true;
                    break;
                }
                told.connections.push(connection(worker, shown, directory));
            }
        }
        told
    }
}

impl Drop for Walking {
    fn drop(&mut self) {
        self.listings.iter().for_each(|listing| listing.give_up());
    }
}

fn connection(worker: usize, shown: &Shown, directory: &Directory) -> Connection {
    let backend =
        shown.backend.and_then(|(id, generation)| directory.backend(id).filter(|b| b.generation == generation));
    Connection {
        conn: shown.number,
        worker,
        client: shown.client,
        vip: shown.vip,
        service: directory.service_name(shown.service).map(str::to_string),
        pool: directory.pool_name(shown.pool).map(str::to_string),
        backend: backend.map(|b| b.name.clone()),
        address: backend.map(|b| b.addr),
        local: shown.local,
        state: shown.state.to_string(),
        age: shown.age.as_secs_f64(),
        idle: shown.idle.as_secs_f64(),
        class: shown.class.map(|class| class.as_str().to_string()),
        // Until a backend is chosen, nothing has decided.
        reason: shown.backend.map(|_| shown.reason.map_or(crate::engine::BALANCED, lb::Reason::as_str).to_string()),
        offered: shown.offered.iter().map(|kind| kind.as_str().to_string()).collect(),
        tls_version: shown.version.map(|version| VersionName(NonZeroU16::get(version)).to_string()),
        resumed: shown.resumed,
        dial_attempts: u32::from(shown.attempts),
        bytes_to_server: shown.bytes[0],
        bytes_to_client: shown.bytes[1],
    }
}
