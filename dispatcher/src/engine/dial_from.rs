//! Where a backend is dialled from: which address and port of ours.

use super::connection::State;
use super::{AddressMode, Engine};
use crate::flow::{PortUse, Side, Tuple};
use crate::time::Time;
use crate::wire::Addr;
use core::time::Duration;
use lb::BackendId;

/// Local ports of one's own looked at for one dial.
const PORT_TRIES: usize = 512;
/// A flow that is over keeps its port for so long at least: as long as one does in a crowded flow table, so that a lost last
/// acknowledgement may be repeated once.
const KEPT: Duration = Duration::from_secs(1);

impl Engine {
    /// The tuple in which a backend's answers will arrive, from a local port that is free, or whose flow is over when ports are
    /// scarce: that flow is forgotten then. In DNAT mode there is only one tuple.
    pub(super) fn server_tuple(&mut self, client: &Tuple, backend: BackendId, now: Time) -> Option<Tuple> {
        let Engine { routes, flows, local_ports, config, returning, worker, workers, .. } = self;
        let route = routes.backend(backend)?;
        let tuple = |local: Addr, port| Tuple { src: route.addr.0, sport: route.port, dst: local.0, dport: port };
        if config.address_mode == AddressMode::Dnat {
            return Some(tuple(Addr(client.src), client.sport)).filter(|t| !flows.contains(t));
        }
        let scattered = returning.knows_cards();
        let ask = |port: u16| {
            let tuple = tuple(route.source, port);
            // Whose the port is first: it is the cheaper question, and mostly the one that is answered no.
            if scattered && returning.owner(&tuple) != Some(*worker) {
                return PortUse::Taken;
            }
            let Some((id, side)) = flows.lookup(&tuple) else { return PortUse::Free };
            let c = flows.get(id);
            let over = matches!(c.state, State::TimeWait { .. }) && now.since(c.last_seen) >= KEPT;
            if over && side == Side::Server { PortUse::Over } else { PortUse::Taken }
        };
        let tries = if scattered { PORT_TRIES * *workers } else { PORT_TRIES };
        let port = local_ports.next(backend.index(), ask, tries)?;
        let tuple = tuple(route.source, port);
        if let Some((over, _)) = self.flows.lookup(&tuple) {
            self.remove(over);
        }
        Some(tuple)
    }
}
