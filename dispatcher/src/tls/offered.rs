//! What a ClientHello offers to resume.

use arrayvec::ArrayVec;
use lb::{Identity, IdentityKind, Lookup, Offered};
use ssl_parse::{AfterHello, ClientHello};

/// PSK identities looked at in one hello. Clients send one or two; those beyond are not followed.
pub const MAX_PSKS: usize = 6;

pub(super) type Psks = ArrayVec<Identity, MAX_PSKS>;

/// The PSK identities of a hello, up to the first that is none: the server names one by its place. Before TLS 1.3 no server looks at
/// them.
pub(super) fn psks_of(hello: &ClientHello<'_>) -> Psks {
    let of = |bytes| Identity::new(&Offered { kind: IdentityKind::Psk, bytes });
    hello.psk_identities().filter(|_| hello.offers_1_3()).map_while(|p| of(p.identity)).take(MAX_PSKS).collect()
}

/// What a ClientHello offers to resume, in bounded form.
#[derive(Clone, Debug, Default)]
pub struct OfferedSessions {
    /// PSK identities in order, then the ticket, then the session ID.
    identities: ArrayVec<Identity, { MAX_PSKS + 2 }>,
    pub(super) session_id: ArrayVec<u8, 32>,
    /// The session ID may be the random one that every TLS 1.3 client sends.
    id_may_be_random: bool,
    /// The session ID is the digest of the ticket beside it.
    pub(super) id_is_of_ticket: bool,
    /// What the server reads in the hello may be something else.
    pub(super) unsure: bool,
    /// It has ECH: to a server that holds the keys another hello is meant, hidden in it, with identities of its own.
    pub(super) ech: bool,
    /// Bytes of the hello on the wire.
    len: usize,
    /// To follow the client's stream from there on, when a second hello may come that matters.
    pub(super) after: Option<AfterHello>,
}

impl OfferedSessions {
    /// What this hello offers.
    pub fn new(hello: &ClientHello<'_>) -> OfferedSessions {
        let mut offer = OfferedSessions::default();
        offer.identities.extend(psks_of(hello));
        let rest =
            [(IdentityKind::Ticket, hello.ticket.unwrap_or_default()), (IdentityKind::SessionId, hello.session_id)];
        let found = rest.into_iter().filter_map(|(kind, bytes)| Identity::new(&Offered { kind, bytes }));
        offer.identities.extend(found);
        // None is longer than 32 bytes (RFC 5246 section 7.4.1.2); of one that is, so much.
        _ = offer.session_id.try_extend_from_slice(&hello.session_id[..hello.session_id.len().min(32)]);
        offer.id_may_be_random = hello.offers_1_3();
        offer.unsure = hello.is_ambiguous();
        offer.ech = hello.ech;
        offer.len = hello.consumed;
        // The key of a ticket's row is its SHA-256.
        let ticket = offer.of(IdentityKind::Ticket).next();
        offer.id_is_of_ticket = ticket.is_some_and(|t| t.key().as_bytes() == offer.session_id.as_slice());
        offer
    }

    /// What this hello offers, which was read from the beginning of `stream`: a second one behind it can be read too.
    pub fn at_head_of(stream: &[u8], hello: &ClientHello<'_>) -> OfferedSessions {
        let mut offer = OfferedSessions::new(hello);
        // Of which only a part could be read.
        offer.unsure |= offer.len == 0;
        // Records in front of the hello's end. What stands behind it in the last one is part of the next message, unseen.
        let mut at = 0;
        while at < offer.len
            && let Some(&[_, _, _, a, b]) = stream.get(at..).and_then(|rest| rest.first_chunk())
        {
            at += 5 + usize::from(u16::from_be_bytes([a, b]));
        }
        if at == offer.len && hello.offers_1_3() && offer.has(IdentityKind::Psk) {
            offer.after = Some(AfterHello::new(hello));
        }
        offer
    }

    /// Bytes of the hello on the wire; 0 when it was not read from a stream.
    pub fn wire_len(&self) -> usize {
        self.len
    }

    /// All identities, as the affinity table wants them.
    pub fn identities(&self) -> &[Identity] {
        &self.identities
    }

    pub(super) fn of(&self, kind: IdentityKind) -> impl Iterator<Item = &Identity> {
        self.identities.iter().filter(move |i| i.kind() == kind)
    }

    fn has(&self, kind: IdentityKind) -> bool {
        self.of(kind).next().is_some()
    }

    /// A session ID that is certainly meant to resume: no ticket or PSK stands beside it, and no TLS 1.3 behind which it
    /// may be a random one.
    pub(super) fn id_is_meant(&self) -> bool {
        self.has(IdentityKind::SessionId)
            && !self.id_may_be_random
            && !self.has(IdentityKind::Psk)
            && !self.has(IdentityKind::Ticket)
    }

    /// What the connection counts as having offered. A session ID that may be random counts only once somebody knows it: the
    /// table, which decided by it (`id_decided`), or the server, which resumed by it.
    pub fn kinds(&self, id_decided: bool, version: Option<u16>, resumed: Option<bool>) -> ArrayVec<IdentityKind, 3> {
        let mut kinds = ArrayVec::new();
        for kind in [IdentityKind::Psk, IdentityKind::Ticket] {
            if self.has(kind) {
                kinds.push(kind);
            }
        }
        let resumed_by_id = resumed == Some(true) && version.is_some_and(|v| v <= 0x0303);
        if self.has(IdentityKind::SessionId) && kinds.is_empty() && (self.id_is_meant() || id_decided || resumed_by_id)
        {
            kinds.push(IdentityKind::SessionId);
        }
        kinds
    }

    /// The hello asks for something that no row knows. A client of this kind goes by its address.
    pub fn is_unknown(&self, found: &Lookup) -> bool {
        match found.kind {
            Some(IdentityKind::SessionId) => found.decision.is_none() && self.id_is_meant(),
            Some(_) => found.decision.is_none(),
            None => false,
        }
    }
}

/// Reads what a hello offers, from the beginning of `stream`, and its server name if somebody wants to know it.
pub fn read_offered(stream: &[u8], hello: &ClientHello<'_>, keep_name: bool) -> (OfferedSessions, Option<Box<str>>) {
    let name = hello.sni.filter(|_| keep_name);
    let name = name.map(|n| String::from_utf8_lossy(&n[..n.len().min(255)]).into_owned().into_boxed_str());
    (OfferedSessions::at_head_of(stream, hello), name)
}
