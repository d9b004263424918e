//! Everything that is wanted of a dispatcher: the same from flags and from a file.

use super::port::PortArg;
use super::values::Cores;
use crate::engine::{AddressMode, Config, TicketKey};
use crate::worker::Idle;
use core::time::Duration;
use lb::Wanted;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What is wanted.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Configuration {
    /// What holds for the whole process, and is taken at its start only.
    pub process: Process,
    /// Network ports.
    pub ports: Vec<PortArg>,
    /// Services and pools: what can change while running.
    pub wanted: Wanted,
    /// What is known of backends' ticket keys in advance, by the backends' names.
    pub ticket_keys: Vec<TicketKey>,
}

impl Configuration {
    /// Names of the pools to which no service leads.
    pub fn unused_pools(&self) -> impl Iterator<Item = &str> {
        let services = || self.wanted.services.iter();
        let used: HashSet<&str> =
            services().flat_map(|s| s.routes.iter().map(|r| &r.pool).chain([&s.pool])).map(String::as_str).collect();
        self.wanted.pools.iter().map(|pool| pool.name.as_str()).filter(move |name| !used.contains(name))
    }
}

/// How the log is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// What the log has: this, and what is worse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogLevel {
    /// What ends the dispatcher or a part of it.
    Error,
    /// What somebody should look at.
    Warning,
    /// What has happened.
    Info,
}

impl LogFormat {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

impl LogLevel {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warning => "warning",
            LogLevel::Info => "info",
        }
    }
}

/// What holds for the whole process.
#[derive(Clone, PartialEq, Debug)]
pub struct Process {
    /// Threads that move frames, if their cores are not told.
    pub workers: Option<usize>,
    /// Their cores.
    pub cores: Option<Cores>,
    /// What they do when nothing arrives.
    pub idle: Idle,
    /// Whose address servers see.
    pub address_mode: AddressMode,
    /// The key of the hash that leads clients.
    pub hash_seed: u64,
    /// Rows of the table of sessions.
    pub session_capacity: usize,
    /// A row's life after its last use.
    pub session_ttl: Duration,
    /// Connections open at once.
    pub flow_capacity: usize,
    /// After so long without frames the ends of a connection are asked.
    pub flow_idle_timeout: Duration,
    /// Where ended connections are told.
    pub connections_log: Option<PathBuf>,
    /// Where the control socket is, if there is one.
    pub control: Option<PathBuf>,
    /// What keeps overrides over a restart, if it does not lie beside the control socket.
    pub overrides: Option<PathBuf>,
    /// What keeps the affinity tables over a restart, if anything.
    pub state: Option<PathBuf>,
    /// What the keys of tunnels are made of whose packets are sealed.
    pub tunnel_key: Option<PathBuf>,
    /// Where metrics are asked for, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// How often rates are printed.
    pub stats_interval: Option<Duration>,
    /// How the log on standard error is written.
    pub log_format: LogFormat,
    /// What it has.
    pub log_level: LogLevel,
    /// Which ticket keys servers have is learned by connections of our own.
    pub learn_keys: bool,
}

impl Process {
    /// How many workers it has.
    pub fn worker_count(&self) -> usize {
        self.cores.as_ref().map_or(self.workers.unwrap_or(1), |cores| cores.0.len())
    }
}

impl Default for Process {
    fn default() -> Process {
        let engine = Config::default();
        Process {
            workers: None,
            cores: None,
            idle: Idle::Sleep,
            address_mode: engine.address_mode,
            hash_seed: engine.hash_seed,
            session_capacity: engine.limits.sessions,
            session_ttl: engine.session_ttl,
            flow_capacity: engine.limits.flows,
            flow_idle_timeout: engine.flow_idle_timeout,
            connections_log: None,
            control: None,
            overrides: None,
            state: None,
            tunnel_key: None,
            metrics: None,
            stats_interval: None,
            log_format: LogFormat::Text,
            log_level: LogLevel::Info,
            learn_keys: true,
        }
    }
}
