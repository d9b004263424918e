//! What a TLS handshake says about sessions: what the client offers to resume, and what the server makes of it.
//!
//! The engine and the replay of recorded connections both read handshakes through this file, so that what is learned
//! from a capture is what would have been learned live.
//!
//! | what is seen | what it means |
//! |---|---|
//! | ServerHello of TLS 1.3 with `pre_shared_key` | the server opens that identity |
//! | ServerHello of TLS 1.3 without | it opens none of those offered |
//! | the same after a HelloRetryRequest | the same, of the second hello; nothing if that was not read |
//! | ServerHello up to TLS 1.2 that repeats the client's session ID, no ticket beside it | resumed by the ID |
//! | the same beside a ticket | resumed by the ticket if the ID is the ticket's digest; else by one of the two, nobody knows which |
//! | any other ID | not resumed |
//! | then its ChangeCipherSpec, unless a ticket was announced | a new session by that ID: the client has finished |
//! | NewSessionTicket up to TLS 1.2 | a new session by that ticket |
//!
//! Junk never gets through: the ID that a TLS 1.3 server echoes, the ID that a client invents beside its ticket in order
//! to see it echoed, and the random ID of a client that offers TLS 1.3 to an older server.
//!
//! **What a client could have arranged is not learned.** A client chooses both hellos, and what stands beside what in them: an
//! invention must never be credited with what something else achieved. OpenSSL and BoringSSL derive the ID beside a ticket from the
//! ticket (SHA-256); a server that has that ID in its cache cannot have chosen it, since nobody finds a ticket to a given digest. GnuTLS,
//! Go, Java and NSS invent it: their tickets are known from their issue.

use crate::pack::{Pack, Packer, Unpacker, Unreadable, pack_follower, unpack_follower};

use super::offered::{OfferedSessions, Psks, psks_of};
use lb::{Affinity, Identity, IdentityKind, Offered, Sighting, TicketDigest};
use ssl_parse::{ClientHello, Event, Follower, HandshakeType, ServerHello, Side};

/// Largest message of a server that is held whole, bytes: a ServerHello with a post-quantum share has 1.2 kB. Longer tickets
/// are digested as they pass.
pub const MESSAGE_BYTES: usize = 2048;

/// Largest second hello of a client that is read, bytes.
pub const SECOND_HELLO_BYTES: usize = 4096;

/// Follows a server's first flight in passing, and tells the affinity table what it shows.
///
/// A few kilobytes, and nothing more however long the handshake.
#[derive(Debug)]
pub struct ServerFlight {
    offer: OfferedSessions,
    /// The table knew the offer's session ID: it is no random one.
    id_known: bool,
    follower: Follower<MESSAGE_BYTES>,
    long_ticket: Option<TicketDigest>,
    /// The ID the server chose. A session by that ID begins once the client has finished its part: a client that goes away
    /// before, as one does that only invents hellos, must not make rows.
    new_id: Option<Identity>,
    /// The client's stream behind its first hello,
    client: Follower<SECOND_HELLO_BYTES>,
    /// as long as a second one may come.
    reads_client: bool,
    retry: Retry,
    /// The server may have got another hello than the one that was read.
    distrusted: bool,
    /// Up to TLS 1.2: a ticket was offered without an ID to be echoed, so only the end of the flight tells.
    undecided: bool,
    version: Option<u16>,
    resumed: Option<bool>,
}

/// What is known of a client's second hello.
#[expect(clippy::large_enum_variant, reason = "it lies in a pool that is allocated at start")]
#[derive(Debug)]
enum Retry {
    /// None was asked for.
    No,
    /// The server has sent a HelloRetryRequest.
    Asked,
    /// And this is what the second hello offers.
    Answered(Psks),
    /// What the second hello offers cannot be said.
    Unclear,
}

impl ServerFlight {
    /// For a server that is about to answer this offer. `id_known`: a row for its session ID decided.
    pub fn new(offer: OfferedSessions, id_known: bool) -> ServerFlight {
        let mut flight = ServerFlight {
            offer: OfferedSessions::default(),
            id_known: false,
            follower: Follower::new(Side::Server),
            long_ticket: None,
            new_id: None,
            client: Follower::new(Side::Client),
            reads_client: false,
            retry: Retry::No,
            distrusted: false,
            undecided: false,
            version: None,
            resumed: None,
        };
        flight.restart(&offer, id_known);
        flight
    }

    /// Begins anew, as [`ServerFlight::new`]: in its place, where its buffers are left as they lie. They are nearly all of it.
    pub fn restart(&mut self, offer: &OfferedSessions, id_known: bool) {
        // All of them by name, so that none is forgotten.
        let ServerFlight {
            offer: its_offer,
            id_known: its_id_known,
            follower,
            long_ticket,
            new_id,
            client,
            reads_client,
            retry,
            distrusted,
            undecided,
            version,
            resumed,
        } = self;
        follower.restart(Side::Server);
        *reads_client = offer.after.is_some();
        if let Some(after) = offer.after {
            client.restart_behind(after);
        }
        its_offer.copy_from(offer);
        *its_id_known = id_known;
        (*long_ticket, *new_id, *retry) = (None, None, Retry::No);
        (*distrusted, *undecided, *version, *resumed) = (false, false, None, None);
    }

    /// Writes it: all of it that is looked at again.
    pub fn pack(&self, to: &mut Packer) {
        let ServerFlight {
            offer,
            id_known,
            follower,
            long_ticket,
            new_id,
            client,
            reads_client,
            retry,
            distrusted,
            undecided,
            version,
            resumed,
        } = self;
        offer.pack(to);
        pack_follower(follower, to);
        long_ticket.pack(to);
        (*id_known, *new_id).pack(to);
        reads_client.pack(to);
        if *reads_client {
            pack_follower(client, to);
        }
        match retry {
            Retry::No => 0u8.pack(to),
            Retry::Asked => 1u8.pack(to),
            Retry::Answered(psks) => {
                2u8.pack(to);
                psks.pack(to);
            }
            Retry::Unclear => 3u8.pack(to),
        }
        (*distrusted, *undecided).pack(to);
        (*version, *resumed).pack(to);
    }

    /// The inverse, in its place. When it cannot be read, what is here is to begin anew.
    pub fn unpack(&mut self, from: &mut Unpacker<'_>) -> Result<(), Unreadable> {
        self.offer.unpack(from)?;
        unpack_follower(&mut self.follower, from)?;
        self.long_ticket = Pack::unpack(from)?;
        (self.id_known, self.new_id) = Pack::unpack(from)?;
        self.reads_client = bool::unpack(from)?;
        if self.reads_client {
            unpack_follower(&mut self.client, from)?;
        }
        self.retry = match u8::unpack(from)? {
            0 => Retry::No,
            1 => Retry::Asked,
            2 => Retry::Answered(Pack::unpack(from)?),
            3 => Retry::Unclear,
            _ => return Err(Unreadable::Impossible("Retry")),
        };
        (self.distrusted, self.undecided) = Pack::unpack(from)?;
        (self.version, self.resumed) = Pack::unpack(from)?;
        let sides = (self.follower.side(), self.reads_client.then(|| self.client.side()));
        if !matches!(sides, (Side::Server, None | Some(Side::Client))) {
            return Err(Unreadable::Impossible("whose stream is read"));
        }
        Ok(())
    }

    /// What the client offered.
    pub fn offer(&self) -> &OfferedSessions {
        &self.offer
    }

    /// The version the server chose; none until its hello.
    pub fn version(&self) -> Option<u16> {
        self.version
    }

    /// Whether the session was resumed, as far as it shows.
    pub fn resumed(&self) -> Option<bool> {
        self.resumed
    }

    /// The client's stream is still of interest.
    pub fn reads_client(&self) -> bool {
        self.reads_client
    }

    /// The next bytes of the client's stream behind its first hello, in order, of which the server gets no others.
    pub fn feed_client(&mut self, mut bytes: &[u8]) {
        while self.reads_client {
            match self.client.next_event(&mut bytes) {
                // Early data, and a ChangeCipherSpec that means nothing, may stand before it.
                Some(Event::ChangeCipherSpec) => {}
                Some(Event::ClientHello(hello)) => {
                    self.retry = answered(&self.retry, &hello);
                    self.reads_client = false;
                }
                Some(_) => self.second_is_unclear(),
                None => {
                    self.reads_client = !self.client.is_done();
                    return;
                }
            }
        }
    }

    /// The client has sent this hello, its second. Not to be called beside [`ServerFlight::feed_client`].
    pub fn second_hello(&mut self, hello: &ClientHello<'_>) {
        self.retry = answered(&self.retry, hello);
    }

    /// The server may get another second hello than the one that is read here, or none can be read.
    pub fn second_is_unclear(&mut self) {
        self.reads_client = false;
        self.retry = Retry::Unclear;
    }

    /// The server may have got another first hello than the one that was read: nothing is learned any more.
    pub fn distrust(&mut self) {
        self.distrusted = true;
        self.second_is_unclear();
    }

    /// The servers hold ECH keys: what they say of the identities in a hello with ECH is perhaps about the hidden one (RFC 9849
    /// section 7), whose client could have written any others into this one.
    pub fn servers_have_ech(&mut self) {
        self.offer.unsure |= self.offer.ech;
    }

    /// The next bytes of the server's stream, in order. False when there is nothing more to learn.
    pub fn feed(&mut self, mut bytes: &[u8], affinity: &mut Affinity, seen: Sighting) -> bool {
        let ServerFlight { offer, id_known, follower, long_ticket, new_id, retry, undecided, version, resumed, .. } =
            self;
        let sure = !self.distrusted && !offer.unsure;
        let trusted = !self.distrusted;
        loop {
            // What the event borrows ends with this block, so that the follower can be asked again.
            let ended = match follower.next_event(&mut bytes) {
                None => break,
                Some(Event::ServerHello(hello)) if hello.hello_retry => {
                    *retry = if matches!(retry, Retry::No) { Retry::Asked } else { Retry::Unclear };
                    *version = Some(hello.version.0);
                    false
                }
                Some(Event::ServerHello(hello)) => {
                    *version = Some(hello.version.0);
                    if hello.version.is_1_3_or_later() {
                        *resumed = Some(hello.psk_selected.is_some());
                        match retry {
                            Retry::No if sure => learn_1_3(offer.of(IdentityKind::Psk), &hello, affinity, seen),
                            Retry::Answered(psks) if sure => learn_1_3(psks.iter(), &hello, affinity, seen),
                            // The client said some of its hello again before the server had it, as on a busy machine or a bad link. That it
                            // was refused counts all the same: whoever wants a refusal has one by garbage behind a key's name.
                            _ if !trusted && !offer.unsure && hello.psk_selected.is_none() => {
                                learn_1_3(offer.of(IdentityKind::Psk), &hello, affinity, seen);
                            }
                            _ => {}
                        }
                    } else {
                        (*resumed, *undecided) = learn_1_2(offer, *id_known, &hello, affinity, seen, sure);
                        *new_id = chosen_id(offer, &hello).filter(|_| !*undecided);
                    }
                    false
                }
                Some(Event::NewSessionTicket(ticket)) => {
                    let offered = Offered { kind: IdentityKind::Ticket, bytes: ticket.ticket };
                    if let Some(identity) = Identity::new(&offered).filter(|_| trusted) {
                        affinity.issued(&identity, seen);
                    }
                    false
                }
                Some(Event::LongTicketStart { .. }) => {
                    *long_ticket = Some(TicketDigest::default());
                    false
                }
                Some(Event::LongTicketBytes(b)) => {
                    if let Some(digest) = long_ticket {
                        digest.update(b);
                    }
                    false
                }
                Some(Event::LongTicketEnd) => {
                    if let Some(identity) = long_ticket.take().and_then(TicketDigest::finish).filter(|_| trusted) {
                        affinity.issued(&identity, seen);
                    }
                    false
                }
                Some(Event::Handshake { kind: HandshakeType::CERTIFICATE, .. }) => *undecided,
                Some(Event::Encrypted) => {
                    if let Some(identity) = new_id.take().filter(|_| trusted) {
                        affinity.issued(&identity, seen);
                    }
                    true
                }
                Some(_) => false,
            };
            if ended && *undecided {
                *undecided = false;
                if let Some(it_did) = follower.resumed() {
                    *resumed = Some(it_did);
                    offer.of(IdentityKind::Ticket).filter(|_| sure).for_each(|i| note(affinity, i, it_did, seen));
                }
            }
        }
        !follower.is_done()
    }
}

/// What is known when a client has sent its second hello.
fn answered(before: &Retry, hello: &ClientHello<'_>) -> Retry {
    match before {
        Retry::Asked if !hello.is_ambiguous() => Retry::Answered(psks_of(hello)),
        // Unasked, or a third.
        _ => Retry::Unclear,
    }
}

fn note(affinity: &mut Affinity, identity: &Identity, accepted: bool, seen: Sighting) {
    if accepted {
        affinity.accepted(identity, seen);
    } else {
        affinity.refused(identity, seen);
    }
}

fn learn_1_3<'i>(
    mut psks: impl Iterator<Item = &'i Identity>,
    hello: &ServerHello<'_>,
    affinity: &mut Affinity,
    seen: Sighting,
) {
    match hello.psk_selected {
        Some(i) => {
            if let Some(identity) = psks.nth(usize::from(i)) {
                affinity.accepted(identity, seen);
            }
        }
        None => psks.for_each(|identity| affinity.refused(identity, seen)),
    }
}

/// Returns whether it was resumed, and whether that cannot be said yet.
fn learn_1_2(
    offer: &OfferedSessions,
    id_known: bool,
    hello: &ServerHello<'_>,
    affinity: &mut Affinity,
    seen: Sighting,
    sure: bool,
) -> (Option<bool>, bool) {
    let echoed = !hello.session_id.is_empty() && hello.session_id == offer.session_id.as_slice();
    if let Some(ticket) = offer.of(IdentityKind::Ticket).next() {
        if offer.session_id.is_empty() {
            // RFC 5077 (section 3.4) lets a client offer a ticket without an ID.
            return (None, true);
        }
        match echoed {
            _ if !sure => {}
            // By the ID, perhaps, and the ticket is an invention.
            true if !offer.id_is_of_ticket => affinity.resumed_unclear(IdentityKind::Ticket, seen),
            _ => note(affinity, ticket, echoed, seen),
        }
    } else if let Some(id) = offer.of(IdentityKind::SessionId).next()
        && sure
        && (echoed || id_known || offer.id_is_meant())
    {
        note(affinity, id, echoed, seen);
    }
    (Some(echoed), false)
}

/// The ID of the session that begins with this hello of TLS <= 1.2, if one does. A server that announces a ticket will be
/// asked for that; the ID it chose beside it is never offered alone.
fn chosen_id(offer: &OfferedSessions, hello: &ServerHello<'_>) -> Option<Identity> {
    let echoed = hello.session_id == offer.session_id.as_slice();
    let issued = Offered { kind: IdentityKind::SessionId, bytes: hello.session_id };
    (!echoed && !hello.ticket_ext).then(|| Identity::new(&issued)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb::{BackendId, Config, Millis};

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind, 3, 3][..], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    /// Whatever it has read before: a hello, a HelloRetryRequest, half a message, garbage.
    #[test]
    fn one_that_begins_anew_knows_nothing_of_what_was_before() {
        let mut affinity = Affinity::single(Config::new(1));
        let seen = Sighting { backend: BackendId(0), client: 1, now: Millis(0) };
        let hello = |random: [u8; 32]| {
            let body = [&[3, 3][..], &random, &[32], &[7; 32], &[0x13, 1, 0, 0, 6, 0, 43, 0, 2, 3, 4]].concat();
            record(22, &[&[2, 0, 0, body.len() as u8][..], &body].concat())
        };
        let retry = ssl_parse::HELLO_RETRY_RANDOM;
        let buffers = |flight: &ServerFlight| {
            // All that is known of it, but for what lies in buffers that nobody looks into.
            let all = format!("{flight:?}");
            let mut parts = all.split("body: [").map(|part| part.split_once(']').map_or(part, |(_, rest)| rest));
            parts.next().into_iter().chain(parts).collect::<String>()
        };
        let new = buffers(&ServerFlight::new(OfferedSessions::default(), true));
        for before in [hello([9; 32]), hello(retry), hello([9; 32])[..40].to_vec(), b"SSH-2.0".to_vec()] {
            let mut flight = ServerFlight::new(OfferedSessions::default(), false);
            flight.feed(&before, &mut affinity, seen);
            flight.servers_have_ech();
            flight.distrust();
            assert_ne!(buffers(&flight), new);
            flight.restart(&OfferedSessions::default(), true);
            assert_eq!(buffers(&flight), new);
        }
    }

    #[test]
    fn an_id_becomes_a_row_when_its_handshake_ends_and_not_before() {
        let mut affinity = Affinity::single(Config::new(1));
        let seen = Sighting { backend: BackendId(0), client: 1, now: Millis(0) };
        let rows = |affinity: &Affinity| affinity.census(Millis(0)).session_ids;
        let hello = [&[3, 3][..], &[9; 32], &[32], &[7; 32], &[0xc0, 0x2f, 0, 0, 0]].concat();
        let hello = record(22, &[&[2, 0, 0, hello.len() as u8][..], &hello].concat());
        // A client that only invents hellos sees this much.
        let mut flight = ServerFlight::new(OfferedSessions::default(), false);
        assert!(flight.feed(&[hello.clone(), record(22, &[14, 0, 0, 0])].concat(), &mut affinity, seen));
        assert_eq!((flight.resumed(), rows(&affinity)), (Some(false), 0));
        // And this is what comes when it answers.
        assert!(!flight.feed(&record(20, &[1]), &mut affinity, seen));
        assert_eq!(rows(&affinity), 1);
    }
}
