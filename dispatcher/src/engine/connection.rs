//! One connection through the dispatcher, in each of its states exactly what that state knows.
//!
//! There is no state before the cookie: a SYN leaves nothing behind.

use super::PortId;
use super::keepalive::Asked;
use super::late::Late;
use super::neighbours::NextHop;
use super::record::Class;
use super::watches::WatchId;
use crate::flow::{Assembler, Direction, Side, Splice};
use crate::time::Time;
use crate::wire::Seq;
use crate::wire::build::Link;
use arrayvec::ArrayVec;
use core::fmt;
use lb::{BackendId, Key, PoolId, ServiceId};
use ssl_parse::HelloWalk;

/// Backends tried for one connection at most.
pub const MAX_ATTEMPTS: usize = 8;

/// No router has said that a path is narrow.
pub const NO_LIMIT: u16 = u16::MAX;

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

/// A client whose hello is not complete.
#[derive(Debug)]
pub struct Waiting {
    /// Its stream.
    pub held: Held,
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
    /// How far the hello has been followed.
    pub walk: HelloWalk,
}

/// A backend is being dialled.
#[derive(Debug)]
pub struct Dialing {
    /// The client's stream.
    pub held: Held,
    /// Bytes of the PROXY header in front of it.
    pub header: u8,
    /// SYNs sent to this backend, from the present port.
    pub syns: u8,
    /// How often it said that it still holds an older connection from our port.
    pub challenges: u8,
    /// When this backend was chosen.
    pub since: Time,
    /// When to send the next, or to give this backend up.
    pub retry_at: Time,
    /// Backends tried, this one last.
    pub tried: ArrayVec<BackendId, MAX_ATTEMPTS>,
}

/// Bytes that are ours to deliver to the backend: the PROXY header, and what we acknowledged to the client.
#[derive(Debug)]
pub struct Ours {
    /// Where they are kept.
    pub stream: Assembler,
    /// Bytes of the PROXY header in front.
    pub header: u8,
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
    /// Said again so often.
    pub times: u8,
    /// When it was cut.
    pub since: Time,
    /// When to say it again.
    pub retry_at: Time,
}

/// Where a connection stands.
#[derive(Debug)]
pub enum State {
    /// The cookie came back; the hello has not.
    AwaitHello(Waiting),
    /// A backend is chosen and has been sent a SYN.
    Dialing(Dialing),
    /// Both directions are forwarded. With what is still ours, if anything.
    Spliced(Option<Ours>),
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
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::AwaitHello(_) => "await-hello",
            State::Dialing(_) => "dialing",
            State::Spliced(_) => "spliced",
            State::TimeWait { .. } => "time-wait",
            State::Reset { .. } => "reset",
            State::Cut(_) => "cut",
        })
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

/// What is told about a connection when it ends.
#[derive(Debug)]
pub struct Story {
    /// Running number.
    pub number: u64,
    /// What the client connected to.
    pub service: ServiceId,
    /// The pool that its hello was routed to; the service's own, as long as there is none.
    pub pool: PoolId,
    /// None while unknown.
    pub class: Option<Class>,
    /// Where it went.
    pub backend: Option<BackendId>,
    /// Whom the table named.
    pub decided: Option<BackendId>,
    /// Why.
    pub reason: &'static str,
    /// By which row.
    pub key: Option<Key>,
    /// What was offered, as bits by `IdentityKind`.
    pub offered: ArrayVec<&'static str, 3>,
    /// A session ID decided.
    pub id_decided: bool,
    /// Version the server chose.
    pub version: Option<u16>,
    /// What the server's answer showed.
    pub resumed: Option<bool>,
    /// Server name, kept only when somebody will be told.
    pub sni: Option<Box<str>>,
    /// Backends dialled.
    pub attempts: u32,
    /// It has been told.
    pub told: bool,
}

impl Story {
    /// Of connection `number`.
    pub fn new(number: u64, service: ServiceId, pool: PoolId) -> Story {
        Story {
            number,
            service,
            pool,
            class: None,
            backend: None,
            decided: None,
            reason: "balanced",
            key: None,
            offered: ArrayVec::new(),
            id_decided: false,
            version: None,
            resumed: None,
            sni: None,
            attempts: 0,
            told: false,
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Where it stands.
    pub state: State,
    /// The translation; of meaning once spliced.
    pub splice: Splice,
    /// What each side has sent, in the client's view; by [`Side`].
    pub directions: [Direction; 2],
    /// Where the client's frames come from and go to.
    pub client_port: PortId,
    /// With this link layer.
    pub client_link: Link,
    /// The backend's next hop; of meaning once dialled.
    pub hop: NextHop,
    /// When a frame that could be meant seriously was last seen.
    pub last_seen: Time,
    /// Whether its ends were asked since.
    pub asked: Asked,
    /// Agreed with the client.
    pub agreed: Agreed,
    /// The client's initial sequence number.
    pub isn: Seq,
    /// Of a SYN that came since on the same tuple, and was answered: its client may have begun anew.
    pub renewed: Option<Seq>,
    /// The initial numbers of the connections on this tuple whose place this one took, the latest first.
    pub former: [Option<Seq>; 2],
    /// Ours: the cookie.
    pub cookie: Seq,
    /// The client's latest clock value.
    pub client_clock: u32,
    /// The clock value of ours that the client echoes; behind the splice, the backend's latest as the client sees it.
    pub our_clock: u32,
    /// The client's latest window, bytes.
    pub client_window: u32,
    /// By the [`Side`] that sends: the longest IP packet that its segments may be in on the way to the other side. Nothing but
    /// an error from the path makes it less than [`NO_LIMIT`].
    pub path: [u16; 2],
    /// What the server's answer is read into, while it is.
    pub watch: Option<WatchId>,
    /// Whether a hello may still come, after the backend was chosen.
    pub late: Late,
    /// Its backend is told the client's address by a PROXY header.
    pub proxy_protocol: bool,
    /// What will be told.
    pub story: Story,
}
