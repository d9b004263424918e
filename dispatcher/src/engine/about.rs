//! What is known of the connection that a frame belongs to, for who records frames and says what became of them.

use super::Engine;
use crate::config::PortId;
use crate::flow::{Key, Rest, Side};
use crate::tcp::SPLICED;
use lb::{BackendId, Reason};
use std::net::SocketAddr;

/// It, in short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct About {
    /// Its running number, as in what is told at its end.
    pub number: u64,
    /// The client's address and port.
    pub client: SocketAddr,
    /// Where it stands, one of [`STATES`](crate::tcp::STATES).
    pub state: &'static str,
    /// Its backend; none while none is chosen.
    pub backend: Option<BackendId>,
    /// Why the table named a backend; none: it named none.
    pub reason: Option<Reason>,
}

impl Engine {
    /// The connection that a frame with these addresses and ports belongs to, from either side.
    pub fn connection_at(&self, key: &Key) -> Option<About> {
        let (id, _) = self.flows.lookup(key)?;
        let (state, record) = match self.flows.peek(id) {
            Rest::Whole(c) => (c.state.word(), &c.record),
            Rest::Folded(settled) => (SPLICED, &settled.record),
        };
        let client = self.flows.key(id, Side::Client)?.source();
        Some(About { number: record.number, client, state, backend: record.backend, reason: record.reason })
    }

    /// The name of a port.
    pub fn port_name(&self, port: PortId) -> Option<&str> {
        Some(&self.config.ports.get(usize::from(port.0))?.name)
    }

    /// The name of a backend.
    pub fn backend_name(&self, backend: BackendId) -> Option<&str> {
        Some(&self.directory.backend(backend)?.name)
    }
}
