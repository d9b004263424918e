//! What a worker's ended connections add up to.

use crate::engine::{Class, ConnectionRecord};

/// Sums over ended connections.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// All of them.
    pub connections: u64,
    /// That began with a ClientHello.
    pub secure: u64,
    /// That offered to resume something.
    pub offered: u64,
    /// Whose server's answer showed that it resumed.
    pub resumed: u64,
    /// By reason, in the order of [`REASONS`].
    pub reasons: [u64; REASONS.len()],
    /// By backend, in the order of the command line.
    pub backends: Vec<BackendTotals>,
    /// That reached none.
    pub no_backend: u64,
}

/// Sums over the connections of one backend.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BackendTotals {
    /// Its name.
    pub name: String,
    /// All of them.
    pub connections: u64,
    /// That resumed a session.
    pub resumed: u64,
    /// That began a new session.
    pub new_sessions: u64,
    /// Stream bytes from clients.
    pub bytes_to_server: u64,
    /// Stream bytes to clients.
    pub bytes_to_client: u64,
}

/// Why a connection can have gone where it went.
pub const REASONS: [&str; 7] = ["session-id", "ticket", "ticket-key", "psk", "psk-key", "balanced", "recorded"];

impl Totals {
    /// All zero, for backends of these names.
    pub fn new(backends: Vec<String>) -> Totals {
        let backends = backends.into_iter().map(|name| BackendTotals { name, ..BackendTotals::default() }).collect();
        Totals { backends, ..Totals::default() }
    }

    /// Adds another worker's, for the same backends.
    pub fn merge(&mut self, other: &Totals) {
        self.connections += other.connections;
        self.secure += other.secure;
        self.offered += other.offered;
        self.resumed += other.resumed;
        self.no_backend += other.no_backend;
        for (mine, theirs) in self.reasons.iter_mut().zip(other.reasons) {
            *mine += theirs;
        }
        for (mine, theirs) in self.backends.iter_mut().zip(&other.backends) {
            mine.connections += theirs.connections;
            mine.resumed += theirs.resumed;
            mine.new_sessions += theirs.new_sessions;
            mine.bytes_to_server += theirs.bytes_to_server;
            mine.bytes_to_client += theirs.bytes_to_client;
        }
    }

    /// One more connection. Does not allocate.
    pub fn add(&mut self, record: &ConnectionRecord<'_>) {
        self.connections += 1;
        self.secure += u64::from(record.class == Class::Secure);
        self.offered += u64::from(!record.offered.is_empty());
        self.resumed += u64::from(record.resumed == Some(true));
        if let Some(at) = REASONS.iter().position(|r| *r == record.reason) {
            self.reasons[at] += 1;
        }
        let Some(name) = record.backend else {
            self.no_backend += 1;
            return;
        };
        if let Some(backend) = self.backends.iter_mut().find(|b| b.name == name) {
            backend.connections += 1;
            backend.resumed += u64::from(record.resumed == Some(true));
            backend.new_sessions += u64::from(record.resumed == Some(false));
            backend.bytes_to_server += record.bytes_to_server;
            backend.bytes_to_client += record.bytes_to_client;
        }
    }
}
