//! Replay of what was recorded, as it was recorded: the capture's own servers are the VIPs and the backends, and every
//! connection goes where the capture shows it going. The affinity table learns from it, in the order of the capture,
//! and is asked about every identity before its answer is known.
//!
//! | verdict | the table named | the recorded server |
//! |---|---|---|
//! | right | it | resumed |
//! | wrong | another | resumed |
//! | rescued | another | did not resume: affinity would have prevented this misrouting |
//! | stale | it | did not resume |
//! | unknown | nobody | |
//!
//! A connection that offers an identity which the table knows, and whose server was not recorded answering, is counted
//! as *unanswered*: nothing can be said of it.

use super::decode::{Transport, Undecoded};
use super::dialogue::{Began, Dialogue};
use super::fragments::Defragmenter;
use super::reassembly::{At, Connection, Handler, Limits, Tracker, Turn, Way};
use super::unread::Unread;
use super::warnings::NotFollowed;
use crate::capture::{Capture, CaptureError, Frames, RecordedFrame};
use crate::counters::ByReason;
use crate::engine::{Class, DropReason};
use crate::time::Time;
use crate::tls::{OfferedSessions, ServerFlight};
use lb::{Affinity, BackendId, Decision, IdentityKind, Key, Lookup, Millis, Reason, Sighting};
use ssl_parse::Event;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What became of a prediction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Prediction {
    /// The table named the recorded server, and it resumed.
    Right,
    /// The table named another, and the recorded one resumed.
    Wrong,
    /// The table named another, and the recorded one refused.
    Rescued,
    /// The table named the recorded server, and it refused.
    Stale,
    /// No row.
    Unknown,
    /// There was a row, and no answer.
    Unanswered,
}

impl Prediction {
    /// All, in the order of reports.
    pub const ALL: [Prediction; 6] = [
        Prediction::Right,
        Prediction::Wrong,
        Prediction::Rescued,
        Prediction::Stale,
        Prediction::Unknown,
        Prediction::Unanswered,
    ];

    /// The word of the JSON contract; `unanswered` is none there.
    pub const fn as_str(self) -> &'static str {
        match self {
            Prediction::Right => "right",
            Prediction::Wrong => "wrong",
            Prediction::Rescued => "rescued",
            Prediction::Stale => "stale",
            Prediction::Unknown => "unknown",
            Prediction::Unanswered => "unanswered",
        }
    }
}

/// Sizes of the affinity table and lifetimes of its rows.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Session rows.
    pub session_capacity: usize,
    /// Rows die this long after their last use.
    pub session_ttl: Duration,
    /// Learn and ask at all.
    pub affinity: bool,
}

/// One connection, told when it ends.
#[derive(Clone, Debug)]
pub struct RecordedConnection {
    /// Running number, from 1, in the order of first frames.
    pub conn: u64,
    /// Headers and sizes.
    pub connection: Connection,
    /// Secure or not.
    pub class: Class,
    /// The server the table named; of several that share keys the recorded one if it is among them.
    pub decided: Option<SocketAddr>,
    /// Why it did.
    pub reason: Option<Reason>,
    /// The row's key.
    pub key: Option<Key>,
    /// What the hello offered to resume.
    pub offered: Vec<IdentityKind>,
    /// None when nothing was offered.
    pub prediction: Option<Prediction>,
    /// Code point of the version the server chose.
    pub version: Option<u16>,
    /// Server name in the hello.
    pub sni: Option<String>,
    /// What the server's answer showed.
    pub resumed: Option<bool>,
    /// Why nothing, or not all, can be said of its session.
    pub not_followed: Option<NotFollowed>,
}

/// Hears of each connection as it ends, and of each frame on its way.
pub trait Listener {
    /// A connection has ended.
    fn connection(&mut self, record: &RecordedConnection) -> anyhow::Result<()>;
    /// A frame of a connection was passed on, with what there is to say about it; `progress` are the bytes of the file so far.
    fn frame(&mut self, frame: &RecordedFrame<'_>, note: Option<&str>, progress: usize) -> anyhow::Result<()>;
    /// A file of so many bytes is done.
    fn next_file(&mut self, _bytes: usize) {}
}

/// Connections at one server.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerCounts {
    /// All.
    pub connections: u64,
    /// Of these, TLS.
    pub secure: u64,
    /// Of these, resumed.
    pub resumed: u64,
    /// Of these, with a full handshake.
    pub full: u64,
}

/// What was counted over all captures.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Frames read.
    pub frames_in: u64,
    /// Frames that belong to a connection.
    pub frames_out: u64,
    /// The others, by [`DropReason`].
    pub drops: ByReason,
    /// TCP connections.
    pub connections: u64,
    /// Of these, beginning with a ClientHello.
    pub secure: u64,
    /// Offering an identity.
    pub offered: u64,
    /// Resumed.
    pub resumed: u64,
    /// Recorded without a hole, from the first byte to the last.
    pub intact: u64,
    /// By [`Prediction`].
    pub predictions: [u64; 6],
    /// By [`IdentityKind`], then [`Prediction`].
    pub by_kind: [[u64; 6]; IdentityKind::ALL.len()],
    /// In the order of their first connections.
    pub servers: Vec<(SocketAddr, ServerCounts)>,
    /// Connections to servers beyond what the table can tell apart: not followed.
    pub beyond: u64,
    /// What of the captures was read, and what was not.
    pub unread: Unread,
    /// Connections whose sessions could not be followed, by [`NotFollowed`].
    pub not_followed: [u64; NotFollowed::ALL.len()],
    /// The first of them.
    pub examples: Vec<(SocketAddr, SocketAddr, NotFollowed)>,
}

/// Replays captures, one after the other, against one affinity table.
pub struct Replay<'l> {
    tracker: Tracker<Learner<'l>>,
    fragments: Defragmenter,
    first_nanos: Option<u64>,
    latest: Time,
}

struct Learner<'l> {
    affinity: Affinity,
    enabled: bool,
    servers: Vec<SocketAddr>,
    ids: HashMap<SocketAddr, BackendId>,
    totals: Totals,
    listener: &'l mut dyn Listener,
    /// What there is to say about the frame under way.
    note: Option<String>,
    /// The first thing that went wrong while telling the listener.
    failed: Option<anyhow::Error>,
}

struct State {
    conn: u64,
    /// Everything that is only needed while the connection lives.
    live: Option<Box<Live>>,
}

struct Live {
    /// Bytes that the client sent before its hello was whole.
    said: usize,
    dialogue: Dialogue,
    /// From the ClientHello on.
    hello: Option<Box<Hello>>,
}

struct Hello {
    backend: Option<BackendId>,
    sni: Option<String>,
    found: Lookup,
    answer: Answer,
    /// Longer than the dispatcher reads.
    long: bool,
    /// Bytes of the answer were not recorded while it was being read.
    hole: bool,
}

/// What the server makes of the hello.
enum Answer {
    /// Still being read. A few kilobytes, so it is not kept longer than that.
    Reading(Box<ServerFlight>),
    /// All that can be known.
    Known { offered: Vec<IdentityKind>, version: Option<u16>, resumed: Option<bool> },
}

impl Hello {
    fn reading(&self) -> bool {
        matches!(self.answer, Answer::Reading(_))
    }

    /// Nothing more will be read.
    fn settle(&mut self) {
        if let Answer::Reading(watch) = &self.answer {
            let (version, resumed) = (watch.version(), watch.resumed());
            let decision = self.found.decision.as_ref();
            let by_id = decision.is_some_and(|d| d.reason.kind() == IdentityKind::SessionId);
            let offered = watch.offer().kinds(by_id, version, resumed).to_vec();
            self.answer = Answer::Known { offered, version, resumed };
        }
    }
}

impl<'l> Replay<'l> {
    /// Nothing learned yet.
    pub fn new(tuning: Tuning, listener: &'l mut dyn Listener) -> Replay<'l> {
        let mut config = lb::Config::new(lb::MAX_BACKENDS);
        config.session_capacity = tuning.session_capacity;
        config = config.lives(tuning.session_ttl);
        let learner = Learner {
            affinity: Affinity::single(config),
            enabled: tuning.affinity,
            servers: Vec::new(),
            ids: HashMap::new(),
            totals: Totals::default(),
            listener,
            note: None,
            failed: None,
        };
        Replay {
            tracker: Tracker::new(learner, Limits::default()),
            fragments: Defragmenter::default(),
            first_nanos: None,
            latest: Time::ZERO,
        }
    }

    /// Everything in a capture, as far as it can be read: an error of the capture's is returned as the inner result.
    pub fn capture(&mut self, capture: &Capture) -> anyhow::Result<Result<(), CaptureError>> {
        let mut frames = match capture.frames() {
            Ok(frames) => frames,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            match frames.next() {
                None => return Ok(Ok(())),
                Some(Err(error)) => return Ok(Err(error)),
                Some(Ok(frame)) => self.frame(&frame, &frames)?,
            }
        }
    }

    fn frame(&mut self, frame: &RecordedFrame<'_>, frames: &Frames<'_>) -> anyhow::Result<()> {
        // Time runs on from file to file, and never backwards.
        let first = *self.first_nanos.get_or_insert(frame.unix_nanos);
        self.latest = self.latest.max(Time::from_nanos(frame.unix_nanos.saturating_sub(first)));
        let at = At { frame: frame.number, time: self.latest, unix_nanos: frame.unix_nanos };
        let totals = &mut self.tracker.handler.totals;
        totals.frames_in += 1;
        let mut joined = Vec::new();
        let packet = self.fragments.decode(frame, &mut joined);
        match &packet {
            Ok(_) => totals.unread.taken(),
            Err(why) => totals.unread.not_taken(*why),
        }
        let dropped = match packet {
            Ok(packet) => match &packet.transport {
                Transport::Tcp(segment) => {
                    totals.frames_out += 1;
                    self.tracker.segment(&packet, segment, at);
                    None
                }
                Transport::Udp { .. } => Some(DropReason::NotForUs),
            },
            Err(Undecoded::Fragment) => Some(DropReason::IpFragment),
            Err(Undecoded::Truncated) => Some(DropReason::Truncated),
            Err(Undecoded::Malformed) => Some(DropReason::Malformed),
            Err(Undecoded::NotIp(_) | Undecoded::OtherProtocol(_) | Undecoded::LinkType(_)) => {
                Some(DropReason::NotForUs)
            }
        };
        let learner = &mut self.tracker.handler;
        match dropped {
            Some(reason) => learner.totals.drops[reason as usize] += 1,
            None => learner.listener.frame(frame, learner.note.take().as_deref(), frames.position())?,
        }
        learner.failed.take().map_or(Ok(()), Err)
    }

    /// A file of so many bytes is done; for the listener.
    pub fn next_file(&mut self, bytes: usize) {
        self.tracker.handler.totals.unread.end_of_file();
        self.tracker.handler.listener.next_file(bytes);
    }

    /// Ends what is still open, and tells the counts and what the table holds.
    pub fn finish(mut self) -> anyhow::Result<(Totals, lb::affinity::Census)> {
        self.tracker.finish();
        let learner = self.tracker.handler;
        if let Some(error) = learner.failed {
            return Err(error);
        }
        let census = learner.affinity.census(millis(self.latest));
        Ok((learner.totals, census))
    }
}

/// Who a client is, as live: an IPv4 address or an IPv6 /64, in its /24 or /48.
fn identity_of(client: IpAddr) -> u64 {
    let hash = |bytes: &[u8]| {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        hasher.finish() as u32
    };
    match client {
        IpAddr::V4(ip) => lb::affinity::client(hash(&ip.octets()[..3]), hash(&ip.octets())),
        IpAddr::V6(ip) => lb::affinity::client(hash(&ip.octets()[..6]), hash(&ip.octets()[..8])),
    }
}

fn millis(time: Time) -> Millis {
    Millis(time.as_millis())
}

impl Handler for Learner<'_> {
    type State = State;

    fn opened(&mut self, _: &Connection) -> State {
        self.totals.connections += 1;
        State {
            conn: self.totals.connections,
            live: Some(Box::new(Live { said: 0, dialogue: Dialogue::new(), hello: None })),
        }
    }

    fn wants(&self, state: &State, way: Way) -> bool {
        match &state.live {
            None => false,
            Some(live) => match &live.hello {
                Some(hello) => hello.reading() && (way == Way::ToClient || live.dialogue.wants(way)),
                None => live.dialogue.wants(way),
            },
        }
    }

    fn data(&mut self, connection: &mut Connection, state: &mut State, way: Way, bytes: &[u8], at: At) -> Turn {
        let Some(live) = &mut state.live else { return Turn::Keep };
        let Live { dialogue, hello, .. } = live.as_mut();
        if let Some(hello) = hello {
            match (way, &mut hello.answer) {
                // A second hello, after a HelloRetryRequest.
                (Way::ToServer, Answer::Reading(watch)) => {
                    dialogue.data(connection, way, bytes, &mut |_, event| {
                        if let Event::ClientHello(hello) = event {
                            watch.second_hello(hello);
                        }
                    });
                }
                _ => self.answer(connection, hello, way, bytes, at),
            }
            return Turn::Keep;
        }
        let before = live.said;
        if way == Way::ToServer {
            live.said += bytes.len();
        }
        let mut found = None;
        let began_late = connection.began_late;
        let server_of = |way| if way == Way::ToServer { connection.server } else { connection.client };
        let recorded = server_of(way);
        let turn = live.dialogue.data(connection, way, bytes, &mut |_, event| {
            if let Event::ClientHello(hello) = event
                && found.is_none()
            {
                let sni = hello.sni.map(|name| String::from_utf8_lossy(name).into_owned());
                found = Some((OfferedSessions::new(hello), sni));
            }
        });
        if let Some((offer, sni)) = found {
            debug_assert!(began_late || turn == Turn::Keep);
            let mut hello = self.ask(state.conn, recorded, offer, sni, at);
            // As long before the segment that completed it.
            hello.long = before > crate::engine::Limits::default().hello_bytes;
            live.hello = Some(Box::new(hello));
        }
        turn
    }

    fn gap(&mut self, _: &mut Connection, state: &mut State, way: Way, _: u64, _: At) {
        let Some(live) = &mut state.live else { return };
        match &mut live.hello {
            Some(hello) if way == Way::ToClient => {
                hello.hole |= hello.reading();
                hello.settle();
            }
            Some(hello) => {
                live.dialogue.gap(way);
                if let Answer::Reading(watch) = &mut hello.answer {
                    watch.second_is_unclear();
                }
            }
            None => live.dialogue.gap(way),
        }
    }

    fn ended(&mut self, connection: &Connection, state: &mut State) {
        let Some(mut live) = state.live.take() else { return };
        live.dialogue.ended(connection);
        let record = self.record(state.conn, connection, *live);
        self.count(&record);
        if self.failed.is_none()
            && let Err(error) = self.listener.connection(&record)
        {
            self.failed = Some(error);
        }
    }
}

impl Learner<'_> {
    fn backend(&mut self, server: SocketAddr) -> Option<BackendId> {
        if let Some(&id) = self.ids.get(&server) {
            return Some(id);
        }
        if self.servers.len() >= lb::MAX_BACKENDS {
            return None;
        }
        let id = BackendId(self.servers.len() as u16);
        self.servers.push(server);
        self.ids.insert(server, id);
        Some(id)
    }

    /// The hello is complete: what does the table say, before the answer is known?
    fn ask(&mut self, conn: u64, server: SocketAddr, offer: OfferedSessions, sni: Option<String>, at: At) -> Hello {
        let backend = self.backend(server);
        let found = if self.enabled {
            // As live: a VIP's backends are those of its address family.
            let servers = &self.servers;
            let may = |b: BackendId| servers.get(b.index()).is_some_and(|s| s.is_ipv4() == server.is_ipv4());
            self.affinity.lookup(offer.identities(), millis(at.time), may)
        } else {
            Lookup::default()
        };
        match backend {
            Some(id) => self.affinity.chosen(&found, id),
            None => self.totals.beyond += 1,
        }
        if let Some(Decision { backends, reason, key, .. }) = &found.decision {
            let names: Vec<String> =
                backends.iter().filter_map(|b| self.servers.get(b.index())).map(SocketAddr::to_string).collect();
            self.note = Some(format!("connection {conn}: {reason} {key} leads to {}", names.join(" or ")));
        } else if !offer.identities().is_empty() {
            self.note = Some(format!("connection {conn}: no row knows what it offers"));
        }
        let id_known = found.decision.as_ref().is_some_and(|d| d.reason == Reason::SessionId);
        Hello {
            backend,
            sni,
            found,
            answer: Answer::Reading(Box::new(ServerFlight::new(offer, id_known))),
            long: false,
            hole: false,
        }
    }

    fn answer(&mut self, connection: &Connection, hello: &mut Hello, way: Way, bytes: &[u8], at: At) {
        let (Way::ToClient, Some(backend), Answer::Reading(watch)) = (way, hello.backend, &mut hello.answer) else {
            return;
        };
        let seen = Sighting { backend, client: identity_of(connection.client.ip()), now: millis(at.time) };
        let before = watch.resumed();
        let more = watch.feed(bytes, &mut self.affinity, seen);
        if before.is_none()
            && let Some(resumed) = watch.resumed()
        {
            self.note = Some(format!("{} {}", connection.server, if resumed { "resumed" } else { "did not resume" }));
        }
        if !more {
            hello.settle();
        }
    }

    fn record(&self, conn: u64, connection: &Connection, live: Live) -> RecordedConnection {
        let secure = live.hello.is_some() || live.dialogue.began() == Began::Tls;
        let mut record = RecordedConnection {
            conn,
            connection: connection.clone(),
            class: if secure { Class::Secure } else { Class::NonSecure },
            decided: None,
            reason: None,
            key: None,
            offered: Vec::new(),
            prediction: None,
            version: None,
            sni: None,
            resumed: None,
            not_followed: None,
        };
        let Some(mut hello) = live.hello else {
            record.not_followed = match live.dialogue.began() {
                _ if connection.began_late => Some(NotFollowed::BeganLate),
                Began::Missed => Some(NotFollowed::HelloHole),
                Began::Unknown if connection.lost[Way::ToServer.index()] > 0 => Some(NotFollowed::HelloHole),
                Began::Tls => Some(NotFollowed::HelloUnread),
                Began::Unknown | Began::NotTls => None,
            };
            return record;
        };
        // A tail that is missing is no hole that anything came behind.
        hello.hole |= hello.reading() && connection.lost[Way::ToClient.index()] > 0;
        hello.settle();
        record.not_followed = if hello.long {
            Some(NotFollowed::HelloLong)
        } else if hello.backend.is_none() {
            Some(NotFollowed::Beyond)
        } else {
            hello.hole.then_some(NotFollowed::AnswerHole)
        };
        if let Answer::Known { offered, version, resumed } = hello.answer {
            (record.offered, record.version, record.resumed) = (offered, version, resumed);
        }
        record.sni = hello.sni;
        let named = hello.found.decision.map(|Decision { backends, reason, key, .. }| {
            let it = hello.backend.is_some_and(|b| backends.contains(b));
            let decided = if it { hello.backend } else { backends.iter().next() };
            record.decided = decided.and_then(|b| self.servers.get(b.index())).copied();
            record.reason = Some(reason);
            record.key = Some(key);
            it
        });
        if !record.offered.is_empty() {
            record.prediction = Some(predict(named, record.resumed));
        }
        record
    }

    fn count(&mut self, record: &RecordedConnection) {
        let secure = record.class == Class::Secure;
        let totals = &mut self.totals;
        totals.secure += u64::from(secure);
        totals.resumed += u64::from(record.resumed == Some(true));
        totals.intact += u64::from(record.intact());
        if let Some(why) = record.not_followed {
            totals.not_followed[why as usize] += 1;
            if totals.examples.len() < super::warnings::EXAMPLES {
                totals.examples.push((record.connection.client, record.connection.server, why));
            }
        }
        if let Some(prediction) = record.prediction {
            totals.offered += 1;
            totals.predictions[prediction as usize] += 1;
            // The kind that weighs most: the first.
            let kind = record.reason.map(Reason::kind).or(record.offered.first().copied());
            if let Some(kind) = kind {
                totals.by_kind[kind as usize][prediction as usize] += 1;
            }
        }
        let server = record.connection.server;
        // As many as the table tells apart; a capture of a client's side may show any number.
        let place = totals.servers.iter().position(|(s, _)| *s == server);
        let place = match place {
            Some(place) => place,
            None if totals.servers.len() < lb::MAX_BACKENDS => {
                totals.servers.push((server, ServerCounts::default()));
                totals.servers.len() - 1
            }
            None => return,
        };
        let counts = &mut totals.servers[place].1;
        counts.connections += 1;
        counts.secure += u64::from(secure);
        counts.resumed += u64::from(record.resumed == Some(true));
        counts.full += u64::from(record.resumed == Some(false));
    }
}

/// `named`: whether the table named the recorded server, none when it named nobody; `resumed`: what that server did.
fn predict(named: Option<bool>, resumed: Option<bool>) -> Prediction {
    match (named, resumed) {
        (None, _) => Prediction::Unknown,
        (Some(_), None) => Prediction::Unanswered,
        (Some(true), Some(true)) => Prediction::Right,
        (Some(true), Some(false)) => Prediction::Stale,
        (Some(false), Some(true)) => Prediction::Wrong,
        (Some(false), Some(false)) => Prediction::Rescued,
    }
}

impl RecordedConnection {
    /// Every byte of both directions is in the capture.
    pub fn intact(&self) -> bool {
        self.connection.from_start == [true; 2] && self.connection.lost == [0; 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_five_words_mean_what_the_contract_says() {
        let of = |named, resumed| predict(named, resumed).as_str();
        assert_eq!(of(Some(true), Some(true)), "right");
        assert_eq!(of(Some(false), Some(true)), "wrong");
        assert_eq!(of(Some(false), Some(false)), "rescued");
        assert_eq!(of(Some(true), Some(false)), "stale");
        assert_eq!([of(None, Some(true)), of(None, Some(false)), of(None, None)], ["unknown"; 3]);
        assert_eq!([of(Some(true), None), of(Some(false), None)], ["unanswered"; 2]);
        assert_eq!(Prediction::ALL.map(|p| p as usize), [0, 1, 2, 3, 4, 5], "counters are indexed by it");
    }
}
