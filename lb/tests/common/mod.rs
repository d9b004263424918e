//! The tests speak of identities as bytes on the wire, and of pools as lists of weights; this makes them what the crate takes.

use lb::{
    Affinity, Algorithm, BackendId, Directory, Identity, IdentityKind, Lookup, MemberSpec, Millis, Offered, Pool,
    PoolSpec, Sighting, State, Wanted,
};
use std::net::SocketAddr;
use std::sync::Arc;

/// One pool that can be changed, as a control thread does it.
#[allow(dead_code, reason = "each test binary uses some of it")]
pub struct OnePool {
    wanted: Wanted,
    directory: Directory,
}

#[allow(dead_code, reason = "each test binary uses some of it")]
impl OnePool {
    /// Backends `web0`, `web1`... of these weights, up.
    pub fn new(balance: Algorithm, weights: &[u16]) -> OnePool {
        let member = |(i, &weight): (usize, &u16)| {
            let addr = SocketAddr::from(([10, 1, (i >> 8) as u8, i as u8], 443));
            MemberSpec { weight, ..MemberSpec::new(format!("web{i}"), addr) }
        };
        let backends = weights.iter().enumerate().map(member).collect();
        let wanted = Wanted {
            services: vec![],
            pools: vec![PoolSpec { name: "p".into(), balance, backends, ..PoolSpec::default() }],
        };
        OnePool { directory: Directory::next(None, &wanted, |_| true).unwrap(), wanted }
    }

    /// The pool as it is now.
    pub fn get(&self) -> Arc<Pool> {
        self.directory.pools().next().unwrap().clone()
    }

    /// The pool after a change.
    pub fn change(&mut self, change: impl FnOnce(&mut PoolSpec)) -> Arc<Pool> {
        change(&mut self.wanted.pools[0]);
        self.directory = Directory::next(Some(&self.directory), &self.wanted, |_| false).unwrap();
        self.get()
    }

    /// The pool after a backend's state has changed.
    pub fn set_state(&mut self, id: u16, state: State) -> Arc<Pool> {
        self.change(|pool| pool.backends[usize::from(id)].state = state)
    }

    pub fn opened(&self, id: BackendId) {
        self.directory.live().opened(id);
    }

    pub fn closed(&self, id: BackendId) {
        self.directory.live().closed(id);
    }

    pub fn connections(&self, id: BackendId) -> u32 {
        self.directory.live().connections(id)
    }
}

/// The calls of [`Affinity`], by bytes. Identities that are none (empty, too long) are left out, as by every caller.
#[allow(dead_code, reason = "each test binary uses some of them")]
pub trait ByBytes {
    fn find(&self, offered: &[Offered<'_>], now: Millis, eligible: impl Fn(BackendId) -> bool) -> Lookup;
    fn tell(&mut self, what: fn(&mut Affinity, &Identity, Sighting), kind: IdentityKind, bytes: &[u8], seen: Sighting);

    fn session_issued(&mut self, id: &[u8], seen: Sighting) {
        self.tell(Affinity::issued, IdentityKind::SessionId, id, seen);
    }
    fn session_resumed(&mut self, id: &[u8], seen: Sighting) {
        self.tell(Affinity::accepted, IdentityKind::SessionId, id, seen);
    }
    fn session_refused(&mut self, id: &[u8], seen: Sighting) {
        self.tell(Affinity::refused, IdentityKind::SessionId, id, seen);
    }
    fn ticket_issued(&mut self, ticket: &[u8], seen: Sighting) {
        self.tell(Affinity::issued, IdentityKind::Ticket, ticket, seen);
    }
    fn ticket_accepted(&mut self, ticket: &[u8], seen: Sighting) {
        self.tell(Affinity::accepted, IdentityKind::Ticket, ticket, seen);
    }
    fn ticket_refused(&mut self, ticket: &[u8], seen: Sighting) {
        self.tell(Affinity::refused, IdentityKind::Ticket, ticket, seen);
    }
    fn psk_accepted(&mut self, identity: &[u8], seen: Sighting) {
        self.tell(Affinity::accepted, IdentityKind::Psk, identity, seen);
    }
    fn psk_refused(&mut self, identity: &[u8], seen: Sighting) {
        self.tell(Affinity::refused, IdentityKind::Psk, identity, seen);
    }
}

impl ByBytes for Affinity {
    fn find(&self, offered: &[Offered<'_>], now: Millis, eligible: impl Fn(BackendId) -> bool) -> Lookup {
        let identities: Vec<Identity> = offered.iter().filter_map(Identity::new).collect();
        self.lookup(&identities, now, eligible)
    }

    fn tell(&mut self, what: fn(&mut Affinity, &Identity, Sighting), kind: IdentityKind, bytes: &[u8], seen: Sighting) {
        if let Some(identity) = Identity::new(&Offered { kind, bytes }) {
            what(self, &identity, seen);
        }
    }
}
