//! What goes over the control socket, as JSON. The same types are written by the server and read by `dispatcher ctl`; docs/openapi.json
//! describes them, and a test holds it to them.

use crate::control::member::Question;
use crate::explain::Explanation;
pub use crate::sessions::Rows;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// `GET /v1`: the dispatcher at a glance.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Overview {
    /// Of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it was started.
    pub uptime: f64,
    /// Workers that run.
    pub workers: usize,
    /// Services.
    pub services: usize,
    /// Backends.
    pub backends: usize,
    /// Those that every worker has found to be down.
    pub backends_down: usize,
    /// Connections in the flow table: open, or over for some seconds at most.
    pub flows: usize,
    /// Connections that have ended.
    pub connections: u64,
    /// Of those: offered to resume a session.
    pub offered: u64,
    /// Of those: resumed it.
    pub resumed: u64,
    /// Ended connections that reached no backend.
    pub no_backend: u64,
    /// Frames dropped.
    pub dropped: u64,
}

/// `GET /v1/status`: all of one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// At a glance.
    pub overview: Overview,
    /// All services.
    pub services: Vec<Service>,
    /// All backends.
    pub backends: Vec<Backend>,
    /// The affinity tables.
    pub sessions: Sessions,
    /// Every line for room at backends.
    pub queues: Vec<Queue>,
    /// Frames that came to nothing, by reason.
    pub drops: Vec<Drop>,
    /// All workers.
    pub workers: Vec<Worker>,
    /// The latest of what has happened, oldest first.
    pub events: Vec<Event>,
}

/// `GET /v1/services`: one of the services.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Where clients connect to.
    pub listen: Vec<SocketAddr>,
    /// The names of its pools: its own, then those of its routes.
    pub pools: Vec<String>,
    /// How a backend of its own pool is chosen without a session.
    pub balance: String,
    /// Whether sessions are led to the backend that can resume them.
    pub affinity: bool,
    /// The cookie by which sessions of plain HTTP/1 are led, too, if they are.
    pub cookie: Option<String>,
    /// Whether backends are told the client by a PROXY v2 header.
    pub proxy_protocol: bool,
    /// Where connections come from that begin with a PROXY header, whose client counts as the client.
    pub accept_proxy: Vec<String>,
    /// The names of its backends.
    pub backends: Vec<String>,
    /// What operators said of these.
    pub overrides: Vec<Override>,
    /// What is seen of these.
    pub observed: Reached,
}

/// What is seen of a service's backends together. One that stands in pools of several services counts for each of them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Reached {
    /// So many are up.
    pub up: usize,
    /// So many are down; those of which workers do not agree are neither.
    pub down: usize,
    /// Connections to them in the flow tables of all workers.
    pub flows: u64,
}

/// `GET /v1/backends`: one of the backends.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: SocketAddr,
    /// What its packets go through: `direct`, or its tunnel.
    pub context: String,
    /// What the file (or the flags) want of it; none: they do not have it.
    pub wanted: Option<Wanted>,
    /// What operators said of it.
    pub overrides: Vec<Override>,
    /// What comes of the two, and of what its agent says; none: it was removed, and still has connections or sessions.
    pub in_force: Option<Wanted>,
    /// Whose word the state in force is: `operator`, `agent` or `file`; none: it was removed.
    pub in_force_by: Option<String>,
    /// What comes of all that is said and seen.
    pub holds: Holds,
    /// As it is seen.
    pub observed: Observed,
}

/// What is wanted of a backend.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// `up`, `draining` or `down`.
    pub state: String,
    /// Its weight in each of its pools.
    pub weights: Vec<Weight>,
    /// Most connections; none: no limit.
    pub max_connections: Option<u32>,
    /// Most handshakes at a time, in units, or `auto`; none: no limit.
    pub max_handshakes: Option<String>,
    /// Seconds for which weight and limits grow after a recovery; none: they do not.
    pub slow_start: Option<f64>,
    /// How it is checked, as in the file; none: it is not.
    pub check: Option<Question>,
    /// Its agent; none: it is not asked.
    pub agent_check: Option<Question>,
}

/// What holds of a backend.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Holds {
    /// `up`, `draining`, `down`, `differs` (workers do not agree) or `leaving`.
    pub state: String,
    /// Whose word it is: `operator`, `agent`, `file`, `check` or `passive`; none: nobody says anything against it, or it is leaving.
    pub by: Option<String>,
    /// The reason.
    pub why: Option<String>,
    /// Seconds until it is over by itself, or looked at anew; none: that is not known.
    pub until: Option<f64>,
}

/// A backend's share of new connections in a pool.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Weight {
    /// The pool's name.
    pub pool: String,
    /// Relative to those of the pool's others.
    pub weight: u16,
}

/// What is seen of a backend.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Observed {
    /// `up`, `down`, or `differs` when the workers do not agree.
    pub health: String,
    /// Who says that it is not up: `check` or `passive`.
    pub by: Option<String>,
    /// Why it is down, or not up for all workers.
    pub why: Option<String>,
    /// Seconds since then.
    pub since: Option<f64>,
    /// How it is checked, and what has come of it; none: it is not.
    pub check: Option<Checked>,
    /// What clients' connections have raised against it; none: nothing stands.
    pub suspicion: Option<Suspicion>,
    /// What its agent says; none: it has none.
    pub agent: Option<AgentSays>,
    /// What is known of its ticket keys; none: nobody looks.
    pub keys: Option<TicketKeys>,
    /// What connections have of its limits; none: it has no limit.
    pub slots: Option<Slots>,
    /// By worker: whether it takes the backend to be up.
    pub up: Vec<bool>,
    /// Connections in the flow tables of all workers: open, or over for some seconds at most.
    pub flows: u32,
    /// Connections that have ended.
    pub connections: u64,
    /// Of those: resumed a session.
    pub resumed: u64,
    /// Of those: began a new one.
    pub new_sessions: u64,
    /// Bytes from clients.
    pub bytes_to_server: u64,
    /// Bytes to clients.
    pub bytes_to_client: u64,
}

/// What the checks of a backend have come to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Checked {
    /// `tcp`, `tls`, `http` or `https`.
    pub kind: String,
    /// `up`, `down`, or `unknown` until there are enough answers.
    pub state: String,
    /// Seconds since then.
    pub since: f64,
    /// What was wrong with the last one that failed, if it counts still.
    pub why: Option<String>,
    /// Seconds that the last one took.
    pub took: Option<f64>,
    /// That have passed.
    pub passed: u64,
    /// That have failed.
    pub failed: u64,
}

/// Clients' hellos were left without an answer by a backend.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Suspicion {
    /// `asked`: it is being asked; `down`: it did not answer our hellos either; `spared`: nor did it, but it is the last of a pool.
    pub state: String,
    /// Seconds since then.
    pub since: f64,
    /// What came of the last hello of ours that was not answered.
    pub why: Option<String>,
    /// How often in a row it was taken away.
    pub times: u32,
    /// Seconds until it is asked again.
    pub until: Option<f64>,
}

/// What the agent on a backend's host says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AgentSays {
    /// All in all, in its words.
    pub says: String,
    /// Seconds since it said something else.
    pub since: f64,
    /// Why nothing was heard of it, the last time.
    pub failed: Option<String>,
}

/// What is known of a backend's ticket keys by handshakes of our own.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TicketKeys {
    /// `named`: its tickets begin with the names of keys, and these are known; `nameless`: they do not, or there are none; `unknown`.
    pub state: String,
    /// The names, in hex, the latest last.
    pub names: Vec<String>,
    /// Seconds since each of them was first seen.
    pub ages: Vec<f64>,
    /// Whether it takes the tickets that it issues; none: it is not known.
    pub takes_own: Option<bool>,
    /// Why nothing could be learned, the last time.
    pub failed: Option<String>,
}

/// What connections have of a backend's limits now, those that are being dialled included.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Slots {
    /// So many connections.
    pub connections: u32,
    /// Of so many, as it is now: less than is wanted during a slow start. None: no limit.
    pub max_connections: Option<u32>,
    /// Units of handshakes under way.
    pub handshakes: u32,
    /// Of so many, as it is now: less than is wanted during a slow start, and found out with `auto`. None: no limit.
    pub max_handshakes: Option<u32>,
}

/// `GET /v1/queues`: where requests wait for room at backends: a class of a service, at one of its pools of which a backend has a limit.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Queue {
    /// The service.
    pub service: String,
    /// Its pool.
    pub pool: String,
    /// Of the clients and the backends: `IPv4` or `IPv6`.
    pub family: String,
    /// The class.
    pub class: String,
    /// So many wait now.
    pub waiting: usize,
    /// Have asked for room: admitted, abandoned, timed out, refused, and those who wait.
    pub asked: u64,
    /// Were given it.
    pub admitted: u64,
    /// Of those: after having waited.
    pub waited: u64,
    /// Of those: not at the backend that has their session.
    pub spilled: u64,
    /// Stood in the last class's line, their own being full.
    pub demoted: u64,
    /// Closed or reset while they waited.
    pub abandoned: u64,
    /// Waited for as long as their class waits.
    pub timed_out: u64,
    /// Found no place to wait.
    pub refused: u64,
    /// Of those who had waited: how many for less than 1 ms, 2, 4 and so on; the last: for longer.
    pub waits: Vec<u64>,
    /// These waits together, milliseconds.
    pub waited_ms: u64,
}

/// `GET /v1/tunnels`: a tunnel whose packets are sealed, as one worker has it. Never a key that is not public.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Tunnel {
    /// `wireguard`.
    pub kind: String,
    /// Where it ends.
    pub endpoint: SocketAddr,
    /// Names of the backends behind it.
    pub backends: Vec<String>,
    /// To the other end each worker is a peer of its own.
    pub worker: usize,
    /// The other end's public key.
    pub public_key: String,
    /// Our public key there.
    pub own_public_key: String,
    /// `begins`, `up` or `down`.
    pub state: String,
    /// Since so many seconds.
    pub since: f64,
    /// What keeps it down, or is odd about it.
    pub why: Option<String>,
    /// Seconds since the latest handshake that led to a session.
    pub handshake: Option<f64>,
    /// Seconds since the other end was last heard.
    pub heard: Option<f64>,
    /// Seconds of silence after which we say that we are there.
    pub keepalive: f64,
    /// Packets that wait until it is up.
    pub waiting: usize,
    /// Bytes of UDP payload that came and were opened.
    pub bytes_in: u64,
    /// Bytes of UDP payload that went out.
    pub bytes_out: u64,
    /// Messages that came and were opened.
    pub messages_in: u64,
    /// Messages that went out.
    pub messages_out: u64,
    /// Handshakes that led to a session: the first, and one for each time that keys were made anew.
    pub handshakes: u64,
    /// Handshakes that we began, each repetition included.
    pub initiations: u64,
    /// Messages that none of its keys opens.
    pub unopened: u64,
    /// Messages that came before.
    pub replayed: u64,
    /// Handshakes not newer than the last: replayed, or of a machine whose clock was set back.
    pub old_handshakes: u64,
    /// Handshakes beyond the rate.
    pub flooded: u64,
}

/// `GET /v1/sessions`: what the affinity tables hold and have counted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sessions {
    /// What connections offered, by backend and kind. Pairs of which nothing was offered are left out.
    pub offered: Vec<Offered>,
    /// The rows held now.
    pub rows: Rows,
    /// What an operator should know, in words.
    pub notes: Vec<String>,
}

/// Connections that offered one kind of identity and went to one backend.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Offered {
    /// `session-id`, `ticket`, `psk` or `cookie`.
    pub kind: String,
    /// Its name.
    pub backend: String,
    /// What its packets go through: `direct`, or its tunnel.
    pub context: String,
    /// All of them.
    pub offered: u64,
    /// The tables had named this backend.
    pub promised: u64,
    /// The backend resumed.
    pub accepted: u64,
    /// It did not.
    pub refused: u64,
    /// Of the refused: the tables had said that it could.
    pub broken: u64,
    /// No row knew the identity.
    pub unknown: u64,
}

/// `GET /v1/workers`: one of the workers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Worker {
    /// From 0.
    pub worker: usize,
    /// It runs; one that does not has died or is stopping.
    pub running: bool,
    /// Connections in the flow table: open, or over for some seconds at most.
    pub flows: usize,
    /// Connections that have ended.
    pub connections: u64,
    /// Frames from its queues.
    pub frames_in: u64,
    /// Frames to its queues.
    pub frames_out: u64,
    /// Frames handed over to their owners.
    pub handed_over: u64,
    /// Frames that were handed over to it.
    pub received: u64,
    /// Turns of its loop that found frames.
    pub busy_turns: u64,
    /// Turns that found none.
    pub idle_turns: u64,
    /// How long it was away from its queues.
    pub pauses: Pauses,
}

/// How long a worker was away from its queues. Times are seconds, rounded up to two digits.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Pauses {
    /// Changes of services and backends that it has taken over. It does nothing else meanwhile.
    pub changes: u64,
    /// What half of them took at most.
    pub change_median: f64,
    /// What 99 % of them took at most.
    pub change_p99: f64,
    /// What the longest of them took.
    pub change_longest: f64,
    /// The longest turn of its loop that had frames. Changes, and the kernel's scheduler, have their part in it.
    pub turn_longest: f64,
}

/// `GET /v1/drops`: one way in which frames came to nothing.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Drop {
    /// Its name, as in the documents.
    pub reason: String,
    /// Frames dropped.
    pub frames: u64,
    /// Of the engine's reasons: frames that were answered by a reset instead.
    pub answered: u64,
}

/// `GET /v1/connections`: connections as they stand now.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Connections {
    /// Those that were asked for, or as many of them as were.
    pub connections: Vec<Connection>,
    /// There are more.
    pub more: bool,
    /// Workers that have not looked at all of theirs in time.
    pub late: Vec<usize>,
}

/// A connection as it stands now.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// Its number, as in the connections log at its end.
    pub conn: u64,
    /// Whose it is, from 0.
    pub worker: usize,
    /// The client's address and port.
    pub client: SocketAddr,
    /// What it connected to.
    pub vip: SocketAddr,
    /// The service's name; none when that has gone long ago.
    pub service: Option<String>,
    /// The name of the pool that it was routed to; none as above.
    pub pool: Option<String>,
    /// The backend's name; none while none is chosen.
    pub backend: Option<String>,
    /// The backend's address and port.
    pub address: Option<SocketAddr>,
    /// Our address and port towards the backend: as whom it sees the connection. With `dnat` the client's.
    pub local: Option<SocketAddr>,
    /// `await-hello`, `queued`, `dialing`, `spliced`, `time-wait`, `reset`, `cut` or `farewell`.
    pub state: String,
    /// Seconds since it began: since its client's cookie came back.
    pub age: f64,
    /// Seconds since a frame of it was seen that could be meant seriously.
    pub idle: f64,
    /// `secure` or `non-secure`; none while unknown.
    pub class: Option<String>,
    /// Why it went to its backend: what of a session named it, or `balanced`; none while none is chosen.
    pub reason: Option<String>,
    /// What its hello or request offered to resume: `session-id`, `ticket`, `psk`, `cookie`.
    pub offered: Vec<String>,
    /// The version that the server chose, such as `1.3`; none while unknown.
    pub tls_version: Option<String>,
    /// Whether the server resumed a session; none while unknown.
    pub resumed: Option<bool>,
    /// Backends dialled.
    pub dial_attempts: u32,
    /// Stream bytes so far.
    pub bytes_to_server: u64,
    /// Stream bytes so far.
    pub bytes_to_client: u64,
}

/// `GET /v1/explain`: why connections went where they went, the latest first.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Explanations {
    /// Of those that were asked for, or as many of them as were.
    pub explanations: Vec<Explanation>,
    /// There are more.
    pub more: bool,
    /// Workers that have not looked at all of theirs in time.
    pub late: Vec<usize>,
    /// So many of its latest connections each worker keeps.
    pub kept: usize,
}

/// `GET /v1/events`: what has happened, oldest first.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Events {
    /// The number of the latest event there is.
    pub last: u64,
    /// So many of those that were asked for are kept no more.
    pub lost: u64,
    /// They, or the first of them.
    pub events: Vec<Event>,
}

/// Something that has happened.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Event {
    /// From 1 at the start of the dispatcher, without gaps; a process that takes over goes on with them.
    pub number: u64,
    /// Seconds since 1970.
    pub time: f64,
    /// `backend`, `agent`, `key`, `tickets`, `configuration`, `override`, `link`, `worker`, `room`, `log` or `takeover`.
    pub kind: String,
    /// `info`, or `warning`: somebody should look at it.
    pub level: String,
    /// Particulars: `backend`, `port`, `worker`, `state`, `by`, `why`, `key`, `table`, `count`, `seconds`, `version`, as far as they apply.
    pub fields: BTreeMap<String, String>,
    /// In a sentence.
    pub text: String,
}

/// `POST /v1/log/reopen`: it was done.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Reopened {
    /// The connections log.
    pub file: String,
}

/// `GET /v1/configuration`: the file in force. Its version is the answer's `ETag`, too.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Configuration {
    /// Changes with everything that is changed.
    pub version: String,
    /// What the file was called; none: the dispatcher was started by flags.
    pub file: Option<String>,
    /// The file as it was taken.
    pub text: Option<String>,
    /// A file that says what is in force: the file or the flags, and what operators want other than these.
    pub in_force: String,
}

/// One difference.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// `+` comes, `-` goes, `~` changes, `!` takes a restart to change.
    pub sign: String,
    /// What, in words.
    pub what: String,
}

/// `GET /v1/diff`: what a reload would change, and what operators want other than the file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Diff {
    /// From what is in force to the file as it is now.
    pub changes: Vec<Change>,
    /// What is other than the file in force has it.
    pub overrides: Vec<Override>,
    /// What else should be known: overrides that a changed line of the file would win over, for one.
    pub notes: Vec<String>,
}

/// What an operator said at run time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Override {
    /// As it was said, such as `drain web1`.
    pub what: String,
    /// Who said so.
    pub who: String,
    /// Seconds since then.
    pub since: u64,
    /// Seconds until it expires by itself; none: never.
    pub left: Option<u64>,
    /// The reason given.
    pub why: Option<String>,
}

/// The answer to everything that changes something.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Applied {
    /// The version in force now.
    pub version: String,
    /// Nothing was done: this is what would be.
    pub dry_run: bool,
    /// What changed.
    pub changes: Vec<Change>,
    /// What else should be known: overrides that a changed line of the file wins over, for one.
    pub notes: Vec<String>,
    /// Seconds until all workers had it.
    pub took: f64,
    /// Of a dry run: a file that says what would be in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<String>,
}

/// `DELETE /v1/backends/{backend}/sessions`: they are forgotten.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Forgotten {
    /// The backend.
    pub backend: String,
    /// Seconds until all workers had it.
    pub took: f64,
}

/// Something wrong in a file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// What was probably meant, or what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The body of every answer that is an error.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What is wrong, in one line.
    pub error: String,
    /// Of a file: everything that is wrong in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

/// An error, with the status it is answered by.
#[derive(Clone, PartialEq, Debug)]
pub struct Problem {
    /// Of HTTP.
    pub status: u16,
    /// The answer's body.
    pub failure: Failure,
}

impl Problem {
    /// With one line that says what is wrong.
    pub fn new(status: u16, error: impl Into<String>) -> Problem {
        Problem { status, failure: Failure { error: error.into(), faults: Vec::new() } }
    }
}
