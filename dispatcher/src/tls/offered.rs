//! What a ClientHello offers to resume.

use crate::pack::{Pack, Packer, Unpacker, Unreadable};
use arrayvec::ArrayVec;
use lb::{Identity, IdentityKind, Lookup, Offered};
use ssl_parse::{AfterHello, ClientHello};

/// PSK identities looked at in one hello. Clients send one or two; those beyond are not followed.
pub const MAX_PSKS: usize = 6;

pub(super) type Psks = ArrayVec<Identity, MAX_PSKS>;

/// The PSK identities of a hello, up to the first that is none: the server names one by its place. Before TLS 1.3 no server looks at
/// them.
pub(super) fn psks_of(hello: &ClientHello<'_>) -> Psks {
    psks_by(hello, Identity::new).collect()
}

fn psks_by(
    hello: &ClientHello<'_>,
    identify: impl Fn(&Offered<'_>) -> Option<Identity>,
) -> impl Iterator<Item = Identity> {
    let offers_1_3 = hello.offers_1_3();
    let of = move |bytes| identify(&Offered { kind: IdentityKind::Psk, bytes });
    hello.psk_identities().filter(move |_| offers_1_3).map_while(move |p| of(p.identity)).take(MAX_PSKS)
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
        offer.read(hello, Identity::new);
        offer
    }

    /// The same, in its place: what was here is forgotten.
    ///
    /// By `identify` an identity is digested or not, see [`lb::Affinity::identify`]. A ticket beside a session ID always is: only its digest tells
    /// whether the ID is made of it.
    fn read(&mut self, hello: &ClientHello<'_>, identify: impl Fn(&Offered<'_>) -> Option<Identity>) {
        let OfferedSessions { identities, session_id, id_may_be_random, id_is_of_ticket, unsure, ech, len, after } =
            self;
        identities.clear();
        identities.extend(psks_by(hello, &identify));
        let ticket = Offered { kind: IdentityKind::Ticket, bytes: hello.ticket.unwrap_or_default() };
        let ticket = if hello.session_id.is_empty() { identify(&ticket) } else { Identity::new(&ticket) };
        let id = Identity::new(&Offered { kind: IdentityKind::SessionId, bytes: hello.session_id });
        // The key of a ticket's row is its SHA-256.
        *id_is_of_ticket = ticket.as_ref().is_some_and(|t| t.key().as_bytes() == hello.session_id);
        identities.extend(ticket.into_iter().chain(id));
        // None is longer than 32 bytes (RFC 5246 section 7.4.1.2); of one that is, so much.
        session_id.clear();
        _ = session_id.try_extend_from_slice(&hello.session_id[..hello.session_id.len().min(32)]);
        *id_may_be_random = hello.offers_1_3();
        *unsure = hello.is_ambiguous();
        *ech = hello.ech;
        *len = hello.consumed;
        *after = None;
    }

    /// What this hello offers, which was read from the beginning of `stream`: a second one behind it can be read too.
    fn at_head_of(stream: &[u8], hello: &ClientHello<'_>) -> OfferedSessions {
        let mut offer = OfferedSessions::default();
        offer.read_at_head_of(stream, hello, Identity::new);
        offer
    }

    /// The same, in its place: what was here is forgotten. Identities are digested where the tables ask for it, see [`lb::Affinity::identify`].
    pub fn read_at_head_of(
        &mut self,
        stream: &[u8],
        hello: &ClientHello<'_>,
        identify: impl Fn(&Offered<'_>) -> Option<Identity>,
    ) {
        self.read(hello, identify);
        // Of which only a part could be read.
        self.unsure |= self.len == 0;
        // Records in front of the hello's end. What stands behind it in the last one is part of the next message, unseen.
        let mut at = 0;
        while at < self.len
            && let Some(&[_, _, _, a, b]) = stream.get(at..).and_then(|rest| rest.first_chunk())
        {
            at += 5 + usize::from(u16::from_be_bytes([a, b]));
        }
        if at == self.len && hello.offers_1_3() && self.has(IdentityKind::Psk) {
            self.after = Some(AfterHello::new(hello));
        }
    }

    /// The same as another, in its place: of identities as many are copied as there are.
    pub(super) fn copy_from(&mut self, other: &OfferedSessions) {
        let OfferedSessions { identities, session_id, id_may_be_random, id_is_of_ticket, unsure, ech, len, after } =
            self;
        identities.clear();
        _ = identities.try_extend_from_slice(&other.identities);
        session_id.clone_from(&other.session_id);
        (*id_may_be_random, *id_is_of_ticket) = (other.id_may_be_random, other.id_is_of_ticket);
        (*unsure, *ech, *len, *after) = (other.unsure, other.ech, other.len, other.after);
    }

    /// Writes it.
    pub(super) fn pack(&self, to: &mut Packer) {
        let OfferedSessions { identities, session_id, id_may_be_random, id_is_of_ticket, unsure, ech, len, after } =
            self;
        identities.pack(to);
        to.block(session_id);
        (*id_may_be_random, *id_is_of_ticket).pack(to);
        (*unsure, *ech).pack(to);
        (*len as u64, *after).pack(to);
    }

    /// The inverse, in its place.
    pub(super) fn unpack(&mut self, from: &mut Unpacker<'_>) -> Result<(), Unreadable> {
        self.identities = Pack::unpack(from)?;
        from.block_into(&mut self.session_id)?;
        (self.id_may_be_random, self.id_is_of_ticket) = Pack::unpack(from)?;
        (self.unsure, self.ech) = Pack::unpack(from)?;
        let (len, after) = <(u64, Option<AfterHello>)>::unpack(from)?;
        // It lay in one buffer.
        self.len = u16::try_from(len).map_err(|_| Unreadable::Impossible("length of a hello"))?.into();
        self.after = after;
        Ok(())
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
    (OfferedSessions::at_head_of(stream, hello), keep_name.then(|| server_name(hello)).flatten())
}

/// A hello's server name, to be told.
pub fn server_name(hello: &ClientHello<'_>) -> Option<Box<str>> {
    hello.sni.map(name_text)
}

/// A name that a client has said, to be told.
pub fn name_text(name: &[u8]) -> Box<str> {
    String::from_utf8_lossy(&name[..name.len().min(255)]).into_owned().into_boxed_str()
}
