//! One connection through the dispatcher, in each of its states exactly what that state knows.
//!
//! There is no state before the cookie: a SYN leaves nothing behind. What every frame needs is apart from this, see [`Hot`].

use super::control::{Options, timestamps};
use super::hot::{Hot, Marks};
use super::record::Record;
use crate::backends::OUR_WSCALE;
use crate::flow::watches::WatchId;
use crate::flow::{Assembler, Oddities, Side};
use crate::http::RequestWalk;
use crate::path::NextHop;
use crate::time::Time;
use crate::tls::{FlightId, Late};
use crate::wire::Seq;
use crate::wire::options::Timestamps;
use arrayvec::ArrayVec;
use core::fmt;
use lb::BackendId;
use lb::admission::{ClassId, Cost, Ticket};
use ssl_parse::HelloWalk;

/// Backends tried for one connection at most.
pub const MAX_ATTEMPTS: usize = 8;

/// The client's stream as far as it is here: read from, held, and perhaps ours.
#[derive(Debug)]
pub struct Held {
    /// What has arrived, in order or not.
    pub stream: Assembler,
    /// Up to here we have acknowledged to the client: those bytes are ours to deliver.
    pub acked: Seq,
    /// Where the client's urgent pointer points, if a segment had one.
    pub urgent: Option<Seq>,
}

/// Its hello is not complete.
#[derive(Debug)]
pub struct Waiting {
    /// Who has said nothing by now, or too little to be a hello, is taken for a client that waits for the server to speak.
    pub silent_until: Time,
    /// Who has said half of a hello by now gets a backend's answer to that.
    pub complete_until: Time,
    /// When to acknowledge what is in order, so that a client whose window is full goes on.
    pub ack_at: Option<Time>,
    /// Segments since the last acknowledgement.
    pub unacked: u8,
    /// When its cookie came back.
    pub since: Time,
    /// A PROXY header is to come first.
    pub header_due: bool,
    /// How far the hello has been followed.
    pub walk: HelloWalk,
    /// The same of a request of plain HTTP/1, where it matters what is asked.
    pub request: Option<RequestWalk>,
}

/// What it asked admission for: see [`lb::admission::Request`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asks {
    /// Its class.
    pub class: ClassId,
    /// What it costs.
    pub cost: Cost,
    /// The backend that its session is on.
    pub own: Option<BackendId>,
}

/// It waits for room at a backend.
#[derive(Debug)]
pub struct Queued {
    /// Its place in the line.
    pub ticket: Ticket,
    /// Since when.
    pub since: Time,
    /// When to acknowledge what is in order.
    pub ack_at: Option<Time>,
    /// It keeps a large buffer.
    pub large: bool,
    /// When to ask whether it is still there.
    pub ask_at: Time,
    /// How often it was asked since it was last heard.
    pub asked: u8,
}

/// A backend is being dialled: the last one of those tried.
#[derive(Debug)]
pub struct Dialing {
    /// Bytes of the PROXY header in front of the client's stream.
    pub header: u16,
    /// The backend's next hop.
    pub hop: NextHop,
    /// SYNs sent to this backend, from the present port.
    pub syns: u8,
    /// How often it said that it still holds an older connection from our port.
    pub challenges: u8,
    /// When this backend was chosen.
    pub since: Time,
    /// When to send the next, or to give this backend up.
    pub retry_at: Time,
}

/// How far a connection has got that is not spliced yet.
#[derive(Debug)]
pub enum Stage {
    /// No backend is chosen.
    AwaitHello(Waiting),
    /// None has room.
    Queued(Queued),
    /// One has been sent a SYN.
    Dialing(Dialing),
}

/// Before the splice: the client's stream is held.
#[derive(Debug)]
pub struct Opening {
    /// The client's stream.
    pub held: Held,
    /// Backends tried, the present one last.
    pub tried: ArrayVec<BackendId, MAX_ATTEMPTS>,
    /// What admission was asked for, if it was.
    pub asks: Option<Asks>,
    /// How far it has got.
    pub stage: Stage,
}

/// Bytes that are ours to deliver to the backend: the PROXY header, and what we acknowledged to the client.
#[derive(Debug)]
pub struct Unacked {
    /// Where they are kept.
    pub stream: Assembler,
    /// Bytes of the PROXY header in front.
    pub header: u16,
    /// First byte not acknowledged by the backend.
    pub una: Seq,
    /// Behind the last byte that is ours.
    pub end: Seq,
    /// Where the client's urgent pointer points, if a segment had one.
    pub urgent: Option<Seq>,
    /// Largest payload with options that the backend takes.
    pub segment: u16,
    /// When to send again.
    pub retry_at: Time,
    /// Sent so often.
    pub tries: u8,
}

/// What a reset to one side says.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// The least that it may expect next: what it has acknowledged.
    pub acked: Seq,
    /// The most: behind everything that was sent to it.
    pub next: Seq,
    /// What is acknowledged to it, if anything is.
    pub ack: Option<Seq>,
}

/// A flow that we have ended ourselves.
#[derive(Debug)]
pub struct Cut {
    /// By side: what it is told; none when it is not there, or is known to be gone.
    pub told: [Option<Told>; 2],
    /// The next hop of the backend, if one was dialled.
    pub hop: Option<NextHop>,
    /// Said again so often.
    pub times: u8,
    /// When it was cut.
    pub since: Time,
    /// When to say it again.
    pub retry_at: Time,
}

/// A client that has waited in vain is told so: by an alert, and our FIN behind it.
#[derive(Debug)]
pub struct Farewell {
    /// The client's number that is expected next.
    pub next: Seq,
    /// The client has acknowledged our FIN.
    pub heard: bool,
    /// The client has closed, too.
    pub closed: bool,
    /// Said so often.
    pub tries: u8,
    /// When it began.
    pub since: Time,
    /// When to say it again, or to end it.
    pub retry_at: Time,
}

/// A handshake that holds units of its backend's limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handshake {
    /// When the backend answered the dial.
    pub since: Time,
    /// Behind what the backend was given then.
    pub given: Seq,
    /// When the server's answer began.
    pub answered: Option<Time>,
}

/// Where a connection stands.
#[derive(Debug)]
pub enum State {
    /// The cookie came back; both sides are not connected yet.
    Opening(Opening),
    /// Both directions are forwarded. With what is still ours, if anything.
    Spliced(Option<Unacked>),
    /// Both directions are closed and acknowledged; kept so that a last segment sent again finds its way, and the
    /// port is not reused at once.
    TimeWait {
        /// Until then.
        until: Time,
    },
    /// A reset went through. Kept for a moment: if it was forged, its supposed sender goes on, and so does the flow.
    Reset {
        /// Whose reset.
        by: Side,
        /// Until then.
        until: Time,
    },
    /// We have reset both sides. Kept for a moment: who has not heard is told again.
    Cut(Cut),
    /// There was no backend for it in time, and its client is told in words.
    Farewell(Farewell),
}

/// The operators' words for states, in the order in which a connection goes through them.
pub const STATES: [&str; 8] = ["await-hello", "queued", "dialing", SPLICED, "time-wait", "reset", "cut", "farewell"];

/// That of [`State::Spliced`].
pub const SPLICED: &str = "spliced";

impl State {
    /// The operators' word for it, one of [`STATES`].
    pub fn word(&self) -> &'static str {
        match self {
            State::Opening(Opening { stage: Stage::AwaitHello(_), .. }) => "await-hello",
            State::Opening(Opening { stage: Stage::Queued(_), .. }) => "queued",
            State::Opening(Opening { stage: Stage::Dialing(_), .. }) => "dialing",
            State::Spliced(_) => SPLICED,
            State::TimeWait { .. } => "time-wait",
            State::Reset { .. } => "reset",
            State::Cut(_) => "cut",
            State::Farewell(_) => "farewell",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What we and the client agreed on in the handshake.
#[derive(Clone, Copy, Debug)]
pub struct Agreed {
    /// Largest segment the client takes, rounded down to a class.
    pub mss: u16,
    /// The client's window scale; ours is a constant.
    pub wscale: Option<u8>,
    /// Selective acknowledgements.
    pub sack: bool,
    /// Explicit congestion notification.
    pub ecn: bool,
    /// Timestamps.
    pub timestamps: bool,
}

/// Whom a silent flow's probes have reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// Probes sent since the flow was last heard.
    pub(super) times: u8,
    /// By side: heard since the first of them.
    pub(super) heard: [bool; 2],
}

impl Asked {
    /// Probes are under way.
    pub fn any(&self) -> bool {
        self.times > 0
    }
}

/// What its backend is told of the client by a PROXY header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proxy {
    /// Nothing.
    No,
    /// By a header of ours.
    Ours,
    /// By the header that was accepted, as it came; where none was, by one of ours.
    AsAccepted,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Where it stands.
    pub state: State,
    /// Agreed with the client.
    pub agreed: Agreed,
    /// The client's initial sequence number; with a PROXY header that was accepted, the number of the header's last byte.
    pub isn: Seq,
    /// Bytes of such a header.
    pub accepted: u16,
    /// Ours: the cookie.
    pub cookie: Seq,
    /// The client's latest window before the splice, bytes.
    pub client_window: u32,
    /// Of a SYN that came since on the same addresses and ports, and was answered: its client may have begun anew.
    pub renewed: Option<Seq>,
    /// The initial numbers of the connections on these addresses and ports whose place this one took, the latest first.
    pub former: [Option<Seq>; 2],
    /// By [`Side`]: what is seldom known of what it sends.
    pub odd: [Oddities; 2],
    /// Whether its ends were asked since they were last heard.
    pub asked: Asked,
    /// What the server's first flight is read into, while it is.
    pub flight: Option<FlightId>,
    /// The same of requests and responses of plain HTTP/1.
    pub http: Option<WatchId>,
    /// Its handshake holds units of its backend's limit.
    pub handshake: Option<Handshake>,
    /// Whether a hello may still come, after the backend was chosen.
    pub late: Late,
    /// Its backend is told the client's address by a PROXY header.
    pub proxy: Proxy,
    /// What will be told.
    pub record: Record,
}

impl Connection {
    /// What the next segment must not overlook.
    pub fn marks(&self) -> Marks {
        let if_set = |mark: Marks, set: bool| if set { mark.0 } else { 0 };
        let stands = match self.state {
            State::Spliced(None) => Marks::OPEN.0,
            State::Spliced(Some(_)) => Marks::OPEN.0 | Marks::UNACKED.0,
            _ => 0,
        };
        let spliced = matches!(self.state, State::Spliced(_));
        Marks(
            stands
                | if_set(Marks::MUTE, spliced && self.record.times.first_byte().is_none())
                | if_set(Marks::FLIGHT, self.flight.is_some() || self.http.is_some())
                | if_set(Marks::HANDSHAKE, self.handshake.is_some())
                | if_set(Marks::LATE, self.late != Late::No)
                | if_set(Marks::RENEWED, self.renewed.is_some())
                | if_set(Marks::ASKED, self.asked.any())
                | if_set(Marks::ODD, self.odd[0].any() | self.odd[1].any()),
        )
    }

    /// The number with which the client's handshake began.
    pub fn began_at(&self) -> Seq {
        self.isn - u32::from(self.accepted)
    }

    /// The next hop of the backend that is dialled, or was.
    pub fn hop(&self, hot: &Hot) -> Option<NextHop> {
        match (&hot.through, &self.state) {
            (Some(through), _) => Some(through.hop),
            (None, State::Opening(Opening { stage: Stage::Dialing(dialing), .. })) => Some(dialing.hop),
            (None, State::Cut(cut)) => cut.hop,
            _ => None,
        }
    }

    /// It, while it is not spliced.
    pub fn opening(&mut self) -> Option<&mut Opening> {
        match &mut self.state {
            State::Opening(opening) => Some(opening),
            _ => None,
        }
    }

    /// Its place in a line, while it waits.
    pub fn queued(&mut self) -> Option<&mut Queued> {
        match &mut self.state {
            State::Opening(Opening { stage: Stage::Queued(queued), .. }) => Some(queued),
            _ => None,
        }
    }

    /// The dial under way.
    pub fn dialing(&mut self) -> Option<&mut Dialing> {
        match &mut self.state {
            State::Opening(Opening { stage: Stage::Dialing(dialing), .. }) => Some(dialing),
            _ => None,
        }
    }

    /// The stream that it holds in a buffer, if it may hold one.
    pub fn stream(&mut self) -> Option<&mut Assembler> {
        match &mut self.state {
            State::Opening(opening) => Some(&mut opening.held.stream),
            State::Spliced(Some(unacked)) => Some(&mut unacked.stream),
            _ => None,
        }
    }

    /// The timestamps option of a segment of ours to the client, if the client uses them.
    pub fn clock_for_client(&self, hot: &Hot) -> Options {
        let [client, ours] = hot.clocks;
        timestamps(self.agreed.timestamps.then_some(Timestamps { val: ours, ecr: client }))
    }

    /// A window in bytes, as the field of a segment to the client must say it.
    pub fn window_for_client(&self, bytes: usize) -> u16 {
        let shift = if self.agreed.wscale.is_some() { OUR_WSCALE } else { 0 };
        u16::try_from(bytes >> shift).unwrap_or(u16::MAX)
    }
}
