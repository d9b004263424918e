//! Why connections went where they went: which are meant, and what workers' trails say of them.

use super::api::{Backend, Explanations, Problem};
use super::connections::{Walking, limit};
use crate::engine::trail::{Sought, TRAILS};
use crate::explain::{Candidate, Explanation};
use crate::worker::Worker;
use crate::worker::listing::LookFor;
use lb::Directory;
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

/// Explanations in one answer, if nothing is said.
pub const USUAL: usize = 5;
/// Most explanations in one answer.
pub const MOST: usize = 100;

/// What may stand behind the path.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Asked {
    client: Option<String>,
    conn: Option<u64>,
    sni: Option<String>,
    limit: Option<usize>,
}

/// A client's address, and perhaps its port: `ADDR`, `ADDR:PORT`, `[ADDR]:PORT`.
///
/// # Errors
/// What it should have been.
pub fn client(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let whole = text.parse::<SocketAddr>().map(|at| (at.ip(), Some(at.port())));
    whole.or_else(|_| text.parse().map(|ip| (ip, None))).map_err(|_| format!("{text:?} is no ADDR or ADDR:PORT"))
}

/// The same, as it was written.
///
/// # Errors
/// As above.
pub fn client_text(text: &str) -> Result<String, String> {
    client(text).map(|_| text.to_string())
}

impl Asked {
    /// Has all workers look for them.
    pub fn begin(&self, workers: &[Worker]) -> Result<Walking, Problem> {
        let limit = limit(self.limit, USUAL, MOST)?;
        let client = self.client.as_deref().map(client).transpose();
        let client = client.map_err(|why| Problem::new(400, format!("client: {why}")))?;
        let (number, name) = (self.conn, self.sni.clone());
        let (client, port) = client.map_or((None, None), |(ip, port)| (Some(ip), port));
        Ok(Walking::begin(&LookFor::Trails(Sought { client, port, number, name }), limit, workers))
    }
}

/// What workers have found, the latest first. `backends` are all of them as they are now.
pub fn tell(found: &Walking, directory: &Directory, origin: SystemTime, backends: &[Backend]) -> Explanations {
    let mut told = Explanations { kept: TRAILS, ..Explanations::default() };
    for (worker, (found, whole)) in found.found().enumerate() {
        if !whole {
            told.late.push(worker);
        }
        told.more |= found.more;
        let explained = found
            .trails
            .iter()
            .map(|(trail, lives)| Explanation::new(worker, trail, lives.as_ref(), directory, origin));
        told.explanations.extend(explained);
    }
    told.explanations.sort_by(|a, b| b.began.total_cmp(&a.began));
    told.more |= told.explanations.len() > found.limit();
    told.explanations.truncate(found.limit());
    for explanation in &mut told.explanations {
        explanation.candidates = candidates(explanation, backends);
    }
    told
}

fn candidates(of: &Explanation, backends: &[Backend]) -> Vec<Candidate> {
    let member = |backend: &Backend| {
        let in_force = backend.in_force.as_ref()?;
        let weight = in_force.weights.iter().find(|w| Some(&w.pool) == of.pool.as_ref())?.weight;
        let holds = &backend.holds;
        let said = [holds.by.clone(), holds.why.clone()].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let why = Some(said).filter(|said| !said.is_empty());
        Some(Candidate { name: backend.name.clone(), state: holds.state.clone(), why, weight })
    };
    backends.iter().filter_map(member).collect()
}
