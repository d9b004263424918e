//! How a connection's streams begin: whether with TLS, and who of the two is the client when that was not recorded.

use super::reassembly::{Connection, Turn, Way};
use ssl_parse::{Event, Follower, Outcome, Side};

/// Longest hello read whole, bytes. Longer ones are passed over.
const FOLLOWED: usize = 32 * 1024;

/// Bytes that tell a hello from anything else: a record header, and the type of the message in it.
const TELLING: u64 = 6;

/// How the client's stream began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Began {
    /// It has said nothing yet, or too little to tell.
    Unknown,
    /// With a hello, readable or not.
    Tls,
    /// With something else.
    NotTls,
    /// With something that was not recorded.
    Missed,
}

/// Both directions of a connection, each followed as long as there is something to learn.
pub struct Dialogue {
    directions: [Direction; 2],
    began: Began,
    resumed: Option<bool>,
}

enum Direction {
    /// Nothing has come yet.
    Fresh,
    /// Of a connection that began late: too few bytes to tell who speaks.
    Peeking(Vec<u8>),
    Following(Box<Follower<FOLLOWED>>),
    Over,
}

impl Dialogue {
    /// Before the first byte.
    pub fn new() -> Dialogue {
        Dialogue { directions: [Direction::Fresh, Direction::Fresh], began: Began::Unknown, resumed: None }
    }

    /// How the client's stream began.
    pub fn began(&self) -> Began {
        self.began
    }

    /// What the server's stream showed.
    pub fn resumed(&self) -> Option<bool> {
        self.resumed
    }

    /// More of a direction is of interest.
    pub fn wants(&self, way: Way) -> bool {
        !matches!(self.directions[way.index()], Direction::Over)
    }

    /// Nothing more of a direction is of interest.
    pub fn close(&mut self, way: Way) {
        self.directions[way.index()] = Direction::Over;
    }

    /// The next bytes of a direction. Events go to `sink`.
    pub fn data(
        &mut self,
        connection: &Connection,
        way: Way,
        bytes: &[u8],
        sink: &mut dyn FnMut(Way, &Event<'_>),
    ) -> Turn {
        let roles_known = !connection.began_late
            || self.began == Began::Tls
            || matches!(self.directions[way.reverse().index()], Direction::Following(_));
        match &mut self.directions[way.index()] {
            Direction::Over => Turn::Keep,
            Direction::Following(_) => {
                self.follow(way, bytes, sink);
                Turn::Keep
            }
            Direction::Fresh if roles_known => {
                self.start(way);
                self.follow(way, bytes, sink);
                Turn::Keep
            }
            direction => {
                let mut head = match std::mem::replace(direction, Direction::Over) {
                    Direction::Peeking(head) => head,
                    _ => Vec::new(),
                };
                head.extend_from_slice(bytes);
                if (head.len() as u64) < TELLING {
                    self.directions[way.index()] = Direction::Peeking(head);
                    return Turn::Keep;
                }
                self.recognise(way, &head, sink)
            }
        }
    }

    /// The first bytes recorded of a direction, when nobody knows whose they are: only hellos tell.
    fn recognise(&mut self, way: Way, head: &[u8], sink: &mut dyn FnMut(Way, &Event<'_>)) -> Turn {
        // A ChangeCipherSpec or an alert, which may stand before a client's hello, tells nothing here: either side sends them later.
        let later = head.first().is_some_and(|kind| (20..=21).contains(kind));
        let speaker = if !later && !matches!(ssl_parse::client_hello(head, &mut []), Outcome::NotTls) {
            Way::ToServer
        } else if !later && !matches!(ssl_parse::server_hello(head, &mut []), Outcome::NotTls) {
            self.began = Began::Missed;
            Way::ToClient
        } else {
            return Turn::Keep;
        };
        let turn = if speaker == way {
            Turn::Keep
        } else {
            self.directions.swap(0, 1);
            Turn::Around
        };
        self.start(speaker);
        self.follow(speaker, head, sink);
        turn
    }

    /// Bytes are missing: what follows cannot be read.
    pub fn gap(&mut self, way: Way) {
        if way == Way::ToServer && self.began == Began::Unknown {
            self.began = Began::Missed;
        }
        self.close(way);
    }

    /// The connection has ended: what is not known now will not be.
    pub fn ended(&mut self, connection: &Connection) {
        if self.began == Began::Unknown && matches!(self.directions[0], Direction::Following(_)) {
            // Right as far as it goes. Is it enough to be sure that it is meant to be a hello?
            let telling = connection.bytes[Way::ToServer.index()] >= TELLING;
            self.began = if telling { Began::Tls } else { Began::NotTls };
        }
        self.directions = [Direction::Over, Direction::Over];
    }

    fn start(&mut self, way: Way) {
        let side = if way == Way::ToServer { Side::Client } else { Side::Server };
        self.directions[way.index()] = Direction::Following(Box::new(Follower::new(side)));
    }

    fn follow(&mut self, way: Way, mut bytes: &[u8], sink: &mut dyn FnMut(Way, &Event<'_>)) {
        let Direction::Following(follower) = &mut self.directions[way.index()] else { return };
        while let Some(event) = follower.next_event(&mut bytes) {
            let passed_over = matches!(event, Event::Alert { .. } | Event::ChangeCipherSpec);
            if way == Way::ToServer && self.began == Began::Unknown && !passed_over {
                // Whatever comes first tells: only a hello gets past the follower's first look.
                self.began = if event == Event::NotTls { Began::NotTls } else { Began::Tls };
            }
            sink(way, &event);
        }
        if way == Way::ToClient {
            self.resumed = follower.resumed();
        }
        if follower.is_done() {
            self.close(way);
        }
    }
}

impl Default for Dialogue {
    fn default() -> Dialogue {
        Dialogue::new()
    }
}
