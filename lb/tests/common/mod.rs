//! The tests speak of identities as bytes on the wire; this makes them what the tables take.

use lb::{Affinity, BackendId, Identity, IdentityKind, Lookup, Millis, Offered, Sighting};

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
