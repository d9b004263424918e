//! What is told of tunnels whose packets are sealed: as each worker has them.

use super::Running;
use crate::control::socket::api;
use crate::time::Time;
use crate::tunnel::{Shown, Standing, key, peer};
use std::net::SocketAddr;

impl Running<'_> {
    /// All of them, by where they end and worker.
    pub(super) fn all_tunnels(&self) -> Vec<api::Tunnel> {
        let mut all: Vec<_> = self
            .snapshots()
            .iter()
            .enumerate()
            .flat_map(|(worker, told)| told.tunnels.iter().map(move |one| self.tunnel(worker, one)).collect::<Vec<_>>())
            .collect();
        all.sort_by_key(|one| (one.endpoint, one.worker));
        all
    }

    fn tunnel(&self, worker: usize, shown: &Shown) -> api::Tunnel {
        let now = self.clock.now();
        let ago = |then: Time| now.since(then).as_secs_f64();
        let counts = &shown.counts;
        api::Tunnel {
            kind: "wireguard".into(),
            endpoint: shown.endpoint,
            backends: self.behind(shown.endpoint),
            worker,
            public_key: key::text(&shown.public_key),
            own_public_key: key::text(&shown.own_key),
            state: shown.standing.as_str().into(),
            since: ago(shown.since),
            why: why(shown),
            handshake: shown.handshake.map(ago),
            heard: shown.heard.map(ago),
            keepalive: peer::KEEPALIVE.as_secs_f64(),
            waiting: shown.waiting,
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            messages_in: counts.messages_in,
            messages_out: counts.messages_out,
            handshakes: counts.handshakes,
            initiations: counts.initiations,
            unopened: counts.unopened,
            replayed: counts.replayed,
            old_handshakes: counts.old_handshakes,
            flooded: counts.flooded,
        }
    }

    fn behind(&self, endpoint: SocketAddr) -> Vec<String> {
        let ends_there = |b: &&lb::Backend| b.tunnel.is_some_and(|t| t.seals().is_some() && t.endpoint == endpoint);
        self.directory().backends().filter(ends_there).map(|b| b.name.clone()).collect()
    }
}

/// What an operator cannot see from the numbers.
fn why(shown: &Shown) -> Option<String> {
    let counts = &shown.counts;
    if shown.standing == Standing::Down {
        // It does not say why, and so nobody could tell one from another.
        let again = if counts.handshakes == 0 { "" } else { " any more" };
        return Some(format!(
            "its other end answers no handshake{again}: it is not there, does not have our key, or has seen a later clock of ours (a machine whose clock was set back)"
        ));
    }
    (counts.old_handshakes > 0).then(|| {
        format!("{} handshakes of its other end were not newer than its last: its clock was set back, or they were replayed", counts.old_handshakes)
    })
}
